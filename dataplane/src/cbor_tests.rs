use minicbor::Encoder;
use proptest::prelude::*;

use super::*;

const DEPTH: usize = 16;

fn written(write: impl FnOnce(&mut Writer<'_>)) -> Vec<u8> {
    let mut bytes = Vec::new();
    write(&mut Writer(&mut bytes));
    bytes
}

#[test]
fn floats_take_the_shortest_form_of_rfc_8949() {
    // Appendix A of RFC 8949.
    for (value, hex) in [
        (0.0, "f90000"),
        (-0.0, "f98000"),
        (1.0, "f93c00"),
        (1.1, "fb3ff199999999999a"),
        (1.5, "f93e00"),
        (65504.0, "f97bff"),
        (100_000.0, "fa47c35000"),
        (3.402_823_466_385_288_6e38, "fa7f7fffff"),
        (1.0e300, "fb7e37e43c8800759c"),
        (5.960_464_477_539_063e-8, "f90001"),
        (0.000_061_035_156_25, "f90400"),
        (-4.1, "fbc010666666666666"),
    ] {
        let bytes = written(|w| {
            w.float(value);
        });
        assert_eq!(data_encoding::HEXLOWER.encode(&bytes), hex);
        assert_eq!(Reader::new(&bytes).float().unwrap().to_bits(), f64::to_bits(value));
    }
}

#[test]
fn every_other_encoding_of_an_item_is_refused() {
    for (hex, fault) in [
        ("1817", Fault::NotDeterministic),               // 23 in two bytes
        ("1900ff", Fault::NotDeterministic),             // 255 in three
        ("1a0000ffff", Fault::NotDeterministic),         // 65535 in five
        ("1b00000000ffffffff", Fault::NotDeterministic), // 2^32-1 in nine
        ("3817", Fault::NotDeterministic),               // -24 in two
        ("5801aa", Fault::NotDeterministic),             // one byte behind a long head
        ("5f41aaff", Fault::NotDeterministic),           // indefinite byte string
        ("7f6161ff", Fault::NotDeterministic),           // indefinite text
        ("9f00ff", Fault::NotDeterministic),             // indefinite array
        ("bf0000ff", Fault::NotDeterministic),           // indefinite map
        ("fa3fc00000", Fault::NotDeterministic),         // 1.5 as f32
        ("fb3ff8000000000000", Fault::NotDeterministic), // 1.5 as f64
        ("fb40f86a0000000000", Fault::NotDeterministic), // 100000 as f64
        ("61ff", Fault::Utf8),
        ("62c3", Fault::Truncated),
        ("9bffffffffffffffff", Fault::Truncated),
        ("5bffffffffffffffff", Fault::Truncated),
        ("bbffffffffffffffff", Fault::Truncated),
        ("82", Fault::Truncated),
        ("8200", Fault::Truncated),
        ("c1", Fault::Truncated),
        ("", Fault::Truncated),
        ("f8ff", Fault::Unexpected), // a simple value without a meaning here
        ("ff", Fault::Unexpected),
    ] {
        let bytes = unhex(hex);
        assert_eq!(Reader::new(&bytes).item(DEPTH).map_err(|error| error.fault), Err(fault), "{hex}");
    }
}

#[test]
fn a_number_that_is_asked_for_is_finite() {
    for hex in ["f97c00", "f97e00", "fa7f800000", "fbfff0000000000000", "fb7ff8000000000000"] {
        let bytes = unhex(hex);
        assert_eq!(Reader::new(&bytes).float().map_err(|error| error.fault), Err(Fault::NotFinite), "{hex}");
    }
}

#[test]
fn deep_nesting_is_refused_and_numbers_keep_their_range() {
    let deep = [vec![0x81; 1_000_000], vec![0]].concat();
    assert_eq!(Reader::new(&deep).item(DEPTH), Err(CborError { at: DEPTH, fault: Fault::TooDeep }));
    let range = |bytes: &[u8]| Reader::new(bytes).int().map_err(|error| error.fault);
    assert_eq!(range(&[0x1b, 0x80, 0, 0, 0, 0, 0, 0, 0]), Err(Fault::Range));
    assert_eq!(range(&[0x3b, 0x80, 0, 0, 0, 0, 0, 0, 0]), Err(Fault::Range));
    assert_eq!(range(&[0x3b, 0x7f, 255, 255, 255, 255, 255, 255, 255]), Ok(i64::MIN));
    assert_eq!(Reader::new(&[0x1a, 0, 1, 0, 0]).narrow::<u16>().map_err(|error| error.fault), Err(Fault::Range));
}

fn unhex(text: &str) -> Vec<u8> {
    data_encoding::HEXLOWER.decode(text.as_bytes()).unwrap()
}

#[test]
fn an_item_is_the_shortest_form_of_everything() {
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
        assert!(is_item(&unhex(item), DEPTH), "{item}");
    }
}

#[test]
fn no_other_form_is_an_item() {
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
        assert!(!is_item(&unhex(item), DEPTH), "{why}: {item}");
    }
}

#[test]
fn depth_is_bounded_for_arrays_maps_and_tags() {
    for level in [&[0x81][..], &[0xa1, 0x00], &[0xc1]] {
        let nested = |depth: usize| [level.repeat(depth), vec![0x00]].concat();
        assert!(is_item(&nested(DEPTH), DEPTH));
        assert!(!is_item(&nested(DEPTH + 1), DEPTH));
        assert!(!is_item(&nested(60_000), DEPTH));
    }
}

proptest! {
    #[test]
    fn the_writer_agrees_with_another_encoder(uint: u64, int: i64, shift in 0u32..64, text: String, bytes: Vec<u8>, flag: bool) {
        let (uint, int) = (uint >> shift, int >> shift);
        let ours = written(|w| {
            w.array(8).uint(uint).int(int).text(&text).bytes(&bytes).bool(flag).null().undefined().optional(None::<u8>, |_, _| {});
        });
        let mut e = Encoder::new(Vec::new());
        e.array(8).unwrap().u64(uint).unwrap().i64(int).unwrap().str(&text).unwrap().bytes(&bytes).unwrap();
        e.bool(flag).unwrap().null().unwrap().undefined().unwrap().null().unwrap();
        prop_assert_eq!(&ours, &e.into_writer());

        let mut reader = Reader::new(&ours);
        prop_assert_eq!(reader.item(DEPTH).unwrap(), &ours);
        prop_assert!(reader.finish().is_ok());
        let mut reader = Reader::new(&ours);
        prop_assert_eq!(reader.array().unwrap(), 8);
        prop_assert_eq!(reader.uint().unwrap(), uint);
        prop_assert_eq!(reader.int().unwrap(), int);
        prop_assert_eq!(reader.text().unwrap(), &text);
        prop_assert_eq!(reader.bytes().unwrap(), &bytes);
        prop_assert_eq!(reader.bool().unwrap(), flag);
        prop_assert!(reader.finish().is_err());
    }

    #[test]
    fn any_finite_float_survives(bits: u64, short: u32) {
        for value in [f64::from_bits(bits), f64::from(f32::from_bits(short)), f64::from(f32::from_bits(short & 0xffff_e000))] {
            let bytes = written(|w| { w.float(value); });
            match Reader::new(&bytes).float() {
                Ok(read) => prop_assert_eq!(read.to_bits(), value.to_bits()),
                Err(error) => prop_assert!(!value.is_finite() && error.fault == Fault::NotFinite),
            }
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
        let mut reader = Reader::new(&bytes);
        while reader.item(DEPTH).is_ok() && reader.finish().is_err() {}
        prop_assert!(reader.offset() <= bytes.len());
    }
}
