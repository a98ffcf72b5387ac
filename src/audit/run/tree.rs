//! Tiles against the certified root, from the leaves up, and which file is at fault where they do not agree.

use atlas_dataplane::crypto::hash::{RootBuilder, leaf_hash};
use atlas_dataplane::history::proof::root;
use atlas_dataplane::history::tiles::{
    MAX_BUNDLE_BYTES, TILE_WIDTH, Tile, TileKind, TileNodes, levels_of, parse_entries, tiles_of,
};
use atlas_dataplane::history::tlog_policy::Certified;
use atlas_dataplane::types::Digest;

use crate::audit::files::Tree;
use crate::audit::finding::{Fault, Finding};
use crate::audit::stages::read_hashes;

/// All hash tiles of a history, level by level.
pub(super) fn hash_tiles(size: u64) -> impl Iterator<Item = Tile> {
    levels_of(size).flat_map(move |level| tiles_of(TileKind::Hashes(level), size))
}

/// Checks that all hash tiles make up the certified root; `held` are the entries that are there.
pub(super) fn check(tree: &Tree, certified: &Certified, held: (u64, u64)) -> Result<(), Finding> {
    let size = certified.size;
    for level in levels_of(size) {
        let mut above: Option<(Tile, Vec<Digest>)> = None;
        for tile in tiles_of(TileKind::Hashes(level), size) {
            let hashes = read_hashes(tree, tile)?;
            // A partial tile has no place above; the root shows whether it is right.
            let Some(parent) = Tile::holding(TileKind::Hashes(level + 1), tile.index, size) else { continue };
            if tile.width < TILE_WIDTH {
                continue;
            }
            if above.as_ref().is_none_or(|(known, _)| *known != parent) {
                above = Some((parent, read_hashes(tree, parent)?));
            }
            let at = (tile.index - parent.first()) as usize;
            let found = above.as_ref().and_then(|(_, hashes)| hashes.get(at)).copied().unwrap_or(Digest::NULL);
            let made = root_over(&hashes);
            if made != found {
                let mends = |hashes: &[Digest]| root_over(hashes) == found;
                let byte = Some(32 * at as u64);
                let generic = Finding {
                    file: parent.path(),
                    entry: None,
                    byte,
                    fault: Box::new(Fault::Parent { below: tile.path(), found, made }),
                };
                return Err(changed_leaf(tree, tile, &hashes, held, mends).unwrap_or(generic));
            }
        }
    }
    let found = root_of(tree, size, size)?;
    if found == certified.root {
        return Ok(());
    }
    let edge: Vec<Tile> = levels_of(size).filter_map(|level| tiles_of(TileKind::Hashes(level), size).last()).collect();
    let generic = Finding::of(
        edge.iter().map(Tile::path).collect::<Vec<_>>().join(", "),
        Fault::Root { size, found, certified: certified.root },
    );
    let Some(leaves) = edge.first().copied().filter(|tile| tile.width < TILE_WIDTH) else { return Err(generic) };
    let hashes = read_hashes(tree, leaves)?;
    let mends = |mended: &[Digest]| {
        let read = |tile: Tile| if tile == leaves { Some(mended.to_vec()) } else { read_hashes(tree, tile).ok() };
        root(&TileNodes::new(size, read), size) == Some(certified.root)
    };
    Err(changed_leaf(tree, leaves, &hashes, held, mends).unwrap_or(generic))
}

/// The root over the first `size` entries, from the tiles of a history of `whole`.
pub(crate) fn root_of(tree: &Tree, size: u64, whole: u64) -> Result<Digest, Finding> {
    let failed = std::cell::RefCell::new(None);
    let read = |tile: Tile| read_hashes(tree, tile).map_err(|finding| failed.replace(Some(finding))).ok();
    match root(&TileNodes::new(whole, read), size) {
        Some(root) => Ok(root),
        None => Err(failed
            .into_inner()
            .unwrap_or_else(|| Finding::of(format!("tile/0 to {size}"), crate::audit::files::FileFault::Missing))),
    }
}

/// Where a leaf tile does not agree with what stands above it, and the entries are there: the leaf hash that is not its entry's, if
/// the tree is right with the entries' own.
fn changed_leaf(
    tree: &Tree,
    tile: Tile,
    hashes: &[Digest],
    (from, to): (u64, u64),
    mends: impl Fn(&[Digest]) -> bool,
) -> Option<Finding> {
    let entries = Tile { kind: TileKind::Entries, ..tile };
    if tile.kind != TileKind::Hashes(0) || tile.first() < from || to <= tile.first() {
        return None;
    }
    let bytes = tree.read(&entries.path(), MAX_BUNDLE_BYTES).ok()?;
    let made: Vec<Digest> =
        parse_entries(&bytes, tile.width).ok()?.into_iter().map(|(_, entry)| leaf_hash(entry)).collect();
    let at = made.iter().zip(hashes).position(|(made, found)| made != found).filter(|_| mends(&made))?;
    Some(Finding {
        file: tile.path(),
        entry: Some(tile.first() + at as u64),
        byte: Some(32 * at as u64),
        fault: Box::new(Fault::LeafHash { found: hashes[at], made: made[at] }),
    })
}

fn root_over(hashes: &[Digest]) -> Digest {
    let mut builder = RootBuilder::default();
    hashes.iter().for_each(|hash| builder.push_hash(*hash));
    builder.root()
}
