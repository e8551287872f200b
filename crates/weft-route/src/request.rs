//! A request as routes see it.

use http::{HeaderMap, Method};

/// What matches look at. Host and path are normalised before: routes see what the upstream will get.
#[derive(Clone, Copy, Debug)]
pub struct RequestView<'a> {
    /// The host in lower case, without port and without the dot of the root; an IPv6 literal in brackets.
    pub host: &'a str,
    /// The method.
    pub method: &'a Method,
    /// The path, beginning with `/`.
    pub path: &'a str,
    /// What stands behind `?`.
    pub query: Option<&'a str>,
    /// The headers.
    pub headers: &'a HeaderMap,
}
