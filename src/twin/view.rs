//! Operations read in place: strict, bounded, borrowing from the request's bytes.

use atlas_dataplane::types::Code;
use smallvec::SmallVec;

use super::names::{is_property, is_twin};
use super::operation::{ABSENT, Comparison, EXISTS, MAX_CONDITIONS, MAX_REASON, MAX_TARGETS, MAX_WRITES, REVISION};
use super::value::{Quality, ValueRef};
use atlas_dataplane::cbor::{CborError, Fault, Reader};

/// A checked operation: its syntax, names and limits hold, and no property is written twice.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct OperationView<'a> {
    /// The conditions, in order; none unless a transaction.
    pub conditions: Vec<ConditionView<'a>>,
    /// The flattened list of what the operation writes; an outcome's path numbers below [`MAX_TARGETS`] index it. Most operations write a single property, and
    /// need no memory for it.
    pub targets: SmallVec<[Target<'a>; 1]>,
}

/// One thing that an operation writes.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Target<'a> {
    /// The twin.
    pub twin: &'a str,
    /// What happens to it.
    pub action: Action<'a>,
    /// The reason given for this write, or else for the transaction around it.
    pub reason: Option<&'a str>,
}

/// What an operation does to a twin.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Action<'a> {
    /// Sets a property.
    Set {
        /// The property's path.
        path: &'a str,
        /// Its new value.
        value: ValueRef<'a>,
        /// How far to trust it.
        quality: Quality,
        /// When the source took it, in nanoseconds since the Unix epoch.
        source_time_ns: Option<i64>,
    },
    /// Deletes a property.
    Delete {
        /// The property's path.
        path: &'a str,
    },
    /// Deletes all properties that exist.
    DeleteAll,
}

/// A condition, borrowed.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct ConditionView<'a> {
    /// The twin.
    pub twin: &'a str,
    /// The property's path.
    pub path: &'a str,
    /// What must hold.
    pub test: TestView<'a>,
}

/// A condition's test, borrowed; see [`super::operation::Test`].
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum TestView<'a> {
    /// A comparison with a value.
    Value(Comparison, ValueRef<'a>),
    /// Its revision is this.
    Revision(u64),
    /// It exists.
    Exists,
    /// It was never written or is deleted.
    Absent,
}

impl<'a> Target<'a> {
    /// The path, unless the whole twin is meant.
    pub fn path(&self) -> Option<&'a str> {
        match self.action {
            Action::Set { path, .. } | Action::Delete { path } => Some(path),
            Action::DeleteAll => None,
        }
    }
}

impl From<CborError> for Refusal {
    fn from(error: CborError) -> Self {
        Refusal { code: Code::MALFORMED, at: error.at, what: "not an operation in deterministic CBOR" }
    }
}

/// Why bytes are not an operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{what} (at byte {at})")]
pub struct Refusal {
    /// The code for the client.
    pub code: Code,
    /// Where in the operation.
    pub at: usize,
    /// What is wrong.
    pub what: &'static str,
}

type Result<T> = core::result::Result<T, Refusal>;

impl<'a> OperationView<'a> {
    /// Reads and checks an operation.
    pub fn decode(operation: &'a [u8]) -> Result<Self> {
        let mut view = Self::default();
        let reader = &mut Reader::new(operation);
        // Only a transaction leads with 2; everything else must be a write of its own.
        if operation.get(1) == Some(&2) {
            view.transaction(reader)?;
        } else {
            view.write(reader)?;
        }
        reader.finish()?;
        view.refuse_repeated()?;
        Ok(view)
    }

    fn transaction(&mut self, reader: &mut Reader<'a>) -> Result<()> {
        reader.array_of(4)?;
        reader.uint()?;
        let count = counted(reader, 0, MAX_CONDITIONS, "too many conditions")?;
        self.conditions.reserve(count);
        for _ in 0..count {
            self.conditions.push(condition(reader)?);
        }
        for _ in 0..counted(reader, 1, MAX_WRITES, "too many writes in the transaction")? {
            self.write(reader)?;
        }
        if let Some(reason) = reason(reader)? {
            for target in &mut self.targets {
                target.reason = target.reason.or(Some(reason));
            }
        }
        Ok(())
    }

    fn write(&mut self, reader: &mut Reader<'a>) -> Result<()> {
        let at = reader.offset();
        reader.array_of(4)?;
        let kind = reader.uint()?;
        let twin = twin(reader)?;
        let first = self.targets.len();
        match kind {
            0 => self.set(reader, twin)?,
            1 => self.delete(reader, twin)?,
            _ => return refuse(Code::MALFORMED, at, "neither a set nor a delete"),
        }
        if let Some(reason) = reason(reader)? {
            for target in &mut self.targets[first..] {
                target.reason = Some(reason);
            }
        }
        Ok(())
    }

    fn room(&self) -> usize {
        MAX_TARGETS - self.targets.len()
    }

    fn set(&mut self, reader: &mut Reader<'a>, twin: &'a str) -> Result<()> {
        let count = counted(reader, 1, self.room(), "too many written paths")?;
        self.targets.reserve(count);
        for _ in 0..count {
            reader.array_of(4)?;
            let path = property(reader)?;
            let value = value(reader)?;
            let quality = Quality::decode(reader)?;
            let source_time_ns = reader.optional(Reader::int)?;
            let action = Action::Set { path, value, quality, source_time_ns };
            self.targets.push(Target { twin, action, reason: None });
        }
        Ok(())
    }

    fn delete(&mut self, reader: &mut Reader<'a>, twin: &'a str) -> Result<()> {
        let at = reader.offset();
        if reader.optional(|_| Ok(()))?.is_none() {
            if self.room() == 0 {
                return refuse(Code::TOO_LARGE, at, "too many written paths");
            }
            self.targets.push(Target { twin, action: Action::DeleteAll, reason: None });
            return Ok(());
        }
        for _ in 0..counted(reader, 1, self.room(), "too many written paths")? {
            let action = Action::Delete { path: property(reader)? };
            self.targets.push(Target { twin, action, reason: None });
        }
        Ok(())
    }

    /// A property written twice, or beside a delete of its whole twin, has no one meaning.
    fn refuse_repeated(&self) -> Result<()> {
        if self.targets.len() < 2 {
            return Ok(());
        }
        let mut names: Vec<_> = self.targets.iter().map(|target| (target.twin, target.path())).collect();
        names.sort_unstable();
        let repeated = names.windows(2).any(|pair| match pair {
            [(twin, path), (next_twin, next_path)] => twin == next_twin && (path.is_none() || path == next_path),
            _ => false,
        });
        if repeated { refuse(Code::MALFORMED, 0, "a property is written twice") } else { Ok(()) }
    }
}

/// Twin and property of an operation whose first write is a set, nothing of it checked; of a transaction none.
pub(super) fn first_set(operation: &[u8]) -> Option<(&str, &str)> {
    let reader = &mut Reader::new(operation);
    reader.array_of(4).ok()?;
    reader.uint().ok().filter(|kind| *kind == 0)?;
    let twin = reader.text().ok()?;
    reader.array().ok()?;
    reader.array_of(4).ok()?;
    Some((twin, reader.text().ok()?))
}

fn refuse<T>(code: Code, at: usize, what: &'static str) -> Result<T> {
    Err(Refusal { code, at, what })
}

fn counted(reader: &mut Reader<'_>, least: usize, most: usize, too_many: &'static str) -> Result<usize> {
    let at = reader.offset();
    match reader.array()? {
        count if count < least => refuse(Code::MALFORMED, at, "an empty list of writes"),
        count if count > most => refuse(Code::TOO_LARGE, at, too_many),
        count => Ok(count),
    }
}

fn twin<'a>(reader: &mut Reader<'a>) -> Result<&'a str> {
    let at = reader.offset();
    let name = reader.text()?;
    if is_twin(name) { Ok(name) } else { refuse(Code::BAD_NAME, at, "a twin is namespace/name of A-Za-z0-9._-") }
}

fn property<'a>(reader: &mut Reader<'a>) -> Result<&'a str> {
    let at = reader.offset();
    let path = reader.text()?;
    if is_property(path) {
        Ok(path)
    } else {
        refuse(Code::BAD_NAME, at, "a property is a path of segments of A-Za-z0-9._-")
    }
}

fn value<'a>(reader: &mut Reader<'a>) -> Result<ValueRef<'a>> {
    let at = reader.offset();
    let value = ValueRef::decode(reader).map_err(|error| match error.fault {
        Fault::NotFinite => Refusal { code: Code::BAD_VALUE, at, what: "the number is not finite" },
        Fault::Range => Refusal { code: Code::BAD_VALUE, at, what: "the integer is beyond 64 bits" },
        Fault::Unexpected => Refusal { code: Code::BAD_VALUE, at, what: "no value of a permitted type" },
        _ => error.into(),
    })?;
    if value.fits() { Ok(value) } else { refuse(Code::TOO_LARGE, at, "the value is too long") }
}

fn reason<'a>(reader: &mut Reader<'a>) -> Result<Option<&'a str>> {
    let at = reader.offset();
    match reader.optional(Reader::text)? {
        Some(reason) if reason.len() > MAX_REASON => refuse(Code::TOO_LARGE, at, "the reason is too long"),
        reason => Ok(reason),
    }
}

fn condition<'a>(reader: &mut Reader<'a>) -> Result<ConditionView<'a>> {
    reader.array_of(4)?;
    let twin = twin(reader)?;
    let path = property(reader)?;
    let at = reader.offset();
    let number = reader.uint()?;
    let comparison = usize::try_from(number).ok().and_then(|number| Comparison::ALL.get(number));
    let test = match (comparison, number) {
        (Some(comparison), _) => TestView::Value(*comparison, value(reader)?),
        (None, REVISION) => TestView::Revision(reader.uint()?),
        (None, EXISTS | ABSENT) => {
            if reader.optional(|_| Ok(()))?.is_some() {
                return refuse(Code::MALFORMED, at, "a test for existence takes null");
            }
            if number == EXISTS { TestView::Exists } else { TestView::Absent }
        }
        _ => return refuse(Code::MALFORMED, at, "unknown comparison"),
    };
    Ok(ConditionView { twin, path, test })
}

#[cfg(test)]
#[path = "operation_tests.rs"]
mod tests;
