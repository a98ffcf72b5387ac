//! A picture of what happened to a twin around a moment: an SVG that needs nothing else, readable in print and without colours.
//!
//! One lane for each property, by name: numbers as a step line with its scale, everything else as blocks with labels. Before the
//! first change of a lane stands its old value where it is known. Each change has a marker whose colour *and* shape say who made
//! it; a refused one is a cross at the foot of its lane. What is not of good quality is dashed and lettered: u(ncertain), b(ad),
//! s(tale). Each marker tells position, time, who, values and reason as its title.
//!
//! # Limits
//! [`MAX_ROWS`] rows, [`MAX_LANES`] lanes, six persons with a marker of their own; of what is beyond the picture says how much it is.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write};

use atlas_dataplane::types::{PublicKey, TimeMs};

use super::row::Row;
use crate::cli::output::agreed_time;
use crate::svg::{Anchor, escaped, text_at};
use crate::twin::record::Old;
use crate::twin::value::{Quality, Value};

/// The most rows that are drawn.
pub const MAX_ROWS: usize = 20_000;
/// The most lanes.
pub const MAX_LANES: usize = 64;

const WIDTH: f64 = 1_120.0;
const LEFT: f64 = 200.0;
const RIGHT: f64 = 1_090.0;
const HEAD: f64 = 118.0;
const FOOT: f64 = 60.0;
const NUMBER_LANE: f64 = 92.0;
const LABEL_LANE: f64 = 48.0;
/// Space between a lane's edge and what is drawn in it.
const PAD: f64 = 12.0;
/// How wide a character of a label is, about.
const CHARACTER: f64 = 6.4;
/// Ticks on the time axis at most.
const MAX_TICKS: i64 = 9;

/// Colours that people with any colour vision tell apart (Okabe and Ito, 2008), and shapes for print.
const PERSONS: [(&str, Shape); 6] = [
    ("#0072b2", Shape::Circle),
    ("#d55e00", Shape::Square),
    ("#009e73", Shape::Up),
    ("#cc79a7", Shape::Diamond),
    ("#b08800", Shape::Down),
    ("#56b4e9", Shape::Ring),
];
/// Whoever has no marker of their own.
const OTHERS: (&str, Shape) = ("#555555", Shape::Bar);

#[derive(Clone, Copy)]
enum Shape {
    Circle,
    Square,
    Up,
    Diamond,
    Down,
    Ring,
    Bar,
}

const STYLE: &str = "\
text{font-family:system-ui,'Segoe UI',Helvetica,Arial,sans-serif;font-size:12px;fill:#222}\
.h{font-size:17px;font-weight:600}.p{font-size:12px;font-weight:600}.s{font-size:11px;fill:#444}.q{font-size:11px;font-weight:600;fill:#222}\
.g{stroke:#ddd;stroke-width:1;fill:none}.a{stroke:#777;stroke-width:1;fill:none}.e{stroke:#222;stroke-width:1.5;stroke-dasharray:6 3;fill:none}\
.v{stroke:#222;stroke-width:1.6;fill:none}.d{stroke:#222;stroke-width:1.6;stroke-dasharray:3 3;fill:none}\
.k{fill:#eef1f4;stroke:#777;stroke-width:1}.j{fill:#d8dee4;stroke:#777;stroke-width:1}.w{fill:#fff;stroke:#222;stroke-width:1;stroke-dasharray:3 3}\
.x{stroke:#a40000;stroke-width:2.4;fill:none}.n{stroke:#fff;stroke-width:.8}";

/// What is to be drawn.
#[derive(Clone, Debug)]
pub struct Timeline<'a> {
    /// The twin.
    pub twin: &'a str,
    /// The left end, agreed time.
    pub from_ms: TimeMs,
    /// The right end; not before the left one.
    pub to_ms: TimeMs,
    /// The moment, marked by a line.
    pub mark_ms: Option<TimeMs>,
    /// What happened, in the agreed order.
    pub rows: &'a [Row],
}

/// One lane.
struct Lane<'a> {
    property: &'a str,
    rows: Vec<&'a Row>,
    /// Lowest and highest number, where all values are numbers.
    range: Option<(f64, f64)>,
}

impl Lane<'_> {
    fn height(&self) -> f64 {
        if self.range.is_some() { NUMBER_LANE } else { LABEL_LANE }
    }
}

/// Where things stand, and who has which marker.
struct Plan<'a> {
    from_ms: TimeMs,
    to_ms: TimeMs,
    persons: BTreeMap<PublicKey, usize>,
    lanes: Vec<Lane<'a>>,
}

impl Plan<'_> {
    fn x(&self, time_ms: TimeMs) -> f64 {
        let whole = (self.to_ms as f64 - self.from_ms as f64).max(1.0);
        LEFT + (time_ms as f64 - self.from_ms as f64).clamp(0.0, whole) / whole * (RIGHT - LEFT)
    }

    fn person(&self, key: &PublicKey) -> (&'static str, Shape) {
        self.persons.get(key).and_then(|place| PERSONS.get(*place)).copied().unwrap_or(OTHERS)
    }
}

/// Draws it.
///
/// # Errors
/// None: a string takes all that is written.
pub fn draw(timeline: &Timeline<'_>) -> Result<String, fmt::Error> {
    let rows = &timeline.rows[..timeline.rows.len().min(MAX_ROWS)];
    let (lanes, lanes_left_out) = lanes(rows);
    let (from_ms, to_ms) = (timeline.from_ms, timeline.to_ms.max(timeline.from_ms));
    let plan = Plan { from_ms, to_ms, persons: persons(rows), lanes };
    let bottom = HEAD + plan.lanes.iter().map(Lane::height).sum::<f64>().max(LABEL_LANE);
    let height = bottom + FOOT;
    let mut out = String::new();
    let title = escaped(timeline.twin);
    writeln!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" role=\"img\">\n\
         <title>Changes of {title}</title>\n<style>{STYLE}</style>\n<rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#ffffff\"/>"
    )?;
    head(&mut out, timeline, rows)?;
    legend(&mut out, &plan, rows)?;
    time_axis(&mut out, &plan, bottom)?;
    let mut top = HEAD;
    for lane in &plan.lanes {
        draw_lane(&mut out, &plan, lane, top)?;
        top += lane.height();
    }
    if plan.lanes.is_empty() {
        text_at(&mut out, (LEFT, HEAD + 28.0), Anchor::Start, "s", "nothing happened to it in this time")?;
    }
    if let Some(mark) = timeline.mark_ms.filter(|mark| (from_ms..=to_ms).contains(mark)) {
        let x = plan.x(mark);
        writeln!(out, "<path class=\"e\" d=\"M{x:.1} {:.1}V{bottom:.1}\"/>", HEAD - 18.0)?;
        text_at(&mut out, (x, HEAD - 22.0), Anchor::Middle, "q", &clock(mark, 1))?;
    }
    let left_out = (timeline.rows.len() - rows.len(), lanes_left_out);
    foot(&mut out, height, left_out)?;
    writeln!(out, "</svg>")?;
    Ok(out)
}

fn head(out: &mut String, timeline: &Timeline<'_>, rows: &[Row]) -> fmt::Result {
    text_at(out, (24.0, 32.0), Anchor::Start, "h", timeline.twin)?;
    let refused = rows.iter().filter(|row| row.is_refused()).count();
    let line = format!(
        "{} to {} (UTC, agreed time): {} written, {refused} refused",
        agreed_time(timeline.from_ms),
        agreed_time(timeline.to_ms),
        rows.len() - refused,
    );
    text_at(out, (24.0, 52.0), Anchor::Start, "s", &line)
}

/// Whoever did most comes first; at equal numbers the smaller key.
fn persons(rows: &[Row]) -> BTreeMap<PublicKey, usize> {
    let mut counts: BTreeMap<PublicKey, usize> = BTreeMap::new();
    for row in rows {
        *counts.entry(row.key).or_default() += 1;
    }
    let mut sorted: Vec<(PublicKey, usize)> = counts.into_iter().collect();
    sorted.sort_by_key(|(key, count)| (std::cmp::Reverse(*count), *key));
    sorted.into_iter().enumerate().map(|(place, (key, _))| (key, place)).collect()
}

fn legend(out: &mut String, plan: &Plan<'_>, rows: &[Row]) -> fmt::Result {
    let mut x = 30.0;
    let mut named: Vec<(&PublicKey, usize)> = plan.persons.iter().map(|(key, place)| (key, *place)).collect();
    named.sort_by_key(|(_, place)| *place);
    for (key, _) in named.iter().take(PERSONS.len()) {
        let who = rows.iter().find(|row| row.key == **key).map_or_else(String::new, Row::who);
        let who = cut(&who, 24);
        marker(out, (x, 72.0), plan.person(key), "")?;
        text_at(out, (x + 10.0, 76.0), Anchor::Start, "s", &who)?;
        x += 34.0 + who.chars().count() as f64 * CHARACTER;
    }
    if named.len() > PERSONS.len() {
        marker(out, (x, 72.0), OTHERS, "")?;
        text_at(out, (x + 10.0, 76.0), Anchor::Start, "s", &format!("{} others", named.len() - PERSONS.len()))?;
        x += 100.0;
    }
    writeln!(out, "<path class=\"x\" d=\"M{:.1} 68l8 8m0 -8l-8 8\"/>", x - 4.0)?;
    text_at(out, (x + 10.0, 76.0), Anchor::Start, "s", "refused")
}

fn foot(out: &mut String, height: f64, (rows, lanes): (usize, usize)) -> fmt::Result {
    let mut line =
        "Dashed, with a letter: quality u(ncertain), b(ad) or s(tale). Times are agreed times, UTC.".to_owned();
    if lanes > 0 {
        write!(line, " {lanes} more properties are not drawn.")?;
    }
    if rows > 0 {
        write!(line, " {rows} later changes are not drawn: take a shorter time.")?;
    }
    text_at(out, (24.0, height - 14.0), Anchor::Start, "s", &line)
}

/// The lanes by name, and how many there are beyond the limit.
fn lanes(rows: &[Row]) -> (Vec<Lane<'_>>, usize) {
    let names: BTreeSet<&str> = rows.iter().filter_map(|row| row.property.as_deref()).collect();
    let mut lanes: BTreeMap<&str, Vec<&Row>> = names.iter().take(MAX_LANES).map(|name| (*name, Vec::new())).collect();
    // What was meant for the whole twin stands in a lane of its own, before the others.
    let mut whole = Vec::new();
    for row in rows {
        match row.property.as_deref() {
            Some(property) => lanes.entry(property).and_modify(|rows| rows.push(row)).or_default(),
            None => {
                whole.push(row);
                continue;
            }
        };
    }
    lanes.retain(|_, rows| !rows.is_empty());
    let whole = (!whole.is_empty()).then_some(("(whole twin)", whole));
    let all = whole.into_iter().chain(lanes);
    let all = all.map(|(property, rows)| Lane { property, range: range(&rows), rows });
    (all.collect(), names.len().saturating_sub(MAX_LANES))
}

/// Lowest and highest of the numbers that the lane shows, if it shows some and nothing else.
fn range(rows: &[&Row]) -> Option<(f64, f64)> {
    let mut range: Option<(f64, f64)> = None;
    for row in rows.iter().filter(|row| !row.is_refused()) {
        let old = if let Old::Value(value) = &row.old { Some(value) } else { None };
        for value in row.value.iter().chain(old) {
            let value = number(value)?;
            range = Some(range.map_or((value, value), |(low, high)| (low.min(value), high.max(value))));
        }
    }
    range
}

fn number(value: &Value) -> Option<f64> {
    match value {
        Value::I64(value) => Some(*value as f64),
        Value::F64(value) => Some(*value),
        Value::Bool(_) | Value::Text(_) | Value::Bytes(_) => None,
    }
}

fn draw_lane(out: &mut String, plan: &Plan<'_>, lane: &Lane<'_>, top: f64) -> fmt::Result {
    let bottom = top + lane.height();
    writeln!(out, "<path class=\"a\" d=\"M24 {bottom:.1}H{RIGHT}\"/>")?;
    text_at(out, (24.0, top + 18.0), Anchor::Start, "p", &cut(lane.property, 22))?;
    match lane.range {
        Some(range) => draw_numbers(out, plan, lane, top, range)?,
        None => draw_blocks(out, plan, lane, top)?,
    }
    for row in lane.rows.iter().filter(|row| row.is_refused()) {
        let x = plan.x(row.agreed_ms);
        let title = escaped(&title(row));
        writeln!(
            out,
            "<path class=\"x\" d=\"M{:.1} {:.1}l8 8m0 -8l-8 8\"><title>{title}</title></path>",
            x - 4.0,
            bottom - 10.0
        )?;
    }
    Ok(())
}

fn draw_numbers(out: &mut String, plan: &Plan<'_>, lane: &Lane<'_>, top: f64, (low, high): (f64, f64)) -> fmt::Result {
    let (upper, lower) = (top + PAD, top + NUMBER_LANE - PAD);
    // By halves, so that the widest range of floats stays finite.
    let half = high / 2.0 - low / 2.0;
    let y = |value: f64| {
        let share = if half > 0.0 { (value / 2.0 - low / 2.0) / half } else { 0.5 };
        lower - share.clamp(0.0, 1.0) * (lower - upper)
    };
    let scale = if half > 0.0 { vec![low, high] } else { vec![low] };
    for value in scale {
        writeln!(out, "<path class=\"g\" d=\"M{LEFT} {0:.1}H{RIGHT}\"/>", y(value))?;
        text_at(out, (LEFT - 6.0, y(value) + 4.0), Anchor::End, "s", &short_number(value))?;
    }
    let done: Vec<&&Row> = lane.rows.iter().filter(|row| !row.is_refused()).collect();
    let mut before: Option<(f64, f64, Quality)> = match done.first().map(|row| &row.old) {
        Some(Old::Value(value)) => number(value).map(|value| (LEFT, y(value), Quality::Good)),
        _ => None,
    };
    for row in &done {
        let x = plan.x(row.agreed_ms);
        let to = row.value.as_ref().and_then(number).map(&y);
        if let Some((from_x, from_y, quality)) = before {
            let class = if quality == Quality::Good { "v" } else { "d" };
            let riser = to.map_or_else(String::new, |to| format!("V{to:.1}"));
            writeln!(out, "<path class=\"{class}\" d=\"M{from_x:.1} {from_y:.1}H{x:.1}{riser}\"/>")?;
        }
        before = to.map(|to| (x, to, row.quality.unwrap_or_default()));
    }
    if let Some((x, y, quality)) = before {
        let class = if quality == Quality::Good { "v" } else { "d" };
        writeln!(out, "<path class=\"{class}\" d=\"M{x:.1} {y:.1}H{RIGHT}\"/>")?;
    }
    for row in &done {
        let at = (plan.x(row.agreed_ms), row.value.as_ref().and_then(number).map_or(lower, &y));
        marker(out, at, plan.person(&row.key), &title(row))?;
        letter(out, at, row)?;
    }
    Ok(())
}

fn draw_blocks(out: &mut String, plan: &Plan<'_>, lane: &Lane<'_>, top: f64) -> fmt::Result {
    let done: Vec<&&Row> = lane.rows.iter().filter(|row| !row.is_refused()).collect();
    let (upper, height) = (top + PAD, LABEL_LANE - 2.0 * PAD - 2.0);
    let mut block = |from: f64, to: f64, value: &Value, class: &str| {
        let width = (to - from).max(1.0);
        writeln!(
            out,
            "<rect class=\"{class}\" x=\"{from:.1}\" y=\"{upper:.1}\" width=\"{width:.1}\" height=\"{height:.1}\"/>"
        )?;
        let room = ((width - 16.0) / CHARACTER) as usize;
        if room < 2 {
            return Ok(());
        }
        text_at(out, (from + 10.0, upper + height / 2.0 + 4.0), Anchor::Start, "s", &cut(&value.to_string(), room))
    };
    if let Some((Old::Value(value), first)) = done.first().map(|row| (&row.old, plan.x(row.agreed_ms))) {
        block(LEFT, first, value, "k")?;
    }
    for (place, row) in done.iter().enumerate() {
        let end = done.get(place + 1).map_or(RIGHT, |next| plan.x(next.agreed_ms));
        let is_good = row.quality.is_none_or(|quality| quality == Quality::Good);
        let class = match (is_good, place % 2) {
            (false, _) => "w",
            (true, 0) => "j",
            (true, _) => "k",
        };
        if let Some(value) = &row.value {
            block(plan.x(row.agreed_ms), end, value, class)?;
        }
    }
    for row in &done {
        let at = (plan.x(row.agreed_ms), upper);
        marker(out, at, plan.person(&row.key), &title(row))?;
        letter(out, at, row)?;
    }
    Ok(())
}

/// The letter of a quality that is not good above a marker, or beside it that the property was deleted.
fn letter(out: &mut String, (x, y): (f64, f64), row: &Row) -> fmt::Result {
    if row.value.is_none() {
        return text_at(out, (x + 8.0, y + 4.0), Anchor::Start, "s", "deleted");
    }
    match row.quality.filter(|quality| *quality != Quality::Good) {
        Some(quality) => text_at(out, (x + 6.0, y - 3.0), Anchor::Start, "q", &quality.name()[..1]),
        None => Ok(()),
    }
}

fn marker(out: &mut String, (x, y): (f64, f64), (colour, shape): (&str, Shape), title: &str) -> fmt::Result {
    let path = match shape {
        Shape::Circle => "m-4.5 0a4.5 4.5 0 1 0 9 0a4.5 4.5 0 1 0 -9 0z",
        Shape::Square => "m-4 -4h8v8h-8z",
        Shape::Up => "m0 -5l5 9h-10z",
        Shape::Diamond => "m0 -5.5l5.5 5.5l-5.5 5.5l-5.5 -5.5z",
        Shape::Down => "m0 5l5 -9h-10z",
        Shape::Ring => "m-5 0a5 5 0 1 0 10 0a5 5 0 1 0 -10 0zm2.6 0a2.4 2.4 0 1 1 4.8 0a2.4 2.4 0 1 1 -4.8 0z",
        Shape::Bar => "m-1.5 -5.5h3v11h-3z",
    };
    write!(out, "<path class=\"n\" fill=\"{colour}\" fill-rule=\"evenodd\" d=\"M{x:.1} {y:.1}{path}\">")?;
    if !title.is_empty() {
        write!(out, "<title>{}</title>", escaped(title))?;
    }
    writeln!(out, "</path>")
}

/// What a marker tells.
fn title(row: &Row) -> String {
    let property = row.property.as_deref().unwrap_or("(whole twin)");
    let mut text = format!("{} at {}, by {}: {property} ", row.position, agreed_time(row.agreed_ms), row.who());
    text.push_str(&match (row.is_refused(), &row.old) {
        (true, _) => format!("= {} refused: {}", row.new_text(), row.code),
        (false, Old::Value(old)) => format!("{old} -> {}", row.new_text()),
        (false, _) => format!("= {}", row.new_text()),
    });
    if let Some(reason) = &row.reason {
        text.push_str(&format!(" ({reason})"));
    }
    text
}

fn time_axis(out: &mut String, plan: &Plan<'_>, bottom: f64) -> fmt::Result {
    let step = time_step(plan.to_ms.saturating_sub(plan.from_ms));
    let first = plan.from_ms.div_euclid(step).saturating_add(1).saturating_mul(step);
    writeln!(out, "<path class=\"a\" d=\"M{LEFT} {HEAD}H{RIGHT}\"/>")?;
    for tick in (0..=MAX_TICKS + 1).map(|tick| first.saturating_add(tick.saturating_mul(step))) {
        if tick > plan.to_ms {
            break;
        }
        let x = plan.x(tick);
        writeln!(out, "<path class=\"g\" d=\"M{x:.1} {HEAD}V{bottom:.1}\"/>")?;
        text_at(out, (x, HEAD - 6.0), Anchor::Middle, "s", &clock(tick, step))?;
        text_at(out, (x, bottom + 16.0), Anchor::Middle, "s", &clock(tick, step))?;
    }
    Ok(())
}

/// Steps between ticks, milliseconds: what people count time in.
fn time_step(span_ms: i64) -> i64 {
    const STEPS: [i64; 30] = [
        1,
        2,
        5,
        10,
        20,
        50,
        100,
        200,
        500,
        1_000,
        2_000,
        5_000,
        10_000,
        15_000,
        30_000,
        60_000,
        120_000,
        300_000,
        600_000,
        900_000,
        1_800_000,
        3_600_000,
        7_200_000,
        10_800_000,
        21_600_000,
        43_200_000,
        86_400_000,
        172_800_000,
        604_800_000,
        2_592_000_000,
    ];
    STEPS.into_iter().find(|step| span_ms / step <= MAX_TICKS).unwrap_or(span_ms / MAX_TICKS + 1)
}

/// A time at a tick: the day where the steps are days, else the time of day, with milliseconds where they matter.
fn clock(time_ms: TimeMs, step_ms: i64) -> String {
    let text = agreed_time(time_ms);
    let part = match step_ms {
        86_400_000.. => text.get(..10),
        1_000.. => text.get(11..19),
        _ => text.get(11..23),
    };
    part.map_or_else(|| text.clone(), str::to_owned)
}

/// A number in few characters.
fn short_number(value: f64) -> String {
    let plain = format!("{value}");
    if plain.len() <= 10 { plain } else { format!("{value:.3e}") }
}

/// At most so many characters.
fn cut(text: &str, characters: usize) -> String {
    if text.chars().count() <= characters {
        return text.to_owned();
    }
    text.chars().take(characters.saturating_sub(1)).chain(['…']).collect()
}

#[cfg(test)]
#[path = "timeline_tests.rs"]
mod tests;
