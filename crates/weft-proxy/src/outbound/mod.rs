//! Outbound: connections of the own application to others.
//!
//! accept → original destination (or the listener's) → is it in the mesh → what is spoken → requests or bytes over a mesh
//! link. What is not in the mesh passes through untouched.

mod http;
mod passthrough;
mod retry;
mod tcp;

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::net::TcpStream;
use weft_core::{AppProtocol, EndpointAddr, OriginalDst, ServiceKey};
use weft_net::{Accepted, Destination as Captured, Detected, Prefixed, detect_first};
use weft_telemetry::metrics::Direction;

use crate::connections::Listed;
use crate::destination::Target;
use crate::upstream::{Spoken, Upstream};
use crate::worker::{OpenGuard, Worker};

pub(crate) use http::tunnel;
pub(crate) use tcp::{UNFINISHED, detect_or_give_up, silence};

/// How long a destination whose clients speak first may stay silent before its server is asked whether it does: long,
/// because a client that opens connections in advance is common, and a protocol that changes its mind is not.
const CLIENT_FIRST_PATIENCE: Duration = Duration::from_secs(1);

/// Serves one captured connection.
pub(crate) async fn serve(worker: Rc<Worker>, accepted: Accepted, open: OpenGuard) {
    let dst = match accepted.destination() {
        Ok(Captured::Captured(dst)) => dst,
        Ok(Captured::Direct(_)) | Err(_) => return refuse(&worker, accepted, "not_redirected"),
    };
    // A connection whose destination is the proxy itself would come back for ever.
    if is_loop(&worker, dst) {
        worker.telemetry.outbound.error(weft_http::ErrorCode::Loop);
        return refuse(&worker, accepted, "loop");
    }
    let target = Target::of(&worker.shared, dst);
    let dialed = EndpointAddr::new(dst.get());
    let upstream = worker.upstream(&target, Some(dialed));
    let opaque = is_opaque(&worker, dst.port());
    let label = upstream.as_ref().map_or_else(|| target.label(), |upstream| Arc::clone(&upstream.label));
    let call = Call::new(worker, accepted, open, Some(dialed), Arc::clone(&label));
    match upstream {
        Some(upstream) => Box::pin(mesh(call, upstream, opaque)).await,
        None => Box::pin(passthrough::serve(call, &target, label, dialed, opaque)).await,
    }
}

/// Serves a connection to the listener of one service.
pub(crate) async fn serve_service(
    worker: Rc<Worker>,
    accepted: Accepted,
    open: OpenGuard,
    service: &ServiceKey,
) {
    match worker.upstream(&Target::Service(service.clone()), None) {
        Some(upstream) => {
            let opaque = is_opaque(&worker, service.port);
            let call = Call::new(worker, accepted, open, None, Arc::clone(&upstream.label));
            Box::pin(mesh(call, upstream, opaque)).await;
        }
        // It has left the mesh since the start. What was mutual TLS must not become plaintext without a word.
        None => refuse(&worker, accepted, "outside_mesh"),
    }
}

/// One connection of the application on its way.
pub(crate) struct Call {
    pub(crate) worker: Rc<Worker>,
    pub(crate) accepted: Accepted,
    pub(crate) listed: Listed,
    pub(crate) _open: OpenGuard,
}

impl Call {
    /// Lists the connection with where it goes, as far as that is known.
    fn new(
        worker: Rc<Worker>,
        accepted: Accepted,
        open: OpenGuard,
        dialed: Option<EndpointAddr>,
        service: Arc<str>,
    ) -> Self {
        let dialed = dialed.map(EndpointAddr::get);
        let connections = &worker.shared.connections;
        let listed = connections.open(Direction::Outbound, accepted.client, dialed, Some(service));
        Self { worker, accepted, listed, _open: open }
    }
}

pub(crate) fn is_loop(worker: &Worker, dst: OriginalDst) -> bool {
    let own = dst.ip().is_loopback() || worker.shared.is_own(dst.ip());
    own && worker.shared.config.bind.ports().contains(&dst.port())
}

fn refuse(worker: &Worker, accepted: Accepted, why: &'static str) {
    worker.telemetry.outbound.detections.inc(why);
    tracing::debug!(client = %accepted.client, local = %accepted.local, why, "refused an outbound connection");
    weft_net::reset(accepted.stream);
}

fn is_opaque(worker: &Worker, port: u16) -> bool {
    worker.shared.snapshot.load().outbound.opaque_ports.contains(port)
}

async fn mesh(mut call: Call, upstream: Rc<Upstream>, opaque: bool) {
    let protocol = if opaque { AppProtocol::Opaque } else { upstream.protocol().await };
    if protocol == AppProtocol::Opaque {
        call.worker.telemetry.outbound.detections.inc("configured");
        return tcp::serve(call, upstream, BytesMut::new()).await;
    }
    let mut first = BytesMut::new();
    // Nothing is waited for, and who speaks first is seen all the same: what was learned of a server may be wrong.
    if upstream.spoken.get() == Spoken::ServerFirst && protocol != AppProtocol::Http {
        return tcp::race(call, upstream, first).await;
    }
    let detected = if protocol == AppProtocol::Http {
        tokio::select! {
            biased;
            detected = detect_first(&mut call.accepted.stream, &mut first) => detected.ok(),
            () = silence(&call.worker) => return,
        }
    } else {
        let patience = match upstream.spoken.get() {
            Spoken::ClientFirst => CLIENT_FIRST_PATIENCE,
            _ => call.worker.shared.config.timeouts.detect,
        };
        match tokio::time::timeout(patience, detect_first(&mut call.accepted.stream, &mut first)).await {
            Ok(detected) => detected.ok(),
            Err(_) => return tcp::race(call, upstream, first).await,
        }
    };
    match detected {
        Some(detected) => spoken(call, upstream, detected, first).await,
        None => call.worker.telemetry.outbound.detections.inc("client_gone"),
    }
}

/// The client has spoken first.
pub(crate) async fn spoken(call: Call, upstream: Rc<Upstream>, detected: Detected, first: BytesMut) {
    call.worker.telemetry.outbound.detections.inc(detected.label());
    if !first.is_empty() {
        upstream.spoken.set(Spoken::ClientFirst);
    }
    match detected {
        // What has been needed so far to find out is given back: the connection goes on as a task of its own.
        Detected::Http1 => drop(tokio::task::spawn_local(http::serve1(call, upstream, first))),
        Detected::Http2 => drop(tokio::task::spawn_local(http::serve2(call, upstream, first))),
        Detected::Tls(_) | Detected::Opaque(_) => tcp::serve(call, upstream, first).await,
    }
}

/// The accepted socket with what was read of it put back.
fn rewind(stream: TcpStream, first: BytesMut) -> Prefixed<TcpStream> {
    Prefixed::new(first.freeze(), stream)
}
