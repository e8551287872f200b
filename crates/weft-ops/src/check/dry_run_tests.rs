use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use kube::client::Body;
use serde_json::{Value, json};

use super::super::report::State;
use super::*;
use crate::view::tests::{namespace, view};

const WITH_SIDECAR: &str = "weft-init,weft-proxy";

fn member(name: &str) -> Value {
    namespace(name, json!({"weft.dev/inject": "enabled"}))
}

/// Which pods were asked for, by namespace.
type Asked = Arc<Mutex<Vec<(String, Value)>>>;

/// An API server that answers each dry run as `answer` says: the words of a refusal, or whether the pod is injected.
fn client<F>(answer: F) -> (Client, Asked)
where
    F: Fn(&str, &Value) -> Result<bool, String> + Clone + Send + Sync + 'static,
{
    let asked = Asked::default();
    let log = Arc::clone(&asked);
    let service = tower::service_fn(move |request: http::Request<Body>| {
        let (answer, log) = (answer.clone(), Arc::clone(&log));
        async move {
            let path = request.uri().path().to_owned();
            assert!(request.uri().query().unwrap_or_default().contains("dryRun=All"), "{:?}", request.uri());
            let namespace = path.split('/').nth(4).unwrap().to_owned();
            let body = request.into_body().collect_bytes().await.unwrap();
            let pod: Value = serde_json::from_slice(&body).unwrap();
            let outcome = answer(&namespace, &pod);
            log.lock().unwrap().push((namespace, pod.clone()));
            let (code, said) = match outcome {
                Ok(injected) => {
                    let mut made = pod;
                    if injected {
                        made["spec"]["initContainers"] =
                            json!([{"name": "weft-init"}, {"name": "weft-proxy"}]);
                    }
                    (201, made)
                }
                Err(words) => (
                    403,
                    json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Forbidden", "code": 403, "message": words}),
                ),
            };
            let reply =
                http::Response::builder().status(code).body(Body::from(said.to_string().into_bytes()));
            Ok::<_, Infallible>(reply.unwrap())
        }
    });
    (Client::new(service, "default"), asked)
}

#[test]
fn a_pod_asks_where_it_may() {
    let default = namespace("default", json!({}));
    let tight = namespace(
        "a",
        json!({"weft.dev/inject": "enabled", "pod-security.kubernetes.io/enforce": "baseline"}),
    );
    let seen = view(&[default.clone(), member("shop"), member("data"), tight.clone()]);
    let (open, closed) = places(&seen, None);
    assert_eq!(open, ["data", "shop", "default"]);
    assert_eq!(closed, [("a".to_owned(), "its Pod Security level is baseline".to_owned())]);
    assert_eq!(
        places(&seen, Some("shop")).0,
        ["shop", "data", "default"],
        "the one that was asked about first"
    );
    assert_eq!(places(&view(&[default, tight]), None).0, ["default"]);
    let out = view(&[namespace("default", json!({"weft.dev/inject": "disabled"}))]);
    assert_eq!(places(&out, None).0, [""; 0]);
}

#[tokio::test]
async fn a_namespace_that_is_full_is_passed_over_for_one_that_takes_the_pod() {
    let (client, asked) = client(|namespace, _| {
        match namespace {
        "data" => Err("pods \"weft-check-x\" is forbidden: exceeded quota: few, requested: pods=1, used: pods=5, limited: pods=5".into()),
        _ => Ok(true),
    }
    });
    let seen = view(&[member("data"), member("shop"), member("web")]);
    let tried = dry_run(&client, &seen, None).await;
    assert_eq!((tried.namespace.as_str(), &tried.outcome), ("shop", &DryRun::Injected));
    assert_eq!(asked.lock().unwrap().len(), 2, "one that takes it is enough");
    let said = answers(&tried, "weft-system");
    assert_eq!(said.state, State::Ok);
    assert!(said.summary.contains("dry run in shop"), "{}", said.summary);
    assert_eq!(said.details.len(), 1);
    assert!(said.details[0].starts_with("not in data: pods") && said.details[0].contains("exceeded quota"));
    assert_eq!(tried.refused_for_the_sidecar(&["data", "shop"].into()).count(), 0, "it is full for any pod");
}

#[tokio::test]
async fn a_limit_range_decides_what_a_pod_takes_where_ours_is_too_small() {
    let (client, asked) = client(|_, pod| {
        let sized = pod["spec"]["containers"][0]["resources"].get("requests").is_some();
        let words = "pods \"x\" is forbidden: minimum cpu usage per Container is 100m, but request is 1m";
        if sized { Err(words.to_owned()) } else { Ok(true) }
    });
    let tried = dry_run(&client, &view(&[member("shop")]), None).await;
    assert_eq!(
        (tried.outcome, tried.passed_over.len(), asked.lock().unwrap().len()),
        (DryRun::Injected, 0, 2)
    );
}

#[tokio::test]
async fn a_refusal_of_the_sidecar_shows_that_the_webhook_answers() {
    let words = format!(
        "pods \"x\" is forbidden: failed quota: compute: must specify limits.cpu for: {WITH_SIDECAR}"
    );
    let (client, _) = client(move |_, _| Err(words.clone()));
    let tried = dry_run(&client, &view(&[member("shop")]), None).await;
    assert_eq!((tried.namespace.as_str(), &tried.outcome), ("shop", &DryRun::RefusedInjected));
    assert_eq!(answers(&tried, "weft-system").state, State::Ok);
    let told: Vec<_> = tried.refused_for_the_sidecar(&["shop"].into()).collect();
    assert_eq!(told.len(), 1);
    assert!(told[0].1.contains("must specify limits.cpu"));
}

#[tokio::test]
async fn another_webhooks_refusal_is_not_ours_and_our_own_silence_is() {
    let other =
        "admission webhook \"validate.kyverno.svc-fail\" denied the request: image weft-check is not signed";
    let (kyverno, _) = client(move |_, _| Err(other.to_owned()));
    let seen = view(&[member("shop"), namespace("default", json!({}))]);
    let tried = dry_run(&kyverno, &seen, None).await;
    assert_eq!(tried.outcome, DryRun::Refused);
    let said = answers(&tried, "weft-system");
    assert_eq!((said.state, said.details.len()), (State::Skipped, 2));

    let silent =
        "Internal error occurred: failed calling webhook \"namespace.injector.weft.dev\": connection refused";
    let (away, asked) = client(move |_, _| Err(silent.to_owned()));
    let tried = dry_run(&away, &seen, None).await;
    assert_eq!(asked.lock().unwrap().len(), 1);
    assert_eq!(answers(&tried, "weft-system").state, State::Failed);
}

#[tokio::test]
async fn a_pod_that_comes_back_bare_is_a_failure_and_missing_rights_are_none() {
    let (bare, _) = client(|_, _| Ok(false));
    let seen = view(&[member("shop")]);
    assert_eq!(answers(&dry_run(&bare, &seen, None).await, "weft-system").state, State::Failed);
    let words = "pods is forbidden: User \"jane\" cannot create resource \"pods\" in API group \"\" in the namespace \"shop\"";
    let (jane, _) = client(move |_, _| Err(words.to_owned()));
    let tried = dry_run(&jane, &seen, None).await;
    assert_eq!(
        (tried.outcome.clone(), answers(&tried, "weft-system").state),
        (DryRun::Forbidden, State::Skipped)
    );
    let nowhere = dry_run(&jane, &view(&[]), None).await;
    assert_eq!(
        (nowhere.outcome.clone(), answers(&nowhere, "weft-system").state),
        (DryRun::Nowhere, State::Skipped)
    );
}
