use std::convert::Infallible;

use kube::client::Body;
use serde_json::{Value, json};

use super::super::dry_run;
use super::super::report::State;
use super::*;
use crate::view::tests::{namespace, view};

/// Noon of a day.
const NOW: i64 = 1_767_268_800;
const QUOTA: &str = "pods \"web-5d4f8-\" is forbidden: failed quota: compute: must specify limits.cpu for: weft-init,weft-proxy";

/// An API server that has these objects by path; what is not there is 404, and `closed` paths are 403.
fn client(objects: Vec<(&'static str, Value)>, closed: Vec<&'static str>) -> Client {
    let service = tower::service_fn(move |request: http::Request<Body>| {
        let path = request.uri().path().to_owned();
        let found = objects.iter().find(|(at, _)| *at == path).map(|(_, object)| object.clone());
        let status = |code: u16, reason: &str| {
            (
                code,
                json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "code": code, "message": reason}),
            )
        };
        let (code, body) = match found {
            _ if closed.contains(&path.as_str()) => status(403, "Forbidden"),
            Some(object) => (200, object),
            None => status(404, "NotFound"),
        };
        let reply = http::Response::builder().status(code).body(Body::from(body.to_string().into_bytes()));
        async move { Ok::<_, Infallible>(reply.unwrap()) }
    });
    Client::new(service, "default")
}

fn list(items: &[Value]) -> Value {
    json!({"kind": "List", "apiVersion": "v1", "metadata": {}, "items": items})
}

fn set(name: &str, words: Option<&str>) -> Value {
    let conditions = words.map(|words| {
        json!([{"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": words}])
    });
    json!({
        "metadata": {"name": name, "namespace": "shop",
                     "ownerReferences": [{"apiVersion": "apps/v1", "kind": "Deployment", "name": "web", "uid": "d", "controller": true}]},
        "spec": {"selector": {}},
        "status": {"replicas": 0, "conditions": conditions.unwrap_or(json!([]))},
    })
}

fn event(kind: &str, name: &str, words: &str, at: &str) -> Value {
    json!({
        "metadata": {"name": format!("{name}.{at}"), "namespace": "shop"}, "reason": "FailedCreate", "message": words, "lastTimestamp": at,
        "involvedObject": {"kind": kind, "namespace": "shop", "name": name},
    })
}

const SETS: &str = "/apis/apps/v1/replicasets";
const EVENTS: &str = "/api/v1/events";

async fn said(objects: Vec<(&'static str, Value)>, closed: Vec<&'static str>) -> Finding {
    let client = client(objects, closed);
    let seen =
        view(&[namespace("shop", json!({"weft.dev/inject": "enabled"})), namespace("plain", json!({}))]);
    let refusals = Refusals::of(&client, None, NOW).await;
    judge(&seen, None, &refusals, &dry_run::fixtures::nowhere())
}

#[tokio::test]
async fn a_deployment_whose_pods_a_quota_refuses_is_named_with_the_cure() {
    let sets = list(&[set("web-5d4f8", Some(QUOTA)), set("web-older", None)]);
    // What an Event says of a ReplicaSet its condition says better: it may be of the past.
    let events = list(&[event("ReplicaSet", "web-older", QUOTA, "2026-01-01T11:59:00Z")]);
    let found = said(vec![(SETS, sets), (EVENTS, events)], vec![]).await;
    assert_eq!(found.state, State::Failed);
    assert_eq!(found.summary, "pods of 1 workload are refused when they are made");
    assert_eq!(found.details, [format!("deployment shop/web: {QUOTA}")]);
    assert!(found.cure.unwrap().contains("weft.dev/proxy-cpu-limit"));
}

#[tokio::test]
async fn jobs_and_sets_that_lack_pods_are_told_by_their_events() {
    let events = list(&[
        event("Job", "nightly", QUOTA, "2026-01-01T11:58:00Z"),
        event("Job", "nightly", "older words", "2026-01-01T11:50:00Z"),
        event("Job", "done", QUOTA, "2026-01-01T11:58:00Z"),
        event("StatefulSet", "db", "pods \"db-0\" is forbidden: exceeded quota: few", "2026-01-01T11:58:00Z"),
        event("StatefulSet", "whole", QUOTA, "2026-01-01T11:58:00Z"),
        event(
            "DaemonSet",
            "logs",
            "pods \"logs-\" is forbidden: maximum memory usage per Pod is 64Mi, but limit is 320Mi",
            "2026-01-01T11:58:00Z",
        ),
        event("DaemonSet", "gone", QUOTA, "2026-01-01T11:58:00Z"),
        event("Job", "long-ago", QUOTA, "2026-01-01T11:00:00Z"),
        event("Job", "odd", "nothing that concerns a sidecar", "2026-01-01T11:58:00Z"),
    ]);
    let job = |status: Value| json!({"metadata": {"name": "j", "namespace": "shop"}, "spec": {"template": {"spec": {"containers": []}}}, "status": status});
    let stateful = |replicas: i32| {
        json!({"metadata": {"name": "s", "namespace": "shop"},
               "spec": {"replicas": 1, "selector": {}, "serviceName": "s", "template": {}}, "status": {"replicas": replicas}})
    };
    let daemons = json!({"metadata": {"name": "d", "namespace": "shop"}, "spec": {"selector": {}, "template": {}},
                         "status": {"currentNumberScheduled": 1, "desiredNumberScheduled": 2, "numberMisscheduled": 0, "numberReady": 1}});
    let complete = json!({"conditions": [{"type": "Complete", "status": "True"}]});
    let objects = vec![
        (SETS, list(&[])),
        (EVENTS, events),
        ("/apis/batch/v1/namespaces/shop/jobs/nightly", job(json!({}))),
        ("/apis/batch/v1/namespaces/shop/jobs/odd", job(json!({}))),
        ("/apis/batch/v1/namespaces/shop/jobs/done", job(complete)),
        ("/apis/apps/v1/namespaces/shop/statefulsets/db", stateful(0)),
        ("/apis/apps/v1/namespaces/shop/statefulsets/whole", stateful(1)),
        ("/apis/apps/v1/namespaces/shop/daemonsets/logs", daemons),
    ];
    let found = said(objects, vec![]).await;
    let names: Vec<&str> = found.details.iter().filter_map(|line| line.split(": ").next()).collect();
    assert_eq!(names, ["daemonset shop/logs", "job shop/nightly", "statefulset shop/db"], "{found:?}");
    assert!(found.details[1].ends_with("weft-init,weft-proxy"), "the newest words: {found:?}");
    assert_eq!(found.summary, "pods of 3 workloads are refused when they are made");
}

#[tokio::test]
async fn without_rights_to_read_them_it_is_skipped_and_said() {
    let found = said(vec![], vec![SETS, EVENTS]).await;
    assert_eq!(found.state, State::Skipped);
    assert!(
        found.summary.contains("ReplicaSets: Forbidden") && found.summary.contains("Events: Forbidden"),
        "{found:?}"
    );
    // Without ReplicaSets their Events have to do.
    let events = list(&[event("ReplicaSet", "web-5d4f8", QUOTA, "2026-01-01T11:59:00Z")]);
    let found = said(vec![(EVENTS, events)], vec![SETS]).await;
    assert_eq!((found.state, found.details.len()), (State::Failed, 1));
    let found = said(vec![(SETS, list(&[])), (EVENTS, list(&[]))], vec![]).await;
    assert_eq!(found.state, State::Ok);
}

#[test]
fn causes_are_told_by_the_api_servers_words() {
    let of = Cause::of;
    for (words, cause) in [
        (
            "pods \"a\" is forbidden: violates PodSecurity \"baseline:latest\": non-default capabilities (container \"weft-init\" must not include \"NET_ADMIN\")",
            Some(Cause::PodSecurity),
        ),
        (
            "pods \"a\" is forbidden: violates PodSecurity \"restricted:latest\": runAsNonRoot != true (pod or container \"app\")",
            None,
        ),
        (
            "admission webhook \"namespace.injector.weft.dev\" denied the request: the annotation weft.dev/mod is unknown",
            Some(Cause::Refused),
        ),
        (
            "Internal error occurred: failed calling webhook \"pod.injector.weft.dev\": failed to call webhook: Post \"https://weft-injector...",
            Some(Cause::Away),
        ),
        ("Internal error occurred: failed calling webhook \"validate.other.dev\": timeout", None),
        (QUOTA, Some(Cause::Unsaid)),
        ("pods \"a\" is forbidden: exceeded quota: few, requested: limits.memory=320Mi", Some(Cause::Quota)),
        (
            "pods \"a\" is forbidden: [minimum cpu usage per Container is 100m, but request is 10m, maximum memory usage per Container is 128Mi, but limit is 256Mi]",
            Some(Cause::Range),
        ),
        (
            "pods \"a\" is forbidden: cpu max limit to request ratio per Container is 2, but provided ratio is 4.000000",
            Some(Cause::Range),
        ),
        ("Pod \"a\" is invalid: spec.containers: Required value", None),
    ] {
        assert_eq!(of(words), cause, "{words}");
    }
}

#[test]
fn what_a_dry_run_was_refused_for_is_told_before_a_workload_is() {
    let seen = view(&[namespace("shop", json!({"weft.dev/inject": "enabled"}))]);
    let tried = dry_run::fixtures::refused("shop", QUOTA);
    let found = judge(&seen, None, &Refusals::default(), &tried);
    assert_eq!(found.state, State::Failed);
    assert_eq!(found.details, [format!("shop: a pod that was tried out (dry run): {QUOTA}")]);
    assert_eq!(judge(&seen, None, &Refusals::default(), &dry_run::fixtures::nowhere()).state, State::Ok);
}

#[test]
fn long_words_are_cut_between_characters() {
    let long = "é".repeat(LONGEST + 1);
    assert_eq!(cut(&long).chars().count(), LONGEST + 3);
    assert_eq!(cut("short"), "short");
}
