//! The commands against real replica processes: what they print, their exit codes, faults on the way.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use atlas::local::{LocalCluster, LocalOptions, Signal};
use serde_json::{Value, json};

struct Plant {
    cluster: LocalCluster,
    _dir: tempfile::TempDir,
}

fn options() -> LocalOptions {
    LocalOptions {
        program: Some(env!("CARGO_BIN_EXE_atlas").into()),
        gateway_write: vec!["plant/*".to_owned()],
        segment_mib: 4,
        // Many tests share few cores.
        ready_timeout: Duration::from_secs(120),
        ..LocalOptions::default()
    }
}

fn plant() -> Plant {
    // Beside the build, as temporary directories may lie in memory.
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let cluster = LocalCluster::start(&dir.path().join("cluster"), 4, &options()).unwrap();
    Plant { cluster, _dir: dir }
}

impl Plant {
    fn command(&self, client: &str, line: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_atlas"));
        command.args(line);
        if !line.contains(&"--timeout") {
            command.args(["--timeout", "60"]);
        }
        command.env("ATLAS_CLUSTER", self.cluster.cluster_file());
        command.env("ATLAS_IDENTITY", self.cluster.identity(client).unwrap()).stdin(Stdio::null());
        command
    }

    fn run_as(&self, client: &str, line: &[&str]) -> (i32, String, String) {
        let output = self.command(client, line).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    }

    /// Runs it with --json; gives the objects.
    fn json(&self, line: &[&str]) -> (i32, Vec<Value>) {
        let (code, out, _) = self.run_as("operator", &[line, &["--json"]].concat());
        (code, out.lines().map(|line| serde_json::from_str(line).unwrap()).collect())
    }

    /// Runs it with --json; it must succeed.
    fn done(&self, line: &[&str]) -> Vec<Value> {
        let (code, objects) = self.json(line);
        assert_eq!(code, 0, "{line:?}: {objects:?}");
        objects
    }
}

fn keys(value: &Value) -> Vec<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

#[test]
fn what_is_set_is_read_listed_and_told_by_history() {
    let plant = plant();
    let line = ["set", "plant/t-1", "power=1345.2", "state=running", "--source-time", "2015-03-31T01:40:00Z"];
    let set = &plant.done(&[&line[..], &["--quality", "uncertain", "--reason", "first"]].concat())[0];
    let mut promised = ["position", "sequence", "agreed_time", "code", "text", "detail", "changes"];
    let mut found = keys(set);
    promised.sort_unstable();
    found.sort_unstable();
    assert_eq!(found, promised);
    assert_eq!((&set["code"], &set["changes"][1]["property"]), (&json!(0), &json!("state")));

    let power = &plant.done(&["get", "plant/t-1", "power"])[0];
    let mut promised = [
        "twin",
        "property",
        "type",
        "value",
        "revision",
        "quality",
        "source_time",
        "agreed_time",
        "origin",
        "position",
    ];
    let mut found = keys(power);
    promised.sort_unstable();
    found.sort_unstable();
    assert_eq!(found, promised);
    assert_eq!((&power["value"], &power["quality"]), (&json!(1345.2), &json!("uncertain")));
    assert_eq!((&power["source_time"], &power["origin"]), (&json!("2015-03-31T01:40:00Z"), &json!("operator")));
    assert_eq!((&power["position"], &power["agreed_time"]), (&set["position"], &set["agreed_time"]));

    plant.done(&["set", "plant/t-1", "power=-1", "--reason", "second"]);
    plant.done(&["set", "grid/g", "export=true"]);
    assert_eq!(plant.done(&["list", "plant/"]).len(), 2);
    assert_eq!(plant.done(&["list", ""]).len(), 3);

    let history = plant.done(&["history", "plant/t-1", "power"]);
    let told: Vec<_> = history.iter().map(|change| (&change["value"], &change["reason"])).collect();
    assert_eq!(told, [(&json!(-1), &json!("second")), (&json!(1345.2), &json!("first"))]);
    let first = set["position"].as_str().unwrap();
    assert_eq!(plant.done(&["history", "plant/t-1", "--to", first]).len(), 2);
    assert_eq!(plant.done(&["history", "plant/t-1", "power", "--from", "2000-01-01T00:00:00Z"]).len(), 2);

    let unordered =
        ["get", "plant/t-1", "power", "--unordered", "--at-least", history[0]["position"].as_str().unwrap()];
    assert_eq!(plant.done(&unordered)[0]["value"], json!(-1.0));

    plant.done(&["delete", "plant/t-1", "power"]);
    assert_eq!(plant.json(&["get", "plant/t-1", "power"]).0, 3);
    assert_eq!(plant.done(&["history", "plant/t-1", "power"])[0]["value"], Value::Null);
}

#[test]
fn refusals_exit_with_3_and_say_why() {
    let plant = plant();
    plant.done(&["set", "plant/t-1", "state=running", "pitch=3"]);
    let release = ["txn", "--if", "plant/t-1 state == \"stopped\"", "--set", "plant/t-1", "brake=released"];
    let (code, out, error) = plant.run_as("operator", &release);
    assert_eq!((code, out.as_str()), (3, ""));
    assert!(error.contains("condition not met (300)") && error.contains("running"), "{error}");
    let (code, refused) = plant.json(&release);
    assert_eq!((code, &refused[0]["code"], &refused[0]["changes"]), (3, &json!(300), &json!([])));
    assert_eq!(plant.json(&["get", "plant/t-1", "brake"]).0, 3, "nothing of a refused transaction is written");

    let swap = ["--if", "plant/t-1 pitch revision == 1", "--set", "plant/t-1", "pitch=90", "state=stopped"];
    let both = plant.done(&[&["txn"][..], &swap, &["--set", "plant/t-2", "x=1", "y=2"]].concat());
    assert_eq!(both[0]["changes"].as_array().unwrap().len(), 4);
    assert_eq!(plant.json(&[&["txn"][..], &swap].concat()).0, 3, "the revision has moved on");

    let (code, _, error) = plant.run_as("operator", &["set", "plant/t-1", "pitch=high"]);
    assert!(code == 3 && error.contains("type conflict (301)"), "{error}");
    let (code, _, error) = plant.run_as("gateway", &["set", "grid/g", "export=true"]);
    assert!(code == 3 && error.contains("not permitted for this role (201)"), "{error}");
    let (code, _, error) = plant.run_as("operator", &["get", "plant/none"]);
    assert!(code == 3 && error.contains("unknown twin (302): plant/none"), "{error}");
}

/// A reader of RFC 4180 that knows nothing of the writer: one map a line, by the header.
fn csv(text: &str) -> Vec<std::collections::BTreeMap<String, String>> {
    let mut lines: Vec<Vec<String>> = vec![vec![String::new()]];
    let (mut quoted, mut characters) = (false, text.chars().peekable());
    while let Some(c) = characters.next() {
        let line = lines.last_mut().unwrap();
        match (quoted, c) {
            (true, '"') if characters.peek() == Some(&'"') => line.last_mut().unwrap().extend(characters.next()),
            (_, '"') => quoted = !quoted,
            (false, ',') => line.push(String::new()),
            (false, '\r') if characters.peek() == Some(&'\n') => {
                characters.next();
                lines.push(vec![String::new()]);
            }
            (_, c) => line.last_mut().unwrap().push(c),
        }
    }
    assert_eq!(lines.pop(), Some(vec![String::new()]), "the last line ends as the others do");
    let header = lines.remove(0);
    let map = |line: Vec<String>| header.iter().cloned().zip(line).collect();
    lines.into_iter().map(map).collect()
}

#[test]
fn the_trail_tells_who_did_what_and_what_was_refused() {
    let plant = plant();
    plant.done(&["set", "plant/t-1", "state=running", "power=12.5", "--reason", "=1+1"]);
    plant.done(&["set", "plant/t-1", "power=-3", "--reason", "second, \"last\""]);
    assert_eq!(plant.run_as("gateway", &["set", "plant/t-2", "power=1"]).0, 0);
    assert_eq!(plant.run_as("gateway", &["set", "grid/g", "export=true"]).0, 3);
    assert_eq!(plant.json(&["set", "plant/t-1", "state=5"]).0, 3);
    let deleted = plant.done(&["delete", "plant/t-1", "--reason", "gone"]);

    // One twin, along its chain: newest first, with what was before.
    let told = plant.done(&["history", "plant/t-1", "power"]);
    let values: Vec<_> = told.iter().map(|row| (&row["old_value"], &row["value"], &row["action"])).collect();
    let (set, delete) = (json!("set"), json!("delete"));
    let expected =
        [(&json!(-3), &Value::Null, &delete), (&json!(12.5), &json!(-3), &set), (&Value::Null, &json!(12.5), &set)];
    assert_eq!(values, expected);
    assert!(told.iter().all(|row| row["code"] == json!(0) && row["key"].as_str().unwrap().len() == 44));
    assert!(told.iter().all(|row| row["signed_time"].is_string() && row["certified_time"].is_null()));

    // Refusals, of all twins, of some, of one identity, of one code.
    let refused = plant.done(&["history", "*", "--outcome", "refused"]);
    let about: Vec<_> = refused.iter().map(|row| (&row["twin"], &row["origin"], &row["code"])).collect();
    let (t1, g, operator, gateway) = (json!("plant/t-1"), json!("grid/g"), json!("operator"), json!("gateway"));
    assert_eq!(about, [(&t1, &operator, &json!(301)), (&g, &gateway, &json!(201))]);
    assert_eq!(plant.done(&["history", "plant/*", "--outcome", "refused"]).len(), 1);
    assert_eq!(plant.done(&["history", "*", "--outcome", "201"]).len(), 1);
    assert_eq!(plant.done(&["history", "plant/t-1", "state", "--outcome", "refused"]).len(), 1);
    let by_gateway = plant.done(&["history", "*", "--by", "gateway", "--outcome", "all", "--unordered"]);
    let twins: Vec<_> = by_gateway.iter().filter(|row| !row["twin"].is_null()).map(|row| &row["twin"]).collect();
    assert_eq!(twins, [&g, &json!("plant/t-2")]);
    let key = by_gateway[0]["key"].as_str().unwrap();
    assert_eq!(plant.done(&["history", "*", "--by", key, "--outcome", "all"]), by_gateway);
    assert_eq!(plant.done(&["history", "plant/t-1", "--by", "gateway"]), Vec::<Value>::new());
    let (code, _, error) = plant.run_as("operator", &["history", "*", "--by", "nobody"]);
    assert!(code == 2 && error.contains("nobody has this name"), "{error}");

    // By time and position.
    let at = deleted[0]["position"].as_str().unwrap();
    assert_eq!(plant.done(&["history", "plant/*", "--outcome", "all", "--from", at]).len(), 2);
    assert_eq!(plant.done(&["history", "plant/t-1", "--around", at, "--span", "2d"]).len(), 5);
    assert_eq!(plant.done(&["history", "*", "--outcome", "all", "--to", "2000-01-01T00:00:00Z"]).len(), 0);

    // CSV: safe for spreadsheets, and nothing lost.
    let (code, text, _) = plant.run_as("operator", &["history", "plant/t-1", "--format", "csv"]);
    let lines = csv(&text);
    assert_eq!((code, lines.len()), (0, 5));
    let reasons: Vec<_> = lines.iter().map(|line| line["reason"].as_str()).collect();
    assert_eq!(reasons, ["gone", "gone", "second, \"last\"", "'=1+1", "'=1+1"]);
    assert_eq!(
        (lines[2]["value"].as_str(), lines[2]["old_value"].as_str(), lines[2]["revision"].as_str()),
        ("-3", "12.5", "2")
    );
    let (_, table, _) = plant.run_as("operator", &["history", "plant/t-1"]);
    assert!(
        table.contains("OLD VALUE") && table.contains("operator (") && table.contains("second, \"last\""),
        "{table}"
    );

    // The picture.
    let svg = plant._dir.path().join("out.svg");
    let line = ["history", "plant/t-1", "--around", at, "--span", "1h", "--svg", svg.to_str().unwrap()];
    let (code, out, error) = plant.run_as("operator", &line);
    assert!(code == 0 && out.contains("6 rows drawn"), "{out}{error}");
    let drawn = std::fs::read_to_string(&svg).unwrap();
    assert!(drawn.contains("refused: type conflict (301)") && drawn.contains("=1+1"), "{drawn}");
}

struct Watch {
    child: Child,
    lines: BufReader<std::process::ChildStdout>,
}

impl Watch {
    fn start(plant: &Plant, line: &[&str]) -> Self {
        let line = [&["watch"][..], line, &["--json"]].concat();
        let mut child = plant.command("operator", &line).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        Self { child, lines }
    }

    fn next(&mut self) -> Value {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap()
    }

    fn signal(mut self, signal: Signal) -> Option<i32> {
        rustix::process::kill_process(rustix::process::Pid::from_child(&self.child), signal).unwrap();
        self.child.wait().unwrap().code()
    }
}

#[test]
fn a_watch_tells_every_change_once_resumes_and_ends_on_signals() {
    let plant = plant();
    plant.done(&["set", "plant/a", "x=1", "y=2"]);
    let mut watch = Watch::start(&plant, &["plant/", "--from", "0.0"]);
    assert_eq!((&watch.next()["property"], &watch.next()["property"]), (&json!("x"), &json!("y")));
    plant.done(&["set", "grid/g", "x=1"]);
    plant.done(&["set", "plant/b", "x=3"]);
    plant.done(&["delete", "plant/a", "--reason", "gone"]);
    let third = watch.next();
    assert_eq!((&third["twin"], &third["value"]), (&json!("plant/b"), &json!(3)));
    let gone = watch.next();
    assert_eq!((&gone["value"], &gone["reason"]), (&Value::Null, &json!("gone")));
    assert_eq!(watch.signal(Signal::INT), Some(0));

    let mut resumed = Watch::start(&plant, &["plant/", "--from", third["position"].as_str().unwrap()]);
    assert_eq!(resumed.next()["reason"], json!("gone"));
    assert_eq!(resumed.signal(Signal::TERM), Some(0));
}

#[test]
fn a_watch_whose_reader_has_gone_ends() {
    let plant = plant();
    let mut watch = Watch::start(&plant, &["", "--from", "0.0"]);
    plant.done(&["set", "plant/a", "x=1"]);
    watch.next();
    let Watch { mut child, lines } = watch;
    drop(lines);
    plant.done(&["set", "plant/a", "x=2"]);
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn work_goes_on_without_one_replica_and_it_comes_back_from_its_log() {
    let mut plant = plant();
    plant.done(&["set", "plant/a", "x=1"]);
    plant.cluster.kill(2).unwrap();
    let (code, status) = plant.json(&["status", "--timeout", "2"]);
    assert_eq!((code, &status[2]["reachable"], &status[1]["reachable"]), (0, &json!(false), &json!(true)));
    plant.done(&["set", "plant/a", "x=2"]);
    plant.cluster.restart(2).unwrap();
    plant.cluster.wait_ready(4, Duration::from_secs(120), None).unwrap();
    plant.done(&["set", "plant/a", "x=3"]);
    // The one that was away catches up with the others: the same position, roots and digest.
    let same = |status: &[Value], field: &str| status.iter().all(|replica| replica[field] == status[0][field]);
    loop {
        let status = plant.done(&["status"]);
        if same(&status, "executed_sequence") {
            for field in ["history_size", "history_root", "state_root", "state_digest"] {
                assert!(same(&status, field), "{field}: {status:?}");
            }
            break;
        }
    }
    assert_eq!(plant.done(&["get", "plant/a", "x"])[0]["revision"], json!(3));
    plant.cluster.stop().unwrap();
}

#[test]
fn two_of_four_are_no_quorum() {
    let mut plant = plant();
    plant.cluster.kill(1).unwrap();
    plant.cluster.kill(3).unwrap();
    let (code, _, error) = plant.run_as("operator", &["set", "plant/a", "x=1", "--timeout", "1"]);
    assert_eq!(code, 4, "{error}");
    assert!(error.contains("replica-1") && error.contains("not connected"), "{error}");
    assert!(error.contains("may still be carried out"), "{error}");
    assert_eq!(plant.json(&["status", "--timeout", "1"]).0, 4);
}

#[test]
fn a_bench_reports_ratio_and_floor_and_leaves_nothing() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let hdr = dir.path().join("latency.hlog");
    let line = ["bench", "throughput", "--clients", "2", "--in-flight", "2", "--bundle", "8", "--seconds", "1"];
    let output = Command::new(env!("CARGO_BIN_EXE_atlas"))
        .args(line)
        .args(["--warmup", "0.5", "--json", "--dir"])
        .arg(dir.path())
        .arg("--hdr")
        .arg(&hdr)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    for field in ["ops_per_s", "p50_us", "p9999_us", "max_us", "floor_us", "ratio_to_floor"] {
        assert!(report[field].as_f64().is_some_and(|value| value > 0.0), "{field}: {report}");
    }
    let fields = ["bundle", "payload", "clients", "in_flight", "replicas", "errors", "refused"];
    assert_eq!(fields.map(|field| report[field].as_u64()), [8, 128, 2, 2, 4, 0, 0].map(Some), "{report}");
    let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, [hdr.file_name().unwrap()]);
    assert!(std::fs::read_to_string(&hdr).unwrap().contains("HIST"));
}

#[test]
fn an_interrupted_bench_leaves_nothing() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_atlas"))
        .args(["bench", "latency", "--seconds", "600", "--dir"])
        .arg(dir.path())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Its replicas run once their data directories are there.
    let started = |dir: &Path| {
        let home = std::fs::read_dir(dir).unwrap().next()?.ok()?.path();
        home.join("cluster/replica-3/data").exists().then_some(home)
    };
    while started(dir.path()).is_none() {
        assert!(child.try_wait().unwrap().is_none(), "it ended by itself");
        std::thread::yield_now();
    }
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), Signal::TERM).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}
