//! Which servers take EDNS. Old ones, and middleboxes before new ones, refuse a query with an OPT record, fail, or let it
//! vanish (RFC 6891 section 6.2.2 allows to remember that).

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// How long it is remembered: servers and what stands before them are replaced, seldom.
const KNOWN: Duration = Duration::from_secs(15 * 60);
/// After a first silence, which may have been a lost packet.
const ONCE_SILENT: Duration = Duration::from_secs(30);
/// A server that fails is asked both ways at most so often: most failures have nothing to do with EDNS.
const FAILING: Duration = Duration::from_secs(5);
/// Servers that are remembered. There are three in a resolv.conf, which may change.
const SERVERS: usize = 64;

#[derive(Debug)]
struct Seen {
    takes: bool,
    until: Instant,
    /// Whether it was silent before.
    silent: bool,
}

/// What was seen of servers.
#[derive(Debug, Default)]
pub(crate) struct EdnsMemory(Mutex<HashMap<SocketAddr, Seen>>);

impl EdnsMemory {
    fn lock(&self) -> MutexGuard<'_, HashMap<SocketAddr, Seen>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether `server` takes EDNS; `None`: not known, or no more.
    pub(crate) fn takes(&self, server: SocketAddr) -> Option<bool> {
        let seen = self.lock();
        seen.get(&server).filter(|seen| seen.until > Instant::now()).map(|seen| seen.takes)
    }

    fn note(&self, server: SocketAddr, takes: bool, time: Duration, silent: bool) {
        let mut seen = self.lock();
        if seen.len() >= SERVERS && !seen.contains_key(&server) {
            seen.clear();
        }
        seen.insert(server, Seen { takes, until: Instant::now() + time, silent });
    }

    /// It answered a query with an OPT record.
    pub(crate) fn took(&self, server: SocketAddr) {
        self.note(server, true, KNOWN, false);
    }

    /// It refused such a query or failed, and answered the same without.
    pub(crate) fn refused(&self, server: SocketAddr) {
        self.note(server, false, KNOWN, false);
    }

    /// It was silent, and answered the same without.
    pub(crate) fn was_silent(&self, server: SocketAddr) {
        let before = self.lock().get(&server).is_some_and(|seen| seen.silent);
        self.note(server, false, if before { KNOWN } else { ONCE_SILENT }, true);
    }

    /// It fails, with and without as far as is known.
    pub(crate) fn fails(&self, server: SocketAddr) {
        let silent = self.lock().get(&server).is_some_and(|seen| seen.silent);
        self.note(server, true, FAILING, silent);
    }

    /// It has fallen silent: what was known of it may be over.
    pub(crate) fn doubt(&self, server: SocketAddr) {
        if let Some(seen) = self.lock().get_mut(&server) {
            seen.until = Instant::now();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_silence_may_be_a_lost_packet_and_two_are_a_habit() {
        let memory = EdnsMemory::default();
        let server = "10.0.0.1:53".parse().unwrap();
        assert_eq!(memory.takes(server), None);
        memory.was_silent(server);
        assert_eq!(memory.takes(server), Some(false));
        tokio::time::advance(ONCE_SILENT).await;
        assert_eq!(memory.takes(server), None);
        memory.was_silent(server);
        tokio::time::advance(KNOWN / 2).await;
        assert_eq!(memory.takes(server), Some(false));
        tokio::time::advance(KNOWN / 2).await;
        assert_eq!(memory.takes(server), None);
        memory.took(server);
        memory.was_silent(server);
        tokio::time::advance(ONCE_SILENT).await;
        assert_eq!(memory.takes(server), None);
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_bounded() {
        let memory = EdnsMemory::default();
        for port in 1..1000 {
            memory.took(([10, 0, 0, 1], port).into());
        }
        assert!(memory.lock().len() <= SERVERS);
    }
}
