use std::io::Read as _;
use std::net::SocketAddr;

use axum::routing::{get, put};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;

/// A page that is long and repeats itself.
fn text() -> String {
    "weft_services{mode=\"strict\"} 1\n".repeat(2000)
}

async fn served() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let length = |body: String| async move { body.len().to_string() };
    let router = Router::new()
        .route("/metrics", get(|| async { text() }))
        .route("/live", get(|| async { "live\n" }))
        .route("/log", put(length));
    tokio::spawn(serve_pages(listener, router));
    address
}

/// The head of an answer, in lower case, and its body as it came.
async fn asked(address: SocketAddr, request: &[u8]) -> (String, Vec<u8>) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").expect("a whole head");
    let body = answer.split_off(end + 4);
    (String::from_utf8(answer).unwrap().to_ascii_lowercase(), body)
}

#[tokio::test]
async fn every_answer_says_that_it_is_not_kept_and_is_what_it_says() {
    let address = served().await;
    for (request, status) in [
        ("GET /live HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n", "200"),
        ("GET /other HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n", "404"),
        ("POST /live HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n", "405"),
        ("PUT /log HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 65537\r\n\r\n", "413"),
    ] {
        let (head, _) = asked(address, request.as_bytes()).await;
        assert!(head.starts_with(&format!("http/1.1 {status}")), "{head}");
        assert!(head.contains("\r\ncache-control: no-store\r\n"), "{head}");
        assert!(head.contains("\r\nx-content-type-options: nosniff\r\n"), "{head}");
    }
}

#[tokio::test]
async fn a_body_is_read_as_far_as_it_may_go_however_its_length_is_told() {
    let address = served().await;
    let head = "PUT /log HTTP/1.1\r\nhost: x\r\nconnection: close\r\n";
    for (length, status) in [(BODY, "200"), (BODY + 1, "413")] {
        let body = "x".repeat(length);
        let told = format!("{head}content-length: {length}\r\n\r\n{body}");
        let chunked = format!("{head}transfer-encoding: chunked\r\n\r\n{length:x}\r\n{body}\r\n0\r\n\r\n");
        for request in [told, chunked] {
            let (head, _) = asked(address, request.as_bytes()).await;
            assert!(head.starts_with(&format!("http/1.1 {status}")), "{length}: {head}");
        }
    }
}

#[tokio::test]
async fn who_takes_gzip_gets_it_and_nobody_else() {
    let address = served().await;
    let plain = asked(address, b"GET /metrics HTTP/1.0\r\n\r\n").await;
    assert_eq!(plain.1, text().as_bytes());
    assert!(!plain.0.contains("content-encoding"), "{}", plain.0);
    // As Prometheus asks, but over HTTP/1.0, in which a body is not in chunks.
    for (accepts, packed) in
        [("gzip", true), ("br;q=1, gzip;q=0.5", true), ("gzip;q=0", false), ("br", false)]
    {
        let request = format!("GET /metrics HTTP/1.0\r\naccept-encoding: {accepts}\r\n\r\n");
        let (head, body) = asked(address, request.as_bytes()).await;
        assert_eq!(head.contains("\r\ncontent-encoding: gzip\r\n"), packed, "{accepts}: {head}");
        assert!(head.contains("\r\nvary: accept-encoding\r\n"), "{head}");
        let mut read = String::new();
        if packed {
            assert!(body.len() * 10 < text().len(), "{}", body.len());
            flate2::read::GzDecoder::new(&body[..]).read_to_string(&mut read).unwrap();
        } else {
            read = String::from_utf8(body).unwrap();
        }
        assert_eq!(read, text(), "{accepts}");
    }
}
