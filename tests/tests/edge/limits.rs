//! What a client may send, and how many may come at once.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use anyhow::{Result, ensure};
use weft_testbed::{Gateway, Teller, eventually};

use super::doors::{PATIENCE, all, backend, connect_from, curl, field, gateway, route};

const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: a.shop.test\r\n\r\n";

/// A backend that keeps what it hears and never answers.
fn listener() -> Result<(SocketAddr, Arc<Mutex<Vec<u8>>>)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let (addr, heard) = (listener.local_addr()?, Arc::<Mutex<Vec<u8>>>::default());
    let of = Arc::clone(&heard);
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let of = Arc::clone(&of);
            thread::spawn(move || {
                let mut buffer = [0; 4096];
                while let Ok(read @ 1..) = stream.read(&mut buffer) {
                    of.lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .extend_from_slice(buffer.get(..read).unwrap_or_default());
                }
            });
        }
    });
    Ok((addr, heard))
}

pub(crate) fn connect(gateway: &Gateway, port: u16) -> Result<TcpStream> {
    connect_from("127.0.0.1".parse()?, gateway.at(port))
}

#[test]
fn a_body_beyond_the_limit_is_refused_before_the_backend_has_more() -> Result<()> {
    let teller = Teller::start("teller")?;
    let (silent, heard) = listener()?;
    let resources = [
        backend("teller", teller.addr, ""),
        backend("silent", silent, ""),
        route("HTTPRoute", "tls", &["shop"], "teller"),
        route("HTTPRoute", "web", &["web"], "silent"),
    ];
    let gateway = gateway(&resources, &[("WEFT_GATEWAY_LIMITS_REQUEST_BODY", "1000")])?;
    for (file, octets) in [("fits", 1000), ("large", 1001)] {
        std::fs::write(gateway.dir().join(file), "x".repeat(octets))?;
    }
    let tls = gateway.at(8443);
    for version in ["--http1.1", "--http2"] {
        for framing in [&[][..], &["-H", "transfer-encoding: chunked"]] {
            let send = |file| {
                let fixed = [version, "-X", "POST", "--data-binary", file];
                curl(&gateway, tls, "/", &[&fixed, framing].concat())
            };
            let said = send("@fits")?;
            ensure!(
                said.contains(" 200") && said.ends_with(&"x".repeat(1000)),
                "{version} {framing:?}: {said}"
            );
            // This curl takes the reset behind an early answer for a failure if it has not sent all (RFC 9113 section 8.1
            // lets servers send one); it asks again then.
            let said = eventually("an answer", PATIENCE, || match send("@large") {
                Err(error) if version == "--http2" && error.to_string().contains("(92)") => Ok(None),
                answered => answered.map(Some),
            })?;
            ensure!(said.contains(" 413"), "{version} {framing:?}: {said}");
            ensure!(field(&said, "weft-error") == Some("body-too-large"), "{said}");
        }
    }
    // The backend waits for more, and the client is told all the same; another request finds the way free.
    let mut client = connect(&gateway, 8080)?;
    client.write_all(b"POST / HTTP/1.1\r\nhost: a.shop.test\r\ntransfer-encoding: chunked\r\n\r\n")?;
    let chunk = format!("96\r\n{}\r\n", "y".repeat(150));
    client.write_all(chunk.as_bytes())?;
    let octets = || {
        let heard = heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.iter().filter(|octet| **octet == b'y').count()
    };
    eventually("the backend to have the first of it", PATIENCE, || Ok((octets() == 150).then_some(())))?;
    for _ in 0..7 {
        // It may be over before that.
        let _ = client.write_all(chunk.as_bytes());
    }
    let said = all(&mut client)?;
    ensure!(said.starts_with("HTTP/1.1 413 "), "{said}");
    ensure!((150..=1000).contains(&octets()), "{}", octets());
    Ok(())
}

#[test]
fn heads_that_are_too_large_have_their_statuses_in_both_versions() -> Result<()> {
    let teller = Teller::start("teller")?;
    let resources =
        [backend("teller", teller.addr, ""), route("HTTPRoute", "all", &["web", "shop"], "teller")];
    let fields = [
        ("WEFT_LIMITS_MAX_TARGET_BYTES", "1KiB"),
        ("WEFT_LIMITS_MAX_HEADER_BYTES", "8KiB"),
        ("WEFT_LIMITS_MAX_HEADERS", "10"),
    ];
    let gateway = gateway(&resources, &fields)?;
    let at = gateway.at(8443);
    let long = format!("/{}", "a".repeat(1023));
    let large = format!("x-large: {}", "a".repeat(8300));
    let many: Vec<String> = (0..11).map(|n| format!("x-{n}: 1")).collect();
    let many: Vec<&str> = many.iter().flat_map(|header| ["-H", header.as_str()]).collect();
    for version in ["--http1.1", "--http2"] {
        ensure!(curl(&gateway, at, &long, &[version])?.contains(" 200"), "{version}: just so long");
        for (path, args, status, code) in [
            (format!("{long}a"), &[][..], " 414", Some("target-too-long")),
            (format!("/?{}", "a".repeat(2000)), &[], " 414", Some("target-too-long")),
            ("/".to_owned(), &many, " 431", Some("headers-too-large")),
            ("/".to_owned(), &["-H", &large], " 431", None),
        ] {
            let said = curl(&gateway, at, &path, &[&[version], args].concat())?;
            let first = said.lines().next().unwrap_or_default();
            ensure!(first.contains(status), "{version} {status}: {said}");
            ensure!(code.is_none() || field(&said, "weft-error") == code, "{version}: {said}");
        }
    }
    Ok(())
}

pub(crate) fn open(gateway: &Gateway) -> Result<f64> {
    gateway.metric("weft_accepted_connections_active{listener=\"gateway\"}")
}

#[test]
fn a_flood_of_connections_is_cut_and_those_that_are_there_go_on() -> Result<()> {
    const MOST: usize = 30;
    const WORKERS: usize = 2;
    const FLOOD: usize = 300;
    let teller = Teller::start("teller")?;
    let resources =
        [backend("teller", teller.addr, ""), route("HTTPRoute", "all", &["web", "shop"], "teller")];
    let gateway = gateway(&resources, &[("WEFT_LIMITS_MAX_CONNECTIONS", "30")])?;
    let mut kept = connect(&gateway, 8080)?;
    let ask = |kept: &mut TcpStream| -> Result<()> {
        let mut buffer = [0; 4096];
        kept.write_all(GET)?;
        let read = kept.read(&mut buffer)?;
        let said = String::from_utf8_lossy(buffer.get(..read).unwrap_or_default()).into_owned();
        ensure!(said.starts_with("HTTP/1.1 200 "), "{said}");
        Ok(())
    };
    ask(&mut kept)?;
    let clients: Vec<TcpStream> = (0..FLOOD).filter_map(|_| connect(&gateway, 8080).ok()).collect();
    let limited = || gateway.metric("weft_accept_errors_total{listener=\"gateway\",reason=\"limit\"}");
    let least = (FLOOD - MOST * WORKERS) as f64;
    eventually("the flood to be cut", PATIENCE, || Ok((limited()? >= least).then_some(())))?;
    ensure!(open(&gateway)? <= (MOST * WORKERS) as f64, "{}", open(&gateway)?);
    let mut cut = 0;
    for mut client in &clients {
        client.set_nonblocking(true)?;
        match client.read(&mut [0; 16]) {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            _ => cut += 1,
        }
    }
    ensure!(cut + MOST * WORKERS >= clients.len(), "the others are told at once");
    ask(&mut kept)?;
    drop(clients);
    eventually("there to be room again", PATIENCE, || {
        let mut client = connect(&gateway, 8080)?;
        Ok(ask(&mut client).ok())
    })
}
