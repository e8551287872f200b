//! Requests in connections of bytes: what only the mesh may say stays the mesh's there, too.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures_util::future::join_all;
use rustls::ClientConfig;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use weft_testbed::{Mesh, Process, story};

use crate::SOON;
use crate::certs::Authority;
use crate::peers::{client, connect};
use crate::scene::Scene;

/// Who the attacker says it is.
const LIE: &str = "spiffe://weft.local/ns/bank/sa/admin";

/// Longer than any sidecar waits for the rest of a line.
const LATER: Duration = Duration::from_millis(1_200);

impl Scene {
    fn late(&self) -> Result<f64> {
        let labels = [("direction", "inbound"), ("outcome", "late_http")];
        Ok(self.sidecar.metrics()?.sum("weft_protocol_detections_total", &labels))
    }
}

/// Says the pieces one by one, with time between them for everybody to give up waiting, and reads what comes of it.
async fn say<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, pieces: &[Vec<u8>]) -> String {
    for (at, piece) in pieces.iter().enumerate() {
        if at > 0 {
            tokio::time::sleep(LATER).await;
        }
        if stream.write_all(piece).await.is_err() || stream.flush().await.is_err() {
            break;
        }
    }
    let mut answer = [0; 512];
    let read = stream.read(&mut answer).await.unwrap_or(0);
    String::from_utf8_lossy(&answer[..read]).into_owned()
}

fn lie(line: &[u8]) -> Vec<u8> {
    let rest = format!("host: orders.shop\r\nx-forwarded-client-cert: URI={LIE}\r\n\r\n");
    [line, rest.as_bytes()].concat()
}

/// First lines that some server takes for a request (`crates/weft-net/src/detect/line`).
const LINES: &[&[u8]] = &[
    b"GET / HTTP/1.1\r\n",
    b"\r\n\r\n\r\nGET / HTTP/1.1\r\n",
    b"  GET / HTTP/1.1\r\n",
    b"GET\t/\tHTTP/1.1\r\n",
    b"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA / HTTP/1.1\r\n",
    b"GET /pay\r\n",
    b"POST /\r\n",
    b"GET http://orders.shop/pay\r\n",
    b"GET pay\r\n",
    b"OPTIONS *\r\n",
    b"get / HTTP/1.1\r\n",
    b"GET / RTSP/1.0\r\n",
    b"OPTIONS * RTSP/1.0\r\n",
    b"SOURCE * ICE/1.0\r\n",
    b"GET / HTTP/2.0\r\n",
    b"GET x HTTP/0.9\r\n",
    b"G(T / HTTP/1.1\r\n",
    b"\0GET / HTTP/1.1\r\n",
    b"\xef\xbb\xbfGET / HTTP/1.1\r\n",
    b"GET / \xa0HTTP/1.1\r\n",
    b"GET\r/\rHTTP/1.1\r\n",
    b"\x01 /pay a\r\n",
    b"PING\nX /pay a\r\n",
    b"PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\nGET / HTTP/1.1\r\n",
    b"PRI * HTTP/2.0\r\n",
];

/// Each line, whole and cut in several places.
fn attempts() -> Vec<Vec<Vec<u8>>> {
    let mut attempts = Vec::new();
    for line in LINES {
        let lie = lie(line);
        attempts.push(vec![lie.clone()]);
        let name = lie.len() - LIE.len() - 12;
        for at in [1, line.len() / 2, line.len() - 1, line.len(), name] {
            attempts.push(vec![lie[..at].to_vec(), lie[at..].to_vec()]);
        }
        attempts.push(vec![lie[..2].to_vec(), lie[2..4].to_vec(), lie[4..].to_vec()]);
    }
    attempts
}

/// Tries them all at once. Each is answered as a request or ended, and the lie has reached nobody.
fn try_all<S>(scene: &Scene, link: impl AsyncFn() -> Result<S> + Sync) -> Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let attempts = attempts();
    let outcomes = scene.mallory.run(async || {
        let link = &link;
        let tried = attempts.iter().map(|pieces| async move {
            let stream = link().await?;
            let said = tokio::time::timeout(SOON, say(stream, pieces)).await;
            said.with_context(|| format!("{pieces:?}: neither an answer nor an end"))
        });
        join_all(tried).await.into_iter().collect::<Result<Vec<_>>>()
    })?;
    let text = scene.app.text();
    ensure!(!text.contains(LIE) && !text.contains("ns/bank"), "{text}");
    for (pieces, answer) in attempts.iter().zip(&outcomes) {
        let first = String::from_utf8_lossy(&pieces[0]);
        ensure!(answer.is_empty() || answer.starts_with("HTTP/1.1 "), "{first}: {answer}");
    }
    let refused = outcomes.iter().filter(|answer| answer.is_empty()).count();
    let late = scene.late()?;
    ensure!(late >= 50.0, "{late} counted of {refused} that were ended");
    Ok(())
}

fn own_link(mesh: &Mesh) -> Result<Arc<ClientConfig>> {
    client(Some(&Authority::of(mesh.ca()?)?.good("dev", "mallory")?), &["weft/tcp"])
}

#[test]
fn a_peer_that_calls_its_request_bytes_is_named_all_the_same() {
    story("late-peer", |mesh| {
        let scene = Scene::new(mesh, "strict")?;
        let own = own_link(mesh)?;
        let link = async || connect(scene.to, &own).await.context("the link");
        let request = lie(b"GET /plainly HTTP/1.1\r\n");
        let answer = scene.mallory.run(async || Ok(say(link().await?, &[request]).await))?;
        ensure!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        let text = scene.app.text();
        ensure!(
            text.contains("GET /plainly") && text.contains("URI=spiffe://weft.local/ns/dev/sa/mallory"),
            "{text}"
        );
        try_all(&scene, link)?;
        // Bytes that are none pass, whole and in pieces.
        for pieces in
            [&["PING\r\n"][..], &["GET key\r\nKEYS *\r\n"], &["ruok"], &["JDWP-", "Handshake", "\0\0\0\x0b"]]
        {
            scene.mallory.run(async || {
                let mut stream = link().await?;
                for piece in pieces {
                    stream.write_all(piece.as_bytes()).await?;
                    stream.flush().await?;
                }
                let whole = pieces.concat();
                let heard = async {
                    while !scene.app.text().contains(&whole) {
                        tokio::time::sleep(Duration::from_millis(10)).await;
                    }
                };
                tokio::time::timeout(SOON, heard).await.with_context(|| format!("{whole:?} did not pass"))
            })?;
        }
        Ok(())
    });
}

#[test]
fn a_plaintext_client_has_no_name_however_it_says_its_request() {
    story("late-plain", |mesh| {
        let scene = Scene::new(mesh, "permissive")?;
        try_all(&scene, async || TcpStream::connect(scene.to).await.context("connecting"))
    });
}

/// What the operator has declared to be bytes is never looked at: the other way round, nothing would show that the
/// stories above attack what they seem to.
#[test]
fn a_declared_port_carries_what_it_is_given() {
    story("late-declared", |mesh| {
        let scene = Scene::configured(mesh, |yaml| {
            yaml["inbound"] = serde_json::json!({ "mode": "strict", "opaquePorts": [8080] });
        })?;
        let own = own_link(mesh)?;
        let request = lie(b"GET / RTSP/1.0\r\n");
        let answer = scene
            .mallory
            .run(async || Ok(say(connect(scene.to, &own).await.context("the link")?, &[request]).await))?;
        ensure!(answer.starts_with("HTTP/1.1 200") && scene.app.text().contains(LIE), "{answer}");
        Ok(())
    });
}

/// The port of the HTTP/2 server.
const HTTP2: u16 = 8081;

/// Starts a server that sends its SETTINGS as soon as it is dialed, and logs every header that it gets.
fn nghttpd(scene: &Scene) -> Result<Arc<Process>> {
    let port = HTTP2.to_string();
    let server = scene.orders.spawn("nghttpd", &["nghttpd", "-v", "--no-tls", "-d", "/etc", &port])?;
    server.wait_for_log("listen", SOON)?;
    Ok(server)
}

/// Waits for the server's word, or until none will come; then asks as somebody else. The status of the answer.
async fn ask_late<S>(mut stream: S) -> Result<u16>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut said = vec![0; 1024];
    let read =
        tokio::time::timeout(LATER, stream.read(&mut said)).await.unwrap_or(Ok(0)).context("reading")?;
    said.truncate(read);
    let (reader, writer) = tokio::io::split(stream);
    let stream = tokio::io::join(std::io::Cursor::new(said).chain(reader), writer);
    let (mut client, connection) = h2::client::handshake(stream).await.context("the preface")?;
    let driver = tokio::spawn(connection);
    let request = http::Request::get("http://orders.shop/hostname");
    let request = request.header("x-forwarded-client-cert", format!("URI={LIE}")).body(())?;
    let (answer, _) = client.send_request(request, true).context("asking")?;
    let status = answer.await.context("the answer")?.status().as_u16();
    driver.abort();
    Ok(status)
}

#[test]
fn an_http2_server_that_speaks_first_is_told_who_calls() {
    story("settings-first", |mesh| {
        let scene = Scene::new(mesh, "strict")?;
        let server = nghttpd(&scene)?;
        let own = own_link(mesh)?;
        let to = std::net::SocketAddr::new(scene.to.ip(), HTTP2);
        let late = async || ask_late(connect(to, &own).await.context("the link")?).await;
        let status = scene.mallory.run(async || tokio::time::timeout(SOON, late()).await?)?;
        ensure!(status == 200, "{status}");
        server.wait_for_log("URI=spiffe://weft.local/ns/dev/sa/mallory", SOON)?;
        ensure!(!server.log().contains(LIE), "{}", server.log());
        // What is no HTTP goes nowhere.
        let answer = scene.mallory.run(async || {
            let stream = connect(to, &own).await.context("the link")?;
            let pieces = [Vec::new(), b"PING\r\n".to_vec()];
            tokio::time::timeout(SOON, say(stream, &pieces)).await.context("it stays open")
        })?;
        ensure!(answer.is_empty() && scene.late()? == 1.0, "{answer:?}");
        Ok(())
    });
}

#[test]
fn an_http2_server_that_speaks_first_learns_no_name_of_a_plaintext_client() {
    story("settings-plain", |mesh| {
        let scene = Scene::new(mesh, "permissive")?;
        let server = nghttpd(&scene)?;
        let to = std::net::SocketAddr::new(scene.to.ip(), HTTP2);
        let late = async || ask_late(TcpStream::connect(to).await.context("connecting")?).await;
        let status = scene.mallory.run(async || tokio::time::timeout(SOON, late()).await?)?;
        ensure!(status == 200, "{status}");
        server.wait_for_log("/hostname", SOON)?;
        ensure!(!server.log().contains(LIE), "{}", server.log());
        Ok(())
    });
}
