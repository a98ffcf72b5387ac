//! How many operations a second `atlas audit --deep` checks: hashing, decoding, signatures and replay.
//!
//! `taskset -c 0 cargo bench --bench audit` gives the figure for one core: the threads of an audit then share it. The worst case is
//! one signature an operation, in files of 256 entries; the other is what a gateway sends, 32 operations under one signature.

#[allow(dead_code, reason = "tests use the rest of it")]
#[path = "../tests/audit/history.rs"]
mod history;

use std::num::NonZero;

use atlas::audit::run::{Options, audit};
use atlas::twin::value::Value;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use history::{CREATED_MS, History, OPERATOR, ORIGIN, Run, cluster_with, opening, request, set, signed};

/// Operations of each history.
const OPERATIONS: u64 = 16_384;
/// Twins that they spread over, each with 16 properties.
const TWINS: u64 = 256;

/// A history of sets, `requests` under each signature, eight bundles a batch.
fn uniform(requests: u64) -> History {
    let mut run = Run::new(&cluster_with("checkpoint_interval = 256\n"));
    run.batch(vec![signed(OPERATOR, ORIGIN, None, 0, &[opening()], CREATED_MS)]);
    let mut next = 1;
    while next <= OPERATIONS {
        let mut bundles = Vec::new();
        for _ in 0..8 {
            let operation = |number: u64| {
                let (twin, path) = (number * 7 % TWINS, number / TWINS % 16);
                let value = Value::F64(number as f64 + 0.1);
                request(&set(&format!("plant/turbine-{twin}"), &format!("sensor/{path}"), value), None)
            };
            let list: Vec<_> = (next..next + requests).map(operation).collect();
            bundles.push(signed(OPERATOR, ORIGIN, Some(1), next, &list, CREATED_MS));
            next += requests;
        }
        run.batch(bundles);
    }
    run.history()
}

fn audits(c: &mut Criterion) {
    let policy = History::policy();
    let mut group = c.benchmark_group("audit");
    group.throughput(Throughput::Elements(OPERATIONS)).sample_size(10);
    for requests in [1, 32] {
        let dir = tempfile::tempdir().expect("a directory");
        let history = uniform(requests);
        let export = history.export(0, 4, dir.path());
        group.bench_function(format!("deep, {requests} under a signature"), |b| {
            let options = Options { deep: true, threads: NonZero::<usize>::MIN };
            b.iter(|| {
                let report = audit(&export, &policy, options, &|_, _| ()).expect("it holds");
                assert!(report.operations >= OPERATIONS);
            });
        });
        let options = Options { deep: true, threads: NonZero::<usize>::MIN };
        let report = audit(&export, &policy, options, &|_, _| ()).expect("it holds");
        let rate = report.requests as f64 / report.busy_seconds;
        println!("by processor time, {requests} under a signature: {rate:.0} operations/s for each busy core");
    }
    group.finish();
}

criterion_group!(benches, audits);
criterion_main!(benches);
