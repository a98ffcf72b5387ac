//! `atlas history` and `atlas trail`: the audit trail of a cluster and of an export, and the picture of an incident.

use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use atlas_dataplane::types::{EntryIndex, Position, PublicKey, TimeMs};

use super::args::{Freshness, HistoryArgs, TrailArgs, Twins, Which};
use super::error::CliError;
use super::keys::{Fresh, identities};
use super::output::Style;
use super::session::{Session, unreadable};
use super::time::now_ms;
use crate::trail::export_dir::{ExportError, ExportRows, names_in};
use crate::trail::row::rows_of_record;
use crate::trail::timeline::{MAX_ROWS, Timeline, draw};
use crate::trail::{Names, Printer, Row};
use crate::twin::query::{Bound, MAX_PAGE, Query};
use crate::twin::record::{ALL_CODES, DONE_CODES, Filter, MAX_ORIGINS, Records};

/// `atlas history`.
///
/// # Errors
/// As [`super::error`] has them; a twin or property that does not exist is refused.
pub fn history(args: &HistoryArgs, out: &mut impl Write, style: Style) -> Result<(), CliError> {
    if args.svg.is_some() && !args.twin.is_whole {
        return Err(CliError::Usage("--svg draws one twin: give its whole name, without *".to_owned()));
    }
    let mut session = Session::open(&args.connection)?;
    let last = last_entry(&mut session, args.freshness)?;
    let mut names = Names::of_cluster(session.cluster());
    for identity in identities(&mut session, Fresh::From(last.saturating_add(1)))? {
        names.learn(identity.key, &identity.name);
    }
    let default = if args.svg.is_some() { ALL_CODES } else { DONE_CODES };
    let mut filter = filter(&args.twin, args.property.as_deref(), &args.which, &names, default)?;
    if let Some(around) = args.around {
        let mark_ms = time_of(&mut session, around, last)?;
        let (from_ms, to_ms) = window(mark_ms, args.span);
        // What is still to come is not drawn as if it were known.
        let to_ms = to_ms.min(now_ms().max(mark_ms));
        (filter.from, filter.to) = (Some(Bound::Time(from_ms)), Some(Bound::Time(to_ms)));
        if let Some(file) = &args.svg {
            return picture(&mut session, &filter, last, &names, (from_ms, mark_ms, to_ms), file, out);
        }
    }
    let mut printer = Printer::new(out, args.show.format(), style);
    each_row(&mut session, &filter, last, &names, |row| {
        printer.add(&row)?;
        Ok(true)
    })?;
    Ok(printer.finish()?)
}

/// `atlas trail`.
///
/// # Errors
/// The directory is no export that can be read; what was read before the fault is printed.
pub fn trail(args: &TrailArgs, out: &mut impl Write, style: Style) -> Result<(), CliError> {
    // Only who asks by a name needs them beforehand.
    let is_named = args.which.by.iter().any(|by| by.parse::<PublicKey>().is_err());
    let names = if is_named { names_in(&args.dir).map_err(unreadable_export)? } else { Names::default() };
    let filter = filter(&args.twin, args.property.as_deref(), &args.which, &names, ALL_CODES)?;
    let rows = ExportRows::open(&args.dir, filter).map_err(unreadable_export)?;
    let mut printer = Printer::new(out, args.show.format(), style);
    for row in rows {
        match row {
            Ok(row) => printer.add(&row)?,
            Err(error) => {
                printer.finish()?;
                return Err(unreadable_export(error));
            }
        }
    }
    Ok(printer.finish()?)
}

fn unreadable_export(error: ExportError) -> CliError {
    match error {
        ExportError::Output(error) => error.into(),
        error => CliError::Failed(format!("the export cannot be read: {error}")),
    }
}

/// What was typed as a filter.
fn filter(
    twin: &Twins,
    property: Option<&str>,
    which: &Which,
    names: &Names,
    default: (atlas_dataplane::types::Code, atlas_dataplane::types::Code),
) -> Result<Filter, CliError> {
    let origins = origins(&which.by, names)?;
    Ok(Filter {
        twin: twin.name.clone(),
        is_whole: twin.is_whole,
        property: property.map(str::to_owned),
        origins,
        codes: which.outcome.map_or(default, |outcome| outcome.0),
        from: which.from,
        to: which.to,
    })
}

/// The keys that were named.
fn origins(by: &[String], names: &Names) -> Result<Vec<PublicKey>, CliError> {
    let mut keys = Vec::new();
    for text in by {
        match (names.keys(text), text.parse()) {
            (named, Err(_)) if named.is_empty() => {
                let text: String = text.chars().take(80).collect();
                let what = "nobody has this name here, and it is no key: 44 characters of base64";
                return Err(CliError::Usage(format!("--by {text:?}: {what}")));
            }
            (named, Ok(key)) if named.is_empty() => keys.push(key),
            (named, _) => keys.extend(named),
        }
    }
    keys.sort_unstable();
    keys.dedup();
    if keys.len() > MAX_ORIGINS {
        let text = format!("--by names {} keys; at most {MAX_ORIGINS} are asked for at once", keys.len());
        return Err(CliError::Usage(text));
    }
    Ok(keys)
}

/// The last entry that is looked at: by default one that is behind everything done before the command began.
fn last_entry(session: &mut Session, freshness: Freshness) -> Result<EntryIndex, CliError> {
    if !freshness.unordered {
        return Ok(session.order_nothing()?.entry);
    }
    let nothing = Query::List { prefix: "atlas/order".to_owned(), after: None, limit: 1 };
    Ok(session.read(&nothing, freshness)?.size.saturating_sub(1))
}

/// Gives each row, newest first, to `take` until that says no.
fn each_row(
    session: &mut Session,
    filter: &Filter,
    last: EntryIndex,
    names: &Names,
    mut take: impl FnMut(Row) -> Result<bool, CliError>,
) -> Result<(), CliError> {
    let query = |cursor| Query::Trail { filter: filter.clone(), last, limit: MAX_PAGE as u64, cursor };
    let mut cursor = None;
    loop {
        let read = session.read_on(&query(cursor.clone()), last.saturating_add(1))?;
        let page = Records::decode(&read.body).map_err(unreadable)?;
        for record in &page.records {
            // The rows of one operation stand in the order of its writes.
            for row in rows_of_record(record, names) {
                if !take(row)? {
                    return Ok(());
                }
            }
        }
        // A page behind which it goes on where it began would go on for ever.
        if page.cursor.is_none() || page.cursor == cursor {
            return Ok(());
        }
        cursor = page.cursor;
    }
}

/// Agreed time of a position.
fn time_of(session: &mut Session, around: Bound, last: EntryIndex) -> Result<TimeMs, CliError> {
    let position = match around {
        Bound::Time(time) => return Ok(time),
        Bound::Position(position) => position,
    };
    let at = Some(Bound::Position(position));
    let filter = Filter { from: at, to: at, twin: String::new(), ..Filter::all() };
    // Marks of ordered reads are positions as well.
    let marks = Filter { twin: crate::twin::record::MARK.0.to_owned(), ..filter.clone() };
    let mut found = None;
    for filter in [filter, marks] {
        each_row(session, &filter, last, &Names::default(), |row| {
            found = Some(row.agreed_ms);
            Ok(false)
        })?;
    }
    found.ok_or_else(|| CliError::Usage(no_operation(position)))
}

fn no_operation(position: Position) -> String {
    format!("--around {position}: no operation stands there; give one that history shows, or a time")
}

/// So much time around a moment.
fn window(mark_ms: TimeMs, span: Duration) -> (TimeMs, TimeMs) {
    let half = i64::try_from(span.as_millis() / 2).unwrap_or(i64::MAX).max(1);
    (mark_ms.saturating_sub(half), mark_ms.saturating_add(half))
}

fn picture(
    session: &mut Session,
    filter: &Filter,
    last: EntryIndex,
    names: &Names,
    (from_ms, mark_ms, to_ms): (TimeMs, TimeMs, TimeMs),
    file: &Path,
    out: &mut impl Write,
) -> Result<(), CliError> {
    let mut rows = Vec::new();
    each_row(session, filter, last, names, |row| {
        rows.push(row);
        Ok(rows.len() <= MAX_ROWS)
    })?;
    if rows.len() > MAX_ROWS {
        return Err(CliError::Usage(format!("more than {MAX_ROWS} changes in this time: take a shorter --span")));
    }
    // Oldest first; the writes of one operation in their order, as they came.
    rows.sort_by_key(|row| row.position);
    let timeline = Timeline { twin: &filter.twin, from_ms, to_ms, mark_ms: Some(mark_ms), rows: &rows };
    let drawn = draw(&timeline).map_err(|error| CliError::failed("cannot draw", error))?;
    let doing = |error: io::Error| CliError::failed(format!("cannot write {}", file.display()), error);
    std::fs::write(file, drawn).map_err(doing)?;
    writeln!(out, "{} rows drawn to {}", rows.len(), file.display())?;
    Ok(())
}
