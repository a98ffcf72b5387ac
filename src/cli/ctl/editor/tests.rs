use serde_json::json;

use super::*;

fn words() -> Words {
    let help: Vec<Value> = [
        "help [COMMAND]",
        "status",
        "params [NAME]",
        "set NAME VALUE",
        "configure check [NAME VALUE] | timeout SECONDS | confirm | undo",
        "expert-mode on|off",
        "",
    ]
    .map(|usage| json!({ "usage": usage, "level": "viewer" }))
    .into();
    let params: Vec<Value> = [
        ("local.pool_mib", "at once"),
        ("local.leader_timeout_ms", "at once"),
        ("net.max_clients", "at the next start"),
    ]
    .map(|(name, effect)| json!({ "name": name, "effect": effect }))
    .into();
    Words::of(&help, &params)
}

#[test]
fn words_are_completed_by_what_the_replica_says_it_takes() {
    let words = words();
    let commands = ["configure", "expert-mode", "help", "params", "set", "status"];
    for (typed, begin, expected) in [
        ("", 0, &commands[..]),
        ("s", 0, &["set", "status"]),
        ("  st", 2, &["status"]),
        ("status ", 7, &[]),
        ("help ", 5, &commands),
        ("set ", 4, &["leader_timeout_ms", "pool_mib"]),
        ("set p", 4, &["pool_mib"]),
        ("set pool_mib ", 13, &[]),
        ("params ", 7, &["leader_timeout_ms", "max_clients", "pool_mib"]),
        ("configure ", 10, &["check", "confirm", "timeout", "undo"]),
        ("configure c", 10, &["check", "confirm"]),
        ("configure check ", 16, &["leader_timeout_ms", "pool_mib"]),
        ("configure undo ", 15, &[]),
        ("configure timeout ", 18, &[]),
        ("expert-mode o", 12, &["off", "on"]),
        ("expert-mode on o", 15, &[]),
        ("status;se", 7, &["set"]),
        ("status; set l", 12, &["leader_timeout_ms"]),
        ("nothing ", 8, &[]),
        ("\u{e4}\u{f6} st", 5, &[]),
    ] {
        let expected: Vec<String> = expected.iter().map(|word| (*word).to_owned()).collect();
        assert_eq!(words.complete(typed), (begin, expected), "{typed:?}");
    }
}

#[test]
fn what_is_no_table_completes_nothing() {
    let odd = [json!(null), json!(7), json!({ "usage": 7 }), json!({ "name": {} })];
    let words = Words::of(&odd, &odd);
    assert_eq!(words, Words::default());
    assert_eq!(words.complete("set "), (4, Vec::new()));
}
