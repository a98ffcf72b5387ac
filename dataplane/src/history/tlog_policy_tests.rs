use data_encoding::BASE64;

use super::*;

const POLICY: &str = include_str!("../../tests/vectors/policy.txt");
const CHECKPOINT: &str = include_str!("../../tests/vectors/checkpoint");

fn policy(text: &str) -> Policy {
    Policy::parse(text.as_bytes()).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

fn fault(text: &str) -> PolicyError {
    Policy::parse(text.as_bytes()).expect_err(text)
}

fn note(text: &str) -> Note {
    Note::parse(text.as_bytes()).expect(text)
}

/// The vector with one text replaced.
fn edited(vector: &str, from: &str, to: &str) -> String {
    let text = vector.replacen(from, to, 1);
    assert_ne!(text, vector, "{from}");
    text
}

#[test]
fn the_independent_checkpoint_is_certified() {
    let policy = policy(POLICY);
    assert_eq!((policy.logs().len(), policy.witnesses().len()), (4, 4));
    assert_eq!((policy.threshold(), policy.liars()), (Some((3, 4)), 1));
    assert_eq!(policy.assumption(), "at most 1 of the 4 cosigners lies (any 3 of 4 make a quorum)");
    let certified = policy.check(&note(CHECKPOINT)).expect("three of four cosigned");
    assert_eq!((certified.size, certified.logs), (9, 1));
    let names: Vec<&str> = certified.cosigned.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["r0", "r1", "r2"]);
    let times: Vec<u64> = certified.cosigned.iter().map(|(_, time)| *time).collect();
    assert_eq!(certified.time_s(0), times.iter().min().copied());
    assert_eq!(certified.time_s(2), times.iter().max().copied());
    assert_eq!(certified.time_s(3), None);
}

#[test]
fn lines_of_unknown_keys_change_nothing() {
    let policy = policy(POLICY);
    let more = format!("{CHECKPOINT}— else.example AAAAAAA=\n— twin.example/plant-7/replica/3 AAAAAAA=\n");
    let certified = policy.check(&note(&more)).expect("known lines hold");
    assert_eq!(certified.cosigned.len(), 3);
}

#[test]
fn one_bad_line_of_a_known_key_rejects_the_note() {
    let policy = policy(POLICY);
    // A fourth cosignature whose id is that of replica 3: the other three alone would do.
    let bad = BASE64.encode(&[&[0x77, 0xac, 0x13, 0x43][..], &[1; 72]].concat());
    let text = format!("{CHECKPOINT}— twin.example/plant-7/replica/3 {bad}\n");
    let name = "twin.example/plant-7/replica/3".to_owned();
    assert_eq!(policy.check(&note(&text)), Err(CheckError::BadLine { line: 9, name }));
    let name = "twin.example/plant-7".to_owned();
    for (from, to, line) in [("WPwzUTSV", "WPwzUTSW", 5), ("\n9\n", "\n8\n", 5)] {
        let text = edited(CHECKPOINT, from, to);
        assert_eq!(policy.check(&note(&text)), Err(CheckError::BadLine { line, name: name.clone() }));
    }
    let text = edited(CHECKPOINT, "WQIP7AAAAABqsTvk", "WQIP7AAAAABqsTvl");
    let name = "twin.example/plant-7/replica/0".to_owned();
    assert_eq!(policy.check(&note(&text)), Err(CheckError::BadLine { line: 6, name }));
}

#[test]
fn too_few_or_repeated_lines_certify_nothing() {
    let policy = policy(POLICY);
    let lines: Vec<&str> = CHECKPOINT.split_inclusive('\n').collect();
    let without = |number: usize| {
        let kept = lines.iter().enumerate().filter(|(index, _)| index + 1 != number);
        note(&kept.map(|(_, line)| *line).collect::<String>())
    };
    let missing =
        CheckError::Quorum { quorum: "replicas".to_owned(), needed: 3, found: 2, missing: "r0, r3".to_owned() };
    assert_eq!(policy.check(&without(6)), Err(missing));
    assert_eq!(policy.check(&without(5)), Err(CheckError::NoLogLine("twin.example/plant-7".to_owned())));
    let twice = format!("{CHECKPOINT}{}", lines[6]);
    let name = "twin.example/plant-7/replica/1".to_owned();
    assert_eq!(policy.check(&note(&twice)), Err(CheckError::DuplicateLine { line: 9, name }));
    let foreign = edited(CHECKPOINT, "twin.example/plant-7\n", "twin.example/plant-8\n");
    let error = policy.check(&note(&foreign)).expect_err("another cluster");
    assert_eq!(error.to_string(), "the checkpoint is of twin.example/plant-8, the policy is of twin.example/plant-7");
}

#[test]
fn groups_of_groups_count_by_group() {
    let head = POLICY.split_once("group").map(|(head, _)| head).expect("a group line");
    let of = |tail: &str| policy(&format!("{head}{tail}"));
    let note = note(CHECKPOINT);
    assert!(of("group a 2 r0 r1\ngroup b any r2 r3\ngroup both all a b\nquorum both\n").check(&note).is_ok());
    let nested = of("group a all r0 r1\ngroup b all r2 r3\ngroup both all a b\nquorum both\n");
    let missing = CheckError::Quorum { quorum: "both".to_owned(), needed: 2, found: 1, missing: "b".to_owned() };
    assert_eq!(nested.check(&note), Err(missing));
    assert_eq!((nested.threshold(), nested.liars()), (None, 0));
    assert!(of("quorum r2\n").check(&note).is_ok());
    assert!(of("quorum r3\n").check(&note).is_err());
    let none = of("quorum none\n");
    assert!(none.check(&note).is_ok() && none.assumption().contains("asks for no cosignature"));
}

#[test]
fn comments_spaces_and_addresses_are_allowed() {
    let spaced = POLICY.replace("witness r0", "  # a comment é\n\n\t witness \t r0");
    let spaced = spaced.replace("quorum replicas", "quorum  replicas  ");
    let spaced = spaced.replacen("hH6\n", "hH6 https://log.example/\n", 1);
    assert_eq!(policy(&spaced), policy(POLICY));
}

#[test]
fn each_fault_has_its_own_message() {
    let line = |line, fault| PolicyError::Line { line, fault: Box::new(fault) };
    let group = "group replicas 3 r0 r1 r2 r3";
    let with_group = |text: &str| fault(&edited(POLICY, group, text));
    assert_eq!(Policy::parse(&vec![b'#'; MAX_POLICY + 1]), Err(PolicyError::TooLong(MAX_POLICY + 1)));
    assert_eq!(Policy::parse(b"# \xff\n"), Err(PolicyError::Utf8(2)));
    assert_eq!(fault("# a\r\n"), PolicyError::Control(3));
    assert_eq!(fault(POLICY.trim_end()), PolicyError::Unterminated);
    assert_eq!(fault("quorum none\n"), PolicyError::NoLog);
    assert_eq!(fault(&edited(POLICY, "quorum replicas\n", "")), PolicyError::NoQuorum);
    assert_eq!(
        fault(&edited(POLICY, "quorum replicas", "quorum replica")),
        line(11, PolicyFault::Unknown("replica".into()))
    );
    assert_eq!(fault(&edited(POLICY, "quorum replicas", "quorum")), line(11, PolicyFault::Quorum));
    assert_eq!(fault(&format!("{POLICY}quorum none\n")), line(12, PolicyFault::SecondQuorum));
    assert_eq!(fault(&edited(POLICY, "\nlog ", "\nlogs ")), line(2, PolicyFault::Keyword("logs".into())));
    let impossible = |threshold| PolicyFault::Impossible { name: "replicas".into(), threshold, count: 4 };
    assert_eq!(with_group("group replicas 5 r0 r1 r2 r3"), line(10, impossible(5)));
    assert_eq!(with_group("group replicas 0 r0 r1 r2 r3"), line(10, impossible(0)));
    assert_eq!(with_group("group replicas 18446744073709551615 r0 r1 r2 r3"), line(10, impossible(usize::MAX)));
    assert_eq!(with_group("group replicas 03 r0 r1"), line(10, PolicyFault::Threshold("03".into())));
    assert_eq!(with_group("group replicas most r0 r1"), line(10, PolicyFault::Threshold("most".into())));
    assert_eq!(with_group("group replicas any"), line(10, PolicyFault::NoMembers("replicas".into())));
    assert_eq!(with_group("group replicas"), line(10, PolicyFault::Group));
    assert_eq!(with_group("group replicas 1 r0 r0"), line(10, PolicyFault::UsedTwice("r0".into())));
    assert_eq!(with_group("group replicas 1 none"), line(10, PolicyFault::Unknown("none".into())));
    assert_eq!(with_group("group r0 1 r1"), line(10, PolicyFault::NameTaken("r0".into())));
    assert_eq!(with_group("group none 1 r1"), line(10, PolicyFault::NameTaken("none".into())));
    assert_eq!(with_group("group a any r0\ngroup b any r0"), line(11, PolicyFault::UsedTwice("r0".into())));
    assert_eq!(with_group("group a any a"), line(10, PolicyFault::Unknown("a".into())));
}

#[test]
fn a_key_is_what_it_says() {
    let line = |line, fault| PolicyError::Line { line, fault: Box::new(fault) };
    let first = POLICY.lines().nth(1).and_then(|line| line.strip_prefix("log ")).expect("a log line");
    let due = "58fc3351".to_owned();
    let error = fault(&edited(POLICY, "58fc3351", "58fc3352"));
    assert_eq!(error, line(2, PolicyFault::KeyId { found: "58fc3352".into(), due }));
    let error = fault(&edited(POLICY, "AcmsZD0z", "BMmsZD0z"));
    assert_eq!(error, line(2, PolicyFault::KeyType { found: 4, expected: 1 }));
    for bad in [&first[1..20], "a+58fc3351+AA==", "a+58FC3351+Acms", "+58fc3351+AA==", "a+b", "a+58fc3351+*"] {
        assert!(matches!(fault(&edited(POLICY, first, bad)), PolicyError::Line { line: 2, .. }), "{bad}");
    }
    let twice = POLICY.replacen("witness r0", &format!("log {first}\nwitness r0"), 1);
    assert_eq!(fault(&twice), line(6, PolicyFault::DuplicateKey("twin.example/plant-7".into())));
    let r0 = POLICY.lines().nth(5).expect("r0's line");
    let twice = POLICY.replacen("group", &format!("{}\ngroup", r0.replace(" r0 ", " r9 ")), 1);
    assert_eq!(fault(&twice), line(10, PolicyFault::DuplicateKey("r9".into())));
    assert_eq!(fault(&edited(POLICY, first, &format!("{first} a b"))), line(2, PolicyFault::Log));
    assert_eq!(fault(&edited(POLICY, r0, "witness r0")), line(6, PolicyFault::Witness));
    let many: String = (0..=MAX_KEYS as u8).map(|i| format!("log {}\n", vkey_of(i))).collect();
    assert_eq!(fault(&many), line(MAX_KEYS + 1, PolicyFault::TooMany));
}

fn vkey_of(i: u8) -> String {
    crate::cluster::policy::vkey("a", TYPE_LOG, &PublicKey([i; 32]))
}
