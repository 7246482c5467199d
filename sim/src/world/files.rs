//! A host's plain files, in memory, surviving its processes: snapshots and saved mirrors.
