//! Peer verification: chain, use, trust domain, and one SPIFFE id.
//!
//! A mesh peer is known by its SPIFFE id, not by a DNS name, and the address that was dialed says nothing about it. So
//! the name check of web TLS is replaced: the chain must lead to the bundle, be made for the side the peer is on, and
//! the leaf must name exactly one workload of our trust domain. Whether that workload may stand there is a question
//! per connection, so it is not asked here: the configurations stay the same for all connections.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::SystemTime;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::verify_tls13_signature;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, OtherError, SignatureScheme};
use webpki::{EndEntityCert, KeyUsage, VerifiedPath};
use weft_core::{SpiffeId, TrustDomain};

use crate::issuer;
use crate::svid::{Side, Svid};
use crate::tls::crypto_provider;
use crate::{IdentityError, TrustBundle};

/// Verifies the other end of a connection against one bundle: as a rustls verifier for servers and for clients.
#[derive(Debug)]
pub struct PeerVerifier {
    bundle: TrustBundle,
    trust_domain: TrustDomain,
    /// Where only one identity may answer: the CA.
    only: Option<SpiffeId>,
}

impl PeerVerifier {
    /// Accepts every workload of the trust domain.
    pub fn new(bundle: TrustBundle, trust_domain: TrustDomain) -> Self {
        Self { bundle, trust_domain, only: None }
    }

    /// Accepts one identity.
    pub fn only(bundle: TrustBundle, id: SpiffeId) -> Self {
        Self { bundle, trust_domain: id.trust_domain.clone(), only: Some(id) }
    }

    fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        side: Side,
    ) -> Result<(), IdentityError> {
        let svid = check_chain(leaf, intermediates, &self.bundle, now, side)?;
        if svid.id.trust_domain != self.trust_domain {
            return Err(IdentityError::TrustDomain { found: svid.id, expected: self.trust_domain.clone() });
        }
        match &self.only {
            Some(expected) if *expected != svid.id => {
                Err(IdentityError::WrongIdentity { found: svid.id, expected: expected.clone() })
            }
            _ => Ok(()),
        }
    }
}

fn check_chain(
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    bundle: &TrustBundle,
    now: UnixTime,
    side: Side,
) -> Result<Svid, IdentityError> {
    check_path(leaf, intermediates, bundle, now, side)?;
    // The leaf itself is read by our own, stricter rules.
    let svid = Svid::parse(leaf)?;
    svid.check_side(side)?;
    Ok(svid)
}

/// Whether a chain leads to the bundle, whoever the leaf is for.
///
/// Signatures, times, uses and constraints of the chain are webpki's to judge. What it leaves out about the certificates
/// above the leaf is looked at for each path that it finds, so that a bad one does not hide a good one.
pub(crate) fn check_path(
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    bundle: &TrustBundle,
    now: UnixTime,
    side: Side,
) -> Result<(), IdentityError> {
    let usage = match side {
        Side::Server => KeyUsage::server_auth(),
        Side::Client => KeyUsage::client_auth(),
    };
    let algorithms = crypto_provider().signature_verification_algorithms.all;
    let end_entity = EndEntityCert::try_from(leaf).map_err(IdentityError::Chain)?;
    let unfit = RefCell::new(None);
    let path = |path: &VerifiedPath<'_>| {
        issuer::check_path(path, bundle, now).map_err(|reason| {
            unfit.replace(Some(reason));
            // webpki's nearest word for an issuer that must not be one.
            webpki::Error::EndEntityUsedAsCa
        })
    };
    end_entity
        .verify_for_usage(algorithms, bundle.anchors(), intermediates, now, usage, None, Some(&path))
        .map_err(|error| match unfit.take() {
        Some(reason) if error == webpki::Error::EndEntityUsedAsCa => IdentityError::Issuer(reason),
        _ => IdentityError::Chain(error),
    })?;
    Ok(())
}

/// What a peer with `bundle` would say about our own chain, in both roles.
pub(crate) fn check_own_chain(
    chain: &[CertificateDer<'_>],
    bundle: &TrustBundle,
    now: SystemTime,
) -> Result<(), IdentityError> {
    let (leaf, intermediates) = chain.split_first().ok_or(IdentityError::NoCertificate)?;
    let now = UnixTime::since_unix_epoch(now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default());
    check_chain(leaf, intermediates, bundle, now, Side::Server)?;
    check_chain(leaf, intermediates, bundle, now, Side::Client).map(drop)
}

/// The alert the peer gets: exact where TLS has one, `certificate_unknown` otherwise. Our own log has the reason.
pub(crate) fn to_rustls(error: IdentityError) -> rustls::Error {
    let alert = match &error {
        // TLS has one alert for both (RFC 8446 section 6.2: "has expired or is not currently valid"); the error on this
        // side says which, and the times.
        IdentityError::Chain(webpki::Error::CertExpired { time, not_after }) => {
            CertificateError::ExpiredContext { time: *time, not_after: *not_after }
        }
        IdentityError::Chain(webpki::Error::CertNotValidYet { time, not_before }) => {
            CertificateError::NotValidYetContext { time: *time, not_before: *not_before }
        }
        IdentityError::Chain(webpki::Error::UnknownIssuer) => CertificateError::UnknownIssuer,
        // The signature of a root with the same name but another key.
        IdentityError::Chain(webpki::Error::InvalidSignatureForPublicKey) => CertificateError::BadSignature,
        _ => CertificateError::Other(OtherError(Arc::new(error))),
    };
    rustls::Error::InvalidCertificate(alert)
}

/// Unreachable by configuration: only TLS 1.3 is offered.
fn no_tls12() -> Result<HandshakeSignatureValid, rustls::Error> {
    Err(rustls::PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig.into())
}

impl ServerCertVerifier for PeerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.verify(end_entity, intermediates, now, Side::Server).map_err(to_rustls)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        no_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &crypto_provider().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        crypto_provider().signature_verification_algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for PeerVerifier {
    /// None: a mesh client has one certificate, and the names of the roots would be sent in every handshake.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.verify(end_entity, intermediates, now, Side::Client).map_err(to_rustls)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        no_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &crypto_provider().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        crypto_provider().signature_verification_algorithms.supported_schemes()
    }
}
