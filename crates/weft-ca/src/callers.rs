//! Who is connected, and what each may still take: connections, streams, refusals.
//!
//! One table under one lock. Each operation is a few look-ups, far below a microsecond beside a TLS handshake of half a
//! millisecond. Its size is bounded: places by [`Limits::connections`], addresses by those that hold a place and
//! [`MAX_ADDRESSES`] others whose past is not forgotten yet.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, Semaphore};
use tokio::time::{Instant, sleep_until};
use weft_core::SpiffeId;

use crate::Proof;
use crate::bucket::Bucket;
use crate::holders::Holders;
use crate::limits::{Limit, Limits};
use crate::metrics::Metrics;

/// Addresses that are remembered, with or without a connection: about 200 octets each. More would be 12 MiB and up, and
/// a cluster has no more pods than that.
const MAX_ADDRESSES: usize = 64 * 1024;

/// All callers. Clones share the table.
#[derive(Clone)]
pub(crate) struct Callers(Arc<Shared>);

pub(crate) struct Shared {
    pub(crate) limits: Limits,
    pub(crate) metrics: Arc<Metrics>,
    /// Turns for questions, over all addresses.
    pub(crate) reviews: Arc<Semaphore>,
    table: Mutex<Table>,
    /// A place came free, or a connection that may be ended for another came to be.
    left: Notify,
}

#[derive(Default)]
pub(crate) struct Table {
    next: u64,
    /// Connections that have a place; those that were told to end have none.
    taken: usize,
    /// By number; a lower one is an older one.
    places: HashMap<u64, Place>,
    unproven: BTreeSet<u64>,
    idle: BTreeSet<u64>,
    addresses: HashMap<IpAddr, Address>,
    identities: Holders<SpiffeId>,
    /// By UID, or by name where that is not known.
    pods: Holders<Arc<str>>,
}

struct Place {
    address: IpAddr,
    end: Arc<Notify>,
    /// Who it is, as its first good credential proved.
    holder: Option<Holder>,
    /// Open ones, streams included.
    calls: usize,
    streams: usize,
    /// When the last of the streams has to have ended.
    streams_until: Instant,
    refusals: u32,
    /// When it was accepted, or when its last call ended.
    since: Instant,
    ended: Option<Limit>,
}

/// Whose connection it is.
#[derive(Clone)]
pub(crate) struct Holder {
    id: SpiffeId,
    pod: Option<Arc<str>>,
}

pub(crate) struct Address {
    places: usize,
    unproven: BTreeSet<u64>,
    idle: BTreeSet<u64>,
    dials: Bucket,
    refusals: Bucket,
    pub(crate) reviews: Bucket,
    pub(crate) turns: Arc<Semaphore>,
    pub(crate) waiting: usize,
}

/// One connection's place; the last clone gives it back.
#[derive(Clone)]
pub(crate) struct Seat(Arc<Taken>);

struct Taken {
    callers: Callers,
    number: u64,
    peer: SocketAddr,
    end: Arc<Notify>,
}

/// One open call; while there is one the connection is not idle.
pub(crate) struct Call(Seat);

/// One open bundle stream.
pub(crate) struct Stream {
    call: Call,
    id: SpiffeId,
}

/// How a connection is ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// It has nothing to finish.
    Now,
    /// It is told, and may finish what is under way.
    Told,
}

impl Callers {
    pub(crate) fn new(limits: Limits, metrics: Arc<Metrics>) -> Self {
        let reviews = Arc::new(Semaphore::new(limits.reviews_at_once));
        Self(Arc::new(Shared { limits, metrics, reviews, table: Mutex::default(), left: Notify::new() }))
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.0
    }

    /// Resolves when a further connection could have a place. For one waiter.
    pub(crate) async fn room(&self) {
        loop {
            {
                let table = self.0.lock();
                let full = table.taken >= self.0.limits.connections;
                if !full || !table.unproven.is_empty() || !table.idle.is_empty() {
                    return;
                }
            }
            // A permit that is left from before only has the table looked at again.
            self.0.left.notified().await;
        }
    }

    /// A place for a connection that was just accepted, taken from another where that is due.
    pub(crate) fn enter(&self, peer: SocketAddr) -> Result<Seat, Limit> {
        let Shared { limits, metrics, .. } = &*self.0;
        let (ip, now) = (peer.ip(), Instant::now());
        let mut table = self.0.lock();
        if table.addresses.len() >= MAX_ADDRESSES {
            table.forget(now);
        }
        let address = table.addresses.entry(ip).or_insert_with(|| Address::new(limits));
        if address.refusals.is_empty(limits.address_refusals, now) {
            return Err(Limit::AddressRefusals);
        }
        if address.dials.take(limits.address_dials, now).is_err() {
            return Err(Limit::AddressDials);
        }
        if address.places >= limits.address_connections {
            let oldest = address.oldest().ok_or(Limit::AddressConnections)?;
            table.end(oldest, Limit::AddressConnections, metrics);
        } else if address.unproven.len() >= limits.address_unproven
            && let Some(oldest) = address.unproven.first().copied()
        {
            table.end(oldest, Limit::AddressUnproven, metrics);
        }
        if table.taken >= limits.connections {
            let oldest = table.unproven.first().or_else(|| table.idle.first()).copied();
            table.end(oldest.ok_or(Limit::Connections)?, Limit::Connections, metrics);
        }
        let (number, end) = (table.next, Arc::new(Notify::new()));
        table.next += 1;
        table.take(number, ip, end.clone(), now, limits);
        metrics.connections.inc();
        Ok(Seat(Arc::new(Taken { callers: self.clone(), number, peer, end })))
    }
}

impl Shared {
    pub(crate) fn lock(&self) -> MutexGuard<'_, Table> {
        // Whole after each operation; a panic elsewhere does not spoil it.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn take(&mut self, number: u64, ip: IpAddr, end: Arc<Notify>, now: Instant, limits: &Limits) {
        let address = self.addresses.entry(ip).or_insert_with(|| Address::new(limits));
        address.places += 1;
        self.taken += 1;
        address.unproven.insert(number);
        self.unproven.insert(number);
        let place = Place {
            address: ip,
            end,
            holder: None,
            calls: 0,
            streams: 0,
            streams_until: now,
            refusals: 0,
            since: now,
            ended: None,
        };
        self.places.insert(number, place);
    }

    /// What is known of an address.
    pub(crate) fn address(&mut self, ip: IpAddr, limits: &Limits) -> &mut Address {
        self.addresses.entry(ip).or_insert_with(|| Address::new(limits))
    }

    /// Ends a connection. Its place is free at once; it is told, and goes within a second.
    fn end(&mut self, number: u64, why: Limit, metrics: &Metrics) {
        let Some(place) = self.places.get_mut(&number) else { return };
        if place.ended.is_some() {
            return;
        }
        place.ended = Some(why);
        place.end.notify_one();
        metrics.limited(why);
        let (ip, holder) = (place.address, place.holder.take());
        self.give_back(number, ip, holder);
    }

    fn leave(&mut self, number: u64) {
        if let Some(place) = self.places.remove(&number)
            && place.ended.is_none()
        {
            self.give_back(number, place.address, place.holder);
        }
    }

    fn give_back(&mut self, number: u64, ip: IpAddr, holder: Option<Holder>) {
        self.taken = self.taken.saturating_sub(1);
        self.unproven.remove(&number);
        self.idle.remove(&number);
        if let Some(address) = self.addresses.get_mut(&ip) {
            address.places = address.places.saturating_sub(1);
            address.unproven.remove(&number);
            address.idle.remove(&number);
        }
        if let Some(Holder { id, pod }) = holder {
            self.identities.leave(&id, number);
            if let Some(pod) = pod {
                self.pods.leave(&pod, number);
            }
        }
    }

    /// Has it counted whether a call is open on the connection, wherever that is counted.
    fn set_idle(&mut self, number: u64, idle: bool) {
        let Some(place) = self.places.get(&number) else { return };
        let mark = |set: &mut BTreeSet<u64>| if idle { set.insert(number) } else { set.remove(&number) };
        mark(&mut self.idle);
        if let Some(address) = self.addresses.get_mut(&place.address) {
            mark(&mut address.idle);
        }
        if let Some(Holder { id, pod }) = &place.holder {
            self.identities.set_idle(id, number, idle);
            if let Some(pod) = pod {
                self.pods.set_idle(pod, number, idle);
            }
        }
    }

    /// Makes room among the connections of `holder` for one more, or says which limit leaves none.
    fn room_for(&mut self, holder: &Holder, limits: &Limits, metrics: &Metrics) -> Result<(), Limit> {
        if let Some(pod) = &holder.pod
            && self.pods.places(pod) >= limits.pod_connections
        {
            // It needs one: the newest is the one that it uses, whatever became of the others.
            let oldest = self.pods.oldest_idle(pod).or_else(|| self.pods.oldest(pod));
            self.end(oldest.ok_or(Limit::PodConnections)?, Limit::PodConnections, metrics);
        }
        if self.identities.places(&holder.id) >= limits.identity_connections {
            // Those that have a stream are proxies at work, each of which would come back for another's place.
            let idle = self.identities.oldest_idle(&holder.id);
            self.end(idle.ok_or(Limit::IdentityConnections)?, Limit::IdentityConnections, metrics);
        }
        Ok(())
    }

    /// Makes room in the list of addresses: first of those whose past does not matter any more, and where that is not
    /// enough of all that hold nothing.
    fn forget(&mut self, now: Instant) {
        self.addresses.retain(|_, address| address.is_in_use() || !address.is_new(now));
        if self.addresses.len() >= MAX_ADDRESSES {
            self.addresses.retain(|_, address| address.is_in_use());
        }
    }
}

/// What a connection waits for.
enum Due {
    Ended(End),
    At(Instant),
    Nothing,
}

impl Seat {
    /// The other end, for the audit log.
    pub(crate) fn peer(&self) -> SocketAddr {
        self.0.peer
    }

    pub(crate) fn callers(&self) -> &Callers {
        &self.0.callers
    }

    fn with<T>(&self, work: impl FnOnce(&mut Table, &Shared, Instant) -> T) -> T {
        let shared = self.0.callers.shared();
        let mut table = shared.lock();
        work(&mut table, shared, Instant::now())
    }

    /// Resolves when the connection must end: for want of a credential or of a call, or because it was told to.
    pub(crate) async fn over(&self) -> End {
        loop {
            match self.due() {
                Due::Ended(end) => return end,
                Due::Nothing => self.0.end.notified().await,
                Due::At(time) => tokio::select! {
                    () = self.0.end.notified() => {}
                    () = sleep_until(time) => {}
                },
            }
        }
    }

    fn due(&self) -> Due {
        self.with(|table, shared, now| {
            let Some(place) = table.places.get(&self.0.number) else { return Due::Ended(End::Now) };
            if let Some(why) = place.ended {
                return Due::Ended(why.end());
            }
            let (time, why) = match place {
                Place { holder: None, since, .. } => (*since + shared.limits.proof, Limit::Proof),
                Place { calls: 0, since, .. } => (*since + shared.limits.idle, Limit::Idle),
                Place { streams: 1.., streams_until, .. } => (*streams_until, Limit::Stream),
                // Calls that are no streams have a time limit of their own.
                _ => return Due::Nothing,
            };
            if now < time {
                return Due::At(time);
            }
            table.end(self.0.number, why, &shared.metrics);
            Due::Ended(why.end())
        })
    }

    /// Ends the connection.
    pub(crate) fn end(&self, why: Limit) {
        self.with(|table, shared, _| table.end(self.0.number, why, &shared.metrics));
    }

    /// A call began.
    pub(crate) fn call(&self) -> Call {
        self.with(|table, _, _| {
            let Some(place) = table.places.get_mut(&self.0.number) else { return };
            place.calls += 1;
            table.set_idle(self.0.number, false);
        });
        Call(self.clone())
    }

    /// Whether a call of this address is heard at all. Where it is not, the connection ends.
    pub(crate) fn heard(&self) -> Result<(), Limit> {
        self.with(|table, shared, now| {
            let address = table.address(self.0.peer.ip(), &shared.limits);
            if address.refusals.is_empty(shared.limits.address_refusals, now) {
                table.end(self.0.number, Limit::AddressRefusals, &shared.metrics);
                return Err(Limit::AddressRefusals);
            }
            Ok(())
        })
    }

    /// A call had a good credential: the connection may stay, where its identity and its pod may have one more. Where they
    /// may not it is told to go: what was asked for is still done, but no stream begins on it.
    pub(crate) fn proven(&self, proof: &Proof) {
        self.with(|table, shared, now| {
            let number = self.0.number;
            if table.places.get(&number).is_none_or(|place| place.holder.is_some() || place.ended.is_some()) {
                return;
            }
            let holder = Holder::of(proof);
            if let Err(why) = table.room_for(&holder, &shared.limits, &shared.metrics) {
                table.end(number, why, &shared.metrics);
                return;
            }
            table.identities.join(&holder.id, number);
            if let Some(pod) = &holder.pod {
                table.pods.join(pod, number);
            }
            let Some(place) = table.places.get_mut(&number) else { return };
            place.holder = Some(holder);
            place.since = now;
            place.end.notify_one();
            table.unproven.remove(&number);
            if let Some(address) = table.addresses.get_mut(&self.0.peer.ip()) {
                address.unproven.remove(&number);
            }
        });
    }

    /// A call had a bad credential. After a few the connection ends.
    pub(crate) fn refused(&self) {
        self.with(|table, shared, now| {
            let address = table.address(self.0.peer.ip(), &shared.limits);
            address.refusals.spend(shared.limits.address_refusals, now);
            let Some(place) = table.places.get_mut(&self.0.number) else { return };
            place.refusals += 1;
            if place.refusals >= shared.limits.connection_refusals {
                table.end(self.0.number, Limit::ConnectionRefusals, &shared.metrics);
            }
        });
    }

    /// A bundle stream of `id`, where there may be one more. When it is still there at `until`, its connection ends.
    pub(crate) fn stream(&self, id: &SpiffeId, until: Instant) -> Result<Stream, Limit> {
        self.with(|table, shared, _| {
            let limits = &shared.limits;
            let own = table.places.get_mut(&self.0.number);
            let limit = match &own {
                // It has been told to go, and that was counted.
                Some(Place { ended: Some(why), .. }) => return Err(*why),
                Some(place) if place.streams >= limits.connection_streams => Limit::ConnectionStreams,
                _ if table.identities.streams(id) >= limits.identity_connections => Limit::IdentityStreams,
                _ => {
                    if let Some(place) = own {
                        place.streams += 1;
                        place.streams_until = place.streams_until.max(until);
                        place.end.notify_one();
                    }
                    table.identities.add_stream(id);
                    return Ok(());
                }
            };
            shared.metrics.limited(limit);
            Err(limit)
        })?;
        Ok(Stream { call: self.call(), id: id.clone() })
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        let shared = self.callers.shared();
        shared.lock().leave(self.number);
        shared.metrics.connections.dec();
        shared.left.notify_one();
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let Taken { number, .. } = &*self.0.0;
        self.0.with(|table, shared, now| {
            let Some(place) = table.places.get_mut(number) else { return };
            place.calls = place.calls.saturating_sub(1);
            if place.calls > 0 || place.holder.is_none() || place.ended.is_some() {
                return;
            }
            place.since = now;
            place.end.notify_one();
            table.set_idle(*number, true);
            shared.left.notify_one();
        });
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let seat = &self.call.0;
        seat.with(|table, _, _| {
            if let Some(place) = table.places.get_mut(&seat.0.number) {
                place.streams = place.streams.saturating_sub(1);
            }
            table.identities.remove_stream(&self.id);
        });
    }
}

impl Holder {
    fn of(proof: &Proof) -> Self {
        let Proof { id, pod } = proof;
        let pod = pod.as_ref().map(|pod| {
            // A name is one pod's in its namespace only, and another's later; a UID is one pod's for ever.
            if pod.uid.is_empty() {
                format!("{}/{}", id.namespace, pod.name).into()
            } else {
                Arc::from(pod.uid.as_str())
            }
        });
        Self { id: id.clone(), pod }
    }
}

impl Limit {
    /// Who has proven nothing has nothing to finish.
    fn end(self) -> End {
        match self {
            Self::AddressUnproven | Self::Handshake | Self::Proof => End::Now,
            _ => End::Told,
        }
    }
}

impl Address {
    fn new(limits: &Limits) -> Self {
        Self {
            places: 0,
            unproven: BTreeSet::new(),
            idle: BTreeSet::new(),
            dials: Bucket::default(),
            refusals: Bucket::default(),
            reviews: Bucket::default(),
            turns: Arc::new(Semaphore::new(limits.address_reviews_at_once)),
            waiting: 0,
        }
    }

    /// The connection that ends first for another one.
    fn oldest(&self) -> Option<u64> {
        self.unproven.first().or_else(|| self.idle.first()).copied()
    }

    fn is_in_use(&self) -> bool {
        self.places > 0 || self.waiting > 0
    }

    fn is_new(&self, now: Instant) -> bool {
        self.dials.is_full(now) && self.refusals.is_full(now) && self.reviews.is_full(now)
    }
}

#[cfg(test)]
#[path = "callers_tests.rs"]
mod tests;
