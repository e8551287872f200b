//! How much memory all reviews together may take.
//!
//! A replica's memory is limited, and everybody in the cluster can dial it. So the octets of bodies, and those of what is
//! built of them, come out of pools, whose sizes bound what all addresses have together. Who finds a pool empty waits a
//! moment; then it is told to come again.
//!
//! What is larger than any common review comes out of a pool of its own: a few addresses that ask for as much as one may
//! have would else leave nothing for the others. And of each address only one waits in the line of all: who asks for
//! little stands behind one of each other address, not behind all that those have asked for.

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

/// How much there is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// What is asked for at once, up to this, is common.
    pub(super) common: usize,
    /// All that is common, of all addresses together.
    pub(super) all_common: usize,
    /// All that is larger, of all addresses together.
    pub(super) all_larger: usize,
    /// The most that one address may have of both, so that nobody alone can empty it.
    pub(super) share: usize,
}

/// A pool of octets.
pub(super) struct Pool {
    bounds: Bounds,
    common: Arc<Semaphore>,
    larger: Arc<Semaphore>,
    addresses: Mutex<HashMap<IpAddr, Arc<Own>>>,
}

/// What one address may have.
struct Own {
    share: Arc<Semaphore>,
    /// Who waits in the line of all for what is common, and for what is larger.
    common: Semaphore,
    larger: Semaphore,
}

/// Octets of a pool, which go back when this is dropped.
#[derive(Debug)]
pub(super) struct Room {
    all: OwnedSemaphorePermit,
    own: OwnedSemaphorePermit,
}

impl Pool {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            common: Arc::new(Semaphore::new(bounds.all_common / UNIT)),
            larger: Arc::new(Semaphore::new(bounds.all_larger / UNIT)),
            addresses: Mutex::default(),
        }
    }

    /// Room for `octets`, if there is some right now.
    #[cfg(test)]
    pub(super) fn try_take(&self, address: IpAddr, octets: usize) -> Result<Room, NoRoom> {
        let units = self.units(octets)?;
        let own = self.of(address).share.clone().try_acquire_many_owned(units).map_err(|_| NoRoom::Busy)?;
        let all = if octets > self.bounds.common { &self.larger } else { &self.common };
        let all = all.clone().try_acquire_many_owned(units).map_err(|_| NoRoom::Busy)?;
        Ok(Room { all, own })
    }

    /// Room for `octets`. Of one address whoever asked first is served first, and addresses have their turns.
    pub(super) async fn take(&self, address: IpAddr, octets: usize) -> Result<Room, NoRoom> {
        let units = self.units(octets)?;
        let of = self.of(address);
        let (turn, all) =
            if octets > self.bounds.common { (&of.larger, &self.larger) } else { (&of.common, &self.common) };
        let taken = timeout(WAIT, async {
            let own = of.share.clone().acquire_many_owned(units).await.ok()?;
            let _turn = turn.acquire().await.ok()?;
            Some(Room { own, all: all.clone().acquire_many_owned(units).await.ok()? })
        });
        taken.await.ok().flatten().ok_or(NoRoom::Busy)
    }

    /// Whether it is its own share that leaves `address` no room for `octets`.
    pub(super) fn is_at_share(&self, address: IpAddr, octets: usize) -> bool {
        self.of(address).share.available_permits() < octets.div_ceil(UNIT)
    }

    /// Whether these come out of the same pool.
    pub(super) fn are_alike(&self, octets: usize, others: usize) -> bool {
        (octets > self.bounds.common) == (others > self.bounds.common)
    }

    fn units(&self, octets: usize) -> Result<u32, NoRoom> {
        if octets > self.bounds.share {
            return Err(NoRoom::TooLarge);
        }
        u32::try_from(octets.div_ceil(UNIT)).map_err(|_| NoRoom::TooLarge)
    }

    fn of(&self, address: IpAddr) -> Arc<Own> {
        let mut addresses = self.addresses.lock().unwrap_or_else(PoisonError::into_inner);
        if addresses.len() > MANY {
            // A room holds its address's share, and whoever waits for one the whole.
            addresses.retain(|_, own| Arc::strong_count(own) > 1 || Arc::strong_count(&own.share) > 1);
        }
        let new = || {
            Arc::new(Own {
                share: Arc::new(Semaphore::new(self.bounds.share / UNIT)),
                common: Semaphore::new(1),
                larger: Semaphore::new(1),
            })
        };
        addresses.entry(address).or_insert_with(new).clone()
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

    fn pool(octets: usize, share: usize) -> Pool {
        Pool::new(Bounds { common: share, all_common: octets, all_larger: 0, share })
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_alone_empties_the_pool_and_what_comes_back_is_given_again() {
        let pool = pool(8 * UNIT, 4 * UNIT);
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
        assert_eq!(pool.common.available_permits(), 8);
    }

    #[tokio::test(start_paused = true)]
    async fn many_addresses_together_have_no_more_than_there_is_and_leave_what_is_common() {
        let bounds =
            Bounds { common: 2 * UNIT, all_common: 8 * UNIT, all_larger: 16 * UNIT, share: 10 * UNIT };
        let pool = Arc::new(Pool::new(bounds));
        let mut asking = tokio::task::JoinSet::new();
        for last in 1..=100_u8 {
            let pool = pool.clone();
            asking.spawn(async move { pool.take([10, 1, 0, last].into(), 8 * UNIT).await });
        }
        let given: Vec<Room> = asking.join_all().await.into_iter().flatten().collect();
        assert_eq!(given.len(), 2, "of a hundred addresses that ask for as much as they may");
        let held: Vec<Room> =
            (1..=4).map(|last| pool.try_take([10, 2, 0, last].into(), 2 * UNIT).unwrap()).collect();
        assert_eq!(pool.try_take(A, UNIT).unwrap_err(), NoRoom::Busy, "that has a bound as well");
        drop(held);
        drop(pool.take(A, 2 * UNIT).await.unwrap());
        drop(given);
        assert_eq!((pool.common.available_permits(), pool.larger.available_permits()), (8, 16));
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_is_served_in_turn() {
        let pool = Arc::new(pool(4 * UNIT, 4 * UNIT));
        let held = pool.take(A, 4 * UNIT).await.unwrap();
        let waiting = tokio::spawn({
            let pool = pool.clone();
            async move { pool.take(B, UNIT).await.map(drop) }
        });
        tokio::task::yield_now().await;
        drop(held);
        assert_eq!(waiting.await.unwrap(), Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn addresses_have_their_turns_however_much_one_of_them_asks() {
        let pool = Arc::new(pool(4 * UNIT, 4 * UNIT));
        let held = pool.take(C, 4 * UNIT).await.unwrap();
        let (order, mut served) = tokio::sync::mpsc::unbounded_channel();
        let mut tasks = tokio::task::JoinSet::new();
        for (number, address) in [A, A, A, A, B].into_iter().enumerate() {
            let (pool, order) = (pool.clone(), order.clone());
            tasks.spawn(async move {
                let room = pool.take(address, UNIT).await;
                order.send(number).unwrap();
                tokio::time::sleep(WAIT / 10).await;
                drop(room.unwrap());
            });
            tokio::task::yield_now().await;
        }
        drop(held);
        tasks.join_all().await;
        let mut places = Vec::new();
        while let Ok(number) = served.try_recv() {
            places.push(number);
        }
        let of_b = places.iter().position(|number| *number == 4);
        assert!(of_b.is_some_and(|place| place <= 1), "behind one of the other address: {places:?}");
    }

    #[test]
    fn addresses_that_have_nothing_are_forgotten() {
        let pool = pool(8 * UNIT, 4 * UNIT);
        let kept = pool.try_take(A, 1).unwrap();
        for i in 0..3 * MANY as u32 {
            drop(pool.try_take(IpAddr::from(i.to_be_bytes()), 1).unwrap());
        }
        let addresses = pool.addresses.lock().unwrap();
        assert!(addresses.len() <= MANY + 1 && addresses.contains_key(&A), "{}", addresses.len());
        drop(kept);
    }
}
