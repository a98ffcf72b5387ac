//! A replica lies for a while, and what the others have against it.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::{Duration, Instant};

use super::farm::REPLICAS;
use super::meter::Phase;
use super::screen::clock;
use super::story::Story;
use crate::cli::error::CliError;
use crate::cli::output::Colour;
use crate::client::ReplicaStatus;

/// What it does, as a member that does not lead.
const TACTICS: &str = "double-vote,lie,lie-in-change";
/// How long is waited for a replica to come back, or to be linked, before the story goes on all the same.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long replicas have to say how they are.
const ASK: Duration = Duration::from_secs(2);
/// How often it is looked.
const LOOK: Duration = Duration::from_millis(20);

/// A replica that lies or has lied.
pub(super) struct Lie {
    pub(super) replica: usize,
    /// How often it was caught at what, by all others together.
    caught: BTreeMap<String, u64>,
    /// What was held against any other.
    slander: Vec<String>,
}

impl Lie {
    /// Takes in what the others say.
    fn collect(&mut self, said: &[Option<ReplicaStatus>]) {
        let honest = said.iter().enumerate().filter(|(replica, _)| *replica != self.replica);
        for (name, count) in honest.flat_map(|(_, status)| status.iter().flat_map(|status| &status.counters)) {
            let Some((whom, what)) = name.strip_prefix("misbehaviour.replica-").and_then(|rest| rest.split_once('.'))
            else {
                continue;
            };
            if whom == self.replica.to_string() {
                *self.caught.entry(what.replace('_', " ")).or_default() += count;
            } else {
                self.slander.push(name.clone());
            }
        }
    }

    /// In words.
    pub(super) fn found(&self) -> String {
        if self.caught.is_empty() {
            return "nothing".to_owned();
        }
        let each: Vec<String> = self.caught.iter().map(|(what, count)| format!("{what}: {count}")).collect();
        each.join(", ")
    }
}

impl<W: Write> Story<'_, W> {
    /// Waits a while until something holds.
    fn wait_for(&mut self, mut holds: impl FnMut(&mut Self) -> Result<bool, CliError>) -> Result<(), CliError> {
        let deadline = Instant::now() + PATIENCE;
        while !holds(self)? && Instant::now() < deadline {
            self.farm.wait_until(Instant::now() + LOOK)?;
        }
        Ok(())
    }

    /// Replaces a replica that does not lead by one that lies.
    pub(super) fn begin_lie(&mut self, time_ns: i64) -> Result<(), CliError> {
        // One that lies and one that is not back yet would be two.
        self.wait_for(|story| {
            story.look_for_the_absent()?;
            Ok(story.absence.as_ref().is_none_or(|absence| absence.back.is_some()))
        })?;
        let leader = self.farm.status(ASK)?.iter().flatten().map(|status| usize::from(status.leader)).next();
        let was_away = self.absence.as_ref().map(|absence| absence.replica);
        let mut others = (0..REPLICAS).filter(|replica| Some(*replica) != leader && Some(*replica) != was_away);
        let replica = others.next().unwrap_or(REPLICAS - 1);
        self.farm.kill(replica)?;
        self.farm.restart_hostile(replica, TACTICS)?;
        self.lie = Some(Lie { replica, caught: BTreeMap::new(), slander: Vec::new() });
        self.screen.title(&format!("{} UTC: replica {replica} begins to lie", clock(time_ns)))?;
        self.screen.line(
            "It has its keys and its disk, but sends every vote twice, once for what nobody proposed, and invents decisions.",
        )?;
        self.screen.line("Nothing that it says alone counts, and what contradicts itself is kept against it.")?;
        self.wait_for(|story| {
            let said = story.farm.status(ASK)?;
            Ok(said
                .get(replica)
                .and_then(Option::as_ref)
                .is_some_and(|status| status.links.count_ones() as usize + 1 == REPLICAS))
        })?;
        self.farm.phase = Phase::Lying;
        Ok(())
    }

    /// Asks the others what they have against it, and starts it again as what it was.
    pub(super) fn end_lie(&mut self, time_ns: i64) -> Result<(), CliError> {
        let said = self.farm.status(ASK)?;
        let Some(lie) = &mut self.lie else { return Ok(()) };
        lie.collect(&said);
        let (replica, found) = (lie.replica, lie.found());
        self.farm.kill(replica)?;
        self.farm.restart(replica)?;
        self.farm.phase = Phase::Back;
        self.screen.title(&format!("{} UTC: replica {replica} is started again as what it was", clock(time_ns)))?;
        self.screen.coloured(Colour::Green, &format!("the others caught it: {found}"))?;
        let lying = self.farm.meter.of(Phase::Lying);
        Ok(self.screen.line(&format!("While it lied: {} operations, commit {lying}.", lying.count))?)
    }

    /// It must have been caught, and nobody else accused.
    pub(super) fn check_lie(&mut self) {
        let Some(lie) = &self.lie else { return };
        let done = self.farm.meter.of(Phase::Lying).count;
        let what = format!("replica {} lied, was caught by the others, and the work went on", lie.replica);
        let found = match &lie.slander[..] {
            [] => format!("{}, over {done} operations", lie.found()),
            slander => format!("others were accused: {}", slander.join(", ")),
        };
        self.verdict.add(!lie.caught.is_empty() && lie.slander.is_empty() && done > 0, what, found);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(counters: &[(&str, u64)]) -> Option<ReplicaStatus> {
        let counters = counters.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
        Some(ReplicaStatus { counters, ..ReplicaStatus::default() })
    }

    #[test]
    fn the_words_of_the_liar_count_for_nothing_and_those_of_the_others_add_up() {
        let mut lie = Lie { replica: 2, caught: BTreeMap::new(), slander: Vec::new() };
        assert_eq!(lie.found(), "nothing");
        let liar = said(&[("misbehaviour.replica-0.equivocation", 9)]);
        let first = said(&[("misbehaviour.replica-2.equivocation", 3), ("refused.300", 1)]);
        let second = said(&[("misbehaviour.replica-2.equivocation", 4), ("misbehaviour.replica-2.not_leader", 1)]);
        lie.collect(&[first, second, liar, None]);
        assert_eq!(lie.found(), "equivocation: 7, not leader: 1");
        assert!(lie.slander.is_empty());
        lie.collect(&[said(&[("misbehaviour.replica-1.drift", 1)])]);
        assert_eq!(lie.slander, ["misbehaviour.replica-1.drift"]);
    }
}
