//! When a replica counts as one that was never away.

use super::{Agreed, Ordering, Timing};
use crate::cluster::Size;
use crate::types::{Now, ReplicaId, Sequence};
use crate::wire::message::{self, Status};

const NOW: Now = Now { mono_us: 1, wall_ms: 1_000 };

/// Replica 3 of four, which has executed nothing; the window is 8.
fn fresh() -> Ordering {
    let agreed = Agreed { size: Size::new(4).unwrap(), window: 8, interval: 8, drift_ms: 100 };
    let mut core = Ordering::new(ReplicaId(3), agreed, Timing::default(), super::seal::sample(3));
    core.start(NOW);
    core
}

fn says(core: &mut Ordering, from: u8, executed: Sequence) {
    let mut body = Vec::new();
    message::encode(&Status { executed, active: true, ..Status::default() }, &mut body);
    core.on_status(ReplicaId(from), message::access::<Status>(&body).unwrap());
    core.flush(NOW);
    while core.next_effect().is_some() {}
}

#[test]
fn it_has_caught_up_when_a_quorum_spoke_and_no_correct_replica_is_a_window_ahead() {
    let mut core = fresh();
    assert!(!core.has_caught_up(), "alone it knows nothing");
    says(&mut core, 0, 0);
    assert!(!core.has_caught_up(), "two are no quorum");
    says(&mut core, 1, 8);
    assert!(core.has_caught_up());
    // One may lie about how far it is; two do not both lie.
    says(&mut core, 2, 1_000_000);
    assert!(core.has_caught_up());
    says(&mut core, 1, 9);
    assert!(!core.has_caught_up());
    says(&mut core, 1, 7);
    core.takes_state(true);
    assert!(!core.has_caught_up(), "history and state are being taken from others");
    core.takes_state(false);
    assert!(core.has_caught_up());
}
