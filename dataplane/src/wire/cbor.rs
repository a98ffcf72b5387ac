//! Whether bytes are one deterministic CBOR item (RFC 8949, 4.2.1), whatever it means.
//!
//! Shortest heads and floats, definite lengths, map keys ascending and unique, valid UTF-8, no simple values but false, true,
//! null and undefined, one NaN. A general reader's skip is not enough here: it lets a lone break byte or an indefinite
//! length through, and the reader keeps a stack as deep as the sender wishes.

use half::f16;

use super::limits::MAX_OPERATION_DEPTH;

/// Whether `bytes` are exactly one deterministic item nested at most [`MAX_OPERATION_DEPTH`] deep.
///
/// Takes time linear in the bytes and allocates nothing: an item needs a byte at least, so a declared count costs nothing
/// before its items are there.
pub(super) fn is_item(bytes: &[u8]) -> bool {
    skip(bytes, MAX_OPERATION_DEPTH).is_some_and(<[u8]>::is_empty)
}

/// What follows the first item of `bytes`, in which `depth` more levels may open.
fn skip(bytes: &[u8], depth: usize) -> Option<&[u8]> {
    let (&initial, rest) = bytes.split_first()?;
    let (major, info) = (initial >> 5, initial & 31);
    if major == 7 {
        return skip_simple(info, rest);
    }
    let (argument, mut rest) = argument(info, rest)?;
    match major {
        0 | 1 => Some(rest),
        2 | 3 => {
            let (content, rest) = rest.split_at_checked(usize::try_from(argument).ok()?)?;
            (major == 2 || std::str::from_utf8(content).is_ok()).then_some(rest)
        }
        4 => {
            let depth = depth.checked_sub(1)?;
            for _ in 0..argument {
                rest = skip(rest, depth)?;
            }
            Some(rest)
        }
        5 => skip_pairs(argument, rest, depth.checked_sub(1)?),
        _ => skip(rest, depth.checked_sub(1)?),
    }
}

/// Skips the pairs of a map, whose keys ascend by their encoded bytes.
fn skip_pairs(pairs: u64, mut rest: &[u8], depth: usize) -> Option<&[u8]> {
    let mut previous: Option<&[u8]> = None;
    for _ in 0..pairs {
        let after = skip(rest, depth)?;
        let key = &rest[..rest.len() - after.len()];
        if previous.is_some_and(|previous| previous >= key) {
            return None;
        }
        previous = Some(key);
        rest = skip(after, depth)?;
    }
    Some(rest)
}

/// The argument of a head, which must have no shorter form.
fn argument(info: u8, rest: &[u8]) -> Option<(u64, &[u8])> {
    let (value, least, rest) = match info {
        0..=23 => (u64::from(info), 0, rest),
        24 => rest.split_first_chunk().map(|(b, rest)| (u64::from(u8::from_be_bytes(*b)), 24, rest))?,
        25 => rest.split_first_chunk().map(|(b, rest)| (u64::from(u16::from_be_bytes(*b)), 1 << 8, rest))?,
        26 => rest.split_first_chunk().map(|(b, rest)| (u64::from(u32::from_be_bytes(*b)), 1 << 16, rest))?,
        27 => rest.split_first_chunk().map(|(b, rest)| (u64::from_be_bytes(*b), 1 << 32, rest))?,
        _ => return None,
    };
    (value >= least).then_some((value, rest))
}

/// Skips false, true, null, undefined, or a float that has no shorter form of the same value.
fn skip_simple(info: u8, rest: &[u8]) -> Option<&[u8]> {
    match info {
        20..=23 => Some(rest),
        25 => {
            let (bytes, rest) = rest.split_first_chunk()?;
            let value = f16::from_be_bytes(*bytes);
            (!value.is_nan() || value.to_bits() == 0x7e00).then_some(rest)
        }
        26 => {
            let (bytes, rest) = rest.split_first_chunk()?;
            let value = f32::from_be_bytes(*bytes);
            (!value.is_nan() && f32::from(f16::from_f32(value)) != value).then_some(rest)
        }
        27 => {
            let (bytes, rest) = rest.split_first_chunk()?;
            let value = f64::from_be_bytes(*bytes);
            #[allow(clippy::cast_possible_truncation, reason = "whether the narrow form is exact is what is asked")]
            (!value.is_nan() && f64::from(value as f32) != value).then_some(rest)
        }
        _ => None,
    }
}
