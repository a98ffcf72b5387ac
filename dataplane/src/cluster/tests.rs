use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use data_encoding::BASE64;
use proptest::prelude::*;
use tempfile::TempDir;

use super::error::Problem;
use super::file::{Address, MAX_CLUSTER_FILE};
use super::init::{ADMINISTRATOR, InitError, InitOptions, InitSummary, init};
use super::policy::{check_origin, policy_text, vkey};
use super::replica::KEY_FILES;
use super::roles::{MAX_PATTERNS, MAX_ROLES, Pattern, PatternError};
use super::sample::{cluster_text, parse, public};
use super::settings::{HistoryConfig, LocalConfig, LogConfig, LogDevice, NetConfig, Setting};
use super::size::{MAX_REPLICAS, MIN_REPLICAS};
use super::*;
use crate::cbor::Reader;
use crate::crypto::keys::KeyError;
use crate::crypto::{SecretKey, sha256};
use crate::history::entry::EntryView;
use crate::types::{PublicKey, ReplicaId};
use crate::wire::limits::MAX_ENTRY;

/// A cluster file of four replicas with the keys of seeds 1 to 16, two roles, and clients with seeds 100 and 101.
fn good() -> String {
    let head = "# comment\norigin = \"twin.example/plant-7\"\ncreated = 2026-01-31T12:00:00.250Z\n\n\
                [settings]\ncheckpoint_interval = 32\nwindow = 32\n\n";
    cluster_text(head, &[("operator-1", 100, &["*"]), ("gateway-1", 101, &["plant/*", "depot/a:command/*"])])
}

#[test]
fn a_good_file_says_what_it_says() {
    let text = good();
    let cluster = parse(&text).unwrap();
    assert_eq!(cluster.genesis(), sha256(&[b"atlas-genesis/1", text.as_bytes()]));
    assert_ne!(cluster.genesis(), parse(&format!("{text} ")).unwrap().genesis());
    assert_eq!(cluster.origin(), "twin.example/plant-7");
    assert_eq!(cluster.created_ms(), 1_769_860_800_250);
    let want = Settings { checkpoint_interval: 32, window: 32, ..Settings::default() };
    assert_eq!(cluster.settings(), &want);
    assert_eq!((cluster.n(), cluster.f(), cluster.quorum()), (4, 1, 3));
    assert_eq!(cluster.leader(6), ReplicaId(2));
    let member = cluster.member(ReplicaId(2)).unwrap();
    assert_eq!((member.name.as_str(), member.address.to_string().as_str()), ("r-2", "10.0.0.2:7450"));
    assert_eq!([member.link_key, member.protocol_key, member.log_key, member.cosign_key], [9, 10, 11, 12].map(public));
    assert_eq!(cluster.member(ReplicaId(4)), None);
    assert_eq!(cluster.replica_by_link_key(&public(9)), Some(ReplicaId(2)));
    assert_eq!(cluster.replica_by_link_key(&public(10)), None);
    let gateway = cluster.client_by_key(&public(101)).unwrap();
    assert_eq!(gateway.name, "gateway-1");
    assert_eq!(cluster.client_by_key(&public(9)), None);
    for (twin, property, may) in [
        ("plant/t1", "power", true),
        ("plants/t1", "power", false),
        ("depot/a", "command/stop", true),
        ("depot/a", "power", false),
        ("depot/ab", "command/stop", false),
    ] {
        assert_eq!(cluster.may_write(gateway.role, twin, property), may, "{twin} {property}");
    }
    assert!(cluster.may_write(RoleId(0), "any/thing", "at-all"));
    assert!(!cluster.may_write(RoleId(2), "any/thing", "at-all"));
}

#[test]
fn a_window_that_is_not_given_is_the_checkpoint_interval() {
    let cluster = parse(&good().replace("window = 32\n", "")).unwrap();
    assert_eq!(cluster.settings().window, 32);
}

/// Parses `good()` with one replacement and returns the error's line, key and problem; checks that the message has all.
fn failure(from: &str, to: &str) -> (usize, String, Problem) {
    let text = good();
    assert!(text.contains(from), "{from}");
    explain(parse(&text.replacen(from, to, 1)).unwrap_err(), "cluster.toml")
}

fn explain(error: ConfigError, name: &str) -> (usize, String, Problem) {
    let message = error.to_string();
    match error {
        ConfigError::At { file, line, key, problem } => {
            assert!(file.ends_with(name), "{message}");
            assert!(message.contains(&format!("{name}:{line}: {key}: {problem}")), "{message}");
            (line, key, problem)
        }
        other => panic!("{other}"),
    }
}

/// Every error names its line, its key and what would be right. Lines: settings 5 to 7, replica i from 9 + 8i,
/// the roles and clients from 41 on.
#[test]
fn every_error_of_a_cluster_file_has_its_line_and_key() {
    let twice = format!("log_key = \"{}\"", public(3));
    let as_link = format!("log_key = \"{}\"", public(1));
    let as_client = format!("key = \"{}\"", public(100));
    let as_replica = format!("key = \"{}\"", public(16));
    let small = format!("log_key = \"{}\"", PublicKey([0; 32]));
    let short = format!("log_key = \"{}\"", BASE64.encode(&[1; 31]));
    let cases: &[(&str, &str, usize, &str, &str)] = &[
        ("twin.example/plant-7", "", 2, "origin", "1 to 128 printable"),
        ("twin.example/plant-7", "a b", 2, "origin", "without spaces"),
        ("twin.example/plant-7", "a+b", 2, "origin", "'+'"),
        ("\"twin.example/plant-7\"", "7", 2, "origin", "expected a string"),
        ("origin =", "orgin =", 2, "orgin", "unknown field `orgin`, expected one of `origin`"),
        ("created = 2026-01-31T12:00:00.250Z", "", 1, "created", "missing field `created`"),
        (".250Z", "", 3, "created", "2026-01-31T12:00:00Z"),
        ("2026-01-31T12:00:00.250Z", "5", 3, "created", "expected a TOML datetime"),
        ("window = 32", "window = 65", 7, "settings.window", "must be the same"),
        ("window = 32", "window = 0", 7, "settings.window", "from 16 to 256 (sequences)"),
        ("window = 32", "window = -1", 7, "settings.window", "-1 does not fit"),
        ("window = 32", "window = \"32s\"", 7, "settings.window", "\"32s\" does not fit"),
        ("window = 32", "window = 3.5", 7, "settings.window", "(sequences)"),
        ("window = 32", "window = [1]", 7, "settings.window", "an array does not fit"),
        ("window = 32", "drift_ms = 5", 7, "settings.drift_ms", "from 100 to 600000 (milliseconds)"),
        ("window = 32", "drift_s = 5", 7, "drift_s", "unknown field `drift_s`"),
        ("window = 32", "checkpoint_interval = 32", 7, "checkpoint_interval", "duplicate key"),
        ("window = 32", "window = = 32", 7, "window", "extra `=`"),
        ("name = \"r-1\"", "name = \"r 1\"", 18, "replicas[1].name", "is no name"),
        ("name = \"r-1\"", "name = \"r-0\"", 18, "replicas[1].name", "same replica name as in line 10"),
        ("name = \"r-1\"", "nick = \"r-1\"", 18, "nick", "unknown field `nick`"),
        ("name = \"r-1\"", "", 17, "name", "missing field `name`"),
        ("10.0.0.1:7450", "10.0.0.0:7450", 19, "replicas[1].address", "same address as in line 11"),
        ("10.0.0.1:7450", "10.0.0.1", 19, "replicas[1].address", "HOST:PORT"),
        ("10.0.0.1:7450", "10.0.0.1:0", 19, "replicas[1].address", "HOST:PORT"),
        (&twice, "log_key = \"?\"", 14, "replicas[0].log_key", "44 characters of base64"),
        (&twice, &short, 14, "replicas[0].log_key", "this has 31"),
        (&twice, &small, 14, "replicas[0].log_key", "everybody can sign"),
        (&twice, &as_link, 14, "replicas[0].log_key", "same public key as in line 12"),
        (&as_client, &as_replica, 47, "clients[0].key", "same public key as in line 39"),
        ("name = \"gateway\"", "name = \"operator\"", 51, "roles[1].name", "same role name as in line 42"),
        ("[\"*\"]", "[\"\"]", 43, "roles[0].write", "neither part is empty"),
        ("[\"*\"]", "[\n\"a\",\n\"a*b\"]", 45, "roles[0].write", "`*` stands only at the end"),
        ("[\"*\"]", "[\"a:b:c\"]", 43, "roles[0].write", "character ':'"),
        ("[\"*\"]", "\"*\"", 43, "write", "expected a sequence"),
        ("operator-1", "gateway-1", 55, "clients[1].name", "same client name as in line 46"),
        ("role = \"operator\"", "role = \"boss\"", 48, "clients[0].role", "roles are gateway, operator"),
    ];
    for (from, to, line, key, says) in cases {
        let (found_line, found_key, problem) = failure(from, to);
        let message = problem.to_string();
        assert_eq!((found_line, found_key.as_str()), (*line, *key), "{from} -> {to}: {message}");
        assert!(message.contains(says), "{from} -> {to}: {message}");
    }
}

#[test]
fn counts_have_limits() {
    let text = good();
    let first = text.find("[[replicas]]").unwrap();
    let second = text[first + 1..].find("[[replicas]]").unwrap() + first + 1;
    let three = format!("{}{}", &text[..first], &text[second..]);
    let (line, key, problem) = explain(parse(&three).unwrap_err(), "cluster.toml");
    assert_eq!((line, key.as_str(), problem), (9, "replicas", Problem::Replicas(3)));

    let many = |table: &str, count: usize, body: &dyn Fn(usize) -> String| {
        let more: String = (0..count).map(|i| format!("[[{table}]]\n{}", body(i))).collect();
        explain(parse(&format!("{text}{more}")).unwrap_err(), "cluster.toml")
    };
    let (_, key, problem) = many("roles", MAX_ROLES, &|i| format!("name = \"x{i}\"\nwrite = []\n"));
    assert_eq!((key.as_str(), problem), ("roles", Problem::TooMany { what: "roles", found: 66, max: MAX_ROLES }));
    let (_, key, problem) =
        many("roles", 1, &|_| format!("name = \"x\"\nwrite = [{}]\n", "\"a\",".repeat(MAX_PATTERNS + 1)));
    assert_eq!(key, "roles[2].write");
    assert_eq!(problem, Problem::TooMany { what: "patterns", found: MAX_PATTERNS + 1, max: MAX_PATTERNS });
    let long = "#".repeat(MAX_CLUSTER_FILE + 1);
    assert!(matches!(parse(&long), Err(ConfigError::TooLong { max: MAX_CLUSTER_FILE, .. })));
}

/// The file names as many clients as entry 0 has room for, to the byte.
#[test]
fn clients_beyond_what_the_genesis_entry_holds_are_refused() {
    let bytes = |cluster: &Cluster| {
        let mut entry = Vec::new();
        cluster.put_config_entry(&mut entry);
        entry.len()
    };
    let (mut text, before) = (good(), bytes(&parse(&good()).unwrap()));
    // 1 for the array, 34 for the key, 33 for the name, 8 for the role; the list's head grows by 2.
    let each = 1 + 34 + 33 + 8;
    let count = (MAX_ENTRY - before - 2) / each;
    for i in 0..count {
        let mut seed = [9; 32];
        seed[..8].copy_from_slice(&i.to_be_bytes());
        let key = SecretKey::from_seed(&seed).public();
        text.push_str(&format!("[[clients]]\nname = \"c{i:030}\"\nkey = \"{key}\"\nrole = \"gateway\"\n"));
    }
    let cluster = parse(&text).unwrap();
    assert_eq!((cluster.clients().len(), bytes(&cluster)), (count + 2, before + 2 + count * each));
    // Names have at most 64 characters, so one more client fits if it is short enough.
    let room = MAX_ENTRY - bytes(&cluster);
    assert!(room < each);
    text.push_str(&format!("[[clients]]\nname = \"last-{:040}\"\nkey = \"{}\"\nrole = \"gateway\"\n", 0, public(102)));
    let (line, key, problem) = explain(parse(&text).unwrap_err(), "cluster.toml");
    assert!(problem.to_string().starts_with(&format!("{} clients make a genesis entry of ", count + 3)), "{problem}");
    assert_eq!((line, key.as_str()), (46, "clients"));
}

/// Entry 0 has all that replicas agree on, under the keys of the cluster file.
#[test]
fn the_genesis_entry_says_what_the_file_says() {
    let cluster = parse(&good()).unwrap();
    let mut entry = Vec::new();
    cluster.put_config_entry(&mut entry);
    let Ok(EntryView::Config(view)) = EntryView::decode(&entry) else { panic!("no CONFIG") };
    assert_eq!((view.sequence, view.time_ms, view.epoch), (0, cluster.created_ms(), 0));
    assert_eq!(view.policy, cluster.policy_text());
    assert_eq!(view.members.len(), 4);
    assert_eq!((view.members[3].index, view.members[3].name, view.members[3].cosign_key), (3, "r-3", public(16)));
    let number = |name: &str| Reader::new(view.setting(name).unwrap()).uint().unwrap();
    assert_eq!((Settings::TABLE.len(), number("checkpoint_interval"), number("window")), (9, 32, 32));
    for Setting { key, default, .. } in Settings::TABLE.iter().skip(2) {
        assert_eq!(number(key), *default, "{key}");
    }
    assert_eq!(Reader::new(view.setting("origin").unwrap()).text(), Ok("twin.example/plant-7"));
    assert_eq!(Reader::new(view.setting("genesis").unwrap()).bytes32(), Ok(cluster.genesis().0));
    let mut roles = minicbor::Encoder::new(Vec::new());
    roles.array(2).unwrap().array(2).unwrap().str("operator").unwrap().array(1).unwrap().str("*:*").unwrap();
    roles.array(2).unwrap().str("gateway").unwrap().array(2).unwrap();
    roles.str("plant/*:*").unwrap().str("depot/a:command/*").unwrap();
    assert_eq!(view.setting("roles"), Some(roles.into_writer().as_slice()));
    let mut clients = minicbor::Encoder::new(Vec::new());
    clients.array(2).unwrap();
    for (seed, name, role) in [(100, "operator-1", "operator"), (101, "gateway-1", "gateway")] {
        clients.array(3).unwrap().bytes(&public(seed).0).unwrap().str(name).unwrap().str(role).unwrap();
    }
    assert_eq!(view.setting("clients"), Some(clients.into_writer().as_slice()));
}

#[test]
fn administrators_and_reasons_are_read_and_stand_in_the_genesis_entry() {
    let with = |top: &str, end: &str| good().replacen("created =", &format!("{top}created ="), 1) + end;
    let chief = format!("[[administrators]]\nname = \"chief\"\nkey = \"{}\"\n", public(120));
    let cluster = parse(&with("reason_required = [\"plant/*:brake*\", \"depot/a\"]\n", &chief)).unwrap();
    assert_eq!((cluster.administrators()[0].name.as_str(), cluster.administrators()[0].key), ("chief", public(120)));
    assert_eq!(cluster.name_of(&public(120)), Some("chief"));
    assert!(cluster.may_know(&public(99)) && !parse(&good()).unwrap().may_know(&public(99)));
    let mut entry = Vec::new();
    cluster.put_config_entry(&mut entry);
    let Ok(EntryView::Config(view)) = EntryView::decode(&entry) else { panic!("no CONFIG") };
    assert_eq!(view.administrators().collect::<Vec<_>>(), [public(120)]);
    assert_eq!(view.setting("administrator_names"), Some(minicbor::to_vec(["chief"]).unwrap().as_slice()));
    let patterns = minicbor::to_vec(["plant/*:brake*", "depot/a:*"]).unwrap();
    assert_eq!(view.setting("reason_required"), Some(patterns.as_slice()));

    let wrong = |top: &str, end: &str| {
        let (_, key, problem) = explain(parse(&with(top, end)).unwrap_err(), "cluster.toml");
        (key, problem.to_string())
    };
    let (key, problem) = wrong("reason_required = [\"a*b\"]\n", "");
    assert!(key == "reason_required" && problem.contains("only at the end"), "{problem}");
    let many = format!("reason_required = {:?}\n", vec!["*"; 65]);
    let (key, problem) = wrong(&many, "");
    assert_eq!((key.as_str(), problem.as_str()), ("reason_required", "65 patterns; at most 64"));
    // A client's name, a client's key.
    let (key, problem) = wrong("", &chief.replace("chief", "gateway-1"));
    assert!(key == "administrators[0].name" && problem.contains("same client name"), "{problem}");
    let (key, problem) = wrong("", &chief.replace(&public(120).to_string(), &public(101).to_string()));
    assert!(key == "administrators[0].key" && problem.contains("same public key"), "{problem}");
    let (key, _) = wrong("", &format!("{chief}role = \"operator\"\n"));
    assert_eq!(key, "role");
}

#[test]
fn a_file_that_is_not_text_has_its_line() {
    let error = Cluster::parse(b"# one\n# two \xff\n", Path::new("cluster.toml")).unwrap_err();
    assert_eq!(explain(error, "cluster.toml"), (2, "file".to_owned(), Problem::NotText));
    let missing = Cluster::load(Path::new("/nowhere/cluster.toml")).unwrap_err();
    assert!(missing.to_string().contains("cannot read /nowhere/cluster.toml"));
}

/// The policy of the independent vector, from the keys in it.
#[test]
fn the_policy_is_that_of_an_independent_program() {
    let vector = include_str!("../../tests/vectors/policy.txt");
    let (comment, policy) = vector.split_once('\n').unwrap();
    assert!(comment.starts_with('#'));
    let keys = |kind: &str| -> Vec<PublicKey> {
        let lines = policy.lines().filter(|line| line.starts_with(kind));
        let base64 = lines.map(|line| line.splitn(3, '+').nth(2).unwrap());
        base64.map(|text| PublicKey(BASE64.decode(text.as_bytes()).unwrap()[1..].try_into().unwrap())).collect()
    };
    let (log, cosign) = (keys("log "), keys("witness "));
    assert_eq!((log.len(), cosign.len()), (4, 4));
    let mut members = parse(&good()).unwrap().members().to_vec();
    for (member, (log, cosign)) in members.iter_mut().zip(log.into_iter().zip(cosign)) {
        (member.log_key, member.cosign_key) = (log, cosign);
    }
    assert_eq!(policy_text("twin.example/plant-7", Size::new(4).unwrap(), &members), policy);
    assert_eq!(
        vkey("twin.example/plant-7", 1, &members[0].log_key),
        "twin.example/plant-7+58fc3351+AcmsZD0zYtP3gsgknE+lOB1E/cTgBPp2/JLB+zzPT/rk"
    );
}

#[test]
fn quorums_intersect_in_a_correct_replica_and_can_be_had_without_the_faulty() {
    assert_eq!((Size::new(MIN_REPLICAS - 1), Size::new(MAX_REPLICAS + 1), Size::new(260)), (None, None, None));
    for n in MIN_REPLICAS..=MAX_REPLICAS {
        let size = Size::new(n).unwrap();
        let (f, q) = (size.f(), size.quorum());
        assert!(n > 3 * f && n <= 3 * f + 3);
        assert!(2 * q > n + f, "two quorums of {n} share f+1");
        assert!(2 * (q - 1) <= n + f, "no smaller quorum of {n} would do");
        assert!(q <= n - f, "the correct ones of {n} are a quorum");
        assert_eq!(size.one_correct(), f + 1);
        if n == 3 * f + 1 {
            assert_eq!(q, 2 * f + 1);
        }
        assert_eq!(size.leader(u64::MAX).index() as u64, u64::MAX % n as u64);
        assert!(size.replicas().map(ReplicaId::index).eq(0..n));
    }
}

#[test]
fn origins_patterns_and_addresses() {
    assert!(check_origin(&"a".repeat(128)).is_ok());
    for bad in ["", "a b", "a\tb", "a+b", "a\u{a0}b", "é", &"a".repeat(129)] {
        assert!(check_origin(bad).is_err(), "{bad}");
    }
    let pattern = |text: &str| text.parse::<Pattern>();
    assert!(pattern("*").unwrap().covers("a/b", "c"));
    assert!(pattern("a/b:*").unwrap().covers("a/b", "c"));
    assert!(!pattern("a/b:c").unwrap().covers("a/b", "cd"));
    assert!(pattern("*:c").unwrap().covers("a/b", "c"));
    assert!(pattern("lab/x:temp*").unwrap().covers("lab/x", "temperature"));
    assert!(!pattern("lab/x:temp*").unwrap().covers("lab/x", "tem"));
    assert!(!pattern("lab/x:temp*").unwrap().covers("lab/xy", "temp"));
    for (bad, want) in [
        ("", PatternError::Empty),
        ("a:", PatternError::Empty),
        (":a", PatternError::Empty),
        (":", PatternError::Empty),
        ("a*:b*c", PatternError::InnerStar),
        ("*a", PatternError::InnerStar),
        ("a**", PatternError::InnerStar),
        ("a b", PatternError::Character(' ')),
        ("a:b:*", PatternError::Character(':')),
    ] {
        assert_eq!(pattern(bad), Err(want), "{bad}");
    }
    assert_eq!(pattern(&"a".repeat(513)), Err(PatternError::TooLong));
    for good in ["127.0.0.1:7450", "replica-0.example:1", "[::1]:65535"] {
        assert_eq!(good.parse::<Address>().unwrap().to_string(), good);
    }
    for bad in ["", "a", ":1", "a:", "a:0", "a:65536", "a b:1", "::1:1", "[a]:1", "[::1:1", "a/b:1"] {
        assert!(bad.parse::<Address>().is_err(), "{bad}");
    }
}

fn new_cluster() -> (TempDir, InitSummary) {
    let dir = tempfile::tempdir().unwrap();
    let options = InitOptions { origin: "twin.example/\"q\"".to_owned(), ..InitOptions::new(1_769_860_800_250) };
    let summary = init(&dir.path().join("cluster"), &options).unwrap();
    (dir, summary)
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn a_new_cluster_is_ready() {
    let (dir, summary) = new_cluster();
    let cluster = Cluster::load(&summary.cluster_file).unwrap();
    assert_eq!((cluster.genesis(), cluster.n()), (summary.genesis, 4));
    assert_eq!((cluster.origin(), cluster.created_ms()), ("twin.example/\"q\"", 1_769_860_800_250));
    assert_eq!(cluster.settings(), &Settings::default());
    assert_eq!(mode(&summary.dir), 0o700);
    for (index, file) in summary.replica_files.iter().enumerate() {
        let ReplicaSetup { config, cluster: its, keys, .. } = ReplicaSetup::load(file).unwrap();
        assert_eq!((its.genesis(), config.replica.index()), (summary.genesis, index));
        assert_eq!(config.listen.to_string(), format!("127.0.0.1:{}", 7450 + index));
        assert_eq!(config.addresses[index], config.listen);
        assert_eq!((&config.log, &config.net), (&LogConfig::default(), &NetConfig::default()));
        assert_eq!((&config.local, config.core), (&LocalConfig::default(), None));
        assert_eq!(config.data, file.parent().unwrap().join("data"));
        assert_eq!(its.replica_by_link_key(&keys.link.public()), Some(config.replica));
        for key in KEY_FILES {
            assert_eq!(mode(&config.keys.join(key)), 0o600);
        }
    }
    let (administrator, clients) = summary.client_keys.split_last().unwrap();
    let key = SecretKey::load(&administrator.1).unwrap().public();
    assert_eq!((administrator.0.as_str(), cluster.name_of(&key)), (ADMINISTRATOR, Some(ADMINISTRATOR)));
    assert_eq!((cluster.administrators().len(), cluster.client_by_key(&key)), (1, None));
    assert_eq!(mode(&administrator.1), 0o600);
    for (name, path) in clients {
        let client = cluster.client_by_key(&SecretKey::load(path).unwrap().public()).unwrap();
        assert_eq!(&client.name, name);
        assert!(cluster.may_write(client.role, "plant/t1", "command/stop"));
    }
    assert_eq!(names(dir.path()), ["cluster"]);
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// The comments that `init` writes are true: each commented default, uncommented, is read as the default.
#[test]
fn the_defaults_in_the_comments_are_the_defaults() {
    let (_dir, summary) = new_cluster();
    let file = &summary.replica_files[0];
    let text = fs::read_to_string(file).unwrap();
    let settings = [LogConfig::TABLE, HistoryConfig::TABLE, NetConfig::TABLE, LocalConfig::TABLE].concat();
    let mut active = text.replace("# device", "device");
    for setting in &settings {
        let line = format!("# {} = {}\n", setting.key, setting.default);
        assert!(active.contains(&line), "{line}");
        active = active.replace(&line, &line[2..]);
        assert!((setting.min..=setting.max).contains(&setting.default));
    }
    fs::write(file, active).unwrap();
    let (config, _) = ReplicaConfig::load(file).unwrap();
    let defaults = (LogConfig::default(), HistoryConfig::default(), NetConfig::default(), LocalConfig::default());
    assert_eq!((config.log, config.history, config.net, config.local), defaults);

    for (cold, fits) in [("attic", true), ("", false), ("data", false), ("data/old", false), (".", false)] {
        let text = fs::read_to_string(&summary.replica_files[1]).unwrap();
        fs::write(file, text.replace("# cold = \"/archive/atlas\"", &format!("cold = {cold:?}"))).unwrap();
        let found = ReplicaConfig::load(file).map(|(config, _)| config.history.cold);
        let is_right = match &found {
            Ok(found) => fits && *found == Some(summary.dir.join("replica-0").join(cold)),
            Err(error) => !fits && error.to_string().contains(&format!("cold = {cold:?} does not fit")),
        };
        assert!(is_right, "{found:?}");
    }
}

#[test]
fn an_existing_cluster_is_never_touched() {
    let (dir, summary) = new_cluster();
    let before = fs::read(&summary.cluster_file).unwrap();
    let options = InitOptions::new(0);
    assert!(matches!(init(&summary.dir, &options), Err(InitError::Exists(_))));
    assert_eq!(fs::read(&summary.cluster_file).unwrap(), before);
    let other = dir.path().join("other");
    fs::create_dir(&other).unwrap();
    fs::write(other.join("file"), "mine").unwrap();
    assert!(matches!(init(&other, &options), Err(InitError::NotEmpty(_))));
    assert_eq!(
        (names(dir.path()), names(&other)),
        (vec!["cluster".to_owned(), "other".to_owned()], vec!["file".to_owned()])
    );
    assert!(matches!(init(&other.join("file"), &options), Err(InitError::Write { .. })));
}

#[test]
fn an_empty_directory_will_do_and_parents_are_made() {
    let dir = tempfile::tempdir().unwrap();
    let empty = dir.path().join("empty");
    fs::create_dir(&empty).unwrap();
    init(&empty, &InitOptions::new(0)).unwrap();
    Cluster::load(&empty.join("cluster.toml")).unwrap();
    init(&dir.path().join("a/b"), &InitOptions { replicas: 5, ..InitOptions::new(0) }).unwrap();
    assert_eq!(names(&dir.path().join("a")), ["b"]);
}

#[test]
fn wrong_options_write_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let good = InitOptions::new(0);
    let failed = |options: InitOptions| init(&dir.path().join("c"), &options).unwrap_err();
    assert!(matches!(failed(InitOptions { replicas: 3, ..good.clone() }), InitError::Replicas(3)));
    assert!(matches!(failed(InitOptions { base_port: 65_533, ..good.clone() }), InitError::Ports { .. }));
    assert!(matches!(failed(InitOptions { base_port: 0, ..good.clone() }), InitError::Ports { .. }));
    assert!(matches!(failed(InitOptions { origin: "a b".to_owned(), ..good.clone() }), InitError::Origin(_)));
    let bad = vec!["a*b".to_owned()];
    assert!(matches!(failed(InitOptions { gateway_write: bad, ..good.clone() }), InitError::Pattern { .. }));
    // Found only while writing: the staging directory goes too.
    assert!(matches!(failed(InitOptions { created_ms: i64::MAX, ..good }), InitError::Created(_)));
    assert!(names(dir.path()).is_empty());
}

/// A new cluster whose first replica's configuration is `text`.
fn with_config(text: &str) -> (TempDir, PathBuf) {
    let (dir, summary) = new_cluster();
    let file = summary.replica_files[0].clone();
    fs::write(&file, text).unwrap();
    (dir, file)
}

const HEAD: &str = "replica = 0\ncluster = \"../cluster.toml\"\nkeys = \"keys\"\ndata = \"/var/atlas\"\n";

#[test]
fn a_replica_reads_what_its_file_says() {
    let more = "listen = \"0.0.0.0:9000\"\ncore = 3\n[log]\ndevice = \"mapped\"\nsegment_mib = 8\n\
        [local]\nmax_open_batches = 2\n[addresses]\nreplica-2 = \"proxy:1\"\n";
    let (_dir, file) = with_config(&format!("{HEAD}{more}"));
    let (config, _) = ReplicaConfig::load(&file).unwrap();
    assert_eq!(config.listen.to_string(), "0.0.0.0:9000");
    assert_eq!((config.data.as_path(), config.core), (Path::new("/var/atlas"), Some(3)));
    assert_eq!(config.log, LogConfig { device: LogDevice::Mapped, segment_mib: 8 });
    assert_eq!(config.local, LocalConfig { max_open_batches: 2, ..LocalConfig::default() });
    let addresses: Vec<_> = config.addresses.iter().map(Address::to_string).collect();
    assert_eq!(addresses, ["127.0.0.1:7450", "127.0.0.1:7451", "proxy:1", "127.0.0.1:7453"]);
}

#[test]
fn every_error_of_a_replica_file_has_its_line_and_key() {
    let (_dir, file) = with_config(HEAD);
    let cases: &[(&str, &str, usize, &str, &str)] = &[
        ("replica = 0", "replica = 4", 1, "replica", "from 0 to 3"),
        ("replica = 0", "replica = 400", 1, "replica", "from 0 to 31"),
        ("replica = 0", "replica = \"0\"", 1, "replica", "a whole number"),
        ("replica = 0\n", "", 1, "replica", "missing field `replica`"),
        ("keys = \"keys\"\n", "", 1, "keys", "missing field `keys`"),
        ("data", "dta", 4, "dta", "unknown field `dta`"),
        ("data", "listen = \"x\"\ndata", 4, "listen", "HOST:PORT"),
        ("data", "core = 5000\ndata", 4, "core", "from 0 to 1023"),
        ("\"/var/atlas\"", "\"d\"\n[log]\ndevice = \"disk\"", 6, "device", "expected `direct` or `mapped`"),
        ("\"/var/atlas\"", "\"d\"\n[log]\nsegment_mib = 0", 6, "log.segment_mib", "from 4 to 1024 (MiB)"),
        ("\"/var/atlas\"", "\"d\"\n[net]\nmax_clients = 60001", 6, "net.max_clients", "from 1 to 60000"),
        ("\"/var/atlas\"", "\"d\"\n[net]\nsend_queue_kib = 4095", 6, "net.send_queue_kib", "from 4096 to"),
        ("\"/var/atlas\"", "\"d\"\n[log]\nsegment_kib = 1", 6, "segment_kib", "unknown field"),
        ("\"/var/atlas\"", "\"d\"\n[net]\nreconnect_min_ms = 2000", 6, "net.reconnect_min_ms", "at most that"),
        ("\"/var/atlas\"", "\"d\"\n[local]\nstatus_interval_ms = \"1s\"", 6, "local.status_interval_ms", "\"1s\" does"),
        ("\"/var/atlas\"", "\"d\"\n[addresses]\nr9 = \"h:1\"", 6, "addresses.r9", "replicas are replica-0, replica-1"),
        ("\"/var/atlas\"", "\"d\"\n[addresses]\nreplica-1 = \"h\"", 6, "addresses.replica-1", "HOST:PORT"),
        ("\"/var/atlas\"", "\"d\"\n[other]", 5, "other", "unknown field `other`"),
    ];
    for (from, to, line, key, says) in cases {
        fs::write(&file, HEAD.replacen(from, to, 1)).unwrap();
        let (found_line, found_key, problem) = explain(ReplicaConfig::load(&file).unwrap_err(), "config.toml");
        let message = problem.to_string();
        assert_eq!((found_line, found_key.as_str()), (*line, *key), "{to}: {message}");
        assert!(message.contains(says), "{to}: {message}");
    }
}

#[test]
fn keys_of_another_replica_or_open_to_others_are_refused() {
    let (_dir, summary) = new_cluster();
    let [first, second] = [0, 1].map(|i| summary.replica_files[i].parent().unwrap().join("keys/log.key"));
    fs::set_permissions(&first, Permissions::from_mode(0o644)).unwrap();
    let error = ReplicaSetup::load(&summary.replica_files[0]).unwrap_err();
    assert!(matches!(error, ConfigError::Key(KeyError::Mode { .. })), "{error}");
    fs::rename(&second, &first).unwrap();
    let error = ReplicaSetup::load(&summary.replica_files[0]).unwrap_err();
    assert!(matches!(&error, ConfigError::OtherKey { path, .. } if path.ends_with("keys/log.key")), "{error}");
    let error = ReplicaSetup::load(&summary.replica_files[1]).unwrap_err();
    assert!(matches!(error, ConfigError::Key(KeyError::Read { .. })), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]
    #[test]
    fn any_bytes_are_a_cluster_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = Cluster::parse(&bytes, Path::new("cluster.toml"));
    }

    /// A good file with bytes overwritten, lines lost, doubled or swapped. What still parses is a whole cluster.
    #[test]
    fn a_changed_file_is_a_cluster_or_an_error_with_a_line(
        bytes in prop::collection::vec((any::<prop::sample::Index>(), 0x20u8..0x7f), 0..3),
        lines in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), 0..3), 0..3),
    ) {
        let mut text = good().into_bytes();
        for (at, byte) in bytes {
            let at = at.index(text.len());
            text[at] = byte;
        }
        let text = String::from_utf8(text).unwrap();
        let mut all: Vec<&str> = text.lines().collect();
        for (from, to, what) in lines {
            let (from, to) = (from.index(all.len()), to.index(all.len()));
            match what {
                0 => { all.remove(from); }
                1 => all.insert(to, all[from]),
                _ => all.swap(from, to),
            }
        }
        let count = all.len();
        match parse(&all.join("\n")) {
            Ok(cluster) => {
                prop_assert!((MIN_REPLICAS..=MAX_REPLICAS).contains(&cluster.n()));
                prop_assert_eq!(cluster.members().len(), cluster.n());
                prop_assert!(cluster.settings().window == cluster.settings().checkpoint_interval);
                prop_assert!(cluster.clients().iter().all(|c| usize::from(c.role.0) < cluster.roles().len()));
            }
            Err(ConfigError::At { line, .. }) => prop_assert!((1..=count + 1).contains(&line)),
            Err(other) => prop_assert!(false, "{}", other),
        }
    }
}

#[test]
fn two_clusters_that_nobody_named_have_different_names() {
    let (one, other) = (InitOptions::new(0).origin, InitOptions::new(0).origin);
    assert_ne!(one, other);
    assert!(one.strip_prefix("atlas.example/plant-").is_some_and(|random| random.len() == 8));
}
