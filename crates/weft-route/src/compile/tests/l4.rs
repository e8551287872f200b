use serde_json::{Value, json};
use weft_core::ProxyProtocol;

use super::listener;
use crate::program::{L4Rule, ListenerKind, Program};
use crate::testing::{compiled, said, service, with};

fn gateway(protocol: &str, tls: Value, hostname: Value) -> Value {
    json!({"kind": "Gateway", "metadata": {"name": "edge"}, "spec": {"gatewayClassName": "weft", "listeners": [
        {"name": "l", "port": 443, "protocol": protocol, "tls": tls, "hostname": hostname},
    ]}})
}

fn tls_route(name: &str, hosts: Value, backend: &str) -> Value {
    json!({"kind": "TLSRoute", "metadata": {"name": name}, "spec": {
        "parentRefs": [{"name": "edge"}], "hostnames": hosts, "rules": [{"backendRefs": [{"name": backend, "port": 80}]}],
    }})
}

fn tcp_route(name: &str, backend: &str) -> Value {
    let route = tls_route(name, json!(null), backend);
    let mut route = with(route, "/kind", json!("TCPRoute"));
    route["spec"].as_object_mut().unwrap().remove("hostnames");
    route
}

fn rule<'p>(program: &'p Program, name: &str) -> Option<&'p L4Rule> {
    match &listener(program, 443, name)?.kind {
        ListenerKind::Tls(_, rules) | ListenerKind::Passthrough(rules) => {
            rules.most_specific(name).map(|rule| &**rule)
        }
        ListenerKind::Tcp(rule) => rule.as_deref(),
        other => panic!("{other:?}"),
    }
}

fn names(program: &Program, hosts: &[&str]) -> Vec<String> {
    hosts
        .iter()
        .map(|host| rule(program, host).map_or("-".to_owned(), |rule| rule.label.to_string()))
        .collect()
}

#[test]
fn tls_is_passed_on_by_server_name() {
    let documents = [
        gateway("TLS", json!({"mode": "Passthrough"}), json!(null)),
        service("s"),
        tls_route("exact", json!(["a.example"]), "s"),
        tls_route("wide", json!(["*.example"]), "s"),
    ];
    let compiled = compiled(documents);
    assert_eq!(said(&compiled), [] as [&str; 0]);
    assert_eq!(
        names(&compiled.program, &["a.example", "b.example", "b.a.example", "other"]),
        ["shop/exact", "shop/wide", "shop/wide", "-"]
    );
}

#[test]
fn a_backend_may_want_to_be_told_who_connects() {
    for (written, expected) in
        [(json!("v1"), Some(ProxyProtocol::V1)), (json!("v2"), Some(ProxyProtocol::V2)), (json!(null), None)]
    {
        let backend = json!({"kind": "Backend", "metadata": {"name": "b"}, "spec": {
            "endpoints": [{"host": "10.0.0.1", "port": 80}], "protocol": "tcp", "proxyProtocol": written,
        }});
        let mut route = tcp_route("r", "b");
        route["spec"]["rules"][0]["backendRefs"][0] =
            json!({"group": "weft.dev", "kind": "Backend", "name": "b"});
        let compiled = compiled([gateway("TCP", json!(null), json!(null)), backend, route]);
        assert_eq!(said(&compiled), [] as [&str; 0]);
        let backend = rule(&compiled.program, "").and_then(|rule| rule.backends.at(0)).unwrap();
        assert_eq!(backend.upstream.as_ref().unwrap().proxy_protocol, expected);
    }
}

#[test]
fn the_oldest_route_has_a_server_name() {
    let old = with(
        tls_route("z", json!(["a.example"]), "s"),
        "/metadata/creationTimestamp",
        json!("2024-01-01T00:00:00Z"),
    );
    let young = tls_route("a", json!(["a.example", "b.example"]), "s");
    let compiled =
        compiled([gateway("TLS", json!({"mode": "Passthrough"}), json!(null)), service("s"), old, young]);
    assert_eq!(names(&compiled.program, &["a.example", "b.example"]), ["shop/z", "shop/a"]);
    assert_eq!(said(&compiled), ["Conflicted spec.parentRefs[0]"]);
}

#[test]
fn a_tcp_listener_is_the_oldest_routes() {
    let compiled = compiled([
        gateway("TCP", json!(null), json!(null)),
        service("s"),
        service("t"),
        tcp_route("b", "t"),
        tcp_route("a", "s"),
    ]);
    assert_eq!(names(&compiled.program, &["", "any"]), ["shop/a", "shop/a"]);
    assert_eq!(said(&compiled), ["Conflicted spec.parentRefs[0]"]);
    assert_eq!(&*compiled.notes[0].resource.name, "b");
}

#[test]
fn routes_go_with_the_protocol_of_their_listener() {
    for (gateway, route, fits) in [
        (gateway("TCP", json!(null), json!(null)), tls_route("r", json!(["a.example"]), "s"), false),
        (gateway("TLS", json!({"mode": "Passthrough"}), json!(null)), tcp_route("r", "s"), false),
        (gateway("HTTP", json!(null), json!(null)), tcp_route("r", "s"), false),
        (gateway("TCP", json!(null), json!(null)), tcp_route("r", "s"), true),
        (
            gateway("TLS", json!({"mode": "Passthrough"}), json!(null)),
            tls_route("r", json!(["a.example"]), "s"),
            true,
        ),
    ] {
        let notes = if fits { vec![] } else { vec!["NotAllowedByListeners spec.parentRefs[0]"] };
        assert_eq!(said(&compiled([gateway, service("s"), route])), notes);
    }
}

#[test]
fn server_names_are_cut_to_those_of_the_listener() {
    let gateway = gateway("TLS", json!({"mode": "Passthrough"}), json!("*.example"));
    let both =
        compiled([gateway.clone(), service("s"), tls_route("r", json!(["a.example", "a.other"]), "s")]);
    assert_eq!(names(&both.program, &["a.example", "b.example"]), ["shop/r", "-"]);
    assert!(listener(&both.program, 443, "a.other").is_none());
    let none = compiled([gateway, service("s"), tls_route("r", json!(["a.other"]), "s")]);
    assert_eq!(said(&none), ["NoMatchingListenerHostname spec.parentRefs[0]"]);
}

#[test]
fn what_is_wrong_with_a_backend_is_told() {
    let compiled = compiled([gateway("TCP", json!(null), json!(null)), tcp_route("r", "gone")]);
    assert_eq!(said(&compiled), ["BackendNotFound spec.rules[0].backendRefs[0]"]);
    assert!(rule(&compiled.program, "").unwrap().backends.at(0).unwrap().upstream.is_err());
}

#[test]
fn bytes_go_to_a_service_whatever_it_speaks() {
    for protocol in ["tcp", "mysql", "https", "grpc"] {
        let service = with(service("s"), "/spec/ports/0/appProtocol", json!(protocol));
        let compiled = compiled([gateway("TCP", json!(null), json!(null)), service, tcp_route("r", "s")]);
        assert_eq!(said(&compiled), [] as [&str; 0], "{protocol}");
    }
}

#[test]
fn a_route_has_one_rule() {
    let two =
        with(tcp_route("r", "s"), "/spec/rules", json!([{"backendRefs": [{"name": "s", "port": 80}]}, {}]));
    assert_eq!(
        said(&compiled([gateway("TCP", json!(null), json!(null)), service("s"), two])),
        ["UnsupportedValue spec.rules[1]"]
    );
    let none = with(tcp_route("r", "s"), "/spec/rules", json!([]));
    assert_eq!(
        said(&compiled([gateway("TCP", json!(null), json!(null)), service("s"), none])),
        ["UnsupportedValue spec.rules"]
    );
}
