//! Who has sent a request on, as `x-forwarded-for` and `forwarded` (RFC 7239) have it: parsed from the end, where the nearest is.
//!
//! From the end, because what stands at the beginning may be anybody's. An element that cannot be read ends the list: nobody knows
//! what stands before it.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use bytes::Bytes;
use http::header::FORWARDED;
use http::uri::Authority;
use http::{HeaderMap, HeaderName, HeaderValue};
use weft_http::headers::X_FORWARDED_FOR;

/// One who has sent a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Node {
    Address(IpAddr),
    /// `unknown`, or an identifier that hides it (`_...`; section 6.3).
    Hidden(Box<str>),
}

/// One, and what was asked of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hop {
    pub(super) node: Node,
    pub(super) host: Option<Box<str>>,
    pub(super) proto: Option<Box<str>>,
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(ip) => ip.fmt(f),
            Self::Hidden(name) => f.write_str(name),
        }
    }
}

/// Those that a request names, the nearest first. `x-forwarded-for` is what most proxies write; `forwarded` is read where there
/// is none.
pub(super) fn told(headers: &HeaderMap) -> impl Iterator<Item = Hop> {
    let name = if headers.contains_key(X_FORWARDED_FOR) { X_FORWARDED_FOR } else { FORWARDED };
    let parse: fn(&[u8]) -> Option<Hop> = if name == X_FORWARDED_FOR { address } else { element };
    let values: Vec<&HeaderValue> = headers.get_all(name).iter().collect();
    let elements = values.into_iter().rev().flat_map(|value| FromEnd(Some(value.as_bytes())));
    // Empty elements are none (RFC 9110 section 5.6.1).
    elements.map(<[u8]>::trim_ascii).filter(|text| !text.is_empty()).map_while(parse)
}

/// The elements of a list, the last first. A comma in a quoted string is none, and a string is found by its end, so that one
/// that somebody before has left open takes nothing of what was added behind it.
struct FromEnd<'v>(Option<&'v [u8]>);

impl<'v> Iterator for FromEnd<'v> {
    type Item = &'v [u8];

    fn next(&mut self) -> Option<&'v [u8]> {
        let text = self.0?;
        let mut quoted = false;
        for (place, byte) in text.iter().enumerate().rev() {
            match byte {
                b'"' if quoted && is_escaped(text, place) => {}
                b'"' => quoted = !quoted,
                b',' if !quoted => {
                    self.0 = text.get(..place);
                    return text.get(place + 1..);
                }
                _ => {}
            }
        }
        self.0 = None;
        Some(text)
    }
}

/// Whether an odd number of backslashes stands before a place.
fn is_escaped(text: &[u8], place: usize) -> bool {
    let before = text.get(..place).unwrap_or_default();
    before.iter().rev().take_while(|byte| **byte == b'\\').count() % 2 == 1
}

/// An element of `x-forwarded-for`: an address; some proxies write a port behind it, or brackets around it.
fn address(text: &[u8]) -> Option<Hop> {
    let text = std::str::from_utf8(text).ok()?;
    let bracketed = || text.strip_prefix('[')?.strip_suffix(']')?.parse::<Ipv6Addr>().ok().map(IpAddr::V6);
    let with_port = || text.parse::<SocketAddr>().ok().map(|addr| addr.ip());
    let ip = text.parse().ok().or_else(with_port).or_else(bracketed);
    let node = match ip {
        Some(ip) => Node::Address(ip.to_canonical()),
        None => hidden(text)?,
    };
    Some(Hop { node, host: None, proto: None })
}

/// Section 6.2 and 6.3.
fn hidden(text: &str) -> Option<Node> {
    let identifier = |text: &str| {
        !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
    };
    let is_hidden = text.eq_ignore_ascii_case("unknown") || text.strip_prefix('_').is_some_and(identifier);
    is_hidden.then(|| Node::Hidden(text.into()))
}

/// An element of `forwarded` (section 4): pairs with `;` between them, each parameter once.
fn element(text: &[u8]) -> Option<Hop> {
    let text = std::str::from_utf8(text).ok()?;
    let (mut rest, mut seen) = (text, Vec::new());
    let mut hop = Hop { node: Node::Hidden("unknown".into()), host: None, proto: None };
    loop {
        let (name, value, behind) = pair(rest)?;
        let name = name.to_ascii_lowercase();
        match name.as_str() {
            "for" => hop.node = node(&value)?,
            "host" => hop.host = Some(value).filter(|host| is_host(host)).map(Into::into),
            "proto" => hop.proto = Some(value).filter(|proto| is_proto(proto)).map(Into::into),
            _ => {}
        }
        if seen.contains(&name) {
            return None;
        }
        seen.push(name);
        match behind.trim_start_matches([' ', '\t']).strip_prefix(';') {
            Some(next) => rest = next.trim_start_matches([' ', '\t']),
            None if behind.trim_matches([' ', '\t']).is_empty() => return Some(hop),
            None => return None,
        }
    }
}

/// `token "=" (token / quoted-string)`, and what stands behind.
fn pair(text: &str) -> Option<(&str, String, &str)> {
    let (name, rest) = text.split_once('=')?;
    if !is_token(name) {
        return None;
    }
    let Some(quoted) = rest.strip_prefix('"') else {
        let end = rest.find([';', ' ', '\t']).unwrap_or(rest.len());
        let (value, behind) = rest.split_at_checked(end)?;
        return is_token(value).then(|| (name, value.to_owned(), behind));
    };
    let (mut value, mut characters) = (String::new(), quoted.char_indices());
    while let Some((place, character)) = characters.next() {
        match character {
            '"' => return Some((name, value, quoted.get(place + 1..)?)),
            '\\' => value.push(characters.next()?.1),
            other => value.push(other),
        }
    }
    None
}

/// RFC 9110 section 5.6.2.
fn is_token(text: &str) -> bool {
    let sign = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !text.is_empty() && text.bytes().all(sign)
}

/// Section 6: `nodename [ ":" node-port ]`, where an IPv6 address has brackets.
fn node(text: &str) -> Option<Node> {
    let (name, port) = match text.strip_prefix('[') {
        Some(inside) => {
            let (ip, behind) = inside.split_once(']')?;
            let ip = ip.parse::<Ipv6Addr>().ok()?;
            let port = if behind.is_empty() { None } else { Some(behind.strip_prefix(':')?) };
            (Node::Address(IpAddr::V6(ip).to_canonical()), port)
        }
        None => {
            let (name, port) = text.split_once(':').map_or((text, None), |(name, port)| (name, Some(port)));
            let node = match name.parse::<Ipv4Addr>() {
                Ok(ip) => Node::Address(ip.into()),
                Err(_) => hidden(name)?,
            };
            (node, port)
        }
    };
    let is_port = |port: &str| {
        let digits = (1..=5).contains(&port.len()) && port.bytes().all(|byte| byte.is_ascii_digit());
        digits || (port.starts_with('_') && hidden(port).is_some())
    };
    port.is_none_or(is_port).then_some(name)
}

/// What the proxy that is so many hops away (the peer is one) has told by a header, to which each may have added a word of its
/// own, or which each may have replaced: then there are fewer words than hops, and the first is of the farthest.
pub(super) fn word<'h>(headers: &'h HeaderMap, name: &HeaderName, hops: usize) -> Option<&'h str> {
    let values: Vec<&HeaderValue> = headers.get_all(name).iter().collect();
    // What stands before a value that is no text was told to somebody who cannot have read it.
    let values = values.into_iter().rev().map_while(|value| value.to_str().ok());
    let words = values.flat_map(|value| value.rsplit(',')).map(str::trim).filter(|word| !word.is_empty());
    words.take(hops.max(1)).last()
}

/// A scheme that clients of a gateway use.
pub(super) fn is_proto(text: &str) -> bool {
    ["http", "https", "ws", "wss"].iter().any(|one| text.eq_ignore_ascii_case(one))
}

/// A host with or without a port.
pub(super) fn is_host(text: &str) -> bool {
    !text.contains('@') && text.parse::<Authority>().is_ok()
}

/// A port.
pub(super) fn is_port(text: &str) -> bool {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0');
    digits && text.parse::<u16>().is_ok()
}

/// The value of `forwarded` that names these, the farthest first; `host` and `proto` are what the client used.
pub(super) fn element_list<'n>(
    nodes: impl Iterator<Item = &'n Node>,
    host: &HeaderValue,
    proto: &HeaderValue,
) -> HeaderValue {
    let mut list = String::new();
    for node in nodes {
        let first = list.is_empty();
        if !first {
            list.push_str(", ");
        }
        match node {
            // Section 6.1: the brackets and colons want quotes.
            Node::Address(IpAddr::V6(ip)) => list.push_str(&format!("for=\"[{ip}]\"")),
            node => list.push_str(&format!("for={node}")),
        }
        if first {
            parameter(&mut list, "host", host);
            parameter(&mut list, "proto", proto);
        }
    }
    HeaderValue::from_maybe_shared(Bytes::from(list)).unwrap_or(HeaderValue::from_static("for=unknown"))
}

/// What a header says, as a parameter.
fn parameter(list: &mut String, name: &str, value: &HeaderValue) {
    let text = value.to_str().unwrap_or_default();
    if is_token(text) {
        list.push_str(&format!(";{name}={text}"));
    } else if !text.is_empty() {
        let text = text.replace('\\', "\\\\").replace('"', "\\\"");
        list.push_str(&format!(";{name}=\"{text}\""));
    }
}
