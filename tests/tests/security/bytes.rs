//! Requests in connections of bytes: what only the mesh may say stays the mesh's there, too.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use weft_testbed::story;

use crate::SOON;
use crate::certs::Authority;
use crate::peers::{client, connect};
use crate::scene::Scene;

/// Who the attacker says it is.
const LIE: &str = "spiffe://weft.local/ns/bank/sa/admin";

impl Scene {
    fn late(&self) -> Result<f64> {
        let labels = [("direction", "inbound"), ("outcome", "late_http")];
        Ok(self.sidecar.metrics()?.sum("weft_protocol_detections_total", &labels))
    }

    /// Says the pieces one by one, each when the application has heard the one before, and reads what comes of it.
    async fn say<S: AsyncRead + AsyncWrite + Unpin>(&self, mut stream: S, pieces: &[&str]) -> Result<String> {
        let mut said = String::new();
        for piece in pieces {
            while !self.app.text().contains(&said) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            said.push_str(piece);
            if stream.write_all(piece.as_bytes()).await.is_err() || stream.flush().await.is_err() {
                break;
            }
        }
        let mut answer = [0; 512];
        let read = stream.read(&mut answer).await.unwrap_or(0);
        Ok(String::from_utf8_lossy(&answer[..read]).into_owned())
    }
}

fn lie(line: &str) -> String {
    format!("{line}\r\nhost: orders.shop\r\nx-forwarded-client-cert: URI={LIE}\r\n\r\n")
}

/// Shapes that detection does not take for a request, and that some server does.
fn shapes() -> Vec<(&'static str, Vec<String>)> {
    vec![
        ("empty lines", vec![format!("\r\n\r\n\r\n{}", lie("GET / HTTP/1.1"))]),
        ("white space in front", vec![lie("  GET / HTTP/1.1")]),
        ("tabs", vec![lie("GET\t/\tHTTP/1.1")]),
        ("a long method", vec![lie(&format!("{} / HTTP/1.1", "A".repeat(40)))]),
        ("half a line, and later the rest", vec!["GET / HT".to_owned(), lie("TP/1.1")]),
        ("half a method, and later the rest", vec!["GE".to_owned(), lie("T / HTTP/1.1")]),
    ]
}

#[test]
fn a_peer_that_calls_its_request_bytes_is_named_all_the_same() {
    story("late-peer", |mesh| {
        let scene = Scene::new(mesh, "strict")?;
        let own = client(Some(&Authority::of(mesh.ca()?)?.good("dev", "mallory")?), &["weft/tcp"])?;
        let say = async |pieces: &[&str]| {
            let stream = connect(scene.to, &own).await.context("the link")?;
            tokio::time::timeout(SOON, scene.say(stream, pieces))
                .await
                .context("neither an answer nor an end")?
        };
        let request = lie("GET /plainly HTTP/1.1");
        let answer = scene.mallory.run(async || say(&[&request]).await)?;
        ensure!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        let text = scene.app.text();
        ensure!(
            text.contains("GET /plainly") && text.contains("URI=spiffe://weft.local/ns/dev/sa/mallory"),
            "{text}"
        );
        for (at, (what, pieces)) in shapes().iter().enumerate() {
            scene.app.clear();
            let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
            let answer = scene.mallory.run(async || say(&pieces).await)?;
            ensure!(answer.is_empty(), "{what}: {answer}");
            ensure!(scene.late()? >= (at + 1) as f64, "{what}: not counted");
            ensure!(!scene.app.text().contains(LIE), "{what}: {}", scene.app.text());
        }
        // Bytes that are none pass, whole and in pieces.
        for pieces in [&["PING\r\n"][..], &["ruok"], &["JDWP-", "Handshake", "\0\0\0\x0b"]] {
            scene.mallory.run(async || {
                let mut stream = connect(scene.to, &own).await.context("the link")?;
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
        let mut refused = 0.0;
        for (what, pieces) in shapes() {
            scene.app.clear();
            let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
            let answer = scene.mallory.run(async || {
                let stream = TcpStream::connect(scene.to).await.context("connecting")?;
                tokio::time::timeout(SOON, scene.say(stream, &pieces))
                    .await
                    .context("neither an answer nor an end")?
            })?;
            ensure!(answer.is_empty(), "{what}: {answer}");
            refused += 1.0;
            ensure!(scene.late()? >= refused, "{what}: not counted");
            ensure!(!scene.app.text().contains(LIE), "{what}: {}", scene.app.text());
        }
        Ok(())
    });
}
