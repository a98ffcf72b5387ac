//! Operations as clients build them. [`super::view`] reads them back in place.
//!
//! In deterministic CBOR: set `[0, twin, [[path, value, quality, source_time_ns / null] ...], reason / null]`, delete `[1, twin,
//! [path ...] / null, reason / null]`, transaction `[2, [[twin, path, comparison, value] ...], [set or delete ...], reason /
//! null]`. A delete with null deletes all properties that the twin has at its position.
//!
//! # Limits
//! [`MAX_TARGETS`] written paths in an operation (a whole-twin delete counts as one), [`MAX_CONDITIONS`], [`MAX_WRITES`] sets and
//! deletes in a transaction, [`MAX_REASON`] bytes of reason, and those of names and values. No list of paths or writes
//! is empty, and no property is written twice.
//!
//! # Comparisons
//! | number | text | holds where the property |
//! | --- | --- | --- |
//! | 0 | `==` | exists and equals the value |
//! | 1 | `!=` | does not exist, has another type, or differs from the value |
//! | 2 3 4 5 | `<` `<=` `>` `>=` | exists, can be compared with the value, and is so |
//! | 6 | `revision ==` | has this revision; 0 says that it was never written |
//! | 7 | `exists` | exists |
//! | 8 | `absent` | was never written, or is deleted |
//!
//! Integers and floats are compared exactly by their number. The value of 6 is an unsigned integer, that of 7 and 8 null.

use std::fmt;

use super::value::{Quality, Value};
use atlas_dataplane::cbor::Writer;

/// The most paths that one operation writes; a whole-twin delete counts as one.
pub const MAX_TARGETS: usize = 256;
/// The most conditions of a transaction.
pub const MAX_CONDITIONS: usize = 64;
/// The most sets and deletes in a transaction.
pub const MAX_WRITES: usize = 64;
/// The longest reason, in bytes of UTF-8.
pub const MAX_REASON: usize = 512;

/// An operation on twins.
#[derive(Clone, PartialEq, Debug)]
pub enum Operation {
    /// A set or a delete on its own.
    Write(Write),
    /// Conditions on any twins, then writes: all or nothing.
    Transaction {
        /// Must all hold before the first write.
        conditions: Vec<Condition>,
        /// Carried out in this order.
        writes: Vec<Write>,
        /// Why, for people.
        reason: Option<String>,
    },
}

/// A change of one twin.
#[derive(Clone, PartialEq, Debug)]
pub enum Write {
    /// Sets properties, creating those that do not exist.
    Set {
        /// `namespace/name`.
        twin: String,
        /// What to set.
        properties: Vec<SetProperty>,
        /// Why, for people.
        reason: Option<String>,
    },
    /// Deletes properties.
    Delete {
        /// `namespace/name`.
        twin: String,
        /// Which; `None` for all that exist.
        paths: Option<Vec<String>>,
        /// Why, for people.
        reason: Option<String>,
    },
}

/// One property to set.
#[derive(Clone, PartialEq, Debug)]
pub struct SetProperty {
    /// The property's path.
    pub path: String,
    /// Its new value.
    pub value: Value,
    /// How far to trust it.
    pub quality: Quality,
    /// When the source took it, in nanoseconds since the Unix epoch.
    pub source_time_ns: Option<i64>,
}

/// A condition of a transaction.
#[derive(Clone, PartialEq, Debug)]
pub struct Condition {
    /// `namespace/name`.
    pub twin: String,
    /// The property's path.
    pub path: String,
    /// What must hold.
    pub test: Test,
}

/// What a condition asks of a property.
#[derive(Clone, PartialEq, Debug)]
pub enum Test {
    /// A comparison with a value.
    Value(Comparison, Value),
    /// Its revision is this; 0 for a property that was never written.
    Revision(u64),
    /// It exists.
    Exists,
    /// It was never written or is deleted.
    Absent,
}

/// How a condition compares a property with a value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Comparison {
    /// `==`
    Equal = 0,
    /// `!=`
    NotEqual = 1,
    /// `<`
    Less = 2,
    /// `<=`
    LessOrEqual = 3,
    /// `>`
    Greater = 4,
    /// `>=`
    GreaterOrEqual = 5,
}

/// The number of the comparison by revision.
pub(super) const REVISION: u64 = 6;
/// The number of the test for existence.
pub(super) const EXISTS: u64 = 7;
/// The number of the test for absence.
pub(super) const ABSENT: u64 = 8;

impl Comparison {
    /// All comparisons with a value, in the order of their numbers.
    pub const ALL: [Self; 6] =
        [Self::Equal, Self::NotEqual, Self::Less, Self::LessOrEqual, Self::Greater, Self::GreaterOrEqual];

    /// The operator as people write it.
    pub fn symbol(self) -> &'static str {
        ["==", "!=", "<", "<=", ">", ">="][self as usize]
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.symbol())
    }
}

impl Operation {
    /// The operation's bytes. Names and limits are not checked here: [`super::view::OperationView::decode`] does.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let out = &mut Writer(&mut bytes);
        match self {
            Self::Write(write) => write.encode(out),
            Self::Transaction { conditions, writes, reason } => {
                out.array(4).uint(2).array(conditions.len());
                conditions.iter().for_each(|condition| condition.encode(out));
                out.array(writes.len());
                writes.iter().for_each(|write| write.encode(out));
                encode_reason(out, reason);
            }
        }
        bytes
    }
}

impl Write {
    fn encode(&self, out: &mut Writer<'_>) {
        match self {
            Self::Set { twin, properties, reason } => {
                out.array(4).uint(0).text(twin).array(properties.len());
                for property in properties {
                    property.value.borrowed().encode(out.array(4).text(&property.path));
                    out.uint(property.quality as u64).optional(property.source_time_ns, |out, time| {
                        out.int(time);
                    });
                }
                encode_reason(out, reason);
            }
            Self::Delete { twin, paths, reason } => {
                out.array(4).uint(1).text(twin).optional(paths.as_ref(), |out, paths| {
                    out.array(paths.len());
                    paths.iter().for_each(|path| {
                        out.text(path);
                    });
                });
                encode_reason(out, reason);
            }
        }
    }
}

fn encode_reason(out: &mut Writer<'_>, reason: &Option<String>) {
    out.optional(reason.as_ref(), |out, reason| {
        out.text(reason);
    });
}

impl Condition {
    fn encode(&self, out: &mut Writer<'_>) {
        out.array(4).text(&self.twin).text(&self.path);
        match &self.test {
            Test::Value(comparison, value) => value.borrowed().encode(out.uint(*comparison as u64)),
            Test::Revision(revision) => {
                out.uint(REVISION).uint(*revision);
            }
            Test::Exists => {
                out.uint(EXISTS).null();
            }
            Test::Absent => {
                out.uint(ABSENT).null();
            }
        }
    }
}
