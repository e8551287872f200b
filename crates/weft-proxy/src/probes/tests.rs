//! Who may have a check carried out, and what is told of it.

use std::path::Path;
use std::sync::atomic::AtomicUsize;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use weft_config::Env;

use super::*;

const SECRET: &str = "0123456789abcdef0123456789abcdef";
const LOCAL: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

fn probes(list: &str) -> Probes {
    probes_of(&format!("probes: {list}"))
}

fn probes_of(text: &str) -> Probes {
    let text = format!("identity: {{ca: {{address: \"ca:15012\"}}}}\n{text}\n");
    let config = ProxyConfig::from_text(Path::new("weft.yaml"), &text, &Env::empty()).unwrap();
    Probes::new(&config, &[LOCAL]).unwrap()
}

/// An application that gives this answer to each connection, and counts them.
async fn application(answer: &'static str) -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind((LOCAL, 0)).await.unwrap();
    let (port, asked) = (listener.local_addr().unwrap().port(), Arc::new(AtomicUsize::new(0)));
    let count = Arc::clone(&asked);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            count.fetch_add(1, Ordering::SeqCst);
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let Ok(octet) = stream.read_u8().await else { break };
                head.push(octet);
            }
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    (port, asked)
}

#[tokio::test]
async fn a_check_is_carried_out_for_who_knows_its_path_and_for_nobody_else() {
    let (port, asked) =
        application("HTTP/1.1 200 OK\r\nset-cookie: a\r\ncontent-length: 4\r\n\r\nbody").await;
    let path = format!("/probe/{SECRET}/app/preStop");
    let probes = probes(&format!("[{{path: {path}, http: {{port: {port}, path: /bye}}}}]"));
    let other = SECRET.replace('f', "e");
    for wrong in [
        "/probe/app/preStop".to_owned(),
        format!("/probe/{other}/app/preStop"),
        format!("/probe/{SECRET}/app/preStop/"),
        format!("/probe/{SECRET}/app/preSto"),
        format!("/probe/{}/app/preStop", SECRET.to_uppercase()),
        format!("/probe//{SECRET}/app/preStop"),
        "/probe/".to_owned(),
        String::new(),
    ] {
        assert_eq!(probes.answer(&wrong).await, StatusCode::NOT_FOUND, "{wrong}");
    }
    assert_eq!(asked.load(Ordering::SeqCst), 0, "the application was asked by somebody who knows nothing");
    assert_eq!(probes.answer(&path).await, StatusCode::OK);
    assert_eq!(asked.load(Ordering::SeqCst), 1);
}

/// Pods that an injector before this one made.
#[tokio::test]
async fn a_path_without_a_secret_still_works() {
    let (port, _) = application("HTTP/1.1 204 No Content\r\n\r\n").await;
    let probes = probes(&format!("[{{path: /probe/app/readiness, http: {{port: {port}}}}}]"));
    assert_eq!(probes.answer("/probe/app/readiness").await, StatusCode::NO_CONTENT);
}

#[tokio::test]
async fn a_status_is_all_that_is_told() {
    for (answer, told) in [
        ("HTTP/1.1 404 Gone\r\ncontent-length: 0\r\n\r\n", 404),
        ("HTTP/1.1 500 Oh\r\ncontent-length: 0\r\n\r\n", 500),
        ("HTTP/1.1 302 Found\r\nlocation: http://elsewhere.example/\r\ncontent-length: 0\r\n\r\n", 200),
        ("HTTP/1.1 101 Other\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n", 503),
        ("SSH-2.0-x\r\n", 503),
        ("", 503),
    ] {
        let (port, _) = application(answer).await;
        let probes = probes(&format!("[{{path: /probe/{SECRET}/a/b, http: {{port: {port}}}}}]"));
        let status = probes.answer(&format!("/probe/{SECRET}/a/b")).await;
        assert_eq!(status.as_u16(), told, "{answer:?}");
        assert_eq!(probes.offered[0].failing.load(Ordering::SeqCst), told >= 400, "{answer:?}");
    }
}

/// A server that expects the PROXY protocol is told that this connection is the proxy's own.
#[tokio::test]
async fn a_check_begins_with_a_header_where_connections_do() {
    for (version, is_tcp) in [(1, false), (2, false), (2, true)] {
        let listener = TcpListener::bind((LOCAL, 0)).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let kind = if is_tcp { "tcp" } else { "http" };
        let probes = probes_of(&format!(
            "inbound: {{proxyProtocol: [{{port: {}, version: {version}}}]}}\nprobes: [{{path: /probe/{SECRET}/a/b, {kind}: {{port: {}}}}}]",
            addr.port(),
            addr.port()
        ));
        let path = format!("/probe/{SECRET}/a/b");
        let application = async {
            let (mut stream, peer) = listener.accept().await.unwrap();
            let mut expected = match version {
                1 => {
                    format!("PROXY TCP4 127.0.0.1 127.0.0.1 {} {}\r\n", peer.port(), addr.port()).into_bytes()
                }
                _ => b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0".to_vec(),
            };
            if !is_tcp {
                expected.extend_from_slice(b"GET / HTTP/1.1\r\n");
            }
            let mut said = vec![0; expected.len()];
            stream.read_exact(&mut said).await.unwrap();
            assert_eq!(said, expected);
            stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
        };
        let (status, ()) = tokio::join!(probes.answer(&path), application);
        assert!(status.is_success(), "{version} {kind}: {status}");
    }
}

#[test]
fn a_redirect_never_leads_to_the_proxy() {
    let probes = probes("[{path: /probe/a/b, tcp: {port: 8080}}]");
    for own in [15006, 15020, 15021] {
        assert!(!probes.leads_to(own), "{own}");
    }
    // Nobody but the application can be there: 8081 is no probe's port, and 15001 is the proxy's on loopback only, which
    // this pod has for its address.
    assert!(probes.leads_to(8080) && probes.leads_to(8081) && !probes.leads_to(15001));
}
