//! The commands: one table says what there is, who may do it, and how it is used.

mod change;
mod show;

use std::rc::Rc;
use std::time::Instant;

use atlas_dataplane::flight::{self, Kind};
use serde_json::Value;

use crate::desk::{Desk, Fault};
use crate::limits::SHOWN_EVERY;
use crate::protocol::Level;
use crate::reply::{Reply, Status};
use crate::session::Session;
use crate::trial::closest;

/// A command.
pub(crate) struct Command {
    pub(crate) name: &'static str,
    usage: &'static str,
    /// The least level that may do it.
    level: Level,
    /// Whether it needs `expert-mode on`.
    expert: bool,
    help: &'static str,
}

const fn command(name: &'static str, usage: &'static str, level: Level, help: &'static str) -> Command {
    Command { name, usage, level, expert: false, help }
}

const fn expert(name: &'static str, help: &'static str) -> Command {
    Command { name, usage: name, level: Level::Admin, expert: true, help }
}

/// Every command, in the order of `help`.
pub(crate) const COMMANDS: &[Command] = &[
    command("help", "help [COMMAND]", Level::Viewer, "What there is, or how a command is used."),
    command("status", "status", Level::Viewer, "How the replica is, in short."),
    command("replicas", "replicas", Level::Viewer, "The replicas of the cluster, and what this one sees of them."),
    command("view", "view", Level::Viewer, "The view, its leader, and why leaders were left."),
    command("log", "log", Level::Viewer, "The log: what is staged and durable, its size, how long syncs take."),
    command("sessions", "sessions", Level::Viewer, "Clients' sessions in the replicated table, and their limits."),
    command("clients", "clients", Level::Viewer, "Identities with connections here."),
    command("evidence", "evidence", Level::Viewer, "What other replicas did that no correct one does."),
    command("queues", "queues", Level::Viewer, "What waits where, and its limits."),
    command(
        "cores",
        "cores",
        Level::Viewer,
        "The threads of the process: where each may run, what it uses, what runs on it; and what the replica's rounds are spent on.",
    ),
    command(
        "latency",
        "latency [reset]",
        Level::Viewer,
        "Times of commits, waits, syncs and rounds since the start or the last reset. `latency reset` (operator) begins anew; metrics keep theirs.",
    ),
    command(
        "errors",
        "errors",
        Level::Viewer,
        "What was counted that should not be, with the times of the first and last, to the second.",
    ),
    command(
        "config",
        "config",
        Level::Viewer,
        "Every local setting: in the file, as it runs, and from when the file's holds.",
    ),
    command(
        "params",
        "params [NAME]",
        Level::Viewer,
        "Every setting with default, bounds, unit, when a change takes effect, and what it does.",
    ),
    command(
        "set",
        "set NAME VALUE",
        Level::Operator,
        "Changes a number of [local], core or helper_cores at once, on trial: it is undone by itself unless `configure confirm` comes in time.",
    ),
    command(
        "configure",
        "configure check [NAME VALUE] | timeout SECONDS | confirm | undo",
        Level::Viewer,
        "check: what is on trial, or whether a change would do. Operator: timeout: how long trials take, the open one too; confirm: keeps what \
         is on trial; undo: brings back what was before.",
    ),
    command(
        "log-level",
        "log-level [error|warn|info|debug]",
        Level::Viewer,
        "Up to which level lines are printed. Operator: changes it, until the next start.",
    ),
    command(
        "dump",
        "dump",
        Level::Operator,
        "Writes what the flight recorder holds to a file in the run directory, for `atlas trace`. The newest 8 stay.",
    ),
    command(
        "save",
        "save",
        Level::Admin,
        "Writes the settings that run into the replica's file; the old one stays as NAME.old.",
    ),
    command(
        "pause",
        "pause",
        Level::Operator,
        "Refuses clients' new bundles with UNAVAILABLE (501). What was taken is finished, and voting goes on.",
    ),
    command("resume", "resume", Level::Operator, "Takes clients' bundles again."),
    command(
        "checkpoint",
        "checkpoint",
        Level::Operator,
        "As leader fills up with empty batches to the next checkpoint, so that a restart has little to read and the log gets short.",
    ),
    expert("step-down", "As leader asks for the next view, so that another leads."),
    expert("shutdown", "Ends the replica cleanly, as SIGTERM does: staged records are written, within 5 s."),
    command("expert-mode", "expert-mode on|off", Level::Admin, "Permits this connection the commands that need it."),
    command("json", "json on|off", Level::Viewer, "Whether answers' lines are one JSON object."),
    command("prompt", "prompt [off]", Level::Viewer, "Shows a prompt behind each line's answers."),
    command("quit", "quit", Level::Viewer, "Ends this connection."),
];

/// Carries out a command.
pub(crate) async fn run(desk: &Rc<Desk>, session: &mut Session, text: &str) -> Reply {
    let words: Vec<&str> = text.split_whitespace().collect();
    let Some((name, arguments)) = words.split_first() else {
        return Reply::new(Status::UNKNOWN, "no command");
    };
    let Some(command) = COMMANDS.iter().find(|command| command.name == *name) else {
        return unknown(name);
    };
    if let Some(refusal) = refusal(command, session) {
        return refusal;
    }
    record(desk, session, command, arguments);
    match (command.name, arguments) {
        ("help", []) => all_help(session.level),
        ("help", [name]) => help(name),
        ("status", []) => show::status(desk),
        ("replicas", []) => show::replicas(desk),
        ("view", []) => show::view(desk),
        ("log", []) => show::log(desk),
        ("sessions", []) => show::sessions(desk),
        ("clients", []) => show::clients(desk).await,
        ("evidence", []) => show::evidence(desk).await,
        ("queues", []) => show::queues(desk),
        ("latency", []) => show::latency(desk),
        ("latency", ["reset"]) => change::reset_latency(desk, session),
        ("errors", []) => show::errors(desk),
        ("config", []) => show::config(desk),
        ("params", []) => show::params(desk, None),
        ("params", [name]) => show::params(desk, Some(name)),
        ("set", [name, value]) => change::set(desk, session, name, value).await,
        ("configure", ["check"]) => change::check(desk),
        ("configure", ["check", name, value]) => change::would(desk, name, value),
        ("configure", ["timeout", seconds]) => change::timeout(desk, session, seconds).await,
        ("configure", ["confirm"]) => change::confirm(desk, session).await,
        ("configure", ["undo"]) => change::undo(desk, session).await,
        ("cores", []) => show::cores(desk),
        ("log-level", []) => change::log_level(session, None),
        ("log-level", [level]) => change::log_level(session, Some(level)),
        ("dump", []) => change::dump(desk, session),
        ("save", []) => change::save(desk, session),
        ("pause", []) => change::pause(desk, session, true).await,
        ("resume", []) => change::pause(desk, session, false).await,
        ("checkpoint", []) => change::checkpoint(desk, session).await,
        ("step-down", []) => change::step_down(desk, session).await,
        ("shutdown", []) => change::shutdown(session),
        ("expert-mode", [state]) => switch(state, &mut session.expert, "expert-mode"),
        ("json", [state]) => switch(state, &mut session.json, "json"),
        ("prompt", []) => switch("on", &mut session.prompt, "prompt"),
        ("prompt", [state]) => switch(state, &mut session.prompt, "prompt"),
        ("quit", []) => {
            session.ends = true;
            Reply::new(Status::BYE, "bye")
        }
        _ => Reply::new(Status::ARGUMENT, format!("usage: {}", command.usage)),
    }
}

/// Notes a command in the flight recorder: one that changes something by itself, those that show something by their number, so that who looks
/// at things all the time pushes out nothing.
fn record(desk: &Desk, session: &Session, command: &Command, arguments: &[&str]) {
    let by = [session.level as u64, u64::from(session.uid)];
    let of_operators = match (command.name, arguments) {
        ("configure", [what, ..]) => *what != "check",
        ("latency" | "log-level", [_, ..]) => true,
        _ => false,
    };
    if command.level > Level::Viewer || (of_operators && session.level > Level::Viewer) {
        return flight::note(Kind::Command, [by[0], by[1], flight::event::word(command.name)]);
    }
    if let Some(count) = desk.shown.borrow_mut().count(Instant::now()) {
        flight::note(Kind::CommandsShown, [by[0], by[1], count]);
    }
}

/// Commands that showed something and are in no event yet.
#[derive(Debug, Default)]
pub(crate) struct ShownCount {
    count: u64,
    told: Option<Instant>,
}

impl ShownCount {
    /// One more; how many there are, where it is time to tell.
    fn count(&mut self, now: Instant) -> Option<u64> {
        self.count += 1;
        let is_due = self.told.is_none_or(|at| now.saturating_duration_since(at) >= SHOWN_EVERY);
        is_due.then(|| {
            self.told = Some(now);
            std::mem::take(&mut self.count)
        })
    }
}

/// Why a session may not do something that another level may.
pub(crate) fn needs(level: Level, session: &Session) -> Option<Reply> {
    let text = format!("level {} may not; level {level} may: use {}", session.level, level.socket());
    (session.level < level).then(|| Reply::new(Status::LEVEL, text))
}

fn refusal(command: &Command, session: &Session) -> Option<Reply> {
    needs(command.level, session).or_else(|| {
        let text = format!("{} can do harm: say `expert-mode on` first", command.name);
        (command.expert && !session.expert).then(|| Reply::new(Status::EXPERT, text))
    })
}

fn unknown(name: &str) -> Reply {
    let close = closest(name, COMMANDS.iter().map(|command| command.name));
    let short: String = name.chars().take(40).collect();
    let hint = close.map_or_else(|| "`help` lists all".to_owned(), |close| format!("did you mean {close}?"));
    Reply::new(Status::UNKNOWN, format!("no command {short}; {hint}"))
}

fn all_help(level: Level) -> Reply {
    let rows: Vec<Vec<Value>> = COMMANDS
        .iter()
        .filter(|command| command.level <= level)
        .map(|command| {
            vec![command.usage.into(), command.level.name().into(), command.expert.into(), command.help.into()]
        })
        .collect();
    Reply::done(format!("{} commands for level {level}", rows.len())).table(
        &["usage", "level", "expert", "what"],
        &rows,
        0,
    )
}

fn help(name: &str) -> Reply {
    let Some(command) = COMMANDS.iter().find(|command| command.name == name) else { return unknown(name) };
    let expert = if command.expert { ", after `expert-mode on`" } else { "" };
    let lines = [command.help.to_owned(), format!("Level {} and above{expert}.", command.level)];
    Reply::done(command.usage).lines(lines)
}

fn switch(state: &str, flag: &mut bool, what: &str) -> Reply {
    match state {
        "on" => *flag = true,
        "off" => *flag = false,
        _ => return Reply::new(Status::ARGUMENT, format!("{what} is on or off")),
    }
    Reply::done(format!("{what} is {state}"))
}

/// What a client is told when the replica did not carry out an order.
fn fault(fault: Fault) -> Reply {
    match fault {
        Fault::Busy => {
            Reply::new(Status::BUSY, "the replica has as many orders as it takes in a second; again in a moment")
        }
        Fault::Late => Reply::new(Status::LATE, "the replica did not answer in time; whether it did it is not known"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_looks_all_the_time_makes_an_event_in_ten_seconds() {
        let (mut shown, start) = (ShownCount::default(), Instant::now());
        assert_eq!(shown.count(start), Some(1));
        assert!((0..5_000).all(|_| shown.count(start + SHOWN_EVERY / 2).is_none()));
        assert_eq!(shown.count(start + SHOWN_EVERY), Some(5_001));
        assert_eq!(shown.count(start + SHOWN_EVERY), None);
    }
}
