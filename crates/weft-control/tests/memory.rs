//! What a review takes of memory, against what the injector thought it would.
//!
//! The injector reserves memory before it reads a review (`webhook::weigh`). Here an allocator counts what is really
//! taken, for reviews that are made to take much.

#![allow(unsafe_code, reason = "an allocator cannot be written without")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};
use weft_control::inject::{InjectSettings, Injector};
use weft_control::webhook::{answer, weigh};

struct Counting;

static NOW: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

// SAFETY: everything is done by the system's allocator; this counts.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let now = NOW.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        MOST.fetch_max(now, Ordering::Relaxed);
        // SAFETY: as asked.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as asked.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The most octets that were taken at once while `job` ran, beside those that were before.
fn taken<T>(job: impl FnOnce() -> T) -> usize {
    let before = NOW.load(Ordering::Relaxed);
    MOST.store(before, Ordering::Relaxed);
    drop(job());
    MOST.load(Ordering::Relaxed) - before
}

fn review(pod: &str) -> String {
    format!(
        r#"{{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{{"uid":"u","kind":{{"kind":"Pod"}},"operation":"CREATE","namespace":"shop","object":{pod}}}}}"#
    )
}

/// A pod with `what` in a place that nobody looks at.
fn aside(what: &str) -> String {
    format!(r#"{{"spec":{{"containers":[{{"name":"app"}}],"x":[{what}0]}}}}"#)
}

fn probe(handler: &Value) -> String {
    json!({"spec": {"containers": [{"name": "app", "livenessProbe": handler}]}}).to_string()
}

fn usual() -> String {
    let env: Vec<Value> =
        (0..40).map(|i| json!({"name": format!("VARIABLE_{i}"), "value": "of the usual length"})).collect();
    let get = json!({"httpGet": {"path": "/healthz", "port": 8080}});
    json!({
        "metadata": {"name": "orders-5d4f", "labels": {"app": "orders"}, "annotations": {"a": "b"}},
        "spec": {"containers": [
            {"name": "app", "image": "registry/orders:1", "env": env, "livenessProbe": get, "readinessProbe": get},
            {"name": "side", "image": "registry/side:1", "env": env},
        ], "volumes": [{"name": "data", "emptyDir": {}}]},
    })
    .to_string()
}

/// One test, since it counts all that the process does.
#[test]
fn no_review_takes_more_than_it_weighs() {
    let injector = Injector {
        settings: InjectSettings::new("weft:1"),
        native: true,
        own_namespace: "weft-system".to_owned(),
        ca: None,
    };
    let headers: Vec<Value> = (0..1000).map(|i| json!({"name": format!("h{i}"), "value": "v"})).collect();
    let containers: Vec<Value> =
        (0..2000).map(|i| json!({"name": format!("c{i}"), "ports": [{"containerPort": 15006}]})).collect();
    let probes: Vec<Value> = (0..300)
        .map(|i| json!({"name": format!("c{i}"), "livenessProbe": {"tcpSocket": {"port": 1}}, "startupProbe": {"grpc": {"port": 2}}}))
        .collect();
    let annotations: serde_json::Map<String, Value> =
        (0..2000).map(|i| (format!("weft.dev/{i}"), json!("a value that is wrong"))).collect();
    let cases = [
        ("a usual pod", usual()),
        ("objects with one entry", aside(&r#"{"":0},"#.repeat(100_000))),
        ("objects with six entries", aside(&r#"{"a":0,"b":0,"c":0,"d":0,"e":0,"f":0},"#.repeat(20_000))),
        (
            "one large object",
            aside(&format!("{{{}\"z\":0}},", (0..50_000).map(|i| format!("\"{i}\":0,")).collect::<String>())),
        ),
        ("lists with one entry", aside(&"[0],".repeat(100_000))),
        ("numbers", aside(&"0,".repeat(500_000))),
        ("empty objects", aside(&"{},".repeat(300_000))),
        ("short texts", aside(&r#""a","#.repeat(200_000))),
        ("one long text", aside(&format!("\"{}\",", "x".repeat(2_000_000)))),
        ("many headers", probe(&json!({"httpGet": {"port": 80, "httpHeaders": headers}}))),
        (
            "a path that is escaped",
            probe(&json!({"httpGet": {"port": 80, "path": format!("/{}", "\u{7f}".repeat(15_000))}})),
        ),
        (
            "a path that is too long",
            probe(&json!({"httpGet": {"port": 80, "path": format!("/{}", "\u{7f}".repeat(500_000))}})),
        ),
        ("problems", json!({"spec": {"containers": containers}}).to_string()),
        ("probes", json!({"spec": {"containers": probes}}).to_string()),
        (
            "annotations",
            json!({"metadata": {"annotations": annotations}, "spec": {"containers": [{"name": "a"}]}})
                .to_string(),
        ),
    ];
    for (what, pod) in cases {
        let body = review(&pod);
        let weighed = weigh(body.as_bytes()).unwrap();
        let taken = taken(|| answer(body.as_bytes(), None, &injector).unwrap());
        assert!(taken <= weighed, "{what}: {taken} octets were taken, {weighed} reserved");
    }
    let usual = weigh(review(&usual()).as_bytes()).unwrap();
    assert!(usual < 1 << 20, "a usual pod weighs {usual}");
}
