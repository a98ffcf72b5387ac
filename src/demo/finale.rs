//! The end: is the state the same everywhere, and is what was recorded what was measured?

use std::fs;
use std::io::{self, Write};
use std::num::NonZero;
use std::path::Path;
use std::thread::available_parallelism;
use std::time::Duration;

use atlas_dataplane::history::tlog_policy::Policy;

use atlas_dataplane::types::Digest;

use super::check::{Book, Compared};
use super::data::{ATTRIBUTION, LA_HAUTE_BORNE, Row};
use super::farm::REPLICAS;
use super::meter::{Figures, Phase, ms};
use super::plan;
use super::story::{Absence, Setting, Story};
use crate::audit::run::{self, Options, Report};
use crate::cli::error::CliError;
use crate::cli::output::Colour;
use crate::client::ReplicaStatus;
use crate::twin::query::MAX_PAGE;

/// How many checks a whole story makes.
const CHECKS: usize = 11;
/// Where in the demonstration's directory the export goes.
const EXPORT: &str = "export";
/// How many digits of a digest are shown.
const SHORT: usize = 16;

/// What the replicas have in common at the end; the first that disagrees, or does not answer, makes it an error.
fn agreement(said: &[Option<ReplicaStatus>]) -> Result<&ReplicaStatus, String> {
    let mut all = said.iter().enumerate();
    let Some((_, Some(first))) = all.next() else { return Err("replica 0 did not answer".to_owned()) };
    for (replica, status) in all {
        let Some(status) = status else { return Err(format!("replica {replica} did not answer")) };
        if (status.size, status.sequence) != (first.size, first.sequence) {
            let (entries, others) = (status.size, first.size);
            return Err(format!("replica {replica} has {entries} entries and replica 0 {others}"));
        }
        if (status.state_digest, status.history_root) != (first.state_digest, first.history_root) {
            return Err(format!("replica {replica} has another digest than replica 0 at the same position"));
        }
    }
    Ok(first)
}

impl<W: Write> Story<'_, W> {
    /// Makes the last checks, stops the replicas and sums up.
    pub(super) fn finish(mut self, rows: &[Row<'_>], replay: Duration, setting: &Setting<'_>) -> Result<(), CliError> {
        self.screen.clear();
        self.screen.title("Is it all there, everywhere?")?;
        let said = self.farm.settle()?;
        self.look_for_the_absent()?;
        self.check_absence();
        self.check_lie();
        let what = format!("all {REPLICAS} replicas have the same state digest and history root at the same position");
        let common = agreement(&said);
        let found = match &common {
            Ok(status) => format!("{} at entry {}", short(status.state_digest), status.size.saturating_sub(1)),
            Err(found) => found.clone(),
        };
        self.verdict.add(common.is_ok(), what, found);
        let read = self.read_back(rows)?;
        let what = "what was read back from the store is the input file, row by row, byte for byte";
        match read {
            Ok(Compared { rows, cells }) => self.verdict.add(true, what, format!("{rows} rows, {cells} values")),
            Err(mismatch) => self.verdict.add(false, what, mismatch.to_string()),
        }
        let size = common.as_ref().map_or(1, |status| status.size);
        let audited = self.audit(&setting.dir.join(EXPORT), size);
        self.verdict.add(
            audited.is_ok(),
            "the exported history holds in an offline audit",
            match &audited {
                Ok((report, _)) => format!(
                    "{} entries, {} operations executed again, every signature and {} state roots",
                    report.size, report.operations, report.states
                ),
                Err(error) => error.to_string(),
            },
        );
        let found = audited.and_then(|(_, found)| found);
        let what = "one byte changed in a copy of it is found";
        self.verdict.add(found.is_ok(), what, found.unwrap_or_else(|error| error.to_string()));
        self.sum_up(rows.len(), replay, common.ok(), setting)
    }

    /// Exports the history, audits it, and audits a copy of it in which one byte is another.
    fn audit(&mut self, dir: &Path, size: u64) -> Result<(Report, Result<String, CliError>), CliError> {
        self.screen.clear();
        let policy = self.farm.export(dir, size)?;
        let options = Options { deep: true, threads: available_parallelism().unwrap_or(NonZero::<usize>::MIN) };
        let report = run::audit(dir, &policy, options, &|_, _| {})
            .map_err(|error| CliError::Proof(format!("{}: {error}", dir.display())))?;
        Ok((report, altered(dir, &policy, options)))
    }

    fn check_absence(&mut self) {
        let Some(absence) = &self.absence else { return };
        let (replica, down) = (absence.replica, self.farm.meter.of(Phase::Down).count);
        let failover =
            absence.failover.map_or("never".to_owned(), |took| format!("{} ms", ms(took.as_micros() as u64)));
        let found = format!("{down} operations, the first after {failover}");
        let what = format!("the work went on under another leader while replica {replica} was dead");
        self.verdict.add(down >= absence.due, what, found);
        let found =
            absence.back.map_or("it is not".to_owned(), |took| format!("after {} ms", ms(took.as_micros() as u64)));
        let what = format!("replica {replica} came back from its disk to where the others are");
        self.verdict.add(absence.back.is_some(), what, found);
    }

    /// Asks the store for the whole history of every measured property.
    fn read_back(&mut self, rows: &[Row<'_>]) -> Result<Result<Compared, super::check::Mismatch>, CliError> {
        let mut book = Book::new(self.farm.gateway_key()?);
        for (turbine, property) in plan::measured_properties(rows) {
            // One more than the file has: a value too many is found as well.
            let most = rows.len().saturating_add(1).max(MAX_PAGE);
            let sets = self.farm.history(&plan::twin(&turbine), Some(property), most)?;
            if let Err(mismatch) = book.add(&turbine, property, &sets) {
                return Ok(Err(mismatch));
            }
        }
        Ok(book.compare(LA_HAUTE_BORNE, rows))
    }

    fn sum_up(
        self,
        rows: usize,
        replay: Duration,
        common: Option<&ReplicaStatus>,
        setting: &Setting<'_>,
    ) -> Result<(), CliError> {
        let Self { farm, mut screen, mut verdict, refused, commands, absence, lie, .. } = self;
        let (done, last, meter) = (farm.done, farm.last, farm.meter.clone());
        let stopped = farm.stop();
        let found = stopped.map_or_else(|error| error.to_string(), |()| "exit code 0".to_owned());
        verdict.add(found == "exit code 0", "every replica drained, synced and exited when asked to", found);
        for check in verdict.checks() {
            let (mark, colour) = if check.holds { ("ok    ", Colour::Green) } else { ("FAILED", Colour::Red) };
            screen.coloured(colour, &format!("{mark}  {}: {}", check.what, check.found))?;
        }
        screen.title("Summary")?;
        let others = done.saturating_sub(rows);
        screen.line(&format!(
            "operations    {} signed: {rows} measurements and {others} states by the gateway, {commands} commands by the operator",
            done + commands
        ))?;
        screen.line(&format!("refused       {refused}, as it should be"))?;
        screen.line(&format!("positions     up to {last}, the same on every replica"))?;
        screen.line(&format!("commit        {}", meter.all()))?;
        for (phase, name) in
            Phase::ALL.into_iter().zip(["all four     ", "one killed   ", "four again   ", "one lies     "])
        {
            let figures = meter.of(phase);
            if figures != Figures::default() {
                screen.line(&format!("  {name} {figures} ({} operations)", figures.count))?;
            }
        }
        let seconds = replay.as_secs_f64();
        let paced = if setting.pace.is_zero() { "" } else { ", paced; atlas bench measures what is possible" };
        let rate = meter.all().count as f64 / seconds.max(f64::MIN_POSITIVE);
        screen.line(&format!("throughput    {rate:.0} operations a second over {seconds:.1} s{paced}"))?;
        if let Some(Absence { replica, failover: Some(failover), .. }) = absence {
            let after = ms(failover.as_micros() as u64);
            screen.line(&format!(
                "failover      {after} ms for the first operations after replica {replica}'s kill -9"
            ))?;
        }
        if let Some(lie) = lie {
            screen.line(&format!("evidence      against replica {}: {}", lie.replica, lie.found()))?;
        }
        if let Some(status) = common {
            screen.line(&format!("state digest  {}", Digest(status.state_digest)))?;
        }
        screen.line(&format!("data          {ATTRIBUTION}"))?;
        if setting.kept {
            let (export, policy) = (setting.dir.join(EXPORT), setting.dir.join("policy.txt"));
            let (export, policy) = (export.display(), policy.display());
            screen.line(&format!("evidence      atlas audit {export} --policy {policy} --deep"))?;
            screen.line(&format!(
                "kept          {}; see atlas replica --help to start it again",
                setting.dir.display()
            ))?;
        }
        let verdict = verdict.conclude(CHECKS);
        if verdict.is_ok() {
            screen.coloured(Colour::Green, &format!("\nAll {CHECKS} checks hold."))?;
        }
        verdict
    }
}

/// What the audit says of a copy with one byte changed; an error where it says nothing.
fn altered(dir: &Path, policy: &Policy, options: Options) -> Result<String, CliError> {
    let copy = dir.with_extension("altered");
    let made = copy_with_a_changed_byte(dir, &copy);
    let audited = made.map(|()| run::audit(&copy, policy, options, &|_, _| {}));
    let removed = fs::remove_dir_all(&copy);
    match audited.map_err(|error| CliError::failed(copy.display(), error))? {
        Err(error) => removed.map(|()| error.to_string()).map_err(|error| CliError::failed(copy.display(), error)),
        Ok(_) => Err(CliError::Proof("the audit of the altered copy found nothing".to_owned())),
    }
}

/// Copies a directory; in the middle of the first file of entries one bit is another.
fn copy_with_a_changed_byte(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_with_a_changed_byte(&entry.path(), &target)?;
            continue;
        }
        let mut bytes = fs::read(entry.path())?;
        if from.ends_with("tile/entries") && entry.file_name() == "000" {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
        }
        fs::write(target, bytes)?;
    }
    Ok(())
}

fn short(digest: [u8; 32]) -> String {
    Digest(digest).to_string().chars().take(SHORT).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agreement_needs_every_replica_with_one_digest_root_and_position() {
        let status = ReplicaStatus { size: 9, sequence: 8, ..ReplicaStatus::default() };
        let all = || vec![Some(status.clone()); 4];
        assert_eq!(agreement(&all()), Ok(&status));
        assert!(agreement(&[]).is_err());
        let spoilt = |spoil: fn(&mut ReplicaStatus)| {
            let mut said = all();
            said[2].iter_mut().for_each(spoil);
            agreement(&said).map(drop)
        };
        assert!(spoilt(|status| status.size = 7).is_err());
        assert!(spoilt(|status| status.sequence = 7).is_err());
        assert!(spoilt(|status| status.state_digest[31] = 1).is_err());
        assert!(spoilt(|status| status.history_root[0] = 1).is_err());
        assert!(agreement(&[vec![None], all()].concat()).is_err());
        assert!(agreement(&[all(), vec![None]].concat()).is_err());
    }
}
