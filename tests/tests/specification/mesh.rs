//! Routes whose parent is a Service (GAMMA): the same tables in a sidecar, and what parents mean there.

use std::fs;

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use weft_testbed::{Mesh, Pod, Request, Service, Sidecar, story};

use super::scene::{http_route, route};

const SERVICES: &str = "apiVersion: v1
kind: Service
metadata: {name: orders, namespace: shop}
spec: {ports: [{name: http, port: 80}, {name: admin, port: 81}]}
---
apiVersion: v1
kind: Service
metadata: {name: orders-v2, namespace: shop}
spec: {ports: [{name: http, port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: external, namespace: shop}
spec: {type: ExternalName, externalName: orders.test, ports: [{port: 80}]}
";

/// Of port 80. Host names mean nothing here.
const RULES: &str = r#"
  hostnames: [nobody.test]
  parentRefs: [{group: "", kind: Service, name: orders, port: 80}]
  rules:
  - matches: [{path: {type: Exact, value: /exact}}]
    backendRefs: [{name: orders-v2, port: 80}]
  - matches: [{path: {value: /prefix}}]
    backendRefs: [{name: orders, port: 80}]
  - matches: [{path: {value: /prefix/more}}]
    backendRefs: [{name: orders-v2, port: 80}]
  - matches: [{path: {value: /header}, headers: [{name: Version, value: "2"}]}]
    backendRefs: [{name: orders-v2, port: 80}]
  - matches: [{path: {value: /query}, queryParams: [{name: v, value: "2"}]}]
    backendRefs: [{name: orders-v2, port: 80}]
  - matches: [{path: {value: /method}, method: DELETE}]
    backendRefs: [{name: orders-v2, port: 80}]
  - matches: [{path: {value: /rewrite}}]
    filters:
    - {type: URLRewrite, urlRewrite: {hostname: inner.test, path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}}}
    - {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-set, value: a}], remove: [x-gone]}}
    - {type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: x-told, value: a}]}}
    backendRefs: [{name: orders, port: 80}]
  - matches: [{path: {value: /redirect}}]
    filters: [{type: RequestRedirect, requestRedirect: {statusCode: 301}}]
  - matches: [{path: {value: /moved}}]
    backendRefs:
    - {name: orders, port: 80, filters: [{type: RequestRedirect, requestRedirect: {scheme: https, statusCode: 307}}]}
  - matches: [{path: {value: /nobody}}]
    backendRefs: [{name: nobody, port: 80}]
  - matches: [{path: {value: /port}}]
    backendRefs: [{name: orders, port: 8}]
  - matches: [{path: {value: /external}}]
    backendRefs: [{name: external, port: 80}]
  - matches: [{path: {value: /zero}}]
    backendRefs: [{name: orders, port: 80, weight: 0}]
  - matches: [{path: {value: /both}}]
    backendRefs: [{name: orders, port: 80, weight: 0}, {name: orders-v2, port: 80}]
"#;

/// Of the port of this name; the other hangs on none, since no port has both.
const BY_NAME: &str = r#"
  parentRefs: [{group: "", kind: Service, name: orders, sectionName: admin}]
  rules: [{backendRefs: [{name: orders-v2, port: 80}]}]
"#;
const BY_BOTH: &str = r#"
  parentRefs: [{group: "", kind: Service, name: orders, port: 80, sectionName: admin}]
  rules: [{matches: [{path: {value: /neither}}], backendRefs: [{name: orders-v2, port: 80}]}]
"#;

/// The field, method and URL at `orders.shop`, a header, and the status with who answers.
type Row = (&'static str, &'static str, &'static str, Option<(&'static str, &'static str)>, &'static str);

const ROWS: &[Row] = &[
    ("matches[].path Exact", "GET", "/exact", None, "200 orders-v2"),
    ("matches[].path Exact", "GET", "/exact/", None, "404"),
    ("matches[].path PathPrefix", "GET", "/prefix/x", None, "200 orders"),
    ("matches[].path PathPrefix", "GET", "/prefixed", None, "404"),
    ("matches, the longest PathPrefix", "GET", "/prefix/more/x", None, "200 orders-v2"),
    ("matches[].headers", "GET", "/header", Some(("version", "2")), "200 orders-v2"),
    ("matches[].headers", "GET", "/header", Some(("version", "1")), "404"),
    ("matches[].queryParams", "GET", "/query?v=2", None, "200 orders-v2"),
    ("matches[].queryParams", "GET", "/query?v=3", None, "404"),
    ("matches[].method", "DELETE", "/method", None, "200 orders-v2"),
    ("matches[].method", "GET", "/method", None, "404"),
    ("filters", "GET", "/rewrite/x?y", Some(("x-gone", "1")), "200 orders"),
    ("requestRedirect", "GET", "/redirect/x", None, "301"),
    ("backendRefs[].filters", "GET", "/moved/x", None, "307"),
    ("backendRefs[].name of nobody", "GET", "/nobody", None, "500"),
    ("backendRefs[].port of nobody", "GET", "/port", None, "500"),
    ("backendRefs[], ExternalName", "GET", "/external", None, "500"),
    ("backendRefs[].weight 0", "GET", "/zero", None, "500"),
    ("backendRefs[].weight 0 beside another", "GET", "/both", None, "200 orders-v2"),
    ("parentRefs[].sectionName", "GET", ":81/any", None, "200 orders-v2"),
    ("parentRefs[].sectionName and port", "GET", "/neither", None, "404"),
];

struct World {
    web: Pod,
    _sidecars: Vec<Sidecar>,
}

fn world(mesh: &Mesh) -> Result<World> {
    let mut sidecars = Vec::new();
    for name in ["orders", "orders-v2"] {
        let pod = mesh.pod(&format!("{name}.shop")).start()?;
        pod.app_as("http", 8080, name)?;
        mesh.dns()
            .set(Service::virtual_ip(&format!("{name}.shop")).port(80, 8080).port(81, 8080).on(&[&pod]))?;
        sidecars.push(mesh.sidecar(&pod)?.start()?);
    }
    let web = mesh.pod("web.shop").start()?;
    let file = web.dir().join("routes.yaml");
    let routes = [("rules", RULES), ("by-name", BY_NAME), ("by-both", BY_BOTH)];
    let routes =
        routes.map(|(name, spec)| format!("---\n{}", http_route(&format!("{name}, namespace: shop"), spec)));
    let calls = "  parentRefs: [{group: \"\", kind: Service, name: orders-v2}]\n  rules: [{matches: [{method: {service: a.B, method: C}}], backendRefs: [{name: nobody, port: 80}]}]";
    let calls = format!("---\n{}", route("GRPCRoute", "calls, namespace: shop", calls));
    fs::write(&file, format!("{SERVICES}{}{calls}", routes.concat()))?;
    sidecars.push(mesh.sidecar(&web)?.config(|config| config["resources"] = json!([file])).start()?);
    Ok(World { web, _sidecars: sidecars })
}

#[test]
fn requests_to_a_service_go_where_the_text_says() {
    story("specification-mesh", |mesh| {
        let World { web, _sidecars } = world(mesh)?;
        let mut wrong = Vec::new();
        for (field, method, url, header, wanted) in ROWS {
            for newer in [false, true] {
                let request = Request::new(method, &format!("http://orders.shop{url}"));
                let request =
                    header.iter().fold(request, |request, (name, value)| request.header(name, value));
                let answer = web.send(if newer { request.http2() } else { request })?;
                let server = match answer.status.as_u16() {
                    200 => answer.json()?["server"].as_str().unwrap_or_default().to_owned(),
                    _ => String::new(),
                };
                let got = format!("{} {server}", answer.status.as_u16());
                if got.trim() != *wanted {
                    wrong.push(format!("{field}: {method} {url} (HTTP/2: {newer}) wants {wanted}: {got}"));
                }
            }
        }
        ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
        let answer = web.send(Request::get("http://orders.shop/rewrite/x?y").header("x-gone", "1"))?;
        let seen = answer.json()?;
        let of = |name: &str| seen["headers"][name].clone();
        let as_told = (&seen["uri"], of("host"), of("x-set"), of("x-gone"), answer.header("x-told"));
        ensure!(
            as_told == (&json!("/new/x?y"), json!("inner.test"), json!("a"), Value::Null, "a"),
            "{answer:?}"
        );
        let location = |path: &str| {
            Ok::<_, anyhow::Error>(
                web.get(&format!("http://orders.shop{path}"))?.header("location").to_owned(),
            )
        };
        ensure!(
            location("/redirect/x?y")? == "http://orders.shop/redirect/x?y",
            "{}",
            location("/redirect/x?y")?
        );
        ensure!(location("/moved/x")? == "https://orders.shop/moved/x", "{}", location("/moved/x")?);
        let call = |path: &str| {
            let call = Request::post(&format!("http://orders-v2.shop{path}"), "").http2();
            let answer =
                web.send(call.header("content-type", "application/grpc").header("te", "trailers"))?;
            Ok::<_, anyhow::Error>(format!(
                "{}{:?}",
                answer.header("grpc-status"),
                answer.trailers.get("grpc-status")
            ))
        };
        // GRPCRoute, "backendRefs" and "matches".
        for (path, status) in [("/a.B/C", "14"), ("/a.B/D", "12")] {
            ensure!(call(path)?.contains(status), "{path}: {}", call(path)?);
        }
        Ok(())
    });
}
