//! Checking clients' signatures: where, in what batches, and what becomes of them.
//!
//! # Where
//! Bundles that are worth a signature's price wait in the inbox until the round ends. A replica without verifiers then checks all of them
//! at once on its own thread. With verifiers ([`Shell::verifiers`]: threads on cores of their own, [`crate::cores::verify`]) it deals
//! them out as jobs to those that are free, and takes the findings in a later round ([`Node::verified`]). While none is free they wait, so
//! that batches grow by themselves with the load and nothing waits for a batch to fill; the thread that orders checks none itself, so
//! that a flood of bundles costs it no more than their reading.
//!
//! # Batches
//! A job is one batch over several keys. Where it fails, each key's bundles are checked apart, so that whoever sent the bad one
//! spoils nobody's batch for long: from then on what comes with that key goes in jobs apart, one signature after the other,
//! and behind a bad one none. A bad signature comes from the owner of the key, since its link proved the same key.
//!
//! # Limits
//! Where more waits than a job takes, keys take turns: a bundle waits for no more than one of each other key. All together take no more than
//! the pool would. One key has at most [`MAX_BUNDLES_A_ROUND`](super::clients::MAX_BUNDLES_A_ROUND) bundles here, and no more than its share of the pool takes.
//!
//! A bundle that is here twice is checked once. What was executed meanwhile, proposed by a leader that had it first, is answered.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::node::{ClientId, Node, Shell};
use crate::crypto::verify::{BatchVerifier, verify};
use crate::execution::Admission;
use crate::flight::{self, Kind as Noted};
use crate::history::store::EntryStore;
use crate::log::Device;
use crate::ordering::mutants::{self, Mutant};
use crate::state::Application;
use crate::types::{Code, Now, PublicKey};
use crate::wire::bundle::Bundle;

/// Bundles of a job at least, while there are so many: a batch of fewer costs more for each.
const LEAST_A_JOB: usize = 8;

/// Bundles of a job at most: a verifier is free again within some milliseconds.
pub const MAX_JOB: usize = 256;

/// What became of a signature.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Verdict {
    Good,
    Bad,
    /// Not checked: an earlier one of this key was bad.
    Unchecked,
}

/// Bundles whose signatures are checked together, and then what was found.
#[derive(Debug, Default)]
pub struct Job {
    together: Vec<Arc<Bundle>>,
    /// Those of keys that sent a bad signature before.
    apart: Vec<Arc<Bundle>>,
    judged: Vec<(Arc<Bundle>, Verdict)>,
}

impl Job {
    /// Checks the signatures. Takes as long as that takes, and looks at nothing else.
    pub fn check(&mut self) {
        let (together, apart) = (std::mem::take(&mut self.together), std::mem::take(&mut self.apart));
        if all_hold(&together) {
            self.judged.extend(together.into_iter().map(|bundle| (bundle, Verdict::Good)));
            self.check_by_key(apart, Vec::new());
        } else {
            self.check_by_key(apart, together);
        }
    }

    /// Whose signatures are here, checked or not.
    pub fn bundles(&self) -> usize {
        self.together.len() + self.apart.len() + self.judged.len()
    }

    fn check_by_key(&mut self, apart: Vec<Arc<Bundle>>, together: Vec<Arc<Bundle>>) {
        let mut keys: BTreeMap<PublicKey, (bool, Vec<Arc<Bundle>>)> = BTreeMap::new();
        let apart = apart.into_iter().map(|bundle| (true, bundle));
        for (is_suspect, bundle) in apart.chain(together.into_iter().map(|bundle| (false, bundle))) {
            let (suspect, group) = keys.entry(*bundle.key()).or_default();
            *suspect |= is_suspect;
            group.push(bundle);
        }
        for (is_suspect, group) in keys.into_values() {
            let mut verdict = Verdict::Good;
            // Of a key that sent a bad signature before one after the other is checked, and none behind a bad one.
            let all_hold = !is_suspect && all_hold(&group);
            for bundle in group {
                verdict = match verdict {
                    Verdict::Good if all_hold || holds(&bundle) => Verdict::Good,
                    Verdict::Good if mutants::on(Mutant::SignaturesUnchecked) => Verdict::Good,
                    Verdict::Good => Verdict::Bad,
                    Verdict::Bad | Verdict::Unchecked => Verdict::Unchecked,
                };
                self.judged.push((bundle, verdict));
            }
        }
    }
}

impl<A: Application, S: EntryStore, D: Device> Node<A, S, D> {
    /// Checks the signatures of all bundles that wait, or has them checked.
    pub(super) fn verify_pending(&mut self, now: Now, shell: &mut impl Shell<D>) {
        if !self.inbox.pending.is_empty() {
            match shell.verifiers() {
                None => {
                    let mut job = self.next_job(usize::MAX);
                    job.check();
                    self.judge(job, false, now, shell);
                }
                Some(free) => self.deal_out(free, shell),
            }
        }
        self.inbox.used.retain(|_, used| used.goes_on());
    }

    fn deal_out(&mut self, free: usize, shell: &mut impl Shell<D>) {
        let each = self.inbox.pending.len().div_ceil(free.max(1)).clamp(LEAST_A_JOB, MAX_JOB);
        for _ in 0..free {
            let job = self.next_job(each);
            if job.bundles() == 0 {
                return;
            }
            shell.verify(job);
        }
    }

    /// The first of what waits.
    fn next_job(&mut self, most: usize) -> Job {
        if self.inbox.pending.len() > most {
            self.inbox.take_turns();
        }
        let count = self.inbox.pending.len().min(most);
        let suspects = &self.inbox.suspects;
        let first = self.inbox.pending.drain(..count);
        let (apart, together) = first.partition(|bundle| suspects.contains_key(bundle.key()));
        Job { together, apart, judged: Vec::new() }
    }

    /// A job is back from [`Shell::verify`].
    pub fn verified(&mut self, job: Job, now: Now, shell: &mut impl Shell<D>) {
        self.judge(job, true, now, shell);
    }

    /// `is_late`: other things may have happened since the bundles came in.
    fn judge(&mut self, job: Job, is_late: bool, now: Now, shell: &mut impl Shell<D>) {
        for (bundle, verdict) in job.judged {
            let client = self.inbox.leaves(&bundle);
            match (client, verdict) {
                (Some(client), Verdict::Good) => {
                    flight::note_bundle(Noted::BundleVerified, &bundle.digest().0, 0, 0);
                    let admission = if is_late { self.admit(&bundle) } else { Some(Admission::Order) };
                    match admission {
                        Some(Admission::Settled(settled)) => self.send_settled(client, settled, shell),
                        Some(Admission::Order) => self.order(client, &bundle, now, shell),
                        None => self.refuse_bundle(client, &bundle, Code::OVERLOADED, shell),
                    }
                }
                (Some(client), Verdict::Bad) => {
                    self.refuse_bundle(client, &bundle, Code::BAD_SIGNATURE, shell);
                    self.suspect(bundle.key());
                    shell.close_client(client);
                }
                (Some(client), Verdict::Unchecked) => self.refuse_bundle(client, &bundle, Code::OVERLOADED, shell),
                // No job holds what the inbox does not know of.
                (None, _) => {}
            }
        }
    }

    fn order(&mut self, client: ClientId, bundle: &Arc<Bundle>, now: Now, shell: &mut impl Shell<D>) {
        match self.ordering.submit(Arc::clone(bundle), now) {
            Ok(()) => drop(self.routes.insert(bundle.digest(), client)),
            Err(code) => self.refuse_bundle(client, bundle, code, shell),
        }
    }
}

/// Whether all signatures hold, at the price of a batch.
fn all_hold(bundles: &[Arc<Bundle>]) -> bool {
    match bundles {
        [] => true,
        [one] => holds(one),
        _ => {
            let mut verifier = BatchVerifier::with_capacity(bundles.len());
            for bundle in bundles {
                verifier.push(bundle.key(), &bundle.signed_bytes(), bundle.signature(), ());
            }
            verifier.all_hold()
        }
    }
}

fn holds(bundle: &Bundle) -> bool {
    verify(bundle.key(), &bundle.signed_bytes(), bundle.signature())
}
