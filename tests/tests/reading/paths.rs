//! Paths: what routes match on is what the origin gets.

use anyhow::{Result, ensure};
use weft_testbed::{Gateway, Teller};

use super::raw::{Came, DOOR, backend, fields, get, route, send, send_http2, told};

/// The path `/x%41y` in the form that the documentation gives it (`docs/design/routes.md`): `None`, it is refused.
fn form(code: u8) -> Option<String> {
    match code {
        0..=0x1f | 0x7f => None,
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
            Some(format!("/x{}y", char::from(code)))
        }
        _ => Some(format!("/x%{code:02X}y")),
    }
}

/// For each form a rule of its own, which its answers name, and one for everything else.
fn each_form() -> Result<(Gateway, Teller)> {
    let teller = Teller::start("origin")?;
    let mut resources = format!("{DOOR}{}", backend("origin", teller.addr));
    let forms: Vec<(u8, String)> = (0..=255).filter_map(|code| Some((code, form(code)?))).collect();
    // A route has 16 rules at the most.
    for (at, some) in forms.chunks(16).enumerate() {
        let rules: Vec<String> = some
            .iter()
            .map(|(code, form)| {
                // A `path.value` that is no expression must not have an encoded slash (HTTPPathMatch, "value").
                let kind = if *code == b'/' { "RegularExpression" } else { "Exact" };
                format!(
                    "matches: [{{path: {{type: {kind}, value: \"{form}\"}}}}], {}",
                    told(&format!("{code:02x}"), "origin")
                )
            })
            .collect();
        resources.push_str(&route(&format!("codes-{at}"), "", &rules));
    }
    resources.push_str(&route("rest", "", &[told("rest", "origin")]));
    Ok((Gateway::start(tempfile::tempdir()?, &resources)?, teller))
}

#[test]
fn every_code_is_read_as_it_is_sent_on() -> Result<()> {
    let (gateway, teller) = each_form()?;
    let spellings = |code: u8| [format!("/x%{code:02x}y"), format!("/x%{code:02X}y")];
    let codes: Vec<(u8, String)> =
        (0..=255).flat_map(|code| spellings(code).map(|path| (code, path))).collect();
    let http1: Vec<Came> =
        codes.iter().map(|(_, path)| get(&gateway, path.as_bytes(), "a.test")).collect::<Result<_>>()?;
    let requests: Vec<_> = codes.iter().map(|(_, path)| (fields(path, "a.test"), None)).collect();
    let http2 = send_http2(&gateway, &requests)?;
    let mut wrong = Vec::new();
    let mut served = 0;
    for (version, all) in [("HTTP/1.1", http1), ("HTTP/2", http2)] {
        ensure!(all.len() == codes.len(), "{version}: {} answers", all.len());
        for ((code, path), came) in codes.iter().zip(all) {
            let fine = match form(*code) {
                None => came.status == 400 && came.target.is_empty(),
                Some(form) => came.status == 200 && came.target == form && came.rule == format!("{code:02x}"),
            };
            served += usize::from(came.status == 200);
            if !fine {
                wrong.push(format!("{version} {path}: {came:?}"));
            }
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    ensure!(
        teller.seen().len() == served,
        "the origin saw {} requests, and {served} were answered",
        teller.seen().len()
    );
    Ok(())
}

/// Which of the rules for `/`, `/public` and `/admin` a path is for, as a program reads it that knows nothing of forms.
fn rule(path: &str) -> &'static str {
    let path = path.split('?').next().unwrap_or_default();
    let is =
        |prefix: &str| path == prefix || path.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('/'));
    match () {
        () if is("/admin") => "admin",
        () if is("/public") => "public",
        () => "root",
    }
}

/// Targets, and what the origin gets; `None`, they are refused. Those that no client of HTTP/2 could mean are for HTTP/1.1 alone.
const TARGETS: &[(&[u8], Option<&str>)] = &[
    (b"/", Some("/")),
    (b"//", Some("/")),
    (b"//admin", Some("/admin")),
    (b"/public//admin", Some("/public/admin")),
    (b"///public///x//", Some("/public/x/")),
    (b"/.", Some("/")),
    (b"/./admin", Some("/admin")),
    (b"/public/.", Some("/public/")),
    (b"/public/./x", Some("/public/x")),
    (b"/public/../admin", Some("/admin")),
    (b"/public/..", Some("/")),
    (b"/public/x/../../admin/", Some("/admin/")),
    (b"/public//../admin", Some("/admin")),
    (b"/public/%2e%2e/admin", Some("/admin")),
    (b"/public/%2E./admin", Some("/admin")),
    (b"/public/.%2e/admin", Some("/admin")),
    (b"/%70ublic/x", Some("/public/x")),
    (b"/%61dmin", Some("/admin")),
    (b"/%2561dmin", Some("/%2561dmin")),
    (b"/public/%252e%252e/admin", Some("/public/%252e%252e/admin")),
    (b"/public/...", Some("/public/...")),
    (b"/public/.a/..b", Some("/public/.a/..b")),
    (b"/admin;x", Some("/admin;x")),
    (b"/public;v=1/x;y", Some("/public;v=1/x;y")),
    (b"/;/admin", Some("/;/admin")),
    (b"/public%2Fadmin", Some("/public%2Fadmin")),
    (b"/public%5cadmin", Some("/public%5Cadmin")),
    (b"/admin%20", Some("/admin%20")),
    (b"/ADMIN", Some("/ADMIN")),
    (b"/a{b}|", Some("/a%7Bb%7D%7C")),
    (b"?x", Some("/?x")),
    (b"/\xc3\xbc", Some("/%C3%BC")),
    (b"/%c3%bc", Some("/%C3%BC")),
    (b"/public?/../admin", Some("/public?/../admin")),
    (b"/public?q=%2e%2E&r=//", Some("/public?q=%2e%2E&r=//")),
    (b"/public/?", Some("/public/?")),
    (b"/public/../admin?x=/./", Some("/admin?x=/./")),
    (b"/public?a?b", Some("/public?a?b")),
    (b"/..", None),
    (b"/../admin", None),
    (b"/public/../../admin", None),
    (b"/%2e%2e/admin", None),
    (b"/public/..%2fadmin", None),
    (b"/public/..%2Fadmin", None),
    (b"/public/..%5cadmin", None),
    (b"/public/%2e%2e%2fadmin", None),
    (b"/public/x%2f..%2f..%2fadmin", None),
    (b"/public/..;/admin", None),
    (b"/public/..;x=1/admin", None),
    (b"/public/..%3b/admin", None),
    (b"/public/.;/admin", None),
    (b"/public/..\\admin", None),
    (b"/public\\admin", None),
    (b"\\admin", None),
    (b"/%", None),
    (b"/%4", None),
    (b"/%zz", None),
    (b"/%u002e", None),
    (b"/public/%00/admin", None),
    (b"/admin%0a", None),
    (b"/admin%0d%0ax:%20y", None),
    (b"/admin%09", None),
    (b"/admin\x7f", None),
    (b"/adm\x01in", None),
    (b"admin", None),
    (b"*", None),
];

/// Targets for HTTP/2 alone: a fragment is cut off while the head is read, for routes and for the origin.
const OF_HTTP2: &[(&[u8], Option<&str>)] =
    &[(b"/admin#x", Some("/admin")), (b"/public?x#y", Some("/public?x"))];

/// Targets for HTTP/1.1 alone: a URI, what breaks its line, and what no `:path` can have.
const URIS: &[(&[u8], Option<&str>)] = &[
    (b"http://a.test/admin", Some("/admin")),
    (b"http://a.test/public/../admin?q", Some("/admin?q")),
    (b"HTTP://A.test//public", Some("/public")),
    (b"http://a.test", Some("/")),
    (b"http://a.test?q", Some("/?q")),
    (b"http://a.test:8080/admin", Some("/admin")),
    (b"http://a.test/..", None),
    (b"http:///admin", None),
    (b"http:/admin", None),
    (b"http://user@a.test/admin", None),
    (b"a.test/admin", None),
    (b"a.test:80", None),
    (b"/a^\"<>`", Some("/a%5E%22%3C%3E%60")),
    (b"/admin#x", None),
    (b"/public?x#y", None),
    (b"/ad min", None),
    (b"/admin\t", None),
    (b"/admin\0", None),
    (b"/admin\r", None),
    (b"", None),
];

#[test]
fn routes_see_the_path_that_the_origin_gets() -> Result<()> {
    let teller = Teller::start("origin")?;
    let rules = [
        format!("matches: [{{path: {{value: /admin}}}}], {}", told("admin", "origin")),
        format!("matches: [{{path: {{value: /public}}}}], {}", told("public", "origin")),
        told("root", "origin"),
    ];
    let resources = format!("{DOOR}{}{}", backend("origin", teller.addr), route("all", "", &rules));
    let gateway = Gateway::start(tempfile::tempdir()?, &resources)?;
    let latin = |octets: &[u8]| octets.iter().copied().map(char::from).collect::<String>();
    let of_http1 = TARGETS.iter().chain(URIS);
    let http1: Vec<_> = of_http1
        .map(|(target, form)| Ok((*target, *form, get(&gateway, target, "a.test")?)))
        .collect::<Result<_>>()?;
    let requests: Vec<_> =
        TARGETS.iter().chain(OF_HTTP2).map(|(target, _)| (fields(&latin(target), "a.test"), None)).collect();
    let answers = send_http2(&gateway, &requests)?;
    ensure!(answers.len() == requests.len(), "{} answers", answers.len());
    let http2: Vec<_> = TARGETS
        .iter()
        .chain(OF_HTTP2)
        .zip(answers)
        .map(|((target, form), came)| (*target, *form, came))
        .collect();
    let (mut wrong, mut served) = (Vec::new(), 0);
    for (version, all) in [("HTTP/1.1", http1), ("HTTP/2", http2)] {
        for (target, form, came) in all {
            let fine = match form {
                // HTTP/2 has a stream ended for what is malformed (RFC 9113 section 8.1.1). In HTTP/1.1 a space makes what follows the version.
                None => {
                    (matches!(came.status, 400 | 505) || version == "HTTP/2" && came.status == 0)
                        && came.target.is_empty()
                }
                Some(form) => came.status == 200 && came.target == form && came.rule == rule(&came.target),
            };
            served += usize::from(came.status == 200);
            if !fine {
                wrong.push(format!("{version} {:?} wants {form:?}: {came:?}", latin(target)));
            }
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    ensure!(
        teller.seen().len() == served,
        "the origin saw {}, and {served} were answered",
        teller.seen().len()
    );
    // About the server as a whole (RFC 9110 section 9.3.7): the one form of that is its root.
    let came = send(&gateway, b"OPTIONS * HTTP/1.1\r\nhost: a.test\r\nconnection: close\r\n\r\n")?;
    ensure!(came.status == 200 && came.target == "/" && came.rule == "root", "{came:?}");
    Ok(())
}
