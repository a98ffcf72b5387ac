//! What an auditor trusts: C2SP tlog-policy files, and checkpoints judged by them.
//!
//! ```text
//! log <vkey> [<url>]
//! witness <name> <vkey> [<url>]
//! group <name> <k|any|all> <member>...
//! quorum <name|none>
//! ```
//!
//! A checkpoint is CERTIFIED by a policy where a log line of one of its logs and the cosignatures of a quorum hold. Every line of a
//! key that the policy knows must hold, and be the only one of that key: one bad line makes the whole note worthless.
//!
//! Stricter than the specification: text is UTF-8, at least one log, the last line ends with a newline, and keys are Ed25519 (logs:
//! type 0x01; witnesses: 0x04).
//!
//! # What a quorum proves
//! A quorum of k out of n replicas: two such quorums share at least 2k - n of them. So as long as at most 2k - n - 1 replicas lie,
//! no two certified checkpoints contradict each other, and every certified one was signed by a replica that executed what it covers.
//!
//! Limits: [`MAX_POLICY`], [`MAX_KEYS`], [`MAX_GROUPS`].

use data_encoding::HEXLOWER;

use super::note::{CheckpointBody, Note, SignatureLine, is_key_name, parse_base64, parse_number};
use crate::cluster::policy::{TYPE_COSIGNATURE, TYPE_LOG, key_id};
use crate::types::{Digest, PublicKey};

/// Longest policy, bytes. Beyond: refused.
pub const MAX_POLICY: usize = 64 << 10;

/// Most logs, and most witnesses, of a policy. Beyond: refused.
pub const MAX_KEYS: usize = 64;

/// Most groups of a policy. Beyond: refused.
pub const MAX_GROUPS: usize = 64;

/// The quorum of nobody.
const NONE: &str = "none";

/// A key that a policy names.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NamedKey {
    /// The name in signature lines.
    pub name: String,
    /// The id in signature lines.
    pub id: [u8; 4],
    /// The key.
    pub key: PublicKey,
}

/// A replica, or another party, that cosigns.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Witness {
    /// Its name in the policy.
    pub name: String,
    /// Its key.
    pub key: NamedKey,
}

/// Somebody whose word counts in a group or as the quorum.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Party {
    Witness(usize),
    Group(usize),
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Group {
    name: String,
    threshold: usize,
    members: Vec<Party>,
}

/// A policy that can be met.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Policy {
    logs: Vec<NamedKey>,
    witnesses: Vec<Witness>,
    groups: Vec<Group>,
    /// `None` asks for no cosignature.
    quorum: Option<Party>,
}

/// A checkpoint that a policy believes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Certified {
    /// The cluster.
    pub origin: String,
    /// Entries of the history.
    pub size: u64,
    /// RFC 6962 root over them.
    pub root: Digest,
    /// Log lines that hold, at least one.
    pub logs: usize,
    /// The witnesses whose cosignatures hold, by their names in the policy, and the time of each in seconds since the Unix epoch; in
    /// the policy's order.
    pub cosigned: Vec<(String, u64)>,
}

impl Certified {
    /// Time by which the checkpoint was there, seconds since the Unix epoch, if at most `liars` of its cosigners lie: that of an
    /// honest one or later. `None` where there are no more cosigners than that.
    pub fn time_s(&self, liars: usize) -> Option<u64> {
        let mut times: Vec<u64> = self.cosigned.iter().map(|(_, time)| *time).collect();
        times.sort_unstable();
        times.get(liars).copied()
    }
}

impl Policy {
    /// Reads a policy.
    ///
    /// # Errors
    /// The first line that is wrong and why, or what is missing.
    pub fn parse(bytes: &[u8]) -> Result<Self, PolicyError> {
        if bytes.len() > MAX_POLICY {
            return Err(PolicyError::TooLong(bytes.len()));
        }
        let text = str::from_utf8(bytes).map_err(|error| PolicyError::Utf8(error.valid_up_to()))?;
        if let Some(at) = text.bytes().position(|byte| byte.is_ascii_control() && !matches!(byte, b'\n' | b'\t')) {
            return Err(PolicyError::Control(at));
        }
        let text = text.strip_suffix('\n').ok_or(PolicyError::Unterminated)?;
        let mut reading = Reading::default();
        for (number, line) in (1..).zip(text.split('\n')) {
            reading.line(line).map_err(|fault| PolicyError::Line { line: number, fault: Box::new(fault) })?;
        }
        let Reading { logs, witnesses, groups, quorum, .. } = reading;
        if logs.is_empty() {
            return Err(PolicyError::NoLog);
        }
        Ok(Self { logs, witnesses, groups, quorum: quorum.ok_or(PolicyError::NoQuorum)? })
    }

    /// The keys whose log lines count.
    pub fn logs(&self) -> &[NamedKey] {
        &self.logs
    }

    /// Who may cosign.
    pub fn witnesses(&self) -> &[Witness] {
        &self.witnesses
    }

    /// Whether a log of this policy has that origin.
    pub fn knows_origin(&self, origin: &str) -> bool {
        self.logs.iter().any(|log| log.name == origin)
    }

    /// Where the quorum is k of n witnesses: (k, n). `None` where it is made otherwise.
    pub fn threshold(&self) -> Option<(usize, usize)> {
        match self.quorum? {
            Party::Witness(_) => Some((1, 1)),
            Party::Group(index) => {
                let group = self.groups.get(index)?;
                let is_flat = group.members.iter().all(|member| matches!(member, Party::Witness(_)));
                is_flat.then_some((group.threshold, group.members.len()))
            }
        }
    }

    /// How many of the witnesses may lie without two certified checkpoints contradicting each other; 0 where the quorum is not k
    /// of n witnesses.
    pub fn liars(&self) -> usize {
        self.threshold().map_or(0, |(k, n)| (2 * k).saturating_sub(n + 1).min(k - 1))
    }

    /// Under which assumption what this policy certifies is true, for people.
    pub fn assumption(&self) -> String {
        match (self.quorum, self.threshold()) {
            (None, _) => "the holder of a log key is honest: this policy asks for no cosignature".to_owned(),
            (Some(party), None) => format!("the quorum \"{}\" of this policy is honest", self.name_of(party)),
            (Some(_), Some((k, n))) => match self.liars() {
                0 => format!("none of the {n} cosigners lies ({k} of {n} cosigned)"),
                1 => format!("at most 1 of the {n} cosigners lies (any {k} of {n} make a quorum)"),
                liars => format!("at most {liars} of the {n} cosigners lie (any {k} of {n} make a quorum)"),
            },
        }
    }

    /// Judges a checkpoint.
    ///
    /// # Errors
    /// No log of this policy has its origin; a line of a known key does not hold or stands there twice; no log line; no quorum.
    pub fn check(&self, note: &Note) -> Result<Certified, CheckError> {
        let body = &note.body;
        if !self.knows_origin(&body.origin) {
            return Err(CheckError::Origin {
                origin: body.origin.clone(),
                known: self.logs.first().map_or_else(String::new, |log| log.name.clone()),
            });
        }
        let logs = self.check_log_lines(body, &note.lines)?;
        let times = self.check_cosignatures(body, &note.lines)?;
        if let Some(quorum) = self.quorum.filter(|party| !self.agrees(*party, &times)) {
            return Err(self.no_quorum(quorum, &times));
        }
        let cosigned = self.witnesses.iter().zip(times);
        Ok(Certified {
            origin: body.origin.clone(),
            size: body.size,
            root: body.root,
            logs,
            cosigned: cosigned.filter_map(|(witness, time)| Some((witness.name.clone(), time?))).collect(),
        })
    }

    fn check_log_lines(&self, body: &CheckpointBody, lines: &[SignatureLine]) -> Result<usize, CheckError> {
        let mut held = 0;
        for log in &self.logs {
            let Some((number, line)) = only_line(&log.key_line(), lines)? else { continue };
            if log.name != body.origin {
                return Err(CheckError::ForeignLog { line: number, name: log.name.clone() });
            }
            if !line.verify_log(body, &log.key) {
                return Err(CheckError::BadLine { line: number, name: log.name.clone() });
            }
            held += 1;
        }
        if held == 0 { Err(CheckError::NoLogLine(body.origin.clone())) } else { Ok(held) }
    }

    /// The time of each witness that cosigned.
    fn check_cosignatures(
        &self,
        body: &CheckpointBody,
        lines: &[SignatureLine],
    ) -> Result<Vec<Option<u64>>, CheckError> {
        let time_of = |witness: &Witness| {
            let Some((number, line)) = only_line(&witness.key.key_line(), lines)? else { return Ok(None) };
            let time = line.verify_cosignature(body, &witness.key.key);
            time.map(Some).ok_or_else(|| CheckError::BadLine { line: number, name: witness.key.name.clone() })
        };
        self.witnesses.iter().map(time_of).collect()
    }

    fn agrees(&self, party: Party, times: &[Option<u64>]) -> bool {
        match party {
            Party::Witness(index) => times.get(index).is_some_and(Option::is_some),
            // Groups name groups before them only, so this ends.
            Party::Group(index) => self.groups.get(index).is_some_and(|group| {
                group.members.iter().filter(|member| self.agrees(**member, times)).count() >= group.threshold
            }),
        }
    }

    fn name_of(&self, party: Party) -> &str {
        match party {
            Party::Witness(index) => self.witnesses.get(index).map_or("", |witness| &witness.name),
            Party::Group(index) => self.groups.get(index).map_or("", |group| &group.name),
        }
    }

    fn no_quorum(&self, quorum: Party, times: &[Option<u64>]) -> CheckError {
        let (needed, members) = match quorum {
            Party::Witness(_) => (1, vec![quorum]),
            Party::Group(index) => {
                self.groups.get(index).map_or((1, vec![quorum]), |group| (group.threshold, group.members.clone()))
            }
        };
        let (there, missing): (Vec<Party>, Vec<Party>) =
            members.into_iter().partition(|member| self.agrees(*member, times));
        let names: Vec<&str> = missing.iter().map(|member| self.name_of(*member)).collect();
        CheckError::Quorum {
            quorum: self.name_of(quorum).to_owned(),
            needed,
            found: there.len(),
            missing: names.join(", "),
        }
    }
}

impl NamedKey {
    fn key_line(&self) -> (&str, [u8; 4]) {
        (&self.name, self.id)
    }
}

/// The one line of a key and its number in the note, if there is one.
fn only_line<'a>(
    (name, id): &(&str, [u8; 4]),
    lines: &'a [SignatureLine],
) -> Result<Option<(usize, &'a SignatureLine)>, CheckError> {
    // Signatures begin on line 5 of a note.
    let mut own = (5..).zip(lines).filter(|(_, line)| line.is_of(name, *id));
    let first = own.next();
    match own.next() {
        Some((line, _)) => Err(CheckError::DuplicateLine { line, name: (*name).to_owned() }),
        None => Ok(first),
    }
}

/// Why a checkpoint is not certified.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CheckError {
    /// Another cluster's.
    #[error("the checkpoint is of {origin}, the policy is of {known}")]
    Origin {
        /// What the checkpoint names.
        origin: String,
        /// The policy's first log.
        known: String,
    },
    /// A line of a log whose origin is another.
    #[error("line {line} is the log line of {name}, which is not the origin of this checkpoint")]
    ForeignLog {
        /// Its number in the note.
        line: usize,
        /// The key's name.
        name: String,
    },
    /// A known key's line that does not hold.
    #[error("line {line}: the signature of {name} does not hold, so the whole checkpoint is rejected")]
    BadLine {
        /// Its number in the note.
        line: usize,
        /// The key's name.
        name: String,
    },
    /// Two lines of one key.
    #[error("line {line} is a second one of the same key of {name}")]
    DuplicateLine {
        /// Number of the second one in the note.
        line: usize,
        /// The key's name.
        name: String,
    },
    /// No log of the policy signed.
    #[error("no log line of a key of {0} that the policy names")]
    NoLogLine(String),
    /// Too few cosigned.
    #[error("the quorum \"{quorum}\" needs {needed}, and {found} cosigned: missing are {missing}")]
    Quorum {
        /// Its name in the policy.
        quorum: String,
        /// How many of its members it needs.
        needed: usize,
        /// How many are there.
        found: usize,
        /// The names of the others.
        missing: String,
    },
}

// ---- Reading ------------------------------------------------------------------------------------------------------------

#[derive(Default)]
struct Reading {
    logs: Vec<NamedKey>,
    witnesses: Vec<Witness>,
    groups: Vec<Group>,
    /// What groups or the quorum took already, by its place in `parties`.
    used: Vec<Party>,
    quorum: Option<Option<Party>>,
}

impl Reading {
    fn line(&mut self, line: &str) -> Result<(), PolicyFault> {
        let mut words = line.split([' ', '\t']).filter(|word| !word.is_empty());
        match words.next() {
            None => Ok(()),
            Some(word) if word.starts_with('#') => Ok(()),
            Some("log") => self.log(words),
            Some("witness") => self.witness(words),
            Some("group") => self.group(words),
            Some("quorum") => self.quorum(words),
            Some(word) => Err(PolicyFault::Keyword(word.to_owned())),
        }
    }

    fn log<'a>(&mut self, mut words: impl Iterator<Item = &'a str>) -> Result<(), PolicyFault> {
        let key = parse_vkey(words.next().ok_or(PolicyFault::Log)?, TYPE_LOG)?;
        // An address is allowed and not used.
        let _ = words.next();
        if words.next().is_some() {
            return Err(PolicyFault::Log);
        }
        if self.logs.iter().any(|log| log.key == key.key) {
            return Err(PolicyFault::DuplicateKey(key.name));
        }
        if self.logs.len() == MAX_KEYS {
            return Err(PolicyFault::TooMany);
        }
        self.logs.push(key);
        Ok(())
    }

    fn witness<'a>(&mut self, mut words: impl Iterator<Item = &'a str>) -> Result<(), PolicyFault> {
        let (Some(name), Some(key)) = (words.next(), words.next()) else { return Err(PolicyFault::Witness) };
        let _ = words.next();
        if words.next().is_some() {
            return Err(PolicyFault::Witness);
        }
        let name = self.new_name(name)?;
        let key = parse_vkey(key, TYPE_COSIGNATURE)?;
        if self.witnesses.iter().any(|witness| witness.key.key == key.key) {
            return Err(PolicyFault::DuplicateKey(name));
        }
        if self.witnesses.len() == MAX_KEYS {
            return Err(PolicyFault::TooMany);
        }
        self.witnesses.push(Witness { name, key });
        Ok(())
    }

    fn group<'a>(&mut self, mut words: impl Iterator<Item = &'a str>) -> Result<(), PolicyFault> {
        let (Some(name), Some(threshold)) = (words.next(), words.next()) else { return Err(PolicyFault::Group) };
        let name = self.new_name(name)?;
        if self.groups.len() == MAX_GROUPS {
            return Err(PolicyFault::TooMany);
        }
        let mut members = Vec::new();
        for word in words {
            let member = self.known(word)?;
            if self.used.contains(&member) {
                return Err(PolicyFault::UsedTwice(word.to_owned()));
            }
            self.used.push(member);
            members.push(member);
        }
        let count = members.len();
        let threshold = match threshold {
            "any" => 1,
            "all" => count,
            number => {
                let number = parse_number(number).ok_or_else(|| PolicyFault::Threshold(number.to_owned()))?;
                usize::try_from(number).unwrap_or(usize::MAX)
            }
        };
        if count == 0 {
            return Err(PolicyFault::NoMembers(name));
        }
        if !(1..=count).contains(&threshold) {
            return Err(PolicyFault::Impossible { name, threshold, count });
        }
        self.groups.push(Group { name, threshold, members });
        Ok(())
    }

    fn quorum<'a>(&mut self, mut words: impl Iterator<Item = &'a str>) -> Result<(), PolicyFault> {
        let (Some(name), None) = (words.next(), words.next()) else { return Err(PolicyFault::Quorum) };
        if self.quorum.is_some() {
            return Err(PolicyFault::SecondQuorum);
        }
        self.quorum = Some(if name == NONE { None } else { Some(self.known(name)?) });
        Ok(())
    }

    fn find(&self, name: &str) -> Option<Party> {
        let witness = self.witnesses.iter().position(|witness| witness.name == name).map(Party::Witness);
        witness.or_else(|| self.groups.iter().position(|group| group.name == name).map(Party::Group))
    }

    fn known(&self, name: &str) -> Result<Party, PolicyFault> {
        self.find(name).ok_or_else(|| PolicyFault::Unknown(name.to_owned()))
    }

    fn new_name(&self, name: &str) -> Result<String, PolicyFault> {
        match self.find(name) {
            None if name != NONE => Ok(name.to_owned()),
            _ => Err(PolicyFault::NameTaken(name.to_owned())),
        }
    }
}

/// Reads `<name>+<key id in hex>+<base64(type || key)>`.
fn parse_vkey(text: &str, expected: u8) -> Result<NamedKey, PolicyFault> {
    let malformed = || PolicyFault::Vkey(text.chars().take(96).collect());
    let mut parts = text.splitn(3, '+');
    let (Some(name), Some(id), Some(key)) = (parts.next(), parts.next(), parts.next()) else { return Err(malformed()) };
    let id: [u8; 4] = HEXLOWER.decode(id.as_bytes()).ok().and_then(|id| id.try_into().ok()).ok_or_else(malformed)?;
    let key = parse_base64(key).ok_or_else(malformed)?;
    let (kind, key) = key.split_first().filter(|_| is_key_name(name)).ok_or_else(malformed)?;
    if *kind != expected {
        return Err(PolicyFault::KeyType { found: *kind, expected });
    }
    let key = PublicKey(key.try_into().map_err(|_| malformed())?);
    let due = key_id(name, expected, &key);
    if id != due {
        return Err(PolicyFault::KeyId { found: HEXLOWER.encode(&id), due: HEXLOWER.encode(&due) });
    }
    Ok(NamedKey { name: name.to_owned(), id, key })
}

/// Why a file is not a policy.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PolicyError {
    /// Longer than any policy.
    #[error("a policy of {0} bytes; at most {MAX_POLICY} are read")]
    TooLong(usize),
    /// Not UTF-8.
    #[error("not UTF-8 at byte {0}")]
    Utf8(usize),
    /// A control character other than tab and newline.
    #[error("a control character at byte {0}; a policy has none but tabs and newlines")]
    Control(usize),
    /// The last line does not end.
    #[error("the last line does not end with a newline: the file is cut off")]
    Unterminated,
    /// No log can be believed.
    #[error("no log line: write one `log <vkey>` for each key that may sign checkpoints")]
    NoLog,
    /// Nothing says who must cosign.
    #[error("no quorum line: write `quorum <name>` of a witness or group, at the end")]
    NoQuorum,
    /// A line.
    #[error("line {line}: {fault}")]
    Line {
        /// Its number, from 1.
        line: usize,
        /// What is wrong in it.
        fault: Box<PolicyFault>,
    },
}

/// What is wrong in a line of a policy.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PolicyFault {
    /// None of the four.
    #[error("\"{0}\" is none of log, witness, group and quorum")]
    Keyword(String),
    /// Form of a log line.
    #[error("this is not `log <vkey> [<url>]`")]
    Log,
    /// Form of a witness line.
    #[error("this is not `witness <name> <vkey> [<url>]`")]
    Witness,
    /// Form of a group line.
    #[error("this is not `group <name> <number|any|all> <member>...`")]
    Group,
    /// Form of a quorum line.
    #[error("this is not `quorum <name>`")]
    Quorum,
    /// A key.
    #[error("\"{0}\" is not a verifier key: <name>+<8 hex digits>+<base64 of type and key>")]
    Vkey(String),
    /// A key of a type that has no place here.
    #[error("a key of type {found:#04x} where one of type {expected:#04x} (Ed25519) belongs")]
    KeyType {
        /// What it has.
        found: u8,
        /// What belongs there.
        expected: u8,
    },
    /// The id is not that of name and key.
    #[error("the key id is {found}, name and key make {due}: one of them was changed")]
    KeyId {
        /// What stands there.
        found: String,
        /// What belongs there.
        due: String,
    },
    /// A key twice.
    #[error("the key of {0} stands in an earlier line already")]
    DuplicateKey(String),
    /// A name twice, or the reserved one.
    #[error("the name \"{0}\" is taken")]
    NameTaken(String),
    /// A name that no earlier line defines.
    #[error("\"{0}\" is no witness or group of an earlier line")]
    Unknown(String),
    /// A name in two groups.
    #[error("\"{0}\" is a member of a group already; it counts once")]
    UsedTwice(String),
    /// A threshold that is no number.
    #[error("\"{0}\" is neither a number nor any nor all")]
    Threshold(String),
    /// A group of nobody.
    #[error("the group \"{0}\" has no members")]
    NoMembers(String),
    /// A threshold that cannot be met, or 0.
    #[error("the group \"{name}\" demands {threshold} of {count} members; 1 to {count} are possible")]
    Impossible {
        /// Its name.
        name: String,
        /// What it demands.
        threshold: usize,
        /// What it has.
        count: usize,
    },
    /// Two quorums.
    #[error("a second quorum line; a policy has one")]
    SecondQuorum,
    /// More keys or groups than read.
    #[error("more than {MAX_KEYS} logs, {MAX_KEYS} witnesses or {MAX_GROUPS} groups")]
    TooMany,
}

#[cfg(test)]
#[path = "tlog_policy_tests.rs"]
mod tests;
