//! A gateway: listeners of its own in front of what a sidecar has.
//!
//! [`doors`] runs on the control thread: it binds what the program says, and hands sockets to the workers. A [`port`] is
//! what both share: what it does changes in place. On a worker a connection goes through [`announced`] where a load balancer says whose
//! it is, through [`tls`] where its port has any, and then to [`http`] or [`l4`] as an [`edge::Edge`].

mod announced;
pub(crate) mod compress;
pub(crate) mod doors;
pub(crate) mod edge;
pub(crate) mod forwarded;
mod http;
pub(crate) mod intake;
mod l4;
mod mesh;
pub(crate) mod port;
#[cfg(test)]
mod testing;
mod tls;

use std::rc::Rc;
use std::sync::Arc;

use bytes::BytesMut;
use tokio::net::TcpStream;
use weft_core::Drain;
use weft_net::{Accepted, Prefixed};
use weft_route::{Listener, ListenerKind, SocketKind};
use weft_telemetry::metrics::Direction;

use crate::connections::Listed;
use crate::limits::Limits;
use crate::open::OpenGuard;
use crate::outbound::OutboundDoor;
use crate::routing::Routing;
use crate::shared::Shared;
use crate::telemetry::WorkerTelemetry;
use announced::Announced;
use compress::Compressor;
use edge::{Edge, EdgeIo};
use port::{Port, PortState};

/// What a gateway's connections of one worker need.
pub(crate) struct GatewayDoor {
    pub(crate) shared: Arc<Shared>,
    pub(crate) telemetry: Rc<WorkerTelemetry>,
    pub(crate) limits: Rc<Limits>,
    /// Who tells for whom it connects; `None`: nobody.
    announced: Option<Announced>,
    /// Whose word on clients is believed, and what backends are told of them.
    pub(crate) telling: Rc<forwarded::Telling>,
    /// The same for workloads of the mesh.
    pub(crate) of_mesh: Rc<forwarded::Telling>,
    /// The ways to destinations, which are those of a sidecar.
    pub(crate) outbound: Rc<OutboundDoor>,
    /// Where requests go.
    pub(crate) routing: Rc<Routing>,
    pub(crate) compressor: Compressor,
}

impl GatewayDoor {
    pub(crate) fn new(
        shared: &Arc<Shared>,
        telemetry: &Rc<WorkerTelemetry>,
        limits: &Rc<Limits>,
        outbound: &Rc<OutboundDoor>,
        routing: &Rc<Routing>,
    ) -> Rc<Self> {
        Rc::new(Self {
            telling: forwarded::Telling::new(&shared.config.edge),
            of_mesh: forwarded::Telling::of_mesh(&shared.config.edge),
            announced: Announced::new(&shared.config.edge.proxy_protocol, &telemetry.shard),
            compressor: Compressor::new(shared.config.resources.compression.clone()),
            shared: Arc::clone(shared),
            telemetry: Rc::clone(telemetry),
            limits: Rc::clone(limits),
            outbound: Rc::clone(outbound),
            routing: Rc::clone(routing),
        })
    }
}

/// A connection that was accepted, with all that hangs on it.
struct Visit {
    door: Rc<GatewayDoor>,
    accepted: Accepted,
    /// What was read of it already.
    first: BytesMut,
    port: Arc<Port>,
    state: Arc<PortState>,
    listed: Listed,
    open: OpenGuard,
}

/// Serves one connection.
pub(crate) async fn serve(door: Rc<GatewayDoor>, accepted: Accepted, open: OpenGuard, port: Arc<Port>) {
    let state = port.now();
    let connections = &door.shared.connections;
    let listed = connections.open(Direction::Gateway, accepted.client, Some(accepted.local), None);
    let mut visit = Visit { door, accepted, first: BytesMut::new(), port, state, listed, open };
    // Boxed: most ports have nobody in front.
    if visit.is_announced() && !Box::pin(visit.announce()).await {
        return;
    }
    match visit.state.kind() {
        SocketKind::Http => {
            let drain = visit.port.drain.clone();
            let (door, edge) = visit.into_edge(plain, None, drain);
            drop(tokio::task::spawn_local(http::serve(door, edge)));
        }
        SocketKind::Tls => Box::pin(tls::serve(visit)).await,
        SocketKind::Mesh => Box::pin(mesh::serve(visit)).await,
        SocketKind::Tcp => match visit.listener("") {
            Some((listener, drain)) => Box::pin(tcp(visit, listener, drain)).await,
            None => visit.refuse("no_listener"),
        },
    }
}

/// Bytes that nobody looks at.
async fn tcp(visit: Visit, listener: Arc<Listener>, drain: Drain) {
    let rule = match &listener.kind {
        ListenerKind::Tcp(rule) => rule.clone(),
        _ => None,
    };
    let (door, edge) = visit.into_edge(plain, None, drain);
    l4::serve(door, edge, &listener, rule).await;
}

fn plain(first: BytesMut, stream: TcpStream) -> EdgeIo {
    EdgeIo::Plain(Prefixed::new(first.freeze(), stream))
}

impl Visit {
    /// Whether a load balancer has made the connection.
    fn is_announced(&self) -> bool {
        self.door.announced.as_ref().is_some_and(|announced| announced.expects(&self.accepted).is_some())
    }

    /// Has the load balancer say whose connection it is. `false`: it does not, and the connection is closed.
    async fn announce(&mut self) -> bool {
        let Self { door, accepted, port, .. } = self;
        let Some(announced) = &door.announced else { return true };
        let Some(trusted) = announced.expects(accepted) else { return true };
        // As long as everything else may take that comes before a first request.
        let limit = door.shared.config.timeouts.handshake;
        let Some(first) = announced.read(trusted, accepted, limit, port.drain.clone()).await else {
            return false;
        };
        let (client, local) = (self.accepted.client, self.accepted.local);
        self.listed.update(|info| (info.client, info.destination) = (client, Some(local)));
        self.first = first;
        // What the port does may have changed meanwhile.
        self.state = self.port.now();
        true
    }

    /// The listener of a server name (in lower case; empty: there is none), and what ends its connections.
    fn listener(&self, name: &str) -> Option<(Arc<Listener>, Drain)> {
        let listener = self.state.sockets.listeners.most_specific(name)?;
        let state = self.state.state_of(listener)?;
        Some((Arc::clone(listener), state.drain.clone()))
    }

    fn into_edge(
        self,
        io: impl FnOnce(BytesMut, TcpStream) -> EdgeIo,
        tls: Option<edge::EdgeTls>,
        drain: Drain,
    ) -> (Rc<GatewayDoor>, Edge) {
        let Self { door, accepted, first, port, listed, open, .. } = self;
        let Accepted { stream, client, local } = accepted;
        let client = client.get();
        (door, Edge { io: io(first, stream), client, local, port, tls, drain, open, listed })
    }

    fn refuse(self, why: &'static str) {
        self.door.telemetry.gateway().detections.inc(why);
        tracing::debug!(client = %self.accepted.client, at = %self.port.at, why, "refused a connection");
        weft_net::reset(self.accepted.stream);
    }
}
