//! Failed requests: who failed, told by status, `error.type` and `weft.error`.

use weft_testbed::{Request, Result, Span, story};

use super::shop::{Shop, new_trace, one, traceparent};

/// Sends and returns the status with the spans of the trace, as many as `count`.
fn send(shop: &Shop<'_>, url: &str, count: usize) -> Result<(u16, Vec<Span>)> {
    let trace = new_trace();
    let request = Request::get(url).header("traceparent", &traceparent(&trace, true));
    let answer = shop.pod("browser")?.send(request)?;
    Ok((answer.status.as_u16(), shop.collector.trace(&trace, count)?))
}

fn failure(span: &Span) -> (bool, &str, &str) {
    (span.error, span.attribute("error.type"), span.attribute("weft.error"))
}

#[test]
fn the_applications_errors_are_told_from_each_side() {
    story("failures-app", |mesh| {
        let shop = Shop::pair(mesh, |_| {})?;
        let (status, spans) = send(&shop, "http://echo.shop/status/500", 2)?;
        assert_eq!(status, 500);
        assert_eq!(failure(one(&spans, "browser", "client")?), (true, "500", ""));
        assert_eq!(failure(one(&spans, "echo", "server")?), (true, "500", ""));
        // A server that says "not found" has done its work; its client has not got what it wanted.
        let (status, spans) = send(&shop, "http://echo.shop/status/404", 2)?;
        assert_eq!(status, 404);
        assert_eq!(failure(one(&spans, "browser", "client")?), (true, "404", ""));
        assert_eq!(failure(one(&spans, "echo", "server")?), (false, "", ""));
        Ok(())
    });
}

#[test]
fn the_meshs_own_answers_say_so() {
    story("failures-mesh", |mesh| {
        let shop = Shop::pair(mesh, |_| {})?;
        assert_eq!(send(&shop, "http://echo.shop/", 2)?.0, 200);
        // The application is gone, its sidecar is there, and says so at each of the pod's two addresses; the caller's
        // sidecar tries both.
        shop.stop_app("echo")?;
        let (status, spans) = send(&shop, "http://echo.shop/", 3)?;
        assert_eq!(status, 503);
        let servers: Vec<_> = spans.iter().filter(|span| span.service == "echo").collect();
        assert_eq!(servers.len(), 2, "{spans:?}");
        for server in servers {
            assert_eq!(failure(server), (true, "connect-refused", "connect-refused"));
        }
        assert_eq!(failure(one(&spans, "browser", "client")?), (true, "connect-refused", "connect-refused"));
        // The sidecar is gone as well: the caller's sidecar answers, and there is no server span.
        shop.sidecar("echo")?.kill();
        let (status, spans) = send(&shop, "http://echo.shop/", 1)?;
        assert_eq!((status, spans.len()), (503, 1));
        assert_eq!(failure(one(&spans, "browser", "client")?), (true, "connect-refused", "connect-refused"));
        assert_eq!(spans[0].attribute("http.response.status_code"), "503");
        Ok(())
    });
}

#[test]
fn grpc_status_is_told_in_spans() {
    story("failures-grpc", |mesh| {
        let shop = Shop::chain(mesh, "grpc")?;
        assert_eq!(send(&shop, "http://web.shop/", 6)?.0, 200);
        // Without its database the application answers UNAVAILABLE, in a trailer after HTTP 200.
        shop.pod("redis")?.crash();
        let (status, spans) = send(&shop, "http://web.shop/", 6)?;
        assert_eq!(status, 502);
        for (service, kind) in [("orders", "client"), ("inventory", "server")] {
            let span = one(&spans, service, kind)?;
            assert_eq!(failure(span), (true, "UNAVAILABLE", ""), "{span:?}");
            assert_eq!(span.attribute("rpc.response.status_code"), "UNAVAILABLE");
            assert_eq!(span.attribute("http.response.status_code"), "200");
        }
        // Without the application's pod the mesh answers, in gRPC's way.
        shop.pod("inventory")?.crash();
        let (_, spans) = send(&shop, "http://web.shop/", 5)?;
        let span = one(&spans, "orders", "client")?;
        assert!(span.error && span.attribute("error.type") == span.attribute("weft.error"), "{span:?}");
        assert!(!span.attribute("weft.error").is_empty(), "{span:?}");
        assert_eq!(span.attribute("rpc.response.status_code"), "UNAVAILABLE");
        assert!(spans.iter().all(|span| span.service != "inventory"));
        Ok(())
    });
}
