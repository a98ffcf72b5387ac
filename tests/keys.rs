//! Keys registered, used, rotated and revoked on a cluster of real processes, of which no file changes.

use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use atlas::local::{LocalCluster, LocalOptions};
use serde_json::{Value, json};

struct Plant {
    cluster: LocalCluster,
    dir: tempfile::TempDir,
}

impl Plant {
    fn start() -> Self {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let options = LocalOptions {
            program: Some(env!("CARGO_BIN_EXE_atlas").into()),
            gateway_write: vec!["plant/*".to_owned()],
            reason_required: vec!["plant/*:brake*".to_owned()],
            segment_mib: 4,
            ready_timeout: Duration::from_secs(120),
            ..LocalOptions::default()
        };
        let cluster = LocalCluster::start(&dir.path().join("cluster"), 4, &options).unwrap();
        Self { cluster, dir }
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_owned()
    }

    /// Runs it as a client of the cluster's, or with a key file that `path` names.
    fn command(&self, who: &str, line: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_atlas"));
        let identity = self.cluster.identity(who).map_or_else(|| self.dir.path().join(who), Into::into);
        command.args(line).env("ATLAS_CLUSTER", self.cluster.cluster_file()).env("ATLAS_IDENTITY", identity);
        if !line.contains(&"--timeout") && line[..2] != ["key", "new"] {
            command.args(["--timeout", "60"]);
        }
        command.stdin(Stdio::null());
        command
    }

    fn run(&self, who: &str, line: &[&str]) -> (i32, String, String) {
        let output = self.command(who, line).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    }

    fn json(&self, who: &str, line: &[&str]) -> Vec<Value> {
        let (code, out, error) = self.run(who, &[line, &["--json"]].concat());
        assert_eq!(code, 0, "{who} {line:?}: {error}");
        out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn refused(&self, who: &str, line: &[&str], why: &str) {
        let (code, _, error) = self.run(who, line);
        assert!(code == 3 && error.contains(why), "{who} {line:?}: {code} {error}");
    }

    /// Makes a key file; gives the public key.
    fn new_key(&self, name: &str) -> String {
        let (code, out, error) = self.run("operator", &["key", "new", &self.path(name)]);
        assert_eq!(code, 0, "{error}");
        out.trim_end().to_owned()
    }

    fn restart_all(&mut self) {
        (0..4).for_each(|index| self.cluster.kill(index).unwrap());
        (0..4).for_each(|index| self.cluster.restart(index).unwrap());
        self.cluster.wait_ready(4, Duration::from_secs(120), None).unwrap();
    }
}

/// Ends a process whatever becomes of the test.
struct Ending(Child);

impl Drop for Ending {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_key_is_registered_used_rotated_and_revoked_and_that_survives_a_restart() {
    let mut plant = Plant::start();
    let public = plant.new_key("anna.key");
    assert_eq!(std::fs::metadata(plant.path("anna.key")).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(plant.run("operator", &["key", "new", &plant.path("anna.key")]).0, 2, "never overwritten");
    let set = ["set", "plant/t-1", "power=1"];
    let (code, _, error) = plant.run("anna.key", &[&set[..], &["--timeout", "1"]].concat());
    assert!(code == 4 && error.contains("is not in the cluster file"), "{code} {error}");

    // Who may not register; who may not write.
    let anna = plant.path("anna.key");
    let register = ["key", "register", "--key", &anna, "--name", "Anna Müller", "--role", "gateway"];
    plant.refused("operator", &register, "not signed by an administrator (206)");
    plant.refused("administrator", &set, "not permitted for this role (201)");
    let wrong = ["key", "register", "--key", &anna, "--name", "Anna Müller", "--role", "boss"];
    plant.refused("administrator", &wrong, "unknown role (324): boss; the roles are operator, gateway");
    let done = &plant.json("administrator", &[&register[..], &["--reason", "new colleague"]].concat())[0];
    assert_eq!((&done["code"], &done["number"], &done["key"]), (&json!(0), &json!(1), &json!(public)));
    plant.refused("administrator", &register, "key in use (321)");

    // It works as its role says, on replicas whose files are what they were.
    plant.json("anna.key", &set);
    plant.refused("anna.key", &["set", "grid/g", "export=true"], "not permitted for this role (201)");
    assert_eq!(plant.json("anna.key", &["get", "plant/t-1", "power"])[0]["origin"], json!(public));
    plant.refused("anna.key", &["set", "plant/t-1", "brake=released"], "a reason is required (307): plant/t-1 brake");
    plant.json("anna.key", &["set", "plant/t-1", "brake=released", "--reason", "inspection done"]);

    // A new key in the place of the old one, whose watch ends with it.
    let next = plant.new_key("anna-2.key");
    let mut watch = plant.command("anna.key", &["watch", "", "--from", "0.0"]);
    let mut watch = Ending(watch.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    plant.json("administrator", &["key", "rotate", "--key", &next, "--replaces", &anna, "--reason", "new laptop"]);
    for line in [&set[..], &["get", "plant/t-1"], &["get", "plant/t-1", "--unordered"]] {
        plant.refused("anna.key", line, "key revoked (204)");
    }
    assert_eq!(watch.0.wait().unwrap().code(), Some(3));
    plant.json("anna-2.key", &set);

    let rows = plant.json("gateway", &["key", "list"]);
    let names: Vec<_> = rows.iter().map(|row| (&row["name"], &row["role"], row["ended"].is_null())).collect();
    let text = |text: &str| json!(text);
    let expected = [
        (text("operator"), text("operator"), true),
        (text("gateway"), text("gateway"), true),
        (text("administrator"), Value::Null, true),
        (text("Anna Müller"), text("gateway"), false),
        (text("Anna Müller"), text("gateway"), true),
    ];
    assert_eq!(names, expected.each_ref().map(|(name, role, lives)| (name, role, *lives)));
    assert_eq!((&rows[3]["ended"]["successor"], &rows[4]["key"]), (&json!(next), &json!(next)));
    let (code, out, _) = plant.run("gateway", &["key", "list", "--unordered"]);
    assert!(code == 0 && out.contains("(administrator)") && out.contains("replaced"), "{out}");

    plant.json("administrator", &["key", "revoke", "--key", &next, "--reason", "left"]);
    plant.refused("anna-2.key", &set, "key revoked (204)");
    plant.restart_all();
    plant.refused("anna-2.key", &set, "key revoked (204)");
    plant.refused("anna.key", &["get", "plant/t-1", "--unordered"], "key revoked (204)");
    let brake = &plant.json("operator", &["history", "plant/t-1", "brake"])[0];
    assert_eq!((&brake["origin"], &brake["key"]), (&json!("Anna Müller"), &json!(public)), "it stays");
    let told = plant.json("operator", &["history", "*", "--outcome", "all"]);
    let about_keys = told.iter().filter(|row| row["action"].as_str().unwrap().contains("key"));
    let actions: Vec<_> =
        about_keys.map(|row| (row["action"].as_str().unwrap(), row["code"].as_u64().unwrap())).collect();
    // Newest first: the entry that says it was done, then the request that brought it.
    let done = ["key revoked", "revoke key", "key rotated", "rotate key"].map(|action| (action, 0));
    assert_eq!(actions[..4], done);
    let tried = [
        ("register key", 321),
        ("key registered", 0),
        ("register key", 0),
        ("register key", 324),
        ("register key", 206),
    ];
    assert_eq!(actions[4..], tried);
    let revoked = told.iter().find(|row| row["action"] == json!("key revoked")).unwrap();
    assert_eq!((&revoked["origin"], &revoked["reason"]), (&json!("administrator"), &json!("left")));
    assert!(revoked["value"].as_str().unwrap().contains(&next), "{revoked}");
    let by_name = plant.json("operator", &["history", "plant/*", "--by", "Anna Müller"]);
    assert_eq!(by_name.len(), 3, "of both of her keys: {by_name:?}");
    let ended: Vec<_> = plant.json("operator", &["key", "list"]).iter().map(|row| row["ended"].clone()).collect();
    assert_eq!((ended[3]["agreed_time"] == rows[3]["ended"]["agreed_time"], ended[4].is_null()), (true, false));

    // It goes on with the next number. Validity: one that is over, judged by agreed time.
    plant.new_key("bert.key");
    let bert = plant.path("bert.key");
    let line = ["key", "register", "--key", &bert, "--name", "Bert", "--role", "operator", "--until"];
    let done = &plant.json("administrator", &[&line[..], &["2020-01-01T00:00:00Z"]].concat())[0];
    assert_eq!(done["number"], json!(4));
    plant.refused("bert.key", &set, "key not valid at this time (205)");
    plant.refused(
        "administrator",
        &["key", "revoke", "--key", &plant.path("cluster/clients/administrator.key")],
        "(327)",
    );
    plant.cluster.stop().unwrap();
}
