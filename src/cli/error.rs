//! How a command fails: each kind has its exit code (FORMATS.md).

use std::fmt;
use std::io;
use std::process::ExitCode;

use atlas_dataplane::types::Code;

/// Done.
pub const EXIT_DONE: u8 = 0;
/// Failed: a file, the network, the host.
pub const EXIT_FAILED: u8 = 1;
/// What was typed, or a file that it names, is not right; clap uses the same number.
pub const EXIT_USAGE: u8 = 2;
/// The cluster decided, and decided against it.
pub const EXIT_REFUSED: u8 = 3;
/// Too few replicas answered alike in time: whether a change was carried out is not known.
pub const EXIT_NO_QUORUM: u8 = 4;
/// A proof does not hold.
pub const EXIT_PROOF: u8 = 5;
/// `atlas host check` found something that suffers.
pub const EXIT_HOST_WARNING: u8 = 10;
/// `atlas host check` found that Atlas does not run here, or that what it promises does not hold.
pub const EXIT_HOST_CRITICAL: u8 = 11;

/// Why a command did not do what was asked. The text says what, where, and what to do.
#[derive(Debug)]
pub enum CliError {
    /// See [`EXIT_FAILED`].
    Failed(String),
    /// See [`EXIT_USAGE`].
    Usage(String),
    /// See [`EXIT_REFUSED`].
    Refused {
        /// The outcome's code.
        code: Code,
        /// What the application says about it; may be empty.
        detail: String,
    },
    /// A replica does not do what its control socket was asked for; see [`EXIT_REFUSED`].
    Declined(String),
    /// See [`EXIT_NO_QUORUM`].
    NoQuorum(String),
    /// See [`EXIT_PROOF`].
    Proof(String),
    /// See [`EXIT_HOST_WARNING`] and [`EXIT_HOST_CRITICAL`].
    Host {
        /// Whether anything found is critical.
        critical: bool,
        /// How many findings of each severity.
        text: String,
    },
    /// Whoever read the output has gone; there is nobody to tell.
    OutputClosed,
}

impl CliError {
    /// A failure with what was being done.
    pub fn failed(doing: impl fmt::Display, error: impl fmt::Display) -> Self {
        Self::Failed(format!("{doing}: {error}"))
    }

    /// The exit code.
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Failed(_) => EXIT_FAILED,
            Self::Usage(_) => EXIT_USAGE,
            Self::Refused { .. } | Self::Declined(_) => EXIT_REFUSED,
            Self::NoQuorum(_) => EXIT_NO_QUORUM,
            Self::Proof(_) => EXIT_PROOF,
            Self::Host { critical: false, .. } => EXIT_HOST_WARNING,
            Self::Host { critical: true, .. } => EXIT_HOST_CRITICAL,
            Self::OutputClosed => EXIT_DONE,
        })
    }
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(text) | Self::Usage(text) | Self::Declined(text) => f.write_str(text),
            Self::Refused { code, detail } if detail.is_empty() => write!(f, "refused: {code}"),
            Self::Refused { code, detail } => write!(f, "refused: {code}: {detail}"),
            Self::NoQuorum(text) => write!(f, "no quorum: {text}"),
            Self::Proof(text) => write!(f, "does not hold: {text}"),
            Self::Host { text, .. } => write!(f, "this host wants attention: {text}"),
            Self::OutputClosed => f.write_str("the output was closed"),
        }
    }
}

impl std::error::Error for CliError {}

impl From<super::parse::ParseError> for CliError {
    fn from(error: super::parse::ParseError) -> Self {
        Self::Usage(error.to_string())
    }
}

impl From<io::Error> for CliError {
    /// For writing to the standard output, which is all that commands write themselves.
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::OutputClosed,
            _ => Self::failed("cannot write the output", error),
        }
    }
}
