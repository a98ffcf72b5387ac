//! Bundles that wait to be ordered: bounded in bytes, shared fairly among identities.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crate::types::{Code, Digest, PublicKey};
use crate::wire::bundle::Bundle;

/// An identity's share of the pool is at most one part in so many, however few use it, unless local settings say otherwise: few
/// together leave room for others.
pub(super) const SHARES: usize = 8;

/// Memory that a waiting bundle takes beside its bytes: its struct, its places in the tables.
pub const BUNDLE_OVERHEAD: usize = 512;

#[derive(Debug)]
struct Pooled {
    bundle: Arc<Bundle>,
    /// Whether an open proposal holds it, so that the leader does not propose it again.
    proposed: bool,
    /// When it came, us.
    arrived_us: u64,
    /// When this replica sent it on first, and last, us.
    relayed_us: Option<(u64, u64)>,
}

/// A bundle that was taken out.
#[derive(Clone, Copy, Debug)]
pub(super) struct Taken {
    pub(super) key: PublicKey,
    pub(super) bytes: usize,
    /// When it came, us.
    pub(super) arrived_us: u64,
    /// When it was sent on first, us.
    pub(super) relayed_us: Option<u64>,
}

/// The oldest bundle that stands in no proposal.
#[derive(Clone, Copy, Debug)]
pub(super) struct Oldest {
    /// When it came, us.
    pub(super) arrived_us: u64,
    /// Whether it was sent on.
    pub(super) relayed: bool,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Pool {
    limit: usize,
    shares_least: usize,
    bytes: usize,
    bundles: BTreeMap<Digest, Pooled>,
    shares: BTreeMap<PublicKey, usize>,
    /// In order of arrival, with the time, us; what was removed is skipped.
    arrived: VecDeque<(u64, Digest)>,
    /// What the leader has not proposed, in order of arrival; what was removed is skipped.
    unproposed: VecDeque<Digest>,
}

impl Pool {
    pub(super) fn new(limit: usize, shares_least: usize) -> Self {
        Self {
            limit,
            shares_least,
            bytes: 0,
            bundles: BTreeMap::new(),
            shares: BTreeMap::new(),
            arrived: VecDeque::new(),
            unproposed: VecDeque::new(),
        }
    }

    /// Another limit in bytes, and another part of it for an identity; what is here stays.
    pub(super) fn set_limit(&mut self, limit: usize, shares_least: usize) {
        (self.limit, self.shares_least) = (limit, shares_least);
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn len(&self) -> usize {
        self.bundles.len()
    }

    /// Keeps a bundle; one that is there already is there once.
    ///
    /// An identity may use the pool's bytes divided by the number of identities that use it, itself counted twice, and by
    /// [`Timing::pool_shares`](super::Timing) where those are fewer: so room is left for the next ones, and who fills the pool is the first to be refused.
    pub(super) fn insert(&mut self, bundle: Arc<Bundle>, now_us: u64) -> Result<(), Code> {
        let digest = bundle.digest();
        if self.bundles.contains_key(&digest) {
            return Ok(());
        }
        if !self.has_room(bundle.key(), bundle.memory(), 0) {
            return Err(Code::OVERLOADED);
        }
        let cost = bundle.memory() + BUNDLE_OVERHEAD;
        *self.shares.entry(*bundle.key()).or_default() += cost;
        self.bytes += cost;
        self.bundles.insert(digest, Pooled { bundle, proposed: false, arrived_us: now_us, relayed_us: None });
        self.arrived.push_back((now_us, digest));
        self.unproposed.push_back(digest);
        Ok(())
    }

    /// Whether a bundle of this identity and size would be kept, were other identities' bytes that are to come here already.
    pub(super) fn has_room(&self, key: &PublicKey, size: usize, to_come: usize) -> bool {
        let cost = size + BUNDLE_OVERHEAD;
        let used = self.shares.get(key).copied().unwrap_or(0);
        let users = self.shares.len() + usize::from(used == 0);
        used + cost <= self.limit / (users + 1).max(self.shares_least) && self.bytes + to_come + cost <= self.limit
    }

    pub(super) fn get(&self, digest: &Digest) -> Option<&Arc<Bundle>> {
        self.bundles.get(digest).map(|pooled| &pooled.bundle)
    }

    pub(super) fn remove(&mut self, digest: &Digest) -> Option<Taken> {
        let pooled = self.bundles.remove(digest)?;
        let cost = pooled.bundle.memory() + BUNDLE_OVERHEAD;
        self.bytes -= cost;
        if let Some(share) = self.shares.get_mut(pooled.bundle.key()) {
            *share -= cost;
            if *share == 0 {
                self.shares.remove(pooled.bundle.key());
            }
        }
        // The queues hold digests of what is gone; they are cut back here so that they stay as short as the pool.
        if self.arrived.len() > 2 * self.bundles.len() + 64 {
            self.arrived.retain(|(_, digest)| self.bundles.contains_key(digest));
        }
        if self.unproposed.len() > 2 * self.bundles.len() + 64 {
            self.unproposed.retain(|digest| self.bundles.contains_key(digest));
        }
        Some(Taken {
            key: *pooled.bundle.key(),
            bytes: pooled.bundle.size(),
            arrived_us: pooled.arrived_us,
            relayed_us: pooled.relayed_us.map(|(first, _)| first),
        })
    }

    /// A proposal holds the bundle: it is not proposed again.
    pub(super) fn mark_proposed(&mut self, digest: &Digest) {
        if let Some(pooled) = self.bundles.get_mut(digest) {
            pooled.proposed = true;
        }
    }

    /// The proposals of a view are over: what they held may be proposed again, in order of arrival.
    pub(super) fn release_all(&mut self) {
        self.unproposed.clear();
        for (_, digest) in &self.arrived {
            if let Some(pooled) = self.bundles.get_mut(digest) {
                pooled.proposed = false;
                self.unproposed.push_back(*digest);
            }
        }
    }

    fn unproposed(&self) -> impl Iterator<Item = &Pooled> {
        let waiting = self.arrived.iter().filter_map(|(_, digest)| self.bundles.get(digest));
        waiting.filter(|pooled| !pooled.proposed)
    }

    /// Bundles that stand in no proposal, in order of arrival.
    pub(super) fn waiting(&self) -> impl Iterator<Item = &Arc<Bundle>> {
        self.unproposed().map(|pooled| &pooled.bundle)
    }

    /// The oldest bundle that stands in no proposal.
    pub(super) fn oldest(&self) -> Option<Oldest> {
        let pooled = self.unproposed().next()?;
        Some(Oldest { arrived_us: pooled.arrived_us, relayed: pooled.relayed_us.is_some() })
    }

    /// Of bundles that stand in no proposal and were sent on: whose, and since when, us. The oldest first.
    pub(super) fn relayed(&self) -> impl Iterator<Item = (PublicKey, u64)> {
        self.unproposed().filter_map(|pooled| Some((*pooled.bundle.key(), pooled.relayed_us?.0)))
    }

    /// What is sent on: the oldest bundles that stand in no proposal, came until then and were not sent on for a while, us.
    pub(super) fn relay(&mut self, most: usize, until_us: u64, again_us: u64, now_us: u64) -> Vec<Arc<Bundle>> {
        let mut relayed = Vec::new();
        for (_, digest) in &self.arrived {
            let Some(pooled) = self.bundles.get_mut(digest).filter(|pooled| !pooled.proposed) else { continue };
            if relayed.len() >= most || pooled.arrived_us > until_us {
                break;
            }
            let first_us = match pooled.relayed_us {
                Some((_, last_us)) if now_us < last_us.saturating_add(again_us) => continue,
                Some((first_us, _)) => first_us,
                None => now_us,
            };
            pooled.relayed_us = Some((first_us, now_us));
            relayed.push(Arc::clone(&pooled.bundle));
        }
        relayed
    }

    /// Takes what the leader proposes next, within the limits; nothing where nothing waits.
    pub(super) fn take(&mut self, max_bytes: usize, max_bundles: usize) -> Vec<Arc<Bundle>> {
        let (mut taken, mut bytes) = (Vec::new(), 0);
        while let Some(digest) = self.unproposed.front() {
            let Some(pooled) = self.bundles.get_mut(digest).filter(|pooled| !pooled.proposed) else {
                self.unproposed.pop_front();
                continue;
            };
            let size = pooled.bundle.size();
            if !taken.is_empty() && (bytes + size > max_bytes || taken.len() >= max_bundles) {
                break;
            }
            bytes += size;
            pooled.proposed = true;
            taken.push(Arc::clone(&pooled.bundle));
            self.unproposed.pop_front();
        }
        taken
    }

    /// Whether the leader has something to propose.
    pub(super) fn has_unproposed(&mut self) -> bool {
        while let Some(digest) = self.unproposed.front() {
            if self.bundles.get(digest).is_some_and(|pooled| !pooled.proposed) {
                return true;
            }
            self.unproposed.pop_front();
        }
        false
    }

    /// Drops what came more than `age_us` ago and stands in no proposal.
    pub(super) fn expire(&mut self, now_us: u64, age_us: u64) {
        while let Some((at, digest)) = self.arrived.front().copied() {
            let proposed = self.bundles.get(&digest).map(|pooled| pooled.proposed);
            if proposed.is_some() && at.saturating_add(age_us) > now_us {
                return;
            }
            self.arrived.pop_front();
            match proposed {
                // It is released when its batch is executed; looked at again an age later.
                Some(true) => self.arrived.push_back((now_us, digest)),
                Some(false) => drop(self.remove(&digest)),
                None => {}
            }
        }
    }
}

#[cfg(test)]
#[path = "pool_tests.rs"]
mod tests;
