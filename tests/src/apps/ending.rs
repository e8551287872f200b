//! How an application that nobody may miss ends when it is asked to (SIGTERM).
//!
//! It goes on serving, tells each client to take another connection (`connection: close`, GOAWAY), closes its door a
//! moment later, and leaves when the last answer has been given. As the first process of a container it would otherwise
//! ignore the signal: the kernel ends a namespace's first process only by signals that it has a handler for.

use std::time::Duration;

use anyhow::{Context, Result};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// From the signal until idle connections and the listening socket are closed.
const LATE: Duration = Duration::from_secs(2);

/// From the signal until the application ends, whatever is under way.
pub(super) const MOST: Duration = Duration::from_secs(20);

/// Knows whether the end has been asked for.
#[derive(Debug, Clone)]
pub(super) struct Ending(watch::Receiver<bool>);

impl Ending {
    /// Listens for the signal from now on.
    pub(super) fn on_sigterm() -> Result<Self> {
        let mut asked = signal(SignalKind::terminate()).context("a handler for SIGTERM")?;
        let (sender, receiver) = watch::channel(false);
        tokio::spawn(async move {
            asked.recv().await;
            sender.send_replace(true);
            // Kept: a channel without a sender would look like an end, too.
            std::future::pending::<()>().await;
        });
        Ok(Self(receiver))
    }

    /// Whether it has been asked for.
    pub(super) fn asked(&self) -> bool {
        *self.0.borrow()
    }

    /// When it is asked for.
    pub(super) async fn now(&self) {
        let mut asked = self.0.clone();
        if asked.wait_for(|asked| *asked).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// When clients have had the time to hear of it.
    pub(super) async fn late(&self) {
        self.now().await;
        tokio::time::sleep(LATE).await;
    }
}
