//! The data plane: workers, inbound, outbound, admin.
//!
//! A process has one *control* thread and N *workers*. The control thread runs what must never delay a request: DNS,
//! identity, configuration, export, admin. A worker is an OS thread with a runtime of its own; a connection is accepted,
//! served and closed on one worker, and shares nothing with other workers but what is atomic (`shared`).
//!
//! The way of a request, top to bottom, is the way through the modules:
//!
//! - `worker` accepts; `outbound` and `inbound` find out where a captured connection was going and what it speaks;
//! - outbound: `destination` (is it in the mesh, and who may serve it), `upstream` (which endpoint, over which mesh
//!   link), `dial` (TCP, TLS, the peer's identity);
//! - inbound: the peer's identity, then `app`, the connections to the application;
//! - `record` notes how it went: metrics, span, access log, from one value whose drop cannot be forgotten.

mod admin;
mod app;
mod connections;
mod destination;
mod dial;
mod error;
mod inbound;
mod outbound;
mod probes;
mod record;
mod rlimit;
mod shared;
mod start;
mod telemetry;
mod upstream;
mod worker;

pub use error::ProxyError;
pub use start::{LogControl, RunOptions, run};
