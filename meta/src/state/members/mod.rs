//! Which data directory a replica id belongs to: for ever, also after the replica has left the group.
//!
//! ```text
//! members  count, then each: replica id, directory
//! ```
//! A name that another directory takes over would count as the voter it was, without its memory.

mod checks;

use std::collections::BTreeMap;

use bytes::BytesMut;
use foreword_proto::DirectoryId;
use foreword_proto::limits::REPLICA_IDS_MAX;

use super::codec::Decode;
use super::command::{Invalid, Limit, Outcome, Refusal};
use super::digest::Fields;
use super::input::{DecodeError, Input};
use super::pieces::{PieceKind, pieces};

pub(super) use checks::{Summary, check_step};

/// Every replica id that was ever a member's.
#[derive(Debug, Clone, Default)]
pub(super) struct Members {
    directories: BTreeMap<u64, DirectoryId>,
}

impl Members {
    /// The directory of an id that was used.
    pub(super) fn directory(&self, replica_id: u64) -> Option<DirectoryId> {
        self.directories.get(&replica_id).copied()
    }

    /// All of them, by id.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, DirectoryId)> {
        self.directories.iter().map(|(id, directory)| (*id, *directory))
    }

    /// The id is this directory's from now on. The same again changes nothing.
    pub(super) fn record(&mut self, replica_id: u64, directory: DirectoryId) -> Result<Outcome, Refusal> {
        match self.directory(replica_id) {
            Some(known) if known == directory => {}
            Some(known) => {
                return Err(Refusal::Invalid(Invalid::Directory { replica_id, known, found: directory }));
            }
            None if self.directories.len() >= REPLICA_IDS_MAX => {
                return Err(Refusal::TooMany(Limit::ReplicaIds));
            }
            None => {
                self.directories.insert(replica_id, directory);
            }
        }
        Ok(Outcome::Done)
    }

    pub(super) fn hash_into(&self, fields: &mut Fields) {
        fields.add_all(self.directories.iter());
    }

    pub(super) fn into_pieces(self) -> impl Iterator<Item = BytesMut> {
        pieces(PieceKind::Members, (), self.directories.into_iter())
    }

    pub(super) fn take_members(&mut self, input: &mut Input<'_>) -> Result<(), DecodeError> {
        for (replica_id, directory) in Vec::<(u64, DirectoryId)>::decode(input)? {
            self.record(replica_id, directory).map_err(|refusal| input.invalid(refusal.to_string()))?;
        }
        Ok(())
    }
}
