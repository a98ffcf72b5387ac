//! The picture: what is on it, and that nothing written by others breaks it.

use atlas_dataplane::types::Code;
use proptest::prelude::*;

use super::super::tests::{item, record, rows};
use super::*;
use crate::twin::record::RecordItem;

/// A reader of XML as far as the picture uses it: gives the texts of elements, and panics where it is not well-formed.
fn texts(svg: &str) -> Vec<String> {
    let (mut open, mut texts, mut rest) = (Vec::new(), Vec::new(), svg);
    while let Some(start) = rest.find('<') {
        let text = &rest[..start];
        assert!(!text.contains('>'), "{text}");
        if !text.trim().is_empty() {
            texts.push(text.to_owned());
        }
        let end = rest.find('>').expect("a tag ends");
        let tag = &rest[start + 1..end];
        assert!(!tag.contains('<') && tag.matches('"').count() % 2 == 0, "{tag}");
        match tag.strip_prefix('/') {
            Some(name) => assert_eq!(open.pop(), Some(name.to_owned())),
            None if tag.ends_with('/') => {}
            None => open.push(tag.split([' ', '\n']).next().unwrap().to_owned()),
        }
        rest = &rest[end + 1..];
    }
    assert!(open.is_empty() && rest.trim().is_empty(), "{open:?} {rest}");
    let entity = |text: &&String| text.contains('&');
    for text in texts.iter().filter(entity) {
        for part in text.split('&').skip(1) {
            let known = ["amp;", "lt;", "gt;", "quot;", "#39;"];
            assert!(known.iter().any(|entity| part.starts_with(entity)), "{text}");
        }
    }
    texts
}

fn timeline<'a>(rows: &'a [Row], from_ms: i64, to_ms: i64) -> Timeline<'a> {
    Timeline { twin: "plant/turbine-1", from_ms, to_ms, mark_ms: Some(from_ms / 2 + to_ms / 2), rows }
}

fn text(value: &str) -> Option<Value> {
    Some(Value::Text(value.to_owned()))
}

#[test]
fn every_property_has_a_lane_and_every_refusal_a_cross() {
    let at = 1_427_766_000_000;
    let old = Old::Value(Value::F64(1_345.5));
    let quality = RecordItem { quality: Quality::Bad, ..item("power", Old::Unknown, Some(Value::F64(0.0))) };
    let records = [
        record(
            1,
            at,
            Code::DONE,
            vec![item("power", old, Some(Value::F64(12.0))), item("state", Old::Nothing, text("trip"))],
        ),
        record(2, at + 1_000, Code::CONDITION_FAILED, vec![item("brake", Old::Unknown, text("released"))]),
        record(3, at + 2_000, Code::DONE, vec![quality]),
        record(
            4,
            at + 3_000,
            Code::DONE,
            vec![RecordItem { property: None, revision: None, ..item("", Old::Unknown, None) }],
        ),
    ];
    let all: Vec<Row> = records.iter().flat_map(|record| rows(record, "operator")).collect();
    let svg = draw(&timeline(&all, at - 60_000, at + 60_000)).unwrap();
    let texts = texts(&svg);
    let has = |wanted: &str| texts.iter().any(|text| text == wanted);
    assert!(
        ["power", "state", "brake", "(whole twin)", "operator", "&quot;trip&quot;", "b", "1345.5", "0"]
            .iter()
            .all(|text| has(text)),
        "{texts:?}"
    );
    // The cross of the legend, and the refusal's.
    assert_eq!(svg.matches("class=\"x\"").count(), 2);
    assert!(texts.iter().any(|text| text.contains("condition not met")) && svg.contains("class=\"d\""));
    assert!(has("01:40:00"), "{texts:?}");
}

#[test]
fn an_empty_picture_says_so() {
    let svg = draw(&timeline(&[], 0, 0)).unwrap();
    assert!(texts(&svg).iter().any(|text| text.contains("nothing happened")));
}

#[test]
fn what_is_beyond_the_limits_is_counted() {
    let items =
        (0..MAX_LANES + 5).map(|at| item(&format!("p{at:03}"), Old::Nothing, Some(Value::Bool(true)))).collect();
    let few = rows(&record(1, 5, Code::DONE, items), "operator");
    let svg = draw(&timeline(&few, 0, 10)).unwrap();
    assert!(texts(&svg).iter().any(|text| text.contains("5 more properties")));
    let many: Vec<Row> = (0..MAX_ROWS + 7).map(|_| few[0].clone()).collect();
    let svg = draw(&timeline(&many, 0, 10)).unwrap();
    assert!(texts(&svg).iter().any(|text| text.contains("7 later changes")));
}

#[test]
fn times_have_steps_that_people_count_in() {
    for (span, step) in [(0, 1), (10, 2), (600_000, 120_000), (3_600_000, 600_000), (i64::MAX, i64::MAX / 9 + 1)] {
        assert_eq!(time_step(span), step, "{span}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn nothing_that_is_written_breaks_the_markup(
        twin: String, name: String, property: String, value: String, reason: String,
        numbers in prop::collection::vec(prop::num::f64::NORMAL | prop::num::f64::ZERO, 0..4),
        (from, to) in (any::<i64>(), any::<i64>()), time: i64, refused: bool,
    ) {
        let code = if refused { Code::FORBIDDEN } else { Code::DONE };
        let mut items = vec![item(&property, Old::Nothing, Some(Value::Text(value)))];
        items.extend(numbers.into_iter().map(|number| item("number", Old::Value(Value::F64(-number)), Some(Value::F64(number)))));
        let mut record = record(1, time.max(i64::MIN + 5), code, items);
        record.reason = Some(reason);
        let all = rows(&record, &name);
        let svg = draw(&Timeline { twin: &twin, from_ms: from, to_ms: to, mark_ms: Some(time), rows: &all }).unwrap();
        texts(&svg);
        prop_assert!(!svg.contains("NaN") && !svg.contains("inf"), "{}", svg);
        prop_assert!(svg.chars().all(|c| c == '\n' || !c.is_control()));
    }
}
