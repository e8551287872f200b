use super::*;

fn pod(json: serde_json::Value) -> PodFacts {
    PodFacts::take(&serde_json::from_value::<Pod>(json).unwrap()).1
}

#[test]
fn containers_say_whether_a_pod_is_injected_and_the_annotation_does_not() {
    let with = |init: &[&str], app: &[&str]| {
        let named = |names: &[&str]| names.iter().map(|n| serde_json::json!({"name": n})).collect::<Vec<_>>();
        pod(serde_json::json!({
            "metadata": {"name": "a", "namespace": "n", "annotations": {"weft.dev/injected": "{}"}},
            "spec": {"initContainers": named(init), "containers": named(app)},
        }))
        .injected
    };
    assert!(with(&["weft-init", "weft-proxy"], &["app"]));
    assert!(with(&["weft-init"], &["weft-proxy", "app"]));
    assert!(!with(&[], &["app"]));
    assert!(!with(&["weft-proxy"], &["app"]));
    assert!(!with(&["weft-init"], &["app"]));
}

#[test]
fn a_pods_state_is_read() {
    let facts = pod(serde_json::json!({
        "metadata": {"name": "a", "namespace": "n", "uid": "u", "labels": {"weft.dev/inject": "enabled"},
                     "annotations": {"weft.dev/mode": "disable"}, "deletionTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"containers": [], "hostNetwork": true},
        "status": {"phase": "Running", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}, {"ip": "odd"}],
                   "conditions": [{"type": "Ready", "status": "True"},
                                  {"type": "weft.dev/SidecarInjected", "status": "False"}]},
    }));
    assert!(facts.ready && facts.ending && facts.left_alone && !facts.finished);
    assert_eq!(facts.reported, Some(Reported::Missing));
    assert_eq!((facts.inject, facts.mode), (Inject::Enabled, Some(MtlsMode::Disable)));
    assert_eq!(facts.ips.len(), 2);
}

#[test]
fn the_words_of_other_meshes_are_labels_too() {
    for (word, read) in [
        ("enabled", Inject::Enabled),
        ("true", Inject::Enabled),
        ("disabled", Inject::Disabled),
        ("false", Inject::Disabled),
        ("yes", Inject::Unsaid),
    ] {
        let labelled = serde_json::json!({"metadata": {"name": "a", "labels": {"weft.dev/inject": word}}});
        assert_eq!(pod(labelled).inject, read, "{word}");
    }
}

#[test]
fn some_pods_are_left_alone() {
    for (change, alone) in [
        (serde_json::json!({}), false),
        (serde_json::json!({"spec": {"containers": [], "os": {"name": "windows"}}}), true),
        (serde_json::json!({"spec": {"containers": [], "os": {"name": "linux"}}}), false),
        (
            serde_json::json!({"spec": {"containers": [], "nodeSelector": {"kubernetes.io/os": "windows"}}}),
            true,
        ),
        (
            serde_json::json!({"spec": {"containers": [], "affinity": {"nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{"matchExpressions": [
                    {"key": "kubernetes.io/os", "operator": "In", "values": ["windows"]}]}]}}}}}),
            true,
        ),
        (serde_json::json!({"metadata": {"name": "a", "annotations": {MIRROR: "x"}}}), true),
    ] {
        let mut json = serde_json::json!({"metadata": {"name": "a"}, "spec": {"containers": []}});
        json.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        assert_eq!(pod(json.clone()).left_alone, alone, "{json}");
    }
}

#[test]
fn services_are_told_apart() {
    let service = |json| ServiceFacts::take(&serde_json::from_value::<Service>(json).unwrap()).1;
    let external = service(serde_json::json!({
        "metadata": {"name": "a", "annotations": {"weft.dev/mode": "sometimes", "weft.dev/mesh": "off", "weft.dev/mod": "strict"}},
        "spec": {"type": "ExternalName", "externalName": "x.example"},
    }));
    assert_eq!(external.kind, ServiceKind::External);
    assert_eq!((external.mode, external.mesh_disabled), (None, false));
    for (told, named) in external.mistakes.iter().zip(["weft.dev/mod ", "\"sometimes\"", "\"off\""]) {
        assert!(told.contains(named), "{told}");
    }
    assert_eq!(external.mistakes.len(), 3);
    let twin = |owner: &str, managed: &str| {
        service(serde_json::json!({
            "metadata": {"name": "a-endpoints", "labels": {TWIN_OF: "a", MANAGED_BY.0: managed},
                         "ownerReferences": [{"apiVersion": "v1", "kind": "Service", "name": owner, "uid": "u"}]},
            "spec": {"clusterIP": "None", "ports": [{"port": 80, "targetPort": "web"}, {"port": 81}]},
        }))
    };
    assert!(twin("a", "weft").is_twin());
    assert!(!twin("b", "weft").is_twin() && !twin("a", "helm").is_twin());
    assert_eq!(twin("a", "weft").kind, ServiceKind::Headless);
    assert_eq!(twin("a", "weft").ports[1].target, IntOrString::Int(81));
}

#[test]
fn what_one_object_brings_is_bounded() {
    let many = |prefix: &str, count: usize| {
        (0..count).map(|n| (format!("{prefix}{n}"), "x".to_owned())).collect::<BTreeMap<_, _>>()
    };
    let json = serde_json::json!({
        "metadata": {"name": "a", "namespace": "n", "annotations": many("weft.dev/x", 5_000)},
        "spec": {"selector": many("l", 5_000),
                 "ports": (1..5_000).map(|port| serde_json::json!({"port": port})).collect::<Vec<_>>()},
    });
    let facts = ServiceFacts::take(&serde_json::from_value::<Service>(json).unwrap()).1;
    assert!(facts.oversized);
    let kept = (facts.mistakes.len(), facts.selector.len(), facts.ports.len());
    assert_eq!(kept, (MISTAKES, SELECTOR, PORTS));
    let json = serde_json::json!({"metadata": {"name": "a", "namespace": "n", "labels": many("l", 5_000)}});
    assert_eq!(pod(json).labels.len(), LABELS);
}

#[test]
fn nodes_tell_their_networks_once() {
    let node = serde_json::json!({
        "metadata": {"name": "n"},
        "spec": {"podCIDR": "10.244.1.0/24", "podCIDRs": ["10.244.1.0/24", "fd00:1::/64"]},
    });
    let facts = NodeFacts::take(&serde_json::from_value::<Node>(node).unwrap()).1;
    assert_eq!(facts.pod_cidrs.len(), 2);
}
