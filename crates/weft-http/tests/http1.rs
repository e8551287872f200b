//! HTTP/1 at the crate's own door: in-memory streams, paused time, peers that do not behave.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that is surprised may panic")]
#![expect(clippy::print_stderr, reason = "what is skipped is said")]

#[path = "http1/aborted.rs"]
mod aborted;
#[path = "http1/applications.rs"]
mod applications;
#[path = "../../../fuzz/bodies/http1.rs"]
mod bodies;
#[path = "http1/clients.rs"]
mod clients;
#[path = "http1/corpora.rs"]
mod corpora;
#[path = "http1/differential.rs"]
mod differential;
#[path = "http1/faults.rs"]
mod faults;
#[path = "http1/forwarding.rs"]
mod forwarding;
#[path = "http1/logins.rs"]
mod logins;
#[path = "http1/ragged.rs"]
mod ragged;
#[path = "http1/reference.rs"]
mod reference;
#[path = "http1/support.rs"]
mod support;
