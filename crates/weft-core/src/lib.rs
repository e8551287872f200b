//! The vocabulary of the mesh as types.
//!
//! Everything that two crates must agree on lives here: names, addresses, identities, the list of endpoints that
//! discovery hands to balancing, and the drain signal. This crate depends on no other crate of the workspace and does
//! no I/O, so that a mistake in a name or an identity is a type error in every crate above it.

mod addr;
mod addr_set;
mod certificates;
mod drain;
mod endpoint;
mod error;
mod identity;
mod log_format;
mod mode;
mod name;
mod protocol;

pub use addr::{ClientAddr, EndpointAddr, OriginalDst, canonical};
pub use addr_set::AddrSet;
pub use certificates::CaCertificates;
pub use drain::{Drain, DrainPhase, DrainTrigger, ON_ITS_WAY, drain};
pub use endpoint::{EndpointList, EndpointSource};
pub use error::ParseError;
pub use identity::{Namespace, PeerRule, ServiceAccount, SpiffeId, TrustDomain};
pub use log_format::{LogField, LogFormat, LogFormatError, LogPiece};
pub use mode::MtlsMode;
pub use name::{DnsName, ServiceKey};
pub use protocol::{AppProtocol, ContentCoding, ProxyProtocol};
