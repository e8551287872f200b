//! HTTPS around the review.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::http::{Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use kube::Client;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsAcceptor;
use weft_core::Drain;
use weft_telemetry::Registry;

use super::certificate::{Serving, ServingSigner};
use super::metrics::Metrics;
use super::namespaces::{self, Namespaces};
use super::review::{Question, Verdict};
use super::{NAME, PATH, ca_bundle};
use crate::KubeError;
use crate::inject::{Injector, Skip};

/// The API server takes objects of 3 MiB, and a review has the object and what is around it.
const MAX_BODY: usize = 8 << 20;
/// Connections at once. An API server keeps a few; without a bound, who opens many would take the memory.
const MAX_CONNECTIONS: usize = 1024;
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Between requests as well: the API server makes a new connection when it needs one.
const HEADER_TIMEOUT: Duration = Duration::from_secs(120);
/// The API server waits five seconds for the whole.
const BODY_TIMEOUT: Duration = Duration::from_secs(5);
/// After a failed accept (EMFILE, ENFILE, ENOMEM): time for descriptors to come free instead of a busy loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What the webhook needs.
pub struct WebhookOptions {
    /// Where it listens.
    pub bind: SocketAddr,
    /// Who injects; its `own_namespace` is also the one of the Service `weft-injector`.
    pub injector: Injector,
    /// Who signs its certificate.
    pub signer: Arc<dyn ServingSigner>,
    /// The cluster: namespaces are watched and the trust bundle is written. Without, as in tests, neither is, and no
    /// namespace's labels are known.
    pub client: Option<Client>,
    /// Where it counts.
    pub registry: Registry,
}

/// A webhook that has its address and its certificate, and is about to serve.
pub struct Webhook {
    listener: TcpListener,
    address: SocketAddr,
    serving: Serving,
    client: Option<Client>,
    follow: Option<namespaces::Follow>,
    handler: Arc<Handler>,
}

/// Runs the webhook until the drain has closed, or has begun and every request is answered.
///
/// # Errors
/// [`KubeError::Listen`] and [`KubeError::Serving`] at the start; later failures are logged.
pub async fn run(options: WebhookOptions, drain: Drain) -> Result<(), KubeError> {
    let webhook = Webhook::bind(options).await?;
    Box::pin(webhook.serve(drain)).await;
    Ok(())
}

impl Webhook {
    /// Binds the address and makes the first certificate. The cluster is not asked yet.
    ///
    /// # Errors
    /// [`KubeError::Listen`] and [`KubeError::Serving`].
    pub async fn bind(options: WebhookOptions) -> Result<Self, KubeError> {
        let WebhookOptions { bind, injector, signer, client, registry } = options;
        let name = format!("{NAME}.{}.svc", injector.own_namespace);
        let serving = Serving::new(signer, name)?;
        let refused = |error: std::io::Error| KubeError::Listen {
            address: bind,
            what: "injector",
            reason: error.to_string(),
        };
        let listener = TcpListener::bind(bind).await.map_err(refused)?;
        let address = listener.local_addr().map_err(refused)?;
        let (namespaces, follow) = match client.clone().map(namespaces::watched) {
            Some((watched, follow)) => (Some(Box::new(watched) as Box<dyn Namespaces>), Some(follow)),
            None => (None, None),
        };
        let handler = Arc::new(Handler { injector, namespaces, metrics: Metrics::new(&registry) });
        tracing::info!(%address, native = handler.injector.native, image = handler.injector.settings.image, "injector ready");
        Ok(Self { listener, address, serving, client, follow, handler })
    }

    /// Where it listens; tells the port where it was left to the kernel.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Serves until the drain has closed, or has begun and every request is answered.
    pub async fn serve(self, drain: Drain) {
        let Self { listener, serving, client, follow, handler, .. } = self;
        let mut closes = drain.clone();
        let bundle = serving.bundle();
        tokio::select! {
            () = accept(listener, &serving, &handler, drain) => {}
            () = closes.closed() => {}
            () = serving.keep_fresh() => {}
            () = forever(client.map(|client| ca_bundle::keep(client, bundle))) => {}
            () = forever(follow.map(namespaces::Follow::run)) => {}
        }
    }
}

/// Runs `work`, and never ends: serving goes on without it.
async fn forever(work: Option<impl Future<Output = ()>>) {
    if let Some(work) = work {
        work.await;
    }
    std::future::pending::<()>().await;
}

/// Takes connections until the drain begins, and returns when all are done.
async fn accept(listener: TcpListener, serving: &Serving, handler: &Arc<Handler>, drain: Drain) {
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    let mut begins = drain.clone();
    let mut draining = Box::pin(begins.draining());
    loop {
        // Room is taken before the connection, so that what does not fit waits in the kernel's backlog.
        let taken = async {
            let permit = room.clone().acquire_owned().await.ok();
            (listener.accept().await, permit)
        };
        let (connection, permit) = tokio::select! {
            () = &mut draining => break,
            Some(_) = connections.join_next() => continue,
            taken = taken => taken,
        };
        match connection {
            Ok((tcp, peer)) => {
                let acceptor = TlsAcceptor::from(serving.config());
                connections.spawn(connection_of(acceptor, tcp, peer, handler.clone(), drain.clone(), permit));
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

async fn connection_of(
    acceptor: TlsAcceptor,
    tcp: TcpStream,
    peer: SocketAddr,
    handler: Arc<Handler>,
    mut drain: Drain,
    _permit: Option<OwnedSemaphorePermit>,
) {
    let _ = tcp.set_nodelay(true);
    let tls = match timeout(HANDSHAKE_TIMEOUT, acceptor.accept(tcp)).await {
        Ok(Ok(tls)) => tls,
        Ok(Err(error)) => return tracing::debug!(%peer, %error, "TLS handshake failed"),
        Err(_) => return tracing::debug!(%peer, "no TLS handshake within {HANDSHAKE_TIMEOUT:?}"),
    };
    let service = service_fn(move |request| {
        let handler = handler.clone();
        async move { Ok::<_, Infallible>(handler.respond(request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .serve_connection(TokioIo::new(tls), service);
    let mut connection = std::pin::pin!(connection);
    let served = tokio::select! {
        served = connection.as_mut() => served,
        () = drain.draining() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = served {
        tracing::debug!(%peer, %error, "connection ended");
    }
}

/// What answers.
struct Handler {
    injector: Injector,
    namespaces: Option<Box<dyn Namespaces>>,
    metrics: Metrics,
}

impl Handler {
    async fn respond(&self, request: Request<Incoming>) -> Response<Body> {
        if request.uri().path() != PATH {
            return plain(StatusCode::NOT_FOUND, format!("there is {PATH} only\n"));
        }
        if request.method() != Method::POST {
            return plain(StatusCode::METHOD_NOT_ALLOWED, "an AdmissionReview is posted\n".to_owned());
        }
        let began = Instant::now();
        let (verdict, response) = self.review(request.into_body()).await;
        self.metrics.record(verdict, began.elapsed());
        response
    }

    async fn review(&self, body: Incoming) -> (Verdict, Response<Body>) {
        let invalid = |status, reason: String| {
            tracing::warn!(reason, "a review that cannot be answered");
            (Verdict::Invalid, plain(status, format!("{reason}\n")))
        };
        let body = match timeout(BODY_TIMEOUT, to_bytes(Body::new(body), MAX_BODY)).await {
            Ok(Ok(body)) => body,
            Ok(Err(error)) => {
                let status = if is_too_large(&error) {
                    StatusCode::PAYLOAD_TOO_LARGE
                } else {
                    StatusCode::BAD_REQUEST
                };
                return invalid(status, format!("the body cannot be read: {error}"));
            }
            Err(_) => {
                return invalid(
                    StatusCode::REQUEST_TIMEOUT,
                    format!("no whole body within {BODY_TIMEOUT:?}"),
                );
            }
        };
        let question = match Question::read(&body) {
            Ok(question) => question,
            Err(reason) => return invalid(StatusCode::BAD_REQUEST, reason),
        };
        let mut answer = question.answer(self.labels(&question, false).await, &self.injector);
        // The API server asked, so its labels say something else than what is remembered here.
        if matches!(answer.skip, Some(Skip::NotAsked | Skip::Disabled)) {
            answer = question.answer(self.labels(&question, true).await, &self.injector);
        }
        let json = (header::CONTENT_TYPE, "application/json");
        let response = Response::builder().header(json.0, json.1).body(Body::from(answer.body));
        (answer.verdict, response.unwrap_or_default())
    }

    async fn labels(
        &self,
        question: &Question,
        fresh: bool,
    ) -> Option<std::collections::BTreeMap<String, String>> {
        match (&self.namespaces, &question.namespace) {
            (Some(namespaces), Some(name)) => namespaces.labels(name, fresh).await,
            _ => None,
        }
    }
}

fn is_too_large(error: &axum::Error) -> bool {
    std::error::Error::source(error).is_some_and(|source| source.to_string().contains("length limit"))
}

fn plain(status: StatusCode, text: String) -> Response<Body> {
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    response
}

#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;
