//! Requests of the own application over mesh links.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use bytes::BytesMut;
use http::{HeaderValue, Method, Request, Response, StatusCode, Version, request};
use weft_balance::{Outcome, Timestamp};
use weft_core::MtlsMode;
use weft_http::headers::X_FORWARDED_PROTO;
use weft_http::wire::{self, Original};
use weft_http::{
    Abort, Answer, Body, ErrorCode, ExchangeError, Handler, Interim, Opened, UpgradeIo, UpgradeTask,
    serve_http1, serve_http2,
};
use weft_net::{RelayCounters, RelayOptions, relay};
use weft_telemetry::metrics::{Direction, TlsLabel};

use super::{Call, rewind};
use crate::app::{self, App, Failure, Upgraded};
use crate::dial::DialError;
use crate::record::{ConnectionFacts, Observed, RequestRecord, ensure_request_id, head_only, is_replayable};
use crate::upstream::{Link, Picked, Upstream};
use crate::worker::Worker;

/// Serves an application's HTTP/1 connection.
pub(super) async fn serve1(call: Call, upstream: Rc<Upstream>, first: BytesMut) {
    let Call { worker, accepted, listed, _open, .. } = call;
    listed.update(|info| info.protocol = "http/1");
    let handler = Outbound::new(&worker, upstream, accepted.client.get());
    let io = rewind(accepted.stream, first);
    let mut drain = worker.shared.drain.clone();
    // Outbound stays open while draining: the application that shuts down may still have calls to make.
    let closing = weft_core::Drain::never();
    tokio::select! {
        result = serve_http1(io, handler, &worker.http1, closing) => if let Err(error) = result {
            tracing::debug!(%error, client = %accepted.client, "outbound HTTP/1 connection failed");
        },
        () = drain.closed() => {}
    }
}

/// Serves an application's HTTP/2 connection.
pub(super) async fn serve2(call: Call, upstream: Rc<Upstream>, first: BytesMut) {
    let Call { worker, accepted, listed, _open, .. } = call;
    listed.update(|info| info.protocol = "http/2");
    let handler = Outbound::new(&worker, upstream, accepted.client.get());
    let io = rewind(accepted.stream, first);
    let mut drain = worker.shared.drain.clone();
    let closing = weft_core::Drain::never();
    tokio::select! {
        result = serve_http2(io, handler, &worker.http2, closing) => if let Err(error) = result {
            tracing::debug!(%error, client = %accepted.client, "outbound HTTP/2 connection failed");
        },
        () = drain.closed() => {}
    }
}

/// The handler of one application connection.
struct Outbound {
    worker: Rc<Worker>,
    upstream: Rc<Upstream>,
    facts: Rc<ConnectionFacts>,
}

/// Where a request goes: over a mesh link, or in plaintext where the mode allows it.
enum Way {
    Link(Rc<Link>),
    Plain(Rc<App>),
}

impl Outbound {
    fn new(worker: &Rc<Worker>, upstream: Rc<Upstream>, client: std::net::SocketAddr) -> Rc<Self> {
        let facts = Rc::new(ConnectionFacts {
            direction: Direction::Outbound,
            client,
            server: upstream.server.clone(),
            service: Arc::clone(&upstream.label),
            source_identity: worker.shared.identity.current().map(|own| own.own.to_string().into()),
            destination_identity: None,
            tls: if upstream.mode == MtlsMode::Disable { TlsLabel::None } else { TlsLabel::Mutual },
        });
        Rc::new(Self { worker: Rc::clone(worker), upstream, facts })
    }

    /// Picks an endpoint and gets a way to it, trying others where one cannot be reached: nothing was sent yet.
    async fn way(&self, tried: &mut Vec<weft_core::EndpointAddr>) -> Result<(Picked, Way), DialError> {
        let mut last = None;
        for _ in 0..self.worker.shared.config.retries.connect_attempts.max(1) {
            let now = Timestamp::now();
            let Some(picked) = self.upstream.pick(&self.worker, now, tried).await else { break };
            match self.connect(&picked, now).await {
                Ok(way) => return Ok((picked, way)),
                Err(error) => {
                    self.upstream.failed(&picked.links.endpoint, &error);
                    tried.push(picked.links.endpoint.addr());
                    last = Some(error);
                }
            }
        }
        Err(last.unwrap_or_else(|| DialError {
            code: ErrorCode::NoEndpoints,
            detail: "no endpoint".into(),
            blames_endpoint: false,
        }))
    }

    async fn connect(&self, picked: &Picked, now: Timestamp) -> Result<Way, DialError> {
        let links = &picked.links;
        let mode = self.upstream.mode;
        if mode == MtlsMode::Disable || (mode == MtlsMode::Permissive && links.is_plaintext(now)) {
            return Ok(Way::Plain(links.plain(&self.worker)));
        }
        match links.link(&self.worker, &self.upstream).await {
            Ok(link) => Ok(Way::Link(link)),
            Err(error) if mode == MtlsMode::Permissive && error.code == ErrorCode::TlsFailed => {
                links.remember_plaintext(now);
                Ok(Way::Plain(links.plain(&self.worker)))
            }
            Err(error) => Err(error),
        }
    }

    /// Sends a request and brings its answer's head. It is sent a second time only where the first surely had no effect,
    /// or where it is idempotent and had no body.
    async fn exchange(
        &self,
        request: Request<()>,
        body: Body,
        interim: &Interim<'_>,
        record: &mut RequestRecord,
    ) -> Result<Response<Body>, Failure> {
        let mut tried = Vec::new();
        let replayable = is_replayable(&request, &body);
        let mut request = request;
        let mut body = Some(body);
        let mut attempts = self.worker.shared.config.retries.connect_attempts.max(1);
        loop {
            let (picked, way) = self.way(&mut tried).await.map_err(|error| error.code)?;
            let endpoint = picked.links.endpoint.addr();
            attempts -= 1;
            let copy = (replayable && attempts > 0).then(|| request.clone());
            let version = request.version();
            let result = match way {
                Way::Link(link) => {
                    let series = link.series.get(&self.worker.telemetry.shard, version);
                    record.served_by(
                        series,
                        Some(picked.in_flight),
                        endpoint.get(),
                        Some(Arc::clone(&link.peer)),
                    );
                    link.client.exchange(request, body.take().unwrap_or_default(), interim).await
                }
                Way::Plain(app) => {
                    let (parts, ()) = request.into_parts();
                    return self
                        .plain(&app, parts, body.take().unwrap_or_default(), interim, record, picked)
                        .await;
                }
            };
            let error = match result {
                Ok(response) => {
                    observe(record, response.status());
                    return Ok(response);
                }
                Err(error) => error,
            };
            if let Some(in_flight) = record.in_flight() {
                in_flight.observe(Timestamp::now(), Outcome::Failure);
            }
            let lost = matches!(error, ExchangeError::Connection(_)) || error.is_safe_to_retry();
            let (Some(copy), true) = (copy, lost) else { return Err(error.into()) };
            tracing::debug!(%endpoint, %error, "retrying a request");
            self.upstream.retries.inc(if error.is_safe_to_retry() {
                "unprocessed"
            } else {
                "connection_lost"
            });
            record.retried();
            tried.push(endpoint);
            request = copy;
            body = None;
        }
    }

    async fn plain(
        &self,
        app: &App,
        mut parts: request::Parts,
        body: Body,
        interim: &Interim<'_>,
        record: &mut RequestRecord,
        picked: Picked,
    ) -> Result<Response<Body>, Failure> {
        let series = self.upstream.unserved.get(&self.worker.telemetry.shard, parts.version);
        record.served_by(series, Some(picked.in_flight), app.addr.get(), None);
        wire::from_link(&mut parts);
        let response = app.send(parts, body, interim).await?;
        observe(record, response.status());
        Ok(response)
    }

    /// A request for an upgrade, or CONNECT.
    async fn upgrade(
        &self,
        request: Request<()>,
        mut record: Box<RequestRecord>,
        version: Version,
    ) -> Answer<Observed> {
        let (picked, way) = match self.way(&mut Vec::new()).await {
            Ok(found) => found,
            Err(error) => return record.refused(error.code).into(),
        };
        let connect = request.method() == Method::CONNECT;
        let endpoint = picked.links.endpoint.addr().get();
        let opened = match &way {
            Way::Link(link) => {
                let series = link.series.get(&self.worker.telemetry.shard, version);
                record.served_by(series, Some(picked.in_flight), endpoint, Some(Arc::clone(&link.peer)));
                let accepted = |response: &Response<h2::RecvStream>| {
                    response.headers().contains_key(wire::WEFT_UPGRADE)
                        || (connect && response.status().is_success())
                };
                link.client.open(request, accepted).await.map(|opened| match opened {
                    Opened::Stream(head, io) => {
                        Upgraded::Accepted(head.map(|()| Body::Empty), UpgradeIo::Http2(io))
                    }
                    Opened::Answer(response) => Upgraded::Answer(response),
                })
            }
            Way::Plain(app) => {
                let (mut parts, ()) = request.into_parts();
                let original: Original = wire::from_link(&mut parts);
                match app.upgrade(parts, original).await {
                    Ok(upgraded) => Ok(upgraded),
                    Err(code) => return record.refused(code).into(),
                }
            }
        };
        match opened {
            Err(error) => record.refused(app::exchange(&error)).into(),
            Ok(Upgraded::Answer(mut response)) => {
                wire::response_from_link(&mut response);
                record.answered(response).into()
            }
            Ok(Upgraded::Accepted(mut response, far)) => {
                wire::response_from_link(&mut response);
                let task = tunnel(far, self.worker.shared.config.timeouts.tcp_idle);
                Answer { response: head_only(record, response), upgrade: Some(task) }
            }
        }
    }
}

/// Relays an upgraded connection until both sides have closed.
pub(crate) fn tunnel(mut far: UpgradeIo, idle_timeout: Option<std::time::Duration>) -> UpgradeTask {
    Box::new(move |mut near| {
        Box::pin(async move {
            let options = RelayOptions { idle_timeout, ..RelayOptions::default() };
            relay(&mut near, &mut far, &options, &RelayCounters::default()).await;
        })
    })
}

/// Tells balancing how the endpoint did: its latency is the time to the head.
fn observe(record: &mut RequestRecord, status: StatusCode) {
    let outcome = if status.is_server_error() { Outcome::Failure } else { Outcome::Success };
    if let Some(in_flight) = record.in_flight() {
        in_flight.observe(Timestamp::at(Instant::now()), outcome);
    }
}

impl Handler for Outbound {
    type Body = Observed;

    async fn call(&self, request: Request<Body>, interim: Interim<'_>) -> Result<Answer<Observed>, Abort> {
        let (mut parts, body) = request.into_parts();
        let version = parts.version;
        let series = self.upstream.unserved.get(&self.worker.telemetry.shard, version);
        let mut record = RequestRecord::begin(&self.worker, &self.facts, series, &parts, version);
        let upgrade = match wire::clean_request(&mut parts) {
            Ok(upgrade) => upgrade,
            Err(code) => return Ok(record.refused(code).into()),
        };
        record.trace.inject(&mut parts.headers);
        ensure_request_id(&self.worker, &mut parts.headers);
        parts.headers.entry(X_FORWARDED_PROTO).or_insert(HeaderValue::from_static("http"));
        let takes_over = upgrade.is_some() || parts.method == Method::CONNECT;
        let request = wire::to_link(parts, upgrade);
        if takes_over {
            return Ok(Box::pin(self.upgrade(request, record, version)).await);
        }
        let body = record.count_request(body);
        let exchanged = match self.worker.shared.config.timeouts.request {
            None => self.exchange(request, body, &interim, &mut record).await,
            Some(limit) => {
                let exchange = self.exchange(request, body, &interim, &mut record);
                tokio::time::timeout(limit, exchange).await.unwrap_or(Err(ErrorCode::UpstreamTimeout.into()))
            }
        };
        match exchanged {
            Ok(mut response) => {
                wire::response_from_link(&mut response);
                Ok(record.answered(response).into())
            }
            Err(failure) => record.failed_with(&failure),
        }
    }
}
