//! Servers in the place of a service, and lies about where a service is.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use rustls::HandshakeKind;
use weft_testbed::{Mesh, Pod, Recorder, Request, Response, Service, Sidecar, eventually, story};

use crate::SOON;
use crate::certs::{Authority, bad_credentials};
use crate::peers::{Rogue, send_plain, server};

/// A caller with a sidecar, and a pod without one that is in DNS as `orders.shop`: HTTP on 80, bytes on 7000.
fn caller_and_rogue(mesh: &Mesh, mode: &str) -> Result<(Pod, Sidecar, Pod)> {
    let web = mesh.pod("web.shop").start()?;
    let rogue = mesh.pod("rogue.shop").start()?;
    mesh.dns().set(Service::virtual_ip("orders.shop").port(80, 8080).port(7000, 8080).on(&[&rogue]))?;
    let sidecar = mesh
        .sidecar(&web)?
        .config(|yaml| {
            yaml["mesh"]["mode"] = mode.into();
            // A server that does not even answer a ClientHello is given up after this, at each of its addresses.
            yaml["timeouts"]["handshake"] = "1s".into();
            yaml["outbound"]["opaquePorts"] = serde_json::json!([7000]);
        })
        .start()?;
    Ok((web, sidecar, rogue))
}

fn has_code(answer: &Response, status: u16, code: &str) -> bool {
    answer.status == status && answer.header("weft-error") == code
}

/// HTTP, gRPC and bytes to `orders.shop` all fail with this code.
fn refused(web: &Pod, what: &str, code: &str) -> Result<()> {
    for http2 in [false, true] {
        let mut request = Request::post("http://orders.shop/pay", "secret-order");
        if http2 {
            request = request.http2();
        }
        let answer = web.send(request)?;
        ensure!(has_code(&answer, 502, code), "{what}: {answer:?}");
        ensure!(!answer.text().contains("rogue"), "{what}: {answer:?}");
    }
    let call = Request::post("http://orders.shop/pay.Pay/Go", "secret-order")
        .header("content-type", "application/grpc")
        .http2();
    let answer = web.send(call)?;
    ensure!(has_code(&answer, 200, code), "{what}, gRPC: {answer:?}");
    ensure!(answer.header("grpc-status") == "14", "{what}, gRPC: {answer:?}");
    let to = SocketAddr::new(web.resolve("orders.shop")?[0], 7000);
    let bytes = send_plain(web, to, b"secret-bytes")?;
    ensure!(bytes.is_empty(), "{what}: {bytes:?}");
    Ok(())
}

#[test]
fn servers_with_a_bad_certificate_get_no_request() {
    story("bad-servers", |mesh| {
        let (web, sidecar, pod) = caller_and_rogue(mesh, "strict")?;
        let authority = Authority::of(mesh.ca()?)?;
        let rogue = Rogue::start(&pod, 8080, server(&authority.good("bank", "orders")?)?)?;
        // A certificate that is good in every way but one: it is another namespace's.
        refused(&web, "another namespace", "identity-mismatch")?;
        ensure!(rogue.connections() >= 4 && rogue.application_bytes() == 0, "{rogue:?}");
        for bad in bad_credentials(mesh.ca()?, "orders")? {
            rogue.show(server(&bad.credential)?);
            refused(&web, bad.what, "tls-failed")?;
            let (connections, bytes) = (rogue.connections(), rogue.application_bytes());
            ensure!(connections >= 4, "{}: only {connections} attempts arrived", bad.what);
            ensure!(bytes == 0, "{}: {bytes} bytes", bad.what);
        }
        let labels = [("direction", "outbound"), ("code", "identity-mismatch")];
        ensure!(sidecar.metrics()?.sum("weft_errors_total", &labels) >= 3.0, "not counted");
        // The one right certificate.
        rogue.show(server(&authority.good("shop", "orders")?)?);
        let answer = web.get("http://orders.shop/")?;
        ensure!(answer.status == 200 && answer.text() == "rogue\n", "{answer:?}");
        Ok(())
    });
}

#[test]
fn strict_says_nothing_to_a_server_without_mutual_tls() {
    story("plain-server", |mesh| {
        let (web, _sidecar, pod) = caller_and_rogue(mesh, "strict")?;
        let plain = Recorder::start(&pod, 8080)?;
        let capture = pod.capture("tcp port 8080")?;
        refused(&web, "plaintext", "tls-failed")?;
        // What it got is ClientHellos: a record of handshake type, and no word of the request.
        let seen = plain.bytes();
        ensure!(plain.connections() >= 4 && seen.first() == Some(&22), "{:?}", plain.text());
        let packets = capture.stop()?;
        for text in ["secret", "orders", "/pay", "HTTP"] {
            ensure!(!packets.contains(text.as_bytes()), "{text} was sent");
        }
        Ok(())
    });
}

/// A permissive sidecar in front of a server that speaks first may lose patience before a busy client has begun.
#[test]
fn a_greeting_in_plaintext_is_not_the_last_word() {
    story("early-greeting", |mesh| {
        for mode in ["strict", "permissive"] {
            let (web, sidecar, pod) = caller_and_rogue(mesh, mode)?;
            let rogue =
                Rogue::start(&pod, 8080, server(&Authority::of(mesh.ca()?)?.good("shop", "orders")?)?)?;
            rogue.greets_early(&pod.addresses());
            let answer = web.get("http://orders.shop/")?;
            ensure!(answer.status == 200 && answer.text() == "rogue\n", "{mode}: {answer:?}");
            let failed = [("direction", "outbound"), ("outcome", "failed_tls")];
            let failed = sidecar.metrics()?.sum("weft_mtls_handshakes_total", &failed);
            ensure!(failed == 1.0 && rogue.connections() == 2, "{mode}: {failed} of {}", rogue.connections());
        }
        Ok(())
    });
}

#[test]
fn permissive_falls_back_for_a_server_without_a_sidecar_only() {
    story("permissive-out", |mesh| {
        let (web, _sidecar, pod) = caller_and_rogue(mesh, "permissive")?;
        let plain = Recorder::start(&pod, 8080)?;
        let answer = web.get("http://orders.shop/moving-in")?;
        ensure!(answer.status == 200 && answer.text() == "recorded\n", "{answer:?}");
        ensure!(plain.text().contains("GET /moving-in"), "{}", plain.text());
        // A peer that does speak mutual TLS, with another namespace's identity, is not a peer to talk plaintext to.
        let bank = mesh.pod("bank.bank").start()?;
        let _rogue = Rogue::start(&bank, 8080, server(&Authority::of(mesh.ca()?)?.good("bank", "bank")?)?)?;
        mesh.dns().set(Service::virtual_ip("ledger.shop").port(80, 8080).on(&[&bank]))?;
        let answer = web.get("http://ledger.shop/")?;
        ensure!(has_code(&answer, 502, "identity-mismatch"), "{answer:?}");
        Ok(())
    });
}

#[test]
fn a_lie_in_dns_reaches_nobody() {
    story("dns-lie", |mesh| {
        let web = mesh.pod("web.shop").start()?;
        let evil = mesh.pod("evil.bank").start()?;
        let app = Recorder::start(&evil, 8080)?;
        mesh.sidecar(&evil)?.start()?;
        let sidecar = mesh.sidecar(&web)?.start()?;
        let lies = [
            ("virtual IP", Service::virtual_ip("orders.shop").port(80, 8080)),
            ("headless", Service::headless("stock.shop").named_port("http", 8080)),
        ];
        for (what, service) in lies {
            mesh.dns().set(service.on(&[&evil]))?;
            let url = if what == "headless" { "http://stock.shop:8080/" } else { "http://orders.shop/" };
            let answer = web.send(Request::post(url, "secret-order"))?;
            ensure!(has_code(&answer, 502, "identity-mismatch"), "{what}: {answer:?}");
            ensure!(app.connections() == 0, "{what}: {}", app.text());
        }
        // The same pod under the name that is its own.
        mesh.dns().set(Service::virtual_ip("evil.bank").port(80, 8080).on(&[&evil]))?;
        let answer = web.get("http://evil.bank/")?;
        ensure!(answer.status == 200, "{answer:?}");
        let expected = "expected spiffe://weft.local/ns/shop/sa/*";
        ensure!(sidecar.log().contains(expected), "{}", sidecar.log());
        Ok(())
    });
}

/// An address that was one service's and is now in DNS as another's: TLS resumes the session, which shows no
/// certificate; the identity of the first handshake is held against the new name.
#[test]
fn a_resumed_session_is_no_way_around_the_namespace_rule() {
    story("resumed-server", |mesh| {
        let (web, _sidecar, pod) = caller_and_rogue(mesh, "strict")?;
        let good = Authority::of(mesh.ca()?)?.good("shop", "orders")?;
        let rogue = Rogue::start(&pod, 8080, server(&good)?)?;
        ensure!(web.get("http://orders.shop/")?.status == 200, "the first handshake");
        mesh.dns().set(Service::virtual_ip("ledger.bank").port(80, 8080).on(&[&pod]))?;
        let before = rogue.application_bytes();
        let answer = web.get("http://ledger.bank/")?;
        ensure!(has_code(&answer, 502, "identity-mismatch"), "{answer:?}");
        // The client is through first: the other side of its last handshake may still be under way.
        eventually("a resumed session", SOON, || {
            Ok(rogue.handshakes().contains(&Some(HandshakeKind::Resumed)).then_some(()))
        })?;
        ensure!(rogue.application_bytes() == before, "the request was sent");
        Ok(())
    });
}

/// Whoever answers for `evil.example` can answer with any address, a service's own among them. Looking it up must not
/// make the calls to that service calls to `evil.example`, which is outside the mesh and gets plaintext.
#[test]
fn an_outside_name_cannot_take_a_services_address() {
    story("dns-cover", |mesh| {
        let (web, _sidecar, pod) = caller_and_rogue(mesh, "strict")?;
        let plain = Recorder::start(&pod, 8080)?;
        // The service is headless: its address is a pod's, and a connection that slipped past would arrive.
        mesh.dns().set(Service::headless("stock.shop").named_port("http", 8080).on(&[&pod]))?;
        let stock = web.resolve("stock.shop")?;
        for n in 0..8 {
            mesh.dns().host(&format!("evil{n}.example"), &pod.addresses())?;
        }
        // Before and after the service's own name, and more often than an address has room for names.
        let answer = web.get("http://stock.shop:8080/secret-before")?;
        ensure!(has_code(&answer, 502, "tls-failed"), "{answer:?}");
        for n in 0..8 {
            ensure!(web.resolve(&format!("evil{n}.example"))?.len() == stock.len(), "evil{n}");
        }
        // As an application does that has kept the address.
        let kept = SocketAddr::new(stock[0], 8080);
        let answer = web.get(&format!("http://{kept}/secret-after"))?;
        ensure!(has_code(&answer, 502, "tls-failed"), "{answer:?}");
        ensure!(!plain.text().contains("secret"), "{}", plain.text());
        Ok(())
    });
}

/// A service that moves into the mesh: one pod has its sidecar, the other not yet. Who has one is known, not tried out.
#[test]
fn a_service_moves_in_pod_by_pod() {
    story("moving-in", |mesh| {
        let web = mesh.pod("web.shop").start()?;
        let moved = mesh.pod("orders-1.shop").start()?;
        moved.app(8080)?;
        let server = mesh.sidecar(&moved)?.start()?;
        let unmoved = mesh.pod("orders-2.shop").start()?;
        unmoved.app(8080)?;
        mesh.dns().set(Service::virtual_ip("orders.shop").port(80, 8080).on(&[&moved, &unmoved]))?;
        let permissive = |known: &[&Pod]| {
            let endpoints: Vec<_> = known.iter().flat_map(|pod| pod.addresses()).collect();
            serde_json::json!([{"name": "orders.shop.svc.cluster.local", "mode": "permissive", "endpoints": endpoints}])
        };
        let mut client =
            mesh.sidecar(&web)?.config(|yaml| yaml["mesh"]["modes"] = permissive(&[&moved])).start()?;
        let load = web.load("http://orders.shop/").rate(100).start()?;
        eventually("both pods to be served", SOON, || {
            Ok((load.so_far().served_by.len() == 2 && load.so_far().ok > 100).then_some(()))
        })?;
        // The second pod's sidecar comes; the list says so; then the service becomes strict. The application's connections
        // stay open all the time.
        let second =
            mesh.sidecar(&unmoved)?.config(|yaml| yaml["inbound"]["mode"] = "permissive".into()).start()?;
        client.reconfigure(|yaml| yaml["mesh"]["modes"] = permissive(&[&moved, &unmoved]))?;
        let meshed = || -> Result<f64> {
            let labels = [("peer_identity", "spiffe://weft.local/ns/shop/sa/web")];
            Ok(second.metrics()?.sum("http_server_request_duration_seconds_count", &labels))
        };
        eventually("the second pod to get mutual TLS", SOON, || Ok((meshed()? > 20.0).then_some(())))?;
        client.reconfigure(|yaml| yaml["mesh"]["modes"] = serde_json::json!([]))?;
        load.wait_for(100)?;
        load.stop()?.all_ok(200)?;
        let plain = server.metrics()?.sum("weft_plaintext_connections_total", &[]);
        ensure!(plain == 0.0, "{plain} plaintext connections came to a pod with a sidecar");
        Ok(())
    });
}

/// A service that leaves the mesh, and comes back: connections of the application that are open follow, request by request.
#[test]
fn open_connections_follow_a_service_out_of_the_mesh_and_back() {
    story("moving-out", |mesh| {
        let web = mesh.pod("web.shop").start()?;
        let orders = mesh.pod("orders.shop").start()?;
        orders.app(8080)?;
        mesh.dns().set(Service::virtual_ip("orders.shop").port(80, 8080).on(&[&orders]))?;
        let server =
            mesh.sidecar(&orders)?.config(|yaml| yaml["inbound"]["mode"] = "permissive".into()).start()?;
        let mut client = mesh.sidecar(&web)?.start()?;
        let load = web.load("http://orders.shop/").rate(100).start()?;
        let (in_plaintext, meshed) = ([("tls", "none")], [("tls", "mutual")]);
        let more_of = |labels: &[(&str, &str)]| -> Result<()> {
            let count = || -> Result<f64> {
                Ok(server.metrics()?.sum("http_server_request_duration_seconds_count", labels))
            };
            let before = count()?;
            eventually("requests to change", SOON, || Ok((count()? > before + 50.0).then_some(())))
        };
        more_of(&meshed)?;
        client.reconfigure(|yaml| {
            yaml["mesh"]["exceptions"] = serde_json::json!(["orders.shop.svc.cluster.local"]);
        })?;
        more_of(&in_plaintext)?;
        client.reconfigure(|yaml| yaml["mesh"]["exceptions"] = serde_json::json!([]))?;
        more_of(&meshed)?;
        load.wait_for(300)?;
        load.stop()?.all_ok(200)?;
        Ok(())
    });
}

#[test]
fn an_endpoint_that_is_known_to_have_a_sidecar_gets_no_plaintext() {
    story("known-endpoint", |mesh| {
        let (web, mut sidecar, pod) = caller_and_rogue(mesh, "strict")?;
        let recorder = Recorder::start(&pod, 8080)?;
        sidecar.reconfigure(|yaml| {
            yaml["mesh"]["modes"] = serde_json::json!([
                {"name": "orders.shop.svc.cluster.local", "mode": "permissive", "endpoints": pod.addresses()}
            ]);
        })?;
        let answer = web.send(Request::post("http://orders.shop/pay", "secret-order"))?;
        ensure!(has_code(&answer, 502, "tls-failed"), "{answer:?}");
        ensure!(!recorder.text().contains("secret-order"), "{}", recorder.text());
        // Without a list, permissive falls back; with a list that has another address, plaintext is what is asked for.
        sidecar.reconfigure(|yaml| {
            yaml["mesh"]["modes"] = serde_json::json!([
                {"name": "orders.shop.svc.cluster.local", "mode": "permissive", "endpoints": ["10.77.99.99"]}
            ]);
        })?;
        eventually("plaintext to arrive", SOON, || {
            web.send(Request::post("http://orders.shop/pay", "open-order"))?;
            Ok(recorder.text().contains("open-order").then_some(()))
        })
    });
}
