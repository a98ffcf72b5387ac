//! Numbers in few columns, and text that fits.

use ratatui::text::Span;

/// Bytes in at most ten columns.
pub use crate::cli::status::bytes;

/// Columns that [`count`] needs at most.
pub const COUNT: usize = 5;

/// Columns that [`duration`] needs at most.
pub const DURATION: usize = 6;

const THOUSANDS: [&str; 7] = ["", "k", "M", "G", "T", "P", "E"];

/// What stands where there is nothing to tell.
pub const NONE: &str = "-";

/// A number in at most [`COUNT`] columns: whole up to 99999, then in thousands.
pub fn count(value: u64) -> String {
    digits(value, COUNT)
}

/// A number, whole where it has at most `width` digits, which are five or more.
pub fn digits(value: u64, width: usize) -> String {
    let whole = value.to_string();
    if whole.len() <= width {
        return whole;
    }
    let (mut rest, mut unit) = (value as f64, 0);
    // 999.5 would be shown with four digits.
    while rest >= 999.5 && unit + 1 < THOUSANDS.len() {
        rest /= 1_000.0;
        unit += 1;
    }
    let places = usize::from(rest < 99.95);
    format!("{rest:.places$}{}", THOUSANDS[unit])
}

/// A rate a second in at most [`COUNT`] columns.
pub fn rate(value: Option<f64>) -> String {
    match value {
        None => NONE.to_owned(),
        Some(value) if value > 0.0 && value < 9.95 => format!("{value:.1}"),
        Some(value) => count(value.round() as u64),
    }
}

/// A time in at most [`DURATION`] columns.
pub fn duration(us: Option<u64>) -> String {
    let Some(us) = us else { return NONE.to_owned() };
    let (ms, s) = (us as f64 / 1e3, us as f64 / 1e6);
    match us {
        0..1_000 => format!("{us}us"),
        1_000..9_995 => format!("{ms:.2}ms"),
        9_995..99_950 => format!("{ms:.1}ms"),
        99_950..999_500 => format!("{ms:.0}ms"),
        999_500..9_995_000 => format!("{s:.2}s"),
        9_995_000..99_950_000 => format!("{s:.1}s"),
        99_950_000..9_999_500_000 => format!("{s:.0}s"),
        _ => span(us / 1_000_000),
    }
}

/// A span of time in seconds, in at most six columns: `59s`, `3min`, `26h`, `400d`.
pub fn span(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7_200 => format!("{}min", seconds / 60),
        7_200..172_800 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", count(seconds / 86_400)),
    }
}

/// The text in `width` columns; what is longer ends in `~`. Control characters are left out, so that nobody's file writes to the terminal.
pub fn fit(text: &str, width: usize) -> String {
    let clean: String = text.chars().filter(|c| !c.is_control()).collect();
    if columns(&clean) <= width {
        return clean;
    }
    let mut out = String::new();
    for c in clean.chars() {
        if columns(&out) + columns(c.encode_utf8(&mut [0; 4])) >= width {
            break;
        }
        out.push(c);
    }
    out.push('~');
    out
}

/// Columns that a text takes.
pub fn columns(text: &str) -> usize {
    Span::raw(text).width()
}

/// Breaks text into lines of at most `width` columns, at blanks; a longer word is broken. Further lines are set in by two.
pub fn wrap(text: &str, width: usize) -> Vec<String> {
    let room = width.saturating_sub(2).max(1);
    let mut lines: Vec<String> = Vec::new();
    let mut line = String::new();
    for word in text.split_whitespace().flat_map(|word| pieces(word, room)) {
        if !line.is_empty() && columns(&line) + 1 + columns(&word) > room {
            lines.push(std::mem::take(&mut line));
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(&word);
    }
    lines.push(line);
    lines.iter_mut().skip(1).for_each(|line| line.insert_str(0, "  "));
    lines
}

/// A word in pieces that fit.
fn pieces(word: &str, room: usize) -> Vec<String> {
    let mut pieces = vec![String::new()];
    for c in word.chars().filter(|c| !c.is_control()) {
        let (own, wide) = (columns(c.encode_utf8(&mut [0; 4])), pieces.last().map_or(0, |piece| columns(piece)));
        if wide + own > room {
            pieces.push(String::new());
        }
        if let Some(piece) = pieces.last_mut() {
            piece.push(c);
        }
    }
    pieces
}
