//! What the kernel offers, found out at start; and, where it refuses, why and what to do about it.

use std::ffi::CStr;
use std::fs;
use std::io;

use io_uring::{opcode, register};

use super::MAX_RECEIVE_BUFFERS;
use super::receive::ReceivePool;
use super::ring::{COMPLETION_ENTRIES, Ring, SUBMISSION_ENTRIES};

/// The oldest kernel that has all that is used: multishot receive (6.0) and deferred task work (6.1).
pub const OLDEST_KERNEL: (u32, u32) = (6, 1);
/// Locked memory that one reactor is charged with, beside its registered write buffers, in bytes (rounded up).
pub const RING_LOCKED_BYTES: u64 =
    SUBMISSION_ENTRIES as u64 * 68 + COMPLETION_ENTRIES as u64 * 16 + MAX_RECEIVE_BUFFERS as u64 * 16 + 4 * 4096;

const DISABLED_SWITCH: &str = "/proc/sys/kernel/io_uring_disabled";

/// The operations in use, by name.
const OPERATIONS: [(u8, &str); 11] = [
    (opcode::AcceptMulti::CODE, "ACCEPT"),
    (opcode::Connect::CODE, "CONNECT"),
    (opcode::RecvMulti::CODE, "RECV"),
    (opcode::Send::CODE, "SEND"),
    (opcode::AsyncCancel2::CODE, "ASYNC_CANCEL"),
    (opcode::Timeout::CODE, "TIMEOUT"),
    (opcode::PollAdd::CODE, "POLL_ADD"),
    (opcode::Read::CODE, "READ"),
    (opcode::Write::CODE, "WRITE"),
    (opcode::WriteFixed::CODE, "WRITE_FIXED"),
    (opcode::Fsync::CODE, "FSYNC"),
];

/// Why io_uring cannot be used here, with what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// The kernel does not know io_uring, or not enough of it.
    #[error(
        "Linux {found} is too old: Atlas needs {}.{} or newer (multishot receive, deferred task work of io_uring); \
         boot a newer kernel",
        OLDEST_KERNEL.0,
        OLDEST_KERNEL.1
    )]
    KernelTooOld {
        /// The kernel's release.
        found: String,
    },
    /// `kernel.io_uring_disabled` is 2.
    #[error(
        "io_uring is switched off on this host (kernel.io_uring_disabled = 2); as root: sysctl -w \
         kernel.io_uring_disabled=0, and the same in /etc/sysctl.d to keep it"
    )]
    DisabledForAll,
    /// `kernel.io_uring_disabled` is 1 and this process is not among the privileged.
    #[error(
        "io_uring is for privileged processes only on this host (kernel.io_uring_disabled = 1); as root either: \
         sysctl -w kernel.io_uring_disabled=0, or put the user's group into it: sysctl -w \
         kernel.io_uring_group=GROUP_ID"
    )]
    DisabledForUser,
    /// A filter refuses the system call, as the default profiles of container run-times do.
    #[error(
        "io_uring_setup is refused ({source}) though Linux {kernel} has it: most likely the seccomp profile of a \
         container; permit io_uring_setup, io_uring_enter and io_uring_register in its profile (Docker and Podman: \
         --security-opt seccomp=PROFILE.json; systemd: SystemCallFilter=@aio)"
    )]
    Blocked {
        /// The kernel's release.
        kernel: String,
        /// What the system call said.
        source: io::Error,
    },
    /// The rings do not fit into the memory that the user may lock.
    #[error(
        "the limit of locked memory ({limit} bytes for all processes of this user) leaves no room for an io_uring, \
         which takes at most {needed} bytes; raise it: LimitMEMLOCK=infinity in the systemd unit, memlock in \
         /etc/security/limits.conf, or ulimit -l in the shell"
    )]
    LockedMemory {
        /// The limit in force, in bytes.
        limit: u64,
        /// What one reactor needs without registered write buffers, in bytes.
        needed: u64,
    },
    /// No file descriptor is left.
    #[error(
        "no file descriptor is left ({limit} permitted); raise LimitNOFILE= in the systemd unit or ulimit -n in the shell"
    )]
    FileDescriptors {
        /// The limit in force.
        limit: u64,
    },
    /// Operations that every sufficient kernel has were taken away.
    #[error("the io_uring of Linux {kernel} lacks {operations:?}; boot an unrestricted kernel {}.{} or newer",
        OLDEST_KERNEL.0, OLDEST_KERNEL.1)]
    MissingOperations {
        /// The kernel's release.
        kernel: String,
        /// Their names.
        operations: Vec<&'static str>,
    },
    /// Something else.
    #[error("io_uring on Linux {kernel}: cannot {action}: {source}")]
    Other {
        /// The kernel's release.
        kernel: String,
        /// What was tried.
        action: &'static str,
        /// What the system call said.
        source: io::Error,
    },
}

/// What was found on a host where Atlas can run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Capabilities {
    /// The kernel's release.
    pub kernel: String,
    /// Bytes that all processes of this user together may lock; `None` without limit. A process that may lock any
    /// amount (CAP_IPC_LOCK) is not held to it.
    pub locked_memory_limit: Option<u64>,
    /// File descriptors that this process may have open.
    pub file_descriptor_limit: u64,
}

/// Sets up what a reactor needs, once, and takes it down again.
///
/// # Errors
/// What is missing and how to get it.
pub fn probe() -> Result<Capabilities, ProbeError> {
    let ring = Ring::new().map_err(|error| explain("set up a ring", error))?;
    let mut known = register::Probe::new();
    ring.inner().submitter().register_probe(&mut known).map_err(|error| explain("ask for its operations", error))?;
    let operations: Vec<_> =
        OPERATIONS.iter().filter(|(code, _)| !known.is_supported(*code)).map(|(_, name)| *name).collect();
    if !operations.is_empty() {
        return Err(ProbeError::MissingOperations { kernel: kernel_release(), operations });
    }
    let pool = ReceivePool::new(1, 1).map_err(|error| explain("take receive buffers", error))?;
    pool.register(&ring).map_err(|error| explain("register receive buffers", error))?;
    let locked = limit(libc::RLIMIT_MEMLOCK);
    Ok(Capabilities {
        kernel: kernel_release(),
        locked_memory_limit: (locked != libc::RLIM_INFINITY).then_some(locked),
        file_descriptor_limit: limit(libc::RLIMIT_NOFILE),
    })
}

/// The cause behind an error of setting up io_uring, from what the host says about itself.
pub(super) fn explain(action: &'static str, error: io::Error) -> ProbeError {
    let switch = fs::read_to_string(DISABLED_SWITCH).ok().and_then(|text| text.trim().parse().ok());
    classify(action, error, switch, kernel_release())
}

/// As [`explain`], from the value of `kernel.io_uring_disabled` (`None` before 6.6) and the kernel's release.
pub(super) fn classify(action: &'static str, error: io::Error, switch: Option<u8>, kernel: String) -> ProbeError {
    let old = version(&kernel).is_some_and(|version| version < OLDEST_KERNEL);
    match (error.raw_os_error(), switch) {
        (Some(libc::EPERM), Some(2)) => ProbeError::DisabledForAll,
        (Some(libc::EPERM), Some(1)) => ProbeError::DisabledForUser,
        (Some(libc::EINVAL | libc::ENOSYS), _) if old => ProbeError::KernelTooOld { found: kernel },
        (Some(libc::EPERM | libc::EACCES | libc::ENOSYS), _) => ProbeError::Blocked { kernel, source: error },
        (Some(libc::ENOMEM), _) => {
            ProbeError::LockedMemory { limit: limit(libc::RLIMIT_MEMLOCK), needed: RING_LOCKED_BYTES }
        }
        (Some(libc::EMFILE), _) => ProbeError::FileDescriptors { limit: limit(libc::RLIMIT_NOFILE) },
        _ => ProbeError::Other { kernel, action, source: error },
    }
}

/// The soft limit of a resource of this process.
pub(super) fn limit(resource: libc::__rlimit_resource_t) -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the kernel writes into limit, which lives across the call; if it fails the limit reads as 0.
    unsafe { libc::getrlimit(resource, &raw mut limit) };
    limit.rlim_cur
}

/// The kernel's release such as `6.1.0-18-amd64`; empty if it does not say.
fn kernel_release() -> String {
    // SAFETY: utsname is plain bytes, for which all bits zero is a value.
    let mut names: libc::utsname = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes into names, which lives across the call; if it fails all of it stays zero.
    unsafe { libc::uname(&raw mut names) };
    // SAFETY: zero-filled before and written as C strings by the kernel, the field ends with a zero.
    unsafe { CStr::from_ptr(names.release.as_ptr()) }.to_string_lossy().into_owned()
}

/// Major and minor number at the start of a release.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}
