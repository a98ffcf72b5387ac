//! Ed25519 private keys and their files.
//!
//! A key file is text:
//! ```text
//! # public key 3q2+7w...=
//! atlas-ed25519-private-key/1 <base64 of the 32-byte seed>
//! ```
//! It belongs to the user who runs the process and nobody else may read it (mode 0600 or stricter). Lines that begin
//! with `#` are for people, except that a `# public key` line must name the key's public half: a damaged seed would
//! otherwise be a valid key of somebody unknown.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use data_encoding::BASE64;
use ed25519_zebra::{SigningKey, VerificationKeyBytes};
use rand_core::{OsRng, RngCore};
use zeroize::{Zeroize, Zeroizing};

use crate::types::{PublicKey, Signature};

/// Longest key file that is read, in bytes.
pub const MAX_KEY_FILE: usize = 4096;

const FORMAT: &str = "atlas-ed25519-private-key/1";
const PUBLIC_COMMENT: &str = "# public key ";
/// Permission bits of group and others.
const NOT_OWNER: u32 = 0o077;

/// An Ed25519 private key. Wiped from memory when dropped.
pub struct SecretKey {
    key: SigningKey,
    public: PublicKey,
}

impl Drop for SecretKey {
    fn drop(&mut self) {
        self.key.zeroize();
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretKey of {:?}", self.public)
    }
}

impl SecretKey {
    /// A new key from the operating system's random source.
    ///
    /// # Errors
    /// The random source failed.
    pub fn generate() -> Result<Self, KeyError> {
        let mut seed = Zeroizing::new([0; 32]);
        OsRng.try_fill_bytes(&mut *seed).map_err(|_| KeyError::Random)?;
        Ok(Self::from_seed(&seed))
    }

    /// The key that RFC 8032 derives from a seed.
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        let key = SigningKey::from_bytes(seed);
        Self { public: PublicKey(VerificationKeyBytes::from(&key).into()), key }
    }

    /// The public half.
    pub fn public(&self) -> PublicKey {
        self.public
    }

    /// Signs the bytes as they are; the caller has put a context in front ([`super::context`]).
    pub fn sign(&self, message: &[u8]) -> Signature {
        Signature(self.key.sign(message).into())
    }

    /// Reads a key file.
    ///
    /// # Errors
    /// Each names the file and what to do: it cannot be read, is no regular file, belongs to another user, can be read
    /// by others, or does not hold a key.
    pub fn load(path: &Path) -> Result<Self, KeyError> {
        let unreadable = |source| KeyError::Read { path: path.to_owned(), source };
        // Without O_NONBLOCK a pipe in the place of a key would hold the process for ever.
        let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(unreadable)?;
        check_owner_and_mode(&file, path)?;
        let mut text = Zeroizing::new(Vec::with_capacity(MAX_KEY_FILE + 1));
        file.take(MAX_KEY_FILE as u64 + 1).read_to_end(&mut text).map_err(unreadable)?;
        Self::parse(&text).map_err(|fault| KeyError::Content { path: path.to_owned(), fault })
    }

    /// Writes a new key file with mode 0600 and syncs it.
    ///
    /// # Errors
    /// The file exists, which is never overwritten, or cannot be written.
    pub fn store(&self, path: &Path) -> Result<(), KeyError> {
        let failed = |source: io::Error| match source.kind() {
            io::ErrorKind::AlreadyExists => KeyError::Exists { path: path.to_owned() },
            _ => KeyError::Write { path: path.to_owned(), source },
        };
        let seed = Zeroizing::new(BASE64.encode(self.key.as_bytes()));
        let text = Zeroizing::new(format!("{PUBLIC_COMMENT}{}\n{FORMAT} {}\n", self.public, *seed));
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
        file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)
    }

    pub(super) fn parse(text: &[u8]) -> Result<Self, KeyFileFault> {
        if text.len() > MAX_KEY_FILE {
            return Err(KeyFileFault::TooLong);
        }
        let text = str::from_utf8(text).map_err(|_| KeyFileFault::NotText)?;
        let (mut found, mut stated) = (None, None);
        for (number, line) in (1..).zip(text.lines()) {
            if let Some(public) = line.strip_prefix(PUBLIC_COMMENT) {
                stated = Some((number, public.trim()));
            } else if !line.trim().is_empty() && !line.starts_with('#') {
                let key = Self::parse_line(line, number)?;
                if found.replace(key).is_some() {
                    return Err(KeyFileFault::SecondKey { line: number });
                }
            }
        }
        let key = found.ok_or(KeyFileFault::NoKey)?;
        match stated {
            Some((line, public)) if public != key.public.to_string() => Err(KeyFileFault::OtherPublicKey { line }),
            _ => Ok(key),
        }
    }

    fn parse_line(line: &str, number: usize) -> Result<Self, KeyFileFault> {
        let mut words = line.split_ascii_whitespace();
        let (Some(FORMAT), Some(base64), None) = (words.next(), words.next(), words.next()) else {
            return Err(KeyFileFault::NotAKeyLine { line: number });
        };
        let bytes = BASE64.decode(base64.as_bytes()).map_err(|_| KeyFileFault::BadSeed { line: number })?;
        let bytes = Zeroizing::new(bytes);
        let seed = <&[u8; 32]>::try_from(bytes.as_slice()).map_err(|_| KeyFileFault::BadSeed { line: number })?;
        Ok(Self::from_seed(seed))
    }
}

fn check_owner_and_mode(file: &File, path: &Path) -> Result<(), KeyError> {
    let unreadable = |source| KeyError::Read { path: path.to_owned(), source };
    let metadata = file.metadata().map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(KeyError::NotAFile { path: path.to_owned() });
    }
    let mode = metadata.permissions().mode() & 0o777;
    if mode & NOT_OWNER != 0 {
        return Err(KeyError::Mode { path: path.to_owned(), mode });
    }
    // The kernel gives this directory to the effective user of the process.
    let user = std::fs::metadata("/proc/self").map_err(unreadable)?.uid();
    if metadata.uid() != user {
        return Err(KeyError::Owner { path: path.to_owned(), owner: metadata.uid(), user });
    }
    Ok(())
}

/// Why a private key could not be had or kept.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file cannot be opened or read.
    #[error("cannot read the private key {}: {source}", path.display())]
    Read {
        /// The key file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A directory, pipe or device.
    #[error("the private key {} is not a regular file", path.display())]
    NotAFile {
        /// The key file.
        path: PathBuf,
    },
    /// Group or others have a permission on the file.
    #[error("the private key {} is open to others (mode {mode:04o}); run: chmod 600 {}", path.display(), path.display())]
    Mode {
        /// The key file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Another user owns the file.
    #[error("the private key {} belongs to user {owner}, this process runs as user {user}; run: chown {user} {}",
        path.display(), path.display())]
    Owner {
        /// The key file.
        path: PathBuf,
        /// User id of its owner.
        owner: u32,
        /// User id of this process.
        user: u32,
    },
    /// The content is not that of a key file.
    #[error("the private key {}: {fault}", path.display())]
    Content {
        /// The key file.
        path: PathBuf,
        /// What is wrong in it.
        fault: KeyFileFault,
    },
    /// The file is there already.
    #[error("{} exists; a private key is never overwritten: move it away first", path.display())]
    Exists {
        /// The key file.
        path: PathBuf,
    },
    /// The file cannot be written.
    #[error("cannot write the private key {}: {source}", path.display())]
    Write {
        /// The key file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// No random bytes for a new key.
    #[error("the operating system's random source failed")]
    Random,
}

/// What is wrong in a key file.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum KeyFileFault {
    /// Longer than any key file.
    #[error("longer than {MAX_KEY_FILE} bytes, so not a key file")]
    TooLong,
    /// Not UTF-8.
    #[error("not a text, so not a key file")]
    NotText,
    /// No line with a key.
    #[error("no line `{FORMAT} <base64>`; restore the file from a backup")]
    NoKey,
    /// A line that is neither comment nor key.
    #[error("line {line} is not `{FORMAT} <base64>`")]
    NotAKeyLine {
        /// Number of the line, from 1.
        line: usize,
    },
    /// The seed is not 32 bytes in base64.
    #[error("line {line}: the key is not the base64 of 32 bytes; restore the file from a backup")]
    BadSeed {
        /// Number of the line, from 1.
        line: usize,
    },
    /// Two keys in one file.
    #[error("line {line} holds a second key; a file holds one")]
    SecondKey {
        /// Number of the line, from 1.
        line: usize,
    },
    /// The comment names another public key than the seed yields.
    #[error("line {line} names another public key than the private key has: the file is damaged, restore it")]
    OtherPublicKey {
        /// Number of the line, from 1.
        line: usize,
    },
}
