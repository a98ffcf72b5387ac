//! Who else is on a replica's cores: isolation, other processes, interrupts.

use super::root::{Cpus, Root};
use super::{Change, Finding, Severity, Subject};

const WHY_ISOLATED: &str = "a replica's one thread runs to completion: whatever else gets its core delays every commit";
const WHY_GUESTS: &str = "each time another task runs there, a round of agreement waits for it";
const WHY_IRQ: &str = "an interrupt's handler runs before the replica, as often as the device likes";

/// Processes and threads that are looked at.
const MAX_PROCESSES: usize = 32_768;
const MAX_THREADS: usize = 131_072;
/// Names that a finding tells.
const MAX_NAMES: usize = 8;
/// Interrupts that can be moved by one run.
pub const MAX_IRQS: usize = 4_096;
/// A kernel thread (sched.h).
const PF_KTHREAD: u64 = 0x0020_0000;
/// With fewer cores there is nothing to set aside.
const FEW_CORES: usize = 4;

/// Cores that the kernel keeps for whoever is put there, and the replica's.
pub fn set_aside(root: &Root, subject: &Subject) -> Cpus {
    let mut cores = root.cpus("/sys/devices/system/cpu/isolated").unwrap_or_default();
    cores.0.extend(root.cpus("/sys/devices/system/cpu/nohz_full").unwrap_or_default().0);
    cores.0.extend(subject.core);
    cores
}

/// The checks.
pub fn check(root: &Root, subject: &Subject) -> Vec<Finding> {
    let mut findings = vec![isolated(root, subject)];
    let cores = set_aside(root, subject);
    if !cores.is_empty() {
        findings.extend([guests(root, &cores), interrupts(root, &cores)]);
    }
    findings
}

fn isolated(root: &Root, subject: &Subject) -> Finding {
    const CHECK: &str = "isolated cores";
    const FIX: &str = "kernel command line: isolcpus=managed_irq,domain,2-3 nohz_full=2-3 rcu_nocbs=2-3 (with your cores), and core = 2 in the \
                       replica's configuration";
    let Some(online) = root.cpus("/sys/devices/system/cpu/online").filter(|online| !online.is_empty()) else {
        return Finding::hidden(CHECK, "/sys/devices/system/cpu/online cannot be read", WHY_ISOLATED);
    };
    let isolated = root.cpus("/sys/devices/system/cpu/isolated").unwrap_or_default();
    let quiet = root.cpus("/sys/devices/system/cpu/nohz_full").unwrap_or_default();
    let list = |cpus: &Cpus| if cpus.is_empty() { "none".to_owned() } else { cpus.to_string() };
    let found = format!(
        "{} of {} cores isolated: {}; without ticks: {}",
        isolated.len(),
        online.len(),
        list(&isolated),
        list(&quiet)
    );
    match subject.core {
        Some(core) if !online.has(core) => Finding::new(
            CHECK,
            Severity::Critical,
            format!("core {core} of the configuration is not online ({online})"),
            WHY_ISOLATED,
        )
        .want("a core that is there", "core = in the replica's configuration"),
        Some(core) if isolated.has(core) && quiet.has(core) => Finding::ok(CHECK, found, WHY_ISOLATED),
        Some(core) if isolated.has(core) => Finding::new(CHECK, Severity::Note, found, WHY_ISOLATED)
            .want(format!("core {core} without scheduler ticks too"), FIX),
        Some(core) => Finding::new(CHECK, Severity::Warning, found, WHY_ISOLATED)
            .want(format!("core {core}, which the replica is pinned to, isolated and without ticks"), FIX),
        None if online.len() < FEW_CORES => {
            Finding::ok(CHECK, format!("{found}; too few to set one aside"), WHY_ISOLATED)
        }
        None => Finding::new(CHECK, Severity::Note, format!("{found}; no replica is pinned"), WHY_ISOLATED)
            .want("on a server of its own: a core for the replica alone", FIX),
    }
}

/// Name, flags and last core of a process or thread.
fn task(root: &Root, dir: &str) -> Option<(String, u64, u32)> {
    let stat = root.read(format!("{dir}/stat"))?;
    // The name stands in the outermost parentheses and may hold anything, parentheses too (proc(5)).
    let (head, tail) = stat.rsplit_once(')')?;
    let name = head.split_once('(')?.1.to_owned();
    let fields: Vec<&str> = tail.split_whitespace().collect();
    Some((name, fields.get(6)?.parse().ok()?, fields.get(36)?.parse().ok()?))
}

/// A task that is no kernel thread and last ran on one of the cores.
fn guest(root: &Root, thread: &str, cores: &Cpus) -> Option<(String, u32)> {
    let (name, flags, core) = task(root, thread)?;
    (flags & PF_KTHREAD == 0 && cores.has(core)).then_some((name, core))
}

fn guests(root: &Root, cores: &Cpus) -> Finding {
    const CHECK: &str = "guests on cores";
    let processes = root.numbered("/proc", "");
    if processes.is_empty() {
        return Finding::hidden(CHECK, "/proc shows no processes", WHY_GUESTS);
    }
    let (mut found, mut threads) = (Vec::new(), 0);
    for process in processes.into_iter().take(MAX_PROCESSES) {
        // Threads of a replica have names of their own.
        if task(root, &format!("/proc/{process}")).is_some_and(|(name, ..)| name == "atlas") {
            continue;
        }
        for thread in root.numbered(&format!("/proc/{process}/task"), "") {
            threads += 1;
            if threads > MAX_THREADS {
                break;
            }
            if let Some((name, core)) = guest(root, &format!("/proc/{process}/task/{thread}"), cores) {
                found.push(format!("{name} ({thread}) on {core}"));
            }
        }
    }
    if found.is_empty() {
        return Finding::ok(CHECK, format!("no other process on {cores}"), WHY_GUESTS);
    }
    let more = found.len().saturating_sub(MAX_NAMES);
    found.truncate(MAX_NAMES);
    let tail = if more > 0 { format!(" and {more} more") } else { String::new() };
    Finding::new(CHECK, Severity::Warning, format!("{}{tail}", found.join(", ")), WHY_GUESTS).want(
        format!("none but Atlas on {cores}"),
        "isolate the cores at boot, or CPUAffinity= in /etc/systemd/system.conf for everything else",
    )
}

/// Where an interrupt is handled.
fn irq_cpus(root: &Root, irq: u32) -> Option<Cpus> {
    let effective = root.cpus(format!("/proc/irq/{irq}/effective_affinity_list")).filter(|cpus| !cpus.is_empty());
    effective.or_else(|| root.cpus(format!("/proc/irq/{irq}/smp_affinity_list")))
}

fn interrupts(root: &Root, cores: &Cpus) -> Finding {
    const CHECK: &str = "interrupts";
    let irqs: Vec<u32> = root.numbered("/proc/irq", "").into_iter().take(MAX_IRQS).collect();
    if irqs.is_empty() {
        return Finding::hidden(CHECK, "/proc/irq is empty", WHY_IRQ);
    }
    let on_cores: Vec<u32> = irqs
        .into_iter()
        .filter(|irq| irq_cpus(root, *irq).is_some_and(|cpus| !cpus.common(cores).is_empty()))
        .collect();
    if on_cores.is_empty() {
        return Finding::ok(CHECK, format!("none is handled on {cores}"), WHY_IRQ);
    }
    let others = root.cpus("/sys/devices/system/cpu/online").unwrap_or_default().without(cores);
    let names = on_cores.iter().take(MAX_NAMES).map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let tail = if on_cores.len() > MAX_NAMES { ", ..." } else { "" };
    let found = format!("{} may be handled on {cores}: {names}{tail}", on_cores.len());
    let finding = Finding::new(CHECK, Severity::Warning, found, WHY_IRQ);
    if others.is_empty() {
        return finding.want("handled elsewhere", "leave at least one core to everything else");
    }
    let change = |irq: &u32| {
        let path = format!("/proc/irq/{irq}/smp_affinity_list");
        let old = root.read(&path).filter(|old| Cpus::parse(old).is_some_and(|cpus| !cpus.is_empty()))?;
        Some(Change::File { path: path.into(), old, new: others.to_string() })
    };
    finding
        .want(
            format!("handled on {others}"),
            "atlas host tune; stop irqbalance or give it IRQBALANCE_BANNED_CPULIST; queues that the driver manages need isolcpus=managed_irq",
        )
        .with(on_cores.iter().filter_map(change).collect())
}
