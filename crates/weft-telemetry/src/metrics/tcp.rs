//! The series of connections that are relayed as bytes.

use std::sync::Arc;
use std::time::Duration;

use super::{Counter, Direction, Gauge, Histogram, Shard, TlsLabel, families};

/// What is known of a connection when it is opened.
#[derive(Clone, Copy, Debug)]
pub struct TcpLabels<'a> {
    /// Towards the own application or away from it.
    pub direction: Direction,
    /// `namespace/workload` of the caller as far as known, or empty.
    pub source_workload: &'a str,
    /// The service that was dialed, `name:port`, or the address where no name is known.
    pub destination_service: &'a str,
    /// The verified SPIFFE id of the other end, or empty.
    pub peer_identity: &'a str,
    /// How the network side is secured.
    pub tls: TlsLabel,
}

/// The handles for one label set. Clones share it.
#[derive(Clone, Debug)]
pub struct TcpSeries(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    opened: Counter,
    closed: Counter,
    active: Gauge,
    sent: Counter,
    received: Counter,
    duration: Histogram,
}

impl Shard {
    /// The TCP series of a label set. Locks the registry: keep the handle with the destination or the peer.
    pub fn tcp_series(&self, labels: &TcpLabels<'_>) -> TcpSeries {
        let set = [
            labels.direction.as_str(),
            labels.source_workload,
            labels.destination_service,
            labels.peer_identity,
            labels.tls.as_str(),
        ];
        TcpSeries(Arc::new(Inner {
            opened: self.counter(&families::TCP_OPENED, &set),
            closed: self.counter(&families::TCP_CLOSED, &set),
            active: self.gauge(&families::TCP_ACTIVE, &set),
            sent: self.counter(&families::TCP_SENT, &set),
            received: self.counter(&families::TCP_RECEIVED, &set),
            duration: self.histogram(&families::TCP_DURATION, &set),
        }))
    }
}

impl TcpSeries {
    /// A connection was opened. Each call is followed by one [`TcpSeries::close`].
    pub fn open(&self) {
        self.0.opened.inc();
        self.0.active.inc();
    }

    /// A connection was closed after `duration`.
    pub fn close(&self, duration: Duration) {
        self.0.active.dec();
        self.0.closed.inc();
        self.0.duration.observe(duration);
    }

    /// Bytes went by, client to server.
    #[inline]
    pub fn sent(&self, n: u64) {
        self.0.sent.add(n);
    }

    /// Bytes went by, server to client.
    #[inline]
    pub fn received(&self, n: u64) {
        self.0.received.add(n);
    }
}
