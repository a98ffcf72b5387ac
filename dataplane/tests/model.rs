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
