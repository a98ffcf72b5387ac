use proptest::prelude::*;

use super::*;
use crate::crypto::hash::{RootBuilder, leaf_hash, verify_path};

fn sequential_root(leaves: &[Digest]) -> Digest {
    let mut tree = RootBuilder::default();
    leaves.iter().for_each(|leaf| tree.push_hash(*leaf));
    tree.root()
}

#[test]
fn no_leaf_and_one_leaf() {
    let mut tree = DenseTree::new();
    assert!(tree.is_empty());
    assert_eq!(tree.root(), empty_root());
    tree.push(leaf_hash(b"x"));
    assert_eq!(tree.root(), leaf_hash(b"x"));
    assert!(!tree.set(1, leaf_hash(b"y")));
    assert!(tree.set(0, leaf_hash(b"y")));
    assert_eq!(tree.root(), leaf_hash(b"y"));
    assert_eq!(tree.len(), 1);
}

#[test]
fn growing_one_by_one_equals_the_history_tree() {
    let mut tree = DenseTree::new();
    let mut leaves = Vec::new();
    for i in 0..300u16 {
        leaves.push(leaf_hash(&i.to_be_bytes()));
        tree.push(leaves[leaves.len() - 1]);
        assert_eq!(tree.root(), sequential_root(&leaves), "size {}", leaves.len());
    }
}

#[derive(Clone, Debug)]
enum Step {
    Push(u8),
    Set(usize, u8),
    Root,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => any::<u8>().prop_map(Step::Push),
        4 => (any::<usize>(), any::<u8>()).prop_map(|(i, v)| Step::Set(i, v)),
        1 => Just(Step::Root),
    ];
    prop::collection::vec(step, 0..200)
}

proptest! {
    #[test]
    fn any_mix_of_changes_gives_the_root_of_the_final_leaves(steps in steps()) {
        let mut tree = DenseTree::new();
        let mut leaves: Vec<Digest> = Vec::new();
        for step in steps {
            match step {
                Step::Push(value) => {
                    leaves.push(leaf_hash(&[value]));
                    tree.push(leaf_hash(&[value]));
                }
                Step::Set(index, value) if !leaves.is_empty() => {
                    let index = index % leaves.len();
                    leaves[index] = leaf_hash(&[value]);
                    prop_assert!(tree.set(index, leaf_hash(&[value])));
                }
                Step::Set(..) => {}
                Step::Root => prop_assert_eq!(tree.root(), sequential_root(&leaves)),
            }
        }
        let root = tree.root();
        prop_assert_eq!(root, sequential_root(&leaves));
        for (index, leaf) in leaves.iter().enumerate() {
            let path = tree.path(index).unwrap();
            prop_assert!(verify_path(leaf, index as u64, leaves.len() as u64, &path, &root));
        }
        prop_assert_eq!(tree.path(leaves.len()), None);
        if tree.set(0, leaf_hash(b"changed")) {
            prop_assert_eq!(tree.path(0), None);
        }
    }
}
