//! Connections to endpoints, with errors that tell what a retry can do about them.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use rustix::io::Errno;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;
use weft_core::EndpointAddr;

use crate::SocketOptions;

/// How to connect.
#[derive(Clone, Copy, Debug)]
pub struct ConnectOptions {
    /// How long the handshake of TCP may take. Linux alone would retry SYNs for over two minutes.
    pub timeout: Duration,
    /// The local address to connect from, where it matters to rules or to the peer.
    pub bind: Option<IpAddr>,
    /// Options of the new socket.
    pub socket: SocketOptions,
}

impl Default for ConnectOptions {
    /// 5 s: two SYN retries of Linux (after 1 and 3 s).
    fn default() -> Self {
        Self { timeout: Duration::from_secs(5), bind: None, socket: SocketOptions::default() }
    }
}

/// Why there is no connection. No byte of a request was sent in any of these cases.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// Nobody listens there, or a rule answers with RST.
    #[error("connection to {endpoint} refused")]
    Refused {
        /// What was dialed.
        endpoint: EndpointAddr,
    },
    /// No answer in time.
    #[error("no answer from {endpoint} within {after:?}")]
    TimedOut {
        /// What was dialed.
        endpoint: EndpointAddr,
        /// How long was waited.
        after: Duration,
    },
    /// No route, or a router or rule answered that it cannot be reached.
    #[error("{endpoint} cannot be reached: {source}")]
    Unreachable {
        /// What was dialed.
        endpoint: EndpointAddr,
        /// What the kernel said.
        source: io::Error,
    },
    /// This machine has run out of descriptors, ports or memory, or does not have the address to connect from. Another
    /// endpoint would most likely fail the same way.
    #[error("cannot connect to {endpoint} for want of a local resource: {source}")]
    LocalResource {
        /// What was dialed.
        endpoint: EndpointAddr,
        /// What the kernel said.
        source: io::Error,
    },
    /// Anything else: a rule that forbids it, a reset in the handshake, an address that cannot be dialed.
    #[error("cannot connect to {endpoint}: {source}")]
    Other {
        /// What was dialed.
        endpoint: EndpointAddr,
        /// What the kernel said.
        source: io::Error,
    },
}

impl ConnectError {
    /// A short word for a metric label or a log line.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Refused { .. } => "refused",
            Self::TimedOut { .. } => "timeout",
            Self::Unreachable { .. } => "unreachable",
            Self::LocalResource { .. } => "local_resource",
            Self::Other { .. } => "other",
        }
    }

    /// Whether the endpoint (or the way to it) is to blame, so that another endpoint is worth trying and this one worth
    /// avoiding. False where the cause is on this machine.
    pub fn blames_endpoint(&self) -> bool {
        !matches!(self, Self::LocalResource { .. })
    }

    fn classify(endpoint: EndpointAddr, source: io::Error, after: Duration) -> Self {
        match Errno::from_io_error(&source) {
            Some(Errno::CONNREFUSED) => Self::Refused { endpoint },
            Some(Errno::TIMEDOUT) => Self::TimedOut { endpoint, after },
            Some(Errno::NETUNREACH | Errno::HOSTUNREACH | Errno::NETDOWN | Errno::HOSTDOWN) => {
                Self::Unreachable { endpoint, source }
            }
            Some(
                Errno::MFILE
                | Errno::NFILE
                | Errno::ADDRNOTAVAIL
                | Errno::ADDRINUSE
                | Errno::NOBUFS
                | Errno::NOMEM
                | Errno::AGAIN
                | Errno::AFNOSUPPORT,
            ) => Self::LocalResource { endpoint, source },
            _ => Self::Other { endpoint, source },
        }
    }
}

/// Connects to an endpoint.
///
/// # Errors
/// See [`ConnectError`].
pub async fn connect(endpoint: EndpointAddr, options: &ConnectOptions) -> Result<TcpStream, ConnectError> {
    let started = tokio::time::Instant::now();
    let failed = |source| ConnectError::classify(endpoint, source, started.elapsed());
    let socket = prepare(endpoint, options).map_err(failed)?;
    match timeout(options.timeout, socket.connect(endpoint.get())).await {
        Ok(result) => result.map_err(failed),
        Err(_) => Err(ConnectError::TimedOut { endpoint, after: options.timeout }),
    }
}

fn prepare(endpoint: EndpointAddr, options: &ConnectOptions) -> io::Result<TcpSocket> {
    let socket = if endpoint.get().is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    options.socket.apply(&socket)?;
    if let Some(ip) = options.bind {
        socket.bind(SocketAddr::new(ip, 0))?;
    }
    Ok(socket)
}
