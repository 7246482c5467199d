//! What the faults under way amount to: faults overlap, and what each host feels is their sum.

use std::collections::{BTreeMap, BTreeSet};

use super::Seat;
use super::machines::Machines;
use super::troubles::Active;
use crate::faults::FaultKind;
use crate::faults::kind::{Place, Replica};
use crate::world::disk::{DiskFault, DiskWeather};
use crate::world::l3::L3Weather;
use crate::world::net::{HostId, Link, StaleNames};

/// So many of a million writes or reads that a fault of L3 is about go wrong.
const L3_PER_MILLION: u32 = 300_000;
/// A late write lands up to so long after it was given up: longer than slots rest.
const LATE_MS_MAX: u64 = 8_000;

/// What the faults under way amount to.
#[derive(Debug, Default)]
pub(super) struct Conditions {
    /// How many faults keep a host down, or paused.
    pub(super) down: BTreeMap<Seat, u32>,
    pub(super) paused: BTreeMap<Seat, u32>,
    pub(super) drift_ppm: BTreeMap<Seat, i64>,
    pub(super) disks: BTreeMap<Replica, DiskWeather>,
    /// Whose snapshots have no room.
    pub(super) snapshots_full: BTreeSet<Replica>,
    pub(super) l3: L3Weather,
    pub(super) stale_names: StaleNames,
    cuts: Vec<Cut>,
    slow_ms: BTreeMap<HostId, u64>,
}

#[derive(Debug)]
enum Cut {
    Around(HostId),
    From(HostId, HostId),
    Between(Vec<HostId>, Vec<HostId>),
}

impl Conditions {
    /// What these faults amount to, on these machines.
    pub(super) fn of(active: &[Active], machines: &Machines) -> Self {
        let mut conditions = Self { l3: fair_l3(), ..Self::default() };
        for Active { fault, leader } in active {
            conditions.add(&fault.kind, *leader, machines);
        }
        conditions
    }

    fn add(&mut self, kind: &FaultKind, leader: Replica, machines: &Machines) {
        let host = |place: &Place| machines.host_of(machines.seat(*place));
        match kind {
            FaultKind::Crash(place) | FaultKind::PowerCut(place) => {
                *self.down.entry(machines.seat(*place)).or_default() += 1;
            }
            FaultKind::PowerCutAll => {
                for seat in machines.cluster_seats() {
                    *self.down.entry(seat).or_default() += 1;
                }
            }
            FaultKind::DiskRot(replica)
            | FaultKind::MarkRot(replica)
            | FaultKind::LostTail(replica)
            | FaultKind::SnapshotRot(replica) => {
                *self.down.entry(machines.seat(Place::Replica(*replica))).or_default() += 1;
            }
            FaultKind::Pause(place) => *self.paused.entry(machines.seat(*place)).or_default() += 1,
            FaultKind::Isolate(place) => self.cuts.push(Cut::Around(host(place))),
            FaultKind::OneWayCut(from, to) => self.cuts.push(Cut::From(host(from), host(to))),
            FaultKind::SplitGroup(first) => {
                let hosts: Vec<HostId> =
                    (0..machines.replicas.len()).map(|replica| host(&Place::Replica(replica))).collect();
                let (left, right) = hosts.split_at((*first).min(hosts.len()));
                self.cuts.push(Cut::Between(left.to_vec(), right.to_vec()));
            }
            FaultKind::IsolateLeader => self.cuts.push(Cut::Around(host(&Place::Replica(leader)))),
            FaultKind::SplitOffLeader => {
                let others = (0..machines.replicas.len()).filter(|replica| *replica != leader);
                let others = others.map(|replica| host(&Place::Replica(replica))).collect();
                self.cuts.push(Cut::Between(vec![host(&Place::Replica(leader))], others));
            }
            FaultKind::StaleName(at, name, to) => {
                let name = machines.member(*name).listens_at();
                self.stale_names.insert((host(&Place::Replica(*at)), name), host(&Place::Replica(*to)));
            }
            FaultKind::SlowDisks(ms) | FaultKind::Flood(ms) => {
                (0..machines.replicas.len()).for_each(|replica| self.slow_disk(replica, *ms));
            }
            FaultKind::SlowLeaderDisk(ms) => self.slow_disk(leader, *ms),
            FaultKind::SlowLinks(place, ms) => *self.slow_ms.entry(host(place)).or_default() += ms,
            FaultKind::Drift(place, ppm) => *self.drift_ppm.entry(machines.seat(*place)).or_default() += ppm,
            FaultKind::SlowDisk(replica, ms) => {
                let weather = self.disks.entry(*replica).or_default();
                weather.sync_us_max = weather.sync_us_max.max(ms * 1000);
            }
            FaultKind::DiskError(replica) => {
                self.disks.entry(*replica).or_default().fault = Some(DiskFault::Io);
            }
            FaultKind::DiskFull(replica) => self.disks.entry(*replica).or_default().fault = Some(DiskFault::NoSpace),
            FaultKind::SnapshotDiskFull(replica) => _ = self.snapshots_full.insert(*replica),
            FaultKind::Resets(..) | FaultKind::Replace(_) => {}
            _ => self.add_l3(kind),
        }
    }

    /// Each sync takes so long, or longer by another fault.
    fn slow_disk(&mut self, replica: Replica, ms: u64) {
        let weather = self.disks.entry(replica).or_default();
        weather.sync_us_min = weather.sync_us_min.max(ms * 1000);
        weather.sync_us_max = weather.sync_us_max.max(ms * 1000);
    }

    fn add_l3(&mut self, kind: &FaultKind) {
        let l3 = &mut self.l3;
        match kind {
            FaultKind::TornWrites => l3.torn = L3_PER_MILLION,
            FaultKind::LateWrites => {
                l3.late_write = L3_PER_MILLION;
                l3.late_ms_max = LATE_MS_MAX;
            }
            FaultKind::BadWrites => l3.flip_write = L3_PER_MILLION,
            FaultKind::BadReads => l3.flip_read = L3_PER_MILLION,
            FaultKind::ShortReads => l3.short_read = L3_PER_MILLION,
            FaultKind::LostCompletions => l3.drop = L3_PER_MILLION,
            FaultKind::L3Stall => {
                l3.stalled = true;
                l3.late_ms_max = LATE_MS_MAX;
            }
            FaultKind::L3Outage => l3.outage = true,
            _ => {}
        }
    }

    /// One direction between two hosts.
    pub(super) fn link(&self, from: HostId, to: HostId) -> Link {
        let cut = self.cuts.iter().any(|cut| match cut {
            Cut::Around(host) => from == *host || to == *host,
            Cut::From(a, b) => (from, to) == (*a, *b),
            Cut::Between(left, right) => {
                left.contains(&from) && right.contains(&to) || right.contains(&from) && left.contains(&to)
            }
        });
        let slow_ms = [from, to].iter().filter_map(|host| self.slow_ms.get(host)).sum::<u64>();
        let fair = Link::default();
        Link { cut, latency_us_max: fair.latency_us_max + slow_ms * 1000, ..fair }
    }
}

/// L3 without faults: it takes a while.
fn fair_l3() -> L3Weather {
    L3Weather { delay_us_min: 200, delay_us_max: 3_000, ..L3Weather::default() }
}
