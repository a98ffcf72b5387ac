//! Memory: huge pages, swap, more than one node.

use super::root::{Root, chosen};
use super::{Change, Finding, Severity};

const WHY_THP: &str = "always: the kernel stops a process to put pages together, and memory grows in steps of 2 MiB";
const WHY_POOL: &str = "pages that are set aside serve nobody else, and Atlas takes none of them";
const WHY_SWAP: &str = "a replica whose pages were swapped out answers late, and its peers take it for dead";
const WHY_NODES: &str = "memory of the other node is slower, and balancing moves pages under a running replica";

const THP: &str = "/sys/kernel/mm/transparent_hugepage/enabled";
const SWAPPINESS: &str = "/proc/sys/vm/swappiness";
const BALANCING: &str = "/proc/sys/kernel/numa_balancing";
const RESERVED: &str = "/proc/sys/vm/nr_hugepages";
/// With swap, the kernel is to take page cache first.
const LOW_SWAPPINESS: u64 = 10;

/// The checks.
pub fn check(root: &Root) -> Vec<Finding> {
    let mut findings = vec![transparent(root)];
    findings.extend(reserved(root));
    findings.extend([swap(root), nodes(root)]);
    findings
}

fn change(path: &str, old: &str, new: &str) -> Change {
    Change::File { path: path.into(), old: old.to_owned(), new: new.to_owned() }
}

fn transparent(root: &Root) -> Finding {
    const CHECK: &str = "transparent huge pages";
    match root.read(THP).as_deref().and_then(chosen) {
        Some(kind @ ("madvise" | "never")) => Finding::ok(CHECK, kind, WHY_THP),
        Some("always") => Finding::new(CHECK, Severity::Warning, "always", WHY_THP)
            .want("madvise", "atlas host tune, or transparent_hugepage=madvise on the kernel's command line")
            .with(vec![change(THP, "always", "madvise")]),
        _ => Finding::hidden(CHECK, "this kernel does not say, or has none", WHY_THP),
    }
}

fn reserved(root: &Root) -> Option<Finding> {
    const CHECK: &str = "reserved huge pages";
    Some(match root.number(RESERVED)? {
        0 => Finding::ok(CHECK, "none; Atlas takes none", WHY_POOL),
        pages => Finding::new(CHECK, Severity::Note, format!("{pages}"), WHY_POOL)
            .want("0, unless something else here needs them", "sysctl -w vm.nr_hugepages=0"),
    })
}

fn swap(root: &Root) -> Finding {
    const CHECK: &str = "swap";
    let Some(swaps) = root.read("/proc/swaps") else {
        return Finding::hidden(CHECK, "/proc/swaps cannot be read", WHY_SWAP);
    };
    let devices = swaps.lines().skip(1).filter(|line| !line.trim().is_empty()).count();
    if devices == 0 {
        return Finding::ok(CHECK, "none", WHY_SWAP);
    }
    match root.number(SWAPPINESS) {
        Some(swappiness) if swappiness <= LOW_SWAPPINESS => {
            Finding::new(CHECK, Severity::Note, format!("{devices} in use, swappiness {swappiness}"), WHY_SWAP)
                .want("none", "swapoff -a and its lines out of /etc/fstab; MemorySwapMax=0 in the unit (ours has it)")
        }
        Some(swappiness) => {
            Finding::new(CHECK, Severity::Warning, format!("{devices} in use, swappiness {swappiness}"), WHY_SWAP)
                .want(
                    format!("none, or vm.swappiness of {LOW_SWAPPINESS} or less"),
                    "atlas host tune, or swapoff -a and its lines out of /etc/fstab",
                )
                .with(vec![change(SWAPPINESS, &swappiness.to_string(), &LOW_SWAPPINESS.to_string())])
        }
        None => {
            Finding::new(CHECK, Severity::Warning, format!("{devices} in use"), WHY_SWAP).want("none", "swapoff -a")
        }
    }
}

fn nodes(root: &Root) -> Finding {
    const CHECK: &str = "memory nodes";
    let Some(nodes) = root.cpus("/sys/devices/system/node/online") else {
        return Finding::hidden(CHECK, "/sys/devices/system/node cannot be read", WHY_NODES);
    };
    if nodes.len() <= 1 {
        return Finding::ok(CHECK, "one", WHY_NODES);
    }
    match root.read(BALANCING).as_deref() {
        Some(old @ ("1" | "2" | "3")) => {
            Finding::new(CHECK, Severity::Warning, format!("{}, with automatic balancing", nodes.len()), WHY_NODES)
                .want(
                    "no balancing, and a replica on one node",
                    "atlas host tune; NUMAPolicy=bind and NUMAMask= in a drop-in of the unit",
                )
                .with(vec![change(BALANCING, old, "0")])
        }
        _ => Finding::new(CHECK, Severity::Note, format!("{}, without balancing", nodes.len()), WHY_NODES)
            .want("a replica on one node", "NUMAPolicy=bind and NUMAMask= in a drop-in of the unit"),
    }
}
