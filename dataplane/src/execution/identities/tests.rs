//! The table against a naive model of its rules, its bytes, and the genesis as auditors read it.

use std::sync::LazyLock;

use proptest::prelude::*;

use super::*;
use crate::cluster::sample::{self, SampleClient, cluster_text, parse};
use crate::crypto::SecretKey;
use crate::execution::identities::page::{MAX_PAGE, Page, query};
use crate::history::entry::EntryView;
use crate::state::Answer;

const ORIGIN: &str = "test.example/cluster";

/// The public key of a seed; made once, for it is asked for all the time.
fn public(seed: u8) -> PublicKey {
    static KEYS: LazyLock<Vec<PublicKey>> = LazyLock::new(|| (0..=255).map(sample::public).collect());
    KEYS[usize::from(seed)]
}

/// Two administrators of seeds 120 and 121, two clients of seeds 101 and 102.
fn cluster() -> Cluster {
    let head = format!(
        "origin = {ORIGIN:?}\ncreated = 1970-01-01T00:16:40Z\nreason_required = [\"plant/*:brake*\", \"grid/a\"]\n\n"
    );
    let clients: [SampleClient<'_>; 2] = [("operator-1", 101, &["*"]), ("gateway-1", 102, &["plant/*"])];
    let mut text = cluster_text(&head, &clients);
    for (name, seed) in [("chief", 120), ("deputy", 121)] {
        text += &format!("[[administrators]]\nname = {name:?}\nkey = \"{}\"\n\n", public(seed));
    }
    parse(&text).unwrap()
}

fn table() -> Identities {
    Identities::of(&cluster())
}

fn always() -> Validity {
    Validity::default()
}

fn register(seed: u8, name: &str, role: Option<&str>) -> (PublicKey, KeyChange) {
    (public(seed), KeyChange::Register { name: name.to_owned(), role: role.map(str::to_owned), validity: always() })
}

fn rotate(seed: u8, replaces: u8) -> (PublicKey, KeyChange) {
    (public(seed), KeyChange::Rotate { replaces: public(replaces), validity: always() })
}

fn revoke(seed: u8) -> (PublicKey, KeyChange) {
    (public(seed), KeyChange::Revoke)
}

fn signed(signer: u8, number: u64, (key, change): (PublicKey, KeyChange)) -> Vec<u8> {
    let signer = SecretKey::from_seed(&[signer; 32]);
    let statement = KeyStatement { number, key, change, reason: None };
    statement.sign(ORIGIN, signer.public(), |bytes| signer.sign(bytes))
}

/// Applies a statement with the next number at this time, as the next entry.
fn apply(table: &mut Identities, time_ms: TimeMs, signer: u8, change: (PublicKey, KeyChange)) -> Result<(), Code> {
    let cose = signed(signer, table.number() + 1, change);
    let signed = SignedStatement::parse(&cose, ORIGIN).unwrap();
    assert!(signed.holds());
    let before = table.clone();
    let judged = table.judge(&signed, time_ms);
    let applied = table.apply(&signed, time_ms, table.last_entry() + 10);
    assert_eq!(judged, applied);
    if applied.is_err() {
        assert_eq!(*table, before, "a refused statement changes nothing");
    }
    applied.map_err(|refused| refused.code)
}

fn bytes(table: &Identities) -> Vec<u8> {
    let mut bytes = Vec::new();
    table.to_bytes(&mut bytes);
    bytes
}

#[test]
fn the_config_entry_alone_gives_the_table_of_the_file() {
    let mut entry = Vec::new();
    cluster().put_config_entry(&mut entry);
    let Ok(EntryView::Config(view)) = EntryView::decode(&entry) else { panic!("no CONFIG") };
    assert_eq!(Identities::genesis(&view).unwrap(), table());
    let names: Vec<_> = table().all().iter().map(|it| (it.name.clone(), it.role.is_some())).collect();
    let expected = [("operator-1", true), ("gateway-1", true), ("chief", false), ("deputy", false)];
    assert_eq!(names, expected.map(|(name, role)| (name.to_owned(), role)));

    // A file of before: no administrators, no patterns, and none of their settings.
    let old = parse(&cluster_text(&format!("origin = {ORIGIN:?}\ncreated = 1970-01-01T00:16:40Z\n\n"), &[])).unwrap();
    let mut entry = Vec::new();
    old.put_config_entry(&mut entry);
    let Ok(EntryView::Config(view)) = EntryView::decode(&entry) else { panic!("no CONFIG") };
    assert_eq!((view.setting("administrator_names"), view.setting("reason_required")), (None, None));
    assert_eq!(Identities::genesis(&view).unwrap().all(), []);
}

/// Every setting that the table is read from, damaged byte by byte: an error or a table, never a panic, and what is not there is named.
#[test]
fn a_damaged_config_entry_is_refused_or_is_another() {
    let mut entry = Vec::new();
    cluster().put_config_entry(&mut entry);
    let mut refused = 0;
    for at in 0..entry.len() {
        for with in [1, 0x20, 0xff] {
            let mut damaged = entry.clone();
            damaged[at] ^= with;
            let Ok(EntryView::Config(view)) = EntryView::decode(&damaged) else { continue };
            refused += usize::from(Identities::genesis(&view).is_err());
        }
    }
    assert!(refused > 20, "{refused}");
    let mut empty = Vec::new();
    crate::history::entry::put_config(&mut empty, 0, 0, 0, "", std::iter::empty(), &[], &[0xa0]);
    let Ok(EntryView::Config(view)) = EntryView::decode(&empty) else { panic!("no CONFIG") };
    assert_eq!(Identities::genesis(&view), Err(GenesisError::Missing("origin")));
}

#[test]
fn rights_are_those_of_the_role_and_the_policy() {
    let mut table = table();
    let may = |table: &Identities, seed, twin: &str| table.may(&public(seed), 5).map(|it| it.may_write(twin, "x"));
    assert_eq!((may(&table, 101, "grid/a"), may(&table, 102, "grid/a")), (Ok(true), Ok(false)));
    assert_eq!((may(&table, 120, "grid/a"), may(&table, 99, "grid/a")), (Ok(false), Err(Code::UNKNOWN_IDENTITY)));
    apply(&mut table, 5, 121, register(50, "Anna Müller", Some("gateway"))).unwrap();
    assert_eq!((may(&table, 50, "grid/a"), may(&table, 50, "plant/a")), (Ok(false), Ok(true)));
    let rights = table.may(&public(50), 5).unwrap();
    let reasons = [("plant/a", "brake/left"), ("plant/a", "power"), ("grid/a", "power"), ("grid/b", "power")];
    assert_eq!(reasons.map(|(twin, path)| rights.needs_reason(twin, path)), [true, false, true, false]);
}

#[test]
fn each_refusal_has_its_code() {
    let mut it = table();
    let cases = [
        (101, register(50, "a", Some("operator")), Code::NOT_ADMINISTRATOR),
        (99, register(50, "a", Some("operator")), Code::NOT_ADMINISTRATOR),
        (120, register(101, "a", Some("operator")), Code::KEY_TAKEN),
        (120, register(121, "a", Some("operator")), Code::KEY_TAKEN),
        // A replica's.
        (120, register(7, "a", Some("operator")), Code::KEY_TAKEN),
        (120, rotate(7, 101), Code::KEY_TAKEN),
        (120, register(50, "a", Some("none")), Code::UNKNOWN_ROLE),
        (120, register(50, "chief", Some("operator")), Code::NAME_TAKEN),
        (120, rotate(50, 51), Code::UNKNOWN_KEY),
        (120, revoke(51), Code::UNKNOWN_KEY),
        (120, revoke(7), Code::UNKNOWN_KEY),
    ];
    for (signer, change, code) in cases {
        assert_eq!(apply(&mut it, 5, signer, change.clone()), Err(code), "{change:?}");
    }
    // Numbers: the next and no other.
    for number in [0, 2, u64::MAX] {
        let cose = signed(120, number, revoke(101));
        let refused = it.judge(&SignedStatement::parse(&cose, ORIGIN).unwrap(), 5).unwrap_err();
        assert_eq!(refused.code, Code::STATEMENT_NUMBER, "{}", refused.detail);
    }
    // Ended keys stay taken and ended.
    apply(&mut it, 5, 120, revoke(101)).unwrap();
    assert_eq!(apply(&mut it, 6, 120, revoke(101)), Err(Code::KEY_ENDED));
    assert_eq!(apply(&mut it, 6, 120, register(101, "b", Some("operator"))), Err(Code::KEY_TAKEN));
    assert_eq!(apply(&mut it, 6, 120, register(50, "operator-1", Some("operator"))), Err(Code::NAME_TAKEN));
    // Who lost a key gets another, once.
    apply(&mut it, 7, 120, rotate(50, 101)).unwrap();
    assert_eq!(apply(&mut it, 7, 120, rotate(51, 101)), Err(Code::KEY_ENDED));
    let (old, new) = (it.get(&public(101)).unwrap(), it.get(&public(50)).unwrap());
    assert_eq!((old.ended.unwrap().at_ms, old.ended.unwrap().successor), (5, Some(public(50))));
    assert_eq!((&new.name, new.role, new.ended), (&old.name, old.role, None));
    // Administrators: one must be left, and an ended one says nothing any more.
    apply(&mut it, 8, 120, revoke(120)).unwrap();
    assert_eq!(apply(&mut it, 8, 120, revoke(50)), Err(Code::REVOKED));
    assert_eq!(apply(&mut it, 8, 121, revoke(121)), Err(Code::LAST_ADMINISTRATOR));
    let later = Validity { from_ms: Some(9), until_ms: None };
    let change = KeyChange::Rotate { replaces: public(121), validity: later };
    assert_eq!(apply(&mut it, 8, 121, (public(60), change.clone())), Err(Code::LAST_ADMINISTRATOR));
    apply(&mut it, 9, 121, (public(60), change)).unwrap();
    apply(&mut it, 9, 60, register(61, "third", None)).unwrap();
    apply(&mut it, 9, 61, revoke(60)).unwrap();
}

#[test]
fn the_table_has_an_end() {
    let mut it = table();
    let mut seed = [9; 32];
    let next = |number: u64, seed: &mut [u8; 32]| {
        seed[..8].copy_from_slice(&number.to_be_bytes());
        let key = SecretKey::from_seed(seed).public();
        let change = KeyChange::Register { name: format!("n{number}"), role: None, validity: always() };
        KeyStatement { number, key, change, reason: None }
            .sign(ORIGIN, public(120), |_| crate::types::Signature([0; 64]))
    };
    while it.all().len() < MAX_IDENTITIES {
        let cose = next(it.number() + 1, &mut seed);
        it.apply(&SignedStatement::parse(&cose, ORIGIN).unwrap(), 5, it.number() + 10).unwrap();
    }
    let cose = next(it.number() + 1, &mut seed);
    let refused = it.apply(&SignedStatement::parse(&cose, ORIGIN).unwrap(), 5, 1 << 40).unwrap_err();
    assert_eq!(refused.code, Code::IDENTITIES_FULL);
    assert_eq!(apply(&mut it, 5, 120, rotate(50, 101)), Err(Code::IDENTITIES_FULL));
    apply(&mut it, 5, 120, revoke(101)).unwrap();
    assert_eq!(Identities::from_bytes(table(), &bytes(&it)), Ok(it.clone()));
    // All of it, page by page; each page fits an answer many times.
    let (mut first, mut listed) = (0u64, Vec::new());
    loop {
        let mut answer = Answer::default();
        assert_eq!(it.answer(&query(first), &mut answer), Some(Code::DONE));
        assert_eq!(answer.valid_from, it.last_entry());
        assert!(answer.body.len() < 128 << 10);
        let page = Page::decode(&answer.body).unwrap();
        assert_eq!((page.number, page.total), (it.number(), MAX_IDENTITIES as u64));
        if page.items.is_empty() {
            break;
        }
        assert!(page.items.len() <= MAX_PAGE);
        first += page.items.len() as u64;
        listed.extend(page.items);
    }
    let expected: Vec<_> = it.all().iter().map(|it| (it.key, it.name.clone(), it.ended)).collect();
    let listed: Vec<_> = listed.into_iter().map(|it| (it.key, it.name, it.ended)).collect();
    assert_eq!(listed, expected);
}

#[test]
fn queries_of_the_application_are_left_to_it() {
    let mut answer = Answer::default();
    for query in [&[][..], &[1], &[0x82, 0x72], &query(0)[..10]] {
        assert_eq!(table().answer(query, &mut answer), None);
    }
    let trailing = [query(0), vec![0]].concat();
    assert_eq!(table().answer(&trailing, &mut answer), Some(Code::BAD_QUERY));
}

#[derive(Clone, Debug)]
struct Step {
    time: TimeMs,
    signer: u8,
    number: u64,
    kind: u8,
    key: u8,
    other: u8,
    name: u8,
    from: Option<TimeMs>,
    until: Option<TimeMs>,
}

fn step() -> impl Strategy<Value = Step> {
    let key = prop::sample::select(vec![7u8, 50, 51, 52, 53, 101, 102, 120, 121]);
    let time = prop::option::weighted(0.3, 0..40i64);
    (
        (0..3i64, prop::sample::select(vec![101u8, 120, 120, 121, 121, 50, 51]), 0..20u64, 0..4u8),
        (key.clone(), key, 0..4u8, time.clone(), time),
    )
        .prop_map(|((time, signer, number, kind), (key, other, name, from, until))| {
            // Mostly the next number.
            let number = u64::from(number < 18);
            Step { time, signer, number, kind, key, other, name, from, until }
        })
}

/// One row of the naive table: seed, name, role, validity, end, and whether it has a successor.
type Row = (u8, String, Option<&'static str>, Option<i64>, Option<i64>, Option<i64>, bool);

/// The rules of the module once more, over a list that is searched from the start.
fn by_the_rules(rows: &[Row], step: &Step, now: TimeMs) -> Option<Vec<Row>> {
    let find = |seed: u8| rows.iter().position(|row| row.0 == seed);
    let lives = |row: &Row| row.5.is_none() && row.3.is_none_or(|t| t <= now) && row.4.is_none_or(|t| now < t);
    let signer = &rows[find(step.signer)?];
    if signer.2.is_some() || !lives(signer) || step.number != 1 {
        return None;
    }
    let is_new = step.key > 16 && find(step.key).is_none();
    let mut next = rows.to_vec();
    match step.kind {
        0 | 3 => {
            let (name, role) = (format!("name-{}", step.name), ["operator", "gateway"][usize::from(step.name % 2)]);
            if !is_new || rows.iter().any(|row| row.1 == name) {
                return None;
            }
            next.push((step.key, name, (step.kind == 0).then_some(role), step.from, step.until, None, false));
        }
        1 => {
            let old = find(step.other).filter(|_| is_new)?;
            if rows[old].6 {
                return None;
            }
            next[old].5 = next[old].5.or(Some(now));
            next[old].6 = true;
            next.push((step.key, rows[old].1.clone(), rows[old].2, step.from, step.until, None, false));
        }
        _ => {
            let old = find(step.key).filter(|old| rows[*old].5.is_none())?;
            next[old].5 = Some(now);
        }
    }
    let ends_administrator = next.iter().zip(rows).any(|(new, old)| new.6 != old.6 || new.5 != old.5)
        && next.iter().zip(rows).any(|(new, old)| (new.6, new.5) != (old.6, old.5) && old.2.is_none());
    let is_led = next.iter().any(|row| row.2.is_none() && lives(row));
    (!ends_administrator || is_led).then_some(next)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn the_table_equals_a_naive_one(script in prop::collection::vec(step(), 1..30)) {
        let mut it = table();
        let mut rows: Vec<Row> = [(101, "operator-1", Some("operator")), (102, "gateway-1", Some("gateway")), (120, "chief", None), (121, "deputy", None)]
            .map(|(seed, name, role)| (seed, name.to_owned(), role, None, None, None, false)).into();
        let mut now = 0;
        for step in &script {
            now += step.time;
            let validity = Validity { from_ms: step.from, until_ms: step.until };
            let name = format!("name-{}", step.name);
            let role = (step.kind == 0).then(|| ["operator", "gateway"][usize::from(step.name % 2)].to_owned());
            let change = match step.kind {
                0 | 3 => KeyChange::Register { name, role, validity },
                1 => KeyChange::Rotate { replaces: public(step.other), validity },
                _ => KeyChange::Revoke,
            };
            let cose = signed(step.signer, it.number() + step.number, (public(step.key), change));
            // What no state takes is not for the table.
            let Ok(statement) = SignedStatement::parse(&cose, ORIGIN) else { continue };
            let expected = by_the_rules(&rows, step, now);
            let applied = it.apply(&statement, now, it.last_entry() + 3);
            prop_assert_eq!(applied.is_ok(), expected.is_some(), "{:?} at {}: {:?}", step, now, applied);
            rows = expected.unwrap_or(rows);
            let found: Vec<Row> = it.all().iter().map(|identity| {
                let seed = (0..=255).find(|seed| public(*seed) == identity.key).unwrap();
                let role = it.role_name(identity).map(|role| if role == "operator" { "operator" } else { "gateway" });
                let ended = identity.ended;
                (seed, identity.name.clone(), role, identity.validity.from_ms, identity.validity.until_ms,
                    ended.map(|it| it.at_ms), ended.is_some_and(|it| it.successor.is_some()))
            }).collect();
            prop_assert_eq!(&found, &rows);
            for time in [0, now, 39] {
                for row in &rows {
                    let expected = match (row.5, row.3, row.4) {
                        (Some(_), ..) => Err(Code::REVOKED),
                        (_, Some(from), _) if time < from => Err(Code::NOT_VALID),
                        (.., Some(until)) if time >= until => Err(Code::NOT_VALID),
                        _ => Ok(row.2 == Some("operator")),
                    };
                    prop_assert_eq!(it.may(&public(row.0), time).map(|it| it.may_write("grid/x", "y")), expected);
                }
            }
            // Restored it is the same, its digest too.
            prop_assert_eq!(Identities::from_bytes(table(), &bytes(&it)), Ok(it.clone()));
        }
    }

    #[test]
    fn damaged_bytes_are_refused_or_another_table(
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut it = table();
        apply(&mut it, 5, 120, register(50, "Anna", Some("gateway"))).unwrap();
        apply(&mut it, 6, 120, rotate(51, 50)).unwrap();
        apply(&mut it, 7, 121, revoke(102)).unwrap();
        let good = bytes(&it);
        let mut damaged = good.clone();
        for (at, with) in damage {
            let at = at.index(damaged.len());
            damaged[at] = with;
        }
        if let Some(cut) = cut {
            damaged.truncate(cut.index(damaged.len()));
        }
        if let Ok(mut other) = Identities::from_bytes(table(), &damaged) {
            prop_assert_eq!(bytes(&other), damaged.clone(), "another encoding was taken");
            prop_assert_eq!(other.digest() == it.digest(), damaged == good);
            // It can be used, whatever it says.
            let _ = apply(&mut other, 8, 120, register(52, "b", Some("operator")));
        }
    }
}
