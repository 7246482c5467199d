//! The check finds what it is for: a fault is planted, and the violation must bear the right name.

use foreword_proto::DirectoryId;

use crate::state::invariants::planted::{REPLICA, step_found};

#[test]
fn a_replica_id_that_another_directory_takes_over() {
    let name = step_found(|state, _| {
        state.members.directories.insert(REPLICA, DirectoryId([9; 16]));
    });
    assert_eq!(name, "nothing-goes-back");
}

#[test]
fn a_replica_id_that_is_forgotten() {
    assert_eq!(step_found(|state, _| state.members.directories.clear()), "nothing-goes-back");
}
