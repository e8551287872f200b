//! Places for streams: the connections to one peer, and the one queue of those who wait for a place on them.
//!
//! A peer says how many streams it takes at once (SETTINGS_MAX_CONCURRENT_STREAMS, RFC 9113 section 5.1.2), and may say
//! so again at any time. Who finds no place gets into a queue, and a place that comes free, wherever, goes to who has
//! waited longest and wakes nobody else. Meanwhile another connection is opened, one at a time and up to a bound, for a
//! limit is a connection's; the dial is a task of its own, so that it goes on when the request that began it is cancelled:
//! with timeouts shorter than a handshake there would else never be a connection.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt;
use std::future::poll_fn;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::time::Instant;

use crate::{Http2Client, StreamSlot};

/// How long to wait before the next dial after one could not be opened while others are there to wait for, or after a
/// connection that was given up before it carried anything.
const DIAL_PAUSE: Duration = Duration::from_secs(1);

/// Who is told that places may have come free on one of its connections.
pub(crate) trait Owner {
    /// A stream ended, the peer changed its limit, or the connection takes no more streams.
    fn changed(&self);
}

/// The connections to one peer. `L` is what its user knows of a connection, `E` why there is none.
pub struct Http2Pool<L, E>(Rc<Core<L, E>>);

/// A place for one stream, and the connection that it is on.
pub struct Lease<L> {
    /// The connection.
    pub connection: Rc<L>,
    /// The place on it.
    pub slot: StreamSlot,
}

struct Core<L, E> {
    this: Weak<Self>,
    most: usize,
    connections: RefCell<Vec<Rc<L>>>,
    /// Who waits, by the order in which they came.
    waiting: RefCell<BTreeMap<u64, Rc<Seat<L, E>>>>,
    next: Cell<u64>,
    dialing: Cell<bool>,
    no_dial_before: Cell<Option<Instant>>,
}

/// One who waits.
struct Seat<L, E> {
    waker: RefCell<Option<Waker>>,
    outcome: RefCell<Option<Result<Lease<L>, E>>>,
}

impl<L, E> Http2Pool<L, E>
where
    L: AsRef<Http2Client> + 'static,
    E: Clone + 'static,
{
    /// A pool of at most so many connections.
    pub fn new(most: usize) -> Self {
        Self(Rc::new_cyclic(|this| Core {
            this: this.clone(),
            most,
            connections: RefCell::default(),
            waiting: RefCell::default(),
            next: Cell::default(),
            dialing: Cell::default(),
            no_dial_before: Cell::default(),
        }))
    }

    /// A place, if there is one and nobody waits for it. Connections that are not to be used any more, as `keep` says, are
    /// let go; their streams go on.
    pub fn try_acquire(&self, keep: impl Fn(&L) -> bool) -> Option<Lease<L>> {
        self.0.connections.borrow_mut().retain(|connection| {
            let client: &Http2Client = (**connection).as_ref();
            let stays = keep(connection);
            if !stays {
                client.retire();
            }
            stays && client.is_open()
        });
        if self.0.waiting.borrow().is_empty() { self.0.find() } else { None }
    }

    /// A place, as soon as it is this caller's turn; `dial` opens a connection where none has room.
    ///
    /// # Errors
    /// What `dial` says, where there is no connection to wait for.
    pub async fn acquire<F>(&self, keep: impl Fn(&L) -> bool, dial: impl Fn() -> F) -> Result<Lease<L>, E>
    where
        F: Future<Output = Result<L, E>> + 'static,
    {
        if let Some(lease) = self.try_acquire(keep) {
            return Ok(lease);
        }
        let waiter = self.0.wait();
        poll_fn(|cx| {
            if let Some(outcome) = waiter.poll(cx) {
                return Poll::Ready(outcome);
            }
            if self.0.wants_another() {
                self.0.dial(dial());
            }
            Poll::Pending
        })
        .await
    }

    /// Whether there is a connection, with a place or without.
    pub fn is_connected(&self) -> bool {
        self.0.connections.borrow().iter().any(|connection| (**connection).as_ref().is_open())
    }

    /// How many wait for a place.
    pub fn waiting(&self) -> usize {
        self.0.waiting.borrow().len()
    }
}

impl<L, E> Core<L, E>
where
    L: AsRef<Http2Client> + 'static,
    E: Clone + 'static,
{
    fn find(&self) -> Option<Lease<L>> {
        let connections = self.connections.borrow();
        connections.iter().find_map(|connection| {
            let slot = (**connection).as_ref().slot()?;
            Some(Lease { connection: Rc::clone(connection), slot })
        })
    }

    /// A seat at the end of the queue.
    fn wait(&self) -> Waiter<'_, L, E> {
        let number = self.next.get();
        self.next.set(number + 1);
        let seat = Rc::new(Seat { waker: RefCell::default(), outcome: RefCell::default() });
        self.waiting.borrow_mut().insert(number, Rc::clone(&seat));
        Waiter { pool: self, number, seat }
    }

    /// Whether who waits needs one more connection. A peer that takes no stream at all on one says "not now", and would
    /// say so on the next as well.
    fn wants_another(&self) -> bool {
        let connections = self.connections.borrow();
        !self.dialing.get()
            && connections.len() < self.most
            && !self.waiting.borrow().is_empty()
            && connections.iter().all(|connection| (**connection).as_ref().limit() > 0)
    }

    fn dial(&self, dial: impl Future<Output = Result<L, E>> + 'static) {
        self.dialing.set(true);
        let Some(this) = self.this.upgrade() else { return };
        tokio::task::spawn_local(async move {
            if let Some(then) = this.no_dial_before.take() {
                tokio::time::sleep_until(then).await;
            }
            let dialed = dial.await;
            this.dialed(dialed);
        });
    }

    fn dialed(&self, dialed: Result<L, E>) {
        self.dialing.set(false);
        match dialed {
            Ok(connection) => {
                let owner: Weak<dyn Owner> = self.this.clone();
                connection.as_ref().belongs_to(owner);
                self.connections.borrow_mut().push(Rc::new(connection));
            }
            Err(error) => {
                self.forget_closed();
                if self.connections.borrow().is_empty() {
                    self.fail(&error);
                } else {
                    self.pause();
                }
            }
        }
        self.changed();
    }

    fn forget_closed(&self) {
        self.connections.borrow_mut().retain(|connection| {
            let client: &Http2Client = (**connection).as_ref();
            if !client.is_open() && !client.was_used() {
                self.pause();
            }
            client.is_open()
        });
    }

    fn pause(&self) {
        self.no_dial_before.set(Some(Instant::now() + DIAL_PAUSE));
    }

    fn fail(&self, error: &E) {
        let all = std::mem::take(&mut *self.waiting.borrow_mut());
        for seat in all.into_values() {
            seat.settle(Err(error.clone()));
        }
    }
}

impl<L, E> Owner for Core<L, E>
where
    L: AsRef<Http2Client> + 'static,
    E: Clone + 'static,
{
    fn changed(&self) {
        if self.waiting.borrow().is_empty() {
            return;
        }
        self.forget_closed();
        while let Some(lease) = self.find() {
            let Some((_, first)) = self.waiting.borrow_mut().pop_first() else { return };
            first.settle(Ok(lease));
        }
        if self.wants_another() {
            // Who is next knows how to dial.
            let first = self.waiting.borrow().first_key_value().map(|(_, seat)| Rc::clone(seat));
            if let Some(first) = first {
                first.wake();
            }
        }
    }
}

impl<L, E> Seat<L, E> {
    fn settle(&self, outcome: Result<Lease<L>, E>) {
        *self.outcome.borrow_mut() = Some(outcome);
        self.wake();
    }

    fn wake(&self) {
        let waker = self.waker.borrow_mut().take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// Leaves the queue when it is dropped. A place that it has got by then goes to who is next.
struct Waiter<'a, L, E>
where
    L: AsRef<Http2Client> + 'static,
    E: Clone + 'static,
{
    pool: &'a Core<L, E>,
    number: u64,
    seat: Rc<Seat<L, E>>,
}

impl<L, E> Waiter<'_, L, E>
where
    L: AsRef<Http2Client> + 'static,
    E: Clone + 'static,
{
    fn poll(&self, cx: &Context<'_>) -> Option<Result<Lease<L>, E>> {
        let outcome = self.seat.outcome.borrow_mut().take();
        if outcome.is_none() {
            *self.seat.waker.borrow_mut() = Some(cx.waker().clone());
        }
        outcome
    }
}

impl<L, E> Drop for Waiter<'_, L, E>
where
    L: AsRef<Http2Client> + 'static,
    E: Clone + 'static,
{
    fn drop(&mut self) {
        let left = self.pool.waiting.borrow_mut().remove(&self.number).is_some();
        // Bound first: what is dropped here gives its place to the next, who is not us.
        let unused = self.seat.outcome.borrow_mut().take();
        drop(unused);
        if left {
            // It may have been asked to dial.
            self.pool.changed();
        }
    }
}

impl<L, E> fmt::Debug for Http2Pool<L, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Http2Pool")
            .field("connections", &self.0.connections.borrow().len())
            .field("waiting", &self.0.waiting.borrow().len())
            .finish()
    }
}

impl<L> fmt::Debug for Lease<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease").field("slot", &self.slot).finish_non_exhaustive()
    }
}
