//! Times as text: RFC 3339, written in UTC, read with any offset.
//!
//! Agreed times and deadlines are milliseconds, source times nanoseconds, both `i64` since the Unix epoch. Writing and
//! reading back gives the same number. Reading is strict: a whole date and time with an offset, upper-case `T` and
//! `Z`, no leap second, and no digit that the unit cannot keep.

use jiff::Timestamp;

/// Why a text is not a time, or a time has no text.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TimeError {
    /// Not of the form of RFC 3339.
    #[error("{0:?} is not a time like 2015-03-31T01:40:00Z or 2015-03-31T03:40:00.5+02:00")]
    Form(String),
    /// Of that form, but no such day, hour or offset exists.
    #[error("{0:?} names a day, hour or offset that does not exist")]
    Calendar(String),
    /// Has digits below a millisecond, where only milliseconds are kept.
    #[error("{0:?} is finer than a millisecond")]
    TooFine(String),
    /// Cannot be kept in the unit: nanoseconds reach from 1677 to 2262.
    #[error("{0:?} is out of range")]
    Range(String),
    /// A number of milliseconds beyond the years -9999 to 9999.
    #[error("{0} ms since 1970 has no date that can be written")]
    Unwritable(i64),
}

/// The longest text read as a time; it bounds what an error repeats.
const MAX_TEXT: usize = 40;

/// What this host's clock says: milliseconds since the Unix epoch.
pub fn now_ms() -> i64 {
    Timestamp::now().as_millisecond()
}

/// Nanoseconds since the Unix epoch as RFC 3339 in UTC, with only the digits it needs: `2015-03-31T01:40:00Z`.
pub fn format_ns(nanoseconds: i64) -> String {
    // An i64 of nanoseconds ends 8,000 years before the dates do.
    Timestamp::from_nanosecond(i128::from(nanoseconds)).map(|time| time.to_string()).unwrap_or_default()
}

/// Milliseconds since the Unix epoch as RFC 3339 in UTC, always with three digits: `2015-03-31T01:40:00.000Z`.
///
/// # Errors
/// [`TimeError::Unwritable`] beyond the year 9999 or before -9999.
pub fn format_ms(milliseconds: i64) -> Result<String, TimeError> {
    let time = Timestamp::from_millisecond(milliseconds).map_err(|_| TimeError::Unwritable(milliseconds))?;
    Ok(format!("{time:.3}"))
}

/// Reads nanoseconds since the Unix epoch.
///
/// # Errors
/// [`TimeError::Form`], [`TimeError::Calendar`] or [`TimeError::Range`].
pub fn parse_ns(text: &str) -> Result<i64, TimeError> {
    i64::try_from(parse(text)?.as_nanosecond()).map_err(|_| TimeError::Range(text.to_owned()))
}

/// Reads milliseconds since the Unix epoch.
///
/// # Errors
/// [`TimeError::Form`], [`TimeError::Calendar`], or [`TimeError::TooFine`] where rounding would be needed.
pub fn parse_ms(text: &str) -> Result<i64, TimeError> {
    let time = parse(text)?;
    if time.subsec_nanosecond() % 1_000_000 != 0 {
        return Err(TimeError::TooFine(text.to_owned()));
    }
    Ok(time.as_millisecond())
}

fn parse(text: &str) -> Result<Timestamp, TimeError> {
    if !has_form(text.as_bytes()) {
        return Err(TimeError::Form(text.chars().take(MAX_TEXT).collect()));
    }
    // jiff takes second 60 for 59; here two texts never mean one time by rounding.
    let is_leap = text.get(17..19) == Some("60");
    let time = text.parse().map_err(|_| TimeError::Calendar(text.to_owned()))?;
    if is_leap { Err(TimeError::Calendar(text.to_owned())) } else { Ok(time) }
}

/// Whether the text is `dddd-dd-ddTdd:dd:dd`, then perhaps `.` and 1 to 9 digits, then `Z` or an offset of less than a
/// day; jiff alone takes more than RFC 3339.
fn has_form(text: &[u8]) -> bool {
    let Some((date_time, rest)) = text.split_at_checked(19) else { return false };
    if text.len() > MAX_TEXT || !matches(date_time, b"dddd-dd-ddTdd:dd:dd") {
        return false;
    }
    let offset = match rest.split_first() {
        Some((b'.', fraction)) => {
            let digits = fraction.iter().take_while(|byte| byte.is_ascii_digit()).count();
            if !(1..=9).contains(&digits) {
                return false;
            }
            &fraction[digits..]
        }
        _ => rest,
    };
    offset == b"Z"
        || ((matches(offset, b"+dd:dd") || matches(offset, b"-dd:dd")) && offset[1..3] < b"24"[..] && offset[4] < b'6')
}

/// Whether a text has the pattern's length, a digit at each `d`, and the pattern's own byte elsewhere.
fn matches(text: &[u8], pattern: &[u8]) -> bool {
    text.len() == pattern.len()
        && text.iter().zip(pattern).all(|(byte, want)| match want {
            b'd' => byte.is_ascii_digit(),
            _ => byte == want,
        })
}

#[cfg(test)]
mod tests;
