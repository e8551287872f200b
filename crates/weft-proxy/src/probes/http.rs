//! GET as the kubelet does it.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use ::http::uri::PathAndQuery;
use ::http::{HeaderMap, HeaderValue, Request, StatusCode, Uri, header};
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http_body::Body as _;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::Unhealthy;

/// The kubelet reads no more of an answer than this, 10 KiB, and shows it where a check fails.
const MOST_BODY: usize = 10 * 1024;

/// Headers that belong to a connection (RFC 9110 section 7.6.1) or to a body that a GET has not.
const DROPPED: [header::HeaderName; 7] = [
    header::CONNECTION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::CONTENT_LENGTH,
    header::EXPECT,
];

/// What is asked of the application: the kubelet's headers, the check's path.
pub(super) fn request(
    asked: Request<Body>,
    path: &str,
    app: SocketAddr,
    own_port: u16,
) -> Result<Request<Body>, Unhealthy> {
    let malformed = |what: &str| Unhealthy::Protocol(format!("malformed {what}"));
    let mut headers = asked.into_parts().0.headers;
    for name in DROPPED {
        headers.remove(name);
    }
    if names_us(&headers, own_port) {
        let host = HeaderValue::from_str(&app.to_string()).map_err(|_| malformed("host"))?;
        headers.insert(header::HOST, host);
    }
    // The connection is for this one answer.
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    let path: PathAndQuery = path.parse().map_err(|_| malformed("path"))?;
    let mut request = Request::new(Body::empty());
    *request.uri_mut() = Uri::from(path);
    *request.headers_mut() = headers;
    Ok(request)
}

/// Whether the host is the one that the kubelet made of our own address, and not one that the check asks for.
fn names_us(headers: &HeaderMap, own_port: u16) -> bool {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    host.is_none_or(|host| host.rsplit_once(':').is_some_and(|(_, port)| port.parse() == Ok(own_port)))
}

pub(super) async fn secure(
    stream: TcpStream,
    config: Arc<ClientConfig>,
    app: SocketAddr,
) -> Result<TlsStream<TcpStream>, Unhealthy> {
    let connecting = TlsConnector::from(config).connect(ServerName::IpAddress(app.ip().into()), stream);
    connecting.await.map_err(|error| Unhealthy::Protocol(error.to_string()))
}

pub(super) async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Body>,
) -> Result<Response, Unhealthy> {
    let failed = |error: hyper::Error| Unhealthy::Protocol(error.to_string());
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(failed)?;
    let mut connection = std::pin::pin!(connection);
    let answering = async {
        let response = sender.send_request(request).await.map_err(failed)?;
        let status = response.status();
        let body = beginning(response.into_body()).await;
        Ok((status, body))
    };
    // The connection moves the exchange along; how it ended is told by the exchange itself.
    let driving = async {
        let _ = connection.as_mut().await;
        std::future::pending::<Infallible>().await
    };
    let (status, body) = tokio::select! {
        answer = answering => answer?,
        never = driving => match never {},
    };
    // A redirect is success to the kubelet, which would follow it to our port, where nothing of the application's is.
    let status = if status.is_redirection() { StatusCode::OK } else { status };
    Ok((status, body).into_response())
}

/// The first octets of a body; what fails after the head does not change the answer.
async fn beginning(mut body: hyper::body::Incoming) -> Vec<u8> {
    let mut kept = Vec::new();
    while kept.len() < MOST_BODY {
        let frame = std::future::poll_fn(|cx| std::pin::Pin::new(&mut body).poll_frame(cx)).await;
        let Some(Ok(frame)) = frame else { break };
        if let Some(data) = frame.data_ref() {
            let room = data.len().min(MOST_BODY - kept.len());
            kept.extend(data.iter().take(room));
        }
    }
    kept
}

/// TLS that takes any certificate: the kubelet's checks do not verify either, because a pod's certificate is seldom for
/// its address. Nothing secret is sent over it, and the answer is only whether the application is well.
pub(super) fn unverified() -> Result<Arc<ClientConfig>, rustls::Error> {
    let provider = weft_identity::crypto_provider();
    let schemes = provider.signature_verification_algorithms.supported_schemes();
    let config = ClientConfig::builder_with_provider(Arc::clone(provider))
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Unverified(schemes)))
        .with_no_client_auth();
    Ok(Arc::new(config))
}

#[derive(Debug)]
struct Unverified(Vec<SignatureScheme>);

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.clone()
    }
}
