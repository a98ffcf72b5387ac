//! Images of the replicated state, as a peer may send them.

use std::io::{self, Write};
use std::path::Path;
use std::sync::{Arc, LazyLock};

use atlas_dataplane::cluster::Cluster;
use atlas_dataplane::crypto::SecretKey;
use atlas_dataplane::crypto::hash::sha256;
use atlas_dataplane::execution::image::{Image, ResumeError};
use atlas_dataplane::execution::{Executed, Execution};
use atlas_dataplane::history::store::MemoryStore;
use atlas_dataplane::ordering::batch::Batch;
use atlas_dataplane::state::{Answer, Application, Entries, Frozen, OperationContext, Outcome, StateError};
use atlas_dataplane::types::{Code, Digest, Signature};
use atlas_dataplane::wire::bundle::{Bundle, OPEN_SESSION, Request};

use crate::disk::CLUSTER;
use crate::harness::{Reached, counted, mutated};
use crate::samples::Rng;

/// Refuses every other operation with a detail, and has no state: what it restores is for its own targets.
#[derive(Clone, Copy)]
struct Stateless;

impl Application for Stateless {
    fn check(&self, _: &[u8]) -> Result<usize, Code> {
        Ok(0)
    }

    fn execute(&mut self, context: &OperationContext<'_>, _: &[u8], outcome: &mut Outcome) {
        if context.position.request.is_multiple_of(2) {
            outcome.refuse(Code::BAD_VALUE, format_args!("not at {}", context.position));
        }
    }

    fn query(&self, _: &dyn Entries, _: &[u8], _: &mut Answer) -> Code {
        Code::BAD_QUERY
    }

    fn slot_count(&self) -> u64 {
        0
    }

    fn state_root(&mut self) -> Digest {
        sha256(&[])
    }

    fn absence_root(&mut self) -> Digest {
        sha256(&[])
    }

    fn freeze(&self) -> Box<dyn Frozen> {
        Box::new(*self)
    }

    fn restore(&mut self, bytes: &[u8]) -> Result<(), StateError> {
        if bytes.is_empty() { Ok(()) } else { Err(StateError::Malformed { at: 0, what: "there is no state" }) }
    }
}

impl Frozen for Stateless {
    fn write(&self, _: &mut dyn Write) -> io::Result<()> {
        Ok(())
    }
}

fn bytes(image: &Image) -> Vec<u8> {
    let mut bytes = Vec::new();
    image.write(&mut bytes).expect("writing to a Vec");
    bytes
}

/// A cluster, the history up to its first checkpoint and the image there: sessions with gaps and details, and a floor.
static WORLD: LazyLock<(Cluster, MemoryStore, Vec<u8>)> = LazyLock::new(|| {
    let cluster = Cluster::parse(CLUSTER.as_bytes(), Path::new("cluster.toml")).expect("a cluster");
    let (key, start) = (SecretKey::from_seed(&[99; 32]).public(), cluster.created_ms());
    let request = |operation: &[u8]| Request { class: 1, not_after_ms: None, operation }.encode();
    let sign = |session, first, requests: &[Vec<u8>], time_ms| {
        let signed = Bundle::sign(cluster.origin(), key, session, first, requests, time_ms, |_| Signature([0; 64]));
        Arc::new(signed.expect("a bundle"))
    };
    let mut execution = Execution::new(&cluster, Stateless, MemoryStore::new()).expect("an empty store");
    execution.set_snapshot_bytes(0);
    let (mut out, mut entries) = (Executed::default(), Vec::new());
    let idle = cluster.settings().session_idle_ms as i64;
    for sequence in 1..=cluster.settings().checkpoint_interval {
        let time = start + idle * 3 / 4 * sequence.min(4) as i64;
        let mut bundles = vec![];
        if sequence < 5 {
            bundles.push(sign(None, 0, &[request(&OPEN_SESSION), request(&[0x01]), request(&[0x02])], time));
            bundles.push(sign(Some(1), 4 * sequence, &[request(&[0x01]), request(&[0x02])], time));
            bundles.push(sign(Some(3), 5, &[request(&[0x01]), request(&[0x02])], time));
        }
        execution.execute(sequence, &Batch::new(time, bundles), &mut out).expect("executed");
    }
    for index in 0..execution.size() {
        entries.push(execution.entry(index).expect("an entry").into_owned());
    }
    assert!(execution.snapshot_due() && execution.session_count() >= 3);
    let image = bytes(&execution.freeze());
    (cluster, store(&entries), image)
});

fn store(entries: &[Vec<u8>]) -> MemoryStore {
    use atlas_dataplane::history::store::EntryStore as _;
    use atlas_dataplane::history::tree::HistoryTree;
    let (mut store, mut tree) = (MemoryStore::new(), HistoryTree::new());
    for entry in entries {
        store.append(entry, 0, &tree.append(entry)).expect("an entry");
    }
    store
}

pub(crate) fn image(rng: &mut Rng) -> Vec<u8> {
    mutated(rng, |_| WORLD.2.clone())
}

/// What memory holds of a session and its first number beside the bytes that they have in an image.
const IN_MEMORY: usize = 12;

pub(crate) fn run_image(input: &[u8]) -> Reached {
    let (cluster, store, _) = &*WORLD;
    let store = store.clone();
    match counted(IN_MEMORY * input.len(), || Execution::resume(cluster, Stateless, store, input)) {
        Ok(mut execution) => {
            assert_eq!(bytes(&execution.freeze()), input, "an accepted image is taken again with other bytes");
            // What was read is used: sessions idle for long are closed, whatever they hold.
            let (time, mut out) = (execution.time_ms(), Executed::default());
            let later = time + 3 * cluster.settings().session_idle_ms as i64;
            execution.execute(execution.sequence() + 1, &Batch::new(later, vec![]), &mut out).expect("executed");
            assert_eq!(execution.session_count(), 0);
            Reached::Body
        }
        Err(ResumeError::Malformed { at: 0..=20, .. } | ResumeError::Edge(_)) => Reached::Nothing,
        Err(ResumeError::StoreSize { .. }) => Reached::Nothing,
        Err(_) => Reached::Header,
    }
}
