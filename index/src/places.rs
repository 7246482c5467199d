//! Where a bucket's entries are: positions by tags, in one run of 32-bit cells sorted by tag, with gaps.
//!
//! A tag's cell is at its home (its share of the range of tags, as far into the run) or a little behind it, so that
//! both a hit and a miss end after a cell or three. Cells carry all that is needed to move them: no entry is touched to
//! make room. 4 bytes a cell, 5 to 6 a page.

/// The upper half of a key's spread that a bucket does not use.
pub(crate) type Tag = u16;

/// Positions that a cell can name.
pub(crate) const POSITIONS_MAX: usize = u16::MAX as usize;

/// Cells behind the last home, for what is pushed there; more where keys are no digests.
const CELLS_BEHIND: usize = 8;

/// The tag in the upper half, the position and one in the lower; 0 for a gap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Cell(u32);

impl Cell {
    const GAP: Self = Self(0);

    fn new(tag: Tag, position: usize) -> Self {
        Self(u32::from(tag) << 16 | (position as u32 + 1))
    }

    fn is_gap(self) -> bool {
        self.0 == 0
    }

    fn tag(self) -> Tag {
        (self.0 >> 16) as Tag
    }

    fn position(self) -> usize {
        (self.0 & 0xffff) as usize - 1
    }
}

/// Finds positions by tag.
#[derive(Debug, Clone, Default)]
pub(crate) struct Places {
    cells: Box<[Cell]>,
    /// Cells that can be homes: the first ones.
    homes: u32,
    used: u32,
}

impl Places {
    fn home(&self, tag: Tag) -> usize {
        (usize::from(tag) * self.homes as usize) >> Tag::BITS
    }

    /// Reads the cell where a search for this tag starts, so that it is in the cache when the search comes.
    pub(crate) fn touch(&self, tag: Tag) -> u32 {
        self.cells.get(self.home(tag)).map_or(0, |cell| cell.0)
    }

    /// The first position under this tag that fits.
    pub(crate) fn find(&self, tag: Tag, mut fits: impl FnMut(usize) -> bool) -> Option<usize> {
        let cell = self.cell_of(tag, &mut fits)?;
        Some(self.cells[cell].position())
    }

    fn cell_of(&self, tag: Tag, fits: &mut impl FnMut(usize) -> bool) -> Option<usize> {
        let home = self.home(tag);
        for (at, cell) in self.cells.get(home..)?.iter().enumerate() {
            if cell.is_gap() || cell.tag() > tag {
                return None;
            }
            if cell.tag() == tag && fits(cell.position()) {
                return Some(home + at);
            }
        }
        None
    }

    /// Adds a position under a tag.
    pub(crate) fn insert(&mut self, tag: Tag, position: usize) {
        // At four fifths; a quarter more then fit.
        if (self.used + 1) * 5 > self.homes * 4 {
            self.rebuild(CELLS_BEHIND);
        }
        while !self.put(Cell::new(tag, position)) {
            self.rebuild(2 * (self.cells.len() - self.homes as usize));
        }
        self.used += 1;
    }

    /// Puts a cell in its place, pushing those of higher tags; false if they reach the end.
    fn put(&mut self, cell: Cell) -> bool {
        let mut at = self.home(cell.tag());
        while at < self.cells.len() && !self.cells[at].is_gap() && self.cells[at].tag() <= cell.tag() {
            at += 1;
        }
        let Some(gap) = self.cells[at..].iter().position(|cell| cell.is_gap()) else { return false };
        self.cells.copy_within(at..at + gap, at + 1);
        self.cells[at] = cell;
        true
    }

    /// Takes a position out; nothing if it is not there.
    pub(crate) fn remove(&mut self, tag: Tag, position: usize) {
        let Some(at) = self.cell_of(tag, &mut |found| found == position) else { return };
        // What was pushed behind its home comes a cell closer.
        let follow = self.cells[at + 1..].iter().enumerate();
        let pushed = follow.take_while(|(i, cell)| !cell.is_gap() && self.home(cell.tag()) < at + 1 + i).count();
        self.cells.copy_within(at + 1..at + 1 + pushed, at);
        self.cells[at + pushed] = Cell::GAP;
        self.used -= 1;
        if self.used * 3 < self.homes.saturating_sub(16) {
            self.rebuild(CELLS_BEHIND);
        }
    }

    /// The entry at `from` is at `to` now.
    pub(crate) fn moved(&mut self, tag: Tag, from: usize, to: usize) {
        if let Some(at) = self.cell_of(tag, &mut |found| found == from) {
            self.cells[at] = Cell::new(tag, to);
        }
    }

    /// Makes homes for a quarter more than there is, and at least `behind` cells behind them.
    fn rebuild(&mut self, mut behind: usize) {
        self.homes = self.used * 25 / 16 + 4;
        let old = std::mem::take(&mut self.cells);
        loop {
            self.cells = vec![Cell::GAP; self.homes as usize + behind].into();
            let mut cells = old.iter().filter(|cell| !cell.is_gap());
            if cells.all(|cell| self.put(*cell)) {
                return;
            }
            behind *= 2;
        }
    }

    /// Heap bytes.
    pub(crate) fn heap_bytes(&self) -> usize {
        self.cells.len() * size_of::<Cell>()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn all_found(places: &Places, model: &BTreeSet<(Tag, usize)>) {
        assert_eq!(places.used as usize, model.len());
        for (tag, position) in model {
            assert_eq!(places.find(*tag, |found| found == *position), Some(*position));
        }
        let tags: Vec<Tag> = places.cells.iter().filter(|cell| !cell.is_gap()).map(|cell| cell.tag()).collect();
        assert!(tags.is_sorted());
    }

    proptest! {
        /// Few tags, so that many share one; and the ends of the range.
        #[test]
        fn places_are_found_whatever_came_and_went(
            steps in prop::collection::vec((prop::sample::select(vec![0u16, 1, 2, 700, 40_000, 65_534, 65_535]), 0usize..40), 1..300),
        ) {
            let (mut places, mut model) = (Places::default(), BTreeSet::new());
            for (tag, position) in steps {
                if model.remove(&(tag, position)) {
                    places.remove(tag, position);
                } else {
                    places.insert(tag, position);
                    model.insert((tag, position));
                }
                all_found(&places, &model);
            }
        }
    }

    #[test]
    fn a_full_run_takes_six_bytes_a_place_at_most_and_gives_them_back() {
        let mut places = Places::default();
        let tag = |position: usize| (position as u16).wrapping_mul(40_503);
        for position in 0..POSITIONS_MAX {
            places.insert(tag(position), position);
        }
        assert!(places.heap_bytes() <= POSITIONS_MAX * 13 / 2, "{}", places.heap_bytes());
        for position in 100..POSITIONS_MAX {
            places.remove(tag(position), position);
        }
        assert!(places.heap_bytes() < 4096, "{}", places.heap_bytes());
        assert!((0..100).all(|position| places.find(tag(position), |found| found == position).is_some()));
    }
}
