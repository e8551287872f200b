//! The two containers and the volumes that are added.

use std::net::SocketAddr;

use serde_json::{Map, Value, json};

use super::annotations::Asked;
use super::pod::{INIT, PROXY};
use super::probes::{HEALTH_PORT, VARIABLE as PROBES};
use super::settings::InjectSettings;
use crate::names::{AUDIENCE, MESH_CONFIG as MESH};
use weft_intercept::PROXY_UID;

const TOKEN: &str = "weft-token";
const NO_API: &str = "weft-no-api";
/// Volumes that the injector adds.
pub(crate) const VOLUMES: [&str; 3] = [MESH, TOKEN, NO_API];
/// How long a token is good: the kubelet renews it at four fifths.
const TOKEN_SECONDS: u32 = 3600;
/// Where the API server mounts the pod's API token into every container that has nothing there.
const API_TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// `weft-init`.
pub(crate) fn init(settings: &InjectSettings, asked: &Asked) -> Value {
    let mut args = vec!["init".to_owned(), "--verify".to_owned(), format!("--proxy-uid={PROXY_UID}")];
    let skipped = [
        ("--exclude-inbound-ports", &asked.skip_inbound),
        ("--exclude-outbound-ports", &asked.skip_outbound),
        ("--exclude-outbound-cidrs", &asked.skip_cidrs),
    ];
    args.extend(
        skipped.into_iter().filter(|(_, list)| !list.is_empty()).map(|(flag, list)| format!("{flag}={list}")),
    );
    json!({
        "name": INIT,
        "image": settings.image,
        "imagePullPolicy": settings.image_pull_policy,
        "args": args,
        "resources": asked.init_resources,
        "securityContext": {
            "runAsUser": 0,
            "runAsGroup": 0,
            "runAsNonRoot": false,
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN", "NET_RAW"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [no_api_token()],
    })
}

/// What the proxy is told beside what annotations ask for.
pub(crate) struct Told {
    /// The checks that it answers for.
    pub(crate) probes: Value,
    /// Where the CA is, where its name does not tell.
    pub(crate) ca: Option<SocketAddr>,
}

/// `weft-proxy`.
pub(crate) fn proxy(settings: &InjectSettings, asked: &Asked, told: &Told, native: bool) -> Value {
    let mut args = vec!["proxy".to_owned(), "--config=/etc/weft/weft.yaml".to_owned()];
    args.extend(asked.config.iter().map(|(field, value)| literal(&format!("--set={field}={value}"))));
    let ready = json!({"path": "/ready", "port": HEALTH_PORT});
    let mut container = json!({
        "name": PROXY,
        "image": settings.image,
        "imagePullPolicy": settings.image_pull_policy,
        "args": args,
        "env": env(asked, told),
        "ports": [
            {"name": "weft-metrics", "containerPort": 15020, "protocol": "TCP"},
            {"name": "weft-health", "containerPort": HEALTH_PORT, "protocol": "TCP"},
        ],
        "resources": asked.resources,
        // The next container waits for this one: every second counts. Ten minutes without an identity, and the kubelet
        // starts it anew.
        "startupProbe": {"httpGet": ready, "periodSeconds": 1, "timeoutSeconds": 2, "failureThreshold": 600},
        "readinessProbe": {"httpGet": ready, "periodSeconds": 5, "timeoutSeconds": 2, "failureThreshold": 3},
        "securityContext": {
            "runAsUser": PROXY_UID,
            "runAsGroup": PROXY_UID,
            "runAsNonRoot": true,
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [
            {"name": MESH, "mountPath": "/etc/weft", "readOnly": true},
            {"name": TOKEN, "mountPath": "/var/run/secrets/weft", "readOnly": true},
            no_api_token(),
        ],
    });
    if let Some(container) = container.as_object_mut() {
        if native {
            container.insert("restartPolicy".to_owned(), json!("Always"));
        } else {
            // The kubelet starts the next container when this has returned.
            let wait = json!({"postStart": {"exec": {"command": ["weft", "wait-ready"]}}});
            container.insert("lifecycle".to_owned(), wait);
        }
    }
    container
}

/// The API server would give its token to these containers as well, because they are there before it looks again
/// (admission plugins run once more after a webhook's change). They have no use for it.
fn no_api_token() -> Value {
    json!({"name": NO_API, "mountPath": API_TOKEN, "readOnly": true})
}

fn env(asked: &Asked, Told { probes, ca }: &Told) -> Vec<Value> {
    let field =
        |name: &str, path: &str| json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}});
    let mut env = vec![
        field("WEFT_WORKLOAD_NAME", "metadata.name"),
        field("WEFT_WORKLOAD_NAMESPACE", "metadata.namespace"),
        field("WEFT_WORKLOAD_SERVICE_ACCOUNT", "spec.serviceAccountName"),
        field("WEFT_WORKLOAD_ADDRESSES", "status.podIPs"),
    ];
    let opaque = (!asked.opaque.is_empty()).then(|| asked.opaque.clone());
    let connect = (!asked.connect.is_empty()).then(|| asked.connect.clone());
    let announced = (!asked.proxy_protocol.is_empty()).then(|| asked.proxy_protocol.clone());
    let probes = probes.as_array().is_some_and(|list| !list.is_empty()).then(|| super::probes::text(probes));
    let set = [
        ("WEFT_IDENTITY_CA_ADDRESS", ca.map(|address| address.to_string())),
        ("WEFT_INBOUND_MODE", asked.mode.clone()),
        ("WEFT_INBOUND_OPAQUE_PORTS", opaque.clone()),
        ("WEFT_OUTBOUND_OPAQUE_PORTS", opaque),
        ("WEFT_INBOUND_CONNECT_PORTS", connect),
        ("WEFT_INBOUND_PROXY_PROTOCOL", announced),
        ("WEFT_LOG", asked.log.clone()),
        (PROBES, probes),
    ];
    let set = set.into_iter().filter_map(|(name, value)| Some((name, value?)));
    env.extend(set.map(|(name, value)| json!({"name": name, "value": literal(&value)})));
    env
}

/// Kubernetes puts variables in for `$(NAME)` in arguments and values, and reads `$$` as `$`.
fn literal(text: &str) -> String {
    text.replace('$', "$$")
}

/// The volumes.
pub(crate) fn volumes() -> Vec<Value> {
    let token = json!({"serviceAccountToken": {"audience": AUDIENCE, "expirationSeconds": TOKEN_SECONDS, "path": "token"}});
    // Not an emptyDir: kubectl drain and the cluster autoscaler stop at pods that have one.
    let namespace = json!({"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}});
    vec![
        json!({"name": MESH, "configMap": {"name": MESH}}),
        json!({"name": TOKEN, "projected": {"sources": [token]}}),
        json!({"name": NO_API, "downwardAPI": {"items": [namespace]}}),
    ]
}

/// The value of the annotation `weft.dev/injected`.
pub(crate) fn injected(settings: &InjectSettings, originals: Map<String, Value>) -> String {
    let mut told = Map::new();
    told.insert("version".to_owned(), json!(env!("CARGO_PKG_VERSION")));
    told.insert("image".to_owned(), json!(settings.image));
    if !originals.is_empty() {
        told.insert("probes".to_owned(), Value::Object(originals));
    }
    Value::Object(told).to_string()
}
