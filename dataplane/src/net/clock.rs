//! What the kernel says of the host's clock, for the host's check: adjtimex(2), read only.

use std::io;

/// The clock's discipline as the kernel knows it (RFC 5905, kernel model).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ClockState {
    /// A time service disciplines the clock: the kernel's flag STA_UNSYNC is down.
    pub synchronised: bool,
    /// What is still being slewed away, in nanoseconds.
    pub offset_ns: i64,
    /// The largest error that the time service vouches for, in microseconds; grows by 500 us a second without it, up to 16 s.
    pub max_error_us: u64,
}

/// Reads the clock's state; changes nothing.
///
/// # Errors
/// The system's error, where a filter refuses the call.
pub fn clock_state() -> io::Result<ClockState> {
    // SAFETY: timex is plain numbers, for which all bits zero is a value; modes = 0 only reads.
    let mut timex: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes into timex, which lives across the call.
    if unsafe { libc::adjtimex(&raw mut timex) } < 0 {
        return Err(io::Error::last_os_error());
    }
    let unit = if timex.status & libc::STA_NANO == 0 { 1_000 } else { 1 };
    Ok(ClockState {
        synchronised: timex.status & libc::STA_UNSYNC == 0,
        offset_ns: timex.offset.saturating_mul(unit),
        max_error_us: u64::try_from(timex.maxerror).unwrap_or(0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_answers_within_its_own_bounds() {
        let state = clock_state().expect("reading needs no privilege");
        // The kernel stops counting at 16 s.
        assert!(state.max_error_us <= 16_000_000, "{state:?}");
    }
}
