//! Turns to have a question asked about a credential: shared among addresses, and few enough in all.
//!
//! Each address has a few at a time and a rate; the rest of its callers wait among themselves. So what one pod causes is
//! bounded whatever it does, and a caller from another address waits behind a few questions of each other address, not
//! behind all callers.

use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, sleep, timeout};

use crate::callers::Seat;
use crate::limits::Limit;

/// Leave to ask one question, until it is dropped.
pub(crate) struct Turn {
    _own: OwnedSemaphorePermit,
    _all: OwnedSemaphorePermit,
}

/// One that waits; counted so that the line of an address has an end.
struct Waiting<'a>(&'a Seat);

impl Seat {
    /// Waits for a turn, for as long as [`crate::Limits::turn`].
    pub(crate) async fn turn(&self) -> Result<Turn, Limit> {
        let shared = self.callers().shared();
        let (ip, limits) = (self.peer().ip(), &shared.limits);
        let waited = async {
            let (own, _waiting) = {
                let mut table = shared.lock();
                let address = table.address(ip, limits);
                if address.waiting >= limits.address_waiting {
                    return None;
                }
                address.waiting += 1;
                (address.turns.clone(), Waiting(self))
            };
            let own = own.acquire_owned().await.ok()?;
            loop {
                let taken =
                    shared.lock().address(ip, limits).reviews.take(limits.address_reviews, Instant::now());
                match taken {
                    Ok(()) => break,
                    Err(wait) => sleep(wait).await,
                }
            }
            let all = shared.reviews.clone().acquire_owned().await.ok()?;
            Some(Turn { _own: own, _all: all })
        };
        match timeout(limits.turn, waited).await {
            Ok(Some(turn)) => Ok(turn),
            Ok(None) | Err(_) => {
                shared.metrics.limited(Limit::Reviews);
                Err(Limit::Reviews)
            }
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let shared = self.0.callers().shared();
        let mut table = shared.lock();
        let address = table.address(self.0.peer().ip(), &shared.limits);
        address.waiting = address.waiting.saturating_sub(1);
    }
}
