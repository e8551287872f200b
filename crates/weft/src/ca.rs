//! `weft ca`.

use std::path::PathBuf;
use std::process::ExitCode;

use weft_ca::CaConfig;

use crate::log::{self, Format};
use crate::serve;

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
    match serve::until_told(serve::GRACE, |drain| weft_ca::run(config, drain)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = %format!("{error:#}"), "the CA stopped");
            ExitCode::FAILURE
        }
    }
}
