//! What does it cost to read a message that arrived, before anything is done with it?
//!
//! Checked access in place and one read of every field that the receiver looks at: a PRE-PREPARE of 64 bundles, 64 votes in one
//! frame, a client's Submit with 1 and 64 requests of 128 bytes; and the strict parse of that bundle (encoding, limits, root,
//! digest; the signature is in `benches/crypto.rs`). Divide by the bundles, votes or requests for the cost of one.

use std::hint::black_box;

use atlas_dataplane::types::{PublicKey, Signature};
use atlas_dataplane::wire::bundle::{Bundle, Request};
use atlas_dataplane::wire::message::{PrePrepare, Submit, Vote, Votes, WireBundle, access, encode};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

const ORIGIN: &str = "atlas.example/bench";
const OPERATION_BYTES: usize = 128;

fn read_proposal(c: &mut Criterion) {
    let message = PrePrepare { view: 1, sequence: 2, time_ms: 3, digest: [4; 32], bundles: vec![[5; 32]; 64] };
    let mut body = Vec::new();
    encode(&message, &mut body);
    c.bench_function("wire/read PRE-PREPARE of 64 bundles", |b| {
        b.iter(|| {
            let proposal = access::<PrePrepare>(black_box(&body)).expect("own encoding");
            proposal.bundles.iter().fold(proposal.sequence.to_native(), |sum, digest| sum + u64::from(digest[0]))
        });
    });
}

fn read_votes(c: &mut Criterion) {
    let message = Votes { view: 1, votes: (0..64).map(|sequence| Vote { sequence, digest: [5; 32] }).collect() };
    let mut body = Vec::new();
    message.encode(&mut body);
    c.bench_function("wire/read 64 votes", |b| {
        b.iter(|| {
            let votes = Votes::access(black_box(&body)).expect("own encoding");
            votes.votes.iter().fold(0, |sum, vote| sum + vote.sequence.to_native() + u64::from(vote.digest[0]))
        });
    });
}

/// Encoded requests whose operation is a byte string of 128 bytes, head included.
fn requests(count: usize) -> Vec<Vec<u8>> {
    let mut operation = vec![0x55; OPERATION_BYTES];
    operation[..2].copy_from_slice(&[0x58, OPERATION_BYTES as u8 - 2]);
    vec![Request { class: 1, not_after_ms: None, operation: &operation }.encode(); count]
}

fn read_bundles(c: &mut Criterion) {
    let mut group = c.benchmark_group("wire");
    for count in [1, 64] {
        let requests = requests(count);
        let bundle = Bundle::sign(ORIGIN, PublicKey([1; 32]), Some(1), 0, &requests, 5, |_| Signature([2; 64]))
            .expect("within the limits");
        let message = Submit { bundle: WireBundle { cose: bundle.cose().to_vec(), requests } };
        let mut body = Vec::new();
        encode(&message, &mut body);
        group.throughput(Throughput::Elements(count as u64));
        group.bench_function(BenchmarkId::new("read Submit, requests", count), |b| {
            b.iter(|| {
                let submit = access::<Submit>(black_box(&body)).expect("own encoding");
                submit.bundle.requests.iter().map(|request| request.len()).sum::<usize>()
            });
        });
        group.bench_function(BenchmarkId::new("read Submit and parse the bundle, requests", count), |b| {
            b.iter(|| {
                let submit = access::<Submit>(black_box(&body)).expect("own encoding");
                let requests = submit.bundle.requests.iter().map(|request| request.as_slice());
                Bundle::parse(&submit.bundle.cose, requests, ORIGIN).expect("own bundle")
            });
        });
    }
    group.finish();
}

criterion_group!(benches, read_proposal, read_votes, read_bundles);
criterion_main!(benches);
