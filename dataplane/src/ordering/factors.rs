//! What makes a leader slow or unfair, in multiples of the timer and of what was measured lately.
//!
//! All of it is this replica's own judgement ([`super::suspect`], [`super::expect`], [`super::fair`]): other factors change when it asks for
//! another leader, and never what replicas agree on. A view ends only when f+1 replicas ask for that, so one replica with factors of
//! its own disturbs nobody.

/// See the module. The default is what the modules named there explain.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Factors {
    /// A timer doubles at most so many times while views fail.
    pub doublings: u32,
    /// Under load a leader is given at most so many times the timer's least.
    pub load: u64,
    /// A pause may be so many times the expected one.
    pub pause: u64,
    /// The rate with a backlog is to be at least this part of the best that is known.
    pub rate_part: u64,
    /// Waiting time at the beginning of a view that does not count, in timers.
    pub grace: u64,
    /// So many bad periods in a row make a leader slow.
    pub bad_periods: u32,
    /// An identity may be passed over for so many timers.
    pub unfair: u64,
}

impl Default for Factors {
    fn default() -> Self {
        Self { doublings: 12, load: 4, pause: 4, rate_part: 8, grace: 8, bad_periods: 4, unfair: 8 }
    }
}
