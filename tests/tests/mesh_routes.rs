//! Routes of a service: what an application's sidecar makes of its requests (GAMMA).

use std::fs;
use std::time::Duration;

use serde_json::json;
use weft_testbed::{Mesh, Pod, Request, Response, Result, Service, Sidecar, eventually, story};

#[path = "mesh_routes/balancer.rs"]
mod balancer;

const PATIENCE: Duration = Duration::from_secs(20);

/// The services as resources: what a route may hang on, and lead to.
const SERVICES: &str = "
apiVersion: v1
kind: Service
metadata: {name: orders, namespace: shop}
spec: {ports: [{name: http, port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: orders-v2, namespace: shop}
spec: {ports: [{name: http, port: 80}]}
";

/// A client whose sidecar follows routes, and two services: `orders` and `orders-v2`.
struct World {
    web: Pod,
    client: Sidecar,
    _servers: Vec<Sidecar>,
}

impl World {
    fn new(mesh: &Mesh, client: &str, routes: &str) -> Result<Self> {
        let mut servers = Vec::new();
        for name in ["orders", "orders-v2"] {
            let pod = mesh.pod(&format!("{name}.shop")).start()?;
            pod.app_as("http", 8080, name)?;
            mesh.dns().set(Service::virtual_ip(&format!("{name}.shop")).port(80, 8080).on(&[&pod]))?;
            servers.push(mesh.sidecar(&pod)?.start()?);
        }
        let web = mesh.pod(client).start()?;
        fs::create_dir(web.dir().join("routes"))?;
        put(&web, &format!("{SERVICES}---\n{routes}"))?;
        let resources = web.dir().join("routes");
        let client = mesh.sidecar(&web)?.config(|config| config["resources"] = json!([resources])).start()?;
        Ok(Self { web, client, _servers: servers })
    }

    fn get(&self, path: &str) -> Result<Response> {
        self.web.get(&format!("http://orders.shop{path}"))
    }

    /// Who answers.
    fn server(&self, request: Request) -> Result<String> {
        Ok(self.web.send(request)?.json()?["server"].as_str().unwrap_or_default().to_owned())
    }
}

/// Replaces the resources in one step.
fn put(pod: &Pod, resources: &str) -> Result<()> {
    fs::write(pod.dir().join("new.yaml"), resources)?;
    Ok(fs::rename(pod.dir().join("new.yaml"), pod.dir().join("routes/routes.yaml"))?)
}

/// Opens a WebSocket.
fn open_websocket(pod: &Pod, url: &str) -> Result<()> {
    let fields = [
        "connection: upgrade",
        "upgrade: websocket",
        "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==",
        "sec-websocket-version: 13",
    ];
    let fields = fields.into_iter().flat_map(|field| ["-H", field]);
    let command: Vec<&str> =
        ["curl", "-s", "-i", "-N", "--max-time", "2"].into_iter().chain(fields).chain([url]).collect();
    let opened = pod.exec(&command)?;
    anyhow::ensure!(opened.stdout.starts_with("HTTP/1.1 101"), "{}", opened.stdout);
    Ok(())
}

/// A route of `orders` with these rules.
fn route(namespace: &str, rules: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: all, namespace: {namespace}}}\n\
         spec:\n  parentRefs: [{{group: \"\", kind: Service, name: orders, namespace: shop, port: 80}}]\n  rules:\n{rules}"
    )
}

const ALL_TO_V2: &str = "    - {backendRefs: [{name: orders-v2, namespace: shop, port: 80}]}\n";

#[test]
fn a_canary_gets_its_share_and_whoever_asks_for_it() {
    story("mesh-canary", |mesh| {
        let rules = "    - matches: [{headers: [{name: x-canary, value: \"yes\"}]}]\n      \
             backendRefs: [{name: orders-v2, port: 80}]\n    \
             - backendRefs: [{name: orders, port: 80, weight: 3}, {name: orders-v2, port: 80, weight: 1}]\n";
        let world = World::new(mesh, "web.shop", &route("shop", rules))?;
        let asked = |request: Request| world.server(request.header("x-canary", "yes"));
        assert_eq!(asked(Request::get("http://orders.shop/"))?, "orders-v2");
        assert_eq!(asked(Request::get("http://orders.shop/").http2())?, "orders-v2");

        let answer = world.web.send(Request::get("http://orders.shop/a?b=c").header("x-canary", "yes"))?;
        let seen = answer.json()?;
        assert_eq!((&seen["uri"], &seen["headers"]["host"]), (&json!("/a?b=c"), &json!("orders.shop")));
        // It went over a link of the mesh, whose other end is the canary's own identity.
        let from = seen["headers"]["x-forwarded-client-cert"].as_str().unwrap_or_default();
        assert!(from.contains("URI=spiffe://weft.local/ns/shop/sa/web"), "{from}");

        // 400 draws of 1 in 4: five standard deviations are 43.
        let report = world.web.load("http://orders.shop/").connections(4).start()?;
        report.wait_for(400)?;
        report.stop()?.all_ok(400)?;
        let metrics = world.client.metrics()?;
        let sent = |backend: &str| {
            let labels =
                [("parent", "orders.shop.svc.cluster.local:80"), ("route", "shop/all"), ("backend", backend)];
            metrics.sum("weft_route_requests_total", &labels)
        };
        let (old, new) =
            (sent("orders.shop.svc.cluster.local:80"), sent("orders-v2.shop.svc.cluster.local:80"));
        assert!(old + new >= 400.0, "{old} and {new}");
        let share = new / (old + new);
        assert!((0.14..0.36).contains(&share), "{share} of {}", old + new);
        Ok(())
    });
}

#[test]
fn filters_redirects_and_limits_are_those_of_a_gateway() {
    story("mesh-filters", |mesh| {
        let rules = "    - matches: [{path: {value: /api}}]\n      \
             filters:\n        - {type: URLRewrite, urlRewrite: {hostname: v2.test, path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}}\n        \
             - {type: RequestHeaderModifier, requestHeaderModifier: {add: [{name: x-added, value: \"1\"}], remove: [x-secret]}}\n        \
             - {type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: x-told, value: \"2\"}]}}\n      \
             backendRefs: [{name: orders-v2, port: 80}]\n    \
             - matches: [{path: {value: /old}}]\n      \
             filters: [{type: RequestRedirect, requestRedirect: {path: {type: ReplaceFullPath, replaceFullPath: /new}, statusCode: 301}}]\n    \
             - matches: [{path: {value: /delay}}]\n      timeouts: {request: 300ms}\n      backendRefs: [{name: orders, port: 80}]\n    \
             - matches: [{path: {value: /status}}]\n      retry: {codes: [503], attempts: 2, backoff: 1ms}\n      backendRefs: [{name: orders, port: 80}]\n    \
             - matches: [{path: {value: /ws}}]\n      backendRefs: [{name: orders-v2, port: 80}]\n    \
             - matches: [{path: {value: /nowhere}}]\n      backendRefs: [{name: missing, port: 80}]\n";
        let world = World::new(mesh, "web.shop", &route("shop", rules))?;
        for request in [
            Request::get("http://orders.shop/api/x/../cart?q=1"),
            Request::get("http://orders.shop/api/cart?q=1").http2(),
        ] {
            let answer = world.web.send(request.header("x-secret", "s"))?;
            let seen = answer.json()?;
            // Over HTTP/2 host and path come as one.
            let host = seen["headers"]["host"].as_str().unwrap_or_default();
            let uri = format!("{host}{}", seen["uri"].as_str().unwrap_or_default());
            assert_eq!(uri.trim_start_matches("http://"), "v2.test/cart?q=1", "{seen}");
            assert_eq!(seen["server"], "orders-v2");
            assert_eq!(seen["headers"]["x-added"], "1");
            assert!(seen["headers"].get("x-secret").is_none(), "{seen}");
            assert_eq!(answer.header("x-told"), "2");
        }
        let moved = world.get("/old/thing")?;
        assert_eq!((moved.status.as_u16(), moved.header("location")), (301, "http://orders.shop/new"));
        let late = world.get("/delay/5000")?;
        assert_eq!((late.status.as_u16(), late.header("weft-error")), (504, "upstream-timeout"));
        assert_eq!(world.get("/delay/1")?.status, 200);
        assert_eq!(world.get("/status/503")?.status, 503);
        assert!(world.client.metrics()?.sum("weft_http_retries_total", &[]) >= 2.0, "it was not tried again");
        let nowhere = world.get("/other")?;
        assert_eq!((nowhere.status.as_u16(), nowhere.header("weft-error")), (404, "no-route"));
        let missing = world.get("/nowhere")?;
        assert_eq!((missing.status.as_u16(), missing.header("weft-error")), (500, "backend-invalid"));
        open_websocket(&world.web, "http://orders.shop/ws")?;
        Ok(())
    });
}

#[test]
fn open_connections_follow_the_routes() {
    story("mesh-change", |mesh| {
        let world = World::new(mesh, "web.shop", "")?;
        assert_eq!(world.server(Request::get("http://orders.shop/"))?, "orders");
        let load = world.web.load("http://orders.shop/").connections(4).rate(200).start()?;
        load.wait_for(50)?;
        let counted =
            || Ok::<_, anyhow::Error>(world.client.metrics()?.sum("weft_route_requests_total", &[]));
        assert_eq!(counted()?, 0.0);
        for round in 0..10 {
            put(&world.web, &format!("{SERVICES}---\n{}", route("shop", ALL_TO_V2)))?;
            eventually("the route to be in force", PATIENCE, || {
                Ok((world.server(Request::get("http://orders.shop/"))? == "orders-v2").then_some(()))
            })?;
            let before = counted()?;
            load.wait_for(20)?;
            assert!(counted()? > before, "round {round}: the open connections know nothing of the route");
            put(&world.web, SERVICES)?;
            eventually("the route to be gone", PATIENCE, || {
                Ok((world.server(Request::get("http://orders.shop/"))? == "orders").then_some(()))
            })?;
        }
        // A document that is wrong changes nothing.
        put(&world.web, &format!("{SERVICES}---\n{}", route("shop", ALL_TO_V2)))?;
        eventually("the route to be in force", PATIENCE, || {
            Ok((world.server(Request::get("http://orders.shop/"))? == "orders-v2").then_some(()))
        })?;
        put(&world.web, &format!("{SERVICES}---\n{}", route("shop", "    - {backendRefs: 7}\n")))?;
        eventually("the mistake to be told", PATIENCE, || {
            Ok(world.client.log().contains("spec.rules[0].backendRefs").then_some(()))
        })?;
        assert_eq!(world.server(Request::get("http://orders.shop/"))?, "orders-v2");
        load.stop()?.all_ok(250)?;
        Ok(())
    });
}

#[test]
fn a_consumers_routes_are_for_its_own_namespace() {
    story("mesh-consumer", |mesh| {
        // The route stands in namespace `bank`: it is for the workloads there, and asks for leave to lead to another namespace.
        let grant = "apiVersion: gateway.networking.k8s.io/v1\nkind: ReferenceGrant\nmetadata: {name: bank, namespace: shop}\n\
            spec:\n  from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: bank}]\n  to: [{group: \"\", kind: Service}]\n";
        let routes = format!("{}---\n{grant}", route("bank", ALL_TO_V2));
        let bank = World::new(mesh, "teller.bank", &routes)?;
        assert_eq!(bank.server(Request::get("http://orders.shop/"))?, "orders-v2");

        let other = mesh.pod("web.shop").start()?;
        fs::create_dir(other.dir().join("routes"))?;
        put(&other, &format!("{SERVICES}---\n{routes}"))?;
        let resources = other.dir().join("routes");
        let _sidecar =
            mesh.sidecar(&other)?.config(|config| config["resources"] = json!([resources])).start()?;
        let seen = other.get("http://orders.shop/")?.json()?;
        assert_eq!(seen["server"], "orders", "a route of namespace bank is none of namespace shop's concern");
        Ok(())
    });
}

#[test]
fn calls_of_grpc_go_by_service_and_method() {
    story("mesh-grpc", |mesh| {
        let routes = "apiVersion: gateway.networking.k8s.io/v1\nkind: GRPCRoute\nmetadata: {name: calls, namespace: shop}\n\
            spec:\n  parentRefs: [{group: \"\", kind: Service, name: orders}]\n  rules:\n    \
            - matches: [{method: {service: shop.Orders, method: Cancel}}]\n      backendRefs: [{name: orders-v2, port: 80}]\n    \
            - matches: [{method: {service: shop.Orders}}]\n      backendRefs: [{name: orders, port: 80}]\n";
        let world = World::new(mesh, "web.shop", routes)?;
        let call = |path: &str| {
            let request = Request::post(&format!("http://orders.shop{path}"), "x").http2();
            world.web.send(request.header("content-type", "application/grpc").header("te", "trailers"))
        };
        assert_eq!(call("/shop.Orders/Cancel")?.json()?["server"], "orders-v2");
        assert_eq!(call("/shop.Orders/Place")?.json()?["server"], "orders");
        let unknown = call("/shop.Other/Call")?;
        // 12: UNIMPLEMENTED, as the Gateway API wants it of a GRPCRoute.
        assert_eq!((unknown.status.as_u16(), unknown.header("grpc-status")), (200, "12"), "{unknown:?}");
        Ok(())
    });
}

#[test]
fn copies_go_to_a_service_that_may_hang() {
    story("mesh-mirror", |mesh| {
        let rules = "    - filters: [{type: RequestMirror, requestMirror: {backendRef: {name: orders-v2, port: 80}}}]\n      \
             backendRefs: [{name: orders, port: 80}]\n";
        let world = World::new(mesh, "web.shop", &route("shop", rules))?;
        for _ in 0..20 {
            let request = Request::post("http://orders.shop/hello", "a body for two");
            let seen = world.web.send(request)?.json()?;
            assert_eq!((&seen["server"], &seen["body"]), (&json!("orders"), &json!("a body for two")));
        }
        let mirrored = |outcome: &str| {
            Ok::<_, anyhow::Error>(
                world.client.metrics()?.sum("weft_route_mirrored_total", &[("outcome", outcome)]),
            )
        };
        eventually("the copies to be answered", PATIENCE, || {
            Ok((mirrored("answered")? >= 20.0).then_some(()))
        })?;
        // Request and copy hang, and the client gives up: nobody else waits.
        let hanging = world.web.exec(&["curl", "-s", "-m", "1", "http://orders.shop/hang"])?;
        assert!(!hanging.status.success());
        assert_eq!(world.get("/status/204")?.status, 204);
        Ok(())
    });
}

/// A gateway inside the mesh: workloads call it, and it calls others for them.
const EAST_WEST: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: api, namespace: edge}
spec:
  gatewayClassName: weft
  listeners:
  - {name: mesh, port: 15006, protocol: weft.dev/mesh, allowedRoutes: {namespaces: {from: All}}}
---
apiVersion: v1
kind: Service
metadata: {name: orders, namespace: shop}
spec: {ports: [{name: http, port: 80}]}
---
apiVersion: weft.dev/v1alpha1
kind: Backend
metadata: {name: legacy, namespace: shop}
spec: {endpoints: [{host: \"{legacy}\", port: 8080}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: api, namespace: shop}
spec:
  parentRefs: [{name: api, namespace: edge}]
  rules:
  - matches: [{path: {value: /legacy}}]
    backendRefs: [{group: weft.dev, kind: Backend, name: legacy}]
  - matches: [{path: {value: /orders}}, {path: {value: /ws}}]
    backendRefs: [{name: orders, port: 80}]
";

#[test]
fn a_gateway_stands_between_workloads_of_the_mesh() {
    story("mesh-gateway", |mesh| {
        let orders = mesh.pod("orders.shop").start()?;
        orders.app_as("http", 8080, "orders")?;
        mesh.dns().set(Service::virtual_ip("orders.shop").port(80, 8080).on(&[&orders]))?;
        let _orders = mesh.sidecar(&orders)?.start()?;
        let legacy = mesh.pod("legacy.shop").ipv4_only().start()?;
        legacy.app_as("http", 8080, "legacy")?;

        let pod = mesh.pod("api.edge").start()?;
        let resources = pod.dir().join("gateway.yaml");
        fs::write(&resources, EAST_WEST.replace("{legacy}", &legacy.ip().to_string()))?;
        // Callers dial the port of the service, and their sidecars the mesh listener.
        mesh.dns().set(Service::virtual_ip("api.edge").port(80, 15006).on(&[&pod]))?;
        let gateway = mesh.sidecar(&pod)?.gateway(&resources).start()?;
        let web = mesh.pod("web.shop").start()?;
        let _web = mesh.sidecar(&web)?.start()?;

        for request in [
            Request::get("http://api.edge/orders/1?q=2"),
            Request::get("http://api.edge/orders/1?q=2").http2(),
        ] {
            let seen = web.send(request)?.json()?;
            assert_eq!(
                (&seen["server"], &seen["uri"]),
                (&json!("orders"), &json!("/orders/1?q=2")),
                "{seen}"
            );
            let from = seen["headers"]["x-forwarded-client-cert"].as_str().unwrap_or_default();
            assert!(from.contains("URI=spiffe://weft.local/ns/edge/sa/api"), "{from}");
        }
        // What is outside is told who called, as the gateway has verified it.
        let request = Request::get("http://api.edge/legacy")
            .header("x-forwarded-client-cert", "URI=spiffe://weft.local/ns/bank/sa/admin");
        let seen = web.send(request)?.json()?;
        assert_eq!(seen["server"], "legacy");
        assert_eq!(
            seen["headers"]["x-forwarded-client-cert"],
            "By=spiffe://weft.local/ns/edge/sa/api;URI=spiffe://weft.local/ns/shop/sa/web"
        );
        let nowhere = web.get("http://api.edge/other")?;
        assert_eq!((nowhere.status.as_u16(), nowhere.header("weft-error")), (404, "no-route"));
        open_websocket(&web, "http://api.edge/ws")?;

        let metrics = gateway.metrics()?;
        let labels = [("parent", "edge/api/mesh"), ("backend", "orders.shop.svc.cluster.local:80")];
        assert!(metrics.sum("weft_route_requests_total", &labels) >= 3.0);
        // Without an identity of the mesh nobody gets in.
        let outsider = mesh.pod("outsider.shop").start()?;
        let answer = outsider.get(&format!("http://{}:15006/orders", pod.ip()));
        assert!(answer.is_err(), "{answer:?}");
        eventually("the refusal to be told", PATIENCE, || {
            Ok(gateway.log().contains("refused a mesh link").then_some(()))
        })?;
        Ok(())
    });
}
