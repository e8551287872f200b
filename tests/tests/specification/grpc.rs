//! GRPCRoute: which rule a call belongs to, and how what goes wrong is told.

use anyhow::Result;

use super::scene::{Scene, WEB, gateway, grpc_teller, http_route, route};
use super::table::{Row, Version, hold};

const CALLS: &str = r#"
  hostnames: [grpc.test]
  rules:
  - matches: [{method: {service: shop.Orders, method: Get}}]
    backendRefs: [{name: one, port: 80}]
  - matches: [{method: {service: shop.Orders}}]
    backendRefs: [{name: two, port: 80}]
  - matches: [{method: {method: Watch}}]
    backendRefs: [{name: three, port: 80}]
  - matches: [{method: {type: RegularExpression, service: "bank[.](A|B)", method: "Pay.*"}}]
    backendRefs: [{name: one, port: 80}]
  - matches: [{method: {type: RegularExpression, method: "List.*"}}]
    backendRefs: [{name: two, port: 80}]
  - matches: [{method: {service: shop.Heads}, headers: [{name: version, value: "1"}]}]
    backendRefs: [{name: one, port: 80}]
  - matches: [{method: {service: shop.Heads}, headers: [{name: version, value: "1"}, {name: x-b, value: "1"}]}]
    backendRefs: [{name: two, port: 80}]
  - matches: [{method: {service: shop.Heads}, headers: [{type: RegularExpression, name: version, value: "[2-9]"}]}]
    backendRefs: [{name: three, port: 80}]
  - matches: [{method: {service: shop.Twice}}]
    backendRefs: [{name: two, port: 80}]
  - matches: [{method: {service: shop.Twice}}]
    backendRefs: [{name: one, port: 80}]
  - matches: [{method: {service: shop.Filtered}}]
    filters:
    - {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-set, value: a}], add: [{name: x-add, value: b}], remove: [x-gone]}}
    - {type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: x-told, value: a}]}}
    backendRefs: [{name: one, port: 80}]
  - matches: [{method: {service: shop.Nobody}}]
    backendRefs: [{name: nobody, port: 80}]
  - matches: [{method: {service: shop.Extension}}]
    filters: [{type: ExtensionRef, extensionRef: {group: example.net, kind: Filter, name: x}}]
    backendRefs: [{name: one, port: 80}]
  - matches: [{method: {service: shop.Either}}, {method: {service: shop.Or, method: This}}]
    backendRefs: [{name: three, port: 80}]
"#;

const OF_CALLS: &[Row] = &[
    (
        "matches[].method, both",
        "POST grpc.test/shop.Orders/Get",
        "200 one | >POST /shop.Orders/Get | grpc-status: 0",
    ),
    ("matches[].method.service", "POST grpc.test/shop.Orders/Put", "200 two"),
    ("matches[].method.service, the whole", "POST grpc.test/shop.OrdersV2/Get", "200 | grpc-status: 12"),
    ("matches[].method, with case", "POST grpc.test/shop.orders/Get", "200 | grpc-status: 12"),
    ("matches[].method.method", "POST grpc.test/any.Service/Watch", "200 three"),
    ("matches, the most characters of a service", "POST grpc.test/shop.Orders/Watch", "200 two"),
    ("matches[].method RegularExpression", "POST grpc.test/bank.A/PayAll", "200 one"),
    (
        "matches[].method RegularExpression, the whole",
        "POST grpc.test/bank.AB/PayAll",
        "200 | grpc-status: 12",
    ),
    ("matches[].method RegularExpression, one of the two", "POST grpc.test/any.Service/ListAll", "200 two"),
    ("matches[].headers", "POST grpc.test/shop.Heads/Get | version: 1", "200 one"),
    ("matches, the most headers", "POST grpc.test/shop.Heads/Get | Version: 1 | x-b: 1", "200 two"),
    ("matches[].headers RegularExpression", "POST grpc.test/shop.Heads/Get | version: 7", "200 three"),
    ("matches[].headers", "POST grpc.test/shop.Heads/Get", "200 | grpc-status: 12 | weft-error: no-route"),
    ("matches, the first rule in list order", "POST grpc.test/shop.Twice/Get", "200 two"),
    ("matches[], any of them", "POST grpc.test/shop.Either/Get", "200 three"),
    ("matches[], any of them", "POST grpc.test/shop.Or/This", "200 three"),
    ("matches[], any of them", "POST grpc.test/shop.Or/That", "200 | grpc-status: 12"),
    (
        "filters",
        "POST grpc.test/shop.Filtered/Get | x-add: a | x-gone: 1",
        "200 one | >x-set: a | >x-add: a,b | >!x-gone | x-told: a | grpc-status: 0",
    ),
    (
        "backendRefs, all invalid: UNAVAILABLE",
        "POST grpc.test/shop.Nobody/Get",
        "200 | grpc-status: 14 | weft-error: backend-invalid",
    ),
    (
        "filters[].extensionRef that is not there",
        "POST grpc.test/shop.Extension/Get",
        "200 | grpc-status: 14 | weft-error: backend-invalid",
    ),
    ("matches, none said: every call", "POST all.test/any.Service/Any", "200 three"),
    ("hostnames", "POST other.test/shop.Orders/Get", "200 | grpc-status: 12"),
    ("hostnames, port ignored", "POST grpc.test:443/shop.Orders/Get", "200 one | >host: grpc.test:443"),
    ("hostnames, a wildcard", "POST a.b.wild.test/any.Service/Any", "200 two"),
];

/// A host name is for one kind of route: the older has it, then the first by `namespace/name`.
const OF_BOTH: &[Row] = &[
    ("hostnames of both kinds, the oldest", "POST both-old.test/a.B/C", "200 one"),
    ("hostnames of both kinds, the first by name", "POST both-name.test/a.B/C", "200 two"),
    ("hostnames of both kinds, a part of them", "POST x.both-part.test/a.B/C", "200 two"),
];

/// What is no call of gRPC is told in words of HTTP.
const PLAIN: &[Row] = &[
    ("hostnames of both kinds, the oldest", "GET both-old.test/page", "200 one"),
    ("matches, none holds", "GET grpc.test/nothing", "404 | weft-error: no-route"),
    ("backendRefs, all invalid", "GET grpc.test/shop.Nobody/Get", "500 | weft-error: backend-invalid"),
];

#[test]
fn calls_go_where_the_text_says() -> Result<()> {
    let mut scene = Scene::new()?;
    for name in ["one", "two", "three"] {
        scene.service(name, grpc_teller(name)?, ", appProtocol: kubernetes.io/h2c");
    }
    scene.with(&gateway(&[WEB]));
    scene.with(&route("GRPCRoute", "calls", CALLS));
    let all = "  hostnames: [all.test]\n  rules: [{backendRefs: [{name: three, port: 80}]}]";
    scene.with(&route("GRPCRoute", "all", all));
    let wild = "  hostnames: [\"*.wild.test\"]\n  rules: [{backendRefs: [{name: two, port: 80}]}]";
    scene.with(&route("GRPCRoute", "wild", wild));
    let of = |host: &str, backend: &str| {
        format!("  hostnames: [\"{host}\"]\n  rules: [{{backendRefs: [{{name: {backend}, port: 80}}]}}]")
    };
    let made = |day: u8| format!("creationTimestamp: \"2021-01-0{day}T00:00:00Z\"");
    scene.with(&http_route(&format!("old, {}", made(1)), &of("both-old.test", "one")));
    scene.with(&route("GRPCRoute", &format!("a-young, {}", made(2)), &of("both-old.test", "two")));
    scene.with(&http_route(&format!("name-b, {}", made(1)), &of("both-name.test", "one")));
    scene.with(&route("GRPCRoute", &format!("name-a, {}", made(1)), &of("both-name.test", "two")));
    scene.with(&http_route(&format!("part-b, {}", made(2)), &of("x.both-part.test", "one")));
    scene.with(&route("GRPCRoute", &format!("part-a, {}", made(1)), &of("*.both-part.test", "two")));
    let gateway = scene.start()?;
    let calls: Vec<Row> =
        OF_CALLS.iter().chain(OF_BOTH).map(|(field, ask, told)| (*field, as_call(ask), *told)).collect();
    hold(&gateway, Version::Http2, &calls)?;
    hold(&gateway, Version::Http2, PLAIN)
}

/// The request of a row as a call of gRPC.
fn as_call(ask: &str) -> &'static str {
    format!("{ask} | content-type: application/grpc | te: trailers").leak()
}
