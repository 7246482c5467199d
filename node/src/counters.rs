//! What the agent counts: for /status at once, for /metrics when it is read.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use foreword_proto::PutRefusal;
use foreword_proto::status::AgentCounters;
use foreword_seams::Telemetry;
use metrics::{Counter, Histogram};
use parking_lot::Mutex;

macro_rules! counters {
    ($($name:ident, $metric:literal, $help:literal;)*) => {
        /// Counters since the agent started.
        pub struct Counters {
            $(pub $name: Count,)*
            /// Where the time of a page's way to the index goes.
            pub stages: Stages,
            refused: Mutex<BTreeMap<PutRefusal, Counter>>,
            telemetry: Telemetry,
        }

        impl Counters {
            /// All at 0, registered with this host's telemetry.
            pub fn new(telemetry: Telemetry) -> Self {
                Self {
                    $($name: Count::new(telemetry.counter($metric, $help)),)*
                    stages: Stages::new(&telemetry),
                    refused: Mutex::default(),
                    telemetry,
                }
            }

            /// The document's part.
            pub fn snapshot(&self) -> AgentCounters {
                AgentCounters { $($name: self.$name.get(),)* }
            }
        }
    };
}

counters! {
    lookups, "foreword_agent_lookups_total", "Lookups answered";
    lookup_keys, "foreword_agent_lookup_keys_total", "Keys of the lookups answered";
    l1_hits, "foreword_agent_l1_hits_total", "Pages given from L1";
    l3_hits, "foreword_agent_l3_hits_total", "Pages given from L3";
    misses, "foreword_agent_misses_total", "Pages asked for and not given";
    l3_reads, "foreword_agent_l3_reads_total", "Pages read from L3";
    l3_read_bytes, "foreword_agent_l3_read_bytes_total", "Bytes read from L3";
    l3_reads_coalesced, "foreword_agent_l3_reads_coalesced_total", "Reads that joined another's L3 read of the same page";
    l3_reads_repeated, "foreword_agent_l3_reads_repeated_total", "Reads that L3 could not do, done once more";
    l3_writes, "foreword_agent_l3_writes_total", "Pages written to L3";
    l3_write_bytes, "foreword_agent_l3_write_bytes_total", "Bytes written to L3";
    l3_writes_repeated, "foreword_agent_l3_writes_repeated_total", "Writes without a known result, done once more in another slot";
    checksum_mismatches, "foreword_agent_checksum_mismatches_total", "L3 reads whose bytes were not the page's";
    suspects_reported, "foreword_agent_suspects_reported_total", "Pages reported as bad";
    breaker_openings, "foreword_agent_breaker_openings_total", "Times L3 stopped being asked";
    slab_breaker_openings, "foreword_agent_slab_breaker_openings_total", "Times one slab of L3 stopped being asked";
    l3_epochs, "foreword_agent_l3_epochs_total", "Times L3 was reached anew after its daemon had gone";
    segments_replaced, "foreword_agent_segments_replaced_total", "Arena segments replaced because lost completions held them";
    segments_failed, "foreword_agent_segments_failed_total", "Times no memory could be had for an arena segment";
    puts_taken, "foreword_agent_puts_taken_total", "Pages whose bytes came in whole";
    puts_existing, "foreword_agent_puts_existing_total", "Pages put that were there already";
    puts_declined, "foreword_agent_puts_declined_total", "Pages not written because no reuse is expected";
    puts_refused, "foreword_agent_puts_refused_all_total", "Pages dropped, for any reason";
    puts_aborted, "foreword_agent_puts_aborted_total", "Pages whose shards did not all come";
    publishes_acked, "foreword_agent_publishes_acked_total", "Pages the group acknowledged";
    watch_resyncs, "foreword_agent_watch_resyncs_total", "Times a mirror began from a snapshot again";
    sessions_opened, "foreword_agent_sessions_opened_total", "Sessions opened with the group";
    put_bytes, "foreword_agent_put_bytes_total", "Page bytes taken from puts into the arena";
    bytes_copied, "foreword_agent_bytes_copied_total", "Page bytes copied between the arena's frames on their way to or from L3";
}

impl Counters {
    /// A page was dropped, and why.
    pub fn refuse(&self, reason: PutRefusal) {
        self.puts_refused.add(1);
        let mut refused = self.refused.lock();
        let counter = refused.entry(reason).or_insert_with(|| {
            self.telemetry.counter_with(
                "foreword_agent_puts_refused_total",
                "Pages dropped, by reason",
                "reason",
                reason.name(),
            )
        });
        counter.increment(1);
    }
}

/// Times of the stages between a page's last byte and its acknowledgement, and of L3 reads.
pub struct Stages {
    /// From the page being whole to its slot.
    pub slot: Histogram,
    /// A page's write to L3, from its batch's beginning.
    pub write: Histogram,
    /// A publish command.
    pub publish: Histogram,
    /// A page's read from L3.
    pub read: Histogram,
}

impl Stages {
    fn new(telemetry: &Telemetry) -> Self {
        let stage = |name: &'static str| {
            telemetry.seconds_with("foreword_agent_stage_seconds", "Time in each stage of a page's way", "stage", name)
        };
        Self { slot: stage("slot"), write: stage("write"), publish: stage("publish"), read: stage("read") }
    }
}

/// One counter, readable here and registered with the telemetry.
pub struct Count {
    value: AtomicU64,
    metric: Counter,
}

impl Count {
    fn new(metric: Counter) -> Self {
        Self { value: AtomicU64::new(0), metric }
    }

    /// Counts.
    pub fn add(&self, count: u64) {
        self.value.fetch_add(count, Ordering::Relaxed);
        self.metric.increment(count);
    }

    /// The count so far.
    pub fn get(&self) -> u64 {
        self.value.load(Ordering::Relaxed)
    }
}
