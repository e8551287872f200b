//! Metrics: worker-sharded series, found once, written without coordination, summed when scraped.
//!
//! General metric libraries look a series up by its labels for each event, or share one cell between all threads. Both
//! show in a proxy's profile. Here a [`Registry`] hands each worker a [`Shard`]; the worker asks its shard for a handle
//! when it first meets a destination or a peer (that may lock), keeps the handle beside its own state, and from then on
//! an event is one plain store into memory that no other thread writes. A scrape reads all shards and adds up series with
//! equal labels.
//!
//! The catalogue of families is [`families`]; `docs/reference/metrics.md` says the same in prose, and a test holds the
//! two together.

mod encode;
pub mod families;
mod http;
mod points;
mod process;
mod registry;
mod slots;
mod tcp;
mod value;

pub use encode::{Encoder, FamilyEncoder};
pub use http::{HttpLabels, HttpOutcome, HttpSeries, grpc_is_failure};
pub(crate) use http::{grpc_status_name, method_label, protocol_version};
pub use points::Number;
pub(crate) use points::{FamilyPoints, Point, PointLabels, PointValue};
pub use process::{BuildInfo, register_process};
pub use registry::{DEFAULT_SERIES_CAP, Registry, Shard};
pub use slots::CodeCounters;
pub use tcp::{TcpLabels, TcpSeries};
pub use value::{Buckets, Counter, Gauge, Histogram};

/// Which side of a hop a series is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// Towards this workload's own application.
    Inbound,
    /// From this workload's own application to others.
    Outbound,
    /// From clients of a gateway's listeners to backends.
    Gateway,
}

impl Direction {
    /// The label value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
            Self::Gateway => "gateway",
        }
    }
}

/// How the hop on the network side was secured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TlsLabel {
    /// A mesh link: both sides authenticated.
    Mutual,
    /// The application's own TLS, or TLS with only the server authenticated.
    Tls,
    /// Plaintext.
    None,
}

impl TlsLabel {
    /// The label value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Mutual => "mutual",
            Self::Tls => "tls",
            Self::None => "none",
        }
    }
}

/// What a family counts.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down; shards are summed.
    Gauge,
    /// A distribution over fixed buckets.
    Histogram(&'static Buckets),
}

/// A metric family: everything about it but its series.
#[derive(Debug)]
pub struct Family {
    /// Full Prometheus name, with unit and `_total` suffix.
    pub name: &'static str,
    /// One sentence for `# HELP`.
    pub help: &'static str,
    /// What it counts.
    pub kind: Kind,
    /// Label names, in the order in which values are given.
    pub labels: &'static [&'static str],
}

#[cfg(test)]
mod tests;
