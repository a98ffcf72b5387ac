//! The rules of sessions, told anew for an audit: which numbers of which session a bundle may use up.
//!
//! A history does not show when a session was closed for being idle. What it shows decides everything else: an outcome is null
//! exactly where the number was used before or lies beyond the window, and a session that is not among its identity's last used ones
//! is closed for certain. So memory is bounded by the identities, not by the history.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use atlas_dataplane::types::{Digest, EntryIndex, PublicKey, TimeMs};
use atlas_dataplane::wire::bundle::BundleHeader;

use super::replay::Divergence;
use super::roster::Roster;

/// A session that may be open.
struct Session {
    owner: PublicKey,
    opening: Digest,
    opening_time_ms: TimeMs,
    last_entry: EntryIndex,
    /// Lowest number that was not used.
    low: u64,
    /// Used numbers above it.
    used: BTreeSet<u64>,
}

#[derive(Default)]
struct Identity {
    by_use: BTreeMap<EntryIndex, u64>,
    /// Client time of the latest opening of a session that is closed for certain.
    floor: Option<TimeMs>,
}

/// All sessions that may be open.
#[derive(Default)]
pub(super) struct Sessions {
    table: HashMap<u64, Session>,
    by_opening: HashMap<Digest, u64>,
    identities: HashMap<PublicKey, Identity>,
}

/// A bundle and where it stands.
pub(super) struct Use<'a> {
    pub(super) entry: EntryIndex,
    pub(super) time_ms: TimeMs,
    pub(super) key: &'a PublicKey,
    pub(super) header: &'a BundleHeader,
    pub(super) digest: &'a Digest,
}

impl Sessions {
    /// The session that a bundle belongs to, opened if it opens one.
    pub(super) fn enter(&mut self, bundle: &Use<'_>, roster: &Roster) -> Result<u64, Divergence> {
        let id = match bundle.header.session.or_else(|| self.by_opening.get(bundle.digest).copied()) {
            Some(id) => id,
            None => return self.open(bundle, roster),
        };
        match self.table.get(&id) {
            None => Err(Divergence::NoSession { session: id }),
            Some(session) if session.owner != *bundle.key => Err(Divergence::ForeignSession { session: id }),
            Some(_) => Ok(id),
        }
    }

    fn open(&mut self, bundle: &Use<'_>, roster: &Roster) -> Result<u64, Divergence> {
        let time = bundle.header.client_time_ms;
        let identity = self.identities.entry(*bundle.key).or_default();
        let is_near = time >= bundle.time_ms.saturating_sub(roster.session_idle_ms)
            && time <= bundle.time_ms.saturating_add(roster.session_idle_ms);
        if !is_near || identity.floor.is_some_and(|floor| time <= floor) {
            return Err(Divergence::Opening);
        }
        while identity.by_use.len() as u64 >= roster.sessions_per_identity.max(1) {
            let Some((_, oldest)) = identity.by_use.pop_first() else { break };
            if let Some(closed) = self.table.remove(&oldest) {
                self.by_opening.remove(&closed.opening);
                identity.floor = identity.floor.max(Some(closed.opening_time_ms));
            }
        }
        identity.by_use.insert(bundle.entry, bundle.entry);
        self.by_opening.insert(*bundle.digest, bundle.entry);
        let session = Session {
            owner: *bundle.key,
            opening: *bundle.digest,
            opening_time_ms: time,
            last_entry: bundle.entry,
            low: 0,
            used: BTreeSet::new(),
        };
        self.table.insert(bundle.entry, session);
        Ok(bundle.entry)
    }

    /// Whether a number of a session runs: it was not used, and lies in the window. Uses it up then.
    pub(super) fn takes(&mut self, id: u64, number: u64, roster: &Roster) -> bool {
        let Some(session) = self.table.get_mut(&id) else { return false };
        let is_new = number >= session.low && number - session.low < roster.session_window;
        if !is_new || !session.used.insert(number) {
            return false;
        }
        while session.used.remove(&session.low) {
            session.low += 1;
        }
        true
    }

    /// Notes the last use of a session.
    pub(super) fn touch(&mut self, id: u64, entry: EntryIndex) {
        let Some(session) = self.table.get_mut(&id) else { return };
        let before = std::mem::replace(&mut session.last_entry, entry);
        if let Some(identity) = self.identities.get_mut(&session.owner) {
            identity.by_use.remove(&before);
            identity.by_use.insert(entry, id);
        }
    }
}
