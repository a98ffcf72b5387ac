//! `atlas sim`: seeds through the simulated cluster ([`atlas_dataplane::sim`]).
//!
//! Seeds run on several threads and are told in their order, so that what is printed depends on the seeds alone; but for the
//! lines about time, and for how many seeds `--minutes` allows.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal, Write};
use std::num::NonZero;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::{Duration, Instant};

use atlas_dataplane::cluster::size::MIN_REPLICAS;
use atlas_dataplane::sim::{self, Failure, MAX_REPLICAS, Report, SimConfig, Total, TraceLine};
use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use rand_core::{OsRng, RngCore};
use serde::Serialize;

use super::error::CliError;
use super::interrupt::Interrupt;
use super::output::{Colour, Style, json_line};

/// The longest run: a week.
const MAX_MINUTES: f64 = 10_080.0;
/// The most threads.
const MAX_THREADS: i64 = 1_024;
/// The most operations a second: more would need more events than a run may have.
const MAX_RATE: i64 = 1_000;

/// Arguments of `atlas sim`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  atlas sim --minutes 10
  atlas sim --seeds 0..1000 --json
  atlas sim --seed 17 --last 100

A seed draws a whole run: size of the cluster, load, Byzantine replicas and clients, and the faults
of network, disks, clocks and processes. Real replicas go through it in virtual time; first with
faults, then without, when all must converge. Checkers of their own look at everything that leaves
a replica. The same seed is the same run, event by event: 'chain' is a hash over all of them. What
fails is printed with the command that replays it, and the exit code is 1.")]
pub struct SimArgs {
    /// Replay this seed and print every event
    #[arg(long, value_name = "N", conflicts_with_all = ["seeds", "minutes", "from", "threads"])]
    pub seed: Option<u64>,
    /// Run the seeds from A up to, but without, B
    #[arg(long, value_name = "A..B", value_parser = seeds, conflicts_with_all = ["minutes", "from"])]
    pub seeds: Option<Range<u64>>,
    /// Run seed after seed for so long, to the end of the last one [default: 1]
    #[arg(long, value_name = "M", value_parser = minutes)]
    pub minutes: Option<Duration>,
    /// With --minutes: the first seed [default: a random one]
    #[arg(long, value_name = "SEED")]
    pub from: Option<u64>,
    /// With --seed: print the draw and the last events only
    #[arg(long, value_name = "EVENTS", requires = "seed", conflicts_with_all = ["seeds", "minutes", "from"])]
    pub last: Option<usize>,
    /// Seeds at the same time [default: one for each core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=MAX_THREADS))]
    pub threads: Option<u16>,
    /// Replicas of every cluster, 4 to 16 [default: drawn]
    #[arg(long, value_name = "N",
          value_parser = clap::value_parser!(u8).range(MIN_REPLICAS as i64..=MAX_REPLICAS as i64))]
    pub replicas: Option<u8>,
    /// Have the clients ask for so many operations a second, for 20 simulated seconds [default: drawn]
    #[arg(long, value_name = "OPS", value_parser = clap::value_parser!(u16).range(1..=MAX_RATE))]
    pub rate: Option<u16>,
    /// Let the disks lose what they report synced: every seed must fail, which shows that the checkers work
    #[arg(long)]
    pub without_sync: bool,
    /// Print one JSON object for each seed (with --seed for each event, too) and one of totals
    #[arg(long)]
    pub json: bool,
}

fn seeds(text: &str) -> Result<Range<u64>, String> {
    let ends = text.split_once("..").and_then(|(first, end)| Some((first.parse().ok()?, end.parse().ok()?)));
    match ends {
        Some((first, end)) if first < end => Ok(first..end),
        _ => Err("two numbers as A..B, A below B".to_owned()),
    }
}

fn minutes(text: &str) -> Result<Duration, String> {
    match text.parse::<f64>() {
        Ok(minutes) if minutes > 0.0 && minutes <= MAX_MINUTES => Ok(Duration::from_secs_f64(60.0 * minutes)),
        _ => Err(format!("a number of minutes above 0 and up to {MAX_MINUTES}")),
    }
}

type Ended = Result<Report, Box<Failure>>;

impl SimArgs {
    fn config(&self, seed: u64) -> SimConfig {
        SimConfig {
            replicas: self.replicas.map(usize::from),
            rate: self.rate.map(u32::from),
            skip_syncs: self.without_sync,
            ..SimConfig::new(seed)
        }
    }

    /// What replays a seed of this command.
    fn replay(&self, seed: u64) -> String {
        let mut command = format!("atlas sim --seed {seed}");
        command += &self.replicas.map_or(String::new(), |n| format!(" --replicas {n}"));
        command += &self.rate.map_or(String::new(), |rate| format!(" --rate {rate}"));
        command + if self.without_sync { " --without-sync" } else { "" }
    }
}

/// How a seed ended, as JSON.
#[derive(Serialize)]
struct SeedResult<'a> {
    seed: u64,
    /// What did not hold; null where everything did.
    failed: Option<&'a str>,
    /// When, us of virtual time.
    failed_at_us: Option<u64>,
    replay: String,
    #[serde(flatten)]
    report: &'a Report,
}

/// The totals, as JSON.
#[derive(Serialize)]
struct Totals<'a> {
    /// The first seed; the others follow it.
    first_seed: u64,
    /// Real time, s.
    seconds: f64,
    seeds_per_s: f64,
    /// Simulated seconds in one second.
    simulated_per_s: f64,
    threads: u16,
    #[serde(flatten)]
    total: &'a Total,
}

/// `atlas sim`.
///
/// # Errors
/// A seed failed, or a signal came before all seeds were through.
pub fn sim(args: &SimArgs, out: &mut impl Write, style: Style) -> Result<(), CliError> {
    match args.seed {
        Some(seed) => replay(args, seed, out, style),
        None => many(args, out, style),
    }
}

fn replay(args: &SimArgs, seed: u64, out: &mut impl Write, style: Style) -> Result<(), CliError> {
    let (config, begun) = (args.config(seed), Instant::now());
    let mut written = Ok(());
    let mut line = |line: &TraceLine| match written {
        Ok(()) if args.json => written = json_line(out, line),
        Ok(()) => written = writeln!(out, "{line}"),
        // The run goes on to its end, which counts also where nobody reads.
        Err(_) => {}
    };
    let ended = match args.last {
        None => sim::replay(config, &mut |event| line(&event)),
        Some(last) => {
            sim::last_events(config, last).iter().for_each(line);
            sim::run(config)
        }
    };
    written?;
    let mut total = Total::default();
    total.add(seed, &ended);
    told(args, seed, &ended, out, style)?;
    if !args.json {
        let report = ended.as_ref().unwrap_or_else(|failure| &failure.report);
        let end = if report.converged { "converged" } else { "not converged" };
        writeln!(out, "seed {seed}: chain {:016x}, {} events, {end}", report.chain, report.events)?;
    }
    print_total(args, seed, &total, begun.elapsed(), 1, out)?;
    match ended {
        Ok(_) => Ok(()),
        Err(failure) => Err(CliError::Failed(failure.to_string())),
    }
}

fn many(args: &SimArgs, out: &mut impl Write, style: Style) -> Result<(), CliError> {
    let interrupt = Interrupt::install()?;
    let cores = thread::available_parallelism().map_or(1, NonZero::get);
    let threads = args.threads.unwrap_or(u16::try_from(cores).unwrap_or(u16::MAX));
    let begun = Instant::now();
    let (range, deadline) = match &args.seeds {
        Some(range) => (range.clone(), None),
        None => {
            let first = args.from.unwrap_or_else(|| u64::from(OsRng.next_u32()));
            (first..u64::MAX, Some(begun + args.minutes.unwrap_or(Duration::from_secs(60))))
        }
    };
    let first = range.start;
    if !args.json && deadline.is_some() {
        writeln!(out, "seeds from {first}")?;
        out.flush()?;
    }
    let bar = progress(args, deadline.is_none().then(|| range.end - range.start));
    let (sender, ended) = mpsc::channel();
    let queue = Queue { first, next: AtomicU64::new(first), end: range.end, deadline, interrupt: &interrupt };
    let mut telling = Telling { args, style, bar: &bar, total: Total::default(), failed: Vec::new() };
    thread::scope(|scope| {
        for _ in 0..threads {
            let (sender, queue) = (sender.clone(), &queue);
            scope.spawn(move || queue.work(args, &sender));
        }
        drop(sender);
        let told = telling.tell_all(first, &ended, out);
        if told.is_err() {
            queue.close();
        }
        told
    })?;
    bar.finish_and_clear();
    let Telling { total, failed, .. } = telling;
    print_total(args, first, &total, begun.elapsed(), threads, out)?;
    if let Some(seed) = failed.first() {
        return Err(CliError::Failed(format!(
            "{} of {} seeds failed; to replay the first: {}",
            failed.len(),
            total.seeds,
            args.replay(*seed)
        )));
    }
    if interrupt.is_set() {
        return Err(CliError::Failed(format!("interrupted after {} seeds", total.seeds)));
    }
    Ok(())
}

/// The seeds that are still to be run.
struct Queue<'a> {
    first: u64,
    next: AtomicU64,
    end: u64,
    deadline: Option<Instant>,
    interrupt: &'a Interrupt,
}

impl Queue<'_> {
    /// The next seed; the first even where there is no time for it.
    fn take(&self) -> Option<u64> {
        let late = self.deadline.is_some_and(|deadline| Instant::now() >= deadline);
        if self.interrupt.is_set() {
            return None;
        }
        let seed = self.next.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |next| {
            (next < self.end && !(late && next > self.first)).then(|| next + 1)
        });
        seed.ok()
    }

    fn close(&self) {
        self.next.store(self.end, Ordering::Relaxed);
    }

    fn work(&self, args: &SimArgs, sender: &Sender<(u64, Ended)>) {
        while let Some(seed) = self.take() {
            if sender.send((seed, sim::run(args.config(seed)))).is_err() {
                return;
            }
        }
    }
}

/// Tells how seeds ended, in their order.
struct Telling<'a> {
    args: &'a SimArgs,
    style: Style,
    bar: &'a ProgressBar,
    total: Total,
    failed: Vec<u64>,
}

impl Telling<'_> {
    fn tell_all(&mut self, first: u64, ended: &Receiver<(u64, Ended)>, out: &mut impl Write) -> io::Result<()> {
        // Seeds that were quicker than one before them; as many as threads pass in the time of the slowest seed.
        let (mut early, mut next) = (BTreeMap::new(), first);
        for (seed, result) in ended {
            early.insert(seed, result);
            while let Some(result) = early.remove(&next) {
                self.total.add(next, &result);
                if result.is_err() {
                    self.failed.push(next);
                }
                if result.is_err() || self.args.json {
                    self.bar.suspend(|| told(self.args, next, &result, out, self.style).and_then(|()| out.flush()))?;
                }
                next += 1;
            }
            self.bar.set_position(self.total.seeds);
            self.bar.set_message(format!("{} seeds, {} failed", self.total.seeds, self.failed.len()));
        }
        Ok(())
    }
}

/// Prints how a seed ended: as JSON, or for people where it failed.
fn told(args: &SimArgs, seed: u64, ended: &Ended, out: &mut impl Write, style: Style) -> io::Result<()> {
    let (report, failure) = match ended {
        Ok(report) => (report, None),
        Err(failure) => (&failure.report, Some(failure)),
    };
    if args.json {
        let (failed, failed_at_us) =
            (failure.map(|failure| failure.what.as_str()), failure.map(|failure| failure.at_us));
        return json_line(out, &SeedResult { seed, failed, failed_at_us, replay: args.replay(seed), report });
    }
    let Some(failure) = failure else { return Ok(()) };
    writeln!(out, "{} {failure}", style.paint(Colour::Red, "FAILED"))?;
    writeln!(out, "  chain {:016x} after {} events; replay with: {}", report.chain, report.events, args.replay(seed))
}

fn print_total(
    args: &SimArgs,
    first_seed: u64,
    total: &Total,
    took: Duration,
    threads: u16,
    out: &mut impl Write,
) -> io::Result<()> {
    if !args.json {
        return write!(out, "{}", total.words(Some(took)));
    }
    let seconds = took.as_secs_f64().max(1e-9);
    let (seeds_per_s, simulated_per_s) = (total.seeds as f64 / seconds, total.simulated_us as f64 / 1e6 / seconds);
    json_line(out, &Totals { first_seed, seconds, seeds_per_s, simulated_per_s, threads, total })
}

/// A line that counts seeds, of `seeds` if that is known, where somebody sees it.
fn progress(args: &SimArgs, seeds: Option<u64>) -> ProgressBar {
    let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
    let live = io::stderr().is_terminal() && !dumb && !args.json;
    let target = if live { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let bar = ProgressBar::with_draw_target(seeds, target);
    let template = if seeds.is_some() { "[{bar:40}] {msg} of {len}, {elapsed}" } else { "{spinner} {msg}, {elapsed}" };
    // The templates are constants; indicatif's own stands in should one not be right.
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("=> "));
    }
    bar
}
