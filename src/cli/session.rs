//! The connection that commands share: one client, one thing at a time, with errors and exit codes for people.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use atlas_dataplane::cluster::{Cluster, ConfigError};
use atlas_dataplane::crypto::SecretKey;
use atlas_dataplane::types::{Code, Position, PublicKey, ReplicaId};

use super::args::{Connection, Freshness};
use super::changes::{TwinChanges, decode};
use super::error::CliError;
use crate::client::{
    Client, ClientConfig, ClientError, Error, LinkDown, ProofQuestion, ReadResult, ReplicaReport, RequestResult, Said,
    Strength, Subscription,
};
use crate::twin::operation::{Condition, Operation, Test, Write};
use crate::twin::query::{ChangeSet, Query};
use crate::twin::record::MARK;

/// An open connection to a cluster.
pub struct Session {
    cluster: Cluster,
    client: Client,
    key: PublicKey,
    timeout: Duration,
}

/// Reads a cluster file.
///
/// # Errors
/// [`CliError::Usage`] with the line that is wrong.
pub fn load_cluster(file: &Path) -> Result<Cluster, CliError> {
    Cluster::load(file).map_err(|error| match error {
        ConfigError::Read { .. } => {
            CliError::Usage(format!("{error}; name the cluster file with --cluster or ATLAS_CLUSTER"))
        }
        other => CliError::Usage(other.to_string()),
    })
}

/// Reads a client's private key.
///
/// # Errors
/// [`CliError::Usage`] with what is wrong with the file.
pub fn identity(file: &Path) -> Result<SecretKey, CliError> {
    SecretKey::load(file)
        .map_err(|error| CliError::Usage(format!("{error}; --identity or ATLAS_IDENTITY names this file")))
}

/// What was signed and has no result may come to pass yet.
const MAY_HAPPEN: &str = "\nthe operation may still be carried out: read before you repeat it";

/// An answer that f+1 replicas gave and this version cannot read.
pub fn unreadable(error: impl fmt::Display) -> CliError {
    CliError::failed("the replicas' answer is not what this version knows; do they run the same one", error)
}

/// An operation that is ordered and changes nothing, since its condition never holds: it marks a place in the order.
pub fn nothing() -> Vec<u8> {
    let (twin, path) = (MARK.0.to_owned(), MARK.1.to_owned());
    let conditions = vec![Condition { twin: twin.clone(), path, test: Test::Revision(u64::MAX) }];
    let writes = vec![Write::Delete { twin, paths: None, reason: None }];
    Operation::Transaction { conditions, writes, reason: None }.encode()
}

/// What a query asks for, as it was typed.
fn subject(query: &Query) -> String {
    match query {
        Query::Get { twin, property, .. } | Query::History { twin, property, .. } => match property {
            Some(property) => format!("{twin} {property}"),
            None => twin.clone(),
        },
        Query::List { prefix, .. } | Query::Changes { prefix, .. } => prefix.clone(),
        Query::Trail { filter, .. } => match &filter.property {
            Some(property) => format!("{} {property}", filter.twin),
            None => filter.twin.clone(),
        },
    }
}

impl Session {
    /// Reads the files that the options name and begins to connect.
    ///
    /// # Errors
    /// A file is wrong, or the host does not let us use its network.
    pub fn open(connection: &Connection) -> Result<Self, CliError> {
        let cluster = load_cluster(&connection.cluster)?;
        let key = identity(&connection.identity)?;
        let (key_file, cluster_file) = (connection.identity.display(), connection.cluster.display());
        if !cluster.may_know(&key.public()) {
            let text = format!("{key_file} holds the key {}, which is no client in {cluster_file}", key.public());
            return Err(CliError::Usage(format!("{text}; name a key file of this cluster with --identity")));
        }
        Self::connect(cluster, key, connection.timeout)
    }

    /// Begins to connect.
    ///
    /// # Errors
    /// The key is no client's, or the host does not let us use its network.
    pub fn connect(cluster: Cluster, key: SecretKey, timeout: Duration) -> Result<Self, CliError> {
        let public = key.public();
        let config = ClientConfig { cluster: cluster.clone(), identity: key, addresses: None, timeout };
        let client = Client::connect(config).map_err(|error| CliError::Failed(error.to_string()))?;
        Ok(Self { cluster, client, key: public, timeout })
    }

    /// The cluster.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// Has one operation ordered and gives its result, whatever its code.
    ///
    /// # Errors
    /// It was not ordered, or that is not known.
    pub fn submit(&mut self, operation: Vec<u8>) -> Result<RequestResult, CliError> {
        let results = self.client.execute(vec![operation]).map_err(|error| self.explain(error))?;
        results.into_iter().next().ok_or_else(|| CliError::Failed("the operation ended without a result".to_owned()))
    }

    /// Orders something that changes nothing; gives its position.
    ///
    /// # Errors
    /// As [`Session::submit`].
    pub fn order_nothing(&mut self) -> Result<Position, CliError> {
        Ok(self.submit(nothing())?.position)
    }

    /// Reads as fresh as was asked for.
    ///
    /// # Errors
    /// The replicas refuse the query, or too few answer alike.
    pub fn read(&mut self, query: &Query, freshness: Freshness) -> Result<ReadResult, CliError> {
        self.read_bytes(&query.encode(), &subject(query), freshness)
    }

    /// As [`Session::read`], of any query; errors call it `subject`.
    ///
    /// # Errors
    /// As [`Session::read`].
    pub fn read_bytes(&mut self, query: &[u8], subject: &str, freshness: Freshness) -> Result<ReadResult, CliError> {
        let barrier = nothing();
        let strength = match freshness {
            Freshness { unordered: false, .. } => Strength::Ordered { barrier: &barrier },
            Freshness { at_least: Some(position), .. } => Strength::AtLeast(position.entry.saturating_add(1)),
            Freshness { at_least: None, .. } => Strength::Matching,
        };
        self.read_at(query, subject, strength)
    }

    /// Reads at a history of at least this size.
    ///
    /// # Errors
    /// As [`Session::read`].
    pub fn read_on(&mut self, query: &Query, min_size: u64) -> Result<ReadResult, CliError> {
        self.read_bytes_on(&query.encode(), &subject(query), min_size)
    }

    /// As [`Session::read_on`], of any query; errors call it `subject`.
    ///
    /// # Errors
    /// As [`Session::read`].
    pub fn read_bytes_on(&mut self, query: &[u8], subject: &str, min_size: u64) -> Result<ReadResult, CliError> {
        self.read_at(query, subject, Strength::AtLeast(min_size))
    }

    fn read_at(&mut self, query: &[u8], subject: &str, strength: Strength<'_>) -> Result<ReadResult, CliError> {
        match self.client.read(query, strength) {
            Ok(read) if read.code == Code::DONE => Ok(read),
            Ok(read) => Err(CliError::Refused { code: read.code, detail: subject.to_owned() }),
            Err(error) => Err(self.explain(error)),
        }
    }

    /// How long each thing may take.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Asks one replica for a proof.
    ///
    /// # Errors
    /// It gives none, or nothing within `timeout`.
    pub fn prove(&mut self, question: &ProofQuestion, of: ReplicaId, timeout: Duration) -> Result<Vec<u8>, Error> {
        self.client.prove(question, of, timeout)
    }

    /// Asks one replica for a proof that it can give once the order has come further, and orders what changes nothing until it does.
    ///
    /// # Errors
    /// As [`Session::prove`]; nothing can be ordered.
    pub fn prove_while_ordering(
        &mut self,
        question: &ProofQuestion,
        of: ReplicaId,
        timeout: Duration,
    ) -> Result<Vec<u8>, Error> {
        let ticket = self.client.begin_proof(question, of, timeout)?;
        loop {
            if let Some(result) = self.client.take_proof(ticket, of) {
                return result;
            }
            self.client.execute(vec![nothing()])?;
        }
    }

    /// Asks every replica how it is.
    ///
    /// # Errors
    /// The host's network fails.
    pub fn status(&mut self) -> Result<Vec<ReplicaReport>, CliError> {
        self.client.status(self.timeout).map_err(|error| self.explain(error))
    }

    /// Follows the changes under a prefix, behind a position.
    ///
    /// # Errors
    /// The client's limits.
    pub fn subscribe(&mut self, prefix: &str, from: Position) -> Result<Subscription, CliError> {
        let decoder = Box::new(TwinChanges { prefix: prefix.to_owned() });
        self.client.subscribe(decoder, from).map_err(|error| self.explain(error))
    }

    /// The changes of the next operation, or `None` when there was none for so long.
    ///
    /// # Errors
    /// The host's network fails, or the replicas tell what this version cannot read.
    pub fn next_change(
        &mut self,
        subscription: Subscription,
        wait: Duration,
    ) -> Result<Option<Vec<ChangeSet>>, CliError> {
        let event = self.client.next_change(subscription, wait).map_err(|error| self.explain(error))?;
        event.map(|(_, bytes)| decode(&bytes).map_err(unreadable)).transpose()
    }

    /// A client's error for people, with what each replica said.
    fn explain(&self, error: Error) -> CliError {
        match error {
            Error::Submit(error) => CliError::Usage(error.to_string()),
            Error::Operation { source: ClientError::Refused { code, .. }, .. } => {
                CliError::Refused { code, detail: String::new() }
            }
            // Said again and again until the time was up, by one correct replica at least.
            Error::Operation { source: ClientError::Timeout { needed, answered, sent }, .. }
                if answered.iter().filter(|said| **said == Said::Refused(Code::LOW_SPACE)).count() >= needed =>
            {
                CliError::Refused { code: Code::LOW_SPACE, detail: self.low_space(&answered, sent) }
            }
            Error::Operation { source: ClientError::Timeout { needed, answered, sent }, links } => {
                CliError::NoQuorum(self.silence(needed, &answered, sent, &links))
            }
            Error::Operation { source: error @ ClientError::SessionLost, .. } => CliError::NoQuorum(error.to_string()),
            other => CliError::Failed(other.to_string()),
        }
    }

    fn silence(&self, needed: usize, answered: &[Said], sent: bool, links: &[Option<LinkDown>]) -> String {
        let mut text = format!("no {needed} replicas agreed within {} s", self.timeout.as_secs_f64());
        for (index, (member, said)) in self.cluster.members().iter().zip(answered).enumerate() {
            text.push_str(&format!("\n  {} at {}: {said}", member.name, member.address));
            if let (Said::NotConnected, Some(Some(reason))) = (said, links.get(index)) {
                text.push_str(&format!(" ({reason})"));
            }
        }
        if self.cluster.name_of(&self.key).is_none() {
            text.push_str(&format!(
                "\nthe key {} is not in the cluster file: replicas refuse it unless it was registered since (atlas key list)",
                self.key
            ));
        }
        let names = self.named(answered, |said| matches!(said, Said::NotConnected));
        let (missing, n, quorum) = (names.len(), answered.len(), self.cluster.quorum());
        if n - missing < quorum {
            let names = names.join(", ");
            text.push_str(&format!(
                "\n{} of {n} replicas can be reached, writes and ordered reads need {quorum}: start {names}, or check \
                 that their addresses can be reached from here",
                n - missing,
            ));
        }
        if sent {
            text.push_str(MAY_HAPPEN);
        }
        text
    }

    fn low_space(&self, answered: &[Said], sent: bool) -> String {
        let names = self.named(answered, |said| *said == Said::Refused(Code::LOW_SPACE)).join(", ");
        let mut text = format!("free space on the disks of {names}; they take writes again by themselves");
        if sent {
            text.push_str(MAY_HAPPEN);
        }
        text
    }

    /// The names of the replicas that said so.
    fn named(&self, answered: &[Said], is_so: impl Fn(&Said) -> bool) -> Vec<&str> {
        let all = self.cluster.members().iter().zip(answered);
        all.filter(|(_, said)| is_so(said)).map(|(member, _)| member.name.as_str()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::twin::view::OperationView;

    #[test]
    fn nothing_is_an_operation_that_replicas_take() {
        assert!(OperationView::decode(&nothing()).is_ok());
    }
}
