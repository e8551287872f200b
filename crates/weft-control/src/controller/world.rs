//! One look at everything: who participates, which pods a Service selects.
//!
//! A pass works on one such look, so that all that it decides fits together.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::{Namespace, Pod, Service};
use weft_core::MtlsMode;

use super::facts::{
    ConfigMapFacts, Facts, Inject, Key, NamespaceFacts, NodeFacts, PodFacts, ServiceCidrFacts, ServiceFacts,
    ServiceKind,
};
use super::maker::Maker;
use super::stores::Stores;

/// Namespaces that never take part.
const SYSTEM: [&str; 3] = ["kube-system", "kube-public", "kube-node-lease"];

/// The facts of one moment.
#[derive(Debug, Default)]
pub struct Seen {
    /// Namespaces; the namespace of their key is empty.
    pub namespaces: BTreeMap<Key, Arc<NamespaceFacts>>,
    /// Pods, those that have finished too.
    pub pods: BTreeMap<Key, Arc<PodFacts>>,
    /// Services, twins included.
    pub services: BTreeMap<Key, Arc<ServiceFacts>>,
    pub(crate) nodes: BTreeMap<Key, Arc<NodeFacts>>,
    pub(crate) service_cidrs: BTreeMap<Key, Arc<ServiceCidrFacts>>,
    pub(crate) meshes: BTreeMap<Key, Arc<ConfigMapFacts>>,
    pub(crate) state: BTreeMap<Key, Arc<ConfigMapFacts>>,
}

impl Seen {
    /// What one look at the API server has brought. Nodes and the controller's own ConfigMaps are not in it, so it judges as
    /// the controller does, and plans nothing that needs them.
    pub fn of(namespaces: &[Namespace], pods: &[Pod], services: &[Service]) -> Self {
        Self {
            namespaces: facts(namespaces),
            pods: facts(pods),
            services: facts(services),
            ..Self::default()
        }
    }
}

fn facts<K, F: Facts<K>>(objects: &[K]) -> BTreeMap<Key, Arc<F>> {
    objects.iter().map(F::take).map(|(key, facts)| (key, Arc::new(facts))).collect()
}

impl From<&Stores> for Seen {
    fn from(stores: &Stores) -> Self {
        Self {
            namespaces: stores.namespaces.all(),
            pods: stores.pods.all(),
            services: stores.services.all(),
            nodes: stores.nodes.all(),
            service_cidrs: stores.service_cidrs.all(),
            meshes: stores.meshes.all(),
            state: stores.state.all(),
        }
    }
}

/// [`Seen`], with what follows from it.
#[derive(Debug)]
pub struct World {
    /// The facts themselves.
    pub seen: Seen,
    /// Weft's own namespace.
    pub(crate) own: String,
    /// Participating namespaces.
    pub members: BTreeSet<String>,
    /// Namespaces with a pod that asks for a sidecar by its own label.
    pub(crate) asking: BTreeSet<String>,
    /// Pods that run or will, by the hash of their namespace and each of their labels that a Service selects by. Hashes
    /// may meet: who looks something up compares.
    by_label: HashMap<u64, Vec<(String, Arc<PodFacts>)>>,
    /// Keyed anew for each look: labels are what tenants write, and must not be made to meet.
    hasher: RandomState,
    /// Injected pods that run or will, by namespace.
    pub(crate) injected: BTreeMap<String, u64>,
    /// Workloads that are given up, by namespace: what makes them anew has no sidecar either.
    pub(crate) given_up: BTreeSet<(String, Maker)>,
}

impl World {
    /// Draws the conclusions. `own` is Weft's own namespace.
    pub fn new(own: &str, seen: Seen) -> Self {
        let mut world = Self {
            seen,
            own: own.to_owned(),
            members: BTreeSet::new(),
            asking: BTreeSet::new(),
            by_label: HashMap::new(),
            hasher: RandomState::new(),
            injected: BTreeMap::new(),
            given_up: BTreeSet::new(),
        };
        let asked = |inject: &Inject| *inject == Inject::Enabled;
        // A finished pod counts too: a namespace with one job a day would come and go.
        let pods = world.seen.pods.iter().filter(|(_, pod)| asked(&pod.inject));
        world.asking = pods.map(|(key, _)| key.namespace.clone()).collect();
        let mut members = world.asking.clone();
        let namespaces = world.seen.namespaces.iter();
        members.extend(namespaces.filter(|(_, ns)| asked(&ns.inject)).map(|(key, _)| key.name.clone()));
        members.retain(|namespace| world.may_participate(namespace));
        world.members = members;
        world.index();
        world
    }

    /// Keeps namespaces whose Services are remembered as strict, although no pod asks for a sidecar now: scaled to zero
    /// is no decision to leave. So with one that is not seen yet.
    pub(crate) fn keep(&mut self, namespaces: &BTreeSet<String>) {
        let unsaid = |namespace: &&String| {
            self.namespace(namespace).is_none_or(|facts| facts.inject == Inject::Unsaid)
                && !self.is_kept_out(namespace)
        };
        let kept: Vec<String> = namespaces.iter().filter(unsaid).cloned().collect();
        self.members.extend(kept);
    }

    /// Only labels that some Service selects by: a pod may carry any number of others.
    fn index(&mut self) {
        let services = self.seen.services.iter();
        let selected = services.flat_map(|(key, service)| {
            service.selector.iter().map(|(label, value)| self.hash(&key.namespace, label, value))
        });
        let selected: HashSet<u64> = selected.collect();
        let mut by_label: HashMap<u64, Vec<(String, Arc<PodFacts>)>> = HashMap::new();
        let mut injected: BTreeMap<String, u64> = BTreeMap::new();
        for (key, pod) in self.seen.pods.iter().filter(|(_, pod)| !pod.finished) {
            for (label, value) in &pod.labels {
                let hash = self.hash(&key.namespace, label, value);
                if selected.contains(&hash) {
                    by_label.entry(hash).or_default().push((key.namespace.clone(), Arc::clone(pod)));
                }
            }
            if pod.injected {
                *injected.entry(key.namespace.clone()).or_default() += 1;
            }
        }
        (self.by_label, self.injected) = (by_label, injected);
    }

    fn hash(&self, namespace: &str, key: &str, value: &str) -> u64 {
        self.hasher.hash_one((namespace, key, value))
    }

    /// Whether the namespace exists and is neither a system's, Weft's own, nor kept out.
    pub fn may_participate(&self, namespace: &str) -> bool {
        !self.is_kept_out(namespace)
            && self.namespace(namespace).is_some_and(|ns| ns.inject != Inject::Disabled)
    }

    fn is_kept_out(&self, namespace: &str) -> bool {
        SYSTEM.contains(&namespace) || namespace == self.own
    }

    /// The namespace of this name.
    pub fn namespace(&self, name: &str) -> Option<&NamespaceFacts> {
        self.seen.namespaces.get(&Key::new("", name)).map(|facts| &**facts)
    }

    /// Whether objects can be written in the namespace.
    pub fn writable(&self, namespace: &str) -> bool {
        self.namespace(namespace).is_some_and(|ns| !ns.ending)
    }

    /// Whether the workload of a pod is given up.
    pub(crate) fn is_given_up(&self, key: &Key, pod: &PodFacts) -> bool {
        let of = |maker: &Maker| self.given_up.contains(&(key.namespace.clone(), maker.clone()));
        !self.given_up.is_empty() && pod.maker.as_ref().is_some_and(of)
    }

    /// The inbound mode of a namespace's pods.
    pub fn inbound(&self, namespace: &str) -> MtlsMode {
        self.namespace(namespace).and_then(|ns| ns.mode).unwrap_or(MtlsMode::Permissive)
    }

    /// The Services of participating namespaces; twins are not Services of their own.
    pub fn services(&self) -> impl Iterator<Item = (&Key, &ServiceFacts)> {
        let services = self.seen.services.iter().map(|(key, facts)| (key, &**facts));
        services.filter(|(key, facts)| self.members.contains(&key.namespace) && !facts.is_twin())
    }

    /// Those of [`services`](Self::services) whose pods are in the mesh.
    pub fn mesh_services(&self) -> impl Iterator<Item = (&Key, &ServiceFacts)> {
        self.services().filter(|(_, service)| !is_exception(service))
    }

    /// The pods with the rarest of the labels that a Service selects by: the others are compared.
    fn candidates(&self, key: &Key, service: &ServiceFacts) -> &[(String, Arc<PodFacts>)] {
        let of_label = |(label, value): (&String, &String)| {
            self.by_label.get(&self.hash(&key.namespace, label, value)).map(Vec::as_slice).unwrap_or_default()
        };
        service.selector.iter().map(of_label).min_by_key(|pods| pods.len()).unwrap_or_default()
    }

    /// How many pods have to be looked at to tell those that a Service selects.
    pub(crate) fn cost(&self, key: &Key, service: &ServiceFacts) -> usize {
        self.candidates(key, service).len()
    }

    /// The pods that a Service selects, those that have finished left out.
    pub fn pods_of(&self, key: &Key, service: &ServiceFacts) -> Vec<&PodFacts> {
        let selected = |(namespace, pod): &&(String, Arc<PodFacts>)| {
            *namespace == key.namespace
                && service.selector.iter().all(|(label, value)| pod.labels.get(label) == Some(value))
        };
        self.candidates(key, service).iter().filter(selected).map(|(_, pod)| &**pod).collect()
    }

    /// The networks of the nodes' pods, neighbours joined.
    pub(crate) fn pod_cidrs(&self) -> Vec<IpNet> {
        let mut all: Vec<IpNet> = self.seen.nodes.values().flat_map(|node| node.pod_cidrs.clone()).collect();
        all = IpNet::aggregate(&all);
        all.sort_unstable();
        all
    }

    /// The networks of virtual addresses that the cluster tells, neighbours joined.
    pub(crate) fn service_cidrs(&self) -> Vec<IpNet> {
        let all: Vec<IpNet> =
            self.seen.service_cidrs.values().flat_map(|facts| facts.cidrs.clone()).collect();
        let mut all = IpNet::aggregate(&all);
        all.sort_unstable();
        all
    }
}

/// Whether a Service of a participating namespace is outside all the same.
pub(crate) fn is_exception(service: &ServiceFacts) -> bool {
    service.mesh_disabled || service.kind == ServiceKind::External || service.selector.is_empty()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A world in the making.
    #[derive(Default)]
    pub(crate) struct Draft(pub(crate) Seen);

    impl Draft {
        pub(crate) fn namespace(mut self, name: &str, inject: Inject, mode: Option<MtlsMode>) -> Self {
            let facts = NamespaceFacts { uid: name.to_owned(), inject, mode, ..NamespaceFacts::default() };
            self.0.namespaces.insert(Key::new("", name), Arc::new(facts));
            self
        }

        pub(crate) fn service(
            mut self,
            namespace: &str,
            name: &str,
            change: impl FnOnce(&mut ServiceFacts),
        ) -> Self {
            let mut facts = ServiceFacts {
                uid: format!("{namespace}-{name}"),
                selector: [("app".to_owned(), name.to_owned())].into(),
                ..ServiceFacts::default()
            };
            change(&mut facts);
            self.0.services.insert(Key::new(namespace, name), Arc::new(facts));
            self
        }

        /// A ready pod of the Service `app`, at `ip`.
        pub(crate) fn pod(
            mut self,
            namespace: &str,
            app: &str,
            ip: &str,
            injected: bool,
            change: impl FnOnce(&mut PodFacts),
        ) -> Self {
            let mut facts = PodFacts {
                uid: ip.to_owned(),
                labels: [("app".to_owned(), app.to_owned()), ("tier".to_owned(), "any".to_owned())].into(),
                ready: true,
                injected,
                ips: vec![ip.parse().unwrap()],
                ..PodFacts::default()
            };
            change(&mut facts);
            self.0.pods.insert(Key::new(namespace, format!("{app}-{ip}")), Arc::new(facts));
            self
        }

        pub(crate) fn node(mut self, name: &str, cidr: &str) -> Self {
            let facts = NodeFacts { pod_cidrs: vec![cidr.parse().unwrap()] };
            self.0.nodes.insert(Key::new("", name), Arc::new(facts));
            self
        }

        pub(crate) fn service_cidr(mut self, name: &str, cidr: &str) -> Self {
            let facts = ServiceCidrFacts { cidrs: vec![cidr.parse().unwrap()] };
            self.0.service_cidrs.insert(Key::new("", name), Arc::new(facts));
            self
        }

        pub(crate) fn world(self) -> World {
            World::new("weft-system", self.0)
        }
    }

    pub(crate) fn no_change<T>(_: &mut T) {}

    #[test]
    fn labels_decide_who_participates_and_systems_never_do() {
        let enabled = |pod: &mut PodFacts| pod.inject = Inject::Enabled;
        let world = Draft::default()
            .namespace("shop", Inject::Enabled, None)
            .namespace("data", Inject::Unsaid, None)
            .namespace("kept-out", Inject::Disabled, None)
            .namespace("plain", Inject::Unsaid, None)
            .namespace("kube-system", Inject::Enabled, None)
            .namespace("weft-system", Inject::Enabled, None)
            .pod("data", "db", "10.0.0.1", true, enabled)
            .pod("kept-out", "x", "10.0.0.2", false, enabled)
            .pod("plain", "x", "10.0.0.3", false, no_change)
            .pod("kube-system", "x", "10.0.0.4", false, enabled)
            // Of a namespace that is not known (yet).
            .pod("gone", "x", "10.0.0.5", false, enabled)
            .world();
        assert_eq!(world.members.iter().map(String::as_str).collect::<Vec<_>>(), ["data", "shop"]);
    }

    #[test]
    fn a_service_selects_by_all_its_labels_within_its_namespace() {
        let both = |service: &mut ServiceFacts| {
            service.selector.insert("tier".to_owned(), "any".to_owned());
        };
        let world = Draft::default()
            .namespace("shop", Inject::Enabled, None)
            .service("shop", "orders", both)
            .service("shop", "nothing", |service| service.selector.clear())
            .pod("shop", "orders", "10.0.0.1", true, no_change)
            .pod("shop", "orders", "10.0.0.2", true, |pod| pod.finished = true)
            .pod("shop", "other", "10.0.0.3", true, no_change)
            .pod("data", "orders", "10.0.0.4", true, no_change)
            .world();
        let found = |name| {
            let key = Key::new("shop", name);
            let facts = Arc::clone(&world.seen.services[&key]);
            world.pods_of(&key, &facts).iter().map(|pod| pod.uid.clone()).collect::<Vec<_>>()
        };
        assert_eq!(found("orders"), ["10.0.0.1"]);
        assert!(found("nothing").is_empty());
    }

    #[test]
    fn a_namespace_is_kept_unless_its_label_says_otherwise() {
        let all: BTreeSet<String> =
            ["data", "out", "gone", "kube-system"].into_iter().map(str::to_owned).collect();
        let mut world = Draft::default()
            .namespace("data", Inject::Unsaid, None)
            .namespace("out", Inject::Disabled, None)
            .namespace("kube-system", Inject::Unsaid, None)
            .world();
        world.keep(&all);
        // `gone` is one that is not seen yet, or its Services would not be remembered.
        assert_eq!(world.members.iter().map(String::as_str).collect::<Vec<_>>(), ["data", "gone"]);
    }

    #[test]
    fn neighbouring_networks_are_joined() {
        let world = Draft::default()
            .node("b", "10.244.1.0/24")
            .node("a", "10.244.0.0/24")
            .node("c", "fd00:1::/64")
            .world();
        let cidrs: Vec<String> = world.pod_cidrs().iter().map(ToString::to_string).collect();
        assert_eq!(cidrs, ["10.244.0.0/23", "fd00:1::/64"]);
    }
}
