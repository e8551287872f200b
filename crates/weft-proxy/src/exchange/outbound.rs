//! Requests of the own application, over mesh links.

use std::cell::Cell;
use std::ops::ControlFlow;
use std::rc::Rc;
use std::sync::Arc;

use http::{HeaderMap, Request, Response, StatusCode, Version};
use http_body::Body as _;
use weft_balance::Timestamp;
use weft_core::{EndpointAddr, MtlsMode};
use weft_http::wire::{self, Original};
use weft_http::{Body, ErrorCode, Interim, Lease, Opened, Replay, Sent, UpgradeIo, unanswered};
use weft_telemetry::HttpSeries;
use weft_telemetry::metrics::{Direction, TlsLabel};

use super::retry::{Again, Spare, allow, was_refused};
use super::{Side, Start, as_sent};
use crate::cluster::{Cluster, EndpointLinks, Link, Picked, PlainPeer};
use crate::destination::Destination;
use crate::dial::DialError;
use crate::failure::Failure;
use crate::pools::Behind;
use crate::record::{ConnectionFacts, RequestRecord, complete};

/// The side of an application that calls a mesh destination.
pub(crate) struct Outbound {
    /// Holds it: what the configuration changes about it reaches this connection.
    destination: Rc<Destination>,
    /// The connection came to a listener that stands for the service, and not to an address of it.
    listener: bool,
    /// The client's login belongs to its connection, and so to one endpoint: its last.
    login: Cell<bool>,
    home: Cell<Option<EndpointAddr>>,
}

/// Where a request goes: over a mesh link, or in plaintext where the mode allows it.
enum Way {
    Link(Lease<Link>),
    Plain(Rc<PlainPeer>),
}

/// A request that is on its way, and what it may still need. (Apart from the future of the request, which would have room
/// for it in each of its steps.)
pub(crate) struct Pending {
    sent: Sent,
    links: Rc<EndpointLinks>,
    spare: Spare,
}

/// A request to be sent, and what became of it so far.
pub(crate) struct Attempt {
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

impl Outbound {
    pub(crate) fn new(destination: Rc<Destination>, listener: bool) -> Self {
        Self { destination, listener, login: Cell::default(), home: Cell::default() }
    }

    /// What the requests of one connection have in common.
    pub(crate) fn facts(&self, client: std::net::SocketAddr) -> Rc<ConnectionFacts> {
        let cluster = self.cluster();
        Rc::new(ConnectionFacts {
            direction: Direction::Outbound,
            client,
            server: self.destination.server.clone(),
            service: Arc::clone(&self.destination.label),
            source_identity: cluster.ways.telemetry.own_identity(),
            destination_identity: None,
            tls: if cluster.mode() == MtlsMode::Disable { TlsLabel::None } else { TlsLabel::Mutual },
        })
    }

    fn cluster(&self) -> &Rc<Cluster> {
        &self.destination.cluster
    }

    /// The endpoint that has the client's login.
    fn pick_home(&self, now: Timestamp) -> Option<Picked> {
        self.cluster().pick_at(now, self.home.get()?)
    }

    /// A request of the client goes to this endpoint.
    fn settle(&self, picked: &Picked) {
        if self.login.get() {
            self.home.set(Some(picked.links.endpoint.addr()));
        }
    }

    /// Picks an endpoint and gets a way to it, trying others where one cannot be reached: nothing was sent yet.
    async fn way(&self, tried: &mut Vec<EndpointAddr>) -> Result<(Picked, Way), DialError> {
        let connect = async |picked: &Picked| self.connect(picked).await;
        let at_home = match self.pick_home(Timestamp::now()).filter(|_| tried.is_empty()) {
            Some(picked) => connect(&picked).await.ok().map(|way| (picked, way)),
            None => None,
        };
        let (mut picked, way) = match at_home {
            Some(found) => found,
            None => self.cluster().reach(tried, connect).await?,
        };
        picked.in_flight.sent(Timestamp::now());
        self.settle(&picked);
        Ok((picked, way))
    }

    async fn connect(&self, picked: &Picked) -> Result<Way, DialError> {
        let (cluster, links) = (self.cluster(), &picked.links);
        let mutual = async || links.link(cluster).await.map(Way::Link);
        let plain = async || Ok(Way::Plain(links.plain(&cluster.ways)));
        cluster.by_mode(links, mutual, plain).await
    }

    /// Sends a request and brings its answer's head; sends it again elsewhere where that does no harm. `send` is one
    /// sending over the way that was found.
    async fn attempts<B>(
        &self,
        first: Attempt,
        record: &mut RequestRecord,
        send: impl AsyncFn(Way, Request<()>, Body, Serving<'_>) -> Result<Response<B>, Failure>,
    ) -> Result<Response<B>, Failure> {
        let Attempt { mut request, mut body, mut replay, mut tried, mut because } = first;
        let cluster = self.cluster();
        let used = u32::from(because.is_some());
        let mut attempts = cluster.ways.retries.connect_attempts.saturating_sub(used).max(1);
        if attempts > 1 && replay.is_none() && !body.is_end_stream() {
            let (kept, first) = Replay::of(body);
            (replay, body) = (Some(kept), first);
        }
        // What a connection refused, the next one to the same endpoint may take; one more time, for it may also be busy.
        let mut same = because.is_none();
        loop {
            // It is there, so that no successor is to be waited for.
            if was_refused(&because)
                && cluster.pick_now(Timestamp::now(), &tried).is_none()
                && let Some(failure) = because.take()
            {
                return Err(failure);
            }
            let (picked, way) = match self.way(&mut tried).await {
                Ok(found) => found,
                Err(error) if error.code == ErrorCode::NoEndpoints => {
                    return Err(because.unwrap_or_else(|| error.into()));
                }
                Err(error) => return Err(error.into()),
            };
            if let Some(failure) = because.take_if(|because| !allow(because, cluster, record)) {
                return Err(failure);
            }
            let links = Rc::clone(&picked.links);
            attempts -= 1;
            let spare = Spare::head(&request, attempts > 0).with_body(replay.take());
            let serving = Serving { cluster, picked, record: &mut *record };
            let sent = send(way, request, body, serving).await;
            let again = match self.judge_answer(sent, spare, &links, record) {
                ControlFlow::Break(done) => return done,
                ControlFlow::Continue(again) => again,
            };
            (request, body, replay, because) = (again.request, again.body, again.replay, Some(again.because));
            if !std::mem::take(&mut same) || !was_refused(&because) {
                tried.push(links.endpoint.addr());
            }
        }
    }

    /// Judges one sending: what the client is told of it, or the request that is sent again.
    fn judge_answer<B>(
        &self,
        sent: Result<Response<B>, Failure>,
        spare: Spare,
        links: &EndpointLinks,
        record: &mut RequestRecord,
    ) -> ControlFlow<Result<Response<B>, Failure>, Again> {
        let failure = match sent {
            Ok(response) => {
                let marked = wire::is_marked(response.headers());
                let code = marked.then(|| unanswered(response.headers())).flatten();
                match code.map(|code| spare.again(code.into(), self.cluster(), links, record)) {
                    Some(Ok(again)) => return ControlFlow::Continue(again),
                    // What the peer's proxy has said is the answer.
                    Some(Err(_)) | None => return ControlFlow::Break(Ok(response)),
                }
            }
            Err(failure) => failure,
        };
        match spare.again(failure, self.cluster(), links, record) {
            Ok(again) => ControlFlow::Continue(again),
            Err(failure) => ControlFlow::Break(Err(failure)),
        }
    }
}

/// The endpoint that is to serve one sending.
struct Serving<'a> {
    cluster: &'a Cluster,
    picked: Picked,
    record: &'a mut RequestRecord,
}

impl Serving<'_> {
    fn over_link(self, link: &Link, version: Version) {
        let series = link.series.get(&self.cluster.ways.telemetry.shard, version);
        let endpoint = self.picked.links.endpoint.addr().get();
        self.record.served_by(series, Some(self.picked.in_flight), endpoint, Some(Arc::clone(&link.peer)));
    }

    /// Restores a request for an application without a sidecar.
    fn in_plaintext(self, request: &mut Request<Body>) -> Result<Original, ErrorCode> {
        let series = self.cluster.unserved.get(&self.cluster.ways.telemetry.shard, request.version());
        let endpoint = self.picked.links.endpoint.addr().get();
        self.record.served_by(series, Some(self.picked.in_flight), endpoint, None);
        let original = wire::from_link(request)?;
        // Nobody behind us will.
        complete(self.record.trace.context, request.headers_mut());
        Ok(original)
    }
}

/// One sending of an ordinary request.
async fn send(
    way: Way,
    request: Request<()>,
    body: Body,
    serving: Serving<'_>,
    interim: &Interim<'_>,
) -> Result<Response<Body>, Failure> {
    let response = match way {
        Way::Link(Lease { connection: link, slot }) => {
            serving.over_link(&link, request.version());
            slot.exchange(request, body, interim).await?
        }
        Way::Plain(peer) => {
            let mut request = request.map(|()| body);
            serving.in_plaintext(&mut request)?;
            peer.send(request, interim).await?
        }
    };
    cleaned(response)
}

/// An answer without what only the mesh may say.
fn cleaned(mut response: Response<Body>) -> Result<Response<Body>, Failure> {
    wire::clean_answer(&mut response)?;
    Ok(response)
}

/// One sending of a request for an upgrade, or of CONNECT.
async fn open(
    way: Way,
    request: Request<()>,
    serving: Serving<'_>,
    interim: &Interim<'_>,
) -> Result<Response<Behind>, Failure> {
    let mut response = match way {
        Way::Link(Lease { connection: link, slot }) => {
            serving.over_link(&link, request.version());
            let asked = request.headers().get(wire::WEFT_UPGRADE).cloned();
            let accepted =
                |status: StatusCode, headers: &HeaderMap| wire::accepts(asked.as_ref(), status, headers);
            match slot.open(request, accepted).await? {
                Opened::Stream(head, io) => head.map(|()| Behind::Tunnel(UpgradeIo::Http2(io))),
                Opened::Answer(response) => response.map(Behind::Body),
            }
        }
        Way::Plain(peer) => {
            let mut request = request.map(|()| Body::Empty);
            let original = serving.in_plaintext(&mut request)?;
            peer.open(request, original, interim).await?
        }
    };
    match response.body() {
        Behind::Body(_) => wire::clean_answer(&mut response)?,
        Behind::Tunnel(_) => wire::response_from_link(&mut response),
    }
    Ok(response)
}

impl Side for Outbound {
    const DIRECTION: Direction = Direction::Outbound;
    type Sent = Box<Pending>;
    type Waiting = Attempt;

    fn is_link(&self) -> bool {
        false
    }

    fn is_valid(&self) -> bool {
        true
    }

    fn restore(&self, request: &mut Request<Body>) -> Result<Original, ErrorCode> {
        let original = as_sent(request)?;
        self.login.set(wire::has_own_login(request));
        Ok(original)
    }

    fn series(&self, version: Version) -> &HttpSeries {
        let cluster = self.cluster();
        cluster.unserved.get(&cluster.ways.telemetry.shard, version)
    }

    /// A listener that stands for a service which has left the mesh refuses, as it refuses connections: its requests must
    /// not become plaintext without a word.
    fn judge(&self, _request: &Request<Body>) -> Result<(), ErrorCode> {
        if self.listener && !self.destination.is_in_mesh() { Err(ErrorCode::NoEndpoints) } else { Ok(()) }
    }

    fn prepare(&self, request: &mut Request<Body>, original: &Original, record: &mut RequestRecord) {
        record.trace.inject(request.headers_mut());
        wire::to_link(request, original.upgrade.clone());
        self.cluster().budget.deposit(Timestamp::at(record.started()));
    }

    fn send(
        &self,
        request: Request<Body>,
        version: Version,
        record: &mut RequestRecord,
    ) -> Start<Box<Pending>, Attempt> {
        let cluster = self.cluster();
        if !request.body().is_end_stream() {
            let (head, body) = request.into_parts();
            return Start::Waits(Attempt::first(Request::from_parts(head, ()), body));
        }
        let request = request.map(drop);
        let strict = cluster.mode() == MtlsMode::Strict;
        let now = Timestamp::at(record.started());
        let picked = strict.then(|| self.pick_home(now).or_else(|| cluster.pick_now(now, &[]))).flatten();
        let found = picked.and_then(|picked| Some((picked.links.link_now(&cluster.ways)?, picked)));
        let Some((Lease { connection: link, slot }, picked)) = found else {
            return Start::Waits(Attempt::first(request, Body::Empty));
        };
        self.settle(&picked);
        let links = Rc::clone(&picked.links);
        let spare = Spare::head(&request, cluster.ways.retries.connect_attempts > 1);
        Serving { cluster, picked, record: &mut *record }.over_link(&link, version);
        match slot.send_now(request) {
            Ok(sent) => Start::Sent(Box::new(Pending { sent, links, spare })),
            Err(error) => match spare.again(error.into(), cluster, &links, record) {
                Ok(again) => Start::Waits(Attempt::after(again, &links)),
                Err(failure) => Start::Failed(failure),
            },
        }
    }

    async fn finish(
        &self,
        pending: Box<Pending>,
        interim: &Interim<'_>,
        record: &mut RequestRecord,
    ) -> Result<Response<Body>, Failure> {
        let Pending { sent, links, spare } = *pending;
        let answer = sent.head(interim).await.map_err(Failure::from).and_then(cleaned);
        match self.judge_answer(answer, spare, &links, record) {
            ControlFlow::Break(done) => done,
            ControlFlow::Continue(again) => {
                Box::pin(self.carry(Attempt::after(again, &links), interim, record)).await
            }
        }
    }

    async fn carry(
        &self,
        attempt: Attempt,
        interim: &Interim<'_>,
        record: &mut RequestRecord,
    ) -> Result<Response<Body>, Failure> {
        let send = async |way: Way, request: Request<()>, body: Body, serving: Serving<'_>| {
            send(way, request, body, serving, interim).await
        };
        self.attempts(attempt, record, send).await
    }

    async fn open(
        &self,
        request: Request<Body>,
        _original: Original,
        interim: &Interim<'_>,
        record: &mut RequestRecord,
    ) -> Result<Response<Behind>, Failure> {
        let send = async |way: Way, request: Request<()>, _body: Body, serving: Serving<'_>| {
            open(way, request, serving, interim).await
        };
        self.attempts(Attempt::first(request.map(drop), Body::Empty), record, send).await
    }

    fn restore_answer<B>(&self, _response: &mut Response<B>) {}
}
