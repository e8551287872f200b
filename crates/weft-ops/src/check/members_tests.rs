use serde_json::{Value, json};

use super::super::proxies::tests::proxies;
use super::super::report::State;
use super::*;
use crate::scrape::{PlaintextCaller, ProxyMetrics};
use crate::view::tests::{namespace, pod, service, view};

fn shop() -> Value {
    namespace("shop", json!({"weft.dev/inject": "enabled"}))
}

fn twin() -> Value {
    json!({"kind": "Service", "metadata": {
            "name": "web-endpoints", "namespace": "shop", "uid": "t",
            "labels": {"weft.dev/twin-of": "web", "app.kubernetes.io/managed-by": "weft"},
            "ownerReferences": [{"apiVersion": "v1", "kind": "Service", "name": "web", "uid": "shop-web"}]},
           "spec": {"clusterIP": "None", "selector": {"app": "web"},
                    "ports": [{"name": "p80", "port": 80, "targetPort": 8080, "protocol": "TCP"}]}})
}

#[test]
fn nobody_takes_part_is_no_failure() {
    let seen = view(&[namespace("plain", json!({}))]);
    let found = judge(&seen, None, &|_| false, (&Proxies::default(), None));
    assert_eq!((found.len(), found[0].state), (1, State::Skipped));
}

#[test]
fn pods_that_slipped_by_are_told_by_workload_with_the_command() {
    let objects = [
        shop(),
        service("shop", "web"),
        pod("shop", "web", "10.0.0.1", false),
        pod("shop", "web", "10.0.0.2", false),
        pod("shop", "ok", "10.0.0.3", true),
    ];
    let seen = view(&objects);
    let found = slipped(&seen, None, &|_| false);
    assert_eq!(
        (found.state, found.details.as_slice()),
        (State::Warning, &["deployment shop/web: 2 pods without a sidecar".to_owned()][..])
    );
    assert!(found.cure.unwrap().contains("kubectl -n shop rollout restart deployment/web"));
    let found = slipped(&seen, None, &|service| *service == Key::new("shop", "web"));
    assert_eq!((found.state, found.details.len()), (State::Failed, 3), "callers refuse them");
    assert_eq!(slipped(&seen, Some("other"), &|_| false).state, State::Ok);
}

#[test]
fn pods_that_are_made_anew_are_told_with_those_that_are_not() {
    let mut stuck = pod("shop", "stuck", "10.0.0.2", false);
    stuck["status"]["conditions"] = json!([{"type": "Ready", "status": "True"},
        {"type": "weft.dev/SidecarInjected", "status": "False", "reason": "SidecarRecreateGivenUp"}]);
    let mut agent = pod("shop", "agent", "10.0.0.3", false);
    agent["metadata"]["ownerReferences"][0]["kind"] = "DaemonSet".into();
    agent["metadata"]["ownerReferences"][0]["name"] = "agent".into();
    let objects = [shop(), pod("shop", "web", "10.0.0.1", false), agent, stuck];
    let on = RecreateSettings { enabled: true, ..RecreateSettings::default() };
    let told = |count: usize, settings: Option<&RecreateSettings>| {
        let found = recreated(&view(&objects[..count]), None, settings);
        (found.state, found.details.clone(), found.summary.clone(), found.cure.unwrap_or_default())
    };
    assert_eq!(told(4, None).0, State::Skipped);
    let off = told(4, Some(&RecreateSettings::default()));
    assert!(off.0 == State::Ok && off.1.is_empty() && off.2.contains("recreateSlipped"), "{off:?}");
    let well = told(3, Some(&on));
    let left = "daemonset shop/agent: 1 pod stays, it is a DaemonSet's".to_owned();
    assert_eq!((well.0, well.1.as_slice()), (State::Ok, std::slice::from_ref(&left)));
    assert!(well.2.contains("5 a minute"), "{well:?}");
    let vain = told(4, Some(&on));
    assert_eq!((vain.0, vain.1), (State::Warning, vec!["deployment shop/stuck: given up".to_owned(), left]));
    assert!(vain.3.contains("kubectl -n shop rollout restart deployment/stuck"), "{}", vain.3);
    assert!(recreated(&view(&objects), Some("other"), Some(&on)).details.is_empty());
}

#[test]
fn pod_security_that_refuses_the_sidecar_fails() {
    let tight = namespace(
        "shop",
        json!({"weft.dev/inject": "enabled", "pod-security.kubernetes.io/enforce": "restricted"}),
    );
    let found = pod_security(&view(&[tight]), None);
    assert_eq!(
        (found.state, found.details.as_slice()),
        (State::Failed, &["shop: pod-security.kubernetes.io/enforce=restricted".to_owned()][..])
    );
    let fine = namespace(
        "shop",
        json!({"weft.dev/inject": "enabled", "pod-security.kubernetes.io/enforce": "privileged"}),
    );
    assert_eq!(pod_security(&view(&[fine]), None).state, State::Ok);
}

#[test]
fn twins_are_what_the_controller_would_make() {
    let pods = [shop(), service("shop", "web"), pod("shop", "web", "10.0.0.1", true)];
    let found = twins(&view(&pods), None);
    assert_eq!(
        (found.state, found.details.as_slice()),
        (State::Failed, &["shop/web-endpoints is missing".to_owned()][..])
    );
    let with = |twin: Value| twins(&view(&[pods.as_slice(), &[twin]].concat()), None);
    assert_eq!(with(twin()).state, State::Ok, "{:?}", with(twin()));
    let mut other = twin();
    other["spec"]["ports"][0]["targetPort"] = 9.into();
    assert_eq!(with(other).state, State::Failed);
    let mut foreign = twin();
    foreign["metadata"]["labels"] = json!({});
    assert_eq!(with(foreign).state, State::Warning);
}

#[test]
fn a_proxy_that_dials_the_virtual_ip_despite_a_twin_is_told() {
    let seen = view(&[shop(), service("shop", "web"), pod("shop", "web", "10.0.0.1", true), twin()]);
    let from = |source: &str| ProxyMetrics {
        endpoints: vec![
            ("web.shop.svc.cluster.local:80".into(), source.into(), 1.0),
            ("else.where:1".into(), "dialed".into(), 1.0),
        ],
        ..ProxyMetrics::default()
    };
    assert_eq!(sources(&seen, None, &proxies(&[("a", from("srv"))])).state, State::Ok);
    let found = sources(&seen, None, &proxies(&[("a", from("dialed"))]));
    assert_eq!(
        (found.state, found.details.as_slice()),
        (State::Warning, &["shop/web: shop/a".to_owned()][..])
    );
    assert_eq!(sources(&seen, None, &proxies(&[])).state, State::Skipped);
}

#[test]
fn services_that_are_not_strict_say_why() {
    let mut told = service("shop", "db");
    told["metadata"]["annotations"] = json!({"weft.dev/mode": "disable"});
    let seen = view(&[
        shop(),
        service("shop", "web"),
        service("shop", "none"),
        told,
        pod("shop", "web", "10.0.0.1", true),
        pod("shop", "web", "10.0.0.2", false),
    ]);
    let found = modes(&seen, None, &|_| false);
    assert_eq!(found.summary, "clients are strict towards 0 of 3 Services");
    assert_eq!(
        found.details,
        [
            "shop/db: disable, by its annotation weft.dev/mode",
            "shop/none: permissive: it has no pods",
            "shop/web: permissive: 1 of 2 pods has a sidecar",
        ]
    );
    assert_eq!(modes(&seen, None, &|key| key.name == "web").details.len(), 2);
}

#[test]
fn plaintext_callers_are_told_by_workload() {
    let seen = view(&[shop(), pod("shop", "web", "10.0.0.1", true), pod("batch", "cron", "10.9.0.1", false)]);
    let called = |served: f64, refused: f64| {
        let caller = |ip: &str| PlaintextCaller { source: Some(ip.parse().unwrap()), served, refused };
        let metrics = ProxyMetrics {
            plaintext: vec![caller("10.9.0.1"), caller("192.0.2.7")],
            ..ProxyMetrics::default()
        };
        proxies(&[("web-5d4f8-10-0-0-1", metrics)])
    };
    let found = plaintext(&seen, None, &called(3.0, 0.0));
    assert_eq!(found.state, State::Warning);
    assert_eq!(
        found.details,
        [
            "192.0.2.7 -> deployment shop/web: 3 connections served",
            "deployment batch/cron (pod cron-5d4f8-10-9-0-1) -> deployment shop/web: 3 connections served",
        ]
    );
    let refused = plaintext(&seen, None, &called(0.0, 4.0));
    assert_eq!((refused.state, refused.details.len()), (State::Ok, 2));
    assert!(refused.summary.ends_with("weft.dev/mode=strict): shop"), "{}", refused.summary);
    assert_eq!(plaintext(&seen, None, &Proxies::default()).state, State::Skipped);
}

#[test]
fn a_caller_with_a_sidecar_is_not_told_to_get_one() {
    let seen = view(&[shop(), pod("shop", "web", "10.0.0.1", true), pod("shop", "client", "10.0.0.2", true)]);
    let called = |served: f64, refused: f64| {
        let caller = PlaintextCaller { source: Some("10.0.0.2".parse().unwrap()), served, refused };
        let metrics = ProxyMetrics { plaintext: vec![caller], ..ProxyMetrics::default() };
        plaintext(&seen, None, &proxies(&[("web-5d4f8-10-0-0-1", metrics)]))
    };
    for found in [called(1.0, 0.0), called(0.0, 1.0)] {
        assert_eq!(found.state, State::Warning);
        let cure = found.cure.unwrap();
        assert!(cure.contains("deployment shop/client") && cure.contains("use the Service's name"), "{cure}");
        assert!(!cure.contains("Give the callers"), "{cure}");
    }
}

#[test]
fn what_the_controller_holds_back_is_told() {
    let mesh = |annotations: Value| json!({"kind": "ConfigMap", "metadata": {"name": "weft-mesh", "namespace": "shop", "annotations": annotations}});
    let found =
        held_back(&view(&[shop(), mesh(json!({"weft.dev/held-back": "2 Services: too many"}))]), None);
    assert_eq!(
        (found.state, found.details.as_slice()),
        (State::Warning, &["shop: 2 Services: too many".to_owned()][..])
    );
    assert_eq!(held_back(&view(&[shop(), mesh(json!({}))]), None).state, State::Ok);
}

#[test]
fn mistakes_of_namespaces_and_services_are_told() {
    let mut odd = service("shop", "web");
    odd["metadata"]["annotations"] = json!({"weft.dev/mode": "sometimes"});
    let found = mistakes(&view(&[shop(), odd]), None);
    assert_eq!(found.state, State::Warning);
    assert!(found.details[0].starts_with("Service shop/web: "), "{found:?}");
    assert_eq!(mistakes(&view(&[shop()]), None).state, State::Ok);
}
