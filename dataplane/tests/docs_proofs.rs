//! The proofs in `docs/vectors.json`, which another program made, hold here.

use atlas_dataplane::history::tlog_policy::Policy;
use atlas_dataplane::history::tlog_proof::{Claim, TlogProof};

#[test]
fn proofs_of_another_program_hold() {
    let text = include_str!("../../docs/vectors.json");
    let vectors: serde_json::Value = serde_json::from_str(text).unwrap();
    let policy = Policy::parse(vectors["policy"].as_str().unwrap().as_bytes()).unwrap();
    let proof = |name: &str| TlogProof::parse(vectors[name].as_str().unwrap().as_bytes()).unwrap();
    for name in ["receipt", "state_proof", "absence_proof"] {
        let proof = proof(name);
        let (certified, claim) = proof.check(&policy).unwrap_or_else(|fault| panic!("{name}: {fault}"));
        assert_eq!((certified.size, certified.cosigned.len()), (6, 3));
        match claim {
            Claim::Entry { .. } => assert_eq!((name, proof.index), ("receipt", 1)),
            Claim::Slot { leaf, .. } => assert_eq!((name, leaf.property, leaf.revision), ("state_proof", "state", 2)),
            Claim::Absent { gap, .. } => assert!(name == "absence_proof" && gap.covers("plant/turbine-1", "speed")),
        }
    }
}
