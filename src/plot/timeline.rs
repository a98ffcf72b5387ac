//! Operations a second and latency over time, a panel for each run, with its events marked.

use std::fmt::{self, Write};

use super::axis::{Band, Decades, head, linear, name, round_step};
use super::{HEAD, Interval, LEFT, MAX_RUNS, RIGHT, Run};
use crate::svg::{Anchor, text_at};

/// Height of a run's panel.
const PANEL: f64 = 350.0;
const RATE: Band = Band { top: 40.0, bottom: 130.0 };
const LATENCY: Band = Band { top: 166.0, bottom: 296.0 };
/// Labels of the time axis at most.
const TICKS: usize = 12;
/// What is drawn of a latency, with its colour and dashes.
const LINES: [(&str, f64, &str, &str); 3] =
    [("p50", 0.5, "#0072b2", ""), ("p99", 0.99, "#d55e00", ""), ("max", 1.0, "#8a5a9e", "3 2")];

/// Draws at most [`MAX_RUNS`] runs.
///
/// # Errors
/// None: a string takes all that is written.
pub fn draw(title: &str, runs: &[Run]) -> Result<String, fmt::Error> {
    let runs = runs.get(..MAX_RUNS).unwrap_or(runs);
    let mut out = String::new();
    let subtitle = "operations by when they ended; latency is that of what ended then, its scale logarithmic";
    head(&mut out, HEAD + PANEL * runs.len() as f64, title, subtitle)?;
    for (index, run) in runs.iter().enumerate() {
        writeln!(out, "<g transform=\"translate(0 {})\">", HEAD + PANEL * index as f64)?;
        panel(&mut out, run)?;
        writeln!(out, "</g>")?;
    }
    writeln!(out, "</svg>")?;
    Ok(out)
}

/// From when to when, in seconds.
struct Span {
    from: f64,
    to: f64,
    /// What the labels count from: the first event, else the beginning.
    zero: f64,
}

impl Span {
    fn of(run: &Run) -> Self {
        let from = run.intervals.iter().map(|interval| interval.start).fold(f64::INFINITY, f64::min);
        let to = run.intervals.iter().map(|interval| interval.start + interval.seconds).fold(from, f64::max);
        let zero = run.events.first().map_or(from, |(at, _)| *at);
        Self { from, to: to.max(from + 1e-3), zero }
    }

    fn x(&self, at: f64) -> f64 {
        LEFT + ((at - self.from) / (self.to - self.from)).clamp(0.0, 1.0) * (RIGHT - LEFT)
    }
}

fn panel(out: &mut String, run: &Run) -> fmt::Result {
    writeln!(out, "<path class=\"g\" d=\"M24 6H{RIGHT}\"/>")?;
    text_at(out, (24.0, 26.0), Anchor::Start, "t", &run.name)?;
    if run.runs > 1 {
        text_at(out, (RIGHT, 26.0), Anchor::End, "s", &format!("{} runs laid over each other", run.runs))?;
    }
    let span = Span::of(run);
    rate(out, run, &span)?;
    latencies(out, run, &span)?;
    times(out, run, &span)
}

fn rate(out: &mut String, run: &Run, span: &Span) -> fmt::Result {
    let rate = |interval: &Interval| {
        let seconds = interval.seconds * f64::from(run.runs);
        if seconds > 0.0 { interval.latencies.len() as f64 / seconds } else { 0.0 }
    };
    let top = linear(out, RATE, run.intervals.iter().map(rate).fold(0.0, f64::max))?;
    name(out, RATE, "operations/s")?;
    let mut path = String::new();
    for interval in run.intervals.iter().filter(|interval| !interval.latencies.is_empty()) {
        let (left, right) = (span.x(interval.start), span.x(interval.start + interval.seconds));
        let y = RATE.bottom - rate(interval) / top * (RATE.bottom - RATE.top);
        // A hair between bars where there is room for one.
        let right = if right - left > 4.0 { right - 0.7 } else { right };
        write!(path, "M{left:.1} {0}V{y:.1}H{right:.1}V{0}z", RATE.bottom)?;
    }
    writeln!(out, "<path fill=\"#3d7ab8\" d=\"{path}\"/>")
}

fn latencies(out: &mut String, run: &Run, span: &Span) -> fmt::Result {
    let lowest = run.intervals.iter().filter(|interval| !interval.latencies.is_empty());
    let lowest = lowest.map(|interval| interval.latencies.value_at_quantile(0.5)).min().unwrap_or(1);
    let scale = Decades::new(lowest as f64, run.all.max() as f64, LATENCY);
    scale.draw(out)?;
    name(out, LATENCY, "latency")?;
    for (index, (label, quantile, colour, dash)) in LINES.iter().enumerate() {
        let mut path = String::new();
        let mut is_down = true;
        for interval in &run.intervals {
            if interval.latencies.is_empty() {
                is_down = true;
                continue;
            }
            let (left, right) = (span.x(interval.start), span.x(interval.start + interval.seconds));
            let y = scale.y(interval.latencies.value_at_quantile(*quantile) as f64);
            // Steps: a value holds for its interval, and where nothing ended there is no line.
            write!(path, "{}{left:.1} {y:.1}H{right:.1}", if is_down { 'M' } else { 'L' })?;
            is_down = false;
        }
        writeln!(
            out,
            "<path class=\"l\" style=\"stroke-width:1.5\" stroke=\"{colour}\" stroke-dasharray=\"{dash}\" d=\"{path}\"/>"
        )?;
        let x = RIGHT - 150.0 + 54.0 * index as f64;
        writeln!(
            out,
            "<path class=\"l\" stroke=\"{colour}\" stroke-dasharray=\"{dash}\" d=\"M{x:.1} {:.1}h18\"/>",
            LATENCY.top - 14.0
        )?;
        text_at(out, (x + 22.0, LATENCY.top - 10.0), Anchor::Start, "s", label)?;
    }
    Ok(())
}

fn times(out: &mut String, run: &Run, span: &Span) -> fmt::Result {
    for Band { bottom, .. } in [RATE, LATENCY] {
        writeln!(out, "<path class=\"a\" d=\"M{LEFT} {bottom}H{RIGHT}\"/>")?;
    }
    let length = span.to - span.from;
    let (factor, unit) = if length < 5.0 { (1e3, "ms") } else { (1.0, "s") };
    let step = round_step(length * factor, TICKS);
    let first = ((span.from - span.zero) * factor / step).ceil();
    for tick in 0..=TICKS {
        let value = (first + tick as f64) * step;
        let at = value / factor + span.zero;
        if at > span.to + 1e-9 {
            break;
        }
        let x = span.x(at);
        for Band { bottom, .. } in [RATE, LATENCY] {
            writeln!(out, "<path class=\"a\" d=\"M{x:.1} {bottom}v4\"/>")?;
        }
        // Decimals only where steps have them; no negative zero.
        let decimals = usize::from(step < 1.0);
        text_at(out, (x, LATENCY.bottom + 18.0), Anchor::Middle, "s", &format!("{:.decimals$}", value + 0.0))?;
    }
    let since = if run.events.is_empty() { "from the beginning" } else { "from the event" };
    let label = format!("time, {unit} {since}");
    text_at(out, ((LEFT + RIGHT) / 2.0, LATENCY.bottom + 36.0), Anchor::Middle, "s", &label)?;
    for (at, text) in run.events.iter().filter(|(at, _)| (span.from..=span.to).contains(at)) {
        let x = span.x(*at);
        for Band { top, bottom } in [RATE, LATENCY] {
            writeln!(out, "<path class=\"e\" d=\"M{x:.1} {top}V{bottom}\"/>")?;
        }
        // Between the two drawings, on the side with more room.
        let (anchor, shift) = if x > (LEFT + RIGHT) / 2.0 { (Anchor::End, -6.0) } else { (Anchor::Start, 6.0) };
        text_at(out, (x + shift, LATENCY.top - 10.0), anchor, "m", text)?;
    }
    Ok(())
}
