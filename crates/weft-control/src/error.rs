//! What can go wrong, each with its cure.

use std::path::PathBuf;

/// An error of `weft control`, of an installation, or on the way to the API server.
#[derive(Debug, thiserror::Error)]
pub enum KubeError {
    /// Settings that the controller cannot follow.
    #[error(transparent)]
    Settings(#[from] crate::controller::SettingsError),
    /// An option that cannot be used.
    #[error("{option} {value:?}: {reason}")]
    Option {
        /// The command-line option.
        option: &'static str,
        /// Its value.
        value: String,
        /// What is wrong with it, and the cure.
        reason: String,
    },
    /// `config.yaml` of `weft control` is not what it should be.
    #[error("{}{}{}: {reason}", path.display(), line_number(*line), field_name(field))]
    Config {
        /// The file.
        path: PathBuf,
        /// The line, from 1, where one can be told.
        line: Option<u64>,
        /// The field, where one can be told.
        field: String,
        /// What is wrong.
        reason: String,
    },
    /// Values of an installation that cannot be used.
    #[error(transparent)]
    Values(#[from] crate::manifests::Problems),
    /// An object cannot be written.
    #[error("{object}: {reason}")]
    Manifest {
        /// Which one.
        object: String,
        /// Why.
        reason: String,
    },
    /// The API server refuses, or cannot be asked.
    #[error("{what}: {reason}")]
    Api {
        /// What was to be done.
        what: String,
        /// The API server's words, or why it was not reached.
        reason: String,
    },
    /// The issuer's Secret cannot be used as it is.
    #[error("Secret {secret} {reason}")]
    Issuer {
        /// Namespace and name.
        secret: String,
        /// What is wrong, and the cure.
        reason: String,
    },
    /// The CA cannot start or go on.
    #[error(transparent)]
    Ca(#[from] weft_ca::CaError),
    /// What is to be sent to a collector cannot be, as it is configured.
    #[error("telemetry: {0}")]
    Telemetry(#[from] weft_telemetry::TelemetryError),
    /// An address cannot be listened on.
    #[error("cannot listen on {address} ({what}): {reason}")]
    Listen {
        /// The address.
        address: std::net::SocketAddr,
        /// What for.
        what: &'static str,
        /// What the system says.
        reason: String,
    },
    /// The injector's serving certificate cannot be made.
    #[error("no certificate for the injector: {0}")]
    Serving(String),
    /// Helm made the installation, and keeps a record of it.
    #[error(
        "this installation is Helm's: run helm uninstall {release} --namespace {namespace}, which removes what was \
         made at run time as well"
    )]
    HelmRelease {
        /// Where.
        namespace: String,
        /// The release.
        release: String,
    },
    /// Something that was deleted is still there.
    #[error("{what} are still there after {seconds} s; see why with kubectl describe, then run this again")]
    NotGone {
        /// What.
        what: &'static str,
        /// How long was waited.
        seconds: u64,
    },
}

fn line_number(line: Option<u64>) -> String {
    line.map(|line| format!(":{line}")).unwrap_or_default()
}

fn field_name(field: &str) -> String {
    if field.is_empty() { String::new() } else { format!(": {field}") }
}
