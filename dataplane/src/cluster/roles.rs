//! Who may write where, and where a reason must be given: roles and patterns.

/// Most roles in a cluster file.
pub const MAX_ROLES: usize = 64;
/// Most patterns of one role.
pub const MAX_PATTERNS: usize = 64;
/// Most patterns of properties that are changed with a reason only.
pub const MAX_REASON_PATTERNS: usize = 64;
/// Longest pattern, in bytes.
pub const MAX_PATTERN: usize = 512;

/// A role's place in the cluster file.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RoleId(pub u16);

/// A named set of patterns. Without a pattern it may read and nothing else.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Role {
    /// Its name, unique in the cluster.
    pub name: String,
    pub(super) write: Vec<Pattern>,
}

impl Role {
    /// A role that may write what the patterns cover.
    pub fn new(name: String, write: Vec<Pattern>) -> Self {
        Self { name, write }
    }

    /// What it may write.
    pub fn patterns(&self) -> &[Pattern] {
        &self.write
    }

    /// Whether one of the patterns covers the property of the twin.
    pub fn may_write(&self, twin: &str, property: &str) -> bool {
        self.write.iter().any(|pattern| pattern.covers(twin, property))
    }
}

/// What a role may write: `TWIN` or `TWIN:PROPERTY`. A part that ends in `*` covers all names that begin with what
/// stands before it; without a property, all of the twin's.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pattern {
    twin: Part,
    property: Part,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Part {
    Exactly(String),
    Prefix(String),
}

impl Part {
    fn parse(text: &str) -> Result<Self, PatternError> {
        let (name, part) = match text.strip_suffix('*') {
            Some(prefix) => (prefix, Self::Prefix(prefix.to_owned())),
            None if text.is_empty() => return Err(PatternError::Empty),
            None => (text, Self::Exactly(text.to_owned())),
        };
        match name.chars().find(|c| matches!(c, '*' | ':') || c.is_whitespace() || c.is_control()) {
            None => Ok(part),
            Some('*') => Err(PatternError::InnerStar),
            Some(c) => Err(PatternError::Character(c)),
        }
    }

    fn covers(&self, name: &str) -> bool {
        match self {
            Self::Exactly(text) => name == text,
            Self::Prefix(prefix) => name.starts_with(prefix.as_str()),
        }
    }
}

impl Pattern {
    /// Whether the property of the twin is covered.
    pub fn covers(&self, twin: &str, property: &str) -> bool {
        self.twin.covers(twin) && self.property.covers(property)
    }
}

impl std::fmt::Display for Pattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let part = |part: &Part| match part {
            Part::Exactly(text) => text.clone(),
            Part::Prefix(prefix) => format!("{prefix}*"),
        };
        write!(f, "{}:{}", part(&self.twin), part(&self.property))
    }
}

impl std::str::FromStr for Pattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        if text.len() > MAX_PATTERN {
            return Err(PatternError::TooLong);
        }
        let (twin, property) = text.split_once(':').unwrap_or((text, "*"));
        Ok(Self { twin: Part::parse(twin)?, property: Part::parse(property)? })
    }
}

/// Why a text is not a pattern.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PatternError {
    /// Longer than [`MAX_PATTERN`].
    #[error("a pattern has at most {MAX_PATTERN} bytes")]
    TooLong,
    /// No twin, or nothing behind the colon.
    #[error("a pattern is TWIN or TWIN:PROPERTY and neither part is empty; `*` covers everything")]
    Empty,
    /// A star that is not the last of its part.
    #[error("`*` stands only at the end of the twin or of the property, as in plant/*:command/*")]
    InnerStar,
    /// A character that no name has.
    #[error("no name has the character {0:?}; a pattern is TWIN or TWIN:PROPERTY")]
    Character(char),
}
