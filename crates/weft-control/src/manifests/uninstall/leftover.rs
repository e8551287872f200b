//! What is in a namespace besides what every namespace has.
//!
//! Deleting a namespace deletes all that is in it, of every kind, also kinds that Weft has never heard of. So all kinds are
//! asked for.

use kube::api::{Api, DynamicObject, ListParams};
use kube::core::ApiResource;
use kube::discovery::{Discovery, Scope, verbs};
use kube::{Client, ResourceExt as _};

use super::api;
use crate::KubeError;

/// More names than this help nobody.
const NAMED: u32 = 5;

/// Kinds that come and go by themselves with other objects.
const FOLLOWERS: [&str; 4] = ["Event", "Endpoints", "EndpointSlice", "ControllerRevision"];

/// Objects that Kubernetes puts into every namespace.
const STANDARD: [(&str, &str); 2] = [("ConfigMap", "kube-root-ca.crt"), ("ServiceAccount", "default")];

/// `Kind/name` of what is in the namespace, a few of each kind.
pub(super) async fn of(client: &Client, namespace: &str) -> Result<Vec<String>, KubeError> {
    let discovery = Discovery::new(client.clone()).run().await.map_err(api("ask which kinds there are"))?;
    let mut left = Vec::new();
    for group in discovery.groups() {
        for (resource, capabilities) in group.recommended_resources() {
            let mortal = capabilities.supports_operation(verbs::LIST)
                && capabilities.supports_operation(verbs::DELETE);
            if capabilities.scope == Scope::Namespaced
                && mortal
                && !FOLLOWERS.contains(&resource.kind.as_str())
            {
                left.extend(some(client, namespace, &resource).await?);
            }
        }
    }
    left.sort_unstable();
    left.dedup();
    Ok(left)
}

async fn some(client: &Client, namespace: &str, resource: &ApiResource) -> Result<Vec<String>, KubeError> {
    let objects: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, resource);
    let page = objects.list(&ListParams::default().limit(NAMED)).await;
    let page = page.map_err(api(&format!("list {} in {namespace}", resource.plural)))?;
    let named = page.items.iter().map(|object| (resource.kind.as_str(), object.name_any()));
    Ok(named
        .filter(|(kind, name)| !STANDARD.contains(&(*kind, name.as_str())))
        .map(|(kind, name)| format!("{kind}/{name}"))
        .collect())
}
