//! Objects of a small cluster, tokens, and proxies that want an identity.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use k8s_openapi::api::core::v1::{Namespace, Pod, ServiceAccount};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use kube::Client;
use kube::api::{Api, PostParams};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use weft_core::{DrainTrigger, drain};
use weft_identity::{CaSource, Identity, identity};

use crate::server::{ApiServer, ISSUER};

pub(crate) const SOON: Duration = Duration::from_secs(30);
pub(crate) const SYSTEM: &str = "weft-system";
pub(crate) const CA_ID: &str = "spiffe://weft.local/ns/weft-system/sa/weft-ca";

pub(crate) fn object<T: DeserializeOwned>(value: serde_json::Value) -> T {
    serde_json::from_value(value).unwrap()
}

pub(crate) async fn create<T>(api: &Api<T>, value: serde_json::Value) -> T
where
    T: DeserializeOwned + Serialize + Clone + std::fmt::Debug,
{
    api.create(&PostParams::default(), &object(value)).await.unwrap()
}

/// Namespaces, accounts, and for `weft-control` exactly the permissions that docs/reference/control.md lists.
pub(crate) async fn furnish(client: &Client) {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    for name in [SYSTEM, "shop"] {
        create(&namespaces, json!({"metadata": {"name": name}})).await;
    }
    for (namespace, name) in [(SYSTEM, "weft-control"), ("shop", "web"), ("shop", "orders")] {
        let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), namespace);
        create(&accounts, json!({"metadata": {"name": name}})).await;
    }
    let subjects = json!([{"kind": "ServiceAccount", "name": "weft-control", "namespace": SYSTEM}]);
    create(
        &Api::<ClusterRole>::all(client.clone()),
        json!({"metadata": {"name": "weft-control"}, "rules": [
            {"apiGroups": ["authentication.k8s.io"], "resources": ["tokenreviews"], "verbs": ["create"]},
            {"nonResourceURLs": ["/openid/v1/jwks"], "verbs": ["get"]},
        ]}),
    )
    .await;
    let role =
        |kind: &str| json!({"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": "weft-control"});
    create(
        &Api::<ClusterRoleBinding>::all(client.clone()),
        json!({"metadata": {"name": "weft-control"}, "roleRef": role("ClusterRole"), "subjects": subjects}),
    )
    .await;
    create(
        &Api::<Role>::namespaced(client.clone(), SYSTEM),
        json!({"metadata": {"name": "weft-control"}, "rules": [
            {"apiGroups": [""], "resources": ["secrets"], "verbs": ["create"]},
            {"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["weft-ca"], "verbs": ["get", "list", "watch"]},
        ]}),
    )
    .await;
    create(
        &Api::<RoleBinding>::namespaced(client.clone(), SYSTEM),
        json!({"metadata": {"name": "weft-control"}, "roleRef": role("Role"), "subjects": subjects}),
    )
    .await;
}

/// A pod that nobody runs, and its UID.
pub(crate) async fn pod(client: &Client, name: &str, account: &str) -> String {
    let pods: Api<Pod> = Api::namespaced(client.clone(), "shop");
    let made = create(
        &pods,
        json!({"metadata": {"name": name}, "spec": {
            "serviceAccountName": account, "containers": [{"name": "app", "image": "none"}],
        }}),
    )
    .await;
    made.metadata.uid.unwrap()
}

/// A token as the kubelet asks for it.
pub(crate) async fn token(
    client: &Client,
    (namespace, account): (&str, &str),
    audience: &str,
    pod: Option<(&str, &str)>,
) -> String {
    let bound = pod.map(|(name, uid)| json!({"kind": "Pod", "apiVersion": "v1", "name": name, "uid": uid}));
    let body = json!({
        "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
        "spec": {"audiences": [audience], "expirationSeconds": 3600, "boundObjectRef": bound},
    });
    let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token");
    let request = http::Request::post(path)
        .header("content-type", "application/json")
        .body(serde_json::to_vec(&body).unwrap())
        .unwrap();
    let answer: serde_json::Value = client.request(request).await.unwrap();
    answer["status"]["token"].as_str().unwrap().to_owned()
}

/// A token of our own making, signed as the API server signs them, that ends `end` seconds from now.
pub(crate) fn forged(server: &ApiServer, audience: &str, end: i64) -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs() as i64;
    let claims = json!({
        "iss": ISSUER, "sub": "system:serviceaccount:shop:web", "aud": [audience],
        "iat": now - 7200, "nbf": now - 7200, "exp": now + end,
        "kubernetes.io": {"namespace": "shop", "serviceaccount": {"name": "web", "uid": "none"}},
    });
    let part = |value: &serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let text = format!("{}.{}", part(&json!({"alg": "ES256"})), part(&claims));
    let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, server.accounts.serialized_der());
    let signature = key.unwrap().sign(&SystemRandom::new(), text.as_bytes()).unwrap();
    format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature))
}

/// A proxy's side: files, and an identity that follows the CA.
pub(crate) struct Proxy {
    files: TempDir,
    pub(crate) identity: Identity,
    _trigger: DrainTrigger,
}

impl Proxy {
    pub(crate) fn start(ca: &str, bundle: &str, token: &str, expected: Option<&str>) -> Self {
        let files = tempfile::tempdir().unwrap();
        std::fs::write(files.path().join("root.pem"), bundle).unwrap();
        std::fs::write(files.path().join("token"), token).unwrap();
        let source = CaSource {
            address: ca.to_owned(),
            bundle: files.path().join("root.pem"),
            server_id: CA_ID.parse().unwrap(),
            token_file: files.path().join("token"),
            expected_id: expected.map(|id| id.parse().unwrap()),
        };
        let (trigger, drain) = drain();
        let (publisher, identity) = identity("weft.local".parse().unwrap());
        tokio::spawn(source.run(publisher, drain));
        Self { files, identity, _trigger: trigger }
    }

    /// What the kubelet does when a token has aged.
    pub(crate) fn new_token(&self, token: &str) {
        let new: PathBuf = self.files.path().join("new");
        std::fs::write(&new, token).unwrap();
        std::fs::rename(new, self.files.path().join("token")).unwrap();
    }

    pub(crate) async fn ready(&self) -> String {
        let ready = timeout(SOON, self.identity.ready()).await;
        ready.unwrap_or_else(|_| panic!("{:?}", self.identity.status().last_error)).own.to_string()
    }

    pub(crate) async fn failure(&self, expected: &str) {
        eventually(|| {
            let error = self.identity.status().last_error.map(|(_, error)| error).unwrap_or_default();
            if error.contains(expected) { Ok(()) } else { Err(format!("{error:?} lacks {expected:?}")) }
        })
        .await;
        assert!(self.identity.current().is_none());
    }
}

/// Waits for a state that is reached by real files and sockets.
pub(crate) async fn eventually(mut check: impl FnMut() -> Result<(), String>) {
    let mut last = String::new();
    let reached = timeout(SOON, async {
        while let Err(reason) = check() {
            last = reason;
            sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    assert!(reached.is_ok(), "{last}");
}

/// Status and body of a page.
pub(crate) async fn page(address: std::net::SocketAddr, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}
