//! The profiles of load.

use super::prompts::Prompts;
use super::{Load, SHARD_BYTES};

const MIB: u64 = 1 << 20;

impl Load {
    /// All profiles, by their names.
    pub fn all() -> Vec<Self> {
        vec![
            Self::shared_prefixes(),
            Self::herd(),
            Self::churn(),
            Self::namespaces(),
            Self::shards(),
            Self::slow_watchers(),
            Self::clears(),
            Self::page_files(),
            Self::members(),
            Self::twins(),
            Self::large(),
        ]
    }

    /// The profile of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::all().into_iter().find(|load| load.name == name)
    }

    /// Engines whose prompts share prefixes: what the others are variations of.
    pub fn shared_prefixes() -> Self {
        Self {
            name: "shared-prefixes".into(),
            l3_bytes: 16 * MIB,
            slab_bytes: MIB / 4,
            arena_bytes: 2 * MIB,
            high_watermark_percent: 98,
            low_watermark_percent: 96,
            engines: 5,
            think_ms: (80, 320),
            prompts: Prompts::SharedPrefixes { roots: 6, tails: 24 },
            namespaces: 1,
            tenants: 1,
            shapes: vec![vec![SHARD_BYTES]],
            opened_over_ms: 0,
            away_percent: 20,
            bypass_percent: 15,
            linearizable_percent: 10,
            min_revision_percent: 40,
            hint_percent: 8,
            no_wait_percent: 25,
            interleaved: false,
            missing_shard_percent: 0,
            cut_percent: 1,
            delete_percent: 0,
            clear_per_mille: 0,
            sweep_percent: 0,
            slow_watchers: 0,
            diligent_watchers: false,
            page_engines: 0,
            leaseholders: 0,
            generated: Vec::new(),
        }
    }

    /// Many engines on one prompt at once, again and again.
    pub fn herd() -> Self {
        Self {
            name: "herd".into(),
            engines: 8,
            // After the beginning of a round.
            think_ms: (0, 2),
            prompts: Prompts::Herd { round_ms: 400 },
            ..Self::shared_prefixes()
        }
    }

    /// An L3 so small that its slots are used again all the time.
    pub fn churn() -> Self {
        Self {
            name: "churn".into(),
            l3_bytes: MIB,
            slab_bytes: MIB / 16,
            arena_bytes: MIB,
            // Two in a hundred of so few slots would be five: puts would do nothing but wait for them.
            high_watermark_percent: 90,
            low_watermark_percent: 70,
            prompts: Prompts::Churn { again_percent: 45 },
            // Most gets must come from L3: only then can a reused slot show.
            bypass_percent: 50,
            diligent_watchers: true,
            ..Self::shared_prefixes()
        }
    }

    /// Many namespaces of several tenants and slot sizes, which come into use one after another.
    pub fn namespaces() -> Self {
        Self {
            name: "namespaces".into(),
            namespaces: 10,
            tenants: 4,
            shapes: vec![vec![SHARD_BYTES], vec![2 * SHARD_BYTES], vec![SHARD_BYTES; 2]],
            opened_over_ms: 30_000,
            prompts: Prompts::SharedPrefixes { roots: 3, tails: 6 },
            arena_bytes: 8 * MIB,
            ..Self::shared_prefixes()
        }
    }

    /// Pages of several shards, of which sometimes one does not come.
    pub fn shards() -> Self {
        Self {
            name: "shards".into(),
            namespaces: 3,
            shapes: vec![vec![SHARD_BYTES; 2], vec![SHARD_BYTES, 1_000, 12 * SHARD_BYTES], vec![2_500; 4]],
            engines: 6,
            // So little that a stall of L3 fills what puts may take of it.
            arena_bytes: MIB,
            interleaved: true,
            missing_shard_percent: 5,
            cut_percent: 5,
            ..Self::shared_prefixes()
        }
    }

    /// Watchers that do not keep up.
    pub fn slow_watchers() -> Self {
        Self {
            name: "slow-watchers".into(),
            l3_bytes: 2 * MIB,
            slab_bytes: MIB / 8,
            high_watermark_percent: 90,
            low_watermark_percent: 75,
            namespaces: 2,
            engines: 4,
            prompts: Prompts::Churn { again_percent: 50 },
            clear_per_mille: 1,
            slow_watchers: 5,
            diligent_watchers: true,
            ..Self::shared_prefixes()
        }
    }

    /// Namespaces are cleared and pages deleted while others put and get.
    pub fn clears() -> Self {
        Self {
            name: "clears".into(),
            namespaces: 2,
            tenants: 2,
            delete_percent: 5,
            clear_per_mille: 8,
            linearizable_percent: 8,
            diligent_watchers: true,
            ..Self::shared_prefixes()
        }
    }

    /// Engines that keep their pages in page files, beside a few that do not.
    pub fn page_files() -> Self {
        Self { name: "page-files".into(), engines: 2, think_ms: (150, 500), page_engines: 8, ..Self::shared_prefixes() }
    }
    /// Beside engines, a client that does nothing but hold its lease.
    pub fn members() -> Self {
        Self { name: "members".into(), think_ms: (60, 240), leaseholders: 1, ..Self::shared_prefixes() }
    }

    /// Prompts that are new half of the time: an agent that gets no slots fails at once.
    pub fn twins() -> Self {
        Self {
            name: "twins".into(),
            // What crashed agents held rests for long, and is no reason to evict: it has room beside the pages.
            high_watermark_percent: 75,
            low_watermark_percent: 60,
            prompts: Prompts::Churn { again_percent: 45 },
            engines: 6,
            think_ms: (30, 120),
            ..Self::shared_prefixes()
        }
    }

    /// Tens of thousands of pages from the beginning, most of which nobody reads, and L3 almost full of them.
    pub fn large() -> Self {
        Self {
            name: "large".into(),
            l3_bytes: 52 * 4 * MIB,
            slab_bytes: 4 * MIB,
            arena_bytes: 4 * MIB,
            prompts: Prompts::Generated { fresh_percent: 40 },
            generated: vec![30_000, 15_000, 5_000],
            think_ms: (40, 160),
            delete_percent: 3,
            clear_per_mille: 4,
            // Long commands: half a large state of log is what makes a snapshot due.
            sweep_percent: 30,
            slow_watchers: 2,
            diligent_watchers: true,
            ..Self::shared_prefixes()
        }
    }
}
