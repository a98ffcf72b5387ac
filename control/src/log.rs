//! The lines that people read: printed here and nowhere else while the replica serves, by a thread of its own.
//!
//! Lines come from [`atlas_dataplane::flight::lines`]: those of the replica's thread are made of its recorder's events, those of others are
//! text. They go through `tracing` to the standard error, as `[control] log_format` says: `human`, a line with time, level and text; or
//! `json`, an object a line with `timestamp`, `level`, `target` (`replica`, `control`, `audit` or `log`), `message` and, of an event, `kind` and its
//! words by their names in `fields`. Times are those of the events. A standard error that blocks holds up this thread alone.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use atlas_dataplane::cluster::control::LogFormat;
use atlas_dataplane::flight::lines::{self, Level, Line, Lines};
use tracing::Dispatch;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;

thread_local! {
    /// The time of the line that this thread prints, us since 1970.
    static AT: Cell<u64> = const { Cell::new(0) };
}

/// When what is printed happened, and not when it is printed.
struct AtLine;

impl FormatTime for AtLine {
    fn format_time(&self, out: &mut Writer<'_>) -> std::fmt::Result {
        let time = jiff::Timestamp::from_microsecond(i64::try_from(AT.get()).unwrap_or(0)).unwrap_or_default();
        write!(out, "{time:.6}")
    }
}

/// A line of the management, as the replica says its own.
pub(crate) fn report(line: &str) {
    let level = if line.starts_with("warning: ") { Level::Warn } else { Level::Info };
    lines::say(level, "control", &format!("control: {line}"));
}

/// A line that says who changed what: at every level, never left out.
pub(crate) fn audit(line: &str) {
    lines::say(Level::Info, lines::AUDIT, &format!("control: {line}"));
}

/// Prints until the process ends.
pub(crate) fn print(lines: Lines, format: LogFormat) {
    lines::print_with(lines, |lines| {
        let dispatch = dispatch(format, || lines::Printer);
        tracing::dispatcher::with_default(&dispatch, || {
            for lines in lines {
                lines.iter().for_each(|line| emit(line, format));
            }
        });
    });
}

fn dispatch<W: for<'w> MakeWriter<'w> + Send + Sync + 'static>(format: LogFormat, writer: W) -> Dispatch {
    // Writing fails where nobody reads any more, and there is nobody to tell.
    let base = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::DEBUG)
        .with_ansi(false)
        .with_timer(AtLine)
        .log_internal_errors(false)
        .with_writer(writer);
    match format {
        LogFormat::Human => Dispatch::new(base.with_target(false).finish()),
        LogFormat::Json => {
            Dispatch::new(base.json().flatten_event(true).with_current_span(false).with_span_list(false).finish())
        }
    }
}

/// For whole-system tests: with `ATLAS_CRASH_AT=print:N` the N-th line makes the printing thread panic. Built with debug assertions only.
fn fail_on_purpose() {
    static PRINTED: AtomicU64 = AtomicU64::new(0);
    if !cfg!(debug_assertions) {
        return;
    }
    let printed = PRINTED.fetch_add(1, Relaxed) + 1;
    let asked = std::env::var("ATLAS_CRASH_AT").ok();
    let asked: Option<u64> = asked.and_then(|text| text.strip_prefix("print:")?.parse().ok());
    if asked == Some(printed) {
        panic!("asked to panic at line {printed}");
    }
}

/// Hands one line to tracing, whose levels and targets are fixed where they are used.
fn emit(line: &Line, format: LogFormat) {
    AT.set(line.at_us);
    fail_on_purpose();
    // A line stays one, whatever is in it; as JSON it is escaped, and an event has its words beside.
    let text: String =
        line.text.chars().map(|c| if c.is_control() && format == LogFormat::Human { ' ' } else { c }).collect();
    let event = line.event.filter(|_| format == LogFormat::Json);
    macro_rules! at {
        ($level:ident, $target:literal) => {
            match &event {
                Some(event) => {
                    let fields: serde_json::Map<_, _> = event
                        .json_fields()
                        .map(|(name, value)| {
                            (name.to_owned(), value.map_or_else(serde_json::Value::from, serde_json::Value::from))
                        })
                        .collect();
                    let fields = serde_json::Value::Object(fields).to_string();
                    tracing::event!(target: $target, tracing::Level::$level, kind = event.kind.name(), fields, "{text}");
                }
                None => tracing::event!(target: $target, tracing::Level::$level, "{text}"),
            }
        };
    }
    macro_rules! of {
        ($target:literal) => {
            match line.level {
                Level::Error => at!(ERROR, $target),
                Level::Warn => at!(WARN, $target),
                Level::Info => at!(INFO, $target),
                Level::Debug => at!(DEBUG, $target),
            }
        };
    }
    match line.from {
        "replica" => of!("replica"),
        "control" => of!("control"),
        lines::AUDIT => of!("audit"),
        _ => of!("log"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use atlas_dataplane::flight::{Event, Kind};
    use std::io;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn printed(format: LogFormat) -> String {
        let kept = Kept::default();
        let writer = kept.clone();
        let event = Event { at_us: 5, kind: Kind::ViewLeft, words: [7, 3, 2] };
        let line = |event: Option<Event>, text: String| Line {
            at_us: 1_700_000_000_000_005,
            level: Level::Warn,
            from: "replica",
            text,
            event,
        };
        tracing::dispatcher::with_default(&dispatch(format, move || writer.clone()), || {
            emit(&line(Some(event), event.text()), format);
            emit(&line(None, "one \"line\"\nand not two \u{1b}[31m".to_owned()), format);
        });
        let bytes = kept.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn people_get_time_level_and_text() {
        let text = printed(LogFormat::Human);
        let first = text.lines().next().unwrap();
        assert_eq!(
            first,
            "2023-11-14T22:13:20.000005Z  WARN asking for view 7, which replica 3 would lead: its leader is slow"
        );
        assert!(text.lines().count() == 2 && !text.contains('\u{1b}'), "{text:?}");
    }

    #[test]
    fn programs_get_an_object_a_line() {
        let text = printed(LogFormat::Json);
        let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 2, "{text}");
        assert_eq!(lines[0]["timestamp"], "2023-11-14T22:13:20.000005Z");
        assert_eq!((&lines[0]["level"], &lines[0]["target"]), (&"WARN".into(), &"replica".into()));
        assert_eq!(lines[0]["kind"], "view_left");
        let fields: serde_json::Value = serde_json::from_str(lines[0]["fields"].as_str().unwrap()).unwrap();
        assert_eq!((&fields["view"], &fields["why"]), (&7.into(), &"its leader is slow".into()));
        assert_eq!(lines[1]["message"], "one \"line\"\nand not two \u{1b}[31m");
    }
}
