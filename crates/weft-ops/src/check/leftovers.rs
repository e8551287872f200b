//! Before an installation: what an earlier one has left, and what cannot be known yet.

use kube::Client;
use weft_control::KubeError;
use weft_control::manifests::{Survey, Uninstall};
use weft_control::names::CA_SECRET;

use super::report::{Finding, Vantage};
use crate::words::{counted, have};

const ID: &str = "install.leftovers";

/// Looks for all that an installation is made of and makes, as `weft uninstall` does.
pub(super) async fn look(client: &Client, own: &str) -> Finding {
    let uninstall = Uninstall { namespace: own.to_owned(), keep_ca: false, runtime_objects: false };
    match uninstall.survey(client).await {
        Ok(survey) => judge(&survey, own),
        Err(KubeError::HelmRelease { namespace, release }) => Finding::warning(
            ID,
            Vantage::Api,
            format!("Helm has a release {release} of Weft in {namespace}"),
            format!(
                "upgrade it (helm upgrade {release}), or remove it first (helm uninstall {release} --namespace {namespace})"
            ),
        ),
        Err(error) => Finding::skipped(ID, Vantage::Api, format!("what is left cannot be listed: {error}")),
    }
}

fn judge(survey: &Survey, own: &str) -> Finding {
    let left: Vec<String> = survey.removals.iter().map(ToString::to_string).collect();
    let sidecars = counted(survey.injected.len(), "pod", "pods");
    let root = survey.removals.iter().any(|removal| removal.kind == "Secret" && removal.name == CA_SECRET);
    if !survey.injected.is_empty() && !root {
        let summary = format!(
            "{sidecars} {} a sidecar of a former installation, whose root is gone",
            have(survey.injected.len())
        );
        let cure = "with a new root they and new pods do not trust each other: put the Secret weft-ca back from a backup before you install, or restart their workloads \
                    right after it";
        return Finding::warning(ID, Vantage::Api, summary, cure).details(survey.injected.iter().cloned());
    }
    if left.is_empty() {
        return Finding::ok(ID, Vantage::Api, "nothing of an earlier installation is there");
    }
    let summary = format!("an earlier installation has left {}", counted(left.len(), "object", "objects"));
    let cure = format!(
        "an installation takes them on, the root in the Secret weft-ca too; to begin anew: weft uninstall --namespace {own}"
    );
    Finding::warning(ID, Vantage::Api, summary, cure).details(left)
}

/// What nobody can know before a pod with a sidecar has started: the API server tells nothing of it.
pub(super) fn not_yet_known() -> Finding {
    Finding::skipped(
        "install.kernels",
        Vantage::Api,
        "whether the nodes' kernels have iptables' modules, and their runtime grants NET_ADMIN, is told by weft-init of the first pod with a sidecar: begin with one pod",
    )
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use kube::client::Body;
    use serde_json::{Value, json};

    use super::super::report::State;
    use super::*;

    /// An API server that has these objects by path; lists are those below their path.
    fn client(objects: &[(&str, Value)]) -> Client {
        let objects: Vec<(String, Value)> =
            objects.iter().map(|(path, object)| ((*path).to_owned(), object.clone())).collect();
        let service = tower::service_fn(move |request: http::Request<Body>| {
            let path = request.uri().path().to_owned();
            let one = objects.iter().find(|(at, _)| *at == path).map(|(_, object)| object.clone());
            let kind = path.rsplit('/').next().unwrap_or_default();
            let of_kind = format!("/{kind}/");
            let (code, body) = match one {
                Some(object) => (200, object),
                None if ["pods", "services", "configmaps"].contains(&kind) => {
                    let items: Vec<&Value> = objects
                        .iter()
                        .filter(|(at, _)| at.contains(&of_kind))
                        .map(|(_, object)| object)
                        .collect();
                    (200, json!({"kind": "List", "apiVersion": "v1", "metadata": {}, "items": items}))
                }
                None => (
                    404,
                    json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404, "message": "no"}),
                ),
            };
            let reply =
                http::Response::builder().status(code).body(Body::from(body.to_string().into_bytes()));
            async move { Ok::<_, Infallible>(reply.unwrap()) }
        });
        Client::new(service, "default")
    }

    fn named(name: &str, by: &str) -> Value {
        json!({"metadata": {"name": name, "namespace": "weft-system", "uid": name,
                            "labels": {"app.kubernetes.io/part-of": "weft", "app.kubernetes.io/managed-by": by},
                            "annotations": {"meta.helm.sh/release-name": "mesh"}}})
    }

    fn injected() -> (&'static str, Value) {
        let pod = json!({"metadata": {"name": "web", "namespace": "shop"},
                         "spec": {"containers": [], "initContainers": [{"name": "weft-init"}, {"name": "weft-proxy"}]}});
        ("/api/v1/namespaces/shop/pods/web", pod)
    }

    #[tokio::test]
    async fn a_former_installation_is_told_and_what_it_means_for_its_pods() {
        let nothing = look(&client(&[]), "weft-system").await;
        assert_eq!((nothing.state, nothing.details.len()), (State::Ok, 0));

        let secret = ("/api/v1/namespaces/weft-system/secrets/weft-ca", named("weft-ca", "weft"));
        let kept = look(&client(std::slice::from_ref(&secret)), "weft-system").await;
        assert_eq!(
            (kept.state, kept.details.as_slice()),
            (State::Warning, &["Secret weft-system/weft-ca".to_owned()][..])
        );
        assert_eq!(kept.summary, "an earlier installation has left 1 object");

        let lost = look(&client(&[injected()]), "weft-system").await;
        assert_eq!(lost.state, State::Warning);
        assert_eq!(lost.summary, "1 pod has a sidecar of a former installation, whose root is gone");
        let both = look(&client(&[injected(), secret]), "weft-system").await;
        assert!(both.summary.contains("has left"), "the root is there: {both:?}");
    }

    #[tokio::test]
    async fn a_release_of_helms_is_helms_to_remove() {
        let deployment =
            ("/apis/apps/v1/namespaces/weft-system/deployments/weft-control", named("weft-control", "Helm"));
        let found = look(&client(&[deployment]), "weft-system").await;
        assert_eq!(found.state, State::Warning);
        assert!(found.cure.unwrap().contains("helm upgrade mesh"));
    }
}
