//! Connections without mutual TLS, where the mode lets them in.

use std::rc::Rc;

use bytes::BytesMut;
use tokio::net::TcpStream;
use weft_config::InboundPolicy;
use weft_core::MtlsMode;
use weft_http::ErrorCode;
use weft_net::detect::HANDSHAKE;
use weft_net::{Detected, Prefixed, RelayCounters, Watched, read_more, relay_plain};
use weft_telemetry::metrics::families;

use super::{Link, Visit, http, is_mesh, refuse_late};
use crate::outbound::{UNFINISHED, detect_or_give_up};

/// Counts a connection that the move to mutual TLS has not reached yet, by its caller.
pub(super) fn count(visit: &Visit, outcome: &str) {
    let source = visit.accepted.client.ip().to_string();
    visit.worker.telemetry.shard.counter(&families::PLAINTEXT, &[&source, outcome]).inc();
}

/// Serves a connection that is plaintext as far as is known; `detected` is what its first bytes said, if it has spoken
/// yet. A mesh client whose machine is busy may speak only now.
pub(super) async fn serve(
    mut visit: Visit,
    mut first: BytesMut,
    detected: Option<Detected>,
    policy: &InboundPolicy,
) {
    let meshed = policy.mode != MtlsMode::Disable;
    let opaque = policy.opaque_ports.contains(visit.app.port());
    let (spoke, app) = match detected {
        Some(detected) => (Some(detected), None),
        None if opaque && !meshed => (None, None),
        // Nobody has spoken: ask the application whether it does.
        None => match visit.worker.app(visit.app).dial().await {
            Ok(app) => (first_word(&mut visit, &mut first, &app, opaque).await, Some(app)),
            Err(_) => return relay(visit, Watched::new, first, None).await,
        },
    };
    if meshed {
        if spoke.as_ref().is_some_and(is_mesh) {
            return Box::pin(super::mesh(visit, first)).await;
        }
        count(&visit, "served");
    }
    let detections = &visit.worker.telemetry.inbound.detections;
    match spoke {
        _ if opaque => {
            detections.inc("configured");
            relay(visit, Watched::unwatched, first, app).await;
        }
        None => {
            detections.inc("server_first");
            relay(visit, Watched::unwatched, first, app).await;
        }
        Some(detected @ (Detected::Http1 | Detected::Http2)) => {
            detections.inc(detected.label());
            let Visit { worker, accepted, app, listed, open, plaintext: drain } = visit;
            let client = accepted.client.get();
            let link = Link { worker, client, app, peer: None, drain, listed, _open: open };
            let io = Prefixed::new(first.freeze(), accepted.stream);
            tokio::task::spawn_local(http::serve_client(link, io, detected == Detected::Http2));
        }
        Some(detected) => {
            detections.inc(detected.label());
            relay(visit, Watched::new, first, app).await;
        }
    }
}

/// Waits for the client's first words or the application's; `None` is the application. What comes to a port that is
/// configured to carry bytes is looked at for a mesh link and nothing else.
async fn first_word(
    visit: &mut Visit,
    first: &mut BytesMut,
    app: &TcpStream,
    opaque: bool,
) -> Option<Detected> {
    let stream = &mut visit.accepted.stream;
    // Half a ClientHello is the client's first word, whatever a server that speaks first has sent meanwhile.
    let begun = first.first() == Some(&HANDSHAKE);
    let client = async {
        if opaque && first.is_empty() {
            read_more(stream, first).await.ok()?;
        }
        if opaque && first.first() != Some(&HANDSHAKE) {
            return None;
        }
        detect_or_give_up(stream, first, UNFINISHED).await
    };
    tokio::select! {
        biased;
        detected = client => detected,
        _ = app.readable(), if !begun => None,
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
