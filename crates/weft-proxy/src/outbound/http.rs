//! Requests of the own application over mesh links.

use std::ops::ControlFlow;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use bytes::BytesMut;
use http::{HeaderMap, Method, Request, Response, StatusCode, Version};
use http_body::Body as _;
use weft_balance::{Outcome, Timestamp};
use weft_core::{Drain, EndpointAddr, MtlsMode};
use weft_http::wire;
use weft_http::{
    Abort, Answer, Body, ErrorCode, Handler, Interim, Lease, Opened, Replay, Sent, UpgradeIo, UpgradeTask,
    serve_http1, serve_http2,
};
use weft_net::{RelayCounters, RelayOptions, relay};
use weft_telemetry::metrics::{Direction, TlsLabel};

use super::retry::{Again, Spare};
use super::{Call, rewind};
use crate::app::{self, App, Failure, Upgraded};
use crate::dial::DialError;
use crate::record::{ConnectionFacts, Observed, RequestRecord, complete, head_only};
use crate::upstream::{EndpointLinks, Link, Picked, Upstream};
use crate::worker::Worker;

/// Serves an application's HTTP/1 connection.
pub(super) async fn serve1(call: Call, upstream: Rc<Upstream>, first: BytesMut) {
    let Call { worker, accepted, listed, _open, .. } = call;
    listed.update(|info| info.protocol = "http/1");
    let handler = Outbound::new(&worker, upstream, accepted.client.get());
    let io = rewind(accepted.stream, first);
    if let Err(error) = serve_http1(io, handler, &worker.http1, until_the_end()).await {
        tracing::debug!(%error, client = %accepted.client, "outbound HTTP/1 connection failed");
    }
}

/// Serves an application's HTTP/2 connection.
pub(super) async fn serve2(call: Call, upstream: Rc<Upstream>, first: BytesMut) {
    let Call { worker, accepted, listed, _open, .. } = call;
    listed.update(|info| info.protocol = "http/2");
    let handler = Outbound::new(&worker, upstream, accepted.client.get());
    let io = rewind(accepted.stream, first);
    if let Err(error) = serve_http2(io, handler, &worker.http2, until_the_end()).await {
        tracing::debug!(%error, client = %accepted.client, "outbound HTTP/2 connection failed");
    }
}

/// Outbound stays open while draining: the application that shuts down may still have calls to make. What is open when
/// everything closes ends with the worker's runtime.
fn until_the_end() -> Drain {
    Drain::never()
}

/// The handler of one application connection.
pub(super) struct Outbound {
    worker: Rc<Worker>,
    pub(super) upstream: Rc<Upstream>,
    facts: Rc<ConnectionFacts>,
}

/// Where a request goes: over a mesh link, or in plaintext where the mode allows it.
enum Way {
    Link(Lease<Link>),
    Plain(Rc<App>),
}

impl Outbound {
    fn new(worker: &Rc<Worker>, upstream: Rc<Upstream>, client: std::net::SocketAddr) -> Rc<Self> {
        let facts = Rc::new(ConnectionFacts {
            direction: Direction::Outbound,
            client,
            server: upstream.server.clone(),
            service: Arc::clone(&upstream.label),
            source_identity: worker.telemetry.own_identity(),
            destination_identity: None,
            tls: if upstream.mode() == MtlsMode::Disable { TlsLabel::None } else { TlsLabel::Mutual },
        });
        Rc::new(Self { worker: Rc::clone(worker), upstream, facts })
    }

    /// Picks an endpoint and gets a way to it, trying others where one cannot be reached: nothing was sent yet.
    async fn way(&self, tried: &mut Vec<EndpointAddr>) -> Result<(Picked, Way), DialError> {
        let connect = async |picked: &Picked| self.connect(picked, Timestamp::now()).await;
        let (mut picked, way) = self.upstream.reach(&self.worker, tried, connect).await?;
        picked.in_flight.sent(Timestamp::now());
        Ok((picked, way))
    }

    async fn connect(&self, picked: &Picked, now: Timestamp) -> Result<Way, DialError> {
        let links = &picked.links;
        let mode = self.upstream.mode_towards(links.endpoint.addr());
        if mode == MtlsMode::Disable || (mode == MtlsMode::Permissive && links.is_plaintext(now)) {
            return Ok(Way::Plain(links.plain(&self.worker)));
        }
        match links.link(&self.worker, &self.upstream).await {
            Ok(lease) => Ok(Way::Link(lease)),
            Err(error) if mode == MtlsMode::Permissive && error.code == ErrorCode::TlsFailed => {
                links.remember_plaintext(now);
                Ok(Way::Plain(links.plain(&self.worker)))
            }
            Err(error) => Err(error),
        }
    }

    /// Sends a request and brings its answer's head; sends it again elsewhere where that does no harm.
    async fn exchange(
        &self,
        first: Attempt,
        interim: &Interim<'_>,
        record: &mut RequestRecord,
    ) -> Result<Response<Body>, Failure> {
        let Attempt { mut request, mut body, mut replay, mut tried, mut because } = first;
        let used = u32::from(because.is_some());
        let mut attempts = self.worker.shared.config.retries.connect_attempts.saturating_sub(used).max(1);
        if attempts > 1 && replay.is_none() && !body.is_end_stream() {
            let (kept, first) = Replay::of(body);
            (replay, body) = (Some(kept), first);
        }
        // What a connection refused, the next one to the same endpoint may take; one more time, for it may also be busy.
        let mut same = because.is_none();
        loop {
            // It is there, so that no successor is to be waited for.
            if was_refused(&because)
                && self.upstream.pick_now(&self.worker, Timestamp::now(), &tried).is_none()
                && let Some(failure) = because.take()
            {
                return Err(failure);
            }
            let (picked, way) = match self.way(&mut tried).await {
                Ok(found) => found,
                Err(error) if error.code == ErrorCode::NoEndpoints => {
                    return Err(because.unwrap_or_else(|| error.code.into()));
                }
                Err(error) => return Err(error.code.into()),
            };
            let links = Rc::clone(&picked.links);
            attempts -= 1;
            let spare = Spare::head(&request, attempts > 0).with_body(replay.take());
            let sent = self.send(way, picked, request, body, interim, record).await;
            let again = match self.judge(sent, spare, &links, record) {
                ControlFlow::Break(done) => return done,
                ControlFlow::Continue(again) => again,
            };
            (request, body, replay, because) = (again.request, again.body, again.replay, Some(again.because));
            if !std::mem::take(&mut same) || !was_refused(&because) {
                tried.push(links.endpoint.addr());
            }
        }
    }

    async fn send(
        &self,
        way: Way,
        picked: Picked,
        request: Request<()>,
        body: Body,
        interim: &Interim<'_>,
        record: &mut RequestRecord,
    ) -> Result<Response<Body>, Failure> {
        match way {
            Way::Link(Lease { connection: link, slot }) => {
                let series = link.series.get(&self.worker.telemetry.shard, request.version());
                let endpoint = picked.links.endpoint.addr().get();
                record.served_by(series, Some(picked.in_flight), endpoint, Some(Arc::clone(&link.peer)));
                Ok(slot.exchange(request, body, interim).await?)
            }
            Way::Plain(app) => self.plain(&app, request.map(|()| body), interim, record, picked).await,
        }
    }

    async fn plain(
        &self,
        app: &Rc<App>,
        mut request: Request<Body>,
        interim: &Interim<'_>,
        record: &mut RequestRecord,
        picked: Picked,
    ) -> Result<Response<Body>, Failure> {
        let series = self.upstream.unserved.get(&self.worker.telemetry.shard, request.version());
        record.served_by(series, Some(picked.in_flight), app.addr.get(), None);
        wire::from_link(&mut request)?;
        // Nobody behind us will.
        complete(record.trace.context, request.headers_mut());
        let mut response = app.send(request, interim).await?;
        // Without a link nobody may speak for the mesh.
        wire::strip_internal(response.headers_mut());
        Ok(response)
    }

    /// A request for an upgrade, or CONNECT.
    async fn upgrade(
        &self,
        request: Request<()>,
        mut record: Box<RequestRecord>,
        version: Version,
        interim: &Interim<'_>,
    ) -> Answer<Observed> {
        let (picked, way) = match self.way(&mut Vec::new()).await {
            Ok(found) => found,
            Err(error) => return record.refused(error.code).into(),
        };
        let asked = request.headers().get(wire::WEFT_UPGRADE).cloned();
        let endpoint = picked.links.endpoint.addr().get();
        let opened = match way {
            Way::Link(Lease { connection: link, slot }) => {
                let series = link.series.get(&self.worker.telemetry.shard, version);
                record.served_by(series, Some(picked.in_flight), endpoint, Some(Arc::clone(&link.peer)));
                let accepted =
                    |status: StatusCode, headers: &HeaderMap| wire::accepts(asked.as_ref(), status, headers);
                slot.open(request, accepted).await.map(|opened| match opened {
                    Opened::Stream(head, io) => {
                        Upgraded::Accepted(head.map(|()| Body::Empty), UpgradeIo::Http2(io))
                    }
                    Opened::Answer(response) => Upgraded::Answer(response),
                })
            }
            Way::Plain(app) => {
                let mut request = request.map(|()| Body::Empty);
                let upgraded = match wire::from_link(&mut request) {
                    Ok(original) => app.upgrade(request, original, interim).await,
                    Err(code) => Err(code),
                };
                match upgraded {
                    Ok(upgraded) => Ok(upgraded),
                    Err(code) => return record.refused(code).into(),
                }
            }
        };
        match opened {
            Err(error) => record.refused(app::exchange(&error)).into(),
            Ok(Upgraded::Answer(mut response)) => match wire::clean_answer(&mut response) {
                Ok(()) => record.answered(response).into(),
                Err(code) => record.refused(code).into(),
            },
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
pub(super) fn observe(record: &mut RequestRecord, status: StatusCode) {
    let outcome = if status.is_server_error() { Outcome::Failure } else { Outcome::Success };
    if let Some(in_flight) = record.in_flight() {
        in_flight.observe(Timestamp::at(Instant::now()), outcome);
    }
}

/// How far a request has come before anything had to be waited for.
enum Begun {
    /// Answered by the mesh.
    Refused(Box<Response<Observed>>),
    /// On its way: the usual case, an open link and no body.
    Sent(Sent, Box<Pending>),
    /// There is something to wait for: endpoints, a link, the body.
    Waits(Box<(Attempt, Box<RequestRecord>)>),
    /// An upgrade or CONNECT.
    TakesOver(Box<(Request<()>, Box<RequestRecord>)>),
}

/// A request to be sent, and what became of it so far.
struct Attempt {
    request: Request<()>,
    body: Body,
    replay: Option<Replay>,
    tried: Vec<EndpointAddr>,
    because: Option<Failure>,
}

impl Attempt {
    fn first(request: Request<()>, body: Body) -> Self {
        Self { request, body, replay: None, tried: Vec::new(), because: None }
    }

    fn after(again: Again, links: &EndpointLinks) -> Self {
        let Again { request, body, replay, because } = again;
        let because = Some(because);
        let tried = if was_refused(&because) { Vec::new() } else { vec![links.endpoint.addr()] };
        Self { request, body, replay, tried, because }
    }
}

/// Whether the peer took no more requests on a connection, which says nothing of its others.
fn was_refused(because: &Option<Failure>) -> bool {
    because.as_ref().is_some_and(|failure| failure.code == ErrorCode::UpstreamRefused)
}

/// What a request that was sent may still need.
struct Pending {
    record: Box<RequestRecord>,
    links: Rc<EndpointLinks>,
    spare: Spare,
}

impl Outbound {
    /// Does what needs no waiting. It is no async function, because the future of one keeps room for all it ever held;
    /// what this returns is small, and it is allocated for every request.
    fn begin(&self, mut request: Request<Body>) -> Begun {
        let version = request.version();
        let series = self.upstream.unserved.get(&self.worker.telemetry.shard, version);
        let mut record = RequestRecord::begin(&self.worker, &self.facts, series, &request, version);
        let upgrade = match wire::clean_request(&mut request) {
            Ok(upgrade) => upgrade,
            Err(code) => return Begun::Refused(Box::new(record.refused(code))),
        };
        record.trace.inject(request.headers_mut());
        let takes_over = upgrade.is_some() || request.method() == Method::CONNECT;
        wire::to_link(&mut request, upgrade);
        if takes_over {
            return Begun::TakesOver(Box::new((request.map(drop), record)));
        }
        if request.body().is_end_stream() {
            return self.send_now(request.map(drop), record);
        }
        record.count_request(request.body_mut());
        let (head, body) = request.into_parts();
        Begun::Waits(Box::new((Attempt::first(Request::from_parts(head, ()), body), record)))
    }

    fn send_now(&self, request: Request<()>, mut record: Box<RequestRecord>) -> Begun {
        let strict = self.upstream.mode() == MtlsMode::Strict;
        let picked = strict
            .then(|| self.upstream.pick_now(&self.worker, Timestamp::at(record.started()), &[]))
            .flatten();
        let found = picked.and_then(|picked| Some((picked.links.link_now(&self.worker)?, picked)));
        let Some((Lease { connection: link, slot }, picked)) = found else {
            return Begun::Waits(Box::new((Attempt::first(request, Body::Empty), record)));
        };
        let links = Rc::clone(&picked.links);
        let endpoint = links.endpoint.addr();
        let spare = Spare::head(&request, self.worker.shared.config.retries.connect_attempts > 1);
        let series = link.series.get(&self.worker.telemetry.shard, request.version());
        record.served_by(series, Some(picked.in_flight), endpoint.get(), Some(Arc::clone(&link.peer)));
        match slot.send_now(request) {
            Ok(sent) => Begun::Sent(sent, Box::new(Pending { record, links, spare })),
            Err(error) => match self.again(error.into(), spare, &links, &mut record) {
                Ok(again) => Begun::Waits(Box::new((Attempt::after(again, &links), record))),
                Err(failure) => Begun::Refused(Box::new(record.refused(failure.code))),
            },
        }
    }

    /// Waits for the answer of a request that was sent.
    async fn finish(
        &self,
        sent: Sent,
        pending: Box<Pending>,
        interim: &Interim<'_>,
    ) -> Result<Answer<Observed>, Abort> {
        let head = match self.worker.shared.config.timeouts.request {
            None => sent.head(interim).await,
            Some(limit) => match tokio::time::timeout(limit, sent.head(interim)).await {
                Ok(head) => head,
                Err(_) => return Ok(pending.record.refused(ErrorCode::UpstreamTimeout).into()),
            },
        };
        let Pending { mut record, links, spare } = *pending;
        match self.judge(head.map_err(Failure::from), spare, &links, &mut record) {
            ControlFlow::Break(done) => conclude(done, record),
            ControlFlow::Continue(again) => {
                Box::pin(self.carry(Attempt::after(again, &links), interim, record)).await
            }
        }
    }

    /// Carries a request through everything that may have to be waited for.
    async fn carry(
        &self,
        attempt: Attempt,
        interim: &Interim<'_>,
        mut record: Box<RequestRecord>,
    ) -> Result<Answer<Observed>, Abort> {
        let exchange = self.exchange(attempt, interim, &mut record);
        let exchanged = match self.worker.shared.config.timeouts.request {
            None => exchange.await,
            Some(limit) => {
                tokio::time::timeout(limit, exchange).await.unwrap_or(Err(ErrorCode::UpstreamTimeout.into()))
            }
        };
        conclude(exchanged, record)
    }
}

/// What the client is told in the end.
fn conclude(
    exchanged: Result<Response<Body>, Failure>,
    record: Box<RequestRecord>,
) -> Result<Answer<Observed>, Abort> {
    match exchanged {
        Ok(response) => Ok(record.answered(response).into()),
        Err(failure) => record.failed_with(&failure),
    }
}

impl Handler for Outbound {
    type Body = Observed;

    fn is_link(&self) -> bool {
        false
    }

    fn refused(&self, code: ErrorCode) {
        self.worker.telemetry.outbound.error(code);
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
                Begun::Sent(sent, pending) => self.finish(sent, pending, &interim).await,
                Begun::Waits(waits) => {
                    let (attempt, record) = *waits;
                    Box::pin(self.carry(attempt, &interim, record)).await
                }
                Begun::TakesOver(taken) => {
                    let (request, record) = *taken;
                    let version = request.version();
                    Ok(Box::pin(self.upgrade(request, record, version, &interim)).await)
                }
            }
        }
    }
}
