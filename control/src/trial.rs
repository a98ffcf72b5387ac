//! Settings that are tried: in force at once, undone by themselves unless confirmed in time.
//!
//! There is one trial at a time, for all connections. The first change begins it; each further change gives it its whole time again.
//! To confirm keeps what was changed; to undo and the end of its time bring back what was in force when it began.
//!
//! This is what is shown here. The settings, the trial and its end are the replica's own
//! ([`Order::Try`](atlas_dataplane::replica::oversight::Order)), which keeps to them whether or not anything of the management still lives. Each of its answers has the settings that are in force, and
//! [`Trial::adopt`] takes them over: what is shown here is what the replica said last, also where a trial ends at the moment of a change.

use std::time::Duration;

use atlas_dataplane::cluster::placement::Live;
use atlas_dataplane::cluster::settings::{LocalConfig, Setting};
use atlas_dataplane::replica::oversight::{Change, InForce};
use serde_json::Value;

use crate::limits::{MAX_TRIAL_SECONDS, TRIAL};

/// The setting of the core of the replica's thread.
pub const CORE: &str = "core";

/// The setting of the cores of all other threads.
pub const HELPER_CORES: &str = "helper_cores";

/// What stands for no core in particular.
const NONE: &str = "none";

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
    /// It is not what may stand there.
    #[error("{found} does not fit {name}: {wanted}")]
    Form {
        /// The setting.
        name: &'static str,
        /// What was asked for.
        found: String,
        /// What may stand there.
        wanted: &'static str,
    },
}

/// Two values of one setting.
#[derive(Clone, PartialEq, Debug)]
pub struct Difference {
    /// Its name.
    pub name: &'static str,
    /// Before.
    pub old: Value,
    /// Now.
    pub new: Value,
}

/// The settings in force, and the trial.
#[derive(Clone, Debug)]
pub struct Trial {
    running: Live,
    /// What was in force before the trial, and when it ends, us.
    before: Option<(Live, u64)>,
    time: Duration,
}

/// The change that a name and a value stand for, and the setting's name. Whether the host has the cores is not looked at.
///
/// # Errors
/// [`SetError`].
pub fn parse(name: &str, value: &str) -> Result<(&'static str, Change), SetError> {
    let found = || value.chars().take(40).collect();
    let placement = name.strip_prefix("placement.");
    let wrong = |name, wanted| SetError::Form { name, found: found(), wanted };
    match placement.unwrap_or(name) {
        CORE if value == NONE => return Ok((CORE, Change::Core(None))),
        CORE => {
            let wanted = "a core's number, or none";
            let core = value.parse().map_err(|_| wrong(CORE, wanted))?;
            return Ok((CORE, Change::Core(Some(core))));
        }
        HELPER_CORES if value == NONE => return Ok((HELPER_CORES, Change::Helpers(None))),
        HELPER_CORES => {
            let wanted = "cores such as 0-3,8, or none";
            let cores = value.parse().map_err(|_| wrong(HELPER_CORES, wanted))?;
            return Ok((HELPER_CORES, Change::Helpers(Some(cores))));
        }
        _ => {}
    }
    let short = name.strip_prefix("local.").unwrap_or(name);
    let Some(setting) = LocalConfig::TABLE.iter().find(|setting| setting.key == short) else {
        let names = LocalConfig::TABLE.iter().map(|setting| setting.key).chain([CORE, HELPER_CORES]);
        let close = closest(short, names).map(str::to_owned);
        return Err(SetError::Unknown { name: name.chars().take(64).collect(), close });
    };
    let number = value.parse::<u64>().ok().filter(|number| (setting.min..=setting.max).contains(number));
    let Setting { key: name, min, max, unit, .. } = *setting;
    let number = number.ok_or_else(|| SetError::Bounds { name, found: found(), min, max, unit })?;
    Ok((name, Change::Number(name, number)))
}

/// Names and values of all settings that can change, those of `[local]` first.
pub fn values(live: &Live) -> impl Iterator<Item = (&'static str, Value)> {
    let core = live.placement.core.map_or_else(|| NONE.into(), Value::from);
    let helpers = live.placement.helpers.map_or_else(|| NONE.to_owned(), |cores| cores.to_string());
    let numbers: Vec<_> = live.local.numbers().map(|(name, value)| (name, Value::from(value))).collect();
    numbers.into_iter().chain([(CORE, core), (HELPER_CORES, helpers.into())])
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
    pub fn new(running: Live) -> Self {
        Self { running, before: None, time: TRIAL }
    }

    /// What is in force.
    pub fn running(&self) -> &Live {
        &self.running
    }

    /// What the replica says of its settings is so.
    pub fn adopt(&mut self, in_force: &InForce, now_us: u64) {
        self.running = in_force.settings.clone();
        self.before = in_force.before.clone().map(|(before, left_us)| (before, now_us.saturating_add(left_us)));
    }

    /// What is on trial, and how long yet.
    pub fn open(&self, now_us: u64) -> Option<(Vec<Difference>, Duration)> {
        let (before, end_us) = self.before.as_ref()?;
        Some((differences(before, &self.running), Duration::from_micros(end_us.saturating_sub(now_us))))
    }

    /// The replica was told to change something, and whether it did is not known: the trial is over at once.
    pub fn failed(&mut self, now_us: u64) {
        let before = self.before.take().map_or_else(|| self.running.clone(), |(before, _)| before);
        self.before = Some((before, now_us));
    }

    /// How long a trial takes.
    pub fn time(&self) -> Duration {
        self.time
    }

    /// Another time for all trials that follow; false where it is not 1 to [`MAX_TRIAL_SECONDS`].
    pub fn set_time(&mut self, seconds: u64) -> bool {
        let fits = (1..=MAX_TRIAL_SECONDS).contains(&seconds);
        if fits {
            self.time = Duration::from_secs(seconds);
        }
        fits
    }

    /// Whether something is on trial.
    pub fn is_open(&self) -> bool {
        self.before.is_some()
    }

    /// Whether its time is up. The replica has brought back what was before by then.
    pub fn is_over(&self, now_us: u64) -> bool {
        self.before.as_ref().is_some_and(|(_, end_us)| *end_us <= now_us)
    }
}

/// The settings that differ.
pub fn differences(old: &Live, new: &Live) -> Vec<Difference> {
    let pairs = values(old).zip(values(new));
    pairs.filter(|(old, new)| old != new).map(|((name, old), (_, new))| Difference { name, old, new }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000;

    fn with(name: &str, value: &str) -> Live {
        parse(name, value).unwrap().1.of(&Live::default()).unwrap()
    }

    fn in_force(settings: Live, before: Option<(Live, u64)>) -> InForce {
        InForce { settings, was: Live::default(), before }
    }

    #[test]
    fn what_is_shown_is_what_the_replica_said_last() {
        let mut trial = Trial::new(Live::default());
        assert!(!trial.is_open() && !trial.is_over(u64::MAX));
        let tried = with("leader_timeout_ms", "400");
        trial.adopt(&in_force(tried.clone(), Some((Live::default(), 60 * SECOND))), 30 * SECOND);
        let (changes, left) = trial.open(40 * SECOND).unwrap();
        assert_eq!(left, Duration::from_secs(50));
        let expected = Difference { name: "leader_timeout_ms", old: 150.into(), new: 400.into() };
        assert_eq!(changes, [expected]);
        assert!(!trial.is_over(89 * SECOND) && trial.is_over(90 * SECOND));
        // A change that came just when the trial had ended began another: what was on trial before is not in it.
        let other = with("pool_mib", "64");
        trial.adopt(&in_force(other.clone(), Some((Live::default(), 60 * SECOND))), 90 * SECOND);
        assert_eq!(trial.open(90 * SECOND).unwrap().0.len(), 1);
        assert_eq!(trial.running(), &other);
        trial.adopt(&in_force(tried.clone(), None), 91 * SECOND);
        assert!(!trial.is_open() && trial.running() == &tried);
    }

    #[test]
    fn where_it_is_not_known_what_the_replica_did_it_is_asked_to_undo_it_at_once() {
        let mut trial = Trial::new(Live::default());
        trial.failed(7);
        assert!(trial.is_over(7) && trial.is_open());
        trial.adopt(&in_force(Live::default(), None), 8);
        assert!(!trial.is_open());
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
        assert_eq!(parse("local.leader_timeout_ms", "20").unwrap().1, Change::Number("leader_timeout_ms", 20));
        for wrong in ["", "-1", "all", "1,2"] {
            assert_eq!(text("core", wrong), format!("{wrong} does not fit core: a core's number, or none"));
        }
        assert_eq!(text("helper_core", "1"), "no setting helper_core; did you mean helper_cores?");
        assert!(text("helper_cores", "3-1").contains("cores such as 0-3,8"));
    }

    #[test]
    fn cores_are_settings_too() {
        let placed = with("placement.core", "3");
        assert_eq!(
            differences(&Live::default(), &placed),
            [Difference { name: CORE, old: "none".into(), new: 3.into() }]
        );
        let placed = with("helper_cores", "2,0-1");
        assert_eq!(differences(&Live::default(), &placed)[0].new, Value::from("0-2"));
        assert_eq!(parse("core", "none").unwrap().1.of(&placed), Some(placed));
    }
}
