//! One look at the cluster, for commands that people run.
//!
//! `weft check`, `weft status` and `weft certs` judge with the controller's own eyes: the same facts, the same notion of who
//! takes part and of which pods a Service selects. What people want to know beyond that, such as the workload that a pod
//! belongs to and why it is not ready, is taken from the same objects.

mod list;
mod pod;

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, Service};
use kube::{Api, Client};
use weft_control::client::describe;
use weft_control::controller::facts::Key;
use weft_control::controller::world::{Seen, World};
use weft_control::names::MESH_CONFIG;

pub(crate) use list::{forbidden, list, sift};
pub(crate) use pod::PodView;
pub use pod::Workload;

use crate::OpsError;

/// What was seen.
pub(crate) struct View {
    /// By the controller's rules.
    pub(crate) world: World,
    /// What else there is to say about each pod of it.
    pub(crate) pods: BTreeMap<Key, PodView>,
    /// The ConfigMaps `weft-mesh`, by namespace.
    pub(crate) meshes: BTreeMap<String, ConfigMap>,
    /// `pod-security.kubernetes.io/enforce` of namespaces that have it.
    pub(crate) pod_security: BTreeMap<String, String>,
    /// The whole cluster was seen; else only one namespace, because the rest may not be read.
    pub(crate) whole: bool,
    by_address: HashMap<IpAddr, Key>,
}

impl View {
    /// Looks. With `scope`, that namespace is enough where the rest of the cluster may not be read.
    ///
    /// # Errors
    /// [`OpsError::List`] where the API server does not answer or refuses.
    pub(crate) async fn of(client: &Client, own: &str, scope: Option<&str>) -> Result<Self, OpsError> {
        let objects = match (Objects::of(client, None).await, scope) {
            (Err(error), Some(namespace)) if forbidden(&error.1) => {
                Objects::of(client, Some(namespace)).await
            }
            (objects, _) => objects,
        };
        let objects = objects.map_err(|(what, error)| OpsError::List { what, reason: describe(&error) })?;
        Ok(Self::from_objects(objects, own))
    }

    fn from_objects(objects: Objects, own: &str) -> Self {
        let Objects { namespaces, pods, services, meshes, whole } = objects;
        let pod_security = namespaces.iter().filter_map(|namespace| {
            let labels = namespace.metadata.labels.as_ref()?;
            let level = labels.get("pod-security.kubernetes.io/enforce")?;
            Some((namespace.metadata.name.clone()?, level.clone()))
        });
        let pod_security = pod_security.collect();
        let views = pods.iter().map(|pod| (Key::of(&pod.metadata), PodView::of(pod))).collect();
        let seen = Seen::of(&namespaces, &pods, &services);
        let mut by_address = HashMap::new();
        for (key, facts) in &seen.pods {
            // An address of a pod that has ended, or of a node, may be another's.
            if !facts.finished && !facts.left_alone {
                by_address.extend(facts.ips.iter().map(|ip| (*ip, key.clone())));
            }
        }
        let meshes =
            meshes.into_iter().filter_map(|mesh| Some((mesh.metadata.namespace.clone()?, mesh))).collect();
        Self { world: World::new(own, seen), pods: views, meshes, pod_security, whole, by_address }
    }

    /// Pods with a sidecar that have not ended, of one namespace or all.
    pub(crate) fn injected<'v>(
        &'v self,
        scope: Option<&'v str>,
    ) -> impl Iterator<Item = (&'v Key, &'v PodView)> {
        let pods = self.world.seen.pods.iter();
        let wanted = move |key: &Key| scope.is_none_or(|namespace| namespace == key.namespace);
        let pods = pods.filter(move |(key, pod)| pod.injected && !pod.finished && wanted(key));
        pods.filter_map(|(key, _)| self.pods.get(key).map(|view| (key, view)))
    }

    /// Whose address that is.
    pub(crate) fn at(&self, address: IpAddr) -> Option<(&Key, &PodView)> {
        let key = self.by_address.get(&address)?;
        self.pods.get(key).map(|view| (key, view))
    }

    /// Whether that is the address of a pod with a sidecar.
    pub(crate) fn has_sidecar(&self, address: IpAddr) -> bool {
        let facts = self.by_address.get(&address).and_then(|key| self.world.seen.pods.get(key));
        facts.is_some_and(|facts| facts.injected)
    }

    /// A caller in words: its workload, or the bare address.
    pub(crate) fn name_of(&self, address: Option<IpAddr>) -> String {
        let Some(address) = address else { return "others".to_owned() };
        match self.at(address) {
            Some((key, view)) => format!("{} (pod {})", view.workload.in_namespace(&key.namespace), key.name),
            None => address.to_string(),
        }
    }

    /// The participating namespaces, or the one of `scope` if it participates.
    pub(crate) fn members<'v>(&'v self, scope: Option<&'v str>) -> impl Iterator<Item = &'v str> {
        let members = self.world.members.iter().map(String::as_str);
        members.filter(move |member| scope.is_none_or(|namespace| namespace == *member))
    }
}

/// What is asked for.
#[derive(Default)]
struct Objects {
    namespaces: Vec<Namespace>,
    pods: Vec<Pod>,
    services: Vec<Service>,
    meshes: Vec<ConfigMap>,
    whole: bool,
}

impl Objects {
    /// Of the whole cluster, or of one namespace. A failure comes with what could not be listed.
    async fn of(client: &Client, scope: Option<&str>) -> Result<Self, (&'static str, kube::Error)> {
        let fail = |what| move |error| (what, error);
        let mesh = format!("metadata.name={MESH_CONFIG}");
        let Some(namespace) = scope else {
            let (namespaces, pods, services, meshes) = futures_util::try_join!(
                async { list(Api::all(client.clone()), "").await.map_err(fail("namespaces")) },
                async { list(Api::all(client.clone()), "").await.map_err(fail("pods")) },
                async { list(Api::all(client.clone()), "").await.map_err(fail("services")) },
                async { list(Api::all(client.clone()), &mesh).await.map_err(fail("configmaps weft-mesh")) },
            )?;
            return Ok(Self { namespaces, pods, services, meshes, whole: true });
        };
        let itself = Api::<Namespace>::all(client.clone());
        let (namespaces, pods, services, meshes) = futures_util::try_join!(
            // Without the right to see the namespace itself, its labels are unknown, and that is all.
            async {
                Ok(itself
                    .get_opt(namespace)
                    .await
                    .unwrap_or_default()
                    .into_iter()
                    .collect::<Vec<Namespace>>())
            },
            async { list(Api::namespaced(client.clone(), namespace), "").await.map_err(fail("pods")) },
            async { list(Api::namespaced(client.clone(), namespace), "").await.map_err(fail("services")) },
            async { Ok(list(Api::namespaced(client.clone(), namespace), &mesh).await.unwrap_or_default()) },
        )?;
        Ok(Self { namespaces, pods, services, meshes, whole: false })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// A view of objects, told apart by their kind.
    pub(crate) fn view(objects: &[Value]) -> View {
        fn of<K: serde::de::DeserializeOwned>(objects: &[Value], kind: &str) -> Vec<K> {
            let wanted = objects.iter().filter(|object| object["kind"] == kind);
            wanted.map(|object| serde_json::from_value(object.clone()).unwrap()).collect()
        }
        let objects = Objects {
            namespaces: of(objects, "Namespace"),
            pods: of(objects, "Pod"),
            services: of(objects, "Service"),
            meshes: of(objects, "ConfigMap"),
            whole: true,
        };
        View::from_objects(objects, "weft-system")
    }

    #[expect(
        clippy::needless_pass_by_value,
        reason = "json!() at each call reads better without a reference"
    )]
    pub(crate) fn namespace(name: &str, labels: Value) -> Value {
        json!({"kind": "Namespace", "apiVersion": "v1", "metadata": {"name": name, "labels": labels}})
    }

    /// A ready pod of the Deployment `app`.
    pub(crate) fn pod(namespace: &str, app: &str, ip: &str, injected: bool) -> Value {
        let init = if injected { json!([{"name": "weft-init"}, {"name": "weft-proxy"}]) } else { json!([]) };
        json!({
            "kind": "Pod", "apiVersion": "v1",
            "metadata": {
                "name": format!("{app}-5d4f8-{}", ip.replace(['.', ':'], "-")), "namespace": namespace,
                "uid": ip, "labels": {"app": app, "pod-template-hash": "5d4f8"},
                "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": format!("{app}-5d4f8"),
                                     "uid": "r", "controller": true}],
                "annotations": if injected { json!({"weft.dev/injected": "{\"version\":\"0.1.0\",\"image\":\"weft:0.1.0\"}"}) } else { json!({}) },
            },
            "spec": {"containers": [{"name": "app"}], "initContainers": init},
            "status": {"phase": "Running", "podIPs": [{"ip": ip}], "conditions": [{"type": "Ready", "status": "True"}]},
        })
    }

    pub(crate) fn service(namespace: &str, name: &str) -> Value {
        json!({"kind": "Service", "apiVersion": "v1", "metadata": {"name": name, "namespace": namespace, "uid": format!("{namespace}-{name}")},
               "spec": {"clusterIP": "10.96.0.9", "selector": {"app": name}, "ports": [{"port": 80, "targetPort": 8080, "protocol": "TCP"}]}})
    }

    #[test]
    fn an_address_is_told_as_its_workload() {
        let mut done = pod("shop", "done", "10.0.0.2", false);
        done["status"]["phase"] = "Succeeded".into();
        let mut host = pod("shop", "host", "10.0.0.3", false);
        host["spec"]["hostNetwork"] = true.into();
        let view = view(&[
            namespace(
                "shop",
                json!({"weft.dev/inject": "enabled", "pod-security.kubernetes.io/enforce": "baseline"}),
            ),
            pod("shop", "web", "10.0.0.1", true),
            done,
            host,
        ]);
        let name = |ip: &str| view.name_of(Some(ip.parse().unwrap()));
        assert_eq!(name("10.0.0.1"), "deployment shop/web (pod web-5d4f8-10-0-0-1)");
        assert_eq!(name("10.0.0.2"), "10.0.0.2", "its address may be another's by now");
        assert_eq!(name("10.0.0.3"), "10.0.0.3", "that is the node's address");
        assert_eq!(view.name_of(None), "others");
        let sidecar = |ip: &str| view.has_sidecar(ip.parse().unwrap());
        assert_eq!((sidecar("10.0.0.1"), sidecar("10.0.0.3"), sidecar("192.0.2.1")), (true, false, false));
        assert_eq!(view.injected(None).count(), 1);
        assert_eq!(view.injected(Some("other")).count(), 0);
        assert_eq!(view.members(None).collect::<Vec<_>>(), ["shop"]);
        assert_eq!(view.pod_security["shop"], "baseline");
    }
}
