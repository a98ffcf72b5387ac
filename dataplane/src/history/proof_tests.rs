use proptest::prelude::*;

use super::*;
use crate::crypto::hash::{leaf_hash, root_by_definition, verify_path};

fn leaves(count: usize) -> Vec<Digest> {
    (0..count).map(|i| leaf_hash(format!("entry-{i}").as_bytes())).collect()
}

/// RFC 6962, 2.1.1, word for word.
fn path_by_definition(index: usize, leaves: &[Digest]) -> Vec<Digest> {
    if leaves.len() == 1 {
        return Vec::new();
    }
    let (left, right) = leaves.split_at(leaves.len().next_power_of_two() / 2);
    let (mut path, other) = if index < left.len() {
        (path_by_definition(index, left), right)
    } else {
        (path_by_definition(index - left.len(), right), left)
    };
    path.push(root_by_definition(other));
    path
}

/// RFC 6962, 2.1.2, word for word: `SUBPROOF(m, D[n], b)`.
fn subproof_by_definition(old: usize, leaves: &[Digest], is_known: bool) -> Vec<Digest> {
    if old == leaves.len() {
        return if is_known { Vec::new() } else { vec![root_by_definition(leaves)] };
    }
    let (left, right) = leaves.split_at(leaves.len().next_power_of_two() / 2);
    let (mut proof, other) = if old <= left.len() {
        (subproof_by_definition(old, left, is_known), right)
    } else {
        (subproof_by_definition(old - left.len(), right, false), left)
    };
    proof.push(root_by_definition(other));
    proof
}

#[test]
fn proofs_equal_the_independent_vectors() {
    let vectors: serde_json::Value =
        serde_json::from_str(include_str!("../../tests/vectors/rfc6962.json")).expect("the vectors are JSON");
    let expected = |name: &str| -> Vec<String> {
        let list = vectors[name].as_array().expect("a list of digests");
        list.iter().map(|digest| digest.as_str().expect("a digest").to_owned()).collect()
    };
    let text = |proof: Vec<Digest>| proof.iter().map(Digest::to_string).collect::<Vec<_>>();
    let leaves = leaves(70_000);
    let nodes = leaves.as_slice();
    assert_eq!(inclusion(nodes, 4, 7).map(text), Some(expected("path(4,7)")));
    assert_eq!(consistency(nodes, 3, 7).map(text), Some(expected("cons(3,7)")));
    for (size, expected) in vectors["roots"].as_object().expect("roots by size") {
        let found = root(nodes, size.parse().expect("a size")).expect("all leaves are there");
        assert_eq!(Some(found.to_string().as_str()), expected.as_str(), "size {size}");
    }
}

#[test]
fn small_trees_equal_the_definition_and_verify() {
    let leaves = leaves(70);
    for size in 1..=leaves.len() {
        let (tree, new) = (&leaves[..size], size as u64);
        let new_root = root_by_definition(tree);
        assert_eq!(root(tree, new), Some(new_root));
        for old in 1..=size {
            let path = inclusion(tree, old as u64 - 1, new).expect("a leaf of the tree");
            assert_eq!(path, path_by_definition(old - 1, tree));
            assert!(verify_path(&tree[old - 1], old as u64 - 1, new, &path, &new_root));
            let proof = consistency(tree, old as u64, new).expect("no larger than the tree");
            assert_eq!(proof, subproof_by_definition(old, tree, true), "{old} of {size}");
            let old_root = root_by_definition(&tree[..old]);
            assert!(verify_consistency(old as u64, &old_root, new, &new_root, &proof), "{old} of {size}");
        }
    }
}

#[test]
fn what_is_not_there_has_no_proof() {
    let leaves = leaves(9);
    let nodes = leaves.as_slice();
    assert_eq!(root(nodes, 0), Some(empty_root()));
    assert_eq!(root(nodes, 10), None);
    assert_eq!(inclusion(nodes, 9, 9), None);
    assert_eq!(inclusion(nodes, 3, 10), None);
    assert_eq!(inclusion(nodes, 0, u64::MAX), None);
    assert_eq!(consistency(nodes, 9, 8), None);
    assert_eq!(consistency(nodes, 0, 9), Some(Vec::new()));
    assert_eq!(range(nodes, 3, 3, 9), None);
    assert_eq!(range(nodes, 3, 10, 9), None);
    assert_eq!(nodes.node(63, u64::MAX), None);
    assert_eq!(nodes.node(200, 0), None);
}

#[test]
fn the_empty_tree_is_the_beginning_of_every_tree_by_its_own_root_only() {
    let (none, other) = (empty_root(), leaf_hash(b"other"));
    assert!(verify_consistency(0, &none, 5, &other, &[]));
    assert!(!verify_consistency(0, &other, 5, &other, &[]));
    assert!(!verify_consistency(0, &none, 5, &other, &[other]));
    assert!(verify_consistency(0, &none, 0, &none, &[]));
    assert!(!verify_consistency(0, &other, 0, &other, &[]));
    assert!(!verify_consistency(5, &none, 4, &other, &[]));
    assert!(!verify_consistency(u64::MAX, &none, u64::MAX, &none, &[]));
}

proptest! {
    #[test]
    fn a_range_verifies_and_nothing_else_does(
        size in 1usize..600, from in 0usize..600, width in 1usize..300, hurt in any::<usize>(),
    ) {
        let leaves = leaves(size);
        let from = from % size;
        let to = (from + width).min(size);
        let root = root_by_definition(&leaves);
        let proof = range(leaves.as_slice(), from as u64, to as u64, size as u64).expect("within the tree");
        let verify = |part: &[Digest], from: usize, size: usize, proof: &[Digest]| {
            verify_range(part, from as u64, size as u64, proof, &root)
        };
        let part = &leaves[from..to];
        prop_assert!(verify(part, from, size, &proof));
        prop_assert!(proof.len() <= 2 * 10);
        let mut other = part.to_vec();
        other[hurt % part.len()].0[hurt % 32] ^= 1;
        prop_assert!(!verify(&other, from, size, &proof));
        prop_assert!(!verify(&part[1..], from, size, &proof));
        prop_assert!(!verify(part, from + 1, size, &proof));
        prop_assert!(!verify(part, from, size, &[proof.clone(), vec![root]].concat()));
        if !proof.is_empty() {
            let mut other = proof.clone();
            other[hurt % proof.len()].0[hurt % 32] ^= 1;
            prop_assert!(!verify(part, from, size, &other));
            prop_assert!(!verify(part, from, size, &proof[1..]));
        }
    }

    #[test]
    fn a_changed_consistency_proof_fails(new in 2u64..600, old in 1u64..600, hurt in any::<usize>()) {
        let old = 1 + old % (new - 1);
        let leaves = leaves(new as usize);
        let (old_root, new_root) = (root_by_definition(&leaves[..old as usize]), root_by_definition(&leaves));
        let proof = consistency(leaves.as_slice(), old, new).expect("within the tree");
        prop_assert!(verify_consistency(old, &old_root, new, &new_root, &proof));
        prop_assert!(!verify_consistency(old, &new_root, new, &old_root, &proof));
        prop_assert!(!verify_consistency(old, &old_root, new, &new_root, &proof[1..]));
        prop_assert!(!verify_consistency(old, &old_root, new, &new_root, &[proof.as_slice(), &[old_root]].concat()));
        let mut other = proof.clone();
        other[hurt % proof.len()].0[hurt % 32] ^= 1;
        prop_assert!(!verify_consistency(old, &old_root, new, &new_root, &other));
    }
}
