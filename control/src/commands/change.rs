//! Commands that change something. Each change is reported with who made it.

use std::rc::Rc;

use atlas_dataplane::cores;
use atlas_dataplane::flight::file::{self, Why};
use atlas_dataplane::flight::lines::{Level as LogLevel, level, say, set_level};
use atlas_dataplane::replica::oversight::{Answer, Change, Order};
use rustix::process::{Signal, getpid, kill_process};
use serde_json::Value;

use super::{fault, needs};
use crate::desk::{Desk, Fault, Outcome, wall_ms};
use crate::limits::{DUMP_EVERY, MAX_TRIAL_SECONDS};
use crate::log::audit;
use crate::protocol::Level;
use crate::reply::{Reply, Status, plain};
use crate::session::Session;
use crate::trial::{Difference, SetError, differences, parse, values};

fn refused(desk: &Desk, error: &SetError) -> Reply {
    if let SetError::Unknown { name, .. } = error
        && let Some((section, _)) = ["log", "net", "history"]
            .iter()
            .find_map(|section| name.strip_prefix(section)?.starts_with('.').then_some((section, ())))
    {
        let file = desk.facts.file.display();
        let text =
            format!("numbers of [{section}] take effect at the next start only: change them in {file}, then restart");
        return Reply::new(Status::CONFLICT, text);
    }
    Reply::new(Status::ARGUMENT, error.to_string())
}

fn another() -> Reply {
    Reply::new(Status::BUSY, "another change is under way; again in a moment")
}

/// Whether the host has the cores that a change names; another level of numbers needs no look.
fn check_cores(desk: &Desk, change: &Change) -> Result<(), Reply> {
    let Some(live) = change.of(&desk.live()).filter(|_| !matches!(change, Change::Number(..))) else { return Ok(()) };
    cores::check(&live.placement).map_err(|error| Reply::new(Status::ARGUMENT, error.to_string()))
}

pub(super) async fn set(desk: &Rc<Desk>, session: &Session, name: &str, value: &str) -> Reply {
    let (key, change) = match parse(name, value) {
        Ok(parsed) => parsed,
        Err(error) => return refused(desk, &error),
    };
    let Some(_changing) = desk.change() else { return another() };
    // The replica brings back what was before, and this side is about to learn it.
    if desk.trial.borrow().is_over(desk.now_us()) {
        return another();
    }
    let running = desk.live();
    if change.of(&running).is_some_and(|changed| changed == running) {
        return Reply::done(format!("{key} is {value} already"));
    }
    if let Err(refusal) = check_cores(desk, &change) {
        return refusal;
    }
    let for_us = desk.trial.borrow().time().as_micros() as u64;
    let in_force = match desk.order(Order::Try { change, for_us }).await {
        Ok(answer) => match desk.adopt(answer) {
            Outcome::Done(in_force) => in_force,
            Outcome::Refused(why) => return Reply::new(Status::CONFLICT, why),
            Outcome::NothingOnTrial => {
                return Reply::new(Status::FAILED, "the replica knows no such setting; this is a fault in Atlas");
            }
        },
        Err(Fault::Late) => {
            // The replica may have taken it all the same.
            desk.trial.borrow_mut().failed(desk.now_us());
            return Reply::new(
                Status::LATE,
                "the replica did not answer in time; whatever it did, what was in force before is brought back",
            );
        }
        Err(error) => return fault(error),
    };
    let Some(change) = differences(&in_force.was, &in_force.settings).into_iter().find(|change| change.name == key)
    else {
        return Reply::done(format!("{key} is {value} already"));
    };
    let seconds = desk.trial.borrow().time().as_secs();
    let (old, new) = (plain(&change.old), plain(&change.new));
    audit(&format!("{key} is {new}, and was {old}, on trial for {seconds} s: set by {}", session.who()));
    let before = in_force.before.as_ref().and_then(|(before, _)| values(before).find(|(name, _)| *name == key));
    let again = before.map_or_else(|| old.clone(), |(_, value)| plain(&value));
    let text = format!("{key} is {new}, and was {old}; it is {again} again in {seconds} s without `configure confirm`");
    Reply::new(Status::ON_TRIAL, text)
}

fn rows(changes: &[Difference]) -> Vec<Vec<Value>> {
    changes.iter().map(|change| vec![change.name.into(), change.old.clone(), change.new.clone()]).collect()
}

const CHANGE_COLUMNS: [&str; 3] = ["name", "before", "now"];

pub(super) fn check(desk: &Rc<Desk>) -> Reply {
    let trial = desk.trial.borrow();
    match trial.open(desk.now_us()) {
        None => Reply::done(format!("nothing is on trial; a change would be for {} s", trial.time().as_secs())),
        Some((changes, left)) => {
            let text = format!("on trial for {:.1} s yet", left.as_secs_f64());
            Reply::new(Status::ON_TRIAL, text).table(&CHANGE_COLUMNS, &rows(&changes), 0)
        }
    }
}

pub(super) fn would(desk: &Rc<Desk>, name: &str, value: &str) -> Reply {
    match parse(name, value) {
        Ok((key, change)) => match check_cores(desk, &change) {
            Ok(()) => Reply::done(format!("{key} = {value} would do, and take effect at once")),
            Err(refusal) => refusal,
        },
        Err(error) => refused(desk, &error),
    }
}

pub(super) async fn timeout(desk: &Rc<Desk>, session: &Session, seconds: &str) -> Reply {
    if let Some(refusal) = needs(Level::Operator, session) {
        return refusal;
    }
    let Some(number) = seconds.parse::<u64>().ok().filter(|number| (1..=MAX_TRIAL_SECONDS).contains(number)) else {
        return Reply::new(Status::ARGUMENT, format!("a whole number of seconds from 1 to {MAX_TRIAL_SECONDS}"));
    };
    let Some(_changing) = desk.change() else { return another() };
    let is_open = desk.trial.borrow().open(desk.now_us()).is_some();
    let old = desk.trial.borrow().time().as_secs();
    if is_open {
        match desk.order(Order::Extend(number * 1_000_000)).await {
            Ok(answer) => match desk.adopt(answer) {
                // Where the trial has just ended, the time is for those that follow.
                Outcome::Done(_) | Outcome::NothingOnTrial => {}
                Outcome::Refused(why) => return Reply::new(Status::FAILED, why),
            },
            Err(error) => return fault(error),
        }
    }
    desk.trial.borrow_mut().set_time(number);
    // Saying what is so already again and again fills no log.
    if old == number {
        return Reply::done(format!("changes are on trial for {number} s"));
    }
    audit(&format!("changes are on trial for {number} s: set by {}", session.who()));
    Reply::done(format!("changes are on trial for {number} s"))
}

fn nothing() -> Reply {
    Reply::new(Status::CONFLICT, "nothing is on trial")
}

fn over() -> Reply {
    Reply::new(Status::CONFLICT, "the trial is over: what was in force before is again")
}

pub(super) async fn confirm(desk: &Rc<Desk>, session: &Session) -> Reply {
    if let Some(refusal) = needs(Level::Operator, session) {
        return refusal;
    }
    let Some(_changing) = desk.change() else { return another() };
    if desk.trial.borrow().is_over(desk.now_us()) {
        return over();
    }
    let open = desk.trial.borrow().open(desk.now_us());
    let Some((changes, _)) = open else { return nothing() };
    match desk.order(Order::Keep).await {
        Ok(answer) => match desk.adopt(answer) {
            Outcome::Done(_) => {}
            Outcome::NothingOnTrial => return over(),
            Outcome::Refused(why) => return Reply::new(Status::FAILED, why),
        },
        Err(error) => return fault(error),
    }
    for Difference { name, new, .. } in &changes {
        audit(&format!("{name} stays {}: confirmed by {}", plain(new), session.who()));
    }
    Reply::done("what was on trial stays; `save` writes it into the file").table(&CHANGE_COLUMNS, &rows(&changes), 0)
}

pub(super) async fn undo(desk: &Rc<Desk>, session: &Session) -> Reply {
    if let Some(refusal) = needs(Level::Operator, session) {
        return refusal;
    }
    match desk.undo().await {
        Ok(None) => over(),
        Ok(Some(changes)) if changes.is_empty() => nothing(),
        Ok(Some(changes)) => {
            for Difference { name, new, .. } in &changes {
                audit(&format!("{name} is {} again: undone by {}", plain(new), session.who()));
            }
            Reply::done("what was before is again").table(&CHANGE_COLUMNS, &rows(&changes), 0)
        }
        Err(error) => fault(error),
    }
}

pub(super) fn save(desk: &Rc<Desk>, session: &Session) -> Reply {
    if desk.trial.borrow().is_open() {
        return Reply::new(Status::CONFLICT, "something is on trial: `configure confirm` or `configure undo` first");
    }
    match crate::save::save(&desk.facts.file, &desk.live()) {
        Ok(None) => Reply::done("the file has what runs already"),
        Ok(Some(old)) => {
            let (file, old) = (desk.facts.file.display(), old.display());
            audit(&format!("{file} has the settings that run, the old file is {old}: saved by {}", session.who()));
            Reply::done(format!("saved; the old file is {old}"))
        }
        Err(error) => Reply::new(Status::FAILED, format!("not saved: {error}")),
    }
}

pub(super) fn reset_latency(desk: &Rc<Desk>, session: &Session) -> Reply {
    if let Some(refusal) = needs(Level::Operator, session) {
        return refusal;
    }
    desk.look_at_stages();
    desk.stages.borrow_mut().0.reset();
    *desk.baseline.borrow_mut() = Some((desk.board.values(), wall_ms()));
    Reply::done("latencies are counted from now on")
}

/// Writes the flight recorder to a file of the run directory.
pub(super) fn dump(desk: &Rc<Desk>, session: &Session) -> Reply {
    let now = std::time::Instant::now();
    if desk.dumped.get().is_some_and(|at| now.duration_since(at) < DUMP_EVERY) {
        return Reply::new(Status::BUSY, "a recording was written a moment ago; again in a second");
    }
    desk.dumped.set(Some(now));
    match file::dump(&desk.facts.config.control.directory, Why::Asked, &format!("asked for by {}", session.who())) {
        Ok(path) => Reply::done(format!("written to {}: `atlas trace` shows it", path.display()))
            .fields(vec![("file", path.display().to_string().into())]),
        Err(error) => Reply::new(Status::FAILED, error.to_string()),
    }
}

pub(super) fn log_level(session: &Session, wanted: Option<&str>) -> Reply {
    let Some(wanted) = wanted else { return Reply::done(format!("log-level is {}", level())) };
    if let Some(refusal) = needs(Level::Operator, session) {
        return refusal;
    }
    let Some(new) = LogLevel::parse(wanted) else {
        return Reply::new(Status::ARGUMENT, "log-level is error, warn, info or debug");
    };
    let old = level();
    if old != new {
        set_level(new);
        // Told at every level, and limited like other lines: no order is behind it, whose number is limited.
        let line = format!("control: log-level is {new}, and was {old}: set by {}", session.who());
        say(LogLevel::Error, "control", &line);
    }
    Reply::done(format!("log-level is {new}"))
}

pub(super) async fn pause(desk: &Rc<Desk>, session: &Session, paused: bool) -> Reply {
    match desk.order(Order::Pause(paused)).await {
        Ok(_) => {
            let text = if paused { "clients' bundles are refused" } else { "clients' bundles are taken" };
            audit(&format!("{text}: by {}", session.who()));
            Reply::done(text)
        }
        Err(error) => fault(error),
    }
}

pub(super) async fn step_down(desk: &Rc<Desk>, session: &Session) -> Reply {
    match desk.order(Order::StepDown).await {
        Ok(Answer::Leaves(view)) => {
            audit(&format!("asks for view {view}: step-down by {}", session.who()));
            Reply::done(format!("asks for view {view}; `view` tells when it has begun"))
        }
        Ok(Answer::LeadsNot { view, leader }) => {
            Reply::new(Status::CONFLICT, format!("replica {leader} leads view {view}: ask it there"))
        }
        Ok(_) => Reply::new(Status::FAILED, "the replica answered something else; this is a fault in Atlas"),
        Err(error) => fault(error),
    }
}

pub(super) async fn checkpoint(desk: &Rc<Desk>, session: &Session) -> Reply {
    match desk.order(Order::Checkpoint).await {
        Ok(Answer::Checkpoint(sequence)) => {
            audit(&format!("fills up to the checkpoint at {sequence}: by {}", session.who()));
            Reply::done(format!(
                "the checkpoint is at sequence {sequence}; `status` tells when it is the low watermark"
            ))
        }
        Ok(Answer::LeadsNot { view, leader }) => {
            Reply::new(Status::CONFLICT, format!("replica {leader} leads view {view}: ask it there"))
        }
        Ok(_) => Reply::new(Status::FAILED, "the replica answered something else; this is a fault in Atlas"),
        Err(error) => fault(error),
    }
}

pub(super) fn shutdown(session: &Session) -> Reply {
    audit(&format!("ends: shutdown by {}", session.who()));
    match kill_process(getpid(), Signal::TERM) {
        Ok(()) => Reply::done("the replica ends"),
        Err(error) => Reply::new(Status::FAILED, format!("cannot signal the replica's own process: {error}")),
    }
}
