//! The proxy's own ports: who may come in, and what the admin pages do.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use weft_testbed::{Pod, Request, Service, eventually, story};

use crate::{Pair, SOON, converse};

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: orders.shop\r\nconnection: close\r\n\r\n";

fn dial(from: &Pod, to: SocketAddr) -> Result<Option<Vec<u8>>> {
    from.run(async || converse(to, REQUEST).await)
}

#[test]
fn a_pods_neighbours_find_three_doors() {
    story("doors", |mesh| {
        let pair = Pair::start(mesh, |_| ())?;
        let outsider = mesh.pod("outsider.shop").start()?;
        // An application on a port that the proxy has nothing on, near to those that it has.
        pair.orders.app(15008)?;
        for ip in pair.orders.addresses() {
            // The proxy has outbound, DNS and admin on loopback: for others these are ports like any other, captured, and
            // refused as plaintext.
            for port in [15000, 15001, 15053, 15008] {
                let answer = dial(&outsider, SocketAddr::new(ip, port))?;
                ensure!(answer.is_none_or(|answer| answer.is_empty()), "{ip}:{port} answered");
            }
            let inbound = dial(&outsider, SocketAddr::new(ip, 15006))?;
            ensure!(inbound.as_ref().is_none_or(Vec::is_empty), "15006 answered {inbound:?}");
            for (port, path, status) in [
                (15020, "/metrics", 200),
                (15021, "/ready", 200),
                (15021, "/live", 200),
                (15020, "/config", 404),
                (15020, "/drain", 404),
                (15021, "/metrics", 404),
                (15021, "/certs", 404),
                (15021, "/log", 404),
            ] {
                let url = format!("http://{}{path}", SocketAddr::new(ip, port));
                for method in ["GET", "POST", "PUT"] {
                    let answer = outsider.send(Request::new(method, &url))?;
                    let expected = if method == "GET" || status == 404 { status } else { 405 };
                    ensure!(answer.status == expected, "{method} {url}: {answer:?}");
                }
            }
        }
        pair.works()
    });
}

/// A neighbour can put any address into a packet for the pod's interface, and the rules redirect it as they do others.
#[test]
fn nobody_else_is_reached_through_a_pod() {
    story("relay", |mesh| {
        let pair = Pair::start(mesh, |yaml| yaml["inbound"]["mode"] = "permissive".into())?;
        let (outsider, third) = (mesh.pod("outsider.shop").start()?, mesh.pod("third.shop").start()?);
        third.app(8080)?;
        let victim = SocketAddr::new(third.ip(), 8080);
        ensure!(
            dial(&outsider, victim)?.is_some_and(|answer| !answer.is_empty()),
            "it can be reached directly"
        );
        let (to, via) = (format!("{}/32", third.ip()), pair.orders.ip().to_string());
        outsider.exec(&["ip", "route", "add", &to, "via", &via])?.ok()?;
        let answer = dial(&outsider, victim)?;
        ensure!(answer.as_ref().is_none_or(Vec::is_empty), "by way of orders: {answer:?}");
        let labels = [("direction", "inbound"), ("outcome", "foreign_address")];
        let counted = pair.server.metrics()?.sum("weft_protocol_detections_total", &labels);
        ensure!(counted >= 1.0, "{counted} counted");
        pair.works()
    });
}

#[test]
fn the_proxy_does_not_call_itself() {
    story("loops", |mesh| {
        let pair = Pair::start(mesh, |_| ())?;
        let before = pair.server.metrics()?;
        // The application dials the proxy's listeners: on loopback, and on the pod's own address, where one of them is.
        let loopback = vec!["127.0.0.1".parse()?, "::1".parse()?];
        for (addresses, ports) in [(loopback, &[15001, 15006][..]), (pair.orders.addresses(), &[15006])] {
            for (ip, port) in addresses.iter().flat_map(|ip| ports.iter().map(move |port| (*ip, *port))) {
                let answer = dial(&pair.orders, SocketAddr::new(ip, port))?;
                ensure!(answer.as_ref().is_none_or(Vec::is_empty), "{ip}:{port}: {answer:?}");
            }
        }
        let change = pair.server.metrics()?.since(&before);
        for direction in ["outbound", "inbound"] {
            let labels = [("direction", direction), ("outcome", "not_redirected")];
            let counted = change.sum("weft_protocol_detections_total", &labels);
            ensure!(counted >= 2.0, "{direction}: {counted} counted");
        }
        // Names whose pods are said to serve on the proxy's own ports.
        for (port, name) in [(15006, "loop-in.shop"), (15001, "loop-out.shop")] {
            mesh.dns().set(Service::virtual_ip(name).port(80, port).on(&[&pair.orders]))?;
            for from in [&pair.orders, &pair.web] {
                let answer = from.get(&format!("http://{name}/"))?;
                let code = answer.header("weft-error");
                ensure!(!code.is_empty() && answer.status.is_server_error(), "{name}: {answer:?}");
            }
        }
        let labels = [("direction", "inbound"), ("code", "loop-detected")];
        let loops = pair.server.metrics()?.sum("weft_errors_total", &labels);
        ensure!(loops >= 1.0, "the call of the pod to its own inbound port was not seen as a loop");
        pair.works()
    });
}

#[test]
fn the_log_level_is_a_switch() {
    story("log-level", |mesh| {
        let pair = Pair::start(mesh, |_| ())?;
        let url = "http://127.0.0.1:15000/log";
        let put = |body: &'static str| {
            pair.web
                .send(Request::new("PUT", url).body(body))
                .map(|answer| (answer.status.as_u16(), answer.text()))
        };
        ensure!(pair.client.admin("/log")?.text() == "info\n");
        ensure!(!pair.client.log().contains("\"level\":\"DEBUG\""), "debug lines before the switch");
        ensure!(put("info,weft_proxy=debug")? == (200, "info,weft_proxy=debug\n".to_owned()));
        // A connection to the wrong door is a debug line.
        dial(&pair.web, "127.0.0.1:15001".parse()?)?;
        pair.client.process().wait_for_log("refused an outbound connection", SOON)?;
        let (status, text) = put("no such=level=at all")?;
        ensure!(status == 400, "{text}");
        ensure!(pair.client.admin("/log")?.text() == "info,weft_proxy=debug\n", "a bad switch changed it");
        ensure!(put("error")?.0 == 200);
        pair.works()
    });
}

#[test]
fn drain_ends_what_is_in_flight_and_then_the_process() {
    story("drain", |mesh| {
        let pair = Pair::start(mesh, |yaml| yaml["timeouts"]["drain"] = "20s".into())?;
        let slow = pair.web.clone();
        let in_flight = std::thread::spawn(move || slow.get("http://orders.shop/delay/1500"));
        eventually("the request to be in flight", SOON, || {
            let active = pair.server.metrics()?.sum("http_server_active_requests", &[]);
            Ok((active >= 1.0).then_some(()))
        })?;
        let answer = pair.orders.send(Request::new("POST", "http://127.0.0.1:15000/drain"))?;
        ensure!(answer.status == 202, "{answer:?}");
        // From outside, as the kubelet asks: not ready, while it still serves.
        let ready = format!("http://{}/ready", SocketAddr::new(pair.orders.ip(), 15021));
        eventually("the sidecar to say that it drains", SOON, || {
            Ok(pair.web.get(&ready).map_or(true, |answer| answer.status == 503).then_some(()))
        })?;
        let answer = in_flight.join().map_err(|_| anyhow::anyhow!("the caller panicked"))??;
        ensure!(answer.status == 200, "{answer:?}");
        let status = pair.server.wait_exit(SOON)?;
        ensure!(status.code() == Some(0), "{status}: {}", pair.server.log());
        ensure!(pair.server.log().contains("drained"), "{}", pair.server.log());
        Ok(())
    });
}
