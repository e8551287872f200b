use std::time::Duration;

/// The first pause after a failure.
const FIRST: Duration = Duration::from_millis(500);
/// The longest pause: a CA that comes back serves a whole mesh again within about a minute.
const LONGEST: Duration = Duration::from_secs(60);
/// The longest pause of who has nothing yet: a pod that waits to start wants the CA as soon as it is back.
const LONGEST_AT_FIRST: Duration = Duration::from_secs(5);

/// Exponential backoff with jitter, so that a mesh whose CA was away does not come back in one instant.
#[derive(Debug)]
pub(crate) struct Backoff {
    next: Duration,
}

impl Backoff {
    pub(crate) fn new() -> Self {
        Self { next: FIRST }
    }

    /// The pause before the next try: between half and the whole of a length that doubles with each failure.
    pub(crate) fn pause(&mut self) -> Duration {
        let pause = self.next.mul_f64(0.5 + fastrand::f64() / 2.0);
        self.next = (self.next * 2).min(LONGEST);
        pause
    }

    /// The same for who has nothing yet, never longer than five seconds.
    pub(crate) fn short_pause(&mut self) -> Duration {
        self.next = self.next.min(LONGEST_AT_FIRST);
        self.pause()
    }

    /// After a success.
    pub(crate) fn reset(&mut self) {
        self.next = FIRST;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest_and_start_over() {
        let mut backoff = Backoff::new();
        let mut length = FIRST;
        for _ in 0..20 {
            let pause = backoff.pause();
            assert!(pause >= length / 2 && pause <= length, "{pause:?} of {length:?}");
            length = (length * 2).min(LONGEST);
        }
        assert!(backoff.pause() >= LONGEST / 2);
        for _ in 0..20 {
            let pause = backoff.short_pause();
            assert!(pause >= LONGEST_AT_FIRST / 2 && pause <= LONGEST_AT_FIRST, "{pause:?}");
        }
        backoff.reset();
        assert!(backoff.pause() <= FIRST);
    }
}
