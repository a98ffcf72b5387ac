//! Writes a new cluster: cluster file, keys, one configuration per replica, the first identities.

use std::fmt::Write as _;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rand_core::{OsRng, RngCore as _};
use toml::Value;

use super::error::ConfigError;
use super::file::{Address, Cluster};
use super::policy::{OriginError, check_origin};
use super::replica::{KEY_FILES, NEVER_RAN};
use super::roles::{MAX_PATTERNS, MAX_REASON_PATTERNS, Pattern, PatternError};
use super::settings::{HistoryConfig, LocalConfig, LogConfig, NetConfig, Setting, Settings};
use super::size::{MAX_REPLICAS, MIN_REPLICAS, Size};
use crate::crypto::SecretKey;
use crate::crypto::keys::KeyError;
use crate::types::{Digest, PublicKey, TimeMs};

/// The name of the cluster file in a cluster's directory.
pub const CLUSTER_FILE: &str = "cluster.toml";
/// The name of a replica's configuration in its directory.
pub const REPLICA_FILE: &str = "config.toml";
/// Port of the first replica unless told otherwise.
pub const DEFAULT_PORT: u16 = 7450;
/// The client that may write everything.
pub const OPERATOR: &str = "operator";
/// The client for gateways, which may write what [`InitOptions::gateway_write`] says.
pub const GATEWAY: &str = "gateway";

/// The administrator, whose statements register, rotate and revoke keys; it writes nothing.
pub const ADMINISTRATOR: &str = "administrator";

/// What a new cluster is to be.
#[derive(Clone, Debug)]
pub struct InitOptions {
    /// Number of replicas, 4 to 32.
    pub replicas: usize,
    /// Port of replica 0 on 127.0.0.1; the others follow.
    pub base_port: u16,
    /// The cluster's name.
    pub origin: String,
    /// When it is created, in milliseconds since the Unix epoch.
    pub created_ms: TimeMs,
    /// Patterns of what the gateway may write.
    pub gateway_write: Vec<String>,
    /// Patterns of what is changed with a reason only.
    pub reason_required: Vec<String>,
}

impl InitOptions {
    /// Four replicas from [`DEFAULT_PORT`] on, a fresh name, and a gateway that may write everything.
    pub fn new(created_ms: TimeMs) -> Self {
        let (origin, gateway_write) = (fresh_origin("atlas.example/plant"), vec!["*".to_owned()]);
        let reason_required = Vec::new();
        Self { replicas: MIN_REPLICAS, base_port: DEFAULT_PORT, origin, created_ms, gateway_write, reason_required }
    }
}

/// `stem` and eight random hexadecimal digits: two clusters that were named by nobody must not have one name, or what is
/// signed for one could count in the other.
pub fn fresh_origin(stem: &str) -> String {
    let mut random = [0; 4];
    // Without random bytes no key can be drawn either, which `init` reports.
    let _ = OsRng.try_fill_bytes(&mut random);
    format!("{stem}-{:08x}", u32::from_be_bytes(random))
}

/// What was written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct InitSummary {
    /// The cluster's directory.
    pub dir: PathBuf,
    /// The cluster file.
    pub cluster_file: PathBuf,
    /// The genesis hash.
    pub genesis: Digest,
    /// Each replica's configuration, by index.
    pub replica_files: Vec<PathBuf>,
    /// Each client's name and key file, the administrator's last.
    pub client_keys: Vec<(String, PathBuf)>,
}

/// Why no cluster was written. Nothing is left behind.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// There is a cluster already.
    #[error("{} already holds a cluster; choose another directory or move it away", .0.display())]
    Exists(PathBuf),
    /// The directory holds something else.
    #[error("{} is not empty; choose a new or empty directory", .0.display())]
    NotEmpty(PathBuf),
    /// The target is the directory that the process runs in, which cannot be replaced under it.
    #[error("{} is the current directory; name a directory below it, or run from another one", .0.display())]
    CurrentDirectory(PathBuf),
    /// Too few or too many replicas.
    #[error("{0} replicas; a cluster has {MIN_REPLICAS} to {MAX_REPLICAS}")]
    Replicas(usize),
    /// Ports that do not exist.
    #[error("ports {base}.. for {replicas} replicas; the first is at least 1 and the last at most 65535")]
    Ports {
        /// Port of replica 0.
        base: u16,
        /// Number of replicas.
        replicas: usize,
    },
    /// The origin breaks the rules.
    #[error(transparent)]
    Origin(#[from] OriginError),
    /// A pattern breaks the rules.
    #[error("{text:?}: {fault}")]
    Pattern {
        /// The pattern.
        text: String,
        /// What is wrong with it.
        fault: PatternError,
    },
    /// Too many patterns for the gateway, or for reasons.
    #[error("{0} patterns; at most {MAX_PATTERNS}")]
    Patterns(usize),
    /// The time of creation is out of range.
    #[error("{0} ms is no time of creation; set the clock")]
    Created(TimeMs),
    /// A file or directory cannot be made.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A key cannot be drawn or written.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// What was written does not read back: a fault of ours.
    #[error("the new cluster file does not read back: {0}")]
    ReadBack(#[from] ConfigError),
}

fn write_error(path: &Path) -> impl FnOnce(io::Error) -> InitError {
    let path = path.to_owned();
    |source| InitError::Write { path, source }
}

/// The auditor's policy, in the directory that [`init`] writes.
pub const POLICY_FILE: &str = "policy.txt";

/// Writes a new cluster into `dir`, which does not exist or is empty.
///
/// # Errors
/// See [`InitError`]; `dir` is then as it was.
pub fn init(dir: &Path, options: &InitOptions) -> Result<InitSummary, InitError> {
    let size = check_options(options)?;
    let dir = check_target(dir)?;
    let staging = Staging::create(&dir)?;
    let genesis = write_cluster(&staging.path, options, size)?;
    staging.publish(&dir)?;
    Ok(InitSummary {
        cluster_file: dir.join(CLUSTER_FILE),
        genesis,
        replica_files: (0..size.n()).map(|i| dir.join(replica_dir(i)).join(REPLICA_FILE)).collect(),
        client_keys: [OPERATOR, GATEWAY, ADMINISTRATOR]
            .map(|name| (name.to_owned(), dir.join(client_key(name))))
            .to_vec(),
        dir,
    })
}

fn replica_dir(index: usize) -> String {
    format!("replica-{index}")
}

fn client_key(name: &str) -> String {
    format!("clients/{name}.key")
}

fn check_options(options: &InitOptions) -> Result<Size, InitError> {
    let InitOptions { replicas, base_port: base, ref origin, ref gateway_write, ref reason_required, .. } = *options;
    let size = Size::new(replicas).ok_or(InitError::Replicas(replicas))?;
    if base == 0 || usize::from(base) + replicas - 1 > usize::from(u16::MAX) {
        return Err(InitError::Ports { base, replicas });
    }
    check_origin(origin)?;
    for patterns in [gateway_write, reason_required] {
        if patterns.len() > MAX_PATTERNS {
            return Err(InitError::Patterns(patterns.len()));
        }
    }
    for text in gateway_write.iter().chain(reason_required) {
        text.parse::<Pattern>().map_err(|fault| InitError::Pattern { text: text.clone(), fault })?;
    }
    Ok(size)
}

/// The target without symbolic links, if nothing is in it.
fn check_target(dir: &Path) -> Result<PathBuf, InitError> {
    let dir = match fs::canonicalize(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(dir.to_owned()),
        Err(error) => return Err(write_error(dir)(error)),
        Ok(dir) => dir,
    };
    if dir.join(CLUSTER_FILE).exists() {
        return Err(InitError::Exists(dir));
    }
    if fs::read_dir(&dir).map_err(write_error(&dir))?.next().is_some() {
        return Err(InitError::NotEmpty(dir));
    }
    if std::env::current_dir().is_ok_and(|current| current == dir) {
        return Err(InitError::CurrentDirectory(dir));
    }
    Ok(dir)
}

const _: () = assert!(MAX_PATTERNS <= MAX_REASON_PATTERNS);

/// A directory beside the target, removed with all in it unless it is published.
struct Staging {
    path: PathBuf,
    published: bool,
}

impl Staging {
    fn create(target: &Path) -> Result<Self, InitError> {
        let parent = parent_of(target);
        let name = target.file_name().unwrap_or_default().to_string_lossy();
        let path = parent.join(format!(".{name}.atlas-init-{}", std::process::id()));
        fs::create_dir_all(parent).map_err(write_error(parent))?;
        make_dir(&path)?;
        Ok(Self { path, published: false })
    }

    fn publish(mut self, target: &Path) -> Result<(), InitError> {
        // Replaces an empty directory and nothing else.
        fs::rename(&self.path, target).map_err(write_error(target))?;
        self.published = true;
        sync_dir(parent_of(target))
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if !self.published {
            // What cannot be removed is beside the target and is in nobody's way.
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}

fn make_dir(path: &Path) -> Result<(), InitError> {
    DirBuilder::new().mode(0o700).create(path).map_err(write_error(path))
}

fn sync_dir(path: &Path) -> Result<(), InitError> {
    File::open(path).and_then(|dir| dir.sync_all()).map_err(write_error(path))
}

fn write_file(path: &Path, text: &str) -> Result<(), InitError> {
    let mut file = OpenOptions::new().write(true).create_new(true).open(path).map_err(write_error(path))?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(write_error(path))
}

fn new_key(path: &Path) -> Result<PublicKey, InitError> {
    let key = SecretKey::generate()?;
    key.store(path)?;
    Ok(key.public())
}

fn write_cluster(dir: &Path, options: &InitOptions, size: Size) -> Result<Digest, InitError> {
    let mut text = cluster_head(options)?;
    for index in 0..size.n() {
        let home = dir.join(replica_dir(index));
        let keys = home.join("keys");
        make_dir(&home)?;
        make_dir(&keys)?;
        let mut public = [PublicKey([0; 32]); KEY_FILES.len()];
        for (public, file) in public.iter_mut().zip(KEY_FILES) {
            *public = new_key(&keys.join(file))?;
        }
        // The sum was checked to be a port.
        let port = options.base_port.saturating_add(index as u16);
        let address = Address { host: "127.0.0.1".to_owned(), port };
        push_replica(&mut text, index, &address, &public);
        write_file(&home.join(REPLICA_FILE), &replica_text(index, &address))?;
        write_file(&keys.join(NEVER_RAN), "This identity has never run. Its first start removes this file.\n")?;
        sync_dir(&keys)?;
        sync_dir(&home)?;
    }
    let clients = dir.join("clients");
    make_dir(&clients)?;
    let everything = ["*".to_owned()];
    for (name, write) in [(OPERATOR, everything.as_slice()), (GATEWAY, &options.gateway_write)] {
        let key = new_key(&dir.join(client_key(name)))?;
        push_client(&mut text, name, write, &key);
    }
    push_administrator(&mut text, ADMINISTRATOR, &new_key(&dir.join(client_key(ADMINISTRATOR)))?);
    sync_dir(&clients)?;
    let path = dir.join(CLUSTER_FILE);
    write_file(&path, &text)?;
    let cluster = Cluster::load(&path)?;
    write_file(&dir.join(POLICY_FILE), &cluster.policy_text())?;
    sync_dir(dir)?;
    Ok(cluster.genesis())
}

/// A text as TOML writes it.
fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

fn quoted_list(texts: &[String]) -> String {
    texts.iter().map(|text| quoted(text)).collect::<Vec<_>>().join(", ")
}

fn cluster_head(options: &InitOptions) -> Result<String, InitError> {
    let InitOptions { ref origin, created_ms, .. } = *options;
    let created = jiff::Timestamp::from_millisecond(created_ms).map_err(|_| InitError::Created(created_ms))?;
    let mut text = format!(
        "# The cluster file of an Atlas cluster: its genesis.\n\
         #\n\
         # Every replica and every client of the cluster holds this file byte for byte: its hash is bound into every\n\
         # link and every data directory. Changing anything, be it a comment, makes another cluster.\n\
         \n\
         # The cluster's name: in everything that is signed. No spaces, no '+'.\n\
         origin = {}\n\
         created = {created}\n\
         \n\
         # What is changed with a reason only, as patterns TWIN or TWIN:PROPERTY, such as \"plant/*:brake*\".\n\
         reason_required = [{}]\n\
         \n\
         [{}]\n",
        quoted(origin),
        quoted_list(&options.reason_required),
        Settings::SECTION,
    );
    push_settings(&mut text, Settings::TABLE, "");
    text.push_str(
        "\n# The replicas: their order is their index. Public keys, base64; each is used for one thing only.\n",
    );
    Ok(text)
}

/// Each setting with what it means and its bounds; `prefix` may comment the values out.
fn push_settings(text: &mut String, table: &[Setting], prefix: &str) {
    for Setting { key, doc, default, min, max, unit } in table {
        for line in *doc {
            push(text, format_args!("#{line}\n"));
        }
        push(text, format_args!("# From {min} to {max} {unit}.\n{prefix}{key} = {default}\n"));
    }
}

fn push(text: &mut String, line: std::fmt::Arguments<'_>) {
    // Writing into a String cannot fail.
    let _ = text.write_fmt(line);
}

fn push_replica(text: &mut String, index: usize, address: &Address, public: &[PublicKey; KEY_FILES.len()]) {
    let [link, protocol, log, cosign] = public;
    push(
        text,
        format_args!(
            "[[replicas]]\n\
             name = \"replica-{index}\"\n\
             address = \"{address}\"\n\
             link_key = \"{link}\"\n\
             protocol_key = \"{protocol}\"\n\
             log_key = \"{log}\"\n\
             cosign_key = \"{cosign}\"\n\n"
        ),
    );
}

fn push_client(text: &mut String, name: &str, write: &[String], key: &PublicKey) {
    let patterns = quoted_list(write);
    push(
        text,
        format_args!(
            "# What role {name} may write: TWIN or TWIN:PROPERTY; a part that ends in * covers all that begins so.\n\
             [[roles]]\n\
             name = \"{name}\"\n\
             write = [{patterns}]\n\
             \n\
             [[clients]]\n\
             name = \"{name}\"\n\
             key = \"{key}\"\n\
             role = \"{name}\"\n\n"
        ),
    );
}

fn push_administrator(text: &mut String, name: &str, key: &PublicKey) {
    push(
        text,
        format_args!(
            "# Who registers, rotates and revokes keys while the cluster runs. Keep the private key where no client runs.\n\
             [[administrators]]\n\
             name = \"{name}\"\n\
             key = \"{key}\"\n\n"
        ),
    );
}

fn replica_text(index: usize, address: &Address) -> String {
    let mut text = format!(
        "# How replica {index} runs on this host. Nothing here changes what replicas agree on.\n\
         # Relative paths start at this file's directory. What is commented out shows the default.\n\
         \n\
         replica = {index}\n\
         cluster = \"../{CLUSTER_FILE}\"\n\
         keys = \"keys\"\n\
         data = \"data\"\n\
         # Where to listen, if not at the address in the cluster file.\n\
         # listen = \"{address}\"\n\
         # Pins the data path to a core.\n\
         # core = 0\n\
         # Where all other threads run, which keep off that core; without it on those that the process is started with.\n\
         # helper_cores = \"1,3-5\"\n\
         # Checks clients' signatures on cores of their own, a thread each, beside the data path's core; without it the data path does.\n\
         # verify_cores = \"2-3\"\n\
         \n\
         [{}]\n\
         # How the tail becomes durable: \"direct\" or \"mapped\".\n\
         # device = \"direct\"\n",
        LogConfig::SECTION,
    );
    push_settings(&mut text, LogConfig::TABLE, "# ");
    push(
        &mut text,
        format_args!(
            "\n[{}]\n\
             # Where old entries of the history go: a directory on other storage, which must be there. Without it all stay.\n\
             # cold = \"/archive/atlas\"\n",
            HistoryConfig::SECTION
        ),
    );
    push_settings(&mut text, HistoryConfig::TABLE, "# ");
    for (section, table) in [(NetConfig::SECTION, NetConfig::TABLE), (LocalConfig::SECTION, LocalConfig::TABLE)] {
        push(&mut text, format_args!("\n[{section}]\n"));
        push_settings(&mut text, table, "# ");
    }
    text.push_str(
        "\n[control]\n\
         # The directory of control sockets and metrics; without it `run` in the data directory.\n\
         # directory = \"/run/atlas/replica\"\n\
         # Serves metrics there over HTTP, to whoever can connect; without it nowhere.\n\
         # metrics_listen = \"127.0.0.1:9464\"\n\
         # How lines for people are printed: \"human\" or \"json\"; and up to which level: error, warn, info or debug.\n\
         # log_format = \"human\"\n\
         # log_level = \"info\"\n\
         # Who may connect to each level's socket: its mode, and the number of its group.\n\
         # viewer_mode = 0o666\n\
         # operator_mode = 0o660\n\
         # operator_group = 0\n\
         # admin_mode = 0o600\n",
    );
    text.push_str("\n# Where to reach replicas, if not at their addresses in the cluster file.\n[addresses]\n");
    text.push_str("# replica-1 = \"10.0.0.7:7450\"\n");
    text
}
