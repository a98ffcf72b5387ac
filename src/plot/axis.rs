//! Scales, and the lines and labels of them.

use std::fmt::{self, Write};

use super::{LEFT, RIGHT};
use crate::svg::{Anchor, text_at};

/// A drawing's upper and lower edge, pixels.
#[derive(Clone, Copy, Debug)]
pub(super) struct Band {
    pub(super) top: f64,
    pub(super) bottom: f64,
}

/// Latencies by decades, in nanoseconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Decades {
    low: f64,
    high: f64,
    band: Band,
}

impl Decades {
    /// From 1, 2 or 5 times a power of ten below the lowest to one above the highest.
    pub(super) fn new(lowest: f64, highest: f64, band: Band) -> Self {
        let low = steps().take_while(|step| *step <= lowest.max(1.0)).last().unwrap_or(1.0);
        let high = steps().find(|step| *step >= highest && *step > low * 1.5).unwrap_or(1e13);
        Self { low, high, band }
    }

    pub(super) fn y(&self, ns: f64) -> f64 {
        let share = (ns.clamp(self.low, self.high) / self.low).ln() / (self.high / self.low).ln();
        self.band.bottom - share * (self.band.bottom - self.band.top)
    }

    /// Lines at all steps, labels where there is room.
    pub(super) fn draw(&self, out: &mut String) -> fmt::Result {
        let shown: Vec<f64> = steps().filter(|step| (self.low..=self.high).contains(step)).collect();
        // Beyond that, decades only.
        let many = shown.len() > 10;
        for step in shown {
            let is_decade = (step.log10() - step.log10().round()).abs() < 1e-9;
            let (y, class) = (self.y(step), if is_decade || !many { "g" } else { "f" });
            writeln!(out, "<path class=\"{class}\" d=\"M{LEFT} {y:.1}H{RIGHT}\"/>")?;
            if is_decade || !many {
                text_at(out, (LEFT - 8.0, y + 4.0), Anchor::End, "s", &super::time(step))?;
            }
        }
        Ok(())
    }
}

/// 1, 2 and 5 times each power of ten, from a nanosecond to three hours.
fn steps() -> impl Iterator<Item = f64> {
    (0..14).flat_map(|power| [1.0, 2.0, 5.0].map(|digit| digit * 10f64.powi(power)))
}

/// A round step that divides a span into at most so many.
pub(super) fn round_step(span: f64, most: usize) -> f64 {
    let widths = (-9..13).flat_map(|power| [1.0, 2.0, 5.0].map(|digit| digit * 10f64.powi(power)));
    widths.into_iter().find(|width| *width * most as f64 >= span).unwrap_or(span.max(1.0))
}

/// A scale from 0; gives its upper end.
pub(super) fn linear(out: &mut String, band: Band, highest: f64) -> Result<f64, fmt::Error> {
    let step = round_step(highest.max(1.0), 4);
    let count = (highest.max(1.0) / step).ceil();
    for tick in 0..=count as u64 {
        let y = band.bottom - tick as f64 / count * (band.bottom - band.top);
        writeln!(out, "<path class=\"g\" d=\"M{LEFT} {y:.1}H{RIGHT}\"/>")?;
        let value = tick as f64 * step;
        let label = if step.fract() == 0.0 { super::thousands(value as u64) } else { super::short(value) };
        text_at(out, (LEFT - 8.0, y + 4.0), Anchor::End, "s", &label)?;
    }
    Ok(step * count)
}

/// The name of a vertical axis, along it.
pub(super) fn name(out: &mut String, band: Band, text: &str) -> fmt::Result {
    let (x, y) = (18.0, (band.top + band.bottom) / 2.0);
    writeln!(out, "<g transform=\"translate({x} {y:.1}) rotate(-90)\">")?;
    text_at(out, (0.0, 0.0), Anchor::Middle, "s", text)?;
    writeln!(out, "</g>")
}

/// The head of a picture of that height.
pub(super) fn head(out: &mut String, height: f64, title: &str, subtitle: &str) -> fmt::Result {
    let (width, title_text) = (super::WIDTH, crate::svg::escaped(title));
    writeln!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height:.0}\" width=\"{width}\" height=\"{height:.0}\" role=\"img\">\n\
         <title>{title_text}</title>\n<style>{}</style>\n<rect width=\"{width}\" height=\"{height:.0}\" fill=\"#ffffff\"/>",
        super::STYLE
    )?;
    text_at(out, (24.0, 32.0), Anchor::Start, "h", title)?;
    text_at(out, (24.0, 52.0), Anchor::Start, "s", subtitle)
}
