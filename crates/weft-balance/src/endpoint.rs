//! What all workers know together of one endpoint.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use weft_core::EndpointAddr;

use crate::Timestamp;
use crate::ewma::PeakEwma;

/// How long an endpoint is avoided after the first failed connect; each further failure doubles it.
pub const CONNECT_BACKOFF: Duration = Duration::from_millis(100);

/// The longest back-off: how late, at worst, a returned endpoint is noticed while others serve.
pub const CONNECT_BACKOFF_MAX: Duration = Duration::from_secs(10);

/// The least latency that a cost is computed with, so that requests in flight still tell two endpoints apart whose
/// latency has decayed to nothing.
const FLOOR_NANOS: f32 = 1_000.0;

/// Whether pickers should choose an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Availability {
    /// Choose it.
    Available,
    /// Connecting failed lately: choose it only if there is nothing else.
    BackingOff,
}

/// How a request ended, as far as balancing cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The endpoint answered.
    Success,
    /// It failed (reset, 5xx, a gRPC status that blames the server, timeout).
    Failure,
}

/// The state of one endpoint, shared by all workers. Every operation is a few relaxed atomics: each value is a hint on
/// its own, and none guards other memory.
#[derive(Debug)]
pub struct Endpoint {
    addr: EndpointAddr,
    in_flight: AtomicU32,
    latency: PeakEwma,
    /// Failed connects and failed requests since the last success of each.
    connect_failures: AtomicU32,
    failures: AtomicU32,
    /// Nanoseconds of the [`Timestamp`] until which the endpoint is avoided; 0 when it is not.
    avoid_until: AtomicU64,
}

impl Endpoint {
    /// An endpoint that nothing is known of, believed to take `seed` per request ([`crate::SEED_LATENCY`], or the mean
    /// of its peers).
    pub fn new(addr: EndpointAddr, seed: Duration, now: Timestamp) -> Self {
        Self {
            addr,
            in_flight: AtomicU32::new(0),
            latency: PeakEwma::new(seed.as_nanos() as f32, now),
            connect_failures: AtomicU32::new(0),
            failures: AtomicU32::new(0),
            avoid_until: AtomicU64::new(0),
        }
    }

    /// Its address.
    pub fn addr(&self) -> EndpointAddr {
        self.addr
    }

    /// Requests in flight, over all workers.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Relaxed)
    }

    /// The peak-EWMA latency as of `now`.
    pub fn latency(&self, now: Timestamp) -> Duration {
        Duration::from_nanos(self.latency.get(now) as u64)
    }

    /// What one more request here would cost, in an arbitrary unit: latency times the requests it would share with.
    pub fn cost(&self, now: Timestamp) -> f32 {
        self.latency.get(now).max(FLOOR_NANOS) * (self.in_flight() as f32 + 1.0)
    }

    /// Requests that failed since the last that succeeded.
    pub fn consecutive_failures(&self) -> u32 {
        self.failures.load(Relaxed)
    }

    /// Counts a request in. Take it when the endpoint was picked, so that others who pick see it.
    pub fn begin(self: &Arc<Self>, now: Timestamp) -> InFlight {
        self.in_flight.fetch_add(1, Relaxed);
        InFlight { endpoint: Arc::clone(self), started: now, seen: Seen::Nothing }
    }

    /// Whether to choose it at `now`. A back-off that has run out makes it available again; only the next connect tells.
    pub fn availability(&self, now: Timestamp) -> Availability {
        if now.as_nanos() < self.avoid_until.load(Relaxed) {
            Availability::BackingOff
        } else {
            Availability::Available
        }
    }

    /// A connect failed: avoid the endpoint for a while, for twice as long each time. Failures that come while it is
    /// avoided (other workers that had already started) are the same outage and do not prolong it.
    pub fn failed_connect(&self, now: Timestamp) {
        let until = self.avoid_until.load(Relaxed);
        if now.as_nanos() < until {
            return;
        }
        let shift = self.connect_failures.load(Relaxed).min(16);
        let wait = CONNECT_BACKOFF.saturating_mul(1 << shift).min(CONNECT_BACKOFF_MAX);
        // The one worker whose exchange succeeds counts the failure.
        if self.avoid_until.compare_exchange(until, now.plus(wait).as_nanos(), Relaxed, Relaxed).is_ok() {
            self.connect_failures.fetch_add(1, Relaxed);
        }
    }

    /// A connect succeeded: the back-off ends and starts small next time.
    pub fn connected(&self) {
        // Read first: the line stays shared while nothing is wrong.
        if self.connect_failures.load(Relaxed) != 0 {
            self.connect_failures.store(0, Relaxed);
            self.avoid_until.store(0, Relaxed);
        }
    }

    /// A request has ended.
    fn ended(&self, outcome: Outcome) {
        match outcome {
            // Read first: the line stays shared while nothing is wrong.
            Outcome::Success if self.failures.load(Relaxed) == 0 => {}
            Outcome::Success => self.failures.store(0, Relaxed),
            Outcome::Failure => {
                self.failures.fetch_add(1, Relaxed);
            }
        }
    }
}

/// One request in flight. Dropping it takes the request out of the count; without [`ended`](Self::ended) before, it was
/// cancelled and says nothing of whether the endpoint works.
#[derive(Debug)]
#[must_use = "dropping it ends the request"]
pub struct InFlight {
    endpoint: Arc<Endpoint>,
    started: Timestamp,
    seen: Seen,
}

/// What is known of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    Nothing,
    /// Its latency counts already.
    Answered,
    /// How it went is told.
    Ended,
}

impl InFlight {
    /// The endpoint that has the request.
    pub fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }

    /// The request is sent now: what came before (making a connection) says nothing about how fast the endpoint
    /// answers, and would make one that was just added look slow for as long as the average remembers.
    pub fn sent(&mut self, now: Timestamp) {
        self.started = now;
    }

    /// The answer has begun well: that tells the latency, for its body may take as long as the client likes. How it ends
    /// is still to come.
    pub fn answered(&mut self, now: Timestamp) {
        if self.seen == Seen::Nothing {
            self.seen = Seen::Answered;
            self.endpoint.latency.record(now.nanos_since(self.started), now);
        }
    }

    /// There is no answer, or one that says that the endpoint failed. Its latency counts only if it is a new peak: failing
    /// fast must not make an endpoint look good.
    pub fn failed(&mut self, now: Timestamp) {
        let took = now.nanos_since(self.started);
        if self.seen == Seen::Nothing && took as f32 > self.endpoint.latency.get(now) {
            self.endpoint.latency.record(took, now);
        }
        self.ended(Outcome::Failure);
    }

    /// How an answer that had begun has ended. The request stays in flight; only the first end counts.
    pub fn ended(&mut self, outcome: Outcome) {
        if self.seen != Seen::Ended {
            self.seen = Seen::Ended;
            self.endpoint.ended(outcome);
        }
    }

    /// Records how it went (unless that was told before) and ends the request.
    pub fn finish(mut self, now: Timestamp, outcome: Outcome) {
        match outcome {
            Outcome::Success => {
                self.answered(now);
                self.ended(outcome);
            }
            Outcome::Failure => self.failed(now),
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.endpoint.in_flight.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::SEED_LATENCY;

    fn ms(ms: u64) -> Timestamp {
        Timestamp::from_nanos(ms * 1_000_000)
    }

    fn endpoint() -> Arc<Endpoint> {
        let addr = EndpointAddr::new("10.0.0.1:80".parse().unwrap());
        Arc::new(Endpoint::new(addr, SEED_LATENCY, ms(0)))
    }

    #[test]
    fn a_new_endpoint_does_not_look_free() {
        assert_eq!(endpoint().latency(ms(0)), SEED_LATENCY);
    }

    #[test]
    fn making_a_connection_does_not_count() {
        let ep = endpoint();
        let mut guard = ep.begin(ms(0));
        guard.sent(ms(500));
        guard.finish(ms(501), Outcome::Success);
        assert!(ep.latency(ms(501)) <= SEED_LATENCY);
    }

    #[test]
    fn cancelled_requests_leave_no_trace() {
        let ep = endpoint();
        let before = ep.cost(ms(0));
        let guard = ep.begin(ms(0));
        assert!(ep.cost(ms(0)) > before);
        drop(guard);
        assert_eq!(ep.cost(ms(0)), before);
        assert_eq!(ep.consecutive_failures(), 0);
    }

    #[test]
    fn a_failure_never_improves_the_latency_but_a_slow_one_worsens_it() {
        let ep = endpoint();
        ep.begin(ms(5)).finish(ms(6), Outcome::Failure);
        assert!(ep.latency(ms(6)) > Duration::from_millis(9));
        ep.begin(ms(5)).finish(ms(505), Outcome::Failure);
        assert_eq!(ep.latency(ms(505)).as_millis(), 500);
        assert_eq!(ep.consecutive_failures(), 2);
        ep.begin(ms(505)).finish(ms(506), Outcome::Success);
        assert_eq!(ep.consecutive_failures(), 0);
    }

    #[test]
    fn a_request_that_was_told_of_stays_in_flight_and_is_counted_once() {
        let ep = endpoint();
        let mut guard = ep.begin(ms(0));
        guard.answered(ms(100));
        guard.ended(Outcome::Success);
        assert_eq!(ep.in_flight(), 1);
        guard.finish(ms(60_000), Outcome::Failure);
        assert_eq!(ep.in_flight(), 0);
        assert_eq!(ep.latency(ms(100)).as_millis(), 100);
        assert_eq!(ep.consecutive_failures(), 0);
    }

    #[test]
    fn an_answer_that_began_well_may_end_badly() {
        let ep = endpoint();
        let mut guard = ep.begin(ms(0));
        guard.answered(ms(100));
        assert_eq!(ep.latency(ms(100)).as_millis(), 100, "the head tells the latency");
        guard.finish(ms(60_000), Outcome::Failure);
        assert!(ep.latency(ms(60_000)).as_millis() <= 100, "its body took as long as the client liked");
        assert_eq!(ep.consecutive_failures(), 1);
        let mut cancelled = ep.begin(ms(60_000));
        cancelled.answered(ms(60_001));
        drop(cancelled);
        assert_eq!(ep.consecutive_failures(), 1, "a client that goes says nothing of the endpoint");
    }

    #[test]
    fn back_off_doubles_per_outage_not_per_worker_and_ends_with_a_success() {
        let ep = endpoint();
        ep.failed_connect(ms(0));
        ep.failed_connect(ms(1));
        ep.failed_connect(ms(2));
        assert_eq!(ep.availability(ms(99)), Availability::BackingOff);
        assert_eq!(ep.availability(ms(100)), Availability::Available);
        ep.failed_connect(ms(100));
        assert_eq!(ep.availability(ms(299)), Availability::BackingOff);
        assert_eq!(ep.availability(ms(300)), Availability::Available);
        ep.failed_connect(ms(300));
        ep.connected();
        assert_eq!(ep.availability(ms(301)), Availability::Available);
        ep.failed_connect(ms(400));
        assert_eq!(ep.availability(ms(500)), Availability::Available);
    }

    #[test]
    fn back_off_is_bounded() {
        let ep = endpoint();
        let mut now = 0;
        for _ in 0..100 {
            ep.failed_connect(ms(now));
            let max = CONNECT_BACKOFF_MAX.as_millis() as u64;
            assert_eq!(ep.availability(ms(now + max)), Availability::Available);
            now += max;
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Begin,
        Finish(usize, bool),
        End(usize),
        Drop(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => Just(Step::Begin),
            1 => (any::<usize>(), any::<bool>()).prop_map(|(i, ok)| Step::Finish(i, ok)),
            1 => any::<usize>().prop_map(Step::End),
            1 => any::<usize>().prop_map(Step::Drop),
        ]
    }

    proptest! {
        #[test]
        fn in_flight_is_the_number_of_guards(steps in prop::collection::vec(step(), 0..200)) {
            let ep = endpoint();
            let mut guards: Vec<InFlight> = Vec::new();
            for (now, step) in steps.into_iter().enumerate() {
                let now = ms(now as u64);
                let at = |i: usize, guards: &[InFlight]| (!guards.is_empty()).then(|| i % guards.len());
                match step {
                    Step::Begin => guards.push(ep.begin(now)),
                    Step::Finish(i, ok) => if let Some(i) = at(i, &guards) {
                        let outcome = if ok { Outcome::Success } else { Outcome::Failure };
                        guards.swap_remove(i).finish(now, outcome);
                    },
                    Step::End(i) => if let Some(i) = at(i, &guards) {
                        guards[i].failed(now);
                    },
                    Step::Drop(i) => if let Some(i) = at(i, &guards) {
                        drop(guards.swap_remove(i));
                    },
                }
                prop_assert_eq!(ep.in_flight() as usize, guards.len());
            }
            guards.clear();
            prop_assert_eq!(ep.in_flight(), 0);
        }
    }

    #[test]
    fn in_flight_returns_to_zero_with_many_threads() {
        let ep = endpoint();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for i in 0..5_000u64 {
                        let guard = ep.begin(ms(i));
                        if i % 3 == 0 {
                            guard.finish(ms(i + 1), Outcome::Success);
                        }
                    }
                });
            }
        });
        assert_eq!(ep.in_flight(), 0);
    }
}
