//! What had to hold, and whether it did.

use crate::cli::error::CliError;

/// One thing that had to hold.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Check {
    /// What.
    pub(super) what: String,
    /// What was found.
    pub(super) found: String,
    /// Whether it holds.
    pub(super) holds: bool,
}

/// All checks of a demonstration, in their order.
#[derive(Clone, Debug, Default)]
pub(super) struct Verdict(Vec<Check>);

impl Verdict {
    /// Adds a check.
    pub(super) fn add(&mut self, holds: bool, what: impl Into<String>, found: impl Into<String>) {
        self.0.push(Check { what: what.into(), found: found.into(), holds });
    }

    /// All of them.
    pub(super) fn checks(&self) -> &[Check] {
        &self.0
    }

    /// Whether all of them hold and there are as many as the story has.
    ///
    /// # Errors
    /// Names those that do not.
    pub(super) fn conclude(&self, due: usize) -> Result<(), CliError> {
        let failed: Vec<String> = self
            .0
            .iter()
            .filter(|check| !check.holds)
            .map(|check| format!("{} ({})", check.what, check.found))
            .collect();
        if !failed.is_empty() {
            return Err(CliError::Failed(format!("this did not hold: {}", failed.join("; "))));
        }
        if self.0.len() != due {
            return Err(CliError::Failed(format!("only {} of {due} checks were made", self.0.len())));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_failure_or_one_check_too_few_is_no_success() {
        let mut verdict = Verdict::default();
        verdict.add(true, "a", "");
        assert!(verdict.conclude(1).is_ok());
        assert!(verdict.conclude(2).is_err(), "a check that was never made");
        verdict.add(false, "digests", "two of them");
        let Err(CliError::Failed(text)) = verdict.conclude(2) else { panic!("no failure") };
        assert_eq!(text, "this did not hold: digests (two of them)");
    }
}
