//! The story itself, scene by scene.

use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use atlas_dataplane::client::RequestResult;
use atlas_dataplane::cluster::init::OPERATOR;
use atlas_dataplane::types::Code;

use super::data::{LA_HAUTE_BORNE, Row, parse};
use super::farm::{Farm, REPLICAS};
use super::liar::Lie;
use super::meter::{Phase, ms};
use super::plan::{self, Event, Schedule, Step, Trip, Watch};
use super::screen::{Screen, Shown, clock};
use super::verdict::Verdict;
use crate::cli::error::CliError;
use crate::cli::interrupt::Interrupt;
use crate::cli::output::{Colour, Style, agreed_time, origin_name, printable};
use crate::cli::time::format_ns;
use crate::twin::operation::Operation;
use crate::twin::query::{ChangeSet, PropertyChange};
use crate::twin::value::Value;

/// How long the replicas have to say where they are while one of them comes back.
const GLANCE: Duration = Duration::from_millis(20);

/// A replica's absence.
pub(super) struct Absence {
    pub(super) replica: usize,
    /// How long the first operations after its death took.
    pub(super) failover: Option<Duration>,
    /// When it was started again.
    started: Option<Instant>,
    /// How long after that it was where the others were.
    pub(super) back: Option<Duration>,
    /// The history that it had executed when it was killed.
    size: u64,
    /// The fewest operations that must be done without it.
    pub(super) due: usize,
}

/// The world, the screen, and what was found.
pub(super) struct Story<'a, W: Write> {
    pub(super) farm: Farm,
    pub(super) screen: Screen<'a, W>,
    pub(super) verdict: Verdict,
    pub(super) absence: Option<Absence>,
    pub(super) lie: Option<Lie>,
    pub(super) refused: usize,
    pub(super) commands: usize,
}

/// How it is told.
pub(super) struct Setting<'a> {
    /// The cluster's directory, which does not exist or is empty.
    pub(super) dir: &'a Path,
    /// It stays.
    pub(super) kept: bool,
    /// Time for a step; none is as fast as the cluster goes.
    pub(super) pace: Duration,
    /// Ends it early.
    pub(super) interrupt: &'a Interrupt,
}

/// Tells it all; see [`super::demo`].
pub(super) fn tell<W: Write>(setting: &Setting<'_>, out: &mut W, style: Style) -> Result<(), CliError> {
    let rows = parse(LA_HAUTE_BORNE).map_err(|error| CliError::failed("the wind farm's data", error))?;
    let steps = plan::steps(&rows);
    let mut screen = Screen::new(out, style, steps.len());
    screen.title("A storm day at the wind farm La Haute Borne, 31 March 2015, on four replicas")?;
    screen
        .line("The measurements are real: four turbines, means over ten minutes. The states, the operator's command")?;
    screen.line("and the interlock are this demonstration's own.")?;
    let started = Instant::now();
    let farm = Farm::start(setting.dir, setting.interrupt)?;
    let verdict = Verdict::default();
    let mut story = Story { farm, screen, verdict, absence: None, lie: None, refused: 0, commands: 0 };
    story.introduce(setting, started.elapsed())?;
    let replay = Instant::now();
    story.replay(&rows, &steps, setting.pace)?;
    let took = replay.elapsed();
    story.finish(&rows, took, setting)
}

impl<W: Write> Story<'_, W> {
    fn introduce(&mut self, setting: &Setting<'_>, took: Duration) -> Result<(), CliError> {
        let pids: Vec<String> =
            (0..REPLICAS).filter_map(|replica| self.farm.pid(replica)).map(|pid| pid.to_string()).collect();
        let (pids, seconds) = (pids.join(", "), took.as_secs_f64());
        self.screen
            .line(&format!("{REPLICAS} replica processes serve on 127.0.0.1 after {seconds:.1} s (pids {pids})."))?;
        let fate = if setting.kept { "kept" } else { "removed at the end" };
        self.screen.line(&format!("Their keys, logs and history are in {}, {fate}.", setting.dir.display()))?;
        self.screen.title("The day, replayed: each row a signed operation of the identity \"gateway\"")?;
        self.screen
            .line("Each line is read back from the store, where two replicas must answer alike, at the entry named.")?;
        self.screen.line(
            "Commit: from signing to two equal replies, when three replicas or more have it on disk; p50/p99 so far.",
        )?;
        Ok(())
    }

    fn replay(&mut self, rows: &[Row<'_>], steps: &[Step<'_>], pace: Duration) -> Result<(), CliError> {
        let schedule = Schedule::of(steps.len());
        let mut watch = Watch::default();
        self.declare_running(rows, steps)?;
        for (index, step) in steps.iter().enumerate() {
            let due = Instant::now() + pace;
            if index == schedule.kill {
                let missed = steps.get(index..schedule.restart).unwrap_or_default();
                self.kill(step.time_ns, missed.iter().map(|step| step.rows.len()).sum())?;
            }
            if index == schedule.restart {
                self.restart(step.time_ns)?;
            }
            if index == schedule.lie {
                self.begin_lie(step.time_ns)?;
            }
            if index == schedule.truth {
                self.end_lie(step.time_ns)?;
            }
            let operations: Vec<Operation> = step.rows.iter().map(plan::measurement).collect();
            let written = Instant::now();
            self.farm.write(&operations)?;
            self.note_failover(written.elapsed())?;
            let events = watch.look(*step);
            self.show(step.time_ns, !events.is_empty())?;
            for event in events {
                match event {
                    Event::Tripped(trip) => {
                        self.trip(&trip)?;
                        self.operate(&trip)?;
                        self.screen.title("The day goes on")?;
                    }
                    Event::RunsAgain(turbine, power) => self.runs_again(&turbine, power, step.time_ns)?,
                }
            }
            self.look_for_the_absent()?;
            self.farm.wait_until(due)?;
        }
        Ok(())
    }

    fn show(&mut self, time_ns: i64, matters: bool) -> Result<(), CliError> {
        let (twins, size) = self.farm.twins()?;
        let shown = Shown::new(time_ns, &twins, size, self.farm.meter.all());
        Ok(self.screen.step(&shown, matters)?)
    }

    /// The invented property that the interlock looks at, for every turbine.
    fn declare_running(&mut self, rows: &[Row<'_>], steps: &[Step<'_>]) -> Result<(), CliError> {
        let turbines: std::collections::BTreeSet<&str> = rows.iter().map(|row| row.turbine).collect();
        let first = steps.first().map_or(0, |step| step.time_ns);
        let declare = |turbine| plan::state(turbine, plan::RUNNING, first, "the demonstration begins");
        let operations: Vec<Operation> = turbines.into_iter().map(declare).collect();
        self.farm.write(&operations).map(drop)
    }

    fn trip(&mut self, trip: &Trip) -> Result<(), CliError> {
        let Trip { turbine, power, power_before, pitch, wind, others, .. } = trip;
        self.screen.title(&format!("{} UTC: turbine {turbine} trips", clock(trip.time_ns)))?;
        self.screen.line(&format!(
            "A rule found it in the data: {power_before:.0} kW ten minutes before, {power:.0} kW now, blades at {pitch:.0} degrees in"
        ))?;
        self.screen.line(&format!(
            "{wind:.1} m/s of wind, while the others make {others:.0} kW on average. Asked back from the store with a"
        ))?;
        let twin = plan::twin(turbine);
        self.screen.line(&format!("history query on {twin}, newest first:"))?;
        let sets = self.farm.history(&twin, None, 2 * super::data::COLUMNS.len())?;
        self.show_history(&sets)?;
        let gateway = self.farm.gateway_key()?;
        let measured = |property: &str, value: f64| {
            let is = |change: &PropertyChange| {
                change.property == property
                    && change.value == Some(Value::F64(value))
                    && change.source_time_ns == Some(trip.time_ns)
            };
            sets.first().is_some_and(|set| set.origin == gateway && set.changes.iter().any(is))
        };
        let holds = measured("power", *power) && measured("pitch", *pitch) && measured("wind_speed", *wind);
        let found = sets.first().map_or("nothing".to_owned(), |set| format!("at {}", set.position));
        self.verdict.add(
            holds,
            format!("the trip of {turbine} is in the history as it was measured, by the gateway"),
            found,
        );
        Ok(())
    }

    fn show_history(&mut self, sets: &[ChangeSet]) -> Result<(), CliError> {
        let mut rows = Vec::new();
        for set in sets {
            let told =
                set.changes.iter().filter(|change| ["power", "pitch", "wind_speed"].contains(&&*change.property));
            rows.extend(told.map(|change| {
                vec![
                    set.position.to_string(),
                    origin_name(self.farm.cluster(), &set.origin),
                    printable(&change.property),
                    change.value.as_ref().map_or_else(|| "-".to_owned(), Value::to_string),
                    change.source_time_ns.map_or_else(|| "-".to_owned(), format_ns),
                    agreed_time(set.time_ms),
                ]
            }));
        }
        let columns = ["POSITION", "WHO", "PROPERTY", "VALUE", "MEASURED AT", "AGREED AT"];
        Ok(self.screen.table(&columns, &rows)?)
    }

    /// The operator's command, while the turbine does not stand and once it does.
    fn operate(&mut self, trip: &Trip) -> Result<(), CliError> {
        let turbine = trip.turbine.as_str();
        let tell = |state, reason| plan::state(turbine, state, trip.time_ns, reason);
        self.screen.title("An operator wants it back: brake released, only if the rotor stands")?;
        self.farm.write(&[tell(plan::STOPPING, "tripped: no power, blades out of the wind")])?;
        self.screen
            .line("The gateway has set state = stopping (invented, like brake and restart). The operator signs:")?;
        self.screen.line(&format!("  {}", plan::release_typed(turbine)))?;
        let refused = self.command(turbine)?;
        let twin = plan::twin(turbine);
        let untouched = self.is_unknown(&twin, plan::BRAKE)?;
        let was_refused = refused.code == Code::CONDITION_FAILED && untouched;
        if refused.code != Code::DONE {
            self.screen.line("The refusal is an entry of the agreed history like any other; nothing else changed.")?;
        }
        let what = format!("the command was refused while {turbine} did not stand, and changed nothing");
        self.verdict.add(was_refused, what, format!("{} at {}", refused.code, refused.position));
        let stopped = self.farm.write(&[tell(plan::STOPPED, "the rotor stands")])?;
        let at = stopped.first().map(|result| result.position.to_string()).unwrap_or_default();
        self.screen.line(&format!("The gateway sets state = stopped at {at}. The same command again:"))?;
        let done = self.command(turbine)?;
        let sets = self.farm.history(&twin, Some(plan::BRAKE), 2)?;
        let is_only = sets.len() == 1
            && sets.first().is_some_and(|set| {
                set.position == done.position && origin_name(self.farm.cluster(), &set.origin) == OPERATOR
            });
        let what = format!("the same command was carried out once {turbine} stood");
        self.verdict.add(done.code == Code::DONE && is_only, what, format!("{} at {}", done.code, done.position));
        Ok(())
    }

    fn command(&mut self, turbine: &str) -> Result<RequestResult, CliError> {
        let result = self.farm.command(&plan::release(turbine))?;
        self.commands += 1;
        if result.code == Code::DONE {
            self.screen.coloured(Colour::Green, &format!("  done at position {}", result.position))?;
        } else {
            self.refused += 1;
            let (code, detail) = (result.code, printable(&result.detail));
            self.screen
                .coloured(Colour::Red, &format!("  refused at position {}: {code}: {detail}", result.position))?;
        }
        Ok(result)
    }

    /// Whether a property was never written.
    fn is_unknown(&mut self, twin: &str, property: &str) -> Result<bool, CliError> {
        match self.farm.history(twin, Some(property), 1) {
            Err(CliError::Refused { code: Code::UNKNOWN_PROPERTY, .. }) => Ok(true),
            Err(error) => Err(error),
            Ok(sets) => Ok(sets.is_empty()),
        }
    }

    fn runs_again(&mut self, turbine: &str, power: f64, time_ns: i64) -> Result<(), CliError> {
        self.farm.write(&[plan::state(turbine, plan::RUNNING, time_ns, "produces again")])?;
        let text = format!("{} UTC: {turbine} runs again and makes {power:.0} kW", clock(time_ns));
        Ok(self.screen.coloured(Colour::Green, &text)?)
    }

    fn kill(&mut self, time_ns: i64, due: usize) -> Result<(), CliError> {
        let said = self.farm.status(Duration::from_secs(2))?;
        let leader = said.iter().flatten().map(|status| usize::from(status.leader)).next();
        let replica = leader.unwrap_or(0);
        let size = said.get(replica).and_then(Option::as_ref).map_or(0, |status| status.size);
        let pid = self.farm.kill(replica)?;
        self.farm.phase = Phase::Down;
        self.absence = Some(Absence { replica, failover: None, started: None, back: None, size, due });
        self.screen.title(&format!("{} UTC: kill -9 {pid}, which is replica {replica}, the leader", clock(time_ns)))?;
        let before = self.farm.meter.of(Phase::Before);
        self.screen.line(&format!("With all four: {} operations, commit {before}.", before.count))?;
        self.screen.line(
            "Three of four are a quorum: they notice, agree on how far things were, and another one leads. The fast",
        )?;
        self.screen.line("commit needs all four votes, so every operation takes one more round of votes now.")?;
        Ok(())
    }

    /// The first operations after the leader's death waited for the next leader.
    fn note_failover(&mut self, took: Duration) -> Result<(), CliError> {
        let Some(absence) = self.absence.as_mut().filter(|absence| absence.failover.is_none()) else { return Ok(()) };
        absence.failover = Some(took);
        let text = format!("ordered again: the next operations took {} ms", ms(took.as_micros() as u64));
        Ok(self.screen.coloured(Colour::Green, &text)?)
    }

    fn restart(&mut self, time_ns: i64) -> Result<(), CliError> {
        let Some(absence) = &mut self.absence else { return Ok(()) };
        let replica = absence.replica;
        self.farm.restart(replica)?;
        absence.started = Some(Instant::now());
        self.screen
            .title(&format!("{} UTC: replica {replica} starts again, from what its disk has", clock(time_ns)))?;
        let down = self.farm.meter.of(Phase::Down);
        Ok(self.screen.line(&format!("Without it: {} operations, commit {down}.", down.count))?)
    }

    /// Looks whether the replica that was started again is where the others are.
    pub(super) fn look_for_the_absent(&mut self) -> Result<(), CliError> {
        let Some(Absence { replica, started: Some(started), back: None, size, .. }) = self.absence else {
            return Ok(());
        };
        let said = self.farm.status(GLANCE)?;
        let Some(status) = said.get(replica).and_then(Option::as_ref) else { return Ok(()) };
        if status.size <= self.farm.last.entry {
            return Ok(());
        }
        let took = started.elapsed();
        if let Some(absence) = &mut self.absence {
            absence.back = Some(took);
        }
        self.farm.phase = Phase::Back;
        let (was, is, took) = (size.saturating_sub(1), status.size.saturating_sub(1), ms(took.as_micros() as u64));
        let text = format!(
            "replica {replica} is back after {took} ms: killed at entry {was}, now at entry {is} like the others"
        );
        Ok(self.screen.coloured(Colour::Green, &text)?)
    }
}
