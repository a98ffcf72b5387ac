use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use data_encoding::HEXLOWER;
use proptest::prelude::*;
use tempfile::TempDir;

use super::hash::{RootBuilder, empty_root, leaf_hash, merkle_path, merkle_root, verify_path};
use super::keys::{KeyError, KeyFileFault, MAX_KEY_FILE, SecretKey};
use super::verify::{BatchVerifier, WeakKey, check_public_key, verify};
use super::*;
use crate::types::{Digest, PublicKey, Signature};

/// Values that another program computed: leaf i holds the text `entry-i`.
fn vectors() -> serde_json::Value {
    serde_json::from_str(include_str!("../../tests/vectors/rfc6962.json")).unwrap()
}

fn entry_hashes(size: u64) -> Vec<Digest> {
    (0..size).map(|i| leaf_hash(format!("entry-{i}").as_bytes())).collect()
}

fn root_of(hashes: &[Digest]) -> Digest {
    let mut builder = RootBuilder::default();
    hashes.iter().for_each(|hash| builder.push_hash(*hash));
    builder.root()
}

#[test]
fn hashes_are_those_of_an_independent_program() {
    let vectors = vectors();
    assert_eq!(empty_root().to_string(), vectors["empty"].as_str().unwrap());
    assert_eq!(root_of(&[]), empty_root());
    assert_eq!(leaf_hash(b"entry-0").to_string(), vectors["leaf(entry-0)"].as_str().unwrap());
    let roots = vectors["roots"].as_object().unwrap();
    assert!(roots.len() > 10);
    let mut builder = RootBuilder::default();
    let mut met = 0;
    for i in 0..70_000 {
        builder.push(format!("entry-{i}").as_bytes());
        if let Some(root) = roots.get(&(i + 1).to_string()) {
            assert_eq!(builder.root().to_string(), root.as_str().unwrap(), "size {}", i + 1);
            met += 1;
        }
    }
    assert_eq!(met, roots.len());
    assert_eq!(builder.size(), 70_000);
}

#[test]
fn paths_are_those_of_an_independent_program() {
    let vectors = vectors();
    let want: Vec<_> =
        vectors["path(4,7)"].as_array().unwrap().iter().map(|d| d.as_str().unwrap().to_owned()).collect();
    let path = merkle_path(&entry_hashes(7), 4).unwrap();
    assert_eq!(path.iter().map(Digest::to_string).collect::<Vec<_>>(), want);
}

#[test]
fn sha256_joins_its_parts() {
    assert_eq!(sha256(&[b"ab", b"", b"c"]), sha256(&[b"abc"]));
    assert_eq!(sha256(&[b"abc"]).to_string(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

#[test]
fn every_path_of_every_small_tree_verifies_and_no_other() {
    for size in 1..=40 {
        let hashes = entry_hashes(size);
        let root = root_of(&hashes);
        let leaves: Vec<_> = (0..size).map(|i| format!("entry-{i}")).collect();
        assert_eq!(merkle_root(leaves.iter().map(String::as_bytes)), root);
        for index in 0..size {
            let path = merkle_path(&hashes, index as usize).unwrap();
            let leaf = hashes[index as usize];
            assert!(verify_path(&leaf, index, size, &path, &root));
            for other in (0..size + 2).filter(|other| *other != index) {
                assert!(!verify_path(&leaf, other, size, &path, &root), "{index} as {other} of {size}");
            }
            assert!(!verify_path(&leaf, index, size, &path, &leaf_hash(b"other")));
            assert!(!verify_path(&leaf_hash(b"other"), index, size, &path, &root));
            if let Some((_, shorter)) = path.split_last() {
                assert!(!verify_path(&leaf, index, size, shorter, &root));
            }
            let longer = [path.as_slice(), &[root]].concat();
            assert!(!verify_path(&leaf, index, size, &longer, &root));
        }
        assert_eq!(merkle_path(&hashes, size as usize), None);
    }
}

fn key(seed: u8) -> SecretKey {
    SecretKey::from_seed(&[seed; 32])
}

#[test]
fn signatures_are_those_of_rfc_8032() {
    // RFC 8032, section 7.1, test 2.
    let seed = HEXLOWER.decode(b"4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb").unwrap();
    let key = SecretKey::from_seed(seed.as_slice().try_into().unwrap());
    assert_eq!(HEXLOWER.encode(&key.public().0), "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c");
    let signature = key.sign(&[0x72]);
    assert_eq!(
        HEXLOWER.encode(&signature.0),
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da\
         085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
    );
    assert!(verify(&key.public(), &[0x72], &signature));
    assert!(!verify(&key.public(), &[0x73], &signature));
}

/// All encodings of the eight points of small order, canonical and not.
fn small_order_encodings() -> Vec<[u8; 32]> {
    let fill = |first: u8, middle: u8, last: u8| {
        let mut bytes = [middle; 32];
        (bytes[0], bytes[31]) = (first, last);
        bytes
    };
    let mut all = Vec::new();
    for (first, middle, last) in [(1, 0, 0), (0, 0, 0), (0xec, 0xff, 0x7f), (0xed, 0xff, 0x7f), (0xee, 0xff, 0x7f)] {
        all.extend([fill(first, middle, last), fill(first, middle, last | 0x80)]);
    }
    for order_8 in [
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    ] {
        let mut bytes: [u8; 32] = HEXLOWER.decode(order_8.as_bytes()).unwrap().try_into().unwrap();
        all.push(bytes);
        bytes[31] |= 0x80;
        all.push(bytes);
    }
    all
}

/// The 196 cases of ZIP 215: where implementations differ from each other, batch and single must not.
#[test]
fn the_cases_of_zip_215_hold_singly_and_in_batches() {
    let mut batch = BatchVerifier::with_capacity(196);
    for a in small_order_encodings() {
        for r in small_order_encodings() {
            let mut signature = [0; 64];
            signature[..32].copy_from_slice(&r);
            assert!(verify(&PublicKey(a), b"Zcash", &Signature(signature)));
            batch.push(&PublicKey(a), b"Zcash", &Signature(signature), ());
        }
    }
    assert_eq!(batch.len(), 196);
    assert!(batch.all_hold());
    assert!(batch.verify().all(|((), holds)| holds));
    assert!(batch.is_empty());
}

#[test]
fn keys_that_anybody_or_nobody_can_sign_for_are_refused() {
    for encoding in small_order_encodings() {
        assert_eq!(check_public_key(&PublicKey(encoding)), Err(WeakKey::SmallOrder));
    }
    let mut not_a_point = [0; 32];
    not_a_point[0] = 2;
    assert_eq!(check_public_key(&PublicKey(not_a_point)), Err(WeakKey::NotAPoint));
    assert!(!verify(&PublicKey(not_a_point), b"", &key(1).sign(b"")));
    for seed in 0..64 {
        assert_eq!(check_public_key(&key(seed).public()), Ok(()));
    }
}

#[test]
fn a_scalar_beyond_the_group_order_is_refused() {
    let mut signature = key(1).sign(b"m");
    // s + L: the same scalar written a second way.
    let order = HEXLOWER.decode(b"edd3f55c1a631258d69cf7a2def9de1400000000000000000000000000000010").unwrap();
    let mut carry = 0;
    for (byte, add) in signature.0[32..].iter_mut().zip(order) {
        let sum = u16::from(*byte) + u16::from(add) + carry;
        *byte = sum as u8;
        carry = sum >> 8;
    }
    assert_eq!(carry, 0);
    assert!(!verify(&key(1).public(), b"m", &signature));
    let mut batch = BatchVerifier::with_capacity(2);
    batch.push(&key(1).public(), b"m", &signature, 0);
    batch.push(&key(1).public(), b"m", &key(1).sign(b"m"), 1);
    assert_eq!(batch.verify().collect::<Vec<_>>(), [(0, false), (1, true)]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    /// Whatever is damaged, a batch answers for each item what the single check answers, in order.
    #[test]
    fn a_batch_answers_as_single_checks_do(
        items in prop::collection::vec((0u8..4, prop::option::weighted(0.2, (0usize..96, 1u8..))), 0..40)
    ) {
        let mut batch = BatchVerifier::with_capacity(items.len());
        let mut want = Vec::new();
        for (number, (seed, damage)) in items.iter().enumerate() {
            let message = number.to_be_bytes();
            let (mut public, mut signature) = (key(*seed).public(), key(*seed).sign(&message));
            match damage {
                Some((at, flip)) if *at < 64 => signature.0[*at] ^= flip,
                Some((at, flip)) => public.0[*at - 64] ^= flip,
                None => {}
            }
            let holds = verify(&public, &message, &signature);
            prop_assert_eq!(holds, damage.is_none());
            want.push((number, holds));
            batch.push(&public, &message, &signature, number);
        }
        prop_assert_eq!(batch.verify().collect::<Vec<_>>(), want);
        prop_assert!(batch.is_empty());
    }

    #[test]
    fn a_key_file_of_any_bytes_is_an_error_or_a_key(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = SecretKey::parse(&bytes);
    }
}

fn key_file(content: &[u8], mode: u32) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("link.key");
    fs::write(&path, content).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
    (dir, path)
}

#[test]
fn a_stored_key_is_private_and_loads_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("link.key");
    let key = SecretKey::generate().unwrap();
    key.store(&path).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let loaded = SecretKey::load(&path).unwrap();
    assert_eq!(loaded.public(), key.public());
    assert_eq!(loaded.sign(b"m"), key.sign(b"m"));
    assert_ne!(SecretKey::generate().unwrap().public(), key.public());
}

#[test]
fn a_key_is_never_overwritten() {
    let (_dir, path) = key_file(b"precious", 0o600);
    assert!(matches!(key(1).store(&path), Err(KeyError::Exists { .. })));
    assert_eq!(fs::read(&path).unwrap(), b"precious");
}

#[test]
fn a_key_that_others_may_read_is_refused_with_the_fix() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("link.key");
    key(1).store(&path).unwrap();
    for mode in [0o640, 0o604, 0o610, 0o601, 0o620, 0o602, 0o644, 0o777] {
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        let error = SecretKey::load(&path).unwrap_err();
        assert!(matches!(error, KeyError::Mode { mode: found, .. } if found == mode), "{error}");
        assert!(error.to_string().contains(&format!("chmod 600 {}", path.display())), "{error}");
    }
    for mode in [0o600, 0o400] {
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        SecretKey::load(&path).unwrap();
    }
}

#[test]
fn what_is_no_key_file_says_why() {
    let good = "atlas-ed25519-private-key/1 AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=\n";
    let other = key(2).public();
    let cases: &[(Vec<u8>, KeyFileFault)] = &[
        (b"".to_vec(), KeyFileFault::NoKey),
        (b"# only a comment\n\n".to_vec(), KeyFileFault::NoKey),
        (b"\xff\xfe".to_vec(), KeyFileFault::NotText),
        (vec![b'#'; MAX_KEY_FILE + 1], KeyFileFault::TooLong),
        (b"\nssh-ed25519 AAAA\n".to_vec(), KeyFileFault::NotAKeyLine { line: 2 }),
        (b"atlas-ed25519-private-key/2 AQEB\n".to_vec(), KeyFileFault::NotAKeyLine { line: 1 }),
        (b"atlas-ed25519-private-key/1 AQEB trailing\n".to_vec(), KeyFileFault::NotAKeyLine { line: 1 }),
        (b"atlas-ed25519-private-key/1 AQEB\n".to_vec(), KeyFileFault::BadSeed { line: 1 }),
        (b"atlas-ed25519-private-key/1 A!\n".to_vec(), KeyFileFault::BadSeed { line: 1 }),
        (format!("{good}{good}").into_bytes(), KeyFileFault::SecondKey { line: 2 }),
        (format!("# public key {other}\n{good}").into_bytes(), KeyFileFault::OtherPublicKey { line: 1 }),
    ];
    for (content, want) in cases {
        let (_dir, path) = key_file(content, 0o600);
        let error = SecretKey::load(&path).unwrap_err();
        assert!(matches!(&error, KeyError::Content { fault, .. } if fault == want), "{error} / {want}");
        assert!(error.to_string().contains(&*path.to_string_lossy()));
    }
    let (dir, path) = key_file(good.as_bytes(), 0o600);
    assert_eq!(SecretKey::load(&path).unwrap().public(), key(1).public());
    assert!(matches!(SecretKey::load(dir.path()), Err(KeyError::NotAFile { .. } | KeyError::Read { .. })));
    assert!(matches!(SecretKey::load(&dir.path().join("none")), Err(KeyError::Read { .. })));
}
