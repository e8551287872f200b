//! A workload that is closed to plaintext while plaintext connections to it are open.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use weft_testbed::{Service, Sidecar, eventually, story};

/// Longer than any of this takes.
const LIMIT: Duration = Duration::from_secs(10);

const UPGRADE: &[u8] = b"GET /ws HTTP/1.1\r\nhost: orders\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
    sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

async fn read(stream: &mut TcpStream) -> Result<String> {
    let mut bytes = vec![0; 4096];
    // Reset or closed in order: gone is gone.
    let count = tokio::time::timeout(LIMIT, stream.read(&mut bytes)).await?.unwrap_or(0);
    Ok(String::from_utf8_lossy(&bytes[..count]).into_owned())
}

#[test]
fn plaintext_connections_end_when_the_mode_becomes_strict() {
    story("closing", |mesh| {
        let orders = mesh.pod("orders.shop").start()?;
        orders.app(8080)?;
        orders.app_of("echo", 7000)?;
        let mut sidecar = mesh
            .sidecar(&orders)?
            .config(|yaml| {
                yaml["inbound"]["mode"] = "permissive".into();
                yaml["timeouts"]["drain"] = "3s".into();
            })
            .start()?;
        let outsider = mesh.pod("outsider.shop").start()?;
        let (http, echo) = (SocketAddr::new(orders.ip(), 8080), SocketAddr::new(orders.ip(), 7000));
        outsider.run(async || {
            let mut idle = TcpStream::connect(http).await?;
            idle.write_all(b"GET /status/200 HTTP/1.1\r\nhost: orders\r\n\r\n").await?;
            ensure!(read(&mut idle).await?.starts_with("HTTP/1.1 200"), "permissive serves plaintext");
            let mut bytes = TcpStream::connect(echo).await?;
            bytes.write_all(b"\x00one").await?;
            ensure!(read(&mut bytes).await? == "\0one", "permissive serves plaintext");
            let mut socket = TcpStream::connect(http).await?;
            socket.write_all(UPGRADE).await?;
            ensure!(read(&mut socket).await?.starts_with("HTTP/1.1 101"), "permissive serves plaintext");
            let mut busy = TcpStream::connect(http).await?;
            busy.write_all(b"GET /delay/1500 HTTP/1.1\r\nhost: orders\r\n\r\n").await?;

            sidecar.reconfigure(|yaml| yaml["inbound"]["mode"] = "strict".into())?;
            ensure!(read(&mut idle).await?.is_empty(), "an idle connection ends at once");
            bytes.write_all(b"\x00two").await?;
            ensure!(read(&mut bytes).await? == "\0two", "bytes have the time of a drain");
            let answer = read(&mut busy).await?.to_ascii_lowercase();
            ensure!(answer.starts_with("http/1.1 200"), "what is under way is finished: {answer:?}");
            ensure!(answer.contains("connection: close"), "the client is told to go: {answer:?}");
            ensure!(read(&mut bytes).await?.is_empty(), "the time of a drain is over");
            ensure!(read(&mut socket).await?.is_empty(), "for a WebSocket, too");
            Ok(())
        })?;
        let records = sidecar.process().is_running();
        ensure!(records, "the sidecar itself goes on");
        Ok(())
    });
}

/// The same at the caller: a connection of bytes to a service that has no sidecar yet.
#[test]
fn plaintext_connections_out_end_when_the_mode_becomes_strict() {
    story("closing-out", |mesh| {
        let orders = mesh.pod("orders.shop").start()?;
        orders.app_of("echo", 7000)?;
        mesh.dns().set(Service::virtual_ip("orders.shop").port(7000, 7000).on(&[&orders]))?;
        let web = mesh.pod("web.shop").start()?;
        let mut sidecar = mesh
            .sidecar(&web)?
            .config(|yaml| {
                yaml["mesh"]["mode"] = "permissive".into();
                yaml["timeouts"]["handshake"] = "1s".into();
                yaml["timeouts"]["drain"] = "2s".into();
                yaml["outbound"]["opaquePorts"] = serde_json::json!([7000]);
            })
            .start()?;
        let echo = SocketAddr::new(web.resolve("orders.shop")?[0], 7000);
        web.run(async || {
            let mut bytes = TcpStream::connect(echo).await?;
            bytes.write_all(b"\x00one").await?;
            ensure!(read(&mut bytes).await? == "\0one", "permissive goes on in plaintext");
            sidecar.reconfigure(|yaml| yaml["mesh"]["mode"] = "strict".into())?;
            bytes.write_all(b"\x00two").await?;
            ensure!(read(&mut bytes).await? == "\0two", "bytes have the time of a drain");
            ensure!(read(&mut bytes).await?.is_empty(), "the time of a drain is over");
            Ok(())
        })
    });
}

/// Requests on a connection that is open, to a service that is listed in the configuration, with a reload of something else
/// in between.
#[test]
fn requests_follow_the_mode_on_connections_that_are_open() {
    story("closing-listed", |mesh| {
        let orders = mesh.pod("orders.shop").start()?;
        orders.app_of("raw", 8081)?;
        mesh.dns().set(Service::virtual_ip("orders.shop").port(80, 8081).on(&[&orders]))?;
        let web = mesh.pod("web.shop").start()?;
        let endpoint = SocketAddr::new(orders.ip(), 8081).to_string();
        let mut sidecar = mesh
            .sidecar(&web)?
            .config(|yaml| {
                yaml["mesh"]["mode"] = "permissive".into();
                yaml["timeouts"]["handshake"] = "1s".into();
                yaml["services"] = serde_json::json!([
                    { "name": "orders.shop.svc.cluster.local", "port": 80, "endpoints": [endpoint] },
                ]);
            })
            .start()?;
        let address = SocketAddr::new(web.resolve("orders.shop")?[0], 80);
        web.run(async || {
            let mut stream = TcpStream::connect(address).await?;
            let request = "GET /one HTTP/1.1\r\nHost: orders.shop\r\n\r\n";
            stream.write_all(request.as_bytes()).await?;
            let answer = read(&mut stream).await?;
            ensure!(answer.starts_with("HTTP/1.1 200 "), "permissive, without a sidecar: {answer}");
            let version =
                |sidecar: &Sidecar| anyhow::Ok(sidecar.admin("/config")?.json()?["version"].clone());
            let before = version(&sidecar)?;
            sidecar.reconfigure(|yaml| yaml["outbound"]["opaquePorts"] = serde_json::json!([7000]))?;
            eventually("the first reload", LIMIT, || {
                let now = version(&sidecar)?;
                Ok((now != before).then_some(()))
            })?;
            // The worker has taken it over when it serves another request.
            stream.write_all(request.as_bytes()).await?;
            ensure!(
                read(&mut stream).await?.starts_with("HTTP/1.1 200 "),
                "nothing has changed for this one"
            );
            sidecar.reconfigure(|yaml| yaml["mesh"]["mode"] = "strict".into())?;
            // The change takes a moment to be seen; from then on it holds.
            let refused = async {
                loop {
                    stream.write_all(request.as_bytes()).await?;
                    let answer = read(&mut stream).await?;
                    if !answer.starts_with("HTTP/1.1 200 ") {
                        return anyhow::Ok(answer);
                    }
                }
            };
            let answer = tokio::time::timeout(LIMIT, refused).await.context("still plaintext")??;
            ensure!(answer.starts_with("HTTP/1.1 502 ") && answer.contains("tls-failed"), "strict: {answer}");
            Ok(())
        })
    });
}
