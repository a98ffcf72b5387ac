//! The log: staging of the replica's own records by the log's own code, and syncs by its device, by one log and by several at once.

use std::path::Path;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use atlas_dataplane::log::{FileDevice, Log, Method, recover};
use atlas_dataplane::ordering::batch::Batch;
use atlas_dataplane::ordering::record::Record;
use atlas_dataplane::types::Digest;
use atlas_dataplane::wire::bundle::Bundle;

use super::costs::{LogCosts, Slowest, Sync};
use super::measure::{MeasureError, SIZES, Times};

/// Bytes of a segment.
const SEGMENT_BYTES: u32 = 8 << 20;

/// Writes of records with one batch each.
struct Writes {
    stage: Times,
    call: Times,
    sync: Times,
}

/// What is written: a batch.
#[derive(Clone)]
pub(super) struct Sample(Arc<Batch>);

impl Sample {
    pub(super) fn new(bundles: Vec<Arc<Bundle>>) -> Self {
        Self(Arc::new(Batch::new(1, bundles)))
    }

    /// Its first bundle alone.
    pub(super) fn first(&self) -> Self {
        Self::new(self.0.bundles().iter().take(1).cloned().collect())
    }

    fn bytes(&self) -> f64 {
        self.0.size() as f64
    }
}

fn open(dir: &Path) -> Result<Log<Record, FileDevice>, MeasureError> {
    std::fs::create_dir_all(dir)?;
    let device = FileDevice::open(dir, Digest::NULL, SEGMENT_BYTES, Method::Direct)?;
    Ok(recover(device, Digest::NULL, SEGMENT_BYTES, |_| {})?.log)
}

fn write(log: &mut Log<Record, FileDevice>, sample: &Sample, budget: Duration) -> Result<Writes, MeasureError> {
    let mut writes = Writes { stage: Times::default(), call: Times::default(), sync: Times::default() };
    let (began, mut sequence) = (Instant::now(), 0);
    while writes.sync.lacks(began, budget) {
        sequence += 1;
        let record = Record::PrePrepared { view: 0, sequence, batch: Arc::clone(&sample.0) };
        let start = Instant::now();
        log.append(record).map_err(|(_, error)| error)?;
        let staged = Instant::now();
        // Nothing is begun while the next segment is still being made: that is waited for, and not counted.
        let begun = log.submit()?;
        let submitted = Instant::now();
        log.flush()?;
        if begun {
            writes.stage.add(staged - start);
            writes.call.add(submitted - staged);
            writes.sync.add(staged.elapsed());
        }
        log.drain_durable().for_each(drop);
    }
    Ok(writes)
}

/// The log's CPU for small and large records, and syncs of one log.
pub(super) fn measure(
    dir: &Path,
    small: &Sample,
    large: &Sample,
    budget: Duration,
) -> Result<(LogCosts, Sync), MeasureError> {
    let mut log = open(&dir.join("log-alone"))?;
    let few = write(&mut log, small, budget / 2)?;
    let many = write(&mut log, large, budget / 2)?;
    let more = large.bytes() - small.bytes();
    let stage_byte_us = ((many.stage.median() - few.stage.median()) / more).max(0.0);
    let stage_record_us = (few.stage.median() - stage_byte_us * small.bytes()).max(0.0);
    let sync = sync_of(1, &few.sync, &many.sync, small, large);
    Ok((LogCosts { stage_record_us, stage_byte_us, call_us: few.call.median() }, sync))
}

fn sync_of(logs: usize, few: &Times, many: &Times, small: &Sample, large: &Sample) -> Sync {
    let byte_us = ((many.median() - few.median()) / (large.bytes() - small.bytes())).max(0.0);
    let without_bytes = |us: f64| (us - byte_us * small.bytes()).max(0.0);
    let slowest = SIZES.iter().map(|&of| Slowest { of, us: without_bytes(few.slowest_of(of)) }).collect();
    Sync { logs, fixed_us: without_bytes(few.median()), slowest, byte_us }
}

/// Syncs of several logs that write at once.
pub(super) fn shared(
    dir: &Path,
    logs: usize,
    small: &Sample,
    large: &Sample,
    budget: Duration,
) -> Result<Sync, MeasureError> {
    let start = Barrier::new(logs);
    let (few, many) = thread::scope(|scope| {
        let threads: Vec<_> = (0..logs)
            .map(|number| {
                let (start, dir) = (&start, dir.join(format!("log-{logs}-{number}")));
                scope.spawn(move || {
                    let opened = open(&dir);
                    // All reach this, also one that failed: the others wait for it.
                    start.wait();
                    let mut log = opened?;
                    let few = write(&mut log, small, budget / 2)?.sync;
                    Ok::<_, MeasureError>((few, write(&mut log, large, budget / 2)?.sync))
                })
            })
            .collect();
        let (mut few, mut many) = (Times::default(), Times::default());
        for thread in threads {
            let (small, large) = thread.join().map_err(|_| MeasureError::Stalled)??;
            few.append(small);
            many.append(large);
        }
        Ok::<_, MeasureError>((few, many))
    })?;
    Ok(sync_of(logs, &few, &many, small, large))
}
