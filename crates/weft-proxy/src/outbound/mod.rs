//! Outbound: connections of the own application to others.
//!
//! accept → original destination (or the listener's) → is it in the mesh → what is spoken → requests or bytes over a mesh
//! link. What is not in the mesh passes through untouched.

mod passthrough;
pub(crate) mod tcp;

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::net::TcpStream;
use weft_core::{AppProtocol, Drain, EndpointAddr, ServiceKey};
use weft_http::{serve_http1, serve_http2};
use weft_net::{Accepted, Destination as Captured, Detected, Prefixed, detect_first};
use weft_telemetry::metrics::Direction;

use crate::connections::Listed;
use crate::destination::{Destination, Destinations, Spoken, Target};
use crate::dial::Dialer;
use crate::exchange::{Exchange, Outbound, Times};
use crate::limits::Limits;
use crate::open::OpenGuard;
use crate::routing::Routing;
use crate::shared::Shared;
use crate::silence::silence;
use crate::telemetry::WorkerTelemetry;

/// What outbound connections of one worker need.
pub(crate) struct OutboundDoor {
    pub(crate) shared: Arc<Shared>,
    pub(crate) telemetry: Rc<WorkerTelemetry>,
    pub(crate) limits: Rc<Limits>,
    pub(crate) destinations: Rc<Destinations>,
    /// Where the requests of services with routes go; `None`: this process follows none.
    pub(crate) routing: Option<Rc<Routing>>,
    pub(crate) dialer: Rc<Dialer>,
}

/// How long a destination whose clients speak first may stay silent before its server is asked whether it does: long,
/// because a client that opens connections in advance is common, and a protocol that changes its mind is not.
const CLIENT_FIRST_PATIENCE: Duration = Duration::from_secs(1);

/// Serves one captured connection.
pub(crate) async fn serve(door: Rc<OutboundDoor>, accepted: Accepted, open: OpenGuard) {
    let dst = match accepted.destination() {
        Ok(Captured::Captured(dst)) => dst,
        Ok(Captured::Direct(_)) | Err(_) => return refuse(&door, accepted, "not_redirected"),
    };
    // A connection whose destination is the proxy itself would come back for ever.
    if door.shared.is_loop(dst) {
        door.telemetry.outbound.error(weft_http::ErrorCode::Loop);
        return refuse(&door, accepted, "loop");
    }
    let target = Target::of(&door.shared, dst).await;
    let dialed = EndpointAddr::new(dst.get());
    let destination = door.destinations.get(&target, Some(dialed));
    let opaque = is_opaque(&door, dst.port());
    let label = destination.as_ref().map_or_else(|| target.label(), |known| Arc::clone(&known.label));
    let call = Call::new(door, accepted, open, Some(dialed), Arc::clone(&label));
    match destination {
        Some(destination) => Box::pin(mesh(call, destination, opaque)).await,
        None => Box::pin(passthrough::serve(call, &target, label, dialed, opaque)).await,
    }
}

/// Serves a connection to the listener of one service.
pub(crate) async fn serve_service(
    door: Rc<OutboundDoor>,
    accepted: Accepted,
    open: OpenGuard,
    service: &ServiceKey,
) {
    match door.destinations.get(&Target::Service(service.clone()), None) {
        Some(destination) => {
            let opaque = is_opaque(&door, service.port);
            let call = Call::new(door, accepted, open, None, Arc::clone(&destination.label));
            Box::pin(mesh(call, destination, opaque)).await;
        }
        // It has left the mesh since the start. What was mutual TLS must not become plaintext without a word.
        None => refuse(&door, accepted, "outside_mesh"),
    }
}

/// One connection of the application on its way.
pub(crate) struct Call {
    pub(crate) door: Rc<OutboundDoor>,
    pub(crate) accepted: Accepted,
    pub(crate) listed: Listed,
    /// Where it was going; `None`: it came to a listener that stands for a service.
    dialed: Option<SocketAddr>,
    pub(crate) _open: OpenGuard,
}

impl Call {
    /// Lists the connection with where it goes, as far as that is known.
    fn new(
        door: Rc<OutboundDoor>,
        accepted: Accepted,
        open: OpenGuard,
        dialed: Option<EndpointAddr>,
        service: Arc<str>,
    ) -> Self {
        let dialed = dialed.map(EndpointAddr::get);
        let connections = &door.shared.connections;
        let listed = connections.open(Direction::Outbound, accepted.client, dialed, Some(service));
        Self { door, accepted, listed, dialed, _open: open }
    }

    /// What its requests are handed to.
    fn exchange(&self, destination: Rc<Destination>) -> Rc<Exchange<Outbound>> {
        let timeouts = &self.door.shared.config.timeouts;
        let times = Times { request: timeouts.request, tunnel_idle: timeouts.tcp_idle };
        let client = self.accepted.client.get();
        let between = (client, self.dialed.unwrap_or(self.accepted.local));
        let side = Outbound::new(destination, self.door.routing.clone(), self.dialed.is_none(), between);
        let facts = side.facts(client);
        Exchange::new(side, &self.door.telemetry, facts, times)
    }
}

fn refuse(door: &OutboundDoor, accepted: Accepted, why: &'static str) {
    door.telemetry.outbound.detections.inc(why);
    tracing::debug!(client = %accepted.client, local = %accepted.local, why, "refused an outbound connection");
    weft_net::reset(accepted.stream);
}

fn is_opaque(door: &OutboundDoor, port: u16) -> bool {
    door.shared.snapshot.load().outbound.opaque_ports.contains(port)
}

async fn mesh(mut call: Call, destination: Rc<Destination>, opaque: bool) {
    let protocol = if opaque { AppProtocol::Opaque } else { destination.cluster.protocol().await };
    if protocol == AppProtocol::Opaque {
        call.door.telemetry.outbound.detections.inc("configured");
        return tcp::serve(call, destination, BytesMut::new()).await;
    }
    let mut first = BytesMut::new();
    // Nothing is waited for, and who speaks first is seen all the same: what was learned of a server may be wrong.
    if destination.spoken.get() == Spoken::ServerFirst && protocol != AppProtocol::Http {
        return tcp::race(call, destination, first).await;
    }
    let detected = if protocol == AppProtocol::Http {
        tokio::select! {
            biased;
            detected = detect_first(&mut call.accepted.stream, &mut first) => detected.ok(),
            () = silence(call.door.shared.config.timeouts.tcp_idle) => return,
        }
    } else {
        let patience = match destination.spoken.get() {
            Spoken::ClientFirst => CLIENT_FIRST_PATIENCE,
            _ => call.door.shared.config.timeouts.detect,
        };
        match tokio::time::timeout(patience, detect_first(&mut call.accepted.stream, &mut first)).await {
            Ok(detected) => detected.ok(),
            Err(_) => return tcp::race(call, destination, first).await,
        }
    };
    match detected {
        Some(detected) => spoken(call, destination, detected, first).await,
        None => call.door.telemetry.outbound.detections.inc("client_gone"),
    }
}

/// The client has spoken first.
pub(crate) async fn spoken(call: Call, destination: Rc<Destination>, detected: Detected, first: BytesMut) {
    call.door.telemetry.outbound.detections.inc(detected.label());
    if !first.is_empty() {
        destination.spoken.set(Spoken::ClientFirst);
    }
    match detected {
        // What has been needed so far to find out is given back: the connection goes on as a task of its own.
        Detected::Http1 => drop(tokio::task::spawn_local(serve1(call, destination, first))),
        Detected::Http2 => drop(tokio::task::spawn_local(serve2(call, destination, first))),
        Detected::Tls(_) | Detected::Opaque(_) => tcp::serve(call, destination, first).await,
    }
}

/// Serves an application's HTTP/1 connection.
async fn serve1(call: Call, destination: Rc<Destination>, first: BytesMut) {
    let (handler, door) = (call.exchange(destination), Rc::clone(&call.door));
    let Call { accepted, listed, _open, .. } = call;
    listed.update(|info| info.protocol = "http/1");
    let io = rewind(accepted.stream, first);
    if let Err(error) =
        serve_http1(io, weft_net::reset_on_drop, handler, &door.limits.http1, until_the_end()).await
    {
        tracing::debug!(%error, client = %accepted.client, "outbound HTTP/1 connection failed");
    }
}

/// Serves an application's HTTP/2 connection.
async fn serve2(call: Call, destination: Rc<Destination>, first: BytesMut) {
    let (handler, door) = (call.exchange(destination), Rc::clone(&call.door));
    let Call { accepted, listed, _open, .. } = call;
    listed.update(|info| info.protocol = "http/2");
    let io = rewind(accepted.stream, first);
    if let Err(error) = serve_http2(io, handler, &door.limits.http2, until_the_end()).await {
        tracing::debug!(%error, client = %accepted.client, "outbound HTTP/2 connection failed");
    }
}

/// Outbound stays open while draining: the application that shuts down may still have calls to make. What is open when
/// everything closes ends with the worker's runtime.
fn until_the_end() -> Drain {
    Drain::never()
}

/// The accepted socket with what was read of it put back.
fn rewind(stream: TcpStream, first: BytesMut) -> Prefixed<TcpStream> {
    Prefixed::new(first.freeze(), stream)
}
