//! `weft control` with a real API server: who gets which certificate, and what is written down about it.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::Client;
use kube::api::{Api, DeleteParams};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use serde_json::json;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use weft_control::KubeError;
use weft_control::control::{Binds, Control, ControlConfig, ControlOptions, Part};
use weft_core::{DrainTrigger, drain};
use weft_telemetry::metrics::BuildInfo;

use crate::log::log;
use crate::secret;
use crate::server::{ApiServer, free_port};
use crate::support::{Proxy, SOON, SYSTEM, create, forged, furnish, page, pod, token};

/// A running `weft control`, in this process.
pub(crate) struct Running {
    pub(crate) binds: Binds,
    pub(crate) trigger: DrainTrigger,
    pub(crate) task: JoinHandle<Result<(), KubeError>>,
}

impl Running {
    pub(crate) async fn start(client: Client) -> Self {
        Self::start_parts(client, [Part::Ca].into(), "drainPeriod: 0s").await
    }

    pub(crate) async fn start_parts(client: Client, parts: BTreeSet<Part>, config: &str) -> Self {
        let local = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let options = ControlOptions {
            config: ControlConfig::from_yaml(Path::new("config.yaml"), config, None).unwrap(),
            file: None,
            replica: "replica-1".to_owned(),
            parts,
            binds: Binds {
                ca: local(free_port()),
                injector: local(free_port()),
                metrics: local(0),
                health: local(0),
            },
            build: BuildInfo { version: "0", revision: "", rustc: "" },
        };
        let control = Control::bind(options, client).await.unwrap();
        let (trigger, drain) = drain();
        let binds = control.binds();
        Self { binds, trigger, task: tokio::spawn(control.serve(drain)) }
    }

    pub(crate) async fn ready(&self) {
        let ready = timeout(SOON, async {
            while page(self.binds.health, "/ready").await.0 != 200 {
                sleep(Duration::from_millis(50)).await;
            }
        });
        assert!(ready.await.is_ok(), "{:?}", page(self.binds.health, "/ready").await);
    }

    pub(crate) fn ca(&self) -> String {
        self.binds.ca.to_string()
    }

    pub(crate) async fn stop(self) {
        self.trigger.start(Duration::from_secs(5));
        timeout(SOON, self.task).await.unwrap().unwrap().unwrap();
    }
}

#[tokio::test]
#[ignore = "needs kube-apiserver: cargo xtask cluster e2e"]
async fn a_mesh_ca_on_kubernetes() {
    log();
    let server = ApiServer::start().await;
    let admin = server.client().await;
    furnish(&admin).await;
    secret::one_root_for_many_replicas(&server).await;
    secret::a_secret_that_is_not_whole_stops_the_start(&server).await;

    // As the service account, so that the documented permissions are proven to be enough.
    let own = token(&admin, (SYSTEM, "weft-control"), crate::server::ISSUER, None).await;
    let control = Running::start(server.client_with(&own).await).await;
    control.ready().await;
    assert_eq!(page(control.binds.health, "/live").await.0, 200);
    let bundle = secret::part(&admin, "root.pem").await;
    let mut tokens = vec![own];
    tokens.extend(who_gets_what(&server, &admin, &control, &bundle).await);
    tokens.extend(who_gets_nothing(&server, &admin, &control, &bundle).await);
    secret::changes_of_the_secret(&server, &control).await;
    let (_, metrics) = page(control.binds.metrics, "/metrics").await;
    for line in [
        "weft_ca_signatures_total{outcome=\"signed\"}",
        "weft_ca_root_expiry_timestamp_seconds ",
        "weft_build_info{",
    ] {
        assert!(metrics.contains(line), "{line} in {metrics}");
    }
    control.stop().await;
    let text = log().text();
    for token in &tokens {
        // The signature makes a token of it; claims alone are no secret, but nobody needs them in a log either.
        for part in token.split('.').skip(1).chain([token.as_str()]) {
            assert!(!text.contains(part), "a token is in the log");
        }
    }
    assert!(!text.contains("PRIVATE KEY"));
    let key = secret::part(&admin, "ca-key.pem").await;
    for line in key.lines().filter(|line| !line.starts_with("--")) {
        assert!(!text.contains(line), "the key is in the log");
    }
}

/// All parts in one process, as the chart runs them.
#[tokio::test]
#[ignore = "needs kube-apiserver: cargo xtask cluster e2e"]
async fn all_parts_become_ready_and_drain() {
    log();
    let server = ApiServer::start().await;
    let admin = server.client().await;
    furnish(&admin).await;
    let entry = |name: &str| {
        json!({
            "name": name, "admissionReviewVersions": ["v1"], "sideEffects": "None", "failurePolicy": "Ignore",
            "clientConfig": {"service": {"name": "weft-injector", "namespace": SYSTEM, "path": "/inject"}},
            "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}],
            "namespaceSelector": {"matchLabels": {"weft.dev/inject": "enabled"}},
        })
    };
    let configurations: Api<MutatingWebhookConfiguration> = Api::all(admin.clone());
    let webhooks = json!([entry("namespace.weft.dev"), entry("pod.weft.dev")]);
    create(&configurations, json!({"metadata": {"name": "weft-injector"}, "webhooks": webhooks})).await;
    let control = Running::start_parts(
        admin.clone(),
        Part::ALL.into(),
        "{drainPeriod: 0s, injector: {image: 'weft:1'}}",
    )
    .await;
    control.ready().await;
    let bundle = secret::part(&admin, "root.pem").await;
    let found = configurations.get("weft-injector").await.unwrap();
    for webhook in found.webhooks.unwrap() {
        assert_eq!(webhook.client_config.ca_bundle.unwrap().0, bundle.as_bytes());
    }
    // The API server dials a Service and verifies its name.
    assert_eq!(injector_name(control.binds.injector, &bundle, "weft-injector.weft-system.svc").await, Ok(()));
    injector_name(control.binds.injector, &bundle, "weft-ca.weft-system.svc").await.unwrap_err();
    // The controller leads: nobody else is there.
    let (_, metrics) = timeout(SOON, async {
        loop {
            let page = page(control.binds.metrics, "/metrics").await;
            if page.1.contains("weft_controller_leader 1") {
                return page;
            }
            sleep(Duration::from_millis(100)).await;
        }
    })
    .await
    .unwrap();
    assert!(metrics.contains("weft_ca_root_expiry_timestamp_seconds "), "{metrics}");
    control.stop().await;
}

/// Whether the injector's certificate is good for `name` by the rules of the web.
async fn injector_name(address: SocketAddr, bundle: &str, name: &str) -> Result<(), String> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(bundle.as_bytes()).unwrap()).unwrap();
    let config = rustls::ClientConfig::builder_with_provider(weft_identity::crypto_provider().clone())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let tcp = TcpStream::connect(address).await.unwrap();
    let name = rustls_pki_types::ServerName::try_from(name.to_owned()).unwrap();
    let connected = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, tcp).await;
    connected.map(drop).map_err(|error| error.to_string())
}

async fn who_gets_what(server: &ApiServer, admin: &Client, control: &Running, bundle: &str) -> Vec<String> {
    let uid = pod(admin, "web-1", "web").await;
    let bound = token(admin, ("shop", "web"), "weft-ca", Some(("web-1", &uid))).await;
    let web = Proxy::start(&control.ca(), bundle, &bound, None);
    assert_eq!(web.ready().await, "spiffe://weft.local/ns/shop/sa/web");
    let serial = web.identity.current().unwrap().serial.clone();
    let signed = log().audit(&[&serial]);
    assert_eq!(signed.len(), 1, "{signed:?}");
    let uid_said = format!("pod_uid=\"{uid}\"");
    for part in
        ["outcome=\"signed\"", "pod=\"web-1\"", &uid_said, "identity=spiffe://weft.local/ns/shop/sa/web"]
    {
        assert!(signed[0].contains(part), "{signed:?} lacks {part}");
    }
    // A token of another account is another identity, which the proxy that should not have it does not take.
    let orders = token(admin, ("shop", "orders"), "weft-ca", None).await;
    let proxy = Proxy::start(&control.ca(), bundle, &orders, Some("spiffe://weft.local/ns/shop/sa/web"));
    proxy
        .failure("for spiffe://weft.local/ns/shop/sa/orders, not for spiffe://weft.local/ns/shop/sa/web")
        .await;
    // A deleted pod's token is dead as soon as the API server has forgotten its own last answer: 10 s.
    let pods: Api<Pod> = Api::namespaced(server.client().await, "shop");
    pods.delete("web-1", &DeleteParams::default().grace_period(0)).await.unwrap();
    sleep(Duration::from_secs(11)).await;
    let late = Proxy::start(&control.ca(), bundle, &bound, None);
    late.failure("refused the token").await;
    vec![bound, orders]
}

async fn who_gets_nothing(
    server: &ApiServer,
    admin: &Client,
    control: &Running,
    bundle: &str,
) -> Vec<String> {
    let other = token(admin, ("shop", "web"), crate::server::ISSUER, None).await;
    let good = token(admin, ("shop", "orders"), "weft-ca", None).await;
    let (start, end) = good.rsplit_once('.').unwrap();
    // Another signature of the same length.
    let first = if end.starts_with('A') { 'B' } else { 'A' };
    let tampered = format!("{start}.{first}{}", end.get(1..).unwrap());
    let cases = [
        (other, "the token is for another audience"),
        (forged(server, "weft-ca", -3600), "the token has expired"),
        // Within the leeway: the API server decides.
        (forged(server, "weft-ca", -20), "the API server does not know the token"),
        // Signed and in time, but of an account that is not there (another UID).
        (forged(server, "weft-ca", 3600), "the API server does not know the token"),
        (tampered, "the cluster did not sign the token"),
        ("garbage-garbage-garbage-0123456789".to_owned(), "the token is not a JWT"),
    ];
    let mut tokens = vec![good.clone()];
    for (token, reason) in cases {
        let before = log().audit(&["outcome=\"refused\"", reason]).len();
        let proxy = Proxy::start(&control.ca(), bundle, &token, None);
        proxy.failure("refused the token").await;
        let (_, said) = proxy.identity.status().last_error.unwrap();
        assert!(said.ends_with("credential refused"), "the caller is told more: {said}");
        assert!(log().audit(&["outcome=\"refused\"", reason]).len() > before, "no audit line: {reason}");
        // A token that was rotated in the meantime is read from the file at the next attempt.
        proxy.new_token(&good);
        assert_eq!(proxy.ready().await, "spiffe://weft.local/ns/shop/sa/orders");
        tokens.push(token);
    }
    tokens
}

/// Secrets of Weft's namespace.
pub(crate) fn secrets(client: Client) -> Api<Secret> {
    Api::namespaced(client, SYSTEM)
}
