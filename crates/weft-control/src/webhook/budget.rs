//! How much memory all reviews together may take.
//!
//! A replica's memory is limited, and everybody in the cluster can dial it. So the octets of bodies, and those of what is
//! built of them, come out of two pools. Who finds a pool empty waits a moment; then it is told to come again.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// What a pool counts in.
const UNIT: usize = 1024;
/// The API server waits five seconds for everything; a review takes milliseconds.
const WAIT: Duration = Duration::from_secs(1);
/// Addresses that have nothing any more are forgotten when there are more than this.
const MANY: usize = 1024;

/// Why there is no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoRoom {
    /// There never will be for as much.
    TooLarge,
    /// Not within a second.
    Busy,
}

/// A pool of octets.
pub(super) struct Pool {
    all: Arc<Semaphore>,
    /// The most that one address may have, so that nobody alone can empty it.
    share: usize,
    addresses: Mutex<HashMap<IpAddr, Arc<Semaphore>>>,
}

/// Octets of a pool, which go back when this is dropped.
#[derive(Debug)]
pub(super) struct Room {
    all: OwnedSemaphorePermit,
    own: OwnedSemaphorePermit,
}

impl Pool {
    /// A pool of `octets`, of which one address has at most `share`.
    pub(super) fn new(octets: usize, share: usize) -> Self {
        Self {
            all: Arc::new(Semaphore::new(octets / UNIT)),
            share: share / UNIT,
            addresses: Mutex::default(),
        }
    }

    /// Room for `octets`, if there is some right now.
    #[cfg(test)]
    pub(super) fn try_take(&self, address: IpAddr, octets: usize) -> Result<Room, NoRoom> {
        let units = self.units(octets)?;
        let own = self.of(address).try_acquire_many_owned(units).map_err(|_| NoRoom::Busy)?;
        let all = self.all.clone().try_acquire_many_owned(units).map_err(|_| NoRoom::Busy)?;
        Ok(Room { all, own })
    }

    /// Room for `octets`. Whoever asked first is served first.
    pub(super) async fn take(&self, address: IpAddr, octets: usize) -> Result<Room, NoRoom> {
        let units = self.units(octets)?;
        let own = self.of(address);
        let taken = timeout(WAIT, async {
            let own = own.acquire_many_owned(units).await.ok()?;
            Some(Room { own, all: self.all.clone().acquire_many_owned(units).await.ok()? })
        });
        taken.await.ok().flatten().ok_or(NoRoom::Busy)
    }

    /// Whether it is its own share that leaves `address` no room for `octets`.
    pub(super) fn is_at_share(&self, address: IpAddr, octets: usize) -> bool {
        self.of(address).available_permits() < octets.div_ceil(UNIT)
    }

    fn units(&self, octets: usize) -> Result<u32, NoRoom> {
        let units = octets.div_ceil(UNIT);
        if units > self.share {
            Err(NoRoom::TooLarge)
        } else {
            u32::try_from(units).map_err(|_| NoRoom::TooLarge)
        }
    }

    fn of(&self, address: IpAddr) -> Arc<Semaphore> {
        let mut addresses = self.addresses.lock().unwrap_or_else(PoisonError::into_inner);
        if addresses.len() > MANY {
            // A room holds its address's semaphore, and so does whoever waits for one.
            addresses.retain(|_, own| Arc::strong_count(own) > 1);
        }
        addresses.entry(address).or_insert_with(|| Arc::new(Semaphore::new(self.share))).clone()
    }
}

impl Room {
    /// Gives back what is more than `octets`.
    pub(super) fn shrink(&mut self, octets: usize) {
        let keep = octets.div_ceil(UNIT);
        for held in [&mut self.all, &mut self.own] {
            let more = held.num_permits().saturating_sub(keep);
            drop(held.split(more));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));
    const B: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2));
    const C: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 3));

    #[tokio::test(start_paused = true)]
    async fn nobody_alone_empties_the_pool_and_what_comes_back_is_given_again() {
        let pool = Pool::new(8 * UNIT, 4 * UNIT);
        assert_eq!(pool.take(A, 4 * UNIT + 1).await.unwrap_err(), NoRoom::TooLarge);
        let mut held = pool.take(A, 4 * UNIT).await.unwrap();
        assert_eq!(pool.try_take(A, 1).unwrap_err(), NoRoom::Busy);
        assert!(pool.is_at_share(A, 1) && !pool.is_at_share(B, 4 * UNIT));
        let other = pool.take(B, 3 * UNIT).await.unwrap();
        // One unit is left, for anybody but A.
        assert_eq!(pool.take(A, 1).await.unwrap_err(), NoRoom::Busy);
        assert_eq!(pool.take(C, 2 * UNIT).await.unwrap_err(), NoRoom::Busy);
        drop(pool.try_take(C, UNIT).unwrap());
        held.shrink(UNIT);
        drop(pool.try_take(C, 4 * UNIT).unwrap());
        drop((held, other));
        assert_eq!(pool.all.available_permits(), 8);
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_is_served_in_turn() {
        let pool = Arc::new(Pool::new(4 * UNIT, 4 * UNIT));
        let held = pool.take(A, 4 * UNIT).await.unwrap();
        let waiting = tokio::spawn({
            let pool = pool.clone();
            async move { pool.take(B, UNIT).await.map(drop) }
        });
        tokio::task::yield_now().await;
        drop(held);
        assert_eq!(waiting.await.unwrap(), Ok(()));
    }

    #[test]
    fn addresses_that_have_nothing_are_forgotten() {
        let pool = Pool::new(8 * UNIT, 4 * UNIT);
        let kept = pool.try_take(A, 1).unwrap();
        for i in 0..3 * MANY as u32 {
            drop(pool.try_take(IpAddr::from(i.to_be_bytes()), 1).unwrap());
        }
        let addresses = pool.addresses.lock().unwrap();
        assert!(addresses.len() <= MANY + 1 && addresses.contains_key(&A), "{}", addresses.len());
        drop(kept);
    }
}
