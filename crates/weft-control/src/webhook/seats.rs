//! Which connections are open, what each is doing, and which one makes room for another.
//!
//! Whoever opens connections and says nothing must not keep the API server out. So none waits for ever, and where all
//! seats are taken the one that has been idle for longest makes room, of the address that has the most: the connections
//! of an API server are few, and idle for a moment only.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

/// For the TLS handshake, and from there to a whole request head.
const SPEAK: Duration = Duration::from_secs(10);
/// Between two requests. The API server (Go's HTTP client) closes what it has not used for 90 s; were we the first to
/// close, a review could be on its way just then, fail, and the pod slip by.
const KEPT: Duration = Duration::from_secs(120);

/// A body that has been coming for longer is slow. The API server sends all of it at once.
const SLOW: Duration = Duration::from_millis(250);

/// How many connections there may be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Without a bound who opens many would take the memory: each takes tens of kilobytes.
    pub(super) total: usize,
    /// Of one address, which may be a pod's, or that of a node behind which pods are. Generous for API servers, which are
    /// one to a handful and seen at as few addresses: over HTTP/1.1 each has as many connections as it has reviews under
    /// way, and that is no more than the requests that it takes at once, 600 by default.
    pub(super) per_address: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { total: 2048, per_address: 640 }
    }
}

/// What a connection is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// It has to show its handshake, or the rest of its first head.
    Speaking,
    /// It has sent a head, and there is no room for its body yet.
    Waiting,
    /// A body is coming.
    Sending,
    /// It is served.
    Served,
    /// It may ask again.
    Kept,
    /// It ends, so that another has its seat.
    MakesRoom,
}

/// Since when.
#[derive(Debug, Clone, Copy)]
struct Doing {
    phase: Phase,
    since: Instant,
    /// What it was doing before was waiting between two requests.
    was_kept: bool,
    /// The octets that are kept for the body that is coming.
    octets: usize,
}

/// Why a connection ends before its peer ends it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// There was no handshake or no whole head in time.
    Silent,
    /// It was not used again.
    Unused,
    /// It makes room.
    Room {
        /// It was between two requests, and another may be on its way.
        was_kept: bool,
    },
}

/// The seats.
pub(super) struct Seats {
    limits: Limits,
    taken: Mutex<Taken>,
}

#[derive(Default)]
struct Taken {
    next: u64,
    /// By number, so in the order in which they came.
    seats: BTreeMap<u64, Arc<Place>>,
}

struct Place {
    address: IpAddr,
    doing: watch::Sender<Doing>,
}

/// A connection's seat; free again when this is dropped.
pub(super) struct Seat {
    number: u64,
    place: Arc<Place>,
    seats: Arc<Seats>,
}

/// A request on a connection, from its head to its answer.
pub(super) struct Serving<'a>(&'a Seat);

impl Seats {
    pub(super) fn new(limits: Limits) -> Arc<Self> {
        Arc::new(Self { limits, taken: Mutex::default() })
    }

    /// A seat for a connection from `address`. Where there is none free, one that is idle makes room; `None` where all
    /// are served.
    pub(super) fn take(self: &Arc<Self>, address: IpAddr) -> Option<Seat> {
        let address = address.to_canonical();
        let mut taken = self.lock();
        let own = taken.seats.values().filter(|place| place.address == address).count();
        if own >= self.limits.per_address {
            taken.make_room(Some(address))?;
        } else if taken.seats.len() >= self.limits.total {
            taken.make_room(None)?;
        }
        let number = taken.next;
        taken.next += 1;
        let doing = Doing { phase: Phase::Speaking, since: Instant::now(), was_kept: false, octets: 0 };
        let doing = watch::Sender::new(doing);
        let place = Arc::new(Place { address, doing });
        taken.seats.insert(number, place.clone());
        Some(Seat { number, place, seats: self.clone() })
    }

    /// Ends the slow bodies that have been coming for longest, until those have been ended for which `octets` were kept:
    /// of `address`, or of the address that has the most of them. Only bodies of a length that `helps` are ended.
    pub(super) fn end_bodies(&self, address: Option<IpAddr>, octets: usize, helps: impl Fn(usize) -> bool) {
        let mut taken = self.lock();
        let mut freed = 0;
        while freed < octets
            && let Some(number) =
                taken.oldest(address, |doing| doing.phase == Phase::Sending && helps(doing.octets))
            && let Some(doing) = taken.seats.get(&number).map(|place| *place.doing.borrow())
            && doing.since.elapsed() > SLOW
        {
            taken.end(number);
            freed += doing.octets;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Taken {
    /// Ends a connection that has nothing under way; where there is none, one whose body is not there yet.
    fn make_room(&mut self, of: Option<IpAddr>) -> Option<()> {
        let oldest = self
            .oldest(of, |doing| matches!(doing.phase, Phase::Speaking | Phase::Kept))
            .or_else(|| self.oldest(of, |doing| matches!(doing.phase, Phase::Waiting | Phase::Sending)))?;
        self.end(oldest);
        Some(())
    }

    /// The seat that has been doing such a thing for longest, of the address that has the most such seats.
    fn oldest(&self, of: Option<IpAddr>, such: impl Fn(&Doing) -> bool) -> Option<u64> {
        let mut by_address: HashMap<IpAddr, (usize, Instant, u64)> = HashMap::new();
        for (number, place) in &self.seats {
            let doing = *place.doing.borrow();
            if !such(&doing) || of.is_some_and(|of| of != place.address) {
                continue;
            }
            let (count, since, oldest) = by_address.entry(place.address).or_insert((0, doing.since, *number));
            *count += 1;
            if doing.since < *since {
                (*since, *oldest) = (doing.since, *number);
            }
        }
        let most =
            by_address.into_values().max_by_key(|(count, since, _)| (*count, std::cmp::Reverse(*since)));
        most.map(|(.., oldest)| oldest)
    }

    /// Its seat is free at once; the connection hears of it.
    fn end(&mut self, number: u64) {
        if let Some(place) = self.seats.remove(&number) {
            place.set(Phase::MakesRoom);
        }
    }
}

impl Place {
    fn set(&self, phase: Phase) {
        self.set_with(phase, 0);
    }

    fn set_with(&self, phase: Phase, octets: usize) {
        self.doing.send_if_modified(|doing| {
            // What has to make room does, whatever it begins in the meantime.
            let changes = doing.phase != Phase::MakesRoom;
            if changes {
                let was_kept = doing.phase == Phase::Kept;
                *doing = Doing { phase, since: Instant::now(), was_kept, octets };
            }
            changes
        });
    }

    fn phase(&self) -> Phase {
        self.doing.borrow().phase
    }
}

impl Seat {
    /// The connection's address.
    pub(super) fn address(&self) -> IpAddr {
        self.place.address
    }

    /// The handshake is done: a request has to come.
    pub(super) fn shaken(&self) {
        self.place.set(Phase::Speaking);
    }

    /// Something was read. After a request, that is the beginning of another.
    pub(super) fn heard(&self) {
        if self.place.phase() == Phase::Kept {
            self.place.set(Phase::Speaking);
        }
    }

    /// A request's head is there.
    pub(super) fn request(&self) -> Serving<'_> {
        self.place.set(Phase::Served);
        Serving(self)
    }

    /// Resolves when the connection has to end.
    pub(super) async fn over(&self) -> Ending {
        let mut watch = self.place.doing.subscribe();
        loop {
            let doing = *watch.borrow_and_update();
            let (patience, ending) = match doing.phase {
                Phase::MakesRoom => return Ending::Room { was_kept: doing.was_kept },
                Phase::Speaking => (Some(SPEAK), Ending::Silent),
                Phase::Kept => (Some(KEPT), Ending::Unused),
                // Those have limits of their own.
                Phase::Waiting | Phase::Sending | Phase::Served => (None, Ending::Unused),
            };
            let until = doing.since + patience.unwrap_or_default();
            tokio::select! {
                // The sender is in the place itself, so this cannot fail.
                _ = watch.changed() => {}
                () = sleep_until(until), if patience.is_some() => return ending,
            }
        }
    }
}

impl Serving<'_> {
    /// There is no room for the body yet.
    pub(super) fn waits(&self) {
        self.0.place.set(Phase::Waiting);
    }

    /// The body is coming, for which `octets` are kept.
    pub(super) fn sending(&self, octets: usize) {
        self.0.place.set_with(Phase::Sending, octets);
    }

    /// The body is there.
    pub(super) fn sent(&self) {
        self.0.place.set(Phase::Served);
    }
}

impl Drop for Serving<'_> {
    fn drop(&mut self) {
        self.0.place.set(Phase::Kept);
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.seats.lock().seats.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    fn seats(total: usize, per_address: usize) -> Arc<Seats> {
        Seats::new(Limits { total, per_address })
    }

    fn ended(seat: &Seat) -> bool {
        seat.place.phase() == Phase::MakesRoom
    }

    #[tokio::test(start_paused = true)]
    async fn the_oldest_idle_one_of_the_address_with_most_makes_room() {
        let seats = seats(6, 4);
        let mut held = Vec::new();
        for last in [1, 2, 2, 2, 2, 1] {
            held.push(seats.take(address(last)).unwrap());
            tokio::time::advance(Duration::from_millis(1)).await;
        }
        // The first of 10.0.0.2 is served, so it is the second that goes, although 10.0.0.1 has been idle for longer.
        let request = held[1].request();
        let newest = seats.take(address(3)).unwrap();
        assert_eq!(held.iter().map(ended).collect::<Vec<_>>(), [false, false, true, false, false, false]);
        assert_eq!(held[2].over().await, Ending::Room { was_kept: false });
        drop((request, newest));
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_at_its_limit_makes_room_itself() {
        let seats = seats(100, 2);
        let other = seats.take(address(1)).unwrap();
        tokio::time::advance(Duration::from_millis(1)).await;
        let first = seats.take(address(2)).unwrap();
        let second = seats.take("::ffff:10.0.0.2".parse().unwrap()).unwrap();
        let third = seats.take(address(2)).unwrap();
        assert!(ended(&first) && !ended(&second) && !ended(&other));
        // Where all of it is served, nothing is ended, and nothing more is taken from it.
        let requests = (second.request(), third.request());
        assert!(seats.take(address(2)).is_none() && seats.take(address(3)).is_some());
        // A body that is still coming gives way where nothing else does.
        requests.0.sending(1);
        assert!(seats.take(address(2)).is_some() && ended(&second));
        drop(requests.0);
        assert!(ended(&second), "what makes room does not come back");
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_is_silent_for_ever() {
        let seats = seats(9, 9);
        let began = Instant::now();
        let seat = seats.take(address(1)).unwrap();
        assert_eq!(seat.over().await, Ending::Silent);
        assert_eq!(began.elapsed().as_secs(), 10);
        // A head that has begun after a request has the same time.
        let seat = seats.take(address(1)).unwrap();
        drop(seat.request());
        tokio::time::advance(Duration::from_secs(60)).await;
        let began = Instant::now();
        seat.heard();
        assert_eq!(seat.over().await, Ending::Silent);
        assert_eq!(began.elapsed().as_secs(), 10);
        // An idle connection outlives the 90 s of Go's client.
        let seat = seats.take(address(1)).unwrap();
        drop(seat.request());
        let began = Instant::now();
        assert_eq!(seat.over().await, Ending::Unused);
        assert_eq!(began.elapsed().as_secs(), 120);
    }

    #[tokio::test(start_paused = true)]
    async fn slow_bodies_end_as_far_as_they_have_to_and_seats_come_back() {
        let seats = seats(9, 9);
        let held: Vec<Seat> = [1, 2, 2, 2].map(|last| seats.take(address(last)).unwrap()).into();
        let requests: Vec<Serving<'_>> = held.iter().map(Seat::request).collect();
        for request in &requests {
            request.sending(10);
        }
        // That of an API server is there within that.
        seats.end_bodies(None, 100, |_| true);
        assert!(!held.iter().any(ended));
        tokio::time::advance(SLOW * 2).await;
        requests[1].sent();
        seats.end_bodies(Some(address(2)), 5, |_| true);
        assert_eq!(held.iter().map(ended).collect::<Vec<_>>(), [false, false, true, false]);
        seats.end_bodies(None, 100, |octets| octets > 10);
        assert!(!ended(&held[0]), "it would not help");
        seats.end_bodies(None, 100, |_| true);
        assert_eq!(held.iter().map(ended).collect::<Vec<_>>(), [true, false, true, true]);
        drop(requests);
        drop(held);
        assert!(seats.lock().seats.is_empty());
    }
}
