//! What the game consists of: its size, its states, its moves, and what may go wrong.

use atlas_dataplane::ordering::choice::{Choices, Entry, Held, Report};
use atlas_dataplane::types::{Digest, Sequence, View};

use crate::rules::Mutant;

/// Correct replicas and sequences at most.
pub(crate) const MOST: usize = 6;
pub(crate) const SEQUENCES: usize = 2;
/// h + window covers both sequences.
pub(crate) const WINDOW: u64 = SEQUENCES as u64;

/// A digest of the model; 0 is none.
pub(crate) type Code = u8;
pub(crate) const NULL: Code = 1;
pub(crate) const FIRST: Code = 2;

pub(crate) fn digest(code: Code) -> Digest {
    if code == NULL { Digest::NULL } else { Digest([code; 32]) }
}

pub(crate) fn code(digest: Digest) -> Code {
    if digest == Digest::NULL { NULL } else { digest.0[0] }
}

/// What the Byzantine replica may report.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Lies {
    /// There is none: all n are correct.
    Nobody,
    /// Any P, and at most one digest in Q, per sequence.
    OneDigest,
    /// Any valid report.
    Any,
}

/// What to explore.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Config {
    pub(crate) n: usize,
    /// Views 0 to `views - 1`.
    pub(crate) views: View,
    /// Whether yet another view must be able to start behind the last; else only the commits of the last are judged, which
    /// spares the memory for its states.
    pub(crate) another: bool,
    /// Digests that leaders propose, per sequence, null aside.
    pub(crate) digests: &'static [u8],
    pub(crate) lies: Lies,
    /// Whether checkpoints at sequence 1 become stable.
    pub(crate) checkpoints: bool,
    /// Whether every choice is compared with the restated rule.
    pub(crate) compare: bool,
    pub(crate) mutant: Option<Mutant>,
}

/// A correct replica: its disk, and (for one mutant) whether it executed sequence 1.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub(crate) struct Local {
    pub(crate) held: Held,
    pub(crate) executed: bool,
}

/// All correct replicas in ascending order of their [`Local`]'s number (they are interchangeable), and what was committed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct State {
    pub(crate) locals: [u16; MOST],
    pub(crate) committed: [Code; SEQUENCES],
    /// The first view in which null was committed at sequence 1, plus one; for one mutant.
    pub(crate) null_time: u8,
}

/// What one replica does in a view.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub(crate) struct Votes {
    /// What it sends PREPARE for, by sequence.
    pub(crate) prepares: [Code; SEQUENCES],
    /// Which of these were choices; told apart for one mutant.
    pub(crate) choices: u8,
    /// The stable checkpoint that it adopts from NEW-VIEW.
    pub(crate) adopts: u8,
    /// Its records do not survive although its votes left; in mutants only.
    pub(crate) lost: bool,
}

/// What all do in a view: bits of a mask are replicas.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Step {
    pub(crate) votes: [Votes; MOST],
    /// Who has P and sends COMMIT, by sequence.
    pub(crate) prepared: [u8; SEQUENCES],
    /// Who lost that P after the COMMIT had left; in a mutant only.
    pub(crate) p_lost: u8,
    /// Whose checkpoint at sequence 1 becomes stable.
    pub(crate) stable: u8,
    /// Who sees the commit and executes; in a mutant only.
    pub(crate) executes: u8,
    /// Who loses its disk; in a mutant only.
    pub(crate) wiped: u8,
}

pub(crate) struct Node {
    pub(crate) state: State,
    pub(crate) parent: usize,
    pub(crate) step: Step,
}

/// What was violated.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Fault {
    TwoCommitted {
        sequence: usize,
        first: Code,
        second: Code,
    },
    /// The VIEW-CHANGEs of all correct replicas, with this report of the Byzantine one or without, choose nothing.
    Stuck {
        lie: Option<Report>,
    },
    /// A view with a correct leader in which all correct replicas take part cannot decide sequence 1.
    Wedged {
        voters: usize,
    },
    /// Replicas that executed null in different views have different agreed times.
    TwoTimes,
    /// The agreed time went back.
    TimeWentBack,
}

pub(crate) struct Found {
    pub(crate) fault: Fault,
    /// The state it happened in: view and index.
    pub(crate) view: View,
    pub(crate) index: usize,
    /// The step from there that shows it, if it took one.
    pub(crate) step: Option<Step>,
}

/// What sets S with these correct members can choose, each with the lie that makes it so.
pub(crate) struct Outcomes {
    pub(crate) choices: Vec<(Choices, Option<usize>)>,
    /// A set that chooses nothing.
    pub(crate) wait: Option<Option<usize>>,
}

/// What the Byzantine replica may report in a change to `view`, once each.
pub(crate) fn lies(config: &Config, view: View) -> Vec<Report> {
    if config.lies == Lies::Nobody || view == 0 {
        return Vec::new();
    }
    let mut lies = vec![Report::default()];
    for (at, digests) in config.digests.iter().enumerate() {
        let sequence = at as Sequence + 1;
        let entries: Vec<Vec<Entry>> = (NULL..FIRST + digests)
            .map(|code| (0..view).map(|view| Entry { sequence, digest: digest(code), view }).collect())
            .collect();
        let mut qs: Vec<Vec<Entry>> = vec![Vec::new()];
        for entries in &entries {
            let more = qs.iter().flat_map(|q| entries.iter().map(|entry| [q.as_slice(), &[*entry]].concat()));
            let more: Vec<_> = more.filter(|q| config.lies == Lies::Any || q.len() == 1).collect();
            qs.extend(more);
        }
        let ps: Vec<Option<Entry>> = std::iter::once(None).chain(entries.concat().into_iter().map(Some)).collect();
        let (qs, ps) = (&qs, &ps);
        let longer = lies.iter().flat_map(|lie| {
            qs.iter().flat_map(move |q| {
                ps.iter().map(move |p| {
                    let mut lie = lie.clone();
                    lie.pre_prepared.extend(q);
                    lie.prepared.extend(p);
                    lie
                })
            })
        });
        lies = longer.collect();
    }
    if config.checkpoints {
        let above = |lie: &Report| lie.prepared.iter().chain(&lie.pre_prepared).all(|entry| entry.sequence > 1);
        let higher: Vec<Report> =
            lies.iter().filter(|lie| above(lie)).map(|lie| Report { h: 1, ..lie.clone() }).collect();
        lies.extend(higher);
    }
    lies
}
