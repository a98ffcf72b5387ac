//! `atlas top`: all replicas of a host on one screen, from the files that they keep their metrics in.
//!
//! # What it reads
//! The mapped file of each replica ([`atlas_control::mapped`]), once a second. The replicas are asked nothing and notice nothing, and need not
//! run. Of each file the last two readings of one process are kept: rates and latencies are those between them, by the replica's own
//! heartbeat. Nothing of a file is trusted: any numbers may stand in it, and only names that are known here are looked at.
//!
//! # Parts
//! [`sample`]: what one reading says; [`plant`]: replicas, what they are in, rates, latencies, notes; [`text`]: numbers in few columns;
//! [`overview`] and [`detail`]: the two pages, as lines that fit where they are shown; [`screen`]: the terminal, keys and signals.
//! All but the last are pure: readings and the time go in, lines come out.
//!
//! # Limits
//! [`MAX_REPLICAS`] files; [`plant::TREND`] rates of each. A screen below [`MIN_WIDTH`] times [`MIN_HEIGHT`] shows only that it is too small.

pub mod detail;
pub mod overview;
pub mod plant;
pub mod sample;
pub mod screen;
pub mod text;

#[cfg(test)]
mod tests;

/// The most replicas that are shown.
pub const MAX_REPLICAS: usize = 64;

/// The narrowest screen that holds a row, columns.
pub const MIN_WIDTH: usize = 80;

/// The lowest screen that is of use, lines.
pub const MIN_HEIGHT: usize = 12;

use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};

/// What is shown, as it was chosen by keys.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct View {
    /// The replica that is picked, by its place in the plant.
    pub picked: usize,
    /// Whether its details are shown instead of all replicas.
    pub details: bool,
    /// What the rows are sorted by.
    pub sort: Sort,
    /// The other way round.
    pub reverse: bool,
    /// The table that comes first, where not all fit.
    pub first: usize,
    /// Whether what is shown stands still.
    pub held: bool,
}

/// What rows are sorted by.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Sort {
    /// As they were named.
    #[default]
    Name,
    /// What wants attention first.
    State,
    /// The highest rate of operations first.
    Rate,
    /// The longest p99 of commits first.
    Commit,
    /// Who is furthest behind first.
    Behind,
}

impl Sort {
    const ALL: [Self; 5] = [Self::Name, Self::State, Self::Rate, Self::Commit, Self::Behind];

    /// The next one.
    pub fn next(self) -> Self {
        let place = Self::ALL.iter().position(|sort| *sort == self).unwrap_or(0);
        Self::ALL[(place + 1) % Self::ALL.len()]
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::State => "state",
            Self::Rate => "ops/s",
            Self::Commit => "p99",
            Self::Behind => "behind",
        }
    }
}

/// How text is set off.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Tone {
    /// Not at all.
    Plain,
    /// A heading.
    Head,
    /// Less important.
    Faint,
    /// As it should be.
    Good,
    /// Wants attention.
    Warn,
    /// Wants it now.
    Bad,
}

impl Tone {
    fn style(self) -> Style {
        match self {
            Self::Plain => Style::new(),
            Self::Head => Style::new().add_modifier(Modifier::BOLD),
            Self::Faint => Style::new().add_modifier(Modifier::DIM),
            Self::Good => Style::new().fg(Color::Green),
            Self::Warn => Style::new().fg(Color::Yellow),
            Self::Bad => Style::new().fg(Color::Red).add_modifier(Modifier::BOLD),
        }
    }
}

pub(crate) fn span(tone: Tone, text: impl Into<String>) -> Span<'static> {
    Span::styled(text.into(), tone.style())
}

pub(crate) fn plain_line(tone: Tone, text: impl Into<String>) -> Line<'static> {
    Line::from(span(tone, text))
}

/// The keys, for the last line.
pub(crate) fn footer(view: &View) -> Line<'static> {
    let sort = format!("sort:{}", view.sort.name());
    let keys: &[(&str, &str)] = if view.details {
        &[("Esc", "all replicas"), ("Up/Dn", "another replica"), ("Spc", "hold"), ("q", "quit")]
    } else {
        let reverse = if view.reverse { "REVERSE" } else { "reverse" };
        let first = [("Up/Dn", "pick"), ("Enter", "details"), ("s", &sort), ("r", reverse)];
        &[first.as_slice(), &[("Tab", "table"), ("Spc", "hold"), ("q", "quit")]].concat()
    };
    let mut spans = Vec::new();
    for (place, (key, what)) in keys.iter().enumerate() {
        let gap = if place == 0 { "" } else { "  " };
        spans.push(Span::raw(gap));
        spans.push(Span::styled((*key).to_owned(), Style::new().add_modifier(Modifier::REVERSED)));
        spans.push(Span::raw(format!(" {what}")));
    }
    Line::from(spans)
}

/// A title on the left and what belongs to it on the right.
pub(crate) fn headline(left: Vec<Span<'static>>, right: &str, width: usize) -> Line<'static> {
    let used: usize = left.iter().map(Span::width).sum();
    let gap = width.saturating_sub(used + right.len());
    let mut spans = left;
    if gap > 0 {
        spans.push(Span::raw(" ".repeat(gap)));
        spans.push(span(Tone::Faint, right));
    }
    Line::from(spans)
}

/// Lines and the footer, exactly `height` of them.
pub(crate) fn page(mut lines: Vec<Line<'static>>, view: &View, height: usize) -> Vec<Line<'static>> {
    let room = height.saturating_sub(1);
    if lines.len() > room {
        lines.truncate(room.saturating_sub(1));
        lines.push(plain_line(Tone::Faint, "... a higher screen shows more"));
    }
    lines.resize(room, Line::default());
    lines.push(footer(view));
    lines
}
