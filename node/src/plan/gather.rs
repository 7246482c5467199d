//! Which shards of a page have arrived.
//!
//! Each shard has one writer at a time; a second one for the same shard joins the page as a waiter and its bytes are
//! not looked at.

/// Names one put call within its agent.
pub type WriterId = u64;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Shard {
    Absent,
    Arriving { writer: WriterId, bytes: u64 },
    Arrived { checksum: u64 },
}

/// What a writer is to do with its bytes of a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begin {
    /// It is the shard's writer.
    Write,
    /// Another one is, or was: discard the bytes and wait for the page.
    Join,
}

/// What accepting a piece led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accepted {
    /// More of the shard is to come.
    More,
    /// The shard's last byte is here: checksum it, then [`Gather::arrived`].
    Whole,
}

/// A piece that does not continue its shard: what was expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Misplaced {
    pub offset_expected: u64,
    pub shard_bytes: u64,
}

/// The shards of one page on their way in.
#[derive(Debug, Clone)]
pub struct Gather {
    shard_bytes: Vec<u64>,
    shards: Vec<Shard>,
}

impl Gather {
    /// A page of which nothing has arrived.
    pub fn new(shard_bytes: &[u64]) -> Self {
        Self { shard_bytes: shard_bytes.to_vec(), shards: vec![Shard::Absent; shard_bytes.len()] }
    }

    /// A writer has bytes of this shard.
    pub fn begin(&mut self, shard: usize, writer: WriterId) -> Begin {
        match &self.shards[shard] {
            Shard::Absent => {
                self.shards[shard] = Shard::Arriving { writer, bytes: 0 };
                Begin::Write
            }
            Shard::Arriving { writer: present, .. } if *present == writer => Begin::Write,
            _ => Begin::Join,
        }
    }

    /// A piece of a shard from its writer, in order and without gaps. A writer that lost the shard gets `Misplaced`
    /// too.
    pub fn accept(&mut self, shard: usize, writer: WriterId, offset: u64, len: u64) -> Result<Accepted, Misplaced> {
        let shard_bytes = self.shard_bytes[shard];
        let Shard::Arriving { writer: present, bytes } = &mut self.shards[shard] else {
            return Err(Misplaced { offset_expected: 0, shard_bytes });
        };
        let fits = offset.checked_add(len).is_some_and(|end| end <= shard_bytes);
        if *present != writer || offset != *bytes || !fits {
            return Err(Misplaced { offset_expected: *bytes, shard_bytes });
        }
        *bytes += len;
        Ok(if *bytes == shard_bytes { Accepted::Whole } else { Accepted::More })
    }

    /// The shard's bytes are whole and have this checksum. True if the page is whole now.
    pub fn arrived(&mut self, shard: usize, checksum: u64) -> bool {
        self.shards[shard] = Shard::Arrived { checksum };
        self.checksums().is_some()
    }

    /// True if all bytes of this shard are here.
    pub fn has(&self, shard: usize) -> bool {
        matches!(self.shards[shard], Shard::Arrived { .. })
    }

    /// The writer is gone: a shard it had not finished is open to another.
    pub fn abandon(&mut self, shard: usize, writer: WriterId) {
        if matches!(&self.shards[shard], Shard::Arriving { writer: present, .. } if *present == writer) {
            self.shards[shard] = Shard::Absent;
        }
    }

    /// Shards of which not all bytes are here.
    pub fn missing(&self) -> impl Iterator<Item = usize> {
        (0..self.shards.len()).filter(|shard| !self.has(*shard))
    }

    /// True if nothing has arrived and nobody is writing.
    pub fn is_empty(&self) -> bool {
        self.shards.iter().all(|shard| *shard == Shard::Absent)
    }

    /// One checksum a shard, once the page is whole.
    pub fn checksums(&self) -> Option<Vec<u64>> {
        self.shards
            .iter()
            .map(|shard| match shard {
                Shard::Arrived { checksum } => Some(*checksum),
                _ => None,
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_second_writer_of_a_shard_joins_and_may_take_over_only_from_one_that_left() {
        let mut gather = Gather::new(&[10]);
        assert_eq!(gather.begin(0, 1), Begin::Write);
        assert_eq!(gather.begin(0, 2), Begin::Join);
        assert_eq!(gather.accept(0, 1, 0, 4), Ok(Accepted::More));
        assert!(gather.accept(0, 2, 4, 6).is_err());
        gather.abandon(0, 2);
        assert_eq!(gather.begin(0, 2), Begin::Join);
        gather.abandon(0, 1);
        assert!(gather.is_empty());
        assert_eq!(gather.begin(0, 2), Begin::Write);
        assert_eq!(gather.accept(0, 2, 0, 10), Ok(Accepted::Whole));
        assert!(gather.arrived(0, 7));
        assert_eq!(gather.begin(0, 3), Begin::Join);
    }

    #[test]
    fn a_piece_out_of_place_is_refused_and_changes_nothing() {
        let mut gather = Gather::new(&[10]);
        gather.begin(0, 1);
        gather.accept(0, 1, 0, 4).unwrap();
        for (offset, len) in [(0, 4), (5, 1), (4, 7), (u64::MAX, 2)] {
            assert_eq!(gather.accept(0, 1, offset, len), Err(Misplaced { offset_expected: 4, shard_bytes: 10 }));
        }
        assert_eq!(gather.accept(0, 1, 4, 6), Ok(Accepted::Whole));
    }

    proptest! {
        /// A page is whole exactly when each shard has had all its bytes from one writer, whatever the order of calls.
        #[test]
        fn a_page_is_whole_when_every_shard_is(
            steps in prop::collection::vec((0usize..3, 0u64..3, 1u64..4, 0u8..8), 0..200),
        ) {
            let sizes = [3u64, 5, 2];
            let mut gather = Gather::new(&sizes);
            let mut model: [(Option<u64>, u64, bool); 3] = [(None, 0, false); 3];
            for (shard, writer, len, what) in steps {
                let (owner, bytes, done) = &mut model[shard];
                if what == 0 {
                    gather.abandon(shard, writer);
                    if !*done && *owner == Some(writer) { (*owner, *bytes) = (None, 0); }
                    continue;
                }
                let begin = gather.begin(shard, writer);
                if !*done && owner.is_none() { *owner = Some(writer); }
                let mine = !*done && *owner == Some(writer);
                prop_assert_eq!(begin == Begin::Write, mine);
                let accepted = gather.accept(shard, writer, *bytes, len);
                let fits = mine && *bytes + len <= sizes[shard];
                prop_assert_eq!(accepted.is_ok(), fits);
                if fits { *bytes += len; }
                if accepted == Ok(Accepted::Whole) {
                    prop_assert_eq!(*bytes, sizes[shard]);
                    *done = true;
                    let whole = gather.arrived(shard, shard as u64);
                    prop_assert_eq!(whole, model.iter().all(|(_, _, done)| *done));
                }
            }
            prop_assert_eq!(gather.checksums().is_some(), model.iter().all(|(_, _, done)| *done));
        }
    }
}
