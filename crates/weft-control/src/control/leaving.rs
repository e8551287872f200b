//! The end of a replica, in two steps.
//!
//! When a pod is told to end, the rest of the cluster hears of it at the same time as the pod does, and later than that
//! on some nodes: until kube-proxy has forgotten it there, the API server and proxies are sent to it. Were nobody
//! listening, a review would fail and, by `failurePolicy: Ignore`, its pod would slip by without a sidecar. So a replica
//! is not ready at once, and goes on serving whoever comes until nobody can come any more.

use std::time::Duration;

use tokio::time::sleep;
use weft_core::{Drain, DrainTrigger};

/// How long calls in progress may take when nothing new is taken any more. All of them take milliseconds; a client that
/// is slower asks again.
pub(super) const GRACE: Duration = Duration::from_secs(5);

/// Begins the drain of the listeners `period` after `told` has begun. Never returns.
pub(super) async fn leave(mut told: Drain, period: Duration, listeners: DrainTrigger) {
    told.draining().await;
    let serving = humantime::format_duration(period);
    tracing::info!(%serving, "told to end: not ready any more, and still serving whoever comes");
    sleep(period).await;
    tracing::info!("the listeners close");
    listeners.start(GRACE);
    told.closed().await;
    listeners.close();
    std::future::pending::<()>().await;
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;
    use weft_core::DrainPhase;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn listeners_stay_for_the_period_and_close_with_everything() {
        let (trigger, told) = weft_core::drain();
        let (listeners, mut drain) = weft_core::drain();
        let period = Duration::from_secs(15);
        let leaving = tokio::spawn(leave(told, period, listeners));
        tokio::time::advance(Duration::from_secs(3600)).await;
        assert_eq!(drain.phase(), DrainPhase::Running);
        let began = Instant::now();
        trigger.start(period + GRACE);
        drain.draining().await;
        assert_eq!(began.elapsed(), period);
        assert_eq!(drain.phase(), DrainPhase::Draining { deadline: Instant::now() + GRACE });
        trigger.close();
        drain.closed().await;
        leaving.abort();
    }
}
