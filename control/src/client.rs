//! A client of the control sockets: what `atlas ctl` and tests speak the protocol with.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::limits::MAX_ANSWER;
use crate::protocol::{END, PROTOCOL};

/// Longest line of an answer that is read, bytes.
const MAX_REPLY_LINE: u64 = 2 * MAX_ANSWER as u64;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No connection.
    #[error("cannot connect to {}: {source}; is the replica running, and may this user use the socket?", path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The connection broke.
    #[error("the connection to the replica broke: {0}")]
    Broken(#[from] io::Error),
    /// The replica turned it away.
    #[error("the replica says: {0}")]
    TurnedAway(String),
    /// What answers is no replica of this version.
    #[error("what answers there speaks another protocol: {0:?}")]
    Protocol(String),
}

/// An answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClientReply {
    /// Its code.
    pub code: u16,
    /// The rest of its first line.
    pub text: String,
    /// Its other lines.
    pub lines: Vec<String>,
}

impl ClientReply {
    /// Whether it was done.
    pub fn is_success(&self) -> bool {
        self.code < 300
    }
}

/// A connection to a control socket.
#[derive(Debug)]
pub struct Client {
    stream: BufReader<UnixStream>,
    greeting: String,
}

impl Client {
    /// Connects; each answer must come within `timeout`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn connect(path: &Path, timeout: Duration) -> Result<Self, ClientError> {
        let stream = connect(path).map_err(|source| ClientError::Connect { path: path.to_owned(), source })?;
        stream.set_read_timeout(Some(timeout))?;
        stream.set_write_timeout(Some(timeout))?;
        let mut client = Self { stream: BufReader::new(stream), greeting: String::new() };
        client.greeting = client.line()?;
        if client.greeting.starts_with("429 ") {
            return Err(ClientError::TurnedAway(client.greeting));
        }
        let speaks =
            client.greeting.starts_with("atlas ") && client.greeting.ends_with(&format!(" protocol {PROTOCOL}"));
        if speaks { Ok(client) } else { Err(ClientError::Protocol(client.greeting)) }
    }

    /// What the replica said first.
    pub fn greeting(&self) -> &str {
        &self.greeting
    }

    /// Sends one command and waits for its answer.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn ask(&mut self, command: &str) -> Result<ClientReply, ClientError> {
        self.stream.get_mut().write_all(format!("{}\n", command.replace(['\n', '\r'], " ")).as_bytes())?;
        self.reply()
    }

    /// The next answer.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn reply(&mut self) -> Result<ClientReply, ClientError> {
        let first = self.line()?;
        let (code, text) = first.split_once(' ').unwrap_or((&first, ""));
        let Ok(code) = code.parse() else { return Err(ClientError::Protocol(first)) };
        let (text, mut lines) = (text.to_owned(), Vec::new());
        loop {
            let line = self.line()?;
            if line == END {
                return Ok(ClientReply { code, text, lines });
            }
            lines.push(line.strip_prefix("..").map_or(line.clone(), |rest| format!(".{rest}")));
        }
    }

    fn line(&mut self) -> Result<String, ClientError> {
        let mut line = Vec::new();
        let read = self.stream.by_ref().take(MAX_REPLY_LINE).read_until(b'\n', &mut line)?;
        if read == 0 || line.pop() != Some(b'\n') {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        String::from_utf8(line).map_err(|error| ClientError::Protocol(error.to_string()))
    }
}

/// Connects through the directory's descriptor: a path may be longer than a socket's address.
fn connect(path: &Path) -> io::Result<UnixStream> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let directory = std::fs::File::open(parent)?;
    UnixStream::connect(Path::new(&format!("/proc/self/fd/{}", directory.as_raw_fd())).join(name))
}
