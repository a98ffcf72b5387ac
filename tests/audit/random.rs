//! Random histories by the replica's own code: whatever clients do, the audit's retelling of the rules agrees.

use atlas::twin::operation::{Operation, Write};
use atlas::twin::value::Value;

use crate::audited;
use crate::history::{GATEWAY, History, OPERATOR, ORIGIN, Run, cluster_with, opening, request, set, signed};
use crate::samples::Rng;

/// A request like those of a careless client: any operation, often the same, some late.
fn any_request(rng: &mut Rng, time_ms: i64) -> Vec<u8> {
    let twin = ["gate/a", "plant/b", "gate/c"][rng.below(3)];
    let path = ["x", "y", "z"][rng.below(3)];
    let value = match rng.below(4) {
        0 => Value::I64(rng.below(3) as i64),
        1 => Value::Text("t".repeat(rng.below(300))),
        2 => Value::Bool(true),
        _ => Value::F64(0.5),
    };
    let operation = match rng.below(6) {
        0 => Operation::Write(Write::Delete { twin: twin.to_owned(), paths: None, reason: None }),
        1 => {
            Operation::Write(Write::Delete { twin: twin.to_owned(), paths: Some(vec![path.to_owned()]), reason: None })
        }
        _ => set(twin, path, value),
    };
    request(&operation, rng.one_in(5).then(|| time_ms + rng.below(30) as i64 - 15))
}

/// Some hundred sequences of clients with few sessions and short windows.
fn history(seed: u64) -> History {
    let mut rng = Rng(seed);
    let settings = "checkpoint_interval = 16\nsession_window = 16\nsessions_per_identity = 2\nsession_idle_ms = 1000\n\
                    state_interval_ms = 100\nmax_properties = 256\n";
    let mut run = Run::new(&cluster_with(settings));
    // Every bundle that was ever sent may come again.
    let mut sent: Vec<atlas_dataplane::wire::bundle::Bundle> = Vec::new();
    while run.execution.size() < 300 {
        let time_ms = run.time_ms;
        let mut bundles = Vec::new();
        for _ in 0..rng.below(4) {
            let seed = [OPERATOR, GATEWAY, 77][if rng.one_in(30) { 2 } else { rng.below(2) }];
            let count = 1 + rng.below(4);
            let requests: Vec<_> = (0..count).map(|_| any_request(&mut rng, time_ms)).collect();
            let bundle = if rng.one_in(8) {
                let requests: Vec<_> = std::iter::once(opening()).chain(requests).collect();
                let off = [0, 0, 0, 900, -900, 2_000, -2_000][rng.below(7)] + rng.below(5) as i64;
                signed(seed, ORIGIN, None, 0, &requests, time_ms + off)
            } else if rng.one_in(6) && !sent.is_empty() {
                sent[rng.below(sent.len())].clone()
            } else {
                let open: Vec<u64> = sent.iter().filter_map(|bundle| bundle.header().session).collect();
                let session = if rng.one_in(4) && !open.is_empty() {
                    open[rng.below(open.len())]
                } else {
                    run.newest(seed, &mut |bound| rng.below(bound))
                };
                signed(seed, ORIGIN, Some(session), rng.below(40) as u64, &requests, time_ms)
            };
            sent.push(bundle.clone());
            bundles.push(bundle);
        }
        if rng.one_in(40) {
            run.time_ms += 1_500;
        }
        run.batch(bundles);
    }
    run.history()
}

#[test]
fn random_histories_replay_as_they_were_executed() {
    let mut skipped = 0;
    for seed in 0..12 {
        let dir = tempfile::tempdir().expect("a directory");
        let history = history(seed);
        assert!(history.entries.len() >= 300);
        let report = audited(&history.export(0, 4, dir.path()), true);
        let report = report.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        assert!(report.replayed && report.operations > 100);
        skipped += report.requests - report.operations;
    }
    assert!(skipped > 500, "only {skipped} requests were skipped");
}
