//! The exchange: how one request and its answer go through the proxy, the same for each side.
//!
//! restore → route → attempt → answer → record. [`Side`] says what differs: how a request is restored from its
//! wire, who the peer is, and where it is sent. A side that can send at once does so before anything is waited for; that is
//! the usual case, and its future stays small.

mod at_once;
mod attempt;
mod gateway;
mod inbound;
mod mirror;
mod outbound;
#[cfg(test)]
mod plain_tests;
mod retry;
mod routed;
#[cfg(test)]
mod tests;

use std::pin::{Pin, pin};
use std::rc::Rc;
use std::time::{Duration, Instant};

use http::{HeaderValue, Method, Request, Response, Version};
use weft_http::wire::{self, Original};
use weft_http::{Abort, Answer, Body, ErrorCode, Handler, Interim, UpgradeIo, UpgradeTask};
use weft_identity::PeerIdentity;
use weft_net::{RelayCounters, RelayOptions, relay};
use weft_telemetry::HttpSeries;
use weft_telemetry::metrics::Direction;

use crate::failure::Failure;
use crate::pools::Behind;
use crate::record::{ConnectionFacts, Observed, RequestRecord};
use crate::telemetry::WorkerTelemetry;

pub(crate) use gateway::{Came, Gateway};
pub(crate) use inbound::{Caller, Inbound};
pub(crate) use mirror::Mirrors;
pub(crate) use outbound::Outbound;

/// What differs between the sides of an exchange.
pub(crate) trait Side: 'static {
    /// Which way requests go.
    const DIRECTION: Direction;
    /// Where a request goes and what is done to it, where not all of a connection go the same way.
    type Route;
    /// A request that is on its way.
    type Sent;
    /// A request for which something has to be waited before it can be sent.
    type Waiting;

    /// Whether requests come with the marks of a proxy of the mesh.
    fn is_link(&self) -> bool;

    /// Whether the other side may still begin requests.
    fn is_valid(&self) -> bool;

    /// Restores what the calling application sent.
    ///
    /// # Errors
    /// It cannot be carried.
    fn restore(&self, request: &mut Request<Body>) -> Result<Original, ErrorCode>;

    /// Where a request of this version is counted as long as nobody has it.
    fn series(&self, version: Version) -> &HttpSeries;

    /// Decides what becomes of a request, and makes it ready for the next hop. What `original` says afterwards is what the upstream
    /// is to see.
    fn route(
        &self,
        request: &mut Request<Body>,
        original: &mut Original,
        record: &mut RequestRecord,
    ) -> Verdict<Self::Route>;

    /// Sends a request, if nothing has to be waited for. This is no async function, because the future of one keeps room
    /// for all it ever held; what this returns is small, and it is allocated for every request.
    fn send(
        &self,
        route: Self::Route,
        request: Request<Body>,
        version: Version,
        record: &mut RequestRecord,
    ) -> Start<Self::Sent, Self::Waiting>;

    /// Brings the answer of a request that was sent.
    fn finish(
        &self,
        sent: Self::Sent,
        interim: &Interim<'_>,
        record: &mut RequestRecord,
    ) -> impl Future<Output = Result<Response<Body>, Failure>>;

    /// Carries a request through everything that may have to be waited for.
    fn carry(
        &self,
        waiting: Self::Waiting,
        interim: &Interim<'_>,
        record: &mut RequestRecord,
    ) -> impl Future<Output = Result<Response<Body>, Failure>>;

    /// Carries a request for an upgrade, or CONNECT.
    fn open(
        &self,
        route: Self::Route,
        request: Request<Body>,
        original: Original,
        interim: &Interim<'_>,
        record: &mut RequestRecord,
    ) -> impl Future<Output = Result<Response<Behind>, Failure>>;

    /// Makes the upstream's answer one for the caller.
    fn restore_answer<B>(&self, response: &mut Response<B>);
}

/// Cleans a request as an application sent it.
fn as_sent(request: &mut Request<Body>) -> Result<Original, ErrorCode> {
    let version = request.version();
    let upgrade = wire::clean_request(request)?;
    Ok(Original { version, upgrade })
}

/// What is told of a caller of the mesh to whoever gets its requests (`x-forwarded-client-cert`).
fn client_cert(own: Option<&str>, peer: &PeerIdentity) -> Option<HeaderValue> {
    let by = own.map(|own| format!("By={own};"));
    HeaderValue::from_str(&format!("{}URI={}", by.unwrap_or_default(), peer.id)).ok()
}

/// What becomes of a request.
pub(crate) enum Verdict<R> {
    /// It goes on.
    Go(R),
    /// This is its answer.
    Answer(Box<Response<Body>>),
    /// It may not.
    Refuse(ErrorCode),
}

/// What came of sending at once.
pub(crate) enum Start<S, W> {
    Sent(S),
    Waits(W),
    Failed(Failure),
}

/// How long an exchange may take.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Times {
    /// From a request's head to the last octet of its answer, all tries included (`timeouts.request`).
    pub(crate) request: Option<Duration>,
    /// How long an upgraded connection may carry nothing.
    pub(crate) tunnel_idle: Option<Duration>,
}

/// The handler of one connection.
pub(crate) struct Exchange<S> {
    side: S,
    telemetry: Rc<WorkerTelemetry>,
    facts: Rc<ConnectionFacts>,
    times: Times,
}

/// A request for an upgrade, with where it goes.
type Taken<R> = (R, Request<Body>, Original, Box<RequestRecord>);

/// How far a request has come before anything had to be waited for.
enum Begun<S: Side> {
    Failed(Failure, Box<RequestRecord>),
    /// The usual case.
    Sent(S::Sent, Box<RequestRecord>),
    Waits(Box<(S::Waiting, Box<RequestRecord>)>),
    /// An upgrade or CONNECT.
    TakesOver(Box<Taken<S::Route>>),
    /// Its answer is known already.
    Answered(Box<Response<Body>>, Box<RequestRecord>),
}

impl<S: Side> Exchange<S> {
    pub(crate) fn new(
        side: S,
        telemetry: &Rc<WorkerTelemetry>,
        facts: Rc<ConnectionFacts>,
        times: Times,
    ) -> Rc<Self> {
        Rc::new(Self { side, telemetry: Rc::clone(telemetry), facts, times })
    }

    /// Does what needs no waiting.
    fn begin(&self, mut request: Request<Body>) -> Begun<S> {
        let told = if self.side.is_link() { Version::HTTP_11 } else { request.version() };
        let restored = self.side.restore(&mut request);
        let version = restored.as_ref().map_or(told, |original| original.version);
        let series = self.side.series(version);
        let mut record = RequestRecord::begin(&self.telemetry, &self.facts, series, &request, version);
        let mut original = match restored {
            Ok(original) => original,
            Err(code) => return Begun::Failed(code.into(), record),
        };
        let takes_over = original.upgrade.is_some() || request.method() == Method::CONNECT;
        let route = match self.side.route(&mut request, &mut original, &mut record) {
            Verdict::Go(route) => route,
            Verdict::Answer(response) => return Begun::Answered(response, record),
            Verdict::Refuse(code) => return Begun::Failed(code.into(), record),
        };
        if takes_over {
            return Begun::TakesOver(Box::new((route, request, original, record)));
        }
        record.count_request(request.body_mut());
        match self.side.send(route, request, version, &mut record) {
            Start::Sent(sent) => Begun::Sent(sent, record),
            Start::Waits(waiting) => Begun::Waits(Box::new((waiting, record))),
            Start::Failed(failure) => Begun::Failed(failure, record),
        }
    }

    /// When all of it must be over.
    fn deadline(&self, record: &RequestRecord) -> Option<Instant> {
        record.deadline(self.times.request)
    }

    async fn carry(
        &self,
        waiting: S::Waiting,
        mut record: Box<RequestRecord>,
        interim: &Interim<'_>,
    ) -> Result<Answer<Observed>, Abort> {
        let deadline = self.deadline(&record);
        let answer = by(deadline, pin!(self.side.carry(waiting, interim, &mut record))).await;
        self.conclude(answer, record)
    }

    async fn take_over(
        &self,
        route: S::Route,
        request: Request<Body>,
        original: Original,
        mut record: Box<RequestRecord>,
        interim: &Interim<'_>,
    ) -> Result<Answer<Observed>, Abort> {
        let deadline = self.deadline(&record);
        let opened = by(deadline, pin!(self.side.open(route, request, original, interim, &mut record))).await;
        let mut response = match opened {
            Ok(response) => response,
            Err(failure) => return record.failed_with(&failure),
        };
        self.side.restore_answer(&mut response);
        let (head, behind) = response.into_parts();
        match behind {
            Behind::Body(body) => Ok(record.answered(Response::from_parts(head, body), deadline).into()),
            // The record ends with the head.
            Behind::Tunnel(far) => Ok(Answer {
                response: record.answered(Response::from_parts(head, Body::Empty), None),
                upgrade: Some(tunnel(far, self.times.tunnel_idle)),
            }),
        }
    }

    /// What the client is told in the end.
    fn conclude(
        &self,
        answer: Result<Response<Body>, Failure>,
        record: Box<RequestRecord>,
    ) -> Result<Answer<Observed>, Abort> {
        match answer {
            Ok(mut response) => {
                self.side.restore_answer(&mut response);
                let deadline = self.deadline(&record);
                Ok(record.answered(response, deadline).into())
            }
            Err(failure) => record.failed_with(&failure),
        }
    }
}

impl<S: Side> Handler for Exchange<S> {
    type Body = Observed;

    fn is_link(&self) -> bool {
        self.side.is_link()
    }

    fn is_valid(&self) -> bool {
        self.side.is_valid()
    }

    fn refused(&self, code: ErrorCode) {
        self.telemetry.of(S::DIRECTION).error(code);
    }

    fn call(
        &self,
        request: Request<Body>,
        interim: Interim<'_>,
    ) -> impl Future<Output = Result<Answer<Observed>, Abort>> {
        let begun = self.begin(request);
        async move {
            match begun {
                Begun::Failed(failure, record) => record.failed_with(&failure),
                Begun::Sent(sent, mut record) => {
                    let deadline = self.deadline(&record);
                    let answer = by(deadline, pin!(self.side.finish(sent, &interim, &mut record))).await;
                    self.conclude(answer, record)
                }
                Begun::Waits(waits) => {
                    let (waiting, record) = *waits;
                    Box::pin(self.carry(waiting, record, &interim)).await
                }
                Begun::TakesOver(taken) => {
                    let (route, request, original, record) = *taken;
                    Box::pin(self.take_over(route, request, original, record, &interim)).await
                }
                Begun::Answered(response, record) => {
                    let deadline = self.deadline(&record);
                    Ok(record.answered(*response, deadline).into())
                }
            }
        }
    }
}

/// Waits for an answer until the deadline. Both are apart from this future, which an exchange without a deadline has as well.
async fn by<T>(
    deadline: Option<Instant>,
    answer: Pin<&mut impl Future<Output = Result<T, Failure>>>,
) -> Result<T, Failure> {
    let Some(deadline) = deadline else { return answer.await };
    match Box::pin(tokio::time::timeout_at(deadline.into(), answer)).await {
        Ok(answer) => answer,
        Err(_) => Err(ErrorCode::UpstreamTimeout.into()),
    }
}

/// Relays an upgraded connection until both sides have closed. What broke off does not end as if it were whole.
fn tunnel(mut far: UpgradeIo, idle_timeout: Option<Duration>) -> UpgradeTask {
    Box::new(move |mut near| {
        Box::pin(async move {
            let options = RelayOptions { idle_timeout, ..RelayOptions::default() };
            let outcome = relay(&mut near, &mut far, &options, &RelayCounters::default()).await;
            if outcome.aborted {
                near.reset_on_close();
                far.reset_on_close();
            }
        })
    })
}
