//! What all connections share: the board, the ring, the settings on trial, the errors, the budgets. Belongs to the executor's thread.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use atlas_dataplane::cluster::ReplicaConfig;
use atlas_dataplane::cluster::placement::Live;
use atlas_dataplane::cluster::settings::LocalConfig;
use atlas_dataplane::flight::stages::Stages;
use atlas_dataplane::flight::{self, Event};
use atlas_dataplane::replica::oversight::{Answer, InForce, Order};
use atlas_dataplane::replica::telemetry::{Board, Label};
use glommio::sync::Semaphore;
use glommio::timer::sleep;

use crate::limits::{CPU_BURST, CPU_PARTS, MAX_ERRORS, MAX_ORDERS, ORDER, ORDERS_PER_SECOND};
use crate::protocol::Level;
use crate::ring::OrderSender;
use crate::trial::Trial;

/// Between two looks for an answer of the replica.
const POLL: Duration = Duration::from_millis(1);

/// Seconds over which rates are shown.
const RATE_SECONDS: usize = 10;

/// What the management knows of its replica.
#[derive(Debug)]
pub(crate) struct Facts {
    /// The replica's file.
    pub(crate) file: PathBuf,
    pub(crate) config: ReplicaConfig,
    pub(crate) origin: String,
    /// Name and address of each replica.
    pub(crate) members: Vec<(String, String)>,
    /// Requests that a session remembers, and sessions of an identity.
    pub(crate) session_limits: (u64, u64),
}

/// Why the replica did not carry out an order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fault {
    /// There are too many orders.
    Busy,
    /// It did not answer.
    Late,
}

/// An error by name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Seen {
    pub(crate) count: u64,
    pub(crate) first_ms: u64,
    pub(crate) last_ms: u64,
}

/// Fills at a rate, up to a second's worth.
#[derive(Debug)]
pub(crate) struct Bucket {
    rate: f64,
    level: f64,
    at: Instant,
}

impl Bucket {
    pub(crate) fn new(rate: f64) -> Self {
        Self { rate, level: rate, at: Instant::now() }
    }

    /// Takes one; how long it takes until there is one, where there is none.
    pub(crate) fn take(&mut self, now: Instant) -> Result<(), Duration> {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        (self.level, self.at) = ((self.level + passed * self.rate).min(self.rate), now);
        if self.level >= 1.0 {
            self.level -= 1.0;
            return Ok(());
        }
        Err(Duration::from_secs_f64((1.0 - self.level) / self.rate))
    }
}

/// What some connections may use of a processor.
#[derive(Debug)]
struct Budget {
    part: f64,
    at: Instant,
    /// Seconds that are left; negative where more was used.
    left: f64,
}

impl Budget {
    fn new(part: f64) -> Self {
        Self { part, at: Instant::now(), left: CPU_BURST.as_secs_f64() }
    }

    fn spend(&mut self, used: Duration) {
        self.left -= used.as_secs_f64();
    }

    /// How long to wait until there is some left.
    fn owes(&mut self, now: Instant) -> Option<Duration> {
        let gained = now.saturating_duration_since(self.at).as_secs_f64() * self.part;
        (self.left, self.at) = ((self.left + gained).min(CPU_BURST.as_secs_f64()), now);
        (self.left < 0.0).then(|| Duration::from_secs_f64(-self.left / self.part).max(Duration::from_millis(1)))
    }
}

/// Who shares a budget: the connections of a level, or those for metrics.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Share {
    Level(Level),
    Metrics,
}

impl Share {
    fn place(self) -> usize {
        match self {
            Self::Level(level) => level as usize,
            Self::Metrics => 3,
        }
    }
}

/// Whose turn it is, and what is left.
#[derive(Debug)]
struct Gate {
    turn: Semaphore,
    budget: RefCell<Budget>,
}

fn thread_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Desk {
    pub(crate) facts: Facts,
    pub(crate) board: Arc<Board>,
    ring: OrderSender,
    started: Instant,
    pub(crate) trial: RefCell<Trial>,
    /// A change is on its way to the replica.
    changing: Cell<bool>,
    next_number: Cell<u64>,
    waiting: RefCell<BTreeSet<u64>>,
    answers: RefCell<BTreeMap<u64, Answer>>,
    orders: RefCell<Bucket>,
    questions: RefCell<Bucket>,
    /// Questions of clients that the replica has yet to answer.
    asked: Cell<usize>,
    gates: [Gate; 4],
    pub(crate) errors: RefCell<BTreeMap<String, Seen>>,
    /// The board's values when latencies were reset last, and when, ms.
    pub(crate) baseline: RefCell<Option<(Vec<u64>, u64)>>,
    /// Requests that were executed, by the second.
    rates: RefCell<VecDeque<(Instant, u64)>>,
    /// What each thread had used of processors when `cores` was asked last.
    pub(crate) threads: RefCell<crate::threads::Used>,
    /// When a recording was asked for last.
    pub(crate) dumped: Cell<Option<Instant>>,
    /// How long the bundles that the recorder follows take from stage to stage, and the number of the next event of it.
    pub(crate) stages: RefCell<(Stages, u64)>,
    /// Commands that are in no event of the flight recorder yet.
    pub(crate) shown: RefCell<crate::commands::ShownCount>,
}

/// What became of an order that is about settings.
pub(crate) enum Outcome {
    Done(Box<InForce>),
    NothingOnTrial,
    Refused(String),
}

/// A change is under way as long as this lives.
pub(crate) struct Changing<'a>(&'a Cell<bool>);

impl Drop for Changing<'_> {
    fn drop(&mut self) {
        self.0.set(false);
    }
}

impl Desk {
    pub(crate) fn new(facts: Facts, board: Arc<Board>, ring: OrderSender) -> Rc<Self> {
        let trial = RefCell::new(Trial::new(facts.config.live()));
        Rc::new(Self {
            facts,
            board,
            ring,
            started: Instant::now(),
            trial,
            changing: Cell::new(false),
            next_number: Cell::new(0),
            waiting: RefCell::default(),
            answers: RefCell::default(),
            orders: RefCell::new(Bucket::new(ORDERS_PER_SECOND)),
            questions: RefCell::new(Bucket::new(ORDERS_PER_SECOND)),
            asked: Cell::new(0),
            gates: CPU_PARTS.map(|part| Gate { turn: Semaphore::new(1), budget: RefCell::new(Budget::new(part)) }),
            errors: RefCell::default(),
            baseline: RefCell::default(),
            rates: RefCell::default(),
            threads: RefCell::default(),
            dumped: Cell::new(None),
            stages: RefCell::default(),
            shown: RefCell::default(),
        })
    }

    pub(crate) fn now_us(&self) -> u64 {
        self.started.elapsed().as_micros() as u64
    }

    /// A value of the board.
    pub(crate) fn get(&self, name: &str) -> u64 {
        self.board.get(name, Label::None)
    }

    /// Waits for its turn among those who share a budget, and until something of that is left. What follows up to the next wait is
    /// charged before the next has its turn, where it runs within [`Desk::metered`].
    pub(crate) async fn admit(&self, share: Share) {
        let gate = &self.gates[share.place()];
        // It fails only where the semaphore is closed, which nobody does.
        let _turn = gate.turn.acquire_permit(1).await;
        loop {
            let owed = gate.budget.borrow_mut().owes(Instant::now());
            match owed {
                Some(owed) => sleep(owed).await,
                None => return,
            }
        }
    }

    /// Charges what work uses of the processor to a budget.
    pub(crate) async fn metered<T>(&self, share: Share, work: impl Future<Output = T>) -> T {
        let mut work = std::pin::pin!(work);
        let budget = &self.gates[share.place()].budget;
        std::future::poll_fn(|cx| {
            let before = thread_time();
            let polled = work.as_mut().poll(cx);
            budget.borrow_mut().spend(thread_time().saturating_sub(before));
            polled
        })
        .await
    }

    /// Has the replica answer a question that a client asked, of whatever level. Those who change something do not wait behind these.
    pub(crate) async fn question(&self, order: Order) -> Result<Answer, Fault> {
        let permitted = self.questions.borrow_mut().take(Instant::now());
        if permitted.is_err() || self.asked.get() >= MAX_ORDERS / 2 {
            return Err(Fault::Busy);
        }
        self.asked.set(self.asked.get() + 1);
        let answer = self.own_order(order).await;
        self.asked.set(self.asked.get() - 1);
        answer
    }

    /// Has the replica carry out an order that a client gave.
    pub(crate) async fn order(&self, order: Order) -> Result<Answer, Fault> {
        let permitted = self.orders.borrow_mut().take(Instant::now());
        if permitted.is_err() {
            return Err(Fault::Busy);
        }
        self.own_order(order).await
    }

    /// The same for what the management itself wants.
    pub(crate) async fn own_order(&self, order: Order) -> Result<Answer, Fault> {
        let number = self.next_number.get();
        self.next_number.set(number + 1);
        let until = Instant::now() + ORDER;
        self.ring.give(number, order, until).map_err(|_| Fault::Busy)?;
        self.waiting.borrow_mut().insert(number);
        loop {
            // Once more at the end: this thread may have stood still longer than the replica.
            let is_over = Instant::now() >= until;
            while let Some((answered, answer)) = self.ring.answer() {
                // What came too late nobody waits for.
                if self.waiting.borrow().contains(&answered) {
                    self.answers.borrow_mut().insert(answered, answer);
                }
            }
            if let Some(answer) = self.answers.borrow_mut().remove(&number) {
                self.waiting.borrow_mut().remove(&number);
                return Ok(answer);
            }
            if is_over {
                break;
            }
            sleep(POLL).await;
        }
        self.waiting.borrow_mut().remove(&number);
        self.answers.borrow_mut().remove(&number);
        Err(Fault::Late)
    }

    /// Begins a change of settings; `None` where another is under way.
    pub(crate) fn change(&self) -> Option<Changing<'_>> {
        (!self.changing.replace(true)).then(|| Changing(&self.changing))
    }

    /// Brings back what was in force before the trial; `None` where the replica did so before, its time being over.
    pub(crate) async fn undo(&self) -> Result<Option<Vec<crate::trial::Difference>>, Fault> {
        let Some(_changing) = self.change() else { return Err(Fault::Busy) };
        if !self.trial.borrow().is_open() {
            return Ok(Some(Vec::new()));
        }
        let answer = self.own_order(Order::Undo).await?;
        Ok(match self.adopt(answer) {
            Outcome::Done(in_force) => Some(crate::trial::differences(&in_force.was, &in_force.settings)),
            _ => None,
        })
    }

    /// Takes over what an answer says of the settings in force.
    pub(crate) fn adopt(&self, answer: Answer) -> Outcome {
        let now_us = self.now_us();
        match answer {
            Answer::Settings(in_force) => {
                self.trial.borrow_mut().adopt(&in_force, now_us);
                Outcome::Done(in_force)
            }
            Answer::NothingOnTrial(in_force) => {
                self.trial.borrow_mut().adopt(&in_force, now_us);
                Outcome::NothingOnTrial
            }
            Answer::Refused(error) => Outcome::Refused(error.to_string()),
            _ => Outcome::Refused("the replica answered something else; this is a fault in Atlas".to_owned()),
        }
    }

    /// What runs.
    pub(crate) fn live(&self) -> Live {
        self.trial.borrow().running().clone()
    }

    /// The settings of `[local]` that run.
    pub(crate) fn running(&self) -> LocalConfig {
        self.trial.borrow().running().local.clone()
    }

    /// Notes what the replica counts of errors, with the time.
    pub(crate) async fn look_at_errors(&self) {
        let now = Instant::now();
        {
            let mut rates = self.rates.borrow_mut();
            rates.push_back((now, self.get("atlas_executed_requests")));
            if rates.len() > RATE_SECONDS + 1 {
                rates.pop_front();
            }
        }
        let Ok(Answer::Rows { rows, .. }) = self.own_order(Order::Counters).await else { return };
        let at_ms = wall_ms();
        let mut errors = self.errors.borrow_mut();
        for row in rows {
            let [name, count] = &row[..] else { continue };
            let count = count.parse().unwrap_or(0);
            if !is_error(name) || (errors.len() >= MAX_ERRORS && !errors.contains_key(name)) {
                continue;
            }
            let seen = errors.entry(name.clone()).or_insert(Seen { count: 0, first_ms: at_ms, last_ms: at_ms });
            if seen.count != count {
                (seen.count, seen.last_ms) = (count, at_ms);
            }
        }
    }

    /// Takes what the recorder has of the bundles that it follows since the last look.
    pub(crate) fn look_at_stages(&self) {
        // The replica's thread was the first to record.
        let Some(ring) = flight::flight().and_then(|flight| flight.rings().first().copied()) else { return };
        let (stages, next) = &mut *self.stages.borrow_mut();
        let mut words = Vec::new();
        let first = ring.read(*next, &mut words);
        *next = first + words.len() as u64;
        words
            .into_iter()
            .filter_map(|words| Event::of_words(words).ok().flatten())
            .for_each(|event| stages.feed(&event));
    }

    /// Requests executed in a second, over the last seconds.
    pub(crate) fn rate(&self) -> f64 {
        let rates = self.rates.borrow();
        let (Some((since, before)), Some((until, after))) = (rates.front(), rates.back()) else { return 0.0 };
        let seconds = until.saturating_duration_since(*since).as_secs_f64();
        if seconds > 0.0 { after.saturating_sub(*before) as f64 / seconds } else { 0.0 }
    }
}

/// Whether a counter counts something that should not be. The others count work.
fn is_error(name: &str) -> bool {
    let errors =
        ["refused.", "frames.", "links.ended.", "links.closed.", "misbehaviour.", "peers.", "transfer.stalled"];
    let single = ["log.full", "log.release.refused", "snapshots.no_room", "transfer.unreadable"];
    errors.iter().any(|prefix| name.starts_with(prefix)) || single.contains(&name)
}

/// The time, ms since 1970.
pub(crate) fn wall_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_gives_its_rate_and_no_more() {
        let mut bucket = Bucket::new(10.0);
        let start = bucket.at;
        let taken = (0..100).filter(|_| bucket.take(start).is_ok()).count();
        assert_eq!(taken, 10);
        assert!(bucket.take(start + Duration::from_millis(50)).is_err());
        assert!(bucket.take(start + Duration::from_millis(150)).is_ok());
        let after = start + Duration::from_secs(3_600);
        assert_eq!((0..100).filter(|_| bucket.take(after).is_ok()).count(), 10);
    }

    #[test]
    fn who_uses_more_of_the_processor_waits_until_it_is_the_part_that_it_may() {
        let mut budget = Budget::new(0.1);
        let start = budget.at;
        budget.spend(CPU_BURST);
        assert_eq!(budget.owes(start), None);
        budget.spend(Duration::from_millis(10));
        let owed = budget.owes(start).unwrap();
        assert!((owed.as_secs_f64() - 0.1).abs() < 1e-3, "{owed:?}");
        assert_eq!(budget.owes(start + owed + Duration::from_millis(1)), None);
    }

    #[test]
    fn work_is_no_error() {
        for (name, holds) in [
            ("refused.500", true),
            ("frames.malformed.client.Submit", true),
            ("history.certified", false),
            ("transfer.bytes", false),
            ("log.full", true),
        ] {
            assert_eq!(is_error(name), holds, "{name}");
        }
    }
}
