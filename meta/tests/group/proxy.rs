//! An address that leads elsewhere when it is told to, as a name does whose resolver is behind.

use foreword_seams::Endpoint;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

struct Target {
    address: String,
    /// Connections to the one before end.
    ends_older: bool,
}

pub(crate) struct Proxy {
    pub(crate) endpoint: Endpoint,
    leads_to: watch::Sender<Target>,
    _connections: JoinSet<()>,
}

fn address(endpoint: &Endpoint) -> String {
    let Endpoint::Tcp(address) = endpoint else { panic!("no address of TCP") };
    address.clone()
}

impl Proxy {
    pub(crate) async fn to(target: &Endpoint) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = Endpoint::Tcp(listener.local_addr().unwrap().to_string());
        let leads_to = watch::Sender::new(Target { address: address(target), ends_older: false });
        let mut connections = JoinSet::new();
        let targets = leads_to.subscribe();
        connections.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(pass(stream, targets.clone()));
            }
        });
        Self { endpoint, leads_to, _connections: connections }
    }

    /// From now on the address leads to another; connections to the old one end.
    pub(crate) fn leads_to(&self, target: &Endpoint) {
        self.leads_to.send_replace(Target { address: address(target), ends_older: true });
    }

    /// New connections lead to another; those to the old one stay as they are.
    pub(crate) fn leads_newcomers_to(&self, target: &Endpoint) {
        self.leads_to.send_replace(Target { address: address(target), ends_older: false });
    }
}

async fn pass(mut from: TcpStream, mut targets: watch::Receiver<Target>) {
    let target = targets.borrow_and_update().address.clone();
    let Ok(mut to) = TcpStream::connect(target).await else { return };
    tokio::select! {
        _ = copy_bidirectional(&mut from, &mut to) => {}
        () = replaced(&mut targets) => {}
    }
}

/// Until older connections are to end.
async fn replaced(targets: &mut watch::Receiver<Target>) {
    while targets.changed().await.is_ok() && !targets.borrow_and_update().ends_older {}
}
