//! HTTP between applications and over mesh links.
//!
//! A request crosses three hops: application to outbound proxy, mesh link, inbound proxy to application. The outer hops
//! speak whatever the applications speak; the middle one is always HTTP/2, because sharing one connection, and with it
//! its system calls and TLS records, between all requests to an endpoint is the largest single saving there is
//! (docs/design/mesh-link.md). This crate holds the parts of that journey which know HTTP and nothing else:
//!
//! - [`serve_http1`] and [`serve_http2`] turn an accepted connection into calls of a [`Handler`];
//! - [`Http2Client`] sends requests over an HTTP/2 connection, a mesh link or one to an application that speaks h2c, and
//!   [`Http2Pool`] has the places for streams on them and the queue of those who wait for one;
//! - [`Http1Pool`] sends requests to an HTTP/1 application over kept-alive connections;
//! - [`wire`] says how an HTTP/1 request travels inside HTTP/2 and comes out unchanged at the other end;
//! - [`Body`] is the one body type; [`headers`] is the hygiene between hops; [`ErrorCode`] is every failure answer.
//!
//! Nothing here is `Send`: a connection lives and dies on the worker that accepted it.

mod body;
mod bounded;
mod client2;
pub mod coding;
mod credit;
mod error;
mod frames;
pub mod grpc_web;
mod h1;
mod handler;
pub mod headers;
pub mod judge;
mod limits;
mod parting;
mod pump;
mod recv;
mod replay;
mod reset;
mod send;
mod server2;
mod tee;
mod ticker;
mod upgrade;
pub mod wire;

pub use body::{Body, BodyError};
pub use bounded::{Bound, Excess};
pub use client2::{ExchangeError, Http2Client, Opened, Sent, StreamSlot};
pub use credit::{Http2Pool, Lease};
pub use error::{ErrorCode, Refusal, WEFT_ERROR, is_grpc, told, unanswered};
#[doc(hidden)]
pub use h1::testing;
pub use h1::{
    Connected as Http1Connected, Ended, Http1Error, Http1Fault, Http1Pool, IncomingBody, NameCase,
    Opened as Http1Opened, RawTarget, Reason, ResetOnClose, Rest, Sending, Unanswered, serve_http1,
};
pub use handler::{Abort, Answer, Handler, Interim, InterimSink, UpgradeTask};
pub use limits::{HalfClose, Http1Limits, Http2Limits};
pub use replay::Replay;
pub use reset::ResetCode;
pub use server2::serve_http2;
pub use upgrade::{StreamIo, UpgradeIo};
