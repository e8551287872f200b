//! Watches, and what was seen by them.
//!
//! kube's own reflector keeps whole objects; these stores keep [facts](super::facts). A store that is reading its list
//! anew goes on showing the old one until the new one is complete, so a lost watch never looks like deletions. A change
//! that changes no fact wakes nobody.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Debug;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::{Stream, StreamExt as _};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node, Pod, Service};
use kube::runtime::watcher::Event;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::{Notify, watch};

use super::facts::{
    ConfigMapFacts, Facts, Key, NamespaceFacts, NodeFacts, PodFacts, ServiceCidrFacts, ServiceFacts,
};
use super::service_cidr::ServiceCidr;

/// Objects of one page of a list.
const PAGE: u32 = 50;

/// Objects by place.
#[derive(Debug)]
pub(crate) struct Store<F> {
    inner: Mutex<Inner<F>>,
    ready: watch::Sender<bool>,
}

#[derive(Debug)]
struct Inner<F> {
    now: HashMap<Key, Arc<F>>,
    /// The list that is being read.
    next: HashMap<Key, Arc<F>>,
}

impl<F> Default for Store<F> {
    fn default() -> Self {
        let inner = Inner { now: HashMap::new(), next: HashMap::new() };
        Self { inner: Mutex::new(inner), ready: watch::Sender::new(false) }
    }
}

impl<F: PartialEq> Store<F> {
    fn inner(&self) -> MutexGuard<'_, Inner<F>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes an event in; whether anything has changed.
    pub(crate) fn apply<K>(&self, event: Event<K>) -> bool
    where
        F: Facts<K>,
    {
        let mut inner = self.inner();
        match event {
            Event::Apply(object) => {
                let (key, facts) = F::take(&object);
                let same = inner.now.get(&key).is_some_and(|old| **old == facts);
                if !same {
                    inner.now.insert(key, Arc::new(facts));
                }
                !same
            }
            Event::Delete(object) => inner.now.remove(&F::take(&object).0).is_some(),
            Event::Init => {
                inner.next = HashMap::new();
                false
            }
            Event::InitApply(object) => {
                let (key, facts) = F::take(&object);
                inner.next.insert(key, Arc::new(facts));
                false
            }
            Event::InitDone => {
                let next = std::mem::take(&mut inner.next);
                let changed = inner.now != next;
                inner.now = next;
                drop(inner);
                // The first list is news even where it is empty.
                !self.ready.send_replace(true) || changed
            }
        }
    }

    /// The kind is not served here: there is nothing to wait for. Whether that is news.
    fn absent(&self) -> bool {
        !self.ready.send_replace(true)
    }

    /// Everything, in order.
    pub(crate) fn all(&self) -> BTreeMap<Key, Arc<F>> {
        self.inner().now.iter().map(|(key, facts)| (key.clone(), Arc::clone(facts))).collect()
    }

    /// Resolves when the first list is complete.
    async fn ready(&self) {
        // The sender lives as long as the store.
        let _ = self.ready.subscribe().wait_for(|ready| *ready).await;
    }
}

/// Everything that is watched.
#[derive(Debug, Default)]
pub(crate) struct Stores {
    pub(crate) namespaces: Store<NamespaceFacts>,
    pub(crate) pods: Store<PodFacts>,
    pub(crate) services: Store<ServiceFacts>,
    pub(crate) nodes: Store<NodeFacts>,
    /// Empty where the cluster does not serve the kind.
    pub(crate) service_cidrs: Store<ServiceCidrFacts>,
    /// The ConfigMaps `weft-mesh`.
    pub(crate) meshes: Store<ConfigMapFacts>,
    /// `weft-state` of Weft's own namespace.
    pub(crate) state: Store<ConfigMapFacts>,
    /// Told at each change.
    pub(crate) changed: Notify,
}

impl Stores {
    /// Resolves when every store has its first list.
    pub(crate) async fn ready(&self) {
        self.namespaces.ready().await;
        self.pods.ready().await;
        self.services.ready().await;
        self.nodes.ready().await;
        self.service_cidrs.ready().await;
        self.meshes.ready().await;
        self.state.ready().await;
    }

    /// Watches until dropped. What fails is tried again, with growing pauses.
    pub(crate) async fn follow(&self, client: &Client, namespace: &str) {
        let named = |name: &str| watcher::Config::default().fields(&format!("metadata.name={name}"));
        let everything = watcher::Config::default;
        // A page of a list is in memory as it came, and an object may have 1.5 MiB: whoever can make pods decides.
        let large = || watcher::Config::default().page_size(PAGE);
        let changed = &self.changed;
        let meshes = Api::<ConfigMap>::all(client.clone());
        let state = Api::<ConfigMap>::namespaced(client.clone(), namespace);
        tokio::join!(
            feed(&self.namespaces, changed, Api::<Namespace>::all(client.clone()), everything()),
            feed(&self.pods, changed, Api::<Pod>::all(client.clone()), large()),
            feed(&self.services, changed, Api::<Service>::all(client.clone()), large()),
            feed(&self.nodes, changed, Api::<Node>::all(client.clone()), everything()),
            feed(&self.service_cidrs, changed, Api::<ServiceCidr>::all(client.clone()), everything()),
            // By name, so that the right to read ConfigMaps can be confined to this one, and so that one whose label
            // was taken away is still seen.
            feed(&self.meshes, changed, meshes, named(super::MESH_CONFIG)),
            feed(&self.state, changed, state, named(super::STATE_CONFIG)),
        );
    }
}

async fn feed<K, F>(store: &Store<F>, changed: &Notify, api: Api<K>, config: watcher::Config)
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
    F: Facts<K>,
{
    let events = watcher(api, config).default_backoff();
    take(store, changed, events, K::kind(&()).as_ref()).await;
}

async fn take<K, F: Facts<K>>(
    store: &Store<F>,
    changed: &Notify,
    events: impl Stream<Item = Result<Event<K>, watcher::Error>>,
    kind: &str,
) {
    let mut events = std::pin::pin!(events);
    while let Some(event) = events.next().await {
        match event {
            Ok(event) => {
                if store.apply(event) {
                    changed.notify_one();
                }
            }
            // Clusters before 1.33 have no ServiceCIDR. All else is there in every cluster.
            Err(watcher::Error::InitialListFailed(kube::Error::Api(status))) if status.code == 404 => {
                if store.absent() {
                    tracing::info!(kind, "not served by this cluster");
                    changed.notify_one();
                }
            }
            // Expiry of a watch is everyday; what stays wrong (a missing permission) is told again and again.
            Err(error) => tracing::warn!(kind, %error, "the watch was interrupted; it is begun again"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn namespace(name: &str, inject: &str) -> Namespace {
        serde_json::from_value(
            serde_json::json!({"metadata": {"name": name, "labels": {"weft.dev/inject": inject}}}),
        )
        .unwrap()
    }

    #[test]
    fn a_new_list_replaces_the_old_one_at_once_and_only_at_its_end() {
        let store = Store::<NamespaceFacts>::default();
        assert!(!store.apply::<Namespace>(Event::Init));
        assert!(!store.apply(Event::InitApply(namespace("a", "enabled"))));
        assert!(!*store.ready.borrow() && store.all().is_empty());
        assert!(store.apply::<Namespace>(Event::InitDone));
        assert!(*store.ready.borrow());
        // Read anew: `a` is shown until the list without it is complete.
        assert!(!store.apply::<Namespace>(Event::Init));
        assert!(!store.apply(Event::InitApply(namespace("b", "enabled"))));
        assert_eq!(store.all().into_keys().map(|key| key.name).collect::<Vec<_>>(), ["a"]);
        assert!(store.apply::<Namespace>(Event::InitDone));
        assert_eq!(store.all().into_keys().map(|key| key.name).collect::<Vec<_>>(), ["b"]);
        // The same list again is no change.
        store.apply::<Namespace>(Event::Init);
        store.apply(Event::InitApply(namespace("b", "enabled")));
        assert!(!store.apply::<Namespace>(Event::InitDone));
    }

    #[test]
    fn an_empty_first_list_is_news() {
        let store = Store::<NamespaceFacts>::default();
        store.apply::<Namespace>(Event::Init);
        assert!(store.apply::<Namespace>(Event::InitDone));
    }

    #[tokio::test]
    async fn a_kind_that_is_not_served_keeps_nobody_waiting() {
        let store = Store::<ServiceCidrFacts>::default();
        let missing = kube::core::Status::failure("the server could not find it", "NotFound").with_code(404);
        let error = watcher::Error::InitialListFailed(kube::Error::Api(missing.boxed()));
        let events = futures_util::stream::iter([Err::<Event<ServiceCidr>, _>(error)]);
        take(&store, &Notify::new(), events, "ServiceCIDR").await;
        assert!(*store.ready.borrow() && store.all().is_empty());
        let cidr: ServiceCidr = serde_json::from_value(
            serde_json::json!({"metadata": {"name": "kubernetes"}, "spec": {"cidrs": ["10.96.0.0/16", "odd"]}}),
        )
        .unwrap();
        assert!(store.apply(Event::Apply(cidr)));
        assert_eq!(store.all().into_values().map(|facts| facts.cidrs.len()).collect::<Vec<_>>(), [1]);
    }

    #[test]
    fn what_changes_no_fact_wakes_nobody() {
        let store = Store::<NamespaceFacts>::default();
        assert!(store.apply(Event::Apply(namespace("a", "enabled"))));
        let mut other = namespace("a", "enabled");
        other.metadata.resource_version = Some("2".to_owned());
        assert!(!store.apply(Event::Apply(other)));
        assert!(store.apply(Event::Apply(namespace("a", "disabled"))));
        assert!(store.apply(Event::Delete(namespace("a", "disabled"))));
        assert!(!store.apply(Event::Delete(namespace("a", "disabled"))));
    }
}
