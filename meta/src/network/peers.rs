//! The other replicas, as this one calls them.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use foreword_proto::limits::RAFT_MESSAGE_BYTES_MAX;
use foreword_proto::wire::raft::raft_client::RaftClient;
use foreword_seams::{Net, Telemetry};
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;

use super::address::{Addressed, Peer, PeerIdentity};
use super::channels::{Channels, PeerChannel};
use super::pulse::Pulse;
use super::reach::Reach;
use super::transfers::Transfers;

/// A channel that says on every call whose it is and whom it is for.
pub(crate) type AddressedChannel = InterceptedService<PeerChannel, Addressed>;

/// A client of another replica's Raft service.
pub(crate) type PeerClient = RaftClient<AddressedChannel>;

/// What is shared by all calls to other replicas.
pub struct Peers {
    identity: PeerIdentity,
    channels: Arc<Channels>,
    transfers: Transfers,
    reach: Reach,
    pulse: Pulse,
}

impl Peers {
    /// Nobody was called yet.
    pub fn new(net: Arc<dyn Net>, identity: PeerIdentity, telemetry: &Telemetry) -> Self {
        let (channels, transfers) = (Channels::new(net), Transfers::new(telemetry));
        Self { identity, channels, transfers, reach: Reach::default(), pulse: Pulse::default() }
    }

    /// Which peers can be reached.
    pub(super) fn reach(&self) -> &Reach {
        &self.reach
    }

    /// Who this replica is to others.
    pub fn identity(&self) -> PeerIdentity {
        self.identity
    }

    /// How fast they acknowledge.
    pub(super) fn pulse(&self) -> &Pulse {
        &self.pulse
    }

    /// The median acknowledgement of the fastest of these peers that acknowledged at least `count` times within
    /// `window`.
    pub(crate) fn fastest_acknowledgement(
        &self,
        among: &BTreeSet<u64>,
        window: Duration,
        count: usize,
    ) -> Option<Duration> {
        self.pulse.fastest(among, window, count)
    }

    /// Sends no append while silent: the followers choose another leader.
    pub(crate) fn be_silent(&self, silent: bool) {
        self.pulse.be_silent(silent);
    }

    /// The channel to an endpoint.
    pub fn channel(&self, endpoint: &str) -> Channel {
        self.channels.to(endpoint)
    }

    /// Another replica than the one that is expected there said hello: the next channel to it connects anew.
    pub(super) fn answered_by_another(&self, endpoint: &str) {
        self.channels.answered_by_another(endpoint);
    }

    /// Snapshots on their way to others.
    pub(crate) fn transfers(&self) -> &Transfers {
        &self.transfers
    }

    /// The channel to a replica, for a service that only replicas call.
    pub(crate) fn addressed(&self, peer: &Peer) -> AddressedChannel {
        InterceptedService::new(self.channels.to_peer(&peer.endpoint), self.identity.calling(Some(peer.address)))
    }

    /// A client of a replica's Raft service.
    pub(crate) fn raft_client(&self, peer: &Peer) -> PeerClient {
        raft_client(self.addressed(peer))
    }

    /// A client of the Raft service of whichever replica answers at an endpoint: for a hello only.
    pub(super) fn client_of_anyone(&self, endpoint: &str) -> PeerClient {
        raft_client(InterceptedService::new(self.channels.to_peer(endpoint), self.identity.calling(None)))
    }
}

fn raft_client(channel: AddressedChannel) -> PeerClient {
    RaftClient::new(channel)
        .max_decoding_message_size(RAFT_MESSAGE_BYTES_MAX)
        .max_encoding_message_size(RAFT_MESSAGE_BYTES_MAX)
}
