//! VIEW-CHANGE and NEW-VIEW: what they say, their signed bytes, and when they are valid.
//!
//! Both are signed over plain bytes of their own, little-endian, which travel as they are: who passes one on passes on exactly what
//! was signed. A value of the types here was verified, or is this replica's own.
//!
//! ```text
//! VIEW-CHANGE  view 8, replica 1, certificate of h, P: count 4 and entries, Q: count 4 and entries; entry: sequence 8, digest 32, view 8
//! NEW-VIEW     view 8, leader 1, S: count 4 and {length 4, VIEW-CHANGE, signature 64} ascending by replica, start 8, count 4, digests
//! ```

use std::sync::Arc;

use super::Agreed;
use super::bytes::Input;
use super::checkpoint::Certificate;
use super::choice::{Choice, Choices, Entry, Report, choose};
use super::mutants::{self, Mutant};
use super::record::Record;
use super::seal::Seals;
use crate::crypto::context;
use crate::evidence::Sealed;
use crate::log::Durable;
use crate::types::{Digest, ReplicaId, Signature, View};
use crate::wire::error::Misbehaviour;
use crate::wire::frame::Kind;

/// Bytes of an entry of P or Q.
const ENTRY_BYTES: usize = 48;

/// Longest NEW-VIEW, bytes: it must fit a record of the log. The VIEW-CHANGEs of correct replicas have about 100 bytes for each
/// sequence of the window; one that a Byzantine replica inflates is left out where it does not fit.
pub const MAX_NEW_VIEW: usize = 3 << 19;

/// Most choices in a NEW-VIEW: a window.
const MAX_CHOICES: usize = 256;

/// The VIEW-CHANGEs that fit a NEW-VIEW together, the shortest first choice, ascending by replica.
pub(super) fn fitting<'a>(changes: impl Iterator<Item = &'a SignedViewChange>) -> Vec<&'a SignedViewChange> {
    let mut set: Vec<_> = changes.collect();
    set.sort_by_key(|change| change.body.len());
    let mut bytes = 0;
    set.retain(|change| {
        bytes += change.body.len() + 128;
        bytes <= MAX_NEW_VIEW - 32 * MAX_CHOICES
    });
    set.sort_by_key(|change| change.replica);
    set
}

/// A VIEW-CHANGE that was verified.
#[derive(Clone, PartialEq, Debug)]
pub struct SignedViewChange {
    pub(super) view: View,
    pub(super) replica: ReplicaId,
    pub(super) certificate: Arc<Certificate>,
    pub(super) report: Report,
    body: Arc<[u8]>,
    signature: Signature,
}

/// The signed bytes of this replica's VIEW-CHANGE.
pub(super) fn body(view: View, replica: ReplicaId, certificate: &Certificate, report: &Report) -> Arc<[u8]> {
    let mut out = view.to_le_bytes().to_vec();
    out.push(replica.0);
    out.extend_from_slice(&certificate.bytes());
    for entries in [&report.prepared, &report.pre_prepared] {
        out.extend_from_slice(&(entries.len() as u32).to_le_bytes());
        for entry in entries {
            out.extend_from_slice(&entry.sequence.to_le_bytes());
            out.extend_from_slice(&entry.digest.0);
            out.extend_from_slice(&entry.view.to_le_bytes());
        }
    }
    out.into()
}

fn entries(input: &mut Input<'_>) -> Option<Vec<Entry>> {
    let count = input.count(ENTRY_BYTES)?;
    (0..count).map(|_| Some(Entry { sequence: input.u64()?, digest: input.digest()?, view: input.u64()? })).collect()
}

impl SignedViewChange {
    /// The own VIEW-CHANGE, now that it is durable.
    pub(super) fn own(record: &Durable<Record>, seals: &Seals) -> Option<Self> {
        let Record::Leaves { body, .. } = &**record else { return None };
        let signature = seals.sign(context::VIEW_CHANGE, body);
        Self::read(body, signature)
    }

    fn read(body: &[u8], signature: Signature) -> Option<Self> {
        let mut input = Input(body);
        let (view, replica) = (input.u64()?, input.replica()?);
        let certificate = Certificate::read(&mut input)?;
        let (prepared, pre_prepared) = (entries(&mut input)?, entries(&mut input)?);
        let report = Report { h: certificate.sequence(), prepared, pre_prepared };
        let end = input.0.is_empty();
        end.then(|| Self { view, replica, certificate: Arc::new(certificate), report, body: body.into(), signature })
    }

    /// Reads and verifies one.
    ///
    /// # Errors
    /// What no correct replica signs or sends.
    pub(super) fn open(
        body: &[u8],
        signature: Signature,
        agreed: &Agreed,
        seals: &Seals,
    ) -> Result<Self, Misbehaviour> {
        let invalid = Misbehaviour::BadSignature { what: "VIEW-CHANGE" };
        let change = Self::read(body, signature).ok_or(Misbehaviour::InvalidViewChange { view: 0 })?;
        if !seals.holds(change.replica, context::VIEW_CHANGE, body, &signature) {
            return Err(invalid);
        }
        let view = change.view;
        change
            .report
            .validate(view, agreed.window, agreed.size)
            .map_err(|_| Misbehaviour::InvalidViewChange { view })?;
        if !change.certificate.holds(agreed.size, seals) {
            return Err(Misbehaviour::InvalidViewChange { view });
        }
        Ok(change)
    }

    /// The message as evidence.
    pub(super) fn sealed(&self) -> Sealed {
        Sealed { kind: Kind::ViewChange, replica: self.replica, body: self.body.to_vec(), signature: self.signature }
    }

    /// The view that is asked for.
    pub fn view(&self) -> View {
        self.view
    }

    /// The signed bytes and the signature.
    pub fn parts(&self) -> (&[u8], &Signature) {
        (&self.body, &self.signature)
    }
}

/// A NEW-VIEW whose choices follow from the VIEW-CHANGEs in it.
#[derive(Clone, PartialEq, Debug)]
pub struct SignedNewView {
    pub(super) view: View,
    pub(super) choices: Choices,
    /// The certificate of `choices.start`.
    pub(super) certificate: Arc<Certificate>,
    body: Arc<[u8]>,
    signature: Signature,
}

impl SignedNewView {
    /// The new leader's: `None` while the set does not decide. The set is ascending by replica.
    pub(super) fn own(
        view: View,
        me: ReplicaId,
        set: &[&SignedViewChange],
        agreed: &Agreed,
        seals: &Seals,
    ) -> Option<Self> {
        let (choices, certificate) = chosen(set, agreed)?;
        let mut body = view.to_le_bytes().to_vec();
        body.push(me.0);
        body.extend_from_slice(&(set.len() as u32).to_le_bytes());
        for change in set {
            body.extend_from_slice(&(change.body.len() as u32).to_le_bytes());
            body.extend_from_slice(&change.body);
            body.extend_from_slice(&change.signature.0);
        }
        body.extend_from_slice(&choices.start.to_le_bytes());
        body.extend_from_slice(&(choices.digests.len() as u32).to_le_bytes());
        choices.digests.iter().for_each(|digest| body.extend_from_slice(&digest.0));
        let signature = seals.sign(context::NEW_VIEW, &body);
        Some(Self { view, choices, certificate, body: body.into(), signature })
    }

    /// Reads and verifies one; `known` gives a VIEW-CHANGE that was verified before, so that it is not verified again.
    ///
    /// # Errors
    /// What no correct leader signs, or its signature does not hold.
    pub(super) fn open<'a>(
        body: &[u8],
        signature: Signature,
        agreed: &Agreed,
        seals: &Seals,
        known: impl Fn(ReplicaId) -> Option<&'a SignedViewChange>,
    ) -> Result<Self, Misbehaviour> {
        let mut input = Input(body);
        let view = input.u64().unwrap_or_default();
        let wrong = Misbehaviour::InvalidNewView { view };
        let leader = input.replica().filter(|_| body.len() <= MAX_NEW_VIEW).ok_or(wrong)?;
        if leader != agreed.size.leader(view) || !seals.holds(leader, context::NEW_VIEW, body, &signature) {
            return Err(Misbehaviour::BadSignature { what: "NEW-VIEW" });
        }
        let count = input.count(4 + 64).filter(|count| *count <= agreed.size.n()).ok_or(wrong)?;
        let mut set = Vec::with_capacity(count);
        for _ in 0..count {
            let length = input.u32().ok_or(wrong)? as usize;
            let (body, signature) = (input.take(length).ok_or(wrong)?, input.signature().ok_or(wrong)?);
            // The view and the replica stand first.
            let same = |change: &&SignedViewChange| *change.body == *body && change.signature == signature;
            let replica = body.get(8).map(|index| ReplicaId(*index));
            let change = match replica.and_then(&known).filter(same) {
                Some(change) => change.clone(),
                None => SignedViewChange::open(body, signature, agreed, seals).map_err(|_| wrong)?,
            };
            if change.view != view {
                return Err(wrong);
            }
            set.push(change);
        }
        let start = input.u64().ok_or(wrong)?;
        let count = input.count(32).ok_or(wrong)?;
        let digests = (0..count).map(|_| input.digest()).collect::<Option<Vec<_>>>().ok_or(wrong)?;
        let set: Vec<&SignedViewChange> = set.iter().collect();
        let (choices, certificate) = chosen(&set, agreed).ok_or(wrong)?;
        let said = Choices { start, digests };
        if !input.0.is_empty() || choices != said && !mutants::on(Mutant::ChoicesBelieved) {
            return Err(wrong);
        }
        let choices = said;
        Ok(Self { view, choices, certificate, body: body.into(), signature })
    }

    /// The one that this replica entered a view with, from its own log.
    pub(super) fn read_back(body: &[u8], signature: Signature) -> Option<Self> {
        let mut input = Input(body);
        let (view, _leader) = (input.u64()?, input.replica()?);
        let set = set(&mut input)?;
        let certificate = Arc::clone(&set.iter().max_by_key(|change| change.report.h)?.certificate);
        let start = input.u64()?;
        let count = input.count(32)?;
        let digests = (0..count).map(|_| input.digest()).collect::<Option<_>>()?;
        let read = Self { view, choices: Choices { start, digests }, certificate, body: body.into(), signature };
        (input.0.is_empty() && read.certificate.sequence() == start).then_some(read)
    }

    /// The signed bytes and the signature.
    pub fn parts(&self) -> (&[u8], &Signature) {
        (&self.body, &self.signature)
    }
}

/// The VIEW-CHANGEs in a NEW-VIEW, unverified.
fn set(input: &mut Input<'_>) -> Option<Vec<SignedViewChange>> {
    let count = input.count(4 + 64)?;
    let mut set = Vec::with_capacity(count);
    for _ in 0..count {
        let length = input.u32()? as usize;
        set.push(SignedViewChange::read(input.take(length)?, input.signature()?)?);
    }
    Some(set)
}

/// What a Byzantine replica makes of its own messages, for the simulator: well-formed, signed, and lies.
pub(crate) mod lies {
    use super::{
        Agreed, Arc, Certificate, Digest, Input, ReplicaId, Report, Seals, Signature, SignedNewView, SignedViewChange,
        View, body, context, set,
    };

    /// A VIEW-CHANGE whose report was changed, signed again.
    pub(crate) fn view_change(
        bytes: &[u8],
        seals: &Seals,
        lie: impl FnOnce(&mut Report),
    ) -> Option<(Vec<u8>, Signature)> {
        let mut change = SignedViewChange::read(bytes, Signature([0; 64]))?;
        lie(&mut change.report);
        let body = body(change.view, change.replica, &change.certificate, &change.report);
        let signature = seals.sign(context::VIEW_CHANGE, &body);
        Some((body.to_vec(), signature))
    }

    /// A VIEW-CHANGE out of the blue that reports nothing.
    pub(crate) fn leave(view: View, replica: ReplicaId, seals: &Seals) -> (Vec<u8>, Signature) {
        let body = body(view, replica, &Certificate::genesis(), &Report::default());
        let signature = seals.sign(context::VIEW_CHANGE, &body);
        (body.to_vec(), signature)
    }

    /// A NEW-VIEW with other choices than those that follow from its set.
    pub(crate) fn choices(
        bytes: &[u8],
        seals: &Seals,
        lie: impl FnOnce(&mut Vec<Digest>),
    ) -> Option<(Vec<u8>, Signature)> {
        let mut read = SignedNewView::read_back(bytes, Signature([0; 64]))?;
        let tail = 12 + 32 * read.choices.digests.len();
        lie(&mut read.choices.digests);
        let mut body = bytes[..bytes.len() - tail + 8].to_vec();
        body.extend_from_slice(&(read.choices.digests.len() as u32).to_le_bytes());
        read.choices.digests.iter().for_each(|digest| body.extend_from_slice(&digest.0));
        let signature = seals.sign(context::NEW_VIEW, &body);
        Some((body, signature))
    }

    /// A NEW-VIEW in which the leader's own VIEW-CHANGE says something else: as valid as the true one, if the set decides.
    pub(crate) fn new_view(
        bytes: &[u8],
        agreed: &Agreed,
        seals: &Seals,
        lie: impl FnOnce(&mut Report),
    ) -> Option<(Vec<u8>, Signature)> {
        let mut input = Input(bytes);
        let (view, leader) = (input.u64()?, input.replica()?);
        let mut set = set(&mut input)?;
        let own = set.iter_mut().find(|change| change.replica == leader)?;
        let (body, signature) = view_change(&Arc::clone(&own.body), seals, lie)?;
        *own = SignedViewChange::read(&body, signature)?;
        let set: Vec<&SignedViewChange> = set.iter().collect();
        let new_view = SignedNewView::own(view, leader, &set, agreed, seals)?;
        let (body, signature) = new_view.parts();
        Some((body.to_vec(), *signature))
    }
}

/// What a set of VIEW-CHANGEs of one view chooses, and the certificate where it starts.
fn chosen(set: &[&SignedViewChange], agreed: &Agreed) -> Option<(Choices, Arc<Certificate>)> {
    let reports: Vec<_> = set.iter().map(|change| (change.replica, &change.report)).collect();
    let Choice::Choices(choices) = choose(&reports, agreed.size) else { return None };
    let start = set.iter().find(|change| change.report.h == choices.start)?;
    Some((choices, Arc::clone(&start.certificate)))
}
