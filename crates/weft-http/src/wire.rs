//! How an application's request travels inside HTTP/2 and comes out as it went in.
//!
//! An HTTP/1 request keeps its `Host` header and its target form on the way: HTTP/2 allows a request without
//! `:authority` that was converted from HTTP/1 (RFC 9113 section 8.3.1), so an origin-form target stays a path, an
//! absolute-form target (RFC 9112 section 3.2.2) keeps scheme and authority, and nothing is parsed and rebuilt on the
//! way. HTTP/1.1 is the unmarked case; HTTP/1.0 and HTTP/2 are told by [`WEFT_WIRE`].
//!
//! An HTTP/1.1 upgrade (RFC 9110 section 7.8) travels as a request with [`WEFT_UPGRADE`] whose stream carries the
//! upgraded protocol's bytes both ways once the answer, marked alike, has come. RFC 8441's extended CONNECT does not fit:
//! it drops the method, and it knows no refusal that leaves an ordinary answer. An HTTP/2 application's own extended
//! CONNECT passes as what it is.
//!
//! Both headers exist only on mesh links: they are removed from what applications send and from what they receive.

use http::header::{HOST, HeaderName};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version};

use crate::ErrorCode;
use crate::headers::{Survey, is_internal, strip_hop_by_hop};

/// Marks a request whose application speaks HTTP/1.0 (`1.0`) or HTTP/2 (`2`).
pub const WEFT_WIRE: HeaderName = HeaderName::from_static("weft-wire");
/// The upgrade an HTTP/1.1 request asks for, or an answer has accepted.
pub const WEFT_UPGRADE: HeaderName = HeaderName::from_static("weft-upgrade");

/// Checks and cleans a request from an application, whatever its version.
///
/// Returns the upgrade it asks for, which only HTTP/1.1 has.
///
/// # Errors
/// `bad-request` for an HTTP/1.1 request without exactly one `Host` (RFC 9112 section 3.2).
pub fn clean_request<B>(request: &mut Request<B>) -> Result<Option<HeaderValue>, ErrorCode> {
    let version = request.version();
    let survey = Survey::of(request.headers());
    if survey.internal {
        remove_internal(request.headers_mut());
    }
    if version == Version::HTTP_2 {
        return Ok(None);
    }
    match survey.hosts {
        1 => {}
        0 if version == Version::HTTP_10 => {}
        _ => return Err(ErrorCode::BadRequest),
    }
    if request.method() != Method::CONNECT
        && let Some(authority) = request.uri().authority()
    {
        // An absolute-form target overrides Host (RFC 9112 section 3.2.2).
        let host = HeaderValue::from_str(authority.as_str()).map_err(|_| ErrorCode::BadRequest)?;
        request.headers_mut().insert(HOST, host);
    }
    let upgrade = strip_hop_by_hop(request.headers_mut(), survey).upgrade;
    // RFC 9110 section 7.8: a server ignores an upgrade in HTTP/1.0.
    Ok(upgrade.filter(|_| version == Version::HTTP_11))
}

/// Marks a clean request for the link.
pub fn to_link<B>(request: &mut Request<B>, upgrade: Option<HeaderValue>) {
    let version = match request.version() {
        Version::HTTP_2 => Some("2"),
        Version::HTTP_10 => Some("1.0"),
        _ => None,
    };
    let headers = request.headers_mut();
    if let Some(version) = version {
        headers.insert(WEFT_WIRE, HeaderValue::from_static(version));
    }
    if let Some(protocol) = upgrade {
        headers.insert(WEFT_UPGRADE, protocol);
    }
}

/// What a request from a link is to become again.
#[derive(Debug, PartialEq, Eq)]
pub struct Original {
    /// The version the calling application speaks.
    pub version: Version,
    /// The upgrade it asked for.
    pub upgrade: Option<HeaderValue>,
}

/// Restores a request that came over a link.
pub fn from_link<B>(request: &mut Request<B>) -> Original {
    let mut original = Original { version: Version::HTTP_11, upgrade: None };
    let headers = request.headers_mut();
    if is_marked(headers) {
        match headers.remove(WEFT_WIRE) {
            Some(value) if value == "2" => original.version = Version::HTTP_2,
            Some(value) if value == "1.0" => original.version = Version::HTTP_10,
            _ => {}
        }
        original.upgrade = headers.remove(WEFT_UPGRADE);
        // Only a peer that is not Weft sends others: they must not look as if the mesh had said them.
        remove_internal(headers);
    }
    *request.version_mut() = original.version;
    original
}

/// Puts back what an HTTP/1.1 application expects of an upgrade request.
pub fn restore_upgrade(headers: &mut HeaderMap, protocol: HeaderValue) {
    headers.insert(http::header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(http::header::UPGRADE, protocol);
}

/// Cleans an HTTP/1 application's answer for the link. An accepted upgrade becomes a marked 200.
pub fn response_to_link<B>(response: &mut Response<B>) {
    let switched = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    let survey = Survey::of(response.headers());
    if survey.internal {
        remove_internal(response.headers_mut());
    }
    let found = strip_hop_by_hop(response.headers_mut(), survey);
    if switched {
        let protocol = found.upgrade.unwrap_or_else(|| HeaderValue::from_static(""));
        response.headers_mut().insert(WEFT_UPGRADE, protocol);
        *response.status_mut() = StatusCode::OK;
    }
}

/// Whether a message that came over a link may have something that only the mesh says.
pub fn is_marked(headers: &HeaderMap) -> bool {
    Survey::of(headers).internal
}

/// Turns a marked 200 from the link back into 101.
pub fn response_from_link<B>(response: &mut Response<B>) {
    if !is_marked(response.headers()) {
        return;
    }
    response.headers_mut().remove(WEFT_WIRE);
    let Some(protocol) = response.headers_mut().remove(WEFT_UPGRADE) else { return };
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(http::header::CONNECTION, HeaderValue::from_static("upgrade"));
    if !protocol.is_empty() {
        headers.insert(http::header::UPGRADE, protocol);
    }
}

/// Removes what only the mesh may say ([`is_internal`]), on links or off them. An application that passes on an answer of
/// the mesh (`weft-error`) as its own would send the reader of the log to the wrong place.
pub fn strip_internal(headers: &mut HeaderMap) {
    if is_marked(headers) {
        remove_internal(headers);
    }
}

fn remove_internal(headers: &mut HeaderMap) {
    // One look at each name costs less than a lookup of each header that there is.
    let is_ours = |name: &&HeaderName| is_internal(name.as_str());
    if headers.keys().any(|name| is_ours(&name)) {
        let ours: Vec<HeaderName> = headers.keys().filter(is_ours).cloned().collect();
        for name in ours {
            headers.remove(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn built(builder: http::request::Builder) -> Request<()> {
        builder.body(()).unwrap()
    }

    #[test]
    fn a_request_round_trips_in_every_version_and_form() {
        for (version, target) in [
            (Version::HTTP_11, "/a?b=c"),
            (Version::HTTP_11, "*"),
            (Version::HTTP_11, "http://orders.shop/a"),
            (Version::HTTP_10, "/a"),
            (Version::HTTP_2, "http://orders.shop/a"),
        ] {
            let mut before =
                built(Request::builder().version(version).uri(target).header("host", "orders.shop"));
            assert_eq!(clean_request(&mut before).unwrap(), None);
            let mut after = before.clone();
            to_link(&mut after, None);
            *after.version_mut() = Version::HTTP_2;
            assert_eq!(from_link(&mut after), Original { version, upgrade: None });
            assert_eq!(after.version(), version);
            assert_eq!((after.uri(), after.headers()), (before.uri(), before.headers()));
        }
    }

    #[test]
    fn an_upgrade_travels_as_a_marked_request_and_answer() {
        let mut request = built(
            Request::builder()
                .uri("/ws")
                .header("host", "a")
                .header("connection", "Upgrade")
                .header("upgrade", "websocket")
                .header("sec-websocket-key", "x"),
        );
        let upgrade = clean_request(&mut request).unwrap();
        to_link(&mut request, upgrade);
        assert!(!request.headers().contains_key("connection"));
        let original = from_link(&mut request);
        restore_upgrade(request.headers_mut(), original.upgrade.unwrap());
        assert_eq!(request.headers()["upgrade"], "websocket");
        assert_eq!(request.headers()["connection"], "upgrade");

        let mut answer = Response::builder()
            .status(101)
            .header("connection", "upgrade")
            .header("upgrade", "websocket")
            .body(())
            .unwrap();
        response_to_link(&mut answer);
        assert_eq!(answer.status(), 200);
        response_from_link(&mut answer);
        assert_eq!(answer.status(), 101);
        assert_eq!(answer.headers()["upgrade"], "websocket");
    }

    #[test]
    fn applications_cannot_speak_the_internal_headers() {
        let spoofed = || {
            built(
                Request::builder()
                    .uri("/")
                    .header("host", "a")
                    .header("weft-wire", "2")
                    .header("weft-error", "tls-failed")
                    .header("weft-error", "loop-detected")
                    .header("Weft-Whatever", "x")
                    .header("weft-upgrade", "x")
                    .header("x-forwarded-client-cert", "URI=spiffe://a")
                    .header("X_Forwarded-Client_Cert", "URI=spiffe://b")
                    .header("weftless", "stays"),
            )
        };
        let mut request = spoofed();
        clean_request(&mut request).unwrap();
        assert_eq!(request.headers().len(), 2);
        // A peer that is not Weft, on a link.
        let mut request = spoofed();
        from_link(&mut request);
        assert_eq!(request.headers().len(), 2);
        let mut answer =
            Response::builder().header("weft-upgrade", "x").header("weft-error", "x").body(()).unwrap();
        response_to_link(&mut answer);
        assert!(answer.headers().is_empty());
    }

    #[test]
    fn host_must_be_there_once() {
        let none = Request::builder().uri("/");
        assert_eq!(clean_request(&mut built(none)), Err(ErrorCode::BadRequest));
        let two = Request::builder().uri("/").header("host", "a").header("host", "b");
        assert_eq!(clean_request(&mut built(two)), Err(ErrorCode::BadRequest));
        let old = Request::builder().version(Version::HTTP_10).uri("/");
        assert_eq!(clean_request(&mut built(old)), Ok(None));
        let mut absolute = built(Request::builder().uri("http://real/").header("host", "lie"));
        clean_request(&mut absolute).unwrap();
        assert_eq!(absolute.headers()["host"], "real");
    }
}
