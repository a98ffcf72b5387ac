//! Single rules, each by name.

use atlas_dataplane::state::{Application, MAX_DETAIL, StateError};
use atlas_dataplane::types::{Code, Digest, PublicKey};

use super::model::{GUEST, World};
use crate::twin::operation::{Comparison, Condition, Operation, SetProperty, Test, Write};
use crate::twin::query::{Properties, Query};
use crate::twin::value::{Quality, Value};
use crate::twin::{MAX_TWIN_PROPERTIES, TwinStore};

pub(super) const ALICE: PublicKey = PublicKey([1; 32]);

pub(super) fn set(twin: &str, path: &str, value: &str) -> Operation {
    Operation::Write(Write::Set {
        twin: twin.to_owned(),
        properties: vec![SetProperty {
            path: path.to_owned(),
            value: value.parse().unwrap(),
            quality: Quality::Good,
            source_time_ns: None,
        }],
        reason: None,
    })
}

pub(super) fn delete(twin: &str, paths: Option<&[&str]>) -> Operation {
    let paths = paths.map(|paths| paths.iter().map(|path| (*path).to_owned()).collect());
    Operation::Write(Write::Delete { twin: twin.to_owned(), paths, reason: None })
}

fn when(path: &str, test: Test, then: Operation) -> Operation {
    let Operation::Write(write) = then else { panic!("a write") };
    let condition = Condition { twin: "plant/turbine-1".into(), path: path.to_owned(), test };
    Operation::Transaction { conditions: vec![condition], writes: vec![write], reason: None }
}

/// Executes one operation alone and gives code and detail; the model agrees on the code.
fn run(world: &mut World, operation: Operation) -> (Code, String) {
    let outcome = world.bundle(1, ALICE, &[Some(operation)]).remove(0);
    (outcome.code, outcome.detail)
}

fn value_of(world: &World, twin: &str, path: &str) -> Option<Value> {
    let query = Query::Get { twin: twin.to_owned(), property: Some(path.to_owned()), after: None };
    let (_, answer) = world.ask(&query);
    Properties::decode(&answer.body).ok().map(|mut page| page.items.remove(0).value)
}

#[test]
fn a_failed_condition_names_itself_and_the_actual_value() {
    let mut world = World::new(100);
    for value in ["a", "b", "running"] {
        run(&mut world, set("plant/turbine-1", "state", value));
    }
    let release = || set("plant/turbine-1", "brake", "released");
    let is = |comparison, value: &str| Test::Value(comparison, value.parse().unwrap());
    let mut refused = |path: &str, test: Test| {
        let (code, detail) = run(&mut world, when(path, test, release()));
        assert_eq!(code, Code::CONDITION_FAILED);
        detail
    };
    assert_eq!(
        refused("state", is(Comparison::Equal, "stopped")),
        "plant/turbine-1 state == \"stopped\": is \"running\" (revision 3)"
    );
    assert_eq!(refused("state", Test::Revision(2)), "plant/turbine-1 state revision == 2: is \"running\" (revision 3)");
    assert_eq!(refused("brake", Test::Exists), "plant/turbine-1 brake exists: was never written");
    assert_eq!(refused("state", Test::Absent), "plant/turbine-1 state absent: is \"running\" (revision 3)");
    let long = refused("state", is(Comparison::Greater, &"ä".repeat(300)));
    assert!(long.len() <= MAX_DETAIL && long.starts_with("plant/turbine-1 state > \"äää"));

    assert_eq!(run(&mut world, when("state", Test::Revision(3), release())).0, Code::DONE);
    assert_eq!(run(&mut world, when("fresh", Test::Revision(0), release())).0, Code::DONE);
    run(&mut world, delete("plant/turbine-1", Some(&["state"])));
    let (_, detail) = run(&mut world, when("state", is(Comparison::Equal, "x"), release()));
    assert_eq!(detail, "plant/turbine-1 state == \"x\": is deleted (revision 4)");
    for test in [is(Comparison::NotEqual, "x"), Test::Absent, Test::Revision(4)] {
        assert_eq!(run(&mut world, when("state", test, release())).0, Code::DONE);
    }
}

#[test]
fn integers_become_floats_only_where_exact_and_types_never_change() {
    let mut world = World::new(100);
    run(&mut world, set("a/b", "p", "1.5"));
    assert_eq!(run(&mut world, set("a/b", "p", "37")).0, Code::DONE);
    assert_eq!(value_of(&world, "a/b", "p"), Some(Value::F64(37.0)));
    let (code, detail) = run(&mut world, set("a/b", "p", "9007199254740993"));
    assert_eq!((code, detail.as_str()), (Code::TYPE_CONFLICT, "a/b p: is f64, 9007199254740993 is i64"));
    assert_eq!(run(&mut world, set("a/b", "p", "\"37\"")).0, Code::TYPE_CONFLICT);
    run(&mut world, set("a/b", "i", "1"));
    assert_eq!(run(&mut world, set("a/b", "i", "1.0")).0, Code::TYPE_CONFLICT);
    run(&mut world, delete("a/b", Some(&["p"])));
    assert_eq!(run(&mut world, set("a/b", "p", "text")).0, Code::DONE);
    assert_eq!(value_of(&world, "a/b", "p"), Some(Value::Text("text".into())));
}

#[test]
fn a_refused_part_undoes_the_whole_operation() {
    let mut world = World::new(100);
    run(&mut world, set("a/b", "p", "1"));
    let root = world.store.state_root();
    let Operation::Write(first) = set("a/b", "p", "2") else { panic!() };
    for (last, code) in [
        (set("a/b", "q", "1"), Code::DONE),
        (set("a/c", "p", "1"), Code::DONE),
        (delete("a/x", None), Code::UNKNOWN_TWIN),
        (delete("a/c", Some(&["z"])), Code::UNKNOWN_PROPERTY),
    ] {
        let Operation::Write(last) = last else { panic!() };
        let writes = vec![first.clone(), last];
        let before = world.store.state_root();
        let (got, detail) =
            run(&mut world, Operation::Transaction { conditions: vec![], writes, reason: Some("r".into()) });
        assert_eq!(got, code, "{detail}");
        assert_eq!(world.store.state_root() == before, code != Code::DONE);
    }
    assert_ne!(world.store.state_root(), root);
}

#[test]
fn who_may_not_write_every_target_writes_none() {
    let mut world = World::new(100);
    run(&mut world, set("a/locked", "p", "1"));
    for operation in [set("a/locked", "p", "2"), delete("a/locked", None), delete("a/locked", Some(&["p"]))] {
        let outcome = world.bundle(1, GUEST, &[Some(operation)]).remove(0);
        assert_eq!(outcome.code, Code::FORBIDDEN);
        assert_eq!(outcome.detail, "a/locked p: not permitted to write");
    }
    assert_eq!(value_of(&world, "a/locked", "p"), Some(Value::I64(1)));
}

#[test]
fn a_twin_and_the_store_have_a_last_place() {
    let mut world = World::new(MAX_TWIN_PROPERTIES + 1);
    for i in 0..MAX_TWIN_PROPERTIES {
        run(&mut world, set("a/b", &format!("p{i}"), "1"));
    }
    // The model has no limit for a twin: the refusal is checked without it.
    let mut outcome = atlas_dataplane::state::Outcome::default();
    let access = |_: &str, _: &str| true;
    let context = atlas_dataplane::state::OperationContext {
        time_ms: 1,
        position: atlas_dataplane::types::Position { entry: 1000, request: 0 },
        origin: &ALICE,
        access: &access,
    };
    world.store.execute(&context, &set("a/b", "one-more", "1").encode(), &mut outcome);
    assert_eq!((outcome.code, outcome.detail.as_str()), (Code::TWIN_FULL, "a/b: has 256 of 256 properties"));
    assert_eq!(run(&mut world, delete("a/b", Some(&["p7"]))).0, Code::DONE);
    world.store.execute(&context, &set("a/b", "one-more", "1").encode(), &mut outcome);
    assert_eq!(outcome.code, Code::TWIN_FULL);
    assert_eq!(run(&mut world, set("a/b", "p7", "text")).0, Code::DONE);
    assert_eq!(run(&mut world, set("a/c", "p", "1")).0, Code::DONE);
    let (code, detail) = run(&mut world, set("a/d", "p", "1"));
    assert_eq!((code, detail.as_str()), (Code::STORE_FULL, "the store holds 257 of 257 properties"));
    assert_eq!(run(&mut world, delete("a/b", None)).0, Code::DONE);
    assert_eq!(run(&mut world, delete("a/b", None)).0, Code::UNKNOWN_TWIN);
}

#[test]
fn a_hostile_snapshot_is_refused_and_leaves_the_state_alone() {
    let mut world = World::new(4);
    for path in ["p", "q", "r"] {
        run(&mut world, set("a/b", path, "text"));
    }
    let mut snapshot = Vec::new();
    world.store.snapshot(&mut snapshot).unwrap();
    let root = world.store.state_root();

    assert_eq!(TwinStore::new(2).restore(&snapshot), Err(StateError::TooLarge { limit: 2 }));
    let mut accepted = 0;
    for at in 0..snapshot.len() {
        for with in [0x00, 0x18, 0x61, 0x9b, 0xf6, 0xff, snapshot[at] ^ 1] {
            let mut bytes = snapshot.clone();
            bytes[at] = with;
            if bytes == snapshot {
                continue;
            }
            match world.store.restore(&bytes) {
                // A changed value or key is a different state: only the root tells.
                Ok(()) => {
                    accepted += 1;
                    assert_ne!(world.store.state_root(), root);
                    world.store.restore(&snapshot).unwrap();
                }
                Err(error) => assert!(matches!(error, StateError::Malformed { .. } | StateError::TooLarge { .. })),
            }
            assert_eq!(world.store.state_root(), root);
        }
        assert!(world.store.restore(&snapshot[..at]).is_err());
    }
    assert!(accepted > 0);
    // Leaf for leaf well made, but the second property has the name of the first.
    let text = |byte: u8| [0x61, byte];
    let at = snapshot.windows(2).position(|pair| pair == text(b'q')).unwrap();
    snapshot[at + 1] = b'p';
    let error = world.store.restore(&snapshot).unwrap_err();
    assert!(matches!(error, StateError::Malformed { what: "property has two slots", .. }), "{error}");
}

#[test]
fn an_empty_store_has_the_empty_roots_and_an_empty_snapshot() {
    let mut store = TwinStore::new(10);
    let empty = atlas_dataplane::crypto::hash::empty_root();
    assert_eq!((store.state_root(), store.absence_root(), store.slot_count()), (empty, empty, 0));
    let mut snapshot = Vec::new();
    store.snapshot(&mut snapshot).unwrap();
    assert_eq!(snapshot, [0x80]);
    store.restore(&snapshot).unwrap();
    assert_ne!(store.state_root(), Digest::NULL);
}

#[test]
fn a_slot_that_changed_by_itself_is_found_once_its_turn_comes() {
    let mut world = World::new(100);
    for number in 0..20 {
        run(&mut world, set("a/b", &format!("p{number}"), "1"));
    }
    assert_eq!(world.store.scrub(1_000), Ok(()));
    assert_eq!(world.store.scrub(13), Ok(()));
    let value = world.store.slots[5].value.take();
    assert_eq!(world.store.scrub(7), Ok(()), "slots 13 to 19");
    assert_eq!(world.store.scrub(5), Ok(()), "slots 0 to 4");
    let found = world.store.scrub(1).unwrap_err();
    assert_eq!((found.slot, found.name.as_str()), (5, "a/b p5"));
    world.store.slots[5].value = value;
    assert_eq!(world.store.scrub(20), Ok(()));
}

#[test]
fn bytes_that_are_no_operation_are_refused_the_same_before_and_after_ordering() {
    let mut world = World::new(10);
    let mut outcome = atlas_dataplane::state::Outcome::default();
    let access = |_: &str, _: &str| true;
    let position = atlas_dataplane::types::Position { entry: 1, request: 0 };
    let context = atlas_dataplane::state::OperationContext { time_ms: 1, position, origin: &ALICE, access: &access };
    let good = set("a/b", "p", "1").encode();
    for length in 0..good.len() {
        let cut = &good[..length];
        world.store.execute(&context, cut, &mut outcome);
        assert_eq!(world.store.check(cut), Err(outcome.code));
        assert!(!outcome.detail.is_empty());
    }
    assert_eq!(world.store.check(&[0x81, 3]), Err(Code::MALFORMED));
    assert_eq!(world.store.check(&good), Ok(1));
    assert_eq!(world.store.check(&delete("a/b", None).encode()), Ok(MAX_TWIN_PROPERTIES));
    assert_eq!(world.store.slot_count(), 0);
}

/// Who may write everything, but properties `brake...` and all of `safe/...` with a reason only.
struct Policy;

impl atlas_dataplane::state::Access for Policy {
    fn may_write(&self, _: &str, _: &str) -> bool {
        true
    }

    fn needs_reason(&self, twin: &str, property: &str) -> bool {
        property.starts_with("brake") || twin.starts_with("safe/")
    }
}

#[test]
fn what_the_policy_names_is_changed_with_a_reason_only() {
    let mut world = World::new(10);
    let mut entry = 0;
    let mut run = |operation: &Operation| {
        entry += 1;
        let mut outcome = atlas_dataplane::state::Outcome::default();
        let position = atlas_dataplane::types::Position { entry, request: 0 };
        let context =
            atlas_dataplane::state::OperationContext { time_ms: 1, position, origin: &ALICE, access: &Policy };
        world.store.execute(&context, &operation.encode(), &mut outcome);
        assert!(outcome.code == Code::DONE || outcome.changes.is_empty());
        (outcome.code, outcome.detail)
    };
    let because = |operation: Operation, why: &str| {
        let why = || Some(why.to_owned());
        match operation {
            Operation::Write(Write::Set { twin, properties, .. }) => {
                Operation::Write(Write::Set { twin, properties, reason: why() })
            }
            Operation::Write(Write::Delete { twin, paths, .. }) => {
                Operation::Write(Write::Delete { twin, paths, reason: why() })
            }
            Operation::Transaction { conditions, writes, .. } => {
                Operation::Transaction { conditions, writes, reason: why() }
            }
        }
    };
    let refused = |what: &str| (Code::REASON_REQUIRED, format!("{what}: not without a reason"));
    let done = (Code::DONE, String::new());
    assert_eq!(run(&set("a/b", "power", "1")), done);
    let brake = set("a/b", "brake/left", "1");
    assert_eq!(run(&brake), refused("a/b brake/left"));
    for nothing in ["", " ", " \t\n"] {
        assert_eq!(run(&because(brake.clone(), nothing)), refused("a/b brake/left"));
    }
    assert_eq!(run(&because(brake, "inspection")), done);
    assert_eq!(run(&set("safe/x", "p", "1")), refused("safe/x p"));
    // A whole twin: where one of its properties wants it. After the twin's deletion none exists that does.
    assert_eq!(run(&delete("a/b", Some(&["brake/left"]))), refused("a/b brake/left"));
    assert_eq!(run(&delete("a/b", None)), refused("a/b brake/left"));
    assert_eq!(run(&because(delete("a/b", Some(&["brake/left"])), "gone")), done);
    assert_eq!(run(&delete("a/b", None)), done);
    // A transaction: the reason of the write, or else of the whole; and before the conditions are looked at.
    let Operation::Write(write) = set("a/b", "brake", "1") else { panic!() };
    let Operation::Write(other) = because(set("safe/x", "p", "1"), "its own") else { panic!() };
    let test = Condition { twin: "a/b".to_owned(), path: "none".to_owned(), test: Test::Exists };
    let transaction = |conditions| {
        let writes = vec![other.clone(), write.clone()];
        Operation::Transaction { conditions, writes, reason: None }
    };
    assert_eq!(run(&transaction(vec![test.clone()])), refused("a/b brake"));
    assert_eq!(run(&because(transaction(vec![test]), "both")).0, Code::CONDITION_FAILED);
    assert_eq!(run(&because(transaction(vec![]), "both")), done);
}
