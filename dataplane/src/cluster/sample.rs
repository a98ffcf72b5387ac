//! Cluster files for tests.

use std::fmt::Write as _;
use std::path::Path;

use super::{Cluster, ConfigError};
use crate::crypto::SecretKey;
use crate::types::PublicKey;

/// The public key of the seed whose bytes are all `seed`.
pub(crate) fn public(seed: u8) -> PublicKey {
    SecretKey::from_seed(&[seed; 32]).public()
}

/// Name, seed of the key, and patterns of the role, which has the client's name without what stands from its last `-` on.
pub(crate) type SampleClient<'a> = (&'a str, u8, &'a [&'a str]);

/// A cluster file of four replicas `r-0` to `r-3` with the keys of seeds 1 to 16. Its replicas begin in the line below
/// `head`, take eight lines each, and then come a role and a client in nine lines for each of `clients`.
pub(crate) fn cluster_text(head: &str, clients: &[SampleClient<'_>]) -> String {
    let mut text = head.to_owned();
    for i in 0..4u8 {
        let [link, protocol, log, cosign] = [1, 2, 3, 4].map(|kind| public(4 * i + kind));
        // Writing into a String cannot fail.
        let _ = write!(
            text,
            "[[replicas]]\nname = \"r-{i}\"\naddress = \"10.0.0.{i}:7450\"\nlink_key = \"{link}\"\n\
             protocol_key = \"{protocol}\"\nlog_key = \"{log}\"\ncosign_key = \"{cosign}\"\n\n"
        );
    }
    for (name, seed, write) in clients {
        let role = name.rsplit_once('-').map_or(*name, |(role, _)| role);
        let key = public(*seed);
        let _ = write!(
            text,
            "[[roles]]\nname = \"{role}\"\nwrite = {write:?}\n\n\
             [[clients]]\nname = \"{name}\"\nkey = \"{key}\"\nrole = \"{role}\"\n\n"
        );
    }
    text
}

/// Reads a cluster file's text.
pub(crate) fn parse(text: &str) -> Result<Cluster, ConfigError> {
    Cluster::parse(text.as_bytes(), Path::new("cluster.toml"))
}
