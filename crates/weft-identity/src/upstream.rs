//! TLS towards servers outside the mesh: what is shown to them, and what they must prove.
//!
//! Here the names of web TLS count, not SPIFFE ids; the versions are those that servers on the internet have, 1.2 and 1.3, with
//! ciphers that authenticate what they encrypt.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use weft_core::CaCertificates;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::IdentityError;

/// Who a server must be.
#[derive(Clone, Debug, Default)]
pub struct UpstreamTrust {
    /// Who vouches for it, PEM; `None`: the certificates of the machine.
    pub roots: Option<Vec<Vec<u8>>>,
    /// Names one of which its certificate must have; empty: the server name that is asked for.
    pub names: Vec<UpstreamName>,
}

/// A name of a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UpstreamName {
    /// A DNS name.
    Dns(String),
    /// Any DNS name below this one: `*.` and this, as it stands in the certificate or covers a name in it.
    Below(String),
    /// A URI.
    Uri(String),
}

/// Makes the configuration for dialing such a server. `client` is the certificate chain and key, PEM, that is shown to it.
///
/// # Errors
/// Roots or client certificate that are none.
pub fn upstream_config(
    trust: &UpstreamTrust,
    client: Option<(&[u8], &[u8])>,
    alpn: &[&[u8]],
) -> Result<Arc<ClientConfig>, IdentityError> {
    let provider = Arc::new(default_provider());
    let roots = Arc::new(match &trust.roots {
        Some(pems) => roots(pems.iter().map(Vec::as_slice))?,
        None => system_roots()?,
    });
    let verifier: Arc<dyn ServerCertVerifier> = match trust.names.is_empty() {
        true => WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&provider))
            .build()
            .map_err(|error| IdentityError::Upstream(error.to_string()))?,
        false => Arc::new(Named { roots, names: trust.names.clone(), provider: Arc::clone(&provider) }),
    };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(IdentityError::Tls)?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match client {
        None => builder.with_no_client_auth(),
        Some((chain, key)) => {
            let bad = |what: &str| IdentityError::Upstream(format!("{what} of the client certificate"));
            let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(chain).collect();
            let chain = chain.map_err(|_| bad("the chain"))?;
            let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| bad("the key"))?;
            builder.with_client_auth_cert(chain, key).map_err(IdentityError::Tls)?
        }
    };
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    Ok(Arc::new(config))
}

fn roots<'a>(pems: impl IntoIterator<Item = &'a [u8]>) -> Result<RootCertStore, IdentityError> {
    let mut store = RootCertStore::empty();
    for pem in pems {
        let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
        let certificates =
            certificates.map_err(|error| IdentityError::Upstream(format!("roots: {error}")))?;
        // Bundles hold the odd certificate that webpki does not take; the others are no worse for it.
        store.add_parsable_certificates(certificates);
    }
    match store.is_empty() {
        true => Err(IdentityError::Upstream("no certificate that can vouch for a server".to_owned())),
        false => Ok(store),
    }
}

fn system_roots() -> Result<RootCertStore, IdentityError> {
    let found = CaCertificates::of_the_machine().find(|path| path.is_file());
    let none =
        || IdentityError::Upstream("this machine has no CA certificates: name those that vouch".to_owned());
    let path = found.ok_or_else(none)?;
    let text = std::fs::read(&path)
        .map_err(|error| IdentityError::Upstream(format!("{}: {error}", path.display())))?;
    roots([text.as_slice()])
}

/// Wants a chain to the roots and one of these names, whatever server name was asked for.
#[derive(Debug)]
struct Named {
    roots: Arc<RootCertStore>,
    names: Vec<UpstreamName>,
    provider: Arc<CryptoProvider>,
}

impl Named {
    fn has_name(&self, leaf: &CertificateDer<'_>, parsed: &ParsedCertificate<'_>) -> bool {
        let Ok((_, certificate)) = X509Certificate::from_der(leaf) else { return false };
        let names = certificate.subject_alternative_name().ok().flatten();
        let names = names.map(|names| names.value.general_names.as_slice()).unwrap_or_default();
        self.names.iter().any(|wanted| match wanted {
            UpstreamName::Dns(name) => ServerName::try_from(name.as_str())
                .is_ok_and(|name| verify_server_name(parsed, &name).is_ok()),
            UpstreamName::Below(base) => names.iter().any(|name| {
                let GeneralName::DNSName(name) = name else { return false };
                let name = name.to_ascii_lowercase();
                name.strip_suffix(base.as_str()).is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'))
            }),
            UpstreamName::Uri(uri) => {
                names.iter().any(|name| matches!(name, GeneralName::URI(found) if found == uri))
            }
        })
    }
}

impl ServerCertVerifier for Named {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let parsed = ParsedCertificate::try_from(end_entity)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&parsed, &self.roots, intermediates, now, algorithms)?;
        match self.has_name(end_entity, &parsed) {
            true => Ok(ServerCertVerified::assertion()),
            false => Err(CertificateError::NotValidForName.into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
