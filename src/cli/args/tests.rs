use clap::CommandFactory;

use super::*;
use crate::twin::value::Value;

fn parsed(line: &[&str]) -> Result<Command, clap::Error> {
    let connection = ["--cluster", "c", "--identity", "i"];
    let line = [&["atlas"], line, &connection].concat();
    Arguments::try_parse_from(line).map(|arguments| arguments.command)
}

fn txn(line: &[&str]) -> TxnArgs {
    match parsed(&[&["txn"], line].concat()) {
        Ok(Command::Txn(args)) => args,
        other => panic!("{other:?}"),
    }
}

fn set(path: &str, value: i64) -> SetProperty {
    let (path, value) = (path.to_owned(), Value::I64(value));
    SetProperty { path, value, quality: Quality::Good, source_time_ns: None }
}

#[test]
fn the_definitions_are_consistent() {
    Arguments::command().debug_assert();
}

#[test]
fn every_command_explains_itself_with_an_example() {
    for command in Arguments::command().get_subcommands_mut() {
        let help = command.render_long_help().to_string();
        assert!(help.contains("Example"), "{help}");
        assert!(help.contains("atlas "), "{help}");
    }
}

#[test]
fn a_transaction_groups_what_follows_each_set_and_delete() {
    let args = txn(&[
        "--if",
        "p/t state == \"stopped\"",
        "--set",
        "p/a",
        "x=1",
        "y=-2",
        "--delete",
        "p/c",
        "a/b",
        "--set",
        "p/b",
        "z=3",
        "--if",
        "p/u x absent",
        "--delete",
        "p/d",
        "--reason",
        "why",
    ]);
    assert_eq!(args.conditions.len(), 2);
    assert_eq!(args.reason.as_deref(), Some("why"));
    let expected = vec![
        Write::Set { twin: "p/a".to_owned(), properties: vec![set("x", 1), set("y", -2)], reason: None },
        Write::Set { twin: "p/b".to_owned(), properties: vec![set("z", 3)], reason: None },
        Write::Delete { twin: "p/c".to_owned(), paths: Some(vec!["a/b".to_owned()]), reason: None },
        Write::Delete { twin: "p/d".to_owned(), paths: None, reason: None },
    ];
    assert_eq!(args.writes.0, expected);
}

#[test]
fn what_is_wrong_in_a_line_is_named() {
    for (line, named) in [
        (&["txn", "--if", "p/t x == 1"][..], "--set"),
        (&["txn", "--set", "p/a"], "--set"),
        (&["txn", "--set", "p/a", "x"], "PATH=VALUE"),
        (&["txn", "--set", "pa", "x=1"], "namespace/name"),
        (&["txn", "--set", "p/a", "x=1", "--if", "p/t x"], "condition"),
        (&["txn", "--delete", "p/a", "x//y"], "property"),
        (&["set", "p/a"], "PATH=VALUE"),
        (&["set", "p/a", "x=1", "--quality", "fine"], "good, uncertain, bad or stale"),
        (&["set", "p/a", "x=1", "--source-time", "noon"], "not a time"),
        (&["history", "p/a", "--from", "5"], "position"),
        (&["get", "p/a", "--at-least", "5.0"], "--unordered"),
        (&["watch", "p", "--from", "x"], "ENTRY.REQUEST"),
        (&["status", "--timeout", "0"], "seconds above 0"),
    ] {
        let error = parsed(line).map(|command| format!("{command:?}")).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{line:?}");
        assert!(error.to_string().contains(named), "{line:?}: {error}");
    }
}

#[test]
fn a_set_takes_negative_numbers_and_one_quality_for_all() {
    let line = ["set", "p/a", "x=-5", "y=-0.5", "--quality", "bad", "--source-time", "1970-01-01T00:00:01Z"];
    let Ok(Command::Set(args)) = parsed(&line) else { panic!() };
    let properties = set_properties(args.properties, args.quality, args.source_time);
    assert_eq!(properties.len(), 2);
    assert!(properties.iter().all(|set| (set.quality, set.source_time_ns) == (Quality::Bad, Some(1_000_000_000))));
}

#[test]
fn spans_of_time_are_positive_and_bounded() {
    assert_eq!(seconds("0.5"), Ok(Duration::from_millis(500)));
    for wrong in ["0", "-1", "nan", "inf", "1e9", "", "5s"] {
        assert!(seconds(wrong).is_err(), "{wrong}");
    }
}
