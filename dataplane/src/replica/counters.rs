//! What a replica counts for its operator, and notes of its peers.

use std::collections::BTreeMap;

use super::node::Node;
use crate::evidence::{Book, Sealed};
use crate::flight::{self, Kind as Noted};
use crate::history::store::EntryStore;
use crate::log::Device;
use crate::state::Application;
use crate::types::{Code, Now, ReplicaId};
use crate::wire::error::{FrameError, Misbehaviour};
use crate::wire::frame::Kind;
use crate::wire::message::Counter;

/// Counters by a name of fixed vocabulary, so that their number is bounded.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Counters {
    values: BTreeMap<String, u64>,
}

impl Counters {
    /// Adds to a counter.
    pub fn add(&mut self, name: &str, value: u64) {
        match self.values.get_mut(name) {
            Some(counter) => *counter += value,
            None => {
                self.values.insert(name.to_owned(), value);
            }
        }
    }

    /// Sets a counter that is counted elsewhere.
    pub fn set(&mut self, name: &str, value: u64) {
        self.values.insert(name.to_owned(), value);
    }

    /// A client was refused.
    pub(super) fn refused(&mut self, code: Code) {
        self.add(&format!("refused.{}", code.0), 1);
    }

    /// A frame with an error, from a replica or from a client.
    pub(super) fn bad_frame(&mut self, from: &str, kind: Kind, error: &FrameError) {
        let fault = match error {
            FrameError::Malformed(_) => "malformed",
            FrameError::Misbehaving(_) => "misbehaving",
            FrameError::Refused(_) => "refused",
        };
        self.add(&format!("frames.{fault}.{from}.{kind:?}"), 1);
    }

    /// The value of a counter.
    pub fn get(&self, name: &str) -> u64 {
        self.values.get(name).copied().unwrap_or(0)
    }

    /// Counters whose names begin so, by the rest of their names.
    pub fn with_prefix(&self, prefix: &str) -> impl Iterator<Item = (&str, u64)> {
        let all = self.values.range(prefix.to_owned()..);
        all.map_while(move |(name, value)| Some((name.strip_prefix(prefix)?, *value)))
    }

    /// All counters, sorted by name.
    pub fn all(&self) -> Vec<Counter> {
        self.values.iter().map(|(name, value)| Counter { name: name.clone(), value: *value }).collect()
    }
}

impl<A: Application, S: EntryStore, D: Device> Node<A, S, D> {
    /// Notes what a peer did that no correct one does, or counts it where that is not certain.
    pub(super) fn accuse(&mut self, replica: ReplicaId, what: &Misbehaviour, messages: Vec<Sealed>, now: Now) {
        let kind =
            Misbehaviour::KINDS.iter().position(|kind| *kind == what.kind()).unwrap_or(Misbehaviour::KINDS.len());
        flight::note(Noted::Misbehaved, [u64::from(replica.0), kind as u64, 0]);
        if what.is_certain() {
            self.evidence.note(replica, what, messages, now.wall_ms);
        } else {
            self.counters.add(&format!("peers.replica-{replica}.{}", what.kind()), 1);
        }
    }

    /// Shows a number that the shell counts.
    pub fn set_counter(&mut self, name: &str, value: u64) {
        self.counters.set(name, value);
    }

    /// What an earlier process of this replica noted of others.
    pub fn set_evidence(&mut self, evidence: Book) {
        self.evidence = evidence;
    }

    /// What is known of other replicas' misbehaviour.
    pub fn evidence(&self) -> &Book {
        &self.evidence
    }

    /// The same, for the shell that writes it.
    pub fn evidence_mut(&mut self) -> &mut Book {
        &mut self.evidence
    }
}
