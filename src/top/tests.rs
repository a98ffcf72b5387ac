use std::path::Path;

use atlas_control::mapped::{Measured, Reading, Writer};
use atlas_dataplane::histogram::Histogram;
use atlas_dataplane::replica::telemetry::{Board, Vitals};
use atlas_dataplane::types::Code;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::plant::{Place, Plant, State};
use super::sample::Sample;
use super::screen::{Next, draw, on_key};
use super::text::{COUNT, DURATION, columns, count, digits, duration, fit, rate, span, wrap};
use super::{Sort, View};

const NOW_MS: u64 = 1_800_000_000_000;

/// A cluster of boards in files, as replicas write them.
struct Host {
    dir: tempfile::TempDir,
    writers: Vec<Writer>,
    plant: Plant,
}

fn vitals(replica: u64) -> Vitals<'static> {
    Vitals {
        replica,
        replicas: 4,
        active: true,
        links: 0b1111,
        view: 12,
        leader: 1,
        sequence: 1_000,
        entries: 1_200,
        free_bytes: 5 << 30,
        settings: vec![("pool_mib", 32)],
        ..Vitals::default()
    }
}

impl Host {
    fn new(count: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let file = |replica: u64| dir.path().join(format!("metrics-{replica}"));
        let place = |replica| Place { name: format!("replica-{replica}"), file: file(replica) };
        let plant = Plant::new((0..count).map(place).collect());
        let start = |replica| {
            let board = Board::new(&Vitals { settings: vec![("pool_mib", 0)], ..vitals(replica) });
            Writer::create(&file(replica), &board, replica, 1_000).unwrap()
        };
        let writers = (0..count).map(start).collect();
        Self { dir, writers, plant }
    }

    fn file(&self, replica: usize) -> std::path::PathBuf {
        self.dir.path().join(format!("metrics-{replica}"))
    }

    fn publish(&mut self, replica: usize, vitals: &Vitals<'_>, at_ms: u64) {
        self.writers[replica].store(&Board::new(vitals).values(), at_ms).unwrap();
    }

    /// All replicas work: a second with 500 operations.
    fn busy() -> Self {
        let mut host = Self::new(4);
        let (mut commit, mut turn) = (Histogram::default(), Histogram::default());
        for (second, at_ms) in [(0, NOW_MS - 1_000), (1, NOW_MS)] {
            for _ in 0..second * 100 {
                commit.record(800);
                turn.record(90);
            }
            for replica in 0..4 {
                let vitals = Vitals {
                    requests: 500 * second,
                    batches: 100 * second,
                    busy_us: 250_000 * second,
                    commit: Some(&commit),
                    turn: Some(&turn),
                    ..vitals(replica as u64)
                };
                host.publish(replica, &vitals, at_ms);
            }
            host.plant.refresh(at_ms);
        }
        host
    }

    fn shows(&self, view: &View, width: u16, height: u16) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(&self.plant, view, frame.area(), frame.buffer_mut(), true)).unwrap();
        let buffer = terminal.backend().buffer();
        let row = |y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>().trim_end().to_owned();
        (0..height).map(row).collect()
    }

    fn state(&self, replica: usize) -> State {
        self.plant.state(&self.plant.replicas()[replica])
    }

    fn notes(&self) -> String {
        self.plant.notes().into_iter().map(|(_, note)| note + "\n").collect()
    }
}

/// The cells of a row.
fn cells<'a>(screen: &'a [String], name: &str, nth: usize) -> Vec<&'a str> {
    let row = screen.iter().filter(|line| line.starts_with(name)).nth(nth);
    row.unwrap_or_else(|| panic!("no row {nth} of {name} in {screen:#?}")).split_whitespace().collect()
}

/// No line that is drawn is longer than the screen: what does not fit was shortened with a mark and not cut.
fn assert_whole(host: &Host, view: &View, width: usize, height: usize) {
    let lines = match view.details {
        true => super::detail::lines(&host.plant, view, width, height),
        false => super::overview::lines(&host.plant, view, width, Some(height)),
    };
    assert_eq!(lines.len(), height);
    for line in &lines {
        assert!(line.width() <= width, "{} columns of {width}: {line}", line.width());
    }
}

const DETAILS: View = View { picked: 1, details: true, sort: Sort::Name, reverse: false, first: 0, held: false };

#[test]
fn four_working_replicas_on_80x24() {
    let host = Host::busy();
    let screen = host.shows(&View::default(), 80, 24);
    assert!(screen[0].starts_with("atlas top  4 of 4 run, view 12, replica 1 leads"), "{screen:#?}");
    assert!(screen[0].ends_with("2027-01-15 08:00:00 UTC"), "{screen:#?}");
    assert_eq!(cells(&screen, "replica-0", 0)[1..], ["ready", "12", "1", "1000", "500", "100", "831us", "831us"]);
    assert_eq!(cells(&screen, "replica-1", 0)[1], "leads");
    assert_eq!(
        cells(&screen, "replica-2", 1)[1..],
        ["-", "-", "831us", "831us", "-", "-", "91us", "91us", "0", "25"],
        "{screen:#?}"
    );
    assert_eq!(cells(&screen, "replica-3", 2)[1..], ["0", "0", "B", "0", "0", "0", "4/4", "0", "0", "0", "0"]);
    assert!(screen.iter().any(|line| line == "nothing wants attention"), "{screen:#?}");
    for key in ["Up/Dn pick", "Enter details", "s sort:name", "r reverse", "Tab table", "Spc hold", "q quit"] {
        assert!(screen[23].contains(key), "no {key} in {}", screen[23]);
    }
    let screen = host.shows(&DETAILS, 80, 24);
    assert!(screen[0].starts_with("replica-1  leads"), "{screen:#?}");
    for part in [
        "commit           100   800us   831us",
        "operations 500, bundles 0, batches 100",
        "up to all 4 replicas",
        "of 32.0 MiB",
    ] {
        assert!(screen.iter().any(|line| line.contains(part)), "no {part} in {screen:#?}");
    }
    assert!(screen.iter().any(|line| line.starts_with("transfer")), "all of it fits: {screen:#?}");
    assert!(screen[23].contains("Esc all replicas") && screen[23].contains("q quit"));
    for (width, height) in [(80, 24), (80, 12), (100, 30), (200, 60)] {
        assert_whole(&host, &View::default(), width, height);
        assert_whole(&host, &DETAILS, width, height);
    }
    // More room shows more: rates over time.
    let screen = host.shows(&View::default(), 120, 40);
    assert!(screen.iter().any(|line| line.starts_with("operations a second")), "{screen:#?}");
    let screen = host.shows(&View::default(), 79, 24);
    assert!(screen[0].contains("needs 80x12, here are 79x24"), "{screen:#?}");
}

#[test]
fn every_number_of_a_board_is_taken_by_its_name() {
    let mut times = [100, 200, 300, 400].map(|us| {
        let mut histogram = Histogram::default();
        histogram.record(us);
        histogram
    });
    let [commit, wait, sync, turn] = &mut times;
    let vitals = Vitals {
        replica: 2,
        replicas: 4,
        mono_us: 101,
        view: 102,
        leader: 103,
        active: true,
        abstains: true,
        paused: true,
        low_space: true,
        taking_state: true,
        taken_entries: 104,
        sequence: 105,
        low_watermark: 106,
        slots: 107,
        entries: 108,
        cosigned: 109,
        certified: 110,
        settled: 111,
        sessions: 112,
        identities: 113,
        pooled: 114,
        pooled_bytes: 115,
        parked_reads: 116,
        backlog: 117,
        log_bytes: 118,
        log_records: 119,
        log_durable: 120,
        free_bytes: 121,
        decided: [122, 123, 124],
        batches: 125,
        bundles: 126,
        requests: 127,
        views_left: 128,
        views_begun: 129,
        suspicions: [130, 131, 132, 133],
        links: 0b0001,
        clients: 134,
        connections: 135,
        frames_in: 136,
        frames_out: 137,
        bytes_in: 138,
        bytes_out: 139,
        turned_away: 140,
        starved: 141,
        refused: vec![(Code(501), 142)],
        bad_frames: [1, 2, 140],
        misbehaviour: vec![144, 145, 146, 147],
        evidence_lost: 148,
        transfers: 149,
        transfer_bytes: 150,
        log_full: 151,
        turns: 152,
        busy_us: 153,
        settings: vec![("pool_mib", 154)],
        commit: Some(commit),
        wait: Some(wait),
        sync: Some(sync),
        turn: Some(turn),
        ..Vitals::default()
    };
    let series = Measured::of_board(&Board::new(&vitals));
    let sample = Sample::of(&Reading { pid: 1, replica: 2, start_ms: 3, heartbeat_ms: 4, series });
    let Sample { pid, replica, start_ms, heartbeat_ms, .. } = sample;
    assert_eq!((pid, replica, start_ms, heartbeat_ms), (1, 2, 3, 4));
    assert_eq!((sample.replicas, sample.uptime_us, sample.view, sample.leader), (4, 101, 102, 103));
    assert!(sample.view_active && sample.abstains && sample.paused && sample.low_space && sample.transfer_active);
    let history = [sample.history_entries, sample.cosigned_entries, sample.certified_entries, sample.settled_entries];
    assert_eq!((sample.transfer_entries, history), (104, [108, 109, 110, 111]));
    assert_eq!((sample.executed_sequence, sample.low_watermark, sample.slots), (105, 106, 107));
    assert_eq!((sample.sessions, sample.identities, sample.pool_bundles, sample.pool_bytes), (112, 113, 114, 115));
    assert_eq!((sample.parked_reads, sample.backlog_records, sample.log_bytes), (116, 117, 118));
    assert_eq!((sample.staged_record, sample.durable_record, sample.free_bytes), (119, 120, Some(121)));
    assert_eq!((sample.decisions, sample.suspicions), ([122, 123, 124], [130, 131, 132, 133]));
    assert_eq!((sample.batches, sample.bundles, sample.requests), (125, 126, 127));
    assert_eq!((sample.views_left, sample.views_begun), (128, 129));
    assert_eq!(sample.links, [true, false, true, false], "with itself it is always linked");
    assert_eq!((sample.clients, sample.connections), (134, 135));
    assert_eq!((sample.received_frames, sample.sent_frames), (136, 137));
    assert_eq!((sample.received_bytes, sample.sent_bytes), (138, 139));
    assert_eq!((sample.turned_away, sample.starved_receives, sample.refused()), (140, 141, 142));
    assert_eq!((sample.bad_frames, &sample.misbehaviour[..]), (143, &[144, 145, 146, 147][..]));
    assert_eq!((sample.evidence_lost, sample.transfers, sample.transfer_bytes), (148, 149, 150));
    assert_eq!((sample.log_full, sample.turns, sample.busy_us, sample.setting("pool_mib")), (151, 152, 153, Some(154)));
    let sums = [&sample.commit, &sample.bundle_wait, &sample.log_sync, &sample.turn].map(|times| times.sum_us);
    assert_eq!(sums, [100, 200, 300, 400]);
    assert_eq!(sample.log_sync.buckets, sync.buckets());
}

#[test]
fn a_replica_shows_the_worst_that_it_is_in_and_a_note_says_what() {
    let mut host = Host::busy();
    type Edit = fn(&mut Vitals<'_>);
    let cases: [(Edit, State, &str); 7] = [
        (|_| {}, State::Ready, ""),
        (|vitals| vitals.paused = true, State::Paused, "replica-0 is paused"),
        (|vitals| vitals.active = false, State::Changes, "replica-0 asks for view 12"),
        (|vitals| vitals.low_space = true, State::LowSpace, "replica-0 takes no new writes: 5.0 GiB free"),
        (|vitals| vitals.abstains = true, State::Abstains, "replica-0 does not vote: its records were lost"),
        (
            |vitals| (vitals.taking_state, vitals.taken_entries) = (true, 300),
            State::Transfer(Some(25)),
            "replica-0 takes history and state from others, 25 % of the history is there",
        ),
        (
            |vitals| (vitals.taking_state, vitals.taken_entries, vitals.abstains) = (true, u64::MAX, true),
            State::Transfer(Some(100)),
            "it does not vote",
        ),
    ];
    for (step, (edit, state, note)) in (1..).zip(cases) {
        let mut vitals = vitals(0);
        edit(&mut vitals);
        host.publish(0, &vitals, NOW_MS + step);
        host.plant.refresh(NOW_MS + step);
        assert_eq!(host.state(0), state);
        assert!(host.notes().contains(note), "{note}: {}", host.notes());
        assert_eq!(note.is_empty(), host.notes().is_empty());
        assert_whole(&host, &View::default(), 80, 24);
    }
    // What others did, and links that are down.
    for (replica, links) in [(0, 0b0111), (2, 0b0111), (1, 0b1111)] {
        let vitals = Vitals { links, misbehaviour: vec![0, 0, 0, 7], log_full: 2, ..vitals(replica as u64) };
        host.publish(replica, &vitals, NOW_MS + 20);
    }
    host.publish(3, &Vitals { sequence: 9_000, ..vitals(3) }, NOW_MS + 20);
    host.plant.refresh(NOW_MS + 20);
    for note in [
        "replica-0 saw replica 3 misbehave, 7 times",
        "no link to replica 3 from replica-0, replica-2",
        "replica-1 is 8000 sequences behind",
        "replica-2 found no room on its disk, 2 times",
    ] {
        assert!(host.notes().contains(note), "{note}: {}", host.notes());
    }
    // Not all of it fits, and the screen says so.
    let screen = host.shows(&View::default(), 80, 24);
    assert!(screen[22].starts_with("... and "), "{screen:#?}");
}

#[test]
fn replicas_that_are_gone_silent_missing_or_damaged() {
    let mut host = Host::busy();
    // Of another process, which has ended. Its number is above all that Linux gives.
    let mut bytes = std::fs::read(host.file(1)).unwrap();
    bytes[24..32].copy_from_slice(&(1_u64 << 23).to_le_bytes());
    std::fs::write(host.file(1), &bytes).unwrap();
    std::fs::write(host.file(2), &bytes[..500]).unwrap();
    std::fs::remove_file(host.file(3)).unwrap();
    host.plant.refresh(NOW_MS + 7_000);
    assert_eq!(host.state(0), State::Silent(7_000));
    assert_eq!((host.state(1), host.state(2), host.state(3)), (State::Down, State::Unreadable, State::Unreadable));
    let screen = host.shows(&View::default(), 80, 24);
    assert!(screen[0].starts_with("atlas top  1 of 4 run"), "{screen:#?}");
    assert_eq!(cells(&screen, "replica-0", 0)[1..3], ["silent", "7s"]);
    assert_eq!(cells(&screen, "replica-1", 0)[1..6], ["down", "12", "1", "1000", "-"]);
    assert_eq!(cells(&screen, "replica-2", 0)[1..], ["no", "metrics"]);
    let notes = host.notes();
    for note in ["replica-1 does not run; pid 8388608 published last 7s ago", "is damaged", "No such file"] {
        assert!(notes.contains(note), "{note}: {notes}");
    }
    for picked in 0..5 {
        for details in [false, true] {
            let view = View { picked, details, ..View::default() };
            assert_whole(&host, &view, 80, 24);
            assert_whole(&host, &view, 81, 12);
        }
    }
    // It comes back as another process: nothing is measured against the one before.
    host.writers[1] = Writer::create(&host.file(1), &Board::new(&vitals(1)), 1, 2_000).unwrap();
    host.publish(1, &vitals(1), NOW_MS + 7_500);
    host.plant.refresh(NOW_MS + 8_000);
    assert_eq!((host.state(1), host.plant.replicas()[1].rate(|sample| sample.requests)), (State::Leads, None));
}

#[test]
fn a_file_with_any_numbers_in_it_is_shown() {
    for fill in [u64::MAX, u64::MAX / 2, 1 << 53, 1] {
        let mut host = Host::busy();
        for replica in 0..4 {
            let count = Board::new(&vitals(0)).values().len();
            host.writers[replica]
                .store(&vec![fill; count], if replica == 2 { u64::MAX } else { NOW_MS + 500 })
                .unwrap();
        }
        host.plant.refresh(NOW_MS + 1_000);
        for view in [View::default(), DETAILS] {
            for sort in Sort::ALL {
                assert_whole(&host, &View { sort, ..view.clone() }, 80, 24);
            }
            let screen = host.shows(&view, 80, 24);
            assert!(screen.iter().all(|line| !line.contains("NaN") && !line.contains("inf")), "{screen:#?}");
        }
    }
}

#[test]
fn keys_pick_sort_and_turn_pages() {
    let mut host = Host::busy();
    for (replica, requests) in [(0, 900), (1, 1_500), (2, 600), (3, 500)] {
        let vitals = Vitals { requests, sequence: 1_000 + requests, ..vitals(replica as u64) };
        host.publish(replica, &vitals, NOW_MS + 1_000);
    }
    host.plant.refresh(NOW_MS + 1_000);
    let mut view = View::default();
    let press = |view: &mut View, code| on_key(&host.plant, view, KeyEvent::new(code, KeyModifiers::NONE));
    for (code, picked) in
        [(KeyCode::Down, 1), (KeyCode::End, 3), (KeyCode::Down, 3), (KeyCode::Up, 2), (KeyCode::Home, 0)]
    {
        assert_eq!((press(&mut view, code), view.picked), (Next::Stay, picked));
    }
    let sort = |sort, reverse| host.plant.order(&View { sort, reverse, ..View::default() });
    assert_eq!(sort(Sort::Rate, false), [1, 0, 2, 3]);
    assert_eq!(sort(Sort::Behind, false), [3, 2, 0, 1]);
    assert_eq!(sort(Sort::Behind, true), [1, 0, 2, 3]);
    assert_eq!(sort(Sort::State, false), [0, 2, 3, 1]);
    press(&mut view, KeyCode::Char('s'));
    press(&mut view, KeyCode::Char('s'));
    assert_eq!(view.sort, Sort::Rate);
    // The next one down is the next that is shown.
    press(&mut view, KeyCode::Down);
    assert_eq!(view.picked, 2);
    press(&mut view, KeyCode::Enter);
    assert!(view.details && host.shows(&view, 80, 24)[0].starts_with("replica-2"));
    press(&mut view, KeyCode::Esc);
    press(&mut view, KeyCode::Tab);
    assert!(!view.details && view.first == 1);
    // Of a low screen only the table that was asked for is there, and the picked row with it.
    let screen = host.shows(&view, 80, 12);
    assert!(screen.iter().any(|line| line.contains("log sync")), "{screen:#?}");
    assert!(!screen.iter().any(|line| line.contains("SEQUENCE")), "{screen:#?}");
    assert_eq!(press(&mut view, KeyCode::Char('q')), Next::Quit);
    assert_eq!(on_key(&host.plant, &mut view, KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL)), Next::Quit);
}

#[test]
fn of_many_replicas_those_around_the_picked_one_are_shown() {
    let dir = tempfile::tempdir().unwrap();
    let place = |replica| Place { name: format!("a-long-name-of-replica-{replica}"), file: dir.path().join("none") };
    let mut plant = Plant::new((0..100).map(place).collect());
    assert_eq!(plant.replicas().len(), super::MAX_REPLICAS);
    plant.refresh(NOW_MS);
    let host = Host { dir, writers: Vec::new(), plant };
    for picked in [0, 20, 63] {
        let view = View { picked, ..View::default() };
        assert_whole(&host, &view, 80, 24);
        let lines = super::overview::lines(&host.plant, &view, 80, Some(24));
        let marked =
            |line: &&ratatui::text::Line<'_>| line.style.add_modifier.contains(ratatui::style::Modifier::REVERSED);
        assert_eq!(lines.iter().filter(marked).count(), 1, "the picked one is there");
    }
    let screen = host.shows(&View::default(), 80, 24);
    assert!(screen[2].starts_with("a-long-name~"), "{screen:#?}");
}

#[test]
fn an_idle_replica_keeps_the_last_interval_until_it_publishes_again() {
    let mut host = Host::busy();
    let rate_of = |host: &Host| host.plant.replicas()[0].rate(|sample| sample.requests);
    assert_eq!(rate_of(&host), Some(500.0));
    host.plant.refresh(NOW_MS + 400);
    assert_eq!(rate_of(&host), Some(500.0));
    host.publish(0, &Vitals { requests: 600, ..vitals(0) }, NOW_MS + 2_000);
    host.plant.refresh(NOW_MS + 2_000);
    assert_eq!(rate_of(&host), Some(50.0));
    // A process that has ended does nothing.
    host.plant.replicas_mut()[0].runs = false;
    assert_eq!(rate_of(&host), None);
}

#[test]
fn numbers_fit_their_columns_and_are_right() {
    let texts = [0, 7, 99_999, 100_000, 999_499, 999_500, 12_345_678, u64::MAX].map(count);
    assert_eq!(texts, ["0", "7", "99999", "100k", "999k", "1.0M", "12.3M", "18.4E"]);
    assert_eq!(digits(123_456_789, 9), "123456789");
    assert_eq!(digits(1_234_567_890, 9), "1.2G");
    let times = [0, 999, 1_000, 9_994, 9_995, 99_949, 99_950, 999_499, 999_500, 9_994_999, 99_950_000, u64::MAX];
    let shown = times.map(|us| duration(Some(us)));
    let expected =
        ["0us", "999us", "1.00ms", "9.99ms", "10.0ms", "99.9ms", "100ms", "999ms", "1.00s", "9.99s", "100s", "214Md"];
    assert_eq!(shown, expected);
    assert_eq!(
        [None, Some(0.0), Some(0.25), Some(9.94), Some(9.96), Some(1e30)].map(rate),
        ["-", "0", "0.2", "9.9", "10", "18.4E"]
    );
    assert_eq!([59, 119, 120, 7_200, 172_800].map(span), ["59s", "119s", "2min", "2h", "2d"]);
    for bit in 0..64 {
        for value in [(1_u64 << bit) - 1, 1 << bit, (1 << bit) + 1, 10_u64.pow(bit % 20) - 1, 10_u64.pow(bit % 20)] {
            assert!(count(value).len() <= COUNT && digits(value, 9).len() <= 9, "{value}: {}", count(value));
            assert!(duration(Some(value)).len() <= DURATION, "{value}: {}", duration(Some(value)));
            assert!(super::text::bytes(value).len() <= 10, "{value}");
        }
    }
}

#[test]
fn text_is_shortened_wrapped_and_writes_nothing_to_the_terminal() {
    assert_eq!(fit("replica-1", 9), "replica-1");
    assert_eq!(fit("replica-10", 9), "replica-~");
    assert_eq!(fit("\u{1b}[31mred\u{7}", 20), "[31mred");
    assert_eq!(columns(&fit("\u{6f22}\u{5b57}\u{6f22}\u{5b57}", 5)), 5);
    assert_eq!(wrap("one two three four", 10), ["one two", "  three", "  four"]);
    let long = "x".repeat(100);
    for width in [3, 10, 80] {
        let lines = wrap(&format!("a {long} b"), width);
        assert!(lines.iter().all(|line| columns(line) <= width), "{lines:?}");
        assert_eq!(lines.concat().matches('x').count(), 100);
    }
    assert_eq!(wrap("", 10), [""]);
    assert!(Path::new("/proc/self").exists() && super::sample::process_runs(std::process::id().into()));
}
