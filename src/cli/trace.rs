//! `atlas trace`: what a flight recorder kept, from a file that a replica wrote or left. The replica is asked nothing.
//!
//! Events of all threads are shown in the order of their times. `--stages` follows the sampled bundles through their stages: what is noted of
//! a bundle is joined with what is noted of the sequence that it was ordered at.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use atlas_dataplane::cluster::control::RUN_DIRECTORY;
use atlas_dataplane::flight::file::{LIVE, Recording, RecordingError};
use atlas_dataplane::flight::stages::{Path as Stamps, STAGES, WHOLE, took};
use atlas_dataplane::flight::{Event, Kind};
use clap::Args;
use serde_json::{Map, Value, json};

use super::args::Format;
use super::ctl::run_directory;
use super::error::CliError;
use super::output::{Colour, Style, json_line, table};

/// Arguments of `atlas trace`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  atlas ctl --replica plant/replica-0/config.toml dump
  atlas trace plant/replica-0/data/run/flight-20261122T060102.345Z-asked
  atlas trace plant/replica-0/data --last 100
  atlas trace plant/replica-0/data --kind view_left --kind view_begun --kind stall
  atlas trace plant/replica-0/data --stages

A directory or configuration file stands for what its replica records now, or recorded last if it was killed.
`--kind` names are those of the column; `atlas trace --kind help FILE` lists all. Times are of the replica's clock.")]
pub struct TraceArgs {
    /// A recording, the data directory of a replica, its run directory, or its configuration file
    #[arg(value_name = "FILE")]
    pub place: PathBuf,
    /// Only events of this kind; may be given several times
    #[arg(long, value_name = "KIND")]
    pub kind: Vec<String>,
    /// Only events of this sequence, and of bundles that are ordered there
    #[arg(long, value_name = "NUMBER")]
    pub sequence: Option<u64>,
    /// Only the last so many of those
    #[arg(long, value_name = "COUNT")]
    pub last: Option<usize>,
    /// How long the sampled bundles took from stage to stage
    #[arg(long, conflicts_with_all = ["kind", "sequence", "last"])]
    pub stages: bool,
    #[allow(missing_docs)]
    #[command(flatten)]
    pub format: Format,
}

/// `atlas trace`.
///
/// # Errors
/// No recording there, one that is damaged, or a kind that is none.
pub fn trace(args: &TraceArgs, out: &mut impl Write, style: Style) -> Result<(), CliError> {
    let kinds = args.kind.iter().map(|name| kind(name)).collect::<Result<Vec<Kind>, CliError>>()?;
    let file = recording_file(&args.place)?;
    let recording = Recording::open(&file).map_err(|error| match error {
        RecordingError::Read { .. } => CliError::Failed(format!(
            "{error}; a replica that runs with its management plane keeps one in its run directory, and `atlas ctl dump` writes others"
        )),
        error => CliError::Failed(error.to_string()),
    })?;
    if args.stages {
        return stages(args, &recording, out, style);
    }
    let mut events: Vec<(&str, &Event)> = Vec::new();
    for track in &recording.tracks {
        events.extend(track.events.iter().map(|event| (track.name.as_str(), event)));
    }
    // Of one thread they are in order already, and stay so.
    events.sort_by_key(|(_, event)| event.at_us);
    let bundles = args.sequence.map(|sequence| bundles_at(&events, sequence)).unwrap_or_default();
    events.retain(|(_, event)| {
        let at = args.sequence.is_none_or(|sequence| {
            event.field("sequence") == Some(sequence) || event.field("bundle").is_some_and(|it| bundles.contains(&it))
        });
        at && (kinds.is_empty() || kinds.contains(&event.kind))
    });
    let first = args.last.map_or(0, |last| events.len().saturating_sub(last));
    show(args, &recording, &events[first..], out, style)
}

fn kind(name: &str) -> Result<Kind, CliError> {
    let found = Kind::ALL.iter().find(|kind| kind.name() == name);
    found.copied().ok_or_else(|| {
        let all: Vec<&str> = Kind::ALL.iter().map(|kind| kind.name()).collect();
        CliError::Usage(format!("no kind of event {name:?}; there are {}", all.join(", ")))
    })
}

/// The recording of what was named.
fn recording_file(place: &Path) -> Result<PathBuf, CliError> {
    if place.is_dir() {
        let inner = place.join(RUN_DIRECTORY).join(LIVE);
        return Ok(if inner.exists() { inner } else { place.join(LIVE) });
    }
    match place.extension().is_some_and(|extension| extension == "toml") {
        true => Ok(run_directory(place)?.join(LIVE)),
        false => Ok(place.to_owned()),
    }
}

fn bundles_at(events: &[(&str, &Event)], sequence: u64) -> Vec<u64> {
    let at = events.iter().filter(|(_, event)| {
        matches!(event.kind, Kind::BundleProposed | Kind::BundleExecuted) && event.field("sequence") == Some(sequence)
    });
    at.filter_map(|(_, event)| event.field("bundle")).collect()
}

/// A time of the recording's events by the wall clock.
fn time(recording: &Recording, at_us: u64) -> String {
    wall_time(recording.clock.wall_us(at_us))
}

fn wall_time(us: u64) -> String {
    let time = jiff::Timestamp::from_microsecond(i64::try_from(us).unwrap_or(i64::MAX));
    time.map_or_else(|_| us.to_string(), |time| format!("{time:.6}"))
}

fn show(
    args: &TraceArgs,
    recording: &Recording,
    events: &[(&str, &Event)],
    out: &mut impl Write,
    style: Style,
) -> Result<(), CliError> {
    if args.format.json {
        for (thread, event) in events {
            let fields: Map<String, Value> = event
                .json_fields()
                .map(|(name, value)| (name.to_owned(), value.map_or_else(Value::from, Value::from)))
                .collect();
            let (at, kind) = (time(recording, event.at_us), event.kind.name());
            let text = event.text();
            let object = json!({ "time": at, "at_us": event.at_us, "thread": thread, "kind": kind, "fields": fields, "text": text });
            json_line(out, &object)?;
        }
        return Ok(());
    }
    writeln!(out, "{}", style.paint(Colour::Bold, &title(recording)))?;
    let rows: Vec<Vec<String>> = events
        .iter()
        .map(|(thread, event)| {
            let fields: Vec<String> = event.fields().map(|(name, value)| format!("{name}={value}")).collect();
            let words = vec![time(recording, event.at_us), (*thread).to_owned(), event.kind.name().to_owned()];
            words.into_iter().chain([fields.join(" ")]).collect()
        })
        .collect();
    table(out, style, &["TIME", "THREAD", "EVENT", "FIELDS"], &rows)?;
    for track in recording.tracks.iter().filter(|track| track.before > 0) {
        writeln!(out, "{} events of {} before these are not kept", track.before, track.name)?;
    }
    Ok(())
}

fn title(recording: &Recording) -> String {
    let Recording { replica, pid, why, .. } = recording;
    let end = match recording.written_us {
        Some(us) => {
            let at = wall_time(us);
            format!("written {at}, because of: {}", why.name())
        }
        None if Path::new(&format!("/proc/{pid}")).exists() => "which runs".to_owned(),
        None => "which does not run any more and did not end well".to_owned(),
    };
    // What a panic said may be anything.
    let reason: String = recording.reason.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let reason = if reason.is_empty() { reason } else { format!(" ({reason})") };
    format!("replica {replica} (pid {pid}), {end}{reason}")
}

/// When each sampled bundle came, and when each of its stages ended, us.
fn paths(recording: &Recording) -> Vec<Stamps> {
    let mut bundles: BTreeMap<u64, (Stamps, Option<u64>)> = BTreeMap::new();
    let mut sequences: BTreeMap<(u64, Kind), u64> = BTreeMap::new();
    for event in recording.tracks.iter().flat_map(|track| &track.events) {
        let place = STAGES.iter().position(|(_, kind)| *kind == event.kind).map(|place| place + 1);
        match (event.kind, event.field("bundle"), event.field("sequence")) {
            (Kind::BundleArrived, Some(bundle), _) => {
                bundles.entry(bundle).or_default().0[0].get_or_insert(event.at_us);
            }
            (_, Some(bundle), sequence) => {
                let path = bundles.entry(bundle).or_default();
                if let Some(place) = place {
                    path.0[place].get_or_insert(event.at_us);
                }
                path.1 = path.1.or(sequence);
            }
            (Kind::AcceptedDurable | Kind::Decided, None, Some(sequence)) => {
                sequences.entry((sequence, event.kind)).or_insert(event.at_us);
            }
            _ => {}
        }
    }
    let join = |(mut path, sequence): (Stamps, Option<u64>)| {
        for (place, (_, kind)) in STAGES.iter().enumerate() {
            path[place + 1] = path[place + 1].or_else(|| sequences.get(&(sequence?, *kind)).copied());
        }
        path
    };
    bundles.into_values().map(join).collect()
}

fn stages(args: &TraceArgs, recording: &Recording, out: &mut impl Write, style: Style) -> Result<(), CliError> {
    let paths = paths(recording);
    let taken: Vec<_> = paths.iter().map(took).collect();
    let names = STAGES.iter().map(|(name, _)| *name).chain([WHOLE]).enumerate();
    let rows: Vec<(&str, Vec<u64>)> =
        names.map(|(place, name)| (name, taken.iter().filter_map(|took| took[place]).collect())).collect();
    if !args.format.json {
        writeln!(out, "{}", style.paint(Colour::Bold, &title(recording)))?;
        let hint = match paths.len() {
            0 => ": one of `trace_sampling` is; `atlas ctl 'set trace_sampling 1'` follows all",
            _ => " (one of `trace_sampling`)",
        };
        writeln!(out, "{} bundles were followed{hint}", paths.len())?;
    }
    let mut cells = Vec::new();
    for (name, mut took) in rows {
        took.sort_unstable();
        let at = |part: f64| took.get(((took.len() as f64 * part) as usize).min(took.len().saturating_sub(1))).copied();
        let values = [at(0.5), at(0.9), at(0.99), took.last().copied()];
        if args.format.json {
            let [p50, p90, p99, max] = values;
            let object = json!({ "stage": name, "count": took.len(), "p50_us": p50, "p90_us": p90, "p99_us": p99, "max_us": max });
            json_line(out, &object)?;
        }
        let shown = values.map(|value| value.map_or_else(|| "-".to_owned(), |us| us.to_string()));
        cells.push([name.to_owned(), took.len().to_string()].into_iter().chain(shown).collect());
    }
    if args.format.json {
        return Ok(());
    }
    Ok(table(out, style, &["STAGE", "COUNT", "P50 US", "P90 US", "P99 US", "MAX US"], &cells)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use atlas_dataplane::flight::clock::Clock;
    use atlas_dataplane::flight::file::{Track, Why};

    fn recording(events: Vec<Event>) -> Recording {
        Recording {
            pid: 0,
            replica: 1,
            clock: Clock::new(1_700_000_000_000_000),
            written_us: Some(1_700_000_001_000_000),
            why: Why::Panic,
            reason: "at x.rs:1\u{1b}[31m".to_owned(),
            tracks: vec![Track { name: "replica".to_owned(), before: 3, events }],
        }
    }

    fn event(at_us: u64, kind: Kind, words: [u64; 3]) -> Event {
        Event { at_us, kind, words }
    }

    #[test]
    fn stages_of_a_bundle_are_those_of_it_and_of_its_sequence() {
        let recording = recording(vec![
            event(100, Kind::BundleArrived, [7, 1, 1]),
            event(130, Kind::BundleVerified, [7, 0, 0]),
            event(150, Kind::BundleProposed, [7, 42, 0]),
            event(250, Kind::AcceptedDurable, [42, 0, 0]),
            event(251, Kind::AcceptedDurable, [43, 0, 0]),
            event(350, Kind::Decided, [42, 0, 0]),
            event(360, Kind::BundleExecuted, [7, 42, 0]),
            event(365, Kind::BundleReplied, [7, 1, 0]),
            event(400, Kind::BundleArrived, [8, 1, 1]),
        ]);
        let paths = paths(&recording);
        assert_eq!(paths[0], [100, 130, 150, 250, 350, 360, 365].map(Some));
        assert_eq!(paths[1], [Some(400), None, None, None, None, None, None]);
    }

    #[test]
    fn what_a_panic_said_moves_no_terminal() {
        let title = title(&recording(Vec::new()));
        assert!(!title.contains('\u{1b}'), "{title}");
        assert!(
            title.starts_with("replica 1 (pid 0), written 2023-11-14T22:13:21.000000Z, because of: panic"),
            "{title}"
        );
    }

    #[test]
    fn a_kind_that_is_none_names_those_that_are() {
        assert_eq!(kind("view_left").unwrap(), Kind::ViewLeft);
        let error = kind("help").unwrap_err().to_string();
        assert!(error.contains("view_left") && error.contains("bundle_replied"), "{error}");
    }
}
