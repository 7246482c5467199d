//! The agent's API over gRPC, and its small HTTP surface.

mod admission;
mod convert;
mod grpc;
pub mod http;
mod pieces;

use std::sync::Arc;

use foreword_proto::limits::NODE_MESSAGE_BYTES_MAX;
use foreword_proto::wire::node::node_server::NodeServer;
use foreword_seams::rpc_errors::NameMessageLayer;
use foreword_seams::rpc_metrics::RpcMetricsLayer;
use foreword_seams::{Incoming, Telemetry, rpc};
use tokio_util::sync::CancellationToken;

use crate::api::EngineApi;
pub use admission::AdmissionLayer;
pub use grpc::NodeService;

/// What every listener of one agent shares.
#[derive(Clone)]
pub struct GrpcServer {
    service: NodeService,
    admission: AdmissionLayer,
    metrics: RpcMetricsLayer,
}

impl GrpcServer {
    /// Serves this API, so many calls at once over all listeners.
    pub fn new(api: Arc<dyn EngineApi>, calls_max: usize, telemetry: Telemetry) -> Self {
        Self {
            service: NodeService::new(api, calls_max),
            admission: AdmissionLayer::new(calls_max),
            metrics: RpcMetricsLayer::new(telemetry),
        }
    }

    /// Serves one listener until stopped.
    pub async fn run(self, incoming: Incoming, stop: CancellationToken) {
        let service = NodeServer::new(self.service)
            .max_decoding_message_size(NODE_MESSAGE_BYTES_MAX)
            .max_encoding_message_size(NODE_MESSAGE_BYTES_MAX);
        let server = rpc::server().layer(self.metrics).layer(self.admission).layer(NameMessageLayer);
        if let Err(error) = server.serve_with_incoming_shutdown(service, incoming, stop.cancelled_owned()).await {
            tracing::error!(%error, "the gRPC server ended");
        }
    }
}
