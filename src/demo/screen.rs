//! What is seen: lines for everybody, and on a terminal the turbines and the progress in place below them.

use std::io::{self, IsTerminal, Write};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::meter::{Figures, ms};
use crate::cli::output::{Colour, Style, printable, table};
use crate::cli::time::format_ns;
use crate::twin::query::Properties;
use crate::twin::value::Value;

/// What the turbines can make, in kW: the length of a whole bar.
const RATED_KW: f64 = 2_050.0;
/// The length of a whole bar.
const BAR: usize = 24;
/// Lines of the table before its headings come again.
const HEADINGS_EVERY: usize = 36;

/// A turbine as the store has it.
#[derive(Clone, PartialEq, Debug, Default)]
pub(super) struct Turbine {
    name: String,
    power: Option<f64>,
    pitch: Option<f64>,
    wind: Option<f64>,
    state: Option<String>,
}

/// A step of the day as the store has it.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Shown {
    time: String,
    on_the_hour: bool,
    turbines: Vec<Turbine>,
    entry: u64,
    figures: Figures,
}

impl Shown {
    /// What to show of the twins in the namespace, at a history size.
    pub(super) fn new(time_ns: i64, twins: &Properties, size: u64, figures: Figures) -> Self {
        let mut turbines: Vec<Turbine> = Vec::new();
        for property in &twins.items {
            let name = property.twin.rsplit('/').next().unwrap_or_default();
            if turbines.last().is_none_or(|last| last.name != name) {
                turbines.push(Turbine { name: printable(name), ..Turbine::default() });
            }
            let Some(turbine) = turbines.last_mut() else { continue };
            match (property.property.as_str(), &property.value) {
                ("power", Value::F64(value)) => turbine.power = Some(*value),
                ("pitch", Value::F64(value)) => turbine.pitch = Some(*value),
                ("wind_speed", Value::F64(value)) => turbine.wind = Some(*value),
                (super::plan::STATE, Value::Text(text)) => turbine.state = Some(printable(text)),
                _ => {}
            }
        }
        let time = clock(time_ns);
        Self { on_the_hour: time.ends_with(":00"), time, turbines, entry: size.saturating_sub(1), figures }
    }

    fn headings(&self) -> [String; 2] {
        let name = |turbine: &Turbine| format!("|{:^14}", turbine.name);
        let names: String = self.turbines.iter().map(name).collect();
        let units: String = self.turbines.iter().map(|_| "|  kW  deg  m/s").collect();
        [format!("     {names}| entry commit ms"), format!("UTC  {units}|       p50/p99")]
    }

    fn line(&self) -> String {
        let cell = |turbine: &Turbine| {
            format!("|{} {} {}", number(turbine.power, 4, 0), number(turbine.pitch, 4, 1), number(turbine.wind, 4, 1))
        };
        let cells: String = self.turbines.iter().map(cell).collect();
        let latency = format!("{}/{}", ms(self.figures.p50_us), ms(self.figures.p99_us));
        format!("{}{cells}|{:>6} {latency}", self.time, self.entry)
    }

    fn panel(&self, style: Style) -> String {
        let mut lines = Vec::new();
        for turbine in &self.turbines {
            let share = (turbine.power.unwrap_or_default() / RATED_KW).clamp(0.0, 1.0);
            let full = (share * BAR as f64).round() as usize;
            let state = turbine.state.as_deref().unwrap_or("-");
            let text = format!(
                "{:<8}{}{} {} kW  pitch {} deg  wind {} m/s  {state}",
                turbine.name,
                "\u{2588}".repeat(full),
                "\u{b7}".repeat(BAR.saturating_sub(full)),
                number(turbine.power, 4, 0),
                number(turbine.pitch, 4, 1),
                number(turbine.wind, 4, 1),
            );
            let normal = turbine.state.as_deref().is_none_or(|state| state == super::plan::RUNNING);
            lines.push(if normal { text } else { style.paint(Colour::Red, &text) });
        }
        let Figures { p50_us, p99_us, .. } = self.figures;
        lines.push(format!(
            "{} UTC  entry {}  commit p50 {} ms, p99 {} ms",
            self.time,
            self.entry,
            ms(p50_us),
            ms(p99_us)
        ));
        lines.join("\n")
    }
}

/// Hours and minutes of a time, UTC.
pub(super) fn clock(time_ns: i64) -> String {
    format_ns(time_ns).get(11..16).unwrap_or("--:--").to_owned()
}

fn number(value: Option<f64>, width: usize, digits: i32) -> String {
    let Some(value) = value else { return format!("{:>width$}", "-") };
    let scale = 10f64.powi(digits);
    // Adding zero takes the sign off a negative number that is rounded to zero.
    let rounded = (value * scale).round() / scale + 0.0;
    format!("{rounded:>width$.digits$}", digits = digits.unsigned_abs() as usize)
}

/// Where it is shown.
pub(super) struct Screen<'a, W: Write> {
    out: &'a mut W,
    style: Style,
    bar: ProgressBar,
    /// On a terminal: the panel stands for the lines.
    live: bool,
    /// Lines of the table since its headings.
    lines: usize,
}

impl<'a, W: Write> Screen<'a, W> {
    /// For a day of so many steps.
    pub(super) fn new(out: &'a mut W, style: Style, steps: usize) -> Self {
        let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        let live = io::stdout().is_terminal() && io::stderr().is_terminal() && !dumb;
        let target = if live { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(Some(steps as u64), target);
        // The template is a constant; indicatif's own stands in should it not be one.
        if let Ok(template) = ProgressStyle::with_template("{msg}\n[{bar:56}] {pos}/{len}") {
            bar.set_style(template.progress_chars("=> "));
        }
        Self { out, style, bar, live, lines: HEADINGS_EVERY }
    }

    /// Writes a line at once.
    pub(super) fn line(&mut self, text: &str) -> io::Result<()> {
        let Self { out, bar, .. } = self;
        let mut write = || writeln!(out, "{text}").and_then(|()| out.flush());
        // Before the first step there is nothing below the lines, and nothing is to be drawn there.
        if bar.position() == 0 { write() } else { bar.suspend(write) }
    }

    /// Begins a part of the story.
    pub(super) fn title(&mut self, text: &str) -> io::Result<()> {
        self.lines = HEADINGS_EVERY;
        let text = self.style.paint(Colour::Bold, &format!("=== {text}"));
        self.line(&format!("\n{text}"))
    }

    /// Writes a line in a colour.
    pub(super) fn coloured(&mut self, colour: Colour, text: &str) -> io::Result<()> {
        let text = self.style.paint(colour, text);
        self.line(&text)
    }

    /// Writes a small table.
    pub(super) fn table(&mut self, columns: &[&str], rows: &[Vec<String>]) -> io::Result<()> {
        let mut text = Vec::new();
        table(&mut text, Style::PLAIN, columns, rows)?;
        String::from_utf8_lossy(&text).lines().try_for_each(|line| self.line(&format!("  {line}")))
    }

    /// Shows a step; `matters` writes it to a terminal, too.
    pub(super) fn step(&mut self, shown: &Shown, matters: bool) -> io::Result<()> {
        self.bar.set_message(shown.panel(self.style));
        self.bar.inc(1);
        if self.live && !matters && !shown.on_the_hour {
            return Ok(());
        }
        if self.lines >= HEADINGS_EVERY {
            self.lines = 0;
            shown.headings().iter().try_for_each(|line| self.line(line))?;
        }
        self.lines += 1;
        self.line(&shown.line())
    }

    /// Takes the panel away.
    pub(super) fn clear(&mut self) {
        self.bar.finish_and_clear();
    }
}

impl<W: Write> Drop for Screen<'_, W> {
    fn drop(&mut self) {
        self.clear();
    }
}

#[cfg(test)]
mod tests;
