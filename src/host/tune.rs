//! `atlas host tune`: prints or makes the changes that findings carry, and the script that undoes them.
//!
//! A change is made only if the value that was read can be written back by a shell: letters, digits and `_ , . -`. The undo script is
//! on disk before the first change. A change that fails (an interrupt whose driver keeps it, for example) is told, and the others
//! are made all the same.

use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use super::root::Root;
use super::{Change, Finding};

/// What became of a change.
#[derive(Debug)]
pub struct Made {
    /// The command that says the same.
    pub command: String,
    /// Why it was not made.
    pub result: io::Result<()>,
}

/// Whether a text means only itself to a shell.
fn is_plain(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b',' | b'.' | b'-' | b'/' | b':' | b'@'))
}

/// The changes of all findings that can be made and undone, in their order.
pub fn changes(findings: &[Finding]) -> Vec<Change> {
    let all = findings.iter().flat_map(|finding| &finding.changes);
    let can = |change: &&Change| match change {
        Change::File { path, old, new } => {
            path.to_str().is_some_and(is_plain) && is_plain(old) && is_plain(new) && old != new
        }
        Change::Tool { run, undo } => run.iter().chain(undo).all(|word| is_plain(word)) && run.len() > 1,
    };
    all.filter(can).cloned().collect()
}

fn write_command(root: &Root, path: &Path, value: &str) -> String {
    let place = root.place(path);
    let place = place.to_string_lossy();
    match is_plain(&place) {
        true => format!("echo {value} > {place}"),
        false => format!("echo {value} > '{}'", place.replace('\'', r"'\''")),
    }
}

/// The shell command that makes a change.
pub fn command(root: &Root, change: &Change) -> String {
    match change {
        Change::File { path, new, .. } => write_command(root, path, new),
        Change::Tool { run, .. } => run.join(" "),
    }
}

/// The script that puts back what was read, last change first.
pub fn undo_script(root: &Root, changes: &[Change]) -> String {
    let mut script =
        "#!/bin/sh\n# Puts back what atlas host tune found before it changed it. Run it as root.\n".to_owned();
    script.push_str("failed=0\n");
    for change in changes.iter().rev() {
        let line = match change {
            Change::File { path, old, .. } => write_command(root, path, old),
            Change::Tool { undo, .. } => undo.join(" "),
        };
        // Writing into a String cannot fail.
        let _ = writeln!(script, "{line} || failed=1");
    }
    script.push_str("exit $failed\n");
    script
}

/// Writes the undo script, which must not be there yet; readable and runnable by its owner only.
///
/// # Errors
/// The file is there, or cannot be written.
pub fn write_undo(path: &Path, script: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o700).open(path)?;
    file.write_all(script.as_bytes())?;
    file.sync_all()?;
    let dir = path.parent().filter(|dir| *dir != Path::new("")).unwrap_or(Path::new("."));
    File::open(dir)?.sync_all()
}

/// Makes the changes; tools are run only where `tools` says so.
pub fn apply(root: &Root, changes: &[Change], tools: bool) -> Vec<Made> {
    let make = |change: &Change| {
        let result = match change {
            Change::File { path, old, new } => write_value(root, path, old, new),
            Change::Tool { .. } if !tools => Err(io::Error::other("tools are not run below another root")),
            Change::Tool { run, .. } => run_tool(run),
        };
        Made { command: command(root, change), result }
    };
    changes.iter().map(make).collect()
}

fn write_value(root: &Root, path: &Path, old: &str, new: &str) -> io::Result<()> {
    // The undo script holds what was read: whoever changed it since would be undone.
    let now = root.read(path).unwrap_or_default();
    if super::root::chosen(&now).unwrap_or(&now) != old {
        return Err(io::Error::other(format!("it held {old} and now holds \"{now}\": somebody else changes it")));
    }
    let mut file = OpenOptions::new().write(true).truncate(true).open(root.place(path))?;
    file.write_all(format!("{new}\n").as_bytes())
}

fn run_tool(words: &[String]) -> io::Result<()> {
    let [tool, arguments @ ..] = words else { return Ok(()) };
    let output = Command::new(tool)
        .args(arguments)
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .stdin(Stdio::null())
        .output()?;
    match output.status.success() {
        true => Ok(()),
        false => Err(io::Error::other(String::from_utf8_lossy(&output.stderr).trim().to_owned())),
    }
}
