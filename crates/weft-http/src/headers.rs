//! Header hygiene between hops (RFC 9110 section 7.6.1, RFC 9113 section 8.2.2).

use http::header::{CONNECTION, Entry, HeaderName, TE, TRAILER, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderValue};

/// `keep-alive` (RFC 2068 section 19.7.1); the `http` crate has no constant for it.
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
/// `proxy-connection`, never standardized but still sent.
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
/// Part of the h2c upgrade (RFC 7540 section 3.2.1), which Weft does not pass on.
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");

/// The verified identity of the caller, for the application (Envoy's name and format).
pub const X_FORWARDED_CLIENT_CERT: HeaderName = HeaderName::from_static("x-forwarded-client-cert");
/// The addresses that a request came through, the nearest last.
pub const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// The scheme the client used.
pub const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
/// What the names of the mesh's own headers begin with.
pub const RESERVED: &str = "weft-";
/// Identifies one request through all hops.
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Which of the headers that a hop cares about a message has, found in one walk over its names.
///
/// Most messages have almost none of them, and a walk that compares lengths first costs less than one lookup for each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Survey {
    /// How many `Host` headers.
    pub hosts: u8,
    /// How many `Content-Length` headers.
    pub lengths: u8,
    /// `Connection`.
    pub connection: bool,
    /// `TE`.
    pub te: bool,
    /// Another hop-by-hop header.
    pub hop_by_hop: bool,
    /// A header that only the mesh may write, see [`is_internal`].
    pub internal: bool,
}

impl Survey {
    /// Walks a head.
    pub fn of(headers: &HeaderMap) -> Self {
        let mut found = Self::default();
        for name in headers.iter().map(|(name, _)| name.as_str()) {
            match (name.len(), name) {
                (2, "te") => found.te = true,
                (4, "host") => found.hosts = found.hosts.saturating_add(1),
                (10, "connection") => found.connection = true,
                (14, "content-length") => found.lengths = found.lengths.saturating_add(1),
                (7, "upgrade") | (10, "keep-alive") | (14, "http2-settings") => found.hop_by_hop = true,
                (16, "proxy-connection") | (17, "transfer-encoding") => found.hop_by_hop = true,
                (_, name) if is_internal(name) => found.internal = true,
                _ => {}
            }
        }
        found
    }
}

/// Whether only the mesh may write a header of this name: [`RESERVED`], and who the caller is.
///
/// With any other sign in place of the hyphens as well: CGI and what came after it (WSGI, Rack, PHP) give
/// `x_forwarded_client_cert`, some of them `x.forwarded.client.cert`, and `x-forwarded-client-cert` to the application as one
/// (RFC 3875 section 4.1.18).
pub fn is_internal(name: &str) -> bool {
    // Almost every name is told apart by its first letter.
    match name.as_bytes().first() {
        Some(b'w') => begins_as(name, RESERVED),
        Some(b'x') => reads_as(name, X_FORWARDED_CLIENT_CERT.as_str()),
        _ => false,
    }
}

/// Whether a name is one by which proxies tell about the client: `forwarded`, `x-forwarded-*` and `x-request-id`, with any other sign in
/// place of the hyphens as well (see [`is_internal`]).
pub fn is_forwarding(name: &str) -> bool {
    reads_as(name, "forwarded") || reads_as(name, X_REQUEST_ID.as_str()) || begins_as(name, "x-forwarded-")
}

/// Whether a name is this one to those who read any other sign as a hyphen.
fn reads_as(name: &str, wanted: &str) -> bool {
    name.len() == wanted.len() && begins_as(name, wanted)
}

/// Whether it begins like that.
fn begins_as(name: &str, wanted: &str) -> bool {
    let begin = name.as_bytes().get(..wanted.len());
    begin.is_some_and(|begin| {
        begin.iter().zip(wanted.bytes()).all(|(byte, wanted)| {
            if wanted == b'-' { !byte.is_ascii_alphanumeric() } else { *byte == wanted }
        })
    })
}

/// Removes everything that concerns one connection only, and all that `Connection` lists.
///
/// `TE` stays when it asks for trailers, reduced to just that: it is the one value HTTP/2 allows, and h2 refuses a
/// request with another.
pub(crate) fn strip_hop_by_hop(headers: &mut HeaderMap, survey: Survey) {
    let wants_trailers = survey.te && headers.get_all(TE).iter().any(|value| has_token(value, "trailers"));
    if survey.connection && headers.get_all(CONNECTION).iter().all(is_option_alone) {
        headers.remove(CONNECTION);
    } else if survey.connection {
        let listed: Vec<HeaderValue> = headers.get_all(CONNECTION).iter().cloned().collect();
        for name in listed.iter().flat_map(listed_names) {
            headers.remove(name);
        }
        headers.remove(CONNECTION);
    }
    if survey.hop_by_hop {
        for name in [UPGRADE, TRANSFER_ENCODING, KEEP_ALIVE, PROXY_CONNECTION, HTTP2_SETTINGS] {
            headers.remove(name);
        }
    }
    if wants_trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    } else if survey.te {
        headers.remove(TE);
    }
}

/// `keep-alive` or `close` and no more, as almost every `Connection` has it. Neither is the name of a header to remove:
/// `Keep-Alive` goes with the others.
pub(crate) fn is_option_alone(value: &HeaderValue) -> bool {
    let value = value.as_bytes();
    value.eq_ignore_ascii_case(b"keep-alive") || value.eq_ignore_ascii_case(b"close")
}

/// The names that a `Connection` field has removed.
///
/// It may name what it likes, but not the headers that carry the message itself or that the mesh sets: a client must not
/// be able to have them removed on the way ("hop-by-hop header abuse").
pub(crate) fn listed_names(connection: &HeaderValue) -> impl Iterator<Item = HeaderName> {
    const KEPT: &[&str] = &["host", "content-length", "content-type", "authorization", "cookie", "te"];
    let is_kept = |token: &str| {
        KEPT.iter().any(|name| token.eq_ignore_ascii_case(name))
            || token.len() >= 12 && token[..12].eq_ignore_ascii_case("x-forwarded-")
            || token.eq_ignore_ascii_case(X_REQUEST_ID.as_str())
            || token.eq_ignore_ascii_case(TRAILER.as_str())
    };
    tokens(connection)
        .filter(move |token| !is_kept(token))
        .filter_map(|token| HeaderName::from_bytes(token.as_bytes()).ok())
}

/// Adds the address that a request came from behind those that it already names. The list stays one field: many
/// applications read only the first.
pub fn add_forwarded_for(headers: &mut HeaderMap, from: &HeaderValue) {
    let mut present = match headers.entry(X_FORWARDED_FOR) {
        Entry::Vacant(place) => {
            place.insert(from.clone());
            return;
        }
        Entry::Occupied(present) => present,
    };
    let mut list = Vec::new();
    for value in present.iter() {
        list.extend_from_slice(value.as_bytes());
        list.extend_from_slice(b", ");
    }
    list.extend_from_slice(from.as_bytes());
    // Valid values and a separator make a valid value.
    if let Ok(list) = HeaderValue::from_maybe_shared(bytes::Bytes::from(list)) {
        present.insert(list);
    }
}

/// Whether a comma-separated list has `wanted`, without regard to case.
pub fn has_token(value: &HeaderValue, wanted: &str) -> bool {
    tokens(value).any(|token| token.eq_ignore_ascii_case(wanted))
}

fn tokens(value: &HeaderValue) -> impl Iterator<Item = &str> {
    // Tokens are ASCII (RFC 9110 section 5.6.2). One that is not hides none of the others: whoever gets the field reads
    // those all the same.
    value
        .as_bytes()
        .split(|byte| *byte == b',')
        .filter_map(|token| std::str::from_utf8(token.trim_ascii()).ok())
        .filter(|token| !token.is_empty() && token.is_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strip(headers: &mut HeaderMap) {
        let survey = Survey::of(headers);
        strip_hop_by_hop(headers, survey);
    }

    fn map(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect()
    }

    #[test]
    fn removes_the_set_and_what_connection_lists() {
        let mut headers = map(&[
            ("connection", "keep-alive, X-Private"),
            ("connection", "close"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "keep-alive"),
            ("transfer-encoding", "chunked"),
            ("x-private", "1"),
            ("x-public", "2"),
        ]);
        strip(&mut headers);
        assert_eq!(headers, map(&[("x-public", "2")]));
    }

    #[test]
    fn keeps_te_only_as_trailers() {
        let mut headers = map(&[("te", "gzip;q=0.5, trailers")]);
        strip(&mut headers);
        assert_eq!(headers, map(&[("te", "trailers")]));
        let mut headers = map(&[("te", "gzip")]);
        strip(&mut headers);
        assert!(headers.is_empty());
        let mut headers = map(&[("connection", "TE"), ("te", "trailers")]);
        strip(&mut headers);
        assert_eq!(headers, map(&[("te", "trailers")]));
    }

    #[test]
    fn what_proxies_say_is_known_however_it_is_written() {
        for name in ["forwarded", "x-forwarded-for", "x_forwarded_for", "x~forwarded.proto", "x-request_id"] {
            assert!(is_forwarding(name), "{name}");
        }
        for name in ["forward", "x-forward", "xx-forwarded-for", "x-request-ids", "xaforwarded-for", ""] {
            assert!(!is_forwarding(name), "{name}");
        }
    }

    #[test]
    fn one_odd_byte_in_a_list_hides_nothing() {
        let odd = |value: &'static [u8]| HeaderValue::from_bytes(value).unwrap();
        let mut headers = map(&[("http2-settings", "AAM"), ("x-private", "1")]);
        headers.insert("connection", odd(b"upgrade, \xe9, x-private"));
        headers.insert("upgrade", odd(b"h2c, \xe9"));
        strip(&mut headers);
        assert!(headers.is_empty(), "{headers:?}");
        assert!(has_token(&odd(b"\xff,\tclose "), "close"));
    }

    #[test]
    fn a_client_cannot_have_essential_headers_removed() {
        let mut headers = map(&[
            ("connection", "close, x-forwarded-client-cert, host, content-length, x-request-id"),
            ("x-forwarded-client-cert", "URI=spiffe://a"),
            ("host", "a"),
            ("content-length", "3"),
            ("x-request-id", "1"),
        ]);
        strip(&mut headers);
        assert_eq!(headers.len(), 4);
    }

    #[test]
    fn an_address_comes_behind_those_that_are_there() {
        let from = HeaderValue::from_static("10.0.0.1");
        let mut headers = HeaderMap::new();
        add_forwarded_for(&mut headers, &from);
        assert_eq!(headers, map(&[("x-forwarded-for", "10.0.0.1")]));
        headers.append(X_FORWARDED_FOR, HeaderValue::from_static("10.0.0.2, 10.0.0.3"));
        add_forwarded_for(&mut headers, &from);
        assert_eq!(headers, map(&[("x-forwarded-for", "10.0.0.1, 10.0.0.2, 10.0.0.3, 10.0.0.1")]));
    }

    proptest::proptest! {
        #[test]
        fn never_panics_and_always_removes_connection(values in proptest::collection::vec(".*", 0..4)) {
            let mut headers = HeaderMap::new();
            for value in &values {
                if let Ok(value) = HeaderValue::from_bytes(value.as_bytes()) {
                    headers.append(CONNECTION, value);
                }
            }
            strip(&mut headers);
            assert!(!headers.contains_key(CONNECTION));
        }
    }
}
