//! Workloads without interception: each listener stands for one service, or for one port of the application.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use weft_testbed::{
    Mesh, Metrics, Pod, Request, Result, Service, Sidecar, eventually, loopback_story, story,
};

/// Where others dial the application, where it listens, and where callers dial their own proxy for it.
struct Ports {
    service: u16,
    application: u16,
    caller: u16,
}

impl Ports {
    fn new(mesh: &Mesh, service: u16) -> Self {
        Self {
            service: mesh.port(service),
            application: mesh.port(10_000 + service),
            caller: mesh.port(20_000 + service),
        }
    }
}

fn at(pod: &Pod, port: u16) -> SocketAddr {
    SocketAddr::new(pod.ip(), port)
}

/// `orders.shop:80` (HTTP) and `echo.shop:7` (TCP) beside `web.shop`, all without rules.
struct Trio {
    web: Pod,
    orders: Pod,
    client: Sidecar,
    server: Sidecar,
    http: Ports,
    tcp: Ports,
    echo: Sidecar,
}

fn trio(mesh: &Mesh) -> Result<Trio> {
    let (http, tcp) = (Ports::new(mesh, 8080), Ports::new(mesh, 7007));
    let (web, orders) = (mesh.pod("web.shop").start()?, mesh.pod("orders.shop").start()?);
    let echo = mesh.pod("echo.shop").start()?;
    orders.app(http.application)?;
    echo.app_of("echo", tcp.application)?;
    mesh.dns().set(Service::virtual_ip("orders.shop").port(80, http.service).on(&[&orders]))?;
    mesh.dns().set(Service::headless("echo.shop").named_port("p7", tcp.service).on(&[&echo]))?;
    let client = mesh
        .sidecar(&web)?
        .outbound_listener(at(&web, http.caller), "orders.shop.svc.cluster.local:80")
        .outbound_listener(at(&web, tcp.caller), "echo.shop.svc.cluster.local:7")
        .start()?;
    let server = |pod: &Pod, ports: &Ports| {
        mesh.sidecar(pod)?.inbound_listener(at(pod, ports.service), at(pod, ports.application)).start()
    };
    let (server, echo) = (server(&orders, &http)?, server(&echo, &tcp)?);
    Ok(Trio { web, orders, client, server, http, tcp, echo })
}

/// The identity at the other end of every series of `name`, which must all be of mutual TLS.
fn peers(metrics: &Metrics, name: &str, direction: &str) -> Vec<String> {
    let of = |label: &str, sample: &weft_testbed::Sample| sample.label(label).to_owned();
    let all = metrics.of(name, &[]).filter(|sample| sample.value > 0.0);
    // HTTP's names tell the direction; TCP's have it as a label.
    let mut found: Vec<String> = all
        .filter(|sample| ["", direction].contains(&sample.label("direction")))
        .map(|sample| format!("{} {}", of("tls", sample), of("peer_identity", sample)))
        .collect();
    found.dedup();
    found
}

const HTTP_SERVER: &str = "http_server_request_duration_seconds_count";
const HTTP_CLIENT: &str = "http_client_request_duration_seconds_count";
const TCP: &str = "weft_tcp_connections_opened_total";

#[test]
fn requests_and_bytes_cross_the_mesh_by_mutual_tls() {
    loopback_story("doors", |mesh| {
        let Trio { web, orders, client, server, http, tcp, echo } = trio(mesh)?;
        let url = format!("http://{}/hello?x=1", at(&web, http.caller));
        let seen = web.send(Request::post(&url, "an order"))?.json()?;
        assert_eq!((&seen["server"], &seen["body"]), (&"orders".into(), &"an order".into()));
        let certificate = seen["headers"]["x-forwarded-client-cert"].as_str().unwrap_or_default();
        assert!(certificate.contains("URI=spiffe://weft.local/ns/shop/sa/web"), "{certificate}");
        let seen = web.send(Request::get(&url).http2())?.json()?;
        assert_eq!(seen["version"], "HTTP/2.0");

        let mut stream = TcpStream::connect(at(&web, tcp.caller))?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        stream.write_all(b"PING")?;
        let mut back = [0; 4];
        stream.read_exact(&mut back)?;
        assert_eq!(&back, b"PING");
        drop(stream);

        let id = |account: &str| format!("mutual spiffe://weft.local/ns/shop/sa/{account}");
        let metrics = client.metrics()?;
        assert_eq!(peers(&metrics, HTTP_CLIENT, "outbound"), [id("orders")]);
        assert_eq!(peers(&metrics, TCP, "outbound"), [id("echo")]);
        assert_eq!(peers(&server.metrics()?, HTTP_SERVER, "inbound"), [id("web")]);
        assert_eq!(peers(&echo.metrics()?, TCP, "inbound"), [id("web")]);

        // An endpoint that comes later is found by DNS, as it is with interception.
        let second = mesh.pod("orders-2.shop").start()?;
        second.app(http.application)?;
        let _second = mesh
            .sidecar(&second)?
            .inbound_listener(at(&second, http.service), at(&second, http.application))
            .start()?;
        mesh.dns().set(Service::virtual_ip("orders.shop").port(80, http.service).on(&[&orders, &second]))?;
        eventually("the second replica to take a request", Duration::from_secs(15), || {
            Ok((web.get(&url)?.json()?["server"] == "orders-2").then_some(()))
        })
    });
}

#[test]
fn strict_refuses_plaintext_at_the_door_and_permissive_lets_it_in() {
    loopback_story("doors-strict", |mesh| {
        let Trio { web, orders, mut server, http, tcp: _, client: _client, echo: _echo } = trio(mesh)?;
        let url = format!("http://{}/hello", at(&orders, http.service));
        assert!(web.get(&url).is_err(), "plaintext was answered");
        let refused = |server: &Sidecar| -> Result<f64> {
            Ok(server.metrics()?.sum("weft_protocol_detections_total", &[("outcome", "refused_strict")]))
        };
        assert_eq!(refused(&server)?, 1.0);
        assert_eq!(server.metrics()?.sum(HTTP_SERVER, &[]), 0.0, "the application was asked");
        // What was not redirected has no business at the doors for what was.
        assert!(web.get(&format!("http://{}/", at(&orders, mesh.port(15006)))).is_err());

        server.reconfigure(|config| config["inbound"]["mode"] = "permissive".into())?;
        eventually("the new mode", Duration::from_secs(15), || {
            Ok(web.get(&url).is_ok_and(|answer| answer.status == 200).then_some(()))
        })?;
        let metrics = server.metrics()?;
        assert!(metrics.of(HTTP_SERVER, &[("tls", "none")]).next().is_some(), "{metrics:?}");
        Ok(())
    });
}

#[test]
fn listeners_that_changed_wait_for_a_restart() {
    loopback_story("doors-reload", |mesh| {
        let Trio { web, mut client, http, orders: _orders, server: _server, tcp: _, echo: _echo } =
            trio(mesh)?;
        let moved = at(&web, mesh.port(21_000));
        client
            .reconfigure(|config| config["outbound"]["listeners"][0]["address"] = moved.to_string().into())?;
        client.process().wait_for_log("config-needs-restart", Duration::from_secs(15))?;
        assert!(client.log().contains("outbound.listeners"), "{}", client.log());
        assert_eq!(web.get(&format!("http://{}/", at(&web, http.caller)))?.status, 200, "the old one stays");
        assert!(TcpStream::connect(moved).is_err());
        client.restart()?;
        assert_eq!(web.get(&format!("http://{moved}/"))?.status, 200);
        Ok(())
    });
}

/// A machine without rules beside pods that have them: the ways in and out meet.
#[test]
fn workloads_with_and_without_interception_meet() {
    story("doors-mixed", |mesh| {
        let (web, vm) = (mesh.pod("web.shop").start()?, mesh.pod("vm.shop").start()?);
        web.app(8080)?;
        let loopback = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
        // On loopback alone: past the sidecar there is no way in.
        vm.app_at("http", loopback(18080))?;
        mesh.dns().set(Service::virtual_ip("web.shop").port(80, 8080).on(&[&web]))?;
        mesh.dns().set(Service::virtual_ip("vm.shop").port(80, 8080).on(&[&vm]))?;
        let _web = mesh.sidecar(&web)?.start()?;
        let sidecar = mesh.sidecar(&vm)?.without_interception();
        let _vm = sidecar
            .outbound_listener(loopback(9080), "web.shop.svc.cluster.local:80")
            .outbound_listener(loopback(9081), "vm.shop.svc.cluster.local:80")
            .config(|config| {
                config["inbound"]["listeners"] =
                    serde_json::json!([{ "address": 8080, "application": "127.0.0.1:18080" }]);
            })
            .start()?;
        let caller = |answer: weft_testbed::Response| -> Result<(String, String)> {
            let seen = answer.json()?;
            let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
            Ok((text(&seen["server"]), text(&seen["headers"]["x-forwarded-client-cert"])))
        };
        let (server, client) = caller(vm.get("http://127.0.0.1:9080/")?)?;
        assert!(server == "web" && client.contains("/sa/vm"), "{server} {client}");
        let (server, client) = caller(web.get("http://vm.shop/")?)?;
        assert!(server == "vm" && client.contains("/sa/web"), "{server} {client}");
        // Its own service, by way of its own two doors.
        let (server, client) = caller(vm.get("http://127.0.0.1:9081/")?)?;
        assert!(server == "vm" && client.contains("/sa/vm"), "{server} {client}");
        Ok(())
    });
}

/// Where interception has the address that was dialed, a listener has nothing but DNS.
#[test]
fn a_service_without_records_is_waited_for_and_a_circle_is_broken() {
    loopback_story("doors-names", |mesh| {
        let web = mesh.pod("web.shop").start()?;
        let (late, circle) = (mesh.port(28_080), mesh.port(29_080));
        let client = mesh
            .sidecar(&web)?
            .outbound_listener(at(&web, late), "orders.shop.svc.cluster.local:80")
            .outbound_listener(at(&web, circle), "circle.shop.svc.cluster.local:80")
            .start()?;
        let url = format!("http://{}/", at(&web, late));
        let answer = web.get(&url)?;
        assert_eq!((answer.status.as_u16(), answer.header("weft-error")), (503, "no-endpoints"));

        let orders = mesh.pod("orders.shop").start()?;
        let ports = Ports::new(mesh, 8080);
        orders.app(ports.application)?;
        let _server = mesh
            .sidecar(&orders)?
            .inbound_listener(at(&orders, ports.service), at(&orders, ports.application))
            .start()?;
        mesh.dns().set(Service::virtual_ip("orders.shop").port(80, ports.service).on(&[&orders]))?;
        eventually("the records of orders to be seen", Duration::from_secs(15), || {
            Ok((web.get(&url)?.status == 200).then_some(()))
        })?;

        // DNS leads the client back to its own listener.
        mesh.dns().set(Service::virtual_ip("circle.shop").port(80, circle).on(&[&web]))?;
        let accepted = || -> Result<f64> {
            Ok(client.metrics()?.sum("weft_accepted_connections_total", &[("listener", "outbound")]))
        };
        let before = accepted()?;
        let answer = web.get(&format!("http://{}/", at(&web, circle)))?;
        assert_eq!((answer.status.as_u16(), answer.header("weft-error")), (508, "loop-detected"));
        assert_eq!(accepted()?, before + 1.0);
        Ok(())
    });
}
