//! Linearizability of what clients saw, from their side alone: what they asked for, when, and what they were told.
//!
//! It knows no replica, no history and no order but the positions in the results. Each result says where its operation stands and
//! what it found there: the revision of a register and the entry that wrote it last. So a set of results is linearizable if
//! - no two stand at one position, and an operation stands behind all whose results somebody had when it was asked for;
//! - for each register, in the order of positions, revisions go up by one at each write that was done and nowhere else, each
//!   write names the write before it, and an operation that was refused over a revision found what a register can have had there;
//! - agreed time does not go back.
//!
//! Results that nobody took are missing, so revisions may jump between two that somebody took; they may never fall or repeat.

use std::collections::BTreeMap;

use super::application::Operation;
use crate::types::Position;

/// What a result says about its register.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Found {
    position: Position,
    time_ms: i64,
    /// The revision before.
    before: u64,
    /// The revision after: one more if it wrote.
    after: u64,
    /// The entry of the write before, where the result names one.
    previous: Option<u64>,
}

/// See the module.
#[derive(Default)]
pub(super) struct Linear {
    /// The last position in any result so far.
    last: Option<Position>,
    /// The last position in any result when an operation was asked for first.
    floor: BTreeMap<Operation, Option<Position>>,
    /// Positions that are taken, with their times.
    taken: BTreeMap<Position, i64>,
    found: BTreeMap<u8, BTreeMap<Position, Found>>,
}

impl Linear {
    /// A client is about to ask for an operation.
    pub(super) fn asked(&mut self, operation: Operation) {
        self.floor.entry(operation).or_insert(self.last);
    }

    /// A client took a result.
    pub(super) fn told(
        &mut self,
        operation: &Operation,
        position: Position,
        time_ms: i64,
        code: u16,
        changes: &[u8],
        detail: &str,
    ) -> Result<(), String> {
        let Some(floor) = self.floor.get(operation) else {
            return Err(format!("a result for {operation:?}, which nobody asked for"));
        };
        if floor.is_some_and(|floor| position <= floor) {
            return Err(format!("{operation:?} stands at {position}, and {floor:?} was known before it was asked for"));
        }
        self.take(position, time_ms)?;
        self.last = self.last.max(Some(position));
        let found = match code {
            0 => {
                let (after, previous) = written(changes).ok_or_else(|| format!("changes of no write: {changes:?}"))?;
                Found { position, time_ms, before: after.wrapping_sub(1), after, previous }
            }
            300 => {
                let found = detail.strip_prefix("the revision is ").and_then(|number| number.parse().ok());
                let before = found.ok_or_else(|| format!("{operation:?} was refused with {detail:?}"))?;
                Found { position, time_ms, before, after: before, previous: None }
            }
            code => return Err(format!("{operation:?} ended with code {code}")),
        };
        if code == 300 && operation.revision == found.before {
            return Err(format!("{operation:?} was refused over the revision that it named"));
        }
        if code == 0 && operation.revision != u64::MAX && operation.revision != found.before {
            return Err(format!("{operation:?} was done at revision {}", found.before));
        }
        let register = self.found.entry(operation.register).or_default();
        if let Some((_, earlier)) = register.range(..position).next_back() {
            follows(earlier, &found)?;
        }
        if let Some((_, later)) = register.range(position..).next() {
            follows(&found, later)?;
        }
        register.insert(position, found);
        Ok(())
    }

    fn take(&mut self, position: Position, time_ms: i64) -> Result<(), String> {
        let earlier = self.taken.range(..position).next_back().map(|(_, time)| *time);
        let later = self.taken.range(position..).next().map(|(at, time)| (*at, *time));
        if later.is_some_and(|(at, _)| at == position) {
            return Err(format!("two results stand at {position}"));
        }
        if earlier.is_some_and(|time| time > time_ms) || later.is_some_and(|(_, time)| time < time_ms) {
            return Err(format!("agreed time goes back at {position}: {earlier:?}, {time_ms}, {later:?}"));
        }
        self.taken.insert(position, time_ms);
        Ok(())
    }
}

/// Whether one result can stand behind another at one register.
fn follows(earlier: &Found, later: &Found) -> Result<(), String> {
    let wrote = earlier.after > earlier.before;
    let names_it = later.previous == Some(earlier.position.entry);
    // Between the two others may have written, but no write undoes another, and none is done twice.
    let fits = match later.before.checked_sub(earlier.after) {
        None => false,
        Some(0) => !wrote || later.previous.is_none() && later.after == later.before || names_it,
        Some(_) => later.previous.is_none_or(|previous| previous >= earlier.position.entry),
    };
    if fits { Ok(()) } else { Err(format!("{later:?} does not follow {earlier:?}")) }
}

/// Revision and entry before of the one write that changes name: CBOR of `[[0, revision, entry or null]]`.
fn written(changes: &[u8]) -> Option<(u64, Option<u64>)> {
    let rest = changes.strip_prefix(&[0x81, 0x83, 0x00])?;
    let (revision, rest) = unsigned(rest)?;
    match rest {
        [0xf6] => Some((revision, None)),
        _ => unsigned(rest).filter(|(_, rest)| rest.is_empty()).map(|(entry, _)| (revision, Some(entry))),
    }
}

fn unsigned(cbor: &[u8]) -> Option<(u64, &[u8])> {
    let (first, rest) = cbor.split_first()?;
    let length = match first {
        0..=23 => return Some((u64::from(*first), rest)),
        24..=27 => 1 << (first - 24),
        _ => return None,
    };
    let (bytes, rest) = rest.split_at_checked(length)?;
    Some((bytes.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte)), rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operation(number: u64, revision: u64) -> Operation {
        Operation { client: 0, session: 0, number, variant: 0, register: 1, revision, padding: 0 }
    }

    fn at(entry: u64) -> Position {
        Position { entry, request: 0 }
    }

    /// A write of a revision below 24, with the entry of the write before.
    fn write(linear: &mut Linear, number: u64, entry: u64, revision: u8, previous: u8) -> Result<(), String> {
        let any = operation(number, u64::MAX);
        linear.asked(any);
        linear.told(&any, at(entry), 0, 0, &[0x81, 0x83, 0, revision, previous], "")
    }

    fn read(linear: &mut Linear, number: u64, entry: u64, found: u64) -> Result<(), String> {
        let read = operation(number, Operation::READ);
        linear.asked(read);
        linear.told(&read, at(entry), 0, 300, &[0x80], &format!("the revision is {found}"))
    }

    #[test]
    fn a_line_of_writes_and_reads_holds_with_gaps_as_well() {
        let mut linear = Linear::default();
        write(&mut linear, 0, 3, 1, 0xf6).unwrap();
        read(&mut linear, 1, 4, 1).unwrap();
        write(&mut linear, 2, 5, 2, 3).unwrap();
        // Somebody wrote revision 3 and heard nothing.
        write(&mut linear, 3, 9, 4, 7).unwrap();
        read(&mut linear, 4, 10, 4).unwrap();
    }

    #[test]
    fn an_operation_before_what_was_known_when_it_was_asked_for_is_found() {
        let mut linear = Linear::default();
        let (early, late) = (operation(0, Operation::READ), operation(1, Operation::READ));
        linear.asked(early);
        write(&mut linear, 2, 5, 1, 0xf6).unwrap();
        linear.asked(late);
        let told = |linear: &mut Linear, operation: &Operation, entry| {
            linear.told(operation, at(entry), 0, 300, &[0x80], "the revision is 0")
        };
        // It was asked for before, so it may stand there.
        told(&mut linear, &early, 3).unwrap();
        assert!(told(&mut linear, &late, 4).unwrap_err().contains("was known before"));
    }

    #[test]
    fn a_write_that_is_lost_undone_or_done_twice_is_found() {
        let lost = |linear: &mut Linear| write(linear, 1, 5, 1, 0xf6);
        let skipped = |linear: &mut Linear| write(linear, 1, 5, 2, 2);
        let stale = |linear: &mut Linear| read(linear, 1, 5, 0);
        let same_place = |linear: &mut Linear| read(linear, 1, 3, 1);
        for wrong in [lost, skipped, stale, same_place] {
            let mut linear = Linear::default();
            write(&mut linear, 0, 3, 1, 0xf6).unwrap();
            wrong(&mut linear).unwrap_err();
        }
        let mut linear = Linear::default();
        read(&mut linear, 0, 8, 1).unwrap();
        linear.asked(operation(2, u64::MAX));
        // It stands before a read that did not see it.
        let mut earlier =
            |revision| linear.told(&operation(2, u64::MAX), at(6), 0, 0, &[0x81, 0x83, 0, revision, 4], "");
        earlier(2).unwrap_err();
    }

    #[test]
    fn conditions_and_times_are_held_against_what_was_found() {
        let mut linear = Linear::default();
        let condition = operation(0, 4);
        linear.asked(condition);
        let told = |linear: &mut Linear, code, changes: &[u8], detail: &str| {
            linear.told(&condition, at(3), 0, code, changes, detail)
        };
        assert!(told(&mut linear, 0, &[0x81, 0x83, 0, 4, 1], "").unwrap_err().contains("was done at revision 3"));
        let mut linear = Linear::default();
        linear.asked(condition);
        let refused = told(&mut linear, 300, &[0x80], "the revision is 4").unwrap_err();
        assert!(refused.contains("over the revision that it named"), "{refused}");
        let mut linear = Linear::default();
        linear.take(at(4), 7).unwrap();
        linear.take(at(5), 6).unwrap_err();
        linear.take(at(3), 8).unwrap_err();
        linear.take(at(4), 7).unwrap_err();
    }
}
