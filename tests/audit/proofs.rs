//! Receipts, proofs of state and of absence of a real history, by themselves and together.

use atlas::audit::verify::{Input, Shown, VerifyError, proves_absent, verify};
use atlas::twin::TwinStore;
use atlas_dataplane::crypto::hash::{leaf_hash, merkle_path};
use atlas_dataplane::history::entry::EntryView;
use atlas_dataplane::history::slot_leaf::SlotLeaf;
use atlas_dataplane::history::tlog_proof::{Neighbour, Payload};
use atlas_dataplane::state::{Access, Application, OperationContext, Outcome};
use atlas_dataplane::types::{Digest, Position};
use atlas_dataplane::wire::bundle::Request;

use crate::history::{GATEWAY, History, public};

/// The leaves of all slots after the entries up to `end`, by executing them once more.
fn slot_leaves(history: &History, end: usize) -> Vec<Vec<u8>> {
    let mut store = TwinStore::new(1_000);
    for (index, entry) in history.entries[..end].iter().enumerate() {
        let Ok(EntryView::Bundle(view)) = EntryView::decode(entry) else { continue };
        let origin = view.origin().expect("a key");
        let gateway = origin == public(GATEWAY);
        let access = |twin: &str, _: &str| !gateway || twin.starts_with("gate/");
        let access: &dyn Access = &access;
        for (request, (bytes, outcome)) in view.requests().zip(view.outcomes()).enumerate() {
            let request_of = Request::decode(bytes).expect("a request");
            if outcome.is_none_or(|outcome| outcome.code.0 == 400) || request_of.opens_session() {
                continue;
            }
            let position = Position { entry: index as u64, request: request as u16 };
            let context = OperationContext { time_ms: view.time_ms, position, origin: &origin, access };
            store.execute(&context, request_of.operation, &mut Outcome::default());
        }
    }
    let mut snapshot = Vec::new();
    store.snapshot(&mut snapshot).expect("memory");
    // An array of all leaves.
    let mut reader = atlas_dataplane::cbor::Reader::new(&snapshot);
    let count = reader.array().expect("an array");
    (0..count).map(|_| reader.item(2).expect("a leaf").to_vec()).collect()
}

/// A STATE entry with absence root, in the middle.
fn state_entry(history: &History) -> usize {
    let is_checkpoint = |entry: &Vec<u8>| matches!(EntryView::decode(entry), Ok(EntryView::State(state)) if state.absence_root.is_some());
    (300..history.entries.len()).find(|at| is_checkpoint(&history.entries[*at])).expect("a checkpoint's STATE entry")
}

struct State {
    history: History,
    at: usize,
    leaves: Vec<Vec<u8>>,
}

impl State {
    fn new() -> Self {
        let history = History::new();
        let at = state_entry(&history);
        let leaves = slot_leaves(&history, at);
        Self { history, at, leaves }
    }

    fn hashes(&self) -> Vec<Digest> {
        self.leaves.iter().map(|leaf| leaf_hash(leaf)).collect()
    }

    fn slot(&self, twin: &str, property: &str) -> usize {
        let name = |leaf: &Vec<u8>| SlotLeaf::decode(leaf).expect("a leaf").name() == (twin, property);
        self.leaves.iter().position(name).expect("a slot")
    }

    fn proof(&self, slot: usize) -> String {
        let path = merkle_path(&self.hashes(), slot).expect("a slot");
        let entry = &self.history.entries[self.at];
        self.history.proof(self.at, &Payload::State { entry, slot: slot as u64, leaf: &self.leaves[slot], path })
    }

    fn absence(&self, indices: &[usize]) -> String {
        let mut sorted: Vec<&Vec<u8>> = self.leaves.iter().collect();
        sorted.sort_by_key(|leaf| {
            let leaf = SlotLeaf::decode(leaf).expect("a leaf");
            (leaf.twin.to_owned(), leaf.property.to_owned())
        });
        let hashes: Vec<Digest> = sorted.iter().map(|leaf| leaf_hash(leaf)).collect();
        let neighbour = |index: &usize| Neighbour {
            index: *index as u64,
            leaf: sorted[*index],
            path: merkle_path(&hashes, *index).expect("a slot"),
        };
        let neighbours = indices.iter().map(neighbour).collect();
        self.history.proof(self.at, &Payload::Absence { entry: &self.history.entries[self.at], neighbours })
    }
}

fn inputs(files: &[(&str, &str)]) -> Vec<Input> {
    files.iter().map(|(name, text)| ((*name).to_owned(), text.as_bytes().to_vec())).collect()
}

fn shown(files: &[(&str, &str)]) -> Vec<Shown> {
    verify(&inputs(files), &History::policy()).unwrap_or_else(|error| panic!("{error}"))
}

fn refused(files: &[(&str, &str)]) -> VerifyError {
    verify(&inputs(files), &History::policy()).expect_err("it must not hold")
}

#[test]
fn each_kind_of_file_says_what_it_shows() {
    let state = State::new();
    let history = &state.history;
    let size = history.entries.len();
    let slot = state.slot("gate/a", "open");
    let files = [
        ("checkpoint", history.checkpoint(size, 3)),
        ("receipt", history.receipt(40)),
        ("state", state.proof(slot)),
        ("absence", state.absence(&[0, 1])),
    ];
    let files: Vec<_> = files.iter().map(|(name, text)| (*name, text.as_str())).collect();
    let shown = shown(&files);
    assert!(shown.iter().map(|one| one.kind).eq(["checkpoint", "receipt", "state", "absence"]));
    assert!(shown[1].proved[0].starts_with("entry 40 ("), "{:?}", shown[1].proved);
    assert!(shown[2].proved[0].contains("gate/a open was "), "{:?}", shown[2].proved);
    assert!(shown[3].proved[0].contains("no property between gate/a open and "), "{:?}", shown[3].proved);
    let absence = inputs(&files[3..]);
    assert_eq!(proves_absent(&absence, &History::policy(), "gate/a", "shut"), Ok(true));
    assert_eq!(proves_absent(&absence, &History::policy(), "gate/a", "open"), Ok(false));
}

#[test]
fn a_value_is_followed_back_through_receipts() {
    let state = State::new();
    let slot = state.slot("gate/a", "open");
    let leaf = SlotLeaf::decode(&state.leaves[slot]).expect("a leaf");
    // The entries that changed it, newest first, and the first one behind the STATE entry.
    let touches = |at: &usize| {
        let Ok(EntryView::Bundle(view)) = EntryView::decode(&state.history.entries[*at]) else { return false };
        view.origin() == Some(public(GATEWAY)) && view.outcomes().flatten().any(|outcome| outcome.changes().count() > 0)
    };
    let before: Vec<usize> = (0..state.at).rev().filter(touches).take(3).collect();
    let after = (state.at..state.history.entries.len()).find(touches).expect("one more change");
    assert_eq!(before[0] as u64, leaf.position.entry);
    let proof = state.proof(slot);
    let receipts: Vec<String> = [before[2], before[0], after, before[1]].map(|at| state.history.receipt(at)).into();
    let mut files = vec![("state", proof.as_str())];
    files.extend(["a", "b", "c", "d"].into_iter().zip(receipts.iter().map(String::as_str)));
    let proved = &shown(&files)[0].proved;
    let text = proved.join("\n");
    assert!(proved[1].starts_with(&format!("it stayed so until {after}.")), "{text}");
    let revisions: Vec<u64> = proved[2..]
        .iter()
        .map(|line| {
            line.split_once(", revision ")
                .and_then(|(_, rest)| rest.split(';').next())
                .expect(line)
                .parse()
                .expect(line)
        })
        .collect();
    assert!(revisions.len() >= 3 && revisions[0] == leaf.revision, "{text}");
    assert!(revisions.windows(2).all(|pair| pair[0] == pair[1] + 1), "{text}");
}

#[test]
fn files_that_contradict_each_other_are_found() {
    let state = State::new();
    let size = state.history.entries.len();
    let mut other = state.history.clone();
    other.entries[400] = vec![0];
    let (one, two) = (state.history.checkpoint(size, 4), other.checkpoint(size, 4));
    let error = refused(&[("one", &one), ("two", &two)]).to_string();
    assert_eq!(
        error,
        format!("two: certifies another root over {size} entries than one: two histories were certified")
    );
    // A state proof of an older leaf under liars' signatures, and a receipt of what came since.
    let slot = state.slot("gate/a", "open");
    let touched = SlotLeaf::decode(&state.leaves[slot]).expect("a leaf").position.entry as usize;
    let older = State { leaves: slot_leaves(&state.history, touched), history: state.history.clone(), at: state.at };
    let mut lying = older.history.clone();
    let Ok(EntryView::State(mut view)) = EntryView::decode(&lying.entries[state.at]) else { panic!("a STATE entry") };
    (view.state_root, view.slot_count) =
        (atlas_dataplane::crypto::hash::merkle_root(older.leaves.iter().map(Vec::as_slice)), older.leaves.len() as u64);
    lying.entries[state.at].clear();
    atlas_dataplane::history::entry::put_state(&mut lying.entries[state.at], &view);
    let lying = State { history: lying, ..older };
    let (proof, receipt) = (lying.proof(slot), lying.history.receipt(touched));
    shown(&[("state", &proof)]);
    let error = refused(&[("state", &proof), ("receipt", &receipt)]).to_string();
    assert!(error.starts_with(&format!("receipt: changes gate/a open at {touched}.")), "{error}");
}

#[test]
fn single_files_fail_for_their_own_reasons() {
    let state = State::new();
    let receipt = state.history.receipt(40);
    let fails = |text: &str, says: &str| {
        let error = refused(&[("file", text)]).to_string();
        assert!(error.starts_with("file: ") && error.contains(says), "{error}");
    };
    fails(&receipt.replacen("index 40", "index 41", 1), "the path of entry 41 does not end in the root");
    fails(&receipt.replacen("index 40", "index 040", 1), "line 3 is not `index`");
    fails(&receipt.replacen("@v1", "@v2", 1), "line 1 is not c2sp.org/tlog-proof@v1");
    fails(&receipt.replacen("extra ", "extra A", 1), "line 2 is not `extra`");
    fails(&receipt[..receipt.len() - 2], "the last line does not end with a newline");
    fails("", "no empty line followed by signatures");
    let weak = receipt.lines().collect::<Vec<_>>();
    let weak = format!("{}\n", weak[..weak.len() - 2].join("\n"));
    fails(&weak, "needs 3, and 2 cosigned");
    let slot = state.slot("gate/a", "open");
    let mut other = State { leaves: state.leaves.clone(), history: state.history.clone(), at: state.at };
    let last = other.leaves[slot].len() - 1;
    other.leaves[slot][last] ^= 1;
    fails(&other.proof(slot), "does not end in the state root");
    fails(&state.absence(&[0, 2]), "the slots leave no gap");
}
