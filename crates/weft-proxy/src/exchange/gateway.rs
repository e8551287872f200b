//! Requests of a gateway's clients, to whatever their routes lead to.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::header::ORIGIN;
use http::{HeaderValue, Method, Request, Response, Version};
use weft_balance::Timestamp;
use weft_http::wire::{self, Original};
use weft_http::{Body, ErrorCode, Interim, judge};
use weft_route::filter::{Filters, Seen};
use weft_route::table::PathRule;
use weft_route::{Backend, HttpTable, Listener, ListenerKind, RequestView, Rule};
use weft_telemetry::HttpSeries;
use weft_telemetry::metrics::{Direction, TlsLabel};

use super::attempt::{Attempt, Client, Pending, Sender, Tries};
use super::{Side, Start, Verdict, as_sent, mirror};
use crate::cluster::Cluster;
use crate::failure::Failure;
use crate::gateway::GatewayDoor;
use crate::gateway::convert;
use crate::gateway::edge::{Coverage, EdgeTls};
use crate::gateway::forwarded::Forwarded;
use crate::gateway::port::Port;
use crate::gateway::session::{self, Session};
use crate::gateway::target::Target;
use crate::pools::Behind;
use crate::record::{ConnectionFacts, RequestRecord};
use crate::telemetry::{Labels, SeriesByVersion};

/// The side of one client of a gateway.
pub(crate) struct Gateway {
    door: Rc<GatewayDoor>,
    /// What it does may change while the connection is open: each request looks once.
    port: Arc<Port>,
    tls: Option<EdgeTls>,
    forwarded: Forwarded,
    client: Client,
    http2: bool,
    /// For requests that belong to no route.
    series: SeriesByVersion,
}

/// Where one request goes.
pub(crate) struct Routed {
    rule: Arc<Rule>,
    /// The place of its backend in the rule.
    backend: usize,
    cluster: Rc<Cluster>,
    /// Of a page that called, where the rule has an answer for its browser.
    origin: Option<HeaderValue>,
    /// The endpoint that the client has had, where the rule has it keep that.
    session: Option<Session>,
}

/// Why a request goes nowhere.
enum Stop {
    Refuse(ErrorCode),
    Answer(Box<Response<Body>>),
}

impl From<ErrorCode> for Stop {
    fn from(code: ErrorCode) -> Self {
        Self::Refuse(code)
    }
}

impl Gateway {
    pub(crate) fn new(
        door: &Rc<GatewayDoor>,
        port: &Arc<Port>,
        tls: Option<EdgeTls>,
        (client, local): (SocketAddr, SocketAddr),
        http2: bool,
    ) -> Self {
        let secure = tls.is_some();
        let series = SeriesByVersion::new(Labels {
            direction: Direction::Gateway,
            source_workload: Arc::from(""),
            destination_service: Arc::from(""),
            destination_workload: Arc::from(""),
            peer_identity: Arc::from(""),
            tls: if secure { TlsLabel::Tls } else { TlsLabel::None },
        });
        let trusted_hops = door.shared.config.resources.trusted_hops;
        Self {
            door: Rc::clone(door),
            port: Arc::clone(port),
            tls,
            forwarded: Forwarded::new(client, local, secure, trusted_hops),
            client: Client::default(),
            http2,
            series,
        }
    }

    /// What the requests of one connection have in common.
    pub(crate) fn facts(&self, client: SocketAddr, local: SocketAddr) -> Rc<ConnectionFacts> {
        let listener = self.tls.as_ref().map(|tls| Arc::clone(&tls.listener.label));
        Rc::new(ConnectionFacts {
            direction: Direction::Gateway,
            client,
            server: (local.ip().to_string().into(), local.port()),
            service: listener.unwrap_or_else(|| local.to_string().into()),
            source_identity: self.tls.as_ref().and_then(EdgeTls::client),
            destination_identity: None,
            tls: if self.tls.is_some() { TlsLabel::Tls } else { TlsLabel::None },
        })
    }

    /// The listener of a host name: that of the connection, if there is TLS, and what hangs on it by now.
    fn listener(&self, host: &str) -> Result<Arc<Listener>, ErrorCode> {
        let state = self.port.now();
        let listener = state.sockets.listeners.most_specific(host);
        match self.tls.as_ref().map(|tls| tls.coverage(&state.sockets, host)) {
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
    ) -> Result<Routed, Stop> {
        // There is no destination for a tunnel: a route's backends are for requests.
        if judge::asks_for_tunnel(request) {
            return Err(ErrorCode::MethodNotAllowed.into());
        }
        let target = Target::of(request)?;
        let listener = self.listener(&target.host)?;
        let table = table(&listener).ok_or(ErrorCode::NoRoute)?;
        let view = RequestView {
            host: &target.host,
            // WebSocket over HTTP/2 is CONNECT; over HTTP/1.1, and to routes, it is GET.
            method: if judge::asks_for_protocol(request) { &Method::GET } else { request.method() },
            path: &target.path,
            query: target.query.as_deref(),
            headers: request.headers(),
        };
        let found = table.find(&view).ok_or(ErrorCode::NoRoute)?;
        let rule = Arc::clone(found.rule);
        record.routed(&rule.label, rule.request_timeout);
        self.answer_at_once(&rule, found.path, request, &target, &listener)?;
        let session = rule.session.as_ref();
        let session = session.and_then(|policy| Session::of(policy, request.headers(), SystemTime::now()));
        let (backend, place) = self.pick(&rule, session)?;
        let upstream = backend.upstream.as_ref().map_err(|problem| {
            tracing::debug!(rule = %rule.id, %problem, "a request for a backend that cannot be used");
            ErrorCode::BackendInvalid
        })?;
        let origin = rule.filters.cors.as_ref().or(backend.filters.cors.as_ref());
        let origin = origin.and_then(|_| request.headers().get(ORIGIN).cloned());
        let cluster = self.door.upstreams.get(upstream, &self.door.outbound.destinations);
        let grpc = rule.grpc || record.grpc;
        let version = convert::version(upstream.protocol, grpc);
        self.make_ready(request, original, &target, (&rule.filters, &backend.filters), found.path, version)?;
        let routed = Routed { backend: place, cluster, origin, session, rule: Arc::clone(&rule) };
        self.door.count(&listener, &routed.rule, &routed.cluster);
        Ok(routed)
    }

    /// What a rule answers without a backend.
    fn answer_at_once(
        &self,
        rule: &Rule,
        matched: &PathRule,
        request: &Request<Body>,
        target: &Target,
        listener: &Listener,
    ) -> Result<(), Stop> {
        let filters = &rule.filters;
        let preflight =
            filters.cors.as_ref().and_then(|cors| cors.preflight(request.method(), request.headers()));
        if let Some(response) = preflight {
            return Err(Stop::Answer(Box::new(response.map(|()| Body::Empty))));
        }
        let Some(redirect) = &filters.redirect else { return Ok(()) };
        // Without a host the first element of the path would be read as one.
        if redirect.host.is_none() && target.host.is_empty() {
            return Err(ErrorCode::BadRequest.into());
        }
        let seen = Seen {
            tls: self.tls.is_some(),
            host: &target.host,
            port: listener.port,
            path: &target.path,
            query: target.query.as_deref(),
        };
        let mut response = redirect.answer(&seen, matched).ok_or(ErrorCode::BadRequest)?;
        filters.response.apply(response.headers_mut());
        Err(Stop::Answer(Box::new(response.map(|()| Body::Empty))))
    }

    /// The backend whose turn it is; a client that keeps its endpoint keeps the backend that has it.
    fn pick<'r>(&self, rule: &'r Rule, session: Option<Session>) -> Result<(&'r Backend, usize), ErrorCode> {
        let kept = session.and_then(|session| {
            rule.backends.iter().zip(0..).find(|(backend, _)| {
                let upstream = backend.upstream.as_ref().ok().filter(|_| backend.weight > 0);
                upstream.is_some_and(|upstream| {
                    let cluster = self.door.upstreams.get(upstream, &self.door.outbound.destinations);
                    cluster.has(|addr| session::mark(addr) == session.mark())
                })
            })
        });
        if let Some(kept) = kept {
            return Ok(kept);
        }
        let place = rule.backends.place(&mut self.door.rng.borrow_mut()).ok_or(ErrorCode::BackendInvalid)?;
        let backend = rule.backends.get(place).ok_or(ErrorCode::BackendInvalid)?;
        Ok((backend, place))
    }

    /// Mirrors, changes and converts a request for its backend.
    fn make_ready(
        &self,
        request: &mut Request<Body>,
        original: &mut Original,
        target: &Target,
        (of_rule, of_backend): (&Filters, &Filters),
        matched: &PathRule,
        version: Version,
    ) -> Result<(), ErrorCode> {
        let headers = request.headers_mut();
        self.forwarded.apply(headers, &target.authority);
        of_rule.request.apply(headers);
        of_backend.request.apply(headers);
        let (mut host, mut path) = (&target.authority, None);
        for rewrite in [&of_rule.rewrite, &of_backend.rewrite].into_iter().flatten() {
            host = rewrite.host.as_ref().unwrap_or(host);
            path = rewrite.path.as_ref().map(|to| to.apply(&target.path, matched)).or(path);
        }
        let uri = target.uri(path.as_deref().unwrap_or(&target.path))?;
        convert::request(request, original, version, host, uri)
    }

    /// What the client is told, after what the route does to answers.
    fn filtered<B>(&self, routed: &Routed, mut response: Response<B>, record: &RequestRecord) -> Response<B> {
        let backend = routed.rule.backends.get(routed.backend);
        let of_backend = backend.map(|backend| &backend.filters);
        let headers = response.headers_mut();
        if let Some(filters) = of_backend {
            filters.response.apply(headers);
        }
        routed.rule.filters.response.apply(headers);
        let cors = routed.rule.filters.cors.as_ref().or(of_backend.and_then(|filters| filters.cors.as_ref()));
        if let Some(cors) = cors {
            cors.decorate(routed.origin.as_ref(), headers);
        }
        if let (Some(policy), Some(endpoint)) = (&routed.rule.session, record.upstream()) {
            let secure = self.tls.is_some();
            session::tell(policy, routed.session, endpoint, secure, SystemTime::now(), headers);
        }
        response
    }
}

/// The rules of a listener.
fn table(listener: &Listener) -> Option<&Arc<HttpTable>> {
    match &listener.kind {
        ListenerKind::Http(table) | ListenerKind::Https(_, table) => Some(table),
        ListenerKind::Tls(..) | ListenerKind::Passthrough(_) | ListenerKind::Tcp(_) => None,
    }
}

/// Has the requests of one rule sent.
fn sender<'a>(client: &'a Client, routed: &'a Routed) -> Sender<'a> {
    let usual = routed.cluster.ways.retries.connect_attempts;
    let each = routed.rule.try_timeout;
    let tries = match &routed.rule.retry {
        None => Tries { each, ..Tries::harmless(usual) },
        Some(retry) => Tries {
            most: retry.attempts.saturating_add(1).max(usual),
            codes: &retry.codes,
            backoff: retry.backoff.max(Duration::from_millis(1)),
            each,
        },
    };
    Sender { cluster: &routed.cluster, client, tries, session: routed.session.map(Session::mark) }
}

impl Side for Gateway {
    const DIRECTION: Direction = Direction::Gateway;
    type Route = Box<Routed>;
    type Sent = (Box<Routed>, Box<Pending>);
    type Waiting = (Box<Routed>, Attempt);

    fn is_link(&self) -> bool {
        false
    }

    fn is_valid(&self) -> bool {
        true
    }

    fn restore(&self, request: &mut Request<Body>) -> Result<Original, ErrorCode> {
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
    ) -> Verdict<Box<Routed>> {
        let routed = match self.find(request, original, record) {
            Ok(routed) => routed,
            Err(Stop::Refuse(code)) => return Verdict::Refuse(code),
            Err(Stop::Answer(response)) => return Verdict::Answer(response),
        };
        record.trace.inject(request.headers_mut());
        if original.upgrade.is_none() {
            mirror::send(&self.door, &routed.rule, routed.backend, request);
        }
        wire::to_link(request, original.upgrade.clone());
        routed.cluster.budget.deposit(Timestamp::at(record.started()));
        Verdict::Go(Box::new(routed))
    }

    fn send(
        &self,
        routed: Box<Routed>,
        request: Request<Body>,
        version: Version,
        record: &mut RequestRecord,
    ) -> Start<Self::Sent, Self::Waiting> {
        match sender(&self.client, &routed).start(request, version, record) {
            Start::Sent(pending) => Start::Sent((routed, pending)),
            Start::Waits(attempt) => Start::Waits((routed, attempt)),
            Start::Failed(failure) => Start::Failed(failure),
        }
    }

    async fn finish(
        &self,
        (routed, pending): Self::Sent,
        interim: &Interim<'_>,
        record: &mut RequestRecord,
    ) -> Result<Response<Body>, Failure> {
        let response = sender(&self.client, &routed).finish(pending, interim, record).await?;
        Ok(self.filtered(&routed, response, record))
    }

    async fn carry(
        &self,
        (routed, attempt): Self::Waiting,
        interim: &Interim<'_>,
        record: &mut RequestRecord,
    ) -> Result<Response<Body>, Failure> {
        let response = sender(&self.client, &routed).carry(attempt, interim, record).await?;
        Ok(self.filtered(&routed, response, record))
    }

    async fn open(
        &self,
        routed: Box<Routed>,
        request: Request<Body>,
        _original: Original,
        interim: &Interim<'_>,
        record: &mut RequestRecord,
    ) -> Result<Response<Behind>, Failure> {
        let response = sender(&self.client, &routed).open(request, interim, record).await?;
        Ok(self.filtered(&routed, response, record))
    }

    fn restore_answer<B>(&self, response: &mut Response<B>) {
        if self.http2 {
            convert::answer(response);
        }
    }
}
