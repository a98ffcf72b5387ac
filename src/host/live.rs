//! What no file of `/proc` or `/sys` tells: asked for once, on the host itself.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use atlas_dataplane::net::{ClockState, clock_state, probe};
use io_uring::{IoUring, opcode, register};

/// Durable appends that are timed.
pub const APPENDS: usize = 200;
/// Bytes of each.
pub const APPEND_BYTES: usize = 4_096;
/// No append is begun after so long: a slow disk is known by then.
const APPEND_TIME: Duration = Duration::from_secs(3);
/// How long a tool may take, and how much of what it prints is looked at.
const TOOL_TIME: Duration = Duration::from_secs(2);
const TOOL_OUTPUT: u64 = 64 << 10;
/// Where tools are looked for.
const TOOL_DIRECTORIES: [&str; 4] = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"];

/// Answers of the host. What could not be asked is `None` or empty.
#[derive(Clone, PartialEq, Debug)]
pub struct Live {
    /// Whether a replica's io_uring can be set up; else why not and what to do.
    pub ring: Result<(), String>,
    /// What the kernel's io_uring has beyond that.
    pub optional: Vec<(&'static str, bool)>,
    /// The kernel's clock discipline; else why it is not told.
    pub clock: Result<ClockState, String>,
    /// `chronyc -c tracking`.
    pub chrony: Option<String>,
    /// `ethtool -c` for each network interface that has a device.
    pub coalescing: Vec<(String, String)>,
    /// Free bytes where the data lies.
    pub free_bytes: Option<u64>,
    /// Durable appends where the data lies; else why they could not be timed. `None` where nobody named a place.
    pub appends: Option<Result<Appends, String>>,
}

/// How long durable appends took.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Appends {
    /// How many were timed.
    pub count: usize,
    /// Half of them took no longer.
    pub p50: Duration,
    /// 99 % of them took no longer.
    pub p99: Duration,
}

impl Live {
    /// Asks all but the disk.
    pub fn ask(interfaces: &[String]) -> Self {
        let coalescing =
            interfaces.iter().filter_map(|name| Some((name.clone(), tool("ethtool", &["-c", name])?))).collect();
        Self {
            ring: probe().map(|_| ()).map_err(|error| error.to_string()),
            optional: optional(),
            clock: clock_state().map_err(|error| error.to_string()),
            chrony: tool("chronyc", &["-c", "tracking"]),
            coalescing,
            free_bytes: None,
            appends: None,
        }
    }

    /// Asks the disk below a directory: writes a file of [`APPENDS`] times [`APPEND_BYTES`] there, and removes it.
    pub fn ask_disk(&mut self, dir: &Path) {
        let space = rustix::fs::statvfs(dir).ok();
        self.free_bytes = space.map(|space| space.f_bavail.saturating_mul(space.f_frsize));
        self.appends = Some(time_appends(dir).map_err(|error| error.to_string()));
    }
}

/// Set-up flags and operations that a replica does not need.
fn optional() -> Vec<(&'static str, bool)> {
    let mut answers = Vec::new();
    let sets_up = |set: fn(&mut io_uring::Builder)| {
        let mut builder = IoUring::builder();
        set(&mut builder);
        builder.build(8).is_ok()
    };
    answers.push((
        "SQPOLL",
        sets_up(|builder| {
            builder.setup_sqpoll(10);
        }),
    ));
    answers.push((
        "NO_SQARRAY",
        sets_up(|builder| {
            builder.setup_no_sqarray();
        }),
    ));
    let Ok(ring) = IoUring::new(8) else { return Vec::new() };
    answers.push(("send bundles", ring.params().is_feature_recvsend_bundle()));
    answers.push(("minimal wait", ring.params().is_feature_min_timeout()));
    let mut known = register::Probe::new();
    if ring.submitter().register_probe(&mut known).is_ok() {
        let operations = [
            ("SEND_ZC", opcode::SendZc::CODE),
            ("MSG_RING", opcode::MsgRingData::CODE),
            ("FUTEX_WAIT", opcode::FutexWait::CODE),
            ("RECV_ZC", opcode::RecvZc::CODE),
        ];
        answers.extend(operations.map(|(name, code)| (name, known.is_supported(code))));
    }
    answers
}

/// As the log does: into a file that was filled with zeros before, each append synced before the next.
fn time_appends(dir: &Path) -> io::Result<Appends> {
    let file = tempfile::Builder::new().prefix(".atlas-host-check-").tempfile_in(dir)?;
    let file: &File = file.as_file();
    file.write_all_at(&vec![0; APPENDS * APPEND_BYTES], 0)?;
    file.sync_all()?;
    let block = [0xa5; APPEND_BYTES];
    let began = Instant::now();
    let mut times = Vec::with_capacity(APPENDS);
    for append in 0..APPENDS {
        if began.elapsed() > APPEND_TIME {
            break;
        }
        let from = Instant::now();
        file.write_all_at(&block, (append * APPEND_BYTES) as u64)?;
        file.sync_data()?;
        times.push(from.elapsed());
    }
    times.sort_unstable();
    let at = |percent: usize| times.get((times.len() * percent / 100).min(times.len().saturating_sub(1))).copied();
    Ok(Appends { count: times.len(), p50: at(50).unwrap_or_default(), p99: at(99).unwrap_or_default() })
}

/// What a tool prints; `None` where it is not installed, fails or does not end in time.
pub fn tool(name: &str, arguments: &[&str]) -> Option<String> {
    let path = TOOL_DIRECTORIES.iter().map(|dir| Path::new(dir).join(name)).find(|path| path.is_file())?;
    let mut child = Command::new(path)
        .args(arguments)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let output = child.stdout.take()?;
    let reader = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = output.take(TOOL_OUTPUT).read_to_end(&mut bytes);
        bytes
    });
    let began = Instant::now();
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) if began.elapsed() < TOOL_TIME => std::thread::sleep(Duration::from_millis(5)),
            _ => {
                let _ = child.kill();
                let _ = child.wait();
                return None;
            }
        }
    };
    let bytes = reader.join().ok()?;
    status.success().then(|| String::from_utf8_lossy(&bytes).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn appends_are_timed_and_nothing_is_left_behind() {
        let dir = tempfile::tempdir().unwrap();
        let appends = time_appends(dir.path()).unwrap();
        assert!(appends.count > 0 && appends.count <= APPENDS && appends.p50 <= appends.p99, "{appends:?}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        assert!(time_appends(&dir.path().join("absent")).is_err());
    }

    #[test]
    fn a_tool_that_fails_hangs_or_is_not_there_says_nothing() {
        assert_eq!(tool("printf", &["a b"]).as_deref(), Some("a b"));
        assert_eq!(tool("false", &[]), None);
        assert_eq!(tool("no-such-tool-here", &[]), None);
        assert_eq!(tool("sleep", &["600"]), None);
    }

    #[test]
    fn a_host_that_runs_replicas_can_set_up_their_ring() {
        let live = Live::ask(&[]);
        assert_eq!(live.ring.is_ok(), probe().is_ok());
        assert!(live.ring.is_err() || live.optional.iter().any(|(name, _)| *name == "SQPOLL"));
    }
}
