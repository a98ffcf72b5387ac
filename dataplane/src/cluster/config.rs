//! Entry 0 of the history: what auditors find of the cluster file.

use super::file::Cluster;
use crate::cbor::Writer;
use crate::history::entry::{Member, put_config};

impl Cluster {
    /// Appends the CONFIG entry of the genesis. It has at most [`MAX_ENTRY`](crate::wire::limits::MAX_ENTRY) bytes: a
    /// cluster file that says more is refused.
    ///
    /// Its settings are every agreed number by its key, `origin`, `genesis` (the hash of the file), `roles` as
    /// `[[name, [pattern ...]] ...]` and `clients` as `[[key, name, role's name] ...]`; where there are any, also
    /// `administrator_names`, in the order of the administrators' keys, and `reason_required` as `[pattern ...]`.
    /// [`Identities::genesis`](crate::execution::identities::Identities::genesis) reads them back.
    pub fn put_config_entry(&self, out: &mut Vec<u8>) {
        let members = self.members().iter().map(|member| Member {
            index: member.id.0,
            name: &member.name,
            link_key: member.link_key,
            protocol_key: member.protocol_key,
            log_key: member.log_key,
            cosign_key: member.cosign_key,
        });
        let administrators: Vec<_> = self.administrators().iter().map(|it| it.key).collect();
        let (policy, settings) = (self.policy_text(), self.settings_map());
        put_config(out, 0, self.created_ms(), 0, &policy, members, &administrators, &settings);
    }

    fn settings_map(&self) -> Vec<u8> {
        let mut pairs: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
        let mut put = |name: &str, value: &dyn Fn(&mut Writer<'_>)| {
            let (mut key, mut bytes) = (Vec::new(), Vec::new());
            Writer(&mut key).text(name);
            value(&mut Writer(&mut bytes));
            pairs.push((key, bytes));
        };
        for (name, number) in self.settings().numbers() {
            put(name, &|out| {
                out.uint(number);
            });
        }
        put("origin", &|out| {
            out.text(self.origin());
        });
        put("genesis", &|out| {
            out.bytes(&self.genesis().0);
        });
        put("roles", &|out| {
            out.array(self.roles().len());
            for role in self.roles() {
                out.array(2).text(&role.name).array(role.patterns().len());
                for pattern in role.patterns() {
                    out.text(&pattern.to_string());
                }
            }
        });
        put("clients", &|out| {
            out.array(self.clients().len());
            for client in self.clients() {
                out.array(3).bytes(&client.key.0).text(&client.name).text(self.role_name(client.role));
            }
        });
        let names: Vec<_> = self.administrators().iter().map(|it| it.name.clone()).collect();
        let patterns = self.reason_required().iter().map(ToString::to_string).collect();
        for (name, texts) in [("administrator_names", names), ("reason_required", patterns)] {
            if !texts.is_empty() {
                put(name, &|out| {
                    out.array(texts.len());
                    texts.iter().for_each(|text| {
                        out.text(text);
                    });
                });
            }
        }
        // RFC 8949, 4.2.1: by the bytes of the encoded keys, which all differ.
        pairs.sort_unstable();
        let mut map = Vec::new();
        let mut out = Writer(&mut map);
        out.map(pairs.len());
        for (key, value) in &pairs {
            out.items(key).items(value);
        }
        map
    }
}
