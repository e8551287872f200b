use serde_json::{Value, json};

use super::{listener, route_of, rule, rule_at};
use crate::compile::{Gateways, compile};
use crate::program::{ListenerKind, SocketKind};
use crate::testing::{compiled, edge, options, route, said, service, set, with};

/// A gateway with these listeners, each `[name, port, protocol, hostname]`.
fn gateway(name: &str, listeners: &[(&str, u16, &str, Option<&str>)]) -> Value {
    let each = listeners.iter().map(|(name, port, protocol, hostname)| {
        let tls = match *protocol {
            "TLS" => json!({"mode": "Passthrough"}),
            _ => Value::Null,
        };
        json!({"name": name, "port": port, "protocol": protocol, "hostname": hostname, "tls": tls})
    });
    let each: Vec<Value> = each.collect();
    json!({"kind": "Gateway", "metadata": {"name": name}, "spec": {"gatewayClassName": "weft", "listeners": each}})
}

fn ports(documents: impl IntoIterator<Item = Value>) -> (Vec<(u16, usize)>, Vec<String>) {
    let compiled = compiled(documents);
    let sockets = &compiled.program.sockets;
    let ports = sockets.iter().map(|socket| (socket.port, socket.listeners.values().count())).collect();
    (ports, said(&compiled))
}

#[test]
fn listeners_of_one_port_are_told_apart_by_host_name() {
    let listeners =
        [("a", 80, "HTTP", Some("a.example")), ("b", 80, "HTTP", Some("*.example")), ("c", 80, "HTTP", None)];
    assert_eq!(ports([gateway("edge", &listeners)]), (vec![(80, 3)], vec![]));
}

#[test]
fn conflicting_listeners_of_a_gateway_are_all_refused() {
    for (listeners, left, notes) in [
        (
            vec![("a", 80, "HTTP", None), ("b", 80, "HTTP", None), ("c", 81, "HTTP", None)],
            vec![(81, 1)],
            vec!["HostnameConflict spec.listeners[0]", "HostnameConflict spec.listeners[1]"],
        ),
        (
            vec![
                ("a", 80, "HTTP", Some("a.example")),
                ("b", 80, "TLS", Some("b.example")),
                ("c", 81, "TCP", None),
            ],
            vec![(81, 1)],
            vec!["ProtocolConflict spec.listeners[0]", "ProtocolConflict spec.listeners[1]"],
        ),
        (
            vec![("a", 80, "TCP", None), ("b", 80, "TCP", None), ("c", 80, "HTTP", None)],
            vec![],
            vec![
                "ProtocolConflict spec.listeners[0]",
                "ProtocolConflict spec.listeners[1]",
                "ProtocolConflict spec.listeners[2]",
            ],
        ),
        (
            vec![
                ("a", 80, "HTTP", Some("a.example")),
                ("b", 80, "HTTP", Some("A.example")),
                ("c", 80, "HTTP", None),
            ],
            vec![(80, 1)],
            vec!["HostnameConflict spec.listeners[0]", "HostnameConflict spec.listeners[1]"],
        ),
    ] {
        let notes: Vec<String> = notes.into_iter().map(str::to_owned).collect();
        assert_eq!(ports([gateway("edge", &listeners)]), (left, notes));
    }
}

#[test]
fn between_gateways_the_older_keeps_its_listeners() {
    let old = with(
        gateway("z", &[("l", 80, "HTTP", None)]),
        "/metadata/creationTimestamp",
        json!("2024-01-01T00:00:00Z"),
    );
    let young = gateway(
        "a",
        &[("l", 80, "HTTP", None), ("m", 80, "HTTP", Some("a.example")), ("n", 81, "TCP", None)],
    );
    let compiled = compiled([young, old]);
    assert_eq!(said(&compiled), ["HostnameConflict spec.listeners[0]"]);
    assert_eq!(&*compiled.notes[0].resource.name, "a");
    assert_eq!(listener(&compiled.program, 80, "x").unwrap().label.as_ref(), "shop/z/l");
    assert_eq!(listener(&compiled.program, 80, "a.example").unwrap().label.as_ref(), "shop/a/m");
    assert_eq!(listener(&compiled.program, 81, "x").unwrap().label.as_ref(), "shop/a/n");
}

#[test]
fn gateways_bind_their_addresses() {
    let at = |name: &str, addresses: &[&str]| {
        let list: Vec<Value> = addresses.iter().map(|address| json!({"value": address})).collect();
        with(gateway(name, &[("l", 80, "HTTP", None)]), "/spec/addresses", json!(list))
    };
    let both = compiled([at("a", &["10.0.0.1"]), at("b", &["10.0.0.2"])]);
    let addresses: Vec<String> =
        both.program.sockets.iter().map(|socket| format!("{:?}", socket.addresses)).collect();
    assert_eq!((addresses, said(&both)), (vec!["[10.0.0.1]".to_owned(), "[10.0.0.2]".to_owned()], vec![]));
    // The same addresses are one socket, whatever their order.
    let same = compiled([
        at("a", &["10.0.0.1", "::1"]),
        with(at("b", &["::1", "10.0.0.1"]), "/spec/listeners/0/hostname", json!("b.example")),
    ]);
    assert_eq!((same.program.sockets.len(), said(&same)), (1, vec![]));
    let overlap = compiled([at("a", &["10.0.0.1", "10.0.0.2"]), at("b", &["10.0.0.2"])]);
    assert_eq!(
        (overlap.program.sockets.len(), said(&overlap)),
        (1, vec!["PortUnavailable spec.listeners[0]".to_owned()])
    );
}

#[test]
fn addresses_that_cannot_be_bound_are_refused() {
    for (address, reason) in [
        (json!({"value": "not-an-address"}), "UnsupportedAddress"),
        (json!({"type": "Hostname", "value": "a.example"}), "UnsupportedAddress"),
        (json!({}), "AddressNotAssigned"),
    ] {
        let compiled = compiled([with(edge(), "/spec/addresses", json!([{"value": "127.0.0.1"}, address]))]);
        assert_eq!(said(&compiled), [format!("{reason} spec.addresses[1]")]);
        assert!(compiled.program.sockets.is_empty());
    }
}

#[test]
fn a_process_serves_its_own_gateway() {
    let resources = set([
        edge(),
        with(gateway("other", &[("l", 81, "HTTP", None)]), "/metadata/namespace", json!("else")),
        route("r", json!([{}])),
    ]);
    let mut options = options();
    options.gateways = Gateways::One("else".to_owned(), "other".to_owned());
    let compiled = compile(&resources, &options);
    assert_eq!(compiled.program.sockets.len(), 1);
    assert_eq!(compiled.program.sockets[0].port, 81);
    // The route hangs on what another process serves, which is no mistake.
    assert_eq!(said(&compiled), [] as [&str; 0]);
}

#[test]
fn a_request_belongs_to_the_most_specific_listener_alone() {
    let listeners = json!([
        {"name": "wide", "port": 80, "protocol": "HTTP", "hostname": "*.example"},
        {"name": "narrow", "port": 80, "protocol": "HTTP", "hostname": "a.example"},
    ]);
    let of = |name: &str, section: &str, path: &str| {
        let rules =
            json!([{"matches": [{"path": {"value": path}}], "backendRefs": [{"name": "s", "port": 80}]}]);
        with(route(name, rules), "/spec/parentRefs/0/sectionName", json!(section))
    };
    let documents = [
        with(edge(), "/spec/listeners", listeners),
        service("s"),
        of("wide", "wide", "/"),
        of("narrow", "narrow", "/n"),
    ];
    let compiled = compiled(documents);
    assert_eq!(said(&compiled), [] as [&str; 0]);
    assert_eq!(route_of(rule(&compiled.program, "a.example", "/n")), "narrow");
    assert_eq!(route_of(rule(&compiled.program, "a.example", "/")), "-", "not the wider listener's");
    assert_eq!(route_of(rule(&compiled.program, "b.example", "/n")), "wide");
    assert_eq!(route_of(rule(&compiled.program, "b.a.example", "/n")), "wide");
}

#[test]
fn each_protocol_becomes_its_listener() {
    let listeners =
        [("h", 80, "HTTP", None), ("t", 443, "TLS", None), ("c", 5000, "TCP", Some("ignored.example"))];
    let compiled = compiled([gateway("edge", &listeners)]);
    let kinds: Vec<SocketKind> = compiled.program.sockets.iter().map(|socket| socket.kind).collect();
    assert_eq!(kinds, [SocketKind::Http, SocketKind::Tls, SocketKind::Tcp]);
    assert!(matches!(listener(&compiled.program, 80, "x").unwrap().kind, ListenerKind::Http(_)));
    assert!(matches!(listener(&compiled.program, 443, "x").unwrap().kind, ListenerKind::Passthrough(_)));
    // A TCP connection says no name, so that its listener is for every one.
    assert!(matches!(listener(&compiled.program, 5000, "").unwrap().kind, ListenerKind::Tcp(None)));
}

#[test]
fn a_listener_takes_the_kinds_that_it_says_and_can() {
    let kinds = |list: Value| with(edge(), "/spec/listeners/0/allowedRoutes/kinds", list);
    let rules = json!([{"backendRefs": [{"name": "s", "port": 80}]}]);
    for (list, found, notes) in [
        (json!([]), "r", vec![]),
        (json!([{"kind": "HTTPRoute"}]), "r", vec![]),
        (json!([{"kind": "GRPCRoute"}]), "-", vec!["NotAllowedByListeners spec.parentRefs[0]"]),
        (
            json!([{"kind": "TCPRoute"}, {"kind": "HTTPRoute"}]),
            "r",
            vec!["InvalidRouteKinds spec.listeners[0].allowedRoutes.kinds[0]"],
        ),
        (
            json!([{"group": "example.com", "kind": "HTTPRoute"}]),
            "-",
            vec![
                "InvalidRouteKinds spec.listeners[0].allowedRoutes.kinds[0]",
                "NotAllowedByListeners spec.parentRefs[0]",
            ],
        ),
    ] {
        let compiled = compiled([kinds(list), service("s"), route("r", rules.clone())]);
        assert_eq!(route_of(rule_at(&compiled.program, 80, "x", "/")), found);
        assert_eq!(said(&compiled), notes);
    }
}
