#![allow(clippy::too_many_lines, reason = "each test is a table")]
use super::{GATEWAY_API, check, many};

#[test]
fn http_route() {
    let rule = |rule: &str| format!("{{rules: [{{{rule}}}]}}");
    let filter = |filter: &str| rule(&format!("filters: [{filter}]"));
    let modify =
        |list: &str| filter(&format!("{{type: RequestHeaderModifier, requestHeaderModifier: {{{list}}}}}"));
    let mirror = |rest: &str| {
        filter(&format!(
            "{{type: RequestMirror, requestMirror: {{backendRef: {{name: a, port: 1}}, {rest}}}}}"
        ))
    };
    let cors = |rest: &str| filter(&format!("{{type: CORS, cors: {{{rest}}}}}"));
    let matched = |one: &str| rule(&format!("matches: [{{{one}}}]"));
    let redirect = "{type: RequestRedirect, requestRedirect: {scheme: https}}";
    let rewrite = "{type: URLRewrite, urlRewrite: {hostname: a.b}}";
    let to_prefix =
        "{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /x}}}";
    let redirect_prefix = "{type: RequestRedirect, requestRedirect: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /x}}}";
    let response = "{type: ResponseHeaderModifier, responseHeaderModifier: {remove: [a]}}";
    check(
        GATEWAY_API,
        "HTTPRoute",
        vec![
            ("at least one rule", "{}".to_owned(), "{rules: []}".to_owned(), "spec.rules", "resource-count"),
            (
                "16 rules at most",
                format!("{{rules: {}}}", many(16, |_| "{}".to_owned())),
                format!("{{rules: {}}}", many(17, |_| "{}".to_owned())),
                "spec.rules",
                "resource-count",
            ),
            (
                "64 matches at most",
                rule(&format!("matches: {}", many(64, |_| "{}".to_owned()))),
                rule(&format!("matches: {}", many(65, |_| "{}".to_owned()))),
                "spec.rules[0].matches",
                "resource-count",
            ),
            (
                "128 matches together",
                format!(
                    "{{rules: {}}}",
                    many(2, |_| format!("{{matches: {}}}", many(64, |_| "{}".to_owned())))
                ),
                format!(
                    "{{rules: {}}}",
                    many(3, |_| format!("{{matches: {}}}", many(43, |_| "{}".to_owned())))
                ),
                "spec.rules",
                "resource-count",
            ),
            (
                "16 filters at most",
                rule(&format!(
                    "filters: {}",
                    many(16, |_| "{type: ExtensionRef, extensionRef: {name: a}}".to_owned())
                )),
                rule(&format!(
                    "filters: {}",
                    many(17, |_| "{type: ExtensionRef, extensionRef: {name: a}}".to_owned())
                )),
                "spec.rules[0].filters",
                "resource-count",
            ),
            (
                "16 backends at most",
                rule(&format!("backendRefs: {}", many(16, |i| format!("{{name: b{i}, port: 1}}")))),
                rule(&format!("backendRefs: {}", many(17, |i| format!("{{name: b{i}, port: 1}}")))),
                "spec.rules[0].backendRefs",
                "resource-count",
            ),
            (
                "16 hostnames at most",
                format!("{{hostnames: {}}}", many(16, |i| format!("h{i}.b"))),
                format!("{{hostnames: {}}}", many(17, |i| format!("h{i}.b"))),
                "spec.hostnames",
                "resource-count",
            ),
            (
                "32 parents at most",
                format!("{{parentRefs: {}}}", many(32, |i| format!("{{name: p{i}}}"))),
                format!("{{parentRefs: {}}}", many(33, |i| format!("{{name: p{i}}}"))),
                "spec.parentRefs",
                "resource-count",
            ),
            (
                "parents differ",
                "{parentRefs: [{name: a, sectionName: x}, {name: a, sectionName: y}, {name: b}]}".to_owned(),
                "{parentRefs: [{name: a}, {name: a, kind: Gateway}]}".to_owned(),
                "spec.parentRefs[1]",
                "resource-conflict",
            ),
            (
                "parents differ by port",
                "{parentRefs: [{name: a, port: 1}, {name: a, port: 2}]}".to_owned(),
                "{parentRefs: [{name: a, port: 1}, {name: a, port: 1}]}".to_owned(),
                "spec.parentRefs[1]",
                "resource-conflict",
            ),
            (
                "parents set the same",
                "{parentRefs: [{name: a, sectionName: x, port: 1}, {name: a, sectionName: x, port: 2}]}"
                    .to_owned(),
                "{parentRefs: [{name: a}, {name: a, sectionName: y}]}".to_owned(),
                "spec.parentRefs[1]",
                "resource-conflict",
            ),
            (
                "another namespace is another parent",
                "{parentRefs: [{name: a}, {name: a, namespace: n}]}".to_owned(),
                "{parentRefs: [{name: a, namespace: n}, {name: a, namespace: n}]}".to_owned(),
                "spec.parentRefs[1]",
                "resource-conflict",
            ),
            (
                "names of rules are unique",
                "{rules: [{name: a}, {name: b}, {}, {}]}".to_owned(),
                "{rules: [{name: a}, {name: a}]}".to_owned(),
                "spec.rules[1].name",
                "resource-conflict",
            ),
            (
                "redirect and rewrite exclude each other",
                filter(rewrite),
                filter(&format!("{redirect}, {rewrite}")),
                "spec.rules[0].filters",
                "resource-conflict",
            ),
            (
                "a redirect has no backend",
                filter(redirect),
                rule(&format!("filters: [{redirect}], backendRefs: [{{name: a, port: 1}}]")),
                "spec.rules[0].backendRefs",
                "resource-conflict",
            ),
            (
                "a filter stands once",
                filter(&format!("{response}, {rewrite}")),
                filter(&format!("{response}, {response}")),
                "spec.rules[0].filters[1].type",
                "resource-conflict",
            ),
            (
                "but mirrors",
                filter(
                    &many(2, |_| {
                        "{type: RequestMirror, requestMirror: {backendRef: {name: a, port: 1}}}".to_owned()
                    })
                    .replace(['[', ']'], ""),
                ),
                filter(&format!("{rewrite}, {rewrite}")),
                "spec.rules[0].filters[1].type",
                "resource-conflict",
            ),
            (
                "a prefix is replaced where one prefix is matched",
                rule(&format!("matches: [{{path: {{value: /a}}}}], filters: [{to_prefix}]")),
                rule(&format!("matches: [{{path: {{type: Exact, value: /a}}}}], filters: [{to_prefix}]")),
                "spec.rules[0].filters[0].urlRewrite.path",
                "resource-conflict",
            ),
            (
                "one, not two",
                rule(&format!("filters: [{to_prefix}]")),
                rule(&format!(
                    "matches: [{{path: {{value: /a}}}}, {{path: {{value: /b}}}}], filters: [{to_prefix}]"
                )),
                "spec.rules[0].filters[0].urlRewrite.path",
                "resource-conflict",
            ),
            (
                "in a redirect alike",
                rule(&format!("matches: [{{method: GET}}], filters: [{redirect_prefix}]")),
                rule(&format!(
                    "matches: [{{path: {{type: RegularExpression, value: /a}}}}], filters: [{redirect_prefix}]"
                )),
                "spec.rules[0].filters[0].requestRedirect.path",
                "resource-conflict",
            ),
            (
                "on a backend alike",
                rule(&format!("backendRefs: [{{name: a, port: 1, filters: [{to_prefix}]}}]")),
                rule(&format!(
                    "matches: [{{path: {{type: Exact, value: /a}}}}], backendRefs: [{{name: a, port: 1, filters: [{to_prefix}]}}]"
                )),
                "spec.rules[0].backendRefs[0].filters[0].urlRewrite.path",
                "resource-conflict",
            ),
            (
                "a full path is replaced anywhere",
                rule(
                    "matches: [{path: {type: Exact, value: /a}}], filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplaceFullPath, replaceFullPath: /x}}}]",
                ),
                filter(
                    "{type: URLRewrite, urlRewrite: {path: {type: ReplaceFullPath, replacePrefixMatch: /x}}}",
                ),
                "spec.rules[0].filters[0].urlRewrite.path",
                "resource-invalid-value",
            ),
            (
                "a service has a port",
                rule("backendRefs: [{name: a, port: 1}, {group: weft.dev, kind: Backend, name: b}]"),
                rule("backendRefs: [{name: a}]"),
                "spec.rules[0].backendRefs[0].port",
                "resource-missing",
            ),
            (
                "for a mirror alike",
                mirror("percent: 5"),
                filter("{type: RequestMirror, requestMirror: {backendRef: {name: a}}}"),
                "spec.rules[0].filters[0].requestMirror.backendRef.port",
                "resource-missing",
            ),
            (
                "percent or fraction",
                mirror("fraction: {numerator: 1}"),
                mirror("percent: 5, fraction: {numerator: 1}"),
                "spec.rules[0].filters[0].requestMirror",
                "resource-conflict",
            ),
            (
                "a percentage",
                mirror("percent: 100"),
                mirror("percent: 101"),
                "spec.rules[0].filters[0].requestMirror.percent",
                "resource-invalid-value",
            ),
            (
                "a fraction is not more than all",
                mirror("fraction: {numerator: 3, denominator: 3}"),
                mirror("fraction: {numerator: 4, denominator: 3}"),
                "spec.rules[0].filters[0].requestMirror.fraction",
                "resource-conflict",
            ),
            (
                "a denominator is not zero",
                mirror("fraction: {numerator: 0, denominator: 1}"),
                mirror("fraction: {numerator: 0, denominator: 0}"),
                "spec.rules[0].filters[0].requestMirror.fraction.denominator",
                "resource-invalid-value",
            ),
            (
                "headers removed are unique",
                modify("remove: [a, b]"),
                modify("remove: [a, b, A]"),
                "spec.rules[0].filters[0].requestHeaderModifier.remove[2]",
                "resource-conflict",
            ),
            (
                "16 headers at most",
                modify(&format!("remove: {}", many(16, |i| format!("h{i}")))),
                modify(&format!("remove: {}", many(17, |i| format!("h{i}")))),
                "spec.rules[0].filters[0].requestHeaderModifier.remove",
                "resource-count",
            ),
            (
                "a header has a value",
                modify("set: [{name: a, value: x}]"),
                modify("set: [{name: a, value: \"\"}]"),
                "spec.rules[0].filters[0].requestHeaderModifier.set[0].value",
                "resource-invalid-value",
            ),
            (
                "queries of a match are unique",
                matched("queryParams: [{name: a, value: x}, {name: A, value: x}]"),
                matched("queryParams: [{name: a, value: x}, {name: a, value: y}]"),
                "spec.rules[0].matches[0].queryParams[1].name",
                "resource-conflict",
            ),
            (
                "a query has a name",
                matched("queryParams: [{name: a, value: x}]"),
                matched("queryParams: [{name: \"\", value: x}]"),
                "spec.rules[0].matches[0].queryParams[0].name",
                "resource-invalid-value",
            ),
            (
                "16 headers in a match at most",
                matched(&format!("headers: {}", many(16, |i| format!("{{name: h{i}, value: x}}")))),
                matched(&format!("headers: {}", many(17, |i| format!("{{name: h{i}, value: x}}")))),
                "spec.rules[0].matches[0].headers",
                "resource-count",
            ),
            (
                "a path begins with a slash",
                matched("path: {type: Exact, value: /a}"),
                matched("path: {type: Exact, value: a}"),
                "spec.rules[0].matches[0].path.value",
                "resource-invalid-value",
            ),
            (
                "an expression compiles",
                matched("path: {type: RegularExpression, value: \"/a+\"}"),
                matched("path: {type: RegularExpression, value: \"/a(\"}"),
                "spec.rules[0].matches[0].path.value",
                "resource-invalid-value",
            ),
            (
                "* stands alone in CORS",
                cors("allowOrigins: [\"*\"], allowMethods: [\"*\"]"),
                cors("allowOrigins: [\"*\", https://a.b]"),
                "spec.rules[0].filters[0].cors.allowOrigins",
                "resource-conflict",
            ),
            (
                "methods alike",
                cors("allowMethods: [GET, PUT]"),
                cors("allowMethods: [GET, \"*\"]"),
                "spec.rules[0].filters[0].cors.allowMethods",
                "resource-conflict",
            ),
            (
                "maxAge is at least a second",
                cors("maxAge: 1"),
                cors("maxAge: 0"),
                "spec.rules[0].filters[0].cors.maxAge",
                "resource-invalid-value",
            ),
            (
                "a try is not longer than the request",
                rule("timeouts: {request: 2s, backendRequest: 2s}"),
                rule("timeouts: {request: 2s, backendRequest: 3s}"),
                "spec.rules[0].timeouts.backendRequest",
                "resource-conflict",
            ),
            (
                "zero is no limit",
                rule("timeouts: {request: 0s, backendRequest: 2s}"),
                rule("timeouts: {request: 1ms, backendRequest: 2s}"),
                "spec.rules[0].timeouts.backendRequest",
                "resource-conflict",
            ),
            (
                "codes of retries are failures",
                rule("retry: {codes: [400, 599], attempts: 0}"),
                rule("retry: {codes: [200]}"),
                "spec.rules[0].retry.codes[0]",
                "resource-invalid-value",
            ),
            (
                "attempts are not negative",
                rule("retry: {attempts: 3}"),
                rule("retry: {attempts: -1}"),
                "spec.rules[0].retry.attempts",
                "resource-invalid-value",
            ),
            (
                "a permanent cookie has a lifetime",
                rule("sessionPersistence: {absoluteTimeout: 1h, cookieConfig: {lifetimeType: Permanent}}"),
                rule("sessionPersistence: {cookieConfig: {lifetimeType: Permanent}}"),
                "spec.rules[0].sessionPersistence.absoluteTimeout",
                "resource-missing",
            ),
            (
                "a header has none",
                rule("sessionPersistence: {type: Header, sessionName: x-a}"),
                rule(
                    "sessionPersistence: {type: Header, absoluteTimeout: 1h, cookieConfig: {lifetimeType: Permanent}}",
                ),
                "spec.rules[0].sessionPersistence.cookieConfig",
                "resource-conflict",
            ),
            (
                "a session's name is a token",
                rule("sessionPersistence: {sessionName: a}"),
                rule("sessionPersistence: {sessionName: \"a b\"}"),
                "spec.rules[0].sessionPersistence.sessionName",
                "resource-invalid-value",
            ),
            (
                "a weight is at most a million",
                rule("backendRefs: [{name: a, port: 1, weight: 1000000}]"),
                rule("backendRefs: [{name: a, port: 1, weight: 1000001}]"),
                "spec.rules[0].backendRefs[0].weight",
                "resource-invalid-value",
            ),
            (
                "a filter has the field of its type",
                filter(rewrite),
                filter("{type: URLRewrite}"),
                "spec.rules[0].filters[0]",
                "resource-invalid-value",
            ),
            (
                "and no other",
                filter(redirect),
                filter("{type: RequestRedirect, requestRedirect: {}, urlRewrite: {}}"),
                "spec.rules[0].filters[0]",
                "resource-invalid-value",
            ),
        ],
    );
}
