//! `docs/vectors.json` was made by another program from the documentation: what it says must hold here.

use atlas_dataplane::crypto::hash::{leaf_hash, merkle_root};
use atlas_dataplane::crypto::verify::verify;
use atlas_dataplane::history::entry::EntryView;
use atlas_dataplane::types::{Digest, PublicKey};
use atlas_dataplane::wire::bundle::Bundle;
use atlas_dataplane::wire::statement::{KeyChange, SignedStatement};
use data_encoding::HEXLOWER;
use serde_json::Value;

const FORMATS: &str = include_str!("../docs/formats.md");
const VECTORS: &str = include_str!("../docs/vectors.json");

fn vectors() -> Value {
    serde_json::from_str(VECTORS).unwrap()
}

fn bytes(value: &Value) -> Vec<u8> {
    HEXLOWER.decode(value.as_str().unwrap().as_bytes()).unwrap()
}

fn list(value: &Value) -> Vec<Vec<u8>> {
    value.as_array().unwrap().iter().map(bytes).collect()
}

fn digest(value: &Value) -> Digest {
    Digest(bytes(value).try_into().unwrap())
}

fn root(leaves: &[Vec<u8>]) -> Digest {
    merkle_root(leaves.iter().map(Vec::as_slice))
}

#[test]
fn entries_and_slots_hash_to_their_roots() {
    let vectors = vectors();
    let (entries, slots) = (list(&vectors["entries"]), list(&vectors["slots"]));
    for (entry, hash) in entries.iter().zip(vectors["leaf_hashes"].as_array().unwrap()) {
        assert_eq!(leaf_hash(entry), digest(hash));
    }
    assert_eq!(root(&entries), digest(&vectors["root"]));
    assert_eq!(root(&slots), digest(&vectors["state_root"]));
    let by_name: Vec<Vec<u8>> = slots.iter().rev().cloned().collect();
    assert_eq!(root(&by_name), digest(&vectors["absence_root"]));
    let Ok(EntryView::State(state)) = EntryView::decode(&entries[5]) else { panic!("entry 5 is a STATE") };
    assert_eq!((state.slot_count, state.state_root), (2, digest(&vectors["state_root"])));
    assert_eq!(state.absence_root, Some(digest(&vectors["absence_root"])));
}

#[test]
fn bundles_and_statements_hold() {
    let vectors = vectors();
    let origin = vectors["origin"].as_str().unwrap();
    for (index, entry) in list(&vectors["entries"]).iter().enumerate() {
        match EntryView::decode(entry).unwrap() {
            EntryView::Bundle(view) => {
                let bundle = Bundle::parse(view.cose, view.requests(), origin).unwrap();
                assert!(verify(bundle.key(), &bundle.signed_bytes(), bundle.signature()), "entry {index}");
            }
            EntryView::Key(view) => {
                let signed = SignedStatement::parse(view.cose, origin).unwrap();
                assert!(signed.holds());
                assert!(matches!(&signed.statement.change, KeyChange::Register { name, .. } if name == "Maria Keller"));
            }
            EntryView::Config(view) => assert_eq!(view.policy, vectors["policy"].as_str().unwrap()),
            EntryView::State(_) => assert_eq!(index, 5),
        }
    }
    let of_bundle = &vectors["bundle"];
    let (requests, cose) = (list(&of_bundle["requests"]), bytes(&of_bundle["cose_sign1"]));
    let bundle = Bundle::parse(&cose, requests.iter().map(Vec::as_slice), origin).unwrap();
    assert_eq!(bundle.header().root, digest(&of_bundle["requests_root"]));
    assert_eq!(*bundle.key(), PublicKey(bytes(&of_bundle["key"]).try_into().unwrap()));
}

#[test]
fn the_examples_of_the_documentation_are_those_of_the_vectors() {
    let mut examples = 0;
    for word in FORMATS.split(|c: char| c.is_whitespace() || c == '`').filter(|word| word.len() >= 40) {
        let is_hex = word.bytes().all(|byte| byte.is_ascii_hexdigit());
        let is_base64 = word.ends_with('=') && !word.contains(['[', '"', '<']);
        if is_hex || is_base64 {
            assert!(VECTORS.contains(word), "{word}");
            examples += 1;
        }
    }
    assert!(examples > 15, "{examples}");
}
