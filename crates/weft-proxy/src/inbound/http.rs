//! Requests from others to the own application.

use std::rc::Rc;
use std::sync::Arc;
use std::time::SystemTime;

use http::{HeaderMap, HeaderValue, Method, Request, Response, Version};
use tokio::io::{AsyncRead, AsyncWrite};
use weft_http::headers::{X_FORWARDED_CLIENT_CERT, add_forwarded_for};
use weft_http::wire::{self, Original};
use weft_http::{
    Abort, Answer, Body, ErrorCode, Handler, Interim, Sending, Sent, judge, serve_http1, serve_http2,
};

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
    let (worker, client, drain) = (Rc::clone(&link.worker), link.client, link.drain.clone());
    // One that is open when everything closes ends with the worker's runtime.
    if let Err(error) = serve_http2(io, Inbound::new(link, true), &worker.http2_link, drain).await {
        tracing::debug!(%error, %client, "mesh link failed");
    }
}

/// Serves requests as an application sent them: in plaintext, or in a mesh link of bytes.
pub(super) async fn serve_client<S>(link: Link, io: S, http2: bool)
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let (worker, client) = (Rc::clone(&link.worker), link.client);
    let (mut drain, draining) = (link.drain.clone(), link.drain.clone());
    link.listed.update(|info| info.protocol = if http2 { "http/2" } else { "http/1" });
    let handler = Inbound::new(link, false);
    let serving = async {
        if http2 {
            serve_http2(io, handler, &worker.http2, draining).await.map_err(|error| error.to_string())
        } else {
            serve_http1(io, handler, &worker.http1, draining)
                .await
                .map(drop)
                .map_err(|error| error.to_string())
        }
    };
    tokio::select! {
        result = serving => if let Err(error) = result {
            tracing::debug!(%error, %client, "inbound connection failed");
        },
        () = drain.closed() => {}
    }
}

/// The handler of one inbound connection.
struct Inbound {
    worker: Rc<Worker>,
    /// Keeps the connection listed and counted, and knows the peer.
    link: Link,
    /// The requests come with the marks of a proxy of the mesh.
    marked: bool,
    app: Rc<App>,
    facts: Rc<ConnectionFacts>,
    series: SeriesByVersion,
    /// What the application is told of the caller; `None` on plaintext.
    client_cert: Option<HeaderValue>,
    /// The caller's address. The calling side adds none: one call is one step.
    client_addr: HeaderValue,
}

impl Inbound {
    fn new(link: Link, marked: bool) -> Rc<Self> {
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
        Rc::new(Self { worker, link, marked, app, facts, series, client_cert, client_addr })
    }

    /// Restores what the calling application sent. A plaintext client is an application itself.
    fn restore(&self, request: &mut Request<Body>) -> Result<Original, ErrorCode> {
        if self.is_link() {
            return wire::from_link(request);
        }
        let version = request.version();
        let upgrade = wire::clean_request(request)?;
        Ok(Original { version, upgrade })
    }

    /// CONNECT reaches applications that are proxies. Others answer what they like and read the bytes that follow as
    /// requests, which nobody here would have looked at.
    fn allow(&self, request: &Request<Body>) -> Result<(), ErrorCode> {
        if !judge::asks_for_tunnel(request) {
            return Ok(());
        }
        let configured = self.worker.shared.snapshot.load();
        let allowed = configured.inbound.connect_ports.contains(self.link.app.port());
        if allowed { Ok(()) } else { Err(ErrorCode::MethodNotAllowed) }
    }

    /// Tells the application who calls, as it was verified here. What others said of it is gone already.
    fn identify(&self, headers: &mut HeaderMap) {
        add_forwarded_for(headers, &self.client_addr);
        if let Some(client_cert) = &self.client_cert {
            headers.insert(X_FORWARDED_CLIENT_CERT, client_cert.clone());
        }
    }

    async fn upgrade(
        &self,
        request: Request<Body>,
        original: Original,
        record: Box<RequestRecord>,
        interim: &Interim<'_>,
    ) -> Answer<Observed> {
        match self.app.upgrade(request, original, interim).await {
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

/// How far a request has come before anything had to be waited for.
enum Begun {
    /// Answered by the mesh.
    Refused(Box<Response<Observed>>),
    /// On its way over an idle connection to the application: the usual case.
    Sent(Sending, Box<RequestRecord>),
    /// On its way over an open HTTP/2 connection to the application.
    Opened(Sent, Box<RequestRecord>),
    /// There is something to wait for.
    Waits(Box<(Request<Body>, Box<RequestRecord>)>),
    /// An upgrade or CONNECT.
    TakesOver(Box<(Request<Body>, Original, Box<RequestRecord>)>),
}

impl Inbound {
    /// Does what needs no waiting: see the same function of the outbound side.
    fn begin(&self, mut request: Request<Body>) -> Begun {
        let original = self.restore(&mut request);
        let version = original.as_ref().map_or(Version::HTTP_11, |original| original.version);
        let series = self.series.get(&self.worker.telemetry.shard, version);
        let mut record = RequestRecord::begin(&self.worker, &self.facts, series, &request, version);
        record.to(self.app.addr.get());
        let original = original.and_then(|original| self.allow(&request).map(|()| original));
        let original = match original {
            Ok(original) => original,
            Err(code) => return Begun::Refused(Box::new(record.refused(code))),
        };
        let headers = request.headers_mut();
        self.identify(headers);
        record.trace.inject(headers);
        complete(record.trace.context, headers);
        if original.upgrade.is_some() || request.method() == Method::CONNECT {
            return Begun::TakesOver(Box::new((request, original, record)));
        }
        record.count_request(request.body_mut());
        if version == Version::HTTP_2 {
            return match self.app.open_now(request) {
                Ok(Ok(sent)) => Begun::Opened(sent, record),
                Ok(Err(failure)) => Begun::Refused(Box::new(record.refused(failure.code))),
                Err(request) => Begun::Waits(Box::new((*request, record))),
            };
        }
        match self.app.send_now(request) {
            Ok(sent) => Begun::Sent(sent, record),
            Err(request) => Begun::Waits(Box::new((*request, record))),
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
        let exchanged = self.app.send(request, interim).await;
        self.answered(exchanged, record)
    }
}

impl Handler for Inbound {
    type Body = Observed;

    fn is_link(&self) -> bool {
        self.marked
    }

    fn refused(&self, code: ErrorCode) {
        self.worker.telemetry.inbound.error(code);
    }

    /// No link goes on for longer than the certificate that it was opened with; Weft's own clients open another before.
    fn is_valid(&self) -> bool {
        self.link.peer.as_ref().is_none_or(|peer| SystemTime::now() < peer.not_after)
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
                Begun::Sent(sending, record) => {
                    let exchanged = self.app.finish(sending, &interim).await;
                    self.answered(exchanged, record)
                }
                Begun::Opened(sent, record) => {
                    let exchanged = sent.head(&interim).await.map_err(Failure::from);
                    self.answered(exchanged.map(strip), record)
                }
                Begun::Waits(waits) => {
                    let (request, record) = *waits;
                    Box::pin(self.wait(request, record, &interim)).await
                }
                Begun::TakesOver(taken) => {
                    let (request, original, record) = *taken;
                    Ok(Box::pin(self.upgrade(request, original, record, &interim)).await)
                }
            }
        }
    }
}
