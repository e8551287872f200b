//! gRPC-Web at a gateway, in front of grpcio and of peers that break off. The client is curl, and what it gets is taken apart here by the
//! letter of PROTOCOL-WEB.md.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use weft_testbed::{Gateway, Process, Teller};

const PATIENCE: Duration = Duration::from_secs(20);

const PROTO: &str = "application/grpc-web+proto";
const TEXT: &str = "application/grpc-web-text+proto";

/// The hosts `grpc.test` (a GRPCRoute), `pages.test` (an HTTPRoute with CORS to a backend that speaks gRPC), `own.test` (an HTTPRoute to one
/// that is not said to), `gone.test` and `cut.test`.
fn resources(grpc: SocketAddr, own: SocketAddr, cut: SocketAddr) -> String {
    let backend = |name: &str, protocol: &str, port: u16| {
        format!(
            "---\napiVersion: weft.dev/v1alpha1\nkind: Backend\nmetadata: {{name: {name}, namespace: edge}}\n\
             spec: {{protocol: {protocol}, endpoints: [{{host: 127.0.0.1, port: {port}}}]}}\n"
        )
    };
    let route = |kind: &str, name: &str, more: &str| {
        format!(
            "---\napiVersion: gateway.networking.k8s.io/v1\nkind: {kind}\nmetadata: {{name: {name}, namespace: edge}}\n\
             spec: {{parentRefs: [{{name: public}}], hostnames: [{name}.test], rules: [{{{more}backendRefs: [{{group: weft.dev, kind: Backend, name: {name}}}]}}]}}\n"
        )
    };
    let cors = "filters: [{type: CORS, cors: {allowOrigins: [\"https://page.test\"], allowMethods: [POST], allowHeaders: [\"content-type\", \"x-grpc-web\"]}}], ";
    [
        "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: public, namespace: edge}\n\
         spec: {gatewayClassName: weft, addresses: [{value: \"{ip}\"}], listeners: [{name: web, port: 8080, protocol: HTTP}]}\n"
            .to_owned(),
        route("GRPCRoute", "grpc", "") + &backend("grpc", "grpc", grpc.port()),
        route("HTTPRoute", "pages", cors) + &backend("pages", "grpc", grpc.port()),
        route("HTTPRoute", "own", "") + &backend("own", "http/1.1", own.port()),
        route("GRPCRoute", "gone", "") + &backend("gone", "grpc", 1),
        route("GRPCRoute", "cut", "") + &backend("cut", "grpc", cut.port()),
    ]
    .concat()
}

struct Scene {
    gateway: Gateway,
    own: Teller,
    _server: Process,
}

fn scene(cut: SocketAddr) -> Result<Scene> {
    let grpc = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let own = Teller::start("own")?;
    let gateway = Gateway::start(tempfile::tempdir()?, &resources(grpc, own.addr, cut))?;
    let server = gateway.python_server("grpc_server.py", &[&grpc.port().to_string()])?;
    Ok(Scene { gateway, own, _server: server })
}

fn nowhere() -> SocketAddr {
    ([127, 0, 0, 1], 1).into()
}

fn message(octets: &[u8]) -> Vec<u8> {
    let length = u32::try_from(octets.len()).unwrap_or(u32::MAX).to_be_bytes();
    [&[0], &length[..], octets].concat()
}

/// What came of a call.
#[derive(Debug)]
struct Called {
    head: String,
    messages: Vec<Vec<u8>>,
    trailers: Vec<(String, String)>,
}

impl Called {
    fn trailer(&self, name: &str) -> Option<&str> {
        self.trailers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// Takes an answer apart: messages, and the trailers, which are there once and at the end.
fn apart(head: String, mut octets: &[u8]) -> Result<Called> {
    let mut called = Called { head, messages: Vec::new(), trailers: Vec::new() };
    loop {
        let (prefix, behind) = octets.split_at_checked(5).context("no whole prefix")?;
        let length = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]);
        let (content, behind) = behind.split_at_checked(length as usize).context("no whole message")?;
        octets = behind;
        match prefix[0] {
            0 => called.messages.push(content.to_vec()),
            0x80 => {
                ensure!(octets.is_empty(), "{} octets behind the trailers", octets.len());
                let text = std::str::from_utf8(content)?;
                ensure!(text.ends_with("\r\n"), "{text:?}");
                for line in text.trim_end_matches("\r\n").split("\r\n") {
                    let (name, value) = line.split_once(": ").with_context(|| format!("{line:?}"))?;
                    ensure!(name == name.to_lowercase(), "{name}");
                    called.trailers.push((name.to_owned(), value.to_owned()));
                }
                return Ok(called);
            }
            other => bail!("a message with the flags {other}"),
        }
    }
}

/// curl's exit status, the head in small letters, and the body.
fn curl(
    gateway: &Gateway,
    version: &str,
    host: &str,
    method: &str,
    args: &[&str],
    body: &[u8],
) -> Result<(i32, String, Vec<u8>)> {
    let name = format!("{:x}", fastrand::u64(..));
    fs::write(gateway.dir().join(format!("{name}.in")), body)?;
    let url = format!("http://{}{method}", gateway.at(8080));
    let (host, data) = (format!("host: {host}"), format!("@{name}.in"));
    let (out, head) = (format!("{name}.out"), format!("{name}.head"));
    let fixed =
        ["-s", version, "-m", "20", "-H", &host, "--data-binary", &data, "-o", &out, "-D", &head, &url];
    for _ in 0..10 {
        let output = gateway.run("curl", &[&fixed, args].concat())?;
        let code = output.status.code().unwrap_or(-1);
        let head = fs::read_to_string(gateway.dir().join(&head)).unwrap_or_default();
        let head = head.replace('\r', "").to_lowercase();
        let body = fs::read(gateway.dir().join(&out)).unwrap_or_default();
        // An answer that comes before the request is whole has RST_STREAM with NO_ERROR behind it (RFC 9113 section 8.1). curl 7.88 now
        // and then takes that for a failure (92), and forgets the answer that it has.
        if code != 92 || !head.is_empty() {
            return Ok((code, head, body));
        }
    }
    bail!("curl reads no early answer")
}

fn call(
    gateway: &Gateway,
    version: &str,
    kind: &str,
    host: &str,
    method: &str,
    messages: &[&[u8]],
) -> Result<Called> {
    let mut body: Vec<u8> = messages.iter().flat_map(|octets| message(octets)).collect();
    let text = kind == TEXT;
    if text {
        // Each message by itself, as clients do it.
        body = messages.iter().flat_map(|octets| STANDARD.encode(message(octets)).into_bytes()).collect();
    }
    let said = format!("content-type: {kind}");
    let args = ["-H", said.as_str(), "-H", "x-grpc-web: 1", "-H", "origin: https://page.test"];
    let path = if method.starts_with('/') { method.to_owned() } else { format!("/weft.test.Echo/{method}") };
    let (code, head, mut body) = curl(gateway, version, host, &path, &args, &body)?;
    ensure!(code == 0, "curl: {code}: {head}");
    ensure!(head.contains(" 200") && head.contains(&format!("content-type: {kind}")), "{head}");
    for gone in ["\ngrpc-status", "\ngrpc-message", "\ntrailer", "\ncontent-length"] {
        ensure!(!head.contains(gone), "{head}");
    }
    if text {
        let pieces: Result<Vec<_>, _> = body.chunks(4).map(|group| STANDARD.decode(group)).collect();
        body = pieces?.concat();
    }
    apart(head, &body)
}

const BOTH: [&str; 2] = ["--http1.1", "--http2-prior-knowledge"];

#[test]
fn grpcio_answers_calls_of_both_forms_over_both_versions() -> Result<()> {
    let scene = scene(nowhere())?;
    let gateway = &scene.gateway;
    for (version, kind) in BOTH.into_iter().flat_map(|version| [(version, PROTO), (version, TEXT)]) {
        for host in ["grpc.test", "pages.test"] {
            let called = call(gateway, version, kind, host, "Unary", &[b"hi"])?;
            ensure!(called.messages == [b"echo hi"], "{called:?}");
            ensure!(called.trailer("grpc-status") == Some("0"), "{called:?}");
            ensure!(called.trailer("x-trailer") == Some("kept"), "{called:?}");
        }
        let called = call(gateway, version, kind, "grpc.test", "Stream", &[b"5000"])?;
        let counted: Vec<_> = (0..5000).map(|n: u32| n.to_string().into_bytes()).collect();
        ensure!(called.messages == counted && called.trailer("grpc-status") == Some("0"));
        let called = call(gateway, version, kind, "grpc.test", "Bidi", &[b"a", b"", b"ccc"])?;
        ensure!(called.messages == [&b"echo a"[..], b"echo ", b"echo ccc"], "{called:?}");
        let large = vec![b'x'; 1_000_000];
        let called = call(gateway, version, kind, "grpc.test", "Count", &[&large, b"y"])?;
        ensure!(called.messages == [b"2 1000001"], "{called:?}");
        // No message, and so no trailers in gRPC either, but a status in the head.
        let called = call(gateway, version, kind, "grpc.test", "Fail", &[b"x"])?;
        ensure!(called.messages.is_empty() && called.trailer("grpc-status") == Some("9"), "{called:?}");
        ensure!(
            called.trailer("grpc-message").is_some_and(|said| said.starts_with("not today")),
            "{called:?}"
        );
        let called = call(gateway, version, kind, "grpc.test", "Early", &[b"x", b"y"])?;
        ensure!(called.trailer("grpc-status") == Some("8"), "{called:?}");
    }
    // They are counted as the calls that they are.
    let (_, metrics) = gateway.admin("/metrics")?;
    let counted = metrics.lines().any(|line| {
        line.starts_with("http_server_request_duration_seconds_count")
            && line.contains("\"FAILED_PRECONDITION\"")
    });
    ensure!(counted, "{metrics}");
    Ok(())
}

#[test]
fn what_the_gateway_has_to_say_comes_in_its_words() -> Result<()> {
    let scene = scene(nowhere())?;
    for (version, kind) in BOTH.into_iter().flat_map(|version| [(version, PROTO), (version, TEXT)]) {
        for (host, status, why) in [
            ("gone.test", "14", "the endpoint refused the connection"),
            ("nobody.test", "12", "no route matches the request"),
        ] {
            let called = call(&scene.gateway, version, kind, host, "Unary", &[b"hi"])?;
            ensure!(
                called.messages.is_empty() && called.trailer("grpc-status") == Some(status),
                "{called:?}"
            );
            ensure!(called.trailer("grpc-message") == Some(why), "{called:?}");
            ensure!(called.head.contains("weft-error: "), "{called:?}");
        }
    }
    // What is no base64.
    let args = ["-H", "content-type: application/grpc-web-text"];
    let (_, head, body) =
        curl(&scene.gateway, "--http1.1", "grpc.test", "/weft.test.Echo/Unary", &args, b"?no base64?")?;
    let body: Vec<u8> = body.chunks(4).flat_map(|group| STANDARD.decode(group).unwrap_or_default()).collect();
    let called = apart(head, &body)?;
    ensure!(called.trailer("grpc-status") == Some("3"), "{called:?}");
    // Trailers, which are the server's to write.
    let args = ["-H", "content-type: application/grpc-web"];
    let (_, head, body) =
        curl(&scene.gateway, "--http1.1", "grpc.test", "/weft.test.Echo/Unary", &args, b"\x80\0\0\0\0")?;
    let called = apart(head, &body)?;
    ensure!(called.trailer("grpc-status") == Some("3"), "{called:?}");
    Ok(())
}

#[test]
fn pages_of_other_origins_call_where_the_route_lets_them() -> Result<()> {
    let scene = scene(nowhere())?;
    let asks = [
        "-X",
        "OPTIONS",
        "-H",
        "origin: https://page.test",
        "-H",
        "access-control-request-method: POST",
        "-H",
        "access-control-request-headers: content-type,x-grpc-web",
    ];
    let (_, head, _) = curl(&scene.gateway, "--http1.1", "pages.test", "/weft.test.Echo/Unary", &asks, b"")?;
    ensure!(
        head.contains(" 204") && head.contains("access-control-allow-origin: https://page.test\n"),
        "{head}"
    );
    ensure!(head.contains("access-control-allow-headers: content-type, x-grpc-web\n"), "{head}");
    let called = call(&scene.gateway, "--http1.1", PROTO, "pages.test", "Fail", &[b"hi"])?;
    ensure!(called.head.contains("access-control-allow-origin: https://page.test\n"), "{called:?}");
    ensure!(called.trailer("grpc-status") == Some("9"), "{called:?}");
    Ok(())
}

#[test]
fn a_backend_that_is_not_said_to_speak_grpc_gets_what_the_client_sent() -> Result<()> {
    let scene = scene(nowhere())?;
    let args = ["-H", "content-type: application/grpc-web-text", "-H", "x-grpc-web: 1"];
    let (code, head, body) = curl(&scene.gateway, "--http1.1", "own.test", "/a.B/C", &args, b"AAAAAAA=")?;
    ensure!(code == 0 && head.contains(" 200"), "{head}");
    let said = String::from_utf8_lossy(&body).to_lowercase();
    ensure!(
        said.contains("content-type: application/grpc-web-text\n") && said.ends_with("aaaaaaa="),
        "{said}"
    );
    ensure!(scene.own.seen().len() == 1);
    Ok(())
}

/// A server of gRPC that sends so many octets of two messages as the path says, and closes its connection.
fn cutter(whole: Vec<u8>) -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let addr = listener.local_addr()?;
    listener.set_nonblocking(true)?;
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let Ok(runtime) = runtime else { return };
        let serve = async move {
            let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
            while let Ok((stream, _)) = listener.accept().await {
                let whole = whole.clone();
                tokio::spawn(async move { cut(stream, &whole).await });
            }
        };
        runtime.block_on(serve);
    });
    Ok(addr)
}

async fn cut(stream: tokio::net::TcpStream, whole: &[u8]) -> Option<()> {
    let mut connection = h2::server::handshake(stream).await.ok()?;
    let (request, mut respond) = connection.accept().await?.ok()?;
    let at: usize = request.uri().path().rsplit('/').next()?.parse().ok()?;
    let mut head = http::Response::new(());
    head.headers_mut().insert("content-type", http::HeaderValue::from_static("application/grpc"));
    let mut body = respond.send_response(head, false).ok()?;
    body.send_data(Bytes::copy_from_slice(whole.get(..at)?), false).ok()?;
    // What was sent has to leave before the connection closes.
    let _ = tokio::time::timeout(Duration::from_millis(100), connection.accept()).await;
    Some(())
}

#[test]
fn a_backend_that_breaks_off_is_told_between_messages_and_shown_in_one() -> Result<()> {
    let whole = [message(b"first"), message(b"second")].concat();
    let scene = scene(cutter(whole.clone())?)?;
    for (version, kind) in [(BOTH[0], PROTO), (BOTH[1], TEXT)] {
        for at in 0..=whole.len() {
            let method = format!("/a.B/{at}");
            let called = call(&scene.gateway, version, kind, "cut.test", &method, &[b"x"]);
            if [0, 10, whole.len()].contains(&at) {
                let called = called?;
                ensure!(called.trailer("grpc-status") == Some("14"), "{version} {at}: {called:?}");
            } else {
                let failed = called.map_or_else(|error| error.to_string(), |called| format!("{called:?}"));
                ensure!(failed.starts_with("curl: "), "{version} {at}: {failed}");
            }
        }
    }
    Ok(())
}

#[test]
fn a_client_may_leave_at_any_octet() -> Result<()> {
    let scene = scene(nowhere())?;
    let body = STANDARD.encode(message(b"hi"));
    let request = format!(
        "POST /weft.test.Echo/Unary HTTP/1.1\r\nhost: grpc.test\r\ncontent-type: {TEXT}\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    for at in 0..request.len() {
        let mut stream = TcpStream::connect(scene.gateway.at(8080))?;
        stream.write_all(request.as_bytes().get(..at).unwrap_or_default())?;
    }
    // In two writes at any place it is one call.
    for at in (0..request.len()).step_by(5) {
        let mut stream = TcpStream::connect(scene.gateway.at(8080))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let (begin, end) = request.split_at(at);
        stream.write_all(begin.as_bytes())?;
        stream.write_all(end.as_bytes())?;
        let mut said = String::new();
        let mut some = [0; 4096];
        while !said.ends_with("\r\n0\r\n\r\n") {
            let read = stream.read(&mut some)?;
            ensure!(read > 0, "{at}: {said}");
            said.push_str(&String::from_utf8_lossy(some.get(..read).unwrap_or_default()));
        }
        ensure!(said.contains(&STANDARD.encode(message(b"echo hi"))), "{at}: {said}");
    }
    Ok(())
}
