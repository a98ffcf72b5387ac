//! Who makes up a cluster and how each replica runs: the two configuration files and `init`, which writes them.
//!
//! # The cluster file ([`mod@file`])
//! TOML, the genesis of a cluster: its name (origin), when it was created, the settings that stand in the agreed order,
//! the replicas with addresses and public keys, the roles, the first clients and the administrators. Its hash,
//! `SHA-256("atlas-genesis/1" || the file's bytes)`, is bound into links and data directories, so all processes of a
//! cluster hold the same file byte for byte, comments included. Whoever changes it makes another cluster.
//!
//! # A replica's file ([`replica`])
//! TOML, local to one host: which replica it is, where keys and data lie, timing and resources. Nothing in it changes
//! what replicas agree on.
//!
//! # How they are read
//! Parsed, not validated: what comes out has no invalid state ([`file::Cluster`], [`replica::ReplicaSetup`]). Unknown
//! keys are errors, so a misspelt setting never passes for its default. Every error names the file, the line, the key,
//! what is wrong and what would be right ([`error::ConfigError`]). A time or size has its unit in the key's name; each
//! number has a default, bounds and a description in one table ([`settings`]), from which `init` writes the comments.
//!
//! # Keys
//! A replica has four key pairs (link, protocol, log lines, cosignatures), a client or administrator one. All public keys of a cluster
//! differ, across kinds too: a signature under a key then tells its purpose. Keys of small order are refused.
//!
//! # Limits
//! The cluster file has at most [`file::MAX_CLUSTER_FILE`] bytes; 4 to 32 replicas ([`size::Size`]), any number of them,
//! though n = 3f+1 costs least for what it bears; counts of roles and patterns as [`roles`] names them. Clients are bounded
//! by entry 0 of the history ([`Cluster::put_config_entry`]), which names them all and has at most 65,535 bytes: about 1,000 of
//! them with names of 10 characters.
//!
//! # Writing a cluster ([`init`])
//! Everything is written into a directory beside the target, synced, and renamed in one step: a cluster is there whole
//! or not at all, and an existing one is never touched.
//!
//! # Sources
//! PBFT (Castro and Liskov, 2002) for the sizes of quorums; C2SP signed-note, tlog-cosignature and tlog-policy for
//! names, key ids and the policy ([`policy`]).

mod config;
pub mod control;
pub mod error;
pub mod file;
pub mod init;
pub mod placement;
pub mod policy;
pub mod replica;
pub mod roles;
pub mod settings;
pub mod size;

pub use control::ControlConfig;
pub use error::ConfigError;
pub use file::{Administrator, Client, Cluster, Member};
pub use replica::{ReplicaConfig, ReplicaKeys, ReplicaSetup};
pub use roles::RoleId;
pub use settings::Settings;
pub use size::Size;

#[cfg(test)]
pub(crate) mod sample;
#[cfg(test)]
mod tests;
