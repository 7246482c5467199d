//! What a run is made of: the shape of the cluster, its load, and what goes wrong.

use std::sync::Arc;

use foreword_meta::state::command::ClusterSettings;

use crate::cluster::{Plan, PolicyPace, Seams};
use crate::faults::Mix;
use crate::generated;
use crate::workload::Load;
use crate::workload::page_files::{PROTECTION_MS, RESERVATION_MS};

/// A kind of run.
#[derive(Clone, Copy)]
pub struct Profile {
    pub name: &'static str,
    pub replicas: usize,
    pub agents: usize,
    pub load: fn() -> Load,
    pub mix: Mix,
    /// How long an I/O of L3 may take: longer than a get, where a get's own deadline is to be met.
    pub l3_deadline_ms: u64,
    /// Bytes of events that a replica keeps for its watchers.
    pub watch_bytes_max: u64,
    pub policy: PolicyPace,
    /// How long a slot rests whose write has no known result.
    pub write_rest_ms: u64,
}

const CHUNK_BYTES: u32 = 4096;

/// A session's lease, and how long slots rest: short, so that both happen many times a minute.
pub const LEASE_MS: u64 = 2_500;
pub const READ_REST_MS: u64 = 1_500;
pub const WRITE_REST_MS: u64 = 3_000;

const BASE: Profile = Profile {
    name: "",
    replicas: 3,
    agents: 2,
    load: Load::shared_prefixes,
    mix: Mix::ALL,
    l3_deadline_ms: 500,
    watch_bytes_max: 1 << 20,
    policy: PolicyPace { feed_bytes_max: 1 << 20, starved_ms_max: 0 },
    write_rest_ms: WRITE_REST_MS,
};

/// Every profile, in the order in which seeds go through them.
pub const PROFILES: [Profile; 16] = [
    Profile { name: "shared-prefixes", ..BASE },
    Profile {
        name: "herd",
        load: Load::herd,
        l3_deadline_ms: 2_900,
        agents: 3,
        mix: Mix { processes: 4, network: 8, l3: 3, ..Mix::ALL },
        ..BASE
    },
    // Reads that outlast a rest meet reused slots.
    Profile {
        name: "churn",
        load: Load::churn,
        l3_deadline_ms: 2_900,
        mix: Mix { l3: 10, disks: 2, ..Mix::ALL },
        ..BASE
    },
    Profile { name: "namespaces", load: Load::namespaces, mix: Mix { disks: 8, ..Mix::ALL }, ..BASE },
    Profile { name: "shards", load: Load::shards, mix: Mix { processes: 8, l3: 8, ..Mix::ALL }, ..BASE },
    Profile {
        name: "slow-watchers",
        load: Load::slow_watchers,
        watch_bytes_max: 4 << 10,
        // A few pages: it starts over all the time.
        policy: PolicyPace { feed_bytes_max: 512, starved_ms_max: 60 },
        mix: Mix { network: 8, ..Mix::ALL },
        ..BASE
    },
    Profile { name: "clears", load: Load::clears, mix: Mix { network: 8, power: 4, ..Mix::ALL }, ..BASE },
    Profile { name: "power", mix: Mix { power: 10, disks: 6, processes: 2, network: 2, l3: 2, ..Mix::ALL }, ..BASE },
    Profile {
        name: "five-replicas",
        replicas: 5,
        mix: Mix { network: 8, disks: 4, amnesia: 4, l3: 2, count: (10, 30), ..Mix::ALL },
        ..BASE
    },
    Profile { name: "calm", mix: Mix::NONE, ..BASE },
    // A page that is used again too early takes an election, or a leader that does not know that there was one.
    Profile {
        name: "page-files",
        load: Load::page_files,
        mix: Mix { processes: 8, network: 8, power: 3, clocks: 4, l3: 1, ..Mix::ALL },
        ..BASE
    },
    // A disk that is lost beside the one whose directory an operator makes anew would be a majority's.
    Profile {
        name: "members",
        load: Load::members,
        mix: Mix { count: (4, 14), processes: 3, power: 1, network: 3, members: 12, names: 6, ..Mix::NONE },
        ..BASE
    },
    Profile {
        name: "deposed",
        load: Load::members,
        mix: Mix { count: (3, 10), processes: 1, network: 1, leaders: 10, ..Mix::NONE },
        ..BASE
    },
    Profile {
        name: "twins",
        load: Load::twins,
        agents: 3,
        // Names that are taken again and again leave all of L3 at rest.
        write_rest_ms: 20_000,
        mix: Mix { count: (2, 6), processes: 2, network: 2, twins: 6, ..Mix::NONE },
        ..BASE
    },
    Profile { name: "overload", mix: Mix { count: (2, 8), network: 1, overload: 8, ..Mix::NONE }, ..BASE },
    // A replica without a disk is sent a large snapshot; a mirror that lost its place, the few buckets that differ.
    Profile {
        name: "large",
        load: Load::large,
        watch_bytes_max: 4 << 10,
        policy: PolicyPace { feed_bytes_max: 4 << 10, starved_ms_max: 20 },
        mix: Mix { processes: 8, amnesia: 6, leaders: 3, disks: 2, l3: 1, ..Mix::ALL },
        ..BASE
    },
];

impl Profile {
    /// The profile of this name.
    pub fn named(name: &str) -> Option<&'static Self> {
        PROFILES.iter().find(|profile| profile.name == name)
    }

    /// The profile that a seed has when none is named.
    pub fn of(seed: u64) -> &'static Self {
        &PROFILES[(seed % PROFILES.len() as u64) as usize]
    }

    /// What the cluster is initialised with.
    pub fn settings(&self) -> ClusterSettings {
        let load = (self.load)();
        ClusterSettings {
            chunk_bytes: CHUNK_BYTES,
            slab_bytes: load.slab_bytes,
            l3_bytes: load.l3_bytes,
            read_rest_ms: READ_REST_MS,
            write_rest_ms: self.write_rest_ms,
            first_feature_level: 1,
            hf3fs_protection_ms: PROTECTION_MS,
            lease_ms: LEASE_MS,
        }
    }

    /// The cluster of this profile.
    pub fn plan(&self, seams: Seams) -> Plan {
        let (watch_bytes_max, l3_deadline_ms) = (self.watch_bytes_max, self.l3_deadline_ms);
        let load = (self.load)();
        let arena_bytes = load.arena_bytes;
        Plan {
            replicas: self.replicas,
            agents: self.agents,
            settings: self.settings(),
            generated: generated::plan(&load.generated),
            page_files: load.page_engines > 0,
            policy: self.policy,
            meta: Arc::new(move |config| {
                config.log_bytes_per_snapshot = 16 << 10;
                config.watch_bytes_max = watch_bytes_max;
                config.high_watermark_percent = load.high_watermark_percent;
                config.low_watermark_percent = load.low_watermark_percent;
                config.hf3fs_reservation_ms = RESERVATION_MS;
            }),
            node: Arc::new(move |config| {
                config.arena_bytes = arena_bytes;
                config.l3_deadline_ms = l3_deadline_ms;
                config.gather_deadline_ms = 800;
                config.put_room_wait_ms = 500;
                config.publish_wait_ms = 4_000;
                config.meta_wait_ms = 5_000;
                config.mirror_save_ms = 3_000;
            }),
            seams,
        }
    }
}
