//! Sockets: listeners, original destination, protocol detection, relays of bytes.
//!
//! Everything here works on bytes and file descriptors and knows neither TLS sessions nor HTTP messages. The parts are
//! meant to be used in the order in which a connection meets them:
//!
//! 1. [`Listener`] and [`Acceptor`] take connections in and survive what `accept` may answer;
//! 2. [`original_dst`] tells where a captured connection was going;
//! 3. [`proxy_protocol`] reads for whom it was opened, where the peer may say so, and tells it to whoever is dialed;
//! 4. [`detect`] tells from the first bytes what is spoken, [`Prefixed`] gives those bytes back to whoever reads next;
//! 5. [`connect`] reaches an endpoint, with errors that a retry decision can be made on;
//! 6. [`relay()`] carries bytes both ways; [`ReadAhead`] sits under a TLS session and spares it system calls.
//!
//! All of it is made for current-thread runtimes: buffers and pipes come from pools that belong to the thread, nothing
//! takes a lock, and an idle connection holds no buffer.

#[macro_use]
mod write_through;

mod accept;
mod connect;
pub mod detect;
mod listen;
mod maybe_tls;
mod original_dst;
mod plain;
pub mod pool;
mod prefixed;
pub mod proxy_protocol;
mod read_ahead;
pub mod relay;
mod sockopt;

pub use accept::{AcceptEvent, Accepted, Acceptor};
pub use connect::{ConnectError, ConnectOptions, connect};
pub use detect::{
    ClientHello, Detected, Detection, Greeting, OpaqueReason, Watched, detect_first, greeting, read_more,
};
pub use listen::{ListenOptions, Listener};
pub use maybe_tls::MaybeTls;
pub use original_dst::{Destination, original_dst};
pub use plain::PlainTcp;
pub use prefixed::Prefixed;
pub use read_ahead::ReadAhead;
pub use relay::{RelayCounters, RelayError, RelayOptions, RelayOutcome, relay, relay_plain};
pub use sockopt::{Keepalive, SocketOptions, reset, reset_on_drop};
