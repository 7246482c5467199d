//! The binary and the driver from outside.

mod binary;
mod driver;
mod fakes;
