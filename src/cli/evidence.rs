//! What replicas say about each other's misbehaviour, as `atlas status` shows it.
//!
//! That a replica says it proves nothing: it may lie itself. Messages with signatures do, and they are verified here with
//! nothing but the cluster file.

use std::collections::BTreeMap;
use std::io::Write;

use atlas_dataplane::cluster::Cluster;
use atlas_dataplane::evidence::Sealed;
use atlas_dataplane::types::Digest;
use atlas_dataplane::wire::error::Misbehaviour;
use atlas_dataplane::wire::frame::Kind;
use data_encoding::HEXLOWER;
use serde::Serialize;

use super::error::CliError;
use super::output::{Colour, Style, agreed_time};
use crate::client::{Evidence, ReplicaStatus};

/// Counts by the name of the accused replica and the kind.
pub type Counts<'a> = BTreeMap<&'a str, BTreeMap<&'static str, u64>>;

/// One misbehaviour as `--json` shows it.
#[derive(Serialize)]
pub struct Shown<'a> {
    replica: &'a str,
    kind: &'a str,
    /// When the answering replica saw it, by its own clock.
    time: String,
    view: Option<u64>,
    sequence: Option<u64>,
    /// The digests that contradict each other.
    digests: Vec<String>,
    statement: &'a str,
    /// What the accused signed, and what a quorum signed against it; empty where this is the answering replica's word alone.
    messages: Vec<Message<'a>>,
}

/// A signed message; without `body` and `signature_holds` where it was too long for the answer.
#[derive(Serialize)]
struct Message<'a> {
    kind: &'static str,
    signer: &'a str,
    body: Option<String>,
    signature: String,
    /// Verified here, with the key in the cluster file.
    signature_holds: Option<bool>,
}

fn name(cluster: &Cluster, replica: usize) -> &str {
    cluster.members().get(replica).map_or("unknown", |member| member.name.as_str())
}

/// How often each replica did what, as one replica counts it.
pub fn counts<'a>(cluster: &'a Cluster, status: &ReplicaStatus) -> Counts<'a> {
    let mut counts = Counts::new();
    for (counter, value) in &status.counters {
        let rest = counter.strip_prefix("misbehaviour.replica-").and_then(|rest| rest.split_once('.'));
        let Some((Ok(replica), kind)) = rest.map(|(replica, kind)| (replica.parse::<usize>(), kind)) else { continue };
        if let Some(kind) = Misbehaviour::KINDS.into_iter().find(|known| *known == kind) {
            counts.entry(name(cluster, replica)).or_default().insert(kind, *value);
        }
    }
    counts
}

/// The evidence of one replica.
pub fn shown<'a>(cluster: &'a Cluster, status: &'a ReplicaStatus) -> Vec<Shown<'a>> {
    let one = |evidence: &'a Evidence| Shown {
        replica: name(cluster, evidence.replica.into()),
        kind: &evidence.kind,
        time: agreed_time(evidence.at_ms),
        view: evidence.view,
        sequence: evidence.sequence,
        digests: evidence.digests.iter().map(|digest| Digest(*digest).to_string()).collect(),
        statement: &evidence.statement,
        messages: evidence.messages.iter().map(|message| Message::new(cluster, message)).collect(),
    };
    status.evidence.iter().map(one).collect()
}

impl<'a> Message<'a> {
    fn new(cluster: &'a Cluster, message: &Sealed) -> Self {
        let is_here = !message.body.is_empty();
        Self {
            kind: match message.kind {
                Kind::Checkpoint => "CHECKPOINT",
                Kind::ViewChange => "VIEW-CHANGE",
                Kind::NewView => "NEW-VIEW",
                _ => "unknown",
            },
            signer: name(cluster, message.replica.index()),
            body: is_here.then(|| HEXLOWER.encode(&message.body)),
            signature: HEXLOWER.encode(&message.signature.0),
            signature_holds: is_here.then(|| message.holds(cluster)),
        }
    }
}

/// Lines for people: who saw whom do what.
///
/// # Errors
/// The output.
pub fn summary(
    cluster: &Cluster,
    witness: &str,
    status: &ReplicaStatus,
    out: &mut impl Write,
    style: Style,
) -> Result<(), CliError> {
    for (accused, kinds) in counts(cluster, status) {
        let kinds: Vec<_> = kinds.iter().map(|(kind, count)| format!("{kind} {count}")).collect();
        let of_accused = status.evidence.iter().filter(|evidence| name(cluster, evidence.replica.into()) == accused);
        let holds = |evidence: &&Evidence| {
            let here = evidence.messages.iter().filter(|message| !message.body.is_empty());
            here.clone().count() > 0 && here.clone().all(|message| message.holds(cluster))
        };
        let proofs = match of_accused.filter(holds).count() {
            0 => "its word alone".to_owned(),
            count => format!("{count} with signatures that hold"),
        };
        let line =
            format!("{witness} saw {accused} misbehave: {} ({proofs}; --json has the evidence)", kinds.join(", "));
        writeln!(out, "{}", style.paint(Colour::Red, &line))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use atlas_dataplane::cluster::init::{InitOptions, init};
    use atlas_dataplane::types::{ReplicaId, Signature};

    #[test]
    fn who_saw_whom_do_what_and_whether_that_is_signed() {
        let dir = tempfile::tempdir().unwrap();
        let summary_of = init(&dir.path().join("c"), &InitOptions::new(0)).unwrap();
        let cluster = Cluster::load(&summary_of.cluster_file).unwrap();
        let forged = Sealed {
            kind: Kind::Checkpoint,
            replica: ReplicaId(3),
            body: vec![0xab; 152],
            signature: Signature([1; 64]),
        };
        let long = Sealed { kind: Kind::NewView, body: Vec::new(), ..forged };
        let evidence = Evidence {
            replica: 3,
            kind: "two_checkpoints".into(),
            sequence: Some(64),
            messages: vec![forged, long],
            ..Evidence::default()
        };
        let counters = ["misbehaviour.replica-3.two_checkpoints", "misbehaviour.replica-3.\u{1b}[31m", "refused.204"];
        let status = ReplicaStatus {
            counters: counters.map(|name| (name.to_owned(), 7)).to_vec(),
            evidence: vec![evidence],
            ..ReplicaStatus::default()
        };
        let mut out = Vec::new();
        summary(&cluster, "replica-0", &status, &mut out, Style::PLAIN).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert_eq!(
            text,
            "replica-0 saw replica-3 misbehave: two_checkpoints 7 (its word alone; --json has the evidence)\n"
        );
        let json = serde_json::to_value(shown(&cluster, &status)).unwrap();
        assert_eq!((&json[0]["replica"], &json[0]["sequence"]), (&"replica-3".into(), &64.into()));
        assert_eq!(json[0]["view"], serde_json::Value::Null);
        let messages = &json[0]["messages"];
        assert_eq!((&messages[0]["kind"], &messages[0]["signature_holds"]), (&"CHECKPOINT".into(), &false.into()));
        assert_eq!(messages[0]["body"], "ab".repeat(152));
        assert_eq!((&messages[1]["kind"], &messages[1]["body"]), (&"NEW-VIEW".into(), &serde_json::Value::Null));
        assert_eq!(serde_json::to_value(counts(&cluster, &status)).unwrap()["replica-3"]["two_checkpoints"], 7);
    }
}
