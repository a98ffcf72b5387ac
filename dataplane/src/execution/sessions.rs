//! The session table: replicated state that makes every request run at most once. See the rules in the module above.

use std::collections::BTreeMap;

use crate::cluster::Settings;
use crate::crypto::hash::sha256;
use crate::ordering::mutants::{self, Mutant};
use crate::types::{Code, Digest, EntryIndex, TimeMs};
use crate::wire::bundle::BundleHeader;

mod coding;
mod numbers;

use numbers::Numbers;

/// Idle sessions closed per sequence at most; the others follow at the next ones.
pub(super) const MAX_CLOSED_PER_SEQUENCE: usize = 256;

/// What an executed number costs in the table beside its detail, bytes: its record and its share of half-filled tree nodes.
const NUMBER_BYTES: usize = 128;

/// Bytes of executed numbers that an identity's sessions keep together, beyond which those used longest ago forget what lies
/// below their windows. One open window may take more by itself if it is large.
pub(super) const MAX_IDENTITY_BYTES: usize = 8 << 20;

/// Bytes for a session itself and its places in the maps.
pub(super) const SESSION_BYTES: usize = 1_024;

/// Where the outcome of an executed request stands. Its code and changes are read from there; the detail is kept here.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Executed {
    /// Leaf hash of the request, as the bundle's root has it.
    pub(super) request: Digest,
    pub(super) entry: EntryIndex,
    pub(super) index: u16,
    pub(super) detail: Option<Box<str>>,
}

impl Executed {
    fn cost(&self) -> usize {
        NUMBER_BYTES + self.detail.as_ref().map_or(0, |detail| detail.len())
    }
}

/// The most that an open window can take, bytes.
pub(super) fn window_bound(window: u64) -> u64 {
    window * (NUMBER_BYTES + crate::state::MAX_DETAIL) as u64
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
    /// What was executed in `[base, low + window)`.
    done: Numbers,
    /// What `done` costs, bytes.
    bytes: usize,
    digest: Option<Digest>,
}

impl Session {
    pub(super) fn standing(&self, number: u64, request: &Digest) -> Standing<'_> {
        if number < self.done.base() {
            return Standing::Refused(Code::STALE_NUMBER);
        }
        match self.done.get(number) {
            Some(_) if mutants::on(Mutant::ExecutesTwice) => Standing::New,
            Some(executed) if executed.request == *request => Standing::Repeated(executed),
            Some(_) => Standing::Refused(Code::CONFLICT),
            None if number - self.done.low() < self.window => Standing::New,
            None => Standing::Refused(Code::BEYOND_WINDOW),
        }
    }

    /// Whether a number beyond the window lies in the window that follows it.
    pub(super) fn is_soon(&self, number: u64) -> bool {
        number.saturating_sub(self.done.low()) < 2 * self.window
    }

    /// Notes that `number`, whose standing was [`Standing::New`], was executed.
    pub(super) fn record(&mut self, number: u64, executed: Executed) {
        self.bytes += executed.cost();
        self.done.insert(number, executed);
        while self.done.low() - self.done.base() > self.window {
            self.forget_first();
        }
    }

    fn forget_first(&mut self) {
        self.bytes -= self.done.forget_first().map_or(0, |first| first.cost());
    }

    /// Whether it remembers something below its window.
    fn has_past(&self) -> bool {
        self.done.base() < self.done.low()
    }

    fn digest(&mut self, id: u64) -> Digest {
        if let Some(digest) = self.digest {
            return digest;
        }
        let mut bytes = Vec::with_capacity(128 + 64 * self.done.len());
        for number in [id, self.owner as u64, self.last_entry, self.done.low(), self.done.base()] {
            bytes.extend_from_slice(&number.to_be_bytes());
        }
        bytes.extend_from_slice(&self.opening.0);
        bytes.extend_from_slice(&self.opening_time_ms.to_be_bytes());
        bytes.extend_from_slice(&self.last_time_ms.to_be_bytes());
        for (number, executed) in self.done.iter() {
            let detail = executed.detail.as_deref().unwrap_or_default();
            bytes.extend_from_slice(&number.to_be_bytes());
            bytes.extend_from_slice(&executed.request.0);
            bytes.extend_from_slice(&executed.entry.to_be_bytes());
            bytes.extend_from_slice(&executed.index.to_be_bytes());
            bytes.extend_from_slice(&(detail.len() as u32).to_be_bytes());
            bytes.extend_from_slice(detail.as_bytes());
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
    /// Those of them that remember something below their window, likewise.
    with_past: BTreeMap<EntryIndex, u64>,
    /// What its sessions keep, bytes.
    bytes: usize,
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
    identity_bytes: usize,
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
            identity_bytes: MAX_IDENTITY_BYTES,
            idle_ms: TimeMs::try_from(settings.session_idle_ms).unwrap_or(TimeMs::MAX),
            identities: (0..identities).map(|_| Identity::default()).collect(),
            table: BTreeMap::new(),
            by_opening: BTreeMap::new(),
            by_use: BTreeMap::new(),
        }
    }

    /// One more identity, with the next place.
    pub(super) fn add_identity(&mut self) {
        self.identities.push(Identity::default());
    }

    /// As if an identity could keep so many executed numbers without detail.
    #[cfg(test)]
    pub(super) fn keep_numbers(&mut self, numbers: usize) {
        self.identity_bytes = numbers * NUMBER_BYTES;
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
            done: Numbers::default(),
            bytes: 0,
            digest: None,
        };
        self.table.insert(id, session);
        self.by_opening.insert(bundle, id);
        self.by_use.insert(id, id);
        if let Some(known) = self.identities.get_mut(identity) {
            known.by_use.insert(id, id);
        }
    }

    /// Notes that `entry` is the last use of a session, which kept `bytes_before` until then.
    pub(super) fn touch(&mut self, id: u64, bytes_before: usize, entry: EntryIndex, now_ms: TimeMs) {
        let Some(session) = self.table.get_mut(&id) else { return };
        let before = std::mem::replace(&mut session.last_entry, entry);
        session.last_time_ms = now_ms;
        session.digest = None;
        self.by_use.remove(&before);
        self.by_use.insert(entry, id);
        let (owner, has_past) = (session.owner, session.has_past());
        let Some(identity) = self.identities.get_mut(owner) else { return };
        identity.bytes = identity.bytes + session.bytes - bytes_before;
        identity.by_use.remove(&before);
        identity.by_use.insert(entry, id);
        identity.with_past.remove(&before);
        if has_past {
            identity.with_past.insert(entry, id);
        }
        self.make_room(owner, id);
    }

    /// Brings an identity back within its bytes: first its sessions used longest ago forget what lies below their windows, oldest
    /// number first; then, where only open windows are left, those sessions are closed. The session in use is not. A client
    /// that asks late for a reply learns in both cases that nobody knows any more: it takes neither for "not executed".
    /// What keeps nothing is left as it is, since closing it makes no room.
    fn make_room(&mut self, owner: usize, used: u64) {
        while let Some(identity) = self.identities.get_mut(owner).filter(|it| it.bytes > self.identity_bytes) {
            if let Some((entry, id)) = identity.with_past.first_key_value().map(|(entry, id)| (*entry, *id)) {
                let session = self.table.get_mut(&id).filter(|session| session.has_past());
                match session {
                    Some(session) => {
                        let before = session.bytes;
                        session.forget_first();
                        session.digest = None;
                        identity.bytes -= before - session.bytes;
                    }
                    None => drop(identity.with_past.remove(&entry)),
                }
                continue;
            }
            let kept_by = |id: &u64| self.table.get(id).map_or(0, |session| session.bytes);
            if kept_by(&used) >= identity.bytes {
                return;
            }
            let oldest = identity.by_use.values().copied().find(|id| *id != used && kept_by(id) > 0);
            let Some(oldest) = oldest else { return };
            self.close(oldest);
        }
    }

    /// What a session keeps, bytes.
    pub(super) fn bytes(&self, id: u64) -> usize {
        self.table.get(&id).map_or(0, |session| session.bytes)
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
            identity.with_past.remove(&session.last_entry);
            identity.bytes -= session.bytes;
            identity.floor = identity.floor.max(Some(session.opening_time_ms));
        }
    }

    pub(super) fn len(&self) -> usize {
        self.table.len()
    }

    /// Digest of the table of identities and of this one. Only sessions that changed since it was asked last are hashed again.
    pub(super) fn digest(&mut self, identities: &Digest) -> Digest {
        let mut bytes = b"atlas-sessions/2".to_vec();
        bytes.extend_from_slice(&identities.0);
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
