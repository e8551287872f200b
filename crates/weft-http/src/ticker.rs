//! A timer that costs next to nothing while it has not fired.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

/// Ready once in a while, for whoever looks after a connection now and then.
///
/// A connection is polled with every read and every answer, and polling a timer costs more than all else that is looked at
/// then. All polls must come from one task: then a timer that has not fired need not be told again whom to wake.
#[derive(Debug)]
pub(crate) struct Ticker {
    every: Duration,
    timer: Option<Pin<Box<Sleep>>>,
    /// The timer will wake us.
    armed: bool,
}

impl Ticker {
    /// A ticker whose first time begins when it is polled first.
    pub(crate) fn new(every: Duration) -> Self {
        Self { every, timer: None, armed: false }
    }

    /// Ready where the time has passed since the last tick. After that it must be polled again, to be woken by the next.
    pub(crate) fn poll_tick(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(self.every)));
        if self.armed && !timer.is_elapsed() {
            return Poll::Pending;
        }
        // A task that has used up its budget would be told Pending by a timer that was never set.
        self.armed = std::pin::pin!(tokio::task::unconstrained(timer.as_mut())).poll(cx).is_pending();
        if self.armed {
            return Poll::Pending;
        }
        timer.as_mut().reset(Instant::now() + self.every);
        Poll::Ready(())
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_ticks_though_it_was_armed_when_its_task_had_done_much() {
        let mut ticker = Ticker::new(Duration::from_secs(3));
        let mut busy = true;
        let ticked = poll_fn(|cx| {
            while std::mem::take(&mut busy) {
                busy = std::pin::pin!(tokio::task::consume_budget()).poll(cx).is_ready();
            }
            ticker.poll_tick(cx)
        });
        assert!(tokio::time::timeout(Duration::from_secs(10), ticked).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn it_ticks_again_and_again_however_often_it_is_polled_between() {
        let start = Instant::now();
        let mut ticker = Ticker::new(Duration::from_secs(3));
        for round in 1..4 {
            let mut other = Box::pin(tokio::time::sleep(Duration::from_secs(1)));
            poll_fn(|cx| {
                // Another timer of the same task wakes it meanwhile.
                if other.as_mut().poll(cx).is_ready() {
                    other = Box::pin(tokio::time::sleep(Duration::from_millis(10)));
                    let _ = other.as_mut().poll(cx);
                }
                ticker.poll_tick(cx)
            })
            .await;
            assert_eq!(start.elapsed(), Duration::from_secs(3 * round));
        }
    }
}
