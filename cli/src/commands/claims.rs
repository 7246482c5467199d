//! `<L3>/<cluster id>/REPLICA-<id>`: which data directory a first member's id belongs to, for ever.
//!
//! A data directory that is made anew under an old id knows nothing of what the old one promised. Of all first members,
//! L3 is where a later `meta init` can see the earlier ones.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use foreword_meta::state::command::{ClusterSettings, OtherSetting};
use foreword_proto::{BadInput, ClusterId, DirectoryId};
use serde::{Deserialize, Serialize};

const PREFIX: &str = "REPLICA-";

/// The content of a claim, as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Claim {
    pub(super) replica_id: u64,
    pub(super) directory: DirectoryId,
    /// Where it was made, for a message only.
    pub(super) data_dir: String,
    /// All first members, as each of them was told.
    pub(super) peers: BTreeMap<u64, String>,
    pub(super) settings: ClusterSettings,
}

/// The claims of one cluster.
pub(super) struct Claims {
    dir: PathBuf,
}

impl Claims {
    pub(super) fn new(l3: &Path, cluster_id: ClusterId) -> Self {
        Self { dir: l3.join(cluster_id.to_string()) }
    }

    fn path(&self, replica_id: u64) -> PathBuf {
        self.dir.join(format!("{PREFIX}{replica_id}"))
    }

    /// Refuses an id that was claimed, and other first members or settings than an earlier one was made with.
    pub(super) fn check(
        &self,
        ids: &[u64],
        peers: &BTreeMap<u64, String>,
        settings: &ClusterSettings,
    ) -> anyhow::Result<()> {
        for claim in self.all()? {
            let path = self.path(claim.replica_id);
            if ids.contains(&claim.replica_id) {
                return Err(taken(&path, &claim).into());
            }
            if claim.peers != *peers {
                let theirs = shown(&claim.peers);
                let expected = format!("{theirs}, as {} says of this cluster, got {}", path.display(), shown(peers));
                return Err(BadInput::new("peers", expected).into());
            }
            claim.settings.check_same(settings).map_err(|OtherSetting { field, expected, found }| {
                BadInput::new(field, format!("{expected}, as {} says of this cluster, got {found}", path.display()))
            })?;
        }
        Ok(())
    }

    /// Claims an id. Whoever comes second is refused.
    pub(super) fn take(&self, claim: &Claim) -> anyhow::Result<()> {
        let path = self.path(claim.replica_id);
        let write = || {
            let mut file = File::create_new(&path)?;
            file.write_all(&serde_json::to_vec(claim)?)?;
            file.sync_all()?;
            File::open(&self.dir)?.sync_all()
        };
        match write() {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(taken(&path, &read(&path)?).into()),
            written => written.with_context(|| format!("l3: {}", path.display())),
        }
    }

    /// Gives an id back whose directory could not be made.
    pub(super) fn give_back(&self, replica_id: u64) {
        if let Err(error) = std::fs::remove_file(self.path(replica_id)) {
            tracing::warn!(%error, replica_id, "could not take back the claim of a replica id");
        }
    }

    fn all(&self) -> anyhow::Result<Vec<Claim>> {
        let entries = match std::fs::read_dir(&self.dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.with_context(|| format!("l3: {}", self.dir.display()))?,
        };
        let mut claims = Vec::new();
        for entry in entries {
            let entry = entry.with_context(|| format!("l3: {}", self.dir.display()))?;
            if entry.file_name().to_string_lossy().starts_with(PREFIX) {
                claims.push(read(&entry.path())?);
            }
        }
        claims.sort_by_key(|claim| claim.replica_id);
        Ok(claims)
    }
}

fn read(path: &Path) -> anyhow::Result<Claim> {
    let text = std::fs::read(path).with_context(|| format!("l3: {}", path.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("l3: expected the claim of a replica id, {}", path.display()))
}

fn taken(path: &Path, claim: &Claim) -> BadInput {
    let Claim { replica_id, directory, data_dir, .. } = claim;
    let expected = format!(
        "an id that no data directory has, {} says that replica {replica_id} is directory {directory}, made as {data_dir}",
        path.display()
    );
    BadInput::new("replica_id", expected)
}

/// Members as `--peers` takes them.
pub(super) fn shown(peers: &BTreeMap<u64, String>) -> String {
    peers.iter().map(|(id, endpoint)| format!("{id}={endpoint}")).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_claimed_once_and_all_claims_name_the_same_members() {
        let l3 = tempfile::tempdir().unwrap();
        let cluster_id = ClusterId([7; 16]);
        std::fs::create_dir(l3.path().join(cluster_id.to_string())).unwrap();
        let claims = Claims::new(l3.path(), cluster_id);
        let peers: BTreeMap<u64, String> = [(1, "m1:1".into()), (2, "m2:1".into())].into();
        let settings = ClusterSettings {
            chunk_bytes: 4096,
            slab_bytes: 1 << 20,
            l3_bytes: 1 << 30,
            read_rest_ms: 1,
            write_rest_ms: 2,
            hf3fs_protection_ms: 3,
            lease_ms: 4,
            first_feature_level: 1,
        };
        let claim = |replica_id| Claim {
            replica_id,
            directory: DirectoryId([replica_id as u8; 16]),
            data_dir: "/d".into(),
            peers: peers.clone(),
            settings: settings.clone(),
        };
        claims.check(&[1, 2], &peers, &settings).unwrap();
        claims.take(&claim(1)).unwrap();
        claims.check(&[2], &peers, &settings).unwrap();
        let other = ClusterSettings { slab_bytes: 2 << 20, ..settings.clone() };
        let other = claims.check(&[2], &peers, &other).unwrap_err();
        assert!(other.downcast_ref::<BadInput>().is_some_and(|bad| bad.field == "slab_bytes"), "{other:#}");
        let again = claims.check(&[1], &peers, &settings).unwrap_err();
        assert!(again.downcast_ref::<BadInput>().is_some_and(|bad| bad.field == "replica_id"), "{again:#}");
        let other = Claim { directory: DirectoryId([9; 16]), ..claim(1) };
        let second = claims.take(&other).unwrap_err();
        assert!(second.to_string().contains(&claim(1).directory.to_string()), "{second:#}");
        // A removed member's machine that begins "again", alone.
        let alone = claims.check(&[4], &[(4, "m4:1".to_owned())].into(), &settings).unwrap_err();
        assert!(alone.downcast_ref::<BadInput>().is_some_and(|bad| bad.field == "peers"), "{alone:#}");
        claims.give_back(1);
        claims.check(&[1], &peers, &settings).unwrap();
    }
}
