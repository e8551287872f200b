//! Every port gets every sample, and as many random ones: nothing panics, every connection ends, everything is counted.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Result, ensure};
use futures_util::stream::{self, StreamExt, TryStreamExt};
use tokio::net::UdpSocket;
use weft_testbed::{Metrics, Pod, eventually, story};

use crate::samples::{crafted, dns};
use crate::{Pair, SOON, exchange};

/// Random samples for each port, besides the crafted ones.
const RANDOM: usize = 60;

/// Connections at a time.
const AT_ONCE: usize = 8;

/// Random bytes, of which some begin like something. The seed is told by every failure, in the name of the sample.
fn random(seed: u64) -> Vec<u8> {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut bytes = match rng.u8(..6) {
        0 => b"GET / HTTP/1.1\r\nhost: orders.shop\r\n".to_vec(),
        1 => weft_testbed::frames::PREFACE.to_vec(),
        2 => vec![22, 3, 1, rng.u8(..4), rng.u8(..)],
        3 => b"POST /x HTTP/1.1\r\nhost: orders.shop\r\ntransfer-encoding: chunked\r\n\r\n".to_vec(),
        _ => Vec::new(),
    };
    let length = rng.usize(..4000);
    bytes.extend(std::iter::repeat_with(|| rng.u8(..)).take(length));
    bytes
}

/// Sends all samples to one address. How many connections were taken.
fn attack(from: &Pod, to: SocketAddr, seed: u64) -> Result<usize> {
    let mut samples = crafted();
    samples.extend((0..RANDOM as u64).map(|n| random(seed + n)));
    from.run(async || {
        let taken: Vec<bool> = stream::iter(samples)
            .map(|sample| async move { exchange(to, &sample).await.map(|answer| answer.is_some()) })
            .buffer_unordered(AT_ONCE)
            .try_collect()
            .await?;
        Ok(taken.into_iter().filter(|taken| *taken).count())
    })
}

fn accepted(metrics: &Metrics, listener: &str) -> f64 {
    metrics.sum("weft_accepted_connections_total", &[("listener", listener)])
}

fn detections(metrics: &Metrics, direction: &str) -> f64 {
    metrics.sum("weft_protocol_detections_total", &[("direction", direction)])
}

#[test]
fn garbage_from_other_pods() {
    story("garbage-in", |mesh| {
        let pair = Pair::start(mesh, |yaml| yaml["timeouts"]["handshake"] = "1s".into())?;
        let outsider = mesh.pod("outsider.shop").start()?;
        let before = pair.server.metrics()?;
        let ip = pair.orders.ip();
        let mut inbound = 0;
        for (n, port) in [8080, 15006, 15020, 15021].into_iter().enumerate() {
            let taken = attack(&outsider, SocketAddr::new(ip, port), 1000 * n as u64)?;
            ensure!(taken > RANDOM, "port {port} took {taken} connections");
            if port < 15009 {
                inbound += taken;
            }
        }
        let change = pair.server.metrics()?.since(&before);
        ensure!(accepted(&change, "inbound") >= inbound as f64, "{inbound} connections, {change:?}");
        ensure!(detections(&change, "inbound") >= inbound as f64, "{inbound} connections, not all judged");
        pair.works()
    });
}

#[test]
fn garbage_from_other_pods_where_plaintext_is_let_in() {
    story("garbage-plain", |mesh| {
        let pair = Pair::start(mesh, |yaml| {
            yaml["inbound"]["mode"] = "permissive".into();
            yaml["timeouts"]["headerRead"] = "500ms".into();
        })?;
        let outsider = mesh.pod("outsider.shop").start()?;
        let before = pair.server.metrics()?;
        let taken = attack(&outsider, SocketAddr::new(pair.orders.ip(), 8080), 6000)?;
        let change = pair.server.metrics()?.since(&before);
        ensure!(detections(&change, "inbound") >= taken as f64, "{taken} connections: {change:?}");
        pair.works()
    });
}

#[test]
fn garbage_from_the_own_application() {
    story("garbage-out", |mesh| {
        let pair = Pair::start(mesh, |yaml| {
            yaml["timeouts"]["headerRead"] = "500ms".into();
            yaml["timeouts"]["handshake"] = "1s".into();
        })?;
        let before = pair.client.metrics()?;
        let mut ports = vec![pair.service()?];
        for port in [15000, 15001, 15006, 15020, 15021, 15053] {
            ports.push(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        }
        for (n, to) in ports.into_iter().enumerate() {
            let taken = attack(&pair.web, to, 10_000 + 1000 * n as u64)?;
            ensure!(taken > RANDOM, "{to} took {taken} connections");
        }
        let change = pair.client.metrics()?.since(&before);
        ensure!(accepted(&change, "outbound") > 2.0 * RANDOM as f64, "{change:?}");
        let direct = [("outcome", "not_redirected")];
        for direction in ["outbound", "inbound"] {
            let labels = [direct[0], ("direction", direction)];
            ensure!(change.sum("weft_protocol_detections_total", &labels) > RANDOM as f64, "{direction}");
        }
        pair.works()?;
        for sidecar in [&pair.client, &pair.server] {
            eventually("every connection to be closed", SOON, || {
                let open = sidecar.admin("/connections")?.json()?;
                let odd = open["connections"]
                    .as_array()
                    .is_none_or(|list| list.iter().any(|one| one["protocol"] != "weft/http"));
                Ok((!odd).then_some(()))
            })?;
        }
        Ok(())
    });
}

#[test]
fn garbage_at_the_ca() {
    story("garbage-ca", |mesh| {
        let outsider = mesh.pod("outsider.shop").start()?;
        let taken = attack(&outsider, mesh.ca()?.address_for(&outsider), 30_000)?;
        ensure!(taken > RANDOM, "the CA took {taken} connections");
        // It signs for whoever comes with a token afterwards, as if nothing had been.
        Pair::start(mesh, |_| ())?.works()
    });
}

#[test]
fn garbage_as_dns() {
    story("garbage-dns", |mesh| {
        let pair = Pair::start(mesh, |_| ())?;
        let before = pair.client.metrics()?;
        let mut packets = dns();
        packets.extend((0..300).map(|n| random(20_000 + n)));
        let total = packets.len();
        // To the server of resolv.conf, which is captured, and to the proxy's own port.
        let targets = [SocketAddr::new(mesh.dns().pod().ip(), 53), "127.0.0.1:15053".parse()?];
        pair.web.run(async || {
            for to in targets {
                let socket = UdpSocket::bind("0.0.0.0:0").await?;
                for packet in &packets {
                    socket.send_to(packet, to).await?;
                    // Answers, if any, are read along, so that no buffer fills up.
                    let mut answer = [0; 4096];
                    let wait = tokio::time::timeout(Duration::from_millis(1), socket.recv(&mut answer));
                    let _ = wait.await;
                }
                for packet in dns() {
                    // With the length that it has, with none, and with one that is a lie.
                    let length = u16::try_from(packet.len()).unwrap_or(u16::MAX);
                    for told in [length, 0, u16::MAX] {
                        exchange(to, &[&told.to_be_bytes()[..], &packet].concat()).await?;
                    }
                }
            }
            Ok(())
        })?;
        eventually("all packets to be counted", SOON, || {
            let change = pair.client.metrics()?.since(&before);
            let bad = change.sum("weft_dns_queries_total", &[("outcome", "malformed")])
                + change.sum("weft_dns_queries_total", &[("outcome", "rejected")]);
            // Both targets; a few samples are queries after all.
            Ok((bad > 2.0 * (total as f64 - 20.0)).then_some(()))
        })?;
        ensure!(pair.web.lookup("orders.shop.svc.cluster.local", "A")?.code == "NoError");
        ensure!(pair.web.lookup("nobody.shop.svc.cluster.local", "A")?.code == "NXDomain");
        pair.works()
    });
}
