#![allow(clippy::too_many_lines, reason = "each test is a table")]
use super::{GATEWAY_API, check, many};

#[test]
fn gateway() {
    let of = |listeners: &str| format!("{{gatewayClassName: weft, listeners: {listeners}}}");
    let one = |rest: &str| of(&format!("[{{name: a, port: 80, {rest}}}]"));
    let with = |rest: &str| {
        format!("{{gatewayClassName: weft, listeners: [{{name: a, port: 80, protocol: HTTP}}], {rest}}}")
    };
    let tls = "certificateRefs: [{name: c}]";
    check(
        GATEWAY_API,
        "Gateway",
        vec![
            ("at least one listener", one("protocol: HTTP"), of("[]"), "spec.listeners", "resource-count"),
            (
                "64 listeners at most",
                of(&many(64, |i| format!("{{name: l{i}, port: {}, protocol: TCP}}", i + 1))),
                of(&many(65, |i| format!("{{name: l{i}, port: {}, protocol: TCP}}", i + 1))),
                "spec.listeners",
                "resource-count",
            ),
            (
                "names are unique",
                of("[{name: a, port: 80, protocol: HTTP}, {name: b, port: 81, protocol: HTTP}]"),
                of("[{name: a, port: 80, protocol: HTTP}, {name: a, port: 81, protocol: HTTP}]"),
                "spec.listeners[1].name",
                "resource-conflict",
            ),
            (
                "port, protocol and hostname are unique",
                of(
                    "[{name: a, port: 80, protocol: HTTP}, {name: b, port: 80, protocol: HTTP, hostname: a.b}]",
                ),
                of(
                    "[{name: a, port: 80, protocol: HTTP, hostname: A.b}, {name: b, port: 80, protocol: HTTP, hostname: a.b}]",
                ),
                "spec.listeners[1]",
                "resource-conflict",
            ),
            (
                "HTTP has no tls",
                one("protocol: HTTP"),
                one(&format!("protocol: HTTP, tls: {{{tls}}}")),
                "spec.listeners[0].tls",
                "resource-conflict",
            ),
            (
                "TCP has no tls",
                one("protocol: TCP"),
                one(&format!("protocol: TCP, tls: {{{tls}}}")),
                "spec.listeners[0].tls",
                "resource-conflict",
            ),
            (
                "TCP has no hostname",
                one("protocol: TCP"),
                one("protocol: TCP, hostname: a.b"),
                "spec.listeners[0].hostname",
                "resource-conflict",
            ),
            (
                "HTTPS has tls",
                one(&format!("protocol: HTTPS, tls: {{{tls}}}")),
                one("protocol: HTTPS"),
                "spec.listeners[0].tls",
                "resource-missing",
            ),
            (
                "TLS has tls",
                one(&format!("protocol: TLS, tls: {{{tls}}}")),
                one("protocol: TLS"),
                "spec.listeners[0].tls",
                "resource-missing",
            ),
            (
                "HTTPS terminates",
                one(&format!("protocol: HTTPS, tls: {{mode: Terminate, {tls}}}")),
                one(&format!("protocol: HTTPS, tls: {{mode: Passthrough, {tls}}}")),
                "spec.listeners[0].tls.mode",
                "resource-conflict",
            ),
            (
                "who terminates has certificates",
                one("protocol: TLS, tls: {mode: Passthrough}"),
                one("protocol: TLS, tls: {mode: Terminate}"),
                "spec.listeners[0].tls.certificateRefs",
                "resource-missing",
            ),
            (
                "or options",
                one("protocol: HTTPS, tls: {options: {weft.dev/x: y}}"),
                one("protocol: HTTPS, tls: {options: {}}"),
                "spec.listeners[0].tls.certificateRefs",
                "resource-missing",
            ),
            (
                "certificates of a passthrough are passed over",
                one(&format!("protocol: TLS, tls: {{mode: Passthrough, {tls}}}")),
                one("protocol: TLS, tls: {mode: Pass}"),
                "spec.listeners[0].tls.mode",
                "resource-invalid-value",
            ),
            (
                "64 certificates at most",
                one(&format!(
                    "protocol: HTTPS, tls: {{certificateRefs: {}}}",
                    many(64, |i| format!("{{name: c{i}}}"))
                )),
                one(&format!(
                    "protocol: HTTPS, tls: {{certificateRefs: {}}}",
                    many(65, |i| format!("{{name: c{i}}}"))
                )),
                "spec.listeners[0].tls.certificateRefs",
                "resource-count",
            ),
            (
                "8 kinds of routes at most",
                one(&format!(
                    "protocol: HTTP, allowedRoutes: {{kinds: {}}}",
                    many(8, |i| format!("{{kind: K{i}}}"))
                )),
                one(&format!(
                    "protocol: HTTP, allowedRoutes: {{kinds: {}}}",
                    many(9, |i| format!("{{kind: K{i}}}"))
                )),
                "spec.listeners[0].allowedRoutes.kinds",
                "resource-count",
            ),
            (
                "Selector has a selector",
                one(
                    "protocol: HTTP, allowedRoutes: {namespaces: {from: Selector, selector: {matchLabels: {a: b}}}}",
                ),
                one("protocol: HTTP, allowedRoutes: {namespaces: {from: Selector}}"),
                "spec.listeners[0].allowedRoutes.namespaces.selector",
                "resource-missing",
            ),
            (
                "In has values",
                one(
                    "protocol: HTTP, allowedRoutes: {namespaces: {from: Selector, selector: {matchExpressions: [{key: a, operator: In, values: [b]}]}}}",
                ),
                one(
                    "protocol: HTTP, allowedRoutes: {namespaces: {from: Selector, selector: {matchExpressions: [{key: a, operator: In}]}}}",
                ),
                "spec.listeners[0].allowedRoutes.namespaces.selector.matchExpressions[0].values",
                "resource-conflict",
            ),
            (
                "Exists has none",
                one(
                    "protocol: HTTP, allowedRoutes: {namespaces: {from: Selector, selector: {matchExpressions: [{key: a, operator: Exists}]}}}",
                ),
                one(
                    "protocol: HTTP, allowedRoutes: {namespaces: {from: Selector, selector: {matchExpressions: [{key: a, operator: Exists, values: [b]}]}}}",
                ),
                "spec.listeners[0].allowedRoutes.namespaces.selector.matchExpressions[0].values",
                "resource-conflict",
            ),
            (
                "an address is one",
                with("addresses: [{value: \"::1\"}, {type: Hostname, value: a.b}, {}]"),
                with("addresses: [{value: a.b}]"),
                "spec.addresses[0].value",
                "resource-invalid-value",
            ),
            (
                "addresses are unique",
                with("addresses: [{value: 10.0.0.1}, {value: 10.0.0.2}]"),
                with("addresses: [{value: 10.0.0.1}, {type: IPAddress, value: 10.0.0.1}]"),
                "spec.addresses[1]",
                "resource-conflict",
            ),
            (
                "16 addresses at most",
                with(&format!("addresses: {}", many(16, |i| format!("{{value: 10.0.0.{i}}}")))),
                with(&format!("addresses: {}", many(17, |i| format!("{{value: 10.0.0.{i}}}")))),
                "spec.addresses",
                "resource-count",
            ),
            (
                "ports of frontend.perPort are unique",
                with("tls: {frontend: {default: {}, perPort: [{port: 1, tls: {}}, {port: 2, tls: {}}]}}"),
                with("tls: {frontend: {default: {}, perPort: [{port: 1, tls: {}}, {port: 1, tls: {}}]}}"),
                "spec.tls.frontend.perPort[1].port",
                "resource-conflict",
            ),
            (
                "a validation has an authority",
                with("tls: {frontend: {default: {validation: {caCertificateRefs: [{name: a}]}}}}"),
                with("tls: {frontend: {default: {validation: {caCertificateRefs: []}}}}"),
                "spec.tls.frontend.default.validation.caCertificateRefs",
                "resource-count",
            ),
        ],
    );
}
