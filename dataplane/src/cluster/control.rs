//! How one replica is managed: `[control]` of its file.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::{Spanned, Value};

use super::error::{ConfigError, Problem, Source};
use super::settings::Setting;

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
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawControl {
    directory: Option<PathBuf>,
    metrics_listen: Option<Spanned<String>>,
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
        Ok(Self {
            directory: raw.directory.map_or_else(|| data.join(RUN_DIRECTORY), |directory| base.join(directory)),
            modes,
            groups,
            metrics_listen: listen.transpose()?,
        })
    }
}
