use proptest::prelude::*;

use super::*;

fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<bool>().prop_map(Value::Bool),
        any::<i64>().prop_map(Value::I64),
        any::<f64>().prop_filter("finite", |float| float.is_finite()).prop_map(Value::F64),
        any::<String>().prop_map(Value::Text),
        any::<Vec<u8>>().prop_map(Value::Bytes),
    ]
}

#[test]
fn text_of_the_command_line() {
    for (text, value) in [
        ("true", Value::Bool(true)),
        ("-5", Value::I64(-5)),
        ("+5", Value::I64(5)),
        ("37.0", Value::F64(37.0)),
        ("1e3", Value::F64(1000.0)),
        ("\"37.0\"", Value::Text("37.0".into())),
        ("\"a\\\"b\\n\"", Value::Text("a\"b\n".into())),
        ("released", Value::Text("released".into())),
        ("nan", Value::Text("nan".into())),
        ("-inf", Value::Text("-inf".into())),
        ("2024-01-01T00:00:00Z", Value::Text("2024-01-01T00:00:00Z".into())),
        ("", Value::Text(String::new())),
        ("hex:00fF", Value::Bytes(vec![0, 255])),
    ] {
        assert_eq!(text.parse(), Ok(value), "{text}");
    }
    for text in ["9223372036854775808", "1e999", "\"open", "hex:0", "hex:zz"] {
        let error = text.parse::<Value>().unwrap_err().to_string();
        assert!(error.starts_with(text), "{error}");
    }
    assert_eq!("x".repeat(MAX_VALUE + 1).parse::<Value>(), Err(ValueError::TooLong(MAX_VALUE + 1)));
    assert!("x".repeat(MAX_VALUE).parse::<Value>().is_ok());
}

#[test]
fn numbers_compare_without_rounding() {
    let big = 1i64 << 53;
    let compare = |int: i64, float: f64| ValueRef::I64(int).compare(ValueRef::F64(float));
    assert_eq!(compare(big + 1, big as f64), Some(Ordering::Greater));
    assert_eq!(compare(big, big as f64), Some(Ordering::Equal));
    assert_eq!(compare(i64::MAX, i64::MAX as f64), Some(Ordering::Less));
    assert_eq!(compare(i64::MIN, i64::MIN as f64), Some(Ordering::Equal));
    assert_eq!(compare(-1, -1.5), Some(Ordering::Greater));
    assert_eq!(compare(0, -0.5), Some(Ordering::Greater));
    assert_eq!(compare(0, -0.0), Some(Ordering::Equal));
    assert_eq!(ValueRef::Text("1").compare(ValueRef::I64(1)), None);
    assert_eq!((exact_float(big + 1), exact_float(i64::MAX), exact_float(-7)), (None, None, Some(-7.0)));
}

proptest! {
    #[test]
    fn text_and_bytes_give_the_value_back(value in value()) {
        prop_assert_eq!(value.to_string().parse::<Value>().unwrap(), value.clone());
        let mut bytes = Vec::new();
        value.borrowed().encode(&mut Writer(&mut bytes));
        let mut reader = Reader::new(&bytes);
        prop_assert_eq!(ValueRef::decode(&mut reader).unwrap().to_owned(), value);
        prop_assert!(reader.finish().is_ok());
    }

    #[test]
    fn assigning_gives_the_value_and_wastes_no_memory(old in value(), new in value()) {
        let mut place = old;
        place.assign(new.borrowed());
        prop_assert_eq!(&place, &new);
        if let Value::Text(text) = &place {
            prop_assert!(text.capacity() <= 2 * text.len().max(1));
        }
    }

    #[test]
    fn comparing_is_antisymmetric(a in value(), b in value()) {
        prop_assert_eq!(a.borrowed().compare(b.borrowed()), b.borrowed().compare(a.borrowed()).map(Ordering::reverse));
    }
}
