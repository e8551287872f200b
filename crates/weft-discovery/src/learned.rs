//! Which name an address was handed out for.
//!
//! Whoever answers for *some* name can answer with the address of a service, and with thousands of others. So mesh names
//! (all names that are not outside, see [`Standing`]) live in a store of their own, which outside names can neither cover
//! nor push anything out of; of several the one that asks most of its peer wins, among equals the latest.
//!
//! An outside name is forgotten when its time is over. A mesh name is not, because the address would become one that
//! anybody may be at: it is asked for again ([`Learned::unsure`]), and only its own answers can release an address.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use tokio::time::Instant;
use weft_core::DnsName;

use crate::bounded::BoundedMap;
use crate::standing::{Judge, Meant, Standing, meant};

/// Names kept per address. Several names for one address are aliases or a reused address; more than a few are a shared
/// front, where the latest is as good a guess as any.
const NAMES_PER_ADDRESS: usize = 4;
/// Addresses that one answer for an outside name teaches: more than any client tries, and few beside the store, so that
/// answers of thousands do not push out what others taught.
const OUTSIDE_ADDRESSES: usize = 64;

/// The name behind an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// The name.
    pub name: DnsName,
    /// Whether it is outside the mesh. Whoever answers for it could have given any address.
    pub outside: bool,
}

/// Names by address, for all workers.
///
/// A name is kept for a grace period after its TTL: an application connects when it likes, and some runtimes keep an
/// answer for as long as they run. Each connection therefore prolongs the name it was made by.
#[derive(Debug)]
pub(crate) struct Learned {
    stores: RwLock<Stores>,
    started: Instant,
    grace: Duration,
    judge: OnceLock<Judgement>,
}

#[derive(Debug)]
struct Stores {
    mesh: Store,
    outside: Store,
}

type Store = BoundedMap<IpAddr, Vec<Known>>;

struct Judgement(Box<dyn Judge>);

impl fmt::Debug for Judgement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Judgement")
    }
}

#[derive(Debug)]
struct Known {
    name: DnsName,
    /// Milliseconds after `Learned::started`.
    until: AtomicU64,
    /// The rank in the lowest octet, above it the version of the judgement that gave it.
    judged: AtomicU64,
    /// Whether DNS, asked again, said that there is no such name. Once may be an outage of its source.
    denied: bool,
}

/// What came of asking for a mesh name again.
#[derive(Clone, Debug)]
pub(crate) enum Again {
    /// These addresses, for so long.
    Has(Vec<IpAddr>, Duration),
    /// There is no such name, or it has no address.
    Denied,
}

impl Learned {
    pub(crate) fn new(capacity: usize, grace: Duration) -> Self {
        let stores = Stores { mesh: BoundedMap::new(capacity), outside: BoundedMap::new(capacity) };
        Self { stores: RwLock::new(stores), started: Instant::now(), grace, judge: OnceLock::new() }
    }

    /// Sets who judges names; only the first call counts. Without one all are outside.
    pub(crate) fn judge_by(&self, judge: impl Judge + 'static) {
        let _ = self.judge.set(Judgement(Box::new(judge)));
    }

    fn standing(&self, name: &DnsName) -> Standing {
        self.judge.get().map_or(Standing::Outside, |judge| judge.0.standing(name))
    }

    /// Whether a name is of the mesh.
    pub(crate) fn is_mesh(&self, name: &DnsName) -> bool {
        self.standing(name).rank() > 0
    }

    fn version(&self) -> u64 {
        self.judge.get().map_or(0, |judge| judge.0.version())
    }

    /// The rank of a name, judged anew only where the judgement has changed.
    fn rank(&self, known: &Known, version: u64) -> u8 {
        let judged = known.judged.load(Relaxed);
        if judged >> 8 == version {
            return (judged & 0xff) as u8;
        }
        let rank = self.standing(&known.name).rank();
        known.judged.store(version << 8 | u64::from(rank), Relaxed);
        rank
    }

    fn millis(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.started).as_millis()).unwrap_or(u64::MAX)
    }

    fn read(&self) -> RwLockReadGuard<'_, Stores> {
        self.stores.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Stores> {
        self.stores.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Which name of a chain of aliases is meant.
    pub(crate) fn meant<'a>(&self, chain: &'a [DnsName], search: &[DnsName]) -> Option<Meant<'a>> {
        meant(chain, search, |name| self.standing(name))
    }

    /// `name` was answered with `addresses`, for `ttl` from `now`.
    pub(crate) fn remember(&self, name: &DnsName, addresses: &[IpAddr], ttl: Duration, now: Instant) {
        let (now_ms, until) = (self.millis(now), self.millis(now + ttl + self.grace));
        let version = self.version();
        let rank = self.standing(name).rank();
        let mut stores = self.write();
        let (store, most) = match rank {
            0 => (&mut stores.outside, OUTSIDE_ADDRESSES),
            _ => (&mut stores.mesh, usize::MAX),
        };
        for address in addresses.iter().take(most) {
            let address = address.to_canonical();
            let fresh = Known {
                name: name.clone(),
                until: AtomicU64::new(until),
                judged: AtomicU64::new(version << 8 | u64::from(rank)),
                denied: false,
            };
            match store.get_mut(&address) {
                Some(known) => {
                    known.retain_mut(|other| other.name != *name && *other.until.get_mut() > now_ms);
                    known.insert(0, fresh);
                    self.trim(known, version);
                }
                None => store.insert(address, vec![fresh]),
            }
        }
    }

    /// The answer for `asked` led to the mesh name `to`, which has these addresses itself. Where `asked` is outside, an
    /// address keeps the mesh name that it has, and half of the store is left to those who ask for mesh names.
    pub(crate) fn remember_led(
        &self,
        asked: &DnsName,
        to: &DnsName,
        mut addresses: Vec<IpAddr>,
        ttl: Duration,
        now: Instant,
    ) {
        if !self.is_mesh(asked) {
            let full = self.read().mesh.is_half_full();
            addresses.retain(|ip| match self.name_of(*ip, now) {
                Some(has) if !has.outside => has.name == *to,
                _ => !full,
            });
            addresses.truncate(OUTSIDE_ADDRESSES);
        }
        self.remember(to, &addresses, ttl, now);
    }

    /// Keeps to the names that an address may have: of the lowest rank the oldest goes, so that other names cannot push
    /// out one that asks for more.
    fn trim(&self, known: &mut Vec<Known>, version: u64) {
        while known.len() > NAMES_PER_ADDRESS {
            let ranks = known.iter().map(|known| self.rank(known, version)).enumerate();
            let least = ranks.rev().min_by_key(|(_, rank)| *rank).map(|(at, _)| at);
            known.remove(least.unwrap_or(NAMES_PER_ADDRESS));
        }
    }

    /// The name that `address` was handed out for: a mesh name if there is one, of several the one of the highest rank, of
    /// equals the latest.
    pub(crate) fn name_of(&self, address: IpAddr, now: Instant) -> Option<Named> {
        let address = address.to_canonical();
        let (now_ms, version) = (self.millis(now), self.version());
        let stores = self.read();
        let mesh = stores.mesh.get(&address);
        // A mesh name counts after its time as well, until it is let go.
        let found = self
            .best(mesh, 0, version)
            .filter(|(rank, _)| *rank > 0)
            .or_else(|| self.best(stores.outside.get(&address), now_ms, version))
            // What the configuration has put outside since it was learned.
            .or_else(|| self.best(mesh, now_ms, version));
        let (rank, known) = found?;
        known.until.fetch_max(self.millis(now + self.grace), Relaxed);
        Some(Named { name: known.name.clone(), outside: rank == 0 })
    }

    /// Of names that are good after `now_ms` the one of the highest rank, of equals the latest, with its rank.
    fn best<'a>(&self, among: Option<&'a Vec<Known>>, now_ms: u64, version: u64) -> Option<(u8, &'a Known)> {
        let live = among?.iter().filter(|known| known.until.load(Relaxed) > now_ms);
        // `max_by_key` gives the last of equals, and the latest name stands first.
        live.rev().map(|known| (self.rank(known, version), known)).max_by_key(|(rank, _)| *rank)
    }

    /// Addresses with a name; one with names of both kinds counts twice.
    pub(crate) fn len(&self) -> usize {
        let stores = self.read();
        stores.mesh.len() + stores.outside.len()
    }

    /// Forgets what has run out outside the mesh, and puts names where the configuration has them now.
    pub(crate) fn sweep(&self, now: Instant) {
        let (now_ms, version) = (self.millis(now), self.version());
        let mut stores = self.write();
        let mut entered = Vec::new();
        stores.outside.retain_entries(|address, all| {
            all.retain_mut(|known| *known.until.get_mut() > now_ms);
            let inside = all.extract_if(.., |known| self.rank(known, version) > 0);
            entered.extend(inside.map(|known| (*address, known)));
            !all.is_empty()
        });
        stores.mesh.retain_entries(|_, all| {
            all.retain_mut(|known| self.rank(known, version) > 0 || *known.until.get_mut() > now_ms);
            !all.is_empty()
        });
        for (address, known) in entered {
            match stores.mesh.get_mut(&address) {
                Some(all) => {
                    all.push(known);
                    self.trim(all, version);
                }
                None => stores.mesh.insert(address, vec![known]),
            }
        }
    }

    /// Mesh names whose time is over at an address of IPv4 or (`true`) IPv6, at most `most`: they should be asked for again.
    pub(crate) fn unsure(&self, most: usize, now: Instant) -> Vec<(DnsName, bool)> {
        let now_ms = self.millis(now);
        let stores = self.read();
        let mut found = HashSet::new();
        for (address, all) in stores.mesh.iter() {
            for known in all.iter().filter(|known| known.until.load(Relaxed) <= now_ms) {
                if found.len() >= most {
                    return found.into_iter().collect();
                }
                found.insert((known.name.clone(), address.is_ipv6()));
            }
        }
        found.into_iter().collect()
    }

    /// Takes the answers in: an address that its name has still is known for another while; one that it has no more, or a
    /// name that was denied twice, is forgotten.
    pub(crate) fn settle(&self, answers: &HashMap<(DnsName, bool), Again>, now: Instant) {
        let now_ms = self.millis(now);
        let mut stores = self.write();
        stores.mesh.retain_entries(|address, all| {
            all.retain_mut(|known| {
                if *known.until.get_mut() > now_ms {
                    return true;
                }
                match answers.get(&(known.name.clone(), address.is_ipv6())) {
                    None => true,
                    Some(Again::Has(addresses, ttl)) => {
                        *known.until.get_mut() = self.millis(now + *ttl + self.grace);
                        known.denied = false;
                        addresses.contains(address)
                    }
                    Some(Again::Denied) => {
                        *known.until.get_mut() = self.millis(now + self.grace);
                        !std::mem::replace(&mut known.denied, true)
                    }
                }
            });
            !all.is_empty()
        });
    }
}

#[cfg(test)]
#[path = "learned_tests.rs"]
mod tests;
