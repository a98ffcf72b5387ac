//! A counterexample, told view by view.

use std::fmt::Write;

use atlas_dataplane::ordering::choice::{Choices, Entry, Report};
use atlas_dataplane::types::{Digest, View};

use crate::explore::Explorer;
use crate::state::{Code, Fault, Found, MOST, NULL, State, Step, digest};

fn name(code: Code) -> String {
    match code {
        NULL => "null".into(),
        code => char::from(b'A' + code - 2).into(),
    }
}

fn name_of(digest: Digest) -> String {
    name(if digest == Digest::NULL { NULL } else { digest.0[0] })
}

fn entries(list: &[Entry]) -> String {
    let text = list.iter().map(|e| format!("{}: {} in view {}", e.sequence, name_of(e.digest), e.view));
    text.collect::<Vec<_>>().join(", ")
}

/// A report in a line.
fn report(report: &Report) -> String {
    format!("h {}, P {{{}}}, Q {{{}}}", report.h, entries(&report.prepared), entries(&report.pre_prepared))
}

fn choices(choices: &Choices) -> String {
    let digests: Vec<_> = choices.digests.iter().map(|digest| name_of(*digest)).collect();
    format!("start {}, choices [{}]", choices.start, digests.join(", "))
}

/// Tells how it came to the fault. Replicas keep their names R0, R1, ... throughout; the Byzantine one is B.
pub(crate) fn tell(explorer: &mut Explorer, found: &Found) -> String {
    let mut steps: Vec<Step> = found.step.into_iter().collect();
    let mut index = found.index;
    for level in (1..=found.view as usize).rev() {
        let node = &explorer.levels[level][index];
        steps.insert(0, node.step);
        index = node.parent;
    }
    let mut state = explorer.levels[0][0].state;
    let mut names: Vec<usize> = (0..MOST).collect();
    let mut text = format!("\n{:?} with {:?}\n", found.fault, explorer.config);
    for (view, step) in steps.iter().enumerate() {
        let _ = writeln!(text, "view {view}");
        explorer.start_view(view as View);
        if view > 0 {
            tell_sets(explorer, &state, &names, step, &mut text);
        }
        tell_votes(explorer, &names, step, &mut text);
        let mut locals: Vec<(u16, usize)> =
            explorer.after(view as View, &state, step).into_iter().zip(names.iter().copied()).collect();
        let correct = explorer.correct();
        locals[..correct].sort_by_key(|(local, _)| *local);
        for (at, (local, name)) in locals.into_iter().enumerate() {
            (state.locals[at], names[at]) = (local, name);
        }
        tell_disks(explorer, &state, &names, &mut text);
    }
    if let Fault::Stuck { lie } = &found.fault {
        let lie = lie.as_ref().map_or("without B".into(), |lie| format!("and B with {}", report(lie)));
        let _ = writeln!(text, "view {}: S = all correct replicas {lie} chooses nothing", found.view);
    }
    text
}

/// For each different vote an S that permits it.
fn tell_sets(explorer: &mut Explorer, state: &State, names: &[usize], step: &Step, text: &mut String) {
    let correct = explorer.correct();
    for (i, votes) in step.votes.iter().enumerate().take(correct) {
        if votes.prepares == [0; 2] || step.votes[..i].contains(votes) {
            continue;
        }
        'sets: for mask in 1_u32..1 << correct {
            let members: Vec<usize> = (0..correct).filter(|i| mask >> i & 1 == 1).collect();
            let locals = members.iter().map(|i| state.locals[*i]).collect();
            let outcomes = explorer.outcomes(locals, explorer.config.checkpoints);
            for (chosen, lie) in &outcomes.choices {
                let permits = votes.prepares.iter().enumerate().all(|(at, code)| {
                    let above = (at + 1).checked_sub(chosen.start as usize + 1);
                    let choice = above.and_then(|at| chosen.digests.get(at));
                    *code == 0 || choice.is_none_or(|choice| *choice == digest(*code))
                });
                if permits {
                    let who: Vec<_> = members.iter().map(|i| format!("R{}", names[*i])).collect();
                    let lie = lie.map_or(String::new(), |lie| format!(" and B with {}", report(&explorer.lies[lie])));
                    let _ = writeln!(text, "  R{} is shown S = {}{lie}: {}", names[i], who.join(", "), choices(chosen));
                    break 'sets;
                }
            }
        }
    }
}

fn tell_votes(explorer: &Explorer, names: &[usize], step: &Step, text: &mut String) {
    for (i, votes) in step.votes.iter().enumerate().take(explorer.correct()) {
        for (at, code) in votes.prepares.iter().enumerate().filter(|(_, code)| **code != 0) {
            let commit = if step.prepared[at] >> i & 1 == 1 { ", is prepared and sends COMMIT" } else { "" };
            let lost = if votes.lost { "; its record never counts" } else { "" };
            let sequence = at + 1;
            let _ = writeln!(text, "  R{} sends PREPARE at {sequence} for {}{commit}{lost}", names[i], name(*code));
        }
        for (mask, what) in [
            (step.p_lost, "loses P"),
            (step.stable, "has a stable checkpoint at 1"),
            (step.executes, "executes 1"),
            (step.wiped, "loses its disk"),
        ] {
            if mask >> i & 1 == 1 {
                let _ = writeln!(text, "  R{} {what}", names[i]);
            }
        }
    }
}

fn tell_disks(explorer: &Explorer, state: &State, names: &[usize], text: &mut String) {
    let correct = explorer.correct();
    let mut disks: Vec<(usize, u16)> = names.iter().copied().zip(state.locals).take(correct).collect();
    disks.sort_unstable();
    for (name, local) in disks {
        let held = &explorer.locals[usize::from(local)].held;
        let _ = writeln!(text, "    R{name} holds {}", report(&held.report()));
    }
}
