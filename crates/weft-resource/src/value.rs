//! The values of the Gateway API as types that cannot hold a wrong one.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer};

/// Has a type read from a text by its `FromStr`, whose error is a sentence.
macro_rules! from_text {
    ($($name:ty),*) => {$(
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}

from_text!(HostPattern, PreciseHost, HeaderName, HeaderValue, Method, PathValue, Regex, SectionName);
from_text!(GatewayDuration, BackendHost, CorsOrigin);

/// A host name (RFC 1123), in lower case, without the dot of the root.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PreciseHost(String);

/// The longest DNS name (RFC 1035 section 2.3.4) in text without the dot of the root.
const MAX_HOST: usize = 253;
/// The longest label.
const MAX_LABEL: usize = 63;

impl PreciseHost {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PreciseHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for PreciseHost {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let name = text.to_ascii_lowercase();
        let is_label = |label: &str| {
            let fits = !label.is_empty() && label.len() <= MAX_LABEL;
            let chars = label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
            fits && chars && !label.starts_with('-') && !label.ends_with('-')
        };
        if name.len() > MAX_HOST || !name.split('.').all(is_label) {
            return Err(format!(
                "`{text}` is no host name: labels of letters, digits and `-`, separated by dots"
            ));
        }
        if name.parse::<IpAddr>().is_ok() {
            return Err(format!("`{text}` is an address, and a host name is wanted"));
        }
        Ok(Self(name))
    }
}

/// A host name, or `*.` and a host name: every name that ends in it and has at least one label more.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum HostPattern {
    /// This name.
    Exact(PreciseHost),
    /// Every name below this one.
    Wildcard(PreciseHost),
}

impl HostPattern {
    /// Whether a host name, in lower case, is one of it.
    pub fn matches(&self, host: &str) -> bool {
        match self {
            Self::Exact(name) => name.0 == host,
            Self::Wildcard(base) => host
                .strip_suffix(base.as_str())
                .and_then(|rest| rest.strip_suffix('.'))
                .is_some_and(|rest| !rest.is_empty()),
        }
    }

    /// What both patterns have in common, which is one of them.
    pub fn intersection<'a>(&'a self, other: &'a Self) -> Option<&'a Self> {
        let within = |inner: &Self, outer: &Self| match (inner, outer) {
            (Self::Exact(name), _) => outer.matches(name.as_str()),
            (Self::Wildcard(inner), Self::Wildcard(outer_base)) => {
                inner == outer_base || outer.matches(inner.as_str())
            }
            (Self::Wildcard(_), Self::Exact(_)) => false,
        };
        match (within(self, other), within(other, self)) {
            (true, _) => Some(self),
            (_, true) => Some(other),
            _ => None,
        }
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => name.fmt(f),
            Self::Wildcard(base) => write!(f, "*.{base}"),
        }
    }
}

impl FromStr for HostPattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.strip_prefix("*.") {
            Some(base) => Ok(Self::Wildcard(base.parse()?)),
            None if text.contains('*') => {
                Err(format!("`{text}`: `*` may only stand alone as the first label, as in `*.example.com`"))
            }
            None => Ok(Self::Exact(text.parse()?)),
        }
    }
}

/// A port from 1 to 65535.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Port(u16);

impl Port {
    /// The number.
    pub fn get(self) -> u16 {
        self.0
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl TryFrom<i64> for Port {
    type Error = String;

    fn try_from(number: i64) -> Result<Self, String> {
        let port = u16::try_from(number).ok().filter(|port| *port > 0);
        port.map(Self).ok_or_else(|| format!("{number} is no port: from 1 to 65535"))
    }
}

impl<'de> Deserialize<'de> for Port {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::try_from(i64::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

/// `weight`: from 0 to 1,000,000; 1 by default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Weight(u32);

/// The Gateway API's limit.
const MAX_WEIGHT: i64 = 1_000_000;

impl Weight {
    /// The number.
    pub fn get(self) -> u32 {
        self.0
    }
}

impl Default for Weight {
    fn default() -> Self {
        Self(1)
    }
}

impl<'de> Deserialize<'de> for Weight {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = i64::deserialize(deserializer)?;
        let weight = u32::try_from(number).ok().filter(|_| number <= MAX_WEIGHT);
        let refused = || serde::de::Error::custom(format!("{number} is no weight: from 0 to {MAX_WEIGHT}"));
        weight.map(Self).ok_or_else(refused)
    }
}

/// The name of a listener, rule or port.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SectionName(String);

impl SectionName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SectionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for SectionName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let lower =
            text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.');
        match lower && text.parse::<PreciseHost>().is_ok() {
            true => Ok(Self(text.to_owned())),
            false => Err(format!("`{text}` is no name: lower-case letters, digits, `-` and `.`")),
        }
    }
}

/// A header's name, in lower case.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HeaderName(http::HeaderName);

impl HeaderName {
    /// The name.
    pub fn get(&self) -> &http::HeaderName {
        &self.0
    }
}

impl FromStr for HeaderName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let name = http::HeaderName::from_bytes(text.as_bytes());
        name.map(Self).map_err(|_| format!("`{text}` is no header name (RFC 9110 section 5.1)"))
    }
}

/// A header's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderValue(http::HeaderValue);

impl HeaderValue {
    /// The value.
    pub fn get(&self) -> &http::HeaderValue {
        &self.0
    }
}

impl FromStr for HeaderValue {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let value = http::HeaderValue::from_str(text);
        value.map(Self).map_err(|_| "a header value has no line breaks and no control characters".to_owned())
    }
}

/// A method of HTTP, in the case it is written.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Method(http::Method);

impl Method {
    /// The method.
    pub fn get(&self) -> &http::Method {
        &self.0
    }
}

impl FromStr for Method {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const KNOWN: [&str; 9] =
            ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];
        let known = KNOWN.contains(&text).then(|| text.parse().ok()).flatten();
        known.map(Self).ok_or_else(|| format!("`{text}` is not one of {}", KNOWN.join(", ")))
    }
}

/// A path to be matched: it begins with `/` and has nothing that a normal path has not.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PathValue(String);

/// The Gateway API's limit.
const MAX_PATH: usize = 1024;

impl PathValue {
    /// The path.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for PathValue {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if !text.starts_with('/') || text.len() > MAX_PATH {
            return Err(format!(
                "`{text}` is no path: it begins with `/` and has at most {MAX_PATH} characters"
            ));
        }
        // What the Gateway API forbids: no normal path has it, so that it would never match.
        for never in ["//", "/./", "/../", "%2f", "%2F", "#"] {
            if text.contains(never) {
                return Err(format!("`{text}`: a path has no `{never}`"));
            }
        }
        if text.ends_with("/..") || text.ends_with("/.") {
            return Err(format!("`{text}`: a path does not end in `/.` or `/..`"));
        }
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b"/-._~!$&'()*+,;=:@%".contains(&b);
        match text.bytes().find(|b| !allowed(*b)) {
            None => Ok(Self(text.to_owned())),
            Some(byte) => {
                Err(format!("`{text}`: `{}` must be percent-encoded", char::from(byte).escape_default()))
            }
        }
    }
}

/// A regular expression that must match the whole of what it is compared with. It matches octets: `.` is any of them, and classes
/// such as `\d` are those of ASCII, because paths and header values are no Unicode.
#[derive(Clone, Debug)]
pub struct Regex {
    text: String,
    whole: regex::bytes::Regex,
}

/// What a compiled expression may take, octets: a configuration must not take the machine's memory.
const REGEX_SIZE: usize = 1 << 20;

impl Regex {
    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether it matches the whole of a value.
    pub fn matches(&self, value: &[u8]) -> bool {
        self.whole.is_match(value)
    }

    /// The pattern with its anchors, for a set of several.
    pub fn anchored(&self) -> &str {
        self.whole.as_str()
    }
}

impl PartialEq for Regex {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl FromStr for Regex {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let compile = |pattern: &str| {
            let compiled =
                regex::bytes::RegexBuilder::new(pattern).unicode(false).size_limit(REGEX_SIZE).build();
            compiled.map_err(|error| {
                let why = error.to_string();
                let last = why.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
                format!("`{text}` is no regular expression: {last}")
            })
        };
        // Alone first: the anchors must not lend it a parenthesis.
        compile(text)?;
        Ok(Self { text: text.to_owned(), whole: compile(&format!("^(?:{text})$"))? })
    }
}

/// A duration of the Gateway API (GEP-2257): one to four of `h`, `m`, `s` and `ms` with up to five digits each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GatewayDuration(Duration);

impl GatewayDuration {
    /// The duration.
    pub fn get(self) -> Duration {
        self.0
    }

    /// The same; zero is no limit.
    pub fn limit(self) -> Option<Duration> {
        (!self.0.is_zero()).then_some(self.0)
    }
}

impl FromStr for GatewayDuration {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refused = || format!("`{text}` is no duration such as `1h30m`, `5s` or `250ms`");
        let (mut rest, mut total, mut parts) = (text, Duration::ZERO, 0);
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(refused)?;
            let (number, tail) = rest.split_at(digits);
            if number.is_empty() || number.len() > 5 {
                return Err(refused());
            }
            let number: u64 = number.parse().map_err(|_| refused())?;
            let (unit, tail) = tail.split_at(tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len()));
            total += match unit {
                "h" => Duration::from_secs(number * 3600),
                "m" => Duration::from_secs(number * 60),
                "s" => Duration::from_secs(number),
                "ms" => Duration::from_millis(number),
                _ => return Err(refused()),
            };
            (rest, parts) = (tail, parts + 1);
        }
        match parts {
            1..=4 => Ok(Self(total)),
            _ => Err(refused()),
        }
    }
}

/// A host name or an address.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum BackendHost {
    /// Looked up in DNS.
    Name(PreciseHost),
    /// Dialed as it is.
    Address(IpAddr),
}

impl fmt::Display for BackendHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => name.fmt(f),
            Self::Address(IpAddr::V6(v6)) => write!(f, "[{v6}]"),
            Self::Address(address) => address.fmt(f),
        }
    }
}

impl FromStr for BackendHost {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
        match bare.parse() {
            Ok(address) => Ok(Self::Address(address)),
            Err(_) => text.parse().map(Self::Name),
        }
    }
}

pub use crate::origin::CorsOrigin;
