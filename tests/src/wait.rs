//! Waiting for something to become true, with a deadline.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Looks every few milliseconds until `look` gives a value.
///
/// # Errors
/// `look` failed, or `deadline` passed without a value.
pub fn eventually<T>(
    what: &str,
    deadline: Duration,
    mut look: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let end = Instant::now() + deadline;
    let mut pause = Duration::from_millis(1);
    loop {
        if let Some(value) = look()? {
            return Ok(value);
        }
        if Instant::now() >= end {
            bail!("waited {deadline:?} in vain for {what}");
        }
        rest(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

/// Lets time pass on a test's own thread.
#[expect(clippy::disallowed_methods, reason = "a story runs on a thread of its own, with no worker to block")]
pub fn rest(time: Duration) {
    std::thread::sleep(time);
}
