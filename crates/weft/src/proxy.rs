//! `weft proxy` and `weft gateway`: one process, with the doors of its role.

use std::path::PathBuf;
use std::process::ExitCode;

use weft_config::{Env, ProxyConfig, Role};
use weft_proxy::RunOptions;
use weft_telemetry::metrics::BuildInfo;

use crate::log::{self, Format};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The configuration file.
    #[arg(long, value_name = "FILE", default_value = "/etc/weft/weft.yaml", env = "WEFT_CONFIG")]
    config: PathBuf,
    /// Threads that carry traffic, or "auto"; overrides the configuration.
    #[arg(long, value_name = "N")]
    workers: Option<String>,
    /// Sets any field of the configuration, such as --set inbound.mode=permissive; may be given more than once.
    #[arg(long = "set", value_name = "FIELD=VALUE")]
    sets: Vec<String>,
}

pub(crate) fn run(role: Role, args: &Args, log: Option<&str>, format: Format) -> ExitCode {
    let mut env = Env::from_process().with_role(role);
    for set in &args.sets {
        match set.split_once('=') {
            Some((field, value)) => env = env.with_flag(&format!("--set {field}"), field, value),
            None => return crate::usage(format_args!("--set {set}: write FIELD=VALUE")),
        }
    }
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
    let build = BuildInfo {
        version: env!("CARGO_PKG_VERSION"),
        revision: crate::version::REVISION,
        rustc: crate::version::RUSTC,
    };
    match weft_proxy::run(config, RunOptions { env, log: switch, build, trim: crate::alloc::trim }) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "the proxy stopped");
            ExitCode::FAILURE
        }
    }
}
