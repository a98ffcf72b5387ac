//! How fast the cores are when they are needed: governor, sleep states, threads that share a core.

use super::cores::set_aside;
use super::root::{Cpus, Root};
use super::{Change, Finding, Severity, Subject};

const WHY_GOVERNOR: &str = "a core that clocks down between messages handles the next one slowly";
const WHY_IDLE: &str = "a replica sleeps between messages: each message waits until the core is awake again";
const WHY_SMT: &str = "two threads of one core share its units: a neighbour takes up to half of a replica's speed";

/// The governor for latency.
const PERFORMANCE: &str = "performance";
/// Sleep states that take longer to leave are not wanted, in microseconds.
pub const SLOW_WAKE_US: u64 = 20;
/// Sleep states a core has at most.
const MAX_STATES: usize = 32;

const CPUS: &str = "/sys/devices/system/cpu";

/// The checks.
pub fn check(root: &Root, subject: &Subject) -> Vec<Finding> {
    vec![governor(root), idle(root, subject), threads(root, subject)]
}

fn online(root: &Root) -> Cpus {
    root.cpus(format!("{CPUS}/online")).unwrap_or_default()
}

fn governor(root: &Root) -> Finding {
    const CHECK: &str = "governor";
    let path = |cpu: u32| format!("{CPUS}/cpu{cpu}/cpufreq/scaling_governor");
    let governors: Vec<(u32, String)> =
        online(root).0.into_iter().filter_map(|cpu| Some((cpu, root.read(path(cpu))?))).collect();
    if governors.is_empty() {
        return Finding::hidden(CHECK, "no cpufreq; the clock is set below this system, or fixed", WHY_GOVERNOR);
    }
    let mut others: Vec<&str> =
        governors.iter().map(|(_, name)| name.as_str()).filter(|name| *name != PERFORMANCE).collect();
    if others.is_empty() {
        return Finding::ok(CHECK, PERFORMANCE, WHY_GOVERNOR);
    }
    let slow = others.len();
    others.sort_unstable();
    others.dedup();
    others.truncate(MAX_STATES);
    let found = format!("{} on {slow} of {} cores", others.join(", "), governors.len());
    let offers = |cpu: &u32| {
        let offered = root.read(format!("{CPUS}/cpu{cpu}/cpufreq/scaling_available_governors"));
        offered.is_none_or(|offered| offered.split_whitespace().any(|name| name == PERFORMANCE))
    };
    let slow = governors.iter().filter(|(cpu, old)| old != PERFORMANCE && offers(cpu));
    let changes =
        slow.map(|(cpu, old)| Change::File { path: path(*cpu).into(), old: old.clone(), new: PERFORMANCE.to_owned() });
    Finding::new(CHECK, Severity::Warning, found, WHY_GOVERNOR)
        .want(
            PERFORMANCE,
            "atlas host tune, or cpupower frequency-set -g performance; tuning/ has a tuned profile that keeps it",
        )
        .with(changes.collect())
}

fn idle(root: &Root, subject: &Subject) -> Finding {
    const CHECK: &str = "sleep states";
    let aside = set_aside(root, subject);
    // Where cores are set aside, only they need to be awake; the others may save power.
    let cpus = if aside.is_empty() { online(root) } else { aside };
    let (mut deepest, mut seen, mut changes) = ((0, String::new()), false, Vec::new());
    for cpu in cpus.0 {
        for state in root.numbered(&format!("{CPUS}/cpu{cpu}/cpuidle"), "state").into_iter().take(MAX_STATES) {
            let dir = format!("{CPUS}/cpu{cpu}/cpuidle/state{state}");
            let Some(latency_us) = root.number(format!("{dir}/latency")) else { continue };
            seen = true;
            let switch = format!("{dir}/disable");
            let off = root.read(&switch);
            if latency_us <= SLOW_WAKE_US || off.as_deref().is_some_and(|off| off != "0") {
                continue;
            }
            if latency_us > deepest.0 {
                deepest = (latency_us, root.read(format!("{dir}/name")).unwrap_or_default());
            }
            if let Some(old) = off {
                changes.push(Change::File { path: switch.into(), old, new: "1".to_owned() });
            }
        }
    }
    match (seen, deepest) {
        (false, _) => Finding::hidden(CHECK, "no cpuidle; the hypervisor decides how cores sleep", WHY_IDLE),
        (true, (0, _)) => Finding::ok(CHECK, format!("none takes more than {SLOW_WAKE_US} us to leave"), WHY_IDLE),
        (true, (us, name)) => {
            Finding::new(CHECK, Severity::Warning, format!("{name} takes {us} us to leave"), WHY_IDLE)
                .want(
                    format!("no state above {SLOW_WAKE_US} us"),
                    format!("atlas host tune, or cpupower idle-set -D {SLOW_WAKE_US}; costs power"),
                )
                .with(changes)
        }
    }
}

fn threads(root: &Root, subject: &Subject) -> Finding {
    const CHECK: &str = "hyper-threads";
    let active = root.read(format!("{CPUS}/smt/active"));
    match active.as_deref() {
        Some("0") => return Finding::ok(CHECK, "off, or the processor has none", WHY_SMT),
        Some("1") => {}
        _ => return Finding::hidden(CHECK, "smt/active does not say", WHY_SMT),
    }
    let Some(core) = subject.core else {
        return Finding::new(CHECK, Severity::Note, "on", WHY_SMT).want(
            "a replica's core to itself",
            "pin the replica (core =) and switch its sibling off: echo 0 > /sys/devices/system/cpu/cpuN/online",
        );
    };
    let siblings = root.cpus(format!("{CPUS}/cpu{core}/topology/thread_siblings_list"));
    let Some(others) = siblings.map(|siblings| siblings.common(&online(root)).without(&Cpus([core].into()))) else {
        return Finding::hidden(CHECK, &format!("core {core} does not name its siblings"), WHY_SMT);
    };
    match others.0.first() {
        None => Finding::ok(CHECK, format!("core {core} has no sibling that is online"), WHY_SMT),
        Some(other) => {
            let change = root
                .read(format!("{CPUS}/cpu{other}/online"))
                .filter(|old| old == "1")
                .map(|old| Change::File { path: format!("{CPUS}/cpu{other}/online").into(), old, new: "0".to_owned() });
            Finding::new(CHECK, Severity::Warning, format!("core {core} shares its units with {others}"), WHY_SMT)
                .want(format!("{others} offline"), "atlas host tune, or nosmt on the kernel's command line")
                .with(change.into_iter().collect())
        }
    }
}
