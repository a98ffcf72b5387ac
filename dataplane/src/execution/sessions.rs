//! The session table: replicated state that makes every request run at most once. See the rules in the module above.

use std::collections::{BTreeMap, VecDeque};

use crate::cluster::Settings;
use crate::crypto::hash::sha256;
use crate::ordering::mutants::{self, Mutant};
use crate::types::{Code, Digest, EntryIndex, TimeMs};
use crate::wire::bundle::BundleHeader;

/// Idle sessions closed per sequence at most; the others follow at the next ones.
pub(super) const MAX_CLOSED_PER_SEQUENCE: usize = 256;

/// Where the outcome of an executed request stands. Its code and changes are read from there; the detail is kept here.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Executed {
    /// SHA-256 of the request.
    pub(super) request: Digest,
    pub(super) entry: EntryIndex,
    pub(super) index: u16,
    pub(super) detail: Option<Box<str>>,
}

/// What is to be done with a number.
pub(super) enum Standing<'a> {
    /// It runs now.
    New,
    /// The same request ran before.
    Repeated(&'a Executed),
    /// It may not run.
    Refused(Code),
}

pub(super) struct Session {
    owner: usize,
    /// Digest and client time of the bundle that opened it.
    opening: Digest,
    opening_time_ms: TimeMs,
    last_entry: EntryIndex,
    last_time_ms: TimeMs,
    window: u64,
    /// Lowest number that was not executed.
    low: u64,
    /// Number of the first of `slots`.
    base: u64,
    /// What was executed in `[base, low + window)`; never longer than two windows.
    slots: VecDeque<Option<Executed>>,
    digest: Option<Digest>,
}

impl Session {
    fn slot(&self, number: u64) -> Option<&Executed> {
        let place = usize::try_from(number.checked_sub(self.base)?).ok()?;
        self.slots.get(place)?.as_ref()
    }

    pub(super) fn standing(&self, number: u64, request: &Digest) -> Standing<'_> {
        if number < self.base {
            return Standing::Refused(Code::STALE_NUMBER);
        }
        match self.slot(number) {
            Some(_) if mutants::on(Mutant::ExecutesTwice) => Standing::New,
            Some(executed) if executed.request == *request => Standing::Repeated(executed),
            Some(_) => Standing::Refused(Code::CONFLICT),
            None if number - self.low < self.window => Standing::New,
            None => Standing::Refused(Code::BEYOND_WINDOW),
        }
    }

    /// Whether a number beyond the window lies in the window that follows it.
    pub(super) fn is_soon(&self, number: u64) -> bool {
        number.saturating_sub(self.low) < 2 * self.window
    }

    /// Notes that `number`, whose standing was [`Standing::New`], was executed.
    pub(super) fn record(&mut self, number: u64, executed: Executed) {
        let place = (number - self.base) as usize;
        if self.slots.len() <= place {
            self.slots.resize(place + 1, None);
        }
        self.slots[place] = Some(executed);
        while self.slots.get((self.low - self.base) as usize).is_some_and(Option::is_some) {
            self.low += 1;
        }
        while self.low - self.base > self.window {
            self.slots.pop_front();
            self.base += 1;
        }
    }

    fn digest(&mut self, id: u64) -> Digest {
        if let Some(digest) = self.digest {
            return digest;
        }
        let mut bytes = Vec::with_capacity(128 + 64 * self.slots.len());
        for number in [id, self.owner as u64, self.last_entry, self.low, self.base] {
            bytes.extend_from_slice(&number.to_be_bytes());
        }
        bytes.extend_from_slice(&self.opening.0);
        bytes.extend_from_slice(&self.opening_time_ms.to_be_bytes());
        bytes.extend_from_slice(&self.last_time_ms.to_be_bytes());
        for executed in &self.slots {
            bytes.push(u8::from(executed.is_some()));
            if let Some(executed) = executed {
                let detail = executed.detail.as_deref().unwrap_or_default();
                bytes.extend_from_slice(&executed.request.0);
                bytes.extend_from_slice(&executed.entry.to_be_bytes());
                bytes.extend_from_slice(&executed.index.to_be_bytes());
                bytes.extend_from_slice(&(detail.len() as u32).to_be_bytes());
                bytes.extend_from_slice(detail.as_bytes());
            }
        }
        *self.digest.insert(sha256(&[&bytes]))
    }
}

/// What the table remembers of an identity.
#[derive(Default)]
struct Identity {
    /// The latest client time of a bundle that opened a session which is closed now.
    floor: Option<TimeMs>,
    /// Its sessions by the entry of their last use.
    by_use: BTreeMap<EntryIndex, u64>,
}

/// Which session a bundle is for.
pub(super) enum Target {
    /// One that exists and is the signer's.
    Known(u64),
    /// One that it opens.
    Opens,
}

pub(super) struct Sessions {
    window: u64,
    per_identity: usize,
    idle_ms: TimeMs,
    identities: Vec<Identity>,
    table: BTreeMap<u64, Session>,
    by_opening: BTreeMap<Digest, u64>,
    by_use: BTreeMap<EntryIndex, u64>,
}

impl Sessions {
    pub(super) fn new(settings: &Settings, identities: usize) -> Self {
        Self {
            window: settings.session_window,
            per_identity: usize::try_from(settings.sessions_per_identity).unwrap_or(usize::MAX),
            idle_ms: TimeMs::try_from(settings.session_idle_ms).unwrap_or(TimeMs::MAX),
            identities: (0..identities).map(|_| Identity::default()).collect(),
            table: BTreeMap::new(),
            by_opening: BTreeMap::new(),
            by_use: BTreeMap::new(),
        }
    }

    /// Finds the session of a bundle that `identity` signed. What is refused here at one agreed time is refused at every
    /// later one, except a session that is still to be opened.
    pub(super) fn resolve(
        &self,
        header: &BundleHeader,
        bundle: &Digest,
        identity: usize,
        now_ms: TimeMs,
    ) -> Result<Target, Code> {
        let id = match header.session {
            Some(id) => id,
            None => match self.by_opening.get(bundle) {
                Some(id) => *id,
                None => {
                    let floor = self.identities.get(identity).and_then(|identity| identity.floor);
                    let is_old = header.client_time_ms < now_ms.saturating_sub(self.idle_ms);
                    let is_closed = floor.is_some_and(|floor| header.client_time_ms <= floor);
                    return if is_old || is_closed { Err(Code::EXPIRED) } else { Ok(Target::Opens) };
                }
            },
        };
        match self.table.get(&id) {
            None => Err(Code::UNKNOWN_SESSION),
            Some(session) if session.owner != identity => Err(Code::FOREIGN_SESSION),
            Some(_) => Ok(Target::Known(id)),
        }
    }

    /// Whether a bundle's time is too far ahead to open a session now.
    pub(super) fn is_ahead(&self, client_time_ms: TimeMs, now_ms: TimeMs) -> bool {
        client_time_ms > now_ms.saturating_add(self.idle_ms)
    }

    pub(super) fn get(&self, id: u64) -> Option<&Session> {
        self.table.get(&id)
    }

    pub(super) fn get_mut(&mut self, id: u64) -> Option<&mut Session> {
        let session = self.table.get_mut(&id)?;
        session.digest = None;
        Some(session)
    }

    /// Opens the session `id`, the index of the entry that opens it, after closing the identity's least recently used one
    /// where it has as many as it may.
    pub(super) fn open(&mut self, id: u64, identity: usize, header: &BundleHeader, bundle: Digest, now_ms: TimeMs) {
        while let Some(known) = self.identities.get(identity) {
            match known.by_use.first_key_value() {
                Some((_, oldest)) if known.by_use.len() >= self.per_identity => self.close(*oldest),
                _ => break,
            }
        }
        let session = Session {
            owner: identity,
            opening: bundle,
            opening_time_ms: header.client_time_ms,
            last_entry: id,
            last_time_ms: now_ms,
            window: self.window,
            low: 0,
            base: 0,
            slots: VecDeque::new(),
            digest: None,
        };
        self.table.insert(id, session);
        self.by_opening.insert(bundle, id);
        self.by_use.insert(id, id);
        if let Some(known) = self.identities.get_mut(identity) {
            known.by_use.insert(id, id);
        }
    }

    /// Notes that `entry` is the last use of a session.
    pub(super) fn touch(&mut self, id: u64, entry: EntryIndex, now_ms: TimeMs) {
        let Some(session) = self.table.get_mut(&id) else { return };
        let before = std::mem::replace(&mut session.last_entry, entry);
        session.last_time_ms = now_ms;
        session.digest = None;
        let uses = self.identities.get_mut(session.owner).map(|identity| &mut identity.by_use);
        for uses in uses.into_iter().chain([&mut self.by_use]) {
            uses.remove(&before);
            uses.insert(entry, id);
        }
    }

    /// Closes sessions that were idle for too long, [`MAX_CLOSED_PER_SEQUENCE`] at most.
    pub(super) fn close_idle(&mut self, now_ms: TimeMs) {
        for _ in 0..MAX_CLOSED_PER_SEQUENCE {
            let Some((_, id)) = self.by_use.first_key_value() else { return };
            let id = *id;
            let is_idle = |session: &Session| session.last_time_ms < now_ms.saturating_sub(self.idle_ms);
            if !self.table.get(&id).is_some_and(is_idle) {
                return;
            }
            self.close(id);
        }
    }

    fn close(&mut self, id: u64) {
        let Some(session) = self.table.remove(&id) else { return };
        self.by_opening.remove(&session.opening);
        self.by_use.remove(&session.last_entry);
        if let Some(identity) = self.identities.get_mut(session.owner) {
            identity.by_use.remove(&session.last_entry);
            identity.floor = identity.floor.max(Some(session.opening_time_ms));
        }
    }

    pub(super) fn len(&self) -> usize {
        self.table.len()
    }

    /// Digest of the table. Only sessions that changed since it was asked last are hashed again.
    pub(super) fn digest(&mut self) -> Digest {
        let mut bytes = b"atlas-sessions/1".to_vec();
        for identity in &self.identities {
            bytes.push(u8::from(identity.floor.is_some()));
            bytes.extend_from_slice(&identity.floor.unwrap_or_default().to_be_bytes());
        }
        for (id, session) in &mut self.table {
            bytes.extend_from_slice(&session.digest(*id).0);
        }
        sha256(&[&bytes])
    }
}
