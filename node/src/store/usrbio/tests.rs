//! Tests of the parts; the store on a mount is tested in `node/tests/usrbio`.

mod parts;
mod rings;
mod slots;
