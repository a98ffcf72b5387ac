use super::*;
use crate::crypto::hash::{leaf_hash, root_by_definition};

/// Roots and the leaf hash made by an independent program; leaf i is "entry-i".
fn vectors() -> serde_json::Value {
    let text = include_str!("../../tests/vectors/rfc6962.json");
    serde_json::from_str(text).unwrap()
}

#[test]
fn roots_equal_the_independent_vectors() {
    let vectors = vectors();
    let roots = vectors["roots"].as_object().unwrap();
    let mut tree = HistoryTree::new();
    assert_eq!(tree.root().to_string(), vectors["empty"].as_str().unwrap());
    let mut compared = 0;
    for i in 0..70_000u64 {
        let leaf = tree.append(format!("entry-{i}").as_bytes())[0];
        if i == 0 {
            assert_eq!(leaf.to_string(), vectors["leaf(entry-0)"].as_str().unwrap());
        }
        if let Some(root) = roots.get(&(i + 1).to_string()) {
            assert_eq!(tree.root().to_string(), root.as_str().unwrap(), "size {}", i + 1);
            compared += 1;
        }
    }
    assert_eq!(compared, roots.len());
    assert_eq!(tree.size(), 70_000);
}

#[test]
fn every_small_size_equals_the_definition() {
    let leaves: Vec<Digest> = (0..130u8).map(|i| leaf_hash(&[i])).collect();
    let mut tree = HistoryTree::new();
    for size in 0..130u8 {
        assert_eq!(tree.root(), root_by_definition(&leaves[..usize::from(size)]), "size {size}");
        assert_eq!(tree.append(&[size])[0], leaves[usize::from(size)]);
    }
    assert_eq!(tree.root(), root_by_definition(&leaves));
}

#[test]
fn an_edge_survives_its_bytes_and_goes_on_alike() {
    let mut tree = HistoryTree::new();
    for i in 0..100u8 {
        let mut again = HistoryTree::from_bytes(&tree.to_bytes()).unwrap();
        assert_eq!(again.to_bytes(), tree.to_bytes());
        again.append(&[i]);
        tree.append(&[i]);
        assert_eq!(again.root(), tree.root());
    }
}

#[test]
fn bytes_of_another_length_are_no_edge() {
    let mut tree = HistoryTree::new();
    for i in 0..7u8 {
        tree.append(&[i]);
    }
    let bytes = tree.to_bytes();
    let error = |bytes: &[u8]| HistoryTree::from_bytes(bytes).err();
    assert_eq!(error(&bytes[..5]), Some(EdgeError::Truncated(5)));
    for length in (8..bytes.len()).chain([bytes.len() + 1, bytes.len() + 32]) {
        let bytes: Vec<u8> = bytes.iter().copied().chain([0; 32]).take(length).collect();
        assert_eq!(error(&bytes), Some(EdgeError::Length { size: 7, expected: 8 + 3 * 32, found: length }));
    }
    let endless = [[0xff; 8].as_slice(), &[0; 64 * 32]].concat();
    assert_eq!(error(&endless), Some(EdgeError::Size(u64::MAX)));
}

#[test]
fn nodes_stand_where_their_numbers_say() {
    let leaves: Vec<Digest> = (0..200u8).map(|i| leaf_hash(&[i])).collect();
    let (mut tree, mut nodes) = (HistoryTree::new(), Vec::new());
    for i in 0..200u8 {
        assert_eq!(node_count(u64::from(i)), nodes.len() as u64);
        nodes.extend_from_slice(&tree.append(&[i]));
    }
    let mut found = 0;
    for level in 0..8u8 {
        for (index, leaves) in leaves.chunks_exact(1 << level).enumerate() {
            let at = node_position(level, index as u64).unwrap();
            assert_eq!(nodes[at as usize], root_by_definition(leaves), "{level} {index}");
            found += 1;
        }
    }
    assert_eq!(found, nodes.len());
    assert_eq!(node_position(63, 0), None);
    assert_eq!(node_position(0, u64::MAX), None);
    assert_eq!(node_position(200, 1), None);
}
