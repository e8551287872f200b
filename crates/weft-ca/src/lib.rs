//! The mesh certificate authority.
//!
//! The CA answers one question: *which identity does this credential prove?* It signs a key for exactly that identity.
//! What a signing request asks for is ignored apart from its key, so that no bug in a caller and no lie in a request
//! becomes an identity. Every decision is one line in the log under the target `weft::audit`.
//!
//! | module | |
//! |---|---|
//! | `config` | `ca.yaml` |
//! | `root` | the root: made on the first start, or loaded |
//! | `bundle` | the roots that the mesh trusts, watched |
//! | `auth`, `tokens` | credentials to identities |
//! | `csr`, `issue` | a key out of a request, a leaf for an identity |
//! | `service`, `watchers` | `weft.identity.v1` |
//! | `server`, `conn` | TLS, limits, drain |

mod auth;
mod bundle;
mod config;
mod conn;
mod csr;
mod error;
mod issue;
mod root;
mod server;
mod service;
mod tokens;
mod watchers;
mod yaml;

pub use config::{CaConfig, RootSource};
pub use error::CaError;
pub use server::Ca;

/// Runs the CA until the drain has closed, or has begun and every call is done.
///
/// # Errors
/// Where the root, the tokens or the address are not to be had at the start: see [`CaError`]. Later failures are logged
/// and the last good state stays.
pub async fn run(config: CaConfig, drain: weft_core::Drain) -> Result<(), CaError> {
    Ca::bind(&config).await?.serve(drain).await
}
