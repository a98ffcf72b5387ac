use super::*;
use crate::cluster::policy::{TYPE_COSIGNATURE, TYPE_LOG, cosigner_name, vkey};
use crate::crypto::SecretKey;
use crate::crypto::hash::{merkle_path, root_by_definition};
use crate::history::entry::put_state;
use crate::history::note::{CheckpointBody, assemble, cosignature_line, cosignature_message, log_line};
use crate::history::proof::{inclusion, root};
use crate::types::ReplicaId;

const ORIGIN: &str = "twin.example/plant-7";
const SLOTS: [(&str, &str); 3] = [("plant/pump", "temp"), ("plant/fan", "speed"), ("plant/pump", "on")];

fn key(seed: u8) -> SecretKey {
    SecretKey::from_seed(&[seed; 32])
}

fn policy() -> Policy {
    let mut text = format!("log {}\n", vkey(ORIGIN, TYPE_LOG, &key(100).public()));
    for id in 0..4 {
        let name = cosigner_name(ORIGIN, ReplicaId(id));
        text += &format!("witness r{id} {}\n", vkey(&name, TYPE_COSIGNATURE, &key(id).public()));
    }
    Policy::parse(format!("{text}group g 3 r0 r1 r2 r3\nquorum g\n").as_bytes()).expect("a policy")
}

fn checkpoint(leaves: &[Digest], signers: u8) -> String {
    let root = root(leaves, leaves.len() as u64).expect("all are there");
    let body = CheckpointBody { origin: ORIGIN.to_owned(), size: leaves.len() as u64, root };
    let log = log_line(ORIGIN, &key(100).public(), &key(100).sign(body.to_string().as_bytes()));
    let cosign = |id: u8| {
        let signature = key(id).sign(cosignature_message(&body, 1_700_000_000).as_bytes());
        cosignature_line(ORIGIN, ReplicaId(id), &key(id).public(), 1_700_000_000, &signature)
    };
    assemble(&body, &[log], &(0..signers).map(cosign).collect::<Vec<_>>()).expect("a checkpoint")
}

fn leaf(slot: u64) -> Vec<u8> {
    let (twin, property) = SLOTS[slot as usize];
    let mut bytes = Vec::new();
    let mut out = Writer(&mut bytes);
    out.array(12).text("atlas-slot/1").uint(slot).text(twin).text(property).uint(1).uint(2).uint(0).int(0).null();
    out.bytes(&[9; 32]).uint(0).bool(true);
    bytes
}

/// The history of a few entries, the last a STATE entry of [`SLOTS`], and their leaf hashes.
struct History {
    entries: Vec<Vec<u8>>,
    leaves: Vec<Digest>,
    slots: Vec<Digest>,
    /// Slots by name.
    sorted: Vec<u64>,
}

fn history(has_absence_root: bool, slots: u64) -> History {
    let slots: Vec<Digest> = (0..slots).map(|slot| leaf_hash(&leaf(slot))).collect();
    let mut sorted: Vec<u64> = (0..slots.len() as u64).collect();
    sorted.sort_by_key(|slot| SLOTS[*slot as usize]);
    let by_name: Vec<Digest> = sorted.iter().map(|slot| slots[*slot as usize]).collect();
    let state = StateView {
        sequence: 4,
        time_ms: 5,
        slot_count: slots.len() as u64,
        state_root: root_by_definition(&slots),
        previous: None,
        absence_root: has_absence_root.then(|| root_by_definition(&by_name)),
    };
    let mut entries: Vec<Vec<u8>> = (0..6u8).map(|i| vec![i]).collect();
    let mut entry = Vec::new();
    put_state(&mut entry, &state);
    entries.push(entry);
    let leaves = entries.iter().map(|entry| leaf_hash(entry)).collect();
    History { entries, leaves, slots, sorted }
}

impl History {
    fn state_entry(&self) -> &[u8] {
        self.entries.last().expect("a STATE entry")
    }

    fn proof(&self, payload: &Payload<'_>) -> TlogProof {
        let path = inclusion(self.leaves.as_slice(), 6, 7).expect("it is there");
        let text = render(Some(&payload.encode()), 6, &path, &checkpoint(&self.leaves, 3));
        let proof = TlogProof::parse(text.as_bytes()).expect("what we render we read");
        assert_eq!(proof.render(), text);
        proof
    }

    fn slot_path(&self, slot: u64) -> Vec<Digest> {
        merkle_path(&self.slots, slot as usize).expect("a slot")
    }

    fn absence(&self, leaves: &[Vec<u8>], indices: &[u64]) -> TlogProof {
        let by_name: Vec<Digest> = self.sorted.iter().map(|slot| self.slots[*slot as usize]).collect();
        let neighbour = |(index, leaf): (&u64, &'_ Vec<u8>)| {
            let path = merkle_path(&by_name, *index as usize).expect("a slot");
            (*index, leaf.clone(), path)
        };
        let parts: Vec<_> = indices.iter().zip(leaves).map(neighbour).collect();
        let neighbours = parts.iter().map(|(index, leaf, path)| Neighbour { index: *index, leaf, path: path.clone() });
        self.proof(&Payload::Absence { entry: self.state_entry(), neighbours: neighbours.collect() })
    }

    /// The absence proof by the slots at these places in the order of names.
    fn gap(&self, indices: &[u64]) -> TlogProof {
        let leaves: Vec<_> = indices.iter().map(|index| leaf(self.sorted[*index as usize])).collect();
        self.absence(&leaves, indices)
    }
}

fn refused(proof: &TlogProof) -> ProofFault {
    match proof.check(&policy()) {
        Err(fault) => fault,
        Ok((_, claim)) => panic!("{claim:?}"),
    }
}

#[test]
fn a_receipt_shows_its_entry() {
    let history = history(true, 3);
    let proof = history.proof(&Payload::Receipt { entry: history.state_entry() });
    let (certified, claim) = proof.check(&policy()).map(|(c, claim)| (c, format!("{claim:?}"))).expect("it holds");
    assert_eq!((certified.size, certified.cosigned.len()), (7, 3));
    assert!(claim.starts_with("Entry"), "{claim}");
    let proof = history.proof(&Payload::Receipt { entry: &history.entries[3] });
    assert_eq!(refused(&proof), ProofFault::Path { index: 6, size: 7 });
}

#[test]
fn a_state_proof_shows_a_slot() {
    let history = history(false, 3);
    let (leaf_1, leaf_2) = (leaf(1), leaf(2));
    let of = |entry, slot, leaf, path| history.proof(&Payload::State { entry, slot, leaf, path });
    let proof = of(history.state_entry(), 1, &leaf_1, history.slot_path(1));
    match proof.check(&policy()) {
        Ok((_, Claim::Slot { leaf, .. })) => assert_eq!(leaf.name(), SLOTS[1]),
        other => panic!("{other:?}"),
    }
    let count = 3;
    let proof = of(history.state_entry(), 1, &leaf_2, history.slot_path(1));
    assert_eq!(refused(&proof), ProofFault::Slot { slot: 1, count });
    let proof = of(history.state_entry(), 3, &leaf_1, history.slot_path(1));
    assert_eq!(refused(&proof), ProofFault::Slot { slot: 3, count });
}

#[test]
fn a_leaf_of_another_number_is_refused_though_its_path_holds() {
    let mut history = history(false, 3);
    // A liar's state: the leaf of slot 2 stands at place 1.
    history.slots[1] = leaf_hash(&leaf(2));
    let state = StateView {
        sequence: 4,
        time_ms: 5,
        slot_count: 3,
        state_root: root_by_definition(&history.slots),
        previous: None,
        absence_root: None,
    };
    let mut entry = Vec::new();
    put_state(&mut entry, &state);
    history.leaves[6] = leaf_hash(&entry);
    history.entries[6] = entry;
    let proof = Payload::State { entry: history.state_entry(), slot: 1, leaf: &leaf(2), path: history.slot_path(1) };
    assert_eq!(refused(&history.proof(&proof)), ProofFault::OtherSlot { slot: 1, found: 2 });
    let proof = history.proof(&Payload::Absence { entry: history.state_entry(), neighbours: Vec::new() });
    assert_eq!(refused(&proof), ProofFault::NoAbsenceRoot);
}

#[test]
fn gaps_cover_what_lies_between() {
    let history = history(true, 3);
    let gap = |indices: &[u64]| match history.gap(indices).check(&policy()) {
        Ok((_, Claim::Absent { gap, .. })) => move_out(&gap),
        other => panic!("{other:?}"),
    };
    // By name: plant/fan speed, plant/pump on, plant/pump temp.
    let first = gap(&[0]);
    assert!(first("plant/boiler", "x") && first("plant/fan", "a") && !first("plant/fan", "speed"));
    let last = gap(&[2]);
    assert!(
        last("plant/pump", "z") && last("plant/q", "a") && !last("plant/pump", "temp") && !last("plant/pump", "on")
    );
    let between = gap(&[0, 1]);
    assert!(between("plant/fan", "t") && between("plant/g", "x") && !between("plant/pump", "on"));
    assert_eq!(refused(&history.gap(&[1])), ProofFault::NoGap);
    assert_eq!(refused(&history.gap(&[0, 2])), ProofFault::NoGap);
    assert_eq!(refused(&history.gap(&[1, 0])), ProofFault::NoGap);
    assert_eq!(refused(&history.gap(&[])), ProofFault::NoGap);
    assert_eq!(refused(&history.absence(&[leaf(0)], &[0])), ProofFault::Neighbour { index: 0, count: 3 });
}

/// The gap as a question, free of the proof that it was read from.
fn move_out(gap: &Gap<'_>) -> impl Fn(&str, &str) -> bool + use<> {
    let own = |name: Option<(&str, &str)>| name.map(|(twin, property)| (twin.to_owned(), property.to_owned()));
    let (after, before) = (own(gap.after), own(gap.before));
    move |twin, property| {
        let name = |name: &'_ Option<(String, String)>| name.clone();
        let (after, before) = (name(&after), name(&before));
        let gap = Gap {
            after: after.as_ref().map(|(twin, property)| (twin.as_str(), property.as_str())),
            before: before.as_ref().map(|(twin, property)| (twin.as_str(), property.as_str())),
        };
        gap.covers(twin, property)
    }
}

#[test]
fn an_empty_state_has_nothing() {
    let history = history(true, 0);
    match history.gap(&[]).check(&policy()) {
        Ok((_, Claim::Absent { gap, .. })) => assert!(gap.covers("any/twin", "x")),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_proof_is_worth_what_its_checkpoint_is() {
    let history = history(true, 3);
    let path = inclusion(history.leaves.as_slice(), 6, 7).expect("it is there");
    let extra = Payload::Receipt { entry: history.state_entry() }.encode();
    let proof = |extra: Option<&[u8]>, index, checkpoint: &str| {
        TlogProof::parse(render(extra, index, &path, checkpoint).as_bytes()).expect("well-formed")
    };
    let weak = proof(Some(&extra), 6, &checkpoint(&history.leaves, 2));
    assert!(matches!(refused(&weak), ProofFault::Checkpoint(CheckError::Quorum { found: 2, .. })));
    let good = checkpoint(&history.leaves, 4);
    assert_eq!(refused(&proof(None, 6, &good)), ProofFault::NoExtra);
    assert_eq!(refused(&proof(Some(&extra), 7, &good)), ProofFault::Beyond { index: 7, size: 7 });
    assert_eq!(refused(&proof(Some(&extra), 5, &good)), ProofFault::Path { index: 5, size: 7 });
    assert!(matches!(refused(&proof(Some(&extra[1..]), 6, &good)), ProofFault::Extra(_)));
    let not_a_state = Payload::State { entry: &history.entries[3], slot: 0, leaf: &[], path: Vec::new() }.encode();
    let path = inclusion(history.leaves.as_slice(), 3, 7).expect("it is there");
    let proof = TlogProof::parse(render(Some(&not_a_state), 3, &path, &good).as_bytes()).expect("well-formed");
    assert!(matches!(refused(&proof), ProofFault::Entry(_)));
}

#[test]
fn each_fault_has_its_own_message() {
    let history = history(true, 3);
    let text = history.proof(&Payload::Receipt { entry: history.state_entry() }).render();
    let lines: Vec<&str> = text.split('\n').collect();
    let with = |number: usize, line: &str| {
        let mut lines = lines.clone();
        lines[number - 1] = line;
        TlogProof::parse(lines.join("\n").as_bytes()).expect_err(line)
    };
    assert_eq!(TlogProof::parse(&vec![b'\n'; MAX_PROOF + 1]), Err(ProofError::TooLong(MAX_PROOF + 1)));
    assert_eq!(TlogProof::parse(b"c2sp\xff"), Err(ProofError::Utf8(4)));
    assert_eq!(TlogProof::parse(b""), Err(ProofError::NoCheckpoint));
    assert_eq!(with(1, "c2sp.org/tlog-proof@v2"), ProofError::Header);
    for extra in ["extra", "extra *", "extra AA", "extra  AA=="] {
        assert_eq!(with(2, extra), ProofError::Extra, "{extra}");
    }
    for index in ["index 06", "index", "index -1", "index 9223372036854775807", "index 6 ", "Index 6"] {
        assert_eq!(with(3, index), ProofError::Index { line: 3 }, "{index}");
    }
    assert_eq!(with(4, "AAAA"), ProofError::Hash { line: 4 });
    assert_eq!(with(7, "x y"), ProofError::Checkpoint { after: 6, fault: NoteError::Origin });
    let bloated = text.replacen("index 6\n", &format!("index 6\n{}", format!("{}\n", lines[3]).repeat(MAX_PATH)), 1);
    assert_eq!(TlogProof::parse(bloated.as_bytes()), Err(ProofError::PathTooLong { line: 4 + MAX_PATH }));
    let error = TlogProof::parse(text.trim_end().as_bytes());
    assert_eq!(error, Err(ProofError::Checkpoint { after: 6, fault: NoteError::Unterminated }));
}
