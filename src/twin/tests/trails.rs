//! Trails: what replicas tell and what a follower makes of the entries equal the model's log, filter by filter and page by page.

use atlas_dataplane::history::entry::EntryView;
use atlas_dataplane::types::{Code, Position, PublicKey};
use proptest::prelude::*;
use proptest::sample::select;

use super::cases::{ALICE, delete, set};
use super::model::{GUEST, Logged, World};
use super::random::{Bundle, history, play};
use crate::twin::follow::Follower;
use crate::twin::operation::{Operation, Write};
use crate::twin::query::{BLOCK, Bound, Query};
use crate::twin::record::{ALL_CODES, DONE_CODES, Filter, Old, REFUSED_CODES, Record, Records};

/// A line of the trail: a written property with what it was, or the code of a refusal with what it was about.
#[derive(Clone, PartialEq, Debug)]
enum Line {
    Done(Logged, Old),
    Refused { position: Position, code: Code, twin: String, path: Option<String> },
}

impl Line {
    fn position(&self) -> Position {
        match self {
            Self::Done(logged, _) => logged.position,
            Self::Refused { position, .. } => *position,
        }
    }
}

/// What was written, from the model alone; old values by going through all that came before.
fn done(world: &World) -> Vec<Line> {
    let log = &world.model.log;
    let old = |at: usize| {
        let this = &log[at];
        let before = log[..at].iter().rfind(|line| (&line.twin, &line.path) == (&this.twin, &this.path));
        match before.map(|before| before.value.clone()) {
            Some(Some(value)) => Old::Value(value),
            Some(None) | None => Old::Nothing,
        }
    };
    (0..log.len()).map(|at| Line::Done(log[at].clone(), old(at))).collect()
}

/// What was refused, from the operations and the codes in the entries.
fn refused(world: &World, bundles: &[Bundle]) -> Vec<Line> {
    let mut lines = Vec::new();
    let entries = world.log.0.iter().enumerate();
    let views = entries.filter_map(|(index, (_, bytes))| match EntryView::decode(bytes) {
        Ok(EntryView::Bundle(view)) => Some((index as u64, view)),
        _ => None,
    });
    for ((entry, view), (_, _, operations)) in views.zip(bundles) {
        for (request, (operation, outcome)) in (0..).zip(operations.iter().zip(view.outcomes())) {
            let (Some(operation), Some(code)) = (operation, outcome.map(|outcome| outcome.code)) else { continue };
            let position = Position { entry, request };
            let writes: &[Write] = match operation {
                Operation::Write(write) => std::slice::from_ref(write),
                Operation::Transaction { writes, .. } => writes,
            };
            for write in writes.iter().filter(|_| code != Code::DONE) {
                let mut add = |twin: &String, path| {
                    lines.push(Line::Refused { position, code, twin: twin.clone(), path });
                };
                match write {
                    Write::Set { twin, properties, .. } => {
                        properties.iter().for_each(|property| add(twin, Some(property.path.clone())));
                    }
                    Write::Delete { twin, paths: Some(paths), .. } => {
                        paths.iter().for_each(|path| add(twin, Some(path.clone())));
                    }
                    Write::Delete { twin, paths: None, .. } => add(twin, None),
                }
            }
        }
    }
    lines
}

fn lines(records: &[Record]) -> Vec<Line> {
    let mut lines = Vec::new();
    for record in records {
        for item in &record.items {
            let (twin, path) = (item.twin.clone(), item.property.clone());
            lines.push(if record.code == Code::DONE {
                let logged = Logged {
                    position: record.position,
                    time: record.time_ms,
                    origin: record.origin,
                    twin,
                    path: path.unwrap(),
                    value: item.value.clone(),
                    quality: item.quality,
                    source: item.source_time_ns,
                    reason: record.reason.clone(),
                    revision: item.revision.unwrap(),
                };
                Line::Done(logged, item.old.clone())
            } else {
                assert_eq!((item.revision, &item.old), (None, &Old::Unknown));
                Line::Refused { position: record.position, code: record.code, twin, path }
            });
        }
    }
    lines
}

/// Whether the test's own reading of the filter keeps a line.
fn keeps(filter: &Filter, line: &Line, time: i64, origin: PublicKey) -> bool {
    let (code, twin, path) = match line {
        Line::Done(logged, _) => (Code::DONE, &logged.twin, Some(&logged.path)),
        Line::Refused { code, twin, path, .. } => (*code, twin, path.as_ref()),
    };
    let within = |bound: &Option<Bound>, is_from: bool| match bound {
        None => true,
        Some(Bound::Time(at)) => {
            if is_from {
                time >= *at
            } else {
                time <= *at
            }
        }
        Some(Bound::Position(at)) => {
            if is_from {
                line.position() >= *at
            } else {
                line.position() <= *at
            }
        }
    };
    (filter.codes.0..=filter.codes.1).contains(&code)
        && if filter.is_whole { *twin == filter.twin } else { twin.starts_with(&filter.twin) }
        && (filter.property.is_none() || path.is_none() || path == filter.property.as_ref())
        && (filter.origins.is_empty() || filter.origins.contains(&origin))
        && within(&filter.from, true)
        && within(&filter.to, false)
}

/// All pages of a trail.
fn ask_all(world: &World, filter: &Filter, last: u64, limit: u64) -> Result<Vec<Record>, Code> {
    let (mut records, mut cursor) = (Vec::new(), None);
    loop {
        let (code, answer) = world.ask(&Query::Trail { filter: filter.clone(), last, limit, cursor: cursor.clone() });
        if code != Code::DONE {
            return Err(code);
        }
        assert!(!answer.wait && answer.valid_from <= last.max(1));
        let page = Records::decode(&answer.body).unwrap();
        records.extend(page.records);
        if page.cursor.is_none() {
            return Ok(records);
        }
        assert_ne!(page.cursor, cursor);
        cursor = page.cursor;
    }
}

fn filters() -> impl Strategy<Value = Filter> {
    let bound = || {
        prop::option::of(prop_oneof![
            (0u64..20, 0u16..4).prop_map(|(entry, request)| Bound::Position(Position { entry, request })),
            (995i64..1040).prop_map(Bound::Time),
        ])
    };
    let twin = select(vec![
        ("", false),
        ("farm/", false),
        ("farm/a", true),
        ("port/a", true),
        ("farm/b", false),
        ("x", false),
    ]);
    let origins = select(vec![vec![], vec![ALICE], vec![GUEST], vec![ALICE, GUEST]]);
    let codes = select(vec![ALL_CODES, DONE_CODES, REFUSED_CODES, (Code::FORBIDDEN, Code::FORBIDDEN)]);
    let property = prop::option::of(select(vec!["p".to_owned(), "q/r".to_owned()]));
    (twin, property, origins, codes, bound(), bound()).prop_map(
        |((twin, is_whole), property, origins, codes, from, to)| Filter {
            twin: twin.to_owned(),
            is_whole,
            property,
            origins,
            codes,
            from,
            to,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn trails_are_the_models_log(bundles in history(), filter in filters(), limit in 1u64..6) {
        let world = play(20, &bundles);
        let last = world.log.0.len() as u64 - 1;
        let origin = |position: Position| match EntryView::decode(&world.log.0[position.entry as usize].1) {
            Ok(EntryView::Bundle(view)) => view.origin().unwrap(),
            other => panic!("{other:?}"),
        };
        let time = |position: Position| world.log.0[position.entry as usize].0;
        let mut expected: Vec<Line> = done(&world).into_iter().chain(refused(&world, &bundles)).collect();
        expected.retain(|line| keeps(&filter, line, time(line.position()), origin(line.position())));
        // Stable: the writes of an operation stay in their order.
        expected.sort_by_key(Line::position);

        let mut follower = Follower::new();
        let mut followed = Vec::new();
        for (index, (_, bytes)) in (0..).zip(&world.log.0) {
            followed.extend(follower.records(index, bytes, &filter).unwrap());
        }
        prop_assert_eq!(lines(&followed), expected.clone());

        let told = ask_all(&world, &filter, last, limit);
        expected.sort_by_key(|line| std::cmp::Reverse(line.position()));
        match told {
            Ok(records) => prop_assert_eq!(lines(&records), expected),
            // A twin or property that did not exist then.
            Err(code) => {
                prop_assert!([Code::UNKNOWN_TWIN, Code::UNKNOWN_PROPERTY].contains(&code) && expected.is_empty());
            }
        }
    }
}

fn all_of(twin: &str) -> Filter {
    Filter { twin: twin.to_owned(), ..Filter::all() }
}

#[test]
fn a_scan_is_taken_in_blocks_and_ends() {
    let mut world = World::new(10);
    for i in 0..3 * BLOCK {
        world.bundle(1, ALICE, &[Some(set("a/b", "p", &i.to_string()))]);
    }
    world.bundle(2, GUEST, &[Some(set("a/locked", "p", "1"))]);
    let last = 3 * BLOCK + 1;
    let filter = Filter { codes: REFUSED_CODES, ..all_of("") };
    let (_, answer) = world.ask(&Query::Trail { filter: filter.clone(), last, limit: 9, cursor: None });
    let page = Records::decode(&answer.body).unwrap();
    assert_eq!((page.records.len(), page.cursor.is_some()), (1, true));
    assert_eq!(ask_all(&world, &filter, last, 9).unwrap().len(), 1);
    // Along a chain too, nothing that was signed by others holds a page up for ever.
    let by_guest = Filter { origins: vec![GUEST], codes: DONE_CODES, is_whole: true, ..all_of("a/b") };
    let (_, answer) = world.ask(&Query::Trail { filter: by_guest.clone(), last, limit: 9, cursor: None });
    assert!(Records::decode(&answer.body).unwrap().cursor.is_some());
    assert_eq!(ask_all(&world, &by_guest, last, 9).unwrap(), []);
}

#[test]
fn what_is_not_there_yet_is_not_told() {
    let mut world = World::new(10);
    world.bundle(1, ALICE, &[Some(set("a/b", "p", "1"))]);
    let ask = |world: &World, last| ask_all(world, &all_of(""), last, 9).map(|records| records.len());
    assert_eq!(
        (ask(&world, 1), ask(&world, 2), ask(&world, u64::MAX)),
        (Ok(1), Err(Code::UNAVAILABLE), Err(Code::UNAVAILABLE))
    );
    world.bundle(2, ALICE, &[Some(delete("a/b", None))]);
    // The same for ever, whatever comes behind.
    assert_eq!((ask(&world, 1), ask(&world, 2)), (Ok(1), Ok(2)));
}

#[test]
fn marks_of_ordered_reads_are_passed_over_unless_asked_for() {
    let mut world = World::new(10);
    let mark = crate::cli::session::nothing();
    let writes = vec![Write::Delete { twin: "atlas/order".to_owned(), paths: None, reason: None }];
    let test = crate::twin::operation::Test::Revision(u64::MAX);
    let condition = crate::twin::operation::Condition { twin: "atlas/order".into(), path: "mark".into(), test };
    let operation = Operation::Transaction { conditions: vec![condition], writes, reason: None };
    assert_eq!(operation.encode(), mark, "the mark is another now: say so here and in the filter");
    world.bundle(1, ALICE, &[Some(operation), Some(set("a/b", "p", "1"))]);
    assert_eq!(ask_all(&world, &all_of(""), 1, 9).unwrap().len(), 1);
    assert_eq!(ask_all(&world, &all_of("atlas/"), 1, 9).unwrap().len(), 1);
    // Only what changed nothing is a mark.
    world.bundle(2, ALICE, &[Some(set("atlas/order", "mark", "1")), Some(delete("atlas/order", None))]);
    assert_eq!(ask_all(&world, &all_of(""), 2, 9).unwrap().len(), 3);
}

#[test]
fn a_follower_that_missed_entries_says_what_it_cannot_know() {
    let mut world = World::new(10);
    world.bundle(1, ALICE, &[Some(set("a/b", "p", "1")), Some(set("a/b", "q", "2"))]);
    world.bundle(2, ALICE, &[Some(set("a/b", "p", "3"))]);
    world.bundle(3, ALICE, &[Some(delete("a/b", None))]);
    let mut late = Follower::new();
    let second = late.records(2, &world.log.0[2].1, &all_of("")).unwrap();
    assert_eq!(second[0].items[0].old, Old::Unknown);
    let third = late.records(3, &world.log.0[3].1, &all_of("")).unwrap();
    let told: Vec<_> =
        third[0].items.iter().map(|item| (item.twin.as_str(), item.property.clone(), item.revision)).collect();
    assert_eq!(told, [("a/b", None, Some(3)), ("a/b", None, Some(2))]);
}
