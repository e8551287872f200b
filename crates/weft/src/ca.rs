//! `weft ca`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use weft_ca::{CaConfig, CaError};

use crate::log::{self, Format};

/// How long calls in progress may take at the end. Signing takes milliseconds; a client that is slower asks again.
const GRACE: Duration = Duration::from_secs(5);

/// Run the mesh certificate authority.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The configuration file.
    #[arg(long, value_name = "FILE", default_value = "/etc/weft/ca.yaml", env = "WEFT_CONFIG")]
    config: PathBuf,
}

pub(crate) fn run(args: &Args, log: Option<&str>, format: Format) -> ExitCode {
    let env = std::env::var("WEFT_LOG").ok();
    if let Err(error) = log::start(&[log, env.as_deref()], format) {
        return crate::usage(error);
    }
    let config = match CaConfig::load(&args.config) {
        Ok(config) => config,
        Err(error) => return crate::usage(error),
    };
    match serve(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = %format!("{error:#}"), "the CA stopped");
            ExitCode::FAILURE
        }
    }
}

fn serve(config: CaConfig) -> anyhow::Result<()> {
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
            trigger.start(GRACE);
            tokio::time::sleep(GRACE).await;
            trigger.close();
            std::future::pending::<()>().await;
        };
        let served: Result<(), CaError> = tokio::select! {
            result = weft_ca::run(config, drain) => result,
            () = stop => Ok(()),
        };
        Ok(served?)
    })
}
