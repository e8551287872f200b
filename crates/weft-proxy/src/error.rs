use std::io;
use std::net::SocketAddr;

/// Why a proxy could not start or had to stop. Nothing here is about a single connection.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// A listener could not be bound.
    #[error("cannot listen on {addr} ({what}): {source}")]
    Listen {
        /// Which listener.
        what: &'static str,
        /// Where.
        addr: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The DNS listener could not be bound.
    #[error("DNS: {0}")]
    Dns(#[from] weft_discovery::DiscoveryError),
    /// Telemetry is configured in a way that cannot work.
    #[error("telemetry: {0}")]
    Telemetry(#[from] weft_telemetry::TelemetryError),
    /// A thread or its runtime could not be made.
    #[error("cannot start the {what}: {source}")]
    Start {
        /// The thread.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The addresses of the interfaces could not be read.
    #[error("cannot read the interfaces' addresses (set workload.addresses): {0}")]
    Interfaces(io::Error),
    /// The TLS of health checks could not be set up.
    #[error("TLS of health checks: {0}")]
    Probes(rustls::Error),
    /// A worker ended although nobody asked it to.
    #[error("worker {0} stopped unexpectedly")]
    WorkerLost(usize),
}
