//! Filters as the Gateway API's reference and the Fetch standard have them.

use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
    ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, LOCATION, ORIGIN, VARY,
};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use weft_resource::filter::Scheme;

use super::{Cors, PathRewrite, Redirect, Seen, Share};
use crate::table::PathRule;

fn redirect() -> Redirect {
    Redirect { scheme: None, host: None, port: None, path: None, status: StatusCode::FOUND }
}

const SEEN: Seen<'_> = Seen { tls: false, host: "a.example", port: 80, path: "/a/b", query: None };

#[test]
fn the_port_of_a_redirect_follows_from_scheme_and_listener() {
    let (http, https) = (Some(Scheme::Http), Some(Scheme::Https));
    for (tls, listener, scheme, port, location) in [
        // Nothing said: that of the listener, and the usual one is left out.
        (false, 80, None, None, "http://a.example/a/b"),
        (false, 8080, None, None, "http://a.example:8080/a/b"),
        (true, 443, None, None, "https://a.example/a/b"),
        (true, 8443, None, None, "https://a.example:8443/a/b"),
        (false, 443, None, None, "http://a.example:443/a/b"),
        (true, 80, None, None, "https://a.example:80/a/b"),
        // A scheme has its usual port.
        (false, 8080, https, None, "https://a.example/a/b"),
        (false, 80, https, None, "https://a.example/a/b"),
        (true, 8443, http, None, "http://a.example/a/b"),
        (false, 8080, http, None, "http://a.example/a/b"),
        // A port that is said.
        (false, 80, None, Some(8080), "http://a.example:8080/a/b"),
        (false, 8080, None, Some(80), "http://a.example/a/b"),
        (false, 80, https, Some(443), "https://a.example/a/b"),
        (false, 80, https, Some(8443), "https://a.example:8443/a/b"),
        (true, 443, http, Some(443), "http://a.example:443/a/b"),
        (true, 443, None, Some(80), "https://a.example:80/a/b"),
    ] {
        let redirect = Redirect { scheme, port, ..redirect() };
        let seen = Seen { tls, port: listener, ..SEEN };
        assert_eq!(
            redirect.location(&seen, &PathRule::Prefix("".into())),
            location,
            "{tls} {listener} {scheme:?} {port:?}"
        );
    }
}

#[test]
fn host_path_and_query_of_a_redirect() {
    let prefix = PathRule::Prefix("/a".into());
    for (host, path, query, location) in [
        (None, None, None, "http://a.example/a/b"),
        (Some("b.example"), None, None, "http://b.example/a/b"),
        (None, Some(PathRewrite::Full("/x".into())), None, "http://a.example/x"),
        (None, Some(PathRewrite::Prefix("/x".into())), None, "http://a.example/x/b"),
        (None, None, Some("q=1&r=%20"), "http://a.example/a/b?q=1&r=%20"),
        (Some("b.example"), Some(PathRewrite::Full("/x".into())), Some("q"), "http://b.example/x?q"),
    ] {
        let redirect = Redirect { host: host.map(Into::into), path, ..redirect() };
        assert_eq!(redirect.location(&Seen { query, ..SEEN }, &prefix), location);
    }
}

#[test]
fn every_status_of_a_redirect_is_answered() {
    for code in [301, 302, 303, 307, 308] {
        let redirect = Redirect { status: StatusCode::from_u16(code).unwrap(), ..redirect() };
        let answer = redirect.answer(&SEEN, &PathRule::Prefix("".into())).unwrap();
        assert_eq!(answer.status().as_u16(), code);
        assert_eq!(answer.headers()[LOCATION], "http://a.example/a/b");
    }
    let broken = Seen { query: Some("a\r\nb"), ..SEEN };
    assert!(redirect().answer(&broken, &PathRule::Prefix("".into())).is_none());
}

/// The table of HTTPPathModifier, "replacePrefixMatch", and what it leaves out.
#[test]
fn a_prefix_is_replaced() {
    for (path, prefix, with, outcome) in [
        ("/foo/bar", "/foo", "/xyz", "/xyz/bar"),
        ("/foo/bar", "/foo", "/xyz/", "/xyz/bar"),
        ("/foo/bar", "/foo/", "/xyz", "/xyz/bar"),
        ("/foo/bar", "/foo/", "/xyz/", "/xyz/bar"),
        ("/foo", "/foo", "/xyz", "/xyz"),
        ("/foo/", "/foo", "/xyz", "/xyz/"),
        ("/foo/bar", "/foo", "", "/bar"),
        ("/foo/", "/foo", "", "/"),
        ("/foo", "/foo", "", "/"),
        ("/foo/", "/foo", "/", "/"),
        ("/foo", "/foo", "/", "/"),
        ("/foo/bar", "/foo", "/", "/bar"),
        ("/foo", "/", "/xyz", "/xyz/foo"),
        ("/", "/", "/xyz", "/xyz/"),
        ("/foo/foo", "/foo", "/x", "/x/foo"),
    ] {
        let documents = [
            crate::testing::edge(),
            crate::testing::service("s"),
            crate::testing::route(
                "r",
                serde_json::json!([{
                    "matches": [{"path": {"type": "PathPrefix", "value": prefix}}],
                    "filters": [{"type": "URLRewrite", "urlRewrite": {"path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": with}}}],
                    "backendRefs": [{"name": "s", "port": 80}],
                }]),
            ),
        ];
        let compiled = crate::testing::compiled(documents);
        let socket = &compiled.program.sockets[0];
        let crate::ListenerKind::Http(table) = &socket.listeners.most_specific("x").unwrap().kind else {
            panic!()
        };
        let headers = HeaderMap::new();
        let request =
            crate::RequestView { host: "x", method: &Method::GET, path, query: None, headers: &headers };
        let found = table.find(&request).unwrap();
        let rewrite = found.rule.filters.rewrite.as_ref().unwrap();
        assert_eq!(rewrite.path.as_ref().unwrap().apply(path, found.path), outcome, "{path} {prefix} {with}");
    }
}

#[test]
fn a_whole_path_is_replaced() {
    let matched = PathRule::Exact("/a".into());
    assert_eq!(PathRewrite::Full("/x/y".into()).apply("/a", &matched), "/x/y");
    assert_eq!(PathRewrite::Full("".into()).apply("/a", &matched), "/");
}

#[test]
fn a_share_takes_its_part() {
    assert_eq!(Share::of(2, 1), None);
    assert_eq!(Share::of(0, 0), None);
    for (numerator, denominator) in [(0, 100), (1, 100), (50, 100), (1, 3), (100, 100)] {
        let share = Share::of(numerator, denominator).unwrap();
        let mut rng = fastrand::Rng::with_seed(3);
        let taken = (0..30_000).filter(|_| share.takes(&mut rng)).count() as f64 / 30_000.0;
        let wanted = f64::from(numerator) / f64::from(denominator);
        assert!((taken - wanted).abs() < 0.01, "{numerator}/{denominator}: {taken}");
        assert_eq!(taken == 0.0, numerator == 0);
        assert_eq!(taken == 1.0, numerator == denominator);
    }
}

fn cors(origins: &[&str], credentials: bool) -> Cors {
    Cors {
        origins: origins.iter().map(|origin| origin.parse().unwrap()).collect(),
        credentials,
        methods: vec!["GET".to_owned(), "PUT".to_owned()],
        headers: vec!["x-a".to_owned(), "x-b".to_owned()],
        expose: vec!["x-out".to_owned()],
        max_age: 600,
    }
}

fn preflight(origin: &'static str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(ORIGIN, HeaderValue::from_static(origin));
    headers.insert(ACCESS_CONTROL_REQUEST_METHOD, HeaderValue::from_static("PUT"));
    headers.insert(ACCESS_CONTROL_REQUEST_HEADERS, HeaderValue::from_static("x-c"));
    headers
}

#[test]
fn origins_are_compared_as_scheme_host_and_port() {
    for (allowed, origin, hit) in [
        ("*", "https://any.example", true),
        ("https://a.example", "https://a.example", true),
        ("https://a.example", "https://A.Example", true),
        ("https://a.example", "http://a.example", false),
        ("https://a.example", "https://a.example:8443", false),
        ("https://a.example", "https://a.example:443", true),
        ("https://a.example:443", "https://a.example", true),
        ("http://a.example:80", "http://a.example", true),
        ("https://a.example:8443", "https://a.example:8443", true),
        ("https://*.example", "https://a.example", true),
        ("https://*.example", "https://b.a.example", true),
        ("https://*.example", "https://example", false),
        ("https://*.example", "https://aexample", false),
        ("https://a.example", "https://a.example.evil.example", false),
        ("https://a.example", "https://evil.example/https://a.example", false),
        ("https://a.example", "null", false),
    ] {
        let answer = cors(&[allowed], true).preflight(&Method::OPTIONS, &preflight(origin)).unwrap();
        let said = answer.headers().get(ACCESS_CONTROL_ALLOW_ORIGIN).map(|value| value.to_str().unwrap());
        assert_eq!(said, hit.then_some(origin), "{allowed} {origin}");
    }
}

#[test]
fn a_preflight_is_answered() {
    let answer = cors(&["https://a.example"], false)
        .preflight(&Method::OPTIONS, &preflight("https://a.example"))
        .unwrap();
    assert_eq!(answer.status(), StatusCode::NO_CONTENT);
    let headers = answer.headers();
    assert_eq!(headers[ACCESS_CONTROL_ALLOW_ORIGIN], "https://a.example");
    assert_eq!(headers[ACCESS_CONTROL_ALLOW_METHODS], "GET, PUT");
    assert_eq!(headers[ACCESS_CONTROL_ALLOW_HEADERS], "x-a, x-b");
    assert_eq!(headers[ACCESS_CONTROL_MAX_AGE], "600");
    assert_eq!(headers[VARY], "origin");
    assert!(!headers.contains_key(ACCESS_CONTROL_ALLOW_CREDENTIALS));
    assert!(!headers.contains_key(ACCESS_CONTROL_EXPOSE_HEADERS));
    // An origin that may not call is told nothing, and the backend is not asked.
    let refused = cors(&["https://a.example"], false)
        .preflight(&Method::OPTIONS, &preflight("https://b.example"))
        .unwrap();
    let names: Vec<&str> = refused.headers().keys().map(http::HeaderName::as_str).collect();
    assert_eq!(names, ["vary"]);
}

#[test]
fn what_is_no_preflight_goes_its_way() {
    let cors = cors(&["*"], false);
    assert!(cors.preflight(&Method::GET, &preflight("https://a.example")).is_none());
    for missing in [ORIGIN, ACCESS_CONTROL_REQUEST_METHOD] {
        let mut headers = preflight("https://a.example");
        headers.remove(missing);
        assert!(cors.preflight(&Method::OPTIONS, &headers).is_none());
    }
}

#[test]
fn stars_are_said_without_credentials_and_spelled_out_with_them() {
    let all = |credentials| {
        let star = || vec!["*".to_owned()];
        Cors { methods: star(), headers: star(), expose: star(), ..cors(&["*"], credentials) }
    };
    let open = all(false).preflight(&Method::OPTIONS, &preflight("https://a.example")).unwrap();
    for name in [ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_HEADERS] {
        assert_eq!(open.headers()[name], "*");
    }
    assert!(!open.headers().contains_key(VARY));
    let closed = all(true).preflight(&Method::OPTIONS, &preflight("https://a.example")).unwrap();
    assert_eq!(closed.headers()[ACCESS_CONTROL_ALLOW_ORIGIN], "https://a.example");
    assert_eq!(closed.headers()[ACCESS_CONTROL_ALLOW_METHODS], "PUT");
    assert_eq!(closed.headers()[ACCESS_CONTROL_ALLOW_HEADERS], "x-c");
    assert_eq!(closed.headers()[ACCESS_CONTROL_ALLOW_CREDENTIALS], "true");
    assert_eq!(closed.headers()[VARY], "origin");
}

#[test]
fn an_answer_says_what_the_filter_says_and_not_what_the_backend_said() {
    let answer = |origin: Option<&'static str>| {
        let mut headers = HeaderMap::new();
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
        headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        headers.insert(VARY, HeaderValue::from_static("Accept, Origin"));
        let origin = origin.map(HeaderValue::from_static);
        cors(&["https://a.example"], false).decorate(origin.as_ref(), &mut headers);
        headers
    };
    let allowed = answer(Some("https://a.example"));
    assert_eq!(allowed[ACCESS_CONTROL_ALLOW_ORIGIN], "https://a.example");
    assert_eq!(allowed[ACCESS_CONTROL_EXPOSE_HEADERS], "x-out");
    assert!(!allowed.contains_key(ACCESS_CONTROL_ALLOW_CREDENTIALS));
    assert_eq!(allowed.get_all(VARY).iter().count(), 1, "it was said already");
    for other in [Some("https://b.example"), None] {
        let headers = answer(other);
        assert!(
            !headers.contains_key(ACCESS_CONTROL_ALLOW_ORIGIN)
                && !headers.contains_key(ACCESS_CONTROL_EXPOSE_HEADERS)
        );
    }
}
