//! The proxies of other pods, at the ports where they can be reached, and DNS.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UdpSocket;
use tokio::time::{sleep, timeout};

use super::{Orders, PATIENCE, PAUSE, dial, over_and_over, tls};

pub(super) fn begin(orders: &Rc<Orders>) {
    over_and_over(orders, "proxy silent", 64, async |orders, hand| hold(orders, hand, 15006, b"").await);
    over_and_over(orders, "proxy half TLS", 64, async |orders, hand| {
        hold(orders, hand, 15006, &[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3]).await
    });
    over_and_over(orders, "proxy nonsense", 16, async |orders, hand| {
        hold(orders, hand, 15006, &[0xff; 4096]).await
    });
    over_and_over(orders, "proxy TLS without a certificate", 4, without_a_certificate);
    over_and_over(orders, "application half a head", 16, async |orders, hand| {
        hold(orders, hand, 8080, b"GET / HTTP/1.1\r\nhost: x\r\nx-a").await
    });
    over_and_over(orders, "metrics", 4, async |orders, hand| ask(orders, hand, 15020, "/metrics").await);
    over_and_over(orders, "metrics half a head", 32, async |orders, hand| {
        hold(orders, hand, 15020, b"GET /metrics HTTP/1.1\r\nhost:").await
    });
    over_and_over(orders, "health", 4, async |orders, hand| ask(orders, hand, 15021, "/ready").await);
    over_and_over(orders, "health silent", 32, async |orders, hand| hold(orders, hand, 15021, b"").await);
    over_and_over(orders, "datagrams rounds", 2, datagrams);
}

/// One of the pods that there are now.
fn pod(orders: &Orders, hand: usize, port: u16) -> Result<SocketAddr> {
    let all = orders.pods.borrow();
    let ip = all.get(hand % all.len().max(1)).context("no pod")?;
    Ok(SocketAddr::new(*ip, port))
}

/// Says something and then nothing, until the other side has had enough.
async fn hold(orders: &Orders, hand: usize, port: u16, says: &[u8]) -> Result<()> {
    let mut tcp = dial(pod(orders, hand, port)?).await?;
    tcp.write_all(says).await?;
    orders.counts.add("proxy held");
    let _ = tcp.read_to_end(&mut Vec::new()).await;
    sleep(PAUSE).await;
    Ok(())
}

async fn without_a_certificate(orders: &Orders, hand: usize) -> Result<()> {
    // In the name of the mesh, so that it is a handshake for the proxy to judge.
    let tcp = dial(pod(orders, hand, 8080)?).await?;
    let shaken = tls::shake(tcp, b"weft/http").await;
    sleep(PAUSE).await;
    if let Ok(mut tls) = shaken {
        let _ = tls.read_to_end(&mut Vec::new()).await;
    }
    Ok(())
}

async fn ask(orders: &Orders, hand: usize, port: u16, path: &str) -> Result<()> {
    let mut tcp = dial(pod(orders, hand, port)?).await?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n");
    let mut answer = vec![0; 64 << 10];
    for _ in 0..100 {
        tcp.write_all(request.as_bytes()).await?;
        // Whatever part of the answer is there: the next question does not wait for the rest.
        if timeout(PATIENCE, tcp.read(&mut answer)).await?? == 0 {
            break;
        }
        orders.counts.add(if port == 15020 { "metrics answers" } else { "health answers" });
    }
    Ok(())
}

/// Questions and nonsense for the ports of DNS, which the proxy has on loopback alone.
async fn datagrams(orders: &Orders, hand: usize) -> Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await?;
    for port in [53, 15053] {
        let SocketAddr::V4(to) = pod(orders, hand, port)? else { continue };
        for _ in 0..50 {
            let id = fastrand::u16(..).to_be_bytes();
            let question =
                [&id[..], &[1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, b'a', 1, b'b', 0, 0, 1, 0, 1]].concat();
            if socket.send_to(&question, (IpAddr::V4(*to.ip()), port)).await.is_ok() {
                orders.counts.add("datagrams sent");
            }
        }
        sleep(PAUSE).await;
    }
    Ok(())
}
