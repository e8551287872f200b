//! What the CA counts.

use std::time::SystemTime;

use weft_telemetry::metrics::families;
use weft_telemetry::{Counter, Gauge, Registry};

use crate::Authority;

/// Handles of the CA's series; any thread may write them.
pub(crate) struct Metrics {
    /// Keys signed.
    pub(crate) signed: Counter,
    /// Credentials or requests refused.
    pub(crate) refused: Counter,
    /// Credentials that nobody could check.
    pub(crate) unavailable: Counter,
    /// The CA itself could not sign.
    pub(crate) failed: Counter,
    /// Open bundle streams.
    pub(crate) streams: Gauge,
}

impl Metrics {
    pub(crate) fn new(registry: &Registry, authority: &Authority) -> Self {
        let authority = authority.clone();
        registry.register_collector(Box::new(move |encoder| {
            let end = authority.not_after().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            encoder.family(&families::CA_ROOT_NOT_AFTER).value(&[], end.as_secs());
        }));
        let shard = registry.shared();
        let signatures = |outcome| shard.counter(&families::CA_SIGNATURES, &[outcome]);
        Self {
            signed: signatures("signed"),
            refused: signatures("refused"),
            unavailable: signatures("unavailable"),
            failed: signatures("failed"),
            streams: shard.gauge(&families::CA_BUNDLE_STREAMS, &[]),
        }
    }
}
