//! The stages of an audit over entries: threads read, hash, decode and verify 256 entries at a time; one goes through them in order.

use std::num::NonZero;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use atlas_dataplane::crypto::hash::leaf_hash;
use atlas_dataplane::history::entry::{EntryError, EntryView};
use atlas_dataplane::history::tiles::{MAX_BUNDLE_BYTES, Tile, TileKind, parse_entries, parse_hashes};
use atlas_dataplane::wire::bundle::Bundle;

use super::files::Tree;
use super::finding::{Fault, Finding};
use super::layout::POLICIES;
use super::replay::Signed;
use super::signatures::{Held, Keys};

/// Tiles that a thread may be ahead.
const AHEAD: usize = 2;

/// What is checked of each entry by itself.
#[derive(Clone, Copy)]
pub(super) struct Scope<'a> {
    pub(super) tree: &'a Tree,
    pub(super) origin: &'a str,
    pub(super) deep: bool,
}

/// Entries of one tile, each checked by itself.
pub(super) struct Checked {
    pub(super) tile: Tile,
    bytes: Vec<u8>,
    /// Where each entry lies in `bytes`.
    places: Vec<(usize, usize)>,
    /// What each deep-checked bundle says of itself.
    pub(super) signed: Vec<Option<Signed>>,
    /// Entries whose signatures only ZIP 215 accepts.
    pub(super) crafted: Vec<u64>,
}

impl Checked {
    /// The entries, with their numbers and where they begin in their file.
    pub(super) fn entries(&self) -> impl Iterator<Item = (u64, usize, &[u8])> {
        (self.tile.first()..).zip(&self.places).map(|(index, (start, end))| (index, *start, &self.bytes[*start..*end]))
    }

    /// A finding at a place of one of its entries.
    pub(super) fn finding(&self, entry: u64, byte: usize, fault: impl Into<Fault>) -> Finding {
        let fault = fault.into();
        // A decoder tells how far into the entry it came.
        let inside = match &fault {
            Fault::Entry(EntryError::Malformed(at)) => *at,
            _ => 0,
        };
        Finding {
            file: self.tile.path(),
            entry: Some(entry),
            byte: Some((byte + inside) as u64),
            fault: Box::new(fault),
        }
    }
}

/// Checks tiles of entries on `threads` threads and hands them to `next` in their order; ends at the first finding.
pub(super) fn run(
    scope: Scope<'_>,
    tiles: &[Tile],
    threads: NonZero<usize>,
    mut next: impl FnMut(Checked) -> Result<(), Finding>,
) -> Result<(), Finding> {
    thread::scope(|spawner| {
        let threads = threads.get().min(tiles.len().max(1));
        let receivers: Vec<Receiver<_>> = (0..threads)
            .map(|number| {
                let (sender, receiver) = sync_channel(AHEAD);
                spawner.spawn(move || work(scope, tiles.iter().skip(number).step_by(threads), &sender));
                receiver
            })
            .collect();
        // Whatever ends this loop drops the receivers, and the threads with them.
        for (index, tile) in tiles.iter().enumerate() {
            let checked = receivers[index % threads].recv().unwrap_or_else(|_| {
                let gone = std::io::Error::other("a thread of the audit ended early");
                Err(Finding::of(tile.path(), super::files::FileFault::Io(gone)))
            });
            next(checked?)?;
        }
        Ok(())
    })
}

fn work<'a>(scope: Scope<'_>, tiles: impl Iterator<Item = &'a Tile>, out: &SyncSender<Result<Checked, Finding>>) {
    let mut keys = Keys::default();
    for tile in tiles {
        let checked = check_tile(scope, *tile, &mut keys);
        let is_end = checked.is_err();
        if out.send(checked).is_err() || is_end {
            return;
        }
    }
}

fn check_tile(scope: Scope<'_>, tile: Tile, keys: &mut Keys) -> Result<Checked, Finding> {
    let path = tile.path();
    let of = |fault: Fault| Finding::of(path.clone(), fault);
    let bytes = scope.tree.read(&path, MAX_BUNDLE_BYTES).map_err(|fault| of(fault.into()))?;
    let entries = parse_entries(&bytes, tile.width).map_err(|fault| of(fault.into()))?;
    let places: Vec<_> = entries.iter().map(|(start, entry)| (*start, start + entry.len())).collect();
    let hashes = read_hashes(scope.tree, Tile { kind: TileKind::Hashes(0), ..tile })?;
    let mut checked = Checked { tile, bytes, places, signed: Vec::new(), crafted: Vec::new() };
    let mut signed = Vec::with_capacity(checked.places.len());
    let mut crafted = Vec::new();
    for ((index, byte, entry), found) in checked.entries().zip(hashes) {
        let made = leaf_hash(entry);
        if made != found {
            return Err(checked.finding(index, byte, Fault::EntryHash { found, made }));
        }
        let view = EntryView::decode(entry).map_err(|fault| checked.finding(index, byte, fault))?;
        let EntryView::Bundle(view) = view else {
            signed.push(None);
            continue;
        };
        if !scope.deep {
            signed.push(None);
            continue;
        }
        let bundle = Bundle::parse(view.cose, view.requests(), scope.origin);
        let bundle = bundle.map_err(|fault| checked.finding(index, byte, fault))?;
        match keys.check(bundle.key(), &bundle.signed_bytes(), bundle.signature()) {
            Held::Strictly => {}
            Held::Zip215Only => crafted.push(index),
            Held::No => return Err(checked.finding(index, byte, Fault::Signature(bundle.key().to_string()))),
        }
        signed.push(Some(Signed { key: *bundle.key(), header: *bundle.header(), digest: bundle.digest() }));
    }
    (checked.signed, checked.crafted) = (signed, crafted);
    Ok(checked)
}

/// The hashes of a tile.
pub(super) fn read_hashes(tree: &Tree, tile: Tile) -> Result<Vec<atlas_dataplane::types::Digest>, Finding> {
    let path = tile.path();
    let max = 32 * usize::from(tile.width) + 1;
    let bytes = match tree.read(&path, max) {
        Err(super::files::FileFault::TooLong { bytes, .. }) => {
            let found = usize::try_from(bytes).unwrap_or(usize::MAX);
            let fault = atlas_dataplane::history::tiles::TileError::Length { width: tile.width, found };
            return Err(Finding::of(path, fault));
        }
        bytes => bytes.map_err(|fault| Finding::of(path.clone(), fault))?,
    };
    parse_hashes(&bytes, tile.width).map_err(|fault| Finding::of(path, fault))
}

/// Where the policy of an epoch lies.
pub(super) fn policy_path(epoch: u32) -> String {
    format!("{POLICIES}/{epoch}")
}
