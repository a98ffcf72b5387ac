//! Samples of evidence files: well-formed, with signatures and hashes that are none.

use atlas_dataplane::cbor::Writer;
use atlas_dataplane::cluster::policy::{TYPE_COSIGNATURE, TYPE_LOG, cosigner_name, vkey};
use atlas_dataplane::history::note::{CheckpointBody, SignatureLine, assemble};
use atlas_dataplane::history::tiles::put_entry;
use atlas_dataplane::history::tlog_proof::{Neighbour, Payload, render};
use atlas_dataplane::types::{Digest, PublicKey, ReplicaId};

use super::{ORIGIN, Rng};

pub(crate) fn note(rng: &mut Rng) -> String {
    let body = CheckpointBody { origin: ORIGIN.to_owned(), size: 1 + (rng.number() >> 2), root: Digest(rng.array()) };
    let line = |rng: &mut Rng, name: String, length| SignatureLine {
        name,
        key_id: rng.array(),
        bytes: (0..length).map(|_| rng.next() as u8).collect(),
    };
    let logs: Vec<_> = (0..=rng.below(2)).map(|_| line(rng, ORIGIN.to_owned(), 64)).collect();
    let cosigned: Vec<_> =
        (0..rng.below(5) as u8).map(|i| line(rng, cosigner_name(ORIGIN, ReplicaId(i)), 72)).collect();
    assemble(&body, &logs, &cosigned).expect("a size and a log line")
}

pub(crate) fn policy(rng: &mut Rng) -> Vec<u8> {
    let count = 1 + rng.below(5) as u8;
    let mut text = String::from("# a policy\n");
    for _ in 0..count {
        text += &format!("log {}\n", vkey(ORIGIN, TYPE_LOG, &PublicKey(rng.array())));
    }
    for i in 0..count {
        let key = vkey(&cosigner_name(ORIGIN, ReplicaId(i)), TYPE_COSIGNATURE, &PublicKey(rng.array()));
        text += &format!("witness r{i} {key}\n");
    }
    let members: Vec<_> = (0..count).map(|i| format!("r{i}")).collect();
    let threshold = ["any", "all", "1"][rng.below(3)];
    text += &format!("group replicas {threshold} {}\nquorum replicas\n", members.join(" "));
    text.into_bytes()
}

fn path(rng: &mut Rng) -> Vec<Digest> {
    rng.list(6, |rng| Digest(rng.array()))
}

pub(crate) fn payload(rng: &mut Rng) -> Vec<u8> {
    let entry = rng.bytes(100);
    match rng.below(3) {
        0 => Payload::Receipt { entry: &entry }.encode(),
        1 => {
            let leaf = leaf(rng);
            Payload::State { entry: &entry, slot: rng.number(), leaf: &leaf, path: path(rng) }.encode()
        }
        _ => {
            let leaves = rng.list(2, |rng| (rng.number(), leaf(rng), path(rng)));
            let neighbour = |(index, leaf, path): &'_ (u64, Vec<u8>, Vec<Digest>)| (*index, leaf.clone(), path.clone());
            let parts: Vec<_> = leaves.iter().map(neighbour).collect();
            let neighbours =
                parts.iter().map(|(index, leaf, path)| Neighbour { index: *index, leaf, path: path.clone() });
            Payload::Absence { entry: &entry, neighbours: neighbours.collect() }.encode()
        }
    }
}

pub(crate) fn proof(rng: &mut Rng) -> Vec<u8> {
    let extra = (!rng.one_in(4)).then(|| payload(rng));
    let (index, path) = (rng.number() >> 2, path(rng));
    render(extra.as_deref(), index, &path, &note(rng)).into_bytes()
}

pub(crate) fn leaf(rng: &mut Rng) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut out = Writer(&mut bytes);
    out.array(12).text("atlas-slot/1").uint(rng.number()).text(&rng.text(8)).text(&rng.text(8)).uint(rng.number());
    out.uint(rng.number()).uint(rng.number() & 0xffff).int(rng.number() as i64);
    out.optional(rng.one_in(2).then(|| rng.number() as i64), |out, time| {
        out.int(time);
    });
    out.bytes(&rng.array::<32>()).uint(rng.below(4) as u64);
    match rng.below(4) {
        0 => out.undefined(),
        1 => out.float(0.5),
        2 => out.bytes(&rng.bytes(9)),
        _ => out.text(&rng.text(9)),
    };
    bytes
}

pub(crate) fn entries(rng: &mut Rng, width: u8) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..width {
        assert!(put_entry(&mut bytes, &rng.bytes(20)));
    }
    bytes
}
