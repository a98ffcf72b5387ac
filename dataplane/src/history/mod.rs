//! The history: one append-only list of entries for the life of the cluster, hashed as one RFC 6962 tree.
//!
//! * [`entry`]: the bytes of an entry, written once and read in place.
//! * [`tree`]: the right edge of the tree, so that (size, root) is known after every sequence.
//! * [`cosign`]: which heads this replica signs, and what certifies one; [`notary`] has the keys.
//! * [`store`]: where the entries are kept: in memory for simulations, in `DIR/history/` for a replica; [`files`] reads them beside it.
//!
//! # What is durable when
//! Nothing waits for the history. It follows from the agreed batches, which the log keeps until a snapshot of the state is on the
//! disk; before a snapshot counts, the entries that it follows from are synced. A replica that starts opens the store with those
//! and executes its log from there on, which appends the same bytes at the same places again. So [`store::FileStore`] writes
//! without sync, and what a crash tore is made anew before anyone reads it. The history never goes; its old
//! entries may lie in cold storage ([`cold`]), while index and nodes stay.
//!
//! Entries that a replica missed come from its peers ([`crate::transfer`]) and are staged until all of them hash to a certified root.

mod behind;
pub mod cold;
pub mod cosign;
pub mod entry;
mod file_store;
pub mod files;
mod ledger;
pub mod notary;
pub mod note;
pub mod proof;
mod segments;
pub mod slot_leaf;
pub mod store;
pub mod tiles;
pub mod tlog_policy;
pub mod tlog_proof;
pub mod tree;
