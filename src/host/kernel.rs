//! The kernel, its io_uring, and the limits of this process.

use atlas_dataplane::net::{OLDEST_KERNEL, RING_LOCKED_BYTES};

use super::live::Live;
use super::root::Root;
use super::{Change, Finding, Severity, Subject};

const WHY_KERNEL: &str =
    "a replica's whole data path is io_uring: older kernels lack multishot receive and deferred task work";
const WHY_RING: &str = "found out by setting up what a replica sets up at its start";
const WHY_OPTIONAL: &str = "not needed; newer kernels have more that Atlas may come to use";
const WHY_SWITCH: &str = "2 takes io_uring away from everybody, 1 from everybody without privilege";
const WHY_MEMLOCK: &str =
    "rings and write buffers are locked memory; without room the replica does not start, or copies each write";
const WHY_NOFILE: &str = "each client and link takes a file descriptor; without one nobody can connect";

/// The sysctl that switches io_uring off.
const SWITCH: &str = "/proc/sys/kernel/io_uring_disabled";
/// Locked memory that leaves room for the rings and all write buffers of a replica, in bytes.
pub const ENOUGH_LOCKED: u64 = 64 << 20;
/// Files that a replica has open beside its connections: log, history, snapshots, evidence, with room.
const OWN_FILES: u64 = 256;
/// Capability to lock any amount of memory (capability.h).
const CAP_IPC_LOCK: u32 = 14;

/// The checks.
pub fn check(root: &Root, live: &Live, subject: &Subject) -> Vec<Finding> {
    let mut findings = vec![release(root), ring(live)];
    findings.extend(optional(live));
    findings.extend([switch(root), memlock(root), files(root, subject)]);
    findings
}

fn release(root: &Root) -> Finding {
    let (major, minor) = OLDEST_KERNEL;
    let Some(release) = root.read("/proc/sys/kernel/osrelease").filter(|text| !text.is_empty()) else {
        return Finding::hidden("kernel", "/proc/sys/kernel/osrelease cannot be read", WHY_KERNEL);
    };
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse::<u32>().ok());
    let found = format!("Linux {release}");
    match (numbers.next().flatten(), numbers.next().flatten()) {
        (Some(a), Some(b)) if (a, b) >= (major, minor) => Finding::ok("kernel", found, WHY_KERNEL),
        (Some(_), Some(_)) => Finding::new("kernel", Severity::Critical, found, WHY_KERNEL)
            .want(format!("Linux {major}.{minor} or newer"), "boot a newer kernel; Debian 12 has one"),
        _ => Finding::hidden("kernel", &format!("\"{release}\" is no release"), WHY_KERNEL),
    }
}

fn ring(live: &Live) -> Finding {
    match &live.ring {
        Ok(()) => Finding::ok("io_uring", "a replica's rings and buffers can be set up", WHY_RING),
        Err(problem) => Finding::new("io_uring", Severity::Critical, "a replica cannot start here", WHY_RING)
            .want("all operations and set-up flags that a replica uses", problem.clone()),
    }
}

fn optional(live: &Live) -> Option<Finding> {
    let (has, lacks): (Vec<_>, Vec<_>) = live.optional.iter().partition(|(_, has)| *has);
    if live.optional.is_empty() {
        return None;
    }
    let names = |some: &[&(&'static str, bool)]| some.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
    Some(match lacks.is_empty() {
        true => Finding::ok("io_uring extras", names(&has), WHY_OPTIONAL),
        false => Finding::new(
            "io_uring extras",
            Severity::Note,
            format!("has {}; not {}", names(&has), names(&lacks)),
            WHY_OPTIONAL,
        )
        .want("nothing: what a replica needs is the check above", "a newer kernel, at leisure"),
    })
}

fn switch(root: &Root) -> Finding {
    let Some(old) = root.read(SWITCH) else {
        return Finding::ok("io_uring_disabled", "this kernel has no such switch", WHY_SWITCH);
    };
    let severity = match old.as_str() {
        "0" => return Finding::ok("io_uring_disabled", "0", WHY_SWITCH),
        "1" => Severity::Warning,
        "2" => Severity::Critical,
        _ => return Finding::hidden("io_uring_disabled", &format!("\"{old}\" is none of 0, 1, 2"), WHY_SWITCH),
    };
    let fix = "sysctl -w kernel.io_uring_disabled=0, and in /etc/sysctl.d to keep it; or the service's group in \
               kernel.io_uring_group";
    let change = Change::File { path: SWITCH.into(), old: old.clone(), new: "0".to_owned() };
    Finding::new("io_uring_disabled", severity, old, WHY_SWITCH).want("0", fix).with(vec![change])
}

/// The soft limit of that name; `Some(None)` for unlimited.
fn limit(root: &Root, name: &str) -> Option<Option<u64>> {
    let text = root.read("/proc/self/limits")?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    match line.split_whitespace().next()? {
        "unlimited" => Some(None),
        number => Some(Some(number.parse().ok()?)),
    }
}

fn may_lock(root: &Root) -> bool {
    let Some(status) = root.read("/proc/self/status") else { return false };
    let capabilities = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let bits = capabilities.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
    bits.is_some_and(|bits| bits >> CAP_IPC_LOCK & 1 == 1)
}

fn memlock(root: &Root) -> Finding {
    const CHECK: &str = "locked memory";
    let wanted = format!("unlimited, or {} MiB at the least", ENOUGH_LOCKED >> 20);
    let fix = "LimitMEMLOCK=infinity in the unit (ours has it); memlock in /etc/security/limits.conf for shells";
    match limit(root, "Max locked memory") {
        None => Finding::hidden(CHECK, "/proc/self/limits does not say", WHY_MEMLOCK),
        Some(None) => Finding::ok(CHECK, "unlimited for this process", WHY_MEMLOCK),
        Some(Some(bytes)) => {
            let found = format!("{} KiB for this process and its like", bytes >> 10);
            match (bytes, may_lock(root)) {
                (ENOUGH_LOCKED.., _) => Finding::ok(CHECK, found, WHY_MEMLOCK),
                // Not what a service's user will have.
                (_, true) => {
                    Finding::new(CHECK, Severity::Note, format!("{found}, which its capability overrides"), WHY_MEMLOCK)
                        .want(wanted, fix)
                }
                (..RING_LOCKED_BYTES, _) => {
                    Finding::new(CHECK, Severity::Critical, found, WHY_MEMLOCK).want(wanted, fix)
                }
                _ => Finding::new(CHECK, Severity::Warning, found, WHY_MEMLOCK).want(wanted, fix),
            }
        }
    }
}

fn files(root: &Root, subject: &Subject) -> Finding {
    const CHECK: &str = "file descriptors";
    let needed = subject.max_clients + 2 * subject.replicas + OWN_FILES;
    let wanted = format!("{needed} or more (max_clients = {})", subject.max_clients);
    match limit(root, "Max open files") {
        None => Finding::hidden(CHECK, "/proc/self/limits does not say", WHY_NOFILE),
        Some(None) => Finding::ok(CHECK, "unlimited for this process", WHY_NOFILE),
        Some(Some(files)) if files >= needed => Finding::ok(CHECK, format!("{files} for this process"), WHY_NOFILE),
        Some(Some(files)) => Finding::new(CHECK, Severity::Warning, format!("{files} for this process"), WHY_NOFILE)
            .want(wanted, "LimitNOFILE=65536 in the unit (ours has it); ulimit -n 65536 in a shell"),
    }
}
