//! A request through four pods, three hops, two protocols.

use std::collections::BTreeMap;

use weft_testbed::{Request, Result, Span, story};

use super::shop::{CALLER, Shop, new_trace, traceparent};

/// What a span has to say.
fn check(span: &Span, expected: &[(&str, &str)]) {
    let seen: BTreeMap<&str, &str> = expected.iter().map(|(name, _)| (*name, span.attribute(name))).collect();
    let expected: BTreeMap<&str, &str> = expected.iter().copied().collect();
    assert_eq!(seen, expected, "{} {} {}", span.service, span.kind, span.name);
    assert!(span.start <= span.end && span.start > 0, "{span:?}");
    assert!(!span.error, "{span:?}");
    assert_eq!(span.attribute("error.type"), "", "{span:?}");
}

fn id(account: &str) -> String {
    format!("spiffe://weft.local/ns/shop/sa/{account}")
}

/// The six spans, each below the one before.
fn check_tree(shop: &Shop<'_>, spans: &[Span]) -> Result<()> {
    let line: Vec<(&str, &str, &str)> =
        spans.iter().map(|s| (s.service.as_str(), s.kind.as_str(), s.name.as_str())).collect();
    let reserve = "shop.Inventory/Reserve";
    assert_eq!(
        line,
        [
            ("browser", "client", "GET"),
            ("web", "server", "GET"),
            ("web", "client", "GET"),
            ("orders", "server", "GET"),
            ("orders", "client", reserve),
            ("inventory", "server", reserve),
        ]
    );
    for pair in spans.windows(2) {
        assert_eq!(pair[1].parent, pair[0].id, "{pair:?}");
    }
    for span in spans {
        assert_eq!(span.resource["service.namespace"], "shop");
        assert_eq!(span.resource["service.instance.id"], span.service);
        assert!(!span.resource["weft.version"].is_empty() && !span.resource["host.name"].is_empty());
    }
    check_grpc(spans);
    check_http(shop, spans)
}

fn check_http(shop: &Shop<'_>, spans: &[Span]) -> Result<()> {
    let of = |name: &str| -> Result<Vec<String>> {
        Ok(shop.pod(name)?.addresses().iter().map(ToString::to_string).collect())
    };
    let (source, destination) = (id("browser"), id("web"));
    let both = [
        ("http.request.method", "GET"),
        ("http.response.status_code", "200"),
        ("url.path", "/checkout/7"),
        ("url.scheme", "http"),
        ("network.protocol.name", "http"),
        ("network.protocol.version", "1.1"),
        ("http.request.body.size", "0"),
        ("user_agent.original", "a browser"),
        ("weft.source.identity", source.as_str()),
        ("weft.destination.identity", destination.as_str()),
        ("server.port", "80"),
        ("rpc.system.name", ""),
    ];
    check(&spans[0], &both);
    check(&spans[1], &both);
    // The caller knows the service by its whole name; the callee by what the request says.
    check(&spans[0], &[("server.address", "web.shop.svc.cluster.local"), ("network.peer.port", "8080")]);
    assert!(of("web")?.contains(&spans[0].attribute("network.peer.address").to_owned()), "{:?}", spans[0]);
    check(&spans[1], &[("server.address", "web.shop")]);
    assert!(
        of("browser")?.contains(&spans[1].attribute("network.peer.address").to_owned()),
        "{:?}",
        spans[1]
    );
    assert!(spans[0].attribute("http.response.body.size").parse::<u64>()? > 0);
    Ok(())
}

fn check_grpc(spans: &[Span]) {
    let (source, destination) = (id("orders"), id("inventory"));
    let both = [
        ("http.request.method", "POST"),
        ("http.response.status_code", "200"),
        ("url.path", "/shop.Inventory/Reserve"),
        ("network.protocol.version", "2"),
        ("rpc.system.name", "grpc"),
        ("rpc.method", "shop.Inventory/Reserve"),
        ("rpc.response.status_code", "OK"),
        ("server.port", "50051"),
        ("weft.source.identity", source.as_str()),
        ("weft.destination.identity", destination.as_str()),
    ];
    check(&spans[4], &both);
    check(&spans[5], &both);
    check(&spans[4], &[("server.address", "inventory.shop.svc.cluster.local")]);
    check(&spans[5], &[("server.address", "inventory.shop")]);
    // Length-prefixed messages: five octets, then the name `tea` as a protobuf field.
    check(&spans[4], &[("http.request.body.size", "10")]);
}

fn tell(label: &str, protocol: &str) {
    story(label, |mesh| {
        let shop = Shop::chain(mesh, protocol)?;
        let checkout =
            || Request::get("http://web.shop/checkout/7?card=4711").header("user-agent", "a browser");

        // Nobody has begun a trace: the first sidecar does.
        let answer = shop.pod("browser")?.send(checkout())?;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let line = shop.lines("browser", "/checkout/7", 1)?.remove(0);
        let spans = shop.collector.trace(line["trace_id"].as_str().unwrap_or_default(), 6)?;
        assert_eq!(spans[0].parent, "");
        check_tree(&shop, &spans)?;

        // The client has: its trace is continued.
        let trace = new_trace();
        let continued = checkout().header("traceparent", &traceparent(&trace, true));
        assert_eq!(shop.pod("browser")?.send(continued)?.status, 200);
        let spans = shop.collector.trace(&trace, 6)?;
        assert_eq!(spans[0].parent, CALLER);
        check_tree(&shop, &spans)?;

        // Query strings carry tokens and cards: nowhere in a span.
        let all = format!("{:?}", shop.collector.spans()?);
        assert!(all.contains("/checkout/7") && !all.contains("4711"));
        Ok(())
    });
}

#[test]
fn one_request_is_one_tree_by_otlp_grpc() {
    tell("tree-grpc", "grpc");
}

#[test]
fn one_request_is_one_tree_by_otlp_http() {
    tell("tree-http", "http");
}

/// The applications hand on what they get; with B3 from the client that is B3 and `traceparent`, and both say the same.
#[test]
fn b3_from_the_client_joins_the_same_tree() {
    story("tree-b3", |mesh| {
        let shop = Shop::chain(mesh, "grpc")?;
        let browser = shop.pod("browser")?;
        let single = new_trace();
        let request = Request::get("http://web.shop/b3").header("b3", &format!("{single}-{CALLER}-1"));
        assert_eq!(browser.send(request)?.status, 200);
        let multi = new_trace();
        let request = Request::get("http://web.shop/b3")
            .header("x-b3-traceid", &multi)
            .header("x-b3-spanid", CALLER)
            .header("x-b3-sampled", "1");
        assert_eq!(browser.send(request)?.status, 200);
        for trace in [single, multi] {
            let spans = shop.collector.trace(&trace, 6)?;
            assert_eq!((spans.len(), spans[0].parent.as_str()), (6, CALLER));
            for pair in spans.windows(2) {
                assert_eq!(pair[1].parent, pair[0].id, "{pair:?}");
            }
        }
        Ok(())
    });
}
