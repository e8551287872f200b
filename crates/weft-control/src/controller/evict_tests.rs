use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::Response;
use serde_json::{Value, json};
use tower::{BoxError, service_fn};

use super::super::fake_tests::{Asked, Fault as ServerFault, ROOT, Rules, Running, client, objects};
use super::super::membership::tests::settings;
use super::*;

const WEBHOOK: &str = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/weft-injector";
const BARE: &str = "/api/v1/namespaces/shop/pods/bare-1";
const GRANTED: &[&str] = &["controller.recreateSlipped.enabled=true"];

fn webhook(bundle: &str, namespace: &str) -> Value {
    let bundle = k8s_openapi::ByteString(bundle.as_bytes().to_vec());
    let service = json!({"name": "weft-injector", "namespace": namespace});
    json!({"metadata": {"name": "weft-injector"}, "webhooks": [{
        "name": "a.weft.dev", "admissionReviewVersions": ["v1"], "sideEffects": "None",
        "clientConfig": {"caBundle": bundle, "service": service}}]})
}

/// A cluster in which `bare-1` has slipped by, and whose injector is ready.
fn cluster() -> BTreeMap<String, Value> {
    let mut world = objects();
    let owner = json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "bare-6d4", "uid": "r", "controller": true});
    let pod = world.get_mut(BARE).unwrap();
    pod["metadata"]["labels"]["pod-template-hash"] = json!("6d4");
    pod["metadata"]["ownerReferences"] = json!([owner]);
    let labels = json!({"app": "weft"});
    let own = |kind: &str, name: &str| format!("/api/v1/namespaces/weft-system/{kind}/{name}");
    world.insert(
        own("services", "weft-injector"),
        json!({"metadata": {"name": "weft-injector", "namespace": "weft-system", "uid": "s"}, "spec": {"selector": labels}}),
    );
    world.insert(
        own("pods", "weft-control-1"),
        json!({"metadata": {"name": "weft-control-1", "namespace": "weft-system", "uid": "c", "labels": labels},
               "spec": {"containers": [{"name": "control"}]},
               "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}}),
    );
    world.insert(
        "/api/v1/namespaces/shop/configmaps/weft-mesh".to_owned(),
        json!({"metadata": {"name": "weft-mesh", "namespace": "shop", "uid": "m"}}),
    );
    world.insert(WEBHOOK.to_owned(), webhook(ROOT, "weft-system"));
    world
}

fn on() -> Settings {
    let mut settings = settings();
    settings.controller.recreate_slipped.enabled = true;
    settings.injector = Some(InjectSettings::new("weft"));
    settings
}

fn right() -> Asked {
    let (group, name) = Default::default();
    Asked { own: false, group, resource: "pods/eviction".to_owned(), name, verb: "create".to_owned() }
}

async fn minutes(count: u64) {
    tokio::time::sleep(Duration::from_secs(60 * count)).await;
}

const EVICTED: &str = "weft_controller_recreations_total{result=\"evicted\"}";
const REFUSED: &str = "weft_controller_recreations_total{result=\"refused\"}";

#[tokio::test(start_paused = true)]
async fn a_pod_that_slipped_by_is_evicted_by_its_uid_and_with_no_other_right() {
    let running = Running::with(cluster(), vec![], Rules::with(GRANTED), on());
    minutes(60).await;
    assert_eq!((running.metric(EVICTED), running.metric(REFUSED)), (1, 0));
    let server = running.end().await;
    let server = server.lock().unwrap();
    assert!(server.refused.is_empty(), "missing: {:#?}", server.refused);
    assert!(server.used.contains(&right()));
    let body = json!({"apiVersion": "policy/v1", "kind": "Eviction",
                      "metadata": {"name": "bare-1", "namespace": "shop"},
                      "deleteOptions": {"preconditions": {"uid": "bare-1"}}});
    // The watch of this server shows nothing new, so its replacement is waited for.
    assert_eq!(server.evictions, [(BARE.to_owned(), body)]);
}

#[tokio::test(start_paused = true)]
async fn the_right_to_evict_is_given_where_it_is_asked_for_and_only_there() {
    assert!(!Rules::rendered().rights().contains(&right()));
    assert!(Rules::with(GRANTED).rights().contains(&right()));
    let running = Running::with(cluster(), vec![], Rules::rendered(), on());
    minutes(10).await;
    assert_eq!(running.metric(EVICTED), 0);
    assert!(running.metric(REFUSED) > 1);
    let server = running.end().await;
    assert_eq!(server.lock().unwrap().refused, [right()].into());
}

#[tokio::test(start_paused = true)]
async fn nothing_is_evicted_unless_it_is_asked_for() {
    let running = Running::with(cluster(), vec![], Rules::with(GRANTED), settings());
    minutes(60).await;
    let server = running.end().await;
    let server = server.lock().unwrap();
    assert!(server.evictions.is_empty() && !server.used.contains(&right()));
}

#[tokio::test(start_paused = true)]
async fn nothing_is_evicted_while_the_injector_would_not_be_asked() {
    for webhook in [None, Some(webhook("another root", "weft-system")), Some(webhook(ROOT, "elsewhere"))] {
        let mut world = cluster();
        match &webhook {
            Some(object) => drop(world.insert(WEBHOOK.to_owned(), object.clone())),
            None => drop(world.remove(WEBHOOK)),
        }
        let running = Running::with(world, vec![], Rules::with(GRANTED), on());
        minutes(60).await;
        assert!(running.metric("weft_controller_recreations_total{result=\"failed\"}") > 10, "{webhook:?}");
        let server = running.end().await;
        assert!(server.lock().unwrap().evictions.is_empty(), "{webhook:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_would_not_be_let_in_again_is_not_evicted() {
    let changes: [fn(&mut BTreeMap<String, Value>); 3] = [
        |world| {
            world.get_mut(BARE).unwrap()["spec"]["containers"][0]["securityContext"] =
                json!({"runAsUser": 2102});
        },
        |world| world.get_mut(BARE).unwrap()["metadata"]["annotations"] = json!({"weft.dev/mod": "strict"}),
        |world| {
            let shop = world.get_mut("/api/v1/namespaces/shop").unwrap();
            shop["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] = json!("restricted");
        },
    ];
    for (number, change) in changes.into_iter().enumerate() {
        let mut world = cluster();
        change(&mut world);
        let running = Running::with(world, vec![], Rules::with(GRANTED), on());
        minutes(60).await;
        assert!(running.metric(REFUSED) > 3, "{number}");
        let server = running.end().await;
        assert!(server.lock().unwrap().evictions.is_empty(), "{number}");
    }
}

/// A budget that never lets it go, and an eviction that nobody answers: all else goes on meanwhile.
#[tokio::test(start_paused = true)]
async fn an_eviction_that_is_refused_or_hangs_holds_up_nothing() {
    for (fault, least) in [(ServerFault::Budget, 5), (ServerFault::Hangs, 0)] {
        let running = Running::with(cluster(), vec![("/eviction", fault)], Rules::with(GRANTED), on());
        minutes(60).await;
        // 30 s, 60 s, ... 30 minutes: no more than seven in an hour.
        let refused = running.metric(REFUSED);
        assert!((least..=8).contains(&refused), "{refused}");
        assert_eq!(running.metric("weft_controller_reconciles_total{result=\"error\"}"), 0);
        assert_eq!(running.metric("weft_services{mode=\"strict\"}"), 2);
        let server = running.end().await;
        assert_eq!(server.lock().unwrap().evictions.len() as u64, refused);
    }
}

fn evictor(client: Client, roots: &str) -> (watch::Sender<Arc<str>>, Evictor) {
    let (keep, roots) = watch::channel(Arc::from(roots));
    (keep, Evictor::new(client, "weft-system", roots))
}

/// A client whose server always says this; how often it was asked.
fn saying(status: u16, body: Value) -> (Client, Arc<AtomicUsize>) {
    let count = Arc::new(AtomicUsize::new(0));
    let counter = count.clone();
    let service = service_fn(move |_: Request<Body>| {
        counter.fetch_add(1, Ordering::Relaxed);
        let body = Body::from(body.to_string().into_bytes());
        async move { Ok::<_, Infallible>(Response::builder().status(status).body(body).unwrap()) }
    });
    (Client::new(service, "default"), count)
}

#[tokio::test]
async fn what_the_api_server_says_is_understood_and_asked_for_once() {
    let status = |message: &str, cause: &str| {
        json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "reason": "x", "message": message,
               "details": {"causes": [{"reason": "DisruptionBudget", "message": cause}]}})
    };
    let refused = |reason: &str| Answer::Refused(reason.to_owned());
    let budget = "Cannot evict pod as it would violate the pod's disruption budget.";
    let cause = "The disruption budget web needs 2 healthy pods and has 2 currently";
    for (code, body, expected) in [
        (201, json!({"kind": "Status", "status": "Success"}), Answer::Evicted),
        (200, json!(null), Answer::Evicted),
        (404, status("pods \"a\" not found", ""), Answer::Gone),
        (409, status("the UID in the precondition does not match", ""), Answer::Gone),
        (429, status(budget, cause), refused(&format!("{budget} {cause} (status 429)"))),
        (
            500,
            status("more than one PodDisruptionBudget", ""),
            refused("more than one PodDisruptionBudget (status 500)"),
        ),
        (403, status("no", ""), refused("no (status 403)")),
        (503, json!("no status"), refused("(status 503)")),
        (504, status("timed out", ""), Answer::Unsure("timed out (status 504)".to_owned())),
    ] {
        let (client, count) = saying(code, body);
        let (_keep, evictor) = evictor(client, ROOT);
        assert_eq!(evictor.evict(&Key::new("shop", "a"), "u").await, expected, "{code}");
        assert_eq!(count.load(Ordering::Relaxed), 1, "{code}");
    }
    let broken = service_fn(|_: Request<Body>| async { Err::<Response<Body>, _>(BoxError::from("reset")) });
    let (_keep, evictor) = evictor(Client::new(broken, "default"), ROOT);
    assert!(matches!(evictor.evict(&Key::new("shop", "a"), "u").await, Answer::Unsure(_)));
}

#[tokio::test(start_paused = true)]
async fn another_pod_of_the_name_is_let_be() {
    let service = service_fn(|_: Request<Body>| std::future::pending::<Result<Response<Body>, Infallible>>());
    let (_keep, evictor_of_nothing) = evictor(Client::new(service, "default"), ROOT);
    let key = Key::new("shop", "bare-1");
    let nothing = evictor_of_nothing.carry_out(&key, "bare-1", on().injector).await;
    assert!(matches!(nothing, Answer::NotReady(_)), "{nothing:?}");

    let running = Running::with(cluster(), vec![], Rules::with(GRANTED), settings());
    let (_keep, evictor) = evictor(client(&running.server), ROOT);
    for (uid, injector, expected) in [
        ("another", on().injector, Answer::Gone),
        ("bare-1", None, Answer::NotReady("the section injector of config.yaml is missing".to_owned())),
        ("bare-1", on().injector, Answer::Evicted),
        ("bare-1", on().injector, Answer::Gone),
    ] {
        assert_eq!(evictor.carry_out(&key, uid, injector).await, expected, "{uid}");
    }
    // The precondition by itself: between the look and the eviction it may become another one.
    let key = Key::new("shop", "orders-1");
    assert_eq!(evictor.evict(&key, "another").await, Answer::Gone);
    assert_eq!(evictor.evict(&key, "orders-1").await, Answer::Evicted);
    running.end().await;
}
