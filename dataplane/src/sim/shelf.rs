//! A machine's snapshots, and the history that they rest on: what its disk holds beside the log.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::outbox::Outbox;
use super::random::Random;
use super::world::{Event, World};
use crate::history::store::{EntryStore, MemoryStore};
use crate::ordering::checkpoint::{Certificate, Statement};
use crate::transfer::{self, Durable, Hasher, Kept, PIECE_BYTES, Shelf};
use crate::types::Sequence;

/// What a start goes on from: a snapshot, and its history.
pub(super) type Resumed = (Arc<[u8]>, MemoryStore);

/// A snapshot that is being written.
pub(super) struct Saving {
    pub(super) statement: Statement,
    pub(super) certificate: Option<Arc<Certificate>>,
    pub(super) image: Vec<u8>,
}

/// What is durable.
#[derive(Clone, Default)]
pub(super) struct SimShelf {
    snapshots: BTreeMap<Sequence, (Kept, Arc<[u8]>)>,
    history: MemoryStore,
    /// One was damaged since the last was written.
    is_damaged: bool,
}

impl SimShelf {
    /// A snapshot became durable, and the history before it.
    pub(super) fn put(&mut self, saving: Saving, history: MemoryStore) -> Kept {
        let mut hasher = Hasher::default();
        hasher.update(&saving.image);
        let (bytes, hashes) = hasher.finish();
        let durable = if saving.certificate.is_some() { Durable::Yes } else { Durable::No };
        let kept = Kept { statement: saving.statement, bytes, hashes, certificate: saving.certificate, durable };
        self.snapshots.insert(kept.sequence(), (kept.clone(), saving.image.into()));
        self.history = history;
        self.is_damaged = false;
        kept
    }

    pub(super) fn certify(&mut self, certificate: &Arc<Certificate>) {
        if let Some((kept, _)) = self.snapshots.get_mut(&certificate.sequence()) {
            kept.certificate = Some(Arc::clone(certificate));
            kept.durable = Durable::Yes;
        }
    }

    pub(super) fn remove(&mut self, sequence: Sequence) {
        self.snapshots.remove(&sequence);
    }

    pub(super) fn images(&self) -> BTreeMap<Sequence, Arc<[u8]>> {
        self.snapshots.iter().map(|(sequence, (_, image))| (*sequence, Arc::clone(image))).collect()
    }

    /// Damage to one more snapshot loses nothing: the one before it, or all of the log, is there.
    pub(super) fn bears_damage(&self) -> bool {
        !self.snapshots.is_empty() && !self.is_damaged
    }

    /// Flips a bit in the newest snapshot.
    pub(super) fn damage(&mut self, random: &mut Random) {
        if let Some(mut newest) = self.snapshots.last_entry() {
            let mut image = newest.get().1.to_vec();
            let place = random.index(image.len());
            image[place] ^= 1 << random.below(8);
            newest.get_mut().1 = image.into();
            self.is_damaged = true;
        }
    }

    /// What a start finds: the snapshots that are whole, the newest that is certified and its history, and how many were damaged.
    pub(super) fn load(&mut self) -> (Shelf, Option<Resumed>, usize) {
        let before = self.snapshots.len();
        self.snapshots.retain(|_, (kept, image)| {
            let mut hasher = Hasher::default();
            hasher.update(image);
            transfer::digest(&hasher.finish().1) == kept.digest()
        });
        let shelf = Shelf::new(self.snapshots.values().map(|(kept, _)| kept.clone()).collect());
        let newest = self.snapshots.values().rev().find(|(kept, _)| kept.certificate.is_some());
        let newest =
            newest.and_then(|(kept, image)| Some((Arc::clone(image), self.history.first(kept.statement.size)?)));
        (shelf, newest, before - self.snapshots.len())
    }
}

/// A piece of an image.
pub(super) fn piece(image: &[u8], piece: u64) -> Option<Vec<u8>> {
    image.chunks(PIECE_BYTES).nth(usize::try_from(piece).ok()?).map(<[u8]>::to_vec)
}

impl World {
    /// What a node did with its snapshots in a turn, or wants done.
    pub(super) fn shelve(&mut self, replica: usize, outbox: &mut Outbox) -> Result<(), String> {
        let machine = &mut self.machines[replica];
        outbox.certificates.drain(..).for_each(|certificate| machine.shelf.certify(&certificate));
        outbox.dropped.drain(..).for_each(|sequence| machine.shelf.remove(sequence));
        for saving in outbox.saves.drain(..) {
            let machine = &mut self.machines[replica];
            let Some(node) = &mut machine.node else { return Ok(()) };
            let mut history = node.execution_mut().store_mut().clone();
            // In memory nothing fails.
            let _ = history.adopt();
            let history = history.first(saving.statement.size);
            let history = history.ok_or_else(|| format!("replica {replica} keeps a snapshot without its history"))?;
            machine.saving.push_back((saving, history));
            let life = machine.life;
            let takes_us = self.random.between(1, 10 * self.plan.disk_us);
            self.count("snapshot");
            self.schedule(self.now_us + takes_us, Event::Saved { replica, life });
        }
        Ok(())
    }

    pub(super) fn saved(&mut self, replica: usize) -> Result<(), String> {
        let now = self.clock(replica);
        let machine = &mut self.machines[replica];
        let Some((saving, history)) = machine.saving.pop_front() else { return Ok(()) };
        let taken = saving.certificate.is_some();
        let kept = machine.shelf.put(saving, history);
        let Some(node) = &mut machine.node else { return Ok(()) };
        node.snapshot_kept(kept, now, &mut machine.outbox)
            .map_err(|error| format!("replica {replica} ends: {error}"))?;
        if taken {
            self.count("state taken from others");
        }
        self.turn(replica)
    }
}
