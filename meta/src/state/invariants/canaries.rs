//! Each check finds what it is for: a fault is planted, and the violation must bear the right name.

use super::planted::step_found;

#[test]
fn what_goes_back() {
    assert_eq!(step_found(|state, _| state.revision = 1), "nothing-goes-back");
    assert_eq!(step_found(|state, _| state.feature_level = 0), "nothing-goes-back");
}
