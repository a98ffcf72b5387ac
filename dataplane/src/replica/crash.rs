//! Crash points for whole-system tests: `ATLAS_CRASH_AT=STEP:N` aborts the process when it takes that step the N-th time.
//!
//! Built with debug assertions only: a release build never looks at the variable.

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
pub(super) struct CrashPoint(Option<(Step, u64)>);

impl CrashPoint {
    pub(super) fn from_environment() -> Self {
        if !cfg!(debug_assertions) {
            return Self(None);
        }
        Self(std::env::var("ATLAS_CRASH_AT").ok().and_then(|text| parse(&text)))
    }

    /// The process takes a step.
    pub(super) fn pass(&mut self, step: Step) {
        let Some((_, left)) = self.0.as_mut().filter(|(at, _)| *at == step) else { return };
        *left = left.saturating_sub(1);
        if *left == 0 {
            std::process::abort();
        }
    }
}

fn parse(text: &str) -> Option<(Step, u64)> {
    let (step, count) = text.split_once(':')?;
    let step = match step {
        "staged" => Step::Staged,
        "written" => Step::Written,
        "synced" => Step::Synced,
        "published" => Step::Published,
        _ => return None,
    };
    Some((step, count.parse().ok()?))
}
