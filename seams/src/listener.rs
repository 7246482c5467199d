//! Every listener of a server: how many connections it holds, what it does when it cannot accept, and what it tells of
//! both.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{self, StreamExt};
use metrics::{Counter, Gauge};
use rustix::io::Errno;

use crate::connection::{Protocol, timed};
use crate::net::{Endpoint, Incoming, Net, Stream};
use crate::seldom::Seldom;
use crate::telemetry::Telemetry;

/// How long nothing is accepted after the machine had no room for another connection.
const PAUSE: Duration = Duration::from_millis(200);

/// Listens at `endpoint` for `protocol`; answers with connections and the endpoint really bound. `name` is the field of
/// the configuration that says where.
///
/// What comes out is never an error: what cannot be accepted is counted and told of here, and what comes above
/// [`Net::connections_max`] is closed.
pub async fn listen(
    net: &dyn Net,
    name: &'static str,
    endpoint: &Endpoint,
    protocol: Protocol,
    telemetry: &Telemetry,
) -> io::Result<(Incoming, Endpoint)> {
    let (incoming, bound) = net.listen(endpoint).await?;
    let gate = Gate::new(name, protocol, net.connections_max(), telemetry);
    let admitted = stream::unfold((incoming, gate), async |(mut incoming, mut gate)| {
        loop {
            match incoming.next().await? {
                Ok(stream) => {
                    if let Some(stream) = gate.admit(stream) {
                        return Some((Ok(stream), (incoming, gate)));
                    }
                }
                Err(error) => gate.failed(&error).await,
            }
        }
    });
    Ok((admitted.boxed(), bound))
}

struct Gate {
    name: &'static str,
    protocol: Protocol,
    connections_max: usize,
    /// Each connection holds a clone.
    open: Arc<()>,
    open_gauge: Gauge,
    refused: Counter,
    timed_out: Counter,
    errors: Counter,
    refusal_line: Seldom,
    error_line: Seldom,
}

impl Gate {
    fn new(name: &'static str, protocol: Protocol, connections_max: usize, telemetry: &Telemetry) -> Self {
        let counter = |metric, help| telemetry.counter_with(metric, help, "listener", name);
        Self {
            name,
            protocol,
            connections_max,
            open: Arc::default(),
            open_gauge: telemetry.gauge_with(
                "foreword_connections_open",
                "Connections that a listener holds",
                "listener",
                name,
            ),
            refused: counter("foreword_connections_refused_total", "Connections closed because the listener was full"),
            timed_out: counter(
                "foreword_connections_timed_out_total",
                "Connections ended with no whole request in time",
            ),
            errors: counter("foreword_accept_errors_total", "Connections that could not be accepted"),
            refusal_line: Seldom::default(),
            error_line: Seldom::default(),
        }
    }

    /// The connection as the server sees it; None when there is no room for it.
    fn admit(&mut self, stream: Stream) -> Option<Stream> {
        let held = Arc::strong_count(&self.open) - 1;
        if held >= self.connections_max {
            self.refused.increment(1);
            if let Some(left_out) = self.refusal_line.due() {
                let (listener, connections_max) = (self.name, self.connections_max);
                tracing::warn!(listener, connections_max, left_out, "full: a connection was closed at once");
            }
            return None;
        }
        self.open_gauge.increment(1.0);
        let held = Held { _open: self.open.clone(), gauge: self.open_gauge.clone() };
        Some(timed(stream, self.protocol, self.timed_out.clone(), held))
    }

    /// Notes that nothing could be accepted, and pauses unless the fault was one connection's own.
    async fn failed(&mut self, error: &io::Error) {
        self.errors.increment(1);
        if let Some(left_out) = self.error_line.due() {
            tracing::warn!(listener = self.name, %error, left_out, "could not accept a connection");
        }
        if !of_one_connection(error) {
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// True for what ends with the connection that was to be accepted; the next one is not concerned.
fn of_one_connection(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::CONNABORTED | Errno::CONNRESET | Errno::INVAL | Errno::NOTCONN | Errno::INTR | Errno::PROTO)
    )
}

/// Counts one connection while it lives.
struct Held {
    _open: Arc<()>,
    gauge: Gauge,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.gauge.decrement(1.0);
    }
}

#[cfg(test)]
mod tests {
    use futures::future::BoxFuture;
    use tokio::time::Instant;

    use super::*;

    /// Hands out what it was given, then nothing more.
    struct Scripted(parking_lot::Mutex<Vec<io::Result<Stream>>>);

    impl Net for Scripted {
        fn connect(&self, _: &Endpoint) -> BoxFuture<'static, io::Result<Stream>> {
            Box::pin(async { Err(io::ErrorKind::Unsupported.into()) })
        }

        fn listen(&self, endpoint: &Endpoint) -> BoxFuture<'static, io::Result<(Incoming, Endpoint)>> {
            let script = std::mem::take(&mut *self.0.lock());
            let incoming = stream::iter(script).chain(stream::pending()).boxed();
            let endpoint = endpoint.clone();
            Box::pin(async { Ok((incoming, endpoint)) })
        }

        fn connections_max(&self) -> usize {
            2
        }
    }

    async fn listener(script: Vec<io::Result<Stream>>, telemetry: &Telemetry) -> Incoming {
        let endpoint = "127.0.0.1:1".parse().unwrap();
        let net = Scripted(parking_lot::Mutex::new(script));
        listen(&net, "listen", &endpoint, Protocol::Http1, telemetry).await.unwrap().0
    }

    fn connection() -> io::Result<Stream> {
        Ok(Stream::new(tokio::io::duplex(64).0))
    }

    fn errno(errno: Errno) -> io::Result<Stream> {
        Err(errno.into())
    }

    #[tokio::test(start_paused = true)]
    async fn without_descriptors_it_waits_instead_of_spinning() {
        let telemetry = Telemetry::new();
        let script = vec![errno(Errno::MFILE), errno(Errno::NFILE), errno(Errno::NOMEM), connection()];
        let mut incoming = listener(script, &telemetry).await;
        let started = Instant::now();
        incoming.next().await.unwrap().unwrap();
        assert_eq!(started.elapsed(), 3 * PAUSE);
        assert!(telemetry.render().contains("foreword_accept_errors_total{listener=\"listen\"} 3"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_went_before_it_was_accepted_delays_nobody() {
        let mut incoming = listener(vec![errno(Errno::CONNABORTED), connection()], &Telemetry::new()).await;
        let started = Instant::now();
        incoming.next().await.unwrap().unwrap();
        assert_eq!(started.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn above_its_limit_the_newest_is_closed_until_another_one_ends() {
        let telemetry = Telemetry::new();
        let script = (0..4).map(|_| connection()).collect();
        let mut incoming = listener(script, &telemetry).await;
        let first = incoming.next().await.unwrap().unwrap();
        let _second = incoming.next().await.unwrap().unwrap();
        assert!(telemetry.render().contains("foreword_connections_open{listener=\"listen\"} 2"));
        let refused = tokio::time::timeout(Duration::from_secs(1), incoming.next()).await;
        assert!(refused.is_err());
        assert!(telemetry.render().contains("foreword_connections_refused_total{listener=\"listen\"} 2"));
        drop(first);
        assert!(telemetry.render().contains("foreword_connections_open{listener=\"listen\"} 1"));
    }
}
