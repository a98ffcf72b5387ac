//! The rings of orders and answers between the management's thread and the replica's: bounded, each with one writer and one reader.
//! Neither side ever waits for the other, not even for an operation of it that is under way.

use std::cell::RefCell;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use atlas_dataplane::net::Waker;
use atlas_dataplane::replica::oversight::{Answer, Order};
use rtrb::{Consumer, Producer, RingBuffer};

use crate::limits::MAX_ORDERS;

/// As many orders wait as may.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the replica has {MAX_ORDERS} orders to carry out; ask again in a moment")]
pub struct Busy;

/// The management's end.
#[derive(Debug)]
pub struct OrderSender {
    orders: RefCell<Producer<(u64, Order, Instant)>>,
    answers: RefCell<Consumer<(u64, Answer)>>,
    waker: Arc<OnceLock<Waker>>,
}

/// The replica's end.
#[derive(Debug)]
pub struct OrderReceiver {
    orders: Consumer<(u64, Order, Instant)>,
    answers: Producer<(u64, Answer)>,
    waker: Arc<OnceLock<Waker>>,
}

/// A ring.
pub fn ring() -> (OrderSender, OrderReceiver) {
    let (orders, orders_out) = RingBuffer::new(MAX_ORDERS);
    // Room for those of all orders that wait, and of as many that were answered and are not taken yet.
    let (answers_in, answers) = RingBuffer::new(2 * MAX_ORDERS);
    let waker = Arc::new(OnceLock::new());
    let sender =
        OrderSender { orders: RefCell::new(orders), answers: RefCell::new(answers), waker: Arc::clone(&waker) };
    (sender, OrderReceiver { orders: orders_out, answers: answers_in, waker })
}

impl OrderSender {
    /// Queues an order, which nobody waits for after `until`, and wakes the replica.
    ///
    /// # Errors
    /// The ring is full.
    pub fn give(&self, number: u64, order: Order, until: Instant) -> Result<(), Busy> {
        self.orders.borrow_mut().push((number, order, until)).map_err(|_| Busy)?;
        if let Some(waker) = self.waker.get() {
            waker.wake();
        }
        Ok(())
    }

    /// The next answer, with its order's number.
    pub fn answer(&self) -> Option<(u64, Answer)> {
        self.answers.borrow_mut().pop().ok()
    }
}

impl OrderReceiver {
    /// What wakes the replica from now on.
    pub fn set_waker(&self, waker: Waker) {
        // A replica starts once.
        let _ = self.waker.set(waker);
    }

    /// The next order; those that came too late are dropped.
    pub fn take(&mut self) -> Option<(u64, Order)> {
        while let Ok((number, order, until)) = self.orders.pop() {
            if Instant::now() < until {
                return Some((number, order));
            }
        }
        None
    }

    /// Hands an answer back. One for which there is no room is dropped: the management has not looked for very long.
    pub fn answer(&mut self, number: u64, answer: Answer) {
        let _ = self.answers.push((number, answer));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_ring_says_so_and_what_is_in_it_stays() {
        let (sender, mut receiver) = ring();
        (0..MAX_ORDERS as u64).for_each(|number| sender.give(number, Order::Clients, later()).unwrap());
        assert_eq!(sender.give(99, Order::StepDown, later()), Err(Busy));
        let taken: Vec<_> = std::iter::from_fn(|| receiver.take()).map(|(number, _)| number).collect();
        assert_eq!(taken, (0..MAX_ORDERS as u64).collect::<Vec<_>>());
        sender.give(99, Order::StepDown, later()).unwrap();
    }

    fn later() -> Instant {
        Instant::now() + std::time::Duration::from_secs(600)
    }

    #[test]
    fn an_order_that_nobody_waits_for_any_more_is_not_carried_out() {
        let (sender, mut receiver) = ring();
        sender.give(1, Order::StepDown, Instant::now()).unwrap();
        sender.give(2, Order::Clients, later()).unwrap();
        assert_eq!(receiver.take().map(|(number, _)| number), Some(2));
        assert!(receiver.take().is_none());
    }

    #[test]
    fn answers_that_nobody_takes_are_bounded() {
        let (sender, mut receiver) = ring();
        (0..100).for_each(|number| receiver.answer(number, Answer::Done));
        let numbers: Vec<_> = std::iter::from_fn(|| sender.answer()).map(|(number, _)| number).collect();
        assert_eq!(numbers, (0..2 * MAX_ORDERS as u64).collect::<Vec<_>>());
        receiver.answer(7, Answer::Done);
        assert_eq!(sender.answer(), Some((7, Answer::Done)));
    }
}
