use std::sync::Arc;

use proptest::collection::vec;
use proptest::prelude::*;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore};

use super::*;

const OPAQUE: Detection = Detection::Done(Detected::Opaque(OpaqueReason::NoMatch));
const HTTP1: Detection = Detection::Done(Detected::Http1);
const HTTP2: Detection = Detection::Done(Detected::Http2);

/// The first flight of a real rustls client.
fn hello(server: &str, sni: bool, alpn: &[&[u8]], fragment: Option<usize>) -> Vec<u8> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    config.enable_sni = sni;
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    config.max_fragment_size = fragment;
    let mut client =
        ClientConnection::new(Arc::new(config), ServerName::try_from(server.to_owned()).unwrap()).unwrap();
    let mut bytes = Vec::new();
    while client.wants_write() {
        client.write_tls(&mut bytes).unwrap();
    }
    bytes
}

fn tls(bytes: &[u8]) -> ClientHello {
    match detect(bytes) {
        Detection::Done(Detected::Tls(hello)) => hello,
        other => panic!("not TLS: {other:?}"),
    }
}

/// The promises that every input keeps: the verdict does not depend on how the input is cut, and `at_least` is honest.
fn check_prefixes(bytes: &[u8]) -> Result<(), TestCaseError> {
    let whole = detect(bytes);
    let mut at_least = 0;
    for n in 0..=bytes.len() {
        match detect(&bytes[..n]) {
            Detection::NeedMore { at_least: wanted } => {
                prop_assert!(wanted > n, "asks for {wanted} bytes with {n}");
                at_least = at_least.max(wanted);
            }
            verdict @ Detection::Done(_) => {
                prop_assert_eq!(&verdict, &whole, "verdict changes after {} of {} bytes", n, bytes.len());
                let opaque = matches!(verdict, Detection::Done(Detected::Opaque(_)));
                prop_assert!(opaque || n >= at_least, "verdict at {n}, though {at_least} were asked for");
            }
        }
    }
    Ok(())
}

#[test]
fn http1_requests() {
    for request in [
        "GET / HTTP/1.1\r\n",
        "GET / HTTP/1.0\r\n\r\n",
        "POST /a/b?c=d%20e HTTP/1.1\r\nhost: x\r\n\r\nbody",
        "OPTIONS * HTTP/1.1\r\n",
        "CONNECT example.com:443 HTTP/1.1\r\n",
        "GET http://example.com/ HTTP/1.1\r\n",
        "M-SEARCH * HTTP/1.1\r\n",
        "UPDATEREDIRECTREF /x HTTP/1.1\r\n",
        "\r\nGET / HTTP/1.1\r\n",
        "\r\n\r\nGET / HTTP/1.1\r\n",
        "PRIVATE /x HTTP/1.1\r\n",
        "PRI * HTTP/1.1\r\n",
        // Malformed, but HTTP: the parser's to refuse.
        "GET /pay\r\n",
        "POST /",
        "GET http://example.com/\r\n",
        "GET / RTSP/1.0\r\n",
        "OPTIONS rtsp://example.com RTSP/1.0\r\n",
        "OPTIONS * RTSP/1.0\r\n",
        "INVITE sip:bob@example.com SIP/2.0\r\n",
        "GET / HTTP/2.0\r\n",
        "GET x HTTP/1.x\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\r",
        "PRI * HTTP/2.0\r\n\r\nXX",
        "GET /a b HTTP/1.1\r\n",
        "GET  / HTTP/1.1\r\n",
        "GET  HTTP/1.1\r\n",
        "GET HTTP/1.1\r\n",
        "GET / HTTP/1.9\n",
        "GET /\u{e9} HTTP/1.1\r\n",
    ] {
        assert_eq!(detect(request.as_bytes()), HTTP1, "{request:?}");
        check_prefixes(request.as_bytes()).unwrap();
    }
}

#[test]
fn other_protocols_are_opaque() {
    let cases: &[&[u8]] = &[
        b"*1\r\n$4\r\nPING\r\n",                   // Redis
        b"PING\r\n",                               // Redis, inline
        b"GET key\r\n",                            // Redis, inline: the watch sees to it that it stays one
        b"KEYS *\r\n",                             // Redis, inline
        b"SET key value\r\n",                      // Redis, inline
        b"EHLO mail.example.com\r\n",              // SMTP
        b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n",     // SSH
        b"CONNECT {\"verbose\":false}\r\n",        // NATS
        b"CONNECT\naccept-version:1.2\n",          // STOMP
        b"get key\r\n",                            // memcached
        b"NICK someone\r\n",                       // IRC
        b"USER anonymous\r\n",                     // FTP
        b"a001 LOGIN fred foo\r\n",                // IMAP
        b"8=FIX.4.2\x019=12\x01",                  // FIX
        b"\0\0\0\x08\x04\xd2\x16\x2f",             // PostgreSQL SSLRequest
        b"\0\0\0\x54\0\x03\0\0user\0postgres\0\0", // PostgreSQL StartupMessage
        b"\x4a\0\0\0\x0a5.5.5-10.11.6-MariaDB\0",  // MySQL
        b"\x10\x0c\0\x04MQTT\x04\x02\0\x3c\0\0",   // MQTT
        b"AMQP\0\0\x09\x01",                       // AMQP
        b"\0\0\0\x23\0\x12\0\x04\0\0\0\x01",       // Kafka
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11",           // PROXY v2
        b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n",     // PROXY v1
        b"\x80\x2e\x01\x03\x01\0\x15",             // SSL 2 hello
        b"\x16\x02\0\0\x05",                       // not a TLS version
        b" GET / HTTP/1.1\r\n",
        b"GET\t/ HTTP/1.1\r\n",
        b"\r\n\r\n\r\nGET / HTTP/1.1\r\n",
    ];
    for case in cases {
        assert!(
            matches!(detect(case), Detection::Done(Detected::Opaque(_))),
            "{:?}: {:?}",
            String::from_utf8_lossy(case),
            detect(case)
        );
        check_prefixes(case).unwrap();
    }
}

#[test]
fn the_preface_is_matched_whole_and_to_the_byte() {
    let mut bytes = PREFACE.to_vec();
    bytes.extend_from_slice(b"\0\0\0\x04\0\0\0\0\0");
    assert_eq!(detect(&bytes), HTTP2);
    for n in 1..PREFACE.len() {
        assert!(matches!(detect(&bytes[..n]), Detection::NeedMore { .. }));
        let mut wrong = PREFACE.to_vec();
        wrong[n] ^= 0x80;
        assert_ne!(detect(&wrong), HTTP2, "byte {n}");
    }
}

#[test]
fn long_lines() {
    let mut line = b"GET x".to_vec();
    line.resize(MAX_REQUEST_LINE - 1, b'x');
    assert_eq!(detect(&line), Detection::NeedMore { at_least: MAX_REQUEST_LINE });
    line.push(b'x');
    assert_eq!(detect(&line), HTTP1);
    let mut method = vec![b'A'; MAX_METHOD];
    assert!(matches!(detect(&method), Detection::NeedMore { .. }));
    method.extend_from_slice(b" / HTTP/1.1\r\n");
    assert_eq!(detect(&method), HTTP1);
    method.insert(0, b'A');
    assert_eq!(detect(&method), OPAQUE);
}

#[test]
fn hellos_of_a_real_client() {
    let bytes = hello("Orders.shop.example", true, &[b"weft/http", b"h2"], None);
    assert!(bytes.len() > 1400, "a post-quantum hello is larger than one segment: {}", bytes.len());
    let parsed = tls(&bytes);
    assert_eq!(parsed.server_name(), Some("Orders.shop.example"), "as the client wrote it");
    assert_eq!(parsed.alpn().collect::<Vec<_>>(), [b"weft/http".as_slice(), b"h2"]);
    assert_eq!(parsed.offers(&[b"weft/tcp", b"weft/http"]), Some(b"weft/http".as_slice()));
    assert_eq!(parsed.offers(&[b"weft"]), None);

    let plain = tls(&hello("example.com", true, &[], None));
    assert_eq!((plain.server_name(), plain.alpn().count()), (Some("example.com"), 0));
    let nameless = tls(&hello("10.0.0.1", true, &[b"h2"], None));
    assert_eq!(nameless.server_name(), None);
    let without = tls(&hello("example.com", false, &[], None));
    assert_eq!((without.server_name(), without.offers(&[b"h2"])), (None, None));
}

#[test]
fn a_hello_in_many_records_reads_as_in_one() {
    for fragment in [64, 100, 512, 1024] {
        let bytes = hello("orders.example", true, &[b"weft/tcp"], Some(fragment));
        let records = bytes.windows(2).filter(|w| w == b"\x16\x03").count();
        assert!(records > 1, "fragment size {fragment} made one record");
        let parsed = tls(&bytes);
        assert_eq!(parsed.server_name(), Some("orders.example"), "{fragment}");
        assert_eq!(parsed.offers(&[b"weft/tcp"]), Some(b"weft/tcp".as_slice()));
        check_prefixes(&bytes).unwrap();
    }
}

/// A hello with these extensions, in one record.
fn with_extensions(extensions: &[(u16, &[u8])]) -> Vec<u8> {
    let mut body = vec![3, 3];
    body.extend_from_slice(&[7; 32]);
    body.extend_from_slice(&[0, 0, 2, 0x13, 0x01, 1, 0]);
    let mut list = Vec::new();
    for (kind, data) in extensions {
        list.extend_from_slice(&kind.to_be_bytes());
        list.extend_from_slice(&u16::try_from(data.len()).unwrap().to_be_bytes());
        list.extend_from_slice(data);
    }
    body.extend_from_slice(&u16::try_from(list.len()).unwrap().to_be_bytes());
    body.extend_from_slice(&list);
    record(&message(&body))
}

fn message(body: &[u8]) -> Vec<u8> {
    let mut message = vec![1];
    message.extend_from_slice(&u32::try_from(body.len()).unwrap().to_be_bytes()[1..]);
    message.extend_from_slice(body);
    message
}

fn record(payload: &[u8]) -> Vec<u8> {
    let mut record = vec![22, 3, 1];
    record.extend_from_slice(&u16::try_from(payload.len()).unwrap().to_be_bytes());
    record.extend_from_slice(payload);
    record
}

#[test]
fn hellos_that_break_a_rule_are_opaque() {
    let name = b"\0\x0b\0\0\x08a.ex.com".as_slice();
    let alpn = b"\0\x03\x02h2".as_slice();
    assert_eq!(tls(&with_extensions(&[(0, name), (16, alpn)])).server_name(), Some("a.ex.com"));
    let cases: &[&[(u16, &[u8])]] = &[
        &[(0, name), (0, name)],
        &[(16, alpn), (16, alpn)],
        &[(0, b"")],
        &[(0, b"\0\x0b\x01\0\x08a.ex.com")],
        &[(0, b"\0\x0c\0\0\x08a.ex.com!")],
        &[(0, b"\0\x03\0\0\0")],
        &[(0, b"\0\x04\0\0\x01\xff")],
        &[(0, b"\0\x04\0\0\x01\0")],
        &[(16, b"\0\0")],
        &[(16, b"\0\x01\0")],
        &[(16, b"\0\x03\x03h2")],
        &[(16, b"\0\x03\x02h2!")],
    ];
    for case in cases {
        let bytes = with_extensions(case);
        assert!(
            matches!(detect(&bytes), Detection::Done(Detected::Opaque(OpaqueReason::MalformedHello(_)))),
            "{case:?}: {:?}",
            detect(&bytes)
        );
        check_prefixes(&bytes).unwrap();
    }
}

#[test]
fn hellos_that_are_too_large_are_opaque_at_once() {
    const OVERSIZED: Detection = Detection::Done(Detected::Opaque(OpaqueReason::OversizedHello));
    // The size is in the first nine bytes; nothing waits for the rest.
    assert_eq!(detect(&[22, 3, 1, 0x40, 0, 1, 0, 0x40, 0]), OVERSIZED);
    let one_byte_records: Vec<u8> =
        message(&[0; 300]).iter().flat_map(|byte| record(std::slice::from_ref(byte))).collect();
    assert_eq!(detect(&one_byte_records), OVERSIZED);
    check_prefixes(&one_byte_records).unwrap();
}

#[test]
fn a_hello_without_extensions_is_tls() {
    let mut body = vec![3, 3];
    body.extend_from_slice(&[7; 32]);
    body.extend_from_slice(&[0, 0, 2, 0, 0x2f, 1, 0]);
    assert_eq!(tls(&record(&message(&body))), ClientHello::default());
}

proptest! {
    #[test]
    fn arbitrary_bytes(bytes in vec(any::<u8>(), 0..200)) {
        check_prefixes(&bytes)?;
    }

    #[test]
    fn text_that_is_nearly_http(bytes in "(\r\n){0,3}[A-Z!]{0,4}[ \t]?[/*a é]{0,4}[ ]?(HTTP/[012][.]?[019x]?)?(\r?\n)?") {
        check_prefixes(bytes.as_bytes())?;
    }

    #[test]
    fn handshake_records(parts in vec((vec(any::<u8>(), 1..20), any::<bool>()), 1..6)) {
        let mut bytes = Vec::new();
        for (i, (payload, valid)) in parts.iter().enumerate() {
            let mut payload = payload.clone();
            if i == 0 && *valid {
                payload[0] = 1;
                payload.iter_mut().skip(1).take(2).for_each(|byte| *byte = 0);
            }
            bytes.extend(record(&payload));
        }
        check_prefixes(&bytes)?;
    }

    #[test]
    fn a_hello_with_flipped_bytes(at in 0usize..260, bits in 1u8.., fragment in prop::option::of(60usize..200)) {
        let mut bytes = hello("orders.example", true, &[b"weft/http", b"h2"], fragment);
        let at = at % bytes.len();
        bytes[at] ^= bits;
        check_prefixes(&bytes)?;
    }
}
