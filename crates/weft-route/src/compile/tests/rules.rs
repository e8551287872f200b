use std::time::Duration;

use serde_json::{Value, json};

use super::{find, listener, route_of, rule, table};
use crate::program::RetryPolicy;
use crate::testing::{compiled, edge, route, said, service, with};

fn one(rule: Value) -> crate::Compiled {
    let rule = with(rule, "/backendRefs", json!([{"name": "s", "port": 80}]));
    compiled([edge(), service("s"), route("r", json!([rule]))])
}

#[test]
fn a_route_without_rules_takes_everything() {
    let without =
        json!({"kind": "HTTPRoute", "metadata": {"name": "r"}, "spec": {"parentRefs": [{"name": "edge"}]}});
    let compiled = compiled([edge(), without]);
    assert_eq!(route_of(rule(&compiled.program, "x", "/any")), "r");
    assert_eq!(said(&compiled), ["NoBackends spec.rules[0].backendRefs"]);
}

#[test]
fn timeouts_are_passed_on() {
    for (timeouts, request, one_try) in [
        (json!(null), None, None),
        (json!({}), None, None),
        (json!({"request": "10s"}), Some(Some(10_000)), None),
        (json!({"request": "0s"}), Some(None), None),
        (json!({"request": "10s", "backendRequest": "250ms"}), Some(Some(10_000)), Some(250)),
        (json!({"backendRequest": "0s"}), None, None),
    ] {
        let compiled = one(json!({"timeouts": timeouts}));
        let rule = rule(&compiled.program, "x", "/").unwrap();
        assert_eq!(
            rule.request_timeout,
            request.map(|of: Option<u64>| of.map(Duration::from_millis)),
            "{timeouts}"
        );
        assert_eq!(rule.try_timeout, one_try.map(Duration::from_millis), "{timeouts}");
        assert_eq!(said(&compiled), [] as [&str; 0]);
    }
    let longer = one(json!({"timeouts": {"request": "1s", "backendRequest": "2s"}}));
    assert_eq!(said(&longer), ["UnsupportedValue spec.rules[0].timeouts.backendRequest"]);
}

#[test]
fn retries_are_passed_on() {
    let policy = |codes: &[u16], attempts, millis| {
        Some(RetryPolicy { codes: codes.to_vec(), attempts, backoff: Duration::from_millis(millis) })
    };
    for (retry, wanted, note) in [
        (json!(null), None, false),
        (json!({}), policy(&[], 1, 25), false),
        (json!({"attempts": 0}), None, false),
        (json!({"codes": [503, 429], "attempts": 3, "backoff": "100ms"}), policy(&[503, 429], 3, 100), false),
        (json!({"codes": [200, 503]}), policy(&[503], 1, 25), true),
    ] {
        let compiled = one(json!({"retry": retry}));
        assert_eq!(rule(&compiled.program, "x", "/").unwrap().retry, wanted, "{retry}");
        assert_eq!(!said(&compiled).is_empty(), note, "{retry}");
    }
}

#[test]
fn session_persistence_is_passed_on() {
    let compiled =
        one(json!({"sessionPersistence": {"sessionName": "s", "type": "Header", "idleTimeout": "1m"}}));
    let session = rule(&compiled.program, "x", "/").unwrap().session.clone().unwrap();
    assert_eq!(session.session_name.as_deref(), Some("s"));
    let permanent = json!({"cookieConfig": {"lifetimeType": "Permanent"}});
    let refused = one(json!({"sessionPersistence": permanent}));
    assert_eq!(said(&refused), ["UnsupportedValue spec.rules[0].sessionPersistence"]);
    assert_eq!(rule(&refused.program, "x", "/").unwrap().session, None);
}

#[test]
fn a_name_that_comes_twice_counts_once() {
    let headers = json!([{"name": "X-A", "value": "1"}, {"name": "x-a", "value": "2"}]);
    let compiled = one(json!({"matches": [{"headers": headers}]}));
    assert_eq!(said(&compiled), ["UnsupportedValue spec.rules[0].matches[0].headers[1]"]);
    let candidates: Vec<_> = table(listener(&compiled.program, 80, "x").unwrap()).candidates("x").collect();
    assert_eq!(candidates[0].headers.len(), 1);
}

#[test]
fn a_trailing_slash_of_a_prefix_says_nothing() {
    let compiled = one(json!({"matches": [{"path": {"type": "PathPrefix", "value": "/abc/"}}]}));
    for (path, hit) in [("/abc", true), ("/abc/", true), ("/abc/d", true), ("/abcd", false), ("/", false)] {
        assert_eq!(rule(&compiled.program, "x", path).is_some(), hit, "{path}");
    }
}

#[test]
fn rules_have_names_for_people() {
    let rules = json!([{"name": "canary", "backendRefs": [{"name": "s", "port": 80}]}]);
    let compiled = compiled([edge(), service("s"), route("r", rules)]);
    let rule = rule(&compiled.program, "x", "/").unwrap();
    assert_eq!(rule.id.to_string(), "HTTPRoute shop/r rule canary");
    assert_eq!(&*rule.label, "shop/r");
    assert!(!rule.grpc);
}

#[test]
fn calls_are_matched_by_service_and_method() {
    let grpc = |matches: Value| {
        let spec = json!({"parentRefs": [{"name": "edge"}], "rules": [{"matches": matches, "backendRefs": [{"name": "s", "port": 80}]}]});
        json!({"kind": "GRPCRoute", "metadata": {"name": "g"}, "spec": spec})
    };
    for (method, hits, misses) in [
        (json!(null), vec!["/a.B/C", "/x"], vec![]),
        (
            json!({"service": "a.B", "method": "C"}),
            vec!["/a.B/C"],
            vec!["/a.B/D", "/a.b/C", "/a.B/C/", "/a.B"],
        ),
        (json!({"service": "a.B"}), vec!["/a.B/C", "/a.B/D"], vec!["/a.BB/C", "/A.B/C"]),
        (json!({"method": "C"}), vec!["/a.B/C", "/x/C"], vec!["/a.B/D", "/C", "/a/b/C"]),
        (
            json!({"type": "RegularExpression", "service": "a\\.[A-Z]", "method": "Get.*"}),
            vec!["/a.B/GetX", "/a.Z/Get"],
            vec!["/a.b/GetX", "/a.B/XGet", "/a.BB/Get", "/a.B/Get/x"],
        ),
        (
            json!({"type": "RegularExpression", "service": "a|b"}),
            vec!["/a/x", "/b/x"],
            vec!["/ab/x", "/a", "/a/b/c"],
        ),
        (json!({"type": "RegularExpression", "method": "a|b"}), vec!["/x/a", "/y/b"], vec!["/x/c", "/x/y/a"]),
    ] {
        let compiled = compiled([edge(), service("s"), grpc(json!([{"method": method}]))]);
        assert_eq!(said(&compiled), [] as [&str; 0]);
        let table = table(listener(&compiled.program, 80, "x").unwrap());
        for path in hits {
            assert!(find(table, "x", path).is_some(), "{method} {path}");
        }
        for path in misses {
            assert!(find(table, "x", path).is_none(), "{method} {path}");
        }
    }
    let any = compiled([edge(), service("s"), grpc(json!([]))]);
    let rule = rule(&any.program, "x", "/a/b").unwrap();
    assert!(rule.grpc);
    assert_eq!(super::backends(Some(rule)), ["1 s.shop.svc.cluster.local:80 Http2"]);
}

#[test]
fn a_path_is_matched_in_the_form_that_requests_have() {
    for (path, asked, hit) in [
        ("/caf%c3%a9", "/caf%C3%A9", true),
        ("/%61", "/a", true),
        ("/a%20b/", "/a%20b/c", true),
        ("/A", "/a", false),
    ] {
        let compiled = one(json!({"matches": [{"path": {"value": path}}]}));
        assert_eq!(said(&compiled), [] as [&str; 0]);
        assert_eq!(rule(&compiled.program, "x", asked).is_some(), hit, "{path} {asked}");
    }
    let never = one(json!({"matches": [{"path": {"value": "/a/..;/b"}}]}));
    assert_eq!(said(&never), ["UnsupportedValue spec.rules[0].matches[0].path.value"]);
}
