//! A sparse array whose items are shared with frozen views until they change.

use std::sync::Arc;

/// Items of one segment: what a first change after a freeze copies is a list of segments and the segments it touches,
/// never a pointer for each item.
const SEGMENT_ITEMS: usize = 128;

type Segment<T> = [Option<Arc<T>>; SEGMENT_ITEMS];

/// Items by number; one that was never written takes no memory.
#[derive(Debug, Clone)]
pub struct Grid<T> {
    segments: Vec<Option<Arc<Segment<T>>>>,
}

/// Items that a view shares, and their segments, copied ahead of a change.
#[derive(Debug)]
pub struct Copies<T> {
    segments: Vec<(usize, Arc<Segment<T>>)>,
    items: Vec<(usize, Arc<T>)>,
}

impl<T> Copies<T> {
    /// Nobody shares any of them.
    pub fn is_empty(&self) -> bool {
        self.segments.is_empty() && self.items.is_empty()
    }
}

impl<T> Default for Grid<T> {
    fn default() -> Self {
        Self { segments: Vec::new() }
    }
}

impl<T: Clone> Grid<T> {
    /// The item of this number, if it is there.
    pub fn get(&self, at: usize) -> Option<&T> {
        self.segments.get(at / SEGMENT_ITEMS)?.as_ref()?[at % SEGMENT_ITEMS].as_deref()
    }

    /// The item, to be changed: copied if a view shares it. None if it is not there.
    pub fn present_mut(&mut self, at: usize) -> Option<&mut T> {
        self.get(at)?;
        Some(Arc::make_mut(self.slot(at).as_mut()?))
    }

    /// What changes of these items would copy, copied.
    pub fn copies(&self, mut numbers: Vec<usize>) -> Copies<T> {
        numbers.sort_unstable();
        numbers.dedup();
        let mut copies = Copies { segments: Vec::new(), items: Vec::new() };
        for at in numbers {
            let number = at / SEGMENT_ITEMS;
            let Some(Some(segment)) = self.segments.get(number) else { continue };
            let shared = Arc::strong_count(segment) > 1;
            if shared && copies.segments.last().is_none_or(|(last, _)| *last != number) {
                copies.segments.push((number, Arc::new(Segment::clone(segment))));
            }
            let Some(item) = &segment[at % SEGMENT_ITEMS] else { continue };
            if shared || Arc::strong_count(item) > 1 {
                copies.items.push((at, Arc::new(T::clone(item))));
            }
        }
        copies
    }

    /// Puts copies in place of what they are of, which must not have changed since.
    pub fn put_copies(&mut self, copies: Copies<T>) {
        for (number, segment) in copies.segments {
            self.segments[number] = Some(segment);
        }
        for (at, item) in copies.items {
            *self.slot(at) = Some(item);
        }
    }

    /// Puts an item in place of what is there.
    pub fn put(&mut self, at: usize, item: T) {
        *self.slot(at) = Some(Arc::new(item));
    }

    /// Takes an item out; None if it is not there. A segment without any is let go of.
    pub fn take(&mut self, at: usize) -> Option<Arc<T>> {
        self.get(at)?;
        let taken = self.slot(at).take();
        let segment = &mut self.segments[at / SEGMENT_ITEMS];
        if segment.as_ref().is_some_and(|items| items.iter().all(Option::is_none)) {
            *segment = None;
        }
        taken
    }

    /// The item, to be changed: made if absent, copied if a view shares it.
    pub fn get_mut(&mut self, at: usize, make: impl FnOnce() -> T) -> &mut T {
        Arc::make_mut(self.slot(at).get_or_insert_with(|| Arc::new(make())))
    }

    /// The place of an item, in a segment that no view shares.
    fn slot(&mut self, at: usize) -> &mut Option<Arc<T>> {
        let segment = at / SEGMENT_ITEMS;
        if segment >= self.segments.len() {
            self.segments.resize(segment + 1, None);
        }
        let segment = self.segments[segment].get_or_insert_with(|| Arc::new([const { None }; SEGMENT_ITEMS]));
        &mut Arc::make_mut(segment)[at % SEGMENT_ITEMS]
    }

    /// Lets go of the items of one segment; false if there is none left.
    pub fn drop_some(&mut self) -> bool {
        self.segments.pop().is_some()
    }

    /// The items there are, with their numbers, in order.
    pub fn iter(&self) -> impl Iterator<Item = (usize, &T)> {
        self.iter_from(0)
    }

    /// The same, from a number on.
    pub fn iter_from(&self, from: usize) -> impl Iterator<Item = (usize, &T)> {
        let segments = self.segments.iter().enumerate().skip(from / SEGMENT_ITEMS);
        segments
            .filter_map(|(number, segment)| Some((number, segment.as_ref()?)))
            .flat_map(|(number, segment)| {
                let items = segment.iter().enumerate();
                items.filter_map(move |(at, item)| Some((number * SEGMENT_ITEMS + at, &**item.as_ref()?)))
            })
            .skip_while(move |(at, _)| *at < from)
    }

    /// The items there are, in order, each to be shared.
    pub fn shared(&self) -> impl Iterator<Item = Arc<T>> {
        self.segments.iter().flatten().flat_map(|segment| segment.iter().flatten().cloned())
    }

    /// All items, in order. What has been passed is let go of.
    pub fn into_items(self) -> impl Iterator<Item = Arc<T>> {
        self.into_numbered().map(|(_, item)| item)
    }

    /// The same, each with its number.
    pub fn into_numbered(self) -> impl Iterator<Item = (usize, Arc<T>)> {
        let segments = self.segments.into_iter().enumerate().filter_map(|(number, segment)| Some((number, segment?)));
        segments.flat_map(|(number, segment)| {
            let items = Arc::unwrap_or_clone(segment).into_iter().enumerate();
            items.filter_map(move |(at, item)| Some((number * SEGMENT_ITEMS + at, item?)))
        })
    }

    /// Heap bytes, without what the items themselves hold on the heap.
    pub fn heap_bytes(&self) -> usize {
        let arc_bytes = 2 * size_of::<usize>();
        let segments = self.segments.iter().flatten().count();
        self.segments.capacity() * size_of::<Option<Arc<Segment<T>>>>()
            + segments * (size_of::<Segment<T>>() + arc_bytes)
            + self.iter().count() * (size_of::<T>() + arc_bytes)
    }
}
