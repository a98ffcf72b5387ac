//! How many operations a second one core executes on the twin store, and what a state root costs after them.
//!
//! The workload is that of `atlas bench`: one property at a time, spread evenly over 1,000 twins of 16 properties.

use std::hint::black_box;

use atlas::twin::TwinStore;
use atlas::twin::operation::{Operation, SetProperty, Write};
use atlas::twin::query::Query;
use atlas::twin::value::{Quality, Value};
use atlas_dataplane::state::{Answer, Application, Entries, OperationContext, Outcome};
use atlas_dataplane::types::{Code, EntryIndex, Position, PublicKey, TimeMs};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

const TWINS: usize = 1000;
const PROPERTIES: usize = 16;

/// One set for each property, in the order of the names.
fn operations() -> Vec<Vec<u8>> {
    let set = |property: usize| {
        let operation = Operation::Write(Write::Set {
            twin: format!("plant/turbine-{}", property / PROPERTIES),
            properties: vec![SetProperty {
                path: format!("sensor/{}", property % PROPERTIES),
                value: Value::F64(property as f64 + 0.1),
                quality: Quality::Good,
                source_time_ns: Some(1_700_000_000_000_000_000 + property as i64),
            }],
            reason: None,
        });
        operation.encode()
    };
    (0..TWINS * PROPERTIES).map(set).collect()
}

/// Shuffles by a fixed generator (Knuth's MMIX constants). Slots are numbered by first write: visiting them in that order
/// would run along memory and share almost all nodes of the tree, which no uniform load does.
fn shuffle(operations: &mut [Vec<u8>]) {
    let mut random = 42u64;
    for end in (2..=operations.len()).rev() {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        operations.swap(end - 1, (random >> 33) as usize % end);
    }
}

/// Executes operations round and round, each in an entry of its own.
struct Load {
    store: TwinStore,
    operations: Vec<Vec<u8>>,
    entry: EntryIndex,
    outcome: Outcome,
}

impl Load {
    fn new() -> Self {
        let mut load =
            Self { store: TwinStore::new(1 << 20), operations: operations(), entry: 0, outcome: Outcome::default() };
        load.run(TWINS * PROPERTIES);
        shuffle(&mut load.operations);
        load
    }

    fn run(&mut self, count: usize) {
        let origin = PublicKey([7; 32]);
        let access = |_: &str, _: &str| true;
        for _ in 0..count {
            let operation = &self.operations[self.entry as usize % self.operations.len()];
            self.entry += 1;
            let position = Position { entry: self.entry, request: 0 };
            let context =
                OperationContext { time_ms: self.entry as TimeMs, position, origin: &origin, access: &access };
            self.store.execute(&context, black_box(operation), &mut self.outcome);
            assert_eq!(self.outcome.code, Code::DONE);
        }
    }
}

struct NoEntries;

impl Entries for NoEntries {
    fn size(&self) -> EntryIndex {
        0
    }

    fn entry(&self, _: EntryIndex) -> Option<std::borrow::Cow<'_, [u8]>> {
        None
    }

    fn first_at_or_after(&self, _: TimeMs) -> EntryIndex {
        0
    }
}

fn twin_store(criterion: &mut Criterion) {
    let mut load = Load::new();
    let mut group = criterion.benchmark_group("twin_store");

    group.throughput(Throughput::Elements(1000));
    group.bench_function("check 1000 sets", |bencher| {
        bencher.iter(|| {
            for operation in &load.operations[..1000] {
                black_box(load.store.check(black_box(operation))).expect("a good operation");
            }
        });
    });
    group.bench_function("execute 1000 sets", |bencher| bencher.iter(|| load.run(1000)));
    group.bench_function("execute 1000 sets, then the state root", |bencher| {
        bencher.iter(|| {
            load.run(1000);
            black_box(load.store.state_root())
        });
    });
    group.bench_function("execute 1000 sets, then both roots", |bencher| {
        bencher.iter(|| {
            load.run(1000);
            black_box((load.store.state_root(), load.store.absence_root()))
        });
    });

    // Every page of slots is copied once, as after each snapshot.
    group.bench_function("freeze, then execute 1000 sets", |bencher| {
        bencher.iter(|| {
            let frozen = load.store.freeze();
            load.run(1000);
            frozen
        });
    });

    group.throughput(Throughput::Elements(1));
    group.bench_function("freeze 16000 slots", |bencher| bencher.iter(|| load.store.freeze()));
    let query =
        Query::Get { twin: "plant/turbine-500".into(), property: Some("sensor/7".into()), after: None }.encode();
    let mut answer = Answer::default();
    group.bench_function("get one property", |bencher| {
        bencher.iter(|| load.store.query(&NoEntries, black_box(&query), &mut answer));
    });
    group.throughput(Throughput::Elements((TWINS * PROPERTIES) as u64));
    group.bench_function("snapshot 16000 slots", |bencher| {
        bencher.iter(|| {
            let mut bytes = Vec::new();
            load.store.snapshot(&mut bytes).expect("memory takes it all");
            bytes
        });
    });
    group.finish();
}

criterion_group!(benches, twin_store);
criterion_main!(benches);
