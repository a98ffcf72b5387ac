//! What kind of machine this is, and what it does not get to itself.

use super::root::Root;
use super::{Finding, Severity};

const WHY_MACHINE: &str = "in a container or virtual machine some of what follows is decided, and only seen, outside";
const WHY_QUOTA: &str =
    "a group at its quota is stopped for the rest of each period: its peers take that for a slow leader";
const WHY_STEAL: &str = "while the hypervisor runs others, a replica stands still and commits wait for it";
/// Stolen time above this share of the time since boot is worth a warning, in thousandths.
const STOLEN: u64 = 10;

/// The checks.
pub fn check(root: &Root) -> Vec<Finding> {
    let mut findings = vec![machine(root)];
    findings.extend(quota(root));
    findings.extend(steal(root));
    findings
}

/// What this runs in, as far as it shows.
fn container(root: &Root) -> Option<String> {
    if let Some(name) = root.read("/run/systemd/container").filter(|name| !name.is_empty()) {
        return Some(name);
    }
    let marks = [("/.dockerenv", "docker"), ("/run/.containerenv", "podman")];
    marks.iter().find(|(mark, _)| root.has(mark)).map(|(_, name)| (*name).to_owned())
}

fn machine(root: &Root) -> Finding {
    let is_virtual = root
        .read("/proc/cpuinfo")
        .is_some_and(|text| text.lines().any(|line| line.starts_with("flags") && line.ends_with_word("hypervisor")));
    let vendor = ["/sys/class/dmi/id/sys_vendor", "/sys/class/dmi/id/product_name"];
    let vendor: Vec<String> = vendor.iter().filter_map(|file| root.read(file)).collect();
    let mut found = match (container(root), is_virtual) {
        (Some(name), true) => format!("a container ({name}) in a virtual machine"),
        (Some(name), false) => format!("a container ({name})"),
        (None, true) => "a virtual machine".to_owned(),
        (None, false) => "no sign of a container or virtual machine".to_owned(),
    };
    if !vendor.is_empty() {
        found = format!("{found}: {}", vendor.join(" "));
    }
    match container(root).is_some() || is_virtual {
        false => Finding::ok("machine", found, WHY_MACHINE),
        true => Finding::new("machine", Severity::Note, found, WHY_MACHINE).want(
            "a server of its own for each replica, where latency counts",
            "run atlas host check on the host below as well, or ask who runs it for pinned cores and a disk of your own",
        ),
    }
}

trait Words {
    fn ends_with_word(&self, word: &str) -> bool;
}

impl Words for str {
    /// Whether the word is among those behind the colon.
    fn ends_with_word(&self, word: &str) -> bool {
        self.split_once(':').is_some_and(|(_, words)| words.split_whitespace().any(|other| other == word))
    }
}

/// The limits of this process's control group, version 2.
fn quota(root: &Root) -> Option<Finding> {
    let groups = root.read("/proc/self/cgroup")?;
    let path = groups.lines().find_map(|line| line.strip_prefix("0::"))?;
    let path = path.trim_matches('/').to_owned();
    if path.split('/').any(|part| part == "..") {
        return Some(Finding::hidden("cgroup", "the control group lies outside of this container", WHY_QUOTA));
    }
    let dir = format!("/sys/fs/cgroup/{path}");
    let limit = |name: &str| root.read(format!("{dir}/{name}")).filter(|text| !text.starts_with("max"));
    let number = |text: &str| text.split_whitespace().map(str::parse::<u64>).collect::<Result<Vec<_>, _>>().ok();
    let mut limits = Vec::new();
    if let Some(&[quota, period]) =
        limit("cpu.max").as_deref().and_then(number).as_deref().filter(|both| both.len() == 2)
    {
        limits.push(format!("{:.2} cores", quota as f64 / period.max(1) as f64));
    }
    if let Some(bytes) = limit("memory.max").and_then(|text| text.parse::<u64>().ok()) {
        limits.push(format!("{} MiB of memory", bytes >> 20));
    }
    match limits.is_empty() {
        true => Some(Finding::ok("cgroup", "no quota on processors or memory", WHY_QUOTA)),
        false => Some(
            Finding::new("cgroup", Severity::Warning, format!("a quota of {}", limits.join(" and ")), WHY_QUOTA).want(
                "whole cores (cpuset) instead of a quota",
                "systemd: CPUQuota= empty and AllowedCPUs= set; Docker: --cpuset-cpus instead of --cpus",
            ),
        ),
    }
}

fn steal(root: &Root) -> Option<Finding> {
    let text = root.read("/proc/stat")?;
    let line = text.lines().find(|line| line.starts_with("cpu "))?;
    let times: Vec<u64> = line.split_whitespace().skip(1).filter_map(|field| field.parse().ok()).take(8).collect();
    let (all, stolen) = (times.iter().fold(0, |sum: u64, time| sum.saturating_add(*time)), *times.get(7)?);
    let thousandths = u64::try_from(u128::from(stolen) * 1_000 / u128::from(all.max(1))).unwrap_or(u64::MAX);
    let found = format!("{}.{} % of the time since boot", thousandths / 10, thousandths % 10);
    Some(match thousandths > STOLEN {
        true => Finding::new("stolen time", Severity::Warning, found, WHY_STEAL)
            .want("below 1 %", "dedicated cores from who runs the hypervisor"),
        false => Finding::ok("stolen time", found, WHY_STEAL),
    })
}
