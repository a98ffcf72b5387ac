//! Backups of a running cluster: taken under load, added to, broken off, damaged, and restored where a disk was lost.

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use atlas_dataplane::cluster::replica::KEY_FILES;
use serde_json::Value;
use support::checker::{Load, check_back};
use support::{Cluster, until};

const ALL: [usize; 4] = [0, 1, 2, 3];

/// The replica that backups are taken at.
const SOURCE: usize = 0;

/// The replica that loses its disk.
const LOST: usize = 2;

/// Requests of a long bundle, which takes some 40 KiB.
const LONG: usize = 64;

/// Writes of the load that make more than one whole tile of 256 entries.
const SOME: u64 = 1_000;

/// A cluster that takes a snapshot with every MiB, at every 16th sequence at most.
fn start() -> Cluster {
    Cluster::start_set(vec![("checkpoint_interval", 16), ("window", 16), ("snapshot_mib", 1)], |_| {})
}

fn data(cluster: &Cluster, index: usize) -> PathBuf {
    cluster.home(index).join("data")
}

fn config(cluster: &Cluster, index: usize) -> PathBuf {
    cluster.home(index).join("config.toml")
}

/// Writes until a replica has certified snapshots, and had to let go of the first.
fn write_snapshots(cluster: &Cluster) {
    let mut client = cluster.client();
    until("the first segment of the log is let go", || {
        (0..20).for_each(|_| client.write_long(LONG));
        !data(cluster, SOURCE).join("log/00000000.seg").exists()
    });
}

fn backup_command(cluster: &Cluster, dir: &Path, more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_atlas"));
    command.args(["backup", "--json", "--replica"]).arg(config(cluster, SOURCE)).arg("-o").arg(dir);
    command.arg("--identity").arg(cluster.local.identity("gateway").unwrap()).args(more).stdin(Stdio::null());
    command
}

fn backup(cluster: &Cluster, dir: &Path, more: &[&str]) -> Output {
    backup_command(cluster, dir, more).output().unwrap()
}

fn restore(config: &Path, dir: &Path, more: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_atlas"));
    command.args(["restore", "--json", "--replica"]).arg(config).arg(dir).args(more).output().unwrap()
}

/// What a command printed that must have worked.
fn done(output: &Output) -> Value {
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// A command must have ended so, and said this.
fn refused(output: &Output, code: i32, parts: &[&str]) {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{text}");
    for part in parts {
        assert!(text.contains(part), "no {part:?} in: {text}");
    }
}

/// All files below a directory: contents' place on the disk and length.
fn files(dir: &Path) -> BTreeMap<PathBuf, (u64, u64)> {
    let mut found = BTreeMap::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).unwrap().map(Result::unwrap) {
            let metadata = entry.metadata().unwrap();
            match metadata.is_dir() {
                true => dirs.push(entry.path()),
                false => drop(found.insert(entry.path(), (metadata.ino(), metadata.len()))),
            }
        }
    }
    found
}

fn copy(from: &Path, to: &Path) {
    for (path, _) in files(from) {
        let place = to.join(path.strip_prefix(from).unwrap());
        fs::create_dir_all(place.parent().unwrap()).unwrap();
        fs::copy(&path, place).unwrap();
    }
}

fn flip(file: &Path, at: usize) {
    let mut bytes = fs::read(file).unwrap();
    bytes[at] ^= 1;
    fs::write(file, bytes).unwrap();
}

#[test]
fn a_lost_disk_is_restored_from_a_backup_that_was_taken_under_load() {
    let mut cluster = start();
    let dir = cluster.scratch("backup");
    let load = Load::start(&cluster, 4);
    load.wait_more(SOME);
    write_snapshots(&cluster);
    let first = done(&backup(&cluster, &dir, &[]));
    assert!(first["snapshot"].as_u64().unwrap() > 0 && first["kept_files"] == 0, "{first}");
    let before = files(&dir);

    // Only what is new is written, and nothing that is there changes but the checkpoint and the manifest.
    write_snapshots(&cluster);
    load.wait_more(20);
    let second = done(&backup(&cluster, &dir, &[]));
    assert!(second["size"].as_u64() > first["size"].as_u64(), "{first} {second}");
    let (after, replaced) = (files(&dir), [dir.join("manifest.json"), dir.join("history/checkpoint")]);
    let whole = before.iter().filter(|(path, _)| !replaced.contains(path));
    let same = whole.filter(|(path, place)| after.get(*path) == Some(place)).count();
    assert_eq!(same, before.len() - replaced.len());
    let new = after.keys().filter(|path| !before.contains_key(*path)).count() + replaced.len();
    assert_eq!(second["new_files"].as_u64(), Some(new as u64), "{second}");
    assert!(before.contains_key(&dir.join("history/tile/entries/000")) && second["kept_files"].as_u64() > Some(3));

    // Broken off: what was there still holds, and the next goes on.
    write_snapshots(&cluster);
    let (manifest, count) = (fs::read(dir.join("manifest.json")).unwrap(), files(&dir).len());
    let mut child = backup_command(&cluster, &dir, &["--rate", "1"]).stdout(Stdio::null()).spawn().unwrap();
    until("new files are there", || files(&dir).len() > count + 1);
    refused(&backup(&cluster, &dir, &[]), 1, &["in use", "another backup"]);
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(fs::read(dir.join("manifest.json")).unwrap() == manifest, "it was not finished");
    done(&restore(&config(&cluster, SOURCE), &dir, &["--check"]));
    let last = done(&backup(&cluster, &dir, &[]));
    assert_eq!(last["mended"].as_array().unwrap().len(), 0);
    let policy = cluster.local.dir().join("policy.txt");
    let audit = Command::new(env!("CARGO_BIN_EXE_atlas"))
        .args(["audit", "--deep", "--json", "--policy"])
        .args([&policy, &dir.join("history")])
        .output()
        .unwrap();
    assert_eq!(done(&audit)["size"], last["size"]);
    let trail = Command::new(env!("CARGO_BIN_EXE_atlas")).arg("trail").arg(dir.join("history")).output().unwrap();
    assert!(trail.status.success() && trail.stdout.len() > 1_000, "{}", String::from_utf8_lossy(&trail.stderr));

    // Not where a replica runs, not over data, and then where a disk was lost.
    let own = config(&cluster, LOST);
    refused(&restore(&own, &dir, &[]), 1, &["in use by another process"]);
    cluster.kill(LOST);
    let log = data(&cluster, LOST).join("log");
    refused(
        &restore(&own, &dir, &[]),
        2,
        &["the log of what the replica promised", "--set-aside", "Nothing was changed"],
    );
    assert!(log.exists());
    fs::remove_dir_all(data(&cluster, LOST)).unwrap();
    load.wait_more(20);
    let restored = done(&restore(&own, &dir, &["--deep"]));
    assert!(restored["restored"] == true && restored["size"] == last["size"], "{restored}");
    assert!(!log.exists() && data(&cluster, LOST).join("history/entries-0").exists());
    cluster.restart(LOST);
    until("it abstains", || cluster.log_text(LOST).contains("it abstains from voting"));
    let snapshot = last["snapshot"].as_u64().unwrap();
    until(&format!("it begins with the backup's state; it printed {}", cluster.log_text(LOST)), || {
        cluster.status(LOST).is_some_and(|status| status.sequence >= snapshot)
    });
    check_back(&mut cluster, LOST, load);
}

/// Without a snapshot yet; what is there is moved aside; keys come back where they were asked for.
#[test]
fn a_young_cluster_is_backed_up_with_keys_and_data_is_moved_aside_on_demand_only() {
    let mut cluster = Cluster::start();
    let dir = cluster.scratch("backup");
    let load = Load::start(&cluster, 2);
    load.wait_more(40);
    let own = config(&cluster, LOST);
    let taken = Command::new(env!("CARGO_BIN_EXE_atlas"))
        .args(["backup", "--json", "--with-keys", "--replica"])
        .arg(&own)
        .arg("-o")
        .arg(&dir)
        .arg("--identity")
        .arg(cluster.local.identity("operator").unwrap())
        .output()
        .unwrap();
    let line = done(&taken);
    assert!(line["snapshot"].is_null() && line["keys"] == true, "{line}");
    assert!(String::from_utf8_lossy(&taken.stderr).contains("warning: the backup will hold private keys of replica 2"));
    for name in KEY_FILES {
        let key = dir.join(format!("replica-{LOST}/keys")).join(name);
        assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(fs::read(&key).unwrap() == fs::read(cluster.home(LOST).join("keys").join(name)).unwrap());
    }
    // A copy of a backup that others may read: the next backup sees to that.
    let loose = dir.join(format!("replica-{LOST}/keys")).join(KEY_FILES[0]);
    fs::set_permissions(&loose, fs::Permissions::from_mode(0o644)).unwrap();
    let mut again = Command::new(env!("CARGO_BIN_EXE_atlas"));
    again.args(["backup", "--json", "--with-keys", "--replica"]).arg(&own).arg("-o").arg(&dir);
    done(&again.arg("--identity").arg(cluster.local.identity("operator").unwrap()).output().unwrap());
    assert_eq!(fs::metadata(&loose).unwrap().permissions().mode() & 0o777, 0o600);
    load.wait_more(20);
    cluster.kill(LOST);
    // Refused, it leaves nothing behind.
    refused(&restore(&own, &dir, &[]), 2, &["Nothing was changed"]);
    assert!(!data(&cluster, LOST).join("restore.part").exists());
    let keys = cluster.home(LOST).join("keys");
    fs::remove_dir_all(&keys).unwrap();
    // Another replica's keys are not in it.
    let spare = cluster.scratch("spare");
    fs::create_dir_all(spare.join("replica-1")).unwrap();
    fs::copy(cluster.local.cluster_file(), spare.join("cluster.toml")).unwrap();
    fs::copy(config(&cluster, 1), spare.join("replica-1/config.toml")).unwrap();
    let others = restore(&spare.join("replica-1/config.toml"), &dir, &["--with-keys"]);
    refused(&others, 2, &["the backup has no keys of replica 1; it has those of replica 2"]);
    assert!(!spare.join("replica-1/data/history").exists() && !spare.join("replica-1/keys").exists());
    let restored = done(&restore(&own, &dir, &["--set-aside", "--with-keys"]));
    let aside: Vec<&str> = restored["set_aside"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    assert_eq!(aside.len(), 2, "{restored}");
    assert!(aside[0].ends_with("log.set-aside-1") && aside[1].ends_with("history.set-aside-1"), "{restored}");
    assert_eq!(restored["keys"].as_array().unwrap().len(), 4);
    assert!(aside.iter().all(|path| fs::read_dir(path).unwrap().count() > 0), "nothing is deleted");
    cluster.restart(LOST);
    until("it abstains", || cluster.log_text(LOST).contains("it abstains from voting"));
    check_back(&mut cluster, LOST, load);
}

/// With all logs gone nobody knows what was promised after the backup. Restored replicas wait for somebody who does, and nothing
/// is decided.
#[test]
fn a_cluster_that_is_restored_whole_decides_nothing() {
    let mut cluster = Cluster::start();
    let dir = cluster.scratch("backup");
    let mut client = cluster.client();
    for _ in 0..10 {
        client.write_one();
    }
    done(&backup(&cluster, &dir, &[]));
    client.write_one();
    for index in ALL {
        cluster.kill(index);
        fs::remove_dir_all(data(&cluster, index)).unwrap();
        done(&restore(&config(&cluster, index), &dir, &[]));
    }
    ALL.iter().for_each(|index| cluster.restart(*index));
    cluster.wait_all();
    let write = Command::new(env!("CARGO_BIN_EXE_atlas"))
        .args(["set", "plant/turbine-1", "power=1", "--timeout", "3", "--cluster"])
        .arg(cluster.local.cluster_file())
        .arg("--identity")
        .arg(cluster.local.identity("operator").unwrap())
        .output()
        .unwrap();
    refused(&write, 4, &["no quorum"]);
    for status in cluster.statuses().into_iter().map(Option::unwrap) {
        assert!(status.abstains && status.needs == 0 && status.sequence == 0, "{status:?}");
    }
}

/// Damage of every kind, by the name of the file; and a directory that is another cluster's or ahead of this one.
#[test]
fn what_does_not_hold_is_refused_by_name() {
    let cluster = start();
    let load = Load::start(&cluster, 4);
    load.wait_more(SOME);
    load.stop();
    write_snapshots(&cluster);
    let whole = cluster.scratch("whole");
    let taken = done(&backup(&cluster, &whole, &[]));
    let own = config(&cluster, LOST);
    done(&restore(&own, &whole, &["--check"]));
    let snapshot = format!("state/{}.snapshot", taken["snapshot"]);
    let certificate = format!("state/{}.certificate", taken["snapshot"]);
    let tile = "history/tile/entries/000";
    let manifest = |dir: &Path| dir.join("manifest.json");
    // What the manifest says of a file is changed with the file: a forgery, not damage.
    let forge = |dir: &Path, path: &str| {
        let mut value: Value = serde_json::from_slice(&fs::read(manifest(dir)).unwrap()).unwrap();
        let bytes = fs::read(dir.join(path)).unwrap();
        let listed = value["files"].as_array_mut().unwrap().iter_mut().find(|listed| listed["path"] == path).unwrap();
        listed["bytes"] = bytes.len().into();
        listed["sha256"] = atlas_dataplane::crypto::hash::sha256(&[&bytes]).to_string().into();
        fs::write(manifest(dir), value.to_string()).unwrap();
    };
    let edit = |dir: &Path, change: &dyn Fn(&mut Value)| {
        let mut value: Value = serde_json::from_slice(&fs::read(manifest(dir)).unwrap()).unwrap();
        change(&mut value);
        fs::write(manifest(dir), value.to_string()).unwrap();
    };
    let length = |dir: &Path, path: &str, by: i64| {
        let file = fs::File::options().write(true).open(dir.join(path)).unwrap();
        file.set_len(file.metadata().unwrap().len().saturating_add_signed(by)).unwrap();
    };
    type Spoil<'a> = Box<dyn Fn(&Path) + 'a>;
    let cases: Vec<(Spoil<'_>, Vec<&str>)> = vec![
        (Box::new(|dir| flip(&dir.join(tile), 700)), vec![tile, "its SHA-256 is"]),
        (Box::new(|dir| flip(&dir.join(&snapshot), 9_000)), vec![&snapshot, "its SHA-256 is"]),
        (Box::new(|dir| length(dir, tile, -1)), vec![tile, "are listed"]),
        (Box::new(|dir| length(dir, "cluster.toml", 1)), vec!["cluster.toml", "are listed"]),
        (Box::new(|dir| fs::remove_file(dir.join(tile)).unwrap()), vec![tile, "the file is missing"]),
        (Box::new(|dir| fs::remove_file(manifest(dir)).unwrap()), vec!["manifest.json", "no backup was finished"]),
        (
            Box::new(|dir| fs::remove_file(dir.join("history/checkpoint")).unwrap()),
            vec!["history/checkpoint", "the file is missing"],
        ),
        (Box::new(|dir| flip(&dir.join("history/checkpoint"), 40)), vec!["history/checkpoint"]),
        (
            Box::new(|dir| {
                flip(&dir.join(tile), 700);
                forge(dir, tile);
            }),
            vec!["history/tile/entries/000, entry "],
        ),
        (
            Box::new(|dir| {
                flip(&dir.join(&snapshot), 9_000);
                forge(dir, &snapshot);
            }),
            vec![&snapshot, "does not have the digest that its header names"],
        ),
        (
            Box::new(|dir| {
                flip(&dir.join(&certificate), 200);
                forge(dir, &certificate);
            }),
            vec![&snapshot, "not signed by a quorum"],
        ),
        (
            Box::new(|dir| edit(dir, &|value| value["files"][0]["path"] = "../../etc/passwd".into())),
            vec!["no file of a backup"],
        ),
        (
            Box::new(|dir| edit(dir, &|value| drop(value["files"].as_array_mut().unwrap().remove(9)))),
            vec!["does not list"],
        ),
        (
            Box::new(|dir| edit(dir, &|value| value["format"] = "atlas-backup/9".into())),
            vec!["atlas-backup/9", "the build that wrote it"],
        ),
        (Box::new(|dir| edit(dir, &|value| value["size"] = 5.into())), vec!["manifest.json"]),
        (Box::new(|dir| fs::write(manifest(dir), "{").unwrap()), vec!["manifest.json", "EOF"]),
    ];
    for (number, (spoil, parts)) in cases.iter().enumerate() {
        let dir = cluster.scratch(&format!("case-{number}"));
        copy(&whole, &dir);
        spoil(&dir);
        refused(&restore(&own, &dir, &["--check"]), 5, parts);
        fs::remove_dir_all(&dir).unwrap();
    }

    // Another backup mends what is damaged and says so.
    let dir = cluster.scratch("mended");
    copy(&whole, &dir);
    flip(&dir.join(tile), 700);
    fs::remove_file(dir.join(&snapshot)).unwrap();
    let quick = done(&backup(&cluster, &dir, &["--quick"]));
    assert!(!quick["mended"].as_array().unwrap().contains(&tile.into()), "it believes what was verified: {quick}");
    refused(&restore(&own, &dir, &["--check"]), 5, &[tile, "its SHA-256 is"]);
    let mended = done(&backup(&cluster, &dir, &[]));
    assert!(mended["mended"].as_array().unwrap().contains(&tile.into()), "{mended}");
    done(&restore(&own, &dir, &["--check", "--deep"]));

    // A backup that has more than the cluster, or something else.
    edit(&dir, &|value| value["root"] = "00".repeat(32).into());
    refused(&backup(&cluster, &dir, &[]), 5, &["the history was split", "it is evidence"]);
    edit(&dir, &|value| value["size"] = 1_000_000_000.into());
    refused(&backup(&cluster, &dir, &[]), 5, &["the cluster is older than its backup", "has 1000000000 entries"]);

    // Another cluster's.
    let other = cluster.scratch("other");
    let mut init = Command::new(env!("CARGO_BIN_EXE_atlas"));
    let init = init.arg("init").arg(&other).args(["--origin", "other.example/plant"]).output().unwrap();
    assert!(init.status.success());
    let foreign = other.join("replica-0/config.toml");
    refused(&restore(&foreign, &whole, &[]), 2, &["a backup of", "this replica is of other.example/plant"]);
    let taken = Command::new(env!("CARGO_BIN_EXE_atlas"))
        .args(["backup", "--replica"])
        .arg(config(&cluster, SOURCE))
        .arg("-o")
        .arg(&other)
        .arg("--identity")
        .arg(cluster.local.identity("operator").unwrap())
        .output()
        .unwrap();
    refused(&taken, 2, &["cluster.toml: a backup of other.example/plant", "this replica is of"]);
    // Something else.
    let full = cluster.scratch("full");
    fs::create_dir(&full).unwrap();
    fs::write(full.join("letter.txt"), "dear").unwrap();
    refused(&backup(&cluster, &full, &[]), 2, &["is not empty and holds no backup"]);
    assert_eq!(files(&full).len(), 1);
    // The replica's own disk is damaged where the backup reads it: nothing of that is taken for a backup.
    flip(&data(&cluster, SOURCE).join("history/entries-0"), 900);
    let fresh = cluster.scratch("fresh");
    refused(&backup(&cluster, &fresh, &[]), 5, &["data/history: entry ", "the file is damaged"]);
    refused(&restore(&own, &fresh, &["--check"]), 5, &["manifest.json", "the file is missing"]);
    cluster.wait_agreed(&ALL);
}
