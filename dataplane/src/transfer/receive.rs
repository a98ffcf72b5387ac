//! The receiver's side: a pure state machine over offers, hashes and pieces.

use std::collections::VecDeque;
use std::sync::Arc;

use super::{
    AHEAD, ASKED_OF_ONE, HASHES_AT_ONCE, HEDGE_US, MAX_DOUBLINGS, PIECE_BYTES, REST_US, SNAPSHOTS_KEPT, STALL_US,
    digest, history_piece, pieces,
};
use crate::cluster::Size;
use crate::crypto::hash::sha256;
use crate::history::entry::EntryView;
use crate::history::store::{EntryStore, StoreError};
use crate::history::tree::HistoryTree;
use crate::ordering::checkpoint::Certificate;
use crate::ordering::mutants::{self, Mutant};
use crate::state::Entries;
use crate::types::{Digest, EntryIndex, ReplicaId, Sequence, TimeMs};
use crate::wire::error::Misbehaviour;
use crate::wire::limits::MAX_ENTRY;
use crate::wire::message::{FetchPieces, PieceHash};

/// What the receiver wants done.
#[derive(Clone, Debug)]
pub enum Act {
    /// Ask a peer.
    Ask(ReplicaId, FetchPieces),
    /// A peer did what a correct replica does not do.
    Report(ReplicaId, Misbehaviour),
    /// A peer left a question unanswered.
    Stalled(ReplicaId),
    /// History and snapshot are here and are what was vouched for: make both durable, then use them, then call
    /// [`Receiver::done`].
    Complete(Arc<Certificate>, Vec<u8>),
    /// What f+1 vouched for is not what a quorum certified: more than f replicas are faulty, or this one is.
    Failed(Sequence),
}

/// A peer's offer, its certificate verified.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Offered {
    /// The certificate.
    pub certificate: Arc<Certificate>,
    /// Bytes of the snapshot.
    pub bytes: u64,
    /// Digest over the hashes of its pieces.
    pub digest: Digest,
}

impl Offered {
    fn sequence(&self) -> Sequence {
        self.certificate.sequence()
    }

    /// The same thing, whoever signed its checkpoint.
    fn is(&self, other: &Self) -> bool {
        self.certificate.statement() == other.certificate.statement()
            && (self.bytes, self.digest) == (other.bytes, other.digest)
    }
}

/// A source, as it behaved.
#[derive(Clone, Debug, Default)]
struct Source {
    offers: Vec<Offered>,
    open: usize,
    stalls: u32,
    rests_until_us: u64,
}

/// A piece on its way.
#[derive(Clone, Debug)]
struct Wanted {
    /// Of the history its first entry, of the state its number.
    first: u64,
    entries: u64,
    hash: Digest,
    /// Peers from whom it came wrong, a bit each.
    wrong: u32,
    state: Progress,
}

#[derive(Clone, Debug)]
enum Progress {
    Idle,
    Asked { from: ReplicaId, at_us: u64 },
    Here(Vec<u8>),
}

/// What is being taken.
#[derive(Debug)]
struct Target {
    offer: Offered,
    /// The history up to `next` is here.
    tree: HistoryTree,
    next: EntryIndex,
    part: Part,
}

#[derive(Debug)]
enum Part {
    History(History),
    /// The list of the snapshot's hashes is asked for.
    List(Option<(ReplicaId, u64)>),
    State {
        image: Vec<u8>,
        wanted: Vec<Wanted>,
        missing: usize,
    },
    /// Handed over.
    Whole,
}

#[derive(Debug)]
struct History {
    wanted: VecDeque<Wanted>,
    /// Hashes are wanted from here on, of whom they were asked, when, and what they said.
    list_at: EntryIndex,
    asked: u32,
    asked_at_us: u64,
    /// Others were asked as well, since those are slow.
    hedged: bool,
    /// All answered and no f+1 alike: asked again from here on, us.
    pause_until_us: u64,
    claims: Vec<Option<Vec<PieceHash>>>,
}

/// Takes history and state from peers. See the module.
#[derive(Debug)]
pub struct Receiver {
    me: ReplicaId,
    size: Size,
    sources: Vec<Source>,
    target: Option<Target>,
    acts: VecDeque<Act>,
    /// Bytes that came and were right, for people.
    received: u64,
    /// The time at which it went on last, us.
    now_us: u64,
}

impl Receiver {
    /// A receiver with nothing to do.
    pub fn new(me: ReplicaId, size: Size) -> Self {
        let sources = vec![Source::default(); size.n()];
        Self { me, size, sources, target: None, acts: VecDeque::new(), received: 0, now_us: 0 }
    }

    /// What is being taken: its checkpoint, and how many entries of its history are here.
    pub fn target(&self) -> Option<(Sequence, EntryIndex)> {
        let target = self.target.as_ref()?;
        Some((target.offer.sequence(), target.next))
    }

    /// Bytes of pieces that came and were right, since this was asked last.
    pub fn take_received(&mut self) -> u64 {
        std::mem::take(&mut self.received)
    }

    /// Whether this very certificate was seen before, so that it need not be verified again.
    pub fn knows(&self, certificate: &Certificate) -> bool {
        let mut offers = self.sources.iter().flat_map(|source| &source.offers);
        offers.any(|offer| *offer.certificate == *certificate)
    }

    /// A peer offers a snapshot; its certificate was verified.
    pub fn offered(&mut self, from: ReplicaId, offer: Offered) {
        let Some(source) = self.sources.get_mut(from.index()) else { return };
        if pieces(offer.bytes).is_none() {
            return;
        }
        source.offers.retain(|other| other.sequence() != offer.sequence());
        source.offers.push(offer);
        source.offers.sort_by_key(Offered::sequence);
        if source.offers.len() > SNAPSHOTS_KEPT {
            source.offers.remove(0);
        }
    }

    /// A peer answered with hashes.
    pub fn hashes(&mut self, from: ReplicaId, sequence: Sequence, of_state: bool, first: u64, hashes: Vec<PieceHash>) {
        let Some(target) = self.target.as_mut().filter(|target| target.offer.sequence() == sequence) else { return };
        let wrong = |what| Act::Report(from, Misbehaviour::WrongPiece { sequence, what });
        match &mut target.part {
            Part::History(history) if !of_state && first == history.list_at => {
                let room = target.offer.certificate.statement().size - first;
                let entries = hashes.iter().try_fold(0u64, |sum, piece| sum.checked_add(piece.entries));
                let is_sound = hashes.len() as u64 <= HASHES_AT_ONCE
                    && hashes.iter().all(|piece| piece.entries > 0)
                    && entries.is_some_and(|entries| (1..=room).contains(&entries));
                if !is_sound {
                    self.acts.push_back(wrong("history"));
                } else if let Some(claim) = history.claims.get_mut(from.index()) {
                    claim.get_or_insert(hashes);
                }
            }
            Part::List(asked @ Some(_)) if of_state && asked.is_some_and(|(peer, _)| peer == from) => {
                let list: Vec<Digest> = hashes.iter().map(|piece| Digest(piece.hash)).collect();
                *asked = None;
                if pieces(target.offer.bytes) != Some(list.len()) || digest(&list) != target.offer.digest {
                    self.acts.push_back(wrong("state"));
                    self.rest(from, self.now_us);
                    return;
                }
                let wanted = list.into_iter().enumerate();
                let wanted: Vec<Wanted> = wanted.map(|(number, hash)| Wanted::new(number as u64, 0, hash)).collect();
                let (image, missing) = (vec![0; target.offer.bytes as usize], wanted.len());
                target.part = Part::State { image, wanted, missing };
            }
            _ => {}
        }
    }

    /// A peer answered with a piece.
    pub fn piece(&mut self, from: ReplicaId, sequence: Sequence, of_state: bool, first: u64, bytes: &[u8]) {
        let Some(target) = self.target.as_mut().filter(|target| target.offer.sequence() == sequence) else { return };
        let wanted = match &mut target.part {
            Part::History(history) if !of_state => history.wanted.iter_mut().find(|wanted| wanted.first == first),
            Part::State { wanted, .. } if of_state => {
                usize::try_from(first).ok().and_then(|first| wanted.get_mut(first))
            }
            _ => None,
        };
        let Some(wanted) = wanted else { return };
        match wanted.state {
            Progress::Asked { from: asked, .. } if asked == from => {}
            _ => return,
        }
        let source = &mut self.sources[from.index()];
        source.open = source.open.saturating_sub(1);
        if sha256(&[bytes]) != wanted.hash && !mutants::on(Mutant::BelievesPieces) {
            wanted.state = Progress::Idle;
            wanted.wrong |= 1 << from.0;
            let what = if of_state { "state" } else { "history" };
            self.acts.push_back(Act::Report(from, Misbehaviour::WrongPiece { sequence, what }));
            self.rest(from, self.now_us);
            return;
        }
        source.stalls = 0;
        self.received += bytes.len() as u64;
        wanted.state = Progress::Here(bytes.to_vec());
        if let Part::State { image, wanted, missing } = &mut target.part {
            let at = first as usize * PIECE_BYTES;
            if let Some(room) = image.get_mut(at..at + bytes.len()) {
                room.copy_from_slice(bytes);
            }
            if let Some(wanted) = wanted.get_mut(first as usize) {
                wanted.state = Progress::Here(Vec::new());
            }
            *missing -= 1;
        }
    }

    /// Goes on: begins where enough peers offer the same, asks, stages what came. `executed` and `tree` are this replica's own state.
    ///
    /// # Errors
    /// The store's.
    pub fn go_on<S: EntryStore>(
        &mut self,
        now_us: u64,
        executed: Sequence,
        tree: &HistoryTree,
        store: &mut S,
    ) -> Result<(), StoreError> {
        self.now_us = now_us;
        self.choose(executed, tree, store);
        if self.target.is_none() {
            return Ok(());
        }
        self.look_for_stalls(now_us);
        self.take_history(now_us, tree, store)?;
        self.take_state(now_us);
        Ok(())
    }

    /// When [`Receiver::go_on`] has something to do even if nothing comes, us.
    pub fn due_us(&self, now_us: u64) -> Option<u64> {
        let target = self.target.as_ref()?;
        (!matches!(target.part, Part::Whole)).then_some(now_us + HEDGE_US)
    }

    /// The next thing to do.
    pub fn next_act(&mut self) -> Option<Act> {
        self.acts.pop_front()
    }

    /// What was complete is used now, or of no use.
    pub fn done(&mut self) {
        self.target = None;
        self.forget_questions();
    }

    fn forget_questions(&mut self) {
        self.sources.iter_mut().for_each(|source| source.open = 0);
    }

    /// So many must say the same to be believed: one of them is correct.
    fn needed(&self) -> usize {
        if mutants::on(Mutant::OneVoucher) { 1 } else { self.size.one_correct() }
    }

    /// Peers that offer this very snapshot, a bit each.
    fn vouchers(&self, offer: &Offered) -> u32 {
        let vouches = |source: &Source| source.offers.iter().any(|other| other.is(offer));
        let sources = self.sources.iter().enumerate();
        sources.filter(|(_, source)| vouches(source)).fold(0, |bits, (peer, _)| bits | 1 << peer)
    }

    /// Chooses what to take: what is being taken as long as f+1 offer it, else the newest that f+1 do.
    fn choose<S: EntryStore>(&mut self, executed: Sequence, tree: &HistoryTree, store: &mut S) {
        let one_correct = self.needed() as u32;
        if let Some(target) = &self.target {
            if matches!(target.part, Part::Whole) {
                return;
            }
            let offered = self.vouchers(&target.offer).count_ones() >= one_correct;
            if offered && target.offer.sequence() > executed {
                return;
            }
        }
        let offers = self.sources.iter().flat_map(|source| &source.offers);
        let good =
            offers.filter(|offer| offer.sequence() > executed && self.vouchers(offer).count_ones() >= one_correct);
        let best = good.max_by_key(|offer| offer.sequence()).cloned();
        let old = self.target.take();
        self.forget_questions();
        let Some(offer) = best else {
            if old.is_some() {
                store.unstage();
            }
            for source in &mut self.sources {
                source.offers.retain(|offer| offer.sequence() > executed);
            }
            return;
        };
        let tree = match old {
            Some(old) if old.next == store.staged() && old.next <= offer.certificate.statement().size => old.tree,
            _ => {
                store.unstage();
                tree.clone()
            }
        };
        let statement = *offer.certificate.statement();
        for (peer, source) in self.size.replicas().zip(&self.sources) {
            let differs = |other: &Offered| *other.certificate.statement() == statement && !other.is(&offer);
            if source.offers.iter().any(differs) {
                let what = Misbehaviour::WrongPiece { sequence: statement.sequence, what: "state" };
                self.acts.push_back(Act::Report(peer, what));
            }
        }
        let next = tree.size();
        if next > offer.certificate.statement().size {
            // Not possible with at most f Byzantine replicas.
            self.acts.push_back(Act::Failed(offer.sequence()));
            return;
        }
        self.target = Some(Target { offer, tree, next, part: Part::History(History::new(self.size.n(), next)) });
    }

    /// Questions that were left unanswered are asked again elsewhere.
    fn look_for_stalls(&mut self, now_us: u64) {
        let Some(target) = &mut self.target else { return };
        let mut stalled = 0u32;
        let wanted: &mut dyn Iterator<Item = &mut Wanted> = match &mut target.part {
            Part::History(history) => &mut history.wanted.iter_mut(),
            Part::State { wanted, .. } => &mut wanted.iter_mut(),
            _ => &mut std::iter::empty(),
        };
        for piece in wanted {
            if let Progress::Asked { from, at_us } = piece.state
                && at_us + STALL_US <= now_us
            {
                piece.state = Progress::Idle;
                stalled |= 1 << from.0;
            }
        }
        match &mut target.part {
            Part::List(asked) => {
                if let Some((from, _)) = asked.take_if(|(_, at_us)| *at_us + STALL_US <= now_us) {
                    stalled |= 1 << from.0;
                }
            }
            Part::History(history) if history.asked != 0 && history.asked_at_us + STALL_US <= now_us => {
                let silent = (0..history.claims.len()).filter(|peer| history.claims[*peer].is_none());
                stalled |= silent.fold(0, |bits, peer| bits | 1 << peer) & history.asked;
                // Everybody is asked now; those who answered meanwhile need not.
                history.asked = 0;
            }
            _ => {}
        }
        for peer in self.size.replicas().filter(|peer| stalled & (1 << peer.0) != 0) {
            self.acts.push_back(Act::Stalled(peer));
            self.sources[peer.index()].open = 0;
            self.rest(peer, now_us);
        }
    }

    fn rest(&mut self, peer: ReplicaId, now_us: u64) {
        let source = &mut self.sources[peer.index()];
        source.rests_until_us = now_us + (REST_US << source.stalls.min(MAX_DOUBLINGS));
        source.stalls = source.stalls.saturating_add(1);
    }

    fn take_history<S: EntryStore>(
        &mut self,
        now_us: u64,
        tree: &HistoryTree,
        store: &mut S,
    ) -> Result<(), StoreError> {
        let Some(target) = &mut self.target else { return Ok(()) };
        let statement = *target.offer.certificate.statement();
        if !matches!(target.part, Part::Whole) && store.staged() != target.next {
            // Batches came after all and were executed meanwhile, which forgets what was staged.
            store.unstage();
            (target.tree, target.next) = (tree.clone(), tree.size());
            target.part = Part::History(History::new(self.size.n(), target.next));
            self.forget_questions();
        }
        let Some(Target { tree, next, part: Part::History(history), .. }) = &mut self.target else { return Ok(()) };
        while let Some(front) = history.wanted.front() {
            let Progress::Here(bytes) = &front.state else { break };
            let Some(entries) = entries(bytes, front.entries) else {
                self.acts.push_back(Act::Failed(statement.sequence));
                self.target = None;
                store.unstage();
                return Ok(());
            };
            for (entry, time_ms) in entries {
                let nodes = tree.append(entry);
                store.stage(entry, time_ms, &nodes)?;
            }
            *next += front.entries;
            history.wanted.pop_front();
        }
        if *next == statement.size {
            if tree.root() == statement.history_root {
                self.target = self.target.take().map(|target| Target { part: Part::List(None), ..target });
            } else {
                self.acts.push_back(Act::Failed(statement.sequence));
                self.target = None;
                store.unstage();
            }
            return Ok(());
        }
        self.learn_hashes(now_us, store);
        self.ask_for_pieces(now_us);
        Ok(())
    }

    /// Believes the hashes that f+1 say alike, and asks for the next ones.
    fn learn_hashes(&mut self, now_us: u64, store: &impl EntryStore) {
        let one_correct = self.needed();
        let Some(Target { offer, part: Part::History(history), .. }) = &self.target else { return };
        let vouchers = self.vouchers(offer);
        let (sequence, end) = (offer.sequence(), offer.certificate.statement().size);
        let counted = history
            .claims
            .iter()
            .flatten()
            .find(|claim| history.claims.iter().flatten().filter(|other| other == claim).count() >= one_correct);
        let agreed = counted.cloned();
        let resting: u32 = self.resting(now_us);
        let Some(Target { part: Part::History(history), .. }) = &mut self.target else { return };
        let mut liars = Vec::new();
        if let Some(agreed) = agreed {
            for peer in self.size.replicas() {
                let claim = history.claims[peer.index()].take();
                if claim.is_some_and(|claim| claim != agreed) {
                    self.acts.push_back(Act::Report(peer, Misbehaviour::WrongPiece { sequence, what: "history" }));
                    liars.push(peer);
                }
            }
            (history.asked, history.hedged) = (0, false);
            for piece in agreed {
                let mut wanted = Wanted::new(history.list_at, piece.entries, Digest(piece.hash));
                history.list_at += piece.entries;
                let left = history_piece(&LeftBehind(store), wanted.first, history.list_at);
                if let Some((bytes, entries)) = left
                    && entries == wanted.entries
                    && sha256(&[&bytes]) == wanted.hash
                {
                    wanted.state = Progress::Here(bytes);
                }
                history.wanted.push_back(wanted);
            }
        }
        let heard = history.claims.iter().enumerate().filter(|(_, claim)| claim.is_some());
        history.asked &= !heard.fold(0u32, |bits, (peer, _)| bits | 1 << peer);
        // Who is asked next when those who were asked are silent for a moment, or said different things.
        let hedges = history.asked != 0 && history.asked_at_us + HEDGE_US <= now_us && !history.hedged;
        let is_due = (history.asked == 0 || hedges) && now_us >= history.pause_until_us;
        if is_due && history.list_at < end && history.wanted.len() < AHEAD {
            let answered = history.claims.iter().enumerate().filter(|(_, claim)| claim.is_some());
            let answered = answered.fold(0u32, |bits, (peer, _)| bits | 1 << peer);
            if vouchers & !answered == 0 {
                history.claims.fill(None);
                history.pause_until_us = now_us + STALL_US;
                return;
            }
            // Of those who did not stall as many as are needed, another one with each list; where they are too few, everybody.
            let mut ask = vouchers & !answered & !resting;
            if answered == 0 && ask.count_ones() as usize >= one_correct {
                let mut spare = history.list_at as u32;
                while ask.count_ones() as usize > one_correct {
                    ask &= !(1 << (spare % u32::BITS));
                    spare = spare.wrapping_add(1);
                }
            } else {
                ask = vouchers & !answered;
            }
            if hedges {
                ask = vouchers & !answered & !history.asked;
            }
            history.hedged = hedges;
            (history.asked, history.asked_at_us) =
                (history.asked | ask, if hedges { history.asked_at_us } else { now_us });
            let first = history.list_at;
            for peer in self.size.replicas().filter(|peer| ask & (1 << peer.0) != 0) {
                let question = FetchPieces { sequence, of_state: false, hashes: true, first };
                self.acts.push_back(Act::Ask(peer, question));
            }
        }
        liars.into_iter().for_each(|peer| self.rest(peer, now_us));
    }

    /// Peers that stalled a moment ago, a bit each.
    fn resting(&self, now_us: u64) -> u32 {
        let sources = self.sources.iter().enumerate();
        sources.filter(|(_, source)| source.rests_until_us > now_us).fold(0, |bits, (peer, _)| bits | 1 << peer)
    }

    fn take_state(&mut self, now_us: u64) {
        let resting = self.resting(now_us);
        let Some(target) = &self.target else { return };
        let vouchers = self.vouchers(&target.offer);
        let rested = if vouchers & !resting == 0 { vouchers } else { vouchers & !resting };
        let Some(target) = &mut self.target else { return };
        let sequence = target.offer.sequence();
        match &mut target.part {
            Part::List(asked @ None) => {
                let Some(peer) = self.size.replicas().find(|peer| rested & (1 << peer.0) != 0) else { return };
                *asked = Some((peer, now_us));
                let question = FetchPieces { sequence, of_state: true, hashes: true, first: 0 };
                self.acts.push_back(Act::Ask(peer, question));
            }
            Part::State { image, missing: 0, .. } => {
                let image = std::mem::take(image);
                let certificate = Arc::clone(&target.offer.certificate);
                target.part = Part::Whole;
                self.acts.push_back(Act::Complete(certificate, image));
            }
            Part::State { .. } => self.ask_for_pieces(now_us),
            _ => {}
        }
    }

    /// Asks for pieces that nobody was asked for, each of the source with the fewest open questions.
    fn ask_for_pieces(&mut self, now_us: u64) {
        let Some(target) = &self.target else { return };
        let (vouchers, resting) = (self.vouchers(&target.offer), self.resting(now_us));
        let me = self.me;
        let Some(Target { offer, part, .. }) = &mut self.target else { return };
        let (sources, sequence) = (&mut self.sources, offer.sequence());
        let of_state = matches!(part, Part::State { .. });
        let wanted: &mut dyn Iterator<Item = &mut Wanted> = match part {
            Part::History(history) => &mut history.wanted.iter_mut(),
            Part::State { wanted, .. } => &mut wanted.iter_mut(),
            _ => return,
        };
        for piece in wanted.filter(|piece| matches!(piece.state, Progress::Idle)) {
            if vouchers & !piece.wrong == 0 {
                piece.wrong = 0;
            }
            let usable = vouchers & !piece.wrong;
            let usable = if usable & !resting == 0 { usable } else { usable & !resting };
            let free = sources.iter().enumerate().filter(|(peer, source)| {
                usable & (1 << peer) != 0 && source.open < ASKED_OF_ONE && *peer != me.index()
            });
            let Some((peer, _)) = free.min_by_key(|(_, source)| source.open) else { return };
            sources[peer].open += 1;
            let from = ReplicaId(peer as u8);
            piece.state = Progress::Asked { from, at_us: now_us };
            let question = FetchPieces { sequence, of_state, hashes: false, first: piece.first };
            self.acts.push_back(Act::Ask(from, question));
        }
    }
}

impl Wanted {
    fn new(first: u64, entries: u64, hash: Digest) -> Self {
        Self { first, entries, hash, wrong: 0, state: Progress::Idle }
    }
}

impl History {
    fn new(n: usize, next: EntryIndex) -> Self {
        Self {
            wanted: VecDeque::new(),
            list_at: next,
            asked: 0,
            asked_at_us: 0,
            hedged: false,
            pause_until_us: 0,
            claims: vec![None; n],
        }
    }
}

/// The entries of a piece with their times; `None` where it is not exactly so many.
fn entries(mut bytes: &[u8], count: u64) -> Option<Vec<(&[u8], TimeMs)>> {
    let mut entries = Vec::new();
    while let Some((length, rest)) = bytes.split_first_chunk::<4>() {
        let length = u32::from_le_bytes(*length) as usize;
        if length > MAX_ENTRY || length > rest.len() {
            return None;
        }
        let (entry, rest) = rest.split_at(length);
        entries.push((entry, EntryView::decode(entry).ok()?.time_ms()));
        bytes = rest;
    }
    (bytes.is_empty() && entries.len() as u64 == count).then_some(entries)
}

/// What earlier lives left in the files, as a history.
struct LeftBehind<'a, S>(&'a S);

impl<S: EntryStore> Entries for LeftBehind<'_, S> {
    fn size(&self) -> EntryIndex {
        self.0.size()
    }

    fn entry(&self, index: EntryIndex) -> Option<std::borrow::Cow<'_, [u8]>> {
        self.0.left_behind(index).map(std::borrow::Cow::Owned)
    }

    fn first_at_or_after(&self, time_ms: TimeMs) -> EntryIndex {
        self.0.first_at_or_after(time_ms)
    }
}
