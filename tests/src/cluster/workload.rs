//! Descriptions of what a story deploys: the objects that a user would write, without their boilerplate.

use serde_json::{Map, Value, json};

use super::APP_IMAGE;

/// Where load writes its reports, in the pod and on the node.
pub(super) const REPORTS: &str = "/var/lib/weft-test";

/// How long an application goes on as before when its pod is to end, so that everybody has heard of it: what every
/// deployment that nobody may miss has.
const PRE_STOP_SECONDS: u32 = 3;

/// A workload with its services and its service account.
#[derive(Debug, Clone)]
pub struct Workload {
    kind: &'static str,
    name: String,
    replicas: u32,
    /// Of the pods: metadata and spec.
    template: Value,
    services: Vec<Value>,
    annotations: Map<String, Value>,
}

impl Workload {
    fn new(kind: &'static str, name: &str) -> Self {
        let restart = if matches!(kind, "Job" | "CronJob") { "Never" } else { "Always" };
        let template = json!({
            "metadata": { "labels": { "app": name }, "annotations": {} },
            "spec": {
                "serviceAccountName": name, "automountServiceAccountToken": false, "restartPolicy": restart,
                "terminationGracePeriodSeconds": 30, "containers": [],
            },
        });
        Self {
            kind,
            name: name.to_owned(),
            replicas: 1,
            template,
            services: Vec::new(),
            annotations: Map::new(),
        }
    }

    /// A Deployment, which never has fewer pods than it should while it is rolled.
    pub fn deployment(name: &str) -> Self {
        Self::new("Deployment", name)
    }

    /// A StatefulSet behind the headless Service of its name.
    pub fn stateful_set(name: &str) -> Self {
        Self::new("StatefulSet", name)
    }

    /// A Job that is tried once.
    pub fn job(name: &str) -> Self {
        Self::new("Job", name)
    }

    /// A `CronJob` that starts every minute.
    pub fn cron_job(name: &str) -> Self {
        Self::new("CronJob", name)
    }

    /// A pod of its own.
    pub fn pod(name: &str) -> Self {
        Self::new("Pod", name)
    }

    /// The name that it was given.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How many pods.
    pub fn replicas(mut self, replicas: u32) -> Self {
        self.replicas = replicas;
        self
    }

    /// Adds a container that serves as `weft-testapp serve <kind>` does, ready when its port is open.
    pub fn app(self, kind: &str, port: u16) -> Self {
        let words = ["serve", kind, "--port", &port.to_string(), "--name", "$(POD)"];
        self.container("app", &words, |container| {
            container["ports"] = json!([{ "containerPort": port, "name": "app" }]);
            container["readinessProbe"] = json!({ "tcpSocket": { "port": port }, "periodSeconds": 1 });
        })
    }

    /// Adds a container that only waits, for commands to be run in it.
    pub fn client(self) -> Self {
        self.app("echo", 7000)
    }

    /// Adds a container of the test applications' image, with the words for `weft-testapp`.
    pub fn container(mut self, name: &str, words: &[&str], edit: impl FnOnce(&mut Value)) -> Self {
        let mut container = container(name, words);
        if !matches!(self.kind, "Job" | "CronJob") {
            container["lifecycle"] = json!({ "preStop": { "sleep": { "seconds": PRE_STOP_SECONDS } } });
        }
        edit(&mut container);
        push(&mut self.template["spec"]["containers"], container);
        self
    }

    /// Adds an init container of the same image.
    pub fn init(mut self, name: &str, words: &[&str]) -> Self {
        push(&mut self.template["spec"]["initContainers"], container(name, words));
        self
    }

    /// Changes the pods' description: `metadata` and `spec`.
    pub fn edit(mut self, edit: impl FnOnce(&mut Value)) -> Self {
        edit(&mut self.template);
        self
    }

    /// Labels the pods.
    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.template["metadata"]["labels"][key] = value.into();
        self
    }

    /// Annotates the pods.
    pub fn annotate(mut self, key: &str, value: &str) -> Self {
        self.template["metadata"]["annotations"][key] = value.into();
        self
    }

    /// An environment variable of all containers so far.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        if let Some(containers) = self.template["spec"]["containers"].as_array_mut() {
            for container in containers {
                push(&mut container["env"], json!({ "name": name, "value": value }));
            }
        }
        self
    }

    /// Runs the pods as another service account, which is made.
    pub fn account(mut self, account: &str) -> Self {
        self.template["spec"]["serviceAccountName"] = account.into();
        self
    }

    /// Adds a Service of the workload's name (or, a second time, another port of it).
    pub fn service(self, port: u16, target: u16) -> Self {
        self.service_of(port, target, |_| {})
    }

    /// Adds a Service and changes it.
    pub fn service_of(mut self, port: u16, target: u16, edit: impl FnOnce(&mut Value)) -> Self {
        let port = json!({ "name": format!("p{port}"), "port": port, "targetPort": target });
        let mut service = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": { "name": self.name },
            // Of both families, where the cluster has them.
            "spec": {
                "selector": { "app": self.name }, "ports": [port], "ipFamilyPolicy": "PreferDualStack",
            },
        });
        edit(&mut service);
        self.services.push(service);
        self
    }

    /// Adds a headless Service of the workload's name.
    pub fn headless(self, port: u16) -> Self {
        self.service_of(port, port, |service| service["spec"]["clusterIP"] = "None".into())
    }
}

fn container(name: &str, words: &[&str]) -> Value {
    json!({
        "name": name, "image": APP_IMAGE, "imagePullPolicy": "Never", "args": words,
        "env": [
            { "name": "POD", "valueFrom": { "fieldRef": { "fieldPath": "metadata.name" } } },
            { "name": "TESTAPP_LINGER_MS", "value": "2000" },
        ],
        "securityContext": { "allowPrivilegeEscalation": false, "capabilities": { "drop": ["ALL"] } },
    })
}

fn push(list: &mut Value, item: Value) {
    match list {
        Value::Array(items) => items.push(item),
        other => *other = json!([item]),
    }
}

/// The objects, in the order in which they are needed.
pub fn objects_of(workload: &Workload, namespace: &str) -> Vec<Value> {
    let Workload { kind, name, replicas, template, services, annotations } = workload;
    let account = &template["spec"]["serviceAccountName"];
    let mut objects =
        vec![json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": account } })];
    objects.extend(services.iter().cloned());
    let metadata = json!({ "name": name, "labels": { "app": name }, "annotations": annotations });
    let selector = json!({ "matchLabels": { "app": name } });
    let job = json!({ "backoffLimit": 0, "template": template });
    objects.push(match *kind {
        "Pod" => {
            let mut own = template["metadata"].clone();
            own["name"] = name.as_str().into();
            json!({ "apiVersion": "v1", "kind": "Pod", "metadata": own, "spec": template["spec"] })
        }
        "Job" => json!({ "apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": job }),
        "CronJob" => json!({ "apiVersion": "batch/v1", "kind": "CronJob", "metadata": metadata, "spec": {
            "schedule": "* * * * *", "jobTemplate": { "spec": job },
        }}),
        "StatefulSet" => {
            json!({ "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": metadata, "spec": {
                "replicas": replicas, "selector": selector, "serviceName": name, "template": template,
            }})
        }
        _ => json!({ "apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": {
            "replicas": replicas, "selector": selector, "template": template,
            "strategy": { "rollingUpdate": { "maxUnavailable": 0, "maxSurge": 1 } },
        }}),
    });
    for object in &mut objects {
        object["metadata"]["namespace"] = namespace.into();
    }
    objects
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deployment_comes_after_what_it_needs() {
        let web = Workload::deployment("web").replicas(2).app("http", 8080).service(80, 8080).env("A", "b");
        let objects = objects_of(&web, "shop");
        let kinds: Vec<&str> = objects.iter().filter_map(|object| object["kind"].as_str()).collect();
        assert_eq!(kinds, ["ServiceAccount", "Service", "Deployment"]);
        assert!(objects.iter().all(|object| object["metadata"]["namespace"] == "shop"));
        let spec = &objects[2]["spec"];
        assert_eq!(spec["replicas"], 2);
        assert_eq!(spec["template"]["spec"]["containers"][0]["env"][2]["value"], "b");
    }

    #[test]
    fn a_job_is_wrapped_for_cron() {
        let object =
            objects_of(&Workload::cron_job("tick").container("app", &["get", "http://web"], |_| {}), "a");
        let template = &object[1]["spec"]["jobTemplate"]["spec"]["template"];
        assert_eq!(template["spec"]["restartPolicy"], "Never");
        assert!(
            template["spec"]["containers"][0]["lifecycle"].is_null(),
            "a job has nobody who waits for its end"
        );
    }
}
