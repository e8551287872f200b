//! Which name an address was handed out for.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use tokio::time::Instant;
use weft_core::DnsName;

use crate::bounded::BoundedMap;

/// Names kept per address. Several names for one address are aliases or a reused address; more than a few are a shared
/// front, where the latest is as good a guess as any.
const NAMES_PER_ADDRESS: usize = 4;

/// Names by address, for all workers.
///
/// A name is kept for a grace period after its TTL: an application connects when it likes, and some runtimes keep an
/// answer for as long as they run. Each connection therefore prolongs the name it was made by.
#[derive(Debug)]
pub(crate) struct Learned {
    names: RwLock<BoundedMap<IpAddr, Vec<Known>>>,
    started: Instant,
    grace: Duration,
}

#[derive(Debug)]
struct Known {
    name: DnsName,
    /// Milliseconds after `Learned::started`.
    until: AtomicU64,
}

impl Learned {
    pub(crate) fn new(capacity: usize, grace: Duration) -> Self {
        Self { names: RwLock::new(BoundedMap::new(capacity)), started: Instant::now(), grace }
    }

    fn millis(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.started).as_millis()).unwrap_or(u64::MAX)
    }

    /// `name` was answered with `addresses`, for `ttl` from `now`.
    pub(crate) fn remember(&self, name: &DnsName, addresses: &[IpAddr], ttl: Duration, now: Instant) {
        let (now_ms, until) = (self.millis(now), self.millis(now + ttl + self.grace));
        let mut names = self.names.write().unwrap_or_else(PoisonError::into_inner);
        for address in addresses {
            let address = address.to_canonical();
            let fresh = Known { name: name.clone(), until: AtomicU64::new(until) };
            match names.get_mut(&address) {
                Some(known) => {
                    known.retain_mut(|other| other.name != *name && *other.until.get_mut() > now_ms);
                    known.truncate(NAMES_PER_ADDRESS - 1);
                    known.insert(0, fresh);
                }
                None => names.insert(address, vec![fresh]),
            }
        }
    }

    /// The name that `address` was last handed out for.
    pub(crate) fn name_of(&self, address: IpAddr, now: Instant) -> Option<DnsName> {
        let (now_ms, until) = (self.millis(now), self.millis(now + self.grace));
        let names = self.names.read().unwrap_or_else(PoisonError::into_inner);
        let known = names.get(&address.to_canonical())?;
        let latest = known.iter().find(|known| known.until.load(Relaxed) > now_ms)?;
        latest.until.fetch_max(until, Relaxed);
        Some(latest.name.clone())
    }

    pub(crate) fn len(&self) -> usize {
        self.names.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Forgets what has run out.
    pub(crate) fn sweep(&self, now: Instant) {
        let now_ms = self.millis(now);
        let mut names = self.names.write().unwrap_or_else(PoisonError::into_inner);
        names.retain(|known| known.iter().any(|known| known.until.load(Relaxed) > now_ms));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);
    const TTL: Duration = Duration::from_secs(30);

    fn name(text: &str) -> DnsName {
        text.parse().unwrap()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn the_latest_name_wins_and_older_ones_come_back_when_it_runs_out() {
        let learned = Learned::new(100, HOUR);
        let start = Instant::now();
        learned.remember(&name("a.x"), &[ip("10.0.0.1")], 3 * HOUR, start);
        learned.remember(&name("b.x"), &[ip("::ffff:10.0.0.1")], TTL, start);
        assert_eq!(learned.name_of(ip("10.0.0.1"), start), Some(name("b.x")));
        assert_eq!(learned.name_of(ip("10.0.0.1"), start + 2 * HOUR), Some(name("a.x")));
        assert_eq!(learned.name_of(ip("10.0.0.1"), start + 5 * HOUR), None);
        assert_eq!(learned.name_of(ip("10.0.0.2"), start), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_in_use_outlives_its_ttl() {
        let learned = Learned::new(100, HOUR);
        let start = Instant::now();
        learned.remember(&name("a.x"), &[ip("10.0.0.1")], TTL, start);
        let step = HOUR - TTL;
        for steps in 1..50 {
            let now = start + steps * step;
            assert_eq!(learned.name_of(ip("10.0.0.1"), now), Some(name("a.x")), "{steps}");
        }
        learned.sweep(start + 49 * step);
        assert_eq!(learned.len(), 1);
        learned.sweep(start + 51 * step);
        assert_eq!(learned.len(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_bounded() {
        let learned = Learned::new(64, HOUR);
        let now = Instant::now();
        for i in 0..1000u32 {
            let address = IpAddr::from(i.to_be_bytes());
            learned.remember(&name(&format!("n{i}.x")), &[address, ip("10.9.9.9")], TTL, now);
            assert_eq!(learned.name_of(address, now), Some(name(&format!("n{i}.x"))));
        }
        assert!(learned.len() <= 64);
        assert_eq!(learned.name_of(ip("10.9.9.9"), now), Some(name("n999.x")));
    }
}
