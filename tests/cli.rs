//! The `atlas` binary without a cluster: help, usage, exit codes, configuration errors, signals.

use std::fs::{self, File, OpenOptions};
use std::path::Path;
use std::process::{Command, Output, Stdio};

const COMMANDS: [&str; 18] = [
    "init", "replica", "set", "delete", "get", "list", "history", "txn", "watch", "key", "status", "prove", "export",
    "bench", "sim", "verify", "audit", "serve",
];

fn atlas(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_atlas"));
    command.args(arguments).env_remove("ATLAS_CLUSTER").env_remove("ATLAS_IDENTITY").stdin(Stdio::null());
    command
}

fn run(arguments: &[&str]) -> (i32, String, String) {
    let Output { status, stdout, stderr } = atlas(arguments).output().unwrap();
    (status.code().unwrap(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

/// A cluster of which no replica runs, and its operator's key file.
fn silent_cluster(dir: &Path) -> (String, String) {
    let home = dir.join("plant");
    let (code, _, error) = run(&["init", home.to_str().unwrap(), "--base-port", "1"]);
    assert_eq!(code, 0, "{error}");
    let path = |name: &str| home.join(name).to_str().unwrap().to_owned();
    (path("cluster.toml"), path("clients/operator.key"))
}

#[test]
fn help_documents_every_command_and_every_exit_code() {
    let (code, help, _) = run(&["--help"]);
    assert_eq!(code, 0);
    for command in COMMANDS {
        assert!(help.contains(&format!("\n  {command}")), "{command} in\n{help}");
        let (code, own, _) = run(&[command, "--help"]);
        assert_eq!(code, 0, "{command}");
        assert!(own.contains("Example") && own.contains(&format!("atlas {command}")), "{own}");
    }
    for exit in ["0  done", "1  failed", "2  usage", "3  refused", "4  no quorum", "5  a proof"] {
        assert!(help.contains(exit), "{exit}");
    }
}

#[test]
fn usage_errors_exit_with_2_and_name_the_argument() {
    for (line, named) in [
        (&["fly"][..], "fly"),
        (&["get", "plant/t"], "--cluster"),
        (&["set", "plant", "x=1"], "namespace/name"),
        (&["bench", "latency", "--payload", "5"], "--payload"),
        (&["bench", "latency", "--cluster", "c"], "--identity"),
        (&["bench", "failover", "--what", "quiet", "--quiet-seconds", "0"], "--quiet-seconds"),
        (&["bench", "failover", "--what", "nap"], "--what"),
        (&["init", "d", "--replicas", "many"], "--replicas"),
    ] {
        let (code, out, error) = run(line);
        assert_eq!((code, out.as_str()), (2, ""), "{line:?}");
        assert!(error.contains(named), "{line:?}: {error}");
    }
}

#[test]
fn init_writes_a_cluster_once_and_says_how_to_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().join("my plant");
    let (code, out, _) = run(&["init", home.to_str().unwrap(), "--replicas", "5"]);
    assert_eq!(code, 0);
    assert_eq!(out.matches("atlas replica --config '").count(), 5, "{out}");
    assert!(!out.contains('\x1b'), "no colour into a pipe");
    let (code, _, error) = run(&["init", home.to_str().unwrap()]);
    assert_eq!(code, 2);
    assert!(error.contains("already holds a cluster"), "{error}");
    let json = dir.path().join("json");
    let (code, out, _) = run(&["init", json.to_str().unwrap(), "--json"]);
    let written: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, written["replica_files"].as_array().unwrap().len()), (0, 4));
    assert_eq!(written["identities"][0]["name"], "operator");
    assert_eq!(run(&["init", dir.path().join("x").to_str().unwrap(), "--replicas", "3"]).0, 2);
}

#[test]
fn files_that_are_missing_wrong_or_too_open_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let (cluster, key) = silent_cluster(dir.path());
    let get = |cluster: &str, key: &str| run(&["get", "a/b", "--cluster", cluster, "--identity", key]);
    let (code, _, error) = get("nowhere.toml", &key);
    assert!(code == 2 && error.contains("nowhere.toml") && error.contains("ATLAS_CLUSTER"), "{error}");
    let (code, _, error) = get(&cluster, "nowhere.key");
    assert!(code == 2 && error.contains("nowhere.key") && error.contains("ATLAS_IDENTITY"), "{error}");

    // Without administrators the file names every client that can ever be; with them the key may have been registered since.
    let (other, _) = silent_cluster(&dir.path().join("other"));
    let waits = ["get", "a/b", "--cluster", &other, "--identity", &key, "--timeout", "0.2"];
    let (code, _, error) = run(&waits);
    assert!(code == 4 && error.contains("is not in the cluster file"), "{error}");
    let text = fs::read_to_string(&other).unwrap();
    fs::write(&other, text.split_once("[[administrators]]").unwrap().0).unwrap();
    let (code, _, error) = get(&other, &key);
    assert!(code == 2 && error.contains("no client"), "{error}");

    let broken = dir.path().join("broken.toml");
    fs::write(&broken, fs::read_to_string(&cluster).unwrap().replace("window = ", "widow = ")).unwrap();
    let (code, _, error) = get(broken.to_str().unwrap(), &key);
    assert!(code == 2 && error.contains("broken.toml:") && error.contains("widow"), "{error}");

    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    let (code, _, error) = get(&cluster, &key);
    assert!(code == 2 && error.contains("chmod 600"), "{error}");
}

#[test]
fn without_replicas_there_is_no_quorum_and_each_replica_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let (cluster, key) = silent_cluster(dir.path());
    let connection = ["--cluster", &cluster, "--identity", &key, "--timeout", "0.2"];
    for line in [&["set", "a/b", "x=1"][..], &["get", "a/b"], &["list", ""], &["history", "a/b"], &["watch", ""]] {
        let (code, out, error) = run(&[line, &connection].concat());
        assert_eq!((code, out.as_str()), (4, ""), "{line:?}: {error}");
        for replica in 0..4 {
            assert!(error.contains(&format!("replica-{replica} at 127.0.0.1:{}", replica + 1)), "{line:?}: {error}");
        }
    }
    let (code, out, error) = run(&[&["status"][..], &connection].concat());
    assert_eq!(code, 4, "{error}");
    assert_eq!(out.matches(" no\n").count(), 4, "{out}");
    let (code, out, _) = run(&[&["status", "--json"][..], &connection].concat());
    assert_eq!((code, out.matches("\"reachable\":false").count(), out.lines().count()), (4, 4, 4), "{out}");
}

#[test]
fn an_operation_that_no_store_takes_is_never_sent() {
    let dir = tempfile::tempdir().unwrap();
    let (cluster, key) = silent_cluster(dir.path());
    let connection = ["--cluster", &cluster, "--identity", &key];
    let (code, _, error) = run(&[&["set", "a/b", "x=1", "x=2"][..], &connection].concat());
    assert!(code == 2 && error.contains("before it is sent"), "{error}");
}

#[test]
fn a_replica_with_a_wrong_configuration_does_not_start() {
    let dir = tempfile::tempdir().unwrap();
    silent_cluster(dir.path());
    let config = dir.path().join("plant/replica-0/config.toml");
    let mut file = OpenOptions::new().append(true).open(&config).unwrap();
    std::io::Write::write_all(&mut file, b"colour = \"red\"\n").unwrap();
    let (code, _, error) = run(&["replica", "--config", config.to_str().unwrap()]);
    assert_eq!(code, 2);
    assert!(error.contains("config.toml:"), "{error}");
}

#[test]
fn a_replica_ends_when_the_process_that_started_it_is_another() {
    let dir = tempfile::tempdir().unwrap();
    silent_cluster(dir.path());
    let config = dir.path().join("plant/replica-0/config.toml");
    let (code, _, error) = run(&["replica", "--config", config.to_str().unwrap(), "--parent", "1"]);
    assert_eq!(code, 1);
    assert!(error.contains("has ended"), "{error}");
}

#[test]
fn a_full_output_fails_and_a_closed_one_is_no_error() {
    let full = atlas(&["init", "--json"]).arg(tempfile::tempdir().unwrap().path().join("c")).stdout(full()).output();
    let full = full.unwrap();
    assert_eq!(full.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&full.stderr).contains("output"));
    let dir = tempfile::tempdir().unwrap();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let closed = atlas(&["init"]).arg(dir.path().join("c")).stdout(writer).output().unwrap();
    assert_eq!((closed.status.code(), closed.stderr.len()), (Some(0), 0));
}

fn full() -> File {
    OpenOptions::new().write(true).open("/dev/full").unwrap()
}
