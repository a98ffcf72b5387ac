//! How often a replica takes memory: per bundle, and not per operation. Every replica of a real cluster runs in this very program, whose
//! allocator counts what the replica's thread takes, while a real client sends bundles of two sizes over its sockets. What grows with
//! the bundles' size is what operations cost.

#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};
use std::time::Duration;

use atlas::client::{Client, ClientConfig};
use atlas::local::{LocalCluster, LocalOptions};
use atlas::twin::operation::{Operation, SetProperty, Write};
use atlas::twin::value::{Quality, Value};
use atlas_dataplane::cluster::Cluster;
use atlas_dataplane::crypto::SecretKey;
use atlas_dataplane::types::Code;

/// Where replicas of this program count, a file each, named by its process.
const COUNTS: &str = "ATLAS_TEST_COUNTS";

/// Bundles of each size that are counted.
const BUNDLES: u64 = 1_600;

/// Operations in the bundles of each size: in all more than a hundred thousand.
const SIZES: [u64; 2] = [16, 80];

/// What an operation may take on average: nothing but what other things take meanwhile, as checkpoints, status and bundles that are sent again
/// on a slow machine do.
const MOST: f64 = 0.1;

const REPLICAS: usize = 4;

static COUNT: AtomicPtr<AtomicU64> = AtomicPtr::new(std::ptr::null_mut());

thread_local! {
    static COUNTS_HERE: Cell<bool> = const { Cell::new(false) };
}

struct Counting;

fn count() {
    // A thread that ends has no such variable any more, and is not the replica's.
    if COUNTS_HERE.try_with(Cell::get).unwrap_or(false) {
        let count = COUNT.load(Ordering::Relaxed);
        // SAFETY: null, or a mapping of a page that is never undone, aligned as pages are.
        if let Some(count) = unsafe { count.as_ref() } {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }
}

// SAFETY: everything is handed to the system's allocator as it comes.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promise.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: the caller's promise.
        unsafe { System.realloc(memory, layout, size) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// From here on this thread, the one that becomes the replica's, counts in a file that the test reads.
fn count_in(directory: &Path) {
    let path = directory.join(std::process::id().to_string());
    let file = fs::OpenOptions::new().create_new(true).read(true).write(true).open(path).unwrap();
    file.set_len(8).unwrap();
    // SAFETY: nobody else writes the file or cuts it off.
    let mapping = unsafe { memmap2::MmapMut::map_mut(&file) }.unwrap();
    COUNT.store(Box::leak(Box::new(mapping)).as_mut_ptr().cast(), Ordering::Relaxed);
    COUNTS_HERE.set(true);
}

fn counted(directory: &Path, cluster: &LocalCluster) -> [u64; REPLICAS] {
    std::array::from_fn(|index| {
        let bytes = fs::read(directory.join(cluster.pid(index).unwrap().to_string())).unwrap();
        u64::from_ne_bytes(bytes.try_into().unwrap())
    })
}

fn operation(number: u64) -> Vec<u8> {
    let property = SetProperty {
        path: format!("sensor/{}", number % 16),
        value: Value::Bytes(number.to_le_bytes().repeat(8)),
        quality: Quality::Good,
        source_time_ns: Some(1),
    };
    let twin = format!("plant/turbine-{}", number / 16 % 250);
    Operation::Write(Write::Set { twin, properties: vec![property], reason: None }).encode()
}

fn write(client: &mut Client, bundles: u64, size: u64, next: &mut u64) {
    for _ in 0..bundles {
        // Any order but that of the slots.
        let operations = (*next..*next + size).map(|number| operation(number.wrapping_mul(7_919))).collect();
        *next += size;
        let results = client.execute(operations).unwrap();
        assert!(results.iter().all(|result| result.code == Code::DONE), "{results:?}");
    }
}

fn test() {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let counts = directory.path().join("counts");
    fs::create_dir(&counts).unwrap();
    // A replica is this program again, told so by its environment.
    let program = directory.path().join("counted");
    let this = std::env::current_exe().unwrap();
    fs::write(&program, format!("#!/bin/sh\n{COUNTS}='{}' exec '{}' \"$@\"\n", counts.display(), this.display()))
        .unwrap();
    fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let options = LocalOptions {
        program: Some(program),
        segment_mib: 16,
        ready_timeout: Duration::from_secs(120),
        ..LocalOptions::default()
    };
    let cluster = LocalCluster::start(&directory.path().join("cluster"), REPLICAS, &options).unwrap();
    let identity = SecretKey::load(cluster.identity("operator").unwrap()).unwrap();
    let config = ClientConfig {
        timeout: Duration::from_secs(60),
        ..ClientConfig::new(Cluster::load(cluster.cluster_file()).unwrap(), identity)
    };
    let mut client = Client::connect(config).unwrap();
    let mut next = 0;
    // All slots are there, and every buffer that grows has grown.
    write(&mut client, 200, 80, &mut next);
    let taken = SIZES.map(|size| {
        let before = counted(&counts, &cluster);
        write(&mut client, BUNDLES, size, &mut next);
        let after = counted(&counts, &cluster);
        std::array::from_fn::<_, REPLICAS, _>(|index| (after[index] - before[index]) as f64)
    });
    for (replica, (small, large)) in taken[0].into_iter().zip(taken[1]).enumerate() {
        let per_operation = (large - small) / ((SIZES[1] - SIZES[0]) * BUNDLES) as f64;
        let per_bundle = small / BUNDLES as f64 - per_operation * SIZES[0] as f64;
        println!(
            "replica {replica}: memory is taken {per_bundle:.1} times a bundle and {per_operation:.4} times an operation"
        );
        // A count that stands still would prove nothing.
        assert!(small >= BUNDLES as f64, "nothing was counted");
        assert!(per_operation < MOST, "an operation takes memory {per_operation:.3} times");
    }
    cluster.stop().unwrap();
}

fn main() -> ExitCode {
    if let Some(directory) = std::env::var_os(COUNTS) {
        count_in(Path::new(&directory));
        return atlas::cli::main();
    }
    // As `cargo test` and its like ask: whatever is not this test is not here.
    let named: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    const NAME: &str = "an_operation_takes_no_memory";
    if std::env::args().any(|argument| argument == "--list") {
        println!("{NAME}: test");
    } else if named.is_empty() || named.iter().any(|name| NAME.contains(name)) {
        println!("running 1 test");
        test();
        println!("test {NAME} ... ok");
    }
    ExitCode::SUCCESS
}
