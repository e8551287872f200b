//! `weft control`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use weft_control::control::{Binds, Control, ControlConfig, ControlOptions, Part};
use weft_telemetry::metrics::BuildInfo;

use crate::log::{self, Format};
use crate::serve;

/// The client library writes an answer that it cannot read into its log, whole: here that could be a token or a key.
const QUIET: &str = "kube_client::client=error";

/// Run the parts of Weft that know of Kubernetes.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The configuration file.
    #[arg(long, value_name = "FILE", default_value = "/etc/weft-control/config.yaml", env = "WEFT_CONFIG")]
    config: PathBuf,
    /// Run only these parts, separated by commas: ca, injector, controller.
    #[arg(long, value_name = "PARTS", value_delimiter = ',')]
    only: Vec<Part>,
    /// Weft's own namespace; overrides the configuration.
    #[arg(long, value_name = "NAMESPACE")]
    namespace: Option<weft_core::Namespace>,
    /// Where the CA listens; port 15012 of every address by default.
    #[arg(long, value_name = "IP:PORT")]
    bind_ca: Option<SocketAddr>,
    /// Where the injector listens; port 15443 of every address by default.
    #[arg(long, value_name = "IP:PORT")]
    bind_injector: Option<SocketAddr>,
    /// Where /metrics is served; port 15020 of every address by default.
    #[arg(long, value_name = "IP:PORT")]
    bind_metrics: Option<SocketAddr>,
    /// Where /live and /ready are served; port 15021 of every address by default.
    #[arg(long, value_name = "IP:PORT")]
    bind_health: Option<SocketAddr>,
}

pub(crate) fn run(args: &Args, log: Option<&str>, format: Format) -> ExitCode {
    let env = std::env::var("WEFT_LOG").ok();
    let directives = format!("{},{QUIET}", log.or(env.as_deref()).unwrap_or("info"));
    if let Err(error) = log::start(&[Some(&directives)], format) {
        return crate::usage(error);
    }
    let mut config = match ControlConfig::load(&args.config) {
        Ok(config) => config,
        Err(error) => return crate::usage(error),
    };
    if let Some(namespace) = &args.namespace {
        config.namespace = namespace.clone();
    }
    let grace = config.drain_time();
    let options = args.options(config);
    let served = serve::until_told(grace, |drain| async move {
        let client = weft_control::client::of_surroundings().await?;
        Control::bind(options, client).await?.serve(drain).await
    });
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = %format!("{error:#}"), "control stopped");
            ExitCode::FAILURE
        }
    }
}

impl Args {
    fn options(&self, config: ControlConfig) -> ControlOptions {
        let default = Binds::default();
        ControlOptions {
            config,
            file: Some(self.config.clone()),
            replica: replica(),
            parts: if self.only.is_empty() { Part::ALL.into() } else { self.only.iter().copied().collect() },
            binds: Binds {
                ca: self.bind_ca.unwrap_or(default.ca),
                injector: self.bind_injector.unwrap_or(default.injector),
                metrics: self.bind_metrics.unwrap_or(default.metrics),
                health: self.bind_health.unwrap_or(default.health),
            },
            build: BuildInfo {
                version: env!("CARGO_PKG_VERSION"),
                revision: crate::version::REVISION,
                rustc: crate::version::RUSTC,
            },
        }
    }
}

/// The pod's name, by which the Lease of the leader is held; the host's elsewhere.
fn replica() -> String {
    let name = std::env::var("POD_NAME").or_else(|_| std::fs::read_to_string("/proc/sys/kernel/hostname"));
    name.map_or_else(|_| std::process::id().to_string(), |name| name.trim().to_owned())
}
