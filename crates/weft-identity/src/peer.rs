use std::time::SystemTime;

use rustls::{AlertDescription, CommonState};
use rustls_pki_types::CertificateDer;
use weft_core::SpiffeId;

use crate::IdentityError;
use crate::svid::Svid;
use crate::tls::{ALPN_HTTP, ALPN_TCP};

/// Who stands at the other end of a mesh link, as its certificate proved it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerIdentity {
    /// The peer's identity.
    pub id: SpiffeId,
    /// The end of its leaf's validity.
    pub not_after: SystemTime,
}

impl PeerIdentity {
    /// Reads the identity from a chain, leaf first. Says nothing about who signed it: the verifiers did.
    ///
    /// # Errors
    /// [`IdentityError::NoCertificate`] for an empty chain, otherwise what is wrong with the leaf.
    pub fn from_chain(chain: &[CertificateDer<'_>]) -> Result<Self, IdentityError> {
        let leaf = chain.first().ok_or(IdentityError::NoCertificate)?;
        let svid = Svid::parse(leaf)?;
        Ok(Self { id: svid.id, not_after: svid.not_after })
    }

    /// The same identity, if its leaf has not expired at `now`.
    ///
    /// # Errors
    /// [`IdentityError::Expired`].
    pub fn valid_at(self, now: SystemTime) -> Result<Self, IdentityError> {
        if now > self.not_after {
            return Err(IdentityError::Expired { id: self.id, not_after: self.not_after });
        }
        Ok(self)
    }
}

/// The verified peer of a finished handshake.
///
/// A resumed handshake carries no certificates; rustls hands out those of the first handshake, which the verifier has
/// accepted at *that* time. So the end of validity is checked here again, for every connection.
///
/// # Errors
/// [`IdentityError::NoCertificate`] before the handshake is complete or where the peer has none,
/// [`IdentityError::Expired`], and what [`PeerIdentity::from_chain`] says.
pub fn peer_of(connection: &CommonState) -> Result<PeerIdentity, IdentityError> {
    peer_at(connection, SystemTime::now())
}

/// [`peer_of`] for a caller that knows the time.
///
/// # Errors
/// As [`peer_of`].
pub fn peer_at(connection: &CommonState, now: SystemTime) -> Result<PeerIdentity, IdentityError> {
    if connection.is_handshaking() {
        return Err(IdentityError::NoCertificate);
    }
    let chain = connection.peer_certificates().ok_or(IdentityError::NoCertificate)?;
    PeerIdentity::from_chain(chain)?.valid_at(now)
}

/// What travels inside a mesh link, by its ALPN protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LinkProtocol {
    /// `weft/http`: HTTP/2 that carries many requests.
    Http,
    /// `weft/tcp`: the bytes of one application connection.
    Tcp,
}

/// The protocol that a finished handshake agreed on.
///
/// A client that offers no ALPN at all completes a handshake (RFC 7301 leaves it to the server); it is no mesh client.
///
/// # Errors
/// [`IdentityError::NoMeshProtocol`].
pub fn link_protocol(connection: &CommonState) -> Result<LinkProtocol, IdentityError> {
    match connection.alpn_protocol() {
        Some(ALPN_HTTP) => Ok(LinkProtocol::Http),
        Some(ALPN_TCP) => Ok(LinkProtocol::Tcp),
        _ => Err(IdentityError::NoMeshProtocol),
    }
}

/// What rustls says of a failed handshake, where it is rustls that says something.
pub fn tls_error(error: &std::io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}

/// Why a TLS handshake failed, for a log line: the reason of our own verifier where it refused, otherwise what rustls or
/// the system says.
pub fn handshake_failure(error: &std::io::Error) -> String {
    match tls_error(error) {
        Some(rustls::Error::InvalidCertificate(rustls::CertificateError::Other(reason))) => {
            reason.to_string()
        }
        // One alert for two troubles; which of them it is shows on the peer's side, and by our own leaf's times.
        Some(rustls::Error::AlertReceived(AlertDescription::CertificateExpired)) => {
            "the peer says that our certificate has expired or is not valid yet".to_owned()
        }
        Some(refused) => refused.to_string(),
        None => error.to_string(),
    }
}
