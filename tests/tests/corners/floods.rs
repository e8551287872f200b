//! Clients that are too slow, and clients that are too fast.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use weft_testbed::frames::{self, CALM, connection, frame, get_request};
use weft_testbed::{Mesh, Pod, story};

use crate::{Pair, SOON};

/// Both doors: outbound from the own application, and inbound from a pod without a sidecar.
fn doors(mesh: &Mesh) -> Result<(Pair, [(Pod, SocketAddr); 2])> {
    let pair = Pair::start(mesh, |yaml| {
        yaml["inbound"]["mode"] = "permissive".into();
        yaml["timeouts"]["headerRead"] = "300ms".into();
        yaml["timeouts"]["handshake"] = "1s".into();
    })?;
    let outsider = mesh.pod("outsider.shop").start()?;
    let inbound = SocketAddr::new(pair.orders.ip(), 8080);
    let doors = [(pair.web.clone(), pair.service()?), (outsider, inbound)];
    Ok((pair, doors))
}

/// Sends `first`, then `drop` again and again, until the other side closes. How often it was sent.
async fn trickle(to: SocketAddr, first: &[u8], drop: &[u8]) -> Result<usize> {
    let mut stream = TcpStream::connect(to).await.context("connecting")?;
    stream.write_all(first).await.context("the beginning")?;
    let mut buffer = [0; 4096];
    let work = async {
        let mut sent = 0;
        loop {
            let next = tokio::time::timeout(Duration::from_millis(20), stream.read(&mut buffer));
            match next.await {
                Ok(Ok(0) | Err(_)) => return sent,
                Ok(Ok(_)) => {}
                Err(_) => {
                    if stream.write_all(drop).await.is_err() {
                        return sent;
                    }
                    sent += 1;
                }
            }
        }
    };
    tokio::time::timeout(SOON, work).await.context("a slow client was never cut off")
}

#[test]
fn a_head_that_never_ends_is_cut_off() {
    story("slowloris", |mesh| {
        let (pair, doors) = doors(mesh)?;
        for (from, to) in &doors {
            for (what, first) in [
                ("at once", &b"GET / HTTP/1.1\r\nhost: orders.shop\r\n"[..]),
                ("after a request", b"GET / HTTP/1.1\r\nhost: orders.shop\r\n\r\nGET / HTTP/1.1\r\n"),
            ] {
                let sent = from.run(async || trickle(*to, first, b"x: y\r\n").await)?;
                ensure!(sent > 0, "{what}: closed before anything was slow");
            }
        }
        // The same in TLS: a ClientHello byte by byte.
        let (from, to) = &doors[1];
        from.run(async || trickle(*to, &[22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3], &[0]).await)?;
        pair.works()
    });
}

/// A slow body is no slow head: it has all the time it wants.
#[test]
fn a_slow_body_is_not_cut_off() {
    story("slow-body", |mesh| {
        let (pair, doors) = doors(mesh)?;
        for (from, to) in &doors {
            let answer = from.run(async || {
                let mut stream = TcpStream::connect(*to).await?;
                let head = b"POST /count HTTP/1.1\r\nhost: orders.shop\r\ncontent-length: 40\r\nconnection: close\r\n\r\n";
                stream.write_all(head).await?;
                for _ in 0..40 {
                    // All in all more than three times the limit for heads.
                    tokio::time::sleep(Duration::from_millis(25)).await;
                    stream.write_all(b"x").await?;
                }
                let mut answer = String::new();
                stream.read_to_string(&mut answer).await?;
                Ok(answer)
            })?;
            ensure!(answer.contains("200 OK") && answer.contains("40 "), "{answer}");
        }
        pair.works()
    });
}

/// Writes an HTTP/2 connection and reads it to its end. The reason of the GOAWAY, if there was one.
async fn flood(to: SocketAddr, frames: &[u8]) -> Result<Option<u32>> {
    let mut stream = TcpStream::connect(to).await.context("connecting")?;
    let mut received = Vec::new();
    let work = async {
        let (mut read, mut write) = stream.split();
        let send = async {
            // No half-close: it is the server that has to end this.
            let _ = write.write_all(&connection(frames)).await;
        };
        let receive = async {
            let _ = read.read_to_end(&mut received).await;
        };
        tokio::join!(send, receive);
    };
    tokio::time::timeout(SOON, work).await.context("a flood was never cut off")?;
    Ok(frames::goaway(&received))
}

#[test]
fn rapid_reset_is_cut_off() {
    story("rapid-reset", |mesh| {
        let (pair, doors) = doors(mesh)?;
        let attack = frames::rapid_reset(20_000, "orders.shop");
        for (from, to) in &doors {
            let reason = from.run(async || flood(*to, &attack).await)?;
            // The reset that follows unread input may overtake the GOAWAY on its way to the client.
            ensure!(reason.is_none_or(|reason| reason == CALM), "{to}: {reason:?}");
        }
        let before = pair.server.metrics()?;
        pair.works()?;
        let served = before.sum("http_server_request_duration_seconds_count", &[]);
        ensure!(served < 20_000.0, "{served} requests of 40,000 reached the application's side");
        Ok(())
    });
}

#[test]
fn other_floods_are_cut_off() {
    story("h2-floods", |mesh| {
        let (pair, doors) = doors(mesh)?;
        let attacks = frames::floods("orders.shop");
        for (from, to) in &doors {
            for (what, attack) in &attacks {
                let reason =
                    from.run(async || flood(*to, attack).await).with_context(|| format!("{what} to {to}"))?;
                // The reset that follows unread input may overtake the GOAWAY on its way to the client.
                ensure!(reason.is_none_or(|reason| reason == CALM), "{what} to {to}: {reason:?}");
            }
        }
        let resident = pair.client.metrics()?.sum("process_resident_memory_bytes", &[]);
        ensure!(resident < 300e6, "{resident} bytes of memory after the floods");
        pair.works()
    });
}

/// Clients that open a connection, say little or nothing, and stay: `timeouts.idle` ends them, polite or not.
#[test]
fn clients_that_say_nothing_more_are_closed() {
    story("idle", |mesh| {
        let pair = Pair::start(mesh, |yaml| {
            yaml["inbound"]["mode"] = "permissive".into();
            yaml["timeouts"]["idle"] = "1s".into();
        })?;
        let outsider = mesh.pod("outsider.shop").start()?;
        let inbound = SocketAddr::new(pair.orders.ip(), 8080);
        let silent = [
            ("HTTP/1", b"GET / HTTP/1.1\r\nhost: orders.shop\r\n\r\n".to_vec()),
            // It never acknowledges settings, and never answers the ping of a graceful end.
            ("HTTP/2", connection(&[])),
            ("HTTP/2, half a frame", connection(&[0, 0, 8])),
            ("HTTP/2, half a head", connection(&frame(1, 1, 1, &get_request("orders.shop")))),
        ];
        for (from, to) in [(&pair.web, pair.service()?), (&outsider, inbound)] {
            for (what, bytes) in &silent {
                let end = from.run(async || {
                    let mut stream = TcpStream::connect(to).await?;
                    stream.write_all(bytes).await?;
                    let mut answer = Vec::new();
                    Ok(tokio::time::timeout(SOON, stream.read_to_end(&mut answer)).await.is_ok())
                })?;
                ensure!(end, "{what} to {to} stays open");
            }
        }
        pair.works()
    });
}

/// The ports for scrapers and probes are open to the network: they must not be a way to the process's descriptors.
#[test]
fn scrapers_and_probes_cannot_be_held_open() {
    story("slow-scrape", |mesh| {
        let pair = Pair::start(mesh, |_| ())?;
        let outsider = mesh.pod("outsider.shop").start()?;
        let ip = pair.orders.ip();
        let slow = async |port| {
            let head = b"GET /metrics HTTP/1.1\r\nhost: a\r\n";
            let ended = trickle(SocketAddr::new(ip, port), head, b"x: y\r\n").await;
            ended.with_context(|| format!("port {port}"))
        };
        outsider.run(async || tokio::try_join!(slow(15020), slow(15021)))?;
        // Many that say nothing: a probe still gets its answer, at once.
        let (close, closed) = tokio::sync::oneshot::channel::<()>();
        let holding = outsider.start(async move || {
            let mut held = Vec::new();
            for _ in 0..600 {
                held.push(TcpStream::connect(SocketAddr::new(ip, 15021)).await);
            }
            let _ = closed.await;
            Ok(held.len())
        })?;
        let url = format!("http://{}/ready", SocketAddr::new(ip, 15021));
        for _ in 0..20 {
            ensure!(pair.web.get(&url)?.status == 200, "a probe among many silent clients");
        }
        let descriptors = pair.server.metrics()?.sum("process_open_fds", &[]);
        ensure!(descriptors < 300.0, "{descriptors} descriptors");
        let _ = close.send(());
        holding.join()?;
        pair.works()
    });
}
