//! Reads of simulated clients: of a register at a position, or as it is; a result counts on f+1 equal answers.

use std::collections::BTreeMap;

use crate::types::Code;
use crate::wire::message::{self, Answer, Query};

/// After so long a read is sent again, us.
const AGAIN_US: u64 = 300_000;

/// Reads of a client under way at most.
const MAX_OPEN: usize = 8;

/// What f+1 replicas say of a register.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Found {
    pub(super) register: u8,
    /// The entry behind which it was asked for; `None`: as it is.
    pub(super) at: Option<u64>,
    /// Revision and last writing entry, 8 bytes each.
    pub(super) body: Vec<u8>,
    /// It holds from this entry on.
    pub(super) valid_from: u64,
    /// At least up to this size of the history.
    pub(super) size: u64,
}

struct Open {
    register: u8,
    at: Option<u64>,
    wait_ms: u32,
    /// The last answer of each replica.
    answers: BTreeMap<usize, Found>,
    send_at_us: u64,
}

/// See the module.
#[derive(Default)]
pub(super) struct Reads {
    open: BTreeMap<u64, Open>,
    asked: u64,
}

impl Reads {
    pub(super) fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// Asks for a register, if not too much is under way.
    pub(super) fn ask(&mut self, register: u8, at: Option<u64>, wait_ms: u32) {
        if self.open.len() < MAX_OPEN {
            self.asked += 1;
            self.open.insert(self.asked, Open { register, at, wait_ms, answers: BTreeMap::new(), send_at_us: 0 });
        }
    }

    pub(super) fn next_us(&self) -> u64 {
        self.open.values().map(|open| open.send_at_us).min().unwrap_or(u64::MAX)
    }

    /// What is to be sent to all now.
    pub(super) fn due(&mut self, now_us: u64) -> Vec<Vec<u8>> {
        let mut bodies = Vec::new();
        for (id, open) in self.open.iter_mut().filter(|(_, open)| open.send_at_us <= now_us) {
            open.send_at_us = now_us + AGAIN_US;
            let mut query = vec![open.register];
            query.extend(open.at.iter().flat_map(|at| at.to_be_bytes()));
            let min_size = open.at.map_or(0, |at| at + 1);
            let mut body = Vec::new();
            message::encode(&Query { id: *id, min_size, wait_ms: open.wait_ms, query }, &mut body);
            bodies.push(body);
        }
        bodies
    }

    /// Takes an answer; what became certain by it.
    pub(super) fn on_answer(&mut self, replica: usize, body: &[u8], needed: usize) -> Option<Found> {
        let answer = message::access::<Answer>(body).ok()?;
        let id = answer.id.to_native();
        let open = self.open.get_mut(&id).filter(|_| Code(answer.code.to_native()) == Code::DONE)?;
        let found = Found {
            register: open.register,
            at: open.at,
            body: answer.body.to_vec(),
            valid_from: answer.valid_from.to_native(),
            size: answer.size.to_native(),
        };
        let same = |other: &&Found| other.body == found.body && other.valid_from == found.valid_from;
        open.answers.insert(replica, found.clone());
        let alike: Vec<&Found> = open.answers.values().filter(same).collect();
        if alike.len() < needed {
            return None;
        }
        let size = alike.iter().map(|other| other.size).min().unwrap_or(found.size);
        self.open.remove(&id);
        Some(Found { size, ..found })
    }
}
