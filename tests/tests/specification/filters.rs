//! HTTPRoute: what filters do to requests and answers. CORS has a table of its own.

use anyhow::{Result, ensure};
use weft_testbed::eventually;

use super::scene::{Scene, WEB, gateway, http_route};
use super::table::{PATIENCE, Row, Version, hold};

const HEADERS: &str = r#"
  hostnames: [headers.test]
  rules:
  - matches: [{path: {value: /request}}]
    filters:
    - type: RequestHeaderModifier
      requestHeaderModifier:
        set: [{name: My-Set, value: bar}, {name: x-new, value: set}]
        add: [{name: my-add, value: "bar,baz"}]
        remove: [MY-REMOVE, my-third]
    backendRefs: [{name: one, port: 80}]
  - matches: [{path: {value: /answer}}]
    filters:
    - type: ResponseHeaderModifier
      responseHeaderModifier:
        set: [{name: X-Set, value: bar}]
        add: [{name: x-add, value: "bar,baz"}]
        remove: [Content-Type]
    backendRefs: [{name: one, port: 80}]
  - matches: [{path: {value: /same}}]
    filters:
    - type: RequestHeaderModifier
      requestHeaderModifier: {set: [{name: x-same, value: first}, {name: X-Same, value: second}]}
    backendRefs: [{name: one, port: 80}]
  - matches: [{path: {value: /backend}}]
    backendRefs:
    - name: one
      port: 80
      filters:
      - {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-of, value: backend}]}}
      - {type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: x-of, value: backend}]}}
  - matches: [{path: {value: /moved}}]
    filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: x-told, value: rule}]}}]
    backendRefs:
    - {name: one, port: 80, filters: [{type: RequestRedirect, requestRedirect: {hostname: moved.test, statusCode: 307}}]}
"#;

const OF_HEADERS: &[Row] = &[
    (
        "requestHeaderModifier.set",
        "GET headers.test/request | my-set: foo",
        "200 one | >my-set: bar | >x-new: set",
    ),
    (
        "requestHeaderModifier.set, of several lines",
        "GET headers.test/request | my-set: foo | MY-SET: x",
        "200 one | >my-set: bar",
    ),
    ("requestHeaderModifier.add", "GET headers.test/request | my-add: foo", "200 one | >my-add: foo,bar,baz"),
    ("requestHeaderModifier.add", "GET headers.test/request", "200 one | >my-add: bar,baz"),
    (
        "requestHeaderModifier.remove",
        "GET headers.test/request | My-Remove: foo | my-second: bar | MY-THIRD: baz",
        "200 one | >!my-remove | >my-second: bar | >!my-third",
    ),
    (
        "requestHeaderModifier[].name twice: the first",
        "GET headers.test/same | x-same: client",
        "200 one | >x-same: first",
    ),
    (
        "responseHeaderModifier",
        "GET headers.test/answer",
        "200 one | x-set: bar | x-add: bar,baz | !content-type",
    ),
    ("responseHeaderModifier, on answers alone", "GET headers.test/answer", "200 one | >!x-set | >!x-add"),
    ("backendRefs[].filters", "GET headers.test/backend", "200 one | >x-of: backend | x-of: backend"),
    (
        "backendRefs[].filters, a redirect",
        "GET headers.test/moved",
        "307 | location: http://moved.test:8080/moved | x-told: rule",
    ),
];

/// The table of `replacePrefixMatch`: the rule's prefix, what takes its place, and the request and its modified path.
const PREFIXES: [(&str, &str, &str, &str); 11] = [
    ("/foo", "/xyz", "/foo/bar", "/xyz/bar"),
    ("/foo", "/xyz/", "/foo/bar", "/xyz/bar"),
    ("/foo/", "/xyz", "/foo/bar", "/xyz/bar"),
    ("/foo/", "/xyz/", "/foo/bar", "/xyz/bar"),
    ("/foo", "/xyz", "/foo", "/xyz"),
    ("/foo", "/xyz", "/foo/", "/xyz/"),
    ("/foo", "", "/foo/bar", "/bar"),
    ("/foo", "", "/foo/", "/"),
    ("/foo", "", "/foo", "/"),
    ("/foo", "/", "/foo/", "/"),
    ("/foo", "/", "/foo", "/"),
];

const REWRITES: &str = r#"
  hostnames: [rewrite.test]
  rules:
  - matches: [{path: {value: /full}}]
    filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplaceFullPath, replaceFullPath: /one/path}}}]
    backendRefs: [{name: one, port: 80}]
  - matches: [{path: {value: /host}}]
    filters: [{type: URLRewrite, urlRewrite: {hostname: inner.test}}]
    backendRefs: [{name: one, port: 80}]
  - matches: [{path: {value: /both}}]
    filters: [{type: URLRewrite, urlRewrite: {hostname: inner.test, path: {type: ReplacePrefixMatch, replacePrefixMatch: /in}}}]
    backendRefs: [{name: one, port: 80}]
  - matches: [{path: {value: /with}}]
    filters:
    - {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-seen, value: filter}]}}
    - {type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /all}}}
    - {type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: x-told, value: filter}]}}
    backendRefs: [{name: one, port: 80}]
  - filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /root}}}]
    backendRefs: [{name: two, port: 80}]
"#;

const OF_REWRITES: &[Row] = &[
    ("urlRewrite.path ReplaceFullPath", "GET rewrite.test/full/a?q=1", "200 one | >GET /one/path?q=1"),
    (
        "urlRewrite.path ReplaceFullPath",
        "GET rewrite.test/full",
        "200 one | >GET /one/path | >host: rewrite.test",
    ),
    ("urlRewrite.hostname", "GET rewrite.test/host/a", "200 one | >GET /host/a | >host: inner.test"),
    ("urlRewrite, both", "GET rewrite.test:8080/both/a?q", "200 one | >GET /in/a?q | >host: inner.test"),
    (
        "urlRewrite with others",
        "GET rewrite.test/with/x",
        "200 one | >GET /all/x | >x-seen: filter | x-told: filter",
    ),
    ("urlRewrite.path, of the match that is not said", "GET rewrite.test/a/b", "200 two | >GET /root/a/b"),
    ("urlRewrite.path, of the match that is not said", "GET rewrite.test/", "200 two | >GET /root/"),
];

const REDIRECTS: &str = r#"
  hostnames: [redirect.test]
  rules:
  - matches: [{path: {value: /none}}]
    filters: [{type: RequestRedirect, requestRedirect: {}}]
  - matches: [{path: {value: /301}}]
    filters: [{type: RequestRedirect, requestRedirect: {statusCode: 301}}]
  - matches: [{path: {value: /302}}]
    filters: [{type: RequestRedirect, requestRedirect: {statusCode: 302}}]
  - matches: [{path: {value: /303}}]
    filters: [{type: RequestRedirect, requestRedirect: {statusCode: 303}}]
  - matches: [{path: {value: /307}}]
    filters: [{type: RequestRedirect, requestRedirect: {statusCode: 307}}]
  - matches: [{path: {value: /308}}]
    filters: [{type: RequestRedirect, requestRedirect: {statusCode: 308}}]
  - matches: [{path: {value: /host}}]
    filters: [{type: RequestRedirect, requestRedirect: {hostname: other.test}}]
  - matches: [{path: {value: /https}}]
    filters: [{type: RequestRedirect, requestRedirect: {scheme: https}}]
  - matches: [{path: {value: /http}}]
    filters: [{type: RequestRedirect, requestRedirect: {scheme: http}}]
  - matches: [{path: {value: /port}}]
    filters: [{type: RequestRedirect, requestRedirect: {port: 9000}}]
  - matches: [{path: {value: /p80}}]
    filters: [{type: RequestRedirect, requestRedirect: {port: 80}}]
  - matches: [{path: {value: /p443}}]
    filters: [{type: RequestRedirect, requestRedirect: {port: 443}}]
  - matches: [{path: {value: /s443}}]
    filters: [{type: RequestRedirect, requestRedirect: {scheme: https, port: 443}}]
  - matches: [{path: {value: /s8443}}]
    filters: [{type: RequestRedirect, requestRedirect: {scheme: https, port: 8443, hostname: other.test}}]
  - matches: [{path: {value: /full}}]
    filters: [{type: RequestRedirect, requestRedirect: {path: {type: ReplaceFullPath, replaceFullPath: /new}}}]
  - matches: [{path: {value: /prefix}}]
    filters: [{type: RequestRedirect, requestRedirect: {scheme: https, path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}}}]
"#;

const OF_REDIRECTS: &[Row] = &[
    (
        "requestRedirect, nothing said",
        "GET redirect.test/none/a?q=1",
        "302 | location: http://redirect.test:8080/none/a?q=1",
    ),
    ("requestRedirect.statusCode", "GET redirect.test/301", "301 | location: http://redirect.test:8080/301"),
    ("requestRedirect.statusCode", "GET redirect.test/302", "302 | location: http://redirect.test:8080/302"),
    ("requestRedirect.statusCode", "GET redirect.test/303", "303 | location: http://redirect.test:8080/303"),
    (
        "requestRedirect.statusCode",
        "POST redirect.test/307 | content-length: 0",
        "307 | location: http://redirect.test:8080/307",
    ),
    (
        "requestRedirect.statusCode",
        "POST redirect.test/308 | content-length: 0",
        "308 | location: http://redirect.test:8080/308",
    ),
    ("requestRedirect.hostname", "GET redirect.test/host/a", "302 | location: http://other.test:8080/host/a"),
    (
        "requestRedirect.hostname",
        "GET redirect.test:1234/host/a",
        "302 | location: http://other.test:8080/host/a",
    ),
    (
        "requestRedirect.port, by the scheme",
        "GET redirect.test:8080/https",
        "302 | location: https://redirect.test/https",
    ),
    (
        "requestRedirect.port, by the scheme",
        "GET redirect.test/http",
        "302 | location: http://redirect.test/http",
    ),
    (
        "requestRedirect.port, the listener's",
        "GET redirect.test:1234/none",
        "302 | location: http://redirect.test:8080/none",
    ),
    ("requestRedirect.port", "GET redirect.test/port", "302 | location: http://redirect.test:9000/port"),
    (
        "requestRedirect.port, the usual one unsaid",
        "GET redirect.test/p80",
        "302 | location: http://redirect.test/p80",
    ),
    (
        "requestRedirect.port, another's usual one",
        "GET redirect.test/p443",
        "302 | location: http://redirect.test:443/p443",
    ),
    (
        "requestRedirect.port, the usual one unsaid",
        "GET redirect.test/s443",
        "302 | location: https://redirect.test/s443",
    ),
    ("requestRedirect.port", "GET redirect.test/s8443", "302 | location: https://other.test:8443/s8443"),
    (
        "requestRedirect.path ReplaceFullPath",
        "GET redirect.test/full/a/b?q",
        "302 | location: http://redirect.test:8080/new?q",
    ),
    (
        "requestRedirect.path ReplacePrefixMatch",
        "GET redirect.test/prefix/a?q",
        "302 | location: https://redirect.test/new/a?q",
    ),
];

/// Over TLS: the listener's scheme and port are those of the request.
const OVER_TLS: &[Row] = &[
    (
        "requestRedirect.scheme, the request's",
        "@8443=redirect.test GET redirect.test/none",
        "302 | location: https://redirect.test:8443/none",
    ),
    (
        "requestRedirect.scheme",
        "@8443=redirect.test GET redirect.test/http",
        "302 | location: http://redirect.test/http",
    ),
    (
        "requestRedirect.port, the usual one unsaid",
        "@8443=redirect.test GET redirect.test/p443",
        "302 | location: https://redirect.test/p443",
    ),
    (
        "requestRedirect.port, another's usual one",
        "@8443=redirect.test GET redirect.test/p80",
        "302 | location: https://redirect.test:80/p80",
    ),
];

/// What cannot be carried out is not skipped.
const REFUSED: &str = r#"
  hostnames: [refused.test]
  rules:
  - matches: [{path: {value: /extension}}]
    filters: [{type: ExtensionRef, extensionRef: {group: example.net, kind: Filter, name: mine}}]
    backendRefs: [{name: one, port: 80}]
  - matches: [{path: {value: /backend}}]
    backendRefs:
    - {name: one, port: 80, filters: [{type: ExtensionRef, extensionRef: {group: example.net, kind: Filter, name: mine}}]}
  - matches: [{path: {value: /framing}}]
    filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: Content-Length, value: "1"}]}}]
    backendRefs: [{name: one, port: 80}]
  - matches: [{path: {value: /fine}}]
    backendRefs: [{name: one, port: 80}]
"#;

const OF_REFUSED: &[Row] = &[
    (
        "filters[].extensionRef that is not there",
        "GET refused.test/extension",
        "500 | weft-error: backend-invalid",
    ),
    ("backendRefs[].filters[].extensionRef", "GET refused.test/backend", "500 | weft-error: backend-invalid"),
    ("requestHeaderModifier of what frames", "GET refused.test/framing", "500 | weft-error: backend-invalid"),
    ("filters, the other rules", "GET refused.test/fine", "200 one"),
];

#[test]
fn filters_do_what_the_text_says() -> Result<()> {
    let mut scene = Scene::new()?;
    let _tellers = scene.tellers(["one", "two"])?;
    scene.secret("edge/redirect", &["redirect.test"])?;
    scene.with(&gateway(&[
        WEB,
        "name: tls, port: 8443, protocol: HTTPS, tls: {certificateRefs: [{name: redirect}]}",
    ]));
    scene.with(&http_route("headers", HEADERS));
    scene.with(&http_route("rewrite", REWRITES));
    scene.with(&http_route("redirect", REDIRECTS));
    scene.with(&http_route("refused", REFUSED));
    let mut rows = Vec::new();
    for (at, (prefix, new, path, modified)) in PREFIXES.iter().enumerate() {
        let rewrite = format!("path: {{type: ReplacePrefixMatch, replacePrefixMatch: \"{new}\"}}");
        let one = format!(
            "  hostnames: [p{at}.test]\n  rules:\n  - matches: [{{path: {{value: \"{prefix}\"}}}}]\n    \
             filters: [{{type: URLRewrite, urlRewrite: {{{rewrite}}}}}]\n    backendRefs: [{{name: one, port: 80}}]"
        );
        scene.with(&http_route(&format!("prefix-{at}"), &one));
        let other = format!(
            "  hostnames: [r{at}.test]\n  rules:\n  - matches: [{{path: {{value: \"{prefix}\"}}}}]\n    \
             filters: [{{type: RequestRedirect, requestRedirect: {{{rewrite}}}}}]"
        );
        scene.with(&http_route(&format!("redirect-{at}"), &other));
        rows.push((format!("GET p{at}.test{path}"), format!("200 one | >GET {modified}")));
        rows.push((
            format!("GET r{at}.test{path}"),
            format!("302 | location: http://r{at}.test:8080{modified}"),
        ));
    }
    let gateway = scene.start()?;
    let rows: Vec<Row> = rows
        .iter()
        .map(|(ask, told)| ("path.replacePrefixMatch", &*ask.clone().leak(), &*told.clone().leak()))
        .collect();
    for version in [Version::Http1, Version::Http2] {
        for table in [OF_HEADERS, OF_REWRITES, OF_REDIRECTS, OVER_TLS, OF_REFUSED, &rows] {
            hold(&gateway, version, table)?;
        }
    }
    Ok(())
}

const MIRRORS: &str = r#"
  hostnames: [mirror.test]
  rules:
  - matches: [{path: {value: /all}}]
    filters:
    - {type: RequestMirror, requestMirror: {backendRef: {name: two, port: 80}}}
    - {type: RequestMirror, requestMirror: {backendRef: {name: three, port: 80}, percent: 100}}
    - {type: RequestMirror, requestMirror: {backendRef: {name: nobody, port: 80}}}
    - {type: RequestMirror, requestMirror: {backendRef: {name: four, namespace: other, port: 80}}}
    backendRefs: [{name: one, port: 80}]
  - matches: [{path: {value: /none}}]
    filters:
    - {type: RequestMirror, requestMirror: {backendRef: {name: two, port: 80}, percent: 0}}
    - {type: RequestMirror, requestMirror: {backendRef: {name: three, port: 80}, fraction: {numerator: 0, denominator: 7}}}
    backendRefs: [{name: one, port: 80}]
  - matches: [{path: {value: /half}}]
    filters:
    - {type: RequestMirror, requestMirror: {backendRef: {name: two, port: 80}, fraction: {numerator: 1, denominator: 2}}}
    backendRefs: [{name: one, port: 80}]
"#;

#[test]
fn copies_go_where_the_text_says() -> Result<()> {
    let mut scene = Scene::new()?;
    let [one, two, three, four] = scene.tellers(["one", "two", "three", "other/four"])?;
    scene.with(&gateway(&[WEB]));
    scene.with(&http_route("mirror", MIRRORS));
    let gateway = scene.start()?;
    let all = [("requestMirror, several", "GET mirror.test/all/x", "200 one | >GET /all/x")];
    let none = [("requestMirror.percent 0", "GET mirror.test/none", "200 one")];
    let half = [("requestMirror.fraction", "GET mirror.test/half", "200 one")];
    hold(&gateway, Version::Http1, &none)?;
    hold(&gateway, Version::Http1, &all)?;
    for _ in 0..64 {
        hold(&gateway, Version::Http1, &half)?;
    }
    eventually("the copies", PATIENCE, || {
        let arrived =
            |of: &weft_testbed::Teller| of.seen().iter().any(|seen| seen.starts_with("GET /all/x "));
        Ok((arrived(&two) && arrived(&three)).then_some(()))
    })?;
    // Copies leave as their request does, so that those that were to come are counted by now or come before this one.
    let last = [("requestMirror, the last", "GET mirror.test/all/last", "200 one")];
    hold(&gateway, Version::Http1, &last)?;
    eventually("the last copy", PATIENCE, || {
        Ok(two.seen().iter().any(|seen| seen.starts_with("GET /all/last ")).then_some(()))
    })?;
    let count =
        |path: &str| two.seen().iter().filter(|seen| seen.starts_with(&format!("GET {path}"))).count();
    ensure!(
        count("/none") == 0 && three.seen().iter().all(|seen| !seen.contains("/none")),
        "a share of nothing"
    );
    // 64 throws of a coin: all but one in 10^9 times there are from 8 to 56 (a binomial bound).
    ensure!((8..=56).contains(&count("/half")), "{} of 64", count("/half"));
    ensure!(four.seen().is_empty(), "a copy without a grant");
    ensure!(one.seen().len() == 67, "{} requests", one.seen().len());
    Ok(())
}
