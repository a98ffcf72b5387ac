//! Sessions and bundles: numbering, sending, and the tally of replies.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::core::{Shared, Timer};
use super::limits::{MAX_REFUSAL_CODES, RETRY_MS, UNKNOWN_SESSION_WORDS};
use super::patience::Patience;
use super::tally::{Counted, Open, Word};
use super::types::{
    ClientError, CoreConfig, NotAfter, Refusals, RequestResult, Said, Signer, SubmitError, SubmitOptions, bit,
};
use crate::types::{Code, Digest, Now, Position, TimeMs};
use crate::wire::bundle::{Bundle, OPEN_SESSION, Request};
use crate::wire::error::BundleError;
use crate::wire::frame::Kind;
use crate::wire::limits::MAX_BUNDLE_REQUESTS;
use crate::wire::message::{self, ArchivedRefused, ArchivedReplies, Reply, Submit, WireBundle};

/// Operations that wait to be signed.
pub(super) struct Submission {
    /// Encoded requests.
    requests: Vec<Vec<u8>>,
}

impl Submission {
    pub(super) fn new(operations: &[Vec<u8>], options: &SubmitOptions, now: Now) -> Result<Self, SubmitError> {
        let count = operations.len();
        if count == 0 || count > MAX_BUNDLE_REQUESTS {
            return Err(BundleError::Count { count }.into());
        }
        let not_after_ms = match options.not_after {
            NotAfter::Deadline => Some(now.wall_ms.saturating_add(TimeMs::from(options.timeout_ms))),
            NotAfter::At(time) => Some(time),
            NotAfter::Never => None,
        };
        let request = |operation: &Vec<u8>| Request { class: options.class, not_after_ms, operation }.encode();
        Ok(Self { requests: operations.iter().map(request).collect() })
    }
}

/// What became of a ticket.
pub(super) enum News {
    /// It is in this bundle now.
    Sent(u64),
    /// f+1 replicas have executed up to this size.
    Proved(u64),
    /// It has ended.
    Ended(Result<Vec<RequestResult>, ClientError>),
}

/// What a replica made of a bundle.
#[derive(Clone, Default)]
struct FromReplica {
    /// Requests that it replied to or refused for good.
    answered: usize,
    refused: Option<Code>,
    /// It refused for now and is asked again then, by itself; 0 where it did not.
    retry_at_us: u64,
    /// Times in a row that it refused for now.
    refusals: u32,
    /// Times that the bundle was sent to it again.
    sendings: u32,
    /// Different sendings to which it answered "unknown session", and the last of them.
    unknown_session: u8,
    unknown_sending: Option<u32>,
}

struct OpenBundle {
    digest: Digest,
    body: Arc<[u8]>,
    /// Which of this client's sessions; `opens` if it is the one that opens it.
    generation: u64,
    opens: bool,
    first: u64,
    requests: Vec<Open>,
    unresolved: usize,
    /// `None` once its ticket has ended.
    ticket: Option<u64>,
    replicas: Vec<FromReplica>,
    /// Replicas that it was sent to, and whether to one of them more than once.
    sent_to: u32,
    sent_again: bool,
    attempt: u32,
    /// When it was sent first.
    sent_us: u64,
    /// When all that owe an answer are asked again.
    resend_at_us: u64,
    due_us: u64,
}

enum Session {
    Closed,
    Opening,
    Open(u64),
}

/// All submissions of one client.
pub(super) struct Submits {
    origin: String,
    window: u64,
    max_requests: usize,
    signer: Box<dyn Signer>,
    session: Session,
    generation: u64,
    next_number: u64,
    last_opening_ms: TimeMs,
    bundles: BTreeMap<u64, OpenBundle>,
    by_digest: BTreeMap<Digest, u64>,
    queue: VecDeque<(u64, Submission)>,
    queued_requests: u64,
    news: VecDeque<(u64, News)>,
    refusals: BTreeMap<Code, Refusals>,
    patience: Patience,
}

impl Submits {
    pub(super) fn new(config: CoreConfig, signer: Box<dyn Signer>) -> Self {
        Self {
            origin: config.origin,
            window: config.session_window.max(2),
            max_requests: config.max_bundle_requests.min(MAX_BUNDLE_REQUESTS),
            signer,
            session: Session::Closed,
            generation: 0,
            next_number: 0,
            last_opening_ms: TimeMs::MIN,
            bundles: BTreeMap::new(),
            by_digest: BTreeMap::new(),
            queue: VecDeque::new(),
            queued_requests: 0,
            news: VecDeque::new(),
            refusals: BTreeMap::new(),
            patience: Patience::default(),
        }
    }

    pub(super) fn take_refusals(&mut self) -> BTreeMap<Code, Refusals> {
        std::mem::take(&mut self.refusals)
    }

    pub(super) fn next_news(&mut self) -> Option<(u64, News)> {
        self.news.pop_front()
    }

    /// Numbers from the oldest unresolved request of the session to the newest, those of the queue included.
    fn in_flight(&self) -> u64 {
        let oldest = self.bundles.values().find(|bundle| bundle.generation == self.generation);
        let sent = match self.session {
            Session::Closed => 0,
            _ => oldest.map_or(0, |bundle| self.next_number - bundle.first),
        };
        sent + self.queued_requests
    }

    pub(super) fn check_room(&self, count: usize) -> Result<(), SubmitError> {
        if count > self.max_requests {
            return Err(BundleError::Count { count }.into());
        }
        let in_flight = self.in_flight();
        let full = Err(SubmitError::WindowFull { in_flight, window: self.window });
        if in_flight + count as u64 > self.window {
            return full;
        }
        if (self.bundles.len() + self.queue.len()) as u64 >= self.window { full } else { Ok(()) }
    }

    /// Sends a submission, or queues it while the session is being opened.
    pub(super) fn enqueue(
        &mut self,
        ticket: u64,
        submission: Submission,
        now: Now,
        shared: &mut Shared,
    ) -> Result<(), SubmitError> {
        match self.session {
            Session::Opening => {
                // Found out now whether it can be signed at all, since nobody hears of it later.
                self.sign(Some(u64::MAX), u64::MAX >> 1, &submission.requests, now.wall_ms)?;
                self.push_queue(ticket, submission);
                Ok(())
            }
            _ => self.send_or_open(ticket, submission, now, shared),
        }
    }

    fn push_queue(&mut self, ticket: u64, submission: Submission) {
        self.queued_requests += submission.requests.len() as u64;
        self.queue.push_back((ticket, submission));
    }

    /// Sends what waits for a session, as far as there is one or one can be opened.
    pub(super) fn pump(&mut self, now: Now, shared: &mut Shared) {
        while !matches!(self.session, Session::Opening) {
            let Some((ticket, submission)) = self.queue.pop_front() else { return };
            self.queued_requests -= submission.requests.len() as u64;
            if self.send_or_open(ticket, submission, now, shared).is_err() {
                // It was signed once for trial, so this is a bundle that only its numbers made larger.
                let refused = ClientError::Refused { code: Code::TOO_LARGE, executed: Vec::new() };
                self.news.push_back((ticket, News::Ended(Err(refused))));
            }
        }
    }

    fn send_or_open(
        &mut self,
        ticket: u64,
        submission: Submission,
        now: Now,
        shared: &mut Shared,
    ) -> Result<(), SubmitError> {
        if let Session::Open(session) = self.session {
            let first = self.next_number;
            let bundle = self.sign(Some(session), first, &submission.requests, now.wall_ms)?;
            self.next_number = first + submission.requests.len() as u64;
            self.start(&bundle, Some(ticket), now, shared);
            return Ok(());
        }
        // The replicas open nothing twice, and nothing with a time that is not above that of the last opening.
        let time_ms = now.wall_ms.max(self.last_opening_ms.saturating_add(1));
        let opening = Request { class: 0, not_after_ms: None, operation: &OPEN_SESSION }.encode();
        let mut requests = vec![opening];
        requests.extend_from_slice(&submission.requests);
        let together = match requests.len() {
            count if count as u64 > self.window || count > self.max_requests => Err(BundleError::Count { count }),
            _ => self.sign(None, 0, &requests, time_ms),
        };
        let (bundle, alone) = match together {
            Ok(bundle) => (bundle, None),
            Err(BundleError::Count { .. } | BundleError::TooLarge) => {
                self.sign(Some(u64::MAX), u64::MAX >> 1, &submission.requests, now.wall_ms)?;
                requests.truncate(1);
                (self.sign(None, 0, &requests, time_ms)?, Some(submission))
            }
            Err(error) => return Err(error.into()),
        };
        self.last_opening_ms = time_ms;
        self.generation += 1;
        self.session = Session::Opening;
        self.next_number = requests.len() as u64;
        let owner = if alone.is_some() { None } else { Some(ticket) };
        self.start(&bundle, owner, now, shared);
        if let Some(submission) = alone {
            self.push_queue(ticket, submission);
        }
        Ok(())
    }

    fn sign(
        &self,
        session: Option<u64>,
        first: u64,
        requests: &[Vec<u8>],
        time_ms: TimeMs,
    ) -> Result<Bundle, BundleError> {
        let signer = &self.signer;
        Bundle::sign(&self.origin, signer.public(), session, first, requests, time_ms, |bytes| signer.sign(bytes))
    }

    fn start(&mut self, bundle: &Bundle, ticket: Option<u64>, now: Now, shared: &mut Shared) {
        let wire =
            WireBundle { cose: bundle.cose().to_vec(), requests: bundle.requests().map(<[u8]>::to_vec).collect() };
        let mut body = Vec::new();
        message::encode(&Submit { bundle: wire }, &mut body);
        let body: Arc<[u8]> = body.into();
        shared.send(u32::MAX, Kind::Submit, &body);
        let (id, header) = (shared.id(), bundle.header());
        let count = usize::from(header.count);
        let mut open = OpenBundle {
            digest: bundle.digest(),
            body,
            generation: self.generation,
            opens: header.session.is_none(),
            first: header.first,
            requests: std::iter::repeat_with(Open::default).take(count).collect(),
            unresolved: count,
            ticket,
            replicas: vec![FromReplica::default(); shared.replicas],
            sent_to: shared.links,
            sent_again: false,
            attempt: 0,
            sent_us: now.mono_us,
            resend_at_us: now.mono_us + self.patience.pause_us(0),
            due_us: 0,
        };
        shared.reschedule(Timer::Bundle(id), &mut open.due_us, open.resend_at_us);
        self.by_digest.insert(open.digest, id);
        self.bundles.insert(id, open);
        if let Some(ticket) = ticket {
            self.news.push_back((ticket, News::Sent(id)));
        }
    }

    pub(super) fn resend_to(&mut self, replica_bit: u32, shared: &mut Shared) {
        for bundle in self.bundles.values_mut() {
            bundle.send(replica_bit & bundle.owing(|_| true), shared);
        }
    }

    pub(super) fn resend(&mut self, id: u64, now: Now, shared: &mut Shared) {
        let Some(bundle) = self.bundles.get_mut(&id) else { return };
        let asks_all = bundle.resend_at_us <= now.mono_us;
        if asks_all {
            bundle.attempt = bundle.attempt.saturating_add(1);
            bundle.resend_at_us = now.mono_us + self.patience.pause_us(bundle.attempt);
        }
        // One replica's wish to be asked again soon is about that replica alone.
        let is_due = |from: &FromReplica| match from.retry_at_us {
            0 => asks_all,
            at => at <= now.mono_us,
        };
        let to = bundle.owing(is_due);
        bundle.send(to, shared);
        for (replica, from) in bundle.replicas.iter_mut().enumerate() {
            from.sendings = from.sendings.saturating_add(u32::from(to & bit(replica) != 0));
            if from.retry_at_us <= now.mono_us {
                from.retry_at_us = 0;
            }
        }
        let due = bundle.next_due_us();
        shared.reschedule(Timer::Bundle(id), &mut bundle.due_us, due);
    }

    /// Takes back what was never signed.
    pub(super) fn withdraw(&mut self, ticket: u64) {
        if let Some(index) = self.queue.iter().position(|(queued, _)| *queued == ticket)
            && let Some((_, submission)) = self.queue.remove(index)
        {
            self.queued_requests -= submission.requests.len() as u64;
        }
    }

    /// The ticket of a bundle has ended; the bundle goes on, to use up its numbers. Gives what replicas said about it.
    pub(super) fn abandon(&mut self, id: u64, shared: &Shared) -> Vec<Said> {
        let Some(bundle) = self.bundles.get_mut(&id) else { return Vec::new() };
        bundle.ticket = None;
        (0..shared.replicas).map(|replica| bundle.said(replica).unwrap_or_else(|| shared.silence(replica))).collect()
    }

    pub(super) fn on_replies(&mut self, replica: usize, message: &ArchivedReplies, now: Now, shared: &mut Shared) {
        let Some(&id) = self.by_digest.get(&Digest(message.bundle)) else { return };
        let Some(bundle) = self.bundles.get_mut(&id) else { return };
        for reply in message.replies.iter() {
            let place =
                reply.number.to_native().checked_sub(bundle.first).and_then(|place| usize::try_from(place).ok());
            match place.and_then(|place| bundle.requests.get_mut(place)) {
                None => shared.lie(replica),
                Some(open) => match open.on_reply(replica, reply, shared) {
                    Counted::Before => {}
                    Counted::Now { again, decided } => {
                        bundle.replicas[replica].answered += usize::from(!again);
                        bundle.unresolved -= usize::from(decided);
                    }
                },
            }
        }
        if bundle.unresolved == 0 {
            self.patience.took(now.mono_us.saturating_sub(bundle.sent_us));
        }
        self.after_words(id, shared);
    }

    pub(super) fn on_refused(&mut self, replica: usize, message: &ArchivedRefused, now: Now, shared: &mut Shared) {
        let Some(&id) = self.by_digest.get(&Digest(message.bundle)) else { return };
        let Some(bundle) = self.bundles.get_mut(&id) else { return };
        let (code, retry_ms) = (Code(message.code.to_native()), u64::from(message.retry_after_ms.to_native()));
        bundle.replicas[replica].refused = Some(code);
        if self.refusals.len() < MAX_REFUSAL_CODES || self.refusals.contains_key(&code) {
            self.refusals.entry(code).or_default().add(message.retry_after_ms.to_native());
        }
        if retry_ms > 0
            || matches!(
                code,
                Code::OVERLOADED | Code::UNAVAILABLE | Code::LOW_SPACE | Code::BEYOND_WINDOW | Code::UNKNOWN_SESSION
            )
        {
            let lost = code == Code::UNKNOWN_SESSION && bundle.on_unknown_session(replica, shared);
            if lost {
                let generation = bundle.generation;
                self.lose_session(generation, shared);
                return;
            }
            let retry_ms = if retry_ms > 0 { retry_ms } else { self.patience.pause_us(bundle.attempt) / 1_000 };
            let from = &mut bundle.replicas[replica];
            if from.retry_at_us > now.mono_us {
                return;
            }
            let back_off = RETRY_MS.0 << from.refusals.min(16);
            from.refusals = from.refusals.saturating_add(1);
            from.retry_at_us = now.mono_us + retry_ms.max(back_off).min(RETRY_MS.1) * 1_000;
            let due = bundle.next_due_us();
            shared.reschedule(Timer::Bundle(id), &mut bundle.due_us, due);
            return;
        }
        for place in bundle.places(message.first.to_native(), message.count.to_native()) {
            if let Counted::Now { again, decided } = bundle.requests[place].on_refused(replica, code, shared) {
                bundle.replicas[replica].answered += usize::from(!again);
                bundle.unresolved -= usize::from(decided);
            }
        }
        self.after_words(id, shared);
    }

    /// Looks at what new words decided about a bundle.
    fn after_words(&mut self, id: u64, shared: &mut Shared) {
        let Some(bundle) = self.bundles.get(&id) else { return };
        if bundle.opens && bundle.generation == self.generation && matches!(self.session, Session::Opening) {
            match &bundle.requests[0].verdict {
                Some(Word::Reply(reply)) if Code(reply.code) == Code::DONE => {
                    self.session = Session::Open(reply.session);
                }
                Some(_) => self.session = Session::Closed,
                None => {}
            }
        }
        // The replicas may have closed the session and said so in the order instead of before it.
        let unknown = |open: &Open| matches!(&open.verdict, Some(Word::Reply(reply)) if Code(reply.code) == Code::UNKNOWN_SESSION);
        if bundle.requests.iter().any(unknown) {
            let generation = bundle.generation;
            self.lose_session(generation, shared);
        } else if bundle.unresolved == 0 {
            self.complete(id, shared);
        }
    }

    fn complete(&mut self, id: u64, shared: &mut Shared) {
        let Some(bundle) = self.remove(id, shared) else { return };
        let own = usize::from(bundle.opens);
        let may_have_run = bundle.may_have_run();
        let (mut executed, mut refused, mut size) = (Vec::with_capacity(bundle.requests.len()), None, 0);
        for (place, open) in bundle.requests.into_iter().enumerate() {
            match open.verdict {
                Some(Word::Reply(reply)) => {
                    size = size.max(reply.entry.saturating_add(1));
                    if place >= own {
                        executed.push(result(place - own, reply));
                    }
                }
                Some(Word::Refused(code)) => refused = refused.or(Some(code)),
                None => {}
            }
        }
        if refused.is_some() && bundle.generation == self.generation {
            // Its numbers may never be used up, so the session's window could not move beyond them.
            self.session = Session::Closed;
        }
        let ticket = bundle.ticket.unwrap_or(0);
        self.news.push_back((ticket, News::Proved(size)));
        if bundle.ticket.is_some() {
            let result = match refused {
                Some(_) if may_have_run => Err(ClientError::SessionLost),
                Some(code) => Err(ClientError::Refused { code, executed }),
                None => Ok(executed),
            };
            self.news.push_back((ticket, News::Ended(result)));
        }
    }

    fn lose_session(&mut self, generation: u64, shared: &mut Shared) {
        let lost = self.bundles.iter().filter(|(_, bundle)| bundle.generation == generation).map(|(id, _)| *id);
        for id in lost.collect::<Vec<_>>() {
            if let Some(OpenBundle { ticket: Some(ticket), .. }) = self.remove(id, shared) {
                self.news.push_back((ticket, News::Ended(Err(ClientError::SessionLost))));
            }
        }
        if generation == self.generation {
            self.session = Session::Closed;
        }
    }

    fn remove(&mut self, id: u64, shared: &mut Shared) -> Option<OpenBundle> {
        let bundle = self.bundles.remove(&id)?;
        self.by_digest.remove(&bundle.digest);
        shared.stop(Timer::Bundle(id), bundle.due_us);
        Some(bundle)
    }
}

fn result(operation: usize, reply: Reply) -> RequestResult {
    RequestResult {
        operation,
        position: Position { entry: reply.entry, request: reply.request },
        sequence: reply.sequence,
        time_ms: reply.time_ms,
        code: Code(reply.code),
        changes: reply.changes.into_vec(),
        detail: reply.detail,
    }
}

impl OpenBundle {
    fn send(&mut self, to: u32, shared: &mut Shared) {
        let to = to & shared.links;
        self.sent_again |= self.sent_to & to != 0;
        self.sent_to |= to;
        shared.send(to, Kind::Submit, &self.body);
    }

    /// Whether a verdict is one that replicas also give on what they executed and have forgotten: a number is stale only once it
    /// was used up, and an opening that came before may have run and its session be closed by now.
    fn may_have_run(&self) -> bool {
        self.requests.iter().any(|open| match open.verdict {
            Some(Word::Refused(Code::STALE_NUMBER)) => true,
            Some(Word::Refused(Code::EXPIRED)) => self.opens && self.sent_again,
            _ => false,
        })
    }

    /// Replicas that have not said all about it, of those that `may_be_asked`.
    fn owing(&self, may_be_asked: impl Fn(&FromReplica) -> bool) -> u32 {
        let owes = |from: &FromReplica| from.answered < self.requests.len() && may_be_asked(from);
        let bits = self.replicas.iter().enumerate().filter(|(_, from)| owes(from)).map(|(replica, _)| bit(replica));
        bits.fold(0, |set, bit| set | bit)
    }

    /// When somebody is to be asked again.
    fn next_due_us(&self) -> u64 {
        let retries = self.replicas.iter().map(|from| from.retry_at_us).filter(|at| *at > 0);
        retries.fold(self.resend_at_us, u64::min)
    }

    /// The requests that a refusal is about: those it names, or all where it names none.
    fn places(&self, first: u64, count: u32) -> std::ops::Range<usize> {
        let length = self.requests.len();
        if count == 0 {
            return 0..length;
        }
        let place = |number: u64| usize::try_from(number.saturating_sub(self.first)).unwrap_or(length).min(length);
        place(first)..place(first.saturating_add(u64::from(count)))
    }

    /// Notes "unknown session"; whether enough have said so often enough.
    fn on_unknown_session(&mut self, replica: usize, shared: &Shared) -> bool {
        let from = &mut self.replicas[replica];
        if from.unknown_sending != Some(from.sendings) {
            from.unknown_sending = Some(from.sendings);
            from.unknown_session = from.unknown_session.saturating_add(1);
        }
        let sure = self.replicas.iter().filter(|from| from.unknown_session >= UNKNOWN_SESSION_WORDS).count();
        sure as u64 >= u64::from(shared.needed())
    }

    /// What a replica said about the first request without a verdict.
    fn said(&self, replica: usize) -> Option<Said> {
        let open = self.requests.iter().find(|open| open.verdict.is_none())?;
        let word = open.words.iter().find(|(who, _)| who & bit(replica) != 0).map(|(_, word)| word);
        match word {
            Some(Word::Reply(reply)) => {
                let position = Position { entry: reply.entry, request: reply.request };
                Some(Said::Executed(position, Code(reply.code)))
            }
            Some(Word::Refused(code)) => Some(Said::Refused(*code)),
            None => self.replicas[replica].refused.map(Said::Refused),
        }
    }
}
