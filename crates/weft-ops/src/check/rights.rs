//! Whether this user may make what an installation is made of, and whether something is in the way of it.

use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
};
use k8s_openapi::api::core::v1::Namespace;
use kube::api::PostParams;
use kube::{Api, Client, ResourceExt as _};
use weft_control::client::describe;
use weft_control::manifests::{self, Values};
use weft_control::names::{ASKS, INJECT_LABEL};

use super::report::{Finding, Vantage};
use crate::view::list;

/// A kind: API group, resource, whether it has a namespace. `weft install` makes no others; a test holds this to it.
const KINDS: [(&str, &str, &str, bool); 14] = [
    ("Namespace", "", "namespaces", false),
    ("PriorityClass", "scheduling.k8s.io", "priorityclasses", false),
    ("ServiceAccount", "", "serviceaccounts", true),
    ("ClusterRole", "rbac.authorization.k8s.io", "clusterroles", false),
    ("ClusterRoleBinding", "rbac.authorization.k8s.io", "clusterrolebindings", false),
    ("Role", "rbac.authorization.k8s.io", "roles", true),
    ("RoleBinding", "rbac.authorization.k8s.io", "rolebindings", true),
    ("ConfigMap", "", "configmaps", true),
    ("NetworkPolicy", "networking.k8s.io", "networkpolicies", true),
    ("Service", "", "services", true),
    ("Deployment", "apps", "deployments", true),
    ("PodDisruptionBudget", "policy", "poddisruptionbudgets", true),
    ("Secret", "", "secrets", true),
    ("MutatingWebhookConfiguration", "admissionregistration.k8s.io", "mutatingwebhookconfigurations", false),
];

/// Whether the names are free.
pub(super) const CLEAR: &str = "install.clear";

/// Other meshes' injectors, by what the names of their webhook configurations begin with.
const OTHERS: [(&str, &str); 4] = [
    ("istio-sidecar-injector", "Istio"),
    ("linkerd-proxy-injector", "Linkerd"),
    ("consul-connect-injector", "Consul"),
    ("osm-webhook", "Open Service Mesh"),
];

/// The kinds that an installation makes.
fn installed() -> Vec<&'static (&'static str, &'static str, &'static str, bool)> {
    let objects =
        Values::read(&[]).ok().and_then(|values| manifests::render(&values, "weft-system", true).ok());
    let made = objects.unwrap_or_default();
    KINDS.iter().filter(|kind| made.iter().any(|object| object.kind == kind.0)).collect()
}

/// Asks the API server for each kind.
pub(super) async fn may_install(client: &Client, own: &str) -> Finding {
    let id = "install.permissions";
    let mut missing = Vec::new();
    let mut asked = 0;
    for (kind, group, resource, namespaced) in installed() {
        asked += 1;
        match may(client, "create", group, resource, namespaced.then_some(own)).await {
            Ok(true) => {}
            Ok(false) => missing.push(format!("create {kind} ({})", group_of(group))),
            Err(error) => {
                return Finding::skipped(
                    id,
                    Vantage::Api,
                    format!("the API server does not tell what you may do: {}", describe(&error)),
                );
            }
        }
    }
    let role = "rbac.authorization.k8s.io";
    // Nobody may hand out rights that he does not have himself, unless he may escalate.
    let all = may(client, "*", "*", "*", None).await.unwrap_or(false);
    let escalate = all || may(client, "escalate", role, "clusterroles", None).await.unwrap_or(false);
    if !missing.is_empty() {
        let cure = "install as a cluster administrator (a user bound to the ClusterRole cluster-admin)";
        return Finding::failed(
            id,
            Vantage::Api,
            format!("you may not make {} of {asked} kinds of objects", missing.len()),
            cure,
        )
        .details(missing);
    }
    if !escalate {
        return Finding::warning(
            id,
            Vantage::Api,
            "you may make all objects, but the API server refuses the roles unless you hold every right in them",
            "install as a cluster administrator, or as a user with the verb escalate on roles and clusterroles",
        );
    }
    Finding::ok(id, Vantage::Api, format!("you may make all {asked} kinds of objects"))
}

fn group_of(group: &str) -> &str {
    if group.is_empty() { "core" } else { group }
}

/// Whether this user may do it.
pub(super) async fn may(
    client: &Client,
    verb: &str,
    group: &str,
    resource: &str,
    namespace: Option<&str>,
) -> Result<bool, kube::Error> {
    let attributes = ResourceAttributes {
        verb: Some(verb.to_owned()),
        group: Some(group.to_owned()),
        resource: Some(resource.to_owned()),
        namespace: namespace.map(str::to_owned),
        ..ResourceAttributes::default()
    };
    let review = SelfSubjectAccessReview {
        spec: SelfSubjectAccessReviewSpec {
            resource_attributes: Some(attributes),
            non_resource_attributes: None,
        },
        ..SelfSubjectAccessReview::default()
    };
    let answer =
        Api::<SelfSubjectAccessReview>::all(client.clone()).create(&PostParams::default(), &review).await?;
    Ok(answer.status.is_some_and(|status| status.allowed))
}

/// What is in the cluster already.
pub(super) async fn in_the_way(client: &Client, own: &str) -> Vec<Finding> {
    let webhooks: Result<Vec<MutatingWebhookConfiguration>, _> = list(Api::all(client.clone()), "").await;
    let namespaces: Result<Vec<Namespace>, _> = list(Api::all(client.clone()), "").await;
    let (webhooks, namespaces) = match (webhooks, namespaces) {
        (Ok(webhooks), Ok(namespaces)) => (webhooks, namespaces),
        (Err(error), _) | (_, Err(error)) => {
            return vec![Finding::skipped(
                CLEAR,
                Vantage::Api,
                format!("what is there cannot be listed: {}", describe(&error)),
            )];
        }
    };
    vec![name_taken(&webhooks, own), others(&webhooks, &namespaces)]
}

fn name_taken(webhooks: &[MutatingWebhookConfiguration], own: &str) -> Finding {
    let id = CLEAR;
    let Some(found) = webhooks.iter().find(|webhook| webhook.name_any() == "weft-injector") else {
        return Finding::ok(id, Vantage::Api, "nothing has the names that Weft needs");
    };
    let place = found
        .webhooks
        .iter()
        .flatten()
        .find_map(|w| w.client_config.service.as_ref())
        .map(|s| s.namespace.clone());
    let ours = found.labels().get("app.kubernetes.io/part-of").is_some_and(|part| part == "weft");
    match place {
        Some(place) if ours && place == own => Finding::warning(
            id,
            Vantage::Api,
            format!("Weft is installed in {own} already"),
            "run weft check without --pre; to upgrade, apply weft install again",
        ),
        Some(place) if ours => Finding::failed(
            id,
            Vantage::Api,
            format!(
                "Weft is installed in the namespace {place}: there is one webhook configuration per cluster"
            ),
            format!("remove it (weft uninstall --namespace {place}), or install into {place}"),
        ),
        _ => Finding::failed(
            id,
            Vantage::Api,
            "there is a MutatingWebhookConfiguration weft-injector that Weft has not made",
            "delete it if nobody needs it: kubectl delete mutatingwebhookconfiguration weft-injector",
        ),
    }
}

/// Two sidecars in one pod would capture each other's traffic.
pub(super) fn others(webhooks: &[MutatingWebhookConfiguration], namespaces: &[Namespace]) -> Finding {
    let id = "install.other-meshes";
    let installed = OTHERS
        .iter()
        .filter(|(prefix, _)| webhooks.iter().any(|webhook| webhook.name_any().starts_with(prefix)));
    let installed: Vec<&str> = installed.map(|(_, name)| *name).collect();
    let asks = |namespace: &Namespace| {
        let label = |key: &str| namespace.labels().get(key).map(String::as_str);
        let istio = label("istio-injection") == Some("enabled")
            || label("istio.io/rev").is_some()
            || label("istio.io/dataplane-mode") == Some("ambient");
        let linkerd =
            namespace.annotations().get("linkerd.io/inject").is_some_and(|value| value != "disabled");
        if istio { Some("Istio") } else { linkerd.then_some("Linkerd") }
    };
    let asking = namespaces.iter().filter_map(|namespace| {
        let mesh = asks(namespace)?;
        let both = namespace.labels().get(INJECT_LABEL).is_some_and(|value| ASKS.contains(&value.as_str()));
        let more = if both { ", and Weft's by weft.dev/inject" } else { "" };
        Some(format!("the namespace {} asks for {mesh}'s sidecar{more}", namespace.name_any()))
    });
    let asking: Vec<String> = asking.collect();
    if installed.is_empty() && asking.is_empty() {
        return Finding::ok(id, Vantage::Api, "no other mesh injects sidecars");
    }
    let summary = match installed.as_slice() {
        [] => "namespaces are labelled for another mesh, which is not installed".to_owned(),
        names => format!("{} is installed as well", names.join(", ")),
    };
    let cure = "a pod can have one mesh: take the other mesh's label or annotation off a namespace before it gets weft.dev/inject";
    Finding::warning(id, Vantage::Api, summary, cure).details(asking)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::report::State;
    use super::*;

    #[test]
    fn every_kind_of_an_installation_is_asked_for() {
        let values = Values::read(&[]).unwrap();
        for object in manifests::render(&values, "weft-system", true).unwrap() {
            assert!(KINDS.iter().any(|kind| kind.0 == object.kind), "{}", object.kind);
        }
        assert!(installed().len() > 10);
    }

    fn webhook(name: &str, part_of: &str, namespace: &str) -> MutatingWebhookConfiguration {
        serde_json::from_value(json!({
            "metadata": {"name": name, "labels": {"app.kubernetes.io/part-of": part_of}},
            "webhooks": [{"name": "a.b.c", "admissionReviewVersions": ["v1"], "sideEffects": "None",
                          "clientConfig": {"service": {"name": "weft-injector", "namespace": namespace}}}],
        }))
        .unwrap()
    }

    #[test]
    fn a_namesake_is_in_the_way() {
        let judge = |webhooks: &[MutatingWebhookConfiguration]| name_taken(webhooks, "weft-system").state;
        assert_eq!(judge(&[webhook("other", "x", "y")]), State::Ok);
        assert_eq!(judge(&[webhook("weft-injector", "weft", "weft-system")]), State::Warning);
        assert_eq!(judge(&[webhook("weft-injector", "weft", "elsewhere")]), State::Failed);
        assert_eq!(judge(&[webhook("weft-injector", "x", "weft-system")]), State::Failed);
    }

    #[test]
    fn other_meshes_are_told_with_their_namespaces() {
        let namespace = |name: &str, labels: Value, annotations: Value| -> Namespace {
            serde_json::from_value(
                json!({"metadata": {"name": name, "labels": labels, "annotations": annotations}}),
            )
            .unwrap()
        };
        let found = others(
            &[webhook("istio-sidecar-injector-canary", "", "i")],
            &[
                namespace(
                    "a",
                    json!({"istio-injection": "enabled", "weft.dev/inject": "enabled"}),
                    json!({}),
                ),
                namespace("b", json!({}), json!({"linkerd.io/inject": "enabled"})),
                namespace(
                    "c",
                    json!({"istio-injection": "disabled"}),
                    json!({"linkerd.io/inject": "disabled"}),
                ),
            ],
        );
        assert_eq!(found.state, State::Warning);
        assert!(found.summary.contains("Istio"));
        assert_eq!(found.details.len(), 2);
        assert!(found.details[0].contains("and Weft's"));
        assert_eq!(others(&[], &[]).state, State::Ok);
    }
}
