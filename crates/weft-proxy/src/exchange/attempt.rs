//! One request on its way to a cluster: which endpoint, over which way, and what is tried when that fails.
//!
//! An application's sidecar and a gateway send alike; what differs is whose requests they are and what is asked of a further try
//! ([`Tries`]).

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Version};
use http_body::Body as _;
use weft_balance::Timestamp;
use weft_core::{EndpointAddr, ProxyProtocol};
use weft_http::wire::{self, Original};
use weft_http::{Body, ErrorCode, Interim, Lease, Opened, Replay, UpgradeIo, unanswered};
use weft_net::proxy_protocol::ProxyHeader;
use weft_telemetry::trace::TraceContext;

use super::retry::{Again, Spare, allow, was_refused};
use crate::cluster::{Cluster, EndpointLinks, Link, Picked, PlainPeer};
use crate::dial::{Announced, DialError};
use crate::failure::{Effect, Failure};
use crate::pools::Behind;
use crate::record::{RequestRecord, complete};
use crate::routing::session;

/// What a client's connection has to do with the endpoints that its requests go to.
#[derive(Default)]
pub(super) struct Client {
    /// The client's login belongs to its connection, and so to one endpoint: its last.
    login: Cell<bool>,
    home: Cell<Option<EndpointAddr>>,
    /// Whose it is, for endpoints that want to know of each connection; `None`: this process's.
    whose: Option<ProxyHeader>,
    /// Its connections to those.
    own: RefCell<Vec<(Weak<EndpointLinks>, Rc<PlainPeer>)>>,
}

/// To how many endpoints a client keeps connections of its own.
const OWN: usize = 8;

impl Client {
    /// Of a connection from `source`, to where it wanted to go.
    pub(super) fn new(source: SocketAddr, destination: SocketAddr) -> Self {
        Self { whose: Some(ProxyHeader::Proxied { source, destination }), ..Self::default() }
    }

    /// The connections to an endpoint that are this client's alone.
    fn own(&self, links: &Rc<EndpointLinks>) -> Option<Rc<PlainPeer>> {
        let own = self.own.borrow();
        let of = own.iter().find(|(of, _)| std::ptr::eq(of.as_ptr(), Rc::as_ptr(links)));
        of.map(|(_, peer)| Rc::clone(peer))
    }

    /// The same, from now on at the latest.
    fn own_or_new(
        &self,
        links: &Rc<EndpointLinks>,
        cluster: &Cluster,
        version: ProxyProtocol,
    ) -> Rc<PlainPeer> {
        if let Some(peer) = self.own(links) {
            return peer;
        }
        let peer = links.plain_of(cluster, Announced { version, header: self.whose });
        let mut own = self.own.borrow_mut();
        own.retain(|(of, _)| of.strong_count() > 0);
        if own.len() >= OWN {
            own.remove(0);
        }
        own.push((Rc::downgrade(links), Rc::clone(&peer)));
        peer
    }

    /// Looks whether a request that came over the connection has a login of it.
    pub(super) fn look<B>(&self, request: &Request<B>) {
        self.login.set(wire::has_own_login(request));
    }
}

/// When a request is tried again, besides what does no harm.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tries<'a> {
    /// Sendings at most, the first included.
    pub(super) most: u32,
    /// Statuses for which another is made, if the request can still be sent.
    pub(super) codes: &'a [u16],
    /// How long the first of those waits; the next twice as long.
    pub(super) backoff: Duration,
    /// How long one may take until the head of its answer.
    pub(super) each: Option<Duration>,
}

impl Tries<'_> {
    /// What does no harm, so often.
    pub(super) fn harmless(most: u32) -> Self {
        Self { most, codes: &[], backoff: Duration::ZERO, each: None }
    }

    /// Whether one sending says it all, so that it can be made without waiting.
    pub(super) fn is_plain(&self) -> bool {
        self.codes.is_empty() && self.each.is_none()
    }

    fn asks_for(&self, status: u16) -> bool {
        self.codes.contains(&status)
    }
}

/// A client's requests to one cluster.
#[derive(Clone, Copy)]
pub(super) struct Sender<'a> {
    pub(super) cluster: &'a Rc<Cluster>,
    pub(super) client: &'a Client,
    pub(super) tries: Tries<'a>,
    /// What the address of the endpoint comes to that has the client's session ([`session::mark`]).
    pub(super) session: Option<u64>,
}

/// Where a request goes: over a mesh link, or in plaintext where the mode allows it.
enum Way {
    Link(Lease<Link>),
    Plain(Rc<PlainPeer>),
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
    pub(super) fn first(request: Request<()>, body: Body) -> Self {
        Self { request, body, replay: None, tried: Vec::new(), because: None }
    }

    /// Of a request whose body is put aside already.
    pub(super) fn keeping(self, replay: Option<Replay>) -> Self {
        Self { replay, ..self }
    }

    pub(super) fn after(again: Again, links: &EndpointLinks) -> Self {
        let Again { request, body, replay, because } = again;
        let because = Some(because);
        let tried = if was_refused(&because) { Vec::new() } else { vec![links.endpoint.addr()] };
        Self { request, body, replay, tried, because }
    }
}

impl Sender<'_> {
    /// The endpoint that has the client's login or session.
    pub(super) fn pick_home(&self, now: Timestamp) -> Option<Picked> {
        if let Some(home) = self.client.home.get() {
            return self.cluster.pick_at(now, home);
        }
        let wanted = self.session?;
        self.cluster.pick_where(now, |addr| session::mark(addr) == wanted)
    }

    /// A request of the client goes to this endpoint.
    pub(super) fn settle(&self, picked: &Picked) {
        if self.client.login.get() {
            self.client.home.set(Some(picked.links.endpoint.addr()));
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
            None => self.cluster.reach(tried, connect).await?,
        };
        picked.in_flight.sent(Timestamp::now());
        self.settle(&picked);
        Ok((picked, way))
    }

    async fn connect(&self, picked: &Picked) -> Result<Way, DialError> {
        let (cluster, links) = (self.cluster, &picked.links);
        let mutual = async || links.link(cluster).await.map(Way::Link);
        let plain = async || Ok(Way::Plain(self.plain(links)));
        cluster.by_mode(links, mutual, plain).await
    }

    fn plain(&self, links: &Rc<EndpointLinks>) -> Rc<PlainPeer> {
        match self.cluster.announced() {
            None => links.plain(self.cluster),
            Some(version) => self.client.own_or_new(links, self.cluster, version),
        }
    }

    /// The same, where one is open that a request of this version can be sent over.
    pub(super) fn plain_now(&self, links: &Rc<EndpointLinks>, version: Version) -> Option<Rc<PlainPeer>> {
        match self.cluster.announced() {
            None => links.plain_now(version),
            Some(_) => self.client.own(links).filter(|peer| peer.is_open(version)),
        }
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
        let cluster = self.cluster;
        // A sending that a connection has refused is no try of the endpoint: the next one is the same try.
        let used = u32::from(because.is_some() && !was_refused(&because));
        let mut attempts = self.tries.most.saturating_sub(used).max(1);
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
            let sent = self.within(send(way, request, body, serving)).await;
            let again = match self.judge_answer(sent, spare, &links, record) {
                ControlFlow::Break(done) => return done,
                ControlFlow::Continue(again) => again,
            };
            (request, body, replay, because) = (again.request, again.body, again.replay, Some(again.because));
            let addr = links.endpoint.addr();
            if is_asked_for(&because) {
                tokio::time::sleep(self.pause(used + self.tries.most.saturating_sub(attempts))).await;
                self.avoid(&mut tried, addr);
            } else if was_refused(&because) && std::mem::take(&mut same) {
                attempts += 1;
            } else {
                tried.push(addr);
            }
        }
    }

    /// One sending, for as long as one may take.
    async fn within<B>(
        &self,
        sending: impl Future<Output = Result<Response<B>, Failure>>,
    ) -> Result<Response<B>, Failure> {
        let Some(limit) = self.tries.each else { return sending.await };
        let sent = tokio::time::timeout(limit, sending).await;
        sent.unwrap_or_else(|_| Err(ErrorCode::UpstreamTimeout.into()))
    }

    /// How long to wait before a further sending that was asked for: twice as long each time, with up to a half more, so that
    /// clients of one moment do not come again in one moment.
    fn pause(&self, sent: u32) -> Duration {
        let doubled = self.tries.backoff.saturating_mul(1 << sent.saturating_sub(1).min(6));
        doubled.mul_f64(1.0 + self.cluster.ways.rng.borrow_mut().f64() / 2.0)
    }

    /// Another endpoint is to have the next sending, if there is one.
    fn avoid(&self, tried: &mut Vec<EndpointAddr>, addr: EndpointAddr) {
        tried.push(addr);
        if self.cluster.pick_now(Timestamp::now(), tried).is_none() {
            tried.clear();
        }
    }

    /// Judges one sending: what the client is told of it, or the request that is sent again.
    pub(super) fn judge_answer<B>(
        &self,
        sent: Result<Response<B>, Failure>,
        spare: Spare,
        links: &EndpointLinks,
        record: &mut RequestRecord,
    ) -> ControlFlow<Result<Response<B>, Failure>, Again> {
        let failure = match sent {
            Ok(response) => {
                let marked = wire::is_marked(response.headers());
                match marked.then(|| unanswered(response.headers())).flatten() {
                    Some(code) => match spare.again(code.into(), self.cluster, links, record) {
                        Ok(again) => return ControlFlow::Continue(again),
                        // What the peer's proxy has said is the answer.
                        Err(_) => return ControlFlow::Break(Ok(response)),
                    },
                    None => return self.judge_status(response, spare, record),
                }
            }
            Err(failure) => failure,
        };
        let failure = self.asked_for(failure);
        match spare.again(failure, self.cluster, links, record) {
            Ok(again) => ControlFlow::Continue(again),
            Err(failure) => ControlFlow::Break(Err(failure)),
        }
    }

    /// An answer whose status the route wants another sending for, if there may be one: the client gets this answer otherwise.
    fn judge_status<B>(
        &self,
        response: Response<B>,
        spare: Spare,
        record: &mut RequestRecord,
    ) -> ControlFlow<Result<Response<B>, Failure>, Again> {
        if !self.tries.asks_for(response.status().as_u16()) {
            return ControlFlow::Break(Ok(response));
        }
        // What there is to say if meanwhile there is nobody any more.
        match spare.asked_for(self.cluster, ErrorCode::NoEndpoints) {
            Some(again) => {
                record.answered_badly();
                ControlFlow::Continue(again)
            }
            None => ControlFlow::Break(Ok(response)),
        }
    }

    /// A failure that the client would be told by a status the route wants another sending for.
    fn asked_for(&self, failure: Failure) -> Failure {
        let asked = failure.effect != Effect::None && self.tries.asks_for(failure.code.status().as_u16());
        if asked { Failure { effect: Effect::AskedFor, ..failure } } else { failure }
    }

    /// Carries a request through everything that may have to be waited for.
    pub(super) async fn carry(
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

    /// Carries a request for an upgrade, or CONNECT.
    pub(super) async fn open(
        &self,
        request: Request<Body>,
        original: Original,
        interim: &Interim<'_>,
        record: &mut RequestRecord,
    ) -> Result<Response<Behind>, Failure> {
        let send = async |way: Way, request: Request<()>, _body: Body, serving: Serving<'_>| {
            open(way, request, original.upgrade.clone(), serving, interim).await
        };
        self.attempts(Attempt::first(request.map(drop), Body::Empty), record, send).await
    }
}

/// Whether the route has asked for another sending.
fn is_asked_for(because: &Option<Failure>) -> bool {
    because.as_ref().is_some_and(|failure| failure.effect == Effect::AskedFor)
}

/// The endpoint that is to serve one sending.
pub(super) struct Serving<'a> {
    pub(super) cluster: &'a Cluster,
    pub(super) picked: Picked,
    pub(super) record: &'a mut RequestRecord,
}

impl Serving<'_> {
    pub(super) fn over_link(self, link: &Link, version: Version) {
        let series = link.series.get(&self.cluster.ways.telemetry.shard, version);
        let endpoint = self.picked.links.endpoint.addr().get();
        self.record.served_by(series, Some(self.picked.in_flight), endpoint, Some(Arc::clone(&link.peer)));
    }

    /// By an application without a sidecar.
    pub(super) fn over_plain(self, version: Version) {
        let series = self.cluster.unserved.get(&self.cluster.ways.telemetry.shard, version);
        let endpoint = self.picked.links.endpoint.addr().get();
        self.record.served_by(series, Some(self.picked.in_flight), endpoint, None);
    }
}

/// Makes a request ready for an application without a sidecar.
pub(super) fn finished(request: &mut Request<Body>, trace: TraceContext) -> Result<(), ErrorCode> {
    wire::name_host(request)?;
    // Nobody behind us will.
    complete(trace, request.headers_mut());
    Ok(())
}

/// One sending of an ordinary request.
async fn send(
    way: Way,
    mut request: Request<()>,
    body: Body,
    serving: Serving<'_>,
    interim: &Interim<'_>,
) -> Result<Response<Body>, Failure> {
    let response = match way {
        Way::Link(Lease { connection: link, slot }) => {
            serving.over_link(&link, request.version());
            wire::to_link(&mut request, None);
            slot.exchange(request, body, interim).await?
        }
        Way::Plain(peer) => {
            let mut request = request.map(|()| body);
            finished(&mut request, serving.record.trace.context)?;
            serving.over_plain(request.version());
            peer.send(request, interim).await?
        }
    };
    cleaned(response)
}

/// An answer without what only the mesh may say.
pub(super) fn cleaned(mut response: Response<Body>) -> Result<Response<Body>, Failure> {
    wire::clean_answer(&mut response)?;
    Ok(response)
}

/// One sending of a request for an upgrade, or of CONNECT.
async fn open(
    way: Way,
    mut request: Request<()>,
    upgrade: Option<HeaderValue>,
    serving: Serving<'_>,
    interim: &Interim<'_>,
) -> Result<Response<Behind>, Failure> {
    let mut response = match way {
        Way::Link(Lease { connection: link, slot }) => {
            serving.over_link(&link, request.version());
            wire::to_link(&mut request, upgrade.clone());
            let asked = upgrade;
            let accepted =
                |status: StatusCode, headers: &HeaderMap| wire::accepts(asked.as_ref(), status, headers);
            match slot.open(request, accepted).await? {
                Opened::Stream(head, io) => head.map(|()| Behind::Tunnel(UpgradeIo::Http2(io))),
                Opened::Answer(response) => response.map(Behind::Body),
            }
        }
        Way::Plain(peer) => {
            let mut request = request.map(|()| Body::Empty);
            finished(&mut request, serving.record.trace.context)?;
            serving.over_plain(request.version());
            let original = Original { version: request.version(), upgrade };
            peer.open(request, original, interim).await?
        }
    };
    match response.body() {
        Behind::Body(_) => wire::clean_answer(&mut response)?,
        Behind::Tunnel(_) => wire::response_from_link(&mut response),
    }
    Ok(response)
}
