//! A growing list whose copies cost almost nothing: it lies in pages, which copies share until one of them changes a page.

use std::ops::{Index, IndexMut};
use std::sync::Arc;

/// Items of a page. A page that is shared is copied as a whole at its first change, so larger ones make changes after a copy
/// dearer, smaller ones the copy itself.
const PAGE: usize = 64;

/// A list of items in pages of [`PAGE`].
#[derive(Clone, Debug)]
pub(super) struct Pages<T> {
    /// Full pages.
    full: Vec<Arc<[T]>>,
    /// Fewer than [`PAGE`] items, which every copy has for itself.
    last: Vec<T>,
}

impl<T> Pages<T> {
    pub(super) fn new() -> Self {
        Self { full: Vec::new(), last: Vec::new() }
    }

    pub(super) fn len(&self) -> usize {
        self.full.len() * PAGE + self.last.len()
    }

    pub(super) fn push(&mut self, item: T) {
        self.last.push(item);
        if self.last.len() == PAGE {
            self.full.push(std::mem::take(&mut self.last).into());
        }
    }

    pub(super) fn get(&self, index: usize) -> Option<&T> {
        match self.full.get(index / PAGE) {
            Some(page) => page.get(index % PAGE),
            // Below the full pages the branch above is taken.
            None => self.last.get(index - self.full.len() * PAGE),
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.full.iter().flat_map(|page| page.iter()).chain(&self.last)
    }
}

impl<T> Index<usize> for Pages<T> {
    type Output = T;

    fn index(&self, index: usize) -> &T {
        match self.full.get(index / PAGE) {
            Some(page) => &page[index % PAGE],
            None => &self.last[index - self.full.len() * PAGE],
        }
    }
}

impl<T: Clone> IndexMut<usize> for Pages<T> {
    fn index_mut(&mut self, index: usize) -> &mut T {
        let start = self.full.len() * PAGE;
        match self.full.get_mut(index / PAGE) {
            Some(page) => &mut Arc::make_mut(page)[index % PAGE],
            None => &mut self.last[index - start],
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn pages_and_their_copies_are_lists(changes in prop::collection::vec((0..4u8, any::<usize>(), any::<u32>()), 0..600)) {
            let (mut pages, mut list) = (Pages::new(), Vec::new());
            let mut copies = Vec::new();
            for (kind, at, item) in changes {
                match kind {
                    0 if copies.len() < 8 => copies.push((pages.clone(), list.clone())),
                    1 if !list.is_empty() => {
                        let at = at % list.len();
                        pages[at] = item;
                        list[at] = item;
                    }
                    _ => {
                        pages.push(item);
                        list.push(item);
                    }
                }
            }
            copies.push((pages, list));
            for (pages, list) in copies {
                prop_assert_eq!((pages.len(), pages.get(list.len())), (list.len(), None));
                prop_assert!(pages.iter().eq(&list));
                for (at, item) in list.iter().enumerate() {
                    prop_assert_eq!((pages.get(at), &pages[at]), (Some(item), item));
                }
            }
        }
    }

    #[test]
    fn a_copy_shares_all_but_the_page_that_changes() {
        let mut pages = Pages::new();
        (0..10 * PAGE + 3).for_each(|item| pages.push(item));
        let copy = pages.clone();
        pages[5 * PAGE] = 0;
        pages[5 * PAGE + 1] = 0;
        pages[10 * PAGE] = 0;
        let shared = pages.full.iter().zip(&copy.full).map(|(page, copied)| Arc::ptr_eq(page, copied));
        assert_eq!(shared.filter(|is_shared| !is_shared).count(), 1);
        assert_eq!((copy[5 * PAGE], copy[10 * PAGE]), (5 * PAGE, 10 * PAGE));
    }
}
