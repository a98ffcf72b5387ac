//! `atlas top` and `atlas ctl` at a terminal, before real replicas. The terminal is one of `script`, of util-linux.

mod support;

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};

use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use support::{Cluster, until};

fn atlas(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_atlas")).args(arguments).stdin(Stdio::null()).output().unwrap()
}

fn plant(cluster: &Cluster) -> String {
    cluster.home(0).parent().unwrap().to_str().unwrap().to_owned()
}

/// The rows of a replica in the three tables.
fn rows<'a>(frame: &'a str, replica: &str) -> Vec<Vec<&'a str>> {
    let rows = frame.lines().filter(|line| line.starts_with(replica)).map(|line| line.split_whitespace().collect());
    rows.filter(|row: &Vec<&str>| row[0] == replica).collect()
}

#[test]
fn a_frame_as_text_shows_what_real_replicas_do_and_who_is_gone() {
    let mut cluster = Cluster::start();
    let mut client = cluster.client();
    let plant = plant(&cluster);
    let frame = |more: &[&str]| {
        let output = atlas(&[&["top", "--once", "--interval", "0.3"], more].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let mut shown = String::new();
    until("all four show that they work", || {
        for _ in 0..20 {
            client.write_one();
        }
        shown = frame(&["--dir", &plant]);
        let sequence = |replica: &str| rows(&shown, replica)[0].get(4).and_then(|it| it.parse::<u64>().ok());
        let all = ["replica-0", "replica-1", "replica-2", "replica-3"];
        all.iter().all(|replica| sequence(replica).is_some_and(|sequence| sequence > 0))
            && shown.contains("nothing wants attention")
    });
    assert!(shown.starts_with("atlas top  4 of 4 run, view 0, replica 0 leads"), "{shown}");
    assert_eq!(rows(&shown, "replica-0")[0][1..4], ["leads", "0", "0"], "{shown}");
    assert_eq!(rows(&shown, "replica-2")[0][1], "ready", "{shown}");
    assert_eq!(rows(&shown, "replica-2")[2][7], "4/4", "{shown}");
    assert!(shown.lines().all(|line| line.len() <= 80), "{shown}");
    // One of them by its configuration, another by its data, one that is gone.
    cluster.kill(3);
    let named = [0, 1, 3].map(|index| cluster.home(index).join(["config.toml", "data", "", "data/run/metrics"][index]));
    let named = named.each_ref().map(|path| path.to_str().unwrap());
    until("the others see that it is gone", || {
        shown = frame(&named);
        shown.starts_with("atlas top  2 of 3 run") && rows(&shown, "replica-0")[2][7] == "3/4"
    });
    assert_eq!(rows(&shown, "replica-3")[0][1], "down", "{shown}");
    assert!(shown.contains("replica-3 does not run; pid "), "{shown}");
}

#[test]
fn what_is_no_file_of_metrics_is_refused_and_not_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let pipe = dir.path().join("pipe.toml");
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0).unwrap();
    let stat = atlas(&["stat", pipe.to_str().unwrap()]);
    assert_eq!(stat.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&stat.stderr).contains("is not a regular file"), "{stat:?}");
    let top = atlas(&["top", "--once", "--interval", "0.1", pipe.to_str().unwrap()]);
    assert!(top.status.success() && String::from_utf8_lossy(&top.stdout).contains("not a regular"), "{top:?}");
    let piped = atlas(&["top", pipe.to_str().unwrap()]);
    assert_eq!(piped.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&piped.stderr).contains("no terminal: use --once"), "{piped:?}");
    let empty = atlas(&["top", "--once", "--dir", dir.path().to_str().unwrap()]);
    assert_eq!(empty.status.code(), Some(2), "{empty:?}");
}

/// A shell line at a terminal of 80x24.
struct Terminal {
    child: Child,
    shown: Arc<Mutex<String>>,
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Terminal {
    fn start(line: &str, home: &Path) -> Option<Self> {
        let child = Command::new("script")
            .args(["-qfec", &format!("stty rows 24 cols 80; {line}"), "/dev/null"])
            .env("TERM", "xterm")
            .env("HOME", home)
            .env_remove("XDG_STATE_HOME")
            .env_remove("NO_COLOR")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        let Ok(mut child) = child else {
            eprintln!("\n*** SKIPPED: no `script` of util-linux here, so there is no terminal ***\n");
            return None;
        };
        let (mut output, shown) = (child.stdout.take().unwrap(), Arc::new(Mutex::new(String::new())));
        let taken = Arc::clone(&shown);
        std::thread::spawn(move || {
            let mut bytes = [0; 4_096];
            while let Ok(read @ 1..) = output.read(&mut bytes) {
                taken.lock().unwrap().push_str(&String::from_utf8_lossy(&bytes[..read]));
            }
        });
        Some(Self { child, shown })
    }

    fn shown(&self) -> String {
        self.shown.lock().unwrap().clone()
    }

    fn wait_for(&self, text: &str) {
        until(&format!("the terminal shows {text:?}"), || self.shown().contains(text));
    }

    /// Types, and waits until this is shown that was not before: a line editor takes a Tab among keys that wait for text that was pasted.
    fn type_in(&mut self, keys: &str, shows: &str) {
        let before = self.shown().len();
        let input = self.child.stdin.as_mut().unwrap();
        input.write_all(keys.as_bytes()).unwrap();
        input.flush().unwrap();
        until(&format!("after {keys:?} it shows {shows:?}"), || self.shown()[before..].contains(shows));
    }
}

#[test]
fn the_terminal_is_as_before_after_q_and_after_a_signal() {
    let cluster = Cluster::start();
    let line = format!(
        "sh -c 'echo pid $$ .; exec \"{}\" top --dir \"{}\"'; echo ended with $?; stty -a",
        env!("CARGO_BIN_EXE_atlas"),
        plant(&cluster)
    );
    for by_signal in [false, true] {
        let Some(mut terminal) = Terminal::start(&line, &cluster.scratch("none")) else { return };
        terminal.wait_for("replica-3");
        terminal.wait_for("\u{1b}[?1049h");
        if by_signal {
            let shown = terminal.shown();
            let pid = shown.split("pid ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap().parse().unwrap();
            kill_process(Pid::from_raw(pid).unwrap(), Signal::TERM).unwrap();
        } else {
            terminal.type_in("\r", "LAST SECOND");
            terminal.type_in("q", "ended with 0");
        }
        terminal.wait_for("ended with 0");
        terminal.wait_for("min = 1");
        let shown = terminal.shown();
        let after =
            shown.split("\u{1b}[?1049l").nth(1).unwrap_or_else(|| panic!("the other screen is not left: {shown}"));
        let settings: Vec<&str> = after.split_whitespace().collect();
        assert!(["icanon", "echo", "isig"].iter().all(|setting| settings.contains(setting)), "{after}");
    }
}

#[test]
fn ctl_at_a_terminal_completes_what_the_replica_takes_and_keeps_a_history() {
    let cluster = Cluster::start();
    let socket = cluster.home(0).join("data/run/admin.sock");
    until("it serves its sockets", || socket.exists());
    let home = cluster.scratch("home");
    fs::create_dir(&home).unwrap();
    let file = cluster.local.replica_file(0).unwrap();
    let line = format!("\"{}\" ctl --replica \"{}\"", env!("CARGO_BIN_EXE_atlas"), file.display());
    let Some(mut terminal) = Terminal::start(&line, &home) else { return };
    terminal.wait_for("admin> ");
    terminal.type_in("set leader_t\t", "leader_timeout_ms ");
    terminal.type_in("444\r", "leader_timeout_ms is 444");
    terminal.wait_for("150 again");
    // Of two that fit the first Tab completes what both begin with, which is there already, and the second lists them.
    terminal.type_in("configure c\t", "\u{7}");
    terminal.type_in("\t", "check    confirm");
    terminal.type_in("onf\t", "irm ");
    terminal.type_in("\r", "what was on trial stays");
    terminal.type_in("quit\r", "bye");
    until("the history is kept", || {
        let history = fs::read_to_string(home.join(".local/state/atlas/ctl_history")).unwrap_or_default();
        history.contains("set leader_timeout_ms 444") && history.contains("configure confirm")
    });
}

#[test]
fn the_screen_ends_with_its_terminal() {
    let cluster = Cluster::start();
    let mut master = File::from(openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap());
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let name = ptsname(&master, Vec::new()).unwrap();
    let slave = || Stdio::from(File::options().read(true).write(true).open(name.to_str().unwrap()).unwrap());
    // Nobody sends it a signal: the terminal controls no session.
    let mut command = Command::new(env!("CARGO_BIN_EXE_atlas"));
    command.args(["top", "--dir", &plant(&cluster)]).env("TERM", "xterm");
    let mut top = command.stdin(slave()).stdout(slave()).stderr(slave()).spawn().unwrap();
    drop(command);
    assert!(master.read(&mut [0; 64]).unwrap() > 0, "it draws");
    drop(master);
    let mut ended = None;
    until("it ends", || {
        ended = top.try_wait().unwrap();
        ended.is_some()
    });
    assert_eq!(ended.and_then(|status| status.code()), Some(129));
}
