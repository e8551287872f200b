//! A request in the version that its backend speaks, and the answer back in the client's.
//!
//! A sidecar restores what the calling application spoke; a gateway's clients speak what browsers do, and backends what they
//! can.

use http::header::{COOKIE, HOST, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION};
use http::uri::{Authority, Scheme};
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, Version};
use weft_http::wire::{self, Original};
use weft_http::{Body, ErrorCode, judge};
use weft_route::UpstreamProtocol;

/// Which version a backend is spoken to in. Without a word on it that is HTTP/1.1, which every server knows, but for gRPC,
/// which is HTTP/2.
pub(crate) fn version(protocol: UpstreamProtocol, grpc: bool) -> Version {
    match protocol {
        UpstreamProtocol::Http2 | UpstreamProtocol::Grpc => Version::HTTP_2,
        UpstreamProtocol::Any if grpc => Version::HTTP_2,
        UpstreamProtocol::Any | UpstreamProtocol::Http1 | UpstreamProtocol::Tcp => Version::HTTP_11,
    }
}

/// Which version a backend is spoken to in by a sidecar, whose application has chosen one already: that one, unless the backend
/// is known to speak another.
pub(crate) fn kept(protocol: UpstreamProtocol, spoken: Version) -> Version {
    match protocol {
        UpstreamProtocol::Http2 | UpstreamProtocol::Grpc => Version::HTTP_2,
        UpstreamProtocol::Http1 if spoken == Version::HTTP_2 => Version::HTTP_11,
        UpstreamProtocol::Any | UpstreamProtocol::Http1 | UpstreamProtocol::Tcp => spoken,
    }
}

/// Makes a request of any version one for `uri` (path and query) at `host`, and leaves all else as it is.
///
/// # Errors
/// It cannot be one.
pub(crate) fn readdress(request: &mut Request<Body>, host: &HeaderValue, uri: Uri) -> Result<(), ErrorCode> {
    // A target that is no URI was read in the form that is one, and goes on in it.
    wire::forget_target(request);
    if request.version() == Version::HTTP_2 {
        let scheme = request.uri().scheme().cloned();
        request.headers_mut().remove(HOST);
        *request.uri_mut() = absolute(scheme.unwrap_or(Scheme::HTTP), host, uri)?;
        return Ok(());
    }
    // An HTTP/1.0 client may come without.
    if !host.is_empty() {
        request.headers_mut().insert(HOST, host.clone());
    }
    *request.uri_mut() = uri;
    Ok(())
}

/// Makes a request one of `version` for `uri` (path and query) at `host`.
///
/// # Errors
/// It cannot be one.
pub(crate) fn request(
    request: &mut Request<Body>,
    original: &mut Original,
    version: Version,
    host: &HeaderValue,
    uri: Uri,
) -> Result<(), ErrorCode> {
    // A target that is no URI was read in the form that is one, and goes on in it.
    wire::forget_target(request);
    if judge::asks_for_protocol(request) {
        web_socket(request, original)?;
    }
    if version == Version::HTTP_2 {
        if original.upgrade.is_some() {
            return Err(ErrorCode::VersionNotSupported);
        }
        wire::forget_http1(request);
        request.headers_mut().remove(HOST);
        *request.uri_mut() = absolute(Scheme::HTTP, host, uri)?;
    } else {
        if original.version == Version::HTTP_2 {
            join_cookies(request);
        }
        // An HTTP/1.0 client may come without; its backend does not.
        request.headers_mut().insert(HOST, host.clone());
        *request.uri_mut() = uri;
    }
    *request.version_mut() = version;
    original.version = version;
    Ok(())
}

fn absolute(scheme: Scheme, host: &HeaderValue, uri: Uri) -> Result<Uri, ErrorCode> {
    let mut parts = uri.into_parts();
    parts.authority = Some(Authority::try_from(host.as_bytes()).map_err(|_| ErrorCode::BadRequest)?);
    parts.scheme = Some(scheme);
    Uri::from_parts(parts).map_err(|_| ErrorCode::BadRequest)
}

/// HTTP/2 may send a cookie in several fields; HTTP/1 has one (RFC 9113 section 8.2.3).
fn join_cookies(request: &mut Request<Body>) {
    let headers = request.headers_mut();
    let lines: Vec<&[u8]> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if lines.len() > 1
        && let Ok(joined) = HeaderValue::from_bytes(&lines.join(&b"; "[..]))
    {
        headers.insert(COOKIE, joined);
    }
}

const WEBSOCKET: HeaderValue = HeaderValue::from_static("websocket");
/// A nonce of 16 octets in base64 (RFC 6455 section 4.1). It proves to a client that its server speaks WebSocket; the client here is
/// this proxy, which has the server's word by its 101.
const NONCE: HeaderValue = HeaderValue::from_static("d2VmdCBhdCB0aGUgZWRnZQ==");

/// A WebSocket over HTTP/2 (RFC 8441) as HTTP/1.1 has it (RFC 6455).
fn web_socket(request: &mut Request<Body>, original: &mut Original) -> Result<(), ErrorCode> {
    if !judge::is_protocol(request, "websocket") {
        return Err(ErrorCode::MethodNotAllowed);
    }
    wire::forget_protocol(request);
    *request.method_mut() = Method::GET;
    let headers = request.headers_mut();
    headers.insert(SEC_WEBSOCKET_KEY, NONCE);
    headers.entry(SEC_WEBSOCKET_VERSION).or_insert(HeaderValue::from_static("13"));
    original.upgrade = Some(WEBSOCKET);
    Ok(())
}

/// Makes the answer one for a client of HTTP/2: a switch of protocols is a 200 there (RFC 8441 section 5).
pub(crate) fn answer<B>(response: &mut Response<B>) {
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        *response.status_mut() = StatusCode::OK;
        wire::forget_upgrade(response);
        const UPGRADE: HeaderName = http::header::UPGRADE;
        for name in [SEC_WEBSOCKET_ACCEPT, UPGRADE] {
            response.headers_mut().remove(name);
        }
    }
}
