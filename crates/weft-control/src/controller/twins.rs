//! Headless twins: what gives clients the addresses of a Service's pods by DNS.
//!
//! A ClusterIP Service has one address, and whoever dials it lets the node choose the pod. Its twin selects the same pods
//! without a virtual IP, with each port named after the Service's port, so that the SRV record `_p80._tcp` of the twin
//! tells where port 80 is served. A twin is Weft's own; a Service that merely has its name is never touched.

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::budget::{self, Look, Looks};
use super::facts::{Key, MANAGED_BY, PortFacts, ServiceFacts, ServiceKind};
use super::world::World;
use crate::names::TWIN_OF;

/// The longest name of a Service: a DNS label.
const MAX_NAME: usize = 63;

/// A twin as it is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Twin {
    /// Where it is.
    pub key: Key,
    /// The Service: name and uid.
    pub(crate) of: (String, String),
    facts: ServiceFacts,
}

/// Why a Service has no twin although it should.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hindrance {
    /// A Service of the name is there and not ours.
    Foreign,
    /// The name would be too long.
    TooLong,
}

/// What is to be done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Twins that are missing.
    pub create: Vec<Twin>,
    /// Twins that are not as their Services.
    pub update: Vec<Twin>,
    /// Place and uid.
    pub(crate) remove: Vec<(Key, String)>,
    /// By Service.
    pub hindered: Vec<(Key, Hindrance)>,
    /// How many there will be.
    pub kept: u64,
}

/// The name of a Service's twin.
pub fn name_of(service: &str) -> String {
    format!("{service}-endpoints")
}

/// The twin that a Service has now.
pub fn existing(world: &World, service: &Key) -> Option<Key> {
    let key = Key::new(&service.namespace, name_of(&service.name));
    let twin = world.seen.services.get(&key)?;
    (twin.is_twin() && twin.twin_of.as_deref() == Some(&service.name)).then_some(key)
}

/// Compares what is with what should be.
pub fn plan(world: &World) -> Plan {
    plan_of(world, &budget::look(world))
}

/// The same, for who has looked at the Services. Twins of Services that are held back stay as they are.
pub(crate) fn plan_of(world: &World, looks: &Looks<'_>) -> Plan {
    let mut plan = Plan::default();
    let mut wanted = std::collections::BTreeSet::new();
    for look in looks.mesh.iter().filter(|look| qualifies(world, look)) {
        let (key, service) = (look.key, look.service);
        let name = name_of(&key.name);
        if name.len() > MAX_NAME {
            plan.hindered.push((key.clone(), Hindrance::TooLong));
            continue;
        }
        let twin = Twin::of(key, service, name);
        wanted.insert(twin.key.clone());
        match world.seen.services.get(&twin.key) {
            None if world.writable(&key.namespace) => plan.create.push(twin),
            None => continue,
            Some(found) if !found.is_twin() || found.twin_of.as_deref() != Some(&key.name) => {
                plan.hindered.push((key.clone(), Hindrance::Foreign));
                continue;
            }
            // It belongs to a former Service of the name, and goes with it.
            Some(found) if found.owner.as_ref().map(|o| &o.uid) != Some(&service.uid) => {
                plan.remove.push((twin.key, found.uid.clone()));
                continue;
            }
            Some(found) if found.ending => continue,
            Some(found) if !twin.is(found) => plan.update.push(twin),
            Some(_) => {}
        }
        plan.kept += 1;
    }
    let held = |key: &Key, twin: &ServiceFacts| {
        let of = twin.twin_of.as_deref().map(|of| Key::new(&key.namespace, of));
        of.is_some_and(|of| looks.unseen.contains(&of))
    };
    for (key, twin) in &world.seen.services {
        if twin.is_twin() && !twin.ending && !wanted.contains(key) && !held(key, twin) {
            plan.remove.push((key.clone(), twin.uid.clone()));
        }
    }
    plan
}

/// Whether a Service of the mesh has a twin. One that is there stays while the Service could have it, so that scaling to
/// zero takes nothing away.
fn qualifies(world: &World, look: &Look<'_>) -> bool {
    let service = look.service;
    let kind = service.kind == ServiceKind::Virtual && !service.ending;
    kind && service.ports.iter().any(is_tcp)
        && (existing(world, look.key).is_some() || look.pods.iter().any(|pod| pod.injected))
}

fn is_tcp(port: &PortFacts) -> bool {
    port.protocol == "TCP"
}

impl Twin {
    fn of(key: &Key, service: &ServiceFacts, name: String) -> Self {
        let ports = service.ports.iter().filter(|port| is_tcp(port));
        let ports = ports.map(|port| PortFacts { name: Some(format!("p{}", port.port)), ..port.clone() });
        let facts = ServiceFacts {
            kind: ServiceKind::Headless,
            selector: service.selector.clone(),
            ports: ports.collect(),
            publish_not_ready: service.publish_not_ready,
            ip_families: service.ip_families.clone(),
            ip_family_policy: service.ip_family_policy.clone(),
            ..ServiceFacts::default()
        };
        Self { key: Key::new(&key.namespace, name), of: (key.name.clone(), service.uid.clone()), facts }
    }

    /// About how many octets it takes to write.
    pub(crate) fn octets(&self) -> usize {
        let selector = self.facts.selector.iter().map(|(key, value)| key.len() + value.len() + 8);
        700 + selector.sum::<usize>() + 160 * self.facts.ports.len()
    }

    /// Whether `found` is this one.
    fn is(&self, found: &ServiceFacts) -> bool {
        let shape = |s: &ServiceFacts| {
            let families = (s.ip_families.clone(), s.ip_family_policy.clone());
            (s.kind, s.selector.clone(), s.ports.clone(), s.publish_not_ready, families)
        };
        shape(&self.facts) == shape(found)
    }

    /// The object, laid over `found` where it is there: what others have added (annotations, labels) stays.
    pub(crate) fn over(&self, found: Option<Service>) -> Service {
        let mut service = found.unwrap_or_else(|| Service {
            metadata: ObjectMeta {
                name: Some(self.key.name.clone()),
                namespace: Some(self.key.namespace.clone()),
                ..ObjectMeta::default()
            },
            ..Service::default()
        });
        let labels = service.metadata.labels.get_or_insert_default();
        labels.insert(TWIN_OF.to_owned(), self.of.0.clone());
        labels.insert(MANAGED_BY.0.to_owned(), MANAGED_BY.1.to_owned());
        service.metadata.owner_references = Some(vec![OwnerReference {
            api_version: "v1".to_owned(),
            kind: "Service".to_owned(),
            name: self.of.0.clone(),
            uid: self.of.1.clone(),
            controller: Some(true),
            block_owner_deletion: None,
        }]);
        let some = |list: &Vec<String>| (!list.is_empty()).then(|| list.clone());
        let spec = service.spec.take().unwrap_or_default();
        service.spec = Some(ServiceSpec {
            type_: Some("ClusterIP".to_owned()),
            cluster_ip: Some("None".to_owned()),
            selector: Some(self.facts.selector.clone()),
            ports: Some(self.facts.ports.iter().map(service_port).collect()),
            publish_not_ready_addresses: self.facts.publish_not_ready.then_some(true),
            ip_families: some(&self.facts.ip_families),
            ip_family_policy: self.facts.ip_family_policy.clone(),
            ..spec
        });
        service
    }
}

fn service_port(port: &PortFacts) -> ServicePort {
    // A headless Service carries its target port to DNS; zero would be the port itself.
    let target = match &port.target {
        IntOrString::Int(0) => IntOrString::Int(port.port),
        target => target.clone(),
    };
    ServicePort {
        name: port.name.clone(),
        port: port.port,
        target_port: Some(target),
        protocol: Some(port.protocol.clone()),
        app_protocol: port.app_protocol.clone(),
        node_port: None,
    }
}

#[cfg(test)]
#[path = "twins_tests.rs"]
mod tests;
