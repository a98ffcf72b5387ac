//! What a replica counts for its operator.

use std::collections::BTreeMap;

use crate::types::Code;
use crate::wire::error::FrameError;
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

    /// All counters, sorted by name.
    pub fn all(&self) -> Vec<Counter> {
        self.values.iter().map(|(name, value)| Counter { name: name.clone(), value: *value }).collect()
    }
}
