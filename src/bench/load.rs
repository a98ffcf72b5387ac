//! When to send which bundle, and which latencies count: the arithmetic of a load, without clock and network.
//!
//! # Closed loop
//! Each of the clients keeps its number of bundles under way and sends the next as soon as one ends. Latency counts from the
//! sending. What ends within the measured time counts, and the rate is that number divided by the measured time.
//!
//! # Open loop
//! With a rate, bundle k is due at `k * bundle / rate` after the start, whoever is still waiting for whatever. When no client
//! has room, a bundle waits, and its latency counts from when it was due, not from when it was sent: a stalled cluster
//! shows as the long latencies that independent users would have seen (Tene: "coordinated omission"). What was due within
//! the measured time counts, also when it ends later, and the time runs until its last one ended.
//!
//! # Limits
//! At most `clients * in_flight` bundles are under way. A bundle whose client has no room in its session's window after all
//! is held until another of that client ends.

use std::collections::VecDeque;

use hdrhistogram::Histogram;

/// What is to be sent. Times are in nanoseconds.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Plan {
    /// Clients, at least 1.
    pub clients: usize,
    /// Bundles that each keeps under way, at least 1.
    pub in_flight: usize,
    /// Operations in a bundle, at least 1.
    pub bundle: usize,
    /// Operations due a second in all; `None` for a closed loop.
    pub rate: Option<f64>,
    /// How long nothing is counted at first.
    pub warm_up_ns: u64,
    /// How long is counted after that.
    pub measured_ns: u64,
}

impl Plan {
    fn end_ns(&self) -> u64 {
        self.warm_up_ns.saturating_add(self.measured_ns)
    }

    /// When bundle `number` is due.
    fn due_ns(&self, number: u64, rate: f64) -> u64 {
        // Beyond 2^53 ns, 104 days, the product is not exact to the nanosecond, which matters to nobody.
        (number as f64 * self.bundle as f64 * 1e9 / rate) as u64
    }
}

/// A bundle that is sent or to be sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sending {
    /// Which client sends it.
    pub client: usize,
    /// From when its latency counts, in nanoseconds after the start.
    pub from_ns: u64,
}

/// How a bundle ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ending {
    /// All its operations have results; so many are refusals.
    Results {
        /// Refused operations.
        refused: u64,
    },
    /// Its operations have no results.
    None,
}

/// A load in progress. Times are in nanoseconds after its start and never go back.
#[derive(Debug)]
pub struct Load {
    plan: Plan,
    /// A client for each bundle that may be sent, in the order in which room became free.
    room: VecDeque<usize>,
    /// Bundles that their client could not take; they move to `again` when one of its others ends.
    held: Vec<Vec<Sending>>,
    again: VecDeque<Sending>,
    next_number: u64,
    under_way: usize,
    last_end_ns: u64,
    latencies: Histogram<u64>,
    errors: u64,
    refused: u64,
}

impl Load {
    /// A load that has not begun; `latencies` is empty and takes what counts.
    pub fn new(plan: Plan, latencies: Histogram<u64>) -> Self {
        Self {
            room: (0..plan.in_flight).flat_map(|_| 0..plan.clients).collect(),
            held: vec![Vec::new(); plan.clients],
            again: VecDeque::new(),
            next_number: 0,
            under_way: 0,
            last_end_ns: 0,
            latencies,
            errors: 0,
            refused: 0,
            plan,
        }
    }

    /// A bundle to send now, if there is one.
    pub fn next(&mut self, now_ns: u64) -> Option<Sending> {
        let sending = match self.again.pop_front() {
            Some(sending) => sending,
            None => {
                let from_ns = match self.plan.rate {
                    Some(rate) => self.plan.due_ns(self.next_number, rate),
                    None => now_ns,
                };
                if from_ns > now_ns || from_ns >= self.plan.end_ns() {
                    return None;
                }
                let client = self.room.pop_front()?;
                self.next_number += 1;
                Sending { client, from_ns }
            }
        };
        self.under_way += 1;
        Some(sending)
    }

    /// The client could not take it: it is sent again when another bundle of that client, which must be under way, ends.
    pub fn hold(&mut self, sending: Sending) {
        self.under_way = self.under_way.saturating_sub(1);
        if let Some(held) = self.held.get_mut(sending.client) {
            held.push(sending);
        }
    }

    /// A bundle ended.
    pub fn end(&mut self, sending: Sending, ending: Ending, now_ns: u64) {
        self.under_way = self.under_way.saturating_sub(1);
        if let Some(held) = self.held.get_mut(sending.client) {
            self.again.extend(held.drain(..));
        }
        self.room.push_back(sending.client);
        let counts_at = if self.plan.rate.is_some() { sending.from_ns } else { now_ns };
        if !(self.plan.warm_up_ns..self.plan.end_ns()).contains(&counts_at) {
            return;
        }
        self.last_end_ns = self.last_end_ns.max(now_ns);
        let operations = self.plan.bundle as u64;
        match ending {
            Ending::None => self.errors += operations,
            Ending::Results { refused } => {
                self.refused += refused;
                let latency_ns = now_ns.saturating_sub(sending.from_ns).clamp(1, super::MAX_LATENCY_NS);
                self.latencies.saturating_record_n(latency_ns, operations);
            }
        }
    }

    /// Until when nothing happens by itself: the next bundle is due, or the measured time ends.
    pub fn wake_ns(&self, now_ns: u64) -> u64 {
        let end = self.plan.end_ns();
        match self.plan.rate {
            Some(rate) if !self.room.is_empty() => self.plan.due_ns(self.next_number, rate).min(end).max(now_ns),
            _ => end.max(now_ns),
        }
    }

    /// Whether nothing more is to be sent or waited for. A closed loop does not wait for what ends too late to count.
    pub fn is_over(&self, now_ns: u64) -> bool {
        let sent_all = match self.plan.rate {
            Some(rate) => self.plan.due_ns(self.next_number, rate) >= self.plan.end_ns(),
            None => true,
        };
        let waits = self.plan.rate.is_some() && (self.under_way > 0 || !self.again.is_empty());
        now_ns >= self.plan.end_ns() && sent_all && !waits
    }

    /// Ends an open loop early: what is under way, and what was due and never sent, counts as without result.
    pub fn give_up(&mut self) {
        let Some(rate) = self.plan.rate else { return };
        let waiting = self.under_way + self.again.len() + self.held.iter().map(Vec::len).sum::<usize>();
        let due_before = |end_ns: u64| (end_ns as f64 * rate / (self.plan.bundle as f64 * 1e9)).ceil() as u64;
        let first = self.next_number.max(due_before(self.plan.warm_up_ns));
        let unsent = due_before(self.plan.end_ns()).saturating_sub(first);
        self.errors += (waiting as u64 + unsent) * self.plan.bundle as u64;
    }

    /// Bundles under way.
    pub fn under_way(&self) -> usize {
        self.under_way
    }

    /// Latencies in nanoseconds, the time over which operations were counted, errors, refusals.
    pub fn finish(self) -> Finished {
        let until = match self.plan.rate {
            Some(_) => self.last_end_ns.max(self.plan.end_ns()),
            None => self.plan.end_ns(),
        };
        Finished {
            latencies: self.latencies,
            counted_ns: until.saturating_sub(self.plan.warm_up_ns),
            errors: self.errors,
            refused: self.refused,
        }
    }
}

/// What a load found.
#[derive(Debug)]
pub struct Finished {
    /// Latencies of operations with a result, in nanoseconds.
    pub latencies: Histogram<u64>,
    /// Over which time they were counted, in nanoseconds.
    pub counted_ns: u64,
    /// Operations without a result.
    pub errors: u64,
    /// Operations that were refused in the order.
    pub refused: u64,
}

#[cfg(test)]
mod tests;
