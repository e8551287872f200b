//! Properties of both directions, and the specification's own examples.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bytes::BytesMut;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::net::TcpStream;
use tokio::time::Instant;
use weft_core::{AddrSet, ClientAddr, ProxyProtocol, canonical};

use super::*;

const BOTH: [ProxyProtocol; 2] = [ProxyProtocol::V1, ProxyProtocol::V2];
const PATIENCE: Duration = Duration::from_secs(3);

fn proxied(source: &str, destination: &str) -> ProxyHeader {
    ProxyHeader::Proxied { source: source.parse().unwrap(), destination: destination.parse().unwrap() }
}

fn done(bytes: &[u8]) -> (ProxyHeader, usize) {
    match parse(bytes) {
        Ok(Parsed::Done { header, length }) => (header, length),
        other => panic!("{other:?} of {:?}", String::from_utf8_lossy(bytes)),
    }
}

/// A header of version 2, with the octets behind the fixed part as its length says.
fn v2(version_command: u8, family: u8, block: &[u8]) -> Vec<u8> {
    let mut bytes = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
    bytes.extend([version_command, family]);
    bytes.extend(u16::try_from(block.len()).unwrap().to_be_bytes());
    bytes.extend(block);
    bytes
}

fn trusted() -> Trusted {
    TrustedSources::new(AddrSet::new(&["0.0.0.0/0".parse().unwrap()]))
        .check(ClientAddr::new("192.0.2.1:1".parse().unwrap()))
        .unwrap()
}

async fn read_from(
    mut stream: DuplexStream,
) -> (Result<ProxyHeader, ProxyProtocolError>, BytesMut, DuplexStream) {
    let mut buf = BytesMut::new();
    let header = read(trusted(), &mut stream, &mut buf, Instant::now() + PATIENCE).await;
    (header, buf, stream)
}

#[test]
fn lines_as_the_specification_has_them() {
    for (text, header) in [
        (
            "PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n",
            proxied("192.168.0.1:56324", "192.168.0.11:443"),
        ),
        (
            "PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n",
            proxied("255.255.255.255:65535", "255.255.255.255:65535"),
        ),
        ("PROXY TCP6 2001:DB8::1 ::1 0 65535\r\n", proxied("[2001:db8::1]:0", "[::1]:65535")),
        ("PROXY TCP6 ::ffff:10.0.0.1 ::ffff:a00:2 1 2\r\n", proxied("10.0.0.1:1", "10.0.0.2:2")),
        ("PROXY UNKNOWN\r\n", ProxyHeader::Unknown),
        ("PROXY UNKNOWN ffff::ffff \u{fffd} whatever  65535\r\n", ProxyHeader::Unknown),
    ] {
        let followed = format!("{text}GET / HTTP/1.1\r\n");
        assert_eq!(done(followed.as_bytes()), (header, text.len()), "{text}");
    }
    let longest = format!("PROXY UNKNOWN {}\r\n", "f".repeat(MAX_LINE - 16));
    assert_eq!(done(longest.as_bytes()), (ProxyHeader::Unknown, MAX_LINE));
}

#[test]
fn lines_that_are_none() {
    let too_long = format!("PROXY UNKNOWN {}\r\n", "f".repeat(MAX_LINE - 15));
    for text in [
        "GET / HTTP/1.1\r\n",
        "proxy TCP4 10.0.0.1 10.0.0.2 1 2\r\n",
        "PROXY  TCP4 10.0.0.1 10.0.0.2 1 2\r\n",
        "PROXY TCP4  10.0.0.1 10.0.0.2 1 2\r\n",
        "PROXY TCP4 10.0.0.1 10.0.0.2 1 2 \r\n",
        "PROXY TCP4 10.0.0.1 10.0.0.2 1 2 3\r\n",
        "PROXY TCP4 10.0.0.1 10.0.0.2 1\r\n",
        "PROXY TCP4 10.0.0.1 10.0.0.2\r\n",
        "PROXY TCP4\r\n",
        "PROXY \r\n",
        "PROXY TCP4 10.0.0.01 10.0.0.2 1 2\r\n",
        "PROXY TCP4 10.0.0 10.0.0.2 1 2\r\n",
        "PROXY TCP4 ::1 10.0.0.2 1 2\r\n",
        "PROXY TCP6 10.0.0.1 10.0.0.2 1 2\r\n",
        "PROXY TCP6 fe80::1%eth0 ::1 1 2\r\n",
        "PROXY TCP6 [::1] ::1 1 2\r\n",
        "PROXY TCP4 10.0.0.1 10.0.0.2 +1 2\r\n",
        "PROXY TCP4 10.0.0.1 10.0.0.2 01 2\r\n",
        "PROXY TCP4 10.0.0.1 10.0.0.2 65536 2\r\n",
        "PROXY TCP4 10.0.0.1 10.0.0.2  2\r\n",
        "PROXY UDP4 10.0.0.1 10.0.0.2 1 2\r\n",
        "PROXY UNKNOWNS\r\n",
        "PROXY UNKNOWN\n",
        "PROXY UNKNOWN\r \n",
        "PROXY UNKNOWN a\nb\r\n",
        &too_long,
    ] {
        assert!(parse(text.as_bytes()).is_err(), "{text:?}");
    }
}

#[test]
fn binary_headers_as_the_specification_has_them() {
    let v4 = [10, 0, 0, 1, 10, 0, 0, 2, 0xdc, 0x04, 0x01, 0xbb];
    let ours = proxied("10.0.0.1:56324", "10.0.0.2:443");
    let mut v6 = [0; 36];
    (v6[15], v6[31], v6[33], v6[35]) = (1, 2, 7, 9);
    let with_more = [&v4[..], &[4, 0, 1, 0], &[0xff; 300]].concat();
    for (bytes, header) in [
        (v2(0x21, 0x11, &v4), ours),
        (v2(0x21, 0x11, &with_more), ours),
        (v2(0x21, 0x21, &v6), proxied("[::1]:7", "[::2]:9")),
        (v2(0x20, 0, &[]), ProxyHeader::Local),
        // The block is to be skipped, and its family ignored.
        (v2(0x20, 0x11, &v4), ProxyHeader::Local),
        (v2(0x20, 0xff, &[1, 2, 3]), ProxyHeader::Local),
        (v2(0x21, 0x00, &[]), ProxyHeader::Unknown),
        (v2(0x21, 0x00, &v4), ProxyHeader::Unknown),
        (v2(0x21, 0x12, &v4), ProxyHeader::Unknown),
        (v2(0x21, 0x31, &[b'/'; 216]), ProxyHeader::Unknown),
        (v2(0x20, 0, &[0; MAX_HEADER - 16]), ProxyHeader::Local),
    ] {
        let followed = [&bytes[..], b"GET /"].concat();
        assert_eq!(done(&followed), (header, bytes.len()), "{bytes:?}");
    }
}

#[test]
fn binary_headers_that_are_none() {
    for bytes in [
        v2(0x11, 0x11, &[0; 12]),
        v2(0x31, 0x11, &[0; 12]),
        v2(0x22, 0x11, &[0; 12]),
        v2(0x21, 0x41, &[0; 216]),
        v2(0x21, 0x13, &[0; 12]),
        v2(0x21, 0x11, &[0; 11]),
        v2(0x21, 0x21, &[0; 35]),
        v2(0x21, 0x31, &[0; 215]),
        v2(0x20, 0, &[0; MAX_HEADER - 15]),
        b"\r\n\r\n\0\r\nQUIT\r".to_vec(),
        b"\r\n\r\n\0\r\nQUIT\n\x30".to_vec(),
        b"\x16\x03\x01".to_vec(),
    ] {
        assert!(parse(&bytes).is_err(), "{bytes:?}");
    }
}

#[test]
fn what_is_written_is_what_the_specification_says() {
    let v4 = proxied("192.168.0.1:56324", "192.168.0.11:443");
    assert_eq!(&v4.encode(ProxyProtocol::V1)[..], b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n");
    let block = [192, 168, 0, 1, 192, 168, 0, 11, 0xdc, 0x04, 0x01, 0xbb];
    assert_eq!(v4.encode(ProxyProtocol::V2), v2(0x21, 0x11, &block));
    let mixed = proxied("10.0.0.1:1", "[fd00::1]:2");
    assert_eq!(&mixed.encode(ProxyProtocol::V1)[..], b"PROXY TCP6 ::ffff:a00:1 fd00::1 1 2\r\n");
    assert_eq!(mixed.encode(ProxyProtocol::V2).len(), 16 + 36);
    assert_eq!(&ProxyHeader::Unknown.encode(ProxyProtocol::V1)[..], b"PROXY UNKNOWN\r\n");
    assert_eq!(ProxyHeader::Unknown.encode(ProxyProtocol::V2), v2(0x21, 0, &[]));
    assert_eq!(ProxyHeader::Local.encode(ProxyProtocol::V2), v2(0x20, 0, &[]));
}

#[test]
fn nobody_is_trusted_who_is_not_named() {
    let client = |text: &str| ClientAddr::new(text.parse().unwrap());
    assert!(TrustedSources::default().check(client("127.0.0.1:1")).is_err());
    let nets = ["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()];
    let sources = TrustedSources::new(AddrSet::new(&nets));
    for (peer, is_trusted) in [
        ("10.1.2.3:1", true),
        ("[::ffff:10.1.2.3]:1", true),
        ("[fd12::1]:1", true),
        ("11.0.0.1:1", false),
        ("[::1]:1", false),
    ] {
        assert_eq!(sources.check(client(peer)).is_ok(), is_trusted, "{peer}");
    }
    let refused = sources.check(client("11.0.0.1:1")).unwrap_err();
    assert_eq!(refused.reason(), "untrusted");
    assert!(refused.to_string().contains("11.0.0.1"), "{refused}");
}

#[tokio::test(start_paused = true)]
async fn a_header_that_does_not_come_is_not_waited_for() {
    let started = Instant::now();
    let (mut peer, stream) = tokio::io::duplex(64);
    peer.write_all(b"PROXY TCP4 ").await.unwrap();
    let (header, buf, _) = read_from(stream).await;
    assert!(matches!(header, Err(ProxyProtocolError::TimedOut { octets: 11 })), "{header:?}");
    assert_eq!((&buf[..], started.elapsed()), (&b"PROXY TCP4 "[..], PATIENCE));

    for said in [&b""[..], b"PROXY TCP4 ", b"\r\n\r\n\0"] {
        let (mut peer, stream) = tokio::io::duplex(64);
        peer.write_all(said).await.unwrap();
        drop(peer);
        let (header, ..) = read_from(stream).await;
        assert!(
            matches!(header, Err(ProxyProtocolError::Closed { octets }) if octets == said.len()),
            "{header:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_no_header_is_refused_at_its_first_octet() {
    let (mut peer, stream) = tokio::io::duplex(64);
    peer.write_all(b"G").await.unwrap();
    let (header, ..) = read_from(stream).await;
    assert!(matches!(header, Err(ProxyProtocolError::Malformed(_))), "{header:?}");
}

#[tokio::test]
async fn a_connection_of_its_own_is_told_so() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let to = listener.local_addr().unwrap();
    for version in BOTH {
        let mut stream = TcpStream::connect(to).await.unwrap();
        let header = own(version, &stream).unwrap();
        write(&mut stream, version, &header).await.unwrap();
        drop(stream);
        let (mut accepted, peer) = listener.accept().await.unwrap();
        let mut bytes = Vec::new();
        accepted.read_to_end(&mut bytes).await.unwrap();
        let expected = match version {
            ProxyProtocol::V1 => ProxyHeader::Proxied { source: peer, destination: to },
            ProxyProtocol::V2 => ProxyHeader::Local,
        };
        assert_eq!(done(&bytes), (expected, bytes.len()));
    }
}

fn address() -> impl Strategy<Value = SocketAddr> {
    (any::<IpAddr>(), any::<u16>()).prop_map(|(ip, port)| canonical(SocketAddr::new(ip, port)))
}

fn header() -> impl Strategy<Value = ProxyHeader> {
    prop_oneof![
        Just(ProxyHeader::Local),
        Just(ProxyHeader::Unknown),
        (address(), address()).prop_map(|(source, destination)| ProxyHeader::Proxied { source, destination }),
    ]
}

/// Octets that come far: a header that may be cut, with a few octets changed, and more behind it.
fn nearly() -> impl Strategy<Value = Vec<u8>> {
    let changes = proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3);
    let behind = proptest::collection::vec(any::<u8>(), 0..200);
    (header(), prop::sample::select(BOTH.to_vec()), changes, behind).prop_map(
        |(header, version, changes, behind)| {
            let mut bytes = header.encode(version).to_vec();
            for (at, byte) in changes {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            bytes.extend(behind);
            bytes
        },
    )
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap()
        .block_on(future)
}

proptest! {
    #[test]
    fn what_is_written_is_read_again(header in header(), version in prop::sample::select(BOTH.to_vec())) {
        let bytes = header.encode(version);
        // Version 1 has one word for both.
        let expected = match (version, header) {
            (ProxyProtocol::V1, ProxyHeader::Local) => ProxyHeader::Unknown,
            (_, header) => header,
        };
        prop_assert_eq!(done(&bytes), (expected, bytes.len()));
        prop_assert!(bytes.len() <= MAX_LINE);
    }

    #[test]
    fn a_verdict_does_not_change_with_more_octets(
        bytes in prop_oneof![nearly(), proptest::collection::vec(any::<u8>(), 0..300)],
    ) {
        let whole = parse(&bytes);
        for n in 0..bytes.len() {
            let sofar = parse(&bytes[..n]);
            prop_assert!(sofar == Ok(Parsed::NeedMore) || sofar == whole, "after {} octets: {:?}, then {:?}", n, sofar, whole);
        }
        if let Ok(Parsed::Done { length, .. }) = whole {
            prop_assert!(length <= MAX_HEADER && length <= bytes.len());
        }
    }

    /// However the octets come, none is lost: what was read is the header, what is in the buffer, and what is still in the
    /// stream, in this order; and no more were taken than a header may have.
    #[test]
    fn nothing_is_lost_however_it_comes(
        start in nearly(),
        more in 0usize..6000,
        cuts in proptest::collection::vec(1usize..200, 1..20),
    ) {
        let bytes = [start, vec![b'x'; more]].concat();
        let (header, buf, rest) = block_on(async {
            let (mut peer, stream) = tokio::io::duplex(64);
            let said = bytes.clone();
            let speaking = async move {
                let (mut at, mut cuts) = (0, cuts.iter().cycle());
                while at < said.len() {
                    let end = said.len().min(at + cuts.next().unwrap());
                    peer.write_all(&said[at..end]).await.unwrap();
                    at = end;
                    tokio::task::yield_now().await;
                }
            };
            let listening = async {
                let (header, buf, mut stream) = read_from(stream).await;
                let mut rest = Vec::new();
                stream.read_to_end(&mut rest).await.unwrap();
                (header, buf, rest)
            };
            tokio::join!(speaking, listening).1
        });
        let taken = bytes.len() - rest.len();
        prop_assert!(taken <= MAX_HEADER, "{} octets were taken", taken);
        match (parse(&bytes), header) {
            (Ok(Parsed::Done { header, length }), Ok(read)) => {
                prop_assert_eq!(header, read);
                prop_assert_eq!(&[&buf[..], &rest].concat(), &bytes[length..]);
            }
            (Err(expected), Err(ProxyProtocolError::Malformed(told))) => prop_assert_eq!(expected, told),
            (Ok(Parsed::NeedMore), Err(ProxyProtocolError::Closed { octets })) => prop_assert_eq!(octets, bytes.len()),
            (parsed, read) => prop_assert!(false, "{:?} and {:?}", parsed, read),
        }
    }
}
