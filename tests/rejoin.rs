//! Replicas that lost what they promised: damage, lost disks and roll-backs. Each says so, keeps what it found, abstains, takes all from
//! the others, and votes again.

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use support::checker::{Load, check_back};
use support::{Cluster, until};

const ALL: [usize; 4] = [0, 1, 2, 3];

/// The replica that loses its records: a backup of view 0.
const LOST: usize = 2;

fn log(cluster: &Cluster) -> PathBuf {
    cluster.home(LOST).join("data/log")
}

fn segment(cluster: &Cluster) -> PathBuf {
    log(cluster).join("00000000.seg")
}

fn flip(file: &Path, at: usize) {
    let mut bytes = fs::read(file).unwrap();
    bytes[at] ^= 1;
    fs::write(file, bytes).unwrap();
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else if entry.file_type().unwrap().is_file() {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

/// Spoils the log of a replica of a working cluster in some way; `parts` is what it says.
fn loses(spoil: impl Fn(&Cluster), parts: &[&str], keeps: bool) {
    let mut cluster = Cluster::start();
    let load = Load::start(&cluster, 4);
    load.wait_more(40);
    cluster.kill(LOST);
    spoil(&cluster);
    let spoiled = fs::read(segment(&cluster)).ok();
    cluster.restart(LOST);
    until("it abstains", || cluster.log_text(LOST).contains("it abstains from voting"));
    for part in parts {
        assert!(cluster.log_text(LOST).contains(part), "no {part:?} in: {}", cluster.log_text(LOST));
    }
    let aside = cluster.home(LOST).join("data/log.set-aside-1");
    assert_eq!(aside.exists(), keeps);
    assert!(!keeps || fs::read(aside.join("00000000.seg")).ok() == spoiled, "what was found is kept as it was");
    check_back(&mut cluster, LOST, load);
}

#[test]
fn a_flipped_bit_in_a_record() {
    let parts = ["00000000.seg is damaged at offset", "below the last acknowledged sync", "is kept in"];
    loses(|cluster| flip(&segment(cluster), 4096 + 200), &parts, true);
}

#[test]
fn a_missing_and_a_truncated_segment() {
    loses(|cluster| fs::remove_file(segment(cluster)).unwrap(), &["00000000.seg is missing"], true);
    let cut = |cluster: &Cluster| {
        fs::File::options().write(true).open(segment(cluster)).unwrap().set_len(1 << 20).unwrap();
    };
    loses(cut, &["00000000.seg has 1048576 bytes"], true);
}

#[test]
fn a_lost_position() {
    loses(|cluster| fs::remove_file(log(cluster).join("synced_to")).unwrap(), &["synced_to is missing"], true);
}

#[test]
fn a_lost_disk() {
    loses(|cluster| fs::remove_dir_all(cluster.home(LOST).join("data")).unwrap(), &["its records are lost"], false);
}

/// The peers have votes of it that its log does not know.
#[test]
fn a_disk_that_was_set_back() {
    let mut cluster = Cluster::start();
    let load = Load::start(&cluster, 4);
    load.wait_more(20);
    let (data, earlier) = (cluster.home(LOST).join("data"), cluster.scratch("earlier"));
    cluster.kill(LOST);
    copy(&data, &earlier);
    cluster.restart(LOST);
    cluster.wait_linked(&ALL);
    load.wait_more(40);
    cluster.kill(LOST);
    fs::remove_dir_all(&data).unwrap();
    copy(&earlier, &data);
    cluster.restart(LOST);
    until("it notices", || cluster.log_text(LOST).contains("its disk was set back"));
    check_back(&mut cluster, LOST, load);
}

/// The operator knows that a disk cannot be trusted. Then nothing is asked, and nothing is deleted.
#[test]
fn an_operator_says_so() {
    let mut cluster = Cluster::start();
    let load = Load::start(&cluster, 4);
    load.wait_more(20);
    let recover = |cluster: &Cluster| {
        let config = cluster.local.replica_file(LOST).unwrap().to_owned();
        let output =
            Command::new(env!("CARGO_BIN_EXE_atlas")).args(["recover", "--config"]).arg(config).output().unwrap();
        let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        (output.status.code(), text)
    };
    let (code, text) = recover(&cluster);
    assert!(code == Some(1) && text.contains("in use by another process"), "{text}");
    cluster.kill(LOST);
    let before = fs::read(segment(&cluster)).unwrap();
    let (code, text) = recover(&cluster);
    assert!(code == Some(0) && text.contains("log.set-aside-1"), "{text}");
    assert!(fs::read(cluster.home(LOST).join("data/log.set-aside-1/00000000.seg")).unwrap() == before);
    let (code, text) = recover(&cluster);
    assert!(code == Some(0) && text.contains("no log to keep"), "{text}");
    cluster.restart(LOST);
    until("it abstains", || cluster.status(LOST).is_some_and(|status| status.abstains));
    check_back(&mut cluster, LOST, load);
}

/// The leader's disk is lost in an idle cluster: null batches take it to where it may vote.
#[test]
fn the_leader_of_an_idle_cluster_loses_its_disk() {
    let mut cluster = Cluster::start();
    let mut client = cluster.client();
    client.write_one();
    cluster.wait_agreed(&ALL);
    cluster.kill(0);
    fs::remove_dir_all(cluster.home(0).join("data")).unwrap();
    cluster.restart(0);
    until(&format!("replica 0 votes again; it printed {}", cluster.log_text(0)), || {
        cluster.status(0).is_some_and(|status| !status.abstains)
    });
    let window = cluster.file.settings().window;
    assert!(cluster.status(1).unwrap().sequence >= window, "nulls filled up to the next checkpoint");
    cluster.assert_well(&mut client, &ALL);
}
