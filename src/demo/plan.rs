//! What the demonstration does when: steps of the day, what happens at them, and the operations that they become.
//!
//! Pure. The measurements come from the file; the properties `state`, `brake` and `restart` with the values written here
//! are the demonstration's own invention.

use std::collections::BTreeMap;

use super::data::{COLUMNS, Row};
use crate::twin::operation::{Comparison, Condition, Operation, SetProperty, Test, Write};
use crate::twin::value::{Quality, Value};

/// The namespace of the twins, one for each turbine.
pub const NAMESPACE: &str = "la-haute-borne";
/// Invented property: what the turbine is doing, one of the values below.
pub const STATE: &str = "state";
/// A value of [`STATE`].
pub const RUNNING: &str = "running";
/// A value of [`STATE`]: the blades brake, the rotor still turns.
pub const STOPPING: &str = "stopping";
/// A value of [`STATE`]: the rotor stands.
pub const STOPPED: &str = "stopped";
/// Invented property that the operator's command sets.
pub const BRAKE: &str = "brake";
/// The other one.
pub const RESTART: &str = "restart";

/// A turbine produces above this power, in kW.
const PRODUCING: f64 = 100.0;
/// Blades turned out of the wind have at least this pitch, in degrees.
const FEATHERED: f64 = 80.0;
/// Wind in which a turbine that may run does, in m/s.
const ENOUGH_WIND: f64 = 6.0;

/// The twin of a turbine.
pub fn twin(turbine: &str) -> String {
    format!("{NAMESPACE}/{turbine}")
}

/// The rows of one time, by turbine.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Step<'a> {
    /// When they were measured.
    pub time_ns: i64,
    /// At least one.
    pub rows: &'a [Row<'a>],
}

/// The steps of rows that are in the order of time.
pub fn steps<'a>(rows: &'a [Row<'a>]) -> Vec<Step<'a>> {
    rows.chunk_by(|left, right| left.source_time_ns == right.source_time_ns)
        .filter_map(|rows| rows.first().map(|first| Step { time_ns: first.source_time_ns, rows }))
        .collect()
}

/// Before which steps a replica is killed and comes back, and another one lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Schedule {
    /// Killed after a third of the day.
    pub kill: usize,
    /// Started again after two thirds.
    pub restart: usize,
    /// Another one lies after three quarters.
    pub lie: usize,
    /// It is itself again after eleven twelfths.
    pub truth: usize,
}

impl Schedule {
    /// For a day of so many steps.
    pub fn of(steps: usize) -> Self {
        Self { kill: steps / 3, restart: steps * 2 / 3, lie: steps * 3 / 4, truth: steps * 11 / 12 }
    }
}

/// The value that a row has for a property.
pub fn measured(row: &Row<'_>, property: &str) -> Option<f64> {
    row.measured().find(|(column, _)| column.property == property).map(|(_, value)| value)
}

/// A turbine that stopped producing while the wind blows and the others produce.
#[derive(Clone, PartialEq, Debug)]
pub struct Trip {
    /// Which.
    pub turbine: String,
    /// When it was measured.
    pub time_ns: i64,
    /// Its power, in kW.
    pub power: f64,
    /// Its power one step before, in kW.
    pub power_before: f64,
    /// Pitch of its blades, in degrees.
    pub pitch: f64,
    /// The wind at its nacelle, in m/s.
    pub wind: f64,
    /// Mean power of the others, in kW.
    pub others: f64,
}

/// What a step shows beyond its values.
#[derive(Clone, PartialEq, Debug)]
pub enum Event {
    /// A turbine tripped.
    Tripped(Trip),
    /// One that had tripped produces again, at this power in kW.
    RunsAgain(String, f64),
}

/// Watches the turbines for trips: from producing to no power with the blades out of the wind, although there is wind
/// enough and the others produce.
#[derive(Clone, Debug, Default)]
pub struct Watch {
    power: BTreeMap<String, f64>,
    tripped: BTreeMap<String, i64>,
}

impl Watch {
    /// Looks at the next step.
    pub fn look(&mut self, step: Step<'_>) -> Vec<Event> {
        let mut events = Vec::new();
        for row in step.rows {
            let Some(power) = measured(row, "power") else { continue };
            let before = self.power.insert(row.turbine.to_owned(), power);
            if power > PRODUCING && self.tripped.remove(row.turbine).is_some() {
                events.push(Event::RunsAgain(row.turbine.to_owned(), power));
            }
            if let Some(trip) = before.and_then(|before| trip(row, power, before, step.rows)) {
                self.tripped.insert(trip.turbine.clone(), trip.time_ns);
                events.push(Event::Tripped(trip));
            }
        }
        events
    }
}

fn trip(row: &Row<'_>, power: f64, power_before: f64, rows: &[Row<'_>]) -> Option<Trip> {
    let (pitch, wind) = (measured(row, "pitch")?, measured(row, "wind_speed")?);
    let others: Vec<f64> =
        rows.iter().filter(|other| other.turbine != row.turbine).filter_map(|other| measured(other, "power")).collect();
    let mean = others.iter().sum::<f64>() / others.len() as f64;
    let is_down = power <= 0.0 && power_before > PRODUCING && pitch >= FEATHERED;
    // Without others the mean is no number, hence not above anything.
    (is_down && wind >= ENOUGH_WIND && mean > PRODUCING).then(|| Trip {
        turbine: row.turbine.to_owned(),
        time_ns: row.source_time_ns,
        power,
        power_before,
        pitch,
        wind,
        others: mean,
    })
}

/// Sets everything that a row has, at one position.
pub fn measurement(row: &Row<'_>) -> Operation {
    let property = |(column, value): (super::data::Column, f64)| SetProperty {
        path: column.property.to_owned(),
        value: Value::F64(value),
        quality: Quality::Good,
        source_time_ns: Some(row.source_time_ns),
    };
    let properties = row.measured().map(property).collect();
    Operation::Write(Write::Set { twin: twin(row.turbine), properties, reason: None })
}

/// The gateway's word on what a turbine is doing.
pub fn state(turbine: &str, state: &str, source_time_ns: i64, reason: &str) -> Operation {
    let property = text(STATE, state, Some(source_time_ns));
    Operation::Write(Write::Set { twin: twin(turbine), properties: vec![property], reason: Some(reason.to_owned()) })
}

/// The operator's command: brake released and restart allowed, only if the turbine stands.
pub fn release(turbine: &str) -> Operation {
    let stands = Test::Value(Comparison::Equal, Value::Text(STOPPED.to_owned()));
    let condition = Condition { twin: twin(turbine), path: STATE.to_owned(), test: stands };
    let properties = vec![text(BRAKE, "released", None), text(RESTART, "allowed", None)];
    Operation::Transaction {
        conditions: vec![condition],
        writes: vec![Write::Set { twin: twin(turbine), properties, reason: None }],
        reason: Some("restart after a trip".to_owned()),
    }
}

/// [`release`] as it is typed.
pub fn release_typed(turbine: &str) -> String {
    let twin = twin(turbine);
    format!("atlas txn --if '{twin} {STATE} == \"{STOPPED}\"' --set {twin} {BRAKE}=released {RESTART}=allowed")
}

fn text(path: &str, value: &str, source_time_ns: Option<i64>) -> SetProperty {
    let value = Value::Text(value.to_owned());
    SetProperty { path: path.to_owned(), value, quality: Quality::Good, source_time_ns }
}

/// The measured properties of every turbine in the rows: what is read back.
pub fn measured_properties(rows: &[Row<'_>]) -> Vec<(String, &'static str)> {
    let turbines: std::collections::BTreeSet<&str> = rows.iter().map(|row| row.turbine).collect();
    let properties = |turbine: &str| COLUMNS.map(|column| (turbine.to_owned(), column.property));
    turbines.into_iter().flat_map(properties).collect()
}

#[cfg(test)]
mod tests;
