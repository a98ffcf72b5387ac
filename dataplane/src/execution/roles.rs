//! Who may write where: the patterns of an identity's role.

use std::str::FromStr;

use crate::state::Access;

/// A write pattern `TWIN[:PROPERTY]`: each part is a name, or with `*` at its end the beginning of one. Without a property all
/// of the twin's properties are meant.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pattern {
    twin: Part,
    property: Part,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Part {
    Exact(String),
    Prefix(String),
}

/// A text is no pattern.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0:?} is no write pattern: TWIN or TWIN:PROPERTY, each with at most one * at its end")]
pub struct PatternError(String);

impl Part {
    fn read(text: &str) -> Option<Self> {
        let (name, is_prefix) = text.strip_suffix('*').map_or((text, false), |prefix| (prefix, true));
        if name.contains(['*', ':']) || (name.is_empty() && !is_prefix) {
            return None;
        }
        Some(if is_prefix { Self::Prefix(name.to_owned()) } else { Self::Exact(name.to_owned()) })
    }

    fn matches(&self, name: &str) -> bool {
        match self {
            Self::Exact(exact) => name == exact,
            Self::Prefix(prefix) => name.starts_with(prefix.as_str()),
        }
    }
}

impl FromStr for Pattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        let (twin, property) = text.split_once(':').unwrap_or((text, "*"));
        match (Part::read(twin), Part::read(property)) {
            (Some(twin), Some(property)) => Ok(Self { twin, property }),
            _ => Err(PatternError(text.to_owned())),
        }
    }
}

/// The rights of one identity.
pub(super) struct Rights<'a>(pub(super) &'a [Pattern]);

impl Access for Rights<'_> {
    fn may_write(&self, twin: &str, property: &str) -> bool {
        self.0.iter().any(|pattern| pattern.twin.matches(twin) && pattern.property.matches(property))
    }
}
