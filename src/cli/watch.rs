//! `atlas watch`: changes as they are agreed, one line each.

use std::io::Write;
use std::time::Duration;

use super::args::WatchArgs;
use super::error::CliError;
use super::interrupt::Interrupt;
use super::output::{Colour, Row, Style, json_line, printable};
use super::session::Session;
use crate::twin::query::ChangeSet;

/// How long is waited for a change before it is looked whether a signal has come.
const LOOK: Duration = Duration::from_millis(100);

/// `atlas watch`.
///
/// # Errors
/// As [`super::error`] has them. Once it watches, replicas that cannot be reached are waited for.
pub fn watch(args: &WatchArgs, out: &mut impl Write, style: Style) -> Result<(), CliError> {
    let interrupt = Interrupt::install()?;
    let mut session = Session::open(&args.connection)?;
    let from = match args.from {
        Some(from) => from,
        None => session.order_nothing()?,
    };
    let changes = session.subscribe(&args.prefix, from)?;
    while !interrupt.is_set() {
        let Some(sets) = session.next_change(changes, LOOK)? else { continue };
        for set in &sets {
            print(&session, set, args.format.json, out, style)?;
        }
        // Whoever reads must see it now; the next change may be hours away.
        out.flush()?;
    }
    Ok(())
}

fn print(session: &Session, set: &ChangeSet, json: bool, out: &mut impl Write, style: Style) -> Result<(), CliError> {
    for change in &set.changes {
        let row = Row::of_change(session.cluster(), set, change);
        if json {
            json_line(out, &row)?;
        } else {
            writeln!(out, "{}", line(&row, style))?;
        }
    }
    Ok(())
}

/// A change in one line: the columns cannot be aligned with what is still to come.
fn line(row: &Row, style: Style) -> String {
    let reason = row.reason.as_ref().and_then(|reason| reason.reason.as_deref());
    let reason = reason.map_or_else(String::new, |reason| format!("  # {}", printable(reason)));
    let quality = if row.quality == "good" { String::new() } else { format!(" ({})", row.quality) };
    let name = style.paint(Colour::Bold, &format!("{} {}", row.twin, row.property));
    let text = row.text();
    format!("{}  {}  {name} = {text}{quality}  by {}{reason}", row.position, row.agreed_time, row.origin)
}
