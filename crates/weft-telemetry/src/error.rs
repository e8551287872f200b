//! The errors of this crate. All of them appear at start or reload; nothing here fails a request.

/// Why telemetry could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The collector's address is not usable.
    #[error("OTLP endpoint {endpoint:?}: {reason}")]
    Endpoint {
        /// The configured text.
        endpoint: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A configured header is not a valid HTTP header. The value is not shown: it may be a key.
    #[error("OTLP header {name:?}: {reason}")]
    Header {
        /// The header's name.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The sampling ratio is not a number from 0 to 1.
    #[error("sampling ratio {0} is not between 0 and 1")]
    Sampling(f64),
    /// No usable CA certificates for an `https://` endpoint.
    #[error("CA certificates of the collector, {ca}: {reason}")]
    Roots {
        /// Where they come from.
        ca: String,
        /// What went wrong.
        reason: String,
    },
    /// The access log file or its writer thread could not be had.
    #[error("access log {target}: {source}")]
    AccessLog {
        /// `stdout` or the path.
        target: String,
        /// The system's answer.
        source: std::io::Error,
    },
}
