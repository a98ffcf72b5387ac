//! An open loop that waits for nobody: what is due is sent, or turned away at once where its client has no room.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use atlas_dataplane::client::Refusals;
use atlas_dataplane::types::Code;
use hdrhistogram::{CreationError, Histogram};

use crate::bench::pump::{nanoseconds, options};
use crate::bench::run::{BenchError, DRAIN};
use crate::bench::workload::Generator;
use crate::bench::{MAX_LATENCY_NS, latencies};
use crate::cli::interrupt::Interrupt;
use crate::client::{ClientError, ClientId, Completion, Driver, Error, SubmitError, Ticket};

/// Bundles that are sent before it is looked what has come back.
const SENT_A_TURN: usize = 64;
/// How long is waited before it is looked whether a signal has come.
const LOOK: Duration = Duration::from_millis(100);
/// How long beyond [`DRAIN`] the last tickets may take to end.
const GRACE: Duration = Duration::from_secs(2);

/// What is offered.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Offer {
    /// Operations a second.
    pub rate: f64,
    /// Operations in a bundle.
    pub bundle: usize,
    /// How long nothing counts at first.
    pub warm_up: Duration,
    /// How long counts after that.
    pub measured: Duration,
}

/// How a bundle ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum End {
    /// It has results.
    Executed,
    /// f+1 replicas refused it for good.
    Refused,
    /// It has none.
    Failed,
}

/// What came of it; all numbers are of operations.
#[derive(Clone, Debug)]
pub struct Offered {
    /// Due within the measured time.
    pub offered: u64,
    /// Of that never sent: the load itself was too slow.
    pub unsent: u64,
    /// Turned away by their clients, whose windows were full.
    pub turned_away: u64,
    /// Refused for good.
    pub refused: u64,
    /// Without a result.
    pub failed: u64,
    /// Ended with a result within the measured time, by client.
    pub served: Vec<u64>,
    /// Latencies of what was due within the measured time and has a result, from its sending, nanoseconds.
    pub latencies: Histogram<u64>,
    /// What replicas refused, by code.
    pub refusals: BTreeMap<Code, Refusals>,
    /// How late a bundle was sent or turned away, at worst, nanoseconds.
    pub late_ns: u64,
}

/// The bookkeeping, without clock and network. Times are nanoseconds after the start.
#[derive(Debug)]
pub(super) struct Book {
    offer: Offer,
    next: u64,
    found: Offered,
}

impl Book {
    pub(super) fn new(offer: Offer, clients: usize) -> Result<Self, CreationError> {
        let found = Offered {
            offered: 0,
            unsent: 0,
            turned_away: 0,
            refused: 0,
            failed: 0,
            served: vec![0; clients],
            latencies: latencies()?,
            refusals: BTreeMap::new(),
            late_ns: 0,
        };
        Ok(Self { offer, next: 0, found })
    }

    fn start_ns(&self) -> u64 {
        nanoseconds(self.offer.warm_up)
    }

    pub(super) fn end_ns(&self) -> u64 {
        nanoseconds(self.offer.warm_up + self.offer.measured)
    }

    /// When the next bundle is due; `None` once the time is over.
    pub(super) fn due_ns(&self) -> Option<u64> {
        let due = (self.next as f64 * self.offer.bundle as f64 * 1e9 / self.offer.rate) as u64;
        (due < self.end_ns()).then_some(due)
    }

    /// A bundle that is due: its client, and when it was due.
    pub(super) fn take(&mut self, now_ns: u64) -> Option<(usize, u64)> {
        let due = self.due_ns().filter(|due| *due <= now_ns)?;
        let client = (self.next % self.found.served.len().max(1) as u64) as usize;
        self.next += 1;
        if due >= self.start_ns() {
            self.found.offered += self.offer.bundle as u64;
            self.found.late_ns = self.found.late_ns.max(now_ns - due);
        }
        Some((client, due))
    }

    /// The time is over: what was due and was not taken is not sent any more.
    pub(super) fn close(&mut self) {
        while let Some(due) = self.due_ns() {
            self.next += 1;
            if due >= self.start_ns() {
                self.found.offered += self.offer.bundle as u64;
                self.found.unsent += self.offer.bundle as u64;
            }
        }
    }

    pub(super) fn turned_away(&mut self, due_ns: u64) {
        if due_ns >= self.start_ns() {
            self.found.turned_away += self.offer.bundle as u64;
        }
    }

    pub(super) fn ended(&mut self, client: usize, (due_ns, sent_ns): (u64, u64), end: End, now_ns: u64) {
        let operations = self.offer.bundle as u64;
        if end == End::Executed && (self.start_ns()..self.end_ns()).contains(&now_ns) {
            self.found.served[client] += operations;
        }
        if due_ns < self.start_ns() {
            return;
        }
        match end {
            End::Executed => {
                let latency_ns = now_ns.saturating_sub(sent_ns).clamp(1, MAX_LATENCY_NS);
                self.found.latencies.saturating_record_n(latency_ns, operations);
            }
            End::Refused => self.found.refused += operations,
            End::Failed => self.found.failed += operations,
        }
    }

    pub(super) fn finish(self) -> Offered {
        self.found
    }
}

impl Offer {
    /// Offers it to a cluster, and waits until all of it has ended.
    ///
    /// # Errors
    /// The load does not fit a bundle, the driver cannot go on, or a signal came. What fails is counted.
    pub fn run(
        &self,
        driver: &mut Driver,
        clients: &[ClientId],
        generator: &mut Generator,
        interrupt: &Interrupt,
    ) -> Result<Offered, BenchError> {
        let mut book = Book::new(*self, clients.len())?;
        // Operations under way of each client; its session's window is told by the client too, which counts gaps as well.
        let (mut open, window) = (vec![0; clients.len()], driver.session_window());
        let places: HashMap<ClientId, usize> = clients.iter().copied().zip(0..).collect();
        // When each was due, and sent.
        let mut under_way: HashMap<(ClientId, Ticket), (u64, u64)> = HashMap::new();
        // What was refused before is no news.
        take_refusals(driver, clients)?;
        let start = Instant::now();
        let now_ns = || nanoseconds(start.elapsed());
        while book.due_ns().is_some() || !under_way.is_empty() {
            if interrupt.is_set() {
                return Err(BenchError::Interrupted);
            }
            if now_ns() >= book.end_ns() {
                book.close();
            }
            for _ in 0..SENT_A_TURN {
                let Some((client, due_ns)) = book.take(now_ns()) else { break };
                // What cannot be sent is not made: a load that works for nothing takes the replicas' cores.
                if open[client] + self.bundle as u64 > window {
                    book.turned_away(due_ns);
                    continue;
                }
                let operations: Vec<Vec<u8>> = (0..self.bundle).map(|_| generator.operation()).collect();
                match driver.submit(clients[client], &operations, &options()) {
                    Ok(ticket) => {
                        open[client] += self.bundle as u64;
                        under_way.insert((clients[client], ticket), (due_ns, now_ns()));
                    }
                    Err(Error::Submit(SubmitError::WindowFull { .. })) => book.turned_away(due_ns),
                    Err(Error::Submit(error)) => return Err(BenchError::Submit(error)),
                    Err(error) => return Err(error.into()),
                }
            }
            let wait_ns = book.due_ns().map_or(u64::MAX, |due| due.saturating_sub(now_ns()));
            driver.poll(Duration::from_nanos(wait_ns).min(LOOK))?;
            while let Some(done) = driver.next_done() {
                if let Some(times) = under_way.remove(&(done.client, done.ticket)) {
                    let client = places.get(&done.client).copied().unwrap_or_default();
                    open[client] = open[client].saturating_sub(self.bundle as u64);
                    book.ended(client, times, end(&done.result), now_ns());
                }
            }
        }
        let mut found = book.finish();
        found.refusals = take_refusals(driver, clients)?;
        settle(driver, interrupt)?;
        Ok(found)
    }
}

fn end(result: &Result<Completion, Error>) -> End {
    match result {
        Ok(Completion::Executed(_)) => End::Executed,
        Err(Error::Operation { source: ClientError::Refused { .. }, .. }) => End::Refused,
        _ => End::Failed,
    }
}

fn take_refusals(driver: &mut Driver, clients: &[ClientId]) -> Result<BTreeMap<Code, Refusals>, BenchError> {
    let mut all: BTreeMap<Code, Refusals> = BTreeMap::new();
    for client in clients {
        for (code, refusals) in driver.core(*client)?.take_refusals() {
            all.entry(code).or_default().merge(&refusals);
        }
    }
    Ok(all)
}

/// Lets what is under way end; every ticket has a deadline.
pub(super) fn settle(driver: &mut Driver, interrupt: &Interrupt) -> Result<(), BenchError> {
    let start = Instant::now();
    while driver.open_tickets() > 0 && start.elapsed() < DRAIN + GRACE {
        if interrupt.is_set() {
            return Err(BenchError::Interrupted);
        }
        driver.poll(LOOK)?;
        while driver.next_done().is_some() {}
    }
    Ok(())
}
