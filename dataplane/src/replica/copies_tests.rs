use std::fs;

use super::*;
use crate::cluster::init::{InitOptions, init};
use crate::cluster::{ReplicaKeys, ReplicaSetup};
use crate::crypto::context;
use crate::ordering::seal::signed_bytes;
use crate::transfer::{Durable, Hasher, Kept};
use crate::types::Digest;

/// A cluster, and the private keys of its replicas.
fn cluster(dir: &Path) -> (Cluster, Vec<ReplicaKeys>) {
    let summary = init(dir, &InitOptions::new(1_000)).unwrap();
    let setups: Vec<_> = summary.replica_files.iter().map(|file| ReplicaSetup::load(file).unwrap()).collect();
    (setups[0].cluster.clone(), setups.into_iter().map(|setup| setup.keys).collect())
}

fn statement(sequence: Sequence, members: Digest) -> Statement {
    let none = Digest::NULL;
    Statement { sequence, size: 9, history_root: none, state_root: none, sessions: none, members }
}

/// A certificate signed by these replicas.
fn certificate(cluster: &Cluster, keys: &[ReplicaKeys], statement: Statement, signers: &[u8]) -> Vec<u8> {
    let mut bytes = statement.bytes().to_vec();
    bytes.extend_from_slice(&(signers.len() as u32).to_le_bytes());
    for signer in signers {
        let message = signed_bytes(context::CHECKPOINT, 0, cluster.origin(), &statement.bytes());
        bytes.push(*signer);
        bytes.extend_from_slice(&keys[usize::from(*signer)].protocol.sign(&message).0);
    }
    bytes
}

fn file(cluster: &Cluster, statement: Statement) -> Vec<u8> {
    let image: Vec<u8> = (0..PIECE_BYTES + 99).map(|at| (at % 251) as u8).collect();
    let mut hasher = Hasher::default();
    hasher.update(&image);
    let (bytes, hashes) = hasher.finish();
    let kept = Kept { statement, bytes, hashes, certificate: None, durable: Durable::No };
    [&snapshot_files::header(cluster.genesis(), &kept)[..], &image].concat()
}

#[test]
fn only_a_whole_file_with_a_quorums_certificate_is_a_copy() {
    let dir = tempfile::tempdir().unwrap();
    let (cluster, keys) = cluster(&dir.path().join("plant"));
    let of = statement(64, cluster.genesis());
    let (good, signed) = (file(&cluster, of), certificate(&cluster, &keys, of, &[0, 2, 3]));
    let copy = SnapshotCopy::from_bytes(good.clone(), &signed, &cluster).unwrap();
    assert_eq!(
        copy.files(),
        [("64.snapshot".to_owned(), (&good).into()), ("64.certificate".to_owned(), (&signed).into())]
    );
    // Every byte of the header, and some of what it is over.
    let places = (0..HEADER_BYTES).chain((HEADER_BYTES..good.len()).step_by(9_001));
    for at in places.filter(|at| good[*at] != 0 || *at >= HEADER_BYTES || *at < 12) {
        let mut bad = good.clone();
        bad[at] ^= 1;
        assert!(matches!(SnapshotCopy::from_bytes(bad, &signed, &cluster), Err(CopyFault::File(_))), "byte {at}");
    }
    for length in (0..good.len()).step_by(1_001) {
        assert!(SnapshotCopy::from_bytes(good[..length].to_vec(), &signed, &cluster).is_err(), "{length}");
    }
    for at in 0..signed.len() {
        let mut bad = signed.clone();
        bad[at] ^= 1;
        let found = SnapshotCopy::from_bytes(good.clone(), &bad, &cluster);
        assert!(matches!(found, Err(CopyFault::Certificate(_))), "byte {at}");
    }
    for signers in [&[0u8, 2][..], &[0, 0, 2], &[2, 0, 3], &[0, 1, 2, 3]] {
        let found = SnapshotCopy::from_bytes(good.clone(), &certificate(&cluster, &keys, of, signers), &cluster);
        let why = CopyFault::Certificate("is not signed by a quorum of this cluster's replicas");
        assert_eq!(found, Err(why), "{signers:?}");
    }
    // Another cluster's, down to its keys.
    let (other, others) = self::cluster(&dir.path().join("other"));
    let theirs = statement(64, other.genesis());
    let found =
        SnapshotCopy::from_bytes(file(&other, theirs), &certificate(&other, &others, theirs, &[0, 1, 2]), &cluster);
    assert_eq!(found, Err(CopyFault::File("is of another cluster")));
    let foreign = statement(64, other.genesis());
    let found =
        SnapshotCopy::from_bytes(file(&cluster, foreign), &certificate(&cluster, &keys, foreign, &[0, 1, 2]), &cluster);
    assert!(matches!(found, Err(CopyFault::Certificate(_))), "members are part of what is signed");
}

#[test]
fn the_newest_that_is_whole_and_certified_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let (cluster, keys) = cluster(&dir.path().join("plant"));
    let data = dir.path().join("data");
    let newest = || SnapshotCopy::newest(&data, &cluster).unwrap().map(|copy| copy.statement().sequence);
    assert_eq!(newest(), None);
    fs::create_dir_all(data.join("state")).unwrap();
    for sequence in [64, 128, 192, 256] {
        let of = statement(sequence, cluster.genesis());
        let [name, signed] = names(sequence).map(|name| data.join("state").join(name));
        fs::write(&name, file(&cluster, of)).unwrap();
        if sequence < 256 {
            fs::write(&signed, certificate(&cluster, &keys, of, &[1, 2, 3])).unwrap();
        }
    }
    // That of 256 is not certified yet, that of 192 damaged.
    let damaged = data.join("state/192.snapshot");
    let mut bytes = fs::read(&damaged).unwrap();
    bytes[HEADER_BYTES] ^= 1;
    fs::write(&damaged, bytes).unwrap();
    assert_eq!(newest(), Some(128));
}

#[test]
fn a_copy_that_is_put_in_place_is_nobody_elses_to_read() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let (cluster, keys) = cluster(&dir.path().join("plant"));
    let of = statement(64, cluster.genesis());
    let copy = SnapshotCopy::from_bytes(file(&cluster, of), &certificate(&cluster, &keys, of, &[0, 1, 2]), &cluster);
    let place = dir.path().join("state");
    copy.unwrap().write(&place).unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let files = names(64).map(|name| place.join(name));
    assert_eq!((mode(&place), files.each_ref().map(|path| mode(path))), (0o700, [0o600; 2]));
}
