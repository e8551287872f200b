//! The CA and its clients over real sockets, in one test program.

mod admission;
mod bundle;
mod limits;
mod memory;
mod renewal;
mod root;
mod sign;
mod spans;
mod support;
