use serde_json::{Value, json};

use super::{route_of, rule};
use crate::testing::{compiled, edge, route, said, service, with};

fn rules() -> Value {
    json!([{"backendRefs": [{"name": "s", "namespace": "shop", "port": 80}]}])
}

fn grant(namespace: &str) -> Value {
    json!({"kind": "ReferenceGrant", "metadata": {"name": namespace}, "spec": {
        "from": [{"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "namespace": namespace}],
        "to": [{"group": "", "kind": "Service"}],
    }})
}

#[test]
fn a_parent_is_named_by_all_that_is_said_of_it() {
    let listeners = json!([
        {"name": "one", "port": 80, "protocol": "HTTP", "hostname": "one.example"},
        {"name": "two", "port": 80, "protocol": "HTTP", "hostname": "two.example"},
        {"name": "three", "port": 81, "protocol": "HTTP", "hostname": "three.example"},
    ]);
    let edge = with(edge(), "/spec/listeners", listeners);
    for (parent, found, note) in [
        (json!({"name": "edge"}), ["r", "r"], None),
        (
            json!({"name": "edge", "group": "gateway.networking.k8s.io", "kind": "Gateway", "namespace": "shop"}),
            ["r", "r"],
            None,
        ),
        (json!({"name": "edge", "sectionName": "two"}), ["-", "r"], None),
        (json!({"name": "edge", "port": 80}), ["r", "r"], None),
        (json!({"name": "edge", "port": 81}), ["-", "-"], None),
        (json!({"name": "edge", "sectionName": "one", "port": 80}), ["r", "-"], None),
        (json!({"name": "edge", "sectionName": "one", "port": 81}), ["-", "-"], Some("NoMatchingParent")),
        (json!({"name": "edge", "sectionName": "four"}), ["-", "-"], Some("NoMatchingParent")),
        (json!({"name": "ledge"}), ["-", "-"], Some("NoMatchingParent")),
        (json!({"name": "edge", "namespace": "else"}), ["-", "-"], Some("NoMatchingParent")),
        (json!({"name": "edge", "kind": "Bridge"}), ["-", "-"], Some("InvalidKind")),
    ] {
        let r = with(route("r", rules()), "/spec/parentRefs/0", parent.clone());
        let compiled = compiled([edge.clone(), service("s"), r]);
        let seen = ["one.example", "two.example"].map(|host| route_of(rule(&compiled.program, host, "/")));
        assert_eq!(seen, found, "{parent}");
        let notes: Vec<String> = note.iter().map(|note| format!("{note} spec.parentRefs[0]")).collect();
        assert_eq!(said(&compiled), notes, "{parent}");
    }
}

#[test]
fn a_route_that_names_a_parent_twice_hangs_there_once() {
    let r = with(
        route("r", rules()),
        "/spec/parentRefs",
        json!([{"name": "edge"}, {"name": "edge", "sectionName": "http"}]),
    );
    let compiled = compiled([edge(), service("s"), r]);
    assert_eq!(super::table(super::listener(&compiled.program, 80, "x").unwrap()).len(), 1);
}

#[test]
fn namespaces_that_may_attach() {
    let namespace = |name: &str, labels: Value| json!({"kind": "Namespace", "metadata": {"name": name, "labels": labels}});
    let selector = |selector: Value| json!({"from": "Selector", "selector": selector});
    for (allowed, from_shop, from_team) in [
        (json!({"from": "All"}), true, true),
        (json!({"from": "Same"}), true, false),
        (json!({}), true, false),
        (json!({"from": "None"}), false, false),
        (selector(json!({"matchLabels": {"tier": "web"}})), false, true),
        (selector(json!({"matchLabels": {"tier": "web", "x": "y"}})), false, false),
        (selector(json!({})), true, true),
        (
            selector(
                json!({"matchExpressions": [{"key": "tier", "operator": "In", "values": ["web", "x"]}]}),
            ),
            false,
            true,
        ),
        (
            selector(json!({"matchExpressions": [{"key": "tier", "operator": "NotIn", "values": ["web"]}]})),
            true,
            false,
        ),
        (selector(json!({"matchExpressions": [{"key": "tier", "operator": "Exists"}]})), false, true),
        (selector(json!({"matchExpressions": [{"key": "tier", "operator": "DoesNotExist"}]})), true, false),
        (selector(json!({"matchLabels": {"kubernetes.io/metadata.name": "shop"}})), true, false),
        (json!({"from": "Selector"}), false, false),
    ] {
        let edge = with(edge(), "/spec/listeners/0/allowedRoutes/namespaces", allowed.clone());
        let own = with(route("own", rules()), "/spec/hostnames", json!(["own.example"]));
        let team = with(route("team", rules()), "/spec/hostnames", json!(["team.example"]));
        let team = with(
            with(team, "/metadata/namespace", json!("team")),
            "/spec/parentRefs/0/namespace",
            json!("shop"),
        );
        let documents =
            [edge, service("s"), grant("team"), namespace("team", json!({"tier": "web"})), own, team];
        let compiled = compiled(documents);
        let found = |host: &str| rule(&compiled.program, host, "/").is_some();
        assert_eq!((found("own.example"), found("team.example")), (from_shop, from_team), "{allowed}");
        let refused = said(&compiled).iter().filter(|note| note.starts_with("NotAllowedByListeners")).count();
        assert_eq!(refused, usize::from(!from_shop) + usize::from(!from_team), "{allowed}");
    }
}

#[test]
fn host_names_of_route_and_listener_are_cut() {
    for (listener, route_hosts, hits, misses) in [
        (None, vec![], vec!["a.example", "x"], vec![]),
        (None, vec!["a.example"], vec!["a.example"], vec!["b.example", "x.a.example"]),
        (Some("a.example"), vec![], vec!["a.example"], vec!["b.example"]),
        (Some("*.example"), vec![], vec!["a.example", "b.a.example"], vec!["example", "a.other"]),
        (Some("*.example"), vec!["a.example", "b.other"], vec!["a.example"], vec!["b.other", "b.example"]),
        (Some("*.example"), vec!["*.a.example"], vec!["b.a.example"], vec!["a.example", "b.example"]),
        (Some("*.a.example"), vec!["*.example"], vec!["b.a.example"], vec!["b.example", "a.example"]),
        (Some("a.example"), vec!["*.example"], vec!["a.example"], vec!["b.example"]),
        (Some("*.example"), vec!["*.example"], vec!["a.example"], vec!["example"]),
        (Some("A.Example"), vec!["a.EXAMPLE"], vec!["a.example"], vec![]),
    ] {
        let edge = with(edge(), "/spec/listeners/0/hostname", json!(listener));
        let compiled =
            compiled([edge, service("s"), with(route("r", rules()), "/spec/hostnames", json!(route_hosts))]);
        assert_eq!(said(&compiled), [] as [&str; 0]);
        for host in hits {
            assert!(rule(&compiled.program, host, "/").is_some(), "{listener:?} {route_hosts:?} {host}");
        }
        for host in misses {
            assert!(rule(&compiled.program, host, "/").is_none(), "{listener:?} {route_hosts:?} {host}");
        }
    }
}

#[test]
fn no_common_host_name_is_told() {
    for (listener, host) in [
        ("a.example", "b.example"),
        ("*.example", "example"),
        ("*.example", "*.other"),
        ("a.example", "*.a.example"),
    ] {
        let edge = with(edge(), "/spec/listeners/0/hostname", json!(listener));
        let compiled =
            compiled([edge, service("s"), with(route("r", rules()), "/spec/hostnames", json!([host]))]);
        assert_eq!(said(&compiled), ["NoMatchingListenerHostname spec.parentRefs[0]"], "{listener} {host}");
    }
}

#[test]
fn routes_of_two_kinds_do_not_share_a_host_name() {
    let grpc = |name: &str, hosts: Value, made: &str| {
        json!({"kind": "GRPCRoute", "metadata": {"name": name, "creationTimestamp": made}, "spec": {
            "parentRefs": [{"name": "edge"}], "hostnames": hosts, "rules": [{"backendRefs": [{"name": "s", "port": 80}]}],
        }})
    };
    let http = |name: &str, hosts: Value, made: &str| {
        let route = with(route(name, rules()), "/spec/hostnames", hosts);
        with(route, "/metadata/creationTimestamp", json!(made))
    };
    let (early, late) = ("2024-01-01T00:00:00Z", "2024-01-02T00:00:00Z");
    for (documents, found) in [
        ([http("h", json!(["a.example"]), early), grpc("g", json!(["a.example"]), late)], "h"),
        ([http("h", json!(["a.example"]), late), grpc("g", json!(["a.example"]), early)], "g"),
        ([http("h", json!(["a.example"]), early), grpc("g", json!(["a.example"]), early)], "g"),
        ([http("h", json!(["*.example"]), early), grpc("g", json!(["a.example"]), late)], "h"),
        ([http("h", json!([]), late), grpc("g", json!(["a.example"]), early)], "g"),
    ] {
        let compiled = compiled(documents.into_iter().chain([edge(), service("s")]));
        assert_eq!(route_of(rule(&compiled.program, "a.example", "/")), found);
        assert_eq!(said(&compiled), ["Conflicted spec.parentRefs[0]"]);
        assert_ne!(&*compiled.notes[0].resource.name, found);
    }
    let apart =
        [http("h", json!(["a.example"]), early), grpc("g", json!(["b.example"]), late), edge(), service("s")];
    assert_eq!(said(&compiled(apart)), [] as [&str; 0]);
}

#[test]
fn a_route_without_a_parent_is_told() {
    let compiled = compiled([with(route("r", rules()), "/spec/parentRefs", json!([])), service("s")]);
    assert_eq!(said(&compiled), ["NoMatchingParent spec.parentRefs"]);
}
