//! How often something may be done, on average and in a row.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use tokio::time::Instant;

/// Connections that an address may open in a row: as many as an API server takes requests at once, and
const IN_A_ROW: f64 = 640.0;
/// each second on average. A handshake takes some tenths of a millisecond of the thread that everything here shares, so
/// this is a tenth of it at most. An API server keeps 25 connections and opens others for what is beyond that.
const A_SECOND: f64 = 300.0;
/// Addresses that may do everything again are forgotten when there are more than this.
const MANY: usize = 4096;

/// What is left of a number that grows again with time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Left {
    number: f64,
    at: Instant,
}

impl Left {
    pub(super) fn new(most: f64) -> Self {
        Self { number: most, at: Instant::now() }
    }

    fn now(self, most: f64, a_second: f64) -> Self {
        let now = Instant::now();
        let number = (now - self.at).as_secs_f64().mul_add(a_second, self.number).min(most);
        Self { number, at: now }
    }

    /// Takes one, where there is one.
    pub(super) fn take(&mut self, most: f64, a_second: f64) -> bool {
        *self = self.now(most, a_second);
        let may = self.number >= 1.0;
        if may {
            self.number -= 1.0;
        }
        may
    }
}

/// How many connections each address may open.
#[derive(Default)]
pub(super) struct Pace(Mutex<HashMap<IpAddr, Left>>);

impl Pace {
    /// Whether `address` may open one more.
    pub(super) fn admits(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        let mut addresses = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if addresses.len() >= MANY {
            addresses.retain(|_, left| left.now(IN_A_ROW, A_SECOND).number < IN_A_ROW);
        }
        if addresses.len() >= MANY && !addresses.contains_key(&address) {
            // So many addresses within seconds are not one pod's; each has its seats, and no more.
            return true;
        }
        let left = addresses.entry(address).or_insert_with(|| Left::new(IN_A_ROW));
        left.take(IN_A_ROW, A_SECOND)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn each_address_has_its_own_pace_and_none_is_remembered_for_ever() {
        let pace = Pace::default();
        let address = |last: u8| IpAddr::from([10, 0, 0, last]);
        let admitted = |last| (0..2000).filter(|_| pace.admits(address(last))).count();
        assert_eq!(admitted(1), 640);
        assert_eq!(admitted(1), 0);
        assert!(pace.admits(address(2)));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(admitted(1), 300);
        tokio::time::advance(Duration::from_secs(60)).await;
        for i in 0..2 * MANY as u32 {
            assert!(pace.admits(IpAddr::from(i.to_be_bytes())));
        }
        assert!(pace.0.lock().unwrap().len() <= MANY);
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(admitted(1), 640);
        assert!(pace.0.lock().unwrap().len() < 10);
    }
}
