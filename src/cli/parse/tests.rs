use proptest::prelude::*;

use super::*;
use crate::twin::operation::Write;

fn value(text: &str) -> Value {
    text.parse::<Assignment>().map(|assignment| assignment.value).unwrap()
}

#[test]
fn an_assignment_splits_at_the_first_equals_sign() {
    let assignment: Assignment = "nacelle/note=a=b c".parse().unwrap();
    assert_eq!(assignment, Assignment { path: "nacelle/note".to_owned(), value: Value::Text("a=b c".to_owned()) });
    assert_eq!(value("p=1345.2"), Value::F64(1345.2));
    assert_eq!(value("p=-7"), Value::I64(-7));
    assert_eq!(value("p=true"), Value::Bool(true));
    assert_eq!(value("p=\"7\""), Value::Text("7".to_owned()));
    assert_eq!(value("p=hex:00fF"), Value::Bytes(vec![0, 255]));
    assert_eq!(value("p="), Value::Text(String::new()));
}

#[test]
fn a_wrong_assignment_says_which_part_is_wrong() {
    let fault = |text: &str| text.parse::<Assignment>().unwrap_err();
    assert_eq!(fault("power"), ParseError::Assignment("power".to_owned()));
    assert_eq!(fault("=5"), ParseError::Property(String::new()));
    assert_eq!(fault("a b=5"), ParseError::Property("a b".to_owned()));
    assert!(matches!(fault("p=99999999999999999999"), ParseError::Value { path, .. } if path == "p"));
    assert!(matches!(fault("p=\"open"), ParseError::Value { .. }));
    assert!(matches!(fault("p=1e999"), ParseError::Value { .. }));
}

fn test(text: &str) -> Test {
    let condition = condition(text).unwrap();
    assert_eq!((condition.twin.as_str(), condition.path.as_str()), ("plant/t-1", "a/state"), "{text}");
    condition.test
}

#[test]
fn conditions_have_every_operator_with_and_without_white_space() {
    let five = |comparison| Test::Value(comparison, Value::I64(5));
    for comparison in Comparison::ALL {
        let symbol = comparison.symbol();
        assert_eq!(test(&format!("plant/t-1 a/state {symbol} 5")), five(comparison));
        assert_eq!(test(&format!(" plant/t-1\ta/state{symbol}5 ")), five(comparison));
    }
    assert_eq!(test("plant/t-1 a/state<-5"), Test::Value(Comparison::Less, Value::I64(-5)));
    let stopped = Test::Value(Comparison::Equal, Value::Text("stopped".to_owned()));
    assert_eq!(test("plant/t-1 a/state == stopped"), stopped);
    assert_eq!(test("plant/t-1 a/state == \"stopped\""), stopped);
    let spaced = Test::Value(Comparison::NotEqual, Value::Text("not  yet".to_owned()));
    assert_eq!(test("plant/t-1 a/state != \"not  yet\""), spaced);
    assert_eq!(test("plant/t-1 a/state revision == 12"), Test::Revision(12));
    assert_eq!(test("plant/t-1 a/state revision==0"), Test::Revision(0));
    assert_eq!(test("plant/t-1 a/state exists"), Test::Exists);
    assert_eq!(test("plant/t-1 a/state absent"), Test::Absent);
}

#[test]
fn a_property_may_be_called_like_a_keyword() {
    let condition = condition("plant/t-1 revision == 5").unwrap();
    assert_eq!(condition.path, "revision");
    assert_eq!(condition.test, Test::Value(Comparison::Equal, Value::I64(5)));
}

#[test]
fn a_wrong_condition_is_told_apart() {
    let fault = |text: &str| condition(text).unwrap_err();
    for incomplete in [
        "",
        "plant/t-1",
        "plant/t-1 state",
        "plant/t-1 state ",
        "plant/t-1 state =",
        "plant/t-1 state ==",
        "plant/t-1 state === 5",
        "plant/t-1 state = 5",
        "plant/t-1 state is stopped",
        "plant/t-1 state revision 5",
        "plant/t-1 state exists now",
    ] {
        assert!(matches!(fault(incomplete), ParseError::Condition(_)), "{incomplete:?}: {}", fault(incomplete));
    }
    assert!(matches!(fault("plant state == 5"), ParseError::Twin(_)));
    assert!(matches!(fault("plant/t-1 a//b == 5"), ParseError::Property(_)));
    assert!(matches!(fault("plant/t-1 state == 5 and plant/t-1 b == 6"), ParseError::Unquoted(_)));
    assert!(matches!(fault("plant/t-1 state == \"a\" b"), ParseError::Value { .. }));
    for revision in ["x", "-1", "+1", "1.0", ""] {
        let fault = fault(&format!("plant/t-1 state revision == {revision}"));
        assert!(matches!(fault, ParseError::Revision(_)), "{revision:?}: {fault}");
    }
}

#[test]
fn a_bound_is_a_position_or_a_time() {
    assert_eq!(bound("1042.3"), Ok(Bound::Position(Position { entry: 1042, request: 3 })));
    assert_eq!(bound("1970-01-01T00:00:01.5Z"), Ok(Bound::Time(1500)));
    assert_eq!(bound("1042"), Err(ParseError::Bound("1042".to_owned())));
    assert_eq!(bound("yesterday"), Err(ParseError::Bound("yesterday".to_owned())));
    assert!(matches!(bound("2015-02-30T00:00:00Z"), Err(ParseError::Time(_))));
    assert!(matches!(bound("2015-02-20T00:00:00.0001Z"), Err(ParseError::Time(_))));
}

#[test]
fn what_the_store_would_refuse_anywhere_is_refused_here() {
    let delete = |paths: &[&str]| {
        let paths = paths.iter().map(|path| (*path).to_owned()).collect();
        Operation::Write(Write::Delete { twin: "plant/t-1".to_owned(), paths: Some(paths), reason: None })
    };
    assert!(encode(&delete(&["a", "b"])).is_ok());
    assert!(matches!(encode(&delete(&["a", "a"])), Err(ParseError::Operation(_))));
    assert!(matches!(encode(&delete(&[])), Err(ParseError::Operation(_))));
}

#[test]
fn errors_do_not_repeat_endless_input() {
    let long = "x".repeat(100_000);
    assert!(twin(&long).unwrap_err().to_string().len() < 400);
    assert!(condition(&long).unwrap_err().to_string().len() < 400);
    assert!(bound(&long).unwrap_err().to_string().len() < 400);
}

fn any_value() -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<bool>().prop_map(Value::Bool),
        any::<i64>().prop_map(Value::I64),
        any::<f64>().prop_filter("finite", |float| float.is_finite()).prop_map(Value::F64),
        any::<String>().prop_map(Value::Text),
        prop::collection::vec(any::<u8>(), 0..40).prop_map(Value::Bytes),
    ]
}

proptest! {
    #[test]
    fn a_written_value_reads_back_in_assignments_and_conditions(value in any_value(), operator in 0usize..6) {
        let assignment: Assignment = format!("a/b={value}").parse().unwrap();
        prop_assert_eq!(&assignment.value, &value);
        let comparison = Comparison::ALL[operator];
        let condition = condition(&format!("n/t a/b {comparison} {value}")).unwrap();
        prop_assert_eq!(condition.test, Test::Value(comparison, value));
    }

    #[test]
    fn no_text_makes_the_parsers_panic(text in ".{0,80}") {
        let _ = text.parse::<Assignment>();
        let _ = condition(&text);
        let _ = condition(&format!("n/t a{text}"));
        let _ = bound(&text);
    }
}
