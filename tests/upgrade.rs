//! Rolling upgrades: four replicas get another binary one after the other, by the operators' script, while clients work; and a
//! build that cannot read what an older one wrote.

mod support;

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use atlas::local::Signal;
use atlas_dataplane::transfer::{Hasher, digest};
use support::checker::{Load, check, check_back};
use support::{Cluster, StopOnDrop, until};
use xxhash_rust::xxh3::xxh3_128;

const ALL: [usize; 4] = [0, 1, 2, 3];

/// What a replica's process runs.
fn program(cluster: &Cluster, index: usize) -> PathBuf {
    fs::read_link(format!("/proc/{}/exe", cluster.local.pid(index).unwrap())).unwrap()
}

/// Another build: a program that does the same, and is another file with other bytes.
fn next_build(cluster: &Cluster) -> PathBuf {
    let next = cluster.scratch("atlas-next");
    fs::copy(env!("CARGO_BIN_EXE_atlas"), &next).unwrap();
    fs::File::options().append(true).open(&next).unwrap().write_all(b"next").unwrap();
    next
}

/// The program that replicas are started with gets another content as a package manager does it: by a rename.
fn install(cluster: &Cluster, build: &Path) {
    let (program, new) = (cluster.scratch("atlas"), cluster.scratch("atlas.dpkg-new"));
    fs::write(&new, format!("#!/bin/sh\nexec '{}' \"$@\"\n", build.display())).unwrap();
    fs::set_permissions(&new, fs::Permissions::from_mode(0o755)).unwrap();
    fs::rename(new, program).unwrap();
}

/// Writes with the product's own client, a process each, until told to stop; gives how many.
fn write_as_people_do(cluster_file: &Path, key: &Path, stop: &AtomicBool) -> u64 {
    let mut done = 0;
    while !stop.load(Ordering::Relaxed) {
        done += 1;
        let output = Command::new(env!("CARGO_BIN_EXE_atlas"))
            .args(["set", "people/twin", &format!("count=-{done}"), "--cluster"])
            .arg(cluster_file)
            .arg("--identity")
            .arg(key)
            .output()
            .unwrap();
        assert!(output.status.success(), "write {done}: {}", String::from_utf8_lossy(&output.stderr));
    }
    done
}

#[test]
fn four_replicas_are_upgraded_under_load_and_no_client_sees_a_failure() {
    let mut cluster = Cluster::start();
    let next = next_build(&cluster);
    let load = Load::start(&cluster, 4);
    load.wait_more(100);
    assert!(ALL.iter().all(|index| program(&cluster, *index) != next));
    install(&cluster, &next);
    let requests = cluster.scratch("requests");
    fs::create_dir(&requests).unwrap();
    let (place, home) = (requests.display(), cluster.local.dir().to_owned());
    let (file, key) = (cluster.local.cluster_file().to_owned(), cluster.local.identity("operator").unwrap().to_owned());
    let mut script = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/rolling-upgrade"))
        .args(["--hosts", "local,local,local,local", "--wait", "60", "--cluster"])
        .arg(&file)
        .arg("--identity")
        .arg(cluster.local.identity("gateway").unwrap())
        .args(["--restart", &format!("touch {place}/%i; while [ -e {place}/%i ]; do sleep 0.02; done")])
        .args([
            "--step-down",
            &format!("\"$ATLAS\" ctl --replica {}/replica-%i/config.toml --expert step-down", home.display()),
        ])
        .env("ATLAS", env!("CARGO_BIN_EXE_atlas"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let stop = AtomicBool::new(false);
    let (status, order) = std::thread::scope(|scope| {
        let people = scope.spawn(|| write_as_people_do(&file, &key, &stop));
        let _stop = StopOnDrop(&stop);
        let mut order = Vec::new();
        let mut status = None;
        until("the script ends", || {
            for index in ALL {
                let request = requests.join(index.to_string());
                if request.exists() {
                    cluster.signal(index, Signal::TERM);
                    cluster.wait_ended(index);
                    cluster.restart(index);
                    order.push(index);
                    fs::remove_file(request).unwrap();
                }
            }
            status = script.try_wait().unwrap();
            status.is_some()
        });
        load.wait_more(100);
        stop.store(true, Ordering::Relaxed);
        assert!(people.join().unwrap() > 4, "people wrote on");
        (status.unwrap(), order)
    });
    let output = script.wait_with_output().unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(status.success(), "{text}");
    // Each once, and the first that led last.
    let mut once = order.clone();
    once.sort_unstable();
    assert_eq!(once, ALL, "{text}");
    assert_ne!(order[0], 0, "{text}");
    for index in ALL {
        assert_eq!(program(&cluster, index), next, "replica {index}");
        assert!(cluster.log_text(index).contains("signal 15: ending"), "replica {index} ended cleanly");
        let line = format!(
            "replica {index}: version {}, process {}",
            env!("CARGO_PKG_VERSION"),
            cluster.local.pid(index).unwrap()
        );
        assert!(text.contains(&line), "no {line:?} in: {text}");
    }
    let acknowledged = load.stop();
    check(&cluster, &ALL, &acknowledged);
    cluster.stop().unwrap();
}

/// With one away the script changes nothing.
#[test]
fn an_upgrade_does_not_begin_with_a_replica_away() {
    let mut cluster = Cluster::start();
    cluster.kill(3);
    let script = |more: &[&str]| {
        let mut command = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/rolling-upgrade"));
        command.arg("--cluster").arg(cluster.local.cluster_file());
        command.arg("--identity").arg(cluster.local.identity("operator").unwrap());
        let output = command.args(["--restart", "false"]).args(more).env("ATLAS", env!("CARGO_BIN_EXE_atlas")).output();
        let output = output.unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, text) = script(&["--hosts", "local,local,local,local"]);
    assert!(code == Some(1) && text.contains("replica 0 is not there, has not links"), "{text}");
    let (code, text) = script(&["--hosts", "local"]);
    assert!(code == Some(2) && text.contains("the cluster has 4 replicas, --hosts names 1"), "{text}");
    let (code, text) = script(&["--hosts", "local", "--what", "x"]);
    assert!(code == Some(2) && text.contains("unknown argument --what"), "{text}");
}

/// Gives a snapshot's image another version, with a header that is right for it: what a build of that version would have left.
fn of_another_version(snapshot: &Path) {
    const HEADER: usize = 512;
    let mut bytes = fs::read(snapshot).unwrap();
    assert_eq!(&bytes[HEADER..HEADER + 6], b"ATLIMG");
    bytes[HEADER + 6..HEADER + 8].copy_from_slice(b"02");
    let mut hasher = Hasher::default();
    hasher.update(&bytes[HEADER..]);
    bytes[56..88].copy_from_slice(&digest(&hasher.finish().1).0);
    let sum = xxh3_128(&bytes[..HEADER - 16]).to_le_bytes();
    bytes[HEADER - 16..HEADER].copy_from_slice(&sum);
    fs::write(snapshot, bytes).unwrap();
}

/// A build that cannot read the state that an older one wrote, while others have it in a form that it reads: it says so, moves it
/// aside, and takes history and state from them, abstaining.
#[test]
fn a_state_of_another_version_is_taken_from_the_others() {
    const LOST: usize = 2;
    let settings = vec![("checkpoint_interval", 16), ("window", 16), ("snapshot_mib", 1)];
    let mut cluster = Cluster::start_set(settings, |_| {});
    let mut client = cluster.client();
    let data = cluster.home(LOST).join("data");
    until("it lets go of its first segment", || {
        (0..20).for_each(|_| client.write_long(64));
        !data.join("log/00000000.seg").exists()
    });
    let load = Load::start(&cluster, 2);
    cluster.kill(LOST);
    for entry in fs::read_dir(data.join("state")).unwrap().map(Result::unwrap) {
        if entry.path().extension().is_some_and(|extension| extension == "snapshot") {
            of_another_version(&entry.path());
        }
    }
    cluster.restart(LOST);
    until("it says why", || cluster.log_text(LOST).contains("no image of this version"));
    until("it abstains", || cluster.log_text(LOST).contains("it abstains from voting"));
    assert!(
        fs::read_dir(data.join("state"))
            .unwrap()
            .any(|entry| { entry.unwrap().path().extension().is_some_and(|extension| extension == "damaged") })
    );
    check_back(&mut cluster, LOST, load);
}

/// A build that writes and reads another format of the state: the program with another magic in it.
fn build_of_another_format(cluster: &Cluster) -> PathBuf {
    let (old, new) = (b"ATLIMG03", b"ATLIMG04");
    let mut bytes = fs::read(env!("CARGO_BIN_EXE_atlas")).unwrap();
    let places: Vec<usize> = (0..bytes.len() - old.len()).filter(|at| bytes[*at..].starts_with(old)).collect();
    assert!(!places.is_empty());
    places.into_iter().for_each(|at| bytes[at..at + new.len()].copy_from_slice(new));
    let next = cluster.scratch("atlas-other-format");
    fs::write(&next, bytes).unwrap();
    fs::set_permissions(&next, fs::Permissions::from_mode(0o755)).unwrap();
    next
}

/// A build that reads the state in its own format alone cannot come back by what the others have in the old one: it says so and
/// ends, the others work on, and the old build comes back.
#[test]
fn a_build_of_another_format_alone_ends_and_the_old_one_comes_back() {
    const FIRST: usize = 2;
    let settings = vec![("checkpoint_interval", 16), ("window", 16), ("snapshot_mib", 1)];
    let mut cluster = Cluster::start_set(settings, |_| {});
    let mut client = cluster.client();
    let data = cluster.home(FIRST).join("data");
    until("all let go of their first segments", || {
        (0..20).for_each(|_| client.write_long(64));
        ALL.iter().all(|index| !cluster.home(*index).join("data/log/00000000.seg").exists())
    });
    let load = Load::start(&cluster, 2);
    let other = build_of_another_format(&cluster);
    install(&cluster, &other);
    cluster.signal(FIRST, Signal::TERM);
    cluster.wait_ended(FIRST);
    cluster.restart(FIRST);
    cluster.wait_ended(FIRST);
    let text = cluster.log_text(FIRST);
    assert!(text.matches("no image of this version").count() >= 2, "its own and the others': {text}");
    load.wait_more(20);
    install(&cluster, Path::new(env!("CARGO_BIN_EXE_atlas")));
    cluster.restart(FIRST);
    assert!(data.join("log.set-aside-1").exists(), "nothing is deleted");
    check_back(&mut cluster, FIRST, load);
}
