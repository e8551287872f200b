use std::io;
use std::net::SocketAddr;

/// What can keep the DNS server from starting.
#[derive(Debug, thiserror::Error)]
pub enum DiscoveryError {
    /// An address could not be bound, or a socket not be taken over by the runtime.
    #[error("cannot listen for DNS on {addr}: {source}")]
    Listen {
        /// The address.
        addr: SocketAddr,
        /// The system's reason.
        source: io::Error,
    },
    /// A UDP socket on a wildcard address cannot tell which address a query was sent to, so the kernel may answer from
    /// another one, which the client (and connection tracking, for a redirected query) does not accept.
    #[error(
        "cannot listen for DNS on {0}: a UDP listener needs a specific address, for instance 127.0.0.1 and ::1"
    )]
    Wildcard(SocketAddr),
}
