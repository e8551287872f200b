//! One dial for all who wait: requests that find no connection with room share the one that is being opened, and its
//! failure.
//!
//! Without that, a burst of requests to a server that is down would open a connection each, or wait for the sum of their
//! timeouts.

use std::cell::{OnceCell, RefCell};
use std::rc::Rc;

use tokio::sync::Notify;

/// The dial to one place that is under way, if there is one. `T` is a connection, as its users share it.
pub(crate) struct Dials<T, E>(Rc<RefCell<UnderWay<T, E>>>);

type UnderWay<T, E> = Option<Rc<Dialing<T, E>>>;

struct Dialing<T, E> {
    result: OnceCell<Result<T, E>>,
    done: Notify,
}

impl<T, E> Default for Dials<T, E> {
    fn default() -> Self {
        Self(Rc::default())
    }
}

impl<T: Clone + 'static, E: Clone + 'static> Dials<T, E> {
    /// A connection with room for one more request: one that `usable` finds, or a new one. The dial is a task of its own,
    /// so that it goes on when the request that began it is cancelled: with timeouts shorter than a handshake there would
    /// else never be a connection.
    pub(crate) async fn connection<F>(
        &self,
        usable: impl Fn() -> Option<T>,
        dial: impl Fn() -> F,
    ) -> Result<T, E>
    where
        F: Future<Output = Result<T, E>> + 'static,
    {
        loop {
            if let Some(connection) = usable() {
                return Ok(connection);
            }
            let under_way = self.0.borrow().clone();
            let is_own = under_way.is_none();
            let dialing = under_way.unwrap_or_else(|| self.begin(dial()));
            let connection = dialing.outcome().await?;
            // Those that have waited look for room in it. Who has dialed takes it, with room or without: a server that
            // allows no stream yet would else be dialed for ever.
            if is_own {
                return Ok(connection);
            }
        }
    }

    fn begin(&self, dial: impl Future<Output = Result<T, E>> + 'static) -> Rc<Dialing<T, E>> {
        let dialing = Rc::new(Dialing { result: OnceCell::new(), done: Notify::new() });
        *self.0.borrow_mut() = Some(Rc::clone(&dialing));
        let (under_way, shared) = (Rc::clone(&self.0), Rc::clone(&dialing));
        tokio::task::spawn_local(async move {
            let _ = shared.result.set(dial.await);
            *under_way.borrow_mut() = None;
            shared.done.notify_waiters();
        });
        dialing
    }
}

impl<T: Clone, E: Clone> Dialing<T, E> {
    async fn outcome(&self) -> Result<T, E> {
        loop {
            let done = self.done.notified();
            if let Some(result) = self.result.get() {
                return result.clone();
            }
            done.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::time::Duration;

    use super::*;

    /// Dials take a second, and connections have room for so many requests.
    struct Server {
        dials: Dials<u32, &'static str>,
        made: Cell<u32>,
        room: Cell<u32>,
    }

    impl Server {
        fn new() -> Rc<Self> {
            Rc::new(Self { dials: Dials::default(), made: Cell::new(0), room: Cell::new(0) })
        }

        async fn request(self: Rc<Self>, room: u32) -> Result<u32, &'static str> {
            let usable = || {
                let left = self.room.get().checked_sub(1)?;
                self.room.set(left);
                Some(self.made.get())
            };
            let dial = || {
                let this = Rc::clone(&self);
                async move {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    this.made.set(this.made.get() + 1);
                    // One of them is for the request that has dialed.
                    this.room.set(room.saturating_sub(1));
                    if room == u32::MAX { Err("down") } else { Ok(this.made.get()) }
                }
            };
            self.dials.connection(usable, dial).await
        }
    }

    async fn burst(server: &Rc<Server>, room: u32) -> Vec<Result<u32, &'static str>> {
        let requests: Vec<_> =
            (0..4).map(|_| tokio::task::spawn_local(Rc::clone(server).request(room))).collect();
        let mut answers = Vec::new();
        for request in requests {
            answers.push(request.await.unwrap());
        }
        answers
    }

    async fn local(test: impl Future<Output = ()>) {
        tokio::task::LocalSet::new().run_until(test).await;
    }

    #[tokio::test(start_paused = true)]
    async fn those_who_wait_share_the_connection_and_the_failure() {
        local(async {
            assert_eq!(burst(&Server::new(), 4).await, [Ok(1); 4]);
            assert_eq!(burst(&Server::new(), 2).await, [Ok(1), Ok(1), Ok(2), Ok(2)]);
            assert_eq!(burst(&Server::new(), u32::MAX).await, [Err("down"); 4], "by one dial");
        })
        .await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_without_room_is_dialed_once_for_each_request() {
        local(async {
            let server = Server::new();
            assert_eq!(burst(&server, 0).await, [Ok(1), Ok(2), Ok(3), Ok(4)]);
        })
        .await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_dial_outlives_the_request_that_began_it() {
        local(async {
            let server = Server::new();
            let short = tokio::time::timeout(Duration::from_millis(10), Rc::clone(&server).request(4)).await;
            assert!(short.is_err());
            let begun = tokio::time::Instant::now();
            assert_eq!(Rc::clone(&server).request(4).await, Ok(1));
            assert!(begun.elapsed() < Duration::from_secs(1) && server.made.get() == 1);
        })
        .await;
    }
}
