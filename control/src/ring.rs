//! The ring of orders between the management's thread and the replica's: bounded, without locks; neither side waits for the other.

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use atlas_dataplane::net::Waker;
use atlas_dataplane::replica::oversight::{Answer, Order};
use crossbeam_queue::ArrayQueue;

use crate::limits::MAX_ORDERS;

/// As many orders wait as may.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the replica has {MAX_ORDERS} orders to carry out; ask again in a moment")]
pub struct Busy;

#[derive(Debug)]
struct Shared {
    orders: ArrayQueue<(u64, Order, Instant)>,
    answers: ArrayQueue<(u64, Answer)>,
    waker: OnceLock<Waker>,
}

/// The management's end.
#[derive(Debug)]
pub struct OrderSender(Arc<Shared>);

/// The replica's end.
#[derive(Clone, Debug)]
pub struct OrderReceiver(Arc<Shared>);

/// A ring.
pub fn ring() -> (OrderSender, OrderReceiver) {
    let shared = Arc::new(Shared {
        orders: ArrayQueue::new(MAX_ORDERS),
        // Answers that nobody took give way to newer ones.
        answers: ArrayQueue::new(2 * MAX_ORDERS),
        waker: OnceLock::new(),
    });
    (OrderSender(Arc::clone(&shared)), OrderReceiver(shared))
}

impl OrderSender {
    /// Queues an order, which nobody waits for after `until`, and wakes the replica.
    ///
    /// # Errors
    /// The ring is full.
    pub fn give(&self, number: u64, order: Order, until: Instant) -> Result<(), Busy> {
        self.0.orders.push((number, order, until)).map_err(|_| Busy)?;
        if let Some(waker) = self.0.waker.get() {
            waker.wake();
        }
        Ok(())
    }

    /// The next answer, with its order's number.
    pub fn answer(&self) -> Option<(u64, Answer)> {
        self.0.answers.pop()
    }
}

impl OrderReceiver {
    /// What wakes the replica from now on.
    pub fn set_waker(&self, waker: Waker) {
        // A replica starts once.
        let _ = self.0.waker.set(waker);
    }

    /// The next order; those that came too late are dropped.
    pub fn next(&self) -> Option<(u64, Order)> {
        while let Some((number, order, until)) = self.0.orders.pop() {
            if Instant::now() < until {
                return Some((number, order));
            }
        }
        None
    }

    /// Hands an answer back.
    pub fn answer(&self, number: u64, answer: Answer) {
        self.0.answers.force_push((number, answer));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_ring_says_so_and_what_is_in_it_stays() {
        let (sender, receiver) = ring();
        (0..MAX_ORDERS as u64).for_each(|number| sender.give(number, Order::Clients, later()).unwrap());
        assert_eq!(sender.give(99, Order::StepDown, later()), Err(Busy));
        let taken: Vec<_> = std::iter::from_fn(|| receiver.next()).map(|(number, _)| number).collect();
        assert_eq!(taken, (0..MAX_ORDERS as u64).collect::<Vec<_>>());
        sender.give(99, Order::StepDown, later()).unwrap();
    }

    fn later() -> Instant {
        Instant::now() + std::time::Duration::from_secs(600)
    }

    #[test]
    fn an_order_that_nobody_waits_for_any_more_is_not_carried_out() {
        let (sender, receiver) = ring();
        sender.give(1, Order::StepDown, Instant::now()).unwrap();
        sender.give(2, Order::Clients, later()).unwrap();
        assert_eq!(receiver.next().map(|(number, _)| number), Some(2));
        assert!(receiver.next().is_none());
    }

    #[test]
    fn answers_that_nobody_takes_give_way_to_newer_ones() {
        let (sender, receiver) = ring();
        (0..100).for_each(|number| receiver.answer(number, Answer::Done));
        let numbers: Vec<_> = std::iter::from_fn(|| sender.answer()).map(|(number, _)| number).collect();
        assert_eq!(numbers, (100 - 2 * MAX_ORDERS as u64..100).collect::<Vec<_>>());
    }
}
