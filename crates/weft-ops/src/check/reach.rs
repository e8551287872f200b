//! Whether the CA and the injector answer, and whether what they show is vouched for by the trust bundle.
//!
//! From here: a port-forward to each pod of `weft control` carries a real TLS handshake, with the checks that a proxy (towards
//! the CA) and the API server (towards the injector) make. It proves each replica, and says nothing of Services and
//! NetworkPolicies: that the API server itself reaches the injector is proved by a dry run (`dry_run`).

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::{Api, Client};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use weft_control::client::describe;
use weft_control::controller::facts::Key;
use weft_core::SpiffeId;
use weft_identity::{PeerVerifier, TrustBundle, crypto_provider};

use super::installed::Installed;
use super::report::{Finding, Vantage};
use crate::words::counted;

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
        return Finding::ok(id, Vantage::PortForward, format!("{who} answers at {}, as {name}", every(all)));
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
    let of = counted(all, "pod", "pods");
    let summary = format!("{who} does not answer as it should at {} of {of}", failed.len());
    Finding::failed(id, Vantage::PortForward, summary, cure).details(failed)
}

fn every(pods: usize) -> String {
    if pods == 1 { "its one pod".to_owned() } else { format!("all {pods} pods") }
}

#[cfg(test)]
mod tests {
    use super::super::report::State;
    use super::*;

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
