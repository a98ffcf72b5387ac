//! `atlas ctl`: the comfortable client of a replica's control sockets (`docs/control.md`).
//!
//! With a command it prints the answer and ends; without one it reads commands from the standard input, with a prompt, a history and
//! completion (`editor`) where that is a terminal. It uses the socket of the highest level that this user may use, unless told otherwise.

use std::io::{self, BufRead as _, IsTerminal as _, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

mod editor;

use atlas_control::client::{Client, ClientError, ClientReply};
use atlas_control::limits::MAX_LINE;
use atlas_control::protocol::Level;
use atlas_dataplane::cluster::ReplicaConfig;
use clap::{Args, ValueEnum};

use super::args::{Format, seconds};
use super::error::CliError;
use super::output::{Colour, Style, printable};

/// Answers with these codes are what was typed, not what the replica could do.
const USAGE_CODES: std::ops::RangeInclusive<u16> = 400..=402;

/// Longest standard input that is read as commands, bytes a line.
const MAX_TYPED: u64 = MAX_LINE as u64;

/// Arguments of `atlas ctl`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  atlas ctl --replica plant/replica-0/config.toml status
  atlas ctl --replica plant/replica-0/config.toml latency --json
  atlas ctl --replica plant/replica-0/config.toml 'set leader_timeout_ms 400' 'configure confirm'
  atlas ctl --socket /run/atlas/replica-0/viewer.sock

Words form one command; a word with spaces is a command of its own, and several are carried out in their order, up to
the first that is refused. Without a command, commands are read from the standard input; `help` lists them.
Exit code 0: done, 2: not a command, 3: refused, 1: the replica cannot be reached.")]
pub struct CtlArgs {
    /// The replica's configuration file, which says where its sockets are
    #[arg(long, value_name = "FILE", env = "ATLAS_REPLICA", conflicts_with = "socket")]
    pub replica: Option<PathBuf>,
    /// The socket itself
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// With --replica: the level whose socket is used; by default the highest that this user may use
    #[arg(long, value_name = "LEVEL", conflicts_with = "socket")]
    pub level: Option<CtlLevel>,
    /// Permit commands that can do harm (level admin)
    #[arg(long)]
    pub expert: bool,
    /// Give up on an answer after so long
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = seconds)]
    pub timeout: Duration,
    #[allow(missing_docs)]
    #[command(flatten)]
    pub format: Format,
    /// What to do; without it commands are read from the standard input
    #[arg(value_name = "COMMAND")]
    pub command: Vec<String>,
}

/// A level, as it is typed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
#[allow(missing_docs)]
pub enum CtlLevel {
    Viewer,
    Operator,
    Admin,
}

impl From<CtlLevel> for Level {
    fn from(level: CtlLevel) -> Self {
        match level {
            CtlLevel::Viewer => Self::Viewer,
            CtlLevel::Operator => Self::Operator,
            CtlLevel::Admin => Self::Admin,
        }
    }
}

/// `atlas ctl`.
///
/// # Errors
/// [`CliError`].
pub fn ctl(args: &CtlArgs, out: &mut impl Write, style: Style) -> Result<(), CliError> {
    let mut client = connect(args)?;
    for (wanted, command) in [(args.format.json, "json on"), (args.expert, "expert-mode on")] {
        if wanted {
            check(&ask(&mut client, command)?)?;
        }
    }
    if args.command.is_empty() {
        return converse(args, &mut client, out, style);
    }
    for command in commands(&args.command) {
        let reply = ask(&mut client, &command)?;
        show(&reply, args.format.json, out, style)?;
        out.flush()?;
        check(&reply)?;
    }
    Ok(())
}

/// One command of all words, or each word that has spaces.
fn commands(words: &[String]) -> Vec<String> {
    if words.iter().any(|word| word.contains(char::is_whitespace)) { words.to_vec() } else { vec![words.join(" ")] }
}

fn ask(client: &mut Client, command: &str) -> Result<ClientReply, CliError> {
    if command.len() >= MAX_LINE || command.contains([';', '\n', '\r']) || command.trim().is_empty() {
        return Err(CliError::Usage(format!("{command:?} is not one command: commands are words given apart")));
    }
    client.ask(command).map_err(|error| failed(&error))
}

fn failed(error: &ClientError) -> CliError {
    CliError::Failed(error.to_string())
}

fn check(reply: &ClientReply) -> Result<(), CliError> {
    let text = || format!("{} ({})", reply.text, reply.code);
    match reply.is_success() {
        true => Ok(()),
        false if USAGE_CODES.contains(&reply.code) => Err(CliError::Usage(text())),
        false => Err(CliError::Declined(text())),
    }
}

fn connect(args: &CtlArgs) -> Result<Client, CliError> {
    if let Some(socket) = &args.socket {
        return Client::connect(socket, args.timeout).map_err(|error| failed(&error));
    }
    let Some(file) = &args.replica else {
        return Err(CliError::Usage(
            "name the replica: --replica FILE (or ATLAS_REPLICA), or --socket PATH".to_owned(),
        ));
    };
    let directory = run_directory(file)?;
    let at = |level: Level| Client::connect(&directory.join(level.socket()), args.timeout);
    if let Some(level) = args.level {
        return at(level.into()).map_err(|error| failed(&error));
    }
    // The first that this user may use; what is wrong with the viewers' is wrong with all.
    at(Level::Admin).or_else(|_| at(Level::Operator)).or_else(|_| at(Level::Viewer)).map_err(|error| failed(&error))
}

/// Where a replica's sockets and metrics are.
pub(super) fn run_directory(file: &Path) -> Result<PathBuf, CliError> {
    let (config, _) = ReplicaConfig::load(file).map_err(|error| CliError::Usage(error.to_string()))?;
    Ok(config.control.directory)
}

fn show(reply: &ClientReply, json: bool, out: &mut impl Write, style: Style) -> io::Result<()> {
    if json {
        // The object has code and text too.
        return reply.lines.iter().try_for_each(|line| writeln!(out, "{line}"));
    }
    if !reply.is_success() {
        return Ok(());
    }
    writeln!(out, "{}", style.paint(Colour::Bold, &printable(&reply.text)))?;
    reply.lines.iter().try_for_each(|line| writeln!(out, "{}", printable(line)))
}

/// Commands from the standard input, to its end or `quit`.
fn converse(args: &CtlArgs, client: &mut Client, out: &mut impl Write, style: Style) -> Result<(), CliError> {
    if io::stdin().is_terminal() && io::stdout().is_terminal() {
        let prompt = prompt(client.greeting());
        writeln!(out, "{}; `help` lists the commands, Tab completes them, `quit` ends", client.greeting())?;
        let mut lines = editor::Lines::new(client, args.format.json)?;
        return carry_out_all(args, client, out, style, || lines.next(&prompt));
    }
    carry_out_all(args, client, out, style, || {
        let mut line = Vec::new();
        let read = io::Read::take(io::stdin().lock(), MAX_TYPED).read_until(b'\n', &mut line);
        let read = read.map_err(|error| CliError::failed("cannot read the standard input", error))?;
        Ok((read > 0).then(|| String::from_utf8_lossy(&line).into_owned()))
    })
}

fn carry_out_all(
    args: &CtlArgs,
    client: &mut Client,
    out: &mut impl Write,
    style: Style,
    mut next: impl FnMut() -> Result<Option<String>, CliError>,
) -> Result<(), CliError> {
    out.flush()?;
    while let Some(line) = next()? {
        for command in line.split(';').map(str::trim).filter(|command| !command.is_empty()) {
            let reply = ask(client, command)?;
            show(&reply, args.format.json, out, style)?;
            if !reply.is_success() && !args.format.json {
                writeln!(out, "{} {} ({})", style.paint(Colour::Red, "error:"), reply.text, reply.code)?;
            }
            out.flush()?;
            if reply.code == 221 {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// `replica-0 admin> ` from `atlas VERSION replica 0 pid PID level admin protocol 1`.
fn prompt(greeting: &str) -> String {
    let words: Vec<&str> = greeting.split(' ').collect();
    let after = |name: &str| {
        let place = words.iter().position(|word| *word == name);
        place.and_then(|place| words.get(place + 1)).copied().unwrap_or("")
    };
    format!("replica-{} {}> ", after("replica"), after("level"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_a_command_and_words_with_spaces_are_several() {
        let split = |words: &[&str]| commands(&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>());
        assert_eq!(split(&["set", "pool_mib", "8"]), ["set pool_mib 8"]);
        assert_eq!(split(&["set pool_mib 8", "status"]), ["set pool_mib 8", "status"]);
    }

    #[test]
    fn the_prompt_says_where_one_is() {
        assert_eq!(prompt("atlas 0.1.0 replica 2 pid 77 level operator protocol 1"), "replica-2 operator> ");
    }
}
