//! HTTP between applications and over mesh links.
//!
//! A request crosses three hops: application to outbound proxy, mesh link, inbound proxy to application. The outer hops
//! speak whatever the applications speak; the middle one is always HTTP/2, because sharing one connection, and with it
//! its system calls and TLS records, between all requests to an endpoint is the largest single saving there is
//! (docs/design/mesh-link.md). This crate holds the parts of that journey which know HTTP and nothing else:
//!
//! - [`serve_http1`] and [`serve_http2`] turn an accepted connection into calls of a [`Handler`];
//! - [`Http2Client`] sends requests over an HTTP/2 connection: a mesh link, or an application that speaks h2c;
//! - [`Http1Pool`] sends requests to an HTTP/1 application over kept-alive connections;
//! - [`wire`] says how an HTTP/1 request travels inside HTTP/2 and comes out unchanged at the other end;
//! - [`Body`] is the one body type; [`headers`] is the hygiene between hops; [`ErrorCode`] is every failure answer.
//!
//! Nothing here is `Send`: a connection lives and dies on the worker that accepted it.

mod activity;
mod body;
mod client1;
mod client2;
mod declined;
mod error;
mod gate;
mod handler;
pub mod headers;
pub mod judge;
mod limits;
mod pump;
mod replay;
mod server1;
mod server2;
mod ticker;
mod upgrade;
pub mod wire;

pub use body::{Body, BodyError};
pub use client1::{Http1Error, Http1Pool, Unanswered};
pub use client2::{ExchangeError, Http2Client, Opened, Sent};
pub use declined::declined;
pub use error::{ErrorCode, Refusal, WEFT_ERROR, is_grpc, unanswered};
pub use handler::{Abort, Answer, Handler, Interim, UpgradeTask};
pub use limits::{Http1Limits, Http2Limits};
pub use replay::Replay;
pub use server1::serve_http1;
pub use server2::serve_http2;
pub use upgrade::{StreamIo, UpgradeIo};
