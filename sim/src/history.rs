//! What clients of a simulation did and saw: the input of the checks.
