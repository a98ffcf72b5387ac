//! The disk below the data: file system, its options, caches, scheduler, room, and how long a durable append takes.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::live::Live;
use super::root::{Root, chosen};
use super::{Finding, Severity, Subject};

const WHY_FS: &str =
    "every vote is on disk before it leaves: what the file system does with a sync is what a vote is worth";
const WHY_CACHE: &str = "a cache without a battery is emptied at each sync: safe, and what a durable append takes";
const WHY_SCHEDULER: &str = "a scheduler for spinning disks makes single small writes wait for others";
const WHY_APPEND: &str = "one stands on the way of every commit";
const WHY_SPACE: &str = "below low_space_mib a replica takes no new writes";

/// File systems that exist in memory only.
const VOLATILE: [&str; 2] = ["tmpfs", "ramfs"];
/// File systems on which a replica is measured and tested.
const KNOWN: [&str; 2] = ["ext4", "xfs"];
/// File systems whose writes go over a network or through another process.
const REMOTE: [&str; 8] = ["nfs", "nfs4", "cifs", "smb3", "9p", "fuse", "ceph", "virtiofs"];
/// Options after which a sync does not reach the disk.
const UNSAFE: [&str; 3] = ["nobarrier", "barrier=0", "eatmydata"];
/// Half of the durable appends should take no longer.
const SLOW_APPEND: Duration = Duration::from_millis(2);
/// A disk that is faster than this has memory that survives a power cut, or lies.
const SUSPICIOUS_APPEND: Duration = Duration::from_micros(15);
/// This many times low_space_mib should be free.
const ROOMY: u64 = 16;

/// Where a path is mounted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mount {
    /// The mount point.
    pub point: PathBuf,
    /// `major:minor`.
    pub device: String,
    /// The file system's type.
    pub kind: String,
    /// What is mounted.
    pub source: String,
    /// Options of the mount and of the file system.
    pub options: Vec<String>,
}

/// A field of mountinfo: space, tab, line feed and backslash are written in octal (proc(5)).
fn unescaped(field: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(field.to_owned(), |text, (code, plain)| text.replace(code, plain))
}

impl Mount {
    fn parse(line: &str) -> Option<Self> {
        let (mount, system) = line.split_once(" - ")?;
        let fields: Vec<&str> = mount.split(' ').collect();
        let mut system = system.split(' ');
        let (kind, source) = (system.next()?.to_owned(), unescaped(system.next()?));
        let options = fields.get(5)?.split(',').chain(system.next().unwrap_or("").split(','));
        let point = PathBuf::from(unescaped(fields.get(4)?));
        let options = options.filter(|option| !option.is_empty()).map(str::to_owned).collect();
        Some(Self { point, device: (*fields.get(2)?).to_owned(), kind, source, options })
    }

    /// The mount that an absolute path lies in: the longest mount point, the last of several.
    pub fn of(root: &Root, path: &Path) -> Option<Self> {
        let text = root.read("/proc/self/mountinfo")?;
        let mounts = text.lines().filter_map(Self::parse).filter(|mount| path.starts_with(&mount.point));
        mounts.max_by_key(|mount| mount.point.components().count())
    }
}

/// The checks.
pub fn check(root: &Root, live: &Live, subject: &Subject) -> Vec<Finding> {
    let Some(data) = &subject.data else {
        let nobody = Finding::new("disk", Severity::Note, "not looked at", WHY_FS);
        return vec![nobody.want("a look at the disk of the data", "atlas host check --data DIR, or --config FILE")];
    };
    let mut findings = Vec::new();
    match Mount::of(root, data) {
        None => findings.push(Finding::hidden("file system", "no mount holds the directory", WHY_FS)),
        Some(mount) => {
            findings.push(file_system(&mount));
            findings.extend(device(root, &mount));
        }
    }
    findings.extend([space(live, subject), appends(live)]);
    findings
}

fn file_system(mount: &Mount) -> Finding {
    const CHECK: &str = "file system";
    let Mount { kind, point, source, options, .. } = mount;
    let found = format!("{kind} on {} ({source}): {}", point.display(), options.join(","));
    let finding = |severity| Finding::new(CHECK, severity, found.clone(), WHY_FS);
    let is = |kinds: &[&str]| kinds.iter().any(|other| kind == other || kind.split('.').next() == Some(other));
    if VOLATILE.contains(&kind.as_str()) {
        return finding(Severity::Critical)
            .want("a disk", "put data = of the configuration on a disk: this one is memory");
    }
    if let Some(option) = options.iter().find(|option| UNSAFE.contains(&option.as_str())) {
        return finding(Severity::Critical).want("syncs that reach the disk", format!("mount without {option}"));
    }
    if is(&REMOTE) {
        return finding(Severity::Warning).want("a local disk", "ext4 or XFS on a disk of this server");
    }
    if kind == "overlay" {
        return finding(Severity::Warning)
            .want("a volume", "mount a volume for the data: a container's own layer goes with the container");
    }
    if !KNOWN.contains(&kind.as_str()) {
        return finding(Severity::Note)
            .want("ext4 or XFS, which Atlas is measured on", "nothing, if the durable append below is quick");
    }
    if options.iter().any(|option| option == "data=journal") {
        return finding(Severity::Warning)
            .want("data=ordered", "mount without data=journal: it writes everything twice");
    }
    match options.iter().find(|option| ["discard", "strictatime", "sync"].contains(&option.as_str())) {
        Some(option) => finding(Severity::Note)
            .want(format!("without {option}"), "out of /etc/fstab; for discard: fstrim.timer instead, off-peak"),
        None => finding(Severity::Ok),
    }
}

/// A file below the queue of a disk, or of the disk that a partition lies on.
fn queue(root: &Root, mount: &Mount, name: &str) -> Option<String> {
    let numbers = mount.device.split_once(':')?;
    let plain = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if !plain(numbers.0) || !plain(numbers.1) {
        return None;
    }
    let dir = format!("/sys/dev/block/{}", mount.device);
    root.read(format!("{dir}/queue/{name}")).or_else(|| root.read(format!("{dir}/../queue/{name}")))
}

fn device(root: &Root, mount: &Mount) -> [Finding; 2] {
    let cache = match queue(root, mount, "write_cache").as_deref() {
        Some("write through") => Finding::ok("write cache", "none that a power cut could empty", WHY_CACHE),
        Some("write back") => {
            Finding::new("write cache", Severity::Note, "write back: emptied at each sync", WHY_CACHE)
                .want("a disk with power-loss protection", "data centre SSDs say write through and sync in 20 to 50 us")
        }
        _ => Finding::hidden("write cache", &format!("no queue for device {}", mount.device), WHY_CACHE),
    };
    let text = queue(root, mount, "scheduler");
    let scheduler = match text.as_deref().and_then(chosen) {
        Some(kind @ ("none" | "noop" | "mq-deadline" | "deadline" | "kyber")) => {
            Finding::ok("disk scheduler", kind, WHY_SCHEDULER)
        }
        Some(kind) => Finding::new("disk scheduler", Severity::Warning, kind, WHY_SCHEDULER)
            .want("none, or mq-deadline", "a udev rule: ATTR{queue/scheduler}=\"none\""),
        None => Finding::hidden("disk scheduler", "the device has no queue here", WHY_SCHEDULER),
    };
    [cache, scheduler]
}

fn space(live: &Live, subject: &Subject) -> Finding {
    const CHECK: &str = "free space";
    let Some(free) = live.free_bytes else {
        return Finding::hidden(CHECK, "the file system does not say", WHY_SPACE);
    };
    let (free_mib, low) = (free >> 20, subject.low_space_mib);
    let found = format!("{free_mib} MiB");
    let wanted = format!("{} MiB or more (low_space_mib = {low})", low.saturating_mul(ROOMY));
    let fix = "a larger disk, or [history] cold = in the configuration: old history moves there";
    match free_mib {
        mib if mib < low => Finding::new(CHECK, Severity::Critical, found, WHY_SPACE).want(wanted, fix),
        mib if mib < low.saturating_mul(ROOMY) => {
            Finding::new(CHECK, Severity::Warning, found, WHY_SPACE).want(wanted, fix)
        }
        _ => Finding::ok(CHECK, found, WHY_SPACE),
    }
}

fn appends(live: &Live) -> Finding {
    const CHECK: &str = "durable append";
    let appends = match &live.appends {
        Some(Ok(appends)) if appends.count > 0 => appends,
        Some(Err(error)) => {
            return Finding::new(CHECK, Severity::Warning, format!("cannot be measured: {error}"), WHY_APPEND)
                .want("a directory that can be written", "make it, or run as the user of the replica");
        }
        _ => return Finding::hidden(CHECK, "nothing was measured", WHY_APPEND),
    };
    let us = |time: Duration| time.as_micros();
    let found = format!(
        "p50 {} us, p99 {} us (4 KiB and fdatasync, {} times)",
        us(appends.p50),
        us(appends.p99),
        appends.count
    );
    if appends.p50 > SLOW_APPEND {
        return Finding::new(CHECK, Severity::Warning, found, WHY_APPEND)
            .want(format!("p50 below {} us", us(SLOW_APPEND)), "a local NVMe disk; nothing else that writes on it");
    }
    if appends.p50 < SUSPICIOUS_APPEND {
        return Finding::new(CHECK, Severity::Note, found, WHY_APPEND).want(
            "a disk that keeps what it says it has",
            "make sure that it has power-loss protection: without it, a sync so quick is a promise that a power cut breaks",
        );
    }
    Finding::ok(CHECK, found, WHY_APPEND)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mount_is_the_longest_and_the_last() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("proc/self")).unwrap();
        let lines = "27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard\n\
                     28 27 8:1 / /srv/my\\040plant rw shared:7 - xfs /dev/sda1 rw\n\
                     29 27 0:30 / /srv/my\\040plant rw - tmpfs none rw\n\
                     rubbish\n- - -\n 1 2 3 - \n";
        std::fs::write(dir.path().join("proc/self/mountinfo"), lines).unwrap();
        let root = Root::new(dir.path());
        let kind = |path: &str| Mount::of(&root, Path::new(path)).map(|mount| mount.kind);
        assert_eq!(kind("/srv/my plant/data").as_deref(), Some("tmpfs"));
        assert_eq!(kind("/srv/my plants/data").as_deref(), Some("ext4"));
        assert_eq!(kind("relative"), None);
        let mount = Mount::of(&root, Path::new("/")).unwrap();
        assert_eq!(mount.options, ["rw", "relatime", "rw", "discard"]);
    }

    #[test]
    fn a_device_that_is_no_number_leads_nowhere() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("sys/dev/block/8:0/queue")).unwrap();
        std::fs::create_dir_all(dir.path().join("etc/queue")).unwrap();
        std::fs::write(dir.path().join("etc/queue/scheduler"), "x").unwrap();
        std::fs::write(dir.path().join("sys/dev/block/8:0/queue/scheduler"), "[bfq] none").unwrap();
        let root = Root::new(dir.path());
        let mount = |device: &str| Mount {
            point: "/".into(),
            device: device.to_owned(),
            kind: "ext4".to_owned(),
            source: "/dev/sda".to_owned(),
            options: Vec::new(),
        };
        assert_eq!(device(&root, &mount("8:0"))[1].severity, Severity::Warning);
        for hostile in ["../../../etc", "8:../../../etc", ":", "8", "8:0/.."] {
            assert_eq!(queue(&root, &mount(hostile), "scheduler"), None, "{hostile}");
        }
    }
}
