//! Settings that are tried: in force at once, undone by themselves unless confirmed in time.
//!
//! There is one trial at a time, for all connections. The first change begins it; each further change gives it its whole time again.
//! [`Trial::confirm`] keeps what was changed, [`Trial::undo`] and the end of its time bring back what was in force when it began.
//!
//! This is what is shown here. The settings, the trial and its end are the replica's own
//! ([`Order::Try`](atlas_dataplane::replica::oversight::Order)), which keeps to them whether or not anything of the management still lives.

use std::time::Duration;

use atlas_dataplane::cluster::settings::{LocalConfig, Setting};

use crate::limits::{MAX_TRIAL_SECONDS, TRIAL};

/// Why a setting cannot be changed so.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SetError {
    /// There is none of that name.
    #[error("no setting {name}{}", close.as_ref().map_or_else(String::new, |close| format!("; did you mean {close}?")))]
    Unknown {
        /// What was asked for.
        name: String,
        /// The closest name.
        close: Option<String>,
    },
    /// It is not a number within bounds.
    #[error("{found} does not fit {name}: a whole number from {min} to {max} ({unit})")]
    Bounds {
        /// The setting.
        name: &'static str,
        /// What was asked for.
        found: String,
        /// The least.
        min: u64,
        /// The most.
        max: u64,
        /// Its unit.
        unit: &'static str,
    },
}

/// A change of one setting.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Change {
    /// Its name.
    pub name: &'static str,
    /// Before the trial.
    pub old: u64,
    /// Now.
    pub new: u64,
}

/// The settings in force, and the trial.
#[derive(Clone, Debug)]
pub struct Trial {
    running: LocalConfig,
    /// What was in force before the trial, and when it ends, us.
    before: Option<(LocalConfig, u64)>,
    time: Duration,
}

/// The setting of this name, and its value if it fits.
///
/// # Errors
/// [`SetError`].
pub fn parse(name: &str, value: &str) -> Result<(&'static Setting, u64), SetError> {
    let short = name.strip_prefix("local.").unwrap_or(name);
    let Some(setting) = LocalConfig::TABLE.iter().find(|setting| setting.key == short) else {
        let names = LocalConfig::TABLE.iter().map(|setting| setting.key);
        let close = closest(short, names).map(str::to_owned);
        return Err(SetError::Unknown { name: name.chars().take(64).collect(), close });
    };
    let number = value.parse::<u64>().ok().filter(|number| (setting.min..=setting.max).contains(number));
    let Setting { key: name, min, max, unit, .. } = *setting;
    let found = || value.chars().take(40).collect();
    Ok((setting, number.ok_or_else(|| SetError::Bounds { name, found: found(), min, max, unit })?))
}

/// The name that is most like another, if any is.
pub fn closest<'a>(name: &str, all: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let near = |other: &&str| other.len() > 2 && (other.starts_with(name) || name.starts_with(*other));
    let scored = all.map(|other| (if near(&other) { 0 } else { distance(name, other) }, other));
    scored.min().filter(|(score, other)| *score <= 1 + other.len() / 4).map(|(_, other)| other)
}

/// Letters to insert, remove or exchange; names are short.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().take(64).enumerate() {
        let mut corner = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.iter().enumerate() {
            let cost = (corner + usize::from(x != *y)).min(row[j] + 1).min(row[j + 1] + 1);
            corner = std::mem::replace(&mut row[j + 1], cost);
        }
    }
    row[b.len()]
}

impl Trial {
    /// With the settings that the replica began with.
    pub fn new(running: LocalConfig) -> Self {
        Self { running, before: None, time: TRIAL }
    }

    /// What is in force.
    pub fn running(&self) -> &LocalConfig {
        &self.running
    }

    /// What would be in force with a change.
    ///
    /// # Errors
    /// [`SetError`].
    pub fn with(&self, name: &str, value: &str) -> Result<LocalConfig, SetError> {
        let (setting, value) = parse(name, value)?;
        // Every name of the table is a field.
        Ok(self.running.with(setting.key, value).unwrap_or_else(|| self.running.clone()))
    }

    /// The replica runs with a change; the trial begins, or has its whole time again.
    pub fn changed(&mut self, settings: LocalConfig, now_us: u64) {
        let before = self.before.take().map_or_else(|| self.running.clone(), |(before, _)| before);
        self.running = settings;
        self.before = Some((before, now_us.saturating_add(self.time.as_micros() as u64)));
    }

    /// What is on trial, and how long yet.
    pub fn open(&self, now_us: u64) -> Option<(Vec<Change>, Duration)> {
        let (before, end_us) = self.before.as_ref()?;
        Some((differences(before, &self.running), Duration::from_micros(end_us.saturating_sub(now_us))))
    }

    /// The replica was told to run with these settings, and whether it does is not known: the trial is over at once.
    pub fn failed(&mut self, settings: LocalConfig, now_us: u64) {
        self.changed(settings, now_us);
        if let Some((_, end_us)) = &mut self.before {
            *end_us = now_us;
        }
    }

    /// How long a trial takes.
    pub fn time(&self) -> Duration {
        self.time
    }

    /// Another time, for the trial that is open and all that follow; false where it is not 1 to [`MAX_TRIAL_SECONDS`].
    pub fn set_time(&mut self, seconds: u64, now_us: u64) -> bool {
        if !(1..=MAX_TRIAL_SECONDS).contains(&seconds) {
            return false;
        }
        self.time = Duration::from_secs(seconds);
        if let Some((_, end_us)) = &mut self.before {
            *end_us = now_us + seconds * 1_000_000;
        }
        true
    }

    /// Keeps what was changed; false where nothing is on trial.
    pub fn confirm(&mut self) -> bool {
        self.before.take().is_some()
    }

    /// What was in force before the trial; [`Trial::undone`] follows when it is again.
    pub fn undo(&self) -> Option<&LocalConfig> {
        self.before.as_ref().map(|(before, _)| before)
    }

    /// What was in force before is again.
    pub fn undone(&mut self) {
        if let Some((before, _)) = self.before.take() {
            self.running = before;
        }
    }

    /// Whether its time is up. The replica has brought back what was before by then.
    pub fn is_over(&self, now_us: u64) -> bool {
        self.before.as_ref().is_some_and(|(_, end_us)| *end_us <= now_us)
    }
}

/// The numbers that differ.
pub fn differences(old: &LocalConfig, new: &LocalConfig) -> Vec<Change> {
    let pairs = old.numbers().zip(new.numbers());
    pairs.filter(|(old, new)| old != new).map(|((name, old), (_, new))| Change { name, old, new }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000;

    fn set(trial: &mut Trial, name: &str, value: &str, now_us: u64) {
        let settings = trial.with(name, value).unwrap();
        trial.changed(settings, now_us);
    }

    #[test]
    fn what_is_not_confirmed_in_time_is_undone_as_a_whole() {
        let mut trial = Trial::new(LocalConfig::default());
        set(&mut trial, "leader_timeout_ms", "400", 0);
        set(&mut trial, "local.pool_mib", "64", 30 * SECOND);
        let (changes, left) = trial.open(30 * SECOND).unwrap();
        assert_eq!(left, Duration::from_secs(60), "a further change begins the time anew");
        assert_eq!(changes.len(), 2);
        assert!(!trial.is_over(89 * SECOND) && trial.is_over(90 * SECOND));
        assert_eq!(trial.undo(), Some(&LocalConfig::default()));
        trial.undone();
        assert_eq!(trial.running(), &LocalConfig::default());
        assert!(trial.undo().is_none() && !trial.is_over(u64::MAX));
    }

    #[test]
    fn what_was_confirmed_stays() {
        let mut trial = Trial::new(LocalConfig::default());
        assert!(!trial.confirm());
        set(&mut trial, "leader_timeout_ms", "400", 0);
        assert!(trial.confirm());
        set(&mut trial, "leader_timeout_ms", "500", SECOND);
        trial.undone();
        assert_eq!(trial.running().leader_timeout_ms, 400);
    }

    #[test]
    fn another_time_holds_for_the_open_trial_too() {
        let mut trial = Trial::new(LocalConfig::default());
        set(&mut trial, "leader_timeout_ms", "400", 0);
        assert!(!trial.set_time(0, 0) && !trial.set_time(MAX_TRIAL_SECONDS + 1, 0));
        assert!(trial.set_time(2, SECOND));
        assert!(!trial.is_over(3 * SECOND - 1) && trial.is_over(3 * SECOND));
    }

    #[test]
    fn a_wrong_name_or_number_says_what_would_be_right() {
        let text = |name, value| parse(name, value).unwrap_err().to_string();
        assert_eq!(text("leader_timout_ms", "5"), "no setting leader_timout_ms; did you mean leader_timeout_ms?");
        assert_eq!(text("zzz", "5"), "no setting zzz");
        for wrong in ["19", "60001", "-1", "1.5", "", "many"] {
            assert_eq!(
                text("leader_timeout_ms", wrong),
                format!("{wrong} does not fit leader_timeout_ms: a whole number from 20 to 60000 (milliseconds)")
            );
        }
        assert_eq!(parse("local.leader_timeout_ms", "20").unwrap().1, 20);
    }
}
