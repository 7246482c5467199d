//! Tests of the vocabulary from outside: one binary, one module a subject.

mod chains;
mod keys;
mod limits;
mod namespaces;
mod records;
mod traces;
