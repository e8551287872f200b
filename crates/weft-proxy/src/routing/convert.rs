//! A request in the version that its backend speaks, and the answer back in the client's.
//!
//! A sidecar restores what the calling application spoke; a gateway's clients speak what browsers do, and backends what they
//! can.

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{COOKIE, HOST, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION};
use http::uri::{Authority, Scheme};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, Version};
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

/// Makes a request one of `version` for `uri` (path and query) at `host`. Where that turns a WebSocket of HTTP/2 into one of HTTP/1.1, it
/// gives what its server has to say ([`has_accepted`]).
///
/// # Errors
/// It cannot be one.
pub(crate) fn request(
    request: &mut Request<Body>,
    original: &mut Original,
    version: Version,
    host: &HeaderValue,
    uri: Uri,
) -> Result<Option<HeaderValue>, ErrorCode> {
    // A target that is no URI was read in the form that is one, and goes on in it.
    wire::forget_target(request);
    let unseen = judge::asks_for_protocol(request);
    if unseen {
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
    Ok(unseen.then(|| expected_accept(request.headers())).flatten())
}

/// Makes an ordinary request, for the host and path that it has, one of another version.
///
/// # Errors
/// It cannot be one.
pub(crate) fn reversion(changed: &mut Request<Body>, version: Version) -> Result<(), ErrorCode> {
    let host = match changed.uri().authority() {
        Some(authority) => HeaderValue::from_str(authority.as_str()).ok(),
        None => changed.headers().get(HOST).cloned(),
    };
    let path = changed.uri().path_and_query().cloned();
    let uri = path.map_or_else(|| Uri::from_static("/"), Uri::from);
    let mut original = Original { version: changed.version(), upgrade: None };
    let host = host.unwrap_or(HeaderValue::from_static(""));
    request(changed, &mut original, version, &host, uri)?;
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
/// What a server adds to a key before it hashes it (RFC 6455 section 1.3).
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// A key of a handshake: 16 random octets in base64 (RFC 6455 section 4.1).
fn key() -> Result<HeaderValue, ErrorCode> {
    let mut nonce = [0; 16];
    aws_lc_rs::rand::fill(&mut nonce).map_err(|_| ErrorCode::BackendInvalid)?;
    HeaderValue::from_str(&STANDARD.encode(nonce)).map_err(|_| ErrorCode::BackendInvalid)
}

/// What a server says that has understood a handshake with this key: the client of HTTP/2 did not ask for it, and cannot look.
fn expected_accept(headers: &HeaderMap) -> Option<HeaderValue> {
    let mut hash = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
    hash.update(headers.get(SEC_WEBSOCKET_KEY)?.as_bytes());
    hash.update(GUID);
    HeaderValue::from_str(&STANDARD.encode(hash.finish())).ok()
}

/// Whether an answer says so.
pub(crate) fn has_accepted(expected: &HeaderValue, headers: &HeaderMap) -> bool {
    let mut said = headers.get_all(SEC_WEBSOCKET_ACCEPT).iter();
    said.next() == Some(expected) && said.next().is_none()
}

/// A WebSocket over HTTP/2 (RFC 8441) as HTTP/1.1 has it (RFC 6455).
fn web_socket(request: &mut Request<Body>, original: &mut Original) -> Result<(), ErrorCode> {
    if !judge::is_protocol(request, "websocket") {
        return Err(ErrorCode::MethodNotAllowed);
    }
    wire::forget_protocol(request);
    *request.method_mut() = Method::GET;
    let headers = request.headers_mut();
    headers.insert(SEC_WEBSOCKET_KEY, key()?);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_to_a_key_is_that_of_the_specification() {
        let mut headers = HeaderMap::new();
        assert_eq!(expected_accept(&headers), None);
        // RFC 6455 section 1.3.
        headers.insert(SEC_WEBSOCKET_KEY, HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ=="));
        let expected = expected_accept(&headers).unwrap();
        assert_eq!(expected, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        let mut said = HeaderMap::new();
        assert!(!has_accepted(&expected, &said));
        said.append(SEC_WEBSOCKET_ACCEPT, expected.clone());
        assert!(has_accepted(&expected, &said));
        said.append(SEC_WEBSOCKET_ACCEPT, expected.clone());
        assert!(!has_accepted(&expected, &said));
        said.insert(SEC_WEBSOCKET_ACCEPT, HeaderValue::from_static("s3pPLMBiTxaQ9kYGzzhZRbK+xOO="));
        assert!(!has_accepted(&expected, &said));
    }

    #[test]
    fn a_request_goes_over_tls_in_http2() {
        let built = Request::get("/a?b").header(HOST, "shop.test:8443").body(Body::Empty);
        let mut sent = built.unwrap();
        reversion(&mut sent, Version::HTTP_2).unwrap();
        wire::secure(&mut sent);
        assert_eq!(sent.version(), Version::HTTP_2);
        assert_eq!(sent.uri(), "https://shop.test:8443/a?b");
        assert!(!sent.headers().contains_key(HOST));
    }

    #[test]
    fn no_two_keys_are_one() {
        let (one, other) = (key().unwrap(), key().unwrap());
        assert_ne!(one, other);
        assert_eq!(STANDARD.decode(one.as_bytes()).unwrap().len(), 16);
    }
}
