//! References to services and `Backend`s.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use weft_core::{DnsName, ProxyProtocol, ServiceKey};
use weft_resource::core_kinds::{ServicePort, ServiceSpec};
use weft_resource::own::{BackendProtocol, BackendSpec};
use weft_resource::reference::BackendRef;
use weft_resource::value::Port;
use weft_resource::{Kind, Resource, ResourceId, Spec};

use super::{Context, Route, grants};
use crate::program::{
    BackendProblem, Certificate, Upstream, UpstreamEndpoint, UpstreamProtocol, UpstreamTls, Verification,
};

/// What a route carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Layer {
    /// Requests.
    Http,
    /// Calls, for which HTTP/2 is needed.
    Grpc,
    /// Bytes that were never encrypted, or are not any more.
    Bytes,
    /// Bytes that are TLS of the client's.
    Encrypted,
}

/// What decides where a reference leads, besides the resources.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    id: ResourceId,
    port: Option<u16>,
    layer: Layer,
    mesh: bool,
    client: Option<ResourceId>,
}

/// The upstreams, each once.
#[derive(Default)]
pub(super) struct Upstreams {
    known: HashSet<Arc<Upstream>>,
    followed: HashMap<Key, Result<Arc<Upstream>, BackendProblem>>,
}

impl Upstreams {
    /// The one that equals this.
    fn intern(&mut self, upstream: Upstream) -> Arc<Upstream> {
        if let Some(known) = self.known.get(&upstream) {
            return Arc::clone(known);
        }
        let shared = Arc::new(upstream);
        self.known.insert(Arc::clone(&shared));
        shared
    }

    /// All of them.
    pub(super) fn into_set(self) -> HashSet<Arc<Upstream>> {
        self.known
    }
}

impl Context<'_> {
    /// Where a reference leads. What is wrong is told in a note.
    pub(super) fn upstream(
        &mut self,
        route: Route<'_>,
        reference: &BackendRef,
        layer: Layer,
        field: &str,
    ) -> Result<Arc<Upstream>, BackendProblem> {
        let found = self.follow(route, reference, layer);
        if let Err(problem) = &found {
            let (reason, cure) = reason_and_cure(problem, route.resource);
            self.notes.error(route.resource, field, reason, problem.to_string(), cure);
        }
        found
    }

    fn follow(
        &mut self,
        route: Route<'_>,
        reference: &BackendRef,
        layer: Layer,
    ) -> Result<Arc<Upstream>, BackendProblem> {
        let id = backend_id(route.resource, reference)?;
        // Routes of the mesh change the way to what a workload could reach anyway, so that a service needs no grant (GEP-1294,
        // "Namespace boundaries"). A `Backend` may hold a certificate of its namespace.
        let free = route.side.mesh && id.kind == Kind::Service;
        if !free && !self.grants.allow(route.resource, &id) {
            return Err(BackendProblem::NotPermitted(id));
        }
        let client = route.side.client.as_ref();
        let key = Key {
            id,
            port: reference.port.map(Port::get),
            layer,
            mesh: route.side.mesh,
            client: client.map(|certificate| certificate.id.clone()),
        };
        if let Some(followed) = self.upstreams.followed.get(&key) {
            return followed.clone();
        }
        let made = self.make(&key, client).map(|upstream| self.upstreams.intern(upstream));
        self.upstreams.followed.insert(key, made.clone());
        made
    }

    fn make(&mut self, key: &Key, client: Option<&Arc<Certificate>>) -> Result<Upstream, BackendProblem> {
        let set = self.set;
        let resource = set.get(&key.id).ok_or_else(|| BackendProblem::NotFound(key.id.clone()))?;
        match &resource.spec {
            Spec::Service(service) => self.service(key, service, client),
            Spec::Backend(backend) => self.backend(key, resource, backend, client),
            _ => Err(BackendProblem::InvalidKind(key.id.kind.to_string())),
        }
    }

    fn service(
        &mut self,
        key: &Key,
        service: &ServiceSpec,
        client: Option<&Arc<Certificate>>,
    ) -> Result<Upstream, BackendProblem> {
        if service.kind.as_deref() == Some("ExternalName") {
            // What such a name leads to is nothing that a grant can be asked of (CVE-2021-25740).
            return Err(BackendProblem::InvalidKind("Service of type ExternalName".to_owned()));
        }
        let port = service_port(&key.id, service, key.port)?;
        let name = service_name(&key.id, &self.options.cluster_domain)
            .ok_or_else(|| BackendProblem::NotFound(key.id.clone()))?;
        let (protocol, secured) = spoken(key, port)?;
        let identity = match key.layer {
            // The client and the backend have agreed on TLS between them.
            Layer::Encrypted => None,
            _ => self.server_identity(&key.id, port.name.as_deref()),
        };
        let tls = match identity.transpose().map_err(BackendProblem::InvalidTls)? {
            None if secured => {
                return Err(BackendProblem::InvalidTls(format!(
                    "port {} of {} is said to speak TLS (`appProtocol: {}`), and no BackendTLSPolicy says what its certificate must be",
                    port.port,
                    key.id,
                    port.app_protocol.as_deref().unwrap_or_default()
                )));
            }
            None => None,
            Some(identity) => Some(Arc::new(UpstreamTls {
                server_name: Some(identity.server_name),
                verification: identity.verification,
                client_certificate: client.cloned(),
            })),
        };
        let service = ServiceKey::new(name, port.port.get());
        let label = service.to_string().into();
        let endpoint = UpstreamEndpoint::Service(service);
        Ok(Upstream { label, endpoint, protocol, tls, proxy_protocol: None })
    }

    fn backend(
        &mut self,
        key: &Key,
        resource: &Resource,
        backend: &BackendSpec,
        client: Option<&Arc<Certificate>>,
    ) -> Result<Upstream, BackendProblem> {
        let endpoints: Vec<_> = backend
            .endpoints
            .iter()
            .filter(|endpoint| key.port.is_none_or(|port| port == endpoint.port.get()))
            .map(|endpoint| (endpoint.host.clone(), endpoint.port.get()))
            .collect();
        if endpoints.is_empty() {
            return Err(BackendProblem::InvalidPort(match key.port {
                Some(port) => format!("{} has no endpoint with port {port}", key.id),
                None => format!("{} has no endpoint", key.id),
            }));
        }
        let protocol = match (backend.protocol, key.layer) {
            (_, Layer::Bytes | Layer::Encrypted) => UpstreamProtocol::Tcp,
            (BackendProtocol::Tcp, _) => {
                return Err(BackendProblem::UnsupportedProtocol(format!(
                    "{} speaks tcp, and no HTTP",
                    key.id
                )));
            }
            (BackendProtocol::Grpc, _) => UpstreamProtocol::Grpc,
            (BackendProtocol::Http2, _) | (_, Layer::Grpc) => UpstreamProtocol::Http2,
            (BackendProtocol::Http1, _) if backend.tls.is_some() => UpstreamProtocol::Any,
            (BackendProtocol::Http1, _) => UpstreamProtocol::Http1,
        };
        let tls = match (&backend.tls, key.layer) {
            (None, _) => None,
            (Some(_), Layer::Encrypted) => {
                return Err(BackendProblem::InvalidTls(format!(
                    "{} wants TLS from the gateway, and what is passed through is the client's TLS",
                    key.id
                )));
            }
            (Some(_), _) => Some(Arc::new(self.backend_tls(key, resource, backend, client)?)),
        };
        let label = format!("{}/{}", key.id.namespace, key.id.name).into();
        let endpoint = UpstreamEndpoint::Listed(endpoints);
        let proxy_protocol = backend.proxy_protocol.map(ProxyProtocol::from);
        Ok(Upstream { label, endpoint, protocol, tls, proxy_protocol })
    }

    fn backend_tls(
        &mut self,
        key: &Key,
        resource: &Resource,
        backend: &BackendSpec,
        client: Option<&Arc<Certificate>>,
    ) -> Result<UpstreamTls, BackendProblem> {
        let spec = backend.tls.clone().unwrap_or_default();
        let roots = match spec.ca_certificate_refs.is_empty() {
            true => None,
            false => Some(self.roots(resource, &spec.ca_certificate_refs, "spec.tls.caCertificateRefs")),
        };
        if roots.as_ref().is_some_and(Vec::is_empty) {
            return Err(BackendProblem::InvalidTls(format!("{} has no valid CA certificate", key.id)));
        }
        let own = match &spec.client_certificate_ref {
            None => None,
            Some(reference) => {
                let found = self.certificate(resource, reference, "spec.tls.clientCertificateRef");
                let refused =
                    || BackendProblem::InvalidTls(format!("{} has no valid client certificate", key.id));
                Some(found.ok_or_else(refused)?)
            }
        };
        Ok(UpstreamTls {
            server_name: spec.server_name,
            verification: Verification { roots, names: Vec::new() },
            client_certificate: own.or_else(|| client.cloned()),
        })
    }
}

/// The resource that a reference names, whether it is there or not.
fn backend_id(route: &Resource, reference: &BackendRef) -> Result<ResourceId, BackendProblem> {
    let group = reference.group.as_deref().unwrap_or_default();
    let given = reference.kind.as_deref().unwrap_or("Service");
    let known = [Kind::Service, Kind::Backend];
    let kind = known.iter().find(|kind| kind.group() == group && kind.as_str() == given);
    let named = || match group {
        "" => given.to_owned(),
        _ => format!("{group}/{given}"),
    };
    let kind = kind.ok_or_else(|| BackendProblem::InvalidKind(named()))?;
    let namespace = reference.namespace.as_deref().unwrap_or(&route.id.namespace);
    Ok(ResourceId::new(*kind, namespace, &reference.name))
}

/// The DNS name of a service.
pub(super) fn service_name(id: &ResourceId, domain: &DnsName) -> Option<DnsName> {
    format!("{}.{}.svc.{domain}", id.name, id.namespace).parse().ok()
}

/// The ports of a service that are dialed over TCP.
pub(super) fn tcp_ports(service: &ServiceSpec) -> impl Iterator<Item = &ServicePort> {
    service.ports.iter().filter(|port| port.protocol.as_deref().is_none_or(|protocol| protocol == "TCP"))
}

fn service_port<'s>(
    id: &ResourceId,
    service: &'s ServiceSpec,
    port: Option<u16>,
) -> Result<&'s ServicePort, BackendProblem> {
    let Some(port) = port else {
        return Err(BackendProblem::InvalidPort(format!("a reference to {id} must have a `port`")));
    };
    tcp_ports(service).find(|known| known.port.get() == port).ok_or_else(|| {
        let known: Vec<String> = tcp_ports(service).map(|port| port.port.to_string()).collect();
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        BackendProblem::InvalidPort(format!("{id} has no TCP port {port}; it has {known}"))
    })
}

/// What a port speaks, and whether over TLS: its `appProtocol` (KEP-3726 and the names of IANA) and what the route carries.
fn spoken(key: &Key, port: &ServicePort) -> Result<(UpstreamProtocol, bool), BackendProblem> {
    let said = port.app_protocol.as_deref().unwrap_or_default();
    if matches!(key.layer, Layer::Bytes | Layer::Encrypted) {
        return Ok((UpstreamProtocol::Tcp, false));
    }
    let (protocol, secured) = match said {
        // In the mesh an application gets what its client spoke. At the edge a browser speaks HTTP/2, which is no sign that the
        // backend does.
        "" | "http" if key.mesh => (UpstreamProtocol::Any, false),
        "" | "http" | "kubernetes.io/ws" => (UpstreamProtocol::Http1, false),
        "grpc" => (UpstreamProtocol::Grpc, false),
        "kubernetes.io/h2c" | "h2c" | "http2" => (UpstreamProtocol::Http2, false),
        "https" => (UpstreamProtocol::Any, true),
        "kubernetes.io/wss" => (UpstreamProtocol::Http1, true),
        other => {
            return Err(BackendProblem::UnsupportedProtocol(format!(
                "port {} of {} speaks `{other}`, and no HTTP that Weft knows",
                port.port, key.id
            )));
        }
    };
    match key.layer {
        Layer::Grpc if protocol != UpstreamProtocol::Grpc => Ok((UpstreamProtocol::Http2, secured)),
        _ => Ok((protocol, secured)),
    }
}

fn reason_and_cure(problem: &BackendProblem, route: &Resource) -> (&'static str, String) {
    match problem {
        BackendProblem::NotFound(id) if id.kind == Kind::Service => {
            let cure = format!(
                "add the document of the Service (`apiVersion: v1`, `kind: Service`, name {}, namespace {}, with its ports), or correct the name",
                id.name, id.namespace
            );
            ("BackendNotFound", cure)
        }
        BackendProblem::NotFound(id) => ("BackendNotFound", format!("add {id}, or correct the name")),
        BackendProblem::NotPermitted(id) => ("RefNotPermitted", grants::cure(route, id)),
        BackendProblem::InvalidKind(kind) if kind.contains("ExternalName") => {
            ("InvalidKind", "list the host in a Backend (`apiVersion: weft.dev/v1alpha1`)".to_owned())
        }
        BackendProblem::InvalidKind(_) => {
            ("InvalidKind", "use a Service, or a Backend with `group: weft.dev`".to_owned())
        }
        BackendProblem::InvalidPort(_) => ("BackendNotFound", "name one of its ports".to_owned()),
        BackendProblem::InvalidFilter(_) => ("UnsupportedValue", "see the note on the filter".to_owned()),
        BackendProblem::InvalidTls(_) => (
            "InvalidTls",
            "add a BackendTLSPolicy for it that is valid, or correct `appProtocol` where it is wrong".to_owned(),
        ),
        BackendProblem::UnsupportedProtocol(_) => (
            "UnsupportedProtocol",
            "set `appProtocol` to http, https, grpc, kubernetes.io/h2c, kubernetes.io/ws or kubernetes.io/wss, or use a TCPRoute"
                .to_owned(),
        ),
    }
}
