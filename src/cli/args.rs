//! The command line of `atlas`: what may be typed, and the help for it.

use std::path::PathBuf;
use std::time::Duration;

use atlas_dataplane::adversary::Tactic;
use atlas_dataplane::cluster::init::DEFAULT_PORT;
use atlas_dataplane::types::Position;
use clap::builder::ValueParser;
use clap::{Arg, ArgAction, ArgMatches, Args, FromArgMatches, Parser, Subcommand};

use super::audit::{AuditArgs, ServeArgs, VerifyArgs};
use super::backup::{BackupArgs, RestoreArgs};
use super::bench::BenchArgs;
use super::cold::ColdArgs;
use super::host::HostArgs;
use super::parse::{self, Assignment};
use super::plot::PlotArgs;
use super::proofs::{ExportArgs, ProveArgs};
use super::sim::SimArgs;
use crate::demo::DemoArgs;
use crate::twin::operation::{Condition, SetProperty, Write};
use crate::twin::value::Quality;

mod trail;

pub use trail::{HistoryArgs, Outcomes, Show, TrailArgs, Twins, Which};

/// The longest `--timeout` and other spans of time that a user gives, in seconds.
const MAX_SECONDS: f64 = 86_400.0;

pub mod keys;

const AFTER_HELP: &str = "\
First steps:
  atlas init plant --replicas 4
  for i in 0 1 2 3; do atlas replica --config plant/replica-$i/config.toml & done
  export ATLAS_CLUSTER=plant/cluster.toml ATLAS_IDENTITY=plant/clients/operator.key
  atlas status
  atlas set plant/turbine-1 power=1345.2 pitch=37.0 state=running
  atlas get plant/turbine-1

Exit codes:
  0  done
  1  failed: a file, the network or the host; the message says what to do
  2  usage: what was typed, or a configuration that it names, is not right
  3  refused: the cluster decided, and decided against it (the code says why)
  4  no quorum: too few replicas answered alike in time
  5  a proof does not hold
  10, 11  atlas host check: warnings, critical findings

With --json, results are one JSON object a line. Messages for people go to standard error.";

/// Digital twins on a cluster that agrees although some of its replicas lie.
#[derive(Parser, Debug)]
#[command(name = "atlas", version, about, after_help = AFTER_HELP, max_term_width = 100)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Write a new cluster: keys, cluster file, a configuration for each replica, client identities
    Init(InitArgs),
    /// Run one replica until SIGTERM or SIGINT
    Replica(ReplicaArgs),
    /// Prepare the data directory of a replica whose disk was lost or set back
    Recover(RecoverArgs),
    /// Back up a running replica's history and state into a directory, verified; again adds what is new
    Backup(BackupArgs),
    /// Verify a backup, and put a stopped replica's data together from it
    Restore(RestoreArgs),
    /// Check what a replica moved to cold storage, or bring it back
    Cold(ColdArgs),
    /// Run one replica that lies, on this host's loopback only: for tests and demonstrations
    #[command(hide = true)]
    HostileReplica(HostileReplicaArgs),
    /// Set properties of a twin
    Set(SetArgs),
    /// Delete properties of a twin, or all of them
    Delete(DeleteArgs),
    /// Show the properties of a twin
    Get(GetArgs),
    /// Show the properties of all twins whose names begin with a prefix
    List(ListArgs),
    /// Show who did what to twins, when, why and what was refused, newest first; or draw it
    History(HistoryArgs),
    /// Show the same from an export directory, oldest first
    Trail(TrailArgs),
    /// Write to several twins at once if all conditions hold
    Txn(TxnArgs),
    /// Print changes as they are agreed, until interrupted
    Watch(WatchArgs),
    /// Make, register, rotate, revoke and list keys of clients and administrators
    Key(keys::KeyArgs),
    /// Show how each replica is
    Status(StatusArgs),
    /// Talk to one replica's control socket: see everything, change what is safe to change
    Ctl(super::ctl::CtlArgs),
    /// Show a replica's metrics from its file, without asking it
    Stat(super::stat::StatArgs),
    /// Watch replicas on one screen, from their files of metrics
    Top(super::top::TopArgs),
    /// Show what a replica's flight recorder kept
    Trace(super::trace::TraceArgs),
    /// Prove what a property is or was, or that it never was
    Prove(ProveArgs),
    /// Write the history, certified, into a directory that anybody can check
    Export(ExportArgs),
    /// Check checkpoints, receipts and proofs in files, without a cluster
    Verify(VerifyArgs),
    /// Check a whole export, without a cluster
    Audit(AuditArgs),
    /// Serve an export over HTTP, read-only
    Serve(ServeArgs),
    /// Measure latency, throughput, failover, overload, idling and more, or work out what servers should reach
    Bench(BenchArgs),
    /// Draw latencies that the benches wrote
    Plot(PlotArgs),
    /// Check whether this host suits a replica, and tune it
    Host(HostArgs),
    /// Simulate clusters under faults and attacks, from seeds, and check every rule
    Sim(SimArgs),
    /// Replay a real day of a wind farm on four replicas, with a trip, a refusal, a kill -9 and a liar
    Demo(DemoArgs),
}

/// How to reach a cluster, for every command that does.
#[derive(Args, Clone, Debug)]
pub struct Connection {
    /// The cluster file
    #[arg(long, value_name = "FILE", env = "ATLAS_CLUSTER", help_heading = "Connection")]
    pub cluster: PathBuf,
    /// The private key file of the client that acts
    #[arg(long, value_name = "KEYFILE", env = "ATLAS_IDENTITY", help_heading = "Connection")]
    pub identity: PathBuf,
    /// Give up after so long; a change may then still be carried out until its own deadline, which is the same
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = seconds, help_heading = "Connection")]
    pub timeout: Duration,
}

/// How to print results.
#[derive(Args, Clone, Copy, Debug)]
pub struct Format {
    /// Print one JSON object a line
    #[arg(long)]
    pub json: bool,
}

/// How fresh a read is.
#[derive(Args, Clone, Copy, Debug)]
pub struct Freshness {
    /// Do not order the read: true at the position that it names, not necessarily the newest
    #[arg(long)]
    pub unordered: bool,
    /// With --unordered: accept no answer from before this position
    #[arg(long, value_name = "POSITION", requires = "unordered")]
    pub at_least: Option<Position>,
}

/// Arguments of `atlas init`.
#[derive(Args, Debug)]
#[command(after_help = "\
Example:
  atlas init plant --replicas 4 --origin twin.example/plant-7

Addresses are 127.0.0.1; to spread a cluster over hosts, edit them in the cluster file before any replica
has started, and give every host the same file, byte for byte, and its own replica's directory.")]
pub struct InitArgs {
    /// The directory to write; it must be new or empty
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
    /// How many replicas; f of 3f+1 may lie or fail
    #[arg(long, value_name = "N", default_value_t = 4)]
    pub replicas: usize,
    /// The cluster's name, which everything signed carries: printable, without spaces and '+'; if not given, a fresh one
    #[arg(long, value_name = "NAME")]
    pub origin: Option<String>,
    /// The port of replica 0; the others follow
    #[arg(long, value_name = "PORT", default_value_t = DEFAULT_PORT)]
    pub base_port: u16,
    /// What the client "gateway" may write: TWIN or TWIN:PROPERTY, a final * for all that begins so; repeatable
    #[arg(long, value_name = "PATTERN", default_value = "*")]
    pub gateway_write: Vec<String>,
    /// What is changed with --reason only: TWIN or TWIN:PROPERTY, a final * for all that begins so; repeatable
    #[arg(long, value_name = "PATTERN")]
    pub reason_required: Vec<String>,
    #[allow(missing_docs)]
    #[command(flatten)]
    pub format: Format,
}

/// Arguments of `atlas replica`.
#[derive(Args, Debug)]
#[command(after_help = "\
Example:
  atlas replica --config plant/replica-0/config.toml

On SIGTERM or SIGINT it takes no more work, syncs what it has and exits with 0.")]
pub struct ReplicaArgs {
    /// The replica's configuration file
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// End when this process, which has started the replica, ends
    #[arg(long, value_name = "PID", hide = true)]
    pub parent: Option<u32>,
    /// Keep no history: what `atlas bench history` compares with, on loopback only
    #[arg(long, hide = true)]
    pub without_history: bool,
}

/// Arguments of `atlas recover`.
#[derive(Args, Debug)]
#[command(after_help = "\
Example:
  atlas recover --config plant/replica-0/config.toml

A replica that does not know all that it promised must not vote: with an older log it could contradict itself. Use this when
its disk was replaced, restored from a backup or snapshot, or cannot be trusted. A log that is there is moved aside, never
deleted. The next start takes everything from the other replicas and votes again when nothing that it may have said before
can matter any more; that needs all correct replicas. A damaged log does not need this command: a replica that finds one
does the same by itself.

The directory keys/ must be this replica's own; restore it from its backup first. One cluster bears f such replicas at a time.")]
pub struct RecoverArgs {
    /// The replica's configuration file
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
}

/// Arguments of `atlas hostile-replica`, which is for tests and demonstrations.
#[derive(Args, Debug)]
#[command(after_help = "\
Example:
  atlas hostile-replica --config plant/replica-3/config.toml --tactics equivocate,lie-in-change

It refuses to run where any replica of the cluster has another address than this host's loopback. What a replica signed
while it lied stays signed: do not go on using its directory for more than a demonstration.")]
pub struct HostileReplicaArgs {
    #[allow(missing_docs)]
    #[command(flatten)]
    pub replica: ReplicaArgs,
    /// What it does, separated by commas: equivocate, wrong-digest, forge, usurp, double-vote, mutate, replay, silent, lie,
    /// lie-in-change, restless, starve
    #[arg(long, value_name = "LIST", value_delimiter = ',', required = true)]
    pub tactics: Vec<Tactic>,
    /// Chooses whom it lies to and when
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    pub seed: u64,
}

/// Arguments of `atlas set`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  atlas set plant/turbine-1 power=1345.2 pitch=37.0
  atlas set plant/turbine-1 state=stopped --reason 'gearbox inspection'
  atlas set plant/turbine-1 wind=7.1 --source-time 2015-03-31T01:40:00Z --quality uncertain

Values: true, false, -5 (i64), 37.0 (f64), \"5\" (text, JSON quotes and escapes), hex:00ff (bytes); all else is
text as it stands. All properties are set at one position, or none.")]
pub struct SetArgs {
    /// The twin: namespace/name
    #[arg(value_name = "TWIN", value_parser = parse::twin)]
    pub twin: String,
    /// What to set
    #[arg(value_name = "PATH=VALUE", required = true)]
    pub properties: Vec<Assignment>,
    /// When the source took the values, RFC 3339
    #[arg(long, value_name = "TIME", value_parser = super::time::parse_ns)]
    pub source_time: Option<i64>,
    /// How far to trust them: good, uncertain, bad, stale
    #[arg(long, value_name = "QUALITY", default_value = "good")]
    pub quality: Quality,
    /// Why, kept in the history
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
    /// Wait for the certificate, and write the operation's receipt there
    #[arg(long, value_name = "FILE")]
    pub receipt: Option<PathBuf>,
    #[allow(missing_docs)]
    #[command(flatten)]
    pub connection: Connection,
    #[allow(missing_docs)]
    #[command(flatten)]
    pub format: Format,
}

/// Arguments of `atlas delete`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  atlas delete plant/turbine-1 pitch
  atlas delete plant/turbine-1 --reason 'dismantled'

Revisions go on counting when a deleted property is set again; its history stays.")]
pub struct DeleteArgs {
    /// The twin: namespace/name
    #[arg(value_name = "TWIN", value_parser = parse::twin)]
    pub twin: String,
    /// The properties; without any, all that the twin has
    #[arg(value_name = "PATH", value_parser = parse::property)]
    pub paths: Vec<String>,
    /// Why, kept in the history
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
    /// Wait for the certificate, and write the operation's receipt there
    #[arg(long, value_name = "FILE")]
    pub receipt: Option<PathBuf>,
    #[allow(missing_docs)]
    #[command(flatten)]
    pub connection: Connection,
    #[allow(missing_docs)]
    #[command(flatten)]
    pub format: Format,
}

/// Arguments of `atlas get`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  atlas get plant/turbine-1
  atlas get plant/turbine-1 power --json
  atlas get plant/turbine-1 --unordered --at-least 1042.0

By default the read is linearizable: it sees everything that was done before it began. A twin or property that
does not exist is refused (exit code 3).")]
pub struct GetArgs {
    /// The twin: namespace/name
    #[arg(value_name = "TWIN", value_parser = parse::twin)]
    pub twin: String,
    /// Only this property
    #[arg(value_name = "PROPERTY", value_parser = parse::property)]
    pub property: Option<String>,
    #[allow(missing_docs)]
    #[command(flatten)]
    pub freshness: Freshness,
    #[allow(missing_docs)]
    #[command(flatten)]
    pub connection: Connection,
    #[allow(missing_docs)]
    #[command(flatten)]
    pub format: Format,
}

/// Arguments of `atlas list`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  atlas list plant/
  atlas list '' --json

Many properties come in several pages, each true at a position no earlier than that of the page before.")]
pub struct ListArgs {
    /// What the twins' names begin with; '' for all
    #[arg(value_name = "PREFIX")]
    pub prefix: String,
    #[allow(missing_docs)]
    #[command(flatten)]
    pub freshness: Freshness,
    #[allow(missing_docs)]
    #[command(flatten)]
    pub connection: Connection,
    #[allow(missing_docs)]
    #[command(flatten)]
    pub format: Format,
}

/// Arguments of `atlas txn`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  atlas txn --if 'plant/turbine-1 state == \"stopped\"' --set plant/turbine-1 brake=released
  atlas txn --if 'plant/turbine-1 pitch revision == 7' --set plant/turbine-1 pitch=12.5
  atlas txn --if 'plant/grid export < 2000' --if 'plant/turbine-2 fault absent' \\
      --set plant/turbine-2 state=starting --delete plant/turbine-2 stop_reason --reason 'restart'

Conditions: TWIN PATH, then == != < <= > >= and a value, or revision == NUMBER (0: never written), exists, or
absent. All must hold before the first write; else nothing is written, and the reply says which did not (exit
code 3). Sets are carried out before deletes.")]
pub struct TxnArgs {
    /// A condition; repeatable
    #[arg(long = "if", value_name = "CONDITION", value_parser = parse::condition)]
    pub conditions: Vec<Condition>,
    #[allow(missing_docs)]
    #[command(flatten)]
    pub writes: Writes,
    /// Why, kept in the history
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
    /// Wait for the certificate, and write the operation's receipt there
    #[arg(long, value_name = "FILE")]
    pub receipt: Option<PathBuf>,
    #[allow(missing_docs)]
    #[command(flatten)]
    pub connection: Connection,
    #[allow(missing_docs)]
    #[command(flatten)]
    pub format: Format,
}

/// Arguments of `atlas watch`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  atlas watch plant/
  atlas watch plant/ --from 1042.3 --json >> changes.jsonl

Begins with the next change, or behind --from: with the last position that was printed, nothing is missed and
nothing comes twice. Each line is written at once. SIGINT and SIGTERM end it with exit code 0.")]
pub struct WatchArgs {
    /// What the twins' names begin with; '' for all
    #[arg(value_name = "PREFIX")]
    pub prefix: String,
    /// Begin behind this position; 0.0 for the beginning of history
    #[arg(long, value_name = "POSITION")]
    pub from: Option<Position>,
    #[allow(missing_docs)]
    #[command(flatten)]
    pub connection: Connection,
    #[allow(missing_docs)]
    #[command(flatten)]
    pub format: Format,
}

/// Arguments of `atlas status`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  atlas status
  atlas status --json | jq .state_digest

Each replica speaks for itself here; nobody vouches for it. Replicas at one sequence show equal roots and digests.
Exit code 0 when a quorum answered, else 4.")]
pub struct StatusArgs {
    #[allow(missing_docs)]
    #[command(flatten)]
    pub connection: Connection,
    #[allow(missing_docs)]
    #[command(flatten)]
    pub format: Format,
}

/// Reads a span of time: a positive number of seconds, at most a day.
///
/// # Errors
/// A text for people.
pub fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse::<f64>() {
        Ok(seconds) if seconds > 0.0 && seconds <= MAX_SECONDS => Ok(Duration::from_secs_f64(seconds)),
        _ => Err(format!("a number of seconds above 0 and up to {MAX_SECONDS}, such as 10 or 0.5")),
    }
}

/// As [`seconds`], or 0 for not at all.
///
/// # Errors
/// A text for people.
pub fn seconds_or_none(text: &str) -> Result<Duration, String> {
    if text.parse() == Ok(0.0) { Ok(Duration::ZERO) } else { seconds(text) }
}

/// The `--set` and `--delete` of a transaction, each with a twin and what belongs to it.
#[derive(Clone, PartialEq, Debug)]
pub struct Writes(pub Vec<Write>);

const SET: &str = "set";
const DELETE: &str = "delete";

impl Args for Writes {
    fn augment_args(command: clap::Command) -> clap::Command {
        let list = |name: &'static str| {
            Arg::new(name).long(name).action(ArgAction::Append).value_parser(ValueParser::string())
        };
        let set = list(SET).num_args(2..).value_names(["TWIN", "PATH=VALUE"]);
        let delete = list(DELETE).num_args(1..).value_names(["TWIN"]);
        command
            .arg(set.help("Set properties of a twin; repeatable").required_unless_present(DELETE))
            .arg(delete.help("Delete properties of a twin, or all of them: TWIN [PATH...]; repeatable"))
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Writes {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let wrong =
            |error: parse::ParseError| clap::Error::raw(clap::error::ErrorKind::ValueValidation, format!("{error}\n"));
        let groups = |name| matches.get_occurrences::<String>(name).into_iter().flatten();
        let mut writes = Vec::new();
        for mut group in groups(SET) {
            let twin = parse::twin(group.next().map_or("", String::as_str)).map_err(wrong)?;
            let assignments: Result<Vec<Assignment>, _> = group.map(|text| text.parse()).collect();
            let properties = set_properties(assignments.map_err(wrong)?, Quality::Good, None);
            writes.push(Write::Set { twin, properties, reason: None });
        }
        for mut group in groups(DELETE) {
            let twin = parse::twin(group.next().map_or("", String::as_str)).map_err(wrong)?;
            let paths: Vec<String> =
                group.map(|text| parse::property(text)).collect::<Result<_, _>>().map_err(wrong)?;
            writes.push(Write::Delete { twin, paths: Some(paths).filter(|paths| !paths.is_empty()), reason: None });
        }
        Ok(Self(writes))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// What was typed, with the quality and source time that all of it has.
pub fn set_properties(typed: Vec<Assignment>, quality: Quality, source_time_ns: Option<i64>) -> Vec<SetProperty> {
    let property = |Assignment { path, value }| SetProperty { path, value, quality, source_time_ns };
    typed.into_iter().map(property).collect()
}

#[cfg(test)]
mod tests;
