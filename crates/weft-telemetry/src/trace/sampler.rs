//! Which traces are recorded, where the caller has not decided.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::TraceId;
use crate::TelemetryError;

/// Samples a share of traces by their id, so that every proxy with the same ratio decides alike
/// (OpenTelemetry `TraceIdRatioBased`: the low 63 bits are compared with `ratio * 2^63`). The ratio may be changed while
/// running.
#[derive(Debug)]
pub struct Sampler(AtomicU64);

impl Sampler {
    /// `ratio` from 0 (none) to 1 (all).
    ///
    /// # Errors
    /// When it is anything else.
    pub fn new(ratio: f64) -> Result<Self, TelemetryError> {
        Ok(Self(AtomicU64::new(threshold(ratio)?)))
    }

    /// Changes the ratio for requests from now on.
    ///
    /// # Errors
    /// When it is not from 0 to 1; the old ratio stays.
    pub fn set_ratio(&self, ratio: f64) -> Result<(), TelemetryError> {
        self.0.store(threshold(ratio)?, Relaxed);
        Ok(())
    }

    /// Whether a trace without a decision of its caller's is recorded.
    #[inline]
    pub fn samples(&self, trace_id: TraceId) -> bool {
        let [.., a, b, c, d, e, f, g, h] = trace_id.bytes();
        (u64::from_be_bytes([a, b, c, d, e, f, g, h]) >> 1) < self.0.load(Relaxed)
    }
}

fn threshold(ratio: f64) -> Result<u64, TelemetryError> {
    if !(0.0..=1.0).contains(&ratio) {
        return Err(TelemetryError::Sampling(ratio));
    }
    // 2^63 itself for 1.0: every 63-bit value is below it.
    Ok((ratio * (1u64 << 63) as f64) as u64)
}
