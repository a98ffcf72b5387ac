//! Errors of configuration files, each at its line.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

use super::policy::OriginError;
use super::roles::PatternError;
use super::size::{MAX_REPLICAS, MIN_REPLICAS};
use crate::crypto::keys::KeyError;
use crate::crypto::verify::WeakKey;
use crate::types::{PublicKey, PublicKeyError};
use crate::wire::limits::MAX_ENTRY;

/// Longest name of a replica, role or client, in bytes.
pub const MAX_NAME: usize = 64;

/// Why a configuration cannot be used. All are for the operator to mend.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {}: {source}", file.display())]
    Read {
        /// The configuration file.
        file: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is longer than any such file.
    #[error("{} has more than {max} bytes; is it the right file?", file.display())]
    TooLong {
        /// The configuration file.
        file: PathBuf,
        /// The limit in bytes.
        max: usize,
    },
    /// Something in the file.
    #[error("{}:{line}: {key}: {problem}", file.display())]
    At {
        /// The configuration file.
        file: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The key, with its table, such as `settings.window`.
        key: String,
        /// What is wrong and what would be right.
        problem: Problem,
    },
    /// A private key cannot be had.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A private key is not the one whose public half the cluster file names.
    #[error("{} is the private key of {found}, but the cluster file names {expected} for this replica; \
        the key files and the cluster file come from different clusters or replicas", path.display())]
    OtherKey {
        /// The key file.
        path: PathBuf,
        /// The key in the cluster file.
        expected: PublicKey,
        /// The public half of the key in the file.
        found: PublicKey,
    },
}

/// What is wrong with a key of a configuration file.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Problem {
    /// The file is not UTF-8.
    #[error("not UTF-8 text")]
    NotText,
    /// The TOML does not parse, or a key is unknown, missing or of another type; in the parser's words.
    #[error("{0}")]
    Toml(String),
    /// A number is not one, or not within its bounds.
    #[error("{found} does not fit: a whole number from {min} to {max} ({unit})")]
    Number {
        /// What stands there.
        found: String,
        /// Its unit.
        unit: &'static str,
        /// Smallest permitted.
        min: u64,
        /// Largest permitted.
        max: u64,
    },
    /// A number is larger than another permits.
    #[error("{found} is more than {other} = {limit}; it is at most that")]
    MoreThan {
        /// What stands there.
        found: u64,
        /// The other key.
        other: &'static str,
        /// Its value.
        limit: u64,
    },
    /// Two numbers that must be the same are not.
    #[error("{found} is not {other} = {value}; they must be the same")]
    NotSame {
        /// What stands there.
        found: u64,
        /// The other key.
        other: &'static str,
        /// Its value.
        value: u64,
    },
    /// The origin breaks the rules for key names.
    #[error(transparent)]
    Origin(#[from] OriginError),
    /// The time has no offset from UTC or is out of range.
    #[error("a point in time such as 2026-01-31T12:00:00Z")]
    Time,
    /// No list of cores.
    #[error("{0:?} does not fit: cores are listed as numbers and ranges up to 1023, such as \"0-3,8\"")]
    Cores(String),
    /// Two threads on a core.
    #[error("core {core} is the data path's: name others, or another as core")]
    CoreTaken {
        /// The core.
        core: usize,
    },
    /// Cold storage is where the data is.
    #[error(
        "cold = {0:?} does not fit: a directory of its own, outside the replica's data, such as \"/archive/atlas\""
    )]
    Cold(PathBuf),
    /// A name breaks the rules for names.
    #[error("{0:?} is no name: 1 to {MAX_NAME} of a-z A-Z 0-9 . _ -")]
    Name(String),
    /// The same name, address or key twice.
    #[error("the same {what} as in line {first}; each is used once")]
    Repeated {
        /// What is repeated.
        what: &'static str,
        /// Line of the first.
        first: usize,
    },
    /// Not an address.
    #[error("{0:?} is no address: HOST:PORT, such as 10.0.0.7:7450, replica-0.example:7450 or [::1]:7450")]
    Address(String),
    /// Not an address to listen on.
    #[error("{0:?} is no address to listen on: ADDRESS:PORT in numbers, such as 127.0.0.1:9464 or [::1]:9464")]
    ListenAddress(String),
    /// Not one of the words that may stand there.
    #[error("{found:?} is none of {words}")]
    Word {
        /// What stands there.
        found: String,
        /// What may.
        words: &'static str,
    },
    /// Not a public key.
    #[error(transparent)]
    PublicKey(#[from] PublicKeyError),
    /// A public key that nobody or everybody can sign for.
    #[error(transparent)]
    WeakKey(#[from] WeakKey),
    /// Not a pattern.
    #[error(transparent)]
    Pattern(#[from] PatternError),
    /// A client's role is not in the file.
    #[error("there is no role {0:?}; the file's roles are {1}")]
    UnknownRole(String, String),
    /// An address for a replica that does not exist.
    #[error("there is no replica {0:?} in the cluster file; its replicas are {1}")]
    UnknownReplica(String, String),
    /// Too few or too many replicas.
    #[error("{0} replicas; a cluster has {MIN_REPLICAS} to {MAX_REPLICAS}")]
    Replicas(usize),
    /// Entry 0 of the history would be larger than an entry may be.
    #[error(
        "{clients} clients make a genesis entry of {bytes} bytes, it has at most {MAX_ENTRY}; \
        register fewer clients, or shorten their names and roles"
    )]
    TooLarge {
        /// How many clients there are.
        clients: usize,
        /// What the entry takes.
        bytes: usize,
    },
    /// More of something than permitted.
    #[error("{found} {what}; at most {max}")]
    TooMany {
        /// What there is too much of.
        what: &'static str,
        /// How many there are.
        found: usize,
        /// How many there may be.
        max: usize,
    },
}

/// A configuration file's text, to find lines in.
pub(super) struct Source<'a> {
    pub(super) file: &'a Path,
    pub(super) text: &'a str,
}

impl<'a> Source<'a> {
    pub(super) fn new(file: &'a Path, bytes: &'a [u8]) -> Result<Self, ConfigError> {
        match str::from_utf8(bytes) {
            Ok(text) => Ok(Self { file, text }),
            Err(error) => {
                let line = line_of(bytes, error.valid_up_to());
                let (key, problem) = ("file".to_owned(), Problem::NotText);
                Err(ConfigError::At { file: file.to_owned(), line, key, problem })
            }
        }
    }

    /// The error at a byte offset.
    pub(super) fn error(&self, offset: usize, key: impl Into<String>, problem: impl Into<Problem>) -> ConfigError {
        let (line, key, problem) = (self.line(offset), key.into(), problem.into());
        ConfigError::At { file: self.file.to_owned(), line, key, problem }
    }

    pub(super) fn line(&self, offset: usize) -> usize {
        line_of(self.text.as_bytes(), offset)
    }

    /// Reads the TOML into a raw form whose unknown keys are errors.
    pub(super) fn parse<T: DeserializeOwned>(&self) -> Result<T, ConfigError> {
        toml::from_str(self.text).map_err(|error| {
            let offset = error.span().map_or(0, |span| span.start);
            let message = error.message().replace('\n', ", ");
            self.error(offset, self.key_at(offset, &message), Problem::Toml(message))
        })
    }

    /// The key that the parser complains about: the one it names, else the one on the line.
    fn key_at(&self, offset: usize, message: &str) -> String {
        if let Some(named) = message.split("field `").nth(1).and_then(|rest| rest.split('`').next()) {
            return named.to_owned();
        }
        let line = self.text.lines().nth(self.line(offset) - 1).unwrap_or("");
        line.split('=').next().unwrap_or("").trim().chars().take(MAX_NAME).collect()
    }
}

fn line_of(bytes: &[u8], offset: usize) -> usize {
    1 + bytes[..offset.min(bytes.len())].iter().filter(|byte| **byte == b'\n').count()
}

/// Reads a file of at most `max` bytes.
pub(super) fn read_bounded(file: &Path, max: usize) -> Result<Vec<u8>, ConfigError> {
    let unreadable = |source| ConfigError::Read { file: file.to_owned(), source };
    let mut bytes = Vec::new();
    let opened = File::open(file).map_err(unreadable)?;
    opened.take(max as u64 + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() > max {
        return Err(ConfigError::TooLong { file: file.to_owned(), max });
    }
    Ok(bytes)
}
