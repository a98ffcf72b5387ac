//! Deterministic CBOR (RFC 8949, 4.2.1): a writer that produces nothing else and a reader that accepts nothing else.
//!
//! General decoders accept several encodings of one value; what is signed or hashed must have exactly one. So whoever
//! reads bytes with [`Reader`], checks the values that are fixed and ends with [`Reader::finish`] knows that they are
//! the bytes that [`Writer`] makes of the same values; nobody needs to encode again to find out.
//!
//! # What is refused
//! Heads that are longer than needed, indefinite lengths, floats that a shorter one could say, text that is not UTF-8. In
//! items of any meaning ([`Reader::item`]) also map keys that do not ascend, a second form of NaN, simple values other
//! than false, true, null and undefined, and nesting deeper than the caller permits.
//!
//! # Limits
//! The reader borrows and never allocates. A count is worth nothing before its items are there: an item needs a byte at
//! least, so reading takes time linear in the bytes, times the depth where maps are keys of maps.
//!
//! Source: RFC 8949.

use half::f16;

const UNSIGNED: u8 = 0;
const NEGATIVE: u8 = 1;
const BYTES: u8 = 2;
const TEXT: u8 = 3;
const ARRAY: u8 = 4;
const MAP: u8 = 5;
const TAG: u8 = 6;
const SIMPLE: u8 = 7;
const FALSE: u8 = 0xf4;
const TRUE: u8 = 0xf5;
const NULL: u8 = 0xf6;
const UNDEFINED: u8 = 0xf7;
const F16: u8 = 0xf9;
const F32: u8 = 0xfa;
const F64: u8 = 0xfb;
/// The NaN of deterministic encodings, a half float.
const NAN: u16 = 0x7e00;

/// Bytes are not the expected item in deterministic CBOR.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("byte {at}: {fault}")]
pub struct CborError {
    /// Offset of the item at fault.
    pub at: usize,
    /// What is wrong with it.
    pub fault: Fault,
}

/// What can be wrong with an item.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Fault {
    /// The bytes end inside an item, or a count promises more items than bytes are left.
    #[error("the bytes end too early")]
    Truncated,
    /// An item of another type, or another number of elements, belongs here.
    #[error("an item of another kind is expected here")]
    Unexpected,
    /// A shorter or definite encoding of the same item exists.
    #[error("not the deterministic encoding (RFC 8949 4.2.1)")]
    NotDeterministic,
    /// Arrays, maps and tags are nested deeper than permitted.
    #[error("nested too deep")]
    TooDeep,
    /// A float is infinite or not a number.
    #[error("the number is not finite")]
    NotFinite,
    /// An integer does not fit its field.
    #[error("the integer is out of range")]
    Range,
    /// Text is not UTF-8.
    #[error("the text is not UTF-8")]
    Utf8,
    /// Bytes follow after the last item.
    #[error("bytes follow after the end")]
    Trailing,
}

type Result<T> = core::result::Result<T, CborError>;

/// Reads items one after another.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    /// A reader at the first byte.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// Offset of the next item.
    pub fn offset(&self) -> usize {
        self.at
    }

    /// The initial byte of the next item, not consumed; `None` at the end.
    pub fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    /// Ends the reading: nothing may follow.
    pub fn finish(&self) -> Result<()> {
        if self.at == self.bytes.len() { Ok(()) } else { Err(self.error(self.at, Fault::Trailing)) }
    }

    fn error(&self, at: usize, fault: Fault) -> CborError {
        CborError { at, fault }
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8]> {
        let rest = &self.bytes[self.at..];
        if length > rest.len() {
            return Err(self.error(self.at, Fault::Truncated));
        }
        self.at += length;
        Ok(&rest[..length])
    }

    fn array_of_bytes<const N: usize>(&mut self) -> Result<[u8; N]> {
        match self.bytes[self.at..].first_chunk() {
            Some(chunk) => {
                self.at += N;
                Ok(*chunk)
            }
            None => Err(self.error(self.at, Fault::Truncated)),
        }
    }

    /// Major type and argument of an item that is no simple value or float.
    fn head(&mut self) -> Result<(u8, u64)> {
        let at = self.at;
        let [initial] = self.array_of_bytes()?;
        let (major, info) = (initial >> 5, initial & 0x1f);
        if major == SIMPLE {
            return Err(self.error(at, Fault::Unexpected));
        }
        let (argument, least) = match info {
            0..24 => return Ok((major, u64::from(info))),
            24 => (u64::from(u8::from_be_bytes(self.array_of_bytes()?)), 24),
            25 => (u64::from(u16::from_be_bytes(self.array_of_bytes()?)), 1 << 8),
            26 => (u64::from(u32::from_be_bytes(self.array_of_bytes()?)), 1 << 16),
            27 => (u64::from_be_bytes(self.array_of_bytes()?), 1 << 32),
            _ => return Err(self.error(at, Fault::NotDeterministic)),
        };
        if argument < least {
            return Err(self.error(at, Fault::NotDeterministic));
        }
        Ok((major, argument))
    }

    fn head_of(&mut self, expected: u8) -> Result<u64> {
        let at = self.at;
        match self.head()? {
            (major, argument) if major == expected => Ok(argument),
            _ => Err(self.error(at, Fault::Unexpected)),
        }
    }

    /// An unsigned integer.
    pub fn uint(&mut self) -> Result<u64> {
        self.head_of(UNSIGNED)
    }

    /// An unsigned integer that fits a narrower type.
    pub fn narrow<T: TryFrom<u64>>(&mut self) -> Result<T> {
        let at = self.at;
        T::try_from(self.uint()?).map_err(|_| self.error(at, Fault::Range))
    }

    /// A signed integer of 64 bits.
    pub fn int(&mut self) -> Result<i64> {
        let at = self.at;
        let (major, argument) = self.head()?;
        let magnitude = i64::try_from(argument).map_err(|_| self.error(at, Fault::Range));
        match major {
            UNSIGNED => magnitude,
            NEGATIVE => magnitude.map(|magnitude| !magnitude),
            _ => Err(self.error(at, Fault::Unexpected)),
        }
    }

    /// The length of an array, never more than bytes are left.
    pub fn array(&mut self) -> Result<usize> {
        self.count_of(ARRAY)
    }

    /// The number of pairs of a map, never more than bytes are left.
    pub fn map(&mut self) -> Result<usize> {
        self.count_of(MAP)
    }

    fn count_of(&mut self, major: u8) -> Result<usize> {
        let at = self.at;
        let count = self.head_of(major)?;
        self.count(at, count)
    }

    /// The count in a head at `at`, as far as there can be so many items.
    fn count(&self, at: usize, count: u64) -> Result<usize> {
        match usize::try_from(count) {
            Ok(count) if count <= self.bytes.len() - self.at => Ok(count),
            _ => Err(self.error(at, Fault::Truncated)),
        }
    }

    /// The head of an array of exactly `count` elements.
    pub fn array_of(&mut self, count: usize) -> Result<()> {
        let at = self.at;
        if self.array()? == count { Ok(()) } else { Err(self.error(at, Fault::Unexpected)) }
    }

    /// A tag's number; the tagged item follows.
    pub fn tag(&mut self) -> Result<u64> {
        self.head_of(TAG)
    }

    /// A byte string.
    pub fn bytes(&mut self) -> Result<&'a [u8]> {
        let length = self.head_of(BYTES)?;
        self.content(length)
    }

    /// A byte string of exactly so many bytes.
    pub fn bytes_of<const N: usize>(&mut self) -> Result<&'a [u8; N]> {
        let at = self.at;
        self.bytes()?.try_into().map_err(|_| self.error(at, Fault::Unexpected))
    }

    /// A byte string of exactly 32 bytes.
    pub fn bytes32(&mut self) -> Result<[u8; 32]> {
        self.bytes_of().copied()
    }

    /// A text string.
    pub fn text(&mut self) -> Result<&'a str> {
        let length = self.head_of(TEXT)?;
        self.text_content(length)
    }

    fn content(&mut self, length: u64) -> Result<&'a [u8]> {
        self.take(usize::try_from(length).unwrap_or(usize::MAX))
    }

    fn text_content(&mut self, length: u64) -> Result<&'a str> {
        let at = self.at;
        core::str::from_utf8(self.content(length)?).map_err(|_| self.error(at, Fault::Utf8))
    }

    /// A float: finite and as short as its value permits.
    pub fn float(&mut self) -> Result<f64> {
        let at = self.at;
        match self.any_float()? {
            (value, _) if !value.is_finite() => Err(self.error(at, Fault::NotFinite)),
            (_, false) => Err(self.error(at, Fault::NotDeterministic)),
            (value, true) => Ok(value),
        }
    }

    /// A float, and whether no shorter one says the same; of the forms of NaN that is one.
    fn any_float(&mut self) -> Result<(f64, bool)> {
        let at = self.at;
        match self.array_of_bytes()? {
            [F16] => {
                let value = f16::from_be_bytes(self.array_of_bytes()?);
                Ok((value.to_f64(), !value.is_nan() || value.to_bits() == NAN))
            }
            [F32] => {
                let value = f64::from(f32::from_be_bytes(self.array_of_bytes()?));
                Ok((value, !value.is_nan() && as_f16(value).is_none()))
            }
            [F64] => {
                let value = f64::from_be_bytes(self.array_of_bytes()?);
                Ok((value, !value.is_nan() && as_f32(value).is_none()))
            }
            _ => Err(self.error(at, Fault::Unexpected)),
        }
    }

    /// A boolean.
    pub fn bool(&mut self) -> Result<bool> {
        let at = self.at;
        match self.array_of_bytes()? {
            [FALSE] => Ok(false),
            [TRUE] => Ok(true),
            _ => Err(self.error(at, Fault::Unexpected)),
        }
    }

    fn skip_byte(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    /// `None` for null, else what `read` makes of the item.
    pub fn optional<T>(&mut self, read: impl FnOnce(&mut Self) -> Result<T>) -> Result<Option<T>> {
        if self.skip_byte(NULL) { Ok(None) } else { read(self).map(Some) }
    }

    /// Consumes an undefined, if that is the next item.
    pub fn undefined(&mut self) -> bool {
        self.skip_byte(UNDEFINED)
    }

    /// Fails at the next item: it has a type that does not belong here.
    pub fn unexpected<T>(&self) -> Result<T> {
        let fault = if self.at < self.bytes.len() { Fault::Unexpected } else { Fault::Truncated };
        Err(self.error(self.at, fault))
    }

    /// Skips one item of any meaning, in which at most `depth` levels of arrays, maps and tags open, and returns its bytes.
    pub fn item(&mut self, depth: usize) -> Result<&'a [u8]> {
        let start = self.at;
        self.skip(depth)?;
        Ok(self.since(start))
    }

    /// The bytes from offset `start` to here; none where that is no earlier place.
    pub fn since(&self, start: usize) -> &'a [u8] {
        self.bytes.get(start..self.at).unwrap_or_default()
    }

    fn skip(&mut self, depth: usize) -> Result<()> {
        let at = self.at;
        if let Some(initial) = self.peek().filter(|initial| initial >> 5 == SIMPLE) {
            if matches!(initial, FALSE | TRUE | NULL | UNDEFINED) {
                self.at += 1;
                return Ok(());
            }
            let (_, is_shortest) = self.any_float()?;
            return if is_shortest { Ok(()) } else { Err(self.error(at, Fault::NotDeterministic)) };
        }
        let (major, argument) = self.head()?;
        let inner = depth.checked_sub(1).ok_or(CborError { at, fault: Fault::TooDeep });
        match major {
            BYTES => self.content(argument).map(drop),
            TEXT => self.text_content(argument).map(drop),
            ARRAY => {
                let (count, depth) = (self.count(at, argument)?, inner?);
                (0..count).try_for_each(|_| self.skip(depth))
            }
            MAP => {
                let (count, depth) = (self.count(at, argument)?, inner?);
                self.skip_pairs(count, depth)
            }
            TAG => self.skip(inner?),
            _ => Ok(()),
        }
    }

    /// Skips the pairs of a map, whose keys ascend by their encoded bytes.
    fn skip_pairs(&mut self, count: usize, depth: usize) -> Result<()> {
        let mut previous: Option<&[u8]> = None;
        for _ in 0..count {
            let at = self.at;
            let key = self.item(depth)?;
            if previous.is_some_and(|previous| previous >= key) {
                return Err(self.error(at, Fault::NotDeterministic));
            }
            previous = Some(key);
            self.skip(depth)?;
        }
        Ok(())
    }
}

/// Whether `bytes` are exactly one deterministic item in which at most `depth` levels open.
pub fn is_item(bytes: &[u8], depth: usize) -> bool {
    let mut reader = Reader::new(bytes);
    reader.skip(depth).is_ok() && reader.finish().is_ok()
}

fn as_f16(value: f64) -> Option<f16> {
    let short = f16::from_f64(value);
    (short.to_f64().to_bits() == value.to_bits()).then_some(short)
}

fn as_f32(value: f64) -> Option<f32> {
    let short = value as f32;
    (f64::from(short).to_bits() == value.to_bits()).then_some(short)
}

/// Appends items to a buffer. Whoever writes an array writes as many items as it promised.
#[derive(Debug)]
pub struct Writer<'a>(pub &'a mut Vec<u8>);

impl Writer<'_> {
    fn head(&mut self, major: u8, argument: u64) -> &mut Self {
        let major = major << 5;
        match argument {
            0..24 => self.0.push(major | argument as u8),
            24..0x100 => self.0.extend_from_slice(&[major | 24, argument as u8]),
            0x100..0x1_0000 => {
                self.0.push(major | 25);
                self.0.extend_from_slice(&(argument as u16).to_be_bytes());
            }
            0x1_0000..0x1_0000_0000 => {
                self.0.push(major | 26);
                self.0.extend_from_slice(&(argument as u32).to_be_bytes());
            }
            _ => {
                self.0.push(major | 27);
                self.0.extend_from_slice(&argument.to_be_bytes());
            }
        }
        self
    }

    /// An unsigned integer.
    pub fn uint(&mut self, value: u64) -> &mut Self {
        self.head(UNSIGNED, value)
    }

    /// A signed integer.
    pub fn int(&mut self, value: i64) -> &mut Self {
        if value < 0 { self.head(NEGATIVE, !value as u64) } else { self.head(UNSIGNED, value as u64) }
    }

    /// The head of an array.
    pub fn array(&mut self, count: usize) -> &mut Self {
        self.head(ARRAY, count as u64)
    }

    /// The head of a map. Whoever writes one puts its keys in the order of their encoded bytes.
    pub fn map(&mut self, count: usize) -> &mut Self {
        self.head(MAP, count as u64)
    }

    /// A tag; the tagged item follows.
    pub fn tag(&mut self, number: u64) -> &mut Self {
        self.head(TAG, number)
    }

    /// Items that are encoded already.
    pub fn items(&mut self, items: &[u8]) -> &mut Self {
        self.0.extend_from_slice(items);
        self
    }

    /// A text string.
    pub fn text(&mut self, text: &str) -> &mut Self {
        self.head(TEXT, text.len() as u64).0.extend_from_slice(text.as_bytes());
        self
    }

    /// A byte string.
    pub fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.head(BYTES, bytes.len() as u64).0.extend_from_slice(bytes);
        self
    }

    /// A boolean.
    pub fn bool(&mut self, value: bool) -> &mut Self {
        self.simple(if value { TRUE } else { FALSE })
    }

    /// Null.
    pub fn null(&mut self) -> &mut Self {
        self.simple(NULL)
    }

    /// Undefined.
    pub fn undefined(&mut self) -> &mut Self {
        self.simple(UNDEFINED)
    }

    fn simple(&mut self, byte: u8) -> &mut Self {
        self.0.push(byte);
        self
    }

    /// A float in the shortest form that has exactly its value.
    pub fn float(&mut self, value: f64) -> &mut Self {
        if let Some(short) = as_f16(value) {
            self.0.push(F16);
            self.0.extend_from_slice(&short.to_be_bytes());
        } else if let Some(short) = as_f32(value) {
            self.0.push(F32);
            self.0.extend_from_slice(&short.to_be_bytes());
        } else {
            self.0.push(F64);
            self.0.extend_from_slice(&value.to_be_bytes());
        }
        self
    }

    /// Null for `None`, else what `write` appends.
    pub fn optional<T>(&mut self, value: Option<T>, write: impl FnOnce(&mut Self, T)) -> &mut Self {
        match value {
            None => {
                self.null();
            }
            Some(value) => write(self, value),
        }
        self
    }
}

#[cfg(test)]
#[path = "cbor_tests.rs"]
mod tests;
