use std::fmt;
use std::sync::Arc;

use crate::{AppProtocol, EndpointAddr};

/// Where a list of endpoints came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndpointSource {
    /// SRV records of the service or of its `<service>-endpoints` twin.
    Srv,
    /// The A and AAAA records of a headless service.
    Headless,
    /// No twin: the address that the application dialed (a virtual IP, or an address without a name).
    Dialed,
    /// A list in the configuration.
    Static,
}

impl fmt::Display for EndpointSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Srv => "srv",
            Self::Headless => "headless",
            Self::Dialed => "dialed",
            Self::Static => "static",
        })
    }
}

/// The endpoints of one service at one moment, as discovery hands them to balancing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointList {
    /// Counts up with each change, so that a reader can tell cheaply whether to look again.
    pub version: u64,
    /// Sorted, without duplicates.
    pub endpoints: Arc<[EndpointAddr]>,
    /// What the records say about the protocol.
    pub protocol: AppProtocol,
    /// Where the list came from.
    pub source: EndpointSource,
}

impl EndpointList {
    /// A list with the endpoints sorted and duplicates removed.
    pub fn new(
        version: u64,
        mut endpoints: Vec<EndpointAddr>,
        protocol: AppProtocol,
        source: EndpointSource,
    ) -> Self {
        endpoints.sort_unstable();
        endpoints.dedup();
        Self { version, endpoints: endpoints.into(), protocol, source }
    }
}
