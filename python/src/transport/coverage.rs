//! Which bytes of a page have come.

/// The bytes of one page's shard so far. Nobody promises the order of its pieces.
#[derive(Debug, Default)]
pub(super) struct Coverage {
    /// All bytes below this are there.
    whole_to: usize,
    /// Beyond it, by where they begin.
    ahead: Vec<(usize, usize)>,
}

impl Coverage {
    /// A piece came. False: it lies over another one.
    pub(super) fn add(&mut self, offset: usize, bytes: usize) -> bool {
        let end = offset + bytes;
        if offset < self.whole_to || self.ahead.iter().any(|(start, stop)| offset < *stop && *start < end) {
            return false;
        }
        self.ahead.push((offset, end));
        while let Some(next) = self.ahead.iter().position(|(start, _)| *start == self.whole_to) {
            self.whole_to = self.ahead.swap_remove(next).1;
        }
        true
    }

    /// Whether so many bytes are there, and none beyond them.
    pub(super) fn is_whole(&self, bytes: usize) -> bool {
        self.whole_to == bytes && self.ahead.is_empty()
    }
}
