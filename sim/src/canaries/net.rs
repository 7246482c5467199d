//! Networks that do less and less.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use foreword_seams::{Endpoint, Incoming, Net, Stream};
use futures::future::BoxFuture;

/// Connections that a host with a leak opens before it has no socket left.
const SOCKETS: u64 = 8;

struct Leaking {
    inner: Arc<dyn Net>,
    opened: AtomicU64,
}

/// Agents' hosts leak a socket with each connection they open, until there is none left.
pub(super) fn leaks_sockets(name: &str, inner: Arc<dyn Net>) -> Arc<dyn Net> {
    match name.starts_with("node") {
        true => Arc::new(Leaking { inner, opened: AtomicU64::new(0) }),
        false => inner,
    }
}

impl Net for Leaking {
    fn connect(&self, endpoint: &Endpoint) -> BoxFuture<'static, io::Result<Stream>> {
        if self.opened.fetch_add(1, Ordering::Relaxed) < SOCKETS {
            return self.inner.connect(endpoint);
        }
        Box::pin(std::future::ready(Err(io::Error::from_raw_os_error(libc::EMFILE))))
    }

    fn listen(&self, endpoint: &Endpoint) -> BoxFuture<'static, io::Result<(Incoming, Endpoint)>> {
        self.inner.listen(endpoint)
    }
}
