//! A pod that is only tried out: does the API server have it injected?
//!
//! A dry run calls webhooks and admission plugins as for any pod and stores nothing, so it proves the whole way from the API
//! server to the injector. With `failurePolicy: Ignore` a failure shows as a pod that comes back without a sidecar. What
//! refuses the pod itself (a quota that is used up, a LimitRange, a policy engine) says nothing of the webhook: then the
//! next namespace is tried, and where it was refused is told.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::Pod;
use kube::api::PostParams;
use kube::{Api, Client};
use weft_control::client::describe;
use weft_control::controller::facts::{self, Inject};
use weft_control::names::{INIT, INJECT_LABEL, PROXY};

use super::refusals::Cause;
use super::report::{Finding, Vantage};
use crate::view::View;

/// Namespaces that are tried until one takes the pod.
const TRIES: usize = 16;

/// What a dry run came back with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum DryRun {
    Injected,
    NotInjected,
    /// It was injected, and was then refused for what the injector had put in.
    RefusedInjected,
    /// The API server could not call the webhook, and refuses pods for that.
    NotCalled(String),
    /// Wherever it was tried it was refused.
    Refused,
    /// This user may not.
    Forbidden,
    /// There is no namespace where a pod could ask.
    Nowhere,
}

/// The dry run, and where it was to be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tried {
    /// Where the outcome is from; empty where there is none.
    namespace: String,
    outcome: DryRun,
    /// Namespaces where it could not be had, and why.
    passed_over: Vec<(String, String)>,
}

impl Tried {
    /// Participating namespaces which refused the pod for its sidecar, with the API server's words.
    pub(super) fn refused_for_the_sidecar<'t>(
        &'t self,
        members: &BTreeSet<&str>,
    ) -> impl Iterator<Item = (&'t str, &'t str)> {
        let ours = self
            .passed_over
            .iter()
            .filter(|(namespace, words)| members.contains(namespace.as_str()) && names_ours(words));
        ours.map(|(namespace, words)| (namespace.as_str(), words.as_str()))
    }
}

/// Whether a refusal is about what the injector puts in.
fn names_ours(words: &str) -> bool {
    words.contains(INIT) || words.contains(PROXY)
}

/// Where a pod could ask for injection, the likeliest first: participating namespaces, those of `scope` before others,
/// then `default`, unless it is kept out. And participating ones where it would be refused for sure.
fn places(view: &View, scope: Option<&str>) -> (Vec<String>, Vec<(String, String)>) {
    let mut open = Vec::new();
    let mut closed = Vec::new();
    let mut members: Vec<&str> = view.members(None).collect();
    members.sort_by_key(|namespace| Some(*namespace) != scope);
    for namespace in members {
        let level = view.pod_security.get(namespace).filter(|level| *level != "privileged");
        if !view.world.writable(namespace) {
            closed.push((namespace.to_owned(), "it is being deleted".to_owned()));
        } else if let Some(level) = level {
            closed.push((namespace.to_owned(), format!("its Pod Security level is {level}")));
        } else {
            open.push(namespace.to_owned());
        }
    }
    let default = "default";
    if !view.world.members.contains(default)
        && view.world.may_participate(default)
        && view.world.writable(default)
    {
        open.push(default.to_owned());
    }
    (open, closed)
}

/// What the API server made of a pod.
enum Answer {
    Made { injected: bool },
    NotCalled(String),
    Refused(String),
    Forbidden(String),
}

/// Has the API server call the webhook.
pub(super) async fn dry_run(client: &Client, view: &View, scope: Option<&str>) -> Tried {
    let (open, mut passed_over) = places(view, scope);
    let mut outcome = DryRun::Nowhere;
    let mut from = String::new();
    for namespace in open.into_iter().take(TRIES) {
        let answer = tried(client, view, &namespace).await;
        let (found, words) = match answer {
            Answer::Made { injected: true } => (DryRun::Injected, None),
            Answer::Made { injected: false } => (DryRun::NotInjected, None),
            Answer::NotCalled(words) => (DryRun::NotCalled(words), None),
            Answer::Refused(words) if names_ours(&words) => (DryRun::RefusedInjected, Some(words)),
            Answer::Refused(words) => (DryRun::Refused, Some(words)),
            Answer::Forbidden(words) => (DryRun::Forbidden, Some(words)),
        };
        let better = rank(&found) > rank(&outcome);
        if better {
            (outcome, from) = (found, namespace.clone());
        }
        match words {
            // It may be taken in the next.
            Some(words) => passed_over.push((namespace, words)),
            None => break,
        }
    }
    Tried { namespace: from, outcome, passed_over }
}

/// How much an outcome says of the webhook.
fn rank(outcome: &DryRun) -> u8 {
    match outcome {
        DryRun::Nowhere => 0,
        DryRun::Forbidden => 1,
        DryRun::Refused => 2,
        DryRun::RefusedInjected => 3,
        DryRun::Injected | DryRun::NotInjected | DryRun::NotCalled(_) => 4,
    }
}

/// Tries a pod that says what it takes, as quotas want it, and then one that leaves that to the namespace's LimitRange.
async fn tried(client: &Client, view: &View, namespace: &str) -> Answer {
    match asked(client, view, namespace, true).await {
        Answer::Refused(words) if !names_ours(&words) && Cause::of(&words) == Some(Cause::Range) => {
            asked(client, view, namespace, false).await
        }
        answer => answer,
    }
}

async fn asked(client: &Client, view: &View, namespace: &str, sized: bool) -> Answer {
    let labelled = view.world.namespace(namespace).is_some_and(|facts| facts.inject == Inject::Enabled);
    let pod = match serde_json::from_value::<Pod>(pod(labelled, sized)) {
        Ok(pod) => pod,
        Err(error) => return Answer::Refused(error.to_string()),
    };
    let dry = PostParams { dry_run: true, ..PostParams::default() };
    match Api::<Pod>::namespaced(client.clone(), namespace).create(&dry, &pod).await {
        Ok(made) => Answer::Made { injected: facts::injected(&made) },
        Err(error) => {
            let words = describe(&error);
            if Cause::of(&words) == Some(Cause::Away) {
                Answer::NotCalled(words)
            } else if words.contains("cannot create resource") {
                // The authorizer's refusal has this form; admission plugins refuse with 403 as well.
                Answer::Forbidden(words)
            } else {
                Answer::Refused(words)
            }
        }
    }
}

/// A pod that even the level `restricted` takes, so that what is refused is refused for its sidecar.
fn pod(labelled: bool, sized: bool) -> serde_json::Value {
    let labels = if labelled { serde_json::json!({}) } else { serde_json::json!({INJECT_LABEL: "enabled"}) };
    let resources = if sized {
        serde_json::json!({"requests": {"cpu": "1m", "memory": "1Mi"}, "limits": {"cpu": "1m", "memory": "1Mi"}})
    } else {
        serde_json::json!({})
    };
    serde_json::json!({
        "metadata": {"generateName": "weft-check-", "labels": labels},
        "spec": {
            "automountServiceAccountToken": false,
            "securityContext": {"runAsNonRoot": true, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{
                "name": "app", "image": "weft-check", "resources": resources,
                "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}},
            }],
        },
    })
}

/// Judges a dry run.
pub(super) fn answers(tried: &Tried, own: &str) -> Finding {
    let id = "webhook.answers";
    let Tried { namespace, outcome, passed_over } = tried;
    let finding = match outcome {
        DryRun::Injected => Finding::ok(
            id,
            Vantage::ApiServer,
            format!("the API server has a pod injected (dry run in {namespace})"),
        ),
        DryRun::RefusedInjected => Finding::ok(
            id,
            Vantage::ApiServer,
            format!(
                "the API server calls the injector (dry run in {namespace}, which then refuses the pod: see namespaces.refusals)"
            ),
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
        DryRun::NotCalled(words) => Finding::failed(
            id,
            Vantage::ApiServer,
            format!("the API server refuses pods in {namespace}: {words}"),
            "with failurePolicy Fail nothing starts until the injector answers: see control.deployment",
        ),
        DryRun::Refused => Finding::skipped(
            id,
            Vantage::ApiServer,
            "no namespace takes the pod that was tried out, so nothing is known of the webhook",
        ),
        DryRun::Forbidden => Finding::skipped(
            id,
            Vantage::ApiServer,
            "you may not create pods in any namespace that takes part, not even as a dry run",
        ),
        DryRun::Nowhere => Finding::skipped(
            id,
            Vantage::ApiServer,
            "no namespace takes part that would take a pod, and default may not",
        ),
    };
    finding.details(passed_over.iter().map(|(namespace, why)| format!("not in {namespace}: {why}")))
}

#[cfg(test)]
#[path = "dry_run_tests.rs"]
mod tests;

/// For tests of what is made of a dry run.
#[cfg(test)]
pub(super) mod fixtures {
    use super::{DryRun, Tried};

    pub(in crate::check) fn nowhere() -> Tried {
        Tried { namespace: String::new(), outcome: DryRun::Nowhere, passed_over: Vec::new() }
    }

    pub(in crate::check) fn refused(namespace: &str, words: &str) -> Tried {
        let passed_over = vec![(namespace.to_owned(), words.to_owned())];
        Tried { namespace: namespace.to_owned(), outcome: DryRun::RefusedInjected, passed_over }
    }
}
