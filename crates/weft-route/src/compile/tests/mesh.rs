use serde_json::{Value, json};
use weft_core::ServiceKey;

use super::{backends, find, route_of};
use crate::compile::{Compiled, compile};
use crate::testing::{options, said, service, set, with};

fn route(name: &str, namespace: &str, service: &str, backend: &str) -> Value {
    json!({"kind": "HTTPRoute", "metadata": {"name": name, "namespace": namespace}, "spec": {
        "parentRefs": [{"group": "", "kind": "Service", "name": service, "namespace": "shop"}],
        "rules": [{"backendRefs": [{"name": backend, "namespace": "shop", "port": 80}]}],
    }})
}

fn of(client: Option<&str>, documents: impl IntoIterator<Item = Value>) -> Compiled {
    let mut options = options();
    options.client_namespace = client.map(|client| client.parse().unwrap());
    compile(&set(documents), &options)
}

fn answers(compiled: &Compiled, service: &str, port: u16) -> String {
    let key = ServiceKey::new(format!("{service}.shop.svc.cluster.local").parse().unwrap(), port);
    match compiled.program.services.get(&key) {
        None => "none".to_owned(),
        Some(table) => route_of(find(table, "whatever.is.said", "/")),
    }
}

#[test]
fn a_route_of_the_services_namespace_is_for_everybody() {
    for client in [None, Some("shop"), Some("team")] {
        let compiled = of(client, [service("orders"), service("new"), route("r", "shop", "orders", "new")]);
        assert_eq!(answers(&compiled, "orders", 80), "r", "{client:?}");
        assert_eq!(answers(&compiled, "new", 80), "none");
        assert_eq!(said(&compiled), [] as [&str; 0]);
    }
}

#[test]
fn a_route_of_another_namespace_is_for_its_own_clients_and_replaces_the_others() {
    let documents = || {
        [
            service("orders"),
            route("producer", "shop", "orders", "orders"),
            route("consumer", "team", "orders", "orders"),
        ]
    };
    assert_eq!(answers(&of(Some("team"), documents()), "orders", 80), "consumer");
    assert_eq!(answers(&of(Some("shop"), documents()), "orders", 80), "producer");
    assert_eq!(answers(&of(Some("other"), documents()), "orders", 80), "producer");
    assert_eq!(answers(&of(None, documents()), "orders", 80), "producer");
    // They are not merged: what the consumer's do not match is matched by none.
    let narrow = with(
        route("consumer", "team", "orders", "orders"),
        "/spec/rules/0/matches",
        json!([{"path": {"value": "/x"}}]),
    );
    assert_eq!(
        answers(
            &of(Some("team"), [service("orders"), route("producer", "shop", "orders", "orders"), narrow]),
            "orders",
            80
        ),
        "-"
    );
    // Without a route of the producer, others have none.
    assert_eq!(
        answers(
            &of(Some("shop"), [service("orders"), route("consumer", "team", "orders", "orders")]),
            "orders",
            80
        ),
        "none"
    );
}

#[test]
fn a_port_narrows_a_route() {
    let orders = with(
        service("orders"),
        "/spec/ports",
        json!([{"port": 80}, {"port": 81}, {"port": 53, "protocol": "UDP"}]),
    );
    let all = of(None, [orders.clone(), route("r", "shop", "orders", "orders")]);
    assert_eq!([80, 81, 53].map(|port| answers(&all, "orders", port)), ["r", "r", "none"]);
    let one = with(route("r", "shop", "orders", "orders"), "/spec/parentRefs/0/port", json!(81));
    let narrowed = of(None, [orders.clone(), one]);
    assert_eq!([80, 81].map(|port| answers(&narrowed, "orders", port)), ["none", "r"]);
    let wrong = with(route("r", "shop", "orders", "orders"), "/spec/parentRefs/0/port", json!(82));
    assert_eq!(said(&of(None, [orders, wrong])), ["NoMatchingParent spec.parentRefs[0]"]);
}

#[test]
fn host_names_mean_nothing() {
    let named = with(route("r", "shop", "orders", "orders"), "/spec/hostnames", json!(["a.example"]));
    assert_eq!(answers(&of(None, [service("orders"), named]), "orders", 80), "r");
}

#[test]
fn a_service_needs_no_grant_and_gets_what_the_client_spoke() {
    let compiled = of(Some("team"), [service("orders"), route("r", "team", "orders", "orders")]);
    let key = ServiceKey::new("orders.shop.svc.cluster.local".parse().unwrap(), 80);
    let rule = find(&compiled.program.services[&key], "x", "/");
    assert_eq!(backends(rule), ["1 orders.shop.svc.cluster.local:80 Any"]);
}

#[test]
fn grpc_routes_come_before_http_routes() {
    let grpc = with(route("g", "shop", "orders", "orders"), "/kind", json!("GRPCRoute"));
    let compiled = of(None, [service("orders"), route("a", "shop", "orders", "orders"), grpc]);
    assert_eq!(answers(&compiled, "orders", 80), "g");
    assert_eq!(said(&compiled), ["Conflicted spec.parentRefs[0]"]);
}

#[test]
fn parents_that_cannot_be_are_told() {
    let external = with(service("orders"), "/spec/type", json!("ExternalName"));
    assert_eq!(
        said(&of(None, [external, service("s"), route("r", "shop", "orders", "s")])),
        ["NoMatchingParent spec.parentRefs[0]"]
    );
    assert_eq!(
        said(&of(None, [service("s"), route("r", "shop", "orders", "s")])),
        ["NoMatchingParent spec.parentRefs[0]"]
    );
    let mut tcp = with(route("r", "shop", "s", "s"), "/kind", json!("TCPRoute"));
    tcp["spec"]["rules"] = json!([{"backendRefs": [{"name": "s", "port": 80}]}]);
    assert_eq!(said(&of(None, [service("s"), tcp])), ["NotAllowedByListeners spec.parentRefs[0]"]);
}

#[test]
fn a_section_of_a_service_is_a_port_by_name() {
    let ports = json!([{"name": "http", "port": 80}, {"name": "admin", "port": 81}, {"name": "dns", "port": 53, "protocol": "UDP"}]);
    let orders = || with(service("orders"), "/spec/ports", ports.clone());
    let of_port = |parent: Value| {
        let named = with(
            route("r", "shop", "orders", "orders"),
            "/spec/parentRefs/0/sectionName",
            parent["section"].clone(),
        );
        let route = with(named, "/spec/parentRefs/0/port", parent["port"].clone());
        let compiled = of(None, [orders(), route]);
        let hangs: Vec<u16> =
            [80, 81, 53].into_iter().filter(|port| answers(&compiled, "orders", *port) == "r").collect();
        (hangs, said(&compiled))
    };
    let nowhere = || vec!["NoMatchingParent spec.parentRefs[0]".to_owned()];
    for (parent, hangs, notes) in [
        (json!({}), vec![80, 81], Vec::new()),
        (json!({"section": "admin"}), vec![81], Vec::new()),
        (json!({"section": "admin", "port": 81}), vec![81], Vec::new()),
        (json!({"section": "admin", "port": 80}), vec![], nowhere()),
        (json!({"section": "dns"}), vec![], nowhere()),
        (json!({"section": "nobody"}), vec![], nowhere()),
    ] {
        assert_eq!(of_port(parent.clone()), (hangs, notes), "{parent}");
    }
}
