use super::*;

#[test]
fn measures_every_part_and_leaves_no_file() {
    let directory = tempfile::tempdir().unwrap();
    let floor = Floor::measure(directory.path(), 4, Duration::from_millis(50)).unwrap();
    let parts =
        [floor.hops_us, floor.sign_us, floor.verify_us, floor.verify_batch_us, floor.append_us, floor.append_shared_us];
    for part in parts {
        assert!(part.samples >= MIN_SAMPLES, "{part:?}");
        assert!(part.p50 > 0.0 && part.p50 <= part.p90 && part.p90 <= part.p99, "{part:?}");
        assert!(part.p99 <= part.p999 && part.p999 <= part.max, "{part:?}");
    }
    let [hops, sign, verify, _, _, shared] = parts;
    assert_eq!(floor.floor_us, hops.p50 + sign.p50 + verify.p50 + shared.p50);
    assert_eq!(floor.floor_p99_us, hops.p99 + sign.p99 + verify.p99 + shared.p99);
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[test]
fn every_cluster_size_completes_its_rounds() {
    for replicas in [1, 2, 3, 7, MAX_REPLICAS] {
        let rounds = hops::measure(replicas, Duration::ZERO).unwrap();
        assert_eq!(rounds.len(), MIN_SAMPLES, "{replicas} replicas");
    }
}

#[test]
fn a_lost_replica_ends_the_client() {
    let (client, mut replicas) = hops::mesh(4).unwrap();
    replicas.pop();
    let error = hops::request(client, 4, Duration::ZERO).unwrap_err();
    assert!(matches!(&error, FloorError::Network(_)), "{error}");
}

#[test]
fn four_logs_take_four_times_the_samples() {
    let directory = tempfile::tempdir().unwrap();
    let (times, _) = append::measure(directory.path(), 4, Duration::ZERO).unwrap();
    assert_eq!(times.len(), 4 * MIN_SAMPLES);
}

#[test]
fn a_file_system_in_memory_is_said() {
    let Ok(directory) = tempfile::tempdir_in("/dev/shm") else { return };
    let (_, method) = append::measure(directory.path(), 1, Duration::ZERO).unwrap();
    assert_eq!(method, AppendMethod::Memory);
    assert!(method.to_string().contains("NOTHING is durable"));
}

#[test]
fn bad_arguments_are_named() {
    let directory = tempfile::tempdir().unwrap();
    for replicas in [0, MAX_REPLICAS + 1] {
        let error = Floor::measure(directory.path(), replicas, Duration::ZERO).unwrap_err();
        assert!(matches!(error, FloorError::Replicas(count) if count == replicas));
    }
    let missing = directory.path().join("missing");
    let error = append::measure(&missing, 1, Duration::ZERO).unwrap_err();
    assert!(matches!(&error, FloorError::Disk { directory, .. } if *directory == missing));
    assert!(error.to_string().contains("missing"), "{error}");
}

/// Prints the floor of this host: `cargo test --release floor::tests::print -- --ignored --nocapture`.
#[test]
#[ignore = "three seconds of load, for people"]
fn print() {
    let directory = tempfile::tempdir_in(".").unwrap();
    println!("{}", Floor::measure(directory.path(), 4, DEFAULT_BUDGET).unwrap());
}
