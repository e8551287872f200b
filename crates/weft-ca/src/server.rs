//! TLS, limits and drain around the service.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::ServerConfig;
use rustls::version::TLS13;
use rustls_pki_types::PrivatePkcs8KeyDer;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Server;
use weft_core::Drain;
use weft_identity::proto::identity_server::IdentityServer;
use weft_identity::{IdentityError, crypto_provider};
use weft_telemetry::Registry;

use crate::auth::JoinTokens;
use crate::config::CaConfig;
use crate::conn::PeerStream;
use crate::csr::MAX_CSR;
use crate::issue::Subject;
use crate::metrics::Metrics;
use crate::service::IdentityService;
use crate::watchers::Watchers;
use crate::{Authority, CaError, Credentials, root};

/// Every proxy holds one connection open for the bundle: a mesh of sixteen thousand pods for one CA process.
const MAX_CONNECTIONS: usize = 16 * 1024;
/// A handshake takes two round trips; who needs longer is not coming.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// A proxy has one bundle stream and now and then a Sign call.
const MAX_STREAMS: u32 = 16;
/// Headers of a call: a token of up to 16 KiB and little else.
const MAX_HEADERS: u32 = 24 * 1024;
/// A message that carries the largest CSR; bundle reports are smaller.
const MAX_MESSAGE: usize = MAX_CSR + 1024;
/// Idle connections are normal here; dead ones are found by pings.
const PING_EVERY: Duration = Duration::from_secs(60);
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// A call without a stream is answered in milliseconds.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// After a failed accept (EMFILE, ENFILE, ENOMEM): time for descriptors to come free instead of a busy loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Timers do not notice when the wall clock is set or the machine slept.
const CLOCK_CHECK: Duration = Duration::from_secs(60);

/// What a CA is made of, where it does not come from files.
pub struct CaParts {
    /// Where to serve.
    pub listen: SocketAddr,
    /// What to sign with.
    pub authority: Authority,
    /// Whom to believe.
    pub credentials: Arc<dyn Credentials>,
    /// Where to count.
    pub registry: Registry,
}

/// A CA that has its root, its credentials and its address, and is about to serve.
pub struct Ca {
    listener: TcpListener,
    address: SocketAddr,
    authority: Authority,
    credentials: Arc<dyn Credentials>,
    metrics: Arc<Metrics>,
    /// Follows the files it was opened from.
    follow: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl Ca {
    /// Opens or makes the root, reads tokens and bundle, and binds the address.
    ///
    /// # Errors
    /// Whatever of these is not to be had, naming the file and what is wrong with it.
    pub async fn bind(config: &CaConfig) -> Result<Self, CaError> {
        let (authority, names) = root::open(config)?;
        let tokens = JoinTokens::load(config.tokens_file.clone(), config.trust_domain.clone())?;
        let parts = CaParts {
            listen: config.listen,
            authority: authority.clone(),
            credentials: Arc::new(tokens.clone()),
            registry: Registry::default(),
        };
        let follow = async move {
            tokio::join!(tokens.keep_fresh(), authority.follow_bundle(&names.bundle));
        };
        Ok(Self { follow: Box::pin(follow), ..Self::with(parts).await? })
    }

    /// Binds the address for a CA of these parts.
    ///
    /// # Errors
    /// [`CaError::Listen`].
    pub async fn with(parts: CaParts) -> Result<Self, CaError> {
        let CaParts { listen, authority, credentials, registry } = parts;
        let refused = |error: std::io::Error| CaError::Listen { address: listen, reason: error.to_string() };
        let listener = TcpListener::bind(listen).await.map_err(refused)?;
        let address = listener.local_addr().map_err(refused)?;
        tracing::info!(
            %address,
            trust_domain = %authority.server_id().trust_domain,
            server_id = %authority.server_id(),
            root = authority.signer().subject,
            root_ends = %humantime::format_rfc3339_seconds(authority.not_after()),
            bundle = authority.bundle().hash(),
            "CA ready"
        );
        let metrics = Arc::new(Metrics::new(&registry, &authority));
        let follow = Box::pin(std::future::pending());
        Ok(Self { listener, address, authority, credentials, metrics, follow })
    }

    /// Where it listens; tells the port where the configuration left it to the kernel.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Serves until the drain has closed, or has begun and every call is done.
    ///
    /// # Errors
    /// [`CaError`] where its own certificate cannot be made at the start.
    pub async fn serve(self, drain: Drain) -> Result<(), CaError> {
        let own = OwnCertificate::new(self.authority.clone())?;
        let service = IdentityService {
            credentials: self.credentials,
            authority: self.authority,
            metrics: self.metrics,
            watchers: Watchers::default(),
            drain: drain.clone(),
        };
        let service = IdentityServer::new(service).max_decoding_message_size(MAX_MESSAGE);
        let (accepted, incoming) = mpsc::channel(64);
        let mut begins = drain.clone();
        let server = Server::builder()
            .concurrency_limit_per_connection(MAX_STREAMS as usize)
            .max_concurrent_streams(MAX_STREAMS)
            .http2_max_header_list_size(MAX_HEADERS)
            .http2_keepalive_interval(Some(PING_EVERY))
            .http2_keepalive_timeout(Some(PING_TIMEOUT))
            .timeout(CALL_TIMEOUT)
            .add_service(service)
            .serve_with_incoming_shutdown(
                ReceiverStream::new(incoming),
                async move { begins.draining().await },
            );
        let mut closes = drain.clone();
        tokio::select! {
            served = server => served.map_err(|error| CaError::Serve(error.to_string())),
            () = closes.closed() => Ok(()),
            () = accept(self.listener, &own.config, accepted, drain) => Ok(()),
            () = self.follow => Ok(()),
            () = own.keep_fresh() => Ok(()),
        }
    }
}

/// Takes connections until the drain begins; then waits to be dropped with the server.
async fn accept(
    listener: TcpListener,
    tls: &ArcSwap<ServerConfig>,
    accepted: mpsc::Sender<Result<PeerStream, Infallible>>,
    mut drain: Drain,
) {
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut draining = Box::pin(async move { drain.draining().await });
    loop {
        // Room is taken before the connection, so that what does not fit waits in the kernel's backlog.
        let Ok(permit) = room.clone().acquire_owned().await else { break };
        let connection = tokio::select! {
            () = &mut draining => break,
            connection = listener.accept() => connection,
        };
        match connection {
            Ok((tcp, address)) => {
                let acceptor = TlsAcceptor::from(tls.load_full());
                let accepted = accepted.clone();
                tokio::spawn(async move {
                    match handshake(acceptor, tcp).await {
                        Ok(stream) => {
                            let address = weft_core::canonical(address);
                            // The server is gone: so is the connection.
                            let _ = accepted.send(Ok(PeerStream::new(stream, address, permit))).await;
                        }
                        Err(error) => tracing::debug!(peer = %address, %error, "TLS handshake failed"),
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    std::future::pending::<()>().await;
}

async fn handshake(
    acceptor: TlsAcceptor,
    tcp: TcpStream,
) -> Result<tokio_rustls::server::TlsStream<TcpStream>, std::io::Error> {
    tcp.set_nodelay(true)?;
    timeout(HANDSHAKE_TIMEOUT, acceptor.accept(tcp)).await?
}

/// The certificate the CA serves with: signed by its own root, replaced in time.
struct OwnCertificate {
    config: ArcSwap<ServerConfig>,
    authority: Authority,
    first_due: SystemTime,
}

impl OwnCertificate {
    fn new(authority: Authority) -> Result<Self, CaError> {
        let (config, first_due) = serving(&authority)?;
        Ok(Self { config: ArcSwap::from(config), authority, first_due })
    }

    /// Replaces it at half of its life and when the issuer changes, for ever.
    async fn keep_fresh(&self) {
        let mut due = self.first_due;
        let mut issuers = self.authority.watch_signer();
        loop {
            tokio::select! {
                () = until(due) => {}
                Ok(()) = issuers.changed() => {}
            }
            match serving(&self.authority) {
                Ok((config, next)) => {
                    self.config.store(config);
                    due = next;
                    tracing::debug!("own certificate renewed");
                }
                Err(error) => {
                    tracing::error!(%error, "own certificate not renewed");
                    due = SystemTime::now() + CLOCK_CHECK;
                }
            }
        }
    }
}

/// Waits for a time on the wall clock.
async fn until(due: SystemTime) {
    while let Ok(left) = due.duration_since(SystemTime::now())
        && !left.is_zero()
    {
        sleep(left.min(CLOCK_CHECK)).await;
    }
}

/// A fresh certificate in a TLS configuration, and when to replace it.
fn serving(authority: &Authority) -> Result<(Arc<ServerConfig>, SystemTime), CaError> {
    let key =
        KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(|error| CaError::Sign(error.to_string()))?;
    let now = SystemTime::now();
    let issued = authority.signer().issuer.issue(Subject::Ca(authority.server_id()), &key, now)?;
    let secret = PrivatePkcs8KeyDer::from(key.serialize_der());
    let mut config = ServerConfig::builder_with_provider(crypto_provider().clone())
        .with_protocol_versions(&[&TLS13])
        .map_err(IdentityError::from)?
        // The credential is the token: a workload that has no certificate yet must be able to ask for one.
        .with_no_client_auth()
        .with_single_cert(issued.chain, secret.into())
        .map_err(IdentityError::from)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    // A proxy makes a connection an hour at the most, with a configuration of its own: there is nothing to resume.
    config.send_tls13_tickets = 0;
    let left = issued.not_after.duration_since(now).unwrap_or_default();
    Ok((Arc::new(config), now + left / 2))
}
