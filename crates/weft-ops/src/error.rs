//! What can go wrong while a mesh is looked at, each with its cure.

use weft_control::KubeError;

/// An error of `weft status` or `weft certs`. For `weft check` what cannot be looked at is a finding.
#[derive(Debug, thiserror::Error)]
pub enum OpsError {
    /// There is no way to the API server.
    #[error(transparent)]
    Client(#[from] KubeError),
    /// The API server refuses a list, or cannot be asked for it.
    #[error(
        "cannot list {what}: {reason}. A cluster administrator may list all of it; with less, -n for one namespace may be enough"
    )]
    List {
        /// Of what.
        what: &'static str,
        /// The API server's words, or why it was not reached.
        reason: String,
    },
}
