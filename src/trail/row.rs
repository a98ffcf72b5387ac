//! A row, how it is made of a record, and how a table shows it.

use atlas_dataplane::types::{Code, Position, PublicKey, TimeMs};
use atlas_dataplane::wire::statement::{KeyChange, SignedStatement, Validity};

use super::names::Names;
use crate::cli::output::{agreed_time, printable};
use crate::cli::time::format_ns;
use crate::twin::record::{Old, Record, RecordItem, Subject};
use crate::twin::value::{Quality, Value};

/// What an operation did to a property, or else.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// It set it.
    Set,
    /// It deleted it.
    Delete,
    /// It opened a session.
    Open,
    /// It brought the statement that registers a key; [`Action::Registered`] is the entry by which it was.
    Register,
    /// As above, for the key that takes another's place.
    Rotate,
    /// As above, for one that ends.
    Revoke,
    /// A key began to stand for somebody.
    Registered,
    /// A key took another's place.
    Rotated,
    /// A key ended.
    Revoked,
    /// It was refused before it was read as an operation on twins.
    Other,
}

impl Action {
    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Self::Set => "set",
            Self::Delete => "delete",
            Self::Open => "open session",
            Self::Register => "register key",
            Self::Rotate => "rotate key",
            Self::Revoke => "revoke key",
            Self::Registered => "key registered",
            Self::Rotated => "key rotated",
            Self::Revoked => "key revoked",
            Self::Other => "other",
        }
    }
}

/// One property that one operation wrote or would have written; see the module above.
#[derive(Clone, PartialEq, Debug)]
pub struct Row {
    /// Where the operation stands in the order.
    pub position: Position,
    /// Agreed time.
    pub agreed_ms: TimeMs,
    /// The client's clock when it signed.
    pub signed_ms: Option<TimeMs>,
    /// When a quorum had cosigned it, where that is known.
    pub certified_ms: Option<TimeMs>,
    /// When the source took the value, nanoseconds.
    pub source_ns: Option<i64>,
    /// Whose signature it carries.
    pub key: PublicKey,
    /// Their printed name, where there is one.
    pub name: Option<String>,
    /// What was done or asked for.
    pub action: Action,
    /// `namespace/name`.
    pub twin: Option<String>,
    /// The property's path; `None` for a whole twin.
    pub property: Option<String>,
    /// What it was before.
    pub old: Old,
    /// The value as it was written.
    pub value: Option<Value>,
    /// How far to trust it; `None` where there is no value.
    pub quality: Option<Quality>,
    /// The revision after the change.
    pub revision: Option<u64>,
    /// What became of it.
    pub code: Code,
    /// Why.
    pub reason: Option<String>,
}

/// The rows of a record, in the order of its items.
pub fn rows_of_record(record: &Record, names: &Names) -> Vec<Row> {
    if record.items.is_empty() {
        return vec![match &record.subject {
            Subject::Session => row(record, names, Action::Open, None),
            Subject::Statement(cose) => row_of_statement(record, names, cose),
            Subject::Twins => row(record, names, Action::Other, None),
        }];
    }
    let action = |item: &RecordItem| if item.value.is_some() { Action::Set } else { Action::Delete };
    record.items.iter().map(|item| row(record, names, action(item), Some(item))).collect()
}

/// The new value says in words what the statement says.
fn row_of_statement(record: &Record, names: &Names, cose: &[u8]) -> Row {
    let plain = row(record, names, Action::Other, None);
    let Ok(signed) = SignedStatement::parse(cose, names.origin()) else { return plain };
    // Only a KEY entry is nobody's request.
    let is_entry = record.signed_ms.is_none();
    let statement = signed.statement;
    let within = |validity: Validity| {
        let end = |word: &str, time: Option<TimeMs>| time.map(|time| format!(" {word} {}", agreed_time(time)));
        let (from, until) = (end("from", validity.from_ms), end("until", validity.until_ms));
        from.unwrap_or_default() + &until.unwrap_or_default()
    };
    let (action, text) = match statement.change {
        KeyChange::Register { name, role, validity } => {
            let role = role.unwrap_or_else(|| "administrator".to_owned());
            let text = format!("{} for {name} as {role}{}", statement.key, within(validity));
            (if is_entry { Action::Registered } else { Action::Register }, text)
        }
        KeyChange::Rotate { replaces, validity } => {
            let text = format!("{} in place of {replaces}{}", statement.key, within(validity));
            (if is_entry { Action::Rotated } else { Action::Rotate }, text)
        }
        KeyChange::Revoke => (if is_entry { Action::Revoked } else { Action::Revoke }, statement.key.to_string()),
    };
    Row { action, value: Some(Value::Text(text)), reason: statement.reason, ..plain }
}

fn row(record: &Record, names: &Names, action: Action, item: Option<&RecordItem>) -> Row {
    Row {
        position: record.position,
        agreed_ms: record.time_ms,
        signed_ms: record.signed_ms,
        certified_ms: None,
        source_ns: item.and_then(|item| item.source_time_ns),
        key: record.origin,
        name: names.name(&record.origin).map(str::to_owned),
        action,
        twin: item.map(|item| item.twin.clone()).filter(|twin| !twin.is_empty()),
        property: item.and_then(|item| item.property.clone()),
        old: item.map_or(Old::Nothing, |item| item.old.clone()),
        value: item.and_then(|item| item.value.clone()),
        quality: item.filter(|item| item.value.is_some()).map(|item| item.quality),
        revision: item.and_then(|item| item.revision),
        code: record.code,
        reason: record.reason.clone(),
    }
}

/// The columns of a table.
pub(super) const COLUMNS: [&str; 12] = [
    "POSITION",
    "AGREED TIME",
    "WHO",
    "TWIN",
    "PROPERTY",
    "OLD VALUE",
    "NEW VALUE",
    "REVISION",
    "QUALITY",
    "OUTCOME",
    "SOURCE TIME",
    "REASON",
];

/// How much of a key a table shows behind a name, characters of base64.
const KEY_SHOWN: usize = 8;

/// A value's text without the quotes that a text has.
fn unquoted(value: &Value) -> String {
    if let Value::Text(text) = value { printable(text) } else { value.to_string() }
}

impl Row {
    /// The printed name, else the key.
    pub fn who(&self) -> String {
        self.name.clone().unwrap_or_else(|| self.key.to_string())
    }

    /// What was written, for people.
    pub fn new_text(&self) -> String {
        match (self.action, &self.value) {
            (Action::Set, Some(value)) => value.to_string(),
            (action, Some(value)) => format!("({}: {})", action.name(), unquoted(value)),
            (Action::Delete, None) => "(deleted)".to_owned(),
            (action, None) => format!("({})", action.name()),
        }
    }

    /// What was before, for people.
    pub fn old_text(&self) -> String {
        match &self.old {
            Old::Unknown => "?".to_owned(),
            Old::Nothing => "-".to_owned(),
            Old::Value(value) => value.to_string(),
        }
    }

    /// Whether it was refused.
    pub fn is_refused(&self) -> bool {
        self.code != Code::DONE
    }

    /// The cells of [`COLUMNS`]; control characters are escaped.
    pub(super) fn cells(&self) -> Vec<String> {
        let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        let who = match &self.name {
            Some(name) => format!("{} ({}...)", printable(name), &self.key.to_string()[..KEY_SHOWN]),
            None => self.key.to_string(),
        };
        let property = match (&self.property, self.action) {
            (None, Action::Delete) => "(all)".to_owned(),
            (property, _) => or_dash(property.clone()),
        };
        let old = if self.is_refused() { "-".to_owned() } else { self.old_text() };
        vec![
            self.position.to_string(),
            agreed_time(self.agreed_ms),
            who,
            or_dash(self.twin.clone()),
            property,
            old,
            self.new_text(),
            or_dash(self.revision.map(|revision| revision.to_string())),
            or_dash(self.quality.map(|quality| quality.name().to_owned())),
            self.code.to_string(),
            or_dash(self.source_ns.map(format_ns)),
            or_dash(self.reason.as_deref().map(printable)),
        ]
    }
}
