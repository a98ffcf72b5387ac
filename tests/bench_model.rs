//! `atlas bench model` on this host: what it reports, and that it leaves nothing. No cost is held against anything.

use std::process::{Command, Output};

use serde_json::Value;

fn bench(arguments: &[&str], dir: &std::path::Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_atlas"))
        .args(["bench", "model", "--dir"])
        .arg(dir)
        .args(arguments)
        .output()
        .unwrap()
}

fn text(output: Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn it_measures_every_stage_predicts_every_cluster_and_is_held_against_four_replicas() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let arguments = ["--seconds", "1", "--under-way", "16", "--clients", "4", "--rtt-us", "0", "--check", "--json"];
    let report: Value = serde_json::from_str(&text(bench(&arguments, dir.path()))).unwrap();
    let positive = |value: &Value| value.as_f64().is_some_and(|value| value > 0.0);
    let costs = &report["costs"];
    for cost in [&costs["link"]["hop_us"], &costs["link"]["send"]["call_us"], &costs["verify"][0]["signature_us"]] {
        assert!(positive(cost), "{costs}");
    }
    for order in costs["order"].as_array().unwrap() {
        assert!(positive(&order["sequence_us"]), "{order}");
    }
    for sync in costs["syncs"].as_array().unwrap() {
        assert!(positive(&sync["fixed_us"]), "{sync}");
    }
    for bundle in costs["bundles"].as_array().unwrap() {
        for cost in ["request_bytes", "reply_bytes", "submit_us", "read_us", "execute_us", "reply_us", "tally_us"] {
            assert!(positive(&bundle[cost]), "{cost} in {bundle}");
        }
    }
    // Two sizes of bundles, three of clusters; this host, and four servers by default, with verify_cores, and as it is not built.
    let lines = report["lines"].as_array().unwrap();
    assert_eq!(lines.len(), 2 * 3 * 13);
    for line in lines {
        assert!(
            ["ops_per_s", "alone_us", "half_us", "peak_us", "batch"].iter().all(|field| positive(&line[*field])),
            "{line}"
        );
        assert_eq!(line["built"].as_bool(), Some(line["placement"] != "stages_on_cores"), "{line}");
        assert!(line["bottleneck"].as_str().is_some_and(|name| !name.is_empty()), "{line}");
    }
    let checks = report["checks"].as_array().unwrap();
    let bundles: Vec<_> = checks.iter().map(|check| check["bundle"].as_u64().unwrap()).collect();
    assert_eq!(bundles, [1, 64]);
    for check in checks {
        for field in ["measured_ops_per_s", "measured_batch", "measured_alone_us", "throughput_ratio", "latency_ratio"]
        {
            assert!(positive(&check[field]), "{field} in {check}");
        }
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn people_get_a_table_with_its_assumptions_and_wrong_links_are_refused() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let table = text(bench(&["--seconds", "1", "--link-gbit", "25", "--disk-us", "20"], dir.path()));
    for part in
        ["25 Gbit/s", "20 us a sync", "ONE data thread", "NOT BUILT", "bottleneck", "assumed:", "verify: a signature"]
    {
        assert!(table.contains(part), "{part} in\n{table}");
    }
    assert!(!table.contains("model/measured  "), "{table}");
    for wrong in [["--link-gbit", "0"], ["--rtt-us", "-1"], ["--disk-us", "soon"], ["--clients", "0"]] {
        let output = bench(&wrong, dir.path());
        assert_eq!(output.status.code(), Some(2), "{wrong:?}");
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}
