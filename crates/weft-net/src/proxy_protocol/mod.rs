//! The PROXY protocol: for whom a connection was opened, told in front of everything else that it carries.
//!
//! A proxy that carries bytes can put nothing into them, so it says before them whose they are. Both versions of the
//! protocol are read and written here; section numbers are those of its specification (haproxy.org,
//! `proxy-protocol.txt`).
//!
//! Whoever may send such a header may be anybody. So nothing is read of it but by [`read`], which wants to be shown that
//! the peer is [`Trusted`], and only [`TrustedSources`] can say that. From those that are, every connection begins with one; from
//! all others none does, and what they send is taken for what it is. A header that is optional would be one that anybody
//! may leave out or forge (section 2: "MUST not try to guess whether the protocol header is present or not").
//!
//! ```
//! # use std::time::Duration;
//! # use bytes::BytesMut;
//! # use tokio::time::Instant;
//! # use weft_core::ClientAddr;
//! use weft_net::proxy_protocol::{self, ProxyProtocolError, TrustedSources};
//!
//! # async fn door(mut stream: tokio::net::TcpStream, client: ClientAddr, trusted: &TrustedSources)
//! #     -> Result<(), ProxyProtocolError> {
//! let mut first = BytesMut::new();
//! let deadline = Instant::now() + Duration::from_secs(5);
//! let header = proxy_protocol::read(trusted.check(client)?, &mut stream, &mut first, deadline).await?;
//! // Whose connection it is; the connection's own addresses where the header tells no others.
//! let client = header.source().map_or(client, ClientAddr::new);
//! // What came behind the header is in `first`, as after detection.
//! # drop((client, first));
//! # Ok(())
//! # }
//! ```
//!
//! | module | |
//! |---|---|
//! | `parse` | octets to a header; pure |
//! | `read` | a header from a stream |
//! | `trust` | from whom |
//! | `write` | a header to a stream |

mod parse;
mod read;
mod trust;
mod write;

use std::io;
use std::net::SocketAddr;

use weft_core::ClientAddr;

pub use parse::{Malformed, Parsed, parse};
pub use read::read;
pub use trust::{Trusted, TrustedSources};
pub use write::{own, write};

/// The longest line of version 1, its CRLF included (section 2.1).
pub const MAX_LINE: usize = 107;

/// The longest header of version 2 that is taken. Headers are meant to fit the smallest TCP segment that every host takes, 536
/// octets (section 2), but what stands behind the addresses may be a client's certificate. Nobody needs the 64 KiB that
/// the length has room for.
pub const MAX_HEADER: usize = 4096;

/// What a header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ProxyHeader {
    /// The peer opened the connection for itself, for a health check say: the connection's own addresses are the right ones.
    Local,
    /// The peer opened it for somebody else.
    Proxied {
        /// Who that is, in canonical form.
        source: SocketAddr,
        /// Where they connected to, in canonical form.
        destination: SocketAddr,
    },
    /// The peer opened it for somebody who has no such addresses: `UNKNOWN`, AF_UNSPEC, AF_UNIX, or datagrams. The
    /// connection's own addresses stay in force.
    Unknown,
}

impl ProxyHeader {
    /// Who the connection was opened for, if it was for somebody else with an address.
    pub fn source(&self) -> Option<SocketAddr> {
        match self {
            Self::Proxied { source, .. } => Some(*source),
            Self::Local | Self::Unknown => None,
        }
    }
}

/// Why a connection has no header. There is nothing to be said to its peer: it is to be closed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProxyProtocolError {
    /// It was not looked at.
    #[error("{peer} is not among those who may tell by the PROXY protocol whom they connect for")]
    Untrusted {
        /// Who connected.
        peer: ClientAddr,
    },
    /// What came is none.
    #[error("no PROXY protocol header: {0}")]
    Malformed(#[from] Malformed),
    /// The peer closed before it was whole. A load balancer's check may connect and say nothing: then it is 0 octets.
    #[error("closed after {octets} octets of a PROXY protocol header")]
    Closed {
        /// How many had come.
        octets: usize,
    },
    /// It was not whole in time.
    #[error("no whole PROXY protocol header in time: {octets} octets came")]
    TimedOut {
        /// How many had come.
        octets: usize,
    },
    /// What the stream says.
    #[error("reading a PROXY protocol header: {0}")]
    Io(#[from] io::Error),
}

impl ProxyProtocolError {
    /// A short word for a metric label or a log line.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Untrusted { .. } => "untrusted",
            Self::Malformed(_) => "malformed",
            Self::Closed { .. } => "closed",
            Self::TimedOut { .. } => "timeout",
            Self::Io(_) => "io",
        }
    }
}

#[cfg(test)]
mod tests;
