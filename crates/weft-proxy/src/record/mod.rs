//! How a request or connection went: one value each, whose drop writes metrics, span and access log.
//!
//! A path that forgets to report does not exist, because reporting is what happens when the value goes out of scope, on
//! success, on failure, and when the client leaves.

mod answer;
mod request;
mod tcp;

use std::net::SocketAddr;
use std::sync::Arc;

use http::header::Entry;
use http::{HeaderMap, HeaderValue};
use weft_http::headers::{X_FORWARDED_PROTO, X_REQUEST_ID};
use weft_telemetry::metrics::{Direction, TlsLabel};
use weft_telemetry::trace::TraceContext;

pub(crate) use answer::Observed;
pub(crate) use request::RequestRecord;
pub(crate) use tcp::TcpRecord;

/// What all requests of one connection have in common, for spans and access log.
pub(crate) struct ConnectionFacts {
    pub(crate) direction: Direction,
    pub(crate) client: SocketAddr,
    /// Host and port that were dialed.
    pub(crate) server: (Arc<str>, u16),
    /// `name:port` that was dialed.
    pub(crate) service: Arc<str>,
    pub(crate) source_identity: Option<Arc<str>>,
    pub(crate) destination_identity: Option<Arc<str>>,
    pub(crate) tls: TlsLabel,
}

/// Adds what an application may expect of every request: an id, and the scheme its client used.
///
/// The last proxy adds them, so that they need not travel. An id that nobody gave is the trace's: both sides of a hop
/// come to the same one without telling each other.
pub(crate) fn complete(trace: TraceContext, headers: &mut HeaderMap) {
    if let Entry::Vacant(vacant) = headers.entry(X_REQUEST_ID)
        && let Ok(value) = HeaderValue::from_bytes(&trace.trace_id.hex())
    {
        vacant.insert(value);
    }
    headers.entry(X_FORWARDED_PROTO).or_insert(HeaderValue::from_static("http"));
}
