//! SIGINT, SIGTERM and SIGHUP as a flag that a command looks at, so that it can end in order.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::process::Signal;
use signal_hook::flag;

use super::error::CliError;

/// Whether the command was asked to end.
#[derive(Clone, Debug, Default)]
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Sets the flag from the first signal on. A second one ends the process at once, for when the end takes too long.
    ///
    /// # Errors
    /// The system refused.
    pub fn install() -> Result<Self, CliError> {
        let interrupt = Self::default();
        for signal in [Signal::INT, Signal::TERM, Signal::HUP].map(Signal::as_raw) {
            // In this order: the second signal finds the flag set, the first does not.
            let default = flag::register_conditional_default(signal, Arc::clone(&interrupt.0));
            default
                .and_then(|_| flag::register(signal, Arc::clone(&interrupt.0)))
                .map_err(|error| CliError::failed("cannot handle signals", error))?;
        }
        Ok(interrupt)
    }

    /// Whether a signal has come.
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
