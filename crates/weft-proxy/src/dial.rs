//! One connection to an endpoint: TCP, then mutual TLS, then the question whether the right one answered.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, HandshakeKind};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client;
use weft_core::{EndpointAddr, PeerRule, ProxyProtocol, SpiffeId};
use weft_http::ErrorCode;
use weft_identity::{LinkProtocol, TlsGeneration, peer_of, tls_error};
use weft_net::proxy_protocol::{self, ProxyHeader};
use weft_net::{ConnectError, ConnectOptions, ReadAhead};

use crate::shared::Shared;
use crate::telemetry::WorkerTelemetry;

/// A TLS connection to an endpoint: to its proxy, or to a server outside the mesh.
pub(crate) type TlsStream = client::TlsStream<ReadAhead<TcpStream>>;

/// What a TLS connection takes before its socket has: one frame of the largest size with its header, and then some. At
/// rustls' 64 KiB a larger frame would leave in two writes.
pub(crate) const TLS_BUFFER: usize = 256 * 1024;

/// A connection whose other end has proved to be who it may be.
pub(crate) struct Dialed {
    pub(crate) stream: TlsStream,
    pub(crate) peer: SpiffeId,
    pub(crate) generation: u64,
}

/// Whose connection it is, for an endpoint outside the mesh that wants to know: the first that it is told, before TLS.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Announced {
    pub(crate) version: ProxyProtocol,
    /// `None`: this process's own.
    pub(crate) header: Option<ProxyHeader>,
}

impl Announced {
    pub(crate) async fn say(&self, tcp: &mut TcpStream) -> Result<(), DialError> {
        let failed = |error| DialError::new(ErrorCode::ConnectFailed, &error);
        let header = match self.header {
            Some(header) => header,
            None => proxy_protocol::own(self.version, tcp).map_err(failed)?,
        };
        proxy_protocol::write(tcp, self.version, &header).await.map_err(failed)
    }
}

/// Why there is no connection. Nothing of a request was sent in any of these cases, so another endpoint may be tried.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{code:?}: {detail}")]
pub(crate) struct DialError {
    pub(crate) code: ErrorCode,
    pub(crate) detail: Arc<str>,
    /// Whether the endpoint is to blame, and not this machine.
    pub(crate) blames_endpoint: bool,
}

impl DialError {
    pub(crate) fn new(code: ErrorCode, detail: &dyn std::fmt::Display) -> Self {
        Self { code, detail: detail.to_string().into(), blames_endpoint: true }
    }
}

impl DialError {
    /// There was nobody to dial.
    pub(crate) fn no_endpoint() -> Self {
        Self { blames_endpoint: false, ..Self::new(ErrorCode::NoEndpoints, &"no endpoint") }
    }
}

impl From<ConnectError> for DialError {
    fn from(error: ConnectError) -> Self {
        let code = match &error {
            ConnectError::Refused { .. } => ErrorCode::ConnectRefused,
            ConnectError::TimedOut { .. } => ErrorCode::ConnectTimeout,
            _ => ErrorCode::ConnectFailed,
        };
        Self { blames_endpoint: error.blames_endpoint(), ..Self::new(code, &error) }
    }
}

/// Makes connections to endpoints.
pub(crate) struct Dialer {
    shared: Arc<Shared>,
    telemetry: Rc<WorkerTelemetry>,
    options: ConnectOptions,
}

impl Dialer {
    pub(crate) fn new(shared: Arc<Shared>, telemetry: Rc<WorkerTelemetry>, options: ConnectOptions) -> Self {
        Self { shared, telemetry, options }
    }

    /// Dials TCP. A call to the workload's own address leaves from loopback, which `weft init` has redirected to the inbound
    /// listener, so that policy and telemetry see it like any other call; everything else that the proxy dials returns past
    /// the rules (docs/guide/interception.md).
    pub(crate) async fn tcp(&self, endpoint: EndpointAddr) -> Result<TcpStream, DialError> {
        // DNS may name anything as an endpoint; a listener of the own application would dial itself for ever.
        if self.shared.config.listeners.is_outbound(endpoint.get()) {
            let why = format!("{endpoint} is a listener of this proxy (outbound.listeners)");
            return Err(DialError::new(ErrorCode::Loop, &why));
        }
        let mut options = self.options;
        if self.shared.is_own(endpoint.ip()) {
            options.bind = Some(match endpoint.ip() {
                IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
                IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
            });
        }
        match weft_net::connect(endpoint, &options).await {
            // Nobody listens on a service's address: a node refuses it as long as no pod is ready behind it.
            Err(ConnectError::Refused { .. }) if self.is_service_range(endpoint.ip()) => {
                let why = format!("{endpoint} is a service's address, and nothing is ready behind it");
                Err(DialError::new(ErrorCode::NoEndpoints, &why))
            }
            connected => Ok(connected?),
        }
    }

    fn is_service_range(&self, ip: IpAddr) -> bool {
        self.shared.snapshot.load().membership.is_service_range(ip)
    }

    /// Dials what is outside the mesh, as the application would have.
    pub(crate) async fn outside(&self, addr: EndpointAddr) -> Result<TcpStream, ConnectError> {
        weft_net::connect(addr, &self.options).await
    }

    /// The own certificates. The peer would refuse an expired one, and say so too late for the caller to be told why. One that
    /// is not valid yet is: the peer's clock may be ahead of ours.
    fn identity(&self) -> Result<Arc<TlsGeneration>, DialError> {
        let without = |why: &dyn std::fmt::Display| DialError {
            blames_endpoint: false,
            ..DialError::new(ErrorCode::NoIdentity, why)
        };
        let identity = self.shared.identity.current().ok_or_else(|| without(&"no certificate yet"))?;
        if SystemTime::now() <= identity.not_after {
            return Ok(identity);
        }
        Err(without(&"the certificate of this proxy has expired, and there is no new one (see /certs)"))
    }

    /// Dials a mesh link and checks who answered.
    pub(crate) async fn mesh(
        &self,
        endpoint: EndpointAddr,
        rule: &PeerRule,
        protocol: LinkProtocol,
    ) -> Result<Dialed, DialError> {
        let identity = self.identity()?;
        let telemetry = &self.telemetry.outbound;
        let mut retried = false;
        loop {
            let tcp = self.tcp(endpoint).await?;
            let started = Instant::now();
            let failed = match self.handshake(tcp, endpoint, rule, protocol, &identity).await {
                Ok(dialed) => {
                    telemetry.handshakes.inc(kind(dialed.stream.get_ref().1.handshake_kind()));
                    telemetry.handshake_duration.observe(started.elapsed());
                    return Ok(dialed);
                }
                Err(failed) => failed,
            };
            telemetry.handshakes.inc(match failed.error.code {
                ErrorCode::IdentityMismatch => "failed_identity",
                _ => "failed_tls",
            });
            // Where the endpoint's inbound mode is permissive and its application speaks first, our hello may have come after
            // its patience (`timeouts.detect`), because one of the two machines is busy: that says nothing about the next time.
            let again = failed.in_plaintext && !retried;
            retried = true;
            let error = failed.error;
            tracing::warn!(%endpoint, expected = %rule, error = %error.detail, again, "no mesh link");
            if !again {
                return Err(error);
            }
        }
    }
}

/// A handshake that brought no link.
struct Failed {
    error: DialError,
    /// What came was no TLS at all.
    in_plaintext: bool,
}

impl From<DialError> for Failed {
    fn from(error: DialError) -> Self {
        Self { error, in_plaintext: false }
    }
}

/// Whether a handshake failed because what came was no TLS.
fn is_plaintext(error: &std::io::Error) -> bool {
    matches!(tls_error(error), Some(rustls::Error::InvalidMessage(_)))
}

impl Dialer {
    async fn handshake(
        &self,
        tcp: TcpStream,
        endpoint: EndpointAddr,
        rule: &PeerRule,
        protocol: LinkProtocol,
        identity: &TlsGeneration,
    ) -> Result<Dialed, Failed> {
        let config: &Arc<ClientConfig> = match protocol {
            LinkProtocol::Http => &identity.client_http,
            LinkProtocol::Tcp => &identity.client_tcp,
        };
        let name = ServerName::IpAddress(endpoint.ip().into());
        let connecting = TlsConnector::from(Arc::clone(config)).connect(name, ReadAhead::new(tcp));
        let stream = match tokio::time::timeout(self.shared.config.timeouts.handshake, connecting).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                let in_plaintext = is_plaintext(&error);
                return Err(Failed { error: DialError::new(ErrorCode::TlsFailed, &error), in_plaintext });
            }
            Err(_) => {
                return Err(DialError::new(ErrorCode::TlsFailed, &"the TLS handshake took too long").into());
            }
        };
        let mut stream = stream;
        stream.get_mut().1.set_buffer_limit(Some(TLS_BUFFER));
        let tls = stream.get_ref().1;
        let peer = peer_of(tls).map_err(|error| DialError::new(ErrorCode::TlsFailed, &error))?;
        if !rule.allows(&peer.id) {
            let detail = format!("{endpoint} is {}, expected {rule}", peer.id);
            return Err(DialError::new(ErrorCode::IdentityMismatch, &detail).into());
        }
        let agreed = weft_identity::link_protocol(tls)
            .map_err(|error| DialError::new(ErrorCode::TlsFailed, &error))?;
        if agreed != protocol {
            return Err(DialError::new(ErrorCode::TlsFailed, &"the peer chose another link protocol").into());
        }
        Ok(Dialed { stream, peer: peer.id, generation: identity.generation })
    }
}

/// The metric label of a handshake that succeeded.
pub(crate) fn kind(kind: Option<HandshakeKind>) -> &'static str {
    match kind {
        Some(HandshakeKind::Resumed) => "resumed",
        _ => "full",
    }
}
