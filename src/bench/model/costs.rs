//! What each stage costs on this host: the numbers that the model is given. All times in microseconds.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// CPU of moving frames in one direction, sealing or opening included.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct Transport {
    /// Each time that the kernel is handed something, or wakes the thread with something.
    pub call_us: f64,
    /// Each frame.
    pub frame_us: f64,
    /// Each byte.
    pub byte_us: f64,
}

impl Transport {
    /// So many calls, frames and bytes.
    pub fn of(&self, calls: f64, frames: f64, bytes: f64) -> f64 {
        calls * self.call_us + frames * self.frame_us + bytes * self.byte_us
    }
}

/// Links over loopback.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct LinkCosts {
    /// Towards a peer.
    pub send: Transport,
    /// From one.
    pub receive: Transport,
    /// Half a round trip of one frame between two threads that sleep, on two cores: sending, waking, receiving.
    pub hop_us: f64,
}

/// What verifying one signature costs in a batch.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct Verify {
    /// Signatures in the batch.
    pub batch: f64,
    /// Each of them.
    pub signature_us: f64,
}

/// The ordering core at one replica of a cluster of this size.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct OrderCosts {
    /// Replicas.
    pub n: usize,
    /// Each sequence: all its messages, encoded and read.
    pub sequence_us: f64,
    /// Each bundle in one.
    pub bundle_us: f64,
}

/// CPU of the log.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct LogCosts {
    /// Staging a record.
    pub stage_record_us: f64,
    /// Each byte of it.
    pub stage_byte_us: f64,
    /// Handing a write to the kernel.
    pub call_us: f64,
}

/// The slowest of several syncs.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct Slowest {
    /// How many.
    pub of: usize,
    /// Median.
    pub us: f64,
}

/// How long a durable write takes.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Sync {
    /// Logs that write to the disk at once.
    pub logs: usize,
    /// The smallest write, median.
    pub fixed_us: f64,
    /// The slowest of several such at once, median, by how many.
    pub slowest: Vec<Slowest>,
    /// Each byte more.
    pub byte_us: f64,
}

/// Bundles of one size.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct BundleCosts {
    /// Operations in it.
    pub operations: usize,
    /// Bytes of its frame.
    pub request_bytes: f64,
    /// Bytes of the reply's frame.
    pub reply_bytes: f64,
    /// At its client: numbering, signing, encoding.
    pub submit_us: f64,
    /// At a replica: reading, hashing and checking it, without its signature.
    pub read_us: f64,
    /// Executing all its operations, and its entry in the history; without the trees' roots.
    pub execute_us: f64,
    /// What helpers do for it: the history's files.
    pub helpers_us: f64,
    /// Encoding the reply.
    pub reply_us: f64,
    /// At its client: one replica's reply, read and counted.
    pub tally_us: f64,
}

/// Everything that was measured.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Costs {
    /// Links.
    pub link: LinkCosts,
    /// By rising size of the batch, at least one.
    pub verify: Vec<Verify>,
    /// By rising number of replicas, at least one.
    pub order: Vec<OrderCosts>,
    /// The log's CPU.
    pub log: LogCosts,
    /// By rising number of logs, at least one.
    pub syncs: Vec<Sync>,
    /// By size.
    pub bundles: Vec<BundleCosts>,
    /// The state trees' roots after writes to most properties; they are due once a second.
    pub roots_us: f64,
    /// What a checkpoint adds: roots, digest of the sessions.
    pub checkpoint_us: f64,
}

/// Of measurements of one shape: every number is the median of its kind; of an even count the upper one. `None` of none.
pub fn medians(all: &[Costs]) -> Option<Costs> {
    let values: Vec<Value> = all.iter().map(serde_json::to_value).collect::<Result<_, _>>().ok()?;
    serde_json::from_value(median(&values.iter().collect::<Vec<_>>())?).ok()
}

fn median(all: &[&Value]) -> Option<Value> {
    let first = *all.first()?;
    Some(match first {
        Value::Object(fields) => {
            let field = |name: &String| median(&all.iter().map(|value| value.get(name)).collect::<Option<Vec<_>>>()?);
            fields.keys().map(|name| Some((name.clone(), field(name)?))).collect::<Option<_>>()?
        }
        Value::Array(items) => {
            let item = |place| median(&all.iter().map(|value| value.get(place)).collect::<Option<Vec<_>>>()?);
            (0..items.len()).map(item).collect::<Option<_>>()?
        }
        _ => {
            let mut sorted = all.to_vec();
            let number = |value: &Value| value.as_f64().unwrap_or_default();
            sorted.sort_by(|a, b| number(a).total_cmp(&number(b)));
            (*sorted.get(sorted.len() / 2)?).clone()
        }
    })
}

impl Sync {
    /// The slowest of `n`, or of the next larger number that was measured.
    pub fn slowest_of(&self, n: usize) -> f64 {
        let found = self.slowest.iter().find(|slowest| slowest.of >= n).or(self.slowest.last());
        found.map_or(self.fixed_us, |slowest| slowest.us)
    }
}

impl Costs {
    /// A signature in a batch of so many: on a line between the measured sizes by the logarithm of the size, and as the smallest or
    /// largest beyond them.
    pub fn signature_us(&self, batch: f64) -> f64 {
        let after = self.verify.iter().position(|point| point.batch >= batch);
        match (after, self.verify.last()) {
            (Some(0), _) => self.verify[0].signature_us,
            (Some(after), _) => {
                let (low, high) = (self.verify[after - 1], self.verify[after]);
                let share = (batch / low.batch).ln() / (high.batch / low.batch).ln();
                low.signature_us + share * (high.signature_us - low.signature_us)
            }
            (None, last) => last.map_or(0.0, |last| last.signature_us),
        }
    }

    /// The ordering core of `n` replicas, or of the next larger cluster that was measured.
    pub fn order_of(&self, n: usize) -> OrderCosts {
        let found = self.order.iter().find(|order| order.n >= n).or(self.order.last());
        found.copied().unwrap_or(OrderCosts { n, sequence_us: 0.0, bundle_us: 0.0 })
    }

    /// A sync beside so many logs, or the next larger number that was measured.
    pub fn sync_of(&self, logs: usize) -> Sync {
        let found = self.syncs.iter().find(|sync| sync.logs >= logs).or(self.syncs.last());
        found.cloned().unwrap_or(Sync { logs, fixed_us: 0.0, slowest: Vec::new(), byte_us: 0.0 })
    }
}
