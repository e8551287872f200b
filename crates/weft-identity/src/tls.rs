//! The rustls configurations of one generation.

use std::fmt;
use std::sync::{Arc, LazyLock};
use std::time::SystemTime;

use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{Ticketer, cipher_suite, default_provider, kx_group};
use rustls::server::NoServerSessionStorage;
use rustls::sign::SingleCertAndKey;
use rustls::version::TLS13;
use rustls::{ClientConfig, ServerConfig};
use weft_core::{SpiffeId, TrustDomain};

use crate::verify::PeerVerifier;
use crate::{IdentityError, Leaf, TrustBundle};

/// ALPN of a mesh link that carries HTTP/2.
pub const ALPN_HTTP: &[u8] = b"weft/http";
/// ALPN of a mesh link that carries the bytes of one application connection.
pub const ALPN_TCP: &[u8] = b"weft/tcp";

/// Endpoints whose sessions a client remembers for `weft/http`. These links live long; sessions serve reconnects only.
/// One endpoint costs about 2 KB while it is remembered.
const HTTP_ENDPOINTS: usize = 128;
/// Endpoints whose sessions a client remembers for `weft/tcp`, where each application connection is a handshake.
const TCP_ENDPOINTS: usize = 256;
/// rustls counts the size of its session store in tickets, with room for this many an endpoint.
const TICKETS_PER_ENDPOINT: usize = 8;
/// Tickets a server sends after each handshake. A resumed handshake spends one and gets one back, so one keeps a
/// client in tickets; each more costs an encryption and about a kilobyte on every connection.
const TICKETS: usize = 1;

/// The crypto provider of every TLS connection in Weft: aws-lc-rs, TLS 1.3 suites only.
///
/// Key exchange prefers X25519MLKEM768, which a recording kept for a quantum computer does not open; AES-128-GCM comes
/// first because it is the cheapest suite on a machine with AES instructions and no weaker where it matters.
pub fn crypto_provider() -> &'static Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
        Arc::new(CryptoProvider {
            cipher_suites: vec![
                cipher_suite::TLS13_AES_128_GCM_SHA256,
                cipher_suite::TLS13_AES_256_GCM_SHA384,
                cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
            ],
            kx_groups: vec![kx_group::X25519MLKEM768, kx_group::X25519, kx_group::SECP256R1],
            ..default_provider()
        })
    });
    &PROVIDER
}

/// Everything that a mesh handshake needs, made once for one pair of leaf and bundle, and never changed.
///
/// The configurations are TLS 1.3 only, with certificates on both sides, session resumption, and no early data. The
/// server offers both mesh protocols; a client configuration offers one. Client sessions are kept by server name: dial
/// with [`rustls::pki_types::ServerName::IpAddress`] of the endpoint. Sessions and tickets belong to a generation, so
/// that a session that was accepted under one bundle never survives into the next.
///
/// rustls leaves two limits to the connection: call `set_buffer_limit` where it matters.
pub struct TlsGeneration {
    /// Counts up with each change; the first is 1.
    pub generation: u64,
    /// This workload's own identity.
    pub own: SpiffeId,
    /// Serial number of the own leaf, lower-case hex.
    pub serial: String,
    /// The start of the own leaf's validity.
    pub not_before: SystemTime,
    /// The end of the own leaf's validity.
    pub not_after: SystemTime,
    /// [`TrustBundle::hash`] of [`TlsGeneration::bundle`].
    pub bundle_hash: String,
    /// What peers are verified with.
    pub bundle: TrustBundle,
    /// For dialing a `weft/http` link.
    pub client_http: Arc<ClientConfig>,
    /// For dialing a `weft/tcp` link.
    pub client_tcp: Arc<ClientConfig>,
    /// For accepting mesh links of both kinds.
    pub server: Arc<ServerConfig>,
    leaf: Leaf,
}

impl TlsGeneration {
    /// Builds the configurations.
    ///
    /// # Errors
    /// [`IdentityError::TrustDomain`] where the leaf is not of `trust_domain`, [`IdentityError::Tls`] where rustls
    /// refuses.
    pub fn build(
        generation: u64,
        leaf: &Leaf,
        bundle: &TrustBundle,
        trust_domain: &TrustDomain,
    ) -> Result<Self, IdentityError> {
        if leaf.id().trust_domain != *trust_domain {
            return Err(IdentityError::TrustDomain {
                found: leaf.id().clone(),
                expected: trust_domain.clone(),
            });
        }
        let verifier = Arc::new(PeerVerifier::new(bundle.clone(), trust_domain.clone()));
        let certificate = Arc::new(SingleCertAndKey::from(leaf.certified().clone()));
        Ok(Self {
            generation,
            own: leaf.id().clone(),
            serial: leaf.serial().to_owned(),
            not_before: leaf.not_before(),
            not_after: leaf.not_after(),
            bundle_hash: bundle.hash().to_owned(),
            bundle: bundle.clone(),
            client_http: client(&verifier, &certificate, ALPN_HTTP, HTTP_ENDPOINTS)?,
            client_tcp: client(&verifier, &certificate, ALPN_TCP, TCP_ENDPOINTS)?,
            server: server(&verifier, &certificate)?,
            leaf: leaf.clone(),
        })
    }

    /// Whether it was built from this pair.
    pub(crate) fn is_of(&self, leaf: &Leaf, bundle: &TrustBundle) -> bool {
        self.leaf.chain() == leaf.chain() && self.bundle == *bundle
    }

    /// Whether the own leaf is within its validity at `now`. Outside it every peer refuses us.
    pub fn is_valid_at(&self, now: SystemTime) -> bool {
        self.not_before <= now && now <= self.not_after
    }
}

impl fmt::Debug for TlsGeneration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsGeneration")
            .field("generation", &self.generation)
            .field("own", &self.own)
            .field("serial", &self.serial)
            .field("bundle_hash", &self.bundle_hash)
            .finish_non_exhaustive()
    }
}

fn client(
    verifier: &Arc<PeerVerifier>,
    certificate: &Arc<SingleCertAndKey>,
    alpn: &[u8],
    endpoints: usize,
) -> Result<Arc<ClientConfig>, IdentityError> {
    let mut config = ClientConfig::builder_with_provider(crypto_provider().clone())
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(verifier.clone())
        .with_client_cert_resolver(certificate.clone());
    config.alpn_protocols = vec![alpn.to_vec()];
    config.resumption = Resumption::in_memory_sessions(endpoints * TICKETS_PER_ENDPOINT);
    // A mesh server has one certificate; a name would only tell the network what is called.
    config.enable_sni = false;
    Ok(Arc::new(config))
}

fn server(
    verifier: &Arc<PeerVerifier>,
    certificate: &Arc<SingleCertAndKey>,
) -> Result<Arc<ServerConfig>, IdentityError> {
    let mut config = ServerConfig::builder_with_provider(crypto_provider().clone())
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(verifier.clone())
        .with_cert_resolver(certificate.clone());
    config.alpn_protocols = vec![ALPN_HTTP.to_vec(), ALPN_TCP.to_vec()];
    // The session travels in the ticket: no memory and no lock per client, whichever worker meets it again.
    config.ticketer = Ticketer::new()?;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = TICKETS;
    // Early data can be replayed (RFC 8446 section 8), and data before the client's certificate is for nobody.
    config.max_early_data_size = 0;
    config.send_half_rtt_data = false;
    Ok(Arc::new(config))
}
