use serde_json::{Value, json};

use super::{backends, rule};
use crate::testing::{compiled, edge, route, said, service, with};

fn to(reference: Value) -> Value {
    route("r", json!([{"backendRefs": [reference]}]))
}

/// What became of one reference, and the notes.
fn followed(reference: Value, more: impl IntoIterator<Item = Value>) -> (Vec<String>, Vec<String>) {
    let compiled = compiled([edge(), to(reference)].into_iter().chain(more));
    (backends(rule(&compiled.program, "x", "/")), said(&compiled))
}

const FIELD: &str = "spec.rules[0].backendRefs[0]";

#[test]
fn a_service_is_a_dns_name_and_a_port() {
    let (backends, notes) = followed(json!({"name": "s", "port": 80}), [service("s")]);
    assert_eq!(backends, ["1 s.shop.svc.cluster.local:80 Http1"]);
    assert_eq!(notes, [] as [&str; 0]);
}

#[test]
fn references_that_lead_nowhere_keep_their_share() {
    let external = with(service("s"), "/spec/type", json!("ExternalName"));
    let udp = with(service("s"), "/spec/ports/0/protocol", json!("UDP"));
    for (reference, documents, reason, problem) in [
        (
            json!({"name": "s", "port": 80, "weight": 3}),
            vec![],
            "BackendNotFound",
            "3 there is no Service shop/s",
        ),
        (
            json!({"name": "s", "port": 81}),
            vec![service("s")],
            "BackendNotFound",
            "1 Service shop/s has no TCP port 81; it has 80",
        ),
        (
            json!({"name": "s"}),
            vec![service("s")],
            "BackendNotFound",
            "1 a reference to Service shop/s must have a `port`",
        ),
        (
            json!({"name": "s", "port": 80}),
            vec![udp],
            "BackendNotFound",
            "1 Service shop/s has no TCP port 80; it has none",
        ),
        (
            json!({"name": "s", "port": 80}),
            vec![external],
            "InvalidKind",
            "1 `Service of type ExternalName` is no kind of a backend",
        ),
        (json!({"name": "s", "kind": "Pod"}), vec![], "InvalidKind", "1 `Pod` is no kind of a backend"),
        (
            json!({"name": "s", "group": "x.dev", "kind": "Backend"}),
            vec![],
            "InvalidKind",
            "1 `x.dev/Backend` is no kind of a backend",
        ),
        (
            json!({"name": "b", "group": "weft.dev", "kind": "Backend"}),
            vec![],
            "BackendNotFound",
            "1 there is no Backend shop/b",
        ),
        (
            json!({"name": "s", "namespace": "else", "port": 80}),
            vec![with(service("s"), "/metadata/namespace", json!("else"))],
            "RefNotPermitted",
            "1 no ReferenceGrant in namespace else lets this route refer to Service else/s",
        ),
    ] {
        let (backends, notes) = followed(reference.clone(), documents);
        assert_eq!(backends, [problem], "{reference}");
        assert_eq!(notes, [format!("{reason} {FIELD}")], "{reference}");
    }
}

#[test]
fn a_note_tells_the_cure() {
    let compiled = compiled([edge(), to(json!({"name": "s", "namespace": "else", "port": 80}))]);
    assert_eq!(
        compiled.notes[0].to_string(),
        "HTTPRoute shop/r: spec.rules[0].backendRefs[0]: no ReferenceGrant in namespace else lets this route refer to \
         Service else/s; add a ReferenceGrant to namespace else with from: [{group: \"gateway.networking.k8s.io\", \
         kind: HTTPRoute, namespace: shop}] and to: [{group: \"\", kind: Service, name: s}] [RefNotPermitted]"
    );
}

#[test]
fn a_grant_is_for_who_and_what_it_says() {
    let grant = |from: Value, to: Value| json!({"kind": "ReferenceGrant", "metadata": {"name": "g", "namespace": "else"}, "spec": {"from": [from], "to": [to]}});
    let from = json!({"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "namespace": "shop"});
    let to = json!({"group": "", "kind": "Service"});
    let whole = grant(from.clone(), to.clone());
    for (grant, granted) in [
        (whole.clone(), true),
        (grant(from.clone(), json!({"group": "", "kind": "Service", "name": "s"})), true),
        (grant(from.clone(), json!({"group": "", "kind": "Service", "name": "t"})), false),
        (grant(from.clone(), json!({"group": "", "kind": "Secret"})), false),
        (grant(from.clone(), json!({"group": "core", "kind": "Service"})), false),
        (grant(with(from.clone(), "/kind", json!("GRPCRoute")), to.clone()), false),
        (grant(with(from.clone(), "/namespace", json!("other")), to.clone()), false),
        (grant(with(from, "/group", json!("")), to), false),
        // It stands in the namespace of what is referred to, and nowhere else.
        (with(whole, "/metadata/namespace", json!("shop")), false),
    ] {
        let reference = json!({"name": "s", "namespace": "else", "port": 80});
        let service = with(service("s"), "/metadata/namespace", json!("else"));
        let (_, notes) = followed(reference, [service, grant.clone()]);
        assert_eq!(notes.is_empty(), granted, "{grant}");
    }
}

#[test]
fn the_application_protocol_says_what_is_spoken() {
    for (said, outcome) in [
        (json!(null), Ok("Http1")),
        (json!("http"), Ok("Http1")),
        (json!("kubernetes.io/ws"), Ok("Http1")),
        (json!("kubernetes.io/h2c"), Ok("Http2")),
        (json!("grpc"), Ok("Grpc")),
        (json!("https"), Err("InvalidTls")),
        (json!("kubernetes.io/wss"), Err("InvalidTls")),
        (json!("tcp"), Err("UnsupportedProtocol")),
        (json!("mysql"), Err("UnsupportedProtocol")),
    ] {
        let service = with(service("s"), "/spec/ports/0/appProtocol", said.clone());
        let (backends, notes) = followed(json!({"name": "s", "port": 80}), [service]);
        match outcome {
            Ok(protocol) => {
                assert_eq!(backends, [format!("1 s.shop.svc.cluster.local:80 {protocol}")], "{said}");
            }
            Err(reason) => assert_eq!(notes, [format!("{reason} {FIELD}")], "{said}"),
        }
    }
}

#[test]
fn a_backend_lists_hosts() {
    let backend = |spec: Value| json!({"kind": "Backend", "metadata": {"name": "b"}, "spec": spec});
    let endpoints = json!([{"host": "api.example.com", "port": 443}, {"host": "10.0.0.1", "port": 8443}]);
    let reference = json!({"group": "weft.dev", "kind": "Backend", "name": "b"});
    let (found, notes) = followed(reference.clone(), [backend(json!({"endpoints": endpoints}))]);
    assert_eq!((found, notes), (vec!["1 shop/b Http1".to_owned()], vec![]));
    for (protocol, tls, spoken) in
        [("h2", json!(null), "Http2"), ("grpc", json!({}), "Grpc"), ("http/1.1", json!({}), "Any")]
    {
        let (found, _) = followed(
            reference.clone(),
            [backend(json!({"endpoints": endpoints, "protocol": protocol, "tls": tls}))],
        );
        assert_eq!(found, [format!("1 shop/b {spoken}")]);
    }
    let (_, notes) =
        followed(reference.clone(), [backend(json!({"endpoints": endpoints, "protocol": "tcp"}))]);
    assert_eq!(notes, [format!("UnsupportedProtocol {FIELD}")]);
    let announced = backend(json!({"endpoints": endpoints, "proxyProtocol": "v2"}));
    let (found, notes) = followed(reference.clone(), [announced]);
    assert!(notes.is_empty(), "{found:?}");
    let with_port = with(reference, "/port", json!(444));
    let (_, notes) = followed(with_port, [backend(json!({"endpoints": endpoints}))]);
    assert_eq!(notes, [format!("BackendNotFound {FIELD}")]);
}

#[test]
fn equal_upstreams_are_one() {
    let rules = json!([
        {"matches": [{"path": {"value": "/a"}}], "backendRefs": [{"name": "s", "port": 80}]},
        {"matches": [{"path": {"value": "/b"}}], "backendRefs": [{"name": "s", "port": 80, "weight": 5}, {"name": "t", "port": 80}]},
    ]);
    let compiled = compiled([edge(), service("s"), service("t"), route("r", rules)]);
    let mut labels: Vec<&str> = compiled.program.upstreams.iter().map(|upstream| &*upstream.label).collect();
    labels.sort_unstable();
    assert_eq!(labels, ["s.shop.svc.cluster.local:80", "t.shop.svc.cluster.local:80"]);
}

#[test]
fn shares_are_those_of_the_weights() {
    let rules = |weights: [u32; 3]| {
        json!([{"backendRefs": [
            {"name": "s", "port": 80, "weight": weights[0]},
            {"name": "gone", "port": 80, "weight": weights[1]},
            {"name": "t", "port": 80, "weight": weights[2]},
        ]}])
    };
    let shares = |weights: [u32; 3]| {
        let compiled = compiled([edge(), service("s"), service("t"), route("r", rules(weights))]);
        let rule = rule(&compiled.program, "x", "/").unwrap();
        let total = rule.backends.total();
        let at = |point: u64| match rule.backends.at(point).map(|backend| &backend.upstream) {
            Some(Ok(upstream)) => upstream.label.chars().next().unwrap(),
            Some(Err(_)) => '!',
            None => '-',
        };
        (0..=total).map(at).collect::<String>()
    };
    assert_eq!(shares([1, 2, 3]), "s!!ttt-", "an invalid backend answers its share");
    assert_eq!(shares([0, 1, 1]), "!t-");
    assert_eq!(shares([2, 0, 0]), "ss-");
    assert_eq!(shares([0, 0, 0]), "-");
}

#[test]
fn a_pick_follows_the_shares() {
    let rules = json!([{"backendRefs": [
        {"name": "s", "port": 80, "weight": 90}, {"name": "t", "port": 80, "weight": 10}, {"name": "u", "port": 80, "weight": 0},
    ]}]);
    let compiled = compiled([edge(), service("s"), service("t"), service("u"), route("r", rules)]);
    let rule = rule(&compiled.program, "x", "/").unwrap();
    let mut rng = fastrand::Rng::with_seed(7);
    let mut counts = std::collections::BTreeMap::new();
    for _ in 0..10_000 {
        let picked = rule.backends.pick(&mut rng).unwrap();
        *counts.entry(picked.weight).or_insert(0) += 1;
    }
    assert_eq!(counts.keys().copied().collect::<Vec<u32>>(), [10, 90]);
    assert!((900..1100).contains(&counts[&10]), "{counts:?}");
}

#[test]
fn a_rule_that_nobody_answers_is_told() {
    let redirect = json!([{"type": "RequestRedirect", "requestRedirect": {}}]);
    for (rules, note) in [
        (json!([{}]), Some("NoBackends")),
        (json!([{"backendRefs": [{"name": "s", "port": 80, "weight": 0}]}]), Some("NoBackends")),
        (json!([{"filters": redirect}]), None),
        (
            json!([{"filters": redirect, "backendRefs": [{"name": "s", "port": 80}]}]),
            Some("IncompatibleFilters"),
        ),
    ] {
        let compiled = compiled([edge(), service("s"), route("r", rules)]);
        let notes: Vec<String> =
            note.iter().map(|note| format!("{note} spec.rules[0].backendRefs")).collect();
        assert_eq!(said(&compiled), notes);
        assert!(rule(&compiled.program, "x", "/").is_some());
    }
}
