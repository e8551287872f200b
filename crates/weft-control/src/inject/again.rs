//! A pod that comes again, with the containers of an injected one.
//!
//! The API server asks twice where another webhook has changed a pod after us: it may have added containers and probes, or
//! changed our own. A pod may also only look injected, to be left alone. Both are met in the same way: what was injected
//! is taken away, the rest is injected anew with all checks, and what is there already and says the same stays as it is.
//! So a pod that nobody has changed is left alone, and whatever the containers are called, the sidecar that runs is ours.

use serde_json::{Map, Value};

use super::annotations::INJECTED;
use super::containers::VOLUMES;
use super::pod::{INIT, PROXY, name_of};
use super::probes::KINDS;
use super::problem::Problem;
use super::refuse::not_ours;
use super::secret::ProbeSecret;
use super::uninject::uninject;
use super::{Injector, Namespace, Outcome, Skip};

/// Fields of our containers that others may set: admission plugins fill in what a quota or a LimitRange asks for, and an
/// autoscaler knows better than a default. An installation may have every image pulled.
const THEIRS: [&str; 2] = ["resources", "imagePullPolicy"];
/// Fields that make another container of it where the injector has not written them.
const NOBODYS: [&str; 9] = [
    "command",
    "env",
    "envFrom",
    "lifecycle",
    "livenessProbe",
    "ports",
    "restartPolicy",
    "volumeDevices",
    "workingDir",
];

/// Looks again at a pod that has containers with our names.
pub(super) fn again(
    pod: &Value,
    namespace: &Namespace,
    injector: &Injector,
    secret: &ProbeSecret,
) -> Outcome {
    let strangers = strangers(pod);
    if !strangers.is_empty() {
        return Outcome::Refuse(strangers);
    }
    let bare = match uninject(pod) {
        Ok(Some(bare)) => bare,
        Ok(None) => return Outcome::Skip(Skip::Injected),
        Err(reason) => {
            let cure = "inject the manifest as it was written, without what was injected before";
            return Outcome::Refuse(vec![Problem::new("the injected pod", reason, cure)]);
        }
    };
    let mut made = match super::inject(&bare, namespace, injector, secret) {
        Outcome::Patched(made) => made,
        other => return other,
    };
    settle(&mut made.object, pod);
    if made.object == *pod { Outcome::Skip(Skip::Injected) } else { Outcome::Patched(made) }
}

/// What has a name of ours and cannot be something that was injected, whichever version did it.
fn strangers(pod: &Value) -> Vec<Problem> {
    let told = pod.pointer("/metadata/annotations").and_then(|annotations| annotations.get(INJECTED));
    let told: Option<Map<String, Value>> =
        told.and_then(Value::as_str).and_then(|text| serde_json::from_str(text).ok());
    let told = told.is_some_and(|told| ["version", "image"].iter().all(|key| told.contains_key(*key)));
    let is_ours = |container: &Value, first: &str| {
        let command = container.get("command").is_some_and(|command| !command.is_null());
        told && !command && container.pointer("/args/0").and_then(Value::as_str) == Some(first)
    };
    let ours = [(INIT, "init"), (PROXY, "proxy")];
    let named = ours.iter().filter_map(|(name, first)| Some((*name, *first, find(pod, name)?)));
    named
        .filter(|(_, first, container)| !is_ours(container, first))
        .map(|(name, ..)| not_ours(name))
        .collect()
}

/// The container of this name, in whichever list.
fn find<'a>(pod: &'a Value, name: &str) -> Option<&'a Value> {
    let lists = ["/spec/initContainers", "/spec/containers"];
    let mut all = lists.iter().filter_map(|list| pod.pointer(list)?.as_array()).flatten();
    all.find(|container| name_of(container) == Some(name))
}

/// Leaves in `made` what `found` has already, with what the API server has filled in.
fn settle(made: &mut Value, found: &Value) {
    let Some(spec) = made.get_mut("spec").and_then(Value::as_object_mut) else { return };
    for list in ["initContainers", "containers"] {
        for container in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            let name = name_of(container).unwrap_or_default();
            let Some(before) = find(found, name) else { continue };
            if [INIT, PROXY].contains(&name) {
                *container = mended(container, before);
            } else {
                settle_probes(container, before);
            }
        }
    }
    let before = found.pointer("/spec/volumes").and_then(Value::as_array);
    if let (Some(volumes), Some(before)) = (spec.get_mut("volumes").and_then(Value::as_array_mut), before) {
        settle_volumes(volumes, before);
    }
}

/// Our container as it was found, with everything that makes it ours.
fn mended(made: &Value, found: &Value) -> Value {
    let (Some(made), Some(found)) = (made.as_object(), found.as_object()) else { return made.clone() };
    let mut mended = found.clone();
    mended.retain(|field, _| !NOBODYS.contains(&field.as_str()) || made.contains_key(field));
    for (field, wanted) in made {
        let has = mended.get(field).filter(|has| !has.is_null());
        let stays = has.is_some_and(|has| THEIRS.contains(&field.as_str()) || covers(wanted, has));
        if !stays {
            mended.insert(field.clone(), wanted.clone());
        }
    }
    Value::Object(mended)
}

/// Whether `found` says all of `wanted`. The API server adds fields to objects, and nothing to lists.
fn covers(wanted: &Value, found: &Value) -> bool {
    match (wanted, found) {
        (Value::Object(wanted), Value::Object(found)) => {
            wanted.iter().all(|(key, wanted)| found.get(key).is_some_and(|found| covers(wanted, found)))
        }
        (Value::Array(wanted), Value::Array(found)) => {
            wanted.len() == found.len()
                && wanted.iter().zip(found).all(|(wanted, found)| covers(wanted, found))
        }
        (wanted, found) => wanted == found,
    }
}

/// A probe that points at the proxy has a scheme by now.
fn settle_probes(container: &mut Value, found: &Value) {
    for (_, place) in KINDS {
        let before =
            place.iter().try_fold(found, |at, key| at.get(*key)).and_then(|probe| probe.get("httpGet"));
        let made = place.iter().try_fold(&mut *container, |at, key| at.get_mut(*key));
        let made = made.and_then(|probe| probe.get_mut("httpGet"));
        let (Some(made), Some(before)) = (made, before) else { continue };
        let mut filled = made.clone();
        if let Some(filled) = filled.as_object_mut() {
            filled.entry("scheme").or_insert_with(|| Value::from("HTTP"));
        }
        if filled == *before {
            *made = filled;
        }
    }
}

/// Our volumes stay where they are, and become what they should be.
fn settle_volumes(made: &mut Vec<Value>, found: &[Value]) {
    let is_ours = |volume: &Value| name_of(volume).is_some_and(|name| VOLUMES.contains(&name));
    let mut ours: Vec<Value> = made.iter().filter(|volume| is_ours(volume)).cloned().collect();
    let mut settled = Vec::with_capacity(made.len());
    for volume in found {
        if !is_ours(volume) {
            settled.push(volume.clone());
            continue;
        }
        // A second one of the same name is no volume at all to the API server.
        let Some(at) = ours.iter().position(|wanted| name_of(wanted) == name_of(volume)) else { continue };
        let wanted = ours.remove(at);
        settled.push(if covers(&wanted, volume) { volume.clone() } else { wanted });
    }
    settled.append(&mut ours);
    *made = settled;
}

#[cfg(test)]
#[path = "again_tests.rs"]
mod tests;
