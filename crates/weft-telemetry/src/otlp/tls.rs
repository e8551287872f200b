//! The connection to the collector, in plaintext or TLS.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use weft_core::CaCertificates;
use weft_names::Names;

use super::config::Target;
use crate::{CollectorConfig, OtlpProtocol, TelemetryError};

/// Opens connections to one collector.
#[derive(Clone)]
pub(super) struct Connector {
    names: Names,
    host: String,
    port: u16,
    tls: Option<(TlsConnector, ServerName<'static>)>,
}

impl Connector {
    pub(super) fn new(config: &CollectorConfig, target: &Target) -> Result<Self, TelemetryError> {
        let tls = if target.tls { Some(tls(config, target)?) } else { None };
        Ok(Self { names: Names::default(), host: target.host.clone(), port: target.port, tls })
    }

    /// Connects; the name is asked for each time, so that a collector that moved is found again. Spans go to a plaintext one where DNS
    /// last had it while DNS is away.
    pub(super) async fn connect(&self) -> io::Result<Stream> {
        let addresses = self.names.sockets(&self.host, self.port).await.map_err(io::Error::other)?;
        let tcp = TcpStream::connect(&addresses[..]).await?;
        tcp.set_nodelay(true)?;
        match &self.tls {
            None => Ok(Stream::Plain(tcp)),
            Some((connector, name)) => Ok(Stream::Tls(Box::new(connector.connect(name.clone(), tcp).await?))),
        }
    }
}

fn tls(
    config: &CollectorConfig,
    target: &Target,
) -> Result<(TlsConnector, ServerName<'static>), TelemetryError> {
    let endpoint = |reason: String| TelemetryError::Endpoint { endpoint: config.endpoint.clone(), reason };
    let system = || CaCertificates::of_the_machine().find(|path| path.is_file()).map(CaCertificates::File);
    let ca = config.ca.clone().or_else(system).ok_or_else(|| {
        let none = "https needs CA certificates: none of the system's were found, name the collector's";
        endpoint(none.to_owned())
    })?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut client = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| endpoint(e.to_string()))?
        .with_root_certificates(roots(&ca)?)
        .with_no_client_auth();
    client.alpn_protocols = vec![match config.protocol {
        OtlpProtocol::Grpc => b"h2".to_vec(),
        OtlpProtocol::Http => b"http/1.1".to_vec(),
    }];
    let name = ServerName::try_from(target.host.clone()).map_err(|e| endpoint(e.to_string()))?;
    Ok((TlsConnector::from(Arc::new(client)), name))
}

fn roots(ca: &CaCertificates) -> Result<RootCertStore, TelemetryError> {
    let bad = |reason: String| TelemetryError::Roots { ca: ca.to_string(), reason };
    let certificates: Result<Vec<_>, _> = match ca {
        CaCertificates::File(path) => CertificateDer::pem_file_iter(path).and_then(Iterator::collect),
        CaCertificates::Pem(text) => CertificateDer::pem_slice_iter(text.as_bytes()).collect(),
    };
    let certificates = certificates.map_err(|e| bad(e.to_string()))?;
    let mut store = RootCertStore::empty();
    // System bundles hold the odd certificate that webpki does not take; the others are no worse for it.
    let (added, ignored) = store.add_parsable_certificates(certificates);
    match (added, ignored) {
        (0, 0) => Err(bad("no certificate in it".to_owned())),
        (0, _) => Err(bad("none of the certificates is usable".to_owned())),
        _ => Ok(store),
    }
}

/// A connection of either kind.
pub(super) enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(s) => Pin::new(s).poll_read(cx, buf),
            Self::Tls(s) => Pin::new(s).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(s) => Pin::new(s).poll_write(cx, buf),
            Self::Tls(s) => Pin::new(s).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(s) => Pin::new(s).poll_flush(cx),
            Self::Tls(s) => Pin::new(s).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(s) => Pin::new(s).poll_shutdown(cx),
            Self::Tls(s) => Pin::new(s).poll_shutdown(cx),
        }
    }
}
