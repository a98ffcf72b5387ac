//! The cluster file: the genesis of a cluster.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::str::FromStr;

use serde::Deserialize;
use toml::Spanned;
use toml::value::Datetime;

use super::error::{ConfigError, MAX_NAME, Problem, Source, read_bounded};
use super::policy::{check_origin, policy_text};
use super::roles::{MAX_PATTERNS, MAX_REASON_PATTERNS, MAX_ROLES, Pattern, Role, RoleId};
use super::settings::{RawSettings, Settings};
use super::size::Size;
use crate::crypto::verify::check_public_key;
use crate::crypto::{context, sha256};
use crate::types::{Digest, PublicKey, ReplicaId, TimeMs, View};
use crate::wire::limits::MAX_ENTRY;

/// Longest cluster file, in bytes.
pub const MAX_CLUSTER_FILE: usize = 1 << 20;
/// Longest host name in an address, in bytes (DNS).
pub const MAX_HOST: usize = 253;

/// A host name or IP address with a port, not resolved.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Address {
    /// Host name, IPv4 address, or IPv6 address without brackets.
    pub host: String,
    /// TCP port, not 0.
    pub port: u16,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

impl FromStr for Address {
    type Err = Problem;

    fn from_str(text: &str) -> Result<Self, Problem> {
        let wrong = || Problem::Address(text.chars().take(MAX_HOST).collect());
        let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        let port = port.parse().ok().filter(|port| *port != 0).ok_or_else(wrong)?;
        let bracketed = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        let fits = match bracketed {
            Some(v6) => v6.parse::<std::net::Ipv6Addr>().is_ok(),
            None => host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_')),
        };
        let host = bracketed.unwrap_or(host);
        if !fits || !(1..=MAX_HOST).contains(&host.len()) {
            return Err(wrong());
        }
        Ok(Self { host: host.to_owned(), port })
    }
}

/// A replica as the cluster file names it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Member {
    /// Its index: its place in the file.
    pub id: ReplicaId,
    /// Its name, for people.
    pub name: String,
    /// Where it listens.
    pub address: Address,
    /// Its identity on links.
    pub link_key: PublicKey,
    /// Signs VIEW-CHANGE, NEW-VIEW and CHECKPOINT.
    pub protocol_key: PublicKey,
    /// Signs log lines of checkpoints.
    pub log_key: PublicKey,
    /// Cosigns checkpoints.
    pub cosign_key: PublicKey,
}

/// A client as the cluster file names it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Client {
    /// Its name, for people.
    pub name: String,
    /// Signs its bundles and is its identity on links.
    pub key: PublicKey,
    /// What it may write.
    pub role: RoleId,
}

/// An administrator as the cluster file names it: its statements register, rotate and revoke keys; it has no role.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Administrator {
    /// Its name, for people.
    pub name: String,
    /// Signs key statements and its bundles, and is its identity on links.
    pub key: PublicKey,
}

/// A cluster: everything that its file says, with no invalid state.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Cluster {
    genesis: Digest,
    origin: String,
    created_ms: TimeMs,
    settings: Settings,
    size: Size,
    members: Vec<Member>,
    roles: Vec<Role>,
    reason_required: Vec<Pattern>,
    clients: Vec<Client>,
    administrators: Vec<Administrator>,
    by_link_key: BTreeMap<PublicKey, ReplicaId>,
    by_client_key: BTreeMap<PublicKey, usize>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawCluster {
    origin: Spanned<String>,
    created: Spanned<Datetime>,
    #[serde(default)]
    reason_required: Vec<Spanned<String>>,
    #[serde(default)]
    settings: RawSettings,
    replicas: Spanned<Vec<RawMember>>,
    #[serde(default)]
    roles: Vec<RawRole>,
    #[serde(default)]
    clients: Vec<RawClient>,
    #[serde(default)]
    administrators: Vec<RawAdministrator>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawMember {
    name: Spanned<String>,
    address: Spanned<String>,
    link_key: Spanned<String>,
    protocol_key: Spanned<String>,
    log_key: Spanned<String>,
    cosign_key: Spanned<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRole {
    name: Spanned<String>,
    write: Spanned<Vec<Spanned<String>>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawClient {
    name: Spanned<String>,
    key: Spanned<String>,
    role: Spanned<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawAdministrator {
    name: Spanned<String>,
    key: Spanned<String>,
}

impl Cluster {
    /// Reads the cluster file at `path`.
    ///
    /// # Errors
    /// It cannot be read, or names the line and key that is wrong.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        Self::parse(&read_bounded(path, MAX_CLUSTER_FILE)?, path)
    }

    /// Reads a cluster file's bytes; errors call it `file`.
    ///
    /// # Errors
    /// Names the line and key that is wrong.
    pub fn parse(bytes: &[u8], file: &Path) -> Result<Self, ConfigError> {
        if bytes.len() > MAX_CLUSTER_FILE {
            return Err(ConfigError::TooLong { file: file.to_owned(), max: MAX_CLUSTER_FILE });
        }
        let source = &Source::new(file, bytes)?;
        let raw: RawCluster = source.parse()?;
        check_origin(raw.origin.as_ref()).map_err(|e| source.error(raw.origin.span().start, "origin", e))?;
        let created: jiff::Timestamp = raw
            .created
            .as_ref()
            .to_string()
            .parse()
            .map_err(|_| source.error(raw.created.span().start, "created", Problem::Time))?;
        let settings = read_settings(raw.settings, source)?;
        let (count, replicas_at) = (raw.replicas.as_ref().len(), raw.replicas.span().start);
        let size = Size::new(count).ok_or_else(|| source.error(replicas_at, "replicas", Problem::Replicas(count)))?;

        let mut once = Once { source, first: BTreeMap::new() };
        let members = read_members(raw.replicas.into_inner(), &mut once)?;
        let roles = read_roles(raw.roles, &mut once)?;
        let clients_at = raw.clients.first().map_or(replicas_at, |client| client.name.span().start);
        let reason_required = read_reason_required(raw.reason_required, source)?;
        let clients = read_clients(raw.clients, &roles, &mut once)?;
        let administrators = read_administrators(raw.administrators, &mut once)?;
        let cluster = Self {
            genesis: sha256(&[context::GENESIS, bytes]),
            origin: raw.origin.into_inner(),
            created_ms: created.as_millisecond(),
            settings,
            size,
            by_link_key: members.iter().map(|member| (member.link_key, member.id)).collect(),
            by_client_key: clients.iter().enumerate().map(|(at, client)| (client.key, at)).collect(),
            members,
            roles,
            reason_required,
            clients,
            administrators,
        };
        let mut entry = Vec::new();
        cluster.put_config_entry(&mut entry);
        if entry.len() > MAX_ENTRY {
            let problem = Problem::TooLarge { clients: cluster.clients.len(), bytes: entry.len() };
            return Err(source.error(clients_at, "clients", problem));
        }
        Ok(cluster)
    }

    /// The genesis hash: `SHA-256("atlas-genesis/1" || the file's bytes)`.
    pub fn genesis(&self) -> Digest {
        self.genesis
    }

    /// The cluster's name, which signed bundles and notes carry.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// When the cluster was created: the agreed time before the first batch, in milliseconds.
    pub fn created_ms(&self) -> TimeMs {
        self.created_ms
    }

    /// The agreed settings.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The same cluster with a checkpoint interval that its file may not have, for simulations.
    #[must_use]
    pub(crate) fn with_interval(mut self, interval: u64) -> Self {
        self.settings.checkpoint_interval = interval;
        self.settings.window = interval;
        self
    }

    /// n, f and the quorums.
    pub fn size(&self) -> Size {
        self.size
    }

    /// Number of replicas.
    pub fn n(&self) -> usize {
        self.size.n()
    }

    /// Number of Byzantine replicas that are borne.
    pub fn f(&self) -> usize {
        self.size.f()
    }

    /// Votes in a quorum.
    pub fn quorum(&self) -> usize {
        self.size.quorum()
    }

    /// The leader of a view.
    pub fn leader(&self, view: View) -> ReplicaId {
        self.size.leader(view)
    }

    /// The replicas in order of their index.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// A replica, if there is one of this index.
    pub fn member(&self, id: ReplicaId) -> Option<&Member> {
        self.members.get(id.index())
    }

    /// The replica with this link key.
    pub fn replica_by_link_key(&self, key: &PublicKey) -> Option<ReplicaId> {
        self.by_link_key.get(key).copied()
    }

    /// The clients in the order of the file.
    pub fn clients(&self) -> &[Client] {
        &self.clients
    }

    /// The client with this key.
    pub fn client_by_key(&self, key: &PublicKey) -> Option<&Client> {
        self.client_index(key).and_then(|at| self.clients.get(at))
    }

    /// The place in [`Cluster::clients`] of the client with this key.
    pub fn client_index(&self, key: &PublicKey) -> Option<usize> {
        self.by_client_key.get(key).copied()
    }

    /// The administrators of the genesis in the order of the file; without any, no key can ever be changed.
    pub fn administrators(&self) -> &[Administrator] {
        &self.administrators
    }

    /// The name that the file gives a client's or administrator's key. Keys that were registered later are in the order alone.
    pub fn name_of(&self, key: &PublicKey) -> Option<&str> {
        let administrator = || self.administrators.iter().find(|it| it.key == *key).map(|it| it.name.as_str());
        self.client_by_key(key).map(|client| client.name.as_str()).or_else(administrator)
    }

    /// Whether a key may be somebody's: the file names it, or has administrators who may have registered it since.
    pub fn may_know(&self, key: &PublicKey) -> bool {
        !self.administrators.is_empty() || self.client_by_key(key).is_some()
    }

    /// What is changed with a reason only.
    pub fn reason_required(&self) -> &[Pattern] {
        &self.reason_required
    }

    /// The roles in the order of the file; [`RoleId`] is the place.
    pub fn roles(&self) -> &[Role] {
        &self.roles
    }

    /// The name of a role of this cluster.
    pub(super) fn role_name(&self, role: RoleId) -> &str {
        self.roles.get(usize::from(role.0)).map_or("", |role| role.name.as_str())
    }

    /// Whether the role may write the property of the twin.
    pub fn may_write(&self, role: RoleId, twin: &str, property: &str) -> bool {
        self.roles.get(usize::from(role.0)).is_some_and(|role| role.may_write(twin, property))
    }

    /// The same cluster with settings that no file may have: small ones that tests reach the end of.
    #[cfg(test)]
    pub(crate) fn with_settings(self, settings: Settings) -> Self {
        Self { settings, ..self }
    }

    /// The C2SP tlog-policy: what an auditor trusts.
    pub fn policy_text(&self) -> String {
        policy_text(&self.origin, self.size, &self.members)
    }
}

fn read_settings(raw: RawSettings, source: &Source<'_>) -> Result<Settings, ConfigError> {
    let window_at = raw.window.as_ref().map(|window| window.span().start);
    let mut settings = Settings::read(raw, source)?;
    let value = settings.checkpoint_interval;
    match window_at {
        Some(at) if settings.window != value => {
            let problem = Problem::NotSame { found: settings.window, other: "checkpoint_interval", value };
            return Err(source.error(at, "settings.window", problem));
        }
        _ => settings.window = value,
    }
    Ok(settings)
}

/// What must be used once, with where it was used.
struct Once<'a> {
    source: &'a Source<'a>,
    first: BTreeMap<(&'static str, Vec<u8>), usize>,
}

impl Once<'_> {
    fn take(&mut self, what: &'static str, value: &[u8], at: usize, key: &str) -> Result<(), ConfigError> {
        match self.first.insert((what, value.to_vec()), at) {
            None => Ok(()),
            Some(first) => {
                let first = self.source.line(first);
                Err(self.source.error(at, key, Problem::Repeated { what, first }))
            }
        }
    }

    fn name(&mut self, what: &'static str, raw: Spanned<String>, key: &str) -> Result<String, ConfigError> {
        let (at, name) = (raw.span().start, raw.into_inner());
        let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        if !(1..=MAX_NAME).contains(&name.len()) || !name.bytes().all(fits) {
            return Err(self.source.error(at, key, Problem::Name(name.chars().take(MAX_NAME).collect())));
        }
        self.take(what, name.as_bytes(), at, key)?;
        Ok(name)
    }

    fn key(&mut self, raw: &Spanned<String>, key: &str) -> Result<PublicKey, ConfigError> {
        let at = raw.span().start;
        let public: PublicKey =
            raw.as_ref().parse().map_err(|e: crate::types::PublicKeyError| self.source.error(at, key, e))?;
        check_public_key(&public).map_err(|weak| self.source.error(at, key, weak))?;
        self.take("public key", &public.0, at, key)?;
        Ok(public)
    }
}

/// The value at its place, parsed.
pub(super) fn read_address(raw: &Spanned<String>, key: &str, source: &Source<'_>) -> Result<Address, ConfigError> {
    raw.as_ref().parse().map_err(|problem: Problem| source.error(raw.span().start, key, problem))
}

fn read_members(raw: Vec<RawMember>, once: &mut Once<'_>) -> Result<Vec<Member>, ConfigError> {
    let mut members = Vec::with_capacity(raw.len());
    for (id, raw) in (0u8..).map(ReplicaId).zip(raw) {
        let key = |field: &str| format!("replicas[{id}].{field}");
        let name = once.name("replica name", raw.name, &key("name"))?;
        let address = read_address(&raw.address, &key("address"), once.source)?;
        once.take("address", address.to_string().as_bytes(), raw.address.span().start, &key("address"))?;
        members.push(Member {
            id,
            name,
            address,
            link_key: once.key(&raw.link_key, &key("link_key"))?,
            protocol_key: once.key(&raw.protocol_key, &key("protocol_key"))?,
            log_key: once.key(&raw.log_key, &key("log_key"))?,
            cosign_key: once.key(&raw.cosign_key, &key("cosign_key"))?,
        });
    }
    Ok(members)
}

fn read_roles(raw: Vec<RawRole>, once: &mut Once<'_>) -> Result<Vec<Role>, ConfigError> {
    let found = raw.len();
    let mut roles = Vec::with_capacity(found.min(MAX_ROLES));
    for (index, raw) in raw.into_iter().enumerate() {
        let (at, key) = (raw.name.span().start, |field: &str| format!("roles[{index}].{field}"));
        if index == MAX_ROLES {
            let problem = Problem::TooMany { what: "roles", found, max: MAX_ROLES };
            return Err(once.source.error(at, "roles", problem));
        }
        let name = once.name("role name", raw.name, &key("name"))?;
        let patterns = raw.write.as_ref().len();
        if patterns > MAX_PATTERNS {
            let problem = Problem::TooMany { what: "patterns", found: patterns, max: MAX_PATTERNS };
            return Err(once.source.error(raw.write.span().start, key("write"), problem));
        }
        let mut write = Vec::with_capacity(patterns);
        for pattern in raw.write.into_inner() {
            let parsed = pattern.as_ref().parse();
            write.push(
                parsed.map_err(|e: super::roles::PatternError| {
                    once.source.error(pattern.span().start, key("write"), e)
                })?,
            );
        }
        roles.push(Role { name, write });
    }
    Ok(roles)
}

fn read_reason_required(raw: Vec<Spanned<String>>, source: &Source<'_>) -> Result<Vec<Pattern>, ConfigError> {
    let found = raw.len();
    if let Some(one) = raw.get(MAX_REASON_PATTERNS) {
        let problem = Problem::TooMany { what: "patterns", found, max: MAX_REASON_PATTERNS };
        return Err(source.error(one.span().start, "reason_required", problem));
    }
    let parse = |pattern: Spanned<String>| {
        let parsed = pattern.as_ref().parse();
        parsed.map_err(|e: super::roles::PatternError| source.error(pattern.span().start, "reason_required", e))
    };
    raw.into_iter().map(parse).collect()
}

fn read_administrators(raw: Vec<RawAdministrator>, once: &mut Once<'_>) -> Result<Vec<Administrator>, ConfigError> {
    let mut administrators = Vec::with_capacity(raw.len());
    for (index, raw) in raw.into_iter().enumerate() {
        let key = |field: &str| format!("administrators[{index}].{field}");
        // Clients and administrators are one list of people.
        let name = once.name("client name", raw.name, &key("name"))?;
        administrators.push(Administrator { name, key: once.key(&raw.key, &key("key"))? });
    }
    Ok(administrators)
}

fn read_clients(raw: Vec<RawClient>, roles: &[Role], once: &mut Once<'_>) -> Result<Vec<Client>, ConfigError> {
    let mut clients = Vec::with_capacity(raw.len());
    let by_name: BTreeMap<&str, RoleId> = roles.iter().map(|role| role.name.as_str()).zip((0..).map(RoleId)).collect();
    for (index, raw) in raw.into_iter().enumerate() {
        let key = |field: &str| format!("clients[{index}].{field}");
        let name = once.name("client name", raw.name, &key("name"))?;
        let role = by_name.get(raw.role.as_ref().as_str()).copied().ok_or_else(|| {
            let all = by_name.keys().copied().collect::<Vec<_>>().join(", ");
            let given = raw.role.as_ref().chars().take(MAX_NAME).collect();
            once.source.error(raw.role.span().start, key("role"), Problem::UnknownRole(given, all))
        })?;
        clients.push(Client { name, key: once.key(&raw.key, &key("key"))?, role });
    }
    Ok(clients)
}
