//! Identities in the order: key statements ordered, executed, and what follows for whom.

use super::*;
use crate::crypto::SecretKey;
use crate::execution::identities::Identities;
use crate::execution::image::ResumeError;
use crate::ordering::checkpoint::Statement;
use crate::wire::bundle::OPEN_SESSION;
use crate::wire::statement::{self, KeyChange, KeyStatement, SignedStatement, Validity};

type Replica = Execution<Registers, MemoryStore>;

/// Seeds of keys: administrators, then ones that nobody knows at first.
const CHIEF: u8 = 120;
const DEPUTY: u8 = 121;
const NEW: u8 = 50;

fn secret(seed: u8) -> SecretKey {
    SecretKey::from_seed(&[seed; 32])
}

/// The cluster of the other tests, with two administrators.
fn led() -> Cluster {
    let head = format!("origin = {ORIGIN:?}\ncreated = 1970-01-01T00:16:40Z\n\n");
    let clients: [SampleClient<'_>; 2] = [("all-1", 101, &["*"]), ("some-3", 103, &["reg-1*:value"])];
    let mut text = cluster_text(&head, &clients);
    for (name, seed) in [("chief", CHIEF), ("deputy", DEPUTY)] {
        text += &format!("[[administrators]]\nname = {name:?}\nkey = \"{}\"\n\n", public(seed));
    }
    parse(&text).unwrap().with_settings(cluster().settings().clone())
}

fn begin() -> Replica {
    let mut replica = Execution::new(&led(), Registers::default(), MemoryStore::new()).unwrap();
    replica.set_snapshot_bytes(0);
    replica
}

fn by(seed: u8, session: Option<u64>, first: u64, operations: &[Vec<u8>], time_ms: TimeMs) -> Arc<Bundle> {
    let requests: Vec<_> = operations.iter().map(|operation| request(None, operation)).collect();
    let signer = secret(seed);
    let signed = Bundle::sign(ORIGIN, signer.public(), session, first, &requests, time_ms, |bytes| signer.sign(bytes));
    Arc::new(signed.unwrap())
}

fn opens(seed: u8, time_ms: TimeMs, operations: &[Vec<u8>]) -> Arc<Bundle> {
    by(seed, None, 0, &[&[OPEN_SESSION.to_vec()], operations].concat(), time_ms)
}

/// The operation with a statement.
fn says(signer: u8, number: u64, key: u8, change: KeyChange) -> Vec<u8> {
    let signer = secret(signer);
    let statement = KeyStatement { number, key: public(key), change, reason: Some("as ordered".to_owned()) };
    statement::operation(&statement.sign(ORIGIN, signer.public(), |bytes| signer.sign(bytes)))
}

fn register(number: u64, key: u8, role: &str, validity: Validity) -> Vec<u8> {
    let name = format!("person {key}");
    says(CHIEF, number, key, KeyChange::Register { name, role: Some(role.to_owned()), validity })
}

fn always() -> Validity {
    Validity::default()
}

fn rotate(number: u64, key: u8, replaces: u8) -> Vec<u8> {
    says(CHIEF, number, key, KeyChange::Rotate { replaces: public(replaces), validity: always() })
}

fn revoke(number: u64, key: u8) -> Vec<u8> {
    says(DEPUTY, number, key, KeyChange::Revoke)
}

/// The codes of one bundle's replies, without their numbers.
fn replies(settled: &Settled) -> Vec<u16> {
    settled.replies.iter().map(|reply| reply.code).collect()
}

fn only(out: &Executed) -> &Settled {
    let [settled] = &out.bundles[..] else { panic!("one bundle") };
    settled
}

/// What an auditor comes to, who has the entries alone.
fn replayed(replica: &Replica) -> Identities {
    let entries = entries(replica);
    let Ok(EntryView::Config(config)) = EntryView::decode(&entries[0]) else { panic!("no CONFIG") };
    let mut table = Identities::genesis(&config).unwrap();
    for (index, entry) in entries.iter().enumerate() {
        if let Ok(EntryView::Key(key)) = EntryView::decode(entry) {
            let signed = SignedStatement::parse(key.cose, ORIGIN).unwrap();
            assert!(signed.holds());
            table.apply(&signed, key.time_ms, index as u64).unwrap();
        }
    }
    table
}

#[test]
fn a_registered_key_works_and_its_entry_follows_the_bundle() {
    let mut replica = begin();
    let stranger = opens(NEW, START, &[operation(12, 1), operation(2, 1)]);
    assert_eq!(refusals(&settled(replica.admit(&stranger))), [(0, 3, Code::UNKNOWN_IDENTITY.0)]);
    let bundle = opens(CHIEF, START, &[register(1, NEW, "some", always()), operation(1, 1)]);
    assert_eq!((replica.check(&bundle), replica.admit(&bundle)), (Ok(()), Admission::Order));
    let out = step(&mut replica, START, &[&bundle, &stranger]);
    // An administrator has no role; whom it registers is there for the next bundle.
    assert_eq!(replies(&out.bundles[0]), [0, 0, Code::FORBIDDEN.0]);
    assert_eq!(replies(&out.bundles[1]), [0, 0, Code::FORBIDDEN.0]);
    let kinds: Vec<_> = entries(&replica)
        .iter()
        .map(|entry| match EntryView::decode(entry).unwrap() {
            EntryView::Config(_) => 0,
            EntryView::Bundle(_) => 1,
            EntryView::State(_) => 2,
            EntryView::Key(view) => {
                assert_eq!((view.sequence, view.time_ms, view.signer()), (1, START, Some(public(CHIEF))));
                3
            }
        })
        .collect();
    assert_eq!((kinds, out.first_entry, out.size), (vec![0, 1, 3, 1], 1, 4));
    assert_eq!(replica.identities(), &replayed(&replica));
    let identity = replica.identities().get(&public(NEW)).unwrap();
    assert_eq!((identity.name.as_str(), identity.entry), ("person 50", 2));
    // The reply can be asked for again like any other, and the statement is not carried out again.
    assert_eq!(settled(replica.admit(&bundle)), out.bundles[0]);
    let again = step(&mut replica, START, &[&bundle, &opens(DEPUTY, START, &[register(1, NEW, "some", always())])]);
    assert_eq!((again.bundles[0].replies.len(), replies(&again.bundles[1])), (0, vec![0, Code::STATEMENT_NUMBER.0]));
    assert_eq!(replica.identities().number(), 1);
}

#[test]
fn a_rotated_key_hands_over_and_any_client_may_bring_the_statement() {
    let mut replica = begin();
    step(&mut replica, START, &[&opens(103, START, &[operation(12, 1)])]);
    let out = step(&mut replica, START, &[&by(101, None, 0, &[OPEN_SESSION.to_vec(), rotate(1, NEW, 103)], START)]);
    assert_eq!(replies(only(&out)), [0, 0]);
    let old = by(103, Some(1), 2, &[operation(12, 1)], START);
    assert_eq!(refusals(&settled(replica.admit(&old))), [(2, 1, Code::REVOKED.0)]);
    // The new key has the role, not the sessions.
    let foreign = by(NEW, Some(1), 2, &[operation(12, 1)], START);
    assert_eq!(refusals(&settled(replica.admit(&foreign))), [(2, 1, Code::FOREIGN_SESSION.0)]);
    let out = step(&mut replica, START, &[&old, &opens(NEW, START, &[operation(12, 1), operation(2, 1)])]);
    assert_eq!(refusals(&out.bundles[0]), [(2, 1, Code::REVOKED.0)]);
    assert_eq!(replies(&out.bundles[1]), [0, 0, Code::FORBIDDEN.0]);
    assert_eq!(replica.identities(), &replayed(&replica));
}

#[test]
fn what_is_ordered_before_a_revocation_and_executed_behind_it_is_refused() {
    let mut replica = begin();
    let first = opens(101, START, &[operation(1, 1)]);
    step(&mut replica, START, &[&first]);
    // Its own last bundle brings the revocation: that is judged by the table before, all of it.
    let last = by(101, Some(1), 2, &[operation(1, 1), revoke(1, 101), operation(1, 1)], START);
    let later = by(101, Some(1), 5, &[operation(1, 1)], START);
    let another = opens(101, START + 1, &[operation(1, 1)]);
    for bundle in [&last, &later, &another] {
        assert_eq!((replica.check(bundle), replica.admit(bundle)), (Ok(()), Admission::Order));
    }
    let out = step(&mut replica, START, &[&last, &later, &another]);
    assert_eq!(replies(&out.bundles[0]), [0, 0, 0]);
    for (settled, expected) in out.bundles[1..].iter().zip([(5, 1, Code::REVOKED.0), (0, 2, Code::REVOKED.0)]) {
        assert_eq!((refusals(settled), settled.replies.len()), (vec![expected], 0));
    }
    // No entry beside the bundle's and its KEY: a revoked key makes the history grow no more.
    assert_eq!((out.first_entry, out.size), (2, 4));
    assert_eq!(replica.application().registers[&1].0, 3);
    // What was executed is still told, what was not is refused; here and when it is ordered all the same.
    assert_eq!(settled(replica.admit(&last)), out.bundles[0]);
    let mixed = by(101, Some(1), 4, &[operation(1, 1), operation(1, 1)], START);
    let told = settled(replica.admit(&mixed));
    assert_eq!((codes(&told), refusals(&told)), (vec![(4, 0)], vec![(5, 1, Code::REVOKED.0)]));
    let out = step(&mut replica, START, &[&last, &mixed, &by(101, Some(1), 200, &[operation(1, 1)], START)]);
    let got: Vec<_> = out.bundles.iter().map(|it| (it.replies.len(), refusals(it))).collect();
    assert_eq!(got, [(0, vec![]), (0, vec![(5, 1, Code::REVOKED.0)]), (0, vec![(200, 1, Code::REVOKED.0)])]);
    // What may have been done is never said to be refused: another request under a number that was used is a conflict.
    let other = by(101, Some(1), 2, &[operation(1, 2)], START);
    assert_eq!(refusals(&settled(replica.admit(&other))), [(2, 1, Code::CONFLICT.0)]);
    let out = step(&mut replica, START, &[&other]);
    assert_eq!(refusals(only(&out)), [(2, 1, Code::CONFLICT.0)]);
    // A replica that lags does not know the session; it knows the key.
    let ahead = by(101, Some(1 << 40), 0, &[operation(1, 1)], START);
    assert_eq!(refusals(&settled(replica.admit(&ahead))), [(0, 1, Code::REVOKED.0)]);
}

#[test]
fn statements_that_must_not_be_carried_out_change_nothing() {
    let mut replica = begin();
    // Each bundle opens a session, for which its time must be above that of those that were closed.
    let mut opens = {
        let mut time = START;
        move |operations: &[Vec<u8>]| {
            time += 1;
            opens(101, time, operations)
        }
    };
    let good = register(1, NEW, "some", always());
    let cose = carried(&good).unwrap();
    let mut forged = cose.to_vec();
    *forged.last_mut().unwrap() ^= 1;
    let signer = secret(CHIEF);
    let change = KeyChange::Revoke;
    let elsewhere = KeyStatement { number: 1, key: public(101), change, reason: None };
    let elsewhere = elsewhere.sign("another.example/cluster", signer.public(), |bytes| signer.sign(bytes));
    let too_early = Validity { from_ms: Some(5), until_ms: Some(5) };
    // Refused before ordering, and the same where it is executed all the same.
    for (operation, code) in [
        (statement::operation(&elsewhere), Code::WRONG_ORIGIN),
        (statement::operation(&cose[1..]), Code::MALFORMED),
        (vec![0x82, 0x04, 0xf6], Code::MALFORMED),
        (register(1, NEW, "some", too_early), Code::BAD_VALUE),
        (statement::operation(&[0; 3_000]), Code::TOO_LARGE),
    ] {
        let before = replica.identities().clone();
        let bundle = opens(&[operation]);
        assert_eq!(replica.check(&bundle), Err(code));
        let out = step(&mut replica, START, &[&bundle]);
        assert_eq!((replies(only(&out)), replica.identities()), (vec![0, code.0], &before));
    }
    // Well made, and for execution alone to refuse.
    let by_client = says(101, 1, NEW, KeyChange::Register { name: "x".to_owned(), role: None, validity: always() });
    // The neutral point, for which everybody can sign.
    let mut weak = [0; 32];
    weak[0] = 1;
    let change = KeyChange::Register { name: "x".to_owned(), role: None, validity: always() };
    let weak = KeyStatement { number: 1, key: PublicKey(weak), change, reason: None };
    let weak = weak.sign(ORIGIN, signer.public(), |bytes| signer.sign(bytes));
    for (operation, code) in [
        (statement::operation(&forged), Code::BAD_SIGNATURE),
        (statement::operation(&weak), Code::BAD_KEY),
        (by_client, Code::NOT_ADMINISTRATOR),
        (says(NEW, 1, 101, KeyChange::Revoke), Code::NOT_ADMINISTRATOR),
        (register(2, NEW, "some", always()), Code::STATEMENT_NUMBER),
        (register(1, 103, "some", always()), Code::KEY_TAKEN),
        (register(1, NEW, "none", always()), Code::UNKNOWN_ROLE),
        (rotate(1, NEW, 51), Code::UNKNOWN_KEY),
    ] {
        let bundle = opens(&[operation]);
        assert_eq!(replica.check(&bundle), Ok(()));
        let out = step(&mut replica, START, &[&bundle]);
        assert_eq!((replies(only(&out)), replica.identities().number()), (vec![0, code.0], 0));
        assert!(!only(&out).replies[1].detail.is_empty());
    }
    // One bundle brings one.
    let two = opens(&[good.clone(), revoke(2, 103)]);
    assert_eq!(replica.check(&two), Err(Code::TOO_LARGE));
    let out = step(&mut replica, START, &[&two]);
    assert_eq!((replies(only(&out)), replica.identities().number()), (vec![0, 0, Code::TOO_LARGE.0], 1));
}

#[test]
fn validity_is_judged_by_agreed_time() {
    let mut replica = begin();
    let validity = Validity { from_ms: Some(START + 10), until_ms: Some(START + 20) };
    step(&mut replica, START, &[&opens(CHIEF, START, &[register(1, NEW, "all", validity)])]);
    let bundle = opens(NEW, START + 10, &[]);
    // Ordered although it is early, for the time at which it is executed is not known before.
    assert_eq!(replica.admit(&bundle), Admission::Order);
    let out = step(&mut replica, START + 9, &[&bundle]);
    assert_eq!(refusals(only(&out)), [(0, 1, Code::NOT_VALID.0)]);
    let size = out.size;
    let out = step(&mut replica, START + 10, &[&bundle]);
    assert_eq!(replies(only(&out)), [0]);
    let write = |number| by(NEW, Some(size), number, &[operation(1, 1)], START);
    assert_eq!(replies(only(&step(&mut replica, START + 19, &[&write(1)]))), [0]);
    assert_eq!(replica.admit(&write(2)), Admission::Order);
    // The leader's clock goes back; agreed time does not, and an end is an end.
    let out = step(&mut replica, START + 20, &[&write(2)]);
    assert_eq!(refusals(only(&out)), [(2, 1, Code::NOT_VALID.0)]);
    assert_eq!(refusals(&settled(replica.admit(&write(2)))), [(2, 1, Code::NOT_VALID.0)]);
    let out = step(&mut replica, START, &[&write(2)]);
    assert_eq!(refusals(only(&out)), [(2, 1, Code::NOT_VALID.0)]);
    // An administrator's too.
    let validity = Validity { from_ms: None, until_ms: Some(START + 30) };
    let third = says(CHIEF, 2, 60, KeyChange::Register { name: "third".to_owned(), role: None, validity });
    let act = |number, first| by(CHIEF, Some(1), first, &[says(60, number, 103, KeyChange::Revoke)], START);
    step(&mut replica, START + 20, &[&by(CHIEF, Some(1), 2, &[third], START)]);
    let out = step(&mut replica, START + 30, &[&act(3, 3)]);
    assert_eq!(replies(only(&out)), [Code::NOT_VALID.0]);
}

/// Registers, rotates and revokes; sessions of all of them; at a snapshot point.
fn rich() -> Replica {
    let mut replica = begin();
    step(&mut replica, START, &[&opens(CHIEF, START, &[register(1, NEW, "some", always())])]);
    step(&mut replica, START, &[&opens(NEW, START, &[operation(12, 1)]), &opens(101, START, &[rotate(2, 51, 103)])]);
    step(&mut replica, START, &[&opens(51, START, &[operation(12, 3), revoke(3, NEW)])]);
    while !replica.snapshot_due() {
        step(&mut replica, START, &[]);
    }
    replica
}

fn image_of(replica: &Replica) -> Vec<u8> {
    let mut bytes = Vec::new();
    replica.freeze().write(&mut bytes).unwrap();
    bytes
}

/// Some more batches of everybody; gives the state's digest.
fn go_on(replica: &mut Replica) -> Digest {
    step(
        replica,
        START + 1,
        &[
            &opens(51, START + 1, &[operation(12, 1), operation(2, 1)]),
            &opens(NEW, START + 1, &[operation(12, 1)]),
            &opens(DEPUTY, START + 1, &[register(4, 52, "all", always())]),
            &opens(52, START + 1, &[operation(2, 1)]),
        ],
    );
    replica.state_digest()
}

#[test]
fn images_hold_the_table_and_a_restored_replica_goes_on_alike() {
    let mut replica = rich();
    let image = image_of(&replica);
    let store = replica.store.clone();
    let mut resumed = Execution::resume(&led(), Registers::default(), store.clone(), &image).unwrap();
    assert_eq!(resumed.identities(), replica.identities());
    assert_eq!(resumed.state_digest(), replica.state_digest());
    assert_eq!(image_of(&resumed), image);
    // One that lags installs it against the checkpoint's statement, in which the table has its part.
    let expected = Statement {
        sequence: replica.sequence(),
        size: replica.size(),
        history_root: replica.history_root(),
        state_root: replica.state_root(),
        sessions: replica.session_digest(),
        members: Digest::default(),
    };
    let mut lagging = begin();
    lagging.store = store.clone();
    lagging.install(&image, &expected).unwrap();
    assert_eq!(replica.identities(), &replayed(&replica));
    let taken = replica.state_digest();
    let digest = go_on(&mut replica);
    assert_eq!((go_on(&mut resumed), go_on(&mut lagging)), (digest, digest));
    assert_eq!(replica.identities().number(), 4);

    // Another table is another checkpoint, byte for byte.
    let mut differing = 0;
    let table = 8 + 8 + 4 + replica.tree.to_bytes().len();
    for at in 20..table + 600 {
        let mut damaged = image.clone();
        damaged[at] ^= 1;
        let mut lagging = begin();
        lagging.store = store.clone();
        let error = lagging.install(&damaged, &expected).unwrap_err();
        differing += usize::from(matches!(error, ResumeError::Differs { what: "the session table", .. }));
        if let Ok(mut resumed) = Execution::resume(&led(), Registers::default(), store.clone(), &damaged) {
            assert_ne!(resumed.state_digest(), taken, "byte {at}");
            go_on(&mut resumed);
        }
    }
    assert!(differing > 50, "{differing}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// Whatever statements come, in whatever order, on two replicas of which one is resumed half way: the same entries, and the table
    /// that an auditor makes of them.
    #[test]
    fn replicas_and_auditors_come_to_one_table(
        script in prop::collection::vec((0..3u8, 0..6usize, 0..6usize, 0..2u64, 0..3u8, 0..4i64), 1..24),
        half in any::<prop::sample::Index>(),
    ) {
        const KEYS: [u8; 6] = [101, 103, NEW, 51, CHIEF, DEPUTY];
        let (mut replica, mut time) = (begin(), START);
        let mut resumed: Option<Replica> = None;
        for (turn, (kind, key, other, off, bearer, later)) in script.iter().enumerate() {
            time += later;
            let (number, signer) = (replica.identities().number() + 1 + off, if *bearer == 0 { CHIEF } else { DEPUTY });
            let validity = Validity { from_ms: (*off > 0).then_some(time + 2), until_ms: (later % 2 > 0).then_some(time + 9) };
            let change = match kind {
                0 => KeyChange::Register { name: format!("n{turn}"), role: Some("some".to_owned()), validity },
                1 if KEYS[*key] != KEYS[*other] => KeyChange::Rotate { replaces: public(KEYS[*other]), validity },
                _ => KeyChange::Revoke,
            };
            let bearer = [101, CHIEF, NEW][usize::from(*bearer)];
            let statement = opens(bearer, time, &[says(signer, number, KEYS[*key], change)]);
            let writes: Vec<_> = KEYS.iter().map(|key| opens(*key, time, &[operation(12, turn as u8)])).collect();
            let mut bundles = vec![&statement];
            bundles.extend(&writes);
            let out = step(&mut replica, time, &bundles);
            for (key, settled) in KEYS.iter().zip(&out.bundles[1..]) {
                // As the bundle's time may have opened this identity's session before, it may be refused for that; never served
                // while the key is not in force.
                let may = replica.identities().may(&public(*key), time);
                prop_assert!(may.is_ok() || settled.replies.is_empty(), "{key} at {time}: {settled:?}");
            }
            if let Some(resumed) = &mut resumed {
                prop_assert_eq!(&step(resumed, time, &bundles), &out);
            } else if replica.snapshot_due() && turn >= half.index(script.len()) {
                let image = image_of(&replica);
                let mut other = Execution::resume(&led(), Registers::default(), replica.store.clone(), &image).unwrap();
                other.set_snapshot_bytes(0);
                resumed = Some(other);
            }
        }
        prop_assert_eq!(replica.identities(), &replayed(&replica));
        if let Some(mut resumed) = resumed {
            prop_assert_eq!(resumed.state_digest(), replica.state_digest());
            prop_assert_eq!(entries(&resumed), entries(&replica));
        }
    }
}
