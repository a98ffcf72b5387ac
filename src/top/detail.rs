//! The page of one replica: all that its metrics say, and its latencies of the last interval.

use atlas_dataplane::replica::telemetry::SUSPICIONS;
use ratatui::text::{Line, Span};

use super::plant::{LATE_US, Plant, Replica};
use super::sample::Sample;
use super::text::{bytes, count, digits, duration, fit, rate, span as seconds, wrap};
use super::{Tone, View, headline, page, plain_line, span};

/// Columns of a line's title.
const TITLE: usize = 13;

/// Eighths of a bar's character.
const EIGHTHS: [char; 9] =
    [' ', '\u{2581}', '\u{2582}', '\u{2583}', '\u{2584}', '\u{2585}', '\u{2586}', '\u{2587}', '\u{2588}'];

/// The page in lines of `width` columns, `height` of them.
pub fn lines(plant: &Plant, view: &View, width: usize, height: usize) -> Vec<Line<'static>> {
    let Some(replica) = plant.replicas().get(view.picked) else { return page(Vec::new(), view, height) };
    let (tone, state) = super::overview::state(plant, replica);
    let mut lines = vec![headline(
        vec![
            span(Tone::Head, replica.name(24)),
            Span::raw("  "),
            span(tone, state),
            Span::raw("  "),
            span(Tone::Warn, if view.held { "held" } else { "" }),
        ],
        &format!("{} of {}", view.picked + 1, plant.replicas().len()),
        width,
    )];
    let file = replica.place.file.display().to_string();
    match &replica.now {
        Some(now) => {
            lines.extend(latencies(replica));
            lines.push(Line::default());
            lines.extend(facts(plant, replica, now).into_iter().flat_map(|(title, text)| fact(title, &text, width)));
        }
        None => {
            let problem = replica.problem.as_deref().unwrap_or("not read yet");
            lines.extend(wrap(problem, width).into_iter().map(|line| plain_line(Tone::Bad, line)));
        }
    }
    let room = height.saturating_sub(lines.len() + 1);
    if room >= 7 {
        lines.push(Line::default());
        let values: Vec<u64> = replica.trend.iter().copied().rev().take(width).rev().collect();
        lines.extend(bars("operations a second", &values, (room - 4).min(8)));
    }
    if height.saturating_sub(lines.len() + 1) >= 2 {
        lines.push(Line::default());
        lines.push(plain_line(Tone::Faint, fit(&file, width)));
    }
    page(lines, view, height)
}

fn fact(title: &'static str, text: &str, width: usize) -> Vec<Line<'static>> {
    let lines = wrap(text, width.saturating_sub(TITLE));
    let line = |(place, line): (usize, String)| {
        let title = if place == 0 { title } else { "" };
        Line::from(vec![span(Tone::Faint, format!("{title:<TITLE$}")), Span::raw(line)])
    };
    lines.into_iter().enumerate().map(line).collect()
}

fn facts(plant: &Plant, replica: &Replica, now: &Sample) -> Vec<(&'static str, String)> {
    let per = |counter: fn(&Sample) -> u64| rate(replica.rate(counter));
    let per_bytes = |counter: fn(&Sample) -> u64| {
        replica.rate(counter).map_or_else(|| super::text::NONE.to_owned(), |rate| bytes(rate as u64))
    };
    let age_ms = plant.now_ms.abs_diff(now.heartbeat_ms);
    let up = seconds(now.uptime_us / 1_000_000);
    let pool =
        now.setting("pool_mib").map_or_else(String::new, |mib| format!(" of {}", bytes(mib.saturating_mul(1 << 20))));
    let free = now.free_bytes.map_or_else(|| "unknown".to_owned(), bytes);
    vec![
        (
            "process",
            format!("pid {}, up {up}, published {} ago", now.pid, duration(Some(age_ms.saturating_mul(1_000)))),
        ),
        ("view", view(now)),
        ("suspected", named(SUSPICIONS.iter().copied().zip(now.suspicions))),
        (
            "executed",
            format!(
                "{}, stable checkpoint {}, {} sequences kept, behind {}",
                digits(now.executed_sequence, 12),
                digits(now.low_watermark, 12),
                count(now.slots),
                plant.behind(replica).map_or_else(String::new, count)
            ),
        ),
        (
            "a second",
            format!(
                "operations {}, bundles {}, batches {}, rounds {}, busy {} %",
                per(|sample| sample.requests),
                per(|sample| sample.bundles),
                per(|sample| sample.batches),
                per(|sample| sample.turns),
                replica.busy().map_or_else(|| super::text::NONE.to_owned(), |busy| busy.to_string())
            ),
        ),
        ("decided", format!("{}; since its start", named(["fast", "slow", "told"].into_iter().zip(now.decisions)))),
        (
            "history",
            format!(
                "{} entries, cosigned {}, certified {}, in snapshots {}",
                digits(now.history_entries, 10),
                digits(now.cosigned_entries, 10),
                digits(now.certified_entries, 10),
                digits(now.settled_entries, 10)
            ),
        ),
        (
            "log",
            format!(
                "{}, staged {}, durable {}, free {free}, full {}",
                bytes(now.log_bytes),
                digits(now.staged_record, 10),
                digits(now.durable_record, 10),
                count(now.log_full)
            ),
        ),
        (
            "waiting",
            format!(
                "{} bundles, {}{pool}; reads {}, records {}",
                count(now.pool_bundles),
                bytes(now.pool_bytes),
                count(now.parked_reads),
                count(now.backlog_records)
            ),
        ),
        (
            "clients",
            format!(
                "{} connected; sessions {}, identities {}; connections {}, refused {}",
                count(now.clients),
                count(now.sessions),
                count(now.identities),
                count(now.connections),
                count(now.turned_away)
            ),
        ),
        (
            "network",
            format!(
                "a second: in {}, {} frames; out {}, {} frames",
                per_bytes(|sample| sample.received_bytes),
                per(|sample| sample.received_frames),
                per_bytes(|sample| sample.sent_bytes),
                per(|sample| sample.sent_frames)
            ),
        ),
        ("links", links(now)),
        ("refused", refusals(now)),
        ("misbehaviour", misbehaviour(now)),
        ("transfer", transfer(plant, replica, now)),
    ]
}

fn view(now: &Sample) -> String {
    format!(
        "{} {}, led by replica {}; left {}, begun {}{}",
        digits(now.view, 10),
        if now.view_active { "active" } else { "asked for" },
        count(now.leader),
        count(now.views_left),
        count(now.views_begun),
        if now.abstains { "; does not vote" } else { "" }
    )
}

fn named<'a>(numbers: impl Iterator<Item = (&'a str, u64)>) -> String {
    numbers.map(|(name, number)| format!("{name} {}", count(number))).collect::<Vec<_>>().join(", ")
}

fn links(now: &Sample) -> String {
    let down: Vec<String> =
        (0..now.links.len()).filter(|peer| !now.links[*peer]).map(|peer| peer.to_string()).collect();
    match down.is_empty() {
        true => format!("up to all {} replicas", now.links.len()),
        false => format!("down to replica {}", down.join(", ")),
    }
}

fn refusals(now: &Sample) -> String {
    let codes = now.refusals.iter().filter(|(_, count)| *count > 0);
    let codes: Vec<String> = codes.map(|(code, times)| format!("{} times {code}", count(*times))).collect();
    let codes = if codes.is_empty() { "nothing".to_owned() } else { codes.join(", ") };
    format!("{codes}; bad frames {}, receives without a buffer {}", count(now.bad_frames), count(now.starved_receives))
}

fn misbehaviour(now: &Sample) -> String {
    let seen = now.misbehaviour.iter().enumerate().filter(|(_, times)| **times > 0);
    let seen: Vec<String> = seen.map(|(peer, times)| format!("replica {peer} {} times", count(*times))).collect();
    let lost =
        if now.evidence_lost > 0 { format!("; {} records lost", count(now.evidence_lost)) } else { String::new() };
    if seen.is_empty() { format!("none was seen{lost}") } else { seen.join(", ") + &lost }
}

fn transfer(plant: &Plant, replica: &Replica, now: &Sample) -> String {
    let past = format!("{} taken before, {}", count(now.transfers), bytes(now.transfer_bytes));
    if !now.transfer_active {
        return format!("none now; {past}");
    }
    let part = match plant.state(replica) {
        super::plant::State::Transfer(Some(part)) => format!(", {part} %"),
        _ => String::new(),
    };
    format!("{} entries are here{part}; {past}", digits(now.transfer_entries, 12))
}

fn latencies(replica: &Replica) -> Vec<Line<'static>> {
    let round = replica.times(|sample| &sample.turn);
    let late = count(round.above(LATE_US));
    let mut lines = vec![plain_line(
        Tone::Head,
        format!(
            "{:<TITLE$}{:>7} {:>7} {:>7} {:>7} {:>7} {:>7} {:>7}",
            "LAST SECOND", "TIMES", "MEAN", "P50", "P90", "P99", "P99.9", "MOST"
        ),
    )];
    for (name, times) in [
        ("bundle waits", replica.times(|sample| &sample.bundle_wait)),
        ("commit", replica.times(|sample| &sample.commit)),
        ("log sync", replica.times(|sample| &sample.log_sync)),
        ("round", round),
    ] {
        let mut text = format!("{name:<TITLE$}{:>7} {:>7}", count(times.count()), duration(times.mean_us()));
        for part in [0.5, 0.9, 0.99, 0.999] {
            text += &format!(" {:>7}", duration(times.quantile_us(part)));
        }
        text += &format!(" {:>7}", duration(times.most_us()));
        if name == "round" {
            text += &format!("  {late:>5} late");
        }
        lines.push(plain_line(Tone::Plain, text));
    }
    lines
}

/// Values as bars, the last at the right, under a line that says how high the highest is.
pub(super) fn bars(title: &str, values: &[u64], height: usize) -> Vec<Line<'static>> {
    let most = values.iter().copied().max().unwrap_or(0);
    let mut lines = vec![plain_line(Tone::Faint, format!("{title}, {} s, up to {}", values.len(), count(most)))];
    for row in (0..height).rev() {
        let eighths = |value: &u64| {
            let full = u128::from(*value) * (height * 8) as u128 / u128::from(most.max(1));
            (full as usize).saturating_sub(row * 8).min(8)
        };
        lines.push(plain_line(Tone::Good, values.iter().map(|value| EIGHTHS[eighths(value)]).collect::<String>()));
    }
    lines
}
