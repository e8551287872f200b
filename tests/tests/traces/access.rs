//! Access log lines: JSON, and they name the same trace and span as the collector has.

use weft_testbed::{Request, story};

use super::shop::{Shop, new_trace, one, traceparent};

#[test]
fn log_lines_lead_to_their_spans() {
    story("access", |mesh| {
        let shop = Shop::pair(mesh, |_| {})?;
        let trace = new_trace();
        // What would break a line that is put together by hand.
        let path = "/a%22b%5C/%0A/7";
        let request = Request::post(&format!("http://echo.shop{path}?token=4711"), "twelve bytes")
            .header("traceparent", &traceparent(&trace, true))
            .header("user-agent", "quote \" and \\ backslash")
            .header("x-request-id", "a-request");
        assert_eq!(shop.pod("browser")?.send(request)?.status, 200);
        let spans = shop.collector.trace(&trace, 2)?;
        let sides = [("browser", "client", "outbound"), ("echo", "server", "inbound")];
        for (name, kind, direction) in sides {
            let line = shop.lines(name, path, 1)?.remove(0);
            let span = one(&spans, name, kind)?;
            let text = |field: &str| line[field].as_str().unwrap_or_default().to_owned();
            assert_eq!((text("trace_id"), text("span_id")), (trace.clone(), span.id.clone()), "{line}");
            assert_eq!((text("direction"), text("method")), (direction.to_owned(), "POST".to_owned()));
            assert_eq!(text("user_agent"), "quote \" and \\ backslash");
            assert_eq!((text("request_id"), text("tls")), ("a-request".to_owned(), "mutual".to_owned()));
            assert_eq!(text("source_identity"), "spiffe://weft.local/ns/shop/sa/browser");
            assert_eq!(text("destination_identity"), "spiffe://weft.local/ns/shop/sa/echo");
            assert_eq!((line["status"].as_u64(), line["sent_bytes"].as_u64()), (Some(200), Some(12)));
            assert_eq!((line["sampled"].as_bool(), line.get("error")), (Some(true), None));
            assert!(!shop.sidecar(name)?.log().contains("4711"), "a query string is in the log");
        }
        Ok(())
    });
}

#[test]
fn failures_are_logged_with_their_code() {
    story("access-failure", |mesh| {
        let shop = Shop::pair(mesh, |_| {})?;
        shop.stop_app("echo")?;
        shop.sidecar("echo")?.kill();
        let answer = shop.pod("browser")?.get("http://echo.shop/lost")?;
        assert_eq!(answer.status, 503);
        let line = shop.lines("browser", "/lost", 1)?.remove(0);
        assert_eq!((line["status"].as_u64(), line["error"].as_str()), (Some(503), Some("connect-refused")));
        Ok(())
    });
}
