//! The core itself: tickets, timers, and who a message is for.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use super::changes::{PageDecoder, Stream};
use super::limits::{MAX_READS, MAX_SUBSCRIPTIONS, RESEND_FIRST_MS, RESEND_LONGEST_MS};
use super::read::{Asked, Heard, OpenRead};
use super::readers::Readers;
use super::submit::{Submission, Submits};
use super::types::{
    ClientError, ClientMessage, Completion, CoreConfig, Output, ProofQuestion, ReadOptions, Refusals, ReplicaSet,
    ReplicaStatus, Said, Signer, SubmitError, SubmitOptions, Subscription, Ticket, bit,
};
use crate::types::{Code, Now, Position, ReplicaId};
use crate::wire::frame::Kind;
use crate::wire::limits::{MAX_QUERY, MAX_REPLICAS};
use crate::wire::message::{self, ArchivedAnswer, ArchivedProof, ArchivedStatusAnswer, StatusQuery};

/// What comes due; the number is that of the bundle, ticket, question or subscription.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Timer {
    Ticket(u64),
    Bundle(u64),
    Read(u64),
    Status(u64),
    Poll(u64, u8),
}

/// What all parts of the core use.
pub(super) struct Shared {
    pub(super) replicas: usize,
    pub(super) faults: usize,
    /// Replicas with a link.
    pub(super) links: u32,
    pub(super) outputs: VecDeque<Output>,
    pub(super) readers: Readers,
    timers: BTreeSet<(u64, Timer)>,
    lies: Vec<u64>,
    next_id: u64,
}

impl Shared {
    pub(super) fn id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// Equal answers that make a truth: f+1.
    pub(super) fn needed(&self) -> u32 {
        self.faults as u32 + 1
    }

    /// Answers that must be expected: n-f.
    pub(super) fn expected(&self) -> u32 {
        (self.replicas - self.faults) as u32
    }

    /// Sends to those of `to` that have a link.
    pub(super) fn send(&mut self, to: u32, kind: Kind, body: &Arc<[u8]>) {
        let to = to & self.links;
        if to != 0 {
            self.outputs.push_back(Output::Send { to: ReplicaSet(to), kind, body: Arc::clone(body) });
        }
    }

    /// Moves a timer from when it was due, 0 for not at all, to when it is due now.
    pub(super) fn reschedule(&mut self, timer: Timer, due_us: &mut u64, new_us: u64) {
        self.timers.remove(&(*due_us, timer));
        *due_us = new_us;
        self.timers.insert((new_us, timer));
    }

    pub(super) fn stop(&mut self, timer: Timer, due_us: u64) {
        self.timers.remove(&(due_us, timer));
    }

    pub(super) fn lie(&mut self, replica: usize) {
        if let Some(count) = self.lies.get_mut(replica) {
            *count += 1;
            self.readers.lied(replica);
        }
    }

    /// What is said about a replica of which nothing is known.
    pub(super) fn silence(&self, replica: usize) -> Said {
        if self.links & bit(replica) == 0 { Said::NotConnected } else { Said::Nothing }
    }
}

/// A doubling pause, in microseconds.
pub(super) fn pause_us(first_ms: u64, longest_ms: u64, attempt: u32) -> u64 {
    (first_ms << attempt.min(16)).min(longest_ms) * 1_000
}

pub(super) fn resend_us(attempt: u32) -> u64 {
    pause_us(RESEND_FIRST_MS, RESEND_LONGEST_MS, attempt)
}

enum Stage {
    /// Waits for a session.
    Queued,
    Bundle(u64),
    Read(u64),
    Status {
        id: u64,
        body: Arc<[u8]>,
        answers: Vec<Option<ReplicaStatus>>,
        /// Asked again then, us, and how often that was done.
        due_us: u64,
        attempt: u32,
    },
    /// One replica was asked.
    Proof {
        id: u64,
        of: u8,
        body: Arc<[u8]>,
    },
}

struct TicketState {
    deadline_us: u64,
    stage: Stage,
    /// The read that follows the barrier.
    then: Option<(Vec<u8>, ReadOptions)>,
    /// Something was signed and sent.
    sent: bool,
}

/// A client's state machine: see the module doc. Calls take the time; take the [`Output`]s after each.
pub struct ClientCore {
    shared: Shared,
    submits: Submits,
    tickets: BTreeMap<u64, TicketState>,
    reads: BTreeMap<u64, OpenRead>,
    status_ids: BTreeMap<u64, u64>,
    streams: BTreeMap<u64, Stream>,
    /// Polls under way: which subscription and replica.
    polls: BTreeMap<u64, (u64, u8)>,
    highest: u64,
}

impl ClientCore {
    /// A client that has done nothing yet.
    pub fn new(config: CoreConfig, signer: Box<dyn Signer>) -> Self {
        let replicas = config.replicas.clamp(1, MAX_REPLICAS);
        let shared = Shared {
            replicas,
            faults: config.faults(),
            links: 0,
            outputs: VecDeque::new(),
            readers: Readers::new(replicas, config.faults() + 1),
            timers: BTreeSet::new(),
            lies: vec![0; replicas],
            next_id: 0,
        };
        Self {
            shared,
            submits: Submits::new(config, signer),
            tickets: BTreeMap::new(),
            reads: BTreeMap::new(),
            status_ids: BTreeMap::new(),
            streams: BTreeMap::new(),
            polls: BTreeMap::new(),
            highest: 0,
        }
    }

    /// Submits operations (1 to 256, encoded for the application), to be executed one after the other.
    ///
    /// # Errors
    /// [`SubmitError::WindowFull`], [`SubmitError::Bundle`].
    pub fn submit(&mut self, operations: &[Vec<u8>], options: &SubmitOptions, now: Now) -> Result<Ticket, SubmitError> {
        self.begin_submission(operations, options, None, now)
    }

    /// Reads what f+1 replicas say alike.
    ///
    /// # Errors
    /// [`SubmitError::TooManyReads`], [`SubmitError::QueryTooLong`].
    pub fn query(&mut self, query: &[u8], options: &ReadOptions, now: Now) -> Result<Ticket, SubmitError> {
        self.check_read(query)?;
        let ticket = self.shared.id();
        let stage = Stage::Read(self.ask(ticket, query.to_vec(), options, 0, now));
        Ok(self.add_ticket(ticket, options.timeout_ms, stage, None, false, now))
    }

    /// A linearizable read: orders `barrier`, an operation that changes nothing, and reads at its position or later.
    ///
    /// # Errors
    /// As [`ClientCore::submit`] and [`ClientCore::query`].
    pub fn read_ordered(
        &mut self,
        barrier: &[u8],
        query: &[u8],
        options: &ReadOptions,
        now: Now,
    ) -> Result<Ticket, SubmitError> {
        self.check_read(query)?;
        let submit = SubmitOptions { timeout_ms: options.timeout_ms, ..SubmitOptions::default() };
        self.begin_submission(&[barrier.to_vec()], &submit, Some((query.to_vec(), *options)), now)
    }

    /// Asks every replica how it is; ends when all have answered or the time is over.
    ///
    /// # Errors
    /// [`SubmitError::TooManyReads`].
    pub fn status(&mut self, timeout_ms: u32, now: Now) -> Result<Ticket, SubmitError> {
        self.check_read(&[])?;
        let (ticket, id) = (self.shared.id(), self.shared.id());
        let mut body = Vec::new();
        message::encode(&StatusQuery { id }, &mut body);
        let body: Arc<[u8]> = body.into();
        self.shared.send(u32::MAX, Kind::StatusQuery, &body);
        self.status_ids.insert(id, ticket);
        let mut due_us = 0;
        self.shared.reschedule(Timer::Status(ticket), &mut due_us, now.mono_us + resend_us(0));
        let stage = Stage::Status { id, body, answers: vec![None; self.shared.replicas], due_us, attempt: 0 };
        Ok(self.add_ticket(ticket, timeout_ms, stage, None, false, now))
    }

    /// Asks one replica for something with its proof, or for what an export is made of. It is asked again when its link comes up; the
    /// caller verifies what comes, and asks another if it is not right.
    ///
    /// # Errors
    /// [`SubmitError::TooManyReads`], [`SubmitError::QueryTooLong`].
    pub fn prove(
        &mut self,
        question: &ProofQuestion,
        of: ReplicaId,
        timeout_ms: u32,
        now: Now,
    ) -> Result<Ticket, SubmitError> {
        let (ticket, id) = (self.shared.id(), self.shared.id());
        let message = question.message(id, timeout_ms);
        self.check_read(&message.name)?;
        let mut body = Vec::new();
        message::encode(&message, &mut body);
        let body: Arc<[u8]> = body.into();
        self.shared.send(bit(of.index()), Kind::Prove, &body);
        Ok(self.add_ticket(ticket, timeout_ms, Stage::Proof { id, of: of.0, body }, None, false, now))
    }

    /// Begins to follow the events after `from`. Take them with [`ClientCore::next_change`].
    ///
    /// # Errors
    /// [`SubmitError::TooManySubscriptions`].
    pub fn subscribe(
        &mut self,
        decoder: Box<dyn PageDecoder>,
        from: Position,
        now: Now,
    ) -> Result<Subscription, SubmitError> {
        if self.streams.len() >= MAX_SUBSCRIPTIONS {
            return Err(SubmitError::TooManySubscriptions);
        }
        let id = self.shared.id();
        let stream = Stream::new(id, decoder, from, self.shared.replicas);
        self.streams.insert(id, stream);
        self.poll_stream(id, now);
        Ok(Subscription(id))
    }

    /// The next event of a subscription that f+1 replicas agree on, if it is there.
    pub fn next_change(&mut self, subscription: Subscription, now: Now) -> Option<(Position, Vec<u8>)> {
        let stream = self.streams.get_mut(&subscription.0)?;
        let event = stream.next(&mut self.shared);
        self.poll_stream(subscription.0, now);
        event
    }

    /// Why a subscription goes on no more: f+1 replicas say that the client's key was revoked or is not valid now.
    pub fn refusal(&self, subscription: Subscription) -> Option<Code> {
        self.streams.get(&subscription.0).and_then(|stream| stream.refused(&self.shared))
    }

    /// Up to where a subscription is complete: to resume from, now or in another process.
    pub fn resume_position(&self, subscription: Subscription) -> Option<Position> {
        self.streams.get(&subscription.0).map(Stream::delivered)
    }

    /// Ends a subscription.
    pub fn unsubscribe(&mut self, subscription: Subscription) {
        if let Some(stream) = self.streams.remove(&subscription.0) {
            stream.end(&mut self.shared);
            self.polls.retain(|_, (stream, _)| *stream != subscription.0);
        }
    }

    /// What the core wants done next.
    pub fn next_output(&mut self) -> Option<Output> {
        self.shared.outputs.pop_front()
    }

    /// When [`ClientCore::tick`] is due, monotonic microseconds.
    pub fn next_deadline(&self) -> Option<u64> {
        self.shared.timers.first().map(|(due, _)| *due)
    }

    /// Highest history size that f+1 replicas have proved to this core.
    pub fn highest_size(&self) -> u64 {
        self.highest
    }

    /// Tickets that have not ended.
    pub fn open_tickets(&self) -> usize {
        self.tickets.len()
    }

    /// Answers by each replica that contradict what f+1 others said, or itself.
    pub fn lies(&self) -> &[u64] {
        &self.shared.lies
    }

    /// How often replicas refused this core's bundles since this was asked last, by code. A bundle that is sent again may be refused again.
    pub fn take_refusals(&mut self) -> BTreeMap<Code, Refusals> {
        self.submits.take_refusals()
    }

    /// A link to a replica stands, or is gone.
    pub fn on_link(&mut self, replica: ReplicaId, up: bool, now: Now) {
        let bit = bit(replica.index());
        if replica.index() >= self.shared.replicas {
            return;
        }
        if !up {
            self.shared.links &= !bit;
            self.shared.readers.links(self.shared.links);
            for (id, read) in self.reads.iter_mut().filter(|(_, read)| read.lacks(bit)) {
                read.widen(*id, now, &mut self.shared);
            }
            self.polls.retain(|_, (_, asked)| *asked != replica.0);
            for stream in self.streams.values_mut() {
                stream.link_down(replica.index(), &mut self.shared);
            }
            return;
        }
        self.shared.links |= bit;
        self.shared.readers.links(self.shared.links);
        self.submits.resend_to(bit, &mut self.shared);
        for read in self.reads.values() {
            read.resend_to(bit, &mut self.shared);
        }
        for state in self.tickets.values() {
            match &state.stage {
                Stage::Status { body, answers, .. } if answers[replica.index()].is_none() => {
                    self.shared.send(bit, Kind::StatusQuery, body);
                }
                Stage::Proof { body, of, .. } if *of == replica.0 => self.shared.send(bit, Kind::Prove, body),
                _ => {}
            }
        }
        let streams: Vec<u64> = self.streams.keys().copied().collect();
        streams.into_iter().for_each(|id| self.poll_stream(id, now));
    }

    /// Takes a message of a replica, which its link has authenticated.
    pub fn on_message(&mut self, replica: ReplicaId, message: ClientMessage<'_>, now: Now) {
        let replica = replica.index();
        if replica >= self.shared.replicas {
            return;
        }
        match message {
            ClientMessage::Replies(replies) => self.submits.on_replies(replica, replies, now, &mut self.shared),
            ClientMessage::Refused(refused) => self.submits.on_refused(replica, refused, now, &mut self.shared),
            ClientMessage::Answer(answer) => self.on_answer(replica, answer, now),
            ClientMessage::Status(answer) => self.on_status(replica, answer),
            ClientMessage::Proof(proof) => self.on_proof(replica, proof),
        }
        self.settle(now);
    }

    /// Does what has come due.
    pub fn tick(&mut self, now: Now) {
        while let Some(&(due, timer)) = self.shared.timers.first() {
            if due > now.mono_us {
                break;
            }
            self.shared.timers.pop_first();
            match timer {
                Timer::Ticket(ticket) => self.time_out(ticket),
                Timer::Bundle(bundle) => self.submits.resend(bundle, now, &mut self.shared),
                Timer::Read(id) => self.read_due(id, now),
                Timer::Status(ticket) => self.resend_status(ticket, now),
                Timer::Poll(stream, replica) => {
                    if let Some(stream) = self.streams.get_mut(&stream) {
                        stream.due(usize::from(replica));
                    }
                    self.polls.retain(|_, polled| *polled != (stream, replica));
                    self.poll_stream(stream, now);
                }
            }
        }
        self.settle(now);
    }

    fn check_read(&self, query: &[u8]) -> Result<(), SubmitError> {
        if query.len() > MAX_QUERY {
            return Err(SubmitError::QueryTooLong(query.len()));
        }
        let reads = self.tickets.values().filter(|state| {
            state.then.is_some() || matches!(state.stage, Stage::Read(_) | Stage::Status { .. } | Stage::Proof { .. })
        });
        if reads.take(MAX_READS).count() < MAX_READS { Ok(()) } else { Err(SubmitError::TooManyReads) }
    }

    fn begin_submission(
        &mut self,
        operations: &[Vec<u8>],
        options: &SubmitOptions,
        then: Option<(Vec<u8>, ReadOptions)>,
        now: Now,
    ) -> Result<Ticket, SubmitError> {
        let submission = Submission::new(operations, options, now)?;
        self.submits.check_room(operations.len())?;
        let ticket = self.shared.id();
        self.add_ticket(ticket, options.timeout_ms, Stage::Queued, then, false, now);
        if let Err(error) = self.submits.enqueue(ticket, submission, now, &mut self.shared) {
            self.remove_ticket(ticket);
            return Err(error);
        }
        self.settle(now);
        Ok(Ticket(ticket))
    }

    fn add_ticket(
        &mut self,
        ticket: u64,
        timeout_ms: u32,
        stage: Stage,
        then: Option<(Vec<u8>, ReadOptions)>,
        sent: bool,
        now: Now,
    ) -> Ticket {
        let mut deadline_us = 0;
        let due = now.mono_us + u64::from(timeout_ms) * 1_000;
        self.shared.reschedule(Timer::Ticket(ticket), &mut deadline_us, due);
        self.tickets.insert(ticket, TicketState { deadline_us, stage, then, sent });
        Ticket(ticket)
    }

    fn remove_ticket(&mut self, ticket: u64) -> Option<TicketState> {
        let state = self.tickets.remove(&ticket)?;
        self.shared.stop(Timer::Ticket(ticket), state.deadline_us);
        Some(state)
    }

    fn finish(&mut self, ticket: u64, result: Result<Completion, ClientError>) {
        if let Some(state) = self.remove_ticket(ticket) {
            match state.stage {
                Stage::Read(id) => self.drop_read(id),
                Stage::Status { id, due_us, .. } => {
                    self.status_ids.remove(&id);
                    self.shared.stop(Timer::Status(ticket), due_us);
                }
                Stage::Queued | Stage::Bundle(_) | Stage::Proof { .. } => {}
            }
            self.shared.outputs.push_back(Output::Done { ticket: Ticket(ticket), result });
        }
    }

    fn drop_read(&mut self, id: u64) {
        if let Some(read) = self.reads.remove(&id) {
            self.shared.stop(Timer::Read(id), read.due_us);
        }
    }

    /// Takes over what the submissions' part has found, until there is nothing new.
    fn settle(&mut self, now: Now) {
        loop {
            self.submits.pump(now, &mut self.shared);
            let Some((ticket, heard)) = self.submits.next_news() else { return };
            match heard {
                super::submit::News::Sent(bundle) => {
                    if let Some(state) = self.tickets.get_mut(&ticket) {
                        state.stage = Stage::Bundle(bundle);
                        state.sent = true;
                    }
                }
                super::submit::News::Proved(size) => self.highest = self.highest.max(size),
                super::submit::News::Ended(Err(error)) => self.finish(ticket, Err(error)),
                super::submit::News::Ended(Ok(results)) => self.executed(ticket, results, now),
            }
        }
    }

    fn executed(&mut self, ticket: u64, results: Vec<super::RequestResult>, now: Now) {
        let then = self.tickets.get_mut(&ticket).and_then(|state| state.then.take());
        match (then, results.last()) {
            (Some((query, options)), Some(barrier)) => {
                let id = self.ask(ticket, query, &options, barrier.position.entry + 1, now);
                if let Some(state) = self.tickets.get_mut(&ticket) {
                    state.stage = Stage::Read(id);
                    state.sent = false;
                }
            }
            _ => self.finish(ticket, Ok(Completion::Executed(results))),
        }
    }

    fn ask(&mut self, ticket: u64, query: Vec<u8>, options: &ReadOptions, at_least: u64, now: Now) -> u64 {
        let min_size = options.min_size.unwrap_or(self.highest).max(at_least);
        let id = self.shared.id();
        let asked = Asked { ticket, query, min_size, wait_ms: options.wait_ms };
        let read = OpenRead::ask(id, asked, 0, now, &mut self.shared);
        self.reads.insert(id, read);
        id
    }

    fn on_answer(&mut self, replica: usize, answer: &ArchivedAnswer, now: Now) {
        let id = answer.id.to_native();
        if let Some(&(stream, asked)) = self.polls.get(&id) {
            if usize::from(asked) != replica {
                return;
            }
            self.polls.remove(&id);
            if let Some(stream) = self.streams.get_mut(&stream) {
                stream.on_page(replica, answer, now, &mut self.shared);
            }
            self.poll_stream(stream, now);
            return;
        }
        let Some(read) = self.reads.get_mut(&id) else { return };
        match read.on_answer(id, replica, answer, now, &mut self.shared) {
            Heard::Nothing => {}
            Heard::Truth(result) => {
                self.highest = self.highest.max(result.size);
                let ticket = read.asked.ticket;
                self.finish(ticket, Ok(Completion::Read(result)));
            }
        }
    }

    fn read_due(&mut self, id: u64, now: Now) {
        let Some(mut read) = self.reads.remove(&id) else { return };
        read.due_us = 0;
        if !read.is_hopeless(&self.shared) {
            read.resend(id, now, &mut self.shared);
            self.reads.insert(id, read);
            return;
        }
        let new = self.shared.id();
        if let Some(state) = self.tickets.get_mut(&read.asked.ticket) {
            state.stage = Stage::Read(new);
        }
        let read = read.ask_again(new, now, &mut self.shared);
        self.reads.insert(new, read);
    }

    fn on_status(&mut self, replica: usize, answer: &ArchivedStatusAnswer) {
        let Some(&ticket) = self.status_ids.get(&answer.id.to_native()) else { return };
        let Some(TicketState { stage: Stage::Status { answers, .. }, .. }) = self.tickets.get_mut(&ticket) else {
            return;
        };
        let Some(place) = answers.get_mut(replica).filter(|place| place.is_none()) else { return };
        *place = Some(ReplicaStatus::from(answer));
        if answers.iter().all(Option::is_some) {
            let answers = std::mem::take(answers);
            self.finish(ticket, Ok(Completion::Status(answers)));
        }
    }

    fn on_proof(&mut self, replica: usize, proof: &ArchivedProof) {
        let asked = proof.id.to_native();
        let is_it = |state: &TicketState| matches!(&state.stage, Stage::Proof { id, of, .. } if *id == asked && usize::from(*of) == replica);
        let Some(ticket) = self.tickets.iter().find(|(_, state)| is_it(state)).map(|(ticket, _)| *ticket) else {
            return;
        };
        let (code, size) = (Code(proof.code.to_native()), proof.size.to_native());
        self.finish(ticket, Ok(Completion::Proof { code, size, body: proof.body.to_vec() }));
    }

    /// Asks those again that have not answered.
    fn resend_status(&mut self, ticket: u64, now: Now) {
        let Some(TicketState { stage: Stage::Status { body, answers, due_us, attempt, .. }, .. }) =
            self.tickets.get_mut(&ticket)
        else {
            return;
        };
        let silent = answers.iter().enumerate().filter(|(_, answer)| answer.is_none());
        let silent = silent.fold(0, |set, (replica, _)| set | bit(replica));
        *attempt = attempt.saturating_add(1);
        self.shared.reschedule(Timer::Status(ticket), due_us, now.mono_us + resend_us(*attempt));
        self.shared.send(silent, Kind::StatusQuery, body);
    }

    fn poll_stream(&mut self, id: u64, now: Now) {
        if let Some(stream) = self.streams.get_mut(&id) {
            for (poll, replica) in stream.poll(now, &mut self.shared) {
                self.polls.retain(|_, polled| *polled != (id, replica));
                self.polls.insert(poll, (id, replica));
            }
        }
    }

    fn time_out(&mut self, ticket: u64) {
        let Some(state) = self.tickets.get_mut(&ticket) else { return };
        let said = match &mut state.stage {
            Stage::Status { answers, .. } => {
                let answers = std::mem::take(answers);
                return self.finish(ticket, Ok(Completion::Status(answers)));
            }
            Stage::Queued => {
                self.submits.withdraw(ticket);
                (0..self.shared.replicas).map(|replica| self.shared.silence(replica)).collect()
            }
            Stage::Bundle(bundle) => self.submits.abandon(*bundle, &self.shared),
            Stage::Read(id) => self.reads.get(id).map(|read| read.said(&self.shared)).unwrap_or_default(),
            Stage::Proof { .. } => (0..self.shared.replicas).map(|replica| self.shared.silence(replica)).collect(),
        };
        let error = ClientError::Timeout { needed: self.shared.faults + 1, answered: said, sent: state.sent };
        self.finish(ticket, Err(error));
    }
}
