//! HTTPRoute: which rule a request belongs to.

use anyhow::Result;

use super::scene::{Scene, WEB, gateway, http_route};
use super::table::{Row, Version, hold};

/// Every kind of match, each on a host of its own.
const KINDS: &str = r#"
  hostnames: [kinds.test]
  rules:
  - matches: [{path: {type: Exact, value: /exact}}]
    backendRefs: [{name: one, port: 80}]
  - matches: [{path: {type: PathPrefix, value: /prefix}}]
    backendRefs: [{name: two, port: 80}]
  - matches: [{path: {type: PathPrefix, value: /slash/}}]
    backendRefs: [{name: two, port: 80}]
  - matches: [{path: {type: RegularExpression, value: "/re/[0-9]+/x"}}]
    backendRefs: [{name: three, port: 80}]
  - matches: [{path: {value: /default}}]
    backendRefs: [{name: one, port: 80}]
  - matches: [{path: {value: /header}, headers: [{name: Version, value: v1}, {name: x-kind, value: "A b"}]}]
    backendRefs: [{name: one, port: 80}]
  - matches: [{path: {value: /header}, headers: [{type: RegularExpression, name: version, value: "v[23]"}]}]
    backendRefs: [{name: two, port: 80}]
  - matches: [{path: {value: /first}, headers: [{name: version, value: one}, {name: VERSION, value: two}]}]
    backendRefs: [{name: one, port: 80}]
  - matches: [{path: {value: /query}, queryParams: [{name: a, value: "1"}, {name: b, value: "2 3"}]}]
    backendRefs: [{name: one, port: 80}]
  - matches: [{path: {value: /query}, queryParams: [{type: RegularExpression, name: a, value: "[89]+"}]}]
    backendRefs: [{name: two, port: 80}]
  - matches: [{path: {value: /method}, method: POST}, {path: {value: /method}, method: PATCH}]
    backendRefs: [{name: one, port: 80}]
  - matches: [{path: {value: /any}, headers: [{name: version, value: v2}]}, {path: {value: /v2/any}}]
    backendRefs: [{name: three, port: 80}]
"#;

const OF_KINDS: &[Row] = &[
    ("matches[].path Exact", "GET kinds.test/exact", "200 one | >GET /exact"),
    ("matches[].path Exact", "GET kinds.test/exact?q=/other", "200 one | >GET /exact?q=/other"),
    ("matches[].path Exact", "GET kinds.test/exact/", "404"),
    ("matches[].path Exact", "GET kinds.test/Exact", "404"),
    ("matches[].path Exact", "GET kinds.test/exact/more", "404"),
    ("matches[].path PathPrefix", "GET kinds.test/prefix", "200 two"),
    ("matches[].path PathPrefix", "GET kinds.test/prefix/", "200 two"),
    ("matches[].path PathPrefix", "GET kinds.test/prefix/a/b", "200 two"),
    ("matches[].path PathPrefix", "GET kinds.test/prefixed", "404"),
    ("matches[].path PathPrefix", "GET kinds.test/Prefix", "404"),
    ("matches[].path PathPrefix, slash at its end", "GET kinds.test/slash", "200 two"),
    ("matches[].path PathPrefix, slash at its end", "GET kinds.test/slash/a", "200 two"),
    ("matches[].path PathPrefix, slash at its end", "GET kinds.test/slashed", "404"),
    ("matches[].path RegularExpression", "GET kinds.test/re/42/x", "200 three"),
    ("matches[].path RegularExpression, the whole path", "GET kinds.test/re/42/xy", "404"),
    ("matches[].path RegularExpression, the whole path", "GET kinds.test/a/re/42/x", "404"),
    ("matches[].path.type, default PathPrefix", "GET kinds.test/default/a", "200 one"),
    ("matches[].headers, all of them", "GET kinds.test/header | version: v1 | X-Kind: A b", "200 one"),
    ("matches[].headers, all of them", "GET kinds.test/header | version: v1", "404"),
    ("matches[].headers[].name without case", "GET kinds.test/header | VERSION: v1 | x-kind: A b", "200 one"),
    ("matches[].headers[].value with case", "GET kinds.test/header | version: V1 | x-kind: A b", "404"),
    ("matches[].headers RegularExpression", "GET kinds.test/header | version: v3", "200 two"),
    ("matches[].headers RegularExpression", "GET kinds.test/header | version: v34", "404"),
    (
        "matches[].headers, lines of a name are one value",
        "GET kinds.test/header | version: v2 | version: v3",
        "404",
    ),
    ("matches[].headers[].name twice: the first", "GET kinds.test/first | version: one", "200 one"),
    ("matches[].headers[].name twice: the first", "GET kinds.test/first | version: two", "404"),
    ("matches[].queryParams, all of them", "GET kinds.test/query?a=1&b=2%203", "200 one"),
    ("matches[].queryParams, all of them", "GET kinds.test/query?b=2+3&x&a=1", "200 one"),
    ("matches[].queryParams, all of them", "GET kinds.test/query?a=1", "404"),
    ("matches[].queryParams[].name with case", "GET kinds.test/query?A=1&b=2+3", "404"),
    ("matches[].queryParams, repeated: the first", "GET kinds.test/query?a=1&b=2+3&a=2", "200 one"),
    ("matches[].queryParams, repeated: the first", "GET kinds.test/query?a=2&b=2+3&a=1", "404"),
    ("matches[].queryParams RegularExpression", "GET kinds.test/query?a=898", "200 two"),
    ("matches[].queryParams RegularExpression", "GET kinds.test/query?a=8981", "404"),
    ("matches[].method", "POST kinds.test/method | content-length: 0", "200 one"),
    ("matches[].method", "PATCH kinds.test/method | content-length: 0", "200 one"),
    ("matches[].method", "GET kinds.test/method", "404"),
    ("matches[].method", "OPTIONS kinds.test/method", "404"),
    ("matches[], any of them", "GET kinds.test/any | version: v2", "200 three"),
    ("matches[], any of them", "GET kinds.test/v2/any/x", "200 three"),
    ("matches[], any of them", "GET kinds.test/any", "404"),
    ("hostnames, port ignored", "GET kinds.test:9999/exact", "200 one | >host: kinds.test:9999"),
    ("hostnames", "GET other.test/exact", "404"),
];

/// Precedence among the matches of one route, of several, and of host names.
const ORDER: &str = r#"
  hostnames: [order.test]
  rules:
  - matches: [{path: {value: /}}]
    backendRefs: [{name: one, port: 80}]
  - matches: [{path: {value: /a}}]
    backendRefs: [{name: two, port: 80}]
  - matches: [{path: {value: /a/b}}]
    backendRefs: [{name: three, port: 80}]
  - matches: [{path: {type: Exact, value: /a/b}}]
    backendRefs: [{name: four, port: 80}]
  - matches: [{path: {value: /m}, headers: [{name: x-a, value: "1"}, {name: x-b, value: "1"}]}]
    backendRefs: [{name: one, port: 80}]
  - matches: [{path: {value: /m}, method: POST}]
    backendRefs: [{name: two, port: 80}]
  - matches: [{path: {value: /m}, headers: [{name: x-a, value: "1"}], queryParams: [{name: q, value: "1"}, {name: r, value: "1"}]}]
    backendRefs: [{name: three, port: 80}]
  - matches: [{path: {value: /m}, queryParams: [{name: q, value: "1"}]}]
    backendRefs: [{name: four, port: 80}]
  - matches: [{path: {value: /m}, queryParams: [{name: q, value: "1"}, {name: r, value: "1"}]}]
    backendRefs: [{name: one, port: 80}]
  - matches: [{path: {value: /twice}}]
    backendRefs: [{name: two, port: 80}]
  - matches: [{path: {value: /twice}}]
    backendRefs: [{name: three, port: 80}]
  - matches: [{path: {type: RegularExpression, value: "/w/.*"}}]
    backendRefs: [{name: two, port: 80}]
  - matches: [{path: {value: /w/long/prefix}}]
    backendRefs: [{name: three, port: 80}]
  - matches: [{path: {type: Exact, value: /w/exact}}]
    backendRefs: [{name: four, port: 80}]
"#;

const OF_ORDER: &[Row] = &[
    ("matches, Exact before PathPrefix", "GET order.test/a/b", "200 four"),
    ("matches, the longest PathPrefix", "GET order.test/a/b/c", "200 three"),
    ("matches, the longest PathPrefix", "GET order.test/a/c", "200 two"),
    ("matches, the longest PathPrefix", "GET order.test/ab", "200 one"),
    (
        "matches, a method before headers",
        "POST order.test/m | x-a: 1 | x-b: 1 | content-length: 0",
        "200 two",
    ),
    ("matches, the most headers", "GET order.test/m?q=1&r=1 | x-a: 1 | x-b: 1", "200 one"),
    ("matches, headers before query params", "GET order.test/m?q=1&r=1 | x-a: 1", "200 three"),
    ("matches, the most query params", "GET order.test/m?q=1&r=1", "200 one"),
    ("matches, the most query params", "GET order.test/m?q=1", "200 four"),
    ("matches, the first rule in list order", "GET order.test/twice", "200 two"),
    // The text leaves the place of expressions open; the guide says it.
    ("matches, RegularExpression behind Exact", "GET order.test/w/exact", "200 four"),
    ("matches, RegularExpression before PathPrefix", "GET order.test/w/long/prefix", "200 two"),
];

/// Two or three routes each that say the same: the older, then the first by `namespace/name`.
/// What a gateway tells backends of the client and the host, it tells routes: neither is what the client has said of itself.
const WORDS: &str = r#"
  hostnames: [words.test, "*.words.test"]
  rules:
  - matches:
    - headers: [{name: x-forwarded-for, value: 6.6.6.6}]
    - headers: [{name: X-Forwarded-Proto, value: https}]
    - headers: [{name: x-forwarded-host, value: other.test}]
    - headers: [{name: x-request-id, value: mine}]
    - headers: [{name: forwarded, type: RegularExpression, value: ".+"}]
    backendRefs: [{name: two, port: 80}]
  - matches:
    - path: {value: /told}
      headers: [{name: x-forwarded-proto, value: http}, {name: x-forwarded-port, value: "8080"}]
    - headers: [{name: host, value: own.words.test}]
    backendRefs: [{name: three, port: 80}]
  - backendRefs: [{name: one, port: 80}]
"#;

const OF_WORDS: &[Row] = &[
    ("x-forwarded-for of a client", "GET words.test/ | x-forwarded-for: 6.6.6.6", "200 one"),
    (
        "x-forwarded-proto of a client",
        "GET words.test/ | x-forwarded-proto: https",
        "200 one | >x-forwarded-proto: http",
    ),
    ("x-forwarded-host of a client", "GET words.test/ | x-forwarded-host: other.test", "200 one"),
    ("x-request-id of a client", "GET words.test/ | x-request-id: mine", "200 one"),
    ("forwarded of a client", "GET words.test/ | forwarded: for=6.6.6.6", "200 one"),
    ("what the gateway tells", "GET words.test/told", "200 three"),
    ("what the gateway tells", "GET words.test/told | x-forwarded-proto: https", "200 three"),
    ("host, in its one form", "GET own.words.test/", "200 three"),
    ("host, in its one form", "GET OWN.Words.test/", "200 three"),
    ("host, in its one form", "GET own.words.test./", "200 three"),
    ("host, in its one form", "GET own.words.test:8080/", "200 three"),
    ("host, another", "GET own2.words.test/", "200 one"),
];

const TIES: &[(&str, &str, &str)] = &[
    ("b-old, creationTimestamp: \"2020-09-08T01:02:03Z\"", "age.test", "one"),
    ("a-new, creationTimestamp: \"2020-09-08T01:02:04Z\"", "age.test", "two"),
    ("a-none", "age.test", "three"),
    ("tie-b, creationTimestamp: \"2021-01-01T00:00:00Z\"", "name.test", "one"),
    ("tie-a, creationTimestamp: \"2021-01-01T00:00:00Z\"", "name.test", "two"),
    ("host-any", "\"*.host.test\"", "one"),
    ("host-longer", "\"*.sub.host.test\"", "two"),
    ("host-exact", "a.sub.host.test", "three"),
];

const OF_TIES: &[Row] = &[
    ("matches, the oldest Route", "GET age.test/", "200 one"),
    ("matches, the first by namespace/name", "GET name.test/", "200 two"),
    ("hostnames, a name before wildcards", "GET a.sub.host.test/", "200 three"),
    ("hostnames, the most characters", "GET b.sub.host.test/", "200 two"),
    ("hostnames, a wildcard is a suffix", "GET x.y.sub.host.test/", "200 two"),
    ("hostnames, the most characters", "GET b.host.test/", "200 one"),
    ("hostnames, a wildcard has a label more", "GET host.test/", "404"),
    ("hostnames, in any case", "GET A.Sub.HOST.test/", "200 three"),
    ("hostnames, in any case", "GET a.sub.host.test.:80/", "200 three"),
    // A rule of a less specific name takes what none of the more specific one does.
    ("hostnames, across routes", "GET only.test/rest", "200 two"),
    ("hostnames, across routes", "GET only.test/own", "200 one"),
    // `*.test` is for everything else under it.
    ("hostnames, the fewest characters", "GET unknown.test/other", "404"),
];

#[test]
fn requests_belong_to_the_rule_that_the_text_says() -> Result<()> {
    let mut scene = Scene::new()?;
    let _tellers = scene.tellers(["one", "two", "three", "four"])?;
    scene.with(&gateway(&[WEB]));
    scene.with(&http_route("kinds", KINDS));
    scene.with(&http_route("order", ORDER));
    scene.with(&http_route("words", WORDS));
    for (meta, host, backend) in TIES {
        let spec =
            format!("  hostnames: [{host}]\n  rules: [{{backendRefs: [{{name: {backend}, port: 80}}]}}]");
        scene.with(&http_route(meta, &spec));
    }
    let own = "  hostnames: [only.test]\n  rules: [{matches: [{path: {value: /own}}], backendRefs: [{name: one, port: 80}]}]";
    let rest = "  hostnames: [\"*.test\"]\n  rules: [{matches: [{path: {value: /rest}}], backendRefs: [{name: two, port: 80}]}]";
    scene.with(&http_route("only", own));
    scene.with(&http_route("rest", rest));
    let gateway = scene.start()?;
    for version in [Version::Http1, Version::Http2] {
        hold(&gateway, version, OF_KINDS)?;
        hold(&gateway, version, OF_ORDER)?;
        hold(&gateway, version, OF_TIES)?;
        hold(&gateway, version, OF_WORDS)?;
    }
    Ok(())
}
