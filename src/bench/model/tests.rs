use super::costs::{BundleCosts, Costs, LinkCosts, LogCosts, OrderCosts, Slowest, Sync, Transport, Verify};
use super::report::{Asked, Report};
use super::*;
use crate::bench::report::Environment;

/// Round numbers, so that results can be worked out by hand.
fn costs() -> Costs {
    let way = |call_us, frame_us, byte_us| Transport { call_us, frame_us, byte_us };
    Costs {
        link: LinkCosts { send: way(8.0, 1.0, 0.0), receive: way(4.0, 1.0, 0.0), hop_us: 40.0 },
        verify: [(1.0, 40.0), (4.0, 30.0), (64.0, 20.0)]
            .map(|(batch, signature_us)| Verify { batch, signature_us })
            .to_vec(),
        order: vec![
            OrderCosts { n: 4, sequence_us: 20.0, bundle_us: 1.0 },
            OrderCosts { n: 10, sequence_us: 50.0, bundle_us: 1.0 },
        ],
        log: LogCosts { stage_record_us: 2.0, stage_byte_us: 0.0, call_us: 4.0 },
        syncs: vec![
            Sync { logs: 1, fixed_us: 200.0, slowest: slowest(250.0), byte_us: 0.001 },
            Sync { logs: 4, fixed_us: 300.0, slowest: slowest(400.0), byte_us: 0.01 },
        ],
        bundles: vec![BundleCosts {
            operations: 10,
            request_bytes: 1_000.0,
            reply_bytes: 500.0,
            submit_us: 30.0,
            read_us: 10.0,
            execute_us: 15.0,
            helpers_us: 5.0,
            reply_us: 5.0,
            tally_us: 3.0,
        }],
        roots_us: 10_000.0,
        checkpoint_us: 2_560.0,
    }
}

fn slowest(us: f64) -> Vec<Slowest> {
    vec![Slowest { of: 4, us }, Slowest { of: 10, us: 2.0 * us }]
}

fn cluster(placement: Placement, cores: usize) -> Cluster {
    Cluster {
        n: 4,
        cores,
        placement,
        under_way: 16.0,
        clients: 2.0,
        link_gbit: 10.0,
        rtt_us: 100.0,
        disk_us: None,
        batch: None,
    }
}

fn close(found: f64, wanted: f64) {
    assert!((found - wanted).abs() <= 1e-9 * wanted.abs().max(1.0), "{found} is not {wanted}");
}

#[test]
fn batches_follow_what_is_under_way_up_to_the_leaders_limit() {
    let bundle = costs().bundles[0];
    close(batch(&bundle, 16.0), 4.0);
    close(batch(&bundle, 1.0), 1.0);
    close(batch(&bundle, 1e6), 262_144.0 / 1_000.0);
}

#[test]
fn the_demand_of_the_leader_and_of_a_backup_by_hand() {
    let (costs, cluster) = (costs(), cluster(Placement::OneThread, 8));
    let leader = demand(&costs, &costs.bundles[0], &cluster, 4.0, true);
    // Client: half a call a bundle each way (2 clients, 4 bundles), one frame: 0.5*4+1 + 0.5*8+1 = 8. Peers a sequence: 6 sends of
    // 9, 3 receives of 5: 69, a quarter of it a bundle.
    close(leader.net, 8.0 + 69.0 / 4.0);
    close(leader.read, 10.0);
    close(leader.verify, 30.0);
    close(leader.order, 1.0 + 20.0 / 4.0);
    close(leader.log, (2.0 + 4.0 / 2.0) / 4.0);
    close(leader.execute, 15.0 + 5.0 + 2_560.0 / 256.0 / 4.0);
    close(leader.sum(), 8.0 + 17.25 + 40.0 + 6.0 + 1.0 + 22.5);
    let backup = demand(&costs, &costs.bundles[0], &cluster, 4.0, false);
    // 3 sends of 9, 4 receives of 5.
    close(backup.net, 8.0 + 47.0 / 4.0);
    assert_eq!(Demand { net: 0.0, ..backup }, Demand { net: 0.0, ..leader });
}

#[test]
fn the_peak_is_the_least_bound_and_named() {
    let costs = costs();
    let bundle = &costs.bundles[0];
    // One thread: 94.75 us a bundle, 10 ms a second for the roots.
    let one = expect(&costs, bundle, &cluster(Placement::OneThread, 8));
    assert_eq!(one.bottleneck, "data thread");
    close(one.ops_per_s, 10.0 * 990_000.0 / 94.75);
    close(one.peak_us, 16.0 * 94.75 / 0.99);
    // Signatures elsewhere: 64.75 are left for the data thread, and one core checks 33,333 a second.
    let verify = expect(&costs, bundle, &cluster(Placement::VerifyCores, 8));
    assert_eq!(verify.bottleneck, "data thread");
    close(verify.ops_per_s, 10.0 * 990_000.0 / 64.75);
    let few = Costs { verify: vec![Verify { batch: 1.0, signature_us: 200.0 }], ..costs.clone() };
    let few = expect(&few, bundle, &cluster(Placement::VerifyCores, 3));
    assert_eq!(few.bottleneck, "verify");
    close(few.ops_per_s, 10.0 * 1e6 / 200.0);
    // Two cores: leader 94.75, three backups of 89.25, helpers 4 * 5; the client: 30 + 4 * ((4 + 1) + (2 + 1) + 3) = 74.
    let shared = expect(&costs, bundle, &cluster(Placement::Shared, 2));
    assert_eq!(shared.bottleneck, "cores");
    close(shared.ops_per_s, 10.0 * (2e6 - 40_000.0) / (94.75 + 3.0 * 89.25 + 20.0 + 74.0));
    // 3 cores verify, 40 us each; net takes 25.25 and limits.
    let quick = Cluster { disk_us: Some(100.0), ..cluster(Placement::StagesOnCores, 8) };
    let stages = expect(&costs, bundle, &quick);
    assert_eq!(stages.bottleneck, "net");
    close(stages.ops_per_s, 10.0 * 1e6 / 25.25);
    // 8 bundles of 1,000 bytes a sync of 200 + 8 us.
    let slow = Cluster { disk_us: Some(20_000.0), ..cluster(Placement::OneThread, 8) };
    let slow = expect(&costs, bundle, &slow);
    assert_eq!(slow.bottleneck, "disk");
    close(slow.ops_per_s, 10.0 * 8.0 * 1e6 / 20_008.0);
    // A link of 1 Mbit/s: 1,000 bytes and 3 votes of 128 for 4 bundles come in.
    let thin = expect(&costs, bundle, &Cluster { link_gbit: 0.001, ..cluster(Placement::OneThread, 8) });
    assert_eq!(thin.bottleneck, "link");
    close(thin.ops_per_s, 10.0 * 1e6 / (8.0 * WIRE * 1_096.0));
}

#[test]
fn latency_by_hand() {
    let costs = costs();
    let bundle = &costs.bundles[0];
    // 10 + 40 + 20 + 1 + 2 + 4 + 15 + 5.
    let stages = 97.0;
    let served = expect(&costs, bundle, &cluster(Placement::OneThread, 8)).alone_us;
    let link = 1_000.0 * 8.0 * WIRE / 10_000.0;
    close(served, 33.0 + 4.0 * (40.0 + 50.0) + link + 11.0 * 9.0 + 3.0 * 5.0 + stages + 251.0);
    // 23 messages of 14 us, four times the stages, on two cores; waking takes 26.
    let shared = expect(&costs, bundle, &cluster(Placement::Shared, 2)).alone_us;
    close(shared, 4.0 * 26.0 + 410.0 + (33.0 + 23.0 * 14.0 + 4.0 * stages) / 2.0);
}

#[test]
fn half_of_the_peak_adds_the_queue_alone() {
    let costs = costs();
    let expected = expect(&costs, &costs.bundles[0], &cluster(Placement::OneThread, 8));
    let gathered = (expected.ops_per_s / 10.0 / 2.0 * expected.alone_us / 1e6 / OPEN).clamp(1.0, 4.0);
    assert!(gathered > 1.0 && gathered < 4.0, "{gathered}");
    let service = 94.75 / 0.99;
    close(expected.half_us, expected.alone_us + (gathered - 1.0) * service + gathered * service / 2.0);
}

#[test]
fn signatures_lie_on_a_line_by_the_logarithm_of_the_batch() {
    let costs = costs();
    for (batch, wanted) in [(0.5, 40.0), (1.0, 40.0), (2.0, 35.0), (4.0, 30.0), (16.0, 25.0), (64.0, 20.0), (1e3, 20.0)]
    {
        close(costs.signature_us(batch), wanted);
    }
    assert_eq!(
        (costs.order_of(7).n, costs.order_of(32).n, costs.sync_of(2).logs, costs.sync_of(9).logs),
        (10, 10, 4, 4)
    );
}

#[test]
fn the_line_through_three_measurements_gives_them_back() {
    let wanted = Transport { call_us: 8.0, frame_us: 0.5, byte_us: 0.001 };
    let large = wanted.of(1.0, 8.0, 8.0 * (8_192.0 - 80.0));
    let found = link::transport(wanted.of(1.0, 1.0, 0.0), wanted.of(1.0, 32.0, 0.0), large);
    close(found.call_us, wanted.call_us);
    close(found.frame_us, wanted.frame_us);
    close(found.byte_us, wanted.byte_us);
    // What the host's noise turns upside down is nothing, and not less.
    assert_eq!(link::transport(9.0, 5.0, 1.0), Transport { call_us: 9.0, frame_us: 0.0, byte_us: 0.0 });
}

#[test]
fn links_ordering_and_logs_are_measured_by_the_replicas_own_code() {
    let dir = tempfile::tempdir().unwrap();
    let share = std::time::Duration::from_millis(1);
    let link = link::measure(share).unwrap();
    assert!(
        link.hop_us > 0.0 && link.send.of(1.0, 1.0, 80.0) > 0.0 && link.receive.of(1.0, 1.0, 80.0) > 0.0,
        "{link:?}"
    );
    let (small, large) = (order::measure(4, share).unwrap(), order::measure(10, share).unwrap());
    assert!(small.sequence_us > 0.0 && large.sequence_us > 0.0, "{small:?} {large:?}");
    let found = way::Way::new(&dir.path().join("way"), 128).unwrap().measure(64, share).unwrap();
    assert!(found.costs.request_bytes > 64.0 * 128.0 && found.costs.execute_us > 0.0 && found.roots_us >= 0.0);
    let (one, many) = (found.sample.first(), found.sample);
    let (log, alone) = syncs::measure(dir.path(), &one, &many, share).unwrap();
    let shared = syncs::shared(dir.path(), 2, &one, &many, share).unwrap();
    assert!(log.stage_record_us + log.call_us > 0.0 && alone.fixed_us + alone.byte_us > 0.0, "{log:?} {alone:?}");
    assert_eq!((alone.logs, shared.logs), (1, 2));
}

#[test]
fn of_several_measurements_each_numbers_median_counts() {
    let mut all = [costs(), costs(), costs()];
    // A burst of somebody else's work in each round, at another stage.
    all[0].link.hop_us = 9_000.0;
    all[1].verify[2].signature_us = 9_000.0;
    all[2].syncs[0].slowest[1].us = 9_000.0;
    all[2].bundles[0].execute_us = 9_000.0;
    assert_eq!(costs::medians(&all), Some(costs()));
    assert_eq!(costs::medians(&[]), None);
}

#[test]
fn the_slowest_of_several_is_found_by_the_share_that_takes_no_longer() {
    let mut times = measure::Times::default();
    (1..=100).for_each(|us| times.add(std::time::Duration::from_micros(us)));
    close(times.median(), 51.0);
    // Half of the time all of four are within 0.5^(1/4) = 84.1 %, all of ten within 93.3 %.
    close(times.slowest_of(4), 85.0);
    close(times.slowest_of(10), 94.0);
    assert_eq!(measure::Times::default().slowest_of(4), 0.0);
}

#[test]
fn more_cores_links_and_faster_disks_are_never_slower() {
    let costs = costs();
    let bundle = &costs.bundles[0];
    for placement in [Placement::Shared, Placement::OneThread, Placement::VerifyCores, Placement::StagesOnCores] {
        for n in [4, 7, 10] {
            let at = |cores| expect(&costs, bundle, &Cluster { n, ..cluster(placement, cores) });
            for cores in 1..128 {
                let (fewer, more) = (at(cores), at(cores + 1));
                assert!(more.ops_per_s >= fewer.ops_per_s, "{placement:?} {n} {cores}");
                assert!(more.alone_us <= fewer.alone_us && more.peak_us <= fewer.peak_us, "{placement:?} {n} {cores}");
            }
            let base = Cluster { n, ..cluster(placement, 8) };
            let wide = expect(&costs, bundle, &Cluster { link_gbit: 100.0, ..base });
            let quick = expect(&costs, bundle, &Cluster { disk_us: Some(10.0), ..base });
            let far = expect(&costs, bundle, &Cluster { rtt_us: 1_000.0, ..base });
            let here = expect(&costs, bundle, &base);
            assert!(wide.ops_per_s >= here.ops_per_s && wide.alone_us <= here.alone_us);
            assert!(quick.ops_per_s >= here.ops_per_s && quick.alone_us < here.alone_us);
            assert!(far.alone_us >= here.alone_us);
        }
    }
}

#[test]
fn stages_on_cores_never_promise_less_than_what_is_built() {
    let costs = costs();
    for cores in 1..128 {
        let at = |placement| expect(&costs, &costs.bundles[0], &cluster(placement, cores)).ops_per_s;
        assert!(at(Placement::StagesOnCores) >= at(Placement::OneThread), "{cores}");
        assert!(at(Placement::VerifyCores) >= at(Placement::OneThread), "{cores}");
    }
}

#[test]
fn the_report_has_every_line_says_what_is_not_built_and_holds_it_against_what_was_measured() {
    let asked =
        Asked { payload: 128, under_way: 16.0, clients: 2.0, link_gbit: 10.0, rtt_us: 50.0, disk_us: Some(1.0) };
    let mut report = Report::new(asked, costs(), &[4, 7], Environment { cpus: 2, kernel: "6".to_owned() });
    assert_eq!(report.lines.len(), 2 * (1 + 4 + 4 + 4));
    assert!(report.lines.iter().all(|line| line.built != (line.placement == Placement::StagesOnCores)));
    // The user's disk is the servers', not this host's.
    let alone = report.lines.iter().find(|line| line.placement == Placement::Shared).unwrap().expected.alone_us;
    close(alone, expect(&costs(), &costs().bundles[0], &cluster(Placement::Shared, 2)).alone_us);
    let model = report.lines[0].expected.ops_per_s;
    report.check(4, 10, model / 2.0, 4.0, alone * 2.0);
    report.check(4, 11, 1.0, 1.0, 1.0);
    let [check] = &report.checks[..] else { panic!("one size was measured") };
    close(check.throughput_ratio, 2.0);
    close(check.latency_ratio, 0.5);
    let text = report.to_string();
    for part in
        ["NOT BUILT", "ONE data thread", "verify_cores", "bottleneck", "model/measured", "assumed:", "10 Gbit/s"]
    {
        assert!(text.contains(part), "{part} in\n{text}");
    }
}
