//! The search: breadth first, view by view, every state once. See the module doc of the test for why this is every behaviour.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use atlas_dataplane::cluster::Size;
use atlas_dataplane::ordering::choice::{Choice, Choices, Held, Report};
use atlas_dataplane::types::{ReplicaId, Sequence, View};

use crate::rules::{self, Mutant};
use crate::state::{
    Code, Config, FIRST, Fault, Found, Lies, Local, MOST, NULL, Node, Outcomes, SEQUENCES, State, Step, Votes, WINDOW,
    code, digest, lies,
};

/// The search so far.
pub(crate) struct Explorer {
    pub(crate) config: Config,
    pub(crate) size: Size,
    /// The different replicas met, by number, and what each reports.
    pub(crate) locals: Vec<Local>,
    reports: Vec<Report>,
    numbers: HashMap<Local, u16>,
    /// What becomes of a replica in a view.
    moves: HashMap<(u16, View, Votes, u8, bool), u16>,
    /// What the Byzantine replica may report in the present view.
    pub(crate) lies: Vec<Report>,
    /// By the correct members of S, and whether a checkpoint at 1 may be reported.
    outcomes: HashMap<(Vec<u16>, bool), Rc<Outcomes>>,
    /// The states at the start of each view.
    pub(crate) levels: Vec<Vec<Node>>,
    /// Sets S judged, and ways through a view taken.
    pub(crate) chosen: u64,
    pub(crate) steps: u64,
}

impl Explorer {
    pub(crate) fn new(config: Config) -> Self {
        let size = Size::new(config.n).expect("a cluster's size");
        let (locals, reports) = (Vec::new(), Vec::new());
        let mut explorer = Self {
            config,
            size,
            locals,
            reports,
            numbers: HashMap::new(),
            moves: HashMap::new(),
            lies: Vec::new(),
            outcomes: HashMap::new(),
            levels: Vec::new(),
            chosen: 0,
            steps: 0,
        };
        let fresh = explorer.number(Local::default());
        let state = State { locals: [fresh; MOST], committed: [0; SEQUENCES], null_time: 0 };
        explorer.levels.push(vec![Node { state, parent: 0, step: Step::default() }]);
        explorer
    }

    pub(crate) fn states(&self) -> usize {
        self.levels.iter().map(Vec::len).sum()
    }

    /// Correct replicas.
    pub(crate) fn correct(&self) -> usize {
        self.config.n - self.byzantine()
    }

    fn byzantine(&self) -> usize {
        usize::from(self.config.lies != Lies::Nobody)
    }

    fn is(&self, mutant: Mutant) -> bool {
        self.config.mutant == Some(mutant)
    }

    fn quorum(&self) -> usize {
        rules::quorum(self.config.mutant, self.size)
    }

    /// The number of a local state; equal ones share one.
    fn number(&mut self, local: Local) -> u16 {
        if let Some(number) = self.numbers.get(&local) {
            return *number;
        }
        let number = u16::try_from(self.locals.len()).expect("fewer local states");
        self.reports.push(local.held.report());
        self.locals.push(local.clone());
        self.numbers.insert(local, number);
        number
    }

    /// Explores until the last view or a violation.
    pub(crate) fn run(&mut self) -> Option<Found> {
        for view in 0..=self.config.views {
            for report in &self.reports {
                report.validate(view, WINDOW, self.size).expect("a correct replica's report is valid");
            }
            self.start_view(view);
            let mut seen = HashSet::new();
            let mut next = Vec::new();
            for index in 0..self.levels[view as usize].len() {
                let state = self.levels[view as usize][index].state;
                if let Err((fault, step)) = self.expand(view, index, &state, &mut seen, &mut next) {
                    return Some(Found { fault, view, index, step });
                }
            }
            if view < self.config.views {
                self.levels.push(next);
            }
        }
        None
    }

    /// Prepares the lies that are valid in a change to `view`.
    pub(crate) fn start_view(&mut self, view: View) {
        self.outcomes.clear();
        self.lies = lies(&self.config, view);
        for lie in &self.lies {
            lie.validate(view, WINDOW, self.size).expect("lies are valid, or they would not count");
        }
    }

    /// Goes through all that may happen to `state` in `view`.
    fn expand(
        &mut self,
        view: View,
        index: usize,
        state: &State,
        seen: &mut HashSet<State>,
        next: &mut Vec<Node>,
    ) -> Result<(), (Fault, Option<Step>)> {
        if view == self.config.views {
            return self.yet_another_view(state);
        }
        let choices = if view == 0 { vec![Choices { start: 0, digests: Vec::new() }] } else { self.choices(state)? };
        let options: Vec<Vec<Votes>> = (0..self.correct()).map(|i| self.options(state.locals[i], &choices)).collect();
        let mut picks = [0; MOST];
        loop {
            let mut step = Step::default();
            for (i, options) in options.iter().enumerate() {
                step.votes[i] = options[picks[i]];
            }
            let leaders = step.votes.iter().filter(|votes| votes.lost).count();
            if leaders <= 1 || !self.is(Mutant::ProposalIsVote) {
                self.prepare(view, index, state, step, seen, next)?;
            }
            // Replicas in the same local state are interchangeable: their picks ascend.
            let Some(i) = (0..options.len()).rev().find(|i| picks[*i] + 1 < options[*i].len()) else { return Ok(()) };
            picks[i] += 1;
            for later in i + 1..options.len() {
                let same = state.locals[later] == state.locals[later - 1];
                picks[later] = if same { picks[later - 1] } else { 0 };
            }
        }
    }

    /// What the adversary can make backups choose in this state, over every S and every lie.
    fn choices(&mut self, state: &State) -> Result<Vec<Choices>, (Fault, Option<Step>)> {
        let correct = self.correct();
        let checkpointed = state.committed[0] != 0 && self.config.checkpoints;
        let mut all = Vec::new();
        for mask in 1_u32..1 << correct {
            if mask.count_ones() as usize + self.byzantine() < self.quorum() {
                continue;
            }
            let members: Vec<u16> = (0..correct).filter(|i| mask >> i & 1 == 1).map(|i| state.locals[i]).collect();
            let everybody = members.len() == correct;
            let outcomes = self.outcomes(members, checkpointed);
            all.extend(outcomes.choices.iter().map(|(choices, _)| choices.clone()));
            if let Some(lie) = outcomes.wait.filter(|_| everybody) {
                return Err((Fault::Stuck { lie: lie.map(|lie| self.lies[lie].clone()) }, None));
            }
        }
        all.sort_unstable();
        all.dedup();
        self.good_view(state)?;
        if self.is(Mutant::ChoicesBelieved) {
            let wildest = self.config.digests[0] + FIRST;
            all.extend((NULL..wildest).map(|code| Choices { start: 0, digests: vec![digest(code)] }));
        }
        Ok(all)
    }

    /// Behind the last view that is explored: the correct replicas alone, who are what a stuck set would be made of.
    fn yet_another_view(&mut self, state: &State) -> Result<(), (Fault, Option<Step>)> {
        let locals = state.locals.iter().take(self.correct());
        let reports = locals.enumerate().map(|(i, number)| (ReplicaId(i as u8), &self.reports[usize::from(*number)]));
        let set: Vec<_> = reports.collect();
        self.chosen += 1;
        if rules::choose(self.config.mutant, &set, self.size) == Choice::Wait {
            return Err((Fault::Stuck { lie: None }, None));
        }
        self.good_view(state)
    }

    /// A correct leader and the VIEW-CHANGEs of all correct replicas: q of them vote, or f+1 that decided tell the others.
    fn good_view(&self, state: &State) -> Result<(), (Fault, Option<Step>)> {
        let executed = (0..self.correct()).filter(|i| self.locals[usize::from(state.locals[*i])].executed).count();
        let voters = self.correct() - if self.is(Mutant::ExecutedIsSilent) { executed } else { 0 };
        if voters < self.quorum() && executed < self.size.one_correct() {
            return Err((Fault::Wedged { voters }, None));
        }
        Ok(())
    }

    pub(crate) fn outcomes(&mut self, members: Vec<u16>, checkpointed: bool) -> Rc<Outcomes> {
        let key = (members, checkpointed);
        if let Some(outcomes) = self.outcomes.get(&key) {
            return Rc::clone(outcomes);
        }
        let mut outcomes = Outcomes { choices: Vec::new(), wait: None };
        let reports =
            key.0.iter().enumerate().map(|(i, number)| (ReplicaId(i as u8), &self.reports[usize::from(*number)]));
        let mut set: Vec<(ReplicaId, &Report)> = reports.collect();
        let (byzantine, mutant) = (ReplicaId(self.config.n as u8 - 1), self.config.mutant);
        let quorum = rules::quorum(mutant, self.size);
        let mut chosen = 0;
        let mut judge = |set: &[(ReplicaId, &Report)], lie: Option<usize>| {
            chosen += 1;
            let choice = rules::choose(mutant, set, self.size);
            if self.config.compare {
                assert_eq!(choice, rules::restated(None, set, self.size), "the restated rule differs on {set:?}");
            }
            match choice {
                Choice::Wait => outcomes.wait = outcomes.wait.or(Some(lie)),
                Choice::Choices(choices) if outcomes.choices.iter().all(|(known, _)| *known != choices) => {
                    outcomes.choices.push((choices, lie));
                }
                Choice::Choices(_) => {}
            }
        };
        if set.len() >= quorum {
            judge(&set, None);
        }
        for (index, lie) in self.lies.iter().enumerate() {
            if set.len() + 1 >= quorum && (lie.h == 0 || key.1) {
                set.push((byzantine, lie));
                judge(&set, Some(index));
                set.pop();
            }
        }
        self.chosen += chosen;
        let outcomes = Rc::new(outcomes);
        self.outcomes.insert(key, Rc::clone(&outcomes));
        outcomes
    }

    /// What a replica may do in a view whose leader can show it these choices: nothing, or vote on any first part of them, and
    /// behind them on what a leader proposes.
    fn options(&self, local: u16, choices: &[Choices]) -> Vec<Votes> {
        let Local { held, executed } = &self.locals[usize::from(local)];
        let mut options = vec![Votes::default()];
        for choices in choices {
            let h = held.h().max(choices.start);
            let adopts = if h > held.h() { h as u8 } else { 0 };
            let mut heads = vec![Votes { adopts, ..Votes::default() }];
            options.extend(&heads);
            for (at, digests) in self.config.digests.iter().enumerate() {
                let sequence = at as Sequence + 1;
                if sequence <= h {
                    continue;
                }
                let choice = choices.digests.get((sequence - choices.start - 1) as usize).map(|digest| code(*digest));
                let codes = choice.map_or(FIRST..FIRST + digests, |code| code..code + 1);
                let longer = heads.iter().flat_map(|head| {
                    codes.clone().map(move |code| {
                        let mut votes = *head;
                        votes.prepares[at] = code;
                        votes.choices |= u8::from(choice.is_some()) << at;
                        votes
                    })
                });
                heads = longer.collect();
                options.extend(&heads);
            }
        }
        if !self.is(Mutant::ChoicesNotInQ) {
            options.iter_mut().for_each(|votes| votes.choices = 0);
        }
        if self.is(Mutant::ExecutedIsSilent) && *executed {
            options.truncate(1);
        }
        if matches!(
            self.config.mutant,
            Some(Mutant::ProposalIsVote | Mutant::PrepareBeforeSync | Mutant::VotesAfterLeaving)
        ) {
            options.extend_from_within(1..);
            let kept = options.len() / 2 + 1;
            options[kept..].iter_mut().for_each(|votes| votes.lost = true);
        }
        options.sort_unstable();
        options.dedup();
        options
    }

    /// The votes are sent: any of those who see a quorum of PREPAREs become prepared.
    fn prepare(
        &mut self,
        view: View,
        index: usize,
        state: &State,
        mut step: Step,
        seen: &mut HashSet<State>,
        next: &mut Vec<Node>,
    ) -> Result<(), (Fault, Option<Step>)> {
        let mut able = [0_u8; SEQUENCES];
        for (at, able) in able.iter_mut().enumerate() {
            for i in 0..self.correct() {
                let votes = &step.votes[i];
                let code = votes.prepares[at];
                let has_q = !votes.lost || self.is(Mutant::VotesAfterLeaving);
                let decided = self.is(Mutant::PreparesDecided) && state.committed[at] == code;
                if code != 0 && has_q && (self.voters(&step, at, code) + self.byzantine() >= self.quorum() || decided) {
                    *able |= 1 << i;
                }
            }
        }
        for first in submasks(able[0]) {
            for second in submasks(able[1]) {
                step.prepared = [first, second];
                let mut after = *state;
                self.commit(view, &step, &mut after).map_err(|fault| (fault, Some(step)))?;
                self.outlive(view, index, state, after, step, seen, next);
            }
        }
        Ok(())
    }

    /// Correct replicas that send PREPARE for the digest.
    fn voters(&self, step: &Step, at: usize, code: Code) -> usize {
        step.votes.iter().filter(|votes| votes.prepares[at] == code).count()
    }

    /// Certificates: PREPAREs of all n, or COMMITs of a quorum. The Byzantine replica sends whatever helps.
    fn commit(&self, view: View, step: &Step, state: &mut State) -> Result<(), Fault> {
        for at in 0..self.config.digests.len() {
            for code in NULL..FIRST + self.config.digests[at] {
                let prepared = (0..self.correct())
                    .filter(|i| step.prepared[at] >> i & 1 == 1 && step.votes[*i].prepares[at] == code)
                    .count();
                let fast = self.voters(step, at, code) + self.byzantine() == self.config.n;
                let slow = prepared > 0 && prepared + self.byzantine() >= self.quorum();
                if !fast && !slow {
                    continue;
                }
                let first = state.committed[at];
                if first != 0 && first != code {
                    return Err(Fault::TwoCommitted { sequence: at + 1, first, second: code });
                }
                state.committed[at] = code;
                if at == 0 && code == NULL && self.is(Mutant::NullHasTime) {
                    if state.null_time != 0 && u64::from(state.null_time) != view + 1 {
                        return Err(Fault::TwoTimes);
                    }
                    state.null_time = view as u8 + 1;
                }
            }
        }
        if state.committed.iter().all(|code| *code >= FIRST) {
            // A batch chosen in a later view may well be older than the one before it: A carries time 2 at sequence 1, 1 at 2.
            let own = [3 - state.committed[0].min(3) + 1, state.committed[1].min(3) - 1];
            let agreed = [own[0], if self.is(Mutant::TimeIsNotMax) { own[1] } else { own[1].max(own[0]) }];
            if agreed[1] < agreed[0] {
                return Err(Fault::TimeWentBack);
            }
        }
        Ok(())
    }

    /// What is on the disks when the view is over, in every way that it may be.
    #[expect(clippy::too_many_arguments, reason = "the search's own state beside the step")]
    fn outlive(
        &mut self,
        view: View,
        index: usize,
        before: &State,
        after: State,
        step: Step,
        seen: &mut HashSet<State>,
        next: &mut Vec<Node>,
    ) {
        if view + 1 == self.config.views && !self.config.another {
            self.steps += 1;
            return;
        }
        let everybody = (1_u8 << self.correct()) - 1;
        let prepared = step.prepared[0] | step.prepared[1];
        let p_lost = if self.is(Mutant::CommitBeforeSync) { prepared } else { 0 };
        let stable = if self.config.checkpoints && after.committed[0] != 0 { everybody } else { 0 };
        let executes = if self.is(Mutant::ExecutedIsSilent) && after.committed[0] != 0 { everybody } else { 0 };
        for p_lost in submasks(p_lost) {
            for stable in submasks(stable) {
                for executes in submasks(executes) {
                    let lost_disks = if self.is(Mutant::AmnesiacVotes) { self.correct() } else { 0 };
                    for wiped in std::iter::once(0).chain((0..lost_disks).map(|i| 1 << i)) {
                        let step = Step { p_lost, stable, executes, wiped, ..step };
                        let mut state = State { locals: self.after(view, before, &step), ..after };
                        state.locals[..self.correct()].sort_unstable();
                        self.steps += 1;
                        if seen.insert(state) {
                            next.push(Node { state, parent: index, step });
                        }
                    }
                }
            }
        }
    }

    /// The replicas after the step, in the order of `before`.
    pub(crate) fn after(&mut self, view: View, before: &State, step: &Step) -> [u16; MOST] {
        let mut locals = before.locals;
        for (i, local) in locals.iter_mut().enumerate().take(self.correct()) {
            let bit = |mask: u8| mask >> i & 1;
            let prepared = if bit(step.p_lost) == 1 { 0 } else { bit(step.prepared[0]) | bit(step.prepared[1]) << 1 };
            let rest = prepared | bit(step.stable) << 2 | bit(step.executes) << 3;
            *local = self.moved(*local, view, step.votes[i], rest, bit(step.wiped) == 1);
        }
        locals
    }

    fn moved(&mut self, local: u16, view: View, votes: Votes, rest: u8, wiped: bool) -> u16 {
        let key = (local, view, votes, rest, wiped);
        if let Some(number) = self.moves.get(&key) {
            return *number;
        }
        let mut moved = self.locals[usize::from(local)].clone();
        moved.held.stable(Sequence::from(votes.adopts));
        for (at, code) in votes.prepares.into_iter().enumerate().filter(|(_, code)| *code != 0 && !votes.lost) {
            let (sequence, choice) = (at as Sequence + 1, votes.choices >> at & 1 == 1);
            rules::pre_prepare(self.config.mutant, &mut moved.held, view, sequence, digest(code), choice);
            if rest >> at & 1 == 1 {
                rules::prepare(self.config.mutant, &mut moved.held, view, sequence, digest(code));
            }
        }
        moved.held.stable(Sequence::from(rest >> 2 & 1));
        moved.executed |= rest >> 3 & 1 == 1;
        if wiped {
            moved.held = Held::default();
        }
        let number = self.number(moved);
        self.moves.insert(key, number);
        number
    }
}

/// Every subset of the bits of `mask`.
fn submasks(mask: u8) -> impl Iterator<Item = u8> {
    (0..=mask).filter(move |sub| sub & !mask == 0)
}
