//! Random appends, writes, crashes and restarts against a model that knows nothing of segments or checksums.

use proptest::prelude::*;

use super::{Item, item, open, scan_all, sim};
use crate::log::{AppendError, Crash, Durable};

#[derive(Clone, Debug)]
enum Step {
    Append(u64, usize),
    Submit,
    Finish,
    Flush,
    Scan(u64),
    Crash(Crash),
}

fn step() -> impl Strategy<Value = Step> {
    let length = prop_oneof![6 => 0..300usize, 2 => 3_000..9_000usize, 1 => 100_000..700_000usize];
    prop_oneof![
        10 => (0..50u64, length).prop_map(|(key, length)| Step::Append(key, length)),
        4 => Just(Step::Submit),
        4 => Just(Step::Finish),
        1 => Just(Step::Flush),
        1 => (0..50u64).prop_map(Step::Scan),
        1 => Just(Step::Crash(Crash::Power)),
        1 => Just(Step::Crash(Crash::Kill)),
    ]
}

/// What must hold: `durable` was published and can never go, `staged` may or may not survive, in order.
fn run(seed: u64, steps: &[Step], skip_sync: bool) -> Result<(), String> {
    let mut log = sim(seed);
    log.device_mut().skip_syncs(skip_sync);
    let (mut durable, mut staged): (Vec<Item>, Vec<Item>) = (Vec::new(), Vec::new());
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
                let expected: Vec<_> = durable.iter().filter(|item| item.key >= *key).cloned().collect();
                if scan_all(&mut log, *key) != expected {
                    return Err("a scan differs from what is durable".into());
                }
            }
            Step::Crash(how) => {
                let mut disk = log.into_device();
                disk.crash(*how);
                let (recovered, items) = open(disk).map_err(|error| error.to_string())?;
                log = recovered.log;
                let known: Vec<Item> = durable.iter().chain(&staged).cloned().collect();
                if items.len() < durable.len() || items[..] != known[..items.len().min(known.len())] {
                    return Err(format!("{} of {} durable records came back", items.len(), durable.len()));
                }
                durable = items;
                staged.clear();
            }
        }
        let fresh: Vec<Item> = log.drain_durable().map(Durable::into_inner).collect();
        if fresh[..] != staged[..fresh.len()] {
            return Err("records became durable out of order".into());
        }
        durable.extend(staged.drain(..fresh.len()));
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn what_was_published_survives_every_crash(seed: u64, steps in prop::collection::vec(step(), 1..60)) {
        prop_assert_eq!(run(seed, &steps, false), Ok(()));
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
