//! Keys, certificates, trust bundle, peer verification and the rustls configurations.
//!
//! Every mesh link stands on three things: a leaf certificate with its key, the *set* of roots that peers are verified
//! with, and the rustls configurations made from both. They change at different times (a leaf twice a day, the roots
//! almost never) and a worker must not notice either. So one immutable [`TlsGeneration`] holds all three, it is built
//! once on the control thread, and a worker takes the current one with a single atomic load ([`Identity::current`]).
//!
//! Who fills it is a *source*: [`FilesSource`] watches PEM files, [`CaSource`] asks the mesh CA and renews in time. A
//! source that fails changes nothing: the last good generation stays until something better comes.
//!
//! What a peer proved is a [`PeerIdentity`]. The verifiers check the chain, the trust domain and that there is exactly
//! one SPIFFE id; [`peer_of`] reads it from a finished handshake and refuses a leaf that has expired since, because a
//! resumed session never meets a verifier. Whether that identity may be *there* is the caller's question
//! ([`weft_core::PeerRule`]).

mod backoff;
mod bundle;
mod ca;
mod codec;
pub mod edge;
mod error;
mod files;
mod handle;
mod issuer;
mod leaf;
mod peer;
pub mod proto;
mod svid;
mod tls;
mod upstream;
mod verify;
mod watch;

pub use bundle::TrustBundle;
pub use ca::CaSource;
pub use error::IdentityError;
pub use files::FilesSource;
pub use handle::{BundleStatus, Identity, IdentityStatus, LeafStatus, Publisher, RootStatus, identity};
pub use leaf::{Leaf, LeafKey};
pub use peer::{LinkProtocol, PeerIdentity, handshake_failure, link_protocol, peer_at, peer_of, tls_error};
pub use tls::{ALPN_HTTP, ALPN_TCP, TlsGeneration, crypto_provider};
pub use upstream::{UpstreamName, UpstreamTrust, upstream_config};
pub use verify::PeerVerifier;
pub use watch::FileWatch;
