//! What clients ask to be proved: certified heads, receipts of entries, states of slots, absences; and the entries and leaf hashes from
//! which an export is made.
//!
//! The asker verifies what it gets, so one replica is enough. A question waits, as long as its client lets it, for a certificate that covers
//! its entry. A *state* is that of the slot in the next STATE entry (or in the last one, where no bundle was executed since), an
//! *absence* that in the next checkpoint's STATE entry: the slots' trees are those of the present state, so leaf and path are taken
//! at the moment at which the STATE entry is appended.
//!
//! # Limits
//! [`MAX_ASKED`] questions of one key and [`MAX_ASKED_IN_ALL`] altogether wait; more are answered OVERLOADED. A turn answers
//! [`ANSWERS_A_TURN`], and takes [`TAKEN_AT_ONCE`] states from the trees of a STATE entry, with at most [`ANSWER_BYTES`] of entries or hashes each. A wait is at most
//! [`MAX_WAIT_MS`](super::MAX_WAIT_MS). Runs of history keep to a rate where local settings have one (`export_mib_s`): they wait here for their turn.

use std::collections::VecDeque;

use super::MAX_WAIT_MS;
use super::node::{ClientId, Node, Shell};
use crate::history::proof;
use crate::history::store::EntryStore;
use crate::history::tlog_proof::{self, Neighbour, Payload};
use crate::log::Device;
use crate::state::{Application, Located};
use crate::types::{Code, EntryIndex, Now, PublicKey};
use crate::wire::frame::Kind;
use crate::wire::message::{
    self, ASKS_ABSENCE, ASKS_CHECKPOINT, ASKS_ENTRIES, ASKS_LEAVES, ASKS_RECEIPT, ASKS_STATE, ArchivedProve,
};

/// Questions of one key that wait.
pub(super) const MAX_ASKED: usize = 16;

/// Questions that wait altogether.
const MAX_ASKED_IN_ALL: usize = 1_024;

/// Questions that a turn answers.
const ANSWERS_A_TURN: usize = 8;

/// States and absences that are taken from the trees of one STATE entry; the others wait for the next.
const TAKEN_AT_ONCE: usize = 32;

/// Bytes of entries or hashes in an answer; the last entry may pass it.
const ANSWER_BYTES: usize = 256 << 10;

/// A question.
struct Asked {
    client: ClientId,
    key: PublicKey,
    id: u64,
    what: u8,
    first: EntryIndex,
    count: u64,
    name: Vec<u8>,
    until_us: u64,
    /// What was taken from the slots' trees when this STATE entry was appended.
    taken: Option<(EntryIndex, Result<Vec<Located>, Code>)>,
}

/// All questions of a node.
#[derive(Default)]
pub(super) struct Proofs {
    asked: VecDeque<Asked>,
    /// Something is new since they were looked through.
    is_new: bool,
    /// Looked through under a certificate of so many entries.
    seen: EntryIndex,
    /// Bytes of history that are sent in a second at most; 0: as fast as it goes.
    export_rate: u64,
    /// When the next may be sent, us.
    export_at_us: u64,
}

impl Proofs {
    /// Whether a question waits for a certificate beyond this size, of what is executed.
    pub(super) fn wait_beyond(&self, certified: EntryIndex, executed: EntryIndex) -> bool {
        self.asked.iter().any(|asked| (certified + 1..=executed).contains(&asked.needs()))
    }

    /// When the next turn has something to do here, us.
    pub(super) fn due_us(&self) -> u64 {
        let due_us = |asked: &Asked| if asked.is_export() { self.export_at_us } else { asked.until_us };
        let until_us = self.asked.iter().map(due_us).min().unwrap_or(u64::MAX);
        if self.is_new && !self.asked.is_empty() { 0 } else { until_us }
    }

    /// History is sent at another rate from now on, bytes a second; 0: as fast as it goes.
    pub(super) fn set_rate(&mut self, bytes_per_second: u64) {
        if self.export_rate != bytes_per_second {
            (self.export_rate, self.export_at_us, self.is_new) = (bytes_per_second, 0, true);
        }
    }

    /// So much history was sent: the next waits until that is within the rate.
    fn exported(&mut self, bytes: usize, now_us: u64) {
        if let Some(us) = (bytes as u64).saturating_mul(1_000_000).checked_div(self.export_rate) {
            self.export_at_us = self.export_at_us.max(now_us) + us;
        }
    }

    pub(super) fn forget(&mut self, client: ClientId) {
        self.asked.retain(|asked| asked.client != client);
    }
}

impl Asked {
    /// Whether it asks for a run of history, which keeps to a rate.
    fn is_export(&self) -> bool {
        matches!(self.what, ASKS_ENTRIES | ASKS_LEAVES)
    }

    /// The size that a certificate must have at least.
    fn needs(&self) -> EntryIndex {
        match self.what {
            ASKS_CHECKPOINT => self.first.max(1),
            ASKS_RECEIPT => self.first.saturating_add(1),
            ASKS_STATE | ASKS_ABSENCE => self.taken.as_ref().map_or(0, |(entry, _)| entry.saturating_add(1)),
            _ => 0,
        }
    }
}

/// What proves a state or an absence under a STATE entry.
fn state_payload<'a>(what: u8, entry: &'a [u8], located: &'a [Located]) -> Payload<'a> {
    match located {
        [slot] if what == ASKS_STATE => {
            Payload::State { entry, slot: slot.index, leaf: &slot.leaf, path: slot.path.clone() }
        }
        slots => {
            let neighbour =
                |slot: &'a Located| Neighbour { index: slot.index, leaf: &slot.leaf, path: slot.path.clone() };
            Payload::Absence { entry, neighbours: slots.iter().map(neighbour).collect() }
        }
    }
}

/// What a look at a question gives.
enum Outcome {
    Wait,
    Answer(Code, Vec<u8>),
}

impl<A: Application, S: EntryStore, D: Device> Node<A, S, D> {
    pub(super) fn client_proof(
        &mut self,
        client: ClientId,
        key: &PublicKey,
        message: &ArchivedProve,
        now: Now,
        shell: &mut impl Shell<D>,
    ) {
        let id = message.id.to_native();
        if let Err(code) = self.execution.identities().may(key, self.execution.time_ms()) {
            return self.answer_proof(client, id, code, Vec::new(), shell);
        }
        let of_key = self.proofs.asked.iter().filter(|asked| asked.key == *key).count();
        if of_key >= MAX_ASKED || self.proofs.asked.len() >= MAX_ASKED_IN_ALL {
            return self.answer_proof(client, id, Code::OVERLOADED, Vec::new(), shell);
        }
        let wait_us = u64::from(message.wait_ms.to_native().min(MAX_WAIT_MS)) * 1_000;
        self.proofs.is_new = true;
        self.proofs.asked.push_back(Asked {
            client,
            key: *key,
            id,
            what: message.what,
            first: message.first.to_native(),
            count: message.count.to_native(),
            name: message.name.to_vec(),
            until_us: now.mono_us.saturating_add(wait_us),
            taken: None,
        });
    }

    /// Takes what questions want from the slots' trees, while these are those of a STATE entry.
    pub(super) fn take_states(&mut self) {
        let takes = |asked: &Asked| asked.taken.is_none() && matches!(asked.what, ASKS_STATE | ASKS_ABSENCE);
        if !self.proofs.asked.iter().any(takes) {
            return;
        }
        let Some((entry, is_checkpoint)) = self.execution.stated() else { return };
        let application = self.execution.application();
        let waiting = self.proofs.asked.iter_mut().filter(|asked| takes(asked) && asked.first <= entry);
        for asked in waiting.take(TAKEN_AT_ONCE) {
            let taken = match asked.what {
                ASKS_STATE => application.locate(&asked.name).map(|located| vec![located]),
                ASKS_ABSENCE if is_checkpoint => application.locate_absent(&asked.name),
                _ => continue,
            };
            asked.taken = Some((entry, taken));
            self.proofs.is_new = true;
        }
    }

    /// Answers what can be answered.
    pub(super) fn answer_proofs(&mut self, now: Now, shell: &mut impl Shell<D>) {
        self.take_states();
        let certified = self.cosigning.certified_size();
        let is_due = self.proofs.is_new || certified != self.proofs.seen || self.proofs.due_us() <= now.mono_us;
        if self.proofs.asked.is_empty() || !is_due {
            return;
        }
        (self.proofs.is_new, self.proofs.seen) = (false, certified);
        let mut answers = 0;
        for asked in std::mem::take(&mut self.proofs.asked) {
            if answers >= ANSWERS_A_TURN {
                self.proofs.is_new = true;
                self.proofs.asked.push_back(asked);
                continue;
            }
            // Who does not take answers gets none: it asks again when it does.
            if !shell.takes(asked.client) {
                continue;
            }
            if asked.is_export() && self.proofs.export_at_us > now.mono_us {
                self.proofs.asked.push_back(asked);
                continue;
            }
            let (code, body) = match self.execution.identities().may(&asked.key, self.execution.time_ms()) {
                Err(code) => (code, Vec::new()),
                Ok(_) => match self.look_at(&asked) {
                    Outcome::Wait if asked.until_us > now.mono_us => {
                        self.proofs.asked.push_back(asked);
                        continue;
                    }
                    Outcome::Wait => (Code::UNAVAILABLE, Vec::new()),
                    Outcome::Answer(code, body) => (code, body),
                },
            };
            answers += 1;
            if asked.is_export() {
                self.proofs.exported(body.len(), now.mono_us);
            }
            self.answer_proof(asked.client, asked.id, code, body, shell);
        }
    }

    fn look_at(&self, asked: &Asked) -> Outcome {
        let refuse = |code| Outcome::Answer(code, Vec::new());
        let certificate = self.cosigning.certificate().filter(|certificate| certificate.head.size >= asked.needs());
        match asked.what {
            ASKS_CHECKPOINT => match certificate {
                Some(certificate) => Outcome::Answer(Code::DONE, certificate.note.as_bytes().to_vec()),
                None => Outcome::Wait,
            },
            ASKS_RECEIPT => match certificate {
                Some(_) => self.prove_entry(asked.first, |entry| Payload::Receipt { entry }.encode()),
                None => Outcome::Wait,
            },
            ASKS_STATE | ASKS_ABSENCE => match (&asked.taken, certificate) {
                (Some((_, Err(code))), _) => refuse(*code),
                (Some((index, Ok(located))), Some(_)) => {
                    self.prove_entry(*index, |entry| state_payload(asked.what, entry, located).encode())
                }
                _ => Outcome::Wait,
            },
            ASKS_ENTRIES => {
                let end = asked.first.saturating_add(asked.count).min(self.execution.size());
                match self.execution.store().run(asked.first, end, ANSWER_BYTES) {
                    Some((run, _)) => Outcome::Answer(Code::DONE, run),
                    None if asked.first >= end => Outcome::Answer(Code::DONE, Vec::new()),
                    None => refuse(Code::UNAVAILABLE),
                }
            }
            ASKS_LEAVES => {
                let hashes = self.execution.store().leaf_hashes(asked.first, asked.count.min(ANSWER_BYTES as u64 / 32));
                Outcome::Answer(Code::DONE, hashes.iter().flat_map(|hash| hash.0).collect())
            }
            _ => refuse(Code::BAD_QUERY),
        }
    }

    /// The proof of an entry under the newest certificate, which covers it.
    fn prove_entry(&self, index: EntryIndex, extra: impl FnOnce(&[u8]) -> Vec<u8>) -> Outcome {
        let store = self.execution.store();
        let made = self.cosigning.certificate().and_then(|certificate| {
            let path = proof::inclusion(store, index, certificate.head.size)?;
            let entry = store.entry(index)?;
            Some(tlog_proof::render(Some(&extra(&entry)), index, &path, &certificate.note))
        });
        match made {
            Some(proof) => Outcome::Answer(Code::DONE, proof.into_bytes()),
            None => Outcome::Answer(Code::UNAVAILABLE, Vec::new()),
        }
    }

    fn answer_proof(&mut self, client: ClientId, id: u64, code: Code, body: Vec<u8>, shell: &mut impl Shell<D>) {
        let message = message::Proof { id, code: code.0, size: self.execution.size(), body };
        self.body.clear();
        message::encode(&message, &mut self.body);
        shell.to_client(client, Kind::Proof, &self.body);
    }
}
