//! The agent's DRAM: segments of shared memory cut into frames, one page a frame.
//!
//! - A segment has one tenant and one frame size for as long as it exists. A segment without used frames may be
//!   *replaced*: its memory goes back and fresh, zeroed memory is mapped for another tenant or size. So no tenant ever
//!   sees, through a mapping of its own or through the padding between shards, a byte of another tenant.
//! - A frame is either owned by one [`FrameMut`], which writes, or held by any number of [`Frame`]s, which read. When
//!   the last holder is gone the frame is free.
//! - Each use of a frame has its own generation, in shared memory behind the frames and bumped before the frame is
//!   refilled: who copied from a frame and then sees the same generation has copied what he wanted.
//! - A frame is taken from the segments that exist, in constant time. A segment is *ordered* for whoever found no
//!   frame, and ahead of need; making one takes its time and is done by [`Arena::make_next`], apart from those who
//!   take.
//! - A frame whose I/O was never answered is [`Quarantined`]: nobody gets it again before the answer comes, or before
//!   its whole segment is replaced.
//!
//! All `unsafe` of the agent's memory is in `region.rs`, `segment.rs` and `frame.rs`.

mod books;
mod frame;
pub(crate) mod lease;
#[cfg(test)]
mod order_tests;
#[cfg(test)]
mod parts_tests;
mod region;
mod segment;
mod share;
mod shared;
#[cfg(test)]
mod tests;

use std::io;
use std::sync::Arc;

use foreword_proto::BadInput;
use foreword_proto::status::ArenaStatus;

use books::{Books, Order};
use segment::Segment;
use shared::Shared;

pub use books::SegmentUse;
pub use frame::{Frame, FrameId, FrameMut, FramePart, Quarantined};
pub use region::{HeapRegions, MemfdRegions, Region, RegionMemory, RegionProvider};
pub use share::{SegmentShare, SegmentWatch};

/// Frames start at multiples of this; a frame's size is rounded up to it.
pub const FRAME_ALIGN_BYTES: u64 = 4096;
/// Largest segment [`ArenaSettings::new`] chooses, but in a very large arena: making one (a memfd, taken and mapped)
/// takes 44 to 59 ms, where 1 GiB takes 0.8 to 1.0 s, and what another tenant or frame size wants is one of these.
pub const SEGMENT_BYTES_DEFAULT_MAX: u64 = 64 << 20;
/// Smallest segment [`ArenaSettings::new`] chooses, in an arena that has this much.
pub const SEGMENT_BYTES_DEFAULT_MIN: u64 = 256 << 10;
/// Segments [`ArenaSettings::new`] aims for in a small arena: many tenants and sizes find room side by side.
const SEGMENTS_DEFAULT: u64 = 64;
/// Segments at most in a large one: each is registered with a 3FS daemon.
const SEGMENTS_DEFAULT_MAX: u64 = 1024;
const HUGE_PAGE_BYTES: u64 = 2 << 20;

/// Name of a segment; never reused, so a replaced segment has another one.
pub type SegmentId = u32;
/// Number of a tenant on this agent. The caller maps tenant names to numbers.
pub type TenantId = u32;

/// Sizes of an arena, in bytes of frames. The generations take another 8 bytes a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ArenaSettings {
    pub arena_bytes: u64,
    /// Bytes of one segment, rounded down to whole frames; one frame if a frame is larger. At most `arena_bytes`.
    pub segment_bytes: u64,
}

impl ArenaSettings {
    /// An arena of this size with the default segments: 1/64 of it, 256 KiB to 64 MiB, and 1/1024 from 64 GiB on.
    pub fn new(arena_bytes: u64) -> Self {
        let wanted = (arena_bytes / SEGMENTS_DEFAULT).clamp(SEGMENT_BYTES_DEFAULT_MIN, SEGMENT_BYTES_DEFAULT_MAX);
        let wanted = wanted.max(arena_bytes / SEGMENTS_DEFAULT_MAX);
        let unit = if wanted >= HUGE_PAGE_BYTES { HUGE_PAGE_BYTES } else { FRAME_ALIGN_BYTES };
        Self { arena_bytes, segment_bytes: (wanted / unit * unit).min(arena_bytes) }
    }

    fn validate(&self) -> Result<(), BadInput> {
        if self.arena_bytes < FRAME_ALIGN_BYTES {
            let expected = format!("at least {FRAME_ALIGN_BYTES} bytes, got {}", self.arena_bytes);
            return Err(BadInput::new("arena_bytes", expected));
        }
        if self.segment_bytes < FRAME_ALIGN_BYTES || self.segment_bytes > self.arena_bytes {
            let expected =
                format!("{FRAME_ALIGN_BYTES} bytes to arena_bytes ({}), got {}", self.arena_bytes, self.segment_bytes);
            return Err(BadInput::new("segment_bytes", expected));
        }
        Ok(())
    }
}

/// Why an arena could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ArenaError {
    #[error(transparent)]
    Settings(#[from] BadInput),
    #[error("no memory for an arena of {arena_bytes} bytes: {error}")]
    Region { arena_bytes: u64, error: io::Error },
}

/// No frame could be had, and no segment be made for one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no free frame of {needed_bytes} bytes")]
pub struct NoRoom {
    pub needed_bytes: u64,
}

/// Why no frame is free now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// A segment is on its way: giving up other pages would help nobody.
    Ordered,
    /// There is room for no more segments. Who holds pages in frames gives some up and tries again.
    Full,
    /// Segments cannot be made at present: a frame comes only from this class's own pages.
    Stalled,
}

/// What became of the next order.
#[derive(Debug)]
pub enum Made {
    /// There was none.
    Nothing,
    Segment,
    /// No memory could be had; the order stays.
    Failed(io::Error),
}

/// The arena; clones share it. Frames outlive it.
#[derive(Clone)]
pub struct Arena(Arc<Inner>);

struct Inner {
    settings: ArenaSettings,
    provider: Arc<dyn RegionProvider>,
    shared: Arc<Shared>,
}

impl Arena {
    /// An arena without segments; they are made when frames are first wanted.
    ///
    /// Errors: sizes out of range, or the provider cannot promise the memory.
    pub fn new(settings: ArenaSettings, provider: Arc<dyn RegionProvider>) -> Result<Self, ArenaError> {
        settings.validate()?;
        let arena_bytes = settings.arena_bytes;
        provider.reserve(arena_bytes).map_err(|error| ArenaError::Region { arena_bytes, error })?;
        let shared = Arc::new(Shared::new(Books::new(settings)));
        Ok(Self(Arc::new(Inner { settings, provider, shared })))
    }

    /// A free frame of this class, for a page of `frame_bytes`; takes constant time. Its bytes are zeros or what an
    /// earlier page of the same tenant left.
    pub fn take(&self, class: FrameClass, frame_bytes: u64) -> Result<FrameMut, Missing> {
        let shared = &self.0.shared;
        let (taken, ordered) = {
            let mut books = shared.books.lock();
            (books.take(class), books.has_orders())
        };
        if ordered {
            shared.orders_changed();
        }
        let (segment, index) = taken?;
        Ok(FrameMut::new(segment, index, frame_bytes))
    }

    /// A segment for pages that will come, if there is room that nobody has.
    pub fn prepare(&self, class: FrameClass) {
        self.0.shared.books.lock().prepare(class);
        self.0.shared.orders_changed();
    }

    /// A free frame of `tenant`, at least 1 byte long, for who has nobody to make segments: they are made here, which
    /// takes its time.
    pub fn allocate(&self, tenant: TenantId, frame_bytes: u64) -> Result<FrameMut, NoRoom> {
        let no_room = NoRoom { needed_bytes: frame_bytes };
        let class = FrameClass::new(tenant, frame_bytes).ok_or(no_room)?;
        loop {
            match self.take(class, frame_bytes) {
                Ok(frame) => return Ok(frame),
                Err(Missing::Full) => return Err(no_room),
                Err(Missing::Ordered | Missing::Stalled) => match self.make_next() {
                    Made::Segment => {}
                    Made::Nothing | Made::Failed(_) => return Err(no_room),
                },
            }
        }
    }

    /// Makes the segment that was ordered first, in place of those it replaces. Unmaps and maps memory: not for who
    /// serves calls.
    pub fn make_next(&self) -> Made {
        let shared = &self.0.shared;
        let order = shared.books.lock().next_order();
        let Some(mut order) = order else { return Made::Nothing };
        order.replaced.clear();
        let Order { id, class, frames, .. } = order;
        let made = match self.0.provider.region(Segment::region_bytes(class, frames)) {
            Ok(region) => {
                let segment = Segment::new(id, class, frames, region, Arc::downgrade(shared));
                shared.books.lock().enter(Arc::new(segment));
                Made::Segment
            }
            Err(error) => {
                shared.books.lock().give_back(order);
                Made::Failed(error)
            }
        };
        // Also when it failed: nobody waits for a segment then.
        shared.frames_changed();
        made
    }

    /// Waits until there may be something for [`Self::make_next`] or [`Self::forget_retired`].
    pub async fn ordered(&self) {
        self.0.shared.ordered().await;
    }

    /// Gives the memory of retired segments back whose frames nobody holds any more. False: some are held still.
    pub fn forget_retired(&self) -> bool {
        let (forgotten, held) = {
            let mut books = self.0.shared.books.lock();
            (books.forgotten(), books.has_retired())
        };
        drop(forgotten);
        !held && self.0.provider.all_let_go()
    }

    /// Somebody waits for a frame from now on, until as many [`Self::remove_waiters`]; he looks once more after this.
    pub fn add_waiter(&self) {
        self.0.shared.add_waiter();
    }

    /// So many do not wait any more.
    pub fn remove_waiters(&self, waiters: usize) {
        self.0.shared.remove_waiters(waiters);
    }

    /// How many wait for a frame.
    pub fn waiters(&self) -> usize {
        self.0.shared.waiters()
    }

    /// Tells who serves the waiters that a frame may be had.
    pub fn frames_changed(&self) {
        self.0.shared.frames_changed();
    }

    /// Waits until a frame may be had that could not be had before. For one task: it serves the waiters.
    pub async fn changed(&self) {
        self.0.shared.changed().await;
    }

    /// Whether one frame of this size fits into the arena at all.
    pub fn fits(&self, frame_bytes: u64) -> bool {
        FrameClass::new(0, frame_bytes).is_some_and(|class| class.frame_bytes <= self.0.settings.arena_bytes)
    }

    /// The sizes it was made with.
    pub fn settings(&self) -> ArenaSettings {
        self.0.settings
    }

    /// The frame part of the status; `pages` and `pinned_pages` are the tier's.
    pub fn status(&self) -> ArenaStatus {
        self.0.shared.books.lock().status()
    }

    /// All segments, by id.
    pub fn segments(&self) -> Vec<SegmentUse> {
        self.0.shared.books.lock().segments()
    }

    /// One segment; None when it was replaced.
    pub fn segment(&self, segment: SegmentId) -> Option<SegmentUse> {
        self.0.shared.books.lock().segment(segment)
    }

    /// Sets whether free frames of a segment are given out. A segment that is being drained becomes free as its holders
    /// leave, and can then be replaced; being free ends the drain.
    pub fn set_draining(&self, segment: SegmentId, draining: bool) {
        self.0.shared.books.lock().set_draining(segment, draining);
    }

    /// Gives out no frame of the segments made so far: L3 does not know their memory any more (a new epoch). Their
    /// frames stay readable, and a segment is replaced once all of its frames are free. Gives the id from which on
    /// segments are current.
    pub fn outdate(&self) -> SegmentId {
        self.0.shared.books.lock().outdate()
    }

    /// Takes a segment out of the arena whatever its frames do, so that fresh memory comes in its place: the way out
    /// when lost completions hold too much of it. Frames still held stay readable; the memory goes when the last one
    /// does.
    pub fn retire_segment(&self, segment: SegmentId) {
        self.0.shared.books.lock().retire(segment);
        self.0.shared.orders_changed();
        self.0.shared.frames_changed();
    }
}

/// Who may use a segment: one tenant, with frames of one size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FrameClass {
    pub tenant: TenantId,
    /// A multiple of [`FRAME_ALIGN_BYTES`].
    pub frame_bytes: u64,
}

impl FrameClass {
    /// The class of frames that hold `frame_bytes`; None for 0 or for more than an address space has.
    pub fn new(tenant: TenantId, frame_bytes: u64) -> Option<Self> {
        let rounded = frame_bytes.checked_next_multiple_of(FRAME_ALIGN_BYTES)?;
        (frame_bytes > 0 && rounded <= isize::MAX as u64).then_some(Self { tenant, frame_bytes: rounded })
    }
}
