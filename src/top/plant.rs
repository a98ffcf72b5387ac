//! Replicas and what they are in: from readings to states, rates, latencies and notes.

use std::cmp::Reverse;
use std::collections::VecDeque;
use std::path::PathBuf;

use atlas_control::mapped::Reading;
use atlas_dataplane::histogram::{BUCKETS, bucket, bucket_end_us, quantile_us, total};

use super::sample::{MAX_PEERS, Sample, Times, process_runs};
use super::text::{bytes, count, digits, fit, span};
use super::{MAX_REPLICAS, Sort, View};

/// A replica that published nothing for so long is silent, ms: an idle one publishes once a second.
pub const SILENT_MS: u64 = 5_000;

/// A round that takes longer is late, us: everything that the replica does waits for its end.
pub const LATE_US: u64 = 10_000;

/// Who is so many sequences behind the first is noted.
pub const FAR_BEHIND: u64 = 1_000;

/// Rates that are remembered of each replica.
pub const TREND: usize = 240;

/// Where a replica's metrics are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Place {
    /// What it is called, where that is known before its metrics are read.
    pub name: String,
    /// The file.
    pub file: PathBuf,
}

/// A replica, as its file shows it.
#[derive(Clone, Debug)]
pub struct Replica {
    /// Where it is.
    pub place: Place,
    /// The last reading.
    pub now: Option<Sample>,
    /// An earlier one of the same process.
    pub before: Option<Sample>,
    /// Why there is no reading.
    pub problem: Option<String>,
    /// Whether its process runs.
    pub runs: bool,
    /// Operations a second, oldest first.
    pub trend: VecDeque<u64>,
}

/// What a replica is in, the worst first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum State {
    /// There is no file, or it cannot be read.
    Unreadable,
    /// Its process does not run.
    Down,
    /// It runs and has published nothing for so many ms.
    Silent(u64),
    /// It lost its records and does not vote.
    Abstains,
    /// It takes history and state from others; of a hundred parts so many are there.
    Transfer(Option<u64>),
    /// It takes no new writes for want of disk space.
    LowSpace,
    /// It is between two views.
    Changes,
    /// It refuses clients' bundles as it was told to.
    Paused,
    /// It takes part.
    Ready,
    /// It takes part and leads.
    Leads,
}

/// Times of an interval.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Interval {
    buckets: Vec<u64>,
    sum_us: u64,
}

impl Interval {
    /// How many.
    pub fn count(&self) -> u64 {
        total(&self.buckets)
    }

    /// Their mean, us.
    pub fn mean_us(&self) -> Option<u64> {
        self.sum_us.checked_div(self.count())
    }

    /// The time below which `part` of them lie, us.
    pub fn quantile_us(&self, part: f64) -> Option<u64> {
        quantile_us(&self.buckets, part)
    }

    /// The longest, us: the end of its bucket.
    pub fn most_us(&self) -> Option<u64> {
        let place = self.buckets.iter().rposition(|count| *count > 0)?;
        Some(bucket_end_us(place).map_or(1 << 31, |end| end - 1))
    }

    /// How many took longer than `us`, to a bucket.
    pub fn above(&self, us: u64) -> u64 {
        total(self.buckets.get(bucket(us) + 1..).unwrap_or_default())
    }
}

impl Replica {
    /// A replica that was not looked at yet.
    pub fn new(place: Place) -> Self {
        Self { place, now: None, before: None, problem: None, runs: false, trend: VecDeque::new() }
    }

    /// Takes what was read of its file.
    pub fn take(&mut self, reading: Result<Sample, String>, runs: bool) {
        let sample = match reading {
            Ok(sample) => sample,
            Err(problem) => {
                (self.now, self.before, self.runs, self.problem) = (None, None, false, Some(problem));
                return;
            }
        };
        if let Some(last) = self.now.take() {
            let same = last.pid == sample.pid && last.start_ms == sample.start_ms;
            match (same, last.heartbeat_ms == sample.heartbeat_ms) {
                (false, _) => self.before = None,
                // It published nothing since: what was measured before is still the last interval.
                (true, true) => {}
                (true, false) => self.before = Some(last),
            }
        }
        (self.now, self.runs, self.problem) = (Some(sample), runs, None);
        if self.trend.len() >= TREND {
            self.trend.pop_front();
        }
        self.trend.push_back(self.rate(|sample| sample.requests).map_or(0, |rate| rate.round() as u64));
    }

    /// Its name in `width` columns; the end of its file's path while nothing else is known.
    pub fn name(&self, width: usize) -> String {
        match &self.now {
            _ if !self.place.name.is_empty() => fit(&self.place.name, width),
            Some(now) => fit(&format!("replica-{}", now.replica), width),
            None => {
                let path: Vec<char> = self.place.file.to_string_lossy().chars().collect();
                fit(&path[path.len().saturating_sub(width)..].iter().collect::<String>(), width)
            }
        }
    }

    /// Seconds between the two readings, while it runs.
    fn interval(&self) -> Option<(&Sample, &Sample, f64)> {
        let (now, before) = (self.now.as_ref()?, self.before.as_ref()?);
        let passed_ms = now.heartbeat_ms.checked_sub(before.heartbeat_ms).filter(|passed| *passed > 0 && self.runs)?;
        Some((now, before, passed_ms as f64 / 1e3))
    }

    /// What a counter grew by in a second; `None` while that is not known.
    pub fn rate(&self, counter: impl Fn(&Sample) -> u64) -> Option<f64> {
        let (now, before, passed_s) = self.interval()?;
        Some(counter(now).saturating_sub(counter(before)) as f64 / passed_s)
    }

    /// The part of the interval that its thread was busy, in a hundred.
    pub fn busy(&self) -> Option<u64> {
        self.rate(|sample| sample.busy_us).map(|us| ((us / 1e4).round() as u64).min(100))
    }

    /// Times of the interval.
    pub fn times(&self, of: impl Fn(&Sample) -> &Times) -> Interval {
        let Some((now, before, _)) = self.interval() else { return Interval { buckets: Vec::new(), sum_us: 0 } };
        let (now, before) = (of(now), of(before));
        let old = before.buckets.iter().copied().chain(std::iter::repeat(0));
        let buckets = now.buckets.iter().zip(old).take(BUCKETS).map(|(now, old)| now.saturating_sub(old)).collect();
        Interval { buckets, sum_us: now.sum_us.saturating_sub(before.sum_us) }
    }
}

/// All replicas that are shown.
#[derive(Clone, Debug)]
pub struct Plant {
    replicas: Vec<Replica>,
    /// The time of what is shown, ms since 1970.
    pub now_ms: u64,
}

impl Plant {
    /// Of these replicas, at most [`MAX_REPLICAS`].
    pub fn new(places: Vec<Place>) -> Self {
        Self { replicas: places.into_iter().take(MAX_REPLICAS).map(Replica::new).collect(), now_ms: 0 }
    }

    /// Reads every file.
    pub fn refresh(&mut self, now_ms: u64) {
        self.now_ms = now_ms;
        for replica in &mut self.replicas {
            let reading = Reading::open(&replica.place.file).map(|reading| Sample::of(&reading));
            let runs = reading.as_ref().is_ok_and(|sample| process_runs(sample.pid));
            replica.take(reading.map_err(|error| error.to_string()), runs);
        }
    }

    /// The replicas, in the order in which they were named.
    pub fn replicas(&self) -> &[Replica] {
        &self.replicas
    }

    #[cfg(test)]
    pub(super) fn replicas_mut(&mut self) -> &mut [Replica] {
        &mut self.replicas
    }

    /// The last readings of those that run.
    fn running(&self) -> impl Iterator<Item = &Sample> {
        self.replicas.iter().filter(|replica| replica.runs).filter_map(|replica| replica.now.as_ref())
    }

    /// The highest sequence that one executed.
    pub fn first_sequence(&self) -> u64 {
        self.running().map(|sample| sample.executed_sequence).max().unwrap_or(0)
    }

    /// How many sequences a replica is behind the first.
    pub fn behind(&self, replica: &Replica) -> Option<u64> {
        let now = replica.now.as_ref()?;
        Some(self.first_sequence().saturating_sub(now.executed_sequence))
    }

    /// What a replica is in.
    pub fn state(&self, replica: &Replica) -> State {
        let Some(now) = &replica.now else { return State::Unreadable };
        // A clock that was set back makes it as old as one that stands.
        let age_ms = self.now_ms.abs_diff(now.heartbeat_ms);
        match () {
            () if !replica.runs => State::Down,
            () if age_ms >= SILENT_MS => State::Silent(age_ms),
            () if now.abstains && !now.transfer_active => State::Abstains,
            () if now.transfer_active => State::Transfer(self.transferred(now)),
            () if now.low_space => State::LowSpace,
            () if !now.view_active => State::Changes,
            () if now.paused => State::Paused,
            () if now.leader == now.replica => State::Leads,
            () => State::Ready,
        }
    }

    /// How much of the history is there, of a hundred parts of what the first has.
    fn transferred(&self, now: &Sample) -> Option<u64> {
        let all = self.running().filter(|other| other.replica != now.replica).map(|other| other.history_entries).max();
        let all = all.filter(|all| *all > 0)?;
        Some(u64::try_from(u128::from(now.transfer_entries) * 100 / u128::from(all)).unwrap_or(100).min(100))
    }

    /// The replicas' places in the order in which they are shown.
    pub fn order(&self, view: &View) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.replicas.len()).collect();
        let of = |place: &usize| &self.replicas[*place];
        match view.sort {
            Sort::Name => {}
            Sort::State => order.sort_by_key(|place| self.state(of(place))),
            Sort::Rate => order.sort_by_key(|place| {
                Reverse(of(place).rate(|sample| sample.requests).map_or(0, |rate| rate.round() as u64))
            }),
            Sort::Commit => {
                order.sort_by_key(|place| Reverse(of(place).times(|sample| &sample.commit).quantile_us(0.99)));
            }
            Sort::Behind => order.sort_by_key(|place| Reverse(self.behind(of(place)))),
        }
        if view.reverse {
            order.reverse();
        }
        order
    }

    /// In one line: how many run, and who leads.
    pub fn summary(&self) -> String {
        let (all, run) = (self.replicas.len(), self.running().count());
        let mut views: Vec<(u64, u64)> = self.running().map(|sample| (sample.view, sample.leader)).collect();
        views.sort_unstable();
        views.dedup();
        let view = match views[..] {
            [] => String::new(),
            [(view, leader)] => format!(", view {}, replica {} leads", count(view), count(leader)),
            _ => ", in different views".to_owned(),
        };
        format!("{run} of {all} run{view}")
    }

    /// What wants attention, the worst first, each with whether it does at once.
    pub fn notes(&self) -> Vec<(bool, String)> {
        let mut order: Vec<&Replica> = self.replicas.iter().collect();
        order.sort_by_key(|replica| self.state(replica));
        let mut notes: Vec<(bool, String)> = order.iter().filter_map(|replica| self.state_note(replica)).collect();
        for replica in order.iter().filter(|replica| replica.runs) {
            let Some(now) = &replica.now else { continue };
            self.fault_notes(replica, now, &mut notes);
        }
        notes.extend(self.link_notes());
        // Those that want it at once come first, each kind in its order.
        notes.sort_by_key(|(urgent, _)| !urgent);
        notes
    }

    fn state_note(&self, replica: &Replica) -> Option<(bool, String)> {
        let name = replica.name(24);
        let now = replica.now.clone().unwrap_or_default();
        let ago = || span(self.now_ms.abs_diff(now.heartbeat_ms) / 1_000);
        Some(match self.state(replica) {
            State::Unreadable => (true, format!("{name}: {}", replica.problem.as_deref().unwrap_or("not read yet"))),
            State::Down => (true, format!("{name} does not run; pid {} published last {} ago", now.pid, ago())),
            State::Silent(_) => (true, format!("{name} runs (pid {}) and published nothing for {}", now.pid, ago())),
            State::Abstains => (true, format!("{name} does not vote: its records were lost")),
            State::Transfer(part) => {
                let part = part.map_or_else(String::new, |part| format!(", {part} % of the history is there"));
                let votes = if now.abstains { "; it does not vote" } else { "" };
                (false, format!("{name} takes history and state from others{part}{votes}"))
            }
            State::LowSpace => {
                let free = now.free_bytes.map_or_else(|| "too little".to_owned(), bytes);
                (true, format!("{name} takes no new writes: {free} free on its disk"))
            }
            State::Changes => (false, format!("{name} asks for view {}", count(now.view))),
            State::Paused => (false, format!("{name} is paused: it refuses clients' bundles")),
            State::Ready | State::Leads => return None,
        })
    }

    fn fault_notes(&self, replica: &Replica, now: &Sample, notes: &mut Vec<(bool, String)>) {
        let name = replica.name(24);
        for (peer, times) in now.misbehaviour.iter().enumerate().filter(|(_, times)| **times > 0) {
            notes.push((true, format!("{name} saw replica {peer} misbehave, {} times: atlas status", count(*times))));
        }
        if let Some(behind) = self.behind(replica).filter(|behind| *behind >= FAR_BEHIND && !now.transfer_active) {
            notes.push((false, format!("{name} is {} sequences behind", digits(behind, 9))));
        }
        if now.log_full > 0 {
            notes.push((true, format!("{name} found no room on its disk, {} times", count(now.log_full))));
        }
    }
    /// Links that are down, by the replica that they lead to; none where that is known not to run.
    fn link_notes(&self) -> Vec<(bool, String)> {
        let ended = |peer: usize| {
            let mut all =
                self.replicas.iter().filter(|replica| !replica.runs).filter_map(|replica| replica.now.as_ref());
            all.any(|sample| sample.replica == peer as u64)
        };
        let lacks = |replica: &&Replica, peer: usize| {
            replica.runs && replica.now.as_ref().is_some_and(|now| now.links.get(peer) == Some(&false))
        };
        let note = |peer: usize| {
            let all = self.replicas.iter().filter(|replica| lacks(replica, peer));
            let names: Vec<String> = all.map(|replica| replica.name(24)).collect();
            (!names.is_empty()).then(|| (false, format!("no link to replica {peer} from {}", names.join(", "))))
        };
        (0..MAX_PEERS).filter(|peer| !ended(*peer)).filter_map(note).collect()
    }
}
