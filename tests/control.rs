//! The management plane of real replicas: sessions at the sockets, live changes and their undoing, hostile clients, metrics.

mod support;

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::FileTypeExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use atlas_control::client::ClientReply;
use atlas_control::mapped::Reading;
use atlas_dataplane::cluster::ReplicaConfig;
use atlas_dataplane::replica::telemetry::FAMILIES;
use serde_json::Value;
use support::client::Client;
use support::ctl::{ask, connect, done, run_directory, try_connect};
use support::{Cluster, StopOnDrop, until};

/// A field of an answer of names and values.
fn field(reply: &ClientReply, name: &str) -> String {
    let line = reply.lines.iter().find(|line| line.split_whitespace().next() == Some(name));
    line.unwrap_or_else(|| panic!("no {name} in {reply:?}")).split_whitespace().nth(1).unwrap().to_owned()
}

fn number(reply: &ClientReply, name: &str) -> u64 {
    field(reply, name).parse().unwrap()
}

/// What runs, by the replica's own board.
fn setting(cluster: &Cluster, index: usize, name: &str) -> u64 {
    let reading = Reading::open(&run_directory(cluster, index).join("metrics")).unwrap();
    let label = Some(("name".to_owned(), name.to_owned()));
    reading.series.iter().find(|series| series.name == "atlas_setting" && series.label == label).unwrap().value()
}

fn atlas(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_atlas")).args(arguments).output().unwrap()
}

#[test]
fn a_session_as_socat_has_it() {
    let cluster = Cluster::start();
    cluster.client().write_one();
    let mut viewer = connect(&cluster, 0, "viewer");
    until("what was executed is published", || number(&done(&mut viewer, "status"), "executed_sequence") > 0);
    let path = run_directory(&cluster, 0).join("viewer.sock");
    let mut stream = UnixStream::connect(path).unwrap();
    stream.set_read_timeout(Some(support::PATIENCE)).unwrap();
    stream.write_all(b"status; view\n\njson on\nstatus\r\nnothing\nquit\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let pid = cluster.local.pid(0).unwrap();
    let mut lines = text.lines();
    let greeting = lines.next().unwrap();
    // The wrapper of the tests execs, so the process is the replica.
    assert_eq!(greeting, format!("atlas {} replica 0 pid {pid} level viewer protocol 1", env!("CARGO_PKG_VERSION")));
    let answers: Vec<Vec<&str>> = lines.collect::<Vec<_>>().split(|line| *line == ".").map(<[&str]>::to_vec).collect();
    let codes: Vec<&str> = answers.iter().filter_map(|answer| answer.first()).map(|line| &line[..3]).collect();
    assert_eq!(codes, ["200", "200", "200", "200", "401", "221"], "{text}");
    assert_eq!(answers[0][0], "200 serves");
    let object: Value = serde_json::from_str(answers[3][1]).unwrap();
    assert_eq!((&object["data"]["replica"], &object["data"]["pid"]), (&0.into(), &pid.into()));
    assert!(object["data"]["executed_sequence"].as_u64().unwrap() > 0, "{object}");
}

#[test]
fn levels_may_what_they_may_and_every_command_answers() {
    let cluster = Cluster::start();
    let mut client = cluster.client();
    client.write_one();
    let mut viewer = connect(&cluster, 0, "viewer");
    let shows = [
        "help",
        "help set",
        "status",
        "replicas",
        "view",
        "log",
        "sessions",
        "clients",
        "evidence",
        "queues",
        "latency",
        "cores",
        "errors",
        "log-level",
        "config",
        "params",
        "params leader_timeout_ms",
        "configure check",
        "configure check pool_mib 8",
    ];
    for as_json in ["json off", "json on"] {
        done(&mut viewer, as_json);
        for command in shows {
            let reply = done(&mut viewer, command);
            assert!(as_json == "json off" || serde_json::from_str::<Value>(&reply.lines[0]).is_ok(), "{command}");
        }
    }
    done(&mut viewer, "json off");
    assert!(done(&mut viewer, "clients").lines.iter().any(|line| line.starts_with("operator ")));
    let changes =
        ["set pool_mib 8", "latency reset", "configure undo", "configure timeout 5", "pause", "dump", "log-level warn"];
    let admins = ["save", "step-down", "shutdown", "expert-mode on"];
    for command in changes.iter().chain(&admins) {
        assert_eq!(ask(&mut viewer, command).code, 403, "{command}");
    }
    let mut operator = connect(&cluster, 0, "operator");
    assert_eq!(admins.map(|command| ask(&mut operator, command).code), [403; 4]);
    assert_eq!(ask(&mut operator, "configure confirm").code, 409);
    assert_eq!(ask(&mut operator, "configure undo").code, 409);
    let mut admin = connect(&cluster, 0, "admin");
    assert_eq!(["step-down", "shutdown"].map(|command| ask(&mut admin, command).code), [404; 2]);
    for (command, code, says) in [
        ("statsu", 401, "did you mean status?"),
        ("frobnicate", 401, "help"),
        ("set pool_mib", 402, "usage: set NAME VALUE"),
        ("set pool_mib 0", 402, "from 1 to 4096 (MiB)"),
        ("set pol_mib 8", 402, "did you mean pool_mib?"),
        ("set net.max_clients 8", 409, "at the next start"),
        ("configure timeout 0", 402, "from 1 to 3600"),
        ("params max_clents", 402, "did you mean max_clients?"),
        ("expert-mode maybe", 402, "on or off"),
    ] {
        let reply = ask(&mut admin, command);
        assert!(reply.code == code && reply.text.contains(says), "{command}: {reply:?}");
    }
    cluster.stop().unwrap();
}

#[test]
fn a_change_takes_effect_at_once_is_undone_by_time_and_kept_when_confirmed() {
    let mut cluster = Cluster::start();
    let mut client = cluster.client();
    let mut operator = connect(&cluster, 0, "operator");
    done(&mut operator, "configure timeout 2");
    done(&mut operator, "configure timeout 2");
    let reply = done(&mut operator, "set leader_timeout_ms 777");
    assert_eq!(reply.code, 202, "{reply:?}");
    until("the replica runs with it", || setting(&cluster, 0, "leader_timeout_ms") == 777);
    assert_eq!(ask(&mut operator, "configure check").code, 202);
    client.write_one();
    until("it is undone", || setting(&cluster, 0, "leader_timeout_ms") == 150);
    assert_eq!(done(&mut operator, "configure check").code, 200);
    assert_eq!(ask(&mut operator, "configure confirm").code, 409);
    // By hand, before its time.
    done(&mut operator, "configure timeout 3000");
    done(&mut operator, "set pool_mib 16");
    done(&mut operator, "set max_batch_kib 64");
    done(&mut operator, "configure undo");
    until("both are as before", || {
        setting(&cluster, 0, "pool_mib") == 32 && setting(&cluster, 0, "max_batch_kib") == 256
    });
    // Kept, saved, and there after a restart.
    for command in
        ["set cosign_interval_ms 25", "set low_space_mib 100", "set transfer_mib_s 8", "set max_open_batches 3"]
    {
        done(&mut operator, command);
    }
    let mut admin = connect(&cluster, 0, "admin");
    assert_eq!(ask(&mut admin, "save").code, 409, "not while it is on trial");
    done(&mut operator, "configure confirm");
    let file = cluster.local.replica_file(0).unwrap().to_owned();
    let before = fs::read_to_string(&file).unwrap();
    let shown = done(&mut admin, "config");
    assert!(shown.text.starts_with("4 differ"), "{shown:?}");
    done(&mut admin, "save");
    assert_eq!(fs::read_to_string(file.with_file_name("config.toml.old")).unwrap(), before);
    assert_eq!(ReplicaConfig::load(&file).unwrap().0.local.cosign_interval_ms, 25);
    assert!(done(&mut admin, "config").text.starts_with("0 differ"));
    client.write_one();
    let log = cluster.log_text(0);
    for says in [
        "leader_timeout_ms is 777, and was 150, on trial for 2 s: set by operator (uid ",
        "leader_timeout_ms is 150 again, and not 777: the change was not confirmed in time",
        "saved by admin",
    ] {
        assert!(log.contains(says), "no {says:?} in {log}");
    }
    // It needs nothing of the management for that.
    assert!(!log.contains("control: leader_timeout_ms is 150 again"), "{log}");
    assert_eq!(log.matches("changes are on trial for 2 s").count(), 1, "{log}");
    cluster.kill(0);
    cluster.restart(0);
    cluster.wait_all();
    drop(connect(&cluster, 0, "viewer"));
    until("it runs with what was saved", || setting(&cluster, 0, "cosign_interval_ms") == 25);
    cluster.assert_well(&mut client, &[0, 1, 2, 3]);
}

#[test]
fn a_leader_steps_down_a_replica_pauses_and_ends_as_it_is_told() {
    let mut cluster = Cluster::start();
    let mut client = cluster.client();
    client.write_one();
    let leader = number(&done(&mut connect(&cluster, 0, "viewer"), "view"), "leader") as usize;
    let other = (leader + 1) % 4;
    let mut admin = connect(&cluster, other, "admin");
    done(&mut admin, "expert-mode on");
    assert_eq!(ask(&mut admin, "step-down").code, 409, "it does not lead");
    assert_eq!(ask(&mut admin, "checkpoint").code, 409, "it does not lead");
    let mut admin = connect(&cluster, leader, "admin");
    // A checkpoint when somebody wants it, and no second one where nothing came since.
    let said = done(&mut admin, "checkpoint").text;
    until("all have the checkpoint", || {
        let watermarks =
            (0..4).map(|index| number(&done(&mut connect(&cluster, index, "viewer"), "status"), "low_watermark"));
        watermarks.into_iter().all(|sequence| sequence > 0 && said.contains(&format!("at sequence {sequence};")))
    });
    assert_eq!(done(&mut admin, "checkpoint").text, said);
    client.write_one();
    done(&mut admin, "expert-mode on");
    let view = number(&done(&mut admin, "view"), "view");
    done(&mut admin, "step-down");
    client.write_one();
    until("another leads", || {
        let reply = done(&mut admin, "view");
        number(&reply, "view") > view && field(&reply, "active") == "yes"
    });
    // A replica that takes nothing from clients stops nobody, and says so to them.
    done(&mut admin, "pause");
    until("it shows that it is paused", || field(&done(&mut admin, "status"), "paused") == "yes");
    client.write_one();
    cluster.wait_counted(leader, "refused.501", 0);
    done(&mut admin, "resume");
    client.write_one();
    done(&mut admin, "shutdown");
    cluster.wait_ended(leader);
    assert!(cluster.log_text(leader).contains("ended as asked: all that was staged is on disk"));
    let left: Vec<_> =
        fs::read_dir(run_directory(&cluster, leader)).unwrap().map(|it| it.unwrap().file_name()).collect();
    assert!(left.iter().all(|name| !name.to_string_lossy().ends_with(".sock")), "{left:?}");
    client.write_one();
    cluster.restart(leader);
    cluster.wait_all();
    cluster.assert_well(&mut client, &[0, 1, 2, 3]);
}

#[test]
fn sockets_of_a_killed_replica_are_replaced() {
    let mut cluster = Cluster::start();
    drop(connect(&cluster, 1, "admin"));
    cluster.kill(1);
    let socket = run_directory(&cluster, 1).join("admin.sock");
    assert!(fs::metadata(&socket).unwrap().file_type().is_socket(), "as it was left");
    assert!(UnixStream::connect(&socket).is_err());
    // What was published last can still be read.
    let stat = atlas(&["stat", run_directory(&cluster, 1).to_str().unwrap(), "--filter", "view", "--json"]);
    let object: Value = serde_json::from_slice(&stat.stdout).unwrap();
    assert_eq!((&object["runs"], &object["replica"]), (&false.into(), &1.into()));
    cluster.restart(1);
    cluster.wait_all();
    done(&mut connect(&cluster, 1, "admin"), "status");
    cluster.assert_well(&mut cluster.client(), &[0, 1, 2, 3]);
}

#[test]
fn a_replica_that_may_lock_no_memory_serves_without_a_management_plane_and_says_how_to_have_one() {
    let mut cluster = Cluster::start();
    cluster.kill(2);
    let file = cluster.local.replica_file(2).unwrap().to_owned();
    let log = cluster.scratch("unlocked.log");
    let line = format!(
        "ulimit -l 64; exec '{}' replica --config '{}' >'{}' 2>&1",
        env!("CARGO_BIN_EXE_atlas"),
        file.display(),
        log.display()
    );
    let mut child = Command::new("sh").arg("-c").arg(line).spawn().unwrap();
    let said = || fs::read_to_string(&log).unwrap_or_default();
    until("it says so", || said().contains("runs without a management plane"));
    assert!(said().contains("LimitMEMLOCK="), "{}", said());
    let mut client = cluster.client();
    // Of the others one is gone too, so it must take part.
    cluster.kill(3);
    client.write_one();
    assert!(child.try_wait().unwrap().is_none(), "{}", said());
    child.kill().unwrap();
    child.wait().unwrap();
}

/// Attackers on every socket of a replica, until told to end.
fn attack(directory: &Path, stop: &Arc<AtomicBool>) -> Vec<std::thread::JoinHandle<()>> {
    type Attack = fn(&Path, &AtomicBool);
    fn each(directory: &Path) -> impl Iterator<Item = UnixStream> {
        ["viewer", "operator", "admin"].into_iter().filter_map(move |level| {
            let stream = UnixStream::connect(directory.join(format!("{level}.sock"))).ok()?;
            stream.set_write_timeout(Some(Duration::from_millis(200))).ok()?;
            stream.set_read_timeout(Some(Duration::from_millis(200))).ok()?;
            Some(stream)
        })
    }
    let attacks: [Attack; 5] = [
        // A line without an end.
        |directory, _| each(directory).for_each(|mut stream| while stream.write_all(&[b'a'; 4_096]).is_ok() {}),
        // Rubbish.
        |directory, _| {
            let rubbish: Vec<u8> = (0..2_048u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
            each(directory).for_each(|mut stream| while stream.write_all(&rubbish).is_ok() {});
        },
        // More connections than there may be, held for a moment.
        |directory, stop| {
            let held: Vec<_> = (0..400).take_while(|_| !stop.load(Relaxed)).flat_map(|_| each(directory)).collect();
            std::thread::sleep(Duration::from_millis(20));
            drop(held);
        },
        // Commands whose answers nobody reads.
        |directory, stop| {
            for mut stream in each(directory) {
                let flood = b"params;params;help;clients;config;latency\n";
                while !stop.load(Relaxed) && stream.write_all(flood).is_ok() {}
            }
        },
        // The same, read to the end.
        |directory, stop| {
            for stream in each(directory) {
                let mut answers = BufReader::new(stream.try_clone().unwrap()).lines();
                for _ in 0..50 {
                    let asked = (&stream).write_all(b"clients\nevidence\n");
                    if stop.load(Relaxed) || asked.is_err() || answers.next().is_none() {
                        break;
                    }
                }
            }
        },
    ];
    let begin = |attack: Attack| {
        let (directory, stop) = (directory.to_owned(), Arc::clone(stop));
        std::thread::spawn(move || {
            while !stop.load(Relaxed) {
                attack(&directory, &stop);
            }
        })
    };
    attacks.into_iter().map(begin).collect()
}

#[test]
fn hostile_clients_of_all_sockets_are_cut_off_while_operations_are_committed() {
    let cluster = Cluster::start();
    let mut client = cluster.client();
    client.write_one();
    // Who was there before keeps its place.
    let mut admin = connect(&cluster, 0, "admin");
    let before = cluster.anonymous_kib(0);
    let stop = Arc::new(AtomicBool::new(false));
    let end = StopOnDrop(&stop);
    let attackers = attack(&run_directory(&cluster, 0), &stop);
    let until_ms = support::now_ms() + 6_000;
    let mut committed = 0;
    while support::now_ms() < until_ms {
        client.write_one();
        committed += 1;
    }
    assert_eq!(ask(&mut admin, "view").code, 200, "who was connected is served in between");
    drop(end);
    attackers.into_iter().for_each(|attacker| attacker.join().unwrap());
    assert!(committed > 20, "{committed} operations during the attack");
    let grown = cluster.anonymous_kib(0).saturating_sub(before);
    assert!(grown < 64 << 10, "memory grew by {grown} KiB");
    until("new connections are served again", || {
        try_connect(&cluster, 0, "viewer").is_some_and(|mut ctl| ctl.ask("status").is_ok_and(|it| it.is_success()))
    });
    cluster.assert_well(&mut client, &[0, 1, 2, 3]);
    assert_eq!(cluster.counter(0, "links.ended.ours"), 0);
}

/// Commit latencies of one client: undisturbed, with the attackers on sockets that nobody but a thread of this test serves, and with
/// the same attackers on the control sockets. Run it alone, built with optimisation:
/// `cargo test --release --test control -- --ignored --nocapture commit_latency`.
#[test]
#[ignore = "a measurement"]
fn commit_latency_while_sockets_are_attacked() {
    let cluster = Cluster::start();
    let mut client = cluster.client();
    client.write_one();
    drop(connect(&cluster, 0, "admin"));
    let dummy = cluster.scratch("dummy");
    fs::create_dir(&dummy).unwrap();
    let served = Arc::new(AtomicBool::new(false));
    let end_of_dummy = StopOnDrop(&served);
    for level in ["viewer", "operator", "admin"] {
        let listener = std::os::unix::net::UnixListener::bind(dummy.join(format!("{level}.sock"))).unwrap();
        listener.set_nonblocking(true).unwrap();
        let served = Arc::clone(&served);
        std::thread::spawn(move || {
            let mut held = std::collections::VecDeque::new();
            while !served.load(Relaxed) {
                match listener.accept() {
                    Ok((stream, _)) => held.push_back(stream),
                    Err(_) => std::thread::sleep(Duration::from_millis(2)),
                }
                if held.len() > 64 {
                    held.pop_front();
                }
            }
        });
    }
    let mut measure = |what: &str, target: Option<PathBuf>| {
        let stop = Arc::new(AtomicBool::new(false));
        let attackers = target.map(|directory| attack(&directory, &stop)).unwrap_or_default();
        let mut histogram = atlas_dataplane::histogram::Histogram::default();
        for _ in 0..3_000 {
            let begin = std::time::Instant::now();
            client.write_one();
            histogram.record(begin.elapsed().as_micros() as u64);
        }
        stop.store(true, Relaxed);
        attackers.into_iter().for_each(|attacker| attacker.join().unwrap());
        let at = |part| atlas_dataplane::histogram::quantile_us(histogram.buckets(), part).unwrap();
        println!(
            "{what:18} p50 {:6} us  p90 {:6} us  p99 {:6} us  p99.9 {:6} us",
            at(0.5),
            at(0.9),
            at(0.99),
            at(0.999)
        );
    };
    for _ in 0..3 {
        measure("undisturbed", None);
        measure("dummy attacked", Some(dummy.clone()));
        measure("control attacked", Some(run_directory(&cluster, 0)));
    }
    drop(end_of_dummy);
}

#[test]
fn a_line_that_is_too_long_and_rubbish_are_answered_before_they_are_cut_off() {
    let cluster = Cluster::start();
    drop(connect(&cluster, 0, "viewer"));
    let path = run_directory(&cluster, 0).join("viewer.sock");
    let answers = |bytes: &[u8]| {
        let mut stream = UnixStream::connect(&path).unwrap();
        stream.set_read_timeout(Some(support::PATIENCE)).unwrap();
        // It may be cut off before all is written.
        let _ = stream.write_all(bytes);
        let mut text = Vec::new();
        let _ = stream.read_to_end(&mut text);
        String::from_utf8(text).unwrap()
    };
    assert!(answers(&[b'x'; 5_000]).contains("\n413 "));
    let text = answers("\u{1}\n".repeat(20).as_bytes());
    assert_eq!(text.matches("400 ").count(), 8, "{text}");
}

#[test]
fn the_client_for_people_shows_tables_and_json_and_exits_as_it_says() {
    let cluster = Cluster::start();
    cluster.client().write_one();
    drop(connect(&cluster, 0, "admin"));
    let file = cluster.local.replica_file(0).unwrap().to_str().unwrap().to_owned();
    let ctl = |more: &[&str]| {
        let output = atlas(&[&["ctl", "--replica", &file], more].concat());
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    };
    let (code, out, err) = ctl(&["replicas"]);
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    assert!(out.starts_with("4 replicas\nREPLICA  NAME"), "{out}");
    let (code, out, _) = ctl(&["status", "--json"]);
    let object: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &object["code"], &object["data"]["leader"]), (0, &200.into(), &0.into()));
    let (code, _, err) = ctl(&["stauts"]);
    assert!(code == 2 && err.contains("did you mean status?"), "{code} {err}");
    let (code, _, err) = ctl(&["shutdown"]);
    assert!(code == 3 && err.contains("expert-mode"), "{code} {err}");
    let (code, _, err) = ctl(&["--level", "viewer", "set", "pool_mib", "8"]);
    assert!(code == 3 && err.contains("operator.sock"), "{code} {err}");
    let (code, out, _) = ctl(&["set pool_mib 8", "configure undo"]);
    assert!(code == 0 && out.contains("pool_mib is 8") && out.contains("what was before is again"), "{out}");
    let (code, _, err) = ctl(&["--socket", "/nowhere/viewer.sock", "status"]);
    assert_eq!(code, 2, "--socket and --replica are two ways to say one thing: {err}");
    let output = atlas(&["ctl", "--socket", "/nowhere/viewer.sock", "status"]);
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn metrics_are_read_from_the_file_and_over_http() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let cluster = Cluster::start_with(|file| {
        if file.to_string_lossy().contains("replica-0") {
            support::set(file, "control", &format!("metrics_listen = \"{address}\""));
        }
    });
    let mut client: Client = cluster.client();
    for _ in 0..20 {
        client.write_one();
    }
    drop(connect(&cluster, 0, "viewer"));
    let home = cluster.home(0).join("data").to_str().unwrap().to_owned();
    until("what was executed is published", || {
        let stat = atlas(&["stat", &home, "--filter", "executed_requests", "--json"]);
        let object: Value = serde_json::from_slice(&stat.stdout).unwrap_or_default();
        object["metrics"][0]["value"].as_u64().is_some_and(|value| value >= 20)
    });
    let stat = |more: &[&str]| String::from_utf8(atlas(&[&["stat", &home], more].concat()).stdout).unwrap();
    let commit = stat(&["--filter", "commit", "--json"]);
    let object: Value = serde_json::from_str(&commit).unwrap();
    assert!(object["metrics"][0]["count"].as_u64().unwrap() >= 20, "{commit}");
    assert!(object["metrics"][0]["p50"].as_f64().unwrap() > 0.0, "{commit}");
    assert!(stat(&["--filter", "log_sync"]).contains("atlas_log_sync_seconds"));
    let get = |head: &str| {
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(support::PATIENCE)).unwrap();
        stream.write_all(head.as_bytes()).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    };
    let response = get("GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n");
    let (head, body) = response.split_once("\r\n\r\n").unwrap();
    assert!(
        head.starts_with("HTTP/1.1 200 OK") && head.contains("application/openmetrics-text; version=1.0.0"),
        "{head}"
    );
    assert!(body.ends_with("# EOF\n"));
    for family in FAMILIES {
        assert!(body.contains(&format!("# TYPE {} ", family.name)), "no {}", family.name);
    }
    assert!(get("GET / HTTP/1.1\r\nhost: x\r\n\r\n").starts_with("HTTP/1.1 404"));
    assert!(get("POST /metrics HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n").starts_with("HTTP/1.1 405"));
    assert!(get(&format!("GET /metrics HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(60_000))).starts_with("HTTP/1.1 431"));
    check_with_another_parser(body);
}

/// Holds the text against the OpenMetrics parser of PyPI's prometheus_client, where scripts/openmetrics-parser has installed it.
fn check_with_another_parser(text: &str) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/openmetrics/check");
    let mut child = Command::new(script).stdin(std::process::Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let status = child.wait().unwrap();
    match status.code() {
        Some(0) => {}
        Some(77) => eprintln!("\n*** SKIPPED: no OpenMetrics parser of PyPI here, see tests/openmetrics/check ***\n"),
        _ => panic!("the parser refuses the text: {text}"),
    }
}

/// docs/metrics.md has a row for each metric, and none for what is not there.
#[test]
fn the_page_of_metrics_lists_what_is_exported() {
    use atlas_dataplane::replica::telemetry::{Family, Kind, Unit};
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/metrics.md")).unwrap();
    let rows: Vec<&str> = page.lines().filter(|line| line.starts_with("| `atlas_")).collect();
    let row = |family: &&Family| {
        let kind = match family.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        let unit = match family.unit {
            Unit::None => "",
            Unit::Seconds => "seconds",
            Unit::Bytes => "bytes",
        };
        let total = if family.kind == Kind::Counter { "_total" } else { "" };
        let label = if family.label.is_empty() { String::new() } else { format!("`{}`", family.label) };
        format!("| `{}{total}` | {kind} | {unit} | {label} | {} |", family.name, family.help)
    };
    let expected: Vec<String> = FAMILIES.iter().map(row).collect();
    if rows != expected {
        panic!("docs/metrics.md should list:\n{}", expected.join("\n"));
    }
}
