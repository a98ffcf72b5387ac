//! Histograms of times, of a fixed size and without allocation after the start.
//!
//! Buckets are log-linear: whole microseconds below 16, then sixteen of equal width in each power of two, so that a bucket is at
//! most 1/16 of what it counts. The last takes everything above. Readers use [`bucket_end_us`] and need nothing else.

/// Buckets of equal width in a power of two.
const STEPS: u64 = 16;

/// Powers of two behind the first [`STEPS`] microseconds.
const POWERS: usize = 27;

/// Buckets of a histogram: up to 2^31 us, about 36 minutes.
pub const BUCKETS: usize = STEPS as usize * (POWERS + 1);

/// Times that were counted since the start.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Histogram {
    sum_us: u64,
    buckets: Box<[u64; BUCKETS]>,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { sum_us: 0, buckets: Box::new([0; BUCKETS]) }
    }
}

impl Histogram {
    /// Counts a time, us.
    pub fn record(&mut self, us: u64) {
        self.sum_us = self.sum_us.wrapping_add(us);
        self.buckets[bucket(us)] += 1;
    }

    /// All times together, us.
    pub fn sum_us(&self) -> u64 {
        self.sum_us
    }

    /// The counts, by bucket.
    pub fn buckets(&self) -> &[u64; BUCKETS] {
        &self.buckets
    }
}

/// The bucket that counts a time.
pub fn bucket(us: u64) -> usize {
    if us < STEPS {
        return us as usize;
    }
    let power = u64::from(us.ilog2()) - STEPS.trailing_zeros() as u64;
    let place = (power + 1) * STEPS + (us >> power) - STEPS;
    (place as usize).min(BUCKETS - 1)
}

/// The shortest time that is too long for a bucket, us; there is none for the last.
pub fn bucket_end_us(bucket: usize) -> Option<u64> {
    let bucket = bucket as u64;
    match bucket / STEPS {
        _ if bucket as usize + 1 >= BUCKETS => None,
        0 => Some(bucket + 1),
        power => Some((bucket % STEPS + STEPS + 1) << (power - 1)),
    }
}

/// How many times buckets counted. Theirs may be anybody's numbers: it ends at the largest.
pub fn total(buckets: &[u64]) -> u64 {
    buckets.iter().fold(0, |sum, count| sum.saturating_add(*count))
}

/// The time below which `part` (0 to 1) of what was counted lies, us: the end of its bucket. `None` where nothing was counted.
pub fn quantile_us(buckets: &[u64], part: f64) -> Option<u64> {
    let total = total(buckets);
    let wanted = ((total as f64 * part).ceil() as u64).clamp(1, total.max(1));
    let mut seen = 0_u64;
    let place = buckets.iter().position(|count| {
        seen = seen.saturating_add(*count);
        total > 0 && seen >= wanted
    })?;
    Some(bucket_end_us(place).map_or(1 << 31, |end| end - 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_time_lies_below_the_end_of_its_bucket_and_not_below_that_of_the_one_before() {
        let times = (0..5_000).chain((0..31).flat_map(|power| [(1 << power) - 1, 1 << power, (1 << power) + 1]));
        for us in times {
            let place = bucket(us);
            assert!(bucket_end_us(place).is_none_or(|end| us < end), "{us}");
            assert!(place == 0 || bucket_end_us(place - 1).is_some_and(|end| us >= end), "{us}");
        }
    }

    #[test]
    fn a_bucket_is_at_most_a_sixteenth_of_its_times() {
        for place in 1..BUCKETS - 1 {
            let (start, end) = (bucket_end_us(place - 1).unwrap(), bucket_end_us(place).unwrap());
            assert!(end > start && (end - start - 1) * 16 <= start, "{place}: {start}..{end}");
        }
        assert_eq!((bucket(1 << 31), bucket(u64::MAX)), (BUCKETS - 1, BUCKETS - 1));
        assert_eq!(bucket_end_us(BUCKETS - 1), None);
    }

    #[test]
    fn quantiles_are_those_of_what_was_counted() {
        let mut histogram = Histogram::default();
        assert_eq!(quantile_us(histogram.buckets(), 0.5), None);
        (1..=100).for_each(|us| histogram.record(us * 10));
        assert_eq!(histogram.sum_us(), 50_500);
        for (part, exact) in [(0.0, 10), (0.5, 500), (0.99, 990), (1.0, 1_000)] {
            let found = quantile_us(histogram.buckets(), part).unwrap();
            assert!(found >= exact && found <= exact + exact / 16, "{part}: {found}");
        }
        // A damaged file of metrics may say anything.
        assert_eq!(quantile_us(&[u64::MAX; BUCKETS], 0.5), Some(0));
        assert_eq!(total(&[u64::MAX, 1]), u64::MAX);
    }
}
