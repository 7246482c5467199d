//! What an answer, or none, says about what happened.

use std::future::Future;
use std::time::Duration;

use foreword_client::never_sent;
use foreword_proto::bad_input::field_of;
use foreword_proto::wire::node as n;
use tokio::time::timeout;
use tonic::{Code, Request, Response, Status};

use crate::history::{PagePut, PutResult};

/// How long a client waits for an answer.
pub const CALL_DEADLINE: Duration = Duration::from_secs(3);

/// Why there is no answer.
pub(super) enum Broken {
    /// A refusal: nothing happened.
    Refused(Status),
    /// It may have happened.
    Unknown,
}

pub(super) fn with_deadline<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(CALL_DEADLINE);
    request
}

pub(super) fn words(status: &Status) -> String {
    format!("{:?} {}", status.code(), status.message())
}

/// Whether a call changes anything: then one without an answer may have.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Effects {
    None,
    Some,
}

/// The answer of a call, waited for no longer than [`CALL_DEADLINE`].
pub(super) async fn answer<T>(
    calling: impl Future<Output = Result<Response<T>, Status>>,
    effects: Effects,
) -> Result<T, Broken> {
    let answered = timeout(CALL_DEADLINE, calling).await;
    let answered = answered.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer in time")));
    answered.map(Response::into_inner).map_err(|status| match effects {
        Effects::Some if !is_refusal(&status) => Broken::Unknown,
        _ => Broken::Refused(status),
    })
}

/// A server says that it did nothing, or was never reached. Other codes may come from a connection that broke after the
/// call was sent; and of a put that is refused for a piece, earlier pages may be whole and go on.
fn is_refusal(status: &Status) -> bool {
    let said = matches!(
        status.code(),
        Code::InvalidArgument | Code::NotFound | Code::FailedPrecondition | Code::ResourceExhausted | Code::OutOfRange
    );
    let said = said && field_of(status) != Some("pieces");
    said || never_sent(status)
}

/// Each page's best outcome over the shards' calls. Err: no call was answered.
pub(super) fn merged(answers: Vec<Result<n::PutResponse, Broken>>, keys: usize) -> Result<Vec<PagePut>, Broken> {
    let mut pages: Option<Vec<PagePut>> = None;
    let mut broken = Broken::Unknown;
    let count = answers.len();
    let mut refusals = 0;
    for answer in answers {
        match answer {
            Ok(answer) if answer.pages.len() == keys => {
                let said = answer.pages.into_iter().map(page_put);
                pages = Some(match pages {
                    None => said.collect(),
                    Some(pages) => pages.into_iter().zip(said).map(|(a, b)| better(a, b)).collect(),
                });
            }
            // An answer that is not one a key says nothing.
            Ok(_) | Err(Broken::Unknown) => {}
            Err(Broken::Refused(status)) => {
                refusals += 1;
                if refusals == count {
                    broken = Broken::Refused(status);
                }
            }
        }
    }
    pages.ok_or(broken)
}

/// Of what two shards' calls said of one page: what promises more.
fn better(a: PagePut, b: PagePut) -> PagePut {
    let rank = |page: &PagePut| match page.outcome {
        PutResult::Refused(_) => 0,
        PutResult::Taken => 1,
        PutResult::Exists => 2,
        PutResult::Published => 3,
    };
    if (rank(&b), b.revision) > (rank(&a), a.revision) { b } else { a }
}

fn page_put(page: n::PagePut) -> PagePut {
    let outcome = match page.outcome() {
        n::PutOutcome::Published => PutResult::Published,
        n::PutOutcome::Exists => PutResult::Exists,
        n::PutOutcome::Taken => PutResult::Taken,
        n::PutOutcome::Declined => PutResult::Refused("declined".to_owned()),
        n::PutOutcome::Refused | n::PutOutcome::Unspecified => PutResult::Refused(page.reason),
    };
    PagePut { outcome, revision: page.revision }
}

#[cfg(test)]
mod tests {
    use foreword_proto::bad_input::status_for;

    use super::*;

    #[test]
    fn only_a_servers_own_refusal_is_one() {
        for code in [Code::InvalidArgument, Code::NotFound, Code::FailedPrecondition, Code::ResourceExhausted] {
            assert!(is_refusal(&status_for(code, "keys", "no")), "{code:?}");
        }
        for code in [Code::Unavailable, Code::DeadlineExceeded, Code::Cancelled, Code::Unknown, Code::Internal] {
            assert!(!is_refusal(&status_for(code, "keys", "no")), "{code:?}");
        }
        assert!(!is_refusal(&status_for(Code::InvalidArgument, "pieces", "earlier pages go on")));
        let unreached = Status::from_error(Box::new(tonic::ConnectError("refused".into())));
        assert!(is_refusal(&unreached), "{unreached:?}");
    }

    fn said(outcome: n::PutOutcome, revision: u64) -> Result<n::PutResponse, Broken> {
        let page = n::PagePut { outcome: outcome.into(), revision, reason: "why".into() };
        Ok(n::PutResponse { pages: vec![page] })
    }

    #[test]
    fn a_page_is_what_its_best_shard_says() {
        let answers = vec![said(n::PutOutcome::Taken, 0), said(n::PutOutcome::Published, 7), Err(Broken::Unknown)];
        let merged = merged(answers, 1).ok().unwrap();
        assert_eq!(merged, [PagePut { outcome: PutResult::Published, revision: 7 }]);
    }

    #[test]
    fn a_put_failed_only_if_every_shard_was_refused() {
        let refused = || Err(Broken::Refused(Status::not_found("no")));
        assert!(matches!(merged(vec![refused(), refused()], 1), Err(Broken::Refused(_))));
        assert!(matches!(merged(vec![refused(), Err(Broken::Unknown)], 1), Err(Broken::Unknown)));
        assert!(matches!(merged(vec![Err(Broken::Unknown), refused()], 1), Err(Broken::Unknown)));
        assert!(matches!(merged(Vec::new(), 1), Err(Broken::Unknown)), "cut off before any answer");
    }
}
