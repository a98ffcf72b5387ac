//! What happened around an event, from what a client saw: the longest time without a commit, and what to draw.
//!
//! An event is at 0; times before it are negative. Nothing here knows a clock.

use std::ops::Range;

/// Where the drawing begins, milliseconds before the event.
pub const BEFORE_MS: i64 = 200;
/// Where it ends, milliseconds after the event.
pub const AFTER_MS: i64 = 600;
/// Width of a bucket of it, milliseconds.
pub const BUCKET_MS: i64 = 10;
/// How many there are.
pub const BUCKETS: usize = ((BEFORE_MS + AFTER_MS) / BUCKET_MS) as usize;

const NS_PER_MS: i64 = 1_000_000;

/// An operation whose result f+1 replicas gave alike.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Commit {
    /// When it was due, nanoseconds after the event.
    pub due_ns: i64,
    /// When the client had its result.
    pub end_ns: i64,
}

/// The longest stretch without a commit among those that end after the event and begin before `until_ns`. It begins with the last
/// commit before it, which may lie before the event: at a rate of r the result is never much below 1/r. Where no commit ended a stretch,
/// it ends at `until_ns`.
pub fn longest_gap(commits: &[Commit], until_ns: i64) -> Range<i64> {
    let mut ends: Vec<i64> = commits.iter().map(|commit| commit.end_ns).collect();
    ends.sort_unstable();
    let mut last = ends.iter().copied().take_while(|end| *end <= 0).last().unwrap_or(0);
    let mut longest = last..last;
    for end in ends.into_iter().filter(|end| *end > 0).chain([until_ns]) {
        if last >= until_ns {
            break;
        }
        if end - last > longest.end - longest.start {
            longest = last..end;
        }
        last = last.max(end);
    }
    longest
}

/// What is drawn of several repetitions: commits a second by when they came, latencies by when the operations were due.
#[derive(Clone, PartialEq, Debug)]
pub struct Around {
    repetitions: usize,
    commits: Vec<u64>,
    /// Nanoseconds, by when the operations were due.
    latencies: Vec<Vec<u64>>,
    /// The same by when they ended.
    ended: Vec<Vec<u64>>,
}

/// One bucket of a drawing.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Bucket {
    /// Where it begins, milliseconds after the event.
    pub from_ms: f64,
    /// How wide it is, milliseconds.
    pub width_ms: f64,
    /// Commits a second, as a mean over the repetitions.
    pub commits_per_s: f64,
    /// The median latency of operations due in it; 0 where none was.
    pub median_ms: f64,
    /// The longest of any repetition.
    pub worst_ms: f64,
}

impl Default for Around {
    fn default() -> Self {
        Self {
            repetitions: 0,
            commits: vec![0; BUCKETS],
            latencies: vec![Vec::new(); BUCKETS],
            ended: vec![Vec::new(); BUCKETS],
        }
    }
}

fn bucket(at_ns: i64) -> Option<usize> {
    usize::try_from((at_ns + BEFORE_MS * NS_PER_MS).div_euclid(BUCKET_MS * NS_PER_MS)).ok()
}

impl Around {
    /// Takes the commits of one repetition.
    pub fn add(&mut self, commits: &[Commit]) {
        self.repetitions += 1;
        for commit in commits {
            if let Some(count) = bucket(commit.end_ns).and_then(|bucket| self.commits.get_mut(bucket)) {
                *count += 1;
            }
            if let Some(ended) = bucket(commit.end_ns).and_then(|bucket| self.ended.get_mut(bucket)) {
                ended.push(u64::try_from(commit.end_ns - commit.due_ns).unwrap_or(0));
            }
            if let Some(latencies) = bucket(commit.due_ns).and_then(|bucket| self.latencies.get_mut(bucket)) {
                latencies.push(u64::try_from(commit.end_ns - commit.due_ns).unwrap_or(0));
            }
        }
    }

    /// How many repetitions were added.
    pub fn repetitions(&self) -> usize {
        self.repetitions
    }

    /// Latencies in nanoseconds of what ended in each bucket of [`BUCKET_MS`], from [`BEFORE_MS`] before the event.
    pub fn ended(&self) -> &[Vec<u64>] {
        &self.ended
    }

    /// The buckets, `merged` of the narrowest in each.
    pub fn buckets(&self, merged: usize) -> Vec<Bucket> {
        let merged = merged.max(1);
        let width_ms = (merged as i64 * BUCKET_MS) as f64;
        let groups = self.commits.chunks(merged).zip(self.latencies.chunks(merged));
        let bucket = |(index, (commits, latencies)): (usize, (&[u64], &[Vec<u64>]))| {
            let mut latencies = latencies.concat();
            latencies.sort_unstable();
            let ms = |latency: Option<&u64>| latency.map_or(0.0, |ns| *ns as f64 / NS_PER_MS as f64);
            let seconds = width_ms / 1_000.0 * self.repetitions.max(1) as f64;
            Bucket {
                from_ms: index as f64 * width_ms - BEFORE_MS as f64,
                width_ms,
                commits_per_s: commits.iter().sum::<u64>() as f64 / seconds,
                median_ms: ms(latencies.get(latencies.len() / 2)),
                worst_ms: ms(latencies.last()),
            }
        };
        groups.enumerate().map(bucket).collect()
    }
}

/// A histogram of gaps for people: bins of one round width, from the first that holds a gap to the last.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Bins {
    /// Width of a bin, milliseconds.
    pub width_ms: f64,
    /// Where each begins, and how many gaps lie in it.
    pub bins: Vec<(f64, usize)>,
}

impl Bins {
    /// Puts gaps, in milliseconds, into at most `most` bins.
    pub fn new(gaps_ms: &[f64], most: usize) -> Self {
        let lowest = gaps_ms.iter().copied().reduce(f64::min).unwrap_or(0.0);
        let highest = gaps_ms.iter().copied().reduce(f64::max).unwrap_or(0.0);
        let place = |gap: f64, width: f64| (gap / width).floor() as usize;
        let fits = |width: &f64| place(highest, *width) - place(lowest, *width) < most.max(1);
        // Finer ones would tell apart what a scheduler's tick may do.
        let widths = (0..12).flat_map(|power| [5.0, 10.0, 20.0].map(|digit| digit * 10f64.powi(power)));
        let width_ms = widths.into_iter().find(fits).unwrap_or(f64::MAX);
        let first = place(lowest, width_ms);
        let mut bins: Vec<(f64, usize)> = match gaps_ms {
            [] => Vec::new(),
            _ => (first..=place(highest, width_ms)).map(|bin| (bin as f64 * width_ms, 0)).collect(),
        };
        for gap in gaps_ms {
            if let Some((_, count)) = bins.get_mut(place(*gap, width_ms) - first) {
                *count += 1;
            }
        }
        Self { width_ms, bins }
    }

    /// The fullest bin's count.
    pub fn fullest(&self) -> usize {
        self.bins.iter().map(|(_, count)| *count).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commits(ends_ms: &[i64]) -> Vec<Commit> {
        let at = |ms: &i64| Commit { due_ns: (ms - 1) * NS_PER_MS, end_ns: ms * NS_PER_MS };
        ends_ms.iter().map(at).collect()
    }

    fn gap(ends_ms: &[i64], until_ms: i64) -> (i64, i64) {
        let Range { start, end } = longest_gap(&commits(ends_ms), until_ms * NS_PER_MS);
        (start / NS_PER_MS, end / NS_PER_MS)
    }

    #[test]
    fn the_gap_is_the_longest_that_ends_after_the_event() {
        assert_eq!(gap(&[-300, -50, -3, 2, 80, 85, 90], 100), (2, 80));
        // From the last commit before the event, whenever that was.
        assert_eq!(gap(&[-3, 80, 85], 100), (-3, 80));
        // A later pause that is longer counts instead.
        assert_eq!(gap(&[-1, 30, 90, 95], 100), (30, 90));
        // Results need not come in order.
        assert_eq!(gap(&[85, -3, 80], 100), (-3, 80));
    }

    #[test]
    fn a_pause_that_nothing_ends_lasts_until_the_end_and_later_ones_do_not_count() {
        assert_eq!(gap(&[-3, 5], 100), (5, 100));
        assert_eq!(gap(&[], 100), (0, 100));
        // One that began in time is measured to its end.
        assert_eq!(gap(&[-3, 5, 90, 150, 400], 100), (5, 90));
        assert_eq!(gap(&[-3, 5, 400], 100), (5, 400));
    }

    #[test]
    fn buckets_hold_commits_by_their_end_and_latencies_by_when_they_were_due() {
        let mut around = Around::default();
        let ms = NS_PER_MS;
        let slow = Commit { due_ns: 5 * ms, end_ns: 95 * ms };
        around.add(&[Commit { due_ns: -ms, end_ns: ms }, slow]);
        around.add(&[Commit { due_ns: 6 * ms, end_ns: 7 * ms }]);
        // Far away on both sides: not drawn.
        around.add(&[Commit { due_ns: -900 * ms, end_ns: -800 * ms }, Commit { due_ns: 700 * ms, end_ns: 701 * ms }]);
        let buckets = around.buckets(1);
        assert_eq!((buckets.len(), buckets[0].from_ms), (BUCKETS, -200.0));
        let zero = buckets.iter().position(|bucket| bucket.from_ms == 0.0).unwrap();
        // Two commits in 10 ms of three repetitions.
        assert!((buckets[zero].commits_per_s - 2.0 / 0.03).abs() < 1e-6);
        assert_eq!((buckets[zero].median_ms, buckets[zero].worst_ms), (90.0, 90.0));
        assert_eq!((buckets[zero - 1].median_ms, buckets[zero - 1].commits_per_s), (2.0, 0.0));
        assert_eq!(buckets.iter().filter(|bucket| bucket.commits_per_s > 0.0).count(), 2);
        let ended: Vec<_> = around.ended().iter().flatten().collect();
        assert_eq!(
            (around.repetitions(), ended),
            (3, vec![&(2 * NS_PER_MS as u64), &(NS_PER_MS as u64), &(90 * NS_PER_MS as u64)])
        );
        let wide = around.buckets(2);
        assert_eq!((wide.len(), wide[0].width_ms), (BUCKETS / 2, 20.0));
        assert_eq!(wide[zero / 2].worst_ms, 90.0);
    }

    #[test]
    fn bins_are_round_few_and_hold_every_gap() {
        assert_eq!(Bins::new(&[], 10).bins, []);
        assert_eq!(Bins::new(&[61.0], 10), Bins { width_ms: 5.0, bins: vec![(60.0, 1)] });
        let gaps = [61.0, 68.0, 72.5, 73.0, 95.0];
        let bins = Bins::new(&gaps, 10);
        assert_eq!(bins.width_ms, 5.0);
        assert_eq!(bins.bins.first(), Some(&(60.0, 1)));
        assert_eq!(bins.bins.last(), Some(&(95.0, 1)));
        assert_eq!((bins.bins.iter().map(|(_, count)| count).sum::<usize>(), bins.fullest()), (5, 2));
        let far = Bins::new(&[1.0, 20_000.0], 8);
        assert!(far.bins.len() <= 8 && far.bins.iter().map(|(_, count)| count).sum::<usize>() == 2, "{far:?}");
    }
}
