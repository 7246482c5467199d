//! Taking over the pages that SGLang's own metadata server knew.

use foreword_proto::bad_input::status_for;
use foreword_proto::limits::{ENTRY_KEY_BYTES, HF3FS_KEYS_MAX};
use foreword_proto::wire::meta as wire;
use foreword_proto::{BadInput, EntryKey};
use tokio::time::Instant;
use tonic::{Code, Status};

use crate::refusal::{refused, unexpected};
use crate::replica::group::Group;
use crate::state::command::{Command, Outcome};
use crate::state::hf3fs::{FileName, Hf3fsCommand, Hf3fsOperation, Hf3fsOutcome, PageIndex};

/// Bytes of one entry of the request.
const RECORD_BYTES: usize = ENTRY_KEY_BYTES + 4;

/// Adds pages to a page file, which is made when there is none. Any replica takes it; a repeated call changes nothing.
pub(super) async fn import(
    group: &Group,
    request: wire::ImportHf3fsRequest,
    deadline: Instant,
) -> Result<wire::ImportHf3fsResponse, Status> {
    let entries = entries_of(&request.entries)?;
    let name = FileName { deployment: request.deployment, rank: request.rank, pool: request.pool };
    let initialize = Hf3fsCommand::Initialize { name, pages: request.pages };
    let file = match propose(group, initialize, deadline).await? {
        Hf3fsOutcome::Initialized { file } => file,
        Hf3fsOutcome::OtherSize { pages } => {
            let message = format!("num_pages: expected {pages}, which the page file has, got {}", request.pages);
            return Err(status_for(Code::AlreadyExists, "num_pages", message));
        }
        other => return Err(unexpected(&Outcome::Hf3fs(other))),
    };
    let operation = Hf3fsOperation::Import { entries, rest_ms: 0 };
    match propose(group, Hf3fsCommand::On { file, touched: Vec::new(), operation }, deadline).await? {
        Hf3fsOutcome::Imported { conflicts } => Ok(wire::ImportHf3fsResponse { conflicts }),
        other => Err(unexpected(&Outcome::Hf3fs(other))),
    }
}

async fn propose(group: &Group, command: Hf3fsCommand, deadline: Instant) -> Result<Hf3fsOutcome, Status> {
    match group.propose_one(Command::Hf3fs(command), deadline).await?.1 {
        Outcome::Hf3fs(outcome) => Ok(outcome),
        Outcome::Refused(refusal) => Err(refused(refusal)),
        other => Err(unexpected(&other)),
    }
}

fn entries_of(bytes: &[u8]) -> Result<Vec<(EntryKey, PageIndex)>, BadInput> {
    let (records, rest) = bytes.as_chunks::<RECORD_BYTES>();
    if !rest.is_empty() {
        return Err(BadInput::new("entries", format!("a multiple of {RECORD_BYTES} bytes, got {}", bytes.len())));
    }
    if records.len() > HF3FS_KEYS_MAX {
        return Err(BadInput::new("entries", format!("at most {HF3FS_KEYS_MAX}, got {}", records.len())));
    }
    let entry = |record: &[u8; RECORD_BYTES]| {
        let key = EntryKey(std::array::from_fn(|at| record[at]));
        (key, u32::from_le_bytes(std::array::from_fn(|at| record[ENTRY_KEY_BYTES + at])))
    };
    Ok(records.iter().map(entry).collect())
}
