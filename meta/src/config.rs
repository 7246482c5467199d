//! What an operator sets for one replica. What the cluster agreed on at `meta init` is in its data directory instead.

use std::path::PathBuf;

use foreword_proto::{BadInput, ClusterId};
use foreword_seams::Endpoint;
use serde::{Deserialize, Serialize};

/// One replica's settings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MetaConfig {
    /// The directory `meta init` made.
    pub data_dir: PathBuf,
    /// Whose directory it must be; none: any cluster's, any replica's.
    #[serde(default)]
    pub cluster_id: Option<ClusterId>,
    #[serde(default)]
    pub replica_id: Option<u64>,
    /// Where gRPC listens; the address peers use is in the group's membership.
    pub listen: Endpoint,
    /// Where HTTP listens, if anywhere.
    #[serde(default)]
    pub http: Option<Endpoint>,
    /// Where SGLang's hf3fs metadata clients are served, if anywhere.
    #[serde(default)]
    pub hf3fs: Option<Endpoint>,
    /// A reserved page of which nothing was heard for so long is taken back.
    #[serde(default = "defaults::hf3fs_reservation_ms")]
    pub hf3fs_reservation_ms: u64,
    /// How often the leader shows itself, and when a follower stands for election (drawn between the two).
    #[serde(default = "defaults::heartbeat_ms")]
    pub heartbeat_ms: u64,
    #[serde(default = "defaults::election_ms_min")]
    pub election_ms_min: u64,
    #[serde(default = "defaults::election_ms_max")]
    pub election_ms_max: u64,
    /// Log bytes after which a snapshot is taken and the log before it purged.
    #[serde(default = "defaults::log_bytes_per_snapshot")]
    pub log_bytes_per_snapshot: u64,
    /// Encoded events kept for watchers.
    #[serde(default = "defaults::watch_bytes_max")]
    pub watch_bytes_max: u64,
    /// A watcher that takes nothing for so long is dropped.
    #[serde(default = "defaults::watch_stuck_ms")]
    pub watch_stuck_ms: u64,
    /// Eviction starts when more than this share of a class's slots is in use, and frees down to the lower one.
    #[serde(default = "defaults::high_watermark_percent")]
    pub high_watermark_percent: u8,
    #[serde(default = "defaults::low_watermark_percent")]
    pub low_watermark_percent: u8,
    /// Requests of one connection served at once; more are refused as RESOURCE_EXHAUSTED.
    #[serde(default = "defaults::requests_max")]
    pub requests_max: usize,
}

mod defaults {
    pub(super) fn hf3fs_reservation_ms() -> u64 {
        120_000
    }
    pub(super) fn heartbeat_ms() -> u64 {
        100
    }
    pub(super) fn election_ms_min() -> u64 {
        300
    }
    pub(super) fn election_ms_max() -> u64 {
        600
    }
    pub(super) fn log_bytes_per_snapshot() -> u64 {
        foreword_proto::limits::LOG_BYTES_PER_SNAPSHOT
    }
    pub(super) fn watch_bytes_max() -> u64 {
        256 << 20
    }
    pub(super) fn watch_stuck_ms() -> u64 {
        foreword_proto::limits::WATCH_STUCK_MS
    }
    pub(super) fn high_watermark_percent() -> u8 {
        98
    }
    pub(super) fn low_watermark_percent() -> u8 {
        96
    }
    pub(super) fn requests_max() -> usize {
        1024
    }
}

const HOUR_MS: u64 = 3_600_000;

impl MetaConfig {
    /// Settings for a data directory and an endpoint, all else at its default.
    pub fn new(data_dir: impl Into<PathBuf>, listen: Endpoint) -> Self {
        Self {
            data_dir: data_dir.into(),
            cluster_id: None,
            replica_id: None,
            listen,
            http: None,
            hf3fs: None,
            hf3fs_reservation_ms: defaults::hf3fs_reservation_ms(),
            heartbeat_ms: defaults::heartbeat_ms(),
            election_ms_min: defaults::election_ms_min(),
            election_ms_max: defaults::election_ms_max(),
            log_bytes_per_snapshot: defaults::log_bytes_per_snapshot(),
            watch_bytes_max: defaults::watch_bytes_max(),
            watch_stuck_ms: defaults::watch_stuck_ms(),
            high_watermark_percent: defaults::high_watermark_percent(),
            low_watermark_percent: defaults::low_watermark_percent(),
            requests_max: defaults::requests_max(),
        }
    }

    /// Checks the relations between fields; the error names the field.
    pub fn validate(&self) -> Result<(), BadInput> {
        if self.heartbeat_ms == 0 || self.heartbeat_ms >= self.election_ms_min {
            let expected = format!("1 to below election_ms_min ({}), got {}", self.election_ms_min, self.heartbeat_ms);
            return Err(BadInput::new("heartbeat_ms", expected));
        }
        if self.election_ms_min >= self.election_ms_max {
            let expected = format!("above election_ms_min ({}), got {}", self.election_ms_min, self.election_ms_max);
            return Err(BadInput::new("election_ms_max", expected));
        }
        let (low, high) = (self.low_watermark_percent, self.high_watermark_percent);
        if high == 0 || high > 100 {
            return Err(BadInput::new("high_watermark_percent", format!("1 to 100, got {high}")));
        }
        if low == 0 || low > high {
            let expected = format!("1 to high_watermark_percent ({high}), got {low}");
            return Err(BadInput::new("low_watermark_percent", expected));
        }
        let reservation_ms = self.hf3fs_reservation_ms;
        if reservation_ms == 0 || reservation_ms > HOUR_MS {
            return Err(BadInput::new("hf3fs_reservation_ms", format!("1 to {HOUR_MS}, got {reservation_ms}")));
        }
        if self.requests_max == 0 {
            return Err(BadInput::new("requests_max", "at least 1, got 0"));
        }
        if self.watch_stuck_ms == 0 {
            return Err(BadInput::new("watch_stuck_ms", "at least 1, got 0"));
        }
        if self.log_bytes_per_snapshot < 4 << 10 {
            let expected = format!("at least 4096, got {}", self.log_bytes_per_snapshot);
            return Err(BadInput::new("log_bytes_per_snapshot", expected));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_wrong_relation_names_its_field() {
        let good = MetaConfig::new("/x", "127.0.0.1:0".parse().unwrap());
        good.validate().unwrap();
        type Spoil = fn(&mut MetaConfig);
        let cases: [(Spoil, &str); 8] = [
            (|c| c.hf3fs_reservation_ms = HOUR_MS + 1, "hf3fs_reservation_ms"),
            (|c| c.heartbeat_ms = 300, "heartbeat_ms"),
            (|c| c.election_ms_max = 300, "election_ms_max"),
            (|c| c.high_watermark_percent = 101, "high_watermark_percent"),
            (|c| c.low_watermark_percent = 99, "low_watermark_percent"),
            (|c| c.requests_max = 0, "requests_max"),
            (|c| c.watch_stuck_ms = 0, "watch_stuck_ms"),
            (|c| c.log_bytes_per_snapshot = 1, "log_bytes_per_snapshot"),
        ];
        for (spoil, field) in cases {
            let mut config = good.clone();
            spoil(&mut config);
            assert_eq!(config.validate().unwrap_err().field, field);
        }
    }
}
