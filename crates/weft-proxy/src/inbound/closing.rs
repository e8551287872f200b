//! When plaintext connections end.
//!
//! A mode that becomes strict holds for connections that are open, too: whoever came in without mutual TLS finishes what is
//! under way (HTTP is told to go: `connection: close`, GOAWAY) and is gone after `timeouts.drain` at the latest, bytes that
//! nobody understands included. Otherwise a pool of database connections would stay in plaintext for days after the
//! operator closed the namespace.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use weft_core::{Drain, DrainTrigger, MtlsMode};

/// What plaintext connections of one worker watch.
pub(crate) struct PlaintextDrain {
    inside: RefCell<DrainTrigger>,
    strict: Cell<bool>,
}

impl PlaintextDrain {
    pub(crate) fn new() -> Self {
        Self { inside: RefCell::new(weft_core::drain().0), strict: Cell::new(false) }
    }

    /// For a connection that is let in now.
    pub(super) fn watch(&self) -> Drain {
        self.inside.borrow().watch()
    }

    /// Takes a mode over. Those that `strict` no longer lets in have `grace` to end.
    pub(crate) fn follow(&self, mode: MtlsMode, grace: Duration) {
        let strict = mode == MtlsMode::Strict;
        let closes = strict && !self.strict.replace(strict);
        if !closes || !self.inside.borrow().is_watched() {
            return;
        }
        let trigger = self.inside.replace(weft_core::drain().0);
        tracing::info!(?grace, "mode strict: ending the connections without mutual TLS that are open");
        trigger.start(grace);
        tokio::task::spawn_local(async move {
            tokio::select! {
                () = tokio::time::sleep(grace) => trigger.close(),
                () = trigger.unwatched() => {}
            }
        });
    }

    /// Passes the process's own drain on, to those who are inside as to those who still come in.
    pub(crate) async fn pass_on(self: Rc<Self>, mut drain: Drain, grace: Duration) {
        drain.draining().await;
        self.inside.borrow().start(grace);
        drain.closed().await;
        self.inside.borrow().close();
    }
}

#[cfg(test)]
mod tests {
    use weft_core::DrainPhase;

    use super::*;

    const GRACE: Duration = Duration::from_secs(5);

    async fn locally(test: impl Future<Output = ()>) {
        tokio::task::LocalSet::new().run_until(test).await;
    }

    #[tokio::test(start_paused = true)]
    async fn strict_ends_those_inside_and_nobody_later() {
        locally(async {
            let plaintext = PlaintextDrain::new();
            let mut inside = plaintext.watch();
            plaintext.follow(MtlsMode::Permissive, GRACE);
            assert_eq!(inside.phase(), DrainPhase::Running);
            plaintext.follow(MtlsMode::Strict, GRACE);
            let later = plaintext.watch();
            inside.draining().await;
            let start = tokio::time::Instant::now();
            inside.closed().await;
            assert_eq!(start.elapsed(), GRACE);
            assert_eq!(later.phase(), DrainPhase::Running, "another mode may let them in again");
        })
        .await;
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_of_the_process_is_passed_on() {
        locally(async {
            let plaintext = Rc::new(PlaintextDrain::new());
            let (trigger, drain) = weft_core::drain();
            tokio::task::spawn_local(Rc::clone(&plaintext).pass_on(drain, GRACE));
            let mut inside = plaintext.watch();
            trigger.start(GRACE);
            inside.draining().await;
            trigger.close();
            inside.closed().await;
        })
        .await;
    }
}
