use minicbor::Encoder;
use proptest::prelude::*;

use super::*;

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
        ("f97c00", Fault::NotFinite),
        ("f97e00", Fault::NotFinite),
        ("fa7f800000", Fault::NotFinite),
        ("fbfff0000000000000", Fault::NotFinite),
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
        let bytes = data_encoding::HEXLOWER.decode(hex.as_bytes()).unwrap();
        assert_eq!(Reader::new(&bytes).item().map_err(|error| error.fault), Err(fault), "{hex}");
    }
}

#[test]
fn deep_nesting_costs_no_stack_and_numbers_keep_their_range() {
    let deep = [vec![0x81; 1_000_000], vec![0]].concat();
    assert_eq!(Reader::new(&deep).item().unwrap().len(), deep.len());
    let range = |bytes: &[u8]| Reader::new(bytes).int().map_err(|error| error.fault);
    assert_eq!(range(&[0x1b, 0x80, 0, 0, 0, 0, 0, 0, 0]), Err(Fault::Range));
    assert_eq!(range(&[0x3b, 0x80, 0, 0, 0, 0, 0, 0, 0]), Err(Fault::Range));
    assert_eq!(range(&[0x3b, 0x7f, 255, 255, 255, 255, 255, 255, 255]), Ok(i64::MIN));
    assert_eq!(Reader::new(&[0x1a, 0, 1, 0, 0]).uint16().map_err(|error| error.fault), Err(Fault::Range));
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
        prop_assert_eq!(reader.item().unwrap(), &ours);
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
        while reader.item().is_ok() && reader.finish().is_err() {}
        prop_assert!(reader.offset() <= bytes.len());
    }
}
