//! What an outbound connection is going to: a mesh service, or something outside.

use std::sync::Arc;

use weft_config::{AddrVerdict, DestinationMode, NameVerdict, Snapshot};
use weft_core::{DnsName, EndpointAddr, MtlsMode, OriginalDst, PeerRule, ServiceKey};

use crate::shared::Shared;

/// A destination, as membership sees it.
#[derive(Clone, Debug)]
pub(crate) struct Destination {
    /// What was dialed.
    pub(crate) target: Target,
    /// Set for destinations inside the mesh.
    pub(crate) mesh: Option<MeshRule>,
    /// The name or address for labels and logs: `name:port` or `ip:port`.
    pub(crate) label: Arc<str>,
}

/// How a mesh destination is to be reached.
#[derive(Clone, Debug)]
pub(crate) struct MeshRule {
    pub(crate) mode: DestinationMode,
    pub(crate) peer: PeerRule,
}

/// The key of a destination.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Target {
    /// An address that DNS gave out for this name, or a listener that stands for it.
    Service(ServiceKey),
    /// An address dialed without a name.
    Addr(EndpointAddr),
}

/// Finds the name of `dst` and asks membership. The name is the one that the application got this address for from DNS;
/// what it says inside the connection (Host, SNI) is not looked at, because it may say what it likes.
pub(crate) fn classify(shared: &Shared, snapshot: &Snapshot, dst: OriginalDst) -> Destination {
    let (target, label): (_, Arc<str>) = match shared.discovery.name_of(dst.ip()) {
        Some(name) => {
            let key = ServiceKey::new(name, dst.port());
            let label = key.to_string().into();
            (Target::Service(key), label)
        }
        None => {
            let addr = EndpointAddr::new(dst.get());
            (Target::Addr(addr), addr.to_string().into())
        }
    };
    Destination { mesh: rule(snapshot, &target), target, label }
}

/// The destination of a listener that stands for one service.
pub(crate) fn of_service(snapshot: &Snapshot, key: &ServiceKey) -> Destination {
    let target = Target::Service(key.clone());
    Destination { mesh: rule(snapshot, &target), target, label: key.to_string().into() }
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
