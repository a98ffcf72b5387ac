//! What a replica leaves behind when it finds that its history is not the one that a quorum signed, or its state not the one that operations
//! made: for whoever has to find out why.
//!
//! `DIR/diverged-<size>/` holds `report.txt` (what was found, in words, and the own roots around it), `others-checkpoint` (the note with
//! the others' signatures, where there is one), `altered-leaf` (the leaf of the slot that changed by itself, where that was found), `leaf-hashes` (32 bytes each, the first one's number in the report) and `entries`
//! (the last ones, each behind its length in two bytes, big-endian, as in tlog-tiles). To be compared with an export from another replica.
//!
//! # Limits
//! The last [`LEAVES`] hashes and [`ENTRIES`] entries.

use std::fmt::Write as _;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use super::cosigning::root_at;
use super::node_error::NodeError;
use crate::execution::Execution;
use crate::history::store::EntryStore;
use crate::history::tiles::put_entry;
use crate::state::Application;

/// Leaf hashes that are kept.
const LEAVES: u64 = 65_536;

/// Entries that are kept.
const ENTRIES: u64 = 1_024;

/// Writes it all down; gives where. Another error than a divergence leaves nothing.
///
/// # Errors
/// The file system's; what was written stays.
pub(super) fn keep<A: Application, S: EntryStore>(
    data: &Path,
    execution: &Execution<A, S>,
    error: &NodeError,
) -> io::Result<Option<PathBuf>> {
    let note = match error {
        NodeError::DivergedHistory { note, .. } => note.as_str(),
        NodeError::Diverged { .. } | NodeError::Altered(_) => "",
        _ => return Ok(None),
    };
    let (store, size) = (execution.store(), execution.size());
    let dir = data.join(format!("diverged-{size}"));
    DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
    let first = size.saturating_sub(LEAVES);
    let leaves: Vec<u8> = store.leaf_hashes(first, LEAVES).iter().flat_map(|hash| hash.0).collect();
    let mut entries = Vec::new();
    for index in size.saturating_sub(ENTRIES)..size {
        put_entry(&mut entries, &store.entry(index).unwrap_or_default());
    }
    let mut report = format!(
        "{error}\n\nown entries      {size}, executed up to sequence {}\nleaf-hashes      from entry {first} on\nentries          from entry {} \
         on\n\nown roots\n",
        execution.sequence(),
        size.saturating_sub(ENTRIES),
    );
    for back in 0..16 {
        let at = size.saturating_sub(back);
        if let Some(root) = root_at(store, at) {
            // Writing into a String cannot fail.
            let _ = writeln!(report, "{at} {root}");
        }
    }
    fs::write(dir.join("leaf-hashes"), leaves)?;
    fs::write(dir.join("entries"), entries)?;
    if !note.is_empty() {
        fs::write(dir.join("others-checkpoint"), note)?;
    }
    if let NodeError::Altered(altered) = error {
        fs::write(dir.join("altered-leaf"), &altered.leaf)?;
    }
    fs::write(dir.join("report.txt"), report)?;
    Ok(Some(dir))
}
