//! Waiting for the API server.

use std::time::Duration;

use tokio::time::Instant;

use super::admin::PartReadiness;

/// The pause after the first failure to reach the API server; it doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// Short, because pods wait for their certificates meanwhile.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// The same failure is told again after this time.
const REMIND: Duration = Duration::from_secs(60);

/// Waiting for the API server: says so once, again when the reason changes, and sparingly after that.
pub(super) struct Wait<'a> {
    parts: Vec<&'a PartReadiness>,
    since: Instant,
    pause: Duration,
    said: Option<(String, Instant)>,
}

impl<'a> Wait<'a> {
    /// `parts` cannot be ready meanwhile.
    pub(super) fn new(parts: impl IntoIterator<Item = &'a PartReadiness>) -> Self {
        let parts = parts.into_iter().collect();
        Self { parts, since: Instant::now(), pause: FIRST_PAUSE, said: None }
    }

    /// Says why, where that is due, and pauses.
    pub(super) async fn failed(&mut self, error: &str) {
        for ready in &self.parts {
            ready.waiting(format!("waits for the API server: {error}"));
        }
        if self.said.as_ref().is_none_or(|(last, at)| last != error || at.elapsed() >= REMIND) {
            let waiting = humantime::format_duration(Duration::from_secs(self.since.elapsed().as_secs()));
            tracing::warn!(error, %waiting, "waiting for the API server; not ready");
            self.said = Some((error.to_owned(), Instant::now()));
        }
        tokio::time::sleep(self.pause.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
    }

    /// The wait is over.
    pub(super) fn over(&self) {
        if self.said.is_some() {
            tracing::info!("the API server is there");
        }
    }
}
