//! Origins (RFC 6454) as the CORS filter names them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use crate::value::{HostPattern, PreciseHost};

/// An origin of the CORS filter: `*`, or scheme, host and perhaps port, where the host may begin with `*.` or be an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CorsOrigin {
    /// Every origin.
    Any,
    /// One origin, or all below a name.
    Origin {
        /// Such as `https`.
        scheme: String,
        /// The host.
        host: OriginHost,
        /// `None`: the scheme's own.
        port: Option<u16>,
    },
}

/// The host of an origin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OriginHost {
    /// Every host: `*` by itself.
    Any,
    /// A name, or all names below one.
    Named(HostPattern),
    /// An address; one of IPv6 is written in brackets.
    Address(IpAddr),
}

impl FromStr for CorsOrigin {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "*" {
            return Ok(Self::Any);
        }
        let refused = || {
            format!(
                "`{text}` is no origin such as `https://example.com`, `https://*.example.com:8443` or `http://[::1]:8080`"
            )
        };
        let (scheme, rest) = text.split_once("://").ok_or_else(refused)?;
        let is_scheme = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
            && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b));
        if !is_scheme {
            return Err(refused());
        }
        let (host, port) = split(rest).ok_or_else(refused)?;
        // RFC 1123 section 2.1: a name does not end in digits, so that this is an address that was mistyped.
        let digits =
            host.rsplit('.').next().is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit()));
        let host = match address(host) {
            _ if host == "*" => OriginHost::Any,
            Some(address) => OriginHost::Address(address),
            None if digits => return Err(refused()),
            None => OriginHost::Named(host.parse().map_err(|_| refused())?),
        };
        Ok(Self::Origin { scheme: scheme.to_ascii_lowercase(), host, port })
    }
}

impl CorsOrigin {
    /// Whether the value of an `Origin` header is one of it.
    pub fn matches(&self, origin: &str) -> bool {
        let Self::Origin { scheme, host, port } = self else { return true };
        let Some((their_scheme, rest)) = origin.split_once("://") else { return false };
        let Some((their_host, their_port)) = split(rest) else { return false };
        let usual = match scheme.as_str() {
            "http" => Some(80),
            "https" => Some(443),
            _ => None,
        };
        their_scheme.eq_ignore_ascii_case(scheme)
            && their_port.or(usual) == port.or(usual)
            && match host {
                OriginHost::Address(own) => address(their_host) == Some(*own),
                OriginHost::Any => their_host.parse::<PreciseHost>().is_ok() || address(their_host).is_some(),
                // What is no host name is nobody's origin, whatever it ends in.
                OriginHost::Named(own) => {
                    their_host.parse::<PreciseHost>().is_ok() && own.matches(&their_host.to_ascii_lowercase())
                }
            }
    }
}

/// Host, with its brackets, and port.
fn split(authority: &str) -> Option<(&str, Option<u16>)> {
    let behind = authority.rfind(']').map_or(0, |end| end + 1);
    match authority.get(behind..)?.rfind(':') {
        None => Some((authority, None)),
        Some(at) => {
            let (host, port) = authority.split_at_checked(behind + at)?;
            let port = port.get(1..).filter(|port| port.bytes().all(|digit| digit.is_ascii_digit()))?;
            Some((host, Some(port.parse().ok()?)))
        }
    }
}

fn address(host: &str) -> Option<IpAddr> {
    match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(bare) => bare.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
        None => host.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_may_have_an_address() {
        for (written, takes, refuses) in [
            (
                "http://10.0.0.1:8080",
                &["http://10.0.0.1:8080", "HTTP://10.0.0.1:8080"][..],
                &[
                    "http://10.0.0.1",
                    "https://10.0.0.1:8080",
                    "http://10.0.0.2:8080",
                    "http://10.0.0.1:+8080",
                ][..],
            ),
            (
                "http://[::1]",
                &["http://[::1]", "http://[0:0::1]:80"],
                &["http://::1", "http://[::2]", "http://[::1", "http://[::1]:"],
            ),
            ("https://[2001:db8::1]:8443", &["https://[2001:DB8::1]:8443"], &["https://[2001:db8::1]"]),
            (
                "https://*.a.test",
                &["https://b.a.test:443"],
                &["https://10.0.0.1", "https://[::1]", "https://a.test"],
            ),
            (
                "https://*",
                &["https://a.test", "https://10.0.0.1", "https://[::1]:443"],
                &["http://a.test", "https://a.test:8443", "https://", "https://a_b", "null"],
            ),
            ("http://*:8080", &["http://localhost:8080"], &["http://localhost", "https://localhost:8080"]),
        ] {
            let origin: CorsOrigin = written.parse().unwrap();
            assert!(takes.iter().all(|one| origin.matches(one)), "{written}");
            assert!(!refuses.iter().any(|one| origin.matches(one)), "{written}");
        }
        for bad in [
            "http://10.0.0.1:",
            "http://10.0.0.1:99999",
            "http://*.10.0.0.1",
            "http://[10.0.0.1]",
            "http://[::1",
            "http://::1",
            "http://[::1]x",
            "http://[::1%eth0]",
            "http://10.0.0",
            "http://10.0.0.1/",
            "http://010.0.0.1",
        ] {
            let told = bad.parse::<CorsOrigin>().unwrap_err();
            assert!(told.contains("http://[::1]:8080"), "{told}");
        }
    }
}
