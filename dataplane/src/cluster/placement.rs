//! Which cores a replica's threads use.

use std::fmt;
use std::str::FromStr;

use super::settings::LocalConfig;

/// Cores that a set can hold, numbered from 0.
pub const MAX_CORES: usize = 1024;

/// The longest text of a set.
const MAX_TEXT: usize = 4096;

/// What a text in the place of a list of cores is not.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("cores are listed as numbers and ranges up to 1023, such as 0-3,8")]
pub struct CoresError;

/// Some cores of a host.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct CoreSet([u64; MAX_CORES / 64]);

impl CoreSet {
    /// No core.
    pub const EMPTY: Self = Self([0; MAX_CORES / 64]);

    /// Whether a core is among them.
    pub fn has(&self, core: usize) -> bool {
        self.0.get(core / 64).is_some_and(|word| word >> (core % 64) & 1 == 1)
    }

    /// Takes a core in; one beyond [`MAX_CORES`] is left out.
    pub fn insert(&mut self, core: usize) {
        if let Some(word) = self.0.get_mut(core / 64) {
            *word |= 1 << (core % 64);
        }
    }

    /// Takes a core out.
    pub fn remove(&mut self, core: usize) {
        if let Some(word) = self.0.get_mut(core / 64) {
            *word &= !(1 << (core % 64));
        }
    }

    /// Every core of the set, in order.
    pub fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        (0..MAX_CORES).filter(|core| self.has(*core))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }

    /// Those that are not in `other`.
    #[must_use]
    pub fn without(&self, other: &Self) -> Self {
        Self(std::array::from_fn(|place| self.0[place] & !other.0[place]))
    }
}

impl FromIterator<usize> for CoreSet {
    fn from_iter<I: IntoIterator<Item = usize>>(cores: I) -> Self {
        let mut set = Self::EMPTY;
        cores.into_iter().for_each(|core| set.insert(core));
        set
    }
}

impl FromStr for CoreSet {
    type Err = CoresError;

    fn from_str(text: &str) -> Result<Self, CoresError> {
        if text.len() > MAX_TEXT {
            return Err(CoresError);
        }
        let core = |text: &str| text.trim().parse::<usize>().ok().filter(|core| *core < MAX_CORES).ok_or(CoresError);
        let mut set = Self::EMPTY;
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (core(first)?, core(last)?);
            if first > last {
                return Err(CoresError);
            }
            (first..=last).for_each(|core| set.insert(core));
        }
        Ok(set)
    }
}

impl fmt::Display for CoreSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut cores = self.iter().peekable();
        let mut comma = "";
        while let Some(first) = cores.next() {
            let mut last = first;
            while let Some(next) = cores.next_if(|next| *next == last + 1) {
                last = next;
            }
            match last {
                last if last == first => write!(f, "{comma}{first}")?,
                last => write!(f, "{comma}{first}-{last}")?,
            }
            comma = ",";
        }
        Ok(())
    }
}

impl fmt::Debug for CoreSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CoreSet({self})")
    }
}

/// Where a replica's threads run.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Placement {
    /// The core of the thread that orders and executes; where there is none the system chooses.
    pub core: Option<usize>,
    /// The cores of all others, without that one; where there are none those that the process was started with.
    pub helpers: Option<CoreSet>,
}

/// What can be changed of a replica while it runs.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Live {
    /// `[local]`.
    pub local: LocalConfig,
    /// `core` and `helper_cores`.
    pub placement: Placement,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_are_read_and_written_as_the_kernel_lists_them() {
        for (text, shown, count) in
            [("0", "0", 1), ("0-3,8", "0-3,8", 5), ("3,1,2", "1-3", 3), (" 5 - 6 , 900-1023", "5-6,900-1023", 126)]
        {
            let set: CoreSet = text.parse().unwrap();
            assert_eq!((set.to_string().as_str(), set.len()), (shown, count));
            assert_eq!(set.to_string().parse(), Ok(set));
        }
        for wrong in ["", ",", "1,", "-1", "1-", "3-1", "1024", "0-1024", "a", "0x1", &"1,".repeat(5_000)] {
            assert_eq!(wrong.parse::<CoreSet>(), Err(CoresError), "{wrong:.20}");
        }
    }

    #[test]
    fn what_is_taken_out_is_gone() {
        let mut set: CoreSet = "0-5".parse().unwrap();
        set.remove(2);
        set.remove(5_000);
        assert_eq!((set.to_string().as_str(), set.has(2), set.has(3)), ("0-1,3-5", false, true));
        assert_eq!(set.without(&"0-3".parse().unwrap()).to_string(), "4-5");
        assert!(set.without(&set).is_empty() && !set.is_empty());
    }
}
