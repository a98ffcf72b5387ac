//! Histories that were altered and hashed again, by liars with too few keys and by a whole cluster of liars.

use atlas_dataplane::history::entry::{EntryView, StateView, put_bundle_start, put_outcome, put_skipped, put_state};
use atlas_dataplane::state::Change;
use atlas_dataplane::types::{Code, Digest, Sequence, Signature, TimeMs};
use atlas_dataplane::wire::bundle::Bundle;

use atlas_dataplane::crypto::verify;
use curve25519_dalek::Scalar;
use curve25519_dalek::constants::{ED25519_BASEPOINT_POINT, EIGHT_TORSION};
use curve25519_dalek::scalar::clamp_integer;
use ring::digest::{Context, SHA512};

use crate::audited;
use crate::history::{CREATED_MS, GATEWAY, History, OPERATOR, ORIGIN, opening, public, request, set, signed};
use atlas::twin::value::Value;

/// A BUNDLE entry in pieces.
struct Parts {
    sequence: Sequence,
    time_ms: TimeMs,
    cose: Vec<u8>,
    requests: Vec<Vec<u8>>,
    outcomes: Vec<Option<(Code, Vec<Change>)>>,
}

impl Parts {
    fn of(entry: &[u8]) -> Option<Self> {
        let Ok(EntryView::Bundle(view)) = EntryView::decode(entry) else { return None };
        let outcome =
            |outcome: atlas_dataplane::history::entry::OutcomeView<'_>| (outcome.code, outcome.changes().collect());
        Some(Self {
            sequence: view.sequence,
            time_ms: view.time_ms,
            cose: view.cose.to_vec(),
            requests: view.requests().map(<[u8]>::to_vec).collect(),
            outcomes: view.outcomes().map(|it| it.map(outcome)).collect(),
        })
    }

    fn with(self, bundle: &Bundle) -> Self {
        let requests: Vec<_> = bundle.requests().map(<[u8]>::to_vec).collect();
        Self { cose: bundle.cose().to_vec(), requests, ..self }
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put_bundle_start(&mut out, self.sequence, self.time_ms, &self.cose, self.requests.iter().map(Vec::as_slice));
        for outcome in &self.outcomes {
            match outcome {
                Some((code, changes)) => drop(put_outcome(&mut out, *code, changes)),
                None => put_skipped(&mut out),
            }
        }
        out
    }
}

impl History {
    /// The first BUNDLE entry from `from` on that `is` so, altered by `change`; gives its number.
    fn alter(&mut self, from: usize, is: impl Fn(&Parts) -> bool, change: impl FnOnce(&mut Parts)) -> usize {
        let found = (from..self.entries.len()).find_map(|at| Some((at, Parts::of(&self.entries[at]).filter(&is)?)));
        let (at, mut parts) = found.expect("such an entry");
        change(&mut parts);
        self.entries[at] = parts.encode();
        at
    }

    /// The first STATE entry from `from` on that `is` so, altered.
    fn alter_state(
        &mut self,
        from: usize,
        is: impl Fn(&StateView) -> bool,
        change: impl FnOnce(&mut StateView),
    ) -> usize {
        let found = (from..self.entries.len()).find_map(|at| match EntryView::decode(&self.entries[at]) {
            Ok(EntryView::State(state)) if is(&state) => Some((at, state)),
            _ => None,
        });
        let (at, mut state) = found.expect("such an entry");
        change(&mut state);
        self.entries[at].clear();
        put_state(&mut self.entries[at], &state);
        at
    }
}

fn changed(parts: &Parts) -> bool {
    parts.outcomes.iter().flatten().any(|(_, changes)| !changes.is_empty())
}

/// What a deep audit says of a history that the whole cluster signed.
fn message(history: &History) -> String {
    let dir = tempfile::tempdir().expect("a directory");
    match audited(&history.export(0, 4, dir.path()), true) {
        Ok(_) => panic!("not found"),
        Err(error) => error.to_string(),
    }
}

/// As [`message`], which must be of this entry and say this.
fn found(name: &str, history: &History, at: usize, says: &str) {
    let message = message(history);
    let file = format!("tile/entries/{:03}", at / 256);
    assert!(
        message.starts_with(&file) && message.contains(&format!(", entry {at}, byte ")) && message.contains(says),
        "{name}: expected entry {at}: {message}"
    );
}

#[test]
fn liars_with_too_few_keys_certify_nothing() {
    let mut history = History::new();
    history.alter(200, changed, |parts| parts.outcomes[0] = Some((Code::FORBIDDEN, Vec::new())));
    let dir = tempfile::tempdir().expect("a directory");
    for signers in [1, 2] {
        let dir = dir.path().join(signers.to_string());
        std::fs::create_dir(&dir).expect("a new directory");
        let error = audited(&history.export(0, signers, &dir), false).expect_err("too few").to_string();
        assert!(error.contains(&format!("needs 3, and {signers} cosigned")), "{error}");
    }
}

#[test]
fn altered_outcomes_do_not_replay() {
    let original = History::new();
    let mut history = original.clone();
    let first_done = |parts: &Parts| matches!(&parts.outcomes[0], Some((Code::DONE, changes)) if !changes.is_empty());
    let at = history.alter(200, first_done, |parts| parts.outcomes[0] = Some((Code::FORBIDDEN, Vec::new())));
    found(
        "code",
        &history,
        at,
        "request 0: executed again it is done (0), written is not permitted for this role (201)",
    );

    let mut history = original.clone();
    let forbidden = |parts: &Parts| parts.outcomes.iter().flatten().any(|(code, _)| *code == Code::FORBIDDEN);
    let change = Change { path: 0, revision: 1, previous: None };
    let at = history.alter(100, forbidden, |parts| {
        let refused = parts.outcomes.iter_mut().flatten().find(|(code, _)| *code == Code::FORBIDDEN);
        *refused.expect("one") = (Code::DONE, vec![change]);
    });
    found("allowed", &history, at, "executed again it is not permitted for this role (201), written is done (0)");

    let mut history = original.clone();
    let at = history.alter(300, changed, |parts| {
        let (_, changes) = parts.outcomes.iter_mut().flatten().find(|(_, changes)| !changes.is_empty()).expect("one");
        changes[0].revision += 1;
    });
    found("revision", &history, at, "executed again its changes are 8183");

    let mut history = original.clone();
    let at = history.alter(300, first_done, |parts| parts.outcomes[0] = None);
    found("skipped", &history, at, "was not used and has no outcome");

    let mut history = original;
    let skipped = |parts: &Parts| parts.outcomes[0].is_none();
    let at = history.alter(50, skipped, |parts| parts.outcomes[0] = Some((Code::DONE, Vec::new())));
    found("twice", &history, at, "is used up or beyond the window, and has an outcome");
}

#[test]
fn altered_bundles_do_not_verify() {
    let original = History::new();
    let mut history = original.clone();
    let at = history.alter(100, changed, |parts| {
        let last = parts.cose.len() - 1;
        parts.cose[last] ^= 1;
    });
    found("signature", &history, at, "over the bundle does not hold");

    let mut history = original.clone();
    let at =
        history.alter(100, changed, |parts| parts.requests[0] = request(&set("plant/x", "y", Value::I64(7)), None));
    found("request", &history, at, "the bundle: ");

    let mut history = original.clone();
    let at = history.alter(100, changed, |parts| {
        let foreign = signed(OPERATOR, "other.example/x", Some(1), 9, &parts.requests, CREATED_MS);
        parts.cose = foreign.cose().to_vec();
    });
    found("origin", &history, at, "the bundle: ");

    let mut history = original.clone();
    let at = history.alter(100, changed, |parts| {
        let stranger = signed(77, ORIGIN, Some(1), 9, &parts.requests, CREATED_MS);
        parts.cose = stranger.cose().to_vec();
    });
    found("stranger", &history, at, "which might do nothing then (unknown identity)");

    let mut history = original.clone();
    let at = history.alter(100, changed, |parts| {
        let other = signed(OPERATOR, ORIGIN, Some(99), 9, &parts.requests, CREATED_MS);
        parts.cose = other.cose().to_vec();
    });
    found("session", &history, at, "session 99 does not exist, or was closed before");

    let mut history = original.clone();
    let at = history.alter(100, changed, |parts| {
        let other = signed(GATEWAY, ORIGIN, Some(1), 9, &parts.requests, CREATED_MS);
        parts.cose = other.cose().to_vec();
    });
    found("foreign session", &history, at, "session 1 belongs to another key");

    let mut history = original;
    let at = history.alter(
        100,
        |parts| parts.requests.len() == 1,
        |parts| {
            let bundle = signed(OPERATOR, ORIGIN, None, 0, &[opening()], CREATED_MS - 10_000_000);
            *parts = Parts {
                outcomes: vec![Some((Code::DONE, Vec::new()))],
                ..std::mem::replace(parts, empty()).with(&bundle)
            };
        },
    );
    found("opening", &history, at, "opens a session, with a client's time too far from agreed time");
}

fn empty() -> Parts {
    Parts { sequence: 0, time_ms: 0, cose: Vec::new(), requests: Vec::new(), outcomes: Vec::new() }
}

#[test]
fn altered_states_do_not_replay() {
    let original = History::new();
    let any = |_: &StateView| true;
    let mut history = original.clone();
    let at = history.alter_state(150, any, |state| state.state_root = Digest([7; 32]));
    found("root", &history, at, "the STATE entry's state_root is 0707");

    let mut history = original.clone();
    let at = history.alter_state(150, any, |state| state.slot_count += 1);
    found("count", &history, at, "the STATE entry's slot_count is");

    let mut history = original.clone();
    let at = history.alter_state(150, |state| state.previous.is_some(), |state| state.previous = Some(3));
    found("previous", &history, at, "the STATE entry's previous_state_entry is 3");

    let checkpoint = |state: &StateView| state.absence_root.is_some();
    let mut history = original.clone();
    let at = history.alter_state(150, checkpoint, |state| state.absence_root = None);
    found("absence root", &history, at, "the STATE entry's absence_root is null");

    let mut history = original.clone();
    let at = history.alter_state(150, checkpoint, |_| ());
    history.entries.remove(at);
    found("missing", &history, at, "and missing before this entry");

    let mut history = original.clone();
    let at = history.alter_state(150, checkpoint, |_| ());
    history.entries.insert(at, history.entries[at].clone());
    found("twice", &history, at + 1, "no STATE entry is due at sequence");

    let mut history = original;
    let at = history.alter_state(350, checkpoint, |_| ());
    history.entries.truncate(at);
    let message = message(&history);
    let ends = format!("checkpoint, entry {at}: the history ends where the STATE entry of sequence ");
    assert!(message.starts_with(&ends), "{message}");
}

#[test]
fn key_entries_out_of_place_are_found() {
    let original = History::new();
    let is_key = |entry: &Vec<u8>| matches!(EntryView::decode(entry), Ok(EntryView::Key(_)));
    let at = original.entries.iter().position(is_key).expect("a KEY entry");
    let mut history = original.clone();
    history.entries.remove(at);
    found("missing", &history, at, "the KEY entry of the statement that the bundle before brought is missing");

    let mut history = original.clone();
    history.entries.insert(at, original.entries[at].clone());
    found("twice", &history, at + 1, "no bundle right before brought the statement of this KEY entry");

    let mut history = original;
    let last = history.entries[at].len() - 1;
    history.entries[at][last] ^= 1;
    found("another", &history, at, "no bundle right before brought the statement of this KEY entry");
}

#[test]
fn an_order_that_cannot_be_is_found() {
    let original = History::new();
    let mut history = original.clone();
    let at = history.alter(200, changed, |parts| parts.time_ms -= 5_000);
    found("time", &history, at, "time never goes backwards, and a sequence has one time");

    let mut history = original.clone();
    let at = history.alter(200, changed, |parts| parts.sequence -= 5);
    found("sequence", &history, at, " after sequence ");

    let mut history = original.clone();
    history.entries.remove(0);
    found("no genesis", &history, 0, "entry 0 is not the CONFIG entry of the genesis");

    let mut history = original.clone();
    let repeated = history.entries[150].clone();
    let at = history.entries.len();
    history.entries.push(repeated);
    found("repeated", &history, at, "sequence");

    let mut history = original.clone();
    history.entries[200].truncate(20);
    found("cut", &history, 200, "an entry is malformed at byte");

    let mut history = original.clone();
    history.entries[200] = vec![0x85, 1, 9, 0, 0, 0];
    found("unknown", &history, 200, "an entry has version 1, kind 9, which this build does not know");

    let mut history = original;
    history.entries[200].push(0);
    found("longer", &history, 200, "an entry is malformed at byte");
}

#[test]
fn a_genesis_of_others_is_found() {
    let original = History::new();
    let alter = |from: &[u8], to: &[u8]| {
        let mut history = original.clone();
        let genesis = &mut history.entries[0];
        let at = genesis
            .windows(from.len())
            .collect::<Vec<_>>()
            .iter()
            .rposition(|window| *window == from)
            .expect("it is there");
        genesis[at..at + from.len()].copy_from_slice(to);
        history
    };
    let cluster = crate::history::cluster();
    let key = cluster.members()[2].cosign_key.0;
    found("cosign key", &alter(&key, &[7; 32]), 0, "the cosign key of member 2 is not in the policy");
    let key = cluster.members()[1].log_key.0;
    found("log key", &alter(&key, &[7; 32]), 0, "the log key of member 1 is not in the policy");
    found("policy", &alter(b"replicas 3 r0", b"replicas 2 r0"), 0, "the genesis names another policy");
    // The last place with the name: the setting.
    found(
        "origin",
        &alter(b"test.example/plant-7", b"test.example/plant-8"),
        0,
        "the genesis is of \"test.example/plant-8\"",
    );
    let setting = alter(b"sessions_per_identity", b"sessions_per_identitx");
    found("setting", &setting, 0, "the genesis' setting \"sessions_per_identity\" is missing or not of its form");
}

/// Signs so that the cofactored equation of ZIP 215 holds and the plain one does not: R gets a component of order 2.
fn crafted(seed: u8, message: &[u8]) -> Signature {
    let hash = |parts: &[&[u8]]| {
        let mut context = Context::new(&SHA512);
        parts.iter().for_each(|part| context.update(part));
        let mut wide = [0; 64];
        wide.copy_from_slice(context.finish().as_ref());
        wide
    };
    let expanded = hash(&[&[seed; 32]]);
    let mut secret = [0; 32];
    secret.copy_from_slice(&expanded[..32]);
    let secret = Scalar::from_bytes_mod_order(clamp_integer(secret));
    let nonce = Scalar::from_bytes_mod_order_wide(&hash(&[&expanded[32..], message]));
    let point = (ED25519_BASEPOINT_POINT * nonce + EIGHT_TORSION[4]).compress().0;
    let challenge = Scalar::from_bytes_mod_order_wide(&hash(&[&point, &public(seed).0, message]));
    let mut bytes = [0; 64];
    bytes[..32].copy_from_slice(&point);
    bytes[32..].copy_from_slice((nonce + challenge * secret).as_bytes());
    Signature(bytes)
}

#[test]
fn a_signature_that_only_zip_215_accepts_is_named() {
    let mut history = History::new();
    let at = history.alter(400, changed, |parts| {
        let old = Bundle::parse(&parts.cose, parts.requests.iter().map(Vec::as_slice), ORIGIN).expect("a bundle");
        let seed = if *old.key() == public(OPERATOR) { OPERATOR } else { GATEWAY };
        let header = old.header();
        let (session, first, time_ms) = (header.session, header.first, header.client_time_ms);
        let requests: Vec<_> = old.requests().map(<[u8]>::to_vec).collect();
        let sign = |message: &[u8]| crafted(seed, message);
        let bundle = Bundle::sign(ORIGIN, *old.key(), session, first, &requests, time_ms, sign).expect("a bundle");
        assert!(verify(bundle.key(), &bundle.signed_bytes(), bundle.signature()), "ZIP 215 accepts it");
        parts.cose = bundle.cose().to_vec();
    });
    let dir = tempfile::tempdir().expect("a directory");
    let report = audited(&history.export(0, 4, dir.path()), true).expect("it holds all the same");
    assert_eq!((report.crafted, report.crafted_count), (vec![at as u64], 1));
}
