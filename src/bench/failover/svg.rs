//! The same drawings as one SVG that needs nothing else: for each kind of fault commits and latencies around it, and a histogram.

use std::fmt::{self, Write};

use super::around::{AFTER_MS, BEFORE_MS, Bins, Bucket};
use super::report::{FaultReport, Report};
use crate::svg::{Anchor, text_at};

const WIDTH: f64 = 960.0;
/// Height of what stands above the panels.
const HEAD: f64 = 64.0;
/// Height of the panel of a kind of fault.
const PANEL: f64 = 330.0;
/// Bins of a histogram at most.
const MAX_BINS: usize = 14;

/// A drawing's place, pixels.
#[derive(Clone, Copy)]
struct Area {
    left: f64,
    right: f64,
    top: f64,
    bottom: f64,
}

const COMMITS: Area = Area { left: 70.0, right: 630.0, top: 72.0, bottom: 147.0 };
const LATENCY: Area = Area { left: 70.0, right: 630.0, top: 178.0, bottom: 283.0 };
const HISTOGRAM: Area = Area { left: 710.0, right: 930.0, top: 72.0, bottom: 283.0 };

const STYLE: &str = "\
text{font-family:system-ui,'Segoe UI',Helvetica,Arial,sans-serif;font-size:12px;fill:#44505c}\
.h{font-size:17px;font-weight:600;fill:#1b2530}.t{font-size:14px;font-weight:600;fill:#1b2530}\
.s{font-size:11px;fill:#6b7784}.m{font-weight:600;fill:#b3261e}\
.g{stroke:#e4e8ec;stroke-width:1}.a{stroke:#98a3ae;stroke-width:1}.e{stroke:#b3261e;stroke-width:1.5;stroke-dasharray:4 3}\
.c{fill:#3d7ab8}.l{fill:#f0a03c;fill-opacity:.35;stroke:#d97f0e;stroke-width:1.5}\
.w{fill:none;stroke:#8a5a9e;stroke-width:1.25;stroke-dasharray:2 2}.b{fill:#5c6f82}.n{stroke:#2e7d32;stroke-width:1.5;stroke-dasharray:4 3}\
.o{fill:#2e7d32}";

/// Draws a report.
///
/// # Errors
/// None: a string takes all that is written.
pub fn draw(report: &Report) -> Result<String, fmt::Error> {
    let height = HEAD + PANEL * report.faults.len() as f64;
    let mut out = String::new();
    writeln!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" role=\"img\">\n\
         <title>Commits and latencies around a leader's fault</title>\n<style>{STYLE}</style>\n\
         <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#ffffff\"/>"
    )?;
    let setting = &report.setting;
    text(&mut out, 24.0, 32.0, "h", "Around a leader's fault")?;
    let line = format!(
        "{} replicas on {} cores, Linux {}; {} operations/s due, {} bytes each, one signature each",
        setting.replicas, setting.environment.cpus, setting.environment.kernel, setting.rate, setting.payload
    );
    text(&mut out, 24.0, 52.0, "s", &line)?;
    for (index, fault) in report.faults.iter().enumerate() {
        writeln!(out, "<g transform=\"translate(0 {})\">", HEAD + PANEL * index as f64)?;
        panel(&mut out, fault)?;
        writeln!(out, "</g>")?;
    }
    writeln!(out, "</svg>")?;
    Ok(out)
}

fn panel(out: &mut String, fault: &FaultReport) -> fmt::Result {
    writeln!(out, "<path class=\"g\" d=\"M24 6H{}\"/>", WIDTH - 24.0)?;
    text(out, 24.0, 30.0, "t", &fault.what.title().replacen("leader", "Leader", 1))?;
    let ms = |value: Option<f64>| value.map_or_else(|| "–".to_owned(), |ms| format!("{ms:.0}"));
    let numbers = format!(
        "time without a commit: median {} ms, p99 {} ms, max {} ms over {} repetitions; {}",
        ms(fault.median_ms),
        ms(fault.p99_ms),
        ms(fault.max_ms),
        fault.repetitions,
        fault.succession(),
    );
    text(out, 24.0, 48.0, "s", &numbers)?;
    let buckets = fault.around.buckets(1);
    commits(out, &buckets)?;
    latencies(out, &buckets)?;
    time_axis(out, fault.what.mark())?;
    histogram(out, fault)
}

fn commits(out: &mut String, buckets: &[Bucket]) -> fmt::Result {
    let top = scale(out, COMMITS, buckets.iter().map(|bucket| bucket.commits_per_s), 2)?;
    text(out, COMMITS.left, COMMITS.top - 6.0, "s", "commits a second, mean")?;
    write!(out, "<path class=\"c\" d=\"")?;
    for bucket in buckets.iter().filter(|bucket| bucket.commits_per_s > 0.0) {
        let (x, width) = (x(bucket.from_ms), x(bucket.from_ms + bucket.width_ms) - x(bucket.from_ms) - 0.6);
        let y = y(COMMITS, bucket.commits_per_s / top);
        write!(out, "M{x:.1} {:.1}V{y:.1}h{width:.1}V{:.1}z", COMMITS.bottom, COMMITS.bottom)?;
    }
    writeln!(out, "\"/>")
}

fn latencies(out: &mut String, buckets: &[Bucket]) -> fmt::Result {
    let top = scale(out, LATENCY, buckets.iter().map(|bucket| bucket.worst_ms), 4)?;
    text(
        out,
        LATENCY.left,
        LATENCY.top - 6.0,
        "s",
        "latency by when operations were due, ms: median, and worst (dashed)",
    )?;
    let points = |value: fn(&Bucket) -> f64| -> String {
        let point = |bucket: &Bucket| {
            format!("{:.1} {:.1}", x(bucket.from_ms + bucket.width_ms / 2.0), y(LATENCY, value(bucket) / top))
        };
        buckets.iter().map(point).collect::<Vec<_>>().join("L")
    };
    let (first, last) = (x(-BEFORE_MS as f64), x(AFTER_MS as f64));
    let median = points(|bucket| bucket.median_ms);
    writeln!(out, "<path class=\"l\" d=\"M{first:.1} {0:.1}L{median}L{last:.1} {0:.1}z\"/>", LATENCY.bottom)?;
    writeln!(out, "<path class=\"w\" d=\"M{}\"/>", points(|bucket| bucket.worst_ms))
}

fn time_axis(out: &mut String, mark: &str) -> fmt::Result {
    for at_ms in (-BEFORE_MS..=AFTER_MS).step_by(100) {
        let x = x(at_ms as f64);
        writeln!(out, "<path class=\"a\" d=\"M{x:.1} {0:.1}v4M{x:.1} {1:.1}v4\"/>", COMMITS.bottom, LATENCY.bottom)?;
        let label = if at_ms == AFTER_MS { format!("{at_ms} ms") } else { at_ms.to_string() };
        centred(out, x, LATENCY.bottom + 18.0, "s", &label)?;
    }
    let zero = x(0.0);
    for Area { top, bottom, .. } in [COMMITS, LATENCY] {
        writeln!(out, "<path class=\"e\" d=\"M{zero:.1} {top:.1}V{bottom:.1}\"/>")?;
    }
    text(out, zero + 5.0, COMMITS.top + 10.0, "m", mark)
}

fn histogram(out: &mut String, fault: &FaultReport) -> fmt::Result {
    text(out, HISTOGRAM.left, HISTOGRAM.top - 6.0, "s", "time without a commit, ms, and how often")?;
    let bins = Bins::new(&fault.gaps_ms, MAX_BINS);
    let top = scale(out, HISTOGRAM, bins.bins.iter().map(|(_, count)| *count as f64), 4)?;
    // One empty bin on each side, so that a single one has a width.
    let (Some((first, _)), Some((last, _))) = (bins.bins.first(), bins.bins.last()) else { return Ok(()) };
    let (low, high) = ((first - bins.width_ms).max(0.0), last + 2.0 * bins.width_ms);
    let at = |ms: f64| HISTOGRAM.left + (ms - low) / (high - low) * (HISTOGRAM.right - HISTOGRAM.left);
    for (from, count) in bins.bins.iter().filter(|(_, count)| *count > 0) {
        let (left, right, y) = (at(*from), at(from + bins.width_ms), y(HISTOGRAM, *count as f64 / top));
        let bottom = HISTOGRAM.bottom;
        writeln!(out, "<path class=\"b\" d=\"M{left:.1} {bottom:.1}V{y:.1}H{:.1}V{bottom:.1}z\"/>", right - 1.0)?;
    }
    let shown = ((high - low) / bins.width_ms).round() as usize;
    let every = shown.div_ceil(6).max(1);
    for tick in (0..=shown).step_by(every) {
        let ms = low + tick as f64 * bins.width_ms;
        writeln!(out, "<path class=\"a\" d=\"M{:.1} {:.1}v4\"/>", at(ms), HISTOGRAM.bottom)?;
        centred(out, at(ms), HISTOGRAM.bottom + 18.0, "s", &format!("{ms:.0}"))?;
    }
    if let Some(target) = fault.target_ms.filter(|target| (low..=high).contains(target)) {
        let x = at(target);
        writeln!(out, "<path class=\"n\" d=\"M{x:.1} {:.1}V{:.1}\"/>", HISTOGRAM.top, HISTOGRAM.bottom)?;
    }
    match (fault.target_ms, fault.met()) {
        (Some(target), Some(met)) => {
            let (class, verdict) = if met { ("s o", "met") } else { ("s m", "missed") };
            let label = format!("target for the median: below {target:.0} ms, {verdict}");
            text(out, HISTOGRAM.left, HISTOGRAM.bottom + 36.0, class, &label)
        }
        _ => Ok(()),
    }
}

/// Draws lines and labels of a scale from 0 with about so many steps; gives its highest value.
fn scale(out: &mut String, area: Area, values: impl Iterator<Item = f64>, steps: usize) -> Result<f64, fmt::Error> {
    let highest = values.fold(0.0, f64::max).max(1.0);
    let widths = (0..12).flat_map(|power| [1.0, 2.0, 5.0].map(|digit| digit * 10f64.powi(power)));
    let step = widths.into_iter().find(|step| step * steps as f64 >= highest).unwrap_or(highest);
    let count = (highest / step).ceil();
    let top = step * count;
    for tick in 0..=count as usize {
        let value = tick as f64 * step;
        let y = y(area, value / top);
        let class = if tick == 0 { "a" } else { "g" };
        writeln!(out, "<path class=\"{class}\" d=\"M{:.1} {y:.1}H{:.1}\"/>", area.left, area.right)?;
        let label = format!("{value}");
        text_at(out, (area.left - 6.0, y + 4.0), Anchor::End, "s", &label)?;
    }
    Ok(top)
}

fn x(at_ms: f64) -> f64 {
    let share = (at_ms + BEFORE_MS as f64) / (BEFORE_MS + AFTER_MS) as f64;
    LATENCY.left + share * (LATENCY.right - LATENCY.left)
}

fn y(area: Area, share: f64) -> f64 {
    area.bottom - share * (area.bottom - area.top)
}

fn text(out: &mut String, x: f64, y: f64, class: &str, text: &str) -> fmt::Result {
    text_at(out, (x, y), Anchor::Start, class, text)
}

fn centred(out: &mut String, x: f64, y: f64, class: &str, text: &str) -> fmt::Result {
    text_at(out, (x, y), Anchor::Middle, class, text)
}

#[cfg(test)]
mod tests {
    use super::super::around::{Around, Commit};
    use super::super::fault::Fault;
    use super::super::report::Setting;
    use super::*;
    use crate::bench::report::Environment;

    fn report(faults: Vec<FaultReport>) -> Report {
        let environment = Environment { cpus: 2, kernel: "6.1-<a&b>".to_owned() };
        let setting = Setting { rate: 1_000.0, payload: 128, replicas: 4, clients: 16, environment };
        Report { setting, quiet: None, faults }
    }

    #[test]
    fn every_kind_has_a_panel_and_nothing_breaks_the_markup() {
        let mut around = Around::default();
        around.add(&[Commit { due_ns: 0, end_ns: 70_000_000 }]);
        let killed = FaultReport { gaps_ms: vec![70.0, 110.0], around, ..FaultReport::new(Fault::Kill) };
        let drawn = draw(&report(vec![killed, FaultReport::new(Fault::Slow)])).unwrap();
        assert_eq!((drawn.matches("<g ").count(), drawn.matches("</g>").count()), (2, 2));
        assert!(drawn.starts_with("<svg xmlns") && drawn.ends_with("</svg>\n"));
        assert!(drawn.contains("6.1-&lt;a&amp;b&gt;") && !drawn.contains("NaN") && !drawn.contains("inf"), "{drawn}");
        // Two bins have gaps.
        assert_eq!(drawn.matches("class=\"b\"").count(), 2);
        // Every path and text is closed on its own line.
        for line in drawn.lines().filter(|line| line.starts_with("<path")) {
            assert!(line.ends_with("\"/>"), "{line}");
        }
        assert_eq!(drawn.matches("<text").count(), drawn.matches("</text>").count());
    }

    #[test]
    fn a_scale_ends_at_or_above_its_highest_value() {
        for highest in [0.0, 0.4, 1.0, 7.0, 95.0, 1_000.0, 1_234.0] {
            let top = scale(&mut String::new(), COMMITS, [highest].into_iter(), 4).unwrap();
            assert!(top >= highest && top <= (highest * 2.0).max(1.0), "{highest}: {top}");
        }
    }
}
