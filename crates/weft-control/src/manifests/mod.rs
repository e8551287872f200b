//! The objects of an installation, and their removal.
//!
//! There are two ways to install, Helm's chart and `weft install`, and two descriptions of the same objects drift apart
//! unless something holds them together. What holds them: the chart's `values.yaml` and `values.schema.json` are compiled
//! into the binary and are the only defaults and the only rules of values, and a test renders both with many values and
//! compares object by object. The objects themselves are built from the API's types, so that a misspelt field is a
//! compile error here and a difference there.
//!
//! | module | |
//! |---|---|
//! | `located` | YAML in which each node knows its line |
//! | `schema` | checks values by the chart's JSON schema |
//! | `set` | `--set` |
//! | `values` | defaults, files and `--set` laid over each other, typed |
//! | `deeper` | checks them by the readers of `weft control` and of proxies |
//! | `meta` | names and labels |
//! | `settings` | the ConfigMap that `weft control` reads |
//! | `rbac`, `workload`, `network`, `webhook` | the objects |
//! | `uninstall` | takes all of it away again, with what was made at run time |

mod deeper;
mod located;
mod meta;
mod network;
mod rbac;
mod schema;
mod set;
mod settings;
mod uninstall;
mod values;
mod webhook;
mod workload;

use k8s_openapi::serde::Serialize;
use kube::Resource;

pub use uninstall::{NamespaceEnd, Removal, Survey, Uninstall};
pub use values::{Problem, Problems, Source, Values};

use crate::KubeError;

/// One object as text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// Its kind, such as `Deployment`.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// The YAML document, with a line end.
    pub yaml: String,
}

impl Manifest {
    fn new<T: Resource<DynamicType = ()> + Serialize>(object: &T) -> Result<Self, KubeError> {
        let kind = T::kind(&()).into_owned();
        let name = object.meta().name.clone().unwrap_or_default();
        let yaml = serde_saphyr::to_string(object).map_err(|error| KubeError::Manifest {
            object: format!("{kind}/{name}"),
            reason: error.to_string(),
        })?;
        Ok(Self { kind, name, yaml })
    }
}

/// All objects of an installation into `namespace`, in the order in which they can be created; with
/// `with_namespace`, the namespace itself as the first.
///
/// # Errors
/// [`KubeError::Manifest`] where an object cannot be written as YAML.
pub fn render(values: &Values, namespace: &str, with_namespace: bool) -> Result<Vec<Manifest>, KubeError> {
    let install = meta::Install { values, namespace };
    let mut objects = Vec::with_capacity(18);
    if with_namespace {
        objects.push(Manifest::new(&install.own_namespace())?);
    }
    if values.control.priority_class_name.is_empty() {
        objects.push(Manifest::new(&install.priority_class())?);
    }
    objects.push(Manifest::new(&install.service_account())?);
    objects.push(Manifest::new(&install.cluster_role())?);
    objects.push(Manifest::new(&install.cluster_role_binding())?);
    objects.push(Manifest::new(&install.role())?);
    objects.push(Manifest::new(&install.role_binding())?);
    objects.push(Manifest::new(&install.config_map()?)?);
    if values.network_policy.enabled {
        objects.push(Manifest::new(&install.network_policy())?);
    }
    for service in install.services() {
        objects.push(Manifest::new(&service)?);
    }
    objects.push(Manifest::new(&install.deployment()?)?);
    if values.pod_disruption_budget.enabled {
        objects.push(Manifest::new(&install.pod_disruption_budget())?);
    }
    // Last: before the injector runs, the webhook would only delay the creation of pods.
    objects.push(Manifest::new(&install.webhook())?);
    Ok(objects)
}
