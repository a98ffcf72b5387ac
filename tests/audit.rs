//! Exports, audits and single proofs: a real history holds, and some sixty forgeries of it do not, each for its own reason.

#[path = "support/auditors.rs"]
mod auditors;
#[path = "audit/commands.rs"]
mod commands;
#[path = "audit/forged.rs"]
mod forged;
#[path = "audit/history.rs"]
mod history;
#[path = "audit/proofs.rs"]
mod proofs;
#[path = "audit/random.rs"]
mod random;
#[path = "audit/rehashed.rs"]
mod rehashed;
#[allow(dead_code, reason = "other tests use the rest of it")]
#[path = "../dataplane/tests/samples/random.rs"]
mod samples;
#[path = "audit/served.rs"]
mod served;

use std::num::NonZero;
use std::path::Path;

use atlas::audit::run::{AuditError, Options, Report, audit};
use history::{Exported, History, SIGNED_S};

fn options(deep: bool, threads: usize) -> Options {
    Options { deep, threads: NonZero::new(threads).expect("a thread") }
}

/// Audits with the policy that the history's auditor has.
fn audited(dir: &Path, deep: bool) -> Result<Report, AuditError> {
    audit(dir, &History::policy(), options(deep, 2), &|_, _| ())
}

#[test]
fn a_real_history_holds_whatever_the_threads() {
    let dir = tempfile::tempdir().expect("a directory");
    let history = History::new();
    let export = history.export(0, 4, dir.path());
    let mut reports = Vec::new();
    for threads in [1, 2, 7] {
        let progress = std::cell::Cell::new(0);
        let tell = |done: u64, all: u64| {
            assert!(progress.replace(done) < done && done <= all);
        };
        let mut report = audit(&export, &History::policy(), options(true, threads), &tell).expect("it holds");
        assert_eq!(progress.get(), history.entries.len() as u64);
        (report.seconds, report.busy_seconds, report.threads) = (0.0, 0.0, 0);
        reports.push(report);
    }
    assert!(reports.windows(2).all(|pair| pair[0] == pair[1]));
    let report = &reports[0];
    let size = history.entries.len() as u64;
    assert_eq!((report.size, report.from, report.to, report.checkpoints), (size, 0, size, 2));
    assert_eq!(report.kinds.iter().sum::<u64>(), size);
    assert!(report.replayed && report.manifest && report.states > 2 && report.kinds[2] == report.states);
    assert_eq!(report.kinds[3], 2, "a key was registered and revoked");
    assert!(report.operations > 500 && report.operations < report.requests, "some requests were skipped");
    assert_eq!((report.crafted_count, report.certified_by_s), (0, Some(SIGNED_S + 1)));
}

#[test]
fn an_export_of_the_end_says_what_it_cannot_show() {
    let dir = tempfile::tempdir().expect("a directory");
    let history = History::new();
    let export = history.export(300, 3, dir.path());
    let report = audited(&export, true).expect("it holds");
    assert_eq!((report.from, report.to), (256, history.entries.len() as u64));
    assert!(report.deep && !report.replayed && report.operations == 0 && report.requests > 0);
    assert!(!export.join("tile/entries/000").exists() && export.join("tile/0/000").exists());
}

#[test]
fn an_export_needs_no_manifest() {
    let dir = tempfile::tempdir().expect("a directory");
    let export = History::new().export(0, 4, dir.path());
    for file in ["manifest.json", "policy.txt"] {
        std::fs::remove_file(export.join(file)).expect("it is there");
    }
    std::fs::remove_dir_all(export.join("policies")).expect("it is there");
    assert!(!audited(&export, true).expect("it holds").manifest);
}

#[test]
fn nothing_is_exported_that_does_not_hold_or_over_anything() {
    let dir = tempfile::tempdir().expect("a directory");
    let history = History::new();
    let policy = History::policy_text();
    let size = history.entries.len();
    let source = || Exported {
        entries: &history.entries,
        leaves: history.leaves(),
        checkpoint: history.checkpoint(size, 4),
        older: Vec::new(),
    };
    let run = |mut source: Exported<'_>, range, to: &str| {
        let error =
            atlas::audit::export::export(&mut source, policy.as_bytes(), range, &dir.path().join(to), &|_, _| ());
        let left: Vec<_> =
            std::fs::read_dir(dir.path()).expect("a directory").map(|it| it.expect("a file").file_name()).collect();
        (error.expect_err("it must not be exported").to_string(), left)
    };
    let other = history.leaves()[7];
    let lies = |at: usize| {
        let mut source = source();
        source.leaves[at] = other;
        source
    };
    let (error, left) = run(lies(450), (0, None), "a");
    assert_eq!(
        (error.as_str(), left.len()),
        ("the source's entry 450 is not the one under its leaf hash: the source lies or is damaged", 0)
    );
    let (error, left) = run(lies(450), (0, Some(10)), "a");
    assert!(error.starts_with("the source's leaf hashes make root ") && left.is_empty(), "{error}");
    let weak = Exported { checkpoint: history.checkpoint(size, 2), ..source() };
    assert!(run(weak, (0, None), "a").0.starts_with("the source's checkpoint is not certified: the quorum"));
    let (error, _) = run(source(), (0, Some(10_000)), "a");
    assert_eq!(error, format!("entries 0 to 10000 are asked for; the checkpoint covers {size}"));
    std::fs::create_dir(dir.path().join("b")).expect("a directory");
    std::fs::write(dir.path().join("b/mine"), "x").expect("a file");
    let (error, left) = run(source(), (0, None), "b");
    assert!(
        error.ends_with("b exists and is not an empty directory; choose another one") && left.len() == 1,
        "{error}"
    );
}
