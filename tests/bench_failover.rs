//! `atlas bench failover` on real processes: what it reports, and that it leaves nothing. No time is held against anything.

use std::process::{Command, Output};

use serde_json::Value;

fn bench(arguments: &[&str], dir: &std::path::Path) -> (Vec<Value>, String) {
    let Output { status, stdout, stderr } = Command::new(env!("CARGO_BIN_EXE_atlas"))
        .args(["bench", "failover", "--rate", "200", "--dir"])
        .arg(dir)
        .args(arguments)
        .output()
        .unwrap();
    let error = String::from_utf8(stderr).unwrap();
    assert!(status.success(), "{error}");
    let text = String::from_utf8(stdout).unwrap();
    let lines = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    (lines, text)
}

fn left(dir: &std::path::Path) -> Vec<std::ffi::OsString> {
    std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name()).collect()
}

#[test]
fn every_kind_of_fault_is_measured_and_the_work_goes_on() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let svg = dir.path().join("failover.svg");
    let arguments = ["--repetitions", "2", "--quiet-seconds", "1", "--json", "--svg", svg.to_str().unwrap()];
    let (lines, text) = bench(&arguments, dir.path());
    let kinds: Vec<&str> = lines.iter().map(|line| line["what"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["kill", "stop", "slow", "quiet"], "{text}");
    for line in &lines {
        let count = |field: &str| line[field].as_u64().unwrap_or_else(|| panic!("{field}: {line}"));
        assert_eq!((count("errors"), count("replicas"), line["rate"].as_f64()), (0, 4, Some(200.0)), "{line}");
        // A host that stalls may be the reason for any number of these; they are there all the same.
        count("suspicions_without_cause");
        count("host_stalls");
    }
    for line in &lines[..3] {
        let (counted, excluded) = (line["repetitions"].as_u64().unwrap(), line["excluded"].as_u64().unwrap());
        assert!(counted == 2 || excluded == 2, "{line}");
        assert_eq!(line["gaps_ms"].as_array().unwrap().len() as u64, counted);
        for field in ["median_ms", "p99_ms", "max_ms", "latency_median_ms", "latency_max_ms"] {
            assert_eq!(line[field].as_f64().is_some_and(|value| value > 0.0), counted > 0, "{field}: {line}");
        }
    }
    // Nobody commits under a dead or stopped leader: each of these was replaced.
    for line in &lines[..2] {
        assert_eq!(line["replaced"], line["repetitions"], "{line}");
    }
    assert!(lines[3]["operations"].as_u64().unwrap() > 0, "{text}");
    assert!(lines[3]["longest_gap_ms"].as_f64().unwrap() > 0.0, "{text}");
    let drawn = std::fs::read_to_string(&svg).unwrap();
    assert_eq!(drawn.matches("<g ").count(), 3, "a panel for each kind");
    assert_eq!(left(dir.path()), [svg.file_name().unwrap()]);
}

#[test]
fn the_quiet_phase_alone_saturates_the_cluster_and_counts_suspicions() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (lines, text) = bench(&["--what", "quiet", "--quiet-seconds", "2", "--saturated", "--json"], dir.path());
    let [line] = &lines[..] else { panic!("{text}") };
    assert_eq!((&line["what"], &line["saturated"]), (&"quiet".into(), &true.into()));
    // Far more than the rate would have been.
    assert!(line["operations"].as_u64().unwrap() > 400, "{line}");
    assert!(line["suspicions_without_cause"].is_u64(), "{line}");
    assert_eq!(left(dir.path()).len(), 0);
}

#[test]
fn people_get_a_table_and_drawings() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (_, text) = bench(&["--what", "kill", "--repetitions", "1", "--quiet-seconds", "0"], dir.path());
    for part in ["4 replicas", "leader killed (kill -9)", "target for the median", "suspicions without cause", "stalls"]
    {
        assert!(text.contains(part), "{part} in {text}");
    }
    assert!(!text.contains("no fault"), "{text}");
}
