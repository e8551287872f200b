//! Requests of the mesh's own workloads: their sidecars come over mesh links, as they come to the sidecar of a workload.

use std::rc::Rc;
use std::time::Instant;

use weft_http::serve_http2;
use weft_identity::LinkProtocol;
use weft_net::Accepted;

use super::Visit;
use crate::exchange::{Came, Exchange, Gateway, Times};
use crate::inbound::handshake;

/// Serves a mesh link. One of bytes finds no route here: it is refused.
pub(super) async fn serve(visit: Visit) {
    let Visit { door, accepted, first, port, listed, open, .. } = visit;
    let Accepted { stream, client, local } = accepted;
    let client = client.get();
    let started = Instant::now();
    let telemetry = door.telemetry.gateway();
    let (stream, peer, protocol) = match handshake(&door.shared, stream, first).await {
        Ok(done) => done,
        Err(why) => {
            telemetry.handshakes.inc(why.label);
            tracing::warn!(%client, at = %port.at, error = %why.detail, "refused a mesh link");
            return;
        }
    };
    if protocol == LinkProtocol::Tcp {
        telemetry.detections.inc("mesh_bytes");
        tracing::info!(%client, peer = %peer.id, at = %port.at, "refused a mesh link of bytes: a mesh listener takes requests");
        return weft_net::reset_on_drop(stream.get_ref().0.get_ref());
    }
    telemetry.handshakes.inc(crate::dial::kind(stream.get_ref().1.handshake_kind()));
    telemetry.handshake_duration.observe(started.elapsed());
    listed.update(|info| {
        info.peer = Some(peer.id.to_string().into());
        info.protocol = "weft/http";
    });
    // What the handshake has needed is given back: the link goes on as a task of its own.
    tokio::task::spawn_local(async move {
        let (_open, _listed) = (open, listed);
        let drain = port.drain.clone();
        let side = Gateway::new(&door, &port, Came::Mesh(Rc::new(peer)), (client, local));
        let facts = side.facts(client, local);
        let timeouts = &door.shared.config.timeouts;
        // The calling sidecar has the time that a whole request may take.
        let times = Times { request: None, tunnel_idle: timeouts.tcp_idle };
        let handler = Exchange::new(side, &door.telemetry, facts, times);
        if let Err(error) = serve_http2(stream, handler, &door.limits.http2_link, drain).await {
            tracing::debug!(%error, %client, "mesh link failed");
        }
    });
}
