//! The random source of samples and mutations: the same numbers for the same seed, for good.

/// splitmix64 (Steele, Lea and Flood, 2014): short enough to be pinned here for good, unlike a library's generator.
#[derive(Clone)]
pub(crate) struct Rng(pub(crate) u64);

impl Rng {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    pub(crate) fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    /// A number of any magnitude, so that every width of an encoding is met.
    pub(crate) fn number(&mut self) -> u64 {
        let shift = self.below(65) as u32;
        self.next().checked_shr(shift).unwrap_or(0)
    }

    pub(crate) fn bytes(&mut self, most: usize) -> Vec<u8> {
        let length = self.below(most + 1);
        (0..length).map(|_| self.next() as u8).collect()
    }

    pub(crate) fn array<const N: usize>(&mut self) -> [u8; N] {
        std::array::from_fn(|_| self.next() as u8)
    }

    pub(crate) fn text(&mut self, most: usize) -> String {
        let length = self.below(most + 1);
        (0..length).map(|_| ['a', 'z', '/', '-', '7', 'é', '→'][self.below(7)]).collect()
    }

    pub(crate) fn list<T>(&mut self, most: usize, mut element: impl FnMut(&mut Self) -> T) -> Vec<T> {
        let length = self.below(most + 1);
        (0..length).map(|_| element(self)).collect()
    }
}
