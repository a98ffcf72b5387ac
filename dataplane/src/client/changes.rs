//! Subscriptions: the pages of n replicas become one stream without gaps that f+1 of them vouch for.
//!
//! # How
//! Each replica is asked by long poll for the events behind what it has told so far. What it tells is kept in its buffer:
//! events in order, and up to which position that is complete. Let D be the position up to which all was delivered. A replica
//! says about D either its next event, or that there is none up to some position (just before its next event, or to
//! where it is complete).
//! - f+1 replicas with the same next event: it is delivered, and D is its position.
//! - Else D moves to the (f+1)-th highest position up to which replicas say there is nothing.
//!
//! # Why it is right
//! Among f+1 there is a correct one, which tells every event: so no event is made up, changed or passed over. As n-f >= 2f+1
//! correct replicas tell the same events in the end, each is delivered in the end.
//!
//! # Limits
//! A replica that is ahead by [`MAX_BUFFERED_EVENTS`] is not asked until the others have caught up. One whose next event lies
//! behind D, or that passed over what f+1 told, is counted as lying, forgotten and asked again from D. A page without
//! anything new makes its replica wait for the rest of the poll's time, so a hurried liar costs no more than an honest one.

use std::collections::VecDeque;
use std::sync::Arc;

use super::core::{Shared, Timer};
use super::limits::{MAX_BUFFERED_EVENTS, MAX_PAGE_EVENTS, POLL_GRACE_MS, POLL_MS};
use super::types::bit;
use crate::types::{Code, Now, Position};
use crate::wire::frame::Kind;
use crate::wire::message::{self, ArchivedAnswer, Query};

/// One page of a replica.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Page {
    /// Positions, each above the last, with what happened there in the application's encoding; replicas must encode alike.
    pub events: Vec<(Position, Vec<u8>)>,
    /// The page is complete from where it was asked for up to here, included.
    pub covered: Position,
}

/// The application's side of a subscription.
pub trait PageDecoder {
    /// The query for the events behind a position, all positions up to it excluded.
    fn query(&self, behind: Position) -> Vec<u8>;

    /// Reads an answer; `None` if it is malformed.
    fn decode(&self, body: &[u8]) -> Option<Page>;
}

/// What one replica has told.
#[derive(Default)]
struct Teller {
    /// What is not delivered yet.
    events: VecDeque<(Position, Vec<u8>)>,
    covered: Position,
    /// The poll under way, and behind which position it asked.
    poll: Option<(u64, Position)>,
    asked_at_us: u64,
    /// Not to be asked before; the timer's time if one is set.
    due_us: u64,
    waiting: bool,
    /// It said last that this client may not ask, and why.
    refused: Option<Code>,
}

/// A subscription.
pub(super) struct Stream {
    id: u64,
    decoder: Box<dyn PageDecoder>,
    delivered: Position,
    tellers: Vec<Teller>,
}

/// The last position before this one.
fn before(position: Position) -> Option<Position> {
    match position {
        Position { entry: 0, request: 0 } => None,
        Position { entry, request: 0 } => Some(Position { entry: entry - 1, request: u16::MAX }),
        Position { entry, request } => Some(Position { entry, request: request - 1 }),
    }
}

impl Stream {
    pub(super) fn new(id: u64, decoder: Box<dyn PageDecoder>, from: Position, replicas: usize) -> Self {
        let teller = || Teller { covered: from, ..Teller::default() };
        Self { id, decoder, delivered: from, tellers: std::iter::repeat_with(teller).take(replicas).collect() }
    }

    pub(super) fn delivered(&self) -> Position {
        self.delivered
    }

    /// The next event, if f+1 tell it; moves over quiet stretches.
    pub(super) fn next(&mut self, shared: &mut Shared) -> Option<(Position, Vec<u8>)> {
        loop {
            if let Some(event) = self.agreed(shared) {
                self.delivered = event.0;
                self.forget(Some(&event), shared);
                return Some(event);
            }
            let mut quiet: Vec<Position> = self.tellers.iter().map(Teller::quiet_to).collect();
            quiet.sort_unstable_by(|a, b| b.cmp(a));
            let reached = quiet.get(shared.faults).copied().filter(|reached| *reached > self.delivered)?;
            self.delivered = reached;
            self.forget(None, shared);
        }
    }

    /// Why this client is not told any more: f+1 replicas say that its key is not in force, which one correct one does of itself.
    pub(super) fn refused(&self, shared: &Shared) -> Option<Code> {
        let codes = || self.tellers.iter().filter_map(|teller| teller.refused);
        codes().find(|code| codes().filter(|other| other == code).count() as u64 >= u64::from(shared.needed()))
    }

    fn agreed(&self, shared: &Shared) -> Option<(Position, Vec<u8>)> {
        let next = |teller: &'_ Teller| teller.events.front().cloned();
        let votes = |event: &(Position, Vec<u8>)| {
            self.tellers.iter().filter(|teller| teller.events.front() == Some(event)).count() as u64
        };
        self.tellers.iter().filter_map(next).find(|event| votes(event) >= u64::from(shared.needed()))
    }

    /// Drops what is delivered, and starts again with tellers that told something else about it.
    fn forget(&mut self, event: Option<&(Position, Vec<u8>)>, shared: &mut Shared) {
        for (replica, teller) in self.tellers.iter_mut().enumerate() {
            let same = event.is_some() && teller.events.front() == event;
            if same {
                teller.events.pop_front();
            }
            let passed = event.is_some_and(|event| !same && teller.quiet_to() >= event.0);
            let behind = teller.events.front().is_some_and(|(position, _)| *position <= self.delivered);
            if passed || behind {
                shared.lie(replica);
                teller.events.clear();
                teller.covered = self.delivered;
                // The answer to a poll from further on would leave a gap.
                teller.poll = None;
            } else if teller.events.is_empty() {
                // Whoever has told less is asked from here on.
                teller.covered = teller.covered.max(self.delivered);
            }
        }
    }

    /// Asks the replicas whose turn it is; gives the polls begun, with the replica of each.
    pub(super) fn poll(&mut self, now: Now, shared: &mut Shared) -> Vec<(u64, u8)> {
        let mut polls = Vec::new();
        for (replica, teller) in self.tellers.iter_mut().enumerate() {
            let full = teller.events.len() >= MAX_BUFFERED_EVENTS || teller.covered.entry == u64::MAX;
            if teller.poll.is_some() || teller.waiting || full || shared.links & bit(replica) == 0 {
                continue;
            }
            let id = shared.id();
            let query = self.decoder.query(teller.covered);
            let mut body = Vec::new();
            message::encode(&Query { id, min_size: 0, wait_ms: POLL_MS, query }, &mut body);
            shared.send(bit(replica), Kind::Query, &Arc::from(body));
            teller.poll = Some((id, teller.covered));
            teller.asked_at_us = now.mono_us;
            let patience = (u64::from(POLL_MS) + POLL_GRACE_MS) * 1_000;
            shared.reschedule(Timer::Poll(self.id, replica as u8), &mut teller.due_us, now.mono_us + patience);
            polls.push((id, replica as u8));
        }
        polls
    }

    /// The answer to a poll.
    pub(super) fn on_page(&mut self, replica: usize, answer: &ArchivedAnswer, now: Now, shared: &mut Shared) {
        let Some(teller) = self.tellers.get_mut(replica) else { return };
        let Some((_, behind)) = teller.poll.take_if(|(id, _)| *id == answer.id.to_native()) else { return };
        let code = Code(answer.code.to_native());
        teller.refused = matches!(code, Code::REVOKED | Code::NOT_VALID).then_some(code);
        let page = if code == Code::DONE { self.decoder.decode(answer.body.as_slice()) } else { None };
        let news = match page {
            Some(page) if is_sound(behind, &page) => {
                let news = page.covered > behind;
                teller.take(page, self.delivered);
                news
            }
            None if code != Code::DONE => false,
            _ => {
                shared.lie(replica);
                false
            }
        };
        let timer = Timer::Poll(self.id, replica as u8);
        if news {
            shared.stop(timer, teller.due_us);
        } else {
            teller.waiting = true;
            let due = (teller.asked_at_us + u64::from(POLL_MS) * 1_000).max(now.mono_us);
            shared.reschedule(timer, &mut teller.due_us, due);
        }
    }

    /// A poll went unanswered for long, or a pause is over: the replica may be asked again.
    pub(super) fn due(&mut self, replica: usize) {
        if let Some(teller) = self.tellers.get_mut(replica) {
            teller.waiting = false;
            teller.poll = None;
        }
    }

    pub(super) fn link_down(&mut self, replica: usize, shared: &mut Shared) {
        self.due(replica);
        if let Some(teller) = self.tellers.get(replica) {
            shared.stop(Timer::Poll(self.id, replica as u8), teller.due_us);
        }
    }

    pub(super) fn end(&self, shared: &mut Shared) {
        for (replica, teller) in self.tellers.iter().enumerate() {
            shared.stop(Timer::Poll(self.id, replica as u8), teller.due_us);
        }
    }
}

impl Teller {
    /// Up to where it says there is nothing behind what is delivered.
    fn quiet_to(&self) -> Position {
        match self.events.front() {
            Some((position, _)) => before(*position).unwrap_or_default(),
            None => self.covered,
        }
    }

    /// Keeps what a page tells behind what is delivered.
    fn take(&mut self, page: Page, delivered: Position) {
        self.covered = self.covered.max(page.covered).max(delivered);
        self.events.extend(page.events.into_iter().filter(|(position, _)| *position > delivered));
    }
}

/// Whether a page is one: in order, behind what was asked for, and not beyond what it covers.
fn is_sound(behind: Position, page: &Page) -> bool {
    let mut last = behind;
    page.events.len() <= MAX_PAGE_EVENTS
        && page.events.iter().all(|(position, _)| std::mem::replace(&mut last, *position) < *position)
        && last <= page.covered
}
