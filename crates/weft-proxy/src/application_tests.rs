//! Whose connection a request travels on.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, StatusCode};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use weft_config::Env;
use weft_http::{Body, Interim};
use weft_telemetry::access::AccessLogTarget;
use weft_telemetry::{AccessLog, AccessLogMode, Registry, Sampler};

use super::*;

/// What an application saw: a connection, by its number, its first line, or a request line on it, or its end.
type Seen = (usize, Option<String>);

/// An application that answers 204 to every request without a body, and tells what comes line by line.
async fn application() -> (EndpointAddr, mpsc::UnboundedReceiver<Seen>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = EndpointAddr::new(listener.local_addr().unwrap());
    let (tell, seen) = mpsc::unbounded_channel();
    tokio::task::spawn_local(async move {
        for number in 1.. {
            let (mut stream, _) = listener.accept().await.unwrap();
            let tell = tell.clone();
            tokio::task::spawn_local(async move {
                let (read, mut write) = stream.split();
                let mut lines = BufReader::new(read).lines();
                while let Ok(Some(line)) = lines.next_line().await {
                    if line.starts_with("PROXY") || line.starts_with("GET") {
                        tell.send((number, Some(line))).unwrap();
                    } else if line.is_empty() {
                        write.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
                    }
                }
                let _ = tell.send((number, None));
            });
        }
    });
    (addr, seen)
}

fn applications(proxy_protocol: &str) -> Applications {
    let text = format!(
        "identity: {{trustDomain: mesh.test, files: {{certificate: c, key: k, bundle: b}}}}\ninbound: {{proxyProtocol: [{proxy_protocol}]}}\n"
    );
    let config = ProxyConfig::from_text(Path::new("weft.yaml"), &text, &Env::empty()).unwrap();
    let registry = Registry::default();
    let sampler = Arc::new(Sampler::new(0.0).unwrap());
    let target = AccessLogTarget::File("/dev/null".into());
    let (access, _writer) = AccessLog::start(&target, AccessLogMode::Off, 1, &registry).unwrap();
    let telemetry = Rc::new(WorkerTelemetry::new(&registry, &sampler, None, &access));
    Applications::new(Rc::new(Limits::new(&config)), telemetry, ConnectOptions::default(), &config)
}

fn origin(last: u8) -> Origin {
    let client = SocketAddr::from(([10, 0, 0, last], 4000));
    Origin { client, dialed: ([10, 0, 0, 9], 80).into() }
}

async fn ask(application: &Application, path: &str) {
    let mut request = Request::get(path).body(Body::Empty).unwrap();
    request.headers_mut().insert("host", "a".parse().unwrap());
    let answer = application.pools.send(request, &Interim::Nowhere).await.unwrap();
    assert_eq!(answer.status(), StatusCode::NO_CONTENT);
}

async fn next(seen: &mut mpsc::UnboundedReceiver<Seen>) -> (usize, String) {
    let (number, line) =
        tokio::time::timeout(Duration::from_secs(10), seen.recv()).await.expect("in vain").unwrap();
    (number, line.unwrap_or_else(|| "closed".to_owned()))
}

async fn locally(test: impl Future<Output = ()>) {
    tokio::task::LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn on_an_announced_port_nobody_uses_anothers_connection() {
    locally(async {
        let (addr, mut seen) = application().await;
        let applications = applications(&format!("{}=v1", addr.port()));
        let (first, second) = (applications.get(addr, origin(1)), applications.get(addr, origin(2)));
        for (from, path) in [(&first, "/1"), (&second, "/2"), (&first, "/3"), (&second, "/4")] {
            ask(from, path).await;
        }
        let announced = |last: u8| format!("PROXY TCP4 10.0.0.{last} 10.0.0.9 4000 80");
        let request = |path: &str| format!("GET {path} HTTP/1.1");
        for expected in [
            (1, announced(1)),
            (1, request("/1")),
            (2, announced(2)),
            (2, request("/2")),
            (1, request("/3")),
            (2, request("/4")),
        ] {
            assert_eq!(next(&mut seen).await, expected);
        }
        // With the caller's connection its own to the application end, and no other's.
        drop(first);
        assert_eq!(next(&mut seen).await, (1, "closed".to_owned()));
        // The same caller once more is another connection.
        ask(&second, "/5").await;
        ask(&applications.get(addr, origin(1)), "/6").await;
        for expected in [(2, request("/5")), (3, announced(1)), (3, request("/6")), (3, "closed".to_owned())]
        {
            assert_eq!(next(&mut seen).await, expected);
        }
        let mut bytes = applications.dial(addr, origin(7)).await.unwrap();
        assert_eq!(next(&mut seen).await, (4, announced(7)));
        bytes.shutdown().await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn on_all_other_ports_connections_are_shared_and_begin_with_the_request() {
    locally(async {
        let (addr, mut seen) = application().await;
        let applications = applications(&format!("{}=v1", addr.port() ^ 1));
        for last in [1, 2] {
            ask(&applications.get(addr, origin(last)), "/").await;
            assert_eq!(next(&mut seen).await, (1, "GET / HTTP/1.1".to_owned()));
        }
    })
    .await;
}
