//! The default workload: sets one property at a time, uniform over 1,000 twins with 16 properties each.
//!
//! Operations come from a seeded generator, so two runs with one seed send the same bytes in the same order. The payload is
//! the operation's bytes, neither more nor less: what names and structure leave is filled by a random byte string. Where
//! no byte string fills it exactly (CBOR lengths grow at 24 and 256), the property's name is a byte longer for the whole run.

use crate::twin::operation::{Operation, SetProperty, Write};
use crate::twin::query::Query;
use crate::twin::value::{MAX_VALUE, Quality, Value};

/// Twins that are written.
pub const TWINS: u64 = 1_000;
/// Properties of each.
pub const PROPERTIES: u64 = 16;
/// The smallest operation that the workload makes, in bytes.
pub const MIN_PAYLOAD: usize = 32;
/// The largest: the longest value and its name.
pub const MAX_PAYLOAD: usize = MAX_VALUE;
/// What the twins' names begin with.
pub const PREFIX: &str = "bench/";

/// A payload that no operation has.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a payload has {MIN_PAYLOAD} to {MAX_PAYLOAD} bytes, not {0}")]
pub struct PayloadError(pub usize);

/// SplitMix64 (Steele, Lea, Flood, OOPSLA 2014): small, and good enough to spread writes and fill values.
#[derive(Clone, Debug)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform below `bound`, but for a bias of `bound` in 2^64.
    fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(count + size_of::<u64>());
        while bytes.len() < count {
            bytes.extend_from_slice(&self.next().to_le_bytes());
        }
        bytes.truncate(count);
        bytes
    }
}

/// Makes the operations of one run.
#[derive(Clone, Debug)]
pub struct Generator {
    random: Random,
    fill: usize,
    stem: &'static str,
}

impl Generator {
    /// Operations of exactly `payload` bytes, the same ones for the same seed.
    ///
    /// # Errors
    /// A payload outside [`MIN_PAYLOAD`] to [`MAX_PAYLOAD`].
    pub fn new(seed: u64, payload: usize) -> Result<Self, PayloadError> {
        if !(MIN_PAYLOAD..=MAX_PAYLOAD).contains(&payload) {
            return Err(PayloadError(payload));
        }
        for stem in ["p", "p-"] {
            // What is left when the value is empty, and the value's length grows by up to two bytes.
            let left = payload - set(0, &[(0, Vec::new())], stem).len();
            for fill in (left.saturating_sub(2)..=left).rev() {
                if set(0, &[(0, vec![0; fill])], stem).len() == payload {
                    return Ok(Self { random: Random(seed), fill, stem });
                }
            }
        }
        Err(PayloadError(payload))
    }

    /// The next operation: one property anywhere.
    pub fn operation(&mut self) -> Vec<u8> {
        let (twin, property) = (self.random.below(TWINS), self.random.below(PROPERTIES));
        set(twin, &[(property, self.random.bytes(self.fill))], self.stem)
    }

    /// The next read: one property anywhere.
    pub fn query(&mut self) -> Vec<u8> {
        let (twin, property) = (self.random.below(TWINS), self.random.below(PROPERTIES));
        Query::Get {
            twin: format!("{PREFIX}{twin:04}"),
            property: Some(format!("{}{property:02}", self.stem)),
            after: None,
        }
        .encode()
    }

    /// An operation that writes all properties of a twin, so that a run begins on a store that has them all.
    pub fn fill_twin(&mut self, twin: u64) -> Vec<u8> {
        let values: Vec<_> = (0..PROPERTIES).map(|property| (property, self.random.bytes(self.fill))).collect();
        set(twin, &values, self.stem)
    }
}

fn set(twin: u64, values: &[(u64, Vec<u8>)], stem: &str) -> Vec<u8> {
    let properties = values
        .iter()
        .map(|(property, value)| SetProperty {
            path: format!("{stem}{property:02}"),
            value: Value::Bytes(value.clone()),
            quality: Quality::Good,
            source_time_ns: None,
        })
        .collect();
    Operation::Write(Write::Set { twin: format!("{PREFIX}{twin:04}"), properties, reason: None }).encode()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::twin::view::OperationView;
    use std::collections::BTreeSet;

    #[test]
    fn every_payload_is_met_exactly() {
        for payload in MIN_PAYLOAD..=MAX_PAYLOAD {
            let operation = Generator::new(1, payload).unwrap().operation();
            assert_eq!(operation.len(), payload);
            assert_eq!(OperationView::decode(&operation).unwrap().targets.len(), 1);
        }
        assert_eq!(Generator::new(1, MIN_PAYLOAD - 1).unwrap_err(), PayloadError(MIN_PAYLOAD - 1));
        assert!(Generator::new(1, MAX_PAYLOAD + 1).is_err());
    }

    #[test]
    fn a_seed_repeats_its_operations_and_another_does_not() {
        let run = |seed| {
            let mut generator = Generator::new(seed, 128).unwrap();
            (0..100).map(|_| generator.operation()).collect::<Vec<_>>()
        };
        assert_eq!(run(7), run(7));
        assert_ne!(run(7), run(8));
    }

    #[test]
    fn writes_reach_every_property_that_filling_made() {
        let mut generator = Generator::new(3, MIN_PAYLOAD).unwrap();
        let names = |operation: &[u8]| -> Vec<(String, String)> {
            let view = OperationView::decode(operation).unwrap();
            view.targets.iter().map(|target| (target.twin.to_owned(), target.path().unwrap().to_owned())).collect()
        };
        let filled: BTreeSet<_> = (0..TWINS).flat_map(|twin| names(&generator.fill_twin(twin))).collect();
        assert_eq!(filled.len() as u64, TWINS * PROPERTIES);
        let written: BTreeSet<_> = (0..400_000).flat_map(|_| names(&generator.operation())).collect();
        assert_eq!(written, filled);
    }
}
