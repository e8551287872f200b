#![allow(clippy::needless_pass_by_value, reason = "what `json!` makes is handed over")]

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use serde_json::{Value, json};

use super::{Door, Explanation, MOST_MISSES, Question, QuestionText, Unexplained, explain};
use crate::testing::{compiled, edge, route, service, with};

fn ask_at(
    door: Door,
    documents: Vec<Value>,
    url: &str,
    headers: &[(&'static str, &'static str)],
) -> Result<Explanation, Unexplained> {
    let compiled = compiled(documents);
    let pairs =
        headers.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
    let headers: HeaderMap = pairs.collect();
    explain(&compiled.program, &Question { method: Method::GET, url, headers, door })
}

fn ask(documents: Vec<Value>, url: &str) -> Explanation {
    ask_at(Door::AnyGateway, documents, url, &[]).unwrap()
}

fn shop() -> Vec<Value> {
    let rules = json!([
        {
            "name": "canary",
            "matches": [{"path": {"value": "/orders"}, "headers": [{"name": "x-canary", "value": "1"}]}],
            "backendRefs": [{"name": "canary", "port": 80}],
        },
        {
            "matches": [{"path": {"value": "/orders"}}],
            "filters": [
                {"type": "ResponseHeaderModifier", "responseHeaderModifier": {"remove": ["server"]}},
                {"type": "RequestMirror", "requestMirror": {"backendRef": {"name": "canary", "port": 80}, "percent": 5}},
                {"type": "URLRewrite", "urlRewrite": {"path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/"}}},
            ],
            "backendRefs": [{"name": "orders", "port": 80, "weight": 3}, {"name": "gone", "port": 80}],
            "timeouts": {"request": "10s", "backendRequest": "2s"},
            "retry": {"attempts": 2, "codes": [503]},
        },
        {"matches": [{"path": {"value": "/old"}}], "filters": [{"type": "RequestRedirect", "requestRedirect": {"scheme": "https", "statusCode": 301}}]},
        {"matches": [{"path": {"value": "/orders"}, "method": "POST"}], "backendRefs": [{"name": "orders", "port": 80}]},
    ]);
    let route = with(route("orders", rules), "/spec/hostnames", json!(["shop.example"]));
    vec![edge(), service("orders"), service("canary"), route]
}

#[test]
fn tells_the_whole_way_of_a_request() {
    let text = ask(shop(), "http://Shop.Example/a/../orders/1?x=y").to_string();
    assert_eq!(
        text,
        "GET shop.example /orders/1?x=y
  comes in at listener shop/edge/http (port 80, every host)
  belongs to HTTPRoute shop/orders rule 1
    matched by path below `/orders`
    filter: mirror 5 % to canary.shop.svc.cluster.local:80
    filter: rewrite prefix taken off
    filter: response header `server` taken out
    backend: 75 % (weight 3) orders.shop.svc.cluster.local:80, HTTP/1.1
    backend: 25 % (weight 1) answers 500: there is no Service shop/gone
    request timeout: 10s
    timeout of a try: 2s
    tried again: at most 2 more, after a failure to connect or status 503, 25ms apart at least
  => sent to one of its backends, by weight; some answer 500
near misses:
  HTTPRoute shop/orders rule 3 (path below `/orders`, method POST): method is GET
  HTTPRoute shop/orders rule canary (path below `/orders`, header `x-canary` = `1`): there is no header `x-canary`
  HTTPRoute shop/orders rule 2 (path below `/old`): path is `/orders/1`
"
    );
}

#[test]
fn what_matches_and_comes_later_is_a_miss_of_its_own_kind() {
    let found = ask_at(Door::AnyGateway, shop(), "http://shop.example/orders", &[("x-canary", "1")]).unwrap();
    assert_eq!(found.rule.unwrap().rule, "HTTPRoute shop/orders rule canary");
    assert_eq!(found.outcome, "sent to canary.shop.svc.cluster.local:80");
    assert!(
        found.near_misses[0].matches && found.near_misses[0].failed.is_empty(),
        "{:?}",
        found.near_misses
    );
    assert!(!found.near_misses[1].matches);
}

#[test]
fn answers_of_weft_have_their_status() {
    for (url, status, outcome) in [
        ("http://shop.example/old", Some(301), "301: redirected"),
        ("http://shop.example/none", Some(404), "404: no rule matches"),
        ("http://shop.example/..", Some(400), "400: the path leads above its root"),
        ("http://shop.example/%00", Some(400), "400: the path has a control character or a space"),
        ("http://other.example/orders", Some(404), "404: no rule matches"),
        ("http://shop.example:81/orders", None, "nothing listens for http on port 81; there are ports [80]"),
        ("https://shop.example/orders", None, "nothing listens for https on port 443; there are ports [80]"),
    ] {
        let found = ask(shop(), url);
        assert_eq!((found.status, found.outcome.as_str()), (status, outcome), "{url}");
    }
}

#[test]
fn what_a_backends_filters_answer_is_told_where_it_is_the_only_one() {
    let redirect = json!([{"type": "RequestRedirect", "requestRedirect": {"statusCode": 307}}]);
    let moved = json!({"name": "s", "port": 80, "filters": redirect});
    let stays = json!({"name": "s", "port": 80, "weight": 0});
    for (backends, status, outcome) in [
        (json!([moved]), Some(307), "307: redirected"),
        (json!([moved, stays]), Some(307), "307: redirected"),
        (json!([moved, {"name": "s", "port": 80}]), None, "sent to one of its backends, by weight"),
    ] {
        let found = ask(
            vec![edge(), service("s"), route("r", json!([{"backendRefs": backends}]))],
            "http://x.example/",
        );
        assert_eq!((found.status, found.outcome.as_str()), (status, outcome));
    }
}

#[test]
fn a_host_without_a_listener_is_told_what_there_is() {
    let mut documents = shop();
    documents[0] = with(edge(), "/spec/listeners/0/hostname", json!("*.example"));
    let found = ask(documents, "http://shop.other/");
    assert_eq!(
        found.outcome,
        "no listener on port 80 is for `shop.other`; there are shop/edge/http (*.example)"
    );
    assert_eq!(found.door, None);
}

#[test]
fn a_gateway_can_be_named() {
    let door = |name: &str| Door::Gateway { namespace: "shop".to_owned(), name: name.to_owned() };
    assert!(ask_at(door("edge"), shop(), "http://shop.example/orders", &[]).unwrap().rule.is_some());
    assert!(ask_at(door("other"), shop(), "http://shop.example/orders", &[]).unwrap().rule.is_none());
}

#[test]
fn a_service_is_a_door_as_well() {
    let parent = json!([{"group": "", "kind": "Service", "name": "orders"}]);
    let rules =
        json!([{"matches": [{"path": {"value": "/v2"}}], "backendRefs": [{"name": "canary", "port": 80}]}]);
    let documents = || {
        vec![
            service("orders"),
            service("canary"),
            with(route("mesh", rules.clone()), "/spec/parentRefs", parent.clone()),
        ]
    };
    let key = |port| weft_core::ServiceKey::new("orders.shop.svc.cluster.local".parse().unwrap(), port);
    let found = ask_at(Door::Service(key(80)), documents(), "/v2/x", &[]).unwrap();
    assert_eq!(found.outcome, "sent to canary.shop.svc.cluster.local:80");
    assert_eq!(found.door.as_deref(), Some("service orders.shop.svc.cluster.local:80"));
    assert_eq!(ask_at(Door::Service(key(80)), documents(), "/v1", &[]).unwrap().status, Some(404));
    let none = ask_at(Door::Service(key(81)), documents(), "/v2", &[]).unwrap();
    assert!(none.outcome.starts_with("no route hangs on"), "{}", none.outcome);
}

#[test]
fn connections_are_told_too() {
    let listeners = json!([{"name": "tls", "port": 443, "protocol": "TLS", "tls": {"mode": "Passthrough"}}]);
    let tls = json!({"kind": "TLSRoute", "metadata": {"name": "t"}, "spec": {
        "parentRefs": [{"name": "edge"}], "hostnames": ["db.example"], "rules": [{"backendRefs": [{"name": "orders", "port": 80}]}],
    }});
    let documents =
        || vec![with(edge(), "/spec/listeners", listeners.clone()), service("orders"), tls.clone()];
    assert_eq!(ask(documents(), "https://db.example/").outcome, "sent to orders.shop.svc.cluster.local:80");
    assert_eq!(
        ask(documents(), "https://x.example/").outcome,
        "no route takes connections for `x.example`: they are closed"
    );
}

#[test]
fn near_misses_are_few() {
    let rules: Vec<Value> = (0..16).map(|at| json!({"matches": [{"path": {"value": format!("/p{at}")}}], "backendRefs": [{"name": "s", "port": 80}]})).collect();
    let found = ask(vec![edge(), service("s"), route("r", json!(rules))], "http://x/none");
    assert_eq!(found.near_misses.len(), MOST_MISSES);
}

#[test]
fn questions_that_are_none_are_refused() {
    for url in ["", "/orders", "shop.example/orders", "http:///x", "ftp://a/x", "http://a b/x"] {
        assert!(ask_at(Door::AnyGateway, shop(), url, &[]).is_err(), "{url}");
    }
}

#[test]
fn json_has_the_names_of_the_reference() {
    let value = serde_json::to_value(ask(shop(), "http://shop.example/orders")).unwrap();
    assert_eq!(value["request"]["host"], "shop.example");
    assert_eq!(value["rule"]["backends"][0]["percent"], 75.0);
    assert_eq!(value["rule"]["requestTimeout"], "10s");
    assert!(value["nearMisses"].is_array());
}

#[test]
fn a_question_as_text_has_the_same_answer() {
    let compiled = compiled(shop());
    let mut headers = HeaderMap::new();
    headers.insert("x-canary", HeaderValue::from_static("1"));
    let door = Door::Gateway { namespace: "shop".to_owned(), name: "edge".to_owned() };
    let question = Question { method: Method::GET, url: "http://shop.example/orders", headers, door };
    let text = QuestionText::from(&question);
    let sent = serde_json::to_string(&text).unwrap();
    let got: QuestionText = serde_json::from_str(&sent).unwrap();
    let answer = got.answer(&compiled.program).unwrap();
    assert_eq!(answer.to_string(), explain(&compiled.program, &question).unwrap().to_string());
    assert!(answer.rule.is_some());
    // And so has the answer that comes back.
    let back: Explanation = serde_json::from_str(&serde_json::to_string(&answer).unwrap()).unwrap();
    assert_eq!(back.to_string(), answer.to_string());
    let service = Question {
        door: Door::Service(weft_core::ServiceKey::new("a.b".parse().unwrap(), 80)),
        url: "/x",
        ..question
    };
    assert_eq!(QuestionText::from(&service).door().unwrap(), service.door);
}

/// Whoever asks a running process gets its answer as JSON, and writes the text of it.
#[test]
fn times_are_told_in_the_same_words_from_files_and_by_a_process() {
    for (timeouts, told) in [
        (
            json!({"request": "10s", "backendRequest": "2s"}),
            "request timeout: 10s\n    timeout of a try: 2s\n",
        ),
        (
            json!({"request": "1h30m", "backendRequest": "1500ms"}),
            "request timeout: 5400s\n    timeout of a try: 1.5s\n",
        ),
        (json!({"request": "0s"}), "request timeout: none\n"),
        (json!({"backendRequest": "1m"}), "timeout of a try: 60s\n"),
    ] {
        let rules = json!([{"backendRefs": [{"name": "orders", "port": 80}], "timeouts": timeouts}]);
        let compiled = compiled(vec![edge(), service("orders"), route("orders", rules)]);
        let question = Question {
            method: Method::GET,
            url: "http://shop.example/orders",
            headers: HeaderMap::new(),
            door: Door::AnyGateway,
        };
        let from_files = explain(&compiled.program, &question).unwrap().to_string();
        assert!(from_files.contains(told), "{from_files}");
        let asked = serde_json::to_string(&QuestionText::from(&question)).unwrap();
        let asked: QuestionText = serde_json::from_str(&asked).unwrap();
        let answer = serde_json::to_string(&asked.answer(&compiled.program).unwrap()).unwrap();
        let by_process: Explanation = serde_json::from_str(&answer).unwrap();
        assert_eq!(by_process.to_string(), from_files);
    }
}

#[test]
fn a_question_as_text_may_be_none() {
    let good =
        || QuestionText { method: "GET".to_owned(), url: "http://a/".to_owned(), ..QuestionText::default() };
    for (bad, told) in [
        (QuestionText { method: "G T".to_owned(), ..good() }, "no method"),
        (QuestionText { url: "a".to_owned(), ..good() }, "scheme and host"),
        (QuestionText { headers: vec![("a b".to_owned(), String::new())], ..good() }, "no header"),
        (QuestionText { headers: vec![("a".to_owned(), "x\ny".to_owned())], ..good() }, "no header"),
        (QuestionText { gateway: Some("edge".to_owned()), ..good() }, "namespace/name"),
        (QuestionText { service: Some("orders".to_owned()), ..good() }, "its port"),
        (QuestionText { service: Some("orders:x".to_owned()), ..good() }, "its port"),
        (
            QuestionText { service: Some("a:80".to_owned()), gateway: Some("a/b".to_owned()), ..good() },
            "exclude",
        ),
    ] {
        let error = bad.answer(&crate::Program::default()).unwrap_err().to_string();
        assert!(error.contains(told), "{error}");
    }
    assert!(serde_json::from_str::<QuestionText>(r#"{"method":"GET","url":"/","from":"x"}"#).is_err());
}
