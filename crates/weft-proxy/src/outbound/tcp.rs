//! Bytes over a mesh link of their own.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::AsyncRead;
use tokio::net::TcpStream;
use weft_balance::{InFlight, Outcome, Timestamp};
use weft_core::{EndpointAddr, MtlsMode};
use weft_http::ErrorCode;
use weft_identity::LinkProtocol;
use weft_net::{
    Detected, Greeting, OpaqueReason, Prefixed, RelayCounters, RelayOptions, detect_first, greeting,
    read_more, relay, relay_plain,
};
use weft_telemetry::metrics::{Direction, TcpLabels, TlsLabel};

use super::{Call, rewind, spoken};
use crate::destination;
use crate::dial::{DialError, MeshStream, dial_mesh, dial_tcp};
use crate::record::{ConnectionFacts, TcpRecord};
use crate::upstream::{Picked, Spoken, Upstream};
use crate::worker::Worker;

/// The far side of a relayed connection.
pub(crate) enum Far {
    Mesh(Box<MeshStream>, Arc<str>),
    Plain(TcpStream),
}

/// A connection to an endpoint, counted as in flight there.
struct Reached {
    far: Far,
    endpoint: EndpointAddr,
    in_flight: InFlight,
}

/// Relays a connection whose protocol is not looked at; `first` is what was already read of it.
pub(super) async fn serve(call: Call, upstream: Rc<Upstream>, first: BytesMut) {
    match reach(&call.worker, &upstream).await {
        Ok(reached) => drop(tokio::task::spawn_local(carry(call, upstream, reached, first, BytesMut::new()))),
        Err(error) => give_up(call, &upstream, &error),
    }
}

/// Nobody has spoken for a while: dials, and sees who does first.
pub(super) async fn race(mut call: Call, upstream: Rc<Upstream>, mut first: BytesMut) {
    let mut reached = match reach(&call.worker, &upstream).await {
        Ok(reached) => reached,
        Err(error) => return give_up(call, &upstream, &error),
    };
    let remembered = upstream.spoken.get() == Spoken::ServerFirst;
    let mut said = BytesMut::new();
    let client = detect_or_give_up(&mut call.accepted.stream, &mut first, UNFINISHED);
    let winner = tokio::select! {
        biased;
        detected = client => Winner::Client(detected),
        greeting = greet(&mut reached.far, &mut said) => Winner::Server(greeting),
        () = silence(&call.worker) => Winner::Nobody,
    };
    let detections = &call.worker.telemetry.outbound.detections;
    match winner {
        Winner::Client(Some(detected @ (Detected::Http1 | Detected::Http2))) => {
            drop(reached);
            spoken(call, upstream, detected, first).await;
        }
        Winner::Client(Some(detected)) => {
            detections.inc(detected.label());
            tokio::task::spawn_local(carry(call, upstream, reached, first, said));
        }
        // The preface of an HTTP/2 server, which is nobody's: the client gets one from this proxy.
        Winner::Server(Greeting::Http2) => {
            drop(reached);
            upstream.spoken.set(Spoken::ClientFirst);
            let detected = tokio::select! {
                biased;
                detected = detect_or_give_up(&mut call.accepted.stream, &mut first, UNFINISHED) => detected,
                () = silence(&call.worker) => return,
            };
            match detected {
                Some(detected) => spoken(call, upstream, detected, first).await,
                None => detections.inc("client_gone"),
            }
        }
        Winner::Nobody => {}
        Winner::Server(_) | Winner::Client(None) => {
            learn(&upstream, &said);
            detections.inc(if remembered { "remembered_server_first" } else { "server_first" });
            tokio::task::spawn_local(carry(call, upstream, reached, first, said));
        }
    }
}

/// Who spoke first, and what.
enum Winner {
    /// `None`: the connection failed.
    Client(Option<Detected>),
    Server(Greeting),
    /// Nobody, for as long as a relay may carry nothing.
    Nobody,
}

/// What a greeting says of a service.
fn learn(upstream: &Upstream, said: &[u8]) {
    match greeting(said) {
        // Nothing was said; the server closed, or the client's connection failed.
        _ if said.is_empty() => {}
        // A server whose clients speak first may say something to one that is silent, such as 408: that is about this
        // connection, not about the protocol.
        Greeting::Http1 => upstream.spoken.set(Spoken::ClientFirst),
        _ if upstream.spoken.get() == Spoken::ClientFirst => {}
        _ => upstream.spoken.set(Spoken::ServerFirst),
    }
}

/// How long a client may leave a line unfinished that could still become a request. Clients send a request's first line
/// in one piece; one that waits for an answer to half a line speaks something else (JDWP, ZooKeeper's `ruok`).
pub(crate) const UNFINISHED: Duration = Duration::from_secs(1);

/// Resolves when a connection on which nobody has spoken is over: as a relay is that carries nothing (`timeouts.tcpIdle`;
/// without one, keepalive ends connections whose peers are gone, and those that are there may be silent).
pub(crate) async fn silence(worker: &Worker) {
    match worker.shared.config.timeouts.tcp_idle {
        Some(limit) => tokio::time::sleep(limit).await,
        None => std::future::pending().await,
    }
}

/// Waits for what the client speaks; a client that has begun and then waits is opaque.
pub(crate) async fn detect_or_give_up<S>(
    client: &mut S,
    first: &mut BytesMut,
    unfinished: Duration,
) -> Option<Detected>
where
    S: AsyncRead + Unpin,
{
    // However long it is silent.
    if first.is_empty() {
        read_more(client, first).await.ok()?;
    }
    loop {
        let before = first.len();
        match tokio::time::timeout(unfinished, detect_first(client, first)).await {
            Ok(detected) => return detected.ok(),
            Err(_) if first.len() == before => return Some(Detected::Opaque(OpaqueReason::Unfinished)),
            Err(_) => {}
        }
    }
}

/// Reads what the far side says until it tells what that is.
async fn greet(far: &mut Far, said: &mut BytesMut) -> Greeting {
    loop {
        let read = match far {
            Far::Mesh(stream, _) => read_more(stream, said).await,
            Far::Plain(stream) => read_more(stream, said).await,
        };
        match greeting(said) {
            Greeting::NeedMore if matches!(read, Ok(1..)) => {}
            greeting => return greeting,
        }
    }
}

/// Connects to one endpoint after another, until one takes the connection.
async fn reach(worker: &Rc<Worker>, upstream: &Upstream) -> Result<Reached, DialError> {
    let connect = async |picked: &Picked| dial(worker, upstream, &picked.links).await;
    let (mut picked, far) = upstream.reach(worker, &mut Vec::new(), connect).await?;
    picked.links.endpoint.connected();
    picked.in_flight.observe(Timestamp::now(), Outcome::Success);
    Ok(Reached { far, endpoint: picked.links.endpoint.addr(), in_flight: picked.in_flight })
}

async fn dial(
    worker: &Rc<Worker>,
    upstream: &Upstream,
    links: &crate::upstream::EndpointLinks,
) -> Result<Far, DialError> {
    let endpoint = links.endpoint.addr();
    let now = Timestamp::now();
    let mode = upstream.mode_towards(endpoint);
    if mode == MtlsMode::Disable || (mode == MtlsMode::Permissive && links.is_plaintext(now)) {
        return dial_tcp(worker, endpoint).await.map(Far::Plain);
    }
    match dial_mesh(worker, endpoint, &upstream.peer, LinkProtocol::Tcp).await {
        Ok(dialed) => {
            let peer = dialed.peer.to_string().into();
            Ok(Far::Mesh(Box::new(dialed.stream), peer))
        }
        Err(error) if mode == MtlsMode::Permissive && error.code == ErrorCode::TlsFailed => {
            links.remember_plaintext(now);
            dial_tcp(worker, endpoint).await.map(Far::Plain)
        }
        Err(error) => Err(error),
    }
}

fn give_up(call: Call, upstream: &Upstream, error: &DialError) {
    tracing::warn!(service = %upstream.label, error = %error.detail, "outbound connection failed");
    let mut record =
        TcpRecord::open(&call.worker, facts(&call, upstream, None), series(&call, upstream, None));
    record.failed(error.code);
    weft_net::reset(call.accepted.stream);
}

async fn carry(call: Call, upstream: Rc<Upstream>, reached: Reached, first: BytesMut, greeting: BytesMut) {
    let Reached { far, endpoint, in_flight: _in_flight } = reached;
    let peer = match &far {
        Far::Mesh(_, peer) => Some(Arc::clone(peer)),
        Far::Plain(_) => None,
    };
    call.listed.update(|info| {
        info.protocol = "tcp";
        info.peer.clone_from(&peer);
    });
    let series = series(&call, &upstream, peer.as_ref());
    let mut record = TcpRecord::open(&call.worker, facts(&call, &upstream, peer), series);
    record.upstream = Some(endpoint.get());
    let options =
        RelayOptions { idle_timeout: call.worker.shared.config.timeouts.tcp_idle, ..RelayOptions::default() };
    let counters = RelayCounters::default();
    let closed = call.worker.shared.drain.clone().into_closed();
    let mut client = rewind(call.accepted.stream, first);
    let outcome = match far {
        Far::Mesh(stream, _) => {
            let mut far = Prefixed::new(greeting.freeze(), *stream);
            record.run(relay(&mut client, &mut far, &options, &counters), &counters, closed).await
        }
        Far::Plain(stream) => {
            let mut far = Prefixed::new(greeting.freeze(), stream);
            let end = async {
                tokio::select! {
                    () = closed => {}
                    () = strict(&call.worker, &upstream, endpoint) => {}
                }
            };
            record.run(relay_plain(&mut client, &mut far, &options, &counters), &counters, end).await
        }
    };
    // An abort of the far side, or of the whole process, is passed on as one.
    if outcome.is_none_or(|outcome| outcome.aborted) {
        weft_net::reset_on_drop(&client);
    }
}

/// Resolves when an endpoint has been asked for mutual TLS for as long as a drain takes. A connection that was opened
/// without it then has had its time, as one that came in has (`inbound/closing.rs`).
async fn strict(worker: &Worker, upstream: &Upstream, endpoint: EndpointAddr) {
    let mut versions = worker.shared.snapshot.subscribe();
    let mut deadline = None;
    loop {
        // Asked of the configuration itself: the upstream may have been replaced by another since.
        let rule = destination::rule(&worker.shared.snapshot.load(), &upstream.target);
        let strict = rule.is_some_and(|rule| rule.mode.towards(endpoint.ip()) == MtlsMode::Strict);
        deadline = match deadline {
            _ if !strict => None,
            None => Some(tokio::time::Instant::now() + worker.shared.config.timeouts.drain),
            began => began,
        };
        let over = async {
            match deadline {
                Some(deadline) => tokio::time::sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = over => break,
            Ok(()) = versions.changed() => {}
        }
    }
    tracing::info!(service = %upstream.label, %endpoint, "mode strict: ended a connection without mutual TLS that was open");
}

fn facts(call: &Call, upstream: &Upstream, peer: Option<Arc<str>>) -> ConnectionFacts {
    let tls = if peer.is_some() { TlsLabel::Mutual } else { TlsLabel::None };
    ConnectionFacts {
        direction: Direction::Outbound,
        client: call.accepted.client.get(),
        server: upstream.server.clone(),
        service: Arc::clone(&upstream.label),
        source_identity: call.worker.telemetry.own_identity(),
        destination_identity: peer,
        tls,
    }
}

fn series(call: &Call, upstream: &Upstream, peer: Option<&Arc<str>>) -> weft_telemetry::TcpSeries {
    call.worker.telemetry.shard.tcp_series(&TcpLabels {
        direction: Direction::Outbound,
        source_workload: &call.worker.telemetry.own_workload(),
        destination_service: &upstream.label,
        peer_identity: peer.map_or("", |peer| peer),
        tls: if peer.is_some() { TlsLabel::Mutual } else { TlsLabel::None },
    })
}
