//! Evidence from a running cluster: receipts, proofs of state and of absence, exports; while replicas are down, stand still and come
//! back; and what an auditor makes of what was tampered with.

#[path = "support/auditors.rs"]
mod auditors;

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use atlas::local::{LocalCluster, LocalOptions, Signal};
use auditors::auditors;

struct Plant {
    cluster: LocalCluster,
    dir: tempfile::TempDir,
}

impl Plant {
    fn start() -> Self {
        // Beside the build, as temporary directories may lie in memory.
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let options = LocalOptions {
            program: Some(env!("CARGO_BIN_EXE_atlas").into()),
            segment_mib: 4,
            // Many tests share few cores.
            ready_timeout: Duration::from_secs(120),
            ..LocalOptions::default()
        };
        let cluster = LocalCluster::start(&dir.path().join("cluster"), 4, &options).unwrap();
        Self { cluster, dir }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn run(&self, line: &[&str]) -> (i32, String, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_atlas"));
        command.args(line).stdin(Stdio::null()).current_dir(self.dir.path());
        command.env("ATLAS_CLUSTER", self.cluster.cluster_file());
        command.env("ATLAS_IDENTITY", self.cluster.identity("operator").unwrap());
        let output = command.output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    }

    fn done(&self, line: &[&str]) -> String {
        let (code, out, error) = self.run(line);
        assert_eq!(code, 0, "{line:?}: {out}{error}");
        out
    }
}

const PATIENT: [&str; 2] = ["--timeout", "120"];

fn verify<'a>(files: &[&'a str]) -> Vec<&'a str> {
    [&["verify"], files, &["--policy", "cluster/policy.txt"]].concat()
}

#[test]
fn what_a_cluster_certifies_holds_offline() {
    let plant = Plant::start();
    let set = |value: &str, more: &[&str]| {
        let assignment = format!("power={value}");
        plant.done(&[&["set", "plant/t-1", &assignment], more, &PATIENT[..]].concat())
    };
    let first = set("1.5", &["--receipt", "first.proof"]);
    let first = first.split_whitespace().nth(2).unwrap().trim_end_matches(',').to_owned();
    set("2.5", &[]);
    set("3.5", &["--receipt", "third.proof"]);
    assert!(plant.done(&verify(&["first.proof", "third.proof"])).contains("power to 1.5"));

    // A refused operation stands in the history, and has its receipt.
    let refused = ["txn", "--if", "plant/t-1 power == 9.0", "--set", "plant/t-1", "power=0.0", "--receipt", "no.proof"];
    let (code, _, error) = plant.run(&[&refused[..], &PATIENT].concat());
    assert_eq!(code, 3, "{error}");
    assert!(plant.done(&verify(&["no.proof"])).contains("refused"));

    // The state now, and back to the first value.
    let prove = ["prove", "plant/t-1", "power", "-o", "state.proof", "--at", &first];
    let shown = plant.done(&[&prove[..], &PATIENT].concat());
    assert!(shown.contains("power was 3.5, revision 3") && shown.contains("power to 1.5, revision 1"), "{shown}");
    let files = ["state.proof", "state.proof.1", "state.proof.2", "state.proof.3"];
    assert!(plant.done(&verify(&files)).contains("the first value of plant/t-1 power"));

    // What was never written.
    let absent = ["prove", "plant/t-1", "brake", "--absent", "-o", "absent.proof"];
    plant.done(&[&absent[..], &PATIENT].concat());
    plant.done(&[&verify(&["absent.proof"])[..], &["--absent", "plant/t-1", "brake"]].concat());
    let (code, ..) = plant.run(&[&["prove", "plant/t-1", "power", "--absent", "-o", "x"], &PATIENT[..]].concat());
    assert_eq!(code, 3, "it is there");
    let (code, ..) = plant.run(&[&["prove", "plant/t-1", "brake", "-o", "x"], &PATIENT[..]].concat());
    assert_eq!(code, 3, "it is not there");

    // The whole history, and an altered copy.
    plant.done(&[&["export", "-o", "export"], &PATIENT[..]].concat());
    let audit = ["audit", "export", "--policy", "cluster/policy.txt", "--deep"];
    assert!(plant.done(&audit).contains("each as written"));
    assert_eq!(fs::read(plant.file("export/policy.txt")).unwrap(), fs::read(plant.file("cluster/policy.txt")).unwrap());
    // Tools that are not ours say the same of the export, of the receipts, and of the state.
    let files = ["export", "first.proof", "third.proof", "no.proof", "state.proof"].map(|name| plant.file(name));
    let files: Vec<&Path> = files.iter().map(PathBuf::as_path).collect();
    let policy = plant.file("cluster/policy.txt");
    for auditor in auditors() {
        let said = auditor.audit(&policy, &files);
        assert!(said.iter().all(|(holds, _)| *holds), "{}: {said:?}", auditor.name);
    }
    // The same for people, and only what was refused.
    let trail = ["export", "--format", "csv", "--outcome", "refused", "--by", "operator", "-o", "refused.csv"];
    plant.done(&[&trail[..], &PATIENT].concat());
    let csv = fs::read_to_string(plant.file("refused.csv")).unwrap();
    assert!(csv.lines().count() >= 2 && csv.contains("condition not met"), "{csv}");
    let tile = find(&plant.file("export/tile/entries"));
    let mut bytes = fs::read(&tile).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 4;
    fs::write(&tile, bytes).unwrap();
    let (code, _, error) = plant.run(&audit);
    assert_eq!(code, 5, "{error}");
    assert!(error.contains("tile/entries/"), "{error}");
    for auditor in auditors() {
        let said = auditor.audit(&policy, &files[..1]);
        assert!(!said[0].0, "{}: {said:?}", auditor.name);
    }

    // A receipt under another cluster's policy, and one in which a byte is another.
    let mut receipt = fs::read_to_string(plant.file("first.proof")).unwrap();
    receipt = receipt.replacen("index 1", "index 2", 1);
    fs::write(plant.file("forged.proof"), receipt).unwrap();
    assert_eq!(plant.run(&verify(&["forged.proof"])).0, 5);
}

/// Some file of entries.
fn find(dir: &Path) -> PathBuf {
    let mut files: Vec<PathBuf> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let first = files.swap_remove(0);
    if first.is_dir() { find(&first) } else { first }
}

#[test]
fn certificates_go_on_with_replicas_down_standing_still_and_back_again() {
    let mut plant = Plant::start();
    let receipt = |plant: &Plant, name: &str| {
        plant.done(&[&["set", "plant/t-1", "power=1.5", "--receipt", name], &PATIENT[..]].concat());
        plant.done(&verify(&[name]))
    };
    let signers = |shown: &str, replica: &str| shown.contains(replica);
    plant.cluster.kill(0).unwrap();
    assert!(!signers(&receipt(&plant, "a"), " r0 "));
    plant.cluster.restart(0).unwrap();
    // Any three sign: without replica 1 it takes the one that came back, which went on from its promise.
    plant.cluster.signal(1, Signal::STOP).unwrap();
    assert!(signers(&receipt(&plant, "b"), " r0 "));
    plant.cluster.signal(1, Signal::CONT).unwrap();
    // All at once, and the history is certified again without a write.
    for replica in 0..4 {
        plant.cluster.kill(replica).unwrap();
    }
    for replica in 0..4 {
        plant.cluster.restart(replica).unwrap();
    }
    plant.done(&[&["export", "-o", "after"], &PATIENT[..]].concat());
    plant.done(&["audit", "after", "--policy", "cluster/policy.txt", "--deep"]);
    // Too few to certify: no receipt, and the reason.
    plant.cluster.kill(2).unwrap();
    plant.cluster.kill(3).unwrap();
    let (code, _, error) = plant.run(&["export", "--to", "1000000", "-o", "none", "--timeout", "5"]);
    assert_ne!(code, 0);
    assert!(error.contains("start replica-2, replica-3"), "{error}");
}

/// Writes `to` wherever `from` stands in a process's own memory, as a failing or a tampered memory would; how often that was.
fn alter_memory(pid: u32, from: &[u8], to: &[u8]) -> usize {
    assert_eq!(from.len(), to.len());
    let memory = fs::File::options().read(true).write(true).open(format!("/proc/{pid}/mem")).unwrap();
    let mut altered = 0;
    for line in fs::read_to_string(format!("/proc/{pid}/maps")).unwrap().lines() {
        let mut words = line.split_whitespace();
        let (Some(range), Some(mode)) = (words.next(), words.next()) else { continue };
        // What is mapped from files has a path.
        if !mode.starts_with("rw") || words.nth(3).is_some_and(|path| path.starts_with('/')) {
            continue;
        }
        let (start, end) = range.split_once('-').unwrap();
        let [start, end] = [start, end].map(|at| u64::from_str_radix(at, 16).unwrap());
        let mut bytes = vec![0; (end - start) as usize];
        // Some pages cannot be read: they are the kernel's.
        if memory.read_exact_at(&mut bytes, start).is_err() {
            continue;
        }
        for at in (0..bytes.len().saturating_sub(from.len())).filter(|at| bytes[*at..].starts_with(from)) {
            memory.write_all_at(to, start + at as u64).unwrap();
            altered += 1;
        }
    }
    altered
}

#[test]
fn a_replica_whose_state_was_altered_in_memory_stops_and_says_which_slot() {
    let mut plant = Plant::start();
    let set = |plant: &Plant, twin: &str, value: &str| {
        plant.done(&[&["set", twin, &format!("state={value}")], &PATIENT[..]].concat())
    };
    set(&plant, "plant/t-1", "pressure-valve-shut-97531");
    // Whatever else had it in memory on its way has something else there now.
    for round in 0..40 {
        set(&plant, "plant/t-2", &format!("round-{round}"));
    }
    let pid = plant.cluster.pid(2).unwrap();
    assert!(alter_memory(pid, b"pressure-valve-shut-97531", b"pressure-valve-open-97531") > 0);
    // It stops by itself; that the others answer meanwhile keeps it awake.
    let log = plant.cluster.log_file(2);
    let deadline = Instant::now() + Duration::from_secs(120);
    loop {
        let said = fs::read_to_string(&log).unwrap();
        if said.contains("what there is to compare is kept in") {
            let slot =
                "slot 0 of the state (plant/t-1 state) was changed in memory by something else than an operation";
            assert!(said.contains(slot), "{said}");
            break;
        }
        assert!(Instant::now() < deadline, "{said}");
        set(&plant, "plant/t-2", "on");
    }
    let kept = fs::read_dir(plant.cluster.replica_file(2).unwrap().parent().unwrap().join("data")).unwrap();
    let kept =
        kept.map(|entry| entry.unwrap().path()).find(|path| path.to_string_lossy().contains("diverged-")).unwrap();
    let leaf = fs::read(kept.join("altered-leaf")).unwrap();
    assert!(leaf.windows(11).any(|window| window == b"-valve-open"), "{leaf:?}");
    // The others have what was written, and it comes back with that.
    assert!(plant.done(&[&["get", "plant/t-1", "state"], &PATIENT[..]].concat()).contains("pressure-valve-shut-97531"));
    // Its last line is not its end.
    while plant.cluster.check().is_ok() {
        assert!(Instant::now() < deadline, "replica 2 said why it stops, and did not");
        std::thread::sleep(Duration::from_millis(10));
    }
    plant.cluster.restart(2).unwrap();
    plant.cluster.wait_ready(4, Duration::from_secs(120), None).unwrap();
}
