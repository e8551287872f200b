//! How much may be tried again: endpoints by one request, requests by all.

use std::cell::Cell;
use std::time::Duration;

use weft_balance::Timestamp;
use weft_config::RetryBudget;
use weft_http::ErrorCode;

use crate::dial::DialError;

/// Refused connects that do not count as attempts: four dead pods with two addresses each.
const FREE_REFUSALS: u32 = 8;

/// How many endpoints one request or connection may still try.
///
/// A refusal is told at once and costs next to nothing, so the first few do not count: two crashed pods that DNS still
/// names have four addresses, and a request must not end before it has come to a living one.
pub(crate) struct Attempts {
    left: u32,
    refusals: u32,
}

impl Attempts {
    pub(crate) fn new(most: u32) -> Self {
        let left = most.max(1);
        Self { left, refusals: if left > 1 { FREE_REFUSALS } else { 0 } }
    }

    /// Whether another endpoint may be tried after one has failed.
    pub(crate) fn another(&mut self, error: &DialError) -> bool {
        if error.code == ErrorCode::ConnectRefused && self.refusals > 0 {
            self.refusals -= 1;
            return true;
        }
        self.left -= 1;
        self.left > 0
    }
}

/// How many requests of a cluster may be sent again although they may have been seen, so that a service in trouble does not
/// get its load twice.
///
/// Requests and retries of the last [`WINDOW`] are estimated by two counts each: those of the window that runs, and those of
/// the one before by the part of it that still counts.
#[derive(Debug)]
pub(crate) struct Budget {
    config: RetryBudget,
    counts: Cell<Counts>,
}

/// Over how long retries and requests are compared: the default of Linkerd's budgets and of the Gateway API's.
const WINDOW: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    began: Timestamp,
    now: Pair,
    before: Pair,
}

#[derive(Clone, Copy, Debug, Default)]
struct Pair {
    requests: u32,
    retries: u32,
}

impl Budget {
    pub(crate) fn new(config: RetryBudget) -> Self {
        Self { config, counts: Cell::default() }
    }

    /// A request is sent for the first time.
    pub(crate) fn deposit(&self, now: Timestamp) {
        let mut counts = self.counts.get().at(now);
        counts.now.requests = counts.now.requests.saturating_add(1);
        self.counts.set(counts);
    }

    /// Takes one retry out, if there is one.
    pub(crate) fn withdraw(&self, now: Timestamp) -> bool {
        let mut counts = self.counts.get().at(now);
        let gone = now.nanos_since(counts.began) as f64 / WINDOW.as_nanos() as f64;
        let sum = |of: fn(&Pair) -> u32| {
            f64::from(of(&counts.before)) * (1.0 - gone).max(0.0) + f64::from(of(&counts.now))
        };
        let share = sum(|pair| pair.requests) * f64::from(self.config.percent) / 100.0;
        let always = f64::from(self.config.min_per_second) * WINDOW.as_secs_f64();
        let allowed = sum(|pair| pair.retries) + 1.0 <= share + always;
        counts.now.retries = counts.now.retries.saturating_add(u32::from(allowed));
        self.counts.set(counts);
        allowed
    }
}

impl Counts {
    /// The counts of the window that runs at `now`.
    fn at(self, now: Timestamp) -> Self {
        let width = WINDOW.as_nanos() as u64;
        match now.nanos_since(self.began) / width {
            0 => self,
            1 => Self { began: self.began.plus(WINDOW), before: self.now, now: Pair::default() },
            _ => Self { began: now, ..Self::default() },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Timestamp {
        Timestamp::from_nanos(ms * 1_000_000)
    }

    /// How many retries there are in a row.
    fn spend(budget: &Budget, now: Timestamp) -> u32 {
        (0..100_000).take_while(|_| budget.withdraw(now)).count() as u32
    }

    #[test]
    fn a_fifth_of_the_requests_may_be_sent_again() {
        let budget = Budget::new(RetryBudget { percent: 20, min_per_second: 0 });
        assert_eq!(spend(&budget, at(0)), 0);
        for _ in 0..1_000 {
            budget.deposit(at(1));
        }
        assert_eq!(spend(&budget, at(2)), 200);
        assert_eq!(spend(&budget, at(9_999)), 0, "spent is spent for as long as it counts");
        assert_eq!(spend(&budget, at(60_000)), 0, "and what is long ago earns nothing");
    }

    #[test]
    fn some_are_always_there() {
        let budget = Budget::new(RetryBudget { percent: 20, min_per_second: 10 });
        assert_eq!(spend(&budget, at(50_000)), 100);
        assert_eq!(spend(&budget, at(50_001)), 0);
        let later = spend(&budget, at(65_000));
        assert!((45..=55).contains(&later), "{later} after a window and a half");
        assert_eq!(spend(&budget, at(120_000)), 100);
    }

    #[test]
    fn none_may_be_wanted() {
        let budget = Budget::new(RetryBudget { percent: 0, min_per_second: 0 });
        (0..100).for_each(|_| budget.deposit(at(0)));
        assert_eq!(spend(&budget, at(1)), 0);
    }
}
