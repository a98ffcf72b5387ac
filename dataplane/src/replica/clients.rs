//! Messages from clients.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::node::{ClientId, Node, Shell};
use crate::crypto::sha256;
use crate::execution::{Admission, Settled};
use crate::flight::{self, Kind as Noted};
use crate::history::store::EntryStore;
use crate::log::Device;
use crate::ordering::BUNDLE_OVERHEAD;
use crate::state::Application;
use crate::types::{Code, Digest, Now, PublicKey};
use crate::wire::bundle::Bundle;
use crate::wire::error::{FrameError, Malformed};
use crate::wire::frame::Kind;
use crate::wire::message::{self, ArchivedSubmit, Query, Refused, Replies, StatusQuery, Submit};

/// When an overloaded replica suggests to try again, ms.
const RETRY_AFTER_MS: u32 = 20;

/// When a replica that is ending suggests to try again, ms.
const RETRY_AFTER_END_MS: u32 = 1_000;

/// When a replica whose disk is nearly full suggests to try again, ms.
const RETRY_AFTER_LOW_MS: u32 = 500;

/// Bundles of one key whose signatures are not checked yet; more are told to come again.
pub(super) const MAX_BUNDLES_A_ROUND: usize = 256;

/// Executed bundles of one key whose replies are read again in one round, and bytes of the entries that are read for it; what
/// is beyond is told to come again.
const MAX_REPEATS_A_ROUND: usize = 128;
const MAX_REPEAT_BYTES_A_ROUND: usize = 1 << 20;

/// Keys that are remembered for a bad signature. Only keys of identities get so far, so these are in fact all.
const MAX_SUSPECTS: usize = 4_096;

/// Keys that have a counter of their own for bad signatures; the others share one.
const MAX_SUSPECT_COUNTERS: usize = 64;

/// What one key has here, and has used of a round.
#[derive(Default)]
pub(super) struct Used {
    /// Bundles whose signatures are not checked yet, and what they take of the pool, bytes.
    bundles: usize,
    bytes: usize,
    repeats: usize,
    repeat_bytes: usize,
}

impl Used {
    /// A round is over; whether there is something left to remember.
    pub(super) fn goes_on(&mut self) -> bool {
        (self.repeats, self.repeat_bytes) = (0, 0);
        self.bundles > 0
    }
}

/// Bundles whose signatures are not checked yet.
#[derive(Default)]
pub(super) struct Inbox {
    /// Those that nobody checks yet, in the order in which they came.
    pub(super) pending: Vec<Arc<Bundle>>,
    /// All, and the client that asked last.
    clients: BTreeMap<Digest, ClientId>,
    pub(super) used: BTreeMap<PublicKey, Used>,
    /// What all of them take of the pool, bytes.
    bytes: usize,
    /// Keys from which a bad signature came, and whether each has a counter of its own: their bundles are verified apart, so
    /// that they spoil nobody's batch.
    pub(super) suspects: BTreeMap<PublicKey, bool>,
    /// This replica is ending or was told to pause: it takes no bundle any more.
    closed: bool,
}

impl Inbox {
    fn enters(&mut self, client: ClientId, bundle: Bundle) {
        let used = self.used.entry(*bundle.key()).or_default();
        used.bundles += 1;
        used.bytes += bundle.memory() + BUNDLE_OVERHEAD;
        self.bytes += bundle.memory() + BUNDLE_OVERHEAD;
        self.clients.insert(bundle.digest(), client);
        self.pending.push(Arc::new(bundle));
    }

    /// Puts the first bundle of every key before the second of any; else they stay in the order in which they came.
    pub(super) fn take_turns(&mut self) {
        let mut before: BTreeMap<PublicKey, usize> = BTreeMap::new();
        // Each is asked for its place once.
        self.pending.sort_by_cached_key(|bundle| {
            let turn = before.entry(*bundle.key()).or_default();
            *turn += 1;
            *turn
        });
    }

    /// A bundle's signature was checked; gives its client.
    pub(super) fn leaves(&mut self, bundle: &Bundle) -> Option<ClientId> {
        let client = self.clients.remove(&bundle.digest())?;
        self.bytes -= bundle.memory() + BUNDLE_OVERHEAD;
        if let Some(used) = self.used.get_mut(bundle.key()) {
            used.bundles -= 1;
            used.bytes -= bundle.memory() + BUNDLE_OVERHEAD;
        }
        Some(client)
    }
}

impl<A: Application, S: EntryStore, D: Device> Node<A, S, D> {
    /// A message from a client with a link key that is registered. One whose key ended is answered with why, or with what it had
    /// executed before, and its connection closed.
    ///
    /// # Errors
    /// Malformed: counted here; the shell closes the connection.
    pub fn on_client(
        &mut self,
        client: ClientId,
        key: &PublicKey,
        kind: Kind,
        body: &[u8],
        now: Now,
        shell: &mut impl Shell<D>,
    ) -> Result<(), FrameError> {
        let result = match kind {
            Kind::Submit => message::access::<Submit>(body).map(|submit| {
                self.client_bundle(client, key, submit, shell);
                self.close_barred(client, key, shell);
            }),
            Kind::Query => {
                message::access::<Query>(body).map(|query| self.client_query(client, key, query, now, shell))
            }
            Kind::StatusQuery => message::access::<StatusQuery>(body).map(|query| {
                self.client_status(client, key, query.id.to_native());
                self.close_barred(client, key, shell);
            }),
            Kind::Prove => message::access::<message::Prove>(body).map(|asked| {
                self.client_proof(client, key, asked, now, shell);
                self.close_barred(client, key, shell);
            }),
            _ => Err(Malformed::Direction("this kind of frame")),
        };
        result.map_err(|malformed| {
            let error = malformed.into();
            self.counters.bad_frame("client", kind, &error);
            error
        })
    }

    /// Ends the connection of a key that is not in force and never will be again, once what was sent to it has gone out.
    pub(super) fn close_barred(&mut self, client: ClientId, key: &PublicKey, shell: &mut impl Shell<D>) {
        let identity = self.execution.identities().get(key);
        if identity.is_some_and(|identity| identity.barred(self.execution.time_ms()).is_some()) {
            self.count("links.closed.barred");
            shell.close_client(client);
        }
    }

    /// A client's connection is gone.
    pub fn on_client_gone(&mut self, client: ClientId) {
        self.reads.forget(client);
        self.proofs.forget(client);
    }

    /// From now on clients' bundles are refused as UNAVAILABLE, or taken again. What was taken before is finished.
    pub fn set_paused(&mut self, paused: bool) {
        flight::note(Noted::Paused, [paused.into(), 0, 0]);
        self.inbox.closed = paused;
    }

    /// Whether clients' bundles are refused.
    pub fn is_paused(&self) -> bool {
        self.inbox.closed
    }

    /// This replica is ending: from now on clients' bundles are refused.
    pub fn close_inbox(&mut self) {
        self.inbox.closed = true;
    }

    fn client_bundle(&mut self, client: ClientId, key: &PublicKey, submit: &ArchivedSubmit, shell: &mut impl Shell<D>) {
        // Sent again by the very connection that waits for it: nothing to read, hash and check a second time.
        let digest = sha256(&[&submit.bundle.cose]);
        if !self.inbox.closed && self.routes.get(&digest) == Some(&client) && self.ordering.holds(&digest) {
            return;
        }
        let bundle = match self.read_bundle(key, submit) {
            Ok(bundle) => bundle,
            Err((digest, code)) => {
                // Its numbers may not have been readable, so it is refused without naming them: as a whole.
                let (bundle, code) = (digest.0, code.0);
                return self.refuse(client, &Refused { bundle, first: 0, count: 0, code, retry_after_ms: 0 }, shell);
            }
        };
        if self.inbox.closed {
            return self.refuse_bundle(client, &bundle, Code::UNAVAILABLE, shell);
        }
        let digest = bundle.digest();
        let known = self.inbox.clients.get_mut(&digest).map(|known| *known = client);
        if self.ordering.holds(&digest) {
            self.routes.insert(digest, client);
            return;
        }
        if known.is_some() {
            return;
        }
        // Who does not take what is said to it costs nothing; it asks again when it does.
        if !shell.takes(client) {
            return;
        }
        let (bundles, bytes) = self.inbox.used.get(key).map_or((0, 0), |used| (used.bundles, used.bytes));
        let to_come = self.inbox.bytes - bytes;
        let admission = if bundles < MAX_BUNDLES_A_ROUND { self.admit(&bundle) } else { None };
        match admission {
            None => self.refuse_bundle(client, &bundle, Code::OVERLOADED, shell),
            Some(admission) => self.take(client, bundle, admission, (bytes, to_come), shell),
        }
    }

    /// As [`Execution::admit`](crate::execution::Execution::admit), within what a key's repeated bundles may cost a round; beyond it
    /// nothing is said.
    pub(super) fn admit(&mut self, bundle: &Bundle) -> Option<Admission> {
        let used = self.inbox.used.entry(*bundle.key()).or_default();
        if used.repeats >= MAX_REPEATS_A_ROUND || used.repeat_bytes >= MAX_REPEAT_BYTES_A_ROUND {
            return None;
        }
        let mut read_bytes = 0;
        let admission = self.execution.admit_counted(bundle, &mut read_bytes);
        if let Admission::Settled(settled) = &admission {
            used.repeats += usize::from(!settled.replies.is_empty());
            used.repeat_bytes += read_bytes;
        }
        Some(admission)
    }

    /// Takes a bundle in whose signature is to be checked, or says what there is to say without. Of its key there are `bytes` here, of
    /// others `to_come`.
    fn take(
        &mut self,
        client: ClientId,
        bundle: Bundle,
        admission: Admission,
        (bytes, to_come): (usize, usize),
        shell: &mut impl Shell<D>,
    ) {
        match admission {
            Admission::Settled(settled) => self.send_settled(client, settled, shell),
            Admission::Order if self.low_space => self.refuse_bundle(client, &bundle, Code::LOW_SPACE, shell),
            // A bundle that the pool would refuse is not worth a signature's price.
            Admission::Order if !self.ordering.has_room(bundle.key(), bytes + bundle.memory(), to_come) => {
                self.refuse_bundle(client, &bundle, Code::OVERLOADED, shell);
            }
            Admission::Order => {
                let (digest, count) = (bundle.digest().0, u64::from(bundle.header().count));
                flight::note_bundle(Noted::BundleArrived, &digest, client.0, count);
                self.inbox.enters(client, bundle);
            }
        }
    }

    fn read_bundle(&self, key: &PublicKey, submit: &ArchivedSubmit) -> Result<Bundle, (Digest, Code)> {
        let requests: Vec<&[u8]> = submit.bundle.requests.iter().map(|request| request.as_slice()).collect();
        let bundle = Bundle::parse(&submit.bundle.cose, requests.into_iter(), &self.config.origin)
            .map_err(|error| (sha256(&[&submit.bundle.cose]), error.code()))?;
        if bundle.key() != key {
            return Err((bundle.digest(), Code::UNKNOWN_IDENTITY));
        }
        match self.execution.check(&bundle) {
            Ok(()) => Ok(bundle),
            Err(code) => Err((bundle.digest(), code)),
        }
    }

    pub(super) fn suspect(&mut self, key: &PublicKey) {
        let known = self.inbox.suspects.len();
        if known < MAX_SUSPECTS {
            self.inbox.suspects.entry(*key).or_insert(known < MAX_SUSPECT_COUNTERS);
        }
        let has_own = self.inbox.suspects.get(key).copied().unwrap_or(false);
        let name = if has_own { key.to_string() } else { "others".to_owned() };
        self.counters.add(&format!("misbehaviour.client.{name}.bad_signature"), 1);
    }

    pub(super) fn refuse_bundle(&mut self, client: ClientId, bundle: &Bundle, code: Code, shell: &mut impl Shell<D>) {
        let retry_after_ms = match code {
            Code::OVERLOADED => RETRY_AFTER_MS,
            Code::UNAVAILABLE => RETRY_AFTER_END_MS,
            Code::LOW_SPACE => RETRY_AFTER_LOW_MS,
            _ => 0,
        };
        let (first, count) = (bundle.header().first, u32::from(bundle.header().count));
        let refused = Refused { bundle: bundle.digest().0, first, count, code: code.0, retry_after_ms };
        self.refuse(client, &refused, shell);
    }

    fn refuse(&mut self, client: ClientId, refused: &Refused, shell: &mut impl Shell<D>) {
        let name = flight::bundle_name(&refused.bundle);
        flight::note(Noted::ClientRefused, [client.0, u64::from(refused.code), name]);
        self.counters.refused(Code(refused.code));
        self.body.clear();
        message::encode(refused, &mut self.body);
        shell.to_client(client, Kind::Refused, &self.body);
    }

    pub(super) fn send_settled(&mut self, client: ClientId, settled: Settled, shell: &mut impl Shell<D>) {
        let bundle = settled.bundle.0;
        for refusal in &settled.refusals {
            let (first, count, code) = (refusal.first, refusal.count, refusal.code.0);
            // The window moves as requests are executed: this refusal alone does not last.
            let retry_after_ms = if refusal.code == Code::BEYOND_WINDOW { RETRY_AFTER_MS } else { 0 };
            self.refuse(client, &Refused { bundle, first, count, code, retry_after_ms }, shell);
        }
        if !settled.replies.is_empty() {
            self.body.clear();
            message::encode(&Replies { bundle, replies: settled.replies }, &mut self.body);
            shell.to_client(client, Kind::Replies, &self.body);
        }
    }

    /// Routes of bundles that the core dropped unordered are forgotten with them.
    pub(super) fn prune_routes(&mut self) {
        if self.routes.len() > 2 * self.ordering.pooled() + 1_024 {
            let ordering = &self.ordering;
            self.routes.retain(|digest, _| ordering.holds(digest));
        }
    }
}

#[cfg(test)]
#[path = "clients_tests.rs"]
mod tests;
