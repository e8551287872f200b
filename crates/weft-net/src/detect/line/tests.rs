use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::detect::{Detected, Detection, detect};

fn verdict(bytes: &[u8]) -> Verdict {
    Beginning::NEW.after(bytes).verdict()
}

/// A line as a client would go on behind it that wants to be somebody else.
fn lie(line: &[u8]) -> Vec<u8> {
    [line, b"host: a\r\nx-forwarded-client-cert: URI=spiffe://a/b\r\n\r\n"].concat()
}

/// The escapes of `taken.txt`.
fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'\\' => match rest.next().unwrap() {
                b'n' => b'\n',
                b'r' => b'\r',
                b't' => b'\t',
                b'x' => {
                    let digits = [rest.next().unwrap(), rest.next().unwrap()];
                    u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap()
                }
                other => other,
            },
            byte => byte,
        });
    }
    bytes
}

fn taken() -> Vec<(Vec<u8>, &'static str)> {
    let lines = include_str!("taken.txt").lines().filter(|line| !line.starts_with("# "));
    let split = lines.map(|line| line.rsplit_once("  <- ").unwrap());
    split.map(|(line, who)| (unescape(line), who)).collect()
}

#[test]
fn whatever_some_server_takes_is_http() {
    let taken = taken();
    assert!(taken.len() > 300, "{}", taken.len());
    for (line, who) in taken {
        assert_eq!(verdict(&lie(&line)), Verdict::Http, "{:?}, as {who}", String::from_utf8_lossy(&line));
    }
}

#[test]
fn long_lines_that_some_server_takes_are_http() {
    let spaced = |n: usize| [&b"\r\n".repeat(n)[..], b"GET /pay HTTP/1.1\r\n"].concat();
    let target = |n: usize| [b"GET x", &b"a".repeat(n)[..], b" HTTP/1.1\r\n"].concat();
    let method = |n: usize| [&b"A".repeat(n)[..], b" x HTTP/1.1\r\n"].concat();
    for line in [spaced(50), spaced(1 << 20), target(300_000), target(60_000), method(40), method(300_000)] {
        assert_eq!(verdict(&lie(&line)), Verdict::Http, "{:.40}", String::from_utf8_lossy(&line));
    }
    // Continuation lines that Python skips.
    let skipped = [b"GET x\r\n", &[b" ", &b"a".repeat(60_000)[..], b"\r\n"].concat().repeat(90)[..]].concat();
    assert_eq!(verdict(&lie(&skipped)), Verdict::Http);
}

#[test]
fn what_begins_behind_something_that_a_server_may_skip_is_http() {
    let lines: &[&[u8]] = &[
        b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\nGET / HTTP/1.1\r\n",
        b"PROXY UNKNOWN\r\nGET /pay\r\n",
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\x01\x02\x03\x04\x05\x06\x07\x08\0\x50\0\x51GET / HTTP/1.1\r\n",
        b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0GET / HTTP/1.1\r\n",
        b"\r\n\r\n\0 / HTTP/1.1\r\n",
        b"\r\n\r\nGET / HTTP/1.1\r\n",
        b"OPTIONS *\r\n\r\nGET / HTTP/1.1\r\n",
        b"OPTIONS *\r\n\r\nGET key\r\n",
        b"GET key\n\r\n",
        b"GET key\r\nFrom me\r\n",
        b"GET key\r\nnot a name: x\r\n",
        b"PROXY \x0bkey\r\n",
        b"A \x1c\r\n",
        b"GET %2fpay a b\r\n",
        // Up to CR LF, to Java; what looks like TLS is no better.
        b"PING\nX /pay y\r\n",
        b"\x16\x03\x01\0\x21\x01 /pay \x01\n\x02\r\nx\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ];
    for line in lines {
        assert_eq!(verdict(&lie(line)), Verdict::Http, "{:?}", String::from_utf8_lossy(line));
    }
}

#[test]
fn a_request_is_told_before_its_header_is_handed_on() {
    for (line, who) in taken() {
        // As much as came before the header's name is complete.
        let lie = lie(&line);
        let end = lie.windows(FORGED.len()).position(|window| window == FORGED).unwrap() + FORGED.len();
        assert_eq!(verdict(&lie[..end]), Verdict::Http, "{:?}, as {who}", String::from_utf8_lossy(&line));
    }
}

/// What other protocols' clients say first, as far as the beginning decides. They may be followed for longer, but pass.
const OTHERS: &[&[u8]] = &[
    b"*1\r\n$4\r\nPING\r\n",                                 // Redis
    b"PING\r\n",                                             // Redis, inline
    b"GET key\r\nGET other\r\n",                             // Redis, inline and pipelined
    b"GET user:1\r\nGET user:2\r\nSET user:1 http://x/\r\n", // the same
    b"SET key value\r\n",                                    // Redis, inline
    b"KEYS *\r\nPING\r\n",                                   // Redis, inline
    b"EHLO mail.example.com\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\nFrom: a\r\n\r\n", // SMTP
    b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n\0\0\x05\xdc\x08\x14", // SSH
    b"CONNECT {\"verbose\":false,\"name\":\"a b/1.0\"}\r\nPING\r\n", // NATS
    b"CONNECT\naccept-version:1.2\nhost:x\n\n\0",            // STOMP
    b"get key\r\nget user:1\r\n",                            // memcached
    b"set key 0 0 9\r\na:1:{i:0;}\r\n",                      // memcached, and what PHP stores in it
    b"ms key 4\r\na:b:\r\n",                                 // memcached, meta commands
    b"PASS x\r\nNICK someone\r\nUSER a 0 * :b\r\n",          // IRC
    b"CAP LS 302\r\nNICK someone\r\n",                       // IRC
    b"USER anonymous\r\nPASS a:b\r\nRETR /etc/motd\r\n",     // FTP
    b"a001 LOGIN fred foo\r\n",                              // IMAP
    b"a1 ID (\"name\" \"iPhone Mail/1.0\")\r\n",             // IMAP
    b"USER fred\r\nPASS a:b\r\nSTAT\r\n",                    // POP3
    b"Action: Login\r\nUsername: admin\r\n",                 // Asterisk
    b"auth ClueCon\n\napi status\n\n",                       // FreeSWITCH
    b"put 0 0 60 5\r\nhello\r\n",                            // beanstalkd
    b"put sys.cpu.user 1356998400 42.5 host=webserver01 cpu=0\n", // OpenTSDB
    b"local.random.diceroll 4 1700000000\n",                 // Graphite
    b"cpu,host=a value=0.64 1434055562000000000\n",          // InfluxDB
    b"<34>Oct 11 22:14:15 mymachine su: 'su root' failed on /dev/pts/8\n", // syslog
    b"<?xml version='1.0'?>\n<stream:stream to='x' xmlns='jabber:client'>", // XMPP
    b"8=FIX.4.2\x019=12\x01",                                // FIX
    b"\0\0\0\x08\x04\xd2\x16\x2f",                           // PostgreSQL SSLRequest
    b"\0\0\0\x54\0\x03\0\0user\0postgres\0application_name\0my /x\0\0", // PostgreSQL StartupMessage
    b"\x54\0\0\x01\x8d\xa6\xff\x19\0\0\0\x01\xff\0\0\0\0root\0\x14 /\x01\x02", // MySQL
    b"\x10\x0c\0\x04MQTT\x04\x02\0\x3c\0\0",                 // MQTT
    b"AMQP\0\0\x09\x01\x01\0\0\0\0\0 /vhost",                // AMQP
    b"\0\0\0\x23\0\x12\0\x04\0\0\0\x01\0\x10consumer",       // Kafka
    b"\0\0\x20\x2f\0\x12\0\x04\0\0\0\x01\r\na: b\r\n",       // Kafka, with a length of 8239
    b"\x04\0\0\0\x01\0\0\0\x16\0\x01",                       // Cassandra
    b"\x3a\0\0\0\x01\0\0\0\0\0\0\0\xd4\x07\0\0",             // MongoDB
    b"0\x0c\x02\x01\x01`\x07\x02\x01\x03\x04\0\x80\0",       // LDAP
    b"JDWP-Handshake",
    b"ruok",        // ZooKeeper
    b"JRMI\0\x02K", // Java RMI
    b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\nEHLO x\r\n",
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\x01\x02\x03\x04\x05\x06\x07\x08\0\x50\0\x51EHLO x\r\n",
    b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03\r\nrandom: \x20/\r\na: b", // TLS, unluckily
    b"{\"method\": \"x\", \"jsonrpc\": \"2.0\"}\n",
    b"HTTP/1.1 200 OK\r\n", // a client that answers is none
];

#[test]
fn other_protocols_pass() {
    for bytes in OTHERS {
        assert_ne!(verdict(bytes), Verdict::Http, "{:?}", String::from_utf8_lossy(bytes));
        // A relay that no longer watches can hand the bytes to the kernel; text protocols are let go at a line end.
        assert!(!matches!(detect(bytes), Detection::Done(Detected::Http1 | Detected::Http2)));
    }
    for bytes in [&b"PING\r\n"[..], b"SET a b\r\n", b"EHLO x\r\nMAIL FROM:<a>\r\nDATA\r\n", b"SSH-2.0-x\r\n"]
    {
        assert_eq!(verdict(bytes), Verdict::Never, "{:?}", String::from_utf8_lossy(bytes));
    }
}

/// They share their first line with HTTP, and a server of HTTP takes it: their ports are to be declared opaque.
#[test]
fn protocols_that_are_refused() {
    for bytes in [
        &b"OPTIONS rtsp://example.com RTSP/1.0\r\n"[..],
        b"DESCRIBE * RTSP/1.0\r\n",
        b"INVITE sip:bob@example.com SIP/2.0\r\n",
        b"REQMOD icap://a/b ICAP/1.0\r\n",
        b"GET /key\r\n",
        b"0033git-upload-pack /project.git\0host=myserver.com\0",
    ] {
        assert_eq!(verdict(bytes), Verdict::Http, "{:?}", String::from_utf8_lossy(bytes));
    }
}

#[test]
fn bulk_is_let_go() {
    let mut line = b"a".repeat(WINDOW as usize);
    assert_eq!(verdict(&line), Verdict::Open);
    line.extend_from_slice(b"aa");
    assert_eq!(verdict(&line), Verdict::Never);
}

/// Octets that mean something to somebody, and some that do not.
fn octets() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        Just(b"GET".to_vec()),
        Just(b"POST".to_vec()),
        Just(b"/".to_vec()),
        Just(b"HTTP/1.1".to_vec()),
        Just(b"http://".to_vec()),
        Just(b"PROXY".to_vec()),
        Just(PROXY2.to_vec()),
        Just(b"x-forwarded-client-cert:".to_vec()),
        Just(b"From ".to_vec()),
        Just(b"\r\n".to_vec()),
        Just(b" ".to_vec()),
        prop::sample::select(&b" \t\r\n\x0b\x1c\x85\xa0\0:*/A\xef"[..]).prop_map(|byte| vec![byte]),
        vec(any::<u8>(), 1..3),
    ];
    vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn pieces_do_not_matter(bytes in octets(), at in 0usize..60) {
        let (first, second) = bytes.split_at(at.min(bytes.len()));
        let cut = Beginning::NEW.after(first).after(second);
        prop_assert_eq!(cut.verdict(), verdict(&bytes));
    }

    #[test]
    fn whatever_detection_calls_http_is_http_here(bytes in octets()) {
        if let Detection::Done(Detected::Http1 | Detected::Http2) = detect(&bytes) {
            prop_assert_eq!(verdict(&bytes), Verdict::Http);
        }
    }

    /// White space of Python's, and any word before: as wsgiref reads a line.
    #[test]
    fn three_words_and_a_version(
        word in vec(any::<u8>().prop_filter("no space", |byte| !is_space(*byte)), 1..20),
        target in vec(any::<u8>().prop_filter("no space", |byte| !is_space(*byte)), 1..20),
        space in vec(prop::sample::select(&b" \t\x0b\x0c\r\x1c\x1d\x1e\x1f\x85\xa0"[..]), 1..3),
        version in "HTTP/[0-9]{1,3}\\.[0-9]{1,3}",
    ) {
        let line = [&word[..], &space, &target, &space, version.as_bytes(), b"\r\n"].concat();
        prop_assert_eq!(verdict(&lie(&line)), Verdict::Http);
    }

    /// As Java reads a line: anything but a space and a line end, a space, a path, anything.
    #[test]
    fn anything_with_a_path(word in vec(any::<u8>(), 0..60), rest in vec(any::<u8>(), 0..60)) {
        prop_assume!(!word.contains(&b' ') && !word.windows(2).any(|w| w == b"\r\n") && word.last() != Some(&b'\r'));
        let line = [&word[..], b" /pay ", &rest, b"\r\n"].concat();
        prop_assert_eq!(verdict(&lie(&line)), Verdict::Http);
    }
}
