//! An API server of a few lines: it keeps objects, judges requests by the rules of RBAC as they are rendered, and fails
//! where a test wants it to.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use http::{Method, Request, Response};
use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule, Role};
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use weft_core::{DrainTrigger, drain};
use weft_telemetry::Registry;

use super::membership::tests::settings;
use super::{Metrics, Parts, Settings, run};
use crate::KubeError;
use crate::manifests::{Source, Values, render};

const OWN: &str = "weft-system";
pub(super) const ROOT: &str = "-----BEGIN CERTIFICATE-----\n";

/// How requests for a path that ends so are answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// With an error.
    Fails,
    /// Never.
    Hangs,
    /// As a budget does that lets nobody go.
    Budget,
}

/// A request in the terms of RBAC.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Asked {
    pub(super) own: bool,
    pub(super) group: String,
    pub(super) resource: String,
    pub(super) name: String,
    pub(super) verb: String,
}

impl Asked {
    /// Of a request, and the namespace.
    pub(crate) fn of(request: &Request<Body>) -> (Self, Option<String>) {
        let query = request.uri().query().unwrap_or_default();
        let (group, namespace, resource, name) = parse(request.uri().path());
        let verb = match *request.method() {
            Method::GET if !name.is_empty() => "get",
            Method::GET if query.contains("watch=") => "watch",
            Method::GET => "list",
            Method::POST => "create",
            Method::PUT => "update",
            Method::PATCH => "patch",
            _ => "delete",
        };
        let own = namespace.as_deref() == Some(OWN);
        (Self { own, group, resource, name, verb: verb.to_owned() }, namespace)
    }
}

/// The rules of the cluster and those of Weft's own namespace.
pub(crate) struct Rules([Vec<PolicyRule>; 2]);

impl Rules {
    pub(crate) fn rendered() -> Self {
        Self::with(&[])
    }

    /// Those of an installation with these values.
    pub(super) fn with(sets: &[&str]) -> Self {
        let sets: Vec<Source> = sets.iter().map(|set| Source::Set((*set).to_owned())).collect();
        let values = Values::read(&sets).unwrap();
        let manifests = render(&values, OWN, false).unwrap();
        let of = |kind: &str| manifests.iter().find(|manifest| manifest.kind == kind).unwrap().yaml.clone();
        let cluster: ClusterRole = serde_saphyr::from_str(&of("ClusterRole")).unwrap();
        let own: Role = serde_saphyr::from_str(&of("Role")).unwrap();
        Self([cluster.rules.unwrap(), own.rules.unwrap()])
    }

    /// Every right, one by one. What is no resource (a path of the API server) is not the controller's.
    pub(super) fn rights(&self) -> BTreeSet<Asked> {
        let mut rights = BTreeSet::new();
        for (own, rules) in [false, true].into_iter().zip(&self.0) {
            for rule in rules {
                let list = |values: &Option<Vec<String>>| values.clone().unwrap_or_default();
                let names = match list(&rule.resource_names) {
                    names if names.is_empty() => vec![String::new()],
                    names => names,
                };
                for (group, resource) in list(&rule.api_groups)
                    .iter()
                    .flat_map(|group| list(&rule.resources).into_iter().map(move |r| (group.clone(), r)))
                {
                    for (name, verb) in
                        names.iter().flat_map(|name| rule.verbs.iter().map(move |verb| (name, verb)))
                    {
                        rights.insert(Asked {
                            own,
                            group: group.clone(),
                            resource: resource.clone(),
                            name: name.clone(),
                            verb: verb.clone(),
                        });
                    }
                }
            }
        }
        rights
    }

    /// The right that allows it: one with the name, or one for all names.
    pub(crate) fn allow(&self, asked: &Asked) -> Option<Asked> {
        let rights = self.rights();
        let wider = [asked.name.clone(), String::new()].into_iter().flat_map(|name| {
            [asked.own, false].map(|own| Asked { name: name.clone(), own, ..asked.clone() })
        });
        wider.into_iter().find(|right| rights.contains(right))
    }
}

pub(super) struct Server {
    pub(super) rules: Rules,
    pub(super) objects: BTreeMap<String, Value>,
    pub(super) used: BTreeSet<Asked>,
    pub(super) refused: BTreeSet<Asked>,
    /// Writes of objects whose path has this in it.
    pub(super) faults: Vec<(&'static str, Fault)>,
    /// Evictions that were asked for: the path of the pod, and the body.
    pub(super) evictions: Vec<(String, Value)>,
}

/// Group, namespace, resource with its subresource, and name.
fn parse(path: &str) -> (String, Option<String>, String, String) {
    let mut steps: Vec<&str> = path.trim_matches('/').split('/').collect();
    let group = if steps[0] == "api" { steps.drain(..2).nth(2) } else { steps.drain(..3).nth(1) };
    let group = group.unwrap_or_default().to_owned();
    let namespace = (steps[0] == "namespaces" && steps.len() > 2).then(|| steps[1].to_owned());
    if namespace.is_some() {
        steps.drain(..2);
    }
    let sub = steps.get(2).map(|sub| format!("/{sub}")).unwrap_or_default();
    (group, namespace, format!("{}{sub}", steps[0]), steps.get(1).copied().unwrap_or_default().to_owned())
}

fn reply(code: u16, body: &Value) -> Response<Body> {
    Response::builder().status(code).body(Body::from(serde_json::to_vec(body).unwrap())).unwrap()
}

fn failure(code: u16, reason: &str) -> Response<Body> {
    let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                        "message": reason, "reason": reason, "code": code});
    reply(code, &status)
}

impl Server {
    /// `None`: no answer. So is a watch, on which nothing ever happens.
    fn answer(&mut self, request: &Request<Body>, body: &Value) -> Option<Response<Body>> {
        let path = request.uri().path().to_owned();
        let query = request.uri().query().unwrap_or_default();
        let (asked, namespace) = Asked::of(request);
        let Asked { own, group, resource, name, verb } = asked;
        let verb = verb.as_str();
        let selected = query.split("metadata.name%3D").nth(1).and_then(|rest| rest.split('&').next());
        let name = if name.is_empty() { selected.unwrap_or_default().to_owned() } else { name };
        let applies =
            request.headers().get("content-type").is_some_and(|kind| kind == "application/apply-patch+yaml");
        let makes = applies && !self.objects.contains_key(&path);
        // An apply of what is not there asks for both.
        let verbs = [Some(verb), makes.then_some("create")];
        for verb in verbs.into_iter().flatten() {
            let asked = Asked {
                own,
                group: group.clone(),
                resource: resource.clone(),
                // Who posts does not say the name where rights are judged.
                name: if verb == "create" && !makes { String::new() } else { name.clone() },
                verb: verb.to_owned(),
            };
            match self.rules.allow(&asked) {
                Some(right) => self.used.insert(right),
                None => {
                    self.refused.insert(asked);
                    return Some(failure(403, "Forbidden"));
                }
            };
        }
        let writes = *request.method() != Method::GET;
        match self.faults.iter().find(|(of, _)| writes && path.contains(of)) {
            Some((_, Fault::Hangs)) => return None,
            Some((_, Fault::Fails)) => return Some(failure(500, "InternalError")),
            Some((_, Fault::Budget)) => {
                self.evictions.push((path, body.clone()));
                return Some(failure(429, "TooManyRequests"));
            }
            None => {}
        }
        if let Some(pod) = path.strip_suffix("/eviction") {
            self.evictions.push((pod.to_owned(), body.clone()));
            return Some(self.evict(pod, body));
        }
        match verb {
            "watch" => None,
            "list" => Some(self.list(&resource, namespace.as_deref(), selected)),
            "get" => Some(
                self.objects.get(&path).map_or_else(|| failure(404, "NotFound"), |found| reply(200, found)),
            ),
            "delete" => {
                self.objects.remove(&path);
                Some(reply(
                    200,
                    &json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}),
                ))
            }
            _ => Some(self.put(path, body, verb)),
        }
    }

    /// Takes the pod away.
    fn evict(&mut self, path: &str, body: &Value) -> Response<Body> {
        let Some(pod) = self.objects.get(path) else { return failure(404, "NotFound") };
        if pod["metadata"]["uid"] != body["deleteOptions"]["preconditions"]["uid"] {
            return failure(409, "Conflict");
        }
        self.objects.remove(path);
        reply(201, &json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}))
    }

    fn put(&mut self, mut path: String, body: &Value, verb: &str) -> Response<Body> {
        if verb == "create" {
            path = format!("{path}/{}", body["metadata"]["name"].as_str().unwrap());
        }
        let mut object = body.clone();
        object["metadata"]["uid"] = json!("u");
        object["metadata"]["resourceVersion"] = json!("2");
        if !path.ends_with("/status") && !path.contains("/events/") {
            self.objects.insert(path, object.clone());
        }
        reply(200, &object)
    }

    fn list(&self, resource: &str, namespace: Option<&str>, name: Option<&str>) -> Response<Body> {
        let matches = |path: &str, object: &Value| {
            let (_, of, kind, called) = parse(path);
            let inside = namespace.is_none() || of.as_deref() == namespace;
            kind == resource && inside && name.is_none_or(|name| name == called) && object["hidden"].is_null()
        };
        let items: Vec<&Value> = self
            .objects
            .iter()
            .filter(|(path, object)| matches(path, object))
            // A watch may be late: the list is not what the API server has.
            .map(|(_, object)| object.get("listed").unwrap_or(object))
            .collect();
        reply(
            200,
            &json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": items}),
        )
    }
}

/// Something to do for every right.
pub(super) fn objects() -> BTreeMap<String, Value> {
    let container = |name: &str| json!({"name": name, "image": "none"});
    let pod = |name: &str, injected: bool| {
        let init = if injected { vec![container("weft-init"), container("weft-proxy")] } else { vec![] };
        let app = if injected { "orders" } else { "bare" };
        json!({
            "metadata": {"name": name, "namespace": "shop", "uid": name, "labels": {"app": app}},
            "spec": {"initContainers": init, "containers": [container("app")]},
            "status": {"phase": "Running", "podIPs": [{"ip": "10.0.0.1"}],
                       "conditions": [{"type": "Ready", "status": "True"}]},
        })
    };
    let service = |name: &str, meta: Value, ip: &str| {
        let mut meta = meta;
        meta["name"] = json!(name);
        meta["namespace"] = json!("shop");
        meta["uid"] = json!(name);
        json!({"metadata": meta, "spec": {"clusterIP": ip, "selector": {"app": "orders"}, "ports": [{"port": 80}]}})
    };
    let twin = |of: &str| {
        json!({"labels": {"weft.dev/twin-of": of, "app.kubernetes.io/managed-by": "weft"},
               "ownerReferences": [{"apiVersion": "v1", "kind": "Service", "name": of, "uid": of}]})
    };
    let namespace =
        |name: &str, labels: Value| json!({"metadata": {"name": name, "uid": name, "labels": labels}});
    let enabled = json!({"weft.dev/inject": "enabled"});
    let ours = json!({"name": "weft-mesh", "namespace": "left", "uid": "m",
                      "labels": {"app.kubernetes.io/managed-by": "weft"}});
    [
        ("namespaces/shop", namespace("shop", enabled)),
        ("namespaces/left", namespace("left", json!({}))),
        ("namespaces/shop/pods/orders-1", pod("orders-1", true)),
        ("namespaces/shop/pods/bare-1", pod("bare-1", false)),
        ("namespaces/shop/services/orders", service("orders", json!({}), "10.96.0.1")),
        // Its twin has no named ports, and has to be put right.
        ("namespaces/shop/services/orders-endpoints", service("orders-endpoints", twin("orders"), "None")),
        // This one has none yet.
        ("namespaces/shop/services/web", service("web", json!({}), "10.96.0.2")),
        // The Service of this one is gone.
        ("namespaces/shop/services/old-endpoints", service("old-endpoints", twin("old"), "None")),
        ("namespaces/left/configmaps/weft-mesh", json!({ "metadata": ours })),
    ]
    .into_iter()
    .map(|(path, object)| (format!("/api/v1/{path}"), object))
    .collect()
}

pub(super) fn client(server: &Arc<Mutex<Server>>) -> Client {
    let server = Arc::clone(server);
    let service = tower::service_fn(move |request: Request<Body>| {
        let server = Arc::clone(&server);
        async move {
            let (head, body) = request.into_parts();
            let octets = body.collect_bytes().await.unwrap();
            let body = serde_json::from_slice(&octets).unwrap_or_default();
            let answer = server.lock().unwrap().answer(&Request::from_parts(head, Body::empty()), &body);
            match answer {
                Some(answer) => Ok::<_, Infallible>(answer),
                None => std::future::pending().await,
            }
        }
    });
    Client::new(service, "default")
}

/// A controller at work.
pub(super) struct Running {
    pub(super) server: Arc<Mutex<Server>>,
    pub(super) metrics: Arc<Metrics>,
    trigger: DrainTrigger,
    task: JoinHandle<Result<(), KubeError>>,
}

impl Running {
    pub(super) fn start(objects: BTreeMap<String, Value>, faults: Vec<(&'static str, Fault)>) -> Self {
        Self::with(objects, faults, Rules::rendered(), settings())
    }

    pub(super) fn with(
        objects: BTreeMap<String, Value>,
        faults: Vec<(&'static str, Fault)>,
        rules: Rules,
        settings: Settings,
    ) -> Self {
        let (used, refused, evictions) = (BTreeSet::new(), BTreeSet::new(), Vec::new());
        let server = Arc::new(Mutex::new(Server { rules, objects, used, refused, faults, evictions }));
        let (kept, settings) = watch::channel(Arc::new(settings));
        let (root, roots) = watch::channel(Arc::from(ROOT));
        let metrics = Arc::new(Metrics::default());
        let parts = Parts {
            client: client(&server),
            identity: "one".to_owned(),
            settings,
            roots,
            metrics: Arc::clone(&metrics),
        };
        let (trigger, drain) = drain();
        let task = tokio::spawn(async move {
            let _kept = (kept, root);
            run(parts, drain).await
        });
        Self { server, metrics, trigger, task }
    }

    /// Ends it in order.
    pub(super) async fn end(self) -> Arc<Mutex<Server>> {
        self.trigger.start(std::time::Duration::from_secs(1));
        self.task.await.unwrap().unwrap();
        self.server
    }

    pub(super) fn object(&self, path: &str) -> Value {
        self.server.lock().unwrap().objects.get(path).cloned().unwrap_or_default()
    }

    /// The value of a metric, by its whole name.
    pub(super) fn metric(&self, name: &str) -> u64 {
        let (registry, mut text) = (Registry::default(), String::new());
        self.metrics.register(&registry);
        registry.encode(&mut text);
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("{name} in {text}")).parse().unwrap()
    }
}
