use std::fs;
use std::path::Path;

use atlas_dataplane::types::ReplicaId;

use super::manifest::{FORMAT, Manifest, config_path, is_backup_path, key_path};
use super::{BackupError, Pace};
use crate::audit::files::Tree;
use crate::audit::layout::Listed;

fn manifest(size: u64) -> Manifest {
    Manifest {
        format: FORMAT.to_owned(),
        origin: "example/plant".to_owned(),
        genesis: "ab".repeat(32),
        replica: 0,
        taken: "2026-11-22T06:00:00Z".to_owned(),
        size,
        root: "cd".repeat(32),
        snapshot: Some(64),
        files: Vec::new(),
    }
}

#[test]
fn a_manifest_names_files_of_a_backup_and_nothing_else() {
    let own =
        [config_path(ReplicaId(3), &atlas_dataplane::types::Digest([0xab; 32])), key_path(ReplicaId(3), "link.key")];
    let due: Vec<_> = manifest(70_000).due().chain(own).collect();
    assert!(due.contains(&"history/tile/1/001.p/17".to_owned()), "{due:?}");
    assert!(due.contains(&"state/64.certificate".to_owned()) && due.contains(&"history/checkpoints/70000".to_owned()));
    for path in &due {
        assert!(is_backup_path(path), "{path}");
    }
    for path in [
        "",
        "manifest.json",
        "history",
        "history/checkpoint",
        "history/manifest.json",
        "history/../cluster.toml",
        "history/tile/0/0",
        "/etc/passwd",
        "../cluster.toml",
        "cluster.toml/x",
        "state/064.snapshot",
        "state/64.tmp",
        "state/64",
        "replica-3/keys/never-ran",
        "replica-3/keys/../../cluster.toml",
        "replica-03/keys/link.key",
        "replica-x/keys/link.key",
        "replica-3/config.toml",
        "replica-3/abc.config.toml",
    ] {
        assert!(!is_backup_path(path), "{path}");
    }
}

#[test]
fn what_is_no_manifest_is_refused_with_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let read = || Manifest::read(&Tree::open(dir.path()).unwrap(), dir.path());
    assert_eq!(read().unwrap(), None);
    let write = |value: serde_json::Value| fs::write(dir.path().join("manifest.json"), value.to_string()).unwrap();
    let good = serde_json::to_value(manifest(9)).unwrap();
    write(good.clone());
    assert_eq!(read().unwrap(), Some(manifest(9)));
    for (field, value, part) in [
        ("format", "atlas-export/1".into(), "this program reads atlas-backup/1"),
        ("root", "cd".into(), "its root is no SHA-256"),
        ("size", (-1).into(), "invalid value"),
        ("more", 1.into(), "unknown field"),
        ("replica", 256.into(), "invalid value"),
    ] {
        let mut bad = good.clone();
        bad[field] = value;
        write(bad);
        let error = read().unwrap_err();
        let text = error.to_string();
        assert!(error.is_proof() && text.contains("manifest.json: ") && text.contains(part), "{text}");
    }
}

#[test]
fn listed_files_are_found_by_their_path() {
    let listed = |path: &str| Listed { path: path.to_owned(), bytes: 1, sha256: String::new() };
    let files = ["cluster.toml", "history/policy.txt", "state/64.snapshot"].map(listed).to_vec();
    let manifest = Manifest { files, ..manifest(9) };
    assert_eq!(manifest.listed("state/64.snapshot"), Some(&listed("state/64.snapshot")));
    assert_eq!(manifest.listed("state/63.snapshot"), None);
}

/// The kinds of fault have kinds of exit codes.
#[test]
fn what_does_not_hold_is_told_from_what_fails() {
    let path = || Path::new("x").to_owned();
    let fails = BackupError::Io { path: path(), doing: "read", source: std::io::ErrorKind::NotFound.into() };
    assert!(!fails.is_proof() && !BackupError::NotABackup(path()).is_proof());
    assert!(BackupError::Damaged { path: path(), why: String::new() }.is_proof());
    assert!(BackupError::Ahead { dir: path(), has: 2, certified: 1 }.is_proof());
}

/// Within its rate nobody waits, so a pace that is never reached costs nothing; a rate of nothing does not divide by it.
#[test]
fn a_pace_has_no_corner_at_its_ends() {
    let pace = Pace::new(u64::MAX);
    (0..1_000).for_each(|_| pace.spend(usize::MAX >> 12));
    Pace::new(0).spend(0);
}
