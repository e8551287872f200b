//! What makes a pod anew when it is gone, and what speaks against taking it away.

use k8s_openapi::api::core::v1::PodSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

/// The annotation by which the cluster autoscaler is told to leave a pod where it is; `false` means the same here.
pub(crate) const SAFE_TO_EVICT: &str = "cluster-autoscaler.kubernetes.io/safe-to-evict";
/// The label that a Deployment gives its ReplicaSets and their pods; the ReplicaSet's name ends with its value.
const TEMPLATE_HASH: &str = "pod-template-hash";

/// The workload of a pod.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Maker {
    /// Its kind, such as `StatefulSet`.
    pub kind: String,
    /// Its name.
    pub name: String,
}

impl Maker {
    /// The owner that is the pod's controller, and the Deployment in the place of its ReplicaSet: of a Deployment in the
    /// middle of a roll-out there are two, and what is unready in one is missing in the other.
    pub(crate) fn of(meta: &ObjectMeta) -> Option<Self> {
        let owner = meta.owner_references.iter().flatten().find(|owner| owner.controller == Some(true))?;
        let hash = meta.labels.as_ref().and_then(|labels| labels.get(TEMPLATE_HASH));
        let deployment = hash.and_then(|hash| owner.name.strip_suffix(hash.as_str())?.strip_suffix('-'));
        Some(match deployment {
            Some(name) if owner.kind == "ReplicaSet" => {
                Self { kind: "Deployment".to_owned(), name: name.to_owned() }
            }
            _ => Self { kind: owner.kind.clone(), name: owner.name.clone() },
        })
    }
}

/// Whether data goes with the pod: what is in an `emptyDir` is on its node and in no other place.
pub(crate) fn has_local_data(spec: &PodSpec) -> bool {
    spec.volumes.iter().flatten().any(|volume| volume.empty_dir.is_some())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_controller_among_the_owners_is_the_maker() {
        let owner = |kind: &str, name: &str, controller: serde_json::Value| json!({"apiVersion": "v1", "kind": kind, "name": name, "uid": "u", "controller": controller});
        for (labels, owners, made) in [
            (json!({}), json!([]), None),
            // An owner that is no controller only decides when the pod is removed.
            (json!({}), json!([owner("ReplicaSet", "web-6d4", json!(null))]), None),
            (json!({}), json!([owner("ReplicaSet", "web-6d4", json!(false))]), None),
            (
                json!({}),
                json!([owner("A", "a", json!(null)), owner("StatefulSet", "db", json!(true))]),
                Some(("StatefulSet", "db")),
            ),
            (
                json!({TEMPLATE_HASH: "6d4"}),
                json!([owner("ReplicaSet", "web-6d4", json!(true))]),
                Some(("Deployment", "web")),
            ),
            // A ReplicaSet of its own, and something else that uses the label.
            (
                json!({TEMPLATE_HASH: "7"}),
                json!([owner("ReplicaSet", "web-6d4", json!(true))]),
                Some(("ReplicaSet", "web-6d4")),
            ),
            (
                json!({TEMPLATE_HASH: "6d4"}),
                json!([owner("CloneSet", "web-6d4", json!(true))]),
                Some(("CloneSet", "web-6d4")),
            ),
        ] {
            let meta = json!({"name": "p", "labels": labels, "ownerReferences": owners});
            let found = Maker::of(&serde_json::from_value(meta).unwrap());
            let expected = made.map(|(kind, name)| Maker { kind: kind.to_owned(), name: name.to_owned() });
            assert_eq!(found, expected, "{owners}");
        }
    }

    #[test]
    fn an_empty_dir_is_local_data() {
        for (volumes, local) in [
            (json!(null), false),
            (json!([{"name": "a", "configMap": {"name": "a"}}]), false),
            (json!([{"name": "a", "configMap": {"name": "a"}}, {"name": "b", "emptyDir": {}}]), true),
            (json!([{"name": "b", "emptyDir": {"medium": "Memory"}}]), true),
        ] {
            let spec = json!({"containers": [], "volumes": volumes});
            assert_eq!(has_local_data(&serde_json::from_value(spec).unwrap()), local, "{volumes}");
        }
    }
}
