use std::time::Duration;

use foreword_proto::key::PageKey;
use foreword_seams::Telemetry;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::arena::{Arena, ArenaSettings, HeapRegions};
use crate::l1::{Entrance, PageId};

const PAGE: u64 = 4096;
/// Longer than anything here takes; reached only by a hang.
const SOON: Duration = Duration::from_secs(30);

/// An arena of so many pages in one segment, served.
fn memory(pages: u64) -> Arc<Memory> {
    let settings = ArenaSettings { arena_bytes: pages * PAGE, segment_bytes: pages * PAGE };
    let l1 = Arc::new(L1::new(Arena::new(settings, Arc::new(HeapRegions)).unwrap()));
    let counters = Arc::new(Counters::new(Telemetry::new()));
    let l3 = Arc::new(L3::in_memory(counters.clone()));
    let maker = SegmentMaker::new(l1.arena().clone(), counters.clone());
    let memory = Arc::new(Memory::new(l1, l3, counters));
    tokio::spawn(maker.run(CancellationToken::new()));
    tokio::spawn(memory.clone().serve_waiters());
    memory
}

async fn frame(memory: &Memory) -> FrameMut {
    memory.frame(1, PAGE, Instant::now() + SOON).await.expect("a frame comes")
}

fn page(number: u64) -> PageId {
    PageId { namespace: 1, epoch: 1, key: PageKey::opaque(&number.to_le_bytes()).entry() }
}

#[tokio::test]
async fn a_frame_that_comes_free_goes_to_who_asked_first() {
    let memory = memory(2);
    let (first, second) = (frame(&memory).await, frame(&memory).await);
    let mut waiting: Vec<_> = (0..3).map(|_| Box::pin(frame(&memory))).collect();
    for asker in &mut waiting {
        assert!(futures::poll!(asker.as_mut()).is_pending());
    }
    // Whoever asks when a frame is free already waits behind the others.
    drop(first);
    let late = memory.frame(1, PAGE, Instant::now());
    assert!(late.await.is_none(), "it overtook those who wait");
    let mut waiting = waiting.into_iter();
    let third = waiting.next().unwrap().await;
    drop(second);
    let fourth = waiting.next().unwrap().await;
    let mut last = waiting.next().unwrap();
    assert!(futures::poll!(last.as_mut()).is_pending());
    drop((third, fourth));
    last.await;
    assert_eq!(memory.l1.arena().waiters(), 0);
}

#[tokio::test]
async fn a_page_that_its_last_reader_leaves_gives_way_to_who_waits() {
    let memory = memory(1);
    let reader = frame(&memory).await.freeze();
    memory.l1.write(|pages| pages.insert(page(1), reader.clone(), Entrance::Probation));
    let mut waiting = Box::pin(frame(&memory));
    assert!(futures::poll!(waiting.as_mut()).is_pending());
    drop(reader);
    tokio::time::timeout(SOON, waiting).await.expect("the page went");
    assert!(!memory.l1.read(|pages| pages.contains(&page(1))));
}

#[tokio::test]
async fn who_gave_up_waiting_costs_nobody_a_frame() {
    let memory = memory(1);
    let held = frame(&memory).await;
    assert!(memory.frame(1, PAGE, Instant::now()).await.is_none());
    let mut waiting = Box::pin(frame(&memory));
    assert!(futures::poll!(waiting.as_mut()).is_pending());
    drop(held);
    drop(waiting.await);
    drop(frame(&memory).await);
}
