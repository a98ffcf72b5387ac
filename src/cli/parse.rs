//! What people type about twins: `PATH=VALUE`, conditions, and ends of a history.
//!
//! ```text
//! assignment = PATH "=" VALUE
//! condition  = TWIN PATH ( OPERATOR VALUE | "revision" "==" NUMBER | "exists" | "absent" )
//! OPERATOR   = "==" | "!=" | "<=" | ">=" | "<" | ">"
//! VALUE      = true | false | -5 | 37.0 | "text" | hex:00ff | text
//! bound      = POSITION | RFC 3339 time
//! ```
//! A value without quotes that is no boolean, number or `hex:` is the text itself; in a condition it has no white space,
//! so that a second condition in the same string is an error and never part of a text. White space around an operator
//! may be left out. Names and limits are those of the twin store, told here before anything is signed.

use std::str::FromStr;

use atlas_dataplane::types::Position;

use super::args::Twins;
use super::time::{TimeError, parse_ms};
use crate::twin::names::{is_property, is_twin};
use crate::twin::operation::{Comparison, Condition, Operation, Test};
use crate::twin::query::Bound;
use crate::twin::value::{Value, ValueError};
use crate::twin::view::OperationView;

/// The longest piece of what was typed that an error repeats, in characters.
const MAX_ECHO: usize = 80;

/// Why a text is not what it should be.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ParseError {
    /// No `=` in an assignment.
    #[error("{0:?} is not PATH=VALUE, such as power=1345.2 or state=\"running\"")]
    Assignment(String),
    /// Not the name of a twin.
    #[error(
        "{0:?} is not a twin: namespace/name, each of A-Z a-z 0-9 . _ -, 128 bytes at most, such as plant/turbine-1"
    )]
    Twin(String),
    /// Not the path of a property.
    #[error("{0:?} is not a property: one or more parts of A-Z a-z 0-9 . _ - with / between, 128 bytes at most")]
    Property(String),
    /// Not a value.
    #[error("value of {path}: {fault}")]
    Value {
        /// The property.
        path: String,
        /// What is wrong.
        fault: ValueError,
    },
    /// A condition without a test.
    #[error(
        "{0:?} is not a condition: TWIN PATH, then == != < <= > >= and a value, or revision == NUMBER, exists, or absent"
    )]
    Condition(String),
    /// White space in a text without quotes.
    #[error("{0:?} has white space: put a text into double quotes, and give each condition an --if of its own")]
    Unquoted(String),
    /// Not a revision.
    #[error("{0:?} is not a revision: a whole number, 0 for a property that was never written")]
    Revision(String),
    /// Neither position nor time.
    #[error("{0:?} is neither a position such as 1042.0 nor a time such as 2015-03-31T01:40:00Z")]
    Bound(String),
    /// A time, but not one that agreed times have.
    #[error(transparent)]
    Time(#[from] TimeError),
    /// Well typed, but the store would refuse it wherever it stands.
    #[error("the operation is refused before it is sent: {0}")]
    Operation(String),
}

fn echo(text: &str) -> String {
    text.chars().take(MAX_ECHO).collect()
}

/// Reads the name of a twin, or with a `*` at the end what the names of several begin with.
///
/// # Errors
/// [`ParseError::Twin`].
pub fn twins(text: &str) -> Result<Twins, ParseError> {
    let Some(prefix) = text.strip_suffix('*') else { return Ok(Twins { name: twin(text)?, is_whole: true }) };
    // Whatever begins a name: with the shortest rest it is one.
    let is_start = prefix.is_empty()
        || [prefix, &format!("{prefix}x"), &format!("{prefix}/x"), &format!("{prefix}x/x")].into_iter().any(is_twin);
    if is_start { Ok(Twins { name: prefix.to_owned(), is_whole: false }) } else { Err(ParseError::Twin(echo(text))) }
}

/// Checks the name of a twin.
///
/// # Errors
/// [`ParseError::Twin`].
pub fn twin(text: &str) -> Result<String, ParseError> {
    if is_twin(text) { Ok(text.to_owned()) } else { Err(ParseError::Twin(echo(text))) }
}

/// Checks the path of a property.
///
/// # Errors
/// [`ParseError::Property`].
pub fn property(text: &str) -> Result<String, ParseError> {
    if is_property(text) { Ok(text.to_owned()) } else { Err(ParseError::Property(echo(text))) }
}

/// `PATH=VALUE`: what to set, without quality and source time.
#[derive(Clone, PartialEq, Debug)]
pub struct Assignment {
    /// The property's path.
    pub path: String,
    /// Its new value.
    pub value: Value,
}

impl FromStr for Assignment {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let (path, value) = text.split_once('=').ok_or_else(|| ParseError::Assignment(echo(text)))?;
        let path = property(path)?;
        let value = value.parse().map_err(|fault| ParseError::Value { path: path.clone(), fault })?;
        Ok(Self { path, value })
    }
}

/// Reads a condition.
///
/// # Errors
/// What is wrong and what would be right.
pub fn condition(text: &str) -> Result<Condition, ParseError> {
    let incomplete = || ParseError::Condition(echo(text));
    let (name, rest) = text.trim().split_once(char::is_whitespace).ok_or_else(incomplete)?;
    let rest = rest.trim_start();
    let end = rest.find(|c: char| c.is_whitespace() || matches!(c, '=' | '!' | '<' | '>')).ok_or_else(incomplete)?;
    let (path, test) = rest.split_at(end);
    let (twin, path) = (twin(name)?, property(path)?);
    let test = match test.trim() {
        "" => return Err(incomplete()),
        "exists" => Test::Exists,
        "absent" => Test::Absent,
        test => match test.strip_prefix("revision") {
            Some(rest) => Test::Revision(revision(rest.trim_start().strip_prefix("==").ok_or_else(incomplete)?)?),
            None => value_test(test, &path)?.ok_or_else(incomplete)?,
        },
    };
    Ok(Condition { twin, path, test })
}

fn revision(text: &str) -> Result<u64, ParseError> {
    let text = text.trim();
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| digits).ok_or_else(|| ParseError::Revision(echo(text)))
}

/// `None` where no operator and value stand.
fn value_test(text: &str, path: &str) -> Result<Option<Test>, ParseError> {
    // The longer operators first: "<=" begins with "<".
    let mut operators = Comparison::ALL;
    operators.sort_by_key(|comparison| std::cmp::Reverse(comparison.symbol().len()));
    let found =
        operators.into_iter().find_map(|comparison| Some((comparison, text.strip_prefix(comparison.symbol())?)));
    let Some((comparison, value)) = found.map(|(comparison, value)| (comparison, value.trim())) else {
        return Ok(None);
    };
    if value.is_empty() || value.starts_with('=') {
        return Ok(None);
    }
    if !value.starts_with('"') && value.contains(char::is_whitespace) {
        return Err(ParseError::Unquoted(echo(value)));
    }
    let value = value.parse().map_err(|fault| ParseError::Value { path: path.to_owned(), fault })?;
    Ok(Some(Test::Value(comparison, value)))
}

/// Reads an end of a history: a position or a time.
///
/// # Errors
/// [`ParseError::Bound`], or [`ParseError::Time`] for a text that is meant as a time.
pub fn bound(text: &str) -> Result<Bound, ParseError> {
    if let Ok(position) = text.parse::<Position>() {
        return Ok(Bound::Position(position));
    }
    match parse_ms(text) {
        Ok(time) => Ok(Bound::Time(time)),
        Err(TimeError::Form(_)) => Err(ParseError::Bound(echo(text))),
        Err(error) => Err(error.into()),
    }
}

/// Checks what the store checks before it looks at its state, and gives the bytes to sign.
///
/// # Errors
/// [`ParseError::Operation`] with the rule that it breaks.
pub fn encode(operation: &Operation) -> Result<Vec<u8>, ParseError> {
    let bytes = operation.encode();
    match OperationView::decode(&bytes).map(drop) {
        Ok(()) => Ok(bytes),
        Err(refusal) => Err(ParseError::Operation(refusal.to_string())),
    }
}

#[cfg(test)]
mod tests;
