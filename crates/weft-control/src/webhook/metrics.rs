//! What the webhook counts.

use std::time::Duration;

use weft_telemetry::metrics::families;
use weft_telemetry::{Counter, Histogram, Registry};

use super::review::Verdict;
use super::seats::Ending;

/// Handles, found once.
pub(crate) struct Metrics {
    injected: Counter,
    skipped: Counter,
    refused: Counter,
    invalid: Counter,
    too_large: Counter,
    busy: Counter,
    forbidden: Counter,
    silent: Counter,
    room: Counter,
    full: Counter,
    pace: Counter,
    duration: Histogram,
}

impl Metrics {
    pub(crate) fn new(registry: &Registry) -> Self {
        let shard = registry.shared();
        let outcome = |label| shard.counter(&families::INJECTIONS, &[label]);
        let ended = |label| shard.counter(&families::INJECTOR_CONNECTIONS_ENDED, &[label]);
        Self {
            injected: outcome("injected"),
            skipped: outcome("skipped"),
            refused: outcome("refused"),
            invalid: outcome("invalid"),
            too_large: outcome("too_large"),
            busy: outcome("busy"),
            forbidden: outcome("forbidden"),
            silent: ended("silent"),
            room: ended("room"),
            full: ended("full"),
            pace: ended("pace"),
            duration: shard.histogram(&families::INJECTION_DURATION, &[]),
        }
    }

    pub(crate) fn record(&self, verdict: Verdict, took: Duration) {
        match verdict {
            Verdict::Injected => self.injected.inc(),
            Verdict::Skipped => self.skipped.inc(),
            Verdict::Refused => self.refused.inc(),
            Verdict::Invalid => self.invalid.inc(),
            Verdict::TooLarge => self.too_large.inc(),
            Verdict::Busy => self.busy.inc(),
        }
        self.duration.observe(took);
    }

    /// A caller whose certificate is not one of those expected.
    pub(crate) fn forbidden(&self) {
        self.forbidden.inc();
    }

    /// A connection that was ended here.
    pub(super) fn ended(&self, ending: Ending) {
        match ending {
            Ending::Silent => self.silent.inc(),
            Ending::Room { .. } => self.room.inc(),
            // As every connection that its peer has no more use for.
            Ending::Unused => {}
        }
    }

    /// A connection of an address that opens too many.
    pub(crate) fn too_fast(&self) {
        self.pace.inc();
    }

    /// A connection that found no seat.
    pub(crate) fn full(&self) {
        self.full.inc();
    }
}
