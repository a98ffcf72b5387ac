//! The thread that moves old segments of the history to cold storage ([`crate::history::cold`]), and one that asks whether that is there.
//!
//! It looks once a second, and moves when other entries are settled than at its last try, or a minute after one that failed. A second
//! thread asks the storage for an answer each second, which may come while a copy is synced. A file system that hangs holds up these
//! two alone: after [`REACHABLE_MS`](crate::history::cold::REACHABLE_MS) without an answer the replica's thread does not read there.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::start::FileNode;
use super::telling::report;
use crate::cluster::ReplicaConfig;
use crate::cores;
use crate::history::cold::{Cold, Keep, Ledger, Mover, moved};
use crate::history::store::Layout;
use crate::state::Application;
use crate::types::Digest;

/// Between two looks.
const PAUSE: Duration = Duration::from_secs(1);

/// After a try that failed.
const RETRY: Duration = Duration::from_secs(60);

/// So long a start waits for the first answer of cold storage.
const FIRST_ANSWER: Duration = Duration::from_secs(2);

/// Milliseconds of a day.
const DAY_MS: u64 = 86_400_000;

/// What the replica sees of the thread.
pub(super) struct ColdStorage {
    cold: Option<Arc<Cold>>,
    /// Entries that are settled.
    settled: Arc<AtomicU64>,
    /// The counters as they were shown last.
    shown: [(&'static str, u64); 5],
}

impl ColdStorage {
    /// Where the history lies, and the thread, if there is cold storage. It ends with the replica.
    pub(super) fn start(config: &ReplicaConfig, genesis: Digest) -> (Layout, Self) {
        let directory = config.data.join("history");
        let mut layout = Layout::new(&directory, genesis);
        layout.segment_bytes = config.history.segment_mib << 20;
        layout.cold = config.history.cold.as_ref().map(|root| Arc::new(Cold::new(root, genesis, config.replica)));
        let settled = Arc::new(AtomicU64::new(0));
        match &layout.cold {
            Some(cold) => {
                let keep =
                    Keep { bytes: config.history.keep_mib << 20, ms: config.history.keep_days.saturating_mul(DAY_MS) };
                let thread = Thread {
                    layout: layout.clone(),
                    cold: Arc::clone(cold),
                    keep,
                    bytes_per_second: config.history.move_mib_s << 20,
                    settled: Arc::downgrade(&settled),
                    told: None,
                };
                let (answered, first) = channel();
                let (asked, alive) = (Arc::clone(cold), Arc::downgrade(&settled));
                let begun = cores::spawn("cold-answers", move || ask(&asked, &alive, &answered));
                match begun.and_then(|_| cores::spawn("cold-storage", move || thread.work())) {
                    // A start whose nodes are damaged reads there.
                    Ok(_) => drop(first.recv_timeout(FIRST_ANSWER)),
                    Err(error) => {
                        report(&format!("warning: nothing is moved to cold storage, no thread for it: {error}"));
                    }
                }
            }
            None => warn_of_moved(&layout),
        }
        let storage = Self { cold: layout.cold.clone(), settled, shown: [("", 0); 5] };
        (layout, storage)
    }

    /// So many entries are settled.
    pub(super) fn settled(&self, entries: u64) {
        self.settled.store(entries, Relaxed);
    }

    /// Shows the counters, where they changed.
    pub(super) fn show<A: Application>(&mut self, node: &mut FileNode<A>) {
        let Some(cold) = &self.cold else { return };
        let counts = cold.counts();
        if counts != self.shown {
            counts.iter().for_each(|(name, value)| node.set_counter(name, *value));
            self.shown = counts;
        }
    }
}

/// Tells people of segments that nobody can read.
fn warn_of_moved(layout: &Layout) {
    let count = moved(&layout.directory).len();
    if count > 0 {
        report(&format!(
            "warning: {count} segments of the history are in cold storage, and [history] cold does not say where: their entries cannot be \
             read; set it, or bring them back with `atlas cold import`"
        ));
    }
}

/// Asks cold storage for answers, as long as the replica lives.
fn ask(cold: &Cold, alive: &Weak<AtomicU64>, answered: &Sender<()>) {
    while alive.strong_count() > 0 {
        // Who moves finds out why there is none.
        let _ = cold.probe();
        // Only the first is waited for.
        let _ = answered.send(());
        std::thread::sleep(PAUSE);
    }
}

/// The thread's side.
struct Thread {
    layout: Layout,
    cold: Arc<Cold>,
    keep: Keep,
    bytes_per_second: u64,
    settled: Weak<AtomicU64>,
    /// What people were told last.
    told: Option<String>,
}

impl Thread {
    fn work(mut self) {
        let (mut ledger, mut tried, mut again) = (None, 0, None::<Instant>);
        while let Some(settled) = self.settled.upgrade().map(|settled| settled.load(Relaxed)) {
            if settled > 0 {
                let opened = match ledger.take() {
                    Some(opened) => Ok(opened),
                    None => Ledger::open(&self.layout.directory, self.layout.genesis),
                };
                let is_due = settled != tried || again.is_some_and(|again| again <= Instant::now());
                if is_due {
                    tried = settled;
                    let problem = opened
                        .as_ref()
                        .map_or_else(|error| Some(error.to_string()), |opened| self.tend(opened, settled));
                    again = problem.is_some().then(|| Instant::now() + RETRY);
                    self.tell(problem);
                }
                ledger = opened.ok();
                if let Some(ledger) = &ledger {
                    Mover::new(ledger, &self.cold, self.keep).count();
                }
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// Moves what may be moved; gives why not all of it was.
    fn tend(&self, ledger: &Ledger, settled: u64) -> Option<String> {
        if let Err(error) = self.cold.probe() {
            self.cold.failed();
            return Some(error.to_string());
        }
        let mover = Mover::new(ledger, &self.cold, self.keep);
        mover.clean_up();
        let tended = mover.tend(settled, &mut |bytes| {
            std::thread::sleep(Duration::from_micros(bytes as u64 * 1_000_000 / self.bytes_per_second));
        });
        if tended.moved > 0 {
            report(&format!(
                "moved {} segments of the history to cold storage in {}",
                tended.moved,
                self.cold.folder().display()
            ));
        }
        tended.ended.or(tended.stays).map(|error| error.to_string())
    }

    /// Tells people of a problem once, and of its end.
    fn tell(&mut self, text: Option<String>) {
        if text == self.told {
            return;
        }
        report(&match &text {
            Some(text) => format!(
                "nothing is lost, but history stays where it could go to cold storage: {text}; tried again each minute"
            ),
            None => "moving history to cold storage works again".to_owned(),
        });
        self.told = text;
    }
}
