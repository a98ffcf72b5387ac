//! What is done to a leader, and its end.

use std::time::Duration;

use clap::ValueEnum;
use serde::Serialize;

use super::super::pump::nanoseconds;
use crate::local::{LocalCluster, LocalError, Signal};

/// For how long a slow leader stands still in each [`SLOW_PERIOD`].
pub const SLOW_STOPPED: Duration = Duration::from_millis(40);
/// How often a slow leader is stopped.
pub const SLOW_PERIOD: Duration = Duration::from_millis(50);
/// For how long a leader is slow.
pub const SLOW_TIME: Duration = Duration::from_millis(3_000);

/// What happens to the leader.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Fault {
    /// `kill -9`: its links close, which is a hint to the others.
    Kill,
    /// SIGSTOP: it stands still with its links open, until SIGCONT.
    Stop,
    /// SIGSTOP and SIGCONT in turn, so that it works for a fifth of the time.
    Slow,
}

impl Fault {
    /// All.
    pub const ALL: [Self; 3] = [Self::Kill, Self::Stop, Self::Slow];

    /// For people.
    pub fn title(self) -> &'static str {
        match self {
            Self::Kill => "leader killed (kill -9)",
            Self::Stop => "leader stands still (SIGSTOP)",
            Self::Slow => "leader slow (works for 10 of each 50 ms)",
        }
    }

    /// In names of files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Stop => "stop",
            Self::Slow => "slow",
        }
    }

    /// What stands at the moment of the event in a drawing.
    pub fn mark(self) -> &'static str {
        match self {
            Self::Kill => "kill -9",
            Self::Stop => "SIGSTOP",
            Self::Slow => "slow",
        }
    }

    /// Below what the median is to stay, milliseconds, with default settings on two shared cores.
    pub fn target_ms(self) -> Option<f64> {
        match self {
            Self::Kill => Some(120.0),
            Self::Stop => Some(400.0),
            Self::Slow => None,
        }
    }
}

/// A fault at work on one replica. Times are nanoseconds after it began.
#[derive(Debug)]
pub(super) struct Torment {
    fault: Fault,
    victim: usize,
    stopped: bool,
    /// When something is to be done next.
    next_ns: u64,
}

impl Torment {
    /// Begins. It does not wait for a killed process to be gone, so that the caller sees all that commits meanwhile.
    pub(super) fn begin(fault: Fault, victim: usize, local: &mut LocalCluster) -> Result<Self, LocalError> {
        let (signal, next_ns) = match fault {
            Fault::Kill => (Signal::KILL, u64::MAX),
            Fault::Stop => (Signal::STOP, u64::MAX),
            Fault::Slow => (Signal::STOP, nanoseconds(SLOW_STOPPED)),
        };
        local.signal(victim, signal)?;
        Ok(Self { fault, victim, stopped: fault != Fault::Kill, next_ns })
    }

    /// Does what is due.
    pub(super) fn go_on(&mut self, now_ns: u64, local: &mut LocalCluster) -> Result<(), LocalError> {
        if now_ns < self.next_ns {
            return Ok(());
        }
        let working = nanoseconds(SLOW_PERIOD - SLOW_STOPPED);
        let (signal, wait) =
            if self.stopped { (Signal::CONT, working) } else { (Signal::STOP, nanoseconds(SLOW_STOPPED)) };
        local.signal(self.victim, signal)?;
        self.stopped = !self.stopped;
        // From now, not from when it was due: it works for no less than its time in each turn.
        self.next_ns = now_ns + wait;
        Ok(())
    }

    /// How long nothing is to be done.
    pub(super) fn rest(&self, now_ns: u64) -> Duration {
        Duration::from_nanos(self.next_ns.saturating_sub(now_ns))
    }

    /// Ends: a replica that stands still goes on, one that was killed is waited for and starts again from its files.
    pub(super) fn end(self, local: &mut LocalCluster) -> Result<(), LocalError> {
        match self.fault {
            Fault::Kill => {
                local.kill(self.victim)?;
                local.restart(self.victim)
            }
            Fault::Stop | Fault::Slow if self.stopped => local.signal(self.victim, Signal::CONT),
            Fault::Stop | Fault::Slow => Ok(()),
        }
    }
}
