//! The twin store: the state of digital twins, as the application that Atlas replicates.
//!
//! # What it keeps
//! A twin `namespace/name` has properties by path ([`names`]). A property has a typed [`value`], a revision, the agreed time
//! and the position of its last change, the identity that signed it, and what the source said: time and quality. Each
//! property has a slot, numbered in the order of first writes and never given up: a deleted one stays, its value
//! undefined, its quality good, without source time. A twin exists while it has a property that is not deleted.
//!
//! # Operations
//! Set, delete and transaction ([`operation`] has the bytes, the comparisons and the limits). Judged in this order, the first
//! refusal counts, and a refused operation changes nothing:
//! 1. syntax, names, values, limits: MALFORMED, BAD_NAME, BAD_VALUE, TOO_LARGE;
//! 2. the origin may write every target; for a whole twin, every property that exists: FORBIDDEN;
//! 3. where the cluster's policy wants a reason for a target (for a whole twin: for a property that exists), one is given that is
//!    more than spaces: REASON_REQUIRED;
//! 4. the conditions, in order, on the state before the operation: CONDITION_FAILED;
//! 5. the targets, in order: TYPE_CONFLICT, UNKNOWN_TWIN, UNKNOWN_PROPERTY; then room for new slots: STORE_FULL, TWIN_FULL.
//!
//! A property's type is that of its value; a deleted one accepts any. An integer written to an f64 property is converted
//! where that is exact. Every change, deletes included, adds one to the revision; it goes on counting after a delete.
//!
//! # Outcomes
//! One change for each written property, in the order of the writes. The path number, below [`operation::MAX_TARGETS`], is the
//! index in the flattened list of the operation's targets: the paths of its sets and deletes in order, a whole-twin
//! delete counting as one target. A property deleted with its whole twin has `MAX_TARGETS` + its slot number instead, in
//! the order of the paths. So a reader finds each changed property from the entry, and from `previous` the entry before.
//!
//! # Queries
//! [`query`] has them. History and changes report values as they were written: an integer that the store converted is an
//! integer there.
//!
//! # Roots, snapshots, limits
//! The leaf of a slot is the CBOR of FORMATS; it is encoded and hashed when a root is asked for, once for all changes since.
//! The absence root sorts all slots again when properties were added since it was asked last. A snapshot is the array
//! of all leaves: who restores it, computes the roots and compares. Freezing the state shares the pages that the slots lie in:
//! a page of 64 is copied when one of them changes for the first time after it, and only while the frozen state is there. Memory is bounded by the number of properties given to
//! [`TwinStore::new`]; a twin has at most [`MAX_TWIN_PROPERTIES`], deleted ones included.
//!
//! Everything here is pure and deterministic; nothing is durable by itself: the log and the history make it so.

mod answer;
mod entry;
mod execute;
pub mod follow;
pub mod names;
pub mod operation;
mod pages;
pub mod query;
pub mod record;
mod slot;
mod store;
mod trail;
pub mod value;
pub mod view;
mod walk;

pub use store::{MAX_PROPERTIES, MAX_TWIN_PROPERTIES, TwinStore};

#[cfg(test)]
mod tests;
