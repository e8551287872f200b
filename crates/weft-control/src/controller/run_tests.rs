//! The loop against an API server of which parts fail: each fault stops what depends on it, and nothing else.

use std::time::Duration;

use serde_json::json;

use super::fake_tests::{Fault, ROOT, Running, objects};

const MESH: &str = "/api/v1/namespaces/shop/configmaps/weft-mesh";
const STATE: &str = "/api/v1/namespaces/weft-system/configmaps/weft-state";
const TWIN: &str = "/api/v1/namespaces/shop/services/web-endpoints";
const STRICT: &str = "weft_services{mode=\"strict\"}";

async fn pass(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

#[tokio::test(start_paused = true)]
async fn services_become_strict_once_that_is_written_down() {
    let running = Running::start(objects(), vec![]);
    pass(10).await;
    let text = running.object(MESH)["data"]["weft.yaml"].clone();
    assert!(text.as_str().unwrap().contains("name: orders.shop."), "{text}");
    pass(50).await;
    assert_eq!(running.object(STATE)["data"]["strict.yaml"], json!("- shop/orders\n- shop/web\n"));
    let text = running.object(MESH)["data"]["weft.yaml"].clone();
    assert!(text.as_str().unwrap().contains("modes: []"), "{text}");
    assert_eq!(running.metric(STRICT), 2);
    assert_eq!(running.metric("weft_controller_errors_total{kind=\"state\"}"), 0);
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_state_that_cannot_be_written_keeps_services_from_strict_and_stops_nothing_else() {
    for fault in [Fault::Fails, Fault::Hangs] {
        let running = Running::start(objects(), vec![("configmaps/weft-state", fault)]);
        pass(120).await;
        let data = running.object(MESH)["data"].clone();
        assert_eq!(data["root.pem"], json!(ROOT));
        // Clients are not told of what the next leader would not know.
        assert!(data["weft.yaml"].as_str().unwrap().contains("name: orders.shop."), "{data}");
        assert_eq!(running.metric(STRICT), 0);
        assert!(running.metric("weft_controller_errors_total{kind=\"state\"}") > 1);
        assert!(running.object(TWIN).is_object());
        running.server.lock().unwrap().faults.clear();
        pass(60).await;
        assert_eq!(running.metric(STRICT), 2);
        assert_eq!(running.object(STATE)["data"]["strict.yaml"], json!("- shop/orders\n- shop/web\n"));
        running.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_state_that_cannot_be_read_keeps_the_membership_as_it_is_and_stops_nothing_else() {
    let mut world = objects();
    let meta = |namespace: &str, name: &str| json!({"name": name, "namespace": namespace, "uid": "s"});
    let garbled = json!({"metadata": meta("weft-system", "weft-state"), "data": {"strict.yaml": "{"}});
    world.insert(STATE.to_owned(), garbled.clone());
    let running = Running::start(world, vec![]);
    pass(60).await;
    // The trust bundle alone; what is remembered is not written over, and nothing is removed.
    assert_eq!(running.object(MESH)["data"], json!({"root.pem": ROOT}));
    assert_eq!(running.object(STATE), garbled);
    assert!(running.object("/api/v1/namespaces/left/configmaps/weft-mesh").is_object());
    assert!(running.object(TWIN).is_object());
    // Corrected: all goes on.
    let good =
        json!({"metadata": meta("weft-system", "weft-state"), "data": {"strict.yaml": "- shop/orders\n"}});
    running.server.lock().unwrap().objects.insert(STATE.to_owned(), good);
    // The next try comes within 30 s, and 30 s more make the other one strict as well.
    pass(20).await;
    let text = running.object(MESH)["data"]["weft.yaml"].clone();
    assert!(
        text.as_str().unwrap().contains("name: web.shop.")
            && !text.as_str().unwrap().contains("name: orders.shop."),
        "{text}"
    );
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn events_that_nobody_takes_hold_up_nothing() {
    let running = Running::start(objects(), vec![("/events", Fault::Hangs)]);
    pass(5).await;
    assert!(running.object(MESH)["data"]["weft.yaml"].is_string());
    assert_eq!(running.metric("weft_controller_reconciles_total{result=\"error\"}"), 0);
    pass(60).await;
    assert!(running.metric("weft_controller_errors_total{kind=\"event\"}") > 0);
    assert_eq!(running.metric(STRICT), 2);
    running.end().await;
}

/// The namespace of one is broken (a quota, a webhook): the others go on.
#[tokio::test(start_paused = true)]
async fn writes_that_fail_in_one_namespace_are_its_own() {
    let mut world = objects();
    let labels = json!({"weft.dev/inject": "enabled"});
    let broken = json!({"metadata": {"name": "broken", "uid": "broken", "labels": labels}});
    world.insert("/api/v1/namespaces/broken".to_owned(), broken);
    let running = Running::start(world, vec![("/broken/", Fault::Fails)]);
    pass(60).await;
    assert!(running.object(MESH)["data"]["weft.yaml"].is_string());
    assert!(running.metric("weft_controller_errors_total{kind=\"write\"}") > 0);
    assert_eq!(running.metric(STRICT), 2);
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_changed_is_deleted_and_made_anew() {
    let mut world = objects();
    let labels = json!({"app.kubernetes.io/managed-by": "weft"});
    let meta = json!({"name": "weft-mesh", "namespace": "shop", "uid": "m", "labels": labels});
    world.insert(MESH.to_owned(), json!({"metadata": meta, "immutable": true, "data": {"root.pem": "old"}}));
    let running = Running::start(world, vec![]);
    pass(5).await;
    let map = running.object(MESH);
    assert!(map["immutable"].is_null() && map["data"]["root.pem"] == json!(ROOT), "{map}");
    running.end().await;
}

/// A leader whose watch has not shown a Service yet asks for it before it forgets.
#[tokio::test(start_paused = true)]
async fn what_a_leader_has_never_seen_is_asked_for() {
    let mut world = objects();
    let state = json!({"metadata": {"name": "weft-state", "namespace": "weft-system", "uid": "s"},
                       "data": {"strict.yaml": "- shop/gone\n- shop/late\n"}});
    world.insert(STATE.to_owned(), state);
    // The API server has it, and its list does not.
    world.insert(
        "/api/v1/namespaces/shop/services/late".to_owned(),
        json!({"hidden": true, "metadata": {"name": "late", "namespace": "shop"}}),
    );
    let running = Running::start(world, vec![]);
    pass(5).await;
    assert_eq!(running.object(STATE)["data"]["strict.yaml"], json!("- shop/late\n"));
    running.end().await;
}

/// A replica becomes the leader while its watch shows the namespace as it was before it was labelled.
#[tokio::test(start_paused = true)]
async fn a_watch_of_namespaces_that_is_late_makes_nothing_forgotten() {
    let mut world = objects();
    let state = json!({"metadata": {"name": "weft-state", "namespace": "weft-system", "uid": "s"},
                       "data": {"strict.yaml": "- shop/orders\n"}});
    world.insert(STATE.to_owned(), state);
    let shop = "/api/v1/namespaces/shop".to_owned();
    let mut labelled = world[&shop].clone();
    labelled["listed"] = json!({"metadata": {"name": "shop", "uid": "shop"}});
    world.insert(shop, labelled);
    let running = Running::start(world, vec![]);
    pass(20).await;
    assert_eq!(running.object(STATE)["data"]["strict.yaml"], json!("- shop/orders\n"));
    let text = running.object(MESH)["data"]["weft.yaml"].clone();
    let text = text.as_str().unwrap();
    assert!(text.contains("namespaces: [shop]") && !text.contains("name: orders.shop."), "{text}");
    running.end().await;
}
