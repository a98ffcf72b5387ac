//! Printed names of keys.

use std::collections::BTreeMap;

use atlas_dataplane::cbor::Reader;
use atlas_dataplane::cluster::Cluster;
use atlas_dataplane::history::entry::ConfigView;
use atlas_dataplane::types::PublicKey;
use atlas_dataplane::wire::statement::{KeyChange, SignedStatement};

/// The most names; later ones are not learnt, and their keys are shown instead.
const MAX_NAMES: usize = 65_536;

/// The printed name of each key, where there is one, and the cluster's own.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Names {
    origin: String,
    by_key: BTreeMap<PublicKey, String>,
}

impl Names {
    /// Those of the cluster file.
    pub fn of_cluster(cluster: &Cluster) -> Self {
        let mut names = Self { origin: cluster.origin().to_owned(), by_key: BTreeMap::new() };
        cluster.clients().iter().for_each(|client| names.learn(client.key, &client.name));
        cluster.administrators().iter().for_each(|administrator| names.learn(administrator.key, &administrator.name));
        names
    }

    /// The cluster's name.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// Learns those of a CONFIG entry's clients and administrators; what is no list of them is passed over.
    pub fn learn_config(&mut self, config: &ConfigView<'_>) {
        if let Some(Ok(origin)) = config.setting("origin").map(|origin| Reader::new(origin).text()) {
            self.origin = origin.to_owned();
        }
        if let Some(names) = config.setting("administrator_names") {
            let reader = &mut Reader::new(names);
            let count = reader.array().unwrap_or_default();
            let names = (0..count).map_while(|_| reader.text().ok());
            config.administrators().zip(names).for_each(|(key, name)| self.learn(key, name));
        }
        let Some(clients) = config.setting("clients") else { return };
        let reader = &mut Reader::new(clients);
        for _ in 0..reader.array().unwrap_or_default() {
            let Ok((key, name)) = read_client(reader) else { return };
            self.learn(key, &name);
        }
    }

    /// Learns what a KEY entry's statement says; one that cannot be read is passed over.
    pub fn learn_statement(&mut self, cose: &[u8]) {
        let Ok(signed) = SignedStatement::parse(cose, &self.origin) else { return };
        match signed.statement.change {
            KeyChange::Register { name, .. } => self.learn(signed.statement.key, &name),
            KeyChange::Rotate { replaces, .. } => {
                if let Some(name) = self.name(&replaces).map(str::to_owned) {
                    self.learn(signed.statement.key, &name);
                }
            }
            KeyChange::Revoke => {}
        }
    }

    /// Learns a name.
    pub fn learn(&mut self, key: PublicKey, name: &str) {
        if self.by_key.len() < MAX_NAMES || self.by_key.contains_key(&key) {
            self.by_key.insert(key, name.to_owned());
        }
    }

    /// The name of a key.
    pub fn name(&self, key: &PublicKey) -> Option<&str> {
        self.by_key.get(key).map(String::as_str)
    }

    /// The keys that go by this name.
    pub fn keys(&self, name: &str) -> Vec<PublicKey> {
        self.by_key.iter().filter(|(_, found)| *found == name).map(|(key, _)| *key).collect()
    }
}

fn read_client(reader: &mut Reader<'_>) -> Result<(PublicKey, String), atlas_dataplane::cbor::CborError> {
    reader.array_of(3)?;
    let (key, name) = (PublicKey(reader.bytes32()?), reader.text()?.to_owned());
    reader.text()?;
    Ok((key, name))
}
