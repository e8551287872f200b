//! Applications that are told by the PROXY protocol who connects (`inbound.proxyProtocol`): nginx, and some of the test's own
//! that read the header themselves.

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use weft_testbed::{Mesh, Pod, Request, Service, Sidecar, eventually, story};

use super::pair::{APP, Wire, pods, serve};

const NGINX: &str = include_str!("../../peers/nginx-announced.conf");
const SOON: Duration = Duration::from_secs(20);
/// What a caller says that would like to be somebody else.
const LIE: &str = "PROXY TCP4 192.0.2.66 192.0.2.67 1 2\r\n";
const SECRET: &str = "0b5c1ce9a7d24f3e8f60917c2d4ea35b";

/// Starts nginx. Its health is for the story to ask: it takes no connection from a stranger.
fn nginx(pod: &Pod) -> Result<()> {
    let dir = pod.dir().join("nginx");
    fs::create_dir_all(&dir).context("nginx")?;
    let file = dir.join("nginx.conf");
    fs::write(&file, NGINX.replace("DIR", &dir.display().to_string())).context("nginx.conf")?;
    pod.spawn("nginx", &["nginx", "-e", "stderr", "-c", &file.display().to_string()])?;
    eventually("nginx to listen", SOON, || {
        let reached = pod.run(async || Ok(tokio::net::TcpStream::connect((pod.ip(), 8080)).await.is_ok()))?;
        Ok(reached.then_some(()))
    })
}

#[expect(clippy::needless_pass_by_value, reason = "callers write it in its place")]
fn announced(mesh: &Mesh, server: &Pod, ports: Value) -> Result<Sidecar> {
    mesh.sidecar(server)?.config(|yaml| yaml["inbound"] = json!({ "proxyProtocol": ports })).start()
}

/// What nginx says of the connection that a request came on.
#[derive(Debug)]
struct Seen {
    client: SocketAddr,
    server: SocketAddr,
    connection: u64,
    /// Requests on it so far.
    requests: u64,
    forwarded_for: String,
}

impl FromStr for Seen {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let words: Vec<&str> = text.splitn(7, ' ').collect();
        let [client, from, server, to, connection, requests, forwarded_for] = words[..] else {
            anyhow::bail!("not what nginx says: {text:?}");
        };
        Ok(Self {
            client: SocketAddr::new(client.parse()?, from.parse()?),
            server: SocketAddr::new(server.parse()?, to.parse()?),
            connection: connection.parse()?,
            requests: requests.parse()?,
            forwarded_for: forwarded_for.to_owned(),
        })
    }
}

fn ask(client: &Pod, host: &str, port: u16, http2: bool) -> Result<Seen> {
    let request = Request::get(&format!("http://{host}:{port}/"));
    let answer = client.send(if http2 { request.http2() } else { request })?;
    ensure!(answer.status == 200, "{port}: {answer:?}");
    answer.text().parse()
}

/// Requests of two clients in turn, over pooled connections: each is told of under its client's own address.
#[test]
fn every_request_travels_under_its_clients_address() {
    story("proto-announced-http", |mesh| {
        let (one, server) = pods(mesh, &[8080, 8081, 8082])?;
        let two = mesh.pod("other.shop").start()?;
        nginx(&server)?;
        let _sidecars = [mesh.sidecar(&one)?.start()?, mesh.sidecar(&two)?.start()?];
        let ports = json!([{ "port": 8080, "version": 1 }, 8081, { "port": 8082, "version": 2 }]);
        let _announced = announced(mesh, &server, ports)?;
        for (port, http2) in [(8080, false), (8081, false), (8082, true)] {
            let mut connections = [BTreeSet::new(), BTreeSet::new()];
            let mut reused = 0;
            for round in 0..12 {
                for (client, mine) in [&one, &two].into_iter().zip(&mut connections) {
                    let seen = ask(client, APP, port, http2)?;
                    let told = format!("{port}, round {round}: {seen:?}");
                    assert!(client.addresses().contains(&seen.client.ip()), "{told}");
                    assert_ne!(seen.client.port(), 0, "{told}");
                    assert!(
                        server.addresses().contains(&seen.server.ip()) && seen.server.port() == port,
                        "{told}"
                    );
                    assert_eq!(seen.forwarded_for, seen.client.ip().to_string(), "{told}");
                    mine.insert(seen.connection);
                    reused += u64::from(seen.requests > 1);
                }
            }
            let [first, second] = &connections;
            assert!(
                first.is_disjoint(second),
                "{port}: one connection carried requests of both: {connections:?}"
            );
            assert!(reused > 12, "{port}: connections are not kept: {connections:?}");
        }
        Ok(())
    });
}

/// In permissive mode callers come without a sidecar as well.
#[test]
fn plaintext_callers_are_announced_too() {
    story("proto-announced-plain", |mesh| {
        let (client, server) = pods(mesh, &[8080])?;
        nginx(&server)?;
        let inbound = json!({ "mode": "permissive", "proxyProtocol": ["8080=v1"] });
        let _sidecar = mesh.sidecar(&server)?.config(|yaml| yaml["inbound"] = inbound).start()?;
        // Nobody names the service to a client without a sidecar.
        let host = SocketAddr::new(server.ip(), 0).to_string();
        let host = host.trim_end_matches(":0");
        let (first, second) = (ask(&client, host, 8080, false)?, ask(&client, host, 8080, false)?);
        for seen in [&first, &second] {
            assert!(client.addresses().contains(&seen.client.ip()), "{seen:?}");
        }
        // Each request of the test's client has a connection of its own, and so has what it is announced on.
        assert_ne!((first.client, first.connection), (second.client, second.connection));
        Ok(())
    });
}

/// The kubelet's checks are the sidecar's own connections, and say so.
#[test]
fn health_checks_have_a_header_of_their_own() {
    story("proto-announced-probes", |mesh| {
        let server = mesh.pod("app.shop").start()?;
        let kubelet = mesh.pod("kubelet.node").start()?;
        nginx(&server)?;
        let check = |port: u16| json!({ "path": format!("/probe/{SECRET}/{port}/readiness"), "http": { "port": port } });
        let _sidecar = mesh
            .sidecar(&server)?
            .config(|yaml| {
                yaml["inbound"]["proxyProtocol"] = json!(["8080=v1", "8081=v2"]);
                yaml["probes"] = json!([check(8080), check(8081), check(8083)]);
            })
            .start()?;
        // nginx wants a header on 8083 as well, but nobody has said so: without one it answers nothing.
        for (port, status) in [(8080, 200), (8081, 200), (8083, 503)] {
            let url = format!("http://{}:15021/probe/{SECRET}/{port}/readiness", server.ip());
            assert_eq!(kubelet.get(&url)?.status, status, "{port}");
        }
        Ok(())
    });
}

/// Reads a line of version 1: source, destination.
async fn line(wire: &mut Wire) -> Result<(SocketAddr, SocketAddr)> {
    let line = wire.until("\r\n").await?;
    let words: Vec<&str> = line.trim_end().split(' ').collect();
    let ["PROXY", family, source, destination, from, to] = words[..] else {
        anyhow::bail!("no header: {line:?}")
    };
    let (source, destination): (IpAddr, IpAddr) = (source.parse()?, destination.parse()?);
    ensure!(family == if source.is_ipv4() { "TCP4" } else { "TCP6" }, "{line:?}");
    Ok((SocketAddr::new(source, from.parse()?), SocketAddr::new(destination, to.parse()?)))
}

/// The same of version 2, octet by octet as its specification draws it.
async fn binary(wire: &mut Wire) -> Result<(SocketAddr, SocketAddr)> {
    let mut fixed = [0; 16];
    wire.stream.read_exact(&mut fixed).await.context("the fixed part")?;
    ensure!(fixed.starts_with(b"\r\n\r\n\0\r\nQUIT\n\x21"), "no header: {fixed:?}");
    let mut block = vec![0; usize::from(u16::from_be_bytes([fixed[14], fixed[15]]))];
    wire.stream.read_exact(&mut block).await.context("the addresses")?;
    let port = |at: usize| u16::from_be_bytes([block[at], block[at + 1]]);
    let v6 = |at: usize| -> Result<IpAddr> {
        Ok(Ipv6Addr::from(<[u8; 16]>::try_from(&block[at..at + 16])?).into())
    };
    let v4 =
        |at: usize| -> Result<IpAddr> { Ok(Ipv4Addr::from(<[u8; 4]>::try_from(&block[at..at + 4])?).into()) };
    let (source, destination, ports) = match (fixed[13], block.len()) {
        (0x11, 12) => (v4(0)?, v4(4)?, 8),
        (0x21, 36) => (v6(0)?, v6(16)?, 32),
        other => anyhow::bail!("no addresses of TCP: {other:?}"),
    };
    Ok((SocketAddr::new(source, port(ports)), SocketAddr::new(destination, port(ports + 2))))
}

/// An application of bytes reads the header, and then is on its own: one that waits for the client, and one that greets.
#[test]
fn bytes_begin_with_the_header() {
    story("proto-announced-bytes", |mesh| {
        let (client, server) = pods(mesh, &[9001, 9002, 9003])?;
        let _sidecar = mesh.sidecar(&client)?.start()?;
        // The third is never looked at.
        let inbound = json!({ "proxyProtocol": ["9001=v1", "9002=v2", "9003=v2"], "opaquePorts": [9003] });
        let _announced = mesh.sidecar(&server)?.config(|yaml| yaml["inbound"] = inbound).start()?;
        let address = client.resolve(APP)?[0];
        for (port, greets) in
            [(9001, false), (9002, false), (9003, false), (9001, true), (9002, true), (9003, true)]
        {
            let application = serve(&server, port, async move |mut wire| {
                let told = if port == 9001 { line(&mut wire).await? } else { binary(&mut wire).await? };
                if greets {
                    wire.say("220 ready\r\n").await?;
                }
                let said = wire.until("\n").await?;
                wire.say("bye\n").await?;
                Ok((told, said))
            })?;
            let own = client.run(async || {
                let mut wire = Wire::connect(SocketAddr::new(address, port)).await?;
                if greets {
                    wire.until("220 ready\r\n").await?;
                }
                wire.say("hello\n").await?;
                wire.until("bye\n").await?;
                Ok(wire.stream.local_addr()?)
            })?;
            let ((source, destination), said) = application.join()?;
            let told = format!(
                "{port}, greets: {greets}: {source} to {destination}; the application's own is {own}"
            );
            assert_eq!(said, "hello\n", "{told}");
            assert!(client.addresses().contains(&source.ip()) && source.port() != 0, "{told}");
            assert!(server.addresses().contains(&destination.ip()) && destination.port() == port, "{told}");
        }
        Ok(())
    });
}

/// A caller that writes a header itself has written bytes: the application has read the sidecar's by then.
#[test]
fn a_caller_cannot_announce_another() {
    story("proto-announced-lie", |mesh| {
        let (client, server) = pods(mesh, &[9001, 9002])?;
        let _sidecar = mesh.sidecar(&client)?.start()?;
        let _announced = announced(mesh, &server, json!(["9001=v1", "9002=v2"]))?;
        let address = client.resolve(APP)?[0];
        for port in [9001, 9002] {
            let application = serve(&server, port, async move |mut wire| {
                let (source, _) =
                    if port == 9001 { line(&mut wire).await? } else { binary(&mut wire).await? };
                Ok((source, wire.until("hello\n").await?))
            })?;
            client.run(async || {
                let mut wire = Wire::connect(SocketAddr::new(address, port)).await?;
                wire.say(format!("{LIE}hello\n")).await?;
                wire.finish().await?;
                wire.gone().await
            })?;
            let (source, said) = application.join()?;
            assert!(client.addresses().contains(&source.ip()), "{port}: {source}");
            assert_eq!(said, format!("{LIE}hello\n"), "{port}");
        }
        Ok(())
    });
}

/// Without interception the application listens where no client ever goes: it is told what the client dialed.
#[test]
fn at_a_listener_the_header_names_what_was_dialed() {
    story("proto-announced-listener", |mesh| {
        let client = mesh.pod("client.shop").start()?;
        let server = mesh.pod("app.shop").start()?;
        mesh.dns().set(Service::virtual_ip(APP).port(9000, 9000).on(&[&server]))?;
        let _sidecar = mesh.sidecar(&client)?.start()?;
        let mut builder = mesh.sidecar(&server)?.without_interception();
        for ip in server.addresses() {
            builder =
                builder.inbound_listener(SocketAddr::new(ip, 9000), (Ipv4Addr::LOCALHOST, 19000).into());
        }
        let _announced = builder.config(|yaml| yaml["inbound"]["proxyProtocol"] = json!([19000])).start()?;
        let application = serve(&server, 19000, async move |mut wire| {
            let told = binary(&mut wire).await?;
            wire.say("220 ready\r\n").await?;
            Ok(told)
        })?;
        let address = client.resolve(APP)?[0];
        client.run(async || {
            Wire::connect(SocketAddr::new(address, 9000)).await?.until("220 ready\r\n").await
        })?;
        let (source, destination) = application.join()?;
        assert!(client.addresses().contains(&source.ip()), "{source}");
        assert!(
            server.addresses().contains(&destination.ip()) && destination.port() == 9000,
            "{destination}"
        );
        Ok(())
    });
}
