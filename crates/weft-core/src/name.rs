//! DNS names and services.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::ParseError;

/// A fully qualified DNS name in lower case, without the trailing dot.
///
/// Names compare without case (RFC 4343), so they are lowered once, where they enter. Labels may hold letters, digits,
/// `-` and `_` (RFC 2181 section 11 allows more; no service needs it); 63 octets a label and 253 a name (RFC 1035
/// section 2.3.4). Cloning is one reference count.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DnsName(Arc<str>);

impl DnsName {
    /// The name as text, without a trailing dot.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The labels, leftmost first.
    pub fn labels(&self) -> impl Iterator<Item = &str> {
        self.0.split('.')
    }
}

impl FromStr for DnsName {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let bad = |reason| Err(ParseError::new("DNS name", text, reason));
        let name = text.strip_suffix('.').unwrap_or(text);
        if name.is_empty() {
            return bad("is empty");
        }
        if name.len() > 253 {
            return bad("is longer than 253 octets");
        }
        for label in name.split('.') {
            if label.is_empty() || label.len() > 63 {
                return bad("has a label that is empty or longer than 63 octets");
            }
            if !label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_') {
                return bad("has a character that is not a letter, a digit, '-' or '_'");
            }
        }
        Ok(Self(name.to_ascii_lowercase().into()))
    }
}

impl fmt::Display for DnsName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for DnsName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What an application dials: a name and a port.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceKey {
    /// The name the application asked DNS for.
    pub name: DnsName,
    /// The port it connected to.
    pub port: u16,
}

impl ServiceKey {
    /// A service by name and port.
    pub fn new(name: DnsName, port: u16) -> Self {
        Self { name, port }
    }
}

impl fmt::Display for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.name, self.port)
    }
}

impl fmt::Debug for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn case_and_trailing_dot_do_not_make_a_different_name() {
        let a: DnsName = "Orders.Shop.svc.cluster.local.".parse().unwrap();
        let b: DnsName = "orders.shop.svc.cluster.local".parse().unwrap();
        assert_eq!(a, b);
        assert_eq!(a.labels().next(), Some("orders"));
    }

    #[test]
    fn refuses_what_is_not_a_name() {
        let long = ["a"; 200].join(".");
        let label = "a".repeat(64);
        for text in ["", ".", "a..b", "a b", "a/b", "ü.example", "a\u{0}b", &long, &label] {
            assert!(text.parse::<DnsName>().is_err(), "{text:?}");
        }
    }
}
