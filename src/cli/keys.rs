//! `atlas key`: keys made, registered, rotated, revoked and listed.

use std::fs::File;
use std::io::{self, Read as _, Write};
use std::path::Path;

use atlas_dataplane::crypto::SecretKey;
use atlas_dataplane::crypto::keys::{KeyError, MAX_KEY_FILE};
use atlas_dataplane::execution::identities::page::{Listed, Page, query};
use atlas_dataplane::types::{Code, EntryIndex, PublicKey, TimeMs};
use atlas_dataplane::wire::statement::{KeyChange, KeyStatement, SignedStatement, Validity, operation};
use serde::Serialize;

use super::args::Freshness;
use super::args::keys::{KeyArgs, KeyCommand, ListKeysArgs, NewArgs, RegisterArgs, RotateArgs, Subject, Valid};
use super::error::CliError;
use super::output::{Colour, Style, agreed_time, json_line, printable, table};
use super::session::{Session, identity, unreadable};
use crate::client::ReadResult;

/// What stands before the public key in a key file.
const PUBLIC_LINE: &str = "# public key ";

/// `atlas key`.
///
/// # Errors
/// As [`super::error`] has them; a refusal names its code.
pub fn key(args: &KeyArgs, out: &mut impl Write, style: Style) -> Result<(), CliError> {
    match &args.command {
        KeyCommand::New(args) => new(args, out),
        KeyCommand::Register(RegisterArgs { subject, name, role, valid, .. }) => {
            let change = KeyChange::Register { name: name.clone(), role: role.clone(), validity: validity(*valid)? };
            change_key(subject, change, out, style)
        }
        KeyCommand::Rotate(RotateArgs { subject, replaces, valid }) => {
            let change = KeyChange::Rotate { replaces: *replaces, validity: validity(*valid)? };
            change_key(subject, change, out, style)
        }
        KeyCommand::Revoke(args) => change_key(&args.subject, KeyChange::Revoke, out, style),
        KeyCommand::List(args) => list(args, out, style),
    }
}

/// A public key as it was typed, or from a file: the line `# public key ...` of a key file, whose private half is not looked at, or
/// a text of nothing else.
///
/// # Errors
/// A text for people.
pub fn read_public_key(text: &str) -> Result<PublicKey, String> {
    let not_a_key = match text.parse() {
        Ok(key) => return Ok(key),
        Err(error) => error,
    };
    let mut bytes = Vec::new();
    let read = File::open(text).and_then(|file| file.take(MAX_KEY_FILE as u64 + 1).read_to_end(&mut bytes));
    if let Err(error) = read {
        return Err(format!("neither a public key ({not_a_key}) nor a file ({error})"));
    }
    let content = String::from_utf8(bytes).ok().filter(|content| content.len() <= MAX_KEY_FILE);
    let content =
        content.ok_or_else(|| format!("{text} is no key file: not a text of at most {MAX_KEY_FILE} bytes"))?;
    let line = content.lines().find_map(|line| line.strip_prefix(PUBLIC_LINE)).unwrap_or(&content);
    line.trim()
        .parse()
        .map_err(|error| format!("{text} has no line `{PUBLIC_LINE}...`, nor is it a public key: {error}"))
}

fn validity(valid: Valid) -> Result<Validity, CliError> {
    match (valid.from, valid.until) {
        (Some(from), Some(until)) if from >= until => {
            Err(CliError::Usage("--until is not after --from: the key would never be valid".to_owned()))
        }
        (from_ms, until_ms) => Ok(Validity { from_ms, until_ms }),
    }
}

#[derive(Serialize)]
struct Made<'a> {
    file: &'a Path,
    key: String,
}

fn new(args: &NewArgs, out: &mut impl Write) -> Result<(), CliError> {
    let failed = |error: KeyError| match error {
        KeyError::Exists { .. } => CliError::Usage(error.to_string()),
        _ => CliError::Failed(error.to_string()),
    };
    let key = SecretKey::generate().map_err(failed)?;
    key.store(&args.file).map_err(failed)?;
    let key = key.public().to_string();
    match args.format.json {
        true => Ok(json_line(out, &Made { file: &args.file, key })?),
        false => Ok(writeln!(out, "{key}")?),
    }
}

/// What became of a statement, as JSON.
#[derive(Serialize)]
struct Changed<'a> {
    position: String,
    sequence: u64,
    agreed_time: String,
    code: u16,
    text: &'static str,
    detail: &'a str,
    /// Of the statement.
    number: u64,
    key: String,
}

fn change_key(subject: &Subject, change: KeyChange, out: &mut impl Write, style: Style) -> Result<(), CliError> {
    let signer = identity(&subject.connection.identity)?;
    let mut session = Session::open(&subject.connection)?;
    let ordered = Freshness { unordered: false, at_least: None };
    let number = read_page(&mut session, 0, Fresh::As(ordered))?.0.number + 1;
    let statement = KeyStatement { number, key: subject.key, change, reason: subject.reason.clone() };
    let origin = session.cluster().origin();
    let cose = statement.sign(origin, signer.public(), |bytes| signer.sign(bytes));
    SignedStatement::parse(&cose, origin).map_err(|error| CliError::Usage(error.to_string()))?;
    let result = session.submit(operation(&cose))?;
    let (code, position, time) = (result.code, result.position.to_string(), agreed_time(result.time_ms));
    if subject.format.json {
        let changed = Changed {
            position,
            sequence: result.sequence,
            agreed_time: time,
            code: code.0,
            text: code.text(),
            detail: &result.detail,
            number,
            key: subject.key.to_string(),
        };
        json_line(out, &changed)?;
    } else if code == Code::DONE {
        let done = style.paint(Colour::Green, code.text());
        writeln!(out, "{done} at {position}, agreed {time}: key statement {number}")?;
    }
    match code {
        Code::DONE => Ok(()),
        Code::STATEMENT_NUMBER => {
            let detail = format!("{}; another came first: run it again", printable(&result.detail));
            Err(CliError::Refused { code, detail })
        }
        _ => {
            let detail = format!("{} (position {})", printable(&result.detail), result.position);
            Err(CliError::Refused { code, detail })
        }
    }
}

/// How fresh a page is.
#[derive(Clone, Copy)]
pub(super) enum Fresh {
    As(Freshness),
    /// At a history of this size or more.
    From(EntryIndex),
}

fn read_page(session: &mut Session, first: u64, fresh: Fresh) -> Result<(Page, ReadResult), CliError> {
    let read = match fresh {
        Fresh::As(freshness) => session.read_bytes(&query(first), "keys", freshness)?,
        Fresh::From(size) => session.read_bytes_on(&query(first), "keys", size)?,
    };
    Ok((Page::decode(&read.body).map_err(unreadable)?, read))
}

/// An identity as JSON.
#[derive(Serialize)]
struct Row {
    name: String,
    /// Null for an administrator.
    role: Option<String>,
    administrator: bool,
    key: String,
    valid_from: Option<String>,
    valid_until: Option<String>,
    /// The KEY entry that registered it; 0 for the genesis.
    entry: u64,
    ended: Option<EndedRow>,
}

#[derive(Serialize)]
struct EndedRow {
    agreed_time: String,
    entry: u64,
    /// The key that took its place.
    successor: Option<String>,
}

const COLUMNS: [&str; 7] = ["NAME", "ROLE", "KEY", "VALID FROM", "VALID UNTIL", "ENDED", "ENTRY"];

impl Row {
    fn of(listed: &Listed) -> Self {
        let time = |time: TimeMs| agreed_time(time);
        Self {
            name: printable(&listed.name),
            role: listed.role.as_deref().map(printable),
            administrator: listed.role.is_none(),
            key: listed.key.to_string(),
            valid_from: listed.validity.from_ms.map(time),
            valid_until: listed.validity.until_ms.map(time),
            entry: listed.entry,
            ended: listed.ended.map(|ended| EndedRow {
                agreed_time: agreed_time(ended.at_ms),
                entry: ended.entry,
                successor: ended.successor.map(|key| key.to_string()),
            }),
        }
    }

    fn cells(self) -> Vec<String> {
        let none = || "-".to_owned();
        let ended = self.ended.map(|ended| match ended.successor {
            Some(_) => format!("{} replaced", ended.agreed_time),
            None => format!("{} revoked", ended.agreed_time),
        });
        vec![
            self.name,
            self.role.unwrap_or_else(|| "(administrator)".to_owned()),
            self.key,
            self.valid_from.unwrap_or_else(none),
            self.valid_until.unwrap_or_else(none),
            ended.unwrap_or_else(none),
            self.entry.to_string(),
        ]
    }
}

fn list(args: &ListKeysArgs, out: &mut impl Write, style: Style) -> Result<(), CliError> {
    let mut session = Session::open(&args.connection)?;
    let mut rows = Vec::new();
    for row in identities(&mut session, Fresh::As(args.freshness))?.iter().map(Row::of) {
        match args.format.json {
            true => json_line(out, &row)?,
            false => rows.push(row.cells()),
        }
    }
    if !args.format.json {
        show(out, style, &rows)?;
    }
    Ok(())
}

/// All identities, ended ones included, in the order in which they came.
///
/// # Errors
/// As [`Session::read`] has them.
pub(super) fn identities(session: &mut Session, fresh: Fresh) -> Result<Vec<Listed>, CliError> {
    let (mut page, read) = read_page(session, 0, fresh)?;
    let mut all = Vec::new();
    loop {
        // A table only grows, so one that promises more than it has is read to what is there.
        let (count, total) = (page.items.len(), page.total);
        all.append(&mut page.items);
        if count == 0 || all.len() as u64 >= total {
            return Ok(all);
        }
        page = read_page(session, all.len() as u64, Fresh::From(read.size))?.0;
    }
}

fn show(out: &mut impl Write, style: Style, rows: &[Vec<String>]) -> io::Result<()> {
    table(out, style, &COLUMNS, rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_public_key_is_typed_or_read_from_a_file_of_either_kind() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
        let secret = SecretKey::from_seed(&[7; 32]);
        let key = secret.public();
        secret.store(Path::new(&path("a.key"))).unwrap();
        std::fs::write(path("a.pub"), format!("{key}\n")).unwrap();
        for text in [key.to_string(), path("a.key"), path("a.pub")] {
            assert_eq!(read_public_key(&text), Ok(key));
        }
        std::fs::write(path("long"), "x".repeat(MAX_KEY_FILE + 1)).unwrap();
        std::fs::write(path("other"), "hello").unwrap();
        for (name, what) in [("none", "nor a file"), ("long", "at most"), ("other", "nor is it a public key")] {
            let error = read_public_key(&path(name)).unwrap_err();
            assert!(error.contains(what), "{error}");
        }
    }

    #[test]
    fn a_validity_has_a_time_in_it() {
        let valid = |from, until| validity(Valid { from, until });
        assert_eq!(valid(None, Some(5)).unwrap(), Validity { from_ms: None, until_ms: Some(5) });
        assert!(matches!(valid(Some(5), Some(5)), Err(CliError::Usage(_))));
    }
}
