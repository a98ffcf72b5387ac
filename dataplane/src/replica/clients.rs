//! Messages from clients.

use std::sync::Arc;

use super::node::{ClientId, Node, Shell};
use super::{MAX_BUNDLES_PER_ROUND, MAX_PARKED, MAX_PARKED_PER_CLIENT, MAX_READS_PER_ROUND, MAX_WAIT_MS};
use crate::crypto::verify::BatchVerifier;
use crate::execution::{Admission, Settled};
use crate::history::store::EntryStore;
use crate::log::Device;
use crate::ordering::mutants::{self, Mutant};
use crate::state::{Answer, Application};
use crate::types::{Code, Digest, Now, PublicKey};
use crate::wire::bundle::Bundle;
use crate::wire::error::{FrameError, Malformed};
use crate::wire::frame::Kind;
use crate::wire::limits::MAX_ANSWER_BODY;
use crate::wire::message::{
    self, ArchivedQuery, ArchivedSubmit, Query, Refused, Replies, StatusAnswer, StatusQuery, Submit,
};

/// When an overloaded replica suggests to try again, ms.
const RETRY_AFTER_MS: u32 = 20;

/// A bundle whose signature is to be checked at the end of the round.
pub(super) struct Pending {
    client: ClientId,
    bundle: Arc<Bundle>,
}

/// A read that waits for the history to grow.
pub(super) struct Parked {
    client: ClientId,
    id: u64,
    query: Vec<u8>,
    min_size: u64,
    /// Answered then, whatever there is, us.
    pub(super) until_us: u64,
    /// Looked at when the history had this size.
    seen_size: u64,
}

impl<A: Application, S: EntryStore, D: Device> Node<A, S, D> {
    /// A message from a client with a link key that is registered.
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
            Kind::Submit => {
                message::access::<Submit>(body).map(|submit| self.client_bundle(client, key, submit, shell))
            }
            Kind::Query => message::access::<Query>(body).map(|query| self.client_query(client, query, now, shell)),
            Kind::StatusQuery => message::access::<StatusQuery>(body)
                .map(|query| self.client_status(client, query.id.to_native(), shell)),
            _ => Err(Malformed::Direction("this kind of frame")),
        };
        result.map_err(|malformed| {
            let error = malformed.into();
            self.counters.bad_frame("client", kind, &error);
            error
        })
    }

    /// A client's connection is gone.
    pub fn on_client_gone(&mut self, client: ClientId) {
        self.parked.retain(|parked| parked.client != client);
    }

    fn client_bundle(&mut self, client: ClientId, key: &PublicKey, submit: &ArchivedSubmit, shell: &mut impl Shell<D>) {
        let asked = self.asked.entry(client).or_default();
        asked.bundles += 1;
        if asked.bundles > MAX_BUNDLES_PER_ROUND {
            let bundle = crate::crypto::hash::sha256(&[&submit.bundle.cose]).0;
            let (count, code) = (submit.bundle.requests.len() as u32, Code::OVERLOADED.0);
            let refused = Refused { bundle, first: 0, count, code, retry_after_ms: RETRY_AFTER_MS };
            return self.refuse(client, &refused, shell);
        }
        let bundle = match self.read_bundle(key, submit) {
            Ok(bundle) => bundle,
            Err((digest, code)) => {
                let (bundle, first, count) = (digest.0, 0, submit.bundle.requests.len() as u32);
                return self.refuse(client, &Refused { bundle, first, count, code: code.0, retry_after_ms: 0 }, shell);
            }
        };
        if self.ordering.holds(&bundle.digest()) {
            self.routes.insert(bundle.digest(), client);
            return;
        }
        match self.execution.admit(&bundle) {
            Admission::Settled(settled) => self.send_settled(client, settled, shell),
            Admission::Order => self.pending.push(Pending { client, bundle: Arc::new(bundle) }),
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
    pub(super) fn verify_pending(&mut self, now: Now, shell: &mut impl Shell<D>) {
        if self.pending.is_empty() {
            return;
        }
        let pending = std::mem::take(&mut self.pending);
        let mut verifier = BatchVerifier::with_capacity(pending.len());
        for item in pending {
            let signed = item.bundle.signed_bytes();
            let (key, signature) = (*item.bundle.key(), *item.bundle.signature());
            verifier.push(&key, &signed, &signature, item);
        }
        let verified: Vec<(Pending, bool)> = verifier.verify().collect();
        for (Pending { client, bundle }, valid) in verified {
            let digest = bundle.digest();
            let (first, count) = (bundle.header().first, u32::from(bundle.header().count));
            let outcome = if valid || mutants::on(Mutant::SignaturesUnchecked) {
                self.ordering.submit(bundle, now)
            } else {
                Err(Code::BAD_SIGNATURE)
            };
            match outcome {
                Ok(()) => {
                    self.routes.insert(digest, client);
                }
                Err(code) => {
                    let retry_after_ms = if code == Code::OVERLOADED { RETRY_AFTER_MS } else { 0 };
                    let refused = Refused { bundle: digest.0, first, count, code: code.0, retry_after_ms };
                    self.refuse(client, &refused, shell);
                    if code == Code::BAD_SIGNATURE {
                        shell.close_client(client);
                    }
                }
            }
        }
    }

    fn refuse(&mut self, client: ClientId, refused: &Refused, shell: &mut impl Shell<D>) {
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

    fn client_query(&mut self, client: ClientId, query: &ArchivedQuery, now: Now, shell: &mut impl Shell<D>) {
        let wait_us = u64::from(query.wait_ms.to_native().min(MAX_WAIT_MS)) * 1_000;
        let parked = Parked {
            client,
            id: query.id.to_native(),
            query: query.query.to_vec(),
            min_size: query.min_size.to_native(),
            until_us: now.mono_us + wait_us,
            seen_size: 0,
        };
        if !self.may_read(client) {
            return self.answer(&parked, Code::OVERLOADED, &Answer::default(), shell);
        }
        if let Some(mut parked) = self.try_answer(parked, now, shell) {
            let of_client = self.parked.iter().filter(|other| other.client == client).count();
            if self.parked.len() >= MAX_PARKED || of_client >= MAX_PARKED_PER_CLIENT {
                return self.answer(&parked, Code::OVERLOADED, &Answer::default(), shell);
            }
            parked.seen_size = self.execution.size();
            self.parked.push(parked);
        }
    }

    fn may_read(&mut self, client: ClientId) -> bool {
        let asked = self.asked.entry(client).or_default();
        asked.reads += 1;
        asked.reads <= MAX_READS_PER_ROUND
    }

    /// Answers a read, or gives it back if it is to wait.
    fn try_answer(&mut self, parked: Parked, now: Now, shell: &mut impl Shell<D>) -> Option<Parked> {
        let late = now.mono_us >= parked.until_us;
        if self.execution.size() < parked.min_size {
            if !late {
                return Some(parked);
            }
            self.answer(&parked, Code::UNAVAILABLE, &Answer::default(), shell);
            return None;
        }
        let mut answer = Answer::default();
        let code = self.execution.query(&parked.query, &mut answer);
        if code == Code::DONE && answer.wait && !late {
            return Some(parked);
        }
        self.answer(&parked, code, &answer, shell);
        None
    }

    /// Looks again at the reads that wait, where the history has grown or their time is up.
    pub(super) fn answer_parked(&mut self, now: Now, shell: &mut impl Shell<D>) {
        let size = self.execution.size();
        if self.parked.iter().all(|parked| parked.seen_size == size && parked.until_us > now.mono_us) {
            return;
        }
        for mut parked in std::mem::take(&mut self.parked) {
            parked.seen_size = size;
            if let Some(parked) = self.try_answer(parked, now, shell) {
                self.parked.push(parked);
            }
        }
    }

    fn answer(&mut self, parked: &Parked, code: Code, answer: &Answer, shell: &mut impl Shell<D>) {
        let fits = answer.body.len() + 256 <= MAX_ANSWER_BODY;
        let message = message::Answer {
            id: parked.id,
            code: if fits { code.0 } else { Code::TOO_LARGE.0 },
            size: self.execution.size(),
            valid_from: answer.valid_from,
            body: if fits { answer.body.clone() } else { Vec::new() },
        };
        self.body.clear();
        message::encode(&message, &mut self.body);
        shell.to_client(parked.client, Kind::Answer, &self.body);
    }

    fn client_status(&mut self, client: ClientId, id: u64, shell: &mut impl Shell<D>) {
        if !self.may_read(client) {
            return;
        }
        let host = shell.host();
        let decisions = self.ordering.decisions();
        let mut counters = self.counters.clone();
        for (name, value) in [
            ("decided.fast", decisions.fast),
            ("decided.slow", decisions.slow),
            ("decided.told", decisions.told),
            ("pool.bundles", self.ordering.pooled() as u64),
            ("reads.parked", self.parked.len() as u64),
        ] {
            counters.add(name, value);
        }
        let status = StatusAnswer {
            id,
            replica: self.config.me.0,
            view: self.ordering.view(),
            leader: self.ordering.leader().0,
            sequence: self.ordering.executed(),
            size: self.execution.size(),
            history_root: self.execution.history_root().0,
            state_root: self.execution.state_root().0,
            state_digest: self.execution.state_digest().0,
            log_bytes: self.log.bytes(),
            resident_bytes: host.resident_bytes,
            anonymous_bytes: host.anonymous_bytes,
            links: self.links,
            pid: host.pid,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            counters: counters.all(),
        };
        self.body.clear();
        message::encode(&status, &mut self.body);
        shell.to_client(client, Kind::StatusAnswer, &self.body);
    }
}
