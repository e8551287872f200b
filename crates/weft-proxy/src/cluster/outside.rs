//! The way to an endpoint outside the mesh: plaintext, or TLS with the names of the web.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::Version;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use weft_core::ProxyProtocol;
use weft_http::ErrorCode;
use weft_identity::{UpstreamName, UpstreamTrust, upstream_config};
use weft_net::{MaybeTls, ReadAhead};
use weft_resource::policy::SubjectAltName;
use weft_resource::value::{BackendHost, HostPattern, PreciseHost};
use weft_route::{Upstream, UpstreamEndpoint, UpstreamProtocol, UpstreamTls};

use crate::dial::{DialError, TLS_BUFFER, TlsStream};

/// How endpoints outside the mesh are spoken to.
#[derive(Clone, Default)]
pub(crate) struct Beyond {
    /// `None`: in plaintext.
    pub(crate) tls: Option<Rc<Outside>>,
    /// What each connection begins with, so that the endpoint knows whose it is: then none is for the requests of two clients.
    pub(crate) announced: Option<ProxyProtocol>,
}

/// TLS with an upstream. What is wrong with it is told to each request: nothing goes in plaintext instead.
pub(crate) struct Outside {
    configs: Result<Configs, Arc<str>>,
    name: Option<ServerName<'static>>,
    /// Whether the upstream's first connection settles which version it is spoken to in.
    settles: bool,
    /// Which that is, by now.
    settled: Cell<Option<Version>>,
}

/// One for each of [`Speaks`].
struct Configs {
    http1: Arc<ClientConfig>,
    http2: Arc<ClientConfig>,
    either: Arc<ClientConfig>,
    bytes: Arc<ClientConfig>,
}

/// What is to be spoken over a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Speaks {
    Http1,
    Http2,
    /// HTTP/2, or HTTP/1.1 where the upstream does not know it (ALPN, RFC 7301).
    Either,
    Bytes,
}

impl Outside {
    /// Towards an upstream over `tls`. Where no name is configured, that of its hosts is asked for, if they have one in common.
    pub(crate) fn new(tls: &UpstreamTls, upstream: &Upstream) -> Self {
        let names = tls.verification.names.iter().map(|name| match name {
            SubjectAltName::Hostname(HostPattern::Exact(name)) => UpstreamName::Dns(name.to_string()),
            SubjectAltName::Hostname(HostPattern::Wildcard(base)) => UpstreamName::Below(base.to_string()),
            SubjectAltName::Uri(uri) => UpstreamName::Uri(uri.clone()),
        });
        let trust = UpstreamTrust { roots: tls.verification.roots.clone(), names: names.collect() };
        let client = tls.client_certificate.as_ref();
        let client = client.map(|certificate| (certificate.chain.as_slice(), certificate.key.as_slice()));
        let config = |alpn: &[&[u8]]| upstream_config(&trust, client, alpn);
        let configs = || {
            let (http1, http2): (&[u8], &[u8]) = (b"http/1.1", b"h2");
            let either = config(&[http2, http1])?;
            Ok(Configs { http1: config(&[http1])?, http2: config(&[http2])?, either, bytes: config(&[])? })
        };
        let configs = configs().map_err(|error: weft_identity::IdentityError| Arc::from(error.to_string()));
        let name = tls.server_name.clone().or_else(|| common_name(&upstream.endpoint));
        let name = name.and_then(|name| ServerName::try_from(name.to_string()).ok());
        let settles = upstream.protocol == UpstreamProtocol::Any;
        Self { configs, name, settles, settled: Cell::new(None) }
    }

    /// Which version the upstream has agreed to, if that was left to it.
    pub(crate) fn settled(&self) -> Option<Version> {
        self.settled.get()
    }

    /// Whether the next connection settles that.
    pub(super) fn is_unsettled(&self) -> bool {
        self.settles && self.settled.get().is_none()
    }

    /// Takes a connection to an endpoint to its TLS.
    pub(crate) async fn handshake(
        &self,
        tcp: TcpStream,
        speaks: Speaks,
        limit: Duration,
    ) -> Result<PeerIo, DialError> {
        let configs = self.configs.as_ref().map_err(|why| DialError {
            blames_endpoint: false,
            ..DialError::new(ErrorCode::TlsFailed, why)
        })?;
        let config = match speaks {
            Speaks::Http1 => &configs.http1,
            Speaks::Http2 => &configs.http2,
            Speaks::Either => &configs.either,
            Speaks::Bytes => &configs.bytes,
        };
        let name = match &self.name {
            Some(name) => name.clone(),
            None => {
                ServerName::IpAddress(tcp.peer_addr().map_err(|e| failed(&e))?.ip().to_canonical().into())
            }
        };
        let connecting = TlsConnector::from(Arc::clone(config)).connect(name, ReadAhead::new(tcp));
        let connected = tokio::time::timeout(limit, connecting).await;
        let mut stream =
            connected.map_err(|_| failed(&"the TLS handshake took too long"))?.map_err(|e| failed(&e))?;
        let agreed = stream.get_ref().1.alpn_protocol();
        // Servers that know no ALPN speak HTTP/1.1 (RFC 9113 section 3.2 wants it for HTTP/2).
        let agreed = if agreed == Some(b"h2") { Version::HTTP_2 } else { Version::HTTP_11 };
        if speaks == Speaks::Http2 && agreed != Version::HTTP_2 {
            // It may have been another before.
            self.settled.set(None);
            return Err(failed(&"the upstream did not agree to HTTP/2 (ALPN h2)"));
        }
        if speaks == Speaks::Either {
            self.settled.set(Some(agreed));
        }
        stream.get_mut().1.set_buffer_limit(Some(TLS_BUFFER));
        Ok(PeerIo::Tls(Box::new(stream)))
    }
}

/// Takes a connection to its TLS, where there is to be any.
pub(super) async fn secured(
    outside: Option<&Outside>,
    tcp: TcpStream,
    speaks: Speaks,
    limit: Duration,
) -> Result<PeerIo, DialError> {
    let Some(outside) = outside else { return Ok(PeerIo::Plain(tcp)) };
    let endpoint = tcp.peer_addr();
    let secured = outside.handshake(tcp, speaks, limit).await;
    secured.inspect_err(|error| tracing::warn!(?endpoint, error = %error.detail, "no TLS with an upstream"))
}

fn common_name(endpoint: &UpstreamEndpoint) -> Option<PreciseHost> {
    let UpstreamEndpoint::Listed(hosts) = endpoint else { return None };
    let mut names = hosts.iter().map(|(host, _)| match host {
        BackendHost::Name(name) => Some(name),
        BackendHost::Address(_) => None,
    });
    let first = names.next()??;
    names.all(|name| name == Some(first)).then(|| first.clone())
}

fn failed(why: &dyn std::fmt::Display) -> DialError {
    DialError::new(ErrorCode::TlsFailed, why)
}

/// A connection to an endpoint outside the mesh.
pub(crate) type PeerIo = MaybeTls<TcpStream, TlsStream>;

/// Whether HTTP/2 is what was agreed on for a connection.
pub(super) fn is_http2(io: &PeerIo) -> bool {
    matches!(io, PeerIo::Tls(tls) if tls.get_ref().1.alpn_protocol() == Some(b"h2"))
}

/// Has a connection end in a reset.
pub(crate) fn reset_on_close(io: &PeerIo) {
    match io {
        PeerIo::Plain(tcp) => weft_net::reset_on_drop(tcp),
        PeerIo::Tls(tls) => weft_net::reset_on_drop(tls.get_ref().0.get_ref()),
    }
}
