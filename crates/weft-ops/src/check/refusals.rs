//! Workloads whose pods are refused when they are made.
//!
//! A pod that is refused is nowhere to be seen: not among the pods, and its Deployment merely lacks one. Whoever was to
//! make it knows why. A ReplicaSet has it in its condition `ReplicaFailure` for as long as it is so; StatefulSets,
//! DaemonSets and Jobs tell it in Events with the reason `FailedCreate` only, which stay for an hour, so such a workload is
//! looked at itself before it is told of. With a sidecar a pod has two containers more, which a quota, a LimitRange or Pod
//! Security may refuse where it took the pod without them.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::StreamExt as _;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::{DaemonSet, ReplicaSet, StatefulSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Event;
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use weft_control::client::describe;
use weft_control::controller::facts::Key;

use super::dry_run::Tried;
use super::report::{Finding, Vantage};
use crate::scrape::AT_ONCE;
use crate::view::{View, Workload, sift};
use crate::words::counted;

/// Controllers try again after 1000 s at the latest (the limit of their work queues), so an Event that is older is of a
/// trouble that has passed.
const RECENT: i64 = 20 * 60;
/// Workloads that are looked at themselves. Somebody whose mesh has more in trouble is helped by the first already.
const MOST: usize = 100;
/// Of a message: the API server's may list every field of a pod.
const LONGEST: usize = 400;

/// A workload whose pods are refused.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Refusal {
    namespace: String,
    workload: Workload,
    words: String,
}

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    found: Vec<Refusal>,
    /// What could not be read, and why.
    unread: Vec<String>,
}

impl Refusals {
    /// Asks for them; `now` is Unix time in seconds.
    pub(super) async fn of(client: &Client, scope: Option<&str>, now: i64) -> Self {
        let (sets, events) = futures_util::join!(
            sift(place::<ReplicaSet>(client, scope), "", failing_set),
            sift(place::<Event>(client, scope), "reason=FailedCreate", |event| recent(&event, now)),
        );
        let mut refusals = Self::default();
        let sets_are_known = sets.is_ok();
        match sets {
            Ok(found) => refusals.found.extend(found),
            Err(error) => refusals.unread.push(format!("ReplicaSets: {}", describe(&error))),
        }
        match events {
            Ok(told) => {
                // Of one workload there may be many, the newest of which says how it is.
                let mut newest: BTreeMap<(String, Workload), (i64, String)> = BTreeMap::new();
                let others = told
                    .into_iter()
                    .filter(|(_, told)| !(sets_are_known && told.workload.kind == "replicaset"));
                for (at, Refusal { namespace, workload, words }) in others {
                    let entry = newest.entry((namespace, workload)).or_insert((at, String::new()));
                    if at >= entry.0 {
                        *entry = (at, words);
                    }
                }
                let told = newest.into_iter().map(|((namespace, workload), (_, words))| Refusal {
                    namespace,
                    workload,
                    words,
                });
                refusals.found.extend(still_so(client, told.take(MOST).collect()).await);
            }
            Err(error) => refusals.unread.push(format!("Events: {}", describe(&error))),
        }
        refusals
    }
}

fn place<K>(client: &Client, scope: Option<&str>) -> Api<K>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    match scope {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}

/// A ReplicaSet that cannot make its pods, by the name that people know it by: its Deployment's.
fn failing_set(set: ReplicaSet) -> Option<Refusal> {
    let conditions = set.status?.conditions?;
    let failing = |reason: Option<&str>| reason == Some("FailedCreate");
    let condition = conditions.into_iter().find(|condition| {
        condition.type_ == "ReplicaFailure"
            && condition.status == "True"
            && failing(condition.reason.as_deref())
    })?;
    let key = Key::of(&set.metadata);
    let owners = set.metadata.owner_references.unwrap_or_default();
    let deployment = owners.into_iter().find(|owner| owner.kind == "Deployment");
    let (kind, name) = match deployment {
        Some(owner) => ("deployment", owner.name),
        None => ("replicaset", key.name),
    };
    let workload = Workload { kind: kind.to_owned(), name };
    Some(Refusal { namespace: key.namespace, workload, words: condition.message.unwrap_or_default() })
}

/// An Event that is not of the past, with its time.
fn recent(event: &Event, now: i64) -> Option<(i64, Refusal)> {
    let series = event.series.as_ref().and_then(|series| series.last_observed_time.as_ref());
    let times = [
        event.last_timestamp.as_ref().map(|time| time.0.as_second()),
        event.event_time.as_ref().map(|time| time.0.as_second()),
        series.map(|time| time.0.as_second()),
    ];
    let at = times.into_iter().flatten().max()?;
    let of = &event.involved_object;
    let workload = Workload { kind: of.kind.as_ref()?.to_ascii_lowercase(), name: of.name.clone()? };
    let words = event.message.clone().unwrap_or_default();
    (now - at <= RECENT).then_some((at, Refusal { namespace: of.namespace.clone()?, workload, words }))
}

/// Those that still lack a pod.
async fn still_so(client: &Client, told: Vec<Refusal>) -> Vec<Refusal> {
    let looked = futures_util::stream::iter(told)
        .map(|refusal| async move {
            let lacks = lacks_pods(client, &refusal).await;
            lacks.then_some(refusal)
        })
        .buffered(AT_ONCE);
    looked.filter_map(std::future::ready).collect().await
}

/// Whether it has fewer pods than it wants; what cannot be read is believed.
async fn lacks_pods(client: &Client, refusal: &Refusal) -> bool {
    let Refusal { namespace, workload, .. } = refusal;
    match workload.kind.as_str() {
        "statefulset" => of::<StatefulSet>(client, namespace, &workload.name, set_lacks).await,
        "daemonset" => of::<DaemonSet>(client, namespace, &workload.name, daemons_lack).await,
        "job" => of::<Job>(client, namespace, &workload.name, job_lacks).await,
        _ => true,
    }
}

async fn of<K>(client: &Client, namespace: &str, name: &str, lacks: fn(&K) -> bool) -> bool
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + DeserializeOwned
        + std::fmt::Debug,
{
    match Api::<K>::namespaced(client.clone(), namespace).get_opt(name).await {
        Ok(found) => found.as_ref().is_some_and(lacks),
        Err(_) => true,
    }
}

fn set_lacks(set: &StatefulSet) -> bool {
    let wanted = set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
    set.status.as_ref().is_none_or(|status| status.replicas < wanted)
}

fn daemons_lack(set: &DaemonSet) -> bool {
    set.status.as_ref().is_none_or(|status| status.current_number_scheduled < status.desired_number_scheduled)
}

fn job_lacks(job: &Job) -> bool {
    let suspended = job.spec.as_ref().and_then(|spec| spec.suspend) == Some(true);
    let Some(status) = &job.status else { return !suspended };
    let finished = status.conditions.iter().flatten().any(|condition| {
        matches!(condition.type_.as_str(), "Complete" | "Failed") && condition.status == "True"
    });
    !suspended && !finished && status.active.unwrap_or(0) == 0
}

/// Why a pod of the mesh was refused, where that may have to do with its sidecar.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Cause {
    /// The injector refuses it: an annotation, a container.
    Refused,
    /// The injector does not answer, and `failurePolicy` is Fail.
    Away,
    /// Pod Security does not allow `weft-init`.
    PodSecurity,
    /// A quota wants each container to say what it takes.
    Unsaid,
    /// A quota is used up.
    Quota,
    /// A LimitRange bounds what a container or a pod may take.
    Range,
}

impl Cause {
    /// By the words of the API server: of its plugins ResourceQuota, LimitRanger and PodSecurity, and about webhooks.
    pub(super) fn of(words: &str) -> Option<Self> {
        let says = |part: &str| words.contains(part);
        if says("injector.weft.dev") {
            return Some(if says("failed calling webhook") { Self::Away } else { Self::Refused });
        }
        if says("violates PodSecurity") {
            return says("weft-init").then_some(Self::PodSecurity);
        }
        if says("failed quota") && says("must specify") {
            return Some(Self::Unsaid);
        }
        if says("exceeded quota") {
            return Some(Self::Quota);
        }
        // "minimum cpu usage per Container is 100m, but request is 10m"; also maximum, and the ratio of limit to request.
        let bounded = says(" per Container is ") || says(" per Pod is ");
        bounded.then_some(Self::Range)
    }

    fn cure(self) -> &'static str {
        match self {
            Self::Refused => "the injector's message says what to correct on the pod template",
            Self::Away => "the injector does not answer: see webhook.answers and control.deployment",
            Self::PodSecurity => "Pod Security refuses weft-init: see namespaces.pod-security",
            Self::Unsaid => {
                "the quota wants every container to have requests and limits: for weft-proxy by the annotations weft.dev/proxy-cpu-limit and so on of the \
                 pod template, for the whole mesh by the values injector.resources and injector.initResources; or a LimitRange with defaults"
            }
            Self::Quota => {
                "the quota has no room for the sidecars: raise it by the requests and limits of weft-proxy and weft-init (values injector.resources and \
                 injector.initResources) for each pod"
            }
            Self::Range => {
                "the LimitRange bounds each container, ours too, which are made to fit except where an annotation says otherwise: change the annotations \
                 weft.dev/proxy-* and weft.dev/init-* of the pod template; of a pod as a whole, what all its containers have together"
            }
        }
    }
}

/// Judges them, together with what the dry run was told.
pub(super) fn judge(view: &View, scope: Option<&str>, refusals: &Refusals, tried: &Tried) -> Finding {
    let id = "namespaces.refusals";
    let members: BTreeSet<&str> = view.members(scope).collect();
    let mut causes = BTreeSet::new();
    let mut lines = BTreeSet::new();
    let ours = refusals.found.iter().filter(|refusal| members.contains(refusal.namespace.as_str()));
    for refusal in ours {
        let Some(cause) = Cause::of(&refusal.words) else { continue };
        causes.insert(cause);
        lines.insert(format!(
            "{}: {}",
            refusal.workload.in_namespace(&refusal.namespace),
            cut(&refusal.words)
        ));
    }
    let workloads = lines.len();
    for (namespace, words) in tried.refused_for_the_sidecar(&members) {
        causes.extend(Cause::of(words));
        lines.insert(format!("{namespace}: a pod that was tried out (dry run): {}", cut(words)));
    }
    let cure = causes.iter().map(|cause| cause.cure()).collect::<Vec<_>>().join("; ");
    if workloads > 0 {
        let workloads = counted(workloads, "workload", "workloads");
        let summary = format!("pods of {workloads} are refused when they are made");
        return Finding::failed(id, Vantage::Api, summary, cure).details(lines);
    }
    if !lines.is_empty() {
        let summary = "pods with a sidecar would be refused; none has been yet";
        return Finding::failed(id, Vantage::ApiServer, summary, cure).details(lines);
    }
    if refusals.unread.is_empty() {
        return Finding::ok(id, Vantage::Api, "no workload has pods refused for the sake of their sidecar");
    }
    Finding::skipped(id, Vantage::Api, format!("you may not read all of it: {}", refusals.unread.join("; ")))
}

fn cut(words: &str) -> String {
    match words.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}...", words.get(..end).unwrap_or_default()),
        None => words.to_owned(),
    }
}

#[cfg(test)]
#[path = "refusals_tests.rs"]
mod tests;
