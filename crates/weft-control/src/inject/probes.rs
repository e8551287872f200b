//! Probes of the application, brought to the proxy.
//!
//! The kubelet has no certificate: under strict its plaintext would be refused, and a TCP probe would find the proxy's
//! own listener open whatever became of the application. So the kubelet asks the proxy, which asks the application. What
//! was there goes to the proxy in `WEFT_PROBES`, and into the annotation `weft.dev/injected` for the way back. The paths
//! that the kubelet is given have the pod's secret in them (`secret`).

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use weft_config::{is_header_name, is_header_value};

use super::pod::{Container, Pod};
use super::problem::Problem;
use super::secret::{self, ProbeSecret};
use weft_intercept::OWN_PORTS;

/// What the proxy reads the checks from.
pub(crate) const VARIABLE: &str = "WEFT_PROBES";
/// Where the proxy answers for probes.
pub(crate) const HEALTH_PORT: u16 = 15021;
/// The kubelet's default.
const DEFAULT_TIMEOUT: i64 = 1;
/// A hook has no timeout of its own. Before the container's stop the pod's grace period ends it; after its start nothing
/// does, and this is long enough for what is waited for there.
const POST_START_TIMEOUT: i64 = 300;
const DEFAULT_GRACE: i64 = 30;
/// The longest that the proxy takes.
const LONGEST: i64 = 3600;
/// What the kubelet calls itself where it runs a hook. For probes it has another name, which the proxy knows.
const HOOK_USER_AGENT: &str = "kube-lifecycle/1.32";
/// The probes, by the last part of their path: and where they are in a container.
pub(crate) const KINDS: [(&str, &[&str]); 5] = [
    ("startup", &["startupProbe"]),
    ("readiness", &["readinessProbe"]),
    ("liveness", &["livenessProbe"]),
    ("postStart", &["lifecycle", "postStart"]),
    ("preStop", &["lifecycle", "preStop"]),
];

/// A probe that moves to the proxy.
#[derive(Debug)]
pub(crate) struct Rewrite {
    container: String,
    /// Where it is in its container.
    place: &'static [&'static str],
    /// `/probe/<container>/<kind>`: by what the annotation knows it.
    name: String,
    /// Where the proxy offers it: the same with the secret.
    path: String,
    /// `httpGet`, `tcpSocket` or `grpc`.
    handler: &'static str,
    /// The handler as it was written.
    original: Value,
    /// What the proxy has to do.
    entry: Value,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Port {
    Number(u16),
    Name(String),
}

#[derive(Deserialize)]
struct Handler {
    port: Port,
    path: Option<String>,
    scheme: Option<String>,
    host: Option<String>,
    service: Option<String>,
    #[serde(rename = "httpHeaders")]
    headers: Option<Vec<Header>>,
}

#[derive(Clone, Deserialize, Serialize)]
struct Header {
    name: String,
    #[serde(default)]
    value: String,
}

impl Handler {
    /// The number, where there is one. A name that the container does not have stays a matter of the kubelet, which
    /// tells it in its events.
    fn port(&self, container: &Container) -> Option<u16> {
        match &self.port {
            Port::Number(port) => Some(*port),
            // The kubelet takes a number in quotes as well.
            Port::Name(name) => container.port(name).or_else(|| name.parse().ok()),
        }
        .filter(|port| *port != 0)
    }

    /// What the proxy has to do; `None` where there is no such thing. What the API server or the kubelet refuses stays
    /// for them to refuse.
    fn entry(&self, handler: &str, kind: &str, port: u16) -> Option<(&'static str, Value)> {
        Some(match handler {
            "tcpSocket" => ("tcp", json!({"port": port})),
            "grpc" => ("grpc", json!({"port": port, "service": self.service.as_deref().unwrap_or("")})),
            _ => {
                let scheme = self.scheme.as_deref().filter(|scheme| !scheme.is_empty()).unwrap_or("HTTP");
                if !["HTTP", "HTTPS"].contains(&scheme) {
                    return None;
                }
                let mut headers = self.headers.clone().unwrap_or_default();
                if !headers
                    .iter()
                    .all(|header| is_header_name(&header.name) && is_header_value(&header.value))
                {
                    return None;
                }
                if is_hook(kind) && !headers.iter().any(|header| header.is("user-agent")) {
                    let (name, value) = ("User-Agent".to_owned(), HOOK_USER_AGENT.to_owned());
                    headers.push(Header { name, value });
                }
                // As it is written: the proxy knows what the kubelet makes of it.
                let mut asked =
                    json!({"port": port, "path": self.path.as_deref().unwrap_or(""), "scheme": scheme});
                if !headers.is_empty() {
                    asked["headers"] = json!(headers);
                }
                ("http", asked)
            }
        })
    }

    /// The host that the proxy cannot send: the kubelet would write it in ASCII.
    fn foreign_host(&self) -> Option<&str> {
        let hosts = self.headers.iter().flatten().filter(|header| header.is("host"));
        hosts.map(|header| header.value.as_str()).find(|host| !host.is_ascii())
    }
}

impl Header {
    fn is(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name)
    }
}

/// The probes of `pod` that move. What is on a port of the proxy's is a problem.
pub(crate) fn plan(pod: &Pod, secret: &ProbeSecret, problems: &mut Vec<Problem>) -> Vec<Rewrite> {
    let mut rewrites = Vec::new();
    for container in pod.all() {
        for (kind, place) in KINDS {
            let Some(probe) = probe_of(container, kind) else { continue };
            let Some((handler, original)) = handler_of(probe, kind) else { continue };
            let Ok(read) = Handler::deserialize(original) else { continue };
            // Another host's answer is not this pod's business, nor is it changed by this pod's proxy.
            if read.host.as_deref().is_some_and(|host| !host.is_empty()) {
                continue;
            }
            let Some(port) = read.port(container) else { continue };
            if OWN_PORTS.contains(&port) {
                let what = format!("container {}: {} on port {port}", container.name, place.join("."));
                problems.push(Problem::new(what, "Weft's proxy uses this port", super::refuse::OTHER_PORT));
                continue;
            }
            if let Some(host) = read.foreign_host() {
                let what =
                    format!("container {}: {}: header Host: \"{host}\"", container.name, place.join("."));
                problems.push(Problem::new(what, "this is not ASCII", "write it as the DNS has it: xn--..."));
                continue;
            }
            let path = secret.path(&container.name, kind);
            let Some((protocol, detail)) = read.entry(handler, kind, port) else { continue };
            let timeout = timeout(pod, probe, kind);
            rewrites.push(Rewrite {
                container: container.name.clone(),
                place,
                handler,
                original: original.clone(),
                entry: json!({"path": path, protocol: detail, "timeoutSeconds": timeout}),
                name: secret::name(&container.name, kind),
                path,
            });
        }
    }
    rewrites
}

fn probe_of<'a>(container: &'a Container, kind: &str) -> Option<&'a Map<String, Value>> {
    let lifecycle = container.lifecycle.as_ref();
    match kind {
        "startup" => container.startup_probe.as_ref(),
        "readiness" => container.readiness_probe.as_ref(),
        "liveness" => container.liveness_probe.as_ref(),
        "postStart" => lifecycle.and_then(|lifecycle| lifecycle.post_start.as_ref()),
        _ => lifecycle.and_then(|lifecycle| lifecycle.pre_stop.as_ref()),
    }
}

fn is_hook(kind: &str) -> bool {
    matches!(kind, "postStart" | "preStop")
}

/// The one handler that moves. Two in one probe are a mistake that the API server tells; a `tcpSocket` hook has never
/// worked.
fn handler_of<'a>(probe: &'a Map<String, Value>, kind: &str) -> Option<(&'static str, &'a Value)> {
    let moving: &[&'static str] =
        if is_hook(kind) { &["httpGet"] } else { &["httpGet", "tcpSocket", "grpc"] };
    let all = ["httpGet", "tcpSocket", "grpc", "exec", "sleep"];
    let given = |name: &&str| probe.get(*name).is_some_and(|handler| !handler.is_null());
    if all.iter().filter(|name| given(name)).count() != 1 {
        return None;
    }
    moving.iter().find(|name| given(name)).and_then(|name| Some((*name, probe.get(*name)?)))
}

fn timeout(pod: &Pod, probe: &Map<String, Value>, kind: &str) -> i64 {
    let seconds = match kind {
        "postStart" => POST_START_TIMEOUT,
        "preStop" => pod.spec.termination_grace_period_seconds.unwrap_or(DEFAULT_GRACE),
        _ => probe.get("timeoutSeconds").and_then(Value::as_i64).unwrap_or(DEFAULT_TIMEOUT),
    };
    seconds.clamp(1, LONGEST)
}

/// What the proxy is told: `WEFT_PROBES`.
pub(crate) fn entries(rewrites: &[Rewrite]) -> Value {
    rewrites.iter().map(|rewrite| rewrite.entry.clone()).collect()
}

/// The same as text: JSON that is YAML as well, which is how the proxy reads it. What YAML does not take as it is (section
/// 5.1 of YAML 1.2: a delete character, C1, a byte order mark) is escaped; such a thing stands in a text only.
pub(crate) fn text(entries: &Value) -> String {
    let escaped = |c: char| {
        matches!(c, '\u{7f}'..='\u{9f}' | '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}')
    };
    let mut text = String::new();
    for c in entries.to_string().chars() {
        if escaped(c) {
            text.push_str(&format!("\\u{:04x}", u32::from(c)));
        } else {
            text.push(c);
        }
    }
    text
}

/// What the annotation keeps: each handler as it was written, by its name. Annotations are copied into metrics and logs, so
/// the secret is not in it.
pub(crate) fn originals(rewrites: &[Rewrite]) -> Map<String, Value> {
    let kept = |rewrite: &Rewrite| (rewrite.name.clone(), json!({rewrite.handler: rewrite.original}));
    rewrites.iter().map(kept).collect()
}

/// Points the probes of `containers` at the proxy.
pub(crate) fn apply(containers: &mut [Value], rewrites: &[Rewrite]) {
    for rewrite in rewrites {
        let Some(container) =
            containers.iter_mut().find(|c| super::pod::name_of(c) == Some(&rewrite.container))
        else {
            continue;
        };
        let probe = rewrite.place.iter().try_fold(container, |at, key| at.get_mut(*key));
        let Some(probe) = probe.and_then(Value::as_object_mut) else { continue };
        // Headers go to the proxy in its configuration: it takes none from whoever asks.
        let moved = json!({"path": rewrite.path, "port": HEALTH_PORT});
        probe.remove(rewrite.handler);
        probe.insert("httpGet".to_owned(), moved);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret() -> ProbeSecret {
        ProbeSecret::derived(b"key", "")
    }

    fn pod(container: &Value) -> Value {
        json!({"spec": {"containers": [container]}})
    }

    /// The container with its probes moved, what the proxy is told, and the problems.
    fn moved(container: &Value) -> (Value, Value, Vec<Problem>) {
        let object = pod(container);
        let read = Pod::read(&object).unwrap();
        let mut problems = Vec::new();
        let rewrites = plan(&read, &secret(), &mut problems);
        let mut containers = vec![container.clone()];
        apply(&mut containers, &rewrites);
        (containers.remove(0), entries(&rewrites), problems)
    }

    #[test]
    fn each_kind_of_probe_moves_and_keeps_its_timings() {
        let app = json!({
            "name": "app",
            "ports": [{"name": "http", "containerPort": 8080}, {"name": "grpc", "containerPort": 9000}],
            "startupProbe": {"grpc": {"port": 9000}, "failureThreshold": 30},
            "readinessProbe": {"httpGet": {"path": "/healthz", "port": "http", "httpHeaders": [{"name": "Host", "value": "a"}]}, "periodSeconds": 3, "timeoutSeconds": 2},
            "livenessProbe": {"tcpSocket": {"port": "8080"}},
            "lifecycle": {"postStart": {"httpGet": {"port": 8080, "scheme": "HTTPS", "path": "hello you?x=1#y"}}, "preStop": {"httpGet": {"port": "http", "path": "/bye", "httpHeaders": [{"name": "user-agent", "value": "mine"}]}}},
        });
        let (after, told, problems) = moved(&app);
        assert!(problems.is_empty());
        let path = |kind: &str| secret().path("app", kind);
        let at = |kind: &str| json!({"path": path(kind), "port": 15021});
        assert_eq!(after["startupProbe"], json!({"httpGet": at("startup"), "failureThreshold": 30}));
        let readiness = &after["readinessProbe"];
        assert_eq!(readiness["httpGet"]["path"], path("readiness"));
        assert_eq!(readiness["httpGet"].get("httpHeaders"), None, "they are the proxy's to send");
        assert_eq!((&readiness["periodSeconds"], &readiness["timeoutSeconds"]), (&json!(3), &json!(2)));
        assert_eq!(after["livenessProbe"], json!({"httpGet": at("liveness")}));
        assert_eq!(
            after["lifecycle"],
            json!({"postStart": {"httpGet": at("postStart")}, "preStop": {"httpGet": at("preStop")}})
        );
        assert_eq!(
            told,
            json!([
                {"path": path("startup"), "grpc": {"port": 9000, "service": ""}, "timeoutSeconds": 1},
                {"path": path("readiness"), "http": {"port": 8080, "path": "/healthz", "scheme": "HTTP", "headers": [{"name": "Host", "value": "a"}]}, "timeoutSeconds": 2},
                {"path": path("liveness"), "tcp": {"port": 8080}, "timeoutSeconds": 1},
                {"path": path("postStart"), "http": {"port": 8080, "path": "hello you?x=1#y", "scheme": "HTTPS", "headers": [{"name": "User-Agent", "value": "kube-lifecycle/1.32"}]}, "timeoutSeconds": 300},
                {"path": path("preStop"), "http": {"port": 8080, "path": "/bye", "scheme": "HTTP", "headers": [{"name": "user-agent", "value": "mine"}]}, "timeoutSeconds": 30},
            ])
        );
    }

    #[test]
    fn what_does_not_go_through_the_proxy_stays() {
        for (probe, handler) in [
            ("livenessProbe", json!({"exec": {"command": ["true"]}})),
            ("livenessProbe", json!({"httpGet": {"port": 80, "host": "10.0.0.1"}})),
            ("readinessProbe", json!({"tcpSocket": {"port": 80, "host": "db.example"}})),
            ("readinessProbe", json!({"httpGet": {"port": "nowhere"}})),
            ("readinessProbe", json!({"httpGet": {"port": 80}, "exec": {}})),
            ("startupProbe", json!({"httpGet": {"port": true}})),
            ("startupProbe", json!({"httpGet": {"port": 80, "scheme": "ftp"}})),
            ("startupProbe", json!({"httpGet": {"port": 80, "httpHeaders": [{"name": "a b", "value": ""}]}})),
            (
                "startupProbe",
                json!({"httpGet": {"port": 80, "httpHeaders": [{"name": "a", "value": "b\r\nc: d"}]}}),
            ),
            ("startupProbe", json!({"httpGet": {"port": 80, "httpHeaders": "a"}})),
            ("startupProbe", json!({})),
            ("lifecycle", json!({"preStop": {"sleep": {"seconds": 5}}})),
            ("lifecycle", json!({"preStop": {"tcpSocket": {"port": 80}}})),
        ] {
            let app = json!({"name": "app", probe: handler});
            let (after, told, problems) = moved(&app);
            assert_eq!((after, told, problems), (app, json!([]), vec![]));
        }
    }

    /// The proxy refuses a configuration that it does not understand, and would not start.
    #[test]
    fn the_proxy_takes_what_it_is_told() {
        let paths = [
            "",
            "/",
            "a \"b\"?c=<d>#e",
            "/`a`?b={c}|^",
            "/\u{1}\u{7f}é\u{1F600}\n",
            "/\u{80}\u{85}\u{9f}\u{2028}\u{feff}\u{fffe}",
            "%zz",
            "//[x",
            "mailto:x",
            "\\",
            "- a: b",
            "*x",
            "~",
        ];
        for text in paths {
            let headers =
                json!([{"name": "X-Text", "value": text.replace(char::is_control, "")}, {"name": "a"}]);
            let app = json!({"name": "app", "livenessProbe": {"httpGet": {"port": 80, "path": text, "httpHeaders": headers}}});
            let (_, told, problems) = moved(&app);
            assert_eq!(problems, vec![]);
            let vars = [("WEFT_PROBES".to_owned(), super::text(&told))];
            let file = "identity: {ca: {address: \"ca:15012\"}}";
            let name = std::path::Path::new("weft.yaml");
            let config =
                weft_config::ProxyConfig::from_text(name, file, &weft_config::Env::from_vars(vars)).unwrap();
            let weft_config::ProbeCheck::Http { path, .. } = &config.probes[0].check else { panic!() };
            assert_eq!(path, text);
        }
    }

    #[test]
    fn a_host_that_is_not_ascii_is_a_problem() {
        let headers = json!([{"name": "host", "value": "b\u{fc}cher.example"}]);
        let (_, _, problems) = moved(
            &json!({"name": "app", "livenessProbe": {"httpGet": {"port": 80, "httpHeaders": headers}}}),
        );
        assert!(problems[0].to_string().contains("livenessProbe: header Host"), "{problems:?}");
    }

    #[test]
    fn a_probe_on_a_port_of_the_proxy_is_a_problem() {
        for port in OWN_PORTS {
            let (_, _, problems) =
                moved(&json!({"name": "app", "livenessProbe": {"tcpSocket": {"port": port}}}));
            assert!(problems[0].to_string().contains(&port.to_string()), "{problems:?}");
        }
    }
}
