//! `atlas status`: what each replica says about itself.

use std::io::Write;

use atlas_dataplane::cluster::Cluster;
use atlas_dataplane::types::Digest;
use serde::Serialize;

use super::args::StatusArgs;
use super::error::CliError;
use super::evidence;
use super::output::{Colour, Style, json_line, table};
use super::session::Session;
use crate::client::{ReplicaReport, ReplicaStatus};

/// The columns of the table.
const COLUMNS: [&str; 12] = [
    "REPLICA",
    "ADDRESS",
    "REACHABLE",
    "VIEW",
    "LEADER",
    "SEQUENCE",
    "ENTRIES",
    "HISTORY ROOT",
    "STATE ROOT",
    "STATE DIGEST",
    "LOG",
    "MEMORY",
];
/// How many hexadecimal digits of a digest the table shows; JSON has all.
const SHORT: usize = 12;

/// A replica as `--json` shows it; one that did not answer has no fields of an answer.
#[derive(Serialize)]
struct Line<'a> {
    replica: usize,
    name: &'a str,
    address: String,
    reachable: bool,
    /// Why there is no link to it; null where there is one.
    problem: Option<String>,
    #[serde(flatten)]
    answer: Option<Answer<'a>>,
}

#[derive(Serialize)]
struct Answer<'a> {
    view: u64,
    leader: u8,
    /// The highest sequence that it executed.
    executed_sequence: u64,
    /// The highest entry that it executed; null before the first.
    executed_entry: Option<u64>,
    history_size: u64,
    history_root: String,
    state_root: String,
    state_digest: String,
    log_bytes: u64,
    resident_bytes: u64,
    anonymous_bytes: u64,
    /// Replicas that it has a link with.
    links: Vec<u32>,
    /// Whether it lost its records and does not vote.
    abstains: bool,
    /// The sequence at which a checkpoint must be stable for it to vote again; null while it does not know, or votes.
    votes_again_at: Option<u64>,
    pid: u32,
    /// Free bytes where its data lies; null where that is not known.
    free_bytes: Option<u64>,
    /// Whether that is too little: it refuses new writes.
    low_space: bool,
    version: &'a str,
    counters: serde_json::Map<String, serde_json::Value>,
    /// How often it saw which replica do what, over all its restarts.
    misbehaviour: evidence::Counts<'a>,
    evidence: Vec<evidence::Shown<'a>>,
}

impl<'a> Answer<'a> {
    fn new(cluster: &'a Cluster, status: &'a ReplicaStatus) -> Self {
        Self {
            view: status.view,
            leader: status.leader,
            executed_sequence: status.sequence,
            executed_entry: status.size.checked_sub(1),
            history_size: status.size,
            history_root: Digest(status.history_root).to_string(),
            state_root: Digest(status.state_root).to_string(),
            state_digest: Digest(status.state_digest).to_string(),
            log_bytes: status.log_bytes,
            resident_bytes: status.resident_bytes,
            anonymous_bytes: status.anonymous_bytes,
            links: (0..u32::BITS).filter(|replica| status.links >> replica & 1 == 1).collect(),
            abstains: status.abstains,
            votes_again_at: Some(status.needs).filter(|needs| *needs > 0),
            pid: status.pid,
            free_bytes: (status.free_bytes != u64::MAX).then_some(status.free_bytes),
            low_space: status.low_space,
            version: &status.version,
            counters: status.counters.iter().map(|(name, value)| (name.clone(), (*value).into())).collect(),
            misbehaviour: evidence::counts(cluster, status),
            evidence: evidence::shown(cluster, status),
        }
    }
}

/// `atlas status`.
///
/// # Errors
/// [`CliError::NoQuorum`] when fewer than a quorum answered, after what the others said was printed.
pub fn status(args: &StatusArgs, out: &mut impl Write, style: Style) -> Result<(), CliError> {
    let mut session = Session::open(&args.connection)?;
    let answers = session.status()?;
    show(session.cluster(), &answers, args.format.json, out, style)?;
    out.flush()?;
    let (answered, needed) =
        (answers.iter().filter(|report| report.status.is_some()).count(), session.cluster().quorum());
    if answered >= needed {
        return Ok(());
    }
    Err(CliError::NoQuorum(format!(
        "{answered} of {} replicas answered within {} s, a quorum is {needed}; start those that do not run, and check \
         that their addresses in the cluster file can be reached",
        answers.len(),
        args.connection.timeout.as_secs_f64(),
    )))
}

fn show(
    cluster: &Cluster,
    answers: &[ReplicaReport],
    json: bool,
    out: &mut impl Write,
    style: Style,
) -> Result<(), CliError> {
    let mut rows = Vec::new();
    for (replica, (member, ReplicaReport { status, link })) in cluster.members().iter().zip(answers).enumerate() {
        let (name, address) = (member.name.as_str(), member.address.to_string());
        if json {
            let (reachable, answer) = (status.is_some(), status.as_ref().map(|status| Answer::new(cluster, status)));
            let problem = link.as_ref().map(ToString::to_string);
            json_line(out, &Line { replica, name, address, reachable, problem, answer })?;
            continue;
        }
        let mut row = vec![name.to_owned(), address];
        match status {
            Some(status) => row.extend(cells(status)),
            None => row.push("no".to_owned()),
        }
        rows.push(row);
    }
    if json {
        return Ok(());
    }
    table(out, style, &COLUMNS, &rows)?;
    for (member, status) in
        cluster.members().iter().zip(answers).filter_map(|(m, report)| Some((m, report.status.as_ref()?)))
    {
        if let Some(words) = abstention(status) {
            writeln!(out, "{}", style.paint(Colour::Yellow, &format!("{} {words}", member.name)))?;
        }
    }
    for (member, report) in cluster.members().iter().zip(answers).filter(|(_, report)| report.status.is_none()) {
        let why = report.link.as_ref().map_or_else(|| "connected, no answer".to_owned(), ToString::to_string);
        writeln!(out, "{}", style.paint(Colour::Yellow, &format!("{} did not answer: {why}", member.name)))?;
    }
    for (member, report) in cluster.members().iter().zip(answers) {
        if let Some(status) = &report.status {
            if status.low_space {
                let (name, free) = (&member.name, bytes(status.free_bytes));
                let line = format!("{name} refuses new writes: {free} are free, less than its low_space_mib");
                writeln!(out, "{}", style.paint(Colour::Red, &line))?;
            }
            evidence::summary(cluster, &member.name, status, out, style)?;
        }
    }
    Ok(())
}

/// That a replica lost its records and does not vote.
fn abstention(status: &ReplicaStatus) -> Option<String> {
    let until = match status.needs {
        0 => "waits for the answers of a quorum of others".to_owned(),
        needs => format!("votes again after the stable checkpoint at sequence {needs} or above"),
    };
    status.abstains.then(|| format!("lost its records and does not vote: it {until}"))
}

fn cells(status: &ReplicaStatus) -> Vec<String> {
    let short = |digest: [u8; 32]| Digest(digest).to_string().chars().take(SHORT).collect();
    vec![
        "yes".to_owned(),
        status.view.to_string(),
        status.leader.to_string(),
        status.sequence.to_string(),
        status.size.to_string(),
        short(status.history_root),
        short(status.state_root),
        short(status.state_digest),
        bytes(status.log_bytes),
        bytes(status.resident_bytes),
    ]
}

/// Bytes in the largest unit that leaves at least one.
pub fn bytes(count: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{count} B") } else { format!("{value:.1} {}", units[unit]) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::LinkDown;
    use atlas_dataplane::cluster::init::{InitOptions, init};

    fn shown(json: bool) -> String {
        let dir = tempfile::tempdir().unwrap();
        let summary = init(&dir.path().join("c"), &InitOptions::new(0)).unwrap();
        let cluster = Cluster::load(&summary.cluster_file).unwrap();
        let status = ReplicaStatus {
            view: 3,
            leader: 3,
            sequence: 40,
            size: 42,
            history_root: [0xab; 32],
            log_bytes: 1536,
            resident_bytes: 900,
            links: 0b1101,
            pid: 7,
            version: "0.1.0".to_owned(),
            counters: vec![("frames dropped".to_owned(), 2)],
            ..ReplicaStatus::default()
        };
        let mut out = Vec::new();
        let silent = |link| ReplicaReport { status: None, link };
        let down = || silent(Some(LinkDown::Slow));
        let answers = [ReplicaReport { status: Some(status), link: None }, down(), silent(None), down()];
        show(&cluster, &answers, json, &mut out, Style::PLAIN).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_table_has_a_line_for_each_replica() {
        let text = shown(false);
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines.len(), 8);
        let expected = ["replica-0", "127.0.0.1:7450", "yes", "3", "3", "40", "42", "abababababab"];
        assert_eq!(lines[1][..8], expected);
        assert_eq!(lines[1][10..], ["1.5", "KiB", "900", "B"]);
        assert_eq!(lines[2], ["replica-1", "127.0.0.1:7451", "no"]);
        assert_eq!(text.lines().nth(6), Some("replica-2 did not answer: connected, no answer"));
    }

    #[test]
    fn json_has_an_object_for_each_replica() {
        let text = shown(true);
        let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 4);
        assert_eq!(lines[0]["executed_entry"], 41);
        assert_eq!(lines[0]["history_root"], "ab".repeat(32));
        assert_eq!(lines[0]["links"], serde_json::json!([0, 2, 3]));
        assert_eq!(lines[0]["counters"]["frames dropped"], 2);
        assert_eq!((&lines[0]["problem"], lines[1]["problem"].is_string()), (&serde_json::Value::Null, true));
        assert_eq!((&lines[1]["reachable"], &lines[1]["name"]), (&false.into(), &"replica-1".into()));
    }

    #[test]
    fn who_does_not_vote_is_told() {
        let says = |abstains, needs| abstention(&ReplicaStatus { abstains, needs, ..ReplicaStatus::default() });
        assert_eq!(says(false, 0), None);
        assert!(says(true, 0).unwrap().ends_with("does not vote: it waits for the answers of a quorum of others"));
        assert!(says(true, 512).unwrap().ends_with("after the stable checkpoint at sequence 512 or above"));
    }

    #[test]
    fn bytes_have_units() {
        assert_eq!(
            [0, 1023, 1024, 1536, 5 << 30, u64::MAX].map(bytes),
            ["0 B", "1023 B", "1.0 KiB", "1.5 KiB", "5.0 GiB", "16.0 EiB"]
        );
    }
}
