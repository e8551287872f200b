//! Writes. Each is safe to repeat, and none touches an object that is not Weft's.
//!
//! ConfigMaps are applied by the server, so that what was edited comes back and what is the same is no write. Twins are
//! made, replaced and removed under a condition (absence, version, uid), because a Service that somebody else made under
//! the name must never be overwritten, not even in a race.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ConfigMap, Namespace, ObjectReference, Pod, Service};
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Api, Client};
use serde_json::{Value, json};

use super::facts::{Facts as _, INJECTED_CONDITION, Key, MANAGED_BY, Reported, ServiceFacts};
use super::memory::StateText;
use super::notices::{GIVEN_UP, Notice, SLIPPED};
use super::pass::MeshWrite;
use super::twins::Twin;
use super::{BY_PODS_KEY, CONTROLLER, MESH_CONFIG, STATE_CONFIG, STATE_KEY};
use crate::names::HELD_BACK;

/// How a write ended that did not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Written {
    Done,
    /// The object is another by now, or gone: what is seen next will tell.
    Moved,
}

type Outcome = Result<Written, kube::Error>;

/// Writes to the API.
pub(crate) struct Writer {
    client: Client,
}

/// Writes Events.
pub(crate) struct Teller {
    events: Recorder,
}

/// A conflict, an object that is there already, or one that is gone: not a failure of the write, but of the view that
/// led to it.
fn moved<T>(answer: Result<T, kube::Error>) -> Outcome {
    match answer {
        Ok(_) => Ok(Written::Done),
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {
            tracing::debug!(reason = %status.message, "the object has changed meanwhile");
            Ok(Written::Moved)
        }
        Err(error) => Err(error),
    }
}

fn apply() -> PatchParams {
    PatchParams::apply(CONTROLLER).force()
}

fn only(uid: &str) -> DeleteParams {
    let preconditions = Preconditions { uid: Some(uid.to_owned()), resource_version: None };
    DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() }
}

/// Without the right of the field's owner: what others have changed meanwhile is not taken for ours.
fn merge() -> PatchParams {
    PatchParams { field_manager: Some(CONTROLLER.to_owned()), ..PatchParams::default() }
}

impl Writer {
    pub(crate) fn new(client: Client) -> Self {
        Self { client }
    }

    fn config_maps(&self, namespace: &str) -> Api<ConfigMap> {
        Api::namespaced(self.client.clone(), namespace)
    }

    async fn config_map(&self, key: &Key, data: &BTreeMap<&str, &str>, held: Option<&str>) -> Outcome {
        let labels = json!({ MANAGED_BY.0: MANAGED_BY.1 });
        let mut object = json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": key.name, "namespace": key.namespace, "labels": labels},
            "data": data,
        });
        if let (Some(held), Some(meta)) = (held, object["metadata"].as_object_mut()) {
            meta.insert("annotations".to_owned(), json!({ HELD_BACK: held }));
        }
        // Not `moved`: a namespace that is gone is told by the watch, anything else is a failure.
        self.config_maps(&key.namespace).patch(&key.name, &apply(), &Patch::Apply(&object)).await?;
        Ok(Written::Done)
    }

    /// Writes `weft-mesh` of a namespace.
    pub(crate) async fn mesh(&self, mesh: &MeshWrite, roots: &str) -> Outcome {
        let key = Key::new(&mesh.namespace, MESH_CONFIG);
        let api = self.config_maps(&mesh.namespace);
        let Some(yaml) = &mesh.yaml else { return self.roots(&key, mesh.exists, roots).await };
        if let Some(uid) = &mesh.replaces {
            // Nothing else undoes `immutable: true`.
            moved(api.delete(MESH_CONFIG, &only(uid)).await)?;
        }
        let data = BTreeMap::from([("weft.yaml", &**yaml), ("root.pem", roots)]);
        self.config_map(&key, &data, mesh.held.as_deref()).await?;
        // What somebody else has added is theirs to the server, so applying does not take it away.
        if mesh.replaces.is_none() && (!mesh.extra.is_empty() || mesh.unsay) {
            let nothing: BTreeMap<&String, Value> =
                mesh.extra.iter().map(|name| (name, Value::Null)).collect();
            let mut patch = json!({"data": nothing, "binaryData": nothing});
            if mesh.unsay {
                patch["metadata"] = json!({"annotations": {HELD_BACK: null}});
            }
            api.patch(MESH_CONFIG, &merge(), &Patch::Merge(&patch)).await?;
        }
        Ok(Written::Done)
    }

    /// The trust bundle alone, where there is no membership that could be written.
    async fn roots(&self, key: &Key, exists: bool, roots: &str) -> Outcome {
        let data = BTreeMap::from([("root.pem", roots)]);
        if !exists {
            return self.config_map(key, &data, None).await;
        }
        // Applying would take away what is not in it: the membership that is there.
        let patch = json!({ "data": data });
        moved(self.config_maps(&key.namespace).patch(&key.name, &merge(), &Patch::Merge(&patch)).await)
    }

    /// Removes the `weft-mesh` with this uid.
    pub(crate) async fn remove_mesh(&self, namespace: &str, uid: &str) -> Outcome {
        moved(self.config_maps(namespace).delete(MESH_CONFIG, &only(uid)).await)
    }

    /// Writes `weft-state`.
    pub(crate) async fn state(&self, namespace: &str, text: &StateText) -> Outcome {
        let data = BTreeMap::from([(STATE_KEY, &*text.strict), (BY_PODS_KEY, &*text.by_pods)]);
        self.config_map(&Key::new(namespace, STATE_CONFIG), &data, None).await
    }

    /// The texts in `weft-state`, as they are now.
    pub(crate) async fn read_state(&self, namespace: &str) -> Result<Option<StateText>, kube::Error> {
        let found = self.config_maps(namespace).get_opt(STATE_CONFIG).await?;
        Ok(found.map(|map| {
            let mut data = map.data.unwrap_or_default();
            let mut text = |key| data.remove(key).unwrap_or_else(|| "[]".to_owned());
            StateText { strict: text(STATE_KEY), by_pods: text(BY_PODS_KEY) }
        }))
    }

    /// A namespace as it is now.
    pub(crate) async fn namespace(&self, name: &str) -> Result<Option<Namespace>, kube::Error> {
        Api::<Namespace>::all(self.client.clone()).get_opt(name).await
    }

    /// Whether the API server has no such Service.
    pub(crate) async fn is_gone(&self, key: &Key) -> Result<bool, kube::Error> {
        Ok(self.services(&key.namespace).get_opt(&key.name).await?.is_none())
    }

    fn services(&self, namespace: &str) -> Api<Service> {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// Makes a twin; one that is there already is left as it is.
    pub(crate) async fn create_twin(&self, twin: &Twin) -> Outcome {
        let params = PostParams { field_manager: Some(CONTROLLER.to_owned()), ..PostParams::default() };
        moved(self.services(&twin.key.namespace).create(&params, &twin.over(None)).await)
    }

    /// Puts a twin back into shape.
    pub(crate) async fn update_twin(&self, twin: &Twin) -> Outcome {
        let api = self.services(&twin.key.namespace);
        let Some(found) = api.get_opt(&twin.key.name).await? else { return Ok(Written::Moved) };
        if !ServiceFacts::take(&found).1.is_twin() {
            return Ok(Written::Moved);
        }
        let params = PostParams { field_manager: Some(CONTROLLER.to_owned()), ..PostParams::default() };
        // The version in what was read makes this fail where it has changed since.
        moved(api.replace(&twin.key.name, &params, &twin.over(Some(found))).await)
    }

    /// Removes the twin with this uid.
    pub(crate) async fn remove_twin(&self, key: &Key, uid: &str) -> Outcome {
        moved(self.services(&key.namespace).delete(&key.name, &only(uid)).await)
    }

    /// Sets the condition of a pod that slipped by.
    pub(crate) async fn report(&self, key: &Key, uid: &str, reported: Reported) -> Outcome {
        let message = match reported {
            Reported::Missing => SLIPPED,
            Reported::GivenUp => GIVEN_UP,
        };
        let condition = json!({
            "type": INJECTED_CONDITION, "status": "False", "reason": reported.reason(), "message": message,
            "lastTransitionTime": Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        });
        self.condition(key, uid, &condition).await
    }

    /// Takes the condition away.
    pub(crate) async fn clear(&self, key: &Key, uid: &str) -> Outcome {
        self.condition(key, uid, &json!({"$patch": "delete", "type": INJECTED_CONDITION})).await
    }

    async fn condition(&self, key: &Key, uid: &str, condition: &Value) -> Outcome {
        let pods = Api::<Pod>::namespaced(self.client.clone(), &key.namespace);
        // The uid makes this fail for another pod of the name.
        let patch = json!({"metadata": {"uid": uid}, "status": {"conditions": [condition]}});
        moved(pods.patch_status(&key.name, &merge(), &Patch::Strategic(&patch)).await)
    }
}

impl Teller {
    pub(crate) fn new(client: Client, identity: &str) -> Self {
        let reporter = Reporter { controller: CONTROLLER.to_owned(), instance: Some(identity.to_owned()) };
        Self { events: Recorder::new(client, reporter) }
    }

    /// Tells a notice as an Event.
    ///
    /// # Errors
    /// What the API server says; an object that is gone meanwhile is none.
    pub(crate) async fn tell(&self, notice: &Notice) -> Result<(), kube::Error> {
        let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let reference = ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some(notice.about.kind().to_owned()),
            namespace: text(&notice.key.namespace),
            name: text(&notice.key.name),
            uid: text(&notice.uid),
            ..ObjectReference::default()
        };
        let event = Event {
            type_: if notice.warning { EventType::Warning } else { EventType::Normal },
            reason: notice.reason.to_owned(),
            note: Some(notice.note.clone()),
            action: "Reconcile".to_owned(),
            secondary: None,
        };
        moved(self.events.publish(&event, &reference).await).map(|_| ())
    }
}
