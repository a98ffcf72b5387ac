//! What a replica with a stolen key does is kept as evidence: shown by `atlas status`, convincing to others where it was signed, and
//! still there after kill -9.

mod support;

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use atlas_dataplane::crypto::SecretKey;
use atlas_dataplane::types::Digest;
use atlas_dataplane::wire::frame::Kind;
use atlas_dataplane::wire::message::Checkpoint;
use serde_json::Value;
use support::link::Link;
use support::{Cluster, until};

/// `atlas status` as an operator runs it; the objects of `--json`.
fn status(cluster: &Cluster) -> Vec<Value> {
    let text = status_text(cluster, &["--json"]);
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn status_text(cluster: &Cluster, more: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_atlas"));
    command.args(["status", "--timeout", "3"]).args(more).env("ATLAS_CLUSTER", cluster.local.cluster_file());
    command.env("ATLAS_IDENTITY", cluster.local.identity("operator").unwrap());
    String::from_utf8(command.output().unwrap().stdout).unwrap()
}

/// A CHECKPOINT of sequence 256 that states some state, signed as PROTOCOL.md has it.
fn checkpoint(cluster: &Cluster, key: &SecretKey, state: u8) -> Checkpoint {
    let mut body = 256u64.to_le_bytes().to_vec();
    body.extend_from_slice(&[state; 8 + 4 * 32]);
    let origin = cluster.file.origin().as_bytes();
    let length = (origin.len() as u32).to_be_bytes();
    let signed = [&b"atlas-checkpoint/1"[..], &0u32.to_be_bytes(), &length, origin, &body].concat();
    Checkpoint { body, signature: key.sign(&signed).0 }
}

fn evidence_file(cluster: &Cluster, index: usize) -> PathBuf {
    cluster.home(index).join("data/evidence")
}

#[test]
fn evidence_is_shown_convicts_and_survives_kill_minus_9() {
    let mut cluster = Cluster::start();
    let mut client = cluster.client();
    cluster.kill(3);
    let identity = cluster.identity(cluster.stolen_key(3));
    let protocol_key = SecretKey::load(&cluster.home(3).join("keys/protocol.key")).unwrap();
    let mut link = Link::replica(&cluster, 0, Arc::clone(&identity)).unwrap();
    for digest in [[1; 32], [2; 32]] {
        link.send_votes(Kind::Prepare, 0, &[(7, Digest(digest))]).unwrap();
    }
    for state in [5, 6] {
        link.send_message(&checkpoint(&cluster, &protocol_key, state)).unwrap();
    }
    cluster.wait_counted(0, "misbehaviour.replica-3.equivocation", 0);
    cluster.wait_counted(0, "misbehaviour.replica-3.two_checkpoints", 0);
    // It is written beside the data path.
    let file = evidence_file(&cluster, 0);
    until("the evidence is on disk", || std::fs::metadata(&file).is_ok_and(|file| file.len() > 500));
    cluster.kill(0);
    cluster.restart(0);
    cluster.wait_linked(&[0, 1, 2]);

    let answers = status(&cluster);
    let witness = &answers[0];
    let counts = &witness["misbehaviour"]["replica-3"];
    assert_eq!((&counts["equivocation"], &counts["two_checkpoints"]), (&1.into(), &1.into()), "{witness}");
    let evidence = witness["evidence"].as_array().unwrap();
    let of = |kind: &str| evidence.iter().find(|one| one["kind"] == kind).unwrap();
    let votes = of("equivocation");
    assert_eq!((&votes["replica"], &votes["view"], &votes["sequence"]), (&"replica-3".into(), &0.into(), &7.into()));
    assert_eq!(votes["digests"], serde_json::json!(["01".repeat(32), "02".repeat(32)]));
    assert_eq!(votes["messages"], serde_json::json!([]));
    let messages = of("two_checkpoints")["messages"].as_array().unwrap();
    assert_eq!(messages.len(), 2);
    for (message, state) in messages.iter().zip(["05", "06"]) {
        assert_eq!((&message["kind"], &message["signer"]), (&"CHECKPOINT".into(), &"replica-3".into()));
        assert_eq!(message["signature_holds"], true);
        assert!(message["body"].as_str().unwrap().ends_with(&state.repeat(32)), "{message}");
    }
    // Nobody correct is named, and who saw nothing says nothing.
    for answer in &answers[..3] {
        let named: Vec<_> = answer["misbehaviour"].as_object().unwrap().keys().collect();
        assert!(named.iter().all(|name| *name == "replica-3"), "{answer}");
    }
    let text = status_text(&cluster, &[]);
    assert!(text.contains("replica-0 saw replica-3 misbehave: equivocation 1, two_checkpoints 1"), "{text}");
    assert!(text.contains("1 with signatures that hold"), "{text}");
    cluster.assert_well(&mut client, &[0, 1, 2]);
}

#[test]
fn a_damaged_evidence_file_keeps_no_replica_from_starting() {
    let mut cluster = Cluster::start();
    let mut client = cluster.client();
    cluster.kill(1);
    std::fs::write(evidence_file(&cluster, 1), [0xff; 300]).unwrap();
    cluster.restart(1);
    cluster.wait_all();
    cluster.assert_well(&mut client, &[0, 1, 2, 3]);
    let text = cluster.log_text(1);
    assert!(text.contains("is damaged") && text.contains("evidence.damaged"), "{text}");
}
