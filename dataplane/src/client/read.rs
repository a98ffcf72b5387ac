//! A matching read: f+1 replicas with the same answer. Why that makes it true stands in the module doc of the client.

use std::sync::Arc;

use super::core::{Shared, Timer, pause_us, resend_us};
use super::limits::{REASK_FIRST_MS, REASK_LONGEST_MS};
use super::types::{ReadResult, Said, bit};
use crate::types::{Code, Now};
use crate::wire::frame::Kind;
use crate::wire::message::{self, ArchivedAnswer, Query};

/// What a ticket asked.
pub(super) struct Asked {
    pub(super) ticket: u64,
    pub(super) query: Vec<u8>,
    pub(super) min_size: u64,
    pub(super) wait_ms: u32,
}

/// A read under way, in one of its rounds.
pub(super) struct OpenRead {
    pub(super) asked: Asked,
    body: Arc<[u8]>,
    /// What each replica said: size and code.
    said: Vec<Option<(u64, Code)>>,
    answered: u32,
    /// Different answers that may be true, and who gave each; `size` is the smallest of theirs.
    tallies: Vec<(u32, ReadResult)>,
    round: u32,
    attempt: u32,
    pub(super) due_us: u64,
}

/// What an answer made of a read.
pub(super) enum Heard {
    Nothing,
    Truth(ReadResult),
}

/// A replica that answers so has not read anything.
fn is_excuse(code: Code) -> bool {
    code.0 >= Code::OVERLOADED.0
}

impl OpenRead {
    /// Asks all replicas.
    pub(super) fn ask(id: u64, asked: Asked, round: u32, now: Now, shared: &mut Shared) -> Self {
        let query = Query { id, min_size: asked.min_size, wait_ms: asked.wait_ms, query: asked.query };
        let mut body = Vec::new();
        message::encode(&query, &mut body);
        let asked = Asked { query: query.query, ..asked };
        let body: Arc<[u8]> = body.into();
        shared.send(u32::MAX, Kind::Query, &body);
        let said = vec![None; shared.replicas];
        let mut read = Self { asked, body, said, answered: 0, tallies: Vec::new(), round, attempt: 0, due_us: 0 };
        read.schedule_resend(id, now, shared);
        read
    }

    /// Asks all again what was asked before, at no less than a size at which a correct replica is.
    pub(super) fn ask_again(self, id: u64, now: Now, shared: &mut Shared) -> Self {
        let mut sizes: Vec<u64> = self.said.iter().flatten().map(|(size, _)| *size).collect();
        sizes.sort_unstable_by(|a, b| b.cmp(a));
        let reached = sizes.get(shared.faults).copied().unwrap_or(0);
        let asked = Asked { min_size: self.asked.min_size.max(reached), ..self.asked };
        Self::ask(id, asked, self.round + 1, now, shared)
    }

    pub(super) fn resend_to(&self, replicas: u32, shared: &mut Shared) {
        shared.send(replicas & !self.answered, Kind::Query, &self.body);
    }

    pub(super) fn resend(&mut self, id: u64, now: Now, shared: &mut Shared) {
        self.resend_to(u32::MAX, shared);
        self.attempt += 1;
        self.schedule_resend(id, now, shared);
    }

    fn schedule_resend(&mut self, id: u64, now: Now, shared: &mut Shared) {
        let pause = u64::from(self.asked.wait_ms) * 1_000 + resend_us(self.attempt);
        shared.reschedule(Timer::Read(id), &mut self.due_us, now.mono_us + pause);
    }

    /// Whether as many have answered as can be expected to; there is no match, or the read were over.
    pub(super) fn is_hopeless(&self, shared: &Shared) -> bool {
        self.answered.count_ones() >= shared.expected()
    }

    pub(super) fn on_answer(
        &mut self,
        id: u64,
        replica: usize,
        answer: &ArchivedAnswer,
        now: Now,
        shared: &mut Shared,
    ) -> Heard {
        let replica_bit = bit(replica);
        if self.answered & replica_bit != 0 {
            return Heard::Nothing;
        }
        self.answered |= replica_bit;
        let (code, size) = (Code(answer.code.to_native()), answer.size.to_native());
        let valid_from = answer.valid_from.to_native();
        self.said[replica] = Some((size, code));
        if !is_excuse(code) && size >= self.asked.min_size {
            if valid_from >= size {
                shared.lie(replica);
            } else if let Some(truth) = self.count(replica_bit, code, size, valid_from, answer.body.as_slice(), shared)
            {
                return Heard::Truth(truth);
            }
        }
        if self.is_hopeless(shared) {
            let pause = pause_us(REASK_FIRST_MS, REASK_LONGEST_MS, self.round);
            let due = self.due_us.min(now.mono_us + pause);
            shared.reschedule(Timer::Read(id), &mut self.due_us, due);
        }
        Heard::Nothing
    }

    fn count(
        &mut self,
        replica_bit: u32,
        code: Code,
        size: u64,
        valid_from: u64,
        body: &[u8],
        shared: &Shared,
    ) -> Option<ReadResult> {
        let same = |other: &ReadResult| other.code == code && other.valid_from == valid_from && other.body == body;
        let index = match self.tallies.iter().position(|(_, result)| same(result)) {
            Some(index) => index,
            None => {
                self.tallies.push((0, ReadResult { code, size, valid_from, body: body.to_vec() }));
                self.tallies.len() - 1
            }
        };
        let (who, result) = &mut self.tallies[index];
        *who |= replica_bit;
        result.size = result.size.min(size);
        (who.count_ones() >= shared.needed()).then(|| self.tallies.swap_remove(index).1)
    }

    pub(super) fn said(&self, shared: &Shared) -> Vec<Said> {
        let each = |(replica, said): (usize, &Option<(u64, Code)>)| match said {
            Some((size, code)) => Said::Answered(*size, *code),
            None => shared.silence(replica),
        };
        self.said.iter().enumerate().map(each).collect()
    }
}
