//! What is injected into a pod, as a pure function.
//!
//! The webhook and `weft inject` must never disagree, and what is done to a pod must be told from the pod and the
//! settings alone: so everything is here, without a clock, a network or a cluster. The order is: is it left alone, is
//! there anything in the way, and only then is anything changed; a refusal tells everything at once.
//!
//! | module | |
//! |---|---|
//! | `settings`, `quantity` | the `injector` section of `config.yaml` |
//! | `pod` | a pod, as far as it is looked at |
//! | `annotations` | `weft.dev/*` |
//! | `refuse` | what cannot be injected |
//! | `probes`, `secret` | the application's probes, brought to the proxy |
//! | `windows` | pods for nodes without iptables |
//! | `dns` | pods that cannot resolve the CA's name |
//! | `share` | pods with resources as a whole |
//! | `limits` | what the LimitRanges of the namespace allow |
//! | `containers` | what is added |
//! | `again` | a pod that was injected, and has been changed since |
//! | `patch` | the difference as a JSON patch |
//! | `workload` | where the pod is in a Deployment, a CronJob, ... |
//! | `uninject` | all of it taken away again |
//! | `stream` | files of manifests |

mod again;
mod annotations;
mod containers;
mod dns;
mod limits;
mod patch;
mod pod;
mod probes;
mod problem;
mod quantity;
mod refuse;
mod secret;
mod settings;
mod share;
mod stream;
mod uninject;
mod windows;
mod workload;

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde_json::{Value, json};

pub use crate::names::{INJECT_LABEL, INJECTED};
pub use annotations::POD_ANNOTATIONS;
pub use limits::{LimitRange, Limits};
pub use patch::patch;
pub use problem::Problem;
pub use quantity::Quantity;
pub use secret::{NoRandomNumbers, ProbeSecret};
pub use settings::{InjectSettings, NativeSidecar, PullPolicy, Resources};
pub use stream::{Done, Manifests, Mistake};
pub use uninject::uninject;
pub(crate) use windows::is_for_windows;
pub use workload::{Workload, workloads};

use crate::names::{ASKS, DECLINES};
use annotations::Asked;
use containers::Told;
use dns::Ca;
use pod::Pod;

/// Namespaces that are never injected, whatever their labels: without them nothing else comes up. Weft's own is one more.
pub const RESERVED_NAMESPACES: [&str; 3] = ["kube-system", "kube-public", "kube-node-lease"];
const MIRROR: &str = "kubernetes.io/config.mirror";

/// Who injects.
#[derive(Clone, Debug)]
pub struct Injector {
    /// The `injector` section.
    pub settings: InjectSettings,
    /// Whether `weft-proxy` is a native sidecar: [`NativeSidecar::resolve`].
    pub native: bool,
    /// Weft's own namespace.
    pub own_namespace: String,
    /// The CA's Service by address, where that is known: for pods that cannot resolve its name.
    pub ca: Option<SocketAddr>,
}

/// The namespace of the pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Namespace {
    /// Its name; `None` where it is not known, as offline.
    pub name: Option<String>,
    /// Its labels; `None` where they are not known. Then only the pod's own label counts, and without that the pod is
    /// injected: the API server asks only about pods that are to be, and `weft inject` is only run for such.
    pub labels: Option<BTreeMap<String, String>>,
    /// Its LimitRanges, as far as they are known.
    pub limits: Limits,
}

/// What became of a pod.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// It stays as it is.
    Skip(Skip),
    /// It must not run like this.
    Refuse(Vec<Problem>),
    /// It is no pod: the place and what is wrong there.
    Invalid(String),
    /// It is injected.
    Patched(Injected),
}

/// An injected pod.
#[derive(Clone, Debug, PartialEq)]
pub struct Injected {
    /// The whole object.
    pub object: Value,
    /// What its author should know.
    pub warnings: Vec<String>,
}

/// Why a pod stays as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Skip {
    /// It has its sidecar.
    Injected,
    /// Neither its own label nor the namespace's asks for it.
    NotAsked,
    /// Its own label, or that of its namespace, is against it.
    Disabled,
    /// The namespace belongs to Kubernetes or to Weft.
    Reserved,
    /// It uses the node's network, which is not a pod's to capture.
    HostNetwork,
    /// A mirror of what a kubelet runs from a file; a change to it would change nothing.
    Mirror,
    /// It is for nodes that have no iptables.
    Windows,
}

impl Skip {
    /// One word for logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Injected => "injected already",
            Self::NotAsked => "not asked for",
            Self::Disabled => "disabled by label",
            Self::Reserved => "reserved namespace",
            Self::HostNetwork => "host network",
            Self::Mirror => "mirror pod",
            Self::Windows => "windows",
        }
    }
}

/// Injects `pod`: an object with `metadata` and `spec`, such as a Pod or the template of a Deployment. `secret` is for the
/// paths of its checks; one that it has already is kept.
pub fn inject(pod: &Value, namespace: &Namespace, injector: &Injector, secret: &ProbeSecret) -> Outcome {
    let read = match Pod::read(pod) {
        Ok(read) => read,
        Err(reason) => return Outcome::Invalid(reason),
    };
    if let Some(skip) = skip(&read, namespace, injector) {
        return Outcome::Skip(skip);
    }
    let kept = ProbeSecret::of(pod);
    let secret = kept.as_ref().unwrap_or(secret);
    if read.is_injected() {
        return again::again(pod, namespace, injector, secret);
    }
    let mut problems = Vec::new();
    label(&read, &mut problems);
    let asked = Asked::read(&read, &injector.settings, &namespace.limits, &mut problems);
    refuse::conflicts(&read, &mut problems);
    refuse::pod_security(namespace, &mut problems);
    let ca = dns::ca(&read, injector.ca, &asked, &mut problems);
    let mut rewrites = probes::plan(&read, secret, &mut problems);
    if asked.keep_probes {
        rewrites.clear();
    }
    refuse::long_probes(&rewrites, &mut problems);
    if !problems.is_empty() {
        return Outcome::Refuse(problems);
    }
    match build(pod, injector, &asked, ca, &rewrites) {
        Some(object) => {
            let mut warnings = warnings(&read, injector, ca);
            warnings.extend(namespace.limits.whole(pod, &object));
            warnings.extend(asked.warnings);
            Outcome::Patched(Injected { object, warnings })
        }
        // `Pod::read` has seen that each part is what it should be; this is for parts that it does not look at.
        None => Outcome::Invalid("metadata or spec: a part of this is not of its type".to_owned()),
    }
}

fn skip(pod: &Pod, namespace: &Namespace, injector: &Injector) -> Option<Skip> {
    let reserved = |name: &str| RESERVED_NAMESPACES.contains(&name) || name == injector.own_namespace;
    if namespace.name.as_deref().is_some_and(reserved) {
        return Some(Skip::Reserved);
    }
    let of_namespace = namespace.labels.as_ref().map(|labels| labels.get(INJECT_LABEL).map(String::as_str));
    let of_pod = pod.labels.get(INJECT_LABEL).map(String::as_str);
    let declines = |label: Option<&str>| label.is_some_and(|label| DECLINES.contains(&label));
    if declines(of_namespace.flatten()) || declines(of_pod) {
        return Some(Skip::Disabled);
    }
    let asks = |label: Option<&str>| label.is_some_and(|label| ASKS.contains(&label));
    if of_pod.is_none() && of_namespace.is_some_and(|label| !asks(label)) {
        return Some(Skip::NotAsked);
    }
    if pod.spec.host_network == Some(true) {
        return Some(Skip::HostNetwork);
    }
    if pod.spec.is_for_windows() {
        return Some(Skip::Windows);
    }
    pod.annotations.contains_key(MIRROR).then_some(Skip::Mirror)
}

/// A pod whose label cannot be read may have meant to stay out.
fn label(pod: &Pod, problems: &mut Vec<Problem>) {
    if let Some(value) = pod.labels.get(INJECT_LABEL).filter(|value| !ASKS.contains(&value.as_str())) {
        let what = format!("label {INJECT_LABEL}: {value:?}");
        let cure = "write enabled or disabled (true and false mean the same)";
        problems.push(Problem::new(what, "this value is not known", cure));
    }
}

fn warnings(pod: &Pod, injector: &Injector, ca: Ca) -> Vec<String> {
    let mut warnings = Vec::new();
    if ca == Ca::Unknown {
        warnings.push(format!(
            "weft: dnsPolicy: None: where its servers do not know the cluster's names, {}",
            dns::cure()
        ));
    }
    if !injector.native && pod.owners.iter().any(|owner| owner.kind == "Job") {
        warnings.push(
            "weft: as a classic container the proxy does not end with the Job; it needs Kubernetes 1.29 to"
                .to_owned(),
        );
    }
    warnings
}

/// The pod with everything added. `None` where a part is not of its type.
fn build(
    pod: &Value,
    injector: &Injector,
    asked: &Asked,
    ca: Ca,
    rewrites: &[probes::Rewrite],
) -> Option<Value> {
    let settings = &injector.settings;
    let mut injected = pod.clone();
    let object = injected.as_object_mut()?;
    let annotations = pod::object(pod::object(object, "metadata")?, "annotations")?;
    annotations
        .insert(INJECTED.to_owned(), json!(containers::injected(settings, probes::originals(rewrites))));
    let spec = pod::object(object, "spec")?;
    for list in ["initContainers", "containers"] {
        if let Some(containers) = spec.get_mut(list).and_then(Value::as_array_mut) {
            probes::apply(containers, rewrites);
        }
    }
    let init = containers::init(settings, asked);
    let ca = if let Ca::At(address) = ca { Some(address) } else { None };
    let told = Told { probes: probes::entries(rewrites), ca };
    let proxy = containers::proxy(settings, asked, &told, injector.native);
    let inits = pod::list(spec, "initContainers")?;
    if injector.native {
        inits.splice(0..0, [init, proxy]);
    } else {
        // The proxy starts after all init containers: until then nothing may be captured.
        inits.push(init);
        pod::list(spec, "containers")?.insert(0, proxy);
    }
    pod::list(spec, "volumes")?.extend(containers::volumes());
    Some(injected)
}

#[cfg(test)]
#[path = "inject_tests.rs"]
mod tests;
