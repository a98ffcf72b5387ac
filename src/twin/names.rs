//! Names of twins and paths of properties.
//!
//! A segment is one or more of `A-Z a-z 0-9 . _ -`, but not `.` or `..`, so that names may stand in file paths and URLs. A
//! twin is `namespace/name`: exactly two segments. A property path is one or more segments. Both have at most
//! [`MAX_NAME`] bytes. Names are compared byte by byte; `/` sorts like any other byte.

/// The longest name of a twin or path of a property, in bytes.
pub const MAX_NAME: usize = 128;

fn is_segment(segment: &[u8]) -> bool {
    !matches!(segment, b"" | b"." | b"..")
        && segment.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
}

/// Whether `name` names a twin: `namespace/name`.
pub fn is_twin(name: &str) -> bool {
    let name = name.as_bytes();
    name.len() <= MAX_NAME
        && name.iter().position(|byte| *byte == b'/').is_some_and(|slash| {
            // The second part cannot hold another slash: no segment does.
            is_segment(&name[..slash]) && is_segment(&name[slash + 1..])
        })
}

/// Whether `path` names a property of a twin.
pub fn is_property(path: &str) -> bool {
    path.len() <= MAX_NAME && path.as_bytes().split(|byte| *byte == b'/').all(is_segment)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn twins_have_two_segments_and_properties_any_number() {
        for good in ["plant/turbine-1", "a/b", "A.b_c-9/..."] {
            assert!(is_twin(good), "{good}");
        }
        for bad in ["", "/", "a", "a/", "/a", "a/b/c", "a//b", "a b/c", "ä/b", "./a", "a/..", "a/b\n"] {
            assert!(!is_twin(bad), "{bad}");
        }
        for good in ["power", "nacelle/temp.max/v-1_2", "a/b/c/d"] {
            assert!(is_property(good), "{good}");
        }
        for bad in ["", "/", "a/", "/a", "a//b", "a/../b", "..", "a=b", "é"] {
            assert!(!is_property(bad), "{bad}");
        }
    }

    #[test]
    fn a_name_has_at_most_128_bytes() {
        let twin = |length: usize| format!("n/{}", "x".repeat(length - 2));
        assert!(is_twin(&twin(128)) && !is_twin(&twin(129)));
        assert!(is_property(&"x".repeat(128)) && !is_property(&"x".repeat(129)));
    }
}
