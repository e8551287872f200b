//! What an installation is made of: is it there, and does it run?

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt as _};
use weft_control::client::describe;
use weft_control::control::ControlConfig;
use weft_control::controller::facts::Key;
use weft_control::controller::{STATE_KEY, modes};
use weft_control::names::STATE_CONFIG;
use weft_identity::TrustBundle;

use super::report::{Finding, Vantage};
use crate::view::{PodView, forbidden};
use crate::words::{are, counted};

/// The labels of the pods of `weft control`, as the manifests give them.
const CONTROL_PODS: &str = "app.kubernetes.io/name=weft,app.kubernetes.io/component=control";

/// The objects of an installation.
pub(super) struct Installed {
    pub(super) own: String,
    pub(super) deployment: Option<Deployment>,
    pub(super) pods: Vec<Pod>,
    pub(super) webhook: Option<MutatingWebhookConfiguration>,
    /// Ready and other endpoints, by Service.
    pub(super) endpoints: BTreeMap<String, (usize, usize)>,
    /// `weft-config`, read; or what is wrong with it.
    pub(super) config: Result<ControlConfig, String>,
    /// The trust bundle, where it may be read.
    pub(super) root: Root,
    /// When the Secret with it was made, Unix time in seconds.
    pub(super) secret_made: Option<i64>,
    /// Services that have become strict.
    pub(super) strict: BTreeSet<Key>,
}

/// The trust bundle by the Secret `weft-ca`.
#[derive(Debug, Clone)]
pub(super) enum Root {
    Known(TrustBundle),
    /// This user may not read the Secret, which also holds the key: that is as it should be.
    Hidden,
    /// There is none, or it cannot be read.
    Missing(String),
}

impl Root {
    pub(super) fn known(&self) -> Option<&TrustBundle> {
        match self {
            Self::Known(bundle) => Some(bundle),
            Self::Hidden | Self::Missing(_) => None,
        }
    }
}

impl Installed {
    /// Reads them. `Err` has what could not be read.
    pub(super) async fn of(client: &Client, own: &str) -> Result<Self, String> {
        let fail = |what: &'static str| move |error: kube::Error| format!("{what}: {}", describe(&error));
        let maps = Api::<ConfigMap>::namespaced(client.clone(), own);
        let selected = ListParams::default().labels(CONTROL_PODS);
        let (deployment, pods, webhook, endpoints, config, state, (root, secret_made)) = futures_util::try_join!(
            async {
                Api::<Deployment>::namespaced(client.clone(), own)
                    .get_opt("weft-control")
                    .await
                    .map_err(fail("read the Deployment weft-control"))
            },
            async {
                Api::<Pod>::namespaced(client.clone(), own)
                    .list(&selected)
                    .await
                    .map_err(fail("list the pods of weft-control"))
            },
            async {
                Api::<MutatingWebhookConfiguration>::all(client.clone())
                    .get_opt("weft-injector")
                    .await
                    .map_err(fail("read the webhook configuration"))
            },
            async { endpoints(client, own).await.map_err(fail("list endpoint slices")) },
            async { maps.get_opt("weft-config").await.map_err(fail("read the ConfigMap weft-config")) },
            async { maps.get_opt(STATE_CONFIG).await.map_err(fail("read the ConfigMap weft-state")) },
            async { Ok(root(client, own).await) },
        )?;
        let state = state.and_then(|state| state.data).and_then(|mut data| data.remove(STATE_KEY));
        Ok(Self {
            own: own.to_owned(),
            deployment,
            pods: pods.items,
            webhook,
            endpoints,
            config: config_of(config, own),
            root,
            secret_made,
            strict: state.and_then(|text| modes::read(&text).ok()).unwrap_or_default(),
        })
    }

    /// The pods of `weft control` that can be talked to.
    pub(super) fn running(&self) -> impl Iterator<Item = Key> {
        let running = |pod: &&Pod| {
            pod.metadata.deletion_timestamp.is_none()
                && pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Running")
        };
        self.pods
            .iter()
            .filter(running)
            .map(|pod| Key::new(pod.namespace().unwrap_or_default(), pod.name_any()))
    }
}

async fn endpoints(client: &Client, own: &str) -> Result<BTreeMap<String, (usize, usize)>, kube::Error> {
    let slices = Api::<EndpointSlice>::namespaced(client.clone(), own).list(&ListParams::default()).await?;
    let mut found: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    for slice in slices.items {
        let Some(service) = slice.labels().get("kubernetes.io/service-name").cloned() else { continue };
        let (ready, all) = found.entry(service).or_default();
        for endpoint in &slice.endpoints {
            *all += 1;
            // Absent means ready.
            let is_ready =
                endpoint.conditions.as_ref().and_then(|conditions| conditions.ready) != Some(false);
            *ready += usize::from(is_ready);
        }
    }
    Ok(found)
}

fn config_of(map: Option<ConfigMap>, own: &str) -> Result<ControlConfig, String> {
    let text = map.and_then(|map| map.data).and_then(|mut data| data.remove("config.yaml"));
    let text = text.ok_or("there is no ConfigMap weft-config with the key config.yaml")?;
    ControlConfig::from_yaml(Path::new("weft-config/config.yaml"), &text, Some(own))
        .map_err(|error| error.to_string())
}

/// The root, and when its Secret was made.
async fn root(client: &Client, own: &str) -> (Root, Option<i64>) {
    let secret = match Api::<Secret>::namespaced(client.clone(), own).get_opt("weft-ca").await {
        Ok(Some(secret)) => secret,
        Ok(None) => return (Root::Missing("there is no Secret weft-ca".to_owned()), None),
        Err(error) if forbidden(&error) => return (Root::Hidden, None),
        Err(error) => return (Root::Missing(describe(&error)), None),
    };
    let made = secret.metadata.creation_timestamp.as_ref().map(|time| time.0.as_second());
    // Only the bundle is looked at; the key goes with the rest.
    let Some(pem) = secret.data.and_then(|mut data| data.remove("root.pem")) else {
        return (Root::Missing("the Secret weft-ca has no root.pem".to_owned()), made);
    };
    let root = match TrustBundle::from_pem(&pem.0) {
        Ok(bundle) => Root::Known(bundle),
        Err(error) => Root::Missing(format!("root.pem of the Secret weft-ca: {error}")),
    };
    (root, made)
}

/// Judges the Deployment.
pub(super) fn deployment(installed: &Installed) -> Finding {
    let id = "control.deployment";
    let own = &installed.own;
    let Some(deployment) = &installed.deployment else {
        return Finding::failed(
            id,
            Vantage::Api,
            format!("there is no Deployment weft-control in {own}"),
            "install Weft (weft install | kubectl apply -f -), or name its namespace by --namespace",
        );
    };
    let wanted = deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
    let status = deployment.status.clone().unwrap_or_default();
    let ready = status.ready_replicas.unwrap_or(0);
    let ready_count = usize::try_from(ready).unwrap_or(0);
    let troubles = installed.pods.iter().filter_map(|pod| {
        let trouble = PodView::of(pod).trouble?;
        Some(format!("{}: {trouble}", pod.name_any()))
    });
    let troubles: Vec<String> = troubles.collect();
    let logs = format!(
        "kubectl -n {own} describe deployment/weft-control, and its log: kubectl -n {own} logs deployment/weft-control"
    );
    if ready == 0 {
        let summary =
            format!("no pod of weft-control is ready ({wanted} wanted): no certificates, no injection");
        return Finding::failed(id, Vantage::Api, summary, logs).details(troubles);
    }
    if ready < wanted {
        let summary = format!("{ready} of {wanted} pods of weft-control {} ready", are(ready_count));
        return Finding::failed(id, Vantage::Api, summary, logs).details(troubles);
    }
    if status.observed_generation < deployment.metadata.generation
        || status.updated_replicas.unwrap_or(0) < wanted
    {
        return Finding::warning(
            id,
            Vantage::Api,
            "weft-control is being rolled out",
            format!("kubectl -n {own} rollout status deployment/weft-control"),
        );
    }
    if wanted == 1 {
        return Finding::warning(
            id,
            Vantage::Api,
            "weft-control has one replica: while it restarts, pods wait for certificates and are not injected",
            "set control.replicas to 2",
        );
    }
    Finding::ok(id, Vantage::Api, format!("{ready} of {wanted} pods of weft-control are ready"))
}

/// Judges `weft-config`.
pub(super) fn config(installed: &Installed) -> Finding {
    let id = "control.config";
    match &installed.config {
        Ok(config) => Finding::ok(
            id,
            Vantage::Api,
            format!("the settings can be read; the trust domain is {}", config.trust_domain),
        ),
        Err(reason) => Finding::failed(
            id,
            Vantage::Api,
            format!("the settings cannot be used: {reason}"),
            "correct the values and install again: a replica that restarts does not come back",
        ),
    }
}

/// Judges the Services' endpoints.
pub(super) fn services(installed: &Installed) -> Finding {
    let id = "control.services";
    let mut without = Vec::new();
    let mut told = Vec::new();
    for service in ["weft-ca", "weft-injector"] {
        match installed.endpoints.get(service) {
            Some((ready, _)) if *ready > 0 => told.push(format!("{service} {ready}")),
            Some((_, all)) => {
                let endpoints = counted(*all, "endpoint", "endpoints");
                without.push(format!("the Service {service} has {endpoints}, and none that is ready"));
            }
            None => without.push(format!("the Service {service} is missing or selects no pod")),
        }
    }
    if without.is_empty() {
        return Finding::ok(id, Vantage::Api, format!("ready endpoints: {}", told.join(", ")));
    }
    let cure = format!(
        "see control.deployment; a Service that is missing comes back with weft install --namespace {} | kubectl apply -f -",
        installed.own
    );
    Finding::failed(id, Vantage::Api, "Services of weft-control have no ready endpoints", cure)
        .details(without)
}

/// Judges the webhook configuration.
pub(super) fn webhook(installed: &Installed) -> Finding {
    let id = "webhook.configuration";
    let cure = format!("install again: weft install --namespace {} | kubectl apply -f -", installed.own);
    let Some(webhook) = &installed.webhook else {
        return Finding::failed(
            id,
            Vantage::Api,
            "there is no MutatingWebhookConfiguration weft-injector: no pod is injected",
            cure,
        );
    };
    let entries = webhook.webhooks.as_deref().unwrap_or_default();
    let service = |entry: &k8s_openapi::api::admissionregistration::v1::MutatingWebhook| {
        let service = entry.client_config.service.as_ref()?;
        (service.namespace != installed.own || service.name != "weft-injector")
            .then(|| format!("{} calls {}/{}", entry.name, service.namespace, service.name))
    };
    let elsewhere: Vec<String> = entries.iter().filter_map(service).collect();
    if !elsewhere.is_empty() {
        return Finding::failed(id, Vantage::Api, "the webhook calls another Service", cure)
            .details(elsewhere);
    }
    if entries.is_empty() {
        return Finding::failed(
            id,
            Vantage::Api,
            "the webhook configuration has no entry: no pod is injected",
            cure,
        );
    }
    let policy = entries.iter().filter_map(|entry| entry.failure_policy.as_deref()).next().unwrap_or("Fail");
    let entries = counted(entries.len(), "webhook", "webhooks");
    Finding::ok(id, Vantage::Api, format!("{entries}, failurePolicy {policy}"))
}

/// Judges `caBundle`.
pub(super) fn ca_bundle(installed: &Installed, bundle: Option<&TrustBundle>) -> Option<Finding> {
    let id = "webhook.ca-bundle";
    let webhook = installed.webhook.as_ref()?;
    let cure = format!(
        "the injector writes it: see that one of its pods is ready and what it says: kubectl -n {} logs deployment/weft-control",
        installed.own
    );
    let mut wrong = Vec::new();
    for entry in webhook.webhooks.iter().flatten() {
        match &entry.client_config.ca_bundle {
            None => wrong.push(format!("{} has none", entry.name)),
            Some(written) => match (TrustBundle::from_pem(&written.0), bundle) {
                (Err(error), _) => wrong.push(format!("{}: {error}", entry.name)),
                (Ok(found), Some(bundle)) if found != *bundle => {
                    wrong.push(format!("{} has another one", entry.name));
                }
                (Ok(_), _) => {}
            },
        }
    }
    Some(if !wrong.is_empty() {
        Finding::failed(
            id,
            Vantage::Api,
            "the API server does not trust the injector: caBundle is not the trust bundle",
            cure,
        )
        .details(wrong)
    } else if bundle.is_none() {
        Finding::skipped(
            id,
            Vantage::Api,
            "caBundle is there, and cannot be compared: the trust bundle is not known",
        )
    } else {
        Finding::ok(id, Vantage::Api, "caBundle is the trust bundle")
    })
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::{Value, json};

    use super::super::report::State;
    use super::*;

    pub(in crate::check) fn bundle() -> (TrustBundle, String) {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        (TrustBundle::from_pem(pem.as_bytes()).unwrap(), pem)
    }

    pub(in crate::check) fn installed() -> Installed {
        Installed {
            own: "weft-system".to_owned(),
            deployment: None,
            pods: Vec::new(),
            webhook: None,
            endpoints: BTreeMap::new(),
            config: ControlConfig::from_yaml(Path::new("c"), "{}", None).map_err(|error| error.to_string()),
            root: Root::Hidden,
            secret_made: None,
            strict: BTreeSet::new(),
        }
    }

    fn with_replicas(wanted: i32, ready: i32) -> Installed {
        let deployment = json!({
            "metadata": {"name": "weft-control", "generation": 2},
            "spec": {"replicas": wanted, "selector": {}, "template": {}},
            "status": {"readyReplicas": ready, "updatedReplicas": wanted, "observedGeneration": 2},
        });
        Installed { deployment: Some(serde_json::from_value(deployment).unwrap()), ..installed() }
    }

    #[test]
    fn replicas_are_judged() {
        assert_eq!(deployment(&installed()).state, State::Failed);
        assert_eq!(deployment(&with_replicas(2, 0)).state, State::Failed);
        assert_eq!(deployment(&with_replicas(2, 1)).state, State::Failed);
        assert_eq!(deployment(&with_replicas(1, 1)).state, State::Warning);
        assert_eq!(deployment(&with_replicas(2, 2)).state, State::Ok);
    }

    fn webhook_with(service: &str, ca: Option<&str>) -> Installed {
        let mut config = json!({"service": {"name": "weft-injector", "namespace": service}});
        if let Some(ca) = ca {
            use base64::Engine as _;
            config["caBundle"] = Value::from(base64::engine::general_purpose::STANDARD.encode(ca));
        }
        let object = json!({"metadata": {"name": "weft-injector"}, "webhooks": [
            {"name": "a.b.c", "admissionReviewVersions": ["v1"], "sideEffects": "None", "failurePolicy": "Ignore", "clientConfig": config}]});
        Installed { webhook: Some(serde_json::from_value(object).unwrap()), ..installed() }
    }

    #[test]
    fn the_webhook_must_call_us_and_trust_the_bundle() {
        let (ours, pem) = bundle();
        let (_, other) = bundle();
        assert_eq!(webhook(&installed()).state, State::Failed);
        assert_eq!(webhook(&webhook_with("elsewhere", None)).state, State::Failed);
        assert_eq!(webhook(&webhook_with("weft-system", None)).state, State::Ok);
        let judge =
            |ca: Option<&str>, bundle| ca_bundle(&webhook_with("weft-system", ca), bundle).unwrap().state;
        assert_eq!(judge(None, Some(&ours)), State::Failed);
        assert_eq!(judge(Some("nonsense"), Some(&ours)), State::Failed);
        assert_eq!(judge(Some(&other), Some(&ours)), State::Failed);
        assert_eq!(judge(Some(&pem), None), State::Skipped);
        assert_eq!(judge(Some(&pem), Some(&ours)), State::Ok);
    }

    #[test]
    fn services_need_ready_endpoints() {
        let mut installed = installed();
        assert_eq!(services(&installed).details.len(), 2);
        installed.endpoints.insert("weft-ca".to_owned(), (2, 2));
        installed.endpoints.insert("weft-injector".to_owned(), (0, 2));
        assert_eq!(
            services(&installed).details,
            ["the Service weft-injector has 2 endpoints, and none that is ready"]
        );
        installed.endpoints.insert("weft-injector".to_owned(), (1, 2));
        assert_eq!(services(&installed).state, State::Ok);
    }
}
