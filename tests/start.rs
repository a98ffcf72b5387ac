//! Starts and ends of a replica process: every one that cannot be is a clear end, with a message that says what to do and
//! nothing overwritten.

mod support;

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use atlas::local::Signal;
use support::checker::{Load, check};
use support::{Cluster, PATIENCE, until};

/// How a replica ended by itself, and all that it printed.
struct End {
    code: Option<i32>,
    text: String,
}

impl End {
    /// It ended with failure and its message has these parts.
    fn says(&self, parts: &[&str]) {
        assert!(matches!(self.code, Some(1 | 2)), "exit {:?}: {}", self.code, self.text);
        assert!(!self.text.contains("panicked"), "{}", self.text);
        for part in parts {
            assert!(self.text.contains(part), "no {part:?} in: {}", self.text);
        }
    }
}

/// Runs a replica that is to end by itself.
fn run(config: &Path) -> End {
    let mut child = Command::new(env!("CARGO_BIN_EXE_atlas"))
        .args(["replica", "--config"])
        .arg(config)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + PATIENCE;
    while child.try_wait().unwrap().is_none() {
        if Instant::now() > deadline {
            child.kill().unwrap();
            let output = child.wait_with_output().unwrap();
            panic!("it does not end: {}", String::from_utf8_lossy(&output.stderr));
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let output = child.wait_with_output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    End { code: output.status.code(), text: String::from_utf8_lossy(&text).into_owned() }
}

/// Every file below, by path.
fn bytes_below(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files = Vec::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).unwrap().map(Result::unwrap) {
            if entry.file_type().unwrap().is_dir() {
                dirs.push(entry.path());
            } else if entry.file_type().unwrap().is_file() {
                // Control sockets, which a replica that was killed leaves, have no bytes.
                files.push((entry.path(), fs::read(entry.path()).unwrap()));
            }
        }
    }
    files.sort();
    files
}

/// A cluster with something in it, replica 1 down.
fn used() -> Cluster {
    let mut cluster = Cluster::start();
    let mut client = cluster.client();
    for _ in 0..5 {
        client.write_one();
    }
    cluster.wait_agreed(&[0, 1, 2, 3]);
    cluster.kill(1);
    cluster
}

fn config(cluster: &Cluster, index: usize) -> PathBuf {
    cluster.local.replica_file(index).unwrap().to_owned()
}

fn replace(file: &Path, from: &str, to: &str) -> String {
    let text = fs::read_to_string(file).unwrap();
    assert!(text.contains(from), "{from:?} is not in {text}");
    fs::write(file, text.replacen(from, to, 1)).unwrap();
    text
}

/// Spoils the data of replica 1, sees the end and that nothing was touched; puts all back and sees it start.
fn spoiled(cluster: &mut Cluster, spoil: impl Fn(&Path), parts: &[&str]) {
    let data = cluster.home(1).join("data");
    let before = bytes_below(&data);
    spoil(&data);
    let spoiled = bytes_below(&data);
    run(&config(cluster, 1)).says(parts);
    assert!(bytes_below(&data) == spoiled, "something was overwritten");
    for (path, bytes) in before {
        fs::write(path, bytes).unwrap();
    }
}

fn change(file: &Path, offset: usize, change: impl Fn(u8) -> u8) {
    let mut bytes = fs::read(file).unwrap();
    bytes[offset] = change(bytes[offset]);
    fs::write(file, bytes).unwrap();
}

#[test]
fn a_data_directory_of_another_version_is_reported_and_left_alone() {
    let mut cluster = used();
    let segment = |data: &Path| data.join("log/00000000.seg");
    spoiled(&mut cluster, |data| change(&segment(data), 8, |_| 77), &["00000000.seg", "format version 77"]);
    // All is back as it was, and so is the replica.
    cluster.restart(1);
    cluster.wait_all();
    let mut client = cluster.client();
    cluster.assert_well(&mut client, &[0, 1, 2, 3]);
}

#[test]
fn what_belongs_to_others_is_not_touched() {
    let cluster = used();
    // A second process on the directory of one that runs.
    run(&config(&cluster, 0)).says(&["in use by another process"]);
    assert!(cluster.running(0));
    // A port where another listens.
    let mut taken = None;
    until("the port is free", || {
        taken = TcpListener::bind(cluster.address(1)).ok();
        taken.is_some()
    });
    run(&config(&cluster, 1)).says(&[&cluster.address(1), "in use"]);
    drop(taken);
    // The directory of another cluster.
    let mut other = Cluster::start();
    other.kill(1);
    let theirs = other.home(1).join("data");
    let before = bytes_below(&theirs);
    let mine = replace(&config(&cluster, 1), "data = \"data\"", &format!("data = {theirs:?}"));
    run(&config(&cluster, 1)).says(&["belongs to another cluster"]);
    assert!(bytes_below(&theirs) == before, "another cluster's directory was changed");
    fs::write(config(&cluster, 1), mine).unwrap();
}

#[test]
fn keys_and_configuration_are_checked_by_name_and_line() {
    let cluster = used();
    let file = config(&cluster, 1);
    let key = cluster.home(1).join("keys/link.key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    run(&file).says(&["link.key", "chmod 600"]);
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    // Another's key in its place.
    let own = fs::read(&key).unwrap();
    fs::write(&key, fs::read(cluster.home(2).join("keys/link.key")).unwrap()).unwrap();
    run(&file).says(&["link.key"]);
    fs::write(&key, own).unwrap();
    let original = fs::read_to_string(&file).unwrap();
    let line = |text: &str, part: &str| text.lines().position(|line| line.contains(part)).unwrap() + 1;
    for (section, wrong) in [
        ("log", "segment_mib = \"64 MiB\""),
        ("log", "segment_size = 4"),
        ("net", "handshake_timeout_ms = 1"),
        ("local", "status_interval_ms = -5"),
    ] {
        let text = original.replacen(&format!("[{section}]\n"), &format!("[{section}]\n{wrong}\n"), 1);
        let text = if wrong.starts_with("segment_mib") { text.replacen("\nsegment_mib = 4\n", "\n", 1) } else { text };
        fs::write(&file, &text).unwrap();
        let name = wrong.split(' ').next().unwrap();
        let at = line(&text, wrong).to_string();
        run(&file).says(&["config.toml", name, &at]);
    }
    fs::write(&file, &original).unwrap();
    run(&cluster.scratch("nothing.toml")).says(&["nothing.toml"]);
}

/// A file system of a few MiB, gone with the value.
struct Small(PathBuf);

impl Small {
    fn mount(dir: PathBuf, options: &str) -> Option<Self> {
        fs::create_dir_all(&dir).unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(&dir).stderr(Stdio::null());
        mount.status().is_ok_and(|status| status.success()).then_some(Self(dir))
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_and_a_read_only_one_are_named() {
    let cluster = used();
    let Some(full) = Small::mount(cluster.scratch("full"), "size=3m") else {
        println!("skipped: only root may mount a small file system");
        return;
    };
    let file = config(&cluster, 1);
    let original = replace(&file, "data = \"data\"", &format!("data = {:?}", full.0.join("data")));
    run(&file).says(&["disk full", "make room"]);
    fs::write(&file, &original).unwrap();
    if let Some(read_only) = Small::mount(cluster.scratch("read_only"), "size=64m,ro") {
        replace(&file, "data = \"data\"", &format!("data = {:?}", read_only.0.join("data")));
        run(&file).says(&["Read-only file system"]);
        fs::write(&file, &original).unwrap();
    }
}

/// A disk that fills up while the replica works ends it, or holds it back, with nothing lost; with room again it goes on.
#[test]
fn a_disk_that_fills_up_under_load_loses_nothing() {
    let mut cluster = used();
    let Some(small) = Small::mount(cluster.scratch("small"), "size=14m") else {
        println!("skipped: only root may mount a small file system");
        return;
    };
    let file = config(&cluster, 1);
    let data = small.0.join("data");
    replace(&file, "data = \"data\"", &format!("data = {data:?}"));
    cluster.restart(1);
    cluster.wait_all();
    let load = Load::start(&cluster, 2);
    load.wait_more(20);
    fs::write(small.0.join("ballast"), vec![1; 16 << 20]).unwrap_err();
    load.wait_more(200);
    fs::remove_file(small.0.join("ballast")).unwrap();
    if !cluster.running(1) {
        cluster.local.kill(1).unwrap();
        cluster.restart(1);
    }
    cluster.wait_all();
    let acknowledged = load.stop();
    check(&cluster, &[0, 1, 2, 3], &acknowledged);
    cluster.kill(1);
}

/// A log whose next segment does not fit waits while the others go on; with room again the same process does, too.
#[test]
fn a_log_without_room_waits_and_goes_on_in_the_same_process() {
    let mut cluster = used();
    // The log's directory alone, so that it is the log that finds no room.
    let data = cluster.scratch("tight");
    fs::create_dir(&data).unwrap();
    let Some(small) = Small::mount(data.join("log"), "size=64m") else {
        println!("skipped: only root may mount a small file system");
        return;
    };
    let file = config(&cluster, 1);
    replace(&file, "data = \"data\"", &format!("data = {data:?}"));
    replace(&file, "[local]\n", "[local]\nlow_space_mib = 0\n");
    // One segment of 4 MiB fits, a second does not.
    let ballast = small.0.join("ballast");
    fs::write(&ballast, vec![1; (64 << 20) - (7 << 20)]).unwrap();
    cluster.restart(1);
    cluster.wait_all();
    let pid = cluster.local.pid(1);
    let mut client = cluster.client();
    let mut acknowledged = Vec::new();
    let is_full = || cluster.status(1).is_some_and(|status| status.counters.iter().any(|(name, _)| name == "log.full"));
    while !is_full() {
        for _ in 0..10 {
            acknowledged.extend(client.write(100).unwrap());
        }
        assert!(cluster.running(1) && acknowledged.len() < 200_000, "{}", cluster.log_text(1));
    }
    until("it takes no new writes", || cluster.status(1).is_some_and(|status| status.low_space));
    let stuck = cluster.status(1).unwrap().sequence;
    for _ in 0..20 {
        acknowledged.extend(client.write(100).unwrap());
    }
    assert!(cluster.status(1).unwrap().low_space);
    fs::remove_file(&ballast).unwrap();
    until("it goes on", || cluster.status(1).is_some_and(|status| status.sequence > stuck + 15 && !status.low_space));
    assert_eq!(cluster.local.pid(1), pid);
    assert!(cluster.running(1));
    check(&cluster, &[0, 1, 2, 3], &acknowledged);
    cluster.kill(1);
}

#[test]
fn sigterm_and_sigint_end_well_under_load() {
    let mut cluster = Cluster::start();
    let load = Load::start(&cluster, 6);
    load.wait_more(50);
    // One after the other is asked, and comes back; the leader as well.
    for (index, signal) in [(2, Signal::TERM), (0, Signal::INT), (1, Signal::TERM)] {
        cluster.signal(index, signal);
        until(&format!("replica {index} ends"), || !cluster.running(index));
        // Its first thread may be gone a moment before the others are, and before there is an exit status.
        until(&format!("replica {index} has an exit status"), || cluster.local.check().is_err());
        let ended = cluster.local.check().map_err(|error| error.to_string());
        assert!(ended.as_ref().is_err_and(|text| text.contains("exit status: 0")), "{ended:?}");
        cluster.kill(index);
        cluster.restart(index);
        cluster.wait_all();
        load.wait_more(20);
    }
    let acknowledged = load.stop();
    check(&cluster, &[0, 1, 2, 3], &acknowledged);
    let load = Load::start(&cluster, 6);
    load.wait_more(50);
    // All four together while clients go on sending: each within the 5 s that `stop` allows, and with success.
    let stopped = cluster.stop();
    load.abandon();
    stopped.unwrap();
}
