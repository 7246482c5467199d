//! A sparse array whose items are shared with frozen views until they change.

use std::sync::Arc;

/// Items of one segment: what a first change after a freeze copies is a list of segments and the segments it touches,
/// never a pointer for each item.
const SEGMENT_ITEMS: usize = 128;

type Segment<T> = [Option<Arc<T>>; SEGMENT_ITEMS];

/// Items by number; one that was never written takes no memory.
#[derive(Debug, Clone)]
pub(super) struct Grid<T> {
    segments: Vec<Option<Arc<Segment<T>>>>,
}

impl<T> Default for Grid<T> {
    fn default() -> Self {
        Self { segments: Vec::new() }
    }
}

impl<T: Clone> Grid<T> {
    pub(super) fn get(&self, at: usize) -> Option<&T> {
        self.segments.get(at / SEGMENT_ITEMS)?.as_ref()?[at % SEGMENT_ITEMS].as_deref()
    }

    /// The item, to be changed: made if absent, copied if a view shares it.
    pub(super) fn get_mut(&mut self, at: usize, make: impl FnOnce() -> T) -> &mut T {
        let segment = at / SEGMENT_ITEMS;
        if segment >= self.segments.len() {
            self.segments.resize(segment + 1, None);
        }
        let segment = self.segments[segment].get_or_insert_with(|| Arc::new([const { None }; SEGMENT_ITEMS]));
        let item = &mut Arc::make_mut(segment)[at % SEGMENT_ITEMS];
        Arc::make_mut(item.get_or_insert_with(|| Arc::new(make())))
    }

    /// Lets go of the items of one segment; false if there is none left.
    pub(super) fn drop_some(&mut self) -> bool {
        self.segments.pop().is_some()
    }

    /// The items there are, with their numbers, in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (usize, &T)> {
        let segments = self.segments.iter().enumerate();
        segments.filter_map(|(number, segment)| Some((number, segment.as_ref()?))).flat_map(|(number, segment)| {
            let items = segment.iter().enumerate();
            items.filter_map(move |(at, item)| Some((number * SEGMENT_ITEMS + at, &**item.as_ref()?)))
        })
    }

    /// Heap bytes, without what the items themselves hold on the heap.
    pub(super) fn heap_bytes(&self) -> usize {
        let arc_bytes = 2 * size_of::<usize>();
        let segments = self.segments.iter().flatten().count();
        self.segments.capacity() * size_of::<Option<Arc<Segment<T>>>>()
            + segments * (size_of::<Segment<T>>() + arc_bytes)
            + self.iter().count() * (size_of::<T>() + arc_bytes)
    }
}
