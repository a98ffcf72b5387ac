//! What an operator gets beside the binary: profiles that a replica takes, a unit that systemd takes, a replica that tells its service
//! manager the truth, and `atlas host` and `atlas plot` as programs.

mod support;

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use atlas_dataplane::cluster::ReplicaSetup;
use support::{Cluster, PATIENCE};

fn atlas() -> Command {
    Command::new(env!("CARGO_BIN_EXE_atlas"))
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn tuning() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tuning")
}

#[test]
fn every_profile_is_a_configuration_that_a_replica_takes() {
    let dir = tempfile::tempdir().unwrap();
    let plant = dir.path().join("plant");
    assert!(atlas().arg("init").arg(&plant).args(["--replicas", "4"]).output().unwrap().status.success());
    let config = plant.join("replica-0/config.toml");
    let usual = ReplicaSetup::load(&config).unwrap().config;
    let mut profiles = Vec::new();
    for entry in fs::read_dir(tuning().join("profiles")).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, &config).unwrap();
        let setup = ReplicaSetup::load(&config).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert!(setup.config != usual, "{} changes nothing", path.display());
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        assert_eq!(setup.config.core.is_some(), name.starts_with("dedicated"), "{name}");
        profiles.push(name);
    }
    profiles.sort();
    assert_eq!(profiles, ["dedicated-16core", "dedicated-8core", "laptop", "shared-2core"]);
}

/// `systemd-analyze verify` and `security` on a copy that names the built binary, where systemd is installed.
#[test]
fn the_unit_is_one_that_systemd_takes() {
    let output = Command::new(tuning().join("check-units")).arg(env!("CARGO_BIN_EXE_atlas")).output().unwrap();
    match output.status.code() {
        Some(77) => eprintln!("{}", text(&output)),
        code => assert_eq!(code, Some(0), "{}", text(&output)),
    }
    let unit = fs::read_to_string(tuning().join("systemd/atlas-replica@.service")).unwrap();
    for line in ["Type=notify", "WatchdogSec=30s", "LimitMEMLOCK=infinity", "SystemCallFilter=@system-service @aio"] {
        assert!(unit.lines().any(|it| it == line), "no {line}");
    }
}

/// Reads what a service says until a line comes, and gives all lines before it.
fn said_until(manager: &UnixDatagram, line: &str) -> Vec<String> {
    let (mut lines, deadline) = (Vec::new(), Instant::now() + PATIENCE);
    let mut buffer = [0; 4096];
    loop {
        assert!(Instant::now() < deadline, "no {line} among {lines:?}");
        let Ok(bytes) = manager.recv(&mut buffer) else { continue };
        for said in String::from_utf8_lossy(&buffer[..bytes]).lines() {
            if said == line {
                return lines;
            }
            lines.push(said.to_owned());
        }
    }
}

/// Ends a process with the test.
struct Running(std::process::Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_replica_is_ready_when_it_has_caught_up_and_not_before() {
    let mut cluster = Cluster::start();
    (0..4).for_each(|index| cluster.kill(index));
    let socket = cluster.scratch("notify");
    let manager = UnixDatagram::bind(&socket).unwrap();
    manager.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let config = cluster.home(0).join("config.toml");
    let child = atlas()
        .args(["replica", "--config"])
        .arg(&config)
        .env("NOTIFY_SOCKET", &socket)
        .env("WATCHDOG_USEC", "400000")
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let _running = Running(child);
    // Alone it lives, and tells so again and again, but is not ready.
    let mut before = Vec::new();
    for _ in 0..3 {
        before.extend(said_until(&manager, "WATCHDOG=1"));
    }
    // With one other there is no quorum yet.
    cluster.restart(1);
    for _ in 0..5 {
        before.extend(said_until(&manager, "WATCHDOG=1"));
    }
    assert!(before.iter().any(|line| line.starts_with("STATUS=catching up")), "{before:?}");
    assert!(!before.iter().any(|line| line == "READY=1"), "{before:?}");
    cluster.restart(2);
    said_until(&manager, "READY=1");
    let after = said_until(&manager, "WATCHDOG=1");
    assert!(!after.iter().any(|line| line == "READY=1"), "{after:?}");
}

fn host(root: &Path, arguments: &[&str]) -> Output {
    let (command, rest) = arguments.split_first().unwrap();
    atlas().args(["host", command, "--root"]).arg(root).args(rest).output().unwrap()
}

fn put(root: &Path, path: &str, text: &str) {
    let place = root.join(path);
    fs::create_dir_all(place.parent().unwrap()).unwrap();
    fs::write(place, text).unwrap();
}

#[test]
fn the_hosts_check_ends_with_its_worst_finding_and_tuning_can_be_undone() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    put(&root, "proc/sys/kernel/io_uring_disabled", "2\n");
    put(&root, "sys/kernel/mm/transparent_hugepage/enabled", "always\n");
    let check = host(&root, &["check", "--json"]);
    assert_eq!(check.status.code(), Some(11), "{}", text(&check));
    let lines: Vec<serde_json::Value> =
        String::from_utf8_lossy(&check.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let (summary, findings) = lines.split_last().unwrap();
    assert_eq!(summary["worst"], "critical");
    let switch = findings.iter().find(|finding| finding["check"] == "io_uring_disabled").unwrap();
    assert_eq!((&switch["severity"], &switch["found"]), (&"critical".into(), &"2".into()));
    assert!(switch["fix"].as_str().unwrap().contains("sysctl -w kernel.io_uring_disabled=0"));

    assert_eq!(host(&root, &["tune"]).status.code(), Some(2), "nothing is done that nobody asked for");
    let shown = host(&root, &["tune", "--dry-run"]);
    let commands = String::from_utf8(shown.stdout).unwrap();
    assert_eq!(commands.lines().count(), 2, "{commands}");
    assert_eq!(fs::read_to_string(root.join("proc/sys/kernel/io_uring_disabled")).unwrap(), "2\n");

    let undo = dir.path().join("undo.sh");
    let arguments = ["tune", "--apply", "--undo-script", undo.to_str().unwrap()];
    let applied = host(&root, &arguments);
    assert_eq!(applied.status.code(), Some(0), "{}", text(&applied));
    assert_eq!(fs::read_to_string(root.join("proc/sys/kernel/io_uring_disabled")).unwrap(), "0\n");
    // A warning would be 10: what this machine's clock is like is not known here, so at most that.
    assert_ne!(host(&root, &["check"]).status.code(), Some(11));
    assert!(Command::new("sh").arg(&undo).status().unwrap().success());
    assert_eq!(fs::read_to_string(root.join("proc/sys/kernel/io_uring_disabled")).unwrap(), "2\n");
    assert_eq!(fs::read_to_string(root.join("sys/kernel/mm/transparent_hugepage/enabled")).unwrap(), "always\n");
    let again = host(&root, &arguments);
    assert_eq!(again.status.code(), Some(1));
    assert!(text(&again).contains("nothing was changed"), "{}", text(&again));
    assert_eq!(fs::read_to_string(root.join("proc/sys/kernel/io_uring_disabled")).unwrap(), "2\n");
}

#[test]
fn a_plot_of_what_is_no_log_says_where_it_goes_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let (file, picture) = (dir.path().join("x.hlog"), dir.path().join("x.svg"));
    fs::write(&file, "#[comment]\nhello\n").unwrap();
    let output = atlas().arg("plot").arg(&file).arg("-o").arg(&picture).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output).contains("x.hlog, line 2: it does not begin with three numbers"), "{}", text(&output));
    assert!(!picture.exists());
}

/// Where a script of the clone is run with the built binary.
fn script(name: &str) -> Command {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut command = Command::new(root.join("scripts").join(name));
    command.env("ATLAS", env!("CARGO_BIN_EXE_atlas")).stdin(Stdio::null());
    command
}

/// Where dpkg-deb is installed.
#[test]
fn the_package_holds_what_it_should_and_its_binary_runs() {
    if Command::new("dpkg-deb").arg("--version").output().is_err() {
        eprintln!("dpkg-deb is not installed: no package was built");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let built = script("package").arg(dir.path()).env("ATLAS_DEB", "-Zgzip -z1").output().unwrap();
    assert!(built.status.success(), "{}", text(&built));
    let package = PathBuf::from(String::from_utf8(built.stdout).unwrap().trim());
    let run = |arguments: &[&str]| {
        let output = Command::new("dpkg-deb").args(arguments).output().unwrap();
        assert!(output.status.success(), "{}", text(&output));
        String::from_utf8(output.stdout).unwrap()
    };
    let contents = run(&["-c", package.to_str().unwrap()]);
    for file in [
        "./usr/bin/atlas",
        "./usr/lib/systemd/system/atlas-replica@.service",
        "./usr/lib/sysusers.d/atlas.conf",
        "./usr/share/atlas/tuning/profiles/dedicated-8core.toml",
        "./usr/share/atlas/tuning/sysctl.d/60-atlas.conf",
        "./usr/share/atlas/tuning/tuned/atlas/tuned.conf",
        "./usr/share/atlas/scripts/rolling-upgrade",
        "./usr/share/atlas/scripts/lib.sh",
        "./usr/share/atlas/tuning/monitoring/alerts.yml",
        "./usr/share/doc/atlas/operating.md",
        "./usr/share/doc/atlas/atlas.cdx.json",
    ] {
        assert!(contents.lines().any(|line| line.ends_with(&format!(" {file}"))), "no {file} in {contents}");
    }
    assert!(!contents.contains(".key"), "{contents}");
    let root = dir.path().join("root");
    run(&["-x", package.to_str().unwrap(), root.to_str().unwrap()]);
    let version = Command::new(root.join("usr/bin/atlas")).arg("--version").output().unwrap();
    assert!(version.status.success() && text(&version).starts_with("atlas "), "{}", text(&version));
    let bill: serde_json::Value =
        serde_json::from_slice(&fs::read(root.join("usr/share/doc/atlas/atlas.cdx.json")).unwrap()).unwrap();
    assert_eq!(bill["bomFormat"], "CycloneDX");
    let parts = bill["components"].as_array().unwrap();
    let ring = parts.iter().find(|part| part["name"] == "ring").unwrap();
    assert_eq!(ring["hashes"][0]["content"].as_str().map(str::len), Some(64));
    // Everything that comes from elsewhere has a checksum and a licence, and nothing stands there twice.
    assert!(parts.iter().all(|part| part["hashes"].is_array() && part["licenses"].is_array()), "{parts:#?}");
    let mut names: Vec<_> = parts.iter().map(|part| part["purl"].as_str().unwrap()).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), parts.len());
}

/// The first of four ports in a row on which nothing listens, below those of outgoing connections.
fn four_ports() -> u16 {
    let first = 20_000 + u16::try_from(std::process::id() % 2_000).unwrap() * 4;
    let free = |port: u16| std::net::TcpListener::bind(("127.0.0.1", port)).is_ok();
    let mut tries = (first..30_000).step_by(4);
    tries.find(|port| (*port..*port + 4).all(free)).unwrap()
}

/// The scripts' way over ssh, with a program in its place that runs here what it is given: four "hosts", their own directories, and
/// nothing left of them at the end.
#[test]
fn a_benchmark_over_several_hosts_leaves_results_here_and_nothing_there() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let (ssh, remote, out) = (dir.path().join("ssh"), dir.path().join("remote"), dir.path().join("out"));
    fs::create_dir(&remote).unwrap();
    fs::write(&ssh, "#!/bin/bash\nshift\nexec bash -c \"$*\"\n").unwrap();
    fs::set_permissions(&ssh, fs::Permissions::from_mode(0o755)).unwrap();
    let ran = script("bench-latency")
        .args(["--hosts", "127.0.0.1,127.0.0.1,127.0.0.1,127.0.0.1", "--runs", "2", "--seconds", "1", "--out"])
        .arg(&out)
        .env("ATLAS_PORT", four_ports().to_string())
        .env("ATLAS_SSH", &ssh)
        .env("ATLAS_REMOTE", &remote)
        .output()
        .unwrap();
    assert!(ran.status.success(), "{}", text(&ran));
    let table = String::from_utf8_lossy(&ran.stdout).into_owned();
    assert!(table.starts_with("RUN") && table.contains("all runs") && table.contains("run 2"), "{table}");
    for file in [
        "runs.svg",
        "run-1.hlog",
        "runs.jsonl",
        "environment.txt",
        "environment-replica-3.txt",
        "replica-3.log",
        "host-check.jsonl",
    ] {
        assert!(fs::metadata(out.join(file)).is_ok_and(|file| file.len() > 0), "no {file}");
    }
    assert!(fs::metadata(out.join("host-check-replica-0.jsonl")).unwrap().len() > 0);
    assert_eq!(fs::read_dir(&remote).unwrap().count(), 0, "what was made on the hosts is removed");

    let picture = dir.path().join("compared.svg");
    let compared = script("compare-runs").arg("--out").arg(&picture).args([&out, &out]).output().unwrap();
    assert!(compared.status.success(), "{}", text(&compared));
    let counted = |line: &str| line.split_whitespace().find_map(|word| word.parse::<u64>().ok());
    let all = table.lines().find(|line| line.starts_with("all runs")).and_then(counted);
    // All runs of each result count, not one of them.
    let lines = String::from_utf8_lossy(&compared.stdout).into_owned();
    assert_eq!(
        lines.lines().skip(1).map(|line| counted(line.split_once(')').map_or(line, |it| it.1))).collect::<Vec<_>>(),
        [all, all]
    );
    assert!(fs::read_to_string(picture).unwrap().starts_with("<svg"));
}

#[test]
fn scripts_refuse_what_they_do_not_know() {
    for (name, arguments, says) in [
        ("bench-latency", &["--what"][..], "unknown argument --what"),
        ("bench-latency", &["--runs", "99"], "--runs is 1 to 7"),
        ("bench-throughput", &["--hosts", "one,two", "--out", "/nonexistent/x"], "four hosts or more"),
        ("bench-failover", &["--hosts", "a,b,c,d"], "--hosts is not possible"),
        ("compare-runs", &[], "one to eight results"),
        ("package", &["--nothing"], "unknown argument"),
        ("rolling-upgrade", &["--hosts", "a,b,c,d"], "--cluster and --identity"),
    ] {
        let output = script(name).args(arguments).output().unwrap();
        assert!(matches!(output.status.code(), Some(1 | 2)), "{name}: {}", text(&output));
        assert!(text(&output).contains(says), "{name}: {}", text(&output));
    }
}
