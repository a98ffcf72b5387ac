//! Proof files: C2SP tlog-proof v1 with what Atlas puts into `extra` (FORMATS.md, "Tiles, receipts, exports").
//!
//! ```text
//! c2sp.org/tlog-proof@v1
//! extra <base64>
//! index <number of the entry>
//! <base64 hash>            one a line, the leaf's sibling first
//!
//! <checkpoint>
//! ```
//!
//! `extra` is deterministic CBOR; entries, slot leaves and path hashes in it are byte strings:
//! * receipt `[0, entry]`: the entry at the index stands in the history;
//! * state proof `[1, state_entry, slot, slot_leaf, [path ...]]`: the entry at the index is a STATE entry, and `slot_leaf` is leaf
//!   number `slot` under its state root: what a property was when that entry was written;
//! * absence proof `[2, state_entry, [[sorted_index, slot_leaf, [path ...]] ...]]`: the entry at the index is a STATE entry, and the
//!   leaves stand under its absence root, which sorts the slots by (twin, property). No slot: an empty state. Index 0 alone:
//!   nothing lies before it. The last index alone: nothing lies behind it. Two neighbours: nothing lies between.
//!
//! Reading is strict and bounded; a file that is accepted renders to the same bytes.

use data_encoding::BASE64;

use super::entry::{EntryError, EntryView, StateView};
use super::note::{Note, NoteError, parse_base64, parse_digest, parse_number};
use super::proof::MAX_PATH;
use super::slot_leaf::SlotLeaf;
use super::tlog_policy::{Certified, CheckError, Policy};
use super::tree::MAX_SIZE;
use crate::cbor::{CborError, Reader, Writer};
use crate::crypto::hash::{leaf_hash, verify_path};
use crate::types::{Digest, EntryIndex};

/// Longest proof file, bytes: the largest entry and slot leaves in base64, paths and a checkpoint. Beyond: refused.
pub const MAX_PROOF: usize = 1 << 20;

/// The first line.
const HEADER: &str = "c2sp.org/tlog-proof@v1";

const RECEIPT: u64 = 0;
const STATE: u64 = 1;
const ABSENCE: u64 = 2;

/// A proof file, well-formed; nothing is proved before [`TlogProof::verify`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TlogProof {
    /// What the application put there, decoded from base64.
    pub extra: Option<Vec<u8>>,
    /// Which entry.
    pub index: EntryIndex,
    /// Its inclusion path, lowest sibling first.
    pub path: Vec<Digest>,
    /// The checkpoint under whose root it ends.
    pub note: Note,
}

/// The file: `checkpoint` is a note's text.
pub fn render(extra: Option<&[u8]>, index: EntryIndex, path: &[Digest], checkpoint: &str) -> String {
    let mut text = format!("{HEADER}\n");
    if let Some(extra) = extra {
        text.push_str("extra ");
        BASE64.encode_append(extra, &mut text);
        text.push('\n');
    }
    text.push_str(&format!("index {index}\n"));
    for hash in path {
        BASE64.encode_append(&hash.0, &mut text);
        text.push('\n');
    }
    text.push('\n');
    text.push_str(checkpoint);
    text
}

impl TlogProof {
    /// Reads a proof file.
    ///
    /// # Errors
    /// What breaks the format first, and where.
    pub fn parse(bytes: &[u8]) -> Result<Self, ProofError> {
        if bytes.len() > MAX_PROOF {
            return Err(ProofError::TooLong(bytes.len()));
        }
        let text = str::from_utf8(bytes).map_err(|error| ProofError::Utf8(error.valid_up_to()))?;
        let (head, checkpoint) = text.split_once("\n\n").ok_or(ProofError::NoCheckpoint)?;
        let mut lines = (1..).zip(head.split('\n')).peekable();
        if lines.next().is_none_or(|(_, line)| line != HEADER) {
            return Err(ProofError::Header);
        }
        let extra = match lines.next_if(|(_, line)| line.starts_with("extra")) {
            None => None,
            Some((_, line)) => {
                let base64 = line.strip_prefix("extra ").ok_or(ProofError::Extra)?;
                Some(parse_base64(base64).ok_or(ProofError::Extra)?)
            }
        };
        let (number, line) = lines.next().ok_or(ProofError::Index { line: 2 })?;
        let index = line.strip_prefix("index ").and_then(parse_number).filter(|index| *index < MAX_SIZE);
        let index = index.ok_or(ProofError::Index { line: number })?;
        let mut path = Vec::new();
        for (number, line) in lines {
            if path.len() == MAX_PATH {
                return Err(ProofError::PathTooLong { line: number });
            }
            path.push(parse_digest(line).ok_or(ProofError::Hash { line: number })?);
        }
        let first = head.bytes().filter(|byte| *byte == b'\n').count() + 2;
        let note =
            Note::parse(checkpoint.as_bytes()).map_err(|fault| ProofError::Checkpoint { after: first, fault })?;
        Ok(Self { extra, index, path, note })
    }

    /// The file again.
    pub fn render(&self) -> String {
        render(self.extra.as_deref(), self.index, &self.path, &self.note.to_string())
    }

    /// Checks that the entry whose leaf hash is given stands at the index, under a checkpoint that `policy` certifies.
    ///
    /// # Errors
    /// The checkpoint is not certified, or the path does not end in its root.
    pub fn verify(&self, leaf: &Digest, policy: &Policy) -> Result<Certified, ProofFault> {
        let certified = policy.check(&self.note)?;
        if self.index >= certified.size {
            return Err(ProofFault::Beyond { index: self.index, size: certified.size });
        }
        if !verify_path(leaf, self.index, certified.size, &self.path, &certified.root) {
            return Err(ProofFault::Path { index: self.index, size: certified.size });
        }
        Ok(certified)
    }

    /// Reads `extra` and checks everything that the file claims.
    ///
    /// # Errors
    /// The first claim that does not hold.
    pub fn check(&self, policy: &Policy) -> Result<(Certified, Claim<'_>), ProofFault> {
        let extra = self.extra.as_deref().ok_or(ProofFault::NoExtra)?;
        let payload = Payload::decode(extra).map_err(ProofFault::Extra)?;
        let certified = self.verify(&leaf_hash(payload.entry()), policy)?;
        let view = EntryView::decode(payload.entry()).map_err(ProofFault::Entry)?;
        let claim = match (payload, view) {
            (Payload::Receipt { entry }, view) => Claim::Entry { entry, view },
            (Payload::State { slot, leaf, path, .. }, EntryView::State(state)) => {
                Claim::Slot { leaf: check_slot(&state, slot, leaf, &path)?, state }
            }
            (Payload::Absence { neighbours, .. }, EntryView::State(state)) => {
                Claim::Absent { gap: check_gap(&state, &neighbours)?, state }
            }
            _ => return Err(ProofFault::NotAState),
        };
        Ok((certified, claim))
    }
}

/// What a proof file that holds has shown.
#[derive(Clone, Debug)]
pub enum Claim<'a> {
    /// An entry of the history.
    Entry {
        /// Its bytes.
        entry: &'a [u8],
        /// What it says.
        view: EntryView<'a>,
    },
    /// A property at a STATE entry.
    Slot {
        /// The property.
        leaf: SlotLeaf<'a>,
        /// The STATE entry.
        state: StateView,
    },
    /// Names that no property had at a STATE entry.
    Absent {
        /// Which ones.
        gap: Gap<'a>,
        /// The STATE entry.
        state: StateView,
    },
}

/// Names between two others, both excluded; `None` is the end of all names on that side.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Gap<'a> {
    /// (twin, property) before it.
    pub after: Option<(&'a str, &'a str)>,
    /// (twin, property) behind it.
    pub before: Option<(&'a str, &'a str)>,
}

impl Gap<'_> {
    /// Whether the name lies in it: there was no such property.
    pub fn covers(&self, twin: &str, property: &str) -> bool {
        let name = (twin, property);
        self.after.is_none_or(|after| after < name) && self.before.is_none_or(|before| name < before)
    }
}

fn check_slot<'a>(state: &StateView, slot: u64, bytes: &'a [u8], path: &[Digest]) -> Result<SlotLeaf<'a>, ProofFault> {
    if !verify_path(&leaf_hash(bytes), slot, state.slot_count, path, &state.state_root) {
        return Err(ProofFault::Slot { slot, count: state.slot_count });
    }
    let leaf = SlotLeaf::decode(bytes).map_err(ProofFault::Leaf)?;
    if leaf.slot == slot { Ok(leaf) } else { Err(ProofFault::OtherSlot { slot, found: leaf.slot }) }
}

fn check_gap<'a>(state: &StateView, neighbours: &[Neighbour<'a>]) -> Result<Gap<'a>, ProofFault> {
    let root = state.absence_root.ok_or(ProofFault::NoAbsenceRoot)?;
    let mut leaves = Vec::with_capacity(neighbours.len());
    for neighbour in neighbours {
        let hash = leaf_hash(neighbour.leaf);
        if !verify_path(&hash, neighbour.index, state.slot_count, &neighbour.path, &root) {
            return Err(ProofFault::Neighbour { index: neighbour.index, count: state.slot_count });
        }
        leaves.push((neighbour.index, SlotLeaf::decode(neighbour.leaf).map_err(ProofFault::Leaf)?.name()));
    }
    match *leaves.as_slice() {
        [] if state.slot_count == 0 => Ok(Gap { after: None, before: None }),
        [(0, name)] => Ok(Gap { after: None, before: Some(name) }),
        [(index, name)] if index + 1 == state.slot_count => Ok(Gap { after: Some(name), before: None }),
        [(left, after), (right, before)] if left + 1 == right && after < before => {
            Ok(Gap { after: Some(after), before: Some(before) })
        }
        _ => Err(ProofFault::NoGap),
    }
}

/// A slot in the order of names.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Neighbour<'a> {
    /// Its place in that order.
    pub index: u64,
    /// Its leaf.
    pub leaf: &'a [u8],
    /// Its path under the absence root.
    pub path: Vec<Digest>,
}

/// What Atlas puts into `extra`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Payload<'a> {
    /// The entry at the proof's index.
    Receipt {
        /// Its bytes.
        entry: &'a [u8],
    },
    /// A property at a STATE entry.
    State {
        /// The STATE entry's bytes.
        entry: &'a [u8],
        /// Number of the slot.
        slot: u64,
        /// Its leaf.
        leaf: &'a [u8],
        /// Its path under the state root.
        path: Vec<Digest>,
    },
    /// Names that no property had at a STATE entry.
    Absence {
        /// The STATE entry's bytes.
        entry: &'a [u8],
        /// None, one or two slots.
        neighbours: Vec<Neighbour<'a>>,
    },
}

impl<'a> Payload<'a> {
    /// The bytes for `extra`.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut out = Writer(&mut bytes);
        match self {
            Self::Receipt { entry } => {
                out.array(2).uint(RECEIPT).bytes(entry);
            }
            Self::State { entry, slot, leaf, path } => {
                out.array(5).uint(STATE).bytes(entry).uint(*slot).bytes(leaf);
                put_path(&mut out, path);
            }
            Self::Absence { entry, neighbours } => {
                out.array(3).uint(ABSENCE).bytes(entry).array(neighbours.len());
                for neighbour in neighbours {
                    out.array(3).uint(neighbour.index).bytes(neighbour.leaf);
                    put_path(&mut out, &neighbour.path);
                }
            }
        }
        bytes
    }

    /// Reads `extra`.
    ///
    /// # Errors
    /// The bytes are none of the three in deterministic CBOR, or have a path of more than [`MAX_PATH`] hashes.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, CborError> {
        let reader = &mut Reader::new(bytes);
        let payload = match (reader.array()?, reader.uint()?) {
            (2, RECEIPT) => Self::Receipt { entry: reader.bytes()? },
            (5, STATE) => {
                let (entry, slot, leaf) = (reader.bytes()?, reader.uint()?, reader.bytes()?);
                Self::State { entry, slot, leaf, path: read_path(reader)? }
            }
            (3, ABSENCE) => {
                let entry = reader.bytes()?;
                let before = *reader;
                let count = reader.array()?;
                if count > 2 {
                    return before.unexpected();
                }
                Self::Absence {
                    entry,
                    neighbours: (0..count).map(|_| read_neighbour(reader)).collect::<Result<_, _>>()?,
                }
            }
            _ => return Reader::new(bytes).unexpected(),
        };
        reader.finish()?;
        Ok(payload)
    }

    /// The bytes of the entry at the proof's index.
    pub fn entry(&self) -> &'a [u8] {
        match self {
            Self::Receipt { entry } | Self::State { entry, .. } | Self::Absence { entry, .. } => entry,
        }
    }
}

fn put_path(out: &mut Writer<'_>, path: &[Digest]) {
    out.array(path.len());
    for hash in path {
        out.bytes(&hash.0);
    }
}

fn read_neighbour<'a>(reader: &mut Reader<'a>) -> Result<Neighbour<'a>, CborError> {
    reader.array_of(3)?;
    Ok(Neighbour { index: reader.uint()?, leaf: reader.bytes()?, path: read_path(reader)? })
}

fn read_path(reader: &mut Reader<'_>) -> Result<Vec<Digest>, CborError> {
    let before = *reader;
    let count = reader.array()?;
    if count > MAX_PATH {
        return before.unexpected();
    }
    (0..count).map(|_| reader.bytes32().map(Digest)).collect()
}

/// Why bytes are not a proof file.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ProofError {
    /// Longer than any proof.
    #[error("a proof of {0} bytes; at most {MAX_PROOF} are read")]
    TooLong(usize),
    /// Not UTF-8.
    #[error("not UTF-8 at byte {0}")]
    Utf8(usize),
    /// Another first line.
    #[error("line 1 is not {HEADER}")]
    Header,
    /// The second line.
    #[error("line 2 is not `extra` and base64 with padding")]
    Extra,
    /// The line of the index.
    #[error("line {line} is not `index` and a decimal number without leading zeros")]
    Index {
        /// Its number, from 1.
        line: usize,
    },
    /// A line of the path.
    #[error("line {line} is no hash: 32 bytes in base64 with padding")]
    Hash {
        /// Its number, from 1.
        line: usize,
    },
    /// A path that no tree has.
    #[error("line {line}: a path has at most {MAX_PATH} hashes")]
    PathTooLong {
        /// Number of the line that is too many, from 1.
        line: usize,
    },
    /// No empty line.
    #[error("no empty line followed by a checkpoint")]
    NoCheckpoint,
    /// What follows is no checkpoint.
    #[error("the checkpoint, which begins behind line {after}: {fault}")]
    Checkpoint {
        /// Number of the empty line, from 1.
        after: usize,
        /// What is wrong in it; its lines are counted from 1.
        fault: NoteError,
    },
}

/// Why a proof does not hold.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ProofFault {
    /// The checkpoint.
    #[error("the checkpoint is not certified: {0}")]
    Checkpoint(#[from] CheckError),
    /// An entry that the checkpoint does not cover.
    #[error("the proof is of entry {index}, the checkpoint covers {size}")]
    Beyond {
        /// The proof's entry.
        index: EntryIndex,
        /// Entries under the checkpoint.
        size: u64,
    },
    /// The path ends elsewhere.
    #[error(
        "the path of entry {index} does not end in the root over {size} entries: the entry or the path was changed"
    )]
    Path {
        /// The proof's entry.
        index: EntryIndex,
        /// Entries under the checkpoint.
        size: u64,
    },
    /// Nothing to check but hashes.
    #[error("no extra line: it proves nothing by itself")]
    NoExtra,
    /// `extra` is none of ours.
    #[error("extra is neither receipt nor state proof nor absence proof: {0}")]
    Extra(CborError),
    /// What stands in the history is not an entry.
    #[error("{0}")]
    Entry(EntryError),
    /// A state proof of another entry.
    #[error("a proof about the state names an entry that is no STATE entry")]
    NotAState,
    /// The slot's path.
    #[error(
        "the path of slot {slot} does not end in the state root over {count} slots: the leaf or the path was changed"
    )]
    Slot {
        /// The slot.
        slot: u64,
        /// Slots under the root.
        count: u64,
    },
    /// What lies under a root is not a leaf.
    #[error("the slot's leaf: {0}")]
    Leaf(CborError),
    /// A leaf of another number.
    #[error("the proof is of slot {slot}, its leaf of slot {found}")]
    OtherSlot {
        /// What the proof says.
        slot: u64,
        /// What the leaf says.
        found: u64,
    },
    /// A STATE entry without it.
    #[error("this STATE entry has no absence root; one at a checkpoint of the state has")]
    NoAbsenceRoot,
    /// A neighbour's path.
    #[error("the path of sorted slot {index} does not end in the absence root over {count} slots")]
    Neighbour {
        /// Its place.
        index: u64,
        /// Slots under the root.
        count: u64,
    },
    /// Slots with others between them.
    #[error("the slots leave no gap: one is not the first or the last, or two are not neighbours")]
    NoGap,
}

#[cfg(test)]
#[path = "tlog_proof_tests.rs"]
mod tests;
