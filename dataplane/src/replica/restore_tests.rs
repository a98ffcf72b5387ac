use super::*;
use crate::cluster::init::{InitOptions, init};
use crate::cluster::replica::NEVER_RAN;

/// A replica of a new cluster, with nothing in its data directory.
fn fresh(dir: &Path) -> (ReplicaConfig, Digest) {
    let summary = init(&dir.join("plant"), &InitOptions::new(1_000)).unwrap();
    let (config, cluster) = ReplicaConfig::load(&summary.replica_files[1]).unwrap();
    (config, cluster.genesis())
}

fn sample(i: u64) -> Vec<u8> {
    vec![i as u8; i as usize % 90 + 1]
}

fn fill(restoring: &mut Restoring, count: u64) {
    (0..count).for_each(|i| restoring.append(&sample(i), i as TimeMs).unwrap());
}

#[test]
fn an_empty_directory_gets_the_history_and_the_identity_is_not_new_any_more() {
    let dir = tempfile::tempdir().unwrap();
    let (config, genesis) = fresh(dir.path());
    assert!(config.keys.join(NEVER_RAN).exists());
    let mut restoring = Restoring::begin(&config, genesis).unwrap();
    assert_eq!(restoring.present(genesis), Present::default());
    fill(&mut restoring, 300);
    let mut tree = HistoryTree::new();
    for i in 0..300 {
        tree.append(&sample(i));
    }
    assert_eq!((restoring.size(), restoring.root()), (300, tree.root()));
    assert!(restoring.finish().unwrap().is_empty());
    assert!(!config.keys.join(NEVER_RAN).exists());
    let store = FileStore::reopen(&Layout::new(&config.data.join("history"), genesis), 300).unwrap();
    assert!((0..300).all(|i| store.entry(i).as_deref() == Some(&sample(i)[..])));
    let mut names: Vec<_> = fs::read_dir(&config.data).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["history", "lock"], "no log, and nothing half done");
}

#[test]
fn what_is_there_is_moved_and_never_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let (config, genesis) = fresh(dir.path());
    let mut first = Restoring::begin(&config, genesis).unwrap();
    fill(&mut first, 20);
    first.finish().unwrap();
    for (name, text) in [("log", "votes"), ("state", "state")] {
        fs::create_dir(config.data.join(name)).unwrap();
        fs::write(config.data.join(name).join("7.snapshot"), text).unwrap();
    }
    let mut second = Restoring::begin(&config, genesis).unwrap();
    let present = second.present(genesis);
    assert_eq!((present.log, present.entries, present.state), (true, Some(20), Some(7)));
    fill(&mut second, 30);
    let aside = second.finish().unwrap();
    assert_eq!(aside, ["log", "state", "history"].map(|name| config.data.join(format!("{name}.set-aside-1"))));
    assert_eq!(fs::read(aside[0].join("7.snapshot")).unwrap(), b"votes");
    assert_eq!(fs::read(aside[1].join("7.snapshot")).unwrap(), b"state");
    FileStore::reopen(&Layout::new(&aside[2], genesis), 20).unwrap();
    FileStore::reopen(&Layout::new(&config.data.join("history"), genesis), 30).unwrap();
    assert!(!config.data.join("log").exists() && !config.data.join("state").exists());
}

/// Broken off before the end it has changed nothing, and the next begins anew.
#[test]
fn one_that_was_broken_off_leaves_all_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let (config, genesis) = fresh(dir.path());
    fs::create_dir_all(config.data.join("log")).unwrap();
    let mut restoring = Restoring::begin(&config, genesis).unwrap();
    fill(&mut restoring, 50);
    let locked = Restoring::begin(&config, genesis).unwrap_err();
    assert!(matches!(locked, RunError::Log(LogError::Locked { .. })), "{locked}");
    drop(restoring);
    assert!(!config.data.join(PART).exists(), "nothing half done stays");
    assert!(config.data.join("log").exists() && !config.data.join("history").exists());
    assert!(config.keys.join(NEVER_RAN).exists());
    let mut again = Restoring::begin(&config, genesis).unwrap();
    assert_eq!(again.size(), 0);
    fill(&mut again, 10);
    assert_eq!(again.finish().unwrap(), [config.data.join("log.set-aside-1")]);
    FileStore::reopen(&Layout::new(&config.data.join("history"), genesis), 10).unwrap();
}
