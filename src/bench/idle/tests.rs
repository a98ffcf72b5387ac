use super::*;

const STAT: &str = "77 (a) b (c) S 1 77 77 0 -1 4194560 9 0 0 0 150 50 0 0 20 0 1 0 9 9 9 18446744073709551615";

#[test]
fn times_stand_behind_a_name_that_may_hold_anything() {
    assert_eq!(times(STAT).unwrap(), (150 * TICK_NS, 50 * TICK_NS));
    for wrong in ["", "77 (name) S 1 2", "77 name S", "77 (a) S 1 77 77 0 -1 4194560 9 0 0 0 x 50 0"] {
        assert!(times(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn fields_are_found_by_their_whole_name() {
    let status = "Name:\tatlas\nRssAnon:\t  2048 kB\nvoluntary_ctxt_switches:\t7\nnonvoluntary_ctxt_switches:\t3\n";
    assert_eq!(field(status, "RssAnon:").unwrap(), 2_048);
    assert_eq!(field(status, "voluntary_ctxt_switches:").unwrap(), 7);
    assert_eq!(field(status, "nonvoluntary_ctxt_switches:").unwrap(), 3);
    assert!(field(status, "VmRSS:").is_err() && field(status, "Name:").is_err());
}

fn thread_of(name: &str, cpu_ns: u64, woken: u64, displaced: u64) -> Thread {
    Thread { name: name.to_owned(), cpu_ns, woken, displaced }
}

#[test]
fn shares_are_of_what_was_used_in_between() {
    let before = Process {
        threads: [(1, thread_of("replica", 1_000_000_000, 10, 1)), (2, thread_of("gone", 5, 5, 5))].into(),
        user_ns: 100_000_000,
        system_ns: 50_000_000,
        anonymous_bytes: 1,
    };
    let after = Process {
        threads: [(1, thread_of("replica", 1_020_000_000, 30, 2)), (3, thread_of("new", 9_000_000_000, 9, 9))].into(),
        user_ns: 120_000_000,
        system_ns: 60_000_000,
        anonymous_bytes: 20 << 20,
    };
    let line = line(3, &before, &after, 2.0);
    assert_eq!((line.replica, line.cpu_share, line.user_share, line.system_share), (3, 0.01, 0.01, 0.005));
    assert_eq!((line.wakeups_per_s, line.displaced_per_s, line.anonymous_bytes), (10.0, 0.5, 20 << 20));
    assert_eq!(line.threads, [ThreadLine { name: "replica".to_owned(), cpu_share: 0.01, wakeups_per_s: 10.0 }]);
    // One per cent is not below one per cent.
    let report = Report::new(65_536, 2.0, vec![line.clone()]);
    assert!(!report.within && report.to_string().contains("NOT within both"));
    let quiet = ReplicaLine { cpu_share: 0.009, ..line };
    assert!(Report::new(65_536, 2.0, vec![quiet.clone()]).within);
    let large = ReplicaLine { anonymous_bytes: MEMORY_TARGET, ..quiet };
    assert!(!Report::new(65_536, 2.0, vec![large]).within);
}

#[test]
fn this_process_can_be_read() {
    let found = process(Path::new("/proc/self")).unwrap();
    assert!(found.anonymous_bytes > 0 && !found.threads.is_empty(), "{found:?}");
}
