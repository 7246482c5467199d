//! What a lookup answers: the leading pages this agent could deliver now, and from where.

/// The leading run of a lookup.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LeadingRun {
    pub pages: u32,
    pub l1_pages: u32,
    pub l3_pages: u32,
}

/// Where one page is now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PagePlace {
    pub in_l1: bool,
    /// On L3, where a get would read it now.
    pub on_l3: bool,
}

impl LeadingRun {
    /// Counts the next page if it can be delivered; false: the run ends before it.
    pub fn goes_on(&mut self, place: PagePlace) -> bool {
        match place {
            PagePlace { in_l1: true, .. } => self.l1_pages += 1,
            PagePlace { on_l3: true, .. } => self.l3_pages += 1,
            PagePlace { .. } => return false,
        }
        self.pages += 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_equals_the_longest_deliverable_prefix(pages in prop::collection::vec((any::<bool>(), any::<bool>()), 0..50)) {
            let mut run = LeadingRun::default();
            let places = pages.iter().map(|(in_l1, on_l3)| PagePlace { in_l1: *in_l1, on_l3: *on_l3 });
            let counted = places.take_while(|place| run.goes_on(*place)).count();
            let expected = pages.iter().take_while(|(l1, l3)| *l1 || *l3).count();
            prop_assert_eq!((run.pages as usize, counted), (expected, expected));
            prop_assert_eq!(run.l1_pages + run.l3_pages, run.pages);
            prop_assert_eq!(run.l1_pages as usize, pages[..expected].iter().filter(|(l1, _)| *l1).count());
        }
    }
}
