//! Programs and certificates for the tests of this module.

use std::sync::Arc;

use rcgen::{CertificateParams, KeyPair};
use weft_resource::{Kind, ResourceId};
use weft_route::table::HostTable;
use weft_route::{
    Certificate, HttpTable, Listener, ListenerId, ListenerKind, Program, SocketKind, Sockets, TlsTermination,
};

/// A certificate that signs itself, for these names.
pub(super) fn certificate(names: &[&str]) -> Arc<Certificate> {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>());
    let certificate = params.unwrap().self_signed(&key).unwrap();
    Arc::new(Certificate {
        id: ResourceId::new(Kind::Secret, "edge", names.first().unwrap()),
        chain: certificate.pem().into_bytes(),
        key: key.serialize_pem().into_bytes(),
    })
}

pub(super) fn https(certificates: &[Arc<Certificate>]) -> ListenerKind {
    let termination = TlsTermination { certificates: certificates.to_vec(), clients: None };
    ListenerKind::Https(termination, Arc::default())
}

pub(super) fn http() -> ListenerKind {
    ListenerKind::Http(Arc::new(HttpTable::default()))
}

pub(super) fn listener(name: &str, port: u16, hostname: Option<&str>, kind: ListenerKind) -> Arc<Listener> {
    let id = ListenerId { namespace: "edge".into(), gateway: "public".into(), name: name.into() };
    Arc::new(Listener {
        label: id.to_string().into(),
        id,
        port,
        hostname: hostname.map(|name| name.parse().unwrap()),
        kind,
        gateway: Arc::default(),
    })
}

/// A port on loopback.
pub(super) fn sockets(kind: SocketKind, listeners: &[Arc<Listener>]) -> Arc<Sockets> {
    let entries = listeners.iter().map(|one| (one.hostname.clone(), Arc::clone(one)));
    Arc::new(Sockets {
        port: listeners.first().unwrap().port,
        addresses: vec![[127, 0, 0, 1].into()],
        kind,
        listeners: HostTable::new(entries),
    })
}

pub(super) fn program(sockets: impl IntoIterator<Item = Arc<Sockets>>) -> Program {
    Program { sockets: sockets.into_iter().collect(), ..Program::default() }
}
