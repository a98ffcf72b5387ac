//! The terminal: keys in, lines out, and everything as it was before at the end, also after a panic or a signal.

use std::io::{self, Write};
use std::thread;
use std::time::{Duration, Instant};

use ratatui::buffer::Buffer;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use ratatui::layout::Rect;
use ratatui::text::Line;
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;

use super::plant::Plant;
use super::{MIN_HEIGHT, MIN_WIDTH, Tone, View, detail, overview, plain_line};
use crate::cli::error::CliError;
use crate::cli::interrupt::Interrupt;
use crate::cli::time::now_ms;

/// How long a signal may go unnoticed.
const POLL: Duration = Duration::from_millis(100);

/// Exit code when the terminal is gone: that of SIGHUP in a shell.
const HUNG_UP: i32 = 129;

/// How the screen is left.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Next {
    /// It stays.
    Stay,
    /// It ends.
    Quit,
}

/// Shows the plant until `q` or a signal.
///
/// # Errors
/// The terminal cannot be used any more.
pub fn run(plant: &mut Plant, every: Duration, coloured: bool) -> Result<(), CliError> {
    let wrong = |error| CliError::failed("cannot use the terminal", error);
    let interrupt = Interrupt::install()?;
    end_with_the_terminal().map_err(wrong)?;
    // Installs a panic hook that restores the terminal too.
    let mut terminal = ratatui::try_init().map_err(wrong)?;
    let _restore = Restore;
    let mut view = View::default();
    let (mut due, mut changed) = (Instant::now(), true);
    while !interrupt.is_set() {
        if due <= Instant::now() {
            if !view.held {
                refresh(plant);
                changed = true;
            }
            due = Instant::now() + every.max(POLL);
        }
        if std::mem::take(&mut changed) {
            terminal.draw(|frame| draw(plant, &view, frame.area(), frame.buffer_mut(), coloured)).map_err(wrong)?;
        }
        let wait = due.saturating_duration_since(Instant::now()).min(POLL);
        if event::poll(wait).map_err(wrong)? {
            let event = event::read().map_err(wrong)?;
            changed = true;
            if let Event::Key(key) = event
                && key.kind != KeyEventKind::Release
                && on_key(plant, &mut view, key) == Next::Quit
            {
                break;
            }
        }
    }
    Ok(())
}

/// Ends the process once the terminal is gone, which nobody need have told it by a signal. Reading keys from such a terminal, crossterm
/// would read the end of the file for ever.
fn end_with_the_terminal() -> io::Result<()> {
    let watch = || {
        let gone = PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL;
        let stdout = io::stdout();
        let mut watched = [PollFd::new(&stdout, PollFlags::empty())];
        // Nothing is waited for but what is told in any case.
        while !watched[0].revents().intersects(gone) {
            if rustix::event::poll(&mut watched, None).is_err_and(|error| error != Errno::INTR) {
                return;
            }
        }
        std::process::exit(HUNG_UP);
    };
    thread::Builder::new().name("terminal".to_owned()).spawn(watch).map(drop)
}

/// One frame as text: all tables and notes, however many lines they take.
///
/// # Errors
/// Those of `out`.
pub fn once(plant: &mut Plant, every: Duration, out: &mut impl Write) -> Result<(), CliError> {
    refresh(plant);
    // Rates are those between two readings.
    thread::sleep(every);
    refresh(plant);
    for line in overview::lines(plant, &View { picked: usize::MAX, ..View::default() }, MIN_WIDTH, None) {
        writeln!(out, "{}", line.to_string().trim_end())?;
    }
    Ok(())
}

fn refresh(plant: &mut Plant) {
    plant.refresh(u64::try_from(now_ms()).unwrap_or(0));
}

/// Restores the terminal where it goes out of scope.
struct Restore;

impl Drop for Restore {
    fn drop(&mut self) {
        // A terminal that has gone needs no restoring.
        let _ = ratatui::try_restore();
        let _ = io::stdout().flush();
    }
}

/// Draws the page that is chosen.
pub fn draw(plant: &Plant, view: &View, area: Rect, buffer: &mut Buffer, coloured: bool) {
    let (width, height) = (usize::from(area.width), usize::from(area.height));
    let lines: Vec<Line<'_>> = if width < MIN_WIDTH || height < MIN_HEIGHT {
        let text = format!("atlas top needs {MIN_WIDTH}x{MIN_HEIGHT}, here are {width}x{height}; q quits");
        vec![plain_line(Tone::Plain, text)]
    } else if view.details {
        detail::lines(plant, view, width, height)
    } else {
        overview::lines(plant, view, width, Some(height))
    };
    for (row, line) in (area.top()..area.bottom()).zip(&lines) {
        buffer.set_line(area.left(), row, line, area.width);
    }
    if !coloured {
        for cell in &mut buffer.content {
            cell.set_fg(ratatui::style::Color::Reset);
        }
    }
}

/// What a key does.
pub fn on_key(plant: &Plant, view: &mut View, key: KeyEvent) -> Next {
    let control = key.modifiers.contains(KeyModifiers::CONTROL);
    match key.code {
        KeyCode::Char('q') | KeyCode::Char('Q') => return Next::Quit,
        KeyCode::Char('c') if control => return Next::Quit,
        KeyCode::Up | KeyCode::Char('k') => pick(plant, view, -1),
        KeyCode::Down | KeyCode::Char('j') => pick(plant, view, 1),
        KeyCode::Home => pick(plant, view, isize::MIN),
        KeyCode::End => pick(plant, view, isize::MAX),
        KeyCode::Enter => view.details = !view.details,
        KeyCode::Esc | KeyCode::Backspace => view.details = false,
        KeyCode::Char('s') => view.sort = view.sort.next(),
        KeyCode::Char('r') => view.reverse = !view.reverse,
        KeyCode::Tab => view.first = (view.first + 1) % 3,
        KeyCode::BackTab => view.first = (view.first + 2) % 3,
        KeyCode::Char(' ') => view.held = !view.held,
        _ => {}
    }
    Next::Stay
}

/// Picks another row, counted in the order that is shown.
fn pick(plant: &Plant, view: &mut View, step: isize) {
    let order = plant.order(view);
    let place = order.iter().position(|place| *place == view.picked).unwrap_or(0);
    let place = place.saturating_add_signed(step).min(order.len().saturating_sub(1));
    view.picked = order.get(place).copied().unwrap_or(0);
}
