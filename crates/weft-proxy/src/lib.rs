//! The data plane: workers, inbound, outbound, admin.
//!
//! A process has one *control* thread and N *workers*. The control thread runs what must never delay a request: DNS,
//! identity, configuration, export, admin. A worker is an OS thread with a runtime of its own; a connection is accepted,
//! served and closed on one worker, and shares nothing with other workers but what is atomic (`shared`).
//!
//! The way of a request, top to bottom, is the way through the modules; each is handed what it needs by the one above, and
//! knows none above itself:
//!
//! - `worker` accepts; `outbound` and `inbound` find out where a captured connection was going and what it speaks;
//! - outbound: `destination` (is it in the mesh, and what was learned of it);
//! - `exchange`: one request and its answer, the same skeleton for both sides; what differs is a `Side`. It retries, and
//!   holds the time that a whole request may take;
//! - outbound: `cluster` (which endpoint, over which mesh link, and how many may be sent again), `dial` (TCP, TLS, the
//!   peer's identity);
//! - at a gateway: `gateway` (its ports, TLS with clients), by the `program` in force;
//! - inbound: `application`; both: `pools`, plaintext connections that are kept alive;
//! - `record` notes how it went: metrics, balancing, span, access log, from one value whose drop cannot be forgotten.

mod admin;
mod application;
mod cluster;
mod connections;
mod destination;
mod dial;
mod error;
mod exchange;
mod export;
mod failure;
mod feed;
mod gateway;
mod inbound;
mod limits;
mod open;
mod outbound;
mod pools;
mod probes;
mod program;
mod record;
mod rlimit;
mod routing;
mod shared;
mod silence;
mod start;
mod telemetry;
mod worker;

pub use error::ProxyError;
pub use program::ProgramHandle;
pub use start::{LogControl, RunOptions, run};
