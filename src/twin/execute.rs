//! Executes operations: all that can refuse one is checked before the first slot changes.

use atlas_dataplane::state::{Change, OperationContext, Outcome};
use atlas_dataplane::types::Code;

use super::operation::{Comparison, MAX_TARGETS};
use super::slot::Slot;
use super::store::{MAX_TWIN_PROPERTIES, SlotIndex, TwinStore};
use super::value::{Value, ValueRef, exact_float};
use super::view::{Action, ConditionView, OperationView, Target, TestView};

/// A refusal: where it is returned, the outcome holds its code and detail.
struct Refused;

/// Refuses with a code and a formatted detail.
macro_rules! refuse {
    ($outcome:expr, $code:expr, $($detail:tt)+) => {{
        $outcome.refuse($code, format_args!($($detail)+));
        return Err(Refused);
    }};
}

impl TwinStore {
    pub(super) fn execute_operation(
        &mut self,
        context: &OperationContext<'_>,
        operation: &[u8],
        outcome: &mut Outcome,
    ) {
        outcome.clear();
        match OperationView::decode(operation) {
            Err(refusal) => outcome.refuse(refusal.code, format_args!("{refusal}")),
            Ok(view) => {
                let mut plan = std::mem::take(&mut self.plan);
                plan.clear();
                if self.judge(context, &view, &mut plan, outcome).is_ok() {
                    self.apply(context, &view, &plan, outcome);
                }
                self.plan = plan;
            }
        }
    }

    /// Refuses, or fills `plan` with the slot of each target: `None` for one to be created, and for whole twins.
    fn judge(
        &self,
        context: &OperationContext<'_>,
        view: &OperationView<'_>,
        plan: &mut Vec<Option<SlotIndex>>,
        outcome: &mut Outcome,
    ) -> Result<(), Refused> {
        for target in &view.targets {
            self.judge_access(context, target, outcome)?;
        }
        for target in view.targets.iter().filter(|target| !gives_reason(target)) {
            self.judge_reason(context, target, outcome)?;
        }
        for condition in &view.conditions {
            self.judge_condition(condition, outcome)?;
        }
        let mut new = 0;
        for target in &view.targets {
            let slot = self.judge_target(target, outcome)?;
            new += u64::from(slot.is_none() && target.path().is_some());
            plan.push(slot);
        }
        if new > 0 { self.judge_room(view, new, outcome) } else { Ok(()) }
    }

    fn judge_access(
        &self,
        context: &OperationContext<'_>,
        target: &Target<'_>,
        outcome: &mut Outcome,
    ) -> Result<(), Refused> {
        let twin = target.twin;
        match self.first_path(target, |path| !context.access.may_write(twin, path)) {
            Some(path) => refuse!(outcome, Code::FORBIDDEN, "{twin} {path}: not permitted to write"),
            None => Ok(()),
        }
    }

    fn judge_reason(
        &self,
        context: &OperationContext<'_>,
        target: &Target<'_>,
        outcome: &mut Outcome,
    ) -> Result<(), Refused> {
        let twin = target.twin;
        match self.first_path(target, |path| context.access.needs_reason(twin, path)) {
            Some(path) => refuse!(outcome, Code::REASON_REQUIRED, "{twin} {path}: not without a reason"),
            None => Ok(()),
        }
    }

    /// The first of the target's properties of which that holds; for a whole twin, of those that exist.
    fn first_path<'a>(&'a self, target: &Target<'a>, holds: impl Fn(&str) -> bool) -> Option<&'a str> {
        if let Some(path) = target.path() {
            return Some(path).filter(|path| holds(path));
        }
        let properties = self.twin(target.twin).map_or(&[][..], |twin| &twin.properties);
        let alive = properties.iter().filter(|(_, index)| self.slots[*index as usize].value.is_some());
        alive.map(|(path, _)| &**path).find(|path| holds(path))
    }

    fn judge_condition(&self, condition: &ConditionView<'_>, outcome: &mut Outcome) -> Result<(), Refused> {
        let slot = self.find(condition.twin, condition.path);
        if holds(condition.test, slot) {
            return Ok(());
        }
        let (twin, path) = (condition.twin, condition.path);
        let code = Code::CONDITION_FAILED;
        let actual = Actual(slot);
        match condition.test {
            TestView::Value(comparison, value) => {
                refuse!(outcome, code, "{twin} {path} {comparison} {value}: {actual}")
            }
            TestView::Revision(revision) => refuse!(outcome, code, "{twin} {path} revision == {revision}: {actual}"),
            TestView::Exists => refuse!(outcome, code, "{twin} {path} exists: {actual}"),
            TestView::Absent => refuse!(outcome, code, "{twin} {path} absent: {actual}"),
        }
    }

    /// The target's slot, if it names one that is there.
    fn judge_target(&self, target: &Target<'_>, outcome: &mut Outcome) -> Result<Option<SlotIndex>, Refused> {
        let name = target.twin;
        if let Action::Set { path, value, .. } = target.action {
            let Some(index) = self.slot_of(name, path) else { return Ok(None) };
            return match &self.slots[index as usize].value {
                Some(old) if stored_as(value, old).is_none() => {
                    let (is, given) = (old.type_name(), value.type_name());
                    refuse!(outcome, Code::TYPE_CONFLICT, "{name} {path}: is {is}, {value} is {given}")
                }
                _ => Ok(Some(index)),
            };
        }
        let Some(twin) = self.twin(name).filter(|twin| twin.alive > 0) else {
            refuse!(outcome, Code::UNKNOWN_TWIN, "{name}: no such twin")
        };
        match target.path() {
            Some(path) => match twin.find(path) {
                Ok(index) if self.slots[index as usize].value.is_some() => Ok(Some(index)),
                _ => refuse!(outcome, Code::UNKNOWN_PROPERTY, "{name} {path}: no such property"),
            },
            None => Ok(None),
        }
    }

    fn judge_room(&self, view: &OperationView<'_>, new: u64, outcome: &mut Outcome) -> Result<(), Refused> {
        let limit = self.max_properties;
        if self.slots.len() as u64 + new > limit {
            refuse!(outcome, Code::STORE_FULL, "the store holds {} of {limit} properties", self.slots.len())
        }
        let mut twins: Vec<&str> = Vec::new();
        for target in &view.targets {
            let is_new = target.path().is_some_and(|path| self.find(target.twin, path).is_none());
            if is_new {
                twins.push(target.twin);
            }
        }
        twins.sort_unstable();
        for run in twins.chunk_by(|a, b| a == b) {
            let name = run[0];
            let present = self.twin(name).map_or(0, |twin| twin.properties.len());
            if present + run.len() > MAX_TWIN_PROPERTIES {
                refuse!(outcome, Code::TWIN_FULL, "{name}: has {present} of {MAX_TWIN_PROPERTIES} properties")
            }
        }
        Ok(())
    }

    /// No property is written twice, so that what an earlier target does never moves the slot of a later one.
    fn apply(
        &mut self,
        context: &OperationContext<'_>,
        view: &OperationView<'_>,
        plan: &[Option<SlotIndex>],
        outcome: &mut Outcome,
    ) {
        for (number, (target, index)) in view.targets.iter().zip(plan).enumerate() {
            let path = number as u64;
            let change = match (target.action, index) {
                (Action::DeleteAll, _) => {
                    self.delete_all(context, target.twin, outcome);
                    continue;
                }
                (Action::Set { .. }, None) => {
                    self.create(context, target);
                    Change { path, revision: 1, previous: None }
                }
                (_, Some(index)) => self.change(context, path, *index, target.action),
                (Action::Delete { .. }, None) => continue,
            };
            outcome.changes.push(change);
        }
    }

    fn delete_all(&mut self, context: &OperationContext<'_>, twin: &str, outcome: &mut Outcome) {
        let properties = self.twin(twin).map_or(&[][..], |twin| &twin.properties);
        let indices: Vec<SlotIndex> = properties.iter().map(|(_, index)| *index).collect();
        for index in indices {
            if self.slots[index as usize].value.is_some() {
                let path = MAX_TARGETS as u64 + u64::from(index);
                outcome.changes.push(self.change(context, path, index, Action::DeleteAll));
            }
        }
    }

    fn create(&mut self, context: &OperationContext<'_>, target: &Target<'_>) {
        if let Action::Set { path, value, quality, source_time_ns } = target.action {
            self.add_slot(target.twin, path, |twin, property| Slot {
                twin,
                property,
                row: 0,
                value: Some(value.to_owned()),
                revision: 1,
                position: context.position,
                time_ms: context.time_ms,
                source_time_ns,
                origin: *context.origin,
                quality,
                dirty: false,
            });
        }
    }

    fn change(&mut self, context: &OperationContext<'_>, path: u64, index: SlotIndex, action: Action<'_>) -> Change {
        let slot = &mut self.slots[index as usize];
        let was_alive = slot.value.is_some();
        let previous = Some(slot.position.entry);
        (slot.quality, slot.source_time_ns) = match action {
            Action::Set { quality, source_time_ns, .. } => (quality, source_time_ns),
            Action::Delete { .. } | Action::DeleteAll => Default::default(),
        };
        match (action, &mut slot.value) {
            (Action::Set { value, .. }, Some(old)) => old.assign(stored_as(value, old).unwrap_or(value)),
            (Action::Set { value, .. }, none) => *none = Some(value.to_owned()),
            (Action::Delete { .. } | Action::DeleteAll, old) => *old = None,
        }
        slot.revision += 1;
        slot.position = context.position;
        slot.time_ms = context.time_ms;
        slot.origin = *context.origin;
        let change = Change { path, revision: slot.revision, previous };
        self.touch(index, was_alive);
        change
    }
}

/// Whether a reason is given that says something: spaces alone do not.
fn gives_reason(target: &Target<'_>) -> bool {
    target.reason.is_some_and(|reason| !reason.trim_matches(|c: char| c.is_ascii_whitespace()).is_empty())
}

/// What a property that holds `old` keeps when `new` is written; `None` where the types conflict.
fn stored_as<'a>(new: ValueRef<'a>, old: &Value) -> Option<ValueRef<'a>> {
    match (new, old) {
        (ValueRef::I64(int), Value::F64(_)) => exact_float(int).map(ValueRef::F64),
        (ValueRef::Bool(_), Value::Bool(_))
        | (ValueRef::I64(_), Value::I64(_))
        | (ValueRef::F64(_), Value::F64(_))
        | (ValueRef::Text(_), Value::Text(_))
        | (ValueRef::Bytes(_), Value::Bytes(_)) => Some(new),
        _ => None,
    }
}

fn holds(test: TestView<'_>, slot: Option<&Slot>) -> bool {
    let value = slot.and_then(|slot| slot.value.as_ref());
    match test {
        TestView::Revision(revision) => slot.map_or(0, |slot| slot.revision) == revision,
        TestView::Exists => value.is_some(),
        TestView::Absent => value.is_none(),
        TestView::Value(comparison, expected) => {
            let order = value.and_then(|value| value.borrowed().compare(expected));
            match comparison {
                Comparison::Equal => order.is_some_and(|order| order.is_eq()),
                Comparison::NotEqual => order.is_none_or(|order| order.is_ne()),
                Comparison::Less => order.is_some_and(|order| order.is_lt()),
                Comparison::LessOrEqual => order.is_some_and(|order| order.is_le()),
                Comparison::Greater => order.is_some_and(|order| order.is_gt()),
                Comparison::GreaterOrEqual => order.is_some_and(|order| order.is_ge()),
            }
        }
    }
}

/// What a property is, for the detail of a condition that failed.
struct Actual<'a>(Option<&'a Slot>);

impl std::fmt::Display for Actual<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            None => f.write_str("was never written"),
            Some(Slot { value: None, revision, .. }) => write!(f, "is deleted (revision {revision})"),
            Some(Slot { value: Some(value), revision, .. }) => write!(f, "is {value} (revision {revision})"),
        }
    }
}
