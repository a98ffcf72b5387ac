use super::*;
use crate::cli::time::{format_ns, parse_ns};
use crate::demo::data::{LA_HAUTE_BORNE, parse};
use crate::twin::view::OperationView;

#[test]
fn the_day_has_144_steps_of_four_turbines_ten_minutes_apart() {
    let rows = parse(LA_HAUTE_BORNE).unwrap();
    let steps = steps(&rows);
    assert_eq!(steps.len(), 144);
    assert!(steps.iter().all(|step| step.rows.len() == 4));
    assert!(steps.windows(2).all(|pair| pair[1].time_ns - pair[0].time_ns == 600_000_000_000));
    assert_eq!(Schedule::of(steps.len()), Schedule { kill: 48, restart: 96, lie: 108, truth: 132 });
}

#[test]
fn the_rule_finds_one_trip_and_its_end() {
    let rows = parse(LA_HAUTE_BORNE).unwrap();
    let mut watch = Watch::default();
    let events: Vec<_> = steps(&rows)
        .into_iter()
        .flat_map(|step| watch.look(step).into_iter().map(move |event| (format_ns(step.time_ns), event)))
        .collect();
    let [(tripped_at, Event::Tripped(trip)), (runs_at, Event::RunsAgain(turbine, power))] = &events[..] else {
        panic!("{events:?}")
    };
    assert_eq!((tripped_at.as_str(), runs_at.as_str()), ("2015-03-31T01:40:00Z", "2015-03-31T01:50:00Z"));
    assert_eq!((trip.turbine.as_str(), turbine.as_str()), ("R80790", "R80790"));
    assert_eq!((trip.power, trip.power_before, trip.pitch), (-4.760_000_2, 1345.38, 88.32));
    assert!(trip.others > 1_900.0 && *power > 1_600.0);
}

fn watched(steps: &[[(&'static str, f64, f64, f64); 2]]) -> usize {
    let mut watch = Watch::default();
    let mut found = 0;
    for (time, step) in steps.iter().enumerate() {
        let rows = step.map(|(turbine, pitch, power, wind)| Row {
            turbine,
            source_time_ns: time as i64,
            values: [Some(pitch), Some(power), Some(wind), None, None, None, None],
            line: 2,
        });
        found += watch.look(Step { time_ns: time as i64, rows: &rows }).len();
    }
    found
}

#[test]
fn what_only_looks_like_a_trip_is_none() {
    let before = [("A", 5.0, 1_000.0, 12.0), ("B", 5.0, 1_000.0, 12.0)];
    let down = ("A", 88.0, -5.0, 12.0);
    assert_eq!(watched(&[before, [down, before[1]]]), 1);
    assert_eq!(watched(&[before, [("A", 88.0, -5.0, 2.0), before[1]]]), 0, "a calm");
    assert_eq!(watched(&[before, [down, ("B", 88.0, -5.0, 12.0)]]), 0, "the whole farm is off");
    assert_eq!(watched(&[before, [("A", 5.0, -5.0, 12.0), before[1]]]), 0, "the blades stand in the wind");
    assert_eq!(watched(&[[down, before[1]], [down, before[1]]]), 0, "it did not run before");
    assert_eq!(watched(&[before, [down, before[1]], [down, before[1]], before]), 2, "told once, and its end once");
}

#[test]
fn operations_are_valid_and_say_what_they_should() {
    let rows = parse(LA_HAUTE_BORNE).unwrap();
    let bytes = measurement(&rows[3]).encode();
    let view = OperationView::decode(&bytes).unwrap();
    assert_eq!(view.targets.len(), 7);
    assert!(view.targets.iter().all(|target| target.twin == "la-haute-borne/R80790"));
    for operation in [release("R80790"), state("R80790", STOPPING, 5, "tripped")] {
        OperationView::decode(&operation.encode()).unwrap();
    }
    assert_eq!(measured_properties(&rows).len(), 28);
}

#[test]
fn the_command_typed_is_the_command_sent() {
    let typed = release_typed("R80790");
    let condition = typed.split('\'').nth(1).unwrap();
    let Operation::Transaction { conditions, .. } = release("R80790") else { panic!("no transaction") };
    assert_eq!(crate::cli::parse::condition(condition).unwrap(), conditions[0]);
    let sets: Vec<_> = typed.rsplit(' ').take(2).map(|set| set.split('=').collect::<Vec<_>>()).collect();
    assert_eq!(sets, [["restart", "allowed"], ["brake", "released"]]);
}

#[test]
fn a_missing_value_is_not_written() {
    let row = Row { turbine: "A", source_time_ns: 1, values: [None, Some(2.5), None, None, None, None, None], line: 2 };
    let Operation::Write(Write::Set { properties, .. }) = measurement(&row) else { panic!("no set") };
    assert_eq!(properties.len(), 1);
    assert_eq!((properties[0].path.as_str(), &properties[0].value), ("power", &Value::F64(2.5)));
    assert_eq!(parse_ns("1970-01-01T00:00:00.000000001Z"), Ok(properties[0].source_time_ns.unwrap()));
}
