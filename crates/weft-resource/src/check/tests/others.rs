#![allow(clippy::too_many_lines, reason = "each test is a table")]
use super::{GATEWAY_API, check, many};

#[test]
fn grpc_route() {
    let rule = |rule: &str| format!("{{rules: [{{{rule}}}]}}");
    let modify = "{type: RequestHeaderModifier, requestHeaderModifier: {remove: [a]}}";
    check(
        GATEWAY_API,
        "GRPCRoute",
        vec![
            (
                "16 rules at most",
                format!("{{rules: {}}}", many(16, |_| "{}".to_owned())),
                format!("{{rules: {}}}", many(17, |_| "{}".to_owned())),
                "spec.rules",
                "resource-count",
            ),
            (
                "no redirect",
                rule(&format!("filters: [{modify}]")),
                rule("filters: [{type: RequestRedirect, requestRedirect: {}}]"),
                "spec.rules[0].filters[0].type",
                "resource-invalid-value",
            ),
            (
                "no rewrite on a backend",
                rule(&format!("backendRefs: [{{name: a, port: 1, filters: [{modify}]}}]")),
                rule("backendRefs: [{name: a, port: 1, filters: [{type: URLRewrite, urlRewrite: {}}]}]"),
                "spec.rules[0].backendRefs[0].filters[0].type",
                "resource-invalid-value",
            ),
            (
                "a filter stands once",
                rule(&format!("filters: [{modify}]")),
                rule(&format!("filters: [{modify}, {modify}]")),
                "spec.rules[0].filters[1].type",
                "resource-conflict",
            ),
            (
                "a match has a service or a method",
                rule("matches: [{method: {service: a.B}}]"),
                rule("matches: [{method: {}}]"),
                "spec.rules[0].matches[0].method",
                "resource-invalid-value",
            ),
            (
                "a service is a name",
                rule("matches: [{method: {service: a.B, method: C}}]"),
                rule("matches: [{method: {service: a/B}}]"),
                "spec.rules[0].matches[0].method.service",
                "resource-invalid-value",
            ),
            (
                "a method has no dots",
                rule("matches: [{method: {method: C_1}}]"),
                rule("matches: [{method: {method: a.C}}]"),
                "spec.rules[0].matches[0].method.method",
                "resource-invalid-value",
            ),
            (
                "names of rules are unique",
                rule("name: a"),
                "{rules: [{name: a}, {name: a}]}".to_owned(),
                "spec.rules[1].name",
                "resource-conflict",
            ),
            (
                "a service has a port",
                rule("backendRefs: [{name: a, port: 1}]"),
                rule("backendRefs: [{name: a}]"),
                "spec.rules[0].backendRefs[0].port",
                "resource-missing",
            ),
        ],
    );
}

#[test]
fn tls_and_tcp_route() {
    let rules = "rules: [{backendRefs: [{name: a, port: 1}]}]";
    let two = "rules: [{backendRefs: [{name: a, port: 1}]}, {backendRefs: [{name: b, port: 1}]}]";
    check(
        GATEWAY_API,
        "TLSRoute",
        vec![
            (
                "at least one hostname",
                format!("{{hostnames: [\"*.a.b\"], {rules}}}"),
                format!("{{{rules}}}"),
                "spec.hostnames",
                "resource-missing",
            ),
            (
                "no address",
                format!("{{hostnames: [a], {rules}}}"),
                format!("{{hostnames: [10.0.0.1], {rules}}}"),
                "spec.hostnames[0]",
                "resource-invalid-value",
            ),
            (
                "one rule",
                format!("{{hostnames: [a], {rules}}}"),
                format!("{{hostnames: [a], {two}}}"),
                "spec.rules",
                "resource-count",
            ),
            (
                "at least one backend",
                format!("{{hostnames: [a], {rules}}}"),
                "{hostnames: [a], rules: [{backendRefs: []}]}".to_owned(),
                "spec.rules[0].backendRefs",
                "resource-count",
            ),
        ],
    );
    check(
        "gateway.networking.k8s.io/v1alpha2",
        "TLSRoute",
        vec![(
            "hostnames came with v1",
            format!("{{{rules}}}"),
            "{rules: []}".to_owned(),
            "spec.rules",
            "resource-count",
        )],
    );
    check(
        "gateway.networking.k8s.io/v1alpha2",
        "TCPRoute",
        vec![
            ("one rule", format!("{{{rules}}}"), format!("{{{two}}}"), "spec.rules", "resource-count"),
            (
                "a service has a port",
                format!("{{{rules}}}"),
                "{rules: [{backendRefs: [{name: a}]}]}".to_owned(),
                "spec.rules[0].backendRefs[0].port",
                "resource-missing",
            ),
            (
                "16 backends at most",
                format!("{{rules: [{{backendRefs: {}}}]}}", many(16, |i| format!("{{name: b{i}, port: 1}}"))),
                format!("{{rules: [{{backendRefs: {}}}]}}", many(17, |i| format!("{{name: b{i}, port: 1}}"))),
                "spec.rules[0].backendRefs",
                "resource-count",
            ),
            (
                "no hostnames",
                format!("{{{rules}}}"),
                format!("{{hostnames: [a], {rules}}}"),
                "spec.hostnames",
                "resource-unknown-field",
            ),
        ],
    );
}

#[test]
fn reference_grant_and_backend_tls_policy() {
    let grant = |from: &str, to: &str| format!("{{from: {from}, to: {to}}}");
    let from = |count| many(count, |i| format!("{{group: g, kind: K, namespace: n{i}}}"));
    let to = |count| many(count, |i| format!("{{group: \"\", kind: Secret, name: s{i}}}"));
    check(
        GATEWAY_API,
        "ReferenceGrant",
        vec![
            (
                "at least one from",
                grant(&from(1), &to(1)),
                grant("[]", &to(1)),
                "spec.from",
                "resource-count",
            ),
            (
                "16 from at most",
                grant(&from(16), &to(1)),
                grant(&from(17), &to(1)),
                "spec.from",
                "resource-count",
            ),
            ("at least one to", grant(&from(1), &to(1)), grant(&from(1), "[]"), "spec.to", "resource-count"),
            (
                "16 to at most",
                grant(&from(1), &to(16)),
                grant(&from(1), &to(17)),
                "spec.to",
                "resource-count",
            ),
        ],
    );
    let target = |rest: &str| format!("{{group: \"\", kind: Service, name: a{rest}}}");
    let of = |targets: &str, validation: &str| {
        format!("{{targetRefs: [{targets}], validation: {{hostname: a.b, {validation}}}}}")
    };
    let ca = "caCertificateRefs: [{group: \"\", kind: ConfigMap, name: a}]";
    let system = "wellKnownCACertificates: System";
    check(
        GATEWAY_API,
        "BackendTLSPolicy",
        vec![
            ("at least one target", of(&target(""), ca), of("", ca), "spec.targetRefs", "resource-count"),
            (
                "targets differ",
                of(&format!("{}, {}", target(", sectionName: x"), target(", sectionName: y")), ca),
                of(&format!("{}, {}", target(", sectionName: x"), target(", sectionName: x")), ca),
                "spec.targetRefs[1]",
                "resource-conflict",
            ),
            (
                "several name sections",
                of(&target(", sectionName: x"), ca),
                of(&format!("{}, {}", target(", sectionName: x"), target("")), ca),
                "spec.targetRefs[1]",
                "resource-conflict",
            ),
            (
                "authorities or those of the machine",
                of(&target(""), system),
                of(&target(""), &format!("{ca}, {system}")),
                "spec.validation",
                "resource-conflict",
            ),
            (
                "one of them",
                of(&target(""), ca),
                of(&target(""), "subjectAltNames: []"),
                "spec.validation",
                "resource-missing",
            ),
            (
                "8 authorities at most",
                of(&target(""), &format!("caCertificateRefs: {}", many(8, |i| format!("{{name: c{i}}}")))),
                of(&target(""), &format!("caCertificateRefs: {}", many(9, |i| format!("{{name: c{i}}}")))),
                "spec.validation.caCertificateRefs",
                "resource-count",
            ),
            (
                "5 names at most",
                of(
                    &target(""),
                    &format!(
                        "{ca}, subjectAltNames: {}",
                        many(5, |i| format!("{{type: Hostname, hostname: h{i}.b}}"))
                    ),
                ),
                of(
                    &target(""),
                    &format!(
                        "{ca}, subjectAltNames: {}",
                        many(6, |i| format!("{{type: Hostname, hostname: h{i}.b}}"))
                    ),
                ),
                "spec.validation.subjectAltNames",
                "resource-count",
            ),
            (
                "a name has the field of its type",
                of(&target(""), &format!("{ca}, subjectAltNames: [{{type: URI, uri: \"spiffe://a/b\"}}]")),
                of(&target(""), &format!("{ca}, subjectAltNames: [{{type: URI, hostname: a.b}}]")),
                "spec.validation.subjectAltNames[0]",
                "resource-invalid-value",
            ),
        ],
    );
}

#[test]
fn our_kinds_and_service() {
    let endpoints = |count| many(count, |i| format!("{{host: h{i}.b, port: 80}}"));
    check(
        "weft.dev/v1alpha1",
        "Backend",
        vec![
            (
                "at least one endpoint",
                format!("{{endpoints: {}}}", endpoints(1)),
                "{endpoints: []}".to_owned(),
                "spec.endpoints",
                "resource-count",
            ),
            (
                "64 endpoints at most",
                format!("{{endpoints: {}}}", endpoints(64)),
                format!("{{endpoints: {}}}", endpoints(65)),
                "spec.endpoints",
                "resource-count",
            ),
            (
                "endpoints differ",
                "{endpoints: [{host: a.b, port: 1}, {host: a.b, port: 2}]}".to_owned(),
                "{endpoints: [{host: a.b, port: 1}, {host: A.B, port: 1}]}".to_owned(),
                "spec.endpoints[1]",
                "resource-conflict",
            ),
            (
                "a host is a name or an address",
                "{endpoints: [{host: \"[::1]\", port: 1}]}".to_owned(),
                "{endpoints: [{host: \"a b\", port: 1}]}".to_owned(),
                "spec.endpoints[0].host",
                "resource-invalid-value",
            ),
            (
                "a protocol is known",
                "{protocol: h2, endpoints: [{host: a, port: 1}]}".to_owned(),
                "{protocol: http, endpoints: [{host: a, port: 1}]}".to_owned(),
                "spec.protocol",
                "resource-invalid-value",
            ),
        ],
    );
    check(
        "weft.dev/v1alpha1",
        "Certificate",
        vec![
            ("at least one file", "{caFile: a}".to_owned(), "{}".to_owned(), "spec", "resource-missing"),
            (
                "a certificate has a key",
                "{certificateFile: a, keyFile: b}".to_owned(),
                "{certificateFile: a}".to_owned(),
                "spec.keyFile",
                "resource-missing",
            ),
            (
                "a key has a certificate",
                "{certificateFile: a, keyFile: b, caFile: c}".to_owned(),
                "{keyFile: a}".to_owned(),
                "spec.certificateFile",
                "resource-missing",
            ),
        ],
    );
    check(
        "v1",
        "Service",
        vec![
            (
                "ports differ",
                "{ports: [{name: a, port: 53}, {name: b, port: 53, protocol: UDP}]}".to_owned(),
                "{ports: [{name: a, port: 53}, {name: b, port: 53, protocol: TCP}]}".to_owned(),
                "spec.ports[1].port",
                "resource-conflict",
            ),
            (
                "several ports have names",
                "{ports: [{port: 1}]}".to_owned(),
                "{ports: [{port: 1}, {port: 2}]}".to_owned(),
                "spec.ports[1].name",
                "resource-conflict",
            ),
        ],
    );
}
