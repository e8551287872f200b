//! TLS, limits and drain around the service.

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
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use weft_core::Drain;
use weft_identity::proto::identity_server::IdentityServer;
use weft_identity::{IdentityError, crypto_provider};
use weft_telemetry::{Registry, ServerSpans};

use crate::auth::JoinTokens;
use crate::callers::{Callers, Seat};
use crate::calls::Calls;
use crate::config::CaConfig;
use crate::csr::MAX_CSR;
use crate::issue::Subject;
use crate::limits::{Limit, Limits};
use crate::metrics::Metrics;
use crate::service::IdentityService;
use crate::watchers::Watchers;
use crate::{Authority, CaError, Credentials, conn, expiry, root};

/// A message that carries the largest CSR; bundle reports are smaller.
const MAX_MESSAGE: usize = MAX_CSR + 1024;
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
    /// What makes the spans of calls.
    pub spans: ServerSpans,
}

/// A CA that has its root, its credentials and its address, and is about to serve.
pub struct Ca {
    listener: TcpListener,
    address: SocketAddr,
    authority: Authority,
    credentials: Arc<dyn Credentials>,
    metrics: Arc<Metrics>,
    spans: ServerSpans,
    limits: Limits,
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
            spans: ServerSpans::default(),
        };
        let follow = async move {
            tokio::join!(tokens.keep_fresh(), authority.follow_bundle(&names.bundle));
        };
        Ok(Self { follow: Box::pin(follow), limits: config.limits.clone(), ..Self::with(parts).await? })
    }

    /// Binds the address for a CA of these parts.
    ///
    /// # Errors
    /// [`CaError::Listen`].
    pub async fn with(parts: CaParts) -> Result<Self, CaError> {
        let CaParts { listen, authority, credentials, registry, spans } = parts;
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
        let limits = Limits::default();
        Ok(Self { listener, address, authority, credentials, metrics, spans, limits, follow })
    }

    /// The same CA with other limits than the default ones.
    #[must_use]
    pub fn limited(self, limits: Limits) -> Self {
        Self { limits, ..self }
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
            authority: self.authority.clone(),
            metrics: self.metrics.clone(),
            watchers: Watchers::default(),
            drain: drain.clone(),
        };
        let front = Front {
            listener: self.listener,
            callers: Callers::new(self.limits, self.metrics),
            calls: Calls {
                service: IdentityServer::new(service).max_decoding_message_size(MAX_MESSAGE),
                spans: self.spans,
            },
            drain: drain.clone(),
        };
        let mut closes = drain;
        tokio::select! {
            () = front.serve(&own.config) => {}
            () = closes.closed() => {}
            () = self.follow => {}
            () = own.keep_fresh() => {}
            () = expiry::remind(&self.authority) => {}
        }
        Ok(())
    }
}

/// What takes connections, and ends with the last of them.
struct Front {
    listener: TcpListener,
    callers: Callers,
    calls: Calls,
    drain: Drain,
}

impl Front {
    /// Takes connections until the drain begins; returns when all have ended.
    async fn serve(self, tls: &ArcSwap<ServerConfig>) {
        let Self { listener, callers, calls, drain } = self;
        let mut connections = JoinSet::new();
        let mut draining = drain.clone();
        loop {
            let accepted = tokio::select! {
                () = draining.draining() => break,
                Some(_) = connections.join_next() => continue,
                accepted = next(&listener, &callers) => accepted,
            };
            match accepted {
                Ok((tcp, peer)) => match callers.enter(weft_core::canonical(peer)) {
                    Ok(seat) => {
                        let tls = TlsAcceptor::from(tls.load_full());
                        connections.spawn(connection(tcp, tls, seat, calls.clone(), drain.clone()));
                    }
                    Err(limit) => {
                        callers.shared().metrics.limited(limit);
                        tracing::debug!(%peer, %limit, "connection closed unheard");
                    }
                },
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        drop(listener);
        while connections.join_next().await.is_some() {}
    }
}

/// The next connection. Room is waited for first, so that what does not fit waits in the kernel's backlog.
async fn next(listener: &TcpListener, callers: &Callers) -> std::io::Result<(TcpStream, SocketAddr)> {
    callers.room().await;
    listener.accept().await
}

/// One connection, from its first octet on.
async fn connection(tcp: TcpStream, tls: TlsAcceptor, seat: Seat, calls: Calls, drain: Drain) {
    let stream = tokio::select! {
        stream = handshake(tls, tcp, seat.callers().shared().limits.handshake) => stream,
        _ = seat.over() => return,
    };
    match stream {
        Ok(stream) => conn::serve(stream, seat, calls, drain).await,
        Err(error) => {
            if error.kind() == std::io::ErrorKind::TimedOut {
                seat.end(Limit::Handshake);
            }
            tracing::debug!(peer = %seat.peer(), %error, "TLS handshake failed");
        }
    }
}

async fn handshake(
    tls: TlsAcceptor,
    tcp: TcpStream,
    limit: Duration,
) -> std::io::Result<Box<tokio_rustls::server::TlsStream<TcpStream>>> {
    tcp.set_nodelay(true)?;
    // Boxed, both: the handshake is not to leave its room to the connection, and a future keeps room for each place that a
    // value was moved through.
    Ok(Box::new(timeout(limit, Box::pin(tls.accept(tcp))).await??))
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
