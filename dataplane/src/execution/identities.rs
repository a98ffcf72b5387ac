//! Identities: who may do what, as replicated state.
//!
//! The genesis names the first clients, their roles, and the administrators. From then on the order itself says who is who: an
//! administrator signs a *key statement* ([`crate::wire::statement`]), which registers, rotates or revokes a key. Replicas, clients
//! and auditors come to the same table from the CONFIG entry and the KEY entries behind it alone: [`Identities::genesis`], then
//! [`Identities::apply`] for each.
//!
//! # Keys
//! * An identity is a key, with a printed name, a role (administrators have none), and a validity in agreed time. A key stands for one
//!   identity for ever: none is registered twice, and none of a replica ever.
//! * *Rotation* lets another key take name and role of an earlier one, which ends with it. An earlier one that was revoked may be
//!   rotated still (whoever lost a key gets a new one); one that was rotated has its successor already. Otherwise no name is ever
//!   given again, to whomever: what is printed beside an act means one person.
//! * *Revocation* ends a key. What it signed and what was executed before stays in the history and verifiable as ever.
//! * A key is *in force* while it has not ended, and agreed time lies in its validity.
//!
//! # When a statement is carried out
//! It comes as an operation `[4, cose_sign1]` in a bundle of any identity that is in force; execution judges it, not the application.
//! In this order, the first refusal counts, and nothing changes:
//! 1. form and origin: as [`crate::wire::statement`] has the codes;
//! 2. the signer is an administrator in force: NOT_ADMINISTRATOR, REVOKED, NOT_VALID;
//! 3. its number is the next: STATEMENT_NUMBER;
//! 4. for a new key: KEY_TAKEN, IDENTITIES_FULL, BAD_KEY; for an earlier one: UNKNOWN_KEY, KEY_ENDED; then UNKNOWN_ROLE, NAME_TAKEN;
//! 5. an administrator is in force afterwards: LAST_ADMINISTRATOR. (Validities that run out may leave none: give some administrator
//!    a key without end.)
//! 6. its signature holds (ZIP 215): BAD_SIGNATURE. Last, since it is what costs, and one statement in a bundle bounds it.
//!
//! The BUNDLE entry has the outcome like any other; a KEY entry follows it where it was carried out. **It holds from behind the KEY
//! entry on**: all requests of the bundle that brought it are judged by the table before.
//!
//! # What a key that is not in force may do
//! Nothing new: its requests are refused with REVOKED or NOT_VALID, at execution, by agreed time, so also those that were ordered
//! before a revocation and come to execution behind it. What it had executed it may still ask for, since a client must never be told
//! that something was refused which was done. Its queries are refused, and its connections closed ([`crate::replica`]).
//!
//! # Reasons
//! The genesis may name properties that are changed with a reason only ([`Rights`], REASON_REQUIRED).
//!
//! # Limits
//! [`MAX_IDENTITIES`] keys, those of the genesis and those that ended included; each takes some 300 bytes. Beyond: IDENTITIES_FULL.
//! (A genesis may have more by itself; then none is added.) One statement in a bundle.
//!
//! Sources: 21 CFR 11.100(a) (no reuse of an identity) and 11.50 (printed name); NIST SP 800-57 part 1, 5.3 (cryptoperiods).

use std::collections::{BTreeMap, BTreeSet};

use crate::cluster::Cluster;
use crate::cluster::roles::{Pattern, Role, RoleId};
use crate::crypto::hash::sha256;
use crate::crypto::verify::check_public_key;
use crate::state::Access;
use crate::types::{Code, Digest, EntryIndex, PublicKey, TimeMs};
use crate::wire::statement::{KeyChange, KeyStatement, SignedStatement, StatementError, Validity};

mod coding;
mod genesis;
pub mod page;

pub use genesis::GenesisError;

/// Most keys that a cluster knows, those that ended included: each client that was registered takes a place for ever.
pub const MAX_IDENTITIES: usize = 4_096;

/// How a key ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ended {
    /// Agreed time.
    pub at_ms: TimeMs,
    /// The KEY entry.
    pub entry: EntryIndex,
    /// The key that took its place; `None` where it was revoked and not rotated.
    pub successor: Option<PublicKey>,
}

/// A key and whom it stands for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Identity {
    /// The key.
    pub key: PublicKey,
    /// Printed name.
    pub name: String,
    /// What it may do; `None` for an administrator.
    pub role: Option<RoleId>,
    /// When the key is valid.
    pub validity: Validity,
    /// The KEY entry that brought it, or 0 for the genesis.
    pub entry: EntryIndex,
    /// It ended.
    pub ended: Option<Ended>,
}

impl Identity {
    /// Whether the key is in force at an agreed time.
    ///
    /// # Errors
    /// REVOKED or NOT_VALID.
    pub fn in_force(&self, time_ms: TimeMs) -> Result<(), Code> {
        let is_early = self.validity.from_ms.is_some_and(|from| time_ms < from);
        match self.barred(time_ms) {
            Some(code) => Err(code),
            None if is_early => Err(Code::NOT_VALID),
            None => Ok(()),
        }
    }

    /// Why the key is not in force now and will never be again.
    pub fn barred(&self, time_ms: TimeMs) -> Option<Code> {
        let is_over = self.validity.until_ms.is_some_and(|until| time_ms >= until);
        match self.ended {
            Some(_) => Some(Code::REVOKED),
            None => is_over.then_some(Code::NOT_VALID),
        }
    }

    fn is_administrator(&self) -> bool {
        self.role.is_none()
    }
}

/// Why a statement is not carried out: the code, and what people read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refused {
    /// The outcome's code.
    pub code: Code,
    /// Its detail.
    pub detail: String,
}

impl From<StatementError> for Refused {
    fn from(error: StatementError) -> Self {
        Self { code: error.code(), detail: error.to_string() }
    }
}

/// The table. See the module. Equal on all correct replicas after the same entries.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Identities {
    origin: String,
    roles: Vec<Role>,
    reason_required: Vec<Pattern>,
    /// Keys of replicas.
    reserved: BTreeSet<PublicKey>,
    /// Those of the genesis first, in its order, administrators behind clients; then in the order of their entries.
    all: Vec<Identity>,
    by_key: BTreeMap<PublicKey, usize>,
    /// Identities of the genesis.
    first: usize,
    /// Statements carried out.
    number: u64,
    /// The last KEY entry; 0 before the first.
    last_entry: EntryIndex,
    digest: Digest,
}

impl Identities {
    /// The table before the first KEY entry, from the cluster file.
    pub fn of(cluster: &Cluster) -> Self {
        let reserved = cluster.members().iter();
        let reserved = reserved.flat_map(|it| [it.link_key, it.protocol_key, it.log_key, it.cosign_key]).collect();
        let clients = cluster.clients().iter().map(|it| (it.key, it.name.clone(), Some(it.role)));
        let administrators = cluster.administrators().iter().map(|it| (it.key, it.name.clone(), None));
        Self::with(
            cluster.origin().to_owned(),
            cluster.roles().to_vec(),
            cluster.reason_required().to_vec(),
            reserved,
            clients.chain(administrators),
        )
    }

    fn with(
        origin: String,
        roles: Vec<Role>,
        reason_required: Vec<Pattern>,
        reserved: BTreeSet<PublicKey>,
        identities: impl Iterator<Item = (PublicKey, String, Option<RoleId>)>,
    ) -> Self {
        let (validity, entry, ended) = (Validity::default(), 0, None);
        let all: Vec<_> =
            identities.map(|(key, name, role)| Identity { key, name, role, validity, entry, ended }).collect();
        let by_key = all.iter().enumerate().map(|(place, identity)| (identity.key, place)).collect();
        let first = all.len();
        let digest = Digest::default();
        let mut table =
            Self { origin, roles, reason_required, reserved, all, by_key, first, number: 0, last_entry: 0, digest };
        table.hash();
        table
    }

    /// Every identity that ever was; the place of one never changes.
    pub fn all(&self) -> &[Identity] {
        &self.all
    }

    /// The place of a key in [`Identities::all`].
    pub fn place(&self, key: &PublicKey) -> Option<usize> {
        self.by_key.get(key).copied()
    }

    /// The identity of a key.
    pub fn get(&self, key: &PublicKey) -> Option<&Identity> {
        self.place(key).and_then(|place| self.all.get(place))
    }

    /// The name of an identity's role; `None` for an administrator.
    pub fn role_name(&self, identity: &Identity) -> Option<&str> {
        self.role(identity).map(|role| role.name.as_str())
    }

    /// Statements carried out: the next has this number and one.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The last KEY entry; 0 before the first.
    pub fn last_entry(&self) -> EntryIndex {
        self.last_entry
    }

    /// `SHA-256("atlas-identities/1" || the table's bytes)`.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// What a key may do at an agreed time.
    ///
    /// # Errors
    /// UNKNOWN_IDENTITY, REVOKED, NOT_VALID.
    pub fn may(&self, key: &PublicKey, time_ms: TimeMs) -> Result<Rights<'_>, Code> {
        let identity = self.get(key).ok_or(Code::UNKNOWN_IDENTITY)?;
        identity.in_force(time_ms)?;
        Ok(self.rights(identity))
    }

    /// What an identity may do while it is in force.
    pub fn rights(&self, identity: &Identity) -> Rights<'_> {
        Rights { role: self.role(identity), reason_required: &self.reason_required }
    }

    /// Whether a statement would be carried out at this agreed time; the signature is the caller's to check.
    ///
    /// # Errors
    /// The first refusal, in the order of the module.
    pub fn judge(&self, signed: &SignedStatement<'_>, time_ms: TimeMs) -> Result<(), Refused> {
        let signer = self.get(&signed.signer).filter(|signer| signer.is_administrator());
        let Some(signer) = signer else {
            return refuse(Code::NOT_ADMINISTRATOR, format!("{} is no administrator", signed.signer));
        };
        if let Err(code) = signer.in_force(time_ms) {
            return refuse(code, format!("the administrator {} signed", signer.name));
        }
        let (statement, next) = (&signed.statement, self.number + 1);
        if statement.number != next {
            return refuse(Code::STATEMENT_NUMBER, format!("number {}, the next is {next}", statement.number));
        }
        match &statement.change {
            KeyChange::Register { name, role, .. } => self.judge_register(&statement.key, name, role.as_deref())?,
            KeyChange::Rotate { replaces, .. } => {
                self.judge_new(&statement.key)?;
                let replaced = self.known(replaces)?;
                if replaced.ended.is_some_and(|ended| ended.successor.is_some()) {
                    return refuse(Code::KEY_ENDED, format!("another key took the place of {replaces}"));
                }
            }
            KeyChange::Revoke => {
                if self.known(&statement.key)?.ended.is_some() {
                    return refuse(Code::KEY_ENDED, format!("{} has ended before", statement.key));
                }
            }
        }
        if self.leaves_an_administrator(statement, time_ms) {
            Ok(())
        } else {
            refuse(Code::LAST_ADMINISTRATOR, "no administrator would be in force".to_owned())
        }
    }

    /// Carries a statement out: the KEY entry `entry` at this agreed time.
    ///
    /// # Errors
    /// As [`Identities::judge`]; nothing has changed.
    pub fn apply(&mut self, signed: &SignedStatement<'_>, time_ms: TimeMs, entry: EntryIndex) -> Result<(), Refused> {
        self.judge(signed, time_ms)?;
        let key = signed.statement.key;
        match &signed.statement.change {
            KeyChange::Register { name, role, validity } => {
                let role = role.as_deref().and_then(|role| self.role_of_name(role));
                self.add(Identity { key, name: name.clone(), role, validity: *validity, entry, ended: None });
            }
            KeyChange::Rotate { replaces, validity } => {
                let Some(replaced) = self.by_key.get(replaces).and_then(|place| self.all.get_mut(*place)) else {
                    return refuse(Code::UNKNOWN_KEY, replaces.to_string());
                };
                // One that was revoked ended then.
                let before = replaced.ended.map_or((time_ms, entry), |ended| (ended.at_ms, ended.entry));
                replaced.ended = Some(Ended { at_ms: before.0, entry: before.1, successor: Some(key) });
                let (name, role) = (replaced.name.clone(), replaced.role);
                self.add(Identity { key, name, role, validity: *validity, entry, ended: None });
            }
            KeyChange::Revoke => {
                if let Some(identity) = self.by_key.get(&key).and_then(|place| self.all.get_mut(*place)) {
                    identity.ended = Some(Ended { at_ms: time_ms, entry, successor: None });
                }
            }
        }
        self.number += 1;
        self.last_entry = entry;
        self.hash();
        Ok(())
    }

    /// Judges an operation that [`crate::wire::statement::is_statement`], its signature included: the statement that is to be carried out,
    /// or the outcome of the request. (The second of a bundle is TOO_LARGE, whatever it says.)
    ///
    /// # Errors
    /// The first refusal, in the order of the module.
    pub fn examine<'a>(&self, operation: &'a [u8], time_ms: TimeMs) -> Result<SignedStatement<'a>, Refused> {
        let signed = SignedStatement::of_operation(operation, &self.origin)?;
        self.judge(&signed, time_ms)?;
        match signed.holds() {
            true => Ok(signed),
            false => refuse(Code::BAD_SIGNATURE, "the statement's signature does not hold".to_owned()),
        }
    }

    fn role(&self, identity: &Identity) -> Option<&Role> {
        identity.role.and_then(|role| self.roles.get(usize::from(role.0)))
    }

    fn role_of_name(&self, name: &str) -> Option<RoleId> {
        self.roles.iter().zip((0..).map(RoleId)).find(|(role, _)| role.name == name).map(|(_, id)| id)
    }

    fn known(&self, key: &PublicKey) -> Result<&Identity, Refused> {
        self.get(key).map_or_else(|| refuse(Code::UNKNOWN_KEY, key.to_string()), Ok)
    }

    fn judge_new(&self, key: &PublicKey) -> Result<(), Refused> {
        if self.by_key.contains_key(key) || self.reserved.contains(key) {
            return refuse(Code::KEY_TAKEN, format!("{key} is known already; a key stands for one identity, once"));
        }
        if self.all.len() >= MAX_IDENTITIES {
            return refuse(
                Code::IDENTITIES_FULL,
                format!("{} keys are known, at most {MAX_IDENTITIES}", self.all.len()),
            );
        }
        check_public_key(key).or_else(|weak| refuse(Code::BAD_KEY, weak.to_string()))
    }

    fn judge_register(&self, key: &PublicKey, name: &str, role: Option<&str>) -> Result<(), Refused> {
        self.judge_new(key)?;
        if let Some(role) = role.filter(|role| self.role_of_name(role).is_none()) {
            let roles: Vec<_> = self.roles.iter().map(|role| role.name.as_str()).collect();
            return refuse(Code::UNKNOWN_ROLE, format!("{role}; the roles are {}", roles.join(", ")));
        }
        if self.all.iter().any(|identity| identity.name == name) {
            return refuse(Code::NAME_TAKEN, format!("{name}; its next key comes by rotation"));
        }
        Ok(())
    }

    /// Whether an administrator is in force behind a statement that is all right otherwise.
    fn leaves_an_administrator(&self, statement: &KeyStatement, time_ms: TimeMs) -> bool {
        let (ends, begins) = match &statement.change {
            KeyChange::Register { .. } => return true,
            KeyChange::Rotate { replaces, validity } => (replaces, Some(validity)),
            KeyChange::Revoke => (&statement.key, None),
        };
        let Some(ending) = self.get(ends).filter(|identity| identity.is_administrator()) else { return true };
        let is_now = |validity: &Validity| {
            validity.from_ms.is_none_or(|from| from <= time_ms) && validity.until_ms.is_none_or(|until| time_ms < until)
        };
        begins.is_some_and(is_now)
            || self.all.iter().any(|it| it.is_administrator() && it.key != ending.key && it.in_force(time_ms).is_ok())
    }

    fn add(&mut self, identity: Identity) {
        self.by_key.insert(identity.key, self.all.len());
        self.all.push(identity);
    }

    fn hash(&mut self) {
        let mut bytes = b"atlas-identities/1".to_vec();
        self.to_bytes(&mut bytes);
        self.digest = sha256(&[&bytes]);
    }
}

fn refuse<T>(code: Code, detail: String) -> Result<T, Refused> {
    Err(Refused { code, detail })
}

/// What somebody may do: to be given to the application as the operation's access.
#[derive(Clone, Copy, Debug)]
pub struct Rights<'a> {
    role: Option<&'a Role>,
    reason_required: &'a [Pattern],
}

impl Access for Rights<'_> {
    fn may_write(&self, twin: &str, property: &str) -> bool {
        self.role.is_some_and(|role| role.may_write(twin, property))
    }

    fn needs_reason(&self, twin: &str, property: &str) -> bool {
        self.reason_required.iter().any(|pattern| pattern.covers(twin, property))
    }
}

#[cfg(test)]
mod tests;
