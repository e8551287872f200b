//! Counters and the view for the admin page.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use weft_core::{EndpointList, ServiceKey};

/// A number that many threads add to.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Its value.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }

    pub(crate) fn inc(&self) {
        self.0.fetch_add(1, Relaxed);
    }

    pub(crate) fn dec(&self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// What the DNS server, the resolver and the endpoint sets did. Everything counts up, apart from the gauges at the end.
#[derive(Debug, Default)]
pub struct DiscoveryStats {
    /// Queries of the application over UDP.
    pub queries_udp: Counter,
    /// Queries of the application over TCP.
    pub queries_tcp: Counter,
    /// Queries answered with an address or another record.
    pub answered: Counter,
    /// Queries answered with NXDOMAIN or without a record.
    pub negative: Counter,
    /// Queries answered with a failure of the upstream servers, or because of one.
    pub failed: Counter,
    /// Queries answered SERVFAIL because too many were waiting.
    pub overloaded: Counter,
    /// Packets that are not a DNS query, dropped.
    pub malformed: Counter,
    /// Queries refused with FORMERR, NOTIMP, REFUSED or BADVERS.
    pub rejected: Counter,
    /// Answers that did not fit the client's UDP size and were cut (TC).
    pub truncated: Counter,
    /// Look-ups answered from the cache, within TTL.
    pub cache_hits: Counter,
    /// Look-ups that needed an upstream server.
    pub cache_misses: Counter,
    /// Look-ups answered from the cache after TTL, because the upstream servers did not (RFC 8767).
    pub cache_stale: Counter,
    /// Look-ups that joined an identical one under way.
    pub coalesced: Counter,
    /// Queries sent to upstream servers.
    pub upstream_queries: Counter,
    /// Of these, over TCP.
    pub upstream_tcp: Counter,
    /// Upstream queries without an answer in time.
    pub upstream_timeouts: Counter,
    /// Upstream queries that failed otherwise (refused, reset, unreachable).
    pub upstream_errors: Counter,
    /// Upstream packets that did not belong to the query or were no DNS answer: late ones, or someone guessing.
    pub upstream_mismatched: Counter,
    /// TCP connections closed because there were too many.
    pub tcp_refused: Counter,
    /// Endpoint refreshes that found endpoints.
    pub refreshes_ok: Counter,
    /// Endpoint refreshes after which the last good endpoints were kept.
    pub refreshes_failed: Counter,
    /// Services not followed because there were too many.
    pub services_refused: Counter,
    /// Gauge: services followed.
    pub services: Counter,
    /// Gauge: TCP connections of the application.
    pub tcp_connections: Counter,
}

/// One followed service, for the admin page.
#[derive(Clone, Debug)]
pub struct ServiceStatus {
    /// The service.
    pub key: ServiceKey,
    /// Its endpoints; `None` until the first resolution ended.
    pub list: Option<Arc<EndpointList>>,
    /// Watches held by others.
    pub watchers: usize,
    /// How long ago a refresh last succeeded.
    pub age: Option<Duration>,
    /// Why the last refresh failed, if it did.
    pub error: Option<&'static str>,
}
