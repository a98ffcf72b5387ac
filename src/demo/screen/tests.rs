use atlas_dataplane::types::{Position, PublicKey};

use super::*;
use crate::cli::time::parse_ns;
use crate::twin::query::Property;
use crate::twin::value::Quality;

fn property(twin: &str, property: &str, value: Value) -> Property {
    Property {
        twin: twin.to_owned(),
        property: property.to_owned(),
        value,
        revision: 1,
        quality: Quality::Good,
        source_time_ns: None,
        time_ms: 0,
        origin: PublicKey([0; 32]),
        position: Position::default(),
    }
}

fn shown(time: &str) -> Shown {
    let items = vec![
        property("f/R1", "pitch", Value::F64(88.32)),
        property("f/R1", "power", Value::F64(-4.76)),
        property("f/R1", "state", Value::Text("stop\x1bped".to_owned())),
        property("f/R1", "wind_speed", Value::F64(16.29)),
        property("f/R2", "power", Value::F64(2_050.0)),
    ];
    let figures = Figures { count: 8, p50_us: 1_849, p99_us: 12_300, max_us: 20_000 };
    Shown::new(parse_ns(time).unwrap(), &Properties { items, next: None }, 62, figures)
}

#[test]
fn a_step_is_one_line_in_the_columns_of_its_headings() {
    let step = shown("2015-03-31T01:40:00Z");
    assert_eq!(step.line(), "01:40|  -5 88.3 16.3|2050    -    -|    61 1.8/12.3");
    let [names, units] = step.headings();
    let bars = |line: &str| line.match_indices('|').map(|(at, _)| at).collect::<Vec<_>>();
    assert_eq!(bars(&names), bars(&step.line()));
    assert_eq!(bars(&units), bars(&step.line()));
    assert!(names.contains("R1") && names.contains("R2"));
}

#[test]
fn the_panel_shows_power_as_a_bar_and_no_control_character_of_a_value() {
    let panel = shown("2015-03-31T01:40:00Z").panel(Style::PLAIN);
    let lines: Vec<&str> = panel.lines().collect();
    assert_eq!(lines.len(), 3);
    let full = |line: &str| line.chars().filter(|c| *c == '\u{2588}').count();
    assert_eq!((full(lines[0]), full(lines[1])), (0, BAR));
    assert!(lines[0].contains("stop\\u{1b}ped") && !panel.contains('\x1b'));
    assert!(lines[2].starts_with("01:40 UTC  entry 61  commit p50 1.8 ms"));
}

#[test]
fn numbers_are_rounded_and_have_no_negative_zero() {
    assert_eq!(number(Some(-0.04), 5, 1), "  0.0");
    assert_eq!(number(Some(-0.06), 5, 1), " -0.1");
    assert_eq!(number(Some(1_345.6), 4, 0), "1346");
    assert_eq!(number(None, 4, 1), "   -");
}

#[test]
fn headings_come_first_again_in_time_and_after_a_title() {
    let mut out = Vec::new();
    let mut screen =
        Screen { out: &mut out, style: Style::PLAIN, bar: ProgressBar::hidden(), live: false, lines: HEADINGS_EVERY };
    for _ in 0..=HEADINGS_EVERY {
        screen.step(&shown("2015-03-31T01:40:00Z"), false).unwrap();
    }
    screen.line("a note").unwrap();
    screen.step(&shown("2015-03-31T01:40:00Z"), false).unwrap();
    screen.title("a part").unwrap();
    screen.step(&shown("2015-03-31T01:50:00Z"), false).unwrap();
    drop(screen);
    let text = String::from_utf8(out).unwrap();
    let headings: Vec<usize> =
        text.lines().enumerate().filter(|(_, line)| line.starts_with("UTC")).map(|(index, _)| index).collect();
    // Two lines of headings each; a note needs none; the title has an empty line before it.
    assert_eq!(headings, [1, HEADINGS_EVERY + 3, HEADINGS_EVERY + 10]);
    assert!(text.contains("\n\n=== a part\n"));
}

#[test]
fn a_terminal_gets_only_full_hours_and_what_matters_as_lines() {
    let mut out = Vec::new();
    let mut screen =
        Screen { out: &mut out, style: Style::PLAIN, bar: ProgressBar::hidden(), live: true, lines: HEADINGS_EVERY };
    for (time, matters) in [("01:40", false), ("01:50", true), ("02:00", false), ("02:10", false)] {
        screen.step(&shown(&format!("2015-03-31T{time}:00Z")), matters).unwrap();
    }
    drop(screen);
    let text = String::from_utf8(out).unwrap();
    let times: Vec<&str> = text.lines().skip(2).filter_map(|line| line.get(..5)).collect();
    assert_eq!(times, ["01:50", "02:00"]);
}
