//! Files below one directory: opened so that no path and no link leads out of it, read whole and bounded.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{Mode, OFlags, ResolveFlags, open, openat2};

/// A directory.
#[derive(Debug)]
pub struct Tree(OwnedFd);

/// Why a file cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum FileFault {
    /// Not there.
    #[error("the file is missing")]
    Missing,
    /// A directory, link, pipe or device, or reached through a link.
    #[error("not a regular file, or behind a link")]
    NotAFile,
    /// Longer than what it is can be.
    #[error("the file has {bytes} bytes, at most {max} are read")]
    TooLong {
        /// Its length.
        bytes: u64,
        /// The limit.
        max: usize,
    },
    /// The system failed.
    #[error("cannot be read: {0}")]
    Io(io::Error),
}

impl From<rustix::io::Errno> for FileFault {
    fn from(error: rustix::io::Errno) -> Self {
        use rustix::io::Errno;
        match error {
            Errno::NOENT | Errno::NOTDIR | Errno::NAMETOOLONG => Self::Missing,
            Errno::LOOP | Errno::XDEV | Errno::ISDIR => Self::NotAFile,
            error => Self::Io(error.into()),
        }
    }
}

impl Tree {
    /// Opens the directory.
    ///
    /// # Errors
    /// It is none, or cannot be opened.
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Self(open(path, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?))
    }

    /// Opens a regular file below the directory; its length with it.
    ///
    /// # Errors
    /// It is not there, no regular file, or reached through a link.
    pub fn file(&self, path: &str) -> Result<(File, u64), FileFault> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let file = File::from(openat2(&self.0, path, flags, Mode::empty(), resolve)?);
        let metadata = file.metadata().map_err(FileFault::Io)?;
        if metadata.is_file() { Ok((file, metadata.len())) } else { Err(FileFault::NotAFile) }
    }

    /// Reads a file of at most `max` bytes.
    ///
    /// # Errors
    /// As [`Tree::file`], or it is longer.
    pub fn read(&self, path: &str, max: usize) -> Result<Vec<u8>, FileFault> {
        let (file, bytes) = self.file(path)?;
        read_bounded(file, bytes, max)
    }

    /// Names of what lies in a folder below the directory, sorted; at most `max` of them. `None` where there is no such folder.
    ///
    /// # Errors
    /// It cannot be read, or has more.
    pub fn names(&self, folder: &str, max: usize) -> Result<Option<Vec<String>>, FileFault> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let folder = match openat2(&self.0, folder, flags, Mode::empty(), resolve) {
            Err(rustix::io::Errno::NOENT) => return Ok(None),
            folder => folder?,
        };
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(&folder)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if name != "." && name != ".." {
                if names.len() == max {
                    return Err(FileFault::TooLong { bytes: max as u64 + 1, max });
                }
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(Some(names))
    }
}

/// Reads an open file of this length, if that is at most `max`.
///
/// # Errors
/// It is longer, grows meanwhile beyond `max`, or cannot be read.
pub fn read_bounded(file: File, bytes: u64, max: usize) -> Result<Vec<u8>, FileFault> {
    if bytes > max as u64 {
        return Err(FileFault::TooLong { bytes, max });
    }
    let mut content = Vec::with_capacity(bytes as usize + 1);
    file.take(max as u64 + 1).read_to_end(&mut content).map_err(FileFault::Io)?;
    match content.len() {
        length if length > max => Err(FileFault::TooLong { bytes: length as u64, max }),
        _ => Ok(content),
    }
}

/// Reads a file that a user names, wherever it lies.
///
/// # Errors
/// As [`Tree::read`].
pub fn read_file(path: &Path, max: usize) -> Result<Vec<u8>, FileFault> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    let file = File::from(open(path, flags, Mode::empty())?);
    let metadata = file.metadata().map_err(FileFault::Io)?;
    if !metadata.is_file() {
        return Err(FileFault::NotAFile);
    }
    read_bounded(file, metadata.len(), max)
}
