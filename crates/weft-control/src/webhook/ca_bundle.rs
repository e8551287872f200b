//! The trust bundle in the `MutatingWebhookConfiguration`, put there and kept there.
//!
//! The chart leaves it empty, since it does not know the root; an upgrade of the chart empties it again. Until it is back
//! the API server cannot reach the webhook and, by `failurePolicy: Ignore`, lets pods by. So the object is watched. Every
//! replica does it: they write the same.

use std::time::Duration;

use futures_util::StreamExt as _;
use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use kube::api::{Patch, PatchParams};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::sync::watch;

use super::NAME;

/// After a patch that failed.
const AGAIN: Duration = Duration::from_secs(5);

/// Keeps the bundle of the configuration equal to `bundle`, for ever.
pub(crate) async fn keep(client: Client, mut bundle: watch::Receiver<String>) {
    let api: Api<MutatingWebhookConfiguration> = Api::all(client);
    let events = watcher::watch_object(api.clone(), NAME).default_backoff();
    let mut events = std::pin::pin!(events);
    let mut current = None;
    let mut failed = false;
    loop {
        tokio::select! {
            event = events.next() => match event {
                Some(Ok(found)) => {
                    if found.is_none() {
                        tracing::warn!("there is no MutatingWebhookConfiguration {NAME}: no pod is injected");
                    }
                    current = found;
                }
                Some(Err(error)) => {
                    tracing::warn!(%error, "cannot watch MutatingWebhookConfiguration {NAME}");
                    continue;
                }
                None => return,
            },
            changed = bundle.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(AGAIN), if failed => {}
        }
        let wanted = bundle.borrow_and_update().clone();
        let Some(patch) = current.as_ref().and_then(|found| missing(found, &wanted)) else {
            failed = false;
            continue;
        };
        match api.patch(NAME, &PatchParams::default(), &Patch::Strategic(patch)).await {
            Ok(now) => {
                tracing::info!("trust bundle written to MutatingWebhookConfiguration {NAME}");
                current = Some(now);
                failed = false;
            }
            Err(error) => {
                tracing::warn!(%error, "cannot write the trust bundle to MutatingWebhookConfiguration {NAME}");
                failed = true;
            }
        }
    }
}

/// Whether every entry has this bundle: the API server trusts the injector then.
pub(crate) fn trusts(found: &MutatingWebhookConfiguration, bundle: &str) -> bool {
    missing(found, bundle).is_none()
}

/// The patch for those entries that have another bundle; `None` where all have this one.
fn missing(found: &MutatingWebhookConfiguration, bundle: &str) -> Option<Value> {
    let wanted = ByteString(bundle.as_bytes().to_vec());
    let other = found
        .webhooks
        .iter()
        .flatten()
        .filter(|entry| entry.client_config.ca_bundle.as_ref() != Some(&wanted));
    let entries: Vec<Value> =
        other.map(|entry| json!({"name": entry.name, "clientConfig": {"caBundle": wanted}})).collect();
    (!entries.is_empty()).then(|| json!({"webhooks": entries}))
}

#[cfg(test)]
#[path = "ca_bundle_tests.rs"]
mod tests;
