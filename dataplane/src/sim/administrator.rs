//! The administrator of a simulated cluster: registers, rotates and revokes keys while faults happen, so that the identities are a part
//! of what replicas must agree on, keep over crashes and take from one another.
//!
//! Its statements are about keys that nobody writes with. They come in bundles of its own, sent once: what gets lost was never said.
//! Some come with a number that is taken, and some are refused; all replicas must refuse the same.

use std::sync::Arc;

use super::machine::BASE_MS;
use super::random::Random;
use super::world::{Event, World};
use crate::crypto::keys::SecretKey;
use crate::wire::bundle::{Bundle, OPEN_SESSION, Request};
use crate::wire::frame::Kind;
use crate::wire::message::{self, Submit, WireBundle};
use crate::wire::statement::{KeyChange, KeyStatement, Validity, operation};

/// Time between two statements at most, us.
const LONGEST_PAUSE_US: u64 = 1_000_000;

/// Keys that it has said something about and comes back to.
const KEYS_KEPT: usize = 8;

/// See the module.
pub(super) struct Administrator {
    random: Random,
    /// Seeds of the keys that were registered last.
    known: Vec<u64>,
    said: u64,
}

/// Its key; no replica and no client has it.
pub(super) fn administrator_key() -> SecretKey {
    SecretKey::from_seed(&[240; 32])
}

fn subject_key(seed: u64) -> SecretKey {
    let mut bytes = [241; 32];
    bytes[..8].copy_from_slice(&seed.to_be_bytes());
    SecretKey::from_seed(&bytes)
}

impl Administrator {
    pub(super) fn new(random: Random) -> Self {
        Self { random, known: Vec::new(), said: 0 }
    }

    /// Statements made, a bundle each.
    pub(super) fn said(&self) -> u64 {
        self.said
    }

    fn statement(&mut self, number: u64, now_ms: i64) -> KeyStatement {
        self.said += 1;
        let earlier = self.known.get(self.random.index(self.known.len())).copied();
        let kind = self.random.below(3);
        let until_ms = self.random.chance(200).then(|| now_ms + self.random.below(2_000) as i64);
        let validity = Validity { from_ms: None, until_ms };
        let (seed, change) = match (kind, earlier) {
            (1, Some(earlier)) => (self.said, KeyChange::Rotate { replaces: subject_key(earlier).public(), validity }),
            (2, Some(earlier)) => (earlier, KeyChange::Revoke),
            _ => {
                let role = self.random.chance(800).then(|| "writer".to_owned());
                (self.said, KeyChange::Register { name: format!("subject {}", self.said), role, validity })
            }
        };
        if seed == self.said {
            self.known.push(seed);
            let old = self.known.len().saturating_sub(KEYS_KEPT);
            self.known.drain(..old);
        }
        KeyStatement { number, key: subject_key(seed).public(), change, reason: None }
    }
}

impl World {
    /// Says something about a key, until faults stop.
    pub(super) fn tick_administrator(&mut self) {
        if self.stable {
            return;
        }
        let pause_us = self.administrator.random.between(1, LONGEST_PAUSE_US);
        self.schedule(self.now_us + pause_us, Event::KeyChange);
        // As one that has read the table: the most that anybody has carried out, and one. At times it is late.
        let nodes = self.machines.iter().filter_map(|machine| machine.node.as_ref());
        let carried_out = nodes.map(|node| node.execution().identities().number()).max().unwrap_or(0);
        let number = carried_out + u64::from(!self.administrator.random.chance(100));
        let now_ms = BASE_MS + (self.now_us / 1_000) as i64;
        let statement = self.administrator.statement(number, now_ms);
        let (key, origin) = (administrator_key(), self.origin());
        let sign = |bytes: &[u8]| key.sign(bytes);
        let cose = statement.sign(&origin, key.public(), sign);
        let requests: Vec<_> = [OPEN_SESSION.to_vec(), operation(&cose)]
            .iter()
            .map(|operation| Request { class: 0, not_after_ms: None, operation }.encode())
            .collect();
        let Ok(bundle) = Bundle::sign(&origin, key.public(), None, 0, &requests, now_ms, sign) else { return };
        let mut body = Vec::new();
        message::encode(&Submit { bundle: WireBundle { cose: bundle.cose().to_vec(), requests } }, &mut body);
        let body: Arc<[u8]> = body.into();
        self.count("key statement");
        for replica in 0..self.plan.n {
            self.transmit(self.administrator_node(), replica, Kind::Submit, &body, 0);
        }
    }

    /// Its place among the nodes, behind the clients.
    pub(super) fn administrator_node(&self) -> usize {
        self.plan.n + self.clients.len()
    }
}
