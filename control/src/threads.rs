//! The threads of this process, as the kernel counts them: where each may run, and what it used of processors.

use std::collections::BTreeMap;
use std::fs;
use std::time::Instant;

use crate::limits::MAX_THREADS;

/// What is done on threads of these names.
const WORK: &[(&str, &str)] = &[
    ("log-segments", "makes the log's segments, and lets go of the oldest"),
    ("history", "writes the history"),
    ("snapshots", "writes snapshots of the state"),
    ("evidence", "writes what is kept of misbehaviour"),
    ("space", "looks at the free space"),
    ("service", "speaks to the service manager"),
    ("resolver", "resolves names"),
    ("cold-storage", "moves old segments of the history"),
    ("cold-answers", "asks whether cold storage is there"),
    ("control-accept", "accepts connections of the control sockets"),
    ("control", "control sockets, metrics, the flight recorder's file"),
    ("log", "prints lines"),
    ("verify", "checks clients' signatures"),
    ("placement", "moves threads to other cores"),
    ("iou-", "the kernel's io_uring workers"),
];

/// A thread.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Thread {
    pub(crate) name: String,
    pub(crate) id: u32,
    /// Cores that it may run on, as the kernel lists them.
    pub(crate) allowed: String,
    /// The one that it ran on last.
    pub(crate) last_core: u32,
    /// Processor time since its start, s.
    pub(crate) used_s: f64,
    /// The part of one processor that it used since it was looked at before; since its start where it was not.
    pub(crate) share: Option<f64>,
    pub(crate) work: String,
}

/// What each thread had used, ns, when.
#[derive(Debug, Default)]
pub(crate) struct Used(Option<(Instant, BTreeMap<u32, u64>)>);

impl Used {
    /// Every thread, at most [`MAX_THREADS`], the process's first one first, and how many are left out. `core`: the one that the
    /// replica's thread is pinned to.
    pub(crate) fn look(&mut self, core: Option<usize>) -> (Vec<Thread>, u64) {
        let now = Instant::now();
        let mut ids: Vec<u32> = fs::read_dir("/proc/self/task")
            .map(|all| all.filter_map(|task| task.ok()?.file_name().to_str()?.parse().ok()).collect())
            .unwrap_or_default();
        ids.sort_unstable();
        let more = ids.len().saturating_sub(MAX_THREADS) as u64;
        ids.truncate(MAX_THREADS);
        let before = self.0.take();
        let mut used = BTreeMap::new();
        let mut threads = Vec::new();
        for id in ids {
            // One that ended meanwhile is left out.
            let Some((mut thread, ns)) = read(id, core) else { continue };
            if let Some((at, before)) = &before {
                let passed = now.duration_since(*at).as_nanos().max(1) as f64;
                thread.share = before.get(&id).map(|before| ns.saturating_sub(*before) as f64 / passed);
            }
            used.insert(id, ns);
            threads.push(thread);
        }
        self.0 = Some((now, used));
        (threads, more)
    }
}

fn read(id: u32, core: Option<usize>) -> Option<(Thread, u64)> {
    let file = |name: &str| fs::read_to_string(format!("/proc/self/task/{id}/{name}")).ok();
    let name = file("comm")?.trim_end().to_owned();
    let status = file("status")?;
    let allowed = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?.trim().to_owned();
    let stat = file("stat")?;
    // Fields behind the name, which may hold anything: the third of them is field 3 of proc_pid_stat(5).
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = |place: usize| fields.get(place)?.parse::<u64>().ok();
    // Exact where the kernel keeps it; in ticks of 10 ms elsewhere.
    let exact = file("schedstat").and_then(|text| text.split_whitespace().next()?.parse().ok());
    let ns = match exact {
        Some(ns) => ns,
        None => (ticks(11)? + ticks(12)?) * 10_000_000,
    };
    let work = match (id == std::process::id(), core) {
        (true, Some(core)) => format!("the replica, pinned to core {core}"),
        (true, None) => "the replica".to_owned(),
        (false, _) => {
            let known = WORK.iter().find(|(begin, _)| name.starts_with(begin));
            known.map_or_else(|| "a helper".to_owned(), |(_, work)| (*work).to_owned())
        }
    };
    let last_core = u32::try_from(ticks(36)?).ok()?;
    Some((Thread { name, id, allowed, last_core, used_s: ns as f64 / 1e9, share: None, work }, ns))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

    #[test]
    fn a_thread_that_works_is_seen_to_work() {
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            std::thread::Builder::new()
                .name("log-segments".to_owned())
                .spawn_scoped(scope, || {
                    while !stop.load(Relaxed) {
                        std::hint::spin_loop();
                    }
                })
                .unwrap();
            let mut used = Used::default();
            let find = |used: &mut Used| {
                let (threads, _) = used.look(Some(3));
                threads.into_iter().find(|thread| thread.name == "log-segments")
            };
            let first = std::iter::repeat_with(|| find(&mut used)).flatten().next().unwrap();
            assert_eq!(first.work, WORK[0].1);
            assert!(!first.allowed.is_empty());
            let worked = std::iter::repeat_with(|| find(&mut used)).flatten().find(|thread| thread.share > Some(0.0));
            assert!(worked.unwrap().used_s > 0.0);
            let (threads, more) = used.look(Some(3));
            assert_eq!(
                (threads[0].id, threads[0].work.as_str()),
                (std::process::id(), "the replica, pinned to core 3")
            );
            assert_eq!(more, 0);
            stop.store(true, Relaxed);
        });
    }
}
