//! What `tuning/monitoring` holds, against what replicas export: names, rules by promtool, and a real Prometheus that scrapes four real
//! replicas. Prometheus and promtool are those on the PATH or those that `tests/prometheus/fetch` has put beside the build; without them
//! a line says what was skipped.

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use atlas_dataplane::replica::telemetry::{FAMILIES, Kind};
use serde_json::Value;
use support::{Cluster, PATIENCE, until};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn monitoring(name: &str) -> PathBuf {
    root().join("tuning/monitoring").join(name)
}

fn text(name: &str) -> String {
    fs::read_to_string(monitoring(name)).unwrap()
}

/// A program of Prometheus, or a line that says what is skipped.
fn tool(name: &str, skipped: &str) -> Option<PathBuf> {
    let fetched = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().join("prometheus/usr/bin");
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).chain([fetched]).map(|dir| dir.join(name)).find(|file| file.is_file());
    if found.is_none() {
        eprintln!("\n*** SKIPPED: no {name} here, {skipped}; see tests/prometheus/fetch ***\n");
    }
    found
}

/// Every word of a text that begins like a metric.
fn metrics_in(text: &str) -> BTreeSet<&str> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    words.filter(|word| word.starts_with("atlas_")).collect()
}

fn exported() -> BTreeSet<String> {
    let names = FAMILIES.iter().flat_map(|family| {
        let suffixes: &[&str] = match family.kind {
            Kind::Counter => &["_total"],
            Kind::Gauge => &[""],
            Kind::Histogram => &["_bucket", "_sum", "_count"],
        };
        suffixes.iter().map(|suffix| format!("{}{suffix}", family.name))
    });
    names.collect()
}

/// The queries of all panels and annotations, with what Grafana puts in.
fn queries() -> Vec<String> {
    fn collect(value: &Value, into: &mut Vec<String>) {
        match value {
            Value::Object(fields) => fields.iter().for_each(|(name, value)| match (name.as_str(), value) {
                ("expr", Value::String(query)) => into.push(query.clone()),
                _ => collect(value, into),
            }),
            Value::Array(all) => all.iter().for_each(|value| collect(value, into)),
            _ => {}
        }
    }
    let mut found = Vec::new();
    collect(&serde_json::from_str(&text("grafana-dashboard.json")).unwrap(), &mut found);
    let put = [("$cluster", "plant"), ("$instance", ".*"), ("$__rate_interval", "10s")];
    found
        .iter()
        .map(|query| put.iter().fold(query.clone(), |query, (name, value)| query.replace(name, value)))
        .collect()
}

#[test]
fn rules_and_dashboard_use_metrics_that_are_exported() {
    let exported = exported();
    for name in ["alerts.yml", "alerts-test.yml", "grafana-dashboard.json"] {
        let text = text(name);
        let used = metrics_in(&text);
        assert!(used.len() >= 10, "{name}: {used:?}");
        let unknown: Vec<_> = used.iter().filter(|metric| !exported.contains(**metric)).collect();
        assert!(unknown.is_empty(), "{name} uses {unknown:?}, which no replica exports");
    }
    let queries = queries();
    assert!(queries.len() > 30 && queries.iter().all(|query| !query.contains('$')), "{queries:#?}");
    // Panels stand beside and below each other, and each has a title.
    let dashboard: Value = serde_json::from_str(&text("grafana-dashboard.json")).unwrap();
    let mut taken = BTreeSet::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        assert!(panel["title"].as_str().is_some_and(|title| !title.is_empty()), "{panel}");
        let at = |field: &str| panel["gridPos"][field].as_u64().unwrap();
        for x in at("x")..at("x") + at("w") {
            for y in at("y")..at("y") + at("h") {
                assert!(x < 24 && taken.insert((x, y)), "{} covers another panel", panel["title"]);
            }
        }
    }
}

#[test]
fn every_alert_has_a_severity_a_summary_and_an_action_and_is_explained() {
    let (rules, guide) = (text("alerts.yml"), fs::read_to_string(root().join("docs/operating.md")).unwrap());
    let alerts: Vec<&str> = rules.split("- alert: ").skip(1).collect();
    assert!(alerts.len() >= 20, "{} alerts", alerts.len());
    let mut names = BTreeSet::new();
    for alert in alerts {
        let name = alert.lines().next().unwrap();
        assert!(names.insert(name), "{name} stands there twice");
        for part in ["expr: ", "summary: ", "action: "] {
            assert!(alert.contains(part), "{name} has no {part}");
        }
        assert!(["{severity: critical}", "{severity: warning}"].iter().any(|it| alert.contains(it)), "{name}");
        assert!(guide.contains(&format!("| `{name}` |")), "docs/operating.md does not explain {name}");
    }
    let explained = guide.lines().filter_map(|line| line.strip_prefix("| `Atlas")?.split('`').next());
    for name in explained {
        assert!(
            names.contains(format!("Atlas{name}").as_str()),
            "docs/operating.md explains Atlas{name}, which is no alert"
        );
    }
}

#[test]
fn promtool_takes_rules_and_configuration_and_the_rules_do_what_their_tests_say() {
    let Some(promtool) = tool("promtool", "rules are not checked") else { return };
    for arguments in
        [["check", "rules", "alerts.yml"], ["check", "config", "prometheus.yml"], ["test", "rules", "alerts-test.yml"]]
    {
        let output = Command::new(&promtool).args(arguments).current_dir(monitoring("")).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.contains("SUCCESS"), "{arguments:?}: {said}");
    }
}

/// A Prometheus that ends with the test.
struct Prometheus {
    child: Child,
    address: SocketAddr,
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Prometheus {
    fn start(program: &Path, dir: &Path) -> Self {
        let address = free_address();
        let said = fs::File::create(dir.join("prometheus.log")).unwrap();
        let child = Command::new(program)
            .arg(format!("--config.file={}", dir.join("prometheus.yml").display()))
            .arg(format!("--storage.tsdb.path={}", dir.join("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .stdout(said.try_clone().unwrap())
            .stderr(said)
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        Self { child, address }
    }

    /// `data` of the answer to a request of the HTTP API; `None` while there is none.
    fn get(&self, path: &str) -> Option<Value> {
        let mut stream = TcpStream::connect(self.address).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        stream.write_all(format!("GET /api/v1/{path} HTTP/1.0\r\nhost: x\r\n\r\n").as_bytes()).ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        let object: Value = serde_json::from_str(text.split_once("\r\n\r\n")?.1).ok()?;
        assert!(object["status"] == "success" || object["errorType"] != "bad_data", "{path}: {object}");
        (object["status"] == "success").then(|| object["data"].clone())
    }

    fn query(&self, query: &str) -> Vec<Value> {
        let encoded: String = query.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let data = self.get(&format!("query?query={encoded}")).unwrap_or_else(|| panic!("no answer to {query}"));
        data["result"].as_array().unwrap().clone()
    }

    /// Every rule: its name, health and state.
    fn rules(&self) -> Vec<(String, String, String)> {
        let data = self.get("rules").unwrap_or_default();
        let groups = data["groups"].as_array().cloned().unwrap_or_default();
        let rules = groups.iter().flat_map(|group| group["rules"].as_array().cloned().unwrap_or_default());
        let word = |rule: &Value, field: &str| rule[field].as_str().unwrap_or_default().to_owned();
        rules
            .map(|rule| (word(&rule, "name"), word(&rule, "health") + &word(&rule, "lastError"), word(&rule, "state")))
            .collect()
    }
}

/// An address on the loopback on which nobody listened a moment ago.
fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

#[test]
fn a_real_prometheus_scrapes_four_replicas_and_evaluates_every_rule_and_panel() {
    let Some(program) = tool("prometheus", "no real Prometheus scrapes the replicas") else { return };
    let addresses: Vec<SocketAddr> = (0..4).map(|_| free_address()).collect();
    let mut cluster = Cluster::start_with(|file| {
        let index = (0..4).find(|index| file.to_string_lossy().contains(&format!("replica-{index}/"))).unwrap();
        support::set(file, "control", &format!("metrics_listen = \"{}\"", addresses[index]));
    });
    // As it is in the repository, with these addresses and shorter pauses.
    let dir = cluster.scratch("prometheus");
    fs::create_dir(&dir).unwrap();
    fs::copy(monitoring("alerts.yml"), dir.join("alerts.yml")).unwrap();
    let mut config = text("prometheus.yml").replace("_interval: 10s", "_interval: 1s");
    for (index, address) in addresses.iter().enumerate() {
        let example = format!("10.0.0.{}:9460", index + 1);
        assert!(config.contains(&format!("[\"{example}\"]")), "{config}");
        config = config.replace(&format!("[\"{example}\"]"), &format!("[\"{address}\"]"));
    }
    fs::write(dir.join("prometheus.yml"), config).unwrap();
    let prometheus = Prometheus::start(&program, &dir);
    let said = || fs::read_to_string(dir.join("prometheus.log")).unwrap_or_default();

    let targets = || {
        prometheus.get("targets?state=active").unwrap_or_default()["activeTargets"]
            .as_array()
            .cloned()
            .unwrap_or_default()
    };
    until(&format!("all four targets are up: {}", said()), || {
        let targets = targets();
        targets.len() == 4 && targets.iter().all(|target| target["health"] == "up" && target["lastError"] == "")
    });
    let mut client = cluster.client();
    until("what was executed is scraped", || {
        client.write_one();
        let executed = prometheus.query("min(rate(atlas_executed_requests_total[10s])) > 0");
        !executed.is_empty()
    });
    let alerts = text("alerts.yml").matches("- alert: ").count();
    until("every rule was evaluated without an error", || {
        let rules = prometheus.rules();
        rules.len() == alerts && rules.iter().all(|(_, health, _)| health == "ok")
    });
    let raised: Vec<_> = prometheus.rules().into_iter().filter(|(_, _, state)| state != "inactive").collect();
    assert!(raised.is_empty(), "a healthy cluster raises {raised:?}");
    // Every metric came over, and each panel that shows more than exceptions has something to show.
    for metric in exported() {
        assert_eq!(prometheus.query(&format!("count(count by (instance) ({metric}))"))[0]["value"][1], "4", "{metric}");
    }
    for query in queries() {
        client.write_one();
        let exception = ["> 0", "== 0"].iter().any(|end| query.ends_with(end));
        assert!(!prometheus.query(&query).is_empty() || exception, "{query} shows nothing");
    }
    // And one that is gone is noticed.
    cluster.kill(3);
    until("the rule for a replica that is down notices it", || {
        prometheus.rules().iter().any(|(name, _, state)| name == "AtlasReplicaDown" && state != "inactive")
    });
    let [down] = &prometheus.query("up == 0")[..] else { panic!("one is down: {:?}", prometheus.query("up")) };
    assert_eq!((&down["metric"]["member"], &down["metric"]["cluster"]), (&"replica-3".into(), &"plant".into()));
}
