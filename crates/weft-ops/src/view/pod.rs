//! What people want to know of a pod.

use k8s_openapi::api::core::v1::{ContainerState, ContainerStatus, Pod};
use serde::{Deserialize, Serialize};

use weft_control::names::{INJECTED, PROXY};

/// What made a pod.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Workload {
    /// In lower case, as kubectl takes it: `deployment`, `statefulset`, `daemonset`, `job`, ...; `pod` for one that nothing
    /// made.
    pub kind: String,
    /// Its name.
    pub name: String,
}

impl Workload {
    /// As in `deployment shop/web`.
    pub(crate) fn in_namespace(&self, namespace: &str) -> String {
        format!("{} {namespace}/{}", self.kind, self.name)
    }

    /// The command that restarts it, where there is one.
    pub(crate) fn restart(&self, namespace: &str) -> String {
        match self.kind.as_str() {
            "deployment" | "statefulset" | "daemonset" => {
                format!("kubectl -n {namespace} rollout restart {}/{}", self.kind, self.name)
            }
            "pod" => format!("make the pod {namespace}/{} anew; nothing else would", self.name),
            kind => format!("run the {kind} {namespace}/{} again", self.name),
        }
    }

    fn of(pod: &Pod) -> Self {
        let meta = &pod.metadata;
        let owners = meta.owner_references.as_deref().unwrap_or_default();
        let owner = owners.iter().find(|owner| owner.controller == Some(true)).or(owners.first());
        let Some(owner) = owner else {
            return Self { kind: "pod".to_owned(), name: meta.name.clone().unwrap_or_default() };
        };
        // A Deployment names its ReplicaSets after itself and the hash of the template.
        let hash = meta.labels.as_ref().and_then(|labels| labels.get("pod-template-hash"));
        let deployment = hash.and_then(|hash| owner.name.strip_suffix(hash.as_str())?.strip_suffix('-'));
        match deployment {
            Some(name) if owner.kind == "ReplicaSet" => {
                Self { kind: "deployment".to_owned(), name: name.to_owned() }
            }
            _ => Self { kind: owner.kind.to_ascii_lowercase(), name: owner.name.clone() },
        }
    }
}

/// A pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PodView {
    pub(crate) workload: Workload,
    /// When it was made, Unix time in seconds.
    pub(crate) made: Option<i64>,
    /// The version of Weft that injected it.
    pub(crate) version: Option<String>,
    /// `weft-proxy` itself is ready.
    pub(crate) proxy_ready: bool,
    /// `weft-proxy` runs: its metrics can be had.
    pub(crate) proxy_runs: bool,
    /// Why the pod is not ready, where it is not.
    pub(crate) trouble: Option<String>,
    /// How often `weft-proxy` was started again.
    pub(crate) proxy_restarts: i32,
}

#[derive(Deserialize)]
struct Injected {
    version: String,
}

impl PodView {
    pub(crate) fn of(pod: &Pod) -> Self {
        let annotations = pod.metadata.annotations.as_ref();
        let written = annotations.and_then(|annotations| annotations.get(INJECTED));
        let proxy = statuses(pod).find(|status| status.name == PROXY);
        let running =
            |status: &ContainerStatus| status.state.as_ref().is_some_and(|state| state.running.is_some());
        Self {
            workload: Workload::of(pod),
            made: pod.metadata.creation_timestamp.as_ref().map(|time| time.0.as_second()),
            version: written
                .and_then(|text| serde_json::from_str::<Injected>(text).ok())
                .map(|injected| injected.version),
            proxy_ready: proxy.is_some_and(|status| status.ready),
            proxy_runs: proxy.is_some_and(running),
            trouble: trouble(pod),
            proxy_restarts: proxy.map_or(0, |status| status.restart_count),
        }
    }
}

fn statuses(pod: &Pod) -> impl Iterator<Item = &ContainerStatus> {
    let status = pod.status.as_ref();
    let init = status.and_then(|status| status.init_container_statuses.as_deref()).unwrap_or_default();
    let others = status.and_then(|status| status.container_statuses.as_deref()).unwrap_or_default();
    init.iter().chain(others)
}

/// The most telling thing about a pod that is not ready: a container that waits or fails, in the order in which they
/// start, else what the conditions say.
fn trouble(pod: &Pod) -> Option<String> {
    let status = pod.status.as_ref();
    let conditions = status.and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let is = |kind: &str, value: &str| conditions.iter().any(|c| c.type_ == kind && c.status == value);
    if is("Ready", "True") || status.and_then(|status| status.phase.as_deref()) == Some("Succeeded") {
        return None;
    }
    if pod.metadata.deletion_timestamp.is_some() {
        return Some("it is ending".to_owned());
    }
    if let Some(told) = statuses(pod).find_map(container_trouble) {
        return Some(told);
    }
    if let Some(unready) = statuses(pod).find(|status| !status.ready && !ended_well(status)) {
        return Some(format!("{} is not ready", unready.name));
    }
    let scheduled = conditions.iter().find(|c| c.type_ == "PodScheduled" && c.status == "False");
    Some(match scheduled {
        Some(condition) => {
            format!("it is not scheduled: {}", condition.message.as_deref().unwrap_or("no reason given"))
        }
        None => "it has just been made".to_owned(),
    })
}

fn ended_well(status: &ContainerStatus) -> bool {
    let state = status.state.as_ref();
    state.and_then(|state| state.terminated.as_ref()).is_some_and(|ended| ended.exit_code == 0)
}

fn container_trouble(status: &ContainerStatus) -> Option<String> {
    let state: &ContainerState = status.state.as_ref()?;
    if let Some(ended) = state.terminated.as_ref().filter(|ended| ended.exit_code != 0) {
        let reason = ended.reason.as_deref().unwrap_or("Error");
        return Some(format!("{} has failed: {reason}, exit code {}", status.name, ended.exit_code));
    }
    let waiting = state.waiting.as_ref()?;
    match waiting.reason.as_deref() {
        // Everyday: it waits for those before it.
        None | Some("PodInitializing" | "ContainerCreating") => None,
        Some(reason) => Some(match waiting.message.as_deref() {
            Some(message) => format!("{} waits: {reason}: {message}", status.name),
            None => format!("{} waits: {reason}", status.name),
        }),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn view(pod: Value) -> PodView {
        PodView::of(&serde_json::from_value::<Pod>(pod).unwrap())
    }

    #[test]
    fn a_pod_belongs_to_what_made_it() {
        let owned = |kind: &str, name: &str, hash: &str| {
            let pod = json!({"metadata": {"name": "p", "labels": {"pod-template-hash": hash},
                "ownerReferences": [{"apiVersion": "x", "kind": kind, "name": name, "uid": "u", "controller": true}]}});
            view(pod).workload.in_namespace("n")
        };
        assert_eq!(owned("ReplicaSet", "web-ui-5d4f8", "5d4f8"), "deployment n/web-ui");
        assert_eq!(owned("ReplicaSet", "bare", "5d4f8"), "replicaset n/bare");
        assert_eq!(owned("StatefulSet", "db", ""), "statefulset n/db");
        assert_eq!(view(json!({"metadata": {"name": "p"}})).workload.in_namespace("n"), "pod n/p");
        assert!(
            Workload { kind: "deployment".into(), name: "a".into() }
                .restart("n")
                .contains("rollout restart deployment/a")
        );
    }

    #[test]
    fn the_first_trouble_is_told() {
        let pod = |ready: &str, proxy: Value, app: Value| {
            view(json!({
                "metadata": {"name": "p", "annotations": {"weft.dev/injected": "{\"version\":\"1\",\"image\":\"i\"}"}},
                "status": {
                    "phase": "Running", "conditions": [{"type": "Ready", "status": ready}],
                    "initContainerStatuses": [
                        {"name": "weft-init", "ready": false, "restartCount": 0, "image": "", "imageID": "", "state": {"terminated": {"exitCode": 0}}},
                        {"name": "weft-proxy", "ready": false, "restartCount": 2, "image": "", "imageID": "", "state": proxy}],
                    "containerStatuses": [{"name": "app", "ready": false, "restartCount": 0, "image": "", "imageID": "", "state": app}],
                },
            }))
        };
        let running = || json!({"running": {}});
        let waiting = || json!({"waiting": {"reason": "PodInitializing"}});
        let view = pod("False", running(), waiting());
        assert_eq!(view.trouble.as_deref(), Some("weft-proxy is not ready"));
        assert_eq!((view.version.as_deref(), view.proxy_restarts), (Some("1"), 2));
        assert!(view.proxy_runs && !view.proxy_ready);
        let pull = json!({"waiting": {"reason": "ErrImagePull", "message": "no such host"}});
        assert_eq!(
            pod("False", pull, waiting()).trouble.as_deref(),
            Some("weft-proxy waits: ErrImagePull: no such host")
        );
        let died = json!({"terminated": {"exitCode": 1, "reason": "Error"}});
        assert_eq!(
            pod("False", running(), died).trouble.as_deref(),
            Some("app has failed: Error, exit code 1")
        );
        assert_eq!(pod("True", running(), running()).trouble, None);
    }
}
