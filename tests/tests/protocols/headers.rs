//! Headers between hops: what concerns one connection only goes, what tells who calls is the mesh's own.

use anyhow::Result;
use serde_json::Value;
use weft_testbed::{Mesh, Request, story};

use super::pair::{APP, Pair, header, serve};

const CLIENT: &str = "spiffe://weft.local/ns/shop/sa/client";
const SERVER: &str = "spiffe://weft.local/ns/shop/sa/app";

fn echo(mesh: &Mesh) -> Result<Pair> {
    let pair = Pair::new(mesh, &[8080, 8081, 8082])?;
    pair.server.app(8080)?;
    pair.server.app_of("raw", 8081)?;
    Ok(pair)
}

/// What the application saw of a request with these headers.
fn seen(pair: &Pair, headers: &[(&str, &str)], http2: bool) -> Result<Value> {
    let mut request = Request::get(&format!("http://{APP}:8080/"));
    for (name, value) in headers {
        request = request.header(name, value);
    }
    let request = if http2 { request.http2() } else { request };
    Ok(pair.client.send(request)?.json()?["headers"].take())
}

#[test]
fn hop_by_hop_headers_end_at_the_hop_both_ways() {
    story("proto-hop", |mesh| {
        let pair = Pair::new(mesh, &[8082])?;
        let server = serve(&pair.server, 8082, async |mut wire| {
            let head = wire.head().await?;
            wire.say(
                "HTTP/1.1 200 OK\r\nconnection: keep-alive, X-Inner\r\nkeep-alive: timeout=5\r\nx-inner: 1\r\n\
                 proxy-connection: keep-alive\r\nupgrade: h2c\r\nx-outer: 2\r\nweft-wire: 2\r\n\
                 weft-upgrade: x\r\ncontent-length: 0\r\n\r\n",
            )
            .await?;
            Ok(head)
        })?;
        let answer = pair.ask(
            8082,
            &format!(
                "GET / HTTP/1.1\r\nhost: {APP}\r\nconnection: keep-alive, X-Inner, x-forwarded-client-cert\r\n\
                 keep-alive: timeout=5\r\nx-inner: 1\r\nproxy-connection: keep-alive\r\nte: gzip\r\n\
                 weft-wire: 2\r\nweft-upgrade: x\r\nx-outer: 2\r\n\r\n"
            ),
        )?;
        let request = server.join()?;
        for (side, head) in [("request", &request), ("answer", &answer)] {
            for gone in
                ["keep-alive", "x-inner", "proxy-connection", "te", "upgrade", "weft-wire", "weft-upgrade"]
            {
                assert_eq!(header(head, gone), None, "{side}: {head}");
            }
            assert_eq!(header(head, "x-outer"), Some("2"), "{side}: {head}");
            assert!(!head.contains("X-Inner"), "{side}: {head}");
        }
        // A client cannot have the mesh's own header removed by listing it.
        assert!(header(&request, "x-forwarded-client-cert").is_some(), "{request}");
        Ok(())
    });
}

#[test]
fn the_h2c_upgrade_is_not_passed_on() {
    story("proto-h2c-upgrade", |mesh| {
        let pair = echo(mesh)?;
        let answer = pair.ask(
            8081,
            &format!(
                "GET /head HTTP/1.1\r\nhost: {APP}\r\nconnection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\n\
                 http2-settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n"
            ),
        )?;
        // RFC 9113 section 3.1 deprecates it: the request is served as the HTTP/1.1 that it is.
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        let lower = answer.to_ascii_lowercase();
        assert!(!lower.contains("h2c") && !lower.contains("http2-settings"), "{answer}");
        let curl = pair.curl(&["--http2", &format!("http://{APP}:8080/")])?;
        assert_eq!(serde_json::from_str::<Value>(&curl)?["version"], "HTTP/1.1");
        Ok(())
    });
}

#[test]
fn the_application_learns_who_calls_and_cannot_be_told_lies() {
    story("proto-xfcc", |mesh| {
        let pair = echo(mesh)?;
        let lie = "URI=spiffe://weft.local/ns/bank/sa/admin";
        let expected = format!("By={SERVER};URI={CLIENT}");
        for http2 in [false, true] {
            let honest = seen(&pair, &[], http2)?;
            assert_eq!(honest["x-forwarded-client-cert"], expected, "{honest}");
            let lies = [("x-forwarded-client-cert", lie), ("X-Forwarded-Client-Cert", lie)];
            let replaced = seen(&pair, &lies, http2)?;
            assert_eq!(replaced["x-forwarded-client-cert"], expected, "{replaced}");
            assert_eq!(honest["x-forwarded-proto"], "http", "{honest}");
        }
        Ok(())
    });
}

#[test]
fn a_call_is_one_step_of_the_forwarded_addresses() {
    story("proto-xff", |mesh| {
        let pair = echo(mesh)?;
        let (v4, v6) = (pair.client.v4(), pair.client.v6());
        let own = [v4.map(|ip| ip.to_string()), v6.map(|ip| ip.to_string())].map(Option::unwrap_or_default);
        for http2 in [false, true] {
            let first = seen(&pair, &[], http2)?;
            let address = first["x-forwarded-for"].as_str().unwrap_or_default();
            assert!(own.contains(&address.to_owned()), "{first}");
            let later = seen(&pair, &[("x-forwarded-for", "192.0.2.1")], http2)?;
            let list = later["x-forwarded-for"].as_str().unwrap_or_default().to_owned();
            assert!(own.iter().any(|own| list == format!("192.0.2.1, {own}")), "{later}");
        }
        Ok(())
    });
}

#[test]
fn a_request_has_one_id_on_all_its_way() {
    story("proto-request-id", |mesh| {
        let pair = echo(mesh)?;
        for http2 in [false, true] {
            let kept = seen(&pair, &[("x-request-id", "mine-1")], http2)?;
            assert_eq!(kept["x-request-id"], "mine-1");
            let (first, second) = (seen(&pair, &[], http2)?, seen(&pair, &[], http2)?);
            let ids = [&first["x-request-id"], &second["x-request-id"]].map(|id| id.as_str().unwrap_or(""));
            // One, of 32 hexadecimal digits: `map` of the echo would have joined two by a comma.
            assert!(
                ids.iter().all(|id| id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit())),
                "{ids:?}"
            );
            assert_ne!(ids[0], ids[1]);
        }
        Ok(())
    });
}

/// The mark that a request on a link has for an upgrade, from an application: it is taken away, and the body stays.
#[test]
fn an_applications_mark_means_nothing() {
    story("proto-mark", |mesh| {
        let pair = Pair::new(mesh, &[8080])?;
        pair.server.app(8080)?;
        let url = format!("http://{APP}:8080/x");
        for version in ["--http1.1", "--http2-prior-knowledge"] {
            let seen = pair.curl(&[version, "-H", "weft-upgrade: websocket", "-d", "body", &url])?;
            let seen: Value = serde_json::from_str(&seen)?;
            assert_eq!(seen["body"], "body", "{version}: {seen}");
            assert!(seen["headers"].get("weft-upgrade").is_none(), "{version}: {seen}");
        }
        Ok(())
    });
}
