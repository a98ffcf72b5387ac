//! The history: one append-only list of entries for the life of the cluster, hashed as one RFC 6962 tree.
//!
//! * [`entry`]: the bytes of an entry, written once and read in place.
//! * [`tree`]: the right edge of the tree, so that (size, root) is known after every sequence.
//! * [`store`]: where the entries are kept: in memory for simulations, in `DIR/history/` for a replica.
//!
//! # What is durable when
//! Nothing waits for the history. It follows from the agreed batches, which the log keeps: a replica that starts executes its log
//! from the first batch on and appends the same bytes at the same places again. So [`store::FileStore`] writes without sync,
//! and what a crash tore is made anew before anyone reads it.

pub mod entry;
mod file_store;
pub mod store;
pub mod tree;
