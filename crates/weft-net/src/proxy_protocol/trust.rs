//! From whom a header is read.

use weft_core::{AddrSet, ClientAddr};

use super::ProxyProtocolError;

/// Who may say for whom they connect: the load balancers in front. By default nobody.
#[derive(Clone, Debug, Default)]
pub struct TrustedSources(AddrSet);

/// The proof that a peer is one of them.
#[derive(Clone, Copy, Debug)]
pub struct Trusted(());

impl TrustedSources {
    /// Those with these addresses.
    pub fn new(sources: AddrSet) -> Self {
        Self(sources)
    }

    /// Whether the peer of a connection is one of them.
    ///
    /// # Errors
    /// It is not, and nothing is to be read from it.
    pub fn check(&self, peer: ClientAddr) -> Result<Trusted, ProxyProtocolError> {
        if self.0.contains(peer.ip()) { Ok(Trusted(())) } else { Err(ProxyProtocolError::Untrusted { peer }) }
    }
}
