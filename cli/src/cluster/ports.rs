//! Ports for replicas, which must know each other's address before any of them runs.
//!
//! A port is drawn below the kernel's range for outgoing connections and tried with a short-lived bind: while a replica
//! is down, no connection of another process can be given its port. Two clusters can still draw the same one at the
//! same moment; then a replica reports the address in use, and the cluster is laid out again with other ports.

use std::net::TcpListener;

use anyhow::bail;
use foreword_seams::{Entropy, OsEntropy};

/// Below this live the well-known services.
const PORT_MIN: u16 = 10_240;
/// Where outgoing connections begin when the kernel does not say.
const EPHEMERAL_MIN: u16 = 32_768;
const DRAWS_MAX: usize = 1000;

/// Different ports on 127.0.0.1 that are free now.
pub(super) fn draw(count: usize) -> anyhow::Result<Vec<u16>> {
    let end = ephemeral_start().max(PORT_MIN + 1024);
    let mut held: Vec<(u16, TcpListener)> = Vec::new();
    for _ in 0..DRAWS_MAX {
        if held.len() == count {
            break;
        }
        let port = PORT_MIN + OsEntropy.below(u64::from(end - PORT_MIN)) as u16;
        // Held until all are drawn, so that they differ.
        if let Ok(listener) = TcpListener::bind(("127.0.0.1", port)) {
            held.push((port, listener));
        }
    }
    if held.len() < count {
        bail!("ports: expected {count} free ports between {PORT_MIN} and {end}, found {}", held.len());
    }
    Ok(held.into_iter().map(|(port, _)| port).collect())
}

fn ephemeral_start() -> u16 {
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    range.split_whitespace().next().and_then(|start| start.parse().ok()).unwrap_or(EPHEMERAL_MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_differ_and_are_outside_the_ephemeral_range() {
        let mut ports = draw(8).unwrap();
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), 8);
        assert!(ports.iter().all(|port| *port < ephemeral_start().max(PORT_MIN + 1024)));
    }
}
