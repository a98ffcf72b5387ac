use super::*;

/// Roots and the leaf hash made by an independent program; leaf i is "entry-i".
fn vectors() -> serde_json::Value {
    let text = include_str!("../../tests/vectors/rfc6962.json");
    serde_json::from_str(text).unwrap()
}

/// RFC 6962 2.1 word for word: split at the largest power of two below the size.
fn naive_root(leaves: &[Digest]) -> Digest {
    match leaves {
        [] => empty_root(),
        [leaf] => *leaf,
        _ => {
            let split = leaves.len().next_power_of_two() / 2;
            node_hash(&naive_root(&leaves[..split]), &naive_root(&leaves[split..]))
        }
    }
}

#[test]
fn roots_equal_the_independent_vectors() {
    let vectors = vectors();
    let roots = vectors["roots"].as_object().unwrap();
    let mut tree = HistoryTree::new();
    assert_eq!(tree.root().to_string(), vectors["empty"].as_str().unwrap());
    let mut compared = 0;
    for i in 0..70_000u64 {
        let leaf = tree.append(format!("entry-{i}").as_bytes());
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
    for size in 0..=leaves.len() {
        assert_eq!(tree.root(), naive_root(&leaves[..size]), "size {size}");
        if let Some(leaf) = leaves.get(size) {
            tree.append_hash(*leaf);
        }
    }
}

#[test]
fn an_edge_survives_its_bytes_and_goes_on_alike() {
    let mut tree = HistoryTree::new();
    for i in 0..100u8 {
        let mut again = HistoryTree::from_bytes(&tree.to_bytes()).unwrap();
        assert_eq!(again, tree);
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
    assert_eq!(HistoryTree::from_bytes(&bytes[..5]), Err(EdgeError::Truncated(5)));
    for length in 8..bytes.len() {
        assert_eq!(
            HistoryTree::from_bytes(&bytes[..length]),
            Err(EdgeError::Length { size: 7, expected: bytes.len(), found: length })
        );
    }
    let endless = [[0xff; 8].as_slice(), &[0; 64 * 32]].concat();
    assert_eq!(HistoryTree::from_bytes(&endless), Err(EdgeError::Size(u64::MAX)));
}
