//! What an answer, or none, says about what happened.

use std::error::Error;
use std::future::Future;
use std::time::Duration;

use foreword_proto::wire::node as n;
use tokio::time::timeout;
use tonic::{Code, ConnectError, Request, Response, Status};

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

/// A server says that it did nothing, or was never reached. Other codes may come from a connection that broke after the call was
/// sent.
fn is_refusal(status: &Status) -> bool {
    let said = matches!(
        status.code(),
        Code::InvalidArgument | Code::NotFound | Code::FailedPrecondition | Code::ResourceExhausted | Code::OutOfRange
    );
    let mut cause = status.source();
    while let Some(error) = cause {
        if error.is::<ConnectError>() {
            return true;
        }
        cause = error.source();
    }
    said
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
