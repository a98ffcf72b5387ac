//! The clock: where time is read from, and whether somebody keeps it right.

use super::live::Live;
use super::root::Root;
use super::{Finding, Severity, Subject};

const WHY_SOURCE: &str =
    "a replica reads the clock several times a message; some sources are a thousand times slower than others";
const WHY_SYNC: &str =
    "agreed time is the leader's clock within drift_ms of the backups': a wrong clock gets proposals refused";

/// Sources that are read without a system call.
const FAST: [&str; 5] = ["tsc", "kvm-clock", "hyperv_clocksource_tsc_page", "arch_sys_counter", "riscv_clocksource"];
/// An error above this part of drift_ms is worth a warning.
const SHARE_OF_DRIFT: u64 = 10;

/// The checks.
pub fn check(root: &Root, live: &Live, subject: &Subject) -> Vec<Finding> {
    vec![source(root), synchronisation(live, subject)]
}

fn source(root: &Root) -> Finding {
    const CHECK: &str = "clock source";
    let dir = "/sys/devices/system/clocksource/clocksource0";
    let Some(source) = root.read(format!("{dir}/current_clocksource")).filter(|source| !source.is_empty()) else {
        return Finding::hidden(CHECK, "no clock source is named", WHY_SOURCE);
    };
    if FAST.contains(&source.as_str()) {
        return Finding::ok(CHECK, source, WHY_SOURCE);
    }
    let offered = root.read(format!("{dir}/available_clocksource")).unwrap_or_default();
    let better = FAST.iter().find(|fast| offered.split_whitespace().any(|name| name == **fast));
    let fix = better.map_or_else(
        || "the kernel has marked the tsc unstable: see dmesg; a BIOS update may help".to_owned(),
        |better| format!("echo {better} > {dir}/current_clocksource, if dmesg does not say that it is unstable"),
    );
    Finding::new(CHECK, Severity::Warning, source, WHY_SOURCE).want("tsc or another that needs no system call", fix)
}

/// Offset in seconds and leap status of `chronyc -c tracking`: fields 5 (system time) and 14.
fn chrony(line: &str) -> Option<(f64, &str)> {
    let fields: Vec<&str> = line.lines().next()?.split(',').collect();
    let offset: f64 = fields.get(4)?.parse().ok()?;
    Some((offset, *fields.get(13)?)).filter(|_| offset.is_finite())
}

fn synchronisation(live: &Live, subject: &Subject) -> Finding {
    const CHECK: &str = "clock synchronisation";
    let limit_ms = (subject.drift_ms / SHARE_OF_DRIFT).max(1);
    let wanted = format!("kept by a time service, wrong by less than {limit_ms} ms (drift_ms = {})", subject.drift_ms);
    let clock = match &live.clock {
        Ok(clock) => clock,
        Err(error) => return Finding::hidden(CHECK, &format!("the kernel does not tell: {error}"), WHY_SYNC),
    };
    let mut offset_ms = clock.offset_ns as f64 / 1e6;
    let mut found = format!("offset {offset_ms:.3} ms, at most {:.1} ms wrong", clock.max_error_us as f64 / 1e3);
    if let Some((seconds, leap)) = live.chrony.as_deref().and_then(chrony) {
        offset_ms = seconds * 1e3;
        found = format!("{found}; chrony: {offset_ms:.3} ms, {leap}");
    }
    let fix = "apt install chrony, with at least three servers; check with chronyc tracking";
    if offset_ms.abs() >= subject.drift_ms as f64 {
        return Finding::new(CHECK, Severity::Critical, found, WHY_SYNC).want(wanted, fix);
    }
    if !clock.synchronised {
        let found = format!("no time service keeps this clock, as far as the kernel knows ({found})");
        return Finding::new(CHECK, Severity::Warning, found, WHY_SYNC).want(wanted, fix);
    }
    match offset_ms.abs() > limit_ms as f64 || clock.max_error_us / 1_000 > limit_ms {
        true => Finding::new(CHECK, Severity::Warning, found, WHY_SYNC).want(wanted, fix),
        false => Finding::ok(CHECK, found, WHY_SYNC),
    }
}
