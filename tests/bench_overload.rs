//! `atlas bench overload` and `atlas bench idle` on real processes: what they report, and that they leave nothing. No time is held
//! against anything.

use std::process::Command;

use serde_json::Value;

fn bench(what: &str, arguments: &[&str], dir: &std::path::Path) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_atlas"))
        .args(["bench", what, "--dir"])
        .arg(dir)
        .args(arguments)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(std::fs::read_dir(dir).unwrap().count(), 0);
    String::from_utf8(output.stdout).unwrap()
}

fn count(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is no count"))
}

#[test]
fn work_beyond_the_peak_is_accounted_for_and_forgers_are_told_apart_from_honest_clients() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let arguments = [
        "--clients",
        "4",
        "--bundle",
        "8",
        "--seconds",
        "1",
        "--warmup",
        "0.2",
        "--factors",
        "1.5,3",
        "--forged",
        "--forged-rate",
        "500",
        "--json",
    ];
    let report: Value = serde_json::from_str(&bench("overload", &arguments, dir.path())).unwrap();
    assert!(report["peak"]["ops_per_s"].as_f64().unwrap() > 0.0, "{report}");
    let phases = report["phases"].as_array().unwrap();
    assert_eq!(phases.len(), 2);
    let forged = &report["forged"];
    for phase in phases.iter().chain([&forged["alone"], &forged["beside"]]) {
        let [offered, unsent, away, refused, failed] =
            ["offered", "unsent", "turned_away", "refused", "failed"].map(|field| count(&phase[field]));
        assert!(offered > 0 && unsent + away + refused + failed <= offered, "{phase}");
        assert!(phase["ops_per_s"].as_f64().unwrap() > 0.0, "{phase}");
        let jain = phase["jain"].as_f64().unwrap();
        assert!((0.25..=1.0).contains(&jain), "{phase}");
        assert!(count(&phase["least_served"]) <= count(&phase["most_served"]), "{phase}");
        for line in phase["refusals"].as_array().unwrap() {
            assert!(count(&line["times"]) >= count(&line["hinted"]) && count(&line["code"]) > 0, "{line}");
        }
    }
    let flood = &forged["flood"];
    assert!(count(&flood["bundles"]) > 0 && count(&flood["stranger_dials"]) > 0, "{flood}");
    // What it forged never was an honest client's: none of theirs was refused for its signature.
    let refusals = forged["beside"]["refusals"].as_array().unwrap();
    assert!(refusals.iter().all(|line| !line["text"].as_str().unwrap().contains("signature")), "{refusals:?}");
}

#[test]
fn people_get_a_table_of_an_overload() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let arguments = ["--clients", "2", "--bundle", "4", "--seconds", "1", "--warmup", "0.1", "--factors", "2"];
    let text = bench("overload", &arguments, dir.path());
    for part in ["peak, closed loop", "of the peak", "2.0 times", "turned away", "Jain"] {
        assert!(text.contains(part), "{part} in\n{text}");
    }
    assert!(!text.contains("flood:"), "{text}");
}

#[test]
fn an_idle_replicas_threads_and_memory_are_told() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let arguments = ["--properties", "320", "--seconds", "1", "--settle", "0.5", "--json"];
    let report: Value = serde_json::from_str(&bench("idle", &arguments, dir.path())).unwrap();
    assert_eq!(count(&report["properties"]), 320);
    let replicas = report["replicas"].as_array().unwrap();
    assert_eq!(replicas.len(), 4);
    for replica in replicas {
        assert!(count(&replica["anonymous_bytes"]) > 0, "{replica}");
        assert!(!replica["threads"].as_array().unwrap().is_empty(), "{replica}");
        // Replicas tell each other where they are once a second: none sleeps through it all.
        assert!(replica["wakeups_per_s"].as_f64().unwrap() > 0.0, "{replica}");
    }
    assert!(report["within"].is_boolean() && report["most_cpu_share"].is_number(), "{report}");
    let text = bench("idle", &["--properties", "16", "--seconds", "1", "--settle", "0.1"], dir.path());
    for part in ["replica 3", "RssAnon", "most of a core", "most anonymous memory", "below 256 MiB"] {
        assert!(text.contains(part), "{part} in\n{text}");
    }
}
