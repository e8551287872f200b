//! Inbound: connections of others to the own application.
//!
//! accept → original destination (or the listener's) → mesh TLS or not → who is it → requests or bytes to the application.
//! A mesh link says in its ALPN what it carries, so nothing has to be guessed on it.

mod closing;
mod plaintext;
mod word;

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use weft_core::{Drain, EndpointAddr, MtlsMode};
use weft_http::{ErrorCode, serve_http1, serve_http2};
use weft_identity::{ALPN_HTTP, ALPN_TCP, IdentityError, LinkProtocol, PeerIdentity, link_protocol, peer_of};
use weft_net::detect::detect;
use weft_net::{
    Accepted, Destination as Captured, Detected, Detection, Prefixed, ReadAhead, RelayCounters, RelayOptions,
    Watched, detect_first,
};
use weft_telemetry::metrics::{Direction, TcpLabels, TlsLabel};

use crate::application::{Applications, Origin};
use crate::connections::Listed;
use crate::exchange::{Caller, Exchange, Inbound, Times};
use crate::limits::Limits;
use crate::open::OpenGuard;
use crate::record::{ConnectionFacts, TcpRecord};
use crate::shared::Shared;
use crate::silence::detect_or_give_up;
use crate::telemetry::WorkerTelemetry;
use word::{Asked, Word, after_settings, silent_end};

pub(crate) use closing::PlaintextDrain;

/// A mesh link from another proxy.
pub(crate) type MeshStream = TlsStream<ReadAhead<Prefixed<TcpStream>>>;

/// What inbound connections of one worker need.
pub(crate) struct InboundDoor {
    pub(crate) shared: Arc<Shared>,
    pub(crate) telemetry: Rc<WorkerTelemetry>,
    pub(crate) limits: Rc<Limits>,
    pub(crate) applications: Applications,
    /// What ends connections without mutual TLS.
    pub(crate) plaintext: Rc<PlaintextDrain>,
}

/// One connection on its way.
struct Visit {
    door: Rc<InboundDoor>,
    accepted: Accepted,
    /// The application's address: as the client dialed it, or the listener's.
    app: EndpointAddr,
    origin: Origin,
    listed: Listed,
    open: OpenGuard,
    /// What ends it if it turns out to be without mutual TLS.
    plaintext: Drain,
}

/// Serves one connection: to the `application` of the listener that it came to, or else to where it was going when it
/// was captured.
pub(crate) async fn serve(
    door: Rc<InboundDoor>,
    accepted: Accepted,
    open: OpenGuard,
    application: Option<EndpointAddr>,
) {
    let app = match application.map_or_else(|| captured(&door, &accepted), Ok) {
        Ok(app) => app,
        Err(why) => return refuse(&door, accepted, why),
    };
    // At a listener the application's own address is nothing that the client knows.
    let dialed = if application.is_some() { accepted.local } else { app.get() };
    let origin = Origin { client: accepted.client.get(), dialed };
    let listed = door.shared.connections.open(Direction::Inbound, accepted.client, Some(app.get()), None);
    // The two in one breath: a mode that changes from here on reaches the connection by `plaintext`.
    let policy = door.shared.snapshot.load().inbound.clone();
    let plaintext = door.plaintext.watch();
    let mut visit = Visit { door, accepted, app, origin, listed, open, plaintext };
    if policy.mode == MtlsMode::Disable {
        return Box::pin(plaintext::serve(visit, BytesMut::new(), None, &policy)).await;
    }
    let mut first = BytesMut::new();
    let detecting = detect_first(&mut visit.accepted.stream, &mut first);
    // A mesh client speaks at once, or nearly: strict waits for nothing else, permissive must let servers speak first and
    // goes on listening while they may.
    let patience = match policy.mode {
        MtlsMode::Strict => visit.door.shared.config.timeouts.handshake,
        _ => visit.door.shared.config.timeouts.detect,
    };
    let detected = match tokio::time::timeout(patience, detecting).await {
        Ok(Ok(detected)) => Some(detected),
        Ok(Err(_)) => return visit.door.telemetry.inbound.detections.inc("client_gone"),
        Err(_) => None,
    };
    match detected {
        Some(detected) if is_mesh(&detected) => Box::pin(mesh(visit, first)).await,
        other if policy.mode == MtlsMode::Strict => {
            let why = other.as_ref().map_or("silent", Detected::label);
            visit.door.telemetry.inbound.detections.inc("refused_strict");
            plaintext::count(&visit, "refused");
            tracing::info!(client = %visit.accepted.client, app = %visit.app, spoke = why,
                "refused a connection without mutual TLS (mode strict)");
            weft_net::reset(visit.accepted.stream);
        }
        other => Box::pin(plaintext::serve(visit, first, other, &policy)).await,
    }
}

/// Whether a client has begun a mesh link.
fn is_mesh(detected: &Detected) -> bool {
    matches!(detected, Detected::Tls(hello) if hello.offers(&[ALPN_HTTP, ALPN_TCP]).is_some())
}

/// Where a captured connection was going, or why it is refused.
fn captured(door: &InboundDoor, accepted: &Accepted) -> Result<EndpointAddr, &'static str> {
    let Ok(Captured::Captured(dst)) = accepted.destination() else { return Err("not_redirected") };
    if door.shared.is_loop(dst) {
        door.telemetry.inbound.error(ErrorCode::Loop);
        return Err("loop");
    }
    if !door.shared.is_served(dst.ip()) {
        return Err("foreign_address");
    }
    Ok(EndpointAddr::new(dst.get()))
}

fn refuse(door: &InboundDoor, accepted: Accepted, why: &'static str) {
    door.telemetry.inbound.detections.inc(why);
    tracing::debug!(client = %accepted.client, local = %accepted.local, why, "refused an inbound connection");
    weft_net::reset(accepted.stream);
}

async fn mesh(visit: Visit, first: BytesMut) {
    let Visit { door, accepted, app, origin, listed, open, .. } = visit;
    let telemetry = &door.telemetry.inbound;
    telemetry.detections.inc("mesh");
    let client = accepted.client;
    let started = Instant::now();
    let (stream, peer, protocol) = match handshake(&door.shared, accepted.stream, first).await {
        Ok(done) => done,
        Err(why) => {
            telemetry.handshakes.inc(why.label);
            tracing::warn!(%client, %app, error = %why.detail, "refused a mesh link");
            return;
        }
    };
    telemetry.handshakes.inc(crate::dial::kind(stream.get_ref().1.handshake_kind()));
    telemetry.handshake_duration.observe(started.elapsed());
    let link = Link {
        door: Rc::clone(&door),
        app,
        origin,
        peer: Some(Rc::new(peer)),
        drain: door.shared.drain.clone(),
        _open: open,
        listed,
    };
    link.listed.update(|info| {
        info.peer = link.peer_text();
        info.protocol = match protocol {
            LinkProtocol::Http => "weft/http",
            LinkProtocol::Tcp => "weft/tcp",
        };
    });
    match protocol {
        // What has been needed so far is given back: the link goes on as a task of its own.
        LinkProtocol::Http => drop(tokio::task::spawn_local(serve_link(link, stream))),
        LinkProtocol::Tcp => drop(tokio::task::spawn_local(serve_bytes(link, stream))),
    }
}

/// A handshake that did not end in a mesh link.
pub(crate) struct Refused {
    pub(crate) label: &'static str,
    pub(crate) detail: String,
}

/// Takes a mesh link in: who calls, and what the link carries.
pub(crate) async fn handshake(
    shared: &Shared,
    tcp: TcpStream,
    first: BytesMut,
) -> Result<(MeshStream, PeerIdentity, LinkProtocol), Refused> {
    let refused = |label, detail: String| Refused { label, detail };
    let Some(identity) = shared.identity.current() else {
        return Err(refused("failed_no_identity", "this proxy has no certificate yet".to_owned()));
    };
    let io = ReadAhead::new(Prefixed::new(first.freeze(), tcp));
    let accepting = TlsAcceptor::from(Arc::clone(&identity.server)).accept(io);
    let mut stream = match tokio::time::timeout(shared.config.timeouts.handshake, accepting).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return Err(refused("failed_tls", error.to_string())),
        Err(_) => return Err(refused("failed_timeout", "the TLS handshake took too long".to_owned())),
    };
    stream.get_mut().1.set_buffer_limit(Some(crate::dial::TLS_BUFFER));
    let tls = stream.get_ref().1;
    let check = || -> Result<_, IdentityError> { Ok((peer_of(tls)?, link_protocol(tls)?)) };
    let (peer, protocol) = check().map_err(|error| refused("failed_identity", error.to_string()))?;
    Ok((stream, peer, protocol))
}

/// A connection whose client is known as far as it can be.
pub(crate) struct Link {
    pub(crate) door: Rc<InboundDoor>,
    pub(crate) app: EndpointAddr,
    pub(crate) origin: Origin,
    /// `None`: plaintext.
    pub(crate) peer: Option<Rc<PeerIdentity>>,
    /// What ends it.
    drain: Drain,
    listed: Listed,
    _open: OpenGuard,
}

impl Link {
    pub(crate) fn peer_text(&self) -> Option<Arc<str>> {
        self.peer.as_ref().map(|peer| peer.id.to_string().into())
    }

    pub(crate) fn tls(&self) -> TlsLabel {
        if self.peer.is_some() { TlsLabel::Mutual } else { TlsLabel::None }
    }

    pub(crate) fn facts(&self) -> ConnectionFacts {
        ConnectionFacts {
            direction: Direction::Inbound,
            client: self.origin.client,
            server: (self.app.ip().to_string().into(), self.app.port()),
            service: self.app.to_string().into(),
            source_identity: self.peer_text(),
            destination_identity: self.door.telemetry.own_identity(),
            tls: self.tls(),
        }
    }

    pub(crate) fn tcp_record(&self) -> TcpRecord {
        let peer = self.peer_text();
        let source = self.peer.as_ref().map(|peer| crate::telemetry::workload_of(&peer.id));
        let series = self.door.telemetry.shard.tcp_series(&TcpLabels {
            direction: Direction::Inbound,
            source_workload: source.as_deref().unwrap_or(""),
            destination_service: &self.app.to_string(),
            peer_identity: peer.as_deref().unwrap_or(""),
            tls: self.tls(),
        });
        let mut record = TcpRecord::open(&self.door.telemetry, self.facts(), series);
        record.upstream = Some(self.app.get());
        record
    }

    pub(crate) fn relay_options(&self) -> RelayOptions {
        RelayOptions { idle_timeout: self.door.shared.config.timeouts.tcp_idle, ..RelayOptions::default() }
    }
}

impl Link {
    /// What its requests are handed to. It lives as long as the connection, and with it what counts and lists that.
    fn exchange(self, marked: bool) -> Rc<Exchange<Inbound>> {
        let facts = Rc::new(self.facts());
        let door = Rc::clone(&self.door);
        let caller = Caller { addr: self.origin.client, peer: self.peer.clone(), marked };
        let application = door.applications.get(self.app, self.origin);
        let config = &door.shared.snapshot;
        let side = Inbound::new(caller, application, &facts, &door.telemetry, config, self);
        // The calling side has the time that a whole request may take.
        let times = Times { request: None, tunnel_idle: door.shared.config.timeouts.tcp_idle };
        Exchange::new(side, &door.telemetry, facts, times)
    }
}

/// Serves the requests of a mesh link.
async fn serve_link(link: Link, io: MeshStream) {
    let (door, client, drain) = (Rc::clone(&link.door), link.origin.client, link.drain.clone());
    // One that is open when everything closes ends with the worker's runtime.
    if let Err(error) = serve_http2(io, link.exchange(true), &door.limits.http2_link, drain).await {
        tracing::debug!(%error, %client, "mesh link failed");
    }
}

/// Serves requests as an application sent them: in plaintext, or in a mesh link of bytes. `reset_on_close`: see [`serve_http1`].
async fn serve_client<S>(link: Link, io: S, reset_on_close: fn(&S), http2: bool)
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let (door, client) = (Rc::clone(&link.door), link.origin.client);
    let (mut drain, draining) = (link.drain.clone(), link.drain.clone());
    link.listed.update(|info| info.protocol = if http2 { "http/2" } else { "http/1" });
    let handler = link.exchange(false);
    let serving = async {
        if http2 {
            serve_http2(io, handler, &door.limits.http2, draining).await.map_err(|error| error.to_string())
        } else {
            serve_http1(io, reset_on_close, handler, &door.limits.http1, draining)
                .await
                .map(drop)
                .map_err(|error| error.to_string())
        }
    };
    tokio::select! {
        result = serving => if let Err(error) = result {
            tracing::debug!(%error, %client, "inbound connection failed");
        },
        () = drain.closed() => {}
    }
}

/// How long a line that could still become a request is waited for in a link of bytes. The caller's sidecar has waited
/// already, and what comes of it later is seen as it passes.
const UNFINISHED_IN_LINK: Duration = Duration::from_millis(100);

/// A mesh link of bytes. What comes in it is looked at once more: the peer chose the kind of link, and requests are to be
/// told who calls, whoever says that they are bytes.
async fn serve_bytes(link: Link, mut stream: MeshStream) {
    let app = match link.door.applications.dial(link.app, link.origin).await {
        Ok(app) => app,
        Err(error) => {
            tracing::debug!(%error, "the application did not take a connection");
            link.tcp_record().failed(ErrorCode::ConnectRefused);
            weft_net::reset_on_drop(stream.get_ref().0.get_ref());
            return;
        }
    };
    let mut app = Asked::new(app);
    if link.door.shared.snapshot.load().inbound.opaque_ports.contains(link.app.port()) {
        let unwatched = Watched::unwatched(Prefixed::new(Bytes::new(), stream));
        return relay(link, unwatched, app.into_stream()).await;
    }
    let mut first = BytesMut::new();
    let client = detect_or_give_up(&mut stream, &mut first, UNFINISHED_IN_LINK);
    let spoke = match app.first_word(client, silent_end(&link.door, &link.drain)).await {
        Word::Client(spoke) => spoke,
        Word::Server => None,
        Word::Http2Server => {
            drop(app);
            let client = detect_or_give_up(&mut stream, &mut first, UNFINISHED_IN_LINK);
            return match after_settings(client, silent_end(&link.door, &link.drain)).await {
                Some(Detected::Http1 | Detected::Http2) => served(link, first, stream).await,
                other => refuse_other(&link, other.is_some(), stream.get_ref().0.get_ref()),
            };
        }
        Word::Over => return weft_net::reset_on_drop(stream.get_ref().0.get_ref()),
    };
    match spoke {
        Some(Detected::Http1 | Detected::Http2) => {
            drop(app);
            served(link, first, stream).await;
        }
        // Whoever has spoken first, a request may come yet.
        _ => relay(link, Watched::new(Prefixed::new(first.freeze(), stream)), app.into_stream()).await,
    }
}

/// Requests in a mesh link of bytes.
async fn served(link: Link, first: BytesMut, stream: MeshStream) {
    let http2 = matches!(detect(&first), Detection::Done(Detected::Http2));
    // One that ends without a close_notify has broken off: TLS says so itself.
    serve_client(link, Prefixed::new(first.freeze(), stream), |_| (), http2).await;
}

/// Bytes from a mesh link to the application.
async fn relay(link: Link, mut stream: Watched<Prefixed<MeshStream>>, mut app: Prefixed<TcpStream>) {
    let mut record = link.tcp_record();
    let counters = RelayCounters::default();
    let options = link.relay_options();
    let relaying = weft_net::relay(&mut stream, &mut app, &options, &counters);
    let outcome = record.run(relaying, &counters, link.drain.clone().into_closed()).await;
    let late = refuse_late(&link, &stream);
    if late || outcome.is_none_or(|outcome| outcome.aborted) {
        weft_net::reset_on_drop(&app);
        weft_net::reset_on_drop(stream.get_ref().get_ref().get_ref().0.get_ref());
    }
}

/// Tells of a request that began where only bytes were expected, if that is how it ended.
fn refuse_late<S>(link: &Link, stream: &Watched<S>) -> bool {
    if stream.is_http() {
        count_late(link, "refused a request in a connection of bytes");
    }
    stream.is_http()
}

fn count_late(link: &Link, what: &'static str) {
    link.door.telemetry.inbound.detections.inc("late_http");
    tracing::warn!(client = %link.origin.client, app = %link.app, peer = link.peer_text().as_deref().unwrap_or(""), "{what}");
}

/// Ends a connection to an application that speaks HTTP/2, whose client has said something else (or is gone).
fn refuse_other(link: &Link, spoke: bool, stream: &impl weft_net::PlainTcp) {
    if spoke {
        count_late(link, "refused bytes that are no HTTP to an application that speaks HTTP/2");
    }
    weft_net::reset_on_drop(stream);
}
