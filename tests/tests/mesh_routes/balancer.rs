//! A load balancer in front of a mesh listener, which says for whom it connects (PROXY protocol): a real HAProxy, and one that cuts
//! what it sends as no real one would. The mesh link's first octets come behind the header, in one segment with it or in many.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use weft_testbed::{Pod, Request, Result, Service, eventually, story};

use super::{EAST_WEST, PATIENCE};

/// The mesh listener, and the ports of the balancer by what it does there.
const LISTENER: u16 = 15006;
const VERSION_1: u16 = 15016;
const VERSION_2: u16 = 15026;

/// How a balancer of our own sends a header and what comes behind it.
#[derive(Clone, Copy, Debug)]
enum Cut {
    /// Both in one segment.
    Together,
    /// Every octet on its own.
    Octets,
    /// The header and the first octets of the link, and the rest later.
    Within,
    /// No header at all.
    Bare,
}

const CUTS: [(u16, &str, Cut); 4] = [
    (15036, "together", Cut::Together),
    (15046, "octets", Cut::Octets),
    (15056, "within", Cut::Within),
    (15066, "bare", Cut::Bare),
];

/// The PROXY protocol, version 2, for TCP over IPv4 (section 2.2 of its specification).
fn header(from: SocketAddr, to: SocketAddr) -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
    for addr in [from, to] {
        if let SocketAddr::V4(addr) = addr {
            header.extend(addr.ip().octets());
        }
    }
    header.extend(from.port().to_be_bytes());
    header.extend(to.port().to_be_bytes());
    header
}

/// One connection through the balancer.
async fn forward(mut client: TcpStream, gateway: SocketAddr, cut: Cut) -> std::io::Result<()> {
    let mut server = TcpStream::connect(gateway).await?;
    server.set_nodelay(true)?;
    let header = header(client.peer_addr()?, client.local_addr()?);
    // A ClientHello: one record, whose length stands in its head (RFC 8446 section 5.1).
    let mut hello = vec![0; 5];
    client.read_exact(&mut hello).await?;
    let length = usize::from(u16::from_be_bytes([hello[3], hello[4]]));
    hello.resize(5 + length, 0);
    client.read_exact(&mut hello[5..]).await?;
    let pieces: Vec<Vec<u8>> = match cut {
        Cut::Together => vec![[&header[..], &hello].concat()],
        Cut::Octets => {
            header.iter().chain(hello.get(..40).unwrap_or_default()).map(|octet| vec![*octet]).collect()
        }
        Cut::Within => vec![[&header[..], &hello[..3]].concat(), hello[3..].to_vec()],
        Cut::Bare => vec![hello.clone()],
    };
    for piece in &pieces {
        server.write_all(piece).await?;
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    if matches!(cut, Cut::Octets) {
        server.write_all(hello.get(40..).unwrap_or_default()).await?;
    }
    copy_bidirectional(&mut client, &mut server).await.map(drop)
}

/// Our own balancer, at all of its ports, for as long as its pod's task is held.
async fn balance(pod: Pod, gateway: SocketAddr) -> Result<()> {
    let mut doors = Vec::new();
    for (port, _, cut) in CUTS {
        let listener = TcpListener::bind((pod.ip(), port)).await?;
        doors.push(async move {
            loop {
                let (client, _) = listener.accept().await?;
                tokio::spawn(forward(client, gateway, cut));
            }
        });
    }
    let served: Vec<std::io::Result<()>> = futures_util::future::join_all(doors).await;
    served.into_iter().collect::<std::io::Result<()>>()?;
    Ok(())
}

fn haproxy(balancer: &Pod, gateway: SocketAddr) -> Result<()> {
    let mut config =
        "defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 20s\n  timeout server 20s\n".to_owned();
    for (port, how) in [(VERSION_1, "send-proxy"), (VERSION_2, "send-proxy-v2")] {
        config += &format!(
            "listen mesh{port}\n  bind {}:{port}\n  server gateway {gateway} {how}\n",
            balancer.ip()
        );
    }
    let file = balancer.dir().join("haproxy.cfg");
    std::fs::write(&file, config)?;
    balancer.spawn("haproxy", &["haproxy", "-db", "-f", &file.display().to_string()])?;
    for port in [VERSION_1, VERSION_2] {
        eventually("HAProxy to listen", PATIENCE, || {
            let reached =
                balancer.run(async || Ok(TcpStream::connect((balancer.ip(), port)).await.is_ok()))?;
            Ok(reached.then_some(()))
        })?;
    }
    Ok(())
}

#[test]
fn links_come_through_a_load_balancer_that_says_for_whom() {
    story("mesh-balancer", |mesh| {
        let legacy = mesh.pod("legacy.shop").ipv4_only().start()?;
        legacy.app_as("http", 8080, "legacy")?;
        let pod = mesh.pod("api.edge").ipv4_only().start()?;
        let balancer = mesh.pod("balancer.edge").ipv4_only().start()?;
        let resources = pod.dir().join("gateway.yaml");
        std::fs::write(&resources, EAST_WEST.replace("{legacy}", &legacy.ip().to_string()))?;
        let trusted = json!({ "trusted": [balancer.ip()] });
        let gateway = mesh
            .sidecar(&pod)?
            .gateway(&resources)
            .config(|config| config["gateway"]["proxyProtocol"] = trusted)
            .start()?;
        let at = SocketAddr::new(pod.ip(), LISTENER);
        haproxy(&balancer, at)?;
        let (close, closed) = tokio::sync::oneshot::channel::<()>();
        let own = balancer.clone();
        let balancing = balancer.start(async move || {
            tokio::select! {
                ended = balance(own, at) => ended,
                _ = closed => Ok(()),
            }
        })?;
        let ports = [(VERSION_1, "haproxy1"), (VERSION_2, "haproxy2")];
        let cuts = CUTS.map(|(port, name, _)| (port, name));
        for (port, name) in ports.into_iter().chain(cuts) {
            let service = Service::virtual_ip(&format!("{name}.edge"));
            mesh.dns().set(service.port(80, port).on(&[&balancer]))?;
        }
        // Whom nobody trusts comes without a header.
        mesh.dns().set(Service::virtual_ip("direct.edge").port(80, LISTENER).on(&[&pod]))?;
        let web = mesh.pod("web.shop").ipv4_only().start()?;
        let _web = mesh.sidecar(&web)?.start()?;

        let names = ["haproxy1", "haproxy2", "together", "octets", "within", "direct"];
        for name in names {
            let url = format!("http://{name}.edge/legacy");
            for request in [Request::get(&url), Request::get(&url).http2(), Request::post(&url, "a body")] {
                let answer = web.send(request)?;
                assert_eq!(answer.status, 200, "{name}: {answer:?}");
                let seen = answer.json()?;
                assert_eq!(seen["server"], "legacy");
                let from = "By=spiffe://weft.local/ns/edge/sa/api;URI=spiffe://weft.local/ns/shop/sa/web";
                assert_eq!(seen["headers"]["x-forwarded-client-cert"], from, "{name}");
            }
        }
        // Trusted, and silent about whom it connects for: nobody.
        let bare = web.get("http://bare.edge/legacy")?;
        assert!(bare.status.is_server_error(), "{bare:?}");
        // The client is the workload, whoever carries its link.
        let requests = || -> Vec<String> {
            let log = gateway.log();
            log.lines().filter(|line| line.contains("\"direction\":\"gateway\"")).map(str::to_owned).collect()
        };
        eventually("the log to have the requests", PATIENCE, || {
            Ok((requests().len() >= 3 * names.len()).then_some(()))
        })?;
        let client = format!("\"client\":\"{}:", web.ip());
        for line in requests() {
            assert!(line.contains(&client), "{line}");
        }
        let metrics = gateway.metrics()?;
        let told = |outcome: &str| metrics.sum("weft_gateway_proxy_protocol_total", &[("outcome", outcome)]);
        assert!(
            told("proxied") >= 5.0 && told("malformed") >= 1.0,
            "{} and {}",
            told("proxied"),
            told("malformed")
        );
        drop(close);
        balancing.join()?;
        Ok(())
    });
}
