//! Bytes that are no protocol, or nearly one.

use std::iter::repeat_n;

use weft_testbed::frames::{self, PREFACE, connection, frame};

fn join(parts: &[&[u8]]) -> Vec<u8> {
    parts.concat()
}

fn h2(frames: &[Vec<u8>]) -> Vec<u8> {
    connection(&frames.concat())
}

/// A ClientHello record around a handshake body that is cut or stretched as the caller likes.
fn hello(length: u16, body: &[u8]) -> Vec<u8> {
    let mut record = vec![22, 3, 1];
    record.extend(length.to_be_bytes());
    record.extend_from_slice(body);
    record
}

/// Every crafted sample.
pub(crate) fn crafted() -> Vec<Vec<u8>> {
    let long = |byte: u8, count: usize| repeat_n(byte, count).collect::<Vec<u8>>();
    let mut samples = vec![Vec::new(), vec![0], vec![22], vec![0xff; 3], long(0, 70_000), long(b'A', 70_000)];
    samples.extend(tls(&long));
    samples.extend(http1(&long));
    samples.extend(http2(&long));
    samples
}

fn tls(long: &dyn Fn(u8, usize) -> Vec<u8>) -> Vec<Vec<u8>> {
    let mut random = vec![1, 0, 0, 40, 3, 3];
    random.extend(long(7, 32));
    vec![
        hello(5, &[1, 0, 0, 1]),          // truncated in the record
        hello(4, &[1, 0xff, 0xff, 0xff]), // a message of 16 MB
        hello(0, &[]),                    // an empty record
        hello(0xffff, &long(1, 0xffff)),  // larger than a record may be (2^14 + 256)
        hello(40, &random),               // ends in the session id
        join(&[&hello(1, &[1]), &hello(1, &[0]), &hello(1, &[0]), &hello(1, &[9])]), // in pieces
        hello(1, &[1]).repeat(2000),      // in too many pieces
        vec![22, 3, 9, 0, 1, 1],          // a version that does not exist
        vec![21, 3, 3, 0, 2, 2, 0],       // an alert
        vec![23, 3, 3, 0, 4, 1, 2, 3, 4], // data before the handshake
        vec![20, 3, 3, 0, 1, 1],          // change cipher spec
        vec![0x80, 0x2e, 1, 3, 1, 0, 0x15, 0, 0, 0, 0x10], // SSLv2
    ]
}

fn http1(long: &dyn Fn(u8, usize) -> Vec<u8>) -> Vec<Vec<u8>> {
    let get = b"GET / HTTP/1.1\r\nhost: orders.shop\r\n";
    let mut many = get.to_vec();
    (0..2000).for_each(|n| many.extend(format!("x-{n}: y\r\n").into_bytes()));
    vec![
        b"GET".to_vec(),
        b"GET / HTTP/1.1\r\n".to_vec(),
        b"GET / HTTP/9.9\r\n\r\n".to_vec(),
        b"GET / HTTP/1.1\r\n\r\n".to_vec(), // no host
        b"GET\x00/ HTTP/1.1\r\nhost: a\r\n\r\n".to_vec(),
        b"G\xc3\x89T / HTTP/1.1\r\nhost: a\r\n\r\n".to_vec(),
        b"GET /\xff\xfe HTTP/1.1\r\nhost: a\r\n\r\n".to_vec(),
        b"GET http://[::1 HTTP/1.1\r\nhost: a\r\n\r\n".to_vec(),
        b"GET  /  HTTP/1.1\r\nhost: a\r\n\r\n".to_vec(),
        b"\r\n\r\n\r\nGET / HTTP/1.1\r\nhost: a\r\n\r\n".to_vec(),
        b"CONNECT / HTTP/1.1\r\nhost: a\r\n\r\n".to_vec(),
        b"OPTIONS * HTTP/1.1\r\nhost: \r\n\r\n".to_vec(),
        join(&[get, b"x: \x00\x01\x7f\r\n\r\n"]),
        join(&[get, b": empty\r\n\r\n"]),
        join(&[get, b"no colon\r\n\r\n"]),
        join(&[get, b"x", &long(b'y', 300_000), b": z\r\n\r\n"]),
        join(&[get, b"x: ", &long(b'y', 300_000), b"\r\n\r\n"]),
        join(&[b"GET /", &long(b'a', 300_000), b" HTTP/1.1\r\nhost: a\r\n\r\n"]),
        join(&[&many, b"\r\n"]),
        join(&[get, b"content-length: 18446744073709551616\r\n\r\n"]),
        join(&[get, b"content-length: 10\r\n\r\nabc"]), // broken off
        join(&[get, b"transfer-encoding: chunked\r\n\r\nfffffffffffffffff\r\n"]),
        join(&[get, b"transfer-encoding: chunked\r\n\r\n3\r\nabcdef"]),
        join(&[get, b"upgrade: websocket\r\nconnection: upgrade\r\n\r\n\x81\xff\xff"]),
        join(&[get, b"expect: 100-continue\r\ncontent-length: 3\r\n\r\n"]),
        long(b'\n', 50_000),
        b"GET / HTTP/1.1\r\nhost: a\r\n\r\n".repeat(500), // pipelined without end
    ]
}

fn http2(long: &dyn Fn(u8, usize) -> Vec<u8>) -> Vec<Vec<u8>> {
    let request = frames::get_request("orders.shop");
    let mut bomb = vec![0x82, 0x86, 0x84, 0x40, 1, b'x', 0x7f, 0x81, 0x1d];
    bomb.extend(long(b'y', 4000));
    bomb.extend(long(0xbe, 12_000)); // the entry just made, 12,000 times: 48 MB of headers
    vec![
        PREFACE[..10].to_vec(),
        PREFACE.to_vec(),
        join(&[PREFACE, b"garbage that is no frame at all"]),
        join(&[PREFACE, &long(0xff, 9)]), // a frame of 16 MB
        h2(&[frame(4, 0, 0, &[0, 4, 0xff, 0xff, 0xff, 0xff])]), // a window of 4 GB
        h2(&[frame(4, 0, 0, &[0; 5])]),   // settings of a wrong size
        h2(&[frame(4, 1, 0, &[0; 6])]),   // an acknowledgement with content
        h2(&[frame(1, 5, 0, &request)]),  // headers on the connection itself
        h2(&[frame(1, 5, 2, &request)]),  // a stream number of the server's
        h2(&[frame(0, 0, 1, b"data")]),   // data on an idle stream
        h2(&[frame(1, 5, 3, &request), frame(1, 5, 1, &request)]), // stream numbers going back
        h2(&[frame(1, 5, 1, &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff])]), // HPACK of an index without end
        h2(&[frame(1, 5, 1, &bomb)]),
        h2(&[frame(1, 4, 1, &request), frame(0, 0x29, 1, &[200, 1, 2])]), // more padding than frame
        h2(&[frame(3, 0, 1, &[0; 4])]),                                   // a reset of an idle stream
        h2(&[frame(5, 4, 1, &[0; 8])]),                                   // a push from a client
        h2(&[frame(6, 0, 0, &[0; 7])]),                                   // a ping of a wrong size
        h2(&[frame(8, 0, 0, &[0; 4])]),                                   // a window update by nothing
        h2(&[frame(8, 0, 0, &[0x7f, 0xff, 0xff, 0xff]), frame(8, 0, 0, &[0x7f, 0xff, 0xff, 0xff])]),
        h2(&[frame(9, 4, 1, &request)]), // a continuation of nothing
        h2(&[frame(1, 1, 1, &request), frame(6, 0, 0, &[0; 8])]), // a ping in the middle of headers
        h2(&[frame(0xee, 0xff, 7, b"unknown")]),
    ]
}

/// Packets that are no good DNS query.
pub(crate) fn dns() -> Vec<Vec<u8>> {
    let header = |flags: u16, questions: u16| {
        let mut packet = vec![0x12, 0x34];
        packet.extend(flags.to_be_bytes());
        packet.extend(questions.to_be_bytes());
        packet.extend([0; 6]);
        packet
    };
    let with = |mut head: Vec<u8>, rest: &[u8]| {
        head.extend_from_slice(rest);
        head
    };
    let query = b"\x06orders\x04shop\x00\x00\x01\x00\x01";
    vec![
        Vec::new(),
        vec![0x12],
        header(0x0100, 1)[..11].to_vec(),
        header(0x0100, 1), // no question although one is announced
        header(0x0100, 0xffff),
        with(header(0x0100, 1), b"\x3f"), // a label without its content
        with(header(0x0100, 1), b"\xc0\x0c\x00\x01\x00\x01"), // a name that points to itself
        with(header(0x0100, 1), b"\xc0\xff\x00\x01\x00\x01"), // one that points beyond the end
        with(header(0x0100, 1), b"\x80x\x00\x00\x01\x00\x01"), // a kind of label that does not exist
        with(header(0x0100, 1), &[&b"\x01a".repeat(200)[..], b"\x00\x00\x01\x00\x01"].concat()), // a name too long
        with(header(0x8180, 1), query),                                                          // a response
        with(header(0x7900, 1), query), // an opcode that does not exist
        with(header(0x0100, 2), &[&query[..], query].concat()),
        with(header(0x0100, 1), &[&query[..], &[0xff; 500]].concat()), // and more behind it
        with(header(0x0100, 1), b"\x00\x00\xfb\x00\x01"),              // IXFR of the root
        vec![0xff; 4000],
        vec![0; 512],
    ]
}
