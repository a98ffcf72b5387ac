//! Who fills the pool, and who finds room all the same.

use super::*;
use crate::crypto::SecretKey;
use crate::wire::bundle::{OPEN_SESSION, Request};

fn bundle(identity: u8, number: i64) -> Arc<Bundle> {
    let key = SecretKey::from_seed(&[identity; 32]);
    let request = Request { class: 0, not_after_ms: None, operation: &OPEN_SESSION }.encode();
    Arc::new(Bundle::sign("test", key.public(), None, 0, &[request], number, |bytes| key.sign(bytes)).unwrap())
}

fn fill(pool: &mut Pool, identity: u8) -> usize {
    let taken = (0..1_000).take_while(|number| pool.insert(bundle(identity, *number), 0).is_ok()).count();
    assert!(taken < 1_000);
    taken
}

#[test]
fn who_fills_the_pool_is_refused_and_its_neighbours_are_not() {
    let mut pool = Pool::new(64_000, SHARES);
    let alone = fill(&mut pool, 1);
    assert_eq!(alone, 64_000 / SHARES / (bundle(1, 0).size() + BUNDLE_OVERHEAD));
    assert_eq!(pool.insert(bundle(1, 5_000), 0), Err(Code::OVERLOADED));
    // Several together do not fill it either.
    (2..SHARES as u8).for_each(|identity| assert!(fill(&mut pool, identity) > 0));
    assert!(pool.has_room(bundle(100, 0).key(), 4_096, 0));
    assert!(fill(&mut pool, 100) > 0);
}

#[test]
fn another_part_of_the_pool_holds_for_what_comes_next() {
    let mut pool = Pool::new(64_000, SHARES);
    let alone = fill(&mut pool, 1);
    pool.set_limit(64_000, 2);
    // Those that are there already are not refused.
    let half = fill(&mut pool, 1);
    assert!(half > 2 * alone);
    pool.set_limit(64_000, 64);
    assert_eq!(fill(&mut pool, 1), half, "what is here stays, and no more comes");
    assert_eq!(fill(&mut pool, 2), 64_000 / 64 / (bundle(2, 0).size() + BUNDLE_OVERHEAD));
}
