//! Printed names of keys.

use std::collections::BTreeMap;

use atlas_dataplane::cbor::Reader;
use atlas_dataplane::cluster::Cluster;
use atlas_dataplane::history::entry::ConfigView;
use atlas_dataplane::types::PublicKey;

/// The most names; later ones are not learnt, and their keys are shown instead.
const MAX_NAMES: usize = 65_536;

/// The printed name of each key, where there is one.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Names(BTreeMap<PublicKey, String>);

impl Names {
    /// Those of the cluster file.
    pub fn of_cluster(cluster: &Cluster) -> Self {
        Self(cluster.clients().iter().map(|client| (client.key, client.name.clone())).collect())
    }

    /// Learns those of a CONFIG entry's clients; what is no list of clients is passed over.
    pub fn learn_config(&mut self, config: &ConfigView<'_>) {
        let Some(clients) = config.setting("clients") else { return };
        let reader = &mut Reader::new(clients);
        for _ in 0..reader.array().unwrap_or_default() {
            let Ok((key, name)) = read_client(reader) else { return };
            self.learn(key, &name);
        }
    }

    /// Learns a name.
    pub fn learn(&mut self, key: PublicKey, name: &str) {
        if self.0.len() < MAX_NAMES || self.0.contains_key(&key) {
            self.0.insert(key, name.to_owned());
        }
    }

    /// The name of a key.
    pub fn name(&self, key: &PublicKey) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    /// The keys that go by this name.
    pub fn keys(&self, name: &str) -> Vec<PublicKey> {
        self.0.iter().filter(|(_, found)| *found == name).map(|(key, _)| *key).collect()
    }
}

fn read_client(reader: &mut Reader<'_>) -> Result<(PublicKey, String), atlas_dataplane::cbor::CborError> {
    reader.array_of(3)?;
    let (key, name) = (PublicKey(reader.bytes32()?), reader.text()?.to_owned());
    reader.text()?;
    Ok((key, name))
}
