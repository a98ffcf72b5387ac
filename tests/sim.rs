//! `atlas sim` as a user runs it.

use std::process::{Command, Output, Stdio};

use serde_json::Value;

fn sim(arguments: &[&str]) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_atlas"));
    let Output { status, stdout, stderr } = command.arg("sim").args(arguments).stdin(Stdio::null()).output().unwrap();
    (status.code().unwrap(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

/// The lines of a JSON run, without what depends on the time that it took.
fn json(arguments: &[&str]) -> (i32, Vec<Value>) {
    let (code, out, _) = sim(&[arguments, &["--json"]].concat());
    let mut lines: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for timed in ["seconds", "seeds_per_s", "simulated_per_s", "threads"] {
        assert!(lines.last_mut().unwrap().as_object_mut().unwrap().remove(timed).is_some(), "{timed}");
    }
    (code, lines)
}

fn chain(out: &str) -> &str {
    let line = out.lines().find(|line| line.starts_with("seed 3: chain ")).unwrap();
    line.split([' ', ',']).nth(3).unwrap()
}

#[test]
fn a_seed_twice_is_the_same_run_and_another_seed_is_not() {
    let (code, first, error) = sim(&["--seed", "3"]);
    assert_eq!(code, 0, "{error}");
    let (_, second, _) = sim(&["--seed", "3"]);
    let trace = |out: &str| out.split("\nseed 3: ").next().unwrap().to_owned();
    assert_eq!(trace(&first), trace(&second));
    assert_eq!((chain(&first).len(), chain(&first)), (16, chain(&second)));
    assert!(trace(&first).contains(": PrePrepare view "), "a trace in words");
    let (_, last, _) = sim(&["--seed", "3", "--last", "5"]);
    assert_eq!(chain(&last), chain(&first), "what is printed changes nothing");
    let (all, last) = (trace(&first), trace(&last));
    assert_eq!(last.lines().next(), all.lines().next(), "the draw");
    assert_eq!(
        last.lines().skip(1).collect::<Vec<_>>(),
        all.lines().rev().take(5).collect::<Vec<_>>().into_iter().rev().collect::<Vec<_>>()
    );
    let (_, lines) = json(&["--seeds", "3..4"]);
    assert_eq!(lines[0]["chain"], chain(&first));
    let (_, lines) = json(&["--seeds", "4..5"]);
    assert_ne!(lines[0]["chain"], chain(&first));
}

#[test]
fn a_range_is_told_in_order_whatever_the_threads_do() {
    let (code, one) = json(&["--seeds", "0..6", "--threads", "1"]);
    assert_eq!(code, 0);
    let (_, three) = json(&["--seeds", "0..6", "--threads", "3"]);
    assert_eq!(one, three);
    let seeds: Vec<_> = one[..6].iter().map(|line| line["seed"].as_u64().unwrap()).collect();
    assert_eq!(seeds, [0, 1, 2, 3, 4, 5]);
    let total = &one[6];
    assert_eq!((&total["seeds"], &total["failed"]), (&Value::from(6), &Value::from(0)));
    for sum in ["events", "votes", "executions", "simulated_us"] {
        let each: u64 = one[..6].iter().map(|line| line[sum].as_u64().unwrap()).sum();
        assert_eq!(total[sum].as_u64(), Some(each), "{sum}");
    }
    let drawn = total["faults"].as_object().unwrap();
    assert!(drawn.values().any(|fault| fault["seeds"].as_u64() > Some(0)));
    assert!(drawn.contains_key("byzantine Equivocate") && drawn.contains_key("PowerAll"), "also what never came");
}

#[test]
fn minutes_begin_where_they_are_told_and_run_at_least_one_seed() {
    let (code, out, error) = sim(&["--minutes", "0.0001", "--from", "3", "--threads", "1"]);
    assert_eq!(code, 0, "{error}");
    assert!(out.starts_with("seeds from 3\n1 seeds, 0 failed, 1 converged\nchain over all seeds "), "{out}");
    for part in ["events", "votes checked", "simulated seconds a second", "seeds/s", "what came"] {
        assert!(out.contains(part), "{part}: {out}");
    }
}

#[test]
fn what_fails_is_named_with_the_command_that_replays_it() {
    let (code, out, error) = sim(&["--seeds", "3..5", "--without-sync", "--replicas", "5"]);
    assert_eq!(code, 1);
    assert!(out.contains("FAILED seed 3 at ") && out.contains("without a durable "), "{out}");
    assert!(out.contains("2 seeds, 2 failed, 0 converged"), "{out}");
    let command = "atlas sim --seed 3 --replicas 5 --without-sync";
    assert!(out.contains(&format!("replay with: {command}\n")), "{out}");
    assert!(error.contains("2 of 2 seeds failed") && error.contains(command), "{error}");
    let (code, again, error) = sim(&command.split(' ').skip(2).collect::<Vec<_>>());
    assert_eq!(code, 1);
    assert!(error.contains("without a durable "), "{error}");
    let failed = out.lines().find(|line| line.starts_with("  chain ")).unwrap();
    assert!(again.contains(failed), "the same events: {failed}");
    let (code, lines) = json(&["--seeds", "3..5", "--without-sync"]);
    assert_eq!(code, 1);
    assert_eq!(lines[1]["replay"], "atlas sim --seed 4 --without-sync");
    assert!(lines[1]["failed"].as_str().unwrap().contains("without a durable "));
}

#[test]
fn ranges_and_options_that_make_no_sense_are_usage_errors() {
    for (line, named) in [
        (&["--seeds", "5..5"][..], "A below B"),
        (&["--seeds", "7..3"], "A below B"),
        (&["--seeds", "7"], "A below B"),
        (&["--seeds=-1..3"], "A below B"),
        (&["--seeds", "0..99999999999999999999"], "A below B"),
        (&["--seed", "many"], "--seed"),
        (&["--seed", "1", "--seeds", "1..2"], "--seeds"),
        (&["--seeds", "1..2", "--from", "1"], "--from"),
        (&["--seeds", "1..2", "--last", "1"], "--last"),
        (&["--last", "1"], "--seed"),
        (&["--minutes", "0"], "minutes above 0"),
        (&["--minutes", "nan"], "minutes above 0"),
        (&["--threads", "0"], "--threads"),
        (&["--replicas", "3"], "--replicas"),
        (&["--replicas", "17"], "--replicas"),
    ] {
        let (code, out, error) = sim(line);
        assert_eq!((code, out.as_str()), (2, ""), "{line:?}");
        assert!(error.contains(named), "{line:?}: {error}");
    }
}
