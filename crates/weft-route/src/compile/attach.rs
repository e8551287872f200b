//! Routes to the listeners that their `parentRefs` name.

use std::collections::HashMap;

use weft_resource::reference::ParentRef;
use weft_resource::value::{HostPattern, Port};
use weft_resource::{Kind, Resource, Spec};

use super::Context;
use super::listeners::{Draft, Gateways};
use super::mesh::{ServiceRoutes, attach_to_service};
use crate::age::by_precedence;

/// A route that hangs on a listener.
#[derive(Clone)]
pub(super) struct Attached<'a> {
    pub(super) route: &'a Resource,
    /// The `parentRefs[]` by which it does.
    pub(super) field: String,
    /// The host names that the route and the listener have in common; `None`: every name.
    pub(super) hosts: Vec<Option<HostPattern>>,
}

/// Attaches every route, by precedence: to listeners, and to the services that are returned.
pub(super) fn attach<'a>(context: &mut Context<'a>, gateways: &mut Gateways<'a>) -> ServiceRoutes<'a> {
    let mut services = HashMap::new();
    let set = context.set;
    let kinds = [Kind::HttpRoute, Kind::GrpcRoute, Kind::TlsRoute, Kind::TcpRoute];
    let mut routes: Vec<&'a Resource> =
        kinds.into_iter().flat_map(|kind| set.of(kind)).map(|resource| &**resource).collect();
    routes.sort_by(|a, b| by_precedence(a, b));
    for route in routes {
        let (parents, hostnames): (&[ParentRef], &[HostPattern]) = match &route.spec {
            Spec::HttpRoute(spec) => (&spec.parent_refs, &spec.hostnames),
            Spec::GrpcRoute(spec) => (&spec.parent_refs, &spec.hostnames),
            Spec::TlsRoute(spec) => (&spec.parent_refs, &spec.hostnames),
            Spec::TcpRoute(spec) => (&spec.parent_refs, &[]),
            _ => continue,
        };
        if parents.is_empty() {
            let message = "the route hangs on nothing";
            let cure = "name a Gateway, or a Service for a route of the mesh";
            context.notes.warning(route, "spec.parentRefs", "NoMatchingParent", message, cure);
        }
        for (at, parent) in parents.iter().enumerate() {
            let field = format!("spec.parentRefs[{at}]");
            let group = parent.group.as_deref().unwrap_or(Kind::Gateway.group());
            let kind = parent.kind.as_deref().unwrap_or(Kind::Gateway.as_str());
            let is = |wanted: Kind| group == wanted.group() && kind == wanted.as_str();
            if is(Kind::Gateway) {
                attach_to_gateway(context, gateways, route, parent, &field, hostnames);
            } else if is(Kind::Service) {
                attach_to_service(context, &mut services, route, parent, &field);
            } else {
                let message = format!("`{kind}` of group `{group}` is no parent that Weft knows");
                let cure = "a parent is a Gateway, or a Service with `group: \"\"`";
                context.notes.warning(route, field, "InvalidKind", message, cure);
            }
        }
    }
    services
}

fn attach_to_gateway<'a>(
    context: &mut Context<'a>,
    gateways: &mut Gateways<'a>,
    route: &'a Resource,
    parent: &ParentRef,
    field: &str,
    hostnames: &[HostPattern],
) {
    let namespace = parent.namespace.as_deref().unwrap_or(&route.id.namespace);
    let Some(places) = gateways.by_name.get(&(namespace, parent.name.as_str())) else {
        // A gateway that another process serves is no concern of this one.
        if context.options.gateways == super::Gateways::All {
            let message = format!("there is no Gateway {namespace}/{}", parent.name);
            context.notes.error(route, field, "NoMatchingParent", message, "add it, or correct the name");
        }
        return;
    };
    let refused = {
        let named = |draft: &&Draft<'_>| {
            parent.section_name.as_deref().is_none_or(|name| name == draft.spec.name.as_str())
                && parent.port.is_none_or(|port| port == draft.spec.port)
        };
        let listeners = places.iter().filter_map(|at| Some((*at, gateways.drafts.get(*at)?)));
        let listeners: Vec<(usize, &Draft<'_>)> = listeners.filter(|(_, draft)| named(draft)).collect();
        let allowing = listeners.iter().filter(|(_, draft)| {
            draft.kinds.contains(&route.id.kind) && draft.allows(context, &route.id.namespace)
        });
        let allowing: Vec<&(usize, &Draft<'_>)> = allowing.collect();
        let fitting = allowing.iter().filter_map(|(at, draft)| {
            let hosts =
                common(draft.spec.hostname.as_ref().filter(|_| route.id.kind != Kind::TcpRoute), hostnames);
            (!hosts.is_empty()).then_some((*at, hosts))
        });
        let fitting: Vec<(usize, Vec<Option<HostPattern>>)> = fitting.collect();
        let refused = match (listeners.is_empty(), allowing.is_empty(), fitting.is_empty()) {
            (true, ..) => Some(no_listener(parent, namespace)),
            (_, true, _) => Some(not_allowed(route, &listeners)),
            (.., true) => Some(no_host(hostnames, &allowing)),
            _ => None,
        };
        for (at, hosts) in fitting {
            if let Some(draft) = gateways.drafts.get_mut(at) {
                let known =
                    draft.attached.iter().rev().take_while(|known| known.route.id == route.id).count();
                if known == 0 {
                    draft.attached.push(Attached { route, field: field.to_owned(), hosts });
                }
            }
        }
        refused
    };
    if let Some((reason, message, cure)) = refused {
        context.notes.error(route, field, reason, message, cure);
    }
}

type Refusal = (&'static str, String, String);

fn no_listener(parent: &ParentRef, namespace: &str) -> Refusal {
    let name = parent.section_name.as_ref().map(|name| format!(" named `{name}`")).unwrap_or_default();
    let port = parent.port.map(|port: Port| format!(" on port {port}")).unwrap_or_default();
    let message = format!("Gateway {namespace}/{} has no listener{name}{port}", parent.name);
    ("NoMatchingParent", message, "correct `sectionName` or `port`".to_owned())
}

fn not_allowed(route: &Resource, listeners: &[(usize, &Draft<'_>)]) -> Refusal {
    let names: Vec<&str> = listeners.iter().map(|(_, draft)| draft.spec.name.as_str()).collect();
    let kind = route.id.kind;
    let takes_kind = listeners.iter().any(|(_, draft)| draft.kinds.contains(&kind));
    let (what, cure) = match takes_kind {
        true => (
            format!("routes of namespace {}", route.id.namespace),
            "set `allowedRoutes.namespaces` of the listener (the gateway's own namespace is the default)"
                .to_owned(),
        ),
        false => (
            format!("a {kind}"),
            format!("use a listener whose protocol goes with a {kind}, and see its `allowedRoutes.kinds`"),
        ),
    };
    ("NotAllowedByListeners", format!("listener {} does not take {what}", names.join(", ")), cure)
}

fn no_host(hostnames: &[HostPattern], listeners: &[&(usize, &Draft<'_>)]) -> Refusal {
    let theirs: Vec<String> = listeners
        .iter()
        .filter_map(|(_, draft)| draft.spec.hostname.as_ref())
        .map(ToString::to_string)
        .collect();
    let ours: Vec<String> = hostnames.iter().map(ToString::to_string).collect();
    let message =
        format!("none of {} is a host name of the listener ({})", ours.join(", "), theirs.join(", "));
    (
        "NoMatchingListenerHostname",
        message,
        "correct `hostnames` of the route or `hostname` of the listener".to_owned(),
    )
}

/// What the host names of a route and that of a listener have in common (HTTPRoute, "hostnames"). Empty: nothing.
fn common(listener: Option<&HostPattern>, route: &[HostPattern]) -> Vec<Option<HostPattern>> {
    match (listener, route) {
        (listener, []) => vec![listener.cloned()],
        (None, route) => route.iter().cloned().map(Some).collect(),
        (Some(listener), route) => {
            let mut all: Vec<Option<HostPattern>> = Vec::new();
            for host in route.iter().filter_map(|host| host.intersection(listener)) {
                if !all.iter().any(|known| known.as_ref() == Some(host)) {
                    all.push(Some(host.clone()));
                }
            }
            all
        }
    }
}
