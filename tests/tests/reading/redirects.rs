//! Redirects go where the route says, and never where the client would like others to be sent.

use anyhow::{Result, ensure};
use weft_testbed::{Gateway, Teller};

use super::raw::{Came, DOOR, Fields, backend, field, fields, route, send, send_http2};

/// Everything that some program takes for the host of a request.
const CLAIMS: [(&str, &str); 14] = [
    ("x-forwarded-host", "evil.test"),
    ("x-forwarded-server", "evil.test"),
    ("x-forwarded-proto", "javascript"),
    ("x-forwarded-port", "31337"),
    ("x-forwarded-prefix", "//evil.test"),
    ("forwarded", "for=1.2.3.4;host=evil.test;proto=ftp"),
    ("x-host", "evil.test"),
    ("x-http-host-override", "evil.test"),
    ("x-original-host", "evil.test"),
    ("x-original-url", "//evil.test/"),
    ("x-rewrite-url", "//evil.test/"),
    ("origin", "http://evil.test"),
    ("referer", "http://evil.test/"),
    ("via", "1.1 evil.test"),
];

/// Paths that a browser could take for another host, or a server for the end of a header, if they came through as they are.
const PATHS: &[&str] = &[
    "/keep/x",
    "//evil.test/",
    "///evil.test/",
    "/keep//evil.test",
    "/old//evil.test",
    "/old///evil.test/..",
    "/old/%2f%2fevil.test",
    "/old/%5c%5cevil.test",
    "/old/..//evil.test",
    "/old/./%2e/evil.test",
    "/root//evil.test",
    "/root/%2fevil.test",
    "/root/%5cevil.test",
    "/root/@evil.test",
    "/root/.evil.test",
    "/root/:80@evil.test",
    "/keep\\evil.test",
    "/\\evil.test",
    "/keep/%0d%0alocation:%20http://evil.test",
    "/keep?%0d%0alocation:%20http://evil.test",
    "/keep?x=//evil.test",
    "/keep#@evil.test",
    "@evil.test/",
    "http://shop.test@evil.test/",
    "http://shop.test:80@evil.test/",
    "http://shop.test/keep/absolute",
    "http://evil.test/keep/absolute",
    "http://shop.test.evil.test/",
    "https://shop.test/keep/other",
];

fn scene() -> Result<(Gateway, Teller)> {
    let teller = Teller::start("origin")?;
    let redirect = |path: &str, rest: &str| {
        format!(
            "matches: [{{path: {{value: {path}}}}}], filters: [{{type: RequestRedirect, requestRedirect: {{{rest}}}}}]"
        )
    };
    let rules = [
        redirect("/", "statusCode: 301"),
        redirect("/old", "path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}"),
        redirect("/root", "path: {type: ReplacePrefixMatch, replacePrefixMatch: /}"),
    ];
    let rest = "backendRefs: [{group: weft.dev, kind: Backend, name: origin}]".to_owned();
    let resources = format!(
        "{DOOR}{}{}{}",
        backend("origin", teller.addr),
        route("shop", "shop.test", &rules),
        route("rest", "", &[rest])
    );
    // The client is a proxy of ours: what it forwards is believed where that is asked for, and never here.
    let trusted = "gateway: {trustedNetworks: [\"127.0.0.0/8\"]}\n";
    Ok((Gateway::start_with_yaml(tempfile::tempdir()?, &resources, trusted)?, teller))
}

/// Why a browser that asked `shop.test` would not stay there, or an intermediary would see more than one header.
fn leaves(came: &Came) -> Option<String> {
    if !(300..400).contains(&came.status) {
        return None;
    }
    let rest = came.location.strip_prefix("http://shop.test:8080/");
    let stays = rest.is_some_and(|rest| !rest.starts_with('/') && !rest.contains(['\\', '\r', '\n', ' ']));
    (!stays).then(|| format!("{came:?}"))
}

#[test]
fn nobody_is_sent_to_another_host() -> Result<()> {
    let (gateway, teller) = scene()?;
    let claims: String = CLAIMS.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let (mut wrong, mut redirected) = (Vec::new(), 0);
    let mut look = |how: &str, path: &str, came: &Came| {
        redirected += usize::from(came.location.starts_with("http://shop.test:8080/"));
        wrong.extend(leaves(came).map(|why| format!("{how} {path}: {why}")));
        if came.status == 200 && came.host == "shop.test" {
            wrong.push(format!("{how} {path}: it was not redirected: {came:?}"));
        }
    };
    let mut requests: Vec<(Fields, Option<&str>)> = Vec::new();
    for path in PATHS {
        for claims in ["", &claims] {
            let said = format!("GET {path} HTTP/1.1\r\nhost: shop.test\r\n{claims}connection: close\r\n\r\n");
            look("HTTP/1.1", path, &send(&gateway, said.as_bytes())?);
        }
        let claimed = CLAIMS.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        requests.push(([fields(path, "shop.test"), claimed.collect()].concat(), None));
    }
    for (path, came) in PATHS.iter().zip(send_http2(&gateway, &requests)?) {
        look("HTTP/2", path, &came);
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    ensure!(redirected > PATHS.len(), "only {redirected} redirects at all");
    // Another host's requests are another's, also where the connection or the URI names both.
    let strays: Vec<String> =
        teller.seen().into_iter().filter(|seen| !field(seen, "host").ends_with("evil.test")).collect();
    ensure!(strays.is_empty(), "{strays:?}");
    Ok(())
}
