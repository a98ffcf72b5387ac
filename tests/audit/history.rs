//! A real little history: executed by the replica's own code, cosigned, and altered at will.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use atlas::audit::export::{Source, export};
use atlas::twin::TwinStore;
use atlas::twin::operation::{Condition, Operation, SetProperty, Test, Write};
use atlas::twin::value::{Quality, Value};
use atlas_dataplane::cluster::Cluster;
use atlas_dataplane::crypto::SecretKey;
use atlas_dataplane::crypto::hash::leaf_hash;
use atlas_dataplane::execution::{Executed, Execution};
use atlas_dataplane::history::entry::EntryView;
use atlas_dataplane::history::note::{CheckpointBody, assemble, cosignature_line, cosignature_message, log_line};
use atlas_dataplane::history::proof::{inclusion, root};
use atlas_dataplane::history::store::MemoryStore;
use atlas_dataplane::history::tlog_policy::Policy;
use atlas_dataplane::history::tlog_proof::{Payload, render};
use atlas_dataplane::ordering::batch::Batch;
use atlas_dataplane::types::{Digest, EntryIndex, PublicKey, ReplicaId, TimeMs};
use atlas_dataplane::wire::bundle::{Bundle, OPEN_SESSION, Request};
use atlas_dataplane::wire::statement::{KeyChange, KeyStatement, Validity, operation};

pub(crate) const ORIGIN: &str = "test.example/plant-7";
/// When the cluster was created: 2015-03-31T00:00:00Z.
pub(crate) const CREATED_MS: TimeMs = 1_427_760_000_000;
/// When replicas cosign, seconds.
pub(crate) const SIGNED_S: u64 = 1_427_770_000;
/// Seed of the operator's key, who may write everything.
pub(crate) const OPERATOR: u8 = 100;
/// Seed of the gateway's key, who may write below `gate/`.
pub(crate) const GATEWAY: u8 = 101;

/// Seed of the administrator's key.
pub(crate) const ADMINISTRATOR: u8 = 102;
/// Seed of the key that is registered, used and revoked.
pub(crate) const GUEST: u8 = 103;

pub(crate) fn key(seed: u8) -> SecretKey {
    SecretKey::from_seed(&[seed; 32])
}

/// Of kind 0 link, 1 protocol, 2 log, 3 cosign.
pub(crate) fn replica_key(replica: u8, kind: u8) -> SecretKey {
    key(1 + 4 * replica + kind)
}

pub(crate) fn cluster() -> Cluster {
    cluster_with("checkpoint_interval = 64\nsession_window = 64\nstate_interval_ms = 1000\n")
}

pub(crate) fn cluster_with(settings: &str) -> Cluster {
    let mut text = format!("origin = {ORIGIN:?}\ncreated = 2015-03-31T00:00:00Z\n\n[settings]\n{settings}\n");
    for i in 0..4u8 {
        let [link, protocol, log, cosign] = [0, 1, 2, 3].map(|kind| replica_key(i, kind).public());
        let _ = write!(
            text,
            "[[replicas]]\nname = \"r-{i}\"\naddress = \"10.0.0.{i}:7450\"\nlink_key = \"{link}\"\n\
             protocol_key = \"{protocol}\"\nlog_key = \"{log}\"\ncosign_key = \"{cosign}\"\n\n"
        );
    }
    for (name, seed, pattern) in [("operator", OPERATOR, "*"), ("gateway", GATEWAY, "gate/*")] {
        let key = key(seed).public();
        let _ = write!(
            text,
            "[[roles]]\nname = \"{name}\"\nwrite = [{pattern:?}]\n\n\
             [[clients]]\nname = \"{name}\"\nkey = \"{key}\"\nrole = \"{name}\"\n\n"
        );
    }
    let _ = write!(text, "[[administrators]]\nname = \"admin\"\nkey = \"{}\"\n", public(ADMINISTRATOR));
    Cluster::parse(text.as_bytes(), Path::new("cluster.toml")).expect("a cluster file")
}

pub(crate) fn set(twin: &str, path: &str, value: Value) -> Operation {
    let property = SetProperty { path: path.to_owned(), value, quality: Quality::Good, source_time_ns: None };
    Operation::Write(Write::Set { twin: twin.to_owned(), properties: vec![property], reason: None })
}

/// A request of an operation, with a deadline or without.
pub(crate) fn request(operation: &Operation, not_after_ms: Option<TimeMs>) -> Vec<u8> {
    Request { class: 0, not_after_ms, operation: &operation.encode() }.encode()
}

pub(crate) fn opening() -> Vec<u8> {
    Request { class: 0, not_after_ms: None, operation: &OPEN_SESSION }.encode()
}

pub(crate) fn signed(
    seed: u8,
    origin: &str,
    session: Option<u64>,
    first: u64,
    requests: &[Vec<u8>],
    time_ms: TimeMs,
) -> Bundle {
    let secret = key(seed);
    let bundle = Bundle::sign(origin, secret.public(), session, first, requests, time_ms, |bytes| secret.sign(bytes));
    bundle.expect("a bundle")
}

/// The replica's own code at work.
pub(crate) struct Run {
    pub(crate) execution: Execution<TwinStore, MemoryStore>,
    out: Executed,
    pub(crate) time_ms: TimeMs,
    /// Who opened a session, and its entry.
    opened: Vec<(PublicKey, EntryIndex)>,
}

impl Run {
    pub(crate) fn new(cluster: &Cluster) -> Self {
        let store = TwinStore::new(cluster.settings().max_properties);
        let execution = Execution::new(cluster, store, MemoryStore::new()).expect("a genesis");
        Self { execution, out: Executed::default(), time_ms: CREATED_MS, opened: Vec::new() }
    }

    /// An administrator registers a key, which writes, and revokes it.
    fn guest(&mut self) {
        let admin = self.one(signed(ADMINISTRATOR, ORIGIN, None, 0, &[opening()], CREATED_MS));
        let statement = |number, change| {
            let statement = KeyStatement { number, key: public(GUEST), change, reason: None };
            let cose = statement.sign(ORIGIN, public(ADMINISTRATOR), |bytes| key(ADMINISTRATOR).sign(bytes));
            Request { class: 0, not_after_ms: None, operation: &operation(&cose) }.encode()
        };
        let register =
            KeyChange::Register { name: "guest".into(), role: Some("gateway".into()), validity: Validity::default() };
        self.one(signed(ADMINISTRATOR, ORIGIN, Some(admin), 1, &[statement(1, register)], CREATED_MS));
        let own = [opening(), request(&set("gate/g", "open", Value::Bool(true)), None)];
        self.one(signed(GUEST, ORIGIN, None, 0, &own, CREATED_MS));
        self.one(signed(ADMINISTRATOR, ORIGIN, Some(admin), 2, &[statement(2, KeyChange::Revoke)], CREATED_MS));
    }

    /// One of the sessions that the key opened, or 0, which is none.
    pub(crate) fn newest(&self, seed: u8, rng: &mut impl FnMut(usize) -> usize) -> u64 {
        let key = public(seed);
        let opened: Vec<u64> = self.opened.iter().filter(|(by, _)| *by == key).map(|(_, entry)| *entry).collect();
        let back = 1 + rng(3);
        opened.get(opened.len().saturating_sub(back)).copied().unwrap_or(0)
    }

    pub(crate) fn history(&self) -> History {
        let entries =
            (0..self.execution.size()).map(|index| self.execution.entry(index).expect("an entry").into_owned());
        History { entries: entries.collect() }
    }

    /// Executes a batch and gives the history's size after it.
    pub(crate) fn batch(&mut self, bundles: Vec<Bundle>) -> u64 {
        self.time_ms += 10;
        let batch = Batch::new(self.time_ms, bundles.into_iter().map(Arc::new).collect());
        let sequence = self.execution.sequence() + 1;
        self.execution.execute(sequence, &batch, &mut self.out).expect("the next sequence");
        for index in self.out.first_entry..self.out.size {
            let entry = self.execution.entry(index).expect("an entry");
            let Ok(EntryView::Bundle(view)) = EntryView::decode(&entry) else { continue };
            if view.requests().next().and_then(Request::decode).is_some_and(|request| request.opens_session()) {
                self.opened.push((view.origin().expect("a key"), index));
            }
        }
        self.execution.size()
    }

    /// The entry of the bundle that was executed alone.
    fn one(&mut self, bundle: Bundle) -> EntryIndex {
        self.batch(vec![bundle]);
        self.out.first_entry
    }
}

/// All entries of a history.
#[derive(Clone)]
pub(crate) struct History {
    pub(crate) entries: Vec<Vec<u8>>,
}

impl History {
    /// More than two tiles of 256 entries: sessions, sets, conditions, refusals, deletes, expired and repeated requests.
    pub(crate) fn new() -> Self {
        let mut run = Run::new(&cluster());
        let operator = run.one(signed(OPERATOR, ORIGIN, None, 0, &[opening()], CREATED_MS));
        let more = [opening(), request(&set("gate/a", "open", Value::Bool(true)), None)];
        let gateway = run.one(signed(GATEWAY, ORIGIN, None, 0, &more, CREATED_MS));
        run.guest();
        let (mut next, mut gate) = (0, 2);
        while run.execution.size() < 600 {
            let turn = next;
            let time_ms = run.time_ms;
            let mut by_operator = |requests: &[Vec<u8>]| {
                let bundle = signed(OPERATOR, ORIGIN, Some(operator), next + 1, requests, time_ms);
                next += requests.len() as u64;
                bundle
            };
            let twin = format!("plant/turbine-{}", turn % 7);
            let plain = request(&set(&twin, "power", Value::F64(turn as f64 / 4.0)), None);
            let bundle = match turn % 11 {
                3 => {
                    let exists = Condition { twin: twin.clone(), path: "power".into(), test: Test::Exists };
                    let writes = vec![Write::Set {
                        twin: twin.clone(),
                        properties: vec![SetProperty {
                            path: "state".into(),
                            value: Value::Text("running".into()),
                            quality: Quality::Uncertain,
                            source_time_ns: Some(turn as i64),
                        }],
                        reason: Some("test".into()),
                    }];
                    let operation = Operation::Transaction { conditions: vec![exists], writes, reason: None };
                    by_operator(&[plain, request(&operation, None)])
                }
                5 => by_operator(&[request(&set(&twin, "power", Value::Text("x".into())), None), plain]),
                7 => {
                    let whole = Operation::Write(Write::Delete { twin, paths: None, reason: None });
                    by_operator(&[request(&whole, None), plain])
                }
                9 => by_operator(&[plain.clone(), request(&set("plant/grid", "x", Value::I64(1)), Some(time_ms - 1))]),
                _ => by_operator(&[plain]),
            };
            let forbidden = request(&set("plant/grid", "y", Value::I64(2)), None);
            let own = request(&set("gate/a", "open", Value::Bool(gate % 2 == 0)), None);
            // Every other one signs its last number again, which is skipped.
            let overlap = u64::from(turn % 5 == 0 && gate > 2);
            let requests: Vec<_> =
                [own.clone(), own, forbidden].into_iter().take(2 + usize::from(turn % 3 == 0)).collect();
            let second = signed(GATEWAY, ORIGIN, Some(gateway), gate - overlap, &requests, time_ms);
            gate += requests.len() as u64 - overlap;
            run.batch(vec![bundle, second]);
        }
        run.history()
    }

    pub(crate) fn leaves(&self) -> Vec<Digest> {
        self.entries.iter().map(|entry| leaf_hash(entry)).collect()
    }

    pub(crate) fn policy_text() -> String {
        cluster().policy_text()
    }

    pub(crate) fn policy() -> Policy {
        Policy::parse(Self::policy_text().as_bytes()).expect("a policy")
    }

    /// The checkpoint of the first `size` entries, cosigned by the first `signers` replicas.
    pub(crate) fn checkpoint(&self, size: usize, signers: u8) -> String {
        let root = root(&self.leaves()[..size], size as u64).expect("all leaves are there");
        checkpoint_of(&CheckpointBody { origin: ORIGIN.to_owned(), size: size as u64, root }, signers)
    }

    /// A receipt of an entry under the newest checkpoint.
    pub(crate) fn receipt(&self, index: usize) -> String {
        self.proof(index, &Payload::Receipt { entry: &self.entries[index] })
    }

    pub(crate) fn proof(&self, index: usize, payload: &Payload<'_>) -> String {
        let size = self.entries.len();
        let path = inclusion(self.leaves().as_slice(), index as u64, size as u64).expect("an entry");
        render(Some(&payload.encode()), index as u64, &path, &self.checkpoint(size, 4))
    }

    /// Exports the entries from `from` on under a checkpoint of `signers` replicas.
    pub(crate) fn export(&self, from: u64, signers: u8, dir: &Path) -> PathBuf {
        let dir = dir.join("export");
        let mut source = Exported {
            entries: &self.entries,
            leaves: self.leaves(),
            checkpoint: self.checkpoint(self.entries.len(), signers),
            older: vec![self.checkpoint(300, signers)],
        };
        // A checkpoint of too few is refused by the exporter too; a liar writes one by hand.
        if signers < 3 {
            source.checkpoint = self.checkpoint(self.entries.len(), 4);
            source.older.clear();
        }
        export(&mut source, Self::policy_text().as_bytes(), (from, None), &dir, &|_, _| ()).expect("an export");
        if signers < 3 {
            std::fs::write(dir.join("checkpoint"), self.checkpoint(self.entries.len(), signers)).expect("writable");
        }
        dir
    }
}

/// A checkpoint with the log line of replica 0 and cosignatures of the first `signers`.
pub(crate) fn checkpoint_of(body: &CheckpointBody, signers: u8) -> String {
    let log = replica_key(0, 2);
    let line = log_line(&body.origin, &log.public(), &log.sign(body.to_string().as_bytes()));
    let cosign = |replica: u8| {
        let (secret, time_s) = (replica_key(replica, 3), SIGNED_S + u64::from(replica));
        let signature = secret.sign(cosignature_message(body, time_s).as_bytes());
        cosignature_line(&body.origin, ReplicaId(replica), &secret.public(), time_s, &signature)
    };
    assemble(body, &[line], &(0..signers).map(cosign).collect::<Vec<_>>()).expect("a checkpoint")
}

/// A source of what is in memory.
pub(crate) struct Exported<'a> {
    pub(crate) entries: &'a [Vec<u8>],
    pub(crate) leaves: Vec<Digest>,
    pub(crate) checkpoint: String,
    pub(crate) older: Vec<String>,
}

impl Source for Exported<'_> {
    type Error = std::io::Error;

    fn checkpoint(&mut self) -> Result<Vec<u8>, Self::Error> {
        Ok(self.checkpoint.clone().into_bytes())
    }

    fn entries(&mut self, first: EntryIndex, max: usize) -> Result<Vec<Vec<u8>>, Self::Error> {
        // Fewer than asked for, as a network would.
        Ok(self.entries[first as usize..].iter().take(max.min(100)).cloned().collect())
    }

    fn leaf_hashes(&mut self, first: EntryIndex, max: usize) -> Result<Vec<Digest>, Self::Error> {
        Ok(self.leaves[first as usize..].iter().take(max.min(77)).copied().collect())
    }

    fn older_checkpoints(&mut self) -> Result<Vec<Vec<u8>>, Self::Error> {
        Ok(self.older.iter().map(|note| note.clone().into_bytes()).collect())
    }
}

/// The key of a client, as replicas know it.
pub(crate) fn public(seed: u8) -> PublicKey {
    key(seed).public()
}
