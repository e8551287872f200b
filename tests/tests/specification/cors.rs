//! HTTPRoute: the filter CORS.

use std::net::SocketAddr;

use anyhow::Result;
use tokio::net::TcpSocket;

use super::scene::{Scene, WEB, gateway, http_route};
use super::table::{Row, Version, hold};

const CORS: &str = r#"
  hostnames: [cors.test]
  rules:
  - matches: [{path: {value: /list}}]
    filters:
    - type: CORS
      cors:
        allowOrigins: ["https://one.test", "http://port.test:8080", "https://*.wild.test"]
        allowMethods: [GET, PUT]
        allowHeaders: [x-one, X-Two]
        exposeHeaders: [x-told, x-more]
        maxAge: 600
    backendRefs: [{name: one, port: 80}]
  - matches: [{path: {value: /any}}]
    filters: [{type: CORS, cors: {allowOrigins: ["*"], allowMethods: ["*"], allowHeaders: ["*"], exposeHeaders: ["*"]}}]
    backendRefs: [{name: one, port: 80}]
  - matches: [{path: {value: /cookies}}]
    filters:
    - type: CORS
      cors: {allowOrigins: ["*"], allowMethods: ["*"], allowHeaders: ["*"], exposeHeaders: ["*"], allowCredentials: true}
    backendRefs: [{name: one, port: 80}]
  - matches: [{path: {value: /hosts}}]
    filters: [{type: CORS, cors: {allowOrigins: ["https://*", "http://*:8080"]}}]
    backendRefs: [{name: one, port: 80}]
  - matches: [{path: {value: /plain}}]
    backendRefs: [{name: one, port: 80}]
  - matches: [{path: {value: /moved}}]
    filters:
    - {type: CORS, cors: {allowOrigins: ["https://one.test"]}}
    - {type: RequestRedirect, requestRedirect: {hostname: new.test}}
  - matches: [{path: {value: /of/backend}}]
    backendRefs:
    - {name: one, port: 80, filters: [{type: CORS, cors: {allowOrigins: ["https://one.test"], allowMethods: [PUT]}}]}
  - matches: [{path: {value: /gone}}]
    filters: [{type: CORS, cors: {allowOrigins: ["https://one.test"], exposeHeaders: [x-told]}}]
    backendRefs: [{name: nobody, port: 80}]
  - matches: [{path: {value: /down}}]
    backendRefs:
    - {name: down, port: 80, filters: [{type: CORS, cors: {allowOrigins: ["https://one.test"]}}]}
"#;

const PREFLIGHTS: &[Row] = &[
    (
        "cors, a preflight",
        "OPTIONS cors.test/list | origin: https://one.test | access-control-request-method: PUT | access-control-request-headers: x-one",
        "204 | access-control-allow-origin: https://one.test | access-control-allow-methods: GET, PUT | access-control-allow-headers: x-one, X-Two | access-control-max-age: 600 | !access-control-allow-credentials | !access-control-expose-headers",
    ),
    (
        "cors.allowOrigins, another",
        "OPTIONS cors.test/list | origin: https://other.test | access-control-request-method: PUT",
        "204 | !access-control-allow-origin | !access-control-allow-methods | !access-control-allow-headers | !access-control-max-age",
    ),
    (
        "cors.allowOrigins, the scheme",
        "OPTIONS cors.test/list | origin: http://one.test | access-control-request-method: PUT",
        "204 | !access-control-allow-origin",
    ),
    (
        "cors.allowOrigins, the port",
        "OPTIONS cors.test/list | origin: http://port.test:8080 | access-control-request-method: PUT",
        "204 | access-control-allow-origin: http://port.test:8080",
    ),
    (
        "cors.allowOrigins, the port",
        "OPTIONS cors.test/list | origin: http://port.test | access-control-request-method: PUT",
        "204 | !access-control-allow-origin",
    ),
    (
        "cors.allowOrigins, the usual port",
        "OPTIONS cors.test/list | origin: https://one.test:443 | access-control-request-method: PUT",
        "204 | access-control-allow-origin: https://one.test:443",
    ),
    (
        "cors.allowOrigins, a wildcard",
        "OPTIONS cors.test/list | origin: https://a.b.wild.test | access-control-request-method: PUT",
        "204 | access-control-allow-origin: https://a.b.wild.test",
    ),
    (
        "cors.allowOrigins, a wildcard",
        "OPTIONS cors.test/list | origin: https://wild.test | access-control-request-method: PUT",
        "204 | !access-control-allow-origin",
    ),
    (
        "cors.allowOrigins, a wildcard",
        "OPTIONS cors.test/list | origin: https://evilwild.test | access-control-request-method: PUT",
        "204 | !access-control-allow-origin",
    ),
    (
        "cors, any of everything",
        "OPTIONS cors.test/any | origin: https://x.test | access-control-request-method: DELETE | access-control-request-headers: x-a",
        "204 | access-control-allow-origin: * | access-control-allow-methods: * | access-control-allow-headers: * | access-control-max-age: 5",
    ),
    (
        "cors.allowCredentials, no wildcards",
        "OPTIONS cors.test/cookies | origin: https://x.test | access-control-request-method: DELETE | access-control-request-headers: x-a, x-b",
        "204 | access-control-allow-origin: https://x.test | access-control-allow-methods: DELETE | access-control-allow-headers: x-a, x-b | access-control-allow-credentials: true | vary: origin",
    ),
    (
        "cors.allowCredentials, nothing asked for",
        "OPTIONS cors.test/cookies | origin: https://x.test | access-control-request-method: DELETE",
        "204 | access-control-allow-origin: https://x.test | !access-control-allow-headers",
    ),
    (
        "cors.allowOrigins, a wildcard by itself",
        "OPTIONS cors.test/hosts | origin: https://x.y.test | access-control-request-method: GET",
        "204 | access-control-allow-origin: https://x.y.test",
    ),
    (
        "cors.allowOrigins, a wildcard by itself",
        "OPTIONS cors.test/hosts | origin: https://10.0.0.1 | access-control-request-method: GET",
        "204 | access-control-allow-origin: https://10.0.0.1",
    ),
    (
        "cors.allowOrigins, a wildcard by itself",
        "OPTIONS cors.test/hosts | origin: http://localhost:8080 | access-control-request-method: GET",
        "204 | access-control-allow-origin: http://localhost:8080",
    ),
    (
        "cors.allowOrigins, a wildcard by itself",
        "OPTIONS cors.test/hosts | origin: http://x.test | access-control-request-method: GET",
        "204 | !access-control-allow-origin",
    ),
    (
        "cors of a backend",
        "OPTIONS cors.test/of/backend | origin: https://one.test | access-control-request-method: PUT",
        "204 | access-control-allow-origin: https://one.test | access-control-allow-methods: PUT",
    ),
    (
        "no filter: the backend answers",
        "OPTIONS cors.test/plain | origin: https://one.test | access-control-request-method: PUT",
        "200 one",
    ),
    ("no preflight: the backend answers", "OPTIONS cors.test/list | origin: https://one.test", "200 one"),
];

const CALLS: &[Row] = &[
    (
        "cors.allowOrigins",
        "GET cors.test/list | origin: https://one.test",
        "200 one | access-control-allow-origin: https://one.test | access-control-expose-headers: x-told, x-more | vary: origin | !access-control-allow-methods",
    ),
    (
        "cors.allowOrigins, another",
        "GET cors.test/list | origin: https://other.test",
        "200 one | !access-control-allow-origin | !access-control-expose-headers",
    ),
    ("cors.allowOrigins, none said", "GET cors.test/list", "200 one | !access-control-allow-origin"),
    (
        "cors.exposeHeaders, any",
        "GET cors.test/any | origin: https://x.test",
        "200 one | access-control-allow-origin: * | access-control-expose-headers: *",
    ),
    (
        "cors.exposeHeaders, any with credentials",
        "GET cors.test/cookies | origin: https://x.test",
        "200 one | access-control-allow-origin: https://x.test | access-control-allow-credentials: true | !access-control-expose-headers",
    ),
    (
        "filters are compatible with each other",
        "GET cors.test/moved | origin: https://one.test",
        "302 | location: http://new.test:8080/moved | access-control-allow-origin: https://one.test",
    ),
    (
        "cors of a backend",
        "PUT cors.test/of/backend | origin: https://one.test | content-length: 0",
        "200 one | access-control-allow-origin: https://one.test",
    ),
    (
        "an answer of the gateway's own",
        "GET cors.test/gone | origin: https://one.test",
        "500 | access-control-allow-origin: https://one.test | access-control-expose-headers: x-told | vary: origin",
    ),
    (
        "an answer of the gateway's own, to another",
        "GET cors.test/gone | origin: https://other.test",
        "500 | !access-control-allow-origin | vary: origin",
    ),
    (
        "an answer of the gateway's own, to no page",
        "GET cors.test/gone",
        "500 | !access-control-allow-origin",
    ),
    (
        "an answer of the gateway's own, for a backend that is not there",
        "GET cors.test/down | origin: https://one.test",
        "503 | access-control-allow-origin: https://one.test",
    ),
];

#[test]
fn browsers_are_told_what_the_text_says() -> Result<()> {
    let mut scene = Scene::new()?;
    let _tellers = scene.tellers(["one"])?;
    // Bound and not listening: connections are refused, and nobody else gets the port meanwhile.
    let down = TcpSocket::new_v4()?;
    down.bind(SocketAddr::from(([127, 0, 0, 1], 0)))?;
    scene.service("down", down.local_addr()?, "");
    scene.with(&gateway(&[WEB]));
    scene.with(&http_route("cors", CORS));
    let gateway = scene.start()?;
    for version in [Version::Http1, Version::Http2] {
        hold(&gateway, version, PREFLIGHTS)?;
        hold(&gateway, version, CALLS)?;
    }
    Ok(())
}
