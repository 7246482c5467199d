//! Puts: what is wanted is copied into staging memory, a chunk while the agent copies the one before it.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::slots::Slot;
use super::staging::Staged;
use super::{CallError, Deadline, PageMemory, Put, PutPage, Session};
use crate::wire::KEYS_PER_SLOT_MAX;
use crate::wire::ops::{Op, PutCode, flags, load_put, store_staged};

/// Bytes of a chunk, unless one page is larger: what a processor's cache holds between the two copies.
const CHUNK_BYTES: u64 = 2 << 20;
/// Chunks of one call on their way.
const CHUNKS_AHEAD: usize = 4;
/// Shards begin at multiples of this in the staging memory.
const ALIGN_BYTES: u64 = 64;

/// A page that was not taken, for a reason of this side's.
const NOT_TAKEN: PutPage = PutPage { code: PutCode::Refused, reason: 0, revision: 0 };

struct Chunk<'a> {
    slot: Slot<'a>,
    /// Its pages, as indices of the call's.
    pages: Vec<usize>,
}

impl Session {
    /// Gives the agent one shard of some pages: one answer a key, in order. What it does not want is not copied.
    ///
    /// Errors: the agent did not say what it wants. Pages that were not taken before the deadline are refused.
    pub fn put(&self, put: &Put<'_>, pages: &dyn PageMemory, wait: Duration) -> Result<Vec<PutPage>, CallError> {
        let deadline = Deadline::after(wait);
        let mut answers = Vec::with_capacity(put.keys.len());
        for part in put.keys.chunks(KEYS_PER_SLOT_MAX) {
            let slot = self.ask(Op::Wanted, put.namespace, put.shard, part, 0, 0, deadline)?;
            answers.extend((0..part.len()).map(|index| page_of(&slot, index)));
        }
        // Bytes that are on their way with another call are sent too by who waits until the page is published.
        let sent = |code| code == PutCode::Wanted || put.wait_published && code == PutCode::Taken;
        let wanted: Vec<usize> = (0..answers.len()).filter(|index| sent(answers[*index].code)).collect();
        let mut under_way = VecDeque::new();
        for run in chunks(&wanted, |page| shard_bytes(pages, page)) {
            if under_way.len() == CHUNKS_AHEAD
                && let Some(chunk) = under_way.pop_front()
            {
                self.collect(chunk, &mut answers, deadline);
            }
            match self.send_chunk(put, &wanted[run], pages, &mut under_way, &mut answers, deadline) {
                Some(chunk) => under_way.push_back(chunk),
                None => break,
            }
        }
        for chunk in under_way {
            self.collect(chunk, &mut answers, deadline);
        }
        for answer in answers.iter_mut().filter(|answer| answer.code == PutCode::Wanted) {
            *answer = NOT_TAKEN;
        }
        Ok(answers)
    }

    /// Copies a chunk and submits it. None: no room or no slot before the deadline, or the session ended.
    fn send_chunk<'a>(
        &'a self,
        put: &Put<'_>,
        chunk: &[usize],
        pages: &dyn PageMemory,
        under_way: &mut VecDeque<Chunk<'a>>,
        answers: &mut [PutPage],
        deadline: Deadline,
    ) -> Option<Chunk<'a>> {
        let bytes = chunk.iter().map(|page| shard_bytes(pages, *page).next_multiple_of(ALIGN_BYTES)).sum();
        let staged = self.staged(bytes, under_way, answers, deadline)?;
        let mut slot = self.slots.claim(&self.line, deadline).ok()?;
        let (mut offset, mut keys) = (0, Vec::with_capacity(chunk.len()));
        for (index, page) in chunk.iter().enumerate() {
            store_staged(slot.shared().record(index), staged.offset() + offset);
            for part in 0..pages.parts() {
                let (from, bytes) = pages.part(*page, part);
                let to = staged.at(offset, bytes as u64);
                // SAFETY: `from` is the caller's, by the promise of PageMemory; `to` lies in a piece of staging memory
                // that is this call's.
                unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), to.as_ptr(), bytes) };
                offset += bytes as u64;
            }
            offset = offset.next_multiple_of(ALIGN_BYTES);
            keys.push(put.keys[*page]);
        }
        let left = deadline.left()?;
        let head = slot.shared().head();
        head.namespace.store(put.namespace, Ordering::Relaxed);
        head.shard.store(put.shard, Ordering::Relaxed);
        let parent = chunk[0].checked_sub(1).map(|before| &put.keys[before]).or(put.parent);
        if let Some(parent) = parent {
            slot.shared().set_parent(parent);
        }
        let wait = if put.wait_published { flags::WAIT_PUBLISHED } else { 0 };
        head.flags.store(wait | if parent.is_some() { flags::PARENT } else { 0 }, Ordering::Relaxed);
        slot.shared().set_keys(&keys);
        slot.submit(Op::Put, Some(staged), left);
        Some(Chunk { slot, pages: chunk.to_vec() })
    }

    /// Staging memory; this call's own chunks make room first.
    fn staged(
        &self,
        bytes: u64,
        under_way: &mut VecDeque<Chunk<'_>>,
        answers: &mut [PutPage],
        deadline: Deadline,
    ) -> Option<Staged> {
        if bytes > self.staging.bytes() {
            return None;
        }
        loop {
            self.slots.take_back();
            if let Some(staged) = self.staging.take_now(bytes) {
                return Some(staged);
            }
            match under_way.pop_front() {
                Some(chunk) => self.collect(chunk, answers, deadline),
                None => return self.staging.take(bytes, deadline),
            }
        }
    }

    /// Waits for a chunk's answer. Dropping it gives its slot and its staging memory back, when the agent is done with
    /// them.
    fn collect(&self, chunk: Chunk<'_>, answers: &mut [PutPage], deadline: Deadline) {
        if chunk.slot.finish(&self.line, deadline).is_err() {
            return;
        }
        for (index, page) in chunk.pages.iter().enumerate() {
            answers[*page] = page_of(&chunk.slot, index);
        }
    }
}

fn page_of(slot: &Slot<'_>, index: usize) -> PutPage {
    let (code, reason, revision) = load_put(slot.shared().record(index));
    PutPage { code, reason, revision }
}

fn shard_bytes(pages: &dyn PageMemory, page: usize) -> u64 {
    (0..pages.parts()).map(|part| pages.part(page, part).1 as u64).sum()
}

/// Cuts pages into chunks: ranges of `wanted`, of pages that follow each other, so that each but the first has its
/// parent before it.
fn chunks(wanted: &[usize], bytes: impl Fn(usize) -> u64) -> Vec<Range<usize>> {
    let (mut chunks, mut start, mut sum) = (Vec::new(), 0, 0);
    for (at, page) in wanted.iter().enumerate() {
        let follows = at == start || *page == wanted[at - 1] + 1;
        let page_bytes = bytes(*page).next_multiple_of(ALIGN_BYTES);
        if at > start && (!follows || sum + page_bytes > CHUNK_BYTES || at - start == KEYS_PER_SLOT_MAX) {
            chunks.push(start..at);
            (start, sum) = (at, 0);
        }
        sum += page_bytes;
    }
    if start < wanted.len() {
        chunks.push(start..wanted.len());
    }
    chunks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_hold_neighbours_and_not_too_much() {
        let half = |_| CHUNK_BYTES / 2;
        assert_eq!(chunks(&[0, 1, 2, 4, 5, 9], half), [0..2, 2..3, 3..5, 5..6]);
        assert_eq!(chunks(&[3, 4], |_| 3 * CHUNK_BYTES), [0..1, 1..2]);
        assert_eq!(chunks(&[], half), []);
        let many: Vec<usize> = (0..10_000).collect();
        let cut = chunks(&many, |_| 1);
        assert!(cut.iter().all(|chunk| chunk.len() <= KEYS_PER_SLOT_MAX));
    }
}
