//! Single files of evidence: checkpoints, receipts, proofs of state and of absence, each by itself and then together.
//!
//! # Together
//! * Two certified checkpoints of one size have one root.
//! * A state proof and receipts: from the slot's last entry the changes are followed back, receipt by receipt: each names the entry
//!   that wrote the property before. So a value between two STATE entries is proved: by the leaf in the later one and the receipts
//!   of the entries back to it. A receipt that changes the property between the leaf's last entry and its STATE entry contradicts it.

use std::fmt;

use atlas_dataplane::cbor::Reader;
use atlas_dataplane::history::entry::{BundleView, EntryView};
use atlas_dataplane::history::note::{MAX_NOTE, Note, NoteError};
use atlas_dataplane::history::slot_leaf::SlotLeaf;
use atlas_dataplane::history::tlog_policy::{Certified, CheckError, Policy};
use atlas_dataplane::history::tlog_proof::{Claim, Gap, MAX_PROOF, ProofError, ProofFault, TlogProof};
use atlas_dataplane::types::{Code, EntryIndex, Position, PublicKey, TimeMs};
use atlas_dataplane::wire::bundle::Request;
use serde::Serialize;

use super::run::{Cosigner, cosigners};
use crate::twin::operation::MAX_TARGETS;
use crate::twin::value::ValueRef;
use crate::twin::view::{Action, OperationView};

/// Most files of one run. Beyond: refused.
pub const MAX_FILES: usize = 1_024;

/// Longest file, bytes.
pub const MAX_FILE: usize = if MAX_PROOF > MAX_NOTE { MAX_PROOF } else { MAX_NOTE };

/// What every proof file begins with.
const PROOF_START: &[u8] = b"c2sp.org/tlog-proof@";

/// Why a file proves nothing.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum VerifyFault {
    /// A checkpoint that is none.
    #[error("not a checkpoint (nor a proof, whose first line is c2sp.org/tlog-proof@v1): {0}")]
    Note(#[from] NoteError),
    /// A proof that is none.
    #[error("not a proof: {0}")]
    Proof(#[from] ProofError),
    /// A checkpoint that is not certified.
    #[error("the checkpoint is not certified: {0}")]
    Uncertified(#[from] CheckError),
    /// A proof that does not hold.
    #[error("{0}")]
    Fault(#[from] ProofFault),
    /// Two histories.
    #[error("certifies another root over {size} entries than {other}: two histories were certified")]
    Split {
        /// Size of both.
        size: u64,
        /// The other file.
        other: String,
    },
    /// A receipt that contradicts a state proof.
    #[error(
        "changes {twin} {property} at {at}, but {other} says that it was changed last at {last} when entry {state} was written"
    )]
    Contradiction {
        /// The twin.
        twin: String,
        /// The property.
        property: String,
        /// Where this receipt changes it.
        at: Position,
        /// The state proof.
        other: String,
        /// Its leaf's last change.
        last: Position,
        /// Its STATE entry.
        state: EntryIndex,
    },
    /// A receipt that should have the change that another file names, and has not.
    #[error("has no change of {twin} {property} to revision {revision}, which {other} names here")]
    NoChange {
        /// The twin.
        twin: String,
        /// The property.
        property: String,
        /// The revision.
        revision: u64,
        /// The file that names it.
        other: String,
    },
    /// A receipt of that change with another value.
    #[error("sets {twin} {property} to {written} at revision {revision}, but {other} says {stated}")]
    OtherValue {
        /// The twin.
        twin: String,
        /// The property.
        property: String,
        /// The revision.
        revision: u64,
        /// In the receipt.
        written: String,
        /// In the state proof.
        stated: String,
        /// The state proof.
        other: String,
    },
}

/// A fault and the file that it is in.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{file}: {fault}")]
pub struct VerifyError {
    /// Which file.
    pub file: String,
    /// What.
    pub fault: Box<VerifyFault>,
}

/// A file that holds: what it shows.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Shown {
    /// Which file.
    pub file: String,
    /// `checkpoint`, `receipt`, `state` or `absence`.
    pub kind: &'static str,
    /// The cluster.
    pub origin: String,
    /// Entries under the checkpoint.
    pub size: u64,
    /// Their root, in hexadecimal.
    pub root: String,
    /// The entry that is proved.
    pub entry: Option<EntryIndex>,
    /// Who cosigned.
    pub cosigned: Vec<Cosigner>,
    /// By when the checkpoint was there, seconds since the Unix epoch.
    pub certified_by_s: Option<u64>,
    /// What was proved, a sentence each.
    pub proved: Vec<String>,
}

/// A file and its content.
pub type Input = (String, Vec<u8>);

/// A file as it was read.
enum Parsed {
    Checkpoint(Note),
    Proof(TlogProof),
}

/// Checks files by themselves and together.
///
/// # Errors
/// The first file that does not hold, in their order.
pub fn verify(files: &[Input], policy: &Policy) -> Result<Vec<Shown>, VerifyError> {
    let parsed = files.iter().map(|(file, bytes)| parse(file, bytes)).collect::<Result<Vec<_>, _>>()?;
    let mut shown = Vec::with_capacity(files.len());
    let mut claims = Vec::new();
    for ((file, _), parsed) in files.iter().zip(&parsed) {
        let of = |fault: VerifyFault| VerifyError { file: file.clone(), fault: Box::new(fault) };
        match parsed {
            Parsed::Checkpoint(note) => {
                let certified = policy.check(note).map_err(|fault| of(fault.into()))?;
                let proved = format!("the history has {} entries with root {}", certified.size, certified.root);
                shown.push(show(file, "checkpoint", None, &certified, policy, vec![proved]));
            }
            Parsed::Proof(proof) => {
                let (certified, claim) = proof.check(policy).map_err(|fault| of(fault.into()))?;
                let (kind, proved) = describe(proof.index, &claim);
                shown.push(show(file, kind, Some(proof.index), &certified, policy, proved));
                claims.push((shown.len() - 1, proof.index, claim));
            }
        }
    }
    one_history(&shown)?;
    together(&claims, &mut shown)?;
    Ok(shown)
}

fn parse(file: &str, bytes: &[u8]) -> Result<Parsed, VerifyError> {
    let of = |fault: VerifyFault| VerifyError { file: file.to_owned(), fault: Box::new(fault) };
    if bytes.starts_with(PROOF_START) {
        return TlogProof::parse(bytes).map(Parsed::Proof).map_err(|fault| of(fault.into()));
    }
    Note::parse(bytes).map(Parsed::Checkpoint).map_err(|fault| of(fault.into()))
}

fn show(
    file: &str,
    kind: &'static str,
    entry: Option<EntryIndex>,
    certified: &Certified,
    policy: &Policy,
    proved: Vec<String>,
) -> Shown {
    Shown {
        file: file.to_owned(),
        kind,
        origin: certified.origin.clone(),
        size: certified.size,
        root: certified.root.to_string(),
        entry,
        cosigned: cosigners(certified),
        certified_by_s: certified.time_s(policy.liars()),
        proved,
    }
}

fn one_history(shown: &[Shown]) -> Result<(), VerifyError> {
    for (index, one) in shown.iter().enumerate() {
        let same = |other: &&Shown| other.origin == one.origin && other.size == one.size && other.root != one.root;
        if let Some(other) = shown[..index].iter().find(same) {
            let fault = VerifyFault::Split { size: one.size, other: other.file.clone() };
            return Err(VerifyError { file: one.file.clone(), fault: Box::new(fault) });
        }
    }
    Ok(())
}

/// Milliseconds since the Unix epoch as text.
fn time(time_ms: TimeMs) -> String {
    crate::cli::time::format_ms(time_ms).unwrap_or_else(|_| format!("{time_ms} ms"))
}

fn describe(index: EntryIndex, claim: &Claim<'_>) -> (&'static str, Vec<String>) {
    match claim {
        Claim::Entry { entry, view } => ("receipt", describe_entry(index, entry, view)),
        Claim::Slot { leaf, state } => {
            let value = leaf.value.map_or_else(|| "deleted".to_owned(), value_text);
            (
                "state",
                vec![format!(
                    "when entry {index} was written (sequence {}, {}) {} {} was {value}, revision {}, changed last at {} ({}) by {}",
                    state.sequence,
                    time(state.time_ms),
                    leaf.twin,
                    leaf.property,
                    leaf.revision,
                    leaf.position,
                    time(leaf.time_ms),
                    leaf.origin,
                )],
            )
        }
        Claim::Absent { gap, state } => (
            "absence",
            vec![format!(
                "when entry {index} was written (sequence {}, {}) {}",
                state.sequence,
                time(state.time_ms),
                GapText(gap),
            )],
        ),
    }
}

struct GapText<'a>(&'a Gap<'a>);

impl fmt::Display for GapText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0.after, self.0.before) {
            (None, None) => f.write_str("no property had ever been written"),
            (None, Some((twin, path))) => write!(f, "no property before {twin} {path} had ever been written"),
            (Some((twin, path)), None) => write!(f, "no property behind {twin} {path} had ever been written"),
            (Some((a, b)), Some((c, d))) => write!(f, "no property between {a} {b} and {c} {d} had ever been written"),
        }
    }
}

fn describe_entry(index: EntryIndex, bytes: &[u8], view: &EntryView<'_>) -> Vec<String> {
    let (sequence, at) = (view.sequence(), time(view.time_ms()));
    match view {
        EntryView::Config(config) => {
            vec![format!("entry {index} is the configuration of epoch {} (sequence {sequence}, {at})", config.epoch)]
        }
        EntryView::Key(_) => {
            vec![format!("entry {index} changes who may do what (a KEY entry, sequence {sequence}, {at})")]
        }
        EntryView::State(state) => vec![format!(
            "entry {index} is the root of the state, {} slots (sequence {sequence}, {at})",
            state.slot_count
        )],
        EntryView::Bundle(bundle) => {
            let who = bundle.origin().map_or_else(|| "an unknown key".to_owned(), |key: PublicKey| key.to_string());
            let mut lines = vec![format!(
                "entry {index} ({} bytes) is a bundle signed by {who}, agreed at sequence {sequence}, {at}",
                bytes.len()
            )];
            for (request, outcome) in bundle.outcomes().enumerate() {
                match outcome {
                    None => lines.push(format!("request {index}.{request} was not executed here")),
                    Some(outcome) if outcome.code != Code::DONE => {
                        lines.push(format!("request {index}.{request} was refused: {}", outcome.code));
                    }
                    Some(_) => {}
                }
            }
            lines.extend(changes(index, bundle, None).iter().map(ToString::to_string));
            lines
        }
    }
}

/// One change of a property, as a receipt shows it.
pub(crate) struct Written<'a> {
    /// Where.
    pub(crate) at: Position,
    /// `None` for a property that was deleted with its whole twin, which the receipt names by its slot.
    path: Option<&'a str>,
    twin: &'a str,
    /// `None` where it was deleted.
    value: Option<ValueRef<'a>>,
    revision: u64,
    /// The entry that wrote it before.
    pub(crate) previous: Option<EntryIndex>,
}

impl fmt::Display for Written<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.unwrap_or("(a property deleted with its twin)");
        write!(f, "request {} ", self.at)?;
        match self.value {
            Some(value) => write!(f, "set {} {path} to {value}", self.twin)?,
            None => write!(f, "deleted {} {path}", self.twin)?,
        }
        write!(f, ", revision {}", self.revision)?;
        self.previous.map_or(Ok(()), |entry| write!(f, "; written before in entry {entry}"))
    }
}

/// The changes of a bundle; where `slot` is given, its slots deleted with a whole twin are named by it and others left out.
fn changes<'a>(index: EntryIndex, bundle: &BundleView<'a>, slot: Option<&SlotLeaf<'a>>) -> Vec<Written<'a>> {
    let mut all = Vec::new();
    for (request, (bytes, outcome)) in (0u16..).zip(bundle.requests().zip(bundle.outcomes())) {
        let Some(outcome) = outcome.filter(|outcome| outcome.code == Code::DONE) else { continue };
        let decoded = Request::decode(bytes).and_then(|request| OperationView::decode(request.operation).ok());
        let Some(operation) = decoded else { continue };
        let at = Position { entry: index, request };
        for change in outcome.changes() {
            let number = usize::try_from(change.path).unwrap_or(usize::MAX);
            let (revision, previous) = (change.revision, change.previous);
            let whole = || operation.targets.iter().find(|target| matches!(target.action, Action::DeleteAll));
            let (twin, path, value) = match (operation.targets.get(number), slot) {
                (Some(target), _) => match target.action {
                    Action::Set { path, value, .. } => (target.twin, Some(path), Some(value)),
                    Action::Delete { path } => (target.twin, Some(path), None),
                    Action::DeleteAll => continue,
                },
                (None, Some(leaf)) if change.path == MAX_TARGETS as u64 + leaf.slot => {
                    (leaf.twin, Some(leaf.property), None)
                }
                (None, Some(_)) => continue,
                (None, None) => (whole().map_or("", |target| target.twin), None, None),
            };
            all.push(Written { at, path, twin, value, revision, previous });
        }
    }
    all
}

fn value_text(item: &[u8]) -> String {
    let reader = &mut Reader::new(item);
    ValueRef::decode(reader).map_or_else(|_| "a value of an unknown kind".to_owned(), |value| value.to_string())
}

/// Follows each state proof's property back through the receipts.
fn together(claims: &[(usize, EntryIndex, Claim<'_>)], shown: &mut [Shown]) -> Result<(), VerifyError> {
    let receipts: Vec<(usize, EntryIndex, &BundleView<'_>)> = claims
        .iter()
        .filter_map(|(file, index, claim)| match claim {
            Claim::Entry { view: EntryView::Bundle(bundle), .. } => Some((*file, *index, bundle)),
            _ => None,
        })
        .collect();
    for (file, state, claim) in claims {
        let Claim::Slot { leaf, .. } = claim else { continue };
        let name = shown[*file].file.clone();
        let of = |receipt: usize, fault: VerifyFault, shown: &[Shown]| VerifyError {
            file: shown[receipt].file.clone(),
            fault: Box::new(fault),
        };
        for (receipt, index, bundle) in &receipts {
            let own = own_changes(*index, bundle, leaf);
            let last = own.iter().map(|written| written.at).max();
            if let Some(at) = last.filter(|at| *at > leaf.position && *index < *state) {
                let (twin, property) = (leaf.twin.to_owned(), leaf.property.to_owned());
                let fault =
                    VerifyFault::Contradiction { twin, property, at, other: name, last: leaf.position, state: *state };
                return Err(of(*receipt, fault, shown));
            }
            let follows =
                own.iter().find(|written| written.at.entry > *state && written.previous == Some(leaf.position.entry));
            if let Some(written) = follows {
                let line = format!("it stayed so until {}: {written}", written.at);
                shown[*file].proved.push(line);
            }
        }
        let lines = chain(leaf, &name, &receipts).map_err(|(receipt, fault)| of(receipt, *fault, shown))?;
        shown[*file].proved.extend(lines);
    }
    Ok(())
}

pub(crate) fn own_changes<'a>(index: EntryIndex, bundle: &BundleView<'a>, leaf: &SlotLeaf<'a>) -> Vec<Written<'a>> {
    let is_own = |written: &Written<'_>| written.twin == leaf.twin && written.path == Some(leaf.property);
    changes(index, bundle, Some(leaf)).into_iter().filter(is_own).collect()
}

/// The changes of a property from a leaf backwards, as far as receipts are given.
fn chain(
    leaf: &SlotLeaf<'_>,
    name: &str,
    receipts: &[(usize, EntryIndex, &BundleView<'_>)],
) -> Result<Vec<String>, (usize, Box<VerifyFault>)> {
    let mut lines = Vec::new();
    let (mut revision, mut entry) = (leaf.revision, Some(leaf.position.entry));
    let (twin, property) = (leaf.twin.to_owned(), leaf.property.to_owned());
    // Each turn lowers the revision or ends.
    while revision > 0 {
        let found = receipts.iter().find(|(_, index, _)| Some(*index) == entry);
        let Some((receipt, index, bundle)) = found else { break };
        // Several requests of one entry may have changed it, the last one last.
        for written in own_changes(*index, bundle, leaf).iter().rev() {
            if written.revision != revision || revision == 0 {
                break;
            }
            if written.revision == leaf.revision {
                check_value(leaf, written, name).map_err(|fault| (*receipt, fault))?;
            }
            lines.push(format!("shown by its receipt: {written}"));
            revision -= 1;
            entry = written.previous;
        }
        if revision > 0 && entry == Some(*index) {
            let fault = VerifyFault::NoChange { twin, property, revision, other: name.to_owned() };
            return Err((*receipt, Box::new(fault)));
        }
        if revision == 0 {
            lines.push(format!("that was the first value of {twin} {property}"));
        }
    }
    Ok(lines)
}

fn check_value(leaf: &SlotLeaf<'_>, written: &Written<'_>, name: &str) -> Result<(), Box<VerifyFault>> {
    let stated = leaf.value.map(value_of);
    let same = match (written.value, stated) {
        (None, None) => true,
        (Some(written), Some(Some(stated))) => written.compare(stated).is_some_and(|order| order.is_eq()),
        _ => false,
    };
    let text = |value: Option<ValueRef<'_>>| value.map_or_else(|| "deleted".to_owned(), |value| value.to_string());
    if same && written.at == leaf.position {
        return Ok(());
    }
    Err(Box::new(VerifyFault::OtherValue {
        twin: leaf.twin.to_owned(),
        property: leaf.property.to_owned(),
        revision: leaf.revision,
        written: text(written.value),
        stated: text(stated.flatten()),
        other: name.to_owned(),
    }))
}

fn value_of(item: &[u8]) -> Option<ValueRef<'_>> {
    ValueRef::decode(&mut Reader::new(item)).ok()
}

/// Whether a twin's property is proved absent by one of the files.
///
/// # Errors
/// As [`verify`].
pub fn proves_absent(files: &[Input], policy: &Policy, twin: &str, property: &str) -> Result<bool, VerifyError> {
    for (file, bytes) in files {
        let Parsed::Proof(proof) = parse(file, bytes)? else { continue };
        let checked = proof.check(policy);
        match checked.map_err(|fault| VerifyError { file: file.clone(), fault: Box::new(fault.into()) })? {
            (_, Claim::Absent { gap, .. }) if gap.covers(twin, property) => return Ok(true),
            _ => {}
        }
    }
    Ok(false)
}
