//! What is said while there is no identity: at once, when the trouble changes, and sparingly after that.

use std::mem::{Discriminant, discriminant};
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use crate::IdentityError;

/// The same trouble is told again after this time.
const REMIND: Duration = Duration::from_secs(60);

/// One wait for the first identity.
pub(super) struct Complaint {
    began: Instant,
    since: SystemTime,
    /// Compared by kind: the texts of one trouble differ from try to try, by an address or a port.
    said: Option<(Discriminant<IdentityError>, Instant)>,
}

impl Complaint {
    pub(super) fn new() -> Self {
        Self { began: Instant::now(), since: SystemTime::now(), said: None }
    }

    /// When the wait began.
    pub(super) fn since(&self) -> SystemTime {
        self.since
    }

    /// Whether it is time to say this: then for how long the wait has been going on, in whole seconds.
    pub(super) fn due(&mut self, error: &IdentityError) -> Option<humantime::FormattedDuration> {
        let kind = discriminant(error);
        if self.said.is_some_and(|(last, at)| last == kind && at.elapsed() < REMIND) {
            return None;
        }
        self.said = Some((kind, Instant::now()));
        Some(humantime::format_duration(Duration::from_secs(self.began.elapsed().as_secs())))
    }

    /// The wait is over. Says so if anything was said before.
    pub(super) fn settled(&mut self, ca: &str) {
        if self.said.take().is_some() {
            tracing::info!(ca, "the CA has given an identity");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_trouble_is_told_once_a_minute_and_another_at_once() {
        let away = |reason: &str| IdentityError::CaUnreachable {
            address: "ca:1".to_owned(),
            reason: reason.to_owned(),
        };
        let busy = IdentityError::CaUnavailable { address: "ca:1".to_owned(), reason: String::new() };
        let mut complaint = Complaint::new();
        let mut told = 0;
        for second in 0..150 {
            told += usize::from(complaint.due(&away(&format!("try {second}"))).is_some());
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        assert_eq!(told, 3);
        assert_eq!(complaint.due(&busy).unwrap().to_string(), "2m 30s");
        assert!(complaint.due(&busy).is_none());
        assert!(complaint.due(&away("")).is_some());
    }
}
