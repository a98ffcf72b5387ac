//! Fuzzing of the twin store's decoders: operations, values, queries, answers, snapshots and entries of the history.
//!
//! `dataplane/tests/fuzz/harness.rs` says how it is run and when it fails. A new decoder is a new row in [`targets`].

#[path = "fuzz/answers.rs"]
mod answers;
#[path = "../dataplane/tests/fuzz/harness.rs"]
mod harness;
#[path = "fuzz/manifest.rs"]
mod manifest;
#[path = "fuzz/operations.rs"]
mod operations;
#[path = "../dataplane/tests/samples/random.rs"]
mod random;
#[path = "fuzz/stores.rs"]
mod stores;

use harness::Target;
use random::Rng;

#[test]
fn mutated_encodings_harm_no_decoder() {
    harness::run(targets());
}

/// Every decoder of the application that outsiders' bytes reach.
fn targets() -> Vec<Target> {
    vec![
        Target::new("manifest", manifest::manifest, manifest::run_manifest),
        Target::new("backup's manifest", manifest::backup_manifest, manifest::run_backup_manifest),
        Target::new("operation", operations::operation, operations::run_operation),
        Target::new("value", operations::value, operations::run_value),
        Target::new("value's text", operations::text, operations::run_text),
        Target::new("query", stores::query, stores::run_query),
        Target::new("properties", answers::properties, answers::run_properties),
        Target::new("history", answers::history, answers::run_history),
        Target::new("records", stores::records, stores::run_records),
        Target::new("changes", answers::changes, answers::run_changes),
        Target::new("snapshot", stores::snapshot, stores::run_snapshot),
        Target::new("entry", stores::entry, stores::run_entry),
    ]
}
