//! How many replicas there are, and what follows from it.

use crate::types::{ReplicaId, View};
pub use crate::wire::limits::MAX_REPLICAS;

/// Fewest replicas: with fewer not a single Byzantine one is borne.
pub const MIN_REPLICAS: usize = 4;

/// The number n of replicas in an epoch, and the sizes of quorums that follow from it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Size(u8);

impl Size {
    /// `None` outside [`MIN_REPLICAS`] to [`MAX_REPLICAS`].
    pub fn new(n: usize) -> Option<Self> {
        let size = u8::try_from(n).ok()?;
        (MIN_REPLICAS..=MAX_REPLICAS).contains(&n).then_some(Self(size))
    }

    /// n, the number of replicas; also the fast quorum.
    pub fn n(self) -> usize {
        usize::from(self.0)
    }

    /// f = floor((n-1)/3), the number of Byzantine replicas that the cluster bears.
    pub fn f(self) -> usize {
        (self.n() - 1) / 3
    }

    /// q = ceil((n+f+1)/2): two quorums share at least f+1 replicas, and n-f replicas make one.
    pub fn quorum(self) -> usize {
        (self.n() + self.f() + 1).div_ceil(2)
    }

    /// f+1: so many replicas hold at least one that is correct.
    pub fn one_correct(self) -> usize {
        self.f() + 1
    }

    /// The leader of a view: `view mod n`.
    pub fn leader(self, view: View) -> ReplicaId {
        // A remainder of a u8 fits a u8.
        ReplicaId((view % View::from(self.0)) as u8)
    }

    /// The replicas in order of their index.
    pub fn replicas(self) -> impl ExactSizeIterator<Item = ReplicaId> {
        (0..self.0).map(ReplicaId)
    }
}
