//! Who acts as a session: only whoever was given its id, in the group that gave it, while it is open.

use bytes::Bytes;
use foreword_proto::bad_input::field_of;
use foreword_proto::records;
use foreword_proto::wire::meta as wire;
use foreword_proto::{AgentId, SessionId, SlotRef};
use tonic::{Code, Status};

use crate::cluster::{Agent, Cluster};

/// What each call of a session is answered. `slots`: what it says of them, that they are unwritten and that they hold
/// pages.
async fn calls(agent: &mut Agent, session: Bytes, slots: &[SlotRef]) -> Vec<Result<(), Status>> {
    agent.slots = slots.to_vec();
    let pages: Vec<_> = (0..slots.len() as u64).map(|number| agent.page(number)).collect();
    let publish = wire::PublishRequest { session: session.clone(), ..agent.publish_request(&pages) };
    let (unwritten, sequence) = (records::encode(slots, 0), agent.next());
    let abort = wire::AbortRequest { session: session.clone(), sequence, unwritten, unknown: Bytes::new() };
    let grant = wire::GrantRequest { session: session.clone(), sequence: agent.next(), slot_bytes: 4096, slots: 1 };
    let suspect =
        wire::SuspectRequest { session: session.clone(), namespace_id: agent.namespace, ..Default::default() };
    let heat = wire::ReportHeatRequest { session: session.clone(), ..Default::default() };
    let client = &mut agent.client;
    vec![
        client.renew_session(wire::RenewSessionRequest { session: session.clone() }).await.map(drop),
        client.publish(publish).await.map(drop),
        client.abort(abort).await.map(drop),
        client.grant(grant).await.map(drop),
        client.suspect(suspect).await.map(drop),
        client.report_heat(heat).await.map(drop),
        client.close_session(wire::CloseSessionRequest { session }).await.map(drop),
    ]
}

fn assert_all_refused(answers: Vec<Result<(), Status>>, code: Code) {
    for (call, answer) in answers.into_iter().enumerate() {
        let refused = answer.expect_err("a call of no open session");
        assert_eq!((refused.code(), field_of(&refused)), (code, Some("session")), "call {call}: {refused}");
    }
}

#[tokio::test]
async fn a_session_of_a_group_is_none_of_the_group_that_is_formed_in_its_place() {
    let (before, again) = (Cluster::started(1).await, Cluster::started(1).await);
    assert_eq!(before.id, again.id);
    let mut stale = Agent::open(&before, 1, "a").await;
    stale.publish(0..3).await;
    let mut present = Agent::open(&again, 1, "a").await;
    present.grant(8).await;
    assert_ne!(stale.session, present.session);
    stale.client = again.meta(1);
    let session = stale.session.to_wire();
    assert_all_refused(calls(&mut stale, session, &present.slots).await, Code::FailedPrecondition);
    let status = again.status(1).await;
    let granted = present.slots.len() as u64;
    assert_eq!((status.pages, status.l3.granted_bytes, status.l3.resting_bytes), (0, granted * 4096, 0));
    present.publish(0..3).await;
}

#[tokio::test]
async fn an_id_that_is_guessed_is_nobodys_and_status_tells_none() {
    let cluster = Cluster::started(1).await;
    let mut present = Agent::open(&cluster, 1, "a").await;
    present.grant(8).await;
    let slots = present.slots.clone();
    let mut other = Agent::open_as(&cluster, 1, "b", AgentId([2; 16])).await.unwrap();
    // One bit off, the number that slots know it by, and what status shows of it.
    let mut near = present.session.0;
    near[15] ^= 1;
    let mut shown = [0; 16];
    shown[..4].copy_from_slice(&present.session.0[..4]);
    for guess in [near, 1u128.to_le_bytes(), 1u128.to_be_bytes(), shown] {
        let guess = SessionId(guess).to_wire();
        assert_all_refused(calls(&mut other, guess, &slots).await, Code::FailedPrecondition);
    }
    for guess in [Bytes::new(), Bytes::copy_from_slice(&present.session.0[..8])] {
        assert_all_refused(calls(&mut other, guess, &slots).await, Code::InvalidArgument);
    }
    // Another session says of these slots what only their own may say.
    let own = other.session.to_wire();
    assert!(calls(&mut other, own, &slots).await.into_iter().all(|answer| answer.is_ok()));
    let status = cluster.status(1).await;
    let shown: Vec<_> = status.sessions.iter().map(|session| session.id.as_str()).collect();
    assert_eq!(shown, [present.session.to_string()]);
    assert_eq!((status.pages, status.l3.resting_bytes), (0, 4096), "what the other was granted and left rests");
    present.publish(0..3).await;
}
