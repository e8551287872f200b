//! Corners: what a sidecar meets once a year, or once an attacker has found it.
//!
//! Calls of a pod to itself, families, doors that must be shut, bytes that are no protocol, clients that are too slow or
//! too fast, descriptors that run out, configurations that are wrong. In each story the sidecar serves a good request
//! at the end: surviving means working.

#[path = "corners/affinity.rs"]
mod affinity;
#[path = "corners/configuration.rs"]
mod configuration;
#[path = "corners/descriptors.rs"]
mod descriptors;
#[path = "corners/doors.rs"]
mod doors;
#[path = "corners/families.rs"]
mod families;
#[path = "corners/floods.rs"]
mod floods;
#[path = "corners/garbage.rs"]
mod garbage;
#[path = "corners/judge.rs"]
mod judge;
#[path = "corners/samples.rs"]
mod samples;
#[path = "corners/smuggling.rs"]
mod smuggling;

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use weft_testbed::{Mesh, Pod, Service, Sidecar};

/// Only a safety net for things that come by themselves.
const SOON: Duration = Duration::from_secs(20);

/// `web` and `orders` of namespace `shop`, each with a sidecar; `orders.shop:80` is the test application.
struct Pair {
    web: Pod,
    client: Sidecar,
    orders: Pod,
    server: Sidecar,
}

impl Pair {
    /// `edit` changes the configuration of both sidecars.
    fn start(mesh: &Mesh, edit: impl Fn(&mut Value)) -> Result<Self> {
        let orders = mesh.pod("orders.shop").start()?;
        orders.app(8080)?;
        Self::around(mesh, orders, edit)
    }

    /// The same with an application on port 8080 of `orders` that is there already.
    fn around(mesh: &Mesh, orders: Pod, edit: impl Fn(&mut Value)) -> Result<Self> {
        let web = mesh.pod("web.shop").start()?;
        mesh.dns().set(Service::virtual_ip("orders.shop").port(80, 8080).on(&[&orders]))?;
        let client = mesh.sidecar(&web)?.config(&edit).start()?;
        let server = mesh.sidecar(&orders)?.config(&edit).start()?;
        Ok(Self { web, client, orders, server })
    }

    /// A good request still crosses both, and neither has panicked.
    fn works(&self) -> Result<()> {
        for sidecar in [&self.client, &self.server] {
            ensure!(sidecar.process().is_running(), "a sidecar has ended: {}", sidecar.log());
            let panic = sidecar.log().lines().find(|line| line.contains("panicked")).map(str::to_owned);
            ensure!(panic.is_none(), "{panic:?}");
        }
        let answer = self.web.get("http://orders.shop/")?;
        ensure!(answer.status == 200, "{answer:?}");
        Ok(())
    }

    /// Where `orders.shop:80` is dialed.
    fn service(&self) -> Result<SocketAddr> {
        Ok(SocketAddr::new(self.web.resolve("orders.shop")?[0], 80))
    }
}

/// Silence after which a conversation counts as over.
const PAUSE: Duration = Duration::from_millis(250);

/// Sends bytes, reads what is answered until nothing more comes, and half-closes only then: HTTP takes a half-close for
/// a client that has gone away.
async fn converse(to: SocketAddr, bytes: &[u8]) -> Result<Option<Vec<u8>>> {
    let Ok(mut stream) = TcpStream::connect(to).await else { return Ok(None) };
    let mut answer = Vec::new();
    if stream.write_all(bytes).await.is_err() {
        return Ok(Some(answer));
    }
    while let Ok(read) = tokio::time::timeout(PAUSE, stream.read_buf(&mut answer)).await {
        if read.unwrap_or(0) == 0 {
            return Ok(Some(answer));
        }
    }
    let _ = stream.shutdown().await;
    let _ = tokio::time::timeout(SOON, stream.read_to_end(&mut answer)).await.context("stays open")?;
    Ok(Some(answer))
}

/// Sends bytes over a connection of its own, half-closes, and reads until the other side has closed as well. A reset is
/// an end like any other; `None` means that the connection was not even taken.
async fn exchange(to: SocketAddr, bytes: &[u8]) -> Result<Option<Vec<u8>>> {
    let mut stream = match TcpStream::connect(to).await {
        Ok(stream) => stream,
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => return Ok(None),
        // Taken, and reset before the connect was even looked at.
        Err(_) => return Ok(Some(Vec::new())),
    };
    let mut answer = Vec::new();
    let work = async {
        let (mut read, mut write) = stream.split();
        let send = async {
            // The other side may have had enough before the end.
            if write.write_all(bytes).await.is_ok() {
                let _ = write.shutdown().await;
            }
        };
        let receive = async {
            let _ = read.read_to_end(&mut answer).await;
        };
        tokio::join!(send, receive);
    };
    let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(80)]).into_owned();
    tokio::time::timeout(SOON, work).await.with_context(|| format!("{to} stays open after {shown:?}"))?;
    Ok(Some(answer))
}
