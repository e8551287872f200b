//! Routes of services: those that hang on a Service and not on a gateway (GEP-1294, GAMMA).

use std::collections::HashMap;
use std::sync::Arc;

use weft_core::ServiceKey;
use weft_resource::core_kinds::ServicePort;
use weft_resource::reference::ParentRef;
use weft_resource::{Kind, Resource, ResourceId, Spec};

use super::attach::Attached;
use super::backends::{service_name, tcp_ports};
use super::{Context, Side};
use crate::table::HttpTable;

/// The routes of each port of a service.
pub(super) type ServiceRoutes<'a> = HashMap<ServiceKey, Routes<'a>>;

/// Routes of one port: by precedence.
#[derive(Default)]
pub(super) struct Routes<'a> {
    /// Of the service's namespace: for all clients.
    producer: Vec<Attached<'a>>,
    /// Of the client's namespace: for it alone, and instead of the others.
    consumer: Vec<Attached<'a>>,
}

pub(super) fn attach_to_service<'a>(
    context: &mut Context<'a>,
    services: &mut ServiceRoutes<'a>,
    route: &'a Resource,
    parent: &ParentRef,
    field: &str,
) {
    let namespace = parent.namespace.as_deref().unwrap_or(&route.id.namespace);
    let producer = *namespace == *route.id.namespace;
    let ours = context.options.client_namespace.as_ref();
    if !producer && ours.is_none_or(|ours| ours.as_str() != &*route.id.namespace) {
        return;
    }
    let id = ResourceId::new(Kind::Service, namespace, &parent.name);
    let refused = |message: String, cure: &str| ("NoMatchingParent", message, cure.to_owned());
    let ports = match context.set.get(&id).map(|service| &service.spec) {
        _ if !matches!(route.id.kind, Kind::HttpRoute | Kind::GrpcRoute) => Err((
            "NotAllowedByListeners",
            format!("a {} of a Service is not supported", route.id.kind),
            "use an HTTPRoute or a GRPCRoute, or hang it on a Gateway".to_owned(),
        )),
        Some(Spec::Service(service)) if service.kind.as_deref() == Some("ExternalName") => Err(refused(
            format!("{id} is of type ExternalName"),
            "a route of the mesh hangs on a Service with ports of its own",
        )),
        Some(Spec::Service(service)) => {
            // "Service: Port name" (ParentReference, "sectionName"); where both are said, both must be the port's.
            let wanted = |port: &&ServicePort| {
                parent.port.is_none_or(|wanted| wanted == port.port)
                    && parent
                        .section_name
                        .as_deref()
                        .is_none_or(|wanted| port.name.as_deref() == Some(wanted))
            };
            let ports: Vec<u16> = tcp_ports(service).filter(wanted).map(|port| port.port.get()).collect();
            match ports.is_empty() {
                true => Err(refused(
                    format!("{id} has no such TCP port"),
                    "name one of its ports, or none for all",
                )),
                false => Ok(ports),
            }
        }
        _ => {
            Err(refused(format!("there is no {id}"), "add the document of the Service, or correct the name"))
        }
    };
    let name = service_name(&id, &context.options.cluster_domain);
    match (ports, name) {
        (Err((reason, message, cure)), _) => context.notes.error(route, field, reason, message, cure),
        (Ok(_), None) => {}
        (Ok(ports), Some(name)) => {
            for port in ports {
                let routes = services.entry(ServiceKey::new(name.clone(), port)).or_default();
                let list = if producer { &mut routes.producer } else { &mut routes.consumer };
                if !list.iter().any(|known| known.route.id == route.id) {
                    // Host names mean nothing here (GEP-1294, "hostnames field").
                    list.push(Attached { route, field: field.to_owned(), hosts: vec![None] });
                }
            }
        }
    }
}

/// The tables of the services.
pub(super) fn services(
    context: &mut Context<'_>,
    services: ServiceRoutes<'_>,
) -> HashMap<ServiceKey, Arc<HttpTable>> {
    let side = Side { mesh: true, client: None };
    let mut services: Vec<_> = services.into_iter().collect();
    services.sort_by(|(a, _), (b, _)| a.cmp(b));
    let tables = services.into_iter().map(|(service, routes)| {
        // The routes of a client's namespace take the place of the others; they are not merged (GEP-1294, "Multiple routes").
        let mut list = if routes.consumer.is_empty() { routes.producer } else { routes.consumer };
        if list.iter().any(|attached| attached.route.id.kind == Kind::GrpcRoute) {
            // Of several kinds the most special holds (GEP-1294, "Route types").
            list.retain(|attached| {
                let stays = attached.route.id.kind == Kind::GrpcRoute;
                if !stays {
                    let message = format!("{service} has a GRPCRoute, and routes of one kind alone");
                    let cure = "hang them on different ports, or use one kind for both";
                    context.notes.error(attached.route, attached.field.clone(), "Conflicted", message, cure);
                }
                stays
            });
        }
        let table = context.http_table(&side, &list);
        (service, table)
    });
    tables.collect()
}
