//! The table as clients ask for it: pages that f+1 replicas give alike, since they depend on the table alone.
//!
//! Query: CBOR `["atlas-identities/1", first place]`. Answer: `[statements carried out, identities in all, [identity ...]]`, at most
//! [`MAX_PAGE`] of them from that place on, each `[key, name, role's name / null, valid_from_ms / null, valid_until_ms / null, entry,
//! [ended_ms, entry, successor / null] / null]`. `valid_from` is the last KEY entry.

use super::{Ended, Identities};
use crate::cbor::{CborError, Reader, Writer};
use crate::state::Answer;
use crate::types::{Code, EntryIndex, PublicKey, TimeMs};
use crate::wire::statement::Validity;

/// Most identities of a page; one takes at most some 320 bytes.
pub const MAX_PAGE: usize = 256;

const FORMAT: &str = "atlas-identities/1";

/// First bytes of the query: an array of two, a text of 18 bytes.
const HEAD: &[u8] = b"\x82\x72atlas-identities/1";

/// The query for the page that begins at this place.
pub fn query(first: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    Writer(&mut bytes).array(2).text(FORMAT).uint(first);
    bytes
}

/// An identity as a page has it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Listed {
    /// The key.
    pub key: PublicKey,
    /// Printed name.
    pub name: String,
    /// Name of its role; `None` for an administrator.
    pub role: Option<String>,
    /// When the key is valid.
    pub validity: Validity,
    /// The KEY entry that brought it; 0 for the genesis.
    pub entry: EntryIndex,
    /// It ended.
    pub ended: Option<Ended>,
}

/// A page of the table.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Page {
    /// Statements carried out: the next has this number and one.
    pub number: u64,
    /// Identities in all.
    pub total: u64,
    /// Those of the page.
    pub items: Vec<Listed>,
}

impl Page {
    /// Reads an answer's body.
    ///
    /// # Errors
    /// It is none.
    pub fn decode(body: &[u8]) -> Result<Self, CborError> {
        let reader = &mut Reader::new(body);
        reader.array_of(3)?;
        let (number, total) = (reader.uint()?, reader.uint()?);
        let items = (0..reader.array()?).map(|_| read(reader)).collect::<Result<_, _>>()?;
        reader.finish()?;
        Ok(Self { number, total, items })
    }
}

fn read(reader: &mut Reader<'_>) -> Result<Listed, CborError> {
    reader.array_of(7)?;
    Ok(Listed {
        key: PublicKey(reader.bytes32()?),
        name: reader.text()?.to_owned(),
        role: reader.optional(Reader::text)?.map(str::to_owned),
        validity: Validity { from_ms: reader.optional(Reader::int)?, until_ms: reader.optional(Reader::int)? },
        entry: reader.uint()?,
        ended: reader.optional(|reader| {
            reader.array_of(3)?;
            let (at_ms, entry): (TimeMs, _) = (reader.int()?, reader.uint()?);
            Ok(Ended { at_ms, entry, successor: reader.optional(Reader::bytes32)?.map(PublicKey) })
        })?,
    })
}

impl Identities {
    /// Answers a query that is for the table; `None` where it is the application's.
    pub(in crate::execution) fn answer(&self, query: &[u8], answer: &mut Answer) -> Option<Code> {
        let rest = query.strip_prefix(HEAD)?;
        *answer = Answer::default();
        let reader = &mut Reader::new(rest);
        let first = reader.uint().and_then(|first| reader.finish().map(|()| first));
        let Ok(first) = first else { return Some(Code::BAD_QUERY) };
        let from = usize::try_from(first).unwrap_or(usize::MAX).min(self.all.len());
        let items = &self.all[from..self.all.len().min(from + MAX_PAGE)];
        let mut out = Writer(&mut answer.body);
        out.array(3).uint(self.number).uint(self.all.len() as u64).array(items.len());
        for identity in items {
            out.array(7).bytes(&identity.key.0).text(&identity.name);
            out.optional(self.role_name(identity), |out, role| {
                out.text(role);
            });
            for time in [identity.validity.from_ms, identity.validity.until_ms] {
                put_time(&mut out, time);
            }
            out.uint(identity.entry).optional(identity.ended, |out, ended| {
                out.array(3).int(ended.at_ms).uint(ended.entry).optional(ended.successor, |out, key| {
                    out.bytes(&key.0);
                });
            });
        }
        answer.valid_from = self.last_entry;
        Some(Code::DONE)
    }
}

fn put_time(out: &mut Writer<'_>, time: Option<TimeMs>) {
    out.optional(time, |out, time| {
        out.int(time);
    });
}
