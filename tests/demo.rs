//! `atlas demo` as a user runs it, without a terminal: what it says, how it ends, and that nothing stays behind.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::process::{Pid, Signal, kill_process};

/// One after the other: four replicas each are enough for a small host.
fn alone() -> MutexGuard<'static, ()> {
    static LOCK: Mutex<()> = Mutex::new(());
    LOCK.lock().unwrap_or_else(PoisonError::into_inner)
}

fn start(arguments: &[&str], temporary: &Path) -> Child {
    Command::new(env!("CARGO_BIN_EXE_atlas"))
        .arg("demo")
        .args(arguments)
        .env("TMPDIR", temporary)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Exit code, standard output and standard error of a demonstration that runs to its end.
fn run(arguments: &[&str], temporary: &Path) -> (Option<i32>, String, String) {
    let output = start(arguments, temporary).wait_with_output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

fn is_empty(dir: &Path) -> bool {
    fs::read_dir(dir).unwrap().next().is_none()
}

/// The command lines of all processes that name the directory.
fn processes_of(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for process in fs::read_dir("/proc").unwrap().flatten() {
        let line = fs::read(process.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if line.contains(dir.to_str().unwrap()) {
            found.push(line);
        }
    }
    found
}

#[test]
fn the_whole_story_holds_and_leaves_nothing() {
    let _alone = alone();
    let temporary = tempfile::tempdir().unwrap();
    let (code, out, err) = run(&["--pace", "0"], temporary.path());
    assert_eq!(code, Some(0), "{err}\n{out}");
    assert_eq!(err, "");
    for line in [
        "=== 01:40 UTC: turbine R80790 trips",
        "=== The day goes on",
        "=== Is it all there, everywhere?",
        "=== Summary",
        "All 11 checks hold.",
    ] {
        assert!(out.lines().any(|found| found == line), "no line {line:?} in\n{out}");
    }
    for part in [
        "gateway  power       -4.7600002          2015-03-31T01:40:00Z",
        "condition not met (300): la-haute-borne/R80790 state == \"stopped\": is \"stopping\"",
        ": 576 rows, 4032 values",
        "the exported history holds in an offline audit: ",
        "one byte changed in a copy of it is found: tile/entries/000, entry ",
        "operations    585 signed: 576 measurements and 7 states by the gateway, 2 commands by the operator",
        "ENGIE - original data downloaded from opendata-renewables.engie.com, updated on 9 October 2019",
    ] {
        assert!(out.contains(part), "no {part:?} in\n{out}");
    }
    let step = |line: &&str| line.get(5..6) == Some("|") && line.starts_with(|c: char| c.is_ascii_digit());
    assert_eq!(out.lines().filter(step).count(), 144, "{out}");
    assert!(!out.contains('\x1b') && !out.contains("FAILED"), "{out}");
    assert!(out.contains("which is replica 0, the leader") && out.contains("replica 0 is back after "), "{out}");
    assert!(out.contains("begins to lie") && out.contains("the others caught it: "), "{out}");
    assert!(out.contains("evidence      against replica ") && out.contains("failover      "), "{out}");
    assert!(is_empty(temporary.path()));
    assert_eq!(processes_of(temporary.path()), Vec::<String>::new());
}

#[test]
fn an_interrupt_in_the_middle_leaves_nothing() {
    let _alone = alone();
    let temporary = tempfile::tempdir().unwrap();
    // At this pace the day takes 24 minutes: it does not end by itself before the signal.
    let mut demo = start(&["--pace", "10000"], temporary.path());
    let mut lines = BufReader::new(demo.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().starts_with("00:00|")));
    assert_eq!(processes_of(temporary.path()).len(), 4);
    kill_process(Pid::from_child(&demo), Signal::INT).unwrap();
    let status = demo.wait().unwrap();
    let mut err = String::new();
    demo.stderr.take().unwrap().read_to_string(&mut err).unwrap();
    assert_eq!(status.code(), Some(1), "{err}");
    assert!(err.contains("interrupted"), "{err}");
    assert!(is_empty(temporary.path()));
    assert_eq!(processes_of(temporary.path()), Vec::<String>::new());
}

#[test]
fn a_kept_directory_stays_and_is_not_used_twice() {
    let _alone = alone();
    let temporary = tempfile::tempdir().unwrap();
    let kept = temporary.path().join("kept");
    let arguments = ["--pace", "0", "--keep", kept.to_str().unwrap()];
    let (code, out, err) = run(&arguments, temporary.path());
    assert_eq!(code, Some(0), "{err}\n{out}");
    assert!(kept.join("cluster.toml").is_file() && kept.join("replica-3").is_dir());
    assert!(kept.join("export/checkpoint").is_file() && kept.join("export/policy.txt").is_file());
    assert_eq!(processes_of(temporary.path()), Vec::<String>::new());
    let (code, _, err) = run(&arguments, temporary.path());
    assert_eq!(code, Some(1), "{err}");
    assert!(err.contains("already holds a cluster"), "{err}");
    assert!(kept.join("cluster.toml").is_file());
}
