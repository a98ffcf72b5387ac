//! The flight recorder, the log and the view of threads, of real replicas: on request, after a kill, after a panic.

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use atlas::local::Signal;
use atlas_dataplane::flight::Kind;
use atlas_dataplane::flight::file::{Recording, Why};
use rustix::process::{Pid, Signal as Kill, kill_process};
use serde_json::Value;
use support::ctl::{ask, connect, run_directory};
use support::{Cluster, until};

fn atlas(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_atlas")).args(arguments).output().unwrap()
}

/// The lines of JSON that `atlas trace` prints.
fn trace(place: &Path, more: &[&str]) -> Vec<Value> {
    let output = atlas(&[&["trace", place.to_str().unwrap(), "--json"], more].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Recordings of an end in the run directory.
fn recordings(cluster: &Cluster, index: usize, ending: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(run_directory(cluster, index)).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    paths.filter(|path| path.to_string_lossy().ends_with(ending)).collect()
}

#[test]
fn a_recording_tells_every_stage_and_is_had_on_request() {
    let cluster = Cluster::start_lines(Vec::new(), vec![("local", "trace_sampling = 1".to_owned())], |_| {});
    let mut client = cluster.client();
    for _ in 0..20 {
        client.write_one();
    }
    assert_eq!(ask(&mut connect(&cluster, 0, "viewer"), "dump").code, 403);
    let mut operator = connect(&cluster, 0, "operator");
    let reply = ask(&mut operator, "dump");
    assert_eq!(reply.code, 200, "{reply:?}");
    assert_eq!(ask(&mut operator, "dump").code, 503, "not again at once");
    let file = recordings(&cluster, 0, "-asked").pop().unwrap();
    assert!(reply.text.contains(file.to_str().unwrap()), "{reply:?}");
    let events = trace(&file, &[]);
    for kind in [
        Kind::Serves,
        Kind::LinkUp,
        Kind::ClientAccepted,
        Kind::ProposalSent,
        Kind::Accepted,
        Kind::SyncSubmitted,
        Kind::SyncDurable,
        Kind::AcceptedDurable,
        Kind::Decided,
        Kind::Executed,
        Kind::BundleArrived,
        Kind::BundleReplied,
        Kind::Command,
    ] {
        assert!(events.iter().any(|event| event["kind"] == kind.name()), "no {} in {events:?}", kind.name());
    }
    // Of one sequence: its own events in their order, and the bundles that stand there.
    let executed = events.iter().rfind(|event| event["kind"] == "executed").unwrap();
    let sequence = executed["fields"]["sequence"].as_u64().unwrap();
    let own = trace(&file, &["--sequence", &sequence.to_string()]);
    let place = |kind: &str| {
        own.iter().position(|event| event["kind"] == kind).unwrap_or_else(|| panic!("no {kind} in {own:?}"))
    };
    let order =
        ["bundle_arrived", "bundle_verified", "accepted", "accepted_durable", "decided", "executed", "bundle_replied"];
    assert!(order.map(place).is_sorted(), "{own:?}");
    let only = trace(&file, &["--kind", "executed", "--last", "3"]);
    assert!(only.len() == 3 && only.iter().all(|event| event["kind"] == "executed"), "{only:?}");
    // The same while it runs, without a file.
    let shown = ask(&mut operator, "latency");
    for stage in ["arrived to verified", "to proposed", "to vote durable", "to decided", "to executed", "to replied"] {
        let row = shown.lines.iter().find(|line| line.starts_with(&format!("stage {stage} ")));
        let count =
            row.and_then(|row| row.split("  ").filter(|cell| !cell.is_empty()).nth(1)?.trim().parse::<u64>().ok());
        assert!(count >= Some(20), "{stage}: {shown:?}");
    }
    assert_eq!(ask(&mut operator, "latency reset").code, 200);
    assert!(
        ask(&mut operator, "latency")
            .lines
            .iter()
            .any(|line| line.starts_with("stage to replied") && line.contains(" 0 "))
    );
    let stages = trace(&file, &["--stages"]);
    assert!(stages.iter().all(|stage| stage["count"].as_u64().unwrap() >= 20), "{stages:?}");
    // As people see it.
    let output = atlas(&["trace", file.to_str().unwrap(), "--last", "5"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.starts_with("replica 0 (pid ") && text.contains("asked for by operator (uid "), "{text}");
    assert!(text.contains("TIME") && text.lines().count() >= 7, "{text}");
    let wrong = atlas(&["trace", file.to_str().unwrap(), "--kind", "nothing"]);
    assert_eq!(wrong.status.code(), Some(2));
    let wrong = atlas(&["trace", cluster.local.log_file(0).to_str().unwrap(), "--last", "1"]);
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("is no recording"));
    cluster.stop().unwrap();
}

#[test]
fn what_a_replica_did_last_outlives_its_being_killed() {
    let mut cluster = Cluster::start();
    let mut client = cluster.client();
    client.write_one();
    drop(connect(&cluster, 1, "viewer"));
    let sequence = cluster.wait_agreed(&[0, 1, 2, 3]).sequence;
    let data = cluster.home(1).join("data");
    let is_there =
        |data: &Path| trace(data, &["--kind", "executed"]).iter().any(|event| event["fields"]["sequence"] == sequence);
    until("its file has it", || is_there(&data));
    cluster.kill(1);
    assert!(is_there(&data));
    cluster.restart(1);
    cluster.wait_all();
    drop(connect(&cluster, 1, "viewer"));
    let kept = recordings(&cluster, 1, "-killed");
    assert_eq!(kept.len(), 1);
    assert!(trace(&kept[0], &["--kind", "executed"]).iter().any(|event| event["fields"]["sequence"] == sequence));
    until("it says so", || cluster.log_text(1).contains("the last process did not end well"));
    // One that ends as it is asked leaves none.
    cluster.signal(1, Signal::TERM);
    cluster.wait_ended(1);
    assert!(!run_directory(&cluster, 1).join("flight").exists());
    cluster.restart(1);
    cluster.wait_all();
    assert_eq!(recordings(&cluster, 1, "-killed").len(), 1);
    cluster.assert_well(&mut client, &[0, 1, 2, 3]);
}

#[test]
fn a_panic_writes_out_what_the_replica_did() {
    let mut cluster = Cluster::start();
    let mut client = cluster.client();
    cluster.kill(2);
    cluster.crash_at(2, "panic-written", 5);
    cluster.restart(2);
    cluster.wait_all();
    until("it panics", || {
        client.write_one();
        !cluster.running(2)
    });
    let kept = recordings(&cluster, 2, "-panic");
    assert_eq!(kept.len(), 1);
    let recording = Recording::open(&kept[0]).unwrap();
    assert_eq!((recording.why, recording.replica), (Why::Panic, 2));
    assert!(recording.reason.contains("asked to panic at the step Written"), "{}", recording.reason);
    let replica = recording.tracks.iter().find(|track| track.name == "replica").unwrap();
    assert!(replica.events.iter().any(|event| event.kind == Kind::SyncSubmitted));
    let log = cluster.log_text(2);
    assert!(log.contains(kept[0].to_str().unwrap()), "{log}");
    cluster.crash_no_more(2);
    cluster.kill(2);
    cluster.restart(2);
    cluster.wait_all();
    cluster.assert_well(&mut client, &[0, 1, 2, 3]);
}

#[test]
fn lines_are_json_where_that_is_wanted_and_as_many_as_are_wanted() {
    let mut cluster = Cluster::start_with(|file| {
        if file.to_string_lossy().contains("replica-0") {
            support::set(file, "control", "log_format = \"json\"");
        }
    });
    let mut client = cluster.client();
    client.write_one();
    let mut operator = connect(&cluster, 0, "operator");
    assert_eq!(ask(&mut connect(&cluster, 0, "viewer"), "log-level debug").code, 403);
    assert_eq!(ask(&mut operator, "log-level loud").code, 402);
    assert_eq!(ask(&mut connect(&cluster, 0, "viewer"), "log-level").text, "log-level is info");
    let lines = |cluster: &Cluster| -> Vec<Value> {
        // The process before this one printed plainly.
        let text = cluster.log_text(0);
        text.lines().filter(|line| line.starts_with('{')).map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    until("links are told", || lines(&cluster).iter().filter(|line| line["kind"] == "link_up").count() >= 3);
    let of = |cluster: &Cluster, text: &str| {
        lines(cluster).into_iter().find(|line| line["message"].as_str().is_some_and(|found| found.contains(text)))
    };
    assert_eq!(of(&cluster, "listens on").unwrap()["target"], "replica");
    assert_eq!(of(&cluster, "link to replica").unwrap()["level"], "INFO");
    // What is below the level is not printed, and what is not below it is.
    assert_eq!(ask(&mut operator, "log-level warn").code, 200);
    until("it is told", || of(&cluster, "log-level is warn, and was info: set by operator").is_some());
    assert!(
        ask(&mut operator, "config")
            .lines
            .iter()
            .any(|line| line.contains("control.log_level") && line.contains("warn"))
    );
    let up = lines(&cluster).iter().filter(|line| line["kind"] == "link_up").count();
    cluster.kill(3);
    until("the link's end is told", || {
        lines(&cluster).iter().any(|line| line["kind"] == "link_down" && line["level"] == "WARN")
    });
    cluster.restart(3);
    cluster.wait_all();
    cluster.signal(0, Signal::TERM);
    cluster.wait_ended(0);
    assert_eq!(lines(&cluster).iter().filter(|line| line["kind"] == "link_up").count(), up);
}

/// The thread that prints fails: that is said, and it begins again.
#[test]
fn who_prints_lines_and_fails_begins_again_and_says_so() {
    let mut cluster = Cluster::start();
    cluster.kill(2);
    cluster.crash_at(2, "print", 3);
    cluster.restart(2);
    cluster.wait_all();
    until(&format!("it says so; it printed {}", cluster.log_text(2)), || {
        cluster.log_text(2).contains("the thread that prints lines failed (1 of 3): it begins again")
    });
    assert_eq!(recordings(&cluster, 2, "-panic").len(), 1);
    // Events of the replica are told as before, each once.
    let told = cluster.log_text(2).matches("link to replica 0 is down").count();
    cluster.kill(0);
    until("it tells of a link", || cluster.log_text(2).matches("link to replica 0 is down").count() == told + 1);
    cluster.restart(0);
    cluster.wait_all();
    cluster.assert_well(&mut cluster.client(), &[0, 1, 2, 3]);
}

/// A recording that is read while it is written is whole, or says what it lacks.
#[test]
fn the_recording_of_a_replica_that_works_can_be_read_at_any_time() {
    let cluster = Cluster::start_lines(Vec::new(), vec![("local", "trace_sampling = 1".to_owned())], |_| {});
    drop(connect(&cluster, 0, "viewer"));
    let load = support::checker::Load::start(&cluster, 4);
    let file = run_directory(&cluster, 0).join("flight");
    for _ in 0..2_000 {
        let recording = Recording::open(&file).unwrap();
        assert_eq!(recording.why, Why::Running);
    }
    load.wait_more(1);
    load.abandon();
    cluster.stop().unwrap();
}

#[test]
fn who_looks_all_the_time_crowds_nothing_out() {
    let cluster = Cluster::start();
    let mut operator = connect(&cluster, 0, "operator");
    assert_eq!(ask(&mut operator, "set pool_mib 16").code, 202);
    assert_eq!(ask(&mut operator, "configure confirm").code, 200);
    let mut viewer = connect(&cluster, 0, "viewer");
    (0..500).for_each(|_| drop(ask(&mut viewer, "view")));
    assert_eq!(ask(&mut operator, "dump").code, 200);
    let events = trace(&recordings(&cluster, 0, "-asked").pop().unwrap(), &[]);
    let commands = |name: &str| {
        let is_it = |event: &&Value| event["kind"] == "command" && event["fields"]["command"] == name;
        events.iter().filter(is_it).count()
    };
    assert_eq!(["set", "configur", "dump", "view"].map(commands), [1, 1, 1, 0]);
    assert!(events.iter().any(|event| event["kind"] == "commands_shown"));
    cluster.stop().unwrap();
}

/// A standard error that is full and that nobody reads.
fn unread() -> (std::io::PipeReader, std::io::PipeWriter) {
    use std::io::Write as _;
    let (reader, mut writer) = std::io::pipe().unwrap();
    let blocking = rustix::fs::fcntl_getfl(&writer).unwrap();
    rustix::fs::fcntl_setfl(&writer, blocking | rustix::fs::OFlags::NONBLOCK).unwrap();
    while writer.write(&[b'.'; 512]).is_ok() {}
    rustix::fs::fcntl_setfl(&writer, blocking).unwrap();
    (reader, writer)
}

#[test]
fn a_standard_error_that_nobody_reads_keeps_nobody_from_serving_or_ending() {
    let mut cluster = Cluster::start();
    let mut client = cluster.client();
    for ends_by_panic in [false, true] {
        cluster.kill(2);
        let (_reader, writer) = unread();
        let mut command = Command::new(env!("CARGO_BIN_EXE_atlas"));
        command.arg("replica").arg("--config").arg(cluster.local.replica_file(2).unwrap()).stderr(writer);
        if ends_by_panic {
            command.env("ATLAS_CRASH_AT", "panic-written:5");
        }
        let mut child = command.spawn().unwrap();
        drop(command);
        if ends_by_panic {
            until("it ends by its panic", || {
                client.write_one();
                child.try_wait().unwrap().is_some()
            });
            assert_eq!(recordings(&cluster, 2, "-panic").len(), 1);
        } else {
            drop(connect(&cluster, 2, "viewer"));
            // Of four one more is gone, so it takes part.
            cluster.kill(3);
            client.write_one();
            kill_process(Pid::from_child(&child), Kill::TERM).unwrap();
            until("it ends as it is asked", || child.try_wait().unwrap().is_some());
            cluster.restart(3);
        }
        child.wait().unwrap();
        cluster.restart(2);
        cluster.wait_all();
    }
    cluster.assert_well(&mut client, &[0, 1, 2, 3]);
}

#[test]
fn a_replica_that_is_run_without_management_says_what_matters_all_the_same() {
    let mut cluster = Cluster::start();
    cluster.kill(3);
    cluster.restart_hostile(3, "silent");
    until(&format!("it tells of its links; it printed {}", cluster.log_text(3)), || {
        let text = cluster.log_text(3);
        text.split_once("THIS REPLICA LIES").is_some_and(|(_, last)| last.contains("link to replica 0 stands"))
    });
    cluster.signal(3, Signal::TERM);
    cluster.wait_ended(3);
    assert!(cluster.log_text(3).contains("ended as asked"), "{}", cluster.log_text(3));
}

#[test]
fn threads_are_shown_with_what_runs_on_them() {
    let cluster = Cluster::start();
    cluster.client().write_one();
    let mut viewer = connect(&cluster, 0, "viewer");
    ask(&mut viewer, "json on");
    ask(&mut viewer, "cores");
    let reply = ask(&mut viewer, "cores");
    assert!(reply.text.starts_with("the replica's thread is busy "), "{reply:?}");
    let object: Value = serde_json::from_str(&reply.lines[0]).unwrap();
    let rows = object["data"]["rows"].as_array().unwrap();
    let row = |what: &str| {
        let found = rows.iter().find(|row| row["what"].as_str().unwrap().contains(what));
        found.unwrap_or_else(|| panic!("no {what} in {rows:?}"))
    };
    assert_eq!(row("the replica")["id"], cluster.local.pid(0).unwrap());
    for what in ["control sockets", "prints lines", "snapshots of the state", "log's segments"] {
        assert!(row(what)["cpu_percent"].is_number() && !row(what)["cores"].as_str().unwrap().is_empty());
    }
}

#[test]
fn a_replica_that_looks_out_before_it_sleeps_works_like_all_others() {
    let cluster = Cluster::start_lines(Vec::new(), vec![("local", "spin_us = 50".to_owned())], |_| {});
    let mut client = cluster.client();
    for _ in 0..20 {
        client.write_one();
    }
    let mut operator = connect(&cluster, 0, "operator");
    for value in [0, 200] {
        assert_eq!(ask(&mut operator, &format!("set spin_us {value}")).code, 202);
        client.write_one();
    }
    cluster.assert_well(&mut client, &[0, 1, 2, 3]);
    cluster.stop().unwrap();
}
