//! One end of a connection to a replica, over a blocking socket.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use atlas_dataplane::crypto::link::LinkIdentity;
use atlas_dataplane::crypto::session::Session;
use atlas_dataplane::types::{Digest, PublicKey, ReplicaId};
use atlas_dataplane::wire::frame::{Kind, Sender};
use atlas_dataplane::wire::message::{self, Message, Vote, Votes};

use super::{Cluster, PATIENCE};

pub struct Link {
    pub stream: TcpStream,
    session: Session,
    pub inbox: VecDeque<(Kind, Vec<u8>)>,
    /// Every byte that was written and read, for those who replay or look at them.
    pub written: Vec<u8>,
    pub read: Vec<u8>,
    peer: Option<PublicKey>,
}

/// Why a link is over.
#[derive(Debug)]
pub struct Gone(pub String);

impl Link {
    /// Connects to a replica as a client.
    pub fn client(cluster: &Cluster, index: usize, identity: Arc<LinkIdentity>) -> Result<Self, Gone> {
        Self::dial(cluster, index, identity, Sender::Server)
    }

    /// Connects to a replica with the key of another.
    pub fn replica(cluster: &Cluster, index: usize, identity: Arc<LinkIdentity>) -> Result<Self, Gone> {
        Self::dial(cluster, index, identity, Sender::Replica)
    }

    fn dial(cluster: &Cluster, index: usize, identity: Arc<LinkIdentity>, class: Sender) -> Result<Self, Gone> {
        let expected = cluster.file.member(ReplicaId(index as u8)).unwrap().link_key;
        Self::dial_at(&cluster.address(index), &cluster.file.genesis(), identity, expected, class)
    }

    pub fn dial_at(
        address: &str,
        genesis: &Digest,
        identity: Arc<LinkIdentity>,
        expected: PublicKey,
        class: Sender,
    ) -> Result<Self, Gone> {
        let stream = TcpStream::connect(address).map_err(gone)?;
        let mut first = Vec::new();
        let session = Session::initiator(identity, genesis, 0, expected, class, &mut first).map_err(gone)?;
        Self::establish(stream, session, &first)
    }

    /// Accepts a connection in the place of a replica; whoever comes is taken for a replica or a client by its key.
    pub fn accept(
        cluster: &Cluster,
        listener: &TcpListener,
        identity: Arc<LinkIdentity>,
    ) -> Result<(Self, PublicKey), Gone> {
        let (stream, _) = listener.accept().map_err(gone)?;
        stream.set_nonblocking(false).map_err(gone)?;
        let session = Session::responder(identity, &cluster.file.genesis(), 0).map_err(gone)?;
        let file = cluster.file.clone();
        let mut link = Self::new(stream, session);
        link.wait_established(&|key| {
            Some(if file.replica_by_link_key(key).is_some() { Sender::Replica } else { Sender::Client })
        })?;
        let peer = link.peer.ok_or_else(|| Gone("nobody".to_owned()))?;
        Ok((link, peer))
    }

    fn new(stream: TcpStream, session: Session) -> Self {
        let _ = stream.set_nodelay(true);
        Self { stream, session, inbox: VecDeque::new(), written: Vec::new(), read: Vec::new(), peer: None }
    }

    fn establish(stream: TcpStream, session: Session, first: &[u8]) -> Result<Self, Gone> {
        let mut link = Self::new(stream, session);
        link.write(first)?;
        link.wait_established(&|_| None)?;
        Ok(link)
    }

    fn wait_established(&mut self, admit: &dyn Fn(&PublicKey) -> Option<Sender>) -> Result<(), Gone> {
        let deadline = Instant::now() + PATIENCE;
        while !self.session.is_established() {
            self.pump(Duration::from_millis(500), admit)?;
            if Instant::now() > deadline {
                return Err(Gone("the handshake takes too long".to_owned()));
            }
        }
        Ok(())
    }

    /// Writes bytes as they are.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), Gone> {
        self.written.extend_from_slice(bytes);
        self.stream.write_all(bytes).map_err(gone)
    }

    /// Seals and sends a body.
    pub fn send(&mut self, kind: Kind, body: &[u8]) -> Result<(), Gone> {
        let mut out = Vec::new();
        self.session.send(kind, &mut out, |frame| frame.extend_from_slice(body)).map_err(gone)?;
        self.write(&out)
    }

    pub fn send_message<M>(&mut self, message: &M) -> Result<(), Gone>
    where
        M: Message
            + for<'a> rkyv::Serialize<
                rkyv::api::high::HighSerializer<Vec<u8>, rkyv::ser::allocator::ArenaHandle<'a>, rkyv::rancor::Failure>,
            >,
    {
        let mut body = Vec::new();
        message::encode(message, &mut body);
        self.send(M::KIND, &body)
    }

    pub fn send_votes(&mut self, kind: Kind, view: u64, votes: &[(u64, Digest)]) -> Result<(), Gone> {
        let votes = votes.iter().map(|(sequence, digest)| Vote { sequence: *sequence, digest: digest.0 }).collect();
        let mut body = Vec::new();
        Votes { view, votes }.encode(&mut body);
        self.send(kind, &body)
    }

    /// Reads what is there, waiting at most so long for the first byte.
    pub fn poll(&mut self, wait: Duration) -> Result<(), Gone> {
        self.pump(wait, &|_| None)
    }

    fn pump(&mut self, wait: Duration, admit: &dyn Fn(&PublicKey) -> Option<Sender>) -> Result<(), Gone> {
        self.stream.set_read_timeout(Some(wait.max(Duration::from_micros(1)))).map_err(gone)?;
        let mut chunk = vec![0; 64 << 10];
        let count = match self.stream.read(&mut chunk) {
            Ok(0) => return Err(Gone("closed by the replica".to_owned())),
            Ok(count) => count,
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted) =>
            {
                return Ok(());
            }
            Err(error) => return Err(gone(error)),
        };
        self.read.extend_from_slice(&chunk[..count]);
        let (inbox, mut reply) = (&mut self.inbox, Vec::new());
        let mut peer = None;
        self.session
            .receive(
                &mut chunk[..count],
                &mut reply,
                |key| admit(key),
                |from, kind, body| {
                    peer = Some(from.key);
                    inbox.push_back((kind, body.to_vec()));
                    Ok(())
                },
            )
            .map_err(gone)?;
        self.peer = self.session.peer().map(|peer| peer.key);
        if reply.is_empty() { Ok(()) } else { self.write(&reply) }
    }

    /// Waits until the replica closes the connection, which it must.
    pub fn wait_closed(mut self) {
        let deadline = Instant::now() + PATIENCE;
        while self.poll(Duration::from_millis(100)).is_ok() {
            assert!(Instant::now() < deadline, "the replica keeps a connection that it must close");
        }
    }
}

/// Waits until the other end closes a bare connection.
pub fn wait_closed(mut stream: TcpStream) {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut chunk = [0; 4096];
    loop {
        match stream.read(&mut chunk) {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                panic!("the replica keeps a connection that it must close")
            }
            Err(_) => return,
        }
    }
}

fn gone(error: impl std::fmt::Display) -> Gone {
    Gone(error.to_string())
}
