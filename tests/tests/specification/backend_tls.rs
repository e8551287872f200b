//! BackendTLSPolicy: what a backend's certificate must be.

use anyhow::Result;
use weft_testbed::{PublicCa, Teller};

use super::scene::{Scene, WEB, gateway, http_route, tls_teller};
use super::table::{Row, Version, hold};

const URI: &str = "spiffe://cluster.test/ns/shop/sa/orders";

/// A Service behind TLS, the certificate that its server has, and the `validation` of its policy.
const POLICIES: &[(&str, &str, &str)] = &[
    ("good", "named", "hostname: named.test, caCertificateRefs: [{group: \"\", kind: ConfigMap, name: ca}]"),
    ("name", "named", "hostname: other.test, caCertificateRefs: [{group: \"\", kind: ConfigMap, name: ca}]"),
    (
        "authority",
        "named",
        "hostname: named.test, caCertificateRefs: [{group: \"\", kind: ConfigMap, name: foreign}]",
    ),
    ("system", "named", "hostname: named.test, wellKnownCACertificates: System"),
    (
        "missing",
        "named",
        "hostname: named.test, caCertificateRefs: [{group: \"\", kind: ConfigMap, name: nobody}]",
    ),
    (
        "keyless",
        "named",
        "hostname: named.test, caCertificateRefs: [{group: \"\", kind: ConfigMap, name: keyless}]",
    ),
    (
        "unknown",
        "named",
        "hostname: named.test, caCertificateRefs: [{group: example.net, kind: Bundle, name: ca}]",
    ),
    (
        "san",
        "named",
        "hostname: sent.test, caCertificateRefs: [{group: \"\", kind: ConfigMap, name: ca}], subjectAltNames: [{type: Hostname, hostname: other.test}, {type: Hostname, hostname: named.test}]",
    ),
    (
        "san-alone",
        "named",
        "hostname: named.test, caCertificateRefs: [{group: \"\", kind: ConfigMap, name: ca}], subjectAltNames: [{type: Hostname, hostname: other.test}]",
    ),
    (
        "uri",
        "uri",
        "hostname: sent.test, caCertificateRefs: [{group: \"\", kind: ConfigMap, name: ca}], subjectAltNames: [{type: URI, uri: \"spiffe://cluster.test/ns/shop/sa/orders\"}]",
    ),
    (
        "uri-other",
        "uri",
        "hostname: named.test, caCertificateRefs: [{group: \"\", kind: ConfigMap, name: ca}], subjectAltNames: [{type: URI, uri: \"spiffe://cluster.test/ns/shop/sa/others\"}]",
    ),
];

const ROWS: &[Row] = &[
    ("validation.hostname", "GET good.test/x", "200 good | >GET /x | >sni: named.test | >host: good.test"),
    ("validation.hostname, another", "GET name.test/", "502 | weft-error: tls-failed"),
    ("validation.caCertificateRefs, another's", "GET authority.test/", "502 | weft-error: tls-failed"),
    ("validation.wellKnownCACertificates", "GET system.test/", "502 | weft-error: tls-failed"),
    ("validation.caCertificateRefs of nobody", "GET missing.test/", "500 | weft-error: backend-invalid"),
    ("validation.caCertificateRefs without ca.crt", "GET keyless.test/", "500 | weft-error: backend-invalid"),
    (
        "validation.caCertificateRefs of another kind",
        "GET unknown.test/",
        "500 | weft-error: backend-invalid",
    ),
    ("validation.subjectAltNames Hostname", "GET san.test/", "200 san | >sni: sent.test"),
    (
        "validation.subjectAltNames, hostname counts no more",
        "GET san-alone.test/",
        "502 | weft-error: tls-failed",
    ),
    ("validation.subjectAltNames URI", "GET uri.test/", "200 uri | >sni: sent.test"),
    ("validation.subjectAltNames URI, another", "GET uri-other.test/", "502 | weft-error: tls-failed"),
    ("targetRefs[].sectionName", "GET ports.test/secure", "200 ports-tls | >sni: named.test"),
    ("targetRefs[].sectionName, the other ports", "GET ports.test/main", "200 ports"),
    ("targetRefs[].sectionName before the whole", "GET both.test/secure", "200 ports-tls | >sni: named.test"),
    ("targetRefs[], the whole", "GET both.test/main", "502 | weft-error: tls-failed"),
    ("targetRefs[].sectionName of nobody", "GET section.test/", "200 plain"),
    ("targetRefs[], the older policy", "GET twice.test/", "200 twice | >sni: named.test"),
    ("targetRefs[], of the policy's namespace", "GET far.test/", "200 plain"),
    ("appProtocol https, and no policy", "GET bare.test/", "500 | weft-error: backend-invalid"),
];

fn policy(meta: &str, target: &str, validation: &str) -> String {
    let namespace = if meta.contains("namespace:") { "" } else { ", namespace: edge" };
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: BackendTLSPolicy\nmetadata: {{name: {meta}{namespace}}}\n\
         spec:\n  targetRefs: [{{group: \"\", kind: Service, {target}}}]\n  validation: {{{validation}}}\n"
    )
}

fn to(host: &str, rules: &[(&str, &str, u16)]) -> String {
    let rules: String = rules
        .iter()
        .map(|(path, name, port)| format!("  - {{matches: [{{path: {{value: {path}}}}}], backendRefs: [{{name: {name}, port: {port}}}]}}\n"))
        .collect();
    http_route(host, &format!("  hostnames: [{host}.test]\n  rules:\n{rules}"))
}

#[test]
fn backends_prove_what_the_text_says() -> Result<()> {
    let mut scene = Scene::new()?;
    scene.ca.issue("named", &["named.test"])?;
    scene.ca.issue_with_uri("uri", &["named.test"], Some(URI))?;
    PublicCa::new(scene.dir(), "foreign-ca")?;
    scene.authority("ca", "ca")?;
    scene.authority("foreign", "foreign-ca")?;
    scene.with(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: keyless, namespace: edge}\ndata: {other: x}",
    );
    scene.with(&gateway(&[WEB]));
    for (name, certificate, validation) in POLICIES {
        let at = tls_teller(scene.dir(), name, certificate)?;
        scene.service(name, at, "");
        scene.with(&policy(name, &format!("name: {name}"), validation));
        scene.with(&to(name, &[("/", name, 80)]));
    }
    let good = POLICIES[0].2;
    let bad = POLICIES[1].2;
    // Two ports, of which one has TLS; a policy for it alone, and one for it beside one for all.
    let (plain, secure) = (Teller::start("ports")?.addr, tls_teller(scene.dir(), "ports-tls", "named")?);
    for name in ["ports", "both"] {
        scene.with(&format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: edge}}\n\
             spec: {{ports: [{{name: main, port: 80}}, {{name: secure, port: 443}}]}}"
        ));
        scene.endpoint(name, 80, plain);
        scene.endpoint(name, 443, secure);
        scene.with(&policy(&format!("{name}-secure"), &format!("name: {name}, sectionName: secure"), good));
        scene.with(&to(name, &[("/main", name, 80), ("/secure", name, 443)]));
    }
    scene.with(&policy("both-whole", "name: both", bad));
    let at = Teller::start("plain")?.addr;
    for name in ["section", "far"] {
        scene.service(name, at, "");
        scene.with(&to(name, &[("/", name, 80)]));
    }
    scene.with(&policy("section", "name: section, sectionName: nobody", good));
    scene.with(&policy("far, namespace: elsewhere", "name: far", good));
    let at = tls_teller(scene.dir(), "twice", "named")?;
    scene.service("twice", at, "");
    scene.with(&policy("a-new, creationTimestamp: \"2021-01-02T00:00:00Z\"", "name: twice", bad));
    scene.with(&policy("b-old, creationTimestamp: \"2021-01-01T00:00:00Z\"", "name: twice", good));
    scene.with(&to("twice", &[("/", "twice", 80)]));
    scene.service("bare", at, ", appProtocol: https");
    scene.with(&to("bare", &[("/", "bare", 80)]));
    let gateway = scene.start()?;
    for version in [Version::Http1, Version::Http2] {
        hold(&gateway, version, ROWS)?;
    }
    Ok(())
}
