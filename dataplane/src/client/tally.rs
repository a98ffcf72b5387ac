//! The tally of one request: what each replica said, until f+1 said the same.

use super::core::Shared;
use super::types::bit;
use crate::types::Code;
use crate::wire::message::{ArchivedReply, Changes, Reply};

/// One replica's final word on a request.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Word {
    Reply(Reply),
    Refused(Code),
}

/// A request in flight: the words of the replicas, then the word of f+1.
#[derive(Default)]
pub(super) struct Open {
    /// Different words and who said each; empty after the verdict.
    pub(super) words: Vec<(u32, Word)>,
    /// Who has said anything.
    spoken: u32,
    pub(super) verdict: Option<Word>,
}

/// Whether a replica's word was its first on a request.
pub(super) enum Counted {
    Before,
    Now {
        /// It had refused, and now it has executed.
        again: bool,
        /// This word made f+1.
        decided: bool,
    },
}

impl Open {
    pub(super) fn on_reply(&mut self, replica: usize, reply: &ArchivedReply, shared: &mut Shared) -> Counted {
        let replica_bit = bit(replica);
        let equal = |word: &Word| matches!(word, Word::Reply(known) if same(known, reply));
        if let Some(verdict) = &self.verdict {
            if matches!(verdict, Word::Reply(_)) && !equal(verdict) {
                shared.lie(replica);
            }
            return self.late(replica_bit);
        }
        let mut again = false;
        if let Some((who, word)) = self.words.iter_mut().find(|(who, _)| who & replica_bit != 0) {
            if let Word::Reply(_) = word {
                if !equal(word) {
                    shared.lie(replica);
                }
                return Counted::Before;
            }
            // Who refused may have executed it since: another replica had it ordered.
            *who &= !replica_bit;
            again = true;
        }
        let index = match self.words.iter().position(|(_, word)| equal(word)) {
            Some(index) => index,
            None => {
                self.words.push((0, Word::Reply(own(reply))));
                self.words.len() - 1
            }
        };
        Counted::Now { again, decided: self.count(index, replica_bit, shared) }
    }

    pub(super) fn on_refused(&mut self, replica: usize, code: Code, shared: &mut Shared) -> Counted {
        let replica_bit = bit(replica);
        if self.verdict.is_some() {
            return self.late(replica_bit);
        }
        if self.words.iter().any(|(who, _)| who & replica_bit != 0) {
            return Counted::Before;
        }
        let index = match self.words.iter().position(|(_, word)| *word == Word::Refused(code)) {
            Some(index) => index,
            None => {
                self.words.push((0, Word::Refused(code)));
                self.words.len() - 1
            }
        };
        Counted::Now { again: false, decided: self.count(index, replica_bit, shared) }
    }

    /// A word after the verdict: the replica owes nothing more.
    fn late(&mut self, replica_bit: u32) -> Counted {
        let first = self.spoken & replica_bit == 0;
        self.spoken |= replica_bit;
        if first { Counted::Now { again: false, decided: false } } else { Counted::Before }
    }

    /// Counts a word; true when it became the verdict.
    fn count(&mut self, index: usize, replica_bit: u32, shared: &mut Shared) -> bool {
        let (who, word) = &mut self.words[index];
        *who |= replica_bit;
        self.spoken |= replica_bit;
        if who.count_ones() < shared.needed() {
            return false;
        }
        let truth = word.clone();
        for (who, word) in std::mem::take(&mut self.words) {
            let lied = matches!((&word, &truth), (Word::Reply(word), Word::Reply(truth)) if word != truth);
            (0..shared.replicas)
                .filter(|replica| lied && who & bit(*replica) != 0)
                .for_each(|replica| shared.lie(replica));
        }
        self.verdict = Some(truth);
        true
    }
}

fn same(known: &Reply, reply: &ArchivedReply) -> bool {
    known.session == reply.session
        && known.number == reply.number
        && known.sequence == reply.sequence
        && known.entry == reply.entry
        && known.request == reply.request
        && known.time_ms == reply.time_ms
        && known.code == reply.code
        && *known.changes == *reply.changes
        && known.detail == reply.detail.as_str()
}

fn own(reply: &ArchivedReply) -> Reply {
    Reply {
        session: reply.session.to_native(),
        number: reply.number.to_native(),
        sequence: reply.sequence.to_native(),
        entry: reply.entry.to_native(),
        request: reply.request.to_native(),
        time_ms: reply.time_ms.to_native(),
        code: reply.code.to_native(),
        changes: Changes::from_slice(&reply.changes),
        detail: reply.detail.as_str().to_owned(),
    }
}
