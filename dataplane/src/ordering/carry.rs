//! What the oldest records of the log left standing, once they are let go ([`crate::log::Record::carry`]).
//!
//! The list, in this order: [`Record::Begins`]; [`Record::Voted`]; the last [`Record::Cosigned`]; the highest [`Record::Checkpoint`] and those above the stable one;
//! the highest [`Record::Stable`]; then of [`Record::Leaves`], [`Record::Enters`], [`Record::Abstains`] and [`Record::Leads`] what still
//! counts, as it stood in the log. Read before the records that are left it gives the same replica as the whole log, if all that was
//! let go is about sequences at or below the stable checkpoint and the state up to there is kept elsewhere:
//!
//! * P and Q at those sequences are settled by the checkpoint, which is why [`bound`] lets nothing go above a durable
//!   [`Record::Stable`]: a report without them needs the certificate that makes them void. What they say beside that is how far this
//!   replica ever voted and the latest time that it proposed or accepted: `Voted`.
//! * `Leaves` sets the view, ends the old one and any abstention, and is the own VIEW-CHANGE: all before it of the four is void but the
//!   height of what was said. `Enters` sets the view and its choices: an earlier one is void, and so is what was led before; its
//!   certificate counts as stable. The last `Leaves` stays, for its VIEW-CHANGE is told on. `Abstains` ends a view that was begun and
//!   takes back one that was only asked for, so what stands before it stays before it. `Leads` lasts until the next of the others.
//! * Checkpoints say what was signed: the highest tells whether a certificate has a signature that this log does not know, and
//!   those that are not stable are compared with the state that is executed to.
//!
//! # Limits
//! Eight records and [`MAX_CHECKPOINTS`]. VIEW-CHANGE and NEW-VIEW are by far the longest: together less than twice
//! [`crate::log::MAX_RECORD`], half of what an anchor holds.

use std::sync::Arc;

use super::checkpoint::Certificate;
use super::record::Record;
use crate::types::{Sequence, TimeMs, View};

/// Checkpoints that are carried; of more the lowest go. No replica has more above its stable one unless it is far behind, and then
/// they are only compared with its own state.
const MAX_CHECKPOINTS: usize = 4;

/// Takes note of a record.
pub(super) fn carry(kept: &mut Vec<Record>, record: &Record) {
    match record {
        Record::PrePrepared { view, sequence, batch } => says(kept, (*view, *sequence), batch.time_ms()),
        Record::Chosen { view, sequence, .. } => says(kept, (*view, *sequence), TimeMs::MIN),
        Record::Voted { view, sequence, time_ms } => says(kept, (*view, *sequence), *time_ms),
        Record::Prepared { .. } | Record::Decided { .. } | Record::Learned { .. } => {}
        Record::Begins if kept.contains(record) => {}
        Record::Begins => insert(kept, record.clone()),
        Record::Cosigned(_) => {
            kept.retain(|kept| !matches!(kept, Record::Cosigned(_)));
            insert(kept, record.clone());
        }
        Record::Checkpoint(statement) => {
            let again = |kept: &Record| matches!(kept, Record::Checkpoint(old) if old.sequence == statement.sequence);
            kept.retain(|kept| !again(kept));
            insert(kept, record.clone());
            drop_checkpoints(kept);
        }
        Record::Stable(certificate) => stable(kept, certificate),
        Record::Leaves { view, .. } => {
            says(kept, (*view, 0), TimeMs::MIN);
            kept.retain(|kept| rank(kept) < VIEWS);
            kept.push(record.clone());
        }
        Record::Enters(new_view) => {
            stable(kept, &new_view.certificate);
            kept.retain(|kept| !matches!(kept, Record::Enters(_) | Record::Leads { .. }));
            kept.push(record.clone());
        }
        Record::Abstains => {
            kept.retain(|kept| !matches!(kept, Record::Abstains | Record::Leads { .. }));
            kept.push(record.clone());
        }
        Record::Leads { .. } => {
            kept.retain(|kept| !matches!(kept, Record::Leads { .. }));
            kept.push(record.clone());
        }
    }
}

/// The stable checkpoint by the list: P and Q above it may not be let go.
pub(super) fn bound(kept: &[Record]) -> Sequence {
    let stable = kept.iter().find_map(|kept| match kept {
        Record::Stable(certificate) => Some(certificate.sequence()),
        _ => None,
    });
    stable.unwrap_or(0)
}

/// The part of the list in which the order of the log counts.
const VIEWS: u8 = 5;

/// Where in the list a record stands.
fn rank(record: &Record) -> u8 {
    match record {
        Record::Begins => 0,
        Record::Voted { .. } => 1,
        Record::Cosigned(_) => 2,
        Record::Checkpoint(_) => 3,
        Record::Stable(_) => 4,
        _ => VIEWS,
    }
}

fn insert(kept: &mut Vec<Record>, record: Record) {
    let at = kept.partition_point(|other| rank(other) <= rank(&record));
    kept.insert(at, record);
}

fn says(kept: &mut Vec<Record>, said: (View, Sequence), at_ms: TimeMs) {
    for kept in kept.iter_mut() {
        if let Record::Voted { view, sequence, time_ms } = kept {
            (*view, *sequence) = said.max((*view, *sequence));
            *time_ms = at_ms.max(*time_ms);
            return;
        }
    }
    insert(kept, Record::Voted { view: said.0, sequence: said.1, time_ms: at_ms });
}

fn stable(kept: &mut Vec<Record>, certificate: &Arc<Certificate>) {
    if certificate.sequence() > bound(kept) {
        kept.retain(|kept| !matches!(kept, Record::Stable(_)));
        insert(kept, Record::Stable(Arc::clone(certificate)));
        drop_checkpoints(kept);
    }
}

/// Drops the checkpoints that are stable, but for the highest, and the lowest of too many.
fn drop_checkpoints(kept: &mut Vec<Record>) {
    let mut sequences: Vec<Sequence> = kept.iter().filter_map(checkpoint).collect();
    sequences.sort_unstable_by(|a, b| b.cmp(a));
    let Some(highest) = sequences.first() else { return };
    let lowest =
        bound(kept).saturating_add(1).max(sequences.get(MAX_CHECKPOINTS - 1).copied().unwrap_or(0)).min(*highest);
    kept.retain(|kept| checkpoint(kept).is_none_or(|sequence| sequence >= lowest));
}

fn checkpoint(record: &Record) -> Option<Sequence> {
    match record {
        Record::Checkpoint(statement) => Some(statement.sequence),
        _ => None,
    }
}
