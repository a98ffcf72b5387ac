//! Random appends, writes, crashes and restarts against a model that knows nothing of segments or checksums.

use proptest::prelude::*;

use super::{Item, carried, item, open, scan_all, sim};
use crate::log::{AppendError, Crash, Durable};

#[derive(Clone, Debug)]
enum Step {
    Append(u64, usize),
    Submit,
    Finish,
    Flush,
    Scan(u64),
    Crash(Crash),
    Release(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let length = prop_oneof![6 => 0..300usize, 2 => 3_000..9_000usize, 1 => 100_000..700_000usize];
    prop_oneof![
        10 => (0..50u64, length).prop_map(|(key, length)| Step::Append(key, length)),
        4 => Just(Step::Submit),
        4 => Just(Step::Finish),
        1 => Just(Step::Flush),
        1 => (0..50u64).prop_map(Step::Scan),
        2 => (0..60u64).prop_map(Step::Release),
        1 => Just(Step::Crash(Crash::Power)),
        1 => Just(Step::Crash(Crash::Kill)),
    ]
}

/// How many of the first items were let go by what is left, which is what must be there and no less.
fn gone(left: &[Item], known: &[Item], asked: u64) -> Option<usize> {
    let most = known.iter().take_while(|item| item.key <= asked).count();
    (0..=most).find(|&gone| {
        let carried = carried(&known[..gone]);
        let rest = known[gone..].iter();
        left.len() >= carried.len() && left.iter().eq(carried.iter().chain(rest).take(left.len()))
    })
}

/// What must hold: `durable` was published and can never go, `staged` may or may not survive, in order; only what was asked for is let
/// go, from the oldest on.
fn run(seed: u64, steps: &[Step], skip_sync: bool) -> Result<usize, String> {
    let mut log = sim(seed);
    log.device_mut().skip_syncs(skip_sync);
    let (mut durable, mut staged): (Vec<Item>, Vec<Item>) = (Vec::new(), Vec::new());
    let (mut asked, mut first) = (0, 0);
    for step in steps {
        match step {
            Step::Append(key, length) => match log.append(item(*key, *length)) {
                Ok(_) => staged.push(item(*key, *length)),
                Err((_, AppendError::Full)) => {}
                Err((_, error)) => return Err(format!("append: {error}")),
            },
            Step::Submit => drop(log.submit().map_err(|error| error.to_string())?),
            Step::Finish => drop(log.finish().map_err(|error| error.to_string())?),
            Step::Flush => drop(log.flush().map_err(|error| error.to_string())?),
            Step::Scan(key) => {
                let lsn = log.scan_from(0).next().map_err(|error| error.to_string())?.map_or(0, |entry| entry.lsn.0);
                let gone = lsn.saturating_sub(1) as usize;
                let highest = durable[..gone].iter().map(|item| item.key).max().unwrap_or(0);
                if gone < first || highest > asked || log.dropped_below() != highest {
                    return Err(format!("{gone} items are gone, up to {highest}; asked for was {asked}"));
                }
                first = gone;
                let expected: Vec<_> = durable[gone..].iter().filter(|item| item.key >= *key).cloned().collect();
                if scan_all(&mut log, *key) != expected {
                    return Err("a scan differs from what is durable".into());
                }
            }
            Step::Release(below) => {
                log.release(*below).map_err(|error| error.to_string())?;
                asked = asked.max(*below);
            }
            Step::Crash(how) => {
                let mut disk = log.into_device();
                disk.crash(*how);
                let (recovered, items) = open(disk).map_err(|error| error.to_string())?;
                log = recovered.log;
                let known: Vec<Item> = durable.iter().chain(&staged).cloned().collect();
                let last = log.durable().0 as usize;
                if last < durable.len() || gone(&items, &known[..last.min(known.len())], asked).is_none() {
                    return Err(format!("{} of {} durable records came back", items.len(), durable.len()));
                }
                durable = known[..last].to_vec();
                // The old anchor may count.
                first = 0;
                staged.clear();
            }
        }
        let fresh: Vec<Item> = log.drain_durable().map(Durable::into_inner).collect();
        if fresh[..] != staged[..fresh.len()] {
            return Err("records became durable out of order".into());
        }
        durable.extend(staged.drain(..fresh.len()));
    }
    Ok(first)
}

/// As [`step`], with keys that ascend and records that fill segments, so that most releases let something go.
#[test]
fn releases_cut_short_anywhere_lose_nothing_that_was_not_let_go() {
    let mut released = 0;
    for seed in 0..1_000u64 {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut next = |limit: u64| {
            state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            (state >> 33) % limit
        };
        let mut key = 1;
        let steps: Vec<Step> = (0..36)
            .map(|_| {
                key += next(2);
                match next(16) {
                    0..=5 => Step::Append(if next(5) == 0 { 0 } else { key }, 150_000 + next(350_000) as usize),
                    6 => Step::Submit,
                    7 => Step::Finish,
                    8 | 9 => Step::Flush,
                    10 | 11 => Step::Release(key.saturating_sub(next(6))),
                    12 | 13 => Step::Scan(next(key + 2)),
                    14 => Step::Crash(Crash::Power),
                    _ => Step::Crash(Crash::Kill),
                }
            })
            .chain([Step::Crash(Crash::Power), Step::Scan(0)])
            .collect();
        match run(seed, &steps, false) {
            Ok(gone) => released += usize::from(gone > 0),
            Err(error) => panic!("seed {seed}: {error}; {steps:?}"),
        }
    }
    assert!(released > 250, "{released}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn what_was_published_survives_every_crash(seed: u64, steps in prop::collection::vec(step(), 1..60)) {
        let outcome = run(seed, &steps, false);
        prop_assert!(outcome.is_ok(), "{outcome:?}");
    }
}

/// The check above must be able to fail: a build that reports completion without the sync loses records.
#[test]
fn without_the_sync_the_check_fails() {
    let steps: Vec<Step> =
        (0..8).flat_map(|key| [Step::Append(key, 2_000), Step::Flush]).chain([Step::Crash(Crash::Power)]).collect();
    let failed = (0..20).filter(|&seed| run(seed, &steps, true).is_err()).count();
    assert_eq!(failed, 20);
    assert_eq!((0..20).filter(|&seed| run(seed, &steps, false).is_err()).count(), 0);
}
