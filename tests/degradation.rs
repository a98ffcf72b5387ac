//! Too few replicas, and full disks: what still works works, what does not says why, and all goes on by itself once it can.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use atlas::local::{LocalCluster, LocalOptions};
use serde_json::Value;

/// How long anything that must happen may take, on a machine with other things to do.
const PATIENCE: Duration = Duration::from_secs(90);

struct Plant {
    cluster: LocalCluster,
    _dir: tempfile::TempDir,
}

fn start(program: impl FnOnce(&Path) -> PathBuf) -> Plant {
    // Beside the build, as temporary directories may lie in memory.
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let options = LocalOptions {
        program: Some(program(dir.path())),
        segment_mib: 4,
        ready_timeout: PATIENCE,
        ..LocalOptions::default()
    };
    let cluster = LocalCluster::start(&dir.path().join("cluster"), 4, &options).unwrap();
    Plant { cluster, _dir: dir }
}

fn plain(_: &Path) -> PathBuf {
    env!("CARGO_BIN_EXE_atlas").into()
}

impl Plant {
    fn command(&self, line: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_atlas"));
        command.args(line).env("ATLAS_CLUSTER", self.cluster.cluster_file()).stdin(Stdio::null());
        command.env("ATLAS_IDENTITY", self.cluster.identity("operator").unwrap());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Exit code, output, errors.
    fn run(&self, line: &[&str]) -> (i32, String, String) {
        let output = self.command(line).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    }

    /// A write that must succeed; its position.
    fn write(&self, value: &str) -> String {
        let (code, out, err) = self.run(&["set", "plant/t-1", value, "--json", "--timeout", "90"]);
        assert_eq!(code, 0, "{err}");
        let object: Value = serde_json::from_str(&out).unwrap();
        object["position"].as_str().unwrap().to_owned()
    }

    /// What an unordered read at or behind a position gives.
    fn read_at(&self, position: &str) -> Value {
        let line = ["get", "plant/t-1", "power", "--unordered", "--at-least", position, "--json", "--timeout", "60"];
        let (code, out, err) = self.run(&line);
        assert_eq!(code, 0, "{err}");
        serde_json::from_str::<Value>(&out).unwrap()["value"].clone()
    }

    fn statuses(&self) -> Vec<Value> {
        let (_, out, _) = self.run(&["status", "--json", "--timeout", "20"]);
        out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn wait_low(&self, is_low: bool) {
        let deadline = Instant::now() + PATIENCE;
        while !self.statuses().iter().all(|status| status["low_space"] == is_low) {
            assert!(Instant::now() < deadline, "low space is not {is_low} everywhere: {:?}", self.statuses());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Starts a replica again with another `low_space_mib`.
    fn set_mark(&mut self, index: usize, mark: &str) {
        let file = self.cluster.replica_file(index).unwrap().to_owned();
        let text = fs::read_to_string(&file).unwrap();
        let lines = text.lines().filter(|line| !line.starts_with("low_space_mib"));
        let text: Vec<&str> = lines.collect();
        let line = format!("[local]\nlow_space_mib = {mark}");
        fs::write(file, text.join("\n").replacen("[local]", &line, 1)).unwrap();
        // It may be down already.
        let _ = self.cluster.kill(index);
        self.cluster.restart(index).unwrap();
    }

    fn assert_refused_for_space(&self) {
        let (code, _, err) = self.run(&["set", "plant/t-1", "power=0", "--timeout", "3"]);
        assert_eq!(code, 3, "{err}");
        assert!(err.contains("low on disk space (502)") && err.contains("replica-"), "{err}");
    }
}

#[test]
fn without_a_quorum_writes_say_who_is_missing_and_reads_go_on() {
    let mut plant = start(plain);
    let position = plant.write("power=1");
    plant.cluster.kill(2).unwrap();
    plant.cluster.kill(3).unwrap();
    let (code, _, err) = plant.run(&["set", "plant/t-1", "power=2", "--timeout", "3"]);
    assert_eq!(code, 4, "{err}");
    assert!(err.contains("start replica-2, replica-3,"), "{err}");
    assert!(err.contains("2 of 4 replicas can be reached") && err.contains("need 3"), "{err}");
    assert_eq!(plant.read_at(&position), 1);
    let (code, out, _) = plant.run(&["status", "--timeout", "3"]);
    assert_eq!(code, 4);
    assert!(out.contains("replica-3 did not answer"), "{out}");

    // A write waits, and is carried out when there is a quorum again; nothing else is started or told.
    let waiting = plant.command(&["set", "plant/t-1", "power=3", "--timeout", "90"]).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(500));
    plant.cluster.restart(3).unwrap();
    let output = waiting.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let position = plant.write("state=running");
    assert_eq!(plant.read_at(&position), 3);
}

/// The mark stands above whatever is free.
#[test]
fn with_too_little_room_writes_are_refused_and_reads_and_catching_up_go_on() {
    let mut plant = start(plain);
    plant.cluster.kill(3).unwrap();
    let position = plant.write("power=1");
    (0..4).for_each(|index| plant.set_mark(index, "1073741824"));
    plant.wait_low(true);
    plant.assert_refused_for_space();
    assert_eq!(plant.read_at(&position), 1);
    let text = plant.run(&["status"]).1;
    assert!(text.contains("replica-2 refuses new writes"), "{text}");
    let deadline = Instant::now() + PATIENCE;
    while !plant.statuses().iter().all(|status| status["history_size"] == plant.statuses()[0]["history_size"]) {
        assert!(Instant::now() < deadline, "replica 3 does not catch up: {:?}", plant.statuses());
    }
    // With f+1 that have room the cluster goes on, whoever leads; the others vote with them.
    (2..4).for_each(|index| plant.set_mark(index, "0"));
    let position = plant.write("power=2");
    assert_eq!(plant.read_at(&position), 2);
    (0..2).for_each(|index| plant.set_mark(index, "0"));
    plant.wait_low(false);
    let position = plant.write("power=3");
    assert_eq!(plant.read_at(&position), 3);
}

/// A program that gives each replica a small disk of its own, as far as the system lets an ordinary user do that.
fn with_small_disks(dir: &Path) -> PathBuf {
    let path = dir.join("atlas");
    let text = format!(
        "#!/bin/sh\nhome=\"$(dirname \"$3\")\"\nmkdir -p \"$home/data\"\n\
         grep -q '^low_space_mib' \"$3\" || sed -i 's/^\\[local\\]$/[local]\\nlow_space_mib = 48/' \"$3\"\n\
         exec unshare -Urm sh -c 'mount -t tmpfs -o size=160m tmpfs \"$0/data\" && exec \"$@\"' \"$home\" '{}' \"$@\"\n",
        env!("CARGO_BIN_EXE_atlas")
    );
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

fn may_mount() -> bool {
    let line = ["-Urm", "mount", "-t", "tmpfs", "tmpfs", "/mnt"];
    Command::new("unshare").args(line).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

#[test]
fn disks_that_fill_together_and_are_cleared_bring_the_cluster_back_by_themselves() {
    if !may_mount() {
        eprintln!("not run: this system lets no ordinary user mount a file system of its own");
        return;
    }
    let plant = start(with_small_disks);
    let position = plant.write("power=1");
    let fillers: Vec<PathBuf> = (0..4)
        .map(|index| {
            // The disk as the replica sees it.
            let home = plant.cluster.replica_file(index).unwrap().parent().unwrap().to_owned();
            let home = fs::canonicalize(home).unwrap();
            let pid = plant.cluster.pid(index).unwrap();
            Path::new(&format!("/proc/{pid}/root")).join(home.strip_prefix("/").unwrap()).join("data/filler")
        })
        .collect();
    for filler in &fillers {
        let data = filler.parent().unwrap();
        let room = rustix::fs::statvfs(data).unwrap();
        let free = room.f_bavail * room.f_frsize;
        assert!(free > 64 << 20 && free < 160 << 20, "{free} bytes are free in {}", data.display());
        fs::write(filler, vec![1; (free - (32 << 20)) as usize]).unwrap();
    }
    plant.wait_low(true);
    plant.assert_refused_for_space();
    assert_eq!(plant.read_at(&position), 1);
    let waiting = plant.command(&["set", "plant/t-1", "power=2", "--timeout", "90"]).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(500));
    fillers.iter().for_each(|filler| fs::remove_file(filler).unwrap());
    let output = waiting.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    plant.wait_low(false);
    let position = plant.write("state=running");
    assert_eq!(plant.read_at(&position), 2);
}
