//! What an outbound connection is going to: a mesh service, or something outside.

use std::sync::Arc;

use weft_config::{AddrVerdict, DestinationMode, NameVerdict, Snapshot};
use weft_core::{DnsName, EndpointAddr, MtlsMode, OriginalDst, PeerRule, ServiceKey};

use crate::shared::Shared;

/// How a mesh destination is to be reached.
#[derive(Clone, Debug)]
pub(crate) struct MeshRule {
    pub(crate) mode: DestinationMode,
    pub(crate) peer: PeerRule,
}

/// What was dialed: the key of a destination.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Target {
    /// An address that DNS gave out for this name, or a listener that stands for it.
    Service(ServiceKey),
    /// An address dialed without a name.
    Addr(EndpointAddr),
}

impl Target {
    /// Finds the name of `dst`: the one that the application got this address for from DNS. What it says inside the
    /// connection (Host, SNI) is not looked at, because it may say what it likes.
    pub(crate) fn of(shared: &Shared, dst: OriginalDst) -> Self {
        match shared.discovery.name_of(dst.ip()) {
            Some(name) => Self::Service(ServiceKey::new(name, dst.port())),
            None => Self::Addr(EndpointAddr::new(dst.get())),
        }
    }

    /// For labels and logs: `name:port` or `ip:port`.
    pub(crate) fn label(&self) -> Arc<str> {
        match self {
            Self::Service(key) => key.to_string().into(),
            Self::Addr(addr) => addr.to_string().into(),
        }
    }
}

/// How much is asked of a peer at `name`. Where two names have one address, the stricter decides: whoever answers for the
/// other could make it any address.
pub(crate) fn rank(snapshot: &Snapshot, name: &DnsName) -> u8 {
    match snapshot.membership.of_name(name) {
        NameVerdict::Mesh { mode, .. } => match mode.of_all() {
            MtlsMode::Strict => 3,
            MtlsMode::Permissive => 2,
            MtlsMode::Disable => 1,
        },
        NameVerdict::Outside(_) => 0,
    }
}

/// What membership says of a destination now; `None`: it is outside.
pub(crate) fn rule(snapshot: &Snapshot, target: &Target) -> Option<MeshRule> {
    match target {
        Target::Service(key) => match snapshot.membership.of_name(&key.name) {
            NameVerdict::Mesh { mode, peer, .. } => Some(MeshRule { mode, peer }),
            NameVerdict::Outside(_) => None,
        },
        Target::Addr(addr) => match snapshot.membership.of_addr(addr.ip()) {
            AddrVerdict::Mesh { mode, peer } => Some(MeshRule { mode: mode.into(), peer }),
            AddrVerdict::Outside => None,
        },
    }
}
