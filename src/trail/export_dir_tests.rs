//! Exports as files: the published vectors read back, and what files that are wrong get.

use std::fs;

use atlas_dataplane::types::{Code, Position};
use data_encoding::HEXLOWER;

use super::*;
use crate::trail::Action;
use crate::twin::record::{Old, REFUSED_CODES};
use crate::twin::value::Value;

fn published() -> serde_json::Value {
    serde_json::from_str(include_str!("../../docs/vectors.json")).unwrap()
}

/// The entries of `docs/vectors.json`, which another program made, and their checkpoint.
fn vectors() -> (Vec<Vec<u8>>, String) {
    let vectors = published();
    let entry = |entry: &serde_json::Value| HEXLOWER.decode(entry.as_str().unwrap().as_bytes()).unwrap();
    let entries = vectors["entries"].as_array().unwrap().iter().map(entry).collect();
    (entries, vectors["checkpoint"].as_str().unwrap().to_owned())
}

fn bundle(entries: &[Vec<u8>]) -> Vec<u8> {
    entries.iter().flat_map(|entry| [&(entry.len() as u16).to_be_bytes(), entry.as_slice()].concat()).collect()
}

fn put(dir: &Path, file: &str, bytes: &[u8]) {
    let file = dir.join(file);
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(file, bytes).unwrap();
}

fn export() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let (entries, checkpoint) = vectors();
    put(dir.path(), &format!("tile/entries/000.p/{}", entries.len()), &bundle(&entries));
    put(dir.path(), "checkpoint", checkpoint.as_bytes());
    put(dir.path(), "policy.txt", published()["policy"].as_str().unwrap().as_bytes());
    dir
}

fn rows(dir: &Path, filter: Filter) -> Result<Vec<Row>, ExportError> {
    ExportRows::open(dir, filter)?.collect()
}

#[test]
fn an_export_of_another_program_is_read_with_names_old_values_and_times() {
    let dir = export();
    let all = rows(dir.path(), Filter::all()).unwrap();
    let actions: Vec<_> = all.iter().map(|row| (row.position.entry, row.action, row.property.as_deref())).collect();
    assert_eq!(
        actions[..3],
        [(1, Action::Open, None), (1, Action::Set, Some("state")), (1, Action::Set, Some("power"))]
    );
    assert_eq!(
        actions[3..6],
        [(1, Action::Set, Some("brake")), (2, Action::Set, Some("state")), (2, Action::Delete, Some("power"))]
    );
    let stopped = &all[4];
    assert_eq!(stopped.name.as_deref(), Some("operator"));
    assert_eq!(
        (&stopped.old, &stopped.value),
        (&Old::Value(Value::Text("running".into())), &Some(Value::Text("stopped".into())))
    );
    assert_eq!((stopped.agreed_ms, stopped.signed_ms), (1_427_766_002_000, Some(1_427_766_001_985)));
    assert_eq!((stopped.certified_ms, stopped.reason.as_deref()), (Some(1_427_766_004_000), Some("trip")));
    assert_eq!(all[5].old, Old::Value(Value::F64(1_345.5)));
    let refused = rows(dir.path(), Filter { codes: REFUSED_CODES, ..Filter::all() }).unwrap();
    assert_eq!((refused.len(), refused[0].code), (1, Code::CONDITION_FAILED));
    assert_eq!(refused[0].position, Position { entry: 1, request: 2 });
    let keys: Vec<_> = all[6..].iter().map(|row| (row.action, row.name.as_deref(), row.signed_ms.is_some())).collect();
    assert_eq!(keys, [(Action::Register, Some("operator"), true), (Action::Registered, Some("Ada Admin"), false)]);
    assert!(
        all[7].new_text().contains("for Maria Keller as reader until 2015-04-01T01:40:00.000Z"),
        "{}",
        all[7].new_text()
    );
    assert_eq!(all[7].reason.as_deref(), Some("shift B"));
    let names = names_in(dir.path()).unwrap();
    assert!(["gateway", "Ada Admin", "Maria Keller"].iter().all(|name| names.keys(name).len() == 1));
}

#[test]
fn without_a_quorum_of_cosignatures_no_time_is_certified() {
    let dir = export();
    let (_, checkpoint) = vectors();
    let fewer: Vec<&str> = checkpoint.lines().filter(|line| !line.contains("/replica/2")).collect();
    put(dir.path(), "checkpoint", (fewer.join("\n") + "\n").as_bytes());
    assert!(rows(dir.path(), Filter::all()).unwrap().iter().all(|row| row.certified_ms.is_none()));
}

#[test]
fn wrong_files_are_named_with_their_byte() {
    let (entries, _) = vectors();
    let good = bundle(&entries);
    let failed = |name: &str, bytes: &[u8]| {
        let dir = export();
        put(dir.path(), name, bytes);
        let found: Result<Vec<Row>, ExportError> = rows(dir.path(), Filter::all());
        found.unwrap_err().to_string()
    };
    let count = entries.len();
    let file = format!("tile/entries/000.p/{count}");
    let cut = failed(&file, &good[..good.len() - 1]);
    let last = good.len() - entries[count - 1].len() - 2;
    assert!(cut.contains(&file) && cut.contains(&format!("end at {last}, inside entry {}", count - 1)), "{cut}");
    let more = failed(&file, &[&good[..], &[0, 1, 0]].concat());
    assert!(more.contains(&format!("end at byte {}", good.len())), "{more}");
    let mut edited = good;
    edited[2] = 0xff;
    let entry = failed(&file, &edited);
    assert!(entry.contains("byte 2: entry 0") && entry.contains("malformed at byte 0"), "{entry}");
    let size = failed("checkpoint", b"example/plant\n0\nAAAA\n\n");
    assert!(size.starts_with("checkpoint: "), "{size}");
    for manifest in
        [r#"{}"#, "[", r#"{"format":"atlas-export/1","origin":"o","from":3,"to":9,"size":6,"root":"","files":[]}"#]
    {
        let text = failed("manifest.json", manifest.as_bytes());
        assert!(text.starts_with("manifest.json: "), "{text}");
    }
    let text = rows(Path::new("/nonexistent-export"), Filter::all()).unwrap_err().to_string();
    assert!(text.contains("/nonexistent-export"), "{text}");
}

#[test]
fn a_missing_file_is_told_behind_the_rows_before_it() {
    let dir = export();
    let (entries, checkpoint) = vectors();
    // A checkpoint over more than is there: nobody certified it, and nothing is said of when.
    put(dir.path(), "checkpoint", checkpoint.replacen("\n6\n", "\n600\n", 1).as_bytes());
    put(dir.path(), "tile/entries/000", &bundle(&vec![entries[3].clone(); 256]));
    let found: Vec<_> = ExportRows::open(dir.path(), Filter::all()).unwrap().collect();
    let (last, before) = found.split_last().unwrap();
    assert!(before.len() == 256 && before.iter().all(|row| row.as_ref().is_ok_and(|row| row.certified_ms.is_none())));
    let text = last.as_ref().unwrap_err().to_string();
    assert_eq!(text, "tile/entries/001: the file is missing");
}

#[test]
fn rows_before_a_fault_in_the_same_file_are_told_first() {
    let dir = export();
    let (mut entries, _) = vectors();
    entries[2][0] = 0xff;
    put(dir.path(), &format!("tile/entries/000.p/{}", entries.len()), &bundle(&entries));
    let found: Vec<_> = ExportRows::open(dir.path(), Filter::all()).unwrap().collect();
    assert_eq!((found.len(), found.iter().filter(|row| row.is_err()).count()), (5, 1));
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(150))]

    #[test]
    fn damaged_files_end_in_an_error_or_in_rows_and_never_in_a_panic(
        at: proptest::sample::Index, with: Vec<u8>, cut: proptest::sample::Index, in_note: bool, is_cut: bool,
    ) {
        let (entries, checkpoint) = vectors();
        let dir = tempfile::tempdir().unwrap();
        let (mut tile, mut note) = (bundle(&entries), checkpoint.into_bytes());
        let damaged = if in_note { &mut note } else { &mut tile };
        let start = at.index(damaged.len());
        let end = (start + with.len()).min(damaged.len());
        damaged.splice(start..end, with);
        if is_cut {
            damaged.truncate(cut.index(damaged.len()));
        }
        put(dir.path(), &format!("tile/entries/000.p/{}", entries.len()), &tile);
        put(dir.path(), "checkpoint", &note);
        let Ok(rows) = ExportRows::open(dir.path(), Filter::all()) else { return Ok(()) };
        let found: Vec<_> = rows.collect();
        // Rows, then perhaps one error, and nothing behind it.
        let first = found.iter().position(Result::is_err).unwrap_or(found.len());
        proptest::prop_assert!(found.len() - first <= 1);
        let _ = names_in(dir.path());
    }
}
