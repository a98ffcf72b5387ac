//! How one replica is managed: `[control]` of its file.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::{Spanned, Value};

use super::error::{ConfigError, MAX_NAME, Problem, Source};
use super::settings::Setting;
use crate::flight::lines::Level;

/// The sockets' names, from the one that may least.
pub const LEVELS: [&str; 3] = ["viewer", "operator", "admin"];

/// The directory of sockets and metrics within the data directory, unless the file names another.
pub const RUN_DIRECTORY: &str = "run";

/// The file of metrics in that directory.
pub const METRICS_FILE: &str = "metrics";

const fn mode(key: &'static str, default: u64) -> Setting {
    Setting { key, doc: &["Who may connect there."], default, min: 0, max: 0o777, unit: "a file mode such as 0o660" }
}

const MODES: [Setting; 3] = [mode("viewer_mode", 0o666), mode("operator_mode", 0o660), mode("admin_mode", 0o600)];

const fn group(key: &'static str) -> Setting {
    Setting {
        key,
        doc: &["The socket's group."],
        default: 0,
        min: 0,
        max: u32::MAX as u64 - 1,
        unit: "a group's number",
    }
}

const GROUPS: [Setting; 3] = [group("viewer_group"), group("operator_group"), group("admin_group")];

/// `[control]`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ControlConfig {
    /// The directory of sockets and metrics.
    pub directory: PathBuf,
    /// The sockets' modes, by level.
    pub modes: [u32; 3],
    /// Their groups, where they are not that of the process.
    pub groups: [Option<u32>; 3],
    /// Where metrics are served over HTTP, if they are.
    pub metrics_listen: Option<SocketAddr>,
    /// How lines for people are printed.
    pub log_format: LogFormat,
    /// Up to which level they are, until an operator says otherwise.
    pub log_level: Level,
}

/// How lines for people are printed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum LogFormat {
    /// A line with time, level and text.
    #[default]
    Human,
    /// A JSON object a line.
    Json,
}

impl LogFormat {
    /// Its name in the file.
    pub fn name(self) -> &'static str {
        match self {
            Self::Human => "human",
            Self::Json => "json",
        }
    }
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawControl {
    directory: Option<PathBuf>,
    metrics_listen: Option<Spanned<String>>,
    log_format: Option<Spanned<String>>,
    log_level: Option<Spanned<String>>,
    viewer_mode: Option<Spanned<Value>>,
    operator_mode: Option<Spanned<Value>>,
    admin_mode: Option<Spanned<Value>>,
    viewer_group: Option<Spanned<Value>>,
    operator_group: Option<Spanned<Value>>,
    admin_group: Option<Spanned<Value>>,
}

impl ControlConfig {
    pub(super) fn read(raw: RawControl, base: &Path, data: &Path, source: &Source<'_>) -> Result<Self, ConfigError> {
        let mut modes = [0; 3];
        let raw_modes = [raw.viewer_mode, raw.operator_mode, raw.admin_mode];
        for ((mode, setting), raw) in modes.iter_mut().zip(MODES).zip(raw_modes) {
            *mode = setting.read("control", raw, source)? as u32;
        }
        let mut groups = [None; 3];
        let raw_groups = [raw.viewer_group, raw.operator_group, raw.admin_group];
        for ((group, setting), raw) in groups.iter_mut().zip(GROUPS).zip(raw_groups) {
            *group = raw.map(|raw| setting.read("control", Some(raw), source)).transpose()?.map(|id| id as u32);
        }
        let listen = raw.metrics_listen.map(|raw| {
            let text = raw.as_ref().as_str();
            text.parse().map_err(|_| {
                source.error(raw.span().start, "control.metrics_listen", Problem::ListenAddress(text.to_owned()))
            })
        });
        let log_format =
            choice("control.log_format", raw.log_format.as_ref(), "\"human\" or \"json\"", source, |text| {
                [LogFormat::Human, LogFormat::Json].into_iter().find(|format| format.name() == text)
            })?;
        let levels = "\"error\", \"warn\", \"info\" or \"debug\"";
        let log_level = choice("control.log_level", raw.log_level.as_ref(), levels, source, Level::parse)?;
        let (log_format, log_level) = (log_format.unwrap_or_default(), log_level.unwrap_or(Level::Info));
        Ok(Self {
            directory: raw.directory.map_or_else(|| data.join(RUN_DIRECTORY), |directory| base.join(directory)),
            modes,
            groups,
            metrics_listen: listen.transpose()?,
            log_format,
            log_level,
        })
    }
}

/// A word of a few.
fn choice<T>(
    key: &'static str,
    raw: Option<&Spanned<String>>,
    words: &'static str,
    source: &Source<'_>,
    parse: impl Fn(&str) -> Option<T>,
) -> Result<Option<T>, ConfigError> {
    let Some(raw) = raw else { return Ok(None) };
    let text = raw.as_ref().as_str();
    let found = || Problem::Word { found: text.chars().take(MAX_NAME).collect(), words };
    parse(text).map(Some).ok_or_else(|| source.error(raw.span().start, key, found()))
}
