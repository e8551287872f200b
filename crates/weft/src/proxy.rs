//! `weft proxy`.

use std::path::PathBuf;
use std::process::ExitCode;

use weft_config::{Env, ProxyConfig};
use weft_proxy::RunOptions;
use weft_telemetry::metrics::BuildInfo;

use crate::log::{self, Format};

/// Run the sidecar proxy.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The configuration file.
    #[arg(long, value_name = "FILE", default_value = "/etc/weft/weft.yaml")]
    config: PathBuf,
    /// Threads that carry traffic, or "auto"; overrides the configuration.
    #[arg(long, value_name = "N")]
    workers: Option<String>,
}

pub(crate) fn run(args: &Args, log: Option<&str>, format: Format) -> ExitCode {
    let mut env = Env::from_process();
    if let Some(workers) = &args.workers {
        env = env.with_flag("--workers", "workers", workers.clone());
    }
    if let Some(log) = log {
        env = env.with_flag("--log", "log", log);
    }
    let config = match ProxyConfig::load(&args.config, &env) {
        Ok(config) => config,
        Err(errors) => return crate::usage(errors),
    };
    let switch = match log::start(&[Some(&config.snapshot.log)], format) {
        Ok(switch) => switch,
        Err(error) => return crate::usage(error),
    };
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    let build = BuildInfo { version: env!("CARGO_PKG_VERSION"), revision: "", rustc: "" };
    match weft_proxy::run(config, RunOptions { env, log: switch, build }) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "the proxy stopped");
            ExitCode::FAILURE
        }
    }
}
