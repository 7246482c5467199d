//! Where a watcher of one namespace is: what it has, and what the next stream is asked for. Pure.

use foreword_proto::wire::meta as wire;
use foreword_proto::{Epoch, NamespaceId, Revision};
use wire::watch_response::Kind;

/// One namespace of a stream, and what was told of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor {
    namespace: NamespaceId,
    epoch: Epoch,
    revision: Revision,
    /// Between a resync's begin and its end.
    resyncing: bool,
    /// This stream has gone on from what was told before, or its resync is whole: what it says of revisions holds here.
    tailing: bool,
}

impl Cursor {
    /// Nothing was told yet.
    pub fn new(namespace: NamespaceId) -> Self {
        Self { namespace, epoch: 0, revision: 0, resyncing: false, tailing: false }
    }

    /// Whose.
    pub fn namespace(&self) -> NamespaceId {
        self.namespace
    }

    /// The revision up to which everything was told.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// The epoch of the last resync; 0 before the first, and after a stream that could not go on.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// True between a resync's begin and its end: events may be of revisions that were told before.
    pub fn resyncing(&self) -> bool {
        self.resyncing
    }

    /// A new stream goes on where the last one was; a resync that was not whole begins again.
    pub fn open(&mut self) -> wire::WatchOpen {
        if self.resyncing {
            self.epoch = 0;
        }
        (self.resyncing, self.tailing) = (false, false);
        let from_revision = if self.epoch == 0 { 0 } else { self.revision };
        let Self { namespace: namespace_id, epoch, .. } = *self;
        wire::WatchOpen { namespace_id, from_revision, epoch, ..wire::WatchOpen::default() }
    }

    /// One message of the stream. False: it is of no further use, and the next one has to begin with a resync.
    pub fn take(&mut self, kind: &Kind) -> bool {
        match kind {
            Kind::Begin(begin) => {
                // Until the resync is whole there is nothing to go on from; it may be of a replica that has less.
                (self.epoch, self.revision, self.tailing, self.resyncing) = (begin.epoch, 0, false, true);
            }
            Kind::Bucket(_) => {}
            Kind::End(end) => {
                (self.tailing, self.resyncing) = (true, false);
                self.reached(end.revision);
            }
            Kind::Events(events) => {
                self.tailing |= !self.resyncing;
                self.reached(events.revision);
            }
            Kind::Progress(progress) => self.reached(progress.revision),
            Kind::Resync(_) | Kind::Dropped(_) => {
                self.epoch = 0;
                return false;
            }
        }
        true
    }

    fn reached(&mut self, revision: Revision) {
        if self.tailing {
            self.revision = self.revision.max(revision);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begin(revision: u64, epoch: u32) -> Kind {
        Kind::Begin(wire::ResyncBegin { revision, epoch, entries: 0, deleted_at: 0 })
    }

    fn events(revision: u64) -> Kind {
        Kind::Events(wire::Events { revision, entries: Vec::new() })
    }

    fn progress(revision: u64) -> Kind {
        Kind::Progress(wire::Progress { revision })
    }

    #[test]
    fn a_stream_goes_on_where_the_last_one_was() {
        let mut cursor = Cursor::new(3);
        let first = cursor.open();
        assert_eq!((first.namespace_id, first.from_revision, first.epoch), (3, 0, 0));
        for kind in [begin(5, 1), events(6), Kind::End(wire::ResyncEnd { revision: 6 }), progress(9)] {
            assert!(cursor.take(&kind));
        }
        let next = cursor.open();
        assert_eq!((next.from_revision, next.epoch), (9, 1));
        assert!(cursor.take(&progress(11)));
        assert_eq!(cursor.revision(), 9, "of a namespace that was not told of, progress says nothing");
        assert!(cursor.take(&events(12)));
        assert_eq!(cursor.revision(), 12);
    }

    #[test]
    fn nothing_is_reached_before_a_resync_is_whole() {
        let mut cursor = Cursor::new(3);
        cursor.open();
        for kind in [begin(5, 2), events(8), progress(8)] {
            assert!(cursor.take(&kind));
        }
        assert_eq!((cursor.revision(), cursor.epoch(), cursor.resyncing()), (0, 2, true));
        let again = cursor.open();
        assert_eq!((again.from_revision, again.epoch), (0, 0), "half of it is nothing to go on from");
    }

    #[test]
    fn a_stream_that_cannot_go_on_is_followed_by_a_resync() {
        let mut cursor = Cursor::new(3);
        cursor.open();
        cursor.take(&begin(5, 1));
        cursor.take(&Kind::End(wire::ResyncEnd { revision: 6 }));
        assert!(!cursor.take(&Kind::Resync(wire::Resync { reason: "cleared".into() })));
        assert_eq!(cursor.open().from_revision, 0);
    }
}
