use std::net::SocketAddr;

use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use weft_config::PortSet;
use weft_core::ProxyProtocol;
use weft_telemetry::Registry;

use super::*;

const LIMIT: Duration = Duration::from_secs(10);
/// 192.0.2.7:40000 to 198.51.100.1:443.
const LINE: &[u8] = b"PROXY TCP4 192.0.2.7 198.51.100.1 40000 443\r\n";
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

fn announced(trusted: &str, ports: &[(u16, u16)], registry: &Registry) -> Announced {
    let trusted = vec![trusted.parse().unwrap()];
    let config = ProxyProtocolSources { trusted, ports: PortSet::new(ports.to_vec()) };
    Announced::new(&config, &registry.shard()).unwrap()
}

/// A connection by both of its ends.
async fn connection() -> (TcpStream, Accepted) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let local = listener.local_addr().unwrap();
    let (near, taken) = tokio::join!(TcpStream::connect(local), listener.accept());
    let (stream, client) = taken.unwrap();
    near.as_ref().unwrap().set_nodelay(true).unwrap();
    (near.unwrap(), Accepted { stream, client: ClientAddr::new(client), local })
}

fn header(family: u8, block: &[u8]) -> Vec<u8> {
    let length = u16::try_from(block.len()).unwrap().to_be_bytes();
    [SIGNATURE, &[0x21, family], &length, block].concat()
}

fn counted(registry: &Registry, outcome: &str) -> bool {
    let mut text = String::new();
    registry.encode(&mut text);
    text.contains(&format!("weft_gateway_proxy_protocol_total{{outcome=\"{outcome}\"}} 1"))
}

/// What becomes of a connection on which this is said, piece by piece.
struct Came {
    first: Option<BytesMut>,
    client: SocketAddr,
    local: SocketAddr,
    peer: SocketAddr,
}

async fn comes(pieces: &[&[u8]], ends: bool, registry: &Registry) -> Came {
    let announced = announced("127.0.0.0/8", &[], registry);
    let (mut near, mut accepted) = connection().await;
    let peer = accepted.client.get();
    let trusted = announced.expects(&accepted).unwrap();
    let say = async {
        for piece in pieces {
            near.write_all(piece).await.unwrap();
            tokio::task::yield_now().await;
        }
        if ends {
            drop(near);
            None
        } else {
            Some(near)
        }
    };
    let (first, _near) = tokio::join!(announced.read(trusted, &mut accepted, LIMIT, Drain::never()), say);
    Came { first, client: accepted.client.get(), local: accepted.local, peer }
}

#[tokio::test]
async fn the_header_says_whose_the_connection_is_however_it_comes() {
    let source: SocketAddr = "192.0.2.7:40000".parse().unwrap();
    let destination: SocketAddr = "198.51.100.1:443".parse().unwrap();
    let binary = ProxyHeader::Proxied { source, destination }.encode(ProxyProtocol::V2);
    for header in [LINE, &binary] {
        let hello = [header, b"\x16\x03\x01 hello"].concat();
        let octets: Vec<&[u8]> = hello.chunks(1).collect();
        for pieces in [&[&hello[..]][..], &octets] {
            let registry = Registry::default();
            let came = comes(pieces, false, &registry).await;
            let mut behind = came.first.unwrap().to_vec();
            assert!(b"\x16\x03\x01 hello".starts_with(&behind), "{behind:?}");
            if pieces.len() == 1 {
                assert_eq!(std::mem::take(&mut behind), b"\x16\x03\x01 hello", "in the same segment");
            }
            assert_eq!((came.client, came.local), (source, destination));
            assert!(counted(&registry, "proxied"));
        }
    }
}

#[tokio::test]
async fn what_tells_of_nobody_is_the_peers_own() {
    let local = [SIGNATURE, &[0x20, 0, 0, 0]].concat();
    let unix = header(0x31, &[b'/'; 216]);
    for (said, outcome) in [(&local[..], "local"), (&unix, "unknown"), (b"PROXY UNKNOWN\r\n", "unknown")] {
        let registry = Registry::default();
        let came = comes(&[said], false, &registry).await;
        assert!(came.first.is_some_and(|first| first.is_empty()));
        assert_eq!(came.client, came.peer);
        assert!(counted(&registry, outcome), "{outcome}");
    }
}

#[tokio::test]
async fn without_a_header_there_is_no_connection() {
    let large = header(0x11, &vec![0; 65_535]);
    for (said, ends, outcome) in [
        (&b"GET / HTTP/1.1\r\n\r\n"[..], false, "malformed"),
        (b"\x16\x03\x01\x02\x00\x01", false, "malformed"),
        (b"PROXY TCP4 192.0.2.7 198.51.100.1 40000 443\n", false, "malformed"),
        // TLVs without end: nothing of the kind is gathered.
        (&large[..16], false, "malformed"),
        (b"PROXY TCP4 192.0.2.7", true, "closed"),
        (b"", true, "closed"),
    ] {
        let registry = Registry::default();
        assert!(comes(&[said], ends, &registry).await.first.is_none(), "{outcome}");
        assert!(counted(&registry, outcome), "{outcome}: {said:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn half_a_header_is_not_waited_for_for_ever() {
    for (said, registry) in [(&LINE[..20], Registry::default()), (&SIGNATURE[..7], Registry::default())] {
        let began = Instant::now();
        assert!(comes(&[said], false, &registry).await.first.is_none());
        assert!((LIMIT..LIMIT * 2).contains(&began.elapsed()), "{:?}", began.elapsed());
        assert!(counted(&registry, "timeout"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_drain_waits_for_it_for_a_moment() {
    let registry = Registry::default();
    let announced = announced("127.0.0.1/32", &[], &registry);
    let (_near, mut accepted) = connection().await;
    let trusted = announced.expects(&accepted).unwrap();
    let (trigger, drain) = weft_core::drain();
    trigger.start(Duration::from_secs(30));
    let began = Instant::now();
    assert!(announced.read(trusted, &mut accepted, LIMIT, drain).await.is_none());
    assert!((weft_core::ON_ITS_WAY..LIMIT).contains(&began.elapsed()), "{:?}", began.elapsed());
}

#[tokio::test]
async fn who_is_not_trusted_here_says_nothing() {
    let registry = Registry::default();
    let (_near, accepted) = connection().await;
    let port = accepted.local.port();
    assert!(announced("127.0.0.0/8", &[(port, port)], &registry).expects(&accepted).is_some());
    assert!(announced("127.0.0.0/8", &[(1, 1)], &registry).expects(&accepted).is_none());
    assert!(announced("10.0.0.0/8", &[], &registry).expects(&accepted).is_none());
    assert!(Announced::new(&ProxyProtocolSources::default(), &registry.shard()).is_none());
}
