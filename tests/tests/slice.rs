//! One request through two sidecars: names, rules, mutual TLS, headers, traces.

use weft_testbed::{Mesh, Pod, Request, Result, Service, Sidecar, story};

/// A client and a server with sidecars; `orders.shop:80` is port 8080 of the server.
fn pair(mesh: &Mesh) -> Result<(Pod, Sidecar, Pod, Sidecar)> {
    let web = mesh.pod("web.shop").start()?;
    let orders = mesh.pod("orders.shop").start()?;
    orders.app(8080)?;
    mesh.dns().set(Service::virtual_ip("orders.shop").port(80, 8080).on(&[&orders]))?;
    let client = mesh.sidecar(&web)?.start()?;
    let server = mesh.sidecar(&orders)?.start()?;
    Ok((web, client, orders, server))
}

#[test]
fn a_request_crosses_the_mesh() {
    story("slice", |mesh| {
        let (web, _client, orders, _server) = pair(mesh)?;
        let capture = orders.capture("tcp port 8080")?;
        let request = Request::post("http://orders.shop/hello?x=1", "a secret order")
            .header("x-forwarded-client-cert", "URI=spiffe://weft.local/ns/bank/sa/admin");
        let answer = web.send(request)?;
        assert_eq!(answer.status, 200, "{}", answer.text());

        let seen = answer.json()?;
        assert_eq!(seen["server"], "orders");
        assert_eq!(seen["method"], "POST");
        assert_eq!(seen["uri"], "/hello?x=1");
        assert_eq!(seen["body"], "a secret order");
        assert_eq!(seen["version"], "HTTP/1.1");
        assert_eq!(seen["headers"]["host"], "orders.shop");
        let certificate = seen["headers"]["x-forwarded-client-cert"].as_str().unwrap_or_default();
        assert!(certificate.contains("URI=spiffe://weft.local/ns/shop/sa/web"), "{certificate}");
        assert!(!certificate.contains("bank"), "{certificate}");

        let packets = capture.stop()?;
        assert!(packets.tcp_bytes() > 0, "nothing was seen on the wire");
        assert!(!packets.contains(b"a secret order"));
        assert!(!packets.contains(b"/hello"));
        let from_clients: Vec<_> = packets.flows().values().filter(|flow| flow.from_client).collect();
        assert!(!from_clients.is_empty() && from_clients.iter().all(|flow| flow.is_tls()));
        Ok(())
    });
}

#[test]
fn http2_crosses_the_mesh_as_http2() {
    story("slice-h2", |mesh| {
        let (web, _client, _orders, _server) = pair(mesh)?;
        let seen = web.send(Request::post("http://orders.shop/two", "body").http2())?.json()?;
        assert_eq!((&seen["version"], &seen["body"]), (&"HTTP/2.0".into(), &"body".into()));
        let trailers = web.send(Request::get("http://orders.shop/trailers").http2())?;
        assert_eq!(trailers.trailers["x-checksum"], "ok");
        Ok(())
    });
}

#[test]
fn the_spans_of_a_request_are_one_tree() {
    story("slice-trace", |mesh| {
        let collector = mesh.collector()?;
        let (web, _client, _orders, _server) = pair(mesh)?;
        let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
        let context = format!("00-{trace}-00f067aa0ba902b7-01");
        let answer = web.send(Request::get("http://orders.shop/traced").header("traceparent", &context))?;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let spans = collector.trace(trace, 2)?;
        assert_eq!(spans[0].parent, "00f067aa0ba902b7");
        let last = &spans[spans.len() - 1];
        assert_eq!((last.service.as_str(), last.kind.as_str()), ("orders", "server"), "{spans:?}");
        assert!(spans.iter().any(|span| span.service == "web" && span.kind == "client"), "{spans:?}");
        // The application gets the innermost span as its parent.
        let seen = answer.json()?;
        let parent = seen["headers"]["traceparent"].as_str().unwrap_or_default().to_owned();
        assert!(spans.iter().any(|span| parent.contains(&span.id)), "{parent} is no parent of {spans:?}");
        Ok(())
    });
}

#[test]
fn plaintext_from_outside_the_mesh_is_refused() {
    story("slice-strict", |mesh| {
        let (_web, _client, orders, _server) = pair(mesh)?;
        let outsider = mesh.pod("outsider.shop").start()?;
        let url = format!("http://{}:8080/", orders.ip());
        let answer = outsider.get(&url);
        assert!(!answer.as_ref().is_ok_and(|answer| answer.status == 200), "{answer:?}");
        Ok(())
    });
}
