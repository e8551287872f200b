//! The series of HTTP requests.

use std::sync::Arc;
use std::time::Duration;

use http::Method;

use super::slots::Slots;
use super::{Counter, Direction, Gauge, Histogram, Shard, TlsLabel, families};

/// What is known of a stream of requests before the first: everything but method and status.
#[derive(Clone, Copy, Debug)]
pub struct HttpLabels<'a> {
    /// Inbound requests are counted in the `http_server_` families, outbound ones in `http_client_`.
    pub direction: Direction,
    /// `namespace/workload` of the caller as far as known (own name outbound; from the peer's identity inbound), or empty.
    pub source_workload: &'a str,
    /// The service that was dialed, `name:port`, or the address where no name is known.
    pub destination_service: &'a str,
    /// `namespace/workload` of the callee as far as known (own name inbound), or empty.
    pub destination_workload: &'a str,
    /// The verified SPIFFE id of the other end, or empty.
    pub peer_identity: &'a str,
    /// `1.0`, `1.1` or `2`: what the application on this side speaks.
    pub protocol: http::Version,
    /// How the network side is secured.
    pub tls: TlsLabel,
}

/// How one request ended.
#[derive(Clone, Copy, Debug)]
pub struct HttpOutcome<'a> {
    /// The request's method; all but the well-known ones count as `_OTHER`.
    pub method: &'a Method,
    /// The status that the client got; 0 where it got none.
    pub status: u16,
    /// For gRPC: the `grpc-status`, from headers or trailers.
    pub grpc_status: Option<u8>,
    /// Why there was no whole answer of the upstream, as a `weft-error` code.
    pub error: Option<&'static str>,
    /// From the first byte of the request head to the last of the response.
    pub duration: Duration,
}

/// The handles for one label set. Clones share it, and the requests of one worker use it without a lock.
///
/// The histograms per (method, status, grpc-status, error) are found by a short scan; a combination not seen before is
/// registered on the spot, which locks the registry once.
#[derive(Clone, Debug)]
pub struct HttpSeries(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    shard: Shard,
    direction: Direction,
    labels: [Box<str>; 6],
    active: Gauge,
    request_bytes: Counter,
    response_bytes: Counter,
    durations: Slots<(u32, usize), Histogram, 16>,
}

impl Shard {
    /// The HTTP series of a label set. Locks the registry: keep the handle with the destination or the peer.
    pub fn http_series(&self, labels: &HttpLabels<'_>) -> HttpSeries {
        let set = [
            labels.source_workload,
            labels.destination_service,
            labels.destination_workload,
            labels.peer_identity,
            protocol_version(labels.protocol),
            labels.tls.as_str(),
        ];
        let with_direction: Vec<&str> = [labels.direction.as_str()].into_iter().chain(set).collect();
        let active = match labels.direction {
            // To its clients a gateway is the server.
            Direction::Inbound | Direction::Gateway => &families::HTTP_SERVER_ACTIVE_REQUESTS,
            Direction::Outbound => &families::HTTP_CLIENT_ACTIVE_REQUESTS,
        };
        HttpSeries(Arc::new(Inner {
            shard: self.clone(),
            direction: labels.direction,
            labels: set.map(Box::from),
            active: self.gauge(active, &set),
            request_bytes: self.counter(&families::HTTP_REQUEST_BYTES, &with_direction),
            response_bytes: self.counter(&families::HTTP_RESPONSE_BYTES, &with_direction),
            durations: Slots::new(),
        }))
    }
}

impl HttpSeries {
    /// A request has begun. Each call is followed by one [`HttpSeries::end`] or [`HttpSeries::abandon`].
    #[inline]
    pub fn begin(&self) {
        self.0.active.inc();
    }

    /// A request has ended, in whatever way.
    #[inline]
    pub fn end(&self, outcome: &HttpOutcome<'_>) {
        let inner = &*self.0;
        inner.active.dec();
        let (method_index, method) = method_label(outcome.method);
        let grpc = outcome.grpc_status.map_or(0xff, |code| code.min(GRPC_UNKNOWN_CODE));
        let key = (u32::from(method_index) << 24) | (u32::from(grpc) << 16) | u32::from(outcome.status);
        // An error's text is one of the program's constants: where it lies tells it from the others.
        let key = (key, outcome.error.map_or(0, |error| error.as_ptr().addr()));
        let make = || inner.find(method, grpc, outcome);
        match inner.durations.get_or_make(key, make) {
            Some(histogram) => histogram.observe(outcome.duration),
            None => inner.find(method, grpc, outcome).observe(outcome.duration),
        }
    }

    /// A request that began here goes on in another series (its endpoint is known now): it is no longer in progress
    /// here, and nothing else is recorded. Takes the place of [`HttpSeries::end`].
    #[inline]
    pub fn abandon(&self) {
        self.0.active.dec();
    }

    /// Body bytes went by, client to server.
    #[inline]
    pub fn request_bytes(&self, n: u64) {
        self.0.request_bytes.add(n);
    }

    /// Body bytes went by, server to client.
    #[inline]
    pub fn response_bytes(&self, n: u64) {
        self.0.response_bytes.add(n);
    }

    /// Requests in progress in this shard.
    pub fn active(&self) -> i64 {
        self.0.active.get()
    }
}

impl Inner {
    fn find(&self, method: &str, grpc: u8, outcome: &HttpOutcome<'_>) -> Histogram {
        let family = match self.direction {
            Direction::Inbound | Direction::Gateway => &families::HTTP_SERVER_REQUEST_DURATION,
            Direction::Outbound => &families::HTTP_CLIENT_REQUEST_DURATION,
        };
        let status = if outcome.status == 0 { String::new() } else { outcome.status.to_string() };
        let name = if grpc == 0xff { "" } else { grpc_status_name(grpc) };
        // `error.type` of the semantic conventions: what failed, whichever protocol says so.
        let error = match outcome.error {
            Some(error) => error,
            None if outcome.status >= 500 => &status,
            None if grpc_is_failure(grpc) => name,
            None => "",
        };
        let labels: Vec<&str> =
            self.labels.iter().map(|l| &**l).chain([method, status.as_str(), name, error]).collect();
        self.shard.histogram(family, &labels)
    }
}

/// The `network.protocol.version` value of an HTTP version.
pub(crate) fn protocol_version(version: http::Version) -> &'static str {
    match version {
        http::Version::HTTP_09 => "0.9",
        http::Version::HTTP_10 => "1.0",
        http::Version::HTTP_2 => "2",
        http::Version::HTTP_3 => "3",
        _ => "1.1",
    }
}

/// The methods of RFC 9110 and PATCH (RFC 5789), as the semantic conventions list them; a client can invent others, so
/// they share one value.
pub(crate) fn method_label(method: &Method) -> (u8, &'static str) {
    match *method {
        Method::GET => (0, "GET"),
        Method::POST => (1, "POST"),
        Method::PUT => (2, "PUT"),
        Method::DELETE => (3, "DELETE"),
        Method::HEAD => (4, "HEAD"),
        Method::PATCH => (5, "PATCH"),
        Method::OPTIONS => (6, "OPTIONS"),
        Method::CONNECT => (7, "CONNECT"),
        Method::TRACE => (8, "TRACE"),
        _ => (9, "_OTHER"),
    }
}

/// Stands for every code that gRPC does not define.
const GRPC_UNKNOWN_CODE: u8 = 17;

/// Whether a gRPC status says that the server failed, as 5xx does: UNKNOWN, DEADLINE_EXCEEDED, UNIMPLEMENTED, INTERNAL,
/// UNAVAILABLE and DATA_LOSS, the codes by which the semantic conventions call a server's span failed. The others tell the
/// client about its request.
pub fn grpc_is_failure(code: u8) -> bool {
    matches!(code, 2 | 4 | 12 | 13 | 14 | 15)
}

/// The name of a gRPC status code (grpc/doc/statuscodes.md), as `rpc.response.status_code` wants it.
pub(crate) fn grpc_status_name(code: u8) -> &'static str {
    const NAMES: [&str; 17] = [
        "OK",
        "CANCELLED",
        "UNKNOWN",
        "INVALID_ARGUMENT",
        "DEADLINE_EXCEEDED",
        "NOT_FOUND",
        "ALREADY_EXISTS",
        "PERMISSION_DENIED",
        "RESOURCE_EXHAUSTED",
        "FAILED_PRECONDITION",
        "ABORTED",
        "OUT_OF_RANGE",
        "UNIMPLEMENTED",
        "INTERNAL",
        "UNAVAILABLE",
        "DATA_LOSS",
        "UNAUTHENTICATED",
    ];
    NAMES.get(usize::from(code)).copied().unwrap_or("_OTHER")
}
