//! What callers may take of the CA.

use std::time::Duration;

use crate::bucket::Rate;

/// One account may run most of a mesh, but never shut all others out.
const IDENTITY_CONNECTIONS: usize = 16 * 1024;

/// How much one caller, one address, one identity and all of them together may take before they are turned down.
///
/// Anyone in the cluster can reach the CA, and what it does for a caller before it knows who that is costs memory here
/// and questions to the API server. An address is a pod, where the network does not translate addresses; where it does,
/// it is a whole node, so each share of an address is wide enough for a node's pods that start at once.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Connections in all. When all places are taken, the oldest connection that has proven nothing ends for a new one,
    /// then the oldest that has no call open; where there is none of either, new ones wait in the listen backlog.
    pub connections: usize,
    /// Connections from one address; beyond it the same rule holds among that address's own.
    pub address_connections: usize,
    /// New connections from one address; beyond it they are closed before their handshake, which takes a good part of a
    /// millisecond of the thread that all share and costs whoever sends the same first message again nothing.
    pub address_dials: Rate,
    /// Connections from one address that have proven nothing yet; beyond it that address's oldest ends.
    pub address_unproven: usize,
    /// Bundle streams on one connection. A proxy has one, and for a moment the next.
    pub connection_streams: usize,
    /// Connections of one identity, and bundle streams. Beyond it the identity's oldest connection without an open call ends
    /// for the new one; where all have a call open it is the new one that goes.
    pub identity_connections: usize,
    /// Connections of one pod, where the credential names one. Beyond it the pod's oldest ends.
    pub pod_connections: usize,
    /// From the accepted connection to the end of the TLS handshake.
    pub handshake: Duration,
    /// From the accepted connection to the first good credential.
    pub proof: Duration,
    /// How long a connection may stay without an open call.
    pub idle: Duration,
    /// The life of a bundle stream, and up to a tenth more: the proxy opens it again and proves itself anew, so that a
    /// token that has expired or was removed does not live on in a stream.
    pub stream: Duration,
    /// From a call's header to its answer's, the request's body included. A bundle stream that is open has no such limit.
    pub call: Duration,
    /// Refused credentials on one connection, the last of which ends it.
    pub connection_refusals: u32,
    /// Refused credentials from one address. Beyond it the address is turned away unheard.
    pub address_refusals: Rate,
    /// Questions about credentials that one address causes, good ones included; beyond it they wait.
    pub address_reviews: Rate,
    /// Questions of one address under way at a time.
    pub address_reviews_at_once: usize,
    /// Callers of one address that wait to have a question asked.
    pub address_waiting: usize,
    /// Questions under way at a time in all.
    pub reviews_at_once: usize,
    /// How long a caller waits to have its question asked.
    pub turn: Duration,
}

impl Limits {
    /// The default limits with another number of connections and streams of one identity.
    ///
    /// # Errors
    /// What is wrong with the number.
    pub fn with_identity_connections(number: usize) -> Result<Self, String> {
        let limits = Self::default();
        if number == 0 || number > limits.connections {
            return Err(format!(
                "must be between 1 and {}, as many as there may be in all",
                limits.connections
            ));
        }
        Ok(Self { identity_connections: number, ..limits })
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            // A mesh of 20,000 pods on one replica while the other is away, and a fifth for reconnections.
            connections: 24 * 1024,
            // A node has 250 pods at the most, each with one connection and for a moment the next.
            address_connections: 512,
            // All of a node's pods twice, and then a fiftieth of a processor.
            address_dials: Rate { burst: 512, every: Duration::from_millis(20) },
            address_unproven: 128,
            connection_streams: 2,
            identity_connections: IDENTITY_CONNECTIONS,
            // One, and for a moment the next; those whose network broke stay until a ping has found that, 80 s later.
            pod_connections: 16,
            // Two round trips; who needs longer is not coming.
            handshake: Duration::from_secs(10),
            // A client sends its token with its first request, at once; a review may take some seconds.
            proof: Duration::from_secs(20),
            // A proxy has its bundle stream open; between two streams it waits a minute at the most.
            idle: Duration::from_secs(120),
            stream: Duration::from_secs(3600),
            // It is answered in milliseconds, or after a turn and a review.
            call: Duration::from_secs(10),
            // The two loops of a proxy each show the token once; a third time is no accident.
            connection_refusals: 3,
            // A node's proxies whose tokens have just become bad, and then no more than costs nothing.
            address_refusals: Rate { burst: 20, every: Duration::from_secs(1) },
            // A pod needs two when it starts and two an hour.
            address_reviews: Rate { burst: 60, every: Duration::from_millis(100) },
            address_reviews_at_once: 4,
            address_waiting: 128,
            // One takes a few milliseconds, so these are thousands a second; more would crowd out the cluster's own
            // requests when a whole mesh starts at once.
            reviews_at_once: 32,
            // Together with the 5 s of a review below the limit of a call, so that the caller hears "unavailable" from us.
            turn: Duration::from_secs(4),
        }
    }
}

/// Why a caller was turned down, as the metrics call it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Limit {
    #[error("all places are taken")]
    Connections,
    #[error("too many connections from this address")]
    AddressConnections,
    #[error("too many new connections from this address")]
    AddressDials,
    #[error("too many connections without a credential from this address")]
    AddressUnproven,
    #[error("too many bundle streams on this connection")]
    ConnectionStreams,
    #[error("too many bundle streams of this identity")]
    IdentityStreams,
    #[error("too many connections of this identity")]
    IdentityConnections,
    #[error("too many connections of this pod")]
    PodConnections,
    #[error("no TLS handshake in time")]
    Handshake,
    #[error("no credential in time")]
    Proof,
    #[error("no call for too long")]
    Idle,
    #[error("a bundle stream whose end is not taken")]
    Stream,
    #[error("too many refused credentials on this connection")]
    ConnectionRefusals,
    #[error("too many refused credentials from this address")]
    AddressRefusals,
    #[error("too many credentials to review from this address")]
    Reviews,
}

impl Limit {
    /// All there are, in the order of the metrics.
    pub(crate) const ALL: [Self; 15] = [
        Self::Connections,
        Self::AddressConnections,
        Self::AddressDials,
        Self::AddressUnproven,
        Self::ConnectionStreams,
        Self::IdentityStreams,
        Self::IdentityConnections,
        Self::PodConnections,
        Self::Handshake,
        Self::Proof,
        Self::Idle,
        Self::Stream,
        Self::ConnectionRefusals,
        Self::AddressRefusals,
        Self::Reviews,
    ];

    /// The label's value.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::AddressConnections => "address_connections",
            Self::AddressDials => "address_dials",
            Self::AddressUnproven => "address_unproven",
            Self::ConnectionStreams => "connection_streams",
            Self::IdentityStreams => "identity_streams",
            Self::IdentityConnections => "identity_connections",
            Self::PodConnections => "pod_connections",
            Self::Handshake => "handshake",
            Self::Proof => "proof",
            Self::Idle => "idle",
            Self::Stream => "stream",
            Self::ConnectionRefusals => "connection_refusals",
            Self::AddressRefusals => "address_refusals",
            Self::Reviews => "reviews",
        }
    }
}
