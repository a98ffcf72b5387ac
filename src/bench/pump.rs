//! A load at work: what [`Load`] says is due goes out through the clients of a [`Driver`], and what comes back is told.
//!
//! Nothing happens outside of [`Pump::turn`], which the caller's thread calls again and again.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use atlas_dataplane::types::Code;

use super::load::{Ending, Finished, Load, Plan, Sending};
use super::run::{BenchError, DRAIN};
use super::workload::Generator;
use crate::client::{ClientId, Completion, Done, Driver, Error, ReadOptions, SubmitError, SubmitOptions, Ticket};

/// What a turn brought.
#[derive(Debug)]
pub(super) enum Seen {
    /// A bundle of the load ended, at this time after the start.
    Bundle(Sending, Ending, u64),
    /// Something else that the driver's clients were asked for.
    Other(Done),
}

/// See the module.
pub(super) struct Pump<'a> {
    driver: &'a mut Driver,
    clients: &'a [ClientId],
    generator: &'a mut Generator,
    bundle: usize,
    load: Load,
    under_way: HashMap<(ClientId, Ticket), Sending>,
    /// Reads are sent instead of bundles.
    reads: bool,
    start: Instant,
    /// Nothing more is sent.
    closed: bool,
}

/// How operations of a load are submitted.
pub(super) fn options() -> SubmitOptions {
    SubmitOptions { timeout_ms: DRAIN.as_millis() as u32, ..SubmitOptions::default() }
}

/// As many as fit.
pub(super) fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

impl<'a> Pump<'a> {
    /// A load that begins now, with as many clients as it is planned for.
    pub(super) fn new(
        driver: &'a mut Driver,
        clients: &'a [ClientId],
        generator: &'a mut Generator,
        plan: Plan,
    ) -> Result<Self, BenchError> {
        let (load, under_way) = (Load::new(plan, super::latencies()?), HashMap::new());
        let (bundle, start) = (plan.bundle, Instant::now());
        Ok(Self { driver, clients, generator, bundle, load, under_way, reads: false, start, closed: false })
    }

    /// Sends reads of one property each instead of bundles.
    pub(super) fn reads(&mut self) {
        self.reads = true;
    }

    /// Nanoseconds since the start.
    pub(super) fn now_ns(&self) -> u64 {
        nanoseconds(self.start.elapsed())
    }

    /// The start.
    pub(super) fn start(&self) -> Instant {
        self.start
    }

    pub(super) fn load(&self) -> &Load {
        &self.load
    }

    /// For what else its clients are to do.
    pub(super) fn driver(&mut self) -> &mut Driver {
        self.driver
    }

    /// Sends nothing more; what is under way goes on.
    pub(super) fn close(&mut self) {
        self.closed = true;
    }

    /// See [`Load::give_up`].
    pub(super) fn give_up(&mut self) {
        self.load.give_up();
    }

    /// Sends what is due, waits up to `longest` for something to happen, and tells what did.
    pub(super) fn turn(&mut self, longest: Duration, mut seen: impl FnMut(Seen)) -> Result<(), BenchError> {
        while !self.closed
            && let Some(sending) = self.load.next(self.now_ns())
        {
            self.send(sending)?;
        }
        let now_ns = self.now_ns();
        let wait = Duration::from_nanos(self.load.wake_ns(now_ns).saturating_sub(now_ns));
        self.driver.poll(if self.closed { longest } else { wait.min(longest) })?;
        while let Some(done) = self.driver.next_done() {
            match self.under_way.remove(&(done.client, done.ticket)) {
                None => seen(Seen::Other(done)),
                Some(sending) => {
                    let (ending, now_ns) = (ending(&done.result), self.now_ns());
                    self.load.end(sending, ending, now_ns);
                    seen(Seen::Bundle(sending, ending, now_ns));
                }
            }
        }
        Ok(())
    }

    fn send(&mut self, sending: Sending) -> Result<(), BenchError> {
        let Some(&id) = self.clients.get(sending.client) else { return Ok(()) };
        let submitted = if self.reads {
            self.driver.query(id, &self.generator.query(), &ReadOptions::default())
        } else {
            let operations: Vec<Vec<u8>> = (0..self.bundle).map(|_| self.generator.operation()).collect();
            self.driver.submit(id, &operations, &options())
        };
        match submitted {
            Ok(ticket) => {
                self.under_way.insert((id, ticket), sending);
            }
            Err(Error::Submit(SubmitError::WindowFull { .. }))
                if self.under_way.keys().any(|(client, _)| *client == id) =>
            {
                self.load.hold(sending);
            }
            Err(Error::Submit(error)) => return Err(BenchError::Submit(error)),
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// What the load found.
    pub(super) fn finish(self) -> Finished {
        self.load.finish()
    }
}

fn ending(result: &Result<Completion, Error>) -> Ending {
    match result {
        Ok(Completion::Executed(results)) => {
            Ending::Results { refused: results.iter().filter(|result| result.code != Code::DONE).count() as u64 }
        }
        Ok(Completion::Read(read)) => Ending::Results { refused: u64::from(read.code != Code::DONE) },
        _ => Ending::None,
    }
}
