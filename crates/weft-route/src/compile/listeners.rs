//! Gateways to listeners: what they bind, which of them conflict, their certificates, and who may attach.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use weft_resource::gateway::{
    AllowedRoutes, FromNamespaces, FrontendTls, FrontendTlsConfig, GatewaySpec, Listener as ListenerSpec,
    Protocol, TlsMode, ValidationMode,
};
use weft_resource::value::HostPattern;
use weft_resource::{Kind, Resource};

use super::attach::Attached;
use super::{Context, Side};
use crate::age::by_precedence;
use crate::program::{
    ClientValidation, Gateway, Listener, ListenerId, ListenerKind, SocketKind, Sockets, TlsTermination,
};
use crate::table::HostTable;

/// The gateways of this process, each with its listeners, by precedence.
pub(super) struct Gateways<'a> {
    pub(super) drafts: Vec<Draft<'a>>,
    /// The places of a gateway's listeners in `drafts`, by namespace and name.
    pub(super) by_name: HashMap<(&'a str, &'a str), Vec<usize>>,
}

/// A listener while routes are attached to it.
pub(super) struct Draft<'a> {
    pub(super) gateway: &'a Resource,
    pub(super) spec: &'a ListenerSpec,
    /// Such as `spec.listeners[0]`.
    pub(super) field: String,
    /// The kinds of routes that may attach.
    pub(super) kinds: Vec<Kind>,
    /// What the gateway shows to backends.
    pub(super) side: Side,
    pub(super) shared: Arc<Gateway>,
    pub(super) addresses: Arc<[IpAddr]>,
    pub(super) tls: Option<TlsTermination>,
    /// Whether it is served; what is wrong is told in notes.
    pub(super) valid: bool,
    pub(super) attached: Vec<Attached<'a>>,
}

/// Every gateway that is this process's.
pub(super) fn gateways<'a>(context: &mut Context<'a>) -> Gateways<'a> {
    let set = context.set;
    let mut all: Vec<(&'a Arc<Resource>, &'a GatewaySpec)> = set.gateways().collect();
    all.sort_by(|(a, _), (b, _)| by_precedence(a, b));
    let mut gateways = Gateways { drafts: Vec::new(), by_name: HashMap::new() };
    for (resource, spec) in all {
        let id = &resource.id;
        if !context.options.gateways.has(id) {
            continue;
        }
        let first = gateways.drafts.len();
        gateway(context, resource, spec, &mut gateways.drafts);
        let places = (first..gateways.drafts.len()).collect();
        gateways.by_name.insert((&id.namespace, &id.name), places);
    }
    conflicts_between(context, &mut gateways);
    gateways
}

fn gateway<'a>(
    context: &mut Context<'a>,
    resource: &'a Arc<Resource>,
    spec: &'a GatewaySpec,
    drafts: &mut Vec<Draft<'a>>,
) {
    let addresses = addresses(context, resource, spec);
    let reference = spec.tls.as_ref().and_then(|tls| tls.backend.as_ref());
    let reference = reference.and_then(|backend| backend.client_certificate_ref.as_ref());
    let client = reference.and_then(|reference| {
        context.certificate(resource, reference, "spec.tls.backend.clientCertificateRef")
    });
    let shared = Arc::new(Gateway { client_certificate: client.clone() });
    let side = Side { mesh: false, client };
    let first = drafts.len();
    for (at, listener) in spec.listeners.iter().enumerate() {
        let field = format!("spec.listeners[{at}]");
        let kinds = route_kinds(context, resource, listener, &field);
        let tls = termination(context, resource, spec, listener, &field);
        drafts.push(Draft {
            gateway: resource,
            spec: listener,
            field,
            kinds,
            side: side.clone(),
            shared: Arc::clone(&shared),
            addresses: addresses.clone().unwrap_or_default(),
            valid: tls.is_ok() && addresses.is_some(),
            tls: tls.unwrap_or_default(),
            attached: Vec::new(),
        });
    }
    if let Some(own) = drafts.get_mut(first..) {
        conflicts_within(context, own);
    }
}

/// The addresses to bind. `None`, with a note: there is one that cannot be bound, and serving on fewer would be half of what was said.
fn addresses(context: &mut Context<'_>, resource: &Resource, spec: &GatewaySpec) -> Option<Arc<[IpAddr]>> {
    let mut all = BTreeSet::new();
    let mut refused = false;
    for (at, address) in spec.addresses.iter().enumerate() {
        let kind = address.kind.as_deref().unwrap_or("IPAddress");
        let value = address.value.as_deref().unwrap_or_default();
        match (kind, value.parse()) {
            ("IPAddress", Ok(address)) => {
                all.insert(address);
            }
            _ => {
                refused = true;
                let field = format!("spec.addresses[{at}]");
                let (reason, message) = match (kind, value) {
                    ("IPAddress", "") => ("AddressNotAssigned", "an address without a value".to_owned()),
                    ("IPAddress", _) => ("UnsupportedAddress", format!("`{value}` is no IP address")),
                    _ => ("UnsupportedAddress", format!("an address of type `{kind}` cannot be bound")),
                };
                let cure = "name an IPAddress of this machine with its `value`, or leave `addresses` out to bind all";
                context.notes.error(resource, field, reason, message, cure);
            }
        }
    }
    (!refused).then(|| all.into_iter().collect())
}

/// The kinds of routes that fit a protocol.
fn fitting(listener: &ListenerSpec) -> &'static [Kind] {
    let passthrough = listener.tls.as_ref().is_some_and(|tls| tls.mode == TlsMode::Passthrough);
    match listener.protocol {
        Protocol::Http | Protocol::Https | Protocol::Mesh => &[Kind::HttpRoute, Kind::GrpcRoute],
        Protocol::Tls if passthrough => &[Kind::TlsRoute],
        Protocol::Tls => &[Kind::TlsRoute, Kind::TcpRoute],
        Protocol::Tcp => &[Kind::TcpRoute],
    }
}

fn route_kinds(
    context: &mut Context<'_>,
    resource: &Resource,
    listener: &ListenerSpec,
    field: &str,
) -> Vec<Kind> {
    let fitting = fitting(listener);
    if listener.allowed_routes.kinds.is_empty() {
        return fitting.to_vec();
    }
    let mut kinds = Vec::new();
    for (at, wanted) in listener.allowed_routes.kinds.iter().enumerate() {
        let group = wanted.group.as_deref().unwrap_or(Kind::HttpRoute.group());
        let is = |kind: &&Kind| kind.group() == group && kind.as_str() == wanted.kind;
        match fitting.iter().find(is) {
            Some(kind) => kinds.push(*kind),
            None => {
                let names: Vec<&str> = fitting.iter().map(|kind| kind.as_str()).collect();
                let message = format!("`{}` of group `{group}` cannot hang on this listener", wanted.kind);
                let field = format!("{field}.allowedRoutes.kinds[{at}]");
                let cure = format!("its protocol goes with {}", names.join(" and "));
                context.notes.error(resource, field, "InvalidRouteKinds", message, cure);
            }
        }
    }
    kinds
}

/// How a listener terminates TLS, if it does. `Err`, with a note: it cannot be served.
fn termination(
    context: &mut Context<'_>,
    resource: &Resource,
    gateway: &GatewaySpec,
    listener: &ListenerSpec,
    field: &str,
) -> Result<Option<TlsTermination>, ()> {
    let field = format!("{field}.tls");
    let wants = matches!(listener.protocol, Protocol::Https | Protocol::Tls);
    let Some(tls) = &listener.tls else {
        if wants {
            let message = "a listener of this protocol must have `tls`";
            context.notes.error(resource, field, "Invalid", message, "give it `tls` with `certificateRefs`");
        }
        return if wants { Err(()) } else { Ok(None) };
    };
    for option in tls.options.keys() {
        let message = format!("`{option}` is no option that Weft has");
        context.notes.warning(
            resource,
            format!("{field}.options"),
            "UnsupportedValue",
            message,
            "take it out",
        );
    }
    match (listener.protocol, tls.mode) {
        (Protocol::Http | Protocol::Tcp | Protocol::Mesh, _) => {
            let message = "a listener of this protocol has no `tls`";
            context.notes.error(resource, field, "Invalid", message, "take it out, or use HTTPS or TLS");
            Err(())
        }
        (Protocol::Https, TlsMode::Passthrough) => {
            let message = "an HTTPS listener terminates TLS";
            let cure = "use `mode: Terminate`, or `protocol: TLS` with TLSRoutes";
            context.notes.error(resource, field, "Invalid", message, cure);
            Err(())
        }
        (_, TlsMode::Passthrough) => Ok(None),
        (_, TlsMode::Terminate) => {
            let mut certificates = Vec::new();
            for (at, reference) in tls.certificate_refs.iter().enumerate() {
                let field = format!("{field}.certificateRefs[{at}]");
                certificates.extend(context.certificate(resource, reference, &field));
            }
            if tls.certificate_refs.is_empty() {
                let message = "there is no certificate";
                let field = format!("{field}.certificateRefs");
                context.notes.error(
                    resource,
                    field,
                    "InvalidCertificateRef",
                    message,
                    "name a Secret or a Certificate",
                );
            }
            // One that is wrong is told and left out; the names of the others are served.
            if certificates.is_empty() {
                return Err(());
            }
            let clients = match listener.protocol {
                Protocol::Https => client_validation(context, resource, gateway, listener.port.get())?,
                _ => None,
            };
            Ok(Some(TlsTermination { certificates, clients }))
        }
    }
}

/// How clients of the gateway's HTTPS listeners on a port are checked.
fn client_validation(
    context: &mut Context<'_>,
    resource: &Resource,
    gateway: &GatewaySpec,
    port: u16,
) -> Result<Option<Arc<ClientValidation>>, ()> {
    let frontend = gateway.tls.as_ref().and_then(|tls| tls.frontend.as_ref());
    let Some((config, field)) = frontend.map(|frontend| config_of_port(frontend, port)) else {
        return Ok(None);
    };
    let Some(validation) = &config.validation else { return Ok(None) };
    let field = format!("{field}.validation.caCertificateRefs");
    let roots = context.roots(resource, &validation.ca_certificate_refs, &field);
    if roots.is_empty() {
        let message = "nobody vouches for clients: the listener is not served";
        context.notes.error(
            resource,
            field,
            "NoValidCACertificate",
            message,
            "name a ConfigMap with `ca.crt`",
        );
        return Err(());
    }
    let insecure_fallback = validation.mode == ValidationMode::AllowInsecureFallback;
    Ok(Some(Arc::new(ClientValidation { roots, insecure_fallback })))
}

fn config_of_port(frontend: &FrontendTls, port: u16) -> (&FrontendTlsConfig, String) {
    let own = frontend.per_port.iter().enumerate().find(|(_, own)| own.port.get() == port);
    match own {
        Some((at, own)) => (&own.tls, format!("spec.tls.frontend.perPort[{at}].tls")),
        None => (&frontend.default, "spec.tls.frontend.default".to_owned()),
    }
}

fn socket_kind(protocol: Protocol) -> SocketKind {
    match protocol {
        Protocol::Http => SocketKind::Http,
        Protocol::Https | Protocol::Tls => SocketKind::Tls,
        Protocol::Tcp => SocketKind::Tcp,
        Protocol::Mesh => SocketKind::Mesh,
    }
}

/// How two listeners of one port conflict.
fn conflict(a: &ListenerSpec, b: &ListenerSpec) -> Option<(&'static str, &'static str)> {
    match (socket_kind(a.protocol), socket_kind(b.protocol)) {
        (SocketKind::Tcp, SocketKind::Tcp) => {
            Some(("ProtocolConflict", "two TCP listeners cannot be told apart on one port"))
        }
        (one, other) if one != other => Some(("ProtocolConflict", "their protocols cannot share a port")),
        _ if a.hostname == b.hostname => Some(("HostnameConflict", "they have the same port and host name")),
        _ => None,
    }
}

/// All listeners of one gateway that conflict are refused: none is picked as the winner (Gateway, "Handling indistinct Listeners").
fn conflicts_within(context: &mut Context<'_>, drafts: &mut [Draft<'_>]) {
    let mut by_port: BTreeMap<u16, Vec<usize>> = BTreeMap::new();
    for (at, draft) in drafts.iter().enumerate() {
        by_port.entry(draft.spec.port.get()).or_default().push(at);
    }
    let mut refused = Vec::new();
    for places in by_port.values() {
        for (at, draft) in places.iter().filter_map(|at| Some((*at, drafts.get(*at)?))) {
            let others = places.iter().filter(|other| **other != at).filter_map(|other| drafts.get(*other));
            let found = others.into_iter().find_map(|other| Some((other, conflict(draft.spec, other.spec)?)));
            if let Some((other, (reason, why))) = found {
                let message = format!("it conflicts with listener `{}`: {why}", other.spec.name);
                context.notes.error(
                    draft.gateway,
                    &*draft.field,
                    reason,
                    message,
                    "give one of them another port or host name",
                );
                refused.push(at);
            }
        }
    }
    for at in refused {
        if let Some(draft) = drafts.get_mut(at) {
            draft.valid = false;
        }
    }
}

/// Between gateways the first by precedence keeps what it has: otherwise whoever may make a gateway could end another's.
fn conflicts_between(context: &mut Context<'_>, gateways: &mut Gateways<'_>) {
    let mut by_port: HashMap<u16, Vec<usize>> = HashMap::new();
    for at in 0..gateways.drafts.len() {
        let Some(draft) = gateways.drafts.get(at).filter(|draft| draft.valid) else { continue };
        let before = by_port.entry(draft.spec.port.get()).or_default();
        let others = before.iter().filter_map(|other| gateways.drafts.get(*other));
        let found = others.filter(|other| other.gateway.id != draft.gateway.id).find_map(|other| {
            let (reason, why) = clash(draft, other)?;
            Some((
                reason,
                format!("it conflicts with listener `{}` of {}: {why}", other.spec.name, other.gateway.id),
            ))
        });
        match found {
            None => before.push(at),
            Some((reason, message)) => {
                let cure = "give one of them another port, host name or address";
                context.notes.error(draft.gateway, &*draft.field, reason, message, cure);
                if let Some(draft) = gateways.drafts.get_mut(at) {
                    draft.valid = false;
                }
            }
        }
    }
}

fn clash(a: &Draft<'_>, b: &Draft<'_>) -> Option<(&'static str, &'static str)> {
    if a.addresses == b.addresses {
        return conflict(a.spec, b.spec);
    }
    // One that binds all addresses and one that binds a single one are two sockets, and the kernel prefers the single one.
    let shared = a.addresses.iter().any(|address| b.addresses.contains(address));
    shared.then_some(("PortUnavailable", "they share an address, and not all of them"))
}

impl Draft<'_> {
    /// Whether routes of a namespace may attach.
    pub(super) fn allows(&self, context: &Context<'_>, namespace: &str) -> bool {
        let AllowedRoutes { namespaces, .. } = &self.spec.allowed_routes;
        match namespaces.from {
            FromNamespaces::All => true,
            FromNamespaces::None => false,
            FromNamespaces::Same => *self.gateway.id.namespace == *namespace,
            FromNamespaces::Selector => {
                let known = context.set.find(Kind::Namespace, "", namespace);
                let mut labels = known.map(|known| known.meta.labels.clone()).unwrap_or_default();
                // Kubernetes gives every namespace this label.
                labels.insert("kubernetes.io/metadata.name".to_owned(), namespace.to_owned());
                namespaces.selector.as_ref().is_some_and(|selector| selector.matches(&labels))
            }
        }
    }

    fn id(&self) -> ListenerId {
        ListenerId {
            namespace: Arc::clone(&self.gateway.id.namespace),
            gateway: Arc::clone(&self.gateway.id.name),
            name: self.spec.name.as_str().into(),
        }
    }
}

/// What is to be listened on.
pub(super) fn sockets(context: &mut Context<'_>, gateways: Gateways<'_>) -> Vec<Arc<Sockets>> {
    type Place = (u16, Arc<[IpAddr]>);
    type Shared = (SocketKind, Vec<(Option<HostPattern>, Arc<Listener>)>);
    let mut by_socket: BTreeMap<Place, Shared> = BTreeMap::new();
    for draft in gateways.drafts.into_iter().filter(|draft| draft.valid) {
        let key = (draft.spec.port.get(), Arc::clone(&draft.addresses));
        let kind = socket_kind(draft.spec.protocol);
        let listener = listener(context, draft);
        // A TCP connection says no name.
        let hostname = listener.hostname.clone().filter(|_| kind != SocketKind::Tcp);
        by_socket.entry(key).or_insert_with(|| (kind, Vec::new())).1.push((hostname, Arc::new(listener)));
    }
    let sockets = by_socket.into_iter().map(|((port, addresses), (kind, listeners))| {
        let (addresses, listeners) = (addresses.to_vec(), HostTable::new(listeners));
        Arc::new(Sockets { port, addresses, kind, listeners })
    });
    sockets.collect()
}

fn listener(context: &mut Context<'_>, draft: Draft<'_>) -> Listener {
    let id = draft.id();
    let Draft { spec, side, shared, tls, attached, .. } = draft;
    let hostname = spec.hostname.clone();
    let kind = match (spec.protocol, tls) {
        (Protocol::Http, _) | (Protocol::Https, None) => {
            ListenerKind::Http(context.http_table(&side, &attached))
        }
        (Protocol::Mesh, _) => ListenerKind::Mesh(context.http_table(&side, &attached)),
        (Protocol::Https, Some(tls)) => ListenerKind::Https(tls, context.http_table(&side, &attached)),
        (Protocol::Tls, Some(tls)) => {
            ListenerKind::Tls(tls, context.l4_table(&side, &attached, super::backends::Layer::Bytes))
        }
        (Protocol::Tls, None) => {
            ListenerKind::Passthrough(context.l4_table(&side, &attached, super::backends::Layer::Encrypted))
        }
        (Protocol::Tcp, _) => {
            let table = context.l4_table(&side, &attached, super::backends::Layer::Bytes);
            ListenerKind::Tcp(table.values().next().cloned())
        }
    };
    Listener { label: id.to_string().into(), id, port: spec.port.get(), hostname, kind, gateway: shared }
}
