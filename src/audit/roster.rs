//! Who may do what, and by which numbers the cluster runs: read from the CONFIG entries.
//!
//! KEY entries (identities registered, rotated and revoked in the order) change a roster too: they belong beside
//! [`Roster::from_config`], as a method that takes the entry, and [`super::replay`] calls it where it meets one.

use std::collections::HashMap;

use atlas_dataplane::cbor::{CborError, Reader};
use atlas_dataplane::cluster::roles::Pattern;
use atlas_dataplane::history::entry::ConfigView;
use atlas_dataplane::types::{PublicKey, TimeMs};

use super::finding::Fault;

/// Numbers and identities as they are agreed.
#[derive(Clone, Debug)]
pub struct Roster {
    /// The cluster's name.
    pub origin: String,
    /// A STATE entry with absence root stands at every multiple of this.
    pub checkpoint_interval: u64,
    /// Most properties of the store.
    pub max_properties: u64,
    /// Numbers of a session's window.
    pub session_window: u64,
    /// Open sessions of an identity.
    pub sessions_per_identity: u64,
    /// How far a client's time may be from agreed time to open a session.
    pub session_idle_ms: TimeMs,
    /// A STATE entry is due after so long.
    pub state_interval_ms: TimeMs,
    roles: Vec<Vec<Pattern>>,
    /// Role of each client.
    clients: HashMap<PublicKey, usize>,
}

impl Roster {
    /// What a CONFIG entry says.
    ///
    /// # Errors
    /// Names the setting that is missing or not of its form.
    pub fn from_config(config: &ConfigView<'_>) -> Result<Self, Fault> {
        let number = |name: &'static str| read(config, name, |reader| reader.uint());
        let span = |name: &'static str| number(name).map(|number| TimeMs::try_from(number).unwrap_or(TimeMs::MAX));
        let mut names: HashMap<String, usize> = HashMap::new();
        let mut roles = Vec::new();
        for (name, patterns) in read(config, "roles", read_roles)? {
            let patterns = patterns.iter().map(|pattern| pattern.parse()).collect::<Result<_, _>>();
            names.insert(name, roles.len());
            roles.push(patterns.map_err(|_| Fault::Setting("roles"))?);
        }
        let mut clients = HashMap::new();
        for (key, role) in read(config, "clients", read_clients)? {
            clients.insert(key, *names.get(&role).ok_or(Fault::Setting("clients"))?);
        }
        Ok(Self {
            origin: read(config, "origin", |reader| reader.text().map(str::to_owned))?,
            checkpoint_interval: number("checkpoint_interval")?.max(1),
            max_properties: number("max_properties")?,
            session_window: number("session_window")?,
            sessions_per_identity: number("sessions_per_identity")?,
            session_idle_ms: span("session_idle_ms")?,
            state_interval_ms: span("state_interval_ms")?,
            roles,
            clients,
        })
    }

    /// What a client may write, property by property; `None` where nobody has this key.
    pub fn access(&self, key: &PublicKey) -> Option<&[Pattern]> {
        self.clients.get(key).and_then(|role| self.roles.get(*role)).map(Vec::as_slice)
    }
}

fn read<T>(
    config: &ConfigView<'_>,
    name: &'static str,
    read: impl FnOnce(&mut Reader<'_>) -> Result<T, CborError>,
) -> Result<T, Fault> {
    let bytes = config.setting(name).ok_or(Fault::Setting(name))?;
    let reader = &mut Reader::new(bytes);
    let value = read(reader).and_then(|value| reader.finish().map(|()| value));
    value.map_err(|_| Fault::Setting(name))
}

type Roles = Vec<(String, Vec<String>)>;

fn read_roles(reader: &mut Reader<'_>) -> Result<Roles, CborError> {
    let count = reader.array()?;
    let role = |reader: &mut Reader<'_>| {
        reader.array_of(2)?;
        let name = reader.text()?.to_owned();
        let patterns = reader.array()?;
        let patterns = (0..patterns).map(|_| reader.text().map(str::to_owned)).collect::<Result<_, _>>()?;
        Ok((name, patterns))
    };
    (0..count).map(|_| role(reader)).collect()
}

fn read_clients(reader: &mut Reader<'_>) -> Result<Vec<(PublicKey, String)>, CborError> {
    let count = reader.array()?;
    let client = |reader: &mut Reader<'_>| {
        reader.array_of(3)?;
        let key = PublicKey(reader.bytes32()?);
        reader.text()?;
        Ok((key, reader.text()?.to_owned()))
    };
    (0..count).map(|_| client(reader)).collect()
}
