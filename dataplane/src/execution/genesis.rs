//! What the cluster begins with, as execution needs it: the content of entry 0.

use std::collections::BTreeSet;

use data_encoding::BASE64;

use crate::cluster::{Cluster, RoleId};
use super::roles::{Pattern, PatternError, Rights};
use crate::crypto::hash::sha256;
use crate::history::entry::{self, Member as MemberView};
use crate::history::{put_array, put_bytes, put_map, put_text, put_uint};
use crate::types::{Digest, Epoch, PublicKey, TimeMs};
use crate::wire::limits::{MAX_ENTRY, MAX_REPLICAS};

/// Longest name of an origin, member, client, role or setting, bytes.
pub const MAX_NAME: usize = 128;

/// Most patterns of all roles, so that judging a write stays cheap.
pub const MAX_PATTERNS: usize = 1_024;

/// A replica.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Member {
    /// Index in the membership: its place in [`Genesis::members`].
    pub index: u8,
    /// Name for people.
    pub name: String,
    /// Key of its links.
    pub link_key: PublicKey,
    /// Key of its VIEW-CHANGE, NEW-VIEW and CHECKPOINT messages.
    pub protocol_key: PublicKey,
    /// Key of its log lines.
    pub log_key: PublicKey,
    /// Key of its cosignatures.
    pub cosign_key: PublicKey,
}

/// A registered identity.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Client {
    /// The key that signs its bundles.
    pub key: PublicKey,
    /// Name for people.
    pub name: String,
    /// The name of its role.
    pub role: String,
}

/// What identities of a role may write.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Role {
    /// Its name.
    pub name: String,
    /// `TWIN[:PROPERTY]`, each with an optional `*` at the end; none: may write nothing.
    pub writes: Vec<String>,
}

/// Numbers that all replicas must agree on, since they can change an entry, an outcome or a checkpoint.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    /// Sequences from checkpoint to checkpoint (K).
    pub checkpoint_interval: u64,
    /// Sequences open at once; at most the checkpoint interval.
    pub window: u64,
    /// How far a leader's time may be off a backup's clock, ms.
    pub drift_ms: u64,
    /// Numbers of a session that may be executed in any order, and executed ones below them that are still answered.
    pub session_window: u64,
    /// Sessions of one identity at once; one more closes its least recently used.
    pub sessions_per_identity: u64,
    /// Agreed time after which an unused session is closed, ms.
    pub session_idle_ms: u64,
    /// Agreed time after which a STATE entry is due, ms.
    pub state_interval_ms: u64,
    /// Agreed numbers that others use, such as the application's limits.
    pub others: Vec<(String, u64)>,
}

/// Everything that entry 0 says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Genesis {
    /// Name of the cluster.
    pub origin: String,
    /// Hash of the cluster file.
    pub hash: Digest,
    /// When the cluster was made: agreed time of entry 0.
    pub created_ms: TimeMs,
    /// Epoch; 0 in a new cluster.
    pub epoch: Epoch,
    /// The replicas by index.
    pub members: Vec<Member>,
    /// Keys that may change the membership.
    pub administrators: Vec<PublicKey>,
    /// The registered identities.
    pub clients: Vec<Client>,
    /// The roles.
    pub roles: Vec<Role>,
    /// The agreed numbers.
    pub settings: Settings,
}

/// What is wrong with a genesis.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum GenesisError {
    /// Too few or too many replicas.
    #[error("{0} members where 1 to {MAX_REPLICAS} are allowed")]
    Members(usize),
    /// A member whose index is not its place.
    #[error("member {place} has the index {index}: members are listed by index from 0")]
    MemberIndex {
        /// Where it stands.
        place: usize,
        /// What it says.
        index: u8,
    },
    /// A name that is empty, too long or has control characters, or an origin with a space or plus sign.
    #[error("{0:?} is no name: 1 to {MAX_NAME} bytes without control characters, an origin without spaces and +")]
    Name(String),
    /// Two members, clients, roles or settings share what must be their own.
    #[error("{what} {name:?} stands twice")]
    Twice {
        /// A key, role or setting.
        what: &'static str,
        /// Which.
        name: String,
    },
    /// A client's role is not defined.
    #[error("client {client:?} has the role {role:?}, which is not defined")]
    UnknownRole {
        /// The client.
        client: String,
        /// Its role.
        role: String,
    },
    /// A write pattern that cannot be read.
    #[error("role {role:?}: {error}")]
    Pattern {
        /// The role.
        role: String,
        /// What is wrong.
        error: PatternError,
    },
    /// More patterns than [`MAX_PATTERNS`].
    #[error("the roles have {0} write patterns where at most {MAX_PATTERNS} are allowed")]
    Patterns(usize),
    /// A number out of its bounds.
    #[error("setting {name} is {value}, it must be {least} to {most}")]
    Setting {
        /// The setting.
        name: &'static str,
        /// Its value.
        value: u64,
        /// Lowest permitted.
        least: u64,
        /// Highest permitted.
        most: u64,
    },
    /// Entry 0 would be larger than an entry may be.
    #[error("the genesis takes {0} bytes, an entry has at most {MAX_ENTRY}: register fewer clients or shorten names")]
    TooLarge(usize),
}

impl From<&Cluster> for Genesis {
    fn from(cluster: &Cluster) -> Self {
        let settings = cluster.settings();
        let members = cluster.members().iter().map(|member| Member {
            index: member.id.0,
            name: member.name.clone(),
            link_key: member.link_key,
            protocol_key: member.protocol_key,
            log_key: member.log_key,
            cosign_key: member.cosign_key,
        });
        let role_name = |id: RoleId| cluster.roles().get(usize::from(id.0)).map_or("", |role| role.name.as_str());
        let clients = cluster.clients().iter().map(|client| Client {
            key: client.key,
            name: client.name.clone(),
            role: role_name(client.role).to_owned(),
        });
        let roles = cluster.roles().iter().map(|role| Role {
            name: role.name.clone(),
            writes: role.patterns().iter().map(ToString::to_string).collect(),
        });
        Self {
            origin: cluster.origin().to_owned(),
            hash: cluster.genesis(),
            created_ms: cluster.created_ms(),
            epoch: 0,
            members: members.collect(),
            administrators: Vec::new(),
            clients: clients.collect(),
            roles: roles.collect(),
            settings: Settings {
                checkpoint_interval: settings.checkpoint_interval,
                window: settings.window,
                drift_ms: settings.drift_ms,
                session_window: settings.session_window,
                sessions_per_identity: settings.sessions_per_identity,
                session_idle_ms: settings.session_idle_ms,
                state_interval_ms: settings.state_interval_ms,
                others: vec![
                    ("max_batch_bytes".to_owned(), settings.max_batch_bytes),
                    ("max_bundle_requests".to_owned(), settings.max_bundle_requests),
                    ("max_properties".to_owned(), settings.max_properties),
                ],
            },
        }
    }
}

impl Genesis {
    /// Faults that the cluster tolerates: floor((n-1)/3).
    pub fn tolerated(&self) -> usize {
        self.members.len().saturating_sub(1) / 3
    }

    /// Signatures that certify: ceil((n+f+1)/2).
    pub fn quorum(&self) -> usize {
        (self.members.len() + self.tolerated() + 1).div_ceil(2)
    }

    /// The auditor's trust root (C2SP tlog-policy): every replica's log line and cosigner, and the quorum over the cosigners.
    pub fn policy(&self) -> String {
        let mut policy = String::new();
        for member in &self.members {
            policy += &format!("log {}\n", verifier_key(&self.origin, 0x01, &member.log_key));
        }
        let mut group = format!("group replicas {}", self.quorum());
        for member in &self.members {
            let name = format!("{}/replica/{}", self.origin, member.index);
            policy += &format!("witness replica-{} {}\n", member.index, verifier_key(&name, 0x04, &member.cosign_key));
            group += &format!(" replica-{}", member.index);
        }
        policy + &group + "\nquorum replicas\n"
    }

    /// Checks everything but what a role or a client's role means, which [`Genesis::identities`] finds.
    fn check(&self) -> Result<(), GenesisError> {
        let count = self.members.len();
        if count == 0 || count > MAX_REPLICAS {
            return Err(GenesisError::Members(count));
        }
        if let Some((place, member)) = (0..).zip(&self.members).find(|(place, m)| usize::from(m.index) != *place) {
            return Err(GenesisError::MemberIndex { place, index: member.index });
        }
        check_name(&self.origin)?;
        if self.origin.contains(|c: char| c == '+' || c.is_whitespace()) {
            return Err(GenesisError::Name(self.origin.clone()));
        }
        let names = self.members.iter().map(|member| &member.name);
        let names = names.chain(self.clients.iter().map(|client| &client.name));
        let names = names.chain(self.roles.iter().map(|role| &role.name));
        for name in names.chain(self.settings.others.iter().map(|other| &other.0)) {
            check_name(name)?;
        }
        let keys = self.members.iter().flat_map(|m| [m.link_key, m.protocol_key, m.log_key, m.cosign_key]);
        once("key", keys.chain(self.clients.iter().map(|client| client.key)).map(|key| key.to_string()))?;
        once("role", self.roles.iter().map(|role| role.name.clone()))?;
        self.settings.check()
    }

    /// Checks the genesis and reads its roles.
    ///
    /// # Errors
    /// The first thing that is wrong with the genesis.
    pub(super) fn identities(&self) -> Result<Identities, GenesisError> {
        self.check()?;
        let patterns = self.roles.iter().map(|role| role.writes.len()).sum();
        if patterns > MAX_PATTERNS {
            return Err(GenesisError::Patterns(patterns));
        }
        let roles = self.roles.iter().map(read_patterns).collect::<Result<_, _>>()?;
        let mut keys = Vec::with_capacity(self.clients.len());
        for client in &self.clients {
            let unknown = || GenesisError::UnknownRole { client: client.name.clone(), role: client.role.clone() };
            let role = self.roles.iter().position(|role| role.name == client.role).ok_or_else(unknown)?;
            keys.push((client.key, role));
        }
        keys.sort_unstable();
        Ok(Identities { keys, roles })
    }

    /// Appends entry 0.
    ///
    /// # Errors
    /// It would be larger than an entry may be, or two settings share a name.
    pub(super) fn put_config(&self, out: &mut Vec<u8>) -> Result<(), GenesisError> {
        let members = self.members.iter().map(|member| MemberView {
            index: member.index,
            name: &member.name,
            link_key: member.link_key,
            protocol_key: member.protocol_key,
            log_key: member.log_key,
            cosign_key: member.cosign_key,
        });
        let settings = self.encode_settings()?;
        let policy = self.policy();
        entry::put_config(out, 0, self.created_ms, self.epoch, &policy, members, &self.administrators, &settings);
        if out.len() > MAX_ENTRY { Err(GenesisError::TooLarge(out.len())) } else { Ok(()) }
    }

    /// The settings as a map: the numbers, the origin, the genesis hash, the roles and the clients.
    fn encode_settings(&self) -> Result<Vec<u8>, GenesisError> {
        let mut items: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
        let mut put = |name: &str, value: &dyn Fn(&mut Vec<u8>)| {
            let (mut key, mut bytes) = (Vec::new(), Vec::new());
            put_text(&mut key, name);
            value(&mut bytes);
            items.push((key, bytes));
        };
        for (name, value, ..) in self.settings.bounded() {
            put(name, &|out| put_uint(out, value));
        }
        for (name, value) in &self.settings.others {
            put(name, &|out| put_uint(out, *value));
        }
        put("origin", &|out| put_text(out, &self.origin));
        put("genesis", &|out| put_bytes(out, &self.hash.0));
        put("roles", &|out| {
            put_array(out, self.roles.len());
            for role in &self.roles {
                put_array(out, 2);
                put_text(out, &role.name);
                put_array(out, role.writes.len());
                role.writes.iter().for_each(|pattern| put_text(out, pattern));
            }
        });
        put("clients", &|out| {
            put_array(out, self.clients.len());
            for client in &self.clients {
                put_array(out, 3);
                put_bytes(out, &client.key.0);
                put_text(out, &client.name);
                put_text(out, &client.role);
            }
        });
        // RFC 8949, 4.2.1: by the bytes of the encoded keys.
        items.sort();
        if let Some(pair) = items.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            let name = String::from_utf8_lossy(pair[0].0.get(1..).unwrap_or_default()).into_owned();
            return Err(GenesisError::Twice { what: "setting", name });
        }
        let mut map = Vec::new();
        put_map(&mut map, items.len());
        for (key, value) in items {
            map.extend_from_slice(&key);
            map.extend_from_slice(&value);
        }
        Ok(map)
    }
}

/// The registered identities, numbered by the order of their keys, and what their roles may write.
pub(super) struct Identities {
    /// Key and role of each, sorted by key.
    keys: Vec<(PublicKey, usize)>,
    roles: Vec<Vec<Pattern>>,
}

impl Identities {
    pub(super) fn len(&self) -> usize {
        self.keys.len()
    }

    pub(super) fn find(&self, key: &PublicKey) -> Option<usize> {
        self.keys.binary_search_by(|identity| identity.0.cmp(key)).ok()
    }

    pub(super) fn rights(&self, identity: usize) -> Rights<'_> {
        let role = self.keys.get(identity).and_then(|identity| self.roles.get(identity.1));
        Rights(role.map_or(&[], Vec::as_slice))
    }
}

/// Highest `session_window`: the stored replies of a session are twice as many.
pub const MAX_SESSION_WINDOW: u64 = 65_536;

/// Highest `sessions_per_identity` (FORMATS.md).
pub const MAX_SESSIONS_PER_IDENTITY: u64 = 1_024;

/// Highest of the times, ms: a year.
pub const MAX_SETTING_MS: u64 = 366 * 24 * 3_600_000;

/// Highest `checkpoint_interval`.
pub const MAX_CHECKPOINT_INTERVAL: u64 = 1 << 20;

impl Settings {
    /// Name, value, lowest and highest value of each number.
    fn bounded(&self) -> [(&'static str, u64, u64, u64); 7] {
        [
            ("checkpoint_interval", self.checkpoint_interval, 1, MAX_CHECKPOINT_INTERVAL),
            ("window", self.window, 1, self.checkpoint_interval),
            ("drift_ms", self.drift_ms, 1, MAX_SETTING_MS),
            ("session_window", self.session_window, 1, MAX_SESSION_WINDOW),
            ("sessions_per_identity", self.sessions_per_identity, 1, MAX_SESSIONS_PER_IDENTITY),
            ("session_idle_ms", self.session_idle_ms, 1, MAX_SETTING_MS),
            ("state_interval_ms", self.state_interval_ms, 1, MAX_SETTING_MS),
        ]
    }

    fn check(&self) -> Result<(), GenesisError> {
        match self.bounded().into_iter().find(|(_, value, least, most)| !(least..=most).contains(&value)) {
            Some((name, value, least, most)) => Err(GenesisError::Setting { name, value, least, most }),
            None => Ok(()),
        }
    }
}

fn read_patterns(role: &Role) -> Result<Vec<Pattern>, GenesisError> {
    let fail = |error| GenesisError::Pattern { role: role.name.clone(), error };
    role.writes.iter().map(|text| text.parse().map_err(fail)).collect()
}

fn check_name(name: &str) -> Result<(), GenesisError> {
    if !name.is_empty() && name.len() <= MAX_NAME && !name.chars().any(char::is_control) {
        return Ok(());
    }
    Err(GenesisError::Name(name.chars().take(MAX_NAME).collect()))
}

fn once(what: &'static str, names: impl Iterator<Item = String>) -> Result<(), GenesisError> {
    let mut seen = BTreeSet::new();
    for name in names {
        if seen.contains(&name) {
            return Err(GenesisError::Twice { what, name });
        }
        seen.insert(name);
    }
    Ok(())
}

/// A verifier key of C2SP signed-note: `name+hash+base64(type || key)`.
fn verifier_key(name: &str, kind: u8, key: &PublicKey) -> String {
    let hash = sha256(&[name.as_bytes(), b"\n", &[kind], &key.0]);
    let id = u32::from_be_bytes([hash.0[0], hash.0[1], hash.0[2], hash.0[3]]);
    format!("{name}+{id:08x}+{}", BASE64.encode(&[&[kind], key.0.as_slice()].concat()))
}
