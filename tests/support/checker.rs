//! What was acknowledged is what the history holds: read back from every replica on its own and compared.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use atlas::twin::query::{Changes, Query};
use atlas::twin::value::Value;
use atlas_dataplane::types::{Code, Position};

use super::Cluster;
use super::client::{Acknowledged, Client};

/// Clients that write until they are told to stop, each in a session of its own.
pub struct Load {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    clients: Vec<JoinHandle<Vec<Acknowledged>>>,
}

impl Load {
    pub fn start(cluster: &Cluster, clients: usize) -> Self {
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let clients = (0..clients)
            .map(|index| {
                let mut client = Client::new(cluster, if index % 2 == 0 { "operator" } else { "gateway" });
                client.twin = format!("test/twin-{index}");
                client.stop = Some(Arc::clone(&stop));
                let (stop, done) = (Arc::clone(&stop), Arc::clone(&done));
                std::thread::spawn(move || {
                    let mut written = Vec::new();
                    while !stop.load(Ordering::Relaxed) {
                        let Ok(some) = client.write(1 + written.len() % 5) else { break };
                        done.fetch_add(some.len() as u64, Ordering::Relaxed);
                        written.extend(some);
                    }
                    written
                })
            })
            .collect();
        Self { stop, done, clients }
    }

    /// Writes acknowledged so far.
    pub fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    /// Waits until so many more writes were acknowledged.
    pub fn wait_more(&self, count: u64) {
        let goal = self.done() + count;
        super::until(&format!("{count} more writes"), || {
            assert!(self.clients.iter().all(|client| !client.is_finished()), "a client of the load failed");
            self.done() >= goal
        });
    }

    /// Stops where the replicas are gone for good.
    pub fn abandon(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.clients.into_iter().for_each(|client| drop(client.join()));
    }

    /// Stops and gives all that was acknowledged.
    pub fn stop(self) -> Vec<Acknowledged> {
        self.stop.store(true, Ordering::Relaxed);
        self.clients.into_iter().flat_map(|client| client.join().expect("a client of the load failed")).collect()
    }
}

/// Everything that a replica says was written: the value by position.
pub fn read_all(client: &mut Client, index: usize) -> Vec<(Position, i64)> {
    let mut all = Vec::new();
    let mut from = Position::default();
    let (_, size, _) = client.query(index, &Query::List { prefix: String::new(), after: None, limit: 1 });
    let last = size - 1;
    loop {
        let query = Query::Changes { prefix: String::new(), from, to: Some(last), limit: 512 };
        let (code, _, body) = client.query(index, &query);
        assert_eq!(code, Code::DONE, "replica {index} answers {query:?}");
        let page = Changes::decode(&body).expect("a well-formed page");
        for set in &page.sets {
            for change in &set.changes {
                let Some(Value::I64(value)) = change.value else { panic!("a value that nobody wrote: {change:?}") };
                all.push((set.position, value));
            }
        }
        assert!(page.covered > from, "replica {index} makes no progress from {from}");
        from = page.covered;
        if from.entry >= last {
            return all;
        }
    }
}

/// Every acknowledged write stands at its position, nothing was executed twice, positions ascend, and all replicas hold the
/// same history.
pub fn check(cluster: &Cluster, replicas: &[usize], acknowledged: &[Acknowledged]) {
    cluster.wait_agreed(replicas);
    let mut client = cluster.client();
    let mut reference: Option<Vec<(Position, i64)>> = None;
    for &index in replicas {
        let history = read_all(&mut client, index);
        assert!(history.windows(2).all(|pair| pair[0].0 < pair[1].0), "positions of replica {index} do not ascend");
        let mut places = BTreeMap::new();
        for (position, value) in &history {
            let before = places.insert(*value, *position);
            assert_eq!(before, None, "replica {index} executed the write of {value} twice");
        }
        for write in acknowledged {
            assert_eq!(write.code, Code::DONE);
            let place = places.get(&write.value);
            assert_eq!(place, Some(&write.position), "replica {index} lost or moved the acknowledged {write:?}");
        }
        match &reference {
            Some(reference) => assert_eq!(*reference, history, "replica {index} has another history"),
            None => reference = Some(history),
        }
    }
    let mut ordered: Vec<_> = acknowledged.iter().map(|write| (write.position, write.sequence)).collect();
    ordered.sort_unstable();
    assert!(ordered.windows(2).all(|pair| pair[0].1 <= pair[1].1), "sequences do not follow positions");
}

/// A replica that lost something is one of the cluster again, with all of the history, and counts: with another one down the work goes
/// on, which takes its votes.
pub fn check_back(cluster: &mut Cluster, lost: usize, load: Load) {
    const ALL: [usize; 4] = [0, 1, 2, 3];
    let other = if lost == 3 { 1 } else { 3 };
    super::until(&format!("replica {lost} votes again; it printed {}", cluster.log_text(lost)), || {
        cluster.status(lost).is_some_and(|status| !status.abstains)
    });
    cluster.wait_linked(&ALL);
    load.wait_more(20);
    cluster.kill(other);
    load.wait_more(50);
    cluster.restart(other);
    cluster.wait_linked(&ALL);
    let acknowledged = load.stop();
    check(cluster, &ALL, &acknowledged);
}
