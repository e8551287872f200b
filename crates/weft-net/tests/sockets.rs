//! Listeners, connections and streams over loopback.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use bytes::BytesMut;
use proptest::prelude::*;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use weft_core::EndpointAddr;
use weft_net::{
    Acceptor, ConnectError, ConnectOptions, Destination, Detected, Keepalive, ListenOptions, Listener,
    OpaqueReason, Prefixed, ReadAhead, SocketOptions, connect, detect_first, pool, reset,
};

fn loopback() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

fn acceptor() -> Acceptor {
    Acceptor::new(Listener::bind(loopback(), &ListenOptions::default()).unwrap()).unwrap()
}

async fn pair() -> (TcpStream, TcpStream) {
    let mut acceptor = acceptor();
    let addr = acceptor.local_addr();
    let (client, accepted) = tokio::join!(TcpStream::connect(addr), acceptor.accept());
    (client.unwrap(), accepted.stream)
}

fn check_options(stream: &TcpStream, wanted: &SocketOptions) {
    let socket = SockRef::from(stream);
    assert_eq!(socket.tcp_nodelay().unwrap(), wanted.nodelay);
    let keepalive = wanted.keepalive.unwrap();
    assert!(socket.keepalive().unwrap());
    assert_eq!(socket.tcp_keepalive_time().unwrap(), keepalive.idle);
    assert_eq!(socket.tcp_keepalive_interval().unwrap(), keepalive.interval);
    assert_eq!(socket.tcp_keepalive_retries().unwrap(), keepalive.count);
    assert_eq!(socket.tcp_user_timeout().unwrap(), wanted.user_timeout);
}

const ODD: SocketOptions = SocketOptions {
    nodelay: true,
    keepalive: Some(Keepalive { idle: Duration::from_secs(41), interval: Duration::from_secs(7), count: 3 }),
    user_timeout: Some(Duration::from_millis(12_345)),
};

#[tokio::test]
async fn accepted_sockets_inherit_the_options_of_the_listener() {
    let options = ListenOptions { accepted: ODD, ..ListenOptions::default() };
    let mut acceptor = Acceptor::new(Listener::bind(loopback(), &options).unwrap()).unwrap();
    let endpoint = EndpointAddr::new(acceptor.local_addr());
    let connecting = ConnectOptions { socket: ODD, ..ConnectOptions::default() };
    let (client, accepted) = tokio::join!(connect(endpoint, &connecting), acceptor.accept());
    check_options(&accepted.stream, &ODD);
    check_options(&client.unwrap(), &ODD);
}

#[tokio::test]
async fn workers_share_a_port() {
    let first = Listener::bind(loopback(), &ListenOptions::default()).unwrap();
    Listener::bind(first.local_addr(), &ListenOptions::default()).unwrap();
    let alone = ListenOptions { reuse_port: false, ..ListenOptions::default() };
    let error = Listener::bind(first.local_addr(), &alone).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
}

#[tokio::test]
async fn a_wildcard_listener_takes_both_families_in_canonical_form() {
    let mut acceptor = Acceptor::new(Listener::bind_any(0, &ListenOptions::default()).unwrap()).unwrap();
    let port = acceptor.local_addr().port();
    for ip in ["127.0.0.1", "::1"] {
        let addr = SocketAddr::new(ip.parse().unwrap(), port);
        let (client, accepted) = tokio::join!(TcpStream::connect(addr), acceptor.accept());
        assert_eq!(accepted.local, addr);
        assert_eq!(accepted.client.get(), client.unwrap().local_addr().unwrap());
        assert_eq!(accepted.destination().unwrap(), Destination::Direct(addr));
    }
}

/// Whoever comes while a listener is being closed finds the next one, and is not reset.
#[tokio::test]
async fn a_listener_that_admits_nobody_more_gives_up_whom_it_had() {
    let mut acceptor = acceptor();
    let endpoint = EndpointAddr::new(acceptor.local_addr());
    let before = connect(endpoint, &ConnectOptions::default()).await.unwrap();
    acceptor.stop_admitting().unwrap();
    let after = tokio::spawn(connect_patiently(endpoint));
    let mut accepted = acceptor.accept().await.stream;
    assert_eq!(accepted.peer_addr().unwrap(), before.local_addr().unwrap());
    let none = tokio::time::timeout(Duration::from_millis(200), acceptor.accept()).await;
    assert!(none.is_err(), "the kernel let somebody in");
    accepted.write_all(b"served").await.unwrap();
    let next = Listener::bind(endpoint.get(), &ListenOptions::default()).unwrap();
    drop(acceptor);
    let mut next = Acceptor::new(next).unwrap();
    let taken = next.accept().await;
    assert_eq!(taken.client.get(), after.await.unwrap().local_addr().unwrap());
}

/// Whose connection the kernel has made, on their side, is never reset: their last packet of the handshake may come after the end
/// of admission.
#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn who_was_answered_is_let_in() {
    let mut rounds = tokio::task::JoinSet::new();
    for _ in 0..12 {
        rounds.spawn(a_crowd_at_a_listener_that_ends());
    }
    while let Some(round) = rounds.join_next().await {
        round.unwrap();
    }
}

async fn a_crowd_at_a_listener_that_ends() {
    let listener = Listener::bind(loopback(), &ListenOptions::default()).unwrap();
    let endpoint = EndpointAddr::new(listener.local_addr());
    let clients: Vec<_> = (0..4).map(|_| tokio::spawn(connect_until_refused(endpoint))).collect();
    // An acceptor stays on its thread.
    let ends = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(serve_and_end(listener))
    };
    let served = tokio::task::spawn_blocking(ends).await.unwrap();
    let mut answered = 0;
    for client in clients {
        answered += client.await.unwrap();
    }
    assert_eq!(answered, served);
}

async fn serve_and_end(listener: Listener) -> usize {
    let mut acceptor = Acceptor::new(listener).unwrap();
    for _ in 0..50 {
        acceptor.accept().await.stream.write_all(b"!").await.unwrap();
    }
    acceptor.stop_admitting().unwrap();
    let mut served = 50;
    while let Ok(mut late) = tokio::time::timeout(Duration::from_millis(50), acceptor.accept()).await {
        late.stream.write_all(b"!").await.unwrap();
        served += 1;
    }
    served
}

/// Connects again and again, and is served each time it is connected.
async fn connect_until_refused(endpoint: EndpointAddr) -> usize {
    let patient = ConnectOptions { timeout: Duration::from_secs(20), ..ConnectOptions::default() };
    for served in 0.. {
        let Ok(mut stream) = connect(endpoint, &patient).await else { return served };
        assert_eq!(stream.read_u8().await.unwrap(), b'!');
    }
    0
}

async fn connect_patiently(endpoint: EndpointAddr) -> TcpStream {
    // Its first packet is lost: the next comes a second later (RFC 6298 section 2).
    let patient = ConnectOptions { timeout: Duration::from_secs(20), ..ConnectOptions::default() };
    connect(endpoint, &patient).await.unwrap()
}

#[tokio::test]
async fn connect_errors_are_told_apart() {
    let closed =
        EndpointAddr::new(Listener::bind(loopback(), &ListenOptions::default()).unwrap().local_addr());
    let error = connect(closed, &ConnectOptions::default()).await.unwrap_err();
    assert!(matches!(error, ConnectError::Refused { .. }) && error.blames_endpoint(), "{error:?}");

    let not_ours =
        ConnectOptions { bind: Some(Ipv4Addr::new(192, 0, 2, 1).into()), ..ConnectOptions::default() };
    let error = connect(closed, &not_ours).await.unwrap_err();
    assert!(matches!(error, ConnectError::LocalResource { .. }) && !error.blames_endpoint(), "{error:?}");

    // A full backlog drops SYNs: nobody answers. (Its size is one more than asked for.)
    let full = Listener::bind(loopback(), &ListenOptions { backlog: 0, ..ListenOptions::default() }).unwrap();
    let endpoint = EndpointAddr::new(full.local_addr());
    let quick = ConnectOptions { timeout: Duration::from_millis(200), ..ConnectOptions::default() };
    let _waiting = connect(endpoint, &quick).await.unwrap();
    let error = connect(endpoint, &quick).await.unwrap_err();
    assert!(matches!(error, ConnectError::TimedOut { .. }), "{error:?}");
    assert_eq!(error.reason(), "timeout");
}

#[tokio::test]
async fn connect_binds_the_address_it_is_told() {
    let mut acceptor = acceptor();
    let endpoint = EndpointAddr::new(acceptor.local_addr());
    let options =
        ConnectOptions { bind: Some(Ipv4Addr::new(127, 0, 0, 6).into()), ..ConnectOptions::default() };
    let (client, accepted) = tokio::join!(connect(endpoint, &options), acceptor.accept());
    assert_eq!(accepted.client.ip().to_string(), "127.0.0.6");
    drop(client);
}

#[tokio::test]
async fn reset_is_seen_as_a_reset() {
    let (mut client, server) = pair().await;
    reset(server);
    assert_eq!(client.read(&mut [0]).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn detection_over_a_socket_byte_by_byte() {
    let (mut client, mut server) = pair().await;
    let request = b"GET / HTTP/1.1\r\n";
    let sending = async {
        for byte in request {
            client.write_all(&[*byte]).await.unwrap();
            tokio::task::yield_now().await;
        }
    };
    let mut buf = BytesMut::new();
    let (detected, ()) = tokio::join!(detect_first(&mut server, &mut buf), sending);
    assert_eq!(detected.unwrap(), Detected::Http1);
    drop(client);
    let mut replay = Prefixed::new(buf, server);
    let mut all = Vec::new();
    replay.read_to_end(&mut all).await.unwrap();
    assert_eq!(all, request);
}

#[tokio::test]
async fn detection_can_be_given_up_and_taken_up_again() {
    let (mut client, mut server) = pair().await;
    let mut buf = BytesMut::new();
    let silent = tokio::time::timeout(Duration::from_millis(20), detect_first(&mut server, &mut buf)).await;
    assert!(silent.is_err());
    assert_eq!(buf.capacity(), 0, "a silent connection costs no buffer");
    client.write_all(b"PRI * HT").await.unwrap();
    let half = tokio::time::timeout(Duration::from_millis(20), detect_first(&mut server, &mut buf)).await;
    assert!(half.is_err());
    client.write_all(b"TP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    assert_eq!(detect_first(&mut server, &mut buf).await.unwrap(), Detected::Http2);
    assert_eq!(buf.len(), 24);
}

#[tokio::test]
async fn a_client_that_closes_is_opaque() {
    for (sent, reason) in [(b"".as_slice(), OpaqueReason::Empty), (b"GET x", OpaqueReason::Closed)] {
        let (mut client, mut server) = pair().await;
        client.write_all(sent).await.unwrap();
        client.shutdown().await.unwrap();
        let mut buf = BytesMut::new();
        assert_eq!(detect_first(&mut server, &mut buf).await.unwrap(), Detected::Opaque(reason));
        assert_eq!(buf, sent);
    }
}

#[tokio::test]
async fn read_ahead_holds_a_buffer_only_while_it_holds_bytes() {
    let (mut client, server) = pair().await;
    let mut ahead = ReadAhead::new(server);
    let waiting = tokio::time::timeout(Duration::from_millis(10), ahead.read_u8()).await;
    assert!(waiting.is_err());
    assert_eq!(pool::stats().lent, 0);
    client.write_all(b"abc").await.unwrap();
    assert_eq!(ahead.read_u8().await.unwrap(), b'a');
    assert_eq!((ahead.buffered(), pool::stats().lent), (b"bc".as_slice(), 1));
    assert_eq!(ahead.read_u16().await.unwrap(), u16::from_be_bytes(*b"bc"));
    assert_eq!(pool::stats().lent, 0);
    drop(client);
    assert_eq!(ahead.read(&mut [0; 8]).await.unwrap(), 0);
    assert_eq!(pool::stats().lent, 0);
}

/// Reads everything in steps of these sizes, over and over.
async fn in_steps(mut reader: impl AsyncRead + Unpin, steps: &[usize]) -> Vec<u8> {
    let mut all = Vec::new();
    for step in steps.iter().cycle() {
        let mut buf = vec![0; *step];
        match reader.read(&mut buf).await.unwrap() {
            0 => break,
            n => all.extend_from_slice(&buf[..n]),
        }
    }
    all
}

proptest! {
    #[test]
    fn wrappers_neither_lose_nor_reorder(
        prefix in prop::collection::vec(any::<u8>(), 0..5000),
        body in prop::collection::vec(any::<u8>(), 0..200_000),
        steps in prop::collection::vec(1usize..100_000, 1..8),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let whole = [prefix.clone(), body.clone()].concat();
        let body = body.as_slice();
        let one = in_steps(ReadAhead::new(Prefixed::new(prefix.clone(), body)), &steps);
        prop_assert_eq!(&runtime.block_on(one), &whole);
        let other = in_steps(Prefixed::new(prefix, ReadAhead::new(body)), &steps);
        prop_assert_eq!(&runtime.block_on(other), &whole);
    }
}
