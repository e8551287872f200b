//! The connection to the CA: resolve, dial, verify, authorize; and what a failure means.

use std::error::Error;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use rustls::version::TLS13;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};
use weft_core::SpiffeId;
use weft_names::Names;

use super::CaSource;
use crate::{IdentityError, PeerVerifier, TrustBundle, crypto_provider, handshake_failure, tls_error};

/// One address of the CA, handshake included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A CA that went away without a word is noticed by unanswered pings on the bundle stream.
const PING_EVERY: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// Kubernetes tokens have about a kilobyte.
const MAX_TOKEN: usize = 16 * 1024;

/// Makes connections to the one CA, and keeps what each needs.
#[derive(Clone)]
pub(super) struct Connector {
    address: String,
    names: Names,
    bundle: PathBuf,
    server_id: SpiffeId,
    token_file: PathBuf,
    /// The bundle the CA streamed: after a rotation the CA's own certificate may be of a root that the file lacks.
    streamed: Arc<ArcSwapOption<TrustBundle>>,
}

impl Connector {
    pub(super) fn new(source: &CaSource) -> Self {
        Self {
            address: source.address.clone(),
            names: Names::default(),
            bundle: source.bundle.clone(),
            server_id: source.server_id.clone(),
            token_file: source.token_file.clone(),
            streamed: Arc::default(),
        }
    }

    /// Verifies the CA by this bundle too, from the next connection on.
    pub(super) fn trust(&self, bundle: &TrustBundle) {
        self.streamed.store(Some(Arc::new(bundle.clone())));
    }

    /// A channel that connects on the first call and again after each loss.
    pub(super) fn channel(&self) -> Channel {
        let connector = self.clone();
        // The scheme is http because TLS is the connector's business; the name only becomes :authority.
        Endpoint::from_static("http://weft-ca")
            .http2_keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_TIMEOUT)
            .keep_alive_while_idle(true)
            .connect_with_connector_lazy(tower::service_fn(move |_| {
                let connector = connector.clone();
                async move { connector.connect().await.map(TokioIo::new) }
            }))
    }

    /// A request with the token as it is in the file now.
    pub(super) fn authorized<T>(&self, message: T) -> Result<Request<T>, IdentityError> {
        let fail =
            |reason: &str| IdentityError::File { path: self.token_file.clone(), reason: reason.to_owned() };
        let content = crate::files::read(&self.token_file)?;
        let token = std::str::from_utf8(&content).map_err(|_| fail("is not text"))?.trim();
        if token.is_empty() {
            return Err(fail("has no token in it"));
        }
        if token.len() > MAX_TOKEN {
            return Err(fail("has a token of more than 16 KiB"));
        }
        if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(fail("has a token with characters other than visible ASCII"));
        }
        let mut value: MetadataValue<Ascii> =
            format!("Bearer {token}").parse().map_err(|_| fail("has a token that is no header value"))?;
        value.set_sensitive(true);
        let mut request = Request::new(message);
        request.metadata_mut().insert("authorization", value);
        Ok(request)
    }

    /// What a failed call means. A failure to connect is the connector's own error, somewhere in the chain.
    pub(super) fn explain(&self, status: &Status) -> IdentityError {
        let mut cause: Option<&(dyn Error + 'static)> = status.source();
        while let Some(error) = cause {
            if let Some(own) = error.downcast_ref::<IdentityError>() {
                return own.clone();
            }
            cause = error.source();
        }
        let address = self.address.clone();
        match status.code() {
            Code::Unauthenticated => IdentityError::TokenRefused {
                address,
                token_file: self.token_file.clone(),
                reason: status.message().to_owned(),
            },
            // The CA's own word has no cause on this side.
            Code::Unavailable | Code::ResourceExhausted if status.source().is_none() => {
                IdentityError::CaUnavailable { address, reason: status.message().to_owned() }
            }
            Code::Unavailable => IdentityError::CaUnreachable { address, reason: describe(status) },
            _ => IdentityError::Ca { address, reason: describe(status) },
        }
    }

    async fn connect(&self) -> Result<TlsStream<TcpStream>, IdentityError> {
        let tls = TlsConnector::from(Arc::new(self.tls()?));
        let addresses = self.addresses().await?;
        let mut last = None;
        for address in addresses {
            last = Some(match timeout(CONNECT_TIMEOUT, self.dial(&tls, address)).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => error,
                Err(_) => self.unreachable(&format!("{address}: no answer in {CONNECT_TIMEOUT:?}")),
            });
        }
        Err(last.unwrap_or_else(|| self.unreachable(&"the name has no address")))
    }

    /// Where the CA is; while DNS is away, where it was: whoever answers there has to prove that it is the CA.
    async fn addresses(&self) -> Result<Vec<SocketAddr>, IdentityError> {
        let (host, port) =
            self.address.rsplit_once(':').ok_or_else(|| self.unreachable(&"the address has no port"))?;
        let port: u16 = port.parse().map_err(|error| self.unreachable(&error))?;
        self.names.sockets(host, port).await.map_err(|error| self.unreachable(&error))
    }

    async fn dial(
        &self,
        tls: &TlsConnector,
        address: SocketAddr,
    ) -> Result<TlsStream<TcpStream>, IdentityError> {
        let stream = TcpStream::connect(address).await.map_err(|error| self.unreachable(&error))?;
        // Requests are single small messages; nothing is gained by waiting for more.
        stream.set_nodelay(true).map_err(|error| self.unreachable(&error))?;
        tls.connect(ServerName::IpAddress(address.ip().into()), stream).await.map_err(|error| {
            let refused = matches!(tls_error(&error), Some(rustls::Error::InvalidCertificate(_)));
            let (address, reason) = (self.address.clone(), handshake_failure(&error));
            if refused {
                IdentityError::CaIdentity { address, reason }
            } else {
                IdentityError::CaUnreachable { address, reason: format!("TLS handshake: {reason}") }
            }
        })
    }

    /// Made for each connection: they are rare, and the bundle file may have changed.
    fn tls(&self) -> Result<ClientConfig, IdentityError> {
        let streamed = self.streamed.load_full();
        let bundle = match (TrustBundle::from_file(&self.bundle), streamed) {
            (Ok(file), Some(streamed)) => file.union(&streamed)?,
            (Ok(file), None) => file,
            (Err(_), Some(streamed)) => TrustBundle::clone(&streamed),
            (Err(error), None) => return Err(error),
        };
        let mut config = ClientConfig::builder_with_provider(crypto_provider().clone())
            .with_protocol_versions(&[&TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(PeerVerifier::only(bundle, self.server_id.clone())))
            .with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec()];
        config.enable_sni = false;
        Ok(config)
    }

    fn unreachable(&self, reason: &dyn std::fmt::Display) -> IdentityError {
        IdentityError::CaUnreachable { address: self.address.clone(), reason: reason.to_string() }
    }
}

fn describe(status: &Status) -> String {
    let mut text = format!("{:?}: {}", status.code(), status.message());
    let mut cause = status.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
