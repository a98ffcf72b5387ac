//! What a replica tells its operator in words: at the start, at the end, and from helpers.

use super::oversight::Management;
use crate::cluster::ReplicaConfig;
use crate::flight::lines::{self, Level, Lines};

/// A line for the operator, at start and end and from helpers; what the replica's thread has to tell while it serves are events of
/// the flight recorder.
pub(super) fn report(line: &str) {
    let level = if line.starts_with("warning: ") { Level::Warn } else { Level::Info };
    lines::say(level, "replica", line);
}

/// The same of what somebody should look at.
pub(super) fn alarm(line: &str) {
    lines::say(Level::Warn, "replica", line);
}

/// Hands the lines to whoever prints them.
pub(super) fn print_lines(config: &ReplicaConfig, management: Option<&mut (dyn Management + 'static)>) {
    let Some(all) = Lines::attach() else { return };
    match management {
        Some(management) => management.begins(config, all),
        None => {
            if let Err(error) = crate::cores::spawn("log", move || lines::print_with(all, lines::print_plainly)) {
                report(&format!(
                    "warning: no thread prints lines, what happens while this replica serves is not told: {error}"
                ));
            }
        }
    }
}

/// However this process ends, what was said is printed.
pub(super) struct LastLines;

impl Drop for LastLines {
    fn drop(&mut self) {
        lines::finish();
    }
}
