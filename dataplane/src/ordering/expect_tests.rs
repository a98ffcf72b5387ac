//! Leaders of all kinds, as one replica sees them.

use super::*;

const TIMER_US: u64 = 150_000;
const BATCH: u64 = 256 << 10;

/// A leader that pauses before each proposal, while something waits all the time.
struct Leader {
    pause_us: u64,
    /// From a proposal to its execution, us.
    work_us: u64,
    blind: bool,
}

impl Leader {
    fn new(pause_us: u64, work_us: u64) -> Self {
        Self { pause_us, work_us, blind: false }
    }

    /// Leads until then; when it is suspected.
    fn leads(&self, expect: &mut Expect, now_us: &mut u64, until_us: u64) -> Option<u64> {
        let mut since_us = *now_us;
        while *now_us < until_us {
            *now_us += 1_000;
            let idle = *now_us < since_us + self.pause_us;
            if *now_us >= since_us + self.pause_us + self.work_us {
                since_us = *now_us;
                expect.executed(1_000);
            }
            let look = Look {
                now_us: *now_us,
                blind: self.blind,
                lag_us: 0,
                judges: true,
                waits: true,
                idle_since_us: (idle && self.pause_us > 0).then_some(since_us),
                relayed: false,
            };
            if expect.look(look) {
                expect.fall();
                expect.end_view();
                return Some(*now_us);
            }
            if expect.relay_at_us().is_some_and(|at| at <= *now_us) {
                expect.relayed(*now_us);
            }
        }
        None
    }
}

#[test]
fn a_leader_just_under_the_timer_is_suspected_after_its_grace() {
    let (mut expect, mut now_us) = (Expect::new(TIMER_US, BATCH, Factors::default()), 0);
    let at_us = Leader::new(140_000, 5_000).leads(&mut expect, &mut now_us, 60_000_000);
    assert!(at_us.is_some_and(|at_us| at_us < 2_000_000), "{at_us:?}");
}

#[test]
fn a_leader_that_is_as_ever_stays_and_one_that_is_much_slower_does_not() {
    let (mut expect, mut now_us) = (Expect::new(TIMER_US, BATCH, Factors::default()), 0);
    assert_eq!(Leader::new(2_000, 3_000).leads(&mut expect, &mut now_us, 60_000_000), None);
    assert_eq!(Leader::new(6_000, 3_000).leads(&mut expect, &mut now_us, 120_000_000), None);
    assert!(Leader::new(60_000, 3_000).leads(&mut expect, &mut now_us, 122_000_000).is_some());
    // So is its successor, later.
    let at_us = Leader::new(100_000, 3_000).leads(&mut expect, &mut now_us, 140_000_000);
    assert!(at_us.is_some_and(|at_us| at_us > 123_000_000), "{at_us:?}");
}

#[test]
fn a_leader_that_gets_slower_little_by_little_does_not_get_far() {
    let (mut expect, mut now_us) = (Expect::new(TIMER_US, BATCH, Factors::default()), 0);
    let mut pause_us = 1_000;
    for until_us in (5_000_000..).step_by(5_000_000) {
        if Leader::new(pause_us, 3_000).leads(&mut expect, &mut now_us, until_us).is_some() {
            break;
        }
        pause_us += 1_000;
        assert!(pause_us < 70_000, "it pauses for {pause_us} us");
    }
}

#[test]
fn a_cluster_in_which_all_are_slow_comes_to_rest() {
    let (mut expect, mut now_us) = (Expect::new(TIMER_US, BATCH, Factors::default()), 0);
    let mut replaced = 0;
    while now_us < 600_000_000 {
        replaced += u32::from(Leader::new(100_000, 40_000).leads(&mut expect, &mut now_us, 600_000_000).is_some());
    }
    assert!((1..=4).contains(&replaced), "{replaced} leaders were replaced");
}

#[test]
fn who_stands_still_has_no_evidence() {
    let (mut expect, mut now_us) = (Expect::new(TIMER_US, BATCH, Factors::default()), 0);
    let leader = Leader { blind: true, ..Leader::new(140_000, 5_000) };
    assert_eq!(leader.leads(&mut expect, &mut now_us, 30_000_000), None);
}

/// Half a second in which the leader's host stands still.
#[test]
fn one_stall_is_no_reason() {
    let (mut expect, mut now_us) = (Expect::new(TIMER_US, BATCH, Factors::default()), 0);
    for _ in 0..20 {
        let until_us = now_us + 5_000_000;
        assert_eq!(Leader::new(2_000, 3_000).leads(&mut expect, &mut now_us, until_us), None);
        let until_us = now_us + 450_000;
        assert_eq!(Leader::new(450_000, 3_000).leads(&mut expect, &mut now_us, until_us), None);
    }
}

/// It proposes at once, and bundles that were sent on long ago lie there.
#[test]
fn a_leader_with_a_backlog_is_held_to_the_rate_that_is_known() {
    let serves = |expect: &mut Expect, from_us: u64, until_us: u64, each_us: u64, relayed: bool| {
        (from_us..until_us).step_by(1_000).find(|now_us| {
            if now_us.is_multiple_of(each_us) {
                expect.executed(1_000);
            }
            expect.look(Look { now_us: *now_us, judges: true, waits: true, relayed, ..Look::default() })
        })
    };
    let mut expect = Expect::new(TIMER_US, BATCH, Factors::default());
    assert_eq!(serves(&mut expect, 0, 60_000_000, 1_000, false), None);
    // Without a backlog the clients decide.
    assert_eq!(serves(&mut expect, 60_000_000, 120_000_000, 50_000, false), None);
    assert_eq!(serves(&mut expect, 120_000_000, 125_000_000, 4_000, true), None);
    assert!(serves(&mut expect, 125_000_000, 127_000_000, 50_000, true).is_some());
}

#[test]
fn factors_decide_who_is_slow() {
    // What it knows are pauses of 2 ms; then a leader pauses for 40 ms each time.
    let suspected = |factors: Factors| {
        let (mut expect, mut now_us) = (Expect::new(TIMER_US, BATCH, factors), 0);
        assert_eq!(Leader::new(2_000, 3_000).leads(&mut expect, &mut now_us, 20_000_000), None);
        expect.end_view();
        let since_us = now_us;
        let until_us = now_us + 60_000_000;
        Leader::new(40_000, 3_000).leads(&mut expect, &mut now_us, until_us).map(|at_us| at_us - since_us)
    };
    let as_it_is = suspected(Factors::default()).unwrap();
    let patient = suspected(Factors { grace: 32, ..Factors::default() }).unwrap();
    assert!(patient > as_it_is + 20 * TIMER_US, "{as_it_is} {patient}");
    let hasty = suspected(Factors { bad_periods: 2, ..Factors::default() }).unwrap();
    assert!(hasty < as_it_is, "{hasty} {as_it_is}");
    assert_eq!(suspected(Factors { pause: 16, ..Factors::default() }), None, "16 times 2 ms and more are expected");
}

#[test]
fn other_factors_hold_for_the_leader_that_is_judged_now() {
    let (mut expect, mut now_us) = (Expect::new(TIMER_US, BATCH, Factors::default()), 0);
    assert_eq!(Leader::new(2_000, 3_000).leads(&mut expect, &mut now_us, 20_000_000), None);
    expect.set_timer(TIMER_US, Factors { pause: 16, ..Factors::default() });
    assert_eq!(Leader::new(40_000, 3_000).leads(&mut expect, &mut now_us, 60_000_000), None);
    expect.set_timer(TIMER_US, Factors::default());
    assert!(Leader::new(40_000, 3_000).leads(&mut expect, &mut now_us, 120_000_000).is_some());
}
