//! One record per sampled request, made when the request has ended, and the queue it goes into.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use http::{Method, Version};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{Notify, mpsc};

use crate::metrics::{Counter, Shard, families};
use crate::trace::{SpanId, TraceContext};

/// Which end of a hop a span describes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpanKind {
    /// A request that came in for the own application, or to a gateway.
    Server,
    /// A request that went out.
    Client,
}

/// What is known of a gRPC call beyond HTTP. Service and method are read from the path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Grpc {
    /// The `grpc-status` from headers or trailers; `None` where the call ended without one.
    pub status: Option<u8>,
}

/// A finished span. Everything shared by many requests is an `Arc<str>`; the rest is owned, so that the record can leave
/// the worker.
#[derive(Clone, Debug)]
pub struct SpanRecord {
    /// The span's own place: trace id and span id.
    pub context: TraceContext,
    /// The caller's span.
    pub parent: Option<SpanId>,
    /// Whether `parent` is a span of another process; false for a gateway's client span under its own server span.
    pub parent_is_remote: bool,
    /// Server or client.
    pub kind: SpanKind,
    /// Unix time in nanoseconds; see [`unix_nanos`].
    pub start_unix_nanos: u64,
    /// Unix time in nanoseconds of the end of the response body (or of the failure).
    pub end_unix_nanos: u64,
    /// The request's method.
    pub method: Method,
    /// The matched route's template, such as `/users/{id}`: becomes part of the span's name.
    pub route: Option<Arc<str>>,
    /// The path without the query.
    pub path: Box<str>,
    /// `http` or `https`, as the application sees it.
    pub scheme: &'static str,
    /// The name (or address) that the client dialed.
    pub server_address: Option<Arc<str>>,
    /// The port that the client dialed.
    pub server_port: Option<u16>,
    /// The other end of the connection: the endpoint for a client span, the caller for a server span.
    pub network_peer: Option<SocketAddr>,
    /// The HTTP version that the application on this side speaks.
    pub version: Version,
    /// The status of the response; `None` where there was none.
    pub status: Option<u16>,
    /// The `user-agent` header.
    pub user_agent: Option<Box<str>>,
    /// Set for gRPC calls.
    pub grpc: Option<Grpc>,
    /// The `weft-error` code, where Weft ended the request itself.
    pub error: Option<&'static str>,
    /// The caller's SPIFFE id.
    pub source_identity: Option<Arc<str>>,
    /// The callee's SPIFFE id.
    pub destination_identity: Option<Arc<str>>,
    /// How many times the request was sent again.
    pub retries: u32,
    /// Bytes of the request body, where they were counted.
    pub request_bytes: Option<u64>,
    /// Bytes of the response body, where they were counted.
    pub response_bytes: Option<u64>,
}

/// A wall-clock time as spans carry it. Take it at the start of a request, and add the monotonic duration for the end:
/// a stepping clock then never makes a span end before it began.
pub fn unix_nanos(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// Where workers put finished spans. Clones share the queue, each with the drop counter of its own shard.
#[derive(Clone, Debug)]
pub struct SpanSink {
    queue: mpsc::Sender<SpanRecord>,
    wake: Arc<Notify>,
    drops: Drops,
}

/// Why a span could not be handed over.
#[derive(Clone, Debug)]
struct Drops {
    queue_full: Counter,
    shutdown: Counter,
}

impl Drops {
    fn new(shard: &Shard) -> Self {
        let counter = |reason| shard.counter(&families::SPANS_DROPPED, &[reason]);
        Self { queue_full: counter("queue_full"), shutdown: counter("shutdown") }
    }
}

impl SpanSink {
    /// The sink and its receiving end.
    pub(crate) fn new(capacity: usize, shard: &Shard) -> (Self, SpanQueue) {
        let (queue, receiver) = mpsc::channel(capacity.max(1));
        let wake = Arc::new(Notify::new());
        (Self { queue, wake: wake.clone(), drops: Drops::new(shard) }, SpanQueue { receiver, wake })
    }

    /// The same queue, counting its drops in another worker's shard.
    pub fn for_shard(&self, shard: &Shard) -> Self {
        Self { drops: Drops::new(shard), ..self.clone() }
    }

    /// Hands a span over. Never waits: where the queue is full or the exporter gone, the span is dropped and counted.
    pub fn submit(&self, span: SpanRecord) {
        match self.queue.try_send(span) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => return self.drops.queue_full.inc(),
            Err(TrySendError::Closed(_)) => return self.drops.shutdown.inc(),
        }
        // The exporter looks at the queue by the clock, so that a span does not cost a wake-up of its thread; it is
        // woken only to make room.
        if self.queue.capacity() < self.queue.max_capacity() / 2 {
            self.wake.notify_one();
        }
    }
}

/// The exporter's end of the queue.
#[derive(Debug)]
pub(crate) struct SpanQueue {
    pub(crate) receiver: mpsc::Receiver<SpanRecord>,
    pub(crate) wake: Arc<Notify>,
}
