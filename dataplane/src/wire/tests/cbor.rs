//! The check for deterministic CBOR against examples of RFC 8949 and against every way to say the same differently.

use crate::wire::cbor::is_item;
use crate::wire::limits::MAX_OPERATION_DEPTH;

fn hex(text: &str) -> Vec<u8> {
    data_encoding::HEXLOWER.decode(text.as_bytes()).unwrap()
}

#[test]
fn accepts_the_shortest_form_of_everything() {
    for item in [
        "00",
        "17",
        "1818",
        "18ff",
        "190100",
        "19ffff",
        "1a00010000",
        "1b0000000100000000",
        "1bffffffffffffffff",
        "20",
        "3bffffffffffffffff",
        "40",
        "43010203",
        "60",
        "62c3bc",
        "80",
        "83010203",
        "a0",
        "a201020304",
        "a21864002000",
        "a2613100623131f6",
        "c101",
        "f4",
        "f5",
        "f6",
        "f7",
        "f90000",
        "f98000",
        "f97c00",
        "f9fc00",
        "f97e00",
        "fa47c35000",
        "fb3ff199999999999a",
        "fa33000000",
        "f90001",
    ] {
        assert!(is_item(&hex(item)), "{item}");
    }
}

#[test]
fn refuses_every_other_form() {
    for (why, item) in [
        ("nothing", ""),
        ("two items", "0000"),
        ("long 0", "1800"),
        ("long 23", "1817"),
        ("long 255", "1900ff"),
        ("long 65535", "1a0000ffff"),
        ("long 2^32-1", "1b00000000ffffffff"),
        ("long negative", "3800"),
        ("long length of bytes", "580100"),
        ("long length of text", "780161"),
        ("long count of an array", "980100"),
        ("long count of a map", "b8010000"),
        ("long tag", "d80100"),
        ("indefinite bytes", "5f4100ff"),
        ("indefinite text", "7f6161ff"),
        ("indefinite array", "9f00ff"),
        ("indefinite map", "bf0000ff"),
        ("a lone break", "ff"),
        ("a break in an array", "81ff"),
        ("reserved info 28", "1c"),
        ("missing argument", "19ff"),
        ("missing content", "430102"),
        ("missing element", "8200"),
        ("missing value", "a100"),
        ("missing tagged item", "c1"),
        ("a count beyond everything", "9bffffffffffffffff00"),
        ("a length beyond everything", "5bffffffffffffffff00"),
        ("text that is not UTF-8", "61ff"),
        ("map keys that descend", "a203040102"),
        ("a repeated key", "a201020103"),
        ("keys by length first (RFC 7049)", "a22000186400"),
        ("simple value 0", "e0"),
        ("simple value in two bytes", "f8ff"),
        ("1.0 as f32", "fa3f800000"),
        ("1.0 as f64", "fb3ff0000000000000"),
        ("infinity as f32", "fa7f800000"),
        ("infinity as f64", "fb7ff0000000000000"),
        ("100000.0 as f64", "fb40f86a0000000000"),
        ("another NaN", "f97e01"),
        ("negative NaN", "f9fe00"),
        ("NaN as f32", "fa7fc00000"),
        ("NaN as f64", "fb7ff8000000000000"),
        ("half a float", "fa47c350"),
    ] {
        assert!(!is_item(&hex(item)), "{why}: {item}");
    }
}

#[test]
fn depth_is_bounded_for_arrays_maps_and_tags() {
    for level in [&[0x81][..], &[0xa1, 0x00], &[0xc1]] {
        let nested = |depth: usize| [level.repeat(depth), vec![0x00]].concat();
        assert!(is_item(&nested(MAX_OPERATION_DEPTH)));
        assert!(!is_item(&nested(MAX_OPERATION_DEPTH + 1)));
        assert!(!is_item(&nested(60_000)));
    }
}
