//! Which heads are taken, whoever sent them: an application, or a peer over a link.
//!
//! A request is refused with 400 (`bad-request`) unless it has one reading. The `h2` crate has reset the stream before
//! where RFC 9113 section 8.1.1 calls a message malformed by its form alone: pseudo-headers that are missing, repeated or in
//! the wrong place, `connection`, `transfer-encoding`, `upgrade`, `keep-alive`, `proxy-connection`, a `te` that is not
//! `trailers`, a `content-length` that contradicts another or the body.
//!
//! | in a request | HTTP/1.1, also over a link | HTTP/1.0 | HTTP/2 |
//! |---|---|---|---|
//! | two `host` | refused | refused | refused |
//! | `host`, and an authority in the target or `:authority` | the target's, which replaces `host` (RFC 9112 section 3.2.2) | the same | equal but for case, or refused (as nginx does) |
//! | no `host`, no authority | refused | taken | refused (as Envoy and nginx do) |
//! | no `host`, but an authority over a link | `host` is made of it (RFC 9113 section 8.3.1) | taken | taken |
//! | `host` alone | taken | taken | taken |
//! | an empty `host` | taken (RFC 9112 section 3.2) | taken | taken beside nothing else |
//! | a host with another byte than `A-Z a-z 0-9 - . _ ~ ! $ & ' ( ) * + ; = : [ ] %` | refused | refused | refused; by `h2`, what no URI may have, a `%` outside of brackets, or an empty `:authority` |
//! | two `content-length`, equal or not, or one that is not digits | refused | refused | refused |
//! | a header of one hop (`connection`, `http2-settings`, ...) | removed; over a link refused | removed; over a link refused | refused |
//! | `upgrade` listed in `connection` with a body | the body passes, the upgrade does not | not passed on | - |
//! | `upgrade` to any HTTP (`h2c`, `HTTP/2.0`, ...), or that is no list of protocols | not passed on | not passed on | - |
//! | `CONNECT` with a body, or to anything but `host:port` | refused | refused | refused |
//! | extended `CONNECT` (RFC 8441) to any HTTP | - | - | refused |
//!
//! Bytes that a host may not have are those that Envoy and Go refuse, and two more: a comma, which may be two hosts that
//! somebody joined, and `@`, since userinfo is forbidden (RFC 9110 section 4.2.4, RFC 9113 section 8.3.1).
//!
//! The marks of a link ([`crate::wire`]) count once each and with values that Weft writes; two of one, another value, or
//! an upgrade that is not of a request of HTTP/1.1 without a body is refused. A mark of a name that is not known is removed: a
//! newer Weft may have written it, and it ends here.

use http::header::{CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use http::uri::Uri;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Version};

use crate::ErrorCode;
use crate::h1::table::parse_length;
use crate::headers::Survey;

/// Judges the head of a request: one host, one length at most, a target that fits the method.
///
/// # Errors
/// `bad-request`.
pub(crate) fn request<B>(request: &Request<B>, survey: Survey, version: Version) -> Result<(), ErrorCode> {
    let authority = request.uri().authority().map(http::uri::Authority::as_str);
    let good = hosts(request.headers(), survey, authority, version)
        && survey.lengths <= 1
        && (survey.lengths == 0 || length(request.headers()).is_some())
        && (request.method() != Method::CONNECT || connect(request, version));
    if good { Ok(()) } else { Err(ErrorCode::BadRequest) }
}

fn hosts(headers: &HeaderMap, survey: Survey, authority: Option<&str>, version: Version) -> bool {
    if authority.is_some_and(|authority| !is_host(authority.as_bytes())) {
        return false;
    }
    match (survey.hosts, headers.get(HOST), authority) {
        (0, _, None) => version == Version::HTTP_10,
        (0, _, Some(_)) => true,
        (1, Some(host), None) => is_host(host.as_bytes()),
        // The authority's bytes are good ones, and so are those of what equals it.
        (1, Some(host), Some(authority)) => host.as_bytes().eq_ignore_ascii_case(authority.as_bytes()),
        _ => false,
    }
}

/// Whether these bytes may be a host with or without a port. They need not be one that resolves: names with underscores,
/// and percent-encoded paths of sockets, are common.
pub(crate) fn is_host(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| OF_A_HOST.get(usize::from(*byte)).is_some_and(|good| *good))
}

/// From a table, for a host is looked at in every request, on both sides of a link.
const OF_A_HOST: [bool; 256] = {
    let mut good = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        good[byte] = (byte as u8).is_ascii_alphanumeric();
        byte += 1;
    }
    let others = b"-._~!$&'()*+;=:[]%";
    let mut at = 0;
    while at < others.len() {
        good[others[at] as usize] = true;
        at += 1;
    }
    good
};

/// The length that a head declares, if it is one.
fn length(headers: &HeaderMap) -> Option<u64> {
    parse_length(headers.get(CONTENT_LENGTH)?.as_bytes())
}

/// Whether no body follows a request's head. A length of 0 is none.
pub(crate) fn is_bodiless(headers: &HeaderMap) -> bool {
    !headers.contains_key(TRANSFER_ENCODING)
        && headers
            .get_all(CONTENT_LENGTH)
            .iter()
            .all(|value| value.as_bytes().iter().all(|byte| *byte == b'0'))
}

/// Whether CONNECT asks for bytes to `host:port` (RFC 9110 section 9.3.6), and not for a protocol over HTTP/2
/// (RFC 8441).
pub fn asks_for_tunnel<B>(request: &Request<B>) -> bool {
    request.method() == Method::CONNECT && protocol(request).is_none()
}

/// Whether an HTTP/2 request asks for another protocol on its stream (RFC 8441).
pub fn asks_for_protocol<B>(request: &Request<B>) -> bool {
    protocol(request).is_some()
}

/// Whether it asks for this one.
pub fn is_protocol<B>(request: &Request<B>, name: &str) -> bool {
    protocol(request).is_some_and(|protocol| protocol.as_str().eq_ignore_ascii_case(name))
}

fn protocol<B>(request: &Request<B>) -> Option<&h2::ext::Protocol> {
    request.extensions().get::<h2::ext::Protocol>()
}

fn connect<B>(request: &Request<B>, version: Version) -> bool {
    if !is_bodiless(request.headers()) {
        return false;
    }
    match protocol(request) {
        Some(protocol) => version == Version::HTTP_2 && is_other_protocol(protocol.as_str()),
        None => is_authority_form(request.uri()),
    }
}

/// `host:port` and no more (RFC 9112 section 3.2.3).
pub(crate) fn is_authority_form(target: &Uri) -> bool {
    let port = target.authority().and_then(http::uri::Authority::port_u16);
    let host = target.authority().map_or("", http::uri::Authority::host);
    target.scheme().is_none()
        && target.path_and_query().is_none()
        && !host.is_empty()
        && port.is_some_and(|port| port != 0)
}

/// Whether a value of `Upgrade` is a list of protocols to which Weft passes an upgrade on. One to HTTP is not: nobody would
/// look at the requests that follow.
pub fn is_upgrade(value: &HeaderValue) -> bool {
    // Not `to_str`: a server may still find its protocol in a list with a byte that is no text.
    value.as_bytes().split(|byte| *byte == b',').all(|part| {
        std::str::from_utf8(part).is_ok_and(|part| is_other_protocol(part.trim_matches([' ', '\t'])))
    })
}

/// A protocol's name, and perhaps its version, both tokens (RFC 9110 section 7.8); not HTTP.
fn is_other_protocol(text: &str) -> bool {
    let (name, version) = text.split_once('/').map_or((text, None), |(name, version)| (name, Some(version)));
    let http = ["http", "h2", "h2c", "h3"].iter().any(|http| name.eq_ignore_ascii_case(http));
    !http && is_token(name) && version.is_none_or(is_token)
}

fn is_token(text: &str) -> bool {
    // RFC 9110 section 5.6.2.
    !text.is_empty()
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

/// Whether the head of an answer with 101 (or its mark on a link) names a protocol that was asked for. Without one the
/// server has not switched (RFC 9110 section 15.2.2): some send whatever status their application gives, and go on reading
/// requests.
pub(crate) fn switches_to<'a>(asked: &HeaderValue, named: impl IntoIterator<Item = &'a HeaderValue>) -> bool {
    let asked = asked.to_str().unwrap_or("");
    named.into_iter().flat_map(|value| value.to_str().unwrap_or("").split(',')).map(str::trim).any(|named| {
        !named.is_empty() && asked.split(',').any(|asked| asked.trim().eq_ignore_ascii_case(named))
    })
}

/// Whether an answer to CONNECT opens a tunnel. One with a length or a coding is an ordinary answer, as servers give it that
/// know nothing of CONNECT (Go's `net/http` among them) and read the next request behind it.
pub fn is_tunnel(status: StatusCode, headers: &HeaderMap) -> bool {
    status.is_success() && !headers.contains_key(CONTENT_LENGTH) && !headers.contains_key(TRANSFER_ENCODING)
}

#[cfg(test)]
#[path = "judge_tests.rs"]
mod tests;
