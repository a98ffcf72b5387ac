//! Old history in cold storage: it moves while the cluster works, is read and supplied from there, and comes back.

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use atlas::twin::query::Query;
use atlas_dataplane::types::{Code, Position};
use support::checker::{Load, check, read_all};
use support::{Cluster, until};

const ALL: [usize; 4] = [0, 1, 2, 3];

/// The replica that loses something.
const LOST: usize = 2;

/// Requests of a long bundle, which takes some 40 KiB.
const LONG: usize = 64;

/// Snapshots with every MiB, segments of a MiB, and nothing is kept that may go.
fn start() -> Cluster {
    let lines = ["segment_mib = 1", "keep_mib = 0", "keep_days = 0", "cold = \"attic\""];
    let settings = vec![("checkpoint_interval", 16), ("window", 16), ("snapshot_mib", 1)];
    Cluster::start_lines(settings, lines.map(|line| ("history", line.to_owned())).to_vec(), |_| {})
}

fn attic(cluster: &Cluster, index: usize) -> PathBuf {
    cluster.home(index).join("attic")
}

/// The folder in cold storage of a replica.
fn folder(cluster: &Cluster, index: usize) -> PathBuf {
    attic(cluster, index).join(cluster.file.genesis().to_string()).join(format!("replica-{index}"))
}

fn moved(cluster: &Cluster, index: usize) -> u64 {
    cluster.counter(index, "history.segments.cold")
}

/// Writes until each of these replicas has moved so many segments.
fn write_until_moved(cluster: &Cluster, replicas: &[usize], segments: usize) {
    let mut client = cluster.client();
    let count = |index: usize| fs::read_dir(folder(cluster, index)).map_or(0, Iterator::count);
    until(&format!("{replicas:?} moved {segments} segments"), || {
        (0..10).for_each(|_| client.write_long(LONG));
        replicas.iter().all(|index| count(*index) >= segments)
    });
}

fn atlas(cluster: &Cluster, index: usize, what: &str, more: &[&Path]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_atlas"));
    command.args(["cold", what, "--json", "--config"]).arg(cluster.home(index).join("config.toml"));
    if let [from] = more {
        command.arg("--from").arg(from);
    }
    command.output().unwrap()
}

/// The exit code, and how many segments it told of.
fn told(output: &Output) -> (Option<i32>, usize) {
    (output.status.code(), String::from_utf8_lossy(&output.stdout).lines().count())
}

#[test]
fn history_moves_under_load_and_is_read_supplied_and_brought_back() {
    let mut cluster = start();
    let load = Load::start(&cluster, 2);
    // Cold storage is not there yet: that is told, and nothing is lost.
    let mut client = cluster.client();
    until("it is told that cold storage is not there", || {
        (0..10).for_each(|_| client.write_long(LONG));
        ALL.iter().all(|index| cluster.log_text(*index).contains("is not there: mount it"))
    });
    for index in ALL {
        fs::create_dir(attic(&cluster, index)).unwrap();
    }
    write_until_moved(&cluster, &ALL, 3);
    let hot = cluster.home(0).join("data/history/entries-0");
    assert!(!hot.exists() && folder(&cluster, 0).join("entries-0").exists());

    // One without its disk takes all from the others, most of it out of their cold storage.
    cluster.kill(LOST);
    fs::remove_dir_all(cluster.home(LOST).join("data")).unwrap();
    fs::remove_dir_all(attic(&cluster, LOST)).unwrap();
    fs::create_dir(attic(&cluster, LOST)).unwrap();
    cluster.restart(LOST);
    until(&format!("it votes again; it printed {}", cluster.log_text(LOST)), || {
        cluster.status(LOST).is_some_and(|status| !status.abstains)
    });
    write_until_moved(&cluster, &[LOST], 3);
    load.wait_more(20);
    let acknowledged = load.stop();
    check(&cluster, &ALL, &acknowledged);
    let status = told(&atlas(&cluster, LOST, "check", &[]));
    assert!(status.0 == Some(0) && status.1 >= 3, "{status:?}");
    // Not while it runs.
    assert_eq!(told(&atlas(&cluster, LOST, "import", &[])), (Some(1), 0));

    // Without cold storage it starts and takes part, and says what it cannot show.
    cluster.kill(LOST);
    fs::rename(attic(&cluster, LOST), cluster.scratch("away")).unwrap();
    cluster.restart(LOST);
    cluster.wait_linked(&ALL);
    cluster.wait_agreed(&ALL);
    until("it counts what it cannot reach", || cluster.counter(LOST, "history.segments.cold_unreachable") >= 3);
    let query = Query::Changes { prefix: String::new(), from: Position::default(), to: Some(9), limit: 9 };
    assert_eq!(client.query(LOST, &query).0, Code::UNAVAILABLE);
    assert_eq!(client.query(0, &query).0, Code::DONE);
    assert!(moved(&cluster, LOST) >= 3);
    assert_eq!(told(&atlas(&cluster, LOST, "check", &[])).0, Some(1));

    // A damaged copy is named; another replica's do as well, since all have the same bytes.
    cluster.kill(LOST);
    fs::rename(cluster.scratch("away"), attic(&cluster, LOST)).unwrap();
    let copy = folder(&cluster, LOST).join("entries-1");
    let mut bytes = fs::read(&copy).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&copy, bytes).unwrap();
    let damaged = atlas(&cluster, LOST, "check", &[]);
    assert_eq!(damaged.status.code(), Some(5));
    assert!(String::from_utf8_lossy(&damaged.stderr).contains("entries-1: entry "), "{damaged:?}");
    let others = folder(&cluster, 0);
    let output = atlas(&cluster, LOST, "import", &[&others]);
    assert_eq!(told(&output).0, Some(0), "{output:?}");
    assert!(cluster.home(LOST).join("data/history/entries-0").exists());
    let config = cluster.home(LOST).join("config.toml");
    let text = fs::read_to_string(&config).unwrap().replace("cold = \"attic\"\n", "");
    fs::write(config, text).unwrap();
    cluster.restart(LOST);
    cluster.wait_linked(&ALL);
    cluster.wait_agreed(&ALL);
    assert_eq!(read_all(&mut client, LOST), read_all(&mut client, 0));
    cluster.stop().unwrap();
}
