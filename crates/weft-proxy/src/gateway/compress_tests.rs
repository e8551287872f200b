use http::header::ACCEPT_ENCODING;

use super::*;

const ALL: &str = "gzip, br, zstd";

fn on() -> Compressor {
    Compressor::new(Some(Compression::default()))
}

fn request(method: Method, fields: &[(&'static str, &str)]) -> Request<()> {
    let mut request = Request::new(());
    *request.method_mut() = method;
    for (name, value) in fields {
        request.headers_mut().append(*name, value.parse().unwrap());
    }
    request
}

/// An answer of HTML, with further fields; an empty value takes a field away.
fn answer(status: u16, fields: &[(&'static str, &str)]) -> Response<Body> {
    let text = "<p>well compressed</p>".repeat(100);
    let mut response = Response::new(Body::Full(text.into()));
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    for (name, value) in fields {
        match *value {
            "" => drop(response.headers_mut().remove(*name)),
            value => drop(response.headers_mut().append(*name, value.parse().unwrap())),
        }
    }
    response
}

/// `Content-Encoding` and `Vary` of an answer to GET from a client that takes this.
fn told(accepts: &str, response: Response<Body>) -> (Option<String>, Option<String>) {
    let compressor = on();
    let asked = compressor.look(&request(Method::GET, &[("accept-encoding", accepts)]));
    let response = compressor.apply(asked, response);
    let encoded = matches!(response.body(), Body::Encoded(_));
    let text = |name| response.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
    let before = text(CONTENT_ENCODING);
    assert!(!encoded || before.is_some());
    (encoded.then_some(before).flatten(), text(VARY))
}

fn vary_alone() -> Option<String> {
    Some("accept-encoding".to_owned())
}

#[test]
fn text_leaves_in_the_best_coding() {
    assert_eq!(told(ALL, answer(200, &[])), (Some("zstd".to_owned()), vary_alone()));
    assert_eq!(told("gzip", answer(404, &[])), (Some("gzip".to_owned()), vary_alone()));
    assert_eq!(told("br", answer(200, &[("vary", "cookie")])).0, Some("br".to_owned()));
    // Who takes none is told as well that others get another.
    assert_eq!(told("identity", answer(200, &[])), (None, vary_alone()));
    assert_eq!(told("gzip;q=0, identity;q=0", answer(200, &[])), (None, vary_alone()));
    for vary in ["Accept-Encoding", "cookie, ACCEPT-encoding", "*"] {
        assert_eq!(told(ALL, answer(200, &[("vary", vary)])).1.as_deref(), Some(vary));
    }
    let types = ["application/json", "TEXT/Plain", "image/svg+xml;x=y", "application/wasm"];
    for kind in types {
        let response = answer(200, &[("content-type", ""), ("content-type", kind)]);
        assert!(told(ALL, response).0.is_some(), "{kind}");
    }
}

#[test]
fn what_must_stay_as_it_is_does() {
    for (status, fields) in [
        (200, &[("content-encoding", "gzip")][..]),
        (200, &[("content-encoding", "identity")]),
        (200, &[("cache-control", "max-age=5, No-Transform")]),
        (200, &[("content-range", "bytes 0-1/2")]),
        (206, &[]),
        (204, &[]),
        (205, &[]),
        (101, &[]),
        (103, &[]),
        (200, &[("content-type", "")]),
        (200, &[("content-type", ""), ("content-type", "image/png")]),
        (200, &[("content-type", ""), ("content-type", "text/event-stream; charset=utf-8")]),
        (200, &[("content-type", ""), ("content-type", "application/grpc+proto")]),
        (200, &[("content-type", ""), ("content-type", "application/grpc-web-text")]),
        (200, &[("content-type", ""), ("content-type", "text")]),
        (200, &[("content-length", "1023")]),
        (200, &[("content-length", "0")]),
    ] {
        let before = answer(status, fields);
        let kept = before.headers().clone();
        let compressor = on();
        let asked = compressor.look(&request(Method::GET, &[("accept-encoding", ALL)]));
        let after = compressor.apply(asked, before);
        assert_eq!(after.headers(), &kept, "{status} {fields:?}");
        assert!(matches!(after.body(), Body::Full(_)), "{status} {fields:?}");
    }
    // Of unknown length it may be any.
    let chunked = answer(200, &[]).map(|_| {
        Body::Full("x".repeat(2000).into()).encoded(ContentCoding::Gzip, Encodings::new(1).begin().unwrap())
    });
    assert!(chunked.body().size_hint().exact().is_none());
    assert!(told(ALL, chunked).0.is_some());
}

#[test]
fn a_client_may_forbid_it_and_one_of_http_1_0_never_gets_it() {
    let compressor = on();
    let mut old = request(Method::GET, &[("accept-encoding", ALL)]);
    *old.version_mut() = Version::HTTP_10;
    assert_eq!(compressor.look(&old), Asked::default());
    let forbids = request(Method::GET, &[("accept-encoding", ALL), ("cache-control", "no-transform")]);
    assert_eq!(compressor.look(&forbids), Asked::default());
    let off = Compressor::new(None);
    assert_eq!(off.look(&request(Method::GET, &[("accept-encoding", ALL)])), Asked::default());
    let kept =
        off.apply(Asked { may: true, coding: Some(ContentCoding::Gzip), head: false }, answer(200, &[]));
    assert!(matches!(kept.body(), Body::Full(_)) && !kept.headers().contains_key(VARY));
}

#[test]
fn what_was_said_of_the_octets_goes() {
    let fields = [
        ("content-length", "2200"),
        ("etag", "\"abc\""),
        ("accept-ranges", "bytes"),
        ("content-md5", "x"),
        ("digest", "sha-256=x"),
        ("content-digest", "sha-256=:x:"),
        ("repr-digest", "sha-256=:x:"),
        ("last-modified", "Tue, 01 Dec 2026 00:00:00 GMT"),
    ];
    let compressor = on();
    let asked = compressor.look(&request(Method::GET, &[("accept-encoding", "gzip")]));
    let after = compressor.apply(asked, answer(200, &fields));
    let names: Vec<&str> = after.headers().keys().map(HeaderName::as_str).collect();
    assert_eq!(names.len(), 5, "{names:?}");
    assert_eq!(after.headers()[ETAG], "W/\"abc\"");
    assert_eq!(after.headers()[CONTENT_ENCODING], "gzip");
    assert!(after.headers().contains_key("last-modified"));
    let after = compressor.apply(asked, answer(200, &[("etag", "W/\"abc\"")]));
    assert_eq!(after.headers()[ETAG], "W/\"abc\"");
    let after = compressor.apply(asked, answer(200, &[("etag", "abc")]));
    assert!(!after.headers().contains_key(ETAG), "that is no tag");
}

#[test]
fn head_and_304_say_what_get_would() {
    let compressor = on();
    let head = request(Method::HEAD, &[("accept-encoding", "gzip")]);
    let fields = [("content-length", "2200"), ("etag", "\"abc\""), ("accept-ranges", "bytes")];
    let after = compressor.apply(compressor.look(&head), answer(200, &fields).map(|_| Body::Empty));
    assert_eq!(
        (&after.headers()[ETAG], &after.headers()[VARY]),
        (&"W/\"abc\"".parse().unwrap(), &"accept-encoding".parse().unwrap())
    );
    for name in [CONTENT_LENGTH, CONTENT_ENCODING, ACCEPT_RANGES] {
        assert!(!after.headers().contains_key(&name), "{name}");
    }
    assert!(matches!(after.body(), Body::Empty));
    let small = [("content-length", "22"), ("etag", "\"abc\"")];
    let after = compressor.apply(compressor.look(&head), answer(200, &small).map(|_| Body::Empty));
    assert_eq!(
        (&after.headers()[ETAG], &after.headers()[CONTENT_LENGTH]),
        (&"\"abc\"".parse().unwrap(), &"22".parse().unwrap())
    );
    let get = request(Method::GET, &[("accept-encoding", "gzip"), ("if-none-match", "W/\"abc\"")]);
    let after = compressor.apply(
        compressor.look(&get),
        answer(304, &[("etag", "\"abc\""), ("content-type", "")]).map(|_| Body::Empty),
    );
    assert_eq!(
        (&after.headers()[ETAG], &after.headers()[VARY]),
        (&"W/\"abc\"".parse().unwrap(), &"accept-encoding".parse().unwrap())
    );
    assert!(matches!(after.body(), Body::Empty) && !after.headers().contains_key(CONTENT_ENCODING));
}

#[test]
fn there_are_so_many_at_once_and_no_more() {
    let compressor = on();
    let asked = compressor.look(&request(Method::GET, &[("accept-encoding", ALL)]));
    let held: Vec<_> =
        (0..AT_ONCE).map(|_| compressor.apply(asked, answer(200, &[("content-length", "2200")]))).collect();
    assert!(held.iter().all(|response| matches!(response.body(), Body::Encoded(_))));
    let beyond = compressor.apply(asked, answer(200, &[("content-length", "2200")]));
    assert!(matches!(beyond.body(), Body::Full(_)));
    assert!(beyond.headers().contains_key(VARY) && beyond.headers().contains_key(CONTENT_LENGTH));
    drop(held);
    let later = compressor.apply(asked, answer(200, &[]));
    assert!(matches!(later.body(), Body::Encoded(_)));
}

#[test]
fn the_field_is_read_from_the_request() {
    let asked = on().look(&request(Method::GET, &[(ACCEPT_ENCODING.as_str(), "x-gzip;q=0.5, br;q=0.4")]));
    assert_eq!(asked.coding, Some(ContentCoding::Gzip));
}
