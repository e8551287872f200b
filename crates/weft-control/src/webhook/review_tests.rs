use std::collections::BTreeMap;
use std::path::Path;

use serde_json::json;
use weft_config::{Env, ProxyConfig};

use super::*;
use crate::inject::{INJECT_LABEL, InjectSettings, uninject};

fn injector() -> Injector {
    Injector {
        settings: InjectSettings::new("weft:0.1.0"),
        native: true,
        own_namespace: "weft-system".to_owned(),
        ca: None,
    }
}

fn enabled() -> Option<BTreeMap<String, String>> {
    Some([(INJECT_LABEL.to_owned(), "enabled".to_owned())].into())
}

fn review(object: &Value) -> Value {
    json!({
        "apiVersion": VERSION, "kind": KIND,
        "request": {
            "uid": "a-b", "kind": {"group": "", "version": "v1", "kind": "Pod"}, "operation": "CREATE",
            "resource": {"group": "", "version": "v1", "resource": "pods"}, "namespace": "shop",
            "userInfo": {"username": "x"}, "dryRun": true, "object": object, "oldObject": null, "options": null,
        },
    })
}

fn asked(review: &Value, injector: &Injector) -> (Verdict, Value) {
    let answer = answer(review.to_string().as_bytes(), enabled(), injector).unwrap();
    let body: Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!((&body["apiVersion"], &body["kind"]), (&json!(VERSION), &json!(KIND)));
    let response = body["response"].clone();
    assert_eq!(response["uid"], review["request"]["uid"]);
    let admitted = !matches!(answer.verdict, Verdict::Refused | Verdict::Invalid);
    assert_eq!(response["allowed"], admitted);
    assert_eq!(response.get("patch").is_some(), answer.verdict == Verdict::Injected);
    (answer.verdict, response)
}

/// The object with the patch of `response`, as the API server would make it.
fn applied(object: &Value, response: &Value) -> Value {
    assert_eq!(response["patchType"], "JSONPatch");
    let patch: ByteString = serde_json::from_value(response["patch"].clone()).unwrap();
    let patch: json_patch::Patch = serde_json::from_slice(&patch.0).unwrap();
    let mut object = object.clone();
    json_patch::patch(&mut object, &patch).unwrap();
    object
}

#[test]
fn a_pod_is_answered_with_a_patch() {
    let pod = json!({"metadata": {"generateName": "a-"}, "spec": {"containers": [{"name": "app"}]}});
    let (verdict, response) = asked(&review(&pod), &injector());
    assert_eq!(verdict, Verdict::Injected);
    let injected = applied(&pod, &response);
    assert_eq!(injected["spec"]["initContainers"][1]["name"], "weft-proxy");
    let (verdict, _) = asked(&review(&injected), &injector());
    assert_eq!(verdict, Verdict::Skipped);
}

#[test]
fn a_refusal_and_a_broken_pod_have_code_and_message() {
    let pod = json!({"spec": {"containers": [{"name": "app", "securityContext": {"runAsUser": 2102}}]}});
    let (verdict, response) = asked(&review(&pod), &injector());
    assert_eq!((verdict, &response["status"]["code"]), (Verdict::Refused, &json!(422)));
    assert!(response["status"]["message"].as_str().unwrap().contains("runAsUser 2102"), "{response}");
    let (verdict, response) = asked(&review(&json!({"spec": {"containers": 1}})), &injector());
    assert_eq!((verdict, &response["status"]["code"]), (Verdict::Invalid, &json!(400)));
    assert!(response["status"]["message"].as_str().unwrap().contains("spec.containers"), "{response}");
}

#[test]
fn of_many_problems_the_first_are_told() {
    let ports: Vec<Value> = (0..30).map(|_| json!({"containerPort": 15006})).collect();
    let pod = json!({"spec": {"containers": [{"name": "app", "ports": ports}]}});
    let (verdict, response) = asked(&review(&pod), &injector());
    let message = response["status"]["message"].as_str().unwrap();
    assert_eq!((verdict, message.matches("port 15006").count()), (Verdict::Refused, TOLD));
    assert!(message.ends_with(" | and 10 more"), "{message}");
}

#[test]
fn what_is_not_a_new_pod_is_let_by() {
    let pod = json!({"spec": {"containers": [{"name": "app"}]}});
    for (field, value) in [
        ("operation", json!("UPDATE")),
        ("subResource", json!("ephemeralcontainers")),
        ("kind", json!({"group": "apps", "version": "v1", "kind": "Deployment"})),
    ] {
        let mut review = review(&pod);
        review["request"][field] = value;
        assert_eq!(asked(&review, &injector()).0, Verdict::Skipped, "{field}");
    }
}

#[test]
fn what_is_no_review_is_an_error() {
    let pod = json!({"spec": {"containers": []}});
    let mut old = review(&pod);
    old["apiVersion"] = json!("admission.k8s.io/v1beta1");
    let deep = format!("{{\"request\":{{\"uid\":\"u\",\"object\":{}", "[".repeat(100_000));
    let mut empty = review(&pod);
    empty["request"] = Value::Null;
    for (body, said) in [
        (String::new(), "not an AdmissionReview"),
        ("{".to_owned(), "not an AdmissionReview"),
        ("[]".to_owned(), "not an AdmissionReview"),
        (deep, "recursion limit"),
        (old.to_string(), "v1beta1"),
        (empty.to_string(), "no request"),
    ] {
        let error = answer(body.as_bytes(), None, &injector()).unwrap_err();
        assert!(error.contains(said), "{error}");
    }
}

#[test]
fn the_namespace_is_the_requests_where_the_object_has_none() {
    let mut asked = review(&json!({"metadata": {"namespace": "other"}, "spec": {}}));
    let namespace = |review: &Value| Question::read(review.to_string().as_bytes()).unwrap().namespace;
    assert_eq!(namespace(&asked).as_deref(), Some("shop"));
    asked["request"]["namespace"] = json!("");
    assert_eq!(namespace(&asked).as_deref(), Some("other"));
}

/// Makes pods: mostly ones that an API server would hand on, with everything that the injector looks at, now and then
/// with a piece put out of shape.
struct Maker(fastrand::Rng);

impl Maker {
    fn one<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.0.usize(..of.len())]
    }

    fn sometimes(&mut self, percent: u32) -> bool {
        self.0.u32(..100) < percent
    }

    fn junk(&mut self) -> Value {
        match self.0.u8(..8) {
            0 => Value::Null,
            1 => json!(self.0.bool()),
            2 => json!(self.0.i64(..)),
            3 => json!(self.0.f64()),
            4 => json!([]),
            5 => json!({}),
            6 => json!([{"name": "weft-proxy"}, 7, null]),
            _ => json!((0..self.0.usize(..12)).map(|_| self.0.char(..)).collect::<String>()),
        }
    }

    fn port(&mut self) -> Value {
        match self.0.u8(..12) {
            0 => json!("http"),
            1 => json!("nowhere"),
            2 => json!("8081"),
            3 => json!(15000 + self.0.u32(..60)),
            _ => json!(self.0.u32(1..15000)),
        }
    }

    fn handler(&mut self) -> Value {
        let port = self.port();
        match self.0.u8(..7) {
            0 => json!({"exec": {"command": ["true"]}}),
            1 => json!({"tcpSocket": {"port": port}}),
            2 => json!({"grpc": {"port": port, "service": self.one(&["", "a.b", "$(X)"])}}),
            3 => json!({"httpGet": {"port": port, "host": "10.0.0.1"}}),
            4 => json!({"httpGet": {"port": port}}),
            5 => json!({"sleep": {"seconds": 1}}),
            _ => {
                let path = self.one(&["/", "", "healthz", "/a b", "/ü?x=$(Y)#z", "/%zz", "//", "/\"'\\"]);
                let scheme = self.one(&["HTTP", "HTTPS", ""]);
                json!({"httpGet": {"port": port, "path": path, "scheme": scheme, "httpHeaders": [{"name": "a", "value": "b"}]}})
            }
        }
    }

    fn container(&mut self, name: &str) -> Value {
        let mut container = json!({"name": name, "image": "x"});
        for probe in ["startupProbe", "readinessProbe", "livenessProbe"] {
            if self.sometimes(40) {
                container[probe] = self.handler();
                container[probe]["timeoutSeconds"] = json!(self.0.i32(-1..10_000));
            }
        }
        if self.sometimes(30) {
            container["lifecycle"] = json!({"postStart": self.handler(), "preStop": self.handler()});
        }
        if self.sometimes(50) {
            let port = if self.sometimes(5) { 15006 } else { self.0.u32(1..15000) };
            container["ports"] = json!([{"name": "http", "containerPort": port}, {"containerPort": 9}]);
        }
        if self.sometimes(30) {
            container["securityContext"] = json!({"runAsUser": if self.sometimes(10) { 2102 } else { 1000 }});
        }
        container
    }

    fn annotations(&mut self) -> Value {
        let mut annotations = json!({"example.com/a": "b"});
        let values = [
            ("mode", "strict permissive disable"),
            ("skip-inbound-ports", "22 22,23 1-65535"),
            ("skip-outbound-ports", "25 "),
            ("skip-outbound-cidrs", "10.0.0.0/8 fd00::/8,10.0.0.1"),
            ("opaque-ports", "3306 6000-6100"),
            ("connect-ports", "3128 8000-8010"),
            ("proxy-protocol-ports", "5432=v1 8080,81=v2"),
            ("proxy-cpu-request", "5m 0.01"),
            ("proxy-memory-limit", "1Gi 512M 1e9"),
            ("log", "debug info,h2=off"),
            ("config", "timeouts.connect=2s mesh.namespaces=a,b"),
            ("rewrite-probes", "enabled disabled"),
        ];
        for (name, given) in values {
            if self.sometimes(15) {
                let given: Vec<&str> = given.split(' ').collect();
                annotations[format!("weft.dev/{name}")] = json!(self.one(&given));
            }
        }
        if self.sometimes(4) {
            let name = self.one(&[
                "mode",
                "config",
                "log",
                "opaque-ports",
                "proxy-cpu-limit",
                "skip-outbound-cidrs",
                "what",
            ]);
            let value: String = (0..self.0.usize(..20)).map(|_| self.0.char(..)).collect();
            annotations[format!("weft.dev/{name}")] = json!(value);
        }
        annotations
    }

    fn pod(&mut self) -> Value {
        let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {}, "spec": {}});
        if self.sometimes(60) {
            pod["metadata"]["annotations"] = self.annotations();
        }
        if self.sometimes(10) {
            pod["metadata"]["labels"] =
                json!({INJECT_LABEL: self.one(&["enabled", "enabled", "disabled", "yes"])});
        }
        let names = ["app", "b", "weft-init", "weft-proxy"];
        let count = if self.sometimes(3) { 4 } else { self.0.usize(..3) };
        let containers: Vec<Value> = names.iter().take(count).map(|name| self.container(name)).collect();
        pod["spec"]["containers"] = json!(containers);
        if self.sometimes(30) {
            pod["spec"]["initContainers"] = json!([self.container("setup")]);
        }
        if self.sometimes(40) {
            let name = if self.sometimes(5) { "weft-token" } else { "data" };
            pod["spec"]["volumes"] = json!([{"name": name, "emptyDir": {}}]);
        }
        for (key, value, percent) in [
            ("hostNetwork", json!(true), 3),
            ("os", json!({"name": "windows"}), 2),
            ("securityContext", json!({"runAsNonRoot": true, "runAsUser": 1000}), 20),
            ("terminationGracePeriodSeconds", json!(self.0.i64(0..100_000)), 20),
            ("shareProcessNamespace", json!(true), 10),
        ] {
            if self.sometimes(percent) {
                pod["spec"][key] = value;
            }
        }
        if self.sometimes(15) {
            self.break_somewhere(&mut pod);
        }
        pod
    }

    /// Puts junk in the place of some part.
    fn break_somewhere(&mut self, at: &mut Value) {
        let junk = self.junk();
        let deeper = !self.sometimes(20);
        let inside = match at {
            Value::Object(map) if !map.is_empty() => {
                let chosen = self.0.usize(..map.len());
                map.iter_mut().nth(chosen).map(|(_, value)| value)
            }
            Value::Array(list) if !list.is_empty() => {
                let chosen = self.0.usize(..list.len());
                list.get_mut(chosen)
            }
            _ => None,
        };
        match inside {
            Some(inside) if deeper => self.break_somewhere(inside),
            _ => *at = junk,
        }
    }
}

/// Empty lists and mappings that were written out say the same as nothing.
fn without_empty(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let kept = map.iter().map(|(key, value)| (key.clone(), without_empty(value)));
            Value::Object(kept.filter(|(_, value)| !is_empty(value)).collect())
        }
        Value::Array(list) => list.iter().map(without_empty).collect(),
        other => other.clone(),
    }
}

fn is_empty(value: &Value) -> bool {
    value.is_null()
        || value.as_object().is_some_and(|m| m.is_empty())
        || value.as_array().is_some_and(Vec::is_empty)
}

/// What the kubelet makes of a value in a manifest, where it has no variable to put in.
fn expanded(value: &str) -> String {
    value.replace("$$", "$")
}

fn proxy_accepts(injected: &Value) -> Result<(), String> {
    let all = ["initContainers", "containers"];
    let mut containers = all.iter().filter_map(|list| injected["spec"][list].as_array()).flatten();
    let proxy = containers.find(|container| container["name"] == "weft-proxy").ok_or("no proxy")?;
    let set = proxy["env"].as_array().into_iter().flatten();
    let set =
        set.filter_map(|env| Some((env["name"].as_str()?.to_owned(), expanded(env["value"].as_str()?))));
    let mut env = Env::from_vars(set);
    for arg in proxy["args"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        if let Some((field, value)) = arg.strip_prefix("--set=").and_then(|set| set.split_once('=')) {
            env = env.with_flag(field, field, expanded(value));
        }
    }
    let text = "identity: {ca: {address: \"weft-ca:15012\"}}";
    match ProxyConfig::from_text(Path::new("weft.yaml"), text, &env) {
        Ok(config) if config.warnings.is_empty() => Ok(()),
        Ok(config) => Err(config.warnings.join("\n")),
        Err(errors) => Err(errors.to_string()),
    }
}

#[test]
fn ten_thousand_pods() {
    let seed = std::env::var("WEFT_TEST_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or_else(|| fastrand::u64(..));
    let mut counts = BTreeMap::new();
    for i in 0..10_000_u64 {
        let mut maker = Maker(fastrand::Rng::with_seed(seed.wrapping_add(i)));
        let injector = Injector { native: maker.sometimes(80), ..injector() };
        let pod = maker.pod();
        let told = |what: &str| format!("{what}; WEFT_TEST_SEED={} {pod}", seed.wrapping_add(i));
        let (verdict, response) = asked(&review(&pod), &injector);
        *counts.entry(format!("{verdict:?}")).or_insert(0) += 1;
        if verdict != Verdict::Injected {
            continue;
        }
        let injected = applied(&pod, &response);
        let (again, _) = asked(&review(&injected), &injector);
        assert_eq!(again, Verdict::Skipped, "{}", told("the second pass changes something"));
        // A whole configuration is read for each: one in four is enough to meet every kind.
        if i % 4 == 0
            && let Err(reason) = proxy_accepts(&injected)
        {
            panic!("{}", told(&format!("the proxy would not start: {reason}")));
        }
        let back = uninject(&injected).unwrap_or_else(|reason| panic!("{}", told(&reason)));
        let back = back.map(|pod| without_empty(&pod));
        assert_eq!(back, Some(without_empty(&pod)), "{}", told("not as it was"));
    }
    // A generator that makes only one kind of pod would prove nothing.
    for (verdict, least) in [("Injected", 4_000), ("Skipped", 500), ("Refused", 500), ("Invalid", 300)] {
        assert!(counts.get(verdict).is_some_and(|count| *count >= least), "{counts:?}");
    }
}
