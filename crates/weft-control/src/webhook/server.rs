//! TLS and connections around the review.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::{self, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use kube::Client;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tower::{Service, ServiceExt as _};
use tower_http::set_header::SetResponseHeader;
use weft_core::{Drain, DrainPhase};
use weft_telemetry::{Registry, ServerSpans};

use super::callers::{Callers, WebhookSettings};
use super::certificate::{Serving, ServingSigner};
use super::handler::Handler;
use super::limits::{self, LimitRanges};
use super::metrics::Metrics;
use super::namespaces::{self, Namespaces};
use super::pace::Pace;
use super::seats::{Ending, Limits, Seat, Seats};
use super::watched::Watched;
use super::{NAME, ca_bundle};
use crate::KubeError;
use crate::inject::Injector;

/// A head of the API server has a few hundred octets. What is read of a body at once is no more than this, either.
const BUFFER: usize = 64 << 10;
/// After a failed accept (EMFILE, ENFILE, ENOMEM): time for descriptors to come free instead of a busy loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// A connection that ends is read from for this long. A request that is on its way just then meets an orderly end, after
/// which Go's client asks again over a new connection; met by a reset, the review would fail.
const LINGER: Duration = Duration::from_secs(2);
/// As many do so beside those that have a seat.
const LINGERING: usize = 64;

/// What the webhook needs.
pub struct WebhookOptions {
    /// Where it listens.
    pub bind: SocketAddr,
    /// Who injects; its `own_namespace` is also the one of the Service `weft-injector`.
    pub injector: Injector,
    /// Who may ask.
    pub callers: WebhookSettings,
    /// Who signs its certificate.
    pub signer: Arc<dyn ServingSigner>,
    /// The cluster: namespaces and LimitRanges are watched and the trust bundle is written. Without, as in tests, neither is, and no
    /// namespace's labels are known.
    pub client: Option<Client>,
    /// Where it counts.
    pub registry: Registry,
    /// What makes the spans of reviews.
    pub spans: ServerSpans,
}

/// A webhook that has its address and its certificate, and is about to serve.
pub struct Webhook {
    listener: TcpListener,
    address: SocketAddr,
    serving: Serving,
    client: Option<Client>,
    follow: Option<(namespaces::Follow, limits::Follow)>,
    callers: Option<Callers>,
    seats: Arc<Seats>,
    handler: Arc<Handler>,
}

impl Webhook {
    /// Binds the address and makes the first certificate. The cluster is not asked yet.
    ///
    /// # Errors
    /// [`KubeError::Listen`] and [`KubeError::Serving`].
    pub async fn bind(options: WebhookOptions) -> Result<Self, KubeError> {
        let WebhookOptions { bind, injector, callers, signer, client, registry, spans } = options;
        let callers = callers
            .callers()
            .map_err(|(field, reason)| KubeError::Serving(format!("webhook.{field}: {reason}")))?;
        let name = format!("{NAME}.{}.svc", injector.own_namespace);
        let serving = Serving::new(signer, name, callers.as_ref().map(Callers::verifier))?;
        let refused = |error: std::io::Error| KubeError::Listen {
            address: bind,
            what: "injector",
            reason: error.to_string(),
        };
        let listener = TcpListener::bind(bind).await.map_err(refused)?;
        let address = listener.local_addr().map_err(refused)?;
        let (known, follow) = match client.clone() {
            Some(client) => {
                let (namespaces, of_namespaces) = namespaces::watched(client.clone());
                let (limits, of_limits) = limits::watched(client);
                let namespaces: Box<dyn Namespaces> = Box::new(namespaces);
                ((Some(namespaces), limits), Some((of_namespaces, of_limits)))
            }
            None => ((None, LimitRanges::default()), None),
        };
        let (native, image) = (injector.native, injector.settings.image.clone());
        let seats = Seats::new(Limits::default());
        let handler = Arc::new(Handler::new(injector, known, seats.clone(), Metrics::new(&registry), spans));
        tracing::info!(%address, native, image, "injector ready");
        Ok(Self { listener, address, serving, client, follow, callers, seats, handler })
    }

    /// Where it listens; tells the port where it was left to the kernel.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `drain` has closed, or has begun and every request is answered. From when `leaving` has begun,
    /// answers say that their connection will not be kept, so that the next review goes to another replica.
    pub async fn serve(self, leaving: Drain, drain: Drain) {
        let Self { listener, serving, client, follow, callers, seats, handler, .. } = self;
        let mut closes = drain.clone();
        let bundle = serving.bundle();
        let door =
            Door { callers, seats, handler, lingering: Arc::new(Semaphore::new(LINGERING)), leaving, drain };
        tokio::select! {
            () = door.accept(listener, &serving) => {}
            () = closes.closed() => {}
            () = serving.keep_fresh() => {}
            () = forever(client.map(|client| ca_bundle::keep(client, bundle))) => {}
            () = forever(follow.map(both)) => {}
        }
    }
}

/// Follows the cluster.
async fn both((namespaces, limits): (namespaces::Follow, limits::Follow)) {
    tokio::join!(namespaces.run(), limits.run());
}

/// Runs `work`, and never ends: serving goes on without it.
async fn forever(work: Option<impl Future<Output = ()>>) {
    if let Some(work) = work {
        work.await;
    }
    std::future::pending::<()>().await;
}

/// What connections share.
#[derive(Clone)]
struct Door {
    callers: Option<Callers>,
    seats: Arc<Seats>,
    handler: Arc<Handler>,
    lingering: Arc<Semaphore>,
    leaving: Drain,
    drain: Drain,
}

type Answer = Response<axum::body::Body>;
type Answering = Pin<Box<dyn Future<Output = Result<Answer, Infallible>> + Send>>;

impl Door {
    /// Takes connections until the drain begins, and returns when all are done.
    async fn accept(&self, listener: TcpListener, serving: &Serving) {
        let (pace, mut connections) = (Pace::default(), JoinSet::new());
        let mut begins = self.drain.clone();
        let mut draining = pin!(begins.draining());
        loop {
            let accepted = tokio::select! {
                () = &mut draining => break,
                Some(_) = connections.join_next() => continue,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((tcp, peer)) => {
                    if !pace.admits(peer.ip()) {
                        self.handler.metrics().too_fast();
                        continue;
                    }
                    let Some(seat) = self.seats.take(peer.ip()) else {
                        self.handler.metrics().full();
                        tracing::debug!(%peer, "connection refused: every seat is taken by one that is served");
                        continue;
                    };
                    let _ = tcp.set_nodelay(true);
                    let acceptor = TlsAcceptor::from(serving.config());
                    let door = self.clone();
                    connections
                        .spawn(async move { door.connection(acceptor, tcp, peer, Arc::new(seat)).await });
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        drop(listener);
        while connections.join_next().await.is_some() {}
    }

    async fn connection<S>(self, acceptor: TlsAcceptor, stream: S, client: SocketAddr, seat: Arc<Seat>)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let peer = seat.address();
        // Writes of the handshake are bounded by its time.
        let tls = tokio::select! {
            accepted = acceptor.accept(stream) => match accepted {
                Ok(tls) => tls,
                Err(error) => return tracing::debug!(%peer, %error, "TLS handshake failed"),
            },
            ending = seat.over() => return self.ended(&seat, ending),
        };
        seat.shaken();
        let chain = tls.get_ref().1.peer_certificates();
        let expected = self.callers.as_ref().is_none_or(|callers| callers.expect(chain));
        let watched = TokioIo::new(Watched::new(tls, seat.clone()));
        let answers = self.answers(client, seat.clone(), expected);
        // In a box, for hyper moves it.
        let service = service_fn(move |request| -> Answering { Box::pin(answers.clone().oneshot(request)) });
        let mut connection = http1::Builder::new()
            .timer(TokioTimer::new())
            // The seat has the times, which differ for a first request, between requests, and within one.
            .header_read_timeout(None::<Duration>)
            .max_buf_size(BUFFER)
            .serve_connection(watched, service);
        let mut over = pin!(seat.over());
        let mut drain = self.drain.clone();
        let mut ending = None;
        let served = tokio::select! {
            served = poll_fn(|cx| connection.poll_without_shutdown(cx)) => Some(served),
            () = drain.draining() => None,
            why = &mut over => { ending = Some(why); None }
        };
        let served = match (served, ending) {
            (Some(served), _) => served,
            (None, None) => {
                Pin::new(&mut connection).graceful_shutdown();
                tokio::select! {
                    served = poll_fn(|cx| connection.poll_without_shutdown(cx)) => served,
                    why = &mut over => return self.ended(&seat, why),
                }
            }
            (None, Some(why)) => {
                self.ended(&seat, why);
                match why {
                    Ending::Unused | Ending::Room { was_kept: true } => Ok(()),
                    Ending::Silent | Ending::Room { was_kept: false } => return,
                }
            }
        };
        match served {
            Ok(()) => self.linger(connection.into_parts().io.into_inner().into_inner(), ending).await,
            Err(error) => tracing::debug!(%peer, %error, "connection ended"),
        }
    }

    /// What answers the requests of one connection.
    fn answers(
        &self,
        client: SocketAddr,
        seat: Arc<Seat>,
        expected: bool,
    ) -> impl Service<Request<Incoming>, Response = Answer, Error = Infallible, Future: Send>
    + Clone
    + Send
    + 'static {
        let (handler, leaving) = (self.handler.clone(), self.leaving.clone());
        let answers = tower::service_fn(move |request| {
            let (handler, seat) = (handler.clone(), seat.clone());
            async move { Ok(handler.respond(request, client, &seat, expected).await) }
        });
        // Whether it is leaving is asked when there is an answer, not when its request came.
        let close = move |_: &Answer| {
            (leaving.phase() != DrainPhase::Running).then_some(HeaderValue::from_static("close"))
        };
        // Texts quote the request, and whoever has a browser may reach this port.
        let as_it_says = HeaderValue::from_static("nosniff");
        let answers = SetResponseHeader::overriding(answers, header::CONNECTION, close);
        SetResponseHeader::overriding(answers, header::X_CONTENT_TYPE_OPTIONS, as_it_says)
    }

    fn ended(&self, seat: &Seat, ending: Ending) {
        self.handler.metrics().ended(ending);
        tracing::debug!(peer = %seat.address(), ?ending, "connection ended by the injector");
    }

    /// Says that this is the end, and waits for the peer to see it.
    async fn linger<S>(&self, mut tls: TlsStream<S>, ending: Option<Ending>)
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        // Its seat is another's already.
        let _beside = match ending {
            Some(Ending::Room { .. }) => match self.lingering.try_acquire() {
                Ok(permit) => Some(permit),
                Err(_) => return,
            },
            _ => None,
        };
        let seen = timeout(LINGER, async {
            if tls.shutdown().await.is_ok() {
                // Whatever comes now is not looked at.
                let (mut stream, _) = tls.into_inner();
                let mut rest = [0; 1024];
                while stream.read(&mut rest).await.is_ok_and(|read| read > 0) {}
            }
        });
        let _ = seen.await;
    }
}

#[cfg(test)]
#[path = "hostile_tests.rs"]
mod hostile;
#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;
