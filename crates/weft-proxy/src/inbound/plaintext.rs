//! Connections without mutual TLS, where the mode lets them in.

use bytes::BytesMut;
use tokio::net::TcpStream;
use weft_config::InboundPolicy;
use weft_core::MtlsMode;
use weft_http::ErrorCode;
use weft_net::detect::HANDSHAKE;
use weft_net::{Detected, Prefixed, RelayCounters, Watched, read_more, relay_plain};
use weft_telemetry::metrics::families;

use super::word::{Asked, Word, after_settings, silent_end};
use super::{Link, Visit, is_mesh, refuse_late, refuse_other, serve_client};
use crate::silence::{UNFINISHED, detect_or_give_up};

/// Counts a connection that the move to mutual TLS has not reached yet, by its caller.
pub(super) fn count(visit: &Visit, outcome: &str) {
    let source = visit.accepted.client.ip().to_string();
    visit.door.telemetry.shard.counter(&families::PLAINTEXT, &[&source, outcome]).inc();
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
        Some(detected) => (Spoke::Client(detected), None),
        None if opaque && !meshed => (Spoke::Server, None),
        // Nobody has spoken: ask the application whether it does.
        None => match visit.door.applications.dial(visit.app, visit.origin).await {
            Ok(app) => first_word(&mut visit, &mut first, Asked::new(app), opaque).await,
            Err(_) => (Spoke::Server, None),
        },
    };
    if meshed {
        if matches!(&spoke, Spoke::Client(detected) if is_mesh(detected)) {
            return Box::pin(super::mesh(visit, first)).await;
        }
        count(&visit, "served");
    }
    let detections = &visit.door.telemetry.inbound.detections;
    match spoke {
        Spoke::Client(_) | Spoke::Server if opaque => {
            detections.inc("configured");
            relay(visit, Watched::unwatched, first, app).await;
        }
        Spoke::Server => {
            detections.inc("server_first");
            relay(visit, Watched::new, first, app).await;
        }
        Spoke::Client(detected @ (Detected::Http1 | Detected::Http2)) => {
            detections.inc(detected.label());
            let (link, stream) = link(visit);
            let io = Prefixed::new(first.freeze(), stream);
            let http2 = detected == Detected::Http2;
            tokio::task::spawn_local(serve_client(link, io, weft_net::reset_on_drop, http2));
        }
        Spoke::Client(detected) => {
            detections.inc(detected.label());
            relay(visit, Watched::new, first, app).await;
        }
        Spoke::Ended { late } => {
            let (link, stream) = link(visit);
            refuse_other(&link, late, &stream);
        }
    }
}

/// What came of waiting for the first word.
enum Spoke {
    Client(Detected),
    Server,
    /// Nobody before the time was over, or the client something else than HTTP (`late`) to an application that has shown
    /// that it speaks HTTP/2.
    Ended {
        late: bool,
    },
}

/// Waits for the client's first words or the application's. What comes to a port that is configured to carry bytes is
/// looked at for a mesh link and nothing else.
async fn first_word(
    visit: &mut Visit,
    first: &mut BytesMut,
    mut app: Asked,
    opaque: bool,
) -> (Spoke, Option<Asked>) {
    let stream = &mut visit.accepted.stream;
    // Half a ClientHello is the client's first word, whatever a server that speaks first has sent meanwhile.
    if first.first() == Some(&HANDSHAKE) {
        let detected = detect_or_give_up(stream, first, UNFINISHED).await;
        return (detected.map_or(Spoke::Server, Spoke::Client), Some(app));
    }
    let client = async {
        if opaque && first.is_empty() {
            read_more(stream, first).await.ok()?;
        }
        if opaque && first.first() != Some(&HANDSHAKE) {
            return None;
        }
        detect_or_give_up(stream, first, UNFINISHED).await
    };
    match app.first_word(client, silent_end(&visit.door, &visit.plaintext)).await {
        Word::Client(Some(detected)) => (Spoke::Client(detected), Some(app)),
        Word::Client(None) | Word::Server => (Spoke::Server, Some(app)),
        Word::Over => (Spoke::Ended { late: false }, None),
        Word::Http2Server if opaque => (Spoke::Server, Some(app)),
        // Not this connection's any more: what the client says is served as requests, or not at all.
        Word::Http2Server => {
            drop(app);
            let client = detect_or_give_up(stream, first, UNFINISHED);
            match after_settings(client, silent_end(&visit.door, &visit.plaintext)).await {
                Some(detected @ (Detected::Http1 | Detected::Http2)) => (Spoke::Client(detected), None),
                Some(detected) if is_mesh(&detected) => (Spoke::Client(detected), None),
                other => (Spoke::Ended { late: other.is_some() }, None),
            }
        }
    }
}

fn link(visit: Visit) -> (Link, TcpStream) {
    let Visit { door, accepted, app, origin, listed, open, plaintext: drain } = visit;
    (Link { door, app, origin, peer: None, drain, listed, _open: open }, accepted.stream)
}

/// The client's connection, with what was read of it in front.
type Client = Prefixed<TcpStream>;

/// Relays a connection of bytes. `watch` says whether requests may begin in it: wherever the port is not configured to
/// carry bytes. A server that has spoken first is no proof that none will.
async fn relay(visit: Visit, watch: fn(Client) -> Watched<Client>, first: BytesMut, app: Option<Asked>) {
    visit.listed.update(|info| info.protocol = "tcp");
    let (link, stream) = link(visit);
    let mut record = link.tcp_record();
    let connected = match app {
        Some(app) => Ok(app),
        None => link.door.applications.dial(link.app, link.origin).await.map(Asked::new),
    };
    let mut app = match connected {
        Ok(app) => app.into_stream(),
        Err(error) => {
            tracing::debug!(%error, "the application did not take a connection");
            record.failed(ErrorCode::ConnectRefused);
            return weft_net::reset(stream);
        }
    };
    let mut client = watch(Prefixed::new(first.freeze(), stream));
    let counters = RelayCounters::default();
    let options = link.relay_options();
    let relaying = relay_plain(&mut client, &mut app, &options, &counters);
    let outcome = record.run(relaying, &counters, link.drain.clone().into_closed()).await;
    if refuse_late(&link, &client) || outcome.is_none() {
        weft_net::reset_on_drop(&client);
        weft_net::reset_on_drop(&app);
    }
}
