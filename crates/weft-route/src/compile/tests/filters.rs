use serde_json::{Value, json};

use super::{backends, rule};
use crate::compile::Compiled;
use crate::testing::{compiled, edge, route, said, service, with};

fn filtered(filters: Value, matches: Value) -> Compiled {
    let rules = json!([{"matches": matches, "filters": filters, "backendRefs": [{"name": "s", "port": 80}]}]);
    compiled([edge(), service("s"), service("t"), route("r", rules)])
}

fn request_set(name: &str) -> Value {
    json!([{"type": "RequestHeaderModifier", "requestHeaderModifier": {"set": [{"name": name, "value": "x"}]}}])
}

const FIRST: &str = "spec.rules[0].filters[0]";

#[test]
fn headers_that_are_wefts_to_write_are_refused() {
    for name in [
        "content-length",
        "Transfer-Encoding",
        "connection",
        "upgrade",
        "TE",
        "trailer",
        "keep-alive",
        "http2-settings",
        "proxy-connection",
        "proxy-authorization",
        "weft-identity",
        "Weft-Anything",
        "host",
    ] {
        let places = |value: Value| {
            [
                ("set", json!([{"name": name, "value": "x"}])),
                ("add", json!([{"name": name, "value": "x"}])),
                ("remove", json!([name])),
            ]
            .map(|(place, list)| with(value.clone(), &format!("/0/requestHeaderModifier/{place}"), list))
        };
        for filters in places(json!([{"type": "RequestHeaderModifier", "requestHeaderModifier": {}}])) {
            let compiled = filtered(filters, json!([]));
            assert_eq!(said(&compiled), [format!("UnsupportedValue {FIRST}")], "{name}");
            let rule = rule(&compiled.program, "x", "/").unwrap();
            assert!(
                rule.filters.is_empty() && rule.backends.at(0).unwrap().upstream.is_err(),
                "{name} must answer 500"
            );
        }
        let response = json!([{"type": "ResponseHeaderModifier", "responseHeaderModifier": {"set": [{"name": name, "value": "x"}]}}]);
        assert_eq!(filtered(response, json!([])).notes.is_empty(), name == "host", "{name}");
    }
    let host = filtered(request_set("host"), json!([]));
    assert!(host.notes[0].cure.contains("URLRewrite"), "{}", host.notes[0]);
}

#[test]
fn header_changes_are_made_in_order() {
    let modifier = json!({
        "set": [{"name": "X-Set", "value": "new"}], "add": [{"name": "x-add", "value": "more"}], "remove": ["X-Gone"],
    });
    let compiled =
        filtered(json!([{"type": "RequestHeaderModifier", "requestHeaderModifier": modifier}]), json!([]));
    let mut headers = http::HeaderMap::new();
    for (name, value) in
        [("x-set", "old"), ("x-set", "older"), ("x-add", "one"), ("x-gone", "y"), ("x-stays", "z")]
    {
        headers.append(name, value.parse().unwrap());
    }
    rule(&compiled.program, "x", "/").unwrap().filters.request.apply(&mut headers);
    let all =
        |name: &str| headers.get_all(name).iter().map(|value| value.to_str().unwrap()).collect::<Vec<_>>();
    assert_eq!(all("x-set"), ["new"]);
    assert_eq!(all("x-add"), ["one", "more"]);
    assert_eq!(all("x-gone"), [] as [&str; 0]);
    assert_eq!(all("x-stays"), ["z"]);
}

#[test]
fn a_header_that_stands_twice_in_a_list_is_the_first() {
    let repeated = json!({"set": [{"name": "X-A", "value": "1"}, {"name": "x-a", "value": "2"}]});
    let filters = json!([{"type": "RequestHeaderModifier", "requestHeaderModifier": repeated}]);
    let compiled = filtered(filters, json!([]));
    assert_eq!(said(&compiled), ["UnsupportedValue spec.rules[0].filters[0].requestHeaderModifier.set[1]"]);
    let set = rule(&compiled.program, "x", "/a").unwrap().filters.request.set();
    assert_eq!(set.iter().map(|(_, value)| value.to_str().unwrap()).collect::<Vec<_>>(), ["1"]);
}

#[test]
fn filters_that_cannot_be_carried_out_answer_500() {
    let prefix = json!([{"path": {"type": "PathPrefix", "value": "/a"}}]);
    let exact = json!([{"path": {"type": "Exact", "value": "/a"}}]);
    let redirect = json!({"type": "RequestRedirect", "requestRedirect": {}});
    let rewrite = json!({"type": "URLRewrite", "urlRewrite": {"path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/b"}}});
    let twice = json!({"set": [{"name": "a", "value": "1"}], "remove": ["A"]});
    let headers = json!({"type": "RequestHeaderModifier", "requestHeaderModifier": {"set": [{"name": "a", "value": "1"}]}});
    for (filters, matches, note) in [
        (json!([rewrite]), prefix.clone(), None),
        (json!([rewrite]), json!([]), None),
        (json!([rewrite]), exact, Some("UnsupportedValue spec.rules[0].filters[0]")),
        (json!([rewrite, redirect]), prefix.clone(), Some("IncompatibleFilters spec.rules[0].filters")),
        (json!([rewrite, rewrite]), prefix.clone(), Some("IncompatibleFilters spec.rules[0].filters[1]")),
        (json!([headers, headers]), prefix.clone(), Some("IncompatibleFilters spec.rules[0].filters[1]")),
        (
            json!([{"type": "RequestHeaderModifier", "requestHeaderModifier": twice}]),
            prefix.clone(),
            Some("UnsupportedValue spec.rules[0].filters[0]"),
        ),
        (
            json!([{"type": "ExtensionRef", "extensionRef": {"group": "x.dev", "kind": "Wasm", "name": "w"}}]),
            prefix.clone(),
            Some("BackendNotFound spec.rules[0].filters[0]"),
        ),
        (
            json!([{"type": "CORS", "cors": {"allowMethods": ["G T"]}}]),
            prefix.clone(),
            Some("UnsupportedValue spec.rules[0].filters[0]"),
        ),
        (
            json!([{"type": "CORS", "cors": {"allowHeaders": ["a b"]}}]),
            prefix,
            Some("UnsupportedValue spec.rules[0].filters[0]"),
        ),
    ] {
        let compiled = filtered(filters.clone(), matches);
        let fails = rule(&compiled.program, "x", "/a").unwrap().backends.at(0).unwrap().upstream.is_err();
        assert_eq!(
            (said(&compiled), fails),
            (note.iter().map(|note| (*note).to_owned()).collect(), note.is_some()),
            "{filters}"
        );
    }
}

#[test]
fn a_filter_of_a_backend_that_cannot_be_carried_out_fails_that_backend() {
    let rules = json!([{"backendRefs": [
        {"name": "s", "port": 80, "filters": request_set("te")}, {"name": "t", "port": 80, "filters": request_set("x-a")},
    ]}]);
    let compiled = compiled([edge(), service("s"), service("t"), route("r", rules)]);
    assert_eq!(said(&compiled), ["UnsupportedValue spec.rules[0].backendRefs[0].filters[0]"]);
    let rule = rule(&compiled.program, "x", "/").unwrap();
    assert!(rule.backends.at(0).unwrap().upstream.is_err());
    assert!(!rule.backends.at(1).unwrap().filters.is_empty());
}

#[test]
fn mirrors_are_shares_and_never_fail_a_request() {
    let mirror = |more: Value| {
        let mut mirror = json!({"backendRef": {"name": "t", "port": 80}});
        mirror.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({"type": "RequestMirror", "requestMirror": mirror})
    };
    let both = filtered(
        json!([
            mirror(json!({})),
            mirror(json!({"percent": 5})),
            mirror(json!({"fraction": {"numerator": 1, "denominator": 1000}}))
        ]),
        json!([]),
    );
    assert_eq!(said(&both), [] as [&str; 0]);
    assert_eq!(rule(&both.program, "x", "/").unwrap().filters.mirrors.len(), 3);
    for bad in [
        json!({"percent": 101}),
        json!({"fraction": {"numerator": 2, "denominator": 1}}),
        json!({"fraction": {"numerator": 0, "denominator": 0}}),
        json!({"percent": 1, "fraction": {"numerator": 1}}),
    ] {
        assert_eq!(
            said(&filtered(json!([mirror(bad.clone())]), json!([]))),
            [format!("UnsupportedValue {FIRST}")],
            "{bad}"
        );
    }
    let gone = filtered(
        json!([{"type": "RequestMirror", "requestMirror": {"backendRef": {"name": "gone", "port": 80}}}]),
        json!([]),
    );
    assert_eq!(said(&gone), [format!("BackendNotFound {FIRST}.requestMirror.backendRef")]);
    let rule = rule(&gone.program, "x", "/");
    assert!(rule.unwrap().filters.mirrors.is_empty());
    assert_eq!(backends(rule), ["1 s.shop.svc.cluster.local:80 Http1"]);
}

#[test]
fn calls_have_no_redirect_rewrite_or_cors() {
    for filter in [
        json!({"type": "RequestRedirect", "requestRedirect": {}}),
        json!({"type": "URLRewrite", "urlRewrite": {}}),
        json!({"type": "CORS", "cors": {}}),
    ] {
        let rules = json!([{"filters": [filter], "backendRefs": [{"name": "s", "port": 80}]}]);
        let grpc = with(route("r", rules), "/kind", json!("GRPCRoute"));
        assert_eq!(said(&compiled([edge(), service("s"), grpc])), [format!("UnsupportedValue {FIRST}")]);
    }
}
