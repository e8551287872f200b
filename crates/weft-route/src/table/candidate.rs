//! One match of a rule, and the order among them.

use std::cmp::{Ordering, Reverse};
use std::sync::Arc;

use http::{HeaderValue, Method};
use weft_resource::http::ValueMatch;
use weft_resource::value::{HeaderName, Regex};

use crate::age::{Age, by_name};
use crate::program::Rule;
use crate::request::RequestView;

/// What a match says of the path.
#[derive(Clone, Debug, PartialEq)]
pub enum PathRule {
    /// The whole path.
    Exact(Box<str>),
    /// The path, or one below it. Without a slash at the end; the root is empty.
    Prefix(Box<str>),
    /// A regular expression.
    Regex(Regex),
    /// gRPC: any service, this method.
    GrpcMethod(Box<str>),
    /// gRPC: regular expressions that must match the whole service and the whole method; `None`: any.
    GrpcRegex {
        /// Of the service.
        service: Option<Regex>,
        /// Of the method.
        method: Option<Regex>,
    },
}

/// One match of one rule: what must hold besides the host name, and its place in the order.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// The path.
    pub path: PathRule,
    /// The method; `None`: any.
    pub method: Option<Method>,
    /// Headers, each name once.
    pub headers: Vec<(HeaderName, ValueMatch)>,
    /// Query parameters, each name once.
    pub query: Vec<(String, ValueMatch)>,
    /// When the route was made.
    pub age: Age,
    /// The place of the match within its rule, from 0.
    pub index: usize,
    /// The rule.
    pub rule: Arc<Rule>,
}

impl Candidate {
    /// The order among all candidates of one host name; the lesser is asked first.
    ///
    /// HTTPRoute: an exact path; then a regular expression (for which the specification leaves the place open: one who writes
    /// it means something more special than a prefix, most of all than `/`), the longest first; then the longest prefix; then a
    /// method; then the most headers, then the most query parameters; then the oldest route, then by namespace and name; then
    /// the first in the route. GRPCRoute: the longest service, then the longest method, which the same order gives where a
    /// service alone is a prefix, and a method alone stands behind those.
    pub fn order(&self, other: &Self) -> Ordering {
        let key = |c: &Self| {
            let length =
                |regex: &Option<Regex>| Reverse(regex.as_ref().map_or(0, |regex| regex.as_str().len()));
            let path = match &c.path {
                PathRule::Exact(path) => (0, Reverse(path.len()), Reverse(0)),
                PathRule::Regex(regex) => (1, Reverse(regex.as_str().len()), Reverse(0)),
                PathRule::GrpcRegex { service: service @ Some(_), method } => {
                    (1, length(service), length(method))
                }
                PathRule::Prefix(path) if !path.is_empty() => (2, Reverse(path.len()), Reverse(0)),
                PathRule::GrpcMethod(method) => (3, Reverse(method.len()), Reverse(0)),
                PathRule::GrpcRegex { service: None, method } => (3, length(method), Reverse(0)),
                PathRule::Prefix(_) => (4, Reverse(0), Reverse(0)),
            };
            (path, Reverse(c.method.is_some()), Reverse(c.headers.len()), Reverse(c.query.len()))
        };
        key(self)
            .cmp(&key(other))
            .then_with(|| self.age.cmp(&other.age))
            .then_with(|| by_name(&self.rule.id.route, &other.rule.id.route))
            .then_with(|| (self.rule.id.index, self.index).cmp(&(other.rule.id.index, other.index)))
    }

    /// Whether everything but the host holds.
    pub fn matches(&self, request: &RequestView<'_>) -> bool {
        self.matches_path(request.path) && self.matches_rest(request)
    }

    /// Whether the path holds.
    pub fn matches_path(&self, path: &str) -> bool {
        match &self.path {
            PathRule::Exact(exact) => **exact == *path,
            PathRule::Prefix(prefix) => {
                path.strip_prefix(&**prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            }
            PathRule::Regex(regex) => regex.matches(path.as_bytes()),
            PathRule::GrpcMethod(method) => grpc_call(path).is_some_and(|(_, called)| *called == **method),
            PathRule::GrpcRegex { service, method } => grpc_call(path).is_some_and(|(called, way)| {
                let fits = |regex: &Option<Regex>, name: &str| {
                    regex.as_ref().is_none_or(|regex| regex.matches(name.as_bytes()))
                };
                fits(service, called) && fits(method, way)
            }),
        }
    }

    /// Whether method, headers and query hold.
    pub fn matches_rest(&self, request: &RequestView<'_>) -> bool {
        self.method.as_ref().is_none_or(|method| method == request.method)
            && self.headers.iter().all(|(name, value)| matches_header(request, name, value))
            && self.query.iter().all(|(name, value)| matches_query(request.query, name, value))
    }
}

/// Service and method of a path `/service/method`.
pub(super) fn grpc_call(path: &str) -> Option<(&str, &str)> {
    let (service, method) = path.strip_prefix('/')?.split_once('/')?;
    (!service.is_empty() && !method.is_empty() && !method.contains('/')).then_some((service, method))
}

fn holds(wanted: &ValueMatch, value: &[u8]) -> bool {
    match wanted {
        ValueMatch::Exact(text) => text.as_bytes() == value,
        ValueMatch::Regex(regex) => regex.matches(value),
    }
}

/// Whether a header has a value. Lines of one name are one value, joined by commas (RFC 9110 section 5.3). `host` is the host name in
/// its one form, however it was written and whether HTTP/2 says it in `:authority`.
pub(crate) fn matches_header(request: &RequestView<'_>, name: &HeaderName, wanted: &ValueMatch) -> bool {
    if name.get() == http::header::HOST {
        return holds(wanted, request.host.as_bytes());
    }
    let mut lines = request.headers.get_all(name.get()).iter();
    let Some(first) = lines.next() else { return false };
    let rest: Vec<&HeaderValue> = lines.collect();
    if rest.is_empty() {
        return holds(wanted, first.as_bytes());
    }
    let mut joined = first.as_bytes().to_vec();
    for line in rest {
        joined.push(b',');
        joined.extend_from_slice(line.as_bytes());
    }
    holds(wanted, &joined)
}

/// Whether a query parameter has a value: the first of its name, decoded as a form is (the URL standard, "urlencoded parsing").
pub(crate) fn matches_query(query: Option<&str>, name: &str, wanted: &ValueMatch) -> bool {
    let pairs = query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
    for pair in pairs {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        if is_decoded(key, name) {
            return match is_plain(value) {
                true => holds(wanted, value.as_bytes()),
                false => holds(wanted, &decoded(value)),
            };
        }
    }
    false
}

fn is_plain(text: &str) -> bool {
    !text.bytes().any(|b| b == b'%' || b == b'+')
}

fn is_decoded(text: &str, wanted: &str) -> bool {
    if is_plain(text) { text == wanted } else { decoded(text) == wanted.as_bytes() }
}

fn decoded(text: &str) -> Vec<u8> {
    let digit = |b: Option<&u8>| b.and_then(|b| char::from(*b).to_digit(16));
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        at += 1;
        match byte {
            b'+' => out.push(b' '),
            b'%' => match (digit(bytes.get(at)), digit(bytes.get(at + 1))) {
                (Some(high), Some(low)) => {
                    out.push((high * 16 + low) as u8);
                    at += 2;
                }
                _ => out.push(b'%'),
            },
            other => out.push(*other),
        }
    }
    out
}
