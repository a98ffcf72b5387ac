//! The table before the first KEY entry, from the CONFIG entry alone: for auditors, who have no cluster file.

use std::collections::BTreeMap;

use super::Identities;
use crate::cbor::{CborError, Reader};
use crate::cluster::roles::{Pattern, Role, RoleId};
use crate::history::entry::ConfigView;
use crate::types::PublicKey;

/// Why a CONFIG entry gives no table. One that a cluster file made always does.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum GenesisError {
    /// A setting is not there.
    #[error("the CONFIG entry has no setting {0:?}")]
    Missing(&'static str),
    /// A setting is not what it should be.
    #[error("the setting {setting:?} of the CONFIG entry is malformed at {error}")]
    Malformed {
        /// Its name.
        setting: &'static str,
        /// Where in its value, and what.
        error: CborError,
    },
    /// A pattern that is none.
    #[error("the setting {setting:?} of the CONFIG entry has {pattern:?}, which is no pattern")]
    Pattern {
        /// The setting.
        setting: &'static str,
        /// The pattern.
        pattern: String,
    },
    /// A client's role that is not among the roles.
    #[error("the CONFIG entry gives a client the role {0:?}, which it does not have")]
    Role(String),
    /// A key that stands for two.
    #[error("the CONFIG entry names the key {0} twice")]
    Repeated(PublicKey),
    /// Other names of administrators than keys.
    #[error("the CONFIG entry has {keys} administrators and {names} names for them")]
    Administrators {
        /// Keys.
        keys: usize,
        /// Names.
        names: usize,
    },
}

impl Identities {
    /// The table before the first KEY entry.
    ///
    /// # Errors
    /// The settings `origin`, `roles`, `clients`, `administrator_names` or `reason_required` are not those of a cluster.
    pub fn genesis(config: &ConfigView<'_>) -> Result<Self, GenesisError> {
        let origin = read(config, "origin", |reader| reader.text().map(str::to_owned))?;
        let raw_roles = read(config, "roles", |reader| list(reader, read_role))?;
        let mut roles = Vec::with_capacity(raw_roles.len());
        for (name, raw) in raw_roles {
            roles.push(Role::new(name, patterns("roles", raw)?));
        }
        let raw = read_or_none(config, "reason_required", |reader| list(reader, Reader::text))?;
        let reason_required = patterns("reason_required", raw)?;
        let by_name: BTreeMap<&str, RoleId> =
            roles.iter().map(|role| role.name.as_str()).zip((0..).map(RoleId)).collect();
        let mut identities = Vec::new();
        for (key, name, role) in read(config, "clients", |reader| list(reader, read_client))? {
            let role = *by_name.get(role).ok_or_else(|| GenesisError::Role(role.to_owned()))?;
            identities.push((key, name.to_owned(), Some(role)));
        }
        let keys: Vec<_> = config.administrators().collect();
        let names = read_or_none(config, "administrator_names", |reader| list(reader, Reader::text))?;
        if keys.len() != names.len() {
            return Err(GenesisError::Administrators { keys: keys.len(), names: names.len() });
        }
        identities.extend(keys.into_iter().zip(names).map(|(key, name)| (key, name.to_owned(), None)));
        let members = config.members.iter();
        let reserved = members.flat_map(|it| [it.link_key, it.protocol_key, it.log_key, it.cosign_key]).collect();
        let table = Self::with(origin, roles, reason_required, reserved, identities.into_iter());
        let repeated = table
            .all
            .iter()
            .enumerate()
            .find(|(place, it)| table.by_key.get(&it.key) != Some(place) || table.reserved.contains(&it.key));
        match repeated {
            Some((_, identity)) => Err(GenesisError::Repeated(identity.key)),
            None => Ok(table),
        }
    }
}

type Read<T> = Result<T, CborError>;

fn read<'a, T>(
    config: &ConfigView<'a>,
    setting: &'static str,
    value: impl FnOnce(&mut Reader<'a>) -> Read<T>,
) -> Result<T, GenesisError> {
    let bytes = config.setting(setting).ok_or(GenesisError::Missing(setting))?;
    let reader = &mut Reader::new(bytes);
    let read = value(reader).and_then(|value| reader.finish().map(|()| value));
    read.map_err(|error| GenesisError::Malformed { setting, error })
}

/// As [`read`]; a setting that is not there is an empty list.
fn read_or_none<'a, T>(
    config: &ConfigView<'a>,
    setting: &'static str,
    value: impl FnOnce(&mut Reader<'a>) -> Read<Vec<T>>,
) -> Result<Vec<T>, GenesisError> {
    if config.setting(setting).is_none() { Ok(Vec::new()) } else { read(config, setting, value) }
}

fn list<'a, T>(reader: &mut Reader<'a>, item: impl Fn(&mut Reader<'a>) -> Read<T>) -> Read<Vec<T>> {
    // Grows with what is there, not with what is promised.
    (0..reader.array()?).map(|_| item(reader)).collect()
}

fn read_role<'a>(reader: &mut Reader<'a>) -> Read<(String, Vec<&'a str>)> {
    reader.array_of(2)?;
    Ok((reader.text()?.to_owned(), list(reader, Reader::text)?))
}

fn read_client<'a>(reader: &mut Reader<'a>) -> Read<(PublicKey, &'a str, &'a str)> {
    reader.array_of(3)?;
    Ok((PublicKey(reader.bytes32()?), reader.text()?, reader.text()?))
}

fn patterns(setting: &'static str, raw: Vec<&str>) -> Result<Vec<Pattern>, GenesisError> {
    let parse = |text: &str| text.parse().map_err(|_| GenesisError::Pattern { setting, pattern: text.to_owned() });
    raw.into_iter().map(parse).collect()
}
