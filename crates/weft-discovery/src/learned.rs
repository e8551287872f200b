//! Which name an address was handed out for.
//!
//! Whoever answers for *some* name can answer with the address of a service. If the latest name simply won, looking up
//! `evil.example` would make the calls to `orders.shop` calls to `evil.example`, which may go in plaintext. So names have
//! a rank, which the owner sets by what it asks of a peer at that name, and the highest wins; among equals the latest.

use std::fmt;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{OnceLock, PoisonError, RwLock};
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
    rank: OnceLock<Rank>,
}

/// Says how much is asked of a peer at a name.
struct Rank(Box<dyn Fn(&DnsName) -> u8 + Send + Sync>);

impl fmt::Debug for Rank {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Rank")
    }
}

#[derive(Debug)]
struct Known {
    name: DnsName,
    /// Milliseconds after `Learned::started`.
    until: AtomicU64,
}

impl Learned {
    pub(crate) fn new(capacity: usize, grace: Duration) -> Self {
        let names = RwLock::new(BoundedMap::new(capacity));
        Self { names, started: Instant::now(), grace, rank: OnceLock::new() }
    }

    /// Sets the rank of names; only the first call counts. Without one all are equal.
    pub(crate) fn rank_by(&self, rank: impl Fn(&DnsName) -> u8 + Send + Sync + 'static) {
        let _ = self.rank.set(Rank(Box::new(rank)));
    }

    fn rank(&self, name: &DnsName) -> u8 {
        self.rank.get().map_or(0, |rank| (rank.0)(name))
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
                    known.insert(0, fresh);
                    if known.len() > NAMES_PER_ADDRESS {
                        // Of the lowest rank the oldest: other names cannot push out one that asks for more.
                        let ranks = known.iter().map(|known| self.rank(&known.name)).enumerate();
                        let least = ranks.rev().min_by_key(|(_, rank)| *rank).map(|(at, _)| at);
                        known.remove(least.unwrap_or(NAMES_PER_ADDRESS));
                    }
                }
                None => names.insert(address, vec![fresh]),
            }
        }
    }

    /// The name that `address` was handed out for: of several the one of the highest rank, of equals the latest.
    pub(crate) fn name_of(&self, address: IpAddr, now: Instant) -> Option<DnsName> {
        let (now_ms, until) = (self.millis(now), self.millis(now + self.grace));
        let names = self.names.read().unwrap_or_else(PoisonError::into_inner);
        let known = names.get(&address.to_canonical())?;
        let mut live = known.iter().filter(|known| known.until.load(Relaxed) > now_ms);
        let first = live.next()?;
        // One name is the rule. `max_by_key` gives the last of equals, and the latest name stands first.
        let found = match live.next() {
            None => first,
            Some(second) => {
                let all = [first, second].into_iter().chain(live).collect::<Vec<_>>();
                all.into_iter().rev().max_by_key(|known| self.rank(&known.name))?
            }
        };
        found.until.fetch_max(until, Relaxed);
        Some(found.name.clone())
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
    async fn a_name_of_lower_rank_neither_covers_nor_pushes_out_another() {
        let learned = Learned::new(100, HOUR);
        learned.rank_by(|name| u8::from(name.as_str().ends_with(".mesh")));
        let now = Instant::now();
        let evil = |from: usize| {
            for i in from..from + 2 * NAMES_PER_ADDRESS {
                learned.remember(&name(&format!("evil{i}.x")), &[ip("10.0.0.1")], TTL, now);
            }
        };
        evil(0);
        assert_eq!(learned.name_of(ip("10.0.0.1"), now), Some(name("evil7.x")));
        learned.remember(&name("a.mesh"), &[ip("10.0.0.1")], TTL, now);
        evil(10);
        assert_eq!(learned.name_of(ip("10.0.0.1"), now), Some(name("a.mesh")));
        learned.remember(&name("b.mesh"), &[ip("10.0.0.1")], TTL, now);
        evil(20);
        assert_eq!(learned.name_of(ip("10.0.0.1"), now), Some(name("b.mesh")));
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
