//! The values of an installation: the chart's defaults, files over them, `--set` over those.
//!
//! They are laid over each other as Helm does it, so that a values file means the same to both: mappings are merged,
//! everything else is replaced, and null takes a default away. Then the whole is checked, and every mistake is told at
//! once, each with the line it was written on.

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::api::core::v1::{Affinity, ResourceRequirements, Toleration};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::located::{self, At, Node, Part};
use super::schema;
use crate::controller::ControllerSettings;
use crate::webhook::WebhookSettings;

/// The chart's defaults.
pub(super) const DEFAULTS: &str = include_str!("../../../../deploy/helm/weft/values.yaml");

/// Where values come from; later ones win.
#[derive(Debug, Clone)]
pub enum Source {
    /// A YAML file.
    File {
        /// Its name, for messages.
        name: String,
        /// Its text.
        text: String,
    },
    /// `path.to.field=value`, several of them with commas between; a list is `{a,b}`, a comma or dot that belongs to the
    /// text is `\,` or `\.`.
    Set(String),
}

/// A mistake in the values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// `file:line:column`, or `--set`.
    pub place: String,
    /// The path of the field, or nothing where it is the whole.
    pub field: String,
    /// What is wrong, and the cure.
    pub reason: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let colon = if self.field.is_empty() { "" } else { ": " };
        write!(f, "{}: {}{colon}{}", self.place, self.field, self.reason)
    }
}

/// All mistakes in the values, in the order of the fields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.0.iter().enumerate() {
            write!(f, "{}{problem}", if i > 0 { "\n" } else { "" })?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

/// Checked values. Each field is described in `values.schema.json`.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[allow(missing_docs, reason = "the schema describes the fields, and the reference page is made from it")]
pub struct Values {
    pub image: Image,
    pub trust_domain: String,
    pub cluster_domain: String,
    pub control: Control,
    pub ca: Ca,
    pub injector: Injector,
    pub controller: ControllerSettings,
    pub webhook: WebhookSettings,
    pub mesh: Mesh,
    pub proxy: Map<String, Value>,
    pub network_policy: NetworkPolicy,
    pub pod_disruption_budget: PodDisruptionBudget,
    pub uninstall: UninstallValues,
    /// Helm's own; read by nothing.
    #[serde(default)]
    pub global: Map<String, Value>,
}

/// `image`.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[allow(missing_docs, reason = "as above")]
pub struct Image {
    pub repository: String,
    pub tag: String,
    pub digest: String,
    pub pull_policy: String,
    pub pull_secrets: Vec<String>,
}

/// `control`.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[allow(missing_docs, reason = "as above")]
pub struct Control {
    pub replicas: i32,
    pub log: String,
    pub drain_seconds: i64,
    pub resources: ResourceRequirements,
    pub node_selector: BTreeMap<String, String>,
    pub tolerations: Vec<Toleration>,
    pub affinity: Affinity,
    pub pod_annotations: BTreeMap<String, String>,
    pub priority_class_name: String,
    pub telemetry: Map<String, Value>,
}

/// `ca`.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[allow(missing_docs, reason = "as above")]
pub struct Ca {
    pub leaf_lifetime: String,
    pub root_lifetime: String,
    pub identity_connections: usize,
}

/// `injector`.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[allow(missing_docs, reason = "as above")]
pub struct Injector {
    pub failure_policy: String,
    pub native_sidecar: String,
    pub resources: ResourceRequirements,
    pub init_resources: ResourceRequirements,
}

/// `mesh`.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[allow(missing_docs, reason = "as above")]
pub struct Mesh {
    pub pod_cidrs: Vec<String>,
    pub pod_cidr_mode: String,
    pub service_cidrs: Vec<String>,
}

/// `networkPolicy`.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[allow(missing_docs, reason = "as above")]
pub struct NetworkPolicy {
    pub enabled: bool,
    pub api_server_cidrs: Vec<String>,
}

/// `podDisruptionBudget`.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[allow(missing_docs, reason = "as above")]
pub struct PodDisruptionBudget {
    pub enabled: bool,
}

/// `uninstall`: for Helm's hooks only.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[allow(missing_docs, reason = "as above")]
pub struct UninstallValues {
    pub keep_ca: bool,
    pub force: bool,
}

/// A source that has been read: what to call it, and its tree.
struct Layer {
    name: String,
    /// Lines are told for files only.
    file: bool,
    root: Node,
}

impl Values {
    /// Lays `sources` over the chart's defaults and checks the result.
    ///
    /// # Errors
    /// Every mistake, not only the first.
    pub fn read(sources: &[Source]) -> Result<Self, Problems> {
        let mut layers = Vec::with_capacity(sources.len());
        let mut given = Value::Object(Map::new());
        for source in sources {
            for layer in layers_of(source)? {
                lay(&mut given, layer.root.to_value());
                layers.push(layer);
            }
        }
        let mut merged = defaults()?;
        coalesce(&mut merged, given);
        let schema: Value =
            serde_json::from_str(schema::SCHEMA).map_err(|e| whole("values.schema.json", e))?;
        let mut problems: Vec<Problem> = schema::check(&schema, &merged)
            .into_iter()
            .map(|violation| problem(&layers, &violation.path, violation.reason))
            .collect();
        problems.extend(unknown_affinity(&merged).map(|path| {
            problem(&layers, &path, "there is no such field in the affinity of a pod".to_owned())
        }));
        if !problems.is_empty() {
            return Err(Problems(problems));
        }
        let values: Self = serde_json::from_value(merged).map_err(|error| whole("values", error))?;
        let found = super::deeper::check(&values);
        if !found.is_empty() {
            return Err(Problems(
                found.into_iter().map(|(path, reason)| problem(&layers, &path, reason)).collect(),
            ));
        }
        Ok(values)
    }
}

fn whole(place: &str, reason: impl fmt::Display) -> Problems {
    Problems(vec![Problem { place: place.to_owned(), field: String::new(), reason: reason.to_string() }])
}

fn defaults() -> Result<Value, Problems> {
    let root = located::parse(DEFAULTS).map_err(|broken| whole("values.yaml", broken.reason))?;
    Ok(root.to_value())
}

fn layers_of(source: &Source) -> Result<Vec<Layer>, Problems> {
    match source {
        Source::File { name, text } => {
            let root = located::parse(text).map_err(|broken| {
                let At { line, column } = broken.at;
                whole(
                    &format!("{name}:{line}:{column}"),
                    format!("this is not YAML that can be read: {}", broken.reason),
                )
            })?;
            match root.part {
                Part::Map(_) => Ok(vec![Layer { name: name.clone(), file: true, root }]),
                Part::Scalar(Value::Null) => Ok(Vec::new()),
                Part::Scalar(_) | Part::List(_) => {
                    let At { line, column } = root.at;
                    Err(whole(&format!("{name}:{line}:{column}"), "a values file is a mapping"))
                }
            }
        }
        Source::Set(text) => {
            let assignments =
                super::set::parse(text).map_err(|reason| whole(&format!("--set {text}"), reason))?;
            Ok(assignments
                .into_iter()
                .map(|root| Layer { name: "--set".to_owned(), file: false, root })
                .collect())
        }
    }
}

/// Lays one set of given values over another: null is a value like any other here.
fn lay(under: &mut Value, over: Value) {
    match (under, over) {
        (Value::Object(under), Value::Object(over)) => {
            for (key, value) in over {
                match under.get_mut(&key) {
                    Some(below) if below.is_object() && value.is_object() => lay(below, value),
                    _ => drop(under.insert(key, value)),
                }
            }
        }
        (under, over) => *under = over,
    }
}

/// Lays what was given over the defaults: null takes a default away.
fn coalesce(defaults: &mut Value, given: Value) {
    let (Value::Object(defaults), Value::Object(given)) = (defaults, given) else { return };
    for (key, value) in given {
        match defaults.get_mut(&key) {
            Some(_) if value.is_null() => drop(defaults.remove(&key)),
            Some(below) if below.is_object() && value.is_object() => coalesce(below, value),
            _ => drop(defaults.insert(key, value)),
        }
    }
}

/// A problem, placed where the last source that says something about the field says it.
fn problem(layers: &[Layer], path: &[String], reason: String) -> Problem {
    let place = layers.iter().rev().max_by_key(|layer| depth(&layer.root, path)).map_or(
        "values.yaml".to_owned(),
        |layer| {
            let At { line, column } = layer.root.nearest(path);
            if layer.file { format!("{}:{line}:{column}", layer.name) } else { layer.name.clone() }
        },
    );
    Problem { place, field: path.join("."), reason }
}

/// How many steps of `path` the tree has.
fn depth(node: &Node, path: &[String]) -> usize {
    let Some((first, rest)) = path.split_first() else { return 0 };
    match &node.part {
        Part::Map(entries) => {
            entries.iter().find(|(key, ..)| key == first).map_or(0, |(.., value)| 1 + depth(value, rest))
        }
        Part::List(items) => {
            first.parse().ok().and_then(|i: usize| items.get(i)).map_or(0, |item| 1 + depth(item, rest))
        }
        Part::Scalar(_) => 0,
    }
}

/// The path of the first field of `control.affinity` that the API's type does not have. Its type is too large for the
/// schema, and unknown fields would be dropped here but handed on by Helm.
fn unknown_affinity(values: &Value) -> Option<Vec<String>> {
    fn missing(given: &Value, kept: &Value, path: &mut Vec<String>) -> bool {
        match (given, kept) {
            (Value::Object(given), Value::Object(kept)) => given.iter().any(|(key, value)| {
                path.push(key.clone());
                let gone = kept.get(key).is_none_or(|kept| missing(value, kept, path));
                if !gone {
                    path.pop();
                }
                gone
            }),
            (Value::Array(given), Value::Array(kept)) => {
                given.iter().zip(kept).enumerate().any(|(i, (value, kept))| {
                    path.push(i.to_string());
                    let gone = missing(value, kept, path);
                    if !gone {
                        path.pop();
                    }
                    gone
                })
            }
            _ => false,
        }
    }
    let given = values.pointer("/control/affinity")?;
    let kept = serde_json::from_value::<Affinity>(given.clone()).ok()?;
    let mut path = vec!["control".to_owned(), "affinity".to_owned()];
    missing(given, &serde_json::to_value(kept).ok()?, &mut path).then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> Source {
        Source::File { name: "my.yaml".to_owned(), text: text.to_owned() }
    }

    fn told(sources: &[Source]) -> String {
        Values::read(sources).unwrap_err().to_string()
    }

    #[test]
    fn the_defaults_are_highly_available_and_safe() {
        let values = Values::read(&[]).unwrap();
        assert_eq!((values.control.replicas, values.injector.failure_policy.as_str()), (2, "Ignore"));
        assert_eq!((values.control.drain_seconds, values.webhook.client_ca.as_str()), (15, ""));
        assert_eq!(values.controller, ControllerSettings::default());
        assert!(
            values.network_policy.enabled && values.pod_disruption_budget.enabled && !values.uninstall.force
        );
    }

    #[test]
    fn later_sources_win_and_mappings_are_merged() {
        let values = Values::read(&[
            file("control: {replicas: 3, resources: {limits: null}}\nimage: {tag: a}\n"),
            file("image: {tag: b}\nproxy: {timeouts: {connect: 1s}}\n"),
            Source::Set("control.replicas=5,mesh.podCidrs={10.0.0.0/8,fd00::/8}".to_owned()),
            Source::Set(r"control.podAnnotations.example\.com/a=x\,y".to_owned()),
        ])
        .unwrap();
        assert_eq!((values.control.replicas, values.image.tag.as_str()), (5, "b"));
        assert_eq!(values.control.resources.limits, None);
        assert!(values.control.resources.requests.is_some());
        assert_eq!(values.mesh.pod_cidrs, ["10.0.0.0/8", "fd00::/8"]);
        assert_eq!(values.control.pod_annotations["example.com/a"], "x,y");
        assert_eq!(values.proxy["timeouts"]["connect"], "1s");
        assert_eq!(values.trust_domain, "weft.local");
    }

    #[test]
    fn a_mistake_is_told_with_file_line_and_field() {
        let text = "image:\n  tag: a\ncontrol:\n  replicas: many\n  podanotations: {}\n";
        let told = told(&[file(text), Source::Set("ca.leafLifetime=soon".to_owned())]);
        let lines: Vec<&str> = told.lines().collect();
        assert_eq!(lines[0], "--set: ca.leafLifetime: \"soon\" has not the right form; write it as \"24h\"");
        assert!(
            lines[1].starts_with("my.yaml:5:3: control.podanotations: there is no such field;"),
            "{told}"
        );
        assert_eq!(lines[2], "my.yaml:4:3: control.replicas: \"many\" is not a whole number");
        assert_eq!(lines.len(), 3);
    }

    #[test]
    fn what_is_not_a_mapping_is_refused_with_its_line() {
        assert_eq!(told(&[file("\n- a\n")]), "my.yaml:2:1: a values file is a mapping");
        assert!(
            told(&[file("a: [1\nb: 2\n")]).starts_with("my.yaml:2:"),
            "{}",
            told(&[file("a: [1\nb: 2\n")])
        );
        assert!(
            told(&[file("control: null\n")]).contains("control"),
            "a section that is taken away is missed"
        );
    }

    #[test]
    fn what_only_the_readers_of_the_settings_know_is_told_too() {
        for (text, said) in [
            ("ca: {leafLifetime: 90d}\n", "my.yaml:1:6: ca.leafLifetime: "),
            ("clusterDomain: a.-b-.c\n", "clusterDomain"),
            ("mesh: {podCidrs: [10.0.0.300/8]}\n", "my.yaml:1:"),
            (
                "control:\n  telemetry:\n    tracing: {sampling: 1}\n",
                "my.yaml:3:14: control.telemetry.tracing.endpoint: this field is missing",
            ),
            ("control:\n  telemetry:\n    tracing: {endpoint: 'http://a b'}\n", "my.yaml:3:"),
            ("image: {tag: a}\nproxy: {inbound: {mode: disable}}\n", "my.yaml:2:"),
            ("image: {tag: a}\nproxy: {timeouts: {conect: 1s}}\n", "timeouts.conect"),
            ("injector: {resources: {requests: {cpu: '2'}, limits: {cpu: '1'}}}\n", "injector"),
        ] {
            assert!(told(&[file(text)]).contains(said), "{text}: {}", told(&[file(text)]));
        }
    }

    #[test]
    fn a_misspelt_affinity_is_refused() {
        let text = "control:\n  affinity:\n    nodeAfinity: {}\n";
        assert!(
            told(&[file(text)])
                .starts_with("my.yaml:3:5: control.affinity.nodeAfinity: there is no such field")
        );
        let good = "control:\n  affinity:\n    podAntiAffinity:\n      requiredDuringSchedulingIgnoredDuringExecution:\n      \
                    - {topologyKey: kubernetes.io/hostname, labelSelector: {matchLabels: {a: b}}}\n";
        assert!(Values::read(&[file(good)]).unwrap().control.affinity.pod_anti_affinity.is_some());
    }
}
