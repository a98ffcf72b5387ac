//! Latency by percentile, several runs in one drawing. Each nine of the horizontal axis takes the same room, as in HdrHistogram's own
//! plots: what happens to one operation of ten thousand is seen as well as what happens to half of them.

use std::fmt::{self, Write};

use hdrhistogram::Histogram;

use super::axis::{Band, Decades, head, name};
use super::{COLOURS, DASHES, HEAD, LEFT, MAX_RUNS, Numbers, RIGHT, Run, thousands, time};
use crate::svg::{Anchor, text_at};

const BAND: Band = Band { top: HEAD + 22.0, bottom: HEAD + 342.0 };
/// Below the drawing: ticks, the axis' name, the legend's headings.
const FOOT: f64 = 84.0;
/// Height of a line of the legend.
const LINE: f64 = 20.0;
/// Points of a line.
const POINTS: u32 = 400;
/// The most nines.
const MAX_NINES: f64 = 7.0;

/// Right edges of the legend's columns.
const COLUMNS: [(&str, f64); 7] = [
    ("operations", 420.0),
    ("a second", 500.0),
    ("p50", 584.0),
    ("p90", 664.0),
    ("p99", 744.0),
    ("p99.9", 834.0),
    ("max", 924.0),
];

/// Draws at most [`MAX_RUNS`] runs.
///
/// # Errors
/// None: a string takes all that is written.
pub fn draw(title: &str, runs: &[Run]) -> Result<String, fmt::Error> {
    let runs = runs.get(..MAX_RUNS).unwrap_or(runs);
    let mut out = String::new();
    let height = BAND.bottom + FOOT + LINE * runs.len() as f64 + 16.0;
    head(
        &mut out,
        height,
        title,
        "latency of operations by percentile, both scales logarithmic; further down is better",
    )?;
    let lowest = runs.iter().map(|run| run.all.value_at_quantile(0.0)).min().unwrap_or(1) as f64;
    let highest = runs.iter().map(|run| run.all.max()).max().unwrap_or(1) as f64;
    let scale = Decades::new(lowest, highest, BAND);
    scale.draw(&mut out)?;
    // One nine more than the longest run resolves.
    let most = runs.iter().map(|run| run.all.len()).max().unwrap_or(1) as f64;
    let nines = most.log10().ceil().clamp(1.0, MAX_NINES);
    ticks(&mut out, nines)?;
    name(&mut out, BAND, "latency")?;
    for (index, run) in runs.iter().enumerate() {
        line(&mut out, &run.all, &scale, nines, (COLOURS[index], DASHES[index]))?;
    }
    legend(&mut out, runs)?;
    writeln!(out, "</svg>")?;
    Ok(out)
}

fn x(nines: f64, most: f64) -> f64 {
    LEFT + nines / most * (RIGHT - LEFT)
}

/// `90 %` at one nine, `99 %` at two, and so on; 50 % between.
fn ticks(out: &mut String, most: f64) -> fmt::Result {
    let middle = (0.5_f64, "50 %".to_owned());
    let nine = |nines: i32| {
        let decimals = usize::try_from(nines - 2).unwrap_or(0);
        (10f64.powi(-nines), format!("{:.decimals$} %", 100.0 - 100.0 * 10f64.powi(-nines)))
    };
    let all = [(1.0, "0 %".to_owned()), middle].into_iter().chain((1..=most as i32).map(nine));
    for (rest, label) in all {
        let x = x(-rest.log10(), most);
        writeln!(out, "<path class=\"g\" d=\"M{x:.1} {}V{}\"/>", BAND.top, BAND.bottom)?;
        text_at(out, (x, BAND.bottom + 18.0), Anchor::Middle, "s", &label)?;
    }
    writeln!(out, "<path class=\"a\" d=\"M{LEFT} {0}H{RIGHT}\"/>", BAND.bottom)?;
    text_at(
        out,
        ((LEFT + RIGHT) / 2.0, BAND.bottom + 38.0),
        Anchor::Middle,
        "s",
        "share of operations that took no longer",
    )
}

fn line(
    out: &mut String,
    all: &Histogram<u64>,
    scale: &Decades,
    most: f64,
    (colour, dash): (&str, &str),
) -> fmt::Result {
    // Up to where the run has an operation of its own to show.
    let last = (all.len() as f64).log10().clamp(0.3, most);
    let mut path = String::new();
    let mut before = 0;
    for point in 0..=POINTS {
        let nines = last * f64::from(point) / f64::from(POINTS);
        let value = all.value_at_quantile(1.0 - 10f64.powf(-nines));
        let (x, y) = (x(nines, most), scale.y(value as f64));
        match point {
            0 => write!(path, "M{x:.1} {y:.1}")?,
            _ if value == before && point < POINTS => continue,
            _ => write!(path, "L{x:.1} {y:.1}")?,
        }
        before = value;
    }
    let (x, y) = (x(last, most), scale.y(all.max() as f64));
    writeln!(out, "<path class=\"l\" stroke=\"{colour}\" stroke-dasharray=\"{dash}\" d=\"{path}L{x:.1} {y:.1}\"/>")?;
    writeln!(out, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"{colour}\"/>")
}

/// A table below the drawing, so that it covers nothing.
fn legend(out: &mut String, runs: &[Run]) -> fmt::Result {
    let top = BAND.bottom + FOOT;
    for (label, right) in COLUMNS {
        text_at(out, (right, top - 20.0), Anchor::End, "s", label)?;
    }
    writeln!(out, "<path class=\"a\" d=\"M24 {0:.1}H{RIGHT}\"/>", top - 13.0)?;
    for (index, run) in runs.iter().enumerate() {
        let (y, numbers) = (top + 4.0 + LINE * index as f64, Numbers::of(run));
        let (colour, dash) = (COLOURS[index], DASHES[index]);
        writeln!(
            out,
            "<path class=\"l\" stroke=\"{colour}\" stroke-dasharray=\"{dash}\" d=\"M24 {:.1}h28\"/>",
            y - 4.0
        )?;
        text_at(out, (60.0, y), Anchor::Start, "t", &shortened(&run.name))?;
        let us = |value: f64| time(value * 1e3);
        let cells = [
            thousands(numbers.operations),
            numbers.ops_per_s.map_or_else(|| "–".to_owned(), |rate| thousands(rate.round() as u64)),
            us(numbers.p50_us),
            us(numbers.p90_us),
            us(numbers.p99_us),
            us(numbers.p999_us),
            us(numbers.max_us),
        ];
        for (cell, (_, right)) in cells.iter().zip(COLUMNS) {
            text_at(out, (right, y), Anchor::End, "n", cell)?;
        }
    }
    Ok(())
}

/// As much of a name as there is room for.
fn shortened(name: &str) -> String {
    const ROOM: usize = 38;
    match name.chars().count() > ROOM {
        true => name.chars().take(ROOM - 1).chain(['…']).collect(),
        false => name.to_owned(),
    }
}
