//! The page of all replicas: three tables, as many as fit, and what wants attention.

use ratatui::style::Modifier;
use ratatui::text::{Line, Span};

use super::plant::{LATE_US, Plant, Replica, State};
use super::text::{bytes, columns, count, digits, duration, fit, rate, wrap};
use super::{MIN_WIDTH, Tone, View, headline, page, plain_line, span};
use crate::cli::time::format_ms;

/// Lines that notes get while there are any, if the tables leave no more.
const NOTES: usize = 3;

/// Columns of a replica's name, and those that it gets besides where the screen is wider.
const NAME: usize = 12;
const MORE_NAME: usize = 20;

/// A table: a first line with the names of groups, one with those of columns, and a row for each replica.
struct Table {
    /// Columns of its groups: begin and name.
    groups: &'static [(usize, &'static str)],
    /// Its columns: width and name. Numbers stand at the right.
    columns: &'static [(usize, &'static str)],
    cells: fn(&Plant, &Replica) -> Vec<(Tone, String)>,
}

const TABLES: [Table; 3] = [
    Table {
        groups: &[],
        columns: &[
            (13, "STATE"),
            (6, "VIEW"),
            (6, "LEADER"),
            (9, "SEQUENCE"),
            (5, "OPS/S"),
            (7, "BATCH/S"),
            (6, "P50"),
            (6, "P99"),
        ],
        cells: work,
    },
    Table {
        groups: &[(13, "bundle waits"), (27, "commit"), (41, "log sync"), (55, "round"), (69, "late"), (75, "busy")],
        columns: &[
            (6, "P50"),
            (6, "P99"),
            (6, "P99.9"),
            (6, "MOST"),
            (6, "P50"),
            (6, "P99"),
            (6, "P50"),
            (6, "P99"),
            (5, ">10ms"),
            (5, "%"),
        ],
        cells: latency,
    },
    Table {
        groups: &[(13, "waiting"), (55, "seen since its start")],
        columns: &[
            (5, "POOL"),
            (10, "BYTES"),
            (5, "READS"),
            (5, "LOG"),
            (6, "BEHIND"),
            (5, "LINKS"),
            (5, "SUSP"),
            (6, "REFUSE"),
            (5, "BAD"),
            (5, "MISB"),
        ],
        cells: faults,
    },
];

/// The page in lines of `width` columns, `height` of them; without a height, all of it and no keys.
pub fn lines(plant: &Plant, view: &View, width: usize, height: Option<usize>) -> Vec<Line<'static>> {
    let order = plant.order(view);
    let mut lines = vec![title(plant, view, width)];
    let notes = notes(plant, width);
    // The footer is the last line.
    let room = height.map_or(usize::MAX, |height| height.saturating_sub(2 + notes.len().min(NOTES)));
    let mut left = room;
    for turn in 0..TABLES.len() {
        let table = &TABLES[(view.first + turn) % TABLES.len()];
        let heads = 1 + usize::from(!table.groups.is_empty());
        let gap = usize::from(turn > 0);
        if turn > 0 && gap + heads + order.len() > left {
            break;
        }
        lines.extend((0..gap).map(|_| Line::default()));
        let rows = order.len().min(left.saturating_sub(heads));
        lines.extend(table_lines(table, plant, view, window(&order, view.picked, rows), width));
        left = left.saturating_sub(gap + heads + rows);
    }
    let room = height.map_or(usize::MAX, |height| height.saturating_sub(lines.len() + 1));
    if room > notes.len() {
        lines.push(Line::default());
    }
    lines.extend(shortened(notes, room));
    let Some(height) = height else { return lines };
    trend(plant, width, height, &mut lines);
    page(lines, view, height)
}

/// The rows that are shown where not all fit: those around the picked one.
fn window(order: &[usize], picked: usize, rows: usize) -> &[usize] {
    let place = order.iter().position(|place| *place == picked).unwrap_or(0);
    let first = (place + 1).saturating_sub(rows).min(order.len().saturating_sub(rows));
    &order[first..(first + rows).min(order.len())]
}

fn title(plant: &Plant, view: &View, width: usize) -> Line<'static> {
    let time = i64::try_from(plant.now_ms).ok().and_then(|ms| format_ms(ms).ok()).unwrap_or_default();
    let time = time.split('.').next().unwrap_or_default().replace('T', " ") + " UTC";
    let mut left = vec![span(Tone::Head, "atlas top"), Span::raw("  "), Span::raw(plant.summary())];
    if view.held {
        left.push(span(Tone::Warn, "  held"));
    }
    headline(left, &time, width)
}

fn table_lines(table: &Table, plant: &Plant, view: &View, rows: &[usize], width: usize) -> Vec<Line<'static>> {
    let more = width.saturating_sub(MIN_WIDTH).min(MORE_NAME);
    let for_name = NAME + more;
    let mut lines = Vec::new();
    if !table.groups.is_empty() {
        let mut text = String::new();
        for (begin, name) in table.groups {
            text = format!("{text:<width$}{name}", width = begin + more);
        }
        lines.push(plain_line(Tone::Faint, text));
    }
    let mut head = format!("{:<for_name$}", "REPLICA");
    for (width, name) in table.columns {
        head += &if *name == "STATE" { format!(" {name:<width$}") } else { format!(" {name:>width$}") };
    }
    lines.push(plain_line(Tone::Head, head));
    for place in rows {
        let Some(replica) = plant.replicas().get(*place) else { continue };
        let name = replica.name(for_name);
        let pad = " ".repeat(for_name.saturating_sub(columns(&name)));
        let mut spans = vec![Span::raw(name + &pad)];
        for ((width, title), (tone, cell)) in table.columns.iter().zip((table.cells)(plant, replica)) {
            let cell = fit(&cell, *width);
            let text = if *title == "STATE" { format!(" {cell:<width$}") } else { format!(" {cell:>width$}") };
            spans.push(span(tone, text));
        }
        let mut line = Line::from(spans);
        // What a process that has ended left is not how it is.
        line.style = if replica.runs { line.style } else { line.style.add_modifier(Modifier::DIM) };
        if *place == view.picked {
            line.style = line.style.add_modifier(Modifier::REVERSED);
        }
        lines.push(line);
    }
    lines
}

/// A state in at most 13 columns.
pub(super) fn state(plant: &Plant, replica: &Replica) -> (Tone, String) {
    let (tone, text) = match plant.state(replica) {
        State::Unreadable => (Tone::Bad, "no metrics"),
        State::Down => (Tone::Bad, "down"),
        State::Silent(ms) => return (Tone::Bad, format!("silent {}", super::text::span(ms / 1_000))),
        State::Abstains => (Tone::Bad, "does not vote"),
        State::Transfer(Some(part)) => return (Tone::Warn, format!("transfer {part}%")),
        State::Transfer(None) => (Tone::Warn, "transfer"),
        State::LowSpace => (Tone::Bad, "low space"),
        State::Changes => (Tone::Warn, "changes view"),
        State::Paused => (Tone::Warn, "paused"),
        State::Ready => (Tone::Good, "ready"),
        State::Leads => (Tone::Good, "leads"),
    };
    (tone, text.to_owned())
}

fn plain(cells: impl IntoIterator<Item = String>) -> Vec<(Tone, String)> {
    cells.into_iter().map(|cell| (Tone::Plain, cell)).collect()
}

fn work(plant: &Plant, replica: &Replica) -> Vec<(Tone, String)> {
    let mut cells = vec![state(plant, replica)];
    let Some(now) = &replica.now else { return cells };
    let commit = replica.times(|sample| &sample.commit);
    cells.extend(plain([
        digits(now.view, 6),
        count(now.leader),
        digits(now.executed_sequence, 9),
        rate(replica.rate(|sample| sample.requests)),
        rate(replica.rate(|sample| sample.batches)),
        duration(commit.quantile_us(0.5)),
        duration(commit.quantile_us(0.99)),
    ]));
    cells
}

fn latency(_: &Plant, replica: &Replica) -> Vec<(Tone, String)> {
    if replica.now.is_none() {
        return Vec::new();
    }
    let times = [
        replica.times(|sample| &sample.bundle_wait),
        replica.times(|sample| &sample.commit),
        replica.times(|sample| &sample.log_sync),
        replica.times(|sample| &sample.turn),
    ];
    let [wait, commit, sync, round] = &times;
    let at = |part| move |times: &super::plant::Interval| duration(times.quantile_us(part));
    let (middle, high) = (at(0.5), at(0.99));
    let late = round.above(LATE_US);
    let mut cells = plain([
        middle(wait),
        high(wait),
        duration(commit.quantile_us(0.999)),
        duration(commit.most_us()),
        middle(sync),
        high(sync),
        middle(round),
        high(round),
    ]);
    let late_text = if round.count() == 0 { super::text::NONE.to_owned() } else { count(late) };
    cells.push((if late > 0 { Tone::Warn } else { Tone::Plain }, late_text));
    let busy = replica.busy();
    let tone = if busy.is_some_and(|busy| busy >= 90) { Tone::Warn } else { Tone::Plain };
    cells.push((tone, busy.map_or_else(|| super::text::NONE.to_owned(), |busy| busy.to_string())));
    cells
}

fn faults(plant: &Plant, replica: &Replica) -> Vec<(Tone, String)> {
    let Some(now) = &replica.now else { return Vec::new() };
    let counted = |number: u64, tone| (if number > 0 { tone } else { Tone::Plain }, count(number));
    let mut cells = plain([
        count(now.pool_bundles),
        bytes(now.pool_bytes),
        count(now.parked_reads),
        count(now.backlog_records),
        plant.behind(replica).map_or_else(String::new, count),
    ]);
    let up = now.links.iter().filter(|up| **up).count();
    let tone = if up < now.links.len() { Tone::Warn } else { Tone::Plain };
    cells.push((tone, format!("{up}/{}", now.links.len())));
    cells.push((Tone::Plain, count(super::sample::sum(now.suspicions.iter().copied()))));
    cells.push((Tone::Plain, count(now.refused())));
    cells.push(counted(now.bad_frames, Tone::Warn));
    cells.push(counted(now.misbehaviour_seen(), Tone::Bad));
    cells
}

fn notes(plant: &Plant, width: usize) -> Vec<Line<'static>> {
    let line = |(urgent, note): (bool, String)| {
        let tone = if urgent { Tone::Bad } else { Tone::Warn };
        wrap(&note, width).into_iter().map(move |line| plain_line(tone, line))
    };
    let notes: Vec<Line<'static>> = plant.notes().into_iter().flat_map(line).collect();
    if notes.is_empty() { vec![plain_line(Tone::Good, "nothing wants attention")] } else { notes }
}

fn shortened(mut notes: Vec<Line<'static>>, room: usize) -> Vec<Line<'static>> {
    if notes.len() > room {
        let more = notes.len() + 1 - room;
        notes.truncate(room.saturating_sub(1));
        notes.push(plain_line(Tone::Faint, format!("... and {more} lines more: a higher screen shows them")));
    }
    notes
}

/// Operations a second over time, where there is room below all else.
fn trend(plant: &Plant, width: usize, height: usize, lines: &mut Vec<Line<'static>>) {
    const LEAST: usize = 5;
    let room = height.saturating_sub(lines.len() + 1);
    if room < LEAST + 2 {
        return;
    }
    // Correct replicas execute the same: the one that did most stands for all.
    let most = |back: usize| {
        let of =
            |replica: &Replica| replica.trend.len().checked_sub(back + 1).and_then(|at| replica.trend.get(at).copied());
        plant.replicas().iter().filter_map(of).max().unwrap_or(0)
    };
    let values: Vec<u64> = (0..width.min(super::plant::TREND)).rev().map(most).collect();
    lines.push(Line::default());
    lines.extend(super::detail::bars("operations a second", &values, (room - 2).min(8)));
}
