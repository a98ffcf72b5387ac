//! A matching read: f+1 replicas with the same answer. Why that makes it true stands in the module doc of the client.
//!
//! # Who is asked
//! f+1 replicas, in turn, since each that is asked costs it and the client the same. The others are asked too as soon as those do not
//! match, or one of them takes longer than answers do lately, or its link ends. Who was slower then than those asked later is not among the
//! first for a while, longer each time until it answers in time, and who lied never; where too few are left all are asked at once.

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
    /// Who was asked.
    asked_of: u32,
    /// When it was asked first, us.
    since_us: u64,
    /// Who did not answer before the others were asked for that.
    overdue: u32,
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
    /// Asks f+1 replicas in the first round, else all.
    pub(super) fn ask(id: u64, asked: Asked, round: u32, now: Now, shared: &mut Shared) -> Self {
        let query = Query { id, min_size: asked.min_size, wait_ms: asked.wait_ms, query: asked.query };
        let mut body = Vec::new();
        message::encode(&query, &mut body);
        let asked = Asked { query: query.query, ..asked };
        let body: Arc<[u8]> = body.into();
        let asked_of = if round == 0 { shared.readers.next(now.mono_us) } else { u32::MAX };
        shared.send(asked_of, Kind::Query, &body);
        let (said, tallies, since_us) = (vec![None; shared.replicas], Vec::new(), now.mono_us);
        let (answered, overdue, attempt, due_us) = (0, 0, 0, 0);
        let mut read =
            Self { asked, body, said, answered, asked_of, since_us, overdue, tallies, round, attempt, due_us };
        if read.asks_all() {
            read.schedule_resend(id, now, shared);
        } else {
            let due = now.mono_us + shared.readers.pause_us();
            shared.reschedule(Timer::Read(id), &mut read.due_us, due);
        }
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

    fn asks_all(&self) -> bool {
        self.asked_of == u32::MAX
    }

    /// Asks those who were not asked yet.
    pub(super) fn widen(&mut self, id: u64, now: Now, shared: &mut Shared) {
        shared.send(!self.asked_of, Kind::Query, &self.body);
        self.asked_of = u32::MAX;
        self.schedule_resend(id, now, shared);
    }

    /// A link came up.
    pub(super) fn resend_to(&self, replicas: u32, shared: &mut Shared) {
        shared.send(replicas & self.asked_of & !self.answered, Kind::Query, &self.body);
    }

    /// A link is gone: true where its replica owes an answer that others may give.
    pub(super) fn lacks(&self, replicas: u32) -> bool {
        !self.asks_all() && self.asked_of & !self.answered & replicas != 0
    }

    /// It is due: whoever was asked did not answer in time.
    pub(super) fn resend(&mut self, id: u64, now: Now, shared: &mut Shared) {
        if !self.asks_all() {
            self.overdue = self.asked_of & !self.answered;
            return self.widen(id, now, shared);
        }
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
        if self.asked_of & !self.answered & replica_bit == 0 {
            return Heard::Nothing;
        }
        self.answered |= replica_bit;
        if !self.asks_all() {
            shared.readers.answered(replica, now.mono_us.saturating_sub(self.since_us));
        }
        let (code, size) = (Code(answer.code.to_native()), answer.size.to_native());
        let valid_from = answer.valid_from.to_native();
        self.said[replica] = Some((size, code));
        if !is_excuse(code) && size >= self.asked.min_size {
            if valid_from >= size {
                shared.lie(replica);
            } else if let Some(truth) = self.count(replica_bit, code, size, valid_from, answer.body.as_slice(), shared)
            {
                // Of those that were asked first and are silent still, others were quicker though they were asked later.
                shared.readers.are_slow(self.overdue & !self.answered, now.mono_us);
                return Heard::Truth(truth);
            }
        }
        if !self.asks_all() && self.answered & self.asked_of == self.asked_of {
            self.widen(id, now, shared);
        } else if self.is_hopeless(shared) {
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
