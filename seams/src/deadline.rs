//! How long a caller of an RPC waits, so that it gets an answer and not the end of its patience.

use std::time::Duration;

use tokio::time::Instant;
use tonic::metadata::MetadataMap;

/// Part of the caller's time that is used: the answer must still travel.
const TIMEOUT_USED_PERCENT: u32 = 90;

/// When the call must be answered: its `grpc-timeout`, less what the answer needs, or `default`.
pub fn deadline_of(metadata: &MetadataMap, default: Duration) -> Instant {
    let timeout = metadata.get("grpc-timeout").and_then(|value| parse_timeout(value.to_str().ok()?));
    let used = timeout.map_or(default, |timeout| (timeout / 100 * TIMEOUT_USED_PERCENT).min(default));
    Instant::now() + used
}

/// `grpc-timeout`: at most 8 digits and a unit.
fn parse_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(count * 3600),
        "M" => Duration::from_secs(count * 60),
        "S" => Duration::from_secs(count),
        "m" => Duration::from_millis(count),
        "u" => Duration::from_micros(count),
        "n" => Duration::from_nanos(count),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_read_as_grpc_writes_them() {
        assert_eq!(parse_timeout("5S"), Some(Duration::from_secs(5)));
        assert_eq!(parse_timeout("250m"), Some(Duration::from_millis(250)));
        assert_eq!(parse_timeout("99999999H"), Some(Duration::from_secs(99_999_999 * 3600)));
        for text in ["", "S", "5", "5x", "123456789S", "-1S", "5é"] {
            assert_eq!(parse_timeout(text), None, "{text:?}");
        }
    }
}
