//! What the model says: a line for each cluster, the costs beneath it, and what was measured beside it.

use std::fmt;

use serde::Serialize;

use super::costs::Costs;
use super::{Cluster, Demand, Expected, Placement, batch, demand, expect};
use crate::bench::report::Environment;

/// Cores of servers that are predicted.
pub const SERVERS: [usize; 4] = [8, 16, 32, 64];

/// What the user says of the cluster.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub struct Asked {
    /// Bytes of an operation.
    pub payload: usize,
    /// Bundles under way.
    pub under_way: f64,
    /// Clients.
    pub clients: f64,
    /// Links of the servers, Gbit/s.
    pub link_gbit: f64,
    /// Round trip between servers, us.
    pub rtt_us: f64,
    /// A sync of the servers' disks, us; null: as measured here.
    pub disk_us: Option<f64>,
}

/// One prediction.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub struct Line {
    /// Replicas.
    pub n: usize,
    /// Operations under a signature.
    pub bundle: usize,
    /// Cores of each machine.
    pub cores: usize,
    /// What runs where.
    pub placement: Placement,
    /// Whether today's program does that.
    pub built: bool,
    /// The leader's CPU a bundle, us.
    pub demand: Demand,
    #[allow(missing_docs)]
    #[serde(flatten)]
    pub expected: Expected,
}

/// A prediction beside what was measured in the same run.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub struct Check {
    /// Operations under a signature.
    pub bundle: usize,
    /// Bundles in a sequence, measured.
    pub measured_batch: f64,
    /// Operations a second, by the model with that batch.
    pub model_ops_per_s: f64,
    /// Measured.
    pub measured_ops_per_s: f64,
    /// The one by the other.
    pub throughput_ratio: f64,
    /// One bundle at a time, by the model, us.
    pub model_alone_us: f64,
    /// Median, measured, us.
    pub measured_alone_us: f64,
    /// The one by the other.
    pub latency_ratio: f64,
}

/// The result.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Report {
    /// What was asked.
    pub asked: Asked,
    /// What was measured.
    pub costs: Costs,
    /// What is expected.
    pub lines: Vec<Line>,
    /// Held against this host; empty unless that was asked for.
    pub checks: Vec<Check>,
    /// Where it was measured.
    pub environment: Environment,
}

impl Asked {
    fn cluster(&self, n: usize, cores: usize, placement: Placement) -> Cluster {
        let Self { under_way, clients, link_gbit, rtt_us, disk_us, .. } = *self;
        // What is said of servers is not said of this host.
        let disk_us = disk_us.filter(|_| placement != Placement::Shared);
        Cluster { n, cores, placement, under_way, clients, link_gbit, rtt_us, disk_us, batch: None }
    }
}

impl Report {
    /// Works out every line.
    pub fn new(asked: Asked, costs: Costs, sizes: &[usize], environment: Environment) -> Self {
        let mut lines = Vec::new();
        let placements =
            [Placement::OneThread, Placement::VerifyCores, Placement::StagesOnCores].map(|it| (it, SERVERS));
        for bundle in &costs.bundles {
            for &n in sizes {
                let shared = asked.cluster(n, environment.cpus, Placement::Shared);
                let servers = placements
                    .iter()
                    .flat_map(|(placement, servers)| servers.iter().map(|cores| asked.cluster(n, *cores, *placement)));
                lines.extend(std::iter::once(shared).chain(servers).map(|cluster| Line {
                    n,
                    bundle: bundle.operations,
                    cores: cluster.cores,
                    placement: cluster.placement,
                    built: cluster.placement.is_built(),
                    demand: demand(&costs, bundle, &cluster, batch(bundle, cluster.under_way), true),
                    expected: expect(&costs, bundle, &cluster),
                }));
            }
        }
        Self { asked, costs, lines, checks: Vec::new(), environment }
    }

    /// Adds what was measured on a cluster of `n` on this host: with `bundle` operations a signature so many operations a second, with
    /// so many bundles in a sequence, and the median of one at a time.
    pub fn check(
        &mut self,
        n: usize,
        bundle: usize,
        measured_ops_per_s: f64,
        measured_batch: f64,
        measured_alone_us: f64,
    ) {
        let Some(costs) = self.costs.bundles.iter().find(|costs| costs.operations == bundle) else { return };
        let cluster = self.asked.cluster(n, self.environment.cpus, Placement::Shared);
        let expected = expect(&self.costs, costs, &Cluster { batch: Some(measured_batch), ..cluster });
        let ratio = |model: f64, measured: f64| if measured > 0.0 { model / measured } else { 0.0 };
        self.checks.push(Check {
            bundle,
            measured_batch,
            model_ops_per_s: expected.ops_per_s,
            measured_ops_per_s,
            throughput_ratio: ratio(expected.ops_per_s, measured_ops_per_s),
            model_alone_us: expected.alone_us,
            measured_alone_us,
            latency_ratio: ratio(expected.alone_us, measured_alone_us),
        });
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Asked { payload, under_way, clients, link_gbit, rtt_us, disk_us } = self.asked;
        writeln!(
            f,
            "operations of {payload} bytes, {under_way} bundles under way from {clients} clients, everything signed and durable"
        )?;
        let disk = disk_us.map_or("as measured here".to_owned(), |us| format!("{us} us a sync"));
        writeln!(
            f,
            "servers: links of {link_gbit} Gbit/s, round trip {rtt_us} us beyond this host's stack, disk {disk}"
        )?;
        let Environment { cpus, kernel } = &self.environment;
        writeln!(f, "costs measured on this host just now: {cpus} cores, Linux {kernel}\n")?;
        costs(f, &self.costs)?;
        for placement in [Placement::Shared, Placement::OneThread, Placement::VerifyCores, Placement::StagesOnCores] {
            let lines: Vec<&Line> = self.lines.iter().filter(|line| line.placement == placement).collect();
            writeln!(f, "\n{}", title(placement))?;
            writeln!(
                f,
                "{:>4}{:>8}{:>7}{:>14}  {:<12}{:>7}{:>11}{:>13}{:>12}",
                "n",
                "bundle",
                "cores",
                "operations/s",
                "bottleneck",
                "batch",
                "alone, us",
                "at half, us",
                "at peak, ms"
            )?;
            lines.iter().try_for_each(|line| show(f, line))?;
        }
        assumptions(f)?;
        checks(f, &self.checks)
    }
}

fn title(placement: Placement) -> &'static str {
    match placement {
        Placement::Shared => "this host: all replicas, one disk and the load on it (as built)",
        Placement::OneThread => {
            "a server for each replica, ONE data thread each (as built, the default: more cores than two gain nothing)"
        }
        Placement::VerifyCores => {
            "a server for each replica, one data thread each, signatures on verify_cores (as built, where configured)"
        }
        Placement::StagesOnCores => {
            "a server for each replica, each stage on cores of its own: NOT BUILT, what the same costs would give"
        }
    }
}

fn show(f: &mut fmt::Formatter<'_>, line: &Line) -> fmt::Result {
    let Line { n, bundle, cores, expected, .. } = line;
    let Expected { batch, bottleneck, ops_per_s, alone_us, half_us, peak_us } = expected;
    let peak_ms = peak_us / 1e3;
    writeln!(
        f,
        "{n:>4}{bundle:>8}{cores:>7}{ops_per_s:>14.0}  {bottleneck:<12}{batch:>7.1}{alone_us:>11.0}{half_us:>13.0}{peak_ms:>12.1}"
    )
}

fn costs(f: &mut fmt::Formatter<'_>, costs: &Costs) -> fmt::Result {
    writeln!(f, "costs, microseconds")?;
    for (name, way) in [("net: send", costs.link.send), ("net: receive", costs.link.receive)] {
        writeln!(
            f,
            "  {name:<22} {:.2} a call, {:.2} a frame, {:.2} a KiB",
            way.call_us,
            way.frame_us,
            way.byte_us * 1024.0
        )?;
    }
    writeln!(f, "  {:<22} {:.1} from one sleeping thread to another", "net: hop", costs.link.hop_us)?;
    let verify: Vec<String> =
        costs.verify.iter().map(|point| format!("{:.1} of {}", point.signature_us, point.batch)).collect();
    writeln!(f, "  {:<22} {} in a batch", "verify: a signature", verify.join(", "))?;
    for order in &costs.order {
        writeln!(
            f,
            "  {:<22} {:.1} a sequence, {:.2} a bundle",
            format!("order, n = {}", order.n),
            order.sequence_us,
            order.bundle_us
        )?;
    }
    let log = &costs.log;
    writeln!(
        f,
        "  {:<22} {:.2} a record, {:.2} a KiB, {:.1} a write",
        "log: CPU",
        log.stage_record_us,
        log.stage_byte_us * 1024.0,
        log.call_us
    )?;
    for sync in &costs.syncs {
        let name = format!("log: sync, {} at once", sync.logs);
        let slowest: Vec<String> = sync.slowest.iter().map(|it| format!("{:.0} of {}", it.us, it.of)).collect();
        let (slowest, byte_us) = (slowest.join(", "), sync.byte_us * 1024.0);
        writeln!(f, "  {name:<22} {:.0}, the slowest {slowest}; and {byte_us:.2} a KiB", sync.fixed_us)?;
    }
    for bundle in &costs.bundles {
        let name = format!("bundle of {}", bundle.operations);
        writeln!(
            f,
            "  {name:<22} sign and send {:.1}, read {:.1}, execute {:.1}, reply {:.1}, helpers {:.1}, tally {:.1} a replica",
            bundle.submit_us, bundle.read_us, bundle.execute_us, bundle.reply_us, bundle.helpers_us, bundle.tally_us
        )?;
    }
    writeln!(
        f,
        "  {:<22} {:.0} a second; checkpoint {:.0} each 256 sequences",
        "state trees' roots", costs.roots_us, costs.checkpoint_us
    )
}

fn assumptions(f: &mut fmt::Formatter<'_>) -> fmt::Result {
    writeln!(
        f,
        "\nassumed: net, verify, order, the log's staging and execution share one data thread (today's default); four batches open, two a\n\
         sync; fast path, no view change; frames for one client travel together; caches are not contended. Not counted: cosignatures,\n\
         snapshots, metrics. Formulas: the documentation of atlas::bench::model. --check holds it against this host."
    )
}

fn checks(f: &mut fmt::Formatter<'_>, checks: &[Check]) -> fmt::Result {
    if checks.is_empty() {
        return Ok(());
    }
    writeln!(f, "\nheld against four replicas on this host, same run          model    measured   model/measured")?;
    for check in checks {
        let Check { bundle, measured_batch, model_ops_per_s, measured_ops_per_s, throughput_ratio, .. } = check;
        let name = format!("bundle of {bundle}: operations/s (batches of {measured_batch:.1})");
        writeln!(f, "  {name:<48}{model_ops_per_s:>13.0}{measured_ops_per_s:>12.0}{throughput_ratio:>17.2}")?;
        let Check { model_alone_us, measured_alone_us, latency_ratio, .. } = check;
        let name = format!("bundle of {bundle}: one at a time, p50, us");
        writeln!(f, "  {name:<48}{model_alone_us:>13.0}{measured_alone_us:>12.0}{latency_ratio:>17.2}")?;
    }
    Ok(())
}
