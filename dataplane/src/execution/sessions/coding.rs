//! The session table as bytes, for images of the state. All numbers big-endian.
//!
//! * identities: count u32, for each 1 byte that is 1 where it has a floor, and the floor i64, 0 where it has none;
//! * sessions by ascending id: count u32, for each id u64, owner u32, digest and client time i64 of the opening bundle, last entry
//!   u64, its time i64, low u64, base u64, then the executed numbers, ascending: count u32, for each number u64, digest of the
//!   request, entry u64, index u16, length of the detail u16, detail.
//!
//! Everything else in the table follows from it. Whether a session stands in `with_past` does not quite: one that has nothing left
//! below its window stays there until room is made. But then it is only taken out, so behaviour is the same without it.
//!
//! The bytes may come from a lying peer. Each rule of the table is checked on reading, for the table counts on it: what passes may
//! be another table than was asked for, which its digest tells, but none that panics.

use super::numbers::Numbers;
use super::{Executed, Session, Sessions};
use crate::cluster::Settings;
use crate::execution::reading::{Reading, Unreadable};
use crate::state::MAX_DETAIL;
use crate::types::{Digest, TimeMs};
use crate::wire::limits::MAX_BUNDLE_REQUESTS;

/// Bytes of an identity.
const IDENTITY: usize = 1 + 8;
/// Bytes of a session without numbers.
const SESSION: usize = 8 + 4 + 32 + 5 * 8 + 4;
/// Bytes of an executed number without detail.
const NUMBER: usize = 8 + 32 + 8 + 2 + 2;
/// Numbers lie below: no session can use up so many, and adding a window to one cannot overflow.
const MAX_NUMBER: u64 = u64::MAX >> 1;

impl Sessions {
    /// Appends the table.
    pub(in crate::execution) fn to_bytes(&self, out: &mut Vec<u8>) {
        let numbers: usize = self.table.values().map(|session| session.done.len()).sum();
        out.reserve(8 + IDENTITY * self.identities.len() + SESSION * self.table.len() + NUMBER * numbers);
        out.extend_from_slice(&(self.identities.len() as u32).to_be_bytes());
        for identity in &self.identities {
            out.push(u8::from(identity.floor.is_some()));
            out.extend_from_slice(&identity.floor.unwrap_or_default().to_be_bytes());
        }
        out.extend_from_slice(&(self.table.len() as u32).to_be_bytes());
        for (id, session) in &self.table {
            session.put(*id, out);
        }
    }

    /// Reads what [`to_bytes`](Self::to_bytes) wrote. Takes memory in proportion to what is there.
    ///
    /// # Errors
    /// The bytes are no table that so many identities can have under these settings.
    pub(in crate::execution) fn from_bytes(
        settings: &Settings,
        identities: usize,
        bytes: &[u8],
    ) -> Result<Self, Unreadable> {
        let mut table = Self::new(settings, identities);
        let input = &mut Reading::new(bytes);
        if input.u32()? as usize != identities {
            return input.wrong("there is another number of identities");
        }
        for identity in &mut table.identities {
            identity.floor = match (input.array()?, input.time()?) {
                ([0], 0) => None,
                ([1], floor) => Some(floor),
                _ => return input.wrong("a floor is there or not"),
            };
        }
        for _ in 0..input.count(SESSION)? {
            table.read_session(input)?;
        }
        if !input.rest().is_empty() { input.wrong("bytes follow the last session") } else { Ok(table) }
    }

    /// Entry and time of the last use of any session.
    pub(in crate::execution) fn last_use(&self) -> Option<(u64, TimeMs)> {
        let (entry, id) = self.by_use.last_key_value()?;
        self.table.get(id).map(|session| (*entry, session.last_time_ms))
    }

    fn read_session(&mut self, input: &mut Reading<'_>) -> Result<(), Unreadable> {
        let id = input.u64()?;
        if self.table.last_key_value().is_some_and(|(last, _)| *last >= id) {
            return input.wrong("sessions do not ascend");
        }
        let session = Session::read(id, self.window, input)?;
        let Some(identity) = self.identities.get_mut(session.owner) else {
            return input.wrong("a session's owner is no client");
        };
        if identity.by_use.len() >= self.per_identity {
            return input.wrong("a client has more sessions than it may");
        }
        let entry = session.last_entry;
        // Entries have one time each, later ones no earlier time.
        let before = self.by_use.range(..entry).next_back().and_then(|(_, id)| self.table.get(id));
        let after = self.by_use.range(entry..).next().and_then(|(_, id)| self.table.get(id));
        let is_in_order = before.is_none_or(|before| before.last_time_ms <= session.last_time_ms)
            && after.is_none_or(|after| after.last_entry != entry && session.last_time_ms <= after.last_time_ms);
        if !is_in_order {
            return input.wrong("sessions' last uses are not in the order of time");
        }
        if self.by_opening.insert(session.opening, id).is_some() {
            return input.wrong("a bundle opened two sessions");
        }
        identity.bytes += session.bytes;
        identity.by_use.insert(entry, id);
        if session.has_past() {
            identity.with_past.insert(entry, id);
        }
        self.by_use.insert(entry, id);
        self.table.insert(id, session);
        Ok(())
    }
}

impl Session {
    fn put(&self, id: u64, out: &mut Vec<u8>) {
        out.extend_from_slice(&id.to_be_bytes());
        out.extend_from_slice(&(self.owner as u32).to_be_bytes());
        out.extend_from_slice(&self.opening.0);
        out.extend_from_slice(&self.opening_time_ms.to_be_bytes());
        out.extend_from_slice(&self.last_entry.to_be_bytes());
        out.extend_from_slice(&self.last_time_ms.to_be_bytes());
        out.extend_from_slice(&self.done.low().to_be_bytes());
        out.extend_from_slice(&self.done.base().to_be_bytes());
        out.extend_from_slice(&(self.done.len() as u32).to_be_bytes());
        for (number, executed) in self.done.iter() {
            let detail = executed.detail.as_deref().unwrap_or_default();
            out.extend_from_slice(&number.to_be_bytes());
            out.extend_from_slice(&executed.request.0);
            out.extend_from_slice(&executed.entry.to_be_bytes());
            out.extend_from_slice(&executed.index.to_be_bytes());
            out.extend_from_slice(&(detail.len() as u16).to_be_bytes());
            out.extend_from_slice(detail.as_bytes());
        }
    }

    /// What follows the id.
    fn read(id: u64, window: u64, input: &mut Reading<'_>) -> Result<Self, Unreadable> {
        let (owner, opening, opening_time_ms) = (input.u32()? as usize, Digest(input.array()?), input.time()?);
        let (last_entry, last_time_ms, low, base) = (input.u64()?, input.time()?, input.u64()?, input.u64()?);
        let done = Numbers::from(base);
        let mut session =
            Self { owner, opening, opening_time_ms, last_entry, last_time_ms, window, done, bytes: 0, digest: None };
        // The opening request is executed in the entry that the session is named by.
        if session.last_entry < id || low == 0 || low > MAX_NUMBER {
            return input.wrong("a session was used first at its opening");
        }
        if base > low || base < low.saturating_sub(window) {
            return input.wrong("a session remembers at most one window below its lowest number");
        }
        // The lowest number that the next may have: all from the base up to `low` were executed, `low` was not.
        let mut next = base;
        for _ in 0..input.count(NUMBER)? {
            let number = input.u64()?;
            if number < next || number == low || (next < low && number > next) {
                return input.wrong("a session's lowest number is another");
            }
            if number >= low.saturating_add(window) {
                return input.wrong("an executed number lies beyond the window");
            }
            next = number + 1;
            let executed = Executed::read(input)?;
            if executed.entry < id || executed.entry > session.last_entry {
                return input.wrong("a number was executed while its session was open");
            }
            session.bytes += executed.cost();
            session.done.insert(number, executed);
        }
        if next < low { input.wrong("executed numbers are missing") } else { Ok(session) }
    }
}

impl Executed {
    fn read(input: &mut Reading<'_>) -> Result<Self, Unreadable> {
        let (request, entry, index) = (Digest(input.array()?), input.u64()?, input.u16()?);
        if usize::from(index) >= MAX_BUNDLE_REQUESTS {
            return input.wrong("no bundle has so many requests");
        }
        let length = usize::from(input.u16()?);
        if length > MAX_DETAIL {
            return input.wrong("no detail is that long");
        }
        let Ok(detail) = std::str::from_utf8(input.take(length)?) else { return input.wrong("a detail is no text") };
        Ok(Self { request, entry, index, detail: (length > 0).then(|| detail.into()) })
    }
}
