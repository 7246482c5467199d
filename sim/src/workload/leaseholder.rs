//! A client with a lease and nothing else: what it hears says who gives leases.

use std::time::Duration;

use foreword_proto::wire::meta as m;
use foreword_proto::{AgentId, SessionId};
use foreword_seams::Entropy;
use tokio::sync::watch;
use tokio::time::sleep;

use super::answers::{Effects, answer, with_deadline};
use super::{Client, ClientParts, stopped};
use crate::history::{Call, Outcome, Target};

/// Between two calls.
const PAUSE: Duration = Duration::from_millis(120);

/// Holds a lease until it is told to stop: at every replica in turn, and anew when it ended.
pub(super) async fn hold(number: u32, parts: ClientParts, mut stop: watch::Receiver<bool>) {
    let mut client = Client::new(number, parts);
    let (mut session, mut opens) = (None, 0);
    loop {
        tokio::select! {
            biased;
            () = stopped(&mut stop) => break,
            () = sleep(PAUSE) => {}
        }
        let replica = client.any_replica();
        session = match session {
            None => {
                opens += 1;
                client.open_session(replica, opens).await
            }
            Some(session) => client.renew(replica, session).await.then_some(session),
        };
    }
    if let Some(session) = session {
        let mut meta = client.replica(client.any_replica());
        let _it_ends_anyway =
            answer(meta.close_session(m::CloseSessionRequest { session: session.to_wire() }), Effects::Some).await;
    }
}

impl Client {
    /// `opens`: sessions that it asked for, this one included.
    async fn open_session(&mut self, replica: u64, opens: u64) -> Option<SessionId> {
        let mut meta = self.replica(replica);
        let node = format!("leaseholder-{}", self.number());
        let agent_id = AgentId(u128::from(self.number()).to_le_bytes()).0.to_vec().into();
        let incarnation = opens << 32 | self.random().u64() >> 32;
        let request = m::OpenSessionRequest { node, incarnation, endpoint: String::new(), agent_id };
        answer(meta.open_session(with_deadline(request)), Effects::Some)
            .await
            .ok()
            .and_then(|opened| SessionId::from_wire(&opened.session).ok())
    }

    /// False: the session has ended.
    async fn renew(&mut self, replica: u64, session: SessionId) -> bool {
        let id = self.begin(None, Call::Renew { at: Target::Replica(replica) }, "");
        let mut meta = self.replica(replica);
        let request = m::RenewSessionRequest { session: session.to_wire() };
        let renewed = answer(meta.renew_session(with_deadline(request)), Effects::None).await;
        let gone = matches!(&renewed, Err(super::answers::Broken::Refused(status))
            if status.code() == tonic::Code::FailedPrecondition);
        self.at_replica(id, renewed, |_| (Outcome::Renewed, ()));
        !gone
    }
}
