//! What one durable append to the log costs, by both ways of syncing: time, and bytes written to the device.
//!
//! The data directory is made under `target/`, so that it lies on a real disk; set `ATLAS_BENCH_DIR` for another. The
//! device's counters are of the whole disk: let nothing else write meanwhile.

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use atlas_dataplane::log::{Durable, FileDevice, Log, Method, RECORD_HEADER, Record, Sink, recover};
use atlas_dataplane::types::Digest;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

const GENESIS: Digest = Digest([1; 32]);
const SEGMENT_BYTES: u32 = 32 * 1024 * 1024;
/// Appends whose bytes on the device are counted.
const COUNTED: u64 = 1_000;
/// Records of one group commit.
const GROUP: usize = 4;

#[derive(Clone)]
struct Bytes(Vec<u8>);

impl Record for Bytes {
    fn kind(&self) -> u8 {
        1
    }

    fn key(&self) -> u64 {
        0
    }

    fn encode(&self, out: &mut Sink<'_>) {
        out.put(&self.0);
    }

    fn decode(_: u8, payload: &[u8]) -> Option<Self> {
        Some(Self(payload.to_vec()))
    }
}

fn open(dir: &Path, method: Method) -> Log<Bytes, FileDevice> {
    let device = FileDevice::open(dir, GENESIS, SEGMENT_BYTES, method).expect("the directory opens");
    if method == Method::Direct && !device.is_direct() {
        println!("this file system refuses O_DIRECT: the writes below are buffered and synced");
    }
    recover(device, GENESIS, SEGMENT_BYTES, |_: Durable<Bytes>| {}).expect("the log starts").log
}

/// Appends a group of records, `bytes` together with their headers, and makes them durable.
fn commit(log: &mut Log<Bytes, FileDevice>, bytes: usize) {
    for _ in 0..GROUP {
        let record = Bytes(vec![0x5a; bytes / GROUP - RECORD_HEADER]);
        assert!(log.append(record).is_ok(), "the staging buffer has room");
    }
    log.flush().expect("the write is durable");
    log.drain_durable().for_each(drop);
}

/// Bytes that the device under `dir` has written so far; `None` where the system does not tell.
fn written(dir: &Path) -> Option<u64> {
    let device = fs::metadata(dir).ok()?.dev();
    let stat = fs::read_to_string(format!("/sys/dev/block/{}:{}/stat", major(device), minor(device))).ok()?;
    // The seventh column counts written sectors of 512 bytes, whatever the device's own.
    stat.split_whitespace().nth(6)?.parse::<u64>().ok().map(|sectors| sectors * 512)
}

fn major(device: u64) -> u64 {
    (device >> 8) & 0xfff | (device >> 32) & !0xfff
}

fn minor(device: u64) -> u64 {
    device & 0xff | (device >> 12) & !0xff
}

fn count_bytes(dir: &Path, method: Method, bytes: usize, cached: bool) {
    let mut log = open(dir, method);
    // The first commit waits for the first segments; then the maker's own writes are over until the next is due.
    commit(&mut log, bytes);
    std::thread::sleep(Duration::from_secs(1));
    if cached {
        // Zeros through the page cache over the zeros that are there: what a maker does that keeps its pages cached.
        let path = dir.join("log/00000000.seg");
        let file = fs::OpenOptions::new().write(true).open(path).expect("the segment is there");
        let zeros = vec![0; 1024 * 1024];
        for at in (zeros.len() / 8..SEGMENT_BYTES as usize - zeros.len()).step_by(zeros.len()) {
            file.write_all_at(&zeros, at as u64).expect("the disk takes zeros");
        }
        file.sync_all().expect("the disk syncs");
    }
    let appends = COUNTED.min(u64::from(SEGMENT_BYTES) / 2 / bytes as u64);
    let mut times = Vec::new();
    let before = written(dir);
    for _ in 0..appends {
        let start = Instant::now();
        commit(&mut log, bytes);
        times.push(start.elapsed());
    }
    let after = written(dir);
    times.sort_unstable();
    let (p50, p99) = (times[times.len() / 2], times[times.len() * 99 / 100]);
    let device = match before.zip(after) {
        Some((before, after)) => format!("{} bytes to the device an append", (after - before) / appends),
        None => "the system does not tell what the device wrote".into(),
    };
    let cached = if cached { ", page-cached segment" } else { "" };
    println!("{method:?}{cached}, {bytes} bytes a sync: p50 {p50:.1?}, p99 {p99:.1?}, {device}");
}

fn append(c: &mut Criterion) {
    let base = std::env::var_os("ATLAS_BENCH_DIR")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("target"), PathBuf::from);
    for bytes in [4096, 65536] {
        for method in [Method::Direct, Method::Mapped] {
            for cached in [false, true] {
                let dir = tempfile::tempdir_in(&base).expect("a directory on the disk");
                count_bytes(dir.path(), method, bytes, cached);
            }
            let dir = tempfile::tempdir_in(&base).expect("a directory on the disk");
            let mut log = open(dir.path(), method);
            let mut group = c.benchmark_group(format!("log_append/{method:?}"));
            group.throughput(Throughput::Bytes(bytes as u64)).sample_size(20).measurement_time(Duration::from_secs(2));
            group.bench_function(format!("{bytes}"), |b| b.iter(|| commit(&mut log, bytes)));
            group.finish();
        }
    }
}

criterion_group!(benches, append);
criterion_main!(benches);
