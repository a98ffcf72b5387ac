//! Snapshots: kept at checkpoints, offered and served to peers that are behind the log, and taken from peers ([`crate::transfer`]).
//!
//! When the state has been executed up to a checkpoint that is due for a snapshot, it is frozen at once and written by the shell beside
//! all other work, the history's files synced first. Once it is durable it stands on the shelf; once a quorum has signed its checkpoint
//! it is offered, and the log below the older of two such snapshots is let go, as soon as both certificates are on the disk too. Two
//! snapshots may be on their way to the disk: a replica whose disk is so slow that a third is due meanwhile leaves that one out.
//! What was due and not kept when a replica went down is frozen again while its log is read.
//!
//! Whoever is behind what the snapshots cover is offered them, even if the own log would reach back: f+1 replicas must say the
//! same to be believed, and logs do not begin at the same place everywhere.

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use super::node::{Node, Shell};
use super::node_error::NodeError;
use crate::crypto::hash::sha256;
use crate::execution::image::Image;
use crate::history::store::EntryStore;
use crate::log::Device;
use crate::ordering::checkpoint::{Certificate, Statement};
use crate::state::Application;
use crate::transfer::{self, Act, Durable, Kept, Offered, PIECE_BYTES};
use crate::types::{EntryIndex, Now, ReplicaId, Sequence};
use crate::wire::error::{FrameError, Misbehaviour};
use crate::wire::frame::Kind;
use crate::wire::message::{self, ArchivedOffer, ArchivedPiece, ArchivedPieces, FetchPieces, Offer, PieceHash};

/// Answers to questions for pieces in a turn; while something is being ordered one.
const ANSWERS_A_TURN: usize = 4;

/// Snapshots that may be on their way to the disk at a time; what is due beyond them is left out.
const SAVING: usize = 2;

/// Certificates that are remembered for a checkpoint that is executed or kept later.
const CERTIFICATES: usize = 4;

/// After there was no room for what peers supplied nothing more is taken for so long, us.
const NO_ROOM_US: u64 = 10_000_000;

/// A snapshot to be written to disk.
pub struct Save {
    /// Its checkpoint.
    pub statement: Statement,
    /// A quorum's signatures, where they are known already.
    pub certificate: Option<Arc<Certificate>>,
    /// Files to be synced before it counts.
    pub files: Vec<PathBuf>,
    content: Content,
}

enum Content {
    Frozen(Image),
    Taken(Arc<Vec<u8>>),
}

impl Save {
    /// One whose bytes are here.
    pub(super) fn taken(
        statement: Statement,
        certificate: Option<Arc<Certificate>>,
        files: Vec<PathBuf>,
        image: Arc<Vec<u8>>,
    ) -> Self {
        Self { statement, certificate, files, content: Content::Taken(image) }
    }

    /// Writes the snapshot's bytes; may take as long as the state is large.
    ///
    /// # Errors
    /// The writer's.
    pub fn write(&self, out: &mut dyn io::Write) -> io::Result<()> {
        match &self.content {
            Content::Frozen(image) => image.write(out),
            Content::Taken(bytes) => out.write_all(bytes),
        }
    }
}

/// What reading the log found to be done about snapshots.
#[derive(Default)]
pub(super) struct Begun {
    /// Snapshots that were due again, and are not on the shelf.
    pub(super) images: Vec<(Statement, Image)>,
    /// Certificates that are not beside their snapshots.
    pub(super) certificates: Vec<Arc<Certificate>>,
    /// Snapshots that are not needed.
    pub(super) gone: Vec<Sequence>,
}

/// What this replica has to do with snapshots.
pub(super) struct Snapshots {
    pub(super) shelf: transfer::Shelf,
    pub(super) receiver: transfer::Receiver,
    questions: transfer::Questions,
    /// Checkpoints of the snapshots that are being written.
    saving: Vec<Sequence>,
    /// The latest certificates.
    certificates: VecDeque<Arc<Certificate>>,
    /// What a start left to be done.
    pub(super) begun: Begun,
    /// What peers supplied and is being written.
    taken: Option<(Arc<Certificate>, Arc<Vec<u8>>)>,
    /// Until when nothing is taken, for want of room, us.
    pause_until_us: u64,
    /// Since when history and state are being taken, us.
    taking_since_us: Option<u64>,
    /// Offers of each peer that were verified in this round.
    verified: Vec<usize>,
    due_us: u64,
}

impl Snapshots {
    pub(super) fn new(
        me: ReplicaId,
        size: crate::cluster::Size,
        shelf: transfer::Shelf,
        bytes_per_second: u64,
    ) -> Self {
        Self {
            shelf,
            receiver: transfer::Receiver::new(me, size),
            questions: transfer::Questions::new(size.n(), bytes_per_second),
            saving: Vec::new(),
            certificates: VecDeque::new(),
            begun: Begun::default(),
            pause_until_us: 0,
            taken: None,
            taking_since_us: None,
            verified: vec![0; size.n()],
            due_us: u64::MAX,
        }
    }

    pub(super) fn due_us(&self) -> u64 {
        self.due_us
    }
}

impl<A: Application, S: EntryStore, D: Device> Node<A, S, D> {
    /// The state after a checkpoint was executed: kept if that is due.
    pub(super) fn take_snapshot(&mut self, statement: Statement, shell: &mut impl Shell<D>) -> Result<(), NodeError> {
        if !self.execution.snapshot_due() || self.snapshots.saving.len() >= SAVING {
            return Ok(());
        }
        let image = self.execution.freeze();
        self.save(statement, image, shell)
    }

    fn save(&mut self, statement: Statement, image: Image, shell: &mut impl Shell<D>) -> Result<(), NodeError> {
        let files = self.execution.store_mut().written_files()?;
        self.snapshots.shelf.will_be_durable();
        self.snapshots.saving.push(statement.sequence);
        shell.keep_snapshot(Save { statement, certificate: None, files, content: Content::Frozen(image) });
        Ok(())
    }

    /// What the start left to be done.
    pub(super) fn finish_start(&mut self, shell: &mut impl Shell<D>) -> Result<(), NodeError> {
        let Begun { images, certificates, gone } = std::mem::take(&mut self.snapshots.begun);
        certificates.iter().for_each(|certificate| shell.keep_certificate(certificate));
        if !gone.is_empty() {
            shell.drop_snapshots(&gone);
        }
        images.into_iter().try_for_each(|(statement, image)| self.save(statement, image, shell))
    }

    /// A quorum has signed a checkpoint.
    pub(super) fn note_certificate(
        &mut self,
        certificate: &Arc<Certificate>,
        shell: &mut impl Shell<D>,
    ) -> Result<(), NodeError> {
        if self.snapshots.certificates.len() >= CERTIFICATES {
            self.snapshots.certificates.pop_front();
        }
        self.snapshots.certificates.push_back(Arc::clone(certificate));
        self.certify(certificate, shell)
    }

    fn certify(&mut self, certificate: &Arc<Certificate>, shell: &mut impl Shell<D>) -> Result<(), NodeError> {
        if self.snapshots.shelf.certify(certificate) {
            shell.keep_certificate(certificate);
            let gone = self.snapshots.shelf.clear_out();
            self.let_go(&gone, shell)?;
        }
        Ok(())
    }

    /// The snapshot that was to be written is durable, and so is what was to be kept before it.
    ///
    /// # Errors
    /// The node's end.
    pub fn snapshot_kept(&mut self, kept: Kept, now: Now, shell: &mut impl Shell<D>) -> Result<(), NodeError> {
        let sequence = kept.sequence();
        self.snapshots.saving.retain(|saving| *saving != sequence);
        self.snapshots.shelf.is_durable();
        let gone = self.snapshots.shelf.put(kept);
        self.let_go(&gone, shell)?;
        for certificate in self.snapshots.certificates.clone() {
            self.certify(&certificate, shell)?;
        }
        if let Some((certificate, image)) = self.snapshots.taken.take_if(|(taken, _)| taken.sequence() == sequence) {
            // What was decided in this round is executed first.
            self.carry_out(now, shell)?;
            self.install(&certificate, &image, now)?;
            self.turn(now, shell)?;
        }
        Ok(())
    }

    /// The snapshot of this checkpoint could not be written, for want of room: the log stays until one can.
    pub fn snapshot_not_kept(&mut self, sequence: Sequence, now: Now) {
        self.counters.add("snapshots.no_room", 1);
        self.snapshots.saving.retain(|saving| *saving != sequence);
        if self.snapshots.taken.take_if(|(taken, _)| taken.sequence() == sequence).is_some() {
            self.snapshots.receiver.done();
            self.execution.store_mut().unstage();
            self.snapshots.pause_until_us = now.mono_us + NO_ROOM_US;
        }
    }

    /// What peers supplied takes the place of the present state, unless execution has passed it meanwhile.
    fn install(&mut self, certificate: &Arc<Certificate>, image: &[u8], now: Now) -> Result<(), NodeError> {
        let statement = certificate.statement();
        self.snapshots.receiver.done();
        let store = self.execution.store_mut();
        if statement.sequence <= self.ordering.executed() || store.staged() != statement.size {
            store.unstage();
            return Ok(());
        }
        store.adopt()?;
        self.execution.install(image, statement).map_err(NodeError::Install)?;
        self.ordering.install(certificate);
        self.note_head();
        self.counters.add("transfer.installed", 1);
        let since_us = self.snapshots.taking_since_us.take().unwrap_or(now.mono_us);
        self.counters.add("transfer.us", now.mono_us - since_us);
        self.counters.add("transfer.bytes", self.snapshots.receiver.take_received());
        Ok(())
    }

    /// Snapshots are not needed any more, and the log below those that are.
    fn let_go(&mut self, gone: &[Sequence], shell: &mut impl Shell<D>) -> Result<(), NodeError> {
        if !gone.is_empty() {
            shell.drop_snapshots(gone);
        }
        let covered = self.snapshots.shelf.covers().min(self.ordering.low());
        if covered > 0 { self.release_log(covered) } else { Ok(()) }
    }

    /// Tells a peer that is behind the log which snapshots it may take.
    pub(super) fn offer(&mut self, to: ReplicaId, shell: &mut impl Shell<D>) {
        for kept in self.snapshots.shelf.all() {
            let Some(certificate) = &kept.certificate else { continue };
            let offer = Offer { certificate: certificate.bytes(), bytes: kept.bytes, digest: kept.digest().0 };
            self.body.clear();
            message::encode(&offer, &mut self.body);
            shell.to_peer(to, Kind::Offer, &self.body);
        }
    }

    /// A peer offers a snapshot.
    pub(super) fn peer_offer(&mut self, from: ReplicaId, message: &ArchivedOffer) -> Result<(), FrameError> {
        let Some(certificate) = Certificate::from_bytes(&message.certificate) else {
            return Err(Misbehaviour::Malformed { kind: Kind::Offer }.into());
        };
        if certificate.sequence() <= self.ordering.executed() {
            return Ok(());
        }
        if !self.snapshots.receiver.knows(&certificate) {
            let verified = &mut self.snapshots.verified[from.index()];
            *verified += 1;
            if *verified > transfer::SNAPSHOTS_KEPT {
                return Ok(());
            }
            if !certificate.holds(self.config.agreed.size, &self.config.seals) {
                return Err(Misbehaviour::BadSignature { what: "certificate of a snapshot" }.into());
            }
        }
        let digest = crate::types::Digest(message.digest);
        let offer = Offered { certificate: Arc::new(certificate), bytes: message.bytes.to_native(), digest };
        self.snapshots.receiver.offered(from, offer);
        Ok(())
    }

    /// A peer asks for pieces.
    pub(super) fn peer_asks_pieces(&mut self, from: ReplicaId, question: FetchPieces) {
        self.snapshots.questions.ask(from, question);
    }

    /// A peer tells what pieces hash to.
    pub(super) fn peer_hashes(&mut self, from: ReplicaId, message: &ArchivedPieces) {
        let hashes = message.hashes.iter();
        let hashes = hashes.map(|piece| PieceHash { entries: piece.entries.to_native(), hash: piece.hash }).collect();
        let (sequence, first) = (message.sequence.to_native(), message.first.to_native());
        self.snapshots.receiver.hashes(from, sequence, message.of_state, first, hashes);
    }

    /// A peer supplies a piece.
    pub(super) fn peer_piece(&mut self, from: ReplicaId, message: &ArchivedPiece) {
        let (sequence, first) = (message.sequence.to_native(), message.first.to_native());
        self.snapshots.receiver.piece(from, sequence, message.of_state, first, &message.bytes);
    }

    /// Takes what this replica lacks from others, and answers those who lack something.
    pub(super) fn transfer(&mut self, now: Now, shell: &mut impl Shell<D>) -> Result<(), NodeError> {
        self.snapshots.verified.fill(0);
        self.finish_start(shell)?;
        let executed = self.ordering.executed();
        let (tree, store) = self.execution.tree_and_store();
        if now.mono_us >= self.snapshots.pause_until_us {
            self.snapshots.receiver.go_on(now.mono_us, executed, tree, store)?;
        }
        while let Some(act) = self.snapshots.receiver.next_act() {
            match act {
                Act::Ask(peer, question) => {
                    self.body.clear();
                    message::encode(&question, &mut self.body);
                    shell.to_peer(peer, Kind::FetchPieces, &self.body);
                }
                Act::Report(peer, what) => self.accuse(peer, &what, Vec::new(), now),
                Act::Stalled(peer) => self.counters.add(&format!("transfer.stalled.{peer}"), 1),
                // The hashes were what f+1 replicas have, so it is the own part of the history that is another.
                Act::Failed(sequence) => return Err(NodeError::Diverged { sequence }),
                Act::Complete(certificate, image) => self.save_taken(certificate, image, shell)?,
            }
        }
        let is_taking = self.snapshots.receiver.target().is_some();
        self.ordering.takes_state(is_taking);
        match is_taking {
            true => drop(self.snapshots.taking_since_us.get_or_insert(now.mono_us)),
            false => self.snapshots.taking_since_us = None,
        }
        self.answer_questions(now, shell);
        let questions = self.snapshots.questions.due_us();
        let receiver = self.snapshots.receiver.due_us(now.mono_us);
        self.snapshots.due_us = questions.unwrap_or(u64::MAX).min(receiver.unwrap_or(u64::MAX));
        Ok(())
    }

    fn save_taken(
        &mut self,
        certificate: Arc<Certificate>,
        image: Vec<u8>,
        shell: &mut impl Shell<D>,
    ) -> Result<(), NodeError> {
        let image = Arc::new(image);
        let statement = *certificate.statement();
        let files = self.execution.store_mut().written_files()?;
        self.snapshots.shelf.will_be_durable();
        self.snapshots.saving.push(statement.sequence);
        self.snapshots.taken = Some((Arc::clone(&certificate), Arc::clone(&image)));
        shell.keep_snapshot(Save::taken(statement, Some(certificate), files, image));
        Ok(())
    }

    fn answer_questions(&mut self, now: Now, shell: &mut impl Shell<D>) {
        let answers = if self.ordering.is_ordering() { 1 } else { ANSWERS_A_TURN };
        for _ in 0..answers {
            let Some((peer, question)) = self.snapshots.questions.next(now.mono_us) else { return };
            let Some(kept) = self.snapshots.shelf.get(question.sequence).cloned() else {
                self.offer(peer, shell);
                continue;
            };
            self.body.clear();
            let FetchPieces { sequence, of_state, hashes, first } = question;
            let history = self.execution.tree_and_store().1;
            let (kind, bytes) = match (of_state, hashes) {
                (true, true) => {
                    let hashes = kept.hashes.iter().map(|hash| PieceHash { entries: 0, hash: hash.0 }).collect();
                    message::encode(&message::Pieces { sequence, of_state, first: 0, hashes }, &mut self.body);
                    (Kind::Pieces, self.body.len())
                }
                (false, true) => {
                    let hashes = transfer::history_hashes(history, first, kept.statement.size);
                    if hashes.is_empty() {
                        continue;
                    }
                    let read = hashes.len() * PIECE_BYTES;
                    message::encode(&message::Pieces { sequence, of_state, first, hashes }, &mut self.body);
                    (Kind::Pieces, read)
                }
                _ => {
                    let piece = match of_state {
                        true => {
                            let hash = usize::try_from(first).ok().and_then(|first| kept.hashes.get(first));
                            let piece = shell.snapshot_piece(sequence, first);
                            piece.filter(|piece| Some(&sha256(&[piece])) == hash)
                        }
                        false => transfer::history_piece(history, first, kept.statement.size).map(|(bytes, _)| bytes),
                    };
                    // What cannot be read is not served: the peer asks another.
                    let Some(bytes) = piece else {
                        self.counters.add("transfer.unreadable", 1);
                        continue;
                    };
                    let length = bytes.len();
                    message::encode(&message::Piece { sequence, of_state, first, bytes }, &mut self.body);
                    (Kind::Piece, length)
                }
            };
            self.snapshots.questions.spent(bytes);
            shell.to_peer(peer, kind, &self.body);
        }
    }

    /// Bytes of history and state that are supplied to other replicas in a second, at most.
    pub(super) fn set_transfer_rate(&mut self, bytes_per_second: u64) {
        self.snapshots.questions.set_rate(bytes_per_second);
    }

    /// What is being taken from others: its checkpoint, and how many entries of the history are here.
    pub fn taking(&self) -> Option<(Sequence, u64)> {
        self.snapshots.receiver.target()
    }

    /// The entries below this are synced, and no start that finds its snapshots whole executes or writes them again: those under the
    /// oldest snapshot. 0 before its certificate is on the disk.
    pub fn settled(&self) -> EntryIndex {
        let oldest = self.snapshots.shelf.all().first();
        oldest.filter(|kept| kept.durable == Durable::Yes).map_or(0, |kept| kept.statement.size)
    }

    /// Snapshots on the disk, the oldest first.
    pub fn snapshots(&self) -> &[Kept] {
        self.snapshots.shelf.all()
    }
}
