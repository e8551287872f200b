use std::fmt;
use std::io;

/// One of the two connections of a relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The connection that was accepted.
    Client,
    /// The connection that was dialed.
    Upstream,
}

impl Side {
    /// The other one.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::Client => Self::Upstream,
            Self::Upstream => Self::Client,
        }
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Client => "client",
            Self::Upstream => "upstream",
        })
    }
}

/// What ended a relay first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClosedBy {
    /// The client's data ended, or its connection failed.
    Client,
    /// The upstream's data ended, or its connection failed.
    Upstream,
    /// No byte for as long as the idle timeout.
    IdleTimeout,
}

impl From<Side> for ClosedBy {
    fn from(side: Side) -> Self {
        match side {
            Side::Client => Self::Client,
            Side::Upstream => Self::Upstream,
        }
    }
}

impl fmt::Display for ClosedBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Client => Side::Client.fmt(f),
            Self::Upstream => Side::Upstream.fmt(f),
            Self::IdleTimeout => f.write_str("idle_timeout"),
        }
    }
}

/// How a connection failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// RST from the peer (`ECONNRESET`, `ECONNABORTED`).
    Reset,
    /// Written to after the peer had closed (`EPIPE`, `ENOTCONN`).
    BrokenPipe,
    /// A TLS session that ended without close_notify (RFC 8446 section 6.1): perhaps not all data came.
    Truncated,
    /// The peer stopped answering (`ETIMEDOUT`: keepalive or user timeout).
    PeerGone,
    /// Anything else, a TLS error for instance.
    Other,
}

impl ErrorKind {
    fn of(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted => Self::Reset,
            io::ErrorKind::BrokenPipe | io::ErrorKind::NotConnected | io::ErrorKind::WriteZero => {
                Self::BrokenPipe
            }
            io::ErrorKind::UnexpectedEof => Self::Truncated,
            io::ErrorKind::TimedOut => Self::PeerGone,
            _ => Self::Other,
        }
    }
}

/// A connection that failed under a relay.
#[derive(Debug, thiserror::Error)]
#[error("{side} connection failed ({kind:?}): {source}")]
pub struct RelayError {
    /// Which connection.
    pub side: Side,
    /// How.
    pub kind: ErrorKind,
    /// What the stream said.
    pub source: io::Error,
}

impl RelayError {
    pub(super) fn new(side: Side, source: io::Error) -> Self {
        Self { side, kind: ErrorKind::of(&source), source }
    }
}

/// How a relay went.
#[derive(Debug)]
pub struct RelayOutcome {
    /// Bytes written to the upstream.
    pub to_upstream_bytes: u64,
    /// Bytes written to the client.
    pub to_client_bytes: u64,
    /// Whose end of data or failure came first, or the idle timeout where that had to end it.
    pub closed_by: ClosedBy,
    /// The first failure, if there was one.
    pub error: Option<RelayError>,
    /// Whether data broke off: closing what is left in an orderly way would say that it is complete, so reset it.
    pub aborted: bool,
}

impl RelayOutcome {
    /// Whether this belongs in an error count. A peer that goes away is how many protocols end (health checks reset,
    /// browsers close without close_notify), so once bytes have moved only errors of other kinds are failures.
    pub fn failed(&self) -> bool {
        match &self.error {
            None => false,
            Some(error) => {
                error.kind == ErrorKind::Other || (self.to_upstream_bytes == 0 && self.to_client_bytes == 0)
            }
        }
    }
}
