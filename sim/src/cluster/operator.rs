//! The operator of a simulated cluster: changes who is in the group.

use std::sync::Arc;
use std::time::Duration;

use foreword_proto::wire::meta as wire;
use foreword_proto::wire::meta::admin_client::AdminClient;
use foreword_seams::{Endpoint, Net, rpc};

use crate::world::context::{self, Kind};

/// How long one attempt may take, and how long to wait before the next.
const ATTEMPT: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(500);

/// One member for another.
pub(super) struct Replace {
    pub(super) old: u64,
    pub(super) new: u64,
    pub(super) endpoint: Endpoint,
}

/// Asks one member after the other until the change is made.
pub(super) async fn replace(net: Arc<dyn Net>, members: Vec<Endpoint>, change: Replace) {
    for member in members.iter().cycle() {
        let mut admin = AdminClient::new(rpc::channel(net.clone(), member));
        let request = wire::ReplaceReplicaRequest {
            old_replica_id: change.old,
            new_replica_id: change.new,
            endpoint: change.endpoint.to_string(),
            client_endpoint: String::new(),
        };
        match tokio::time::timeout(ATTEMPT, admin.replace_replica(request)).await {
            Ok(Ok(answer)) => {
                let voters = answer.into_inner().voters;
                context::event(Kind::Client, || {
                    format!("operator: {} replaced by {}: {voters:?}", change.old, change.new)
                });
                return;
            }
            // Made by an attempt whose answer did not come.
            Ok(Err(status)) if status.code() == tonic::Code::NotFound => return,
            Ok(Err(status)) => context::event(Kind::Client, || format!("operator: {member}: {}", status.message())),
            Err(_) => context::event(Kind::Client, || format!("operator: {member}: no answer in time")),
        }
        tokio::time::sleep(PAUSE).await;
    }
}
