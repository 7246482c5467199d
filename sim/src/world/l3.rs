//! L3 as the simulation has it: one device that all agents share, with its faults.
