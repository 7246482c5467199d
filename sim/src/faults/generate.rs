//! Draws a schedule.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};

use super::Fault;
use super::kind::{FaultKind, Place};

/// What a schedule is drawn for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    pub replicas: usize,
    pub agents: usize,
    /// Faults begin after this and are over by the end, in milliseconds.
    pub from_ms: u64,
    pub until_ms: u64,
}

/// How likely each family of faults is, as weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mix {
    /// Faults to draw, at least and at most.
    pub count: (usize, usize),
    pub processes: u32,
    pub power: u32,
    pub network: u32,
    pub clocks: u32,
    pub disks: u32,
    /// Damage that makes one replica forget: it hits the same replica all run long, since the group promises nothing
    /// when a majority forgets.
    pub amnesia: u32,
    pub l3: u32,
    /// Changes of the membership, and slips of the operator's pen.
    pub members: u32,
    /// Resolvers with old addresses.
    pub names: u32,
    /// Whoever leads is cut off, or asked to hand over.
    pub leaders: u32,
    /// Two agents of one name.
    pub twins: u32,
    /// More load than the group takes.
    pub overload: u32,
}

impl Mix {
    /// No faults.
    pub const NONE: Self = Self {
        count: (0, 0),
        processes: 0,
        power: 0,
        network: 0,
        clocks: 0,
        disks: 0,
        amnesia: 0,
        l3: 0,
        members: 0,
        names: 0,
        leaders: 0,
        twins: 0,
        overload: 0,
    };

    /// A bit of what machines and networks do; what operators and crowds do is left to profiles of their own.
    pub const ALL: Self = Self {
        count: (6, 24),
        processes: 6,
        power: 2,
        network: 6,
        clocks: 1,
        disks: 4,
        amnesia: 2,
        l3: 6,
        ..Self::NONE
    };
}

struct Drawing {
    rng: StdRng,
    shape: Shape,
    /// The replica that may forget.
    victim: usize,
    replaced: bool,
    /// The leader may be removed, and no disk is lost: a group that is smaller for a while has none to spare.
    removes: bool,
    twin: bool,
}

/// The schedule of a seed, by the time at which faults begin.
pub fn generate(seed: u64, mix: &Mix, shape: Shape) -> Vec<Fault> {
    let mut rng = StdRng::seed_from_u64(seed ^ 0x0066_6175_6c74_7321);
    let victim = rng.gen_range(0..shape.replicas);
    let mut drawing = Drawing { rng, shape, victim, replaced: false, removes: seed.is_multiple_of(2), twin: false };
    let count = drawing.rng.gen_range(mix.count.0..=mix.count.1);
    let mut faults: Vec<Fault> = (0..count).map(|_| drawing.fault(mix)).collect();
    faults.sort_by_key(|fault| fault.at_ms);
    faults
}

impl Drawing {
    fn fault(&mut self, mix: &Mix) -> Fault {
        let machines = [mix.processes, mix.power, mix.network, mix.clocks, mix.disks, mix.amnesia, mix.l3];
        let people = [mix.members, mix.names, mix.leaders, mix.twins, mix.overload];
        let weights: Vec<u32> = machines.into_iter().chain(people).collect();
        let mut drawn = self.rng.gen_range(0..weights.iter().sum::<u32>().max(1));
        let family = weights.iter().position(|weight| {
            let here = drawn < *weight;
            drawn = drawn.saturating_sub(*weight);
            here
        });
        let kind = match family.unwrap_or(0) {
            0 => self.process(),
            1 => self.power(),
            2 => self.network(),
            3 => FaultKind::Drift(self.place(), self.rng.gen_range(-20_000..=20_000)),
            4 => self.disk(),
            5 => self.amnesia(),
            6 => self.l3(),
            7 => self.member(),
            8 => self.stale_name(),
            9 => self.leader(),
            10 => self.twin(),
            _ => self.overload(),
        };
        let longest = match &kind {
            FaultKind::AddNobody | FaultKind::RemoveLeader | FaultKind::MoveLeader(_) => 200,
            FaultKind::SplitOffLeader
            | FaultKind::IsolateLeader
            | FaultKind::Flood(_)
            | FaultKind::SlowLeaderDisk(_) => 14_000,
            FaultKind::Twin(_) => 24_000,
            FaultKind::Crash(_) | FaultKind::PowerCut(_) | FaultKind::PowerCutAll => 6_000,
            FaultKind::DiskRot(_) | FaultKind::MarkRot(_) | FaultKind::LostTail(_) | FaultKind::SnapshotRot(_) => 3_000,
            FaultKind::Drift(..) => 20_000,
            _ => 8_000,
        };
        let Shape { from_ms, until_ms, .. } = self.shape;
        let span = until_ms - from_ms;
        let lasts_ms = self.rng.gen_range(50..=longest.min(span / 2).max(51));
        let at_ms = from_ms + self.rng.gen_range(0..=span - lasts_ms);
        Fault { at_ms, lasts_ms, kind }
    }

    fn place(&mut self) -> Place {
        let drawn = self.rng.gen_range(0..self.shape.replicas + self.shape.agents);
        if drawn < self.shape.replicas { Place::Replica(drawn) } else { Place::Agent(drawn - self.shape.replicas) }
    }

    fn replica(&mut self) -> usize {
        self.rng.gen_range(0..self.shape.replicas)
    }

    fn two(&mut self) -> (Place, Place) {
        let from = self.place();
        loop {
            let to = if self.rng.gen_ratio(1, 6) { Place::Clients } else { self.place() };
            if to != from {
                return (from, to);
            }
        }
    }

    fn process(&mut self) -> FaultKind {
        match self.rng.gen_range(0..5) {
            0..=2 => FaultKind::Crash(self.place()),
            _ => FaultKind::Pause(self.place()),
        }
    }

    fn power(&mut self) -> FaultKind {
        match self.rng.gen_range(0..3) {
            0 => FaultKind::PowerCutAll,
            _ => FaultKind::PowerCut(self.place()),
        }
    }

    fn network(&mut self) -> FaultKind {
        match self.rng.gen_range(0..7) {
            0 | 1 => FaultKind::Isolate(self.place()),
            2 | 3 => {
                let (from, to) = self.two();
                FaultKind::OneWayCut(from, to)
            }
            4 => FaultKind::SplitGroup(self.rng.gen_range(1..self.shape.replicas.max(2))),
            5 => FaultKind::SlowLinks(self.place(), self.rng.gen_range(5..=250)),
            _ => {
                let (a, b) = self.two();
                FaultKind::Resets(a, b)
            }
        }
    }

    fn disk(&mut self) -> FaultKind {
        let replica = self.replica();
        match self.rng.gen_range(0..8) {
            0..=3 => FaultKind::SlowDisk(replica, self.rng.gen_range(2..=400)),
            4 | 5 => FaultKind::DiskError(replica),
            6 => FaultKind::SnapshotDiskFull(replica),
            _ => FaultKind::DiskFull(replica),
        }
    }

    fn amnesia(&mut self) -> FaultKind {
        let victim = self.victim;
        match self.rng.gen_range(0..5) {
            0 if !self.replaced => {
                self.replaced = true;
                FaultKind::Replace(victim)
            }
            1 => FaultKind::MarkRot(victim),
            2 => FaultKind::SnapshotRot(victim),
            3 => FaultKind::LostTail(victim),
            _ => FaultKind::DiskRot(victim),
        }
    }

    /// A replica, and another one.
    fn two_replicas(&mut self) -> (usize, usize) {
        let first = self.replica();
        let other = (first + self.rng.gen_range(1..self.shape.replicas.max(2))) % self.shape.replicas;
        (first, other)
    }

    fn member(&mut self) -> FaultKind {
        let victim = self.victim;
        match self.rng.gen_range(0..10) {
            drawn @ 0..=3 if !self.removes && !self.replaced => {
                self.replaced = true;
                match drawn {
                    0 => FaultKind::Replace(victim),
                    1 => FaultKind::ReplaceInPlace(victim),
                    2 => FaultKind::InheritAddress(victim),
                    _ => FaultKind::EmptyDirectory(victim),
                }
            }
            0 | 1 if self.removes && !self.replaced => {
                self.replaced = true;
                FaultKind::RemoveLeader
            }
            2 | 3 => FaultKind::ReplaceByLeader(self.replica()),
            4 => FaultKind::AddNobody,
            5 => FaultKind::ReplaceByNobody(self.replica()),
            6 => {
                let (old, at) = self.two_replicas();
                FaultKind::ReplaceByMember(old, at)
            }
            7 => FaultKind::AddUsedId(self.replica()),
            8 => FaultKind::MoveLeader(self.replica()),
            _ => FaultKind::ReplaceByLeader(self.replica()),
        }
    }

    fn stale_name(&mut self) -> FaultKind {
        let (at, name) = self.two_replicas();
        let to = (name + self.rng.gen_range(1..self.shape.replicas.max(2))) % self.shape.replicas;
        FaultKind::StaleName(at, name, to)
    }

    fn leader(&mut self) -> FaultKind {
        match self.rng.gen_range(0..6) {
            0 | 1 => FaultKind::SplitOffLeader,
            2 | 3 => FaultKind::IsolateLeader,
            _ => FaultKind::MoveLeader(self.replica()),
        }
    }

    /// One a run: the number of clients that it needs is fixed.
    fn twin(&mut self) -> FaultKind {
        if std::mem::replace(&mut self.twin, true) {
            return self.process();
        }
        FaultKind::Twin(self.rng.gen_range(0..self.shape.agents))
    }

    fn overload(&mut self) -> FaultKind {
        match self.rng.gen_range(0..5) {
            0 => FaultKind::Flood(self.rng.gen_range(20..=60)),
            1 => FaultKind::SlowDisk(self.replica(), self.rng.gen_range(20..=400)),
            2 => FaultKind::SlowDisks(self.rng.gen_range(10..=60)),
            3 => FaultKind::SlowDisks(self.rng.gen_range(60..=250)),
            _ => FaultKind::SlowLeaderDisk(self.rng.gen_range(200..=400)),
        }
    }

    fn l3(&mut self) -> FaultKind {
        match self.rng.gen_range(0..8) {
            0 => FaultKind::TornWrites,
            1 => FaultKind::LateWrites,
            2 => FaultKind::BadWrites,
            3 => FaultKind::BadReads,
            4 => FaultKind::ShortReads,
            5 => FaultKind::LostCompletions,
            6 => FaultKind::L3Stall,
            _ => FaultKind::L3Outage,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape = Shape { replicas: 3, agents: 2, from_ms: 2_000, until_ms: 40_000 };

    #[test]
    fn a_seed_has_one_schedule_and_seeds_differ() {
        assert_eq!(generate(1, &Mix::ALL, SHAPE), generate(1, &Mix::ALL, SHAPE));
        assert_ne!(generate(1, &Mix::ALL, SHAPE), generate(2, &Mix::ALL, SHAPE));
        assert!(generate(1, &Mix::NONE, SHAPE).is_empty());
    }

    #[test]
    fn faults_are_over_in_time_all_kinds_come_and_one_replica_forgets() {
        let everything = Mix { members: 6, names: 3, leaders: 3, twins: 3, overload: 3, ..Mix::ALL };
        let mut seen = [false; FaultKind::NAMES.len()];
        for seed in 0..300 {
            let mut forgetful = std::collections::BTreeSet::new();
            for fault in generate(seed, &everything, SHAPE) {
                assert!(fault.at_ms >= SHAPE.from_ms && fault.ends_ms() <= SHAPE.until_ms, "{fault}");
                seen[fault.kind.number()] = true;
                if let FaultKind::DiskRot(replica)
                | FaultKind::MarkRot(replica)
                | FaultKind::Replace(replica)
                | FaultKind::ReplaceInPlace(replica)
                | FaultKind::InheritAddress(replica)
                | FaultKind::EmptyDirectory(replica) = fault.kind
                {
                    forgetful.insert(replica);
                }
            }
            assert!(forgetful.len() <= 1, "seed {seed}: {forgetful:?}");
        }
        assert_eq!(seen, [true; FaultKind::NAMES.len()]);
    }
}
