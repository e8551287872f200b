//! Request targets as they were sent.
//!
//! `http::Uri` refuses some bytes that clients send and servers take (`<`, `>`, a backtick, bytes above 127), and changes
//! others (a fragment is cut, `?x=1` gets a slash). Where the two differ, the bytes travel beside the `Uri`, which then
//! holds a form that can be sent as an HTTP/2 pseudo-header.

use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{Method, Uri};

use crate::judge::is_authority_form;

/// A target that is not what its request's `Uri` would be written as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawTarget(Bytes);

impl RawTarget {
    /// Reads what a mesh link tells. It must be what `uri` was made of: a target that says one thing to those who judge and
    /// another to the application would be two.
    pub(crate) fn from_wire(value: &[u8], uri: &Uri) -> Option<Self> {
        let target = Bytes::copy_from_slice(value);
        let (same, raw) = is_target(value).then(|| parse(&Method::GET, target).ok()).flatten()?;
        raw.filter(|_| same == *uri)
    }

    /// Its bytes.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    pub(crate) fn to_wire(&self) -> Bytes {
        self.0.clone()
    }
}

fn is_target(target: &[u8]) -> bool {
    !target.is_empty() && target.iter().all(|byte| *byte > b' ' && *byte != 0x7f)
}

/// The `Uri` of a target, and the target itself where that is not the same.
pub(super) fn parse(method: &Method, target: Bytes) -> Result<(Uri, Option<RawTarget>), &'static str> {
    if *method == Method::CONNECT {
        let uri = Uri::from_maybe_shared(target).ok().filter(is_authority_form);
        return uri.map(|uri| (uri, None)).ok_or("target of CONNECT");
    }
    if target.first() == Some(&b'/') {
        if let Ok(path) = PathAndQuery::from_maybe_shared(target.clone())
            && path.as_str().as_bytes() == target
        {
            return Ok((Uri::from(path), None));
        }
        return raw(target);
    }
    match Uri::from_maybe_shared(target.clone()) {
        Ok(uri) if uri.scheme().is_some() && uri.authority().is_some() => {
            let same = same_text(&uri, &target);
            if same {
                Ok((uri, None))
            } else {
                // The authority stays what it is, for it decides where the request belongs.
                Ok((uri, Some(RawTarget(target))))
            }
        }
        Ok(uri) if target == b"*"[..] => Ok((uri, None)),
        // Authority form, or a word: not for this method.
        _ if target.first() != Some(&b'?') => Err("request target"),
        _ => raw(target),
    }
}

fn same_text(uri: &Uri, target: &[u8]) -> bool {
    let mut text = String::with_capacity(target.len());
    std::fmt::Write::write_fmt(&mut text, format_args!("{uri}")).is_ok() && text.as_bytes() == target
}

fn raw(target: Bytes) -> Result<(Uri, Option<RawTarget>), &'static str> {
    let uri = PathAndQuery::from_maybe_shared(Bytes::from(encoded(&target))).map_err(|_| "request target")?;
    Ok((Uri::from(uri), Some(RawTarget(target))))
}

/// The path with everything that a `Uri` cannot hold in percent-encoding, as HTTP/2 has it.
fn encoded(target: &[u8]) -> Vec<u8> {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    let mut path = Vec::with_capacity(target.len() + 8);
    if target.first() != Some(&b'/') {
        path.push(b'/');
    }
    for byte in target {
        // RFC 3986 section 3.3 and 3.4; `%` begins what is encoded already.
        if byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@/?%[]|".contains(byte) {
            path.push(*byte);
        } else {
            let digit = |nibble: u8| HEX.get(usize::from(nibble)).copied().unwrap_or(b'0');
            path.extend([b'%', digit(byte >> 4), digit(byte & 15)]);
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(target: &'static str) -> Result<(String, Option<String>), &'static str> {
        parse_bytes(&Method::GET, target.as_bytes())
    }

    fn parse_bytes(method: &Method, target: &'static [u8]) -> Result<(String, Option<String>), &'static str> {
        let (uri, raw) = parse(method, Bytes::from_static(target))?;
        Ok((uri.to_string(), raw.map(|raw| String::from_utf8_lossy(raw.as_bytes()).into_owned())))
    }

    #[test]
    fn ordinary_targets_are_uris() {
        for target in ["/", "/a?b=c", "/a|b\"{}^", "*", "http://orders.shop/a", "/%zz", "//x"] {
            assert_eq!(get(target), Ok((target.to_owned(), None)));
        }
    }

    #[test]
    fn others_are_kept_as_they_are() {
        for (target, path) in [("/<>", "/%3C%3E"), ("/`", "/%60"), ("/a#f", "/a%23f"), ("?x=1", "/?x=1")] {
            assert_eq!(get(target), Ok((path.to_owned(), Some(target.to_owned()))));
        }
        let (path, raw) = parse_bytes(&Method::GET, b"/\xff\xe9").unwrap();
        assert_eq!((path.as_str(), raw.is_some()), ("/%FF%E9", true));
        let (uri, raw) = get("http://a/b#c").unwrap();
        assert_eq!((uri.as_str(), raw.as_deref()), ("http://a/b", Some("http://a/b#c")));
    }

    #[test]
    fn what_is_no_target() {
        for target in ["orders", "orders.shop:80", "a/b", "#"] {
            assert!(get(target).is_err(), "{target}");
        }
    }

    #[test]
    fn connect_wants_host_and_port() {
        assert!(parse_bytes(&Method::CONNECT, b"orders.shop:80").is_ok());
        assert!(parse_bytes(&Method::CONNECT, b"[::1]:80").is_ok());
        for target in [&b"/x"[..], b"orders.shop", b"*", b"http://a:80/", b"orders.shop:"] {
            assert!(parse_bytes(&Method::CONNECT, target).is_err(), "{target:?}");
        }
    }

    #[test]
    fn a_peer_cannot_write_a_second_line() {
        let uri = Uri::from_static("/%3C%FF%3E");
        for value in [&b""[..], b"/ HTTP/1.1", b"/\r\nx: y", b"/\0", b"/\x7f", b"/", b"/<>", b"/%3C%FF%3E"] {
            assert_eq!(RawTarget::from_wire(value, &uri), None);
        }
        assert!(RawTarget::from_wire(b"/<\xff>", &uri).is_some());
    }
}
