use super::*;
use crate::cbor::Writer;

fn leaf(tag: &str, value: Option<&str>) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut out = Writer(&mut bytes);
    out.array(12).text(tag).uint(3).text("plant/pump").text("temp").uint(7).uint(42).uint(1).int(-5).null();
    out.bytes(&[9; 32]).uint(0);
    match value {
        Some(value) => out.text(value),
        None => out.undefined(),
    };
    bytes
}

#[test]
fn a_leaf_reads_as_written() {
    let bytes = leaf(LEAF_TAG, Some("on"));
    let read = SlotLeaf::decode(&bytes).expect("a leaf");
    assert_eq!((read.slot, read.name(), read.revision), (3, ("plant/pump", "temp"), 7));
    assert_eq!((read.position, read.time_ms), (Position { entry: 42, request: 1 }, -5));
    assert_eq!(read.value, Some(&b"\x62on"[..]));
    let deleted = leaf(LEAF_TAG, None);
    assert_eq!(SlotLeaf::decode(&deleted).map(|leaf| leaf.value), Ok(None));
}

#[test]
fn other_bytes_are_no_leaf() {
    assert!(SlotLeaf::decode(&leaf("atlas-slot/2", None)).is_err());
    let bytes = leaf(LEAF_TAG, Some("on"));
    for end in 0..bytes.len() {
        assert!(SlotLeaf::decode(&bytes[..end]).is_err(), "cut at {end}");
    }
    assert!(SlotLeaf::decode(&[bytes.as_slice(), &[0]].concat()).is_err());
}
