//! The little of CBOR that entries need: shortest heads written to a growing buffer, and a reader that takes no other.

use minicbor::Decoder;

use crate::types::{Digest, PublicKey};

const UNSIGNED: u8 = 0;
const NEGATIVE: u8 = 1;
const BYTES: u8 = 2;
const TEXT: u8 = 3;
const ARRAY: u8 = 4;
const MAP: u8 = 5;

/// CBOR null.
pub(crate) const NULL: u8 = 0xf6;

fn put_head(out: &mut Vec<u8>, major: u8, value: u64) {
    let major = major << 5;
    if value < 24 {
        out.push(major | value as u8);
    } else if let Ok(value) = u8::try_from(value) {
        out.extend_from_slice(&[major | 24, value]);
    } else if let Ok(value) = u16::try_from(value) {
        out.push(major | 25);
        out.extend_from_slice(&value.to_be_bytes());
    } else if let Ok(value) = u32::try_from(value) {
        out.push(major | 26);
        out.extend_from_slice(&value.to_be_bytes());
    } else {
        out.push(major | 27);
        out.extend_from_slice(&value.to_be_bytes());
    }
}

pub(crate) fn put_uint(out: &mut Vec<u8>, value: u64) {
    put_head(out, UNSIGNED, value);
}

pub(crate) fn put_int(out: &mut Vec<u8>, value: i64) {
    if value < 0 { put_head(out, NEGATIVE, !value as u64) } else { put_head(out, UNSIGNED, value as u64) }
}

pub(crate) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_head(out, BYTES, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

pub(crate) fn put_text(out: &mut Vec<u8>, text: &str) {
    put_head(out, TEXT, text.len() as u64);
    out.extend_from_slice(text.as_bytes());
}

pub(crate) fn put_array(out: &mut Vec<u8>, length: usize) {
    put_head(out, ARRAY, length as u64);
}

pub(crate) fn put_map(out: &mut Vec<u8>, length: usize) {
    put_head(out, MAP, length as u64);
}

pub(crate) fn put_optional_uint(out: &mut Vec<u8>, value: Option<u64>) {
    match value {
        Some(value) => put_uint(out, value),
        None => out.push(NULL),
    }
}

pub(crate) fn put_optional_digest(out: &mut Vec<u8>, value: Option<&Digest>) {
    match value {
        Some(digest) => put_bytes(out, &digest.0),
        None => out.push(NULL),
    }
}

/// Reads items one after the other; every answer is `None` where the bytes are not the shortest form of what is asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    pub(crate) fn position(&self) -> usize {
        self.at
    }

    pub(crate) fn is_at_end(&self) -> bool {
        self.at == self.bytes.len()
    }

    /// The bytes from position `start` to here.
    pub(crate) fn since(&self, start: usize) -> &'a [u8] {
        self.bytes.get(start..self.at).unwrap_or_default()
    }

    fn take(&mut self, length: u64) -> Option<&'a [u8]> {
        let end = self.at.checked_add(usize::try_from(length).ok()?)?;
        let taken = self.bytes.get(self.at..end)?;
        self.at = end;
        Some(taken)
    }

    fn head(&mut self) -> Option<(u8, u64)> {
        let first = *self.take(1)?.first()?;
        let (value, least) = match first & 31 {
            small @ 0..24 => (u64::from(small), 0),
            24 => (u64::from(*self.take(1)?.first()?), 24),
            25 => (u64::from(u16::from_be_bytes(self.take(2)?.try_into().ok()?)), 1 << 8),
            26 => (u64::from(u32::from_be_bytes(self.take(4)?.try_into().ok()?)), 1 << 16),
            27 => (u64::from_be_bytes(self.take(8)?.try_into().ok()?), 1 << 32),
            _ => return None,
        };
        (value >= least).then_some((first >> 5, value))
    }

    fn expect(&mut self, major: u8) -> Option<u64> {
        let (found, value) = self.head()?;
        (found == major).then_some(value)
    }

    pub(crate) fn uint(&mut self) -> Option<u64> {
        self.expect(UNSIGNED)
    }

    pub(crate) fn int(&mut self) -> Option<i64> {
        match self.head()? {
            (UNSIGNED, value) => i64::try_from(value).ok(),
            (NEGATIVE, value) => i64::try_from(value).ok().map(|value| !value),
            _ => None,
        }
    }

    pub(crate) fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = self.expect(BYTES)?;
        self.take(length)
    }

    pub(crate) fn digest(&mut self) -> Option<Digest> {
        self.bytes()?.try_into().ok().map(Digest)
    }

    pub(crate) fn key(&mut self) -> Option<PublicKey> {
        self.bytes()?.try_into().ok().map(PublicKey)
    }

    pub(crate) fn text(&mut self) -> Option<&'a str> {
        let length = self.expect(TEXT)?;
        std::str::from_utf8(self.take(length)?).ok()
    }

    pub(crate) fn array(&mut self) -> Option<u64> {
        self.expect(ARRAY)
    }

    /// An array of exactly `length` items.
    pub(crate) fn array_of(&mut self, length: u64) -> Option<()> {
        (self.array()? == length).then_some(())
    }

    pub(crate) fn map(&mut self) -> Option<u64> {
        self.expect(MAP)
    }

    /// Whether the next item is null, which is then taken.
    pub(crate) fn null(&mut self) -> bool {
        let is_null = self.bytes.get(self.at) == Some(&NULL);
        self.at += usize::from(is_null);
        is_null
    }

    pub(crate) fn optional_uint(&mut self) -> Option<Option<u64>> {
        if self.null() { Some(None) } else { self.uint().map(Some) }
    }

    pub(crate) fn optional_digest(&mut self) -> Option<Option<Digest>> {
        if self.null() { Some(None) } else { self.digest().map(Some) }
    }

    /// One item of any kind, well-formed, as its bytes.
    pub(crate) fn item(&mut self) -> Option<&'a [u8]> {
        let mut decoder = Decoder::new(self.bytes.get(self.at..)?);
        decoder.skip().ok()?;
        self.take(decoder.position() as u64)
    }
}
