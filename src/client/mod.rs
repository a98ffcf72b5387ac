//! The client of a cluster: signed operations, proved results, reads and changes.
//!
//! [`Client`] is one identity with a link to every replica. Calls either wait for their result ([`Client::execute`],
//! [`Client::read`]), or begin something and let [`Client::poll`] bring the results, so that many are under way. Nothing
//! runs in the background: the caller's thread drives the transport inside these calls, so no result waits for a
//! hand-over between threads. A [`Driver`] has many clients on one thread.
//!
//! What counts as a result, and what an error means for an operation, is said in [`atlas_dataplane::client`].
//!
//! # Links
//! Each replica is dialled at the address in the cluster file, and must prove the link key that the file names. A link that
//! fails is dialled again after a pause that doubles from 10 ms to 2 s; the pause ends with success. A handshake has 10 s.
//! What is under way is sent again when a link comes up. Connecting does not wait for the replicas: an operation does.
//!
//! # Limits
//! Requests under way: the cluster's session window. Reads and subscriptions: [`atlas_dataplane::client::limits`]. Bytes queued
//! for a replica that takes none: 4 MiB; more is not sent, and sent again later.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

pub use atlas_dataplane::client::{
    ClientError, Completion, Evidence, NotAfter, Page, PageDecoder, ProofQuestion, ReadOptions, ReadResult,
    ReplicaStatus, RequestResult, Said, SubmitError, SubmitOptions, Subscription, Ticket,
};
use atlas_dataplane::cluster::Cluster;
use atlas_dataplane::cluster::file::Address;
use atlas_dataplane::crypto::SecretKey;
use atlas_dataplane::types::{Code, Position, ReplicaId};

mod driver;
mod error;
mod link;
#[cfg(test)]
mod tests;

pub use driver::{ClientId, Done, Driver};
pub use error::{Error, LinkDown};

/// What a client needs.
#[derive(Debug)]
pub struct ClientConfig {
    /// The cluster.
    pub cluster: Cluster,
    /// The private key of one of its clients.
    pub identity: SecretKey,
    /// Where the replicas listen, in the order of the cluster file; `None`: where the file says.
    pub addresses: Option<Vec<Address>>,
    /// How long each call that waits may take.
    pub timeout: Duration,
}

impl ClientConfig {
    /// With the addresses of the cluster file and a timeout of 10 s.
    pub fn new(cluster: Cluster, identity: SecretKey) -> Self {
        Self { cluster, identity, addresses: None, timeout: Duration::from_secs(10) }
    }
}

/// How fresh a read is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Strength<'a> {
    /// True at some history size that is no lower than any this client has seen: it sees its own writes and never goes back.
    Matching,
    /// True at some history size no lower than this.
    AtLeast(u64),
    /// Linearizable: it sees everything that was acknowledged to anybody before the call. Costs an ordered operation.
    Ordered {
        /// An operation that changes nothing, in the application's encoding; its outcome does not matter.
        barrier: &'a [u8],
    },
}

/// What one replica says about itself, or why it says nothing.
#[derive(Clone, PartialEq, Debug)]
pub struct ReplicaReport {
    /// Its own words; nobody vouches for them.
    pub status: Option<ReplicaStatus>,
    /// Why there is no link to it, if there is none.
    pub link: Option<LinkDown>,
}

/// A connection to a cluster.
///
/// ```no_run
/// use std::path::Path;
/// use std::time::Duration;
///
/// use atlas::client::{Client, ClientConfig, Strength};
/// use atlas_dataplane::cluster::Cluster;
/// use atlas_dataplane::crypto::SecretKey;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let (operation, query) = (vec![0x80], [0x80]);
/// let cluster = Cluster::load(Path::new("cluster.toml"))?;
/// let identity = SecretKey::load(Path::new("gateway.key"))?;
/// let mut client = Client::connect(ClientConfig::new(cluster, identity))?;
///
/// // One operation, waited for.
/// let results = client.execute(vec![operation.clone()])?;
/// println!("{} at {}", results[0].code, results[0].position);
///
/// // A read that sees it.
/// let read = client.read(&query, Strength::Matching)?;
/// println!("{} bytes at size {}", read.body.len(), read.size);
///
/// // Many under way.
/// for _ in 0..100 {
///     client.submit(&[operation.clone()], &Default::default())?;
/// }
/// while client.open_tickets() > 0 {
///     for done in client.poll(Duration::from_millis(100))? {
///         println!("{:?}: {:?}", done.ticket, done.result);
///     }
/// }
/// # Ok(())
/// # }
/// ```
pub struct Client {
    driver: Driver,
    id: ClientId,
    timeout: Duration,
    /// Ended while a call waited for another ticket.
    ended: VecDeque<Done>,
}

impl Client {
    /// Prepares a client; its links are dialled while its methods run.
    ///
    /// # Errors
    /// [`Error::UnknownIdentity`], [`Error::Addresses`]; [`Error::Net`] where io_uring does not work.
    pub fn connect(config: ClientConfig) -> Result<Self, Error> {
        let ClientConfig { cluster, identity, addresses, timeout } = config;
        if !cluster.may_know(&identity.public()) {
            return Err(Error::UnknownIdentity(identity.public()));
        }
        let mut driver = Driver::new(&cluster, addresses, 1)?;
        let id = driver.add_client(identity)?;
        let mut client = Self { driver, id, timeout, ended: VecDeque::new() };
        client.turn(Duration::ZERO)?;
        Ok(client)
    }

    /// Executes operations (1 to 256, encoded for the application) one after the other, and waits for their results.
    ///
    /// # Errors
    /// [`Error::Submit`]: nothing was sent. [`Error::Operation`]: see [`ClientError`] for what it means.
    pub fn execute(&mut self, operations: Vec<Vec<u8>>) -> Result<Vec<RequestResult>, Error> {
        let options = SubmitOptions { timeout_ms: driver::milliseconds(self.timeout), ..SubmitOptions::default() };
        let ticket = self.submit(&operations, &options)?;
        drop(operations);
        match self.wait_for(ticket)? {
            Completion::Executed(results) => Ok(results),
            _ => Err(Error::WrongCompletion),
        }
    }

    /// Reads, and waits for the answer.
    ///
    /// # Errors
    /// [`Error::Submit`], [`Error::Operation`].
    pub fn read(&mut self, query: &[u8], strength: Strength<'_>) -> Result<ReadResult, Error> {
        let timeout_ms = driver::milliseconds(self.timeout);
        let mut options = ReadOptions { timeout_ms, ..ReadOptions::default() };
        let ticket = match strength {
            Strength::Matching => self.driver.query(self.id, query, &options)?,
            Strength::AtLeast(size) => {
                options.min_size = Some(size);
                self.driver.query(self.id, query, &options)?
            }
            Strength::Ordered { barrier } => self.driver.read_ordered(self.id, barrier, query, &options)?,
        };
        match self.wait_for(ticket)? {
            Completion::Read(read) => Ok(read),
            _ => Err(Error::WrongCompletion),
        }
    }

    /// Begins to execute operations; [`Client::poll`] brings the result.
    ///
    /// # Errors
    /// [`Error::Submit`]: nothing was sent. On [`SubmitError::WindowFull`] poll first.
    pub fn submit(&mut self, operations: &[Vec<u8>], options: &SubmitOptions) -> Result<Ticket, Error> {
        self.driver.submit(self.id, operations, options)
    }

    /// Begins a matching read; [`Client::poll`] brings the answer.
    ///
    /// # Errors
    /// [`Error::Submit`].
    pub fn query(&mut self, query: &[u8], options: &ReadOptions) -> Result<Ticket, Error> {
        self.driver.query(self.id, query, options)
    }

    /// Does what is to be done and gives the tickets that have ended; waits up to `timeout` for the first.
    ///
    /// # Errors
    /// [`Error::Net`]: the client cannot go on.
    pub fn poll(&mut self, timeout: Duration) -> Result<Vec<Done>, Error> {
        let end = Instant::now() + timeout;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            self.turn(if self.ended.is_empty() { left } else { Duration::ZERO })?;
            if !self.ended.is_empty() || left.is_zero() {
                return Ok(self.ended.drain(..).collect());
            }
        }
    }

    /// Tickets that have not ended.
    pub fn open_tickets(&mut self) -> usize {
        self.ended.len() + self.driver.core(self.id).map_or(0, |core| core.open_tickets())
    }

    /// Follows the events behind a position.
    ///
    /// # Errors
    /// [`Error::Submit`].
    pub fn subscribe(&mut self, decoder: Box<dyn PageDecoder>, from: Position) -> Result<Subscription, Error> {
        self.driver.subscribe(self.id, decoder, from)
    }

    /// The next event of a subscription; waits for it up to `timeout`.
    ///
    /// # Errors
    /// [`Error::Net`]: the client cannot go on. [`Error::Operation`]: f+1 replicas say that its key is not in force.
    pub fn next_change(
        &mut self,
        subscription: Subscription,
        timeout: Duration,
    ) -> Result<Option<(Position, Vec<u8>)>, Error> {
        let end = Instant::now() + timeout;
        loop {
            if let Some(event) = self.driver.next_change(self.id, subscription)? {
                return Ok(Some(event));
            }
            if let Some(code) = self.driver.core(self.id)?.refusal(subscription) {
                let source = ClientError::Refused { code, executed: Vec::new() };
                return Err(Error::Operation { source, links: Vec::new() });
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            self.turn(left)?;
        }
    }

    /// Up to where a subscription is complete: subscribe from here to go on, now or in another process.
    pub fn resume_position(&mut self, subscription: Subscription) -> Option<Position> {
        self.driver.core(self.id).ok()?.resume_position(subscription)
    }

    /// Ends a subscription.
    pub fn unsubscribe(&mut self, subscription: Subscription) {
        if let Ok(core) = self.driver.core(self.id) {
            core.unsubscribe(subscription);
        }
    }

    /// Asks every replica how it is, and waits up to `timeout` for their answers: one report for each, by index.
    ///
    /// # Errors
    /// [`Error::Submit`], [`Error::Net`].
    pub fn status(&mut self, timeout: Duration) -> Result<Vec<ReplicaReport>, Error> {
        let ticket = self.driver.status(self.id, timeout)?;
        let Completion::Status(answers) = self.wait_for(ticket)? else { return Err(Error::WrongCompletion) };
        let links = self.driver.links_down(self.id);
        Ok(answers.into_iter().zip(links).map(|(status, link)| ReplicaReport { status, link }).collect())
    }

    /// Asks one replica for something with its proof, and waits for it up to `timeout`. Whoever asks verifies what comes.
    ///
    /// # Errors
    /// [`Error::Submit`], [`Error::Operation`] where nothing came in time, [`Error::NoProof`] with the replica's refusal, [`Error::Net`].
    pub fn prove(&mut self, question: &ProofQuestion, of: ReplicaId, timeout: Duration) -> Result<Vec<u8>, Error> {
        let ticket = self.begin_proof(question, of, timeout)?;
        proved(self.wait_for(ticket), of)
    }

    /// Begins to ask one replica for a proof; [`Client::take_proof`] has it once it is there.
    ///
    /// # Errors
    /// [`Error::Submit`].
    pub fn begin_proof(&mut self, question: &ProofQuestion, of: ReplicaId, timeout: Duration) -> Result<Ticket, Error> {
        self.driver.prove(self.id, question, of, timeout)
    }

    /// The outcome of [`Client::begin_proof`], if another call has seen it come.
    pub fn take_proof(&mut self, ticket: Ticket, of: ReplicaId) -> Option<Result<Vec<u8>, Error>> {
        let place = self.ended.iter().position(|done| done.ticket == ticket)?;
        Some(proved(self.ended.remove(place)?.result, of))
    }

    /// Highest history size that f+1 replicas have proved to this client.
    pub fn highest_size(&mut self) -> u64 {
        self.driver.core(self.id).map_or(0, |core| core.highest_size())
    }

    /// How often each replica contradicted what f+1 others said.
    pub fn lies(&mut self) -> Vec<u64> {
        self.driver.core(self.id).map_or(Vec::new(), |core| core.lies().to_vec())
    }

    fn turn(&mut self, timeout: Duration) -> Result<(), Error> {
        self.driver.poll(timeout)?;
        while let Some(done) = self.driver.next_done() {
            self.ended.push_back(done);
        }
        Ok(())
    }

    /// Waits for a ticket; each has a deadline, so it ends.
    fn wait_for(&mut self, ticket: Ticket) -> Result<Completion, Error> {
        loop {
            if let Some(place) = self.ended.iter().position(|done| done.ticket == ticket)
                && let Some(done) = self.ended.remove(place)
            {
                return done.result;
            }
            self.turn(self.timeout)?;
        }
    }
}

/// What a question after a proof ended with.
fn proved(result: Result<Completion, Error>, of: ReplicaId) -> Result<Vec<u8>, Error> {
    match result? {
        Completion::Proof { code: Code::DONE, body, .. } => Ok(body),
        Completion::Proof { code, size, .. } => Err(Error::NoProof { replica: of, code, size }),
        _ => Err(Error::WrongCompletion),
    }
}
