//! Commit latencies, as the client sees them: from signing to f+1 equal replies.

use std::fmt;

/// Which replicas there were.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// All, before one is killed.
    Before,
    /// All but one: no fast commit.
    Down,
    /// All again.
    Back,
    /// All, and one of them lies.
    Lying,
}

impl Phase {
    /// All, in their order in time.
    pub const ALL: [Self; 4] = [Self::Before, Self::Down, Self::Back, Self::Lying];
}

/// Percentiles of what was measured, in microseconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Figures {
    /// How many operations.
    pub count: usize,
    /// Half took no longer.
    pub p50_us: u64,
    /// 99 of 100 took no longer.
    pub p99_us: u64,
    /// The longest.
    pub max_us: u64,
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [p50, p99, max] = [self.p50_us, self.p99_us, self.max_us].map(ms);
        write!(f, "p50 {p50} ms, p99 {p99} ms, max {max} ms")
    }
}

/// Microseconds as milliseconds with one digit behind the point.
pub fn ms(microseconds: u64) -> String {
    format!("{:.1}", microseconds as f64 / 1_000.0)
}

/// All latencies of a demonstration, whose operations are few enough to keep each.
#[derive(Clone, Debug, Default)]
pub struct Meter {
    phases: [Vec<u64>; Phase::ALL.len()],
}

impl Meter {
    /// Takes the latency of one operation, in microseconds.
    pub fn record(&mut self, phase: Phase, latency_us: u64) {
        if let Some(latencies) = self.phases.get_mut(phase as usize) {
            latencies.push(latency_us);
        }
    }

    /// Those of a phase.
    pub fn of(&self, phase: Phase) -> Figures {
        figures(self.phases.get(phase as usize).cloned().unwrap_or_default())
    }

    /// Those of the whole run so far.
    pub fn all(&self) -> Figures {
        figures(self.phases.concat())
    }
}

fn figures(mut latencies: Vec<u64>) -> Figures {
    latencies.sort_unstable();
    // The smallest value that so many of a hundred do not exceed.
    let percentile = |hundredths: usize| {
        let rank = (latencies.len() * hundredths).div_ceil(100);
        latencies.get(rank.saturating_sub(1)).copied().unwrap_or_default()
    };
    Figures { count: latencies.len(), p50_us: percentile(50), p99_us: percentile(99), max_us: percentile(100) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_measured_values() {
        let mut meter = Meter::default();
        assert_eq!(meter.all(), Figures::default());
        (1..=200).rev().for_each(|latency| meter.record(Phase::Before, latency));
        assert_eq!(meter.of(Phase::Before), Figures { count: 200, p50_us: 100, p99_us: 198, max_us: 200 });
        meter.record(Phase::Down, 9_000);
        assert_eq!(meter.of(Phase::Down), Figures { count: 1, p50_us: 9_000, p99_us: 9_000, max_us: 9_000 });
        assert_eq!((meter.all().count, meter.all().max_us), (201, 9_000));
        assert_eq!(meter.of(Phase::Down).to_string(), "p50 9.0 ms, p99 9.0 ms, max 9.0 ms");
    }
}
