//! One replica of a real cluster lies, in one way after the other, while leaders are killed and clients write: nothing that was
//! acknowledged is lost, honest replicas hold the same, and what they caught it at is counted against it and nobody else.

mod support;

use std::collections::BTreeSet;
use std::process::Command;

use support::checker::{Load, check};
use support::{Cluster, until};

const LIAR: usize = 1;
const HONEST: [usize; 3] = [0, 2, 3];

/// How often leaders are killed until it has been caught.
const ROUNDS: usize = 6;

/// What it does, and at what it must be caught: one of these.
const PHASES: [(&str, &[&str]); 6] = [
    ("equivocate", &["equivocation"]),
    ("double-vote,wrong-digest", &["equivocation"]),
    ("lie-in-change", &["two_view_changes", "invalid_view_change", "invalid_new_view"]),
    ("silent", &[]),
    ("forge,usurp,restless", &["not_leader", "bad_bundle"]),
    ("lie,mutate,replay", &[]),
];

/// The views of the honest replicas that answer, the highest first.
fn views(cluster: &Cluster) -> Vec<u64> {
    let mut views: Vec<u64> =
        HONEST.iter().filter_map(|index| cluster.status(*index)).map(|status| status.view).collect();
    views.sort_unstable_by(|a, b| b.cmp(a));
    views
}

/// The highest view that two honest replicas have come to: one alone may ask for a higher one in vain.
fn view(cluster: &Cluster) -> u64 {
    let mut view = None;
    until("two honest replicas answer", || {
        view = views(cluster).get(1).copied();
        view.is_some()
    });
    view.unwrap()
}

/// Kills leader after leader, each comes back at once, until a view is asked for that the liar would lead.
fn crown(cluster: &mut Cluster, load: &Load, tactics: &str) {
    let start = view(cluster);
    let goal = (start + 1..).find(|view| view % 4 == LIAR as u64).unwrap();
    loop {
        let now = view(cluster);
        if now >= goal {
            return;
        }
        let leader = (now % 4) as usize;
        cluster.kill(leader);
        if leader == LIAR {
            cluster.restart_hostile(leader, tactics);
        } else {
            cluster.restart(leader);
        }
        // One that had not begun to lead may do so now.
        let done = load.done();
        until(&format!("view {now} of {:?} ends or serves, {leader} was killed", views(cluster)), || {
            load.done() > done + 20 || views(cluster).get(1).is_some_and(|view| *view > now)
        });
    }
}

/// What `atlas status --json` shows that honest replicas have against others: whom, and what.
fn accusations(cluster: &Cluster) -> BTreeSet<(String, String)> {
    let output = Command::new(env!("CARGO_BIN_EXE_atlas"))
        .args(["status", "--json", "--cluster"])
        .arg(cluster.local.cluster_file())
        .arg("--identity")
        .arg(cluster.local.identity("operator").unwrap())
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let honest = lines.filter(|line| HONEST.iter().any(|index| line["replica"] == *index));
    honest
        .flat_map(|line| {
            line["counters"].as_object().into_iter().flatten().map(|(name, _)| name.clone()).collect::<Vec<_>>()
        })
        .filter_map(|name| {
            let (whom, what) = name.strip_prefix("misbehaviour.replica-")?.split_once('.')?;
            Some((whom.to_owned(), what.to_owned()))
        })
        .collect()
}

#[test]
fn a_replica_that_lies_is_borne_and_found_out() {
    let mut cluster = Cluster::start();
    let load = Load::start(&cluster, 4);
    load.wait_more(20);
    for (tactics, crimes) in PHASES {
        cluster.kill(LIAR);
        cluster.restart_hostile(LIAR, tactics);
        until(&format!("it says that it lies: {tactics}"), || {
            let text = cluster.log_text(LIAR);
            text.rsplit("THIS REPLICA LIES").next().is_some_and(|last| last.contains("listens on"))
                && text.contains("LIES")
        });
        load.wait_more(20);
        let mut rounds = 0;
        loop {
            rounds += 1;
            crown(&mut cluster, &load, tactics);
            load.wait_more(50);
            let accusations = accusations(&cluster);
            let slandered: Vec<_> = accusations.iter().filter(|(whom, _)| *whom != LIAR.to_string()).collect();
            assert!(slandered.is_empty(), "{tactics}: honest replicas are accused: {slandered:?}");
            println!("{tactics}, view {}: caught at {accusations:?}", view(&cluster));
            let caught = |crime: &&str| accusations.contains(&(LIAR.to_string(), (*crime).to_owned()));
            if crimes.is_empty() || crimes.iter().any(caught) {
                break;
            }
            assert!(rounds < ROUNDS, "{tactics} was not noticed in {ROUNDS} rounds of leaders");
        }
    }
    // Without it three are a quorum.
    cluster.kill(LIAR);
    load.wait_more(50);
    let acknowledged = load.stop();
    check(&cluster, &HONEST, &acknowledged);
    // Its log is that of an honest replica: as one it comes back.
    cluster.restart(LIAR);
    cluster.wait_all();
    check(&cluster, &[0, 1, 2, 3], &acknowledged);
}

#[test]
fn lies_stay_on_this_host() {
    let dir = tempfile::tempdir().unwrap();
    let plant = dir.path().join("plant");
    let atlas = || Command::new(env!("CARGO_BIN_EXE_atlas"));
    assert!(atlas().arg("init").arg(&plant).output().unwrap().status.success());
    let file = plant.join("cluster.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replacen("127.0.0.1:7452", "192.0.2.7:7452", 1)).unwrap();
    let hostile = |tactics: &str| {
        let config = plant.join("replica-0/config.toml");
        let output = atlas().args(["hostile-replica", "--tactics", tactics, "--config"]).arg(config).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, error) = hostile("silent");
    assert!(code == Some(2) && error.contains("192.0.2.7:7452") && error.contains("loopback"), "{error}");
    let (code, error) = hostile("kind");
    assert!(code == Some(2) && error.contains("lie-in-change"), "{error}");
    // Nobody finds it by looking for something else.
    let help = String::from_utf8(atlas().arg("--help").output().unwrap().stdout).unwrap();
    assert!(!help.contains("hostile"), "{help}");
}
