//! Runs a service until it is told to stop.

use std::future::Future;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use weft_core::Drain;

/// How long calls in progress may take at the end. All of them take milliseconds; a client that is slower asks again.
pub(crate) const GRACE: Duration = Duration::from_secs(5);

/// Runs `service` on a runtime of its own. SIGTERM and SIGINT begin the drain, which closes after `grace`, or with a
/// second signal: somebody at a terminal does not want to wait.
///
/// # Errors
/// Those of the service, and where there is no runtime.
pub(crate) fn until_told<F, E>(grace: Duration, service: impl FnOnce(Drain) -> F) -> anyhow::Result<()>
where
    F: Future<Output = Result<(), E>>,
    E: std::error::Error + Send + Sync + 'static,
{
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let (trigger, drain) = weft_core::drain();
        let mut term = signal(SignalKind::terminate())?;
        let mut int = signal(SignalKind::interrupt())?;
        let stop = async {
            tokio::select! {
                _ = term.recv() => {}
                _ = int.recv() => {}
            }
            tracing::info!("draining");
            trigger.start(grace);
            tokio::select! {
                () = tokio::time::sleep(grace) => {}
                _ = term.recv() => {}
                _ = int.recv() => {}
            }
            trigger.close();
            std::future::pending::<()>().await;
        };
        tokio::select! {
            served = service(drain) => Ok(served?),
            () = stop => Ok(()),
        }
    })
}
