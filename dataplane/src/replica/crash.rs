//! What a crash leaves behind, and crashes on purpose.
//!
//! A panic of any thread, and an error that ends the replica, write the flight recorder out ([`crate::flight::file`]): into the run
//! directory, or beside the data where there is none. What a panic says is printed by the bounded writer: a standard error that nobody
//! reads does not keep a process from its end.
//!
//! Crash points for whole-system tests: `ATLAS_CRASH_AT=STEP:N` aborts the process when it takes that step the N-th time. Built with debug
//! assertions only: a release build never looks at the variable.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::panic;
use std::path::Path;
use std::sync::Arc;

use super::telling::{alarm, report};
use crate::flight::file::{self, Why};
use crate::flight::lines::AT_END;
use crate::flight::stderr;

/// Writes the flight recorder out, and tells where to.
pub(super) fn write_out(data: &Path, run: &Path, why: Why, reason: &str) {
    match file::dump(if run.is_dir() { run } else { data }, why, reason) {
        Ok(path) => report(&format!("what it did last is in {}: `atlas trace` shows it", path.display())),
        Err(error) => alarm(&format!("warning: what it did last is not kept: {error}")),
    }
}

type PanicHook = Arc<dyn Fn(&panic::PanicHookInfo<'_>) + Send + Sync>;

/// The panic hook that was there comes back when this is dropped.
pub(super) struct Hook(Option<PanicHook>);

/// A panic of any thread writes the flight recorder out from now on, and is then told as the standard library tells it, which would wait for
/// a reader for ever.
pub(super) fn write_out_panics(data: &Path, run: &Path) -> Hook {
    let before: PanicHook = Arc::from(panic::take_hook());
    let (data, run) = (data.to_owned(), run.to_owned());
    panic::set_hook(Box::new(move |info| {
        write_out(&data, &run, Why::Panic, &info.to_string());
        let thread = std::thread::current();
        let trace = Backtrace::capture();
        let trace = if trace.status() == BacktraceStatus::Captured { format!("\n{trace}") } else { String::new() };
        let text = format!("thread '{}' {info}{trace}\n", thread.name().unwrap_or("without a name"));
        let _ = stderr::write_all(text.as_bytes(), |waited| waited < AT_END);
    }));
    Hook(Some(before))
}

impl Drop for Hook {
    fn drop(&mut self) {
        // A thread that panics may not change the hook, and then the process ends anyway.
        if let Some(before) = self.0.take().filter(|_| !std::thread::panicking()) {
            panic::set_hook(Box::new(move |info| before(info)));
        }
    }
}

/// The steps between a promise and the vote that tells it, each of which a crash must leave harmless.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Step {
    /// Records are staged in memory, nothing was handed to the disk.
    Staged,
    /// The bytes are in the segment, `synced_to` does not cover them yet.
    Written,
    /// `synced_to` covers them, no vote has left.
    Synced,
    /// The votes that they permit were handed to the kernel.
    Published,
}

/// Where this process is to crash, if anywhere.
#[derive(Debug)]
pub(super) struct CrashPoint(Option<(Step, u64, How)>);

/// How it ends there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum How {
    /// At once, as by `kill -9`.
    Abort,
    /// By a panic: `panic-` before the step.
    Panic,
}

impl CrashPoint {
    pub(super) fn from_environment() -> Self {
        if !cfg!(debug_assertions) {
            return Self(None);
        }
        Self(std::env::var("ATLAS_CRASH_AT").ok().and_then(|text| parse(&text)))
    }

    /// The process takes a step.
    pub(super) fn pass(&mut self, step: Step) {
        let Some((_, left, how)) = self.0.as_mut().filter(|(at, ..)| *at == step) else { return };
        *left = left.saturating_sub(1);
        match how {
            _ if *left > 0 => {}
            How::Abort => std::process::abort(),
            How::Panic => panic!("asked to panic at the step {step:?}"),
        }
    }
}

fn parse(text: &str) -> Option<(Step, u64, How)> {
    let (step, count) = text.split_once(':')?;
    let (step, how) = step.strip_prefix("panic-").map_or((step, How::Abort), |step| (step, How::Panic));
    let step = match step {
        "staged" => Step::Staged,
        "written" => Step::Written,
        "synced" => Step::Synced,
        "published" => Step::Published,
        _ => return None,
    };
    Some((step, count.parse().ok()?, how))
}
