//! What the CA counts.

use std::time::SystemTime;

use weft_telemetry::metrics::families;
use weft_telemetry::{Counter, Gauge, Registry};

use crate::limits::Limit;
use crate::{Authority, expiry};

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
    /// Open connections.
    pub(crate) connections: Gauge,
    /// In the order of [`Limit::ALL`].
    limited: Vec<Counter>,
}

impl Metrics {
    pub(crate) fn new(registry: &Registry, authority: &Authority) -> Self {
        let authority = authority.clone();
        registry.register_collector(Box::new(move |encoder| {
            let unix =
                |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
            encoder.family(&families::CA_ROOT_NOT_AFTER).value(&[], unix(authority.not_after()));
            if let Some(first) = authority.bundle().subjects().map(|(_, end)| end).min() {
                encoder.family(&families::CA_BUNDLE_NOT_AFTER).value(&[], unix(first));
            }
            let ending = expiry::ending(&authority, SystemTime::now());
            let soon = |certificate| u64::from(ending.iter().any(|one| one.certificate == certificate));
            encoder
                .family(&families::CA_EXPIRES_SOON)
                .value(&[expiry::ISSUER], soon(expiry::ISSUER))
                .value(&[expiry::ROOT], soon(expiry::ROOT));
        }));
        let shard = registry.shared();
        let signatures = |outcome| shard.counter(&families::CA_SIGNATURES, &[outcome]);
        Self {
            signed: signatures("signed"),
            refused: signatures("refused"),
            unavailable: signatures("unavailable"),
            failed: signatures("failed"),
            streams: shard.gauge(&families::CA_BUNDLE_STREAMS, &[]),
            connections: shard.gauge(&families::CA_CONNECTIONS, &[]),
            limited: Limit::ALL
                .iter()
                .map(|limit| shard.counter(&families::CA_LIMITED, &[limit.as_str()]))
                .collect(),
        }
    }

    /// A caller was turned down, or a connection ended, for this reason.
    pub(crate) fn limited(&self, limit: Limit) {
        let index = Limit::ALL.iter().position(|one| *one == limit);
        if let Some(counter) = index.and_then(|index| self.limited.get(index)) {
            counter.inc();
        }
    }
}
