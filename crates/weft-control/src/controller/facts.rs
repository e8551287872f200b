//! What the controller knows of each object: plain values, taken from the objects as they arrive.
//!
//! An object of the API is large, and changes all the time in ways that do not matter here. Keeping facts alone bounds
//! the memory of a controller that sees every pod of a cluster, and an object whose facts are the same is no reason to
//! compute anything. All decisions look at facts only, so they are tested without an API server.
//!
//! A further kind (of the Gateway API, say) comes in here: a struct, its `Facts` implementation, a store in
//! `stores`, and a field in [`World`](super::world::World).

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::net::IpAddr;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::{
    ConfigMap, Namespace, Node, Pod, PodSpec, Service, ServicePort, ServiceSpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use weft_core::MtlsMode;

use super::budget::WAITS;
use super::maker::{self, Maker};
use super::service_cidr::ServiceCidr;
use crate::inject::is_for_windows;
use crate::names::{ASKS, DECLINES, HELD_BACK, INIT, INJECT_LABEL, MESH, MODE, PREFIX, PROXY, TWIN_OF};

/// Mistakes that are kept of one object. An object holds thousands of annotations, and an Event has room for one.
const MISTAKES: usize = 4;
/// Labels that are kept of one pod: the API has no limit but the size of an object, and real pods have a dozen.
const LABELS: usize = 256;
/// Ports and selector labels of one Service. Above, it is held back.
const PORTS: usize = 250;
const SELECTOR: usize = 64;
/// Keys that are kept of one ConfigMap: ours has two.
const DATA: usize = 64;

/// The label that says who manages an object, and its value.
pub(crate) const MANAGED_BY: (&str, &str) = (crate::names::MANAGED_BY, crate::names::WEFT);
/// The condition of pods that slipped by.
pub(crate) const INJECTED_CONDITION: &str = "weft.dev/SidecarInjected";
/// The annotation of a static pod's copy in the API.
const MIRROR: &str = "kubernetes.io/config.mirror";

/// An object's place: namespace (empty for a cluster's own objects) and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Its namespace; empty for a cluster's own objects.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl Key {
    /// Of a namespace and a name.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }

    /// Of an object.
    pub fn of(meta: &ObjectMeta) -> Self {
        Self::new(meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default())
    }
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Facts about objects of kind `K`.
pub(crate) trait Facts<K>: Sized + PartialEq {
    /// Where the object is, and what matters about it.
    fn take(object: &K) -> (Key, Self);
}

/// The value of `weft.dev/inject`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Inject {
    /// No label, or one that cannot be read.
    #[default]
    Unsaid,
    /// A sidecar is asked for.
    Enabled,
    /// None is wanted.
    Disabled,
}

/// Reads labels and annotations, and keeps what cannot be read: a Namespace or Service is never refused, so the mistake is
/// told in an Event instead.
struct Words<'m> {
    meta: &'m ObjectMeta,
    mistakes: Vec<String>,
}

impl<'m> Words<'m> {
    /// `known`: the annotations of Weft that this kind may have.
    fn of(meta: &'m ObjectMeta, known: &[&str]) -> Self {
        let ours =
            meta.annotations.iter().flatten().map(|(key, _)| key).filter(|key| key.starts_with(PREFIX));
        let unknown = ours.filter(|key| !known.contains(&key.as_str()));
        let mistakes = unknown.take(MISTAKES);
        let mistakes =
            mistakes.map(|key| format!("the annotation {} has no meaning here", cut(key))).collect();
        Self { meta, mistakes }
    }

    fn read<T: Copy>(
        &mut self,
        kind: &str,
        key: &str,
        found: Option<&str>,
        allowed: &[(&str, T)],
    ) -> Option<T> {
        let found = found?;
        let read = allowed.iter().find(|(word, _)| *word == found).map(|(_, value)| *value);
        if read.is_none() {
            let words: Vec<&str> = allowed.iter().map(|(word, _)| *word).collect();
            let words = words.join(", ");
            self.mistakes
                .push(format!("the {kind} {key}: {:?} cannot be read; write one of {words}", cut(found)));
        }
        read
    }

    fn annotation<T: Copy>(&mut self, key: &str, allowed: &[(&str, T)]) -> Option<T> {
        self.read("annotation", key, annotation(self.meta, key), allowed)
    }

    fn inject(&mut self) -> Inject {
        let asks = ASKS.map(|word| (word, Inject::Enabled));
        let allowed = [asks, DECLINES.map(|word| (word, Inject::Disabled))].concat();
        self.read("label", INJECT_LABEL, label(self.meta, INJECT_LABEL), &allowed).unwrap_or_default()
    }
}

const INBOUND_MODES: &[(&str, MtlsMode)] =
    &[("strict", MtlsMode::Strict), ("permissive", MtlsMode::Permissive)];
const MODES: &[(&str, MtlsMode)] =
    &[("strict", MtlsMode::Strict), ("permissive", MtlsMode::Permissive), ("disable", MtlsMode::Disable)];

/// What was written goes into an Event, which has its limit.
fn cut(text: &str) -> String {
    text.chars().take(64).collect()
}

fn label<'m>(meta: &'m ObjectMeta, key: &str) -> Option<&'m str> {
    meta.labels.as_ref()?.get(key).map(String::as_str)
}

/// The first so many.
fn kept(all: Option<&BTreeMap<String, String>>, most: usize) -> BTreeMap<String, String> {
    all.into_iter().flatten().take(most).map(|(key, value)| (key.clone(), value.clone())).collect()
}

fn annotation<'m>(meta: &'m ObjectMeta, key: &str) -> Option<&'m str> {
    meta.annotations.as_ref()?.get(key).map(String::as_str)
}

/// A namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NamespaceFacts {
    pub(crate) uid: String,
    /// Its label.
    pub inject: Inject,
    /// `strict` or `permissive`, where it is said.
    pub(crate) mode: Option<MtlsMode>,
    /// Being deleted: nothing can be created in it.
    pub(crate) ending: bool,
    /// What could not be read.
    pub mistakes: Vec<String>,
}

impl Facts<Namespace> for NamespaceFacts {
    fn take(object: &Namespace) -> (Key, Self) {
        let meta = &object.metadata;
        let mut words = Words::of(meta, &[MODE]);
        let facts = Self {
            uid: meta.uid.clone().unwrap_or_default(),
            inject: words.inject(),
            mode: words.annotation(MODE, INBOUND_MODES),
            ending: meta.deletion_timestamp.is_some(),
            mistakes: words.mistakes,
        };
        (Key::of(meta), facts)
    }
}

/// A pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodFacts {
    /// Of its object.
    pub uid: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) inject: Inject,
    /// Its own inbound mode; a mistake was refused by the injector and counts as nothing.
    pub mode: Option<MtlsMode>,
    /// Succeeded or failed.
    pub finished: bool,
    /// Being deleted.
    pub(crate) ending: bool,
    pub(crate) ready: bool,
    /// Has the containers of a sidecar.
    pub injected: bool,
    /// Never injected, whatever the labels: in the node's network, the copy of a static pod (its kubelet starts it without
    /// asking), or of an operating system without iptables.
    pub left_alone: bool,
    /// Its addresses, of both families.
    pub ips: Vec<IpAddr>,
    /// What its condition says, where it slipped by.
    pub(crate) reported: Option<Reported>,
    /// What makes it anew when it is gone.
    pub maker: Option<Maker>,
    /// Data would be lost with it: it has an `emptyDir`.
    pub(crate) local_data: bool,
    /// Its author does not want it evicted.
    pub(crate) stays: bool,
}

/// What the condition of a pod that slipped by says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reported {
    /// It has no sidecar.
    Missing,
    /// Neither had those that were made in its place.
    GivenUp,
}

impl Reported {
    /// The condition's reason, and the Event's.
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Self::Missing => "SidecarMissing",
            Self::GivenUp => "SidecarRecreateGivenUp",
        }
    }
}

impl PodFacts {
    /// Whether mutual TLS is what its sidecar expects from clients.
    pub(crate) fn takes_mesh_links(&self) -> bool {
        self.injected && self.mode != Some(MtlsMode::Disable)
    }
}

impl Facts<Pod> for PodFacts {
    fn take(object: &Pod) -> (Key, Self) {
        let meta = &object.metadata;
        let spec = object.spec.as_ref();
        let status = object.status.as_ref();
        let conditions = status.and_then(|status| status.conditions.as_deref()).unwrap_or_default();
        let condition = |kind: &str, status: &str| {
            conditions.iter().find(|condition| condition.type_ == kind && condition.status == status)
        };
        let phase = status.and_then(|status| status.phase.as_deref());
        // Mistakes on pods are the injector's to tell.
        let mut words = Words { meta, mistakes: Vec::new() };
        let ips = status.and_then(|status| status.pod_ips.as_deref()).unwrap_or_default();
        let facts = Self {
            uid: meta.uid.clone().unwrap_or_default(),
            labels: kept(meta.labels.as_ref(), LABELS),
            inject: words.inject(),
            mode: words.annotation(MODE, MODES),
            finished: matches!(phase, Some("Succeeded" | "Failed")),
            ending: meta.deletion_timestamp.is_some(),
            ready: condition("Ready", "True").is_some(),
            injected: injected(object),
            left_alone: spec.is_some_and(left_alone) || annotation(meta, MIRROR).is_some(),
            ips: ips.iter().filter_map(|ip| ip.ip.parse().ok()).collect(),
            reported: condition(INJECTED_CONDITION, "False").map(|condition| {
                let given_up = condition.reason.as_deref() == Some(Reported::GivenUp.reason());
                if given_up { Reported::GivenUp } else { Reported::Missing }
            }),
            maker: Maker::of(meta),
            local_data: spec.is_some_and(maker::has_local_data),
            stays: annotation(meta, maker::SAFE_TO_EVICT) == Some("false"),
        };
        (Key::of(meta), facts)
    }
}

fn left_alone(spec: &PodSpec) -> bool {
    let os = spec.os.as_ref().map(|os| os.name.as_str());
    let affinity = spec.affinity.as_ref().and_then(|affinity| serde_json::to_value(affinity).ok());
    spec.host_network == Some(true) || is_for_windows(os, spec.node_selector.as_ref(), affinity.as_ref())
}

/// Whether a pod has a sidecar: its containers tell, and nothing else (docs/design/kubernetes.md).
pub fn injected(pod: &Pod) -> bool {
    let Some(spec) = &pod.spec else { return false };
    let init = spec.init_containers.as_deref().unwrap_or_default();
    let has = |name: &str| init.iter().any(|container| container.name == name);
    has(INIT) && (has(PROXY) || spec.containers.iter().any(|c| c.name == PROXY))
}

/// What a Service stands for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum ServiceKind {
    /// A virtual IP (ClusterIP, NodePort, LoadBalancer).
    #[default]
    Virtual,
    /// `clusterIP: None`.
    Headless,
    /// `type: ExternalName`.
    External,
}

/// A port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PortFacts {
    pub(crate) name: Option<String>,
    pub(crate) port: i32,
    pub(crate) target: IntOrString,
    pub(crate) protocol: String,
    pub(crate) app_protocol: Option<String>,
}

impl PortFacts {
    fn of(port: &ServicePort) -> Self {
        Self {
            name: port.name.clone(),
            port: port.port,
            target: port.target_port.clone().unwrap_or(IntOrString::Int(port.port)),
            protocol: port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
            app_protocol: port.app_protocol.clone(),
        }
    }
}

/// The object that owns a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Owner {
    pub(crate) kind: String,
    pub(crate) name: String,
    pub(crate) uid: String,
}

/// A Service, twins included.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceFacts {
    pub(crate) uid: String,
    /// When it was made, in Unix seconds: where not all have room, the older ones have it.
    pub(crate) created: i64,
    pub(crate) kind: ServiceKind,
    /// Empty: none, its endpoints are written by somebody else.
    pub(crate) selector: BTreeMap<String, String>,
    pub(crate) ports: Vec<PortFacts>,
    pub(crate) publish_not_ready: bool,
    pub(crate) ip_families: Vec<String>,
    pub(crate) ip_family_policy: Option<String>,
    /// `weft.dev/mode`.
    pub mode: Option<MtlsMode>,
    /// `weft.dev/mesh: disabled`.
    pub(crate) mesh_disabled: bool,
    /// `weft.dev/twin-of`, beside the label of Weft's own objects.
    pub(crate) twin_of: Option<String>,
    pub(crate) owner: Option<Owner>,
    pub(crate) ending: bool,
    /// `sessionAffinity: ClientIP`.
    pub(crate) keeps_clients: bool,
    /// More ports or selector labels than are kept; what is here is not all of it.
    pub(crate) oversized: bool,
    /// What could not be read.
    pub mistakes: Vec<String>,
}

impl ServiceFacts {
    /// Whether it is a twin that the controller made: the labels alone do not count, anybody can copy them.
    pub(crate) fn is_twin(&self) -> bool {
        let owned_by = |name| self.owner.as_ref().is_some_and(|o| o.kind == "Service" && o.name == name);
        self.twin_of.as_deref().is_some_and(owned_by)
    }
}

impl Facts<Service> for ServiceFacts {
    fn take(object: &Service) -> (Key, Self) {
        let meta = &object.metadata;
        let mut words = Words::of(meta, &[MODE, MESH]);
        let none = ServiceSpec::default();
        let spec = object.spec.as_ref().unwrap_or(&none);
        let ours = label(meta, MANAGED_BY.0) == Some(MANAGED_BY.1);
        let owners = meta.owner_references.as_deref().unwrap_or_default();
        let ports = spec.ports.as_deref().unwrap_or_default();
        let labels = spec.selector.as_ref().map_or(0, BTreeMap::len);
        let facts = Self {
            uid: meta.uid.clone().unwrap_or_default(),
            created: meta.creation_timestamp.as_ref().map_or(0, |time| time.0.as_second()),
            kind: match (spec.type_.as_deref(), spec.cluster_ip.as_deref()) {
                (Some("ExternalName"), _) => ServiceKind::External,
                (_, Some("None")) => ServiceKind::Headless,
                _ => ServiceKind::Virtual,
            },
            selector: kept(spec.selector.as_ref(), SELECTOR),
            ports: ports.iter().take(PORTS).map(PortFacts::of).collect(),
            publish_not_ready: spec.publish_not_ready_addresses == Some(true),
            ip_families: spec.ip_families.clone().unwrap_or_default(),
            ip_family_policy: spec.ip_family_policy.clone(),
            mode: words.annotation(MODE, MODES),
            mesh_disabled: words.annotation(MESH, &[("disabled", ())]).is_some(),
            twin_of: label(meta, TWIN_OF).filter(|_| ours).map(str::to_owned),
            owner: owners.first().map(|owner| Owner {
                kind: owner.kind.clone(),
                name: owner.name.clone(),
                uid: owner.uid.clone(),
            }),
            ending: meta.deletion_timestamp.is_some(),
            keeps_clients: spec.session_affinity.as_deref() == Some("ClientIP"),
            oversized: ports.len() > PORTS || labels > SELECTOR,
            mistakes: words.mistakes,
        };
        (Key::of(meta), facts)
    }
}

/// A node: the networks of its pods.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct NodeFacts {
    pub(crate) pod_cidrs: Vec<IpNet>,
}

impl Facts<Node> for NodeFacts {
    fn take(object: &Node) -> (Key, Self) {
        let spec = object.spec.as_ref();
        let many = spec.and_then(|spec| spec.pod_cidrs.as_deref()).unwrap_or_default();
        let one = spec.and_then(|spec| spec.pod_cidr.as_ref()).into_iter();
        let mut pod_cidrs: Vec<IpNet> = many.iter().chain(one).filter_map(|cidr| cidr.parse().ok()).collect();
        pod_cidrs.sort_unstable();
        pod_cidrs.dedup();
        (Key::of(&object.metadata), Self { pod_cidrs })
    }
}

/// A `ServiceCIDR`: networks of virtual addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ServiceCidrFacts {
    pub(crate) cidrs: Vec<IpNet>,
}

impl Facts<ServiceCidr> for ServiceCidrFacts {
    fn take(object: &ServiceCidr) -> (Key, Self) {
        let cidrs = object.spec.cidrs.iter().filter_map(|cidr| cidr.parse().ok());
        (Key::of(&object.metadata), Self { cidrs: cidrs.collect() })
    }
}

/// A ConfigMap of ours, each value as its [`digest`]: texts may be large, and there is one in each namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ConfigMapFacts {
    pub(crate) uid: String,
    pub(crate) data: BTreeMap<String, u64>,
    /// Whether it has Weft's label.
    pub(crate) labelled: bool,
    /// `immutable: true`: the API server refuses every change.
    pub(crate) immutable: bool,
    /// What it says is held back.
    pub(crate) held: Option<String>,
}

impl ConfigMapFacts {
    /// Whether its namespace waits to join the mesh.
    pub(crate) fn waits(&self) -> bool {
        self.held.as_ref().is_some_and(|held| held.contains(WAITS))
    }
}

impl Facts<ConfigMap> for ConfigMapFacts {
    fn take(object: &ConfigMap) -> (Key, Self) {
        let meta = &object.metadata;
        let text = object.data.iter().flatten().map(|(key, value)| (key.clone(), digest(value.as_bytes())));
        let binary = object.binary_data.iter().flatten();
        let binary = binary.map(|(key, value)| (key.clone(), digest(&value.0)));
        let facts = Self {
            uid: meta.uid.clone().unwrap_or_default(),
            data: text.chain(binary).take(DATA).collect(),
            immutable: object.immutable == Some(true),
            held: annotation(meta, HELD_BACK).map(str::to_owned),
            labelled: label(meta, MANAGED_BY.0) == Some(MANAGED_BY.1),
        };
        (Key::of(meta), facts)
    }
}

/// A short stand-in for a value, for comparison within this process.
pub(crate) fn digest(value: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
#[path = "facts_tests.rs"]
mod tests;
