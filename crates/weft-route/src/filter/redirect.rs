//! Redirects.

use http::header::LOCATION;
use http::{HeaderValue, Response, StatusCode};
use weft_resource::filter::Scheme;

use super::rewrite::PathRewrite;
use crate::table::PathRule;

/// An answer that sends the client elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// `None`: that of the request.
    pub scheme: Option<Scheme>,
    /// `None`: that of the request.
    pub host: Option<Box<str>>,
    /// `None`: see [`Self::location`].
    pub port: Option<u16>,
    /// `None`: that of the request.
    pub path: Option<PathRewrite>,
    /// The status.
    pub status: StatusCode,
}

/// What a redirect takes from the request.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    /// Whether the client came over TLS.
    pub tls: bool,
    /// The host that it asked for, without a port; already found to be a host name or an address.
    pub host: &'a str,
    /// The listener's port.
    pub port: u16,
    /// The path, normalised.
    pub path: &'a str,
    /// What stands behind `?`.
    pub query: Option<&'a str>,
}

impl Redirect {
    /// Where to. The port is that of the filter; without one the usual one of the filter's scheme; without a scheme the listener's. The
    /// usual port of a scheme is left out (HTTPRequestRedirectFilter, "port").
    pub fn location(&self, seen: &Seen<'_>, matched: &PathRule) -> String {
        let scheme = match self.scheme {
            Some(Scheme::Http) => "http",
            Some(Scheme::Https) => "https",
            None if seen.tls => "https",
            None => "http",
        };
        let usual = if scheme == "https" { 443 } else { 80 };
        let port = self.port.unwrap_or(if self.scheme.is_some() { usual } else { seen.port });
        let host = self.host.as_deref().unwrap_or(seen.host);
        let mut location = format!("{scheme}://{host}");
        if port != usual {
            location.push(':');
            location.push_str(&port.to_string());
        }
        match &self.path {
            Some(rewrite) => location.push_str(&rewrite.apply(seen.path, matched)),
            None => location.push_str(seen.path),
        }
        if let Some(query) = seen.query {
            location.push('?');
            location.push_str(query);
        }
        location
    }

    /// The answer's head. `None`: what the request has cannot be a Location.
    pub fn answer(&self, seen: &Seen<'_>, matched: &PathRule) -> Option<Response<()>> {
        let location = HeaderValue::from_str(&self.location(seen, matched)).ok()?;
        let mut response = Response::new(());
        *response.status_mut() = self.status;
        response.headers_mut().insert(LOCATION, location);
        Some(response)
    }
}
