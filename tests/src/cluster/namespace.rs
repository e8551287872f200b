//! One namespace of the cluster: what a story does in it.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::load::ClusterLoadBuilder;
use super::workload::{Workload, objects_of};
use super::{Cluster, Kubectl};
use crate::process::Output;
use crate::sidecar::Metrics;
use crate::wait::eventually;

/// How long a roll-out or a job may take on a busy machine.
const ROLLOUT: &str = "--timeout=240s";

/// How long something may take that the cluster or Weft does by itself, the kubelet's delay for mounted files included.
const SOON: Duration = Duration::from_secs(150);

/// The program in the image of the test applications.
const PROGRAM: &str = "/weft-testapp";

/// A namespace.
#[derive(Debug, Clone, Copy)]
pub struct Namespace<'a> {
    cluster: &'a Cluster,
    name: &'a str,
}

/// An HTTP answer as `weft-testapp get` printed it in a pod.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The headers; several values of one name joined by `, `.
    pub headers: BTreeMap<String, String>,
    /// The body.
    pub body: String,
}

impl Answer {
    /// The body as JSON, or null.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_default()
    }

    /// A header, or "".
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }
}

impl<'a> Namespace<'a> {
    pub(super) fn new(cluster: &'a Cluster, name: &str) -> Self {
        // A handful of names for a run of tests: they may live as long as the process.
        Self { cluster, name: String::leak(name.to_owned()) }
    }

    /// Its name.
    pub fn name(&self) -> &'a str {
        self.name
    }

    /// The cluster it is in.
    pub fn cluster(&self) -> &'a Cluster {
        self.cluster
    }

    fn kubectl(&self) -> &'a Kubectl {
        self.cluster.kubectl()
    }

    /// Runs `kubectl` with this namespace.
    ///
    /// # Errors
    /// It failed; the error shows what it wrote.
    pub fn run(&self, words: &[&str]) -> Result<String> {
        self.kubectl().run(&[&["-n", self.name], words].concat())
    }

    /// Creates or changes a workload and what belongs to it.
    ///
    /// # Errors
    /// An object is refused.
    pub fn apply(&self, workload: &Workload) -> Result<()> {
        self.kubectl().apply(&objects_of(workload, self.name))
    }

    /// Creates or changes any object of this namespace.
    ///
    /// # Errors
    /// It is refused.
    pub fn apply_object(&self, mut object: Value) -> Result<()> {
        object["metadata"]["namespace"] = self.name.into();
        self.kubectl().apply(&[object])
    }

    /// Labels the namespace; `key-` takes a label away.
    ///
    /// # Errors
    /// The API server refuses.
    pub fn label(&self, label: &str) -> Result<()> {
        self.kubectl().run(&["label", "--overwrite", "namespace", self.name, label]).map(drop)
    }

    /// Annotates the namespace; `key-` takes an annotation away.
    ///
    /// # Errors
    /// The API server refuses.
    pub fn annotate(&self, annotation: &str) -> Result<()> {
        self.kubectl().run(&["annotate", "--overwrite", "namespace", self.name, annotation]).map(drop)
    }

    /// Waits until Deployments have all their pods, all ready, and no other.
    ///
    /// # Errors
    /// One does not come to that within 4 minutes.
    pub fn ready(&self, deployments: &[&str]) -> Result<()> {
        deployments.iter().try_for_each(|name| self.rolled(&format!("deployment/{name}")))
    }

    /// Waits for the end of a roll-out of a Deployment or StatefulSet, with its earlier pods gone.
    ///
    /// # Errors
    /// It does not end.
    pub fn rolled(&self, target: &str) -> Result<()> {
        self.run(&["rollout", "status", target, ROLLOUT])?;
        let (kind, name) = target.split_once('/').context("a target is kind/name")?;
        eventually(&format!("the earlier pods of {target} to end"), SOON, || {
            let wanted = self.get(kind, name)?["spec"]["replicas"].as_u64().unwrap_or(1);
            let pods = self.pods(&format!("app={name}"))?;
            Ok((u64::try_from(pods.len()) == Ok(wanted) && pods.iter().all(|pod| !is_ending(pod)))
                .then_some(()))
        })
    }

    /// Restarts Deployments one after another, each to its end.
    ///
    /// # Errors
    /// A roll-out does not end.
    pub fn restart(&self, deployments: &[&str]) -> Result<()> {
        for name in deployments {
            let target = format!("deployment/{name}");
            self.run(&["rollout", "restart", &target])?;
            self.rolled(&target)?;
        }
        Ok(())
    }

    /// Changes the number of pods of a Deployment and waits until it is true.
    ///
    /// # Errors
    /// It does not become true.
    pub fn scale(&self, deployment: &str, replicas: u32) -> Result<()> {
        let target = format!("deployment/{deployment}");
        self.run(&["scale", &target, &format!("--replicas={replicas}")])?;
        self.rolled(&target)
    }

    /// An object.
    ///
    /// # Errors
    /// It is not there.
    pub fn get(&self, kind: &str, name: &str) -> Result<Value> {
        self.kubectl().get(self.name, kind, name)
    }

    /// The pods that a label selector picks.
    ///
    /// # Errors
    /// The API server refuses.
    pub fn pods(&self, selector: &str) -> Result<Vec<Value>> {
        self.kubectl().list(self.name, "pods", selector)
    }

    /// The names of the running pods of a workload.
    ///
    /// # Errors
    /// The API server refuses.
    pub fn pod_names(&self, workload: &str) -> Result<Vec<String>> {
        self.pod_names_of(&format!("app={workload}"))
    }

    /// The names of the running pods that a label selector picks; of all where it is empty.
    ///
    /// # Errors
    /// The API server refuses.
    pub fn pod_names_of(&self, selector: &str) -> Result<Vec<String>> {
        let pods = self.pods(selector)?;
        let live = pods.iter().filter(|pod| !is_ending(pod));
        Ok(live.filter_map(|pod| Some(pod["metadata"]["name"].as_str()?.to_owned())).collect())
    }

    /// The name of the only pod of a workload.
    ///
    /// # Errors
    /// There is none, or more than one.
    pub fn pod_name(&self, workload: &str) -> Result<String> {
        let names = self.pod_names(workload)?;
        let [name] = names.as_slice() else { bail!("pods of {workload}: {names:?}") };
        Ok(name.clone())
    }

    /// Waits until a condition of an object holds, such as `complete` of `job/x`.
    ///
    /// # Errors
    /// It does not within 4 minutes.
    pub fn wait(&self, target: &str, condition: &str) -> Result<()> {
        self.run(&["wait", target, &format!("--for={condition}"), ROLLOUT]).map(drop)
    }

    /// Runs a program in the container `app` of a pod, such as `deploy/web`.
    ///
    /// # Errors
    /// `kubectl exec` does not start; the program's failure is in the output.
    pub fn exec(&self, target: &str, words: &[&str]) -> Result<Output> {
        self.kubectl().output(&[&["exec", "-n", self.name, target, "-c", "app", "--"], words].concat())
    }

    /// Sends a GET from a pod.
    ///
    /// # Errors
    /// There was no answer.
    pub fn http(&self, from: &str, url: &str) -> Result<Answer> {
        self.http_with(from, url, &[])
    }

    /// Sends a request from a pod, with further words for `weft-testapp get`.
    ///
    /// # Errors
    /// There was no answer: the error has the reason.
    pub fn http_with(&self, from: &str, url: &str, words: &[&str]) -> Result<Answer> {
        let output = self.exec(from, &[&[PROGRAM, "get", url], words].concat())?;
        let text = output.ok().with_context(|| format!("GET {url} from {from} of {}", self.name))?.stdout;
        let json: Value = serde_json::from_str(&text).with_context(|| format!("not an answer: {text}"))?;
        let headers = json["headers"].as_object().into_iter().flatten();
        Ok(Answer {
            status: json["status"].as_u64().and_then(|status| status.try_into().ok()).context("no status")?,
            headers: headers
                .map(|(key, value)| (key.clone(), value.as_str().unwrap_or_default().into()))
                .collect(),
            body: json["body"].as_str().unwrap_or_default().to_owned(),
        })
    }

    /// Waits until a request from a pod gets a 2xx answer: until names and endpoints have arrived everywhere.
    ///
    /// # Errors
    /// It does not; the error has the last answer.
    pub fn serves(&self, from: &str, url: &str) -> Result<Answer> {
        let mut last = String::new();
        eventually(&format!("{url} from {from}"), SOON, || {
            let answer = self.http(from, url);
            last = format!("{answer:?}");
            Ok(answer.ok().filter(|answer| (200..300).contains(&answer.status)))
        })
        .with_context(|| last)
    }

    /// What a container wrote.
    ///
    /// # Errors
    /// There is no such container.
    pub fn logs(&self, target: &str, container: &str) -> Result<String> {
        self.run(&["logs", target, "-c", container])
    }

    /// The metrics of the sidecar of a pod, through the API server.
    ///
    /// # Errors
    /// The pod has no sidecar that answers.
    pub fn metrics(&self, pod: &str) -> Result<Metrics> {
        let path = format!("/api/v1/namespaces/{}/pods/{pod}:15020/proxy/metrics", self.name);
        Ok(Metrics::parse(&self.kubectl().run(&["get", "--raw", &path])?))
    }

    /// Steady traffic from a Deployment of its own.
    pub fn load(&self, name: &str, url: &str) -> ClusterLoadBuilder<'a> {
        ClusterLoadBuilder::new(*self, name, url)
    }

    /// Waits until clients treat a Service as strict: `weft.yaml` no longer lists it.
    ///
    /// # Errors
    /// It does not become so.
    pub fn strict(&self, services: &[&str]) -> Result<()> {
        let names: Vec<String> = services.iter().map(|service| format!("{}/{service}", self.name)).collect();
        let state = || -> Result<String> {
            let state = self.kubectl().get(super::WEFT_NAMESPACE, "configmap", "weft-state")?;
            Ok(state["data"]["strict.yaml"].as_str().unwrap_or_default().to_owned())
        };
        eventually(&format!("{names:?} to be strict"), SOON, || {
            let Ok(state) = state() else { return Ok(None) };
            Ok(names.iter().all(|name| state.lines().any(|line| line.ends_with(name))).then_some(()))
        })
        .with_context(|| format!("weft-state: {:?}", state()))
    }

    /// Checks that every pod of these workloads has a sidecar, or that none has.
    ///
    /// # Errors
    /// A pod is otherwise.
    pub fn all_injected(&self, workloads: &[&str], injected: bool) -> Result<()> {
        for workload in workloads {
            for pod in self.pods(&format!("app={workload}"))? {
                let has = has_sidecar(&pod);
                ensure!(has == injected, "{workload}: sidecar {has}, labels {}", pod["metadata"]["labels"]);
            }
        }
        Ok(())
    }
}

/// Whether the pod has been told to end.
pub(super) fn is_ending(pod: &Value) -> bool {
    !pod["metadata"]["deletionTimestamp"].is_null()
}

/// Whether a pod has a container named `weft-proxy`, of either kind.
pub(super) fn has_sidecar(pod: &Value) -> bool {
    ["initContainers", "containers"].iter().any(|list| {
        let containers = pod["spec"][list].as_array().into_iter().flatten();
        containers.into_iter().any(|container| container["name"] == "weft-proxy")
    })
}
