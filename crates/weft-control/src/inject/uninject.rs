//! Takes away what was injected, and nothing else.
//!
//! A probe goes back to how it was written, from the annotation. Where someone has changed it since, it is no longer what
//! the injector made, and stays.

use serde_json::{Map, Value};

use super::annotations::INJECTED;
use super::containers::VOLUMES;
use super::pod::{INIT, PROXY, name_of};
use super::probes::{HEALTH_PORT, KINDS};
use super::secret;

/// `pod` as it was before; `None` where it has nothing that was injected.
///
/// # Errors
/// Where it is injected but does not tell how its probes were: the place and what is wrong.
pub fn uninject(pod: &Value) -> Result<Option<Value>, String> {
    let read = super::pod::Pod::read(pod)?;
    if !read.is_injected() {
        return Ok(None);
    }
    let originals = originals(read.annotations.get(INJECTED).map(String::as_str))?;
    let mut pod = pod.clone();
    if let Some(metadata) = pod.get_mut("metadata").and_then(Value::as_object_mut) {
        if let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
            annotations.remove(INJECTED);
        }
        drop_empty(metadata, "annotations");
    }
    if let Some(object) = pod.as_object_mut() {
        drop_empty(object, "metadata");
    }
    if let Some(spec) = pod.get_mut("spec").and_then(Value::as_object_mut) {
        for list in ["initContainers", "containers"] {
            if let Some(containers) = spec.get_mut(list).and_then(Value::as_array_mut) {
                containers.retain(|container| {
                    !name_of(container).is_some_and(|name| [INIT, PROXY].contains(&name))
                });
                for container in containers {
                    restore(container, &originals)?;
                }
            }
        }
        if let Some(volumes) = spec.get_mut("volumes").and_then(Value::as_array_mut) {
            volumes.retain(|volume| !name_of(volume).is_some_and(|name| VOLUMES.contains(&name)));
        }
        drop_empty(spec, "initContainers");
        drop_empty(spec, "volumes");
    }
    Ok(Some(pod))
}

/// The handlers as they were, by the names of the checks. An injected pod without the annotation has none to tell of; whether that is
/// enough shows when a probe of it turns out to be one of ours.
fn originals(annotation: Option<&str>) -> Result<Map<String, Value>, String> {
    let Some(text) = annotation else { return Ok(Map::new()) };
    let wrong = |reason: String| format!("annotation {INJECTED}: {reason}; it must be as Weft wrote it");
    let mut told: Map<String, Value> =
        serde_json::from_str(text).map_err(|error| wrong(error.to_string()))?;
    match told.remove("probes") {
        None => Ok(Map::new()),
        Some(Value::Object(probes)) => Ok(probes),
        Some(_) => Err(wrong("probes is not an object".to_owned())),
    }
}

fn restore(container: &mut Value, originals: &Map<String, Value>) -> Result<(), String> {
    let Some(name) = name_of(container).map(str::to_owned) else { return Ok(()) };
    for (kind, place) in KINDS {
        let probe = place.iter().try_fold(&mut *container, |at, key| at.get_mut(*key));
        let Some(probe) = probe.and_then(Value::as_object_mut) else { continue };
        let check = secret::name(&name, kind);
        if !is_ours(probe, &check) {
            continue;
        }
        let original = originals.get(&check).and_then(Value::as_object);
        let Some(original) = original else {
            let place = place.join(".");
            return Err(format!(
                "container {name}: {place}: this was rewritten, and the annotation {INJECTED} does not tell how it was"
            ));
        };
        probe.remove("httpGet");
        probe.extend(original.iter().map(|(handler, value)| (handler.clone(), value.clone())));
    }
    Ok(())
}

fn is_ours(probe: &Map<String, Value>, check: &str) -> bool {
    let get = |name: &str| probe.get("httpGet").and_then(|handler| handler.get(name));
    get("path").and_then(Value::as_str).is_some_and(|path| secret::is_at(path, check))
        && get("port").and_then(Value::as_u64) == Some(u64::from(HEALTH_PORT))
}

/// Removes what is now empty: the injector made it, or it said nothing.
fn drop_empty(of: &mut Map<String, Value>, name: &str) {
    let empty = match of.get(name) {
        Some(Value::Object(object)) => object.is_empty(),
        Some(Value::Array(list)) => list.is_empty(),
        _ => false,
    };
    if empty {
        of.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::{InjectSettings, Injector, Namespace, Outcome, ProbeSecret, inject};
    use super::*;

    fn injected(pod: &Value, native: bool) -> Value {
        let injector = Injector {
            settings: InjectSettings::new("weft:1"),
            native,
            own_namespace: "weft-system".to_owned(),
            ca: None,
        };
        match inject(pod, &Namespace::default(), &injector, &ProbeSecret::derived(b"key", "")) {
            Outcome::Patched(injected) => injected.object,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_pod_is_as_it_was() {
        let plain = json!({"spec": {"containers": [{"name": "app"}]}});
        let full = json!({
            "metadata": {"annotations": {"a": "b"}},
            "spec": {
                "initContainers": [{"name": "setup"}, {"name": "side", "restartPolicy": "Always", "startupProbe": {"grpc": {"port": 1}}}],
                "containers": [{
                    "name": "app", "ports": [{"name": "http", "containerPort": 80}],
                    "livenessProbe": {"httpGet": {"port": "http"}, "periodSeconds": 7},
                    "lifecycle": {"preStop": {"httpGet": {"port": "http", "path": "/bye", "httpHeaders": [{"name": "a", "value": "$(B)"}]}}},
                }],
                "volumes": [{"name": "data", "emptyDir": {}}],
            },
        });
        for pod in [plain, full] {
            for native in [true, false] {
                assert_eq!(uninject(&injected(&pod, native)), Ok(Some(pod.clone())));
            }
            assert_eq!(uninject(&pod), Ok(None));
        }
    }

    /// What an injector wrote before paths had a secret.
    #[test]
    fn an_older_injectors_work_is_undone() {
        let pod =
            json!({"spec": {"containers": [{"name": "app", "livenessProbe": {"tcpSocket": {"port": 80}}}]}});
        let mut older = injected(&pod, true);
        older["spec"]["containers"][0]["livenessProbe"]["httpGet"]["path"] = json!("/probe/app/liveness");
        assert_eq!(uninject(&older), Ok(Some(pod)));
    }

    #[test]
    fn a_changed_probe_stays_and_a_lost_original_is_told() {
        let pod =
            json!({"spec": {"containers": [{"name": "app", "livenessProbe": {"tcpSocket": {"port": 80}}}]}});
        let mut changed = injected(&pod, true);
        changed["spec"]["containers"][0]["livenessProbe"] =
            json!({"httpGet": {"port": 81, "path": "/probe/app/liveness"}});
        let back = uninject(&changed).unwrap().unwrap();
        assert_eq!(back["spec"]["containers"][0]["livenessProbe"]["httpGet"]["port"], 81);

        let mut lost = injected(&pod, true);
        lost["metadata"]["annotations"][INJECTED] = json!("{}");
        assert!(uninject(&lost).unwrap_err().contains("container app: livenessProbe"));
        lost["metadata"]["annotations"][INJECTED] = json!("{");
        assert!(uninject(&lost).unwrap_err().contains(INJECTED));
    }
}
