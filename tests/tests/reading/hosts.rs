//! Hosts: whose a request is, and what the origin is told.

use anyhow::{Result, ensure};
use weft_testbed::{Gateway, Teller};

use super::raw::{Came, DOOR, backend, field, fields, get, route, send, send_http2, told};

/// What a request says of its host, and the rule that it is for with the host that the origin gets; `None`, it is refused.
const HOSTS: &[(&str, Option<(&str, &str)>)] = &[
    ("shop.test", Some(("shop", "shop.test"))),
    ("SHOP.Test", Some(("shop", "shop.test"))),
    ("shop.test.", Some(("shop", "shop.test"))),
    ("shop.test:8080", Some(("shop", "shop.test:8080"))),
    ("shop.test.:8080", Some(("shop", "shop.test:8080"))),
    ("shop.test:1", Some(("shop", "shop.test:1"))),
    ("shop.test:00080", Some(("shop", "shop.test:80"))),
    ("a.wild.test", Some(("wild", "a.wild.test"))),
    ("a.b.WILD.test:80", Some(("wild", "a.b.wild.test:80"))),
    ("wild.test", Some(("any", "wild.test"))),
    ("xshop.test", Some(("any", "xshop.test"))),
    ("shop.test.evil.test", Some(("any", "shop.test.evil.test"))),
    ("127.0.0.1", Some(("any", "127.0.0.1"))),
    ("127.0.0.1:8080", Some(("any", "127.0.0.1:8080"))),
    ("[::1]", Some(("any", "[::1]"))),
    ("[::1]:8080", Some(("any", "[::1]:8080"))),
    ("[0:0:0:0:0:0:0:1]", Some(("any", "[::1]"))),
    ("[2001:DB8::A]:80", Some(("any", "[2001:db8::a]:80"))),
    ("under_score.test", Some(("any", "under_score.test"))),
    ("shop.test..", None),
    ("shop..test", None),
    (".shop.test", None),
    (".", None),
    ("shop.test:0", None),
    ("shop.test:65536", None),
    ("shop.test:80a", None),
    ("shop.test:-80", None),
    ("shop.test:80:80", None),
    ("user@shop.test", None),
    ("evil.test@shop.test", None),
    ("shop.test/admin", None),
    ("shop.test?x", None),
    ("shop.test#x", None),
    ("shop.test\\evil.test", None),
    ("shop.test, evil.test", None),
    ("shop.test evil.test", None),
    ("sh%6fp.test", None),
    ("shop.test%00", None),
    ("[::1", None),
    ("::1", None),
    ("[::1]x", None),
    ("[::1%25eth0]", None),
    ("[127.0.0.1]", None),
    ("*.test", None),
    ("http://shop.test", None),
];

fn scene() -> Result<(Gateway, Teller)> {
    let teller = Teller::start("origin")?;
    let mut resources = format!("{DOOR}{}", backend("origin", teller.addr));
    for (name, host) in [("shop", "shop.test"), ("wild", "*.wild.test"), ("any", "")] {
        resources.push_str(&route(name, host, &[told(name, "origin")]));
    }
    Ok((Gateway::start(tempfile::tempdir()?, &resources)?, teller))
}

fn fits(came: &Came, wanted: Option<(&str, &str)>) -> bool {
    match wanted {
        None => matches!(came.status, 400 | 0) && came.target.is_empty(),
        Some((rule, host)) => came.status == 200 && came.rule == rule && came.host == host,
    }
}

#[test]
fn a_host_has_one_reading() -> Result<()> {
    let (gateway, teller) = scene()?;
    let requests: Vec<_> = HOSTS.iter().map(|(host, _)| (fields("/", host), None)).collect();
    let http2 = send_http2(&gateway, &requests)?;
    ensure!(http2.len() == HOSTS.len(), "{} answers", http2.len());
    let (mut wrong, mut served) = (Vec::new(), 0);
    for ((host, wanted), over_http2) in HOSTS.iter().zip(http2) {
        let alone = get(&gateway, b"/", host)?;
        // The URI's host counts, whatever stands beside it (RFC 9112 section 3.2.2).
        let absolute = format!("http://{host}/");
        let absolute = get(&gateway, absolute.as_bytes(), host)?;
        for (how, came) in [("HTTP/1.1", alone), ("absolute-form", absolute), ("HTTP/2", over_http2)] {
            served += usize::from(came.status == 200);
            // As a part of a URI these end the host, and something else begins.
            let ends_host = how == "absolute-form"
                && (host.contains(['/', '?', '#', '@', '\\', ' ']) || host.starts_with("http"));
            if !fits(&came, *wanted) && !ends_host {
                wrong.push(format!("{how} {host:?} wants {wanted:?}: {came:?}"));
            }
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    ensure!(
        teller.seen().len() == served,
        "the origin saw {}, and {served} were answered",
        teller.seen().len()
    );
    Ok(())
}

/// Requests with more than one host, or none, and whose they are.
const SEVERAL: &[(&str, Option<(&str, &str)>)] = &[
    ("GET / HTTP/1.1\r\n\r\n", None),
    ("GET / HTTP/1.1\r\nhost:\r\n\r\n", None),
    ("GET / HTTP/1.1\r\nhost: shop.test\r\nhost: shop.test\r\n\r\n", None),
    ("GET / HTTP/1.1\r\nhost: shop.test\r\nHost: evil.test\r\n\r\n", None),
    ("GET / HTTP/1.1\r\nhost : shop.test\r\n\r\n", None),
    ("GET / HTTP/1.1\r\n host: shop.test\r\n\r\n", None),
    ("GET / HTTP/1.1\r\nhost: shop.test\r\n evil.test\r\n\r\n", None),
    ("GET / HTTP/1.1\r\nhost:\tshop.test \r\nconnection: close\r\n\r\n", Some(("shop", "shop.test"))),
    ("GET http://shop.test/ HTTP/1.1\r\n\r\n", None),
    // Where the two differ, nobody downstream may read the other one: it is gone, or the request is.
    (
        "GET http://shop.test/ HTTP/1.1\r\nhost: evil.test\r\nconnection: close\r\n\r\n",
        Some(("shop", "shop.test")),
    ),
    (
        "GET http://evil.test/ HTTP/1.1\r\nhost: shop.test\r\nconnection: close\r\n\r\n",
        Some(("any", "evil.test")),
    ),
    (
        "GET http://shop.test:81/ HTTP/1.1\r\nhost: shop.test\r\nconnection: close\r\n\r\n",
        Some(("shop", "shop.test:81")),
    ),
    ("GET / HTTP/1.0\r\nhost: SHOP.test\r\n\r\n", Some(("shop", "shop.test"))),
    (
        "GET / HTTP/1.1\r\nhost: shop.test\r\nx-forwarded-host: evil.test\r\nforwarded: host=evil.test\r\nconnection: close\r\n\r\n",
        Some(("shop", "shop.test")),
    ),
];

#[test]
fn a_request_has_one_host() -> Result<()> {
    let (gateway, teller) = scene()?;
    let mut wrong = Vec::new();
    for (request, wanted) in SEVERAL {
        let came = send(&gateway, request.as_bytes())?;
        if !fits(&came, *wanted) {
            wrong.push(format!("{request:?} wants {wanted:?}: {came:?}"));
        }
    }
    // What the origin is told beside its host is the gateway's.
    let others = |seen: &String| !field(seen, "host").starts_with("evil.test") && seen.contains("evil.test");
    wrong.extend(
        teller
            .seen()
            .into_iter()
            .filter(others)
            .map(|seen| format!("the origin is told of another host: {seen}")),
    );
    let own = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let several = [
        ("another host beside it", [fields("/", "shop.test"), vec![own("host", "evil.test")]].concat()),
        ("two authorities", [vec![own(":authority", "evil.test")], fields("/", "shop.test")].concat()),
        ("two paths", [vec![own(":path", "/x")], fields("/", "shop.test")].concat()),
        ("none", fields("/", "shop.test").into_iter().filter(|(name, _)| name != ":authority").collect()),
        ("an authority behind headers", [vec![own("x", "y")], fields("/", "shop.test")].concat()),
    ];
    let requests: Vec<_> = several.iter().map(|(_, fields)| (fields.clone(), None)).collect();
    for ((what, _), came) in several.iter().zip(send_http2(&gateway, &requests)?) {
        if came.status == 200 || !came.target.is_empty() {
            wrong.push(format!("HTTP/2, {what}: {came:?}"));
        }
    }
    // The same said twice is one host (RFC 9113 section 8.3.1 has a server compare the two).
    let same = [fields("/", "shop.test"), vec![own("host", "shop.test")]].concat();
    let came = send_http2(&gateway, &[(same, None)])?;
    ensure!(
        came.len() == 1
            && came.iter().all(|came| came.status == 400 || fits(came, Some(("shop", "shop.test")))),
        "{came:?}"
    );
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}
