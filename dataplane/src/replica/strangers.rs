//! Who is connected and has proved no key yet: bounded, and shared among the addresses that they come from, so that one who connects
//! from few addresses keeps out nobody who comes from another.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::ops::Bound;

use crate::net::ConnectionId;

/// Connections that were accepted and have proved no key; for one more the oldest is closed of the address from which most come.
/// They take no client's place.
pub(super) const MAX_UNPROVED: usize = 256;

/// Where a connection comes from, as far as shares go: an IPv4 address, or 64 bits of an IPv6 address, since who has one such
/// network has all addresses in it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Origin(IpAddr);

impl From<SocketAddr> for Origin {
    fn from(address: SocketAddr) -> Self {
        Self(match address.ip().to_canonical() {
            IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64)),
            v4 @ IpAddr::V4(_) => v4,
        })
    }
}

/// See the module. Connections are named by their numbers, which rise.
#[derive(Default)]
pub(super) struct Strangers {
    /// All by number, which is the order of their deadlines; without an origin where this replica dialled.
    all: BTreeMap<u64, (ConnectionId, Option<Origin>)>,
    /// Those that were accepted.
    of_origin: BTreeMap<Origin, BTreeSet<u64>>,
    accepted: usize,
    /// Those whose first bytes wait for their turn; no queue is empty.
    early: BTreeMap<Origin, VecDeque<u64>>,
    /// The origin whose turn was last.
    last: Option<Origin>,
}

impl Strangers {
    pub(super) fn dialled(&mut self, number: u64, id: ConnectionId) {
        self.all.insert(number, (id, None));
    }

    /// Takes in a connection that was accepted; gives the one that is to be closed for it.
    pub(super) fn accepted(&mut self, number: u64, id: ConnectionId, from: SocketAddr) -> Option<ConnectionId> {
        let origin = Origin::from(from);
        self.all.insert(number, (id, Some(origin)));
        self.of_origin.entry(origin).or_default().insert(number);
        self.accepted += 1;
        if self.accepted <= MAX_UNPROVED {
            return None;
        }
        // Of origins with equally many, the one whose oldest has been here longest.
        let rank = |numbers: &&BTreeSet<u64>| (numbers.len(), std::cmp::Reverse(numbers.first().copied()));
        let oldest = self.of_origin.values().max_by_key(rank)?.first()?;
        self.all.get(oldest).map(|(id, _)| *id)
    }

    /// A connection has proved its key, or is gone.
    pub(super) fn remove(&mut self, number: u64) {
        let Some((_, Some(origin))) = self.all.remove(&number) else { return };
        self.accepted -= 1;
        if let Some(numbers) = self.of_origin.get_mut(&origin) {
            numbers.remove(&number);
            if numbers.is_empty() {
                self.of_origin.remove(&origin);
            }
        }
        if let Some(queue) = self.early.get_mut(&origin) {
            queue.retain(|waiting| *waiting != number);
            if queue.is_empty() {
                self.early.remove(&origin);
            }
        }
    }

    /// The one whose deadline is first.
    pub(super) fn oldest(&self) -> Option<(u64, ConnectionId)> {
        self.all.first_key_value().map(|(number, (id, _))| (*number, *id))
    }

    /// The first bytes of a connection are there: it waits for its turn.
    pub(super) fn wait(&mut self, number: u64) {
        if let Some((_, Some(origin))) = self.all.get(&number) {
            self.early.entry(*origin).or_default().push_back(number);
        }
    }

    pub(super) fn is_any_waiting(&self) -> bool {
        !self.early.is_empty()
    }

    /// The connection whose turn it is, one origin after the other.
    pub(super) fn next(&mut self) -> Option<ConnectionId> {
        let after = self.last.and_then(|last| {
            let range = (Bound::Excluded(last), Bound::Unbounded);
            self.early.range(range).next().map(|(origin, _)| *origin)
        });
        let origin = after.or_else(|| self.early.first_key_value().map(|(origin, _)| *origin))?;
        self.last = Some(origin);
        let queue = self.early.get_mut(&origin)?;
        let number = queue.pop_front();
        if queue.is_empty() {
            self.early.remove(&origin);
        }
        self.all.get(&number?).map(|(id, _)| *id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(host: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, host], 1))
    }

    fn id(number: u64) -> ConnectionId {
        ConnectionId::of_test(number as u32)
    }

    #[test]
    fn who_floods_from_one_address_closes_its_own_connections() {
        let mut strangers = Strangers::default();
        strangers.dialled(0, id(0));
        assert_eq!(strangers.accepted(1, id(1), from(1)), None);
        let mut closed = Vec::new();
        for number in 2..2_000 {
            if let Some(oldest) = strangers.accepted(number, id(number), from(2)) {
                closed.push(oldest.index() as u64);
                strangers.remove(oldest.index() as u64);
            }
        }
        assert_eq!(closed, (2..2_000 - 255).collect::<Vec<_>>());
        assert_eq!(strangers.oldest(), Some((0, id(0))));
        // An IPv6 network counts as one address.
        let v6 = |low: u16| SocketAddr::from(([0x2001, 0xdb8, 0, 7, 0, 0, 0, low], 1));
        assert_eq!(Origin::from(v6(1)), Origin::from(v6(2)));
        assert_eq!(Origin::from("[::ffff:10.0.0.2]:5".parse::<SocketAddr>().unwrap()), Origin::from(from(2)));
    }

    #[test]
    fn first_bytes_take_turns_by_address() {
        let mut strangers = Strangers::default();
        for number in 1..=100 {
            strangers.accepted(number, id(number), from(1));
            strangers.wait(number);
        }
        for (number, host) in [(101, 2), (102, 3)] {
            strangers.accepted(number, id(number), from(host));
            strangers.wait(number);
        }
        strangers.remove(1);
        let turns: Vec<usize> = std::iter::from_fn(|| strangers.next()).map(ConnectionId::index).collect();
        assert_eq!((&turns[..5], turns.len()), (&[2, 101, 102, 3, 4][..], 101));
        assert!(!strangers.is_any_waiting());
    }
}
