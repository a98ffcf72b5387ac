//! Settings that change while replicas run, and what changes with them: shares, group commit, and where threads run.

mod support;

use std::collections::BTreeMap;
use std::fs;

use atlas_control::client::Client as Ctl;
use atlas_dataplane::cluster::ReplicaConfig;
use atlas_dataplane::cluster::placement::CoreSet;
use atlas_dataplane::cluster::settings::LocalConfig;
use serde_json::Value;
use support::ctl::{ask, connect, done};
use support::{Cluster, until};

/// The rows of an answer, by the value of their first column.
fn rows(ctl: &mut Ctl, command: &str, by: &str) -> BTreeMap<String, Value> {
    done(ctl, "json on");
    let reply = done(ctl, command);
    done(ctl, "json off");
    let object: Value = serde_json::from_str(&reply.lines[0]).unwrap();
    let rows = object["data"]["rows"].as_array().unwrap().clone();
    rows.into_iter().map(|row| (row[by].as_str().unwrap().to_owned(), row)).collect()
}

/// Every thread of a replica that is the program's own: its name and cores.
fn threads(cluster: &Cluster, index: usize) -> Vec<(u32, String, String)> {
    let pid = cluster.local.pid(index).unwrap();
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let read = |id: u32| {
        let file = |name: &str| fs::read_to_string(format!("/proc/{pid}/task/{id}/{name}")).ok();
        let cores = file("status")?;
        let cores = cores.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?.trim().to_owned();
        Some((id, file("comm")?.trim().to_owned(), cores))
    };
    let all = tasks.filter_map(|task| read(task.ok()?.file_name().to_str()?.parse().ok()?));
    all.filter(|(_, name, _)| !name.starts_with("iou-")).collect()
}

fn cores_of(cluster: &Cluster, index: usize) -> (String, Vec<String>) {
    let pid = cluster.local.pid(index).unwrap();
    let (own, others): (Vec<_>, Vec<_>) = threads(cluster, index).into_iter().partition(|(id, ..)| *id == pid);
    (own[0].2.clone(), others.into_iter().map(|(.., cores)| cores).collect())
}

#[test]
fn every_setting_is_listed_tried_and_undone() {
    let cluster = Cluster::start();
    let mut client = cluster.client();
    let mut operator = connect(&cluster, 0, "operator");
    let before = rows(&mut operator, "params", "name");
    for setting in LocalConfig::TABLE {
        let row = &before[&format!("local.{}", setting.key)];
        assert_eq!((&row["value"], &row["effect"]), (&setting.default.into(), &"at once".into()), "{}", setting.key);
        assert!(row["what"].as_str().unwrap().len() > 30 && !row["unit"].as_str().unwrap().is_empty());
        let other = if setting.default == setting.max { setting.min } else { setting.default + 1 };
        assert_eq!(ask(&mut operator, &format!("set {} {other}", setting.key)).code, 202, "{}", setting.key);
        let beyond = ask(&mut operator, &format!("set {} {}", setting.key, u128::from(setting.max) + 1));
        assert!(beyond.code == 402 && beyond.text.contains(&setting.max.to_string()), "{beyond:?}");
    }
    client.write_one();
    let tried = done(&mut operator, "configure check");
    assert_eq!(tried.lines.len(), LocalConfig::TABLE.len() + 1, "{tried:?}");
    done(&mut operator, "configure undo");
    let after = rows(&mut operator, "params", "name");
    assert!(before.iter().all(|(name, row)| after[name]["value"] == row["value"]));
    client.write_one();
    let log = cluster.log_text(0);
    for setting in LocalConfig::TABLE {
        assert!(
            log.contains(&format!("{} is {} again: undone by operator (uid ", setting.key, setting.default)),
            "{log}"
        );
    }
    cluster.stop().unwrap();
}

/// A share of the pool that is too small for a bundle, and one that is not.
#[test]
fn a_smaller_share_of_the_pool_refuses_what_a_larger_one_takes() {
    let cluster = Cluster::start_lines(Vec::new(), vec![("local", "pool_mib = 1".to_owned())], |_| {});
    let mut client = cluster.client();
    client.write_long(64);
    for index in 0..4 {
        done(&mut connect(&cluster, index, "operator"), "configure timeout 3600");
        // 16 KiB for each client; the bundle has some 40.
        done(&mut connect(&cluster, index, "operator"), "set pool_shares 64");
    }
    let refused: Vec<u64> = (0..4).map(|index| cluster.counter(index, "refused.500")).collect();
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| client.write_long(64));
        (0..4).for_each(|index| cluster.wait_counted(index, "refused.500", refused[index]));
        assert!(!waits.is_finished(), "nothing was taken");
        (0..4).for_each(|index| drop(done(&mut connect(&cluster, index, "operator"), "configure undo")));
        waits.join().unwrap();
    });
    cluster.assert_well(&mut client, &[0, 1, 2, 3]);
}

/// At the leader a commit takes at least as long as the others' votes wait: theirs begin when its own proposal is there.
#[test]
fn votes_that_wait_for_others_make_commits_later_and_none_is_lost() {
    let cluster = Cluster::start();
    let mut client = cluster.client();
    client.write_one();
    let mut operators: Vec<Ctl> = (0..4).map(|index| connect(&cluster, index, "operator")).collect();
    for operator in &mut operators {
        assert_eq!(ask(operator, "set group_commit_us 2000").code, 202);
        done(operator, "configure confirm");
    }
    let view = |operators: &mut [Ctl]| {
        let shown = done(&mut operators[0], "view").lines;
        let value = |name: &str| {
            let line = shown.iter().find(|line| line.split_whitespace().next() == Some(name)).unwrap();
            line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
        };
        (value("view"), value("leader"))
    };
    until("there are commits of one view whose time counts", || {
        let before = view(&mut operators);
        let leader = before.1 as usize;
        done(&mut operators[leader], "latency reset");
        for _ in 0..60 {
            client.write_one();
        }
        if view(&mut operators) != before {
            return false;
        }
        let commits = rows(&mut operators[leader], "latency", "what").remove("atlas_commit_seconds").unwrap();
        // What was published last may lack the newest; some votes are written along with what does not wait.
        assert!(commits["count"].as_u64().unwrap() >= 40, "{commits}");
        assert!(commits["p50_us"].as_u64().unwrap() >= 1_800, "{commits}");
        true
    });
    operators.iter_mut().for_each(|operator| drop(done(operator, "set group_commit_us 0")));
    cluster.assert_well(&mut client, &[0, 1, 2, 3]);
}

#[test]
fn threads_move_to_other_cores_while_the_replica_works_and_come_back() {
    let mut cluster = Cluster::start();
    let mut client = cluster.client();
    client.write_one();
    let (found, _) = cores_of(&cluster, 1);
    let available: CoreSet = found.parse().unwrap();
    let all: Vec<usize> = available.iter().collect();
    let mut operator = connect(&cluster, 1, "operator");
    // One that is not there.
    for (wrong, code, says) in [
        ("core 1023", 402, "this process may not use core 1023; it may use "),
        ("core 5000", 402, "it may use "),
        ("core first", 402, "a core's number, or none"),
        ("helper_cores 0-1023", 402, "it may use "),
        ("helper_cores 3-1", 402, "cores such as 0-3,8"),
    ] {
        let reply = ask(&mut operator, &format!("set {wrong}"));
        assert!(reply.code == code && reply.text.contains(says), "{wrong}: {reply:?}");
        assert_eq!(ask(&mut operator, &format!("configure check {wrong}")).code, code);
    }
    let own = all[0];
    let reply = ask(&mut operator, &format!("set placement.core {own}"));
    assert_eq!(reply.code, 202, "{reply:?}");
    // The others keep off it, where there is another.
    let others = if all.len() > 1 { available.without(&[own].into_iter().collect()) } else { available };
    let is_placed = |cluster: &Cluster| {
        let (data, helpers) = cores_of(cluster, 1);
        data == own.to_string() && helpers.iter().all(|cores| *cores == others.to_string())
    };
    until("all threads are where they belong", || is_placed(&cluster));
    client.write_one();
    let shown = rows(&mut operator, "cores", "what");
    assert_eq!(shown[&format!("the replica, pinned to core {own}")]["cores"], own.to_string());
    // Nobody confirms it.
    done(&mut operator, "configure timeout 1");
    until("they are back", || {
        let (data, helpers) = cores_of(&cluster, 1);
        data == found && helpers.iter().all(|cores| *cores == found)
    });
    until("it says so", || {
        cluster.log_text(1).contains("belongs on any core, all others on any again: the change was not")
    });
    client.write_one();
    // Both, kept, saved, and there after a start.
    done(&mut operator, "configure timeout 3600");
    done(&mut operator, &format!("set core {own}"));
    let helpers = all.last().unwrap();
    let named = ask(&mut operator, &format!("set helper_cores {helpers}"));
    if all.len() == 1 {
        assert!(named.code == 402 && named.text.contains("no other is left"), "{named:?}");
        return cluster.assert_well(&mut client, &[0, 1, 2, 3]);
    }
    assert_eq!(named.code, 202, "{named:?}");
    let none_left = ask(&mut operator, &format!("set core {helpers}"));
    assert!(none_left.code == 402 && none_left.text.contains("no other is left"), "{none_left:?}");
    done(&mut operator, "configure confirm");
    let mut admin = connect(&cluster, 1, "admin");
    assert!(done(&mut admin, "config").text.starts_with("2 differ"));
    done(&mut admin, "save");
    assert!(done(&mut admin, "config").text.starts_with("0 differ"));
    let (config, _) = ReplicaConfig::load(cluster.local.replica_file(1).unwrap()).unwrap();
    assert_eq!((config.core, config.helper_cores), (Some(own), [*helpers].into_iter().collect::<CoreSet>().into()));
    cluster.kill(1);
    cluster.restart(1);
    cluster.wait_all();
    drop(connect(&cluster, 1, "viewer"));
    until("it starts there", || {
        let (data, others) = cores_of(&cluster, 1);
        data == own.to_string() && others.iter().all(|cores| *cores == helpers.to_string())
    });
    cluster.assert_well(&mut client, &[0, 1, 2, 3]);
}

/// What the file says of cores that are not there is left out, and told.
#[test]
fn a_start_on_another_host_goes_on_without_cores_that_are_not_there() {
    let mut cluster = Cluster::start();
    cluster.kill(3);
    let file = cluster.local.replica_file(3).unwrap().to_owned();
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, format!("core = 1023\nhelper_cores = \"1000-1022\"\n{text}")).unwrap();
    cluster.restart(3);
    cluster.wait_all();
    assert!(cluster.log_text(3).contains("this process may not use core 1023; it may use"), "{}", cluster.log_text(3));
    let shown = done(&mut connect(&cluster, 3, "viewer"), "config");
    assert!(shown.text.starts_with("2 differ"), "{shown:?}");
    cluster.assert_well(&mut cluster.client(), &[0, 1, 2, 3]);
}
