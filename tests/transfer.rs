//! Snapshots, truncated logs, and replicas that fell behind them: they take history and state from the others.

mod support;

use std::fs;
use std::path::PathBuf;

use support::checker::{Load, check, check_back};
use support::{Cluster, until};

const ALL: [usize; 4] = [0, 1, 2, 3];

/// The replica that falls behind.
const LOST: usize = 2;

/// Requests of a long bundle, which takes some 40 KiB.
const LONG: usize = 64;

/// A cluster that takes a snapshot with every MiB, at every 16th sequence at most.
fn start() -> Cluster {
    Cluster::start_set(vec![("checkpoint_interval", 16), ("window", 16), ("snapshot_mib", 1)], |_| {})
}

fn data(cluster: &Cluster, index: usize) -> PathBuf {
    cluster.home(index).join("data")
}

fn files(dir: &PathBuf, extension: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = entries.filter(|path| path.extension().is_some_and(|found| found == extension)).collect();
    files.sort();
    files
}

fn snapshots(cluster: &Cluster, index: usize) -> Vec<PathBuf> {
    files(&data(cluster, index).join("state"), "snapshot")
}

/// Writes until these replicas have let go of the log's first segment.
fn write_until_truncated(cluster: &Cluster, replicas: &[usize]) {
    let mut client = cluster.client();
    let first = |index: usize| data(cluster, index).join("log/00000000.seg");
    until(&format!("{replicas:?} let go of their first segments"), || {
        (0..20).for_each(|_| client.write_long(LONG));
        replicas.iter().all(|index| !first(*index).exists())
    });
}

#[test]
fn an_emptied_disk_is_filled_with_history_and_state_under_load() {
    let mut cluster = start();
    write_until_truncated(&cluster, &[0, 1, 3]);
    assert!((2..=3).contains(&snapshots(&cluster, 0).len()), "{:?}", snapshots(&cluster, 0));
    let load = Load::start(&cluster, 4);
    cluster.kill(LOST);
    fs::remove_dir_all(data(&cluster, LOST)).unwrap();
    load.wait_more(20);
    cluster.restart(LOST);
    until(&format!("it takes the state; it printed {}", cluster.log_text(LOST)), || {
        cluster.log_text(LOST).contains("the state of sequence")
    });
    check_back(&mut cluster, LOST, load);
}

#[test]
fn one_that_was_down_for_long_goes_on_where_a_transfer_broke_off() {
    let mut cluster = start();
    let load = Load::start(&cluster, 2);
    load.wait_more(20);
    cluster.kill(LOST);
    write_until_truncated(&cluster, &[0, 1, 3]);
    // Cut short a few times on its way.
    for _ in 0..3 {
        cluster.restart(LOST);
        std::thread::sleep(std::time::Duration::from_millis(150));
        cluster.kill(LOST);
    }
    cluster.restart(LOST);
    check_back(&mut cluster, LOST, load);
}

#[test]
fn a_source_that_lies_is_found_out() {
    let mut cluster = start();
    write_until_truncated(&cluster, &[0, 1, 3]);
    cluster.kill(1);
    cluster.restart_hostile(1, "lie-in-transfer");
    cluster.wait_linked(&ALL);
    cluster.kill(LOST);
    fs::remove_dir_all(data(&cluster, LOST)).unwrap();
    cluster.restart(LOST);
    let load = Load::start(&cluster, 2);
    until(&format!("it takes the state; it printed {}", cluster.log_text(LOST)), || {
        cluster.log_text(LOST).contains("the state of sequence")
    });
    load.wait_more(20);
    until("it votes again", || cluster.status(LOST).is_some_and(|status| !status.abstains));
    let acknowledged = load.stop();
    check(&cluster, &[0, 2, 3], &acknowledged);
    let status = cluster.status(LOST).unwrap();
    let lies = |name: &str| name.contains("wrong_piece") || name.contains("bad_signature") || name.contains("stalled");
    let seen: Vec<_> = status.counters.iter().filter(|(name, value)| lies(name) && *value > 0).collect();
    assert!(!seen.is_empty(), "{:?}", status.counters);
}

#[test]
fn all_start_again_from_snapshots_and_what_is_left_of_their_logs() {
    let mut cluster = start();
    let load = Load::start(&cluster, 2);
    load.wait_more(20);
    write_until_truncated(&cluster, &ALL);
    for index in ALL {
        cluster.kill(index);
    }
    // The newest snapshot of one is damaged: the one before it counts.
    let newest = snapshots(&cluster, 1).into_iter().max_by_key(|path| fs::metadata(path).unwrap().modified().unwrap());
    let newest = newest.unwrap();
    let mut bytes = fs::read(&newest).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&newest, bytes).unwrap();
    for index in ALL {
        cluster.restart(index);
    }
    cluster.wait_all();
    assert!(cluster.log_text(1).contains("is damaged and was moved aside"), "{}", cluster.log_text(1));
    load.wait_more(40);
    let acknowledged = load.stop();
    check(&cluster, &ALL, &acknowledged);
}

/// Without its snapshots a replica cannot make its state from what is left of its log.
#[test]
fn snapshots_that_are_gone_are_taken_from_the_others() {
    let mut cluster = start();
    write_until_truncated(&cluster, &ALL);
    let load = Load::start(&cluster, 2);
    cluster.kill(LOST);
    fs::remove_dir_all(data(&cluster, LOST).join("state")).unwrap();
    cluster.restart(LOST);
    until("it abstains", || cluster.log_text(LOST).contains("it abstains from voting"));
    check_back(&mut cluster, LOST, load);
}
