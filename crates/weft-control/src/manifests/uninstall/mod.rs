//! Takes an installation away again.
//!
//! Much of what there is to remove no manifest names: the key of the CA, the membership in each namespace, the twins of
//! services, the lease. So removal asks the API server what is there ([`Uninstall::survey`]), and only then removes it
//! ([`Uninstall::remove`]): the webhook first, so that no new pod gets a sidecar; then `weft control`, and not until its last
//! pod has ended the rest, because a controller that still runs would make it anew.
//!
//! Pods with sidecars lose the CA: they go on until their certificates end, and pods that start meanwhile never become
//! ready. That is why the caller must ask before it removes anything while [`Survey::injected`] is not empty.

mod leftover;

use std::time::Duration;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, Secret, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use k8s_openapi::api::scheduling::v1::PriorityClass;
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, Preconditions, PropagationPolicy};
use kube::core::ApiResource;
use kube::{Client, Resource, ResourceExt as _};
use serde::de::DeserializeOwned;
use tokio::time::{Instant, sleep};

use super::meta::{CONTROL, MANAGED_BY, WEFT};
use crate::KubeError;
use crate::controller::facts;
use crate::names::{INJECTOR, TWIN_OF};

/// How long something that was deleted may take to be gone: twice the grace period of `weft control`.
const GONE_WITHIN: Duration = Duration::from_secs(60);
/// How often that is looked at.
const LOOK: Duration = Duration::from_millis(300);
/// Objects per answer of the API server.
const PAGE: u32 = 500;
const DEPLOYMENT: &str = "Deployment";

/// What to remove.
#[derive(Debug, Clone)]
pub struct Uninstall {
    /// Weft's own namespace.
    pub namespace: String,
    /// Leave the Secret `weft-ca` (and with it the namespace), so that a later installation has the same root.
    pub keep_ca: bool,
    /// Only what was made at run time: Helm removes the rest.
    pub runtime_objects: bool,
}

/// One object to remove.
#[derive(Debug, Clone)]
pub struct Removal {
    /// Its kind.
    pub kind: String,
    /// Its namespace, if it has one.
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
    uid: Option<String>,
    api: ApiResource,
}

impl std::fmt::Display for Removal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{} {namespace}/{}", self.kind, self.name),
            None => write!(f, "{} {}", self.kind, self.name),
        }
    }
}

/// What there is.
#[derive(Debug)]
pub struct Survey {
    /// Pods with a sidecar that run, `namespace/name`, sorted.
    pub injected: Vec<String>,
    /// What would be removed, in that order. The namespace itself is not in it.
    pub removals: Vec<Removal>,
    /// Weft made the namespace: it goes as well, if nothing else is in it.
    pub own_namespace: bool,
}

/// What became of Weft's namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NamespaceEnd {
    /// Gone.
    Removed,
    /// Somebody else made it, or the whole was not to be removed.
    NotOurs,
    /// These are in it, `Kind/name`.
    InUse(Vec<String>),
}

impl Uninstall {
    /// Finds out what is there.
    ///
    /// # Errors
    /// [`KubeError::Api`] where the API server does not answer or refuses, and [`KubeError::HelmRelease`] where all of it
    /// was to be removed although Helm installed it.
    pub async fn survey(&self, client: &Client) -> Result<Survey, KubeError> {
        let mut survey =
            Survey { injected: injected(client).await?, removals: Vec::new(), own_namespace: false };
        if !self.runtime_objects {
            self.refuse_helm(client).await?;
            self.installed_first(client, &mut survey.removals).await?;
        }
        self.made_at_run_time(client, &mut survey.removals).await?;
        if !self.runtime_objects {
            self.installed_last(client, &mut survey.removals).await?;
            let namespace = Api::<Namespace>::all(client.clone()).get_opt(&self.namespace).await;
            let namespace = namespace.map_err(api("read the namespace"))?;
            survey.own_namespace = namespace.is_some_and(|found| ours(found.labels()));
        }
        Ok(survey)
    }

    /// Removes what the survey found, telling each object once it is deleted, and then the namespace.
    ///
    /// # Errors
    /// [`KubeError::Api`], and [`KubeError::NotGone`] where `weft control` does not end within a minute. What was removed
    /// until then stays removed, and another run goes on from there.
    pub async fn remove(
        &self,
        client: &Client,
        survey: &Survey,
        mut told: impl FnMut(&Removal),
    ) -> Result<NamespaceEnd, KubeError> {
        if self.runtime_objects {
            self.control_has_ended(client).await?;
        }
        for removal in &survey.removals {
            delete(client, removal).await?;
            if removal.kind == DEPLOYMENT {
                let deployments = Api::<Deployment>::namespaced(client.clone(), &self.namespace);
                until_gone("the pods of weft-control", || async {
                    Ok(deployments.get_opt(CONTROL).await?.is_none())
                })
                .await?;
            }
            told(removal);
        }
        if !survey.own_namespace {
            return Ok(NamespaceEnd::NotOurs);
        }
        let left = leftover::of(client, &self.namespace).await?;
        if !left.is_empty() {
            return Ok(NamespaceEnd::InUse(left));
        }
        let namespaces = Api::<Namespace>::all(client.clone());
        let deleted = namespaces.delete(&self.namespace, &DeleteParams::default()).await;
        gone_is_fine(deleted.map(drop)).map_err(api("delete the namespace"))?;
        until_gone("the namespace", || async { Ok(namespaces.get_opt(&self.namespace).await?.is_none()) })
            .await?;
        Ok(NamespaceEnd::Removed)
    }

    /// A release of Helm's would be left without objects, and Helm with a record of them.
    async fn refuse_helm(&self, client: &Client) -> Result<(), KubeError> {
        let deployment =
            Api::<Deployment>::namespaced(client.clone(), &self.namespace).get_opt(CONTROL).await;
        let Some(deployment) = deployment.map_err(api("read the Deployment weft-control"))? else {
            return Ok(());
        };
        if deployment.labels().get(MANAGED_BY).is_none_or(|by| by != "Helm") {
            return Ok(());
        }
        let release = deployment.annotations().get("meta.helm.sh/release-name").cloned();
        Err(KubeError::HelmRelease {
            namespace: self.namespace.clone(),
            release: release.unwrap_or_else(|| "weft".to_owned()),
        })
    }

    /// What must be away before anything else: the webhook, then the program.
    async fn installed_first(&self, client: &Client, found: &mut Vec<Removal>) -> Result<(), KubeError> {
        named(Api::<MutatingWebhookConfiguration>::all(client.clone()), INJECTOR, found).await?;
        self.mine::<Deployment>(client, CONTROL, found).await
    }

    async fn installed_last(&self, client: &Client, found: &mut Vec<Removal>) -> Result<(), KubeError> {
        self.mine::<PodDisruptionBudget>(client, CONTROL, found).await?;
        self.mine::<NetworkPolicy>(client, CONTROL, found).await?;
        for service in ["weft-ca", INJECTOR, "weft-control-metrics"] {
            self.mine::<Service>(client, service, found).await?;
        }
        self.mine::<ConfigMap>(client, "weft-config", found).await?;
        self.mine::<RoleBinding>(client, CONTROL, found).await?;
        self.mine::<Role>(client, CONTROL, found).await?;
        named(Api::<ClusterRoleBinding>::all(client.clone()), CONTROL, found).await?;
        named(Api::<ClusterRole>::all(client.clone()), CONTROL, found).await?;
        self.mine::<ServiceAccount>(client, CONTROL, found).await?;
        named(Api::<PriorityClass>::all(client.clone()), CONTROL, found).await
    }

    async fn made_at_run_time(&self, client: &Client, found: &mut Vec<Removal>) -> Result<(), KubeError> {
        let twins = ListParams::default().labels(&format!("{TWIN_OF},{MANAGED_BY}={WEFT}"));
        listed(Api::<Service>::all(client.clone()), twins, found).await?;
        // By name, because that is what the rights of the uninstalling Job are restricted to.
        let meshes = ListParams::default().fields("metadata.name=weft-mesh");
        listed(Api::<ConfigMap>::all(client.clone()), meshes, found).await?;
        self.own::<Lease>(client, "weft-controller", found).await?;
        self.own::<ConfigMap>(client, "weft-state", found).await?;
        if !self.keep_ca {
            self.own::<Secret>(client, "weft-ca", found).await?;
        }
        Ok(())
    }

    /// An object of Weft's namespace that an installation made.
    async fn mine<K>(&self, client: &Client, name: &str, found: &mut Vec<Removal>) -> Result<(), KubeError>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + DeserializeOwned
            + std::fmt::Debug,
    {
        named(Api::<K>::namespaced(client.clone(), &self.namespace), name, found).await
    }

    /// An object of Weft's namespace that `weft control` made; its name is enough.
    async fn own<K>(&self, client: &Client, name: &str, found: &mut Vec<Removal>) -> Result<(), KubeError>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + DeserializeOwned
            + std::fmt::Debug,
    {
        let object = Api::<K>::namespaced(client.clone(), &self.namespace).get_opt(name).await;
        found.extend(object.map_err(api(&format!("read {}/{name}", K::kind(&()))))?.as_ref().map(removal));
        Ok(())
    }

    /// Waits for the last pod of `weft control`.
    async fn control_has_ended(&self, client: &Client) -> Result<(), KubeError> {
        let pods = Api::<Pod>::namespaced(client.clone(), &self.namespace);
        let selector = "app.kubernetes.io/name=weft,app.kubernetes.io/component=control";
        let few = ListParams::default().labels(selector).limit(1);
        until_gone("the pods of weft-control", || async { Ok(pods.list(&few).await?.items.is_empty()) }).await
    }
}

/// An object with Weft's labels.
fn ours(labels: &std::collections::BTreeMap<String, String>) -> bool {
    let is = |key: &str| labels.get(key).is_some_and(|value| value == WEFT);
    is("app.kubernetes.io/part-of") && is(MANAGED_BY)
}

fn removal<K: Resource<DynamicType = ()>>(object: &K) -> Removal {
    Removal {
        kind: K::kind(&()).into_owned(),
        namespace: object.meta().namespace.clone(),
        name: object.meta().name.clone().unwrap_or_default(),
        uid: object.meta().uid.clone(),
        api: ApiResource::erase::<K>(&()),
    }
}

/// An object of an installation, if it is there and carries Weft's labels: a namesake is somebody else's.
async fn named<K>(objects: Api<K>, name: &str, found: &mut Vec<Removal>) -> Result<(), KubeError>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug,
{
    let object = objects.get_opt(name).await.map_err(api(&format!("read {}/{name}", K::kind(&()))))?;
    found.extend(object.filter(|object| ours(object.labels())).as_ref().map(removal));
    Ok(())
}

async fn listed<K>(objects: Api<K>, mut params: ListParams, found: &mut Vec<Removal>) -> Result<(), KubeError>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug,
{
    params = params.limit(PAGE);
    loop {
        let page = objects.list(&params).await.map_err(api(&format!("list {}", K::plural(&()))))?;
        let managed = |object: &&K| object.labels().get(MANAGED_BY).is_some_and(|by| by == WEFT);
        found.extend(page.items.iter().filter(managed).map(removal));
        match page.metadata.continue_ {
            Some(token) if !token.is_empty() => params = params.continue_token(&token),
            _ => return Ok(()),
        }
    }
}

/// All pods with a sidecar that have not ended.
async fn injected(client: &Client) -> Result<Vec<String>, KubeError> {
    // The API server leaves out those that have ended.
    let mut params = ListParams::default().fields("status.phase!=Succeeded,status.phase!=Failed").limit(PAGE);
    let pods = Api::<Pod>::all(client.clone());
    let mut names = Vec::new();
    loop {
        let page = pods.list(&params).await.map_err(api("list pods"))?;
        let sidecars = page.items.iter().filter(|pod| facts::injected(pod));
        names.extend(
            sidecars.map(|pod| format!("{}/{}", pod.namespace().unwrap_or_default(), pod.name_any())),
        );
        match page.metadata.continue_ {
            Some(token) if !token.is_empty() => params = params.continue_token(&token),
            _ => break,
        }
    }
    names.sort_unstable();
    Ok(names)
}

async fn delete(client: &Client, removal: &Removal) -> Result<(), KubeError> {
    let objects: Api<DynamicObject> = match &removal.namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &removal.api),
        None => Api::all_with(client.clone(), &removal.api),
    };
    let params = DeleteParams {
        // The Deployment's name stays until its pods are gone; everything else goes at once.
        propagation_policy: Some(if removal.kind == DEPLOYMENT {
            PropagationPolicy::Foreground
        } else {
            PropagationPolicy::Background
        }),
        // Not a namesake that was made since the survey.
        preconditions: Some(Preconditions { uid: removal.uid.clone(), resource_version: None }),
        ..Default::default()
    };
    gone_is_fine(objects.delete(&removal.name, &params).await.map(drop))
        .map_err(api(&format!("delete {removal}")))
}

/// What is gone already needs no deletion; nor does what was replaced (409 for the precondition).
fn gone_is_fine(result: Result<(), kube::Error>) -> Result<(), kube::Error> {
    match result {
        Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => Ok(()),
        other => other,
    }
}

async fn until_gone<F, R>(what: &'static str, mut gone: F) -> Result<(), KubeError>
where
    F: FnMut() -> R,
    R: Future<Output = Result<bool, kube::Error>>,
{
    let end = Instant::now() + GONE_WITHIN;
    while !gone().await.map_err(api(&format!("look for {what}")))? {
        if Instant::now() >= end {
            return Err(KubeError::NotGone { what, seconds: GONE_WITHIN.as_secs() });
        }
        sleep(LOOK).await;
    }
    Ok(())
}

/// An error of the API server, with what was tried.
fn api(action: &str) -> impl FnOnce(kube::Error) -> KubeError {
    let what = format!("cannot {action}");
    move |error| {
        let reason = match error {
            kube::Error::Api(status) if !status.message.is_empty() => status.message.clone(),
            other => other.to_string(),
        };
        KubeError::Api { what, reason }
    }
}

#[cfg(test)]
mod tests;
