use proptest::prelude::*;

use super::*;

const TRIP_NS: i64 = 1_427_766_000_000_000_000;

#[test]
fn writes_utc() {
    assert_eq!(format_ns(TRIP_NS), "2015-03-31T01:40:00Z");
    assert_eq!(format_ns(TRIP_NS + 1), "2015-03-31T01:40:00.000000001Z");
    assert_eq!(format_ms(TRIP_NS / 1_000_000), Ok("2015-03-31T01:40:00.000Z".to_owned()));
    assert_eq!(format_ms(-1), Ok("1969-12-31T23:59:59.999Z".to_owned()));
    assert_eq!(format_ms(i64::MAX), Err(TimeError::Unwritable(i64::MAX)));
}

#[test]
fn reads_any_offset() {
    for text in ["2015-03-31T03:40:00+02:00", "2015-03-31T01:40:00.000000000Z", "2015-03-30T20:10:00.0-05:30"] {
        assert_eq!(parse_ns(text), Ok(TRIP_NS), "{text}");
        assert_eq!(parse_ms(text), Ok(TRIP_NS / 1_000_000), "{text}");
    }
    assert_eq!(parse_ns("1969-12-31T23:59:59.999999999Z"), Ok(-1));
    assert_eq!(parse_ms("1969-12-31T23:59:59.999Z"), Ok(-1));
}

#[test]
fn refuses_all_else() {
    for text in [
        "",
        "2015-03-31",
        "2015-03-31T01:40Z",
        "2015-03-31T01:40:00",
        "2015-03-31 01:40:00Z",
        "2015-03-31t01:40:00z",
        "2015-03-31T01:40:00.Z",
        "2015-03-31T01:40:00,5Z",
        "2015-03-31T01:40:00.0000000001Z",
        "2015-03-31T01:40:00+02",
        "2015-03-31T01:40:00+0200",
        "2015-03-31T01:40:00+24:00",
        "2015-03-31T01:40:00+02:60",
        "2015-03-31T01:40:00Z[Europe/Paris]",
        " 2015-03-31T01:40:00Z",
        "2015-03-31T01:40:00Z ",
        "+002015-03-31T01:40:00Z",
        "２015-03-31T01:40:00Z",
    ] {
        assert!(matches!(parse_ns(text), Err(TimeError::Form(_))), "{text}");
    }
    for text in ["2015-02-29T00:00:00Z", "2015-13-01T00:00:00Z", "2015-03-31T24:00:00Z", "2016-12-31T23:59:60Z"] {
        assert!(matches!(parse_ns(text), Err(TimeError::Calendar(_))), "{text}");
    }
    assert!(matches!(parse_ms("2015-03-31T01:40:00.0001Z"), Err(TimeError::TooFine(_))));
    for text in ["1677-01-01T00:00:00Z", "2263-01-01T00:00:00Z"] {
        assert!(matches!(parse_ns(text), Err(TimeError::Range(_))), "{text}");
    }
}

#[test]
fn an_error_repeats_little() {
    let Err(TimeError::Form(shown)) = parse_ns(&"9".repeat(1 << 20)) else { panic!("it was read") };
    assert_eq!(shown.len(), MAX_TEXT);
}

proptest! {
    #[test]
    fn nanoseconds_come_back(ns: i64) {
        prop_assert_eq!(parse_ns(&format_ns(ns)), Ok(ns));
    }

    #[test]
    fn milliseconds_come_back(ms in -62_000_000_000_000i64..253_000_000_000_000) {
        prop_assert_eq!(parse_ms(&format_ms(ms)?), Ok(ms));
    }

    #[test]
    fn any_text_is_read_or_refused(text in "\\PC{0,48}|[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.]{0,20}(Z|[+-][0-9:]{0,6})") {
        let _ = parse_ms(&text);
        if let Ok(ns) = parse_ns(&text) {
            prop_assert_eq!(parse_ns(&format_ns(ns)), Ok(ns));
        }
    }
}
