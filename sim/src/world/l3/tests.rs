use std::collections::BTreeSet;

use foreword_node::arena::{Arena, ArenaSettings, HeapRegions};
use foreword_node::config::L3Location;
use foreword_node::store::{Completion, Io, StoreError, Transfer};
use futures::FutureExt;

use super::*;
use crate::world::context::SimTime;

const CLUSTER: ClusterId = ClusterId([5; 16]);
const PAGE: u64 = 4096;

struct Agent {
    store: SharedStore,
    arena: Arena,
}

/// An agent's process on a host.
fn agent(l3: &SimL3, host: u32) -> Agent {
    let store = l3.store_factory(host, &format!("agent{host}"))(&L3Location::Memory, CLUSTER, PAGE as u32).unwrap();
    store.open_slab(1, 64 * PAGE).now_or_never().unwrap().unwrap();
    Agent { store, arena: Arena::new(ArenaSettings::new(64 * PAGE), Arc::new(HeapRegions)).unwrap() }
}

fn device() -> SimL3 {
    let l3 = SimL3::new();
    assert!(l3.init(CLUSTER, PAGE as u32));
    l3
}

impl Agent {
    fn write(&self, op: u64, slot: u64, byte: u8) {
        let mut frame = self.arena.allocate(1, PAGE).unwrap();
        frame.bytes_mut().fill(byte);
        let transfer = Transfer::Write(frame.freeze());
        self.store.submit(vec![Io { op, slab: 1, offset: slot * PAGE, len: PAGE, transfer, begin_by: None }]);
    }

    fn read(&self, op: u64, slot: u64) {
        let transfer = Transfer::Read(self.arena.allocate(1, PAGE).unwrap());
        self.store.submit(vec![Io { op, slab: 1, offset: slot * PAGE, len: PAGE, transfer, begin_by: None }]);
    }

    fn done(&self) -> Vec<Completion> {
        self.store.complete().now_or_never().unwrap_or_default()
    }

    fn byte(&self, slot: u64) -> u8 {
        self.read(u64::MAX, slot);
        let done = self.done().pop().unwrap();
        let Transfer::Read(frame) = &done.transfer else { panic!("a read") };
        frame.bytes()[0]
    }
}

fn at_ms(l3: &SimL3, millis: u64) {
    context::set_now(SimTime::from_millis(millis));
    l3.advance();
}

#[test]
fn a_write_of_a_dead_process_lands_on_the_slot_of_another() {
    context::begin(1, false);
    let l3 = device();
    at_ms(&l3, 10);
    let late = L3Weather { late_write: 1_000_000, late_ms_max: 0, delay_us_min: 50_000, ..L3Weather::default() };
    l3.set_weather(Some(1), L3Weather { delay_us_max: 50_000, ..late });
    let (first, second) = (agent(&l3, 1), agent(&l3, 2));
    first.write(1, 3, 7);
    first.write(2, 4, 7);
    drop(first);
    second.write(1, 3, 9);
    at_ms(&l3, 11);
    assert_eq!((second.done().len(), second.byte(3), l3.next_due_ns()), (1, 9, Some(60_000_000)));
    at_ms(&l3, 60);
    assert_eq!((second.byte(3), second.byte(4), l3.next_due_ns()), (7, 7, None));
    let counts = l3.counts();
    assert_eq!((counts.late_landed, counts.late_on_reused, counts.landed_without_store), (2, 1, 2));
}

#[test]
fn an_outage_fails_everything_and_ends() {
    context::begin(1, false);
    let l3 = device();
    let agent = agent(&l3, 1);
    l3.set_weather(None, L3Weather { outage: true, ..L3Weather::default() });
    agent.write(1, 0, 1);
    assert_eq!(agent.done()[0].result, Err(StoreError::Errno(libc::EIO)));
    assert!(agent.store.open_slab(2, PAGE).now_or_never().unwrap().is_err());
    l3.set_weather(None, L3Weather::default());
    agent.write(2, 0, 1);
    assert!(agent.done().is_empty(), "a write takes until the device's next step");
    at_ms(&l3, 1);
    assert_eq!((agent.done()[0].result.clone(), agent.byte(0), l3.counts().outages), (Ok(PAGE), 1, 2));
}

#[test]
fn a_stall_holds_writes_for_a_while() {
    context::begin(1, false);
    let l3 = device();
    let agent = agent(&l3, 1);
    l3.set_weather(None, L3Weather { stalled: true, late_ms_max: 100, ..L3Weather::default() });
    agent.write(1, 0, 1);
    at_ms(&l3, 49);
    assert!(agent.done().is_empty());
    at_ms(&l3, 101);
    assert_eq!((agent.done().len(), l3.counts().stalls, l3.counts().late_landed), (1, 1, 1));
}

/// Two agents write and read in all weathers. Gives the digest.
fn storm(seed: u64) -> (u128, L3Counts) {
    context::begin(seed, false);
    let l3 = device();
    let often = 60_000;
    l3.set_weather(
        None,
        L3Weather {
            delay_us_max: 2000,
            torn: often,
            late_write: often,
            flip_write: often,
            flip_read: often,
            short_read: often,
            errno: often,
            drop: often / 10,
            late_ms_max: 40,
            ..L3Weather::default()
        },
    );
    let agents = [agent(&l3, 1), agent(&l3, 2)];
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        for step in 0..300 {
            let agent = &agents[step as usize % 2];
            let slot = context::random_below(4);
            if context::random_below(2) == 0 {
                agent.read(step, slot)
            } else {
                agent.write(step, slot, step as u8)
            }
            tokio::time::advance(Duration::from_millis(1)).await;
            at_ms(&l3, step);
            agents.iter().for_each(|agent| drop(agent.done()));
        }
    });
    (context::trace().digest, l3.counts())
}

#[test]
fn equal_seeds_are_equal_and_every_fault_happens() {
    let storms = Vec::from_iter((0..10).map(storm));
    assert_eq!(BTreeSet::from_iter(storms.iter().map(|(digest, _)| *digest)).len(), 10);
    assert_eq!(storm(4), storms[4]);
    let all = |count: fn(&L3Counts) -> u64| storms.iter().map(|(_, counts)| count(counts)).sum::<u64>();
    let kinds: [fn(&L3Counts) -> u64; 9] = [
        |counts| counts.torn,
        |counts| counts.late_landed,
        |counts| counts.late_on_reused,
        |counts| counts.flipped_writes,
        |counts| counts.flipped_reads,
        |counts| counts.short_reads,
        |counts| counts.errors,
        |counts| counts.dropped,
        |counts| counts.reads.min(counts.writes),
    ];
    assert!(kinds.into_iter().all(|kind| all(kind) > 0), "{storms:?}");
}
