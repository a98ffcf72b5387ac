//! Commands that show: from the board wherever it has what is asked for, so that they cost the replica nothing.

use std::rc::Rc;

use atlas_dataplane::cluster::ReplicaConfig;
use atlas_dataplane::cluster::placement::Live;
use atlas_dataplane::cluster::settings::{HistoryConfig, LocalConfig, LogConfig, NetConfig, Setting};
use atlas_dataplane::flight::Stage;
use atlas_dataplane::histogram::{bucket_end_us, quantile_us};
use atlas_dataplane::replica::oversight::{Answer, Order};
use atlas_dataplane::replica::telemetry::{Kind, Label, SUSPICIONS};
use serde_json::{Value, json};

use super::fault;
use crate::desk::{Desk, wall_ms};
use crate::reply::{Reply, Status};
use crate::trial::{CORE, HELPER_CORES, values};

fn yes(value: u64) -> Value {
    (value != 0).into()
}

fn free_bytes(desk: &Desk) -> Value {
    Some(desk.get("atlas_free_bytes")).filter(|free| *free != u64::MAX).into()
}

/// A time as people and programs read it.
pub(super) fn time(ms: u64) -> String {
    jiff::Timestamp::from_millisecond(i64::try_from(ms).unwrap_or(i64::MAX))
        .map_or_else(|_| ms.to_string(), |time| time.to_string())
}

/// What stands first: whether all is well.
fn summary(desk: &Desk) -> String {
    let is = |name| desk.get(name) != 0;
    let states = [
        (is("atlas_abstains"), "does not vote: its records were lost"),
        (is("atlas_transfer_active"), "takes history and state from others"),
        (is("atlas_low_space"), "takes no writes for want of disk space"),
        (is("atlas_paused"), "paused"),
        (!is("atlas_view_active"), "between two views"),
    ];
    let found: Vec<&str> = states.iter().filter(|(holds, _)| *holds).map(|(_, text)| *text).collect();
    if found.is_empty() { "serves".to_owned() } else { found.join("; ") }
}

pub(super) fn status(desk: &Rc<Desk>) -> Reply {
    let heartbeat_ms = desk.get("atlas_heartbeat_timestamp_seconds") / 1_000;
    let links =
        (0..desk.facts.members.len() as u64).map(|replica| desk.board.get("atlas_link_up", Label::Number(replica)));
    Reply::done(summary(desk)).fields(vec![
        ("replica", desk.facts.config.replica.0.into()),
        ("cluster", desk.facts.origin.clone().into()),
        ("version", env!("CARGO_PKG_VERSION").into()),
        ("pid", std::process::id().into()),
        ("uptime_s", (desk.get("atlas_uptime_seconds") / 1_000_000).into()),
        ("heartbeat_age_ms", wall_ms().saturating_sub(heartbeat_ms).into()),
        ("view", desk.get("atlas_view").into()),
        ("leader", desk.get("atlas_leader_index").into()),
        ("view_active", yes(desk.get("atlas_view_active"))),
        ("executed_sequence", desk.get("atlas_executed_sequence").into()),
        ("low_watermark", desk.get("atlas_low_watermark_sequence").into()),
        ("history_entries", desk.get("atlas_history_entries").into()),
        ("certified_entries", desk.get("atlas_history_certified_entries").into()),
        ("requests_per_second", json!((desk.rate() * 10.0).round() / 10.0)),
        ("links", links.sum::<u64>().into()),
        ("clients", desk.get("atlas_clients").into()),
        ("log_bytes", desk.get("atlas_log_bytes").into()),
        ("free_bytes", free_bytes(desk)),
        ("paused", yes(desk.get("atlas_paused"))),
        ("on_trial", desk.trial.borrow().open(desk.now_us()).is_some().into()),
    ])
}

pub(super) fn replicas(desk: &Rc<Desk>) -> Reply {
    let (own, leader) = (u64::from(desk.facts.config.replica.0), desk.get("atlas_leader_index"));
    let row = |(replica, (name, address)): (u64, &(String, String))| {
        let label = Label::Number(replica);
        vec![
            replica.into(),
            name.clone().into(),
            address.clone().into(),
            (replica == own).into(),
            yes(desk.board.get("atlas_link_up", label)),
            (replica == leader).into(),
            desk.board.get("atlas_misbehaviour", label).into(),
        ]
    };
    let rows: Vec<Vec<Value>> = (0..).zip(&desk.facts.members).map(row).collect();
    let columns = ["replica", "name", "address", "own", "linked", "leader", "misbehaviour"];
    Reply::done(format!("{} replicas", rows.len())).table(&columns, &rows, 0)
}

pub(super) fn view(desk: &Rc<Desk>) -> Reply {
    let mut fields = vec![
        ("view", desk.get("atlas_view").into()),
        ("leader", desk.get("atlas_leader_index").into()),
        ("active", yes(desk.get("atlas_view_active"))),
        ("abstains", yes(desk.get("atlas_abstains"))),
        ("views_left", desk.get("atlas_views_left").into()),
        ("views_begun", desk.get("atlas_views_begun").into()),
    ];
    let names = ["suspected_idle", "suspected_absent", "suspected_slow", "suspected_unfair"];
    for (name, reason) in names.into_iter().zip(SUSPICIONS) {
        fields.push((name, desk.board.get("atlas_suspicions", Label::Name(reason)).into()));
    }
    Reply::done(summary(desk)).fields(fields)
}

pub(super) fn log(desk: &Rc<Desk>) -> Reply {
    let sync = histogram(desk, "atlas_log_sync_seconds");
    let quantile = |part| quantile_us(&sync[1..], part).into();
    Reply::done(if desk.get("atlas_low_space") == 0 { "writes" } else { "takes no new writes: low on space" }).fields(
        vec![
            ("staged_record", desk.get("atlas_log_staged_record").into()),
            ("durable_record", desk.get("atlas_log_durable_record").into()),
            ("backlog_records", desk.get("atlas_log_backlog_records").into()),
            ("bytes", desk.get("atlas_log_bytes").into()),
            ("free_bytes", free_bytes(desk)),
            ("low_space_mib", desk.running().low_space_mib.into()),
            ("syncs", sync[1..].iter().sum::<u64>().into()),
            ("sync_p50_us", quantile(0.5)),
            ("sync_p99_us", quantile(0.99)),
            ("full", desk.get("atlas_log_full").into()),
        ],
    )
}

pub(super) fn sessions(desk: &Rc<Desk>) -> Reply {
    let (window, each) = desk.facts.session_limits;
    Reply::done("sessions").fields(vec![
        ("open", desk.get("atlas_sessions").into()),
        ("identities", desk.get("atlas_identities").into()),
        ("most_of_an_identity", each.into()),
        ("window_requests", window.into()),
    ])
}

async fn rows(desk: &Rc<Desk>, order: Order) -> Result<(Vec<Vec<String>>, u64), Reply> {
    match desk.question(order).await {
        Ok(Answer::Rows { rows, more }) => Ok((rows, more)),
        Ok(_) => Err(Reply::new(Status::FAILED, "the replica answered something else; this is a fault in Atlas")),
        Err(error) => Err(fault(error)),
    }
}

/// A number where it is one.
fn value(text: String) -> Value {
    text.parse::<u64>().map_or(Value::String(text), Into::into)
}

pub(super) async fn clients(desk: &Rc<Desk>) -> Reply {
    let (rows, more) = match rows(desk, Order::Clients).await {
        Ok(found) => found,
        Err(reply) => return reply,
    };
    // A name may look like a number, and stays one.
    let cells = |row: Vec<String>| {
        let mut cells: Vec<Value> = row.into_iter().map(Value::String).collect();
        if let Some(Value::String(count)) = cells.get_mut(2).map(Value::take) {
            cells[2] = value(count);
        }
        cells
    };
    let rows: Vec<_> = rows.into_iter().map(cells).collect();
    let text = format!("{} identities with {} connections", rows.len() as u64 + more, desk.get("atlas_clients"));
    Reply::done(text).table(&["name", "key", "connections"], &rows, more)
}

pub(super) async fn evidence(desk: &Rc<Desk>) -> Reply {
    let (rows, more) = match rows(desk, Order::Evidence).await {
        Ok(found) => found,
        Err(reply) => return reply,
    };
    let cells = |row: Vec<String>| {
        let mut cells: Vec<Value> = row.into_iter().map(value).collect();
        if let Some(at) = cells.get_mut(3) {
            *at = at.as_u64().filter(|ms| *ms > 0).map(time).into();
        }
        cells
    };
    let rows: Vec<_> = rows.into_iter().map(cells).collect();
    let text = if rows.is_empty() { "no misbehaviour was seen".to_owned() } else { format!("{} kinds", rows.len()) };
    Reply::done(text).table(&["replica", "kind", "count", "first", "what"], &rows, more)
}

pub(super) fn queues(desk: &Rc<Desk>) -> Reply {
    let local = desk.running();
    let row = |what: &str, name: &str, limit: Value| vec![what.into(), desk.get(name).into(), limit];
    let rows = vec![
        row("bundles in the pool", "atlas_pool_bundles", Value::Null),
        row("bytes in the pool", "atlas_pool_bytes", (local.pool_mib << 20).into()),
        row("sequences kept", "atlas_slots", Value::Null),
        row("records before the log", "atlas_log_backlog_records", 256.into()),
        row("reads parked", "atlas_parked_reads", atlas_dataplane::replica::MAX_PARKED.into()),
        row("clients connected", "atlas_clients", desk.facts.config.net.max_clients.into()),
        row("receives without a buffer", "atlas_starved_receives", Value::Null),
        row("connections turned away", "atlas_turned_away_connections", Value::Null),
    ];
    Reply::done("queues").table(&["what", "now", "limit"], &rows, 0)
}

fn histogram(desk: &Desk, name: &str) -> Vec<u64> {
    let series = desk.board.series().iter().find(|series| series.family.name == name);
    series.map_or_else(|| vec![0, 0], |series| desk.board.of(series))
}

/// A row of times: count, mean, quantiles and the longest, us.
fn times(what: &str, sum_us: u64, buckets: &[u64]) -> Vec<Value> {
    let count: u64 = buckets.iter().sum();
    let most = buckets.iter().rposition(|count| *count > 0);
    let most = most.and_then(|place| bucket_end_us(place).map(|end| end - 1));
    let mut row: Vec<Value> = vec![what.into(), count.into(), sum_us.checked_div(count).into()];
    row.extend([0.5, 0.9, 0.99, 0.999].map(|part| Value::from(quantile_us(buckets, part))));
    row.push(most.into());
    row
}

pub(super) fn latency(desk: &Rc<Desk>) -> Reply {
    let baseline = desk.baseline.borrow();
    let mut rows = Vec::new();
    for series in desk.board.series().iter().filter(|series| series.family.kind == Kind::Histogram) {
        let mut values = desk.board.of(series);
        if let Some((before, _)) = &*baseline {
            let before = before.get(series.first..series.first + series.values()).unwrap_or_default();
            values.iter_mut().zip(before).for_each(|(value, before)| *value = value.wrapping_sub(*before));
        }
        rows.push(times(series.family.name, values[0], &values[1..]));
    }
    desk.look_at_stages();
    let stages = desk.stages.borrow();
    rows.extend(stages.0.times().map(|(name, taken)| times(&format!("stage {name}"), taken.sum_us(), taken.buckets())));
    let since = baseline.as_ref().map_or_else(|| "the start".to_owned(), |(_, ms)| time(*ms));
    let columns = ["what", "count", "mean_us", "p50_us", "p90_us", "p99_us", "p999_us", "max_us"];
    let text = format!(
        "times since {since}; quantiles are at most 1/16 above; stages are those of one bundle of {}",
        desk.running().trace_sampling
    );
    Reply::done(text).table(&columns, &rows, 0)
}

pub(super) fn cores(desk: &Rc<Desk>) -> Reply {
    let (threads, more) = desk.threads.borrow_mut().look(desk.live().placement.core);
    let rows: Vec<Vec<Value>> = threads
        .into_iter()
        .map(|thread| {
            let share = thread.share.map_or(Value::Null, |share| json!((share * 1_000.0).round() / 10.0));
            vec![
                thread.name.into(),
                thread.id.into(),
                thread.allowed.into(),
                thread.last_core.into(),
                json!((thread.used_s * 1_000.0).round() / 1_000.0),
                share,
                thread.work.into(),
            ]
        })
        .collect();
    let (up_us, busy_us) = (desk.get("atlas_uptime_seconds"), desk.get("atlas_busy_seconds"));
    let busy = if up_us == 0 { 0.0 } else { busy_us as f64 * 100.0 / up_us as f64 };
    let of = |name: &str, stage: &'static str| desk.board.get(name, Label::Name(stage));
    let stages = Stage::NAMES.into_iter().filter(|stage| of("atlas_round_busy_seconds", stage) > 0);
    let stages = stages.map(|stage| {
        let part = of("atlas_round_busy_seconds", stage) as f64 * 100.0 / busy_us.max(1) as f64;
        format!("{stage} {part:.1} %")
    });
    let stalls = Stage::NAMES.into_iter().filter(|stage| of("atlas_stalls", stage) > 0);
    let stalls: Vec<String> = stalls.map(|stage| format!("{} of {stage}", of("atlas_stalls", stage))).collect();
    let text = format!(
        "the replica's thread is busy {busy:.1} % of the time ({}); longest round {} us; stalls: {}",
        stages.collect::<Vec<_>>().join(", "),
        desk.get("atlas_longest_round_seconds"),
        if stalls.is_empty() { "none".to_owned() } else { stalls.join(", ") },
    );
    let columns = ["thread", "id", "cores", "last_core", "cpu_s", "cpu_percent", "what"];
    Reply::done(text).table(&columns, &rows, more)
}

pub(super) fn errors(desk: &Rc<Desk>) -> Reply {
    let errors = desk.errors.borrow();
    let row = |(name, seen): (&String, &crate::desk::Seen)| {
        vec![name.clone().into(), seen.count.into(), time(seen.first_ms).into(), time(seen.last_ms).into()]
    };
    let rows: Vec<Vec<Value>> = errors.iter().map(row).collect();
    Reply::done(format!("{} kinds of errors", rows.len())).table(&["error", "count", "first", "last"], &rows, 0)
}

/// What is known of one setting.
struct Shown {
    /// As the file has it, with its section.
    full: String,
    key: &'static str,
    value: Value,
    default: Value,
    bounds: [Value; 2],
    unit: String,
    what: String,
    /// Whether it changes at once.
    live: bool,
}

/// Every setting of a replica's file that is a number or a list of cores.
fn settings(config: &ReplicaConfig) -> Vec<Shown> {
    fn of(section: &str, table: &'static [Setting], values: impl Iterator<Item = (&'static str, u64)>) -> Vec<Shown> {
        let shown = |(setting, (_, value)): (&'static Setting, (&str, u64))| Shown {
            full: format!("{section}.{}", setting.key),
            key: setting.key,
            value: value.into(),
            default: setting.default.into(),
            bounds: [setting.min.into(), setting.max.into()],
            unit: setting.unit.to_owned(),
            what: setting.doc.iter().map(|line| line.trim()).collect::<Vec<_>>().join(" "),
            live: section == LocalConfig::SECTION,
        };
        table.iter().zip(values).map(shown).collect()
    }
    let mut all = of(LocalConfig::SECTION, LocalConfig::TABLE, config.local.numbers());
    all.extend(placement(config));
    all.extend(of(LogConfig::SECTION, LogConfig::TABLE, config.log.numbers()));
    all.extend(of(NetConfig::SECTION, NetConfig::TABLE, config.net.numbers()));
    all.extend(of(HistoryConfig::SECTION, HistoryConfig::TABLE, config.history.numbers()));
    all
}

/// The settings of where threads run.
fn placement(config: &ReplicaConfig) -> [Shown; 2] {
    let values =
        |name: &str| values(&config.live()).find(|(key, _)| *key == name).map_or(Value::Null, |(_, value)| value);
    let shown = |key: &'static str, unit: String, what: &str| Shown {
        full: key.to_owned(),
        key,
        value: values(key),
        default: "none".into(),
        bounds: [Value::Null, Value::Null],
        unit,
        what: what.to_owned(),
        live: true,
    };
    let available = atlas_dataplane::cores::available();
    [
        shown(
            CORE,
            format!("a core of {available}, or none"),
            "The core of the thread that orders and executes; it moves there, and all others keep off it. none: the system chooses.",
        ),
        shown(
            HELPER_CORES,
            format!("cores of {available}, or none"),
            "Where all other threads run: the management plane, and those that write history, snapshots and segments. none: where the \
             process was started.",
        ),
    ]
}

fn running(desk: &Desk) -> ReplicaConfig {
    let Live { local, placement } = desk.live();
    ReplicaConfig { local, core: placement.core, helper_cores: placement.helpers, ..desk.facts.config.clone() }
}

pub(super) fn config(desk: &Rc<Desk>) -> Reply {
    // A pipe would hold up everybody, and whatever is longer than such a file is not read.
    for path in [&desk.facts.file, &desk.facts.config.cluster_file] {
        if !std::fs::metadata(path).is_ok_and(|metadata| metadata.is_file()) {
            return Reply::new(Status::FAILED, format!("{} is no regular file now", path.display()));
        }
    }
    let file = match ReplicaConfig::load(&desk.facts.file) {
        Ok((config, _)) => config,
        Err(error) => return Reply::new(Status::FAILED, format!("the file cannot be read now: {error}")),
    };
    let mut differ = 0;
    let pairs = settings(&file).into_iter().zip(settings(&running(desk)));
    let row = |(in_file, runs): (Shown, Shown)| {
        differ += u64::from(in_file.value != runs.value);
        let note = match (in_file.value == runs.value, runs.live) {
            (true, _) => "",
            (false, true) => "the file's at the next start; `save` writes what runs",
            (false, false) => "the file's at the next start",
        };
        vec![runs.full.into(), in_file.value, runs.value, runs.unit.into(), note.into()]
    };
    let mut rows: Vec<Vec<Value>> = pairs.map(row).collect();
    let (in_file, runs) = (file.control.log_level, atlas_dataplane::flight::lines::level());
    differ += u64::from(in_file != runs);
    let note = if in_file == runs { "" } else { "the file's at the next start" };
    let level = ["control.log_level", in_file.name(), runs.name(), "a level", note];
    rows.push(level.into_iter().map(Value::from).collect());
    let text = format!("{} differ from {}", differ, desk.facts.file.display());
    Reply::done(text).table(&["name", "file", "running", "unit", "difference"], &rows, 0)
}

pub(super) fn params(desk: &Rc<Desk>, name: Option<&str>) -> Reply {
    let all = settings(&running(desk));
    let wanted = name.map(|name| name.strip_prefix("placement.").unwrap_or(name));
    let names: Vec<&'static str> = all.iter().map(|shown| shown.key).collect();
    let row = |shown: Shown| {
        let [min, max] = shown.bounds;
        let when = if shown.live { "at once" } else { "at the next start" };
        vec![shown.full.into(), shown.value, shown.default, min, max, shown.unit.into(), when.into(), shown.what.into()]
    };
    let is_wanted = |shown: &Shown| wanted.is_none_or(|name| shown.key == name || shown.full == name);
    let rows: Vec<Vec<Value>> = all.into_iter().filter(is_wanted).map(row).collect();
    if rows.is_empty() {
        let close = crate::trial::closest(name.unwrap_or(""), names.into_iter());
        let hint = close.map_or_else(|| "`params` lists all".to_owned(), |close| format!("did you mean {close}?"));
        return Reply::new(Status::ARGUMENT, format!("no setting of this name; {hint}"));
    }
    let columns = ["name", "value", "default", "min", "max", "unit", "effect", "what"];
    let settings = if rows.len() == 1 { "setting" } else { "settings" };
    Reply::done(format!("{} {settings}", rows.len())).table(&columns, &rows, 0)
}
