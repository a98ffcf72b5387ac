//! The commands themselves: what they print, and their exit codes.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value as Json;

use crate::history::{History, ORIGIN};

fn atlas(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_atlas"));
    command.args(arguments).env_remove("ATLAS_CLUSTER").env_remove("ATLAS_IDENTITY").stdin(Stdio::null());
    command
}

fn run(arguments: &[&str]) -> (i32, String, String) {
    let Output { status, stdout, stderr } = atlas(arguments).output().expect("it runs");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    (status.code().expect("no signal"), text(stdout), text(stderr))
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

struct Files {
    _dir: tempfile::TempDir,
    history: History,
    export: PathBuf,
    policy: PathBuf,
    receipt: PathBuf,
}

fn files() -> Files {
    let dir = tempfile::tempdir().expect("a directory");
    let history = History::new();
    let export = history.export(0, 4, dir.path());
    let (policy, receipt) = (dir.path().join("policy.txt"), dir.path().join("r.tlog-proof"));
    fs::write(&policy, History::policy_text()).expect("a file");
    fs::write(&receipt, history.receipt(40)).expect("a file");
    Files { _dir: dir, history, export, policy, receipt }
}

#[test]
fn an_audit_says_what_it_proved_and_under_which_assumption() {
    let files = files();
    let line = ["audit", text(&files.export), "--policy", text(&files.policy), "--deep"];
    let (code, out, error) = run(&line);
    assert_eq!((code, error.as_str()), (0, ""), "{out}");
    let size = files.history.entries.len();
    assert!(out.starts_with(&format!("holds {ORIGIN}: {size} entries, root ")), "{out}");
    for says in [
        "replayed ",
        "every file is as the manifest lists",
        "r0 2015-03-31T",
        "operations/s",
        "The order is true if at most 1 of the 4 cosigners lies (any 3 of 4 make a quorum).",
    ] {
        assert!(out.contains(says), "{says}: {out}");
    }
    let (code, out, _) = run(&["audit", text(&files.export), "--policy", text(&files.policy)]);
    assert!(code == 0 && out.contains("not checked signatures of clients"), "{out}");
    let (_, out, _) = run(&[&line[..], &["--json", "--threads", "1"]].concat());
    let json: Json = serde_json::from_str(&out).expect("one object");
    assert_eq!((&json["replayed"], &json["size"]), (&Json::from(true), &Json::from(size)));
}

#[test]
fn what_does_not_hold_exits_with_5_and_what_cannot_be_read_with_1_or_2() {
    let files = files();
    let tile = files.export.join("tile/entries/001");
    let mut bytes = fs::read(&tile).expect("a file");
    bytes[700] ^= 1;
    fs::write(&tile, bytes).expect("a file");
    let line = ["audit", text(&files.export), "--policy", text(&files.policy)];
    let (code, out, error) = run(&line);
    assert_eq!((code, out.as_str()), (5, ""));
    assert!(error.starts_with("error: does not hold: tile/entries/001, entry 25"), "{error}");
    let (code, out, _) = run(&[&line[..], &["--json"]].concat());
    let json: Json = serde_json::from_str(&out).expect("one object");
    assert_eq!((code, &json["holds"]), (5, &Json::from(false)));
    let (code, _, error) = run(&["audit", "/nonexistent/export", "--policy", text(&files.policy)]);
    assert!(code == 1 && error.contains("cannot open /nonexistent/export"), "{error}");
    for (policy, says) in [("no lines", "line 1: \"no\" is none of"), ("quorum none", "no log line")] {
        fs::write(&files.policy, format!("{policy}\n")).expect("a file");
        let (code, _, error) = run(&line);
        assert!(code == 2 && error.contains(says), "{error}");
    }
    let (code, _, error) = run(&["audit", text(&files.export), "--policy", "/nonexistent"]);
    assert!(code == 2 && error.contains("the file is missing"), "{error}");
}

#[test]
fn verify_shows_what_a_receipt_proves() {
    let files = files();
    let line = ["verify", text(&files.receipt), "--policy", text(&files.policy)];
    let (code, out, error) = run(&line);
    assert_eq!((code, error.as_str()), (0, ""));
    assert!(
        out.starts_with("holds ") && out.contains("entry 40 (") && out.contains("True if at most 1 of the 4"),
        "{out}"
    );
    let (_, out, _) = run(&[&line[..], &["--json"]].concat());
    let json: Json = serde_json::from_str(&out).expect("one object");
    assert_eq!((&json["holds"], &json["files"][0]["kind"]), (&Json::from(true), &Json::from("receipt")));
    let (code, _, error) = run(&[&line[..], &["--absent", "plant/x", "y"]].concat());
    assert!(code == 5 && error.contains("no file proves that plant/x y was never written"), "{error}");
    let receipt = files.history.receipt(40).replacen("index 40", "index 39", 1);
    fs::write(&files.receipt, receipt).expect("a file");
    let (code, out, error) = run(&line);
    assert_eq!((code, out.as_str()), (5, ""));
    assert!(error.contains("the path of entry 39 does not end in the root"), "{error}");
    let (code, _, error) = run(&["verify", "/nonexistent", "--policy", text(&files.policy)]);
    assert!(code == 1 && error.contains("/nonexistent: the file is missing"), "{error}");
}

#[test]
fn serve_ends_in_order_on_sigterm() {
    let files = files();
    let mut child = atlas(&["serve", text(&files.export), "--listen", "127.0.0.1:0"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("it runs");
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("a line");
    let address =
        line.trim_end().rsplit_once("http://").and_then(|(_, rest)| rest.strip_suffix('/')).expect("an address");
    let mut stream = TcpStream::connect(address).expect("it listens");
    stream.write_all(b"GET /checkpoint HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").expect("it takes it");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    assert!(answer.ends_with(&files.history.checkpoint(files.history.entries.len(), 4)), "{answer}");
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it is there");
    assert_eq!(child.wait().expect("it ends").code(), Some(0));
    let (code, _, error) = run(&["serve", "/nonexistent", "--listen", "127.0.0.1:0"]);
    assert!(code == 1 && error.contains("cannot serve /nonexistent"), "{error}");
}
