//! An audit from beginning to end, and its report.

use std::io;
use std::num::NonZero;
use std::path::Path;
use std::time::Instant;

use atlas_dataplane::cluster::policy::cosigner_name;
use atlas_dataplane::crypto::hash::sha256;
use atlas_dataplane::history::entry::{ConfigView, EntryView};
use atlas_dataplane::history::note::{MAX_NOTE, Note};
use atlas_dataplane::history::tiles::{Tile, TileKind, tiles_of};
use atlas_dataplane::history::tlog_policy::{Certified, MAX_POLICY, Policy};
use atlas_dataplane::types::{EntryIndex, Epoch, ReplicaId, Sequence, TimeMs};
use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;

use super::files::{FileFault, Tree};
use super::finding::{Fault, Finding};
use super::layout::is_export_path;
use super::layout::{CHECKPOINT, CHECKPOINTS, FORMAT, MANIFEST, MAX_LISTED, MAX_MANIFEST, Manifest, POLICIES, POLICY};
use super::replay::Replay;
use super::stages::{self, Checked, Scope};

mod tree;

pub(crate) use tree::root_of;

/// Crafted bundles that a report names; of more it has the count.
const MAX_NAMED: usize = 100;

/// How to audit.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Check every client's signature and execute everything again.
    pub deep: bool,
    /// Threads that read, hash and verify; one more goes through what they hand over.
    pub threads: NonZero<usize>,
}

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// Something does not hold.
    #[error("{0}")]
    Finding(Box<Finding>),
    /// The directory cannot be opened.
    #[error("cannot open {path}: {source}")]
    Directory {
        /// Which.
        path: String,
        /// What failed.
        source: io::Error,
    },
}

impl From<Finding> for AuditError {
    fn from(finding: Finding) -> Self {
        Self::Finding(Box::new(finding))
    }
}

/// A replica that cosigned, and when.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Cosigner {
    /// Its name in the policy.
    pub name: String,
    /// Its time, seconds since the Unix epoch.
    pub time_s: u64,
}

/// Who cosigned, as a report has it.
pub fn cosigners(certified: &Certified) -> Vec<Cosigner> {
    certified.cosigned.iter().map(|(name, time_s)| Cosigner { name: name.clone(), time_s: *time_s }).collect()
}

/// What an audit has shown.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Report {
    /// The cluster.
    pub origin: String,
    /// Entries under the checkpoint.
    pub size: u64,
    /// Their root, in hexadecimal.
    pub root: String,
    /// Who cosigned.
    pub cosigned: Vec<Cosigner>,
    /// By when the checkpoint was there, seconds since the Unix epoch.
    pub certified_by_s: Option<u64>,
    /// Under which assumption the checkpoint is believed.
    pub assumption: String,
    /// The first entry that was read.
    pub from: u64,
    /// The first behind it that was not.
    pub to: u64,
    /// Older checkpoints, all of the same history.
    pub checkpoints: u64,
    /// Entries by kind: CONFIG, BUNDLE, STATE.
    pub kinds: [u64; 4],
    /// Requests in the bundles.
    pub requests: u64,
    /// Whether signatures and requests were checked.
    pub deep: bool,
    /// Whether everything was executed again, from the genesis on.
    pub replayed: bool,
    /// Requests executed again.
    pub operations: u64,
    /// STATE entries compared with the replayed state.
    pub states: u64,
    /// Bundles whose signature only ZIP 215 accepts, so that stricter tools refuse it: crafted by the key's holder. The first
    /// hundred.
    pub crafted: Vec<EntryIndex>,
    /// How many those are.
    pub crafted_count: u64,
    /// Whether there was a manifest, and every file is as it lists.
    pub manifest: bool,
    /// Seconds that it took.
    pub seconds: f64,
    /// Seconds that all its threads were busy, together.
    pub busy_seconds: f64,
    /// Threads.
    pub threads: usize,
}

/// Audits an export with the auditor's own policy; tells `progress` how many entries of how many are done.
///
/// # Errors
/// The first thing that does not hold, or a directory that cannot be opened.
pub fn audit(dir: &Path, policy: &Policy, options: Options, progress: &dyn Fn(u64, u64)) -> Result<Report, AuditError> {
    let (start, busy) = (Instant::now(), busy_seconds());
    let tree = Tree::open(dir).map_err(|source| AuditError::Directory { path: dir.display().to_string(), source })?;
    let certified = read_checkpoint(&tree, CHECKPOINT, policy)?;
    let manifest = read_manifest(&tree, &certified)?;
    let (from, to) = manifest.as_ref().map_or((0, certified.size), |manifest| (manifest.from, manifest.to));
    let policies = check_policies(&tree, policy)?;
    tree::check(&tree, &certified, (from, to))?;
    let checkpoints = check_checkpoints(&tree, policy, &certified)?;
    let mut pass = Pass::new(policy, &certified, options.deep && from == 0, from);
    let scope = Scope { tree: &tree, origin: &certified.origin, deep: options.deep };
    let tiles = entry_tiles(from, to, certified.size);
    stages::run(scope, &tiles, options.threads, |checked| {
        pass.tile(&checked, &tree)?;
        progress(checked.tile.first() + u64::from(checked.tile.width) - from, to - from);
        Ok(())
    })?;
    if let Some(replay) = pass.replay.as_ref().filter(|_| to == certified.size) {
        let at_end = |fault| Finding { entry: Some(to), ..Finding::of(CHECKPOINT, Fault::Replay(fault)) };
        replay.finish().map_err(at_end)?;
    }
    if let Some(manifest) = &manifest {
        check_listed(&tree, manifest, &tiles, policies, checkpoints)?;
    }
    let counts = pass.replay.as_ref().map(Replay::counts).unwrap_or_default();
    Ok(Report {
        cosigned: cosigners(&certified),
        certified_by_s: certified.time_s(policy.liars()),
        assumption: policy.assumption(),
        origin: certified.origin.clone(),
        size: certified.size,
        root: certified.root.to_string(),
        from,
        to,
        checkpoints: checkpoints as u64,
        kinds: pass.kinds,
        requests: pass.requests,
        deep: options.deep,
        replayed: pass.replay.is_some(),
        operations: counts.operations,
        states: counts.states,
        crafted: pass.crafted,
        crafted_count: pass.crafted_count,
        manifest: manifest.is_some(),
        seconds: start.elapsed().as_secs_f64(),
        busy_seconds: busy_seconds() - busy,
        threads: options.threads.get(),
    })
}

/// Processor time of this process.
fn busy_seconds() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// The entry files that hold `[from, to)` in a history of `size` entries.
pub(super) fn entry_tiles(from: u64, to: u64, size: u64) -> Vec<Tile> {
    tiles_of(TileKind::Entries, size)
        .filter(|tile| tile.first() < to && from < tile.first() + u64::from(tile.width))
        .collect()
}

fn read_checkpoint(tree: &Tree, path: &str, policy: &Policy) -> Result<Certified, Finding> {
    let bytes = tree.read(path, MAX_NOTE).map_err(|fault| Finding::of(path, fault))?;
    let note = Note::parse(&bytes).map_err(|fault| Finding::of(path, fault))?;
    policy.check(&note).map_err(|fault| Finding::of(path, fault))
}

fn read_manifest(tree: &Tree, certified: &Certified) -> Result<Option<Manifest>, Finding> {
    let of = |fault| Finding::of(MANIFEST, fault);
    let bytes = match tree.read(MANIFEST, MAX_MANIFEST) {
        Err(FileFault::Missing) => return Ok(None),
        bytes => bytes.map_err(|fault| of(fault.into()))?,
    };
    let manifest: Manifest = serde_json::from_slice(&bytes).map_err(|error| of(Fault::Manifest(error.to_string())))?;
    if manifest.format != FORMAT {
        return Err(of(Fault::ManifestFormat(manifest.format)));
    }
    let fields = [
        ("origin", manifest.origin.clone(), certified.origin.clone()),
        ("size", manifest.size.to_string(), certified.size.to_string()),
        ("root", manifest.root.clone(), certified.root.to_string()),
    ];
    for (field, said, is) in fields {
        if said != is {
            return Err(of(Fault::ManifestField { field, said, is }));
        }
    }
    let Manifest { from, to, size, .. } = manifest;
    let is_whole = |end: u64| end.is_multiple_of(256) || end == size;
    if from >= to || to > size || !from.is_multiple_of(256) || !is_whole(to) {
        return Err(of(Fault::ManifestRange { from, to, size }));
    }
    Ok(Some(manifest))
}

/// Checks the policies that lie in the export against the auditor's; gives how many of `policies/` there are.
fn check_policies(tree: &Tree, policy: &Policy) -> Result<usize, Finding> {
    match read_policy(tree, POLICY) {
        Err(finding) if matches!(*finding.fault, Fault::File(FileFault::Missing)) => {}
        Err(finding) => return Err(finding),
        Ok(own) if own != *policy => return Err(Finding::of(POLICY, Fault::OtherPolicy)),
        Ok(_) => {}
    }
    let names = tree.names(POLICIES, MAX_LISTED).map_err(|fault| Finding::of(POLICIES, fault))?.unwrap_or_default();
    for name in &names {
        read_policy(tree, &format!("{POLICIES}/{name}"))?;
    }
    Ok(names.len())
}

fn read_policy(tree: &Tree, path: &str) -> Result<Policy, Finding> {
    let bytes = tree.read(path, MAX_POLICY).map_err(|fault| Finding::of(path, fault))?;
    Policy::parse(&bytes).map_err(|fault| Finding::of(path, fault))
}

/// Checks that every checkpoint of `checkpoints/` is certified and of this very history; gives how many there are.
fn check_checkpoints(tree: &Tree, policy: &Policy, certified: &Certified) -> Result<usize, Finding> {
    let names = tree.names(CHECKPOINTS, MAX_LISTED).map_err(|fault| Finding::of(CHECKPOINTS, fault))?;
    let names = names.unwrap_or_default();
    for name in &names {
        let path = format!("{CHECKPOINTS}/{name}");
        let older = read_checkpoint(tree, &path, policy)?;
        if *name != older.size.to_string() {
            return Err(Finding::of(path, Fault::CheckpointName(older.size)));
        }
        if older.size > certified.size {
            return Err(Finding::of(path, Fault::CheckpointBeyond { size: older.size, export: certified.size }));
        }
        let found = root_of(tree, older.size, certified.size)?;
        if found != older.root {
            return Err(Finding::of(path, Fault::Split { size: older.size, certified: older.root, found }));
        }
    }
    Ok(names.len())
}

/// Checks every listed file, and that every file of the export is listed.
fn check_listed(
    tree: &Tree,
    manifest: &Manifest,
    entries: &[Tile],
    policies: usize,
    checkpoints: usize,
) -> Result<(), Finding> {
    let mut before = "";
    let of = |fault| Finding::of(MANIFEST, fault);
    for listed in &manifest.files {
        if !is_export_path(&listed.path) || listed.path == MANIFEST {
            return Err(of(Fault::ManifestPath(listed.path.clone())));
        }
        if listed.path.as_str() <= before {
            return Err(of(Fault::ManifestTwice(listed.path.clone())));
        }
        before = &listed.path;
        let max = usize::try_from(listed.bytes).unwrap_or(usize::MAX).min(MAX_MANIFEST);
        let bytes = match tree.read(&listed.path, max) {
            Err(FileFault::TooLong { bytes: found, .. }) => {
                return Err(Finding::of(&listed.path, Fault::Length { listed: listed.bytes, found }));
            }
            bytes => bytes.map_err(|fault| Finding::of(&listed.path, fault))?,
        };
        if bytes.len() as u64 != listed.bytes {
            let fault = Fault::Length { listed: listed.bytes, found: bytes.len() as u64 };
            return Err(Finding::of(&listed.path, fault));
        }
        let found = sha256(&[&bytes]).to_string();
        if found != listed.sha256 {
            return Err(Finding::of(&listed.path, Fault::Sha256 { listed: listed.sha256.clone(), found }));
        }
    }
    let is_listed = |path: &str| manifest.files.binary_search_by(|listed| listed.path.as_str().cmp(path)).is_ok();
    let hashes = tree::hash_tiles(manifest.size);
    let due = hashes.chain(entries.iter().copied()).map(|tile| tile.path()).chain([CHECKPOINT.into(), POLICY.into()]);
    for path in due {
        if !is_listed(&path) {
            return Err(Finding::of(path, Fault::Unlisted));
        }
    }
    for (folder, count) in [(POLICIES, policies), (CHECKPOINTS, checkpoints)] {
        let listed =
            manifest.files.iter().filter(|listed| listed.path.split_once('/').is_some_and(|it| it.0 == folder));
        if listed.count() != count {
            return Err(Finding::of(folder, Fault::Unlisted));
        }
    }
    Ok(())
}

/// What goes through all entries in their order.
struct Pass<'a> {
    policy: &'a Policy,
    certified: &'a Certified,
    wants_replay: bool,
    replay: Option<Replay>,
    /// Sequence and time of the entry before.
    last: Option<(Sequence, TimeMs)>,
    epoch: Epoch,
    kinds: [u64; 4],
    requests: u64,
    crafted: Vec<EntryIndex>,
    crafted_count: u64,
}

impl<'a> Pass<'a> {
    fn new(policy: &'a Policy, certified: &'a Certified, wants_replay: bool, from: u64) -> Self {
        Self {
            policy,
            certified,
            wants_replay: wants_replay && from == 0,
            replay: None,
            last: None,
            epoch: 0,
            kinds: [0; 4],
            requests: 0,
            crafted: Vec::new(),
            crafted_count: 0,
        }
    }

    fn tile(&mut self, checked: &Checked, tree: &Tree) -> Result<(), Finding> {
        for ((index, byte, bytes), signed) in checked.entries().zip(&checked.signed) {
            let of = |fault: Fault| checked.finding(index, byte, fault);
            let view = EntryView::decode(bytes).map_err(|fault| of(fault.into()))?;
            self.order(&view).map_err(of)?;
            match &view {
                EntryView::Config(config) => self.config(index, config, tree).map_err(of)?,
                _ if index == 0 => return Err(of(Fault::NoGenesis)),
                EntryView::Bundle(bundle) => {
                    self.kinds[1] += 1;
                    self.requests += bundle.count() as u64;
                }
                EntryView::State(_) => self.kinds[2] += 1,
                EntryView::Key(_) => self.kinds[3] += 1,
            }
            if let Some(replay) = self.replay.as_mut().filter(|_| index > 0) {
                replay.entry(index, &view, signed.as_ref()).map_err(of)?;
            }
        }
        self.crafted_count += checked.crafted.len() as u64;
        self.crafted.extend(checked.crafted.iter().take(MAX_NAMED - self.crafted.len().min(MAX_NAMED)));
        Ok(())
    }

    fn order(&mut self, view: &EntryView<'_>) -> Result<(), Fault> {
        let (found, time_ms) = (view.sequence(), view.time_ms());
        if let Some((before, before_ms)) = self.last.replace((found, time_ms)) {
            if found < before || found == 0 {
                return Err(Fault::Sequence { before, found });
            }
            if time_ms < before_ms || (found == before && time_ms != before_ms) {
                return Err(Fault::Time { before: before_ms, found: time_ms });
            }
        }
        Ok(())
    }

    fn config(&mut self, index: EntryIndex, config: &ConfigView<'_>, tree: &Tree) -> Result<(), Fault> {
        self.kinds[0] += 1;
        if index > 0 {
            let before = self.epoch;
            if config.epoch != before && before.checked_add(1) != Some(config.epoch) {
                return Err(Fault::Epoch { before, found: config.epoch });
            }
            self.epoch = config.epoch;
            let kept = read_policy(tree, &stages::policy_path(config.epoch)).map_err(|finding| *finding.fault)?;
            return if kept == Policy::parse(config.policy.as_bytes())? { Ok(()) } else { Err(Fault::OtherPolicy) };
        }
        if config.sequence != 0 || config.epoch != 0 {
            return Err(Fault::NoGenesis);
        }
        if Policy::parse(config.policy.as_bytes())? != *self.policy {
            return Err(Fault::GenesisPolicy);
        }
        self.members(config)?;
        let replay = Replay::new(config)?;
        if replay.origin() != self.certified.origin {
            let (found, origin) = (replay.origin().to_owned(), self.certified.origin.clone());
            return Err(Fault::GenesisOrigin { found, origin });
        }
        self.replay = self.wants_replay.then_some(replay);
        Ok(())
    }

    /// Whether the members' keys are those of the policy.
    fn members(&self, config: &ConfigView<'_>) -> Result<(), Fault> {
        let (policy, logs) = (self.policy.witnesses().len(), self.policy.logs().len());
        let members = config.members.len();
        if policy != members || logs != members {
            return Err(Fault::MemberCount { policy, logs, members });
        }
        for member in &config.members {
            let index = member.index;
            let name = cosigner_name(&self.certified.origin, ReplicaId(index));
            let mut cosigners = self.policy.witnesses().iter().map(|witness| &witness.key);
            if !cosigners.any(|key| key.key == member.cosign_key && key.name == name) {
                return Err(Fault::MemberKey { kind: "cosign", index, name });
            }
            let mut logs = self.policy.logs().iter();
            if !logs.any(|log| log.key == member.log_key && log.name == self.certified.origin) {
                return Err(Fault::MemberKey { kind: "log", index, name: self.certified.origin.clone() });
            }
        }
        Ok(())
    }
}
