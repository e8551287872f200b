//! Bytes over a mesh link of their own.

use std::rc::Rc;
use std::sync::Arc;

use bytes::BytesMut;
use tokio::net::TcpStream;
use weft_balance::{InFlight, Outcome, Timestamp};
use weft_core::{EndpointAddr, MtlsMode};
use weft_identity::LinkProtocol;
use weft_net::{
    Detected, Greeting, Prefixed, RelayCounters, RelayOptions, greeting, read_more, relay, relay_plain,
};
use weft_telemetry::metrics::{Direction, TcpLabels, TlsLabel};

use super::OutboundDoor;
use super::{Call, rewind, spoken};
use crate::cluster::{Cluster, EndpointLinks, PeerIo, Picked, Speaks};
use crate::destination::{Destination, Spoken};
use crate::dial::{Announced, DialError, Dialer, TlsStream};
use crate::record::{ConnectionFacts, TcpRecord};
use crate::shared::Shared;
use crate::silence::{UNFINISHED, detect_or_give_up, silence};

/// The far side of a relayed connection.
pub(crate) enum Far {
    /// A mesh link, with who it leads to; without: TLS with a server outside the mesh.
    Tls(Box<TlsStream>, Option<Arc<str>>),
    Plain(TcpStream),
}

impl Far {
    /// Who has proved to be there.
    pub(crate) fn peer(&self) -> Option<Arc<str>> {
        match self {
            Self::Tls(_, peer) => peer.clone(),
            Self::Plain(_) => None,
        }
    }
}

/// A connection to an endpoint, counted as in flight there.
pub(crate) struct Reached {
    pub(crate) far: Far,
    pub(crate) endpoint: EndpointAddr,
    pub(crate) in_flight: InFlight,
}

/// Relays a connection whose protocol is not looked at; `first` is what was already read of it.
pub(super) async fn serve(call: Call, destination: Rc<Destination>, first: BytesMut) {
    match reach(&call.door, &destination.cluster, None).await {
        Ok(reached) => {
            drop(tokio::task::spawn_local(carry(call, destination, reached, first, BytesMut::new())));
        }
        Err(error) => give_up(call, &destination, &error),
    }
}

/// Nobody has spoken for a while: dials, and sees who does first.
pub(super) async fn race(mut call: Call, destination: Rc<Destination>, mut first: BytesMut) {
    let mut reached = match reach(&call.door, &destination.cluster, None).await {
        Ok(reached) => reached,
        Err(error) => return give_up(call, &destination, &error),
    };
    let remembered = destination.spoken.get() == Spoken::ServerFirst;
    let mut said = BytesMut::new();
    let client = detect_or_give_up(&mut call.accepted.stream, &mut first, UNFINISHED);
    let winner = tokio::select! {
        biased;
        detected = client => Winner::Client(detected),
        greeting = greet(&mut reached.far, &mut said) => Winner::Server(greeting),
        () = silence(call.door.shared.config.timeouts.tcp_idle) => Winner::Nobody,
    };
    let detections = &call.door.telemetry.outbound.detections;
    match winner {
        Winner::Client(Some(detected @ (Detected::Http1 | Detected::Http2))) => {
            drop(reached);
            spoken(call, destination, detected, first).await;
        }
        Winner::Client(Some(detected)) => {
            detections.inc(detected.label());
            tokio::task::spawn_local(carry(call, destination, reached, first, said));
        }
        // The preface of an HTTP/2 server, which is nobody's: the client gets one from this proxy.
        Winner::Server(Greeting::Http2) => {
            drop(reached);
            destination.spoken.set(Spoken::ClientFirst);
            let detected = tokio::select! {
                biased;
                detected = detect_or_give_up(&mut call.accepted.stream, &mut first, UNFINISHED) => detected,
                () = silence(call.door.shared.config.timeouts.tcp_idle) => return,
            };
            match detected {
                Some(detected) => spoken(call, destination, detected, first).await,
                None => detections.inc("client_gone"),
            }
        }
        Winner::Nobody => {}
        Winner::Server(_) | Winner::Client(None) => {
            learn(&destination, &said);
            detections.inc(if remembered { "remembered_server_first" } else { "server_first" });
            tokio::task::spawn_local(carry(call, destination, reached, first, said));
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
fn learn(destination: &Destination, said: &[u8]) {
    match greeting(said) {
        // Nothing was said; the server closed, or the client's connection failed.
        _ if said.is_empty() => {}
        // A server whose clients speak first may say something to one that is silent, such as 408: that is about this
        // connection, not about the protocol.
        Greeting::Http1 => destination.spoken.set(Spoken::ClientFirst),
        _ if destination.spoken.get() == Spoken::ClientFirst => {}
        _ => destination.spoken.set(Spoken::ServerFirst),
    }
}

/// Reads what the far side says until it tells what that is.
async fn greet(far: &mut Far, said: &mut BytesMut) -> Greeting {
    loop {
        let read = match far {
            Far::Tls(stream, _) => read_more(stream, said).await,
            Far::Plain(stream) => read_more(stream, said).await,
        };
        match greeting(said) {
            Greeting::NeedMore if matches!(read, Ok(1..)) => {}
            greeting => return greeting,
        }
    }
}

/// Connects to one endpoint after another, until one takes the connection.
pub(crate) async fn reach(
    door: &OutboundDoor,
    cluster: &Cluster,
    announced: Option<&Announced>,
) -> Result<Reached, DialError> {
    let connect = async |picked: &Picked| dial(&door.dialer, cluster, &picked.links, announced).await;
    let (mut picked, far) = cluster.reach(&mut Vec::new(), connect).await?;
    picked.links.endpoint.connected();
    picked.in_flight.answered(Timestamp::now());
    picked.in_flight.ended(Outcome::Success);
    Ok(Reached { far, endpoint: picked.links.endpoint.addr(), in_flight: picked.in_flight })
}

async fn dial(
    dialer: &Dialer,
    cluster: &Cluster,
    links: &EndpointLinks,
    announced: Option<&Announced>,
) -> Result<Far, DialError> {
    let endpoint = links.endpoint.addr();
    let mutual = async || {
        let dialed = dialer.mesh(endpoint, &cluster.peer(), LinkProtocol::Tcp).await?;
        Ok(Far::Tls(Box::new(dialed.stream), Some(dialed.peer.to_string().into())))
    };
    let outside = async || {
        let mut tcp = dialer.tcp(endpoint).await?;
        if let Some(announced) = announced {
            announced.say(&mut tcp).await?;
        }
        Ok(match cluster.secured(tcp, Speaks::Bytes).await? {
            PeerIo::Plain(tcp) => Far::Plain(tcp),
            PeerIo::Tls(tls) => Far::Tls(tls, None),
        })
    };
    cluster.by_mode(links, mutual, outside).await
}

fn give_up(call: Call, destination: &Destination, error: &DialError) {
    tracing::warn!(service = %destination.label, error = %error.detail, "outbound connection failed");
    let mut record = TcpRecord::open(
        &call.door.telemetry,
        facts(&call, destination, None),
        series(&call, destination, None),
    );
    record.failed(error.code);
    weft_net::reset(call.accepted.stream);
}

async fn carry(
    call: Call,
    destination: Rc<Destination>,
    reached: Reached,
    first: BytesMut,
    greeting: BytesMut,
) {
    let Reached { far, endpoint, in_flight: _in_flight } = reached;
    let peer = far.peer();
    call.listed.update(|info| {
        info.protocol = "tcp";
        info.peer.clone_from(&peer);
    });
    let series = series(&call, &destination, peer.as_ref());
    let mut record = TcpRecord::open(&call.door.telemetry, facts(&call, &destination, peer), series);
    record.upstream = Some(endpoint.get());
    let options =
        RelayOptions { idle_timeout: call.door.shared.config.timeouts.tcp_idle, ..RelayOptions::default() };
    let counters = RelayCounters::default();
    let closed = call.door.shared.drain.clone().into_closed();
    let mut client = rewind(call.accepted.stream, first);
    let outcome = match far {
        Far::Tls(stream, _) => {
            let mut far = Prefixed::new(greeting.freeze(), *stream);
            record.run(relay(&mut client, &mut far, &options, &counters), &counters, closed).await
        }
        Far::Plain(stream) => {
            let mut far = Prefixed::new(greeting.freeze(), stream);
            let end = async {
                tokio::select! {
                    () = closed => {}
                    () = strict(&call.door.shared, &destination, endpoint) => {}
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
async fn strict(shared: &Shared, destination: &Destination, endpoint: EndpointAddr) {
    let mut versions = shared.snapshot.subscribe();
    let mut deadline = None;
    loop {
        let strict = destination.mode_now(shared, endpoint) == Some(MtlsMode::Strict);
        deadline = match deadline {
            _ if !strict => None,
            None => Some(tokio::time::Instant::now() + shared.config.timeouts.drain),
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
    tracing::info!(service = %destination.label, %endpoint, "mode strict: ended a connection without mutual TLS that was open");
}

fn facts(call: &Call, destination: &Destination, peer: Option<Arc<str>>) -> ConnectionFacts {
    let tls = if peer.is_some() { TlsLabel::Mutual } else { TlsLabel::None };
    ConnectionFacts {
        direction: Direction::Outbound,
        client: call.accepted.client.get(),
        server: destination.server.clone(),
        service: Arc::clone(&destination.label),
        source_identity: call.door.telemetry.own_identity(),
        destination_identity: peer,
        tls,
    }
}

fn series(call: &Call, destination: &Destination, peer: Option<&Arc<str>>) -> weft_telemetry::TcpSeries {
    call.door.telemetry.shard.tcp_series(&TcpLabels {
        direction: Direction::Outbound,
        source_workload: &call.door.telemetry.own_workload(),
        destination_service: &destination.label,
        peer_identity: peer.map_or("", |peer| peer),
        tls: if peer.is_some() { TlsLabel::Mutual } else { TlsLabel::None },
    })
}
