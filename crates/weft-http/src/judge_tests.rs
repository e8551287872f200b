use http::Request;

use super::*;
use crate::testing::request_head;
use crate::wire::{clean_request, from_link, to_link};

/// A request in a line or two: `METHOD target` and headers, as `name: value` with `|` between them.
fn built(version: Version, line: &str, headers: &str) -> Request<()> {
    let (method, target) = line.split_once(' ').unwrap();
    let mut builder = Request::builder().version(version).method(method).uri(target);
    for header in headers.split('|').filter(|header| !header.is_empty()) {
        let (name, value) = header.split_once(": ").unwrap();
        builder = builder.header(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
    }
    builder.body(()).unwrap()
}

/// From an application: over HTTP/1 it comes from the parser.
fn sent(version: Version, line: &str, headers: &str) -> Option<Request<()>> {
    let version = match version {
        Version::HTTP_2 => return Some(built(version, line, headers)),
        Version::HTTP_10 => "1.0",
        _ => "1.1",
    };
    let fields = headers.split('|').filter(|header| !header.is_empty());
    let lines = fields.map(|header| format!("{header}\r\n")).collect::<String>();
    request_head(format!("{line} HTTP/{version}\r\n{lines}\r\n").as_bytes())
}

fn own(version: Version, line: &str, headers: &str) -> Option<Request<()>> {
    let mut request = sent(version, line, headers)?;
    clean_request(&mut request).ok().map(|_| request)
}

/// From a peer that chose every header itself.
fn linked(line: &str, headers: &str) -> Option<Request<()>> {
    let mut request = built(Version::HTTP_2, line, headers);
    from_link(&mut request).ok().map(|_| request)
}

const ALL: [Version; 3] = [Version::HTTP_10, Version::HTTP_11, Version::HTTP_2];

fn mark(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "|weft-wire: 1.0",
        Version::HTTP_2 => "|weft-wire: 2",
        _ => "",
    }
}

/// Whether a request is taken from an application and over a link, which must agree.
fn is_taken(version: Version, line: &str, headers: &str) -> bool {
    let direct = own(version, line, headers).is_some();
    assert_eq!(
        linked(line, &format!("{headers}{}", mark(version))).is_some(),
        direct,
        "{version:?} {line} {headers}"
    );
    direct
}

#[test]
fn a_request_has_one_host_or_is_refused() {
    let twice = ["host: a|host: a", "host: a|host: b", "host: |host: a"];
    for version in ALL {
        assert!(is_taken(version, "GET /", "host: a"));
        assert!(twice.iter().all(|hosts| !is_taken(version, "GET /", hosts)));
        assert_eq!(is_taken(version, "GET /", ""), version == Version::HTTP_10);
        for host in ["a_b", "A.b:80", "[::1]:80", "10.0.0.1", "a.", "%2Frun%2Fa.sock", "a:", "~!$&'()*+;="] {
            assert!(is_taken(version, "GET /", &format!("host: {host}")), "{host}");
        }
        let bad = [
            "h x",
            "a,b",
            "a, b",
            "u@h",
            "u:p@h",
            "/run/a.sock",
            "a/b",
            "a?b",
            "a#b",
            "a\tb",
            "a\"",
            "h\u{e9}",
            "<a>",
            "a\\b",
        ];
        for host in bad {
            assert!(!is_taken(version, "GET /", &format!("host: {host}")), "{host}");
        }
    }
    assert!(ALL.map(|version| is_taken(version, "GET /", "host: ")).iter().all(|taken| *taken));
}

#[test]
fn the_targets_authority_counts() {
    for version in [Version::HTTP_10, Version::HTTP_11] {
        let replaced = own(version, "GET http://real/", "host: lie").unwrap();
        assert_eq!(replaced.headers()["host"], "real");
        assert!(own(version, "GET http://u@real/", "host: real").is_none());
        assert!(linked("GET http://real/", &format!("host: lie{}", mark(version))).is_none());
    }
    assert!(is_taken(Version::HTTP_2, "GET http://Real/", "host: rEAL"));
    assert!(is_taken(Version::HTTP_2, "GET http://real/", ""));
    for (authority, host) in
        [("real", "lie"), ("real", "real:80"), ("real", "real, real"), ("real", ""), ("u@real", "u@real")]
    {
        assert!(
            !is_taken(Version::HTTP_2, &format!("GET http://{authority}/"), &format!("host: {host}")),
            "{host}"
        );
    }
    // A peer that is a proxy of another make sends no host for HTTP/1.1 (RFC 9113 section 8.3.1).
    assert_eq!(linked("GET http://real/", "").unwrap().headers()["host"], "real");
    assert!(!linked("GET http://real/", "weft-wire: 2").unwrap().headers().contains_key("host"));
}

#[test]
fn a_length_is_there_once_and_a_number() {
    for version in ALL {
        assert!(is_taken(version, "POST /", "host: a|content-length: 007"));
        for lengths in [
            "5|content-length: 5",
            "5|content-length: 6",
            "5, 5",
            "+5",
            "-1",
            "",
            "0x5",
            "5 5",
            "18446744073709551616",
        ] {
            assert!(!is_taken(version, "POST /", &format!("host: a|content-length: {lengths}")), "{lengths}");
        }
        // In HTTP/1 a space behind it is none of the value.
        let spaced = format!("host: a|content-length: 5 {}", mark(version));
        assert!(linked("POST /", &spaced).is_none());
    }
}

#[test]
fn headers_of_one_hop_are_no_part_of_http2() {
    for header in [
        "connection: close",
        "transfer-encoding: chunked",
        "upgrade: websocket",
        "keep-alive: 1",
        "proxy-connection: x",
        "http2-settings: AAMAAABk",
    ] {
        let headers = format!("host: a|{header}");
        assert!(own(Version::HTTP_2, "GET /", &headers).is_none(), "{header}");
        assert!(linked("GET /", &headers).is_none(), "{header}");
        assert!(own(Version::HTTP_11, "GET /", &headers).is_some(), "{header}");
    }
}

#[test]
fn the_marks_of_a_link_are_ones_that_weft_writes() {
    assert!(linked("GET /", "host: a|weft-upgrade: websocket").is_some());
    let bad = [
        "weft-wire: 2|weft-wire: 2",
        "weft-wire: 1.1",
        "weft-wire: ",
        "weft-wire: 2, 2",
        "weft-upgrade: websocket|weft-upgrade: websocket",
        "weft-upgrade: ",
        "weft-upgrade: h2c",
        "weft-upgrade: websocket, H2C",
        "weft-upgrade: HTTP/2.0",
        "weft-upgrade: h2c/1",
        "weft-upgrade: h2c, \u{e9}",
        "weft-upgrade: a b",
        "weft-upgrade: a/b/c",
        "weft-upgrade: a,",
        "weft-upgrade: websocket|weft-wire: 2",
        "weft-upgrade: websocket|weft-wire: 1.0",
        "weft-upgrade: websocket|content-length: 40",
    ];
    for marks in bad {
        assert!(linked("POST /", &format!("host: a|{marks}")).is_none(), "{marks}");
    }
    assert!(linked("CONNECT a:1", "host: a:1|weft-upgrade: websocket").is_none());
    // Of another version, or a lie: neither gets any further.
    let seen =
        linked("GET /", "host: a|weft-new: 1|weft-error: loop-detected|x_forwarded-client_cert: a").unwrap();
    assert_eq!(seen.headers().len(), 1);
}

#[test]
fn a_head_behind_which_another_protocol_begins_declares_no_body() {
    let upgrade = "host: a|connection: upgrade|upgrade: SPDY/3.1";
    for rest in ["", "|content-length: 0", "|content-length: 000", "|expect: 100-continue", "|trailer: x"] {
        let mut request = sent(Version::HTTP_11, "POST /", &format!("{upgrade}{rest}")).unwrap();
        let asked = clean_request(&mut request).unwrap();
        assert_eq!(asked.as_ref().unwrap(), "SPDY/3.1", "{rest}");
        assert_eq!(request.headers().len(), 1, "{rest}: {request:?}");
        to_link(&mut request, asked);
        assert!(from_link(&mut request).unwrap().upgrade.is_some());
        // Nor where a peer has left it in.
        let marked = format!("host: a|weft-upgrade: SPDY/3.1{rest}");
        assert_eq!(linked("POST /", &marked).unwrap().headers().len(), 1, "{rest}");
    }
    // With a body it is an ordinary request.
    for (rest, kept) in [("content-length: 40", 2), ("transfer-encoding: chunked", 1)] {
        let mut request = sent(Version::HTTP_11, "POST /", &format!("{upgrade}|{rest}")).unwrap();
        assert_eq!(clean_request(&mut request), Ok(None), "{rest}");
        assert_eq!(request.headers().len(), kept, "{rest}: {request:?}");
    }
    // As with a protocol that is HTTP again, or none.
    for to in ["h2c", "H2C", "HTTP/2.0", "http/1.1", "websocket, h2c", "h2c, \u{e9}", "a b", "", "a/"] {
        let headers = format!("host: a|connection: upgrade|upgrade: {to}");
        let mut request = sent(Version::HTTP_11, "GET /", &headers).unwrap();
        assert_eq!(clean_request(&mut request), Ok(None), "{to}");
    }
}

#[test]
fn connect_goes_to_a_host_and_port_and_has_no_body() {
    for version in ALL {
        assert!(is_taken(version, "CONNECT a:1", "host: a:1"));
        assert!(is_taken(version, "CONNECT [::1]:65535", "host: [::1]:65535"));
        for target in ["/", "/x", "a", "a:0", "a:", ":1", "http://a:1/", "http://a/", "*", "u@a:1", "a:65536"]
        {
            // Some of these no parser lets through.
            let (parsed, line) = (target.parse::<Uri>().is_ok(), format!("CONNECT {target}"));
            assert!(!parsed || own(version, &line, "host: a:1").is_none(), "{target}");
            assert!(!parsed || linked(&line, mark(version).trim_start_matches('|')).is_none(), "{target}");
        }
        for rest in ["content-length: 1", "content-length: 0|content-length: 0"] {
            assert!(!is_taken(version, "CONNECT a:1", &format!("host: a:1|{rest}")), "{rest}");
        }
    }
    assert!(own(Version::HTTP_11, "CONNECT a:1", "host: a:1|transfer-encoding: chunked").is_none());
    let plain = own(Version::HTTP_11, "CONNECT a:1", "host: lie|content-length: 0").unwrap();
    assert_eq!((plain.headers().len(), &plain.headers()["host"]), (1, &HeaderValue::from_static("a:1")));
    assert!(asks_for_tunnel(&plain) && !asks_for_tunnel(&built(Version::HTTP_11, "GET /", "")));
}

#[test]
fn extended_connect_is_of_http2_and_to_no_http() {
    let extended = |protocol: &'static str, headers: &str| {
        let mut request = built(Version::HTTP_2, "CONNECT http://a/chat", headers);
        request.extensions_mut().insert(h2::ext::Protocol::from_static(protocol));
        request
    };
    assert!(!asks_for_tunnel(&extended("websocket", "")));
    assert!(clean_request(&mut extended("websocket", "content-length: 0")).is_ok());
    assert!(from_link(&mut extended("websocket", "weft-wire: 2")).is_ok());
    for (protocol, headers) in [
        ("h2c", "weft-wire: 2"),
        ("websocket", ""),
        ("websocket", "weft-wire: 1.0"),
        ("websocket", "weft-wire: 2|content-length: 1"),
    ] {
        assert!(from_link(&mut extended(protocol, headers)).is_err(), "{protocol} {headers}");
    }
}

#[test]
fn an_answer_hands_over_what_was_asked_for() {
    let asked = HeaderValue::from_static("websocket, SPDY/3.1");
    for (named, taken) in [
        ("websocket", true),
        ("spdy/3.1", true),
        ("x, WebSocket", true),
        ("", false),
        ("h2c", false),
        ("web", false),
    ] {
        assert_eq!(switches_to(&asked, [&HeaderValue::from_static(named)]), taken, "{named}");
    }
    assert!(!switches_to(&asked, []));
    let is_tunnel = |status: u16, headers: &str| {
        let status = StatusCode::from_u16(status).unwrap();
        is_tunnel(status, built(Version::HTTP_11, "GET /", headers).headers())
    };
    assert!(is_tunnel(200, "") && is_tunnel(204, "x: y"));
    for (status, headers) in [
        (200, "content-length: 0"),
        (200, "content-length: 9"),
        (200, "transfer-encoding: chunked"),
        (407, ""),
        (101, ""),
    ] {
        assert!(!is_tunnel(status, headers), "{status} {headers}");
    }
}
