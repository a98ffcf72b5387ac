//! `atlas prove` and `atlas export`, and receipts of operations: evidence fetched from a running cluster.
//!
//! One replica at a time is asked, and what it gives is verified against the cluster's policy before anything is written: one that
//! gives what does not hold is named, and the next is asked.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use atlas_dataplane::client::ProofQuestion;
use atlas_dataplane::history::entry::EntryView;
use atlas_dataplane::history::note::Note;
use atlas_dataplane::history::tlog_policy::Policy;
use atlas_dataplane::history::tlog_proof::{Claim, TlogProof};
use atlas_dataplane::types::{Code, Digest, EntryIndex, Position, ReplicaId, TimeMs};
use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tempfile::TempDir;

use super::args::{Connection, Format, Outcomes, Show, TrailArgs, Twins, Which};
use super::error::CliError;
use super::history;
use super::output::{Style, json_line};
use super::parse;
use super::session::Session;
use crate::audit::export::{ExportError, Source, export as write_export};
use crate::audit::layout::Manifest;
use crate::audit::verify::{Input, Shown, own_changes, verify};
use crate::client::Error;
use crate::trail::Format as TrailFormat;
use crate::twin::query::Bound;
use atlas_dataplane::cbor::Writer;

/// How long one replica is given before the next is asked.
const PATIENCE: Duration = Duration::from_secs(3);

/// Receipts between a state proof and the value that was asked for at most.
const MAX_CHAIN: usize = 1_000;

/// Entries or leaf hashes that are asked for at a time.
const AT_A_TIME: u64 = 4_096;

/// Arguments of `atlas prove`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  atlas prove plant/turbine-1 power -o power.tlog-proof
  atlas prove plant/turbine-1 state --at 2026-09-01T06:12:00Z -o state.tlog-proof
  atlas prove plant/turbine-1 brake --absent -o absent.tlog-proof
  atlas verify power.tlog-proof --policy plant/policy.txt

Proves a property in the next STATE entry of the history (at most a second away; something that changes nothing is ordered to
get there). --at goes back from there: a receipt for each change since then is written to FILE.1, FILE.2 and so on; give
all of them to `atlas verify`. --absent proves that the property was never written, at the next checkpoint, which is once in
some hundred sequences: up to so many operations that change nothing are ordered on an idle cluster.")]
pub struct ProveArgs {
    /// The twin: namespace/name
    #[arg(value_name = "TWIN", value_parser = parse::twin)]
    pub twin: String,
    /// The property
    #[arg(value_name = "PROPERTY", value_parser = parse::property)]
    pub property: String,
    /// What it was at this position (ENTRY.REQUEST) or time (RFC 3339)
    #[arg(long, value_name = "POSITION|TIME", value_parser = parse::bound, conflicts_with = "absent")]
    pub at: Option<Bound>,
    /// Prove that it was never written
    #[arg(long)]
    pub absent: bool,
    /// Where the proof goes
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
    #[allow(missing_docs)]
    #[command(flatten)]
    pub connection: Connection,
    #[allow(missing_docs)]
    #[command(flatten)]
    pub format: Format,
}

/// Arguments of `atlas export`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  atlas export -o export
  atlas export --from 10000 --to 20000 -o incident
  atlas export --format csv --outcome refused --by gateway -o refused.csv
  atlas audit export --policy plant/policy.txt --deep

Takes the history from one replica while the cluster works, verifies it against the certified checkpoint, and writes a directory that
any static web server can serve and any C2SP tlog-tiles client can read. All hashes are in it; with --from and --to
only these entries (whole tiles of 256). With --format it writes, from a history that it has verified so, what `atlas trail` prints of it.")]
pub struct ExportArgs {
    /// The first entry
    #[arg(long, value_name = "ENTRY", default_value_t = 0)]
    pub from: EntryIndex,
    /// The entry behind the last [default: all that is certified]
    #[arg(long, value_name = "ENTRY")]
    pub to: Option<EntryIndex>,
    /// The directory to write, which must be new or empty; with --format the file
    #[arg(short, long, value_name = "DIR|FILE")]
    pub output: PathBuf,
    /// Write the audit trail for people instead: who, what, when, why, old and new value
    #[arg(long, value_enum, conflicts_with = "json")]
    pub format: Option<TrailFormat>,
    /// With --format: only this twin; or, with a * at the end, all twins that begin so
    #[arg(long, value_name = "TWIN", value_parser = parse::twins, default_value = "*")]
    pub twin: Twins,
    /// With --format: only what this identity signed: its name, or its key in base64; repeatable
    #[arg(long, value_name = "IDENTITY")]
    pub by: Vec<String>,
    /// With --format: all, done, refused, or a code such as 201
    #[arg(long, value_name = "OUTCOME")]
    pub outcome: Option<Outcomes>,
    #[allow(missing_docs)]
    #[command(flatten)]
    pub connection: Connection,
    #[allow(missing_docs)]
    #[command(flatten)]
    pub print: Format,
}

/// Fetches evidence through a session and verifies it by the cluster's policy.
pub struct Prover<'a> {
    session: &'a mut Session,
    policy: Policy,
    next: u8,
    until: Instant,
}

impl<'a> Prover<'a> {
    /// A prover that gives up after the session's timeout.
    ///
    /// # Errors
    /// The cluster's policy cannot be read: a fault of ours.
    pub fn new(session: &'a mut Session) -> Result<Self, CliError> {
        let text = session.cluster().policy_text();
        let policy = Policy::parse(text.as_bytes()).map_err(|error| CliError::failed("the cluster's policy", error))?;
        let until = Instant::now() + session.timeout();
        Ok(Self { session, policy, next: (std::process::id() % 251) as u8, until })
    }

    /// Asks one replica after the other until one gives something that holds.
    ///
    /// # Errors
    /// Nobody gave it in time, with what each said; or more replicas refuse than may lie.
    fn fetch(
        &mut self,
        question: &ProofQuestion,
        holds: impl Fn(&[u8]) -> Result<(), String>,
    ) -> Result<Vec<u8>, CliError> {
        let n = self.session.cluster().n();
        let mut said = vec![String::new(); n];
        let mut refused: Vec<Option<Code>> = vec![None; n];
        loop {
            let left = self.until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let said = said.join("\n  ");
                return Err(CliError::NoQuorum(format!("no replica gave a proof that holds in time:\n  {said}")));
            }
            let replica = usize::from(self.next) % n;
            self.next = (replica as u8 + 1) % n as u8;
            match self.session.prove(question, ReplicaId(replica as u8), left.min(PATIENCE)) {
                Ok(body) => match holds(&body) {
                    Ok(()) => return Ok(body),
                    Err(fault) => {
                        said[replica] = format!("replica {replica} gave a proof that does not hold: {fault}");
                        eprintln!("{}", said[replica]);
                    }
                },
                Err(error) => {
                    if let Error::NoProof { code, .. } = &error {
                        refused[replica] = Some(*code).filter(|code| code.0 < Code::OVERLOADED.0);
                    }
                    said[replica] = format!("replica {replica}: {error}");
                }
            }
            let same = |code: &Code| refused.iter().flatten().filter(|other| *other == code).count();
            if let Some(code) = refused.iter().flatten().find(|code| same(code) > self.session.cluster().f()) {
                return Err(CliError::Refused { code: *code, detail: String::new() });
            }
        }
    }

    fn holds<'p>(policy: &'p Policy, index: Option<EntryIndex>) -> impl Fn(&[u8]) -> Result<(), String> + 'p {
        move |bytes| {
            let proof = TlogProof::parse(bytes).map_err(|error| error.to_string())?;
            proof.check(policy).map_err(|error| error.to_string())?;
            match index {
                Some(index) if index != proof.index => Err(format!("it is of entry {}", proof.index)),
                _ => Ok(()),
            }
        }
    }

    /// The receipt of an entry.
    ///
    /// # Errors
    /// Nobody gave one that holds in time.
    pub fn receipt(&mut self, entry: EntryIndex) -> Result<Vec<u8>, CliError> {
        let policy = self.policy.clone();
        self.fetch(&ProofQuestion::Receipt(entry), Self::holds(&policy, Some(entry)))
    }

    /// The receipt of an operation that was executed at a position.
    ///
    /// # Errors
    /// As [`Prover::receipt`]; or the entry does not hold that operation there.
    pub fn receipt_of(&mut self, position: Position, operation: &[u8]) -> Result<Vec<u8>, CliError> {
        let bytes = self.receipt(position.entry)?;
        let proof = TlogProof::parse(&bytes).map_err(|error| CliError::Proof(error.to_string()))?;
        let (_, claim) = proof.check(&self.policy).map_err(|error| CliError::Proof(error.to_string()))?;
        let Claim::Entry { view: EntryView::Bundle(bundle), .. } = claim else {
            return Err(CliError::Proof(format!("entry {} is no bundle", position.entry)));
        };
        let request = bundle.requests().nth(usize::from(position.request));
        let request = request.and_then(atlas_dataplane::wire::bundle::Request::decode);
        match request.filter(|request| request.operation == operation) {
            Some(_) => Ok(bytes),
            None => Err(CliError::Proof(format!("{position} is certified, but holds another operation than was sent"))),
        }
    }

    /// A property in the next STATE entry.
    fn state(&mut self, twin: &str, property: &str) -> Result<Vec<u8>, CliError> {
        let from = self.session.order_nothing()?.entry;
        let (name, policy) = (slot_name(twin, property), self.policy.clone());
        let interval = Duration::from_millis(self.session.cluster().settings().state_interval_ms);
        let (until, next) = (self.until, Instant::now() + interval);
        loop {
            // What is ordered once the interval is over has a STATE entry behind it.
            self.until = until.min(next.max(Instant::now()) + Duration::from_secs(1));
            let is_slot = Self::holds(&policy, None);
            let found = self.fetch(&ProofQuestion::State(from, name.clone()), |bytes| {
                is_slot(bytes)?;
                let proof = TlogProof::parse(bytes).map_err(|error| error.to_string())?;
                match proof.check(&policy) {
                    Ok((_, Claim::Slot { leaf, .. })) if leaf.name() == (twin, property) && proof.index >= from => {
                        Ok(())
                    }
                    _ => Err("it is of something else, or of an earlier time".to_owned()),
                }
            });
            self.until = until;
            match found {
                Err(CliError::NoQuorum(_)) if Instant::now() < until => drop(self.session.order_nothing()?),
                found => return found,
            }
        }
    }

    /// That a property was never written, at the next checkpoint.
    fn absence(&mut self, twin: &str, property: &str) -> Result<Vec<u8>, CliError> {
        let from = self.session.order_nothing()?.entry;
        let question = ProofQuestion::Absence(from, slot_name(twin, property));
        let (n, f) = (self.session.cluster().n(), self.session.cluster().f());
        let (mut said, mut refused) = (String::new(), vec![None; n]);
        while Instant::now() < self.until {
            let replica = ReplicaId((usize::from(self.next) % n) as u8);
            self.next = (replica.0 + 1) % n as u8;
            let left = self.until.saturating_duration_since(Instant::now());
            match self.session.prove_while_ordering(&question, replica, left.min(2 * PATIENCE)) {
                Ok(bytes) => match self.proves_absent(&bytes, from, twin, property) {
                    Ok(()) => return Ok(bytes),
                    Err(fault) => said = format!("replica {replica} gave a proof that does not hold: {fault}"),
                },
                Err(Error::NoProof { code, .. }) if code.0 < Code::OVERLOADED.0 => {
                    refused[replica.index()] = Some(code);
                    if refused.iter().flatten().filter(|other| **other == code).count() > f {
                        return Err(CliError::Refused { code, detail: format!("{twin} {property}") });
                    }
                }
                Err(error) => said = format!("{replica}: {error}"),
            }
        }
        Err(CliError::NoQuorum(format!("no replica gave a proof that holds in time; the last was {said}")))
    }

    fn proves_absent(&self, bytes: &[u8], from: EntryIndex, twin: &str, property: &str) -> Result<(), String> {
        let proof = TlogProof::parse(bytes).map_err(|error| error.to_string())?;
        match proof.check(&self.policy).map_err(|error| error.to_string())? {
            (_, Claim::Absent { gap, .. }) if gap.covers(twin, property) && proof.index >= from => Ok(()),
            _ => Err("it is of something else, or of an earlier time".to_owned()),
        }
    }
}

/// How a slot is named where it is asked for: CBOR `[twin, property]`.
fn slot_name(twin: &str, property: &str) -> Vec<u8> {
    let mut name = Vec::new();
    Writer(&mut name).array(2).text(twin).text(property);
    name
}

/// `atlas prove`.
///
/// # Errors
/// No proof in time; a refusal; a file cannot be written.
pub fn prove(args: &ProveArgs, out: &mut impl Write, style: Style) -> Result<(), CliError> {
    let mut session = Session::open(&args.connection)?;
    let mut prover = Prover::new(&mut session)?;
    let (twin, property) = (args.twin.as_str(), args.property.as_str());
    let first = if args.absent { prover.absence(twin, property)? } else { prover.state(twin, property)? };
    let mut files = vec![(args.output.clone(), first)];
    if let Some(at) = args.at {
        let receipts = chain(&mut prover, &files[0].1, at)?;
        for (number, receipt) in (1..).zip(receipts) {
            let mut name = args.output.clone().into_os_string();
            name.push(format!(".{number}"));
            files.push((name.into(), receipt));
        }
    }
    let inputs: Vec<Input> = files.iter().map(|(path, bytes)| (path.display().to_string(), bytes.clone())).collect();
    let shown = verify(&inputs, &prover.policy).map_err(|error| CliError::Proof(error.to_string()))?;
    for (path, bytes) in &files {
        write_file(path, bytes)?;
    }
    print(&shown, args.format, out, style)
}

fn print(shown: &[Shown], format: Format, out: &mut impl Write, _: Style) -> Result<(), CliError> {
    for file in shown {
        if format.json {
            json_line(out, file)?;
        } else {
            writeln!(out, "{}", file.file).map_err(CliError::from)?;
            for line in &file.proved {
                writeln!(out, "  {line}").map_err(CliError::from)?;
            }
        }
    }
    Ok(())
}

/// The receipts of a property's changes from a state proof back to what it was at `at`.
fn chain(prover: &mut Prover<'_>, state: &[u8], at: Bound) -> Result<Vec<Vec<u8>>, CliError> {
    let not_held = |error: &dyn std::fmt::Display| CliError::Proof(error.to_string());
    let proof = TlogProof::parse(state).map_err(|error| not_held(&error))?;
    let (_, claim) = proof.check(&prover.policy).map_err(|error| not_held(&error))?;
    let Claim::Slot { leaf, .. } = claim else { return Ok(Vec::new()) };
    let is_by = |position: Position, time_ms: TimeMs| match at {
        Bound::Position(bound) => position <= bound,
        Bound::Time(bound) => time_ms <= bound,
    };
    let (mut receipts, mut entry) = (Vec::new(), leaf.position.entry);
    if is_by(leaf.position, leaf.time_ms) {
        return Ok(receipts);
    }
    while receipts.len() < MAX_CHAIN {
        let receipt = prover.receipt(entry)?;
        let proof = TlogProof::parse(&receipt).map_err(|error| not_held(&error))?;
        let (_, claim) = proof.check(&prover.policy).map_err(|error| not_held(&error))?;
        let Claim::Entry { view: EntryView::Bundle(bundle), .. } = claim else {
            return Err(CliError::Proof(format!("entry {entry} should have changed the property and is no bundle")));
        };
        let changes = own_changes(entry, &bundle, &leaf);
        let (is_there, first) =
            (changes.iter().any(|change| is_by(change.at, bundle.time_ms)), changes.first().and_then(|c| c.previous));
        receipts.push(receipt);
        match first {
            Some(previous) if !is_there && previous < entry => entry = previous,
            _ => return Ok(receipts),
        }
    }
    Err(CliError::Failed(format!(
        "the property changed more than {MAX_CHAIN} times since then: `atlas export` the history and audit it instead"
    )))
}

/// Writes a file beside itself, then in its place.
///
/// # Errors
/// The file system's.
pub fn write_file(path: &Path, bytes: &[u8]) -> Result<(), CliError> {
    let mut name = path.as_os_str().to_owned();
    name.push(".part");
    let part = PathBuf::from(name);
    // Nothing of somebody else's is written through or over.
    let written = File::create_new(&part).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&part, path)
    });
    written.map_err(|error| CliError::failed(path.display(), error))
}

/// `atlas export`.
///
/// # Errors
/// No replica gives a history that holds; the directory cannot be written.
pub fn export(args: &ExportArgs, out: &mut impl Write, _: Style) -> Result<(), CliError> {
    let mut session = Session::open(&args.connection)?;
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    let style = ProgressStyle::with_template("{bar:30} {human_pos} of {human_len} entries, {eta} left");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    let progress = |done, all| {
        bar.set_length(all);
        bar.set_position(done);
    };
    // What was ordered before this began is in it, whoever supplies it.
    let ordered = session.order_nothing()?.entry;
    let at_least = args.to.unwrap_or(0).max(ordered);
    let (range, scratch) = ((args.from, args.to), args.format.map(|_| scratch(&args.output)).transpose()?);
    let dir = scratch.as_ref().map_or(args.output.clone(), |scratch| scratch.path().join("export"));
    let exported = export_history(&mut session, range, at_least, &dir, &progress);
    bar.finish_and_clear();
    let (manifest, replica) = exported?;
    if let Some(format) = args.format {
        return export_trail(args, &dir, format);
    }
    if args.print.json {
        return Ok(json_line(out, &manifest)?);
    }
    let (from, to, size) = (manifest.from, manifest.to, manifest.size);
    let (dir, root) = (args.output.display(), &manifest.root);
    writeln!(
        out,
        "entries {from} to {to} of {size} certified ones are in {dir}, from replica {replica}; root {root}\n\
         check it anywhere: atlas audit {dir} --policy YOUR-COPY-OF/policy.txt --deep"
    )?;
    Ok(())
}

/// A directory beside a file, removed when it is dropped.
fn scratch(file: &Path) -> Result<TempDir, CliError> {
    let parent = file.parent().filter(|parent| *parent != Path::new("")).unwrap_or(Path::new("."));
    let made = tempfile::Builder::new().prefix(".atlas-export-").tempdir_in(parent);
    made.map_err(|error| CliError::failed(parent.display(), error))
}

/// Writes the trail of a verified export to the file that was named.
fn export_trail(args: &ExportArgs, dir: &Path, format: TrailFormat) -> Result<(), CliError> {
    let which = Which { by: args.by.clone(), outcome: args.outcome, from: None, to: None };
    let show = Show { format, json: false };
    let trail = TrailArgs { dir: dir.to_owned(), twin: args.twin.clone(), property: None, which, show };
    let failed = |error: io::Error| CliError::failed(args.output.display(), error);
    let part = dir.with_extension("part");
    let mut file = BufWriter::new(File::create_new(&part).map_err(failed)?);
    history::trail(&trail, &mut file, Style::PLAIN)?;
    let file = file.into_inner().map_err(|error| failed(error.into_error()))?;
    file.sync_all().and_then(|()| fs::rename(&part, &args.output)).map_err(failed)
}

/// Exports entries under a certificate of at least so many, from the first replica whose history holds.
///
/// # Errors
/// As [`export`].
pub fn export_history(
    session: &mut Session,
    range: (EntryIndex, Option<EntryIndex>),
    at_least: u64,
    dir: &Path,
    progress: &dyn Fn(u64, u64),
) -> Result<(Manifest, ReplicaId), CliError> {
    let (policy, n) = (session.cluster().policy_text(), session.cluster().n());
    let mut said = String::new();
    for replica in (0..n as u8).map(ReplicaId) {
        let mut source = Replica { session, replica, at_least };
        match write_export(&mut source, policy.as_bytes(), range, dir, progress) {
            Ok(manifest) => return Ok((manifest, replica)),
            Err(error @ ExportError::Directory(_)) => return Err(CliError::Failed(error.to_string())),
            Err(ExportError::Range { from, to, size }) if from >= to || size >= at_least => {
                return Err(CliError::Usage(format!("entries {from} to {to} are asked for; {size} are certified")));
            }
            Err(error) => said.push_str(&format!("\n  replica {replica}: {error}")),
        }
    }
    Err(CliError::NoQuorum(format!("no replica gave a history that holds:{said}")))
}

/// One replica as the source of an export.
pub(super) struct Replica<'a> {
    pub(super) session: &'a mut Session,
    pub(super) replica: ReplicaId,
    pub(super) at_least: u64,
}

impl Replica<'_> {
    fn ask(&mut self, question: &ProofQuestion) -> Result<Vec<u8>, Error> {
        self.session.prove(question, self.replica, PATIENCE)
    }
}

impl Source for Replica<'_> {
    type Error = Error;

    fn checkpoint(&mut self) -> Result<Vec<u8>, Error> {
        let note = self.ask(&ProofQuestion::Checkpoint(self.at_least))?;
        // An old one is as genuine as a new one.
        match Note::parse(&note).map(|note| note.body.size) {
            Ok(size) if size < self.at_least => {
                Err(Error::NoProof { replica: self.replica, code: Code::UNAVAILABLE, size })
            }
            _ => Ok(note),
        }
    }

    fn entries(&mut self, first: EntryIndex, max: usize) -> Result<Vec<Vec<u8>>, Error> {
        let run = self.ask(&ProofQuestion::Entries(first, (max as u64).min(AT_A_TIME)))?;
        let (mut rest, mut entries) = (&run[..], Vec::new());
        // What does not come out whole is missed by whoever asked.
        while let Some((length, behind)) = rest.split_first_chunk::<4>()
            && let Some((entry, behind)) = behind.split_at_checked(u32::from_le_bytes(*length) as usize)
        {
            entries.push(entry.to_vec());
            rest = behind;
        }
        Ok(entries)
    }

    fn leaf_hashes(&mut self, first: EntryIndex, max: usize) -> Result<Vec<Digest>, Error> {
        let hashes = self.ask(&ProofQuestion::Leaves(first, (max as u64).min(AT_A_TIME)))?;
        Ok(hashes.as_chunks::<32>().0.iter().map(|hash| Digest(*hash)).collect())
    }
}

/// Prints to nobody's surprise that a receipt was written.
///
/// # Errors
/// As [`Prover::receipt_of`]; the file cannot be written.
pub fn keep_receipt(session: &mut Session, position: Position, operation: &[u8], file: &Path) -> Result<(), CliError> {
    let kept = Prover::new(session).and_then(|mut prover| prover.receipt_of(position, operation));
    if let Err(error) = kept.and_then(|receipt| write_file(file, &receipt)) {
        let _: io::Result<()> =
            writeln!(io::stderr(), "the operation stands at {position}; only its receipt is missing:");
        return Err(error);
    }
    let _: io::Result<()> = writeln!(io::stderr(), "receipt of {position} in {}", file.display());
    Ok(())
}
