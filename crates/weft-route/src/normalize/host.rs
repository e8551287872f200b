//! The one form of a host.

use std::borrow::Cow;
use std::net::Ipv6Addr;

/// Why a host is refused. The answer is 400.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadHost {
    /// There is none.
    #[error("the host is empty")]
    Empty,
    /// It is neither a host name nor an address.
    #[error("the host is neither a name nor an address")]
    Name,
    /// Behind the colon is no port.
    #[error("the host's port is no port")]
    Port,
}

/// Host and port of a request, as `Host` or `:authority` has them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host<'a> {
    /// In lower case, without the dot of the root; an IPv6 address in brackets, in its canonical form (RFC 5952).
    pub name: Cow<'a, str>,
    /// The port, where one is said.
    pub port: Option<u16>,
}

/// The one form of a host: in lower case, without port, without the dot of the root. Names have labels of letters, digits, `-` and
/// `_`. Refused are an empty host, user information, percent-codes, zones of IPv6, and port 0.
///
/// # Errors
/// It is no host.
pub fn host(authority: &str) -> Result<Host<'_>, BadHost> {
    if authority.is_empty() {
        return Err(BadHost::Empty);
    }
    if let Some(rest) = authority.strip_prefix('[') {
        let (address, rest) = rest.split_once(']').ok_or(BadHost::Name)?;
        let parsed: Ipv6Addr = address.parse().map_err(|_| BadHost::Name)?;
        let port = match rest.strip_prefix(':') {
            Some(digits) => port(digits)?,
            None if rest.is_empty() => None,
            None => return Err(BadHost::Name),
        };
        let canonical = format!("[{parsed}]");
        let whole = authority.get(..canonical.len()).filter(|whole| **whole == *canonical);
        return Ok(Host { name: whole.map_or(Cow::Owned(canonical.clone()), Cow::Borrowed), port });
    }
    let (name, port) = match authority.split_once(':') {
        Some((name, digits)) => (name, port(digits)?),
        None => (authority, None),
    };
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.is_empty() {
        return Err(BadHost::Empty);
    }
    if !is_name(name) {
        return Err(BadHost::Name);
    }
    let lower = !name.bytes().any(|b| b.is_ascii_uppercase());
    let name = if lower { Cow::Borrowed(name) } else { Cow::Owned(name.to_ascii_lowercase()) };
    Ok(Host { name, port })
}

/// RFC 1035 section 2.3.4.
const MAX_NAME: usize = 253;
const MAX_LABEL: usize = 63;

fn is_name(name: &str) -> bool {
    let is_label = |label: &str| {
        let fits = !label.is_empty() && label.len() <= MAX_LABEL;
        fits && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    name.len() <= MAX_NAME && name.split('.').all(is_label)
}

/// A port. RFC 3986 section 3.2.3 lets it be empty.
fn port(digits: &str) -> Result<Option<u16>, BadHost> {
    if digits.is_empty() {
        return Ok(None);
    }
    let port = digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok()).flatten();
    port.filter(|port| *port > 0).map(Some).ok_or(BadHost::Port)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brings_hosts_into_one_form() {
        for (raw, name, port) in [
            ("a.example", "a.example", None),
            ("A.Example.COM:8443", "a.example.com", Some(8443)),
            ("a.example.", "a.example", None),
            ("a.example.:80", "a.example", Some(80)),
            ("a.example:", "a.example", None),
            ("my_host-1", "my_host-1", None),
            ("10.0.0.1:80", "10.0.0.1", Some(80)),
            ("[::1]", "[::1]", None),
            ("[2001:DB8:0::1]:443", "[2001:db8::1]", Some(443)),
            ("[::ffff:10.0.0.1]", "[::ffff:10.0.0.1]", None),
        ] {
            assert_eq!(host(raw), Ok(Host { name: Cow::Borrowed(name), port }), "{raw}");
        }
        assert!(matches!(host("a.example:80").unwrap().name, Cow::Borrowed(_)));
        assert!(matches!(host("[::1]:80").unwrap().name, Cow::Borrowed(_)));
    }

    #[test]
    fn refuses_what_is_no_host() {
        let long = ["a"; 128].join(".");
        let label = "a".repeat(64);
        for raw in [
            "",
            ".",
            ":80",
            "a..b",
            ".a",
            "a..",
            "a b",
            "a/b",
            "a@b",
            "user@a",
            "a%2eb",
            "a\\b",
            "ü",
            "a,b",
            "*.a",
            "::1",
            "[::1",
            "[::1]x",
            "[::1%eth0]",
            "[v1.x]",
            "[]",
            "a:0",
            "a:65536",
            "a:+1",
            "a:1:2",
            "a:80x",
            &long,
            &label,
        ] {
            assert!(host(raw).is_err(), "{raw:?}");
        }
    }
}
