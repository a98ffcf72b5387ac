//! A body that arrives after its decision, by the proposal rather than by a fetch.

use std::sync::Arc;

use super::batch::Batch;
use super::{Agreed, Effect, Ordering, Timing};
use crate::cluster::Size;
use crate::crypto::SecretKey;
use crate::types::{Now, ReplicaId};
use crate::wire::bundle::{Bundle, OPEN_SESSION, Request};
use crate::wire::message::{self, PrePrepare, Vote, Votes};

#[test]
fn a_proposal_that_comes_after_the_commits_is_executed() {
    let now = Now { mono_us: 1, wall_ms: 1_000 };
    let agreed = Agreed { size: Size::new(4).unwrap(), window: 16, interval: 16, drift_ms: 100 };
    let mut core = Ordering::new(ReplicaId(3), agreed, Timing::default(), super::seal::sample(3));
    core.start(now);
    let key = SecretKey::from_seed(&[1; 32]);
    let request = Request { class: 0, not_after_ms: None, operation: &OPEN_SESSION }.encode();
    let bundle = Bundle::sign("test", key.public(), None, 0, &[request], 0, |bytes| key.sign(bytes)).unwrap();
    let bundle = Arc::new(bundle);
    let batch = Batch::new(now.wall_ms, vec![Arc::clone(&bundle)]);
    let mut body = Vec::new();
    Votes { view: 0, votes: vec![Vote { sequence: 1, digest: batch.digest().0 }] }.encode(&mut body);
    for peer in 0..3 {
        core.on_commits(ReplicaId(peer), Votes::access(&body).unwrap());
    }
    core.submit(bundle, now).unwrap();
    let proposal = PrePrepare {
        view: 0,
        sequence: 1,
        time_ms: now.wall_ms,
        digest: batch.digest().0,
        bundles: batch.bundles().iter().map(|bundle| bundle.digest().0).collect(),
    };
    let mut body = Vec::new();
    message::encode(&proposal, &mut body);
    core.on_pre_prepare(ReplicaId(0), message::access::<PrePrepare>(&body).unwrap(), now);
    let effects: Vec<Effect> = std::iter::from_fn(|| core.next_effect()).collect();
    assert!(effects.iter().any(|effect| matches!(effect, Effect::Execute(1, _))), "{effects:?}");
    assert_eq!(core.executed(), 1);
}
