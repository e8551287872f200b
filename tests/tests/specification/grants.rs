//! ReferenceGrant: what may be referred to in another namespace.

use std::net::TcpStream;

use anyhow::{Result, ensure};

use super::scene::{Scene, WEB, gateway, grpc_teller, http_route, route};
use super::table::{Row, Version, hold};

/// A grant in a namespace: its `from` and `to`.
const GRANTS: &[(&str, &str, &str)] = &[
    (
        "all",
        "{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: edge}",
        "{group: \"\", kind: Service}",
    ),
    (
        "named",
        "{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: edge}",
        "{group: \"\", kind: Service, name: two}",
    ),
    (
        "kind",
        "{group: gateway.networking.k8s.io, kind: GRPCRoute, namespace: edge}",
        "{group: \"\", kind: Service}",
    ),
    (
        "from",
        "{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: elsewhere}",
        "{group: \"\", kind: Service}",
    ),
    (
        "to",
        "{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: edge}",
        "{group: \"\", kind: Secret}",
    ),
    ("group", "{group: example.net, kind: HTTPRoute, namespace: edge}", "{group: \"\", kind: Service}"),
    (
        "several",
        "{group: gateway.networking.k8s.io, kind: GRPCRoute, namespace: edge}, {group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: edge}",
        "{group: \"\", kind: Secret}, {group: \"\", kind: Service, name: one}",
    ),
    // It is the namespace that is referred to which grants, not the one that refers.
    (
        "edge",
        "{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: edge}",
        "{group: \"\", kind: Service}",
    ),
    (
        "bytes",
        "{group: gateway.networking.k8s.io, kind: TCPRoute, namespace: edge}",
        "{group: \"\", kind: Service}",
    ),
    (
        "certs",
        "{group: gateway.networking.k8s.io, kind: Gateway, namespace: edge}",
        "{group: \"\", kind: Secret}",
    ),
    (
        "others",
        "{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: edge}",
        "{group: \"\", kind: Secret}",
    ),
];

const NAMESPACES: [&str; 8] = ["all", "named", "kind", "from", "to", "group", "several", "none"];

const ROWS: &[Row] = &[
    ("ReferenceGrant", "GET grants.test/all/one", "200 one | x-namespace: all"),
    ("ReferenceGrant", "GET grants.test/all/two", "200 two | x-namespace: all"),
    ("ReferenceGrant to[].name", "GET grants.test/named/one", "500 | weft-error: backend-invalid"),
    ("ReferenceGrant to[].name", "GET grants.test/named/two", "200 two | x-namespace: named"),
    ("ReferenceGrant from[].kind", "GET grants.test/kind/one", "500"),
    ("ReferenceGrant from[].namespace", "GET grants.test/from/one", "500"),
    ("ReferenceGrant to[].kind", "GET grants.test/to/one", "500"),
    ("ReferenceGrant from[].group", "GET grants.test/group/one", "500"),
    ("ReferenceGrant, entries are ORed", "GET grants.test/several/one", "200 one | x-namespace: several"),
    ("ReferenceGrant, entries are ORed", "GET grants.test/several/two", "500"),
    ("ReferenceGrant, none", "GET grants.test/none/one", "500"),
    ("ReferenceGrant for a Gateway", "@8443=granted.test GET granted.test/", "200 one"),
    ("ReferenceGrant for a TCPRoute", "@9000 GET any.test/", "200 bytes"),
    ("ReferenceGrant for another kind", "@9001 GET any.test/", "end"),
];

const CALLS: &[Row] = &[
    (
        "ReferenceGrant for a GRPCRoute",
        "POST calls.test/a.Kind/Get | content-type: application/grpc",
        "200 calls | grpc-status: 0",
    ),
    (
        "ReferenceGrant for another kind",
        "POST calls.test/a.All/Get | content-type: application/grpc",
        "200 | grpc-status: 14",
    ),
];

/// The grants, and who asks for them.
fn routes(scene: &mut Scene) {
    for (namespace, from, to) in GRANTS {
        scene.with(&format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: ReferenceGrant\nmetadata: {{name: grant, namespace: {namespace}}}\n\
             spec: {{from: [{from}], to: [{to}]}}"
        ));
    }
    for namespace in NAMESPACES {
        let rules = ["one", "two"].map(|name| {
            format!(
                "  - matches: [{{path: {{value: /{namespace}/{name}}}}}]\n    \
                 filters: [{{type: ResponseHeaderModifier, responseHeaderModifier: {{set: [{{name: x-namespace, value: {namespace}}}]}}}}]\n    \
                 backendRefs: [{{name: {name}, namespace: {namespace}, port: 80}}]\n"
            )
        });
        scene.with(&http_route(
            &format!("to-{namespace}"),
            &format!("  hostnames: [grants.test]\n  rules:\n{}", rules.concat()),
        ));
    }
    let granted =
        "  hostnames: [granted.test]\n  rules: [{backendRefs: [{name: one, namespace: all, port: 80}]}]";
    scene.with(&http_route("granted", granted));
    let calls = "  hostnames: [calls.test]\n  rules:\n  - matches: [{method: {service: a.Kind}}]\n    backendRefs: [{name: calls, namespace: kind, port: 80}]\n  \
                 - matches: [{method: {service: a.All}}]\n    backendRefs: [{name: calls, namespace: all, port: 80}]";
    scene.with(&route("GRPCRoute", "calls", calls));
    for (section, namespace) in [("bytes", "bytes"), ("none", "none")] {
        let spec = format!(
            "  parentRefs: [{{name: public, sectionName: {section}}}]\n  rules: [{{backendRefs: [{{name: bytes, namespace: {namespace}, port: 80}}]}}]"
        );
        scene.with(&route("TCPRoute", section, &spec));
    }
}

#[test]
fn references_cross_namespaces_where_the_text_says() -> Result<()> {
    let mut scene = Scene::new()?;
    let _tellers = scene.tellers([
        "all/one",
        "all/two",
        "named/one",
        "named/two",
        "kind/one",
        "kind/two",
        "from/one",
        "from/two",
        "to/one",
        "to/two",
        "group/one",
        "group/two",
        "several/one",
        "several/two",
        "none/one",
        "none/two",
        "bytes/bytes",
        "none/bytes",
    ])?;
    scene.secret("certs/granted", &["granted.test"])?;
    scene.secret("nobody/refused", &["refused.test"])?;
    scene.secret("others/others", &["others.test"])?;
    let at = grpc_teller("calls")?;
    scene.service("kind/calls", at, "");
    scene.service("all/calls", at, "");
    scene.with(&gateway(&[
        WEB,
        "name: granted, port: 8443, protocol: HTTPS, tls: {certificateRefs: [{name: granted, namespace: certs}]}",
        "name: refused, port: 8444, protocol: HTTPS, tls: {certificateRefs: [{name: refused, namespace: nobody}]}",
        "name: others, port: 8445, protocol: HTTPS, tls: {certificateRefs: [{name: others, namespace: others}]}",
        "name: bytes, port: 9000, protocol: TCP",
        "name: none, port: 9001, protocol: TCP",
    ]));
    routes(&mut scene);
    let gateway = scene.start()?;
    hold(&gateway, Version::Http1, ROWS)?;
    hold(&gateway, Version::Http2, CALLS)?;
    for port in [8444, 8445] {
        ensure!(
            TcpStream::connect(gateway.at(port)).is_err(),
            "{port}: a listener whose certificate is not granted"
        );
    }
    Ok(())
}
