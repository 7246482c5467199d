//! L3 as the simulation has it: one device that all agents share, with its faults.
//!
//! Bytes that an agent has submitted are on their way whatever becomes of it: a write lands when the device's time,
//! which is true time, has come. Reads and errors take the time of the host's clock.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use foreword_node::StoreFactory;
use foreword_node::store::{
    ClusterMark, Decision, Faults, IoView, Landed, LateWrite, MemoryL3, MemoryStore, SharedStore,
};
use foreword_proto::{ClusterId, SlabId};
use parking_lot::Mutex;

use super::context::{self, Kind};

/// A lost answer comes after this time, or up to twice of it.
const LOST_US_MIN: u64 = 3_000_000;

/// How L3 behaves towards a host. Chances are per million I/Os.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct L3Weather {
    /// Each I/O takes a time drawn from here, in microseconds.
    pub delay_us_min: u64,
    pub delay_us_max: u64,
    /// A part of a write lands, and the answer claims all.
    pub torn: u32,
    /// A write takes up to `late_ms_max` more.
    pub late_write: u32,
    /// A bit of a write, or of what a read gives, is flipped.
    pub flip_write: u32,
    pub flip_read: u32,
    /// A read gives fewer bytes than there are, and says so.
    pub short_read: u32,
    /// An I/O fails at once and moves nothing.
    pub errno: u32,
    /// An I/O is answered only long after its deadline, when it may have happened or not.
    pub drop: u32,
    pub late_ms_max: u64,
    /// Every I/O takes from a half of `late_ms_max` to all of it more.
    pub stalled: bool,
    /// Every I/O fails at once, and so do opening and removing slabs.
    pub outage: bool,
}

/// What happened on L3 so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct L3Counts {
    pub reads: u64,
    pub writes: u64,
    pub torn: u64,
    /// Late or stalled writes that have landed.
    pub late_landed: u64,
    /// Of all writes, those that landed where a write that was submitted later had landed before.
    pub late_on_reused: u64,
    /// Of all writes, those that landed when their store was gone.
    pub landed_without_store: u64,
    pub flipped_writes: u64,
    pub flipped_reads: u64,
    pub short_reads: u64,
    pub errors: u64,
    pub dropped: u64,
    /// I/Os during a stall, and I/Os and openings during an outage.
    pub stalls: u64,
    pub outages: u64,
}

#[derive(Default)]
struct State {
    everywhere: L3Weather,
    /// Of single hosts, instead.
    of_host: BTreeMap<u32, L3Weather>,
    counts: L3Counts,
}

impl State {
    fn weather(&self, host: u32) -> L3Weather {
        self.of_host.get(&host).copied().unwrap_or(self.everywhere)
    }
}

/// The device; clones are the same one.
#[derive(Clone, Default)]
pub struct SimL3 {
    device: MemoryL3,
    state: Arc<Mutex<State>>,
}

impl SimL3 {
    /// A device without any cluster's directory.
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes a cluster's directory, as `foreword meta init` does. False: it exists already.
    pub fn init(&self, cluster_id: ClusterId, chunk_bytes: u32) -> bool {
        self.device.init(&ClusterMark::new(cluster_id, chunk_bytes, "sim"))
    }

    /// Puts bytes that were written before the run began.
    pub fn put(&self, cluster_id: ClusterId, slab: SlabId, offset: u64, bytes: &[u8]) {
        self.device.put(cluster_id, slab, offset, bytes).expect("the cluster's directory is there");
    }

    /// What makes the store of one agent. `name` is the host's, for its errors in the trace.
    pub fn store_factory(&self, host: u32, name: &str) -> StoreFactory {
        let faults = Arc::new(HostFaults { host, name: name.to_owned(), state: self.state.clone() });
        let device = self.device.clone();
        Arc::new(move |_, cluster_id, chunk_bytes| {
            let store = MemoryStore::with_faults(device.clone(), cluster_id, chunk_bytes, faults.clone());
            Ok(Arc::new(store) as SharedStore)
        })
    }

    /// How L3 behaves from now on: towards this host; without one towards all, and what single hosts had is over.
    pub fn set_weather(&self, host: Option<u32>, weather: L3Weather) {
        let mut state = self.state.lock();
        match host {
            Some(host) => _ = state.of_host.insert(host, weather),
            None => {
                state.everywhere = weather;
                state.of_host.clear();
            }
        }
    }

    /// How L3 behaves towards a host.
    pub fn weather(&self, host: u32) -> L3Weather {
        self.state.lock().weather(host)
    }

    /// What happened so far.
    pub fn counts(&self) -> L3Counts {
        self.state.lock().counts
    }

    /// Moves the device to the present: lands what is due, and wakes who waits for it. The world calls it between
    /// hosts' steps.
    pub fn advance(&self) {
        for landed in self.device.advance(Duration::from_nanos(context::now().nanos())) {
            self.note(landed);
        }
    }

    /// Nanoseconds of true time when the next write lands; None: no write is on its way.
    pub fn next_due_ns(&self) -> Option<u64> {
        self.device.next_due().map(|due| due.as_nanos() as u64)
    }

    fn note(&self, landed: Landed) {
        let (host, late) = (landed.tag >> 1, landed.tag & 1 == 1);
        let Landed { slab, offset, bytes, order, over, answered, .. } = landed;
        let reused = over.is_some_and(|over| over > order);
        let words = [Op::Landed as u64, host, slab.into(), offset, bytes, order, over.unwrap_or(0), answered.into()];
        context::digest(Kind::L3, &words, &[]);
        let mut state = self.state.lock();
        state.counts.late_landed += u64::from(late);
        state.counts.late_on_reused += u64::from(reused);
        state.counts.landed_without_store += u64::from(!answered);
        drop(state);
        if reused || !answered {
            let where_to = if reused { "over a later one" } else { "" };
            let store = if answered { "" } else { ", its store is gone" };
            context::event(Kind::L3, || format!("h{host} write lands at slab {slab} + {offset} {where_to}{store}"));
        }
    }
}

#[derive(Debug, Clone, Copy)]
#[repr(u64)]
enum Op {
    Io = 1,
    Landed = 2,
    Slab = 3,
}

/// Decides for one agent.
struct HostFaults {
    host: u32,
    name: String,
    state: Arc<Mutex<State>>,
}

impl HostFaults {
    fn decide(&self, io: &IoView, weather: &L3Weather, counts: &mut L3Counts) -> Decision {
        if weather.outage {
            counts.outages += 1;
            return Decision::Errno(libc::EIO);
        }
        if context::random_chance(weather.errno) {
            counts.errors += 1;
            return Decision::Errno(libc::EIO);
        }
        if context::random_chance(weather.drop) {
            counts.dropped += 1;
            return lost(io, self.host);
        }
        let spread = weather.delay_us_max.saturating_sub(weather.delay_us_min);
        let mut after_us = weather.delay_us_min + if spread == 0 { 0 } else { context::random_below(spread + 1) };
        if weather.stalled {
            counts.stalls += 1;
            let half_us = weather.late_ms_max * 500;
            after_us += half_us + context::random_below(half_us + 1);
        }
        let after = Duration::from_micros(after_us);
        if io.write { self.write(io, weather, counts, after) } else { read(io, weather, counts, after) }
    }

    fn write(&self, io: &IoView, weather: &L3Weather, counts: &mut L3Counts, after: Duration) -> Decision {
        let mut write = LateWrite::whole(after);
        let late = context::random_chance(weather.late_write);
        if late {
            // Not on top of a stall: everything lands while somebody still looks.
            let late = Duration::from_micros(context::random_below(weather.late_ms_max * 1000 + 1));
            write.after = write.after.max(late);
        }
        if context::random_chance(weather.torn) {
            counts.torn += 1;
            write.bytes_max = context::random_below(io.len.max(1));
        }
        if context::random_chance(weather.flip_write) {
            counts.flipped_writes += 1;
            write.flip = Some(context::random());
        }
        write.tag = u64::from(self.host) << 1 | u64::from(late || weather.stalled);
        Decision::Late(write)
    }
}

/// An I/O whose answer comes long after anybody waits for it: until then its frame is not free. Half of the writes move
/// nothing.
fn lost(io: &IoView, host: u32) -> Decision {
    let after = Duration::from_micros(LOST_US_MIN + context::random_below(LOST_US_MIN));
    if !io.write {
        return Decision::Delay(after);
    }
    let bytes_max = if context::random_below(2) == 0 { u64::MAX } else { 0 };
    Decision::Late(LateWrite { bytes_max, tag: u64::from(host) << 1 | 1, ..LateWrite::whole(after) })
}

fn read(io: &IoView, weather: &L3Weather, counts: &mut L3Counts, after: Duration) -> Decision {
    if context::random_chance(weather.short_read) {
        counts.short_reads += 1;
        return Decision::Short(context::random_below(io.len.max(1)));
    }
    if context::random_chance(weather.flip_read) {
        counts.flipped_reads += 1;
        return Decision::FlipBit(context::random());
    }
    if after.is_zero() { Decision::Proceed } else { Decision::Delay(after) }
}

/// A decision in the digest.
fn words(decision: Decision) -> [u64; 4] {
    match decision {
        Decision::Proceed => [1, 0, 0, 0],
        Decision::Errno(errno) => [2, errno as u64, 0, 0],
        Decision::Short(bytes) => [3, bytes, 0, 0],
        Decision::Tear(bytes) => [4, bytes, 0, 0],
        Decision::Delay(after) => [5, after.as_nanos() as u64, 0, 0],
        Decision::Late(late) => [6, late.after.as_nanos() as u64, late.bytes_max, late.flip.unwrap_or(0)],
        Decision::Drop { done } => [7, done.into(), 0, 0],
        Decision::FlipBit(bit) => [8, bit, 0, 0],
    }
}

impl Faults for HostFaults {
    fn on(&self, io: &IoView) -> Decision {
        let decision = {
            let mut state = self.state.lock();
            let weather = state.weather(self.host);
            let counts = &mut state.counts;
            *(if io.write { &mut counts.writes } else { &mut counts.reads }) += 1;
            self.decide(io, &weather, counts)
        };
        let [kind, a, b, c] = words(decision);
        let host = u64::from(self.host);
        let all = [Op::Io as u64, host, io.op, io.slab.into(), io.offset, io.len, io.write.into(), kind, a, b, c];
        context::digest(Kind::L3, &all, &[]);
        let ordinary = match decision {
            Decision::Proceed | Decision::Delay(_) => true,
            Decision::Late(late) => late.tag & 1 == 0 && late.flip.is_none() && late.bytes_max == u64::MAX,
            _ => false,
        };
        if !ordinary {
            let what = if io.write { "write" } else { "read" };
            context::event(Kind::L3, || {
                format!("{} {what} of slab {} + {}, {} bytes: {decision:?}", self.name, io.slab, io.offset, io.len)
            });
        }
        decision
    }

    fn on_slab(&self, slab: SlabId) -> Option<i32> {
        let outage = {
            let mut state = self.state.lock();
            let outage = state.weather(self.host).outage;
            state.counts.outages += u64::from(outage);
            outage
        };
        context::digest(Kind::L3, &[Op::Slab as u64, self.host.into(), slab.into(), outage.into()], &[]);
        outage.then_some(libc::EIO)
    }
}
