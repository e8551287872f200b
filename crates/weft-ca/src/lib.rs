//! The mesh certificate authority.
//!
//! The CA answers one question: *which identity does this credential prove?* It signs a key for exactly that identity.
//! What a signing request asks for is ignored apart from its key, so that no bug in a caller and no lie in a request
//! becomes an identity. Every decision is one line in the log under the target `weft::audit`.
//!
//! | module | |
//! |---|---|
//! | `config` | `ca.yaml` |
//! | `material`, `root` | the root: PEM made and checked; its files |
//! | `authority` | what is signed with and what the mesh trusts, while the CA runs |
//! | `credential` | the seam between a token and an identity |
//! | `auth`, `tokens` | join tokens |
//! | `csr`, `issue` | a key out of a request, a leaf for an identity |
//! | `service`, `watchers` | `weft.identity.v1` |
//! | `limits`, `callers`, `holders`, `turns`, `bucket` | what callers may take: places, streams, refusals, questions |
//! | `server`, `conn`, `calls` | TLS, one connection, one call; drain |
//! | `expiry` | the last weeks of root and issuer |
//!
//! `weft ca` runs it from files ([`Ca::bind`]). Elsewhere the root comes from memory ([`Authority`]) and another reviewer
//! judges the tokens ([`Credentials`]): see [`Ca::with`].

mod auth;
mod authority;
mod bucket;
mod callers;
mod calls;
mod config;
mod conn;
mod credential;
mod csr;
mod error;
mod expiry;
mod holders;
mod issue;
mod limits;
mod material;
mod metrics;
mod root;
mod server;
mod service;
mod tokens;
mod turns;
mod watchers;
mod yaml;

pub use authority::{Authority, AuthorityWatch, ServerCertificate};
pub use bucket::Rate;
pub use config::{CaConfig, Lifetimes, RootSource};
pub use credential::{Credentials, Looking, PodRef, Proof, Proving, Unproven};
pub use error::CaError;
pub use limits::Limits;
pub use material::RootPem;
pub use server::{Ca, CaParts};

/// Runs the CA until the drain has closed, or has begun and every call is done.
///
/// # Errors
/// Where the root, the tokens or the address are not to be had at the start: see [`CaError`]. Later failures are logged
/// and the last good state stays.
pub async fn run(config: CaConfig, drain: weft_core::Drain) -> Result<(), CaError> {
    Ca::bind(&config).await?.serve(drain).await
}

/// Whether the key of a signing request (PKCS #10, DER) would be certified, whoever asks. For fuzz targets.
pub fn accepts_signing_request(der: &[u8]) -> bool {
    csr::key(der).is_ok()
}
