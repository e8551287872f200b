//! The open connections, for the admin page.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime};

use weft_core::ClientAddr;
use weft_telemetry::metrics::Direction;

/// Every accepted connection that is open. Touched when one opens, is understood, and closes; never per request.
#[derive(Clone, Debug, Default)]
pub(crate) struct Connections(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    next: AtomicU64,
    /// Listeners that a drain ends and that have not ended yet.
    doors: AtomicUsize,
    open: Mutex<BTreeMap<u64, ConnectionInfo>>,
}

/// What is known of one connection.
#[derive(Clone, Debug)]
pub(crate) struct ConnectionInfo {
    pub(crate) direction: Direction,
    pub(crate) client: ClientAddr,
    pub(crate) destination: Option<SocketAddr>,
    pub(crate) service: Option<Arc<str>>,
    pub(crate) protocol: &'static str,
    pub(crate) peer: Option<Arc<str>>,
    pub(crate) since: SystemTime,
    pub(crate) opened: Instant,
}

/// Keeps a connection listed; dropping it takes it off.
#[derive(Debug)]
pub(crate) struct Listed {
    connections: Connections,
    id: u64,
}

/// Keeps a drain from being over before a listener has taken in whom the kernel had let in.
#[derive(Debug)]
pub(crate) struct OpenDoor(Connections);

impl Drop for OpenDoor {
    fn drop(&mut self) {
        self.0.0.doors.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Connections {
    /// For a listener that ends when a drain begins.
    pub(crate) fn door(&self) -> OpenDoor {
        self.0.doors.fetch_add(1, Ordering::AcqRel);
        OpenDoor(self.clone())
    }

    /// Whether a drain is over: nothing is open, and nothing more can come.
    pub(crate) fn are_over(&self) -> bool {
        self.0.doors.load(Ordering::Acquire) == 0 && self.count() == 0
    }

    /// Lists a connection with what is known of it from the start.
    pub(crate) fn open(
        &self,
        direction: Direction,
        client: ClientAddr,
        destination: Option<SocketAddr>,
        service: Option<Arc<str>>,
    ) -> Listed {
        let id = self.0.next.fetch_add(1, Ordering::Relaxed);
        let info = ConnectionInfo {
            direction,
            client,
            destination,
            service,
            protocol: "detecting",
            peer: None,
            since: SystemTime::now(),
            opened: Instant::now(),
        };
        self.lock().insert(id, info);
        Listed { connections: self.clone(), id }
    }

    pub(crate) fn list(&self) -> Vec<ConnectionInfo> {
        self.lock().values().cloned().collect()
    }

    pub(crate) fn count(&self) -> usize {
        self.lock().len()
    }

    /// Connections of one direction.
    pub(crate) fn count_of(&self, direction: Direction) -> usize {
        self.lock().values().filter(|info| info.direction == direction).count()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, ConnectionInfo>> {
        self.0.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Listed {
    pub(crate) fn update(&self, change: impl FnOnce(&mut ConnectionInfo)) {
        if let Some(info) = self.connections.lock().get_mut(&self.id) {
            change(info);
        }
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.connections.lock().remove(&self.id);
    }
}
