use std::os::unix::fs::PermissionsExt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use atlas_dataplane::cluster::ReplicaConfig;

use super::*;

/// A process started while another test still has its program open for writing would hold that open ("text file busy").
fn alone() -> MutexGuard<'static, ()> {
    static LOCK: Mutex<()> = Mutex::new(());
    LOCK.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A program in the place of `atlas` that prints its arguments and then runs `script`.
fn program(dir: &Path, script: &str) -> LocalOptions {
    let path = dir.join("program");
    fs::write(&path, format!("#!/bin/sh\necho \"$@\"\n{script}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    LocalOptions { program: Some(path), segment_mib: 7, ..LocalOptions::default() }
}

fn is_running(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

#[test]
fn dropping_it_leaves_no_process() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let options = program(dir.path(), "trap '' TERM\nwhile :; do sleep 1000 & wait; done");
    let mut cluster = LocalCluster::launch(&dir.path().join("c"), 4, &options).unwrap();
    let pids: Vec<u32> = (0..4).filter_map(|index| cluster.pid(index)).collect();
    assert_eq!(pids.len(), 4);
    cluster.kill(2).unwrap();
    assert!(!is_running(pids[2]));
    assert_eq!(cluster.pid(2), None);
    assert!(matches!(cluster.restart(1), Err(LocalError::Replica(1))));
    cluster.restart(2).unwrap();
    let again = cluster.pid(2).unwrap();
    drop(cluster);
    assert!(pids.into_iter().chain([again]).all(|pid| !is_running(pid)));
}

#[test]
fn a_replica_that_ends_is_told_with_its_log() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let options = program(dir.path(), "echo 'the disk is full' >&2\nexit 7");
    let mut cluster = LocalCluster::launch(&dir.path().join("c"), 4, &options).unwrap();
    let error = loop {
        if let Err(error) = cluster.check() {
            break error;
        }
        std::thread::yield_now();
    };
    let LocalError::Ended { status, tail, .. } = error else { panic!("{error}") };
    assert_eq!(status.code(), Some(7));
    assert!(tail.contains("--config") && tail.ends_with("the disk is full"), "{tail}");
    assert!(cluster.stop().is_err());
}

#[test]
fn stopping_asks_and_takes_exit_0_for_done() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let options = program(dir.path(), "trap 'exit 0' TERM\n: > ${0}.$$\nwhile :; do sleep 0.01; done");
    let cluster = LocalCluster::launch(&dir.path().join("c"), 4, &options).unwrap();
    let started = |index| dir.path().join(format!("program.{}", cluster.pid(index).unwrap())).exists();
    while !(0..4).all(started) {
        std::thread::yield_now();
    }
    cluster.stop().unwrap();
}

#[test]
fn the_configuration_takes_the_segment_size_and_stays_valid() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let options = program(dir.path(), "exit 0");
    let cluster = LocalCluster::launch(&dir.path().join("c"), 4, &options).unwrap();
    let config = ReplicaConfig::load(cluster.replica_file(3).unwrap());
    assert_eq!(config.unwrap().0.log.segment_mib, 7);
    assert!(cluster.identity("gateway").unwrap().exists() && cluster.identity("nobody").is_none());
}
