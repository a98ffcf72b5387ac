//! Simulated clients: they sign real bundles, send them to all replicas, retransmit, and take a result on f+1 equal replies.
//!
//! They share no code with the client core, so an error there cannot hide one here.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::application::Operation;
use super::plan::{ClientTactic, Plan};
use super::random::Random;
use super::reads::{Found, Reads};
use crate::crypto::keys::SecretKey;
use crate::types::{Code, Digest, Now, PublicKey, Signature};
use crate::wire::bundle::{Bundle, OPEN_SESSION, Request};
use crate::wire::frame::Kind;
use crate::wire::limits::{MAX_BUNDLE_REQUESTS, MAX_ENTRY};
use crate::wire::message::{self, Changes, Refused, Replies, Reply, Submit, WireBundle};

/// Requests of a bundle at most, with the one that opens a session.
const MAX_REQUESTS: u64 = 5;

/// Twice the operations of a bundle on average.
pub(super) const MEAN_OPERATIONS_X2: u64 = MAX_REQUESTS;

/// The session window in the simulated cluster file.
pub(super) const SESSION_WINDOW: u64 = 64;

/// First pause before a bundle is sent again, us; doubles up to [`LONGEST_PAUSE_US`].
const FIRST_PAUSE_US: u64 = 100_000;
const LONGEST_PAUSE_US: u64 = 1_600_000;
/// Bundles of a client under way at once.
const MAX_OPEN: usize = 4;
/// How long the lying client cares for a bundle, us.
const LYING_PATIENCE_US: u64 = 400_000;

/// Bundles that a flooding client sends at once.
const FLOOD: u64 = 30;

/// What a client wants sent: to the replicas of the set (a bit each).
pub(super) struct ToSend {
    pub(super) replicas: u32,
    pub(super) kind: Kind,
    pub(super) body: Arc<[u8]>,
}

/// An accepted result.
pub(super) struct Accepted {
    pub(super) reply: Reply,
    /// `None` for the request that opened the session.
    pub(super) operation: Option<Operation>,
}

struct Open {
    bodies: Vec<(u32, Arc<[u8]>)>,
    operations: Vec<Option<Operation>>,
    first: u64,
    /// The first reply of each replica by number.
    replies: BTreeMap<(u64, usize), Reply>,
    refusals: BTreeMap<usize, Code>,
    accepted: u64,
    begun_us: u64,
    send_at_us: u64,
    pause_us: u64,
}

/// See the module.
pub(super) struct SimClient {
    index: u32,
    key: SecretKey,
    origin: String,
    /// What it does wrong; nothing if it is correct.
    tactics: Vec<ClientTactic>,
    replicas: usize,
    needed: usize,
    random: Random,
    think_us: u64,
    padding: u64,
    session: Option<u64>,
    next: u64,
    left: u64,
    next_submit_us: u64,
    open: BTreeMap<Digest, Open>,
    reads: Reads,
    /// Reads that became certain since they were asked for last.
    pub(super) found: Vec<Found>,
    /// Operations that were signed since they were asked for last.
    pub(super) signed: Vec<(Operation, PublicKey)>,
    pub(super) completed: u64,
}

impl SimClient {
    pub(super) fn new(
        index: u32,
        key: SecretKey,
        origin: &str,
        tactics: &[ClientTactic],
        plan: &Plan,
        random: Random,
    ) -> Self {
        let replicas = plan.n;
        Self {
            index,
            key,
            origin: origin.to_owned(),
            tactics: tactics.to_vec(),
            replicas,
            needed: (replicas - 1) / 3 + 1,
            random,
            think_us: plan.think_us,
            padding: plan.padding,
            session: None,
            next: 0,
            left: plan.bundles,
            next_submit_us: 0,
            open: BTreeMap::new(),
            reads: Reads::default(),
            found: Vec::new(),
            signed: Vec::new(),
            completed: 0,
        }
    }

    fn is_lying(&self) -> bool {
        !self.tactics.is_empty()
    }

    fn does(&self, tactic: ClientTactic) -> bool {
        self.tactics.contains(&tactic)
    }

    pub(super) fn key(&self) -> PublicKey {
        self.key.public()
    }

    /// Whether everything that was submitted has its result and nothing more will be submitted. A lying client is never
    /// waited for.
    pub(super) fn is_done(&self) -> bool {
        self.is_lying() || (self.left == 0 && self.open.is_empty() && self.reads.is_empty())
    }

    /// Since when its oldest bundle is under way, us.
    #[cfg(test)]
    pub(super) fn waits_since_us(&self) -> Option<u64> {
        self.open.values().map(|open| open.begun_us).min()
    }

    /// When [`SimClient::tick`] is due.
    pub(super) fn next_us(&self) -> u64 {
        let resend = self.open.values().map(|open| open.send_at_us).min().unwrap_or(u64::MAX);
        let resend = resend.min(self.reads.next_us());
        if self.may_submit() { resend.min(self.next_submit_us) } else { resend }
    }

    /// Whether another bundle may be begun: as the real client, none whose numbers pass the session's window above the oldest
    /// that has no result.
    fn may_submit(&self) -> bool {
        let oldest = self.open.values().map(|open| open.first).min().unwrap_or(self.next);
        self.left > 0
            && self.open.len() < MAX_OPEN
            && (self.session.is_some() || self.open.is_empty())
            && self.next + MAX_REQUESTS <= oldest + SESSION_WINDOW
    }

    pub(super) fn tick(&mut self, now: Now) -> Vec<ToSend> {
        let mut out = Vec::new();
        if self.is_lying() {
            let session = self.session.is_some();
            self.open.retain(|_, open| !session || open.begun_us + LYING_PATIENCE_US > now.mono_us);
        }
        for open in self.open.values_mut().filter(|open| open.send_at_us <= now.mono_us) {
            for (replicas, body) in &open.bodies {
                out.push(ToSend { replicas: *replicas, kind: Kind::Submit, body: Arc::clone(body) });
            }
            open.send_at_us = now.mono_us + open.pause_us;
            open.pause_us = (2 * open.pause_us).min(LONGEST_PAUSE_US);
        }
        for body in self.reads.due(now.mono_us) {
            out.push(ToSend { replicas: (1 << self.replicas) - 1, kind: Kind::Query, body: body.into() });
        }
        if self.may_submit() && self.next_submit_us <= now.mono_us {
            self.left -= 1;
            self.next_submit_us = now.mono_us + self.random.between(1, self.think_us);
            self.submit(now, &mut out);
        }
        out
    }

    fn submit(&mut self, now: Now, out: &mut Vec<ToSend>) {
        let count = self.random.between(1, MAX_REQUESTS - 1);
        let first = self.next;
        let mut operations = Vec::new();
        if self.session.is_none() {
            operations.push(None);
        }
        while (operations.len() as u64) < count + u64::from(self.session.is_none()) {
            operations.push(Some(self.operation(first + operations.len() as u64, 0)));
        }
        self.next = first + operations.len() as u64;
        let everyone = (1u32 << self.replicas) - 1;
        let mut bodies = Vec::new();
        let Some((digest, body)) = self.sign(first, &operations, now, true) else { return };
        if self.does(ClientTactic::Reuse) && self.session.is_some() {
            let some = self.random.next() as u32 & everyone;
            bodies.push((some, body));
            let others: Vec<_> = (first..self.next).map(|number| Some(self.operation(number, 1))).collect();
            bodies.extend(self.sign(first, &others, now, true).map(|(_, body)| (everyone & !some, body)));
            // And one that it did not sign properly, to all.
            let forged: Vec<_> = (first..self.next).map(|number| Some(self.operation(number, 2))).collect();
            bodies.extend(self.sign(first, &forged, now, false).map(|(_, body)| (everyone, body)));
        } else {
            bodies.push((everyone, body));
        }
        if self.session.is_some() {
            self.misbehave(first, now, everyone, out);
        }
        out.extend(bodies.iter().map(|(replicas, body)| ToSend {
            replicas: *replicas,
            kind: Kind::Submit,
            body: Arc::clone(body),
        }));
        self.open.insert(
            digest,
            Open {
                bodies,
                operations,
                first,
                replies: BTreeMap::new(),
                refusals: BTreeMap::new(),
                accepted: 0,
                begun_us: now.mono_us,
                send_at_us: now.mono_us + FIRST_PAUSE_US,
                pause_us: 2 * FIRST_PAUSE_US,
            },
        );
    }

    /// What goes out beside an honest bundle that begins with number `first`, once and for nothing.
    fn misbehave(&mut self, first: u64, now: Now, everyone: u32, out: &mut Vec<ToSend>) {
        if self.does(ClientTactic::Flood) {
            let session = self.session;
            for _ in 0..FLOOD {
                if self.random.chance(100) {
                    self.session = Some(self.random.below(1_000));
                }
                let number = first + self.random.below(2 * SESSION_WINDOW);
                let operations = [Some(self.operation(number, 3))];
                let bundle = self.sign(number, &operations, now, true);
                out.extend(bundle.map(|(_, body)| ToSend { replicas: everyone, kind: Kind::Submit, body }));
                self.session = session;
            }
        }
        if self.does(ClientTactic::Oversize) {
            let request =
                Request { class: 0, not_after_ms: None, operation: &self.operation(first, 4).encode() }.encode();
            let key = self.key.public();
            let sign = |bytes: &[u8]| self.key.sign(bytes);
            let one = std::slice::from_ref(&request);
            let Ok(bundle) = Bundle::sign(&self.origin, key, self.session, first, one, now.wall_ms, sign) else {
                return;
            };
            for requests in [
                Vec::new(),
                vec![request.clone(); 2],
                vec![request.clone(); MAX_BUNDLE_REQUESTS + 1],
                vec![vec![0; MAX_ENTRY + 1]],
            ] {
                let mut body = Vec::new();
                message::encode(&Submit { bundle: WireBundle { cose: bundle.cose().to_vec(), requests } }, &mut body);
                out.push(ToSend { replicas: everyone, kind: Kind::Submit, body: body.into() });
            }
        }
    }

    fn operation(&mut self, number: u64, variant: u8) -> Operation {
        let revision = match self.random.below(100) {
            0..25 => self.random.below(20),
            25..40 => Operation::READ,
            _ => u64::MAX,
        };
        Operation {
            client: self.index,
            session: self.session.unwrap_or(u64::MAX),
            number,
            variant,
            register: self.random.below(4) as u8,
            revision,
            // What floods is small.
            padding: if variant < 3 { self.random.below(self.padding + 1) as u16 } else { 0 },
        }
    }

    fn sign(
        &mut self,
        first: u64,
        operations: &[Option<Operation>],
        now: Now,
        properly: bool,
    ) -> Option<(Digest, Arc<[u8]>)> {
        let requests: Vec<Vec<u8>> = operations
            .iter()
            .map(|operation| {
                let bytes = operation.map_or(OPEN_SESSION.to_vec(), |operation| operation.encode());
                Request { class: 0, not_after_ms: None, operation: &bytes }.encode()
            })
            .collect();
        let signature = |bytes: &[u8]| if properly { self.key.sign(bytes) } else { Signature([9; 64]) };
        let key = self.key.public();
        let bundle = Bundle::sign(&self.origin, key, self.session, first, &requests, now.wall_ms, signature).ok()?;
        if properly {
            self.signed.extend(operations.iter().flatten().map(|operation| (*operation, key)));
        }
        let mut body = Vec::new();
        let bytes = WireBundle { cose: bundle.cose().to_vec(), requests };
        message::encode(&Submit { bundle: bytes }, &mut body);
        Some((bundle.digest(), body.into()))
    }

    /// Takes an answer; the results that became final.
    ///
    /// # Errors
    /// f+1 replicas refuse for good what must be executed.
    pub(super) fn on_message(&mut self, replica: usize, kind: Kind, body: &[u8]) -> Result<Vec<Accepted>, String> {
        match kind {
            Kind::Answer => {
                self.found.extend(self.reads.on_answer(replica, body, self.needed));
                Ok(Vec::new())
            }
            Kind::Replies => Ok(message::access::<Replies>(body).map_or(Vec::new(), |replies| {
                let digest = Digest(replies.bundle);
                let replies: Vec<Reply> = replies.replies.iter().map(reply_of).collect();
                self.on_replies(replica, digest, replies)
            })),
            Kind::Refused => {
                let Ok(refused) = message::access::<Refused>(body) else { return Ok(Vec::new()) };
                let code = Code(refused.code.to_native());
                let Some(open) = self.open.get_mut(&Digest(refused.bundle)) else { return Ok(Vec::new()) };
                open.refusals.insert(replica, code);
                let alike = open.refusals.values().filter(|other| **other == code).count();
                let lasts = !matches!(code, Code::OVERLOADED | Code::LOW_SPACE);
                if alike >= self.needed && lasts && !self.is_lying() {
                    return Err(format!("client {} is refused with {code} by {alike} replicas", self.index));
                }
                Ok(Vec::new())
            }
            _ => Ok(Vec::new()),
        }
    }

    fn on_replies(&mut self, replica: usize, digest: Digest, replies: Vec<Reply>) -> Vec<Accepted> {
        let Some(open) = self.open.get_mut(&digest) else { return Vec::new() };
        let mut accepted = Vec::new();
        for reply in replies {
            let number = reply.number;
            let Some(place) = number.checked_sub(open.first).filter(|place| *place < open.operations.len() as u64)
            else {
                continue;
            };
            if open.replies.contains_key(&(number, replica)) {
                continue;
            }
            let before = open.replies.range((number, 0)..(number, usize::MAX));
            let alike = before.filter(|(_, other)| **other == reply).count() + 1;
            if alike == self.needed {
                open.accepted += 1;
                let operation = open.operations.get(place as usize).copied().flatten();
                accepted.push(Accepted { reply: reply.clone(), operation });
            }
            open.replies.insert((number, replica), reply);
        }
        if let Some(first) = accepted.first().filter(|accepted| accepted.operation.is_none()) {
            self.session = Some(first.reply.session);
        }
        if open.accepted == open.operations.len() as u64 {
            self.open.remove(&digest);
            self.completed += 1;
        }
        for Accepted { reply, operation } in accepted.iter().filter(|_| self.tactics.is_empty()) {
            let Some(register) = operation.map(|operation| operation.register) else { continue };
            let (draw, wait_ms) = (self.random.below(10), self.random.below(400) as u32);
            if draw < 4 {
                self.reads.ask(register, (draw > 0).then_some(reply.entry), wait_ms);
            }
        }
        accepted
    }
}

pub(super) fn reply_of(reply: &message::ArchivedReply) -> Reply {
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
