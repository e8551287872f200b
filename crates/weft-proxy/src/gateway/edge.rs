//! A client's connection, behind TLS where there is any.

use std::net::SocketAddr;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;
use weft_core::Drain;
use weft_net::{MaybeTls, PlainTcp, Prefixed, ReadAhead};
use weft_route::Listener;

use super::port::Port;
use crate::connections::Listed;
use crate::open::OpenGuard;

/// TLS with a client.
pub(crate) type EdgeTlsStream = TlsStream<ReadAhead<Prefixed<TcpStream>>>;

/// A client's connection on its way.
pub(crate) struct Edge {
    /// The bytes, TLS taken off.
    pub(crate) io: EdgeIo,
    /// Who connected.
    pub(crate) client: SocketAddr,
    /// The own address that it connected to.
    pub(crate) local: SocketAddr,
    /// The port; [`Port::now`] says what it does by now.
    pub(crate) port: Arc<Port>,
    /// `None`: plaintext.
    pub(crate) tls: Option<EdgeTls>,
    /// Begins when the connection is to end: its listener is gone, or the process ends.
    pub(crate) drain: Drain,
    /// Counts it while it is open.
    pub(crate) open: OpenGuard,
    /// Lists it while it is open.
    pub(crate) listed: Listed,
}

/// What was agreed in the TLS handshake.
pub(crate) struct EdgeTls {
    /// The server name that the client sent, in lower case.
    pub(crate) sni: Option<Arc<str>>,
    /// The listener of that name.
    pub(crate) listener: Arc<Listener>,
    /// Whether ALPN agreed on HTTP/2.
    pub(crate) h2: bool,
    /// Valid by the listener's roots; leaf first.
    pub(crate) client_certificate: Option<Arc<[CertificateDer<'static>]>>,
}

/// Whose a host name is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Coverage {
    /// The listener's that the connection came to.
    Own,
    /// Another's on the same port: the request is misdirected (421), and comes again over a connection for that host.
    Others,
    /// Nobody's (404).
    Nobody,
}

impl EdgeTls {
    /// The client's certificate by its fingerprint, for logs and spans.
    pub(crate) fn client(&self) -> Option<Arc<str>> {
        use std::fmt::Write as _;
        let leaf = self.client_certificate.as_ref()?.first()?;
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, leaf);
        let mut text = String::from("sha256:");
        for byte in digest.as_ref() {
            let _ = write!(text, "{byte:02x}");
        }
        Some(text.into())
    }

    /// Whose a request's host is, by the listener that its port has for it (Gateway API, "HTTPS listeners": a client that reuses a
    /// connection for another name must not be served by the wrong listener).
    pub(crate) fn coverage(&self, found: Option<&Arc<Listener>>) -> Coverage {
        match found {
            Some(listener) if Arc::ptr_eq(listener, &self.listener) => Coverage::Own,
            Some(listener) if listener.id == self.listener.id => Coverage::Own,
            Some(_) => Coverage::Others,
            None => Coverage::Nobody,
        }
    }
}

/// The bytes of a client's connection.
pub(crate) type EdgeIo = MaybeTls<Prefixed<TcpStream>, EdgeTlsStream>;

/// Has the connection end in a reset, so that nobody takes half an answer for a whole one. TLS says so itself: an end without a
/// close_notify is none.
pub(crate) fn reset_on_close(io: &EdgeIo) {
    if let EdgeIo::Plain(plain) = io {
        weft_net::reset_on_drop(plain);
    }
}

/// The socket below.
pub(crate) fn tcp(io: &EdgeIo) -> &TcpStream {
    match io {
        EdgeIo::Plain(plain) => plain.tcp(),
        EdgeIo::Tls(tls) => tls.get_ref().0.get_ref().tcp(),
    }
}
