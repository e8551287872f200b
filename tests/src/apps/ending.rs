//! How an application that nobody may miss ends when it is asked to (SIGTERM).
//!
//! It tells each client to take another connection (`connection: close`, GOAWAY), closes its door (at
//! once, or a moment later), and leaves when the last answer has been given. As the first process of a container it would otherwise
//! ignore the signal: the kernel ends a namespace's first process only by signals that it has a handler for.

use std::pin::{Pin, pin};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// Where it is told how long idle connections and the listening socket stay open after the signal, in milliseconds. Without
/// it they are closed at once, as most servers do; behind a plain Service that costs whoever is just asking.
const LINGER: &str = "TESTAPP_LINGER_MS";

/// From the signal until the application ends, whatever is under way.
pub(super) const MOST: Duration = Duration::from_secs(10);

/// Knows whether the end has been asked for.
#[derive(Debug, Clone)]
pub(super) struct Ending {
    asked: watch::Receiver<bool>,
    linger: Duration,
}

impl Ending {
    /// Listens for the signal from now on.
    pub(super) fn on_sigterm() -> Result<Self> {
        let told = std::env::var(LINGER).ok().map(|text| text.parse().context(LINGER)).transpose()?;
        let linger = Duration::from_millis(told.unwrap_or(0));
        let mut asked = signal(SignalKind::terminate()).context("a handler for SIGTERM")?;
        let (sender, receiver) = watch::channel(false);
        tokio::spawn(async move {
            asked.recv().await;
            sender.send_replace(true);
            // Kept: a channel without a sender would look like an end, too.
            std::future::pending::<()>().await;
        });
        Ok(Self { asked: receiver, linger })
    }

    /// Whether it has been asked for.
    pub(super) fn asked(&self) -> bool {
        *self.asked.borrow()
    }

    /// When it is asked for.
    pub(super) async fn now(&self) {
        let mut asked = self.asked.clone();
        if asked.wait_for(|asked| *asked).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// When clients have had the time to hear of it.
    pub(super) async fn late(&self) {
        self.now().await;
        tokio::time::sleep(self.linger).await;
    }
}

/// Serves a connection to its end, and asks it for a graceful one `when`.
pub(super) async fn gracefully<C: Future>(
    connection: C,
    when: impl Future<Output = ()>,
    ask: impl FnOnce(Pin<&mut C>),
) -> C::Output {
    let mut connection = pin!(connection);
    tokio::select! {
        served = connection.as_mut() => return served,
        () = when => ask(connection.as_mut()),
    }
    connection.await
}
