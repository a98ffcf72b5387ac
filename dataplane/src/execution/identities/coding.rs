//! The table as bytes, for its digest and for images of the state. Numbers big-endian; `optional` is a byte 0, or 1 and the value:
//!
//! * statements carried out u64, last KEY entry u64, count of identities u32, those of the genesis first;
//! * for each: key, length u8 and printed name, role u16 ([`ADMINISTRATOR`] for none), optional from i64, optional until i64, entry u64,
//!   optional end: its time i64, its entry u64, optional key of the successor.
//!
//! What does not change (origin, roles, patterns, replicas' keys) is the cluster's and not in it. The bytes may come from a lying
//! peer: what passes may be another table than was asked for, which its digest tells, but none that panics or that this genesis
//! cannot lead to by its shape.

use super::{Ended, Identities, Identity, MAX_IDENTITIES};
use crate::cluster::roles::RoleId;
use crate::execution::reading::{Reading, Unreadable};
use crate::types::{PublicKey, TimeMs};
use crate::wire::statement::{Validity, is_printed_name};

/// The role of those that have none.
const ADMINISTRATOR: u16 = u16::MAX;
/// Fewest bytes of an identity.
const IDENTITY: usize = 32 + 1 + 1 + 2 + 1 + 1 + 8 + 1;

impl Identities {
    /// Appends the table.
    pub(in crate::execution) fn to_bytes(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.number.to_be_bytes());
        out.extend_from_slice(&self.last_entry.to_be_bytes());
        out.extend_from_slice(&(self.all.len() as u32).to_be_bytes());
        for identity in &self.all {
            put(identity, out);
        }
    }

    /// Reads what [`to_bytes`](Self::to_bytes) wrote; `genesis` is the table of the same cluster before the first KEY entry.
    ///
    /// # Errors
    /// The bytes are no table that can follow from this genesis.
    pub(in crate::execution) fn from_bytes(genesis: Self, bytes: &[u8]) -> Result<Self, Unreadable> {
        let mut table = genesis;
        let input = &mut Reading::new(bytes);
        (table.number, table.last_entry) = (input.u64()?, input.u64()?);
        let count = input.count(IDENTITY)?;
        if count < table.first || count > table.first.max(MAX_IDENTITIES) {
            return input.wrong("the cluster has another number of identities");
        }
        for place in 0..count {
            let identity = read(input)?;
            match table.all.get_mut(place) {
                Some(first) => {
                    let ended = identity.ended;
                    if (Identity { ended: None, ..identity }) != *first {
                        return input.wrong("the genesis has another identity");
                    }
                    first.ended = ended;
                }
                None => table.read_new(identity, input)?,
            }
        }
        // Each statement added an identity, ended one, or both.
        let added = (count - table.first) as u64;
        let ended = table.all.iter().filter(|identity| identity.ended.is_some()).count() as u64;
        if table.number < added || table.number > added + ended || (table.number == 0) != (table.last_entry == 0) {
            return input.wrong("the number of statements is another");
        }
        if !input.rest().is_empty() {
            return input.wrong("bytes follow the last identity");
        }
        table.hash();
        Ok(table)
    }

    fn read_new(&mut self, identity: Identity, input: &Reading<'_>) -> Result<(), Unreadable> {
        let last = self.all.get(self.first..).and_then(<[_]>::last).map_or(0, |last| last.entry);
        if identity.entry <= last || identity.entry > self.last_entry {
            return input.wrong("identities are not in the order of their entries");
        }
        if identity.role.is_some_and(|role| usize::from(role.0) >= self.roles.len()) {
            return input.wrong("an identity's role is none of the cluster");
        }
        if self.by_key.contains_key(&identity.key) || self.reserved.contains(&identity.key) {
            return input.wrong("a key stands for two");
        }
        self.add(identity);
        Ok(())
    }
}

fn put(identity: &Identity, out: &mut Vec<u8>) {
    out.extend_from_slice(&identity.key.0);
    out.push(identity.name.len() as u8);
    out.extend_from_slice(identity.name.as_bytes());
    out.extend_from_slice(&identity.role.map_or(ADMINISTRATOR, |role| role.0).to_be_bytes());
    put_optional(out, identity.validity.from_ms.map(TimeMs::to_be_bytes));
    put_optional(out, identity.validity.until_ms.map(TimeMs::to_be_bytes));
    out.extend_from_slice(&identity.entry.to_be_bytes());
    out.push(u8::from(identity.ended.is_some()));
    if let Some(Ended { at_ms, entry, successor }) = identity.ended {
        out.extend_from_slice(&at_ms.to_be_bytes());
        out.extend_from_slice(&entry.to_be_bytes());
        put_optional(out, successor.map(|key| key.0));
    }
}

fn put_optional<const N: usize>(out: &mut Vec<u8>, bytes: Option<[u8; N]>) {
    out.push(u8::from(bytes.is_some()));
    out.extend_from_slice(bytes.as_ref().map_or(&[], |bytes| bytes));
}

fn read(input: &mut Reading<'_>) -> Result<Identity, Unreadable> {
    let key = PublicKey(input.array()?);
    let [length] = input.array()?;
    let name = std::str::from_utf8(input.take(usize::from(length))?).ok().filter(|name| is_printed_name(name));
    let Some(name) = name.map(str::to_owned) else { return input.wrong("an identity's name is none") };
    let role = Some(input.u16()?).filter(|role| *role != ADMINISTRATOR).map(RoleId);
    let validity = Validity { from_ms: optional(input, Reading::time)?, until_ms: optional(input, Reading::time)? };
    let entry = input.u64()?;
    let ended = optional(input, |input| {
        let (at_ms, entry) = (input.time()?, input.u64()?);
        Ok(Ended { at_ms, entry, successor: optional(input, Reading::array)?.map(PublicKey) })
    })?;
    Ok(Identity { key, name, role, validity, entry, ended })
}

fn optional<'a, T>(
    input: &mut Reading<'a>,
    read: impl FnOnce(&mut Reading<'a>) -> Result<T, Unreadable>,
) -> Result<Option<T>, Unreadable> {
    match input.array()? {
        [0] => Ok(None),
        [1] => read(input).map(Some),
        _ => input.wrong("a value is there or not"),
    }
}
