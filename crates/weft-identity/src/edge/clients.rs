//! Certificates of clients at the edge, which name whomever they like.

use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};

use super::provider;
use crate::svid::Side;
use crate::verify::{check_path, to_rustls};
use crate::{IdentityError, TrustBundle};

/// The roots that clients are verified with. Chains are checked as those of workloads are, but for the SPIFFE id.
#[derive(Debug)]
pub struct ClientRoots {
    bundle: TrustBundle,
    subjects: Vec<DistinguishedName>,
}

impl ClientRoots {
    /// These roots.
    pub fn new(bundle: TrustBundle) -> Self {
        let subjects = bundle.anchors().iter().map(|anchor| DistinguishedName::in_sequence(&anchor.subject));
        Self { subjects: subjects.collect(), bundle }
    }

    /// Whether a chain, leaf first, is valid.
    ///
    /// # Errors
    /// Why it is not.
    pub fn check(&self, chain: &[CertificateDer<'_>], now: UnixTime) -> Result<(), IdentityError> {
        let (leaf, intermediates) = chain.split_first().ok_or(IdentityError::NoCertificate)?;
        check_path(leaf, intermediates, &self.bundle, now, Side::Client)
    }

    /// Asks clients for a certificate; a `lenient` one takes any, and none, and leaves it to [`Self::check`].
    pub(super) fn verifier(self: &Arc<Self>, lenient: bool) -> Arc<dyn ClientCertVerifier> {
        Arc::new(Verifier { roots: Arc::clone(self), lenient })
    }
}

#[derive(Debug)]
struct Verifier {
    roots: Arc<ClientRoots>,
    lenient: bool,
}

impl ClientCertVerifier for Verifier {
    fn client_auth_mandatory(&self) -> bool {
        !self.lenient
    }

    /// A browser chooses among its certificates by them.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.roots.subjects
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        if !self.lenient {
            check_path(end_entity, intermediates, &self.roots.bundle, now, Side::Client)
                .map_err(to_rustls)?;
        }
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &provider().signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &provider().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}
