use data_encoding::BASE64;
use hdrhistogram::serialization::Deserializer;
use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};
use serde_json::Value;

use super::*;
use crate::bench::floor::AppendMethod;
use crate::bench::floor::Percentiles;
use crate::bench::latencies;

fn floor() -> Floor {
    let part = Percentiles { p50: 50.0, p90: 60.0, p99: 70.0, p999: 80.0, max: 90.0, samples: 1_000 };
    Floor {
        hops_us: part,
        sign_us: part,
        verify_us: part,
        verify_batch_us: part,
        append_us: part,
        append_shared_us: part,
        append_method: AppendMethod::Direct,
        floor_us: 200.0,
        floor_p99_us: 280.0,
        replicas: 4,
    }
}

fn histogram() -> Histogram<u64> {
    let mut histogram = latencies().unwrap();
    for microsecond in 1..=1_000u64 {
        histogram.saturating_record(microsecond * 1_000);
    }
    histogram
}

fn report(latencies: &Histogram<u64>, rate: Option<f64>, elapsed: Duration) -> Report {
    let workload = Workload { bundle: 64, reads: false, payload: 128, clients: 2, in_flight: 3, rate, replicas: 4 };
    let environment = Environment { cpus: 2, kernel: "6.18.0".to_owned() };
    Report::new(workload, Outcome { elapsed, errors: 5, refused: 6 }, latencies, floor(), environment)
}

#[test]
fn json_has_the_promised_fields() {
    let report = report(&histogram(), Some(500.0), Duration::from_secs(2));
    let json = serde_json::to_value(&report).unwrap();
    for (name, want) in [
        ("ops_per_s", 500.0),
        ("p50_us", 500.0),
        ("p90_us", 900.0),
        ("p99_us", 990.0),
        ("p999_us", 999.0),
        ("p9999_us", 1_000.0),
        ("max_us", 1_000.0),
        ("floor_us", 200.0),
        ("ratio_to_floor", 2.5),
        ("bundle", 64.0),
        ("payload", 128.0),
        ("clients", 2.0),
        ("in_flight", 3.0),
        ("rate", 500.0),
        ("replicas", 4.0),
        ("seconds", 2.0),
        ("operations", 1_000.0),
        ("errors", 5.0),
        ("refused", 6.0),
    ] {
        let got = json[name].as_f64().unwrap_or_else(|| panic!("{name} is {}", json[name]));
        // Three significant digits of a histogram.
        assert!((got - want).abs() <= want / 1_000.0, "{name} is {got}, not {want}");
    }
    assert_eq!(json["floor"]["append_shared_us"]["p999"], 80.0);
    assert_eq!(json["floor"]["append_method"], "direct");
    assert_eq!(json["environment"], serde_json::json!({"cpus": 2, "kernel": "6.18.0"}));
}

#[test]
fn a_closed_loop_has_no_rate() {
    let report = report(&histogram(), None, Duration::from_secs(1));
    assert_eq!(serde_json::to_value(&report).unwrap()["rate"], Value::Null);
    assert!(report.to_string().contains("closed loop"));
}

#[test]
fn a_run_without_results_is_all_zero() {
    let report = report(&latencies().unwrap(), None, Duration::ZERO);
    assert_eq!((report.ops_per_s, report.p50_us, report.max_us, report.ratio_to_floor), (0.0, 0.0, 0.0, 0.0));
    serde_json::to_string(&report).unwrap();
}

#[test]
fn the_table_shows_latency_floor_and_ratio() {
    let text = report(&histogram(), Some(500.0), Duration::from_secs(2)).to_string();
    for part in ["500 operations/s due", "p99.99", "floor of this host", "200.0", "p50 in units of the floor"] {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
    assert!(text.lines().all(|line| line.len() <= 80 && line.trim_end() == line), "{text}");
    assert!(text.ends_with("2.50"), "{text}");
}

#[test]
fn an_hdr_log_gives_the_histogram_back() {
    let written = histogram();
    let start = SystemTime::UNIX_EPOCH + Duration::from_millis(1_427_766_000_500);
    let mut log = Vec::new();
    write_hdr(&mut log, &written, start, Duration::from_secs(2)).unwrap();
    let text = std::str::from_utf8(&log).unwrap();
    assert!(text.starts_with("#[Histogram log format version 1.3]\n"), "{text}");
    assert!(text.contains("\n0.000,2.000,1.000,HISTFAAAA"), "{text}");

    let entries: Vec<_> = IntervalLogIterator::new(&log).map(Result::unwrap).collect();
    let [LogEntry::StartTime(started), LogEntry::BaseTime(base), LogEntry::Interval(interval)] = &entries[..] else {
        panic!("{entries:?}")
    };
    assert_eq!((started.as_millis(), base.as_millis()), (1_427_766_000_500, 1_427_766_000_500));
    assert_eq!((interval.start_timestamp(), interval.duration()), (Duration::ZERO, Duration::from_secs(2)));
    let bytes = BASE64.decode(interval.encoded_histogram().as_bytes()).unwrap();
    let read: Histogram<u64> = Deserializer::new().deserialize(&mut &bytes[..]).unwrap();
    assert_eq!(read, written);
}
