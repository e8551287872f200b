//! What our containers may ask for in a pod that has resources as a whole (`spec.resources`, KEP-2837).
//!
//! The API server wants what all containers request together to fit into what the pod requests, and no container to have a
//! higher limit than the pod. Whoever wrote the pod's numbers shared them out without us. So ours request nothing beside
//! them, live within what the pod has, and have no limit above its own; annotations say otherwise where that is wanted.

use serde_json::{Map, Value};

use super::quantity::Quantity;
use super::settings::Resources;

/// The kinds that a pod as a whole can have, and that we ask for.
const KINDS: [&str; 2] = ["cpu", "memory"];

/// `defaults`, made to fit into `pod`: the pod's own `resources`.
pub(crate) fn within(defaults: &Resources, pod: Option<&Map<String, Value>>) -> Resources {
    let mut ours = defaults.clone();
    let Some(pod) = pod else { return ours };
    let of = |list: &str, kind: &str| pod.get(list)?.get(kind).filter(|amount| !amount.is_null());
    for kind in KINDS {
        let (request, limit) = (of("requests", kind), of("limits", kind));
        if request.is_some() {
            // Written out: left out it would be as much as the limit.
            ours.requests.extend("0".parse().ok().map(|nothing: Quantity| (kind.to_owned(), nothing)));
            if let Some(most) = limit {
                cap(&mut ours, kind, most);
            }
        } else if limit.is_some() {
            // The pod then requests what its containers do, and as much as its limit only where none of them says anything.
            ours.requests.remove(kind);
            ours.limits.remove(kind);
        }
    }
    ours
}

/// What cannot be read here is the API server's to judge; without a limit of its own the container has the pod's.
fn cap(ours: &mut Resources, kind: &str, most: &Value) {
    let text = most.as_str().map_or_else(|| most.to_string(), str::to_owned);
    let Some(limit) = ours.limits.get_mut(kind) else { return };
    match text.parse::<Quantity>() {
        Ok(most) if *limit > most => *limit = most,
        Ok(_) => {}
        Err(_) => drop(ours.limits.remove(kind)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::settings::InjectSettings;
    use super::*;

    fn shared(pod: &Value) -> Value {
        let defaults = InjectSettings::new("weft").resources;
        serde_json::to_value(within(&defaults, pod.as_object())).unwrap()
    }

    #[test]
    fn a_pods_own_resources_are_not_added_to() {
        for (pod, ours) in [
            (
                json!(null),
                json!({"requests": {"cpu": "10m", "memory": "24Mi"}, "limits": {"memory": "256Mi"}}),
            ),
            (json!({}), json!({"requests": {"cpu": "10m", "memory": "24Mi"}, "limits": {"memory": "256Mi"}})),
            (
                json!({"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"cpu": 2, "memory": "2Gi"}}),
                json!({"requests": {"cpu": "0", "memory": "0"}, "limits": {"memory": "256Mi"}}),
            ),
            (
                json!({"requests": {"memory": "64Mi"}, "limits": {"memory": "128Mi"}}),
                json!({"requests": {"cpu": "10m", "memory": "0"}, "limits": {"memory": "128Mi"}}),
            ),
            (json!({"limits": {"memory": "128Mi"}}), json!({"requests": {"cpu": "10m"}})),
            (
                json!({"requests": {"memory": "64Mi"}, "limits": {"memory": "much"}}),
                json!({"requests": {"cpu": "10m", "memory": "0"}}),
            ),
            (
                json!({"requests": {"hugepages-2Mi": "2Mi"}}),
                json!({"requests": {"cpu": "10m", "memory": "24Mi"}, "limits": {"memory": "256Mi"}}),
            ),
        ] {
            assert_eq!(shared(&pod), ours, "{pod}");
        }
    }
}
