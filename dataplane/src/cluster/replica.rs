//! A replica's own configuration file, and everything that it leads to.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::{Spanned, Value};

use super::control::{ControlConfig, RawControl};
use super::error::{ConfigError, MAX_NAME, Problem, Source, read_bounded};
use super::file::{Address, Cluster, Member, read_address};
use super::placement::{CoreSet, Live, MAX_CORES, Placement};
use super::settings::{
    HistoryConfig, LocalConfig, LogConfig, NetConfig, RawHistory, RawLocal, RawLog, RawNet, Setting,
};
use super::size::MAX_REPLICAS;
use crate::crypto::SecretKey;
use crate::types::{PublicKey, ReplicaId};

/// Longest replica configuration, in bytes.
pub const MAX_REPLICA_FILE: usize = 64 << 10;

/// Which replica this is.
const REPLICA: Setting = Setting {
    key: "replica",
    doc: &["Which replica of the cluster file this is, from 0."],
    default: 0,
    min: 0,
    max: MAX_REPLICAS as u64 - 1,
    unit: "the replica's index",
};

/// The core that the replica's data path is pinned to.
const CORE: Setting = Setting {
    key: "core",
    doc: &["Pins the data path to this core; without it the system chooses."],
    default: 0,
    min: 0,
    max: MAX_CORES as u64 - 1,
    unit: "the core's number",
};

/// How a replica runs on its host. Changes timing and resources, never what replicas agree on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReplicaConfig {
    /// Which replica this is.
    pub replica: ReplicaId,
    /// The cluster file.
    pub cluster_file: PathBuf,
    /// The directory of log, history and state.
    pub data: PathBuf,
    /// The directory of the private keys.
    pub keys: PathBuf,
    /// Where to listen: the address in the cluster file unless `listen` says otherwise.
    pub listen: Address,
    /// Where each replica is reached, by index: the cluster file's addresses with `[addresses]` on top.
    pub addresses: Vec<Address>,
    /// The core for the data path, if it is pinned.
    pub core: Option<usize>,
    /// The cores for all other threads, where they are not those that the process is started with.
    pub helper_cores: Option<CoreSet>,
    /// The cores on each of which a thread checks clients' signatures; where there are none the data path does.
    pub verify_cores: CoreSet,
    /// `[log]`.
    pub log: LogConfig,
    /// `[history]`.
    pub history: HistoryConfig,
    /// `[net]`.
    pub net: NetConfig,
    /// `[local]`.
    pub local: LocalConfig,
    /// `[control]`.
    pub control: ControlConfig,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawReplica {
    replica: Spanned<Value>,
    cluster: PathBuf,
    data: PathBuf,
    keys: PathBuf,
    listen: Option<Spanned<String>>,
    core: Option<Spanned<Value>>,
    helper_cores: Option<Spanned<String>>,
    verify_cores: Option<Spanned<String>>,
    #[serde(default)]
    log: RawLog,
    history: Option<Spanned<RawHistory>>,
    #[serde(default)]
    net: RawNet,
    #[serde(default)]
    local: RawLocal,
    #[serde(default)]
    control: RawControl,
    #[serde(default)]
    addresses: BTreeMap<String, Spanned<String>>,
}

/// The four private keys of a replica.
#[derive(Debug)]
pub struct ReplicaKeys {
    /// `link.key`: identity on links.
    pub link: SecretKey,
    /// `protocol.key`: signs VIEW-CHANGE, NEW-VIEW and CHECKPOINT.
    pub protocol: SecretKey,
    /// `log.key`: signs log lines.
    pub log: SecretKey,
    /// `cosign.key`: cosigns checkpoints.
    pub cosign: SecretKey,
}

/// Names of the key files in a replica's key directory.
pub const KEY_FILES: [&str; 4] = ["link.key", "protocol.key", "log.key", "cosign.key"];

/// A file beside the keys: this identity has never run. `atlas init` makes it, the first start removes it; without it an empty log is
/// taken for a lost one, since the identity may have voted.
pub const NEVER_RAN: &str = "never-ran";

impl ReplicaKeys {
    /// Reads the four files of [`KEY_FILES`] in `dir` and compares them with what the cluster file says of the replica.
    ///
    /// # Errors
    /// [`ConfigError::Key`] or [`ConfigError::OtherKey`], with the file's path.
    pub fn load(dir: &Path, member: &Member) -> Result<Self, ConfigError> {
        let load = |name: &str, expected: PublicKey| {
            let path = dir.join(name);
            let key = SecretKey::load(&path)?;
            if key.public() == expected {
                Ok(key)
            } else {
                Err(ConfigError::OtherKey { path, expected, found: key.public() })
            }
        };
        let [link, protocol, log, cosign] = KEY_FILES;
        Ok(Self {
            link: load(link, member.link_key)?,
            protocol: load(protocol, member.protocol_key)?,
            log: load(log, member.log_key)?,
            cosign: load(cosign, member.cosign_key)?,
        })
    }
}

/// All that a replica needs to start.
#[derive(Debug)]
pub struct ReplicaSetup {
    /// How it runs.
    pub config: ReplicaConfig,
    /// The cluster that it belongs to.
    pub cluster: Cluster,
    /// Its private keys, which are those that the cluster file names.
    pub keys: ReplicaKeys,
    /// For measurements: no history is kept ([`crate::replica::process::run_without_history`]).
    pub(crate) without_history: bool,
}

impl ReplicaSetup {
    /// Reads a replica's configuration and the cluster file and key files that it names.
    ///
    /// # Errors
    /// The first thing wrong in any of them.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let (config, cluster) = ReplicaConfig::load(path)?;
        // The configuration was resolved against this cluster, so the member is there.
        let id = config.replica;
        let member = cluster.member(id).ok_or_else(|| ConfigError::At {
            file: path.to_owned(),
            line: 1,
            key: REPLICA.key.to_owned(),
            problem: no_such_replica(id.index() as u64, cluster.n()),
        })?;
        let keys = ReplicaKeys::load(&config.keys, member)?;
        Ok(Self { config, cluster, keys, without_history: false })
    }
}

fn no_such_replica(found: u64, n: usize) -> Problem {
    Problem::Number { found: found.to_string(), unit: REPLICA.unit, min: 0, max: n as u64 - 1 }
}

fn read_cores(
    cores: Option<Spanned<String>>,
    key: &'static str,
    source: &Source<'_>,
) -> Result<Option<CoreSet>, ConfigError> {
    let Some(cores) = cores else { return Ok(None) };
    let found = || Problem::Cores(cores.as_ref().chars().take(MAX_NAME).collect());
    let set = cores.as_ref().parse::<CoreSet>();
    set.map(Some).map_err(|_| source.error(cores.span().start, key, found()))
}

impl ReplicaConfig {
    /// What of it can change while the replica runs.
    pub fn live(&self) -> Live {
        let placement = Placement { core: self.core, helpers: self.helper_cores };
        Live { local: self.local.clone(), placement }
    }

    /// Reads the configuration at `path` and the cluster file that it names. Relative paths start at the file's
    /// directory.
    ///
    /// # Errors
    /// Names the file, line and key that is wrong.
    pub fn load(path: &Path) -> Result<(Self, Cluster), ConfigError> {
        let bytes = read_bounded(path, MAX_REPLICA_FILE)?;
        let source = Source::new(path, &bytes)?;
        let raw: RawReplica = source.parse()?;
        let base = path.parent().unwrap_or(Path::new(""));
        let cluster = Cluster::load(&base.join(&raw.cluster))?;
        Ok((Self::resolve(raw, base, &source, &cluster)?, cluster))
    }

    fn resolve(raw: RawReplica, base: &Path, source: &Source<'_>, cluster: &Cluster) -> Result<Self, ConfigError> {
        let at = raw.replica.span().start;
        let index = REPLICA.read("", Some(raw.replica), source)?;
        let member = cluster
            .members()
            .get(index as usize)
            .ok_or_else(|| source.error(at, REPLICA.key, no_such_replica(index, cluster.n())))?;
        let listen = match &raw.listen {
            Some(listen) => read_address(listen, "listen", source)?,
            None => member.address.clone(),
        };
        let core = match raw.core {
            Some(core) => Some(CORE.read("", Some(core), source)? as usize),
            None => None,
        };
        let helper_cores = read_cores(raw.helper_cores, "helper_cores", source)?;
        let at = raw.verify_cores.as_ref().map_or(0, |cores| cores.span().start);
        let verify_cores = read_cores(raw.verify_cores, "verify_cores", source)?.unwrap_or(CoreSet::EMPTY);
        if let Some(core) = core.filter(|core| verify_cores.has(*core)) {
            return Err(source.error(at, "verify_cores", Problem::CoreTaken { core }));
        }
        let data = base.join(&raw.data);
        let control = ControlConfig::read(raw.control, base, &data, source)?;
        Ok(Self {
            replica: member.id,
            cluster_file: base.join(raw.cluster),
            history: resolve_history(raw.history, base, &data, source)?,
            data,
            keys: base.join(raw.keys),
            listen,
            addresses: resolve_addresses(&raw.addresses, source, cluster)?,
            core,
            helper_cores,
            verify_cores,
            log: LogConfig::read(raw.log, source)?,
            net: resolve_net(raw.net, source)?,
            local: LocalConfig::read(raw.local, source)?,
            control,
        })
    }
}

fn resolve_history(
    raw: Option<Spanned<RawHistory>>,
    base: &Path,
    data: &Path,
    source: &Source<'_>,
) -> Result<HistoryConfig, ConfigError> {
    let Some(raw) = raw else { return Ok(HistoryConfig::default()) };
    let at = raw.span().start;
    let mut history = HistoryConfig::read(raw.into_inner(), source)?;
    if let Some(cold) = history.cold.take() {
        let place = base.join(&cold);
        if cold.as_os_str().is_empty() || place.starts_with(data) || data.starts_with(&place) {
            return Err(source.error(at, "history.cold", Problem::Cold(cold)));
        }
        history.cold = Some(place);
    }
    Ok(history)
}

fn resolve_net(raw: RawNet, source: &Source<'_>) -> Result<NetConfig, ConfigError> {
    let min_at = raw.reconnect_min_ms.as_ref().map(|min| min.span().start);
    let max_at = raw.reconnect_max_ms.as_ref().map(|max| max.span().start);
    let net = NetConfig::read(raw, source)?;
    if net.reconnect_min_ms > net.reconnect_max_ms {
        let at = min_at.or(max_at).unwrap_or(0);
        let problem =
            Problem::MoreThan { found: net.reconnect_min_ms, other: "reconnect_max_ms", limit: net.reconnect_max_ms };
        return Err(source.error(at, "net.reconnect_min_ms", problem));
    }
    Ok(net)
}

fn resolve_addresses(
    overrides: &BTreeMap<String, Spanned<String>>,
    source: &Source<'_>,
    cluster: &Cluster,
) -> Result<Vec<Address>, ConfigError> {
    let mut addresses: Vec<_> = cluster.members().iter().map(|member| member.address.clone()).collect();
    for (name, raw) in overrides {
        let short: String = name.chars().take(MAX_NAME).collect();
        let key = format!("addresses.{short}");
        let Some(place) = cluster.members().iter().position(|member| member.name == *name) else {
            let all = cluster.members().iter().map(|member| member.name.as_str()).collect::<Vec<_>>().join(", ");
            return Err(source.error(raw.span().start, key, Problem::UnknownReplica(short, all)));
        };
        addresses[place] = read_address(raw, &key, source)?;
    }
    Ok(addresses)
}
