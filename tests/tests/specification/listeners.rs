//! Gateway: which listener a request belongs to, and which routes hang on it.

use std::net::TcpStream;

use anyhow::{Result, ensure};

use super::scene::{Scene, gateway, http_route, route};
use super::table::{Row, Version, hold};

/// Ports 8080 and 8443 are told apart by host name alone; 8443 has nothing for a name that is nobody's, and 8444 has.
const LISTENERS: &[&str] = &[
    "name: any, port: 8080, protocol: HTTP",
    "name: wild, port: 8080, protocol: HTTP, hostname: \"*.example.test\"",
    "name: deep, port: 8080, protocol: HTTP, hostname: \"*.foo.example.test\"",
    "name: exact, port: 8080, protocol: HTTP, hostname: a.example.test",
    "name: s-wild, port: 8443, protocol: HTTPS, hostname: \"*.example.test\", tls: {certificateRefs: [{name: wild}]}",
    "name: s-deep, port: 8443, protocol: HTTPS, hostname: \"*.foo.example.test\", tls: {certificateRefs: [{name: deep}]}",
    "name: s-exact, port: 8443, protocol: HTTPS, hostname: a.example.test, tls: {certificateRefs: [{name: exact}]}",
    "name: t-any, port: 8444, protocol: HTTPS, tls: {certificateRefs: [{name: other}, {name: wild}]}",
    "name: t-exact, port: 8444, protocol: HTTPS, hostname: a.example.test, tls: {certificateRefs: [{name: exact}]}",
    "name: hosts, port: 8081, protocol: HTTP, hostname: \"*.hosts.test\"",
    "name: host, port: 8082, protocol: HTTP, hostname: b.hosts.test",
    "name: same, port: 8083, protocol: HTTP",
    "name: all, port: 8084, protocol: HTTP, allowedRoutes: {namespaces: {from: All}}",
    "name: labels, port: 8085, protocol: HTTP, allowedRoutes: {namespaces: {from: Selector, selector: {matchLabels: {stage: live}, matchExpressions: [{key: closed, operator: DoesNotExist}]}}}",
    "name: kinds, port: 8086, protocol: HTTP, allowedRoutes: {kinds: [{kind: GRPCRoute}]}",
    "name: mixed, port: 8087, protocol: HTTP, allowedRoutes: {kinds: [{kind: HTTPRoute}, {kind: UDPRoute}]}",
    "name: bytes, port: 8089, protocol: TCP",
    "name: pages, port: 8089, protocol: HTTP",
];

/// Which backend the routes of a listener lead to.
const SECTIONS: &[(&str, &str)] = &[
    ("any", "one"),
    ("wild", "two"),
    ("deep", "three"),
    ("exact", "four"),
    ("s-wild", "two"),
    ("s-deep", "three"),
    ("s-exact", "four"),
    ("t-any", "one"),
    ("t-exact", "four"),
    ("same", "one"),
    ("kinds", "one"),
    ("mixed", "one"),
    ("bytes", "one"),
    ("pages", "one"),
];

const ISOLATION: &[Row] = &[
    ("listeners[].hostname, exact first", "GET a.example.test/", "200 four"),
    ("listeners[].hostname, wildcard", "GET b.example.test/", "200 two"),
    ("listeners[].hostname, the more dots", "GET x.foo.example.test/", "200 three"),
    ("listeners[].hostname, characters and dots", "GET x.y.foo.example.test/", "200 three"),
    ("listeners[].hostname, a label more", "GET foo.example.test/", "200 two"),
    ("listeners[].hostname, empty last", "GET example.test/", "200 one"),
    ("listeners[].hostname, empty last", "GET nobody.test/", "200 one"),
    ("listeners[].hostname, port ignored", "GET a.example.test:1/", "200 four"),
    // A route that hangs on another listener is not asked, though its own host names would take the request.
    ("listener isolation", "GET a.example.test/only-wild", "200 four"),
    ("listener isolation", "GET b.example.test/only-wild", "200 one"),
    ("listener isolation", "GET c.only.test/only-wild", "200 one"),
];

const OVER_TLS: &[Row] = &[
    ("listeners[].hostname, HTTPS", "@8443=a.example.test GET a.example.test/", "200 four"),
    ("listeners[].hostname, HTTPS", "@8443=b.example.test GET b.example.test/", "200 two"),
    ("listeners[].hostname, HTTPS", "@8443=x.foo.example.test GET x.foo.example.test/", "200 three"),
    ("listeners[].hostname, SNI and Host may differ", "@8443=b.example.test GET c.example.test/", "200 two"),
    (
        "listeners[].hostname, another exact: 421",
        "@8443=b.example.test GET a.example.test/",
        "421 | weft-error: misdirected-request",
    ),
    ("listeners[].hostname, a longer wildcard: 421", "@8443=b.example.test GET x.foo.example.test/", "421"),
    ("listeners[].hostname, another that matches: 421", "@8443=a.example.test GET b.example.test/", "421"),
    ("listeners[].hostname, nobody's: 404", "@8443=b.example.test GET nobody.test/", "404"),
    ("listeners[].hostname, no SNI of it", "@8443=nobody.test GET nobody.test/", "end"),
    ("listeners[].hostname, empty", "@8444=other.test GET other.test/", "200 one"),
    ("listeners[].hostname, empty", "@8444=other.test GET nobody.test/", "200 one"),
    ("listeners[].hostname, another exact: 421", "@8444=other.test GET a.example.test/", "421"),
    ("listeners[].hostname, another that matches: 421", "@8444=a.example.test GET other.test/", "421"),
    ("tls.certificateRefs, the one with the name", "@8444=b.example.test GET b.example.test/", "200 one"),
];

/// HTTPRoute, "hostnames", on listeners that have one.
const HOSTNAMES: &[Row] = &[
    ("hostnames and listener, one in common", "@8081 GET a.hosts.test/two", "200 one"),
    ("hostnames and listener, the others are ignored", "@8081 GET a.elsewhere.test/two", "404"),
    ("hostnames and listener, none in common", "@8081 GET hosts.test/apart", "404"),
    ("hostnames, not said: the listener's", "@8081 GET z.y.hosts.test/bare", "200 three"),
    ("hostnames, not said: the listener's", "@8081 GET elsewhere.test/bare", "404"),
    ("hostnames, wider than the listener's", "@8082 GET b.hosts.test/wide", "200 two"),
    ("hostnames, wider than the listener's", "@8082 GET c.hosts.test/wide", "404"),
    ("parentRefs[].port", "@8082 GET b.hosts.test/port", "200 four"),
    ("parentRefs[].port", "@8081 GET b.hosts.test/port", "404"),
    ("parentRefs[].port and sectionName", "@8081 GET b.hosts.test/neither", "404"),
    ("parentRefs[].sectionName of nobody", "@8083 GET any.test/nowhere", "200 one"),
];

const ALLOWED: &[Row] = &[
    ("allowedRoutes.namespaces, default Same", "@8083 GET any.test/live", "200 one"),
    ("allowedRoutes.namespaces All", "@8084 GET any.test/live", "200 five"),
    ("allowedRoutes.namespaces All", "@8084 GET any.test/other", "200 six"),
    ("allowedRoutes.namespaces Selector", "@8085 GET any.test/live", "200 five"),
    ("allowedRoutes.namespaces Selector, matchLabels", "@8085 GET any.test/other", "404"),
    ("allowedRoutes.namespaces Selector, matchExpressions", "@8085 GET any.test/closed", "404"),
    ("allowedRoutes.kinds", "@8086 GET any.test/", "404"),
    ("allowedRoutes.kinds, the valid of several", "@8087 GET any.test/", "200 one"),
];

/// Routes that are for some listeners, by host name, port or section.
fn routes_of_hosts(scene: &mut Scene) {
    let more = [
        (
            "only-wild",
            "parentRefs: [{name: public, sectionName: wild}], hostnames: [\"*.example.test\", \"*.only.test\"]",
            "/only-wild",
            "one",
        ),
        (
            "two",
            "parentRefs: [{name: public, port: 8081}], hostnames: [a.hosts.test, a.elsewhere.test]",
            "/two",
            "one",
        ),
        (
            "apart",
            "parentRefs: [{name: public, port: 8081}], hostnames: [hosts.test, other.test]",
            "/apart",
            "two",
        ),
        ("bare", "parentRefs: [{name: public, sectionName: hosts}]", "/bare", "three"),
        (
            "wide",
            "parentRefs: [{name: public, sectionName: host}], hostnames: [\"*.hosts.test\"]",
            "/wide",
            "two",
        ),
        ("port", "parentRefs: [{name: public, port: 8082}]", "/port", "four"),
        ("neither", "parentRefs: [{name: public, port: 8082, sectionName: hosts}]", "/neither", "four"),
        ("nowhere", "parentRefs: [{name: public, sectionName: nobody}]", "/nowhere", "two"),
    ];
    for (name, spec, path, backend) in more {
        let lines = spec.replace("], hostnames", "]\n  hostnames");
        let spec = format!(
            "  {lines}\n  rules: [{{matches: [{{path: {{value: {path}}}}}], backendRefs: [{{name: {backend}, port: 80}}]}}]"
        );
        scene.with(&http_route(name, &spec));
    }
}

/// Routes of other namespaces, each of which wants to hang on three listeners.
fn routes_of_namespaces(scene: &mut Scene) {
    for (namespace, labels, backend) in [
        ("live", "stage: live", "five"),
        ("other", "stage: test", "six"),
        ("closed", "stage: live, closed: \"1\"", "six"),
    ] {
        scene.with(&format!(
            "apiVersion: v1\nkind: Namespace\nmetadata: {{name: {namespace}, labels: {{{labels}}}}}"
        ));
        let sections = ["same", "all", "labels"]
            .map(|section| format!("{{name: public, namespace: edge, sectionName: {section}}}"));
        let spec = format!(
            "  parentRefs: [{}]\n  rules: [{{matches: [{{path: {{value: /{namespace}}}}}], backendRefs: [{{name: {backend}, port: 80}}]}}]",
            sections.join(", ")
        );
        scene.with(&http_route(&format!("of-{namespace}, namespace: {namespace}"), &spec));
    }
}

#[test]
fn listeners_take_what_the_text_says() -> Result<()> {
    let mut scene = Scene::new()?;
    let _tellers = scene.tellers(["one", "two", "three", "four", "live/five", "other/six", "closed/six"])?;
    scene.secret("wild", &["*.example.test"])?;
    scene.secret("deep", &["*.foo.example.test"])?;
    scene.secret("exact", &["a.example.test"])?;
    scene.secret("other", &["other.test"])?;
    scene.with(&gateway(LISTENERS));
    for (section, backend) in SECTIONS {
        let spec = format!(
            "  parentRefs: [{{name: public, sectionName: {section}}}]\n  rules: [{{backendRefs: [{{name: {backend}, port: 80}}]}}]"
        );
        let kind = if *section == "bytes" { "TCPRoute" } else { "HTTPRoute" };
        scene.with(&route(kind, &format!("on-{section}"), &spec));
    }
    routes_of_hosts(&mut scene);
    routes_of_namespaces(&mut scene);
    let gateway = scene.start()?;
    // `listeners`, "Distinct Listeners": one of TCP shares its port with nobody, and none of them is picked.
    ensure!(TcpStream::connect(gateway.at(8089)).is_err(), "a conflicted listener is served");
    for version in [Version::Http1, Version::Http2] {
        for table in [ISOLATION, HOSTNAMES, ALLOWED] {
            hold(&gateway, version, table)?;
        }
    }
    hold(&gateway, Version::Http1, OVER_TLS)?;
    let over_http2: Vec<Row> = OVER_TLS.iter().filter(|(.., told)| *told != "end").copied().collect();
    hold(&gateway, Version::Http2, &over_http2)
}
