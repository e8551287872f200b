//! HTTPRoute: where requests go, in which shares, and what those get whose backend cannot be used.

use std::net::TcpListener;
use std::time::Instant;

use anyhow::{Result, ensure};

use super::scene::{Scene, WEB, gateway, http_route};
use super::table::{PATIENCE, Row, Version, ask, hold};

const INVALID: &str = r#"
  hostnames: [invalid.test]
  rules:
  - matches: [{path: {value: /name}}]
    backendRefs: [{name: nobody, port: 80}]
  - matches: [{path: {value: /port}}]
    backendRefs: [{name: one, port: 81}]
  - matches: [{path: {value: /kind}}]
    backendRefs: [{kind: Gateway, name: one, port: 80}]
  - matches: [{path: {value: /group}}]
    backendRefs: [{group: example.net, kind: Service, name: one, port: 80}]
  - matches: [{path: {value: /external}}]
    backendRefs: [{name: external, port: 80}]
  - matches: [{path: {value: /protocol}}]
    backendRefs: [{name: mail, port: 80}]
  - matches: [{path: {value: /empty}}]
    backendRefs: []
  - matches: [{path: {value: /zero}}]
    backendRefs: [{name: one, port: 80, weight: 0}]
  - matches: [{path: {value: /away}}]
    backendRefs: [{name: away, port: 80}]
  - matches: [{path: {value: /refused}}]
    backendRefs: [{name: refused, port: 80}]
  - matches: [{path: {value: /only}}]
    backendRefs: [{name: one, port: 80, weight: 7}, {name: two, port: 80, weight: 0}]
  - matches: [{path: {value: /usual}}]
    backendRefs: [{name: two, port: 80}]
"#;

const TIMEOUTS: &str = r#"
  hostnames: [time.test]
  rules:
  - matches: [{path: {value: /request}}]
    timeouts: {request: 150ms}
    backendRefs: [{name: silent, port: 80}]
  - matches: [{path: {value: /backend}}]
    timeouts: {backendRequest: 150ms}
    backendRefs: [{name: silent, port: 80}]
  - matches: [{path: {value: /both}}]
    timeouts: {request: 200ms, backendRequest: 100ms}
    backendRefs: [{name: silent, port: 80}]
  - matches: [{path: {value: /tries}}]
    timeouts: {request: 10s, backendRequest: 50ms}
    retry: {codes: [504], attempts: 2, backoff: 1ms}
    backendRefs: [{name: silent, port: 80}]
  - matches: [{path: {value: /zero}}]
    timeouts: {request: 0s, backendRequest: 0s}
    backendRefs: [{name: one, port: 80}]
  - matches: [{path: {value: /enough}}]
    timeouts: {request: 20s, backendRequest: 20s}
    backendRefs: [{name: one, port: 80}]
"#;

const ROWS: &[Row] = &[
    ("backendRefs[].name of nobody", "GET invalid.test/name", "500 | weft-error: backend-invalid"),
    ("backendRefs[].port of nobody", "GET invalid.test/port", "500 | weft-error: backend-invalid"),
    ("backendRefs[].kind, unknown", "GET invalid.test/kind", "500 | weft-error: backend-invalid"),
    ("backendRefs[].group, unknown", "GET invalid.test/group", "500 | weft-error: backend-invalid"),
    ("backendRefs[], ExternalName", "GET invalid.test/external", "500 | weft-error: backend-invalid"),
    ("backendRefs[], its appProtocol", "GET invalid.test/protocol", "500 | weft-error: backend-invalid"),
    ("backendRefs, none", "GET invalid.test/empty", "500 | weft-error: backend-invalid"),
    ("backendRefs[].weight 0, alone", "GET invalid.test/zero", "500 | weft-error: backend-invalid"),
    ("backendRefs[] without endpoints", "GET invalid.test/away", "503"),
    ("backendRefs[] that refuses", "GET invalid.test/refused", "503"),
    ("backendRefs[].weight, one alone", "GET invalid.test/only", "200 one"),
    ("backendRefs[].weight, default 1", "GET invalid.test/usual", "200 two"),
    ("rules, default", "GET default.test/any/path", "500 | weft-error: backend-invalid"),
    ("timeouts.request", "GET time.test/request", "504 | weft-error: upstream-timeout"),
    ("timeouts.backendRequest", "GET time.test/backend", "504 | weft-error: upstream-timeout"),
    ("timeouts, both", "GET time.test/both", "504 | weft-error: upstream-timeout"),
    ("timeouts.backendRequest of each try", "GET time.test/tries", "504 | weft-error: upstream-timeout"),
    ("timeouts, 0s", "GET time.test/zero", "200 one"),
    ("timeouts", "GET time.test/enough", "200 one"),
];

const SHARES: &str = r#"
  hostnames: [shares.test]
  rules:
  - matches: [{path: {value: /three}}]
    backendRefs:
    - {name: one, port: 80, weight: 30}
    - {name: two, port: 80, weight: 10}
    - {name: three, port: 80, weight: 0}
  - matches: [{path: {value: /half}}]
    backendRefs: [{name: one, port: 80}, {name: nobody, port: 80}]
  - matches: [{path: {value: /half-filtered}}]
    backendRefs:
    - {name: one, port: 80}
    - {name: two, port: 80, filters: [{type: ExtensionRef, extensionRef: {group: a.test, kind: Filter, name: x}}]}
"#;

/// How often requests to a path are answered with each of these, of so many.
fn shares(gateway: &weft_testbed::Gateway, path: &str, of: usize, each: &[&str]) -> Result<Vec<usize>> {
    let mut counts = vec![0; each.len()];
    for _ in 0..of {
        let who = ask(gateway, Version::Http1, &format!("GET shares.test{path}"))?.who();
        let place = each.iter().position(|one| *one == who);
        let place = place.ok_or_else(|| anyhow::anyhow!("{path}: {who} is none of {each:?}"))?;
        counts[place] += 1;
    }
    Ok(counts)
}

#[test]
fn backends_get_what_the_text_says() -> Result<()> {
    let mut scene = Scene::new()?;
    let [.., three] = scene.tellers(["one", "two", "three"])?;
    let silent = TcpListener::bind("127.0.0.1:0")?;
    scene.service("silent", silent.local_addr()?, "");
    scene.service("mail", silent.local_addr()?, ", appProtocol: smtp");
    scene.service("refused", TcpListener::bind("127.0.0.1:0")?.local_addr()?, "");
    scene.with("apiVersion: v1\nkind: Service\nmetadata: {name: external, namespace: edge}\nspec: {type: ExternalName, externalName: one.test, ports: [{port: 80}]}");
    scene.with(
        "apiVersion: v1\nkind: Service\nmetadata: {name: away, namespace: edge}\nspec: {ports: [{port: 80}]}",
    );
    scene.with(&gateway(&[WEB]));
    scene.with(&http_route("invalid", INVALID));
    scene.with(&http_route("time", TIMEOUTS));
    scene.with(&http_route("shares", SHARES));
    scene.with(&http_route("default", "  hostnames: [default.test]"));
    let gateway = scene.start()?;
    let began = Instant::now();
    for version in [Version::Http1, Version::Http2] {
        hold(&gateway, version, ROWS)?;
    }
    ensure!(began.elapsed() < PATIENCE, "a timeout that is none");
    // 240 throws: three quarters are 180, and a miss by 50 has a chance below 10^-12 (a binomial bound); so has a half of 80 by 39.
    let counts = shares(&gateway, "/three", 240, &["200 one", "200 two", "200 three"])?;
    ensure!((130..=230).contains(&counts[0]) && counts[2] == 0, "{counts:?}");
    ensure!(three.seen().is_empty());
    for path in ["/half", "/half-filtered"] {
        let counts = shares(&gateway, path, 80, &["200 one", "500"])?;
        ensure!((5..=75).contains(&counts[0]), "{path}: {counts:?}");
    }
    Ok(())
}
