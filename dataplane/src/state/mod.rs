//! What an application is: the seam between agreed operations and the state that they change.
//!
//! # Contract
//! * **Deterministic.** [`Application::execute`] depends on nothing but the state, the context and the operation's bytes:
//!   no clock, no random source, no thread, no iteration order of a hash map. Replicas that executed the same operations
//!   hold states with equal roots. `check` depends on the operation's bytes alone.
//! * **All or nothing.** An operation that is refused (a code other than [`Code::DONE`]) changes nothing and reports no
//!   change; its code stands in the history like any other outcome.
//! * **Hostile input.** Operations and queries come from clients; snapshots may come from a lying peer. None of them panics
//!   or makes the application take memory beyond its limits. A snapshot is believed only when its roots match.
//! * **Never rolled back.** Only committed operations are executed.
//!
//! # Matching reads
//! Replicas answer a query at different positions. A client takes an answer on f+1 equal (code, `valid_from`, body); so
//! [`Answer::valid_from`] names the last entry that touched anything the answer depends on and the body says nothing
//! about the position at which it was asked.
//!
//! # Roots
//! The state is a list of slots, numbered from 0 in the order of their first write and never given up. The state root is
//! the RFC 6962 root over the slot leaves in that order ([`tree::DenseTree`]); the absence root is the one over the same
//! leaves sorted by name, so that two neighbours prove that nothing lies between them. Both hash only what changed.
//!
//! Sources: RFC 6962 2.1; Castro & Liskov, "Practical Byzantine Fault Tolerance and Proactive Recovery" (TOCS 2002), 4.5.

use std::borrow::Cow;
use std::fmt::{self, Write as _};
use std::io;

use crate::types::{Code, Digest, EntryIndex, Position, PublicKey, TimeMs};

pub mod tree;

/// The longest [`Outcome::detail`], in bytes of UTF-8.
pub const MAX_DETAIL: usize = 256;

/// The entries of the history, as queries see them. The history store implements it.
pub trait Entries {
    /// The number of entries.
    fn size(&self) -> EntryIndex;

    /// The bytes of one entry, borrowed where they are mapped; `None` where there is no such entry.
    fn entry(&self, index: EntryIndex) -> Option<Cow<'_, [u8]>>;

    /// The first entry whose agreed time is `time_ms` or later; `size()` where there is none.
    fn first_at_or_after(&self, time_ms: TimeMs) -> EntryIndex;

    /// Entries from `first` on, each with its length (u32, little-endian) before it, until there are `bytes` or more, or the next
    /// one is `end`; and how many they are. `None` where there is none, or one of them cannot be read.
    fn run(&self, first: EntryIndex, end: EntryIndex, bytes: usize) -> Option<(Vec<u8>, u64)> {
        run_of(self, first, end, bytes)
    }
}

/// [`Entries::run`], entry by entry.
pub(crate) fn run_of<E: Entries + ?Sized>(
    entries: &E,
    first: EntryIndex,
    end: EntryIndex,
    bytes: usize,
) -> Option<(Vec<u8>, u64)> {
    let mut run = Vec::with_capacity(bytes);
    let mut next = first;
    while next < end && run.len() < bytes {
        let entry = entries.entry(next)?;
        run.extend_from_slice(&(entry.len() as u32).to_le_bytes());
        run.extend_from_slice(&entry);
        next += 1;
    }
    (next > first).then_some((run, next - first))
}

/// What the origin of an operation may do, judged from replicated roles at its position.
pub trait Access {
    /// Whether the origin may write this property of this twin.
    fn may_write(&self, twin: &str, property: &str) -> bool;

    /// Whether whoever changes this property of this twin must say why. By default nobody must.
    fn needs_reason(&self, _twin: &str, _property: &str) -> bool {
        false
    }
}

impl<F: Fn(&str, &str) -> bool> Access for F {
    fn may_write(&self, twin: &str, property: &str) -> bool {
        self(twin, property)
    }
}

/// The circumstances of an operation: agreed by all replicas.
#[derive(Clone, Copy)]
pub struct OperationContext<'a> {
    /// Agreed time.
    pub time_ms: TimeMs,
    /// Where the operation stands in the order.
    pub position: Position,
    /// Who signed it.
    pub origin: &'a PublicKey,
    /// What the origin may do.
    pub access: &'a dyn Access,
}

/// One changed slot, as the history's outcome has it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Change {
    /// Which path of the operation, by the application's numbering.
    pub path: u64,
    /// The slot's revision after the change; the first write makes it 1.
    pub revision: u64,
    /// The entry that wrote the slot before; the operation's own entry where an earlier request of it did.
    pub previous: Option<EntryIndex>,
}

/// The result of an operation. Code and changes go into the history, the detail only to the client.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outcome {
    /// [`Code::DONE`], or why the operation was refused.
    pub code: Code,
    /// What changed, in the order of the change; empty where refused.
    pub changes: Vec<Change>,
    /// The reason of a refusal, for people; at most [`MAX_DETAIL`] bytes, equal on all replicas.
    pub detail: String,
}

impl Default for Outcome {
    fn default() -> Self {
        Self { code: Code::DONE, changes: Vec::new(), detail: String::new() }
    }
}

impl Outcome {
    /// Makes it a fresh `DONE` without changes; keeps its buffers.
    pub fn clear(&mut self) {
        self.code = Code::DONE;
        self.changes.clear();
        self.detail.clear();
    }

    /// Makes it a refusal: no changes, `detail` cut at a character boundary to [`MAX_DETAIL`] bytes.
    pub fn refuse(&mut self, code: Code, detail: fmt::Arguments<'_>) {
        self.clear();
        self.code = code;
        // `Cut` ends the formatting by an error once it is full, which is no failure.
        let _ = Cut(&mut self.detail).write_fmt(detail);
    }
}

struct Cut<'a>(&'a mut String);

impl fmt::Write for Cut<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = MAX_DETAIL - self.0.len().min(MAX_DETAIL);
        let end = text.floor_char_boundary(room);
        self.0.push_str(&text[..end]);
        if end < text.len() { Err(fmt::Error) } else { Ok(()) }
    }
}

/// The answer to a query.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Answer {
    /// The highest entry that touched anything the answer depends on; 0 where nothing did.
    pub valid_from: EntryIndex,
    /// The answer, in the application's encoding.
    pub body: Vec<u8>,
    /// There is nothing to tell yet: a replica may hold the query and ask again when the history has grown.
    pub wait: bool,
}

/// A slot's leaf and where it stands in a tree.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Located {
    /// Its place in the tree.
    pub index: u64,
    /// The bytes of the leaf.
    pub leaf: Vec<u8>,
    /// From the leaf to the root, lowest sibling first.
    pub path: Vec<Digest>,
}

/// Why a snapshot cannot be restored; the state stays as it was.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum StateError {
    /// The bytes are not a snapshot of this application.
    #[error("snapshot is malformed at byte {at}: {what}")]
    Malformed {
        /// Offset in the snapshot.
        at: usize,
        /// What is wrong there.
        what: &'static str,
    },
    /// The snapshot is larger than this application's limits permit.
    #[error("snapshot has more than {limit} slots; the cluster's limit is lower here than where it was taken")]
    TooLarge {
        /// The most slots that this application keeps.
        limit: u64,
    },
}

/// A slot in memory is not what its leaf was made of: something beside the application changed it.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "slot {slot} of the state ({name}) was changed in memory by something else than an operation: it hashes to {now}, and its last \
     change made {then}"
)]
pub struct Altered {
    /// The slot's number.
    pub slot: u64,
    /// How people call it.
    pub name: String,
    /// The leaf as the slot is now.
    pub leaf: Vec<u8>,
    /// The hash of that.
    pub now: Digest,
    /// The leaf's hash in the tree.
    pub then: Digest,
}

/// A deterministic state machine. See the module's contract.
pub trait Application: Send {
    /// Checks syntax and limits of an operation before it is ordered, without looking at the state. Gives the largest
    /// number of changes that executing it can report, or the code of the refusal.
    fn check(&self, operation: &[u8]) -> Result<usize, Code>;

    /// Executes one operation. `outcome` is cleared first; its buffers are reused.
    fn execute(&mut self, context: &OperationContext<'_>, operation: &[u8], outcome: &mut Outcome);

    /// These operations are executed next, one after the other: a store whose slots lie far apart in memory looks them up all at once
    /// here, which takes little longer than one, where each alone would wait for the memory. Changes nothing that anybody sees.
    fn foresee<'a>(&mut self, _operations: impl Iterator<Item = &'a [u8]>)
    where
        Self: Sized,
    {
    }

    /// Answers a query from the state and, for what lies back, from the history. `answer` is overwritten. Work and body
    /// are bounded by the application.
    fn query(&self, history: &dyn Entries, query: &[u8], answer: &mut Answer) -> Code;

    /// The number of slots, deleted ones included.
    fn slot_count(&self) -> u64;

    /// The root over the slots by number.
    fn state_root(&mut self) -> Digest;

    /// The root over the slots by name.
    fn absence_root(&mut self) -> Digest;

    /// The slot of this name in the tree of the [state root](Application::state_root) that was asked for last, with nothing executed since.
    ///
    /// # Errors
    /// The code of the refusal: no name, no such slot, or no slots that have names.
    fn locate(&self, _name: &[u8]) -> Result<Located, Code> {
        Err(Code::BAD_QUERY)
    }

    /// The slots between which this name would stand in the tree of the [absence root](Application::absence_root) that was asked for
    /// last, with nothing executed since: one or two neighbours, or none where there is no slot.
    ///
    /// # Errors
    /// The code of the refusal: no name, a slot that is there, or no slots that have names.
    fn locate_absent(&self, _name: &[u8]) -> Result<Vec<Located>, Code> {
        Err(Code::BAD_QUERY)
    }

    /// Holds so many slots against the leaves under the [state root](Application::state_root), going on where the last call ended and
    /// beginning anew behind the last slot. Roots are made of what operations changed, so memory that fails, or somebody who
    /// writes into it, is noticed here. Without slots in memory there is nothing to do.
    ///
    /// # Errors
    /// The first slot that is not what its leaf was made of.
    fn scrub(&mut self, _slots: usize) -> Result<(), Box<Altered>> {
        Ok(())
    }

    /// The state as it is now, to be written later by another thread while this one goes on executing. It copies little: what
    /// it shares with the state is copied when that changes.
    fn freeze(&self) -> Box<dyn Frozen>;

    /// Writes the whole state at once. Equal states give equal bytes.
    ///
    /// # Errors
    /// Those of `out`, which holds a part of the state then.
    fn snapshot(&self, out: &mut dyn io::Write) -> io::Result<()> {
        self.freeze().write(out)
    }

    /// Replaces the state by a snapshot. The caller compares the roots with certified ones before it serves.
    ///
    /// # Errors
    /// The bytes are no snapshot, or one beyond this application's limits: the state stays as it was.
    fn restore(&mut self, bytes: &[u8]) -> Result<(), StateError>;
}

/// The state of an application as it was when it was frozen.
pub trait Frozen: Send {
    /// Writes the whole state. Equal states give equal bytes. In pieces that need no gathering.
    ///
    /// # Errors
    /// Those of `out`, which holds a part of the state then.
    fn write(&self, out: &mut dyn io::Write) -> io::Result<()>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_detail_is_cut_at_a_character() {
        let mut outcome =
            Outcome { changes: vec![Change { path: 0, revision: 1, previous: None }], ..Outcome::default() };
        outcome.refuse(Code::FORBIDDEN, format_args!("x{}tail", "é".repeat(200)));
        assert_eq!(outcome.detail, format!("x{}", "é".repeat(127)));
        assert!(outcome.changes.is_empty());
        outcome.refuse(Code::FORBIDDEN, format_args!("{} {}", 1, "two"));
        assert_eq!(outcome.detail, "1 two");
    }
}
