//! A pod, or the template of one, as far as the injector looks at it.
//!
//! The object itself stays JSON: what this version of Weft has never heard of must come out as it went in. What is looked
//! at is read into types first, so that a broken pod ends here with the place of the mistake, and nothing behind it has
//! to expect one.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::windows::is_for_windows;
pub(crate) use crate::names::{INIT, PROXY};

/// The pod.
#[derive(Debug)]
pub(crate) struct Pod {
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) annotations: BTreeMap<String, String>,
    pub(crate) owners: Vec<Owner>,
    pub(crate) spec: Spec,
    pub(crate) init_containers: Vec<Container>,
    pub(crate) containers: Vec<Container>,
}

/// `metadata.ownerReferences[]`.
#[derive(Debug, Deserialize)]
pub(crate) struct Owner {
    #[serde(default)]
    pub(crate) kind: String,
}

/// The plain fields of `spec`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Spec {
    pub(crate) host_network: Option<bool>,
    pub(crate) os: Option<Os>,
    pub(crate) node_selector: Option<BTreeMap<String, String>>,
    pub(crate) affinity: Option<Value>,
    pub(crate) dns_policy: Option<String>,
    /// Of the pod as a whole.
    pub(crate) resources: Option<Map<String, Value>>,
    pub(crate) security_context: Option<SecurityContext>,
    pub(crate) volumes: Option<Vec<Named>>,
    pub(crate) termination_grace_period_seconds: Option<i64>,
}

impl Spec {
    /// Whether it can run on Windows nodes only.
    pub(crate) fn is_for_windows(&self) -> bool {
        let os = self.os.as_ref().map(|os| os.name.as_str());
        is_for_windows(os, self.node_selector.as_ref(), self.affinity.as_ref())
    }
}

#[derive(Debug, Deserialize)]
pub(crate) struct Os {
    pub(crate) name: String,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Named {
    pub(crate) name: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct SecurityContext {
    pub(crate) run_as_user: Option<i64>,
}

/// A container.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Container {
    pub(crate) name: String,
    pub(crate) ports: Option<Vec<ContainerPort>>,
    pub(crate) security_context: Option<SecurityContext>,
    pub(crate) startup_probe: Option<Map<String, Value>>,
    pub(crate) readiness_probe: Option<Map<String, Value>>,
    pub(crate) liveness_probe: Option<Map<String, Value>>,
    pub(crate) lifecycle: Option<Lifecycle>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ContainerPort {
    pub(crate) name: Option<String>,
    pub(crate) container_port: u16,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Lifecycle {
    pub(crate) post_start: Option<Map<String, Value>>,
    pub(crate) pre_stop: Option<Map<String, Value>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    labels: Option<BTreeMap<String, String>>,
    annotations: Option<BTreeMap<String, String>>,
    owner_references: Option<Vec<Owner>>,
}

impl Pod {
    /// Reads a pod. `Err` has the place and what is wrong there.
    pub(crate) fn read(pod: &Value) -> Result<Self, String> {
        let pod = pod.as_object().ok_or("this is not an object")?;
        let metadata: Option<Metadata> = field(pod, "metadata", "metadata")?;
        let spec = match pod.get("spec") {
            Some(Value::Object(spec)) => spec,
            Some(Value::Null) | None => return Err("spec: this is missing".to_owned()),
            Some(_) => return Err("spec: this is not an object".to_owned()),
        };
        let (labels, annotations, owners) = match metadata {
            Some(metadata) => (
                metadata.labels.unwrap_or_default(),
                metadata.annotations.unwrap_or_default(),
                metadata.owner_references.unwrap_or_default(),
            ),
            None => Default::default(),
        };
        let read = Self {
            labels,
            annotations,
            owners,
            init_containers: containers(spec, "initContainers")?,
            containers: containers(spec, "containers")?,
            spec: read(&Value::Object(spec.clone()), "spec")?,
        };
        read.check_names()?;
        Ok(read)
    }

    /// Containers are told from each other by their names, and a probe's path is made of one.
    fn check_names(&self) -> Result<(), String> {
        let mut seen = BTreeSet::new();
        for name in self.all().map(|container| container.name.as_str()) {
            let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
            if name.is_empty() || name.len() > 63 || !name.bytes().all(allowed) {
                return Err(format!(
                    "container {name:?}: a name is made of a-z, 0-9 and -, at most 63 of them"
                ));
            }
            if !seen.insert(name) {
                return Err(format!("container {name}: there are two of this name"));
            }
        }
        Ok(())
    }

    /// Every container, those that run first first.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Container> {
        self.init_containers.iter().chain(&self.containers)
    }

    /// Whether it has containers with the names of what is injected. Whether they are what they are called,
    /// [`again`](super::again) sees; an annotation alone says nothing: it is copied about.
    pub(crate) fn is_injected(&self) -> bool {
        let init = self.init_containers.iter().any(|container| container.name == INIT);
        init && self.all().any(|container| container.name == PROXY)
    }
}

impl Container {
    /// The number of the port named `name`.
    pub(crate) fn port(&self, name: &str) -> Option<u16> {
        let mut ports = self.ports.iter().flatten();
        ports.find(|port| port.name.as_deref() == Some(name)).map(|port| port.container_port)
    }
}

fn containers(spec: &Map<String, Value>, list: &str) -> Result<Vec<Container>, String> {
    let items = match spec.get(list) {
        Some(Value::Array(items)) => items,
        Some(Value::Null) | None => return Ok(Vec::new()),
        Some(_) => return Err(format!("spec.{list}: this is not a list")),
    };
    let read_one = |(i, item): (usize, &Value)| {
        let place = format!("spec.{list}[{i}]");
        // A list would be taken for the fields in their order.
        if item.is_object() { read(item, &place) } else { Err(format!("{place}: this is not an object")) }
    };
    items.iter().enumerate().map(read_one).collect()
}

fn field<T: DeserializeOwned>(of: &Map<String, Value>, name: &str, place: &str) -> Result<Option<T>, String> {
    match of.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => read(value, place).map(Some),
    }
}

fn read<T: DeserializeOwned>(value: &Value, place: &str) -> Result<T, String> {
    T::deserialize(value).map_err(|error| format!("{place}: {error}"))
}

/// The mapping `name` of `of`, made where there is none.
pub(crate) fn object<'a>(of: &'a mut Map<String, Value>, name: &str) -> Option<&'a mut Map<String, Value>> {
    let value = of.entry(name).or_insert(Value::Null);
    if value.is_null() {
        *value = Value::Object(Map::new());
    }
    value.as_object_mut()
}

/// The list `name` of `of`, made where there is none.
pub(crate) fn list<'a>(of: &'a mut Map<String, Value>, name: &str) -> Option<&'a mut Vec<Value>> {
    let value = of.entry(name).or_insert(Value::Null);
    if value.is_null() {
        *value = Value::Array(Vec::new());
    }
    value.as_array_mut()
}

/// The `name` of a list's entry.
pub(crate) fn name_of(entry: &Value) -> Option<&str> {
    entry.get("name").and_then(Value::as_str)
}
