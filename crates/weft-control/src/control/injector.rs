//! What the injector needs of the API server, and when it is ready.

use std::net::SocketAddr;
use std::time::Duration;

use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::core::v1::Service;
use kube::Client;
use kube::api::Api;
use tokio::time::{sleep, timeout};
use weft_ca::Authority;

use super::admin::PartReadiness;
use super::wait::Wait;
use crate::client::describe;
use crate::inject::{InjectSettings, NativeSidecar};
use crate::names::CA_SERVICE;
use crate::webhook::{NAME, trusts};

/// One question to the API server.
const ASK: Duration = Duration::from_secs(5);
/// Between two looks at the webhook's configuration, until the trust bundle is in it.
const LOOK: Duration = Duration::from_secs(1);

/// Whether `weft-proxy` is a native sidecar. Asks the API server's version where the settings leave it to that, for as
/// long as it takes.
pub(super) async fn native(client: &Client, settings: &InjectSettings, ready: &PartReadiness) -> bool {
    if settings.native_sidecar != NativeSidecar::Auto {
        return settings.native_sidecar.resolve(None);
    }
    let mut wait = Wait::new([ready]);
    loop {
        let error = match timeout(ASK, client.apiserver_version()).await {
            Ok(Ok(info)) => match (number(&info.major), number(&info.minor)) {
                (Some(major), Some(minor)) => {
                    wait.over();
                    return settings.native_sidecar.resolve(Some((major, minor)));
                }
                _ => format!("the version {}.{} of the API server is no number", info.major, info.minor),
            },
            Ok(Err(error)) => format!("the version of the API server: {}", describe(&error)),
            Err(_) => format!("the version of the API server: no answer within {ASK:?}"),
        };
        wait.failed(&error).await;
    }
}

/// The address of the CA's Service, for pods that cannot resolve its name: Kubernetes keeps it for as long as the Service is
/// there. `None` where there is no such Service or it may not be read; then such pods are refused with the cure.
pub(super) async fn ca_address(
    client: &Client,
    namespace: &str,
    ready: &PartReadiness,
) -> Option<SocketAddr> {
    let services: Api<Service> = Api::namespaced(client.clone(), namespace);
    let mut wait = Wait::new([ready]);
    loop {
        let error = match timeout(ASK, services.get_opt(CA_SERVICE)).await {
            Ok(Ok(found)) => {
                wait.over();
                let address = found.as_ref().and_then(address);
                if address.is_none() {
                    tracing::warn!(
                        "Service {namespace}/{CA_SERVICE} has no ClusterIP: pods with dnsPolicy Default are refused"
                    );
                }
                return address;
            }
            Ok(Err(kube::Error::Api(status))) if status.code == 403 => {
                tracing::warn!(error = status.message, "pods with dnsPolicy Default are refused");
                return None;
            }
            Ok(Err(error)) => format!("Service {namespace}/{CA_SERVICE}: {}", describe(&error)),
            Err(_) => format!("Service {namespace}/{CA_SERVICE}: no answer within {ASK:?}"),
        };
        wait.failed(&error).await;
    }
}

/// `None` for a headless Service, whose `clusterIP` is the word `None`.
fn address(service: &Service) -> Option<SocketAddr> {
    let spec = service.spec.as_ref()?;
    let ip = spec.cluster_ip.as_ref()?.parse().ok()?;
    let port = u16::try_from(spec.ports.as_ref()?.first()?.port).ok()?;
    Some(SocketAddr::new(ip, port))
}

/// The number that a part of a version begins with: managed clusters write `29+`.
fn number(part: &str) -> Option<u32> {
    let end = part.find(|c: char| !c.is_ascii_digit()).unwrap_or(part.len());
    part.get(..end)?.parse().ok()
}

/// Makes the injector ready as soon as the API server trusts its certificate: the bundle is in every entry of the
/// configuration. Without a configuration nobody asks, and there is nothing to wait for: the CA beside it has to serve.
pub(super) async fn written(client: &Client, authority: &Authority, ready: &PartReadiness) {
    let api: Api<MutatingWebhookConfiguration> = Api::all(client.clone());
    loop {
        match timeout(ASK, api.get_opt(NAME)).await {
            Ok(Ok(found)) if found.as_ref().is_none_or(|found| trusts(found, &authority.bundle_pem())) => {
                break;
            }
            Ok(Ok(_)) => {
                ready.waiting(format!("the trust bundle is not in MutatingWebhookConfiguration {NAME} yet"));
            }
            Ok(Err(error)) => {
                ready.waiting(format!(
                    "MutatingWebhookConfiguration {NAME} cannot be read: {}",
                    describe(&error)
                ));
            }
            Err(_) => ready.waiting(format!("MutatingWebhookConfiguration {NAME}: no answer within {ASK:?}")),
        }
        sleep(LOOK).await;
    }
    ready.ready();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_managed_clusters_are_numbers_too() {
        assert_eq!(["1", "29", "29+", "31-gke.100"].map(number), [Some(1), Some(29), Some(29), Some(31)]);
        assert_eq!(["", "v1", "+"].map(number), [None; 3]);
    }

    #[test]
    fn the_cas_address_is_its_services() {
        let of = |spec: serde_json::Value| {
            address(&serde_json::from_value(serde_json::json!({"spec": spec})).unwrap())
                .map(|a| a.to_string())
        };
        let ports = serde_json::json!([{"port": 15012}]);
        let at = |ip: &str| of(serde_json::json!({"clusterIP": ip, "ports": ports}));
        assert_eq!(at("10.96.0.7").as_deref(), Some("10.96.0.7:15012"));
        assert_eq!(at("fd00::7").as_deref(), Some("[fd00::7]:15012"));
        assert_eq!(at("None"), None);
        assert_eq!(of(serde_json::json!({"ports": ports})), None);
    }

    #[test]
    fn the_bundle_has_to_be_in_every_entry() {
        let configuration = |bundles: &[&str]| -> MutatingWebhookConfiguration {
            let entry = |bundle: &&str| {
                let bundle = k8s_openapi::ByteString(bundle.as_bytes().to_vec());
                serde_json::json!({"name": "a.weft.dev", "admissionReviewVersions": ["v1"], "sideEffects": "None",
                    "clientConfig": {"caBundle": bundle}})
            };
            let entries: Vec<_> = bundles.iter().map(entry).collect();
            serde_json::from_value(serde_json::json!({"metadata": {"name": NAME}, "webhooks": entries}))
                .unwrap()
        };
        assert!(trusts(&configuration(&["a", "a"]), "a"));
        assert!(!trusts(&configuration(&["a", ""]), "a"));
        assert!(!trusts(&configuration(&["b"]), "a"));
    }
}
