//! TLS with clients: the ClientHello says by its server name which listener a connection is for.
//!
//! The most specific listener takes it, as the Gateway API has it for hosts: an exact name before a wildcard, a longer wildcard
//! before a shorter, a listener without a name last. A client that sends no name is that last one's. What no listener takes
//! is refused with the alert that TLS has for it, and not shown somebody else's certificate.

use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant as Clock;

use rustls::server::Acceptor;
use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::{LazyConfigAcceptor, StartHandshake};
use weft_core::Drain;
use weft_identity::edge::ALPN_H2;
use weft_net::{Accepted, Detected, Prefixed, ReadAhead, detect_first};
use weft_route::{Listener, ListenerKind};

use super::edge::{Edge, EdgeIo, EdgeTls, EdgeTlsStream};
use super::{GatewayDoor, Visit, http, l4, plain};

type Stream = ReadAhead<Prefixed<tokio::net::TcpStream>>;

/// `unrecognized_name` (RFC 6066 section 3): no listener takes this name.
const UNRECOGNIZED_NAME: u8 = 112;
/// `missing_extension` (RFC 8446 section 9.2): a server that needs a name may ask for it so.
const MISSING_EXTENSION: u8 = 109;
/// `internal_error` (RFC 8446 section 6.2).
const INTERNAL_ERROR: u8 = 80;

/// A handshake that did not come to an end.
struct Refused {
    label: &'static str,
    detail: String,
}

fn refused(label: &'static str, detail: &dyn std::fmt::Display) -> Refused {
    Refused { label, detail: detail.to_string() }
}

/// A handshake that did.
struct Agreed {
    stream: EdgeTlsStream,
    tls: EdgeTls,
    drain: Drain,
}

/// Serves a connection that begins with a ClientHello.
pub(super) async fn serve(mut visit: Visit) {
    let started = Clock::now();
    let deadline = Instant::now() + visit.door.shared.config.timeouts.handshake;
    if visit.state.passes_through() {
        let Visit { accepted, first, .. } = &mut visit;
        match timeout_at(deadline, detect_first(&mut accepted.stream, first)).await {
            Ok(Ok(Detected::Tls(hello))) => {
                let name = hello.server_name().unwrap_or_default().to_ascii_lowercase();
                if let Some((listener, drain)) = visit.listener(&name)
                    && let ListenerKind::Passthrough(rules) = &listener.kind
                {
                    let rule = rules.most_specific(&name).cloned();
                    let (door, edge) = visit.into_edge(plain, None, drain);
                    return l4::serve(door, edge, &listener, rule).await;
                }
            }
            Ok(Ok(_)) => return visit.refuse("not_tls"),
            Ok(Err(_)) => return visit.refuse("client_gone"),
            Err(_) => return visit.refuse("silent"),
        }
    }
    terminate(visit, started, deadline).await;
}

async fn terminate(visit: Visit, started: Clock, deadline: Instant) {
    let Visit { door, accepted, first, port, state, listed, open } = visit;
    let Accepted { stream, client, local } = accepted;
    let client = client.get();
    let io = ReadAhead::new(Prefixed::new(first.freeze(), stream));
    let pick = |name: &str| {
        let listener = state.sockets.listeners.most_specific(name)?;
        let of = state.state_of(listener)?;
        Some((Arc::clone(listener), of.tls.clone(), of.drain.clone()))
    };
    let telemetry = door.telemetry.gateway();
    let Agreed { stream, tls, drain } = match timeout_at(deadline, handshake(io, pick)).await {
        Ok(Ok(agreed)) => agreed,
        Ok(Err(why)) => {
            telemetry.handshakes.inc(why.label);
            tracing::debug!(%client, %local, error = %why.detail, "no TLS with a client");
            return;
        }
        Err(_) => return telemetry.handshakes.inc("failed_timeout"),
    };
    telemetry.handshakes.inc(crate::dial::kind(stream.get_ref().1.handshake_kind()));
    telemetry.handshake_duration.observe(started.elapsed());
    let listener = Arc::clone(&tls.listener);
    let io = EdgeIo::Tls(Box::new(stream));
    let edge = Edge { io, client, local, port, tls: Some(tls), drain, open, listed };
    route(door, edge, &listener).await;
}

async fn route(door: Rc<GatewayDoor>, edge: Edge, listener: &Arc<Listener>) {
    match &listener.kind {
        // What the handshake has needed is given back: the connection goes on as a task of its own.
        ListenerKind::Https(..) => drop(tokio::task::spawn_local(http::serve(door, edge))),
        ListenerKind::Tls(_, rules) => {
            let name = edge.tls.as_ref().and_then(|tls| tls.sni.clone());
            let rule = rules.most_specific(name.as_deref().unwrap_or_default()).cloned();
            l4::serve(door, edge, listener, rule).await;
        }
        // Not reached: these do not end TLS.
        ListenerKind::Http(_)
        | ListenerKind::Mesh(_)
        | ListenerKind::Passthrough(_)
        | ListenerKind::Tcp(_) => {}
    }
}

async fn handshake(
    io: Stream,
    pick: impl Fn(&str) -> Option<(Arc<Listener>, Option<weft_identity::edge::EdgeServer>, Drain)>,
) -> Result<Agreed, Refused> {
    let start = {
        let mut acceptor = pin!(LazyConfigAcceptor::new(Acceptor::default(), io));
        acceptor.as_mut().await.map_err(|error| failed(&error))?
    };
    let sni: Option<Arc<str>> =
        start.client_hello().server_name().map(|name| name.to_ascii_lowercase().into());
    let Some((listener, tls, drain)) = pick(sni.as_deref().unwrap_or_default()) else {
        let (alert, why) = match &sni {
            Some(name) => {
                (UNRECOGNIZED_NAME, refused("failed_unknown_name", &format!("no listener takes {name}")))
            }
            None => {
                (MISSING_EXTENSION, refused("failed_no_name", &"no server name, and every listener has one"))
            }
        };
        alert_and_close(start, alert).await;
        return Err(why);
    };
    let Some(server) = tls else {
        alert_and_close(start, INTERNAL_ERROR).await;
        return Err(refused("failed_no_certificate", &format!("listener {} has none", listener.label)));
    };
    let mut stream = start.into_stream(Arc::clone(&server.config)).await.map_err(|error| failed(&error))?;
    stream.get_mut().1.set_buffer_limit(Some(crate::dial::TLS_BUFFER));
    let session = stream.get_ref().1;
    let resumed = session.handshake_kind() == Some(rustls::HandshakeKind::Resumed);
    let client_certificate = match server.client(session.peer_certificates(), resumed) {
        Ok(chain) => chain.map(Arc::from),
        Err(error) => return Err(refused("failed_client_certificate", &error)),
    };
    let h2 = session.alpn_protocol() == Some(ALPN_H2);
    let tls = EdgeTls { sni, listener, h2, client_certificate };
    Ok(Agreed { stream, tls, drain })
}

fn failed(error: &std::io::Error) -> Refused {
    let label = match weft_identity::tls_error(error) {
        Some(rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented) => {
            "failed_client_certificate"
        }
        Some(_) => "failed_tls",
        None => "failed_client_gone",
    };
    refused(label, &weft_identity::handshake_failure(error))
}

/// Tells a client why there is no handshake. rustls has begun none, so that the record is written here (RFC 8446 sections 5.1
/// and 6: alert, legacy version, length; fatal, description).
async fn alert_and_close(start: StartHandshake<Stream>, description: u8) {
    const ALERT: u8 = 21;
    const FATAL: u8 = 2;
    let mut io = start.io;
    if io.write_all(&[ALERT, 3, 3, 0, 2, FATAL, description]).await.is_ok() {
        let _ = io.shutdown().await;
    }
}

#[cfg(test)]
#[path = "tls_tests.rs"]
mod tests;
