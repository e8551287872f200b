//! Whether the CA and the injector answer, and whether what they show is vouched for by the trust bundle.
//!
//! Two vantage points, because either may work without the other. *From here*: a port-forward to each pod of `weft control`
//! carries a real TLS handshake, with the checks that a proxy (towards the CA) and the API server (towards the injector) make. It
//! proves each replica, and says nothing of Services and NetworkPolicies. *From the API server*: a pod that asks for injection is
//! created as a dry run, which calls the webhook as for any pod; nothing is stored. It proves the whole way, and with
//! `failurePolicy: Ignore` a failure shows as a pod that comes back without a sidecar.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::api::PostParams;
use kube::{Api, Client};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use weft_core::SpiffeId;
use weft_identity::{PeerVerifier, TrustBundle, crypto_provider};
use weft_kube::client::describe;
use weft_kube::controller::facts::{self, Inject, Key};
use weft_kube::names::INJECT_LABEL;

use super::installed::Installed;
use super::report::{Finding, Vantage};
use crate::view::View;

/// A port-forward and a handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Of the CA and the injector in the pods of `weft control`.
const CA: u16 = 15012;
const INJECTOR: u16 = 15443;

/// The CA, at each replica.
pub(super) async fn ca(client: &Client, installed: &Installed, bundle: Option<&TrustBundle>) -> Finding {
    let id = "ca.answers";
    let (Some(bundle), Ok(config)) = (bundle, &installed.config) else {
        return Finding::skipped(
            id,
            Vantage::PortForward,
            "the trust bundle or the trust domain is not known",
        );
    };
    let name = format!("spiffe://{}/ns/{}/sa/weft-ca", config.trust_domain, installed.own);
    let Ok(identity) = name.parse::<SpiffeId>() else {
        return Finding::skipped(id, Vantage::PortForward, format!("{name} is no SPIFFE id"));
    };
    let verifier = PeerVerifier::only(bundle.clone(), identity);
    let tls = client_config().map(|builder| {
        let mut tls =
            builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier)).with_no_client_auth();
        tls.alpn_protocols = vec![b"h2".to_vec()];
        tls
    });
    let pods = each(client, installed, CA, "weft-ca", tls).await;
    told(id, "the CA", &name, pods, &installed.own)
}

/// The injector, at each replica.
pub(super) async fn injector(
    client: &Client,
    installed: &Installed,
    bundle: Option<&TrustBundle>,
) -> Finding {
    let id = "webhook.certificate";
    let Some(bundle) = bundle else {
        return Finding::skipped(id, Vantage::PortForward, "the trust bundle is not known");
    };
    let name = format!("weft-injector.{}.svc", installed.own);
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(bundle.certificates().cloned());
    let tls = client_config().map(|builder| builder.with_root_certificates(roots).with_no_client_auth());
    let pods = each(client, installed, INJECTOR, &name, tls).await;
    told(id, "the injector", &name, pods, &installed.own)
}

fn client_config() -> Result<rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier>, rustls::Error> {
    ClientConfig::builder_with_provider(crypto_provider().clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
}

/// The outcome at each pod: nothing, or what went wrong.
async fn each(
    client: &Client,
    installed: &Installed,
    port: u16,
    name: &str,
    tls: Result<ClientConfig, rustls::Error>,
) -> Vec<(String, Result<(), String>)> {
    let server = ServerName::try_from(name.to_owned()).map_err(|error| error.to_string());
    let prepared = tls.map_err(|error| error.to_string()).and_then(|tls| Ok((Arc::new(tls), server?)));
    let (tls, server) = match prepared {
        Ok(prepared) => prepared,
        Err(error) => return vec![("this machine".to_owned(), Err(error))],
    };
    let mut outcomes = Vec::new();
    for pod in installed.running() {
        let shaken =
            timeout(HANDSHAKE, handshake(client, &pod, port, Arc::clone(&tls), server.clone())).await;
        let outcome = shaken.unwrap_or_else(|_| Err(format!("no answer within {} s", HANDSHAKE.as_secs())));
        outcomes.push((pod.name, outcome));
    }
    outcomes
}

async fn handshake(
    client: &Client,
    pod: &Key,
    port: u16,
    tls: Arc<ClientConfig>,
    server: ServerName<'static>,
) -> Result<(), String> {
    let pods = Api::<Pod>::namespaced(client.clone(), &pod.namespace);
    let forward = pods.portforward(&pod.name, &[port]).await;
    let mut forward = forward.map_err(|error| format!("port-forward: {}", describe(&error)))?;
    let stream = forward.take_stream(port).ok_or("port-forward gave no stream")?;
    let refused = forward.take_error(port);
    let shaken = TlsConnector::from(tls).connect(server, stream).await.map(drop);
    let outcome = match shaken {
        Ok(()) => Ok(()),
        // What the kubelet says about the port tells more than that the stream ended.
        Err(error) => match refused {
            Some(refused) => match timeout(Duration::from_millis(200), refused).await {
                Ok(Some(reason)) => Err(format!("port {port}: {}", reason.trim())),
                _ => Err(format!("port {port}: {error}")),
            },
            None => Err(format!("port {port}: {error}")),
        },
    };
    forward.abort();
    outcome
}

/// Judges the outcomes.
fn told(
    id: &'static str,
    who: &str,
    name: &str,
    pods: Vec<(String, Result<(), String>)>,
    own: &str,
) -> Finding {
    if pods.is_empty() {
        return Finding::skipped(id, Vantage::PortForward, format!("{who} has no running pod"));
    }
    let all = pods.len();
    let failed: Vec<String> =
        pods.into_iter().filter_map(|(pod, outcome)| Some(format!("{pod}: {}", outcome.err()?))).collect();
    if failed.is_empty() {
        return Finding::ok(
            id,
            Vantage::PortForward,
            format!("{who} answers at {all} of {all} pods, as {name}"),
        );
    }
    if failed.iter().all(|line| line.contains("port-forward: ") && line.contains("(status 403)")) {
        return Finding::skipped(
            id,
            Vantage::PortForward,
            format!("you may not port-forward to the pods of {own} (create pods/portforward)"),
        );
    }
    let cure = format!(
        "the log tells more: kubectl -n {own} logs deployment/weft-control. A certificate that is not vouched for comes from another root: \
         restart weft-control (kubectl -n {own} rollout restart deployment/weft-control)"
    );
    let summary = format!("{who} does not answer as it should at {} of {all} pods", failed.len());
    Finding::failed(id, Vantage::PortForward, summary, cure).details(failed)
}

/// What a dry run came back with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum DryRun {
    Injected,
    NotInjected,
    /// Pods must not be made there, by the API server's words.
    Refused(String),
    /// This user may not.
    Forbidden,
    /// There is no namespace where a pod could ask.
    Nowhere,
}

/// Where a pod could ask for injection: a participating namespace, else `default`, unless it is kept out.
fn place(view: &View) -> Option<String> {
    let open = |namespace: &str| view.world.may_participate(namespace) && view.world.writable(namespace);
    // Pod Security would refuse it elsewhere.
    let allowed =
        |namespace: &&str| view.pod_security.get(*namespace).is_none_or(|level| level == "privileged");
    let members = view.members(None).filter(|namespace| view.world.writable(namespace));
    members
        .filter(allowed)
        .map(str::to_owned)
        .next()
        .or_else(|| open("default").then(|| "default".to_owned()))
}

/// Has the API server call the webhook.
pub(super) async fn dry_run(client: &Client, view: &View) -> (String, DryRun) {
    let Some(namespace) = place(view) else { return (String::new(), DryRun::Nowhere) };
    let labelled = view.world.namespace(&namespace).is_some_and(|facts| facts.inject == Inject::Enabled);
    let labels = if labelled { serde_json::json!({}) } else { serde_json::json!({INJECT_LABEL: "enabled"}) };
    let pod = serde_json::from_value::<Pod>(serde_json::json!({
        "metadata": {"generateName": "weft-check-", "labels": labels},
        "spec": {
            "automountServiceAccountToken": false,
            "containers": [{
                "name": "app", "image": "weft-check",
                "resources": {"requests": {"cpu": "1m", "memory": "1Mi"}, "limits": {"cpu": "1m", "memory": "1Mi"}},
            }],
        },
    }));
    let Ok(pod) = pod else { return (namespace, DryRun::Nowhere) };
    let dry = PostParams { dry_run: true, ..PostParams::default() };
    let outcome = match Api::<Pod>::namespaced(client.clone(), &namespace).create(&dry, &pod).await {
        Ok(made) if facts::injected(&made) => DryRun::Injected,
        Ok(_) => DryRun::NotInjected,
        Err(error) => {
            let words = describe(&error);
            // The authorizer's refusal has this form; admission plugins refuse with 403 as well.
            if words.contains("cannot create resource") { DryRun::Forbidden } else { DryRun::Refused(words) }
        }
    };
    (namespace, outcome)
}

/// Judges a dry run.
pub(super) fn answers(namespace: &str, outcome: &DryRun, own: &str) -> Finding {
    let id = "webhook.answers";
    match outcome {
        DryRun::Injected => Finding::ok(
            id,
            Vantage::ApiServer,
            format!("the API server has a pod injected (dry run in {namespace})"),
        ),
        DryRun::NotInjected => Finding::failed(
            id,
            Vantage::ApiServer,
            format!(
                "the API server gets no answer from the injector, or does not trust it: pods start without a sidecar (dry run in {namespace})"
            ),
            format!(
                "see webhook.ca-bundle, webhook.certificate and control.services; if these are well, the API server cannot reach the pods of {own} \
                 on port 15443: look for a NetworkPolicy or firewall between them (on private GKE and EKS clusters: a rule from the control plane to the nodes)"
            ),
        ),
        DryRun::Refused(words) if words.contains("webhook") => Finding::failed(
            id,
            Vantage::ApiServer,
            format!("the API server refuses pods in {namespace}: {words}"),
            "with failurePolicy Fail nothing starts until the injector answers: see control.deployment",
        ),
        DryRun::Refused(words) => Finding::skipped(
            id,
            Vantage::ApiServer,
            format!("pods like the one that was tried are refused in {namespace}: {words}"),
        ),
        DryRun::Forbidden => Finding::skipped(
            id,
            Vantage::ApiServer,
            format!("you may not create pods in {namespace}, not even as a dry run"),
        ),
        DryRun::Nowhere => {
            Finding::skipped(id, Vantage::ApiServer, "no namespace takes part, and default may not")
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::report::State;
    use super::*;
    use crate::view::tests::{namespace, view};

    #[test]
    fn a_pod_asks_where_it_may() {
        let default = namespace("default", json!({}));
        let shop = namespace("shop", json!({"weft.dev/inject": "enabled"}));
        let tight = namespace(
            "a",
            json!({"weft.dev/inject": "enabled", "pod-security.kubernetes.io/enforce": "baseline"}),
        );
        assert_eq!(place(&view(&[default.clone(), shop, tight.clone()])).as_deref(), Some("shop"));
        assert_eq!(place(&view(&[default, tight])).as_deref(), Some("default"));
        assert_eq!(place(&view(&[namespace("default", json!({"weft.dev/inject": "disabled"}))])), None);
    }

    #[test]
    fn a_pod_that_comes_back_bare_is_a_failure() {
        let judge = |outcome: DryRun| answers("shop", &outcome, "weft-system").state;
        assert_eq!(judge(DryRun::Injected), State::Ok);
        assert_eq!(judge(DryRun::NotInjected), State::Failed);
        assert_eq!(judge(DryRun::Refused("failed calling webhook \"x\"".into())), State::Failed);
        assert_eq!(judge(DryRun::Refused("exceeded quota".into())), State::Skipped);
        assert_eq!(judge(DryRun::Forbidden), State::Skipped);
    }

    #[test]
    fn each_replica_counts() {
        let judge = |outcomes: Vec<Result<(), String>>| {
            let pods = outcomes.into_iter().map(|outcome| ("p".to_owned(), outcome)).collect();
            told("ca.answers", "the CA", "n", pods, "weft-system").state
        };
        assert_eq!(judge(vec![]), State::Skipped);
        assert_eq!(judge(vec![Ok(()), Ok(())]), State::Ok);
        assert_eq!(judge(vec![Ok(()), Err("port 15012: refused".into())]), State::Failed);
        assert_eq!(judge(vec![Err("port-forward: no (status 403)".into())]), State::Skipped);
    }
}
