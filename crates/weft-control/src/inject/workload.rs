//! Where the pod is in each kind of object that has one.

use serde_json::Value;

/// A pod, or the template of one, inside an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    /// `kind` of the object that has it.
    pub kind: String,
    /// Its namespace, where it is written.
    pub namespace: Option<String>,
    /// Its name; empty where it has none, as with `generateName`.
    pub name: String,
    /// The way to the pod, as a JSON pointer (RFC 6901).
    pub pointer: String,
}

impl std::fmt::Display for Workload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = if self.name.is_empty() { "without a name" } else { &self.name };
        match &self.namespace {
            Some(namespace) => write!(f, "{} {namespace}/{name}", self.kind),
            None => write!(f, "{} {name}", self.kind),
        }
    }
}

/// API group, kind, and the way to the pod. A kind of the same name in another group is something else.
const KINDS: [(&str, &str, &str); 9] = [
    ("", "Pod", ""),
    ("", "PodTemplate", "/template"),
    ("", "ReplicationController", "/spec/template"),
    ("apps", "Deployment", "/spec/template"),
    ("apps", "StatefulSet", "/spec/template"),
    ("apps", "DaemonSet", "/spec/template"),
    ("apps", "ReplicaSet", "/spec/template"),
    ("batch", "Job", "/spec/template"),
    ("batch", "CronJob", "/spec/jobTemplate/spec/template"),
];
/// A List in a List is legal and useless; more than this many is neither.
const MAX_DEPTH: usize = 4;

/// Every pod and template in `object`; none where it is of another kind. The items of a `List` are looked through.
pub fn workloads(object: &Value) -> Vec<Workload> {
    let mut found = Vec::new();
    collect(object, "", MAX_DEPTH, &mut found);
    found
}

fn collect(object: &Value, at: &str, depth: usize, found: &mut Vec<Workload>) {
    let text = |name: &str| object.get(name).and_then(Value::as_str).unwrap_or("");
    let (version, kind) = (text("apiVersion"), text("kind"));
    let group = version.split_once('/').map_or("", |(group, _)| group);
    if group.is_empty() && kind == "List" && depth > 0 {
        let items = object.get("items").and_then(Value::as_array);
        for (i, item) in items.into_iter().flatten().enumerate() {
            collect(item, &format!("{at}/items/{i}"), depth - 1, found);
        }
        return;
    }
    let Some((.., way)) = KINDS.iter().find(|(of, name, _)| *of == group && *name == kind) else { return };
    // A ReplicationController or PodTemplate need not have one yet.
    if object.pointer(way).is_none() {
        return;
    }
    let metadata = |name: &str| object.get("metadata").and_then(|m| m.get(name)).and_then(Value::as_str);
    found.push(Workload {
        kind: kind.to_owned(),
        namespace: metadata("namespace").map(str::to_owned),
        name: metadata("name").or_else(|| metadata("generateName")).unwrap_or("").to_owned(),
        pointer: format!("{at}{way}"),
    });
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_pod_is_found_in_every_kind() {
        let template = json!({"spec": {"containers": []}});
        for (group, kind, way) in KINDS {
            let version = if group.is_empty() { "v1".to_owned() } else { format!("{group}/v1") };
            let mut object =
                json!({"apiVersion": version, "kind": kind, "metadata": {"name": "x", "namespace": "n"}});
            match way {
                "" => object["spec"] = template["spec"].clone(),
                "/template" => object["template"] = template.clone(),
                "/spec/template" => object["spec"] = json!({"template": template}),
                _ => object["spec"] = json!({"jobTemplate": {"spec": {"template": template}}}),
            }
            let found = workloads(&object);
            assert_eq!(found.len(), 1, "{kind}");
            assert_eq!(found[0].to_string(), format!("{kind} n/x"));
            assert!(object.pointer(&found[0].pointer).is_some_and(|pod| pod.get("spec").is_some()), "{kind}");
        }
    }

    #[test]
    fn items_of_lists_are_found_and_other_kinds_are_not() {
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"generateName": "x-"}, "spec": {}});
        let foreign = json!({"apiVersion": "example.com/v1", "kind": "Deployment", "spec": {"template": {}}});
        let list = json!({"apiVersion": "v1", "kind": "List", "items": [foreign, {"kind": "Service"}, pod]});
        let found = workloads(&list);
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].pointer.as_str(), found[0].to_string().as_str()), ("/items/2", "Pod x-"));
        for other in [
            json!(null),
            json!(1),
            json!([]),
            json!({"kind": 1}),
            json!({"apiVersion": "apps/v1", "kind": "Deployment"}),
        ] {
            assert!(workloads(&other).is_empty(), "{other}");
        }
        let mut deep = list;
        for _ in 0..50 {
            deep = json!({"apiVersion": "v1", "kind": "List", "items": [deep]});
        }
        assert!(workloads(&deep).is_empty());
    }
}
