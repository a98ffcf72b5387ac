//! By which numbers the cluster runs: read from the CONFIG entries.

use atlas_dataplane::cbor::{CborError, Reader};
use atlas_dataplane::history::entry::ConfigView;
use atlas_dataplane::types::TimeMs;

use super::finding::Fault;

/// Numbers and identities as they are agreed.
#[derive(Clone, Debug)]
pub struct Roster {
    /// The cluster's name.
    pub origin: String,
    /// A STATE entry with absence root stands at every multiple of this.
    pub checkpoint_interval: u64,
    /// Most properties of the store.
    pub max_properties: u64,
    /// Numbers of a session's window.
    pub session_window: u64,
    /// Open sessions of an identity.
    pub sessions_per_identity: u64,
    /// How far a client's time may be from agreed time to open a session.
    pub session_idle_ms: TimeMs,
    /// A STATE entry is due after so long.
    pub state_interval_ms: TimeMs,
}

impl Roster {
    /// What a CONFIG entry says.
    ///
    /// # Errors
    /// Names the setting that is missing or not of its form.
    pub fn from_config(config: &ConfigView<'_>) -> Result<Self, Fault> {
        let number = |name: &'static str| read(config, name, |reader| reader.uint());
        let span = |name: &'static str| number(name).map(|number| TimeMs::try_from(number).unwrap_or(TimeMs::MAX));
        Ok(Self {
            origin: read(config, "origin", |reader| reader.text().map(str::to_owned))?,
            checkpoint_interval: number("checkpoint_interval")?.max(1),
            max_properties: number("max_properties")?,
            session_window: number("session_window")?,
            sessions_per_identity: number("sessions_per_identity")?,
            session_idle_ms: span("session_idle_ms")?,
            state_interval_ms: span("state_interval_ms")?,
        })
    }
}

fn read<T>(
    config: &ConfigView<'_>,
    name: &'static str,
    read: impl FnOnce(&mut Reader<'_>) -> Result<T, CborError>,
) -> Result<T, Fault> {
    let bytes = config.setting(name).ok_or(Fault::Setting(name))?;
    let reader = &mut Reader::new(bytes);
    let value = read(reader).and_then(|value| reader.finish().map(|()| value));
    value.map_err(|_| Fault::Setting(name))
}
