//! Drawings in a terminal, 80 columns wide at most.

use std::fmt::{self, Write};

use super::around::{AFTER_MS, BEFORE_MS, BUCKET_MS, Bins};

/// Lines of a column drawing.
const HEIGHT: usize = 5;
/// Columns of the longest bar.
const BAR: usize = 50;
/// Columns for each that is counted, at most.
const UNIT: usize = 4;
/// Eighths of a cell, from below.
const EIGHTHS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
/// Up to where the lighter value goes.
const LIGHT: char = '░';

/// A histogram with a bar for each bin.
pub(super) fn bars(f: &mut fmt::Formatter<'_>, bins: &Bins) -> fmt::Result {
    let fullest = bins.fullest().max(1);
    for (from, count) in &bins.bins {
        let range = format!("{from:.0} - {:.0}", from + bins.width_ms);
        let length = (count * BAR.min(UNIT * fullest)).div_ceil(fullest);
        let bar = "█".repeat(length);
        let space = if *count > 0 { " " } else { "" };
        writeln!(f, "  {range:>15} │{bar}{space}{}", if *count > 0 { count.to_string() } else { String::new() })?;
    }
    Ok(())
}

/// Columns of two values each, the second not below the first.
pub(super) fn columns(f: &mut fmt::Formatter<'_>, values: &[(f64, f64)]) -> fmt::Result {
    let highest = values.iter().map(|(_, light)| *light).fold(f64::MIN_POSITIVE, f64::max);
    for line in (0..HEIGHT).rev() {
        let label = match line {
            _ if line == HEIGHT - 1 => format!("{highest:.0}"),
            0 => "0".to_owned(),
            _ => String::new(),
        };
        let cells: String = values.iter().map(|(solid, light)| cell(solid / highest, light / highest, line)).collect();
        writeln!(f, "  {label:>9} ┤{}", cells.trim_end())?;
    }
    Ok(())
}

/// One cell of a column; shares are of the drawing's height.
fn cell(solid: f64, light: f64, line: usize) -> char {
    let within = |share: f64| share * HEIGHT as f64 - line as f64;
    let eighths = (within(solid).clamp(0.0, 1.0) * 8.0).round() as usize;
    match EIGHTHS.get(eighths) {
        Some(' ') | None if within(light) >= 0.5 => LIGHT,
        Some(block) => *block,
        None => ' ',
    }
}

/// The time below columns of twice the narrowest width, with a mark at the event.
pub(super) fn axis(f: &mut fmt::Formatter<'_>, mark: &str) -> fmt::Result {
    const STEP_MS: i64 = 2 * BUCKET_MS;
    const LABEL_MS: i64 = 200;
    let (mut ticks, mut labels) = (String::new(), String::new());
    for at_ms in (-BEFORE_MS..=AFTER_MS).step_by(STEP_MS as usize) {
        ticks.push(if at_ms % LABEL_MS == 0 { '┴' } else { '─' });
        if at_ms % LABEL_MS == 0 {
            let column = usize::try_from((at_ms + BEFORE_MS) / STEP_MS).unwrap_or(0);
            let text = if at_ms == 0 { format!("0 {mark}") } else { at_ms.to_string() };
            while labels.chars().count() < column {
                labels.push(' ');
            }
            write!(labels, "{text}")?;
        }
    }
    writeln!(f, "  {:>9} └{ticks}\n  {:>9}  {labels} ms", "", "")
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Drawn<F>(F);

    impl<F: Fn(&mut fmt::Formatter<'_>) -> fmt::Result> fmt::Display for Drawn<F> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            self.0(f)
        }
    }

    #[test]
    fn columns_are_as_high_as_their_values() {
        let text = Drawn(|f: &mut fmt::Formatter<'_>| columns(f, &[(0.0, 0.0), (5.0, 10.0), (10.0, 10.0)])).to_string();
        let cells: Vec<Vec<char>> =
            text.lines().map(|line| line.split_once('┤').unwrap().1.chars().collect()).collect();
        assert_eq!(cells.len(), HEIGHT);
        assert_eq!(cells[0], [' ', LIGHT, '█']);
        assert_eq!(cells[2], [' ', '▄', '█']);
        assert_eq!(cells[4], [' ', '█', '█']);
        assert!(text.contains("10 ┤"), "{text}");
    }

    #[test]
    fn bars_are_as_long_as_their_counts_and_an_empty_bin_has_none() {
        let bins = Bins { width_ms: 20.0, bins: vec![(60.0, 100), (80.0, 0), (100.0, 200)] };
        let text = Drawn(|f: &mut fmt::Formatter<'_>| bars(f, &bins)).to_string();
        let lengths: Vec<_> = text.lines().map(|line| line.matches('█').count()).collect();
        assert_eq!(lengths, [BAR / 2, 0, BAR], "{text}");
        assert!(text.contains("60 - 80"), "{text}");
        let few = Bins { width_ms: 20.0, bins: vec![(60.0, 1), (80.0, 2)] };
        let text = Drawn(|f: &mut fmt::Formatter<'_>| bars(f, &few)).to_string();
        let lengths: Vec<_> = text.lines().map(|line| line.matches('█').count()).collect();
        assert_eq!(lengths, [UNIT, 2 * UNIT], "{text}");
    }

    #[test]
    fn the_mark_stands_at_the_event() {
        let text = Drawn(|f: &mut fmt::Formatter<'_>| axis(f, "kill -9")).to_string();
        let lines: Vec<&str> = text.lines().collect();
        let tick = lines[0].chars().enumerate().filter(|(_, c)| *c == '┴').nth(1).unwrap().0;
        assert_eq!(lines[1].find("0 kill -9"), Some(tick), "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    }
}
