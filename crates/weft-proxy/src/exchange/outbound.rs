//! Requests of the own application, over mesh links: to the service that it calls, or wherever the routes of that service lead.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use http::{Request, Response, Version};
use weft_balance::Timestamp;
use weft_core::MtlsMode;
use weft_http::wire::Original;
use weft_http::{Body, ErrorCode, Interim, judge};
use weft_route::HttpTable;
use weft_telemetry::HttpSeries;
use weft_telemetry::metrics::{Direction, TlsLabel};

use super::at_once::{Pending, finish};
use super::attempt::{Attempt, Client, Sender, Tries};
use super::routed::{Routed, Stop, answer_at_once, note};
use super::{Side, Start, Verdict, as_sent, mirror};
use crate::cluster::Cluster;
use crate::destination::Destination;
use crate::failure::Failure;
use crate::pools::Behind;
use crate::record::{ConnectionFacts, RequestRecord};
use crate::routing::target::Target;
use crate::routing::{Routing, convert};

/// The side of an application that calls a mesh destination.
pub(crate) struct Outbound {
    /// Holds it: what the configuration changes about it reaches this connection.
    destination: Rc<Destination>,
    /// `None`: this process follows no routes.
    routing: Option<Rc<Routing>>,
    /// The connection came to a listener that stands for the service, and not to an address of it.
    listener: bool,
    client: Client,
}

impl Outbound {
    /// Of a connection from `client`, to where it wanted to go.
    pub(crate) fn new(
        destination: Rc<Destination>,
        routing: Option<Rc<Routing>>,
        listener: bool,
        (client, server): (SocketAddr, SocketAddr),
    ) -> Self {
        Self { destination, routing, listener, client: Client::new(client, server) }
    }

    /// What the requests of one connection have in common.
    pub(crate) fn facts(&self, client: SocketAddr) -> Rc<ConnectionFacts> {
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

    /// To the service itself, or where its routes say.
    fn sender<'a>(&'a self, routed: &'a Way) -> Sender<'a> {
        if let Some(routed) = routed {
            return routed.sender(&self.client);
        }
        let cluster = self.cluster();
        let tries = Tries::harmless(cluster.ways.retries.connect_attempts);
        Sender { cluster, client: &self.client, tries, session: None }
    }

    /// Finds the way of a request among the routes of the service, and makes it ready for it.
    fn find(
        &self,
        (routing, table): (&Rc<Routing>, &HttpTable),
        request: &mut Request<Body>,
        original: &mut Original,
        record: &mut RequestRecord,
    ) -> Result<Box<Routed>, Stop> {
        // A tunnel has no path that a route could look at.
        if judge::asks_for_tunnel(request) {
            return Err(ErrorCode::MethodNotAllowed.into());
        }
        let target = Target::of(request)?;
        let view = target.view(request);
        let found = table.find(&view).ok_or(ErrorCode::NoRoute)?;
        let rule = found.rule;
        note(rule, request, record);
        let door = (false, self.destination.server.1);
        answer_at_once(rule, found.path, request, &target, door)?;
        let mut routed = Routed::choose(routing, rule, request)?;
        routed.answer_at_once(found.path, request, &target, door, record)?;
        let asked = convert::kept(routed.upstream.protocol, request.version());
        let version = routed.version(request, original, asked);
        let (host, uri) = routed.change(request.headers_mut(), &target, found.path)?;
        if version == request.version() {
            convert::readdress(request, host, uri)?;
        } else {
            routed.accept = convert::request(request, original, version, host, uri)?;
        }
        routing.count(&self.destination.label, rule, &routed.cluster);
        Ok(Box::new(routed))
    }

    /// What the application is told.
    fn filtered<B>(&self, routed: &Way, response: Response<B>, record: &RequestRecord) -> Response<B> {
        match routed {
            Some(routed) => routed.filtered(response, record, false),
            None => response,
        }
    }
}

/// Where a request goes; `None`: to the service that was called.
type Way = Option<Box<Routed>>;

impl Side for Outbound {
    const DIRECTION: Direction = Direction::Outbound;
    type Route = Way;
    type Sent = (Way, Box<Pending>);
    type Waiting = (Way, Attempt);

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
        let cluster = self.cluster();
        cluster.unserved.get(&cluster.ways.telemetry.shard, version)
    }

    /// A listener that stands for a service which has left the mesh refuses, as it refuses connections: its requests must
    /// not become plaintext without a word.
    fn route(
        &self,
        request: &mut Request<Body>,
        original: &mut Original,
        record: &mut RequestRecord,
    ) -> Verdict<Way> {
        if self.listener && !self.destination.is_in_mesh() {
            return Verdict::Refuse(ErrorCode::NoEndpoints);
        }
        let routes = self.routing.as_ref().and_then(|routing| Some((routing, self.destination.routes()?)));
        let way = match routes {
            None => None,
            Some((routing, table)) => match self.find((routing, &table), request, original, record) {
                Ok(routed) => Some(routed),
                Err(stop) => return stop.into(),
            },
        };
        record.trace.inject(request.headers_mut());
        if let (Some(routing), Some(routed), None) = (&self.routing, &way, &original.upgrade) {
            mirror::send(routing, Direction::Outbound, routed, request);
        }
        let cluster = way.as_ref().map_or(self.cluster(), |routed| &routed.cluster);
        cluster.budget.deposit(Timestamp::at(record.started()));
        Verdict::Go(way)
    }

    fn send(
        &self,
        way: Way,
        request: Request<Body>,
        version: Version,
        record: &mut RequestRecord,
    ) -> Start<Self::Sent, Self::Waiting> {
        match self.sender(&way).start(request, version, record) {
            Start::Sent(pending) => Start::Sent((way, pending)),
            Start::Waits(attempt) => Start::Waits((way, attempt)),
            Start::Failed(failure) => Start::Failed(failure),
        }
    }

    async fn finish(
        &self,
        (way, pending): Self::Sent,
        interim: &Interim<'_>,
        record: &mut RequestRecord,
    ) -> Result<Response<Body>, Failure> {
        let response = finish(pending, || self.sender(&way), interim, record).await?;
        Ok(self.filtered(&way, response, record))
    }

    async fn carry(
        &self,
        (way, attempt): Self::Waiting,
        interim: &Interim<'_>,
        record: &mut RequestRecord,
    ) -> Result<Response<Body>, Failure> {
        let response = self.sender(&way).carry(attempt, interim, record).await?;
        Ok(self.filtered(&way, response, record))
    }

    async fn open(
        &self,
        way: Way,
        request: Request<Body>,
        original: Original,
        interim: &Interim<'_>,
        record: &mut RequestRecord,
    ) -> Result<Response<Behind>, Failure> {
        let response = self.sender(&way).open(request, original, interim, record).await?;
        way.as_ref().map_or(Ok(()), |routed| routed.check(&response))?;
        Ok(self.filtered(&way, response, record))
    }

    fn restore_answer<B>(&self, _response: &mut Response<B>) {}
}
