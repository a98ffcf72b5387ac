//! Messages from clients.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::node::{ClientId, Node, Shell};
use crate::crypto::verify::{BatchVerifier, verify};
use crate::execution::{Admission, Settled};
use crate::flight::{self, Kind as Noted};
use crate::history::store::EntryStore;
use crate::log::Device;
use crate::ordering::BUNDLE_OVERHEAD;
use crate::ordering::mutants::{self, Mutant};
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

/// Bundles of one key that one round takes; more are told to come again.
const MAX_BUNDLES_A_ROUND: usize = 256;

/// Executed bundles of one key whose replies are read again in one round, and bytes of the entries that are read for it; what
/// is beyond is told to come again.
const MAX_REPEATS_A_ROUND: usize = 128;
const MAX_REPEAT_BYTES_A_ROUND: usize = 1 << 20;

/// Keys that are remembered for a bad signature. Only keys of identities get so far, so these are in fact all.
const MAX_SUSPECTS: usize = 4_096;

/// Keys that have a counter of their own for bad signatures; the others share one.
const MAX_SUSPECT_COUNTERS: usize = 64;

/// A bundle whose signature is to be checked at the end of the round.
struct Pending {
    client: ClientId,
    bundle: Arc<Bundle>,
}

/// What one key has used of a round.
#[derive(Default)]
struct Used {
    bundles: usize,
    bytes: usize,
    repeats: usize,
    repeat_bytes: usize,
}

/// Bundles that came in this round.
#[derive(Default)]
pub(super) struct Inbox {
    pending: Vec<Pending>,
    /// Their places in `pending`.
    digests: BTreeMap<Digest, usize>,
    used: BTreeMap<PublicKey, Used>,
    /// Keys from which a bad signature came, and whether each has a counter of its own: their bundles are verified apart, so
    /// that they spoil nobody's batch.
    suspects: BTreeMap<PublicKey, bool>,
    /// This replica is ending or was told to pause: it takes no bundle any more.
    closed: bool,
}

/// What became of a signature.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Good,
    Bad,
    /// Not checked: an earlier one of this key was bad.
    Unchecked,
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
        if self.ordering.holds(&digest) {
            self.routes.insert(digest, client);
            return;
        }
        if let Some(pending) = self.inbox.digests.get(&digest).and_then(|place| self.inbox.pending.get_mut(*place)) {
            pending.client = client;
            return;
        }
        // Who does not take what is said to it costs nothing; it asks again when it does.
        if !shell.takes(client) {
            return;
        }
        let Used { bundles, bytes, repeats, repeat_bytes } = *self.inbox.used.entry(*key).or_default();
        let repeats_too_much = repeats >= MAX_REPEATS_A_ROUND || repeat_bytes >= MAX_REPEAT_BYTES_A_ROUND;
        if bundles >= MAX_BUNDLES_A_ROUND || repeats_too_much {
            return self.refuse_bundle(client, &bundle, Code::OVERLOADED, shell);
        }
        let mut read_bytes = 0;
        match self.execution.admit_counted(&bundle, &mut read_bytes) {
            Admission::Settled(settled) => {
                if let Some(used) = self.inbox.used.get_mut(key) {
                    used.repeats += usize::from(!settled.replies.is_empty());
                    used.repeat_bytes += read_bytes;
                }
                self.send_settled(client, settled, shell);
            }
            Admission::Order if self.low_space => self.refuse_bundle(client, &bundle, Code::LOW_SPACE, shell),
            // A bundle that the pool would refuse is not worth a signature's price.
            Admission::Order if !self.ordering.has_room(key, bytes + bundle.memory()) => {
                self.refuse_bundle(client, &bundle, Code::OVERLOADED, shell);
            }
            Admission::Order => {
                if let Some(used) = self.inbox.used.get_mut(key) {
                    used.bundles += 1;
                    used.bytes += bundle.memory() + BUNDLE_OVERHEAD;
                }
                flight::note_bundle(Noted::BundleArrived, &digest.0, client.0, u64::from(bundle.header().count));
                self.inbox.digests.insert(digest, self.inbox.pending.len());
                self.inbox.pending.push(Pending { client, bundle: Arc::new(bundle) });
            }
        }
    }

    fn read_bundle(&self, key: &PublicKey, submit: &ArchivedSubmit) -> Result<Bundle, (Digest, Code)> {
        let requests: Vec<&[u8]> = submit.bundle.requests.iter().map(|request| request.as_slice()).collect();
        let bundle = Bundle::parse(&submit.bundle.cose, requests.into_iter(), &self.config.origin)
            .map_err(|error| (crate::crypto::hash::sha256(&[&submit.bundle.cose]), error.code()))?;
        if bundle.key() != key {
            return Err((bundle.digest(), Code::UNKNOWN_IDENTITY));
        }
        match self.execution.check(&bundle) {
            Ok(()) => Ok(bundle),
            Err(code) => Err((bundle.digest(), code)),
        }
    }

    /// Checks the signatures of all bundles that came in this round together, and hands the good ones to ordering.
    ///
    /// A bad signature comes from the owner of the key itself, since its link proved the same key. It costs the others one
    /// batch, once: from then on what comes with that key is verified apart.
    pub(super) fn verify_pending(&mut self, now: Now, shell: &mut impl Shell<D>) {
        self.inbox.used.clear();
        self.inbox.digests.clear();
        let pending = std::mem::take(&mut self.inbox.pending);
        if pending.is_empty() {
            return;
        }
        let suspects = &self.inbox.suspects;
        let (apart, together): (Vec<_>, Vec<_>) =
            pending.into_iter().partition(|pending| suspects.contains_key(pending.bundle.key()));
        if all_hold(&together) {
            together.into_iter().for_each(|pending| self.judged(pending, Verdict::Good, now, shell));
            self.verify_by_key(apart, now, shell);
        } else {
            self.verify_by_key(apart.into_iter().chain(together), now, shell);
        }
    }

    fn verify_by_key(&mut self, pending: impl IntoIterator<Item = Pending>, now: Now, shell: &mut impl Shell<D>) {
        let mut keys: BTreeMap<PublicKey, Vec<Pending>> = BTreeMap::new();
        for pending in pending {
            keys.entry(*pending.bundle.key()).or_default().push(pending);
        }
        for group in keys.into_values() {
            let mut verdict = Verdict::Good;
            // Of a key that sent a bad signature before one after the other is checked, and none behind a bad one.
            let is_suspect = group.first().is_some_and(|one| self.inbox.suspects.contains_key(one.bundle.key()));
            let all_hold = !is_suspect && all_hold(&group);
            for pending in group {
                verdict = match verdict {
                    Verdict::Good if all_hold || holds(&pending.bundle) => Verdict::Good,
                    Verdict::Good if mutants::on(Mutant::SignaturesUnchecked) => Verdict::Good,
                    Verdict::Good => Verdict::Bad,
                    Verdict::Bad | Verdict::Unchecked => Verdict::Unchecked,
                };
                self.judged(pending, verdict, now, shell);
            }
        }
    }

    fn judged(&mut self, pending: Pending, verdict: Verdict, now: Now, shell: &mut impl Shell<D>) {
        let Pending { client, bundle } = pending;
        let outcome = match verdict {
            Verdict::Good => {
                flight::note_bundle(Noted::BundleVerified, &bundle.digest().0, 0, 0);
                self.ordering.submit(Arc::clone(&bundle), now)
            }
            Verdict::Bad => Err(Code::BAD_SIGNATURE),
            Verdict::Unchecked => Err(Code::OVERLOADED),
        };
        match outcome {
            Ok(()) => drop(self.routes.insert(bundle.digest(), client)),
            Err(code) => self.refuse_bundle(client, &bundle, code, shell),
        }
        if verdict == Verdict::Bad {
            self.suspect(bundle.key());
            shell.close_client(client);
        }
    }

    fn suspect(&mut self, key: &PublicKey) {
        let known = self.inbox.suspects.len();
        if known < MAX_SUSPECTS {
            self.inbox.suspects.entry(*key).or_insert(known < MAX_SUSPECT_COUNTERS);
        }
        let has_own = self.inbox.suspects.get(key).copied().unwrap_or(false);
        let name = if has_own { key.to_string() } else { "others".to_owned() };
        self.counters.add(&format!("misbehaviour.client.{name}.bad_signature"), 1);
    }

    fn refuse_bundle(&mut self, client: ClientId, bundle: &Bundle, code: Code, shell: &mut impl Shell<D>) {
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

/// Whether all signatures hold, at the price of a batch.
fn all_hold(pending: &[Pending]) -> bool {
    match pending {
        [] => true,
        [one] => holds(&one.bundle),
        _ => {
            let mut verifier = BatchVerifier::with_capacity(pending.len());
            for Pending { bundle, .. } in pending {
                verifier.push(bundle.key(), &bundle.signed_bytes(), bundle.signature(), ());
            }
            verifier.all_hold()
        }
    }
}

fn holds(bundle: &Bundle) -> bool {
    verify(bundle.key(), &bundle.signed_bytes(), bundle.signature())
}

#[cfg(test)]
#[path = "clients_tests.rs"]
mod tests;
