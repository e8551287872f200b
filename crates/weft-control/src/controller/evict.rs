//! Evictions: what [`recreate`](super::recreate) has decided is looked at once more, asked for, and its answer taken in.
//!
//! Beside the pass, as Events are: admission webhooks of others may hold an eviction up for as long as they like.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::{Request, StatusCode, header};
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::Eviction;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{DeleteOptions, ObjectMeta, Preconditions};
use kube::api::ListParams;
use kube::client::Body;
use kube::core::Status;
use kube::{Api, Client};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout};

use super::facts::Key;
use super::metrics::{Fault, Metrics, Recreated};
use super::outbox::Outbox;
use super::recreate::{Answer, Order, Plan, Recreation};
use super::settings::{RecreateSettings, Settings};
use super::world::World;
use super::writes::WRITE;
use crate::client::describe;
use crate::inject::{self, InjectSettings, Injector, Namespace, Outcome, ProbeSecret};
use crate::names::INJECTOR;
use crate::webhook::trusts;

/// Octets that are read of an answer; a Status has a few hundred.
const ANSWER: usize = 64 << 10;

/// What is remembered, and the eviction that is to be asked for.
#[derive(Debug, Default)]
pub(crate) struct Recreator {
    inner: Mutex<Inner>,
    ordered: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    recreation: Recreation,
    due: Option<Due>,
}

/// An order with the settings that it was made by.
#[derive(Debug)]
struct Due {
    order: Order,
    settings: RecreateSettings,
    injector: Option<InjectSettings>,
}

impl Recreator {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new leader begins anew.
    pub(crate) fn clear(&self) {
        *self.inner() = Inner::default();
    }

    /// Decides, and takes an order out of the plan to have it carried out.
    pub(crate) fn plan(&self, world: &World, settings: &Settings, now: Instant) -> Plan {
        let recreate = settings.controller.recreate_slipped;
        let mut inner = self.inner();
        let mut plan = inner.recreation.plan(world, &recreate, now);
        if let Some(order) = plan.order.take() {
            inner.due = Some(Due { order, settings: recreate, injector: settings.injector.clone() });
            self.ordered.notify_one();
        }
        plan
    }

    /// Carries orders out until dropped. `changed` is told of each that is done.
    pub(crate) async fn run(
        &self,
        evictor: &Evictor,
        changed: &Notify,
        (metrics, outbox): (&Metrics, &Outbox),
    ) {
        loop {
            self.ordered.notified().await;
            let due = self.inner().due.take();
            let Some(Due { order, settings, injector }) = due else { continue };
            let answer = evictor.carry_out(&order.key, &order.uid, injector).await;
            tell(&order.key, &answer);
            metrics.recreated(Recreated::of(&answer), 1);
            let notice = self.inner().recreation.answered(order, &answer, &settings, Instant::now());
            if notice.is_some_and(|notice| !outbox.once(notice)) {
                metrics.fault(Fault::EventLost, 1);
            }
            changed.notify_one();
        }
    }
}

fn tell(pod: &Key, answer: &Answer) {
    match answer {
        Answer::Evicted => tracing::info!(%pod, "evicted, for it has no sidecar"),
        Answer::Gone => tracing::debug!(%pod, "gone before it was evicted"),
        Answer::Refused(reason) => tracing::info!(%pod, reason, "cannot be evicted now"),
        Answer::Unsure(reason) => tracing::warn!(%pod, reason, "nobody knows whether it was evicted"),
        Answer::NotReady(reason) => tracing::warn!(reason, "pods without a sidecar are not made anew now"),
    }
}

/// Asks for evictions.
pub(crate) struct Evictor {
    client: Client,
    own: String,
    roots: watch::Receiver<Arc<str>>,
}

impl Evictor {
    pub(crate) fn new(client: Client, own: &str, roots: watch::Receiver<Arc<str>>) -> Self {
        Self { client, own: own.to_owned(), roots }
    }

    async fn carry_out(&self, key: &Key, uid: &str, injector: Option<InjectSettings>) -> Answer {
        let looked = timeout(WRITE, async {
            self.ready().await?;
            self.would_be_injected(key, uid, injector).await
        });
        match looked.await {
            Ok(Ok(())) => {}
            Ok(Err(answer)) => return answer,
            Err(_) => return Answer::NotReady(format!("the API server does not answer within {WRITE:?}")),
        }
        match timeout(WRITE, self.evict(key, uid)).await {
            Ok(answer) => answer,
            Err(_) => Answer::Unsure(format!("no answer within {WRITE:?}")),
        }
    }

    /// Whether the API server would ask the injector, and trust it.
    async fn ready(&self) -> Result<(), Answer> {
        let api: Api<MutatingWebhookConfiguration> = Api::all(self.client.clone());
        let what = format!("MutatingWebhookConfiguration {INJECTOR}");
        let found = api
            .get_opt(INJECTOR)
            .await
            .map_err(|error| Answer::NotReady(format!("{what} cannot be read: {}", describe(&error))))?;
        let Some(found) = found else { return Err(Answer::NotReady(format!("there is no {what}"))) };
        let entries = found.webhooks.as_deref().unwrap_or_default();
        let ours = entries.iter().all(|entry| {
            let service = entry.client_config.service.as_ref();
            service.is_some_and(|service| service.name == INJECTOR && service.namespace == self.own)
        });
        let roots = Arc::clone(&self.roots.borrow());
        let reason = if entries.is_empty() {
            "has no entry"
        } else if !ours {
            "calls another Service"
        } else if roots.is_empty() || !trusts(&found, &roots) {
            "does not have the trust bundle yet"
        } else {
            return Ok(());
        };
        Err(Answer::NotReady(format!("{what} {reason}")))
    }

    /// Whether a pod like this one would be let in, with a sidecar. One that is refused when it is made anew is lost.
    async fn would_be_injected(
        &self,
        key: &Key,
        uid: &str,
        injector: Option<InjectSettings>,
    ) -> Result<(), Answer> {
        let unreadable =
            |error: kube::Error| Answer::Refused(format!("it cannot be read: {}", describe(&error)));
        let Some(settings) = injector else {
            return Err(Answer::NotReady("the section injector of config.yaml is missing".to_owned()));
        };
        let pods = Api::<Pod>::namespaced(self.client.clone(), &key.namespace);
        // By a list, which the controller may do; the right to get pods one by one is not needed for anything else.
        let named = ListParams::default().fields(&format!("metadata.name={}", key.name));
        let found = pods.list(&named).await.map_err(unreadable)?;
        let is_it = |pod: &Pod| {
            pod.metadata.name.as_deref() == Some(&key.name) && pod.metadata.uid.as_deref() == Some(uid)
        };
        let Some(pod) = found.items.into_iter().find(is_it) else { return Err(Answer::Gone) };
        let namespaces = Api::<k8s_openapi::api::core::v1::Namespace>::all(self.client.clone());
        let labels = namespaces.get(&key.namespace).await.map_err(unreadable)?.metadata.labels;
        let namespace = Namespace {
            name: Some(key.namespace.clone()),
            labels: Some(labels.unwrap_or_default()),
            ..Namespace::default()
        };
        let injector = Injector {
            settings,
            native: true,
            own_namespace: self.own.clone(),
            // What it is does not matter here, only that there is one: pods that need it are not refused then.
            ca: Some(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0))),
        };
        let refused = |reason: String| Err(Answer::Refused(reason));
        let pod = serde_json::to_value(&pod).map_err(|error| Answer::Refused(error.to_string()))?;
        let secret = ProbeSecret::draw().map_err(|error| Answer::Refused(error.to_string()))?;
        match inject::inject(&pod, &namespace, &injector, &secret) {
            Outcome::Patched(_) => Ok(()),
            Outcome::Skip(skip) => refused(format!("it would have no sidecar again: {}", skip.as_str())),
            Outcome::Invalid(reason) => refused(format!("it cannot be understood: {reason}")),
            Outcome::Refuse(problems) => {
                let told: Vec<String> = problems.iter().take(3).map(ToString::to_string).collect();
                refused(format!("the injector would refuse it: {}", told.join(" | ")))
            }
        }
    }

    /// Asks the API server to let the pod with this uid go.
    async fn evict(&self, key: &Key, uid: &str) -> Answer {
        let request = match eviction(key, uid) {
            Ok(request) => request,
            Err(reason) => return Answer::Refused(reason),
        };
        let response = match self.client.send(request).await {
            Ok(response) => response,
            Err(error) => return Answer::Unsure(describe(&error)),
        };
        let status = response.status();
        let body = axum::body::to_bytes(axum::body::Body::new(response.into_body()), ANSWER).await;
        if status.is_success() {
            return Answer::Evicted;
        }
        let said = body.ok().and_then(|octets| serde_json::from_slice::<Status>(&octets).ok());
        let reason = format!("{} (status {})", said.map(words).unwrap_or_default(), status.as_u16());
        match status {
            // Another pod has the name by now: the uid in the precondition is not its own.
            StatusCode::NOT_FOUND | StatusCode::CONFLICT => Answer::Gone,
            StatusCode::GATEWAY_TIMEOUT | StatusCode::BAD_GATEWAY => Answer::Unsure(reason.trim().to_owned()),
            // 429: a budget, or one that is not counted yet. 500: more than one budget. 403: a policy, or no right.
            _ => Answer::Refused(reason.trim().to_owned()),
        }
    }
}

/// What the API server says; of a budget, which one is in the name of the cause.
fn words(status: Status) -> String {
    let causes = status.details.map(|details| details.causes).unwrap_or_default();
    let more: Vec<String> =
        causes.into_iter().map(|cause| cause.message).filter(|text| !text.is_empty()).collect();
    let all: Vec<String> =
        Some(status.message).filter(|text| !text.is_empty()).into_iter().chain(more).collect();
    all.join(" ")
}

/// `policy/v1 Eviction`.
///
/// Not by [`Api::evict`]: kube writes `delete_options` where the API has `deleteOptions`, which the API server ignores,
/// and the precondition with it. That a client does not ask again by itself after a 429 is seen to in
/// [`client`](crate::client).
fn eviction(key: &Key, uid: &str) -> Result<Request<Body>, String> {
    let preconditions = Preconditions { uid: Some(uid.to_owned()), resource_version: None };
    let eviction = Eviction {
        metadata: ObjectMeta {
            name: Some(key.name.clone()),
            namespace: Some(key.namespace.clone()),
            ..ObjectMeta::default()
        },
        delete_options: Some(DeleteOptions {
            preconditions: Some(preconditions),
            ..DeleteOptions::default()
        }),
    };
    let octets = serde_json::to_vec(&eviction).map_err(|error| error.to_string())?;
    Request::post(format!("/api/v1/namespaces/{}/pods/{}/eviction", key.namespace, key.name))
        .header(header::CONTENT_TYPE, "application/json")
        .body(Body::from(octets))
        .map_err(|error| error.to_string())
}

#[cfg(test)]
#[path = "evict_tests.rs"]
mod tests;
