//! Tests of the parts; the store on a mount is tested in `node/tests/usrbio`.

mod library;
mod parts;
mod rings;
mod slots;
