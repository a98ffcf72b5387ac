//! Settings: what each number means, its unit, default and bounds, in one table per section.

use serde::Deserialize;
use toml::{Spanned, Value};

use super::error::{ConfigError, Problem, Source};

/// What a setting is, for comments, help and error messages.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// Its key in the section.
    pub key: &'static str,
    /// What it does, one line each.
    pub doc: &'static [&'static str],
    /// Used when the key is not there.
    pub default: u64,
    /// Smallest permitted value.
    pub min: u64,
    /// Largest permitted value.
    pub max: u64,
    /// What it counts.
    pub unit: &'static str,
}

impl Setting {
    /// The value in the file, or the default.
    pub(super) fn read(
        &self,
        section: &str,
        raw: Option<Spanned<Value>>,
        source: &Source<'_>,
    ) -> Result<u64, ConfigError> {
        let Some(raw) = raw else { return Ok(self.default) };
        let number = raw.as_ref().as_integer().and_then(|number| u64::try_from(number).ok());
        match number.filter(|number| (self.min..=self.max).contains(number)) {
            Some(number) => Ok(number),
            None => {
                let Self { key, min, max, unit, .. } = *self;
                let found = match raw.as_ref() {
                    Value::Array(_) => "an array".to_owned(),
                    Value::Table(_) => "a table".to_owned(),
                    plain => plain.to_string().chars().take(MAX_FOUND).collect(),
                };
                let key = if section.is_empty() { key.to_owned() } else { format!("{section}.{key}") };
                Err(source.error(raw.span().start, key, Problem::Number { found, unit, min, max }))
            }
        }
    }
}

/// How much of a wrong value an error message repeats, in characters.
const MAX_FOUND: usize = 40;

/// Declares a section of a configuration file: a struct with a public field per setting, its defaults, its table of
/// [`Setting`]s, and the raw form that serde fills.
macro_rules! settings {
    (
        $(#[$meta:meta])* pub struct $name:ident ($raw:ident, $section:literal) {
            $($(#[doc = $doc:literal])+ $field:ident = $default:expr, $min:literal ..= $max:literal, $unit:literal;)+
        }
        $(also { $(#[doc = $extra_doc:literal])+ $extra:ident: $extra_type:ty; })?
    ) => {
        $(#[$meta])*
        #[derive(Clone, PartialEq, Eq, Debug)]
        pub struct $name {
            $($(#[doc = $doc])+ pub $field: u64,)+
            $($(#[doc = $extra_doc])+ pub $extra: $extra_type,)?
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $($field: $default,)+ $($extra: Default::default(),)? }
            }
        }

        #[derive(Deserialize, Default)]
        #[serde(deny_unknown_fields, default)]
        pub(super) struct $raw {
            $(pub(super) $field: Option<Spanned<Value>>,)+
            $(pub(super) $extra: $extra_type,)?
        }

        impl $name {
            /// The name of the section.
            pub const SECTION: &str = $section;
            /// Every number of the section.
            pub const TABLE: &[Setting] = &[$(Setting {
                key: stringify!($field),
                doc: &[$($doc),+],
                default: $default,
                min: $min,
                max: $max,
                unit: $unit,
            },)+];

            /// Every number of the section by its key, in the order of the table.
            pub fn numbers(&self) -> impl Iterator<Item = (&'static str, u64)> {
                Self::TABLE.iter().map(|setting| setting.key).zip([$(self.$field),+])
            }

            /// The same with another value of one number; `None` where there is no such key. Bounds are the caller's to hold.
            pub fn with(&self, key: &str, value: u64) -> Option<Self> {
                let mut changed = self.clone();
                match key {
                    $(stringify!($field) => changed.$field = value,)+
                    _ => return None,
                }
                Some(changed)
            }

            pub(super) fn read(raw: $raw, source: &Source<'_>) -> Result<Self, ConfigError> {
                let mut table = Self::TABLE.iter();
                // The fields below are read in the order of the table, both being in the order of the declaration.
                let mut next = |value: Option<Spanned<Value>>| match table.next() {
                    Some(setting) => setting.read($section, value, source),
                    None => Ok(0),
                };
                Ok(Self { $($field: next(raw.$field)?,)+ $($extra: raw.$extra,)? })
            }
        }
    };
}

settings! {
    /// What replicas agree on beside the membership. Stands in the cluster file.
    pub struct Settings (RawSettings, "settings") {
        /// A checkpoint is taken every so many sequences (K).
        checkpoint_interval = 256, 16..=256, "sequences";
        /// So many sequences may be open above the last stable checkpoint: as many as checkpoint_interval, since with fewer
        /// the next checkpoint would never be reached.
        window = 256, 16..=256, "sequences";
        /// A proposed time may differ from a backup's clock by so much.
        drift_ms = 5000, 100..=600_000, "milliseconds";
        /// The store holds at most so many properties.
        max_properties = 65_536, 256..=16_777_216, "properties";
        /// A session remembers the replies of so many consecutive requests.
        session_window = 1024, 16..=65_536, "requests";
        /// An identity has at most so many open sessions.
        sessions_per_identity = 1024, 1..=1024, "sessions";
        /// A session is closed after so much agreed time without a request.
        session_idle_ms = 3_600_000, 1000..=2_592_000_000, "milliseconds";
        /// The state root enters the history at least this often while anything changes.
        state_interval_ms = 1_000, 100..=3_600_000, "milliseconds";
        /// A snapshot of the state is kept whenever the history has grown by so much since the last, at a checkpoint; by more
        /// where the store is large, so that snapshots stay a small part of what is written.
        snapshot_mib = 64, 1..=65_536, "MiB";
    }
}

/// How the tail of the log becomes durable.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogDevice {
    /// Aligned writes past the page cache, durable when they return.
    #[default]
    Direct,
    /// Stores into a writable mapping, then a sync.
    Mapped,
}

settings! {
    /// The log of one replica.
    pub struct LogConfig (RawLog, "log") {
        /// Size of one segment file, allocated in advance.
        segment_mib = 64, 4..=1024, "MiB";
    }
    also {
        /// How the tail becomes durable: "direct" or "mapped".
        device: LogDevice;
    }
}

settings! {
    /// The transport of one replica.
    pub struct NetConfig (RawNet, "net") {
        /// So many clients may be connected, a quarter of them with one key. For one more the oldest is closed of the key with most.
        max_clients = 1024, 1..=60_000, "connections";
        /// What may wait to be sent on one connection; what there is no room for is lost, and made good by statuses and clients.
        send_queue_kib = 4096, 4096..=262_144, "KiB";
        /// A connection that has not finished its handshake by then is closed.
        handshake_timeout_ms = 5000, 100..=60_000, "milliseconds";
        /// First pause before a lost connection is tried again; it doubles with each failure.
        reconnect_min_ms = 20, 1..=10_000, "milliseconds";
        /// Longest such pause; at least reconnect_min_ms.
        reconnect_max_ms = 1000, 1..=60_000, "milliseconds";
    }
}

settings! {
    /// The history of one replica, and what of it goes to cold storage. See [`crate::history::cold`].
    pub struct HistoryConfig (RawHistory, "history") {
        /// Size of one segment file where the data directory is new; one that is there keeps its own.
        segment_mib = 256, 1..=1024, "MiB";
        /// The newest entries stay where the data is: at least so much of them, ...
        keep_mib = 16_384, 0..=1_073_741_824, "MiB";
        /// ... and whatever is younger than this. Whole segments that are older by both move to cold storage, if there is one.
        keep_days = 90, 0..=36_500, "days";
        /// Moving reads and writes at most so much in a second.
        move_mib_s = 32, 1..=65_536, "MiB/s";
    }
    also {
        /// The directory of cold storage, which must be there; without one everything stays. Each replica needs one of its own to be
        /// safe from the loss of another's.
        cold: Option<std::path::PathBuf>;
    }
}

settings! {
    /// Timing and resources of one replica's ordering.
    pub struct LocalConfig (RawLocal, "local") {
        /// As leader it has at most so many batches under way; what arrives meanwhile gathers into the next.
        max_open_batches = 8, 1..=4096, "batches";
        /// As leader it puts at most so many bytes of bundles into a batch; a bundle that is larger goes alone.
        max_batch_kib = 256, 16..=1024, "KiB";
        /// Verified bundles that wait for their order take at most so much; beyond its share a client is told "overloaded".
        pool_mib = 32, 1..=4096, "MiB";
        /// It tells its peers this often what it has and what it lacks.
        status_interval_ms = 100, 10..=60_000, "milliseconds";
        /// It leaves a leader under which nothing is executed for so long while something waits; doubled while views fail.
        /// A fifth of it is enough where the link to the leader is down.
        leader_timeout_ms = 150, 20..=60_000, "milliseconds";
        /// With less than so much free where its data lies it takes no new writes; everything else goes on. More than two log
        /// segments should fit. 0: it takes writes until the disk is full, and then ends.
        low_space_mib = 512, 0..=1_073_741_824, "MiB";
        /// It cosigns the history at most this often while nobody waits for a receipt or a proof; while somebody does every 2 ms, or
        /// this often where that is faster.
        cosign_interval_ms = 50, 1..=60_000, "milliseconds";
        /// For replicas that are behind the log it reads at most so much history and state in a second, to hash or to supply it.
        transfer_mib_s = 64, 1..=65_536, "MiB/s";
        /// The flight recorder follows one client's bundle of so many through all stages, the same ones on all replicas. 0: none.
        trace_sampling = 256, 0..=1_000_000_000, "bundles";
        /// Before it sleeps for want of work it looks out for more for so long. It reacts sooner and uses its core the whole time: only for
        /// one that is its own. 0: it sleeps at once.
        spin_us = 0, 0..=10_000, "microseconds";
        /// What votes wait for may itself wait so long for more to be written with it: fewer and larger writes to the disk, for so much
        /// more latency of each commit. 0: it is written as soon as no other write is under way, which gathers enough under load.
        group_commit_us = 0, 0..=2000, "microseconds";
        /// Where the link to the leader is down it is left after this part of leader_timeout_ms.
        link_down_percent = 20, 5..=100, "percent of leader_timeout_ms";
        /// Where nothing is executed for this part of leader_timeout_ms, what clients sent here is sent on to the leader.
        relay_percent = 25, 5..=50, "percent of leader_timeout_ms";
        /// Under load a leader has up to so many times leader_timeout_ms: eight times the longest that executions took lately.
        leader_load_factor = 4, 1..=16, "times leader_timeout_ms";
        /// leader_timeout_ms doubles with each view in which nothing is executed, at most so often.
        leader_doublings = 12, 4..=16, "doublings";
        /// A leader that has work and nothing under way is overdue after so many times the pause that leaders made lately.
        slow_pause_factor = 4, 2..=16, "times the expected pause";
        /// With a backlog a leader is slow below this part of the best rate that is known: 8 is an eighth.
        slow_rate_part = 8, 2..=64, "parts of the best rate";
        /// A leader is replaced for being slow after so many bad periods in a row; a period is one leader_timeout_ms of waiting time.
        slow_periods = 4, 2..=32, "periods";
        /// So much waiting time at the beginning of a view is not held against a leader; doubled with each that was replaced for being slow.
        slow_grace = 8, 2..=64, "times leader_timeout_ms";
        /// A leader is replaced for being unfair when it passes over a client for so long.
        unfair_factor = 8, 3..=64, "times leader_timeout_ms";
        /// One client may use at most one part in so many of pool_mib, however few use it; beyond its share it is told "overloaded".
        pool_shares = 8, 2..=64, "parts of pool_mib";
        /// A turn, which also orders and executes, answers at most so many reads; the others wait for the next, clients taking turns.
        reads_a_turn = 64, 1..=256, "reads";
        /// And reads and answers at most so many bytes for them, a quarter of it for one client. A single larger answer is made all the same,
        /// and its client waits for it.
        reads_kib_a_turn = 512, 16..=4096, "KiB";
        /// Of history, for exports, backups and audits that ask over the network, it sends at most so much in a second. 0: as fast as it goes.
        export_mib_s = 0, 0..=65_536, "MiB/s";
    }
}

/// Room for the largest frame of a replica, or a batch could never be sent.
const _: () = assert!(crate::crypto::session::frame_bytes(crate::wire::limits::MAX_PEER_BODY) <= 4096 << 10);
