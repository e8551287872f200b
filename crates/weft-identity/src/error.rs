use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use rustls_pki_types::UnixTime;
use weft_core::{ParseError, SpiffeId, TrustDomain};

/// Why an identity could not be had, or a peer's was refused.
#[derive(Debug, Clone, thiserror::Error)]
pub enum IdentityError {
    /// The handshake ended without a certificate from the peer.
    #[error("the peer sent no certificate")]
    NoCertificate,
    /// The handshake agreed on no mesh protocol.
    #[error("the peer agreed on none of the ALPN protocols weft/http and weft/tcp")]
    NoMeshProtocol,
    /// The bytes are not a certificate, or not one for a workload (X509-SVID section 4 and 5).
    #[error("certificate refused: {0}")]
    Certificate(String),
    /// A leaf must carry exactly one URI name (X509-SVID section 2).
    #[error("certificate refused: {0} URI names, exactly one SPIFFE id is required")]
    UriNames(usize),
    /// The URI name is not a workload's SPIFFE id.
    #[error("certificate refused: {0}")]
    SpiffeId(#[from] ParseError),
    /// The identity belongs to another mesh.
    #[error("certificate refused: {found} is not of trust domain {expected}")]
    TrustDomain {
        /// Whose certificate it is.
        found: SpiffeId,
        /// The trust domain of this mesh.
        expected: TrustDomain,
    },
    /// The identity is not the one that is required.
    #[error("certificate refused: it is for {found}, not for {expected}")]
    WrongIdentity {
        /// Whose certificate it is.
        found: SpiffeId,
        /// Whose it had to be.
        expected: SpiffeId,
    },
    /// The leaf is past its end.
    #[error("certificate of {id} expired at {}", crate::leaf::rfc3339(*.not_after))]
    Expired {
        /// Whose certificate it is.
        id: SpiffeId,
        /// The end of its validity.
        not_after: SystemTime,
    },
    /// The chain does not lead to a root of the bundle, or its use or time is wrong.
    #[error("certificate chain refused: {}", chain(.0))]
    Chain(webpki::Error),
    /// A certificate above the leaf must not sign what it signed, by RFC 5280 section 6.1.4 or X509-SVID section 4.
    #[error("certificate chain refused: {0}")]
    Issuer(String),
    /// The trust bundle is empty, too large, or holds what is not a CA certificate.
    #[error("trust bundle: {0}")]
    Bundle(String),
    /// The certificate belongs to another key.
    #[error("the certificate is for another key than the one it came with")]
    KeyMismatch,
    /// A key or a signing request could not be made or read.
    #[error("private key: {0}")]
    Key(String),
    /// A file could not be read, or what it holds is wrong.
    #[error("{}: {reason}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// rustls refuses the configuration.
    #[error("TLS configuration: {0}")]
    Tls(#[from] rustls::Error),
    /// What is to secure the way to a server outside the mesh cannot be used.
    #[error("TLS to an upstream: {0}")]
    Upstream(String),
    /// No connection to the CA.
    #[error("CA {address} unreachable: {reason}")]
    CaUnreachable {
        /// What was dialed.
        address: String,
        /// The last reason.
        reason: String,
    },
    /// Something that is not the CA answered at its address.
    #[error("CA {address} refused: {reason}")]
    CaIdentity {
        /// What was dialed.
        address: String,
        /// Which check failed.
        reason: String,
    },
    /// The CA does not accept the token.
    #[error("CA {address} refused the token in {}: {reason}", token_file.display())]
    TokenRefused {
        /// What was dialed.
        address: String,
        /// Where the token came from.
        token_file: PathBuf,
        /// What the CA says.
        reason: String,
    },
    /// The CA was reached and cannot do it now: it may not be able to check the token, or to sign.
    #[error("CA {address} cannot answer now: {reason}")]
    CaUnavailable {
        /// What was dialed.
        address: String,
        /// What it says.
        reason: String,
    },
    /// The CA was reached and answered with an error.
    #[error("CA {address}: {reason}")]
    Ca {
        /// What was dialed.
        address: String,
        /// What it says.
        reason: String,
    },
}

/// What webpki says, with the two ways of being out of time told apart in words: one is cured by a new certificate, the
/// other by setting a clock.
fn chain(error: &webpki::Error) -> String {
    match error {
        webpki::Error::CertExpired { not_after, .. } => {
            format!("a certificate of it expired at {}", time(*not_after))
        }
        webpki::Error::CertNotValidYet { not_before, .. } => {
            format!("a certificate of it is not valid before {}; is a clock wrong?", time(*not_before))
        }
        other => other.to_string(),
    }
}

fn time(time: UnixTime) -> String {
    // A certificate's times end with the year 9999, which fits.
    let since = Duration::from_secs(time.as_secs());
    let time = SystemTime::UNIX_EPOCH.checked_add(since);
    time.map(|time| crate::leaf::rfc3339(time).to_string()).unwrap_or_default()
}
