//! Against an API server of a few lines: what is asked, what is deleted, in which order.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use hyper::body::Bytes;
use kube::client::Body;
use serde_json::{Value, json};

use super::*;

/// Objects by path, and what was deleted.
#[derive(Default)]
struct Server {
    objects: BTreeMap<String, Value>,
    deleted: Vec<String>,
}

type Shared = Arc<Mutex<Server>>;

fn reply(code: u16, body: &Value) -> hyper::Response<Body> {
    hyper::Response::builder().status(code).body(Body::from(Bytes::from(body.to_string()))).unwrap()
}

impl Server {
    fn answer(&mut self, method: &hyper::Method, uri: &hyper::Uri) -> hyper::Response<Body> {
        let path = uri.path().to_owned();
        if *method == hyper::Method::DELETE {
            self.deleted.push(path.clone());
            // What the API server would do: the pods of a Deployment go with it.
            if path.ends_with("/deployments/weft-control") {
                self.objects.retain(|path, _| !path.contains("/pods/"));
            }
            self.objects.remove(&path);
            return reply(200, &json!({"kind": "Status", "apiVersion": "v1", "status": "Success"}));
        }
        if let Some(object) = self.objects.get(&path) {
            return reply(200, object);
        }
        let kind = path.rsplit('/').next().unwrap_or_default().to_owned();
        let collection = ["pods", "services", "configmaps"].contains(&kind.as_str());
        if !collection {
            let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404, "message": "no"});
            return reply(404, &status);
        }
        let inside =
            path.split("/namespaces/").nth(1).and_then(|rest| rest.split('/').next()).map(str::to_owned);
        let query = uri.query().unwrap_or_default().to_owned();
        let items: Vec<&Value> = self
            .objects
            .iter()
            .filter(|(path, object)| {
                path.contains(&format!("/{kind}/"))
                    && inside.as_ref().is_none_or(|n| object["metadata"]["namespace"] == json!(n))
                    && (!query.contains("metadata.name%3Dweft-mesh")
                        || object["metadata"]["name"] == "weft-mesh")
                    && (!query.contains("twin-of")
                        || object["metadata"]["labels"].get("weft.dev/twin-of").is_some())
                    && (!query.contains("component%3Dcontrol")
                        || object["metadata"]["name"] == "weft-control-1")
            })
            .map(|(_, object)| object)
            .collect();
        reply(200, &json!({"kind": "List", "apiVersion": "v1", "metadata": {}, "items": items}))
    }
}

fn client(server: &Shared) -> Client {
    let server = Arc::clone(server);
    let service = tower::service_fn(move |request: hyper::Request<Body>| {
        let answer = server.lock().unwrap().answer(request.method(), request.uri());
        async move { Ok::<_, Infallible>(answer) }
    });
    Client::new(service, "default")
}

fn put(server: &Shared, path: &str, by: &str, extra: &Value) {
    let parts: Vec<&str> = path.split('/').collect();
    let namespace =
        path.split("/namespaces/").nth(1).and_then(|rest| rest.split_once('/')).map(|(name, _)| name);
    let mut object = json!({
        "metadata": {
            "name": parts.last().unwrap(), "namespace": namespace, "uid": path,
            "labels": {"app.kubernetes.io/part-of": "weft", "app.kubernetes.io/managed-by": by},
        }
    });
    if let (Some(labels), Some(more)) =
        (object["metadata"]["labels"].as_object_mut(), extra["labels"].as_object())
    {
        labels.extend(more.clone());
    }
    if let Some(spec) = extra.get("spec") {
        object["spec"] = spec.clone();
    }
    server.lock().unwrap().objects.insert(path.to_owned(), object);
}

const NS: &str = "/api/v1/namespaces/weft-system";

fn installed(by: &str) -> Shared {
    let server = Shared::default();
    for path in [
        "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/weft-injector",
        "/apis/apps/v1/namespaces/weft-system/deployments/weft-control",
        &format!("{NS}/serviceaccounts/weft-control"),
        &format!("{NS}/services/weft-ca"),
        "/apis/rbac.authorization.k8s.io/v1/clusterroles/weft-control",
    ] {
        put(&server, path, by, &json!({}));
    }
    for path in [&format!("{NS}/secrets/weft-ca"), "/api/v1/namespaces/shop/configmaps/weft-mesh"] {
        put(&server, path, "weft", &json!({}));
    }
    put(&server, "/api/v1/namespaces/shop/configmaps/other", "weft", &json!({}));
    let twin = json!({"labels": {"weft.dev/twin-of": "web"}});
    put(&server, "/api/v1/namespaces/shop/services/web-endpoints", "weft", &twin);
    put(&server, "/api/v1/namespaces/shop/services/web", "somebody", &json!({}));
    let control = json!({"spec": {"containers": [{"name": "weft-control"}]}});
    put(&server, &format!("{NS}/pods/weft-control-1"), "weft", &control);
    server
}

fn all() -> Uninstall {
    Uninstall { namespace: "weft-system".to_owned(), keep_ca: false, runtime_objects: false }
}

fn names(survey: &Survey) -> Vec<String> {
    survey.removals.iter().map(ToString::to_string).collect()
}

#[tokio::test(start_paused = true)]
async fn the_webhook_goes_first_and_what_a_controller_would_make_anew_after_it() {
    let server = installed("weft");
    let client = client(&server);
    let survey = all().survey(&client).await.unwrap();
    let found = names(&survey);
    assert_eq!(
        found,
        [
            "MutatingWebhookConfiguration weft-injector",
            "Deployment weft-system/weft-control",
            "Service shop/web-endpoints",
            "ConfigMap shop/weft-mesh",
            "Secret weft-system/weft-ca",
            "Service weft-system/weft-ca",
            "ClusterRole weft-control",
            "ServiceAccount weft-system/weft-control",
        ]
    );
    let mut told = Vec::new();
    let end = all().remove(&client, &survey, |removal| told.push(removal.to_string())).await.unwrap();
    assert_eq!((told, end), (found, NamespaceEnd::NotOurs));
    let left: Vec<String> = server.lock().unwrap().objects.keys().cloned().collect();
    assert_eq!(left, ["/api/v1/namespaces/shop/configmaps/other", "/api/v1/namespaces/shop/services/web"]);
}

#[tokio::test(start_paused = true)]
async fn only_what_was_made_at_run_time_is_removed_for_helm_and_the_key_may_stay() {
    let server = installed("Helm");
    let client = client(&server);
    let uninstall = Uninstall { keep_ca: true, runtime_objects: true, ..all() };
    let survey = uninstall.survey(&client).await.unwrap();
    assert_eq!(names(&survey), ["Service shop/web-endpoints", "ConfigMap shop/weft-mesh"]);
    // A controller that still runs is waited for, and not for ever.
    let refused = uninstall.remove(&client, &survey, |_| {}).await.unwrap_err();
    assert!(matches!(refused, KubeError::NotGone { .. }), "{refused}");
    assert!(server.lock().unwrap().deleted.is_empty());
    server.lock().unwrap().objects.remove(&format!("{NS}/pods/weft-control-1"));
    uninstall.remove(&client, &survey, |_| {}).await.unwrap();
    assert_eq!(server.lock().unwrap().deleted.len(), 2);
}

#[tokio::test]
async fn a_release_of_helm_is_left_to_helm() {
    let refused = all().survey(&client(&installed("Helm"))).await.unwrap_err();
    assert!(refused.to_string().contains("helm uninstall weft --namespace weft-system"), "{refused}");
}

#[tokio::test]
async fn pods_with_a_sidecar_are_named() {
    let server = installed("weft");
    let container = |name: &str| json!({"name": name});
    let native = json!({"spec": {"containers": [container("app")], "initContainers": [container("weft-init"), container("weft-proxy")]}});
    let classic = json!({"spec": {"containers": [container("weft-proxy"), container("app")], "initContainers": [container("weft-init")]}});
    let neither = json!({"spec": {"containers": [container("weft-proxy")]}});
    for (name, spec) in [("b-native", native), ("a-classic", classic), ("c-neither", neither)] {
        put(&server, &format!("/api/v1/namespaces/shop/pods/{name}"), "x", &spec);
    }
    let survey = all().survey(&client(&server)).await.unwrap();
    assert_eq!(survey.injected, ["shop/a-classic", "shop/b-native"]);
}
