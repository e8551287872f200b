//! The part of the configuration that may change while the process runs.

use std::collections::HashMap;
use std::sync::Arc;

use weft_core::{AppProtocol, EndpointAddr, MtlsMode, ServiceKey};

use crate::membership::Membership;
use crate::read::Effective;
use crate::types::AccessLogMode;
use crate::value::PortSet;

/// One immutable, compiled version of what is reloadable.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Counts up from 1 with each reload that changed something.
    pub version: u64,
    /// Which destinations are in the mesh.
    pub membership: Membership,
    /// `inbound`.
    pub inbound: InboundPolicy,
    /// `outbound`.
    pub outbound: OutboundPolicy,
    /// `services`.
    pub services: Services,
    /// `log`: directives such as `info,h2=warn`.
    pub log: Arc<str>,
    /// `telemetry.tracing.sampling`: the share of new traces that is sampled, from 0 to 1.
    pub sampling: f64,
    /// `telemetry.accessLog.mode`.
    pub access_log: AccessLogMode,
    /// Every field of the configuration with the value in force and where it came from, sorted by field, for the admin
    /// server. Secrets are masked. A field that needs a restart keeps the value it had at the start.
    pub effective: Arc<[Effective]>,
}

/// `inbound`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InboundPolicy {
    /// What to do with plaintext.
    pub mode: MtlsMode,
    /// Ports of the application whose bytes are never looked at.
    pub opaque_ports: PortSet,
    /// Ports of the application that take CONNECT.
    pub connect_ports: PortSet,
}

/// `outbound`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutboundPolicy {
    /// Destination ports whose bytes are never looked at.
    pub opaque_ports: PortSet,
}

/// A service of the `services` list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StaticService {
    /// Name and port.
    pub key: ServiceKey,
    /// Where it is; sorted, never empty.
    pub endpoints: Arc<[EndpointAddr]>,
    /// What it speaks.
    pub protocol: AppProtocol,
}

/// Services with a list of endpoints in the configuration.
#[derive(Clone, Debug, Default)]
pub struct Services {
    by_key: HashMap<ServiceKey, Arc<StaticService>>,
}

impl Services {
    pub(crate) fn new(services: impl IntoIterator<Item = StaticService>) -> Self {
        Self { by_key: services.into_iter().map(|s| (s.key.clone(), Arc::new(s))).collect() }
    }

    /// The service that is dialed as `key`.
    pub fn get(&self, key: &ServiceKey) -> Option<&Arc<StaticService>> {
        self.by_key.get(key)
    }

    /// All of them, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<StaticService>> {
        self.by_key.values()
    }
}
