//! Connections without mutual TLS, where the mode lets them in.

use std::rc::Rc;

use bytes::BytesMut;
use tokio::net::TcpStream;
use weft_config::InboundPolicy;
use weft_http::ErrorCode;
use weft_net::{Detected, Prefixed, RelayCounters, Watched, relay_plain};
use weft_telemetry::metrics::families;

use super::{Link, Visit, http, refuse_late};
use crate::outbound::{UNFINISHED, detect_or_give_up};

/// Counts a connection that the move to mutual TLS has not reached yet, by its caller.
pub(super) fn count(visit: &Visit, outcome: &str) {
    let source = visit.accepted.client.ip().to_string();
    visit.worker.telemetry.shard.counter(&families::PLAINTEXT, &[&source, outcome]).inc();
}

/// Serves a plaintext connection; `detected` is what its first bytes said, if it has spoken yet.
pub(super) async fn serve(
    mut visit: Visit,
    mut first: BytesMut,
    detected: Option<Detected>,
    policy: &InboundPolicy,
) {
    let telemetry = &visit.worker.telemetry.inbound;
    if policy.opaque_ports.contains(visit.app.port()) {
        telemetry.detections.inc("configured");
        return relay(visit, Watched::unwatched, first, None).await;
    }
    let detected = match detected {
        Some(detected) => detected,
        None => {
            // Nobody has spoken: ask the application whether it does.
            let Ok(app) = visit.worker.app(visit.app).dial().await else {
                return relay(visit, Watched::new, first, None).await;
            };
            let spoke = tokio::select! {
                biased;
                detected = detect_or_give_up(&mut visit.accepted.stream, &mut first, UNFINISHED) => detected,
                _ = app.readable() => None,
            };
            match spoke {
                Some(detected @ (Detected::Http1 | Detected::Http2)) => detected,
                Some(detected) => {
                    visit.worker.telemetry.inbound.detections.inc(detected.label());
                    return relay(visit, Watched::new, first, Some(app)).await;
                }
                None => {
                    visit.worker.telemetry.inbound.detections.inc("server_first");
                    return relay(visit, Watched::unwatched, first, Some(app)).await;
                }
            }
        }
    };
    visit.worker.telemetry.inbound.detections.inc(detected.label());
    match detected {
        Detected::Http1 | Detected::Http2 => {
            let Visit { worker, accepted, app, listed, open, plaintext: drain } = visit;
            let client = accepted.client.get();
            let link = Link { worker, client, app, peer: None, drain, listed, _open: open };
            let io = Prefixed::new(first.freeze(), accepted.stream);
            tokio::task::spawn_local(http::serve_client(link, io, detected == Detected::Http2));
        }
        Detected::Tls(_) | Detected::Opaque(_) => relay(visit, Watched::new, first, None).await,
    }
}

/// The client's connection, with what was read of it in front.
type Client = Prefixed<TcpStream>;

/// Relays a connection of bytes. `watch` says whether requests may still begin in it: not where the port is configured to
/// carry bytes, nor where the server has spoken first, as none of HTTP does.
async fn relay(visit: Visit, watch: fn(Client) -> Watched<Client>, first: BytesMut, app: Option<TcpStream>) {
    let Visit { worker, accepted, app: addr, listed, open, plaintext: drain } = visit;
    listed.update(|info| info.protocol = "tcp");
    let client = accepted.client.get();
    let link = Link { worker: Rc::clone(&worker), client, app: addr, peer: None, drain, listed, _open: open };
    let mut record = link.tcp_record();
    let connected = match app {
        Some(app) => Ok(app),
        None => worker.app(addr).dial().await,
    };
    let mut app = match connected {
        Ok(app) => app,
        Err(error) => {
            tracing::debug!(%error, "the application did not take a connection");
            record.failed(ErrorCode::ConnectRefused);
            return weft_net::reset(accepted.stream);
        }
    };
    let mut client = watch(Prefixed::new(first.freeze(), accepted.stream));
    let counters = RelayCounters::default();
    let options = link.relay_options();
    let relaying = relay_plain(&mut client, &mut app, &options, &counters);
    let outcome = record.run(relaying, &counters, link.drain.clone().into_closed()).await;
    if refuse_late(&link, &client) || outcome.is_none() {
        weft_net::reset_on_drop(&client);
        weft_net::reset_on_drop(&app);
    }
}
