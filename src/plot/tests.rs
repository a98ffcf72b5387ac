//! Logs are read as they were written, hostile ones refused, and pictures stay well-formed whatever a log says.

use std::time::{Duration, SystemTime};

use data_encoding::BASE64;
use hdrhistogram::serialization::{Serializer, V2Serializer};

use super::read::ParseError;
use super::*;
use crate::bench::latencies;
use crate::bench::report::{write_hdr, write_hdr_around};

fn histogram(values: impl Iterator<Item = u64>) -> Histogram<u64> {
    let mut histogram = latencies().unwrap();
    values.for_each(|value| histogram.saturating_record(value));
    histogram
}

fn log(histogram: &Histogram<u64>) -> Vec<u8> {
    let mut bytes = Vec::new();
    write_hdr(&mut bytes, histogram, SystemTime::UNIX_EPOCH, Duration::from_secs(10)).unwrap();
    bytes
}

/// A line with a histogram in the plain encoding.
fn line(start: f64, histogram: &Histogram<u64>) -> String {
    let mut bytes = Vec::new();
    V2Serializer::new().serialize(histogram, &mut bytes).unwrap();
    format!("{start:.3},0.010,1.0,{}\n", BASE64.encode(&bytes))
}

fn run(text: &str) -> Run {
    Run::parse("run", text.as_bytes(), Unit::Ns).unwrap()
}

fn refusal(text: &str) -> &'static str {
    match Run::parse("run", text.as_bytes(), Unit::Ns) {
        Err(ParseError::Line(_, problem)) => problem,
        other => panic!("{:.80}: {:?}", text, other.map(|run| run.intervals.len())),
    }
}

#[test]
fn what_the_benches_write_is_read_back() {
    let written = histogram((1..=10_000).map(|us| us * 1_000));
    let read = Run::parse("latency", &log(&written), Unit::Ns).unwrap();
    let numbers = Numbers::of(&read);
    assert_eq!((numbers.operations, numbers.ops_per_s), (10_000, Some(1_000.0)));
    for (found, expected) in [(numbers.p50_us, 5_000.0), (numbers.p99_us, 9_900.0), (numbers.max_us, 10_000.0)] {
        assert!((found / expected - 1.0).abs() < 0.002, "{found} {expected}");
    }
    let scaled = Run::parse("latency", &log(&histogram([7, 9].into_iter())), Unit::Ms).unwrap();
    assert!((Numbers::of(&scaled).max_us / 9_000.0 - 1.0).abs() < 0.002);
}

#[test]
fn intervals_events_and_laid_over_runs_are_told_apart() {
    let (few, many) = (histogram([1_000_000].into_iter()), histogram((1..=9).map(|ms| ms * 1_000_000)));
    let text = format!("#[Runs: 2]\n#[Event: 0.200 kill -9]\n#plain\n{}Tag=x,{}", line(0.21, &many), line(0.0, &few));
    let run = run(&text);
    assert_eq!(run.events, [(0.2, "kill -9".to_owned())]);
    assert_eq!(run.runs, 2);
    assert_eq!(run.intervals.iter().map(|it| it.latencies.len()).collect::<Vec<_>>(), [1, 9], "in the order of time");
    // Ten operations in twice 20 ms.
    assert_eq!(Numbers::of(&run).ops_per_s.map(f64::round), Some(250.0));
}

#[test]
fn what_the_failover_bench_writes_is_a_timeline() {
    let (ended, mut bytes) = ([vec![1_000_000; 6], Vec::new(), vec![25_000_000, 2_000_000]], Vec::new());
    let width = Duration::from_millis(10);
    write_hdr_around(&mut bytes, &ended, width, 2, (width, "kill -9")).unwrap();
    let run = Run::parse("kill", &bytes, Unit::Ns).unwrap();
    assert_eq!(run.intervals.iter().map(|it| it.latencies.len()).collect::<Vec<_>>(), [6, 0, 2]);
    let starts: Vec<_> = run.intervals.iter().map(|it| (it.start * 1e3).round()).collect();
    assert_eq!(
        (starts, run.runs, run.events.as_slice()),
        (vec![0.0, 10.0, 20.0], 2, &[(0.01, "kill -9".to_owned())][..])
    );
    let drawn = timeline::draw("around", &[run]).unwrap();
    assert_well_formed(&drawn);
    for part in [">kill -9<", "2 runs laid over each other", ">-10<", ">0<", ">20<", "time, ms from the event"] {
        assert!(drawn.contains(part), "no {part} in {drawn}");
    }
}

#[test]
fn what_is_no_log_is_refused_with_its_line() {
    let good = line(0.0, &histogram([5].into_iter()));
    for (text, problem) in [
        ("hello", "it does not begin with three numbers"),
        ("0,1\n", "it does not begin with three numbers"),
        ("0,1,1", "it has no histogram"),
        ("NaN,1,1,x", "it does not begin with three numbers"),
        ("-1,1,1,x", "its time is out of range"),
        ("0,1e300,1,x", "its time is out of range"),
        ("0,1,1,***", "its histogram is not in base64"),
        ("0,1,1,AAAA", "its histogram is not in the V2 encoding"),
        ("0,1,1,HISTFAAAAAA=", "its histogram is damaged"),
    ] {
        assert_eq!(refusal(&format!("{good}{text}")), problem, "{text}");
    }
    let wrong = Run::parse("run", format!("{good}\n\nrubbish").as_bytes(), Unit::Ns);
    assert!(matches!(wrong, Err(ParseError::Line(4, _))));
    assert!(matches!(Run::parse("run", b"#[x]\n", Unit::Ns), Err(ParseError::Empty)));
    assert!(matches!(Run::parse("run", &[0xff], Unit::Ns), Err(ParseError::Line(1, _))));
}

/// Every header field and every byte of a histogram may be anything: no panic, and no memory that the header alone asks for.
#[test]
fn a_damaged_histogram_is_refused_or_read_but_never_more() {
    let mut good = Vec::new();
    V2Serializer::new().serialize(&histogram((1..=50).map(|us| us * 1_000)), &mut good).unwrap();
    let mut damaged = Vec::new();
    for at in 0..good.len() {
        for value in [0, 1, 5, 0x7f, 0x80, 0xff] {
            let mut bytes = good.clone();
            bytes[at] = value;
            damaged.push(bytes);
        }
        damaged.push(good[..at].to_vec());
    }
    // Payload lengths and ranges that ask for gigabytes.
    for (at, word) in [(4, u32::MAX), (12, 5), (12, u32::MAX), (24, u32::MAX)] {
        let mut bytes = good.clone();
        bytes[at..at + 4].copy_from_slice(&word.to_be_bytes());
        damaged.push(bytes);
    }
    for bytes in damaged {
        let text = format!("0,1,1,{}", BASE64.encode(&bytes));
        if let Ok(run) = Run::parse("run", text.as_bytes(), Unit::Ns) {
            percentile::draw("damaged", std::slice::from_ref(&run)).unwrap();
            timeline::draw("damaged", &[run]).unwrap();
        }
    }
}

#[test]
fn a_bomb_does_not_inflate() {
    use std::io::Write as _;
    let mut deflated = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
    for _ in 0..64 {
        deflated.write_all(&vec![0; 1 << 20]).unwrap();
    }
    let inside = deflated.finish().unwrap();
    let mut bytes = 0x1c84_9314_u32.to_be_bytes().to_vec();
    bytes.extend((inside.len() as u32).to_be_bytes());
    bytes.extend(inside);
    assert_eq!(refusal(&format!("0,1,1,{}", BASE64.encode(&bytes))), "its histogram is too large");
}

fn assert_well_formed(drawn: &str) {
    assert!(drawn.starts_with("<svg ") && drawn.trim_end().ends_with("</svg>"));
    assert_eq!(drawn.matches("<text").count(), drawn.matches("</text>").count());
    assert_eq!(drawn.matches("<g ").count(), drawn.matches("</g>").count());
    assert!(!drawn.contains("NaN") && !drawn.contains("inf"), "{drawn}");
    assert!(!drawn.contains("<script"), "{drawn}");
}

#[test]
fn pictures_name_their_runs_units_and_events_and_nothing_breaks_the_markup() {
    let histogram = histogram((1..=100_000).map(|us| us * 100));
    let mut run = Run::parse("<script>", &log(&histogram), Unit::Ns).unwrap();
    run.events.push((2.0, "kill -9 & more".to_owned()));
    let drawn = percentile::draw("a < b", &[run.clone(), run.clone()]).unwrap();
    assert_well_formed(&drawn);
    for part in ["a &lt; b", "&lt;script&gt;", "99.9 %", ">1 ms<", ">100,000<", "p99.9", "share of operations"] {
        assert!(drawn.contains(part), "no {part} in {drawn}");
    }
    let drawn = timeline::draw("around", &[run.clone(), run]).unwrap();
    assert_well_formed(&drawn);
    for part in ["kill -9 &amp; more", "operations/s", "latency", "time, s from the event"] {
        assert!(drawn.contains(part), "no {part} in {drawn}");
    }
}

#[test]
fn a_single_operation_and_the_longest_latency_can_be_drawn() {
    for values in [vec![1], vec![u64::MAX], vec![1, u64::MAX], vec![0]] {
        let run = run(&line(0.0, &histogram(values.into_iter())));
        assert_well_formed(&percentile::draw("few", std::slice::from_ref(&run)).unwrap());
        assert_well_formed(&timeline::draw("few", &[run]).unwrap());
    }
}

#[test]
fn times_have_three_digits_and_their_unit() {
    for (ns, text) in [
        (1.0, "1 ns"),
        (870.0, "870 ns"),
        (71_340.0, "71.3 µs"),
        (1_236_000.0, "1.24 ms"),
        (2e9, "2 s"),
        (1e5, "100 µs"),
    ] {
        assert_eq!(time(ns), text);
    }
    assert_eq!([0, 999, 1_000, 1_234_567].map(thousands), ["0", "999", "1,000", "1,234,567"]);
}
