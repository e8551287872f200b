//! Requests from others to the own application.

use std::rc::Rc;
use std::sync::Arc;

use http::{HeaderMap, HeaderValue, Method, Request, Response, Version, request};
use tokio::io::{AsyncRead, AsyncWrite};
use weft_http::headers::{X_FORWARDED_CLIENT_CERT, add_forwarded_for};
use weft_http::wire::{self, Original};
use weft_http::{Abort, Answer, Body, Handler, Interim, Sent, serve_http1, serve_http2};

use weft_telemetry::metrics::TlsLabel;

use super::Link;
use crate::app::{App, Failure, Upgraded};
use crate::outbound::tunnel;
use crate::record::{ConnectionFacts, Observed, RequestRecord, complete, head_only};
use crate::telemetry::{Labels, SeriesByVersion, workload_of};
use crate::worker::Worker;

/// Serves the requests of a mesh link.
pub(super) async fn serve_link<S>(link: Link, io: S)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (worker, client) = (Rc::clone(&link.worker), link.client);
    let (mut drain, draining) = (link.drain.clone(), link.drain.clone());
    let handler = Inbound::new(link);
    tokio::select! {
        result = serve_http2(io, handler, &worker.http2, draining) => if let Err(error) = result {
            tracing::debug!(%error, %client, "mesh link failed");
        },
        () = drain.closed() => {}
    }
}

/// Serves the requests of a plaintext connection.
pub(super) async fn serve_plaintext<S>(link: Link, io: S, http2: bool)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (worker, client) = (Rc::clone(&link.worker), link.client);
    let (mut drain, draining) = (link.drain.clone(), link.drain.clone());
    let handler = Inbound::new(link);
    let serving = async {
        if http2 {
            serve_http2(io, handler, &worker.http2, draining).await.map_err(|error| error.to_string())
        } else {
            serve_http1(io, handler, &worker.http1, draining).await.map_err(|error| error.to_string())
        }
    };
    tokio::select! {
        result = serving => if let Err(error) = result {
            tracing::debug!(%error, %client, "inbound plaintext connection failed");
        },
        () = drain.closed() => {}
    }
}

/// The handler of one inbound connection.
struct Inbound {
    worker: Rc<Worker>,
    /// Keeps the connection listed and counted.
    _link: Link,
    app: Rc<App>,
    facts: Rc<ConnectionFacts>,
    series: SeriesByVersion,
    /// What the application is told of the caller; `None` on plaintext.
    client_cert: Option<HeaderValue>,
    /// The caller's address. The calling side adds none: one call is one step.
    client_addr: HeaderValue,
}

impl Inbound {
    fn new(link: Link) -> Rc<Self> {
        let facts = Rc::new(link.facts());
        let own = link.worker.shared.identity.current();
        let client_cert = link.peer.as_ref().and_then(|peer| {
            let by = own.as_ref().map(|own| format!("By={};", own.own)).unwrap_or_default();
            HeaderValue::from_str(&format!("{by}URI={}", peer.id)).ok()
        });
        let client_addr = link.client.ip().to_string();
        let client_addr = HeaderValue::from_str(&client_addr).unwrap_or(HeaderValue::from_static("unknown"));
        let series = SeriesByVersion::new(Labels {
            direction: facts.direction,
            source_workload: link.peer.as_ref().map_or_else(|| Arc::from(""), |peer| workload_of(&peer.id)),
            destination_service: Arc::clone(&facts.service),
            destination_workload: link.worker.telemetry.own_workload(),
            peer_identity: facts.source_identity.clone().unwrap_or_else(|| Arc::from("")),
            tls: facts.tls,
        });
        let (worker, app) = (Rc::clone(&link.worker), link.worker.app(link.app));
        Rc::new(Self { worker, _link: link, app, facts, series, client_cert, client_addr })
    }

    /// Restores what the calling application sent. A plaintext client is an application itself.
    fn restore(&self, parts: &mut request::Parts) -> Result<Original, weft_http::ErrorCode> {
        if self.is_link() {
            return Ok(wire::from_link(parts));
        }
        let version = parts.version;
        let upgrade = wire::clean_request(parts)?;
        Ok(Original { version, upgrade })
    }

    /// Only what was verified here may tell the application who calls.
    fn identify(&self, headers: &mut HeaderMap) {
        add_forwarded_for(headers, &self.client_addr);
        match &self.client_cert {
            Some(client_cert) => {
                headers.insert(X_FORWARDED_CLIENT_CERT, client_cert.clone());
            }
            None => {
                headers.remove(X_FORWARDED_CLIENT_CERT);
            }
        }
    }

    async fn upgrade(
        &self,
        parts: request::Parts,
        original: Original,
        record: Box<RequestRecord>,
    ) -> Answer<Observed> {
        match self.app.upgrade(parts, original).await {
            Err(code) => record.refused(code).into(),
            Ok(Upgraded::Answer(mut response)) => {
                self.restore_answer(&mut response);
                record.answered(response).into()
            }
            Ok(Upgraded::Accepted(mut response, far)) => {
                self.restore_answer(&mut response);
                let task = tunnel(far, self.worker.shared.config.timeouts.tcp_idle);
                Answer { response: head_only(record, response), upgrade: Some(task) }
            }
        }
    }

    /// A plaintext client gets the answer as the application gave it; a link gets it marked.
    fn restore_answer(&self, response: &mut Response<Body>) {
        if !self.is_link() {
            wire::response_from_link(response);
        }
    }
}

fn strip(mut response: Response<Body>) -> Response<Body> {
    wire::strip_internal(response.headers_mut());
    response
}

/// How far a request has come before anything had to be waited for; `F` brings the application's answer.
enum Begun<F> {
    /// Answered by the mesh.
    Refused(Box<Response<Observed>>),
    /// On its way over an idle connection to the application: the usual case.
    Sent(F, Box<RequestRecord>),
    /// On its way over an open HTTP/2 connection to the application.
    Opened(Sent, Box<RequestRecord>),
    /// There is something to wait for.
    Waits(Box<(Request<Body>, Box<RequestRecord>)>),
    /// An upgrade or CONNECT.
    TakesOver(Box<(request::Parts, Original, Box<RequestRecord>)>),
}

impl Inbound {
    /// Does what needs no waiting: see the same function of the outbound side.
    fn begin(
        &self,
        request: Request<Body>,
    ) -> Begun<impl Future<Output = Result<Response<Body>, Failure>> + use<>> {
        let (mut parts, body) = request.into_parts();
        let original = self.restore(&mut parts);
        let version = original.as_ref().map_or(Version::HTTP_11, |original| original.version);
        let series = self.series.get(&self.worker.telemetry.shard, version);
        let mut record = RequestRecord::begin(&self.worker, &self.facts, series, &parts, version);
        record.to(self.app.addr.get());
        let original = match original {
            Ok(original) => original,
            Err(code) => return Begun::Refused(Box::new(record.refused(code))),
        };
        self.identify(&mut parts.headers);
        record.trace.inject(&mut parts.headers);
        complete(record.trace.context, &mut parts.headers);
        if original.upgrade.is_some() || parts.method == Method::CONNECT {
            return Begun::TakesOver(Box::new((parts, original, record)));
        }
        let body = record.count_request(body);
        let request = match self.app.open_now(Request::from_parts(parts, body)) {
            Ok(Ok(sent)) => return Begun::Opened(sent, record),
            Ok(Err(failure)) => return Begun::Refused(Box::new(record.refused(failure.code))),
            Err(request) => request,
        };
        match self.app.send_now(request) {
            Ok(sent) => Begun::Sent(sent, record),
            Err(request) => Begun::Waits(Box::new((request, record))),
        }
    }

    fn answered(
        &self,
        exchanged: Result<Response<Body>, Failure>,
        record: Box<RequestRecord>,
    ) -> Result<Answer<Observed>, Abort> {
        match exchanged {
            Ok(mut response) => {
                self.restore_answer(&mut response);
                Ok(record.answered(response).into())
            }
            Err(failure) => record.failed_with(&failure),
        }
    }

    async fn wait(
        &self,
        request: Request<Body>,
        record: Box<RequestRecord>,
        interim: &Interim<'_>,
    ) -> Result<Answer<Observed>, Abort> {
        let (parts, body) = request.into_parts();
        let exchanged = self.app.send(parts, body, interim).await;
        self.answered(exchanged, record)
    }
}

impl Handler for Inbound {
    type Body = Observed;

    fn is_link(&self) -> bool {
        self.facts.tls == TlsLabel::Mutual
    }

    fn call(
        &self,
        request: Request<Body>,
        interim: Interim<'_>,
    ) -> impl Future<Output = Result<Answer<Observed>, Abort>> {
        let begun = self.begin(request);
        async move {
            match begun {
                Begun::Refused(response) => Ok((*response).into()),
                Begun::Sent(sent, record) => self.answered(sent.await, record),
                Begun::Opened(sent, record) => {
                    let exchanged = sent.head(&interim).await.map_err(Failure::from);
                    self.answered(exchanged.map(strip), record)
                }
                Begun::Waits(waits) => {
                    let (request, record) = *waits;
                    Box::pin(self.wait(request, record, &interim)).await
                }
                Begun::TakesOver(taken) => {
                    let (parts, original, record) = *taken;
                    Ok(Box::pin(self.upgrade(parts, original, record)).await)
                }
            }
        }
    }
}
