//! Reading `/proc` and `/sys`, or a recorded copy of them below another root: bounded, and never failing on what it finds.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

/// The most bytes of a file that are looked at; the rest is as if it were not there.
pub const MAX_FILE: u64 = 1 << 20;
/// The most names of a directory that are looked at.
pub const MAX_NAMES: usize = 65_536;
/// Cores are numbered below this, as in a replica's configuration.
pub const MAX_CPUS: u32 = 4_096;

/// Where `/proc` and `/sys` are found.
#[derive(Clone, Debug)]
pub struct Root(PathBuf);

impl Root {
    /// Below this directory; `/` for the host itself.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self(dir.into())
    }

    /// Where an absolute path of the host lies.
    pub fn place(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        self.0.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// Whether something is there.
    pub fn has(&self, path: &str) -> bool {
        self.place(path).exists()
    }

    /// A file's text without space around it; `None` where it is not there, not a file or not to be read.
    pub fn read(&self, path: impl AsRef<Path>) -> Option<String> {
        let place = self.place(path);
        // Anything else, a pipe for example, could be waited on for ever.
        if !fs::metadata(&place).ok()?.is_file() {
            return None;
        }
        let mut bytes = Vec::new();
        File::open(place).ok()?.take(MAX_FILE).read_to_end(&mut bytes).ok()?;
        Some(String::from_utf8_lossy(&bytes).trim().to_owned())
    }

    /// A file that holds one number.
    pub fn number(&self, path: impl AsRef<Path>) -> Option<u64> {
        self.read(path)?.parse().ok()
    }

    /// A file that holds a list of cores.
    pub fn cpus(&self, path: impl AsRef<Path>) -> Option<Cpus> {
        Cpus::parse(&self.read(path)?)
    }

    /// The names in a directory, sorted; none where it is not there.
    pub fn names(&self, path: impl AsRef<Path>) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.place(path)) else { return Vec::new() };
        let mut names: Vec<String> =
            entries.take(MAX_NAMES).filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
        names.sort_unstable();
        names
    }

    /// The numbered directories `prefixN` of a directory, by number.
    pub fn numbered(&self, path: &str, prefix: &str) -> Vec<u32> {
        let number = |name: &String| name.strip_prefix(prefix)?.parse().ok();
        let mut numbers: Vec<u32> = self.names(path).iter().filter_map(number).collect();
        numbers.sort_unstable();
        numbers
    }
}

/// A set of cores, written as the kernel does: `0-3,8`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Cpus(pub BTreeSet<u32>);

impl Cpus {
    /// Reads a list; `None` where it is none, or names a core of [`MAX_CPUS`] or above.
    pub fn parse(text: &str) -> Option<Self> {
        let mut cpus = BTreeSet::new();
        for part in text.trim().split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
            if first > last || last >= MAX_CPUS {
                return None;
            }
            cpus.extend(first..=last);
        }
        Some(Self(cpus))
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether this one is among them.
    pub fn has(&self, cpu: u32) -> bool {
        self.0.contains(&cpu)
    }

    /// Those that are not among others.
    pub fn without(&self, others: &Self) -> Self {
        Self(self.0.difference(&others.0).copied().collect())
    }

    /// Those that are among others too.
    pub fn common(&self, others: &Self) -> Self {
        Self(self.0.intersection(&others.0).copied().collect())
    }
}

impl fmt::Display for Cpus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut cpus = self.0.iter().copied().peekable();
        let mut separator = "";
        while let Some(first) = cpus.next() {
            let mut last = first;
            while let Some(next) = cpus.next_if_eq(&(last + 1)) {
                last = next;
            }
            match first == last {
                true => write!(f, "{separator}{first}")?,
                false => write!(f, "{separator}{first}-{last}")?,
            }
            separator = ",";
        }
        Ok(())
    }
}

/// The choice in brackets of a file such as `always [madvise] never`, or its only word.
pub fn chosen(text: &str) -> Option<&str> {
    let bracketed = text.split_whitespace().find_map(|word| word.strip_prefix('[')?.strip_suffix(']'));
    bracketed.or_else(|| Some(text).filter(|text| !text.is_empty() && !text.contains(char::is_whitespace)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_cores_read_and_write_as_the_kernel_has_them() {
        for text in ["", "0", "0-3", "0-1,4,6-7", "4095"] {
            assert_eq!(Cpus::parse(text).map(|cpus| cpus.to_string()).as_deref(), Some(text));
        }
        assert_eq!(Cpus::parse(" 3,1-2 \n").map(|cpus| cpus.to_string()).as_deref(), Some("1-3"));
        for text in ["x", "3-1", "0-4294967295", "4096", "1-", "-1", "1;2", "0x3"] {
            assert_eq!(Cpus::parse(text), None, "{text}");
        }
    }

    #[test]
    fn the_chosen_word_is_the_one_in_brackets() {
        assert_eq!(chosen("always [madvise] never"), Some("madvise"));
        assert_eq!(chosen("none"), Some("none"));
        assert_eq!(chosen("a b"), None);
        assert_eq!(chosen(""), None);
    }

    #[test]
    fn what_is_no_readable_file_is_not_there() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        fs::create_dir_all(dir.path().join("sys/cpu7")).unwrap();
        fs::create_dir_all(dir.path().join("sys/cpux")).unwrap();
        fs::write(dir.path().join("sys/huge"), vec![b'9'; (MAX_FILE + 5) as usize]).unwrap();
        fs::write(dir.path().join("sys/bytes"), [0xff, 0xfe, 0]).unwrap();
        assert_eq!(root.read("/sys"), None);
        assert_eq!(root.read("/sys/absent"), None);
        assert_eq!(root.read("/sys/huge").map(|text| text.len() as u64), Some(MAX_FILE));
        assert_eq!(root.number("/sys/huge"), None);
        assert!(root.read("/sys/bytes").is_some());
        assert_eq!(root.numbered("/sys", "cpu"), [7]);
    }
}
