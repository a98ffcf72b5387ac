//! Pages, blocks, cursors and waiting.

use atlas_dataplane::state::{Answer, Application};
use atlas_dataplane::types::{Code, Position};
use proptest::prelude::*;

use super::cases::{ALICE, delete, set};
use super::model::World;
use crate::twin::operation::Operation;
use crate::twin::query::{BLOCK, Bound, Changes, Cursor, History, MAX_PAGE, MAX_PAGE_BYTES, Properties, Query};

fn world_of(entries: u64) -> World {
    let mut world = World::new(1000);
    for i in 1..=entries {
        world.bundle(i as i64, ALICE, &[Some(set("a/b", "p", &i.to_string()))]);
    }
    world
}

fn history(to: Option<u64>, cursor: Option<Cursor>) -> Query {
    let to = to.map(|entry| Bound::Position(Position { entry, request: 0 }));
    Query::History { twin: "a/b".into(), property: Some("p".into()), from: None, to, limit: 2, cursor }
}

fn changes(prefix: &str, from: Position, to: Option<u64>) -> Query {
    Query::Changes { prefix: prefix.to_owned(), from, to, limit: 512 }
}

fn end_of(entry: u64) -> Position {
    Position { entry, request: u16::MAX }
}

#[test]
fn a_long_way_back_is_taken_in_blocks_that_replicas_share() {
    let world = world_of(4 * BLOCK);
    let ahead = world_of(4 * BLOCK + 9);
    let (mut cursor, mut empty_pages) = (None, 0);
    let page = loop {
        let query = history(Some(3), cursor.clone());
        let (code, answer) = world.ask(&query);
        assert_eq!(code, Code::DONE);
        // A chain that begins later meets the same block ends.
        if cursor.is_none() || empty_pages == 1 {
            assert_eq!(ahead.ask(&query).1.body, answer.body);
        }
        let page = History::decode(&answer.body).unwrap();
        if !page.sets.is_empty() {
            assert_eq!(answer.valid_from, 3);
            break page;
        }
        empty_pages += 1;
        cursor = page.cursor;
        assert!(cursor.is_some());
    };
    assert!((2..=4).contains(&empty_pages), "{empty_pages}");
    let entries: Vec<u64> = page.sets.iter().map(|set| set.position.entry).collect();
    assert_eq!(entries, [3, 2]);
    let (_, answer) = world.ask(&history(Some(3), page.cursor));
    let last = History::decode(&answer.body).unwrap();
    assert_eq!((last.sets.len(), last.sets[0].position.entry, last.cursor), (1, 1, None));
}

#[test]
fn cursors_of_clients_lead_nowhere_wrong() {
    let mut world = world_of(5);
    world.bundle(9, ALICE, &[Some(set("c/d", "p", "1"))]);
    for heads in [vec![(1, 6)], vec![(7, 1)], vec![(0, 6)], vec![(0, 0)], vec![(0, 99)], vec![(0, u64::MAX)]] {
        let cursor = Cursor { below: None, heads };
        assert_eq!(world.ask(&history(None, Some(cursor.clone()))).0, Code::BAD_QUERY, "{cursor:?}");
    }
    // Repeated heads do not make it go on for ever.
    let cursor = Cursor { below: None, heads: vec![(0, 5); 256] };
    assert_eq!(world.ask(&history(None, Some(cursor))).0, Code::DONE);
}

#[test]
fn a_damaged_entry_is_our_fault_and_no_panic() {
    let mut world = world_of(3);
    let good = world.log.0[2].1.clone();
    for (at, byte) in good.iter().enumerate() {
        for with in [0, 0x18, 0x9b, 0xff, byte ^ 1] {
            world.log.0[2].1[at] = with;
            assert!(matches!(world.ask(&history(None, None)).0, Code::DONE | Code::INTERNAL));
            let code = world.ask(&changes("", Position::default(), None)).0;
            assert!(matches!(code, Code::DONE | Code::INTERNAL));
            world.log.0[2].1[at] = *byte;
        }
    }
    world.log.0[2].1.clear();
    let query = Query::History { twin: "a/b".into(), property: None, from: None, to: None, limit: 9, cursor: None };
    assert_eq!(world.ask(&query).0, Code::INTERNAL);
}

#[test]
fn changes_wait_for_news_and_skip_quiet_blocks() {
    let mut world = world_of(BLOCK - 2);
    let (_, answer) = world.ask(&changes("x/", Position::default(), None));
    assert!(answer.wait);
    assert_eq!(Changes::decode(&answer.body).unwrap().covered, Position::default());
    world.bundle(5000, ALICE, &[Some(set("a/b", "p", "1"))]);
    // The first block is complete: a quiet prefix has something to tell, once.
    let (_, answer) = world.ask(&changes("x/", Position::default(), None));
    let page = Changes::decode(&answer.body).unwrap();
    assert_eq!((answer.wait, page.covered, answer.valid_from), (false, end_of(BLOCK - 1), BLOCK - 1));
    assert!(world.ask(&changes("x/", page.covered, None)).1.wait);
    world.bundle(5001, ALICE, &[Some(set("x/y", "p", "1"))]);
    let (_, answer) = world.ask(&changes("x/", page.covered, None));
    let page = Changes::decode(&answer.body).unwrap();
    assert_eq!((answer.wait, page.sets.len(), page.covered), (false, 1, end_of(BLOCK)));
}

#[test]
fn changes_up_to_an_entry_wait_until_it_is_there() {
    let mut world = world_of(5);
    let (code, answer) = world.ask(&changes("", Position::default(), Some(6)));
    assert_eq!((code, answer.wait), (Code::DONE, true));
    world.bundle(7, ALICE, &[Some(delete("a/b", None))]);
    let (_, answer) = world.ask(&changes("", Position::default(), Some(6)));
    let page = Changes::decode(&answer.body).unwrap();
    assert_eq!((answer.wait, page.sets.len(), page.covered), (false, 6, end_of(6)));
    assert_eq!(page.sets[5].changes[0].value, None);
    let (_, answer) = world.ask(&changes("", end_of(4), Some(2)));
    assert_eq!(Changes::decode(&answer.body).unwrap().covered, end_of(4));
}

#[test]
fn a_page_ends_by_its_size() {
    let mut world = World::new(1000);
    let text = "x".repeat(4096);
    for twin in 0..2 {
        for i in 0..100 {
            world.bundle(1, ALICE, &[Some(set(&format!("a/t{twin}"), &format!("p{i:03}"), &text))]);
        }
    }
    let (mut after, mut count, mut pages) = (None, 0, 0);
    loop {
        let (_, answer) = world.ask(&Query::List { prefix: "a/".into(), after, limit: u64::MAX });
        assert!(answer.body.len() < MAX_PAGE_BYTES + 8192);
        let page = Properties::decode(&answer.body).unwrap();
        (count, pages, after) = (count + page.items.len(), pages + 1, page.next);
        if after.is_none() {
            break;
        }
    }
    assert_eq!((count, pages), (200, 4));
    let get = |after: Option<&str>| {
        let query = Query::Get { twin: "a/t1".into(), property: None, after: after.map(str::to_owned) };
        Properties::decode(&world.ask(&query).1.body).unwrap()
    };
    let first = get(None);
    let rest = get(first.next.as_ref().map(|(_, property)| property.as_str()));
    assert_eq!((first.items.len() + rest.items.len(), rest.next), (100, None));
    let (_, answer) = world.ask(&changes("", Position::default(), None));
    assert!(answer.body.len() <= MAX_PAGE_BYTES + 32);
    let page = Changes::decode(&answer.body).unwrap();
    assert!(page.sets.len() < MAX_PAGE && page.covered.entry == page.sets.len() as u64);
}

#[test]
fn unknown_names_and_deleted_ones_have_codes() {
    let mut world = world_of(1);
    let get = |world: &World, twin: &str, property: Option<&str>| {
        let query = Query::Get { twin: twin.to_owned(), property: property.map(str::to_owned), after: None };
        let (code, answer) = world.ask(&query);
        (code, answer.valid_from)
    };
    assert_eq!(get(&world, "a/b", Some("p")), (Code::DONE, 1));
    assert_eq!(get(&world, "a/b", Some("q")), (Code::UNKNOWN_PROPERTY, 0));
    assert_eq!(get(&world, "a/x", None), (Code::UNKNOWN_TWIN, 0));
    world.bundle(2, ALICE, &[Some(set("a/b", "q", "1"))]);
    world.bundle(3, ALICE, &[Some(delete("a/b", Some(&["p"])))]);
    assert_eq!(get(&world, "a/b", Some("p")), (Code::UNKNOWN_PROPERTY, 3));
    world.bundle(4, ALICE, &[Some(delete("a/b", None))]);
    assert_eq!(get(&world, "a/b", None), (Code::UNKNOWN_TWIN, 4));
    // What happened before stays there to be asked.
    assert_eq!(world.ask(&history(None, None)).0, Code::DONE);
    assert_eq!(world.ask(&history(Some(0), None)).0, Code::UNKNOWN_PROPERTY);
}

proptest! {
    #[test]
    fn queries_survive_their_bytes_and_mutations_never_panic(
        twin in "[a-c/]{0,5}", entry: u64, request: u16, time: i64, limit: u64, at: prop::sample::Index, with: u8, kind in 0..5,
    ) {
        let world = world_of(3);
        let position = Position { entry, request };
        let query = match kind {
            0 => Query::Get { twin, property: Some("p".into()), after: None },
            1 => Query::List { prefix: twin.clone(), after: Some((twin, "p".into())), limit },
            2 => Query::Changes { prefix: twin, from: position, to: Some(entry), limit },
            3 => Query::History { twin: "a/b".into(), property: None, from: Some(Bound::Time(time)), to: Some(Bound::Position(position)), limit, cursor: None },
            _ => Query::History {
                twin: "a/b".into(), property: None, from: None, to: Some(Bound::Time(time)), limit,
                cursor: Some(Cursor { below: Some(position), heads: vec![(0, entry % 4)] }),
            },
        };
        let mut bytes = query.encode();
        prop_assert_eq!(Query::decode(&bytes).unwrap(), query);
        let mut answer = Answer::default();
        world.store.query(&world.log, &bytes, &mut answer);
        let at = at.index(bytes.len());
        bytes[at] = with;
        world.store.query(&world.log, &bytes, &mut answer);
        if let Ok(query) = Query::decode(&bytes) {
            prop_assert_eq!(query.encode(), bytes);
        }
    }

    #[test]
    fn mutated_answers_never_panic(at: prop::sample::Index, with: u8) {
        let mut world = world_of(3);
        world.bundle(4, ALICE, &[Some(delete("a/b", None)), Option::<Operation>::None, Some(set("a/b", "q", "true"))]);
        for query in [history(None, None), changes("", Position::default(), None), Query::List { prefix: String::new(), after: None, limit: 9 }] {
            let mut body = world.ask(&query).1.body;
            let at = at.index(body.len());
            body[at] = with;
            let _ = (History::decode(&body), Changes::decode(&body), Properties::decode(&body));
        }
    }
}
