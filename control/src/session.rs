//! One connection: lines in, answers out, within its limits.

use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

use futures_lite::{AsyncReadExt as _, AsyncWriteExt as _};
use glommio::net::TcpStream;
use glommio::timer::sleep;

use crate::accept::{Permit, Visitor};
use crate::commands;
use crate::desk::{Bucket, Desk, Share};
use crate::limits::{IDLE, LINES_PER_SECOND, MAX_COMMANDS, MAX_LINE, WRITE};
use crate::protocol::{Level, PROTOCOL};
use crate::reply::{Reply, Status};

/// Lines that are no text before a client is cut off.
const MAX_RUBBISH: u32 = 8;

/// Who is at the other end, and how it wants its answers.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) level: Level,
    pub(crate) uid: u32,
    pub(crate) pid: i32,
    pub(crate) json: bool,
    pub(crate) prompt: bool,
    pub(crate) expert: bool,
    pub(crate) ends: bool,
    rubbish: u32,
}

impl Session {
    pub(crate) fn new(level: Level, uid: u32, pid: i32) -> Self {
        Self { level, uid, pid, json: false, prompt: false, expert: false, ends: false, rubbish: 0 }
    }

    /// Who made a change, for the log.
    pub(crate) fn who(&self) -> String {
        format!("{} (uid {}, pid {})", self.level, self.uid, self.pid)
    }
}

/// Serves a connection to its end.
pub(crate) async fn serve(desk: Rc<Desk>, visitor: Visitor) {
    let Visitor { stream, level, uid, pid, permit } = visitor;
    let work = converse(&desk, stream, Session::new(level, uid, pid), &permit);
    // Errors end the connection; there is nobody to tell.
    let _ = desk.metered(Share::Level(level), work).await;
}

async fn converse(
    desk: &Rc<Desk>,
    stream: std::os::unix::net::UnixStream,
    mut session: Session,
    _permit: &Permit,
) -> io::Result<()> {
    // glommio's stream for what another thread accepted; nothing of it is particular to TCP.
    let mut stream = TcpStream::from(socket2::Socket::from(stream));
    stream.set_read_timeout(Some(IDLE))?;
    stream.set_write_timeout(Some(WRITE))?;
    stream.write_all(greeting(desk, session.level).as_bytes()).await?;
    let mut lines = Bucket::new(LINES_PER_SECOND);
    let (mut pending, mut chunk) = (Vec::with_capacity(MAX_LINE), [0; 1_024]);
    loop {
        desk.admit(Share::Level(session.level)).await;
        let read = stream.read(&mut chunk).await?;
        if read == 0 {
            return Ok(());
        }
        pending.extend_from_slice(&chunk[..read]);
        while let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = pending.drain(..=end).collect();
            answer_line(desk, &mut session, &line[..end], &mut lines, &mut stream).await?;
            if session.ends {
                return stream.close().await;
            }
        }
        if pending.len() >= MAX_LINE {
            let reply = Reply::new(Status::TOO_LONG, format!("a line has at most {MAX_LINE} bytes"));
            stream.write_all(reply.encode(session.json).as_bytes()).await?;
            return stream.close().await;
        }
    }
}

fn greeting(desk: &Desk, level: Level) -> String {
    let (version, replica, pid) = (env!("CARGO_PKG_VERSION"), desk.facts.config.replica, std::process::id());
    format!("atlas {version} replica {replica} pid {pid} level {level} protocol {PROTOCOL}\n")
}

/// Answers each command before the next is looked at, so that who is gone or does not read is noticed.
async fn answer_line(
    desk: &Rc<Desk>,
    session: &mut Session,
    line: &[u8],
    lines: &mut Bucket,
    stream: &mut TcpStream,
) -> io::Result<()> {
    match read_line(line) {
        Ok(commands) => {
            for command in commands {
                pause(desk, session.level, lines).await;
                let reply = commands::run(desk, session, command).await;
                stream.write_all(reply.encode(session.json).as_bytes()).await?;
                if session.ends {
                    return Ok(());
                }
            }
        }
        Err(reply) => {
            session.rubbish += u32::from(reply.status == Status::MALFORMED);
            session.ends = session.rubbish >= MAX_RUBBISH;
            stream.write_all(reply.encode(session.json).as_bytes()).await?;
        }
    }
    if session.prompt {
        let prompt = format!("replica-{} {}> ", desk.facts.config.replica, session.level);
        stream.write_all(prompt.as_bytes()).await?;
    }
    Ok(())
}

/// Waits until the connection may have another command.
async fn pause(desk: &Desk, level: Level, lines: &mut Bucket) {
    while let Err(wait) = lines.take(Instant::now()) {
        sleep(wait.max(Duration::from_millis(1))).await;
    }
    desk.admit(Share::Level(level)).await;
}

/// The commands of a line.
fn read_line(line: &[u8]) -> Result<Vec<&str>, Reply> {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if line.len() >= MAX_LINE {
        return Err(Reply::new(Status::TOO_LONG, format!("a line has at most {MAX_LINE} bytes")));
    }
    let text = std::str::from_utf8(line).ok().filter(|text| !text.chars().any(|c| c.is_control() && c != '\t'));
    let Some(text) = text else {
        return Err(Reply::new(Status::MALFORMED, "not a line of text in UTF-8 without control characters"));
    };
    let commands: Vec<&str> = text.split(';').map(str::trim).filter(|command| !command.is_empty()).collect();
    match commands.len() <= MAX_COMMANDS {
        true => Ok(commands),
        false => Err(Reply::new(Status::ARGUMENT, format!("a line has at most {MAX_COMMANDS} commands"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_commands_or_says_what_is_wrong() {
        assert_eq!(read_line(b" status ; view;; help set\r").unwrap(), ["status", "view", "help set"]);
        assert!(read_line(b"").unwrap().is_empty());
        let status = |line: &[u8]| read_line(line).unwrap_err().status;
        assert_eq!(status(&[0xff, 0xfe]), Status::MALFORMED);
        assert_eq!(status(b"sta\0tus"), Status::MALFORMED);
        assert_eq!(status(b"\x1b[2J"), Status::MALFORMED);
        assert_eq!(status("a;".repeat(MAX_COMMANDS + 1).as_bytes()), Status::ARGUMENT);
        assert_eq!(status(&[b'a'; MAX_LINE]), Status::TOO_LONG);
    }
}
