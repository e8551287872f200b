//! What the webhook counts.

use std::time::Duration;

use weft_telemetry::metrics::families;
use weft_telemetry::{Counter, Histogram, Registry};

use super::review::Verdict;

/// Handles, found once.
pub(crate) struct Metrics {
    injected: Counter,
    skipped: Counter,
    refused: Counter,
    invalid: Counter,
    duration: Histogram,
}

impl Metrics {
    pub(crate) fn new(registry: &Registry) -> Self {
        let shard = registry.shared();
        let outcome = |label| shard.counter(&families::INJECTIONS, &[label]);
        Self {
            injected: outcome("injected"),
            skipped: outcome("skipped"),
            refused: outcome("refused"),
            invalid: outcome("invalid"),
            duration: shard.histogram(&families::INJECTION_DURATION, &[]),
        }
    }

    pub(crate) fn record(&self, verdict: Verdict, took: Duration) {
        match verdict {
            Verdict::Injected => self.injected.inc(),
            Verdict::Skipped => self.skipped.inc(),
            Verdict::Refused => self.refused.inc(),
            Verdict::Invalid => self.invalid.inc(),
        }
        self.duration.observe(took);
    }
}
