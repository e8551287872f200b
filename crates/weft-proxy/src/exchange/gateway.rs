//! Requests of a gateway's clients, to whatever their routes lead to.

use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::SystemTime;

use http::{HeaderValue, Request, Response, Version};
use weft_balance::Timestamp;
use weft_http::grpc_web::Web;
use weft_http::headers::X_FORWARDED_CLIENT_CERT;
use weft_http::wire::{self, Original};
use weft_http::{Body, ErrorCode, Excess, Interim, judge};
use weft_identity::PeerIdentity;
use weft_route::{HttpTable, Listener, ListenerKind, UpstreamProtocol};
use weft_telemetry::HttpSeries;
use weft_telemetry::metrics::{Direction, TlsLabel};

use super::at_once::{Pending, finish};
use super::attempt::{Attempt, Client};
use super::routed::{Routed, Stop, answer_at_once, note};
use super::{Side, Start, Verdict, as_sent, client_cert, mirror};
use crate::failure::Failure;
use crate::gateway::GatewayDoor;
use crate::gateway::compress;
use crate::gateway::edge::{Coverage, EdgeTls};
use crate::gateway::forwarded::Forwarded;
use crate::gateway::intake;
use crate::gateway::port::Port;
use crate::pools::Behind;
use crate::record::{ConnectionFacts, RequestRecord};
use crate::routing::convert;
use crate::routing::target::Target;
use crate::telemetry::{Labels, SeriesByVersion, workload_of};

/// How a client comes to a gateway.
pub(crate) enum Came {
    /// In plaintext.
    Plain,
    /// Over TLS, to one listener.
    Tls(EdgeTls),
    /// It is a workload of the mesh, and its sidecar has come over a mesh link.
    Mesh(Rc<PeerIdentity>),
}

impl Came {
    fn tls(&self) -> Option<&EdgeTls> {
        match self {
            Self::Tls(tls) => Some(tls),
            Self::Plain | Self::Mesh(_) => None,
        }
    }

    fn peer(&self) -> Option<&Rc<PeerIdentity>> {
        match self {
            Self::Mesh(peer) => Some(peer),
            Self::Plain | Self::Tls(_) => None,
        }
    }

    /// Who it is, as far as that was proved.
    fn identity(&self) -> Option<Arc<str>> {
        match self {
            Self::Plain => None,
            Self::Tls(tls) => tls.client(),
            Self::Mesh(peer) => Some(peer.id.to_string().into()),
        }
    }

    fn label(&self) -> TlsLabel {
        match self {
            Self::Plain => TlsLabel::None,
            Self::Tls(_) => TlsLabel::Tls,
            Self::Mesh(_) => TlsLabel::Mutual,
        }
    }
}

/// The side of one client of a gateway.
pub(crate) struct Gateway {
    door: Rc<GatewayDoor>,
    /// What it does may change while the connection is open: each request looks once.
    port: Arc<Port>,
    came: Came,
    forwarded: Forwarded,
    /// What the backend is told of a workload of the mesh.
    client_cert: Option<HeaderValue>,
    client: Client,
    /// For requests that belong to no route.
    series: SeriesByVersion,
}

/// Where one request goes, and what becomes of its answer.
pub(crate) struct Bound {
    to: Routed,
    /// In which coding the client takes its answer.
    compress: compress::Asked,
    /// Tells when the client sends more than it may.
    excess: Option<Excess>,
}

impl Gateway {
    pub(crate) fn new(
        door: &Rc<GatewayDoor>,
        port: &Arc<Port>,
        came: Came,
        (client, local): (SocketAddr, SocketAddr),
    ) -> Self {
        let peer = came.peer();
        let series = SeriesByVersion::new(Labels {
            direction: Direction::Gateway,
            source_workload: peer.map_or_else(|| Arc::from(""), |peer| workload_of(&peer.id)),
            destination_service: Arc::from(""),
            destination_workload: Arc::from(""),
            peer_identity: peer.map_or_else(|| Arc::from(""), |peer| peer.id.to_string().into()),
            tls: came.label(),
        });
        let client_cert = peer.and_then(|peer| client_cert(door.telemetry.own_identity().as_deref(), peer));
        // A sidecar has cleaned what its application sends, and adds no step of its own.
        let telling = if peer.is_some() { &door.of_mesh } else { &door.telling };
        Self {
            door: Rc::clone(door),
            port: Arc::clone(port),
            forwarded: Forwarded::new(client, local, came.tls().is_some(), telling),
            came,
            client_cert,
            client: Client::new(client, local),
            series,
        }
    }

    /// What the requests of one connection have in common.
    pub(crate) fn facts(&self, client: SocketAddr, local: SocketAddr) -> Rc<ConnectionFacts> {
        let listener = self.came.tls().map(|tls| Arc::clone(&tls.listener.label));
        Rc::new(ConnectionFacts {
            direction: Direction::Gateway,
            client,
            server: (local.ip().to_string().into(), local.port()),
            service: listener.unwrap_or_else(|| local.to_string().into()),
            source_identity: self.came.identity(),
            destination_identity: self.came.peer().and_then(|_| self.door.telemetry.own_identity()),
            tls: self.came.label(),
        })
    }

    /// The listener of a host name: that of the connection, if there is TLS, and what hangs on it by now.
    fn listener(&self, host: &str) -> Result<Arc<Listener>, ErrorCode> {
        let state = self.port.now();
        let listener = state.sockets.listeners.most_specific(host);
        match self.came.tls().map(|tls| tls.coverage(listener)) {
            Some(Coverage::Others) => Err(ErrorCode::Misdirected),
            _ => listener.cloned().ok_or(ErrorCode::NoRoute),
        }
    }

    /// Finds the way of a request and makes it ready for it.
    fn find(
        &self,
        request: &mut Request<Body>,
        original: &mut Original,
        record: &mut RequestRecord,
    ) -> Result<Bound, Stop> {
        // There is no destination for a tunnel: a route's backends are for requests.
        if judge::asks_for_tunnel(request) {
            return Err(ErrorCode::MethodNotAllowed.into());
        }
        let web = Web::of(request);
        if let Some(web) = &web {
            record.speaks_web(web.clone(), false);
        }
        if request.version() == Version::HTTP_2 {
            intake::head(&self.door.limits.http1, request)?;
        }
        let target = Target::of(request)?;
        let listener = self.listener(&target.host)?;
        let table = table(&listener).ok_or(ErrorCode::NoRoute)?;
        // Before routes look: they see what the backend gets, and not what the client has said of itself.
        self.tell(request, &target, record);
        let view = target.view(request);
        let found = table.find(&view).ok_or(ErrorCode::NoRoute)?;
        let rule = Arc::clone(found.rule);
        note(&rule, request, record);
        let door = (self.came.tls().is_some(), listener.port);
        answer_at_once(&rule, found.path, request, &target, door)?;
        let excess = intake::body(self.door.shared.config.edge.request_body, request)?;
        let mut to = Routed::choose(&self.door.routing, &rule, request)?;
        to.answer_at_once(found.path, request, &target, door, record)?;
        // What becomes gRPC-Web is a stream of messages, whatever its backend says.
        let compress = match &web {
            Some(_) => compress::Asked::default(),
            None => self.door.compressor.look(request),
        };
        // A backend that is not said to speak gRPC may speak gRPC-Web itself.
        if let Some(web) = web.filter(|_| rule.grpc || to.upstream.protocol == UpstreamProtocol::Grpc) {
            web.request(request);
            record.speaks_web(web, true);
        }
        let asked = convert::version(to.upstream.protocol, rule.grpc || record.grpc);
        let version = to.version(request, original, asked);
        let (host, uri) = to.change(request.headers_mut(), &target, found.path)?;
        to.accept = convert::request(request, original, version, host, uri)?;
        self.door.routing.count(&listener.label, &to.rule, &to.cluster);
        Ok(Bound { to, compress, excess })
    }

    /// Tells of the client, in the place of its own words.
    fn tell(&self, request: &mut Request<Body>, target: &Target, record: &mut RequestRecord) {
        let told = self.forwarded.apply(request.headers_mut(), &target.authority);
        record.identified(request.headers());
        // What a workload says is its own say.
        if let (Some(client), None) = (told, self.came.peer()) {
            record.made_for(client);
        }
        if let Some(client_cert) = &self.client_cert {
            request.headers_mut().insert(X_FORWARDED_CLIENT_CERT, client_cert.clone());
        }
    }

    /// What the client is told, after what the route does to answers.
    fn filtered<B>(&self, bound: &Bound, response: Response<B>, record: &RequestRecord) -> Response<B> {
        bound.to.filtered(response, record, self.came.tls().is_some())
    }

    /// The same, in the coding that the client takes.
    fn answered(&self, bound: &Bound, response: Response<Body>, record: &RequestRecord) -> Response<Body> {
        self.door.compressor.apply(bound.compress, self.filtered(bound, response, record))
    }
}

/// The rules of a listener.
fn table(listener: &Listener) -> Option<&Arc<HttpTable>> {
    match &listener.kind {
        ListenerKind::Http(table) | ListenerKind::Https(_, table) | ListenerKind::Mesh(table) => Some(table),
        ListenerKind::Tls(..) | ListenerKind::Passthrough(_) | ListenerKind::Tcp(_) => None,
    }
}

impl Side for Gateway {
    const DIRECTION: Direction = Direction::Gateway;
    type Route = Box<Bound>;
    type Sent = (Box<Bound>, Box<Pending>);
    type Waiting = (Box<Bound>, Attempt);

    fn is_link(&self) -> bool {
        self.came.peer().is_some()
    }

    /// No link goes on for longer than the certificate that it was opened with.
    fn is_valid(&self) -> bool {
        self.came.peer().is_none_or(|peer| SystemTime::now() < peer.not_after)
    }

    fn restore(&self, request: &mut Request<Body>) -> Result<Original, ErrorCode> {
        if self.is_link() {
            // Requests of many clients share a link: what is of one connection is none of it.
            return wire::from_link(request);
        }
        let original = as_sent(request)?;
        self.client.look(request);
        Ok(original)
    }

    fn series(&self, version: Version) -> &HttpSeries {
        self.series.get(&self.door.telemetry.shard, version)
    }

    fn route(
        &self,
        request: &mut Request<Body>,
        original: &mut Original,
        record: &mut RequestRecord,
    ) -> Verdict<Box<Bound>> {
        let bound = match self.find(request, original, record) {
            Ok(bound) => bound,
            Err(stop) => return stop.into(),
        };
        record.trace.inject(request.headers_mut());
        if original.upgrade.is_none() {
            mirror::send(&self.door.routing, Direction::Gateway, &bound.to, request);
        }
        bound.to.cluster.budget.deposit(Timestamp::at(record.started()));
        Verdict::Go(Box::new(bound))
    }

    fn send(
        &self,
        bound: Box<Bound>,
        request: Request<Body>,
        version: Version,
        record: &mut RequestRecord,
    ) -> Start<Self::Sent, Self::Waiting> {
        match bound.to.sender(&self.client).start(request, version, record) {
            Start::Sent(pending) => Start::Sent((bound, pending)),
            Start::Waits(attempt) => Start::Waits((bound, attempt)),
            Start::Failed(failure) => Start::Failed(failure),
        }
    }

    async fn finish(
        &self,
        (mut bound, pending): Self::Sent,
        interim: &Interim<'_>,
        record: &mut RequestRecord,
    ) -> Result<Response<Body>, Failure> {
        let excess = bound.excess.take();
        let answer = {
            let finishing = pin!(finish(pending, || bound.to.sender(&self.client), interim, &mut *record));
            match excess {
                None => finishing.await,
                // Boxed: few requests have a bound, and the future of a stream is moved for every one.
                Some(_) => Box::pin(intake::within(excess, finishing)).await,
            }
        };
        let response = answer?;
        Ok(self.answered(&bound, response, record))
    }

    async fn carry(
        &self,
        (mut bound, attempt): Self::Waiting,
        interim: &Interim<'_>,
        record: &mut RequestRecord,
    ) -> Result<Response<Body>, Failure> {
        let excess = bound.excess.take();
        let sender = bound.to.sender(&self.client);
        let response = intake::within(excess, pin!(sender.carry(attempt, interim, record))).await?;
        Ok(self.answered(&bound, response, record))
    }

    async fn open(
        &self,
        bound: Box<Bound>,
        request: Request<Body>,
        original: Original,
        interim: &Interim<'_>,
        record: &mut RequestRecord,
    ) -> Result<Response<Behind>, Failure> {
        let response = bound.to.sender(&self.client).open(request, original, interim, record).await?;
        bound.to.check(&response)?;
        Ok(self.filtered(&bound, response, record))
    }

    /// A link gets the answer marked.
    fn restore_answer<B>(&self, response: &mut Response<B>) {
        if self.is_link() {
            wire::response_to_link(response);
        }
    }
}
