//! The checks on recorded trees: good, bad and hostile ones.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use atlas_dataplane::net::ClockState;
use tempfile::TempDir;

use super::live::{Appends, Live};
use super::root::Root;
use super::{Change, Finding, Severity, Subject, check, tune};

/// A recorded tree.
struct Tree(TempDir);

impl Tree {
    fn new(files: &[(&str, &str)]) -> Self {
        let tree = Self(tempfile::tempdir().unwrap());
        files.iter().for_each(|(path, text)| tree.put(path, text));
        tree
    }

    fn place(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    fn put(&self, path: &str, text: &str) {
        let place = self.place(path);
        fs::create_dir_all(place.parent().unwrap()).unwrap();
        fs::write(place, format!("{text}\n")).unwrap();
    }

    fn root(&self) -> Root {
        Root::new(self.0.path())
    }

    fn look(&self, live: &Live, subject: &Subject) -> Vec<Finding> {
        check(&self.root(), live, subject)
    }
}

const LIMITS: &str = "Limit                     Soft Limit           Hard Limit           Units\n\
                      Max open files            65536                65536                files\n\
                      Max locked memory         unlimited            unlimited            bytes";
const CPU: &str = "sys/devices/system/cpu";

/// A server as the guide makes it.
fn good() -> Tree {
    let tree = Tree::new(&[
        ("proc/sys/kernel/osrelease", "6.12.5-amd64"),
        ("proc/sys/kernel/io_uring_disabled", "0"),
        ("proc/sys/kernel/numa_balancing", "0"),
        ("proc/sys/vm/swappiness", "60"),
        ("proc/sys/vm/nr_hugepages", "0"),
        ("proc/self/limits", LIMITS),
        ("proc/self/status", "CapEff:\t0000000000000000"),
        ("proc/self/cgroup", "0::/system.slice/atlas"),
        ("sys/fs/cgroup/system.slice/atlas/cpu.max", "max 100000"),
        ("proc/cpuinfo", "flags\t\t: fpu tsc"),
        ("proc/stat", "cpu  100 0 100 9000 0 0 0 1 0 0\ncpu0 1 1 1"),
        ("proc/swaps", "Filename Type Size Used Priority"),
        ("proc/self/mountinfo", "27 1 259:1 / / rw,relatime - ext4 /dev/nvme0n1p1 rw"),
        ("sys/dev/block/259:1/queue/write_cache", "write through"),
        ("sys/dev/block/259:1/queue/scheduler", "[none] mq-deadline"),
        ("sys/devices/system/cpu/online", "0-7"),
        ("sys/devices/system/cpu/isolated", "2-3"),
        ("sys/devices/system/cpu/nohz_full", "2-3"),
        ("sys/devices/system/cpu/smt/active", "0"),
        ("sys/devices/system/node/online", "0"),
        ("sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never"),
        ("sys/devices/system/clocksource/clocksource0/current_clocksource", "tsc"),
        ("sys/class/net/eth0/device/vendor", "0x8086"),
        ("sys/class/net/eth0/speed", "25000"),
        ("sys/class/net/eth0/operstate", "up"),
        ("sys/class/net/eth0/queues/rx-0/x", ""),
        ("sys/class/net/eth0/queues/tx-0/x", ""),
        ("proc/irq/30/effective_affinity_list", "0"),
        ("proc/irq/30/smp_affinity_list", "0-1"),
        // A kernel thread on core 2, which belongs there, and a shell on core 0.
        ("proc/7/task/7/stat", &stat("ksoftirqd/2", 0x0020_0040, 2)),
        ("proc/900/task/900/stat", &stat("bash", 0, 0)),
        ("proc/901/stat", &stat("atlas", 0, 2)),
        ("proc/901/task/901/stat", &stat("atlas", 0, 2)),
        ("proc/901/task/902/stat", &stat("snapshots", 0, 2)),
    ]);
    for cpu in 0..8 {
        tree.put(&format!("{CPU}/cpu{cpu}/cpufreq/scaling_governor"), "performance");
        tree.put(&format!("{CPU}/cpu{cpu}/cpuidle/state0/latency"), "0");
        tree.put(&format!("{CPU}/cpu{cpu}/cpuidle/state0/disable"), "0");
    }
    tree
}

fn stat(name: &str, flags: u64, core: u32) -> String {
    let middle = vec!["0"; 29].join(" ");
    format!("1 ({name}) S 1 1 1 0 -1 {flags} {middle} {core} 0 0")
}

fn live() -> Live {
    let appends = Appends { count: 200, p50: Duration::from_micros(30), p99: Duration::from_micros(80) };
    Live {
        ring: Ok(()),
        optional: vec![("SQPOLL", true)],
        clock: Ok(ClockState { synchronised: true, offset_ns: 20_000, max_error_us: 1_500 }),
        chrony: Some("A1,10.0.0.1,2,1.0,0.000020,0.0,0.0,0.0,0.0,0.0,0.0,0.0,64.0,Normal".to_owned()),
        coalescing: vec![("eth0".to_owned(), "Adaptive RX: off  TX: off\nrx-usecs: 0".to_owned())],
        free_bytes: Some(1 << 40),
        appends: Some(Ok(appends)),
    }
}

fn subject() -> Subject {
    Subject { data: Some("/var/lib/atlas".into()), core: Some(2), ..Subject::default() }
}

fn severity(findings: &[Finding], check: &str) -> Severity {
    let found: Vec<_> = findings.iter().filter(|finding| finding.check == check).collect();
    assert!(!found.is_empty(), "no {check} in {findings:#?}");
    found.iter().map(|finding| finding.severity).max().unwrap()
}

#[test]
fn a_tuned_server_has_nothing_to_be_done() {
    let findings = good().look(&live(), &subject());
    let bad: Vec<_> = findings.iter().filter(|finding| finding.severity != Severity::Ok).collect();
    assert!(bad.is_empty(), "{bad:#?}");
    assert!(findings.len() >= 20, "{}", findings.len());
    assert_eq!(tune::changes(&findings), []);
}

#[test]
fn each_fault_is_found_by_its_check_alone() {
    use Severity::{Critical, Note, Warning};
    for (path, text, check, expected) in [
        ("proc/sys/kernel/osrelease", "5.10.0-30", "kernel", Critical),
        ("proc/sys/kernel/io_uring_disabled", "2", "io_uring_disabled", Critical),
        ("proc/sys/kernel/io_uring_disabled", "1", "io_uring_disabled", Warning),
        (
            "proc/self/limits",
            "Max locked memory  8388608 8388608 bytes\nMax open files 65536",
            "locked memory",
            Warning,
        ),
        ("proc/self/limits", "Max locked memory  65536 65536 bytes\nMax open files 65536", "locked memory", Critical),
        ("proc/self/limits", "Max open files 1024\nMax locked memory unlimited", "file descriptors", Warning),
        ("sys/fs/cgroup/system.slice/atlas/cpu.max", "150000 100000", "cgroup", Warning),
        ("proc/stat", "cpu  100 0 100 9000 0 0 0 900 0 0", "stolen time", Warning),
        ("proc/cpuinfo", "flags : fpu hypervisor tsc", "machine", Note),
        ("sys/devices/system/cpu/isolated", "", "isolated cores", Warning),
        ("sys/devices/system/cpu/online", "0-1", "isolated cores", Critical),
        ("proc/irq/30/effective_affinity_list", "2", "interrupts", Warning),
        ("proc/900/task/900/stat", &stat("a) S (b", 0, 3), "guests on cores", Warning),
        ("sys/devices/system/cpu/cpu5/cpufreq/scaling_governor", "powersave", "governor", Warning),
        ("sys/devices/system/cpu/cpu2/cpuidle/state0/latency", "133", "sleep states", Warning),
        ("sys/kernel/mm/transparent_hugepage/enabled", "[always] madvise never", "transparent huge pages", Warning),
        ("proc/sys/vm/nr_hugepages", "512", "reserved huge pages", Note),
        ("proc/swaps", "Filename Type\n/dev/sda2 partition 1 0 -2", "swap", Warning),
        ("sys/devices/system/node/online", "0-1", "memory nodes", Note),
        ("sys/devices/system/clocksource/clocksource0/current_clocksource", "hpet", "clock source", Warning),
        ("sys/class/net/eth0/speed", "100", "network link", Warning),
        ("proc/self/mountinfo", "27 1 0:9 / / rw - tmpfs none rw", "file system", Critical),
        ("proc/self/mountinfo", "27 1 259:1 / / rw - ext4 /dev/sda rw,nobarrier", "file system", Critical),
        ("proc/self/mountinfo", "27 1 259:1 / / rw - overlay overlay rw", "file system", Warning),
        ("proc/self/mountinfo", "27 1 259:1 / / rw - fuse.sshfs host: rw", "file system", Warning),
        ("sys/dev/block/259:1/queue/write_cache", "write back", "write cache", Note),
        ("sys/dev/block/259:1/queue/scheduler", "none [bfq]", "disk scheduler", Warning),
    ] {
        let tree = good();
        tree.put(path, text);
        let findings = tree.look(&live(), &subject());
        assert_eq!(severity(&findings, check), expected, "{path} {text}");
        let found = findings.iter().find(|finding| finding.check == check).unwrap();
        assert!(!found.wanted.is_empty() && !found.fix.is_empty() && !found.why.is_empty(), "{found:?}");
        let others = findings.iter().filter(|other| other.check != check && other.severity >= Warning);
        // A core that is not online is missed by more than one check.
        assert!(others.count() == 0 || path.ends_with("online"), "{path} {text}");
    }
}

#[test]
fn what_the_host_answers_counts() {
    let tree = good();
    let with = |change: &dyn Fn(&mut Live)| {
        let mut live = live();
        change(&mut live);
        tree.look(&live, &subject())
    };
    let ring = with(&|live| live.ring = Err("boot another kernel".to_owned()));
    assert_eq!(severity(&ring, "io_uring"), Severity::Critical);
    let clock = |state| with(&|live| (live.clock, live.chrony) = (Ok(state), None));
    let lost = clock(ClockState { synchronised: false, offset_ns: 0, max_error_us: 16_000_000 });
    assert_eq!(severity(&lost, "clock synchronisation"), Severity::Warning);
    let wrong = clock(ClockState { synchronised: true, offset_ns: -6_000_000_000, max_error_us: 100 });
    assert_eq!(severity(&wrong, "clock synchronisation"), Severity::Critical);
    let vague = clock(ClockState { synchronised: true, offset_ns: 0, max_error_us: 900_000 });
    assert_eq!(severity(&vague, "clock synchronisation"), Severity::Warning);
    let chrony = with(&|live| live.chrony = Some("A,B,2,1.0,-0.700,0,0,0,0,0,0,0,64,Not synchronised".to_owned()));
    assert_eq!(severity(&chrony, "clock synchronisation"), Severity::Warning);
    let rubbish = with(&|live| live.chrony = Some("NaN,,,,nan,\u{1b}[2J".to_owned()));
    assert_eq!(severity(&rubbish, "clock synchronisation"), Severity::Ok);
    assert_eq!(severity(&with(&|live| live.free_bytes = Some(1 << 20)), "free space"), Severity::Critical);
    assert_eq!(severity(&with(&|live| live.free_bytes = Some(4 << 30)), "free space"), Severity::Warning);
    let disk = |us| {
        let time = Duration::from_micros(us);
        with(&|live| live.appends = Some(Ok(Appends { count: 9, p50: time, p99: time })))
    };
    assert_eq!(severity(&disk(9_000), "durable append"), Severity::Warning);
    assert_eq!(severity(&disk(2), "durable append"), Severity::Note);
    let denied = with(&|live| live.appends = Some(Err("no".to_owned())));
    assert_eq!(severity(&denied, "durable append"), Severity::Warning);
    let nobody = tree.look(&live(), &Subject { data: None, ..subject() });
    assert_eq!(severity(&nobody, "disk"), Severity::Note);
}

#[test]
fn what_is_not_there_is_said_to_be_hidden_and_nothing_is_guessed() {
    let live = Live { clock: Err("refused".to_owned()), chrony: None, coalescing: Vec::new(), ..live() };
    let live = Live { optional: Vec::new(), free_bytes: None, appends: None, ..live };
    let findings = Tree::new(&[]).look(&live, &subject());
    let claims: Vec<_> = findings
        .iter()
        .filter(|finding| !finding.found.starts_with("not visible here"))
        .map(|finding| finding.check)
        .collect();
    // No sign of a machine, no such switch, and what was asked of the host itself.
    assert_eq!(claims, ["machine", "io_uring", "io_uring_disabled"]);
    assert!(findings.iter().all(|finding| finding.severity <= Severity::Note), "{findings:#?}");
}

/// Every file of the good tree holds rubbish instead, of several kinds: nothing panics, and no text of it reaches the terminal raw.
#[test]
fn rubbish_in_any_file_neither_breaks_a_check_nor_reaches_the_terminal() {
    let long = "9".repeat(2_000_000);
    let lines = "(((\n".repeat(10_000);
    for rubbish in ["", "\u{1b}[31mred", "-1", "18446744073709551616", "0-4294967295", "[", "] [", "\0", &long, &lines]
    {
        let tree = good();
        let mut files = Vec::new();
        walk(tree.0.path(), &mut files);
        for file in files {
            fs::write(file, rubbish).unwrap();
        }
        let findings = tree.look(&live(), &subject());
        assert!(findings.iter().all(|finding| !finding.found.contains('\u{1b}')), "{rubbish:.20}");
        for change in tune::changes(&findings) {
            assert!(!tune::command(&tree.root(), &change).contains(['\u{1b}', ';', '$']), "{change:?}");
        }
    }
}

fn walk(dir: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => walk(&path, files),
            false => files.push(path),
        }
    }
}

fn contents(tree: &Tree) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files = Vec::new();
    walk(tree.0.path(), &mut files);
    files.sort();
    files.into_iter().map(|file| (file.clone(), fs::read(file).unwrap())).collect()
}

/// Not tuned in every way that can be undone.
fn untuned() -> Tree {
    let tree = good();
    tree.put("proc/sys/kernel/io_uring_disabled", "2");
    tree.put("proc/sys/kernel/numa_balancing", "1");
    tree.put("sys/devices/system/node/online", "0-1");
    tree.put("proc/swaps", "Filename Type\n/dev/sda2 partition 1 0 -2");
    tree.put("sys/kernel/mm/transparent_hugepage/enabled", "always");
    tree.put("proc/irq/30/effective_affinity_list", "2");
    tree.put("proc/irq/30/smp_affinity_list", "0-3");
    tree.put("sys/devices/system/cpu/smt/active", "1");
    tree.put(&format!("{CPU}/cpu2/topology/thread_siblings_list"), "2,6");
    tree.put(&format!("{CPU}/cpu6/online"), "1");
    tree.put(&format!("{CPU}/cpu4/cpufreq/scaling_governor"), "schedutil");
    tree.put(&format!("{CPU}/cpu2/cpuidle/state3/latency"), "200");
    tree.put(&format!("{CPU}/cpu2/cpuidle/state3/disable"), "0");
    tree
}

#[test]
fn what_is_applied_is_what_the_dry_run_says_and_the_script_undoes_it() {
    let tree = untuned();
    let root = tree.root();
    let before = contents(&tree);
    let changes = tune::changes(&tree.look(&live(), &subject()));
    let shown: Vec<String> = changes.iter().map(|change| tune::command(&root, change)).collect();
    let base = tree.0.path().display().to_string();
    for expected in [
        "echo 0 > {}/proc/sys/kernel/io_uring_disabled",
        "echo 0 > {}/proc/sys/kernel/numa_balancing",
        "echo 10 > {}/proc/sys/vm/swappiness",
        "echo madvise > {}/sys/kernel/mm/transparent_hugepage/enabled",
        "echo 0-1,4-7 > {}/proc/irq/30/smp_affinity_list",
        "echo 0 > {}/sys/devices/system/cpu/cpu6/online",
        "echo performance > {}/sys/devices/system/cpu/cpu4/cpufreq/scaling_governor",
        "echo 1 > {}/sys/devices/system/cpu/cpu2/cpuidle/state3/disable",
    ] {
        assert!(shown.contains(&expected.replace("{}", &base)), "{expected}: {shown:#?}");
    }
    assert_eq!(shown.len(), 8, "{shown:#?}");
    assert_eq!(contents(&tree), before, "looking changes nothing");

    let elsewhere = tempfile::tempdir().unwrap();
    let undo = elsewhere.path().join("undo.sh");
    tune::write_undo(&undo, &tune::undo_script(&root, &changes)).unwrap();
    assert!(tune::write_undo(&undo, "").is_err(), "an older script is never overwritten");
    let made = tune::apply(&root, &changes, false);
    assert!(made.iter().all(|made| made.result.is_ok()), "{made:#?}");
    assert_eq!(made.iter().map(|made| made.command.clone()).collect::<Vec<_>>(), shown);
    assert_eq!(tree.root().read("/proc/irq/30/smp_affinity_list").as_deref(), Some("0-1,4-7"));
    assert_ne!(contents(&tree), before);

    assert!(Command::new("sh").arg(&undo).status().unwrap().success());
    assert_eq!(contents(&tree), before);
}

#[test]
fn a_value_that_somebody_else_changed_since_is_left_alone() {
    let tree = untuned();
    let changes = tune::changes(&tree.look(&live(), &subject()));
    tree.put("proc/sys/vm/swappiness", "33");
    let failed = tune::apply(&tree.root(), &changes, false).into_iter().filter(|made| made.result.is_err()).count();
    assert_eq!(failed, 1);
    assert_eq!(tree.root().read("/proc/sys/vm/swappiness").as_deref(), Some("33"));
}

#[test]
fn a_value_that_a_shell_would_not_take_as_it_stands_is_not_touched() {
    let finding = |old: &str| Finding {
        changes: vec![Change::File { path: "/proc/x".into(), old: old.to_owned(), new: "1".to_owned() }],
        ..Finding::ok("x", "", "")
    };
    assert_eq!(tune::changes(&[finding("0")]).len(), 1);
    for hostile in ["", "a b", "$(reboot)", "0;reboot", "`x`", "0\n1", "'", "1"] {
        assert_eq!(tune::changes(&[finding(hostile)]), [], "{hostile:?}");
    }
}
