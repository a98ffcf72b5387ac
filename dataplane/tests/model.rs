//! Doc to come.
#[path = "model/explore.rs"]
mod explore;
#[path = "model/rules.rs"]
mod rules;
#[path = "model/trace.rs"]
mod trace;

use std::time::Instant;

use explore::{Config, Explorer, Lies};
use rules::Mutant;

const ONE: Config =
    Config { n: 4, views: 4, digests: &[2], lies: Lies::OneDigest, checkpoints: false, compare: false, mutant: None };

fn explore(config: Config) -> (Explorer, Option<explore::Found>) {
    let started = Instant::now();
    let mut explorer = Explorer::new(config);
    let found = explorer.run();
    println!(
        "n = {}, views {}, digests {:?} and null, lies {:?}, mutant {:?}: {} states {:?}, {} local, {} steps, {} choices, {:.1} s",
        config.n,
        config.views,
        config.digests,
        config.lies,
        config.mutant,
        explorer.states(),
        explorer.levels.iter().map(Vec::len).collect::<Vec<_>>(),
        explorer.locals.len(),
        explorer.steps,
        explorer.chosen,
        started.elapsed().as_secs_f64()
    );
    (explorer, found)
}

#[test]
fn probe() {
    let env = |name: &str, default: u64| std::env::var(name).ok().and_then(|t| t.parse().ok()).unwrap_or(default);
    let (mut explorer, found) = explore(Config { n: env("N", 4) as usize, views: env("V", 3), ..ONE });
    if let Some(found) = found {
        panic!("{}", trace::tell(&mut explorer, &found));
    }
}

const MUTANTS: &[(Mutant, Config)] = &[
    (Mutant::CandidateNeedsP, ONE),
    (Mutant::NobodyBlocks, ONE),
    (Mutant::OneSupporter, ONE),
    (Mutant::NullInsteadOfWaiting, ONE),
    (Mutant::RangeEndsAtP, ONE),
    (Mutant::SmallQuorum, ONE),
    (Mutant::ProposalIsVote, ONE),
    (Mutant::PrepareBeforeSync, ONE),
    (Mutant::CommitBeforeSync, ONE),
    (Mutant::VotesAfterLeaving, ONE),
    (Mutant::ChoicesNotInQ, ONE),
    (Mutant::NullNotKept, ONE),
    (Mutant::QKeepsOneDigest, ONE),
    (Mutant::QKeepsFirstView, ONE),
    (Mutant::PKeepsFirst, ONE),
    (Mutant::ChoicesBelieved, ONE),
    (Mutant::ExecutedIsSilent, ONE),
    (Mutant::AmnesiacVotes, Config { lies: Lies::Nobody, ..ONE }),
    (Mutant::PreparesDecided, ONE),
    (Mutant::NullHasTime, ONE),
    (Mutant::StartIsLowest, TWO),
    (Mutant::TimeIsNotMax, TWO),
];

const TWO: Config = Config { digests: &[2, 2], checkpoints: true, views: 2, ..ONE };

#[test]
fn mutants() {
    let only = std::env::var("MUTANT").unwrap_or_default();
    for (mutant, config) in MUTANTS {
        if !format!("{mutant:?}").contains(&only) { continue; }
        let views = std::env::var("V").ok().and_then(|t| t.parse().ok()).unwrap_or(config.views);
        let (mut explorer, found) = explore(Config { mutant: Some(*mutant), views, ..*config });
        match found {
            Some(found) => println!("{}", trace::tell(&mut explorer, &found)),
            None => println!("NOT FOUND {mutant:?}"),
        }
    }
}

#[test]
fn two() {
    let env = |name: &str, default: u64| std::env::var(name).ok().and_then(|t| t.parse().ok()).unwrap_or(default);
    let (mut explorer, found) = explore(Config { n: env("N", 4) as usize, views: env("V", 2), checkpoints: env("C", 1) == 1, ..TWO });
    if let Some(found) = found {
        panic!("{}", trace::tell(&mut explorer, &found));
    }
}
