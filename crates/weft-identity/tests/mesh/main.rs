//! Identities against each other, in one test program.

mod files;
mod handshake;
mod parsing;
mod paths;
mod support;
