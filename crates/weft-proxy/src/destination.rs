//! What a captured outbound connection is going to: a mesh service, or something outside.

use std::sync::Arc;

use weft_config::{AddrVerdict, NameVerdict, Snapshot};
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
    pub(crate) mode: MtlsMode,
    pub(crate) peer: PeerRule,
}

/// The key of a destination.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Target {
    /// An address that DNS gave out for this name.
    Service(ServiceKey),
    /// An address dialed without a name.
    Addr(EndpointAddr),
}

/// Finds the name of `dst` and asks membership. The name is the one that the application got this address for from DNS;
/// what it says inside the connection (Host, SNI) is not looked at, because it may say what it likes.
pub(crate) fn classify(shared: &Shared, snapshot: &Snapshot, dst: OriginalDst) -> Destination {
    match shared.discovery.name_of(dst.ip()) {
        Some(name) => of_name(snapshot, name, dst),
        None => of_addr(snapshot, dst),
    }
}

/// How much is asked of a peer at `name`. Where two names have one address, the stricter decides: whoever answers for the
/// other could make it any address.
pub(crate) fn rank(snapshot: &Snapshot, name: &DnsName) -> u8 {
    match snapshot.membership.of_name(name) {
        NameVerdict::Mesh { mode: MtlsMode::Strict, .. } => 3,
        NameVerdict::Mesh { mode: MtlsMode::Permissive, .. } => 2,
        NameVerdict::Mesh { mode: MtlsMode::Disable, .. } => 1,
        NameVerdict::Outside(_) => 0,
    }
}

fn of_name(snapshot: &Snapshot, name: DnsName, dst: OriginalDst) -> Destination {
    let mesh = match snapshot.membership.of_name(&name) {
        NameVerdict::Mesh { mode, peer, .. } => Some(MeshRule { mode, peer }),
        NameVerdict::Outside(_) => None,
    };
    let key = ServiceKey::new(name, dst.port());
    Destination { label: key.to_string().into(), target: Target::Service(key), mesh }
}

fn of_addr(snapshot: &Snapshot, dst: OriginalDst) -> Destination {
    let mesh = match snapshot.membership.of_addr(dst.ip()) {
        AddrVerdict::Mesh { mode, peer } => Some(MeshRule { mode, peer }),
        AddrVerdict::Outside => None,
    };
    let addr = EndpointAddr::new(dst.get());
    Destination { label: addr.to_string().into(), target: Target::Addr(addr), mesh }
}
