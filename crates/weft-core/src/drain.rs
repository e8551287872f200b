//! The drain signal: one trigger, any number of watchers, two phases.
//!
//! On SIGTERM the inbound side drains at once (GOAWAY, `connection: close`) while the outbound side stays open, because
//! the application that is shutting down may still have calls to make. The second phase closes everything.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

/// How long a connection without a request is kept when a drain has begun. Whoever has just connected, or has just sent another
/// request, could not know: one round trip over a long way, and a segment that has to be sent again (RFC 6298 section 2.4).
pub const ON_ITS_WAY: Duration = Duration::from_secs(1);

/// How far the drain has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DrainPhase {
    /// Serving.
    Running,
    /// Inbound finishes what it has and takes nothing new; outbound goes on.
    Draining {
        /// When the second phase begins at the latest.
        deadline: Instant,
    },
    /// Everything closes now.
    Closed,
}

/// A watcher. Clones are cheap and may be handed to every connection.
#[derive(Clone, Debug)]
pub struct Drain(Option<watch::Receiver<DrainPhase>>);

/// Starts the phases. Dropping it counts as [`DrainPhase::Closed`].
#[derive(Debug)]
pub struct DrainTrigger(watch::Sender<DrainPhase>);

/// A trigger and its first watcher, in [`DrainPhase::Running`].
pub fn drain() -> (DrainTrigger, Drain) {
    let (tx, rx) = watch::channel(DrainPhase::Running);
    (DrainTrigger(tx), Drain(Some(rx)))
}

impl Drain {
    /// A watcher of nothing, for a connection that has nothing to drain. Asking it costs nothing.
    pub fn never() -> Self {
        Self(None)
    }

    /// The phase right now.
    pub fn phase(&self) -> DrainPhase {
        match &self.0 {
            None => DrainPhase::Running,
            Some(watched) if watched.has_changed().is_err() => DrainPhase::Closed,
            Some(watched) => *watched.borrow(),
        }
    }

    /// Resolves when draining (or closing) has begun.
    pub async fn draining(&mut self) {
        self.until(|phase| *phase != DrainPhase::Running).await;
    }

    /// Resolves when everything must close.
    pub async fn closed(&mut self) {
        self.until(|phase| *phase == DrainPhase::Closed).await;
    }

    /// Resolves when draining has begun and what was on its way then has had its time ([`ON_ITS_WAY`]), or everything must close.
    pub async fn into_quiet(mut self) {
        self.draining().await;
        // Whichever is first.
        drop(tokio::time::timeout(ON_ITS_WAY, self.closed()).await);
    }

    /// [`Self::closed`] as a value of its own.
    pub async fn into_closed(mut self) {
        self.closed().await;
    }

    async fn until(&mut self, reached: impl FnMut(&DrainPhase) -> bool) {
        match &mut self.0 {
            // An error: the trigger is lost, which counts as closed.
            Some(watched) => drop(watched.wait_for(reached).await),
            None => std::future::pending().await,
        }
    }
}

impl DrainTrigger {
    /// Begins draining; a second call does not move the deadline.
    pub fn start(&self, grace: Duration) {
        self.0.send_if_modified(|phase| {
            let begins = *phase == DrainPhase::Running;
            if begins {
                *phase = DrainPhase::Draining { deadline: Instant::now() + grace };
            }
            begins
        });
    }

    /// Closes everything.
    pub fn close(&self) {
        self.0.send_replace(DrainPhase::Closed);
    }

    /// Another watcher.
    pub fn watch(&self) -> Drain {
        Drain(Some(self.0.subscribe()))
    }

    /// Whether anybody watches.
    pub fn is_watched(&self) -> bool {
        !self.0.is_closed()
    }

    /// Resolves when nobody watches.
    pub async fn unwatched(&self) {
        self.0.closed().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn phases_follow_each_other_and_a_second_start_keeps_the_deadline() {
        let (trigger, mut drain) = drain();
        assert_eq!(drain.phase(), DrainPhase::Running);
        trigger.start(Duration::from_secs(5));
        drain.draining().await;
        let first = drain.phase();
        tokio::time::advance(Duration::from_secs(1)).await;
        trigger.start(Duration::from_secs(60));
        assert_eq!(drain.phase(), first);
        trigger.close();
        drain.closed().await;
        assert_eq!(drain.phase(), DrainPhase::Closed);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_on_its_way_has_its_time() {
        let (trigger, drain) = drain();
        let quiet = tokio::spawn(drain.clone().into_quiet());
        tokio::time::advance(Duration::from_secs(60)).await;
        assert!(!quiet.is_finished());
        trigger.start(Duration::from_secs(30));
        let began = Instant::now();
        quiet.await.unwrap();
        assert!((ON_ITS_WAY..ON_ITS_WAY * 2).contains(&began.elapsed()), "{:?}", began.elapsed());
        // From when it is asked: who comes later has as long.
        let began = Instant::now();
        drain.clone().into_quiet().await;
        assert!(began.elapsed() >= ON_ITS_WAY);
        trigger.close();
        let began = Instant::now();
        drain.into_quiet().await;
        assert_eq!(began.elapsed(), Duration::ZERO);
    }

    #[tokio::test]
    async fn a_lost_trigger_closes() {
        let (trigger, mut drain) = drain();
        drop(trigger);
        drain.closed().await;
        assert_eq!(drain.phase(), DrainPhase::Closed);
    }
}
