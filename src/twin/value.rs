//! Values of properties, their text and their bytes.

use std::cmp::Ordering;
use std::fmt::{self, Write as _};
use std::str::FromStr;

use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};

use atlas_dataplane::cbor::{CborError, Fault, Reader, Writer};

/// The longest text or byte string that a property holds, in bytes.
pub const MAX_VALUE: usize = 4096;

/// A property's value; its variant is the property's type.
#[derive(Clone, PartialEq, Debug)]
pub enum Value {
    /// True or false.
    Bool(bool),
    /// A signed integer of 64 bits.
    I64(i64),
    /// A finite float of 64 bits.
    F64(f64),
    /// UTF-8 text, at most [`MAX_VALUE`] bytes.
    Text(String),
    /// Bytes, at most [`MAX_VALUE`].
    Bytes(Vec<u8>),
}

/// A value that borrows its bytes.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum ValueRef<'a> {
    /// See [`Value::Bool`].
    Bool(bool),
    /// See [`Value::I64`].
    I64(i64),
    /// See [`Value::F64`].
    F64(f64),
    /// See [`Value::Text`].
    Text(&'a str),
    /// See [`Value::Bytes`].
    Bytes(&'a [u8]),
}

impl Value {
    /// The value, borrowed.
    pub fn borrowed(&self) -> ValueRef<'_> {
        match self {
            Self::Bool(value) => ValueRef::Bool(*value),
            Self::I64(value) => ValueRef::I64(*value),
            Self::F64(value) => ValueRef::F64(*value),
            Self::Text(value) => ValueRef::Text(value),
            Self::Bytes(value) => ValueRef::Bytes(value),
        }
    }

    /// The type's name: `bool`, `i64`, `f64`, `text` or `bytes`.
    pub fn type_name(&self) -> &'static str {
        self.borrowed().type_name()
    }

    /// Becomes `value`, reusing a buffer where it is large enough.
    pub(super) fn assign(&mut self, value: ValueRef<'_>) {
        match (self, value) {
            (Self::Text(old), ValueRef::Text(new)) if fits_well(old.capacity(), new.len()) => {
                old.clear();
                old.push_str(new);
            }
            (Self::Bytes(old), ValueRef::Bytes(new)) if fits_well(old.capacity(), new.len()) => {
                old.clear();
                old.extend_from_slice(new);
            }
            (place, value) => *place = value.to_owned(),
        }
    }
}

/// Whether a buffer is large enough, and not twice as large as it need be.
fn fits_well(capacity: usize, length: usize) -> bool {
    length <= capacity && capacity <= 2 * length
}

impl ValueRef<'_> {
    /// The value with bytes of its own.
    pub fn to_owned(self) -> Value {
        match self {
            Self::Bool(value) => Value::Bool(value),
            Self::I64(value) => Value::I64(value),
            Self::F64(value) => Value::F64(value),
            Self::Text(value) => Value::Text(value.to_owned()),
            Self::Bytes(value) => Value::Bytes(value.to_vec()),
        }
    }

    /// The type's name: `bool`, `i64`, `f64`, `text` or `bytes`.
    pub fn type_name(self) -> &'static str {
        match self {
            Self::Bool(_) => "bool",
            Self::I64(_) => "i64",
            Self::F64(_) => "f64",
            Self::Text(_) => "text",
            Self::Bytes(_) => "bytes",
        }
    }

    /// Whether text or bytes keep within [`MAX_VALUE`].
    pub fn fits(self) -> bool {
        match self {
            Self::Text(text) => text.len() <= MAX_VALUE,
            Self::Bytes(bytes) => bytes.len() <= MAX_VALUE,
            _ => true,
        }
    }

    /// Compares as conditions do: integers and floats exactly by their number, otherwise only within one type; texts and
    /// bytes byte by byte, false before true. `None` for values of different types.
    pub fn compare(self, other: ValueRef<'_>) -> Option<Ordering> {
        match (self, other) {
            (Self::Bool(a), ValueRef::Bool(b)) => Some(a.cmp(&b)),
            (Self::I64(a), ValueRef::I64(b)) => Some(a.cmp(&b)),
            (Self::F64(a), ValueRef::F64(b)) => a.partial_cmp(&b),
            (Self::I64(a), ValueRef::F64(b)) => compare_exactly(a, b),
            (Self::F64(a), ValueRef::I64(b)) => compare_exactly(b, a).map(Ordering::reverse),
            (Self::Text(a), ValueRef::Text(b)) => Some(a.cmp(b)),
            (Self::Bytes(a), ValueRef::Bytes(b)) => Some(a.cmp(b)),
            _ => None,
        }
    }

    /// Appends the value's deterministic CBOR.
    pub fn encode(self, out: &mut Writer<'_>) {
        match self {
            Self::Bool(value) => out.bool(value),
            Self::I64(value) => out.int(value),
            Self::F64(value) => out.float(value),
            Self::Text(value) => out.text(value),
            Self::Bytes(value) => out.bytes(value),
        };
    }
}

impl<'a> ValueRef<'a> {
    /// Reads a value; any other item fails with [`Fault::Unexpected`].
    pub fn decode(reader: &mut Reader<'a>) -> Result<Self, CborError> {
        match reader.peek() {
            Some(0x00..=0x3b) => reader.int().map(Self::I64),
            Some(0x40..=0x5b) => reader.bytes().map(Self::Bytes),
            Some(0x60..=0x7b) => reader.text().map(Self::Text),
            Some(0xf4 | 0xf5) => reader.bool().map(Self::Bool),
            Some(0xf9..=0xfb) => reader.float().map(Self::F64),
            _ => reader.unexpected(),
        }
    }
}

/// Compares without rounding: above 2^53 neighbouring integers share one float.
fn compare_exactly(int: i64, float: f64) -> Option<Ordering> {
    const LIMIT: f64 = 9_223_372_036_854_775_808.0;
    if float >= LIMIT {
        Some(Ordering::Less)
    } else if float < -LIMIT {
        Some(Ordering::Greater)
    } else {
        let whole = float.trunc();
        Some(int.cmp(&(whole as i64)).then(0.0.partial_cmp(&(float - whole))?))
    }
}

/// The float that equals `int` exactly, if there is one.
pub(super) fn exact_float(int: i64) -> Option<f64> {
    let float = int as f64;
    (compare_exactly(int, float) == Some(Ordering::Equal)).then_some(float)
}

impl fmt::Display for ValueRef<'_> {
    /// The text that [`Value::from_str`] reads back: `true`, `-5`, `37.0`, `"text"`, `hex:00ff`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bool(value) => write!(f, "{value}"),
            Self::I64(value) => write!(f, "{value}"),
            // Debug keeps the point, so that a float never reads back as an integer.
            Self::F64(value) => write!(f, "{value:?}"),
            Self::Text(value) => write_quoted(f, value),
            Self::Bytes(value) => {
                f.write_str("hex:")?;
                HEXLOWER.encode_write(value, f)
            }
        }
    }
}

fn write_quoted(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    f.write_char('"')?;
    for c in text.chars() {
        match c {
            '"' => f.write_str("\\\"")?,
            '\\' => f.write_str("\\\\")?,
            '\n' => f.write_str("\\n")?,
            '\r' => f.write_str("\\r")?,
            '\t' => f.write_str("\\t")?,
            c if c.is_control() => write!(f, "\\u{:04x}", u32::from(c))?,
            c => f.write_char(c)?,
        }
    }
    f.write_char('"')
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.borrowed().fmt(f)
    }
}

/// Why a text is not a value.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ValueError {
    /// An integer beyond 64 bits with sign.
    #[error("{0} is beyond the integers of 64 bits; write it as a float (with a point) or in quotes as text")]
    Integer(String),
    /// A float that overflows.
    #[error("{0} is not finite as a float of 64 bits; write it in quotes as text")]
    NotFinite(String),
    /// An opening quote without a proper end, or an escape that JSON does not know.
    #[error("{0} is not a quoted text; quotes and escapes follow JSON")]
    Quotes(String),
    /// `hex:` is not followed by pairs of hexadecimal digits.
    #[error("{0} is not hexadecimal; write hex: and two digits for each byte")]
    Hex(String),
    /// Longer than [`MAX_VALUE`].
    #[error("a text or byte value has at most {MAX_VALUE} bytes, this has {0}")]
    TooLong(usize),
}

impl FromStr for Value {
    type Err = ValueError;

    /// Reads `true`, `-5`, `37.0`, `"text"`, `hex:00ff`; all else is the text itself.
    fn from_str(text: &str) -> Result<Self, ValueError> {
        let value = if text == "true" || text == "false" {
            Self::Bool(text == "true")
        } else if let Some(digits) = text.strip_prefix("hex:") {
            let bytes = HEXLOWER_PERMISSIVE.decode(digits.as_bytes());
            Self::Bytes(bytes.map_err(|_| ValueError::Hex(text.to_owned()))?)
        } else if text.starts_with('"') {
            Self::Text(serde_json::from_str(text).map_err(|_| ValueError::Quotes(text.to_owned()))?)
        } else if let Some(number) = parse_number(text)? {
            number
        } else {
            Self::Text(text.to_owned())
        };
        match &value {
            Self::Text(text) if text.len() > MAX_VALUE => Err(ValueError::TooLong(text.len())),
            Self::Bytes(bytes) if bytes.len() > MAX_VALUE => Err(ValueError::TooLong(bytes.len())),
            _ => Ok(value),
        }
    }
}

/// `None` for what does not look like a number, such as a date or `nan`.
fn parse_number(text: &str) -> Result<Option<Value>, ValueError> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    if !digits.starts_with(|c: char| c.is_ascii_digit()) {
        return Ok(None);
    }
    if digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return text.parse().map(|int| Some(Value::I64(int))).map_err(|_| ValueError::Integer(text.to_owned()));
    }
    match text.parse::<f64>() {
        Ok(float) if float.is_finite() => Ok(Some(Value::F64(float))),
        Ok(_) => Err(ValueError::NotFinite(text.to_owned())),
        Err(_) => Ok(None),
    }
}

/// How far a value can be trusted, as its source says.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[repr(u8)]
pub enum Quality {
    /// As good as the source gives it.
    #[default]
    Good = 0,
    /// The source doubts it.
    Uncertain = 1,
    /// Not to be used.
    Bad = 2,
    /// Once good, not refreshed in time.
    Stale = 3,
}

impl Quality {
    const ALL: [Self; 4] = [Self::Good, Self::Uncertain, Self::Bad, Self::Stale];

    /// `good`, `uncertain`, `bad` or `stale`.
    pub fn name(self) -> &'static str {
        ["good", "uncertain", "bad", "stale"][self as usize]
    }

    pub(super) fn decode(reader: &mut Reader<'_>) -> Result<Self, CborError> {
        let at = reader.offset();
        let number = reader.uint()?;
        let quality = usize::try_from(number).ok().and_then(|number| Self::ALL.get(number).copied());
        quality.ok_or(CborError { at, fault: Fault::Range })
    }
}

impl fmt::Display for Quality {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A text is not a quality.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a quality is good, uncertain, bad or stale")]
pub struct QualityError;

impl FromStr for Quality {
    type Err = QualityError;

    fn from_str(text: &str) -> Result<Self, QualityError> {
        Self::ALL.into_iter().find(|quality| quality.name() == text).ok_or(QualityError)
    }
}

#[cfg(test)]
#[path = "value_tests.rs"]
mod tests;
