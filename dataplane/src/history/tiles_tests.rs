use proptest::prelude::*;

use super::*;
use crate::crypto::hash::{leaf_hash, root_by_definition};
use crate::history::proof::{inclusion, root};

fn hashes(level: u8, index: u64, width: u16) -> Tile {
    Tile { kind: TileKind::Hashes(level), index, width }
}

#[test]
fn paths_are_those_of_the_specification() {
    assert_eq!(hashes(0, 1_234_067, 256).path(), "tile/0/x001/x234/067");
    assert_eq!(hashes(1, 0, 17).path(), "tile/1/000.p/17");
    assert_eq!(Tile { kind: TileKind::Entries, index: 999, width: 112 }.path(), "tile/entries/999.p/112");
    assert_eq!(hashes(2, 1_000, 256).path(), "tile/2/x001/000");
}

#[test]
fn only_the_one_way_to_write_a_path_is_read() {
    for path in [
        "",
        "tile",
        "tile/0",
        "tile/0/",
        "tile/00/000",
        "tile/8/000",
        "tile/-1/000",
        "tile/0/0",
        "tile/0/x000/000",
        "tile/0/+01",
        "tile/0/1000",
        "tile/0/001/000",
        "tile/0/x001/x000",
        "tile/0/000.p/0",
        "tile/0/000.p/256",
        "tile/0/000.p/01",
        "tile/0/000.p/",
        "tile/0/000/",
        "/tile/0/000",
        "tile/0/000.p/1.p/1",
        "tile/entry/000",
        "tile/0/x018/x446/x744/x073/x709/x551/616",
        "tile/0/x999/x999/x999/x999/x999/x999/x999/999",
    ] {
        assert_eq!(Tile::parse(path), None, "{path}");
    }
}

#[test]
fn the_specifications_example_has_its_tiles() {
    let of = |level| tiles_of(TileKind::Hashes(level), 70_000).map(|tile| tile.width).collect::<Vec<_>>();
    let (zero, one) = (of(0), of(1));
    assert_eq!((zero.len(), zero.last()), (274, Some(&112)));
    assert_eq!(one, [256, 17]);
    assert_eq!(of(2), [1]);
    assert_eq!(levels_of(70_000).collect::<Vec<_>>(), [0, 1, 2]);
    assert_eq!(tiles_of(TileKind::Hashes(1), 256).map(|tile| tile.width).collect::<Vec<_>>(), [1]);
    assert_eq!(levels_of(0).count(), 0);
    assert_eq!(levels_of(MAX_SIZE).count(), 8);
}

#[test]
fn entry_bundles_read_as_written() {
    let entries: Vec<Vec<u8>> = (0..5u16).map(|i| vec![i as u8; usize::from(i) * 40]).collect();
    let mut bytes = Vec::new();
    for entry in &entries {
        assert!(put_entry(&mut bytes, entry));
    }
    let read = parse_entries(&bytes, 5).expect("as written");
    assert!(read.iter().map(|(_, entry)| *entry).eq(entries.iter().map(Vec::as_slice)));
    assert!(read.iter().all(|(at, entry)| bytes[*at..].starts_with(entry)));
    assert_eq!(parse_entries(&bytes, 4), Err(TileError::Trailing { width: 4, at: bytes.len() - 162 }));
    assert_eq!(parse_entries(&bytes, 6), Err(TileError::Truncated { entry: 5, at: bytes.len() }));
    assert_eq!(
        parse_entries(&bytes[..bytes.len() - 1], 5),
        Err(TileError::Truncated { entry: 4, at: bytes.len() - 162 })
    );
    assert_eq!(parse_entries(&bytes[..1], 1), Err(TileError::Truncated { entry: 0, at: 0 }));
    assert!(!put_entry(&mut bytes, &vec![0; MAX_ENTRY + 1]));
    assert!(put_entry(&mut bytes, &vec![0; MAX_ENTRY]));
}

#[test]
fn hash_tiles_have_the_length_of_their_width() {
    assert_eq!(parse_hashes(&[7; 64], 2), Ok(vec![Digest([7; 32]); 2]));
    assert_eq!(parse_hashes(&[7; 64], 3), Err(TileError::Length { width: 3, found: 64 }));
    assert_eq!(parse_hashes(&[7; 65], 2), Err(TileError::Length { width: 2, found: 65 }));
}

#[test]
fn roots_and_paths_from_tiles_are_those_from_leaves() {
    let leaves: Vec<Digest> = (0..70_000u32).map(|i| leaf_hash(format!("entry-{i}").as_bytes())).collect();
    for size in [1u64, 255, 256, 257, 600, 65_535, 65_536, 70_000] {
        let tree = &leaves[..size as usize];
        let read = |tile: Tile| {
            let TileKind::Hashes(level) = tile.kind else { return None };
            let bits = 8 * level;
            let from = tile.first();
            (from..from + u64::from(tile.width)).map(|index| tree.node(bits, index)).collect()
        };
        let nodes = TileNodes::new(size, read);
        assert_eq!(root(&nodes, size), Some(root_by_definition(tree)), "{size}");
        for index in [0, size / 3, size - 1] {
            assert_eq!(inclusion(&nodes, index, size), inclusion(tree, index, size), "{index} of {size}");
        }
        assert_eq!(nodes.node(0, size), None);
    }
}

proptest! {
    #[test]
    fn every_path_reads_back(index in any::<u64>(), shift in 0u32..64, level in 0u8..8, width in 1u16..=256, entries in any::<bool>()) {
        let kind = if entries { TileKind::Entries } else { TileKind::Hashes(level) };
        let tile = Tile { kind, index: index >> shift, width };
        prop_assert_eq!(Tile::parse(&tile.path()), Some(tile));
    }
}
