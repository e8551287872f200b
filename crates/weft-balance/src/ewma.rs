//! Peak-EWMA latency, after Finagle: a moving average that jumps up to each peak at once and comes down slowly.
//!
//! A plain average needs many bad answers before it moves, and a balancer that sees them late has already sent more. So
//! a sample above the average *becomes* the average, and samples below pull it down with a time constant. While nothing
//! is measured the value decays towards zero, so that an endpoint which once was slow is tried again.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::Timestamp;

/// The time constant: after so long without samples a value is down to 1/e. Finagle and Linkerd use the same ten
/// seconds: long against one slow answer, short against a rollout.
pub const DECAY: Duration = Duration::from_secs(10);

/// The latency that an endpoint is believed to have before the first answer, where it has no peers to take the mean of.
/// Zero would make every new endpoint win every comparison and be flooded by all workers at once; ten milliseconds is
/// above what a healthy neighbour in a cluster takes and below what makes an endpoint starve (it decays within seconds).
pub const SEED_LATENCY: Duration = Duration::from_millis(10);

/// A stamp counts units of 2^20 ns, about a millisecond; 32 bits of it wrap after 52 days.
const STAMP_SHIFT: u32 = 20;

/// Latency and the time of its last change in one word, so that the pair is always consistent without a lock: the upper
/// half is the latency in nanoseconds as `f32` bits (a relative error of 6e-8, where whole microseconds would stop to
/// decay), the lower half the stamp.
#[derive(Debug)]
pub(crate) struct PeakEwma(AtomicU64);

fn pack(nanos: f32, stamp: u32) -> u64 {
    (u64::from(nanos.to_bits()) << 32) | u64::from(stamp)
}

fn unpack(word: u64) -> (f32, u32) {
    (f32::from_bits((word >> 32) as u32), word as u32)
}

fn stamp(now: Timestamp) -> u32 {
    (now.as_nanos() >> STAMP_SHIFT) as u32
}

/// Units from `earlier` to `now`; a difference of more than half the range is a clock of another worker that is behind.
fn units_since(now: u32, earlier: u32) -> u32 {
    let units = now.wrapping_sub(earlier);
    if units > u32::MAX / 2 { 0 } else { units }
}

fn decay(units: u32) -> f32 {
    const TAU_UNITS: f32 = DECAY.as_nanos() as f32 / (1u64 << STAMP_SHIFT) as f32;
    if units == 0 { 1.0 } else { (-(units as f32) / TAU_UNITS).exp() }
}

impl PeakEwma {
    pub(crate) fn new(seed_nanos: f32, now: Timestamp) -> Self {
        Self(AtomicU64::new(pack(seed_nanos, stamp(now))))
    }

    /// Takes a sample in. Samples within one stamp unit of the last one count only as peaks: the average they would
    /// move is weighted by time, and no time has passed.
    pub(crate) fn record(&self, sample_nanos: u64, now: Timestamp) {
        let sample = sample_nanos as f32;
        let at = stamp(now);
        let mut word = self.0.load(Relaxed);
        loop {
            let (value, last) = unpack(word);
            let units = units_since(at, last);
            let next = if sample >= value {
                pack(sample, if units == 0 { last } else { at })
            } else if units == 0 {
                return;
            } else {
                let weight = decay(units);
                pack(sample + (value - sample) * weight, at)
            };
            match self.0.compare_exchange_weak(word, next, Relaxed, Relaxed) {
                Ok(_) => return,
                Err(seen) => word = seen,
            }
        }
    }

    /// The latency as of `now`, in nanoseconds.
    pub(crate) fn get(&self, now: Timestamp) -> f32 {
        let (value, last) = unpack(self.0.load(Relaxed));
        value * decay(units_since(stamp(now), last))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(ms: u64) -> Timestamp {
        Timestamp::from_nanos(ms << STAMP_SHIFT)
    }

    #[test]
    fn a_peak_counts_at_once_and_fades_with_the_time_constant() {
        let ewma = PeakEwma::new(1e6, at(0));
        ewma.record(50_000_000, at(1));
        assert_eq!(ewma.get(at(1)), 5e7);
        let units = (DECAY.as_nanos() >> STAMP_SHIFT) as u64;
        let after = ewma.get(at(1 + units));
        assert!((after / 5e7 - (-1f32).exp()).abs() < 1e-3, "{after}");
    }

    #[test]
    fn a_clock_that_is_behind_changes_nothing_but_peaks() {
        let ewma = PeakEwma::new(1e6, at(1000));
        ewma.record(10, at(990));
        assert_eq!(ewma.get(at(990)), 1e6);
        ewma.record(2_000_000, at(990));
        assert_eq!(ewma.get(at(1000)), 2e6);
    }

    #[test]
    fn frequent_small_samples_do_bring_it_down() {
        // With whole microseconds the step of one millisecond would round to nothing.
        let ewma = PeakEwma::new(1e6, at(0));
        for ms in 1..60_000 {
            ewma.record(100_000, at(ms));
        }
        assert!((ewma.get(at(60_000)) / 1e5 - 1.0).abs() < 0.05);
    }

    #[test]
    fn stamps_wrap() {
        let end = u64::from(u32::MAX);
        let ewma = PeakEwma::new(1e6, at(end));
        ewma.record(500_000, at(end + 2));
        let got = ewma.get(at(end + 2));
        assert!(got < 1e6 && got > 9.9e5, "{got}");
    }

    proptest! {
        /// Against the definition in `f64` with times and values apart.
        #[test]
        fn follows_the_naive_model(
            seed in 1u64..10_000_000_000,
            steps in prop::collection::vec((0u64..20_000, 0u64..10_000_000_000), 1..200),
        ) {
            let tau = DECAY.as_nanos() as f64 / f64::from(1u32 << STAMP_SHIFT);
            let ewma = PeakEwma::new(seed as f32, at(0));
            let (mut value, mut last, mut now) = (seed as f64, 0u64, 0u64);
            for (gap, sample) in steps {
                now += gap;
                ewma.record(sample, at(now));
                let s = sample as f64;
                if s >= value {
                    value = s;
                    last = now;
                } else if now > last {
                    value = s + (value - s) * (-((now - last) as f64) / tau).exp();
                    last = now;
                }
                let got = f64::from(ewma.get(at(now)));
                prop_assert!((got - value).abs() <= 1e-4 * value.max(1.0), "{got} != {value}");
            }
        }
    }
}
