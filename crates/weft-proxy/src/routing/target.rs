//! What a client asked for, normalised: what routes see is what the upstream gets.

use std::borrow::Cow;

use http::header::HOST;
use http::uri::PathAndQuery;
use http::{HeaderValue, Method, Request, Uri, Version};
use weft_http::{ErrorCode, judge, wire};
use weft_route::{RequestView, normalize};

/// Host, path and query of a request.
#[derive(Debug)]
pub(crate) struct Target {
    /// The host in its one form, with the port that the client wrote.
    pub(crate) authority: HeaderValue,
    /// In lower case, without port and without the dot of the root.
    pub(crate) host: Box<str>,
    /// The path.
    pub(crate) path: Box<str>,
    /// What stands behind `?`.
    pub(crate) query: Option<Box<str>>,
    /// Path and query as they came, where that is their one form: the usual case, in which nothing is to be written anew.
    as_sent: Option<PathAndQuery>,
}

impl Target {
    /// Reads it from a request that was judged ([`weft_http::judge`]): it has one host.
    ///
    /// # Errors
    /// `bad-request`: host or path have no single reading.
    pub(crate) fn of<B>(request: &Request<B>) -> Result<Self, ErrorCode> {
        let uri = request.uri();
        if wire::has_fragment(request) {
            return Err(ErrorCode::BadRequest);
        }
        let sent = match uri.authority() {
            Some(authority) => {
                HeaderValue::from_str(authority.as_str()).map_err(|_| ErrorCode::BadRequest)?
            }
            None => request.headers().get(HOST).cloned().unwrap_or(HeaderValue::from_static("")),
        };
        let mut authority = sent.clone();
        let text = sent.to_str().map_err(|_| ErrorCode::BadRequest)?;
        // HTTP/1.0 may come without one, and is for listeners of every name.
        let host = match text.is_empty() {
            true if request.version() == Version::HTTP_10 => Cow::Borrowed(""),
            true => return Err(ErrorCode::BadRequest),
            false => {
                let host = normalize::host(text).map_err(|_| ErrorCode::BadRequest)?;
                if host.port.is_some() || host.name != text {
                    let whole = match host.port {
                        Some(port) => format!("{}:{port}", host.name),
                        None => host.name.clone().into_owned(),
                    };
                    authority = HeaderValue::try_from(whole).map_err(|_| ErrorCode::BadRequest)?;
                }
                host.name
            }
        };
        let path = match uri.path() {
            // `OPTIONS *` is about the server as a whole (RFC 9110 section 9.3.7).
            "*" if request.method() != Method::OPTIONS => return Err(ErrorCode::BadRequest),
            "*" | "" => Cow::Borrowed("/"),
            path => normalize::path(path).map_err(|_| ErrorCode::BadRequest)?,
        };
        let host = host.into();
        // `http://a.test?x` has an empty path, which is `/`, and which `path()` says; what is written down is `?x`.
        let rooted = |sent: &&PathAndQuery| sent.as_str().starts_with('/') && *sent.path() == *path;
        let as_sent = uri.path_and_query().filter(rooted).cloned();
        let (path, query) = (path.into(), uri.query().map(Box::from));
        Ok(Self { authority, host, path, query, as_sent })
    }

    /// What routes see of the request.
    pub(crate) fn view<'a, B>(&'a self, request: &'a Request<B>) -> RequestView<'a> {
        RequestView {
            host: &self.host,
            // WebSocket over HTTP/2 is CONNECT; over HTTP/1.1, and to routes, it is GET.
            method: if judge::asks_for_protocol(request) { &Method::GET } else { request.method() },
            path: &self.path,
            query: self.query.as_deref(),
            headers: request.headers(),
        }
    }

    /// A `Uri` of this path, with the query that the client sent.
    ///
    /// # Errors
    /// `bad-request`: it cannot be one.
    pub(crate) fn uri(&self, path: &str) -> Result<Uri, ErrorCode> {
        if let Some(sent) = self.as_sent.as_ref().filter(|sent| sent.path() == path) {
            return Ok(Uri::from(sent.clone()));
        }
        let text = match &self.query {
            Some(query) => format!("{path}?{query}"),
            None => path.to_owned(),
        };
        Uri::try_from(text).map_err(|_| ErrorCode::BadRequest)
    }
}
