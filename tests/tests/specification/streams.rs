//! TLSRoute and TCPRoute: where connections go.

use anyhow::{Result, ensure};

use super::scene::{Scene, gateway, http_route, route, tls_teller};
use super::table::{Row, Version, ask, hold};

const LISTENERS: &[&str] = &[
    "name: through, port: 9443, protocol: TLS, hostname: \"*.pass.test\", tls: {mode: Passthrough}",
    "name: exact, port: 9443, protocol: TLS, hostname: own.pass.test, tls: {mode: Passthrough}",
    "name: ends, port: 9443, protocol: TLS, hostname: \"*.ends.test\", tls: {certificateRefs: [{name: ends}]}",
    "name: pages, port: 9443, protocol: HTTPS, hostname: pages.test, tls: {certificateRefs: [{name: pages}]}",
    "name: inside, port: 9444, protocol: TLS, hostname: inside.test, tls: {certificateRefs: [{name: inside}]}",
    "name: one, port: 9000, protocol: TCP",
    "name: shares, port: 9001, protocol: TCP",
    "name: invalid, port: 9002, protocol: TCP",
    "name: none, port: 9003, protocol: TCP",
    "name: zero, port: 9004, protocol: TCP",
    "name: several, port: 9005, protocol: TCP",
    "name: half, port: 9006, protocol: TCP",
];

/// Kind, name and metadata, listener, host names, backends.
const ROUTES: &[(&str, &str, &str, &str, &str)] = &[
    ("TLSRoute", "a", "through", "a.pass.test", "{name: one-tls, port: 80}"),
    ("TLSRoute", "wild", "through", "*.pass.test", "{name: two-tls, port: 80}"),
    ("TLSRoute", "deep", "through", "*.b.pass.test", "{name: one-tls, port: 80}"),
    ("TLSRoute", "beyond", "through", "a.beyond.test", "{name: one-tls, port: 80}"),
    ("TLSRoute", "nobody", "through", "nobody.pass.test", "{name: nobody, port: 80}"),
    ("TLSRoute", "zero", "through", "zero.pass.test", "{name: one-tls, port: 80, weight: 0}"),
    (
        "TLSRoute",
        "new, creationTimestamp: \"2021-01-02T00:00:00Z\"",
        "through",
        "twice.pass.test",
        "{name: one-tls, port: 80}",
    ),
    (
        "TLSRoute",
        "old, creationTimestamp: \"2021-01-01T00:00:00Z\"",
        "through",
        "twice.pass.test",
        "{name: two-tls, port: 80}",
    ),
    ("TLSRoute", "own", "exact", "own.pass.test", "{name: one-tls, port: 80}"),
    ("TLSRoute", "ends", "ends", "a.ends.test", "{name: one, port: 80}"),
    ("TCPRoute", "inside", "inside", "", "{name: two, port: 80}"),
    ("TCPRoute", "one", "one", "", "{name: one, port: 80}"),
    (
        "TCPRoute",
        "shares",
        "shares",
        "",
        "{name: one, port: 80, weight: 3}, {name: two, port: 80, weight: 1}, {name: three, port: 80, weight: 0}",
    ),
    ("TCPRoute", "invalid", "invalid", "", "{name: nobody, port: 80}"),
    ("TCPRoute", "zero", "zero", "", "{name: one, port: 80, weight: 0}"),
    (
        "TCPRoute",
        "first, creationTimestamp: \"2021-01-01T00:00:00Z\"",
        "several",
        "",
        "{name: two, port: 80}",
    ),
    ("TCPRoute", "also, creationTimestamp: \"2021-01-02T00:00:00Z\"", "several", "", "{name: one, port: 80}"),
    ("TCPRoute", "half", "half", "", "{name: one, port: 80}, {name: nobody, port: 80}"),
];

const ROWS: &[Row] = &[
    ("TLSRoute hostnames", "@9443=a.pass.test GET a.pass.test/x", "200 one-tls | >GET /x"),
    (
        "TLSRoute hostnames, the SNI alone counts",
        "@9443=a.pass.test GET any.test/",
        "200 one-tls | >host: any.test",
    ),
    ("TLSRoute hostnames, a wildcard", "@9443=c.pass.test GET c.pass.test/", "200 two-tls"),
    ("TLSRoute hostnames, the longest wildcard", "@9443=x.b.pass.test GET x.b.pass.test/", "200 one-tls"),
    ("TLSRoute hostnames, none in common with the listener", "@9443=a.beyond.test GET a.beyond.test/", "end"),
    ("TLSRoute backendRefs, invalid: rejected", "@9443=nobody.pass.test GET nobody.pass.test/", "end"),
    ("TLSRoute backendRefs[].weight 0", "@9443=zero.pass.test GET zero.pass.test/", "end"),
    ("TLSRoute, the oldest", "@9443=twice.pass.test GET twice.pass.test/", "200 two-tls"),
    ("listeners[].hostname, TLS", "@9443=own.pass.test GET own.pass.test/", "200 one-tls"),
    ("listeners[].hostname, TLS", "@9443=nobody.test GET nobody.test/", "end"),
    ("listeners[].tls.mode Terminate", "@9443=a.ends.test GET any.test/y", "200 one | >GET /y"),
    ("listeners[].tls.mode Terminate, no route", "@9443=b.ends.test GET b.ends.test/", "end"),
    ("listeners[].protocol, HTTPS beside TLS", "@9443=pages.test GET pages.test/", "200 two"),
    ("TCPRoute on a listener that ends TLS", "@9444=inside.test GET any.test/", "200 two"),
    ("TCPRoute", "@9000 GET any.test/z", "200 one | >GET /z | >host: any.test"),
    ("TCPRoute backendRefs, invalid: rejected", "@9002 GET any.test/", "end"),
    ("TCPRoute, none", "@9003 GET any.test/", "end"),
    ("TCPRoute backendRefs[].weight 0", "@9004 GET any.test/", "end"),
    ("TCPRoute, the oldest", "@9005 GET any.test/", "200 two"),
];

#[test]
fn connections_go_where_the_text_says() -> Result<()> {
    let mut scene = Scene::new()?;
    let _tellers = scene.tellers(["one", "two", "three"])?;
    scene.ca.issue("behind", &["*.pass.test", "*.b.pass.test"])?;
    for name in ["one-tls", "two-tls"] {
        let at = tls_teller(scene.dir(), name, "behind")?;
        scene.service(name, at, "");
    }
    scene.secret("ends", &["*.ends.test"])?;
    scene.secret("pages", &["pages.test"])?;
    scene.secret("inside", &["inside.test"])?;
    scene.with(&gateway(LISTENERS));
    for (kind, meta, section, host, backends) in ROUTES {
        let hosts = if host.is_empty() { String::new() } else { format!("  hostnames: [\"{host}\"]\n") };
        let spec = format!(
            "  parentRefs: [{{name: public, sectionName: {section}}}]\n{hosts}  rules: [{{backendRefs: [{backends}]}}]"
        );
        scene.with(&route(kind, meta, &spec));
    }
    let pages = "  parentRefs: [{name: public, sectionName: pages}]\n  rules: [{backendRefs: [{name: two, port: 80}]}]";
    scene.with(&http_route("pages", pages));
    let gateway = scene.start()?;
    hold(&gateway, Version::Http1, ROWS)?;
    // "Rejections must respect weight", and so does everything else: three quarters of 160 are 120, a half of 80 are 40.
    let (mut shares, mut half) = ([0; 3], 0);
    for at in 0..160 {
        match ask(&gateway, Version::Http1, "@9001 GET any.test/")?.who().as_str() {
            "200 one" => shares[0] += 1,
            "200 two" => shares[1] += 1,
            who => anyhow::bail!("{who}"),
        }
        half += usize::from(at < 80 && ask(&gateway, Version::Http1, "@9006 GET any.test/")?.status == 200);
    }
    ensure!((75..=155).contains(&shares[0]), "{shares:?}");
    ensure!((5..=75).contains(&half), "{half} of 80");
    Ok(())
}
