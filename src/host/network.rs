//! Network interfaces that have a device: link, queues, and how long they hold interrupts back.

use super::live::Live;
use super::root::Root;
use super::{Change, Finding, Severity};

const WHY_LINK: &str = "replicas send each batch to all others: the link is shared by all of that";
const WHY_COALESCING: &str = "a card that waits for more packets before it interrupts delays every message by so long";

/// Interfaces that are looked at.
const MAX_INTERFACES: usize = 64;
/// A card that holds back interrupts for longer is worth a warning, in microseconds.
const SLOW_RX_US: u64 = 8;
/// Slower links are, in Mbit/s.
const SLOW_LINK: u64 = 1_000;

/// Interfaces with a device of their own, by name.
pub fn interfaces(root: &Root) -> Vec<String> {
    let names = root.names("/sys/class/net").into_iter();
    let has_device = |name: &String| root.has(&format!("/sys/class/net/{name}/device")) && is_plain(name);
    names.filter(has_device).take(MAX_INTERFACES).collect()
}

/// Whether a name can be no option or path.
fn is_plain(name: &str) -> bool {
    !name.starts_with(['-', '.'])
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.' | b'@'))
}

/// The checks.
pub fn check(root: &Root, live: &Live) -> Vec<Finding> {
    let names = interfaces(root);
    if names.is_empty() {
        return vec![Finding::hidden(
            "network link",
            "no interface with a device; a container's are virtual",
            WHY_LINK,
        )];
    }
    let mut findings: Vec<Finding> = names.iter().filter_map(|name| link(root, name)).collect();
    findings.extend(names.iter().map(|name| {
        let settings = live.coalescing.iter().find(|(other, _)| other == name).map(|(_, text)| text.as_str());
        coalescing(name, settings)
    }));
    findings
}

fn link(root: &Root, name: &str) -> Option<Finding> {
    const CHECK: &str = "network link";
    let dir = format!("/sys/class/net/{name}");
    if root.read(format!("{dir}/operstate")).as_deref() == Some("down") {
        return None;
    }
    let queues = root.names(format!("{dir}/queues"));
    let count = |prefix: &str| queues.iter().filter(|queue| queue.starts_with(prefix)).count();
    // A virtual card says -1 or nothing.
    let speed = root.number(format!("{dir}/speed")).filter(|mbit| *mbit < 1 << 31);
    let duplex = root.read(format!("{dir}/duplex")).unwrap_or_default();
    let pace = speed.map_or_else(|| "speed not visible".to_owned(), |mbit| format!("{mbit} Mbit/s"));
    let found = format!("{name}: {pace}, {} receive and {} send queues", count("rx-"), count("tx-"));
    Some(match speed {
        Some(mbit) if mbit < SLOW_LINK || duplex == "half" => {
            Finding::new(CHECK, Severity::Warning, format!("{found}, {duplex}"), WHY_LINK)
                .want("1 Gbit/s full duplex at the least", "cable, switch port and ethtool's negotiation")
        }
        _ => Finding::ok(CHECK, found, WHY_LINK),
    })
}

/// The value behind a name in what `ethtool -c` prints.
fn setting(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.trim().strip_prefix(name)?.trim().strip_prefix(':')?.trim().parse().ok())
}

fn coalescing(name: &str, settings: Option<&str>) -> Finding {
    const CHECK: &str = "interrupt coalescing";
    let Some(text) = settings else {
        return Finding::hidden(
            CHECK,
            &format!("{name}: ethtool is not installed, or the card does not say"),
            WHY_COALESCING,
        );
    };
    let adaptive = text.lines().any(|line| line.contains("Adaptive RX: on"));
    let Some(us) = setting(text, "rx-usecs") else {
        return Finding::hidden(CHECK, &format!("{name}: the card does not say"), WHY_COALESCING);
    };
    if us <= SLOW_RX_US && !adaptive {
        return Finding::ok(CHECK, format!("{name}: {us} us"), WHY_COALESCING);
    }
    let words = |values: [&str; 5]| -> Vec<String> {
        ["ethtool", "-C", name]
            .into_iter()
            .chain(values.into_iter().filter(|word| !word.is_empty()))
            .map(str::to_owned)
            .collect()
    };
    let (old, switch) = (us.to_string(), if adaptive { ["adaptive-rx", "off", "on"] } else { [""; 3] });
    let change = Change::Tool {
        run: words([switch[0], switch[1], "rx-usecs", "0", ""]),
        undo: words([switch[0], switch[2], "rx-usecs", &old, ""]),
    };
    Finding::new(
        CHECK,
        Severity::Warning,
        format!("{name}: {us} us{}", if adaptive { ", adaptive" } else { "" }),
        WHY_COALESCING,
    )
    .want("rx-usecs 0 to 8, not adaptive", "atlas host tune; costs processor time where the network is busy")
    .with(vec![change])
}

#[cfg(test)]
mod tests {
    use super::*;

    const CARD: &str = "Coalesce parameters for eth0:\nAdaptive RX: on  TX: off\nstats-block-usecs:\tn/a\n\nrx-usecs:\t50\nrx-frames: 0\n";

    #[test]
    fn what_a_card_was_set_to_is_what_undoing_sets() {
        let finding = coalescing("eth0", Some(CARD));
        assert_eq!((finding.severity, finding.found.as_str()), (Severity::Warning, "eth0: 50 us, adaptive"));
        let [Change::Tool { run, undo }] = finding.changes.as_slice() else { panic!("{:?}", finding.changes) };
        assert_eq!(run.join(" "), "ethtool -C eth0 adaptive-rx off rx-usecs 0");
        assert_eq!(undo.join(" "), "ethtool -C eth0 adaptive-rx on rx-usecs 50");
        assert_eq!(coalescing("eth0", Some("rx-usecs: 3\n")).severity, Severity::Ok);
        for rubbish in ["", "rx-usecs: n/a", "rx-usecs-low: 9", "rx-usecs: -1"] {
            assert_eq!(coalescing("eth0", Some(rubbish)).severity, Severity::Note, "{rubbish}");
        }
    }
}
