//! TLS at an edge: towards clients that are no workloads of the mesh.
//!
//! They know the server by a DNS name and by whoever they trust, and speak what browsers and libraries of the last ten years
//! speak: TLS 1.3, or TLS 1.2 with forward secrecy and AEAD. One [`EdgeServer`] is the server side of one listener: its
//! certificates, its word on client certificates, and session tickets of its own, so that a session of one listener is no
//! session of another.

mod certificates;
mod clients;

use std::fmt;
use std::sync::{Arc, LazyLock};

use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{Ticketer, cipher_suite, default_provider, kx_group};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::{NoServerSessionStorage, ProducesTickets, WebPkiClientVerifier};
use rustls::version::{TLS12, TLS13};

pub use clients::ClientRoots;

use crate::IdentityError;
use certificates::Certificates;

/// ALPN of HTTP/2 over TLS (RFC 9113 section 3.1).
pub const ALPN_H2: &[u8] = b"h2";
/// ALPN of HTTP/1.1 (RFC 7301 section 6).
pub const ALPN_HTTP1: &[u8] = b"http/1.1";

/// Tickets a server sends after a TLS 1.3 handshake: a client is to use each once (RFC 8446 appendix C.4), and opens more
/// than one connection now and then.
const TICKETS: usize = 2;

/// The crypto provider at the edge: aws-lc-rs, TLS 1.3, and of TLS 1.2 what RFC 9325 section 4.2 recommends: ECDHE with AEAD.
pub fn provider() -> &'static Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
        Arc::new(CryptoProvider {
            cipher_suites: vec![
                cipher_suite::TLS13_AES_128_GCM_SHA256,
                cipher_suite::TLS13_AES_256_GCM_SHA384,
                cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
                cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
                cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
                cipher_suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
                cipher_suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
                cipher_suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
                cipher_suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
            ],
            kx_groups: vec![
                kx_group::X25519MLKEM768,
                kx_group::X25519,
                kx_group::SECP256R1,
                kx_group::SECP384R1,
            ],
            ..default_provider()
        })
    });
    &PROVIDER
}

/// Seals the sessions of one listener: keys that all workers share, made anew every six hours; a ticket lives for twelve.
#[derive(Clone)]
pub struct Tickets(Arc<dyn ProducesTickets>);

impl Tickets {
    /// With keys that nobody else has.
    ///
    /// # Errors
    /// [`IdentityError::Tls`] where the system has no randomness.
    pub fn new() -> Result<Self, IdentityError> {
        Ok(Self(Ticketer::new()?))
    }
}

impl fmt::Debug for Tickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tickets(..)")
    }
}

/// Whether clients show a certificate, and what comes of it.
#[derive(Clone, Debug)]
pub struct ClientCheck {
    /// Who vouches for them.
    pub roots: Arc<ClientRoots>,
    /// A client without a valid one is served all the same, as one without any.
    pub insecure_fallback: bool,
}

/// The server side of one listener.
#[derive(Clone, Debug)]
pub struct EdgeServer {
    /// For accepting connections.
    pub config: Arc<ServerConfig>,
    clients: Option<ClientCheck>,
}

impl EdgeServer {
    /// A server with these certificates, each a PEM chain with its PEM key; the first is for clients that none other is for.
    ///
    /// # Errors
    /// [`IdentityError::Certificate`], [`IdentityError::Key`] and [`IdentityError::KeyMismatch`] for what is wrong with a
    /// pair, [`IdentityError::Tls`] where rustls refuses.
    pub fn new<'a>(
        pairs: impl IntoIterator<Item = (&'a [u8], &'a [u8])>,
        clients: Option<ClientCheck>,
        alpn: &[&[u8]],
        tickets: &Tickets,
    ) -> Result<Self, IdentityError> {
        let certificates = Arc::new(Certificates::new(pairs)?);
        let verifier = match &clients {
            Some(check) => check.roots.verifier(check.insecure_fallback),
            None => WebPkiClientVerifier::no_client_auth(),
        };
        let mut config = ServerConfig::builder_with_provider(provider().clone())
            .with_protocol_versions(&[&TLS13, &TLS12])?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(certificates);
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        // The session travels in the ticket: no memory and no lock per client, whichever worker meets it again.
        config.ticketer = Arc::clone(&tickets.0);
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = TICKETS;
        // Early data can be replayed (RFC 8446 section 8).
        config.max_early_data_size = 0;
        config.send_half_rtt_data = false;
        Ok(Self { config: Arc::new(config), clients })
    }

    /// Whether a client certificate was asked for.
    pub fn asks_clients(&self) -> bool {
        self.clients.is_some()
    }

    /// The chain that a client showed in a finished handshake, if it is valid now. `resumed`: a resumed session brings the
    /// chain of its first handshake, which was looked at then, perhaps by other roots; it is looked at again.
    ///
    /// # Errors
    /// A valid one is required, and this is none.
    pub fn client<'c>(
        &self,
        shown: Option<&'c [CertificateDer<'static>]>,
        resumed: bool,
    ) -> Result<Option<&'c [CertificateDer<'static>]>, IdentityError> {
        let Some(check) = &self.clients else { return Ok(None) };
        let Some(chain) = shown.filter(|chain| !chain.is_empty()) else {
            return if check.insecure_fallback { Ok(None) } else { Err(IdentityError::NoCertificate) };
        };
        if !resumed && !check.insecure_fallback {
            return Ok(Some(chain));
        }
        match check.roots.check(chain, UnixTime::now()) {
            Ok(()) => Ok(Some(chain)),
            Err(_) if check.insecure_fallback => Ok(None),
            Err(refused) => Err(refused),
        }
    }
}
