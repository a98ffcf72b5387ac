//! The control sockets in their directory.
//!
//! The directory must be the process's own, and nobody else may write there. A lock in it is held as long as the process lives, so a living
//! replica's sockets are never replaced; those of a dead one are. Each socket is made in a directory that nobody else may enter,
//! gets its mode and group there, and is then renamed into its place: it never has another mode under its name.
//!
//! Paths are used through the directory's descriptor, as a socket's address has room for 107 bytes only.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::fs::{
    DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _,
};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use atlas_dataplane::cluster::ControlConfig;
use rustix::fs::{FlockOperation, Gid, flock};

use crate::limits::LISTEN_QUEUE;
use crate::protocol::Level;

/// Where sockets get their modes.
const NEW: &str = ".new";

/// Why there are no control sockets.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Something in the directory.
    #[error("{}: {source}", path.display())]
    Io {
        /// What.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Others could replace the sockets.
    #[error("{} must belong to the replica's user, and nobody else may write there: chmod go-w, or name another [control] directory", .0.display())]
    Unsafe(PathBuf),
    /// Another process has them.
    #[error("another process serves the control sockets in {}: give each replica a [control] directory of its own", .0.display())]
    InUse(PathBuf),
    /// Something else has a socket's name.
    #[error("{} is no socket: move it away", .0.display())]
    NoSocket(PathBuf),
}

/// The sockets, which are removed with this value.
#[derive(Debug)]
pub(crate) struct Sockets {
    pub(crate) listeners: [UnixListener; 3],
    pub(crate) place: Place,
}

/// The directory, as long as this process serves it.
#[derive(Debug)]
pub(crate) struct Place {
    path: PathBuf,
    directory: OwnedFd,
    _lock: File,
}

impl Place {
    /// A file in the directory.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        through(&self.directory, name)
    }

    /// Removes the sockets: this process ends.
    pub(crate) fn remove_sockets(&self) {
        for level in Level::ALL {
            let _ = fs::remove_file(self.file(&level.socket()));
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

fn through(directory: &OwnedFd, name: &str) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}/{name}", directory.as_raw_fd()))
}

/// Makes the sockets.
///
/// # Errors
/// [`SocketError`]; sockets of others are untouched then.
pub(crate) fn open(config: &ControlConfig) -> Result<Sockets, SocketError> {
    let place = enter(&config.directory)?;
    let at = |name: &str| config.directory.join(name);
    let failed = |name: &str| {
        let path = at(name);
        move |source| SocketError::Io { path, source }
    };
    for level in Level::ALL {
        check_old(&place, &level.socket(), &at(&level.socket()))?;
    }
    let new = place.file(NEW);
    let _ = fs::remove_dir_all(&new);
    DirBuilder::new().mode(0o700).create(&new).map_err(failed(NEW))?;
    let listen = |level: Level| {
        let name = level.socket();
        let (made, index) = (new.join(&name), level as usize);
        let listener = UnixListener::bind(&made).and_then(|listener| {
            listener.set_nonblocking(true)?;
            // Again, with a shorter queue than the system's: who comes after a flood does not wait behind thousands.
            rustix::net::listen(&listener, LISTEN_QUEUE)?;
            if let Some(group) = config.groups[index] {
                rustix::fs::chown(&made, None, Some(Gid::from_raw(group)))?;
            }
            fs::set_permissions(&made, Permissions::from_mode(config.modes[index]))?;
            fs::rename(&made, place.file(&name))?;
            Ok(listener)
        });
        listener.map_err(failed(&name))
    };
    let listeners = [listen(Level::Viewer)?, listen(Level::Operator)?, listen(Level::Admin)?];
    let _ = fs::remove_dir_all(&new);
    Ok(Sockets { listeners, place })
}

fn enter(path: &Path) -> Result<Place, SocketError> {
    let failed = |source| SocketError::Io { path: path.to_owned(), source };
    match DirBuilder::new().mode(0o755).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(failed(error)),
        Err(_) => {}
        // Made here: whatever the umask is, others may pass through, and each socket has its own mode.
        Ok(()) => fs::set_permissions(path, Permissions::from_mode(0o755)).map_err(failed)?,
    }
    let directory = OpenOptions::new().read(true).custom_flags(libc_directory()).open(path).map_err(failed)?;
    let metadata = directory.metadata().map_err(failed)?;
    let is_own = metadata.uid() == rustix::process::geteuid().as_raw();
    if !is_own || metadata.mode() & 0o022 != 0 {
        return Err(SocketError::Unsafe(path.to_owned()));
    }
    let directory = OwnedFd::from(directory);
    let lock = through(&directory, "lock");
    let lock = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(lock).map_err(failed)?;
    match flock(lock.as_fd(), FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Place { path: path.to_owned(), directory, _lock: lock }),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(SocketError::InUse(path.to_owned())),
        Err(error) => Err(failed(error.into())),
    }
}

fn libc_directory() -> i32 {
    (rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::NOFOLLOW).bits() as i32
}

/// What has the name of a socket is one that nobody serves.
fn check_old(place: &Place, name: &str, path: &Path) -> Result<(), SocketError> {
    let old = place.file(name);
    match fs::symlink_metadata(&old) {
        Err(_) => Ok(()),
        Ok(metadata) if !metadata.file_type().is_socket() => Err(SocketError::NoSocket(path.to_owned())),
        // Whoever serves it does not know of the lock.
        Ok(_) if UnixStream::connect(&old).is_ok() => Err(SocketError::InUse(place.path().to_owned())),
        Ok(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use atlas_dataplane::cluster::control::LogFormat;
    use atlas_dataplane::flight::lines;

    fn config(directory: PathBuf) -> ControlConfig {
        ControlConfig {
            directory,
            modes: [0o666, 0o660, 0o600],
            groups: [None; 3],
            metrics_listen: None,
            log_format: LogFormat::Human,
            log_level: lines::Level::Info,
        }
    }

    #[test]
    fn sockets_have_their_modes_and_go_with_their_owner() {
        let dir = tempfile::tempdir().unwrap();
        // Far longer than a socket's address.
        let run = dir.path().join("a".repeat(100)).join("run");
        fs::create_dir(run.parent().unwrap()).unwrap();
        let sockets = open(&config(run.clone())).unwrap();
        for (level, mode) in Level::ALL.into_iter().zip([0o666, 0o660, 0o600]) {
            let metadata = fs::metadata(run.join(level.socket())).unwrap();
            assert!(metadata.file_type().is_socket());
            assert_eq!(metadata.mode() & 0o777, mode);
        }
        assert_eq!(fs::metadata(&run).unwrap().mode() & 0o777, 0o755);
        sockets.place.remove_sockets();
        let left: Vec<_> = fs::read_dir(&run).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["lock"]);
    }

    #[test]
    fn those_of_a_dead_process_are_replaced_and_those_of_a_living_one_never() {
        let dir = tempfile::tempdir().unwrap();
        let config = config(dir.path().join("run"));
        let first = open(&config).unwrap();
        assert!(matches!(open(&config), Err(SocketError::InUse(_))));
        UnixStream::connect(config.directory.join("admin.sock")).unwrap();
        // As a process that is killed leaves them.
        drop(first);
        assert!(UnixStream::connect(config.directory.join("admin.sock")).is_err());
        let second = open(&config).unwrap();
        UnixStream::connect(config.directory.join("admin.sock")).unwrap();
        drop(second);
        // Somebody else's, without the lock.
        fs::remove_file(config.directory.join("viewer.sock")).unwrap();
        let _other = UnixListener::bind(config.directory.join("viewer.sock")).unwrap();
        assert!(matches!(open(&config), Err(SocketError::InUse(_))));
        fs::remove_file(config.directory.join("viewer.sock")).unwrap();
        fs::write(config.directory.join("viewer.sock"), "text").unwrap();
        assert!(matches!(open(&config), Err(SocketError::NoSocket(_))));
        assert_eq!(fs::read(config.directory.join("viewer.sock")).unwrap(), b"text");
    }

    #[test]
    fn a_directory_that_others_may_write_to_is_not_used() {
        let dir = tempfile::tempdir().unwrap();
        let run = dir.path().join("run");
        fs::create_dir(&run).unwrap();
        fs::set_permissions(&run, Permissions::from_mode(0o777)).unwrap();
        assert!(matches!(open(&config(run.clone())), Err(SocketError::Unsafe(_))));
        fs::set_permissions(&run, Permissions::from_mode(0o755)).unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&run, &link).unwrap();
        assert!(matches!(open(&config(link)), Err(SocketError::Io { .. })));
        open(&config(run)).unwrap();
    }
}
